//! Towers whose inputs are raw values: the encoders' part as operators, joined to a tower's file.
//!
//! The tower's graph is taken from its file as it stands, and what it read as inputs becomes results of operators that
//! `rules.rs` writes. Texts are looked up by operators of `ai.onnx.ml`; `StringSplit` and `RegexFullMatch` need opset 20.

mod lists;
mod rules;
mod scalars;
#[cfg(test)]
mod tests;

use super::graph::{Extent, GraphBuilder};
use super::messages::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, code,
};
use super::{data_file_name, inspect};
use crate::error::ModelError;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use twotower_artifacts::publish::publish_file;
use twotower_artifacts::raw::{RawExtent, RawField, RawInput, RawType};
use twotower_artifacts::{ArtifactError, TowerSchema};

/// The oldest set of operators that has all that are used.
const OPSET: i64 = 20;
/// Of `ai.onnx.ml`.
const ML_OPSET: i64 = 4;
const IR_VERSION: i64 = 9;
/// What values of the encoders' part have names with.
const PREFIX: &str = "/raw";
/// The domain of look-ups.
const ML: &str = "ai.onnx.ml";
/// Operators whose axes became an input in opset 18.
const REDUCTIONS: [&str; 4] = ["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean"];

/// The element type of an input in ONNX.
fn element(of: RawType) -> i32 {
    match of {
        RawType::Text => code::STRING,
        RawType::Integer => code::INT64,
        RawType::Single => code::FLOAT,
        RawType::Double => code::DOUBLE,
        RawType::Boolean => code::BOOL,
        RawType::Code => code::INT32,
    }
}

/// Writes a tower that takes raw values to `path`: that of the file `tower`, behind `fields`, which are its fields in
/// order. `extra` goes into its metadata. Tables in a file of their own stay in one, beside `path`.
///
/// # Memory
/// Three times the size of the tower's file, without tables in a file of their own.
///
/// # Errors
/// Those of [`inspect`]; [`ModelError::Tower`] for fields that are not the tower's, names that stand twice, and a model
/// that is larger than ONNX holds; I/O.
pub fn export_raw(
    tower: &Path,
    fields: &[RawField],
    path: &Path,
    extra: &BTreeMap<String, String>,
) -> Result<(), ModelError> {
    let metadata = inspect(tower)?;
    let side = metadata.schema.side;
    let refuse = |reason: String| ModelError::Tower { side, reason };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ArtifactError::Io { action: "read", path: path.to_path_buf(), source })
    };
    let model = ModelProto::decode(Bytes::from(read(tower)?));
    let model = model.map_err(|e| refuse(format!("{}: not an ONNX model, or damaged: {e}", tower.display())))?;
    let mut graph = compose(&metadata.schema, model.graph.unwrap_or_default(), fields).map_err(refuse)?;
    if let (Some(_), Some(from), Some(to)) = (&metadata.data, data_file_name(tower), data_file_name(path)) {
        let data = tower.with_file_name(from);
        publish_file(path.with_file_name(&to), |w| {
            let mut data = std::fs::File::open(&data)?;
            std::io::copy(&mut data, w).map(|_| ())
        })?;
        let places = graph.initializer.iter_mut().flat_map(|tensor| &mut tensor.external_data);
        places
            .filter(|entry| entry.key.as_deref() == Some("location"))
            .for_each(|entry| entry.value = Some(to.clone()));
    }
    let version = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: model.producer_name,
        producer_version: model.producer_version,
        graph: Some(graph),
        opset_import: vec![version("", OPSET), version(ML, ML_OPSET)],
        metadata_props: extra.iter().map(|(key, value)| StringStringEntryProto::new(key, value)).collect(),
    };
    let bytes = model.encoded_len();
    if bytes > i32::MAX as usize {
        return Err(refuse(format!(
            "its raw form would have {bytes} bytes, the format holds {}; set `max_size` of its vocabularies, or leave features encoded",
            i32::MAX
        )));
    }
    publish_file(path, |w| w.write_all(&model.encode_to_vec()))?;
    Ok(())
}

/// The graph of a tower behind the encoders' part.
fn compose(schema: &TowerSchema, tower: GraphProto, fields: &[RawField]) -> Result<GraphProto, String> {
    if !schema.fields.iter().eq(fields.iter().map(|field| &field.field)) {
        return Err("the raw fields are not the tower's".into());
    }
    let inputs: Vec<RawInput> = fields.iter().flat_map(RawField::inputs).collect();
    let outputs = tower.output.iter().filter_map(|output| output.name.as_deref());
    let mut names: BTreeSet<&str> = outputs.collect();
    if let Some(twice) = inputs.iter().find(|input| !names.insert(&input.name)) {
        return Err(format!(
            "two inputs or outputs of its raw form would be named `{}`; rename the feature",
            twice.name
        ));
    }
    let mut g = GraphBuilder::part(PREFIX);
    let mut renamed = BTreeMap::new();
    for field in fields {
        for input in field.inputs() {
            declare(&mut g, &field.field.name, &input);
        }
        renamed.extend(rules::field(&mut g, field));
    }
    let mut graph = g.into_part();
    let GraphProto { node, name, initializer, output, .. } = tower;
    let of_tower = node.into_iter().map(|mut node| {
        for input in &mut node.input {
            if let Some(result) = renamed.get(input) {
                input.clone_from(result);
            }
        }
        node
    });
    graph.node.extend(of_tower);
    graph.initializer.extend(initializer);
    graph.name = name;
    graph.output = output;
    axes_as_inputs(&mut graph);
    Ok(graph)
}

fn declare(g: &mut GraphBuilder, field: &str, input: &RawInput) {
    let length = format!("{field}/L");
    let extent = |extent: &RawExtent| match extent {
        RawExtent::Rows => Extent::Dynamic("N"),
        RawExtent::Fixed(width) => Extent::Fixed(*width as usize),
        RawExtent::Length => Extent::Dynamic(&length),
    };
    let extents: Vec<Extent> = input.extents.iter().map(extent).collect();
    let missing = if input.missing.is_empty() { String::new() } else { format!("; missing: {}", input.missing) };
    g.input(&input.name, element(input.element), &extents, &format!("{}{missing}", input.content));
}

/// Gives reductions their axes as opset 18 and later take them.
fn axes_as_inputs(graph: &mut GraphProto) {
    let mut constants = BTreeMap::new();
    for NodeProto { input, op_type, attribute, .. } in &mut graph.node {
        if !op_type.as_deref().is_some_and(|op| REDUCTIONS.contains(&op)) {
            continue;
        }
        let is_axes = |attribute: &AttributeProto| attribute.name.as_deref() == Some("axes");
        let Some(at) = attribute.iter().position(is_axes) else { continue };
        let axes = attribute.remove(at).ints;
        let names: Vec<String> = axes.iter().map(ToString::to_string).collect();
        let name = format!("{PREFIX}/axes/{}", names.join(","));
        input.push(name.clone());
        constants.insert(name, axes);
    }
    graph.initializer.extend(constants.into_iter().map(|(name, axes)| TensorProto {
        dims: vec![axes.len() as i64],
        data_type: Some(code::INT64),
        name: Some(name),
        raw_data: Some(axes.iter().flat_map(|axis| axis.to_le_bytes()).collect::<Vec<u8>>().into()),
        ..Default::default()
    }));
}
