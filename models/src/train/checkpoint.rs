//! Checkpoints: everything a run needs to go on as if it had never stopped, in one file.

use super::config::TrainConfig;
use super::report::EpochReport;
use crate::error::ModelError;
use crate::examples::TrainingSet;
use crate::model::ModelConfig;
use crate::optimiser::Adam;
use crate::params::Parameters;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use twotower_artifacts::codec::{read_versioned, write_versioned};

const MAGIC: &str = "TTCKPT";
const VERSION: u32 = 1;

/// File of the newest state within a training folder.
pub fn last_path(dir: &Path) -> PathBuf {
    dir.join("last.ckpt")
}

/// File of the best epoch's parameters within a training folder.
pub fn best_path(dir: &Path) -> PathBuf {
    dir.join("best.ckpt")
}

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// Steps done in the running epoch.
    pub step: usize,
    /// Sum of the running epoch's losses, weighted by batch rows.
    pub loss_sum: f64,
    /// Reports of the epochs done.
    pub epochs: Vec<EpochReport>,
    /// Epoch (from 1) with the best metric; 0 = none yet.
    pub best_epoch: usize,
    /// Its metric.
    pub best_metric: f64,
    /// Training ended: all epochs done, or stopped early.
    pub finished: bool,
}

/// A state of training. The best epoch's, and the last one of a finished run, carry no optimiser.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What the run is: settings and data, in JSON, for comparison at resume.
    pub run: String,
    /// All parameters.
    pub parameters: Parameters,
    /// Moments of the optimiser.
    pub optimiser: Option<Adam>,
    /// Where the run stands.
    pub progress: Progress,
}

/// The same, borrowed for writing.
#[derive(Serialize)]
struct CheckpointRef<'a> {
    run: &'a str,
    parameters: &'a Parameters,
    optimiser: Option<&'a Adam>,
    progress: &'a Progress,
}

/// Writes a checkpoint: complete under its name, or absent.
///
/// # Errors
/// [`ModelError::Artifact`] when the file cannot be written.
pub fn write(
    path: &Path,
    run: &str,
    parameters: &Parameters,
    optimiser: Option<&Adam>,
    progress: &Progress,
) -> Result<(), ModelError> {
    Ok(write_versioned(path, MAGIC, VERSION, &CheckpointRef { run, parameters, optimiser, progress })?)
}

/// Reads a checkpoint.
///
/// # Errors
/// [`ModelError::Artifact`] when the file is missing, damaged or newer than this build.
pub fn read(path: &Path) -> Result<Checkpoint, ModelError> {
    Ok(read_versioned(path, MAGIC, VERSION)?.1)
}

/// What a run is, for comparison at resume; thread counts and checkpoint intervals are free to change.
pub fn describe(set: &TrainingSet, model: &ModelConfig, config: &TrainConfig) -> String {
    let config = TrainConfig { threads: 0, checkpoint_steps: 0, ..config.clone() };
    let mut hasher = blake3::Hasher::new();
    set.interactions.items.iter().for_each(|item| {
        hasher.update(&item.to_le_bytes());
    });
    set.interactions.weights.iter().for_each(|weight| {
        hasher.update(&weight.to_le_bytes());
    });
    set.interactions.offsets.iter().for_each(|offset| {
        hasher.update(&offset.to_le_bytes());
    });
    set.roles.iter().for_each(|role| {
        hasher.update(&[*role as u8]);
    });
    serde_json::json!({
        "model": model,
        "train": config,
        "encoder": set.user_schema.encoder,
        "users": set.users.rows(),
        "items": set.items.rows(),
        "interactions": hasher.finalize().to_hex()[..32].to_string(),
    })
    .to_string()
}

/// Checks that a checkpoint belongs to the run about to resume.
///
/// # Errors
/// [`ModelError::Checkpoint`] naming the first part that differs.
pub fn check_run(path: &Path, found: &str, expected: &str) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    let reason =
        first_difference("", &parse(expected), &parse(found)).unwrap_or_else(|| "it describes another run".into());
    Err(ModelError::Checkpoint { path: path.to_path_buf(), reason })
}

fn first_difference(name: &str, expected: &serde_json::Value, found: &serde_json::Value) -> Option<String> {
    match (expected.as_object(), found.as_object()) {
        (Some(expected), Some(found)) => expected.iter().find_map(|(key, value)| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            first_difference(&name, value, found.get(key).unwrap_or(&serde_json::Value::Null))
        }),
        _ => (expected != found).then(|| format!("`{name}` is {expected} now and was {found}")),
    }
}
