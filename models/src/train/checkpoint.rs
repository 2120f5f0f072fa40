//! Checkpoints: everything a run needs to go on as if it had never stopped, in one file.

use super::config::TrainConfig;
use super::report::EpochReport;
use crate::error::ModelError;
use crate::examples::TrainingSet;
use crate::metrics::Metrics;
use crate::model::{ModelConfig, Terms};
use crate::optimiser::Adam;
use crate::params::Parameters;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use twotower_artifacts::codec::{read_versioned, version, write_versioned};

const MAGIC: &str = "TTCKPT";
const VERSION: u32 = 2;

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
    /// Sum of the running epoch's losses, weighted by windows.
    pub loss_sum: f64,
    /// The same of each of its terms, with the last step's weights.
    pub terms: Terms,
    /// Reports of the epochs done.
    pub epochs: Vec<EpochReport>,
    /// Epoch (from 1) with the best metric; 0 = none yet.
    pub best_epoch: usize,
    /// Its metric.
    pub best_metric: f64,
    /// Training ended: all epochs done, or stopped early.
    pub finished: bool,
}

/// A state of training. The best epoch's, and the last one of a finished run, carry neither the optimiser nor the
/// model's state.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checkpoint<S> {
    /// What the run is: settings and data, in JSON, for comparison at resume.
    pub run: String,
    /// All parameters.
    pub parameters: Parameters,
    /// What further steps need.
    pub going_on: Option<GoingOn<S>>,
    /// Where the run stands.
    pub progress: Progress,
}

/// What only a run that goes on needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct GoingOn<S> {
    /// Moments of the optimiser.
    pub optimiser: Adam,
    /// [`crate::model::Model::State`].
    pub state: S,
}

/// A checkpoint, borrowed for writing.
#[derive(Serialize)]
struct CheckpointRef<'a, S> {
    run: &'a str,
    parameters: &'a Parameters,
    going_on: Option<(&'a Adam, &'a S)>,
    progress: &'a Progress,
}

/// Checkpoints as version 1 had them: of a model without a state, and of a loss of one term without a name.
#[derive(Deserialize)]
struct First {
    run: String,
    parameters: Parameters,
    optimiser: Option<Adam>,
    progress: FirstProgress,
}

#[derive(Deserialize)]
struct FirstProgress {
    epoch: usize,
    step: usize,
    loss_sum: f64,
    epochs: Vec<FirstEpoch>,
    best_epoch: usize,
    best_metric: f64,
    finished: bool,
}

#[derive(Deserialize)]
struct FirstEpoch {
    epoch: usize,
    loss: f64,
    temperature: f64,
    validation: Option<Metrics>,
}

impl FirstProgress {
    fn today(self) -> Progress {
        let epoch = |FirstEpoch { epoch, loss, temperature, validation }| EpochReport {
            epoch,
            loss,
            terms: Terms::default(),
            temperature: Some(temperature),
            validation,
        };
        let Self { epoch: done, step, loss_sum, epochs, best_epoch, best_metric, finished } = self;
        let epochs = epochs.into_iter().map(epoch).collect();
        Progress { epoch: done, step, loss_sum, terms: Terms::default(), epochs, best_epoch, best_metric, finished }
    }
}

/// Writes a checkpoint: complete under its name, or absent.
///
/// # Errors
/// [`ModelError::Artifact`] when the file cannot be written.
pub fn write<S: Serialize>(
    path: &Path,
    run: &str,
    parameters: &Parameters,
    going_on: Option<(&Adam, &S)>,
    progress: &Progress,
) -> Result<(), ModelError> {
    Ok(write_versioned(path, MAGIC, VERSION, &CheckpointRef { run, parameters, going_on, progress })?)
}

/// Reads a checkpoint of a model with the state `S`. One of version 1 can be started from, but a run that it was to go
/// on with ends there.
///
/// # Errors
/// [`ModelError::Artifact`] when the file is missing, damaged or newer than this build; [`ModelError::Checkpoint`] for
/// one of version 1 in the midst of a run.
pub fn read<S: DeserializeOwned>(path: &Path) -> Result<Checkpoint<S>, ModelError> {
    if version(path, MAGIC)? != 1 {
        return Ok(read_versioned(path, MAGIC, VERSION)?.1);
    }
    let First { run, parameters, optimiser, progress } = read_versioned(path, MAGIC, 1)?.1;
    match optimiser {
        None => Ok(Checkpoint { run, parameters, going_on: None, progress: progress.today() }),
        Some(_) => Err(ModelError::Checkpoint {
            path: path.to_path_buf(),
            reason: format!(
                "it is of version 1, in the midst of a run, which this build, of version {VERSION}, cannot go on with; end the run with the build that began it, or train anew"
            ),
        }),
    }
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
