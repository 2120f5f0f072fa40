//! A file of a table that is open: of this machine or in a store, read alike.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use twotower_artifacts::file_chunks::{FileChunks, Positional};
use twotower_stores::{Blocks, Object, RangeReader, Store};

/// A file that is open, at its beginning.
pub enum Opened {
    /// On this machine.
    File(File),
    /// In a store.
    Object(Box<RangeReader>, Store),
}

impl Opened {
    /// The same file once more, at its beginning.
    ///
    /// # Errors
    /// One of the operating system.
    pub fn again(&self) -> io::Result<Self> {
        match self {
            Opened::File(file) => {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                Ok(Opened::File(file))
            }
            Opened::Object(reader, store) => Ok(Self::of(store.clone(), reader.object().clone())),
        }
    }

    /// An object that was looked at.
    pub fn of(store: Store, object: Object) -> Self {
        Opened::Object(Box::new(store.reader_of(object)), store)
    }
}

impl Read for Opened {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Opened::File(file) => file.read(into),
            Opened::Object(reader, _) => reader.read(into),
        }
    }
}

impl Seek for Opened {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Opened::File(file) => file.seek(to),
            Opened::Object(reader, _) => reader.seek(to),
        }
    }
}

/// An object whose pages are read.
struct Pages(Blocks);

impl Positional for Pages {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(self.0.read_at(into, at)?)
    }
}

/// The pages of an object.
pub fn pages(blocks: Blocks) -> FileChunks {
    FileChunks::of(blocks.object().bytes, Arc::new(Pages(blocks)))
}
