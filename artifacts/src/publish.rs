//! Publishes files: no file has its final name before it is complete and on disk.
//!
//! A writer fills a sibling temp file, which is flushed, synced and renamed. The temp file is locked
//! (`flock`) while its writer lives, so that leftovers of a killed run can be told from the work of
//! a shard still running.

use crate::error::ArtifactError;
use crate::mirror;
use crate::regular::open_regular;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A file being written; it gets its final name by [`Staged::commit`], or vanishes when dropped.
#[derive(Debug)]
pub struct Staged {
    file: File,
    temp: PathBuf,
    path: PathBuf,
    sync: SyncAhead,
}

/// Bytes that are written between two syncs.
const SYNC_EVERY: u64 = 4 << 20;

/// How many more bytes of its files this process may leave in the page cache, for whoever reads them next: 1 GiB in
/// all. More would push out the data of other processes. It would also slow down writing, since the kernel would have
/// to find pages to reuse.
static CACHED: AtomicU64 = AtomicU64::new(1 << 30);

/// Syncs a long file while it is written, so that the last sync is short and unwritten pages are few.
#[derive(Debug, Default)]
struct SyncAhead {
    /// Bytes since the last sync began.
    written: u64,
    /// Bytes in all.
    total: u64,
    /// Bytes at the start of the file that may stay in the page cache.
    kept: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl SyncAhead {
    /// Counts bytes written, and starts a sync in the background when enough have come and none runs.
    fn wrote(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.written += bytes;
        self.total += bytes;
        if self.written < SYNC_EVERY || self.running.as_ref().is_some_and(|sync| !sync.is_finished()) {
            return Ok(());
        }
        self.wait()?;
        self.written = 0;
        let wanted = self.total - self.kept;
        let room = CACHED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| Some(room.saturating_sub(wanted)));
        self.kept += wanted.min(room.unwrap_or(0));
        let (file, beyond) = (file.try_clone()?, self.kept..self.total);
        let sync = move || {
            file.sync_data()?;
            forget(&file, beyond);
            Ok(())
        };
        match std::thread::Builder::new().name("sync".into()).spawn(sync) {
            Ok(running) => self.running = Some(running),
            // If no thread can be started, the last sync covers everything.
            Err(_) => self.written = 0,
        }
        Ok(())
    }

    /// Waits for the last sync in the background and returns its result. The system reports an error only once.
    fn wait(&mut self) -> io::Result<()> {
        match self.running.take() {
            Some(sync) => sync.join().unwrap_or_else(|_| Err(io::Error::other("the thread that synced panicked"))),
            None => Ok(()),
        }
    }
}

/// Drops a range of a file from the page cache, as far as it is on disk.
#[cfg(target_os = "linux")]
fn forget(file: &File, range: Range<u64>) {
    use std::os::fd::AsRawFd;
    // To the system, a length of 0 would mean the rest of the file.
    if range.is_empty() {
        return;
    }
    if let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.end - range.start)) {
        // SAFETY: the call gives advice about an open file, which changes no content. Refused advice has no effect.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), start, len, libc::POSIX_FADV_DONTNEED) };
    }
}

/// Other systems keep their page cache as it is.
#[cfg(not(target_os = "linux"))]
fn forget(_file: &File, _range: Range<u64>) {}

impl Staged {
    /// Creates a temp file beside `path`, and the folder where it is missing.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] when the folder or the file cannot be made.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, ArtifactError> {
        let path = path.as_ref();
        create_folder(folder_of(path))?;
        let (file, temp) = create_temp(path)?;
        Ok(Self { file, temp, path: path.to_path_buf(), sync: SyncAhead::default() })
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the temp file, for writers that own their file.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] when the handle cannot be duplicated.
    pub fn file(&self) -> Result<File, ArtifactError> {
        self.file.try_clone().map_err(io_error("open", &self.temp))
    }

    /// Syncs the content, gives it its final name (replacing what stood there) and syncs the folder.
    ///
    /// Buffers of writers on [`Staged::file`] must have been flushed.
    ///
    /// # Errors
    /// [`ArtifactError::Io`]. The temp file is removed, and an earlier file of that name stays. If only the sync of the
    /// folder failed, the new file already has its name, but may be lost in a power failure.
    pub fn commit(mut self) -> Result<(), ArtifactError> {
        self.publish()
    }

    /// As [`Staged::commit`], for an owner that cannot give the value away. Nothing may be written afterwards.
    pub(crate) fn publish(&mut self) -> Result<(), ArtifactError> {
        self.sync.wait().and_then(|()| self.file.sync_all()).map_err(io_error("sync", &self.path))?;
        mirrored(&self.temp, &self.path)?;
        fs::rename(&self.temp, &self.path).map_err(io_error("rename to", &self.path))?;
        sync_folder(folder_of(&self.path))
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sync.wrote(&self.file, written as u64)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit there is no file of the temp name, and this does nothing.
        let _ = fs::remove_file(&self.temp);
    }
}

/// Writes a whole file and publishes it under `path`.
///
/// # Errors
/// [`ArtifactError::Io`] when the closure or the publication fails. The file at `path` is then unchanged.
pub fn publish_file(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), ArtifactError> {
    let staged = Staged::create(path)?;
    let mut writer = BufWriter::new(staged.file()?);
    write(&mut writer).and_then(|()| writer.flush()).map_err(io_error("write", staged.path()))?;
    staged.commit()
}

/// Publishes `bytes` under `path`.
///
/// # Errors
/// As [`publish_file`].
pub fn publish_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), ArtifactError> {
    publish_file(path, |w| w.write_all(bytes))
}

/// Gives a finished file its final name in the same folder or file system, replacing what stood there; the content
/// and the folder are synced.
///
/// # Errors
/// [`ArtifactError::Io`].
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), ArtifactError> {
    let (from, to) = (from.as_ref(), to.as_ref());
    File::open(from).and_then(|f| f.sync_all()).map_err(io_error("sync", from))?;
    mirrored(from, to)?;
    fs::rename(from, to).map_err(io_error("rename to", to))?;
    sync_folder(folder_of(to))
}

/// Gives the content of a published file a second name: as a link to it where that can be, or else as a copy.
///
/// # Errors
/// [`ArtifactError::Io`] when it cannot be read or written.
pub fn link_or_copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), ArtifactError> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let mut content = open_regular(from)?;
    if mirror::is_mirrored(to) || fs::hard_link(from, to).is_err() {
        publish_file(to, |out| io::copy(&mut content, out).map(|_| ()))?;
    }
    Ok(())
}

/// Tells the mirror of the folder of `path`, if there is one, that `temp` becomes the file of this name.
fn mirrored(temp: &Path, path: &Path) -> Result<(), ArtifactError> {
    mirror::of(path).map_or(Ok(()), |mirror| mirror.publish(temp, path).map_err(io_error("upload", path)))
}

/// Refuses what is written as a URL where a path of this machine is wanted: it would make a folder called `s3:`.
fn refuse_url(path: &Path) -> Result<(), ArtifactError> {
    let first = path.components().next().and_then(|part| part.as_os_str().to_str()?.strip_suffix(':'));
    const SCHEMES: [&str; 11] = ["s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https", "hdfs"];
    if !first.is_some_and(|name| SCHEMES.contains(&name)) {
        return Ok(());
    }
    let reason = io::Error::new(
        ErrorKind::InvalidInput,
        "this command writes to folders of this machine alone, expected a path, found a URL; write to a folder, and copy it",
    );
    Err(io_error("create", path)(reason))
}

/// Creates a folder and the parents it lacks, each synced into the folder above it.
///
/// # Errors
/// [`ArtifactError::Io`] naming the one that cannot be made.
pub fn create_folder(folder: impl AsRef<Path>) -> Result<(), ArtifactError> {
    let folder = folder.as_ref();
    if folder.is_dir() {
        return Ok(());
    }
    refuse_url(folder)?;
    let parent = folder_of(folder);
    create_folder(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(parent),
        Err(_) if folder.is_dir() => Ok(()),
        Err(e) => Err(io_error("create folder", folder)(e)),
    }
}

/// Removes a file or link durably. It is no error when there is none.
///
/// # Errors
/// [`ArtifactError::Io`] naming it.
pub fn remove(path: impl AsRef<Path>) -> Result<(), ArtifactError> {
    let path = path.as_ref();
    if let Some(mirror) = mirror::of(path) {
        mirror.remove(path).map_err(io_error("remove", path))?;
    }
    match fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error("remove", path)(e)),
    }
}

/// Removes a folder with all that is in it. It is no error when there is none.
///
/// # Errors
/// [`ArtifactError::Io`] naming it.
pub fn remove_folder(folder: impl AsRef<Path>) -> Result<(), ArtifactError> {
    let folder = folder.as_ref();
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io_error("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// Removes temp files of writers that no longer live, and returns how many.
///
/// Subfolders are not visited. A missing folder counts as empty.
///
/// # Errors
/// [`ArtifactError::Io`] when the folder cannot be listed or a file cannot be removed.
pub fn remove_stale_temps(folder: impl AsRef<Path>) -> Result<usize, ArtifactError> {
    sweep(folder.as_ref(), is_temp_name)
}

fn sweep(folder: &Path, wanted: impl Fn(&OsStr) -> bool) -> Result<usize, ArtifactError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(io_error("list", folder))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(io_error("list", folder))?;
        let path = entry.path();
        if !wanted(&entry.file_name()) {
            continue;
        }
        let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
        if is_link || is_unlocked(&path) {
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("remove", &path)(e)),
            }
        }
    }
    Ok(removed)
}

/// Refuses a name that [`switch_link`] could not make a link.
///
/// # Errors
/// [`ArtifactError::Io`] when something other than a link has that name.
pub fn check_link(link: &Path) -> Result<(), ArtifactError> {
    match fs::symlink_metadata(link) {
        Ok(found) if !found.file_type().is_symlink() => {
            let reason = io::Error::new(
                ErrorKind::AlreadyExists,
                "the name is taken by something that is not a link; move it away, then give the same command again",
            );
            Err(io_error("link", link)(reason))
        }
        _ => Ok(()),
    }
}

/// Points the symbolic link `link` at `target` in one step; a reader sees the old target or the new one.
///
/// A relative `target` is relative to the link's folder, as always with links. Links that killed processes
/// left on the way to this name are removed.
///
/// # Errors
/// [`ArtifactError::Io`], also when something other than a link has that name.
pub fn switch_link(link: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), ArtifactError> {
    let link = link.as_ref();
    check_link(link)?;
    if let Some(mirror) = mirror::of(link) {
        mirror.switch(link, target.as_ref()).map_err(io_error("switch", link))?;
    }
    let start = format!(".{}.tmp-", link.file_name().unwrap_or_default().to_string_lossy());
    sweep(folder_of(link), |name| is_temp_name(name) && name.to_string_lossy().starts_with(&start))?;
    loop {
        let temp = temp_name(link);
        match std::os::unix::fs::symlink(target.as_ref(), &temp) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(io_error("link", link)(e)),
        }
        match fs::rename(&temp, link) {
            Ok(()) => return sync_folder(folder_of(link)),
            // Another process that switches this link has removed ours as a leftover.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => {
                let _ = fs::remove_file(&temp);
                return Err(io_error("link", link)(e));
            }
        }
    }
}

/// Creates a new temp file beside `path`, which is locked while it is open. It never opens a file or follows a link
/// that is already there.
///
/// # Errors
/// [`ArtifactError::Io`] when it cannot be made.
pub fn create_temp(path: &Path) -> Result<(File, PathBuf), ArtifactError> {
    loop {
        let temp = temp_name(path);
        // This fails if anything has the name, even a link.
        let file = match OpenOptions::new().write(true).read(true).create_new(true).open(&temp) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(io_error("create", &temp)(e)),
        };
        // A file system without locks leaves the temp file unlocked; it is then never removed as stale.
        let _ = file.try_lock();
        // A sweep for stale temps may have removed it before it was locked: take another name.
        if is_at(&file, &temp) {
            return Ok((file, temp));
        }
    }
}

/// Whether the open file is the one at `path`. A link to it does not count.
pub fn is_at(file: &File, path: &Path) -> bool {
    let place = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let open = place(file.metadata());
    open.is_some() && open == place(fs::symlink_metadata(path))
}

/// Wraps an I/O error with what was attempted and where.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArtifactError {
    move |source| ArtifactError::Io { action, path: path.to_path_buf(), source }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn temp_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Nobody can guess this number, since each state of this hasher has random keys.
    let n = RandomState::new().hash_one(std::process::id());
    folder_of(path).join(format!(".{name}.tmp-{}-{n}", std::process::id()))
}

/// Whether this is the name of a temp file: of one being written, or left by a killed writer.
pub fn is_temp_name(name: &OsStr) -> bool {
    let Some((stem, tail)) = name.to_str().and_then(|n| n.rsplit_once(".tmp-")) else { return false };
    let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    stem.starts_with('.') && tail.split_once('-').is_some_and(|(pid, n)| is_number(pid) && is_number(n))
}

/// Whether the file exists and no living writer holds it. `false` where the file system has no locks.
fn is_unlocked(path: &Path) -> bool {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let Ok(file) = OpenOptions::new().write(true).custom_flags(flags).open(path) else { return false };
    match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    }
}

/// Makes renames within a folder durable. File systems that cannot sync a folder are passed over.
fn sync_folder(folder: &Path) -> Result<(), ArtifactError> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result.map_err(io_error("sync folder", folder)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/a.txt");
        publish_bytes(&path, b"old").unwrap();
        let failed = publish_file(&path, |w| {
            w.write_all(b"half of it")?;
            Err(io::Error::other("disk gone"))
        });
        let message = failed.unwrap_err().to_string();
        assert!(message.contains("a.txt") && message.contains("disk gone"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&dir.path().join("new")), ["a.txt"]);
    }

    #[test]
    fn a_staged_file_appears_only_on_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        let mut dropped = Staged::create(&path).unwrap();
        dropped.write_all(b"x").unwrap();
        assert!(!path.exists());
        drop(dropped);
        assert!(names(dir.path()).is_empty());
        let mut staged = Staged::create(&path).unwrap();
        staged.write_all(b"y").unwrap();
        staged.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"y");
        assert_eq!(names(dir.path()), ["part.parquet"]);
    }

    #[test]
    fn folders_are_made_with_their_parents_and_removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_folder(&deep).unwrap();
        create_folder(&deep).unwrap();
        fs::write(deep.join("file"), b"x").unwrap();
        let taken = create_folder(deep.join("file/d")).unwrap_err().to_string();
        assert!(taken.contains("a/b/c/file"), "{taken}");
        remove(deep.join("file")).unwrap();
        remove(deep.join("file")).unwrap();
        assert!(names(&deep).is_empty());
        remove_folder(dir.path().join("a")).unwrap();
        remove_folder(dir.path().join("a")).unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn only_temps_without_a_living_writer_are_stale() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".part.parquet.tmp-12-0"), b"leftover").unwrap();
        fs::write(dir.path().join(".notes.tmp-of-mine"), b"kept").unwrap();
        fs::write(dir.path().join("part.tmp-12-0"), b"kept").unwrap();
        let live = Staged::create(dir.path().join("live")).unwrap();
        assert_eq!(remove_stale_temps(dir.path()).unwrap(), 1);
        assert_eq!(remove_stale_temps(dir.path().join("missing")).unwrap(), 0);
        live.commit().unwrap();
        assert_eq!(names(dir.path()), [".notes.tmp-of-mine", "live", "part.tmp-12-0"]);
    }

    #[test]
    fn a_link_is_switched_and_never_replaces_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("latest");
        switch_link(&link, "run-1").unwrap();
        std::os::unix::fs::symlink("run-1", dir.path().join(".latest.tmp-12-0")).unwrap();
        switch_link(&link, "run-2").unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("run-2"));
        assert_eq!(names(dir.path()), ["latest"]);
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        assert!(switch_link(&folder, "run-1").is_err());
        assert!(folder.is_dir());
    }
}
