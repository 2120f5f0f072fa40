//! A tower in training: forward and backward passes through fields, their concatenation, and layers.

use crate::encoded::{EncodedField, Purpose};
use crate::encoder::Dropout;
use crate::error::ModelError;
use crate::lanes::add;
use crate::layers::dropout;
use crate::layers::embedding::{Recency, WeightedElements, element_products};
use crate::params::{Gradients, Parameters, TableGradient};
use crate::rng::Rng;
use crate::sparse::weighted_sum;
use crate::tower::encoder::Encoder;
use crate::tower::streams::{Mixing, StreamShape};
use crate::tower::{Input, Layer, Place, Reduce, Tower};
use rayon::prelude::*;
use std::ops::Range;
use twotower_artifacts::{CodeBatch, Column, FieldSchema, FieldShape};

/// Rows that go through all layers together, so that their activations stay in cache.
const TILE: usize = 256;
/// The number of partial sums of dense gradients. It is fixed, so that results do not depend on threads.
const PARTS: usize = 16;

/// A tower whose weights are parameters, with the dropout that only training applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Net {
    /// The tower. A weight is the index of a table or of a dense group in [`Parameters`].
    pub tower: Tower<usize>,
    /// For each layer, the probability in [0, 1) with which an element of its output is dropped. 0 means no dropout.
    pub dropout: Vec<f32>,
    /// The probability in [0, 1) with which encoders of sequences drop elements.
    pub encoder_dropout: f32,
    /// Dense groups of this tower.
    pub dense: Range<usize>,
}

/// A step of a tile's pass in training.
enum Step<'a> {
    Layer(&'a Layer<usize>),
    /// Keeps elements with probability 1 - rate and scales them by 1 / (1 - rate).
    Dropout(f32),
}

impl Step<'_> {
    /// Width of its output for a given input width.
    fn width(&self, parameters: &Parameters, input: usize) -> usize {
        match self {
            Step::Layer(layer) => layer.output(input, |weight| parameters.dense[*weight].extents()),
            Step::Dropout(_) => input,
        }
    }
}

/// What a forward pass keeps for the backward pass. It is reused between steps.
#[derive(Debug, Default)]
pub struct Pass {
    rows: usize,
    noise: Option<u64>,
    pooled: Vec<WeightedElements>,
    recency: Vec<Option<Recency>>,
    /// For each field with an encoder, its sequences.
    encoded: Vec<EncodedField>,
    /// For each tile, the concatenated inputs and the output of every step.
    tiles: Vec<Vec<Vec<f32>>>,
    parts: Vec<Vec<Vec<f32>>>,
    output: Vec<f32>,
}

impl Pass {
    /// `[rows, dim]` outputs of the last forward pass.
    pub fn output(&self) -> &[f32] {
        &self.output
    }
}

impl Net {
    /// Fields with their inputs.
    fn fields(&self) -> impl Iterator<Item = (&FieldSchema, &Input<usize>)> {
        self.tower.schema.fields.iter().zip(&self.tower.inputs)
    }

    /// Width of one field's input.
    fn field_width(&self, parameters: &Parameters, (field, input): (&FieldSchema, &Input<usize>)) -> usize {
        match (input.table(), &field.shape) {
            (Some(table), _) => parameters.tables[self.tower.tables[table]].dim,
            (None, FieldShape::Dense { width }) => *width as usize,
            (None, _) => unreachable!("a field without a table is dense"),
        }
    }

    /// Width of the concatenated inputs.
    pub fn input_width(&self, parameters: &Parameters) -> usize {
        self.fields().map(|field| self.field_width(parameters, field)).sum()
    }

    /// Adds a layer, and the dropout of its output.
    pub fn push(&mut self, layer: Layer<usize>, dropout: f32) {
        self.tower.layers.push(layer);
        self.dropout.push(dropout);
    }

    /// All layers, each followed by dropout if it has any.
    fn steps(&self) -> Vec<Step<'_>> {
        let layers = self.tower.layers.iter().zip(&self.dropout);
        let steps =
            layers.flat_map(|(layer, rate)| [Some(Step::Layer(layer)), (*rate > 0.0).then_some(Step::Dropout(*rate))]);
        steps.flatten().collect()
    }

    /// Widths of the concatenation and of every step's output.
    fn widths(&self, parameters: &Parameters, steps: &[Step<'_>]) -> Vec<usize> {
        let mut widths = vec![self.input_width(parameters)];
        for step in steps {
            widths.push(step.width(parameters, widths[widths.len() - 1]));
        }
        widths
    }

    /// Embeds a batch. With `noise`, a key of random numbers, dropout is on, and a backward pass can follow. The result is
    /// [`Pass::output`].
    pub fn forward(&self, parameters: &Parameters, batch: &CodeBatch, noise: Option<u64>, pass: &mut Pass) {
        let steps = self.steps();
        let widths = self.widths(parameters, &steps);
        let dim = self.tower.dim;
        pass.rows = batch.rows();
        pass.noise = noise;
        self.weigh(parameters, batch, pass);
        self.encode(parameters, batch, pass);
        pass.output.resize(pass.rows * dim, 0.0);
        pass.tiles.resize_with(pass.rows.div_ceil(TILE), || vec![Vec::new(); widths.len()]);
        let (reduced, output) = ((&pass.pooled[..], &pass.encoded[..]), &mut pass.output);
        pass.tiles.par_iter_mut().zip(output.par_chunks_mut(TILE * dim)).enumerate().for_each(|(t, (tile, out))| {
            let rows = t * TILE..t * TILE + out.len() / dim;
            for (values, width) in tile.iter_mut().zip(&widths) {
                values.resize(rows.len() * width, 0.0);
            }
            self.gather(parameters, batch, reduced, rows, &mut tile[0], widths[0]);
            for (s, step) in steps.iter().enumerate() {
                let (before, after) = tile.split_at_mut(s + 1);
                match step {
                    Step::Layer(layer) => layer.forward(parameters, &before[s], &mut after[0], widths[s]),
                    Step::Dropout(rate) => dropout(&before[s], *rate, tile_noise(noise, s, t), &mut after[0]),
                }
            }
            out.copy_from_slice(&tile[steps.len()]);
        });
    }

    /// Weighs the elements of every field that is pooled as a weighted mean.
    fn weigh(&self, parameters: &Parameters, batch: &CodeBatch, pass: &mut Pass) {
        pass.pooled.resize_with(self.tower.inputs.len(), WeightedElements::default);
        pass.recency = self
            .tower
            .inputs
            .iter()
            .map(|input| match input {
                Input::Pooled { reduce: Reduce::Position(logits), .. } => {
                    Some(Recency::new(&parameters.dense[*logits].values))
                }
                _ => None,
            })
            .collect();
        let fields = self.tower.schema.fields.par_iter().zip(&self.tower.inputs).zip(&batch.columns);
        pass.pooled.par_iter_mut().zip(fields).zip(&pass.recency).for_each(|((pooled, (field, column)), recency)| {
            let ((schema, Input::Pooled { reduce, .. }), Column::Ragged(ragged)) = (field, column) else { return };
            if let (Some(max_len), Reduce::Mean | Reduce::Position(_)) = (schema.shape.max_len(), reduce) {
                pooled.weigh(ragged, max_len, recency.as_ref());
            }
        });
    }

    /// The encoder of a field, if it has one.
    fn encoder(input: &Input<usize>) -> Option<&Encoder<usize>> {
        match input {
            Input::Pooled { reduce: Reduce::Attention(encoder), .. } => Some(encoder),
            Input::Pooled { .. } | Input::Embedding { .. } | Input::Dense => None,
        }
    }

    /// Computes the encoders of all fields that have one.
    fn encode(&self, parameters: &Parameters, batch: &CodeBatch, pass: &mut Pass) {
        pass.encoded.resize_with(self.tower.inputs.len(), EncodedField::default);
        for (f, ((field, input), column)) in self.fields().zip(&batch.columns).enumerate() {
            let (Some(encoder), Some(max_len), Column::Ragged(ragged)) =
                (Self::encoder(input), field.shape.max_len(), column)
            else {
                continue;
            };
            let Some(table) = input.table().map(|table| &parameters.tables[self.tower.tables[table]]) else { continue };
            let encoded = &mut pass.encoded[f];
            encoded.packed.pack_together(ragged, max_len);
            let purpose = if pass.noise.is_some() { Purpose::Learn } else { Purpose::Embed };
            encoded.forward(parameters, encoder, table, purpose, self.dropout_of(f, pass.noise));
        }
    }

    /// How far the mixtures of streams of encoders are from doubly stochastic: the largest difference between the sum of
    /// a column and 1. None if they are made without Sinkhorn's iteration, or if there are none.
    pub fn sinkhorn_error(&self, pass: &Pass) -> Option<f32> {
        let iterates = |input: &Input<usize>| {
            let streams = Self::encoder(input).and_then(|encoder| encoder.streams);
            matches!(streams, Some(StreamShape { mixing: Mixing::Sinkhorn(_), .. }))
        };
        let fields = self.tower.inputs.iter().zip(&pass.encoded).filter(|(input, _)| iterates(input));
        fields.map(|(_, encoded)| encoded.stream_error()).reduce(f32::max)
    }

    /// Dropout of the encoder of a field, if there is any.
    fn dropout_of(&self, field: usize, noise: Option<u64>) -> Option<Dropout> {
        let noise = noise.filter(|_| self.encoder_dropout > 0.0)?;
        Some(Dropout { rate: self.encoder_dropout, key: Rng::at(noise, &[field as u64]).bits() })
    }

    /// Fills `x`, `[rows.len(), width]`, with the concatenated inputs.
    fn gather(
        &self,
        parameters: &Parameters,
        batch: &CodeBatch,
        (pooled, encoded): (&[WeightedElements], &[EncodedField]),
        rows: Range<usize>,
        x: &mut [f32],
        width: usize,
    ) {
        let mut offset = 0;
        let reduced = pooled.iter().zip(encoded);
        for ((field, column), (pooled, encoded)) in self.fields().zip(&batch.columns).zip(reduced) {
            let field_width = self.field_width(parameters, field);
            let slots = x.chunks_exact_mut(width).map(|row| &mut row[offset..offset + field_width]);
            match (field.1, column) {
                (Input::Embedding { table }, Column::Code(codes)) => {
                    let table = &parameters.tables[self.tower.tables[table]];
                    for (slot, code) in slots.zip(&codes[rows.clone()]) {
                        slot.copy_from_slice(table.row(*code));
                    }
                }
                (Input::Pooled { reduce: Reduce::Attention(_), .. }, Column::Ragged(_)) => {
                    slots.zip(rows.clone()).for_each(|(slot, r)| encoded.copy(r, slot));
                }
                (Input::Pooled { table, .. }, Column::Ragged(_)) => {
                    let table = &parameters.tables[self.tower.tables[table]];
                    for (slot, r) in slots.zip(rows.clone()) {
                        slot.fill(0.0);
                        weighted_sum(slot, None, &table.values, table.dim, pooled.row(r));
                    }
                }
                (Input::Dense, Column::Dense { width, values }) => {
                    for (slot, r) in slots.zip(rows.clone()) {
                        slot.copy_from_slice(&values[r * width..(r + 1) * width]);
                    }
                }
                _ => unreachable!("columns of a checked batch have their field's shape"),
            }
            offset += field_width;
        }
    }

    /// The floats of all gradients of a pass from which those of tables are summed: of the concatenated inputs, and of
    /// the elements of sequences that have an encoder.
    fn gradient_len(&self, parameters: &Parameters, pass: &Pass) -> usize {
        pass.rows * self.input_width(parameters) + pass.encoded.iter().map(EncodedField::gradient_len).sum::<usize>()
    }

    /// Adds the gradients of this tower's dense groups, given those of the pass's output, and
    /// writes the gradients of the concatenated inputs to `d_inputs`, `[rows, input_width]`, followed by those of the
    /// elements of sequences that have an encoder.
    pub fn backward(
        &self,
        parameters: &Parameters,
        pass: &mut Pass,
        d_output: &[f32],
        d_inputs: &mut [f32],
        gradients: &mut [Vec<f32>],
    ) {
        let steps = self.steps();
        let widths = self.widths(parameters, &steps);
        let dim = self.tower.dim;
        let (d_inputs, d_elements) = d_inputs.split_at_mut(pass.rows * widths[0]);
        let per_part = pass.tiles.len().div_ceil(PARTS).max(1);
        let count = pass.tiles.len().div_ceil(per_part);
        pass.parts.resize_with(count, || crate::params::zeros(parameters));
        let (noise, pooled, recency) = (pass.noise, &pass.pooled, &pass.recency);
        let inputs = pass.tiles.par_chunks(per_part).zip(d_output.par_chunks(per_part * TILE * dim));
        let outputs = pass.parts.par_iter_mut().zip(d_inputs.par_chunks_mut((per_part * TILE * widths[0]).max(1)));
        inputs.zip(outputs).enumerate().for_each(|(p, ((tiles, d_output), (part, d_inputs)))| {
            part[self.dense.clone()].iter_mut().for_each(|g| g.fill(0.0));
            let mut products = self.products(parameters);
            let (mut dy, mut dx) = (Vec::new(), Vec::new());
            let tiles = tiles.iter().zip(d_output.chunks(TILE * dim)).zip(d_inputs.chunks_mut(TILE * widths[0]));
            for (t, ((tile, d_output), d_inputs)) in tiles.enumerate() {
                let t = p * per_part + t;
                let rows = d_output.len() / dim;
                dy.clear();
                dy.extend_from_slice(d_output);
                for (s, step) in steps.iter().enumerate().rev() {
                    dx.resize(rows * widths[s], 0.0);
                    match step {
                        Step::Layer(layer) => {
                            layer.backward(parameters, (&tile[s], &tile[s + 1]), &dy, &mut dx, widths[s], part);
                        }
                        Step::Dropout(rate) => dropout(&dy, *rate, tile_noise(noise, s, t), &mut dx),
                    }
                    std::mem::swap(&mut dx, &mut dy);
                }
                d_inputs.copy_from_slice(&dy);
                self.multiply_elements(parameters, pooled, t * TILE, d_inputs, widths[0], &mut products);
            }
            for ((input, recency), products) in self.tower.inputs.iter().zip(recency).zip(&products) {
                if let (Input::Pooled { reduce: Reduce::Position(logits), .. }, Some(recency)) = (input, recency) {
                    recency.backward(products, &mut part[*logits]);
                }
            }
        });
        for group in self.dense.clone() {
            for part in &pass.parts {
                add(&mut gradients[group], &part[group]);
            }
        }
        self.backward_encoders(parameters, pass, (d_inputs, widths[0]), d_elements, gradients);
    }

    /// The backward pass of all encoders, given the gradients of the concatenated inputs and their width.
    fn backward_encoders(
        &self,
        parameters: &Parameters,
        pass: &mut Pass,
        (d_inputs, width): (&[f32], usize),
        mut d_elements: &mut [f32],
        gradients: &mut [Vec<f32>],
    ) {
        let mut offset = 0;
        for (f, field) in self.fields().enumerate() {
            if let Some(encoder) = Self::encoder(field.1) {
                let dropout = self.dropout_of(f, pass.noise);
                let encoded = &mut pass.encoded[f];
                let (mine, others) = std::mem::take(&mut d_elements).split_at_mut(encoded.gradient_len());
                encoded.backward(parameters, encoder, dropout, (d_inputs, width, offset), mine, gradients);
                d_elements = others;
            }
            offset += self.field_width(parameters, field);
        }
    }

    /// Memory for the sums of [`element_products`], zeroed, for each field with learned positions.
    fn products(&self, parameters: &Parameters) -> Vec<Vec<f32>> {
        let size = |input: &Input<usize>| match input {
            Input::Pooled { reduce: Reduce::Position(logits), .. } => {
                let max_len = parameters.dense[*logits].values.len();
                (max_len + 1) * max_len
            }
            _ => 0,
        };
        self.tower.inputs.iter().map(|input| vec![0.0; size(input)]).collect()
    }

    fn multiply_elements(
        &self,
        parameters: &Parameters,
        pooled: &[WeightedElements],
        first_row: usize,
        d_inputs: &[f32],
        width: usize,
        products: &mut [Vec<f32>],
    ) {
        let mut offset = 0;
        for ((field, pooled), products) in self.fields().zip(pooled).zip(products) {
            if let Input::Pooled { table, reduce: Reduce::Position(logits) } = field.1 {
                let table = &parameters.tables[self.tower.tables[table]];
                let max_len = parameters.dense[*logits].values.len();
                for (r, d_row) in d_inputs.chunks_exact(width).enumerate() {
                    let uses = pooled.row(first_row + r);
                    let products = &mut products[uses.len() * max_len..];
                    element_products(table, uses, &d_row[offset..offset + table.dim], products);
                }
            }
            offset += self.field_width(parameters, field);
        }
    }

    /// Calls `note` for every use of a table in a pass, with the row, the offset of the gradient of the input in which
    /// it was used, and its weight. Gradients of the inputs start at offset `base`.
    fn note_uses(
        &self,
        parameters: &Parameters,
        batch: &CodeBatch,
        pass: &Pass,
        wanted: usize,
        base: usize,
        mut note: impl FnMut(u32, usize, f32),
    ) {
        let width = self.input_width(parameters);
        let mut at = base;
        let mut element = base + pass.rows * width;
        let reduced = pass.pooled.iter().zip(&pass.encoded);
        for ((field, column), (pooled, encoded)) in self.fields().zip(&batch.columns).zip(reduced) {
            let is_wanted = field.1.table().is_some_and(|table| self.tower.tables[table] == wanted);
            match (field.1, column) {
                (Input::Embedding { .. }, Column::Code(codes)) if is_wanted => {
                    for (r, code) in codes.iter().enumerate() {
                        note(*code, at + r * width, 1.0);
                    }
                }
                (Input::Pooled { reduce: Reduce::Attention(_), .. }, _) if is_wanted => {
                    encoded.note_uses(element, &mut note);
                }
                (Input::Pooled { .. }, _) if is_wanted => {
                    for r in 0..pass.rows {
                        for (code, weight) in pooled.row(r) {
                            note(*code, at + r * width, *weight);
                        }
                    }
                }
                _ => {}
            }
            at += self.field_width(parameters, field);
            element += encoded.gradient_len();
        }
    }

    /// The tower with the current parameters.
    pub fn trained(&self, parameters: &Parameters) -> Tower {
        self.tower.map(|place, index| match place {
            Place::Table(_) => parameters.tables[*index].matrix(),
            Place::Reduce(..) | Place::Layer(..) => parameters.dense[*index].matrix(),
        })
    }
}

/// The random numbers of one step for one tile.
fn tile_noise(noise: Option<u64>, step: usize, tile: usize) -> Option<Rng> {
    noise.map(|key| Rng::at(key, &[step as u64, tile as u64]))
}

/// A forward pass of a tower, with the gradient of its output.
pub struct Backward<'a> {
    /// The tower.
    pub net: &'a Net,
    /// What it embedded.
    pub batch: &'a CodeBatch,
    /// What the forward pass kept.
    pub pass: &'a mut Pass,
    /// `[rows, dim]` the gradient of the output.
    pub d_output: &'a [f32],
}

/// The backward pass of a step: the gradients of dense groups, and then those of the rows of every table, which towers
/// may share. A tower may have made several forward passes.
///
/// # Errors
/// [`ModelError::Setting`] when the batch's inputs hold more than 2^32 floats.
pub fn backward(
    parameters: &Parameters,
    passes: &mut [Backward<'_>],
    gradients: &mut Gradients,
) -> Result<(), ModelError> {
    let ends = passes.iter().scan(0, |end, each| {
        *end += each.net.gradient_len(parameters, each.pass);
        Some(*end)
    });
    let ends: Vec<usize> = ends.collect();
    let total = ends.last().copied().unwrap_or(0);
    if total > u32::MAX as usize {
        return Err(ModelError::Setting {
            setting: "batch_size".into(),
            expected: "at most 2^32 floats of concatenated inputs in a batch".into(),
            found: total.to_string(),
        });
    }
    let mut d_inputs = std::mem::take(&mut gradients.inputs);
    d_inputs.resize(total, 0.0);
    let mut start = 0;
    for (Backward { net, pass, d_output, .. }, end) in passes.iter_mut().zip(&ends) {
        net.backward(parameters, pass, d_output, &mut d_inputs[start..*end], &mut gradients.dense);
        start = *end;
    }
    let starts = || std::iter::once(0).chain(ends.iter().copied());
    let passes = &*passes;
    gradients.tables.par_iter_mut().enumerate().for_each(|(t, gradient)| match gradient {
        TableGradient::Rows(sparse) => {
            for (Backward { net, batch, pass, .. }, base) in passes.iter().zip(starts()) {
                net.note_uses(parameters, batch, pass, t, base, |row, at, weight| sparse.push(row, at, weight));
            }
            sparse.reduce(&d_inputs);
        }
        TableGradient::Whole(values) => {
            let dim = parameters.tables[t].dim;
            for (Backward { net, batch, pass, .. }, base) in passes.iter().zip(starts()) {
                net.note_uses(parameters, batch, pass, t, base, |row, at, weight| {
                    weighted_sum(&mut values[row as usize * dim..][..dim], None, &d_inputs, 1, &[(at as u32, weight)]);
                });
            }
        }
    });
    gradients.inputs = d_inputs;
    Ok(())
}
