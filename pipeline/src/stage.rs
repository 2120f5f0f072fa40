//! What every stage shares: its context, the key that says whether its output is current, its outcome.

use crate::cancel::Cancel;
use crate::config::{Config, RunDir};
use crate::error::PipelineError;
use crate::progress::Progress;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use twotower_artifacts::Fingerprint;
use twotower_artifacts::manifest::{FileEntry, Manifest};

/// What a stage works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The job.
    pub config: Config,
    /// Where outputs go.
    pub run: RunDir,
    /// Redo the stage even when its output is current.
    pub force: bool,
    /// Whether progress is shown.
    pub progress: Progress,
    /// A request to stop.
    pub cancel: Cancel,
}

/// What a stage did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The output was current, nothing was done.
    pub skipped: bool,
    /// The output's manifest.
    pub manifest: Manifest,
}

/// Everything a stage's output depends on. Equal keys, equal outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct StageKey {
    /// Name of the stage.
    pub stage: &'static str,
    /// Fingerprints of what it reads.
    pub inputs: BTreeMap<String, Fingerprint>,
    /// The settings it obeys, resolved.
    pub config: serde_json::Value,
}

impl StageKey {
    /// A key from named inputs and settings.
    pub fn new<'a>(
        stage: &'static str,
        inputs: impl IntoIterator<Item = (&'a str, Fingerprint)>,
        config: serde_json::Value,
    ) -> Self {
        Self { stage, inputs: inputs.into_iter().map(|(name, f)| (name.to_string(), f)).collect(), config }
    }

    /// The manifest at `path` if it was made under this key and its files are there in full size.
    ///
    /// # Errors
    /// A manifest that cannot be read; an absent one is no error.
    pub fn current(&self, path: &Path) -> Result<Option<Manifest>, PipelineError> {
        if !path.exists() {
            return Ok(None);
        }
        let manifest = Manifest::read(path)?;
        // Written out and read back, as the manifest was: floats that came from f32 settings may change in the last bit.
        let config = serde_json::from_str::<serde_json::Value>(&self.config.to_string()).unwrap_or_default();
        let same = manifest.stage == self.stage && manifest.inputs == self.inputs && manifest.config == config;
        let dir = path.parent().unwrap_or(Path::new("."));
        let whole =
            manifest.files.iter().all(|f| std::fs::metadata(dir.join(&f.path)).is_ok_and(|m| m.len() == f.bytes));
        Ok((same && whole).then_some(manifest))
    }

    /// The manifest of an output made under this key.
    pub fn manifest(&self, files: Vec<FileEntry>, rows: BTreeMap<String, u64>, started: Instant) -> Manifest {
        let mut manifest = Manifest::new(self.stage, env!("CARGO_PKG_VERSION"), content_fingerprint(&files));
        manifest.inputs = self.inputs.clone();
        manifest.config = self.config.clone();
        manifest.rows = rows;
        manifest.files = files;
        manifest.seconds = started.elapsed().as_secs_f64();
        manifest
    }
}

/// Fingerprint of a set of files by name and content.
pub fn content_fingerprint(files: &[FileEntry]) -> Fingerprint {
    Fingerprint::of_parts(files.iter().map(|f| (f.path.as_str(), f.blake3.as_bytes())))
}

/// Rows by name, for a manifest.
pub fn rows<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, n)| (name.to_string(), n)).collect()
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

/// Creates a folder and its parents.
///
/// # Errors
/// [`PipelineError::Io`] naming it.
pub fn create_dir(path: &Path) -> Result<(), PipelineError> {
    std::fs::create_dir_all(path).map_err(PipelineError::io("create folder", path))
}
