//! Bare loops: what the machine, the engines and the index reach without a pipeline around them.

use super::engines::{engine, search, sgemm};
use super::folder::files_of;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use twotower_pipeline::config::allocation::cores;
use twotower_pipeline::error::PipelineError;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// The loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// A large product on one thread.
    SgemmOneThread,
    /// A product for every core at once.
    Sgemm,
    /// Sequential reads of the users' files from the page cache.
    Read,
    /// The user tower on codes in memory, a worker a core.
    Engine,
    /// Exact top-50 of user vectors in memory, a worker a core.
    Search,
}

impl Kernel {
    /// The name it is called by.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::SgemmOneThread => "sgemm-one-thread",
            Kernel::Sgemm => "sgemm",
            Kernel::Read => "read",
            Kernel::Engine => "engine",
            Kernel::Search => "search",
        }
    }
}

/// What a loop counted.
#[derive(Debug, Default)]
pub struct Count {
    /// Rows worked on.
    pub rows: u64,
    /// Time they took.
    pub seconds: f64,
    /// Threads.
    pub threads: usize,
    /// Bytes read.
    pub bytes: Option<u64>,
    /// Floating point operations, where they do not follow from the rows.
    pub flops: Option<f64>,
}

impl Count {
    /// For the process that asked.
    pub fn to_json(&self) -> Value {
        let Self { rows, seconds, threads, bytes, flops } = self;
        json!({ "rows": rows, "seconds": seconds, "threads": threads, "bytes": bytes, "flops": flops })
    }

    /// From the process that counted; none when it is not a count.
    pub fn of_json(value: &Value) -> Option<Self> {
        Some(Self {
            rows: value["rows"].as_u64()?,
            seconds: value["seconds"].as_f64()?,
            threads: value["threads"].as_u64()? as usize,
            bytes: value["bytes"].as_u64(),
            flops: value["flops"].as_f64(),
        })
    }
}

/// Runs a loop for the time `long`, on the data of `users` users and the run in `dir`.
///
/// # Errors
/// Missing or damaged files, those of the engine or index.
pub fn run(kernel: Kernel, dir: &Path, users: u64, engine_name: &str, long: Duration) -> Result<Count, PipelineError> {
    let cores = cores();
    match kernel {
        Kernel::SgemmOneThread => sgemm(1, long),
        Kernel::Sgemm => sgemm(cores, long),
        Kernel::Read => read(&dir.join("data/users"), users, long),
        Kernel::Engine => engine(dir, engine_name.parse()?, cores, long),
        Kernel::Search => search(dir, cores, long),
    }
}

/// Runs all workers at once, each again and again until the time `long` has passed, after one call to warm up.
/// A worker returns the rows of a call.
///
/// # Errors
/// The first error of a worker.
pub fn repeat<W>(workers: Vec<W>, long: Duration) -> Result<Count, PipelineError>
where
    W: FnMut() -> Result<usize, PipelineError> + Send,
{
    let threads = workers.len();
    let barrier = Barrier::new(threads);
    let run = |mut worker: W| -> Result<(usize, f64), PipelineError> {
        let warm = worker();
        barrier.wait();
        warm?;
        let (mut rows, started) = (0, Instant::now());
        while started.elapsed() < long {
            rows += worker()?;
        }
        Ok((rows, started.elapsed().as_secs_f64()))
    };
    let counts: Vec<Result<(usize, f64), PipelineError>> = std::thread::scope(|scope| {
        let handles: Vec<_> = workers.into_iter().map(|worker| scope.spawn(|| run(worker))).collect();
        let join =
            |handle: std::thread::ScopedJoinHandle<_>| handle.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        handles.into_iter().map(join).collect()
    });
    let counts = counts.into_iter().collect::<Result<Vec<_>, _>>()?;
    // Workers end within a call of one another: their rates are added, not their times compared.
    let rows: usize = counts.iter().map(|(rows, _)| rows).sum();
    let rate: f64 = counts.iter().map(|(rows, seconds)| *rows as f64 / seconds).sum();
    Ok(Count { rows: rows as u64, seconds: rows as f64 / rate, threads, ..Count::default() })
}

/// Reads the files of a folder, which hold `rows` rows, one after another on one thread.
fn read(folder: &Path, rows: u64, long: Duration) -> Result<Count, PipelineError> {
    let files = files_of(folder)?;
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let mut buffer = vec![0; READ_BYTES];
    let pass = || -> Result<usize, PipelineError> {
        for (path, _) in &files {
            let mut file = File::open(path).map_err(PipelineError::io("open", path))?;
            while file.read(&mut buffer).map_err(PipelineError::io("read", path))? > 0 {}
        }
        Ok(rows as usize)
    };
    let count = repeat(vec![pass], long)?;
    Ok(Count { bytes: Some(count.rows / rows * total), ..count })
}
