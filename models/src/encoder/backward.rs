//! The backward pass of encoders.

use super::attention::AttentionGradients;
use super::intervals::TableGradients;
use super::ligr::swiglu_backward;
use super::packed::Queries;
use super::streams::{collapse_backward, expand_backward};
use super::{BlockPass, Chunk, ChunkPass, Dropout, PackedSequences, Site, Step, Values};
use crate::lanes::{add, multiply};
use crate::layers::layer_norm_backward;
use crate::matmul::{Operand, matmul};
use crate::tower::encoder::{Affine, Block, Encoder, NORM_EPS, Norm, NormOrder};
use crate::tower::ligr::BlockKind;
use crate::tower::streams::StreamShape;

/// Where the gradients of an encoder go.
pub(crate) struct EncoderGradients<'a> {
    /// The dense group of each weight.
    pub groups: &'a Encoder<usize>,
    /// `[groups]` gradients, to which are added.
    pub dense: &'a mut [Vec<f32>],
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

/// Working memory that is taken and given back, so that only the first chunks allocate.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    free: Vec<Vec<f32>>,
}

impl Scratch {
    /// As many values, which are those that were left there.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        let mut values = self.free.pop().unwrap_or_default();
        values.resize(len, 0.0);
        values
    }

    fn copy(&mut self, of: &[f32]) -> Vec<f32> {
        let mut values = self.take(of.len());
        values.copy_from_slice(of);
        values
    }

    pub(super) fn give<const N: usize>(&mut self, values: [Vec<f32>; N]) {
        self.free.extend(values);
    }
}

impl ChunkPass {
    /// Computes the gradients of a chunk's embeddings, `[elements, dim]`, each that of `√dim e`, and adds those of the
    /// encoder's weights to theirs, given the gradients of the outputs of the last forward pass, `[outputs, dim]`.
    pub fn backward(
        &mut self,
        encoder: &Values<'_>,
        (packed, chunk): (&PackedSequences, &Chunk),
        dropout: Option<Dropout>,
        d_out: &[f32],
        d_embeddings: &mut [f32],
        gradients: EncoderGradients<'_>,
    ) {
        let Self { places, intervals, blocks, result, unused, .. } = self;
        let encoder = &intervals.dropped(encoder);
        let count = packed.codes[chunk.elements.clone()].len();
        let dim = d_embeddings.len() / count.max(1);
        let EncoderGradients { groups, dense, scratch } = gradients;
        let mut d = scratch.take(d_out.len());
        match (&encoder.last, &groups.last) {
            (Some(norm), Some(group)) => norm_backward(norm, group, result, d_out, &mut d, dense),
            _ => d.copy_from_slice(d_out),
        }
        let mut of_tables = TableGradients::of(encoder);
        if let Some(StreamShape { count, .. }) = encoder.streams {
            d = collapse_backward(&d, dim, count);
        }
        let last = blocks.len().saturating_sub(1);
        for (b, pass) in blocks.iter().enumerate().rev() {
            let times = intervals.times();
            let step = Step { encoder, block: &encoder.blocks[b], index: b, dim, places, times, dropout };
            let queries = if b == last { &places.wanted } else { &places.all };
            let gradients = (&groups.blocks[b], &mut *dense);
            d = step.backward(queries, pass, d, (unused, scratch), of_tables.as_mut(), gradients);
        }
        if let Some(StreamShape { count, .. }) = encoder.streams {
            d = expand_backward(&d, dim, count);
        }
        Dropout::apply(dropout, 0, Site::Input, &mut d, unused);
        if let Some(of_tables) = of_tables {
            of_tables.finish(groups, dropout, dense);
        }
        if let Some(group) = groups.input_positions() {
            let d_positions = &mut dense[*group];
            for (place, d) in places.all.places.iter().zip(d.chunks_exact(dim)) {
                add(&mut d_positions[place * dim..][..dim], d);
            }
        }
        d_embeddings.copy_from_slice(&d);
        scratch.give([d]);
    }
}

impl Step<'_> {
    /// The gradient of the block's input, given that of its results, `[queries, dim]` or `[queries, n dim]`.
    fn backward(
        &self,
        queries: &Queries,
        pass: &BlockPass,
        d_out: Vec<f32>,
        (unused, scratch): (&mut Vec<f32>, &mut Scratch),
        mut of_tables: Option<&mut TableGradients>,
        (groups, dense): (&Block<usize>, &mut [Vec<f32>]),
    ) -> Vec<f32> {
        let (block, dim, order) = (self.block, self.dim, self.encoder.order);
        let streams = self.streams().zip(groups.streams.as_ref());
        let (mut d_middle, mut d_added) = (Vec::new(), Vec::new());
        let second = streams.as_ref().map(|([_, streams], _)| {
            let all: Vec<usize> = (0..queries.places.len()).collect();
            let written = ((&pass.middle[..], &all[..]), &pass.result[..]);
            streams.write_backward(written, &pass.streams[1], &d_out, (&mut d_middle, &mut d_added))
        });
        // The sum of the feed-forward network and what it is added to, or what it adds to the streams.
        let d_result = match order {
            _ if streams.is_some() => d_added,
            NormOrder::Post => {
                let mut d = scratch.take(d_out.len());
                norm_backward(&block.feed_forward_norm, &groups.feed_forward_norm, &pass.result, &d_out, &mut d, dense);
                scratch.give([d_out]);
                d
            }
            NormOrder::Original | NormOrder::Paper | NormOrder::Pre => d_out,
        };
        let mut d_outer = scratch.copy(&d_result);
        let gates = block.gates.as_ref().zip(groups.gates.as_ref());
        let through_gate = gates.map(|(gates, groups)| {
            let gate = (&gates.feed_forward, &groups.feed_forward);
            pass.gates[1].backward(gate, &pass.sum, &mut d_outer, scratch, dense)
        });
        Dropout::apply(self.dropout, self.index, Site::Outer, &mut d_outer, unused);
        let mut d_inner = scratch.take(pass.inner.len());
        affine_backward(&block.outer, &groups.outer, &pass.inner, &d_outer, &mut d_inner, dense);
        match self.encoder.block.kind {
            BlockKind::Transformer => {
                // What is dropped or not above 0 passes nothing on; what is kept was scaled.
                d_inner.iter_mut().zip(&pass.inner).for_each(|(d, x)| *d = if *x > 0.0 { *d } else { 0.0 });
                if let Some(Dropout { rate, .. }) = self.dropout {
                    multiply(&mut d_inner, 1.0 / (1.0 - rate));
                }
            }
            BlockKind::Ligr => {
                Dropout::apply(self.dropout, self.index, Site::Inner, &mut d_inner, unused);
                let mut d_factors = scratch.take(pass.factors.len());
                swiglu_backward(&pass.factors, self.encoder.block.inner_width(dim), &d_inner, &mut d_factors);
                scratch.give([std::mem::replace(&mut d_inner, d_factors)]);
            }
        }
        let mut d_normal = d_outer;
        affine_backward(&block.inner, &groups.inner, &pass.normal, &d_inner, &mut d_normal, dense);
        // The sum of attention and what it is added to.
        let mut d_sum = scratch.take(pass.sum.len());
        let (norm, norm_groups) = match order {
            NormOrder::Post => (&block.attention_norm, &groups.attention_norm),
            NormOrder::Original | NormOrder::Paper | NormOrder::Pre => {
                (&block.feed_forward_norm, &groups.feed_forward_norm)
            }
        };
        let past_norm = matches!(order, NormOrder::Paper | NormOrder::Pre);
        let is_added = past_norm && streams.is_none();
        if !past_norm {
            add(&mut d_normal, &d_result);
        }
        norm_backward(norm, norm_groups, &pass.sum, &d_normal, &mut d_sum, dense);
        if is_added {
            add(&mut d_sum, &d_result);
        }
        if let Some(d) = through_gate {
            add(&mut d_sum, &d);
            scratch.give([d]);
        }
        scratch.give([d_inner, d_normal, d_result]);
        let (mut d_input, mut d_added) = (Vec::new(), Vec::new());
        let first = streams.as_ref().zip(second).map(|(([attention, feed_forward], groups), d_logits)| {
            let [first, second] = &pass.streams;
            let read = (&d_sum[..], d_logits);
            feed_forward.read_backward(&pass.middle, second, read, &mut d_middle, (&groups.feed_forward, &mut *dense));
            let elements: Vec<usize> = self.places.elements(queries).collect();
            let written = ((&pass.input[..], &elements[..]), &pass.added[..]);
            attention.write_backward(written, first, &d_middle, (&mut d_input, &mut d_added))
        });
        if first.is_some() {
            d_sum = d_added;
        }
        // Attention.
        let mut d_made = scratch.copy(&d_sum);
        let through_gate = gates.map(|(gates, groups)| {
            let gate = (&gates.attention, &groups.attention);
            pass.gates[0].backward(gate, &pass.asking, &mut d_made, scratch, dense)
        });
        let d_attended = match (&block.output, &groups.output) {
            (Some(output), Some(group)) => {
                let mut d = scratch.take(d_made.len());
                affine_backward(output, group, &pass.attended, &d_made, &mut d, dense);
                scratch.give([d_made]);
                d
            }
            _ => d_made,
        };
        let (mut d_query, mut d_key_value) = (scratch.take(pass.query.len()), scratch.take(pass.key_value.len()));
        d_key_value.fill(0.0);
        self.attention(queries, &pass.query, &pass.key_value).backward(
            &pass.attended,
            &pass.log_sums,
            &d_attended,
            AttentionGradients {
                query: &mut d_query,
                key_value: &mut d_key_value,
                intervals: of_tables.as_mut().map(|of_tables| of_tables.intervals()),
            },
        );
        if let Some(of_tables) = of_tables {
            of_tables.add_positions(self.places, dim, &d_key_value);
        }
        let mut d_query_source = scratch.take(pass.query_source.len());
        affine_backward(&block.query, &groups.query, &pass.query_source, &d_query, &mut d_query_source, dense);
        let source = self.source(pass);
        let mut d_source = scratch.take(source.len());
        affine_backward(&block.key_value, &groups.key_value, source, &d_key_value, &mut d_source, dense);
        scratch.give([d_attended, d_query, d_key_value]);
        let scatter = |d: &[f32], to: &mut [f32]| {
            for (element, d) in self.places.elements(queries).zip(d.chunks_exact(dim)) {
                add(&mut to[element * dim..][..dim], d);
            }
        };
        match order {
            NormOrder::Original => {
                add(&mut d_query_source, &d_sum);
                let mut d_asking = d_sum;
                let (norm, group) = (&block.attention_norm, &groups.attention_norm);
                norm_backward(norm, group, &pass.asking, &d_query_source, &mut d_asking, dense);
                scatter(&d_asking, &mut d_source);
                scratch.give([d_query_source, d_asking]);
                d_source
            }
            NormOrder::Paper | NormOrder::Pre => {
                scatter(&d_query_source, &mut d_source);
                let mut d_read = scratch.take(d_source.len());
                let (norm, group) = (&block.attention_norm, &groups.attention_norm);
                let read = if streams.is_some() { &pass.read } else { &pass.input };
                norm_backward(norm, group, read, &d_source, &mut d_read, dense);
                scratch.give([d_query_source, d_source]);
                if let Some(d) = through_gate {
                    scatter(&d, &mut d_read);
                    scratch.give([d]);
                }
                if let Some((([attention, _], groups), d_logits)) = streams.as_ref().zip(first) {
                    let (read, to) = ((&d_read[..], d_logits), (&groups.attention, dense));
                    attention.read_backward(&pass.input, &pass.streams[0], read, &mut d_input, to);
                    scratch.give([d_read, d_sum]);
                    return d_input;
                }
                scatter(&d_sum, &mut d_read);
                scratch.give([d_sum]);
                d_read
            }
            NormOrder::Post => {
                scatter(&d_query_source, &mut d_source);
                scatter(&d_sum, &mut d_source);
                scratch.give([d_query_source, d_sum]);
                d_source
            }
        }
    }
}

/// Writes the gradient of a layer norm's input, and adds those of gain and bias to theirs.
fn norm_backward(
    norm: &Norm<&[f32]>,
    groups: &Norm<usize>,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dense: &mut [Vec<f32>],
) {
    let mut d_bias = std::mem::take(&mut dense[groups.bias]);
    layer_norm_backward(x, norm.gain, NORM_EPS, dy, dx, (&mut dense[groups.gain], &mut d_bias));
    dense[groups.bias] = d_bias;
}

/// Writes the gradient of an affine map's input, and adds those of weight and bias to theirs.
pub(super) fn affine_backward(
    affine: &Affine<&[f32]>,
    groups: &Affine<usize>,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dense: &mut [Vec<f32>],
) {
    let output = affine.bias.len();
    let input = affine.weight.len() / output;
    let d_rows = Operand::rows_of(dy, output);
    matmul(&mut dense[groups.weight], true, 1.0, d_rows.transposed(), Operand::rows_of(x, input));
    dy.chunks_exact(output).for_each(|row| add(&mut dense[groups.bias], row));
    matmul(dx, false, 1.0, d_rows, Operand::rows_of(affine.weight, input));
}
