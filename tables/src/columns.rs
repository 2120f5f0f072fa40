//! Id columns of raw tables.

use crate::error::TableError;
use crate::table::{Table, TableBatch};
use arrow_array::{Array, ArrayRef};
use twotower_artifacts::{IdKind, IdProblem, Ids};

/// The kind of ids in a column: integers stay integers, text (so every column of a text file) is text.
///
/// # Errors
/// [`TableError::MissingColumn`], or [`TableError::ColumnType`] when it is neither.
pub fn id_kind(table: &Table, column: &str) -> Result<IdKind, TableError> {
    let found = &table.column(column)?.data_type;
    IdKind::of(found).ok_or_else(|| TableError::ColumnType {
        table: table.name().to_string(),
        column: column.to_string(),
        path: table.paths().next().map(Into::into).unwrap_or_default(),
        found: found.clone(),
        expected: "integers or text, since it holds ids".to_string(),
    })
}

/// The ids in a column of a batch, of the kind the column has.
///
/// # Errors
/// [`TableError::Id`], with file and row, for a null or empty id or a column of another type.
pub fn id_column(batch: &TableBatch, column: &str) -> Result<Ids, TableError> {
    let array = batch_column(batch, column)?;
    Ids::from_array(array.as_ref()).map_err(|problem| id_error(batch, column, problem))
}

/// The ids in a column of a batch, converted to `kind`: the kind of the table that they refer to.
///
/// # Errors
/// As [`id_column`], and for text that is not an integer where `kind` is [`IdKind::Int`].
pub fn id_column_as(batch: &TableBatch, column: &str, kind: IdKind) -> Result<Ids, TableError> {
    let array = batch_column(batch, column)?;
    let mut ids = Ids::new(kind);
    ids.extend_from_array(array.as_ref()).map_err(|problem| id_error(batch, column, problem))?;
    Ok(ids)
}

/// As [`id_column_as`], an Arrow column as [`Ids::to_array`] gives it; a column that is one already is not copied.
///
/// # Errors
/// As [`id_column_as`], but for empty ids where nothing is converted.
pub fn id_array_as(batch: &TableBatch, column: &str, kind: IdKind) -> Result<ArrayRef, TableError> {
    let array = batch_column(batch, column)?;
    if *array.data_type() == kind.data_type() && array.null_count() == 0 {
        return Ok(array.clone());
    }
    let ids = id_column_as(batch, column, kind)?;
    Ok(ids.to_array(0..ids.len()))
}

fn batch_column<'a>(batch: &'a TableBatch, column: &str) -> Result<&'a ArrayRef, TableError> {
    batch.batch.column_by_name(column).ok_or_else(|| TableError::MissingColumn {
        table: batch.table().to_string(),
        column: column.to_string(),
        path: batch.path().to_path_buf(),
        columns: batch.batch.schema_ref().fields().iter().map(|f| f.name().clone()).collect(),
        nearest: None,
    })
}

fn id_error(batch: &TableBatch, column: &str, problem: IdProblem) -> TableError {
    TableError::Id {
        table: batch.table().to_string(),
        column: column.to_string(),
        path: batch.path().to_path_buf(),
        place: problem.row().map(|row| batch.place(row)),
        problem,
    }
}
