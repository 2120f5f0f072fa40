//! No hang: a watchdog that ends the process when nothing progresses, and says what each thread was doing.
//!
//! Threads of a stream and of training count what they do, and only that is progress. Where none are at work, in
//! a join or a sort say, the processor's time that this process uses is a sign of life too. Time in which the
//! process was stopped, or the machine asleep, does not count.

pub(crate) mod kernel;
mod patience;

use crate::error::PipelineError;
use crate::watch::exit::end_with;
pub(crate) use patience::CPU_SIGN;
use patience::Patience;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The timeout of a job that gives none.
pub const DEFAULT_TIMEOUT: &str = "10m";

/// Parses `10m`, `90s`, `2h` or a number of seconds; `0` is none: no watchdog.
///
/// # Errors
/// [`PipelineError::Usage`] for anything else, and for less than a second.
pub fn parse_timeout(text: &str) -> Result<Option<Duration>, PipelineError> {
    let refuse = || {
        PipelineError::usage(format!(
            "--stall-timeout {text}: expected a time of at least 1 s, such as 10m or 90s, or 0 for no timeout"
        ))
    };
    let text = text.trim();
    let (number, seconds) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('m') => (number, 60.0),
        Some(number) if text.ends_with('h') => (number, 3600.0),
        Some(number) => (number, 1.0),
        None => (text, 1.0),
    };
    let timeout = number.parse::<f64>().ok().and_then(|n| Duration::try_from_secs_f64(n * seconds).ok());
    match timeout.ok_or_else(refuse)? {
        Duration::ZERO => Ok(None),
        short if short < Duration::from_secs(1) => Err(refuse()),
        timeout => Ok(Some(timeout)),
    }
}

/// What a thread does. The number beside it is the number of a batch, or of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Getting ready.
    Starting,
    /// As many batches are in flight as may be.
    WaitingForRoom,
    /// Reading a batch.
    Reading,
    /// Nothing to do.
    WaitingForBatch,
    /// Working on a batch.
    Working,
    /// Giving a batch to the next thread.
    HandingOn,
    /// What is written next is not there yet.
    WaitingForResult,
    /// Writing a batch.
    Writing,
    /// In a step of training.
    Training,
    /// Waiting until another process, the number, gives a lock back; 0 where it is not known.
    WaitingForProcess,
}

impl Doing {
    const ALL: [Doing; 10] = [
        Doing::Starting,
        Doing::WaitingForRoom,
        Doing::Reading,
        Doing::WaitingForBatch,
        Doing::Working,
        Doing::HandingOn,
        Doing::WaitingForResult,
        Doing::Writing,
        Doing::Training,
        Doing::WaitingForProcess,
    ];

    fn describe(self, number: u64) -> String {
        match self {
            Doing::Starting => "starting".into(),
            Doing::WaitingForRoom => format!("waiting until batch {number} may be read"),
            Doing::Reading => format!("reading batch {number}"),
            Doing::WaitingForBatch => "waiting for a batch".into(),
            Doing::Working => format!("working on batch {number}"),
            Doing::HandingOn => format!("handing on batch {number}"),
            Doing::WaitingForResult => format!("waiting for the result of batch {number}"),
            Doing::Writing => format!("writing batch {number}"),
            Doing::Training => format!("in training step {number}"),
            Doing::WaitingForProcess if number == 0 => "waiting for another process".into(),
            Doing::WaitingForProcess => format!("waiting for process {number}"),
        }
    }
}

/// Counts progress and knows what is being done; clones share it.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// Signs of progress so far.
    signs: AtomicU64,
    threads: Mutex<Vec<Arc<Slot>>>,
    /// Steps that have begun, each within the one before.
    steps: Mutex<Vec<(String, Instant)>>,
}

/// What one thread does.
#[derive(Debug)]
struct Slot {
    name: String,
    tid: u32,
    /// Number of the batch, and in the lowest byte the place in [`Doing::ALL`].
    doing: AtomicU64,
    /// Milliseconds from [`Shared::begun`] to when it began that.
    since: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        let (threads, steps) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Self(Arc::new(Shared { begun: Instant::now(), signs: AtomicU64::new(0), threads, steps }))
    }
}

/// What a mutex guards; what a thread that panicked left there is as good as any.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Ends the process, by an error that says what each thread was doing, once nothing has progressed for
    /// `timeout`. This runs on a thread of its own, for the life of the process.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when the thread cannot be started.
    pub fn guard(&self, timeout: Duration) -> Result<(), PipelineError> {
        let watch = self.clone();
        let guard = move || {
            let mut patience = Patience::new(timeout);
            loop {
                let before = Instant::now();
                std::thread::sleep(patience.period());
                // While threads count what they do, using the processor is not enough.
                let counted_only = !locked(&watch.0.threads).is_empty();
                let signs = watch.0.signs.load(Ordering::Relaxed);
                if patience.tick(before.elapsed(), signs, counted_only, kernel::cpu_of_others()) {
                    end_with(&watch.stalled(timeout));
                }
            }
        };
        std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(guard)
            .map_err(PipelineError::io("start the watchdog of", "this process"))?;
        Ok(())
    }

    /// Notes that something has progressed.
    pub(crate) fn progress(&self) {
        self.0.signs.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the stage has begun `what`; that ends with the value.
    #[must_use = "the step ends with it"]
    pub(crate) fn step(&self, what: impl Into<String>) -> Step {
        self.progress();
        locked(&self.0.steps).push((what.into(), Instant::now()));
        Step(self.clone())
    }

    /// Notes a thread, the calling one, that counts what it does as long as the value lives.
    pub(crate) fn thread(&self, name: impl Into<String>) -> WatchedThread {
        self.progress();
        let (doing, since) = (AtomicU64::new(0), AtomicU64::new(self.now()));
        let slot = Arc::new(Slot { name: name.into(), tid: kernel::tid(), doing, since });
        locked(&self.0.threads).push(slot.clone());
        WatchedThread { watch: self.clone(), slot }
    }

    fn now(&self) -> u64 {
        self.0.begun.elapsed().as_millis() as u64
    }

    fn stalled(&self, timeout: Duration) -> PipelineError {
        let steps = locked(&self.0.steps);
        let stage = steps.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>().join(": ");
        let stage = if stage.is_empty() { "between stages".to_string() } else { stage };
        let threads = locked(&self.0.threads);
        let (now, mut lines) = (self.now(), Vec::new());
        for thread in kernel::threads() {
            // A thread that was noted twice does what it was noted for last.
            let (name, doing) = match threads.iter().rfind(|slot| slot.tid == thread.tid) {
                Some(slot) => {
                    let doing = slot.doing.load(Ordering::Relaxed);
                    let known = Doing::ALL.get((doing & 0xff) as usize).copied().unwrap_or(Doing::Starting);
                    let seconds = now.saturating_sub(slot.since.load(Ordering::Relaxed)) / 1000;
                    (slot.name.as_str(), format!("{}, for {seconds} s; ", known.describe(doing >> 8)))
                }
                None if thread.tid == std::process::id() => {
                    let step = steps.last().map_or(String::new(), |(what, began)| {
                        format!("in {what}, for {} s; ", began.elapsed().as_secs())
                    });
                    ("main", step)
                }
                None => (thread.name.as_str(), String::new()),
            };
            lines.push(format!("\n  {name} ({}): {doing}{}", thread.tid, thread.state));
        }
        PipelineError::Stalled { stage, seconds: timeout.as_secs(), threads: lines.concat() }
    }
}

/// A step that a stage has begun.
pub(crate) struct Step(Watch);

impl Drop for Step {
    fn drop(&mut self) {
        locked(&self.0.0.steps).pop();
        self.0.progress();
    }
}

/// A thread that counts what it does.
pub(crate) struct WatchedThread {
    watch: Watch,
    slot: Arc<Slot>,
}

impl WatchedThread {
    /// Notes what the thread does from now on, which is progress.
    pub(crate) fn doing(&self, what: Doing, number: u64) {
        self.slot.doing.store(number << 8 | what as u64, Ordering::Relaxed);
        self.slot.since.store(self.watch.now(), Ordering::Relaxed);
        self.watch.progress();
    }
}

impl Drop for WatchedThread {
    fn drop(&mut self) {
        locked(&self.watch.0.threads).retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        self.watch.progress();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_with_their_units_and_nonsense_is_refused() {
        for (text, seconds) in [("10m", 600.0), ("90s", 90.0), ("1.5h", 5400.0), (" 2 ", 2.0), ("1s", 1.0)] {
            assert_eq!(parse_timeout(text).unwrap(), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        assert_eq!(parse_timeout("0").unwrap(), None);
        assert_eq!(parse_timeout("0s").unwrap(), None);
        for text in ["", "m", "-1", "soon", "1d", "0.5s", "10 minutes", "NaN", "1e30h"] {
            let error = parse_timeout(text).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("--stall-timeout"), "{text}: {error}");
        }
        assert!(parse_timeout(DEFAULT_TIMEOUT).unwrap().is_some());
    }

    #[test]
    fn every_activity_is_found_again_in_its_byte() {
        assert!(Doing::ALL.iter().enumerate().all(|(at, doing)| *doing as usize == at));
    }

    #[test]
    fn a_stall_names_the_steps_and_what_each_thread_does() {
        let watch = Watch::default();
        let _stage = watch.step("encode-features");
        let _step = watch.step("a query of the interactions");
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
        let other = watch.clone();
        let thread = std::thread::spawn(move || {
            let me = other.thread("encode-features-work-0");
            me.doing(Doing::Working, 1 << 40);
            ready.send(()).unwrap();
            let _ = may_go_on.recv();
        });
        is_ready.recv().unwrap();
        let said = watch.stalled(Duration::from_secs(600)).to_string();
        drop(go_on);
        thread.join().unwrap();
        let begins = "encode-features: a query of the interactions: no progress for 600 s";
        assert!(said.starts_with(begins), "{said}");
        let line = said.lines().find(|line| line.contains("encode-features-work-0 (")).expect(&said);
        assert!(line.contains("working on batch 1099511627776, for 0 s; "), "{said}");
        // Threads of other tests may be called much the same.
        let said = watch.stalled(Duration::from_secs(600)).to_string();
        assert!(!said.contains("encode-features-work-0"), "it has ended: {said}");
    }
}
