//! The sequences of a field with an encoder, in training: forward and backward passes, chunk by chunk, on all threads.

use crate::encoder::{Chunk, ChunkPass, Dropout, EncoderGradients, NO_OUTPUT, PackedSequences, Scratch};
use crate::lanes::add;
use crate::params::{Parameters, Table};
use crate::rng::Rng;
use crate::tower::encoder::Encoder;
use rayon::prelude::*;

/// The number of partial sums of the gradients of an encoder's weights. It is fixed, so that results do not depend on
/// threads.
const PARTS: usize = 16;

/// The sequences of a field, and what the backward pass needs of them. It is reused between steps.
#[derive(Debug, Default)]
pub(crate) struct EncodedField {
    /// The sequences, and which outputs the rows of the batch take.
    pub packed: PackedSequences,
    dim: usize,
    chunks: Vec<Chunk>,
    /// Of every chunk, after a forward pass from which something is learned.
    passes: Vec<ChunkPass>,
    /// `[outputs, dim]`.
    outputs: Vec<f32>,
    /// `[dim]` the output of a row without elements.
    empty: Vec<f32>,
    d_outputs: Vec<f32>,
    /// Partial sums of the gradients of dense groups.
    parts: Vec<Vec<Vec<f32>>>,
}

/// Why a batch is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For its vectors alone.
    Embed,
    /// For a backward pass too.
    Learn,
}

/// Dropout of one chunk.
fn of_chunk(dropout: Option<Dropout>, chunk: usize) -> Option<Dropout> {
    dropout.map(|Dropout { rate, key }| Dropout { rate, key: Rng::at(key, &[chunk as u64]).bits() })
}

/// Splits values of `dim` floats a row into those of each chunk, of `rows(chunk)` rows.
fn by_chunk<'a>(
    mut values: &'a mut [f32],
    chunks: &[Chunk],
    dim: usize,
    rows: impl Fn(&Chunk) -> usize,
) -> Vec<&'a mut [f32]> {
    let mut split = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let (mine, others) = values.split_at_mut(rows(chunk) * dim);
        split.push(mine);
        values = others;
    }
    split
}

impl EncodedField {
    /// Computes the outputs of the packed sequences. For a backward pass, what it needs of every chunk is kept, which is
    /// many times as large as the outputs.
    pub fn forward(
        &mut self,
        parameters: &Parameters,
        encoder: &Encoder<usize>,
        table: &Table,
        purpose: Purpose,
        dropout: Option<Dropout>,
    ) {
        let Self { packed, chunks, passes, outputs, empty, .. } = self;
        let values = encoder.map(|group| &parameters.dense[*group].values[..]);
        self.dim = table.dim;
        empty.clear();
        empty.extend_from_slice(values.empty);
        *chunks = packed.chunks();
        outputs.resize(packed.wanted.len() * table.dim, 0.0);
        let split = by_chunk(outputs, chunks, table.dim, |chunk| chunk.outputs.len());
        let (packed, chunks) = (&*packed, &*chunks);
        let work = split.into_par_iter().zip(chunks).enumerate();
        let compute = |pass: &mut ChunkPass, (c, (out, chunk)): (usize, (&mut [f32], &Chunk))| {
            pass.forward(&values, &table.values, packed, chunk, of_chunk(dropout, c), out);
        };
        match purpose {
            Purpose::Learn => {
                passes.resize_with(chunks.len(), ChunkPass::default);
                work.zip(passes).for_each(|(work, pass)| compute(pass, work));
            }
            Purpose::Embed => {
                passes.clear();
                work.for_each_init(ChunkPass::default, compute);
            }
        }
    }

    /// The largest difference between the sum of a column of a mixture of streams and 1.
    pub fn stream_error(&self) -> f32 {
        self.passes.iter().map(ChunkPass::stream_error).fold(0.0, f32::max)
    }

    /// Writes the output of a row to `slot`.
    pub fn copy(&self, row: usize, slot: &mut [f32]) {
        match self.packed.output_of[row] {
            NO_OUTPUT => slot.copy_from_slice(&self.empty),
            output => slot.copy_from_slice(&self.outputs[output as usize * self.dim..][..self.dim]),
        }
    }

    /// The floats of the gradients of all elements.
    pub fn gradient_len(&self) -> usize {
        self.packed.codes.len() * self.dim
    }

    /// Writes the gradients of the elements, `[elements, dim]`, and adds those of the encoder's weights to
    /// `gradients`. Those of rows are in `d_inputs`, whose rows have a width, from an offset on.
    pub fn backward(
        &mut self,
        parameters: &Parameters,
        encoder: &Encoder<usize>,
        dropout: Option<Dropout>,
        (d_inputs, width, offset): (&[f32], usize, usize),
        d_elements: &mut [f32],
        gradients: &mut [Vec<f32>],
    ) {
        let Self { packed, dim, chunks, passes, outputs, d_outputs, parts, empty: _ } = self;
        let dim = *dim;
        d_outputs.clear();
        d_outputs.resize(outputs.len(), 0.0);
        for (output, d_row) in packed.output_of.iter().zip(d_inputs.chunks_exact(width)) {
            let d_of_output = match *output {
                NO_OUTPUT => &mut gradients[encoder.empty][..],
                output => &mut d_outputs[output as usize * dim..][..dim],
            };
            add(d_of_output, &d_row[offset..offset + dim]);
        }
        let values = encoder.map(|group| &parameters.dense[*group].values[..]);
        let mut groups = Vec::new();
        encoder.map(|group| groups.push(*group));
        groups.retain(|group| *group != encoder.empty);
        let per_part = chunks.len().div_ceil(PARTS).max(1);
        parts.resize_with(chunks.len().div_ceil(per_part), Vec::new);
        let split = by_chunk(d_elements, chunks, dim, |chunk| chunk.elements.len());
        let mut work: Vec<_> = passes.iter_mut().zip(split).zip(&*chunks).enumerate().collect();
        let (packed, d_outputs, sizes) = (&*packed, &*d_outputs, &parameters.dense);
        work.par_chunks_mut(per_part).zip(&mut *parts).for_each(|(work, part)| {
            part.resize_with(sizes.len(), Vec::new);
            for group in &groups {
                part[*group].clear();
                part[*group].resize(sizes[*group].values.len(), 0.0);
            }
            let mut scratch = Scratch::default();
            for (c, ((pass, d_elements), chunk)) in work {
                let d_out = &d_outputs[chunk.outputs.start * dim..chunk.outputs.end * dim];
                let gradients = EncoderGradients { groups: encoder, dense: part, scratch: &mut scratch };
                let dropout = of_chunk(dropout, *c);
                pass.backward(&values, (packed, chunk), dropout, d_out, d_elements, gradients);
            }
        });
        for group in groups {
            parts.iter().for_each(|part| add(&mut gradients[group], &part[group]));
        }
    }

    /// Calls `note` for every element with its code, the offset of its gradient, and its weight, √dim. The gradients of
    /// all elements start at offset `base`.
    pub fn note_uses(&self, base: usize, note: &mut impl FnMut(u32, usize, f32)) {
        let scale = (self.dim as f32).sqrt();
        let codes = self.packed.codes.iter().enumerate();
        codes.for_each(|(element, code)| note(*code, base + element * self.dim, scale));
    }
}
