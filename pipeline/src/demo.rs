//! `demo`: synthetic data, a job that describes it, and a whole run on it.

use crate::config::{Config, Override};
use crate::error::PipelineError;
use crate::results::summary::Summary;
use crate::run::dir::RunDir;
use crate::run::{RunOptions, Stage, run_all};
use crate::stages::gates::Gate;
use crate::stages::{Job, Outcome};
use crate::stream::memory::Memory;
use crate::watch::cancel::Cancel;
use crate::watch::progress::Progress;
use std::path::PathBuf;
use std::time::Instant;
use twotower_synth::{SynthConfig, SynthReport, generate};

/// The job that `demo` writes.
pub const PIPELINE_TOML: &str = include_str!("demo_pipeline.toml");

/// What `demo` is to do.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Folder that gets `data`, `pipeline.toml` and `run`.
    pub dir: PathBuf,
    /// The data set.
    pub data: SynthConfig,
    /// Settings that differ from the demo's job.
    pub overrides: Vec<Override>,
    /// Redo every stage.
    pub force: bool,
    /// Whether progress is shown.
    pub progress: Progress,
    /// A request to stop.
    pub cancel: Cancel,
    /// The most memory a stage may use.
    pub memory: Memory,
}

/// What `demo` did.
pub struct DemoReport {
    /// The data set, with what an oracle and a constant ranker reach.
    pub data: SynthReport,
    /// Seconds of generating it.
    pub data_seconds: f64,
    /// Stages in order.
    pub stages: Vec<(Stage, Outcome)>,
    /// What the run ends with.
    pub summary: Summary,
}

/// Generates data, writes the job, runs it, and reads back what a reader wants to see.
///
/// # Errors
/// Whatever a stage refuses.
pub fn demo(options: &DemoOptions, mut done: impl FnMut(Stage, &Outcome)) -> Result<DemoReport, PipelineError> {
    twotower_artifacts::publish::create_folder(&options.dir)?;
    let started = Instant::now();
    let data_dir = options.dir.join("data");
    let mut bar = options.progress.bar("synth", options.data.users, "users");
    let generating = options.cancel.watch().step("synth");
    let data = generate(&options.data, &data_dir, &mut |rows| bar.advance(rows))?;
    drop((bar, generating));
    let data_seconds = started.elapsed().as_secs_f64();
    let config_path = options.dir.join("pipeline.toml");
    if !config_path.exists() {
        twotower_artifacts::publish::publish_bytes(&config_path, PIPELINE_TOML.as_bytes())?;
    }
    let config = Config::load(&config_path, &options.overrides)?;
    let context = Job {
        execution: config.execution(),
        config,
        run: RunDir::new(options.dir.join("run")),
        force: options.force,
        sole: true,
        progress: options.progress,
        cancel: options.cancel.clone(),
        memory: options.memory,
    };
    let mut stages = Vec::new();
    // A model of a few hundred buyers is worth less than popularity, and the report shows it.
    let run = RunOptions { accept: vec![Gate::Metric], ..RunOptions::default() };
    run_all(&context, &run, |stage, outcome| {
        done(stage, outcome);
        stages.push((stage, outcome.clone()));
    })?;
    let summary = Summary::of(&context)?;
    Ok(DemoReport { data, data_seconds, stages, summary })
}
