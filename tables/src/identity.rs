//! The files of a table as they were when it was opened: found again at every reading, and fingerprinted.
//!
//! A table is read several times, by path. Each time the file is opened it is compared with what it was, and once more
//! when its last row has been read. So rows of one file never meet rows of the one that replaced it. Of an object in a
//! store every single range is asked for on the condition that it is still that object, by its e-tag.

use crate::error::TableError;
use crate::opened::{Opened, pages};
use crate::records::io_error;
use crate::spec::FingerprintKind;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use twotower_artifacts::Fingerprint;
use twotower_artifacts::file_chunks::FileChunks;
use twotower_stores::{Blocks, Object, Store};

/// A table up to this size is hashed whole by a quick fingerprint.
const SMALL_TABLE: u64 = 64 << 20;
/// How much of either end of a file of a larger table goes into a quick fingerprint.
const END_BYTES: u64 = 64 << 10;
/// Pieces between the ends of such a file that go into it, and the size of each.
const PIECES: u64 = 16;
const PIECE_BYTES: u64 = 4 << 10;
/// Bytes hashed at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// Seconds and nanoseconds since 1970.
type Time = (i64, i64);

/// What tells a file from its successors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    bytes: u64,
    /// When its content was changed, which a program may set.
    modified: Time,
    /// When its content, name or attributes were changed, which no program may set.
    changed: Time,
    /// Device and inode. File systems in user space may number a file anew from time to time.
    place: (u64, u64),
}

impl Identity {
    fn of(about: &Metadata) -> Self {
        Self {
            bytes: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
            place: (about.dev(), about.ino()),
        }
    }
}

/// Where a file is, and what it was.
#[derive(Debug, Clone)]
enum Origin {
    File(Identity),
    Object(Store, Object),
}

/// What no two files share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stands {
    /// Device and inode.
    Inode(u64, u64),
    /// The URL of an object.
    Object(PathBuf),
}

/// A file of a table as it was when the table was opened.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    origin: Origin,
    /// What its fingerprint says of its content.
    content: Option<Content>,
    print: Option<Fingerprint>,
}

/// The files that each table of a job was first read from, so that a later stage finds them as they were; shared by
/// all its clones.
#[derive(Clone, Default)]
pub struct SeenFiles(Arc<Mutex<HashMap<String, Vec<Arc<SourceFile>>>>>);

impl SeenFiles {
    /// The files that a table, known by its paths, was first read from, if it was; `found` are those it has now.
    ///
    /// # Errors
    /// [`TableError::Changed`] when they are not the same.
    pub fn first<'f>(
        &self,
        table: &str,
        found: impl Iterator<Item = &'f SourceFile>,
    ) -> Result<Option<Vec<Arc<SourceFile>>>, TableError> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(table).cloned();
        let Some(seen) = seen else { return Ok(None) };
        let mut found = found.fuse();
        for file in &seen {
            file.check()?;
            match found.next() {
                Some(again) if again.path() == file.path() => file.compare_object(again)?,
                Some(again) if again.path() < file.path() => return Err(added(again.path())),
                _ => return Err(file.changed("the path of the table does not lead to it any more".into())),
            }
        }
        found.next().map_or(Ok(Some(seen)), |file| Err(added(file.path())))
    }

    /// Notes the files that a table was read from.
    pub fn note(&self, table: String, files: Vec<Arc<SourceFile>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(table).or_insert(files);
    }
}

fn added(path: &Path) -> TableError {
    let reason = "it was not there when the table was read first".to_string();
    TableError::Changed { path: path.to_path_buf(), reason }
}

impl std::fmt::Debug for SeenFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeenFiles")
    }
}

/// What has been read is no setting: any two are the same.
impl PartialEq for SeenFiles {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SeenFiles {}

/// A hash of all or some of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    whole: bool,
    hash: blake3::Hash,
}

impl SourceFile {
    /// The file at a path.
    ///
    /// # Errors
    /// [`TableError::Source`] for what is no file; [`TableError::Io`].
    pub fn find(path: PathBuf) -> Result<Self, TableError> {
        let about = fs::metadata(&path).map_err(io_error("read", &path))?;
        refuse_special(&path, &about)?;
        Ok(Self { origin: Origin::File(Identity::of(&about)), path, content: None, print: None })
    }

    /// An object that was looked at.
    pub fn of_object(path: PathBuf, store: Store, object: Object) -> Self {
        Self { origin: Origin::Object(store, object), path, content: None, print: None }
    }

    /// Whether it lies in a store.
    pub fn is_object(&self) -> bool {
        matches!(self.origin, Origin::Object(..))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        match &self.origin {
            Origin::File(identity) => identity.bytes,
            Origin::Object(_, object) => object.bytes,
        }
    }

    /// What tells it from other files, if anything does: not every file system numbers its files.
    pub fn stands(&self) -> Option<Stands> {
        match &self.origin {
            Origin::File(Identity { place: (_, 0), .. }) => None,
            Origin::File(Identity { place: (device, inode), .. }) => Some(Stands::Inode(*device, *inode)),
            Origin::Object(..) => Some(Stands::Object(self.path.clone())),
        }
    }

    /// Opens the file, if it is still what it was. Of an object, every reading finds that out.
    ///
    /// # Errors
    /// [`TableError::Changed`], [`TableError::Io`].
    pub fn open(&self) -> Result<Opened, TableError> {
        match &self.origin {
            Origin::File(identity) => Ok(Opened::File(self.open_file(identity)?)),
            Origin::Object(store, object) => Ok(Opened::of(store.clone(), object.clone())),
        }
    }

    fn open_file(&self, identity: &Identity) -> Result<File, TableError> {
        // What is no file by now might never open.
        self.check()?;
        let file = File::open(&self.path).map_err(io_error("open", &self.path))?;
        self.compare(identity, &file.metadata().map_err(io_error("read", &self.path))?)?;
        Ok(file)
    }

    /// The file for the reader of Parquet, which will read these stretches of it, group after group.
    ///
    /// # Errors
    /// As [`SourceFile::open`].
    pub fn chunks(&self, groups: impl FnOnce() -> Vec<Vec<Range<u64>>>) -> Result<FileChunks, TableError> {
        match &self.origin {
            Origin::File(identity) => FileChunks::new(self.open_file(identity)?).map_err(io_error("read", &self.path)),
            Origin::Object(store, object) => Ok(pages(Blocks::new(store.clone(), object.clone(), groups()))),
        }
    }

    /// The file for the reader of a Parquet footer.
    ///
    /// # Errors
    /// As [`SourceFile::open`].
    pub fn footer_chunks(&self) -> Result<FileChunks, TableError> {
        match &self.origin {
            Origin::File(_) => self.chunks(Vec::new),
            Origin::Object(store, object) => Ok(pages(Blocks::of_footer(store.clone(), object.clone()))),
        }
    }

    /// Compares an object with what lies in its place by now.
    fn compare_object(&self, again: &SourceFile) -> Result<(), TableError> {
        match (&self.origin, &again.origin) {
            (Origin::Object(_, was), Origin::Object(_, is)) if was.bytes != is.bytes => {
                Err(self.changed(format!("it had {} bytes and has {}", was.bytes, is.bytes)))
            }
            (Origin::Object(_, was), Origin::Object(_, is)) if was.version != is.version => {
                Err(self.changed("another object has its name".into()))
            }
            (Origin::Object(..) | Origin::File(_), _) => Ok(()),
        }
    }

    /// Checks that the path still names the file it named, unchanged. Of an object, all that was read of it was.
    ///
    /// # Errors
    /// [`TableError::Changed`], [`TableError::Io`].
    pub fn check(&self) -> Result<(), TableError> {
        let Origin::File(identity) = &self.origin else { return Ok(()) };
        match fs::metadata(&self.path) {
            Ok(about) => self.compare(identity, &about),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.changed("it is not there any more".into())),
            Err(e) => Err(io_error("read", &self.path)(e)),
        }
    }

    fn compare(&self, was: &Identity, about: &Metadata) -> Result<(), TableError> {
        refuse_special(&self.path, about)?;
        let is = Identity::of(about);
        if was.bytes != is.bytes {
            return Err(self.changed(format!("it had {} bytes and has {}", was.bytes, is.bytes)));
        }
        if was.modified != is.modified {
            return Err(self.changed("it was written to, or replaced".into()));
        }
        if was.changed != is.changed {
            return Err(self.changed("it was written to, replaced, renamed, linked, or its permissions changed".into()));
        }
        // Another number alone may be the file system's doing.
        if was.place != is.place && self.content != self.content.map(|c| self.content(c.whole)).transpose()? {
            return Err(self.changed("another file has its name".into()));
        }
        Ok(())
    }

    fn changed(&self, reason: String) -> TableError {
        TableError::Changed { path: self.path.clone(), reason }
    }

    /// Its fingerprint, once that is [made](SourceFile::fingerprint).
    pub fn print(&self) -> Option<&Fingerprint> {
        self.print.as_ref()
    }

    /// Makes the fingerprint of name, size and content, for a table of `table_bytes` in all. `folders` are the names of its
    /// partition folders, whose values are read as columns.
    ///
    /// # Errors
    /// As [`SourceFile::open`].
    pub fn fingerprint(&mut self, kind: FingerprintKind, table_bytes: u64, folders: &[u8]) -> Result<(), TableError> {
        let bytes = self.bytes();
        let (content, times) = match (&self.origin, kind) {
            // What the store tells one object from another by, and nothing read.
            (Origin::Object(_, object), FingerprintKind::Quick) => match &object.version.e_tag {
                Some(e_tag) => (blake3::hash(e_tag.as_bytes()), Vec::new()),
                None => (blake3::hash(b""), object.modified.0.to_le_bytes().to_vec()),
            },
            (Origin::Object(..), FingerprintKind::Content) => (self.content(true)?.hash, Vec::new()),
            (Origin::File(Identity { modified, .. }), kind) => {
                let modified = *modified;
                let content = self.content(kind == FingerprintKind::Content || table_bytes <= SMALL_TABLE)?;
                self.content = Some(content);
                self.check()?;
                let times = match kind {
                    FingerprintKind::Quick => [modified.0.to_le_bytes(), modified.1.to_le_bytes()].concat(),
                    FingerprintKind::Content => Vec::new(),
                };
                (content.hash, times)
            }
        };
        self.print = Some(Fingerprint::of_parts([
            ("name", self.path.file_name().unwrap_or_default().as_encoded_bytes()),
            ("folders", folders),
            ("size", &bytes.to_le_bytes()),
            ("changed", &times),
            ("content", content.as_bytes()),
        ]));
        Ok(())
    }

    /// The hash of the file's content, all of it or some pieces.
    fn content(&self, whole: bool) -> Result<Content, TableError> {
        let failed = || io_error("read", &self.path);
        let mut file = match &self.origin {
            Origin::File(_) => Opened::File(File::open(&self.path).map_err(io_error("open", &self.path))?),
            Origin::Object(store, object) => Opened::of(store.clone(), object.clone()),
        };
        let mut hasher = blake3::Hasher::new();
        if whole {
            hash(&mut file, u64::MAX, &mut hasher).map_err(failed())?;
        } else {
            for (at, length) in pieces(self.bytes()) {
                file.seek(SeekFrom::Start(at)).map_err(failed())?;
                hash(&mut file, length, &mut hasher).map_err(failed())?;
            }
        }
        Ok(Content { whole, hash: hasher.finalize() })
    }
}

/// The stretches of a file of a large table that a quick fingerprint looks at.
fn pieces(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let ends = [(0, END_BYTES), (bytes.saturating_sub(END_BYTES), END_BYTES)];
    let between = (1..=PIECES).map(move |piece| (bytes / (PIECES + 1) * piece, PIECE_BYTES));
    ends.into_iter().chain(between)
}

/// Hashes up to `length` bytes of what comes next.
fn hash(file: &mut Opened, length: u64, hasher: &mut blake3::Hasher) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(length).unwrap_or(BUFFER_BYTES))];
    let mut left = file.take(length);
    loop {
        match left.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => _ = hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Refuses what is no file: a FIFO can be read only once, and may never end.
fn refuse_special(path: &Path, about: &Metadata) -> Result<(), TableError> {
    match what(about) {
        None => Ok(()),
        Some(found) => {
            let reason = format!("is {found}, expected a file, since tables are read more than once");
            Err(TableError::Source { path: path.to_path_buf(), reason })
        }
    }
}

/// What a path names that is no file.
pub fn what(about: &Metadata) -> Option<&'static str> {
    let kind = about.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some("a FIFO"),
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_block_device() || kind.is_char_device() => Some("a device"),
        () => Some("neither a file nor a folder"),
    }
}
