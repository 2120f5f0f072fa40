//! The folder of a bench: made and removed, or the user's own and kept.

use std::path::{Path, PathBuf};
use twotower_artifacts::publish::{create_folder, publish_bytes};
use twotower_pipeline::demo::PIPELINE_TOML;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::watch::terminal::tell;

/// Tells a folder of an earlier bench from one of the user's.
const MARK: &str = "bench.txt";
const MARK_TEXT: &str = "twotower bench: data and run in this folder are replaced by the next bench\n";
/// The job.
pub const JOB: &str = "pipeline.toml";

/// A folder with the job in it; it is removed on drop if it was made for this bench only.
pub struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// Makes the folder ready, and writes the job.
    ///
    /// # Errors
    /// A usage error for a folder that holds something else than an earlier bench; I/O.
    pub fn prepare(dir: Option<PathBuf>, keep: bool) -> Result<Self, PipelineError> {
        let temporary = dir.is_none() && !keep;
        // On the disk at hand: the system's temporary folder is often in memory.
        let path = dir.unwrap_or_else(|| PathBuf::from(format!("twotower-bench-{}", std::process::id())));
        let path = std::path::absolute(&path).map_err(PipelineError::io("resolve", &path))?;
        create_folder(&path)?;
        let mut entries = std::fs::read_dir(&path).map_err(PipelineError::io("list", &path))?;
        if entries.next().is_some() && !path.join(MARK).exists() {
            return Err(PipelineError::usage(format!(
                "bench: {} holds files that no bench made, which it would replace; name an empty folder",
                path.display()
            )));
        }
        let folder = Self { path, temporary };
        publish_bytes(folder.path.join(MARK), MARK_TEXT.as_bytes())?;
        publish_bytes(folder.path.join(JOB), PIPELINE_TOML.as_bytes())?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it will stay, if it stays.
    pub fn kept(&self) -> Option<&Path> {
        (!self.temporary).then_some(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tell(&format!("warning: bench: remove {}: {error}", self.path.display()));
        }
    }
}

/// Bytes of a file, or of all files below a folder.
///
/// # Errors
/// I/O, naming the path.
pub fn bytes_of(path: &Path) -> Result<u64, PipelineError> {
    Ok(files_of(path)?.iter().map(|(_, bytes)| bytes).sum())
}

/// A file, or all files below a folder, with their sizes.
///
/// # Errors
/// I/O, naming the path.
pub fn files_of(path: &Path) -> Result<Vec<(PathBuf, u64)>, PipelineError> {
    let metadata = std::fs::metadata(path).map_err(PipelineError::io("read the size of", path))?;
    if !metadata.is_dir() {
        return Ok(vec![(path.to_path_buf(), metadata.len())]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(PipelineError::io("list", path))? {
        files.extend(files_of(&entry.map_err(PipelineError::io("list", path))?.path())?);
    }
    Ok(files)
}
