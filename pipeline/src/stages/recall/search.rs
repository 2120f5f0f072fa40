//! Neighbours of batches of users, on every worker.

use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::rows::id_index::IdIndex;
use crate::stages::Context;
use crate::stream::distinct::{DistinctSketch, VectorHash};
use crate::stream::earlier::{Matches, Stretch};
use crate::stream::memory::Plan;
use crate::stream::ordered;
use crate::stream::spare::Spare;
use crate::timeline::exclusions::{Exclusion, Lookup, MatchCounts, add_matches};
use twotower_artifacts::neighbours_file::NeighbourTable;
use twotower_artifacts::{Ids, Ragged, RowHash};
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
    /// Ids of the items, by row of the index.
    pub items: &'a IdIndex,
    /// Whether it is to be known what each list was made from.
    pub hashed: bool,
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
    /// What each list was made from; empty where nobody wants to know.
    pub hashes: Vec<RowHash>,
    /// Users that the earlier run has.
    pub found: u64,
    /// Those of them whose list was taken from there.
    pub copied: u64,
}

/// A batch of users before their vectors are there.
pub struct BegunBatch {
    /// The users.
    pub ids: Ids,
    /// Row of the table of each.
    pub rows: Vec<u64>,
    /// What encoding them met.
    pub counts: EncodeCounts,
    /// What each vector is made from; empty where nobody wants to know.
    pub hashes: Vec<RowHash>,
}

/// Where the vectors of batches come from, on one thread.
pub trait VectorSource<B> {
    /// Begins a batch, with hashes of what the vectors are made from if they are `hashed`.
    ///
    /// # Errors
    /// Those of reading or encoding it.
    fn begin(&mut self, batch: B, hashed: bool) -> Result<BegunBatch, PipelineError>;

    /// The vectors of the batch that was begun last: of all its users, or of those at the given places.
    ///
    /// # Errors
    /// Those of embedding them.
    fn vectors(&mut self, users: Option<&[usize]>) -> Result<Vec<f32>, PipelineError>;
}

/// What a worker keeps from batch to batch.
#[derive(Default)]
struct Kept {
    lookup: Lookup,
    /// Whether some of the earlier lists were held against what is found now.
    checked: bool,
    /// Memory for the neighbours of users who have changed.
    neighbours: Neighbours,
    /// Memory for the bytes of a hash.
    bytes: Vec<u8>,
}

impl Search<'_> {
    /// Turns every batch into vectors, by a source of each worker's own, and these into neighbours; `sink` gets them in
    /// order. Beside a batch may stand where its users are among earlier lists: these are taken for users who have not
    /// changed.
    ///
    /// # Errors
    /// Those of the batches, of `source` and of `sink`; vectors of another dimension than the index; an earlier list that
    /// is not what is found now; a stop.
    pub fn run<B: Send, V: VectorSource<B>>(
        &self,
        batches: impl Iterator<Item = Result<(B, Option<Matches<NeighbourTable>>), PipelineError>> + Send,
        source: impl Fn() -> Result<V, PipelineError> + Sync,
        sink: impl FnMut(SearchedBatch) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let rows = self.plan.batch_rows;
        self.spare.reserve(self.plan.width.in_flight, || Neighbours::with_capacity(rows, self.longest()));
        let worker = || {
            let (mut source, mut kept) = (source()?, Kept::default());
            Ok(move |(batch, earlier): (B, Option<Matches<NeighbourTable>>)| {
                let begun = source.begin(batch, self.hashed)?;
                self.neighbours(begun, &mut source, earlier.as_ref(), &mut kept)
            })
        };
        ordered("recall", self.plan.width, &self.context.cancel, batches, worker, sink)
    }

    /// The most items of a list.
    fn longest(&self) -> usize {
        self.index.count().min(self.context.config.recall.topk)
    }

    /// Searches one batch of users on the calling thread.
    fn neighbours<B>(
        &self,
        users: BegunBatch,
        source: &mut impl VectorSource<B>,
        earlier: Option<&Matches<NeighbourTable>>,
        kept: &mut Kept,
    ) -> Result<SearchedBatch, PipelineError> {
        let BegunBatch { ids, rows, counts, mut hashes } = users;
        let mut excluded = Ragged { offsets: vec![0], ..Ragged::default() };
        let mut matched = MatchCounts::default();
        self.exclusion.extend(&ids, &rows, &mut excluded, &mut matched, &mut kept.lookup)?;
        for (user, hash) in hashes.iter_mut().enumerate() {
            *hash = hash.with(excluded.row(user), &mut kept.bytes);
        }
        let found = earlier.map_or(0, Matches::found);
        let same: Vec<Option<(&Stretch<NeighbourTable>, usize)>> = match earlier {
            Some(earlier) => hashes.iter().enumerate().map(|(user, hash)| earlier.same(user, *hash)).collect(),
            None => Vec::new(),
        };
        let copied = same.iter().flatten().count();
        let mut neighbours = self.spare.take();
        let vectors = if copied == 0 || !kept.checked {
            let vectors = source.vectors(None)?;
            self.search(&vectors, &excluded, &mut neighbours)?;
            let vectors = self.hashes(&vectors);
            for (user, (stretch, at)) in same.iter().enumerate().filter_map(|(user, same)| Some((user, (*same)?))) {
                let now =
                    neighbours.rows(user).iter().copied().zip(neighbours.scores(user).iter().map(|s| s.to_bits()));
                let then = self.earlier_list(stretch, at)?.map(|pair| pair.map(|(row, score)| (row, score.to_bits())));
                let is_same = now.map(Some).eq(then.map(Result::ok)) && vectors[user] == stretch.vectors[at];
                if !is_same {
                    return Err(PipelineError::Mismatch(format!(
                        "--changed-since: user `{}`: this machine finds another list for the same vector than the earlier run did, so its processor or its ONNX Runtime is another one; leave --changed-since out to search for all users",
                        ids.get(user)
                    )));
                }
            }
            kept.checked |= copied > 0;
            vectors
        } else {
            let changed: Vec<usize> = (0..ids.len()).filter(|user| same[*user].is_none()).collect();
            let mut own = Ragged { offsets: vec![0], ..Ragged::default() };
            changed.iter().for_each(|user| own.push_row(excluded.row(*user).iter().copied()));
            let vectors = source.vectors(Some(&changed))?;
            self.search(&vectors, &own, &mut kept.neighbours)?;
            let mut hashes = self.hashes(&vectors).into_iter();
            let mut all = Vec::with_capacity(ids.len());
            neighbours.reset(ids.len(), self.longest());
            let mut searched = 0;
            for (user, same) in same.iter().enumerate() {
                match same {
                    Some((stretch, at)) => {
                        let list = self.earlier_list(stretch, *at)?.collect::<Result<Vec<_>, _>>()?;
                        neighbours.set(user, list);
                        all.push(stretch.vectors[*at]);
                    }
                    None => {
                        let (rows, scores) = (kept.neighbours.rows(searched), kept.neighbours.scores(searched));
                        neighbours.set(user, rows.iter().copied().zip(scores.iter().copied()));
                        all.extend(hashes.next());
                        searched += 1;
                    }
                }
            }
            all
        };
        let copied = copied as u64;
        Ok(SearchedBatch { ids, neighbours, counts, matched, vectors, hashes, found, copied })
    }

    /// Searches for vectors of users with these exclusions.
    fn search(&self, vectors: &[f32], excluded: &Ragged, out: &mut Neighbours) -> Result<(), PipelineError> {
        let k = self.context.config.recall.topk;
        let request = Request { queries: vectors, k, exclude: Exclusions::new(excluded), eligible: self.eligible };
        Ok(self.index.search(&request, out)?)
    }

    /// Hashes of vectors.
    fn hashes(&self, vectors: &[f32]) -> Vec<u64> {
        vectors.chunks_exact(self.index.dim()).map(|vector| self.hash.of(vector)).collect()
    }

    /// A list of an earlier run, as rows of the index with cosine similarities. The items are the same, so each has a row.
    fn earlier_list<'s>(
        &'s self,
        stretch: &'s Stretch<NeighbourTable>,
        at: usize,
    ) -> Result<impl Iterator<Item = Result<(u32, f32), PipelineError>> + 's, PipelineError> {
        let pairs = stretch.made.offsets[at]..stretch.made.offsets[at + 1];
        if pairs.len() > self.longest() {
            let (found, most) = (pairs.len(), self.longest());
            return Err(PipelineError::Data(format!(
                "--changed-since: an earlier list has {found} items, expected at most {most}"
            )));
        }
        Ok(pairs.map(|pair| {
            let id = stretch.made.items.get(pair);
            let row = self.items.find(id).ok_or_else(|| {
                PipelineError::Data(format!("--changed-since: an earlier list has item `{id}`, which has no vector"))
            })?;
            Ok((row, stretch.made.scores[pair]))
        }))
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
