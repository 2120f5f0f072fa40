//! A sample of the results: lists of the same users every night, for the gates to compare.
//!
//! A user is in the sample when the hash of the id is low enough, so the sample depends on neither the order of
//! the table, nor shards, nor the format of the results, and two nights have nearly the same users in it.

use crate::error::PipelineError;
use crate::run::dir::{RunDir, prepare_dir, remove_if_there};
use crate::stream::memory::MIB;
use crate::stream::part_folder::{Layout, Part, PartFolder, part_name};
use crate::stream::parts::exclude_other_counts;
use crate::stream::shard::Shard;
use std::hash::Hasher;
use std::path::PathBuf;
use twotower_artifacts::keyed::Identity;
use twotower_artifacts::neighbours::open_sink;
use twotower_artifacts::neighbours_file::read_lists;
use twotower_artifacts::{
    Compression, FileEntry, Id, Ids, ListRoom, NeighbourFormat, NeighbourLists, NeighbourSink, NeighboursInfo,
};

/// The folder of the samples, in the run's.
const FOLDER: &str = "samples";
/// Where earlier versions wrote them, in the folder of the results.
const EARLIER_FOLDER: &str = "sample";
/// Their format, whatever that of the results.
const EXTENSION: &str = "parquet";
/// About how many users are in the samples of all shards together: all users where there are no more.
const USERS: u64 = 10_000;
/// About how many pairs are in these samples at the most: fewer users where lists are long.
const PAIRS: u64 = 1 << 20;
/// Users read at a time.
const BATCH_USERS: usize = 8192;

/// The samples of a run.
pub fn folder(run: &RunDir) -> PartFolder {
    PartFolder::new(run.root(), FOLDER)
}

/// The samples of a run of an earlier version.
pub fn earlier_folder(run: &RunDir) -> PartFolder {
    PartFolder::new(run.recall().data(), EARLIER_FOLDER)
}

/// The path of a shard's sample as the manifest of its results lists it.
pub fn listed(layout: Layout, shard: Shard) -> String {
    let folder = match layout {
        Layout::Apart => FOLDER,
        Layout::Beside => EARLIER_FOLDER,
    };
    format!("{folder}/{}", part_name(shard, EXTENSION))
}

/// Removes the sample of a shard that an earlier version left among the results, where a reader would take it for more
/// of them, and its folder after the last one.
///
/// # Errors
/// [`PipelineError::Artifact`] naming it.
pub fn remove_earlier(run: &RunDir, shard: Shard) -> Result<(), PipelineError> {
    let folder = earlier_folder(run);
    remove_if_there(&folder.file(shard, EXTENSION))?;
    // Samples of other shards, or what no stage made, keep it.
    let _ = std::fs::remove_dir(folder.data());
    Ok(())
}

/// About how many users are in the samples of lists of `k` items.
pub fn wanted(k: usize) -> u64 {
    USERS.min(PAIRS / k.max(1) as u64).max(1)
}

/// Bytes that are held while a sample of lists of `k` items is written.
pub fn bytes(k: usize, room: ListRoom) -> u64 {
    room.writer_bytes(NeighbourFormat::Parquet).min(wanted(k) * (room.user_bytes() as u64 + 64))
}

/// Which users are in a sample.
#[derive(Debug, Clone, Copy)]
struct Draw {
    /// Hashes up to this one are in.
    most: u64,
}

impl Draw {
    /// About `wanted` of `users` users; all where there are no more.
    fn new(users: u64, wanted: u64) -> Self {
        let most = if users <= wanted { u64::MAX } else { u64::MAX / users * wanted };
        Self { most }
    }

    fn has(self, user: Id<'_>) -> bool {
        place(user) <= self.most
    }
}

/// Where an id lies among all: the same number in every process and on every machine, for samples of different nights
/// are compared.
fn place(user: Id<'_>) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    match user {
        Id::Int(value) => hasher.write_i64(value),
        Id::Text(value) => hasher.write(value.as_bytes()),
    }
    let h = hasher.finish();
    let h = (h ^ (h >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (h >> 29);
    // It is weak in its upper bits for small integers; one multiplication more spreads them.
    h.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32).wrapping_mul(0xC2B2_AE3D_27D4_EB4F)
}

/// A sample being written.
pub struct SampleSink {
    sink: Box<dyn NeighbourSink>,
    chosen: Draw,
    users: Ids,
    offsets: Vec<usize>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

impl SampleSink {
    /// A sample of one shard's lists. Lists have at most `k` items and take `room`; the whole table has `users` users.
    ///
    /// # Errors
    /// As [`open_sink`].
    pub fn create(
        run: &RunDir,
        shard: Shard,
        users: u64,
        info: &NeighboursInfo,
        k: usize,
        room: ListRoom,
        compression: Compression,
    ) -> Result<Self, PipelineError> {
        let folder = folder(run);
        prepare_dir(&folder.data())?;
        for folder in [&folder, &earlier_folder(run)] {
            exclude_other_counts("recall", folder, shard, true, || Ok(()))?;
        }
        let path = folder.file(shard, EXTENSION);
        Ok(Self {
            sink: open_sink(NeighbourFormat::Parquet, path, info, room, compression)?,
            chosen: Draw::new(users, wanted(k)),
            users: Ids::new(info.users),
            offsets: Vec::new(),
            rows: Vec::new(),
            scores: Vec::new(),
        })
    }

    /// Adds the lists of those `users` that are in the sample.
    ///
    /// # Errors
    /// A failed write.
    pub fn write(&mut self, users: &Ids, lists: &NeighbourLists<'_>) -> Result<(), PipelineError> {
        self.users.clear();
        self.rows.clear();
        self.scores.clear();
        self.offsets.clear();
        self.offsets.push(0);
        for (user, ends) in users.iter().zip(lists.offsets.windows(2)) {
            if self.chosen.has(user) {
                self.users.push(user);
                self.rows.extend_from_slice(&lists.rows[ends[0]..ends[1]]);
                self.scores.extend_from_slice(&lists.scores[ends[0]..ends[1]]);
                self.offsets.push(self.rows.len());
            }
        }
        let chosen = NeighbourLists { offsets: &self.offsets, rows: &self.rows, scores: &self.scores, ..*lists };
        Ok(self.sink.write(&self.users, &chosen)?)
    }

    /// Publishes the sample; its path counts from the run's folder.
    ///
    /// # Errors
    /// A failed write.
    pub fn finish(self) -> Result<FileEntry, PipelineError> {
        Ok(self.sink.finish()?.under(FOLDER))
    }
}

/// Lists of a sample read back. Ids are there by their identity alone: those that are long take no more room.
#[derive(Debug, Clone, Default)]
pub struct SampledLists {
    /// The users.
    pub users: Vec<Identity>,
    /// `[users + 1]`; user u's items are `offsets[u]..offsets[u + 1]` of `items`.
    pub offsets: Vec<usize>,
    /// Items of all lists, best first.
    pub items: Vec<Identity>,
}

impl SampledLists {
    /// A user's items.
    pub fn list(&self, row: usize) -> &[Identity] {
        &self.items[self.offsets[row]..self.offsets[row + 1]]
    }
}

/// Bytes that two samples of lists of `k`, read back, take together with what reading them does.
pub fn read_bytes(k: usize) -> u64 {
    let user = size_of::<Identity>() * (k + 1) + size_of::<usize>();
    2 * wanted(k) * user as u64 + 32 * MIB
}

/// Reads the sample of the results that are in these parts; none where one of them has no file.
///
/// # Errors
/// A damaged file.
pub fn read(parts: &[Part]) -> Result<Option<SampledLists>, PipelineError> {
    let path = |part: &Part| {
        let path = part.base.join(listed(part.layout, part.shard()?));
        path.exists().then_some(path)
    };
    let Some(paths) = parts.iter().map(path).collect::<Option<Vec<PathBuf>>>() else { return Ok(None) };
    let mut whole = SampledLists { offsets: vec![0], ..SampledLists::default() };
    for path in &paths {
        for batch in read_lists(path, BATCH_USERS)? {
            let batch = batch?;
            let first = whole.items.len();
            whole.users.extend(batch.users.iter().map(Identity::of));
            whole.items.extend(batch.items.iter().map(Identity::of));
            whole.offsets.extend(batch.offsets[1..].iter().map(|end| first + end));
        }
    }
    Ok(Some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(chosen: Draw, ids: impl Iterator<Item = i64>) -> u64 {
        ids.filter(|id| chosen.has(Id::Int(*id))).count() as u64
    }

    #[test]
    fn about_as_many_users_are_chosen_as_wanted_whatever_their_ids() {
        for step in [1, 7, 1 << 20] {
            let n = count(Draw::new(1_000_000, 10_000), (0..1_000_000).map(|i| i * step));
            assert!((9_000..11_000).contains(&n), "step {step}: {n}");
        }
        assert_eq!(count(Draw::new(5000, 10_000), 0..5000), 5000);
        let texts = (0..200_000).filter(|i| Draw::new(200_000, 10_000).has(Id::Text(&format!("user-{i}")))).count();
        assert!((9_000..11_000).contains(&texts), "{texts}");
    }

    #[test]
    fn a_larger_table_keeps_nearly_all_of_yesterdays_users() {
        let (yesterday, today) = (Draw::new(1_000_000, 10_000), Draw::new(1_010_000, 10_000));
        let both = (0..1_000_000).filter(|i| yesterday.has(Id::Int(*i)) && today.has(Id::Int(*i))).count() as u64;
        assert!(both * 100 >= 97 * count(yesterday, 0..1_000_000), "{both}");
    }
}
