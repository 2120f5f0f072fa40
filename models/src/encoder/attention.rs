//! Causal attention over packed sequences (Vaswani et al., 2017), in blocks of queries.
//!
//! A block's scores are those with the elements up to its last query, so that half of all scores are never computed,
//! and they are gone once the block is done. The backward pass computes them again from the logarithm of each row's
//! sum of exponentials (Dao et al., FlashAttention, NeurIPS 2022).

use super::intervals::{BlockIntervals, Columns, Timed};
use super::packed::{Places, Queries};
use crate::lanes::{dot, exp_and_sum, largest, multiply};
use crate::layers::dropout;
use crate::matmul::{Operand, Target, matmul_into};
use crate::rng::Rng;
use std::ops::Range;

/// Queries of a block, at most. More make products faster, and compute more scores of later elements in vain.
pub(super) const BLOCK: usize = 64;

/// Random numbers of the dropout of a layer's attention weights, and the rate.
#[derive(Clone, Copy)]
pub(super) struct WeightDropout {
    /// The probability with which a weight is dropped.
    pub rate: f32,
    /// The key of random numbers.
    pub key: u64,
}

/// What attention reads.
pub(super) struct Attention<'a> {
    /// Width of a vector.
    pub dim: usize,
    /// Heads, which divide the width.
    pub heads: usize,
    /// The sequences.
    pub places: &'a Places,
    /// The queries among their elements.
    pub queries: &'a Queries,
    /// `[queries, dim]`.
    pub query: &'a [f32],
    /// `[elements, 2 dim]`: keys, and then values.
    pub key_value: &'a [f32],
    /// The time between elements, if it is read.
    pub timed: Option<Timed<'a>>,
    /// Of training only.
    pub dropout: Option<WeightDropout>,
}

/// A block of queries of one sequence, for one head.
pub(super) struct Block<'a> {
    /// Queries of the chunk.
    pub queries: Range<usize>,
    /// The sequence's elements up to the last query, as elements of the chunk.
    pub keys: Range<usize>,
    /// The last of these that each query sees.
    pub seen: &'a [usize],
    head: usize,
}

/// Gradients of what attention reads, to which those of a head are added.
pub(super) struct AttentionGradients<'a> {
    /// `[queries, dim]`.
    pub query: &'a mut [f32],
    /// `[elements, 2 dim]`.
    pub key_value: &'a mut [f32],
    /// `[span + 1, dim]` of the intervals of keys and of those of values, if the time between elements is read.
    pub intervals: Option<[&'a mut [f32]; 2]>,
}

impl<'a> Attention<'a> {
    fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim() as f32).sqrt()
    }

    /// All blocks, in a fixed order. Those of a sequence have as many queries, but for the last one.
    fn blocks(&self, mut visit: impl FnMut(Block<'_>)) {
        let Queries { offsets, places } = self.queries;
        for (first, pair) in self.places.offsets.iter().zip(offsets.windows(2)) {
            let count = pair[1] - pair[0];
            let size = count.div_ceil(count.div_ceil(BLOCK).max(1)).max(1);
            for head in 0..self.heads {
                for start in (pair[0]..pair[1]).step_by(size) {
                    let queries = start..pair[1].min(start + size);
                    let seen = &places[queries.clone()];
                    let keys = *first..first + seen[seen.len() - 1] + 1;
                    visit(Block { queries, keys, seen, head });
                }
            }
        }
    }

    fn noise(&self, block: &Block<'_>) -> Option<Rng> {
        self.dropout.map(|dropout| Rng::at(dropout.key, &[block.queries.start as u64, block.head as u64]))
    }

    /// A head's columns of some rows of `[_, dim]` values.
    fn head<'b>(&self, values: &'b [f32], rows: &Range<usize>, head: usize) -> Operand<'b> {
        let width = self.head_dim();
        Operand::strided(&values[rows.start * self.dim + head * width..], rows.len(), width, self.dim)
    }

    /// A head's columns of the keys or, with `offset` dim, of the values of some elements.
    fn key(&self, rows: &Range<usize>, head: usize, offset: usize) -> Operand<'a> {
        let width = self.head_dim();
        let start = rows.start * 2 * self.dim + offset + head * width;
        Operand::strided(&self.key_value[start..], rows.len(), width, 2 * self.dim)
    }

    /// A head's columns of a table of intervals.
    fn columns<'b>(&self, table: &'b [f32], head: usize) -> Columns<'b> {
        let width = self.head_dim();
        Columns { table, dim: self.dim, start: head * width, width }
    }

    /// Scaled scores of a block, `[queries, keys]`. Its intervals are found, if the time between elements is read.
    fn scores(&self, block: &Block<'_>, intervals: &mut BlockIntervals, out: &mut Vec<f32>) {
        let (rows, cols) = (block.queries.len(), block.keys.len());
        out.resize(rows * cols, 0.0);
        let queries = self.head(self.query, &block.queries, block.head);
        let keys = self.key(&block.keys, block.head, 0).transposed();
        matmul_into(Target::strided(out, rows, cols, cols), false, self.scale(), queries, keys);
        if let Some(timed) = &self.timed {
            intervals.find(timed, block);
            intervals.add_products(queries, self.columns(timed.keys, block.head), self.scale(), rows, out);
        }
    }

    /// Writes the weighted means of values, `[queries, dim]`, and for each query and head the logarithm of the sum of
    /// the exponentials of its scores, `[queries, heads]`.
    pub fn forward(&self, out: &mut [f32], log_sums: &mut [f32]) {
        let (mut weights, mut dropped, mut intervals) = (Vec::new(), Vec::new(), BlockIntervals::default());
        self.blocks(|block| {
            self.scores(&block, &mut intervals, &mut weights);
            let cols = block.keys.len();
            for ((row, place), query) in weights.chunks_exact_mut(cols).zip(block.seen).zip(block.queries.clone()) {
                let (seen, later) = row.split_at_mut(place + 1);
                let top = largest(seen);
                let sum = exp_and_sum(seen, top);
                multiply(seen, 1.0 / sum);
                later.fill(0.0);
                log_sums[query * self.heads + block.head] = top + sum.ln();
            }
            let weights = self.after_dropout(&block, &weights, &mut dropped);
            let width = self.head_dim();
            let start = block.queries.start * self.dim + block.head * width;
            let rows = block.queries.len();
            let target = Target::strided(&mut out[start..], rows, width, self.dim);
            let values = self.key(&block.keys, block.head, self.dim);
            matmul_into(target, false, 1.0, Operand::rows_of(weights, cols), values);
            if let Some(timed) = &self.timed {
                let target = Target::strided(&mut out[start..], rows, width, self.dim);
                intervals.add_rows(weights, self.columns(timed.values, block.head), 1.0, rows, target);
            }
        });
    }

    /// The weights of a block after dropout.
    fn after_dropout<'b>(&self, block: &Block<'_>, weights: &'b [f32], dropped: &'b mut Vec<f32>) -> &'b [f32] {
        let (Some(WeightDropout { rate, .. }), Some(noise)) = (self.dropout, self.noise(block)) else { return weights };
        dropped.resize(weights.len(), 0.0);
        dropout(weights, rate, Some(noise), dropped);
        dropped
    }

    /// Adds the gradients of keys and values, and writes those of queries, given the result of the forward pass, its
    /// logarithms and the gradient of the result.
    pub fn backward(&self, out: &[f32], log_sums: &[f32], d_out: &[f32], gradients: AttentionGradients<'_>) {
        let (mut weights, mut dropped, mut d_weights, mut d_dropped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut intervals, mut of_intervals) = (BlockIntervals::default(), gradients.intervals);
        let (dim, width) = (self.dim, self.head_dim());
        self.blocks(|block| {
            let (rows, cols) = (block.queries.len(), block.keys.len());
            self.scores(&block, &mut intervals, &mut weights);
            for ((row, place), query) in weights.chunks_exact_mut(cols).zip(block.seen).zip(block.queries.clone()) {
                let (seen, later) = row.split_at_mut(place + 1);
                exp_and_sum(seen, log_sums[query * self.heads + block.head]);
                later.fill(0.0);
            }
            let d_rows = self.head(d_out, &block.queries, block.head);
            let keys_at = block.keys.start * 2 * dim + block.head * width;
            // Values: the transposed weights times the gradient of the result.
            let after = self.after_dropout(&block, &weights, &mut dropped);
            let target = Target::strided(&mut gradients.key_value[keys_at + dim..], cols, width, 2 * dim);
            matmul_into(target, true, 1.0, Operand::rows_of(after, cols).transposed(), d_rows);
            let timed = self.timed.as_ref().zip(of_intervals.as_mut());
            if let Some((timed, [_, d_values])) = timed {
                let columns = self.columns(timed.values, block.head);
                intervals.add_gradient(after, d_rows, columns, 1.0, d_values, rows);
            }
            // Weights: the gradient of the result times the transposed values.
            d_weights.resize(rows * cols, 0.0);
            let values = self.key(&block.keys, block.head, dim).transposed();
            matmul_into(Target::strided(&mut d_weights, rows, cols, cols), false, 1.0, d_rows, values);
            if let Some(timed) = &self.timed {
                let columns = self.columns(timed.values, block.head);
                intervals.add_products(d_rows, columns, 1.0, rows, &mut d_weights);
            }
            let d_weights = self.after_dropout(&block, &d_weights, &mut d_dropped);
            // Scores: the softmax's rows are p (d - Σ p d), and Σ p d is the inner product of the result with its
            // gradient, with dropout too.
            for ((row, d), query) in
                weights.chunks_exact_mut(cols).zip(d_weights.chunks_exact(cols)).zip(block.queries.clone())
            {
                let at = query * dim + block.head * width..query * dim + (block.head + 1) * width;
                let along = dot(&out[at.clone()], &d_out[at]);
                row.iter_mut().zip(d).for_each(|(p, d)| *p *= d - along);
            }
            let d_scores = Operand::rows_of(&weights, cols);
            let queries_at = block.queries.start * dim + block.head * width;
            let target = Target::strided(&mut gradients.query[queries_at..], rows, width, dim);
            matmul_into(target, false, self.scale(), d_scores, self.key(&block.keys, block.head, 0));
            let target = Target::strided(&mut gradients.key_value[keys_at..], cols, width, 2 * dim);
            let queries = self.head(self.query, &block.queries, block.head);
            matmul_into(target, true, self.scale(), d_scores.transposed(), queries);
            if let Some((timed, [d_keys, _])) = self.timed.as_ref().zip(of_intervals.as_mut()) {
                let columns = self.columns(timed.keys, block.head);
                let target = Target::strided(&mut gradients.query[queries_at..], rows, width, dim);
                intervals.add_rows(&weights, columns, self.scale(), rows, target);
                intervals.add_gradient(&weights, queries, columns, self.scale(), d_keys, rows);
            }
        });
    }
}
