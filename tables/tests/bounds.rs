//! Batches within a bound of bytes: long text in them, and rows that are longer than the bound.

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use twotower_tables::{ReadOptions, Table, TableSpec};

fn spec(path: &Path) -> TableSpec {
    TableSpec::new(path.to_str().unwrap())
}

/// Row count and largest size of the batches read within a bound, and all rows as text.
fn read_within(table: &Table, rows: Range<u64>, batch_rows: usize, bytes: usize) -> (Vec<String>, Vec<(usize, usize)>) {
    let columns = ["text", "n"].map(str::to_string);
    let (mut found, mut sizes, mut at) = (Vec::new(), Vec::new(), rows.start);
    for batch in table.read_within(ReadOptions { columns: &columns, rows, batch_rows }, bytes).unwrap() {
        let batch = batch.unwrap();
        assert_eq!((batch.first_row, batch.row_in_file), (at, at));
        at += batch.batch.num_rows() as u64;
        let printers: Vec<_> = batch
            .batch
            .columns()
            .iter()
            .map(|c| ArrayFormatter::try_new(c, &FormatOptions::default()).unwrap())
            .collect();
        let rows = (0..batch.batch.num_rows()).map(|r| format!("{} {}", printers[1].value(r), printers[0].value(r)));
        let rows: Vec<String> = rows.collect();
        sizes.push((rows.len(), rows.iter().map(String::len).sum()));
        found.extend(rows);
    }
    (found, sizes)
}

/// How the text column of a test file is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stored {
    Plain,
    Dictionary,
    /// A dictionary that is given up after a few values.
    Fallback,
    /// The same, by a writer that tells no sizes.
    FallbackWithoutSizes,
}

fn write_text(path: &Path, stored: Stored, group_rows: usize, texts: &[String]) {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let batch = RecordBatch::try_from_iter([("n", n), ("text", text)]).unwrap();
    let dictionary_bytes = if stored == Stored::Dictionary { 1 << 30 } else { 8 << 10 };
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_dictionary_enabled(stored != Stored::Plain)
        .set_dictionary_page_size_limit(dictionary_bytes)
        .set_data_page_row_count_limit(64)
        .set_write_batch_size(16)
        .build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    if stored == Stored::FallbackWithoutSizes {
        forget_sizes(path);
    }
}

/// Rewrites the footer of a Parquet file without the sizes of its text.
fn forget_sizes(path: &Path) {
    use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
    let bytes = fs::read(path).unwrap();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&fs::File::open(path).unwrap()).unwrap();
    let mut builder = metadata.into_builder();
    let groups = builder.take_row_groups().into_iter().map(|group| {
        let mut group = group.into_builder();
        let columns = group.take_columns().into_iter();
        let columns = columns.map(|c| c.into_builder().set_unencoded_byte_array_data_bytes(None).build().unwrap());
        group.set_column_metadata(columns.collect()).build().unwrap()
    });
    let metadata = builder.set_row_groups(groups.collect()).build();
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let mut out = bytes[..bytes.len() - 8 - footer].to_vec();
    ParquetMetaDataWriter::new(&mut out, &metadata).finish().unwrap();
    fs::write(path, out).unwrap();
}

#[test]
fn long_text_comes_in_batches_within_the_bound() {
    const BOUND: usize = 64 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    // Ten values of 4 KiB: 1,000 rows hold 4 MiB, in a file of few pages.
    let repeated: Vec<String> = (0..1000).map(|r| format!("{}", r % 10).repeat(4096)).collect();
    let distinct: Vec<String> = (0..1000).map(|r| format!("{r:04}").repeat(1024)).collect();
    let shorter: Vec<String> = (0..1000).map(|r| format!("{r:04}").repeat(1 + r % 32 * 8)).collect();
    for texts in [&repeated, &distinct, &shorter] {
        let expected: Vec<String> = texts.iter().enumerate().map(|(n, text)| format!("{n} {text}")).collect();
        for stored in [Stored::Plain, Stored::Dictionary, Stored::Fallback, Stored::FallbackWithoutSizes] {
            for group_rows in [1000, 300] {
                write_text(&path, stored, group_rows, texts);
                let table = Table::open("t", &spec(&path)).unwrap();
                let (found, sizes) = read_within(&table, 0..u64::MAX, 512, BOUND);
                assert!(found == expected, "{stored:?}");
                // Dictionary batches hold keys: few bytes, however long the text is.
                if stored != Stored::Dictionary {
                    let largest = sizes.iter().map(|s| s.1).max().unwrap();
                    assert!(largest <= BOUND + BOUND / 8, "{stored:?} {group_rows} {largest}");
                    assert!(sizes.len() < 300, "{stored:?}: {} batches", sizes.len());
                }
                let (range, _) = read_within(&table, 123..789, 512, BOUND);
                assert!(range == expected[123..789], "{stored:?}");
            }
        }
    }
}

#[test]
fn batches_grow_from_wherever_reading_starts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let texts: Vec<String> = (0..4000).map(|r| format!("{r:06}")).collect();
    write_text(&path, Stored::FallbackWithoutSizes, 4000, &texts);
    for start in [0, 1000, 3000] {
        let table = Table::open("t", &spec(&path)).unwrap();
        let (found, sizes) = read_within(&table, start..start + 1000, 1000, 1 << 20);
        assert_eq!(found.len(), 1000);
        assert!(sizes.len() < 15, "from {start}: {} batches", sizes.len());
        // What was learnt of the rows holds for the next reader.
        assert_eq!(read_within(&table, start..start + 1000, 1000, 1 << 20).1.len(), 1);
    }
}

#[test]
fn a_row_beyond_the_bound_comes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..50).map(|r| "x".repeat(if r % 20 == 7 { 9000 } else { 10 })).collect();
    let expected: Vec<String> = texts.iter().enumerate().map(|(n, text)| format!("{n} {text}")).collect();
    write_text(&dir.path().join("t.parquet"), Stored::Plain, 30, &texts);
    let csv: String = texts.iter().enumerate().map(|(n, text)| format!("{n},{text}\n")).collect();
    fs::write(dir.path().join("t.csv"), "n,text\n".to_string() + &csv).unwrap();
    let json = texts.iter().enumerate().map(|(n, text)| format!("{{\"n\": {n}, \"text\": \"{text}\"}}\n"));
    fs::write(dir.path().join("t.jsonl"), json.collect::<String>()).unwrap();
    for name in ["t.parquet", "t.csv", "t.jsonl"] {
        let table = Table::open("t", &spec(&dir.path().join(name))).unwrap();
        for bytes in [1, 40, 200, 4096, 10_000, usize::MAX] {
            for batch_rows in [1, 7, 100] {
                let (found, sizes) = read_within(&table, 0..u64::MAX, batch_rows, bytes);
                assert_eq!(found, expected, "{name} {bytes}");
                for (rows, size) in sizes {
                    assert!(
                        rows <= batch_rows && (rows == 1 || size <= bytes),
                        "{name} {bytes}: {rows} rows of {size}"
                    );
                }
            }
            assert_eq!(read_within(&table, 5..33, 100, bytes).0, expected[5..33], "{name} {bytes}");
        }
    }
}
