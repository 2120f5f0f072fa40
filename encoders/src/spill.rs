//! Counts that do not fit into memory, in one nameless file per counter.
//!
//! Each time a counter is spilled, its content is written as a run, divided into [`PARTS`] by the hash of the value.
//! Equal values are in the same part of every run. So counts are added up by reading one part of all runs at a time. A
//! part that would take too much memory is read several times, each time for a share of its values.
//!
//! The record of a text is its length plus one, the text, and the count. That of an integer is 0, the integer in 8
//! bytes, and the count. Lengths and counts are LEB128. Only the process that wrote a file reads it.

use crate::error::EncoderError;
use crate::value_counts::ValueCounts;
use crate::values::Canonical;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use twotower_artifacts::keyed::{hash_int, hash_text};

/// Parts of a run.
const PARTS: usize = 256;
const BUFFER_BYTES: usize = 64 << 10;

/// Runs of counts in a file. Clones append to the same file, but each knows only its own runs.
#[derive(Debug, Clone)]
pub(crate) struct SpilledCounts {
    dir: PathBuf,
    runs: Vec<Run>,
    /// The file to which new runs are appended.
    file: Arc<Mutex<File>>,
}

#[derive(Debug, Clone)]
struct Run {
    file: Arc<Mutex<File>>,
    /// `[PARTS]`.
    parts: Arc<[Part]>,
}

/// The place of a part of a run in the file.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    start: u64,
    bytes: u64,
    values: u64,
}

/// Evenly spread bits of a value, different from those that a hash table uses.
fn spread(value: Canonical<'_>) -> u64 {
    let hash = match value {
        Canonical::Missing => 0,
        Canonical::Int(i) => hash_int(i),
        Canonical::Text(text) => hash_text(text),
    };
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
}

fn part_of(value: Canonical<'_>) -> usize {
    spread(value) as usize % PARTS
}

fn share_of(value: Canonical<'_>, shares: u64) -> u64 {
    (spread(value) / PARTS as u64) % shares
}

impl SpilledCounts {
    /// Makes the file in `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self, EncoderError> {
        let file = tempfile::tempfile_in(dir).map_err(spill_error("create a temporary file", dir))?;
        Ok(Self { dir: dir.to_path_buf(), runs: Vec::new(), file: Arc::new(Mutex::new(file)) })
    }

    /// Appends what `counts` holds in memory as a run.
    pub(crate) fn write(&mut self, counts: &ValueCounts) -> Result<(), EncoderError> {
        if counts.distinct() == 0 {
            return Ok(());
        }
        let mut ends = [0usize; PARTS];
        counts.for_each_held(|value, _| ends[part_of(value)] += 1);
        let mut start = 0;
        for end in &mut ends {
            (start, *end) = (start + *end, start);
        }
        // The numbers of the values, ordered by part. Until now `ends` holds where parts start; the loop moves it to
        // where they end.
        let mut order = vec![0u32; counts.distinct()];
        for number in 0..counts.distinct() {
            let end = &mut ends[part_of(counts.held(number).0)];
            order[*end] = number as u32;
            *end += 1;
        }
        let parts = write_run(&self.file, counts, &order, &ends).map_err(spill_error("write", &self.dir))?;
        self.runs.push(Run { file: self.file.clone(), parts: parts.into() });
        Ok(())
    }

    /// Takes over the runs of another counter.
    pub(crate) fn append(&mut self, other: Self) {
        self.runs.extend(other.runs);
    }

    /// Calls `f` with counters that together hold all counts. No value is in two of them, and each takes at most about
    /// `bytes`.
    pub(crate) fn add_up(&self, bytes: usize, mut f: impl FnMut(&ValueCounts)) -> Result<(), EncoderError> {
        for part in 0..PARTS {
            // While a counter grows, a text may take twice its bytes, and each value 48 bytes more. A share holds at
            // least one value, however long.
            let parts = || self.runs.iter().map(|r| r.parts[part]);
            let needed: u64 = parts().map(|p| p.bytes * 2 + p.values * 48).sum();
            let values: u64 = parts().map(|p| p.values).sum();
            let shares = needed.div_ceil(bytes.max(1) as u64).min(values).max(1);
            for share in 0..shares {
                let mut counts = ValueCounts::default();
                for run in &self.runs {
                    let take = |value: Canonical<'_>, n: u64| {
                        if shares == 1 || share_of(value, shares) == share {
                            counts.add_canonical(value, n);
                        }
                    };
                    read_part(run, part, take).map_err(spill_error("read", &self.dir))?;
                }
                f(&counts);
            }
        }
        Ok(())
    }
}

fn write_run(file: &Mutex<File>, counts: &ValueCounts, order: &[u32], ends: &[usize]) -> io::Result<Vec<Part>> {
    let file = file.lock().unwrap_or_else(PoisonError::into_inner);
    let mut start = (&*file).seek(SeekFrom::End(0))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, &*file);
    let mut parts = Vec::with_capacity(PARTS);
    let mut from = 0;
    for &end in ends {
        let mut bytes = 0;
        for &number in &order[from..end] {
            let (value, count) = counts.held(number as usize);
            bytes += write_record(&mut out, value, count)?;
        }
        parts.push(Part { start, bytes, values: (end - from) as u64 });
        start += bytes;
        from = end;
    }
    out.flush()?;
    Ok(parts)
}

fn write_record(out: &mut impl Write, value: Canonical<'_>, count: u64) -> io::Result<u64> {
    let text = match value {
        Canonical::Int(i) => {
            out.write_all(&[0])?;
            out.write_all(&i.to_le_bytes())?;
            return Ok(9 + write_number(out, count)?);
        }
        Canonical::Text(text) => text,
        Canonical::Missing => "",
    };
    let head = write_number(out, text.len() as u64 + 1)?;
    out.write_all(text.as_bytes())?;
    Ok(head + text.len() as u64 + write_number(out, count)?)
}

fn write_number(out: &mut impl Write, mut number: u64) -> io::Result<u64> {
    let mut bytes = [0u8; 10];
    let mut length = 0;
    loop {
        bytes[length] = (number & 0x7f) as u8 | if number > 0x7f { 0x80 } else { 0 };
        length += 1;
        number >>= 7;
        if number == 0 {
            break;
        }
    }
    out.write_all(&bytes[..length])?;
    Ok(length as u64)
}

fn read_part(run: &Run, part: usize, mut f: impl FnMut(Canonical<'_>, u64)) -> io::Result<()> {
    let Part { start, bytes, values } = run.parts[part];
    let file = run.file.lock().unwrap_or_else(PoisonError::into_inner);
    (&*file).seek(SeekFrom::Start(start))?;
    let mut input = BufReader::with_capacity(BUFFER_BYTES.min(bytes as usize), (&*file).take(bytes));
    let mut text = Vec::new();
    for _ in 0..values {
        match read_number(&mut input)?.checked_sub(1) {
            None => {
                let mut int = [0; 8];
                input.read_exact(&mut int)?;
                f(Canonical::Int(i64::from_le_bytes(int)), read_number(&mut input)?);
            }
            Some(length) => {
                text.resize(length as usize, 0);
                input.read_exact(&mut text)?;
                let count = read_number(&mut input)?;
                let text = std::str::from_utf8(&text).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
                f(Canonical::Text(text), count);
            }
        }
    }
    Ok(())
}

fn read_number(input: &mut impl BufRead) -> io::Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(number);
        }
    }
    Err(io::Error::new(ErrorKind::InvalidData, "a number of more than 64 bits"))
}

fn spill_error(action: &'static str, dir: &Path) -> impl FnOnce(io::Error) -> EncoderError {
    move |source| EncoderError::Spill { action, dir: dir.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_at_the_extremes() {
        let long = "é".repeat(100_000);
        let values = [
            (Canonical::Int(i64::MIN), 1),
            (Canonical::Int(i64::MAX), u64::MAX),
            (Canonical::Int(0), 127),
            (Canonical::Text("x"), 128),
            (Canonical::Text(&long), 1 << 40),
        ];
        let mut counts = ValueCounts::default();
        values.iter().for_each(|(v, n)| counts.add_canonical(*v, *n));
        let dir = tempfile::tempdir().unwrap();
        let mut spilled = SpilledCounts::create(dir.path()).unwrap();
        spilled.write(&counts).unwrap();
        let mut found = Vec::new();
        spilled.add_up(1, |part| part.for_each_held(|v, n| found.push((format!("{v:?}"), n)))).unwrap();
        let mut expected = values.map(|(v, n)| (format!("{v:?}"), n)).to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn parts_and_shares_are_even() {
        let mut parts = vec![0u32; PARTS];
        let mut shares = [0u32; 5];
        for i in 0..256_000 {
            let text = format!("u{i:09}");
            parts[part_of(Canonical::Text(&text))] += 1;
            shares[share_of(Canonical::Text(&text), 5) as usize] += 1;
        }
        // 1,000 a part, binomial deviation 32.
        assert!(parts.iter().all(|n| (800..1200).contains(n)), "{parts:?}");
        assert!(shares.iter().all(|n| (50_000..52_400).contains(n)), "{shares:?}");
    }
}
