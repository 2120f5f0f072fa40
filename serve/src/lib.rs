//! The HTTP service over the published run: lists of the night, users whom it did not know, similar items.
//!
//! Connections and routes live on the threads of tokio; reading, embedding and searching on a bounded pool. The run is
//! behind one pointer: a request takes it once, so it never sees two runs.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod answer;
mod body;
mod follow;
mod metrics;
mod path;
mod routes;
mod token;

use follow::Follower;
use hyper::server::conn::Http;
use hyper::service::service_fn;
use metrics::Metrics;
use routes::Service;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub use token::Token;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use twotower_pipeline::config::RecallConfig;
use twotower_pipeline::error::PipelineError;

/// The file that describes the service (OpenAPI 3.1), as `/openapi.json` gives it.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// How long the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 16 << 10;
/// Pause after a connection could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served, where, and within which limits.
#[derive(Debug)]
pub struct Options {
    /// The folder of runs with the link `latest`.
    pub runs: PathBuf,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Settings of the job whose lists of items say what nobody gets.
    pub recall: Option<RecallConfig>,
    /// What requests must bear.
    pub token: Option<Token>,
    /// Threads that read, embed and search.
    pub workers: usize,
    /// Requests at work or waiting for a thread; more get 503.
    pub concurrency: usize,
    /// Time for a request, from its head to its answer.
    pub timeout: Duration,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// The most items of an answer.
    pub most_items: usize,
    /// How often it is looked whether `latest` has changed.
    pub poll: Duration,
    /// How long requests at work may take after a signal to stop.
    pub drain: Duration,
}

/// Serves until a signal asks to stop. `listening` is told the address once connections are accepted.
///
/// # Errors
/// A folder of runs that is not there; an address that cannot be had.
pub fn serve(options: Options, listening: impl FnOnce(SocketAddr)) -> Result<(), PipelineError> {
    if !options.runs.is_dir() {
        return Err(PipelineError::usage(format!(
            "serve: --runs {}: there is no such folder; name the one that holds the runs and the link `latest`",
            options.runs.display()
        )));
    }
    let failed = |source| PipelineError::io("start the threads of", "this service")(source);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Beside those that work, one opens the next run.
    runtime.worker_threads(options.workers.min(4)).max_blocking_threads(options.workers + 2).enable_all();
    let runtime = runtime.build().map_err(failed)?;
    let done = runtime.block_on(run(options, listening));
    // What still works was given its time.
    runtime.shutdown_background();
    done
}

async fn run(options: Options, listening: impl FnOnce(SocketAddr)) -> Result<(), PipelineError> {
    let address = options.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(PipelineError::io("listen on", address.to_string()))?;
    let bound = listener.local_addr().map_err(PipelineError::io("listen on", address.to_string()))?;
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [terminate, interrupt] = signals;
    let handlers = PipelineError::io("install signal handlers in", "this process");
    let (mut terminate, mut interrupt) = match (terminate, interrupt) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return Err(handlers(error)),
    };
    let metrics = Arc::new(Metrics::default());
    let follower = Follower::start(&options, metrics.clone());
    let drain = options.drain;
    let service = Arc::new(Service::new(options, follower, metrics));
    let (stop, stopped) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    listening(bound);
    let accept = accept(&listener, &service, &connections, &stopped);
    tokio::select! {
        () = accept => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // New connections are refused from here on.
    drop(listener);
    tracing::info!("serve: stopping; requests at work have {} s", drain.as_secs());
    let _ = stop.send(true);
    let all = connections.acquire_many(CONNECTIONS as u32);
    let ended = tokio::select! {
        ended = tokio::time::timeout(drain, all) => ended.is_ok(),
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    match ended {
        true => tracing::info!("serve: stopped"),
        false => tracing::warn!("serve: stopped with requests at work"),
    }
    Ok(())
}

/// Accepts connections for ever, at most so many at a time.
async fn accept(
    listener: &TcpListener,
    service: &Arc<Service>,
    connections: &Arc<Semaphore>,
    stopped: &watch::Receiver<bool>,
) {
    loop {
        let Ok(place) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (service, stopped) = (service.clone(), stopped.clone());
                tokio::spawn(async move {
                    converse(stream, service, stopped).await;
                    drop(place);
                });
            }
            Err(error) => {
                if !is_of_connection(&error) {
                    tracing::warn!("serve: accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether an error is that of one connection, which has gone away meanwhile.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Answers the requests of a connection one after another. Once a stop was asked for, the one at work is the last.
async fn converse(stream: TcpStream, service: Arc<Service>, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let mut http = Http::new();
    http.http1_only(true).http1_keep_alive(true).http1_header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
    });
    let connection = http.serve_connection(stream, answer);
    tokio::pin!(connection);
    // What goes wrong with a connection, such as a peer that sends no HTTP, is the peer's.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = until(&mut stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Waits until a stop was asked for.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
