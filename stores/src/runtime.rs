//! The one thread that waits for all requests.

use crate::error::{ErrorKind, StoreError};
use std::future::Future;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use tokio::runtime::{Builder, Handle};

/// The runtime of the process, once it was needed.
static RUNTIME: Mutex<Option<Handle>> = Mutex::new(None);

/// The runtime of the process; its thread is started with the first call, and lives as long as the process.
///
/// # Errors
/// [`ErrorKind::Refused`] when the system gives no thread.
pub fn handle() -> Result<Handle, StoreError> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = runtime.as_ref() {
        return Ok(handle.clone());
    }
    let failed = |e: std::io::Error| StoreError::new(ErrorKind::Refused, "start the thread of", "object stores", e);
    let built = Builder::new_current_thread().enable_all().max_blocking_threads(4).build().map_err(failed)?;
    let handle = built.handle().clone();
    let wait = move || built.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("stores".into()).spawn(wait).map_err(failed)?;
    Ok(runtime.insert(handle).clone())
}

/// What a request gives, once it is there.
pub struct Pending<T> {
    answer: mpsc::Receiver<T>,
    task: tokio::task::AbortHandle,
}

impl<T: Send + 'static> Pending<T> {
    /// Starts a request.
    ///
    /// # Errors
    /// As [`handle`].
    pub fn start(request: impl Future<Output = T> + Send + 'static) -> Result<Self, StoreError> {
        let (give, answer) = mpsc::sync_channel(1);
        let task = handle()?.spawn(async move {
            // Nobody may be waiting any more.
            let _ = give.send(request.await);
        });
        Ok(Self { answer, task: task.abort_handle() })
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when the request ended without one, which is a bug.
    pub fn wait(&self) -> Result<T, StoreError> {
        let lost = |_| StoreError::new(ErrorKind::Refused, "wait for", "an object store", "the request was lost");
        self.answer.recv().map_err(lost)
    }
}

impl<T> Drop for Pending<T> {
    /// What nobody waits for is not sent.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a request and waits for it.
///
/// # Errors
/// Those of the request, and as [`Pending`].
pub fn run<T: Send + 'static>(
    request: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    Pending::start(request)?.wait()?
}
