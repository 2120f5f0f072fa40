//! `twotower recall`.

use super::changed_since::SinceOpts;
use super::job::{JobOpts, ShardOpts, given, warn_of_withdrawal};
use super::report::print_outcome;
use clap::Args;
use twotower_pipeline::config::Config;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::run::output_folder::OutputFolder;
use twotower_pipeline::stages::Job;
use twotower_pipeline::stages::recall::Recall;
use twotower_pipeline::stream::shard::Shard;
use twotower_tables::TableSpec;

/// Options of `recall`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower recall --run runs/today --topk 50
  twotower recall --run runs/today --topk 20 --shard 0/8 --format parquet-long
  twotower recall --run runs/today --fused --memory 512MiB
  twotower recall --run runs/today --changed-since runs/yesterday
Results are cosine similarities: 1 is the same direction, 0 unrelated, -1
opposite; large is good.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    #[command(flatten)]
    shard: ShardOpts,
    #[command(flatten)]
    since: SinceOpts,
    /// Items per user.
    #[arg(long, short = 'k')]
    topk: Option<i64>,
    /// Item index: auto, exact or hnsw.
    #[arg(long)]
    index: Option<String>,
    /// Form of the results: parquet (a row per user), parquet-long (a row per pair) or jsonl.
    #[arg(long)]
    format: Option<String>,
    /// Embed users on the way, from raw rows, and keep no vectors of them: `infer --side user` is not needed.
    #[arg(long)]
    fused: bool,
    /// Do not leave out items that the user already interacted with.
    #[arg(long)]
    keep_seen: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let shard = opts.shard.resolve()?;
    let flags = [
        given("recall.topk", opts.topk),
        given("index.kind", opts.index),
        given("recall.format", opts.format),
        given("recall.fused", opts.fused.then_some(true)),
        given("recall.exclude_seen", opts.keep_seen.then_some(false)),
        opts.since.setting(),
    ];
    let context = opts.job.context(flags.into_iter().flatten().collect(), quiet)?;
    let _lock = RunLock::take(&context.run, Access::Shared)?;
    warn_of_withdrawal("recall", &context);
    search(&context, None, (shard, &opts.since), opts.job.json)
}

/// Searches for a shard of the users, or all of them, but for those who have not changed since an earlier run; `other` is
/// a table of users that are not the job's, and the folder that gets their items.
pub fn search(
    job: &Job,
    other: Option<(TableSpec, OutputFolder)>,
    (shard, since): (Option<Shard>, &SinceOpts),
    json: bool,
) -> anyhow::Result<()> {
    let mut context = job.obeying(Config::recall_settings);
    let (table, folder) = other.unzip();
    if let (Some(table), Some(embed)) = (table, &mut context.config.embed) {
        embed.rows.source = table;
        // Nobody takes rows that are not the job's from there.
        context.config.row_hashes = false;
    }
    let mut recall = Recall::open_for(&context, folder)?;
    if let Some(earlier) = since.resolve("recall", job)? {
        recall = recall.changed_since(earlier);
    }
    for part in context.parts(shard, |shard| recall.rows(shard))? {
        print_outcome("recall", &recall.shard(part)?, json);
    }
    Ok(())
}
