//! What each stage records about its output beside files, inputs, settings and rows: the `details` of its manifest.
//!
//! A stage writes its type here as it stands, and later stages read the same type, through
//! [`details`](super::manifests::details). The names of keys are those of all versions. A key that the manifests of
//! earlier versions lack, or have in another form, is optional.

use crate::rows::times::TimeSpan;
use crate::run::dir::RunDir;
use crate::run::mirror;
use crate::stages::gates::verdict::Verdict;
use crate::stream::distinct::DistinctSketch;
use crate::timeline::counts::{ExclusionCounts, PairCounts};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::vectors::Similarity;
use twotower_artifacts::{Clock, FileEntry, Fingerprint, Ids, Side};
use twotower_encoders::EncodeCounts;
use twotower_models::train::EpochReport;

/// Name of the detail that says what cosines are multiplied with to be inner products.
pub(crate) const INNER_PRODUCT_SCALE: &str = "inner product scale";

/// Reads a detail that earlier versions wrote in another form, or not at all; such a one counts as none.
fn if_readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// Details of `encode-features`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EncodeDetails {
    /// Size and fingerprint of each vocabulary.
    #[serde(default)]
    pub(crate) vocabularies: BTreeMap<String, VocabularyDetails>,
    /// What the encoders met, by side.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) encoded: Option<BTreeMap<Side, EncodeCounts>>,
    /// The first and the last time of the interactions; none where they have no times.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) times: Option<TimeSpan>,
    /// Fingerprint of the state and of the encoded tables.
    #[serde(default)]
    pub(crate) content: Option<Fingerprint>,
    /// Files of each table.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) tables: Option<TableDetails>,
}

/// A vocabulary of an encoder state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VocabularyDetails {
    /// Number of values.
    pub(crate) values: usize,
    /// Changes with the values, their order and their counts.
    pub(crate) fingerprint: Fingerprint,
}

/// Files of the three tables of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TableDetails {
    pub(crate) users: TableFiles,
    pub(crate) items: TableFiles,
    pub(crate) interactions: TableFiles,
}

/// Files of a table.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TableFiles {
    /// Files that were read.
    pub(crate) files: usize,
    /// Files that were passed over by their names.
    pub(crate) skipped: usize,
    /// Size of the files that were read.
    pub(crate) bytes: u64,
}

/// Details of the timeline, whose manifest is `encode-features`'s second one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TimelineDetails {
    /// What times count.
    pub(crate) clock: Clock,
    /// The pairs of a user and an item that the interactions name.
    pub(crate) pairs: PairCounts,
}

/// The largest difference between the vectors of a tower as trained and as an engine computes them from its file.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Differences {
    pub(crate) user: f32,
    pub(crate) item: f32,
}

impl Differences {
    /// The one of a side's tower.
    pub(crate) fn of(&mut self, side: Side) -> &mut f32 {
        match side {
            Side::User => &mut self.user,
            Side::Item => &mut self.item,
        }
    }
}

/// Details of `train` as it writes them; [`TowerDetails`] is read.
#[derive(Debug, Serialize)]
pub(crate) struct TrainDetails<'a> {
    pub(crate) best_epoch: usize,
    pub(crate) last_epoch: Option<&'a EpochReport>,
    /// What cosines are multiplied with to be inner products, for a model of these.
    #[serde(rename = "inner product scale", skip_serializing_if = "Option::is_none")]
    pub(crate) inner_product_scale: Option<f32>,
    #[serde(rename = "largest difference from ONNX Runtime")]
    pub(crate) differences: Differences,
    /// The checkpoint that a later run can start from. It is not among the manifest's files, since it may be removed to
    /// save room.
    pub(crate) checkpoint: FileEntry,
}

/// How long `train` trained, as far as its details say so.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct EpochsDetails {
    #[serde(default)]
    pub(crate) best_epoch: Option<usize>,
    #[serde(default)]
    pub(crate) last_epoch: Option<LastEpoch>,
}

/// The last epoch of a training.
#[derive(Debug, Deserialize)]
pub(crate) struct LastEpoch {
    pub(crate) epoch: usize,
}

/// Details of `train` where it takes an earlier run's towers, as it writes them; [`TowerDetails`] is read.
#[derive(Debug, Serialize)]
pub(crate) struct AdoptDetails<'a> {
    /// The earlier run's tower folder.
    #[serde(rename = "adopted from")]
    pub(crate) adopted_from: &'a Path,
    /// As in [`TrainDetails`], where the earlier run has one.
    pub(crate) checkpoint: Option<FileEntry>,
    /// By table, the rows at its end without weights of their own: those of values that are new since the towers were
    /// trained.
    #[serde(rename = "untrained rows")]
    pub(crate) untrained: BTreeMap<String, u64>,
    /// As in [`TrainDetails`].
    #[serde(rename = "inner product scale", skip_serializing_if = "Option::is_none")]
    pub(crate) inner_product_scale: Option<f32>,
    #[serde(rename = "largest difference from ONNX Runtime")]
    pub(crate) differences: Differences,
}

/// Details of towers, trained or adopted, as later stages read them.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TowerDetails {
    /// As in [`TrainDetails`].
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) checkpoint: Option<FileEntry>,
    /// As in [`AdoptDetails`]; trained towers have none.
    #[serde(rename = "untrained rows", default, deserialize_with = "if_readable")]
    pub(crate) untrained: Option<BTreeMap<String, u64>>,
}

/// Details that parts of vectors and parts of results have in common.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartDetails {
    /// First row of the table that is the part's.
    pub(crate) first_row: u64,
    /// The row of the table behind its last.
    pub(crate) end_row: u64,
    #[serde(flatten)]
    pub(crate) ids: IdRange,
}

/// The first and the last id of a part, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRange {
    /// None for a part without rows.
    pub(crate) first_id: Option<String>,
    /// None for a part without rows.
    pub(crate) last_id: Option<String>,
}

impl IdRange {
    /// Takes the ids of the part's next rows.
    pub(crate) fn add(&mut self, ids: &Ids) {
        if let Some(last) = ids.len().checked_sub(1) {
            self.first_id.get_or_insert_with(|| ids.get(0).to_string());
            self.last_id = Some(ids.get(last).to_string());
        }
    }
}

/// Details of `infer`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InferDetails {
    #[serde(flatten)]
    pub(crate) part: PartDetails,
    /// Floats of a vector.
    pub(crate) dim: usize,
    /// As in [`TrainDetails`].
    #[serde(rename = "inner product scale", default, skip_serializing_if = "Option::is_none")]
    pub(crate) inner_product_scale: Option<f32>,
    /// What the encoders met.
    pub(crate) encoded: EncodeCounts,
    /// What was taken from an earlier run, if anything could be.
    #[serde(rename = "changed since", default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken: Option<TakenDetails>,
}

/// What was taken from an earlier run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenDetails {
    /// The run, as it was named.
    pub(crate) run: String,
    /// Fingerprint of the parts of its output.
    pub(crate) parts: Fingerprint,
    /// Users that were found there, near their place.
    pub(crate) found: u64,
    /// Those of them that have not changed.
    pub(crate) copied: u64,
    /// All other users, of whom everything was made anew.
    pub(crate) made: u64,
}

/// The share of users found, below which a log says that the table may be in another order.
const FEW_FOUND: f64 = 0.5;

impl TakenDetails {
    /// Nothing yet of the parts of a run with this fingerprint.
    pub(crate) fn of(run: &RunDir, parts: &Fingerprint) -> Self {
        Self {
            run: mirror::written(run.root()).display().to_string(),
            parts: parts.clone(),
            found: 0,
            copied: 0,
            made: 0,
        }
    }

    /// Counts `users` more.
    pub(crate) fn add(&mut self, users: u64, found: u64, copied: u64) {
        self.found += found;
        self.copied += copied;
        self.made += users - copied;
    }

    /// Logs what was taken; the others were `made`, such as embedded.
    pub(crate) fn told(&self, stage: &str, made: &str) {
        let Self { run, found, copied, made: count, .. } = self;
        let (users, changed) = (copied + count, found - copied);
        tracing::info!(
            "{stage}: of {users} users {copied} are as in {run}: copied; {changed} have changed and {} were not found: {made}",
            users - found
        );
        if (*found as f64) < FEW_FOUND * users as f64 {
            tracing::warn!(
                "{stage}: only {found} of {users} users were found in {run} near their place; users are looked for near the row where they stood, so write the users table in the same order every night, such as by id"
            );
        }
    }
}

/// Details of `recall`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecallDetails {
    #[serde(flatten)]
    pub(crate) part: PartDetails,
    pub(crate) similarity: Similarity,
    /// As in [`TrainDetails`]: what similarities were multiplied with to be the scores beside them.
    #[serde(rename = "inner product scale", default, skip_serializing_if = "Option::is_none")]
    pub(crate) inner_product_scale: Option<f32>,
    /// What `index/index.json` says of the index that was searched, as it stands there: numbers that were read may
    /// differ in the last digit.
    pub(crate) index: Value,
    /// Items that any user may get.
    #[serde(rename = "eligible items")]
    pub(crate) eligible: usize,
    /// What the encoders met, where users were embedded on the way.
    pub(crate) encoded: EncodeCounts,
    /// What was excluded.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) exclusions: Option<ExclusionCounts>,
    /// Distinct vectors of the users.
    #[serde(rename = "distinct vectors", default, deserialize_with = "if_readable")]
    pub(crate) distinct: Option<DistinctSketch>,
    /// What was taken from an earlier run, if anything could be.
    #[serde(rename = "changed since", default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken: Option<TakenDetails>,
}

/// Details of `evaluate`.
#[derive(Debug, Serialize)]
pub(crate) struct EvaluateDetails<'a> {
    /// Split, ranked candidates and exclusions, in words.
    pub(crate) protocol: &'a str,
    /// Metrics by model.
    pub(crate) models: &'a BTreeMap<String, BTreeMap<String, f64>>,
    /// Baselines that were left out, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) left_out: &'a BTreeMap<String, String>,
    /// How much of the model's ranking is that of plain cosines.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) overlap_with_cosine: &'a BTreeMap<String, f64>,
}

/// Details of `check`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CheckDetails {
    /// The verdict of each gate.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) gates: Option<Vec<Verdict>>,
    /// Name of the run that this one was compared with.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) previous: Option<String>,
    /// Place of the run among those of its folder, in the order in which their gates were asked.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) sequence: Option<u64>,
    /// Since when the interactions have been as they are, where the results exclude what users have seen.
    #[serde(default, deserialize_with = "if_readable")]
    pub(crate) interactions: Option<InteractionsState>,
    /// When the gates were asked, in seconds since 1970.
    #[serde(rename = "checked at", default, deserialize_with = "if_readable")]
    pub(crate) checked_at: Option<u64>,
    /// The run is not to be published, whatever its gates say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) experiment: bool,
}

/// How the interactions are, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InteractionsState {
    /// How they are: their newest time and their numbers.
    pub(crate) state: String,
    /// When a run first found them so, in seconds since 1970.
    pub(crate) since: u64,
}
