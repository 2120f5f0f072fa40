//! A file as Parquet's reader reads it: headers of pages and pages, here and there.
//!
//! Its own way with a file moves a position that all handles share, on a new handle each time, and reads 8 KiB for
//! each header of 30 bytes; a table of a million rows is thousands of pages. Here one call of the system reads a
//! header or a page, where it is.

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes read at a time where the length is not known: most headers of pages.
const HEADER: usize = 256;

/// A file open for reading by place.
pub(crate) struct FileChunks {
    file: Arc<File>,
    bytes: u64,
}

impl FileChunks {
    /// Of an open file, whose own position is left alone.
    pub fn new(file: File) -> std::io::Result<Self> {
        Ok(Self { bytes: file.metadata()?.len(), file: file.into() })
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
        Ok(BufReader::with_capacity(HEADER, ReadAt { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let there = usize::try_from(self.bytes.saturating_sub(start)).unwrap_or(usize::MAX);
        if length > there {
            return Err(ParquetError::EOF(format!("{length} bytes at {start}, the file ends after {there}")));
        }
        let mut bytes = Vec::with_capacity(length);
        let found = ReadAt { file: self.file.clone(), at: start }.take(length as u64).read_to_end(&mut bytes)?;
        if found < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start}, the file ended after {found}")));
        }
        Ok(bytes.into())
    }
}

/// Reads a file from some place on.
pub(crate) struct ReadAt {
    file: Arc<File>,
    at: u64,
}

impl Read for ReadAt {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
