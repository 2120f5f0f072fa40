//! Requests and answers of a search, and the trait of all indexes.

use crate::error::IndexError;
use crate::exact::ExactScratch;
use crate::hnsw::GraphScratch;
use crate::image::Image;
use crate::rank::{Key, Ranking, row, score};
use crate::store::IndexManifest;
use crate::vectors::{Rows, unit_norm};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};
use twotower_artifacts::Ragged;

/// Queries that are searched together, while a tile of items stays in the cache.
pub(crate) const QUERY_BLOCK: usize = 128;

/// For each query, the item rows that must not be returned: ascending, repeats allowed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exclusions<'a> {
    offsets: &'a [u32],
    rows: &'a [u32],
}

impl<'a> Exclusions<'a> {
    /// Nothing is excluded, for any number of queries.
    pub fn none() -> Self {
        Self::default()
    }

    /// One list of rows per query.
    pub fn new(lists: &'a Ragged) -> Self {
        Self { offsets: &lists.offsets, rows: &lists.values }
    }

    /// The lists of some of the queries, by their numbers.
    pub(crate) fn slice(&self, queries: std::ops::Range<usize>) -> Self {
        match self.offsets.get(queries.start..=queries.end) {
            Some(offsets) => Self { offsets, ..*self },
            None => *self,
        }
    }

    fn lists(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The rows excluded for query `q`.
    pub(crate) fn of(&self, q: usize) -> &'a [u32] {
        match self.offsets.get(q..q + 2) {
            Some(ends) => &self.rows[ends[0] as usize..ends[1] as usize],
            None => &[],
        }
    }
}

/// The item rows that may be returned at all, from an allow or deny list, as a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eligibility {
    bits: Vec<u64>,
    count: usize,
    eligible: usize,
}

impl Eligibility {
    /// The rows of an index of `count` items for which `holds` is true.
    pub fn filter(count: usize, holds: impl Fn(u32) -> bool) -> Self {
        let mut bits = vec![0u64; count.div_ceil(64)];
        for row in (0..count as u32).filter(|row| holds(*row)) {
            bits[row as usize / 64] |= 1 << (row % 64);
        }
        let eligible = bits.iter().map(|b| b.count_ones() as usize).sum();
        Self { bits, count, eligible }
    }

    /// Every row of an index of `count` items.
    pub fn all(count: usize) -> Self {
        Self::filter(count, |_| true)
    }

    /// Whether a row is eligible; rows beyond the index are not.
    pub fn holds(&self, row: u32) -> bool {
        self.bits.get(row as usize / 64).is_some_and(|b| b >> (row % 64) & 1 == 1)
    }

    /// Number of eligible rows.
    pub fn eligible(&self) -> usize {
        self.eligible
    }

    /// Number of rows, eligible or not.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Makes a row eligible, and returns whether it was not before.
    pub(crate) fn insert(&mut self, row: u32) -> bool {
        let bit = 1 << (row % 64);
        let word = &mut self.bits[row as usize / 64];
        let is_new = *word & bit == 0;
        *word |= bit;
        self.eligible += usize::from(is_new);
        is_new
    }
}

/// A batch of queries, and the items that may be returned.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `[queries, dim]` f32, row-major, rows of unit norm within 0.001.
    pub queries: &'a [f32],
    /// Neighbours wanted per query, at least 1.
    pub k: usize,
    /// Rows excluded per query.
    pub exclude: Exclusions<'a>,
    /// Rows eligible for all.
    pub eligible: &'a Eligibility,
}

/// Neighbours of a batch of queries, best first. Reuse one to avoid allocations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Neighbours {
    stride: usize,
    lens: Vec<u32>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

impl Neighbours {
    /// Reserves memory for `k` neighbours of `queries` queries.
    pub fn with_capacity(queries: usize, k: usize) -> Self {
        let values = queries * k;
        Self {
            stride: k,
            lens: Vec::with_capacity(queries),
            rows: Vec::with_capacity(values),
            scores: Vec::with_capacity(values),
        }
    }

    /// Number of queries answered.
    pub fn queries(&self) -> usize {
        self.lens.len()
    }

    /// The item rows of query `q`, by descending cosine similarity, ties by row.
    pub fn rows(&self, q: usize) -> &[u32] {
        &self.rows[q * self.stride..][..self.lens[q] as usize]
    }

    /// The cosine similarities of [`Neighbours::rows`], in [-1, 1].
    pub fn scores(&self, q: usize) -> &[f32] {
        &self.scores[q * self.stride..][..self.lens[q] as usize]
    }

    /// Makes room for at most `stride` neighbours of each of `queries` queries, of which none is answered.
    pub fn reset(&mut self, queries: usize, stride: usize) {
        self.stride = stride;
        self.lens.clear();
        self.lens.resize(queries, 0);
        self.rows.resize(queries * stride, 0);
        self.scores.resize(queries * stride, 0.0);
    }

    /// Sets the answer of query `q`: item rows and cosine similarities, best first. What there is no room for is left out.
    pub fn set(&mut self, q: usize, list: impl IntoIterator<Item = (u32, f32)>) {
        let slots = q * self.stride..(q + 1) * self.stride;
        let slots = self.rows[slots.clone()].iter_mut().zip(&mut self.scores[slots]);
        let mut len = 0;
        for ((row, score), answer) in slots.zip(list) {
            (*row, *score) = answer;
            len += 1;
        }
        self.lens[q] = len;
    }

    pub(crate) fn blocks(&mut self) -> Vec<Slots<'_>> {
        let values = QUERY_BLOCK * self.stride;
        let parts = self.rows.chunks_mut(values).zip(self.scores.chunks_mut(values));
        self.lens
            .chunks_mut(QUERY_BLOCK)
            .zip(parts)
            .map(|(lens, (rows, scores))| Slots { stride: self.stride, lens, rows, scores })
            .collect()
    }
}

/// The part of [`Neighbours`] that belongs to one block of queries.
pub struct Slots<'a> {
    stride: usize,
    lens: &'a mut [u32],
    rows: &'a mut [u32],
    scores: &'a mut [f32],
}

impl Slots<'_> {
    /// Writes the answer of the block's query `q`.
    pub(crate) fn put(&mut self, q: usize, keys: &[Key]) {
        self.lens[q] = keys.len() as u32;
        for (i, key) in keys.iter().enumerate() {
            self.rows[q * self.stride + i] = row(*key);
            self.scores[q * self.stride + i] = score(*key);
        }
    }
}

/// One block of a request, with its queries' norms.
pub struct Block<'a> {
    pub request: &'a Request<'a>,
    /// First query of the block.
    pub first: usize,
    /// Neighbours wanted, at most the number of items.
    pub k: usize,
    pub(crate) items: Rows<'a>,
    pub norms: &'a [f64],
}

impl<'a> Block<'a> {
    /// The block's query `q`.
    pub fn query(&self, q: usize) -> &'a [f32] {
        &self.request.queries[(self.first + q) * self.items.dim..][..self.items.dim]
    }

    /// Rows excluded for the block's query `q`.
    pub fn excluded(&self, q: usize) -> &'a [u32] {
        self.request.exclude.of(self.first + q)
    }

    /// The exact ranking of the block's query `q`.
    pub(crate) fn ranking(&self, q: usize) -> Ranking<'a> {
        Ranking { query: self.query(q), norm: self.norms[q], items: self.items, k: self.k }
    }
}

/// Working memory of one worker. It grows to the size that is needed and is kept.
#[derive(Debug, Default)]
pub struct Scratch {
    norms: Vec<f64>,
    /// Work of graph searches, as the number of items that exact search compares in the same time.
    pub(crate) work: u64,
    pub(crate) exact: ExactScratch,
    pub(crate) graph: GraphScratch,
}

/// Working memory of the workers of an index, while they are not searching.
#[derive(Debug, Default)]
pub struct ScratchPool(Mutex<Vec<Scratch>>);

impl ScratchPool {
    /// Returns the sum of all workers' [`Scratch::work`] and resets it. No worker may be searching.
    pub(crate) fn take_work(&self) -> u64 {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.iter_mut().map(|scratch| std::mem::take(&mut scratch.work)).sum()
    }

    fn with<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_default();
        let result = work(&mut scratch);
        lock().push(scratch);
        result
    }
}

mod sealed {
    use super::{Block, Image, IndexManifest, Scratch, ScratchPool, Slots};

    /// The part of an index that differs between kinds. [`super::ItemIndex`] is the same for all.
    pub trait SearchBlock {
        /// Answers one block of queries.
        fn search_block(&self, block: &Block<'_>, scratch: &mut Scratch, out: &mut Slots<'_>);
        /// Working memory.
        fn pool(&self) -> &ScratchPool;
        /// The image and its manifest.
        fn into_parts(self: Box<Self>) -> (Image, IndexManifest);
    }
}
pub use sealed::SearchBlock;

/// An item index: exact or HNSW.
///
/// A query gets `min(k, eligible items not excluded for it)` items by descending cosine similarity
/// (f64 from the stored vectors, in [-1, 1], rounded to f32), ties by row. HNSW may miss neighbours
/// but never returns fewer. The answer to a query has the same bits whatever else is in the batch
/// and whatever the number of threads.
pub trait ItemIndex: SearchBlock + Send + Sync + std::fmt::Debug {
    /// What the index is, how it was made and how well it measured.
    fn manifest(&self) -> &IndexManifest;

    /// The vectors and the graph, as they are stored.
    fn image(&self) -> &Image;

    /// Floats per vector.
    fn dim(&self) -> usize {
        self.image().dim()
    }

    /// Number of items.
    fn count(&self) -> usize {
        self.image().count()
    }

    /// Answers a batch in the calling thread, replacing the content of `out`. It is cheap for small batches too.
    ///
    /// # Errors
    /// - [`IndexError::Shape`], [`IndexError::NotFinite`], [`IndexError::NotUnit`] for the queries
    /// - [`IndexError::ZeroTopK`], [`IndexError::EligibilitySize`], [`IndexError::ExclusionCount`],
    ///   [`IndexError::Exclusion`]
    fn search(&self, request: &Request<'_>, out: &mut Neighbours) -> Result<(), IndexError> {
        prepare(self.image(), request, out)?;
        let work: &Work<'_> = &|block, scratch, out| self.search_block(block, scratch, out);
        let mut blocks = out.blocks().into_iter().enumerate();
        blocks.try_for_each(|(b, slots)| answer(self.image(), request, b, self.pool(), work, slots))
    }

    /// Answers a batch on the threads of the current rayon pool, replacing the content of `out`. The
    /// answer has the same bits as that of [`ItemIndex::search`].
    ///
    /// # Errors
    /// Those of [`ItemIndex::search`].
    fn search_parallel(&self, request: &Request<'_>, out: &mut Neighbours) -> Result<(), IndexError> {
        let work: &Work<'_> = &|block, scratch, out| self.search_block(block, scratch, out);
        search_parallel(self.image(), request, out, self.pool(), work)
    }
}

/// A function that answers one block of queries.
type Work<'a> = dyn Fn(&Block<'_>, &mut Scratch, &mut Slots<'_>) + Sync + 'a;

/// Answers a batch on the threads of the current rayon pool.
pub(crate) fn search_parallel(
    image: &Image,
    request: &Request<'_>,
    out: &mut Neighbours,
    pool: &ScratchPool,
    work: &Work<'_>,
) -> Result<(), IndexError> {
    prepare(image, request, out)?;
    let blocks = out.blocks().into_par_iter().enumerate();
    let results: Vec<_> = blocks.map(|(b, slots)| answer(image, request, b, pool, work, slots)).collect();
    results.into_iter().collect()
}

/// Checks the queries of block `b` and answers them.
fn answer(
    image: &Image,
    request: &Request<'_>,
    b: usize,
    pool: &ScratchPool,
    work: &Work<'_>,
    mut out: Slots<'_>,
) -> Result<(), IndexError> {
    let (dim, first) = (image.dim(), b * QUERY_BLOCK);
    pool.with(|scratch| {
        let mut norms = std::mem::take(&mut scratch.norms);
        norms.clear();
        for q in first..first + out.lens.len() {
            norms.push(unit_norm("query", q, &request.queries[q * dim..][..dim])?);
        }
        let block = Block { request, first, k: out.stride, items: image.rows(), norms: &norms };
        work(&block, scratch, &mut out);
        scratch.norms = norms;
        Ok(())
    })
}

/// Checks a request against an index and prepares `out` for the answer.
fn prepare(image: &Image, request: &Request<'_>, out: &mut Neighbours) -> Result<(), IndexError> {
    let (dim, count) = (image.dim(), image.count());
    if request.k == 0 {
        return Err(IndexError::ZeroTopK);
    }
    if !request.queries.len().is_multiple_of(dim) {
        return Err(IndexError::Shape { what: "query", values: request.queries.len(), dim });
    }
    if request.eligible.count != count {
        return Err(IndexError::EligibilitySize { count, found: request.eligible.count });
    }
    let (queries, lists) = (request.queries.len() / dim, request.exclude.lists());
    if lists != 0 && lists != queries {
        return Err(IndexError::ExclusionCount { queries, found: lists });
    }
    for query in 0..lists {
        let rows = request.exclude.of(query);
        let fault = rows.windows(2).find(|w| w[0] > w[1]).map(|w| w[1]);
        let fault = fault.or(rows.last().copied().filter(|last| *last as usize >= count));
        if let Some(row) = fault {
            return Err(IndexError::Exclusion { query, row, count });
        }
    }
    out.reset(queries, request.k.min(count));
    Ok(())
}
