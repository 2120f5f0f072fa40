//! Everything that can go wrong in a model: configuration, training, export and inference.

use std::path::PathBuf;
use twotower_artifacts::{ArtifactError, Category};

/// Errors of training, exporting and running models.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A setting is outside its range.
    #[error("setting `{setting}`: expected {expected}, found {found}")]
    Setting {
        /// Name of the setting as the configuration spells it.
        setting: &'static str,
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
        /// Which term of the loss.
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
    /// A vector or score to be ranked is not finite.
    #[error("rank: {what} {row} has a non-finite score; the model has diverged or its vectors are damaged")]
    NonFiniteScore {
        /// `query` or `item`.
        what: &'static str,
        /// Row.
        row: usize,
    },
    /// Reading or writing an artifact failed, or a batch does not match its schema.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl ModelError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            ModelError::Setting { .. } => Category::Usage,
            ModelError::Data { .. } => Category::Data,
            ModelError::Shape { .. } | ModelError::Checkpoint { .. } => Category::Mismatch,
            ModelError::NonFiniteLoss { .. } | ModelError::NonFiniteScore { .. } => Category::Gate,
            ModelError::Artifact(source) => source.category(),
        }
    }
}
