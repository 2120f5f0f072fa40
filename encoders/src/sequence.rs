//! Sequence features: the user's most recent items, oldest first.
//!
//! They read no column. Their rows are filled from interactions, with codes of the vocabulary of item ids
//! ([`crate::EncoderState::item_code`]). The encoder gives the schema its field, and each user an empty row.

use serde::{Deserialize, Serialize};

/// Configuration of a sequence feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceSpec {
    /// The feature's name.
    pub name: String,
    /// The most recent items kept.
    #[serde(default = "default_max_len")]
    pub max_len: u32,
    /// Vocabulary of item ids and embedding table; `item_id` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

fn default_max_len() -> u32 {
    50
}
