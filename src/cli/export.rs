//! `twotower export`.

use super::infer::SideArg;
use super::job::JobOpts;
use super::report::say_json;
use clap::Args;
use std::path::PathBuf;
use twotower_artifacts::Side;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::stages::export::{ExportOptions, export};

/// Options of `export`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower export --run runs/latest --output serving
  twotower export --run runs/latest --output serving --side item
  twotower export --run runs/latest --output serving --typed --encoded device
Writes OUTPUT/user_tower.onnx, item_tower.onnx and inputs.json, which says what
each input takes. Both towers are compared with the run's own on rows of its
tables first. docs/ONNX.md has the rules, and an example in Python.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Folder for the towers: a new one, or one that an earlier `export` made, outside of runs and tables.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Only this tower.
    #[arg(long, value_enum)]
    side: Option<SideArg>,
    /// Numbers and dates that the table has in a form that ONNX does not read, such as text, are inputs as numbers, and as
    /// days since 1970-01-01; who serves reads the text.
    #[arg(long)]
    typed: bool,
    /// The input of this feature stays what the run's own tower takes: codes or scaled numbers (may repeat).
    #[arg(long, value_name = "FEATURE")]
    encoded: Vec<String>,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let context = opts.job.context(Vec::new(), quiet)?;
    context.run.require("export")?;
    let _lock = RunLock::take(&context.run, Access::Shared)?;
    let sides = opts.side.map_or_else(|| vec![Side::User, Side::Item], |side| vec![side.side()]);
    let options = ExportOptions { sides, typed: opts.typed, encoded: opts.encoded };
    let exported = export(&context, &opts.output, &options)?;
    if opts.job.json {
        say_json(&serde_json::to_value(&exported)?);
        return Ok(());
    }
    for (side, tower) in &exported.towers {
        let path = opts.output.join(&tower.file);
        say!(
            "export: {side} tower: {}; on {} rows at most {:.1e} from the run's vectors",
            path.display(),
            tower.checked_rows,
            tower.largest_difference
        );
    }
    Ok(())
}
