//! `twotower evaluate`.

use super::job::JobOpts;
use super::report::{outcome_json, say_json, say_lines, table, take_peak_rss_mib};
use clap::Args;
use std::path::{Path, PathBuf};
use twotower_pipeline::config::Config;
use twotower_pipeline::run::files::evaluation::METRICS;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::stages::evaluate::{MetricsFile, comparable, evaluate, read_metrics};

/// Options of `evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower evaluate --run runs/today
  twotower evaluate --run runs/today --set evaluate.ranking=sampled
  twotower evaluate --compare runs/a/evaluation/metrics.json runs/b/evaluation/metrics.json
Metrics of unlike protocols are not compared: that is an error (exit code 4).")]
pub struct Opts {
    #[command(flatten)]
    job: JobOpts,
    /// Compare two metrics files instead of measuring a run.
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    compare: Option<Vec<PathBuf>>,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    if let Some(paths) = &opts.compare {
        return compare(&paths[0], &paths[1], opts.job.json);
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

/// The metrics of all models, a row each, under the protocol's name.
pub fn metrics_table(metrics: &MetricsFile) -> Vec<String> {
    let mut ks: Vec<usize> = metrics
        .models
        .values()
        .flat_map(|values| values.keys().filter_map(|name| name.strip_prefix("recall@")?.parse().ok()))
        .collect();
    ks.sort_unstable();
    ks.dedup();
    let names: Vec<String> = ks
        .iter()
        .flat_map(|k| {
            ["recall", "hit", "ndcg", "mrr", "precision", "coverage", "popularity"].map(|m| format!("{m}@{k}"))
        })
        .collect();
    let mut header = vec!["metric"];
    header.extend(metrics.models.keys().map(String::as_str));
    let rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| {
            let values = metrics.models.values().map(|m| m.get(name).map_or("-".into(), |v| format!("{v:.4}")));
            std::iter::once(name.clone()).chain(values).collect()
        })
        .collect();
    let title = format!("{} ({} users, {} items)", metrics.protocol, metrics.users, metrics.items);
    std::iter::once(title).chain(table(&header, &rows)).collect()
}

fn compare(a: &Path, b: &Path, as_json: bool) -> anyhow::Result<()> {
    let (left, right) = (read_metrics(a)?, read_metrics(b)?);
    comparable((a, &left), (b, &right))?;
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for (model, values) in &left.models {
        let Some(others) = right.models.get(model) else { continue };
        for (name, va) in values {
            let Some(vb) = others.get(name) else { continue };
            objects
                .push(serde_json::json!({ "model": model, "metric": name, "a": va, "b": vb, "difference": vb - va }));
            rows.push(vec![
                format!("{model} {name}"),
                format!("{va:.4}"),
                format!("{vb:.4}"),
                format!("{:+.4}", vb - va),
            ]);
        }
    }
    if as_json {
        say_json(&serde_json::json!({ "protocol": left.protocol, "metrics": objects }));
    } else {
        say!("{}", left.protocol);
        say_lines(table(&["metric", "a", "b", "b - a"], &rows));
    }
    Ok(())
}
