//! The native engine: a tower run on the training kernels, without a shared library.
//!
//! Rows are computed in tiles of exactly [`TILE`], the last one filled up with zeros, so that the
//! bits of a row do not depend on the rows beside it.

use crate::engine::Engine;
use crate::engine::layout::{Layout, check_batch, check_output, check_tower};
use crate::error::ModelError;
use crate::lanes::{add, add_scaled, dot};
use crate::matmul::{Operand, matmul};
use crate::tower::{Layer, Matrix, Pooling, Tower, TowerInput};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use twotower_artifacts::schema::PADDING;
use twotower_artifacts::{CodeBatch, Column, TowerSchema};

/// Rows computed at a time: enough to feed `gemm`, few enough to stay in cache.
pub const TILE: usize = 256;

/// Embeds a batch on the current rayon pool.
///
/// # Shapes
/// - `batch`: columns in the order of `tower.schema`, codes below their cardinality
/// - returns `[rows, dim]`; unit rows when the tower ends in an L2 norm and the row is not zero
///
/// The result does not depend on the number of threads, nor a row's bits on the rows beside it.
///
/// # Errors
/// [`ModelError::Tower`] for a tower whose parts do not fit together; [`ModelError::Artifact`] for
/// a batch of another shape, or a code outside its field's cardinality.
pub fn embed(tower: &Tower, batch: &CodeBatch) -> Result<Matrix, ModelError> {
    let layout = check_tower(tower)?;
    check_batch(&tower.schema, batch)?;
    let rows = batch.rows();
    let mut data = vec![0.0; rows * tower.dim];
    data.par_chunks_mut(TILE * tower.dim).enumerate().for_each_init(
        || Scratch::new(&layout),
        |scratch, (tile, out)| forward(tower, &layout, batch, tile_rows(tile, rows), scratch, out),
    );
    Ok(Matrix { rows, cols: tower.dim, data })
}

/// A tower and the memory to run it on one thread; nothing is allocated per batch.
#[derive(Debug)]
pub struct NativeEngine {
    tower: Arc<Tower>,
    layout: Layout,
    scratch: Scratch,
}

impl NativeEngine {
    /// An engine for one worker; workers share the tower.
    ///
    /// # Errors
    /// [`ModelError::Tower`] for a tower whose parts do not fit together.
    pub fn new(tower: Arc<Tower>) -> Result<Self, ModelError> {
        let layout = check_tower(&tower)?;
        let scratch = Scratch::new(&layout);
        Ok(Self { tower, layout, scratch })
    }
}

impl Engine for NativeEngine {
    fn embed(&mut self, batch: &CodeBatch, out: &mut [f32]) -> Result<(), ModelError> {
        let Self { tower, layout, scratch } = self;
        check_batch(&tower.schema, batch)?;
        let rows = batch.rows();
        check_output(rows, tower.dim, out)?;
        for (tile, out) in out.chunks_mut(TILE * tower.dim).enumerate() {
            forward(tower, layout, batch, tile_rows(tile, rows), scratch, out);
        }
        Ok(())
    }

    fn dim(&self) -> usize {
        self.tower.dim
    }

    fn schema(&self) -> &TowerSchema {
        &self.tower.schema
    }
}

/// Memory for one tile.
#[derive(Debug)]
struct Scratch {
    /// Layer input and output, `[TILE, width]` each, `width` as the layers need.
    x: Vec<f32>,
    y: Vec<f32>,
    /// Weights of the elements of one row.
    weights: Vec<f32>,
}

impl Scratch {
    fn new(layout: &Layout) -> Self {
        let tile = || vec![0.0; TILE * layout.max_width];
        Self {
            x: tile(),
            y: tile(),
            weights: Vec::with_capacity(layout.inputs.iter().map(|i| i.max_len).max().unwrap_or(0)),
        }
    }
}

fn tile_rows(tile: usize, rows: usize) -> Range<usize> {
    tile * TILE..rows.min((tile + 1) * TILE)
}

/// Embeds at most [`TILE`] checked rows.
fn forward(
    tower: &Tower,
    layout: &Layout,
    batch: &CodeBatch,
    rows: Range<usize>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Scratch { x, y, weights } = scratch;
    let mut width = layout.input_width;
    gather(tower, layout, batch, rows, &mut x[..TILE * width], weights);
    for layer in &tower.layers {
        let rows = &mut x[..TILE * width];
        match layer {
            Layer::Linear { weight, bias } => {
                let result = &mut y[..TILE * weight.rows];
                result.chunks_exact_mut(weight.rows).for_each(|row| row.copy_from_slice(bias));
                let by_input = Operand::rows_of(&weight.data, weight.cols).transposed();
                matmul(result, true, 1.0, Operand::rows_of(rows, width), by_input);
                std::mem::swap(x, y);
                width = weight.rows;
            }
            Layer::Prelu { slope } => {
                for row in rows.chunks_exact_mut(width) {
                    row.iter_mut().zip(slope).for_each(|(v, s)| *v = if *v > 0.0 { *v } else { *v * s });
                }
            }
            Layer::Relu => rows.iter_mut().for_each(|v| *v = if *v > 0.0 { *v } else { 0.0 }),
            Layer::L2Norm { eps } => {
                for row in rows.chunks_exact_mut(width) {
                    let norm = dot(row, row).sqrt().max(*eps);
                    row.iter_mut().for_each(|v| *v /= norm);
                }
            }
        }
    }
    out.copy_from_slice(&x[..out.len()]);
}

/// Fills `x`, `[TILE, width]`, with the concatenated inputs; rows past the range become zero.
fn gather(
    tower: &Tower,
    layout: &Layout,
    batch: &CodeBatch,
    rows: Range<usize>,
    x: &mut [f32],
    weights: &mut Vec<f32>,
) {
    x.fill(0.0);
    let mut start = 0;
    for ((input, place), column) in tower.inputs.iter().zip(&layout.inputs).zip(&batch.columns) {
        let end = start + place.width;
        let cells = x.chunks_exact_mut(layout.input_width).map(|row| &mut row[start..end]);
        match (input, column) {
            (TowerInput::Embedding { table }, Column::Code(codes)) => {
                let table = &tower.tables[table];
                for (cell, code) in cells.zip(&codes[rows.clone()]) {
                    cell.copy_from_slice(embedding(table, *code));
                }
            }
            (TowerInput::Pooled { table, pooling }, Column::Ragged(ragged)) => {
                let table = &tower.tables[table];
                for (cell, row) in cells.zip(rows.clone()) {
                    pool(table, pooling, place.max_len, ragged.row(row), cell, weights);
                }
            }
            (TowerInput::Dense, Column::Dense { width, values }) => {
                for (cell, row) in cells.zip(rows.clone()) {
                    cell.copy_from_slice(&values[row * width..(row + 1) * width]);
                }
            }
            _ => unreachable!("tower and batch were checked against one schema"),
        }
        start = end;
    }
}

fn embedding(table: &Matrix, code: u32) -> &[f32] {
    &table.data[code as usize * table.cols..][..table.cols]
}

/// Combines the newest `max_len` real elements of a row into `cell`, which is zero before and stays
/// so without any.
fn pool(table: &Matrix, pooling: &Pooling, max_len: usize, codes: &[u32], cell: &mut [f32], weights: &mut Vec<f32>) {
    let newest_first = || codes.iter().rev().filter(|code| **code != PADDING).take(max_len);
    match pooling {
        Pooling::Mean => {
            let mut count = 0.0f32;
            for code in newest_first() {
                add(cell, embedding(table, *code));
                count += 1.0;
            }
            cell.iter_mut().for_each(|v| *v /= count.max(1.0));
        }
        Pooling::Position(logits) => {
            let logits = &logits[..newest_first().count()];
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            weights.clear();
            weights.extend(logits.iter().map(|logit| (logit - top).exp()));
            let sum: f32 = weights.iter().sum();
            for (code, weight) in newest_first().zip(weights.iter()) {
                add_scaled(cell, weight / sum, embedding(table, *code));
            }
        }
    }
}
