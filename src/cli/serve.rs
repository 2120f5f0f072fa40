//! `twotower serve`.

use clap::Args;
use clap::builder::RangedU64ValueParser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use twotower_pipeline::config::Config;
use twotower_pipeline::error::PipelineError;
use twotower_serve::{Options, Token};

/// The variable that may hold the token.
const TOKEN: &str = "TWOTOWER_TOKEN";

/// Options of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower serve --runs runs
  curl http://127.0.0.1:8080/v1/users/100042/items?k=5
  curl http://127.0.0.1:8080/v1/recall --data \\
      '{\"features\": {\"city\": \"Bern\"}, \"history\": [17, 4], \"k\": 5}'
  curl http://127.0.0.1:8080/v1/items/17/similar?k=5
  # for others, with a token
  openssl rand -hex 32 > token
  twotower serve --runs runs --listen 0.0.0.0:8080 --token-file token
Paths: /v1/users/{id}/items, /v1/recall (POST), /v1/items/{id}/similar,
/healthz, /readyz, /metrics, /openapi.json. The run is the one that the link
`latest` names; a new one takes its place without a restart. SIGTERM ends it
when the requests at work are answered. There is no TLS here: put a proxy
before it.")]
pub struct Opts {
    /// The folder of runs with the link `latest`.
    #[arg(long, default_value = "runs", env = "TWOTOWER_RUNS", value_name = "DIR")]
    runs: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", env = "TWOTOWER_LISTEN", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The job that made the runs; needed where its results leave items out by `recall.allow` or `recall.deny`.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File with the token that requests must bear; else the variable TWOTOWER_TOKEN holds it, if there is one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Listen beyond this machine without a token: for a network where everybody may ask.
    #[arg(long)]
    without_token: bool,
    /// Threads that read, embed and search; without it, one for each processor.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    workers: Option<usize>,
    /// Requests at work or waiting for a thread; more get 503.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    concurrency: usize,
    /// Milliseconds for a request, from its head to its answer; then it gets 503.
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = RangedU64ValueParser::<u64>::new().range(1..=600_000))]
    timeout_ms: u64,
    /// Bytes of a request's body at the most.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = RangedU64ValueParser::<usize>::new().range(64..=1 << 28))]
    max_body: usize,
    /// Items of an answer at the most; a larger `k` is an error.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    max_items: usize,
    /// Milliseconds between two looks at `latest`.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = RangedU64ValueParser::<u64>::new().range(10..=3_600_000))]
    poll_ms: u64,
    /// Seconds that requests at work have after SIGTERM.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = RangedU64ValueParser::<u64>::new().range(0..=3600))]
    drain: u64,
}

/// The token that was given, by file or by variable.
fn token(opts: &Opts) -> anyhow::Result<Option<Token>> {
    if let Some(path) = &opts.token_file {
        let text = std::fs::read_to_string(path).map_err(PipelineError::io("read the token", path))?;
        return Ok(Some(Token::new(&text, &path.display().to_string())?));
    }
    match std::env::var_os(TOKEN) {
        None => Ok(None),
        Some(text) => Ok(Some(Token::new(&text.to_string_lossy(), TOKEN)?)),
    }
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    let token = token(&opts)?;
    if token.is_none() && !opts.listen.ip().is_loopback() && !opts.without_token {
        return Err(PipelineError::usage(format!(
            "serve: --listen {} is reached from other machines, and there is no token; give --token-file or {TOKEN}, or --without-token if everybody there may ask",
            opts.listen
        ))
        .into());
    }
    let job = opts.config.as_deref().map(|path| Config::load(path, &[]).map_err(PipelineError::from)).transpose()?;
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let runs = opts.runs.display().to_string();
    let options = Options {
        runs: opts.runs,
        listen: opts.listen,
        recall: job.map(|job| job.recall),
        token,
        workers: opts.workers.unwrap_or_else(processors),
        concurrency: opts.concurrency,
        timeout: Duration::from_millis(opts.timeout_ms),
        body_bytes: opts.max_body,
        most_items: opts.max_items,
        poll: Duration::from_millis(opts.poll_ms),
        drain: Duration::from_secs(opts.drain),
    };
    let listening = |address| say!("serving {runs} on http://{address}");
    Ok(twotower_serve::serve(options, listening)?)
}
