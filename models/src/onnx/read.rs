//! Reads a tower that [`export`](super::export) wrote.

use super::messages::{StringStringEntryProto, TensorProto, code};
use super::metadata::Metadata;
use super::outline::{self, foreign};
use super::streams;
use super::wire::{self, ModelFile};
use super::{data_file_name, tensor_name};
use crate::error::ModelError;
use crate::tower::layout::{check_shape, check_values};
use crate::tower::{Input, Layer, Matrix, Parameter, Place, Reduce, Tower};
use prost::Message;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use twotower_artifacts::{ArtifactError, Fingerprint, open_regular};

/// Field numbers of `ModelProto`.
mod model {
    pub const PRODUCER_VERSION: u32 = 3;
    pub const GRAPH: u32 = 7;
    pub const METADATA: u32 = 14;
}
/// Field number of `GraphProto.initializer`.
const INITIALIZER: u32 = 5;
/// Field number of `TensorProto.raw_data`.
const RAW_DATA: u32 = 9;

/// The most parts of a model. Most of them are metadata that callers of the export added.
const MAX_MODEL_PARTS: usize = 1000;
/// The most parts of a graph per field and per layer, and besides those.
const GRAPH_PARTS: usize = 40;
/// The most parts of a graph per block of an encoder.
const BLOCK_PARTS: usize = 160;
/// The most parts of a tensor.
const MAX_TENSOR_PARTS: usize = 20;

/// Whether the values of tables and of matrices of layers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    /// They are read.
    Held,
    /// They stay on disk. Matrices have a shape but no values.
    Left,
}

/// Reads an exported tower, bit for bit, and its metadata.
///
/// # Memory
/// That of the tower. Sizes are compared with that of the file before anything is allocated.
///
/// # Errors
/// [`ArtifactError::Corrupt`] for a file that is damaged or not ours, [`ArtifactError::Version`] for one of a newer
/// format, [`ArtifactError::Mismatch`] for a file that is not what the export writes for its tower, or whose parts do
/// not fit together.
pub fn read(path: &Path) -> Result<(Tower, Metadata), ModelError> {
    open(path, Values::Held)
}

/// The metadata of an exported tower, which passes the checks of [`read`].
///
/// # Memory
/// Tables and weights stay on disk.
///
/// # Errors
/// As [`read`].
pub fn inspect(path: &Path) -> Result<Metadata, ModelError> {
    Ok(open(path, Values::Left)?.1)
}

fn open(path: &Path, values: Values) -> Result<(Tower, Metadata), ModelError> {
    let file = ModelFile::open(path)?;
    let not_onnx = |e: prost::DecodeError| file.corrupt(format!("not an ONNX model, or damaged: {e}"));
    let (mut pairs, mut graph, mut producer) = (BTreeMap::new(), 0..0, String::new());
    for field in file.fields(file.whole(), MAX_MODEL_PARTS)? {
        match field.number {
            model::GRAPH => graph = field.content,
            model::METADATA => {
                let entry = StringStringEntryProto::decode(&file.bytes(field.content)?[..]).map_err(not_onnx)?;
                pairs.insert(entry.key.unwrap_or_default(), entry.value.unwrap_or_default());
            }
            model::PRODUCER_VERSION => {
                producer = String::from_utf8_lossy(&file.bytes(field.content)?).into_owned();
            }
            _ => {}
        }
    }
    let mut metadata = Metadata::from_pairs(path, pairs)?;
    let data = metadata.data.as_ref().map(|expected| DataFile::open(path, expected)).transpose()?;
    let data_name = data.as_ref().map(|data| data.name.clone());
    let tower = rebuild(&metadata, &mut Tensors::of(&file, graph.clone(), &metadata, data, values)?)?;
    let checked = check_shape(&tower).and_then(|_| match values {
        Values::Held => check_values(&tower),
        Values::Left => Ok(()),
    });
    let checked =
        checked.and_then(|()| outline::check(&file, graph, &tower, &metadata, producer, data_name.as_deref()));
    checked.map_err(|error| match error {
        ModelError::Tower { reason, .. } => foreign(&file, "parts that fit together", &reason).into(),
        other => other,
    })?;
    metadata.encoders = tower.encoder_sizes();
    Ok((tower, metadata))
}

fn rebuild(metadata: &Metadata, tensors: &mut Tensors<'_>) -> Result<Tower, ArtifactError> {
    let mut tables = BTreeMap::new();
    let mut inputs = Vec::new();
    let description = &metadata.description;
    if description.inputs.len() != metadata.schema.fields.len() {
        let (found, expected) = (description.inputs.len(), metadata.schema.fields.len());
        return Err(foreign(tensors.file, &format!("{expected} inputs, as its schema has fields"), &found.to_string()));
    }
    for (field, input) in metadata.schema.fields.iter().zip(&description.inputs) {
        if let Some(table) = input.table().filter(|table| !tables.contains_key(*table)) {
            tables.insert(table.clone(), tensors.weight(Place::Table(table))?);
        }
        inputs.push(input.try_map(&mut |parameter, ()| tensors.weight(Place::Reduce(&field.name, parameter)))?);
    }
    let file = tensors.file;
    let constant = |value: Matrix| match value.data[..] {
        [value] => Ok(value),
        ref other => Err(foreign(file, "a constant of one value", &other.len().to_string())),
    };
    let layers = description.layers.iter().enumerate().map(|(i, kind)| {
        let layer = Layer::of_kind(kind, |parameter| tensors.weight(Place::Layer(i, parameter)), constant)?;
        layer.ok_or_else(|| foreign(file, "layers that this version knows", &format!("`{kind}`")))
    });
    let layers = layers.collect::<Result<_, ArtifactError>>()?;
    let Metadata { schema, dim, inner_product_scale, .. } = metadata;
    Ok(Tower { schema: schema.clone(), inputs, tables, layers, dim: *dim, inner_product_scale: *inner_product_scale })
}

/// A tensor of a file: its description, and the range of its values.
struct Tensor {
    proto: TensorProto,
    raw: Option<Range<u64>>,
}

impl Tensor {
    fn read(file: &ModelFile<'_>, tensor: Range<u64>) -> Result<Self, ArtifactError> {
        let raw = file.fields(tensor.clone(), MAX_TENSOR_PARTS)?.into_iter().find(|field| field.number == RAW_DATA);
        let (before, after) = match &raw {
            Some(raw) => (tensor.start..raw.start, raw.content.end..tensor.end),
            None => (tensor.clone(), tensor.end..tensor.end),
        };
        let bytes = [file.bytes(before)?, file.bytes(after)?].concat();
        let proto =
            TensorProto::decode(&bytes[..]).map_err(|e| file.corrupt(format!("not an ONNX model, or damaged: {e}")))?;
        Ok(Self { proto, raw: raw.map(|field| field.content) })
    }
}

/// The initialisers of a file. Each can be taken once.
struct Tensors<'a> {
    file: &'a ModelFile<'a>,
    by_name: BTreeMap<String, Tensor>,
    data: Option<DataFile>,
    values: Values,
}

impl<'a> Tensors<'a> {
    fn of(
        file: &'a ModelFile<'a>,
        graph: Range<u64>,
        metadata: &Metadata,
        data: Option<DataFile>,
        values: Values,
    ) -> Result<Self, ArtifactError> {
        let described = metadata.schema.fields.len() + metadata.description.layers.len();
        let mut by_name = BTreeMap::new();
        let blocks = metadata.description.inputs.iter().map(|input| match input {
            Input::Pooled { reduce: Reduce::Attention(encoder), .. } => {
                (encoder.blocks.len() + 1) * (BLOCK_PARTS + encoder.streams.map_or(0, streams::parts))
            }
            Input::Pooled { .. } | Input::Embedding { .. } | Input::Dense => 0,
        });
        let blocks = blocks.sum::<usize>();
        let most = GRAPH_PARTS.saturating_mul(described.saturating_add(1)).saturating_add(blocks);
        let parts = file.fields(graph, most)?;
        for field in parts.into_iter().filter(|field| field.number == INITIALIZER) {
            let tensor = Tensor::read(file, field.content)?;
            let name = tensor.proto.name.clone().unwrap_or_default();
            if by_name.insert(name.clone(), tensor).is_some() {
                return Err(foreign(file, "initialisers of unlike names", &format!("two that are called `{name}`")));
            }
        }
        Ok(Self { file, by_name, data, values })
    }

    /// The weight at a place. Values of vectors are always read, since the graph may depend on them.
    fn weight(&mut self, place: Place<'_>) -> Result<Matrix, ArtifactError> {
        let rank = match place {
            Place::Table(_) => 2,
            Place::Reduce(_, parameter) | Place::Layer(_, parameter) => parameter.rank,
        };
        let values = if rank == 1 { Values::Held } else { self.values };
        let (dims, mut data) = self.take(&tensor_name(place), rank, values)?;
        if matches!(place, Place::Reduce(_, Parameter::POSITION)) {
            data.reverse();
        }
        Ok(match dims[..] {
            [rows, cols] => Matrix { rows, cols, data },
            _ => Matrix::vector(data),
        })
    }

    /// Takes a tensor of floats with `rank` extents, and returns its extents and values.
    fn take(&mut self, name: &str, rank: usize, values: Values) -> Result<(Vec<usize>, Vec<f32>), ArtifactError> {
        let refuse = |file, found: &str| Err(foreign(file, &format!("initialiser `{name}`"), found));
        let Some(Tensor { proto, raw }) = self.by_name.remove(name) else {
            return refuse(self.file, "none of this name");
        };
        let dims: Option<Vec<usize>> = proto.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let bytes = dims.as_ref().and_then(|d| d.iter().try_fold(4usize, |n, d| n.checked_mul(*d)));
        let (Some(dims), Some(bytes)) = (dims, bytes) else {
            return refuse(self.file, &format!("the impossible shape {:?}", proto.dims));
        };
        if proto.data_type != Some(code::FLOAT) || dims.len() != rank {
            return refuse(self.file, &format!("one of {} dimensions, or not of floats", dims.len()));
        }
        let values = match (proto.data_location == Some(code::EXTERNAL), &self.data, raw) {
            (true, Some(data), _) => data.floats(name, &proto.external_data, bytes, values)?,
            (true, None, _) => return refuse(self.file, "values in another file, which the metadata does not name"),
            (false, _, raw) => {
                let raw = raw.unwrap_or(0..0);
                let found = raw.end - raw.start;
                if found != bytes as u64 {
                    return refuse(self.file, &format!("{found} bytes of values, its shape needs {bytes}"));
                }
                if values == Values::Held { self.file.floats(raw)? } else { Vec::new() }
            }
        };
        Ok((dims, values))
    }
}

/// The file beside the model that holds its tables.
struct DataFile {
    path: PathBuf,
    name: String,
    file: File,
    size: u64,
}

impl DataFile {
    /// Opens the data file of the model at `model` and checks that it is the one it was exported with.
    fn open(model: &Path, expected: &Fingerprint) -> Result<Self, ArtifactError> {
        let name = data_file_name(model).ok_or_else(|| ArtifactError::Corrupt {
            path: model.to_path_buf(),
            reason: "its tables stand beside it, in a file named after it, but its own name is not UTF-8".to_string(),
        })?;
        let path = model.with_file_name(&name);
        let io = |source| ArtifactError::Io { action: "read", path: path.clone(), source };
        let file = open_regular(&path)?;
        let mut hasher = blake3::Hasher::new();
        let size = std::io::copy(&mut &file, &mut hasher).map_err(io)?;
        let found = Fingerprint::finish(&hasher);
        if found != *expected {
            return Err(ArtifactError::Mismatch {
                what: format!("table file {}", path.display()),
                expected_from: format!("model {}", model.display()),
                expected: expected.to_string(),
                found_from: "content".to_string(),
                found: found.to_string(),
                advice: "export the tower again, or restore both files from one export".to_string(),
            });
        }
        Ok(Self { path, name, file, size })
    }

    fn floats(
        &self,
        tensor: &str,
        place: &[StringStringEntryProto],
        expected: usize,
        values: Values,
    ) -> Result<Vec<f32>, ArtifactError> {
        let entry = |key: &str| place.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref());
        let number = |key: &str| entry(key).and_then(|v| v.parse::<u64>().ok());
        let (Some(offset), Some(length)) = (number("offset"), number("length")) else {
            return Err(self.corrupt(format!("the model gives no place for `{tensor}`")));
        };
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.size) && length == expected as u64;
        if entry("location") != Some(&self.name) || !fits {
            return Err(self.corrupt(format!(
                "the model wants `{tensor}`, {expected} bytes, at {offset}..+{length} of {} bytes of `{}`",
                self.size,
                entry("location").unwrap_or_default()
            )));
        }
        match values {
            Values::Left => Ok(Vec::new()),
            Values::Held => wire::floats(&self.file, offset..offset + length).map_err(|source| ArtifactError::Io {
                action: "read",
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn corrupt(&self, reason: String) -> ArtifactError {
        ArtifactError::Corrupt { path: self.path.clone(), reason }
    }
}
