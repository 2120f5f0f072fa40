//! Runs in object stores: a run at a URL has a working copy here, and the stages know of its paths alone.
//!
//! ```text
//! s3://bucket/runs/2026-12-01/recall/part-00000-of-00001.parquet     the object
//! CACHE/s3-bucket-HASH/tree/2026-12-01/recall/part-….parquet         the file that stands for it, or has its content
//! CACHE/s3-bucket-HASH/notes/2026-12-01/recall/part-….parquet.note   which version it is, and of which file
//! ```
//!
//! A `Mirror` keeps a folder of the store and its working copy in step. When a run is opened, and whenever a lock on it
//! is taken, its objects are listed: each that is new or has changed gets a file of its size without content, and files
//! without an object go. A file is fetched when it is opened. What a stage publishes is uploaded before it gets its name
//! here, and removed there before it is removed here, so a killed process leaves in the store what a kill on one machine
//! leaves: files without a manifest, never a manifest without its files.
//!
//! The hash of every larger object stands in `RUN/.stored/`, so that whether a result is what its manifest says is known
//! without fetching it.

mod cache;
mod names;
mod notes;
mod options;
mod transfer;

pub use options::{MirrorOptions, configure, local, local_folder, shown};
pub(crate) use options::{copy_of, of, refresh, url, written};

use crate::error::PipelineError;
use crate::run::dir::LATEST;
use cache::Cache;
use names::{is_hidden, is_plain};
use notes::{Note, Notes, put};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use twotower_artifacts::mirror::Content;
use twotower_stores::{Condition, Object, Scheme, Store, StoreError, StoreUrl, Version};

/// What the object begins with that says that a run is being removed.
const REMOVED: &str = ".pruned-";
/// The folder in a run with the hashes of its larger objects.
const STORED: &str = ".stored";
/// Files of fewer bytes are sent on condition that nobody else has written them, and are fetched to be compared.
const SMALL: u64 = 1 << 20;
/// Files of fewer bytes are not dropped to make room.
const WORTH_DROPPING: u64 = 64 << 10;
/// How old an upload is that was begun and is taken to have been left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Whether this process may still change what a lock protects.
pub(crate) trait Guard: Send + Sync {
    /// Why not, if it may not.
    fn lost(&self) -> Option<String>;
}

/// A folder of runs in a store, and its working copy.
pub(crate) struct Mirror {
    store: Store,
    url: StoreUrl,
    /// The working copy, by its absolute path without links.
    root: PathBuf,
    notes: Notes,
    cache: Arc<Cache>,
    /// Whether files are fetched even where a note tells what they hold.
    whole: bool,
    /// When this process has opened which file last.
    opened: Mutex<HashMap<PathBuf, SystemTime>>,
    /// The object that names the published run, as it was when it was last looked at.
    latest: Mutex<Option<Version>>,
    /// Runs that are being removed.
    removed: Mutex<BTreeSet<String>>,
    guards: Mutex<Vec<Weak<dyn Guard>>>,
    /// How long who locks waits before it looks who else does.
    pause: Duration,
    /// The lock of whoever changes an object together with its note, or a note by what the store lists: processes of this
    /// machine share the notes.
    changes: PathBuf,
    /// By which no other process takes the working copy for unused.
    _in_use: File,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirror {
    /// The folder in the store.
    pub(crate) fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// The working copy.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The bucket.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The key of what has this path from the working copy's root.
    pub(crate) fn key(&self, name: &str) -> String {
        self.url.join(name).key().to_string()
    }

    /// How long who locks waits before it looks who else does: where the store does not tell two writers apart.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// The path of a file from the root, with slashes.
    ///
    /// # Errors
    /// A path that is no text, or is elsewhere.
    pub(crate) fn name(&self, path: &Path) -> io::Result<String> {
        let within = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        let wrong = || io::Error::other(format!("{} is no path of a run in {}", path.display(), self.url));
        within.map(str::to_string).ok_or_else(wrong)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Objects below a folder of the mirror, by their paths from its root.
    fn objects(&self, folder: &str) -> Result<BTreeMap<String, Object>, StoreError> {
        let start = self.url.join("x").key().len() - 1;
        let listed = self.store.list(&self.key(folder))?;
        let named = listed.into_iter().filter_map(|object| Some((object.url.key().get(start..)?.to_string(), object)));
        Ok(named.collect())
    }

    /// Brings what stands below a folder of the working copy in step with the store; the root is the folder "".
    ///
    /// # Errors
    /// [`StoreError`]; I/O in the working copy.
    pub(crate) fn sync(&self, folder: &str) -> Result<(), PipelineError> {
        let (objects, at) = (self.objects(folder)?, self.path(folder));
        if folder.is_empty() {
            let names = objects.keys().filter_map(|name| name.strip_prefix(REMOVED));
            *locked(&self.removed) = names.filter(|name| !name.contains('/')).map(str::to_string).collect();
        }
        let removed = locked(&self.removed).clone();
        let is_removed = |name: &str| name.split('/').next().is_some_and(|run| removed.contains(run));
        let stays = |name: &str| is_plain(name) && !is_hidden(name) && name != LATEST && !is_removed(name);
        let objects: BTreeMap<String, Object> = objects.into_iter().filter(|(name, _)| stays(name)).collect();
        for (name, object) in &objects {
            self.stand_for(name, object)?;
        }
        for (path, _) in cache::files(&at) {
            let Ok(name) = self.name(&path) else { continue };
            if objects.contains_key(&name) || is_hidden(&name) {
                continue;
            }
            // It may have been uploaded since the list was made.
            if !stays(&name) || self.store.find(&self.key(&name))?.is_none() {
                fs::remove_file(&path).or_else(there_is_none).map_err(PipelineError::io("remove", &path))?;
                self.notes.remove(&name);
            }
        }
        if objects.is_empty() {
            remove_empty(&at);
        }
        if folder.is_empty() { self.look_at_latest().map(drop) } else { Ok(()) }
    }

    /// Makes sure that a file stands for an object.
    fn stand_for(&self, name: &str, listed: &Object) -> Result<(), PipelineError> {
        // A file whose note is not its own counts as one without content.
        let is_known = |object: &Object| {
            let found = fs::symlink_metadata(self.path(name));
            let same = |note: &Note| note.e_tag == object.version.e_tag;
            found.is_ok_and(|found| found.is_file() && found.len() == object.bytes)
                && self.notes.read(name).is_some_and(|note| same(&note))
        };
        if is_known(listed) {
            return Ok(());
        }
        let failed = || PipelineError::io("make", self.path(name));
        let _alone = self.alone().map_err(failed())?;
        let note = self.notes.read(name);
        // Another process of this machine may have written it since the list was made.
        match note.is_some().then(|| self.store.find(listed.url.key())).transpose()? {
            Some(None) => Ok(()),
            Some(Some(now)) if is_known(&now) => Ok(()),
            Some(Some(now)) => self.replace(name, &now, note).map_err(failed()),
            None => self.replace(name, listed, None).map_err(failed()),
        }
    }

    /// Lets a file without content stand for an object.
    fn replace(&self, name: &str, object: &Object, note: Option<Note>) -> io::Result<()> {
        let note = note.filter(|note| note.e_tag == object.version.e_tag);
        self.stand_in(name, object.bytes, object.modified)?;
        let blake3 = note.and_then(|note| note.blake3);
        let note = Note { e_tag: object.version.e_tag.clone(), bytes: object.bytes, blake3, file: None };
        self.notes.write(name, &note)
    }

    /// The lock under which objects change together with their notes.
    fn alone(&self) -> io::Result<File> {
        let file = fs::OpenOptions::new().create(true).append(true).open(&self.changes)?;
        // Where there are no locks, one process at a time is to use a cache.
        let _ = file.lock();
        Ok(file)
    }

    /// Puts a file without content in place of what is there.
    fn stand_in(&self, name: &str, bytes: u64, (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
        put(&path, |file| {
            file.set_len(bytes)?;
            file.set_modified(SystemTime::UNIX_EPOCH + since)
        })
    }

    /// Drops the content of files, the one first that was needed least lately, until `bytes` are free; returns how many
    /// are. Whoever has such a file open keeps what he has; opened again, it is fetched again. Towers stay, since their
    /// engine opens them by itself.
    fn make_room(&self, bytes: u64) -> u64 {
        let opened = locked(&self.opened).clone();
        let mut files: Vec<(SystemTime, String, fs::Metadata)> = cache::files(&self.root)
            .into_iter()
            .filter(|(_, found)| found.len() >= WORTH_DROPPING)
            .filter_map(|(path, found)| {
                let written = found.modified().ok()?;
                let needed = opened.get(&path).map_or(written, |opened| written.max(*opened));
                Some((needed, self.name(&path).ok()?, found))
            })
            .filter(|(_, name, _)| !is_hidden(name) && !name.contains(".onnx"))
            .collect();
        files.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut free = 0;
        let Ok(_alone) = self.alone() else { return 0 };
        for (_, name, found) in files {
            let Some(note) = self.notes.read(&name).filter(|note| note.certifies(&found) && free < bytes) else {
                continue;
            };
            let time = (found.mtime(), u32::try_from(found.mtime_nsec()).unwrap_or(0));
            let dropped = self.stand_in(&name, note.bytes, time);
            if dropped.and_then(|()| self.notes.write(&name, &Note { file: None, ..note })).is_ok() {
                free += found.len();
            }
        }
        free
    }

    /// A lock that must hold for as long as anything is changed.
    pub(crate) fn guard(&self, guard: Weak<dyn Guard>) {
        let mut guards = locked(&self.guards);
        guards.retain(|guard| guard.strong_count() > 0);
        guards.push(guard);
    }

    fn require_locks(&self) -> io::Result<()> {
        let guards = locked(&self.guards).clone();
        match guards.iter().filter_map(Weak::upgrade).find_map(|guard| guard.lost()) {
            Some(why) => Err(io::Error::other(why)),
            None => Ok(()),
        }
    }

    /// Writes a small object if a condition holds. Google's storage keeps another kind of condition, so there it is looked
    /// at before the write.
    pub(crate) fn put_if(&self, key: &str, bytes: Vec<u8>, condition: Condition) -> Result<Version, StoreError> {
        match (&condition, self.url.scheme()) {
            (Condition::IfMatch(version), Scheme::Gcs) => {
                let found = self.store.find(key)?.map(|object| object.version);
                if found.as_ref() != Some(version) {
                    let kind = twotower_stores::ErrorKind::Conflict;
                    return Err(StoreError::new(kind, "write", self.store.url(key), "it is another version by now"));
                }
                self.store.put(key, bytes, Condition::Always)
            }
            _ => self.store.put(key, bytes, condition),
        }
    }

    /// The run that the store names as the published one, which the link in the working copy names then.
    pub(crate) fn look_at_latest(&self) -> Result<Option<String>, PipelineError> {
        let (version, named) = match self.store.get(&self.key(LATEST)) {
            Ok((object, bytes)) => (Some(object.version), names::run_named(&bytes)),
            Err(error) if error.is_not_found() => (None, None),
            Err(error) => return Err(error.into()),
        };
        *locked(&self.latest) = version;
        let link = self.path(LATEST);
        let failed = |e| PipelineError::io("link", &link)(e);
        match &named {
            Some(run) if fs::read_link(&link).is_ok_and(|target| target == Path::new(run)) => {}
            Some(run) => {
                fs::remove_file(&link).or_else(there_is_none).map_err(failed)?;
                match std::os::unix::fs::symlink(run, &link) {
                    // Another process of this machine has looked too.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made.map_err(failed)?,
                }
            }
            None => fs::remove_file(&link).or_else(there_is_none).map_err(failed)?,
        }
        Ok(named)
    }

    /// Names a run as the published one, if that is still the object that was last looked at.
    fn name_latest(&self, run: &str) -> io::Result<()> {
        self.require_locks()?;
        let seen = locked(&self.latest).clone();
        let condition = seen.map_or(Condition::IfAbsent, Condition::IfMatch);
        match self.put_if(&self.key(LATEST), format!("{run}\n").into_bytes(), condition) {
            Ok(version) => {
                *locked(&self.latest) = Some(version);
                Ok(())
            }
            Err(error) if error.is_conflict() => {
                let named = self.look_at_latest().ok().flatten();
                let named = named.map_or("no run".to_string(), |run| format!("`{run}`"));
                Err(io::Error::other(format!(
                    "another process has changed it since this one looked at it, and it names {named} now; if it is to name `{run}`, give the same command again, which compares with that run"
                )))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lets `latest` name no run, if it names `run`.
    fn withdraw(&self, run: &str) -> io::Result<()> {
        // Whoever changes it in between has published another run, or withdrawn this one.
        while self.look_at_latest().map_err(io::Error::other)?.as_deref() == Some(run) {
            let seen = locked(&self.latest).clone();
            let condition = seen.map_or(Condition::IfAbsent, Condition::IfMatch);
            match self.put_if(&self.key(LATEST), b"\n".to_vec(), condition) {
                Ok(version) => *locked(&self.latest) = Some(version),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says in the store that a run is being removed: from then on it is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn hide(&self, run: &str) -> Result<(), PipelineError> {
        self.store.put(&self.key(&format!("{REMOVED}{run}")), Vec::from(b"\n"), Condition::Always)?;
        locked(&self.removed).insert(run.to_string());
        Ok(())
    }

    /// The runs that are being removed, as far as they are known.
    pub(crate) fn hidden(&self) -> BTreeSet<String> {
        locked(&self.removed).clone()
    }

    /// Deletes all objects of a run that was hidden.
    ///
    /// # Errors
    /// [`StoreError`]; the next prune goes on.
    pub(crate) fn delete(&self, run: &str) -> Result<(), PipelineError> {
        let keys: Vec<String> = self.store.list(&self.key(run))?.iter().map(|o| o.url.key().to_string()).collect();
        self.store.delete_many(&keys)?;
        self.store.delete(&self.key(&format!("{REMOVED}{run}")))?;
        locked(&self.removed).remove(run);
        Ok(())
    }

    /// Aborts uploads that processes left which were killed a day ago or earlier.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn abort_leftovers(&self) -> Result<usize, PipelineError> {
        Ok(self.store.abort_uploads_older_than(self.url.key(), ABANDONED)?.unwrap_or(0))
    }
}

/// That a file is not there is no error.
fn there_is_none(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes the folders below one, and it, that hold nothing.
fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // One that holds anything stays.
    let _ = fs::remove_dir(folder);
}

impl twotower_artifacts::mirror::Mirror for Mirror {
    fn publish(&self, temp: &Path, path: &Path) -> io::Result<()> {
        self.require_locks()?;
        self.send(temp, &self.name(path)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.require_locks()?;
        let name = self.name(path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => {
                let run = fs::read_link(path)?;
                self.withdraw(&run.to_string_lossy())
            }
            Ok(found) => {
                let _alone = self.alone()?;
                self.store.delete(&self.key(&name))?;
                if found.len() >= SMALL {
                    self.store.delete(&self.key(&names::stored(&name)))?;
                }
                self.notes.remove(&name);
                Ok(())
            }
            Err(error) => there_is_none(error),
        }
    }

    fn switch(&self, link: &Path, target: &Path) -> io::Result<()> {
        match self.name(link)?.as_str() {
            LATEST => self.name_latest(&target.to_string_lossy()),
            other => Err(io::Error::other(format!("`{other}` cannot be a link in a store"))),
        }
    }

    fn is_here(&self, path: &Path, file: &File) -> io::Result<bool> {
        let name = self.name(path)?;
        if self.notes.read(&name).is_some_and(|note| file.metadata().is_ok_and(|found| note.certifies(&found))) {
            locked(&self.opened).insert(path.to_path_buf(), SystemTime::now());
            return Ok(true);
        }
        self.fetch(&name)?;
        Ok(false)
    }

    fn content(&self, path: &Path) -> io::Result<Option<Content>> {
        let name = self.name(path)?;
        let (Some(note), Ok(found)) = (self.notes.read(&name), fs::symlink_metadata(path)) else { return Ok(None) };
        if self.whole || note.certifies(&found) || note.bytes < SMALL {
            return Ok(None);
        }
        let content = |blake3| Content { bytes: note.bytes, blake3 };
        if let Some(blake3) = &note.blake3 {
            return Ok(Some(content(blake3.clone())));
        }
        let Some(blake3) = self.stored_hash(&name, note.e_tag.as_ref())? else { return Ok(None) };
        self.notes.write(&name, &Note { blake3: Some(blake3.clone()), ..note.clone() })?;
        Ok(Some(content(blake3)))
    }
}
