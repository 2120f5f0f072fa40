//! What `evaluate` writes, and when two of these files may be compared.

use crate::error::PipelineError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{ArtifactError, Fingerprint};

/// Version of [`MetricsFile`].
pub(super) const METRICS_VERSION: u32 = 1;

/// What a metrics file holds. Two files compare only when their protocols are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsFile {
    /// Version of this form.
    pub format_version: u32,
    /// Split, ranking and exclusions, in words. The ranking's name is among them.
    pub protocol: String,
    /// That name alone: `full`, `sampled-1+100` or `sampled-1+100 paper` ([`Ranking::protocol`]). None in files of
    /// earlier versions.
    #[serde(default)]
    pub ranking: Option<String>,
    /// Fingerprint of the encoded tables, so of the data and its filters.
    pub data: Fingerprint,
    /// Fingerprint of the users, their events and what each event is used for, whatever the features: figures of two
    /// models compare where it is the same. None in files of earlier versions.
    #[serde(default)]
    pub events: Option<Fingerprint>,
    /// Fingerprint of the towers measured.
    pub towers: Fingerprint,
    /// Users with at least one test event who were measured.
    pub users: usize,
    /// Users without a test event, left out.
    pub users_without_test_events: usize,
    /// Users whose test events are all of items that they had before, left out.
    #[serde(default)]
    pub users_without_new_items: usize,
    /// Test events of items that their user had before: no task, since such items are not retrieved.
    #[serde(default)]
    pub repeated_test_events: usize,
    /// Users with a test event who were not drawn (`evaluate.max_users`, or the most of the paper's protocol).
    pub users_not_drawn: usize,
    /// Users whose own test item was drawn as a negative, which only the paper's protocol does: it has the test item's
    /// score and so counts as ahead of it.
    #[serde(default)]
    pub users_with_test_item_drawn: usize,
    /// Items ranked.
    pub items: usize,
    /// Metrics by model: `model`, and the baselines by their names.
    pub models: BTreeMap<String, BTreeMap<String, f64>>,
    /// Baselines that the job asked for and that were left out, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, String>,
    /// Of a model of inner products, how much of its lists stands in those by the plain cosine of its vectors too:
    /// `overlap@10` and so on, means over users of the share of the list.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overlap_with_cosine: BTreeMap<String, f64>,
}

/// Reads a metrics file.
///
/// # Errors
/// [`PipelineError::Data`] when it is not one, [`ArtifactError::Version`] when it is newer.
pub fn read_metrics(path: &Path) -> Result<MetricsFile, PipelineError> {
    let text = twotower_artifacts::json::read_text(path)?;
    let metrics: MetricsFile = serde_json::from_slice(&text)
        .map_err(|e| PipelineError::Data(format!("read {}: not a metrics file: {e}", path.display())))?;
    match metrics.format_version {
        METRICS_VERSION => Ok(metrics),
        found => Err(ArtifactError::Version { path: path.to_path_buf(), found, supported: METRICS_VERSION }.into()),
    }
}

/// Checks that two metrics files may be compared.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming both protocols or both data sets.
pub fn comparable(a: (&Path, &MetricsFile), b: (&Path, &MetricsFile)) -> Result<(), PipelineError> {
    let refuse = |what: &str, left: &str, right: &str| {
        Err(PipelineError::Mismatch(format!(
            "compare {} and {}: {what} differ: `{left}` and `{right}`; figures of unlike protocols say nothing about each other",
            a.0.display(),
            b.0.display()
        )))
    };
    if a.1.protocol != b.1.protocol {
        return refuse("protocols", &a.1.protocol, &b.1.protocol);
    }
    if let (Some(left), Some(right)) = (&a.1.events, &b.1.events)
        && left != right
    {
        return refuse("users, events or split", left.as_str(), right.as_str());
    }
    if a.1.items != b.1.items || a.1.users != b.1.users {
        let size = |m: &MetricsFile| format!("{} users, {} items", m.users, m.items);
        return refuse("data sets", &size(a.1), &size(b.1));
    }
    Ok(())
}
