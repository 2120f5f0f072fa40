//! Checkpoints: everything that a run needs to go on as if it had never stopped, in one file.

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

/// Path of the file with the newest state in a training folder.
pub fn last_path(dir: &Path) -> PathBuf {
    dir.join("last.ckpt")
}

/// Path of the file with the best epoch's parameters in a training folder.
pub fn best_path(dir: &Path) -> PathBuf {
    dir.join("best.ckpt")
}

/// The progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// Steps done in the running epoch.
    pub step: usize,
    /// Sum of the running epoch's losses, each multiplied by its number of targets.
    pub loss_sum: f64,
    /// The same sum for each term of the loss, with the weights of the last step.
    pub terms: Terms,
    /// Reports of the epochs done.
    pub epochs: Vec<EpochReport>,
    /// Epoch with the best metric, counted from 1. 0 means none yet.
    pub best_epoch: usize,
    /// The metric of that epoch.
    pub best_metric: f64,
    /// Whether training has ended, after all epochs or early.
    pub finished: bool,
}

/// A state of training. Only states from which a run may go on include the optimiser and the model's state. The best
/// epoch's and the last one of a finished run do not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checkpoint<S> {
    /// Description of the run's settings and data as JSON, compared when a run is resumed.
    pub run: String,
    /// All parameters.
    pub(crate) parameters: Parameters,
    /// What further steps need, unless the run is finished.
    pub(crate) resume_state: Option<ResumeState<S>>,
    /// The progress of the run.
    pub(crate) progress: Progress,
}

/// What a run needs, beside the parameters, to go on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResumeState<S> {
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
    resume_state: Option<(&'a Adam, &'a S)>,
    progress: &'a Progress,
}

/// A checkpoint of version 1, when models had no state, and losses had one term without a name.
#[derive(Deserialize)]
struct CheckpointV1 {
    run: String,
    parameters: Parameters,
    optimiser: Option<Adam>,
    progress: ProgressV1,
}

#[derive(Deserialize)]
struct ProgressV1 {
    epoch: usize,
    step: usize,
    loss_sum: f64,
    epochs: Vec<EpochV1>,
    best_epoch: usize,
    best_metric: f64,
    finished: bool,
}

#[derive(Deserialize)]
struct EpochV1 {
    epoch: usize,
    loss: f64,
    temperature: f64,
    validation: Option<Metrics>,
}

impl ProgressV1 {
    fn upgrade(self) -> Progress {
        let epoch = |EpochV1 { epoch, loss, temperature, validation }| EpochReport {
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
pub(crate) fn write<S: Serialize>(
    path: &Path,
    run: &str,
    parameters: &Parameters,
    resume_state: Option<(&Adam, &S)>,
    progress: &Progress,
) -> Result<(), ModelError> {
    Ok(write_versioned(path, MAGIC, VERSION, &CheckpointRef { run, parameters, resume_state, progress })?)
}

/// Reads a checkpoint of a model with the state `S`. Of version 1, only checkpoints without an optimiser are read, from
/// which a new run can start. A run of version 1 cannot be resumed.
///
/// # Errors
/// [`ModelError::Artifact`] when the file is missing, damaged or newer than this build; [`ModelError::Checkpoint`] for
/// an unfinished run of version 1.
pub fn read<S: DeserializeOwned>(path: &Path) -> Result<Checkpoint<S>, ModelError> {
    if version(path, MAGIC)? != 1 {
        return Ok(read_versioned(path, MAGIC, VERSION)?.1);
    }
    let CheckpointV1 { run, parameters, optimiser, progress } = read_versioned(path, MAGIC, 1)?.1;
    match optimiser {
        None => Ok(Checkpoint { run, parameters, resume_state: None, progress: progress.upgrade() }),
        Some(_) => Err(ModelError::Checkpoint {
            path: path.to_path_buf(),
            reason: format!(
                "it is of version 1 and of an unfinished run, which this build, of version {VERSION}, cannot resume; finish the run with the build that began it, or train anew"
            ),
        }),
    }
}

/// Describes a run for comparison when it is resumed. The number of threads and the interval of checkpoints are left
/// out, since they may change.
pub(crate) fn describe(set: &TrainingSet, model: &ModelConfig, config: &TrainConfig) -> String {
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
pub(crate) fn check_run(path: &Path, found: &str, expected: &str) -> Result<(), ModelError> {
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
