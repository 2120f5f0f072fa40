//! `twotower export-results`.

use super::job::LimitOpts;
use super::report::say_json;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::results::export::{ExportOptions, Exported, export};
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::watch::progress::Progress;
use twotower_pipeline::watch::stall;
use twotower_sinks::{Settings, Target};

/// Options of `export-results`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower export-results --run runs/latest --to redis://cache.internal/0
  twotower export-results --run runs/latest --to postgres://app@db.internal/shop
  # gently, while the server is read from
  twotower export-results --run runs/latest --to redis://cache.internal \\
      --max-rows-per-second 50000
Passwords: in the URL (for `ps` not to show it, in TWOTOWER_EXPORT_TO instead of
--to), or in REDISCLI_AUTH or PGPASSWORD. Readers see the lists of the earlier
export until all of this one are there: in Redis, NAME:current is the number G
of the generation to read, and NAME:G:user:ID is a list; in PostgreSQL, NAME is
a view (docs/SINKS.md). An export that was stopped goes on from its last
complete part when the same command is given again.")]
pub struct Opts {
    /// The run's folder. It must be complete and have passed its gates.
    #[arg(long, short, default_value = "run", env = "TWOTOWER_RUN", value_name = "DIR")]
    run: PathBuf,
    /// The database: `redis://USER:PASSWORD@HOST:PORT/DB` or
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; user, password, port and DB may be left out.
    #[arg(long, env = "TWOTOWER_EXPORT_TO", hide_env_values = true, value_name = "URL")]
    to: String,
    /// What keys or tables are called by.
    #[arg(long, default_value = "recall")]
    name: String,
    /// Complete exports to keep under this name, the new one among them; older ones are removed.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    keep: u32,
    /// Redis: hours from its beginning after which all keys of an export end; 0 = never. Without a new export until then,
    /// readers find nothing.
    #[arg(long, value_name = "HOURS", default_value_t = 168, value_parser = clap::value_parser!(u64).range(0..=87_600))]
    expire_hours: u64,
    /// The most users a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    max_rows_per_second: Option<u64>,
    /// How long a server that is away is waited for; 0 = not at all.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    retry_seconds: u64,
    /// Write all again although readers have these lists, such as to renew when they expire.
    #[arg(long)]
    again: bool,
    /// Export a run that did not pass its gates, or of which more than the lists is missing.
    #[arg(long)]
    force: bool,
    /// End with what each thread was doing when nothing has progressed for so long, such as 10m or 90s; 0 = never.
    #[arg(long, value_name = "TIME", env = "TWOTOWER_STALL_TIMEOUT", default_value = stall::DEFAULT_TIMEOUT)]
    stall_timeout: String,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let to = Target::parse(&opts.to, |name| std::env::var(name).ok()).map_err(PipelineError::from)?;
    let run = RunDir::existing("export-results", &opts.run)?;
    let cancel = LimitOpts { memory: None, stall_timeout: opts.stall_timeout }.cancel()?;
    let expire = Some(opts.expire_hours).filter(|hours| *hours > 0).map(|hours| Duration::from_secs(3600 * hours));
    let options = ExportOptions {
        to,
        settings: Settings { name: opts.name, expire, keep: opts.keep, again: opts.again },
        force: opts.force,
        max_rows_per_second: opts.max_rows_per_second,
        patience: Duration::from_secs(opts.retry_seconds),
    };
    let done = export(&run, &options, if quiet { Progress::Quiet } else { Progress::Shown }, &cancel)?;
    if opts.json {
        say_json(&json!(done));
    } else {
        print(&done);
    }
    Ok(())
}

fn print(done: &Exported) {
    let Exported { run, to, name, generation, skipped, parts, parts_written, users, pairs, removed, seconds, .. } =
        done;
    if *skipped {
        say!("export-results: {to}: generation {generation} of {name} has the lists of {run} already");
    } else {
        say!("export-results: {users} users, {pairs} pairs of {run} in {to} ({seconds:.1} s)");
        if parts_written < parts {
            say!("  {parts_written} of {parts} parts were written now, the others were there");
        }
        say!("  generation {generation} of {name} is what readers read now");
    }
    if !removed.is_empty() {
        let removed: Vec<String> = removed.iter().map(u64::to_string).collect();
        say!("  removed: generation {}", removed.join(", "));
    }
}
