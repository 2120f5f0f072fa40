//! Rows that cannot be used: which ones, and why.

use crate::error::PipelineError;
use serde::{Deserialize, Serialize};
use twotower_artifacts::{Id, IdKind, Ids};
use twotower_tables::{Place, TableBatch, TableError, id_column_as};

/// Longer text is no id, but a damaged row.
const MAX_ID_BYTES: usize = 4096;
/// Characters of an id that the quarantine file shows.
const SHOWN_ID: usize = 100;
/// Characters of a reason that the quarantine file shows: it may quote a value.
const SHOWN_REASON: usize = 400;

/// A row that cannot be used, as it stands in the quarantine file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// The table.
    pub table: String,
    /// The file of the table.
    pub file: String,
    /// Row of the whole table, from 0.
    pub row: u64,
    /// Row of the file, from 0.
    pub row_in_file: u64,
    /// Of a text file, the line on which the row begins, from 1, as editors count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Its id, where there is one; cut if it is long.
    pub id: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl BadRow {
    /// A row of a batch whose id stands in a column.
    pub fn new(batch: &TableBatch, row: usize, id_column: &str, reason: &str) -> Self {
        let shown = |column: &arrow_array::ArrayRef| {
            let there = row < column.len() && !column.is_null(row);
            there.then(|| arrow_cast::display::array_value_to_string(column, row).ok()).flatten()
        };
        let id = batch.batch.column_by_name(id_column).and_then(shown).map(|id| cut(&id, SHOWN_ID));
        Self {
            table: batch.table().to_string(),
            file: batch.path().display().to_string(),
            row: batch.first_row + row as u64,
            row_in_file: batch.row_in_file + row as u64,
            line: match batch.place(row) {
                Place::Line(line) => Some(line),
                Place::Row(_) => None,
            },
            id: id.filter(|id| !id.is_empty()),
            reason: cut(reason, SHOWN_REASON),
        }
    }
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.line.map_or(Place::Row(self.row_in_file), Place::Line);
        write!(f, "row {} ({place} of {}", self.row, self.file)?;
        self.id.iter().try_for_each(|id| write!(f, ", id `{id}`"))?;
        write!(f, "): {}", self.reason)
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// The ids in a column, none of them longer than ids are.
///
/// # Errors
/// As [`id_column_as`]; [`PipelineError::Data`] for text that is too long.
pub fn readable_ids(batch: &TableBatch, column: &str, kind: IdKind) -> Result<Ids, PipelineError> {
    let ids = id_column_as(batch, column, kind)?;
    let length = |id: Id<'_>| match id {
        Id::Int(_) => 0,
        Id::Text(text) => text.len(),
    };
    let find = || ids.iter().map(length).enumerate().find(|(_, bytes)| *bytes > MAX_ID_BYTES);
    match (ids.longest() > MAX_ID_BYTES).then(find).flatten() {
        None => Ok(ids),
        Some((row, bytes)) => Err(PipelineError::Data(format!(
            "table `{}`: column `{column}` in {} at {}: an id of {bytes} bytes, expected at most {MAX_ID_BYTES}",
            batch.table(),
            batch.path().display(),
            batch.place(row)
        ))),
    }
}

/// Rows parsed, each stretch of good ones with what was made of it, and those that cannot be used, both ascending.
pub type Sifted<T> = (Vec<(TableBatch, T)>, Vec<BadRow>);

/// Parses the rows of a batch but those that could not be read or that `parse` refuses. What is wrong with all rows
/// alike, such as the type of a column, `parse` must refuse of a batch without rows too.
///
/// # Errors
/// What `parse` says of the batch when no row is to blame for it.
pub fn sift<T>(
    batch: &TableBatch,
    id_column: &str,
    parse: impl Fn(&TableBatch) -> Result<T, PipelineError>,
) -> Result<Sifted<T>, PipelineError> {
    let error = match (parse(batch), batch.rejected.is_empty()) {
        (Ok(parsed), true) => return Ok((vec![(batch.clone(), parsed)], Vec::new())),
        (parsed, _) => parsed.err(),
    };
    parse(&batch.slice(0..0))?;
    let mut bad = Vec::new();
    for row in 0..batch.batch.num_rows() {
        let reason = match batch.rejected.binary_search_by_key(&row, |(at, _)| *at) {
            Ok(at) => Some(batch.rejected[at].1.clone()),
            Err(_) => parse(&batch.slice(row..row + 1)).err().map(|error| reason(&error)),
        };
        bad.extend(reason.map(|reason| BadRow::new(batch, row, id_column, &reason)));
    }
    if let Some(error) = error.filter(|_| bad.is_empty()) {
        return Err(error);
    }
    let good = split_around(batch, bad.iter().map(|bad| bad.row));
    let good = good.into_iter().map(|rows| parse(&rows).map(|parsed| (rows, parsed)));
    Ok((good.collect::<Result<_, _>>()?, bad))
}

/// The stretches of a batch between the `bad` rows, numbers of the table, ascending.
pub fn split_around(batch: &TableBatch, bad: impl IntoIterator<Item = u64>) -> Vec<TableBatch> {
    let mut good = Vec::new();
    let mut next = 0;
    let ends = bad.into_iter().map(|row| (row - batch.first_row) as usize);
    for end in ends.chain([batch.batch.num_rows()]) {
        if next < end {
            good.push(batch.slice(next..end));
        }
        next = end + 1;
    }
    good
}

/// What is wrong, without the place, which a bad row names itself.
fn reason(error: &PipelineError) -> String {
    match error {
        PipelineError::Table(TableError::Id { column, problem, .. }) => format!("column `{column}`: {problem}"),
        PipelineError::Within { source, .. } => reason(source),
        other => other.to_string(),
    }
}
