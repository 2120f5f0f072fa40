//! Finding an id that stands twice in a table too large to hold, in bounded memory.

use crate::error::PipelineError;
use crate::id_index::hash;
use crate::partitions::Partitions;
use std::path::PathBuf;
use twotower_artifacts::ids::Ids;

/// Collects a 64-bit hash per id; a hash that stands twice is then looked up exactly in a second
/// pass over the ids.
pub struct DuplicateFinder(Partitions<u64>);

impl DuplicateFinder {
    /// A finder without ids; temporary files go to `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(Partitions::new(dir))
    }

    /// Adds ids.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    pub fn add(&mut self, ids: &Ids) -> Result<(), PipelineError> {
        ids.iter().try_for_each(|id| self.0.add(hash(id)))
    }

    /// The hashes that stand more than once, ascending.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be read.
    pub fn repeated(self) -> Result<Vec<u64>, PipelineError> {
        let mut repeated = Vec::new();
        for hashes in self.0.sorted() {
            repeated.extend(hashes?.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]));
        }
        repeated.dedup();
        Ok(repeated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::ids::Id;

    #[test]
    fn a_repeat_is_found_however_far_apart_and_distinct_ids_are_not() {
        let ids: Vec<i64> = (0..3_000_000).collect();
        let mut finder = DuplicateFinder::new(std::env::temp_dir());
        finder.add(&Ids::Int(ids.clone())).unwrap();
        finder.add(&Ids::Int(vec![42])).unwrap();
        assert_eq!(finder.repeated().unwrap(), [hash(Id::Int(42))]);
        let mut finder = DuplicateFinder::new(std::env::temp_dir());
        finder.add(&Ids::Int(ids)).unwrap();
        assert!(finder.repeated().unwrap().is_empty());
    }
}
