//! Stopping cleanly: SIGTERM and Ctrl-C set a flag that stages look at between batches.

use crate::error::PipelineError;
use crate::stall::Watch;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long a stage may take from a signal to its next look at the flag. One that takes longer, in a long sort
/// or on a disk that hangs, is ended where it is: what it was writing has no final name yet.
const GRACE: Duration = Duration::from_secs(3);

/// A request to stop, shared by all threads of a stage. A look at it is progress of the stage.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    signal: Arc<AtomicU8>,
    watch: Watch,
}

impl Cancel {
    /// Listens for SIGINT and SIGTERM on a thread of its own, for the life of the process, which ends within
    /// three seconds of the first signal; a second one ends it at once.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when the handler cannot be installed.
    pub fn on_signals() -> Result<Self, PipelineError> {
        let cancel = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(PipelineError::io("install signal handlers in", "this process"))?;
        // Here and not on the thread: from the return on, no signal ends the process unasked.
        let (interrupt, terminate) = {
            let _entered = runtime.enter();
            let on = |kind| signal(kind).map_err(PipelineError::io("install signal handlers in", "this process"));
            (on(SignalKind::interrupt())?, on(SignalKind::terminate())?)
        };
        let flag = cancel.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(listen(flag, interrupt, terminate)))
            .map_err(PipelineError::io("start the signal thread of", "this process"))?;
        Ok(cancel)
    }

    /// Asks every holder to stop, as the given signal number would.
    pub fn stop(&self, signal: u8) {
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

    /// As [`Cancel::check`], of one that only waits: that is no progress.
    pub(crate) fn check_waiting(&self, stage: &'static str) -> Result<(), PipelineError> {
        match self.signal.load(Ordering::Relaxed) {
            0 => Ok(()),
            2 => Err(PipelineError::Interrupted { stage, signal: "SIGINT", exit_code: 130 }),
            number => Err(PipelineError::Interrupted { stage, signal: "SIGTERM", exit_code: 128 + number }),
        }
    }
}

async fn listen(cancel: Cancel, mut interrupt: Signal, mut terminate: Signal) {
    let mut signal = async || {
        tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
        }
    };
    cancel.stop(signal().await);
    // On a thread of its own: a reader of standard error that has stopped must not keep this one.
    let warn = || tracing::warn!("stopping at the next batch boundary; a second signal stops at once");
    let _ = std::thread::Builder::new().name("warn".into()).spawn(warn);
    if tokio::time::timeout(GRACE, signal()).await.is_err() {
        cancel.check("this step").unwrap_or_else(|stopped| end_with(&stopped));
    }
    end_process(cancel.check("this step").map_or_else(|stopped| stopped.exit_code(), |()| 0));
}

/// Ends the process with an error, whatever its other threads do.
pub(crate) fn end_with(error: &PipelineError) -> ! {
    let text = format!("error: {error}");
    let (said, is_said) = std::sync::mpsc::channel();
    let tell = move || {
        let _ = writeln!(std::io::stderr(), "{text}");
        let _ = said.send(());
    };
    // A reader of standard error that has stopped must not keep the process.
    let _ = std::thread::Builder::new().name("tell".into()).spawn(tell);
    let _ = is_said.recv_timeout(Duration::from_millis(500));
    end_process(error.exit_code())
}

/// Ends the process without destructors, which other threads could run into while they still work.
fn end_process(code: u8) -> ! {
    unsafe extern "C" {
        fn _exit(code: std::ffi::c_int) -> !;
    }
    // SAFETY: `_exit` takes any integer, and nothing of this process runs after it.
    unsafe { _exit(code.into()) }
}
