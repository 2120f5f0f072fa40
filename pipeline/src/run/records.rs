//! Settings that later stages read back from the manifest of an earlier one, through
//! [`settings`](super::manifests::settings). Each type names what is read of a stage's settings and no more, so that
//! manifests of versions with other settings can be read. A setting that some versions lack is optional.

use crate::config::split::SplitConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use twotower_artifacts::{IdKind, NeighbourFormat, Precision, Side};
use twotower_index::IndexConfig;
use twotower_models::engine::EngineKind;

/// Settings of `encode-features`.
#[derive(Debug, Deserialize)]
pub(crate) struct EncodeRecord {
    pub(crate) tables: TablesRecord,
    /// Features of both sides, as they stand in the manifest.
    pub(crate) features: Value,
}

/// How the tables of a job were read.
#[derive(Debug, Deserialize)]
pub(crate) struct TablesRecord {
    pub(crate) users: EntityRecord,
    pub(crate) items: EntityRecord,
    pub(crate) interactions: InteractionsRecord,
}

/// How a table of users or items was read.
#[derive(Debug, Deserialize)]
pub(crate) struct EntityRecord {
    /// Column of the row's id.
    pub(crate) id: String,
}

/// How a table of interactions was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct InteractionsRecord {
    /// Column of the user's id.
    pub(crate) user: String,
    /// Column of the item's id.
    pub(crate) item: String,
    /// Column of the weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<String>,
    /// Times, place and form of the table.
    #[serde(flatten)]
    pub(crate) others: Map<String, Value>,
}

impl InteractionsRecord {
    /// The same without the path. What lies there has a fingerprint, so that it does not matter where.
    pub(crate) fn without_path(mut self) -> Self {
        self.others.shift_remove("path");
        self
    }
}

impl TablesRecord {
    /// Column of a side's ids.
    pub(crate) fn id(&self, side: Side) -> &str {
        match side {
            Side::User => &self.users.id,
            Side::Item => &self.items.id,
        }
    }
}

/// Settings of `train`.
#[derive(Debug, Deserialize)]
pub(crate) struct TrainRecord {
    /// How positives were held out.
    pub(crate) split: SplitConfig,
}

/// Settings of `infer`.
#[derive(Debug, Deserialize)]
pub(crate) struct InferRecord {
    pub(crate) side: Side,
    /// Column of the rows' ids.
    pub(crate) id: Option<String>,
    /// Kind of the ids.
    pub(crate) ids: IdKind,
    /// What ran the tower.
    pub(crate) engine: EngineKind,
    /// How vectors are stored.
    pub(crate) precision: Precision,
    /// Whether a hash of each row is kept.
    #[serde(default)]
    pub(crate) row_hashes: bool,
}

/// Settings of `recall`.
#[derive(Debug, Deserialize)]
pub(crate) struct RecallRecord {
    pub(crate) recall: RetrievalRecord,
    /// What made the item vectors.
    pub(crate) engine: Option<EngineKind>,
    /// Whether a hash of what each list was made from is kept.
    #[serde(default)]
    pub(crate) row_hashes: bool,
    /// How users were embedded on the way.
    pub(crate) embed: Option<EmbedRecord>,
}

/// What was retrieved for each user.
#[derive(Debug, Deserialize)]
pub(crate) struct RetrievalRecord {
    /// The most items of a user.
    pub(crate) topk: usize,
    /// Whether users were embedded on the way.
    #[serde(default)]
    pub(crate) fused: bool,
    /// Whether items that a user has seen were left out.
    #[serde(default)]
    pub(crate) exclude_seen: bool,
    /// The form of the results.
    pub(crate) format: NeighbourFormat,
}

/// How users were embedded on the way to their items.
#[derive(Debug, Deserialize)]
pub(crate) struct EmbedRecord {
    /// Column of the users' ids.
    pub(crate) id: Option<String>,
    /// What ran the tower.
    pub(crate) engine: Option<EngineKind>,
}

/// Settings of building the item index.
#[derive(Debug, Deserialize)]
pub(crate) struct IndexRecord {
    pub(crate) index: IndexConfig,
}
