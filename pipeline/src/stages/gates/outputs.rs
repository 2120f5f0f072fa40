//! The manifests of all that a run has made, and whether they belong together.

use crate::error::PipelineError;
use crate::rows::quarantine::Quarantine;
use crate::run::chain::{Contradiction, NamedPart, RunManifests, contradictions, is_fused};
use crate::run::dir::RunDir;
use crate::run::files;
use crate::run::manifests::require;
use crate::stream::part_folder::Part;
use crate::stream::parts::complete_set;
use crate::timeline::of_run;
use twotower_artifacts::json::read_json;
use twotower_artifacts::{Manifest, Side};
use twotower_index::store::MANIFEST_NAME;

/// Manifests of a complete run.
pub struct Outputs {
    /// The manifest of `encode-features`.
    pub encoded: Manifest,
    /// The manifest of the timeline.
    pub timeline: Manifest,
    /// The manifest of `train`.
    pub trained: Manifest,
    /// Manifests of the item vectors, by shard.
    pub items: Vec<Part>,
    /// Manifests of the user vectors, by shard; where users were embedded on the way, those of the results.
    pub users: Vec<Part>,
    /// Manifests of the results, by shard.
    pub recalled: Vec<Part>,
    /// Whether users were embedded on the way.
    pub fused: bool,
}

impl Outputs {
    /// Reads them.
    ///
    /// # Errors
    /// A stage or a shard that has no output; damaged manifests.
    pub fn read(run: &RunDir) -> Result<Self, PipelineError> {
        let encoded = require("check", &run.encoders().join(files::encoders::MANIFEST), "twotower encode-features")?;
        let timeline = of_run::manifest("check", &run.encoders())?;
        let trained = require("check", &run.towers().join(files::towers::MANIFEST), "twotower train")?;
        let items = complete_set("check", &run.vectors(Side::Item), "twotower infer --side item")?;
        let recalled = complete_set("check", &run.recall(), "twotower recall")?;
        let fused = is_fused(&recalled[0].manifest);
        let users = match fused {
            true => recalled.clone(),
            false => complete_set("check", &run.vectors(Side::User), "twotower infer --side user")?,
        };
        Ok(Self { encoded, timeline, trained, items, users, recalled, fused })
    }

    /// Refuses a run in which a stage was done anew and not those after it, or not for all shards, or from other
    /// tables.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`] naming the first output that does not belong to the others, and how many more.
    pub fn belong_together(&self, run: &RunDir) -> Result<(), PipelineError> {
        let aside = |side| Ok((side, Quarantine::load(&run.encoders(), &self.encoded, side)?));
        let quarantine = [Side::User, Side::Item].into_iter().map(aside).collect::<Result<_, PipelineError>>()?;
        fn named<'a>(run: &RunDir, parts: &'a [Part]) -> Vec<NamedPart<'a>> {
            parts.iter().map(|part| part.within(run.root())).collect()
        }
        let made = RunManifests {
            encoded: Some(&self.encoded),
            timeline: Some(self.timeline.fingerprint.clone()),
            trained: Some(&self.trained),
            items: named(run, &self.items),
            users: if self.fused { Vec::new() } else { named(run, &self.users) },
            recalled: named(run, &self.recalled),
            index: read_json(run.index().join(MANIFEST_NAME)).ok(),
            quarantine,
        };
        let found = contradictions(&made);
        let Some(Contradiction { path, what, command, .. }) = found.first() else { return Ok(()) };
        let more = match found.len() {
            1 => String::new(),
            n => {
                format!("; {} more such contradictions, which `twotower verify {}` lists", n - 1, run.root().display())
            }
        };
        Err(PipelineError::Mismatch(format!(
            "check: {}: {what}; run `{command}` again for all shards, and the stages after it{more}",
            run.root().join(path).display()
        )))
    }
}
