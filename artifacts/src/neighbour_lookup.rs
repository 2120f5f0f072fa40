//! Some lists of a file of neighbours, whatever its format: one user's, or those of the first users. Memory is that of
//! a batch, however large the file: a thousand rows of the longest ids are some megabytes.

use crate::error::ArtifactError;
use crate::ids::{Id, IdKind, Ids};
use crate::neighbours::{LONG, NeighbourFormat, NeighboursInfo, NeighboursOf};
use crate::neighbours_file::{NeighbourTable, read_list_rows};
use crate::parquet_file::ParquetSource;
use crate::publish::io_error;
use crate::regular::open_regular;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;

/// Rows of a column of ids that are looked at together.
pub(crate) const BATCH: usize = 4096;
/// Rows of the long form that are read together.
const LONG_BATCH: usize = 1024;

/// The lists of the first users of a file, at most so many, and of each list the first `best` items. In the long form
/// users without neighbours are not there.
///
/// # Errors
/// A file that cannot be read, or is not of this format.
pub fn first_lists(
    path: &Path,
    format: NeighbourFormat,
    users: usize,
    best: usize,
) -> Result<NeighbourTable, ArtifactError> {
    let none = || NeighbourTable::new(&NeighboursInfo::of_users(IdKind::Int, IdKind::Int));
    match format {
        NeighbourFormat::Parquet => {
            let mut whole: Option<NeighbourTable> = None;
            for batch in read_list_rows(path, 0..users as u64, users)? {
                let batch = batch?;
                whole.get_or_insert_with(|| batch.empty_like()).extend_best(&batch, best);
            }
            Ok(whole.unwrap_or_else(none))
        }
        NeighbourFormat::ParquetLong => {
            let file = LongFile::open(path)?;
            let end = file.end_of_users(users)?;
            file.lists(0..end, best)
        }
        NeighbourFormat::Jsonl => {
            let mut lines = Lines::open(path)?;
            let mut table = None;
            while table.as_ref().is_none_or(|table: &NeighbourTable| table.users.len() < users)
                && let Some(line) = lines.next()?
            {
                let (user, items, scores) = lines.parse(&line)?;
                let table = table.get_or_insert_with(|| lines.table(&user, &items));
                let best = best.min(items.len());
                lines.push(table, &user, &items[..best], &scores[..best])?;
            }
            Ok(table.unwrap_or_else(none))
        }
    }
}

/// A user's list, and the place of the user in the file, counted from 0; none where the file does not name him. In the
/// long form, where users without neighbours are not there, there is no place.
///
/// # Errors
/// As [`first_lists`].
pub fn find_list(
    path: &Path,
    format: NeighbourFormat,
    user: Id<'_>,
) -> Result<Option<(Option<u64>, NeighbourTable)>, ArtifactError> {
    match format {
        NeighbourFormat::Parquet => {
            let source = ParquetSource::open(path)?;
            let Some(row) = rows_of(&source, path, user)?.map(|rows| rows.start) else { return Ok(None) };
            let list = filled(read_list_rows(path, row..row + 1, 1)?)?;
            Ok(list.map(|list| (Some(row), list)))
        }
        NeighbourFormat::ParquetLong => {
            let file = LongFile::open(path)?;
            let Some(rows) = rows_of(&file.source, path, user)? else { return Ok(None) };
            Ok(Some((None, file.lists(rows, usize::MAX)?)))
        }
        NeighbourFormat::Jsonl => {
            let mut lines = Lines::open(path)?;
            let [whose, _, _] = NeighboursOf::Users.columns();
            // As the sink writes it, so that of other lines no more is looked at.
            let id = serde_json::to_string(&user).map_err(|e| lines.corrupt(&e.to_string()))?;
            let begin = format!("{{\"{whose}\":{id},");
            while let Some(line) = lines.next()? {
                if line.starts_with(&begin) {
                    let (user, items, scores) = lines.parse(&line)?;
                    let mut table = lines.table(&user, &items);
                    lines.push(&mut table, &user, &items, &scores)?;
                    return Ok(Some((Some(lines.number - 1), table)));
                }
            }
            Ok(None)
        }
    }
}

/// Whether `is` says so of one of the users of a file; users after that are not looked at. The long form names a user
/// once a row.
///
/// # Errors
/// As [`first_lists`].
pub fn any_user(
    path: &Path,
    format: NeighbourFormat,
    mut is: impl FnMut(Id<'_>) -> bool,
) -> Result<bool, ArtifactError> {
    if format == NeighbourFormat::Jsonl {
        let mut lines = Lines::open(path)?;
        while let Some(line) = lines.next()? {
            let (user, _, _) = lines.parse(&line)?;
            let found = match (user.as_i64(), user.as_str()) {
                (Some(number), _) => is(Id::Int(number)),
                (None, Some(text)) => is(Id::Text(text)),
                (None, None) => return Err(lines.corrupt("expected a user's id")),
            };
            if found {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    for batch in ParquetSource::open(path)?.first_column(0..u64::MAX, BATCH)? {
        if ids(&batch?, path)?.iter().any(&mut is) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first batch that is not empty.
fn filled(
    mut batches: impl Iterator<Item = Result<NeighbourTable, ArtifactError>>,
) -> Result<Option<NeighbourTable>, ArtifactError> {
    batches.find(|batch| batch.as_ref().map_or(true, |table| !table.users.is_empty())).transpose()
}

/// The ids in the first column of a batch.
pub(crate) fn ids(batch: &RecordBatch, path: &Path) -> Result<Ids, ArtifactError> {
    Ids::from_array(batch.column(0).as_ref()).map_err(|problem| problem.in_file(path, "the first column"))
}

/// The rows of a user, which stand together.
fn rows_of(source: &ParquetSource, path: &Path, user: Id<'_>) -> Result<Option<Range<u64>>, ArtifactError> {
    let (mut row, mut found) = (0, None::<Range<u64>>);
    for batch in source.first_column(0..u64::MAX, BATCH)? {
        for id in ids(&batch?, path)?.iter() {
            match (&mut found, id == user) {
                (None, true) => found = Some(row..row + 1),
                (Some(rows), true) => rows.end = row + 1,
                (Some(_), false) => return Ok(found),
                (None, false) => {}
            }
            row += 1;
        }
    }
    Ok(found)
}

/// A file of the long form.
#[derive(Debug)]
pub(crate) struct LongFile {
    pub(crate) source: ParquetSource,
    info: NeighboursInfo,
}

impl LongFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ArtifactError> {
        let source = ParquetSource::open(path)?;
        let info = source.details(LONG)?;
        Ok(Self { source, info })
    }

    /// The same file, which another thread can read at the same time.
    pub(crate) fn apart(&self) -> Result<Self, ArtifactError> {
        Ok(Self { source: self.source.apart()?, info: self.info.clone() })
    }

    /// The row after those of the first so many users.
    fn end_of_users(&self, users: usize) -> Result<u64, ArtifactError> {
        let (mut row, mut seen, mut last) = (0, 0, None::<String>);
        for batch in self.source.first_column(0..u64::MAX, BATCH)? {
            for id in ids(&batch?, self.source.path())?.iter() {
                let id = id.to_string();
                if last.as_ref() != Some(&id) {
                    if seen == users {
                        return Ok(row);
                    }
                    seen += 1;
                    last = Some(id);
                }
                row += 1;
            }
        }
        Ok(row)
    }

    /// The first `best` items of the lists in a range of rows, which begins with a user's first.
    pub(crate) fn lists(&self, rows: Range<u64>, best: usize) -> Result<NeighbourTable, ArtifactError> {
        let mut table = NeighbourTable::new(&self.info);
        for batch in self.source.batches(rows, LONG_BATCH)? {
            let batch = batch?;
            let columns = match batch.columns() {
                [_, rank, item, score, ..] => rank
                    .as_primitive_opt::<UInt32Type>()
                    .zip(score.as_primitive_opt::<Float32Type>())
                    .map(|(rank, score)| (rank, item, score)),
                _ => None,
            };
            let (rank, item, score) =
                columns.ok_or_else(|| self.source.corrupt("expected an id, `rank`, an id and `cosine_similarity`"))?;
            let users = ids(&batch, self.source.path())?;
            let items =
                Ids::from_array(item.as_ref()).map_err(|e| e.in_file(self.source.path(), "the column of items"))?;
            for (row, rank) in rank.values().iter().enumerate() {
                if *rank == 1 {
                    table.users.push(users.get(row));
                    table.offsets.push(table.items.len());
                }
                if table.users.is_empty() {
                    return Err(self.source.corrupt(format!("the first rank of a list is {rank}")));
                }
                if *rank as usize <= best {
                    table.items.push(items.get(row));
                    table.scores.push(score.value(row));
                }
                if let Some(end) = table.offsets.last_mut() {
                    *end = table.items.len();
                }
            }
        }
        Ok(table)
    }
}

/// Lines of a file of JSON Lines.
struct Lines<'a> {
    reader: BufReader<std::fs::File>,
    path: &'a Path,
    /// Lines read.
    number: u64,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, ArtifactError> {
        Ok(Self { reader: BufReader::new(open_regular(path)?), path, number: 0 })
    }

    fn next(&mut self) -> Result<Option<String>, ArtifactError> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).map_err(io_error("read", self.path))?;
        self.number += u64::from(read > 0);
        Ok((read > 0).then_some(line))
    }

    fn corrupt(&self, reason: &str) -> ArtifactError {
        ArtifactError::Corrupt { path: self.path.to_path_buf(), reason: format!("line {}: {reason}", self.number) }
    }

    /// A line's user, items and similarities.
    fn parse(&self, line: &str) -> Result<(Value, Vec<Value>, Vec<f32>), ArtifactError> {
        let [whose, items, _] = NeighboursOf::Users.columns();
        let mut value: Value = serde_json::from_str(line).map_err(|e| self.corrupt(&e.to_string()))?;
        let mut take = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
        let (user, items, scores) = (take(whose), take(items), take("cosine_similarity"));
        let scores: Vec<f32> = serde_json::from_value(scores).map_err(|e| self.corrupt(&e.to_string()))?;
        match items {
            Value::Array(items) if items.len() == scores.len() => Ok((user, items, scores)),
            _ => Err(self.corrupt("expected as many items as similarities")),
        }
    }

    /// A table for such ids.
    fn table(&self, user: &Value, items: &[Value]) -> NeighbourTable {
        let kind = |id: &Value| if id.is_string() { IdKind::Text } else { IdKind::Int };
        let items = items.first().map_or(IdKind::Int, kind);
        NeighbourTable::new(&NeighboursInfo::of_users(kind(user), items))
    }

    fn push(
        &self,
        table: &mut NeighbourTable,
        user: &Value,
        items: &[Value],
        scores: &[f32],
    ) -> Result<(), ArtifactError> {
        // The lists before were empty, and said nothing about the kind of ids.
        if table.items.is_empty() {
            table.items = self.table(user, items).items;
        }
        for (ids, found) in [(&mut table.users, std::slice::from_ref(user)), (&mut table.items, items)] {
            for id in found {
                match (ids.kind(), id.as_i64(), id.as_str()) {
                    (IdKind::Int, Some(id), _) => ids.push(Id::Int(id)),
                    (IdKind::Text, _, Some(id)) => ids.push(Id::Text(id)),
                    _ => return Err(self.corrupt(&format!("the id {id} is not of the kind of those before it"))),
                }
            }
        }
        table.scores.extend_from_slice(scores);
        table.offsets.push(table.scores.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list_room::ListRoom;
    use crate::neighbours::{NeighbourLists, open_sink};
    use crate::parquet_file::Compression;

    /// A file of 300 users, of which user `u` has `u % 4` of 5 items.
    fn written(dir: &Path, format: NeighbourFormat, text: bool) -> std::path::PathBuf {
        let path = dir.join(format!("{text}.{format:?}"));
        let named = |prefix: &str, n: i64| {
            let mut ids = Ids::new(if text { IdKind::Text } else { IdKind::Int });
            (0..n).for_each(|i| match text {
                true => ids.push(Id::Text(&format!("{prefix}\"{i}"))),
                false => ids.push(Id::Int(7 * i)),
            });
            ids
        };
        let (users, items) = (named("u", 300), named("i", 5));
        let lens: Vec<usize> = (0..300).map(|user| user % 4).collect();
        let offsets: Vec<usize> = (0..=300).map(|user| lens[..user].iter().sum()).collect();
        let rows: Vec<u32> = lens.iter().flat_map(|len| (0..*len as u32).rev()).collect();
        let scores: Vec<f32> = rows.iter().map(|row| *row as f32 / 8.0).collect();
        let lists = NeighbourLists { offsets: &offsets, rows: &rows, scores: &scores, item_ids: &items };
        let info = NeighboursInfo::of_users(users.kind(), items.kind());
        let mut sink = open_sink(format, &path, &info, ListRoom::new(4, &items), Compression::Lz4).unwrap();
        sink.write(&users, &lists).unwrap();
        sink.finish().unwrap();
        path
    }

    #[test]
    fn a_users_list_is_found_in_every_format_and_a_stranger_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for format in NeighbourFormat::ALL {
            for text in [false, true] {
                let path = written(dir.path(), format, text);
                for user in [1usize, 3, 64, 65, 299] {
                    let name = format!("u\"{user}");
                    let id = if text { Id::Text(&name) } else { Id::Int(7 * user as i64) };
                    let found = find_list(&path, format, id).unwrap();
                    if format == NeighbourFormat::ParquetLong && user % 4 == 0 {
                        assert_eq!(found, None);
                        continue;
                    }
                    let (place, list) = found.unwrap();
                    let place_known = format != NeighbourFormat::ParquetLong;
                    assert_eq!(place, place_known.then_some(user as u64), "{format:?}");
                    assert_eq!((list.users.get(0), list.users.len()), (id, 1));
                    let expected: Vec<f32> = (0..user % 4).rev().map(|row| row as f32 / 8.0).collect();
                    assert_eq!((&list.scores, &list.offsets), (&expected, &vec![0, user % 4]), "{format:?} {user}");
                    let items: Vec<String> = list.items.iter().map(|id| id.to_string()).collect();
                    let item = |row: usize| if text { format!("i\"{row}") } else { (7 * row).to_string() };
                    assert_eq!(items, (0..user % 4).rev().map(item).collect::<Vec<_>>());
                }
                let stranger = if text { Id::Text("u") } else { Id::Int(6) };
                assert_eq!(find_list(&path, format, stranger).unwrap(), None, "{format:?}");
            }
        }
    }

    #[test]
    fn the_first_lists_are_those_of_the_first_users() {
        let dir = tempfile::tempdir().unwrap();
        for format in NeighbourFormat::ALL {
            let path = written(dir.path(), format, true);
            let first = first_lists(&path, format, 3, 2).unwrap();
            // Users 0, 4, … have no items, and the long form does not name them.
            let (users, offsets) = match format {
                NeighbourFormat::ParquetLong => (["u\"1", "u\"2", "u\"3"], vec![0, 1, 3, 5]),
                _ => (["u\"0", "u\"1", "u\"2"], vec![0, 0, 1, 3]),
            };
            assert_eq!(first.users.iter().map(|id| id.to_string()).collect::<Vec<_>>(), users, "{format:?}");
            assert_eq!(first.offsets, offsets, "{format:?}");
            let items: Vec<String> = first.items.iter().map(|id| id.to_string()).collect();
            let best = ["i\"0", "i\"1", "i\"0", "i\"2", "i\"1"];
            assert_eq!(items, best[..first.offsets[3]], "{format:?}");
            assert_eq!(first_lists(&path, format, 1000, 9).unwrap().scores.len(), 450, "{format:?}");
        }
    }
}
