//! The error of this crate.

use std::path::{Path, PathBuf};
use twotower_artifacts::{ArtifactError, Category};

/// Why a data set was not generated.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// A size lies outside its range.
    #[error("generate synthetic data: `{field}` is {found}, expected {least} to {most}")]
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// Its value.
        found: u64,
        /// Smallest accepted value.
        least: u64,
        /// Largest accepted value.
        most: u64,
    },
    /// The folder holds something else.
    #[error("generate synthetic data in {dir}: it holds {holds}; choose another folder or --force", dir = dir.display())]
    Occupied {
        /// The folder.
        dir: PathBuf,
        /// What was found there.
        holds: String,
    },
    /// The threads could not be started.
    #[error("start {threads} threads: {source}")]
    Threads {
        /// Number asked for; 0 is one per core.
        threads: usize,
        /// Their error.
        source: rayon::ThreadPoolBuildError,
    },
    /// Arrow refused the columns of a table.
    #[error("build rows of {path}: {source}", path = path.display())]
    Rows {
        /// The file they were meant for.
        path: PathBuf,
        /// Their error.
        source: arrow_schema::ArrowError,
    },
    /// A file could not be written, removed or read.
    #[error(transparent)]
    Artifact(Box<ArtifactError>),
}

impl SynthError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            SynthError::OutOfRange { .. } | SynthError::Occupied { .. } => Category::Usage,
            SynthError::Threads { .. } | SynthError::Rows { .. } => Category::Other,
            SynthError::Artifact(source) => match **source {
                // Nothing here reads a table: a failing Parquet writer means a failing disk.
                ArtifactError::Parquet { .. } => Category::Other,
                _ => source.category(),
            },
        }
    }
}

impl From<ArtifactError> for SynthError {
    fn from(source: ArtifactError) -> Self {
        SynthError::Artifact(Box::new(source))
    }
}

/// Wraps an I/O error with what was attempted and where.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SynthError {
    move |source| ArtifactError::Io { action, path: path.to_path_buf(), source }.into()
}
