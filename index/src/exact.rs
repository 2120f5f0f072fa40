//! Exact search: multiplies a group of queries with a tile of items, and selects the top k while the scores are in
//! cache.

use crate::error::IndexError;
use crate::image::Image;
use crate::rank::{Key, margin, tighten};
use crate::scan::{self, collect_above, lower_bounds};
use crate::search::{Block, ItemIndex, Neighbours, Request, Scratch, ScratchPool, SearchBlock, Slots, search_parallel};
use crate::store::IndexManifest;
use crate::tile::{LANES, Lanes, multiply, pack};

/// Items per tile. Their scores for one group of queries take 128 KiB and stay in the cache of one core.
const TILE: usize = 2048;

/// Compares every query with every item.
#[derive(Debug)]
pub struct ExactIndex {
    image: Image,
    manifest: IndexManifest,
    pool: ScratchPool,
}

impl ExactIndex {
    pub(crate) fn new(image: Image, manifest: IndexManifest) -> Self {
        Self { image, manifest, pool: ScratchPool::default() }
    }
}

impl ItemIndex for ExactIndex {
    fn manifest(&self) -> &IndexManifest {
        &self.manifest
    }

    fn image(&self) -> &Image {
        &self.image
    }
}

impl SearchBlock for ExactIndex {
    fn search_block(&self, block: &Block<'_>, scratch: &mut Scratch, out: &mut Slots<'_>) {
        scratch.work += (block.norms.len() * self.count()) as u64;
        search_all(block, scratch, out);
    }

    fn pool(&self) -> &ScratchPool {
        &self.pool
    }

    fn into_parts(self: Box<Self>) -> (Image, IndexManifest) {
        (self.image, self.manifest)
    }
}

fn search_all(block: &Block<'_>, scratch: &mut Scratch, out: &mut Slots<'_>) {
    let all: Vec<usize> = (0..block.norms.len()).collect();
    search_exactly(block, &all, &mut scratch.exact, out);
}

/// Answers a request by exact search of any image, on the threads of the current rayon pool.
pub(crate) fn search_image(image: &Image, request: &Request<'_>, out: &mut Neighbours) -> Result<(), IndexError> {
    search_parallel(image, request, out, &ScratchPool::default(), &search_all)
}

/// Working memory of [`search_exactly`]. It does not depend on the number of items: 128 KiB of scores, and for each
/// query of a block its vector and at most `max(4 * k, 256) + 4` candidates of 8 bytes. That is 0.5 MiB at
/// d = 64 and k = 50.
#[derive(Debug, Default)]
pub(crate) struct ExactScratch {
    queries: Vec<Lanes>,
    scores: Vec<Lanes>,
    maxima: Vec<Lanes>,
    hidden: Vec<usize>,
    groups: Vec<Group>,
}

/// The candidates of a group of queries, and for each query the score below which an item cannot become one.
#[derive(Debug)]
struct Group {
    keys: [Vec<Key>; LANES],
    thresholds: Lanes,
}

/// Answers the queries `which` of a block exactly.
pub(crate) fn search_exactly(block: &Block<'_>, which: &[usize], scratch: &mut ExactScratch, out: &mut Slots<'_>) {
    let ExactScratch { queries, scores, maxima, hidden, groups } = scratch;
    let (dim, count, eligible) = (block.items.dim, block.items.count(), block.request.eligible);
    queries.clear();
    for (g, which) in which.chunks(LANES).enumerate() {
        pack(which.iter().map(|q| (block.query(*q), block.norms[*q])), dim, queries);
        if g == groups.len() {
            groups.push(Group { keys: Default::default(), thresholds: Lanes::all(0.0) });
        }
        groups[g].restart(which.len());
    }
    for first in (0..count).step_by(TILE) {
        let width = TILE.min(count - first);
        hidden.clear();
        if eligible.eligible() < count {
            hidden.extend((0..width).filter(|i| !eligible.holds((first + i) as u32)));
            if hidden.len() == width {
                continue;
            }
        }
        scores.resize(width.next_multiple_of(scan::BLOCK), Lanes::all(0.0));
        scores[width..].fill(Lanes::all(f32::NEG_INFINITY));
        let tile = &block.items.vectors[first * dim..][..width * dim];
        for ((which, queries), group) in which.chunks(LANES).zip(queries.chunks_exact(dim)).zip(&mut *groups) {
            multiply(tile, queries, &mut scores[..width]);
            hidden.iter().for_each(|i| scores[*i] = Lanes::all(f32::NEG_INFINITY));
            for (lane, q) in which.iter().enumerate() {
                let excluded = block.excluded(*q);
                let start = excluded.partition_point(|row| (*row as usize) < first);
                for row in excluded[start..].iter().take_while(|row| (**row as usize) < first + width) {
                    scores[*row as usize - first].0[lane] = f32::NEG_INFINITY;
                }
            }
            group.offer(scores, first as u32, block, which, maxima);
        }
    }
    for (which, group) in which.chunks(LANES).zip(groups) {
        for (q, keys) in which.iter().zip(&mut group.keys) {
            block.ranking(*q).settle(keys);
            out.put(*q, keys);
        }
    }
}

impl Group {
    /// Removes all candidates. Only the first `queries` lanes will collect new ones.
    fn restart(&mut self, queries: usize) {
        self.keys.iter_mut().for_each(Vec::clear);
        self.thresholds = Lanes::all(f32::INFINITY);
        self.thresholds.0[..queries].fill(f32::MIN);
    }

    /// Adds candidates from the scores of a tile, whose first item is `first`.
    fn offer(&mut self, scores: &[Lanes], first: u32, block: &Block<'_>, which: &[usize], maxima: &mut Vec<Lanes>) {
        let margin = margin(block.items.dim);
        // With more candidates than this, it pays to raise the threshold.
        let limit = (4 * block.k).max(256);
        if self.thresholds.0.contains(&f32::MIN) {
            let bounds = lower_bounds(scores, block.k, maxima);
            for (threshold, bound) in self.thresholds.0.iter_mut().zip(bounds.0) {
                *threshold = threshold.max(bound - margin);
            }
        }
        let mut at = 0;
        while at < scores.len() {
            at = collect_above(scores, at, &self.thresholds, first, limit, &mut self.keys);
            for (lane, keys) in self.keys.iter_mut().enumerate().filter(|(_, keys)| keys.len() > limit) {
                let threshold = &mut self.thresholds.0[lane];
                *threshold = threshold.max(tighten(keys, block.k, margin));
                if keys.len() > limit / 2 {
                    // Many candidates are nearly equal, and only exact scores can tell them apart.
                    block.ranking(which[lane]).settle(keys);
                }
            }
        }
    }
}
