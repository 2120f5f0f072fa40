//! Records sorted by key in bounded memory: partitioned on disk, sorted a partition at a time.

use crate::error::PipelineError;
use rayon::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use twotower_artifacts::keyed::Identity;

/// Partitions of records whose number is not known.
const PARTITIONS: usize = 256;
/// The most partitions.
const MOST_PARTITIONS: u64 = 1024;
/// About how many bytes of records a partition has, where their number is known.
const PARTITION_BYTES: u64 = 8 << 20;
/// Bytes of records kept in memory, of all partitions together, before they go to disk.
const BUFFERED: usize = 16 << 20;
/// The same where there are several kinds of record at a time.
pub const BUFFERED_EACH: usize = 4 << 20;
/// Bytes of records from which on a partition is searched for repeats, which may be all that makes it large.
const LARGE: usize = 4 << 20;

/// Chunks of the temporary file begin at multiples of this, since the kernel fills the rest of a page that is written in
/// part with zeros first.
const PAGE: usize = 4096;

/// A record of fixed size that starts with its key.
pub trait Record: Copy + Ord + Send + Sync {
    /// Bytes of [`Record::write`].
    const BYTES: usize;
    /// What records are partitioned and sorted by. Keys are evenly spread over the range of the partitions' keys.
    fn key(&self) -> u64;
    /// Appends the record, little-endian.
    fn write(&self, bytes: &mut Vec<u8>);
    /// Reads the record from [`Record::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Takes in the record that follows in order, if both are one. Then the other one need not be kept.
    fn absorb(&mut self, _next: &Self) -> bool {
        false
    }
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

/// A number that belongs to an id.
impl Record for (Identity, u64) {
    const BYTES: usize = 24;

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
        (Identity { upper: u64::read(upper), lower: u64::read(lower) }, u64::read(value))
    }
}

/// Records by ranges of their key, in one temporary file without a name, which is gone when the value is. Of equal
/// records two are kept at the least and not always more, so that one that comes a million times takes little room.
pub struct Partitions<R> {
    /// Where the temporary file goes: beside the run, for a system's own folder may be memory.
    dir: PathBuf,
    spill: Spill,
    /// Records of a chunk: a partition's buffer goes to disk when it has as many.
    chunk: usize,
    /// Spreads keys over 64 bits, of which the upper ones name the partition.
    scale: u64,
    shift: u32,
    parts: Vec<Part<R>>,
    /// Records added.
    added: usize,
}

/// Records of a partition.
struct Part<R> {
    buffer: Vec<R>,
    /// Chunks of the file, each of them full.
    chunks: Vec<u32>,
    /// Records in the file from which on repeats are looked for.
    large: usize,
}

/// Chunks of one size, each on pages of its own, in a file without a name.
#[derive(Default)]
struct Spill {
    file: Option<File>,
    /// Number of chunks in the file.
    end: u32,
    /// Chunks whose records were taken out, to be used again.
    free: Vec<u32>,
}

impl<R: Record> Partitions<R> {
    /// Partitions of any number of records, of keys spread over 64 bits; temporary files go to `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self::with(dir.into(), PARTITIONS, BUFFERED, u64::MAX)
    }

    /// Partitions of about `records` records with keys up to `last`. Two sets of partitions that are made for the same
    /// number and the same `last` have the same ranges of keys.
    pub fn of(dir: impl Into<PathBuf>, records: u64, last: u64) -> Self {
        let parts = (records.saturating_mul(48) / PARTITION_BYTES + 1).min(MOST_PARTITIONS).next_power_of_two();
        Self::with(dir.into(), parts as usize, BUFFERED_EACH, last)
    }

    /// Partitions whose number is a power of two.
    fn with(dir: PathBuf, parts: usize, buffered: usize, last: u64) -> Self {
        let large = LARGE / size_of::<R>();
        let empty = || Part { buffer: Vec::new(), chunks: Vec::new(), large };
        Self {
            dir,
            spill: Spill::default(),
            chunk: (buffered / parts / R::BYTES).max(1),
            scale: u64::MAX / last.max(1),
            shift: 64 - parts.trailing_zeros(),
            parts: (0..parts).map(|_| empty()).collect(),
            added: 0,
        }
    }

    /// Number of partitions.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when the temporary file cannot be written.
    #[inline]
    pub fn add(&mut self, record: R) -> Result<(), PipelineError> {
        self.added += 1;
        let at = record.key().wrapping_mul(self.scale).checked_shr(self.shift).unwrap_or(0) as usize;
        let buffer = &mut self.parts[at].buffer;
        if buffer.capacity() == 0 {
            // Not the next power of two, which may be nearly twice as much.
            buffer.reserve_exact(self.chunk);
        }
        buffer.push(record);
        if buffer.len() >= self.chunk { self.empty_buffer(at) } else { Ok(()) }
    }

    /// Moves the full chunk that a partition has buffered to the file.
    #[cold]
    fn empty_buffer(&mut self, at: usize) -> Result<(), PipelineError> {
        let count = self.parts.len();
        let part = &mut self.parts[at];
        part.spill(&mut self.spill, &self.dir).map_err(PipelineError::io("write a temporary file in", &self.dir))?;
        // Keys are evenly spread: only records that repeat make one partition so much larger than the others.
        let spilled = part.chunks.len() * self.chunk;
        if spilled >= part.large && (count == 1 || spilled > 4 * self.added / count) {
            part.thin_out(&mut self.spill, self.chunk, &self.dir)
                .map_err(PipelineError::io("rewrite a temporary file in", &self.dir))?;
        }
        Ok(())
    }

    /// Moves a partition into `records`, whose earlier content goes, and sorts it; partitions of a smaller number
    /// have smaller keys. Whoever takes all partitions gives the same memory again: memory that is taken and freed for
    /// each of hundreds of partitions, with other things in between, makes the heap grow.
    ///
    /// # Memory
    /// The partition.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when the temporary file cannot be read.
    pub fn take_sorted(&mut self, number: usize, records: &mut Vec<R>) -> Result<(), PipelineError> {
        let empty = Part { buffer: Vec::new(), chunks: Vec::new(), large: 0 };
        let part = std::mem::replace(&mut self.parts[number], empty);
        records.clear();
        part.append_to(records, &self.spill, self.chunk, &self.dir)?;
        records.par_sort_unstable();
        Ok(())
    }

    /// The partitions by ascending key, each of them sorted.
    ///
    /// # Errors
    /// As [`Partitions::take_sorted`].
    pub fn sorted(mut self) -> impl Iterator<Item = Result<Vec<R>, PipelineError>> {
        (0..self.count()).map(move |number| {
            let mut records = Vec::new();
            self.take_sorted(number, &mut records).map(|()| records)
        })
    }

    /// What `f` finds in each partition, by ascending key. Records of a partition come in any order. Each thread works
    /// on one partition at a time.
    ///
    /// # Memory
    /// A partition for each thread.
    ///
    /// # Errors
    /// As [`Partitions::take_sorted`].
    pub fn find_in_each<T: Send>(self, f: impl Fn(Vec<R>) -> Vec<T> + Sync) -> Result<Vec<T>, PipelineError> {
        let Self { dir, parts, spill, chunk, .. } = self;
        let found = parts.into_par_iter().map(|part| {
            let mut records = Vec::new();
            part.append_to(&mut records, &spill, chunk, &dir)?;
            Ok(f(records))
        });
        Ok(found.collect::<Result<Vec<_>, PipelineError>>()?.into_iter().flatten().collect())
    }
}

impl<R: Record> Part<R> {
    /// Appends all records, in any order.
    fn append_to(self, records: &mut Vec<R>, spill: &Spill, chunk: usize, dir: &Path) -> Result<(), PipelineError> {
        records.reserve_exact(self.chunks.len() * chunk + self.buffer.len());
        spill.read(&self.chunks, chunk, records).map_err(PipelineError::io("read a temporary file in", dir))?;
        records.extend(self.buffer);
        Ok(())
    }

    /// Moves the full chunk that is buffered to the file.
    fn spill(&mut self, spill: &mut Spill, dir: &Path) -> std::io::Result<()> {
        self.chunks.push(spill.write(&self.buffer, dir)?);
        self.buffer.clear();
        Ok(())
    }

    /// Keeps two of all equal records in the file, and one of all records that are one by [`Record::absorb`].
    fn thin_out(&mut self, spill: &mut Spill, chunk: usize, dir: &Path) -> std::io::Result<()> {
        let mut records: Vec<R> = Vec::with_capacity(self.chunks.len() * chunk);
        spill.read(&self.chunks, chunk, &mut records)?;
        spill.free.append(&mut self.chunks);
        records.sort_unstable();
        let mut kept = 0;
        for at in 0..records.len() {
            let record = records[at];
            let repeats = kept >= 2 && records[kept - 2] == record;
            if !(repeats || kept > 0 && records[kept - 1].absorb(&record)) {
                records[kept] = record;
                kept += 1;
            }
        }
        let (full, rest) = records[..kept].split_at(kept / chunk * chunk);
        for full in full.chunks_exact(chunk) {
            self.chunks.push(spill.write(full, dir)?);
        }
        self.buffer.extend_from_slice(rest);
        self.large = self.large.max(2 * kept);
        Ok(())
    }
}

impl Spill {
    /// Writes a chunk and returns its number.
    fn write<R: Record>(&mut self, records: &[R], dir: &Path) -> std::io::Result<u32> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(dir)?),
        };
        let stride = (records.len() * R::BYTES).next_multiple_of(PAGE);
        let mut bytes = Vec::with_capacity(stride);
        records.iter().for_each(|record| record.write(&mut bytes));
        bytes.resize(stride, 0);
        let number = self.free.pop().unwrap_or(self.end);
        file.write_all_at(&bytes, u64::from(number) * stride as u64)?;
        self.end = self.end.max(number + 1);
        Ok(number)
    }

    fn read<R: Record>(&self, chunks: &[u32], chunk: usize, records: &mut Vec<R>) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let size = chunk * R::BYTES;
        let stride = size.next_multiple_of(PAGE) as u64;
        let mut bytes = vec![0; size];
        for number in chunks {
            file.read_exact_at(&mut bytes, u64::from(*number) * stride)?;
            records.extend(bytes.chunks_exact(R::BYTES).map(R::read));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_sorted_whether_or_not_they_went_to_disk() {
        let dir = tempfile::tempdir().unwrap();
        let records =
            |n: u64| (0..n).map(|i| (Identity { upper: i.wrapping_mul(0x9E37_79B9_7F4A_7C15), lower: i << 32 }, i));
        for n in [0, 1000, 3_000_000] {
            let mut partitions = Partitions::new(dir.path());
            records(n).for_each(|r| partitions.add(r).unwrap());
            let spilled = partitions.parts.iter().filter(|part| !part.chunks.is_empty()).count();
            assert_eq!(spilled, if n > 1_000_000 { PARTITIONS } else { 0 });
            let found: Vec<(Identity, u64)> = partitions.sorted().flat_map(Result::unwrap).collect();
            let mut expected: Vec<(Identity, u64)> = records(n).collect();
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
        assert!(partitions.parts[7].chunks.len() * partitions.chunk <= 2 * LARGE / 8);
        let mut found: Vec<u64> = partitions.sorted().flat_map(Result::unwrap).collect();
        let copies = found.iter().filter(|record| **record == 7 << 56 | 1).count();
        assert!((2..1_000_000).contains(&copies), "{copies}");
        found.dedup();
        expected.push(7 << 56 | 1);
        expected.sort_unstable();
        assert!(found == expected);
    }

    #[test]
    fn partitions_made_for_a_number_and_a_range_are_in_order_and_hold_every_record_once() {
        let dir = tempfile::tempdir().unwrap();
        for (records, last) in [(10u64, 9u64), (300_000, 1_000_000), (4_000_000, 3_999_999)] {
            let mut partitions = Partitions::of(dir.path(), records, last);
            let keys: Vec<u64> = (0..records).map(|i| i * 7919 % (last + 1)).collect();
            keys.iter().for_each(|key| partitions.add(*key).unwrap());
            let found: Vec<u64> = partitions.sorted().flat_map(Result::unwrap).collect();
            let mut expected = keys;
            expected.sort_unstable();
            assert!(found == expected, "{records} up to {last}");
        }
    }
}
