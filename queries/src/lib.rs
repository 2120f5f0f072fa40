//! Counts for a profile of tables, with polars: values, numbers, events of users and items, segments.
//!
//! Rows reach this crate as staged Parquet files, whatever format the tables had. polars scans single columns of them,
//! so they may be larger than memory. This is the only crate that depends on polars.

mod profile;
mod query;

pub use profile::{Histogram, Keys, PERCENTILES, Pass, RowsEach, Spread, TextCounts, percentiles, segments};

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
    /// A result is not as expected.
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
            QueryError::Polars { .. } | QueryError::Result { .. } => Category::Other,
        }
    }
}
