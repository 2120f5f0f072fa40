//! Stopping cleanly: SIGTERM, Ctrl-C and others set a flag that stages look at between batches.

use crate::error::PipelineError;
use crate::watch::exit::{end_process, end_with};
use crate::watch::limits::can_open;
use crate::watch::stall::{Watch, kernel};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long a stage may take from a signal to its next look at the flag. One that takes longer, in a long sort
/// or on a disk that hangs, is ended where it is: what it was writing has no final name yet.
const GRACE: Duration = Duration::from_secs(3);

/// Signals that ask a stage to stop, by their numbers and names.
const STOPPING: [(libc::c_int, &str); 5] = [
    (libc::SIGINT, "SIGINT"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGXCPU, "SIGXCPU, the limit of processor time (`ulimit -t`)"),
];
/// Files that handlers of signals keep open, and some more.
const DESCRIPTORS: usize = 8;
/// Signals that stay ignored if whoever started the process made it ignore them, as `nohup` does.
const YIELDING: [libc::c_int; 2] = [libc::SIGHUP, libc::SIGQUIT];

/// A request to stop, shared by all threads of a stage. A look at it is progress of the stage.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    signal: Arc<AtomicU8>,
    watch: Watch,
}

impl Cancel {
    /// Listens for the signals that ask to stop on a thread of its own, for the life of the process, which ends
    /// within three seconds of the first one; a second one ends it at once.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when the handlers cannot be installed.
    pub fn on_signals() -> Result<Self, PipelineError> {
        let cancel = Self::default();
        let ignored = kernel::ignored_signals();
        let stopping = STOPPING.into_iter().map(|(number, _)| number);
        let wanted = stopping.filter(|number| !YIELDING.contains(number) || ignored & 1 << (number - 1) == 0);
        let runtime = runtime()?;
        // Here and not on the thread: from the return on, no signal ends the process unasked.
        let signals = wanted.map(|number| handler(&runtime, number)).collect::<Result<Vec<_>, _>>()?;
        let flag = cancel.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(listen(flag, signals)))
            .map_err(PipelineError::io("start the signal thread of", "this process"))?;
        Ok(cancel)
    }

    /// Asks every holder to stop, as the given signal number would.
    pub(crate) fn stop(&self, signal: u8) {
        self.signal.store(signal, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_stopped(&self) -> bool {
        self.look() != 0
    }

    /// What notices that a stage stands still.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    fn look(&self) -> u8 {
        self.watch.progress();
        self.signal.load(Ordering::Relaxed)
    }

    /// Fails with [`PipelineError::Interrupted`] once a stop was asked for.
    pub fn check(&self, stage: &'static str) -> Result<(), PipelineError> {
        self.watch.progress();
        self.check_waiting(stage)
    }

    /// As [`Cancel::check`], for a thread that only waits, so that its look at the flag is no progress.
    pub(crate) fn check_waiting(&self, stage: &'static str) -> Result<(), PipelineError> {
        match self.signal.load(Ordering::Relaxed) {
            0 => Ok(()),
            number => {
                let named = STOPPING.into_iter().find(|(known, _)| *known == libc::c_int::from(number));
                let signal = named.map_or("a signal", |(_, name)| name);
                Err(PipelineError::Interrupted { stage, signal, exit_code: 128 + number })
            }
        }
    }
}

fn runtime() -> Result<Runtime, PipelineError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(PipelineError::io("install signal handlers in", "this process"))
}

/// A handler of a signal, and the signal's number; it stays for the life of the process.
fn handler(runtime: &Runtime, number: libc::c_int) -> Result<(u8, Signal), PipelineError> {
    let _entered = runtime.enter();
    let handler = signal(SignalKind::from_raw(number));
    let handler = handler.map_err(PipelineError::io("install signal handlers in", "this process"))?;
    Ok((u8::try_from(number).unwrap_or(0), handler))
}

/// Lets the process live on where a file reaches the limit of its size (`ulimit -f`): the write fails, as on a disk
/// that is full.
///
/// # Errors
/// [`PipelineError::Io`] when that cannot be had.
pub fn outlive_file_limits() -> Result<(), PipelineError> {
    // What a handler needs is opened by a library that ends the process where it cannot.
    can_open(DESCRIPTORS).map_err(PipelineError::io("open what handlers of signals need in", "this process"))?;
    // With a handler, which has nothing to do, the signal no longer kills.
    handler(&runtime()?, libc::SIGXFSZ).map(|_| ())
}

async fn listen(cancel: Cancel, mut signals: Vec<(u8, Signal)>) {
    let mut signal = async || {
        std::future::poll_fn(|context| {
            let mut came = signals.iter_mut().filter_map(|(number, signal)| match signal.poll_recv(context) {
                Poll::Ready(_) => Some(*number),
                Poll::Pending => None,
            });
            came.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    };
    cancel.stop(signal().await);
    // It has a thread of its own, so that a reader of standard error that has stopped does not keep this one waiting.
    let warn = || tracing::warn!("stopping at the next batch boundary; a second signal stops at once");
    let _ = std::thread::Builder::new().name("warn".into()).spawn(warn);
    if tokio::time::timeout(GRACE, signal()).await.is_err() {
        cancel.check("this step").unwrap_or_else(|stopped| end_with(&stopped));
    }
    end_process(cancel.check("this step").map_or_else(|stopped| stopped.exit_code(), |()| 0));
}
