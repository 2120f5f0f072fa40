//! Finding an id that stands twice in a table too large to hold, in bounded memory.

use crate::error::PipelineError;
use crate::rows::partitions::Partitions;
use std::path::PathBuf;

/// Collects a 64-bit hash per id ([`hash_id`](twotower_artifacts::keyed::hash_id)); a hash that stands twice is then
/// looked up exactly in a second pass over the ids.
pub struct DuplicateFinder(Partitions<u64>);

impl DuplicateFinder {
    /// A finder without ids; temporary files go to `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(Partitions::new(dir))
    }

    /// Adds hashes of ids.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    pub fn add(&mut self, hashes: &[u64]) -> Result<(), PipelineError> {
        hashes.iter().try_for_each(|hash| self.0.add(*hash))
    }

    /// The hashes that stand more than once, ascending.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be read.
    pub fn repeated(self) -> Result<Vec<u64>, PipelineError> {
        self.0.find_in_each(|hashes| repeated_of(&hashes))
    }
}

/// The hashes that stand more than once, ascending.
fn repeated_of(hashes: &[u64]) -> Vec<u64> {
    // A bit for each value of the low bits says whether they came before: so all repeated hashes are found, and few
    // others.
    let bits = (hashes.len() * 8).next_power_of_two().max(64);
    let place = |hash: u64| ((hash as usize & (bits - 1)) / 64, 1u64 << (hash % 64));
    let (mut once, mut twice) = (vec![0; bits / 64], vec![0; bits / 64]);
    for (word, bit) in hashes.iter().map(|hash| place(*hash)) {
        twice[word] |= once[word] & bit;
        once[word] |= bit;
    }
    let suspect = |hash: &u64| {
        let (word, bit) = place(*hash);
        twice[word] & bit != 0
    };
    let mut suspects: Vec<u64> = hashes.iter().copied().filter(suspect).collect();
    suspects.sort_unstable();
    let mut repeated: Vec<u64> = suspects.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    repeated.dedup();
    repeated
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::ids::Id;
    use twotower_artifacts::keyed::hash_id;

    #[test]
    fn a_repeat_is_found_however_far_apart_and_distinct_ids_are_not() {
        let hashes: Vec<u64> = (0..3_000_000).map(|id| hash_id(Id::Int(id))).collect();
        let mut finder = DuplicateFinder::new(std::env::temp_dir());
        finder.add(&hashes).unwrap();
        finder.add(&hashes[42..43]).unwrap();
        assert_eq!(finder.repeated().unwrap(), [hash_id(Id::Int(42))]);
        let mut finder = DuplicateFinder::new(std::env::temp_dir());
        finder.add(&hashes).unwrap();
        assert!(finder.repeated().unwrap().is_empty());
    }
}
