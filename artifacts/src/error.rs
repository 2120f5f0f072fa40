//! The kinds of failure a script can tell apart, and the error of this crate.

use std::path::PathBuf;

/// What went wrong, as a script sees it: each category is one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// Anything else: I/O, a missing runtime, a bug (exit code 1).
    Other,
    /// Bad usage or configuration (exit code 2).
    Usage,
    /// Bad input data (exit code 3).
    Data,
    /// Artifacts that do not belong together (exit code 4).
    Mismatch,
    /// A quality gate refused the result (exit code 5).
    Gate,
}

impl Category {
    /// The documented process exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Category::Other => 1,
            Category::Usage => 2,
            Category::Data => 3,
            Category::Mismatch => 4,
            Category::Gate => 5,
        }
    }
}

/// Errors of reading and writing artifacts. Messages name the file, what was expected and found.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// An operation on a file or folder failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted, as a verb phrase: `write`, `rename to`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file exists but its content is not what its name promises.
    #[error("read {path}: {reason}; run the stage that wrote it again with --force", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A file has a format version this build cannot read.
    #[error("read {path}: format version {found}, this build reads up to {supported}; use a newer twotower", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Newest version known.
        supported: u32,
    },
    /// Two artifacts were made from different encoder states, towers or inputs.
    #[error("{what} does not belong here: expected {expected_from} {expected}, found {found_from} {found}; {advice}")]
    Mismatch {
        /// The artifact being refused.
        what: String,
        /// Where the expected fingerprint comes from.
        expected_from: String,
        /// The expected fingerprint.
        expected: String,
        /// Where the fingerprint found comes from.
        found_from: String,
        /// The fingerprint found.
        found: String,
        /// The next step.
        advice: String,
    },
    /// A code lies outside its field's vocabulary.
    #[error(
        "column `{field}`: code {code} at row {row}, cardinality {cardinality}; codes and tower come from different encoder states"
    )]
    CodeOutOfRange {
        /// Field name.
        field: String,
        /// Row within the batch.
        row: usize,
        /// The code.
        code: u32,
        /// Number of slots of the field.
        cardinality: u32,
    },
    /// A batch does not have the columns its schema promises.
    #[error("batch does not match the {side} tower's schema: {reason}")]
    BatchShape {
        /// Which tower.
        side: crate::schema::Side,
        /// Expected and found.
        reason: String,
    },
    /// A writer was handed something of the wrong length.
    #[error("write {path}: {what} has {found} elements, expected {expected}", path = path.display())]
    Length {
        /// The file being written.
        path: PathBuf,
        /// Which argument.
        what: &'static str,
        /// Elements expected.
        expected: usize,
        /// Elements found.
        found: usize,
    },
    /// A list is longer than a column can hold.
    #[error(
        "write {path}: a list of items may take {bytes} bytes, expected at most {most}; lower `recall.topk`, or give the items shorter ids",
        path = path.display()
    )]
    TooLong {
        /// The file being written.
        path: PathBuf,
        /// Bytes of the longest list.
        bytes: usize,
        /// Bytes that fit.
        most: usize,
    },
    /// A writer was handed ids of another kind than its file has.
    #[error("write {path}: {found} ids, expected {expected} ids", path = path.display())]
    IdKind {
        /// The file being written.
        path: PathBuf,
        /// Kind of the file.
        expected: crate::ids::IdKind,
        /// Kind handed over.
        found: crate::ids::IdKind,
    },
    /// Arrow or Parquet failed on a file.
    #[error("{action} {path}: {source}{advice}", path = path.display(),
        advice = if *action == "write" { "" } else { "; run the stage that wrote it again with --force" })]
    Parquet {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Their error.
        source: parquet::errors::ParquetError,
    },
}

impl ArtifactError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            ArtifactError::Mismatch { .. } | ArtifactError::CodeOutOfRange { .. } | ArtifactError::Version { .. } => {
                Category::Mismatch
            }
            ArtifactError::BatchShape { .. } | ArtifactError::IdKind { .. } => Category::Mismatch,
            ArtifactError::Corrupt { .. } | ArtifactError::Parquet { .. } => Category::Data,
            ArtifactError::TooLong { .. } => Category::Usage,
            ArtifactError::Io { .. } | ArtifactError::Length { .. } => Category::Other,
        }
    }
}
