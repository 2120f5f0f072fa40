//! Pairs of user and item row, looked up by user in bounded memory, however many there are.

use crate::error::PipelineError;
use crate::rows::id_filter::IdFilter;
use crate::rows::partitions::{Partitions, Record};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use twotower_artifacts::Id;
use twotower_artifacts::keyed::Identity;

/// Pairs read from disk at a time.
const BLOCK: usize = 340;
const PAIR: usize = <(Identity, u64)>::BYTES;

/// Collects pairs of a [`PairStore`].
pub struct PairStoreBuilder {
    pairs: Partitions<(Identity, u64)>,
    count: u64,
    dir: PathBuf,
}

impl PairStoreBuilder {
    /// A builder without pairs; temporary files go to `dir`.
    ///
    /// # Memory
    /// 16 MiB.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { pairs: Partitions::new(&dir), count: 0, dir }
    }

    /// Adds a pair; repeats are fine.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    pub fn add(&mut self, user: Id<'_>, item: u32) -> Result<(), PipelineError> {
        self.count += 1;
        self.pairs.add((Identity::of(user), u64::from(item)))
    }

    /// Sorts the pairs into one file without a name.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written or read.
    pub fn finish(self) -> Result<PairStore, PipelineError> {
        let Self { pairs, count, dir } = self;
        let failed = || PipelineError::io("write a temporary file in", &dir);
        let mut store = PairStore {
            file: tempfile::tempfile_in(&dir).map_err(failed())?,
            firsts: Vec::new(),
            count: 0,
            users: 0,
            filter: IdFilter::new(count),
            dir: dir.clone(),
        };
        let mut writer = BufWriter::with_capacity(1 << 18, &store.file);
        let mut bytes = Vec::new();
        for partition in pairs.sorted() {
            let mut partition = partition?;
            partition.dedup();
            // A user's pairs lie in one partition.
            store.users += partition.chunk_by(|a, b| a.0 == b.0).count();
            bytes.clear();
            for pair in &partition {
                if store.count.is_multiple_of(BLOCK) {
                    store.firsts.push(pair.0.upper);
                }
                store.count += 1;
                store.filter.add(pair.0.upper);
                pair.write(&mut bytes);
            }
            writer.write_all(&bytes).map_err(failed())?;
        }
        writer.flush().map_err(failed())?;
        drop(writer);
        Ok(store)
    }
}

/// Item rows by user, on disk. Users are told apart by the [`Identity`] of their id.
pub struct PairStore {
    /// Distinct pairs, ascending.
    file: File,
    /// Upper half of the identity of the first pair of each block.
    firsts: Vec<u64>,
    count: usize,
    users: usize,
    /// Tells most users without pairs apart, without a look at the file.
    filter: IdFilter,
    dir: PathBuf,
}

impl PairStore {
    /// Appends the user's item rows, ascending and distinct.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when the file cannot be read.
    pub fn extend(&self, user: Id<'_>, rows: &mut Vec<u32>) -> Result<(), PipelineError> {
        let user = Identity::of(user);
        if !self.filter.may_hold(user.upper) {
            return Ok(());
        }
        let mut bytes = [0; BLOCK * PAIR];
        // The user's first pair may stand at the end of the block before the first that starts with its upper half.
        let mut block = self.firsts.partition_point(|first| *first < user.upper).saturating_sub(1);
        while self.firsts.get(block).is_some_and(|first| *first <= user.upper) {
            let pairs = BLOCK.min(self.count - block * BLOCK);
            let bytes = &mut bytes[..pairs * PAIR];
            self.file
                .read_exact_at(bytes, (block * BLOCK * PAIR) as u64)
                .map_err(PipelineError::io("read a temporary file in", &self.dir))?;
            let pairs = bytes.chunks_exact(PAIR).map(<(Identity, u64)>::read);
            rows.extend(pairs.skip_while(|p| p.0 < user).take_while(|p| p.0 == user).map(|p| p.1 as u32));
            block += 1;
        }
        Ok(())
    }

    /// Number of distinct pairs.
    pub fn pairs(&self) -> u64 {
        self.count as u64
    }

    /// Number of users that have pairs.
    pub fn users(&self) -> u64 {
        self.users as u64
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.firsts.len() as u64 * 8 + self.filter.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_user_gets_exactly_its_items_in_order_and_strangers_get_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = PairStoreBuilder::new(dir.path());
        let mut expected: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        // User 7 has more pairs than a block holds.
        for i in 0..20_000u32 {
            let user = if i % 10 == 0 { 7 } else { i64::from(i % 3001) * 3 };
            builder.add(Id::Int(user), i * 31 % 4096).unwrap();
            expected.entry(user).or_default().push(i * 31 % 4096);
        }
        let store = builder.finish().unwrap();
        let found = |user| {
            let mut rows = Vec::new();
            store.extend(Id::Int(user), &mut rows).unwrap();
            rows
        };
        assert_eq!(store.users(), expected.len() as u64);
        let distinct = |items: &Vec<u32>| items.iter().collect::<std::collections::BTreeSet<_>>().len() as u64;
        assert_eq!(store.pairs(), expected.values().map(distinct).sum::<u64>());
        for (user, mut items) in expected {
            items.sort_unstable();
            items.dedup();
            assert_eq!(found(user), items, "user {user}");
        }
        assert!((0..9000).filter(|u| u % 3 != 0 && *u != 7).all(|u| found(u).is_empty()));
    }

    #[test]
    fn an_empty_store_answers_and_text_ids_work() {
        let dir = tempfile::tempdir().unwrap();
        let mut rows = Vec::new();
        let empty = PairStoreBuilder::new(dir.path()).finish().unwrap();
        empty.extend(Id::Text("a"), &mut rows).unwrap();
        assert!(rows.is_empty());
        let mut builder = PairStoreBuilder::new(dir.path());
        builder.add(Id::Text("a"), 5).unwrap();
        builder.add(Id::Text("a"), 5).unwrap();
        builder.finish().unwrap().extend(Id::Text("a"), &mut rows).unwrap();
        assert_eq!(rows, [5]);
    }
}
