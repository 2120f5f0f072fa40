//! A tower as plain data: what training produces, ONNX export writes, and the native engine runs.

use std::collections::BTreeMap;
use twotower_artifacts::TowerSchema;

/// A dense row-major matrix of f32.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

/// How the elements of a multi-valued or sequence field become one vector.
/// Only real elements count; an empty row gives the zero vector.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Pooling {
    /// Arithmetic mean.
    #[default]
    Mean,
    /// Weighted mean, weights = softmax over the real elements of a learned logit per position
    /// counted from the most recent element (index 0 = newest). `[max_len]`.
    Position(Vec<f32>),
}

/// How one field enters the first layer; parallel to [`TowerSchema::fields`].
#[derive(Debug, Clone, PartialEq)]
pub enum TowerInput {
    /// Row of an embedding table.
    Embedding {
        /// Name in [`Tower::tables`].
        table: String,
    },
    /// Pooled rows of an embedding table.
    Pooled {
        /// Name in [`Tower::tables`].
        table: String,
        /// How rows are combined.
        pooling: Pooling,
    },
    /// Floats taken as they are.
    Dense,
}

impl TowerInput {
    /// Name of the table that it takes rows of.
    pub fn table(&self) -> Option<&String> {
        match self {
            TowerInput::Embedding { table } | TowerInput::Pooled { table, .. } => Some(table),
            TowerInput::Dense => None,
        }
    }
}

/// One layer after the concatenated inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// y = x Wᵀ + b.
    Linear {
        /// `[out, in]`.
        weight: Matrix,
        /// `[out]`.
        bias: Vec<f32>,
    },
    /// y = max(x, 0) + slope * min(x, 0), slope per channel (He et al., ICCV 2015).
    Prelu {
        /// `[out]`.
        slope: Vec<f32>,
    },
    /// y = max(x, 0).
    Relu,
    /// y = x / max(‖x‖₂, eps), per row.
    L2Norm {
        /// Lower bound of the divisor, at least 1e-6.
        eps: f32,
    },
}

/// A trained tower: embedding tables, how fields enter, and the layers after their concatenation.
#[derive(Debug, Clone, PartialEq)]
pub struct Tower {
    /// Inputs in order and the encoder state they come from.
    pub schema: TowerSchema,
    /// How each field of the schema enters; same order.
    pub inputs: Vec<TowerInput>,
    /// Embedding tables by name, `[cardinality, dim]`.
    pub tables: BTreeMap<String, Matrix>,
    /// Layers in order; the last one is [`Layer::L2Norm`] for a cosine model.
    pub layers: Vec<Layer>,
    /// Width of the output.
    pub dim: usize,
}
