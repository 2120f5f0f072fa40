//! Search of a flat HNSW graph (Malkov and Yashunin, TPAMI 2020, algorithms 2 and 5).
//!
//! The graph comes from `hnsw_rs`, but is searched here, in one run of bytes. In `hnsw_rs`, points are behind locks
//! and reference counts all over memory, which costs several times as much as the distances.

use crate::dot::{dot, dot_rows};
use crate::exact::search_exactly;
use crate::image::Image;
use crate::measure::UserRecall;
use crate::rank::{Key, key, margin, row, tighten};
use crate::search::{Block, Eligibility, ItemIndex, Scratch, ScratchPool, SearchBlock, Slots};
use crate::store::IndexManifest;
use crate::vectors::{Rows, scale};

/// The number of neighbours for which `ef_search` is chosen. Requests of more neighbours are searched in proportion
/// wider.
pub(crate) const EF_DEPTH: usize = 50;
/// The number of items that are found beyond the requested ones, in case excluded items cluster around a query.
const FETCH_MARGIN: usize = 16;
/// A graph search of width `ef` costs about as much as comparing this many times `ef` successive items.
const EXACT_SHARE: usize = 8;
/// A comparison in a graph costs about as much as this many comparisons of exact search. Exact search compares 16
/// queries with successive items, while the next item of a graph is anywhere in memory.
pub(crate) const GRAPH_COMPARISON: u64 = 20;

/// Searches a graph, and falls back to exact search if exclusions leave too few items.
#[derive(Debug)]
pub struct HnswIndex {
    image: Image,
    manifest: IndexManifest,
    ef_search: usize,
    pool: ScratchPool,
}

impl HnswIndex {
    pub(crate) fn new(image: Image, manifest: IndexManifest) -> Self {
        let ef_search = manifest.ef_search.unwrap_or(EF_DEPTH);
        Self { image, manifest, ef_search, pool: ScratchPool::default() }
    }

    /// Sets the search width and the recall measured with it.
    pub(crate) fn tune(&mut self, ef_search: usize, measured: Option<UserRecall>) {
        self.ef_search = ef_search;
        self.manifest.ef_search = Some(ef_search);
        self.manifest.recall = measured.as_ref().map(|measured| measured.mean);
        self.manifest.measured = measured;
    }

    /// The manifest, to be completed.
    pub(crate) fn manifest_mut(&mut self) -> &mut IndexManifest {
        &mut self.manifest
    }

    /// Finds the neighbours of one query in the graph. `false` means that exact search has to answer it.
    fn search_graph(&self, block: &Block<'_>, q: usize, scratch: &mut GraphScratch, out: &mut Slots<'_>) -> bool {
        let (eligible, excluded) = (block.request.eligible, block.excluded(q));
        let needed = block.k.min(allowed(eligible, excluded));
        // Among this many nearest items, k are expected to be allowed.
        let fetch = (block.k + excluded.len()) * self.count() / eligible.eligible().max(1);
        let mut ef = (self.ef_search * fetch.max(EF_DEPTH) / EF_DEPTH).max(fetch + FETCH_MARGIN);
        let GraphScratch { query, keys, walk } = scratch;
        query.clear();
        query.extend_from_slice(block.query(q));
        scale(query, block.norms[q]);
        loop {
            if ef * EXACT_SHARE >= eligible.eligible() {
                return false;
            }
            nearest(&self.image, block.items, query, ef, walk);
            keys.clear();
            keys.extend(walk.found.iter().map(|(key, _)| *key).filter(|key| {
                let row = row(*key);
                eligible.holds(row) && excluded.binary_search(&row).is_err()
            }));
            if keys.len() >= needed {
                tighten(keys, block.k, margin(block.items.dim));
                block.ranking(q).settle(keys);
                out.put(q, keys);
                return true;
            }
            ef *= 2;
        }
    }
}

/// Number of items that may be returned to a query.
fn allowed(eligible: &Eligibility, excluded: &[u32]) -> usize {
    let mut last = None;
    let hidden = excluded.iter().filter(|row| last.replace(**row) != Some(**row) && eligible.holds(**row)).count();
    eligible.eligible() - hidden
}

impl ItemIndex for HnswIndex {
    fn manifest(&self) -> &IndexManifest {
        &self.manifest
    }

    fn image(&self) -> &Image {
        &self.image
    }
}

impl SearchBlock for HnswIndex {
    fn search_block(&self, block: &Block<'_>, scratch: &mut Scratch, out: &mut Slots<'_>) {
        let left: Vec<usize> =
            (0..block.norms.len()).filter(|q| !self.search_graph(block, *q, &mut scratch.graph, out)).collect();
        scratch.work += std::mem::take(&mut scratch.graph.walk.comparisons) * GRAPH_COMPARISON;
        scratch.work += (left.len() * self.count()) as u64;
        search_exactly(block, &left, &mut scratch.exact, out);
    }

    fn pool(&self) -> &ScratchPool {
        &self.pool
    }

    fn into_parts(self: Box<Self>) -> (Image, IndexManifest) {
        (self.image, self.manifest)
    }
}

/// Working memory of graph search.
#[derive(Debug, Default)]
pub(crate) struct GraphScratch {
    query: Vec<f32>,
    keys: Vec<Key>,
    walk: Walk,
}

/// State of one walk over layer 0.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The nearest items so far, best first, each with whether its links were followed.
    ///
    /// With the usual few hundred entries, inserting into a sorted list is faster than into two heaps. It also
    /// serves as the list of items whose links are to be followed.
    found: Vec<(Key, bool)>,
    /// The position in `found` before which the links of all items were followed.
    open: usize,
    /// The set of items seen in this walk, a bit each, so that it stays in the cache of one core.
    seen: Vec<u64>,
    fresh: Vec<u32>,
    scores: Vec<f32>,
    /// Number of items compared with a query, over all walks since it was last reset.
    comparisons: u64,
}

impl Walk {
    fn restart(&mut self, count: usize) {
        self.found.clear();
        self.open = 0;
        self.seen.clear();
        self.seen.resize(count.div_ceil(64), 0);
    }

    /// Whether an item is seen for the first time in this walk.
    fn first_sight(&mut self, row: u32) -> bool {
        let (word, bit) = (&mut self.seen[row as usize / 64], 1 << (row % 64));
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first
    }

    /// Adds an item if it is among the `ef` nearest.
    fn offer(&mut self, key: Key, ef: usize) {
        if self.found.len() == ef {
            if self.found.last().is_some_and(|worst| key < worst.0) {
                return;
            }
            self.found.pop();
        }
        let place = self.found.partition_point(|other| other.0 > key);
        self.found.insert(place, (key, false));
        self.open = self.open.min(place);
    }

    /// Takes the nearest item whose links were not followed yet, and marks them as followed.
    fn follow(&mut self) -> Option<u32> {
        let (key, followed) = self.peek()?;
        *followed = true;
        let row = row(*key);
        self.open += 1;
        Some(row)
    }

    /// The nearest item whose links were not followed yet.
    fn peek(&mut self) -> Option<&mut (Key, bool)> {
        self.open += self.found[self.open..].iter().take_while(|(_, followed)| *followed).count();
        self.found.get_mut(self.open)
    }
}

/// Writes up to `ef` near items of a unit query, with approximate scores, to `walk.found`.
fn nearest(image: &Image, items: Rows<'_>, query: &[f32], ef: usize, walk: &mut Walk) {
    walk.restart(items.count());
    let entry = image.entry();
    let mut best = key(dot(query, items.vector(entry)), entry);
    for l in (1..image.layers()).rev() {
        let layer = image.layer(l);
        loop {
            let links = layer.of(row(best));
            dot_rows(query, items, links, &mut walk.scores);
            walk.comparisons += links.len() as u64;
            let nearest = links.iter().zip(&walk.scores).map(|(row, score)| key(*score, *row)).max();
            match nearest {
                Some(nearer) if nearer > best => best = nearer,
                _ => break,
            }
        }
    }
    let layer = image.layer(0);
    walk.first_sight(row(best));
    walk.offer(best, ef);
    let (mut fresh, mut scores) = (std::mem::take(&mut walk.fresh), std::mem::take(&mut walk.scores));
    while let Some(from) = walk.follow() {
        fresh.clear();
        for &to in layer.of(from) {
            if walk.first_sight(to) {
                prefetch(items.vector(to));
                fresh.push(to);
            }
        }
        // The links of this item will most likely be followed next.
        if let Some((next, _)) = walk.peek() {
            prefetch(layer.of(row(*next)));
        }
        dot_rows(query, items, &fresh, &mut scores);
        walk.comparisons += fresh.len() as u64;
        for (row, score) in fresh.iter().zip(&scores) {
            walk.offer(key(*score, *row), ef);
        }
    }
    (walk.fresh, walk.scores) = (fresh, scores);
}

/// Asks the processor to load numbers into the cache before they are read.
fn prefetch<T>(numbers: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(64 / size_of::<T>()) {
        // SAFETY: a prefetch has no effect on memory, and the address lies in a slice.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}
