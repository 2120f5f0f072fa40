//! `twotower publish`.

use super::job::JobOpts;
use super::report::print_outcome;
use super::run::gates;
use clap::Args;
use twotower_pipeline::run::publish;
use twotower_pipeline::stages::gates::Gate;

/// Options of `publish`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # after recall of the last shard
  twotower publish --run runs/2026-01-31
  # in spite of a gate that failed
  twotower publish --run runs/2026-01-31 --accept coverage
  # results of an earlier items table or list, as they are
  twotower publish --run runs/2026-01-31 --force
The last two steps of `twotower run`, for runs whose stages are done one by one
or in shards.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Publish in spite of this gate's failure (may repeat); the manifest records it.
    #[arg(long, value_parser = gates(), value_name = "GATE")]
    accept: Vec<Gate>,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let context = opts.job.context(Vec::new(), quiet)?;
    context.run.require("publish")?;
    let outcome = publish(&context, &opts.accept)?;
    print_outcome("check", &outcome, opts.job.json);
    Ok(())
}
