//! The folder of an `--output`: new or one that the same command made, apart from every run and every table.

use crate::error::PipelineError;
use crate::run::dir::{LATEST, RECALL, RunDir};
use crate::run::lock::RunLock;
use crate::run::mirror;
use crate::stream::part_folder::{PartFolder, file_name, list_parts, shard_of_name};
use std::path::{Path, PathBuf};
use twotower_artifacts::publish::is_temp_name;
use twotower_artifacts::{Fingerprint, Manifest, Side};
use twotower_tables::TableSpec;

/// The file that says that a folder is one of these, and for which side.
const MARKER: &str = "output.json";
/// What the marker says its stage is.
const STAGE: &str = "output";

/// What a folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Vectors of a side, of `infer --output`.
    Vectors(Side),
    /// Lists of items for users, of `infer --recall --output`.
    Recalled,
    /// Lists of items for items, of `similar --output`.
    SimilarItems,
    /// Towers that take raw values, of `export --output`.
    RawTowers,
}

impl Holds {
    const ALL: [Self; 5] =
        [Self::Vectors(Side::User), Self::Vectors(Side::Item), Self::Recalled, Self::SimilarItems, Self::RawTowers];

    /// What a marker says; none where it is no marker, or of what this version does not know.
    fn of(marker: &Manifest) -> Option<Self> {
        Self::ALL.into_iter().find(|holds| marker.stage == STAGE && marker.config == holds.config())
    }

    /// As the marker says it.
    fn config(self) -> serde_json::Value {
        match self {
            Self::Vectors(side) => serde_json::json!({ "side": side }),
            Self::Recalled => serde_json::json!({ "holds": "recalled items" }),
            Self::SimilarItems => serde_json::json!({ "holds": "similar items" }),
            Self::RawTowers => serde_json::json!({ "holds": "raw towers" }),
        }
    }

    /// What the folder in it is called that holds nothing but data; none where there are single files.
    fn parts(self) -> Option<&'static str> {
        match self {
            Self::Vectors(_) => Some("vectors"),
            Self::Recalled => Some(RECALL),
            Self::SimilarItems | Self::RawTowers => None,
        }
    }

    /// The command that writes there.
    fn command(self) -> &'static str {
        match self {
            Self::Vectors(_) | Self::Recalled => "infer",
            Self::SimilarItems => "similar",
            Self::RawTowers => "export",
        }
    }
}

impl std::fmt::Display for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vectors(side) => write!(f, "vectors of {side}s"),
            Self::Recalled => f.write_str("recalled items"),
            Self::SimilarItems => f.write_str("similar items"),
            Self::RawTowers => f.write_str("raw towers"),
        }
    }
}

/// The folder, and the lock on it: shards share it.
pub struct OutputFolder {
    path: PathBuf,
    holds: Holds,
    _lock: RunLock,
}

impl OutputFolder {
    /// Takes a folder for what is made of `run`, and makes it where it is missing. `tables` are those that the job reads.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] for a folder in a run, where `latest` stands, or one that a table is read from;
    /// [`PipelineError::Mismatch`] for one that holds anything else; [`PipelineError::InUse`] when another process has it alone; I/O.
    pub fn claim<'t>(
        path: &Path,
        holds: Holds,
        run: &RunDir,
        tables: impl IntoIterator<Item = &'t TableSpec>,
    ) -> Result<Self, PipelineError> {
        let refuse = |why: String| {
            Err(PipelineError::usage(format!(
                "{}: --output {}: {why}; name a folder of its own, which is made where it is missing",
                holds.command(),
                path.display()
            )))
        };
        let path = &mirror::local(path)?;
        let place = real(path)?;
        let own = real(run.root())?;
        if let Some(why) = in_store(&place, &own)? {
            return refuse(why);
        }
        if place.starts_with(&own) {
            return refuse(format!("it lies in the run {}", run.root().display()));
        }
        if let Some(other) = place.ancestors().find(|folder| RunDir::new(folder).is_begun()) {
            return refuse(format!("it lies in the run {}", other.display()));
        }
        let latest =
            run.latest().map(|link| real(link.parent().unwrap_or(&link)).map(|dir| dir.join(file_name(&link))));
        if latest.transpose()?.is_some_and(|latest| place.starts_with(latest)) || own.starts_with(&place) {
            return refuse("it is where runs are kept and published".into());
        }
        let parts = holds.parts().map_or(place.clone(), |name| place.join(name));
        let written = [place, parts].map(|folder| mirror::written(&folder.join("part-00000-of-00001.parquet")));
        if let Some(table) = tables.into_iter().find(|table| written.iter().any(|path| table.covers(path))) {
            return refuse(format!("the table {} is read from there", table.pattern()));
        }
        let lock = RunLock::take_output(path)?;
        mark(path, holds)?;
        Ok(Self { path: path.to_path_buf(), holds, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The parts that it holds.
    pub(crate) fn parts(&self) -> PartFolder {
        PartFolder::new(&self.path, self.holds.parts().unwrap_or_default())
    }
}

/// Why a folder in a store cannot be an output: each has a working copy of its own, so that paths do not tell.
fn in_store(place: &Path, own: &Path) -> Result<Option<String>, PipelineError> {
    let (Some(url), Some(mirror)) = (mirror::url(place), mirror::of(place)) else { return Ok(None) };
    let own = mirror::url(own);
    let mut above = Some(url);
    while let Some(folder) = above {
        if own.as_ref() == Some(&folder) {
            return Ok(Some(format!("it lies in the run {folder}")));
        }
        if own.as_ref().and_then(|own| own.parent()).is_some_and(|runs| runs.join(LATEST) == folder) {
            return Ok(Some("it is where runs are kept and published".into()));
        }
        for manifest in RunDir::new("").beginnings() {
            let manifest = folder.join(&manifest.to_string_lossy());
            if mirror.store().find(manifest.key())?.is_some() {
                return Ok(Some(format!("it lies in the run {folder}")));
            }
        }
        above = folder.parent();
    }
    Ok(None)
}

/// Makes sure that a folder holds nothing, or the marker of this use.
fn mark(path: &Path, holds: Holds) -> Result<(), PipelineError> {
    let marker = path.join(MARKER);
    let refuse = |why: String| {
        Err(PipelineError::Mismatch(format!(
            "{}: --output {}: {why}; name another folder, or move away what is there",
            holds.command(),
            path.display()
        )))
    };
    if marker.exists() {
        let said = Manifest::read(&marker)?;
        return match Holds::of(&said) {
            Some(other) if other == holds => {
                match list_parts(path)?.into_iter().find(|path| shard_of_name(path).is_some()) {
                    None => Ok(()),
                    Some(part) => refuse(format!(
                        "an earlier version wrote {} there; parts stand in folders of their own by now",
                        part.display()
                    )),
                }
            }
            Some(other) => refuse(format!("{MARKER} says that it is for {other}, not for {holds}")),
            None => refuse(format!("{MARKER} is one of `{}`, not of twotower's outputs", said.stage)),
        };
    }
    for entry in std::fs::read_dir(path).map_err(PipelineError::io("list", path))? {
        let name = entry.map_err(PipelineError::io("list", path))?.file_name();
        if name != ".lock" && !is_temp_name(&name) {
            let name = name.to_string_lossy().into_owned();
            let command = holds.command();
            return refuse(format!(
                "it holds `{name}` and no {MARKER}, so `twotower {command} --output` did not make it"
            ));
        }
    }
    let mut manifest = Manifest::new(STAGE, env!("CARGO_PKG_VERSION"), Fingerprint::of(b""));
    manifest.config = holds.config();
    Ok(manifest.write(&marker)?)
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> Result<PathBuf, PipelineError> {
    let path = std::path::absolute(path).map_err(PipelineError::io("resolve", path))?;
    let mut missing = Vec::new();
    let mut there = path.as_path();
    loop {
        match there.canonicalize() {
            Ok(found) => return Ok(missing.iter().rev().fold(found, |path, name| path.join(name))),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound || there.is_symlink() => {
                return Err(PipelineError::io("resolve", there)(e));
            }
            Err(e) => match (there.parent(), there.file_name()) {
                (Some(parent), Some(name)) => {
                    missing.push(name);
                    there = parent;
                }
                // Ends in `..`, which nothing can be made from.
                _ => return Err(PipelineError::io("resolve", there)(e)),
            },
        }
    }
}
