//! The stages of a run by name.

use serde::{Deserialize, Serialize};

/// A stage of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Vocabularies, bounds and encoded tables.
    EncodeFeatures,
    /// The towers.
    Train,
    /// Vectors of items.
    InferItems,
    /// Vectors of users.
    InferUsers,
    /// Items for each user.
    Recall,
    /// Metrics.
    Evaluate,
    /// Gates, before the run is published.
    Check,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 7] = [
        Stage::EncodeFeatures,
        Stage::Train,
        Stage::InferItems,
        Stage::InferUsers,
        Stage::Recall,
        Stage::Evaluate,
        Stage::Check,
    ];

    /// The name as typed and printed.
    pub fn name(self) -> &'static str {
        match self {
            Stage::EncodeFeatures => "encode-features",
            Stage::Train => "train",
            Stage::InferItems => "infer-items",
            Stage::InferUsers => "infer-users",
            Stage::Recall => "recall",
            Stage::Evaluate => "evaluate",
            Stage::Check => "check",
        }
    }
}
