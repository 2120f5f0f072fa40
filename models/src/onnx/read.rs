//! Reading back a tower that [`export`](super::export) wrote.

use super::messages::{GraphEnvelope, ModelEnvelope, StringStringEntryProto, TensorProto, code};
use super::metadata::{InputKind, LayerKind, Metadata, PoolingKind};
use super::{data_file_name, layer_name, position_name, table_name};
use crate::engine::layout::check_tower;
use crate::error::ModelError;
use crate::tower::{Layer, Matrix, Pooling, Tower, TowerInput};
use prost::Message;
use prost::bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use twotower_artifacts::{ArtifactError, Fingerprint, open_regular, read_regular};

/// Reads an exported tower, bit for bit, and its metadata.
///
/// # Memory
/// The file and the tower, once each; sizes are checked against the file's before anything is
/// allocated for them.
///
/// # Errors
/// [`ArtifactError::Corrupt`] for a file that is damaged or not ours, [`ArtifactError::Version`] for
/// one of a newer format, [`ModelError::Tower`] when its parts do not fit together.
pub fn read(path: &Path) -> Result<(Tower, Metadata), ModelError> {
    let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
    let size = size_of(path)?;
    if size > i32::MAX as u64 {
        return Err(corrupt(format!("{size} bytes, more than an ONNX file can have")).into());
    }
    decode(path, read_regular(path)?.into())
}

/// [`read`] of a file of at most `limit` bytes, with all its tables inside.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<(Tower, Metadata)>, ModelError> {
    if size_of(path)? > limit {
        return Ok(None);
    }
    let (metadata, graph) = envelope(path, read_regular(path)?.into())?;
    match metadata.data {
        None => Ok(Some(assemble(path, metadata, graph)?)),
        Some(_) => Ok(None),
    }
}

/// Bytes of a regular file.
fn size_of(path: &Path) -> Result<u64, ArtifactError> {
    let io = |source| ArtifactError::Io { action: "read", path: path.to_path_buf(), source };
    Ok(open_regular(path)?.metadata().map_err(io)?.len())
}

/// [`read`] for the content of the file at `path`.
pub(super) fn decode(path: &Path, bytes: Bytes) -> Result<(Tower, Metadata), ModelError> {
    let (metadata, graph) = envelope(path, bytes)?;
    assemble(path, metadata, graph)
}

/// What a file says about itself, and its graph, of which nothing is copied.
fn envelope(path: &Path, bytes: Bytes) -> Result<(Metadata, GraphEnvelope), ArtifactError> {
    let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
    let not_onnx = |e: prost::DecodeError| corrupt(format!("not an ONNX model, or damaged: {e}"));
    let model = ModelEnvelope::decode(bytes).map_err(not_onnx)?;
    let mut pairs = BTreeMap::new();
    for entry in model.metadata_props {
        let entry = StringStringEntryProto::decode(entry).map_err(not_onnx)?;
        pairs.insert(entry.key.unwrap_or_default(), entry.value.unwrap_or_default());
    }
    let metadata = Metadata::from_pairs(path, pairs)?;
    let graph = GraphEnvelope::decode(model.graph.unwrap_or_default()).map_err(not_onnx)?;
    Ok((metadata, graph))
}

fn assemble(path: &Path, metadata: Metadata, graph: GraphEnvelope) -> Result<(Tower, Metadata), ModelError> {
    let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
    let not_onnx = |e: prost::DecodeError| corrupt(format!("not an ONNX model, or damaged: {e}"));
    let data = metadata.data.as_ref().map(|expected| DataFile::open(path, expected)).transpose()?;
    let mut tensors = Tensors { path, by_name: BTreeMap::new(), data };
    for tensor in graph.initializer {
        let tensor = TensorProto::decode(tensor).map_err(not_onnx)?;
        let name = tensor.name.clone().unwrap_or_default();
        if tensors.by_name.insert(name.clone(), tensor).is_some() {
            return Err(corrupt(format!("two initialisers are called `{name}`")).into());
        }
    }
    let tower = rebuild(&metadata, &mut tensors)?;
    check_tower(&tower)?;
    Ok((tower, metadata))
}

fn rebuild(metadata: &Metadata, tensors: &mut Tensors) -> Result<Tower, ArtifactError> {
    let mut tables = BTreeMap::new();
    let mut inputs = Vec::new();
    let description = &metadata.description;
    if description.inputs.len() != metadata.schema.fields.len() {
        let (found, expected) = (description.inputs.len(), metadata.schema.fields.len());
        return Err(tensors.corrupt(format!("{found} inputs are described, the schema has {expected} fields")));
    }
    for (field, input) in metadata.schema.fields.iter().zip(&description.inputs) {
        if let InputKind::Embedding { table } | InputKind::Pooled { table, .. } = input
            && !tables.contains_key(table)
        {
            tables.insert(table.clone(), tensors.matrix(&table_name(table))?);
        }
        inputs.push(match input {
            InputKind::Dense {} => TowerInput::Dense,
            InputKind::Embedding { table } => TowerInput::Embedding { table: table.clone() },
            InputKind::Pooled { table, pooling } => TowerInput::Pooled {
                table: table.clone(),
                pooling: match pooling {
                    PoolingKind::Mean => Pooling::Mean,
                    PoolingKind::Position => {
                        let mut logits = tensors.vector(&position_name(&field.name))?;
                        logits.reverse();
                        Pooling::Position(logits)
                    }
                },
            },
        });
    }
    let layers = description.layers.iter().enumerate().map(|(i, kind)| {
        Ok(match kind {
            LayerKind::Linear => Layer::Linear {
                weight: tensors.matrix(&layer_name(i, "weight"))?,
                bias: tensors.vector(&layer_name(i, "bias"))?,
            },
            LayerKind::Prelu => Layer::Prelu { slope: tensors.vector(&layer_name(i, "slope"))? },
            LayerKind::Relu => Layer::Relu,
            LayerKind::L2norm => match tensors.vector(&layer_name(i, "eps"))?[..] {
                [eps] => Layer::L2Norm { eps },
                ref other => return Err(tensors.corrupt(format!("layer {i}: {} bounds, expected 1", other.len()))),
            },
        })
    });
    let layers = layers.collect::<Result<_, ArtifactError>>()?;
    Ok(Tower { schema: metadata.schema.clone(), inputs, tables, layers, dim: metadata.dim })
}

/// The initialisers of a file, each taken once.
struct Tensors<'a> {
    path: &'a Path,
    by_name: BTreeMap<String, TensorProto>,
    data: Option<DataFile>,
}

impl Tensors<'_> {
    fn corrupt(&self, reason: String) -> ArtifactError {
        ArtifactError::Corrupt { path: self.path.to_path_buf(), reason }
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix, ArtifactError> {
        let (dims, data) = self.take(name)?;
        match dims[..] {
            [rows, cols] => Ok(Matrix { rows, cols, data }),
            _ => Err(self.corrupt(format!("initialiser `{name}`: {} dimensions, expected 2", dims.len()))),
        }
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, ArtifactError> {
        let (dims, data) = self.take(name)?;
        match dims[..] {
            [_] => Ok(data),
            _ => Err(self.corrupt(format!("initialiser `{name}`: {} dimensions, expected 1", dims.len()))),
        }
    }

    fn take(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>), ArtifactError> {
        let Some(tensor) = self.by_name.remove(name) else {
            return Err(self.corrupt(format!("initialiser `{name}` is missing")));
        };
        if tensor.data_type != Some(code::FLOAT) || tensor.dims.len() > 2 {
            return Err(self.corrupt(format!("initialiser `{name}` is not a matrix or vector of floats")));
        }
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let bytes = dims.as_ref().and_then(|d| d.iter().try_fold(4usize, |n, d| n.checked_mul(*d)));
        let (Some(dims), Some(expected)) = (dims, bytes) else {
            return Err(self.corrupt(format!("initialiser `{name}`: impossible shape {:?}", tensor.dims)));
        };
        let values = if tensor.data_location == Some(code::EXTERNAL) {
            let file = self.data.as_mut().ok_or_else(|| ArtifactError::Corrupt {
                path: self.path.to_path_buf(),
                reason: format!("initialiser `{name}` stands in another file, which the metadata does not name"),
            })?;
            file.floats(name, &tensor.external_data, expected)?
        } else {
            let raw = tensor.raw_data.unwrap_or_default();
            if raw.len() != expected {
                let found = raw.len();
                return Err(self.corrupt(format!("initialiser `{name}`: {found} bytes, its shape needs {expected}")));
            }
            floats(&raw)
        };
        Ok((dims, values))
    }
}

fn floats(raw: &[u8]) -> Vec<f32> {
    raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
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
        &mut self,
        tensor: &str,
        place: &[StringStringEntryProto],
        expected: usize,
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
        let mut raw = vec![0; expected];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut raw))
            .map_err(|source| ArtifactError::Io { action: "read", path: self.path.clone(), source })?;
        Ok(floats(&raw))
    }

    fn corrupt(&self, reason: String) -> ArtifactError {
        ArtifactError::Corrupt { path: self.path.clone(), reason }
    }
}

/// Checks the data file of a model against its metadata, where it has one.
///
/// # Errors
/// [`ArtifactError::Mismatch`] naming both fingerprints, [`ArtifactError::Io`] when the file cannot be read.
pub(crate) fn check_data_file(model: &Path, metadata: &Metadata) -> Result<(), ArtifactError> {
    metadata.data.as_ref().map_or(Ok(()), |expected| DataFile::open(model, expected).map(|_| ()))
}
