//! What a path means, and that a file stays the one it was.

use arrow_array::builder::{BinaryBuilder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Int32Type};
use arrow_array::{ArrayRef, BinaryArray, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use twotower_artifacts::Category;
use twotower_tables::{FingerprintKind, OneOrMany, ReadOptions, SeenFiles, Table, TableError, TableReader, TableSpec};

/// A folder with files, written by name: `v` and the values.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, values) in files {
        write(&dir.path().join(name), values);
    }
    dir
}

fn write(path: &Path, values: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let rows: String = values.split_whitespace().map(|value| format!("{value}\n")).collect();
    fs::write(path, format!("v\n{rows}")).unwrap();
}

fn open(dir: &Path, path: &str) -> Result<Table, TableError> {
    Table::open("t", &TableSpec::new(path).resolve(dir))
}

fn reader(table: &Table, columns: &[&str]) -> TableReader {
    let columns: Vec<String> = columns.iter().map(|c| c.to_string()).collect();
    table.read(ReadOptions { columns: &columns, rows: 0..u64::MAX, batch_rows: 2 }).unwrap()
}

/// All rows of some columns as text, nulls as `-`.
fn rows(table: &Table, columns: &[&str]) -> Result<Vec<String>, TableError> {
    let options = FormatOptions::default().with_null("-");
    let mut found = Vec::new();
    for batch in reader(table, columns) {
        let batch = batch?.batch;
        let printers: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        let row = |row: usize| printers.iter().map(|p| p.value(row).to_string()).collect::<Vec<_>>().join(" ");
        found.extend((0..batch.num_rows()).map(row));
    }
    Ok(found)
}

/// The values that a path leads to, in order.
fn values(dir: &Path, path: &str) -> String {
    rows(&open(dir, path).unwrap(), &["v"]).unwrap().join(" ")
}

/// Checks that a path is refused as bad data or settings, in words that say so.
fn refused(dir: &Path, path: &str, says: &[&str]) {
    let error = open(dir, path).and_then(|table| rows(&table, &["v"])).unwrap_err();
    assert!(matches!(error.category(), Category::Data | Category::Usage), "{path}: {error}");
    let text = error.to_string();
    assert!(says.iter().all(|word| text.contains(word)), "{path}: {text}");
}

#[test]
fn a_folder_is_all_that_is_in_it_at_every_level_but_names_of_dot_and_underscore() {
    let dir = folder(&[
        ("o/b.csv", "2"),
        ("o/a.csv", "1"),
        ("o/x/c.csv", "3"),
        ("o/x/y/z/d.csv", "4"),
        ("o/_temporary/0/e.csv", "5"),
        ("o/x/.hive-staging/f.csv", "6"),
        ("o/x/.g.csv.crc", "7"),
        ("o/_SUCCESS", "8"),
    ]);
    symlink("nowhere", dir.path().join("o/x/_dangling")).unwrap();
    let table = open(dir.path(), "o").unwrap();
    assert_eq!(rows(&table, &["v"]).unwrap(), ["1", "2", "3", "4"]);
    assert_eq!((table.paths().len(), table.skipped()), (4, 5));
    for path in ["o/", "./o", "o/**", "*", "**", "[o]"] {
        assert_eq!(values(dir.path(), path), "1 2 3 4", "{path}");
    }
    // What the path names is meant.
    assert_eq!(values(dir.path(), "o/_temporary"), "5");
    assert_eq!(values(dir.path(), "o/_temp*/*/*.csv"), "5");
    assert_eq!(values(dir.path(), "o/x/.hive-staging/f.csv"), "6");
}

#[test]
fn patterns_match_files_and_folders_and_each_file_once() {
    let dir = folder(&[
        ("o/dt=1/a.csv", "1"),
        ("o/dt=2/a.csv", "2"),
        ("o/dt=2/more/b.csv", "3"),
        ("o/dt=2/_tmp/c.csv", "4"),
        ("o/top.csv", "0"),
        ("o/_old/dt=1/d.csv", "5"),
    ]);
    for (path, expected) in [
        ("o/dt=*", "1 2 3"),
        ("o/*/*.csv", "1 2"),
        ("o/*/*", "1 2 3"),
        ("o/**/*", "1 2 3 0"),
        ("o/**/a.csv", "1 2"),
        ("o/**/more", "3"),
        ("o/dt=[2-9]", "2 3"),
        ("o/dt=?/a.csv", "1 2"),
        ("o/*.csv", "0"),
        ("**/b.csv", "3"),
    ] {
        // Files of one path in folders of unlike keys are refused, which the last but two here are not.
        match open(dir.path(), path) {
            Ok(table) => assert_eq!(rows(&table, &["v"]).unwrap().join(" "), expected, "{path}"),
            Err(error) => {
                assert!(matches!(error, TableError::Partitions { .. }) && path == "o/**/*", "{path}: {error}")
            }
        }
    }
    refused(dir.path(), "o/dt=9*", &["no file matches", "dt=9*"]);
    refused(dir.path(), "o/_*/none*", &["no file matches"]);
    refused(dir.path(), "o/[", &["setting `path`"]);
    refused(dir.path(), "", &["setting `path`"]);
    let only_hidden = folder(&[("h/_SUCCESS", ""), ("h/.x.crc", "")]);
    refused(only_hidden.path(), "h", &["no file matches", "2 whose names begin with . or _"]);
}

#[test]
fn the_folder_that_paths_count_from_is_never_a_pattern() {
    for name in ["job[ab]", "job*", "job?", "[", "a**b"] {
        let dir = folder(&[("joba/t.csv", "wrong"), ("jobb/t.csv", "wrong"), ("a/t.csv", "wrong")]);
        let job = dir.path().join(name);
        write(&job.join("t.csv"), "1");
        write(&job.join("d/u.csv"), "2");
        assert_eq!(
            (values(&job, "t.csv"), values(&job, "d"), values(&job, "d/*.csv")),
            ("1".into(), "2".into(), "2".into())
        );
        refused(&job, "none.csv", &["no file matches", name]);
    }
    // A name with brackets that exists as it is written is meant as it is written.
    let dir = folder(&[("a[1].csv", "1"), ("a1.csv", "2"), ("*.csv", "3")]);
    assert_eq!(values(dir.path(), "a[1].csv"), "1");
    assert_eq!(values(dir.path(), "a[12].csv"), "2");
    assert_eq!(values(dir.path(), "[*].csv"), "3");
    assert_eq!(values(dir.path(), "*.csv"), "3 2 1");
}

/// What it puts into a folder, and what the refusal says.
type Case = (fn(&Path), &'static [&'static str]);

#[test]
fn what_cannot_be_read_is_an_error_and_never_left_out() {
    let spoilt = |spoil: fn(&Path)| {
        let dir = folder(&[("o/a.csv", "1")]);
        spoil(&dir.path().join("o"));
        dir
    };
    let cases: [Case; 9] = [
        (|o| symlink("gone.csv", o.join("b.csv")).unwrap(), &["b.csv", "link to nothing"]),
        (|o| symlink(o, o.join("self")).unwrap(), &["self", "link to a folder that it lies in"]),
        (|o| drop(UnixListener::bind(o.join("s.csv")).unwrap()), &["s.csv", "is a socket"]),
        (|o| assert!(Command::new("mkfifo").arg(o.join("f.csv")).status().unwrap().success()), &["f.csv", "is a FIFO"]),
        (|o| write(&o.join("README"), "x"), &["README", "cannot tell the format"]),
        (|o| write(&o.join("b.csv.xz"), "x"), &["b.csv.xz", "compressed by xz"]),
        (|o| write(&o.join("deep/er/notes.txt"), "x"), &["notes.txt", "unlike formats"]),
        (|o| fs::hard_link(o.join("a.csv"), o.join("b.csv")).unwrap(), &["a.csv", "b.csv", "are one file"]),
        (|o| symlink("a.csv", o.join("latest.csv")).unwrap(), &["a.csv", "latest.csv", "are one file"]),
    ];
    for (spoil, says) in cases {
        let dir = spoilt(spoil);
        refused(dir.path(), "o", says);
        refused(dir.path(), "*", says);
    }
    let dir = folder(&[("o/a.csv", "1")]);
    let twice = OneOrMany::Many(vec!["o/a.csv".into(), "o/*.csv".into()]);
    let error = Table::open("t", &TableSpec { path: twice, ..TableSpec::new("").resolve(dir.path()) }).unwrap_err();
    assert!(matches!(error, TableError::Twice { .. }), "{error}");
    // A link elsewhere is followed.
    let linked = folder(&[("real/x/a.csv", "1"), ("o/b.csv", "2")]);
    symlink("../real/x", linked.path().join("o/link")).unwrap();
    assert_eq!(values(linked.path(), "o"), "2 1");
}

#[test]
fn text_that_is_damaged_compressed_otherwise_or_in_utf_16_is_called_that() {
    let utf_16: Vec<u8> = "v\n1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let contents: [(&[u8], &str); 7] = [
        (&[0x1F, 0x8B, 8, 0, 0], "gzip"),
        (&[0x28, 0xB5, 0x2F, 0xFD, 0], "zstd"),
        (b"BZh91AY", "bzip2"),
        (b"PK\x03\x04", "zip"),
        (b"PAR1....PAR1", "Parquet"),
        (&[b"\xFF\xFE", &utf_16[..]].concat(), "UTF-16"),
        (&utf_16, "UTF-16"),
    ];
    for (content, says) in contents {
        for name in ["a.csv", "a.jsonl"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), content).unwrap();
            refused(dir.path(), name, &[name, says]);
        }
    }
}

#[test]
fn partition_folders_are_typed_columns() {
    let dir = folder(&[
        ("o/dt=2026-01-02/hour=7/shop=a%2Fb/zip=01/a.csv", "1 2 3"),
        ("o/dt=2026-01-01/hour=12/shop=c/zip=2/b.csv", "4"),
        ("o/dt=2026-01-03/hour=__HIVE_DEFAULT_PARTITION__/shop=/zip=3/c.csv", "5"),
    ]);
    let table = open(dir.path(), "o").unwrap();
    let types: Vec<String> = table.columns().iter().map(|c| format!("{} {}", c.name, c.data_type)).collect();
    assert_eq!(types, ["v Utf8", "dt Date32", "hour Int64", "shop Utf8", "zip Utf8"]);
    let expected = [
        "c 4 2026-01-01 12 2",
        "a/b 1 2026-01-02 7 01",
        "a/b 2 2026-01-02 7 01",
        "a/b 3 2026-01-02 7 01",
        "- 5 2026-01-03 - 3",
    ];
    assert_eq!(rows(&table, &["shop", "v", "dt", "hour", "zip"]).unwrap(), expected);
    // Columns of folders alone, and any range of rows.
    assert_eq!(rows(&table, &["zip", "dt"]).unwrap()[1..3], ["01 2026-01-02", "01 2026-01-02"]);
    let columns = ["dt".to_string(), "v".to_string()];
    let read = ReadOptions { columns: &columns, rows: 2..5, batch_rows: 10 };
    let batches: Vec<_> = table.read(read).unwrap().map(Result::unwrap).collect();
    let days: Vec<i32> =
        batches.iter().flat_map(|b| b.batch.column(0).as_primitive::<Date32Type>().values()).copied().collect();
    assert_eq!(days, [20455, 20455, 20456]);
    // Values are of all files: one that is no date makes a column of text.
    write(&dir.path().join("o/dt=soon/hour=1/shop=c/zip=2/d.csv"), "6");
    let table = open(dir.path(), "o").unwrap();
    assert_eq!(table.column("dt").unwrap().data_type, DataType::Utf8);
    // The pattern's own folders count, and those of the folder that paths count from do not.
    let table = open(&dir.path().join("o/dt=2026-01-02"), "hour=7/shop=*").unwrap();
    let names: Vec<_> = table.columns().iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["v", "hour", "shop", "zip"]);
}

#[test]
fn files_of_one_path_lie_in_folders_of_the_same_keys() {
    let dir = folder(&[("o/a.csv", "1"), ("o/dt=1/b.csv", "2"), ("p/dt=1/dt=2/c.csv", "3")]);
    refused(dir.path(), "o", &["a.csv lies in folders of no key", "b.csv in folders of the keys `dt`"]);
    refused(dir.path(), "p", &["two folders of the key `dt`"]);
    // Two paths may differ, but not in a column that is read.
    let both = OneOrMany::Many(vec!["o/dt=*".into(), "o/*.csv".into()]);
    let table = Table::open("t", &TableSpec { path: both, ..TableSpec::new("").resolve(dir.path()) }).unwrap();
    assert_eq!(rows(&table, &["v"]).unwrap(), ["2", "1"]);
    let columns = ["dt".to_string()];
    let error = table.read(ReadOptions { columns: &columns, rows: 0..9, batch_rows: 2 }).err().unwrap();
    assert!(matches!(&error, TableError::MissingColumn { path, .. } if path.ends_with("o/a.csv")), "{error}");
}

#[test]
fn a_column_that_stands_in_the_file_too_must_say_what_the_folder_says() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("o/dt=2026-01-01/n=7/a.csv", "v,dt,n\n1,2026-01-01,7\n2,2026-01-01,7\n");
    let table = open(dir.path(), "o").unwrap();
    assert_eq!(rows(&table, &["v", "dt", "n"]).unwrap(), ["1 2026-01-01 7", "2 2026-01-01 7"]);
    write("o/dt=2026-01-01/n=7/a.csv", "v,dt,n\n1,2026-01-01,7\n2,2026-01-02,\n");
    let table = open(dir.path(), "o").unwrap();
    assert_eq!(rows(&table, &["v"]).unwrap(), ["1", "2"]);
    for (column, found) in [("dt", "`2026-01-02`"), ("n", "null")] {
        let error = rows(&table, &[column]).unwrap_err();
        let expected =
            format!("column `{column}` in {}/o/dt=2026-01-01/n=7/a.csv at line 3 is {found}", dir.path().display());
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

/// Sets a file's time of change of content.
fn set_modified(path: &Path, time: SystemTime) {
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn an_edit_that_keeps_size_and_time_changes_the_fingerprint() {
    let dir = folder(&[("o/a.csv", "1"), ("o/b.csv", "2")]);
    let path = dir.path().join("o/b.csv");
    let print = |kind| {
        let spec = TableSpec { fingerprint: kind, ..TableSpec::new("o").resolve(dir.path()) };
        Table::open("t", &spec).unwrap().fingerprint()
    };
    let both = || [FingerprintKind::Quick, FingerprintKind::Content].map(print);
    let (before, time) = (both(), fs::metadata(&path).unwrap().modified().unwrap());
    write(&path, "3");
    set_modified(&path, time);
    let edited = both();
    assert!(before[0] != edited[0] && before[1] != edited[1]);
    // Times count for the quick one alone.
    write(&path, "2");
    set_modified(&path, time + Duration::from_secs(5));
    let touched = both();
    assert!(before[0] != touched[0] && before[1] == touched[1]);
    // A value that stands in a folder's name counts as content.
    let dt = |value: &str| open(dir.path(), &format!("o/{value}")).unwrap().fingerprint();
    for name in ["dt=1", "dt=2"] {
        fs::create_dir(dir.path().join("o").join(name)).unwrap();
        assert!(
            Command::new("cp").arg("-p").arg(&path).arg(dir.path().join("o").join(name)).status().unwrap().success()
        );
    }
    assert_ne!(dt("dt=1"), dt("dt=2"));
}

#[test]
fn of_a_large_table_a_fingerprint_of_content_alone_covers_all() {
    let dir = folder(&[("a.csv", "1")]);
    let path = dir.path().join("a.csv");
    fs::File::options().write(true).open(&path).unwrap().set_len(100 << 20).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let edit = |at: u64, byte: u8| {
        use std::os::unix::fs::FileExt;
        fs::File::options().write(true).open(&path).unwrap().write_all_at(&[byte], at).unwrap();
        set_modified(&path, time);
    };
    let print = |kind| Table::open("t", &TableSpec { fingerprint: kind, ..TableSpec::new(path.to_str().unwrap()) });
    let both = || [FingerprintKind::Quick, FingerprintKind::Content].map(|kind| print(kind).unwrap().fingerprint());
    edit(50_000_000, 0);
    let before = both();
    edit(50_000_000, 1);
    let edited = both();
    assert!(before[0] == edited[0] && before[1] != edited[1]);
    edit((100 << 20) - 1000, 1);
    assert!(both()[0] != edited[0]);
}

/// Writes a batch as Parquet without what Arrow says of its types.
fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>, dictionary: bool) {
    let fields: Vec<Field> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, a)| a).collect()).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(dictionary).build();
    let options = parquet::arrow::arrow_writer::ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(fs::File::create(path).unwrap(), schema, options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A table of six rows in a format; the values have the same length whatever `first` is.
fn six_rows(path: &Path, first: char) {
    let values: Vec<String> = (0..6).map(|n| format!("{first}{n}")).collect();
    match path.extension().unwrap().to_str().unwrap() {
        "parquet" => parquet(path, vec![("v", Arc::new(StringArray::from(values)))], false),
        "jsonl" => fs::write(path, values.iter().map(|v| format!("{{\"v\": \"{v}\"}}\n")).collect::<String>()).unwrap(),
        _ => fs::write(path, "v\n".to_string() + &values.join("\n") + "\n").unwrap(),
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_ends_the_reading() {
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 6] = [
        ("another in its place", |path| {
            let new = path.with_file_name("new").with_extension(path.extension().unwrap());
            six_rows(&new, 'b');
            fs::rename(new, path).unwrap();
        }),
        ("written to, its time set back", |path| {
            let time = fs::metadata(path).unwrap().modified().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            six_rows(path, 'b');
            set_modified(path, time);
        }),
        ("longer", |path| {
            use std::io::Write;
            fs::File::options().append(true).open(path).unwrap().write_all(b"\n").unwrap();
        }),
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("a FIFO", |path| {
            fs::remove_file(path).unwrap();
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("a link to another", |path| {
            let other = path.with_file_name("other").with_extension(path.extension().unwrap());
            six_rows(&other, 'b');
            fs::remove_file(path).unwrap();
            symlink(other, path).unwrap();
        }),
    ];
    for format in ["csv", "parquet", "jsonl"] {
        for (name, change) in changes {
            // Before the first batch, within, and when all but the end has been read.
            for batches in [0, 1, 3] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join(format!("t.{format}"));
                six_rows(&path, 'a');
                let table = open(dir.path(), path.to_str().unwrap()).unwrap();
                table.rows().unwrap();
                let mut reader = reader(&table, &["v"]);
                let read = (0..batches).map(|_| reader.next().unwrap().unwrap().batch.num_rows()).sum::<usize>();
                assert_eq!(read, 2 * batches);
                change(&path);
                let rest: Result<Vec<_>, _> = reader.collect();
                let error = rest.err().unwrap_or_else(|| panic!("{format}: {name} after {batches} batches: no error"));
                assert_eq!(error.category(), Category::Data, "{error}");
                assert!(error.to_string().contains(&format!("t.{format}")), "{error}");
                // So it is for whoever reads the same table later.
                assert!(rows(&table, &["v"]).is_err(), "{format}: {name}");
            }
        }
    }
}

#[test]
fn the_tables_of_a_job_stay_what_they_were_when_they_were_first_read() {
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 4] = [
        ("c.csv", |o| write(&o.join("c.csv"), "5")),
        ("0.csv", |o| write(&o.join("0.csv"), "5")),
        ("b.csv", |o| fs::remove_file(o.join("b.csv")).unwrap()),
        ("a.csv", |o| write(&o.join("a.csv"), "6 7")),
    ];
    for (name, change) in changes {
        let dir = folder(&[("o/a.csv", "1 2"), ("o/b.csv", "4")]);
        let spec = TableSpec { seen: Some(SeenFiles::default()), ..TableSpec::new("o").resolve(dir.path()) };
        let first = Table::open("t", &spec).unwrap().fingerprint();
        let again = Table::open("t", &spec.clone()).unwrap();
        assert_eq!((again.fingerprint(), rows(&again, &["v"]).unwrap().len()), (first, 3));
        std::thread::sleep(Duration::from_millis(20));
        change(&dir.path().join("o"));
        let error = Table::open("t", &spec).unwrap_err();
        assert!(matches!(&error, TableError::Changed { path, .. } if path.ends_with(name)), "{name}: {error}");
        // Another job reads what is there.
        Table::open("t", &TableSpec { seen: Some(SeenFiles::default()), ..spec }).unwrap();
    }
}

#[test]
fn a_file_that_nobody_changes_is_read_as_often_as_one_likes() {
    let dir = folder(&[("o/a.csv", "1 2 3"), ("o/b.csv", "4")]);
    let table = open(dir.path(), "o").unwrap();
    // Another file beside it, and another name on the way to it.
    write(&dir.path().join("o/c.csv"), "5");
    fs::File::open(dir.path().join("o/a.csv")).unwrap();
    for _ in 0..3 {
        assert_eq!(rows(&table, &["v"]).unwrap().join(" "), "1 2 3 4");
    }
}

fn bytes(values: &[&[u8]]) -> ArrayRef {
    Arc::new(BinaryArray::from(values.to_vec()))
}

/// A list of each value.
fn lists(values: &[&[u8]]) -> ArrayRef {
    let mut lists = ListBuilder::new(BinaryBuilder::new());
    values.iter().for_each(|value| lists.append_value([Some(value)]));
    Arc::new(lists.finish())
}

#[test]
fn byte_arrays_are_text_with_and_without_annotation_whatever_the_pages() {
    let good: [&[u8]; 5] = [b"Bonn", b"", "Köln".as_bytes(), b"Bonn", b"x"];
    let mut bad = good;
    bad[3] = b"K\xF6ln";
    for dictionary in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        let n: ArrayRef = Arc::new(Int32Array::from_iter_values(0..5));
        let columns = |values: &[&[u8]]| vec![("n", n.clone()), ("city", bytes(values)), ("tags", lists(values))];
        parquet(&path, columns(&good), dictionary);
        let table = open(dir.path(), "t.parquet").unwrap();
        assert_eq!(table.column("city").unwrap().data_type, DataType::Utf8);
        let read = rows(&table, &["city", "tags", "n"]).unwrap();
        assert_eq!(read, ["Bonn [Bonn] 0", " [] 1", "Köln [Köln] 2", "Bonn [Bonn] 3", "x [x] 4"]);
        parquet(&path, columns(&bad), dictionary);
        let table = open(dir.path(), "t.parquet").unwrap();
        assert_eq!(rows(&table, &["n"]).unwrap().len(), 5);
        for column in ["city", "tags"] {
            let error = rows(&table, &[column]).unwrap_err();
            let expected =
                format!("column `{column}` in {} at row 3: bytes that are not UTF-8: 4b f6 6c 6e", path.display());
            assert!(error.to_string().contains(&expected) && error.category() == Category::Data, "{error}");
        }
    }
}

#[test]
fn annotated_text_that_is_not_utf_8_is_named_with_its_row_too() {
    for dictionary in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        parquet(&path, vec![("city", Arc::new(StringArray::from(vec!["a", "b", "c", "ZZ"])))], dictionary);
        let mut content = fs::read(&path).unwrap();
        for at in 0..content.len() - 1 {
            if &content[at..at + 2] == b"ZZ" {
                content[at..at + 2].copy_from_slice(b"\xFF\xFE");
            }
        }
        fs::write(&path, content).unwrap();
        let error = rows(&open(dir.path(), "t.parquet").unwrap(), &["city"]).unwrap_err().to_string();
        assert!(
            error.contains("column `city`") && error.contains("at row 3: bytes that are not UTF-8: ff fe"),
            "{error}"
        );
    }
}

#[test]
fn a_header_of_many_columns_is_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..300_000).map(|n| format!("c{n}")).collect();
    fs::write(dir.path().join("t.csv"), names.join(",") + "\n" + &vec!["1"; names.len()].join(",") + "\n").unwrap();
    let started = Instant::now();
    let table = open(dir.path(), "t.csv").unwrap();
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(reader(&table, &wanted).next().unwrap().unwrap().batch.num_columns(), names.len());
    let error = table.column("c").unwrap_err().to_string();
    assert!(error.len() < 2000 && error.contains("and 299950 more"), "{}", error.len());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn brotli_is_read_and_encryption_is_called_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let brotli = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/brotli.parquet");
    let found = rows(&open(dir.path(), brotli.to_str().unwrap()).unwrap(), &["v"]).unwrap();
    assert_eq!(found, ["a", "b"]);
    let path = dir.path().join("t.parquet");
    six_rows(&path, 'a');
    let mut content = fs::read(&path).unwrap();
    let end = content.len();
    content[end - 4..].copy_from_slice(b"PARE");
    fs::write(&path, content).unwrap();
    let error = open(dir.path(), "t.parquet").unwrap_err().to_string();
    assert!(error.contains("the file is encrypted") && !error.contains("damaged"), "{error}");
}

#[test]
fn a_dictionary_column_without_annotation_keeps_its_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    parquet(&dir.path().join("t.parquet"), vec![("v", bytes(&[b"a", b"b", b"a"]))], true);
    let batch = reader(&open(dir.path(), "t.parquet").unwrap(), &["v"]).next().unwrap().unwrap().batch;
    assert!(batch.column(0).as_any().is::<DictionaryArray<Int32Type>>());
}
