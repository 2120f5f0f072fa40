//! `twotower demo`.

use super::job::{LimitOpts, given};
use super::report::{outcome_json, print_outcome, say_json, say_lines, take_peak_rss_mib, wrapped};
use super::summary;
use super::synth::DataOpts;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use twotower_pipeline::config::Override;
use twotower_pipeline::demo::{DemoOptions, DemoReport, demo};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::watch::progress::Progress;

/// Options of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  twotower demo demo --users 200000
Leaves DIR/data, DIR/pipeline.toml and DIR/run, so that every stage can be
repeated by hand:
  twotower recall --config demo/pipeline.toml --run demo/run --topk 20")]
pub struct Opts {
    /// Folder for data, job and run.
    dir: PathBuf,
    #[command(flatten)]
    data: DataOpts,
    /// What runs the towers: ort (ONNX Runtime) or native (no shared library needed).
    #[arg(long)]
    engine: Option<String>,
    /// Override a setting of the job (may repeat).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    limits: LimitOpts,
    /// Redo every stage.
    #[arg(long)]
    force: bool,
    /// Print one JSON object with each stage's rows and seconds, and the metrics.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let mut overrides: Vec<Override> = given("infer.engine", opts.engine).into_iter().collect();
    for text in &opts.set {
        overrides.push(Override::parse(text).map_err(PipelineError::from)?);
    }
    let options = DemoOptions {
        dir: opts.dir.clone(),
        data: opts.data.config(),
        overrides,
        force: opts.force,
        progress: if quiet { Progress::Quiet } else { Progress::Shown },
        memory: opts.limits.memory()?,
        cancel: opts.limits.cancel()?,
    };
    let as_json = opts.json;
    let mut stages = Vec::new();
    let report = demo(&options, |stage, outcome| match as_json {
        true => stages.push(outcome_json(stage.name(), outcome, take_peak_rss_mib())),
        false => print_outcome(stage.name(), outcome, false),
    })?;
    if as_json {
        say_json(&to_json(&report, stages));
    } else {
        print(&report, &opts.dir);
    }
    Ok(())
}

fn to_json(report: &DemoReport, mut stages: Vec<serde_json::Value>) -> serde_json::Value {
    let synth = json!({
        "stage": "synth",
        "rows": { "users": report.data.users, "items": report.data.items, "interactions": report.data.interactions },
        "seconds": report.data_seconds,
    });
    stages.insert(0, synth);
    json!({ "stages": stages, "data": report.data, "summary": report.summary })
}

fn print(report: &DemoReport, dir: &std::path::Path) {
    summary::print(&report.summary, &dir.join("run"));
    say!("");
    let ceiling = &report.data.ceiling;
    let text = format!(
        "Who knows how these users were made would reach recall@50 {:.4}, popularity {:.4}.",
        ceiling.oracle_leave_last_out, ceiling.popularity_leave_last_out
    );
    say_lines(wrapped("", &text));
    say!("Every stage can be repeated by hand: --config {0}/pipeline.toml --run {0}/run", dir.display());
    say!("");
    say!("Your own tables (Parquet, CSV or JSON Lines):");
    say!("  twotower init --users USERS --items ITEMS --interactions ORDERS \\");
    say!("      --output pipeline.toml");
    say!("  twotower run --config pipeline.toml --run runs/$(date +%F)");
}
