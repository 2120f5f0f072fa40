//! `twotower encode-features`.

use super::job::JobOpts;
use super::report::print_outcome;
use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::encode::{EncodeOptions, encode_features};

/// Options of `encode-features`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower encode-features --config pipeline.toml --run runs/today
  twotower encode-features --run runs/today --update runs/yesterday/encoders   old codes never move")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Extend the vocabularies of an earlier run's encoder folder: old codes stay, new values are appended.
    #[arg(long, value_name = "DIR")]
    update: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let context = opts.job.context(Vec::new(), quiet)?;
    let outcome = encode_features(&context, &EncodeOptions { update: opts.update })?;
    print_outcome("encode-features", &outcome, opts.job.json);
    Ok(())
}
