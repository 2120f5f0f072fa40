//! The manifests of all that a run has made, and whether they belong together.

use crate::encode;
use crate::error::PipelineError;
use crate::parts::{VectorParts, complete_set};
use crate::run_dir::RunDir;
use crate::shard::Shard;
use crate::stage::require;
use crate::towers;
use twotower_artifacts::{ArtifactError, Fingerprint, Manifest, Side};

/// Manifests of a complete run.
pub struct Outputs {
    /// Of `encode-features`.
    pub encoded: Manifest,
    /// Of `train`.
    pub trained: Manifest,
    /// Of the item vectors, by shard.
    pub items: Vec<Manifest>,
    /// Of the user vectors, by shard; of the results, where these were `fused`.
    pub users: Vec<Manifest>,
    /// Of the results, by shard.
    pub recalled: Vec<Manifest>,
    /// Whether users were embedded on the way.
    pub fused: bool,
}

impl Outputs {
    /// Reads them.
    ///
    /// # Errors
    /// A stage or a shard that has no output; damaged manifests.
    pub fn read(run: &RunDir) -> Result<Self, PipelineError> {
        let encoded = require("check", &run.encoders().join(encode::files::MANIFEST), "twotower encode-features")?;
        let trained = require("check", &run.towers().join(towers::files::MANIFEST), "twotower train")?;
        let items = complete_set("check", &run.vectors(Side::Item), "twotower infer --side item")?;
        let recalled = complete_set("check", &run.recall(), "twotower recall")?;
        let fused = recalled[0].config["recall"]["fused"].as_bool() == Some(true);
        let users = match fused {
            true => recalled.clone(),
            false => complete_set("check", &run.vectors(Side::User), "twotower infer --side user")?,
        };
        Ok(Self { encoded, trained, items, users, recalled, fused })
    }

    /// Refuses a run in which a stage was done anew and not those after it, or not for all shards.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] naming the stage; vector parts that are not a set.
    pub fn belong_together(&self, run: &RunDir) -> Result<(), PipelineError> {
        made_from([&self.trained], "encoders", &self.encoded.fingerprint)?;
        made_from(self.items.iter().chain(&self.users), "towers", &self.trained.fingerprint)?;
        let items = VectorParts::find("check", &run.vectors(Side::Item), Side::Item, None)?;
        made_from(&self.recalled, "item vectors", &items.fingerprint)?;
        for part in self.recalled.iter().filter(|_| !self.fused) {
            let users = VectorParts::find("check", &run.vectors(Side::User), Side::User, Shard::of(part))?;
            made_from([part], "user vectors", &users.fingerprint)?;
        }
        Ok(())
    }
}

/// Refuses manifests that name another input than the run has.
fn made_from<'a>(
    manifests: impl IntoIterator<Item = &'a Manifest>,
    input: &str,
    expected: &Fingerprint,
) -> Result<(), PipelineError> {
    let Some(other) = manifests.into_iter().find(|manifest| manifest.inputs.get(input) != Some(expected)) else {
        return Ok(());
    };
    let name = match Shard::of(other) {
        Some(shard) => format!("{} shard {shard}", other.stage),
        None => other.stage.clone(),
    };
    Err(ArtifactError::Mismatch {
        what: format!("check: the output of `{name}`"),
        expected_from: format!("the run's {input} with fingerprint"),
        expected: expected.to_string(),
        found_from: format!("{input} with fingerprint"),
        found: other.inputs.get(input).map_or("none".to_string(), Fingerprint::to_string),
        advice: format!("run `twotower {}` again, and the stages after it", other.stage),
    }
    .into())
}
