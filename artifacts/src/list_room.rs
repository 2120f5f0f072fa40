//! The room that lists of neighbours take while they are written: how many users make a row group, and how many are
//! turned into columns at a time.

use crate::error::ArtifactError;
use crate::ids::Ids;
use crate::neighbours::NeighbourFormat;
use std::path::Path;

/// List form: the most bytes of lists per row group. The footer describes each row group in some kilobytes, which are
/// held until the file is finished, so row groups should not be small.
pub(crate) const GROUP_BYTES: usize = 36 << 20;
/// List form: the most users per row group.
const GROUP_USERS: usize = 64 * 1024;
/// List form: the most bytes of text per row group beside [`GROUP_BYTES`] of lists, for the user ids.
pub(crate) const GROUP_IDS: usize = 16 << 20;
/// Long form: rows per row group. It is larger, since user ids and ranks take room too.
pub(crate) const GROUP_ROWS: usize = 1 << 20;
/// Long form: the most bytes of ids per row group.
pub(crate) const GROUP_TEXT: usize = 64 << 20;
/// List form: users that are turned into Arrow columns at a time.
const CHUNK_USERS: usize = 1024;
/// Long form: pairs of a user and an item that are turned into Arrow columns at a time.
pub(crate) const CHUNK_PAIRS: usize = 16 * 1024;
/// Long form: the most bytes of ids in the pairs that are turned into columns at a time. Where ids are long, there are
/// fewer pairs.
pub(crate) const CHUNK_TEXT: usize = 4 << 20;

/// The most room that a list of neighbours takes. The number of users in a row group follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListRoom {
    /// The most pairs of an item and a score in a list.
    pub(crate) pairs: usize,
    /// The most bytes of a pair.
    pub(crate) pair_bytes: usize,
}

impl ListRoom {
    /// Room for lists of at most `k` items with these ids.
    pub fn new(k: usize, items: &Ids) -> Self {
        Self { pairs: k.min(items.len()), pair_bytes: size_of::<f32>() + items.longest() }
    }

    /// The same for lists whose pairs have an inner product too, where that `is_written`.
    #[must_use]
    pub fn with_score(self, is_written: bool) -> Self {
        let score = if is_written { size_of::<f32>() } else { 0 };
        Self { pair_bytes: self.pair_bytes + score, ..self }
    }

    /// The most bytes of a user's list.
    pub fn user_bytes(self) -> usize {
        self.pairs * self.pair_bytes
    }

    /// Users per row group of the list form.
    pub(crate) fn group_users(self) -> usize {
        match (GROUP_BYTES / self.user_bytes().max(1)).clamp(1, GROUP_USERS) {
            few @ ..CHUNK_USERS => few,
            many => many / CHUNK_USERS * CHUNK_USERS,
        }
    }

    /// Users turned into columns of the list form at a time.
    pub(crate) fn chunk_users(self) -> usize {
        match self.group_users() {
            few @ ..CHUNK_USERS => (few / 8).max(1),
            _ => CHUNK_USERS,
        }
    }

    /// About how many bytes of memory a sink takes: a row group, and the columns that are added to it.
    pub fn writer_bytes(self, format: NeighbourFormat) -> u64 {
        let users = |users: usize| users * (self.user_bytes() + 64);
        // The buffers of a column double as they grow, and are kept until an encoding step is full.
        let lists = (users(self.group_users()) + 3 * users(self.chunk_users())).max(GROUP_ROWS * 32);
        let bytes = match format {
            NeighbourFormat::Parquet | NeighbourFormat::Jsonl => lists,
            NeighbourFormat::ParquetLong => lists.max((GROUP_ROWS * self.pair_bytes).min(GROUP_TEXT) + 4 * CHUNK_TEXT),
        };
        bytes as u64
    }

    /// Checks that a list fits into a column, whose offsets have 32 bits.
    pub(crate) fn check(self, path: &Path) -> Result<(), ArtifactError> {
        let most = i32::MAX as usize;
        match self.user_bytes() {
            bytes if bytes > most => Err(ArtifactError::TooLong { path: path.to_path_buf(), bytes, most }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Id, IdKind};

    #[test]
    fn row_groups_shrink_with_the_length_of_lists_and_ids_down_to_one_user() {
        let text = |bytes: usize, items: usize| {
            let mut ids = Ids::new(IdKind::Text);
            (0..items).for_each(|_| ids.push(Id::Text(&"x".repeat(bytes))));
            ids
        };
        let room = |k, ids: &Ids| ListRoom::new(k, ids);
        assert_eq!(room(50, &Ids::Int(vec![1; 2000])).group_users(), 62_464);
        assert_eq!(room(50, &Ids::Int(vec![1; 2])).group_users(), GROUP_USERS);
        assert_eq!(room(50, &text(20, 100)).group_users(), 30_720);
        assert_eq!(room(1000, &text(4096, 1000)).group_users(), 9);
        let longest = ListRoom { pairs: 300_000, pair_bytes: 4100 };
        assert_eq!((longest.group_users(), longest.chunk_users()), (1, 1));
        assert!(longest.check(Path::new("p")).is_ok());
        let beyond = ListRoom { pairs: 600_000, pair_bytes: 4100 };
        assert!(matches!(beyond.check(Path::new("p")), Err(ArtifactError::TooLong { .. })));
    }
}
