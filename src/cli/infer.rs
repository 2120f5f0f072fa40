//! `twotower infer`.

use super::changed_since::SinceOpts;
use super::job::{JobOpts, ShardOpts, given, warn_of_withdrawal};
use super::recall::search;
use super::report::print_outcome;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use twotower_artifacts::Side;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::run::output_folder::{Holds, OutputFolder};
use twotower_pipeline::stages::infer::Infer;
use twotower_tables::Format;

/// Options of `infer`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower infer --run runs/today --side item
  twotower infer --run runs/today --side user --shard 3/16
  twotower infer --run runs/today --side user --recall --memory 512MiB
  SLURM_ARRAY_TASK_ID=3 twotower infer --run runs/today --side user --shards 16
  twotower infer --run runs/today --side user --changed-since runs/yesterday
  twotower infer --run runs/today --side user --table newcomers.parquet \\
      --output newcomers --engine native
  twotower infer --run runs/today --side user --table newcomers.parquet \\
      --recall --output items-of-newcomers
The last two write newcomers/vectors/ and items-of-newcomers/recall/, folders
that hold Parquet and nothing else.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    #[command(flatten)]
    shard: ShardOpts,
    #[command(flatten)]
    since: SinceOpts,
    /// Which tower, and so which table.
    #[arg(long, value_enum)]
    side: SideArg,
    /// Embed this file, folder or glob instead of the job's table; read with the job's table settings
    /// unless its extension names another format.
    #[arg(long, value_name = "PATH", requires = "output")]
    table: Option<String>,
    /// Folder for what is made of --table: a new one, or one that an earlier --output made, outside of runs and tables.
    #[arg(long, value_name = "DIR", requires = "table")]
    output: Option<PathBuf>,
    /// Users go straight to their items and no vectors are kept: the same as `twotower recall --fused`; with --table,
    /// those of other users are searched in the run's index and go to --output.
    #[arg(long, conflicts_with = "precision")]
    recall: bool,
    /// How vectors are stored: f32 or f16.
    #[arg(long)]
    precision: Option<String>,
    /// Worker threads; 0 = one per core.
    #[arg(long)]
    workers: Option<i64>,
}

/// A tower, as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SideArg {
    User,
    Item,
}

impl SideArg {
    /// The side.
    pub fn side(self) -> Side {
        match self {
            SideArg::User => Side::User,
            SideArg::Item => Side::Item,
        }
    }
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let shard = opts.shard.resolve()?;
    let flags = [given("infer.precision", opts.precision), given("infer.workers", opts.workers)];
    let flags = flags.into_iter().chain([given("recall.fused", opts.recall.then_some(true)), opts.since.setting()]);
    let context = opts.job.context(flags.flatten().collect(), quiet)?;
    let side = opts.side.side();
    let _lock = RunLock::take(&context.run, Access::Shared)?;
    if opts.recall && side == Side::Item {
        return Err(PipelineError::usage("--recall: items are what is recalled; give --side user").into());
    }
    if opts.since.is_given() && (side == Side::Item || opts.table.is_some()) {
        return Err(PipelineError::usage(
            "--changed-since: only the users of the job's own table are taken from an earlier run; leave it out for items and with --table",
        )
        .into());
    }
    let job = context;
    let mut context = job.obeying(|config| config.infer_settings(side));
    // Nobody takes rows that are not the job's from there.
    context.config.row_hashes &= opts.table.is_none();
    let own = &context.config.rows.source;
    let table = opts.table.map(|path| {
        // Another format than the job's table has: its settings would not fit.
        match (Format::of_path(path.as_ref()), own.format.or_else(|| Format::of_path(own.pattern().as_ref()))) {
            (Some(given), Some(known)) if given != known => own.beside(path),
            _ => own.at(path),
        }
    });
    let holds = if opts.recall { Holds::Recalled } else { Holds::Vectors(side) };
    let output = match (&opts.output, &table) {
        (Some(folder), Some(table)) => {
            Some(OutputFolder::claim(folder, holds, &job.run, job.config.tables().chain([table]))?)
        }
        _ => None,
    };
    if output.is_none() {
        warn_of_withdrawal("infer", &job);
    }
    if opts.recall {
        return search(&job, table.zip(output), (shard, &opts.since), opts.job.json);
    }
    let mut infer = Infer::open(&context, table.zip(output))?;
    if let Some(earlier) = opts.since.resolve("infer", &job)? {
        infer = infer.changed_since(&earlier)?;
    }
    for part in context.parts(shard, |_| Ok(infer.rows()))? {
        print_outcome("infer", &infer.shard(part)?, opts.job.json);
    }
    Ok(())
}
