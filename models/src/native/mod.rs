//! The native engine: a tower run on the training kernels, without a shared library.
//!
//! Rows are computed in tiles of exactly `TILE` rows, and the last tile is filled up with zeros, so that the
//! bits of a row do not depend on the rows beside it. Small embedding tables are folded into the first
//! layer when an engine is made ([`FOLDED_BYTES`]).

mod fold;
mod in_place;
mod int16;
mod linear;
mod rows;

pub use fold::FOLDED_BYTES;

use crate::engine::{Engine, Norms};
use crate::error::ModelError;
use crate::layers::{coalesce, layer_norm};
use crate::tower::layout::{Layout, check_batch, check_tower};
use crate::tower::{Layer, Matrix, Tower};
use fold::{InputStage, Uses};
use in_place::{normalise, prelu, relu};
use int16::RoundedRows;
use linear::Linear;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use twotower_artifacts::{CodeBatch, TowerSchema};

/// Rows computed at a time: enough for `gemm` to be fast, and few enough to stay in cache.
pub(crate) const TILE: usize = 48;

/// Embeds a batch on the current rayon pool.
///
/// # Shapes
/// - `batch`: columns in the order of `tower.schema`, codes below their cardinality
/// - returns `[rows, dim]`; a row has norm 1 if the tower ends in an L2 norm and the row is not zero
///
/// The result does not depend on the number of threads, and the bits of a row not on the rows beside it.
///
/// # Errors
/// [`ModelError::Tower`] for a tower whose parts do not fit together; [`ModelError::Artifact`] for
/// a batch of another shape, or a code outside its field's cardinality.
pub fn embed(tower: &Tower, batch: &CodeBatch) -> Result<Matrix, ModelError> {
    let plan = Plan::new(tower, Arithmetic::Float)?;
    check_batch(&tower.schema, batch)?;
    let rows = batch.rows();
    let mut data = vec![0.0; rows * tower.dim];
    data.par_chunks_mut(TILE * tower.dim).enumerate().for_each_init(
        || (Scratch::new(&plan), Vec::new()),
        |(scratch, vectors), (tile, out)| {
            vectors.clear();
            plan.forward(tower, batch, tile_rows(tile, rows), scratch, vectors);
            out.copy_from_slice(vectors);
        },
    );
    Ok(Matrix { rows, cols: tower.dim, data })
}

/// A tower and the memory to run it on one thread. Nothing is allocated per batch.
///
/// # Memory
/// Clones share the tower, at most [`FOLDED_BYTES`] of folded tables, and a copy of the layers. Each engine
/// has two tiles of the widest layer.
#[derive(Debug)]
pub struct NativeEngine {
    tower: Arc<Tower>,
    plan: Arc<Plan>,
    /// A plan in 32-bit floats without folding, until the first rows were compared with it. None if `plan` is in 32-bit
    /// floats itself.
    exact: Option<Arc<Plan>>,
    scratch: Scratch,
}

/// The largest absolute difference that 16-bit integers may make to a value of a unit vector.
pub(crate) const INT16_TOLERANCE: f32 = 2e-3;

impl NativeEngine {
    /// An engine for one worker. Other workers take clones of it.
    ///
    /// # Errors
    /// [`ModelError::Tower`] for a tower whose parts do not fit together.
    pub fn new(tower: Arc<Tower>) -> Result<Self, ModelError> {
        Ok(Self::of(Plan::new(&tower, Arithmetic::Float)?, tower))
    }

    fn of(plan: Plan, tower: Arc<Tower>) -> Self {
        let scratch = Scratch::new(&plan);
        Self { tower, plan: plan.into(), exact: None, scratch }
    }

    /// An engine with matrix products of 16-bit integers and folded tables of 16-bit floats. The first tile of rows
    /// that it embeds is compared with the result in 32-bit floats without folding ([`INT16_TOLERANCE`]).
    ///
    /// # Errors
    /// As [`NativeEngine::new`].
    pub(crate) fn int16(tower: Arc<Tower>) -> Result<Self, ModelError> {
        let exact = Plan::plain(&tower)?.into();
        Ok(Self { exact: Some(exact), ..Self::of(Plan::new(&tower, Arithmetic::Int16)?, tower) })
    }

    /// Compares the vectors of the first rows of the first batch with those of the plan in 32-bit floats.
    fn compare(&mut self, batch: &CodeBatch, found: &[f32]) -> Result<(), ModelError> {
        let rows = tile_rows(0, batch.rows());
        let Some(exact) = self.exact.take_if(|_| !rows.is_empty()) else { return Ok(()) };
        let mut scratch = Scratch::new(&exact);
        let mut expected = Vec::new();
        exact.forward(&self.tower, batch, rows, &mut scratch, &mut expected);
        // Values that are not finite in 32-bit floats either are left to the reader of the vectors.
        let pairs = expected.iter().zip(found).filter(|(expected, _)| expected.is_finite());
        let differences = pairs.map(|(a, b)| if b.is_finite() { (a - b).abs() } else { f32::INFINITY });
        match differences.fold(0.0, f32::max) {
            difference if difference <= INT16_TOLERANCE => Ok(()),
            difference => Err(ModelError::Int16 { side: self.tower.schema.side, difference }),
        }
    }
}

/// An engine for another worker: the tower is shared, the working memory is not.
impl Clone for NativeEngine {
    fn clone(&self) -> Self {
        let Self { tower, plan, exact, .. } = self;
        Self { tower: tower.clone(), plan: plan.clone(), exact: exact.clone(), scratch: Scratch::new(plan) }
    }
}

impl Engine for NativeEngine {
    fn embed(&mut self, batch: &CodeBatch, out: &mut Vec<f32>) -> Result<Norms, ModelError> {
        let Self { tower, plan, scratch, .. } = self;
        check_batch(&tower.schema, batch)?;
        let rows = batch.rows();
        let start = out.len();
        out.reserve(rows * tower.dim);
        let tiles = 0..rows.div_ceil(TILE);
        let norms = tiles.map(|tile| plan.forward(tower, batch, tile_rows(tile, rows), scratch, out));
        let norms = norms.fold(Norms::Unit, Norms::and);
        self.compare(batch, &out[start..])?;
        Ok(norms)
    }

    fn dim(&self) -> usize {
        self.tower.dim
    }

    fn schema(&self) -> &TowerSchema {
        &self.tower.schema
    }
}

/// The arithmetic of matrix products. Everything else is in 32-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    /// 32-bit floats.
    Float,
    /// 16-bit integers, with folded tables in 16-bit floats.
    Int16,
}

/// A checked tower, prepared to run.
#[derive(Debug)]
struct Plan {
    layout: Layout,
    input_stage: InputStage,
    /// The layers after the input stage.
    steps: Vec<Step>,
}

/// One layer.
#[derive(Debug)]
enum Step {
    Linear(Linear),
    Prelu(Vec<f32>),
    Relu,
    /// Gains, biases, and the constant that is added to variances.
    LayerNorm(Vec<f32>, Vec<f32>, f32),
    /// The default.
    Coalesce(Vec<f32>),
    L2Norm(f32),
}

/// Memory for one tile.
#[derive(Debug)]
struct Scratch {
    /// The input of a layer, `[TILE, width]`; `y` is its output. `width` is that of the widest layer.
    x: Vec<f32>,
    y: Vec<f32>,
    uses: Uses,
    rounded: RoundedRows,
}

impl Scratch {
    fn new(plan: &Plan) -> Self {
        let tile = || vec![0.0; TILE * plan.layout.max_width];
        Self { x: tile(), y: tile(), uses: Uses::new(&plan.input_stage, TILE), rounded: RoundedRows::default() }
    }
}

fn tile_rows(tile: usize, rows: usize) -> Range<usize> {
    tile * TILE..rows.min((tile + 1) * TILE)
}

impl Plan {
    fn new(tower: &Tower, arithmetic: Arithmetic) -> Result<Self, ModelError> {
        let layout = check_tower(tower)?;
        Ok(Self::with_input_stage(InputStage::new(tower, &layout, arithmetic), layout, tower, arithmetic))
    }

    /// A plan in 32-bit floats without folding. It is prepared quickly, but runs slower, for a few rows.
    fn plain(tower: &Tower) -> Result<Self, ModelError> {
        let layout = check_tower(tower)?;
        Ok(Self::with_input_stage(InputStage::plain(tower, &layout), layout, tower, Arithmetic::Float))
    }

    fn with_input_stage(input_stage: InputStage, layout: Layout, tower: &Tower, arithmetic: Arithmetic) -> Self {
        let steps = tower.layers[input_stage.is_layer() as usize..].iter().map(|layer| match layer {
            Layer::Linear { weight, bias } => Step::Linear(Linear::new(weight, 0..weight.cols, &bias.data, arithmetic)),
            Layer::Prelu { slope } => Step::Prelu(slope.data.clone()),
            Layer::Relu => Step::Relu,
            Layer::LayerNorm { gain, bias, eps } => Step::LayerNorm(gain.data.clone(), bias.data.clone(), *eps),
            Layer::Coalesce { default } => Step::Coalesce(default.data.clone()),
            Layer::L2Norm { eps } => Step::L2Norm(*eps),
        });
        Self { steps: steps.collect(), layout, input_stage }
    }

    /// Embeds at most [`TILE`] checked rows, and appends `[rows, dim]` values.
    fn forward(
        &self,
        tower: &Tower,
        batch: &CodeBatch,
        rows: Range<usize>,
        scratch: &mut Scratch,
        out: &mut Vec<f32>,
    ) -> Norms {
        let values = rows.len() * tower.dim;
        let Scratch { x, y, uses, rounded } = scratch;
        let mut width = self.input_stage.width();
        let buffers = (&mut x[..TILE * self.input_stage.columns], &mut y[..TILE * width]);
        self.input_stage.forward(tower, &self.layout, batch, rows, buffers, (uses, rounded));
        if self.input_stage.is_layer() {
            std::mem::swap(x, y);
        }
        let (last, steps) = match self.steps.split_last() {
            Some((Step::L2Norm(eps), steps)) => (Some(*eps), steps),
            _ => (None, &self.steps[..]),
        };
        for step in steps {
            let rows = &mut x[..TILE * width];
            match step {
                Step::Linear(linear) => {
                    linear.forward(rows, width, &mut y[..TILE * linear.output()], rounded);
                    std::mem::swap(x, y);
                    width = linear.output();
                }
                Step::Prelu(slope) => prelu(rows, slope),
                Step::Relu => relu(rows),
                Step::LayerNorm(gain, bias, eps) => {
                    layer_norm(rows, gain, bias, *eps, &mut y[..TILE * width]);
                    std::mem::swap(x, y);
                }
                Step::Coalesce(default) => {
                    coalesce::forward(rows, default, width, &mut y[..TILE * default.len()]);
                    std::mem::swap(x, y);
                    width = default.len();
                }
                Step::L2Norm(eps) => {
                    let len = y.len();
                    y.clear();
                    normalise(rows, width, *eps, y);
                    y.resize(len, 0.0);
                    std::mem::swap(x, y);
                }
            }
        }
        match last {
            Some(eps) if normalise(&x[..values], width, eps, out) => Norms::Unit,
            Some(_) => Norms::Unknown,
            None => {
                out.extend_from_slice(&x[..values]);
                Norms::Unknown
            }
        }
    }
}
