//! What goes to a store and comes from it.

use super::notes::{FileId, Note};
use super::{Mirror, SMALL, locked, names};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::time::SystemTime;
use twotower_artifacts::hashing::HashingWriter;
use twotower_artifacts::publish::create_temp;
use twotower_stores::{Condition, StoreError, Version};

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;

/// The hash of an object, as it stands in the store beside it.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// Of the version that has the hash.
    e_tag: Option<String>,
    bytes: u64,
    blake3: String,
}

impl Mirror {
    /// Uploads a file, under the name that it gets next, and notes which version of the object it is.
    ///
    /// # Errors
    /// [`StoreError`]; I/O.
    pub(super) fn send(&self, temp: &std::path::Path, name: &str) -> io::Result<()> {
        let key = self.key(name);
        let mut file = File::open(temp)?;
        let found = file.metadata()?;
        let alone;
        let (version, blake3) = if found.len() < SMALL {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let blake3 = blake3_of(&bytes);
            alone = self.alone()?;
            let known = self.notes.read(name).map(|note| Version { e_tag: note.e_tag });
            let condition = known.map_or(Condition::IfAbsent, Condition::IfMatch);
            let version = self.put_if(&key, bytes, condition).map_err(|error| self.faster(name, error))?;
            (version, blake3)
        } else {
            let mut upload = self.store().upload(&key)?;
            let mut chunk = vec![0; CHUNK];
            loop {
                match file.read(&mut chunk)? {
                    0 => break,
                    n => upload.append(&chunk[..n])?,
                }
            }
            let blake3 = upload.hash();
            alone = self.alone()?;
            let version = upload.finish()?;
            let stored = Stored { e_tag: version.e_tag.clone(), bytes: found.len(), blake3: blake3.clone() };
            let stored = serde_json::to_vec(&stored)?;
            self.store().put(&self.key(&names::stored(name)), stored, Condition::Always)?;
            (version, blake3)
        };
        let file = Some(FileId::of(&found));
        self.notes.write(name, &Note { e_tag: version.e_tag, bytes: found.len(), blake3: Some(blake3), file })?;
        drop(alone);
        self.cache.add(found.len(), |bytes| self.make_room(bytes));
        Ok(())
    }

    /// An error of a write; of one whose condition does not hold, what that means.
    fn faster(&self, name: &str, error: StoreError) -> io::Error {
        if !error.is_conflict() {
            return error.into();
        }
        io::Error::other(format!(
            "another process has written {} since this one looked at it; what it wrote stays, give the same command again",
            self.url().join(name)
        ))
    }

    /// Fetches an object into the working copy. Where its hash is known, it is compared.
    ///
    /// # Errors
    /// [`StoreError`]; content of another hash; I/O.
    pub(super) fn fetch(&self, name: &str) -> io::Result<()> {
        let path = self.root().join(name);
        let object = self.store().head(&self.key(name))?;
        let expected = match object.bytes < SMALL {
            true => None,
            false => self.stored_hash(name, object.version.e_tag.as_ref())?,
        };
        let before = self.notes.read(name);
        let (file, temp) = create_temp(&path).map_err(io::Error::other)?;
        let (e_tag, bytes) = (object.version.e_tag.clone(), object.bytes);
        let written = || -> io::Result<()> {
            let mut out = HashingWriter::new(&file);
            let mut reader = self.store().reader_of(object);
            let mut chunk = vec![0; CHUNK];
            loop {
                match reader.read(&mut chunk)? {
                    0 => break,
                    n => out.write_all(&chunk[..n])?,
                }
            }
            let blake3 = out.digest().to_hex().to_string();
            if let Some(expected) = expected.filter(|expected| *expected != blake3) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("checksum {blake3}, it was written with {expected}; give the same command again"),
                ));
            }
            // A note must not outlive the content of its file.
            file.sync_data()?;
            let file = Some(FileId::of(&file.metadata()?));
            let _alone = self.alone()?;
            if self.notes.read(name) != before {
                // Another process of this machine has written or fetched it meanwhile.
                return fs::remove_file(&temp);
            }
            self.notes.write(name, &Note { e_tag, bytes, blake3: Some(blake3), file })?;
            fs::rename(&temp, &path)
        };
        if let Err(error) = written() {
            let _ = fs::remove_file(&temp);
            return Err(error);
        }
        locked(&self.opened).insert(path, SystemTime::now());
        self.cache.add(bytes, |bytes| self.make_room(bytes));
        Ok(())
    }

    /// The hash of a version of an object, if it was noted in the store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn stored_hash(&self, name: &str, e_tag: Option<&String>) -> Result<Option<String>, StoreError> {
        let bytes = match self.store().get(&self.key(&names::stored(name))) {
            Ok((_, bytes)) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let stored = serde_json::from_slice::<Stored>(&bytes).ok();
        Ok(stored.filter(|stored| stored.e_tag.as_ref() == e_tag && e_tag.is_some()).map(|stored| stored.blake3))
    }
}

fn blake3_of(bytes: &[u8]) -> String {
    let mut hasher = HashingWriter::new(io::sink());
    // A sink takes everything.
    let _ = hasher.write_all(bytes);
    hasher.digest().to_hex().to_string()
}
