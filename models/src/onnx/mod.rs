//! Towers as ONNX files: the export, and the way back.
//!
//! A file of ours is an ordinary ONNX model (opset 17, IR 8) with one input per field of the
//! [`TowerSchema`](twotower_artifacts::TowerSchema), named as the field:
//!
//! | field shape | input | content |
//! |---|---|---|
//! | `code` | int32 `[N]` | the code |
//! | `bag`, `sequence` | int32 `[N, L]`, `L <= max_len` | codes, right-aligned: padding (0) on the left, the newest element in the last column |
//! | `dense` | float `[N, width]` | the values |
//!
//! and one output, float `[N, dim]`, called `vector` (with underscores appended where a field has
//! that name). Batch and `L` are dynamic. Padding never counts: a row of padding pools to the zero
//! vector. `N` changes the last bits of ONNX Runtime's result, so [`crate::engine`] fixes it.
//!
//! Tables stand in the file as trained. The native engine folds them into the first layer ([`crate::native`]), and
//! ONNX Runtime is given a graph in which small ones are crossed (`crossed.rs`), made of the parameters and metadata of
//! a file that is not large; a file has neither, so that it stays what was trained. Folded one by one they would gain ONNX Runtime nothing (ten Gathers of
//! `[cardinality, 256]` and a Sum for Gather, Concat and Gemm: between 0.98 and 1.13 times as many rows a second,
//! within the noise of 12 runs each): its operators pass `[256, 256]` results
//! through memory, which costs what the smaller product saves. PReLU, where no slope is above 1, is written as
//! `Max(x, Mul(x, slope))`, which gives the same bits and made the whole tower 1.6 to 1.8 times as fast as the operator PRelu, a loop over single numbers.
//!
//! The metadata properties (`twotower.*`) say which encoder state the codes must come from and how
//! to rebuild the [`Tower`](crate::tower::Tower), bit for bit, from the initialisers.

mod crossed;
mod export;
mod graph;
mod messages;
mod metadata;
mod outline;
mod read;
#[cfg(test)]
mod tests;
mod wire;

use crate::tower::Place;

pub use crossed::CROSSED_BYTES;
pub(crate) use crossed::Crossed;
pub use export::{INLINE_LIMIT, export, export_with_limit, output_name};
pub use metadata::{FORMAT_VERSION, Metadata};
pub use read::{inspect, read};

/// Name of the initialiser that holds a weight. Position logits are stored oldest position first.
fn tensor_name(place: Place<'_>) -> String {
    match place {
        Place::Table(table) => format!("/table/{table}"),
        Place::Reduce(field, parameter) => format!("/{}/{field}", parameter.name),
        Place::Layer(layer, parameter) => format!("/layer/{layer}/{}", parameter.name),
    }
}

/// File that holds large tables beside the model file of that name.
fn data_file_name(model: &std::path::Path) -> Option<String> {
    Some(format!("{}.data", model.file_name()?.to_str()?))
}
