//! What embedding holds in memory.

use crate::stream::memory::{MIB, Needs};
use twotower_artifacts::FieldShape;
use twotower_models::engine::{CROSS_LIMIT, EncoderSize, EngineKind, encoder_bytes};
use twotower_models::native::FOLDED_BYTES;
use twotower_models::onnx::CROSSED_BYTES;

/// What ONNX Runtime holds beside towers.
const RUNTIME: u64 = 48 * MIB;
/// What a worker holds to run a tower on a tile of rows.
const RUN: u64 = 12 * MIB;
/// What an id takes, roughly.
const ID_BYTES: usize = 24;

/// What embedding holds in memory: a tower of `tower` bytes with encoders of sequences, and for each row a vector of
/// `dim` floats and `codes` bytes.
pub(crate) fn embedding_needs(
    stage: &'static str,
    engine: EngineKind,
    tower: u64,
    (dim, codes): (usize, usize),
    encoders: &[EncoderSize],
) -> Needs {
    // ONNX Runtime copies the tower for every session; native workers share the one that was read.
    let (shared, own) = match engine {
        EngineKind::Ort if tower <= CROSS_LIMIT => (RUNTIME + 3 * tower, tower + CROSSED_BYTES as u64 + RUN),
        EngineKind::Ort => (RUNTIME, tower + RUN),
        EngineKind::Native => (2 * tower + FOLDED_BYTES as u64, RUN),
        EngineKind::NativeInt16 => (2 * tower + tower / 2 + FOLDED_BYTES as u64, RUN),
    };
    // Vectors stand in the batch and in the writer's columns.
    let per_row = (codes + 2 * 4 * dim + ID_BYTES) as u64;
    let per_worker = own + encoder_bytes(engine, encoders);
    Needs { per_worker, per_row, ..Needs::held(stage, vec![("the tower", shared)]) }
}

/// The most bytes of one encoded row of a field.
pub(crate) fn row_bytes(shape: &FieldShape) -> usize {
    match shape {
        FieldShape::Code { .. } => 4,
        FieldShape::Bag { max_len, .. } | FieldShape::Sequence { max_len, intervals: None, .. } => {
            4 * (*max_len as usize + 1)
        }
        FieldShape::Sequence { max_len, intervals: Some(_), .. } => 4 * (2 * *max_len as usize + 1),
        FieldShape::Dense { width } => 4 * *width as usize,
    }
}
