//! Locks: whatever changes a whole run is alone in it, shards share it; one at a time builds a run's index, or
//! switches the link to the published run.
//!
//! A file, such as `RUN/.lock`, is locked with `flock`, which ends with its holder, however that ends, so that there
//! is no stale lock to delete. What the file holds is only for the messages that other processes give. Its last
//! holder removes it.
//!
//! A process that has a run's lock may wait for the index's, and then for the link's. A process that has one of these
//! two never waits for a run's lock: it takes that within a moment, or gives up.

mod holder;
mod remote;
mod waiting;

use crate::error::PipelineError;
use crate::run::dir::{LATEST, RunDir};
use crate::run::mirror;
use crate::watch::cancel::Cancel;
pub(crate) use holder::host;
use holder::{Holder, describe};
use remote::Remote;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind::{AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use twotower_artifacts::publish::{create_folder, is_at, remove};
use twotower_artifacts::{ArtifactError, open_regular};
use waiting::Waiting;

/// Name of the lock within a run's folder, and within that of its index.
pub(crate) const NAME: &str = ".lock";
/// How often a run's lock is tried, and the pause between two tries: its last holder keeps it for the moment in which
/// it removes the file.
const TRIES: (u32, Duration) = (5, Duration::from_millis(20));
/// How often a lock that is waited for is tried.
const POLL: Duration = Duration::from_millis(50);

/// Who may hold the lock beside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Sole,
    /// Nobody: the run is looked at and must stay as it is. Who has no right to write there goes without a lock.
    Still,
    /// Others that share it. Who has no right to write there goes without a lock.
    Shared,
}

/// A lock, held as long as this lives.
#[derive(Debug)]
pub struct RunLock {
    /// The locked file, or none where there are no locks or no right to write.
    file: Option<File>,
    path: PathBuf,
    /// The folder, if it was made for the lock.
    made: Option<PathBuf>,
    /// The lock in the store, of a run that stands in one.
    remote: Option<Remote>,
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
        let folder = create_folder(run.root()).map_err(PipelineError::from);
        folder.and_then(|()| Self::in_folder(run.root(), Access::Sole, made)).map_err(advised)
    }

    /// Shares the lock of a folder that vectors are written into beside all runs, and makes it where it is missing.
    ///
    /// # Errors
    /// As [`RunLock::take`].
    pub(crate) fn take_output(folder: &Path) -> Result<Self, PipelineError> {
        create_folder(folder)?;
        Self::in_folder(folder, Access::Shared, None)
    }

    /// Shares the lock of the earlier run that `folder`, of encoders or towers, is part of, for as long as it is read.
    /// There is none for a folder that is part of no run, and for a folder of `own`, whose lock this process has.
    ///
    /// # Errors
    /// As [`RunLock::take`].
    pub(crate) fn take_source(own: &RunDir, folder: &Path) -> Result<Option<Self>, PipelineError> {
        let earlier = RunDir::around(folder);
        let is_own = |run: &RunDir| own.root().canonicalize().is_ok_and(|own| own == run.root());
        earlier.filter(|run| !is_own(run)).map_or(Ok(None), |run| Self::take(&run, Access::Shared))
    }

    /// Whether a process holds the lock of a run. This writes nothing.
    pub(crate) fn is_held(run: &RunDir) -> bool {
        let file = open_regular(run.root().join(NAME));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
            || mirror::of(run.root()).is_some_and(|m| m.name(run.root()).is_ok_and(|run| Remote::is_held(&m, &run)))
    }

    /// Waits for the lock of a run's index, in `folder`: one shard builds it, the others open what it built.
    ///
    /// # Errors
    /// [`PipelineError::Interrupted`]; I/O.
    pub(crate) fn of_index(folder: &Path, cancel: &Cancel) -> Result<Self, PipelineError> {
        let what = format!("the index in {}", folder.display());
        Self::wait(folder.join(NAME), &what, "recall", cancel, |lock| lock.in_store(folder, Access::Sole))
    }

    /// Waits for the lock of the link `latest` of the folder `runs`: who has it reads where the link points to, and
    /// then changes that.
    ///
    /// # Errors
    /// As [`RunLock::of_index`].
    pub(crate) fn of_latest(runs: &Path, stage: &'static str, cancel: &Cancel) -> Result<Self, PipelineError> {
        let what = format!("the link {}", runs.join(LATEST).display());
        // In a store it is not locked, but switched only if it is still what it was.
        Self::wait(runs.join(format!(".{LATEST}.lock")), &what, stage, cancel, |lock| Ok(Ok(lock)))
    }

    fn in_folder(root: &Path, access: Access, made: Option<PathBuf>) -> Result<Self, PipelineError> {
        let path = root.join(NAME);
        let (tries, pause) = TRIES;
        for attempt in 0..tries {
            if attempt > 0 {
                std::thread::sleep(pause);
            }
            if let Some(lock) = Self::attempt(&path, access, made.as_ref())? {
                let in_use = |holder| PipelineError::InUse { run: root.to_path_buf(), holder };
                return lock.in_store(root, access)?.map_err(in_use);
            }
        }
        Err(PipelineError::InUse { run: root.to_path_buf(), holder: describe(&path) })
    }

    /// Takes the lock in the store as well, of a folder that stands in one, and brings the folder in step: what it
    /// protects may have changed. Or says who keeps this process out.
    fn in_store(mut self, folder: &Path, access: Access) -> Result<Result<Self, String>, PipelineError> {
        let Some(mirror) = mirror::of(folder) else { return Ok(Ok(self)) };
        let name = mirror.name(folder).map_err(PipelineError::io("lock", folder))?;
        match Remote::take(&mirror, &name, access)? {
            Ok(lock) => self.remote = lock,
            Err(holder) => return Ok(Err(holder)),
        }
        mirror.sync(&name)?;
        Ok(Ok(self))
    }

    /// Waits until nobody has the lock, and `then` gives it too.
    fn wait(
        path: PathBuf,
        what: &str,
        stage: &'static str,
        cancel: &Cancel,
        then: impl Fn(Self) -> Result<Result<Self, String>, PipelineError>,
    ) -> Result<Self, PipelineError> {
        let mut waiting = None;
        loop {
            if let Some(lock) = Self::attempt(&path, Access::Sole, None)?
                && let Ok(lock) = then(lock)?
            {
                return Ok(lock);
            }
            cancel.check_waiting(stage)?;
            waiting.get_or_insert_with(|| Waiting::new(&path, what, cancel)).look();
            std::thread::sleep(POLL);
        }
    }

    /// Takes the lock, if nobody has it who keeps this process out.
    fn attempt(path: &Path, access: Access, made: Option<&PathBuf>) -> Result<Option<Self>, PipelineError> {
        let lock = |file| Self { file, path: path.to_path_buf(), made: made.cloned(), remote: None };
        let file = match open(path) {
            Ok(file) => file,
            // Who may only read this run keeps nobody from changing it; what it writes stands elsewhere.
            Err(e) if access != Access::Sole && matches!(e.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                return Ok(Some(lock(None)));
            }
            Err(e) => return Err(PipelineError::io("open the lock", path)(e)),
        };
        match try_lock(&file, access) {
            // Its last holder may have removed it meanwhile: then it is no longer the lock.
            Ok(()) if is_at(&file, path) => {
                let lock = lock(Some(file));
                lock.sign(access).map_err(PipelineError::io("write the lock", path))?;
                Ok(Some(lock))
            }
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => {
                tracing::warn!(
                    "{}: {e}: without locks here, two processes at one work are not kept apart",
                    path.display()
                );
                remove(path)?;
                Ok(Some(lock(None)))
            }
        }
    }

    /// Writes who holds the lock.
    fn sign(&self, access: Access) -> io::Result<()> {
        let Some(mut file) = self.file.as_ref() else { return Ok(()) };
        if access != Access::Shared {
            file.set_len(0)?;
        }
        let mut line = serde_json::to_vec(&Holder::own())?;
        line.push(b'\n');
        file.write_all(&line)
    }
}

/// An error of a run's folder, with what to do where it cannot be made or written.
fn advised(error: PipelineError) -> PipelineError {
    let (action, path, source) = match error {
        PipelineError::Io { action, path, source } => (action, path, source),
        PipelineError::Artifact(ArtifactError::Io { action, path, source }) => (action, path, source),
        other => return other,
    };
    let source = match source.kind() {
        kind @ (AlreadyExists | PermissionDenied | ReadOnlyFilesystem | NotFound | NotADirectory) => io::Error::new(
            kind,
            format!(
                "{source}; give --run a folder that this user can make and write to (`twotower doctor --run DIR` tries one)"
            ),
        ),
        _ => source,
    };
    PipelineError::Io { action, path, source }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Who has the lock here takes the one in the store next.
        self.remote = None;
        // Where others share the lock they go on holding it. In a folder that was renamed, another one's lock may
        // stand under the name.
        if self.file.as_ref().is_some_and(|file| file.try_lock().is_ok() && is_at(file, &self.path)) {
            let _ = std::fs::remove_file(&self.path);
        }
        if let Some(folder) = &self.made {
            // A run that never began leaves its folder empty; no other folder can be removed like this.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Opens the file of a lock, made where it is missing. What is written to it must not reach anything else: a link is
/// not followed, and a file of several names is not taken.
fn open(path: &Path) -> io::Result<File> {
    let refused = |found: &str| {
        let path = path.display();
        io::Error::other(format!(
            "expected a regular file of one name, found {found}: nothing is written to it; `rm {path}`, then give the same command again"
        ))
    };
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(refused("a link")),
        opened => opened?,
    };
    let found = file.metadata()?;
    match (found.is_file(), found.nlink()) {
        // One of no name was removed by its last holder a moment ago, which is noticed when it is locked.
        (true, 0 | 1) => Ok(file),
        (true, names) => Err(refused(&format!("one of {names} names"))),
        (false, _) => Err(refused("a FIFO or a device")),
    }
}

fn try_lock(file: &File, access: Access) -> Result<(), TryLockError> {
    match access {
        Access::Sole | Access::Still => file.try_lock(),
        Access::Shared => file.try_lock_shared(),
    }
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
        let mut dead = Holder::own();
        dead.pid = 4_194_305;
        let line = serde_json::to_string(&dead).unwrap() + "\n";
        std::fs::write(dir.path().join(NAME), line + "damaged").unwrap();
        let shared = RunLock::take(&run, Access::Shared).unwrap();
        let message = refused(&run, Access::Sole);
        assert!(!message.contains("4194305"), "{message}");
        drop(shared);
        assert!(!dir.path().join(NAME).exists());
    }

    #[test]
    fn the_lock_of_a_folder_that_was_renamed_leaves_the_one_that_took_its_name_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path().join("run"));
        let old = RunLock::take_new(&run).unwrap();
        std::fs::rename(run.root(), dir.path().join("hidden")).unwrap();
        let new = RunLock::take_new(&run).unwrap();
        drop(old);
        assert!(RunLock::is_held(&run));
        drop(new);
        assert!(!RunLock::is_held(&run) && !run.root().exists());
    }

    #[test]
    fn a_run_is_shared_while_its_encoders_or_towers_are_read_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let [own, earlier] = ["own", "earlier"].map(|name| RunDir::new(dir.path().join(name)));
        for folder in [own.towers(), earlier.encoders(), earlier.towers(), dir.path().join("elsewhere")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for folder in [earlier.encoders(), earlier.towers()] {
            let _reading = RunLock::take_source(&own, &folder).unwrap().unwrap();
            assert!(RunLock::is_held(&earlier));
            refused(&earlier, Access::Sole);
            refused(&earlier, Access::Still);
        }
        let _alone = RunLock::take(&own, Access::Sole).unwrap();
        for folder in [own.towers(), dir.path().join("elsewhere"), dir.path().join("gone")] {
            assert!(RunLock::take_source(&own, &folder).unwrap().is_none(), "{}", folder.display());
        }
        assert!(!RunLock::is_held(&earlier));
    }
}
