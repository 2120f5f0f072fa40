//! An index of the users in parts of results, by which one user's list is read without the others.

use crate::error::ArtifactError;
use crate::ids::{Id, Ids};
use crate::keyed::{hash_id, hash_ids};
use crate::neighbour_lookup::{BATCH, LongFile, ids};
use crate::neighbours::NeighbourFormat;
use crate::neighbours_file::{ListFile, NeighbourTable};
use crate::parquet_file::ParquetSource;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The bits of an entry that are of the hash of an id; the others are the row.
const HASH: u64 = !(u32::MAX as u64);

/// Parts of results, open to be read, with an index of their users.
///
/// # Memory
/// Eight bytes for each user, and the footers of the files. The files stay open, so what is read is what was opened,
/// whatever becomes of their names.
#[derive(Debug)]
pub struct ListIndex {
    parts: Vec<IndexedPart>,
    /// For each user the upper half of the hash of his id, and the row of his first item or list, counted over all
    /// parts. Ascending.
    entries: Vec<u64>,
}

/// A part, and its first row among those of all parts.
#[derive(Debug)]
struct IndexedPart {
    first: u64,
    file: PartFile,
}

#[derive(Debug)]
enum PartFile {
    Lists(ListFile),
    /// With the most rows that a user may have.
    Long(LongFile, u64),
}

/// A user's list.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundList {
    /// The part it stands in, in the order in which they were opened.
    pub part: usize,
    /// The list alone: one user.
    pub list: NeighbourTable,
}

impl ListIndex {
    /// Opens the parts of a result, of which no user has more than `longest` items, and reads the ids of their users.
    /// None for JSON Lines, which have no rows that could be gone to.
    ///
    /// # Errors
    /// Files that cannot be read or are not of this format; more than 2^32 rows.
    pub fn open(paths: &[PathBuf], format: NeighbourFormat, longest: usize) -> Result<Option<Self>, ArtifactError> {
        let open = |path: &Path| -> Result<Option<PartFile>, ArtifactError> {
            Ok(match format {
                NeighbourFormat::Parquet => Some(PartFile::Lists(ListFile::open(path)?)),
                NeighbourFormat::ParquetLong => Some(PartFile::Long(LongFile::open(path)?, longest as u64)),
                NeighbourFormat::Jsonl => None,
            })
        };
        let (mut parts, mut entries, mut first) = (Vec::new(), Vec::new(), 0);
        for path in paths {
            let Some(file) = open(path)? else { return Ok(None) };
            let rows = file.source().rows();
            if first + rows > u64::from(u32::MAX) {
                let reason = format!("with the parts before it {} rows, expected at most {}", first + rows, u32::MAX);
                return Err(ArtifactError::Corrupt { path: path.clone(), reason });
            }
            file.read_users(path, |row, hash| entries.push(hash & HASH | (first + row)))?;
            parts.push(IndexedPart { first, file });
            first += rows;
        }
        entries.par_sort_unstable();
        entries.shrink_to_fit();
        Ok(Some(Self { parts, entries }))
    }

    /// Users with a list.
    pub fn users(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the index.
    pub fn bytes(&self) -> u64 {
        8 * self.entries.len() as u64
    }

    /// A user's list; none where no part names him. Several threads can read at the same time.
    ///
    /// # Errors
    /// Damaged files.
    pub fn find(&self, user: Id<'_>) -> Result<Option<FoundList>, ArtifactError> {
        let hash = hash_id(user) & HASH;
        let from = self.entries.partition_point(|entry| *entry < hash);
        for entry in self.entries[from..].iter().take_while(|entry| *entry & HASH == hash) {
            let row = entry & !HASH;
            let part = self.parts.partition_point(|part| part.first <= row) - 1;
            let IndexedPart { first, file } = &self.parts[part];
            if let Some(list) = file.list(row - first, user)? {
                return Ok(Some(FoundList { part, list }));
            }
        }
        Ok(None)
    }
}

impl PartFile {
    fn source(&self) -> &ParquetSource {
        match self {
            PartFile::Lists(file) => &file.source,
            PartFile::Long(file, _) => &file.source,
        }
    }

    /// Calls `each` with the row of every user, the first of several, and the hash of the id.
    fn read_users(&self, path: &Path, mut each: impl FnMut(u64, u64)) -> Result<(), ArtifactError> {
        let (mut row, mut last) = (0, None::<Ids>);
        for batch in self.source().first_column(0..u64::MAX, BATCH)? {
            let users = ids(&batch?, path)?;
            let is_next = |at: usize| match (self, at.checked_sub(1)) {
                (PartFile::Lists(_), _) => true,
                (PartFile::Long(..), Some(before)) => users.get(before) != users.get(at),
                (PartFile::Long(..), None) => last.as_ref().is_none_or(|last| last.get(0) != users.get(0)),
            };
            hash_ids(&users, |at, hash| {
                if is_next(at) {
                    each(row + at as u64, hash);
                }
            });
            row += users.len() as u64;
            if let Some(end) = users.len().checked_sub(1) {
                let mut of_last = Ids::new(users.kind());
                of_last.push(users.get(end));
                last = Some(of_last);
            }
        }
        Ok(())
    }

    /// The list that begins at a row, if it is the user's.
    fn list(&self, row: u64, user: Id<'_>) -> Result<Option<NeighbourTable>, ArtifactError> {
        let read = match self {
            PartFile::Lists(file) => file.apart()?.rows(row..row + 1, 1)?.next().transpose()?,
            PartFile::Long(file, longest) => Some(file.apart()?.lists(row..row + longest, usize::MAX)?),
        };
        let Some(read) = read.filter(|read| !read.users.is_empty() && read.users.get(0) == user) else {
            return Ok(None);
        };
        let mut list = read.empty_like();
        list.extend_first(&read);
        Ok(Some(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdKind;
    use crate::list_room::ListRoom;
    use crate::neighbours::{NeighbourLists, NeighboursInfo, open_sink};
    use crate::parquet_file::Compression;

    /// Lists of 700 users from `first` on, of whom user `u` has `u % 4` of 5 items.
    fn part(dir: &Path, format: NeighbourFormat, kind: IdKind, first: usize) -> PathBuf {
        let path = dir.join(format!("{first}-{kind}.{format:?}"));
        let named = |prefix: &str, range: std::ops::Range<usize>| {
            let mut ids = Ids::new(kind);
            range.for_each(|i| match kind {
                IdKind::Text => ids.push(Id::Text(&format!("{prefix}{i}"))),
                IdKind::Int => ids.push(Id::Int(7 * i as i64)),
            });
            ids
        };
        let (users, items) = (named("u", first..first + 700), named("i", 0..5));
        let lens: Vec<usize> = (first..first + 700).map(|user| user % 4).collect();
        let offsets: Vec<usize> = (0..=700).map(|user| lens[..user].iter().sum()).collect();
        let rows: Vec<u32> = lens.iter().flat_map(|len| (0..*len as u32).rev()).collect();
        let scores: Vec<f32> = rows.iter().map(|row| *row as f32 / 8.0).collect();
        let lists = NeighbourLists { offsets: &offsets, rows: &rows, scores: &scores, item_ids: &items };
        let info = NeighboursInfo::of_users(kind, kind);
        let mut sink = open_sink(format, &path, &info, ListRoom::new(4, &items), Compression::Lz4).unwrap();
        sink.write(&users, &lists).unwrap();
        sink.finish().unwrap();
        path
    }

    #[test]
    fn every_list_of_every_part_is_found_and_no_stranger_is() {
        let dir = tempfile::tempdir().unwrap();
        for format in [NeighbourFormat::Parquet, NeighbourFormat::ParquetLong] {
            for kind in [IdKind::Int, IdKind::Text] {
                let paths = [0, 700].map(|first| part(dir.path(), format, kind, first));
                let index = ListIndex::open(&paths, format, 3).unwrap().unwrap();
                // What was opened is read, whatever becomes of the names.
                paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
                let long = format == NeighbourFormat::ParquetLong;
                for user in (0..1400usize).step_by(3) {
                    let text = format!("u{user}");
                    let id = if kind == IdKind::Text { Id::Text(&text) } else { Id::Int(7 * user as i64) };
                    let found = index.find(id).unwrap();
                    if long && user % 4 == 0 {
                        assert_eq!(found, None);
                        continue;
                    }
                    let FoundList { part, list } = found.unwrap();
                    assert_eq!((part, list.users.len(), list.users.get(0)), (user / 700, 1, id));
                    let expected: Vec<f32> = (0..user % 4).rev().map(|row| row as f32 / 8.0).collect();
                    assert_eq!((list.scores, list.offsets), (expected, vec![0, user % 4]), "{format:?} {user}");
                }
                assert_eq!(index.users(), if long { 1050 } else { 1400 });
                for id in [Id::Int(3), Id::Int(-7), Id::Text("u1400"), Id::Text("7"), Id::Text("")] {
                    assert_eq!(index.find(id).unwrap(), None, "{format:?} {id}");
                }
            }
        }
        assert!(ListIndex::open(&[dir.path().join("x")], NeighbourFormat::Jsonl, 3).unwrap().is_none());
    }
}
