//! A file of neighbours by its edges: how many rows, and whose are the first and the last.

use crate::error::ArtifactError;
use crate::ids::Ids;
use crate::neighbours::{LISTS, LONG, NeighbourFormat, NeighboursInfo};
use crate::parquet_file::ParquetSource;
use crate::publish::io_error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What [`inspect_neighbours`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourEdges {
    /// Rows: users, or pairs in [`NeighbourFormat::ParquetLong`].
    pub rows: u64,
    /// User of the first row, as text.
    pub first: Option<String>,
    /// User of the last row, as text.
    pub last: Option<String>,
}

/// Looks at the first and the last row of a file that a sink wrote.
///
/// # Errors
/// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Version`], and [`ArtifactError::Corrupt`] for
/// rows that are not of this format.
pub fn inspect_neighbours(path: impl AsRef<Path>, format: NeighbourFormat) -> Result<NeighbourEdges, ArtifactError> {
    let path = path.as_ref();
    let artifact = match format {
        NeighbourFormat::Parquet => LISTS,
        NeighbourFormat::ParquetLong => LONG,
        NeighbourFormat::Jsonl => return inspect_lines(path),
    };
    let source = ParquetSource::open(path)?;
    let _: NeighboursInfo = source.details(artifact)?;
    let rows = source.rows();
    let user = |row: u64| -> Result<Option<String>, ArtifactError> {
        let Some(batch) = source.batches(row..row + 1, 1)?.next().transpose()? else { return Ok(None) };
        let column = batch.columns().first().ok_or_else(|| source.corrupt("no columns"))?;
        let ids = Ids::from_array(column.as_ref()).map_err(|e| e.in_file(path, "user_id"))?;
        Ok(ids.iter().next().map(|id| id.to_string()))
    };
    let last = rows.checked_sub(1).map_or(Ok(None), user)?;
    Ok(NeighbourEdges { rows, first: if rows > 0 { user(0)? } else { None }, last })
}

/// As [`inspect_neighbours`] of JSON Lines: one pass over the file, a line in memory at a time.
fn inspect_lines(path: &Path) -> Result<NeighbourEdges, ArtifactError> {
    let corrupt = |row: u64, reason: &str| ArtifactError::Corrupt {
        path: path.to_path_buf(),
        reason: format!("line {}: {reason}", row + 1),
    };
    let user = |row: u64, line: &str| -> Result<Option<String>, ArtifactError> {
        let value: serde_json::Value = serde_json::from_str(line).map_err(|e| corrupt(row, &e.to_string()))?;
        match &value["user_id"] {
            serde_json::Value::String(id) => Ok(Some(id.clone())),
            serde_json::Value::Number(id) => Ok(Some(id.to_string())),
            _ => Err(corrupt(row, "no `user_id`")),
        }
    };
    let mut lines = BufReader::new(File::open(path).map_err(io_error("open", path))?);
    let (mut rows, mut first, mut line, mut next) = (0, None, String::new(), String::new());
    while lines.read_line(&mut next).map_err(io_error("read", path))? > 0 {
        std::mem::swap(&mut line, &mut next);
        next.clear();
        if rows == 0 {
            first = user(0, &line)?;
        }
        rows += 1;
    }
    let last = if rows > 0 { user(rows - 1, &line)? } else { None };
    Ok(NeighbourEdges { rows, first, last })
}
