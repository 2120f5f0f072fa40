//! `verify`: whether the artifacts of a run folder are whole and belong together, without its tables.
//!
//! Every manifest is read, every file is compared with its checksum, and each stage's inputs are compared
//! with what the stage before it left. All problems are found, not only the first.

mod chain;
mod coverage;
mod strays;

use crate::error::PipelineError;
use crate::run::chain::Contradiction;
use crate::run::dir::RunDir;
use crate::run::stage::Stage;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use twotower_artifacts::{ArtifactError, Category, FileEntry, Manifest};

/// What was found in a run folder.
#[derive(Debug, Default)]
pub struct Verification {
    /// The artifacts that are there.
    pub artifacts: Vec<ArtifactReport>,
    /// All that is damaged, incomplete or does not belong together.
    pub problems: Vec<PipelineError>,
    /// What a person should know, and is no problem.
    pub notes: Vec<String>,
}

/// One artifact: the output of a stage, all its parts together.
#[derive(Debug)]
pub struct ArtifactReport {
    /// Its name, such as `user vectors`.
    pub name: &'static str,
    /// Manifests.
    pub parts: usize,
    /// Rows.
    pub rows: u64,
    /// Bytes of all files listed.
    pub bytes: u64,
    /// Whether nothing was wrong with it.
    pub whole: bool,
}

impl Verification {
    /// Nothing is wrong.
    ///
    /// # Errors
    /// A summary of the problems in the worst one's category: damage before what does not belong together.
    pub fn verdict(&self, run: &RunDir) -> Result<(), PipelineError> {
        let found = |category| self.problems.iter().any(|p| p.category() == category);
        let problems = match self.problems.len() {
            0 => return Ok(()),
            1 => "1 problem".to_string(),
            n => format!("{n} problems"),
        };
        let text = format!(
            "verify: {problems} in {} (listed above); run the stages named again with --force, or `twotower run`",
            run.root().display()
        );
        Err(match () {
            () if found(Category::Data) => PipelineError::Data(text),
            () if found(Category::Mismatch) => PipelineError::Mismatch(text),
            // Whatever kept a file from being read is said with it.
            () => PipelineError::io("verify", run.root())(std::io::Error::other(text)),
        })
    }
}

/// Verifies a run folder; the outputs of `required` stages must be there.
///
/// # Memory
/// The encoder state, the towers, and the vectors of items; never those of users.
///
/// # Errors
/// [`PipelineError::Io`] when the folder itself cannot be read. What is wrong with its content is in the
/// result.
pub fn verify(run: &RunDir, required: &[Stage]) -> Result<Verification, PipelineError> {
    std::fs::read_dir(run.root()).map_err(PipelineError::io("list", run.root()))?;
    let mut check =
        Check { run, found: Verification::default(), known: BTreeSet::new(), contradictions: Vec::new(), fused: false };
    check.chain(required);
    check.strays();
    Ok(check.found)
}

/// A verification in progress.
struct Check<'a> {
    run: &'a RunDir,
    found: Verification,
    /// Files that belong to the run.
    known: BTreeSet<PathBuf>,
    /// What does not belong together, by the manifests.
    contradictions: Vec<Contradiction>,
    /// Whether users were embedded on the way to their items.
    fused: bool,
}

impl Check<'_> {
    /// Notes a problem; a file that is not there makes its artifact incomplete.
    fn problem(&mut self, error: impl Into<PipelineError>) {
        let error = error.into();
        let lacking = match &error {
            PipelineError::MissingInput { .. } => true,
            PipelineError::Artifact(ArtifactError::Io { source, .. }) | PipelineError::Io { source, .. } => {
                source.kind() == std::io::ErrorKind::NotFound
            }
            _ => false,
        };
        let error = if lacking { PipelineError::Mismatch(error.to_string()) } else { error };
        // One cause may be met on several ways.
        let text = error.to_string();
        if self.found.problems.iter().all(|p| p.to_string() != text) {
            self.found.problems.push(error);
        }
    }

    /// Notes that something does not belong where it is.
    fn mismatch(&mut self, path: &Path, what: impl std::fmt::Display) {
        self.problem(PipelineError::Mismatch(format!("{}: {what}", path.display())));
    }

    /// The value, or a problem.
    fn take<T>(&mut self, result: Result<T, impl Into<PipelineError>>) -> Option<T> {
        result.map_err(|error| self.problem(error)).ok()
    }

    /// Notes unless both are equal.
    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, path: &Path, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.mismatch(path, format!("{what} {found:?}, expected {expected:?}"));
        }
    }

    /// The manifest of a stage's folder, its files verified; none where the stage never ran.
    fn manifest(&mut self, path: &Path, stage: &str) -> Option<Manifest> {
        let dir = path.parent().unwrap_or(Path::new("."));
        if !path.exists() {
            if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
                self.mismatch(
                    path,
                    format!("missing, so what lies beside it does not count: `{stage}` did not finish"),
                );
            }
            return None;
        }
        self.known.insert(path.to_path_buf());
        let manifest = self.take(Manifest::read(path))?;
        self.equal(path, "`stage`", &stage, &manifest.stage.as_str());
        self.files(dir, &manifest);
        Some(manifest)
    }

    /// Verifies every file that a manifest lists.
    fn files(&mut self, dir: &Path, manifest: &Manifest) {
        for file in &manifest.files {
            self.file(dir, file);
        }
    }

    fn file(&mut self, dir: &Path, file: &FileEntry) {
        self.known.insert(dir.join(&file.path));
        let found = file.verify(dir);
        self.take(found);
    }

    /// Reports an artifact; it is whole if no problem was found since there were `before`.
    fn report(&mut self, name: &'static str, rows: u64, manifests: &[&Manifest], before: usize) {
        let bytes = manifests.iter().flat_map(|m| &m.files).map(|f| f.bytes).fold(0, u64::saturating_add);
        let whole = self.found.problems.len() == before;
        self.found.artifacts.push(ArtifactReport { name, parts: manifests.len(), rows, bytes, whole });
    }
}
