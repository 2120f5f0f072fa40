//! Where the parts of an output stand, and where their manifests.
//!
//! ```text
//! ROOT/recall/part-00000-of-00001.parquet           a part, in a folder that holds nothing but parts
//! ROOT/manifests/recall/part-00000-of-00001.json    its manifest; the paths in it count from ROOT
//! ```
//!
//! So a program that reads folders of tables can be given the folder of parts as it is. Earlier versions wrote the
//! manifest beside the part. It is read where it stands, and removed when its part is made again.

use crate::error::PipelineError;
use crate::stream::shard::Shard;
use std::path::{Path, PathBuf};
use twotower_artifacts::Manifest;

/// The folder of the manifests of parts, in a run or an output folder.
pub(crate) const MANIFESTS: &str = "manifests";

/// Name of a shard's file.
pub fn part_name(shard: Shard, extension: &str) -> String {
    format!("part-{}.{extension}", shard.label())
}

/// Where the manifest of a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In a folder of manifests. Its paths count from the folder that holds both.
    Apart,
    /// Beside the part, as earlier versions wrote it. Its paths count from there.
    Beside,
}

/// The parts of one output, there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFolder {
    root: PathBuf,
    name: String,
}

impl PartFolder {
    /// The parts called `name`, such as `recall`, in a run or an output folder.
    pub(crate) fn new(root: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self { root: root.into(), name: name.into() }
    }

    /// Its name: the path of the folder of parts from the folder that holds it and the manifests.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the parts.
    pub fn data(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The folder of their manifests.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join(MANIFESTS).join(&self.name)
    }

    /// The file of a shard.
    pub fn file(&self, shard: Shard, extension: &str) -> PathBuf {
        self.data().join(part_name(shard, extension))
    }

    /// Where the manifest of a shard stands.
    pub(crate) fn manifest(&self, layout: Layout, shard: Shard) -> PathBuf {
        let folder = match layout {
            Layout::Apart => self.manifests(),
            Layout::Beside => self.data(),
        };
        folder.join(manifest_name(shard))
    }

    /// The folder from which paths in a manifest count.
    pub(crate) fn base(&self, layout: Layout) -> PathBuf {
        match layout {
            Layout::Apart => self.root.clone(),
            Layout::Beside => self.data(),
        }
    }

    /// The path of a shard's file as its manifest lists it.
    pub(crate) fn listed(&self, layout: Layout, shard: Shard, extension: &str) -> String {
        match layout {
            Layout::Apart => format!("{}/{}", self.name, part_name(shard, extension)),
            Layout::Beside => part_name(shard, extension),
        }
    }

    /// The files named like parts, in order of their names.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, PipelineError> {
        let mut files = list_parts(&self.data())?;
        files.retain(|path| !is_json(path));
        Ok(files)
    }

    /// The manifests of parts, in order of their names.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub(crate) fn manifest_paths(&self) -> Result<Vec<(PathBuf, Layout)>, PipelineError> {
        let mut found = Vec::new();
        for (folder, layout) in [(self.manifests(), Layout::Apart), (self.data(), Layout::Beside)] {
            found.extend(list_parts(&folder)?.into_iter().filter(|path| is_json(path)).map(|path| (path, layout)));
        }
        found.sort_by(|(a, _), (b, _)| file_name(a).cmp(file_name(b)));
        Ok(found)
    }

    /// A manifest of one of the parts, as it was read.
    pub(crate) fn part(&self, path: PathBuf, layout: Layout, manifest: Manifest) -> Part {
        Part { path, layout, base: self.base(layout), manifest }
    }
}

/// A shard's manifest.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Where it stands.
    pub path: PathBuf,
    /// By which layout it stands there.
    pub layout: Layout,
    /// The folder from which the paths of its files count.
    pub base: PathBuf,
    /// What it says.
    pub manifest: Manifest,
}

impl Part {
    /// The shard that it says to be; none where that makes no sense.
    pub fn shard(&self) -> Option<Shard> {
        Shard::of(&self.manifest)
    }

    /// Its path from a folder that it is in, and what it says.
    pub fn within(&self, root: &Path) -> (String, &Manifest) {
        (self.path.strip_prefix(root).unwrap_or(&self.path).display().to_string(), &self.manifest)
    }

    /// Whether its file was taken away.
    pub fn is_gone(&self) -> bool {
        self.files().next().is_some_and(|file| !file.exists())
    }

    /// Its files, that of the shard first.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.manifest.files.iter().map(|file| self.base.join(&file.path))
    }
}

/// Name of a shard's manifest.
pub(crate) fn manifest_name(shard: Shard) -> String {
    part_name(shard, "json")
}

pub(crate) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The shard whose part a file is by its name; none for any other name.
pub(crate) fn shard_of_name(path: &Path) -> Option<Shard> {
    let (label, extension) = file_name(path).strip_prefix("part-")?.split_once('.')?;
    let (index, count) = label.split_once("-of-")?;
    let shard = Shard::new(index.parse().ok()?, count.parse().ok()?).ok()?;
    (label == shard.label() && ["json", "jsonl", "parquet"].contains(&extension)).then_some(shard)
}

fn is_json(path: &Path) -> bool {
    path.extension() == Some("json".as_ref())
}

/// All files of a folder named like a part, in order.
///
/// # Errors
/// A folder that cannot be listed.
pub(crate) fn list_parts(dir: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(PipelineError::io("list", dir)(e)),
    };
    paths.retain(|path| file_name(path).starts_with("part-"));
    paths.sort();
    Ok(paths)
}
