//! Columns of raw batches as the stages need them: ids, times, weights.

use crate::cancel::Cancel;
use crate::error::PipelineError;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use twotower_artifacts::Ids;
use twotower_tables::{ReadOptions, Table, TableBatch};

/// Rows read at a time where a stage has no reason for another number.
pub const BATCH_ROWS: usize = 16_384;

/// Bytes read at a time, at the most, where a stage has no reason for another number.
pub const BATCH_BYTES: usize = 16 << 20;

/// Rows of a table, a batch at a time, until a stop is asked for.
///
/// # Errors
/// As [`Table::read_within`]; [`PipelineError::Interrupted`] instead of the batch after a signal.
pub fn read_batches(
    stage: &'static str,
    table: &Table,
    columns: &[String],
    rows: Range<u64>,
    cancel: &Cancel,
) -> Result<impl Iterator<Item = Result<TableBatch, PipelineError>> + use<>, PipelineError> {
    let options = ReadOptions { columns, rows, batch_rows: BATCH_ROWS };
    let cancel = cancel.clone();
    Ok(table.read_within(options, BATCH_BYTES)?.map(move |batch| cancel.check(stage).and(Ok(batch?))))
}

/// The first `rows` rows of a table as one batch.
///
/// # Errors
/// Those of reading; [`PipelineError::Data`] when files have columns of unlike types.
pub fn read_whole(table: &Table, columns: &[String], rows: u64, cancel: &Cancel) -> Result<RecordBatch, PipelineError> {
    table.require_rows()?;
    let batches = read_batches("read", table, columns, 0..rows, cancel)?;
    let batches = batches.map(|b| Ok(b?.batch)).collect::<Result<Vec<_>, PipelineError>>()?;
    let schema = match batches.first() {
        Some(first) => first.schema(),
        None => return Err(PipelineError::Data(format!("{}: no rows were read", table.name()))),
    };
    arrow_select::concat::concat_batches(&schema, &batches)
        .map_err(|e| PipelineError::Data(format!("{}: put the files' rows together: {e}", table.name())))
}

/// The ids of a whole table.
///
/// # Errors
/// As [`twotower_tables::id_column`].
pub fn read_ids(table: &Table, column: &str, cancel: &Cancel) -> Result<Ids, PipelineError> {
    let kind = twotower_tables::id_kind(table, column)?;
    let mut ids = Ids::new(kind);
    for batch in read_batches("read", table, &[column.to_string()], 0..u64::MAX, cancel)? {
        let batch = twotower_tables::id_column_as(&batch?, column, kind)?;
        ids.extend_from(&batch, 0..batch.len());
    }
    Ok(ids)
}

fn column<'a>(batch: &'a TableBatch, name: &str) -> Result<&'a ArrayRef, PipelineError> {
    batch.batch.column_by_name(name).ok_or_else(|| {
        PipelineError::Data(format!("{}: column `{name}` was not read; please report this as a bug", batch.table()))
    })
}

/// Table, column and file, as they stand in messages.
fn place(batch: &TableBatch, name: &str) -> String {
    format!("table `{}`: column `{name}` in {}", batch.table(), batch.path().display())
}

/// Times as 64-bit integers: integers as they are, dates and timestamps in their own unit, text
/// that holds whole numbers parsed.
///
/// # Errors
/// [`PipelineError::Data`] at the first null or unreadable time, naming file and row.
pub fn timestamp_column(batch: &TableBatch, name: &str) -> Result<Int64Array, PipelineError> {
    let raw = column(batch, name)?;
    if matches!(raw.data_type(), DataType::Float16 | DataType::Float32 | DataType::Float64) {
        let (place, found) = (place(batch, name), raw.data_type());
        return Err(PipelineError::Data(format!(
            "{place} is {found}, expected integers, dates, timestamps, or integers as text"
        )));
    }
    let dates = matches!(raw.data_type(), DataType::Date32);
    let array = if dates { cast(batch, name, raw, &DataType::Timestamp(TimeUnit::Second, None))? } else { raw.clone() };
    let times = cast(batch, name, &array, &DataType::Int64)?;
    whole(batch, name, raw, &times, "a whole number")?;
    Ok(times.as_primitive::<Int64Type>().clone())
}

/// Weights as finite, non-negative f32.
///
/// # Errors
/// [`PipelineError::Data`] at the first null, negative or non-finite weight, naming file and row.
pub fn weight_column(batch: &TableBatch, name: &str) -> Result<Float32Array, PipelineError> {
    let raw = column(batch, name)?;
    let weights = cast(batch, name, raw, &DataType::Float32)?;
    whole(batch, name, raw, &weights, "a number")?;
    let weights = weights.as_primitive::<Float32Type>().clone();
    match weights.values().iter().position(|w| !w.is_finite() || *w < 0.0) {
        None => Ok(weights),
        Some(row) => Err(PipelineError::Data(format!(
            "{} at row {}: weight {}: expected a finite number of at least 0",
            place(batch, name),
            batch.row_in_file + row as u64,
            weights.value(row)
        ))),
    }
}

fn cast(batch: &TableBatch, name: &str, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, PipelineError> {
    arrow_cast::cast(array, to).map_err(|e| {
        let (place, found) = (place(batch, name), array.data_type());
        PipelineError::Data(format!("{place} is {found}, not readable as {to}: {e}"))
    })
}

/// Refuses a column that was, or by the cast became, null somewhere.
fn whole(batch: &TableBatch, name: &str, raw: &ArrayRef, cast: &ArrayRef, expected: &str) -> Result<(), PipelineError> {
    let Some(row) = (0..cast.len()).find(|r| cast.is_null(*r)) else { return Ok(()) };
    let found = match raw.is_null(row) {
        true => "null".to_string(),
        false => arrow_cast::display::array_value_to_string(raw, row).map_or("a value".into(), |v| format!("`{v}`")),
    };
    let at = batch.row_in_file + row as u64;
    Err(PipelineError::Data(format!("{} at row {at}: expected {expected}, found {found}", place(batch, name))))
}

/// A Parquet file for this process alone, written batch by batch; an error on the way removes it with the value.
pub struct StagedTable {
    path: PathBuf,
    writer: Option<parquet::arrow::ArrowWriter<File>>,
}

impl StagedTable {
    /// A staged table at `path`, without rows.
    pub fn new(path: PathBuf) -> Self {
        Self { path, writer: None }
    }

    /// Appends a batch; the first one fixes the columns.
    ///
    /// # Errors
    /// [`PipelineError::Data`] or [`PipelineError::Io`] naming the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), PipelineError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let file = File::create(&self.path).map_err(PipelineError::io("create", &self.path))?;
                // A sweep of stale temporary files passes over locked ones.
                let _ = file.try_lock();
                let writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None);
                none.insert(writer.map_err(|e| Self::failed(&self.path, &e))?)
            }
        };
        writer.write(batch).map_err(|e| Self::failed(&self.path, &e))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// As [`StagedTable::write`].
    pub fn finish(&mut self) -> Result<(), PipelineError> {
        match self.writer.take() {
            Some(writer) => writer.close().map(|_| ()).map_err(|e| Self::failed(&self.path, &e)),
            None => Ok(()),
        }
    }

    /// Removes the file.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] naming it.
    pub fn remove(self) -> Result<(), PipelineError> {
        Ok(twotower_artifacts::publish::remove(&self.path)?)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(path: &Path, error: &parquet::errors::ParquetError) -> PipelineError {
        PipelineError::Io {
            action: "write",
            path: path.to_path_buf(),
            source: std::io::Error::other(error.to_string()),
        }
    }
}

impl Drop for StagedTable {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
