//! `check`: whether a complete run may be published. Gates compare it with limits and with the previous run.
//!
//! ```text
//! facts of the run, facts of the previous run ──▶ measures of each gate ──▶ verdicts ──▶ manifest
//! ```

mod facts;
mod history;
mod lists;
mod outputs;
mod values;
mod verdict;
mod whole;

pub use crate::config::{Gate, GatesConfig};
pub(crate) use facts::metrics_of;
pub use verdict::{Measured, Ruling, Verdict};

use crate::config::CheckSettings;
use crate::error::PipelineError;
use crate::run::dir::RunDir;
use crate::run::list;
use crate::run::lock::{Access, RunLock};
use crate::stages::{Context, Outcome, prepare_dir, rows};
use crate::stream::memory::Needs;
use crate::stream::sample;
use crate::watch::clock;
use facts::Facts;
use outputs::Outputs;
use serde_json::json;
use std::time::Instant;
use twotower_artifacts::Manifest;
use verdict::Measures;

/// File names inside the gates folder.
pub mod files {
    /// The stage's manifest.
    pub const MANIFEST: &str = "manifest.json";
}

/// Key of the manifest's settings by which a run says that it is not to be published.
pub(crate) const EXPERIMENT: &str = "experiment";

/// Why what compares with a previous run is not applicable.
const NO_PREVIOUS: &str = "there is no previous run";

/// What gates look at.
struct Night<'a> {
    config: &'a CheckSettings,
    now: &'a Facts,
    before: Option<&'a Facts>,
    /// Seconds since 1970.
    clock: u64,
}

/// Runs the stage: all gates, on the run and the previous one. Failures of gates in `accept` do not count. Of an
/// experiment, which is not to be published, the manifest says so.
///
/// # Errors
/// [`PipelineError::Gate`] naming every gate that failed, with its value, its limit and the next step; a run
/// without the output of a stage or of a shard; [`PipelineError::InUse`] when another process changes the previous
/// run.
pub fn check(context: &Context<CheckSettings>, accept: &[Gate], experiment: bool) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = context.step("check");
    let config = &context.config;
    let outputs = Outputs::read(&context.run)?;
    outputs.belong_together(&context.run)?;
    let topk = outputs.recalled[0].config["recall"]["topk"].as_u64().unwrap_or_default();
    context.memory.require(&needs(topk as usize))?;
    let mut now = Facts::read(&context.run)?.counted()?;
    let mut warnings = Vec::new();
    let before = previous(context, &mut warnings)?;
    let clock = clock::now();
    now.newest = history::newest(&now, before.as_ref(), clock);
    if let (Some(newest), Some(before)) = (&now.newest, &before)
        && before.newest.as_ref().is_some_and(|earlier| earlier.state == newest.state)
    {
        let note = format!("interactions are the same as in run `{}` ({})", before.name(), newest.state);
        tracing::warn!("check: {note}");
        warnings.push(note);
    }

    let mut inputs = vec![("run", now.fingerprint.clone())];
    inputs.extend(before.as_ref().map(|before| ("previous run", before.fingerprint.clone())));
    let asked = [("accepted", json!(accept)), ("previous", json!(before.as_ref().map(Facts::name)))];
    let asked = asked.into_iter().chain(experiment.then(|| (EXPERIMENT, json!(true))));
    let key = context.key("check", inputs, asked);
    let dir = context.run.gates();
    let manifest_path = dir.join(files::MANIFEST);
    if !context.force
        && let Some(manifest) = key.current(&manifest_path, &context.cancel)?
        && verdicts(&manifest).is_some_and(|verdicts| failed(&verdicts).is_empty())
    {
        return Ok(Outcome { skipped: true, manifest });
    }
    prepare_dir(&dir)?;

    let night = Night { config, now: &now, before: before.as_ref(), clock };
    let rulings = Gate::ALL.map(|gate| match config.gates.off.contains(&gate) {
        true => Ok(Verdict::off(gate)),
        false => Ok(Verdict::new(gate, measure(gate, &night)?, accept.contains(&gate))),
    });
    let rulings = rulings.into_iter().collect::<Result<Vec<Verdict>, PipelineError>>()?;
    for verdict in rulings.iter().filter(|verdict| verdict.ruling == Ruling::Accepted) {
        let note = format!("gate {}; accepted by the operator", verdict.failures());
        tracing::warn!("check: {note}");
        warnings.push(note);
    }
    let ruled = |ruling: Ruling| rulings.iter().filter(|verdict| verdict.ruling == ruling).count() as u64;
    let counted = rows([
        ("gates passed", ruled(Ruling::Passed)),
        ("failed", ruled(Ruling::Failed)),
        ("accepted", ruled(Ruling::Accepted)),
        ("not applicable", ruled(Ruling::NotApplicable)),
        ("off", ruled(Ruling::Off)),
    ]);
    let mut manifest = key.manifest(Vec::new(), counted, started);
    manifest.warnings = warnings;
    manifest.details = serde_json::json!({
        "gates": rulings,
        "previous": before.as_ref().map(Facts::name),
        "sequence": list::next_sequence(&context.run),
        "interactions": now.newest,
        "checked at": clock,
    });
    manifest.write(&manifest_path)?;
    match refusal(&context.run, &rulings) {
        Some(refusal) => Err(refusal),
        None => Ok(Outcome { skipped: false, manifest }),
    }
}

/// What the stage holds in memory, of lists of `topk`.
pub fn needs(topk: usize) -> Needs {
    Needs::held("check", vec![("the samples of results", sample::read_bytes(topk))])
}

/// What a gate measures.
fn measure(gate: Gate, night: &Night<'_>) -> Result<Measures, PipelineError> {
    Ok(match gate {
        Gate::Rows => whole::rows(night),
        Gate::Items => whole::items(night),
        Gate::History => history::history(night),
        Gate::Exclusions => history::exclusions(night),
        Gate::Unknown => values::unknown(night)?,
        Gate::Missing => values::missing(night),
        Gate::Drift => values::drift(night),
        Gate::Vectors => whole::vectors(night),
        Gate::Index => whole::index(night),
        Gate::Lists => lists::lists(night),
        Gate::Coverage => lists::coverage(night),
        Gate::Users => lists::users(night),
        Gate::Overlap => lists::overlap(night),
        Gate::Metric => whole::metric(night),
    })
}

/// Facts about the previous run: the one that `latest` names, or, where that is this run or none, the newest other
/// one that passed its gates. A previous run that cannot be read does not keep this one from being published; one
/// that another process changes does, until that is done.
fn previous<S>(context: &Context<S>, warnings: &mut Vec<String>) -> Result<Option<Facts>, PipelineError> {
    let Some(run) = list::previous_of(&context.run)? else { return Ok(None) };
    let _unchanged = RunLock::take(&run, Access::Shared)?;
    match Facts::read(&run) {
        Ok(facts) => Ok(Some(facts)),
        Err(error) => {
            let note = format!("the previous run `{}` is not compared with: {error}", run.name());
            tracing::warn!("check: {note}");
            warnings.push(note);
            Ok(None)
        }
    }
}

/// The verdicts of a gates manifest; none where it holds none that can be read.
pub fn verdicts(manifest: &Manifest) -> Option<Vec<Verdict>> {
    serde_json::from_value(manifest.details["gates"].clone()).ok().filter(|verdicts: &Vec<_>| !verdicts.is_empty())
}

/// Those gates that refuse a run.
pub fn failed(verdicts: &[Verdict]) -> Vec<Gate> {
    verdicts.iter().filter(|verdict| verdict.ruling == Ruling::Failed).map(|verdict| verdict.gate).collect()
}

/// The error of a run that gates refuse.
fn refusal(run: &RunDir, verdicts: &[Verdict]) -> Option<PipelineError> {
    let failed: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.ruling == Ruling::Failed).collect();
    if failed.is_empty() {
        return None;
    }
    let told: Vec<String> = failed.iter().map(|verdict| verdict.failures()).collect();
    let flags: Vec<String> = failed.iter().map(|verdict| format!("--accept {}", verdict.gate)).collect();
    Some(PipelineError::Gate(format!(
        "check: {} not published, `latest` stays as it is; gate {}; all gates are in {}; look at the night's tables, then run the same command again, with {} to publish in spite of it, or with other limits in `[gates]`",
        run.root().display(),
        told.join("; gate "),
        run.gates().join(files::MANIFEST).display(),
        flags.join(" "),
    )))
}
