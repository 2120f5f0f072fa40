//! `twotower compare`.

use super::report::{clipped, say_json, say_lines, table, wrapped};
use super::summary::{MODELS, Named, fitting, said, table_of};
use clap::{ArgGroup, Args};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use twotower_artifacts::publish::publish_bytes;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::results::advice::cut_offs;
use twotower_pipeline::results::compare::{ComparedModel, ComparedRun, compared, models};
use twotower_pipeline::results::plot::{Curve, svg};

/// Options of `compare`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("form").args(["json", "csv", "markdown"]))]
#[command(after_help = "Examples:
  twotower compare runs/base runs/try
  twotower compare runs/* --metric recall@20 --metric ndcg@20
  # a picture of ndcg by the length of lists
  twotower compare runs/base runs/try --metric ndcg@10 --svg ndcg.svg
  twotower compare runs/base runs/try --markdown >> notes.md
Runs of unlike protocols, users or events are not compared: that is an error
(exit code 4). A baseline that is the same in all runs stands there once.")]
pub struct Opts {
    /// Runs, by their folders or their metrics files.
    #[arg(required = true, num_args = 1.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// A metric to show, such as recall@20; may be given several times. Without it, those that fit the screen.
    #[arg(long, value_name = "METRIC")]
    metric: Vec<String>,
    /// Draw a metric by the length of lists, for every run and baseline: that of the first --metric, or recall.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print all values of the metrics as CSV: run, model, metric, value.
    #[arg(long)]
    csv: bool,
    /// Print a Markdown table.
    #[arg(long)]
    markdown: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    let runs = compared("compare", &opts.runs)?;
    let known = models(&runs, &MODELS.map(|(model, _)| model));
    let there: BTreeSet<&str> = known.iter().flat_map(|row| row.values.keys().map(String::as_str)).collect();
    if let Some(unknown) = opts.metric.iter().find(|metric| !there.contains(metric.as_str())) {
        let there: Vec<&str> = there.into_iter().collect();
        return Err(PipelineError::usage(format!(
            "--metric {unknown}: the runs have no such metric; they have {}",
            there.join(", ")
        ))
        .into());
    }
    let rows: Vec<Named> = known.iter().map(|row| (label(&runs, row), row.values)).collect();
    if let Some(path) = &opts.svg {
        let metric = opts.metric.first().and_then(|name| name.split_once('@')).map_or("recall", |(name, _)| name);
        publish_bytes(path, svg(metric, &curves(metric, &runs, &known))?.as_bytes())?;
    }
    if opts.json {
        say_json(&object(&opts, &runs));
    } else if opts.csv {
        say!("run,model,metric,value");
        for row in &known {
            let run = row.run.map_or("", |at| &runs[at].name);
            for (metric, value) in shown(&opts, row.values) {
                say!("{},{},{metric},{value}", csv_cell(run), row.model);
            }
        }
    } else {
        let names = match opts.metric.is_empty() {
            true => fitting(&rows, &cut_offs_of(&runs)),
            false => opts.metric.clone(),
        };
        if opts.markdown {
            say_lines(markdown(&rows, &names));
        } else {
            say_lines(text(&runs, &rows, &names));
        }
    }
    Ok(())
}

/// The longest name of a run in a table.
const NAME: usize = 24;

/// What a row is called: the run's model by the run's name, and a baseline by its own.
fn label(runs: &[ComparedRun], row: &ComparedModel) -> String {
    match (row.run, row.model) {
        (Some(run), "model") => clipped(&runs[run].name, NAME),
        (Some(run), baseline) => format!("{}: {}", clipped(&runs[run].name, NAME), said(baseline)),
        (None, baseline) => said(baseline).to_string(),
    }
}

/// The cut-offs of all runs, ascending.
fn cut_offs_of(runs: &[ComparedRun]) -> Vec<usize> {
    runs.iter().flat_map(|run| cut_offs(&run.metrics)).collect::<BTreeSet<usize>>().into_iter().collect()
}

/// The values that are asked for: all, where no metric is.
fn shown<'a>(opts: &'a Opts, values: &'a BTreeMap<String, f64>) -> impl Iterator<Item = (&'a String, &'a f64)> {
    values.iter().filter(|(name, _)| opts.metric.is_empty() || opts.metric.contains(name))
}

/// What is compared, the table, and, for what comes after the first run, how its model differs from that one's.
fn text(runs: &[ComparedRun], rows: &[Named], names: &[String]) -> Vec<String> {
    let first = &runs[0].metrics;
    let title = format!("{} ({} users, {} items)", first.protocol, first.users, first.items);
    let mut lines = wrapped("", &title);
    lines.extend(table_of(rows, names));
    let models: Vec<&Named> = rows.iter().take(runs.len()).collect();
    if let [base, others @ ..] = &models[..]
        && !others.is_empty()
        && runs.iter().all(|run| run.metrics.models.contains_key("model"))
    {
        let difference = |other: &Named, name: &String| match (other.1.get(name), base.1.get(name)) {
            (Some(value), Some(base)) => format!("{:+.4}", value - base),
            _ => "-".to_string(),
        };
        let head = format!("minus {}", base.0);
        let header: Vec<&str> = std::iter::once(head.as_str()).chain(names.iter().map(String::as_str)).collect();
        let cells = |other: &&&Named| {
            let values = names.iter().map(|name| difference(other, name));
            std::iter::once(other.0.clone()).chain(values).collect::<Vec<String>>()
        };
        lines.push(String::new());
        lines.extend(table(&header, &others.iter().map(|other| cells(&other)).collect::<Vec<_>>()));
    }
    lines
}

/// The table as Markdown has it.
fn markdown(rows: &[Named], names: &[String]) -> Vec<String> {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let head = std::iter::once(String::new()).chain(names.iter().cloned());
    let rule = std::iter::once("---".to_string()).chain(names.iter().map(|_| "---:".to_string()));
    let row = |(label, values): &Named| {
        let value = |name: &String| values.get(name).map_or("-".to_string(), |value| format!("{value:.4}"));
        line(std::iter::once(label.replace('|', "\\|")).chain(names.iter().map(value)).collect())
    };
    [line(head.collect()), line(rule.collect())].into_iter().chain(rows.iter().map(row)).collect()
}

/// A cell of CSV: in quotes where it has to be.
fn csv_cell(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

/// All that was compared.
fn object(opts: &Opts, runs: &[ComparedRun]) -> serde_json::Value {
    let first = &runs[0].metrics;
    let of_run = |run: &ComparedRun| {
        let values = |values| shown(opts, values).collect::<BTreeMap<_, _>>();
        let models: BTreeMap<_, _> = run.metrics.models.iter().map(|(model, of)| (model, values(of))).collect();
        json!({ "run": run.name, "file": run.file, "models": models, "left_out": run.metrics.left_out })
    };
    json!({
        "protocol": first.protocol,
        "users": first.users,
        "items": first.items,
        "runs": runs.iter().map(of_run).collect::<Vec<_>>(),
        "svg": opts.svg,
    })
}

/// A curve for each row: the values of a measure by the length of lists.
fn curves(measure: &str, runs: &[ComparedRun], rows: &[ComparedModel]) -> Vec<Curve> {
    let ks = cut_offs_of(runs);
    let curve = |row: &ComparedModel| Curve {
        name: label(runs, row),
        points: ks.iter().filter_map(|k| Some((*k, *row.values.get(&format!("{measure}@{k}"))?))).collect(),
        is_baseline: row.model != "model",
    };
    rows.iter().map(curve).filter(|curve| !curve.points.is_empty()).collect()
}
