//! What every stage shares: its context and its outcome. How each begins and ends its output is in `output`.

pub(crate) mod adopt;
pub mod earlier;
pub mod encode;
pub(crate) mod encode_warnings;
pub(crate) mod encoded;
pub mod evaluate;
pub mod export;
pub mod gates;
pub mod infer;
pub(crate) mod item_table;
pub(crate) mod output;
pub mod recall;
pub mod towers;
pub mod train;
pub(crate) mod user_passes;

use crate::config::{Config, Execution};
use crate::error::PipelineError;
use crate::run::dir::{RunDir, remove_if_there};
use crate::run::files;
use crate::run::lock::RunLock;
use crate::stream::memory::{Memory, Needs, Plan};
use crate::stream::shard::Shard;
use crate::watch::allocator;
use crate::watch::cancel::Cancel;
use crate::watch::progress::Progress;
use crate::watch::stall::Step;
use std::path::PathBuf;
use twotower_artifacts::Manifest;

/// What a stage works with. `S` is the part of the job that it obeys, such as
/// [`RecallSettings`](crate::config::RecallSettings): its key holds all of it, and the stage sees no more of the job.
#[derive(Debug, Clone)]
pub struct Context<S> {
    /// The settings that the stage obeys.
    pub config: S,
    /// How it goes about its work, which changes no output.
    pub execution: Execution,
    /// Where outputs go.
    pub run: RunDir,
    /// Redo the stage even when its output is current.
    pub force: bool,
    /// Nobody else works in the run's folder: parts of another number of shards may be replaced.
    pub sole: bool,
    /// Whether progress is shown.
    pub progress: Progress,
    /// A request to stop.
    pub cancel: Cancel,
    /// The most memory a stage may use.
    pub memory: Memory,
}

/// A whole job, before its stages are given what they obey of it.
pub type Job = Context<Config>;

/// What a stage did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Whether the output was current, so that nothing was done.
    pub skipped: bool,
    /// The output's manifest.
    pub manifest: Manifest,
}

impl Outcome {
    /// The shard it is of, where there are several.
    pub fn part(&self) -> Option<Shard> {
        Shard::of(&self.manifest).filter(|shard| shard.count > 1)
    }
}

/// Parts of a table, in order.
pub type Parts = std::iter::Inspect<std::vec::IntoIter<Shard>, fn(&Shard)>;

impl Job {
    /// The part of the job that a stage obeys, such as `Config::train_settings`.
    pub fn obeying<S>(&self, settings: impl FnOnce(&Config) -> S) -> Context<S> {
        self.with(settings(&self.config))
    }
}

impl<S> Context<S> {
    /// The same context with other settings, for a step within the stage.
    pub(crate) fn with<T>(&self, config: T) -> Context<T> {
        let Self { execution, run, force, sole, progress, cancel, memory, .. } = self;
        Context {
            config,
            execution: *execution,
            run: run.clone(),
            force: *force,
            sole: *sole,
            progress: *progress,
            cancel: cancel.clone(),
            memory: *memory,
        }
    }

    /// Notes that `what` has begun, for the message of a stage that stands still; it ends with the value.
    pub(crate) fn step(&self, what: impl Into<String>) -> Step {
        self.cancel.watch().step(what)
    }

    /// Does `work`, noted as `what`.
    pub(crate) fn during<T>(&self, what: impl Into<String>, work: impl FnOnce() -> T) -> T {
        let _step = self.step(what);
        work()
    }

    /// The parts that are to be done: of the `chosen` shard of a table of `rows` rows, or of all of it; each of
    /// `run.part_users` rows at the most. Before each part, memory that is out of use is given back.
    ///
    /// # Errors
    /// Those of `rows`, which is given the chosen shard: others may not be there yet.
    pub fn parts(
        &self,
        chosen: Option<Shard>,
        rows: impl FnOnce(Option<Shard>) -> Result<u64, PipelineError>,
    ) -> Result<Parts, PipelineError> {
        let shard = chosen.unwrap_or(Shard::WHOLE);
        let parts: Vec<Shard> = shard.parts(rows(chosen)?, self.execution.part_users).collect();
        if let (Some(shard), true) = (chosen, parts.len() > 1) {
            tracing::info!(
                "shard {shard} is done in {} parts, of which a stopped command keeps the complete ones",
                parts.len()
            );
        }
        Ok(parts.into_iter().inspect(|_| allocator::give_back()))
    }

    /// The stream that fits the memory budget, at most as wide as the job asks.
    ///
    /// # Errors
    /// As [`Memory::plan`].
    pub(crate) fn plan(&self, needs: &Needs) -> Result<Plan, PipelineError> {
        self.plan_of(needs, self.execution.batch_rows)
    }

    /// As [`Context::plan`], with batches of at most `batch_rows` rows.
    ///
    /// # Errors
    /// As [`Memory::plan`].
    pub(crate) fn plan_of(&self, needs: &Needs, batch_rows: usize) -> Result<Plan, PipelineError> {
        let needs = &needs.clone().with_stores(self.execution.store_bytes);
        let plan = self.memory.plan(needs, self.execution.workers, batch_rows)?;
        tracing::debug!("{}: {} of memory, {plan:?}", needs.stage, self.memory);
        if plan.width.workers < self.execution.workers {
            let (given, asked) = (plan.width.workers, self.execution.workers);
            tracing::warn!("{}: {given} of {asked} workers fit into {} of memory", needs.stage, self.memory);
        }
        Ok(plan)
    }

    /// The link `latest`, if it names this run.
    pub fn published_as(&self) -> Option<PathBuf> {
        let link = self.run.latest().filter(|link| link.is_symlink())?;
        let (target, root) = (link.canonicalize().ok()?, self.run.root().canonicalize().ok()?);
        (target == root).then_some(link)
    }

    /// Takes the link `latest` back, if it names this run, and the manifest of the gates.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] when it cannot be removed.
    pub(crate) fn withdraw(&self) -> Result<(), PipelineError> {
        if let Some(link) = self.published_as()
            && let Some(runs) = link.parent()
        {
            let _switching = RunLock::of_latest(runs, "withdraw", &self.cancel)?;
            // It may name another run by now.
            if self.published_as().is_some() {
                tracing::info!("{} withdrawn: this run is changing", link.display());
                remove_if_there(&link)?;
            }
        }
        remove_if_there(&self.run.gates().join(files::gates::MANIFEST))
    }
}
