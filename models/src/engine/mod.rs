//! Inference engines: one exported tower, one interface, three ways to run it.
//!
//! - [`EngineKind::Ort`]: ONNX Runtime, loaded from a shared library ([`library`]) at run time.
//! - [`EngineKind::Native`]: the training kernels ([`crate::native`]); needs no library.
//! - [`EngineKind::NativeInt16`]: the same with matrix products of 16-bit integers.
//!
//! Only the newest (last) `max_len` real elements of a bag or sequence count, as in training.
//! An engine belongs to one worker thread. The bits of a row's vector depend only on the row, the
//! tower and the kind of engine, not on other rows of the batch. Kinds of engines differ in the
//! last digits, so their vectors must not be mixed.

pub mod library;
mod raw;
mod runtime;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

pub use crate::encoder::{EncoderSize, encoder_bytes};
pub use raw::RawEngine;
pub use runtime::CROSS_LIMIT;
pub(crate) use runtime::tile_for;
use runtime::{OrtEngine, OrtTower};

use crate::error::ModelError;
use crate::native::{self, NativeEngine};
use crate::onnx;
use crate::tower::Tower;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::{CodeBatch, TowerSchema};

/// The kind of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// ONNX Runtime.
    #[default]
    Ort,
    /// The training kernels.
    Native,
    /// The training kernels, with matrix products of 16-bit integers. Faster, with errors of about 1e-4 per value.
    NativeInt16,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EngineKind::Ort => "ort",
            EngineKind::Native => "native",
            EngineKind::NativeInt16 => "native-int16",
        })
    }
}

impl std::str::FromStr for EngineKind {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "ort" => Ok(EngineKind::Ort),
            "native" => Ok(EngineKind::Native),
            "native-int16" => Ok(EngineKind::NativeInt16),
            _ => Err(ModelError::Setting {
                setting: "engine".into(),
                expected: "`ort`, `native` or `native-int16`".to_string(),
                found: format!("`{name}`"),
            }),
        }
    }
}

/// What an engine knows about the norms of its vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// All vectors were divided by their norm, which was finite and not zero.
    Unit,
    /// Nothing is known.
    Unknown,
}

impl Norms {
    /// What is known about these vectors and others together.
    pub(crate) fn and(self, other: Self) -> Self {
        if self == Norms::Unit { other } else { self }
    }
}

/// A tower ready to embed batches on the calling thread.
pub trait Engine: Send {
    /// Embeds a batch of any number of rows, and returns what is known about the norms of their vectors.
    ///
    /// # Shapes
    /// - `batch`: columns in the order of [`Engine::schema`], codes below their cardinality
    /// - `out`: `[rows, dim]`, row-major, appended
    ///
    /// # Errors
    /// [`ModelError::Artifact`] for a batch of another shape or a code outside its field's
    /// cardinality, [`ModelError::Runtime`] when ONNX Runtime fails. After an error, the appended values are invalid.
    fn embed(&mut self, batch: &CodeBatch, out: &mut Vec<f32>) -> Result<Norms, ModelError>;

    /// Width of a vector.
    fn dim(&self) -> usize;

    /// Inputs in order, and the encoder state the codes must come from.
    fn schema(&self) -> &TowerSchema;
}

/// Opens an exported tower.
///
/// # Errors
/// Those of [`onnx::read`] for a file that is damaged, newer or not ours;
/// [`ModelError::RuntimeMissing`] and [`ModelError::Runtime`] for [`EngineKind::Ort`].
pub fn open(kind: EngineKind, path: &Path) -> Result<Box<dyn Engine>, ModelError> {
    Ok(match kind {
        EngineKind::Ort => Box::new(OrtTower::open(path)?.engine()?),
        EngineKind::Native | EngineKind::NativeInt16 => Box::new(open_native(kind, path)?),
    })
}

/// Opens an engine of an exported tower for each of several workers. The file is read once. Native engines share the
/// tower and its folded tables.
///
/// # Errors
/// As [`open`].
pub fn open_workers(kind: EngineKind, path: &Path, workers: usize) -> Result<Vec<Box<dyn Engine>>, ModelError> {
    let workers = 0..workers;
    match kind {
        EngineKind::Ort => {
            let tower = OrtTower::open(path)?;
            workers.map(|_| Ok(Box::new(tower.engine()?) as Box<dyn Engine>)).collect()
        }
        EngineKind::Native | EngineKind::NativeInt16 => {
            let engine = open_native(kind, path)?;
            Ok(workers.map(|_| Box::new(engine.clone()) as Box<dyn Engine>).collect())
        }
    }
}

fn open_native(kind: EngineKind, path: &Path) -> Result<NativeEngine, ModelError> {
    let tower = Arc::new(onnx::read(path)?.0);
    match kind {
        EngineKind::NativeInt16 => NativeEngine::int16(tower),
        _ => NativeEngine::new(tower),
    }
}

/// Compares an exported file with the trained tower. The file runs on ONNX Runtime, unchanged and with crossed fields,
/// and the tower on the native engine. Returns the largest absolute difference between their vectors.
///
/// # Errors
/// [`ModelError::EnginesDiffer`] when it is above `tolerance` or not a number, [`ModelError::Data`]
/// for a sample without rows, and the errors of either engine.
pub fn verify(onnx: &Path, tower: &Tower, sample: &CodeBatch, tolerance: f32) -> Result<f32, ModelError> {
    if sample.rows() == 0 {
        return Err(ModelError::Data { reason: format!("no {} rows to verify the tower with", tower.schema.side) });
    }
    let expected = native::embed(tower, sample)?.data;
    let difference = |mut engine: OrtEngine| -> Result<f32, ModelError> {
        let mut found = Vec::with_capacity(expected.len());
        engine.embed(sample, &mut found)?;
        if found.len() != expected.len() {
            return Ok(f32::INFINITY);
        }
        Ok(found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, worse))
    };
    // Each session holds the whole tower, so the first is dropped before the second is opened.
    let published = difference(OrtTower::published(onnx)?.engine()?)?;
    let difference = match OrtTower::open(onnx)? {
        tower if tower.is_crossed() => worse(published, difference(tower.engine()?)?),
        _ => published,
    };
    if difference <= tolerance {
        Ok(difference)
    } else {
        Err(ModelError::EnginesDiffer { path: onnx.to_path_buf(), difference, tolerance })
    }
}

/// The larger of two differences. NaN counts as larger than any number.
fn worse(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}
