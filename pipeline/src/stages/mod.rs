//! What every stage shares: its context, the key that says whether its output is current, its outcome.

pub(crate) mod adopt;
pub mod encode;
pub(crate) mod encode_warnings;
pub(crate) mod encoded;
pub mod evaluate;
pub mod gates;
pub mod infer;
pub mod recall;
pub mod towers;
pub mod train;
pub(crate) mod user_passes;

use crate::config::{Config, Execution};
use crate::error::PipelineError;
use crate::run::dir::RunDir;
use crate::run::lock::RunLock;
use crate::stream::memory::{Memory, Needs, Plan};
use crate::stream::shard::Shard;
use crate::watch::allocator;
use crate::watch::cancel::Cancel;
use crate::watch::progress::Progress;
use crate::watch::stall::Step;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use twotower_artifacts::manifest::{FileEntry, Manifest};
use twotower_artifacts::{Fingerprint, publish};

/// Outputs of another version are not current: how they are made may have changed.
const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether a manifest is of this program's version.
pub fn made_by_this_version(manifest: &Manifest) -> bool {
    manifest.tool_version == TOOL_VERSION
}

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
    /// The output was current, nothing was done.
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

/// Everything a stage's output depends on. Equal keys, equal outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct StageKey {
    /// Name of the stage.
    pub stage: &'static str,
    /// Fingerprints of what it reads.
    pub inputs: BTreeMap<String, Fingerprint>,
    /// The settings it obeys, resolved.
    pub config: Value,
}

impl StageKey {
    /// The manifest at `path` if it was made under this key and its files are the ones it speaks of, byte
    /// for byte: one pass over them.
    ///
    /// # Errors
    /// A manifest that cannot be read, a signal; an absent manifest, and files that are not its own, are no
    /// error: the work is done again.
    pub fn current(&self, path: &Path, cancel: &Cancel) -> Result<Option<Manifest>, PipelineError> {
        if !path.exists() {
            return Ok(None);
        }
        let manifest = Manifest::read(path)?;
        let config = as_written(&self.config);
        let same = (manifest.stage == self.stage, &manifest.tool_version[..]) == (true, TOOL_VERSION)
            && manifest.inputs == self.inputs
            && manifest.config == config;
        if !same {
            return Ok(None);
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        let sizes = |f: &FileEntry| std::fs::metadata(dir.join(&f.path)).is_ok_and(|m| m.len() == f.bytes);
        if !manifest.files.iter().all(sizes) {
            return Ok(None);
        }
        for file in &manifest.files {
            match verify_file(self.stage, dir, file, cancel) {
                Ok(()) => {}
                Err(stopped @ PipelineError::Interrupted { .. }) => return Err(stopped),
                Err(error) => {
                    tracing::warn!("{}: {error}; doing it again", self.stage);
                    return Ok(None);
                }
            }
        }
        Ok(Some(manifest))
    }

    /// The manifest of an output made under this key.
    pub fn manifest(&self, files: Vec<FileEntry>, rows: BTreeMap<String, u64>, started: Instant) -> Manifest {
        let mut manifest = Manifest::new(self.stage, TOOL_VERSION, content_fingerprint(&files));
        manifest.inputs = self.inputs.clone();
        manifest.config = self.config.clone();
        manifest.rows = rows;
        manifest.files = files;
        manifest.seconds = started.elapsed().as_secs_f64();
        manifest
    }
}

/// Checks that a file is the one its manifest speaks of, byte for byte; a signal ends that.
///
/// # Errors
/// [`ArtifactError::Corrupt`](twotower_artifacts::ArtifactError::Corrupt) when it is not,
/// [`PipelineError::Interrupted`].
pub fn verify_file(stage: &'static str, dir: &Path, file: &FileEntry, cancel: &Cancel) -> Result<(), PipelineError> {
    let go_on = || if cancel.is_stopped() { Err(std::io::Error::other("stopped")) } else { Ok(()) };
    let found = file.verify_while(dir, go_on);
    cancel.check(stage)?;
    Ok(found?)
}

/// Fingerprint of a set of files by name and content.
pub fn content_fingerprint<'a>(files: impl IntoIterator<Item = &'a FileEntry>) -> Fingerprint {
    Fingerprint::of_parts(files.into_iter().map(|f| (f.path.as_str(), f.blake3.as_bytes())))
}

/// A value written out and read back, as manifests are: floats may change in the last bit.
pub fn as_written(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or_default()
}

/// Rows by name, for a manifest.
pub fn rows<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, n)| (name.to_string(), n)).collect()
}

/// Publishes a value as indented JSON.
///
/// # Errors
/// [`PipelineError::Artifact`] when it cannot be written.
pub fn publish_json(path: &Path, value: &impl Serialize) -> Result<(), PipelineError> {
    Ok(publish::publish_file(path, |file| Ok(serde_json::to_writer_pretty(file, value)?))?)
}

/// Reads the manifest that an earlier stage must have left.
///
/// # Errors
/// [`PipelineError::MissingInput`] naming the command that makes it.
pub fn require(stage: &'static str, path: &Path, command: &str) -> Result<Manifest, PipelineError> {
    if !path.exists() {
        return Err(PipelineError::MissingInput {
            stage,
            path: path.to_path_buf(),
            advice: format!("run `{command}` first"),
        });
    }
    Ok(Manifest::read(path)?)
}

/// Makes a folder ready for a stage's output: it exists, and temporary files of dead writers are gone.
///
/// # Errors
/// [`PipelineError::Artifact`] naming it.
pub fn prepare_dir(path: &Path) -> Result<(), PipelineError> {
    publish::create_folder(path)?;
    publish::remove_stale_temps(path)?;
    Ok(())
}

/// Removes a file; that it is not there is fine.
///
/// # Errors
/// [`PipelineError::Artifact`] naming it.
pub fn remove_if_there(path: &Path) -> Result<(), PipelineError> {
    Ok(publish::remove(path)?)
}

/// Parts of a table, in order.
pub type Parts = std::iter::Inspect<std::vec::IntoIter<Shard>, fn(&Shard)>;

impl Job {
    /// The part of the job that a stage obeys, such as `Config::train_settings`.
    pub fn obeying<S>(&self, settings: impl FnOnce(&Config) -> S) -> Context<S> {
        self.with(settings(&self.config))
    }
}

impl<S: Serialize> Context<S> {
    /// The key of a stage's output: its inputs by name, all settings that the stage can see, and what it does not
    /// have from the job, such as its shard.
    pub fn key<'a, 'b>(
        &self,
        stage: &'static str,
        inputs: impl IntoIterator<Item = (&'a str, Fingerprint)>,
        beside: impl IntoIterator<Item = (&'b str, Value)>,
    ) -> StageKey {
        let mut config: Map<String, Value> = beside.into_iter().map(|(name, v)| (name.to_string(), v)).collect();
        match serde_json::json!(self.config) {
            Value::Object(settings) => config.extend(settings),
            other => _ = config.insert("settings".into(), other),
        }
        let inputs = inputs.into_iter().map(|(name, f)| (name.to_string(), f)).collect();
        StageKey { stage, inputs, config: config.into() }
    }
}

impl<S> Context<S> {
    /// The same, with other settings: those of a step within the stage.
    pub fn with<T>(&self, config: T) -> Context<T> {
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

    /// What to do of a table of `rows`: the `chosen` shard, or all of it in parts of `run.part_users` rows, each
    /// begun with no more memory held than the first.
    ///
    /// # Errors
    /// Those of `rows`, which a chosen shard does not ask for: other shards may not be there yet.
    pub fn parts(
        &self,
        chosen: Option<Shard>,
        rows: impl FnOnce() -> Result<u64, PipelineError>,
    ) -> Result<Parts, PipelineError> {
        let parts = match chosen {
            Some(shard) => vec![shard],
            None => Shard::all(rows()?, self.execution.part_users).collect(),
        };
        Ok(parts.into_iter().inspect(|_| allocator::give_back()))
    }

    /// The stream that fits the memory budget, as wide as the job asks at the most.
    ///
    /// # Errors
    /// As [`Memory::plan`].
    pub fn plan(&self, needs: &Needs) -> Result<Plan, PipelineError> {
        self.plan_of(needs, self.execution.batch_rows)
    }

    /// As [`Context::plan`], with batches of at most `batch_rows` rows.
    ///
    /// # Errors
    /// As [`Memory::plan`].
    pub fn plan_of(&self, needs: &Needs, batch_rows: usize) -> Result<Plan, PipelineError> {
        let plan = self.memory.plan(needs, self.execution.workers, batch_rows)?;
        tracing::debug!("{}: {} of memory, {plan:?}", needs.stage, self.memory);
        if plan.width.workers < self.execution.workers {
            let (given, asked) = (plan.width.workers, self.execution.workers);
            tracing::warn!("{}: {given} of {asked} workers fit into {} of memory", needs.stage, self.memory);
        }
        Ok(plan)
    }

    /// Takes an output's manifest back, directly before the output changes, and with it what says that the
    /// run is complete: the link `latest`, if it names this run, and the manifest of the gates.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] when either cannot be removed; then nothing may be overwritten.
    pub fn retract(&self, manifest: &Path) -> Result<(), PipelineError> {
        self.withdraw()?;
        remove_if_there(manifest)
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
    pub fn withdraw(&self) -> Result<(), PipelineError> {
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
        remove_if_there(&self.run.gates().join(crate::stages::gates::files::MANIFEST))
    }
}
