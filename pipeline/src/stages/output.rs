//! What every stage does around its own work: whether its output is current, and how a new one takes its place.
//!
//! ```text
//! begin ─▶ current: nothing to do
//!      └─▶ due ─▶ prepare ─▶ the work, beside the old output ─▶ replace ─▶ files get their names ─▶ publish
//! ```
//!
//! From `replace` to `publish` there is no manifest, so that an interrupted stage leaves nothing that counts.

use super::{Context, Outcome};
use crate::error::PipelineError;
use crate::run::dir::{prepare_dir, remove_if_there};
use crate::run::manifests::{as_written, content_fingerprint, verify_file};
use crate::run::mirror;
use crate::stream::part_folder::{Layout, PartFolder};
use crate::stream::parts::{exclude_other_counts, refuse_stranger};
use crate::stream::shard::Shard;
use crate::watch::cancel::Cancel;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use twotower_artifacts::{ArtifactError, FileEntry, Fingerprint, Manifest};

/// Outputs of another version are not current: how they are made may have changed.
const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether a manifest is of this program's version.
pub(crate) fn made_by_this_version(manifest: &Manifest) -> bool {
    manifest.tool_version == TOOL_VERSION
}

/// Everything a stage's output depends on. Equal keys, equal outputs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StageKey {
    /// Name of the stage.
    pub(crate) stage: &'static str,
    /// Fingerprints of what it reads.
    pub(crate) inputs: BTreeMap<String, Fingerprint>,
    /// The settings it obeys, resolved.
    pub(crate) config: Value,
}

impl StageKey {
    /// The manifest at `path` if it was made under this key and its files, whose paths count from `base`, are the ones
    /// it speaks of, byte for byte: one pass over them. An absent manifest, and files that are not its own, are no error: the work is
    /// done again.
    ///
    /// # Errors
    /// A manifest that cannot be read, a signal.
    fn current(&self, path: &Path, base: &Path, cancel: &Cancel) -> Result<Option<Manifest>, PipelineError> {
        if !path.exists() {
            return Ok(None);
        }
        let manifest = Manifest::read(path)?;
        let same = manifest.stage == self.stage
            && made_by_this_version(&manifest)
            && manifest.inputs == self.inputs
            && manifest.config == as_written(&self.config);
        if !same {
            return Ok(None);
        }
        let has_its_size = |f: &FileEntry| std::fs::metadata(base.join(&f.path)).is_ok_and(|m| m.len() == f.bytes);
        if !manifest.files.iter().all(has_its_size) {
            return Ok(None);
        }
        for file in &manifest.files {
            match verify_file(self.stage, base, file, cancel) {
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

    /// A manifest of files made under this key, without details.
    pub(crate) fn manifest(&self, files: Vec<FileEntry>, rows: BTreeMap<String, u64>, started: Instant) -> Manifest {
        let mut manifest = Manifest::new(self.stage, TOOL_VERSION, content_fingerprint(&files));
        manifest.inputs = self.inputs.clone();
        manifest.config = self.config.clone();
        manifest.rows = rows;
        manifest.files = files;
        manifest.seconds = started.elapsed().as_secs_f64();
        manifest
    }
}

/// Where an output stands.
pub(crate) struct Place {
    /// Where its files are written.
    dir: PathBuf,
    /// Where its manifest is written.
    manifest: ManifestPlace,
    /// Where an earlier version wrote it, if that was elsewhere.
    earlier: Option<ManifestPlace>,
    /// Whether the published run is another one when this output changes.
    is_published: bool,
}

/// Where a manifest stands, and the folder from which the paths in it count.
struct ManifestPlace {
    path: PathBuf,
    base: PathBuf,
}

impl Place {
    /// An output in the folder `dir` that results of the run depend on: before it changes, the run is withdrawn.
    pub(crate) fn of_results(dir: PathBuf, manifest: &str) -> Self {
        Self { is_published: true, ..Self::beside_results(dir, manifest) }
    }

    /// An output in the folder `dir` that no result of the run depends on.
    pub(crate) fn beside_results(dir: PathBuf, manifest: &str) -> Self {
        let manifest = ManifestPlace { path: dir.join(manifest), base: dir.clone() };
        Self { dir, manifest, earlier: None, is_published: false }
    }

    /// The part of a shard, which other results of the run depend on or not.
    pub(crate) fn of_part(folder: &PartFolder, shard: Shard, is_published: bool) -> Self {
        let place = |layout| ManifestPlace { path: folder.manifest(layout, shard), base: folder.base(layout) };
        Self { dir: folder.data(), manifest: place(Layout::Apart), earlier: Some(place(Layout::Beside)), is_published }
    }

    /// Where a manifest of it may stand.
    fn manifests(&self) -> impl Iterator<Item = &ManifestPlace> {
        std::iter::once(&self.manifest).chain(&self.earlier)
    }
}

/// How a stage begins: with nothing to do, or with work.
pub(crate) enum Prologue<'a, S> {
    /// With an output that is current: there is nothing to do.
    Current(Outcome),
    /// With an output to be made.
    Due(Output<'a, S>),
}

/// An output that is being made.
pub(crate) struct Output<'a, S> {
    context: &'a Context<S>,
    key: StageKey,
    place: Place,
    started: Instant,
}

/// What a manifest says about an output beside its key.
pub(crate) struct Summary<D> {
    /// Files, as they stand under their names.
    pub(crate) files: Vec<FileEntry>,
    /// Row counts by name ([`crate::run::names::rows`]).
    pub(crate) rows: BTreeMap<String, u64>,
    /// Fingerprint of the output; that of its files where none is given.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Seed, for stages that draw.
    pub(crate) seed: Option<u64>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
    /// One of [`crate::run::details`].
    pub(crate) details: D,
}

impl<D> Summary<D> {
    /// Files with row counts and details; the rest is empty.
    pub(crate) fn new(files: Vec<FileEntry>, rows: BTreeMap<String, u64>, details: D) -> Self {
        Self { files, rows, fingerprint: None, seed: None, warnings: Vec::new(), details }
    }
}

impl<S: Serialize> Context<S> {
    /// The key of a stage's output: its inputs by name, all settings that the stage can see, and what it does not
    /// have from the job, such as its shard.
    pub(crate) fn key<'a, 'b>(
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
    /// Begins an output under a key. One that is there is current if it was made under the same key, its files are
    /// its own, and `is_good` says so; unless the stage is to be done anew in any case. `started` is when the stage
    /// began to look at its inputs.
    ///
    /// # Errors
    /// A manifest that cannot be read; those of `is_good`; a signal.
    pub(crate) fn begin(
        &self,
        key: StageKey,
        place: Place,
        started: Instant,
        is_good: impl FnOnce(&Manifest) -> Result<bool, PipelineError>,
    ) -> Result<Prologue<'_, S>, PipelineError> {
        let mut found = None;
        for ManifestPlace { path, base } in place.manifests().filter(|_| !self.force) {
            found = key.current(path, base, &self.cancel)?;
            if found.is_some() {
                break;
            }
        }
        if let Some(manifest) = found
            && is_good(&manifest)?
        {
            return Ok(Prologue::Current(Outcome { skipped: true, manifest }));
        }
        Ok(Prologue::Due(Output { context: self, key, place, started }))
    }
}

impl<S> Output<'_, S> {
    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The key it is made under.
    pub(crate) fn key(&self) -> &StageKey {
        &self.key
    }

    /// When the stage began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Makes its folder, that of its manifest and those `below` it ready: they exist, and temporary files of dead writers are gone.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] naming the folder.
    pub(crate) fn prepare(&self, below: &[&str]) -> Result<(), PipelineError> {
        prepare_dir(&self.place.dir)?;
        if let Some(folder) = self.place.manifest.path.parent().filter(|folder| *folder != self.place.dir) {
            prepare_dir(folder)?;
        }
        below.iter().try_for_each(|name| prepare_dir(&self.place.dir.join(name)))
    }

    /// As [`Output::prepare`], for the part of a shard in a file with this extension: parts of another number of shards
    /// are removed or refused, and so is a file in its place that no stage wrote.
    ///
    /// # Errors
    /// Those of [`exclude_other_counts`] and [`refuse_stranger`].
    pub(crate) fn prepare_part(&self, folder: &PartFolder, shard: Shard, extension: &str) -> Result<(), PipelineError> {
        self.prepare(&[])?;
        let (stage, context) = (self.key.stage, self.context);
        exclude_other_counts(stage, folder, shard, context.force || context.sole, || self.withdraw())?;
        refuse_stranger(stage, folder, shard, extension)
    }

    /// Withdraws the run, if its results depend on this output.
    ///
    /// # Errors
    /// As [`Context::withdraw`]; then nothing may be overwritten.
    fn withdraw(&self) -> Result<(), PipelineError> {
        if self.place.is_published { self.context.withdraw() } else { Ok(()) }
    }

    /// Takes the earlier output's manifest back, directly before files change, and before it what says that the run
    /// is complete.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] when either cannot be removed; then nothing may be overwritten.
    pub(crate) fn replace(&self) -> Result<(), PipelineError> {
        self.withdraw()?;
        self.place.manifests().try_for_each(|manifest| remove_if_there(&manifest.path))
    }

    /// Writes the manifest, which makes the output complete.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] when it cannot be written.
    pub(crate) fn publish<D: Serialize>(self, summary: Summary<D>) -> Result<Outcome, PipelineError> {
        let Summary { files, rows, fingerprint, seed, warnings, details } = summary;
        let path = self.place.manifest.path;
        let mut manifest = self.key.manifest(files, rows, self.started);
        manifest.fingerprint = fingerprint.unwrap_or(manifest.fingerprint);
        manifest.seed = seed;
        manifest.warnings = warnings;
        manifest.details = as_json(&path, &details)?;
        manifest.write(&path)?;
        Ok(Outcome { skipped: false, manifest })
    }

    /// As [`Output::publish`], for the part of a shard.
    ///
    /// # Errors
    /// As [`Output::publish`]; parts of another number of shards that somebody has begun to write meanwhile.
    pub(crate) fn publish_part<D: Serialize>(
        self,
        folder: &PartFolder,
        shard: Shard,
        summary: Summary<D>,
    ) -> Result<Outcome, PipelineError> {
        let stage = self.key.stage;
        let is_sole = self.context.sole;
        let outcome = self.publish(summary)?;
        if !is_sole {
            mirror::refresh(&folder.manifests())?;
        }
        // Who writes later finds the parts of the other.
        exclude_other_counts(stage, folder, shard, false, || Ok(()))?;
        Ok(outcome)
    }
}

/// Details as they stand in the manifest at `path`.
///
/// # Errors
/// [`PipelineError::Artifact`] for what JSON cannot say, such as a path that is no text.
pub(crate) fn as_json(path: &Path, details: &impl Serialize) -> Result<Value, PipelineError> {
    let failed = |e: serde_json::Error| ArtifactError::Io { action: "write", path: path.into(), source: e.into() };
    Ok(serde_json::to_value(details).map_err(failed)?)
}

/// Row counts by name, for a manifest.
pub(crate) fn row_counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, n)| (name.to_string(), n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Execution;
    use crate::run::dir::{LATEST, RunDir};
    use crate::stream::memory::Memory;
    use crate::watch::progress::Progress;

    #[derive(Clone, Serialize)]
    struct Settings {
        size: usize,
    }

    fn context(dir: &Path, size: usize) -> Context<Settings> {
        Context {
            config: Settings { size },
            execution: Execution {
                workers: 1,
                batch_rows: 1,
                part_users: 0,
                train_threads: 1,
                max_bad_rows: 0.0,
                max_unreadable: 1.0,
                store_bytes: 0,
            },
            run: RunDir::new(dir.join("run")),
            force: false,
            sole: false,
            progress: Progress::Quiet,
            cancel: Cancel::default(),
            memory: Memory::new(1 << 30),
        }
    }

    fn begin(context: &Context<Settings>, is_published: bool, is_good: bool) -> Prologue<'_, Settings> {
        let dir = context.run.encoders();
        let place = match is_published {
            true => Place::of_results(dir, "stage.json"),
            false => Place::beside_results(dir, "stage.json"),
        };
        let key = context.key("test", [("table", Fingerprint::of(b"rows"))], [("shard", 0.into())]);
        context.begin(key, place, Instant::now(), |_| Ok(is_good)).unwrap()
    }

    fn due(context: &Context<Settings>, is_published: bool, is_good: bool) -> Output<'_, Settings> {
        match begin(context, is_published, is_good) {
            Prologue::Due(output) => output,
            Prologue::Current(_) => panic!("there is nothing to do"),
        }
    }

    fn publish(output: Output<'_, Settings>) -> Manifest {
        std::fs::write(output.dir().join("a.bin"), b"content").unwrap();
        let files = vec![FileEntry::of_file(output.dir(), "a.bin", 7).unwrap()];
        output.publish(Summary::new(files, row_counts([("users", 7)]), ["detail"])).unwrap().manifest
    }

    #[test]
    fn an_output_is_current_only_under_its_key_with_its_files_and_if_it_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path(), 1);
        let output = due(&context, false, true);
        output.prepare(&["below"]).unwrap();
        assert!(output.dir().join("below").is_dir());
        let made = publish(output);
        assert_eq!((made.stage.as_str(), &made.config), ("test", &serde_json::json!({ "shard": 0, "size": 1 })));
        assert_eq!((made.rows["users"], &made.details), (7, &serde_json::json!(["detail"])));
        assert_eq!(made.fingerprint, content_fingerprint(&made.files));
        match begin(&context, false, true) {
            Prologue::Current(outcome) => assert!(outcome.skipped && outcome.manifest == made),
            Prologue::Due(_) => panic!("the output is current"),
        }
        due(&context, false, false);
        due(&Context { force: true, ..context.clone() }, false, true);
        due(&self::context(dir.path(), 2), false, true);
        std::fs::write(context.run.encoders().join("a.bin"), b"c0ntent").unwrap();
        due(&context, false, true);
    }

    #[test]
    fn an_output_of_results_withdraws_the_run_before_its_manifest_goes_and_no_other_does() {
        for is_published in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let context = context(dir.path(), 1);
            let output = due(&context, is_published, true);
            output.prepare(&[]).unwrap();
            publish(output);
            let (link, manifest) = (dir.path().join(LATEST), context.run.encoders().join("stage.json"));
            std::os::unix::fs::symlink("run", &link).unwrap();
            let output = due(&context, is_published, false);
            assert!(link.is_symlink() && manifest.exists(), "nothing has changed before it is replaced");
            output.replace().unwrap();
            assert_eq!((link.is_symlink(), manifest.exists()), (!is_published, false));
            publish(output);
            assert!(manifest.exists());
        }
    }
}
