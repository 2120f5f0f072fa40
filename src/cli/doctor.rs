//! `twotower doctor`.

use super::job::given;
use super::report::say_json;
use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::config::Override;
use twotower_pipeline::doctor::{DoctorOptions, Finding, Status, doctor};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::mirror;
use twotower_pipeline::stream::memory::Memory;

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower doctor --config pipeline.toml --run runs/2026-01-31
  twotower doctor --json --memory 1GiB
Give it what the night's `run` is given, as the same user. Exit code 0 without
problems, 1 with any; a warning is none.")]
pub struct Opts {
    /// The job's file.
    #[arg(long, short, default_value = "pipeline.toml", env = "TWOTOWER_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// The run's folder, which need not exist yet.
    #[arg(long, short, default_value = "run", env = "TWOTOWER_RUN", value_name = "DIR")]
    run: PathBuf,
    /// Override a setting of the job's file (TOML value; may repeat).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What runs the towers: ort, native or native-int16.
    #[arg(long)]
    engine: Option<String>,
    /// The memory budget that the night is given.
    #[arg(long, value_name = "SIZE", env = "TWOTOWER_MEMORY")]
    memory: Option<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    let set = opts.set.iter().map(|text| Override::parse(text)).collect::<Result<Vec<Override>, _>>();
    let engine = given("infer.engine", opts.engine);
    let overrides = engine.into_iter().chain(set.map_err(PipelineError::from)?).collect();
    let memory = opts.memory.as_deref().map(Memory::parse).transpose()?;
    // Of a run in a store it is the working copy that needs room here.
    let run = mirror::local(&opts.run)?;
    let findings = doctor(&DoctorOptions { config: opts.config, overrides, run, memory });
    let count = |status: Status| findings.iter().filter(|finding| finding.status == status).count();
    let (problems, warnings) = (count(Status::Problem), count(Status::Warning));
    if opts.json {
        say_json(&serde_json::json!({ "problems": problems, "warnings": warnings, "findings": findings }));
    } else {
        findings.iter().for_each(print);
    }
    match problems {
        0 => Ok(()),
        n => Err(anyhow::anyhow!("doctor: {n} of {} checks found a problem; each says what to do", findings.len())),
    }
}

fn print(finding: &Finding) {
    say!("{:<8} {}: {}", finding.status, finding.check, finding.found);
    if !finding.advice.is_empty() {
        say!("{:<8} -> {}", "", finding.advice);
    }
}
