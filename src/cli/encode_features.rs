//! `twotower encode-features`.

use super::job::{JobOpts, given, warn_of_withdrawal};
use super::report::print_outcome;
use super::update_from::UpdateFromOpts;
use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::config::Config;
use twotower_pipeline::run::lock::RunLock;
use twotower_pipeline::stages::encode::{EncodeOptions, encode_features};

/// Options of `encode-features`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower encode-features --config pipeline.toml --run runs/today
  # old codes never move
  twotower encode-features --run runs/today --update runs/yesterday/encoders
  # those of the last run that passed its gates
  twotower encode-features --run runs/today --update-from previous
  twotower encode-features --run runs/today --all-users --memory 512MiB")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Extend the vocabularies of an earlier run's encoder folder: old codes stay, new values are appended.
    #[arg(long, value_name = "DIR", conflicts_with = "update_from")]
    update: Option<PathBuf>,
    #[command(flatten)]
    from_run: UpdateFromOpts,
    /// Also write the codes of all users, not only of those that train, to RUN/encoders/users-all.parquet.
    #[arg(long, alias = "all-codes")]
    all_users: bool,
    /// Encode no users for training: for codes, or a run that takes an earlier one's towers. Nothing can be trained on
    /// it.
    #[arg(long)]
    without_positives: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let flags = given("encode.all_users", opts.all_users.then_some(true));
    let context = opts.job.context(flags.into_iter().collect(), quiet)?;
    let of_run = opts.from_run.resolve("encode-features", &context)?.map(|run| run.join("encoders"));
    let options = EncodeOptions { update: opts.update.or(of_run), without_positives: opts.without_positives };
    let _lock = RunLock::take_new(&context.run)?;
    warn_of_withdrawal("encode-features", &context);
    let outcome = encode_features(&context.obeying(Config::encode_settings), &options)?;
    print_outcome("encode-features", &outcome, opts.job.json);
    Ok(())
}
