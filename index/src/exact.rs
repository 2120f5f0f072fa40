//! Exact search: a tile of queries against a tile of items, with the top-k fused in.

use crate::error::IndexError;
use crate::image::Image;
use crate::rank::{Key, Ranking, margin, tighten};
use crate::scan::{self, collect_above, lower_bound};
use crate::search::{
    Block, Eligibility, ItemIndex, Neighbours, Request, Scratch, ScratchPool, SearchBlock, Slots, search_parallel,
};
use crate::store::IndexManifest;
use crate::vectors::{Rows, scale};

/// Items per tile: with a block of queries, scores and operands stay in the cache of one core.
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
        search_all(block, scratch, out);
    }

    fn pool(&self) -> &ScratchPool {
        &self.pool
    }
}

fn search_all(block: &Block<'_>, scratch: &mut Scratch, out: &mut Slots<'_>) {
    let all: Vec<usize> = (0..block.norms.len()).collect();
    search_exactly(block, &all, &mut scratch.exact, out);
}

/// Answers a request by exact search over any image, on the threads of the current rayon pool.
pub(crate) fn search_image(image: &Image, request: &Request<'_>, out: &mut Neighbours) -> Result<(), IndexError> {
    search_parallel(image, request, out, &ScratchPool::default(), &search_all)
}

/// Candidates of one query, and the score below which no item can join them.
#[derive(Debug, Default)]
struct Best {
    keys: Vec<Key>,
    threshold: f32,
}

/// Working memory of [`search_exactly`].
#[derive(Debug, Default)]
pub(crate) struct ExactScratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    bias: Vec<f32>,
    maxima: Vec<f32>,
    best: Vec<Best>,
}

/// Answers the queries `which` of a block exactly.
pub(crate) fn search_exactly(block: &Block<'_>, which: &[usize], scratch: &mut ExactScratch, out: &mut Slots<'_>) {
    let ExactScratch { queries, scores, bias, maxima, best } = scratch;
    let Rows { dim, vectors, .. } = block.items;
    let (count, eligible) = (block.items.count(), block.request.eligible);
    queries.clear();
    for &q in which {
        let start = queries.len();
        queries.extend_from_slice(block.query(q));
        scale(&mut queries[start..], block.norms[q]);
    }
    if best.len() < which.len() {
        best.resize_with(which.len(), Best::default);
    }
    for best in &mut best[..which.len()] {
        best.keys.clear();
        best.threshold = f32::MIN;
    }
    for first in (0..count).step_by(TILE) {
        let width = TILE.min(count - first);
        let padded = width.next_multiple_of(scan::BLOCK);
        let restricted = eligible.eligible() < count;
        if restricted && !fill_bias(bias, eligible, first, width) {
            continue;
        }
        scores.resize(scores.len().max(which.len() * padded), 0.0);
        multiply(&vectors[first * dim..][..width * dim], queries, dim, padded, scores);
        for (i, &q) in which.iter().enumerate() {
            let scores = &mut scores[i * padded..][..padded];
            scores[width..].fill(f32::NEG_INFINITY);
            if restricted {
                scan::add(&mut scores[..width], bias);
            }
            let excluded = block.excluded(q);
            let start = excluded.partition_point(|row| (*row as usize) < first);
            for row in excluded[start..].iter().take_while(|row| (**row as usize) < first + width) {
                scores[*row as usize - first] = f32::NEG_INFINITY;
            }
            best[i].offer(scores, first as u32, &block.ranking(q), maxima);
        }
    }
    for (best, &q) in best.iter_mut().zip(which) {
        block.ranking(q).settle(&mut best.keys);
        out.put(q, &best.keys);
    }
}

impl Best {
    /// Takes in the scores of one tile, whose first item is `first`.
    fn offer(&mut self, scores: &[f32], first: u32, ranking: &Ranking<'_>, maxima: &mut Vec<f32>) {
        let margin = margin(ranking.query.len());
        // Beyond this many candidates the threshold is worth raising.
        let limit = (4 * ranking.k).max(4 * scan::BLOCK);
        if self.threshold == f32::MIN {
            self.threshold = (lower_bound(scores, ranking.k, maxima) - margin).max(f32::MIN);
        }
        let mut at = 0;
        while at < scores.len() {
            at = collect_above(scores, at, self.threshold, first, limit, &mut self.keys);
            if self.keys.len() > limit {
                self.threshold = self.threshold.max(tighten(&mut self.keys, ranking.k, margin));
                if self.keys.len() > limit / 2 {
                    // Many near ties: only exact scores tell them apart.
                    ranking.settle(&mut self.keys);
                }
            }
        }
    }
}

/// Writes 0 for eligible and minus infinity for other rows of a tile; false when none is eligible.
fn fill_bias(bias: &mut Vec<f32>, eligible: &Eligibility, first: usize, width: usize) -> bool {
    bias.clear();
    bias.extend((first..first + width).map(|r| if eligible.holds(r as u32) { 0.0 } else { f32::NEG_INFINITY }));
    bias.contains(&0.0)
}

/// Scores of every query with every item of a tile; query q's start at `q * stride`.
fn multiply(items: &[f32], queries: &[f32], dim: usize, stride: usize, scores: &mut [f32]) {
    let (width, count) = (items.len() / dim, queries.len() / dim);
    assert!(width <= stride && count * stride <= scores.len(), "scores must hold a row per query");
    let (cs, one) = (dim as isize, 1);
    // SAFETY: as column-major matrices, `scores` is [width, count] with columns `stride` apart
    // (bounds asserted above), `items` transposed is [width, dim] and `queries` is [dim, count].
    unsafe {
        gemm::gemm(
            width,
            count,
            dim,
            scores.as_mut_ptr(),
            stride as isize,
            one,
            false,
            items.as_ptr(),
            one,
            cs,
            queries.as_ptr(),
            cs,
            one,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
