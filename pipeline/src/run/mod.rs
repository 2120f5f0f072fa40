//! `run`: all stages in order in one run folder, skipping what is complete and current.

pub(crate) mod chain;
pub(crate) mod contents;
pub mod dir;
pub(crate) mod forecast;
pub mod list;
pub mod lock;
pub mod output_folder;
pub mod verify;

use crate::config::Config;
use crate::error::PipelineError;
use crate::stages::adopt::adopt_towers;
use crate::stages::encode::{self, EncodeOptions, encode_features};
use crate::stages::evaluate::evaluate;
use crate::timeline::exclusions::Exclusion;

use crate::rows::quarantine::{INTERACTIONS, USERS};
use crate::run::dir::{LATEST, RunDir};
use crate::run::lock::{Access, RunLock};
use crate::stages::gates::{Gate, check};
use crate::stages::infer::Infer;
use crate::stages::recall::Recall;
use crate::stages::train::{TrainOptions, train_model};
use crate::stages::{Context, Job, Outcome, as_written, require, verify_file};
use crate::stream::parts::complete_set;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use twotower_artifacts::publish::{check_link, switch_link};
use twotower_artifacts::{Manifest, Side};
use twotower_tables::Table;

/// A stage of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Vocabularies, bounds and encoded tables.
    EncodeFeatures,
    /// The towers.
    Train,
    /// Vectors of items.
    InferItems,
    /// Vectors of users.
    InferUsers,
    /// Items for each user.
    Recall,
    /// Metrics.
    Evaluate,
    /// Gates, before the run is published.
    Check,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 7] = [
        Stage::EncodeFeatures,
        Stage::Train,
        Stage::InferItems,
        Stage::InferUsers,
        Stage::Recall,
        Stage::Evaluate,
        Stage::Check,
    ];

    /// The name as typed and printed.
    pub fn name(self) -> &'static str {
        match self {
            Stage::EncodeFeatures => "encode-features",
            Stage::Train => "train",
            Stage::InferItems => "infer-items",
            Stage::InferUsers => "infer-users",
            Stage::Recall => "recall",
            Stage::Evaluate => "evaluate",
            Stage::Check => "check",
        }
    }

    /// Whether the stage has left an output, which may be current.
    fn has_output(self, run: &RunDir) -> bool {
        let parts = |dir: PathBuf| complete_set("run", &dir, "twotower run").is_ok();
        match self {
            Stage::EncodeFeatures => run.encoders().join(crate::stages::encode::files::MANIFEST).exists(),
            Stage::Train => run.towers().join(crate::stages::towers::files::MANIFEST).exists(),
            Stage::InferItems => parts(run.vectors(Side::Item)),
            Stage::InferUsers => parts(run.vectors(Side::User)),
            Stage::Recall => parts(run.recall()),
            Stage::Evaluate => run.evaluation().join(crate::stages::evaluate::files::MANIFEST).exists(),
            Stage::Check => run.gates().join(crate::stages::gates::files::MANIFEST).exists(),
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
                let infer = Infer::open(&context, None)?;
                for shard in context.parts(None, || Ok(infer.rows()))? {
                    done(&infer.shard(shard)?);
                }
            }
            Stage::Recall => {
                let context = job.obeying(Config::recall_settings);
                let mut recall = Recall::open(&context)?;
                for shard in context.parts(None, || recall.rows())? {
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
    /// Gates whose failure does not keep the run from being published.
    pub accept: Vec<Gate>,
    /// Leave the link `latest` as it is.
    pub unpublished: bool,
}

impl RunOptions {
    /// The stages that a run of `config` has, in order: none that nothing would read, or measure.
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
    if let Ok(least) = forecast::forecast(&context.config, options.adopt.as_deref(), due) {
        forecast::check(context.memory, &least)?;
    }
    for stage in options.stages(&context.config) {
        context.cancel.check("run")?;
        let mut context = context.clone();
        context.force |= options.from.is_some_and(|from| stage >= from);
        context.sole = true;
        stage.run(&context, options, |outcome| done(stage, outcome))?;
    }
    if options.unpublished { Ok(()) } else { switch_latest(context) }
}

/// Asks the gates about a run whose stages were done one by one, in shards say, and points `latest` at it.
///
/// # Errors
/// As [`check`]; results that are not what their manifests say; [`PipelineError::InUse`] when another process works in the run's folder.
pub fn publish(context: &Job, accept: &[Gate]) -> Result<Outcome, PipelineError> {
    let _lock = RunLock::take(&context.run, Access::Sole)?;
    let dir = context.run.recall();
    // The shards were made at other times, maybe by other machines.
    let recalled = complete_set("publish", &dir, "twotower recall")?;
    for part in &recalled {
        part.files.iter().try_for_each(|file| verify_file("publish", &dir, file, &context.cancel))?;
    }
    same_job(context)?;
    recalled.first().map_or(Ok(()), |part| same_tables(context, part))?;
    let outcome = check(&context.obeying(Config::check_settings), accept, false)?;
    switch_latest(context)?;
    Ok(outcome)
}

/// Refuses a job of other columns or features than the run was made with.
fn same_job(context: &Job) -> Result<(), PipelineError> {
    let encoded =
        require("publish", &context.run.encoders().join(encode::files::MANIFEST), "twotower encode-features")?;
    let now = as_written(&serde_json::json!(context.config.encode_settings()));
    for setting in
        ["/tables/users/id", "/tables/items/id", "/tables/interactions/user", "/tables/interactions/item", "/features"]
    {
        let (now, made) = (now.pointer(setting), encoded.config.pointer(setting));
        if now != made {
            let shown = |value: Option<&serde_json::Value>| value.map_or("none".to_string(), ToString::to_string);
            return Err(PipelineError::Mismatch(format!(
                "publish: `{}` of the job is {}, {} was made with {}; run `twotower run`, or the stages from `encode-features` on",
                setting.trim_start_matches('/').replace('/', "."),
                shown(now),
                context.run.root().display(),
                shown(made)
            )));
        }
    }
    Ok(())
}

/// Compares the tables of a job with those that the results were made from. Those that say which items may be retrieved
/// must be the same, unless it is forced; of users and interactions that changed since, there is a warning.
fn same_tables(context: &Job, recalled: &Manifest) -> Result<(), PipelineError> {
    let encoded =
        require("publish", &context.run.encoders().join(encode::files::MANIFEST), "twotower encode-features")?;
    let settings = context.config.recall_settings();
    let sides = [Side::User, Side::Item].map(|side| (format!("{side}s"), &context.config.table(side).source));
    let lists: Vec<_> = Exclusion::sources(&settings).map(|(name, source)| (name.to_string(), source)).collect();
    let dropped = ["allow", "deny", "exclusions"]
        .into_iter()
        .find(|name| recalled.inputs.contains_key(*name) && lists.iter().all(|(list, _)| list != name));
    let redo = "run `twotower run`, which redoes what they change, or publish the results as they are with --force";
    if let (Some(name), false) = (dropped, context.force) {
        return Err(PipelineError::Mismatch(format!(
            "publish: the results were made with `recall.{name}`, which the job has not; {redo}"
        )));
    }
    let seen =
        settings.recall.exclude_seen.then(|| (INTERACTIONS.to_string(), &context.config.tables.interactions.source));
    for (name, source) in sides.into_iter().chain(seen).chain(lists) {
        let made = encoded.inputs.get(&name).or_else(|| recalled.inputs.get(&name));
        match Table::open(&name, source) {
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
