//! What can go wrong while checking, fitting, encoding, saving and loading encoders.

use arrow_schema::DataType;
use std::path::PathBuf;
use twotower_artifacts::{ArtifactError, Category, Fingerprint, Side};

/// Errors of the encoders. Rows are counted from 0 within the batch that was passed in;
/// [`EncoderError::with_first_row`] turns them into rows of the table.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// A feature's configuration makes no sense.
    #[error("check {side} feature `{feature}`: {reason}")]
    Spec {
        /// The side that has the feature.
        side: Side,
        /// Its name.
        feature: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// A side has no features at all.
    #[error("check {side} features: there are none, a tower needs at least one; add a feature or `kind = \"id\"`")]
    NoFeatures {
        /// The side.
        side: Side,
    },
    /// A table lacks a column that a feature reads.
    #[error("read {side} feature `{feature}`: no column `{column}`; the table has {}", list(found))]
    MissingColumn {
        /// The side that has the feature.
        side: Side,
        /// The feature.
        feature: String,
        /// The column it reads.
        column: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A column's type cannot be read by the feature's kind.
    #[error("read {side} feature `{feature}`: column `{column}` is {found}, a {kind} feature takes {expected}")]
    ColumnType {
        /// The side that has the feature.
        side: Side,
        /// The feature.
        feature: String,
        /// Its kind.
        kind: &'static str,
        /// The column it reads.
        column: String,
        /// The column's type.
        found: DataType,
        /// The types the kind takes.
        expected: &'static str,
    },
    /// A vector does not have the configured number of elements.
    #[error(
        "encode {side} feature `{feature}`: column `{column}`, row {row}: vector of {found} elements, expected {expected}"
    )]
    VectorLength {
        /// The side that has the feature.
        side: Side,
        /// The feature.
        feature: String,
        /// The column it reads.
        column: String,
        /// The row.
        row: u64,
        /// The configured `dim`.
        expected: u32,
        /// Elements found.
        found: usize,
    },
    /// A vector holds NaN, an infinity or a null.
    #[error(
        "encode {side} feature `{feature}`: column `{column}`, row {row}: element {position} is not a finite number"
    )]
    VectorElement {
        /// The side that has the feature.
        side: Side,
        /// The feature.
        feature: String,
        /// The column it reads.
        column: String,
        /// The row.
        row: u64,
        /// Position in the vector, from 0.
        position: usize,
    },
    /// A vocabulary outgrew 32-bit codes.
    #[error(
        "finish vocabulary `{table}`: {distinct} values exceed the 32-bit codes; set max_size or min_count, or use a hashed feature"
    )]
    TooManyValues {
        /// The vocabulary.
        table: String,
        /// Distinct values kept.
        distinct: usize,
    },
    /// The values of a vocabulary do not fit the memory budget.
    #[error(
        "finish vocabulary `{table}` of {}: {values} values need {} MiB, {} MiB of the memory budget are left; set max_size or min_count, use kind = \"hashed\", or raise the budget",
        list(columns), mebibytes(*bytes), mebibytes(*left)
    )]
    VocabularyTooLarge {
        /// The vocabulary.
        table: String,
        /// The columns whose values it holds.
        columns: Vec<String>,
        /// Values that would enter it.
        values: usize,
        /// Bytes that building it would take.
        bytes: usize,
        /// Bytes left for it.
        left: usize,
    },
    /// Counts of values could not be kept in a temporary file.
    #[error("count values: {action} in {dir}: {source}; free disk space or name another folder for temporary files", dir = dir.display())]
    Spill {
        /// What was attempted.
        action: &'static str,
        /// The folder.
        dir: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Yesterday's encoders and today's configuration differ, so they cannot be extended.
    #[error(
        "update the encoders: {side} feature `{feature}` {reason}, and codes would change their meaning; start from new vocabularies: `run` without --update-from, or `encode-features` without --update"
    )]
    SpecChanged {
        /// The side that has the feature.
        side: Side,
        /// The feature.
        feature: String,
        /// What changed.
        reason: String,
    },
    /// What was read is not what the manifest promises.
    #[error(
        "load {path}: {what} has fingerprint {found}, the manifest says {expected}; the file was changed or belongs to another run, encode again",
        path = path.display()
    )]
    FingerprintMismatch {
        /// The file.
        path: PathBuf,
        /// The thing that was fingerprinted.
        what: String,
        /// The manifest's fingerprint.
        expected: Fingerprint,
        /// That of the content read.
        found: Fingerprint,
    },
    /// The manifest is damaged.
    #[error("load {path}: {reason}", path = path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// Reading or writing a file failed.
    #[error(transparent)]
    Artifact(Box<ArtifactError>),
}

impl From<ArtifactError> for EncoderError {
    fn from(error: ArtifactError) -> Self {
        EncoderError::Artifact(Box::new(error))
    }
}

impl EncoderError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            EncoderError::Spec { .. }
            | EncoderError::NoFeatures { .. }
            | EncoderError::TooManyValues { .. }
            | EncoderError::VocabularyTooLarge { .. } => Category::Usage,
            EncoderError::Spill { .. } => Category::Other,
            EncoderError::MissingColumn { .. }
            | EncoderError::ColumnType { .. }
            | EncoderError::VectorLength { .. }
            | EncoderError::VectorElement { .. }
            | EncoderError::Manifest { .. } => Category::Data,
            EncoderError::SpecChanged { .. } | EncoderError::FingerprintMismatch { .. } => Category::Mismatch,
            EncoderError::Artifact(source) => source.category(),
        }
    }

    /// The same error with its row counted from the start of a table, where `first` is the
    /// table row of the batch's row 0.
    pub fn with_first_row(mut self, first: u64) -> Self {
        if let EncoderError::VectorLength { row, .. } | EncoderError::VectorElement { row, .. } = &mut self {
            *row += first;
        }
        self
    }
}

/// For messages, to a tenth.
fn mebibytes(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn list(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// What one feature's encoder finds wrong with a column; [`EncoderError`] adds the names.
#[derive(Debug)]
pub(crate) enum ColumnError {
    Type,
    Length { row: usize, expected: u32, found: usize },
    Element { row: usize, position: usize },
}
