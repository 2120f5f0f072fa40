//! The folder of the working copies: where it is, and that it stays below its limit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// The file of a working copy that every process locks, shared, as long as it uses it.
const IN_USE: &str = ".in-use";

/// A folder of working copies.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    /// What it took when it was measured, and what came since.
    taken: AtomicU64,
}

impl Cache {
    /// The folder, made where it is missing, which is to stay below `limit` bytes.
    ///
    /// # Errors
    /// I/O.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        // What is in it is nobody else's to read.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let folder = folder.canonicalize()?;
        let taken = AtomicU64::new(taken(&folder));
        Ok(Self { folder, limit, taken })
    }

    /// The user's folder for what programs keep.
    pub fn of_user() -> PathBuf {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        user.unwrap_or_else(std::env::temp_dir).join("twotower/stores")
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A working copy's folder in it, and the lock by which no process takes it for unused.
    ///
    /// # Errors
    /// I/O.
    pub fn copy(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let folder = self.folder.join(name);
        loop {
            fs::create_dir_all(&folder)?;
            let lock = OpenOptions::new().create(true).append(true).open(folder.join(IN_USE))?;
            // Without locks no process takes another one's copy for unused.
            let _ = lock.lock_shared();
            // Another process may have removed it before it was locked.
            if twotower_artifacts::publish::is_at(&lock, &folder.join(IN_USE)) {
                let _ = lock.set_modified(SystemTime::now());
                return Ok((folder, lock));
            }
        }
    }

    /// Notes that so many bytes have come. Where that is above the limit, copies that nobody uses go, then `drop` is called
    /// with the bytes that are still too many, and says how many it has dropped. What is in use stays, even above the
    /// limit.
    pub fn add(&self, bytes: u64, drop: impl FnOnce(u64) -> u64) {
        if self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limit {
            return;
        }
        let mut now = taken(&self.folder);
        for copy in self.unused() {
            if now <= self.limit {
                break;
            }
            let size = taken(&copy);
            if fs::remove_dir_all(&copy).is_ok() {
                tracing::info!("cache: {} dropped, which nobody uses", copy.display());
                now = now.saturating_sub(size);
            }
        }
        if now > self.limit {
            now = now.saturating_sub(drop(now - self.limit));
        }
        self.taken.store(now, Ordering::Relaxed);
    }

    /// Working copies that no process uses, the one first that was used least lately.
    fn unused(&self) -> Vec<PathBuf> {
        let copies = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut unused: Vec<(SystemTime, PathBuf)> = copies
            .filter_map(|copy| {
                let lock = OpenOptions::new().append(true).open(copy.join(IN_USE)).ok()?;
                lock.try_lock().ok()?;
                Some((lock.metadata().and_then(|found| found.modified()).ok()?, copy))
            })
            .collect();
        unused.sort();
        unused.into_iter().map(|(_, copy)| copy).collect()
    }
}

/// What a folder takes on the disk.
fn taken(folder: &Path) -> u64 {
    files(folder).iter().map(|(_, found)| found.blocks() * 512).sum()
}

/// All files below a folder. What goes meanwhile is left out.
pub fn files(folder: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) if found.is_file() => files.push((entry.path(), found)),
                _ => {}
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_goes_first_and_what_is_in_use_is_asked_for_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache"), 1 << 20).unwrap();
        let fill = |name: &str| {
            let (copy, lock) = cache.copy(name).unwrap();
            fs::write(copy.join("file"), vec![1; 600 << 10]).unwrap();
            (copy, lock)
        };
        let (unused, lock) = fill("unused");
        drop(lock);
        let (used, _lock) = fill("used");
        cache.add(600 << 10, |_| panic!("there is room"));
        cache.add(600 << 10, |_| 0);
        assert!(!unused.exists() && used.exists());
        let mut asked = 0;
        fs::write(used.join("another"), vec![1; 600 << 10]).unwrap();
        cache.add(600 << 10, |bytes| {
            asked = bytes;
            bytes
        });
        assert!((100 << 10..=300 << 10).contains(&asked), "{asked}");
        assert!(used.exists());
    }
}
