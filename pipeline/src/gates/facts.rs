//! What a run says about itself: all that gates compare, read from its manifests and its sample.

use super::outputs::Outputs;
use crate::error::PipelineError;
use crate::evaluate::{self, MetricsFile, read_metrics};
use crate::run_dir::RunDir;
use crate::sample;
use std::collections::BTreeMap;
use twotower_artifacts::neighbours_file::NeighbourTable;
use twotower_artifacts::{Fingerprint, Manifest, Side};
use twotower_encoders::{EncodeCounts, FeatureCounts};
use twotower_index::store::IndexManifest;

/// Facts about a complete run.
pub struct Facts {
    /// Its folder.
    pub run: RunDir,
    /// Users in the table.
    pub users: u64,
    /// Users in the results.
    pub recalled: u64,
    /// Users in no result because their rows of the table cannot be used.
    pub quarantined: u64,
    /// Vectors made, by side; of users also those that a fused recall did not keep.
    pub vectors: BTreeMap<Side, u64>,
    /// What the encoders met when the vectors were made, by side and feature.
    pub encoded: BTreeMap<Side, BTreeMap<String, FeatureCounts>>,
    /// The item index.
    pub index: IndexManifest,
    /// Items that could be recalled.
    pub eligible: u64,
    /// The most items of a list.
    pub topk: u64,
    /// Lists of some users.
    pub sample: Option<NeighbourTable>,
    /// Metrics of the run's towers.
    pub metrics: Option<MetricsFile>,
    /// Embedding rows without trained weights at the end of each table: adopted towers have them.
    pub untrained: BTreeMap<String, u64>,
    /// Of all that the above was read from.
    pub fingerprint: Fingerprint,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// A stage or a shard that has no output; damaged manifests; [`PipelineError::Mismatch`] for a key that lacks.
    pub fn read(run: &RunDir) -> Result<Self, PipelineError> {
        let Outputs { encoded, trained, items, users, recalled, fused } = Outputs::read(run)?;
        let metrics = metrics_of(run, &trained)?;
        let parts = [&encoded, &trained].into_iter().chain(&items).chain(&users).chain(&recalled);
        let mut names: Vec<String> = parts.map(|manifest| manifest.fingerprint.to_string()).collect();
        // Of manifests, because only the vocabularies' fingerprint says which values were counted how often.
        names.extend(encoded.details["content"].as_str().map(str::to_string));
        names.extend(metrics.as_ref().map(|m| serde_json::json!(m.models).to_string()));
        let first = &recalled[0];
        Ok(Self {
            users: count(&encoded, "users")?,
            recalled: sum(&recalled, "users")?,
            // Runs of earlier versions have none.
            quarantined: recalled
                .iter()
                .filter_map(|part| part.rows.get("quarantined"))
                .fold(0, |sum, n| n.saturating_add(sum)),
            vectors: BTreeMap::from([
                (Side::Item, sum(&items, "rows")?),
                (Side::User, sum(&users, if fused { "users" } else { "rows" })?),
            ]),
            encoded: BTreeMap::from([(Side::Item, counts(&items)?), (Side::User, counts(&users)?)]),
            index: detail(first, "index")?,
            eligible: detail(first, "eligible items")?,
            topk: first.config["recall"]["topk"].as_u64().ok_or_else(|| lacks(first, "recall.topk"))?,
            sample: sample::read(run, recalled.len() as u32)?,
            metrics,
            untrained: detail(&trained, crate::adopt::UNTRAINED).unwrap_or_default(),
            fingerprint: Fingerprint::of(names.join(" ").as_bytes()),
            run: run.clone(),
        })
    }

    /// Name of the run's folder.
    pub fn name(&self) -> String {
        self.run.name()
    }
}

/// The metrics, if they are of the run's own towers: a run that does not train measures nothing, and its folder
/// may hold what an earlier one has left.
fn metrics_of(run: &RunDir, trained: &Manifest) -> Result<Option<MetricsFile>, PipelineError> {
    let dir = run.evaluation();
    if !dir.join(evaluate::files::MANIFEST).exists() {
        return Ok(None);
    }
    let metrics = read_metrics(&dir.join(evaluate::files::METRICS))?;
    Ok((metrics.towers == trained.fingerprint).then_some(metrics))
}

fn lacks(manifest: &Manifest, what: &str) -> PipelineError {
    // `infer` wants a side.
    let side = manifest.config["side"].as_str().map_or(String::new(), |side| format!(" --side {side}"));
    PipelineError::Mismatch(format!(
        "check: the manifest of `{}`{side} has no `{what}` that makes sense; run `twotower {}{side} --force`",
        manifest.stage, manifest.stage
    ))
}

fn count(manifest: &Manifest, what: &str) -> Result<u64, PipelineError> {
    manifest.rows.get(what).copied().ok_or_else(|| lacks(manifest, what))
}

fn sum(parts: &[Manifest], what: &str) -> Result<u64, PipelineError> {
    parts.iter().try_fold(0u64, |sum, part| sum.checked_add(count(part, what)?).ok_or_else(|| lacks(part, what)))
}

fn detail<T: serde::de::DeserializeOwned>(manifest: &Manifest, what: &str) -> Result<T, PipelineError> {
    serde_json::from_value(manifest.details[what].clone()).map_err(|_| lacks(manifest, what))
}

/// Counts of all parts by feature.
fn counts(parts: &[Manifest]) -> Result<BTreeMap<String, FeatureCounts>, PipelineError> {
    let mut all = EncodeCounts::default();
    for part in parts {
        all.merge(&detail(part, "encoded")?);
    }
    Ok(all.features)
}
