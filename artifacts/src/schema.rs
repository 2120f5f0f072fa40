//! The inputs of a tower: the contract between encoders, models and inference.

use crate::fingerprint::Fingerprint;
use crate::intervals::Intervals;
use serde::{Deserialize, Serialize};

/// Slot of padding in every vocabulary. It is never a real value, and pooling leaves it out.
pub const PADDING: u32 = 0;
/// Slot of a missing (null) value. Its embedding is trained.
pub const MISSING: u32 = 1;
/// Slot of a value that is not in the vocabulary. Its embedding is trained.
pub const UNKNOWN: u32 = 2;
/// First slot of a real value.
pub const FIRST_VALUE: u32 = 3;

/// One of the two towers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The query side.
    User,
    /// The candidate side.
    Item,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::User => "user",
            Side::Item => "item",
        })
    }
}

/// The shape of one encoded field, per row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "lowercase")]
pub enum FieldShape {
    /// One code (categorical, boolean, hashed, quantile bucket).
    Code {
        /// Embedding table; fields of one vocabulary share a table, across towers too.
        table: String,
        /// Number of slots, padding, missing and unknown included.
        cardinality: u32,
    },
    /// Zero or more codes, order without meaning (multi-valued).
    Bag {
        /// Embedding table.
        table: String,
        /// Number of slots.
        cardinality: u32,
        /// The most elements kept per row.
        max_len: u32,
    },
    /// The user's most recent items, oldest first, as codes of the vocabulary of item ids. They come from interactions,
    /// not from a column of a table.
    Sequence {
        /// Embedding table.
        table: String,
        /// Number of slots.
        cardinality: u32,
        /// The most recent items kept per row.
        max_len: u32,
        /// What of the time between items is read, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        intervals: Option<Intervals>,
    },
    /// `width` finite floats (numerics with their missing flag, vectors).
    Dense {
        /// Floats per row.
        width: u32,
    },
}

impl FieldShape {
    /// Embedding table and number of slots, for shapes that hold codes.
    pub fn table(&self) -> Option<(&str, u32)> {
        match self {
            FieldShape::Code { table, cardinality }
            | FieldShape::Bag { table, cardinality, .. }
            | FieldShape::Sequence { table, cardinality, .. } => Some((table, *cardinality)),
            FieldShape::Dense { .. } => None,
        }
    }

    /// The most elements of a row that are used, for shapes that hold several.
    pub fn max_len(&self) -> Option<usize> {
        match self {
            FieldShape::Bag { max_len, .. } | FieldShape::Sequence { max_len, .. } => Some(*max_len as usize),
            FieldShape::Code { .. } | FieldShape::Dense { .. } => None,
        }
    }

    /// What of the time between the elements of a row is read, if it is.
    pub fn intervals(&self) -> Option<Intervals> {
        match self {
            FieldShape::Sequence { intervals, .. } => *intervals,
            FieldShape::Code { .. } | FieldShape::Bag { .. } | FieldShape::Dense { .. } => None,
        }
    }
}

/// One input of a tower.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FieldSchema {
    /// The feature's name; also the name of the ONNX input.
    pub name: String,
    /// Its encoded form.
    #[serde(flatten)]
    pub shape: FieldShape,
}

/// The inputs of one tower, in order, and the encoder state they come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TowerSchema {
    /// Which tower.
    pub side: Side,
    /// Fingerprint of the whole encoder state.
    pub encoder: Fingerprint,
    /// Inputs in order.
    pub fields: Vec<FieldSchema>,
}
