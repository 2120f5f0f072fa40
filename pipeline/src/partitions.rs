//! Records sorted by key in bounded memory: partitioned on disk, sorted a partition at a time.

use crate::error::PipelineError;
use rayon::prelude::*;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

const PARTITIONS: usize = 256;
/// Bytes kept per partition before they go to disk: 16 MiB in all.
const BUFFERED: usize = 64 << 10;

/// A record of fixed size that starts with its key.
pub trait Record: Copy + Ord + Send {
    /// Bytes of [`Record::write`].
    const BYTES: usize;
    /// What is partitioned and sorted by: evenly spread over 64 bits.
    fn key(&self) -> u64;
    /// Appends the record, little-endian.
    fn write(&self, bytes: &mut Vec<u8>);
    /// The record of these bytes, of which there are [`Record::BYTES`].
    fn read(bytes: &[u8]) -> Self;
}

impl Record for u64 {
    const BYTES: usize = 8;

    fn key(&self) -> u64 {
        *self
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

impl Record for (u64, u32) {
    const BYTES: usize = 12;

    fn key(&self) -> u64 {
        self.0
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.0.to_le_bytes());
        bytes.extend_from_slice(&self.1.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let (key, value) = bytes.split_at(8);
        (u64::read(key), u64::read(value) as u32)
    }
}

/// Records by the top byte of their key; temporary files have no name and go with the value.
pub struct Partitions<R> {
    /// Where temporary files go: beside the run, for a system's own folder may be memory.
    dir: PathBuf,
    parts: Vec<(Vec<R>, Option<File>)>,
}

impl<R: Record> Partitions<R> {
    /// No records; temporary files go to `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), parts: (0..PARTITIONS).map(|_| (Vec::new(), None)).collect() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    pub fn add(&mut self, record: R) -> Result<(), PipelineError> {
        let (buffer, file) = &mut self.parts[(record.key() >> 56) as usize];
        buffer.push(record);
        if buffer.len() * R::BYTES >= BUFFERED {
            spill(buffer, file, &self.dir).map_err(PipelineError::io("write a temporary file in", &self.dir))?;
        }
        Ok(())
    }

    /// The partitions by ascending key, each of them sorted.
    ///
    /// # Memory
    /// One partition: 1/256 of the records.
    ///
    /// # Errors
    /// Each gives [`PipelineError::Io`] when its temporary file cannot be read.
    pub fn sorted(self) -> impl Iterator<Item = Result<Vec<R>, PipelineError>> {
        let Self { dir, parts } = self;
        parts.into_iter().map(move |part| sorted(part, &dir))
    }

    /// What `f` finds in each partition, by ascending key; the records of one come in any order, and all threads
    /// look at one each.
    ///
    /// # Memory
    /// A partition a thread.
    ///
    /// # Errors
    /// As [`Partitions::sorted`].
    pub fn find_in_each<T: Send>(self, f: impl Fn(Vec<R>) -> Vec<T> + Sync) -> Result<Vec<T>, PipelineError> {
        let Self { dir, parts } = self;
        let found = parts.into_par_iter().map(|part| Ok(f(whole(part, &dir)?)));
        Ok(found.collect::<Result<Vec<_>, PipelineError>>()?.into_iter().flatten().collect())
    }
}

/// The records of a partition.
fn whole<R: Record>((mut records, file): (Vec<R>, Option<File>), dir: &Path) -> Result<Vec<R>, PipelineError> {
    if let Some(file) = file {
        unspill(file, &mut records).map_err(PipelineError::io("read a temporary file in", dir))?;
    }
    Ok(records)
}

/// The records of a partition, sorted.
fn sorted<R: Record>(part: (Vec<R>, Option<File>), dir: &Path) -> Result<Vec<R>, PipelineError> {
    let mut records = whole(part, dir)?;
    records.sort_unstable();
    Ok(records)
}

fn spill<R: Record>(buffer: &mut Vec<R>, file: &mut Option<File>, dir: &Path) -> std::io::Result<()> {
    let file = match file {
        Some(file) => file,
        none => none.insert(tempfile::tempfile_in(dir)?),
    };
    let mut bytes = Vec::with_capacity(buffer.len() * R::BYTES);
    buffer.iter().for_each(|record| record.write(&mut bytes));
    file.write_all(&bytes)?;
    buffer.clear();
    Ok(())
}

fn unspill<R: Record>(mut file: File, records: &mut Vec<R>) -> std::io::Result<()> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    records.extend(bytes.chunks_exact(R::BYTES).map(R::read));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_sorted_whether_or_not_they_went_to_disk() {
        let dir = tempfile::tempdir().unwrap();
        let records = |n: u64| (0..n).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15), i as u32));
        for n in [0, 1000, 3_000_000] {
            let mut partitions = Partitions::new(dir.path());
            records(n).for_each(|r| partitions.add(r).unwrap());
            let spilled = partitions.parts.iter().filter(|(_, file)| file.is_some()).count();
            assert_eq!(spilled, if n > 1_000_000 { PARTITIONS } else { 0 });
            let found: Vec<(u64, u32)> = partitions.sorted().flat_map(Result::unwrap).collect();
            let mut expected: Vec<(u64, u32)> = records(n).collect();
            expected.sort_unstable();
            assert!(found == expected, "{n} records");
        }
    }
}
