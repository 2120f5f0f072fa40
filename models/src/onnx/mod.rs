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
//! The metadata properties (`twotower.*`) say which encoder state the codes must come from and how
//! to rebuild the [`Tower`](crate::tower::Tower), bit for bit, from the initialisers.

mod export;
mod graph;
mod messages;
mod metadata;
mod read;
#[cfg(test)]
mod tests;

pub use export::{export, output_name};
pub use metadata::{FORMAT_VERSION, Metadata};
pub(crate) use read::check_data_file;
pub use read::read;

/// Name of the initialiser that holds an embedding table.
fn table_name(table: &str) -> String {
    format!("/table/{table}")
}

/// Name of the initialiser that holds the position logits of a field, oldest position first.
fn position_name(field: &str) -> String {
    format!("/position/{field}")
}

/// Name of the initialiser that holds a parameter of layer `index`.
fn layer_name(index: usize, parameter: &str) -> String {
    format!("/layer/{index}/{parameter}")
}

/// File that holds large tables beside the model file of that name.
fn data_file_name(model: &std::path::Path) -> Option<String> {
    Some(format!("{}.data", model.file_name()?.to_str()?))
}
