//! Columns of raw batches as the stages need them: ids and weights.

use crate::error::PipelineError;
use crate::watch::cancel::Cancel;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use std::ops::Range;
use std::sync::Arc;
use twotower_artifacts::Ids;
use twotower_encoders::EncoderError;
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
    let failed = |e| PipelineError::Data(format!("{}: put the files' rows together: {e}", table.name()));
    let batches = batches.map(|b| without_dictionaries(&b?.batch).map_err(failed));
    let batches = batches.collect::<Result<Vec<_>, PipelineError>>()?;
    let schema = match batches.first() {
        Some(first) => first.schema(),
        None => return Err(PipelineError::Data(format!("{}: no rows were read", table.name()))),
    };
    arrow_select::concat::concat_batches(&schema, &batches).map_err(failed)
}

/// The same rows with text instead of dictionaries, which some files of a table may have and others not.
fn without_dictionaries(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let column = match column.data_type() {
            DataType::Dictionary(_, values) => arrow_cast::cast(column, values)?,
            _ => column.clone(),
        };
        Ok((field.as_ref().clone().with_data_type(column.data_type().clone()).with_nullable(true), column))
    });
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) =
        columns.collect::<Result<Vec<_>, ArrowError>>()?.into_iter().unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
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

/// An encoder's error with the file and row it happened at.
pub fn encode_error(error: EncoderError, batch: &TableBatch) -> PipelineError {
    PipelineError::from(error.with_first_row(batch.row_in_file)).within(format!(
        "table `{}`: {}",
        batch.table(),
        batch.path().display()
    ))
}

pub(super) fn column<'a>(batch: &'a TableBatch, name: &str) -> Result<&'a ArrayRef, PipelineError> {
    batch.batch.column_by_name(name).ok_or_else(|| {
        PipelineError::Data(format!("{}: column `{name}` was not read; please report this as a bug", batch.table()))
    })
}

/// Table, column and file, as they stand in messages.
pub(super) fn place(batch: &TableBatch, name: &str) -> String {
    format!("table `{}`: column `{name}` in {}", batch.table(), batch.path().display())
}

/// Weights as finite, non-negative f32; true is 1, false 0.
///
/// # Errors
/// [`PipelineError::Data`] for a column that holds no numbers, and at the first null, negative or non-finite weight,
/// naming file and row.
pub fn weight_column(batch: &TableBatch, name: &str) -> Result<Float32Array, PipelineError> {
    let raw = column(batch, name)?;
    if !holds_numbers(raw.data_type()) {
        let (place, found) = (place(batch, name), raw.data_type());
        return Err(PipelineError::Data(format!("{place} is {found}, expected numbers, booleans, or numbers as text")));
    }
    let weights = cast(batch, name, raw, &DataType::Float32)?;
    whole(batch, name, raw, &weights, "a number")?;
    let weights = weights.as_primitive::<Float32Type>().clone();
    match weights.values().iter().position(|w| !w.is_finite() || *w < 0.0) {
        None => Ok(weights),
        Some(row) => Err(PipelineError::Data(format!(
            "{} at {}: weight {}: expected a finite number of at least 0",
            place(batch, name),
            batch.place(row),
            weights.value(row)
        ))),
    }
}

/// Whether values of a type are numbers, or text that may be.
fn holds_numbers(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => holds_numbers(values),
        DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        other => other.is_numeric(),
    }
}

/// A column as another type; null where it has no such value.
///
/// # Errors
/// [`PipelineError::Data`] where no column of the type can be.
pub(super) fn cast(batch: &TableBatch, name: &str, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, PipelineError> {
    arrow_cast::cast(array, to).map_err(|e| {
        let (place, found) = (place(batch, name), array.data_type());
        PipelineError::Data(format!("{place} is {found}, not readable as {to}: {e}"))
    })
}

/// Refuses a column with a null, be it that the raw value was null or that it could not be cast.
///
/// # Errors
/// [`PipelineError::Data`] naming file, row and what was found.
pub(super) fn whole(
    batch: &TableBatch,
    name: &str,
    raw: &ArrayRef,
    cast: &ArrayRef,
    expected: &str,
) -> Result<(), PipelineError> {
    let Some(row) = (0..cast.len()).find(|r| cast.is_null(*r)) else { return Ok(()) };
    let found = match raw.is_null(row) {
        true => "null".to_string(),
        false => arrow_cast::display::array_value_to_string(raw, row).map_or("a value".into(), |v| format!("`{v}`")),
    };
    let at = batch.place(row);
    Err(PipelineError::Data(format!("{} at {at}: expected {expected}, found {found}", place(batch, name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{BooleanArray, Date32Array, Float64Array, Int64Array, StringArray};
    use std::path::Path;
    use twotower_tables::TableSpec;

    /// A batch of a table `events` with a column `x`. Its first row is row 3 of the table.
    fn batch(dir: &Path, x: ArrayRef) -> TableBatch {
        let path = dir.join("events.csv");
        std::fs::write(&path, "id\n".to_string() + &"1\n".repeat(4)).unwrap();
        let table = Table::open("events", &TableSpec::new(path.to_str().unwrap())).unwrap();
        let read = ReadOptions { columns: &["id".into()], rows: 3..u64::MAX, batch_rows: 100 };
        let mut batch = table.read(read).unwrap().next().unwrap().unwrap();
        batch.batch = RecordBatch::try_from_iter_with_nullable([("x", x, true)]).unwrap();
        batch
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn reals(values: &[Option<f64>]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    #[test]
    fn weights_are_finite_and_not_negative() {
        let dir = tempfile::tempdir().unwrap();
        let read = |x: ArrayRef| weight_column(&batch(dir.path(), x), "x");
        let given: [(ArrayRef, [f32; 2]); 4] = [
            (reals(&[Some(0.0), Some(2.5)]), [0.0, 2.5]),
            (Arc::new(BooleanArray::from(vec![false, true])), [0.0, 1.0]),
            (Arc::new(Int64Array::from(vec![1, 3])), [1.0, 3.0]),
            (texts(&["0.5", "1e3"]), [0.5, 1000.0]),
        ];
        for (x, expected) in given {
            let kind = x.data_type().clone();
            assert_eq!(read(x).unwrap().values()[..], expected, "{kind}");
        }
        let refused = [
            (reals(&[Some(1.0), None]), "at line 6: expected a number, found null"),
            (texts(&["1", "heavy"]), "at line 6: expected a number, found `heavy`"),
            (reals(&[Some(-1.0)]), "at line 5: weight -1: expected a finite number of at least 0"),
            (reals(&[Some(1.0), Some(f64::NAN)]), "at line 6: weight NaN: "),
            (reals(&[Some(1e300)]), "at line 5: weight inf: "),
            (Arc::new(Date32Array::from(vec![1])), "is Date32, expected numbers"),
        ];
        for (x, says) in refused {
            let error = read(x).unwrap_err().to_string();
            assert!(error.contains("table `events`: column `x` in ") && error.contains(says), "{error}");
        }
    }
}
