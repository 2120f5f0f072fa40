//! `train`: fits the model, exports both towers, and publishes them once ONNX Runtime agrees.

use crate::config::TrainSettings;
use crate::error::PipelineError;
use crate::run::details::{Differences, TowerDetails, TrainDetails};
use crate::run::dir::{publish_json, remove_if_there};
use crate::run::files::towers as files;
use crate::run::lock::RunLock;
use crate::run::manifests::{details, require, settings, verify_file};
use crate::run::names::{inputs, rows};
use crate::run::records::EncodeRecord;
use crate::stages::encoded;
use crate::stages::output::{Place, Prologue, StageKey, Summary, row_counts};
use crate::stages::towers::{publish_tower, require_runtime, towers_fingerprint};
use crate::stages::{Context, Outcome};
use crate::stream::memory::{Memory, mib};
use crate::timeline::dataset::Dataset;
use crate::watch::progress::Bar;
use crate::watch::stall::{Doing, WatchedThread};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;
use twotower_artifacts::json::read_text;
use twotower_artifacts::{ArtifactError, CodeBatch, FileEntry, Fingerprint, Manifest};
use twotower_encoders::EncoderState;
use twotower_models::ModelError;
use twotower_models::examples::{Role, Window, assemble};
use twotower_models::model::{ModelConfig, Term, Terms};
use twotower_models::tower::Tower;
use twotower_models::train::checkpoint::{best_path, last_path};
use twotower_models::train::{EpochReport, Observer, Start, StepReport, TrainConfig, size, train};

/// Rows that each tower is compared on.
pub(crate) const VERIFY_ROWS: usize = 2048;

/// Options of the stage beside the job's own.
#[derive(Debug, Clone, Default)]
pub struct TrainOptions {
    /// An earlier run's tower folder to start from.
    pub from: Option<PathBuf>,
}

/// Runs the stage.
///
/// # Errors
/// Missing encoders, earlier towers of unrelated encoders, a diverging loss, towers that ONNX Runtime
/// computes differently, I/O.
pub fn train_model(context: &Context<TrainSettings>, options: &TrainOptions) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = context.step("train");
    let config = &context.config;
    let data = Dataset::load("train", &context.run, &config.split)?;
    let mut inputs = vec![
        (inputs::ENCODERS, data.state.fingerprint().clone()),
        (inputs::ENCODED_TABLES, encoded::content(&data.manifest)),
    ];
    let unchanged = options.from.as_deref().map(|dir| RunLock::take_source(&context.run, dir)).transpose()?.flatten();
    let earlier = |dir: &Path| require("train", &dir.join(files::MANIFEST), "twotower train");
    let previous = options.from.as_deref().map(earlier).transpose()?;
    if let (Some(dir), Some(manifest)) = (&options.from, &previous) {
        check_lineage(dir, manifest, &data.state, &data.manifest)?;
        if let Some(checkpoint) = checkpoint_entry(manifest) {
            verify_file("train", dir, &checkpoint, &context.cancel)?;
        }
    }
    inputs.extend(previous.as_ref().map(|manifest| (inputs::PREVIOUS_TOWERS, manifest.fingerprint.clone())));
    let key = context.key("train", inputs, []);
    let place = Place::of_results(context.run.towers(), files::MANIFEST);
    let output = match context.begin(key, place, started, |_| Ok(true))? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    require_runtime("train", config.engine)?;
    check_size(context, &data)?;
    let mut warnings = weigh(&data)?;
    output.prepare(&[files::CHECKPOINTS])?;
    let dir = output.dir();
    let checkpoints = dir.join(files::CHECKPOINTS);

    let start = choose_start(context, options, output.key(), &checkpoints)?;
    let mut observer = TrainProgress {
        context,
        bar: None,
        step: None,
        epoch: 0,
        rate: 0.0,
        validation: String::new(),
        epoch_started: Instant::now(),
        unchanged,
    };
    let training = context.step("training");
    let how = TrainConfig { threads: context.execution.train_threads, ..config.train.clone() };
    let trained = train(&data.set, &config.model, &how, start, &checkpoints, &mut observer);
    context.cancel.check("train")?;
    drop((training, observer));
    let trained = trained.map_err(|error| unlike_earlier(error, options))?;
    let kept = kept(&trained.epochs, trained.best_epoch, &how);
    tracing::info!("train: {kept}");

    output.replace()?;
    let mut entries = Vec::new();
    let mut publish = |tower: &Tower, sample: CodeBatch| -> Result<f32, PipelineError> {
        let (difference, files) = publish_tower(tower, &sample, dir, config.engine)?;
        entries.extend(files);
        Ok(difference)
    };
    let differences = Differences {
        user: publish(&trained.user, user_sample(&data))?,
        item: publish(&trained.item, item_sample(&data))?,
    };
    let report = serde_json::json!({ "best_epoch": trained.best_epoch, "epochs": trained.epochs });
    publish_json(&dir.join(files::REPORT), &report)?;
    entries.push(FileEntry::of_file(dir, files::REPORT, trained.epochs.len() as u64)?);

    let held = data.set.roles.iter().filter(|role| **role == Role::Validation).count();
    if held > 0 && trained.epochs.iter().all(|epoch| epoch.validation.is_none()) {
        warnings.push(format!(
            "none of {held} validation events is of an item new to its user, so no epoch was measured: the last one is taken"
        ));
    }
    warnings.iter().for_each(|warning| tracing::warn!("train: {warning}"));
    let training = data.set.roles.iter().filter(|r| **r == Role::Train).count() as u64;
    let rows = row_counts([
        (rows::TRAINING_EVENTS, training),
        (rows::USERS, data.user_ids.len() as u64),
        (rows::ITEMS, data.item_ids.len() as u64),
    ]);
    let details = TrainDetails {
        best_epoch: trained.best_epoch,
        last_epoch: trained.epochs.last(),
        inner_product_scale: trained.item.inner_product_scale,
        differences,
        checkpoint: FileEntry::of_file(dir, files::BEST, 0)?,
    };
    let (fingerprint, seed) = (Some(towers_fingerprint(dir)?), Some(config.train.seed));
    output.publish(Summary { fingerprint, seed, warnings, ..Summary::new(entries, rows, details) })
}

/// A training's error; where it started from an earlier model of another shape, with the next step of each command.
fn unlike_earlier(error: ModelError, options: &TrainOptions) -> ModelError {
    match error {
        ModelError::Shape { parameter, expected, found, .. } if options.from.is_some() => {
            let advice = "the earlier model has another shape: restore its settings, or train from scratch: `run` without --update-from, or `train` without --from";
            ModelError::Shape { parameter, expected, found, advice }
        }
        other => other,
    }
}

/// Which epoch was kept, how good it was, and why there are no more of them where there could be.
fn kept(epochs: &[EpochReport], best: usize, how: &TrainConfig) -> String {
    let done = epochs.len();
    let metric =
        epochs.iter().find(|epoch| epoch.epoch == best).and_then(|epoch| epoch.validation.as_ref()?.get(how.metric));
    let told = match metric {
        Some(value) => format!(" (validation {} {value:.4})", how.metric),
        None => ", the last, since nothing was held out to measure them".to_string(),
    };
    let waited = done.saturating_sub(best);
    let stopped = match waited {
        0 => String::new(),
        _ if done >= how.epochs => String::new(),
        1 => format!("; stopped before the {} of train.epochs because 1 epoch brought nothing better", how.epochs),
        _ => format!(
            "; stopped before the {} of train.epochs because {waited} epochs brought nothing better",
            how.epochs
        ),
    };
    format!("kept epoch {best} of {done}{told}{stopped}")
}

/// Refuses training events that all have the weight 0. Returns what a person should know about weights.
fn weigh(data: &Dataset) -> Result<Vec<String>, PipelineError> {
    let encoded: EncodeRecord = settings("train", &data.manifest)?;
    let Some(column) = encoded.tables.interactions.weight else { return Ok(Vec::new()) };
    let events = data.set.roles.iter().zip(&data.set.interactions.weights);
    let (mut all, mut weightless) = (0u64, 0u64);
    for (_, weight) in events.filter(|(role, _)| **role == Role::Train) {
        all += 1;
        weightless += u64::from(*weight == 0.0);
    }
    if all > 0 && weightless == all {
        return Err(PipelineError::Data(format!(
            "train: all {all} training events have the weight 0 in column `{column}` of the interactions, which leaves nothing to learn from; mend the column, or leave `tables.interactions.weight` out"
        )));
    }
    let many = 2 * weightless > all;
    Ok(many
        .then(|| {
            format!("{weightless} of {all} training events have the weight 0 in column `{column}`: they teach nothing")
        })
        .into_iter()
        .collect())
}

/// The checkpoint that a later run can start from, as the manifest of the towers speaks of it.
pub(crate) fn checkpoint_entry(manifest: &Manifest) -> Option<FileEntry> {
    details::<TowerDetails>("train", manifest).ok()?.checkpoint
}

/// Refuses a model or batches that do not fit into this machine's memory, before any of it is taken.
fn check_size(context: &Context<TrainSettings>, data: &Dataset) -> Result<(), PipelineError> {
    let config = &context.config;
    let events = data.set.events(Role::Train).count();
    let train = config.train.resolved(&config.model, events);
    let towers = [&data.set.user_schema, &data.set.item_schema];
    let size = size(&config.model, &train, towers, (data.item_ids.len(), events), data.set.known);
    let there_is = Memory::there_is();
    if size.bytes <= u128::from(there_is) {
        return Ok(());
    }
    let widths = match &config.model {
        ModelConfig::Dssm(_) => "`model.embedding_dim` or `model.hidden`",
        ModelConfig::Sasrec(_) | ModelConfig::Tisasrec(_) | ModelConfig::Lightgcn(_) => "`model.dim`",
    };
    Err(PipelineError::usage(format!(
        "train: a model of {} numbers and batches of {} need about {}, there is {} of memory; lower {widths}, limit vocabularies with `max_size`, or lower `train.batch_size` or the negatives of `train.loss`",
        size.parameters,
        train.batch_size,
        mib(u64::try_from(size.bytes).unwrap_or(u64::MAX)),
        mib(there_is)
    )))
}

/// Where training starts: from its own checkpoint if that was made under the same key, else from an
/// earlier run's weights, or afresh.
fn choose_start(
    context: &Context<TrainSettings>,
    options: &TrainOptions,
    key: &StageKey,
    checkpoints: &Path,
) -> Result<Start, PipelineError> {
    let (record, last) = (checkpoints.join("key.json"), last_path(checkpoints));
    // The engine that the exported towers are compared with is no part of what training computes.
    let TrainSettings { split, model, train, engine: _ } = &context.config;
    let settings = serde_json::json!({ "split": split, "model": model, "train": train });
    let text = serde_json::json!({ "inputs": key.inputs, "config": settings }).to_string();
    let same = read_text(&record).is_ok_and(|found| found == text.as_bytes());
    if same && last.exists() && !context.force {
        return Ok(Start::Resume);
    }
    remove_if_there(&last)?;
    twotower_artifacts::publish::publish_bytes(&record, text.as_bytes())?;
    Ok(match &options.from {
        Some(previous) => Start::From(best_path(&previous.join(files::CHECKPOINTS))),
        None => Start::Fresh,
    })
}

/// Checks that earlier towers can be a start: codes must mean what they meant when those were trained.
pub(crate) fn check_lineage(
    dir: &Path,
    previous: &Manifest,
    state: &EncoderState,
    encoders: &Manifest,
) -> Result<(), PipelineError> {
    let trained_on = previous.inputs.get(inputs::ENCODERS);
    let known = [Some(state.fingerprint()), encoders.inputs.get(inputs::PREVIOUS_ENCODERS)];
    if trained_on.is_some() && known.contains(&trained_on) {
        return Ok(());
    }
    Err(ArtifactError::Mismatch {
        what: format!("train: start from {}", dir.display()),
        expected_from: "encoders, neither the earlier ones nor an update of them, with fingerprint".into(),
        expected: state.fingerprint().to_string(),
        found_from: "towers trained on encoders with fingerprint".into(),
        found: trained_on.map_or("none".into(), Fingerprint::to_string),
        advice: "run `twotower encode-features --update` with the earlier run's encoders, so that old codes keep their meaning".into(),
    }
    .into())
}

/// Users spread over the table, each with its whole history.
fn user_sample(data: &Dataset) -> CodeBatch {
    let users = data.user_ids.len();
    let n = users.min(VERIFY_ROWS);
    let windows: Vec<Window> = (0..n).map(|i| data.set.after_all(i * users / n)).collect();
    let mut batch = CodeBatch::empty(&data.set.user_schema);
    assemble(&data.set, &windows, &mut batch);
    batch
}

fn item_sample(data: &Dataset) -> CodeBatch {
    let items = data.item_ids.len();
    let n = items.min(VERIFY_ROWS);
    let mut batch = CodeBatch::empty(&data.set.item_schema);
    batch.extend_from_rows(&data.set.items, (0..n).map(|i| i * items / n));
    batch
}

/// A loss with its terms by name, each with its weight where that is not 1, and what is only watched, for people.
fn in_words(terms: &Terms) -> String {
    let (watched, parts): (Vec<&Term>, Vec<&Term>) = terms.0.iter().partition(|term| term.weight == 0.0);
    let term = |term: &&Term| match term.weight {
        1.0 => format!("{} {:.4}", term.name, term.value),
        weight => format!("{} {weight} x {:.4}", term.name, term.value),
    };
    let by_name: Vec<String> = parts.iter().map(term).collect();
    let loss = match &parts[..] {
        [only] if only.weight == 1.0 => format!("loss {:.4} ({})", only.value, only.name),
        _ => format!("loss {:.4} ({})", terms.total(), by_name.join(", ")),
    };
    let watched = watched.iter().map(|term| format!(", {} {:.1e}", term.name, term.value));
    std::iter::once(loss).chain(watched).collect()
}

struct TrainProgress<'a> {
    context: &'a Context<TrainSettings>,
    bar: Option<Bar>,
    /// Counts steps, within an epoch: its end has none to count.
    step: Option<WatchedThread>,
    epoch: usize,
    rate: f64,
    /// The last epoch's validation metric, as it is shown.
    validation: String,
    epoch_started: Instant,
    /// The lock of the run whose weights are the start: the first step has them.
    unchanged: Option<RunLock>,
}

impl Observer for TrainProgress<'_> {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.unchanged = None;
        if self.bar.is_none() || self.epoch != report.epoch {
            self.epoch = report.epoch;
            let stage = format!("epoch {}/{}", report.epoch, report.epochs);
            self.bar = Some(self.context.progress.bar(&stage, report.steps as u64, "steps"));
        }
        let counted = || self.context.cancel.watch().thread("train");
        self.step.get_or_insert_with(counted).doing(Doing::Training, report.step as u64 + 1);
        if report.step == report.steps {
            self.step = None;
        }
        self.rate = report.examples_per_s;
        if let Some(bar) = &mut self.bar {
            let loss = in_words(&report.terms);
            bar.message(format!("{loss}  {:.0} examples/s{}", report.examples_per_s, self.validation));
            bar.set(report.step as u64);
        }
        if self.context.cancel.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn on_epoch(&mut self, report: &EpochReport) -> ControlFlow<()> {
        self.bar = None;
        let name = self.context.config.train.metric;
        let metric = report.validation.as_ref().and_then(|v| v.get(name));
        self.validation = metric.map_or(String::new(), |value| format!(", validation {name} {value:.4}"));
        let validation = &self.validation;
        let seconds = self.epoch_started.elapsed().as_secs_f64();
        tracing::info!(
            "train: epoch {}: {}{validation}, {:.0} examples/s, {seconds:.1} s",
            report.epoch,
            in_words(&report.terms),
            self.rate
        );
        self.epoch_started = Instant::now();
        if self.context.cancel.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use twotower_models::metrics::Metrics;

    #[test]
    fn the_epoch_that_is_kept_is_told_and_why_no_more_were_trained() {
        let how = TrainConfig { epochs: 20, patience: 5, ..TrainConfig::default() };
        let epoch = |epoch: usize, recall: Option<f64>| EpochReport {
            epoch,
            loss: 1.0,
            terms: Terms::default(),
            temperature: None,
            validation: recall.map(|recall| Metrics {
                queries: 9,
                skipped: 0,
                values: BTreeMap::from([(how.metric.to_string(), recall)]),
            }),
        };
        let name = how.metric;
        let six: Vec<EpochReport> = (1..=6).map(|n| epoch(n, Some(0.2609 / n as f64))).collect();
        assert_eq!(
            kept(&six, 1, &how),
            format!(
                "kept epoch 1 of 6 (validation {name} 0.2609); stopped before the 20 of train.epochs because 5 epochs brought nothing better"
            )
        );
        assert!(kept(&six[..2], 1, &how).ends_with("because 1 epoch brought nothing better"));
        // All that were asked for were trained, or the last was the best.
        let all = TrainConfig { epochs: 6, ..how.clone() };
        assert_eq!(kept(&six, 1, &all), format!("kept epoch 1 of 6 (validation {name} 0.2609)"));
        assert_eq!(kept(&six, 6, &all), format!("kept epoch 6 of 6 (validation {name} 0.0435)"));
        let unmeasured = [epoch(1, None), epoch(2, None)];
        assert_eq!(
            kept(&unmeasured, 2, &how),
            "kept epoch 2 of 2, the last, since nothing was held out to measure them"
        );
    }
}
