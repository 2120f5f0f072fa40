//! Where a run keeps what, and the changes to its folders that every stage makes.

use crate::error::PipelineError;
use crate::run::files;
use crate::run::mirror;
use crate::stream::part_folder::PartFolder;
use crate::stream::shard::Shard;
use serde::Serialize;
use std::path::{Path, PathBuf};
use twotower_artifacts::{Side, publish};
use twotower_tables::TableSpec;

/// Name of the link to the published run, beside the runs.
pub const LATEST: &str = "latest";

/// The folder of the items of users, in a run or an output folder.
pub(crate) const RECALL: &str = "recall";

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The layout under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The layout under the folder that `path` names, be it a link such as `latest`: what is published or
    /// withdrawn is a run, and never the link on the way to it. Of a URL it is that of its working copy.
    ///
    /// # Errors
    /// [`PipelineError::Io`] for a link that names nothing; [`PipelineError::Usage`] for a file.
    pub fn named(path: &Path) -> Result<Self, PipelineError> {
        // With a slash at its end, a link would be looked through.
        let path: PathBuf = mirror::local(path)?.components().collect();
        if path.is_file() {
            return Err(PipelineError::usage(format!(
                "--run {}: it is a file, and a run is a folder; name another one, which is made where it is missing",
                path.display()
            )));
        }
        match path.is_symlink() {
            true => path.canonicalize().map(Self).map_err(PipelineError::io("resolve the link", &path)),
            false => Ok(Self(path)),
        }
    }

    /// The run that `path` names, for a command that looks at a run and makes none.
    ///
    /// # Errors
    /// [`PipelineError::NoRun`] where there is none, with the command that makes one.
    pub fn existing(command: &'static str, path: &Path) -> Result<Self, PipelineError> {
        let path: PathBuf = mirror::local(path)?.components().collect();
        Self::new(&path).require(command)?;
        Self::named(&path)
    }

    /// Refuses a run whose folder is not there.
    ///
    /// # Errors
    /// As [`RunDir::existing`].
    pub fn require(&self, command: &'static str) -> Result<(), PipelineError> {
        if self.0.is_dir() {
            return Ok(());
        }
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let make = match self.0.file_name() {
            Some(name) if name == LATEST => format!(
                "`twotower run --run {}` makes one, and `{LATEST}` names it once it has passed its gates",
                folder.join("NAME").display()
            ),
            _ => format!("`twotower run --run {}` makes it", self.0.display()),
        };
        let others = match folder.is_dir() {
            true => format!("; `twotower runs list {}` shows the runs that are there", folder.display()),
            false => String::new(),
        };
        Err(PipelineError::NoRun { command, run: self.0.clone(), advice: make + &others })
    }

    /// Refuses a run in a folder that a table is read from: its files would be taken for rows.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] naming both.
    pub fn refuse_within<'t>(&self, tables: impl IntoIterator<Item = &'t TableSpec>) -> Result<(), PipelineError> {
        let part = mirror::written(&self.recall().file(Shard::WHOLE, "parquet"));
        let Some(table) = tables.into_iter().find(|table| table.covers(&part)) else { return Ok(()) };
        Err(PipelineError::usage(format!(
            "--run {}: the table {} is read from there, so the run's files would be taken for rows; name another folder",
            self.0.display(),
            table.pattern()
        )))
    }

    /// Whether a stage has left its manifest here that every run begins with: the encoders, or towers.
    pub(crate) fn is_begun(&self) -> bool {
        self.beginnings().iter().any(|manifest| manifest.is_file())
    }

    /// The manifests of which every run has one.
    pub(crate) fn beginnings(&self) -> [PathBuf; 2] {
        [self.encoders().join(files::encoders::MANIFEST), self.towers().join(files::towers::MANIFEST)]
    }

    /// The run that a folder of encoders or towers is part of, if it is part of one.
    pub(crate) fn around(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        let run = Self::new(folder.parent()?);
        [run.encoders(), run.towers()].contains(&folder).then_some(run)
    }

    /// The run's folder.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Name of the run's folder.
    pub fn name(&self) -> String {
        let path = std::path::absolute(&self.0).unwrap_or_else(|_| self.0.clone());
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The link beside the run's folder that names the last complete run; none for a folder without a parent.
    pub fn latest(&self) -> Option<PathBuf> {
        std::path::absolute(&self.0).ok()?.parent().map(|parent| parent.join(LATEST))
    }

    /// Encoder state, encoded items, encoded users with positives, the timeline.
    pub fn encoders(&self) -> PathBuf {
        self.0.join("encoders")
    }

    /// Towers, checkpoints and the training report.
    pub fn towers(&self) -> PathBuf {
        self.0.join("towers")
    }

    /// Vectors of one side.
    pub fn vectors(&self, side: Side) -> PartFolder {
        PartFolder::new(&self.0, format!("vectors/{side}"))
    }

    /// The item index.
    pub(crate) fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    /// Recalled items per user.
    pub(crate) fn recall(&self) -> PartFolder {
        PartFolder::new(&self.0, RECALL)
    }

    /// Metrics.
    pub fn evaluation(&self) -> PathBuf {
        self.0.join("evaluation")
    }

    /// What the gates said.
    pub(crate) fn gates(&self) -> PathBuf {
        self.0.join("gates")
    }
}

/// Makes a folder ready for a stage's output: it exists, and temporary files of dead writers are gone.
///
/// # Errors
/// [`PipelineError::Artifact`] naming it.
pub(crate) fn prepare_dir(path: &Path) -> Result<(), PipelineError> {
    publish::create_folder(path)?;
    publish::remove_stale_temps(path)?;
    Ok(())
}

/// Removes a file; that it is not there is fine.
///
/// # Errors
/// [`PipelineError::Artifact`] naming it.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), PipelineError> {
    Ok(publish::remove(path)?)
}

/// Publishes a value as indented JSON.
///
/// # Errors
/// [`PipelineError::Artifact`] when it cannot be written.
pub(crate) fn publish_json(path: &Path, value: &impl Serialize) -> Result<(), PipelineError> {
    Ok(publish::publish_file(path, |file| Ok(serde_json::to_writer_pretty(file, value)?))?)
}
