//! Folders whose files stand in another place too, such as an object store.
//!
//! A [`Mirror`] is told of every file that gets its final name or loses it, before that happens, and is asked before one
//! is read. So writers and readers know of paths alone, and the other place is never ahead of nor behind what a killed
//! process could have left here. A process without mirrors pays one look at a flag.
//!
//! Files and folders whose names begin with a dot are temporary or locks: they stand here alone.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The content of a file that stands in the other place alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub bytes: u64,
    /// Whole BLAKE3 hash, 64 hex digits.
    pub blake3: String,
}

/// What keeps a folder and its other place in step.
pub trait Mirror: Send + Sync {
    /// Puts the content of the complete file `temp` into the other place, as that of `path`, whose name it gets next.
    ///
    /// # Errors
    /// When it cannot; then the file does not get its name.
    fn publish(&self, temp: &Path, path: &Path) -> io::Result<()>;

    /// Removes a file, or the link to a folder, from the other place, before it is removed here.
    ///
    /// # Errors
    /// When it cannot; then it stays here too.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Points the link to a folder at another one in the other place, before that happens here.
    ///
    /// # Errors
    /// When it cannot, or somebody else has changed it meanwhile; then it stays here too.
    fn switch(&self, link: &Path, target: &Path) -> io::Result<()>;

    /// Whether the file that was opened at `path` has its content. Otherwise it is fetched, and to be opened again.
    ///
    /// # Errors
    /// When it cannot be fetched.
    fn is_here(&self, path: &Path, file: &File) -> io::Result<bool>;

    /// The content of a file that is not here, if the other place can tell it without handing it over.
    ///
    /// # Errors
    /// When the other place cannot be asked.
    fn content(&self, path: &Path) -> io::Result<Option<Content>>;
}

static MIRRORS: RwLock<Vec<(PathBuf, Arc<dyn Mirror>)>> = RwLock::new(Vec::new());
static ANY: AtomicBool = AtomicBool::new(false);

/// From now on `mirror` keeps the folder `root`, by its absolute path without links, in step.
pub fn add(root: PathBuf, mirror: Arc<dyn Mirror>) {
    MIRRORS.write().unwrap_or_else(PoisonError::into_inner).push((root, mirror));
    ANY.store(true, Ordering::Release);
}

/// The mirror that a file is to be told to; none for those of other folders and for temporary ones.
pub(crate) fn of(path: &Path) -> Option<Arc<dyn Mirror>> {
    if !ANY.load(Ordering::Acquire) {
        return None;
    }
    let mirrors = MIRRORS.read().unwrap_or_else(PoisonError::into_inner);
    let (root, mirror) = mirrors.iter().find(|(root, _)| path.starts_with(root))?;
    let within = path.strip_prefix(root).ok()?;
    let hidden = within.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."));
    (!hidden).then(|| Arc::clone(mirror))
}

/// Whether the files of a folder stand in another place too.
pub fn is_mirrored(path: &Path) -> bool {
    of(path).is_some()
}
