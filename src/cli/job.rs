//! Options that every stage shares, resolved into a stage's context.

use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::config::{Config, Override, Value};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::mirror;
use twotower_pipeline::stages::Job;
use twotower_pipeline::stream::memory::Memory;
use twotower_pipeline::stream::shard::MOST_SHARDS;
use twotower_pipeline::watch::cancel::Cancel;
use twotower_pipeline::watch::progress::Progress;
use twotower_pipeline::watch::stall;

/// Which job, where its outputs go, and settings that differ from its file.
#[derive(Debug, Args)]
pub struct JobOpts {
    /// The job's file.
    #[arg(long, short, default_value = "pipeline.toml", env = "TWOTOWER_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// The run's folder: every stage reads and writes here.
    #[arg(long, short, default_value = "run", env = "TWOTOWER_RUN", value_name = "DIR")]
    pub run: PathBuf,
    /// Override a setting of the job's file, such as train.epochs=3 (TOML value; may repeat).
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What runs the towers: ort (ONNX Runtime), native (no shared library needed) or native-int16.
    #[arg(long)]
    pub engine: Option<String>,
    #[command(flatten)]
    pub limits: LimitOpts,
    /// Redo this stage's own output even if it is complete and current.
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

impl JobOpts {
    /// Reads the job with overrides: flags of the stage first, then `--set`.
    pub fn context(&self, flags: Vec<Override>, quiet: bool) -> anyhow::Result<Job> {
        let mut overrides = flags;
        overrides.extend(given("infer.engine", self.engine.clone()));
        for text in &self.set {
            overrides.push(Override::parse(text).map_err(PipelineError::from)?);
        }
        let config = Config::load(&self.config, &overrides).map_err(PipelineError::from)?;
        mirror::configure(|options| options.stores = Some(config.stores().clone()));
        let run = RunDir::named(&self.run)?;
        run.refuse_within(config.tables())?;
        Ok(Job {
            execution: config.execution(),
            config,
            run,
            force: self.force,
            sole: false,
            progress: if quiet { Progress::Quiet } else { Progress::Shown },
            memory: self.limits.memory()?,
            cancel: self.limits.cancel()?,
        })
    }
}

/// What a job may take.
#[derive(Debug, Args)]
pub struct LimitOpts {
    /// The most memory to use, such as 512MiB; without it, a quarter of the machine's, or of the control group's.
    #[arg(long, value_name = "SIZE", env = "TWOTOWER_MEMORY")]
    pub memory: Option<String>,
    /// End with what each thread was doing when nothing has progressed for so long, such as 10m or 90s; 0 = never.
    #[arg(long, value_name = "TIME", env = "TWOTOWER_STALL_TIMEOUT", default_value = stall::DEFAULT_TIMEOUT)]
    pub stall_timeout: String,
}

impl LimitOpts {
    /// The budget that was given, or the machine's.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        Ok(self.memory.as_deref().map_or_else(|| Ok(Memory::detect()), Memory::parse)?)
    }

    /// A request to stop that signals raise, and whose watch is guarded.
    pub fn cancel(&self) -> anyhow::Result<Cancel> {
        let timeout = stall::parse_timeout(&self.stall_timeout)?;
        let cancel = Cancel::on_signals()?;
        timeout.map_or(Ok(()), |timeout| cancel.watch().guard(timeout))?;
        Ok(cancel)
    }
}

/// Says, before a stage that was asked for by itself begins, that the run is published and what will become of that.
pub fn warn_of_withdrawal(stage: &str, job: &Job) {
    if let Some(link) = job.published_as() {
        tracing::warn!(
            "{stage}: {} names this run, and is withdrawn as soon as this stage changes it; `twotower publish` puts it back after the gates",
            link.display()
        );
    }
}

/// An override for each flag that was given.
pub fn given<T: Into<Value>>(key: &str, value: Option<T>) -> Option<Override> {
    value.map(|v| Override::new(key, v))
}

/// Which shard of the table, by flag or by the scheduler's environment.
#[derive(Debug, Args)]
pub struct ShardOpts {
    /// Shard i of n, i counted from 0. Without it, i comes from TWOTOWER_SHARD, JOB_COMPLETION_INDEX
    /// or SLURM_ARRAY_TASK_ID when --shards is given; else all of the table is done. What is done is written in parts of
    /// `run.part_users` rows at the most, and a stopped command keeps those that are complete.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,
    /// Number of shards, for an index from the environment.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SHARDS)))]
    pub shards: Option<u32>,
}

impl ShardOpts {
    /// The shard to do; none for all of the table.
    pub fn resolve(&self) -> anyhow::Result<Option<twotower_pipeline::stream::shard::Shard>> {
        let variable = |name: &str| std::env::var(name).ok();
        Ok(twotower_pipeline::stream::shard::Shard::resolve(self.shard.as_deref(), self.shards, variable)?)
    }
}
