//! `twotower evaluate`.

use super::job::JobOpts;
use super::report::{outcome_json, say_json, say_lines, table, take_peak_rss_mib, wrapped};
use super::summary::{MODELS, left_out, overlap};
use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::config::Config;
use twotower_pipeline::results::advice::cut_offs;
use twotower_pipeline::results::compare::compared;
use twotower_pipeline::run::files::evaluation::METRICS;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::stages::evaluate::{MetricsFile, evaluate, read_metrics};

/// Options of `evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower evaluate --run runs/today
  twotower evaluate --run runs/today --set evaluate.ranking=sampled
  twotower evaluate --run runs/today --set evaluate.ranking=sampled_paper
  twotower evaluate --compare runs/a runs/b
Every table and metrics file names its protocol: full, sampled-1+100 or
sampled-1+100 paper. Metrics of unlike protocols are not compared: that is an
error (exit code 4).")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Compare all metrics of two runs, by their folders or metrics files, instead of measuring one; `twotower compare`
    /// shows several runs.
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    compare: Option<Vec<PathBuf>>,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    if let Some(paths) = &opts.compare {
        return compare(paths, opts.job.json);
    }
    let context = opts.job.context(Vec::new(), quiet)?;
    let _lock = RunLock::take(&context.run, Access::Sole)?;
    let outcome = evaluate(&context.obeying(Config::evaluate_settings))?;
    if opts.job.json {
        say_json(&outcome_json("evaluate", &outcome, take_peak_rss_mib()));
    } else {
        say_lines(metrics_table(&read_metrics(&context.run.evaluation().join(METRICS))?));
    }
    Ok(())
}

/// What is measured at each cut-off.
const MEASURES: [&str; 7] = ["recall", "hit", "ndcg", "mrr", "precision", "coverage", "popularity"];

/// Names of all metrics, by cut-off.
fn names(metrics: &MetricsFile) -> Vec<String> {
    cut_offs(metrics).into_iter().flat_map(|k| MEASURES.map(|measure| format!("{measure}@{k}"))).collect()
}

/// The metrics of all models, a row each, under the protocol's name.
fn metrics_table(metrics: &MetricsFile) -> Vec<String> {
    let models = MODELS.map(|(model, _)| model).into_iter().filter(|model| metrics.models.contains_key(*model));
    let models: Vec<&str> = models.collect();
    let header: Vec<&str> = std::iter::once("metric").chain(models.iter().copied()).collect();
    let value = |model: &str, name: &str| metrics.models[model].get(name).map_or("-".into(), |v| format!("{v:.4}"));
    let rows: Vec<Vec<String>> = names(metrics)
        .into_iter()
        .map(|name| {
            let values: Vec<String> = models.iter().map(|model| value(model, &name)).collect();
            std::iter::once(name).chain(values).collect()
        })
        .collect();
    let title = format!("{} ({} users, {} items)", metrics.protocol, metrics.users, metrics.items);
    wrapped("", &title)
        .into_iter()
        .chain(table(&header, &rows))
        .chain(left_out(metrics))
        .chain(overlap(metrics))
        .collect()
}

/// All metrics of two runs, with their differences.
fn compare(paths: &[PathBuf], as_json: bool) -> anyhow::Result<()> {
    let runs = compared("evaluate", paths)?;
    let (left, right) = (&runs[0].metrics, &runs[1].metrics);
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for (model, said) in MODELS {
        let (Some(values), Some(others)) = (left.models.get(model), right.models.get(model)) else { continue };
        for name in names(left) {
            let (Some(va), Some(vb)) = (values.get(&name), others.get(&name)) else { continue };
            rows.push(vec![
                format!("{said} {name}"),
                format!("{va:.4}"),
                format!("{vb:.4}"),
                format!("{:+.4}", vb - va),
            ]);
            objects
                .push(serde_json::json!({ "model": model, "metric": name, "a": va, "b": vb, "difference": vb - va }));
        }
    }
    if as_json {
        say_json(&serde_json::json!({ "protocol": left.protocol, "metrics": objects }));
    } else {
        say_lines(wrapped("", &left.protocol));
        say_lines(table(&["metric", "a", "b", "b - a"], &rows));
    }
    Ok(())
}
