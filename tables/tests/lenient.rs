//! Tables read leniently: a row that cannot be read is null and named, the rows beside it stay as they are, and what
//! is wrong with a file as a whole is an error still.

use arrow_cast::display::array_value_to_string;
use std::fs;
use std::path::Path;
use twotower_tables::{ReadOptions, Table, TableBatch, TableError, TableSpec};

/// Batches of at most 3 rows of columns `id` and `name`.
fn read(path: &Path, lenient: bool) -> Result<Vec<TableBatch>, TableError> {
    let table = Table::open("users", &TableSpec::new(path.to_str().unwrap()))?;
    let table = if lenient { table.leniently() } else { table };
    let columns = ["id".to_string(), "name".to_string()];
    table.read(ReadOptions { columns: &columns, rows: 0..u64::MAX, batch_rows: 3 })?.collect()
}

/// Rows as `id=name`.
fn rows(batches: &[TableBatch]) -> Vec<String> {
    let row = |batch: &TableBatch, row: usize| {
        let cells = batch.batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
        cells.collect::<Vec<_>>().join("=")
    };
    batches.iter().flat_map(|batch| (0..batch.batch.num_rows()).map(move |at| row(batch, at))).collect()
}

/// Rows of the table that were rejected, with the reasons.
fn rejected(batches: &[TableBatch]) -> Vec<(u64, String)> {
    let of = |batch: &TableBatch| {
        let place = |(row, reason): &(usize, String)| (batch.first_row + *row as u64, reason.clone());
        batch.rejected.iter().map(place).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

/// Reads a file of rows of which `bad` (row, part of the reason) cannot be read: leniently they are null, and
/// strictly the first of them is the error.
fn check(name: &str, contents: &[u8], expected: &[&str], bad: &[(u64, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, contents).unwrap();
    let batches = read(&path, true).unwrap();
    assert_eq!(rows(&batches), expected);
    let found = rejected(&batches);
    assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), bad.iter().map(|b| b.0).collect::<Vec<_>>());
    for ((_, reason), (_, part)) in found.iter().zip(bad) {
        assert!(reason.contains(part) && reason.contains(name), "{reason}");
    }
    let error = read(&path, false).unwrap_err().to_string();
    assert_eq!(error, found[0].1, "the strict error is the first reason");
    // A slice takes the rejected rows that are in it along, numbered anew.
    let (row, batch) = (found[0].0, &batches[(found[0].0 / 3) as usize]);
    let slice = batch.slice((row - batch.first_row) as usize..batch.batch.num_rows());
    assert_eq!((slice.first_row, slice.rejected[0].0), (row, 0));
    assert!(batch.slice(0..(row - batch.first_row) as usize).rejected.is_empty());
}

#[test]
fn rows_of_text_with_another_number_of_fields_or_invalid_utf_8_are_rejected_alone() {
    check(
        "users.csv",
        b"id,name\n1,a\n2\n3,c\n4,d,4\n5,\xff\n6,f\n",
        &["1=a", "=", "3=c", "=", "=", "6=f"],
        &[(1, "line 3"), (3, "line 5"), (4, "UTF-8")],
    );
}

#[test]
fn lines_of_json_that_are_none_or_of_another_type_are_rejected_alone() {
    check(
        "users.jsonl",
        b"{\"id\":\"1\",\"name\":\"a\"}\n{\"id\":\"2\",\n{\"id\":\"3\",\"name\":\"c\"}\n{\"id\":\"4\",\"name\":[{}]}\n[5]\n{\"id\":\"6\",\"name\":\"f\"}\n",
        &["1=a", "=", "3=c", "=", "=", "6=f"],
        &[(1, "line 2"), (3, "line 4"), (4, "line 5")],
    );
}

#[test]
fn a_file_that_was_cut_or_has_an_open_quote_is_an_error_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8], &str); 4] = [
        ("cut.csv", b"id,name\n1,a\n2", "line 3"),
        ("open.csv", b"id,name\n1,a\n2,\"b\n3,c\n", "quote that is not closed"),
        ("cut.jsonl", b"{\"id\":\"1\",\"name\":\"a\"}\n{\"id\":\"2\",\"na", "line 2"),
        ("none.csv", b"", "none.csv"),
    ];
    for (name, contents, part) in files {
        let path = dir.path().join(name);
        fs::write(&path, contents).unwrap();
        let error = read(&path, true).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(name), "{name}: {error}");
    }
}
