//! Builds the ONNX graph of a tower and publishes its file.

use super::encoder::{EncodedField, encoder};
use super::graph::{Extent, External, GraphBuilder, int, ints};
use super::messages::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, code};
use super::metadata::Metadata;
use super::{TIMES, data_file_name, tensor_name};
use crate::error::ModelError;
use crate::tower::layout::check_tower;
use crate::tower::{Input, Layer, Matrix, Parameter, Place, Reduce, Tower};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use twotower_artifacts::hashing::HashingWriter;
use twotower_artifacts::publish::publish_file;
use twotower_artifacts::{ArtifactError, FieldSchema, FieldShape, Fingerprint, TowerSchema};

const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;
/// The most bytes of tables in the model file. Larger tables get a file of their own, since a protobuf
/// message holds at most 2 GiB.
pub const INLINE_LIMIT: u64 = 3 << 29;

/// Name of the output of a tower with this schema: `vector`, with underscores appended until no field has it.
pub fn output_name(schema: &TowerSchema) -> String {
    let mut name = "vector".to_string();
    while schema.fields.iter().any(|f| f.name == name) {
        name.push('_');
    }
    name
}

/// Writes a tower as an ONNX file, with `extra` beside the format's own metadata properties.
///
/// Tables of more than 1.5 GiB in all go to `<file>.data` beside it, and the model has its name and fingerprint.
/// Each file is complete or absent, and the model is published last.
///
/// # Memory
/// Twice the size of the tables, if they are in the model file.
///
/// # Errors
/// [`ModelError::Tower`] for a tower whose parts do not fit together, [`ModelError::Setting`] when
/// `extra` uses a name of the format's own, [`ModelError::Artifact`] when a file cannot be written.
pub fn export(tower: &Tower, path: &Path, extra: &BTreeMap<String, String>) -> Result<(), ModelError> {
    export_with_limit(tower, path, extra, INLINE_LIMIT)
}

/// As [`export`], with another limit than [`INLINE_LIMIT`] for the bytes of tables in the model file.
///
/// # Errors
/// As [`export`].
pub fn export_with_limit(
    tower: &Tower,
    path: &Path,
    extra: &BTreeMap<String, String>,
    inline_limit: u64,
) -> Result<(), ModelError> {
    check_tower(tower)?;
    let table_bytes: u64 = tower.tables.values().map(matrix_bytes).sum();
    let data_name = (table_bytes > inline_limit).then(|| data_file_name(path)).flatten();
    let data = match &data_name {
        Some(name) => Some(publish_tables(tower, &path.with_file_name(name))?),
        None => None,
    };
    let pairs = Metadata::of(tower, extra, data)?.to_pairs().map_err(|e| ModelError::Tower {
        side: tower.schema.side,
        reason: format!("its schema cannot be written as JSON: {e}"),
    })?;
    let bytes = encoded(graph(GraphBuilder::default(), tower, data_name.as_deref())?, pairs);
    if bytes.len() as u64 > i32::MAX as u64 {
        let reason = format!(
            "its ONNX file would have {} bytes, the format holds {}; make the layers smaller",
            bytes.len(),
            i32::MAX
        );
        return Err(ModelError::Tower { side: tower.schema.side, reason });
    }
    publish_file(path, |w| w.write_all(&bytes))?;
    Ok(())
}

/// The bytes of a model file.
pub(super) fn encoded(graph: GraphProto, pairs: Vec<(String, String)>) -> Vec<u8> {
    ModelProto { graph: Some(graph), ..model(env!("CARGO_PKG_VERSION").to_string(), pairs) }.encode_to_vec()
}

/// A model without its graph, as the given version of this program writes it.
pub(super) fn model(version: String, pairs: Vec<(String, String)>) -> ModelProto {
    ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("twotower".to_string()),
        producer_version: Some(version),
        graph: None,
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: pairs.into_iter().map(|(k, v)| StringStringEntryProto::new(k, v)).collect(),
    }
}

fn matrix_bytes(matrix: &Matrix) -> u64 {
    matrix.rows as u64 * matrix.cols as u64 * 4
}

/// Writes all tables, in name order, one after another.
fn publish_tables(tower: &Tower, path: &Path) -> Result<Fingerprint, ArtifactError> {
    let mut fingerprint = None;
    publish_file(path, |w| {
        let mut w = HashingWriter::new(w);
        for value in tower.tables.values().flat_map(|table| &table.data) {
            w.write_all(&value.to_le_bytes())?;
        }
        fingerprint = Some(w.fingerprint());
        Ok(())
    })?;
    Ok(fingerprint.unwrap_or_else(|| Fingerprint::of(&[])))
}

/// The graph of a tower, built by `g`.
pub(super) fn graph(mut g: GraphBuilder, tower: &Tower, data_file: Option<&str>) -> Result<GraphProto, ModelError> {
    let x = concatenation(&mut g, tower, 0..tower.inputs.len(), data_file)?;
    let vector = layers(&mut g, tower, 0, x);
    Ok(finish(g, tower, &vector))
}

/// Concatenates the inputs of some fields: `[N, width]`.
pub(super) fn concatenation(
    g: &mut GraphBuilder,
    tower: &Tower,
    fields: impl Iterator<Item = usize> + Clone,
    data_file: Option<&str>,
) -> Result<String, ModelError> {
    let schema = &tower.schema;
    fields.clone().try_for_each(|i| declare_input(g, schema, &schema.fields[i]))?;
    let tables: BTreeSet<&String> = fields.clone().filter_map(|i| tower.inputs[i].table()).collect();
    declare_tables(g, tower, tables, data_file);
    let parts: Vec<String> = fields.map(|i| field(g, &schema.fields[i].name, &tower.inputs[i])).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(g.node("Concat", &parts, vec![int("axis", 1)]))
}

/// Applies the layers from `first` on to `x`.
pub(super) fn layers(g: &mut GraphBuilder, tower: &Tower, first: usize, x: String) -> String {
    let (mut x, mut width) = (x, tower.input_width());
    for (i, l) in tower.layers.iter().enumerate() {
        if i >= first {
            x = layer(g, i, l, (&x, width));
        }
        width = l.output(width, |weight| (weight.rows, weight.cols));
    }
    x
}

pub(super) fn finish(g: GraphBuilder, tower: &Tower, vector: &str) -> GraphProto {
    let extents = [Extent::Dynamic("N"), Extent::Fixed(tower.dim)];
    g.finish(&format!("{}_tower", tower.schema.side), vector, &output_name(&tower.schema), &extents)
}

fn declare_input(g: &mut GraphBuilder, schema: &TowerSchema, field: &FieldSchema) -> Result<(), ModelError> {
    if field.name.starts_with('/') {
        let reason =
            format!("field `{}`: names in `/` are taken in the exported graph; rename the feature", field.name);
        return Err(ModelError::Tower { side: schema.side, reason });
    }
    let length = format!("{}/L", field.name);
    let (element, extent, description) = match &field.shape {
        FieldShape::Code { cardinality, .. } => (code::INT32, None, format!("codes below {cardinality}")),
        FieldShape::Bag { cardinality, max_len, .. } | FieldShape::Sequence { cardinality, max_len, .. } => (
            code::INT32,
            Some(Extent::Dynamic(&length)),
            format!(
                "codes below {cardinality}, at most {max_len} columns, right-aligned: 0 pads on the left, newest in the last column"
            ),
        ),
        FieldShape::Dense { width } => (code::FLOAT, Some(Extent::Fixed(*width as usize)), format!("{width} floats")),
    };
    let extents: Vec<Extent> = std::iter::once(Extent::Dynamic("N")).chain(extent).collect();
    g.input(&field.name, element, &extents, &description);
    let Some(intervals) = field.shape.intervals() else { return Ok(()) };
    let times = format!("{}{TIMES}", field.name);
    if schema.fields.iter().any(|other| other.name == times) {
        let reason = format!(
            "field `{times}`: the times of `{}` have this name in the exported graph; rename the feature",
            field.name
        );
        return Err(ModelError::Tower { side: schema.side, reason });
    }
    let description = format!(
        "times on the scale of intervals, in the columns of the codes; differences count up to {}, anything pads",
        intervals.span
    );
    g.input(&times, element, &extents, &description);
    Ok(())
}

fn declare_tables(g: &mut GraphBuilder, tower: &Tower, tables: BTreeSet<&String>, data_file: Option<&str>) {
    let mut offset = 0;
    for (name, table) in &tower.tables {
        if !tables.contains(name) {
            offset += matrix_bytes(table);
            continue;
        }
        let dims = [table.rows, table.cols];
        match data_file {
            None => g.floats(tensor_name(Place::Table(name)), &dims, table.data.iter().copied()),
            Some(file) => {
                let external = External { file, offset, length: matrix_bytes(table) };
                offset += external.length;
                g.external_floats(tensor_name(Place::Table(name)), &dims, &external)
            }
        };
    }
}

/// The part of a field in the concatenation: `[N, width]`.
fn field(g: &mut GraphBuilder, name: &str, input: &Input) -> String {
    match input {
        Input::Dense => name.to_string(),
        Input::Embedding { table } => {
            g.node("Gather", &[&tensor_name(Place::Table(table)), name], vec![int("axis", 0)])
        }
        Input::Pooled { table, reduce } => {
            let zero = g.integer(0, code::INT32);
            let axis = g.integer(1, code::INT64);
            let is_real = g.node("Greater", &[name, &zero], vec![]);
            let mask = g.node("Cast", &[&is_real], vec![int("to", i64::from(code::FLOAT))]);
            let rows = |g: &mut GraphBuilder| {
                g.node("Gather", &[&tensor_name(Place::Table(table)), name], vec![int("axis", 0)])
            };
            let weighted = |g: &mut GraphBuilder, weights: &str| {
                let rows = rows(g);
                let weights = g.node("Unsqueeze", &[weights, &axis], vec![]);
                let sum = g.node("MatMul", &[&weights, &rows], vec![]);
                g.node("Squeeze", &[&sum, &axis], vec![])
            };
            match reduce {
                Reduce::Attention(weights) => {
                    let times = format!("{name}{TIMES}");
                    let field = EncodedField { name, rows: &rows(g), is_real: &is_real, times: &times };
                    encoder(g, &field, weights)
                }
                Reduce::Position(logits) => {
                    let weights = position_weights(g, name, logits, &is_real, &mask);
                    weighted(g, &weights)
                }
                Reduce::Mean => {
                    let sum = weighted(g, &mask);
                    let count = g.node("ReduceSum", &[&mask, &axis], vec![int("keepdims", 1)]);
                    let one = g.float(1.0);
                    let count = g.node("Max", &[&count, &one], vec![]);
                    g.node("Div", &[&sum, &count], vec![])
                }
            }
        }
    }
}

/// The softmax, over the real elements of each row, of the logits of their positions. Zero for padding. `[N, L]`.
fn position_weights(g: &mut GraphBuilder, field: &str, logits: &Matrix, is_real: &str, mask: &str) -> String {
    // Logits are stored oldest position first, so that the last L belong to the L columns.
    let name = tensor_name(Place::Reduce(field, Parameter::POSITION));
    let logits = g.floats(name, &[logits.cols], logits.data.iter().rev().copied());
    let length = g.node("Shape", &[field], vec![int("start", 1)]);
    let start = g.node("Neg", &[&length], vec![]);
    let end = g.integer(i64::MAX, code::INT64);
    let axis = g.integer(0, code::INT64);
    let logits = g.node("Slice", &[&logits, &start, &end, &axis], vec![]);
    let never = g.float(f32::MIN);
    let logits = g.node("Where", &[is_real, &logits, &never], vec![]);
    let weights = g.node("Softmax", &[&logits], vec![int("axis", 1)]);
    g.node("Mul", &[&weights, mask], vec![])
}

/// Adds the nodes of a layer, whose input has `width` columns. Its weights are tensors of the graph.
fn layer(g: &mut GraphBuilder, index: usize, layer: &Layer, (x, width): (&str, usize)) -> String {
    let named = layer.map(|parameter, matrix| {
        let dims = [matrix.rows, matrix.cols];
        let name = tensor_name(Place::Layer(index, parameter));
        g.floats(name, &dims[2 - parameter.rank..], matrix.data.iter().copied())
    });
    match (layer, named) {
        (_, Layer::Linear { weight, bias }) => g.node("Gemm", &[x, &weight, &bias], vec![int("transB", 1)]),
        // Max(x, x * slope) is much faster than the operator, and gives the same bits for slopes up to 1.
        (Layer::Prelu { slope: slopes }, Layer::Prelu { slope }) if slopes.data.iter().all(|s| *s <= 1.0) => {
            let scaled = g.node("Mul", &[x, &slope], vec![]);
            g.node("Max", &[x, &scaled], vec![])
        }
        (_, Layer::Prelu { slope }) => g.node("PRelu", &[x, &slope], vec![]),
        (_, Layer::Relu) => g.node("Relu", &[x], vec![]),
        (_, Layer::LayerNorm { gain, bias, eps }) => {
            let eps = g.floats(tensor_name(Place::Layer(index, Parameter::EPS)), &[1], std::iter::once(eps));
            layer_norm(g, x, &gain, &bias, &eps)
        }
        (_, Layer::Coalesce { default }) => {
            let part = layer.output(width, |weight| (weight.rows, weight.cols));
            coalesce(g, x, (0..width).step_by(part).map(|start| start..start + part), default)
        }
        (_, Layer::L2Norm { eps }) => {
            let eps = g.floats(tensor_name(Place::Layer(index, Parameter::EPS)), &[1], std::iter::once(eps));
            let norm = g.node("ReduceL2", &[x], vec![ints("axes", &[1]), int("keepdims", 1)]);
            let norm = g.node("Max", &[&norm, &eps], vec![]);
            g.node("Div", &[x, &norm], vec![])
        }
    }
}

/// The first of the parts of each row of `x` that is not zero, or the default, `[width of a part]`.
fn coalesce(
    g: &mut GraphBuilder,
    x: &str,
    parts: impl DoubleEndedIterator<Item = Range<usize>>,
    default: String,
) -> String {
    parts.rev().fold(default, |others, part| {
        let [start, end, axis] = [part.start as i64, part.end as i64, 1].map(|value| g.integer(value, code::INT64));
        let part = g.node("Slice", &[x, &start, &end, &axis], vec![]);
        let size = g.node("ReduceL1", &[&part], vec![ints("axes", &[1]), int("keepdims", 1)]);
        let zero = g.float(0.0);
        let is_zero = g.node("Equal", &[&size, &zero], vec![]);
        g.node("Where", &[&is_zero, &others, &part], vec![])
    })
}

/// The layer norm of the rows of `x`, `[_, width]`.
pub(super) fn layer_norm(g: &mut GraphBuilder, x: &str, gain: &str, bias: &str, eps: &str) -> String {
    let mean = g.node("ReduceMean", &[x], vec![ints("axes", &[1]), int("keepdims", 1)]);
    let centred = g.node("Sub", &[x, &mean], vec![]);
    let two = g.float(2.0);
    let squares = g.node("Pow", &[&centred, &two], vec![]);
    let variance = g.node("ReduceMean", &[&squares], vec![ints("axes", &[1]), int("keepdims", 1)]);
    let variance = g.node("Add", &[&variance, eps], vec![]);
    let deviation = g.node("Sqrt", &[&variance], vec![]);
    let normal = g.node("Div", &[&centred, &deviation], vec![]);
    let scaled = g.node("Mul", &[&normal, gain], vec![]);
    g.node("Add", &[&scaled, bias], vec![])
}
