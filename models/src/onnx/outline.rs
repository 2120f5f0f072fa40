//! Checks that a model file has exactly the bytes that the export writes for its tower, apart from the values of the
//! tower's parameters. ONNX Runtime runs any graph that a file holds, so a file must hold the exported one, without
//! further nodes, constants, operators or files.

use super::export::model;
use super::graph::GraphBuilder;
use super::messages::{GraphProto, ModelProto, TensorProto};
use super::metadata::Metadata;
use super::wire::ModelFile;
use crate::error::ModelError;
use crate::tower::Tower;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::ops::Range;
use twotower_artifacts::ArtifactError;

/// Field number of `ModelProto.graph`.
const GRAPH: u32 = 7;
/// Field number of `GraphProto.initializer`.
const INITIALIZER: u32 = 5;
/// Field number of `TensorProto.raw_data`.
const RAW_DATA: u32 = 9;

/// A stretch of a model file.
struct Piece {
    /// The part of the model that it belongs to.
    part: String,
    /// Its bytes.
    bytes: Vec<u8>,
    /// Number of bytes that follow and may have any value: those of a parameter.
    values: u64,
}

/// Checks the file of a tower, whose graph is at `graph`. The values of `tower` need not be loaded, except those of
/// vectors.
///
/// # Errors
/// [`ArtifactError::Mismatch`] naming the first part that the export writes otherwise, [`ArtifactError::Io`].
pub(super) fn check(
    file: &ModelFile<'_>,
    graph: Range<u64>,
    tower: &Tower,
    metadata: &Metadata,
    producer: String,
    data_file: Option<&str>,
) -> Result<(), ModelError> {
    let pairs = metadata.to_pairs().map_err(|e| ModelError::Tower {
        side: tower.schema.side,
        reason: format!("its schema cannot be written as JSON: {e}"),
    })?;
    let parts = graph_pieces(super::export::graph(GraphBuilder::outline(), tower, data_file)?);
    let length = parts.iter().map(|piece| piece.bytes.len() as u64 + piece.values).sum();
    let model = model(producer, pairs);
    let tail =
        ModelProto { opset_import: model.opset_import, metadata_props: model.metadata_props, ..Default::default() };
    let head = ModelProto { opset_import: Vec::new(), metadata_props: Vec::new(), ..model };
    let mut head = head.encode_to_vec();
    delimit(GRAPH, length, &mut head);
    // The graph is compared first, so that the error names the part of it that differs, and not its size.
    compare(file, "its graph", parts, graph.clone())?;
    let whole = |part: &str, bytes| vec![Piece { part: part.into(), bytes, values: 0 }];
    compare(file, "its versions", whole("its versions and the size of its graph", head), 0..graph.start)?;
    compare(file, "the file", whole("its operator set and metadata", tail.encode_to_vec()), graph.end..file.whole().end)
}

/// Compares the bytes at `range` with the expected parts. `what` names them in errors.
fn compare(file: &ModelFile<'_>, what: &str, parts: Vec<Piece>, range: Range<u64>) -> Result<(), ModelError> {
    let mut at = range.start;
    for piece in parts {
        if let Some(differs) = file.difference(&piece.bytes, at)? {
            return Err(foreign(file, &piece.part, &format!("other content at byte {differs}")).into());
        }
        at += piece.bytes.len() as u64 + piece.values;
    }
    if at == range.end {
        return Ok(());
    }
    Err(foreign(file, &format!("{what} to end at byte {at}"), &format!("more up to byte {}", range.end)).into())
}

/// The error of a file whose graph is not that of its tower.
pub(super) fn foreign(file: &ModelFile<'_>, expected: &str, found: &str) -> ArtifactError {
    ArtifactError::Mismatch {
        what: format!("the graph of tower {}", file.path.display()),
        expected_from: "for its schema and layers".into(),
        expected: expected.into(),
        found_from: "a file of".into(),
        found: found.into(),
        advice: "put back the file that `twotower train` wrote, or run `twotower train --force`".into(),
    }
}

fn graph_pieces(graph: GraphProto) -> Vec<Piece> {
    let GraphProto { node, name, initializer, input, output } = graph;
    let part = |part: String, graph: GraphProto| Piece { part, bytes: graph.encode_to_vec(), values: 0 };
    let of = |name: &Option<String>| name.clone().unwrap_or_default();
    let mut pieces: Vec<Piece> = Vec::new();
    let nodes = node.into_iter().map(|n| {
        let name = format!("node `{}`", of(&n.name));
        part(name, GraphProto { node: vec![n], ..Default::default() })
    });
    pieces.extend(nodes);
    pieces.push(part("the name of its graph".into(), GraphProto { name, ..Default::default() }));
    pieces.extend(initializer.into_iter().map(tensor_piece));
    pieces.extend(input.into_iter().map(|i| {
        let name = format!("input `{}`", of(&i.name));
        part(name, GraphProto { input: vec![i], ..Default::default() })
    }));
    pieces.push(part("its output".into(), GraphProto { output, ..Default::default() }));
    pieces
}

fn tensor_piece(tensor: TensorProto) -> Piece {
    let mut content = tensor.encode_to_vec();
    let mut values = 0;
    // The tensor is a parameter. Its values are the last of its fields.
    if tensor.raw_data.is_none() && tensor.external_data.is_empty() {
        values = tensor.dims.iter().map(|dim| *dim as u64).product::<u64>() * size_of::<f32>() as u64;
        delimit(RAW_DATA, values, &mut content);
    }
    let mut bytes = Vec::new();
    delimit(INITIALIZER, content.len() as u64 + values, &mut bytes);
    bytes.extend(content);
    Piece { part: format!("initialiser `{}`", tensor.name.unwrap_or_default()), bytes, values }
}

/// Writes the key and the length that precede the content of a field.
fn delimit(number: u32, length: u64, bytes: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, bytes);
    encode_varint(length, bytes);
}
