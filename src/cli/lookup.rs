//! `twotower lookup`.

use super::report::{COLUMNS, clipped, say_json};
use super::summary::{aligned, id_text, listed, user_lines};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use std::path::{Path, PathBuf};
use twotower_pipeline::config::{Config, EntityTable};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::results::RunResults;
use twotower_pipeline::results::nearest::nearest_to;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::run::mirror;

/// Options of `lookup`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
#[command(after_help = "Examples:
  # what the user had, the newest first, and what he gets
  twotower lookup runs/latest --user 100042
  # the items nearest to one, by the cosine of their vectors
  twotower lookup runs/latest --item A-17 --limit 10
  # all of it, as JSON
  twotower lookup runs/latest --user 100042 --json
Nothing is changed. Titles come from `tables.items.title`, or a column named
title, name or the like.")]
pub struct Opts {
    /// The run's folder.
    #[arg(default_value = "run", env = "TWOTOWER_RUN", value_name = "RUN")]
    run: PathBuf,
    /// The user to look up.
    #[arg(long, value_name = "ID", group = "what", allow_hyphen_values = true)]
    user: Option<String>,
    /// The item to look up.
    #[arg(long, value_name = "ID", group = "what", allow_hyphen_values = true)]
    item: Option<String>,
    /// The job's file, whose items table has the titles; without it a pipeline.toml here, or beside the run or its folder.
    #[arg(long, short, value_name = "FILE", env = "TWOTOWER_CONFIG")]
    config: Option<PathBuf>,
    /// Items shown at the most, of the history and of the list; of a user --json has all.
    #[arg(long, default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    limit: usize,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// The items table of the job: of the one that was named, or one that lies here or beside the run or its folder. A run
/// itself knows its tables only by paths that count from the job's folder.
pub fn items_table(typed: Option<&Path>, run: &RunDir) -> Result<Option<EntityTable>, PipelineError> {
    if let Some(path) = typed {
        return Ok(Some(Config::load(path, &[])?.tables.items));
    }
    let beside = run.root().ancestors().skip(1).take(2);
    let mut jobs = std::iter::once(Path::new("")).chain(beside).map(|folder| folder.join("pipeline.toml"));
    let job = jobs.find(|path| path.is_file()).and_then(|path| Config::load(&path, &[]).ok());
    Ok(job.map(|config| config.tables.items))
}

/// The line that says how many older items of the history and how many further ones of the list are not shown.
fn left_out([older, more]: [usize; 2]) -> Option<String> {
    let parts = [(older, "older"), (more, "more")].into_iter().filter(|(n, _)| *n > 0);
    let parts: Vec<String> = parts.map(|(n, what)| format!("{n} {what}")).collect();
    (!parts.is_empty()).then(|| format!("  … {} (--limit)", parts.join(" and ")))
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    if let Some(path) = &opts.config {
        let config = Config::load(path, &[]).map_err(PipelineError::from)?;
        mirror::configure(|options| options.stores = Some(config.stores().clone()));
    }
    let run = RunDir::existing("lookup", &opts.run)?;
    let items = items_table(opts.config.as_deref(), &run)?;
    let _still = RunLock::take(&run, Access::Shared)?;
    if let Some(item) = &opts.item {
        let found = nearest_to(&run, item, opts.limit, items)?;
        if opts.json {
            say_json(&serde_json::to_value(&found)?);
            return Ok(());
        }
        let title = found.title.as_deref().map_or(String::new(), |title| format!("  {title}"));
        say!("{}", clipped(&format!("item {}{title}", id_text(&found.item)), COLUMNS));
        let rows: Vec<_> = found.nearest.iter().map(|item| listed("near", item)).collect();
        aligned(&rows).iter().for_each(|line| say!("{line}"));
        return Ok(());
    }
    let mut found = RunResults::open("lookup", &run, items)?.user(opts.user.as_deref().unwrap_or_default())?;
    if opts.json {
        say_json(&serde_json::to_value(&found)?);
        return Ok(());
    }
    let more = [found.history.len(), found.items.len()].map(|n| n.saturating_sub(opts.limit));
    found.history.truncate(opts.limit);
    found.items.truncate(opts.limit);
    user_lines(&found).iter().for_each(|line| say!("{line}"));
    if let Some(left_out) = left_out(more) {
        say!("{left_out}");
    }
    if found.items.is_empty() {
        say!("  gets nothing: only interactions name this user, or nothing is left for him");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_without_zeros() {
        for (more, line) in [
            ([0, 0], None),
            ([0, 30], Some("  … 30 more (--limit)")),
            ([3, 0], Some("  … 3 older (--limit)")),
            ([3, 30], Some("  … 3 older and 30 more (--limit)")),
        ] {
            assert_eq!(left_out(more).as_deref(), line);
        }
    }
}
