//! What is known of the objects of a working copy: a note for each, beside the copy.
//!
//! A note says which version of an object there is, and which file here has its content: by inode, time and size, so that
//! a note that was written before or after its file was replaced certifies nothing. A file without such a note only
//! stands for its object: it has the object's size and takes no room on the disk.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use twotower_artifacts::publish::create_temp;

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its e-tag.
    pub e_tag: Option<String>,
    /// Its bytes.
    pub bytes: u64,
    /// Its whole BLAKE3 hash, where it is known.
    pub blake3: Option<String>,
    /// The file that has its content, if there is one.
    pub file: Option<FileId>,
}

/// What tells a file from one that is put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl FileId {
    /// Of a file, as the system describes it.
    pub fn of(found: &Metadata) -> Self {
        Self { inode: found.ino(), bytes: found.len(), seconds: found.mtime(), nanoseconds: found.mtime_nsec() }
    }
}

impl Note {
    /// Whether a file has the content of the object.
    pub fn certifies(&self, found: &Metadata) -> bool {
        self.file == Some(FileId::of(found))
    }
}

/// The notes of a working copy.
#[derive(Debug)]
pub struct Notes(PathBuf);

impl Notes {
    /// Those in a folder.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        // No object's name ends like this and goes on with a slash.
        self.0.join(format!("{name}.note"))
    }

    /// The note of an object, by its path in the working copy. One that cannot be read says nothing.
    pub fn read(&self, name: &str) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }

    /// Writes a note.
    ///
    /// # Errors
    /// I/O.
    pub fn write(&self, name: &str, note: &Note) -> io::Result<()> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.0);
        fs::create_dir_all(folder)?;
        put(&path, |mut file| serde_json::to_writer(&mut file, note).map_err(io::Error::from))
    }

    /// Removes a note.
    pub fn remove(&self, name: &str) {
        // What is left certifies no file that comes later.
        let _ = fs::remove_file(self.path(name));
    }
}

/// Puts a file in place of another in one step; a cache need not outlive a power failure, so nothing is synced.
///
/// # Errors
/// I/O.
pub fn put(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let (file, temp) = create_temp(path).map_err(io::Error::other)?;
    let put = write(&file).and_then(|()| fs::rename(&temp, path));
    if put.is_err() {
        let _ = fs::remove_file(&temp);
    }
    put
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_certifies_the_file_it_was_written_for_and_no_other_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::new(dir.path().join("notes"));
        let path = dir.path().join("a");
        fs::write(&path, "content").unwrap();
        let file = Some(FileId::of(&fs::metadata(&path).unwrap()));
        let note = Note { e_tag: Some("1".into()), bytes: 7, blake3: None, file };
        notes.write("recall/a", &note).unwrap();
        assert_eq!(notes.read("recall/a"), Some(note.clone()));
        assert!(note.certifies(&fs::metadata(&path).unwrap()));
        put(&path, |file| file.set_len(7)).unwrap();
        assert!(!note.certifies(&fs::metadata(&path).unwrap()));
        assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
        fs::write(dir.path().join("notes/recall/a.note"), "{").unwrap();
        assert_eq!(notes.read("recall/a"), None);
    }
}
