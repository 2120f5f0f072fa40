//! `twotower runs`.

use super::report::{say_json, say_lines, table, utc};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};
use twotower_pipeline::run::list::{Checked, RunInfo, list, prune, size};
use twotower_pipeline::run::mirror;
use twotower_pipeline::stream::memory::mib;

/// Options of `runs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # the runs of the folder `runs`, oldest first
  twotower runs list
  # what would be removed
  twotower runs prune --keep 7 --dry-run
  twotower runs prune --keep 7 /srv/twotower/runs")]
pub struct Opts {
    #[command(subcommand)]
    command: RunsCommand,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// What to do with them.
#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// List runs: complete, what the gates said, users, size, when, and which one `latest` names.
    List {
        /// Folder of the runs.
        #[arg(default_value = "runs", env = "TWOTOWER_RUNS")]
        dir: PathBuf,
    },
    /// Remove complete runs older than the newest N that passed their gates; never the one that `latest` names, one
    /// in use, one that holds a file that no stage made, or a folder that is no complete run.
    Prune {
        /// Folder of the runs.
        #[arg(default_value = "runs", env = "TWOTOWER_RUNS")]
        dir: PathBuf,
        /// Runs to keep, at least 1.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        keep: u32,
        /// Say what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    match opts.command {
        RunsCommand::List { dir } => {
            let dir = mirror::local_folder(&dir)?;
            show(&dir, &list(&dir)?, opts.json);
        }
        RunsCommand::Prune { dir, keep, dry_run } => {
            let dir = mirror::local_folder(&dir)?;
            let pruned = prune(&dir, keep as usize, dry_run)?;
            if opts.json {
                let removed: Vec<_> = pruned.removed.iter().map(|(run, b)| json!({ "run": run, "bytes": b })).collect();
                let left: Vec<_> = pruned.left.iter().map(|(run, why)| json!({ "run": run, "reason": why })).collect();
                say_json(&json!({ "dry_run": dry_run, "removed": removed, "left": left }));
                return Ok(());
            }
            let verb = if dry_run { "would remove" } else { "removed" };
            pruned.removed.iter().for_each(|(run, bytes)| say!("{verb} {run} ({})", mib(*bytes)));
            pruned.left.iter().for_each(|(run, why)| say!("left {run}: {why}"));
            let freed: u64 = pruned.removed.iter().map(|(_, bytes)| bytes).sum();
            say!("prune: {verb} {} runs, {}", pruned.removed.len(), mib(freed));
        }
    }
    Ok(())
}

fn show(dir: &Path, runs: &[RunInfo], as_json: bool) {
    if as_json {
        let all: Vec<_> = runs
            .iter()
            .map(|run| {
                let mut object = json!(run);
                object["bytes"] = size(&dir.join(&run.name)).into();
                object
            })
            .collect();
        say_json(&json!({ "runs": all }));
        return;
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.name.clone(),
                if run.complete { "yes" } else { "no" }.to_string(),
                gates(&run.gates),
                run.users.map_or("-".into(), |users| users.to_string()),
                mib(size(&dir.join(&run.name))),
                run.at.map_or("-".into(), utc),
                match (run.latest, run.experiment) {
                    (true, _) => "latest",
                    (false, true) => "experiment",
                    (false, false) => "",
                }
                .to_string(),
            ]
        })
        .collect();
    say_lines(table(&["run", "complete", "gates", "users", "size", "checked (UTC)", ""], &rows));
}

fn gates(checked: &Checked) -> String {
    let names =
        |gates: &[twotower_pipeline::stages::gates::Gate]| gates.iter().map(|g| g.name()).collect::<Vec<_>>().join(",");
    match checked {
        Checked::Passed { accepted } if accepted.is_empty() => "passed".to_string(),
        Checked::Passed { accepted } => format!("passed, accepted: {}", names(accepted)),
        Checked::Failed { gates } => format!("failed: {}", names(gates)),
        Checked::No => "not checked".to_string(),
    }
}
