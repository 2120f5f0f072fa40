//! Columns of raw batches as the stages need them: ids, times, weights.

use crate::error::PipelineError;
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, TimeUnit};
use std::fs::File;
use std::path::{Path, PathBuf};
use twotower_artifacts::ids::{IdKind, IdProblem, Ids};
use twotower_tables::Table;

/// Whether a table's id column holds integers or text.
///
/// # Errors
/// [`PipelineError::Data`] for a missing column or another type.
pub fn id_kind(table: &Table, column: &str) -> Result<IdKind, PipelineError> {
    let info = table.column(column)?;
    IdKind::of(&info.data_type).ok_or_else(|| {
        PipelineError::Data(format!(
            "{}: column `{column}`: ids of type {}; use integers or text",
            table.name(),
            info.data_type
        ))
    })
}

fn column<'a>(table: &str, batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, PipelineError> {
    batch.column_by_name(name).ok_or_else(|| {
        PipelineError::Data(format!("{table}: column `{name}` was not read; please report this as a bug"))
    })
}

fn id_problem(table: &str, column: &str, first_row: u64, problem: &IdProblem) -> PipelineError {
    let at = problem.row().map_or(String::new(), |row| format!(" at row {}", first_row + row as u64));
    PipelineError::Data(format!("{table}: column `{column}`{at}: {problem}"))
}

/// The ids of a batch, integers or text as the column is.
///
/// # Errors
/// [`PipelineError::Data`] at the first null or empty id, naming its row in the table.
pub fn id_column(table: &str, batch: &RecordBatch, name: &str, first_row: u64) -> Result<Ids, PipelineError> {
    Ids::from_array(column(table, batch, name)?).map_err(|p| id_problem(table, name, first_row, &p))
}

/// Appends the ids of a batch in the kind of `ids`.
///
/// # Errors
/// As [`id_column`]; also text that is no integer where `ids` are integers.
pub fn append_ids(
    ids: &mut Ids,
    table: &str,
    batch: &RecordBatch,
    name: &str,
    first_row: u64,
) -> Result<(), PipelineError> {
    ids.extend_from_array(column(table, batch, name)?).map_err(|p| id_problem(table, name, first_row, &p))
}

/// Times as 64-bit integers: integers as they are, dates and timestamps in their own unit, text
/// and floats that hold whole numbers parsed.
///
/// # Errors
/// [`PipelineError::Data`] at the first null or unreadable time, naming its row.
pub fn timestamp_column(
    table: &str,
    batch: &RecordBatch,
    name: &str,
    first_row: u64,
) -> Result<Int64Array, PipelineError> {
    let array = column(table, batch, name)?;
    let array = match array.data_type() {
        DataType::Date32 => cast(table, name, array, &DataType::Timestamp(TimeUnit::Second, None))?,
        _ => array.clone(),
    };
    let times = match array.data_type() {
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => {
            return Err(PipelineError::Data(format!(
                "{table}: column `{name}` of type {}: a timestamp must be an integer, a date or time type, or integers as text",
                array.data_type()
            )));
        }
        _ => cast(table, name, &array, &DataType::Int64)?,
    };
    whole(table, name, first_row, &array, &times, "a whole number")?;
    Ok(arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Int64Type>(&times).clone())
}

/// Weights as finite, non-negative f32.
///
/// # Errors
/// [`PipelineError::Data`] at the first null, negative or non-finite weight, naming its row.
pub fn weight_column(
    table: &str,
    batch: &RecordBatch,
    name: &str,
    first_row: u64,
) -> Result<Float32Array, PipelineError> {
    let array = column(table, batch, name)?;
    let weights = cast(table, name, array, &DataType::Float32)?;
    whole(table, name, first_row, array, &weights, "a number")?;
    let weights = arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Float32Type>(&weights).clone();
    if let Some(row) = weights.values().iter().position(|w| !w.is_finite() || *w < 0.0) {
        return Err(PipelineError::Data(format!(
            "{table}: column `{name}` at row {}: weight {}: expected a finite number of at least 0",
            first_row + row as u64,
            weights.value(row)
        )));
    }
    Ok(weights)
}

fn cast(table: &str, name: &str, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, PipelineError> {
    arrow_cast::cast(array, to).map_err(|e| {
        PipelineError::Data(format!(
            "{table}: column `{name}` of type {}: not readable as {to}: {e}",
            array.data_type()
        ))
    })
}

/// Refuses a column that was, or by the cast became, null somewhere.
fn whole(
    table: &str,
    name: &str,
    first_row: u64,
    raw: &ArrayRef,
    cast: &ArrayRef,
    expected: &str,
) -> Result<(), PipelineError> {
    let Some(row) = (0..cast.len()).find(|r| cast.is_null(*r)) else { return Ok(()) };
    let found = match raw.is_null(row) {
        true => "null".to_string(),
        false => arrow_cast::display::array_value_to_string(raw, row).map_or("a value".into(), |v| format!("`{v}`")),
    };
    Err(PipelineError::Data(format!(
        "{table}: column `{name}` at row {}: expected {expected}, found {found}",
        first_row + row as u64
    )))
}

/// All batches as one.
///
/// # Errors
/// [`PipelineError::Data`] when their types differ.
pub fn concat(table: &str, batches: &[RecordBatch]) -> Result<RecordBatch, PipelineError> {
    let schema = match batches.first() {
        Some(first) => first.schema(),
        None => return Err(PipelineError::Data(format!("{table}: the table has no rows"))),
    };
    arrow_select::concat::concat_batches(&schema, batches)
        .map_err(|e| PipelineError::Data(format!("{table}: put the files' rows together: {e}")))
}

/// The given rows of a batch, in that order.
///
/// # Errors
/// [`PipelineError::Data`] for an unsupported column type.
pub fn take(table: &str, batch: &RecordBatch, rows: &[usize]) -> Result<RecordBatch, PipelineError> {
    let rows = UInt64Array::from_iter_values(rows.iter().map(|r| *r as u64));
    arrow_select::take::take_record_batch(batch, &rows)
        .map_err(|e| PipelineError::Data(format!("{table}: pick rows: {e}")))
}

/// A Parquet file for this process alone, written batch by batch and removed with the value.
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
