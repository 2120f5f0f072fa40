//! Finding an id that stands twice in a table too large to hold, in bounded memory.

use crate::error::PipelineError;
use crate::id_index::hash;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use twotower_artifacts::ids::Ids;

const PARTITIONS: usize = 256;
/// Hashes kept per partition before they go to disk: 256 * 8192 * 8 bytes = 16 MiB in all.
const BUFFERED: usize = 8192;

/// Collects a 64-bit hash per id, partitioned on disk; a hash that stands twice is then looked up
/// exactly in a second pass over the ids.
pub struct DuplicateFinder {
    /// Where temporary files go: beside the run, for a system's own folder may be memory.
    dir: PathBuf,
    partitions: Vec<(Vec<u64>, Option<std::fs::File>)>,
}

impl DuplicateFinder {
    /// A finder without ids; temporary files go to `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), partitions: (0..PARTITIONS).map(|_| (Vec::new(), None)).collect() }
    }

    /// Adds ids.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    pub fn add(&mut self, ids: &Ids) -> Result<(), PipelineError> {
        for id in ids.iter() {
            let h = hash(id);
            let (buffer, file) = &mut self.partitions[(h >> 56) as usize];
            buffer.push(h);
            if buffer.len() == BUFFERED {
                spill(buffer, file, &self.dir)
                    .map_err(PipelineError::io("write hashes of ids to a file in", &self.dir))?;
            }
        }
        Ok(())
    }

    /// The hashes that stand more than once, ascending within a partition.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be read.
    pub fn repeated(self) -> Result<Vec<u64>, PipelineError> {
        let mut repeated = Vec::new();
        for (buffer, file) in self.partitions {
            let mut hashes = buffer;
            if let Some(file) = file {
                unspill(file, &mut hashes)
                    .map_err(PipelineError::io("read hashes of ids from a file in", &self.dir))?;
            }
            hashes.sort_unstable();
            repeated.extend(hashes.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]));
        }
        repeated.dedup();
        Ok(repeated)
    }
}

fn spill(buffer: &mut Vec<u64>, file: &mut Option<std::fs::File>, dir: &Path) -> std::io::Result<()> {
    let file = match file {
        Some(file) => file,
        none => none.insert(tempfile::tempfile_in(dir)?),
    };
    let bytes: Vec<u8> = buffer.iter().flat_map(|h| h.to_le_bytes()).collect();
    file.write_all(&bytes)?;
    buffer.clear();
    Ok(())
}

fn unspill(mut file: std::fs::File, hashes: &mut Vec<u64>) -> std::io::Result<()> {
    use std::io::Seek;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    hashes.extend(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::ids::Id;

    #[test]
    fn a_repeat_is_found_however_far_apart_and_distinct_ids_are_not() {
        let ids: Vec<i64> = (0..3_000_000).collect();
        let mut finder = DuplicateFinder::new(std::env::temp_dir());
        finder.add(&Ids::Int(ids.clone())).unwrap();
        finder.add(&Ids::Int(vec![42])).unwrap();
        assert_eq!(finder.repeated().unwrap(), [hash(Id::Int(42))]);
        let mut finder = DuplicateFinder::new(std::env::temp_dir());
        finder.add(&Ids::Int(ids)).unwrap();
        assert!(finder.repeated().unwrap().is_empty());
    }
}
