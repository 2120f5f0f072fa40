//! Queries over interactions, in polars: distinct users, joins to encoded rows, time order.
//!
//! Interactions reach this crate as a staged Parquet file with the columns of [`STAGED`], whatever
//! format the table had; polars scans it, so the file may be larger than memory's comfort. This is
//! the only crate that depends on polars.

mod events;

pub use events::{EventCounts, Identity, STAGED, Strangers, distinct_users, join_events};

use std::path::PathBuf;
use twotower_artifacts::Category;

/// Errors of running a query.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// polars failed.
    #[error("{query} over {path}: {source}", path = path.display())]
    Polars {
        /// What the query computes.
        query: &'static str,
        /// The staged file.
        path: PathBuf,
        /// polars' error.
        source: polars::error::PolarsError,
    },
    /// The ids of two tables have different types.
    #[error(
        "join interactions to {table}: ids are {expected} in {table}, {found} in interactions; give both tables one id type"
    )]
    IdType {
        /// `users` or `items`.
        table: &'static str,
        /// Type in the table.
        expected: String,
        /// Type in the interactions.
        found: String,
    },
    /// A result does not fit the artifact's types.
    #[error("{query} over {path}: {reason}", path = path.display())]
    Result {
        /// What the query computes.
        query: &'static str,
        /// The staged file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
}

impl QueryError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            QueryError::IdType { .. } => Category::Data,
            QueryError::Polars { .. } | QueryError::Result { .. } => Category::Other,
        }
    }
}
