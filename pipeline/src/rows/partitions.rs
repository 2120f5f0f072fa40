//! Records sorted by key in bounded memory: partitioned on disk, sorted a partition at a time.

use crate::error::PipelineError;
use rayon::prelude::*;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use twotower_artifacts::keyed::Identity;

const PARTITIONS: usize = 256;
/// Bytes of records kept per partition before they go to disk: 16 MiB in all.
const BUFFERED: usize = 64 << 10;
/// Bytes of records of a partition from which on it is looked at for repeats: they may be all that makes it large.
const LARGE: usize = 4 << 20;

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

/// Something of an id's.
impl Record for (Identity, u32) {
    const BYTES: usize = 20;

    fn key(&self) -> u64 {
        self.0.upper
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.0.upper.to_le_bytes());
        bytes.extend_from_slice(&self.0.lower.to_le_bytes());
        bytes.extend_from_slice(&self.1.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let (upper, rest) = bytes.split_at(8);
        let (lower, value) = rest.split_at(8);
        (Identity { upper: u64::read(upper), lower: u64::read(lower) }, u64::read(value) as u32)
    }
}

/// Records by the top byte of their key; temporary files have no name and go with the value. Of equal records at least
/// two are kept, where there are as many, and not always more: one that comes a million times takes little room.
pub struct Partitions<R> {
    /// Where temporary files go: beside the run, for a system's own folder may be memory.
    dir: PathBuf,
    parts: Box<[Part<R>; PARTITIONS]>,
    /// Records added.
    added: usize,
}

/// Records of a partition.
struct Part<R> {
    buffer: Vec<R>,
    file: Option<File>,
    /// Records in the file.
    spilled: usize,
    /// Records in the file from which on repeats are looked for.
    large: usize,
}

impl<R: Record> Partitions<R> {
    /// No records; temporary files go to `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let empty = || Part { buffer: Vec::new(), file: None, spilled: 0, large: LARGE / size_of::<R>() };
        Self { dir: dir.into(), parts: Box::new(std::array::from_fn(|_| empty())), added: 0 }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    #[inline]
    pub fn add(&mut self, record: R) -> Result<(), PipelineError> {
        self.added += 1;
        let at = (record.key() >> 56) as usize;
        let buffer = &mut self.parts[at].buffer;
        buffer.push(record);
        if buffer.len() * size_of::<R>() >= BUFFERED { self.empty_buffer(at) } else { Ok(()) }
    }

    /// Moves what a partition has buffered to its file.
    #[cold]
    fn empty_buffer(&mut self, at: usize) -> Result<(), PipelineError> {
        let part = &mut self.parts[at];
        part.spill(&self.dir).map_err(PipelineError::io("write a temporary file in", &self.dir))?;
        // Keys are evenly spread: only records that repeat make one partition so much larger than the others.
        if part.spilled >= part.large && part.spilled > 4 * self.added / PARTITIONS {
            part.thin_out().map_err(PipelineError::io("rewrite a temporary file in", &self.dir))?;
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
        let Self { dir, parts, .. } = self;
        parts.into_iter().map(move |part| {
            let mut records = part.whole(&dir)?;
            records.sort_unstable();
            Ok(records)
        })
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
        let Self { dir, parts, .. } = self;
        let found = parts.into_par_iter().map(|part| Ok(f(part.whole(&dir)?)));
        Ok(found.collect::<Result<Vec<_>, PipelineError>>()?.into_iter().flatten().collect())
    }
}

impl<R: Record> Part<R> {
    /// All records.
    fn whole(mut self, dir: &Path) -> Result<Vec<R>, PipelineError> {
        if let Some(file) = &mut self.file {
            unspill(file, &mut self.buffer).map_err(PipelineError::io("read a temporary file in", dir))?;
        }
        Ok(self.buffer)
    }

    /// Moves what is buffered to the file.
    fn spill(&mut self, dir: &Path) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(dir)?),
        };
        let mut bytes = Vec::with_capacity(self.buffer.len() * R::BYTES);
        self.buffer.iter().for_each(|record| record.write(&mut bytes));
        file.write_all(&bytes)?;
        self.spilled += self.buffer.len();
        self.buffer.clear();
        Ok(())
    }

    /// Keeps two of equal records in the file.
    fn thin_out(&mut self) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut records: Vec<R> = Vec::with_capacity(self.spilled);
        unspill(file, &mut records)?;
        records.sort_unstable();
        let mut kept = 0;
        for at in 0..records.len() {
            if kept < 2 || records[kept - 2] != records[at] {
                records[kept] = records[at];
                kept += 1;
            }
        }
        records.truncate(kept);
        let mut bytes = Vec::with_capacity(kept * R::BYTES);
        records.iter().for_each(|record| record.write(&mut bytes));
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&bytes)?;
        self.spilled = kept;
        self.large = self.large.max(2 * kept);
        Ok(())
    }
}

fn unspill<R: Record>(file: &mut File, records: &mut Vec<R>) -> std::io::Result<()> {
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
        let records = |n: u64| {
            (0..n).map(|i| (Identity { upper: i.wrapping_mul(0x9E37_79B9_7F4A_7C15), lower: i << 32 }, i as u32))
        };
        for n in [0, 1000, 3_000_000] {
            let mut partitions = Partitions::new(dir.path());
            records(n).for_each(|r| partitions.add(r).unwrap());
            let spilled = partitions.parts.iter().filter(|part| part.file.is_some()).count();
            assert_eq!(spilled, if n > 1_000_000 { PARTITIONS } else { 0 });
            let found: Vec<(Identity, u32)> = partitions.sorted().flat_map(Result::unwrap).collect();
            let mut expected: Vec<(Identity, u32)> = records(n).collect();
            expected.sort_unstable();
            assert!(found == expected, "{n} records");
        }
    }

    #[test]
    fn a_record_that_comes_a_million_times_takes_little_room_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut partitions = Partitions::new(dir.path());
        let mut expected = Vec::new();
        for i in 0..3_000_000u64 {
            partitions.add(7 << 56 | 1).unwrap();
            if i % 100 == 0 {
                let other = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                expected.push(other);
                partitions.add(other).unwrap();
            }
        }
        assert!(partitions.parts[7].spilled <= 2 * LARGE / 8, "{}", partitions.parts[7].spilled);
        let mut found: Vec<u64> = partitions.sorted().flat_map(Result::unwrap).collect();
        let copies = found.iter().filter(|record| **record == 7 << 56 | 1).count();
        assert!((2..1_000_000).contains(&copies), "{copies}");
        found.dedup();
        expected.push(7 << 56 | 1);
        expected.sort_unstable();
        assert!(found == expected);
    }
}
