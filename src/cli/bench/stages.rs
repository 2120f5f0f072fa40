//! The stages in the order of a run, and how each is run.

use super::child;
use super::figures::Run;
use super::folder::{JOB, bytes_of};
use super::kernels::{Count, Kernel};
use std::fmt;
use std::path::Path;
use std::time::Duration;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::watch::cancel::Cancel;

/// What a stage is to `bench`.
#[derive(Debug)]
pub struct Stage {
    /// Its name in reports.
    pub name: &'static str,
    /// How it is run.
    how: How,
    /// Floating point operations per row, a multiplication and an addition being two; 0 = not counted.
    pub flops: fn(&Shape) -> f64,
    /// What it reads, below the bench's folder.
    reads: &'static [&'static str],
    /// Run once for every engine.
    pub per_engine: bool,
    /// Later stages need what it writes.
    pub prepares: bool,
    /// Others are held against it.
    pub yardstick: bool,
}

/// How a stage is run.
#[derive(Debug)]
enum How {
    /// `twotower synth`.
    Synth,
    /// A subcommand on the job: its words, where its answer has the number of rows, and how many passes it makes over
    /// them.
    Job(&'static [&'static str], &'static str, u64),
    /// A bare loop.
    Kernel(Kernel),
}

/// Sizes of the work on a row.
#[derive(Debug, Default)]
pub struct Shape {
    /// Floating point operations of the user tower's linear layers.
    pub tower: f64,
    /// Floating point operations of comparing a user with every item.
    pub search: f64,
}

impl Stage {
    /// The stage whose GFLOP/s is the machine's peak.
    pub const SGEMM: &'static str = "sgemm";
    /// The stage whose bytes/s is the machine's read bandwidth.
    pub const READ: &'static str = "read";

    const fn new(name: &'static str, how: How) -> Self {
        Self { name, how, flops: |_| 0.0, reads: &[], per_engine: false, prepares: false, yardstick: false }
    }
}

/// All stages.
pub static STAGES: [Stage; 14] = [
    Stage { yardstick: true, ..Stage::new("sgemm-1-thread", How::Kernel(Kernel::SgemmOneThread)) },
    Stage { yardstick: true, ..Stage::new(Stage::SGEMM, How::Kernel(Kernel::Sgemm)) },
    Stage { prepares: true, ..Stage::new("synth", How::Synth) },
    Stage { yardstick: true, ..Stage::new(Stage::READ, How::Kernel(Kernel::Read)) },
    Stage {
        reads: &["data/users", "data/items.parquet", "data/interactions"],
        prepares: true,
        ..Stage::new("encode-features", How::Job(&["encode-features"], "/rows/users", 1))
    },
    Stage {
        reads: &["data/users", "data/items.parquet", "data/interactions"],
        ..Stage::new("encode-all-users", How::Job(&["encode-features", "--all-users"], "/rows/users", 1))
    },
    Stage {
        prepares: true,
        ..Stage::new(
            "train",
            How::Job(
                &["train", "--epochs", "3", "--batch-size", "4096", "--set", "train.patience=0"],
                "/rows/training events",
                3,
            ),
        )
    },
    Stage {
        reads: &["data/items.parquet"],
        prepares: true,
        ..Stage::new("infer-items", How::Job(&["infer", "--side", "item"], "/rows/rows", 1))
    },
    Stage { flops: |shape| shape.tower, per_engine: true, ..Stage::new("engine", How::Kernel(Kernel::Engine)) },
    Stage {
        flops: |shape| shape.tower,
        reads: &["data/users"],
        per_engine: true,
        prepares: true,
        ..Stage::new("infer", How::Job(&["infer", "--side", "user"], "/rows/rows", 1))
    },
    Stage { flops: |shape| shape.search, ..Stage::new("search", How::Kernel(Kernel::Search)) },
    Stage {
        flops: |shape| shape.search,
        reads: &["run/vectors/user"],
        ..Stage::new("recall", How::Job(&["recall", "--topk", "50"], "/rows/users", 1))
    },
    Stage {
        flops: |shape| shape.tower + shape.search,
        reads: &["data/users"],
        ..Stage::new("infer-recall", How::Job(&["infer", "--side", "user", "--recall"], "/rows/users", 1))
    },
    Stage::new("evaluate", How::Job(&["evaluate"], "/rows/users", 1)),
];

/// A stage with the engine it is run on.
#[derive(Debug)]
pub struct Task {
    /// The stage.
    pub stage: &'static Stage,
    /// The engine.
    pub engine: &'static str,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.stage.name)?;
        if self.stage.per_engine { write!(f, " ({})", self.engine) } else { Ok(()) }
    }
}

/// What is being measured, where.
pub struct Bench<'a> {
    /// The folder.
    pub dir: &'a Path,
    /// Users to generate.
    pub users: u64,
    /// Items to generate.
    pub items: u32,
    /// How long a bare loop runs.
    pub loop_time: Duration,
    /// Engines; the last one runs what is not run on each.
    pub engines: &'static [&'static str],
    /// A request to stop.
    pub cancel: &'a Cancel,
}

impl Bench<'_> {
    /// The tasks of a stage.
    pub fn tasks(&self, stage: &'static Stage) -> impl Iterator<Item = Task> {
        let engines = if stage.per_engine { self.engines } else { &self.engines[self.engines.len() - 1..] };
        engines.iter().map(move |engine| Task { stage, engine })
    }

    /// Runs a stage unless its output is current.
    ///
    /// # Errors
    /// Those of the stage.
    pub fn prepare(&self, task: &Task) -> Result<(), PipelineError> {
        child::run(&self.words(task), self.dir, self.cancel).map(drop)
    }

    /// Runs a stage, whatever is there, and measures it.
    ///
    /// # Errors
    /// Those of the stage.
    pub fn measure(&self, task: &Task) -> Result<Run, PipelineError> {
        let mut words = self.words(task);
        if !matches!(task.stage.how, How::Kernel(_)) {
            words.push("--force".into());
        }
        let finished = child::run(&words, self.dir, self.cancel)?;
        let unexpected =
            |what: &str| PipelineError::Data(format!("bench: {task}: no {what} in the answer {:?}", finished.answers));
        let (pointer, passes) = match task.stage.how {
            How::Synth => ("/users", 1),
            How::Job(_, pointer, passes) => (pointer, passes),
            How::Kernel(_) => {
                let count = finished.answers.first().and_then(Count::of_json).ok_or_else(|| unexpected("count"))?;
                return Ok(Run {
                    rows: count.rows,
                    seconds: count.seconds,
                    cpu_seconds: None,
                    peak_rss_mib: finished.peak_rss_mib,
                    bytes: count.bytes,
                    flops: count.flops,
                    threads: Some(count.threads as u64),
                });
            }
        };
        let rows = finished.answers.iter().map(|answer| answer.pointer(pointer).and_then(serde_json::Value::as_u64));
        let rows = rows.sum::<Option<u64>>().filter(|rows| *rows > 0).ok_or_else(|| unexpected(pointer))?;
        // A command says itself what it held; a short one may end between two looks from outside.
        let peaks = finished.answers.iter().filter_map(|answer| answer.pointer("/peak_rss_mib")?.as_f64());
        let own_peak = peaks.reduce(f64::max);
        let read: u64 = task.stage.reads.iter().map(|path| bytes_of(&self.dir.join(path))).sum::<Result<_, _>>()?;
        Ok(Run {
            rows: rows * passes,
            seconds: finished.wall.as_secs_f64(),
            cpu_seconds: finished.cpu_seconds,
            peak_rss_mib: own_peak.or(finished.peak_rss_mib),
            bytes: (read > 0).then_some(read),
            flops: None,
            threads: None,
        })
    }

    /// The command line of a task, to be answered in JSON.
    fn words(&self, task: &Task) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut words: Vec<String> = Vec::new();
        let mut add = |some: &[&str]| words.extend(some.iter().map(|word| word.to_string()));
        match &task.stage.how {
            How::Synth => {
                let (users, items) = (self.users.to_string(), self.items.to_string());
                add(&["synth", &path("data"), "--users", &users, "--items", &items, "--json"]);
            }
            How::Job(subcommand, ..) => {
                add(subcommand);
                let engine = format!("infer.engine=\"{}\"", task.engine);
                add(&["--config", &path(JOB), "--run", &path("run"), "--set", &engine, "--json"]);
            }
            How::Kernel(kernel) => {
                let (dir, users, long) =
                    (self.dir.display().to_string(), self.users.to_string(), self.loop_time.as_secs_f64().to_string());
                add(&["bench", &dir, "--kernel", kernel.name(), "--engine", task.engine]);
                add(&["--users", &users, "--loop-seconds", &long]);
            }
        }
        words.push("--quiet".into());
        words
    }
}
