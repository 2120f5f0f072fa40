//! Computes encoders ([`crate::tower::encoder`]) in training and in the native engine: packed sequences, so that short
//! ones cost less, in chunks of a few hundred elements.
//!
//! Matrix products have a multiple of [`TILE`] rows, which gives each row the same bits whatever the multiple, and
//! attention has the shape of a sequence. So the bits of an output depend on its sequence and the encoder alone, not on
//! other sequences, nor on threads.

mod attention;
mod backward;
#[cfg(test)]
mod interval_tests;
mod intervals;
mod ligr;
mod memory;
mod mixtures;
mod packed;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod stream_tests;
mod streams;
#[cfg(test)]
mod tests;

pub(crate) use backward::{EncoderGradients, Scratch};
pub use memory::{EncoderSize, encoder_bytes};
pub(crate) use packed::{Chunk, NO_OUTPUT, PackedSequences};

use crate::lanes::add;
use crate::layers::{self, layer_norm};
use crate::matmul::{Operand, matmul};
use crate::rng::Rng;
use crate::tower::encoder::{Affine, Block, Encoder, NORM_EPS, Norm, NormOrder};
use crate::tower::ligr::BlockKind;
use crate::tower::streams::StreamShape;
use attention::{Attention, WeightDropout};
use intervals::{ChunkIntervals, Timed};
use ligr::{GatePass, swiglu};
use packed::{Places, Queries};
use streams::{StreamsPass, Sublayer};

/// Matrix products have a multiple of this many rows; zeros fill up the last ones of a chunk. One product of many rows is
/// faster than many of this many, since operands are packed once.
const TILE: usize = 48;
/// `gemm` computes products of at most 256 values in another order, so this many columns are the fewest for [`TILE`] rows.
const FEWEST_COLUMNS: usize = 6;

/// An encoder whose weights are values.
pub(crate) type Values<'a> = Encoder<&'a [f32]>;

/// Dropout in training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dropout {
    /// The probability with which an element of the input, an attention weight, or an element of either layer of the
    /// feed-forward network is dropped.
    pub rate: f32,
    /// The key of random numbers.
    pub key: u64,
}

/// The places of a block where elements are dropped.
#[derive(Debug, Clone, Copy)]
enum Site {
    Input,
    Weights,
    Inner,
    Outer,
}

impl Dropout {
    fn rng(self, block: usize, site: Site) -> Rng {
        Rng::at(self.key, &[block as u64, site as u64])
    }

    /// Drops elements of `values`, if there is dropout. `unused` is working memory.
    fn apply(dropout: Option<Self>, block: usize, site: Site, values: &mut Vec<f32>, unused: &mut Vec<f32>) {
        let Some(this) = dropout else { return };
        unused.resize(values.len(), 0.0);
        layers::dropout(values, this.rate, Some(this.rng(block, site)), unused);
        std::mem::swap(values, unused);
    }

    fn weights(dropout: Option<Self>, block: usize) -> Option<WeightDropout> {
        dropout.map(|this| WeightDropout { rate: this.rate, key: this.rng(block, Site::Weights).bits() })
    }
}

/// What the backward pass needs of a block.
#[derive(Debug, Default)]
struct BlockPass {
    /// `[elements, dim]` the block's input, or `[elements, n dim]`, its streams.
    input: Vec<f32>,
    /// `[elements, dim]` what attention reads of the streams.
    read: Vec<f32>,
    /// `[queries, dim]` what attention adds to the streams.
    added: Vec<f32>,
    /// `[queries, n dim]` the streams after attention.
    middle: Vec<f32>,
    /// Of the streams of attention and of the feed-forward network.
    streams: [StreamsPass; 2],
    /// `[elements, dim]` what keys and values are made of, where it is not the input: its layer norm.
    source: Vec<f32>,
    /// `[queries, dim]` the rows of the input that ask.
    asking: Vec<f32>,
    /// `[queries, dim]` what queries are made of.
    query_source: Vec<f32>,
    /// `[queries, dim]`.
    query: Vec<f32>,
    /// `[elements, 2 dim]` keys and values, with the positions that are added to them.
    key_value: Vec<f32>,
    /// `[queries, dim]` the result of attention, before the matrix that may follow it.
    attended: Vec<f32>,
    /// `[queries, heads]`.
    log_sums: Vec<f32>,
    /// `[queries, dim]` the sum of attention and what it is added to, or what the feed-forward network reads of the
    /// streams.
    sum: Vec<f32>,
    /// `[queries, dim]` what the feed-forward network reads: the layer norm of `sum`.
    normal: Vec<f32>,
    /// `[queries, 2 inner width]` the factors of the inner layer of SwiGLU.
    factors: Vec<f32>,
    /// `[queries, inner width]` the inner layer, after activation and dropout.
    inner: Vec<f32>,
    /// `[queries, dim]` the sum of the feed-forward network and what it is added to, if a layer norm follows, or what it adds
    /// to the streams.
    result: Vec<f32>,
    /// Of the gates of attention and of the feed-forward network.
    gates: [GatePass; 2],
}

/// What the backward pass needs of a chunk. It is reused between steps.
#[derive(Debug, Default)]
pub(crate) struct ChunkPass {
    places: Places,
    intervals: ChunkIntervals,
    blocks: Vec<BlockPass>,
    /// `[outputs, dim]` the result of the last block, before the last layer norm.
    result: Vec<f32>,
    unused: Vec<f32>,
    tile: Tile,
}

/// A tile of a matrix product that is filled up with zeros.
#[derive(Debug, Default)]
struct Tile {
    x: Vec<f32>,
    y: Vec<f32>,
}

impl ChunkPass {
    /// Computes the outputs of a chunk, `[outputs, dim]`, given all rows of its embedding table.
    pub fn forward(
        &mut self,
        encoder: &Values<'_>,
        table: &[f32],
        packed: &PackedSequences,
        chunk: &Chunk,
        dropout: Option<Dropout>,
        out: &mut [f32],
    ) {
        let Some(dim) = encoder.blocks.first().map(|block| block.query.bias.len()) else { return out.fill(0.0) };
        let Self { places, intervals, blocks, result, unused, tile } = self;
        *places = Places::of(packed, chunk);
        intervals.prepare(encoder, packed, chunk, dropout);
        let encoder = &intervals.dropped(encoder);
        blocks.resize_with(encoder.blocks.len(), BlockPass::default);
        embed(
            encoder.input_positions(),
            table,
            dim,
            places,
            &packed.codes[chunk.elements.clone()],
            &mut blocks[0].input,
        );
        Dropout::apply(dropout, 0, Site::Input, &mut blocks[0].input, unused);
        if let Some(StreamShape { count, .. }) = encoder.streams {
            streams::expand(&blocks[0].input, dim, count, unused);
            std::mem::swap(&mut blocks[0].input, unused);
        }
        let last = blocks.len() - 1;
        for (b, block) in encoder.blocks.iter().enumerate() {
            let step = Step { encoder, block, index: b, dim, places, times: intervals.times(), dropout };
            let queries = if b == last { &places.wanted } else { &places.all };
            let mut next = std::mem::take(if b == last { &mut *result } else { &mut blocks[b + 1].input });
            step.forward(queries, &mut blocks[b], &mut next, unused, tile);
            *(if b == last { &mut *result } else { &mut blocks[b + 1].input }) = next;
        }
        if let Some(StreamShape { count, .. }) = encoder.streams {
            streams::collapse(result, dim, count, unused);
            std::mem::swap(result, unused);
        }
        match &encoder.last {
            Some(Norm { gain, bias }) => layer_norm(result, gain, bias, NORM_EPS, out),
            None => out.copy_from_slice(result),
        }
    }

    /// The largest difference between the sum of a column of a mixture of streams and 1, in the last forward pass.
    pub fn stream_error(&self) -> f32 {
        let streams = self.blocks.iter().flat_map(|block| &block.streams);
        streams.map(|streams| streams.error).fold(0.0, f32::max)
    }
}

/// Writes `√dim e + p` of each element, or `√dim e` without positions.
fn embed(positions: Option<&&[f32]>, table: &[f32], dim: usize, places: &Places, codes: &[u32], out: &mut Vec<f32>) {
    out.resize(codes.len() * dim, 0.0);
    let scale = (dim as f32).sqrt();
    for pair in places.offsets.windows(2) {
        for element in pair[0]..pair[1] {
            let row = &table[codes[element] as usize * dim..][..dim];
            let out = &mut out[element * dim..][..dim];
            let Some(positions) = positions else {
                out.iter_mut().zip(row).for_each(|(out, x)| *out = scale * x);
                continue;
            };
            let position = &positions[(element - pair[0]) * dim..][..dim];
            for ((out, x), p) in out.iter_mut().zip(row).zip(position) {
                *out = scale * x + p;
            }
        }
    }
}

/// A block of an encoder on a chunk.
struct Step<'a> {
    encoder: &'a Values<'a>,
    block: &'a Block<&'a [f32]>,
    index: usize,
    dim: usize,
    places: &'a Places,
    /// Times of the elements, for encoders with intervals.
    times: &'a [i32],
    dropout: Option<Dropout>,
}

impl Step<'_> {
    fn attention<'b>(&'b self, queries: &'b Queries, query: &'b [f32], key_value: &'b [f32]) -> Attention<'b> {
        let (dim, heads, places) = (self.dim, self.encoder.heads, self.places);
        let dropout = Dropout::weights(self.dropout, self.index);
        let timed = Timed::of(self.encoder, self.times);
        Attention { dim, heads, places, queries, query, key_value, timed, dropout }
    }

    /// The streams of attention and of the feed-forward network, if there are some.
    fn streams(&self) -> Option<[Sublayer<'_>; 2]> {
        let (shape, weights) = (self.encoder.streams?, self.block.streams.as_ref()?);
        Some([&weights.attention, &weights.feed_forward].map(|weights| Sublayer::new(shape, self.dim, weights)))
    }

    /// Computes the results of some queries, `[queries, dim]` or `[queries, n dim]`.
    fn forward(
        &self,
        queries: &Queries,
        pass: &mut BlockPass,
        out: &mut Vec<f32>,
        unused: &mut Vec<f32>,
        tile: &mut Tile,
    ) {
        let (block, dim, order) = (self.block, self.dim, self.encoder.order);
        let count = queries.places.len() * dim;
        let BlockPass { input, source, asking, query_source, query, key_value, attended, .. } = pass;
        let streams = self.streams();
        let input = match &streams {
            None => &*input,
            Some([attention, _]) => {
                attention.read(input, &mut pass.streams[0], &mut pass.read, tile);
                &pass.read
            }
        };
        gather(self.places, queries, input, dim, asking);
        query_source.resize(count, 0.0);
        let source: &[f32] = match order {
            NormOrder::Original => {
                normalise(&block.attention_norm, asking, query_source);
                input
            }
            NormOrder::Paper | NormOrder::Pre => {
                source.resize(input.len(), 0.0);
                normalise(&block.attention_norm, input, source);
                gather(self.places, queries, source, dim, query_source);
                source
            }
            NormOrder::Post => {
                query_source.copy_from_slice(asking);
                input
            }
        };
        query.resize(count, 0.0);
        affine(&block.query, query_source, query, tile);
        key_value.resize(2 * input.len(), 0.0);
        affine(&block.key_value, source, key_value, tile);
        intervals::add_positions(self.encoder, self.places, dim, key_value);
        attended.resize(count, 0.0);
        pass.log_sums.resize(queries.places.len() * self.encoder.heads, 0.0);
        self.attention(queries, query, key_value).forward(attended, &mut pass.log_sums);

        let sum = &mut pass.sum;
        sum.resize(count, 0.0);
        match &block.output {
            Some(output) => affine(output, attended, sum, tile),
            None => sum.copy_from_slice(attended),
        }
        if let Some(gates) = &block.gates {
            pass.gates[0].forward(&gates.attention, asking, sum, tile);
        }
        match &streams {
            None => add(sum, if order == NormOrder::Original { query_source } else { asking }),
            Some([attention, feed_forward]) => {
                let (added, middle, [first, second]) = (&mut pass.added, &mut pass.middle, &mut pass.streams);
                std::mem::swap(sum, added);
                let elements: Vec<usize> = self.places.elements(queries).collect();
                attention.write((&pass.input, &elements), added, first, middle);
                feed_forward.read(middle, second, sum, tile);
            }
        }
        let (normal, inner, result) = (&mut pass.normal, &mut pass.inner, &mut pass.result);
        normal.resize(count, 0.0);
        let norm = if order == NormOrder::Post { &block.attention_norm } else { &block.feed_forward_norm };
        normalise(norm, sum, normal);
        let width = self.encoder.block.inner_width(dim);
        inner.resize(queries.places.len() * width, 0.0);
        match self.encoder.block.kind {
            BlockKind::Transformer => {
                affine(&block.inner, normal, inner, tile);
                inner.iter_mut().for_each(|x| *x = if *x > 0.0 { *x } else { 0.0 * *x });
            }
            BlockKind::Ligr => {
                let factors = &mut pass.factors;
                factors.resize(2 * inner.len(), 0.0);
                affine(&block.inner, normal, factors, tile);
                swiglu(factors, width, inner);
            }
        }
        Dropout::apply(self.dropout, self.index, Site::Inner, inner, unused);
        result.resize(count, 0.0);
        affine(&block.outer, inner, result, tile);
        Dropout::apply(self.dropout, self.index, Site::Outer, result, unused);
        if let Some(gates) = &block.gates {
            pass.gates[1].forward(&gates.feed_forward, sum, result, tile);
        }
        if let Some([_, feed_forward]) = &streams {
            let all: Vec<usize> = (0..queries.places.len()).collect();
            feed_forward.write((&pass.middle, &all), result, &mut pass.streams[1], out);
            return;
        }
        add(result, if matches!(order, NormOrder::Paper | NormOrder::Pre) { sum } else { normal });
        match order {
            NormOrder::Post => {
                out.resize(count, 0.0);
                normalise(&block.feed_forward_norm, result, out);
            }
            NormOrder::Original | NormOrder::Paper | NormOrder::Pre => std::mem::swap(out, result),
        }
    }

    /// What keys and values are made of, after the forward pass.
    fn source<'b>(&self, pass: &'b BlockPass) -> &'b [f32] {
        match self.encoder.order {
            NormOrder::Original | NormOrder::Post => &pass.input,
            NormOrder::Paper | NormOrder::Pre => &pass.source,
        }
    }
}

/// The rows of the queries among those of all elements.
fn gather(places: &Places, queries: &Queries, from: &[f32], dim: usize, to: &mut Vec<f32>) {
    to.clear();
    if queries.places.len() == places.all.places.len() {
        return to.extend_from_slice(from);
    }
    for element in places.elements(queries) {
        to.extend_from_slice(&from[element * dim..][..dim]);
    }
}

fn normalise(norm: &Norm<&[f32]>, x: &[f32], y: &mut [f32]) {
    layer_norm(x, norm.gain, norm.bias, NORM_EPS, y);
}

/// `y = x Wᵀ + b`: as many whole tiles as there are rows for, and then what is left, filled up to a tile.
fn affine(affine: &Affine<&[f32]>, x: &[f32], y: &mut [f32], tile: &mut Tile) {
    let output = affine.bias.len();
    let input = affine.weight.len() / output;
    let weight = Operand::rows_of(affine.weight, input).transposed();
    let product = |x: &[f32], y: &mut [f32]| {
        y.chunks_exact_mut(output).for_each(|row| row.copy_from_slice(affine.bias));
        matmul(y, true, 1.0, Operand::rows_of(x, input), weight);
    };
    let rows = TILE * FEWEST_COLUMNS.div_ceil(output);
    let whole = y.len() / output / rows * rows;
    let ((x, x_left), (y, y_left)) = (x.split_at(whole * input), y.split_at_mut(whole * output));
    product(x, y);
    if !y_left.is_empty() {
        tile.x.clear();
        tile.x.extend_from_slice(x_left);
        tile.x.resize(rows * input, 0.0);
        tile.y.resize(rows * output, 0.0);
        product(&tile.x, &mut tile.y);
        y_left.copy_from_slice(&tile.y[..y_left.len()]);
    }
}
