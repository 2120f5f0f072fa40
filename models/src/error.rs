//! The errors of models: of configuration, training, export and inference.

use crate::native::INT16_TOLERANCE;
use std::path::PathBuf;
use twotower_artifacts::range::OutOfRange;
use twotower_artifacts::{ArtifactError, Category, Side};

/// Errors of training, exporting and running models.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A setting is outside its range.
    #[error("setting `{setting}`: expected {expected}, found {found}")]
    Setting {
        /// Name of the setting as the configuration spells it.
        setting: String,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The training data cannot be trained on.
    #[error("training data: {reason}")]
    Data {
        /// What was expected and found, and where.
        reason: String,
    },
    /// Parameters of two models do not fit together.
    #[error("parameter `{parameter}`: expected {expected}, found {found}; {advice}")]
    Shape {
        /// Parameter group.
        parameter: String,
        /// Shape or name expected.
        expected: String,
        /// Shape or name found.
        found: String,
        /// The next step.
        advice: &'static str,
    },
    /// A checkpoint belongs to another training run.
    #[error("resume from {path}: {reason}; delete the file to start afresh, or restore the settings it was made with", path = path.display())]
    Checkpoint {
        /// The checkpoint file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The loss, or a term of it, became NaN or infinite.
    #[error(
        "train: {term} is {value} in epoch {epoch}, step {step} (batch rows {first}..{end} of the epoch's order); lower `learning_rate` or raise `temperature`"
    )]
    NonFiniteLoss {
        /// The name of the term of the loss.
        term: String,
        /// NaN or an infinity.
        value: f64,
        /// Epoch, from 1.
        epoch: usize,
        /// Step within the epoch, from 1.
        step: usize,
        /// First position of the batch in the epoch's order.
        first: usize,
        /// One past its last position.
        end: usize,
    },
    /// The observer stopped training; the last checkpoint is written.
    #[error("train: stopped after {epoch} epochs and {step} steps; run again with resume to continue from {path}", path = checkpoint.display())]
    Stopped {
        /// Epochs done.
        epoch: usize,
        /// Steps done in the running epoch.
        step: usize,
        /// Where the state is.
        checkpoint: PathBuf,
    },
    /// A vector or score to be ranked is not finite.
    #[error("rank: {what} {row} has a non-finite score; the model has diverged or its vectors are damaged")]
    NonFiniteScore {
        /// `query` or `item`.
        what: &'static str,
        /// Row.
        row: usize,
    },
    /// The parts of a tower do not fit together.
    #[error("{side} tower: {reason}")]
    Tower {
        /// Which tower.
        side: Side,
        /// The part, what was expected and found.
        reason: String,
    },
    /// No usable ONNX Runtime library was found.
    #[error(
        "find ONNX Runtime 1.{min_minor} or newer: none of these will do: {}; run scripts/onnxruntime.sh, set ORT_DYLIB_PATH, or use `--engine native`",
        looked.join("; ")
    )]
    RuntimeMissing {
        /// Places looked at, each with what is wrong there.
        looked: Vec<String>,
        /// Oldest minor version 1.x that will do.
        min_minor: u32,
    },
    /// ONNX Runtime failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Runtime {
        /// What was attempted.
        action: &'static str,
        /// The library or the model.
        path: PathBuf,
        /// ONNX Runtime's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An exported tower does not give the trained tower's vectors.
    #[error(
        "verify {path}: its vectors on ONNX Runtime differ from the trained tower's by {difference:e}, allowed is {tolerance:e}",
        path = path.display()
    )]
    EnginesDiffer {
        /// The exported tower.
        path: PathBuf,
        /// Largest absolute difference.
        difference: f32,
        /// Largest difference allowed.
        tolerance: f32,
    },
    /// 16-bit integers are too coarse for a tower.
    #[error(
        "embed {side} rows: vectors of the engine `native-int16` differ by {difference:e} from those in 32-bit floats, allowed is {INT16_TOLERANCE:e}; use `--engine native`"
    )]
    Int16 {
        /// Which tower.
        side: Side,
        /// Largest absolute difference.
        difference: f32,
    },
    /// Reading or writing an artifact failed, or a batch does not match its schema.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl ModelError {
    /// A setting out of its range.
    pub(crate) fn range(error: OutOfRange) -> Self {
        let expected = error.expected.map_or("a setting whose range is known".into(), |range| range.to_string());
        ModelError::Setting { setting: error.setting, expected, found: error.found.to_string() }
    }

    /// A failure of ONNX Runtime on the file at `path`.
    pub(crate) fn runtime(action: &'static str, path: &std::path::Path, source: ort::Error) -> Self {
        ModelError::Runtime { action, path: path.to_path_buf(), source: source.into() }
    }

    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            ModelError::Setting { .. } => Category::Usage,
            ModelError::Data { .. } => Category::Data,
            ModelError::Shape { .. } | ModelError::Checkpoint { .. } => Category::Mismatch,
            ModelError::NonFiniteLoss { .. } | ModelError::NonFiniteScore { .. } => Category::Gate,
            ModelError::Tower { .. } => Category::Data,
            ModelError::EnginesDiffer { .. } | ModelError::Int16 { .. } => Category::Gate,
            ModelError::RuntimeMissing { .. } | ModelError::Runtime { .. } => Category::Other,
            ModelError::Stopped { .. } => Category::Other,
            ModelError::Artifact(source) => source.category(),
        }
    }
}
