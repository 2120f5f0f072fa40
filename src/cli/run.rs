//! `twotower run`.

use super::job::{JobOpts, given};
use super::report::{outcome_json, print_outcome, say_json, take_peak_rss_mib};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::{RunOptions, Stage, run_all};
use twotower_pipeline::stages::encode::EncodeOptions;
use twotower_pipeline::stages::gates::Gate;
use twotower_pipeline::stages::train::TrainOptions;

/// Options of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower run --config pipeline.toml --run runs/2026-01-31
  twotower run --run runs/2026-01-31 --from train        redo training and what follows
  twotower run --run runs/2026-02-01 --update-from runs/2026-01-31   extend yesterday's vocabularies and weights
  twotower run --run runs/2026-02-02 --update-from runs/2026-02-01 --no-train --fused --memory 1GiB
  twotower run --run runs/2026-02-03 --accept coverage   publish in spite of that gate
A run that was stopped goes on when the same command is given again. The link `latest` beside the
run folder points to the last complete run that passed its gates.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Redo this stage and those after it.
    #[arg(long, value_parser = stages(), value_name = "STAGE")]
    from: Option<Stage>,
    /// Extend an earlier run: its vocabularies keep their codes, its weights are the start.
    #[arg(long, value_name = "RUN")]
    update_from: Option<PathBuf>,
    /// With --update-from: do not train, but take that run's towers. New values then count as unknown;
    /// the interactions only say which items a user has seen, and nothing is evaluated.
    #[arg(long, requires = "update_from")]
    no_train: bool,
    /// Embed users on the way to their items, and keep no vectors of them.
    #[arg(long)]
    fused: bool,
    /// Publish in spite of this gate's failure (may repeat); the manifest records it.
    #[arg(long, value_parser = gates(), value_name = "GATE")]
    accept: Vec<Gate>,
}

/// The names of gates, as typed.
pub fn gates() -> impl TypedValueParser<Value = Gate> {
    let named = |name: String| Gate::ALL.into_iter().find(|gate| gate.name() == name).ok_or("not a gate");
    PossibleValuesParser::new(Gate::ALL.map(Gate::name)).try_map(named)
}

/// The names of stages, as typed.
pub(super) fn stages() -> impl TypedValueParser<Value = Stage> {
    let named = |name: String| Stage::ALL.into_iter().find(|stage| stage.name() == name).ok_or("not a stage");
    PossibleValuesParser::new(Stage::ALL.map(Stage::name)).try_map(named)
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let flags = given("recall.fused", opts.fused.then_some(true));
    let context = opts.job.context(flags.into_iter().collect(), quiet)?;
    if let Some(earlier) = &opts.update_from
        && earlier.canonicalize().is_ok_and(|e| context.run.root().canonicalize().is_ok_and(|run| run == e))
    {
        return Err(PipelineError::usage(format!(
            "--update-from {} is the folder of this run; name an earlier run",
            earlier.display()
        ))
        .into());
    }
    let earlier = |folder| opts.update_from.as_ref().map(|run| run.join(folder));
    let options = RunOptions {
        from: opts.from,
        encode: EncodeOptions { update: earlier("encoders"), without_positives: opts.no_train },
        train: TrainOptions { from: earlier("towers") },
        adopt: earlier("towers").filter(|_| opts.no_train),
        accept: opts.accept,
    };
    let mut stages = Vec::new();
    run_all(&context, &options, |stage, outcome| {
        if opts.job.json {
            stages.push(outcome_json(stage.name(), outcome, take_peak_rss_mib()));
        } else {
            print_outcome(stage.name(), outcome, false);
        }
    })?;
    if opts.job.json {
        say_json(&serde_json::json!({ "run": context.run.root(), "stages": stages }));
    }
    Ok(())
}
