//! The error of this crate.

use std::path::PathBuf;
use twotower_artifacts::Category;
use twotower_encoders::EncoderError;
use twotower_index::IndexError;
use twotower_models::ModelError;

/// Errors of reading a job. Messages name the setting, what was expected and found.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The file could not be read or understood.
    #[error("config {path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Position, expected and found, nearest valid name.
        reason: String,
    },
    /// Features that do not fit together.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// Settings of the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Settings of the index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl ConfigError {
    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// The exit-code category: whatever is wrong with a job file is its writer's to mend.
    pub fn category(&self) -> Category {
        Category::Usage
    }
}
