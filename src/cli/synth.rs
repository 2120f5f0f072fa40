//! `twotower synth`.

use super::report::{say_json, take_peak_rss_mib};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use std::path::PathBuf;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::stream::memory::mib;
use twotower_pipeline::synth::{Layout, SynthConfig, generate};
use twotower_pipeline::watch::progress::Progress;

/// What to generate.
#[derive(Debug, Clone, Args)]
pub struct DataOpts {
    /// Users.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=900_000_000))]
    pub users: u64,
    /// Items.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub items: u32,
    /// The same seed gives the same bytes, whatever the number of threads.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl DataOpts {
    /// The generator's settings.
    pub fn config(&self) -> SynthConfig {
        SynthConfig { users: self.users, items: self.items, seed: self.seed, ..SynthConfig::default() }
    }
}

/// Options of `synth`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower synth data --users 1000000
  # new users, new values, more nulls
  twotower synth tomorrow --users 1000000 --day 1
  twotower synth export --users 20000 --items 200 --exported
  twotower init --users export/users --items export/items.csv \\
      --interactions export/interactions --output pipeline.toml")]
pub struct Opts {
    /// Folder that gets users/, items.parquet (or .csv), interactions/ and meta.json.
    dir: PathBuf,
    #[command(flatten)]
    data: DataOpts,
    /// Day of the users table: each adds new users, new values and nulls.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    day: u32,
    /// Write tables as a company's systems export them: CSV in GBK with Chinese column names, numbered ids with leading
    /// zeros, dates in two spellings, amounts with separators, 是 and 否, and a few rows of users and interactions
    /// without an id or twice.
    #[arg(long)]
    exported: bool,
    /// Worker threads; 0 = one per core.
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1024))]
    threads: usize,
    /// Replace a data set that is there.
    #[arg(long)]
    force: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let layout = if opts.exported { Layout::Exported } else { Layout::Parquet };
    let config = SynthConfig { day: opts.day, layout, threads: opts.threads, force: opts.force, ..opts.data.config() };
    let progress = if quiet { Progress::Quiet } else { Progress::Shown };
    let mut bar = progress.bar("synth", config.users, "users");
    let started = std::time::Instant::now();
    let report = generate(&config, &opts.dir, &mut |rows| bar.advance(rows)).map_err(PipelineError::from)?;
    drop(bar);
    if opts.json {
        let mut report = serde_json::to_value(&report)?;
        report["peak_rss_mib"] = take_peak_rss_mib().into();
        say_json(&report);
    } else {
        say!(
            "synth: {} users, {} items, {} interactions, {} ({:.1} s)",
            report.users,
            report.items,
            report.interactions,
            mib(report.bytes),
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
