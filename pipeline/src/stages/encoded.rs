//! The encoder folder of a run, as the stages after it take it: only if its parts belong together.

use crate::error::PipelineError;
use crate::run::files::encoders as files;
use crate::run::manifests::{content_fingerprint, require};
use crate::run::names::tables;
use std::path::{Path, PathBuf};
use twotower_artifacts::{ArtifactError, CodesReader, FileEntry, Fingerprint, IdKind, Manifest, Side};
use twotower_encoders::EncoderState;

/// Fingerprint of what later stages read of an output of `encode-features`: [`content_of`] its files.
pub fn content(manifest: &Manifest) -> Fingerprint {
    content_of(&manifest.files)
}

/// Fingerprint of the state and the encoded tables among the files of `encode-features`. The codes of all users are for
/// other programs, and their row groups follow the memory budget.
pub fn content_of(files: &[FileEntry]) -> Fingerprint {
    content_fingerprint(files.iter().filter(|file| file.path != files::ALL_USERS))
}

/// The folder of a fitted encoder state, with the state and the manifest of the stage that fitted it.
pub struct EncoderFolder {
    /// The folder.
    pub dir: PathBuf,
    /// The manifest of `encode-features`.
    pub manifest: Manifest,
    /// The encoder state.
    pub state: EncoderState,
}

impl EncoderFolder {
    /// Reads manifest and state; encoded tables are left alone.
    ///
    /// # Errors
    /// Missing or damaged files; [`ArtifactError::Mismatch`], naming both fingerprints, for a manifest of
    /// another state.
    pub fn load(stage: &'static str, dir: &Path) -> Result<Self, PipelineError> {
        let manifest = require(stage, &dir.join(files::MANIFEST), "twotower encode-features")?;
        let state = EncoderState::load(dir)?;
        let from = format!("{stage}: manifest with fingerprint");
        check_state(&dir.join(files::MANIFEST), state.fingerprint(), &from, &manifest.fingerprint)?;
        Ok(Self { dir: dir.to_path_buf(), manifest, state })
    }

    /// Checks that every file is the one the manifest speaks of, byte for byte: two runs may share a
    /// state and still have encoded other rows.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] naming the first file that is not.
    pub fn verify_files(&self) -> Result<(), PipelineError> {
        Ok(self.manifest.verify_files(&self.dir)?)
    }

    /// Refuses a table of a side's rows that is not the one that these encoders were made from, unless `forced`.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`], naming both fingerprints.
    pub fn check_table(&self, side: Side, found: Option<&Fingerprint>, forced: bool) -> Result<(), PipelineError> {
        check_table(&self.dir, &self.manifest, side, found, forced)
    }

    /// Kind of the ids of a side's encoded table.
    ///
    /// # Errors
    /// As [`EncoderFolder::table`].
    pub fn ids(&self, side: Side) -> Result<IdKind, PipelineError> {
        Ok(self.table(side)?.info().ids)
    }

    /// The encoded rows of a side.
    ///
    /// # Errors
    /// A missing or damaged file; [`ArtifactError::Mismatch`] for rows of another state.
    pub fn table(&self, side: Side) -> Result<CodesReader, PipelineError> {
        let path = self.dir.join(match side {
            Side::User => files::USERS,
            Side::Item => files::ITEMS,
        });
        let reader = CodesReader::open(&path)?;
        self.check(&path, &reader.info().schema.encoder)?;
        Ok(reader)
    }

    /// Checks that the rows of a file were encoded by this state.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`], naming both fingerprints.
    pub fn check(&self, path: &Path, found: &Fingerprint) -> Result<(), PipelineError> {
        check_state(path, self.state.fingerprint(), "rows encoded with fingerprint", found)
    }
}

/// As [`EncoderFolder::check_table`], for the folder of encoders with that manifest.
///
/// # Errors
/// As [`EncoderFolder::check_table`].
pub fn check_table(
    dir: &Path,
    manifest: &Manifest,
    side: Side,
    found: Option<&Fingerprint>,
    forced: bool,
) -> Result<(), PipelineError> {
    let read = manifest.inputs.get(tables::of(side));
    if forced || read == found {
        return Ok(());
    }
    let of = |fingerprint: Option<&Fingerprint>| fingerprint.map_or("none".to_string(), Fingerprint::to_string);
    Err(PipelineError::Mismatch(format!(
        "the {side}s table is not the one that {} was made from, or has changed since: fingerprint {}, expected {}; run `twotower encode-features` and the stages after it, or `twotower run`; to embed other rows beside the run's own, give `twotower infer` --table and --output; with --force what the run has is replaced by these rows, and it cannot be published",
        dir.display(),
        of(found),
        of(read)
    )))
}

fn check_state(path: &Path, expected: &Fingerprint, from: &str, found: &Fingerprint) -> Result<(), PipelineError> {
    if expected == found {
        return Ok(());
    }
    Err(ArtifactError::Mismatch {
        what: path.display().to_string(),
        expected_from: "encoders with fingerprint".into(),
        expected: expected.to_string(),
        found_from: from.to_string(),
        found: found.to_string(),
        advice: "run `twotower encode-features --force`".into(),
    }
    .into())
}
