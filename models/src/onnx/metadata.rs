//! The metadata properties of a tower file.

use crate::encoder::EncoderSize;
use crate::error::ModelError;
use crate::tower::{Input, Reduce, Tower};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{ArtifactError, Fingerprint, TowerSchema};

/// The newest version of the file format that this build reads. A file is written with the oldest version that has all
/// its layers.
const FORMAT_VERSION: u32 = 6;
/// Layers that were added after version 1, each with its first version.
const LATER: [(&str, u32); 2] = [("layernorm", 2), ("coalesce", 5)];
/// The first version with encoders of sequences.
const ENCODERS: u32 = 3;
/// The first version with encoders that have streams or read intervals.
const STREAMS_AND_INTERVALS: u32 = 4;
/// The first version with encoders whose blocks are LiGR blocks or have wider feed-forward networks.
const BLOCK_SHAPES: u32 = 6;

pub(super) const KEY_FORMAT: &str = "twotower.format_version";
pub(super) const KEY_ENCODER: &str = "twotower.encoder_fingerprint";
pub(super) const KEY_SIDE: &str = "twotower.side";
pub(super) const KEY_SCHEMA: &str = "twotower.schema";
pub(super) const KEY_TOWER: &str = "twotower.tower";
pub(super) const KEY_DIM: &str = "twotower.dim";
pub(super) const KEY_SIMILARITY: &str = "twotower.similarity";
pub(super) const KEY_DATA: &str = "twotower.data_fingerprint";
/// Later than version 1, and of no version: who does not know it has cosines as always.
pub(super) const KEY_INNER_PRODUCT: &str = "twotower.inner_product_scale";

const RESERVED: [&str; 9] =
    [KEY_FORMAT, KEY_ENCODER, KEY_SIDE, KEY_SCHEMA, KEY_TOWER, KEY_DIM, KEY_SIMILARITY, KEY_DATA, KEY_INNER_PRODUCT];
const SIMILARITY: &str = "cosine";

/// The metadata of a tower file.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// Inputs in order, the side, and the encoder state the codes must come from.
    pub schema: TowerSchema,
    /// Width of the output.
    pub dim: usize,
    /// Fingerprint of the external data file, if the tables are in one.
    pub data: Option<Fingerprint>,
    /// As in [`Tower::inner_product_scale`].
    pub inner_product_scale: Option<f32>,
    /// Pairs that the caller of the export added.
    pub extra: BTreeMap<String, String>,
    /// The sizes of the encoders of sequences. They are no property of their own, but follow from the tower's weights.
    pub encoders: Vec<EncoderSize>,
    pub(super) description: Description,
}

/// The parts of a tower that are not initialisers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// Inputs without their weights.
    pub inputs: Vec<Input<()>>,
    /// Names of the layers.
    pub layers: Vec<String>,
}

impl Description {
    fn of(tower: &Tower) -> Self {
        let bare = tower.map(|_, _| ());
        let layers = bare.layers.iter().map(|layer| layer.kind().to_string()).collect();
        Self { inputs: bare.inputs, layers }
    }
}

/// The first version that has an input.
fn first_version(input: &Input<()>) -> u32 {
    match input {
        Input::Pooled { reduce: Reduce::Attention(encoder), .. } if !encoder.block.is_default() => BLOCK_SHAPES,
        Input::Pooled { reduce: Reduce::Attention(encoder), .. }
            if encoder.streams.is_some() || encoder.intervals.is_some() =>
        {
            STREAMS_AND_INTERVALS
        }
        Input::Pooled { reduce: Reduce::Attention(_), .. } => ENCODERS,
        Input::Pooled { .. } | Input::Embedding { .. } | Input::Dense => 1,
    }
}

impl Metadata {
    /// Describes a tower.
    ///
    /// # Errors
    /// [`ModelError::Setting`] when an extra pair has a name that the format uses itself.
    pub(super) fn of(
        tower: &Tower,
        extra: &BTreeMap<String, String>,
        data: Option<Fingerprint>,
    ) -> Result<Self, ModelError> {
        if let Some(taken) = extra.keys().find(|k| RESERVED.contains(&k.as_str())) {
            return Err(ModelError::Setting {
                setting: "tower metadata".into(),
                expected: "names that the format does not use itself".to_string(),
                found: taken.clone(),
            });
        }
        Ok(Self {
            schema: tower.schema.clone(),
            dim: tower.dim,
            data,
            inner_product_scale: tower.inner_product_scale,
            extra: extra.clone(),
            encoders: tower.encoder_sizes(),
            description: Description::of(tower),
        })
    }

    fn version(&self) -> u32 {
        let later = LATER.iter().filter(|(kind, _)| self.description.layers.iter().any(|layer| layer == kind));
        let inputs = self.description.inputs.iter().map(first_version);
        later.map(|(_, version)| *version).chain(inputs).max().unwrap_or(1)
    }

    /// The properties, in a fixed order.
    pub(super) fn to_pairs(&self) -> Result<Vec<(String, String)>, serde_json::Error> {
        let mut pairs = vec![
            (KEY_FORMAT, self.version().to_string()),
            (KEY_ENCODER, self.schema.encoder.to_string()),
            (KEY_SIDE, self.schema.side.to_string()),
            (KEY_SCHEMA, serde_json::to_string(&self.schema)?),
            (KEY_TOWER, serde_json::to_string(&self.description)?),
            (KEY_DIM, self.dim.to_string()),
            (KEY_SIMILARITY, SIMILARITY.to_string()),
        ];
        pairs.extend(self.data.as_ref().map(|f| (KEY_DATA, f.to_string())));
        pairs.extend(self.inner_product_scale.map(|scale| (KEY_INNER_PRODUCT, scale.to_string())));
        let ours = pairs.into_iter().map(|(k, v)| (k.to_string(), v));
        Ok(ours.chain(self.extra.iter().map(|(k, v)| (k.clone(), v.clone()))).collect())
    }

    /// Reads the properties of the file at `path`. Those that are not of this format go to [`Metadata::extra`]. The
    /// sizes of encoders are left to who reads the weights.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] when a property is missing or contradicts another,
    /// [`ArtifactError::Version`] for a newer format.
    pub(crate) fn from_pairs(path: &Path, mut pairs: BTreeMap<String, String>) -> Result<Self, ArtifactError> {
        let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
        let mut take = |key: &str| {
            pairs.remove(key).ok_or_else(|| {
                corrupt(format!("metadata property `{key}` is missing; this is not a tower exported by twotower"))
            })
        };
        let parse_error = |key: &str, expected: &str, found: &dyn std::fmt::Display| {
            corrupt(format!("metadata property `{key}`: expected {expected}, found {found}"))
        };
        let format = take(KEY_FORMAT)?;
        let found = format.parse().map_err(|_| parse_error(KEY_FORMAT, "a version number", &format))?;
        if found > FORMAT_VERSION {
            return Err(ArtifactError::Version { path: path.to_path_buf(), found, supported: FORMAT_VERSION });
        }
        let schema: TowerSchema = serde_json::from_str(&take(KEY_SCHEMA)?)
            .map_err(|e| parse_error(KEY_SCHEMA, "a tower schema as JSON", &e))?;
        let description = serde_json::from_str(&take(KEY_TOWER)?)
            .map_err(|e| parse_error(KEY_TOWER, "inputs and layers as JSON", &e))?;
        let dim = take(KEY_DIM)?;
        let dim = dim.parse().map_err(|_| parse_error(KEY_DIM, "a width", &dim))?;
        for (key, expected) in [
            (KEY_ENCODER, schema.encoder.to_string()),
            (KEY_SIDE, schema.side.to_string()),
            (KEY_SIMILARITY, SIMILARITY.to_string()),
        ] {
            let found = take(key)?;
            if found != expected {
                return Err(parse_error(key, &expected, &found));
            }
        }
        let data = match pairs.remove(KEY_DATA) {
            None => None,
            Some(hex) => Some(
                serde_json::from_value(hex.clone().into()).map_err(|_| parse_error(KEY_DATA, "a fingerprint", &hex))?,
            ),
        };
        let scale = pairs.remove(KEY_INNER_PRODUCT).map(|text| match text.parse() {
            Ok(scale) if scale > 0.0 && f32::is_finite(scale) => Ok(scale),
            _ => Err(parse_error(KEY_INNER_PRODUCT, "a number above 0", &text)),
        });
        let inner_product_scale = scale.transpose()?;
        Ok(Self { schema, dim, data, inner_product_scale, extra: pairs, encoders: Vec::new(), description })
    }
}
