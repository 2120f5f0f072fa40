//! The row's own id as a categorical feature.
//!
//! Ids are keys. They are features only where the configuration says so. On the item side, the vocabulary is the one
//! that sequence features use, unless `table` names another. Each row of the table counts once.

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
