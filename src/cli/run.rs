//! `twotower run`.

use super::changed_since::SinceOpts;
use super::job::{JobOpts, given};
use super::report::{error_json, outcome_json, print_outcome, say_json, take_peak_rss_mib};
use super::summary;
use super::update_from::UpdateFromOpts;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::results::metrics_text::NightMetrics;
use twotower_pipeline::results::summary::Summary;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::{RunOptions, Stage, run_all};
use twotower_pipeline::stages::encode::EncodeOptions;
use twotower_pipeline::stages::gates::Gate;
use twotower_pipeline::stages::train::TrainOptions;

/// Options of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower run --config pipeline.toml --run runs/2026-01-31
  # redo training and what follows
  twotower run --run runs/2026-01-31 --from train
  # extend the last good run's vocabularies and weights
  twotower run --run runs/2026-02-01 --update-from previous
  twotower run --run runs/2026-02-02 --update-from runs/2026-02-01 --no-train \\
      --fused --memory 1GiB
  # embed and search only for users who have changed since the last good run
  twotower run --run runs/2026-02-03 --update-from previous --no-train \\
      --changed-since previous
  # publish in spite of that gate
  twotower run --run runs/2026-02-04 --accept coverage
  # all stages and gates, and `latest` stays
  twotower run --run runs/try-1 --no-publish --set train.epochs=20
  # for node exporter's textfile collector
  twotower run --run runs/2026-02-05 \\
      --metrics-file /var/lib/node_exporter/twotower.prom
A run that was stopped goes on when the same command is given again. The link
`latest` beside the run folder points to the last complete run that passed its
gates.")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Redo this stage and those after it.
    #[arg(long, value_parser = stages(), value_name = "STAGE")]
    from: Option<Stage>,
    #[command(flatten)]
    update: UpdateFromOpts,
    /// With --update-from: do not train, but take that run's towers. New values then count as unknown;
    /// the interactions only say which items a user has seen, and nothing is evaluated.
    #[arg(long, requires = "update_from")]
    no_train: bool,
    /// Embed users on the way to their items, and keep no vectors of them.
    #[arg(long)]
    fused: bool,
    #[command(flatten)]
    since: SinceOpts,
    /// Publish in spite of this gate's failure (may repeat); the manifest records it.
    #[arg(long, value_parser = gates(), value_name = "GATE")]
    accept: Vec<Gate>,
    /// Leave the link `latest` as it is: for experiments. No rollback goes to such a run, and no `--update-from
    /// previous` takes it.
    #[arg(long)]
    no_publish: bool,
    /// Write what the night did to this file at its end, also of one that failed: Prometheus' text form, for the
    /// textfile collector of node exporter.
    #[arg(long, value_name = "FILE", env = "TWOTOWER_METRICS_FILE")]
    metrics_file: Option<PathBuf>,
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
    let (mut night, mut summary) = (NightMetrics::begin(), None);
    let (file, folder) = (opts.metrics_file.clone(), opts.job.run.clone());
    let ended = run_night(opts, quiet, &mut night, &mut summary);
    if let Some(file) = &file {
        let run = RunDir::named(&folder).unwrap_or_else(|_| RunDir::new(&folder));
        let code = ended.as_ref().map_or_else(super::exit_code, |()| 0);
        if let Err(error) = night.write(file, &run, code, summary.as_ref()) {
            // The night's work is worth more than what is told of it.
            tracing::warn!("run: --metrics-file: {error}");
        }
    }
    ended
}

/// All of a night, counted in `night` and summed up in `shown`.
fn run_night(opts: Opts, quiet: bool, night: &mut NightMetrics, shown: &mut Option<Summary>) -> anyhow::Result<()> {
    let flags = [given("recall.fused", opts.fused.then_some(true)), opts.since.setting()];
    let context = opts.job.context(flags.into_iter().flatten().collect(), quiet)?;
    let update_from = opts.update.resolve("run", &context)?;
    let earlier = |folder| update_from.as_ref().map(|run| run.join(folder));
    if opts.no_train && update_from.is_none() {
        tracing::info!("run: there are no towers to take, so this run trains its own");
    }
    let adopts = opts.no_train && update_from.is_some();
    let options = RunOptions {
        from: opts.from,
        encode: EncodeOptions { update: earlier("encoders"), without_positives: adopts },
        train: TrainOptions { from: earlier("towers") },
        adopt: earlier("towers").filter(|_| adopts),
        changed_since: opts.since.resolve("run", &context)?,
        accept: opts.accept,
        unpublished: opts.no_publish,
    };
    let mut stages = Vec::new();
    let mut checked = false;
    let ended = run_all(&context, &options, |stage, outcome| {
        checked |= stage == Stage::Check;
        night.add(stage, outcome);
        if opts.job.json {
            stages.push(outcome_json(stage.name(), outcome, take_peak_rss_mib()));
        } else {
            print_outcome(stage.name(), outcome, false);
        }
    });
    // What the gates refuse is there too, and to be looked at.
    let refused = matches!(&ended, Err(PipelineError::Gate(text)) if text.starts_with("check: "));
    let ended = ended.map_err(anyhow::Error::from);
    let summary = (checked || refused).then(|| Summary::of(&context)).and_then(|made| {
        made.inspect_err(|error| tracing::warn!("run: what it ends with cannot be shown: {error}")).ok()
    });
    if opts.job.json {
        let mut object = serde_json::json!({
            "run": context.run.root(),
            "updated_from": update_from,
            "published": ended.is_ok() && !opts.no_publish,
            "stages": stages,
            "summary": summary,
        });
        if let Err(error) = &ended {
            let said = error_json(error, super::exit_code(error));
            for key in ["error", "exit_code"] {
                object[key] = said[key].clone();
            }
        }
        say_json(&object);
    } else if let Some(made) = &summary {
        summary::print(made, context.run.root());
        match (&ended, opts.no_publish, context.run.latest()) {
            (Ok(()), true, Some(link)) => say!("Not published: {} is as it was (--no-publish).", link.display()),
            (Ok(()), false, Some(link)) => say!("Published: {} names this run.", link.display()),
            _ => {}
        }
    }
    *shown = summary;
    ended
}
