//! The row's own id as a categorical feature.
//!
//! Ids are keys; they are features only where the configuration says so. The vocabulary is the one
//! that sequence features use for the item side, unless a `table` says otherwise. Each row of the
//! table counts once, and so does each interaction that [`crate::EncoderFit::count_ids`] is given.

use serde::{Deserialize, Serialize};

/// Configuration of an id feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdSpec {
    /// The feature's name; it reads the side's id column.
    pub name: String,
    /// Ids counted less often are unknown.
    #[serde(default = "crate::spec::one")]
    pub min_count: u64,
    /// The most ids kept; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
    /// Vocabulary and embedding table; `user_id` or `item_id` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}
