//! `twotower rollback`.

use super::report::say_json;
use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::run::dir::LATEST;
use twotower_pipeline::run::list::rollback;
use twotower_pipeline::run::mirror;

/// Options of `rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # to the run before the one that `latest` names
  twotower rollback
  # to a run of that name
  twotower rollback --to 2026-01-29
Only complete runs that passed their gates are gone back to. The link is
switched in one step.")]
pub struct Opts {
    /// Folder of the runs and of the link `latest`.
    #[arg(long, value_name = "DIR", default_value = "runs", env = "TWOTOWER_RUNS")]
    runs: PathBuf,
    /// Name of the run to go to.
    #[arg(long, value_name = "RUN")]
    to: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    let runs = mirror::local_folder(&opts.runs)?;
    let done = rollback(&runs, opts.to.as_deref())?;
    if opts.json {
        say_json(&serde_json::to_value(&done)?);
    } else {
        let from = done.from.map_or("no run".to_string(), |from| format!("`{from}`"));
        say!("rollback: {} names `{}` now, before {from}", runs.join(LATEST).display(), done.to);
    }
    Ok(())
}
