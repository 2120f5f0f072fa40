//! The lock of a run's folder: whatever changes a whole run is alone in it, shards share it.
//!
//! `RUN/.lock` is locked with `flock`, which ends with its holder, however that ends, so that there is no stale
//! lock to delete. What the file holds is only for the message that another process gets. Its last holder
//! removes it.

use crate::error::PipelineError;
use crate::run_dir::RunDir;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twotower_artifacts::publish::{create_folder, remove};

/// Name of the lock within a run's folder.
pub const NAME: &str = ".lock";
/// How often a lock is tried, and how long after each other: its last holder has it to itself for the moment in
/// which it removes it.
const TRIES: (u32, Duration) = (5, Duration::from_millis(20));
/// How often a lock that is waited for is tried.
const POLL: Duration = Duration::from_millis(50);

/// Who may hold the lock beside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Sole,
    /// Others that share it.
    Shared,
}

/// A run's lock, held as long as this lives.
#[derive(Debug)]
pub struct RunLock {
    /// The locked file, or none where there are no locks or no right to write.
    file: Option<File>,
    path: PathBuf,
    /// The folder, if it was made for the lock.
    made: Option<PathBuf>,
}

/// What a holder leaves for others to read, a line each.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    /// Seconds since 1970.
    since: u64,
    command: String,
}

impl RunLock {
    /// Takes the lock of a run that exists; a folder that does not exist has nothing to protect.
    ///
    /// # Errors
    /// [`PipelineError::InUse`] at once, naming the holder; I/O.
    pub fn take(run: &RunDir, access: Access) -> Result<Option<Self>, PipelineError> {
        match run.root().is_dir() {
            true => Self::in_folder(run.root(), access, None).map(Some),
            false => Ok(None),
        }
    }

    /// Takes the lock of a run to itself, and makes its folder where it is missing.
    ///
    /// # Errors
    /// As [`RunLock::take`].
    pub fn take_new(run: &RunDir) -> Result<Self, PipelineError> {
        let made = (!run.root().exists()).then(|| run.root().to_path_buf());
        create_folder(run.root())?;
        Self::in_folder(run.root(), Access::Sole, made)
    }

    fn in_folder(root: &Path, access: Access, made: Option<PathBuf>) -> Result<Self, PipelineError> {
        let path = root.join(NAME);
        let (tries, pause) = TRIES;
        for attempt in 0..tries {
            if attempt > 0 {
                std::thread::sleep(pause);
            }
            let file = match OpenOptions::new().read(true).append(true).create(true).open(&path) {
                Ok(file) => file,
                // Who may only read this run keeps nobody from changing it; what it writes stands elsewhere.
                Err(e) if access == Access::Shared && matches!(e.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                    return Ok(Self { file: None, path, made });
                }
                Err(e) => return Err(PipelineError::io("open the lock", &path)(e)),
            };
            match try_lock(&file, access) {
                // Its last holder may have removed it meanwhile: then it is no longer the run's lock.
                Ok(()) if is_at(&file, &path) => {
                    let lock = Self { file: Some(file), path, made };
                    lock.sign(access).map_err(PipelineError::io("write the lock", &lock.path))?;
                    return Ok(lock);
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    tracing::warn!(
                        "{}: {e}: without locks here, two runs in one folder are not kept apart",
                        path.display()
                    );
                    remove(&path)?;
                    return Ok(Self { file: None, path, made });
                }
            }
        }
        Err(PipelineError::InUse { run: root.to_path_buf(), holder: describe(&path) })
    }

    /// Writes who holds the lock.
    fn sign(&self, access: Access) -> io::Result<()> {
        let Some(mut file) = self.file.as_ref() else { return Ok(()) };
        if access == Access::Sole {
            file.set_len(0)?;
        }
        let command: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        let holder = Holder { pid: std::process::id(), host: host(), since: now(), command: command.join(" ") };
        let mut line = serde_json::to_vec(&holder)?;
        line.push(b'\n');
        file.write_all(&line)
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Where others share the lock they go on holding it.
        if self.file.as_ref().is_some_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(&self.path);
        }
        if let Some(folder) = &self.made {
            // Of a run that never began; any other is not empty.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Waits for the lock of a folder that its users take in turn; `check` may end the waiting.
///
/// # Errors
/// That of `check`; [`PipelineError::Io`] when the folder cannot be opened.
pub(crate) fn wait_for(folder: &Path, check: impl Fn() -> Result<(), PipelineError>) -> Result<File, PipelineError> {
    let file = File::open(folder).map_err(PipelineError::io("open", folder))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => check()?,
            Err(TryLockError::Error(e)) => {
                tracing::warn!("{}: {e}: without locks here, shards may do the same work twice", folder.display());
                return Ok(file);
            }
        }
        std::thread::sleep(POLL);
    }
}

fn try_lock(file: &File, access: Access) -> Result<(), TryLockError> {
    match access {
        Access::Sole => file.try_lock(),
        Access::Shared => file.try_lock_shared(),
    }
}

/// Whether the file that is open is the one that stands under the path.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |m: std::fs::Metadata| (m.dev(), m.ino());
    file.metadata()
        .map(place)
        .ok()
        .is_some_and(|open| std::fs::metadata(path).map(place).is_ok_and(|named| named == open))
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The state letter of a process of this machine; none for one that has ended.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses and may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Who holds a lock, by the lines in it: those of processes known to have ended are passed over.
fn describe(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let holders = text.lines().filter_map(|line| serde_json::from_str::<Holder>(line).ok());
    let here = host();
    let mut alive = holders.filter(|h| h.host != here || state(h.pid).is_some());
    let Some(Holder { pid, host, since, command }) = alive.next() else {
        return "another process; wait for it, then give the same command again".to_string();
    };
    let (others, minutes) = (alive.count(), now().saturating_sub(since) / 60);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    let stopped = if host == here && matches!(state(pid), Some('T' | 't')) {
        format!(" It is stopped: `kill -CONT {pid}` lets it go on.")
    } else {
        String::new()
    };
    format!(
        "process {pid} on {host} (`{command}`, begun {minutes} minutes ago){others}; wait for it or end it with `kill {pid}`, then give the same command again.{stopped}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(run: &RunDir, access: Access) -> String {
        RunLock::take(run, access).unwrap_err().to_string()
    }

    #[test]
    fn one_alone_or_many_that_share_and_the_last_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path().join("run"));
        assert!(RunLock::take(&run, Access::Sole).unwrap().is_none());
        let alone = RunLock::take_new(&run).unwrap();
        for access in [Access::Sole, Access::Shared] {
            let message = refused(&run, access);
            assert!(message.contains(&format!("process {} on ", std::process::id())), "{message}");
        }
        drop(alone);
        assert!(!run.root().exists(), "an empty folder that was made for the lock stays");
        std::fs::create_dir(run.root()).unwrap();
        let [first, second] = [(); 2].map(|()| RunLock::take(&run, Access::Shared).unwrap());
        assert!(refused(&run, Access::Sole).contains(" and 1 more"));
        drop(first);
        assert!(refused(&run, Access::Sole).contains("in use"));
        drop(second);
        drop(RunLock::take(&run, Access::Sole).unwrap());
        assert_eq!(std::fs::read_dir(run.root()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_holder_left_is_neither_a_lock_nor_named() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path());
        // No process has this number: it is above the largest there can be.
        let line = format!("{{\"pid\":4194305,\"host\":\"{}\",\"since\":1,\"command\":\"twotower run\"}}\n", host());
        std::fs::write(dir.path().join(NAME), line + "damaged").unwrap();
        let shared = RunLock::take(&run, Access::Shared).unwrap();
        let message = refused(&run, Access::Sole);
        assert!(!message.contains("4194305"), "{message}");
        drop(shared);
        assert!(!dir.path().join(NAME).exists());
    }
}
