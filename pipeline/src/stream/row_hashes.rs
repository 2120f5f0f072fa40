//! Where the hashes of a part's rows stand: in a folder of their own, since that of the parts holds nothing but parts.

use crate::error::PipelineError;
use crate::run::dir::{prepare_dir, remove_if_there};
use crate::stream::part_folder::{PartFolder, part_name};
use crate::stream::parts::exclude_other_counts;
use crate::stream::shard::Shard;
use std::path::Path;
use twotower_artifacts::{RowHashesInfo, RowHashesWriter};

/// The folder of all hashes, in the run's.
pub const FOLDER: &str = "row-hashes";
/// Their format.
const EXTENSION: &str = "parquet";

/// The hashes of the rows of an output of the run in the folder `root`, in parts like the output's.
pub fn folder(root: &Path, of: &PartFolder) -> PartFolder {
    PartFolder::new(root, format!("{FOLDER}/{}", of.name()))
}

/// The path of a shard's hashes as the manifest of its part lists it.
pub fn listed(of: &PartFolder, shard: Shard) -> String {
    format!("{FOLDER}/{}/{}", of.name(), part_name(shard, EXTENSION))
}

/// Begins the hashes of a shard's part of an output. Those of other numbers of shards are removed: their parts were
/// already.
///
/// # Errors
/// A folder or a file that cannot be made.
pub fn create(
    stage: &str,
    root: &Path,
    of: &PartFolder,
    shard: Shard,
    info: RowHashesInfo,
) -> Result<RowHashesWriter, PipelineError> {
    let folder = folder(root, of);
    prepare_dir(&folder.data())?;
    exclude_other_counts(stage, &folder, shard, true, || Ok(()))?;
    Ok(RowHashesWriter::create(folder.file(shard, EXTENSION), info)?)
}

/// Removes the hashes that an earlier output of a shard had, where a new one is made without.
///
/// # Errors
/// [`PipelineError::Artifact`] naming the file.
pub fn remove(root: &Path, of: &PartFolder, shard: Shard) -> Result<(), PipelineError> {
    let folder = folder(root, of);
    remove_if_there(&folder.file(shard, EXTENSION))?;
    // Those of other shards keep the folder.
    let _ = std::fs::remove_dir(folder.data());
    Ok(())
}
