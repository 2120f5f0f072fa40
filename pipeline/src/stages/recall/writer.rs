//! Results of a shard: written, sampled, and counted.

use super::search::{SearchedBatch, Totals};
use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::run::details::IdRange;
use crate::stages::Context;
use crate::stream::part_folder::PartFolder;
use crate::stream::row_hashes;
use crate::stream::sample::SampleSink;
use crate::stream::shard::Shard;
use twotower_artifacts::neighbours::{NeighbourSink, open_sink};
use twotower_artifacts::{FileEntry, Ids, ListRoom, NeighbourLists, NeighboursInfo, RowHashesInfo, RowHashesWriter};

/// The files of a shard being written. Dropped unfinished, it leaves nothing.
pub struct ShardWriter<'a> {
    sink: Box<dyn NeighbourSink>,
    /// Name of the folder of results.
    folder: String,
    /// None for users who are not the run's.
    sample: Option<SampleSink>,
    /// What each list was made from, where that is kept.
    hashes: Option<RowHashesWriter>,
    /// The folder of these.
    hashes_folder: PartFolder,
    /// Ids of the catalogue.
    items: &'a Ids,
    topk: usize,
    totals: Totals,
    ids: IdRange,
    /// A batch's lists, one after the other.
    offsets: Vec<usize>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

/// The files of a shard, and what they hold.
pub struct ShardFiles {
    /// The results, their sample, and what they were made from. Paths count from the run's folder, or from that of an `--output`.
    pub files: Vec<FileEntry>,
    /// Counts over all users.
    pub totals: Totals,
    /// The first and the last user.
    pub ids: IdRange,
}

impl<'a> ShardWriter<'a> {
    /// Files in a folder of results of a table of `users` users, as the job wants them and `info` says, for items with these
    /// ids and lists that take `room`; with a sample for the gates, or without.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub fn create(
        context: &Context<RecallSettings>,
        shard: Shard,
        users: u64,
        info: &NeighboursInfo,
        (items, room): (&'a Ids, ListRoom),
        folder: &PartFolder,
        sampled: bool,
    ) -> Result<Self, PipelineError> {
        let RecallSettings { recall, compression, .. } = &context.config;
        let path = folder.file(shard, recall.format.extension());
        let topk = recall.topk;
        // Gates look at items alone.
        let plain = info.clone().scaled(None);
        let sample = || SampleSink::create(&context.run, shard, users, &plain, topk, room, *compression);
        let root = context.run.root();
        let hashes = || row_hashes::create("recall", root, folder, shard, RowHashesInfo { vectors: true });
        Ok(Self {
            folder: folder.name().to_string(),
            sample: sampled.then(sample).transpose()?,
            hashes: context.config.row_hashes.then(hashes).transpose()?,
            hashes_folder: row_hashes::folder(root, folder),
            sink: open_sink(recall.format, path, info, room, *compression)?,
            items,
            topk,
            totals: Totals::default(),
            ids: IdRange::default(),
            offsets: Vec::new(),
            rows: Vec::new(),
            scores: Vec::new(),
        })
    }

    /// Writes the next users' neighbours.
    ///
    /// # Errors
    /// A failed write.
    pub fn write(&mut self, batch: &SearchedBatch) -> Result<(), PipelineError> {
        let Self { offsets, rows, scores, .. } = self;
        offsets.clear();
        rows.clear();
        scores.clear();
        offsets.push(0);
        for user in 0..batch.ids.len() {
            rows.extend_from_slice(batch.neighbours.rows(user));
            scores.extend_from_slice(batch.neighbours.scores(user));
            offsets.push(rows.len());
        }
        self.totals.add(batch, self.topk);
        self.ids.add(&batch.ids);
        let lists = NeighbourLists { offsets, rows, scores, item_ids: self.items };
        if let Some(sample) = &mut self.sample {
            sample.write(&batch.ids, &lists)?;
        }
        if let Some(hashes) = &mut self.hashes {
            hashes.write(&batch.hashes, &batch.vectors)?;
        }
        Ok(self.sink.write(&batch.ids, &lists)?)
    }

    /// Users written so far.
    pub fn users(&self) -> u64 {
        self.totals.users
    }

    /// Publishes the files.
    ///
    /// # Errors
    /// A failed write; what is not published is not there.
    pub fn finish(self) -> Result<ShardFiles, PipelineError> {
        let mut files = vec![self.sink.finish()?.under(&self.folder)];
        if let Some(sample) = self.sample {
            files.push(sample.finish()?);
        }
        if let Some(hashes) = self.hashes {
            files.push(hashes.finish()?.under(self.hashes_folder.name()));
        }
        Ok(ShardFiles { files, totals: self.totals, ids: self.ids })
    }
}
