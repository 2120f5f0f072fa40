//! `twotower train`.

use super::job::{JobOpts, given, warn_of_withdrawal};
use super::report::print_outcome;
use super::update_from::UpdateFromOpts;
use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::config::Config;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::stages::train::{TrainOptions, train_model};

/// Options of `train`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower train --run runs/today --epochs 5
  # start from yesterday's weights
  twotower train --run runs/today --from runs/yesterday/towers
  # from those of the last run that passed its gates, whose vocabularies
  # `encode-features --update-from previous` has extended
  twotower train --run runs/today --update-from previous
A stopped training goes on from its last checkpoint when the same command is
given again.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Start from the weights of an earlier run's tower folder: old rows copied, new rows from the unknown row.
    #[arg(long, value_name = "DIR", conflicts_with = "update_from")]
    from: Option<PathBuf>,
    #[command(flatten)]
    from_run: UpdateFromOpts,
    /// Passes over the training events.
    #[arg(long)]
    epochs: Option<i64>,
    /// Examples per step.
    #[arg(long)]
    batch_size: Option<i64>,
    /// Peak learning rate.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<i64>,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let flags = [
        given("train.epochs", opts.epochs),
        given("train.batch_size", opts.batch_size),
        given("train.learning_rate", opts.learning_rate),
        given("train.seed", opts.seed),
    ];
    let context = opts.job.context(flags.into_iter().flatten().collect(), quiet)?;
    let _lock = RunLock::take(&context.run, Access::Sole)?;
    warn_of_withdrawal("train", &context);
    let of_run = opts.from_run.resolve("train", &context)?.map(|run| run.join("towers"));
    let options = TrainOptions { from: opts.from.or(of_run) };
    let outcome = train_model(&context.obeying(Config::train_settings), &options)?;
    print_outcome("train", &outcome, opts.job.json);
    Ok(())
}
