//! The lock of a run in an object store, which keeps machines apart that share no file system.
//!
//! Every holder writes an object of its own, `RUN/.locks/sole-ID.json` or `shared-ID.json`, and lists the folder after that.
//! Who finds one that keeps it out takes its own back. Stores list what was written before, so of two that write at once
//! at least one finds the other; no store needs to know conditions of writes for that. A holder renews its object; one
//! that was not renewed for a while is of a process that died with its machine, and is deleted by whoever comes next.
//! Ages are differences of times that the store gave, so no machine's clock counts. A holder that was taken for dead
//! notices by its own object, and changes nothing any more.

use super::Access;
use super::holder::Holder;
use crate::error::PipelineError;
use crate::run::mirror::{Guard, Mirror};
use crate::watch::clock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};
use twotower_stores::{Condition, ErrorKind, Object, StoreError, Version};

/// The folder of the holders, in the folder that is locked.
const FOLDER: &str = ".locks";
/// How often a holder renews its object.
const RENEWAL: Duration = Duration::from_secs(20);
/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// After what time without a renewal a holder is taken for dead.
pub const LEASE: Duration = Duration::from_secs(120);
/// How long before that it changes nothing any more itself.
const MARGIN: Duration = Duration::from_secs(20);
/// How often a lock is tried, and the longest pause between two tries: two that try at once both take theirs back.
const TRIES: (u32, Duration) = (5, Duration::from_millis(400));

/// What an object of a holder says.
#[derive(Serialize, Deserialize)]
struct Entry {
    holder: Holder,
    /// Where the number of its process means something.
    #[serde(default)]
    machine: String,
    /// How often it was renewed.
    renewals: u64,
}

/// Objects of the locks of this process.
static OWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn own() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lock in a store, held as long as this lives.
pub struct Remote {
    mirror: Arc<Mirror>,
    key: String,
    /// By which the thread that renews it ends.
    _end: mpsc::Sender<()>,
    beat: Arc<Beat>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.key)
    }
}

/// How a lock fares.
struct Beat {
    /// What is locked, for people.
    what: String,
    renewed: Mutex<Instant>,
    is_lost: AtomicBool,
    is_over: AtomicBool,
}

impl Guard for Beat {
    fn lost(&self) -> Option<String> {
        let since = self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let is_old = since + MARGIN > LEASE;
        if self.is_over.load(Ordering::Acquire) || !(is_old || self.is_lost.load(Ordering::Acquire)) {
            return None;
        }
        Some(format!(
            "the lock of {} was not renewed for {} s, so another process may work there by now; give the same command again",
            self.what,
            since.as_secs()
        ))
    }
}

impl Remote {
    /// Takes the lock of a folder of the mirror, or says who keeps this process out. None where there is no right to write,
    /// and none is needed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn take(
        mirror: &Arc<Mirror>,
        folder: &str,
        access: Access,
    ) -> Result<Result<Option<Self>, String>, PipelineError> {
        let kind = match access {
            Access::Sole | Access::Still => "sole",
            Access::Shared => "shared",
        };
        let drawn = || RandomState::new().hash_one(std::process::id());
        let name = format!("{folder}/{FOLDER}/{kind}-{}-{:016x}.json", std::process::id(), drawn());
        let (tries, pause) = TRIES;
        let mut kept_out = String::new();
        for attempt in 0..tries {
            if attempt > 0 {
                std::thread::sleep(pause.mul_f64(drawn() as f64 / u64::MAX as f64));
            }
            match Self::attempt(mirror, folder, &name) {
                Ok(Ok(lock)) => return Ok(Ok(Some(lock))),
                Ok(Err(by)) => kept_out = by,
                Err(error) if error.kind() == ErrorKind::Denied && access != Access::Sole => return Ok(Ok(None)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Err(kept_out))
    }

    fn attempt(mirror: &Arc<Mirror>, folder: &str, name: &str) -> Result<Result<Self, String>, StoreError> {
        let (store, key) = (mirror.store(), mirror.key(name));
        let begun = Instant::now();
        own().insert(key.clone());
        // From here on it is taken back whatever happens.
        let mut lock = Taken { mirror, key: key.clone(), is_kept: false };
        let version = store.put(&key, written(0), Condition::Always)?;
        std::thread::sleep(mirror.pause());
        let holders = holders(mirror, folder)?;
        let Some(this) = holders.iter().find(|holder| holder.url.key() == key) else {
            let said = "it is not listed after it was written; the store must list what it has taken";
            return Err(StoreError::new(ErrorKind::Refused, "lock", store.url(&key), said));
        };
        for other in holders.iter().filter(|other| other.url.key() != key && excludes(this, other)) {
            match living(mirror, this.modified.0, other)? {
                Some(by) => return Ok(Err(by)),
                None => store.delete(other.url.key())?,
            }
        }
        lock.is_kept = true;
        drop(lock);
        let what = mirror.url().join(folder).to_string();
        let (renewed, flag) = (Mutex::new(begun), || AtomicBool::new(false));
        let beat = Arc::new(Beat { what, renewed, is_lost: flag(), is_over: flag() });
        let guard: Arc<dyn Guard> = beat.clone();
        mirror.guard(Arc::downgrade(&guard));
        let (end, ended) = mpsc::channel();
        let renewal = Renewal { mirror: Arc::downgrade(mirror), key: key.clone(), version, beat: beat.clone() };
        let failed = |e| StoreError::new(ErrorKind::Refused, "start the thread that renews", store.url(&key), e);
        std::thread::Builder::new().name("lock".into()).spawn(move || renewal.go_on(&ended)).map_err(failed)?;
        Ok(Ok(Self { mirror: mirror.clone(), key, _end: end, beat }))
    }

    /// Whether anybody holds the lock of a folder. Nothing is written.
    pub fn is_held(mirror: &Mirror, folder: &str) -> bool {
        let now = i64::try_from(clock::now()).unwrap_or(i64::MAX);
        let holders = holders(mirror, folder).unwrap_or_default();
        holders.iter().any(|holder| living(mirror, now, holder).is_ok_and(|by| by.is_some()))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.beat.is_over.store(true, Ordering::Release);
        take_back(&self.mirror, &self.key);
    }
}

/// An object of a lock that is not taken yet.
struct Taken<'a> {
    mirror: &'a Mirror,
    key: String,
    is_kept: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            take_back(self.mirror, &self.key);
        }
    }
}

fn take_back(mirror: &Mirror, key: &str) {
    if let Err(error) = mirror.store().delete(key) {
        tracing::warn!("{error}: others wait {} s for this lock", LEASE.as_secs());
    }
    own().remove(key);
}

fn written(renewals: u64) -> Vec<u8> {
    // A holder has nothing that JSON cannot say.
    serde_json::to_vec(&Entry { holder: Holder::own(), machine: machine(), renewals }).unwrap_or_default()
}

/// What tells this machine, or container, from others of its name: the system's start and the space of process numbers.
/// Nothing where the system does not say.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    match (boot.trim(), space.to_string_lossy()) {
        ("", _) => String::new(),
        (_, space) if space.is_empty() => String::new(),
        (boot, space) => format!("{boot} {space}"),
    }
}

/// The objects of a folder's holders.
fn holders(mirror: &Mirror, folder: &str) -> Result<Vec<Object>, StoreError> {
    mirror.store().list(&mirror.key(&format!("{folder}/{FOLDER}")))
}

/// Whether two holders keep each other out.
fn excludes(one: &Object, other: &Object) -> bool {
    [one, other].iter().any(|holder| holder.url.file_name().starts_with("sole-"))
}

/// Who holds a lock, and what to do; none for one that died. `now` is the time in the store.
fn living(mirror: &Mirror, now: i64, object: &Object) -> Result<Option<String>, StoreError> {
    let age = now.saturating_sub(object.modified.0);
    let bytes = match mirror.store().get(object.url.key()) {
        Ok((_, bytes)) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    if age >= LEASE.as_secs() as i64 {
        return Ok(None);
    }
    let until = format!("if its machine is gone, its lock goes {} s after it was last renewed", LEASE.as_secs());
    let Ok(Entry { holder, machine: of_holder, .. }) = serde_json::from_slice::<Entry>(&bytes) else {
        return Ok(Some(format!("another process, which {} names; {until}", object.url)));
    };
    let is_own = holder.pid == std::process::id() && !own().contains(object.url.key());
    let is_here = !of_holder.is_empty() && of_holder == machine();
    if is_here && (is_own || !holder.is_alive()) {
        return Ok(None);
    }
    Ok(Some(format!("{holder}; wait for it or end it, then give the same command again; {until}")))
}

/// What renews a lock.
struct Renewal {
    mirror: Weak<Mirror>,
    key: String,
    version: Version,
    beat: Arc<Beat>,
}

impl Renewal {
    fn go_on(mut self, ended: &mpsc::Receiver<()>) {
        let (mut wait, mut renewals) = (RENEWAL, 0);
        while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
            let Some(mirror) = self.mirror.upgrade() else { return };
            let begun = Instant::now();
            renewals += 1;
            match mirror.put_if(&self.key, written(renewals), Condition::IfMatch(self.version.clone())) {
                Ok(version) => {
                    self.version = version;
                    *self.beat.renewed.lock().unwrap_or_else(PoisonError::into_inner) = begun;
                    wait = RENEWAL;
                }
                Err(error) if error.is_conflict() => {
                    self.beat.is_lost.store(true, Ordering::Release);
                    return;
                }
                Err(error) => {
                    tracing::warn!("renew the lock: {error}");
                    wait = AGAIN;
                }
            }
        }
    }
}
