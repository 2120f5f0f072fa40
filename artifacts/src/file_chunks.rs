//! Access to a file for the reader of the `parquet` crate, which asks for page headers and pages at any place.
//!
//! That crate's own access to a file opens a new handle for each read, seeks, and reads 8 KiB for a header of 30 bytes.
//! A table of a million rows has thousands of pages. Here a single system call reads a header or a page.
//!
//! The reader turns errors into text. Those of reading, and pages too large for memory, are also noted as a [`Trouble`],
//! so that callers can tell them apart from damage.
//!
//! What is read need not be a file: whatever can be read at any place will do ([`Positional`]).

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read at once where the length is not known. Most page headers are shorter.
const HEADER: usize = 256;

/// The largest page that is read, in bytes. A page is held in memory both compressed and decompressed. Most writers
/// make pages of 1 MiB, some of 100 MB.
pub const LARGEST_PAGE: u64 = 256 << 20;

/// What can be read at any place, by several threads at a time.
pub trait Positional: Send + Sync {
    /// Reads some bytes from the place `at` on, as [`FileExt::read_at`].
    ///
    /// # Errors
    /// One of reading.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Positional for File {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, at)
    }
}

/// Why reading a file ended for a reason other than damaged content.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// An error of reading.
    Read(Arc<io::Error>),
    /// A page of more than [`LARGEST_PAGE`] bytes.
    Page {
        /// Where it begins.
        at: u64,
        /// Its size without compression.
        bytes: u64,
    },
}

/// Keeps the first trouble that reading a file has met. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<Option<Trouble>>>);

impl Troubles {
    /// The first trouble, if there was any.
    pub fn first(&self) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, trouble: Trouble) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(trouble);
    }
}

/// An open file that is read at given places.
pub struct FileChunks {
    file: Arc<dyn Positional>,
    bytes: u64,
    troubles: Troubles,
}

impl FileChunks {
    /// Wraps an open file. The file's own position is not used.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn new(file: File) -> std::io::Result<Self> {
        Ok(Self::of(file.metadata()?.len(), Arc::new(file)))
    }

    /// Wraps what has `bytes` bytes and is no file.
    pub fn of(bytes: u64, file: Arc<dyn Positional>) -> Self {
        Self { file, bytes, troubles: Troubles::default() }
    }

    /// The same file, with a record of troubles of its own.
    pub fn another(&self) -> Self {
        Self::of(self.bytes, self.file.clone())
    }

    /// The record of troubles that later reads of this file note theirs in.
    pub fn troubles(&self) -> Troubles {
        self.troubles.clone()
    }

    fn read_at(&self, at: u64) -> ReadAt {
        ReadAt { file: self.file.clone(), at, troubles: self.troubles.clone() }
    }
}

impl Length for FileChunks {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for FileChunks {
    type T = BufReader<ReadAt>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let mut reader = BufReader::with_capacity(HEADER, self.read_at(start));
        match page_bytes(reader.fill_buf()?) {
            Some(bytes) if bytes > LARGEST_PAGE => {
                self.troubles.note(Trouble::Page { at: start, bytes });
                Err(ParquetError::General(format!("a page of {bytes} bytes, at most {LARGEST_PAGE} are read")))
            }
            _ => Ok(reader),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let there = usize::try_from(self.bytes.saturating_sub(start)).unwrap_or(usize::MAX);
        if length > there {
            return Err(ParquetError::EOF(format!("{length} bytes at {start}, the file ends after {there}")));
        }
        let mut bytes = Vec::with_capacity(length);
        let found = self.read_at(start).take(length as u64).read_to_end(&mut bytes)?;
        if found < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start}, the file ended after {found}")));
        }
        Ok(bytes.into())
    }
}

/// The uncompressed size of a page, given the first bytes of its header: the header's second field, in Thrift's compact
/// protocol.
fn page_bytes(header: &[u8]) -> Option<u64> {
    /// The byte before a 32-bit integer whose field number is one above the last field's.
    const NEXT_INT: u8 = 0x15;
    let mut rest = header.iter().copied();
    let mut int = || {
        (rest.next()? == NEXT_INT).then_some(())?;
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = rest.next()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    int()?;
    // The number is in zigzag order. A negative size is left to the decoder, which refuses it.
    int().filter(|value| value & 1 == 0).map(|value| value >> 1)
}

/// Reads a file from a given place on.
pub struct ReadAt {
    file: Arc<dyn Positional>,
    at: u64,
    troubles: Troubles,
}

impl Read for ReadAt {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(into, self.at).map_err(|error| {
            // The reader keeps the text alone.
            let said = io::Error::new(error.kind(), error.to_string());
            if error.kind() != io::ErrorKind::Interrupted {
                self.troubles.note(Trouble::Read(Arc::new(error)));
            }
            said
        })?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_too_large_is_refused_by_its_header() {
        let header = |bytes: u32| {
            let mut varint = vec![0x15, 0x00, 0x15];
            let mut left = u64::from(bytes) << 1;
            while left >= 0x80 {
                varint.push(left as u8 | 0x80);
                left >>= 7;
            }
            varint.extend([left as u8, 0x15, 0x02, 0x2C]);
            varint
        };
        for bytes in [0, 1, 100, 1 << 20, 700_000_000, i32::MAX as u32] {
            assert_eq!(page_bytes(&header(bytes)), Some(u64::from(bytes)));
        }
        for other in [&b""[..], b"PAR1", &[0x15], &[0x15, 0x80, 0x80], &[0x15, 0, 0x15, 3, 0]] {
            assert_eq!(page_bytes(other), None);
        }
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), header(700_000_000)).unwrap();
        let chunks = FileChunks::new(File::open(path.path()).unwrap()).unwrap();
        assert!(chunks.get_read(0).is_err());
        assert!(matches!(chunks.troubles().first(), Some(Trouble::Page { at: 0, bytes: 700_000_000 })));
    }

    #[test]
    fn bytes_come_from_where_they_are_asked_for_and_none_from_beyond_the_end() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..2000u32).map(|i| i as u8).collect();
        std::fs::write(path.path(), &content).unwrap();
        let chunks = FileChunks::new(File::open(path.path()).unwrap()).unwrap();
        assert_eq!(chunks.len(), 2000);
        assert_eq!(chunks.get_bytes(1990, 10).unwrap(), &content[1990..]);
        let mut rest = Vec::new();
        chunks.get_read(700).unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(rest, &content[700..]);
        assert_eq!(chunks.get_bytes(3, 4).unwrap(), &content[3..7]);
        for (start, length) in [(1990, 11), (2001, 1), (u64::MAX, 1), (0, usize::MAX)] {
            assert!(matches!(chunks.get_bytes(start, length), Err(ParquetError::EOF(_))), "{start} {length}");
        }
    }
}
