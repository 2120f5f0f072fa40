//! Sequence features: the user's most recent items, oldest first.
//!
//! They read no column. Their rows are filled from interactions, with codes of the vocabulary of item ids
//! ([`crate::EncoderState::item_code`]). The encoder gives the schema its field, and each user an empty row.

use serde::{Deserialize, Serialize};
use twotower_artifacts::{IntervalScale, Intervals};

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
    /// The scale of the time between items, where models read it; the order of the items alone when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<IntervalScale>,
    /// The longest interval, as which longer ones count; 256 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<u32>,
}

impl SequenceSpec {
    /// The longest interval where none is given, as in the authors' code of TiSASRec.
    const SPAN: u32 = 256;

    /// What of the time between items is read.
    pub fn intervals(&self) -> Option<Intervals> {
        self.intervals.map(|scale| Intervals { scale, span: self.span.unwrap_or(Self::SPAN) })
    }

    /// What is wrong with it by itself.
    pub(crate) fn problem(&self) -> Option<String> {
        match (self.intervals, self.span) {
            (None, Some(_)) => Some("`span` needs `intervals`, the scale on which it is counted".into()),
            (_, Some(span)) if !(1..=Intervals::MAX_SPAN).contains(&span) => {
                Some(format!("`span` is {span}, expected 1 to {}", Intervals::MAX_SPAN))
            }
            _ => None,
        }
    }
}

fn default_max_len() -> u32 {
    50
}
