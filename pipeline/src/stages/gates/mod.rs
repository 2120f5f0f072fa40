//! `check`: whether a complete run may be published. Gates compare it with limits and with the previous run.
//!
//! ```text
//! facts of the run, facts of the previous run ──▶ measures of each gate ──▶ verdicts ──▶ manifest
//! ```

pub(crate) mod facts;
mod history;
mod lists;
mod outputs;
mod values;
pub(crate) mod verdict;
mod whole;

pub use crate::config::{Gate, GatesConfig};
pub(crate) use facts::metrics_of;

use crate::config::CheckSettings;
use crate::error::PipelineError;
use crate::run::details::CheckDetails;
use crate::run::dir::RunDir;
use crate::run::files::gates as files;
use crate::run::list;
use crate::run::lock::{Access, RunLock};
use crate::run::manifests::{details, settings};
use crate::run::names::{inputs, rows};
use crate::run::records::RecallRecord;
use crate::stages::output::{Place, Prologue, Summary, row_counts};
use crate::stages::{Context, Outcome};
use crate::stream::memory::Needs;
use crate::stream::sample;
use crate::watch::clock;
use facts::Facts;
use outputs::Outputs;
use serde_json::json;
use std::time::Instant;
use twotower_artifacts::Manifest;
use verdict::{Measures, Ruling, Verdict};

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
pub(crate) fn check(
    context: &Context<CheckSettings>,
    accept: &[Gate],
    experiment: bool,
) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = context.step("check");
    let config = &context.config;
    let outputs = Outputs::read(&context.run)?;
    outputs.belong_together(&context.run)?;
    let recalled: RecallRecord = settings("check", &outputs.recalled[0].manifest)?;
    context.memory.require(&needs(recalled.recall.topk))?;
    let mut now = Facts::read(&context.run)?.counted()?;
    let mut warnings = Vec::new();
    let before = previous(context, &mut warnings)?;
    let clock = clock::now();
    now.interactions_state = history::interactions_state(&now, before.as_ref(), clock);
    if let (Some(state), Some(before)) = (&now.interactions_state, &before)
        && before.interactions_state.as_ref().is_some_and(|earlier| earlier.state == state.state)
    {
        let shown = history::shown_state(&now);
        let note = format!("interactions are the same as in run `{}` ({shown})", before.name());
        tracing::warn!("check: {note}");
        warnings.push(note);
    }

    let mut inputs = vec![(inputs::RUN, now.fingerprint.clone())];
    inputs.extend(before.as_ref().map(|before| (inputs::PREVIOUS_RUN, before.fingerprint.clone())));
    let asked = [("accepted", json!(accept)), ("previous", json!(before.as_ref().map(Facts::name)))];
    let asked = asked.into_iter().chain(experiment.then(|| (EXPERIMENT, json!(true))));
    let place = Place::beside_results(context.run.gates(), files::MANIFEST);
    let no_gate_failed = |made: &Manifest| -> Result<bool, PipelineError> {
        let verdicts = details::<CheckDetails>("check", made).ok().and_then(|details| details.gates);
        Ok(verdicts.is_some_and(|all| !all.is_empty() && all.iter().all(|verdict| verdict.ruling != Ruling::Failed)))
    };
    let output = match context.begin(context.key("check", inputs, asked), place, started, no_gate_failed)? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    output.prepare(&[])?;

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
    let counted = row_counts([
        (rows::GATES_PASSED, ruled(Ruling::Passed)),
        (rows::GATES_FAILED, ruled(Ruling::Failed)),
        (rows::GATES_ACCEPTED, ruled(Ruling::Accepted)),
        (rows::GATES_NOT_APPLICABLE, ruled(Ruling::NotApplicable)),
        (rows::GATES_OFF, ruled(Ruling::Off)),
    ]);
    let refusal = refusal(&context.run, &rulings, experiment);
    let details = CheckDetails {
        gates: Some(rulings),
        previous: before.as_ref().map(Facts::name),
        sequence: Some(list::next_sequence(&context.run)),
        interactions: now.interactions_state,
        checked_at: Some(clock),
        experiment,
    };
    // There are no files, so that the new manifest takes the place of the old one at once.
    let outcome = output.publish(Summary { warnings, ..Summary::new(Vec::new(), counted, details) })?;
    refusal.map_or(Ok(outcome), Err)
}

/// What the stage holds in memory where lists have `topk` items.
pub(crate) fn needs(topk: usize) -> Needs {
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

/// The error of a run that gates refuse.
fn refusal(run: &RunDir, verdicts: &[Verdict], experiment: bool) -> Option<PipelineError> {
    let failed: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.ruling == Ruling::Failed).collect();
    if failed.is_empty() {
        return None;
    }
    let told: Vec<String> = failed.iter().map(|verdict| verdict.failures()).collect();
    let told = told.join("; gate ");
    let manifest = run.gates().join(files::MANIFEST);
    if experiment {
        return Some(PipelineError::Gate(format!(
            "check: {}, an experiment, does not pass its gates: gate {told}; all gates are in {}; its results are complete, and `twotower lookup {}` shows them; change the settings or the tables, or give other limits in `[gates]`",
            run.root().display(),
            manifest.display(),
            run.root().display(),
        )));
    }
    let flags: Vec<String> = failed.iter().map(|verdict| format!("--accept {}", verdict.gate)).collect();
    Some(PipelineError::Gate(format!(
        "check: {} not published, `latest` stays as it is; gate {}; all gates are in {}; look at the night's tables, then run the same command again, with {} to publish in spite of it, or with other limits in `[gates]`",
        run.root().display(),
        told,
        manifest.display(),
        flags.join(" "),
    )))
}
