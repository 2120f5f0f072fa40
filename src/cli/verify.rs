//! `twotower verify`.

use super::report::{say_json, say_lines, table};
use super::run::stages;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use twotower_pipeline::run::Stage;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::mirror;
use twotower_pipeline::run::verify::{Verification, verify};

/// Options of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower verify runs/2026-01-31
  # incomplete unless every user has items
  twotower verify runs/2026-01-31 --require recall
Needs no table and no job file, and changes nothing. All files are read once.
Exit code 3 for damaged files, 4 for what is missing, incomplete or does not
belong together.")]
pub struct Opts {
    /// The run's folder.
    #[arg(default_value = "run", env = "TWOTOWER_RUN", value_name = "RUN")]
    run: PathBuf,
    /// A stage whose output must be there (may repeat); without it, stages that never ran are fine.
    #[arg(long, value_parser = stages(), value_name = "STAGE")]
    require: Vec<Stage>,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    // What a store notes of its objects is no reading of them.
    mirror::configure(|options| options.whole = true);
    let run = RunDir::new(mirror::local(&opts.run)?);
    run.require("verify")?;
    let found = verify(&run, &opts.require)?;
    if opts.json {
        say_json(&as_json(&opts.run, &found));
    } else {
        print(&found);
    }
    Ok(found.verdict(&run)?)
}

fn as_json(run: &std::path::Path, found: &Verification) -> serde_json::Value {
    let artifacts: Vec<_> = found
        .artifacts
        .iter()
        .map(|a| json!({ "name": a.name, "parts": a.parts, "rows": a.rows, "bytes": a.bytes, "whole": a.whole }))
        .collect();
    let problems: Vec<_> = found
        .problems
        .iter()
        .map(|p| json!({ "exit_code": p.category().exit_code(), "message": p.to_string() }))
        .collect();
    json!({
        "run": run,
        "complete": found.problems.is_empty(),
        "artifacts": artifacts,
        "problems": problems,
        "notes": found.notes,
    })
}

fn print(found: &Verification) {
    let rows: Vec<Vec<String>> = found
        .artifacts
        .iter()
        .map(|a| {
            let state = if a.whole { "whole" } else { "NOT WHOLE" };
            vec![a.name.to_string(), a.parts.to_string(), a.rows.to_string(), a.bytes.to_string(), state.to_string()]
        })
        .collect();
    say_lines(table(&["artifact", "parts", "rows", "bytes", "checksums"], &rows));
    found.notes.iter().for_each(|note| say!("note: {note}"));
    found.problems.iter().for_each(|problem| say!("problem: {problem}"));
    if found.problems.is_empty() {
        say!("complete");
    }
}
