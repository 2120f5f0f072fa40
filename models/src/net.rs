//! A trainable feed-forward tower: fields, their concatenation, layers; forward and backward.

use crate::error::ModelError;
use crate::lanes::add;
use crate::layers::Layer;
use crate::layers::embedding::{Pooled, Recency, element_products};
use crate::params::{Gradients, Parameters};
use crate::rng::Rng;
use crate::sparse::{SparseGradient, weighted_sum};
use crate::tower::{Matrix, Pooling, Tower, TowerInput};
use rayon::prelude::*;
use std::ops::Range;
use twotower_artifacts::{CodeBatch, Column, TowerSchema};

/// Rows that go through all layers together, so that their activations stay in cache.
const TILE: usize = 256;
/// Partial sums of dense gradients: a fixed number, so that results do not depend on threads.
const PARTS: usize = 16;

/// How one field enters the concatenation.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// One row of a table.
    Code {
        /// Index of the table.
        table: usize,
    },
    /// Weighted mean of rows.
    Pooled {
        /// Index of the table.
        table: usize,
        /// The most elements of a row that count.
        max_len: usize,
        /// Dense group of the position logits; absent = plain mean.
        position: Option<usize>,
    },
    /// Floats as they are.
    Dense {
        /// Floats per row.
        width: usize,
    },
}

/// The structure of a tower; the numbers live in [`Parameters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Net {
    /// Inputs in order and the encoder state they come from.
    pub schema: TowerSchema,
    /// One per field of the schema.
    pub inputs: Vec<Input>,
    /// Layers in order.
    pub layers: Vec<Layer>,
    /// Dense groups of this tower.
    pub dense: Range<usize>,
}

/// What a forward pass leaves for the backward pass; reused between steps.
#[derive(Debug, Default)]
pub struct Pass {
    rows: usize,
    noise: Option<u64>,
    pooled: Vec<Pooled>,
    recency: Vec<Option<Recency>>,
    /// Per tile, the input and the output of every layer.
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
    /// Width of one field's input.
    fn field_width(&self, parameters: &Parameters, input: &Input) -> usize {
        match input {
            Input::Code { table } | Input::Pooled { table, .. } => parameters.tables[*table].dim,
            Input::Dense { width } => *width,
        }
    }

    /// Width of the concatenated inputs.
    pub fn input_width(&self, parameters: &Parameters) -> usize {
        self.inputs.iter().map(|input| self.field_width(parameters, input)).sum()
    }

    /// Widths of the concatenation and of every layer's output.
    fn widths(&self, parameters: &Parameters) -> Vec<usize> {
        let mut widths = vec![self.input_width(parameters)];
        for layer in &self.layers {
            widths.push(layer.width(widths[widths.len() - 1]));
        }
        widths
    }

    /// Embeds a batch; with `noise` (a key) dropout is on. The result is [`Pass::output`].
    pub fn forward(&self, parameters: &Parameters, batch: &CodeBatch, noise: Option<u64>, pass: &mut Pass) {
        let widths = self.widths(parameters);
        let dim = widths[widths.len() - 1];
        pass.rows = batch.rows();
        pass.noise = noise;
        self.weigh(parameters, batch, pass);
        pass.output.resize(pass.rows * dim, 0.0);
        pass.tiles.resize_with(pass.rows.div_ceil(TILE), || vec![Vec::new(); widths.len()]);
        let (pooled, output) = (&pass.pooled, &mut pass.output);
        pass.tiles.par_iter_mut().zip(output.par_chunks_mut(TILE * dim)).enumerate().for_each(|(t, (tile, out))| {
            let rows = t * TILE..t * TILE + out.len() / dim;
            for (values, width) in tile.iter_mut().zip(&widths) {
                values.resize(rows.len() * width, 0.0);
            }
            self.gather(parameters, batch, pooled, rows, &mut tile[0], widths[0]);
            for (l, layer) in self.layers.iter().enumerate() {
                let (before, after) = tile.split_at_mut(l + 1);
                layer.forward(parameters, &before[l], &mut after[0], widths[l], tile_noise(noise, l, t));
            }
            out.copy_from_slice(&tile[self.layers.len()]);
        });
    }

    /// Weighs the elements of every pooled field.
    fn weigh(&self, parameters: &Parameters, batch: &CodeBatch, pass: &mut Pass) {
        pass.pooled.resize_with(self.inputs.len(), Pooled::default);
        pass.recency = self
            .inputs
            .iter()
            .map(|input| match input {
                Input::Pooled { position: Some(group), .. } => Some(Recency::new(&parameters.dense[*group].values)),
                _ => None,
            })
            .collect();
        let fields = self.inputs.par_iter().zip(&batch.columns).zip(&pass.recency);
        pass.pooled.par_iter_mut().zip(fields).for_each(|(pooled, ((input, column), recency))| {
            if let (Input::Pooled { max_len, .. }, Column::Ragged(ragged)) = (input, column) {
                pooled.weigh(ragged, *max_len, recency.as_ref());
            }
        });
    }

    /// Fills `x`, `[rows.len(), width]`, with the concatenated inputs.
    fn gather(
        &self,
        parameters: &Parameters,
        batch: &CodeBatch,
        pooled: &[Pooled],
        rows: Range<usize>,
        x: &mut [f32],
        width: usize,
    ) {
        let mut offset = 0;
        for ((input, column), pooled) in self.inputs.iter().zip(&batch.columns).zip(pooled) {
            let field_width = self.field_width(parameters, input);
            let slots = x.chunks_exact_mut(width).map(|row| &mut row[offset..offset + field_width]);
            match (input, column) {
                (Input::Code { table }, Column::Code(codes)) => {
                    let table = &parameters.tables[*table];
                    for (slot, code) in slots.zip(&codes[rows.clone()]) {
                        slot.copy_from_slice(table.row(*code));
                    }
                }
                (Input::Pooled { table, .. }, Column::Ragged(_)) => {
                    let table = &parameters.tables[*table];
                    for (slot, r) in slots.zip(rows.clone()) {
                        slot.fill(0.0);
                        weighted_sum(slot, None, &table.values, table.dim, pooled.row(r));
                    }
                }
                (Input::Dense { width }, Column::Dense { values, .. }) => {
                    for (slot, r) in slots.zip(rows.clone()) {
                        slot.copy_from_slice(&values[r * width..(r + 1) * width]);
                    }
                }
                _ => unreachable!("columns of a checked batch have their field's shape"),
            }
            offset += field_width;
        }
    }

    /// Adds the gradients of this tower's dense groups, given those of the pass's output, and
    /// writes the gradients of its concatenated inputs to `d_inputs`, `[rows, input_width]`.
    pub fn backward(
        &self,
        parameters: &Parameters,
        pass: &mut Pass,
        d_output: &[f32],
        d_inputs: &mut [f32],
        gradients: &mut [Vec<f32>],
    ) {
        let widths = self.widths(parameters);
        let dim = widths[widths.len() - 1];
        let per_part = pass.tiles.len().div_ceil(PARTS).max(1);
        let count = pass.tiles.len().div_ceil(per_part);
        pass.parts.resize_with(count, || crate::params::zeros(parameters));
        let (noise, pooled, recency) = (pass.noise, &pass.pooled, &pass.recency);
        let inputs = pass.tiles.par_chunks(per_part).zip(d_output.par_chunks(per_part * TILE * dim));
        let outputs = pass.parts.par_iter_mut().zip(d_inputs.par_chunks_mut(per_part * TILE * widths[0]));
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
                for (l, layer) in self.layers.iter().enumerate().rev() {
                    dx.resize(rows * widths[l], 0.0);
                    let noise = tile_noise(noise, l, t);
                    layer.backward(parameters, &tile[l], &tile[l + 1], &dy, &mut dx, widths[l], noise, part);
                    std::mem::swap(&mut dx, &mut dy);
                }
                d_inputs.copy_from_slice(&dy);
                self.multiply_elements(parameters, pooled, t * TILE, d_inputs, widths[0], &mut products);
            }
            for ((input, recency), products) in self.inputs.iter().zip(recency).zip(&products) {
                if let (Input::Pooled { position: Some(group), .. }, Some(recency)) = (input, recency) {
                    recency.backward(products, &mut part[*group]);
                }
            }
        });
        for group in self.dense.clone() {
            for part in &pass.parts {
                add(&mut gradients[group], &part[group]);
            }
        }
    }

    /// Zeroed sums of [`element_products`] per field with learned positions.
    fn products(&self, parameters: &Parameters) -> Vec<Vec<f32>> {
        let size = |input: &Input| match input {
            Input::Pooled { position: Some(group), .. } => {
                let max_len = parameters.dense[*group].values.len();
                (max_len + 1) * max_len
            }
            _ => 0,
        };
        self.inputs.iter().map(|input| vec![0.0; size(input)]).collect()
    }

    fn multiply_elements(
        &self,
        parameters: &Parameters,
        pooled: &[Pooled],
        first_row: usize,
        d_inputs: &[f32],
        width: usize,
        products: &mut [Vec<f32>],
    ) {
        let mut offset = 0;
        for ((input, pooled), products) in self.inputs.iter().zip(pooled).zip(products) {
            if let Input::Pooled { table, position: Some(group), .. } = input {
                let table = &parameters.tables[*table];
                let max_len = parameters.dense[*group].values.len();
                for (r, d_row) in d_inputs.chunks_exact(width).enumerate() {
                    let uses = pooled.row(first_row + r);
                    let products = &mut products[uses.len() * max_len..];
                    element_products(table, uses, &d_row[offset..offset + table.dim], products);
                }
            }
            offset += self.field_width(parameters, input);
        }
    }

    /// Notes every use of `table` in a pass; gradients of the inputs start at `base` of the buffer
    /// that [`SparseGradient::reduce`] will be given.
    fn note_uses(
        &self,
        parameters: &Parameters,
        batch: &CodeBatch,
        pass: &Pass,
        wanted: usize,
        base: usize,
        sparse: &mut SparseGradient,
    ) {
        let width = self.input_width(parameters);
        let mut at = base;
        for ((input, column), pooled) in self.inputs.iter().zip(&batch.columns).zip(&pass.pooled) {
            match (input, column) {
                (Input::Code { table }, Column::Code(codes)) if *table == wanted => {
                    for (r, code) in codes.iter().enumerate() {
                        sparse.push(*code, at + r * width, 1.0);
                    }
                }
                (Input::Pooled { table, .. }, _) if *table == wanted => {
                    for r in 0..pass.rows {
                        for (code, weight) in pooled.row(r) {
                            sparse.push(*code, at + r * width, *weight);
                        }
                    }
                }
                _ => {}
            }
            at += self.field_width(parameters, input);
        }
    }

    /// The trained tower as plain data.
    pub fn export(&self, parameters: &Parameters) -> Tower {
        let table_name = |table: usize| parameters.tables[table].name.clone();
        let used = self.inputs.iter().filter_map(|input| match input {
            Input::Code { table } | Input::Pooled { table, .. } => Some(*table),
            Input::Dense { .. } => None,
        });
        let widths = self.widths(parameters);
        Tower {
            schema: self.schema.clone(),
            inputs: self
                .inputs
                .iter()
                .map(|input| match input {
                    Input::Code { table } => TowerInput::Embedding { table: table_name(*table) },
                    Input::Pooled { table, position, .. } => TowerInput::Pooled {
                        table: table_name(*table),
                        pooling: match position {
                            None => Pooling::Mean,
                            Some(group) => Pooling::Position(parameters.dense[*group].values.clone()),
                        },
                    },
                    Input::Dense { .. } => TowerInput::Dense,
                })
                .collect(),
            tables: used
                .map(|t| {
                    let table = &parameters.tables[t];
                    (table.name.clone(), Matrix { rows: table.rows, cols: table.dim, data: table.values.clone() })
                })
                .collect(),
            layers: self.layers.iter().filter_map(|layer| layer.export(parameters)).collect(),
            dim: widths[widths.len() - 1],
        }
    }
}

/// The noise of one layer on one tile.
fn tile_noise(noise: Option<u64>, layer: usize, tile: usize) -> Option<Rng> {
    noise.map(|key| Rng::at(key, &[layer as u64, tile as u64]))
}

/// Backward pass of both towers of a model that is two [`Net`]s: dense gradients, then the rows
/// of every table, which the towers may share.
///
/// # Errors
/// [`ModelError::Setting`] when the batch's inputs hold more than 2^32 floats.
pub fn backward_pair(
    parameters: &Parameters,
    towers: [(&Net, &CodeBatch, &mut Pass, &[f32]); 2],
    gradients: &mut Gradients,
) -> Result<(), ModelError> {
    let sizes = towers.each_ref().map(|(net, _, pass, _)| pass.rows * net.input_width(parameters));
    let total = sizes[0] + sizes[1];
    if total > u32::MAX as usize {
        return Err(ModelError::Setting {
            setting: "batch_size".into(),
            expected: "at most 2^32 floats of concatenated inputs in a batch".into(),
            found: total.to_string(),
        });
    }
    let mut d_inputs = std::mem::take(&mut gradients.inputs);
    d_inputs.resize(total, 0.0);
    let (first, second) = d_inputs.split_at_mut(sizes[0]);
    let towers = {
        let [(user, user_batch, user_pass, d_user), (item, item_batch, item_pass, d_item)] = towers;
        user.backward(parameters, user_pass, d_user, first, &mut gradients.dense);
        item.backward(parameters, item_pass, d_item, second, &mut gradients.dense);
        [(user, user_batch, &*user_pass, 0), (item, item_batch, &*item_pass, sizes[0])]
    };
    gradients.tables.par_iter_mut().enumerate().for_each(|(t, sparse)| {
        for (net, batch, pass, base) in towers {
            net.note_uses(parameters, batch, pass, t, base, sparse);
        }
        sparse.reduce(&d_inputs);
    });
    gradients.inputs = d_inputs;
    Ok(())
}
