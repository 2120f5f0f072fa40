//! Stopping cleanly: SIGTERM and Ctrl-C set a flag that stages look at between batches.

use crate::error::PipelineError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A request to stop, shared by all threads of a stage.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicU8>);

impl Cancel {
    /// Listens for SIGINT and SIGTERM on a thread of its own, for the life of the process. A second
    /// signal ends the process at once.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when the handler cannot be installed.
    pub fn on_signals() -> Result<Self, PipelineError> {
        let cancel = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(PipelineError::io("install signal handlers in", "this process"))?;
        let flag = cancel.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(listen(flag)))
            .map_err(PipelineError::io("start the signal thread of", "this process"))?;
        Ok(cancel)
    }

    /// Asks every holder to stop, as the given signal number would.
    pub fn stop(&self, signal: u8) {
        self.0.store(signal, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Fails with [`PipelineError::Interrupted`] once a stop was asked for.
    pub fn check(&self, stage: &'static str) -> Result<(), PipelineError> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            2 => Err(PipelineError::Interrupted { stage, signal: "SIGINT", exit_code: 130 }),
            number => Err(PipelineError::Interrupted { stage, signal: "SIGTERM", exit_code: 128 + number }),
        }
    }
}

async fn listen(cancel: Cancel) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signal handlers could not be installed; a signal will end the process at once");
        return;
    };
    loop {
        let number = tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
        };
        if cancel.is_stopped() {
            std::process::exit(128 + number);
        }
        tracing::warn!("stopping at the next batch boundary; a second signal stops at once");
        cancel.stop(number as u8);
    }
}
