//! What a run says about itself: all that gates compare, read from its manifests and its sample.

use super::outputs::Outputs;
use crate::error::PipelineError;
use crate::run::details::{CheckDetails, EncodeDetails, InferDetails, InteractionsState, RecallDetails, TowerDetails};
use crate::run::dir::RunDir;
use crate::run::files;
use crate::run::manifests::{details, row_count, settings};
use crate::run::names::rows;
use crate::run::records::RecallRecord;
use crate::stages::evaluate::{MetricsFile, read_metrics};
use crate::stream::distinct::DistinctSketch;
use crate::stream::part_folder::Part;
use crate::stream::sample::{self, SampledLists};
use crate::timeline::counts::ExclusionCounts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use twotower_artifacts::{Fingerprint, Manifest, Side};
use twotower_encoders::{EncodeCounts, FeatureCounts};
use twotower_index::store::IndexManifest;

/// The stage that reads them.
const CHECK: &str = "check";

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
    /// What was excluded; none where an earlier version made the run.
    pub excluded: Option<ExclusionCounts>,
    /// How its interactions are and since when; none where its gates were not asked.
    pub interactions_state: Option<InteractionsState>,
    /// Distinct vectors of users; none where an earlier version made the run.
    pub distinct: Option<DistinctSketch>,
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
    /// Changes with all that the above was read from.
    pub fingerprint: Fingerprint,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// A stage or a shard that has no output; damaged manifests; [`PipelineError::Mismatch`] for a manifest that lacks
    /// one of them.
    pub fn read(run: &RunDir) -> Result<Self, PipelineError> {
        let Outputs { encoded, timeline: _, trained, items, users, recalled, fused } = Outputs::read(run)?;
        let metrics = metrics_of(run, &trained)?;
        let parts = items.iter().chain(&users).chain(&recalled).map(|part| &part.manifest);
        let parts = [&encoded, &trained].into_iter().chain(parts);
        let mut names: Vec<String> = parts.map(|manifest| manifest.fingerprint.to_string()).collect();
        let searched = all_details::<RecallDetails>(&recalled)?;
        // Only the vocabularies' fingerprint says which values were counted how often.
        let content = details::<EncodeDetails>(CHECK, &encoded).ok().and_then(|details| details.content);
        names.extend(content.map(|content| content.to_string()));
        // The same results may come of other tables.
        names.extend(searched.iter().map(|part| serde_json::json!(part.exclusions).to_string()));
        names.extend(metrics.as_ref().map(|m| serde_json::json!(m.models).to_string()));
        let (first, first_manifest) = (&searched[0], &recalled[0].manifest);
        let index = IndexManifest::deserialize(&first.index).map_err(|e| {
            PipelineError::Mismatch(format!(
                "check: {}: `details.index`: {e}; run `twotower recall --force`",
                run.recall().data().display()
            ))
        })?;
        let met = |counts: Vec<EncodeCounts>| {
            let mut all = EncodeCounts::default();
            counts.iter().for_each(|counts| all.merge(counts));
            all.features
        };
        let of_infer = |parts: &[Part]| -> Result<_, PipelineError> {
            Ok(met(all_details::<InferDetails>(parts)?.into_iter().map(|part| part.encoded).collect()))
        };
        let of_users = match fused {
            true => met(searched.iter().map(|part| part.encoded.clone()).collect()),
            false => of_infer(&users)?,
        };
        Ok(Self {
            users: row_count(CHECK, &encoded, rows::USERS)?,
            recalled: sum(&recalled, rows::USERS)?,
            // Runs of earlier versions have none.
            quarantined: recalled
                .iter()
                .filter_map(|part| part.manifest.rows.get(rows::QUARANTINED))
                .fold(0, |sum, n| n.saturating_add(sum)),
            pairs: sum(&recalled, rows::PAIRS)?,
            interactions: encoded.rows.get(rows::INTERACTIONS).copied(),
            excluded: of_all(&searched, |part| part.exclusions.as_ref(), ExclusionCounts::merge),
            interactions_state: interactions_state(run)?,
            distinct: of_all(&searched, |part| part.distinct.as_ref(), DistinctSketch::merge),
            vectors: BTreeMap::from([
                (Side::Item, sum(&items, rows::ROWS)?),
                (Side::User, sum(&users, if fused { rows::USERS } else { rows::ROWS })?),
            ]),
            encoded: BTreeMap::from([(Side::Item, of_infer(&items)?), (Side::User, of_users)]),
            index,
            eligible: first.eligible as u64,
            topk: settings::<RecallRecord>(CHECK, first_manifest)?.recall.topk as u64,
            sample: sample::read(&recalled)?,
            metrics,
            untrained: details::<TowerDetails>(CHECK, &trained).unwrap_or_default().untrained.unwrap_or_default(),
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
                self.run.recall().data().display()
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
    if !dir.join(files::evaluation::MANIFEST).exists() {
        return Ok(None);
    }
    let metrics = read_metrics(&dir.join(files::evaluation::METRICS))?;
    Ok((metrics.towers == trained.fingerprint).then_some(metrics))
}

/// What the gates of a run found about its interactions.
fn interactions_state(run: &RunDir) -> Result<Option<InteractionsState>, PipelineError> {
    let path = run.gates().join(files::gates::MANIFEST);
    if !path.exists() {
        return Ok(None);
    }
    let checked = details::<CheckDetails>(CHECK, &Manifest::read(&path)?);
    Ok(checked.ok().and_then(|details| details.interactions))
}

/// Details of all parts.
fn all_details<T: DeserializeOwned>(parts: &[Part]) -> Result<Vec<T>, PipelineError> {
    parts.iter().map(|part| details(CHECK, &part.manifest)).collect()
}

/// A detail of all parts together; none where one lacks it.
fn of_all<P, T: Clone>(parts: &[P], of: impl Fn(&P) -> Option<&T>, merge: impl Fn(&mut T, &T)) -> Option<T> {
    let mut all = parts.iter().map(of);
    let mut whole = all.next()??.clone();
    for part in all {
        merge(&mut whole, part?);
    }
    Some(whole)
}

/// A count of rows over all parts.
fn sum(parts: &[Part], name: &str) -> Result<u64, PipelineError> {
    let too_large =
        || PipelineError::Mismatch(format!("check: `rows.{name}` of all parts together is no 64-bit number"));
    parts
        .iter()
        .try_fold(0u64, |sum, part| sum.checked_add(row_count(CHECK, &part.manifest, name)?).ok_or_else(too_large))
}
