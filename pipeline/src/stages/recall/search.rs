//! Neighbours of batches of users, on every worker.

use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::stages::Context;
use crate::stages::infer::EmbeddedBatch;
use crate::stream::distinct::{DistinctSketch, VectorHash};
use crate::stream::memory::Plan;
use crate::stream::ordered;
use crate::stream::spare::Spare;
use crate::timeline::exclusions::{Exclusion, Lookup, MatchCounts, add_matches};
use twotower_artifacts::{Ids, Ragged};
use twotower_encoders::EncodeCounts;
use twotower_index::{Eligibility, Exclusions, ItemIndex, Neighbours, Request};

/// What every worker searches with.
pub struct Search<'a> {
    /// The run and the stage's settings.
    pub context: &'a Context<RecallSettings>,
    /// Batches and workers.
    pub plan: Plan,
    /// The items.
    pub index: &'a dyn ItemIndex,
    /// The items that a user must not get.
    pub exclusion: &'a Exclusion,
    /// The items that any user may get.
    pub eligible: &'a Eligibility,
    /// Hash of the users' vectors.
    pub hash: VectorHash,
    /// Memory for the neighbours of a batch each.
    pub spare: &'a Spare<Neighbours>,
}

/// Neighbours of some users.
pub struct SearchedBatch {
    /// The users.
    pub ids: Ids,
    /// Rows of the index and cosine similarities, a list per user.
    pub neighbours: Neighbours,
    /// What encoding them met.
    pub counts: EncodeCounts,
    /// What was excluded for them.
    pub matched: MatchCounts,
    /// Hashes of their vectors.
    pub vectors: Vec<u64>,
}

impl Search<'_> {
    /// Turns every batch into vectors, by a function of each worker's own, and these into neighbours; `sink` gets
    /// them in order.
    ///
    /// # Errors
    /// Those of the source, of `vectors` and of `sink`; vectors of another dimension than the index; a stop.
    pub fn run<B: Send, F: FnMut(B) -> Result<EmbeddedBatch, PipelineError>>(
        &self,
        source: impl Iterator<Item = Result<B, PipelineError>> + Send,
        vectors: impl Fn() -> Result<F, PipelineError> + Sync,
        sink: impl FnMut(SearchedBatch) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let (k, rows) = (self.context.config.recall.topk, self.plan.batch_rows);
        self.spare.reserve(self.plan.width.in_flight, || Neighbours::with_capacity(rows, self.index.count().min(k)));
        let worker = || {
            let (mut vectors, mut lookup) = (vectors()?, Lookup::default());
            Ok(move |batch| self.neighbours(vectors(batch)?, &mut lookup))
        };
        ordered("recall", self.plan.width, &self.context.cancel, source, worker, sink)
    }

    /// Searches one batch of users on the calling thread.
    fn neighbours(&self, users: EmbeddedBatch, lookup: &mut Lookup) -> Result<SearchedBatch, PipelineError> {
        let mut excluded = Ragged { offsets: vec![0], ..Ragged::default() };
        let mut matched = MatchCounts::default();
        self.exclusion.extend(&users.ids, &users.rows, &mut excluded, &mut matched, lookup)?;
        let request = Request {
            queries: &users.vectors,
            k: self.context.config.recall.topk,
            exclude: Exclusions::new(&excluded),
            eligible: self.eligible,
        };
        let mut neighbours = self.spare.take();
        self.index.search(&request, &mut neighbours)?;
        let vectors = users.vectors.chunks_exact(self.index.dim()).map(|vector| self.hash.of(vector)).collect();
        Ok(SearchedBatch { ids: users.ids, neighbours, counts: users.counts, matched, vectors })
    }
}

/// What was found over all batches.
#[derive(Default)]
pub struct Totals {
    /// Users.
    pub users: u64,
    /// Pairs of a user and an item.
    pub pairs: u64,
    /// Users with fewer than k items.
    pub short: u64,
    /// Users without any.
    pub empty: u64,
    /// What encoding the users met.
    pub counts: EncodeCounts,
    /// What was excluded for the users.
    pub matched: MatchCounts,
    /// Distinct vectors of the users.
    pub vectors: DistinctSketch,
}

impl Totals {
    /// Counts a batch, searched for `k` items a user.
    pub fn add(&mut self, batch: &SearchedBatch, k: usize) {
        self.users += batch.ids.len() as u64;
        for q in 0..batch.ids.len() {
            let n = batch.neighbours.rows(q).len();
            self.pairs += n as u64;
            self.short += u64::from(n < k);
            self.empty += u64::from(n == 0);
        }
        self.counts.merge(&batch.counts);
        add_matches(&mut self.matched, &batch.matched);
        batch.vectors.iter().for_each(|hash| self.vectors.add(*hash));
    }
}
