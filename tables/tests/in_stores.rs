//! Tables in stores are what the same files are on this machine.

#[path = "../../stores/tests/servers/mod.rs"]
mod servers;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use servers::{folder, servers, settings};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::Category;
use twotower_stores::{Condition, Store, StoreSettings, Stores};
use twotower_tables::{FingerprintKind, OneOrMany, ReadOptions, SeenFiles, Table, TableError, TableSpec};

/// A table of several row groups and pages, of columns that take unlike room.
fn parquet(rows: std::ops::Range<i64>) -> Vec<u8> {
    let text = |row: i64| format!("{:x}", row.wrapping_mul(0x9E37_79B9_7F4A_7C15u64 as i64)).repeat(3);
    let columns: [(&str, ArrayRef); 4] = [
        ("v", Arc::new(Int64Array::from_iter_values(rows.clone()))),
        ("text", Arc::new(StringArray::from_iter_values(rows.clone().map(text)))),
        ("few", Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("city {}", row % 9))))),
        ("w", Arc::new(Int64Array::from_iter_values(rows.map(|row| row * row % 1_000_003)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(20_000))
        .set_data_page_size_limit(16 << 10)
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn csv(rows: std::ops::Range<i64>) -> Vec<u8> {
    let lines = rows.map(|row| format!("{row},\"line\n{row}\",city {}\n", row % 9));
    format!("v,text,few\n{}", lines.collect::<String>()).into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// The files, on this machine and in a bucket.
fn put(dir: &Path, store: &Store, prefix: &str, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
        let mut upload = store.upload(&format!("{prefix}/{name}")).unwrap();
        upload.write_all(bytes).unwrap();
        upload.finish().unwrap();
    }
}

/// All that a table says: its files below `root`, its columns, rows and values.
fn told(root: &str, spec: &TableSpec) -> Result<Vec<String>, TableError> {
    let table = Table::open("t", spec)?;
    let name = |path: &Path| path.to_str().unwrap().strip_prefix(root).unwrap().trim_start_matches('/').to_string();
    let mut told: Vec<String> = table.paths().map(name).collect();
    told.push(format!("{} skipped, {:?}, {} rows", table.skipped(), table.columns(), table.rows()?));
    let columns: Vec<String> = table.columns().iter().map(|column| column.name.clone()).collect();
    let rows = table.rows()?;
    // From the start, from the middle of a row group, and a few rows near the end.
    for range in [0..rows, rows / 3..rows / 3 + 5000, rows.saturating_sub(7)..u64::MAX] {
        for batch in table.read_within(ReadOptions { columns: &columns, rows: range, batch_rows: 1000 }, 1 << 20)? {
            told.extend(text_of(&batch?.batch));
        }
    }
    let options = ReadOptions { columns: &columns[..1], rows: 0..u64::MAX, batch_rows: 1000 };
    let parts: Vec<_> = table.parts(options, 3000, 1 << 20)?.collect::<Result<_, _>>()?;
    let read = std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(move || part.map(|batch| Ok(text_of(&batch?.batch))).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Result<Vec<_>, TableError>>()
    });
    told.extend(read?.into_iter().flatten());
    Ok(told)
}

fn text_of(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let printers: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let row = |row: usize| printers.iter().map(|p| p.value(row).to_string()).collect::<Vec<_>>().join(" ");
    (0..batch.num_rows()).map(row).collect()
}

#[test]
fn a_path_in_a_store_means_what_it_means_on_this_machine() {
    let Some(servers) = servers() else { return };
    let files = [
        ("p/dt=2026-01-30/a.parquet", parquet(0..50_000)),
        ("p/dt=2026-01-31/b.parquet", parquet(50_000..60_000)),
        ("p/dt=2026-01-31/_SUCCESS", Vec::new()),
        ("p/_temporary/0/c.parquet", parquet(0..5)),
        ("t/a.csv", csv(0..9000)),
        ("t/x/y/b.csv", csv(9000..9100)),
        ("t/x/[1].csv", csv(0..3)),
        ("g/电信 a+b%20.csv.gz", gzip(&csv(0..60_000))),
        ("j/a.jsonl", b"{\"v\":1,\"tags\":[\"a\",\"b\"]}\n{\"v\":2}\n".to_vec()),
    ];
    let small = StoreSettings { read_ahead_mib: 16, ..settings() };
    for store in servers.both() {
        let (dir, prefix) = (tempfile::tempdir().unwrap(), folder("paths"));
        put(dir.path(), &store, &prefix, &files);
        // As the console of S3 marks a folder.
        store.put(&format!("{prefix}/p_$folder$"), Vec::new(), Condition::Always).unwrap();
        let local = dir.path().to_str().unwrap();
        let remote = store.url(&prefix).to_string();
        let is_s3 = remote.starts_with("s3");
        let endpoint = Some(if is_s3 { servers.s3_endpoint() } else { servers.azure_endpoint() });
        let stores = Stores::new(StoreSettings { endpoint, ..small.clone() });
        let spec = |root: &str, paths: &[&str]| TableSpec {
            path: OneOrMany::Many(paths.iter().map(|path| format!("{root}/{path}")).collect()),
            stores: stores.clone(),
            ..TableSpec::new("")
        };
        for paths in [
            &["p"][..],
            &["p/"],
            &["p/dt=2026-01-30/a.parquet"],
            &["p/dt=*/*.parquet"],
            &["p/dt=2026-01-3[1]"],
            &["p/dt=2026-01-31", "p/dt=2026-01-30"],
            &["t"],
            &["t/**/*.csv"],
            &["t/**"],
            &["t/x/[1].csv"],
            &["t/*/[!y]*.csv"],
            &["*/a.csv"],
            &["g/*.gz"],
            &["j"],
        ] {
            let expected = told(local, &spec(local, paths)).unwrap();
            let found = told(&remote, &spec(&remote, paths)).unwrap();
            assert!(expected.len() > 5, "{paths:?}: {expected:?}");
            let differ = expected.iter().zip(&found).find(|(a, b)| a != b);
            assert!(expected == found, "{remote} {paths:?}: {differ:?}, {} and {}", expected.len(), found.len());
        }
        for (paths, code, said) in [
            (&["none"][..], 3, "no file matches"),
            (&["t/*.parquet"], 3, "no file matches"),
            (&["p/_temporary"], 0, ""),
            (&["t/a.csv", "t/*.csv"], 3, "are one file"),
            (&["t", "p/dt=2026-01-30"], 2, "unlike formats"),
            (&["t/x[.csv"], 2, "path"),
        ] {
            let results =
                [(local, dir.path()), (&remote, Path::new(&remote))].map(|(root, _)| told(root, &spec(root, paths)));
            for result in results {
                match result {
                    Ok(_) => assert_eq!(code, 0, "{paths:?}"),
                    Err(error) => {
                        assert_eq!(error.category().exit_code(), code, "{paths:?}: {error}");
                        assert!(error.to_string().contains(said), "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_object_that_is_replaced_between_two_readings_is_an_error() {
    let Some(servers) = servers() else { return };
    for store in servers.both() {
        let prefix = folder("replaced");
        let is_s3 = store.root().to_string().starts_with("s3");
        let endpoint = Some(if is_s3 { servers.s3_endpoint() } else { servers.azure_endpoint() });
        let stores = Stores::new(StoreSettings { endpoint, ..settings() });
        for (name, before, after) in
            [("a.parquet", parquet(0..500), parquet(500..1000)), ("a.csv", csv(0..500), csv(500..1000))]
        {
            let key = format!("{prefix}/{name}");
            store.put(&key, before.clone(), Condition::Always).unwrap();
            let seen = Some(SeenFiles::default());
            let spec = TableSpec { seen, stores: stores.clone(), ..TableSpec::new(store.url(&key).to_string()) };
            let table = Table::open("t", &spec).unwrap();
            let fingerprint = table.fingerprint();
            let read = |table: &Table| {
                let options = ReadOptions { columns: &["v".to_string()], rows: 0..u64::MAX, batch_rows: 100 };
                table.read(options).unwrap().collect::<Result<Vec<_>, _>>()
            };
            assert_eq!(read(&table).unwrap().iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), 500);
            let whole = TableSpec { fingerprint: FingerprintKind::Content, seen: None, ..spec.clone() };
            let content = Table::open("t", &whole).unwrap().fingerprint();
            store.put(&key, after, Condition::Always).unwrap();
            let error = Table::open("t", &spec).unwrap_err();
            assert!(error.to_string().contains("changed"), "{error}");
            let fresh = TableSpec { seen: None, ..spec.clone() };
            assert_ne!(Table::open("t", &fresh).unwrap().fingerprint(), fingerprint);
            assert_ne!(Table::open("t", &whole).unwrap().fingerprint(), content);
            let error = match name {
                // What was held of the first is whole.
                "a.parquet" => Table::open("t", &spec).unwrap_err(),
                _ => read(&table).unwrap_err(),
            };
            assert_eq!(error.category(), Category::Data, "{error}");
            store.put(&key, before, Condition::Always).unwrap();
            if is_s3 {
                assert_eq!(Table::open("t", &fresh).unwrap().fingerprint(), fingerprint, "the same bytes again");
            }
            assert_eq!(Table::open("t", &whole).unwrap().fingerprint(), content);
        }
    }
}
