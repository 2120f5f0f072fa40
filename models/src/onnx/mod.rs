//! Towers as ONNX files: writes them and reads them back.
//!
//! A tower's file is an ordinary ONNX model (opset 17, IR 8) with one input per field of the
//! [`TowerSchema`](twotower_artifacts::TowerSchema), named like the field:
//!
//! | field shape | input | content |
//! |---|---|---|
//! | `code` | int32 `[N]` | the code |
//! | `bag`, `sequence` | int32 `[N, L]`, `L <= max_len` | codes, right-aligned: padding (0) on the left, the newest element in the last column |
//! | `sequence` with intervals | beside it, int32 `[N, L]`, named after it with [`TIMES`] | times on the scale of intervals, of which differences up to the span matter |
//! | `dense` | float `[N, width]` | the values |
//!
//! and one output, float `[N, dim]`, called `vector` (with underscores appended where a field has
//! that name). Batch and `L` are dynamic. Padding never counts, and a row of padding pools to the zero
//! vector. `N` changes the last bits of ONNX Runtime's result, so [`crate::engine`] fixes it.
//!
//! The file holds the tables as they were trained. What makes a tower faster is done when it is opened: the native
//! engine folds tables into the first layer ([`crate::native`]), and ONNX Runtime gets a graph in which small tables
//! are crossed (`crossed.rs`), unless the file is large. Folding single tables gained ONNX Runtime nothing: ten Gathers
//! of `[cardinality, 256]` and a Sum, instead of Gather, Concat and Gemm, gave between 0.98 and 1.13 times as many rows
//! a second, within the noise of 12 runs each. Its operators pass results of `[256, 256]` through memory, which costs
//! what the smaller product saves. PReLU without slopes above 1 is written as `Max(x, Mul(x, slope))`. It gives the
//! same bits, and made the whole tower 1.6 to 1.8 times as fast as the operator PRelu, a loop over single numbers.
//!
//! The metadata properties (`twotower.*`) name the encoder state from which the codes must come, and describe how
//! to rebuild the [`Tower`](crate::tower::Tower), bit for bit, from the initialisers.

mod crossed;
mod encoder;
mod export;
mod graph;
mod intervals;
mod messages;
mod metadata;
mod outline;
mod raw;
mod read;
mod streams;
#[cfg(test)]
mod tests;
mod wire;

use crate::tower::{Parameter, Place};

pub use crossed::CROSSED_BYTES;
pub(crate) use crossed::CrossedGraph;
pub use export::{INLINE_LIMIT, export, export_with_limit, output_name};
pub use metadata::Metadata;
pub use raw::export_raw;
pub use read::{inspect, read};

/// Name of the initialiser that holds a weight. The logits of positions are stored oldest position first.
fn tensor_name(place: Place<'_>) -> String {
    match place {
        Place::Table(table) => format!("/table/{table}"),
        Place::Reduce(field, Parameter { name, block: Some(block), .. }) => format!("/{name}/{block}/{field}"),
        Place::Reduce(field, parameter) => format!("/{}/{field}", parameter.name),
        Place::Layer(layer, parameter) => format!("/layer/{layer}/{}", parameter.name),
    }
}

/// What the name of the input of a sequence's times ends with, after the name of the field.
pub const TIMES: &str = "/times";

/// Name of the file that holds large tables beside the given model file.
fn data_file_name(model: &std::path::Path) -> Option<String> {
    Some(format!("{}.data", model.file_name()?.to_str()?))
}
