//! An earlier run of which a stage takes what it made of users who have not changed since (`--changed-since`).

use crate::error::PipelineError;
use crate::run::dir::RunDir;
use crate::run::lock::{Access, RunLock};
use crate::run::manifests::verify_file;
use crate::stages::output::made_by_this_version;
use crate::stream::earlier::{Cut, Stretch, within_parts};
use crate::stream::part_folder::{Part, PartFolder};
use crate::stream::parts::{complete_set, parts_fingerprint};
use crate::watch::cancel::Cancel;
use std::ops::Range;
use std::path::PathBuf;
use twotower_artifacts::{ArtifactError, FileEntry, Fingerprint, Ids, Manifest, RowHash, RowHashesReader};

/// Earlier rows read at a time.
pub const STRETCH_ROWS: usize = 2048;
/// Memory for the earlier rows that are kept beside those of a batch.
pub const WINDOW_BYTES: u64 = 32 << 20;
/// What an earlier row takes there, beside what was made of it: its id, its hash and its place by the hash of the id.
const ROW_BYTES: usize = 96;

/// How many earlier rows are kept before and behind those that are expected, if what was made of each takes `bytes`.
pub fn reach(bytes: usize) -> u64 {
    WINDOW_BYTES / 2 / (bytes + ROW_BYTES) as u64
}

/// A run that was named by `--changed-since`.
#[derive(Debug, Clone)]
pub struct EarlierRun {
    /// The run.
    pub dir: RunDir,
    /// Whether it was named: then one of which nothing can be taken is refused. Where the last good run is meant, be it
    /// as it may, this is said, and all users are done.
    pub is_named: bool,
}

/// Why nothing can be taken of an output of an earlier run.
pub enum Unfit {
    /// It was made by another model or in another way. A run that was named is refused.
    Foreign(String),
    /// What everybody's list depends on has changed, as it may any night. All users are done, and a line says so.
    Changed(String),
}

impl EarlierRun {
    /// A run that was named, which is not the one that goes on from it.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] where it is.
    pub fn named(dir: RunDir, own: &RunDir) -> Result<Self, PipelineError> {
        let root = dir.root();
        if root.canonicalize().is_ok_and(|e| own.root().canonicalize().is_ok_and(|own| own == e)) {
            return Err(PipelineError::usage(format!(
                "--changed-since {} is the folder of this run; name an earlier run, or `previous`",
                root.display()
            )));
        }
        Ok(Self { dir, is_named: true })
    }

    /// Says why nothing can be taken of it.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`] with the reason, for a run that was named and that is `refused` then.
    fn useless<T>(&self, stage: &str, reason: &str, refused: bool) -> Result<Option<T>, PipelineError> {
        let run = self.dir.root().display();
        if self.is_named && refused {
            return Err(PipelineError::Mismatch(format!(
                "{stage}: --changed-since {run}: {reason}; leave --changed-since out to do all users"
            )));
        }
        tracing::warn!("{stage}: nothing is taken from {run}, so all users are done: {reason}");
        Ok(None)
    }
}

/// One part of an earlier run's output, with the hashes of its rows.
#[derive(Debug, Clone)]
struct EarlierPart {
    /// The folder from which paths count.
    base: PathBuf,
    made: FileEntry,
    hashes: FileEntry,
}

/// All parts of an output of an earlier run, which nobody changes as long as this is there.
#[derive(Debug)]
pub struct EarlierParts {
    run: RunDir,
    parts: Vec<EarlierPart>,
    rows: u64,
    fingerprint: Fingerprint,
    _lock: Option<RunLock>,
}

impl EarlierParts {
    /// The parts in a folder of an earlier run, which `command` makes. `unfit` says why a part, by its manifest, is not
    /// one that this run would make of the same rows.
    ///
    /// # Errors
    /// A run that was named has no such parts, or foreign ones; a damaged manifest; a process that changes the run.
    pub fn find(
        stage: &'static str,
        earlier: &EarlierRun,
        folder: &PartFolder,
        command: &str,
        unfit: impl Fn(&Manifest) -> Result<Option<Unfit>, PipelineError>,
    ) -> Result<Option<Self>, PipelineError> {
        let lock = RunLock::take(&earlier.dir, Access::Shared)?;
        let found = match complete_set(stage, folder, command) {
            Ok(found) => found,
            Err(error @ (PipelineError::MissingInput { .. } | PipelineError::Mismatch(_))) => {
                return earlier.useless(stage, &error.to_string(), true);
            }
            Err(error) => return Err(error),
        };
        let mut parts = Vec::new();
        for Part { path, base, manifest, .. } in &found {
            let other_version = (!made_by_this_version(manifest))
                .then(|| format!("made by twotower {}, this is {}", manifest.tool_version, env!("CARGO_PKG_VERSION")));
            let reason = match other_version {
                Some(reason) => Some(Unfit::Foreign(reason)),
                None => unfit(manifest)?,
            };
            let told = |reason: &str| format!("{}: {reason}", path.display());
            match reason {
                Some(Unfit::Foreign(reason)) => return earlier.useless(stage, &told(&reason), true),
                Some(Unfit::Changed(reason)) => return earlier.useless(stage, &told(&reason), false),
                None => {}
            }
            let (Some(made), Some(hashes)) = (manifest.files.first(), manifest.files.last()) else { continue };
            parts.push(EarlierPart { base: base.clone(), made: made.clone(), hashes: hashes.clone() });
        }
        Ok(Some(Self {
            run: earlier.dir.clone(),
            rows: parts.iter().map(|part| part.hashes.rows).sum(),
            fingerprint: parts_fingerprint(found.iter().map(|part| &part.manifest)),
            parts,
            _lock: lock,
        }))
    }

    /// The run.
    pub fn run(&self) -> &RunDir {
        &self.run
    }

    /// Rows of all parts.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Fingerprint of the content of all parts.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The rows of all parts from one on. `open` reads rows of a part's file: their ids, and what was made of them. Each
    /// part is held against its manifest, byte for byte, before its first row is given.
    ///
    /// # Errors
    /// Those of `open`, as items; a damaged part, naming the file; a signal.
    pub fn stretches<T, I>(
        &self,
        stage: &'static str,
        from: u64,
        cancel: &Cancel,
        open: impl Fn(PathBuf, Range<u64>) -> Result<I, ArtifactError> + Send,
    ) -> impl Iterator<Item = Result<Stretch<T>, PipelineError>> + Send
    where
        I: Iterator<Item = Result<(Ids, T), ArtifactError>> + Send + 'static,
        T: Send + 'static,
    {
        let named = format!("--changed-since {}", self.run.root().display());
        let rows: Vec<u64> = self.parts.iter().map(|part| part.hashes.rows).collect();
        let (parts, cancel) = (self.parts.clone(), cancel.clone());
        within_parts(&rows, from).into_iter().flat_map(move |(part, rows)| {
            let named = named.clone();
            let stretches = of_part(stage, &parts[part], rows, &cancel, &open)
                .unwrap_or_else(|error| Box::new(std::iter::once(Err(error))));
            stretches.map(move |stretch| stretch.map_err(|error| error.within(named.clone())))
        })
    }
}

/// Stretches of rows as they are read.
type Stretches<T> = Box<dyn Iterator<Item = Result<Stretch<T>, PipelineError>> + Send>;

/// The stretches of some rows of a part.
fn of_part<T: Send, I: Iterator<Item = Result<(Ids, T), ArtifactError>> + Send + 'static>(
    stage: &'static str,
    part: &EarlierPart,
    rows: Range<u64>,
    cancel: &Cancel,
    open: &dyn Fn(PathBuf, Range<u64>) -> Result<I, ArtifactError>,
) -> Result<Stretches<T>, PipelineError> {
    for file in [&part.made, &part.hashes] {
        verify_file(stage, &part.base, file, cancel)?;
    }
    let path = part.base.join(&part.hashes.path);
    let hashes = RowHashesReader::open(&path)?.batches(rows.clone(), STRETCH_ROWS)?;
    // Beside vectors there are no hashes of them.
    let both = |(hashes, vectors): (Vec<RowHash>, Vec<u64>)| {
        let vectors = vectors.into_iter().chain(std::iter::repeat(0));
        hashes.into_iter().zip(vectors).collect::<Vec<_>>()
    };
    let mut hashes = Cut::new(hashes.map(move |batch| batch.map(both)));
    let made = open(part.base.join(&part.made.path), rows)?;
    Ok(Box::new(made.map(move |batch| {
        let (ids, made) = batch?;
        let hashes = hashes.take(ids.len())?;
        if hashes.len() != ids.len() {
            let reason = "fewer rows than the part whose hashes it holds".to_string();
            return Err(ArtifactError::Corrupt { path: path.clone(), reason }.into());
        }
        let (hashes, vectors) = hashes.into_iter().unzip();
        Ok(Stretch { ids, hashes, vectors, made })
    })))
}
