//! `twotower similar`.

use super::job::{JobOpts, given};
use super::report::print_outcome;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use std::path::PathBuf;
use twotower_pipeline::results::similar::similar;
use twotower_pipeline::run::lock::{Access, RunLock};

/// Options of `similar`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower similar --run runs/latest --topk 20 --output similar
  twotower similar --run runs/latest --output similar --format jsonl
Writes OUTPUT/similar.parquet (or .jsonl): for each item the others nearest to
it by the cosine of the run's item vectors, found by exact search. The run is
not changed. 1 is the same direction, -1 opposite; large is good.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Items per item.
    #[arg(long, short = 'k', default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    topk: usize,
    /// Folder for the lists: a new one, or one that an earlier `similar` made, outside of runs and tables.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Form of the lists: parquet (a row per item), parquet-long (a row per pair) or jsonl.
    #[arg(long)]
    format: Option<String>,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let context = opts.job.context(given("recall.format", opts.format).into_iter().collect(), quiet)?;
    context.run.require("similar")?;
    let _lock = RunLock::take(&context.run, Access::Shared)?;
    print_outcome("similar", &similar(&context, opts.topk, &opts.output)?, opts.job.json);
    Ok(())
}
