//! Delimited text as Arrow batches: every column is text, encoders parse it.

use crate::encoding::Encoding;
use crate::error::TableError;
use crate::identity::SourceFile;
use crate::place::Lines;
use crate::records::{Position, Records, split_fields};
use crate::spec::Dialect;
use arrow_array::builder::{ArrayBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::SchemaRef;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows of a file.
pub struct FileBatch {
    /// The rows.
    pub batch: RecordBatch,
    /// Those that could not be read and are null, by their number in the batch, with the reason; none where reading
    /// is strict.
    pub rejected: Vec<(usize, String)>,
    /// The lines of rows of a text file.
    pub lines: Option<Lines>,
}

impl From<RecordBatch> for FileBatch {
    fn from(batch: RecordBatch) -> Self {
        Self { batch, rejected: Vec::new(), lines: None }
    }
}

/// Rows between two remembered positions of a counted file.
const CHECKPOINT_ROWS: u64 = 1 << 16;

/// A counted text file: its rows, and where every 65,536th begins.
#[derive(Debug)]
pub struct Counted {
    /// Rows, the header not among them.
    pub rows: u64,
    checkpoints: Vec<Position>,
    end: Position,
}

impl Counted {
    /// Counts what is left of `records`.
    pub fn count(records: &mut Records) -> Result<Self, TableError> {
        let mut counted = Counted { rows: 0, checkpoints: Vec::new(), end: records.position() };
        while records.skip()? {
            if counted.rows.is_multiple_of(CHECKPOINT_ROWS) {
                counted.checkpoints.push(counted.end);
            }
            counted.rows += 1;
            counted.end = records.position();
        }
        Ok(counted)
    }
}

/// Passes over up to `rows` records and returns how many there were; a counted file is entered near the place.
pub fn skip_rows(records: &mut Records, rows: u64, counted: Option<&Counted>) -> Result<u64, TableError> {
    let mut skipped = 0;
    if let Some(counted) = counted {
        if rows >= counted.rows {
            records.seek(counted.end)?;
            return Ok(counted.rows);
        }
        let checkpoint = rows / CHECKPOINT_ROWS;
        records.seek(counted.checkpoints[checkpoint as usize])?;
        skipped = checkpoint * CHECKPOINT_ROWS;
    }
    while skipped < rows && records.skip()? {
        skipped += 1;
    }
    Ok(skipped)
}

/// Opens a delimited file behind its header: the column names and the records.
pub fn open(source: &SourceFile, encoding: Encoding, dialect: &Dialect) -> Result<(Vec<String>, Records), TableError> {
    let mut records = Records::open(source, encoding, &dialect.delimiter, dialect.quote)?;
    let header = |reason: &str| TableError::Header { path: source.path().to_path_buf(), reason: reason.to_string() };
    let names = match &dialect.names {
        Some(names) => names.clone(),
        None => {
            let record = records.next_record()?.ok_or_else(|| header("the file is empty, expected column names"))?;
            let mut names = Vec::new();
            split_fields(record.text, &dialect.delimiter, dialect.quote, &mut String::new(), |_, name| {
                names.push(name.trim().to_string());
                Ok::<(), TableError>(())
            })?
            .ok_or_else(|| header("a quote is not closed"))?;
            names
        }
    };
    Ok((names, records))
}

/// Streams batches of a delimited file.
pub struct TextReader {
    /// The file, from the first row to read.
    pub records: Records,
    /// For messages.
    pub path: PathBuf,
    /// How it is cut.
    pub dialect: Dialect,
    /// The columns to read.
    pub schema: SchemaRef,
    /// Per field of the file: its place in `schema`.
    pub slots: Vec<Option<usize>>,
    /// Rows per batch.
    pub batch_rows: usize,
    /// Bytes of a batch's records; a longer record comes alone.
    pub batch_bytes: usize,
    /// Rows still to read.
    pub left: u64,
    /// Whether a row that cannot be read is rejected instead of ending the stream.
    pub lenient: bool,
}

impl TextReader {
    fn read_batch(&mut self) -> Result<Option<FileBatch>, TableError> {
        let Self { records, path, dialect, schema, slots, batch_rows, batch_bytes, left, lenient } = self;
        let wanted = (*batch_rows as u64).min(*left);
        // Of many columns, each begins small.
        let first = (1 << 20) / schema.fields().len().max(1 << 10);
        let mut builders: Vec<StringBuilder> =
            schema.fields().iter().map(|_| StringBuilder::with_capacity(first, first)).collect();
        let mut scratch = String::new();
        let (mut rows, mut bytes) = (0, 0);
        let (mut rejected, mut lines) = (Vec::new(), Lines::default());
        let longest_null = dialect.null_values.iter().map(String::len).max().unwrap_or(0);
        while rows < wanted {
            let record = match records.next_record_within(&mut bytes, *batch_bytes) {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error @ TableError::Undecodable { line, .. }) => {
                    lines.push(rows as usize, line);
                    reject(error, *lenient && records.is_one_line(), rows, &mut rejected)?;
                    builders.iter_mut().for_each(StringBuilder::append_null);
                    rows += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            lines.push(rows as usize, record.line);
            let count = split_fields(record.text, &dialect.delimiter, dialect.quote, &mut scratch, |i, value| {
                if let Some(Some(slot)) = slots.get(i) {
                    match value.len() <= longest_null && dialect.null_values.iter().any(|null| null == value) {
                        true => builders[*slot].append_null(),
                        false => builders[*slot].append_value(value),
                    }
                }
                Ok::<(), TableError>(())
            })?;
            match count {
                Some(found) if found == slots.len() => rows += 1,
                Some(found) => {
                    let (line, expected) = (record.line, slots.len());
                    let error = TableError::Ragged { path: path.clone(), line, expected, found };
                    reject(error, *lenient && records.is_one_line(), rows, &mut rejected)?;
                    rows += 1;
                    let short = builders.iter_mut().filter(|builder| (builder.len() as u64) < rows);
                    short.for_each(StringBuilder::append_null);
                }
                None => {
                    let reason = "has a quote that is not closed".to_string();
                    return Err(TableError::Record { path: path.clone(), line: record.line, reason });
                }
            }
        }
        *left -= rows;
        if rows == 0 {
            return Ok(None);
        }
        let columns = builders.iter_mut().map(|b| Arc::new(without(b.finish(), &rejected)) as ArrayRef).collect();
        Ok(Some(FileBatch { batch: new_batch(schema, columns, rows as usize), rejected, lines: Some(lines) }))
    }
}

/// Notes that row `row` of a batch cannot be read, if it may be passed over.
pub fn reject(
    error: TableError,
    lenient: bool,
    row: u64,
    rejected: &mut Vec<(usize, String)>,
) -> Result<(), TableError> {
    if !lenient {
        return Err(error);
    }
    rejected.push((row as usize, error.to_string()));
    Ok(())
}

/// The column with null in the rows that were rejected, of which some fields may have been read.
fn without(column: StringArray, rejected: &[(usize, String)]) -> StringArray {
    if rejected.is_empty() {
        return column;
    }
    let good = |row: &usize| rejected.binary_search_by_key(row, |(at, _)| *at).is_err();
    column.iter().enumerate().map(|(row, value)| value.filter(|_| good(&row))).collect()
}

impl Iterator for TextReader {
    type Item = Result<FileBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_batch().transpose()
    }
}

/// A batch of nullable columns that knows its rows even without columns.
///
/// # Panics
/// When the columns do not fit `schema`: a bug, since readers build them from it.
pub fn new_batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).expect("columns were built from the schema")
}
