//! What a run says about itself: all that gates compare, read from its manifests and its sample.

use super::files;
use super::outputs::Outputs;
use crate::error::PipelineError;
use crate::run::dir::RunDir;
use crate::stages::evaluate::{self, MetricsFile, read_metrics};
use crate::stream::distinct::Distinct;
use crate::stream::sample::{self, SampledLists};
use crate::timeline::exclusions::ExclusionCounts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::{Fingerprint, Manifest, Side};
use twotower_encoders::{EncodeCounts, FeatureCounts};
use twotower_index::store::IndexManifest;

/// Since when interactions have been as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// How they are: their newest time and their numbers.
    pub state: String,
    /// When a run first found them so, in seconds since 1970.
    pub since: u64,
}

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
    /// Pairs of a user and an item in the results.
    pub pairs: u64,
    /// Rows of interactions that `encode-features` read, where the run trains.
    pub interactions: Option<u64>,
    /// What was excluded; runs of earlier versions do not say.
    pub excluded: Option<ExclusionCounts>,
    /// Since when its interactions have been as they are; of a run whose gates were asked.
    pub newest: Option<Newest>,
    /// Distinct vectors of users; runs of earlier versions do not say.
    pub distinct: Option<Distinct>,
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
    pub sample: Option<SampledLists>,
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
        let Outputs { encoded, timeline: _, trained, items, users, recalled, fused } = Outputs::read(run)?;
        let metrics = metrics_of(run, &trained)?;
        let parts = [&encoded, &trained].into_iter().chain(&items).chain(&users).chain(&recalled);
        let mut names: Vec<String> = parts.map(|manifest| manifest.fingerprint.to_string()).collect();
        // Of manifests, because only the vocabularies' fingerprint says which values were counted how often.
        names.extend(encoded.details["content"].as_str().map(str::to_string));
        // Of other tables the same results may come.
        names.extend(recalled.iter().map(|part| part.details["exclusions"].to_string()));
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
            pairs: sum(&recalled, "pairs")?,
            interactions: encoded.rows.get("interactions").copied(),
            excluded: of_all(&recalled, "exclusions", ExclusionCounts::merge),
            newest: newest_of(run)?,
            distinct: of_all(&recalled, "distinct vectors", Distinct::merge),
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
            untrained: detail(&trained, crate::stages::adopt::UNTRAINED).unwrap_or_default(),
            fingerprint: Fingerprint::of(names.join(" ").as_bytes()),
            run: run.clone(),
        })
    }

    /// The same, of a run that says what it excluded: gates cannot be asked about one that an earlier version made.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`] naming the command that counts it.
    pub fn counted(self) -> Result<Self, PipelineError> {
        match (&self.excluded, &self.distinct) {
            (Some(_), Some(_)) => Ok(self),
            _ => Err(PipelineError::Mismatch(format!(
                "check: results of {} do not say what was excluded or how many vectors are distinct; run `twotower recall --force`, with its shards if it has some",
                self.run.recall().display()
            ))),
        }
    }

    /// Number of items that have vectors.
    pub fn items(&self) -> u64 {
        self.vectors.get(&Side::Item).copied().unwrap_or(0)
    }

    /// Name of the run's folder.
    pub fn name(&self) -> String {
        self.run.name()
    }
}

/// The metrics, if they are of the run's own towers: a run that does not train measures nothing, and its folder
/// may hold what an earlier one has left.
pub(crate) fn metrics_of(run: &RunDir, trained: &Manifest) -> Result<Option<MetricsFile>, PipelineError> {
    let dir = run.evaluation();
    if !dir.join(evaluate::files::MANIFEST).exists() {
        return Ok(None);
    }
    let metrics = read_metrics(&dir.join(evaluate::files::METRICS))?;
    Ok((metrics.towers == trained.fingerprint).then_some(metrics))
}

/// What the gates of a run found of the age of its interactions.
fn newest_of(run: &RunDir) -> Result<Option<Newest>, PipelineError> {
    let path = run.gates().join(files::MANIFEST);
    let manifest = if path.exists() { Some(Manifest::read(&path)?) } else { None };
    Ok(manifest.and_then(|manifest| serde_json::from_value(manifest.details["interactions"].clone()).ok()))
}

/// A detail of all parts together; none where one lacks it.
fn of_all<T: serde::de::DeserializeOwned>(parts: &[Manifest], what: &str, merge: impl Fn(&mut T, &T)) -> Option<T> {
    let mut all = parts.iter().map(|part| detail::<T>(part, what).ok());
    let mut whole = all.next()??;
    for part in all {
        merge(&mut whole, &part?);
    }
    Some(whole)
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
