//! Tables as their users see them: files on disk, row ranges, and what goes wrong.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int64Array, LargeListArray, LargeStringArray, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::{Category, IdKind, Ids};
use twotower_tables::{
    Encoding, Format, OneOrMany, Place, ReadOptions, Table, TableBatch, TableError, TableSpec, id_column, id_column_as,
    id_kind,
};

fn spec(path: &Path) -> TableSpec {
    TableSpec::new(path.to_str().unwrap())
}

fn names(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|c| c.to_string()).collect()
}

/// Rows of a batch as text, nulls as `NULL`.
fn texts(batch: &TableBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let printers: Vec<_> =
        batch.batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    (0..batch.batch.num_rows()).map(|row| printers.iter().map(|p| p.value(row).to_string()).collect()).collect()
}

/// Rows of a range as text; checks that rows are numbered without gaps and batches are full.
fn try_read(table: &Table, columns: &[&str], rows: Range<u64>, size: usize) -> Result<Vec<Vec<String>>, TableError> {
    let columns = names(columns);
    let mut found = Vec::new();
    let mut at = rows.start;
    let mut last: Option<(usize, usize)> = None;
    for batch in table.read(ReadOptions { columns: &columns, rows, batch_rows: size })? {
        let batch = batch?;
        assert_eq!(batch.first_row, at);
        at += batch.batch.num_rows() as u64;
        if let Some((file, rows)) = last {
            assert!(rows == size || file != batch.file, "a batch is short in the middle of a file");
        }
        last = Some((batch.file, batch.batch.num_rows()));
        found.extend(texts(&batch));
    }
    Ok(found)
}

fn read_all(path: &Path, columns: &[&str]) -> Result<Vec<Vec<String>>, TableError> {
    try_read(&Table::open("users", &spec(path))?, columns, 0..u64::MAX, 3)
}

fn write_parquet(path: &Path, group_rows: usize, dictionary: bool, columns: Vec<(&str, ArrayRef)>) {
    let fields: Vec<Field> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, a)| a).collect()).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_dictionary_enabled(dictionary)
        .build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Rows `range` of a table of `n` and `name`, in the given format.
fn write_rows(path: &Path, format: Format, range: Range<i64>) {
    let name = |n: i64| if n % 5 == 0 { None } else { Some(format!("name-{}", n % 7)) };
    match format {
        Format::Parquet => write_parquet(
            path,
            4,
            true,
            vec![
                ("n", Arc::new(Int64Array::from_iter_values(range.clone())) as ArrayRef),
                ("name", Arc::new(StringArray::from_iter(range.map(name)))),
            ],
        ),
        Format::Jsonl => {
            let line = |n: i64| match name(n) {
                Some(name) => format!("{{\"n\": {n}, \"name\": \"{name}\"}}\n"),
                None => format!("{{\"n\": {n}, \"name\": null}}\n"),
            };
            fs::write(path, range.map(line).collect::<String>()).unwrap();
        }
        Format::Csv | Format::Tsv => {
            let line = |n: i64| format!("{n},\"{}\"\n", name(n).unwrap_or_default());
            fs::write(path, "n,name\n".to_string() + &range.map(line).collect::<String>()).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_split_of_any_layout_is_the_whole(
        sizes in proptest::collection::vec(0i64..14, 1..5),
        shards in 1u64..6,
        batch_rows in 1usize..9,
        counted in any::<bool>(),
        format in prop_oneof![Just(Format::Parquet), Just(Format::Csv), Just(Format::Jsonl)],
    ) {
        // An empty JSON Lines file names no columns, so the first file of that format has a row.
        let sizes: Vec<i64> = sizes.iter().map(|s| s + i64::from(format == Format::Jsonl)).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut start = 0;
        for (file, size) in sizes.iter().enumerate() {
            write_rows(&dir.path().join(format!("part-{file}")), format, start..start + size);
            start += size;
        }
        let spec = TableSpec { format: Some(format), ..spec(dir.path()) };
        let table = Table::open("users", &spec).unwrap();
        let total = start as u64;
        if counted {
            prop_assert_eq!(table.rows().unwrap(), total);
        }
        let whole = try_read(&table, &["name", "n"], 0..u64::MAX, batch_rows).unwrap();
        let expected: Vec<Vec<String>> = (0..start)
            .map(|n| vec![if n % 5 == 0 { "NULL".to_string() } else { format!("name-{}", n % 7) }, n.to_string()])
            .collect();
        prop_assert_eq!(&whole, &expected);
        let mut joined = Vec::new();
        for i in 0..shards {
            let range = total * i / shards..total * (i + 1) / shards;
            joined.extend(try_read(&table, &["name", "n"], range, batch_rows).unwrap());
        }
        prop_assert_eq!(joined, &expected[..]);
        // Parts are read in any order, and by others than who cut them.
        let columns = names(&["name", "n"]);
        let rows = total / 3..total;
        let options = ReadOptions { columns: &columns, rows: rows.clone(), batch_rows };
        let part_rows = 3 * batch_rows;
        let parts: Vec<_> = table.parts(options, part_rows, usize::MAX).unwrap().map(Result::unwrap).collect();
        let mut pieces = Vec::new();
        for part in parts.into_iter().rev() {
            let batches: Vec<TableBatch> = part.map(Result::unwrap).collect();
            prop_assert!(batches.iter().all(|b| b.batch.num_rows() <= batch_rows));
            prop_assert!(batches.iter().map(|b| b.batch.num_rows()).sum::<usize>() <= part_rows);
            pieces.push((batches[0].first_row, batches.iter().flat_map(texts).collect::<Vec<_>>()));
        }
        pieces.sort_unstable_by_key(|piece| piece.0);
        let joined: Vec<Vec<String>> = pieces.into_iter().flat_map(|piece| piece.1).collect();
        prop_assert_eq!(joined, &expected[rows.start as usize..]);
    }
}

#[test]
fn text_columns_of_parquet_keep_their_dictionary_and_lists_are_normalised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let cities = LargeStringArray::from(vec![Some("Bonn"), None, Some("Bonn"), Some("Kiel")]);
    let lists = LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1)]); 4]);
    write_parquet(&path, 2, true, vec![("city", Arc::new(cities.clone())), ("tags", Arc::new(lists))]);
    let plain = dir.path().join("b.parquet");
    write_parquet(&plain, 2, false, vec![("city", Arc::new(cities)), ("more", Arc::new(Int64Array::from(vec![0; 4])))]);
    let table = Table::open("users", &spec(&path)).unwrap();
    assert_eq!(table.columns()[0].data_type, DataType::Utf8);
    assert!(matches!(table.columns()[1].data_type, DataType::List(_)));
    let columns = names(&["tags", "city"]);
    let batches: Vec<_> = table
        .read(ReadOptions { columns: &columns, rows: 0..4, batch_rows: 2 })
        .unwrap()
        .map(|b| b.unwrap().batch)
        .collect();
    let city = batches[0].column(1).as_dictionary::<Int32Type>();
    assert_eq!(city.values().as_string::<i32>().value(city.keys().value(0) as usize), "Bonn");
    assert!(city.is_null(1));
    assert!(matches!(batches[1].column(0).data_type(), DataType::List(_)));
    let both = TableSpec {
        path: OneOrMany::Many(vec![path.display().to_string(), plain.display().to_string()]),
        ..spec(&path)
    };
    let both = Table::open("users", &both).unwrap();
    let found = try_read(&both, &["city"], 1..7, 10).unwrap();
    assert_eq!(found.concat(), ["NULL", "Bonn", "Kiel", "Bonn", "NULL", "Bonn"]);
}

#[test]
fn delimiters_of_two_characters_and_latin_1_read_as_movielens_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("movies.dat");
    let mut bytes = b"1::Am\xE9lie: one::Comedy|Romance\r\n2::5\" disk::\r\n".to_vec();
    fs::write(&path, &bytes).unwrap();
    let spec = TableSpec {
        delimiter: Some("::".to_string()),
        encoding: Encoding::Latin1,
        header: false,
        columns: Some(names(&["id", "title", "genres"])),
        ..spec(&path)
    };
    let read = || try_read(&Table::open("items", &spec).unwrap(), &["genres", "title", "id"], 0..9, 9).unwrap();
    assert_eq!(read(), [["Comedy|Romance", "Amélie: one", "1"], ["NULL", "5\" disk", "2"]]);
    bytes.truncate(bytes.len() - 2);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(read().len(), 2);
}

#[test]
fn byte_order_mark_crlf_quotes_and_null_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    fs::write(&path, "\u{feff}id,note\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n2,NA\r\n\r\n3,\r\n").unwrap();
    assert_eq!(read_all(&path, &["id", "note"]).unwrap(), [["1", "a, \"b\"\r\nc"], ["2", "NULL"], ["3", "NULL"]]);
    let spec = TableSpec { null_values: Some(names(&["NA"])), ..spec(&path) };
    let table = Table::open("users", &spec).unwrap();
    assert_eq!(try_read(&table, &["note"], 1..3, 5).unwrap().concat(), ["NULL", ""]);
    assert_eq!(table.rows().unwrap(), 3);
}

#[test]
fn ragged_rows_unclosed_quotes_and_bad_utf_8_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let refused = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let error = read_all(&path, &["a"]).unwrap_err();
        assert_eq!(error.category(), Category::Data);
        error
    };
    let ragged = refused(b"a,b\n1,\"x\ny\"\n3\n");
    assert!(matches!(ragged, TableError::Ragged { line: 4, expected: 2, found: 1, .. }), "{ragged}");
    assert!(matches!(refused(b"a,b\n1,2,3\n"), TableError::Ragged { line: 2, found: 3, .. }));
    let quote = refused(b"a,b\n1,2\n3,\"4\n5,6\n");
    assert!(quote.to_string().contains("a.csv: the row at line 3 has a quote that is not closed"), "{quote}");
    let utf8 = refused(b"a,b\n1,\"x\ncaf\xE9\"\n");
    assert!(matches!(utf8, TableError::Undecodable { line: 3, .. }), "{utf8}");
    let says = utf8.to_string();
    assert!(says.contains("is not UTF-8 (byte 12 of the file); it fits windows-1252: set encoding = "), "{says}");
    assert!(matches!(refused(b""), TableError::Header { .. }));
    assert!(matches!(refused(b"a,a\n"), TableError::Header { .. }));
}

#[test]
fn text_in_other_encodings_and_compressed_reads_as_utf_8_does_from_any_row() {
    let dir = tempfile::tempdir().unwrap();
    // The second byte of 育 in Big5 is that of the delimiter.
    let row = |row: usize| format!("{row}|\"臺北,\n體育\"|教育{row}\r\n");
    let text = format!("編號|城市|名\r\n{}", (0..500).map(row).collect::<String>());
    let (big5, _, lost) = encoding_rs::BIG5.encode(&text);
    assert!(!lost && big5.windows(2).any(|two| two == b"\xA8\x7C"));
    let utf_16: Vec<u8> = "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, bytes).unwrap();
        gzip.finish().unwrap()
    };
    let read = |name: &str, bytes: &[u8], encoding: &str| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let (encoding, delimiter) = (Encoding::of_name(encoding).unwrap(), Some("|".to_string()));
        let table = Table::open("users", &TableSpec { encoding, delimiter, ..spec(&path) }).unwrap();
        let part = |rows| try_read(&table, &["名", "編號", "城市"], rows, 7).unwrap();
        let before_it_is_counted = part(120..140);
        assert_eq!(table.rows().unwrap(), 500, "{name}");
        assert_eq!(part(120..140), before_it_is_counted);
        [part(0..500), before_it_is_counted, part(499..600)].concat()
    };
    let expected = read("a.csv", text.as_bytes(), "utf-8");
    assert_eq!((expected.len(), &expected[7]), (521, &names(&["教育7", "7", "臺北,\n體育"])));
    assert_eq!(read("b.csv", &big5, "big5"), expected);
    assert_eq!(read("c.csv", &utf_16, "utf-16"), expected);
    assert_eq!(read("d.csv.gz", &gzip(text.as_bytes()), "utf-8"), expected);
    assert_eq!(read("named-otherwise.csv", &gzip(&big5), "big5"), expected);
    assert_eq!(read("e.csv.zst", &zstd::encode_all(&utf_16[..], 1).unwrap(), "utf-16"), expected);
}

#[test]
fn a_row_that_is_not_in_the_tables_encoding_is_rejected_alone_and_the_error_names_what_fits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let (gbk, _, _) = encoding_rs::GBK.encode("号,城市\n1,广州\n2,深圳\n3,珠海\n4,佛山\n");
    fs::write(&path, &gbk).unwrap();
    let error = read_all(&path, &["号"]).unwrap_err().to_string();
    assert!(error.contains("a.csv: line 1 is not UTF-8") && error.contains("set encoding = \"gbk\""), "{error}");
    fs::write(&path, [&gbk[..], b"5,\xFF\xFF\n6,b\n"].concat()).unwrap();
    let table =
        Table::open("users", &TableSpec { encoding: Encoding::of_name("gbk").unwrap(), ..spec(&path) }).unwrap();
    let error = try_read(&table, &["城市"], 0..9, 9).unwrap_err().to_string();
    assert!(error.contains("a.csv: line 6 is not GBK"), "{error}");
    let columns = names(&["城市"]);
    let read = ReadOptions { columns: &columns, rows: 0..9, batch_rows: 9 };
    let batch = table.leniently().read(read).unwrap().next().unwrap().unwrap();
    assert_eq!(texts(&batch).concat(), ["广州", "深圳", "珠海", "佛山", "NULL", "b"]);
    assert!(batch.rejected.len() == 1 && batch.rejected[0].0 == 4, "{:?}", batch.rejected);
}

#[test]
fn a_row_of_text_is_named_by_the_line_that_an_editor_shows_and_one_of_parquet_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, content: &str, expected: &[u64]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let table = Table::open("users", &spec(&path)).unwrap();
        let columns = names(&["id"]);
        let read = ReadOptions { columns: &columns, rows: 1..9, batch_rows: 3 };
        let lines = table.read(read).unwrap().flat_map(|batch| {
            let batch = batch.unwrap();
            let end = batch.slice(1..batch.batch.num_rows());
            assert!((0..end.batch.num_rows()).all(|row| end.place(row) == batch.place(row + 1)));
            (0..batch.batch.num_rows()).map(|row| batch.place(row)).collect::<Vec<_>>()
        });
        assert_eq!(lines.collect::<Vec<_>>(), expected.iter().map(|line| Place::Line(*line)).collect::<Vec<_>>());
    };
    check("a.csv", "id,x\n1,a\n2,\"b\nb\"\n\n3,c\n4,d\n5,e\n", &[3, 6, 7, 8]);
    check("a.jsonl", "{\"id\":1}\n{\"id\":2}\n\n{\"id\":3}\n", &[2, 4]);
    let path = dir.path().join("b.csv");
    fs::write(&path, "id,x\n1,a\n2,b\n,c\n").unwrap();
    let table = Table::open("users", &spec(&path)).unwrap();
    let columns = names(&["id"]);
    let batch = table.read(ReadOptions { columns: &columns, rows: 0..9, batch_rows: 9 }).unwrap().next().unwrap();
    let error = id_column(&batch.unwrap(), "id").unwrap_err().to_string();
    assert!(error.contains("b.csv at line 4: the id is null"), "{error}");
}

#[test]
fn words_for_nothing_are_null_in_delimited_text_unless_the_table_lists_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let words = ["", "NULL", "null", "\\N", "NA", "N/A", "NaN", "nan", "None", "n/a", "-", "0", "Nan", "NAN"];
    fs::write(&path, "v,w\n".to_string() + &words.map(|word| format!("{word},\n")).concat()).unwrap();
    let (nulls, values) = words.split_at(9);
    let found = read_all(&path, &["v"]).unwrap().concat();
    assert!(found[..nulls.len()].iter().all(|value| value == "NULL") && found[nulls.len()..] == *values, "{found:?}");
    // Namibia is `NA`.
    let own = TableSpec { null_values: Some(names(&["", "-"])), ..spec(&path) };
    let found = try_read(&Table::open("users", &own).unwrap(), &["v"], 4..11, 20).unwrap().concat();
    assert_eq!(found, ["NA", "N/A", "NaN", "nan", "None", "n/a", "NULL"]);
}

#[test]
fn json_lines_carry_scalars_as_text_and_arrays_as_lists() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let content = "{\"id\": 7, \"tags\": [\"x\", 2], \"ok\": true}\n\n{\"ok\": null, \"id\": 1.50, \"tags\": []}\n{\"id\": \"z\"}\n";
    fs::write(&path, content).unwrap();
    let table = Table::open("items", &spec(&path)).unwrap();
    let columns: Vec<_> = table.columns().iter().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["id", "tags", "ok"]);
    assert_eq!(table.rows().unwrap(), 3);
    let rows = try_read(&table, &["ok", "tags", "id"], 0..3, 8).unwrap();
    assert_eq!(rows, [["true", "[x, 2]", "7"], ["NULL", "[]", "1.50"], ["NULL", "NULL", "z"]]);
    for (bad, line) in [("{\"id\": [1]}", 5), ("{\"id\": 1", 5), ("{\"id\": 1} {\"id\": 2}", 5), ("[1]", 5)] {
        fs::write(&path, format!("{content}{bad}\n{{\"id\": 9}}\n")).unwrap();
        let error = read_all(&path, &["id", "ok"]).unwrap_err();
        assert!(matches!(error, TableError::Json { line: found, .. } if found == line), "{bad}: {error}");
    }
}

#[test]
fn truncated_and_altered_parquet_is_an_error_naming_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write_rows(&path, Format::Parquet, 0..400);
    let whole = fs::read(&path).unwrap();
    for cut in 0..64 {
        fs::write(&path, &whole[..whole.len() * cut / 64]).unwrap();
        let error = read_all(&path, &["n", "name"]).unwrap_err();
        assert!(error.to_string().contains("a.parquet"), "{cut}: {error}");
        assert_eq!(error.category(), Category::Data);
    }
    for at in (0..whole.len()).step_by(whole.len() / 300) {
        let mut altered = whole.clone();
        altered[at] ^= 0x55;
        fs::write(&path, &altered).unwrap();
        // Pages without checksums may decode to other values; what matters is that nothing panics.
        if let Err(error) = read_all(&path, &["n", "name"]) {
            assert!(error.to_string().contains("a.parquet"), "{at}: {error}");
        }
    }
}

#[test]
fn folders_and_globs_are_read_in_name_order_without_hidden_files() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [("b.csv", "2"), ("a.csv", "1"), ("c.csv", "3"), (".a.csv.tmp-1-0", "x"), ("_SUCCESS", "x")] {
        fs::write(dir.path().join(name), format!("v\n{value}\n")).unwrap();
    }
    assert_eq!(read_all(dir.path(), &["v"]).unwrap().concat(), ["1", "2", "3"]);
    assert_eq!(read_all(&dir.path().join("[ac].csv"), &["v"]).unwrap().concat(), ["1", "3"]);
    let before = Table::open("users", &spec(dir.path())).unwrap();
    assert_eq!(before.fingerprint(), Table::open("users", &spec(dir.path())).unwrap().fingerprint());
    assert_eq!(before.bytes(), 12);
    fs::write(dir.path().join("d.csv"), "v\n4\n").unwrap();
    assert_ne!(before.fingerprint(), Table::open("users", &spec(dir.path())).unwrap().fingerprint());
    let relative = TableSpec::new("*.csv").resolve(dir.path());
    assert_eq!(Table::open("users", &relative).unwrap().rows().unwrap(), 4);
}

#[test]
fn missing_files_and_columns_and_empty_tables_say_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let missing = read_all(&dir.path().join("*.parquet"), &[]).unwrap_err();
    assert!(missing.to_string().contains("*.parquet"), "{missing}");
    fs::write(&path, "user_id,city\n").unwrap();
    let column = read_all(&path, &["userid"]).unwrap_err().to_string();
    assert!(column.contains("did you mean `user_id`?; it has user_id, city"), "{column}");
    let empty = Table::open("users", &spec(&path)).unwrap().require_rows().unwrap_err();
    assert!(matches!(empty, TableError::Empty { .. }));
    write_parquet(&dir.path().join("a.parquet"), 4, true, vec![("v", Arc::new(Int64Array::from(vec![1])))]);
    write_parquet(&dir.path().join("b.parquet"), 4, true, vec![("v", Arc::new(StringArray::from(vec!["1"])))]);
    let unlike = read_all(&dir.path().join("*.parquet"), &["v"]).unwrap_err();
    assert!(matches!(&unlike, TableError::ColumnType { path, .. } if path.ends_with("b.parquet")), "{unlike}");
}

#[test]
fn settings_that_make_no_sense_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (csv, jsonl) = (dir.path().join("a.csv"), dir.path().join("a.jsonl"));
    fs::write(&csv, "a\n1\n").unwrap();
    fs::write(&jsonl, "{\"a\": 1}\n").unwrap();
    fs::write(dir.path().join("a.xlsx"), "").unwrap();
    let text = |s: &str| Some(s.to_string());
    for bad in [
        TableSpec { delimiter: text(""), ..spec(&csv) },
        TableSpec { delimiter: text("\n"), ..spec(&csv) },
        TableSpec { quote: text("''"), ..spec(&csv) },
        TableSpec { quote: text(","), ..spec(&csv) },
        TableSpec { header: false, ..spec(&csv) },
        TableSpec { columns: Some(names(&["a"])), ..spec(&csv) },
        TableSpec { delimiter: text(";"), ..spec(&jsonl) },
        spec(&dir.path().join("a.xlsx")),
        spec(dir.path()),
        spec(&dir.path().join("***")),
    ] {
        let error = Table::open("users", &bad).unwrap_err();
        assert_eq!(error.category(), Category::Usage, "{error}");
    }
}

#[test]
fn ids_keep_their_kind_and_bad_ones_are_named_with_file_and_row() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.csv"), dir.path().join("b.csv"));
    fs::write(&a, "id\n5\n6\n").unwrap();
    fs::write(&b, "id\n7\n x\n\"\"\n").unwrap();
    let table = Table::open("interactions", &spec(dir.path())).unwrap();
    assert_eq!(id_kind(&table, "id").unwrap(), IdKind::Text);
    let columns = names(&["id"]);
    let batches: Vec<_> =
        table.read(ReadOptions { columns: &columns, rows: 0..9, batch_rows: 2 }).unwrap().map(Result::unwrap).collect();
    assert_eq!(id_column(&batches[0], "id").unwrap().kind(), IdKind::Text);
    assert_eq!(id_column_as(&batches[0], "id", IdKind::Int).unwrap(), Ids::Int(vec![5, 6]));
    let error = id_column_as(&batches[1], "id", IdKind::Int).unwrap_err().to_string();
    assert!(error.contains("b.csv at line 3: ` x` is not a 64-bit integer id"), "{error}");
    assert!(matches!(id_column(&batches[2], "id"), Err(TableError::Id { place: Some(Place::Line(4)), .. })));
}

#[test]
fn ranges_beyond_a_checkpoint_of_a_counted_file_start_at_the_right_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let rows: String = (0..140_000).map(|n| format!("{n},\"x\ny\"\n")).collect();
    fs::write(&path, "n,t\n".to_string() + &rows).unwrap();
    let table = Table::open("users", &spec(&path)).unwrap();
    let read = |table: &Table| try_read(table, &["n"], 131_070..131_075, 100).unwrap().concat();
    let uncounted = read(&table);
    assert_eq!(uncounted, ["131070", "131071", "131072", "131073", "131074"]);
    assert_eq!(table.rows().unwrap(), 140_000);
    assert_eq!(read(&table), uncounted);
}
