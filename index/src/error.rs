//! The error of this crate.

use crate::config::IndexKind;
use std::path::PathBuf;
use twotower_artifacts::range::OutOfRange;
use twotower_artifacts::{ArtifactError, Category};

/// Errors of building, storing and searching an item index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A setting of [`IndexConfig`](crate::IndexConfig) is out of range.
    #[error("index setting {0}")]
    Setting(OutOfRange),
    /// There are no items to index.
    #[error("build the item index: there are no item vectors; check that the item table has rows")]
    Empty,
    /// More items or links than row numbers and link counts of 32 bits can hold.
    #[error("build the item index: {count} {what}, at most {limit} can be indexed")]
    TooLarge {
        /// Items, or links of one layer.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// The number of values is not a multiple of the dimension.
    #[error("{what} vectors: {values} values are not a whole number of rows of {dim}")]
    Shape {
        /// `item` or `query`.
        what: &'static str,
        /// Values given.
        values: usize,
        /// Expected dimension.
        dim: usize,
    },
    /// A NaN or an infinity in a vector.
    #[error("{what} vectors: {value} at row {row}, position {position}; the tower that made it has diverged")]
    NotFinite {
        /// `item` or `query`.
        what: &'static str,
        /// Row of the vector.
        row: usize,
        /// Position within the row.
        position: usize,
        /// The value.
        value: f32,
    },
    /// A vector that is zero or far from unit length.
    #[error("{what} vectors: norm {norm} at row {row}, expected 1 within 0.001; vectors must be L2-normalised")]
    NotUnit {
        /// `item` or `query`.
        what: &'static str,
        /// Row of the vector.
        row: usize,
        /// Its norm.
        norm: f64,
    },
    /// A search for zero neighbours.
    #[error("search the item index: top-k is 0, expected at least 1")]
    ZeroTopK,
    /// Exclusion lists for another number of queries.
    #[error("search the item index: {found} exclusion lists for {queries} queries")]
    ExclusionCount {
        /// Queries given.
        queries: usize,
        /// Lists given.
        found: usize,
    },
    /// An exclusion list that is not ascending or names a row the index does not have.
    #[error(
        "search the item index: exclusions of query {query}: item row {row}, expected ascending rows below {count}"
    )]
    Exclusion {
        /// Row of the query.
        query: usize,
        /// The row at fault.
        row: u32,
        /// Items of the index.
        count: usize,
    },
    /// An eligibility made for another number of items.
    #[error("search the item index: eligibility of {found} items for an index of {count}")]
    EligibilitySize {
        /// Items of the index.
        count: usize,
        /// Items of the eligibility.
        found: usize,
    },
    /// The graph does not find enough of what exact search finds.
    #[error(
        "build the item index: recall@{depth} {measured:.4} over {users} users at ef_search {ef_search}, required {required}; raise `m` or `ef_construction`, or use kind = \"exact\""
    )]
    RecallTooLow {
        /// Share of the exact neighbours found.
        measured: f64,
        /// `min_index_recall`.
        required: f64,
        /// Neighbours per query in the measurement.
        depth: usize,
        /// Users in the measurement.
        users: usize,
        /// Search width of the measurement.
        ef_search: usize,
    },
    /// A graph without queries to measure it on.
    #[error("build the item index: a graph is measured on vectors of users, and there are none")]
    NoSample,
    /// The observer asked to stop.
    #[error("build the item index: stopped on request")]
    Stopped,
    /// Memory for the index could not be had.
    #[error("allocate {bytes} bytes for the item index: {source}")]
    Memory {
        /// Bytes wanted.
        bytes: usize,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The manifest of a stored index contradicts its content.
    #[error("read {path}: the manifest says {expected}, the index is {found}; build it again", path = path.display())]
    Kind {
        /// The index file.
        path: PathBuf,
        /// Kind in the manifest.
        expected: IndexKind,
        /// Kind of the content.
        found: IndexKind,
    },
    /// Reading or writing files failed, or their content is not what it should be.
    #[error(transparent)]
    Artifact(Box<ArtifactError>),
}

impl From<ArtifactError> for IndexError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(Box::new(error))
    }
}

impl IndexError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            IndexError::Setting(_) | IndexError::ZeroTopK => Category::Usage,
            IndexError::Empty | IndexError::NoSample | IndexError::NotFinite { .. } | IndexError::NotUnit { .. } => {
                Category::Data
            }
            IndexError::Shape { .. }
            | IndexError::Exclusion { .. }
            | IndexError::ExclusionCount { .. }
            | IndexError::EligibilitySize { .. }
            | IndexError::Kind { .. } => Category::Mismatch,
            IndexError::RecallTooLow { .. } => Category::Gate,
            IndexError::TooLarge { .. } | IndexError::Stopped | IndexError::Memory { .. } => Category::Other,
            IndexError::Artifact(e) => e.category(),
        }
    }
}
