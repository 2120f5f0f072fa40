//! `run`: all stages in order in one run folder, skipping what is complete and current.

pub(crate) mod chain;
pub(crate) mod contents;
pub(crate) mod details;
pub mod dir;
pub mod files;
pub(crate) mod forecast;
pub mod list;
pub mod lock;
pub(crate) mod manifests;
pub mod mirror;
pub(crate) mod names;
pub mod output_folder;
pub(crate) mod records;
pub mod shard_progress;
pub(crate) mod stage;
pub mod verify;
pub mod watched;

pub use stage::Stage;

use crate::config::Config;
use crate::error::PipelineError;
use crate::run::dir::{LATEST, RunDir};
use crate::run::lock::{Access, RunLock};
use crate::run::manifests::{as_written, require, settings, verify_file};
use crate::run::names::tables::{self, ALLOW, DENY, EXCLUSIONS, INTERACTIONS, USERS};
use crate::run::records::EncodeRecord;
use crate::stages::adopt::adopt_towers;
use crate::stages::earlier::EarlierRun;
use crate::stages::encode::{EncodeOptions, encode_features};
use crate::stages::evaluate::evaluate;
use crate::stages::gates::{Gate, check};
use crate::stages::infer::Infer;
use crate::stages::recall::Recall;
use crate::stages::towers::require_runtime;
use crate::stages::train::{TrainOptions, train_model};
use crate::stages::{Context, Job, Outcome};
use crate::stream::part_folder::PartFolder;
use crate::stream::parts::complete_set;
use crate::timeline::exclusions::Exclusion;
use crate::watch::allocator;
use std::path::PathBuf;
use twotower_artifacts::publish::{check_link, switch_link};
use twotower_artifacts::{Manifest, Side};
use twotower_tables::Table;

impl Stage {
    /// Whether the stage opens towers in the job's engine, or exports them for it.
    fn runs_towers(self, fused: bool) -> bool {
        match self {
            Stage::EncodeFeatures | Stage::Check => false,
            Stage::Train | Stage::InferItems | Stage::InferUsers | Stage::Evaluate => true,
            Stage::Recall => fused,
        }
    }

    /// Whether the stage has left an output, which may be current.
    fn has_output(self, run: &RunDir) -> bool {
        let parts = |folder: PartFolder| complete_set("run", &folder, "twotower run").is_ok();
        match self {
            Stage::EncodeFeatures => run.encoders().join(files::encoders::MANIFEST).exists(),
            Stage::Train => run.towers().join(files::towers::MANIFEST).exists(),
            Stage::InferItems => parts(run.vectors(Side::Item)),
            Stage::InferUsers => parts(run.vectors(Side::User)),
            Stage::Recall => parts(run.recall()),
            Stage::Evaluate => run.evaluation().join(files::evaluation::MANIFEST).exists(),
            Stage::Check => run.gates().join(files::gates::MANIFEST).exists(),
        }
    }

    /// Runs the stage, in parts where it is long, and hands each outcome to `done`.
    fn run(self, job: &Job, options: &RunOptions, mut done: impl FnMut(&Outcome)) -> Result<(), PipelineError> {
        match self {
            Stage::EncodeFeatures => done(&encode_features(&job.obeying(Config::encode_settings), &options.encode)?),
            Stage::Train => match &options.adopt {
                Some(earlier) => done(&adopt_towers(&job.obeying(Config::adopt_settings), earlier)?),
                None => done(&train_model(&job.obeying(Config::train_settings), &options.train)?),
            },
            Stage::InferItems | Stage::InferUsers => {
                let side = if self == Stage::InferItems { Side::Item } else { Side::User };
                let context = job.obeying(|config| config.infer_settings(side));
                let mut infer = Infer::open(&context, None)?;
                if let Some(earlier) = options.changed_since.as_ref().filter(|_| side == Side::User) {
                    infer = infer.changed_since(earlier)?;
                }
                for shard in context.parts(None, |_| Ok(infer.rows()))? {
                    done(&infer.shard(shard)?);
                }
            }
            Stage::Recall => {
                let context = job.obeying(Config::recall_settings);
                let mut recall = Recall::open(&context)?;
                if let Some(earlier) = &options.changed_since {
                    recall = recall.changed_since(earlier.clone());
                }
                for shard in context.parts(None, |shard| recall.rows(shard))? {
                    done(&recall.shard(shard)?);
                }
            }
            Stage::Evaluate => done(&evaluate(&job.obeying(Config::evaluate_settings))?),
            Stage::Check => {
                done(&check(&job.obeying(Config::check_settings), &options.accept, options.unpublished)?);
            }
        }
        Ok(())
    }
}

/// Options of a run beside the job's own.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Redo this stage and those after it, even where their output is current.
    pub from: Option<Stage>,
    /// Options of `encode-features`.
    pub encode: EncodeOptions,
    /// Options of `train`.
    pub train: TrainOptions,
    /// Take the towers of this earlier run's tower folder as they are instead of training.
    pub adopt: Option<PathBuf>,
    /// Take what this earlier run made of users who have not changed since.
    pub changed_since: Option<EarlierRun>,
    /// Gates whose failure does not keep the run from being published.
    pub accept: Vec<Gate>,
    /// Leave the link `latest` as it is.
    pub unpublished: bool,
}

impl RunOptions {
    /// The stages that a run of `config` has, in order. Stages whose output nothing would read are left out.
    pub(crate) fn stages(&self, config: &Config) -> impl Iterator<Item = Stage> {
        let (fused, trains) = (config.recall.fused, self.adopt.is_none());
        Stage::ALL.into_iter().filter(move |stage| match stage {
            Stage::InferUsers => !fused,
            Stage::Evaluate => trains,
            _ => true,
        })
    }
}

/// Runs every stage that the job has, then points the link `latest` beside the run folder at it, unless it is to stay
/// unpublished.
///
/// `latest` is switched only after the last stage, in one step, so it always names a complete run that passed its
/// gates.
///
/// # Errors
/// The first stage's that fails; outputs of stages before it stay. [`PipelineError::InUse`] when another
/// process works in the run's folder.
pub fn run_all(
    context: &Job,
    options: &RunOptions,
    mut done: impl FnMut(Stage, &Outcome),
) -> Result<(), PipelineError> {
    let _lock = RunLock::take_new(&context.run)?;
    if options.unpublished
        && let Some(link) = context.published_as()
    {
        return Err(PipelineError::usage(format!(
            "run: {} names {}, so what changes there cannot stay unpublished: without --no-publish the link is withdrawn meanwhile; or give --run another folder",
            link.display(),
            context.run.root().display()
        )));
    }
    if let Some(link) = context.run.latest().filter(|_| context.run.name() != LATEST && !options.unpublished) {
        // Before the night's work, not after.
        check_link(&link)?;
    }
    // A stage that has an output may have nothing to do; what cannot be read is the first stage's to name.
    let redone = |stage: Stage| context.force || options.from.is_some_and(|from| stage >= from);
    let due = options.stages(&context.config).filter(|stage| redone(*stage) || !stage.has_output(&context.run));
    let due: Vec<Stage> = due.collect();
    if due.iter().any(|stage| stage.runs_towers(context.config.recall.fused)) {
        require_runtime("run", context.config.infer.engine)?;
    }
    if let Ok(least) = forecast::forecast(&context.config, options.adopt.as_deref(), due) {
        forecast::check(context.memory, &least)?;
    }
    for stage in options.stages(&context.config) {
        context.cancel.check("run")?;
        let mut context = context.clone();
        context.force |= options.from.is_some_and(|from| stage >= from);
        context.sole = true;
        stage.run(&context, options, |outcome| done(stage, outcome))?;
        // The next stage begins with no more memory held than a command of its own would.
        allocator::give_back();
    }
    if options.unpublished { Ok(()) } else { switch_latest(context) }
}

/// Asks the gates about a run whose stages were done one by one, such as in shards, and points `latest` at it.
///
/// # Errors
/// Those of the gates; [`PipelineError::Mismatch`] for a run that lacks a stage or a shard, which the same command again
/// does not mend, and for results that are not what their manifests say; [`PipelineError::InUse`] when another process
/// works in the run's folder.
pub fn publish(context: &Job, accept: &[Gate]) -> Result<Outcome, PipelineError> {
    let _lock = RunLock::take(&context.run, Access::Sole)?;
    publish_complete(context, accept).map_err(PipelineError::incomplete_if_missing)
}

fn publish_complete(context: &Job, accept: &[Gate]) -> Result<Outcome, PipelineError> {
    // The shards were made at other times, maybe by other machines.
    let recalled = complete_set("publish", &context.run.recall(), "twotower recall")?;
    for part in &recalled {
        part.manifest.files.iter().try_for_each(|file| verify_file("publish", &part.base, file, &context.cancel))?;
    }
    same_job(context)?;
    recalled.first().map_or(Ok(()), |part| same_tables(context, &part.manifest))?;
    let outcome = check(&context.obeying(Config::check_settings), accept, false)?;
    switch_latest(context)?;
    Ok(outcome)
}

/// Refuses a job of other columns or features than the run was made with.
fn same_job(context: &Job) -> Result<(), PipelineError> {
    let encoded =
        require("publish", &context.run.encoders().join(files::encoders::MANIFEST), "twotower encode-features")?;
    let made: EncodeRecord = settings("publish", &encoded)?;
    let now = as_written(&serde_json::json!(context.config.encode_settings()));
    let now: EncodeRecord = serde_json::from_value(now)
        .map_err(|e| PipelineError::Data(format!("publish: the job's settings of `encode-features` as JSON: {e}")))?;
    let named = |record: EncodeRecord| {
        let EncodeRecord { tables, features } = record;
        [
            ("tables.users.id", tables.users.id.into()),
            ("tables.items.id", tables.items.id.into()),
            ("tables.interactions.user", tables.interactions.user.into()),
            ("tables.interactions.item", tables.interactions.item.into()),
            ("features", features),
        ]
    };
    for ((setting, now), (_, made)) in named(now).into_iter().zip(named(made)) {
        if now != made {
            return Err(PipelineError::Mismatch(format!(
                "publish: `{setting}` of the job is {now}, {} was made with {made}; run `twotower run`, or the stages from `encode-features` on",
                context.run.root().display()
            )));
        }
    }
    Ok(())
}

/// Compares the tables of a job with those that the results were made from. Tables that say which items may be
/// retrieved must be the same, unless the job is forced; for users and interactions that have changed there is a
/// warning.
fn same_tables(context: &Job, recalled: &Manifest) -> Result<(), PipelineError> {
    let encoded =
        require("publish", &context.run.encoders().join(files::encoders::MANIFEST), "twotower encode-features")?;
    let settings = context.config.recall_settings();
    let sides = [Side::User, Side::Item].map(|side| (tables::of(side), &context.config.table(side).source));
    let lists: Vec<_> = Exclusion::sources(&settings).collect();
    let dropped = [ALLOW, DENY, EXCLUSIONS]
        .into_iter()
        .find(|name| recalled.inputs.contains_key(*name) && lists.iter().all(|(list, _)| list != name));
    let redo = "run `twotower run`, which redoes what they change, or publish the results as they are with --force";
    if let (Some(name), false) = (dropped, context.force) {
        return Err(PipelineError::Mismatch(format!(
            "publish: the results were made with `recall.{name}`, which the job has not; {redo}"
        )));
    }
    let seen = settings.recall.exclude_seen.then_some((INTERACTIONS, &context.config.tables.interactions.source));
    for (name, source) in sides.into_iter().chain(seen).chain(lists) {
        let made = encoded.inputs.get(name).or_else(|| recalled.inputs.get(name));
        match Table::open(name, source) {
            Ok(now) if made == Some(&now.fingerprint()) => {}
            Ok(_) if context.force || name == USERS || name == INTERACTIONS => {
                tracing::warn!("publish: {name}: the table has changed since; the results are of its earlier rows");
            }
            Ok(_) => {
                return Err(PipelineError::Mismatch(format!(
                    "publish: {name}: the table has changed since the results were made, so they may hold items that users must not get; {redo}"
                )));
            }
            Err(error) => tracing::warn!("publish: {error}; whether it has changed since is not known"),
        }
    }
    Ok(())
}

fn switch_latest<S>(context: &Context<S>) -> Result<(), PipelineError> {
    let root = context.run.root();
    let real = root.canonicalize().map_err(PipelineError::io("resolve", root))?;
    let (Some(link), Some(name)) = (context.run.latest(), real.file_name()) else { return Ok(()) };
    let Some(runs) = link.parent() else { return Ok(()) };
    if context.run.name() == LATEST {
        tracing::warn!("run: {} is the run itself, so that no link of this name can name it", link.display());
        return Ok(());
    }
    let _switching = RunLock::of_latest(runs, "run", &context.cancel)?;
    switch_link(&link, PathBuf::from(name))?;
    Ok(())
}
