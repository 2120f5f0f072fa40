//! Inference engines: one exported tower, one interface, three ways to run it.
//!
//! - [`EngineKind::Ort`]: ONNX Runtime, loaded from a shared library ([`library`]) at run time.
//! - [`EngineKind::Native`]: the training kernels ([`crate::native`]); needs no library.
//! - [`EngineKind::NativeInt16`]: the same with matrix products of 16-bit integers.
//!
//! Of a bag or sequence the newest (last) `max_len` real elements of a row count, as in training.
//! An engine belongs to one worker thread. In all, the bits of a row's vector depend on that row
//! and the tower alone, not on the rows it shares a batch with; between them they differ in the
//! last digits, so vectors of unlike engines must not be mixed.

pub mod library;
mod runtime;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

pub use runtime::{CROSS_LIMIT, OrtEngine, OrtTower};

use crate::error::ModelError;
use crate::native::{self, NativeEngine};
use crate::onnx;
use crate::tower::Tower;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::{CodeBatch, TowerSchema};

/// Which engine embeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// ONNX Runtime.
    #[default]
    Ort,
    /// The training kernels.
    Native,
    /// The training kernels, with matrix products of 16-bit integers: faster, and off by some 1e-4 a value.
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

/// What an engine knows of the vectors that it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// All were divided by their norm, which was finite and not zero.
    Unit,
    /// Nothing.
    Unknown,
}

impl Norms {
    /// Of these vectors and others.
    pub(crate) fn and(self, other: Self) -> Self {
        if self == Norms::Unit { other } else { self }
    }
}

/// A tower ready to embed batches on the calling thread.
pub trait Engine: Send {
    /// Embeds a batch of any number of rows, and says what is known of their norms.
    ///
    /// # Shapes
    /// - `batch`: columns in the order of [`Engine::schema`], codes below their cardinality
    /// - `out`: `[rows, dim]`, row-major, appended
    ///
    /// # Errors
    /// [`ModelError::Artifact`] for a batch of another shape or a code outside its field's
    /// cardinality, [`ModelError::Runtime`] when ONNX Runtime fails. After an error, what was appended means nothing.
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

/// Opens an exported tower for several workers, an engine for each, from one reading of the file; native engines share
/// the tower and its folded tables.
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

/// Runs the ONNX file on ONNX Runtime, as it is and crossed, and the trained tower on the native engine, and returns the
/// largest absolute difference between their vectors.
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
    // One after the other: a session holds the tower.
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

/// The larger difference; one that is not a number is worse than any.
fn worse(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}
