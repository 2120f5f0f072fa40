//! A report as one HTML page.

use super::charts::{Axes, Chart, Line, SERIES, columns, lines, short, small_columns};
use super::words::{Lang, Words};
use super::{Report, main_metric, ruling, said};
use crate::error::PipelineError;
use crate::results::advice::{cut_offs, winners};
use crate::stages::gates::verdict::{Measure, Ruling};
use crate::watch::terminal::escape_line;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::Serialize;
use std::collections::BTreeMap;

const TEMPLATE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
/// The models in the order in which they are shown.
const MODELS: [&str; 5] = ["model", "popularity", "item_to_item", "item_cf", "ease"];
/// Measures that have a plot of their own.
const PLOTTED: [&str; 2] = ["recall", "ndcg"];

/// A table of figures, as it stands below a plot.
#[derive(Debug, Serialize)]
struct Figures {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A plot with its title and its figures.
#[derive(Debug, Serialize)]
struct Plot {
    title: String,
    chart: Chart,
    figures: Figures,
}

/// The page.
pub(super) fn html(report: &Report, lang: Lang) -> Result<String, PipelineError> {
    let t = lang.words();
    let metrics = report.metrics.as_ref();
    let cut_offs = metrics.map(cut_offs).unwrap_or_default();
    let main = metrics.and_then(main_metric);
    let value = |model: &str| metrics?.models.get(model)?.get(main.as_ref()?).copied();
    let small: Vec<String> = match &report.data {
        Some(data) => {
            data.features.iter().map(|feature| distribution(&feature.distribution)).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    let gates: Vec<Value> = report
        .gates
        .iter()
        .flat_map(|gates| &gates.verdicts)
        .map(|verdict| {
            context! {
                name => lang.gate(verdict.gate), key => verdict.gate.name(), class => class(Some(verdict.ruling)),
                ruling => lang.ruling(verdict.ruling), notes => verdict.notes, advice => verdict.advice,
                measured => verdict.measured.iter().map(|measure| context! {
                    what => measure.what, value => four(measure.value), limits => limits(t, measure),
                }).collect::<Vec<_>>(),
            }
        })
        .collect();
    let models: Vec<Value> = rows_of_metrics(report, lang)
        .iter()
        .map(|(name, values)| {
            context! { name => name, values => values }
        })
        .collect();
    let shown: Vec<String> =
        cut_offs.iter().flat_map(|k| ["recall", "ndcg", "hit"].map(|m| format!("{m}@{k}"))).collect();
    let spread: Vec<String> =
        cut_offs.iter().flat_map(|k| ["coverage", "popularity"].map(|m| format!("{m}@{k}"))).collect();
    let verdict = ruling(report.gates.as_ref());
    let counted = |ruling: Ruling| report.gates.iter().flat_map(|g| &g.verdicts).filter(|v| v.ruling == ruling).count();
    let (verdict_name, verdict_text) = match verdict {
        Some(Ruling::Passed | Ruling::NotApplicable | Ruling::Off) => (t.passed, t.passed_text),
        Some(Ruling::Accepted) => (t.accepted, t.accepted_text),
        Some(Ruling::Failed) => (t.failed, t.failed_text),
        None => (t.unchecked, t.unchecked_text),
    };
    let night_rows: Vec<Value> = report.nights.iter().map(|night| context! {
        night => night, class => class(said(&night.info)), ruling => said(&night.info).map_or(t.unchecked, |r| lang.ruling(r)),
    }).collect();
    let won: Vec<Value> = metrics
        .map(winners)
        .unwrap_or_default()
        .into_iter()
        .map(|winner| {
            context! { name => lang.model(&winner.baseline), at => winner.at.join(", ") }
        })
        .collect();
    let times = match (value("model"), value("popularity")) {
        (Some(model), Some(popularity)) if popularity > 0.0 => Some(model / popularity),
        _ => None,
    };
    let context = context! {
        t, lang => lang.code(), r => report, style => Value::from_safe_string(STYLE.to_string()),
        verdict => context! {
            class => class(verdict), name => verdict_name, text => verdict_text, passed => counted(Ruling::Passed),
            of => counted(Ruling::Passed) + counted(Ruling::Failed) + counted(Ruling::Accepted),
        },
        main, model => value("model"), popularity => value("popularity"), times,
        seconds => report.stages.iter().map(|stage| stage.seconds).sum::<f64>(),
        longest => report.stages.iter().map(|stage| stage.seconds).fold(1e-9, f64::max),
        small => small.into_iter().map(Value::from_safe_string).collect::<Vec<_>>(),
        gates, models, shown, spread, won, night_rows,
        left_out => metrics.map(|m| &m.left_out).into_iter().flatten()
            .map(|(name, reason)| (lang.model(name), reason)).collect::<Vec<_>>(),
        training => training(report, t)?, quality => quality(report, lang)?, lists => lists_plots(report, t)?,
        nights => nights(report, t)?,
    };
    rendered(&context).map_err(|error| PipelineError::Data(format!("report: write the page: {error:#}")))
}

fn rendered(context: &Value) -> Result<String, minijinja::Error> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.add_filter("n", |count: u64| grouped(count));
    env.add_filter("four", four);
    env.add_filter("two", |x: f64| format!("{x:.2}"));
    env.add_filter("short", |x: f64| short(x));
    env.add_filter("percent", percent);
    env.add_filter("duration", duration);
    env.add_filter("svg", |svg: String| Value::from_safe_string(svg));
    // Characters that would steer or hide are written out, whatever the data holds.
    env.add_filter(
        "said",
        |value: &Value| {
            if value.is_none() { String::new() } else { escape_line(&value.to_string()).into_owned() }
        },
    );
    env.add_template("report.html", TEMPLATE)?;
    env.get_template("report.html")?.render(context)
}

/// The class of a ruling's colour.
fn class(ruling: Option<Ruling>) -> &'static str {
    match ruling {
        Some(Ruling::Passed) => "good",
        Some(Ruling::Failed) => "bad",
        Some(Ruling::Accepted) => "warn",
        Some(Ruling::NotApplicable | Ruling::Off) | None => "calm",
    }
}

/// Thousands apart.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    groups.join(",")
}

fn four(x: f64) -> String {
    match x.fract() == 0.0 && x.abs() < 1e15 {
        true if x.abs() >= 1000.0 => format!("{}{}", if x < 0.0 { "-" } else { "" }, grouped(x.abs() as u64)),
        true => format!("{x}"),
        false => format!("{x:.4}"),
    }
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0%".into(),
        little if little < 0.01 => "<0.01%".into(),
        some => format!("{some:.2}%"),
    }
}

/// Hours, minutes and seconds, as far as there are some.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

fn limits(t: &Words, measure: &Measure) -> String {
    match (measure.at_least, measure.at_most) {
        (Some(least), Some(most)) if least == most => format!("= {}", four(least)),
        (Some(least), Some(most)) => format!("{} – {}", four(least), four(most)),
        (Some(least), None) => format!("{} {}", t.at_least, four(least)),
        (None, Some(most)) => format!("{} {}", t.at_most, four(most)),
        (None, None) => String::new(),
    }
}

/// A feature's distribution in at most 32 columns.
fn distribution(classes: &[(f64, u64)]) -> Result<String, PipelineError> {
    const MOST: usize = 32;
    if classes.is_empty() {
        return Ok(String::new());
    }
    let each = classes.len().div_ceil(MOST);
    let counts: Vec<u64> = classes.chunks(each).map(|some| some.iter().map(|(_, count)| count).sum()).collect();
    small_columns(&counts)
}

/// The rows of the table of metrics: the model, the compared run's, and the baselines.
fn rows_of_metrics(report: &Report, lang: Lang) -> Vec<(String, BTreeMap<String, f64>)> {
    let mut rows = Vec::new();
    for name in MODELS {
        let of = |metrics: &crate::stages::evaluate::MetricsFile| metrics.models.get(name).cloned();
        rows.extend(report.metrics.as_ref().and_then(of).map(|values| (lang.model(name), values)));
        if name == "model" {
            let other = report.compared.as_ref().and_then(|other| Some((&other.run, of(&other.metrics)?)));
            rows.extend(other.map(|(run, values)| (format!("{}, {run}", lang.model(name)), values)));
        }
    }
    rows
}

/// Lines with their figures, by the first number.
fn plot(title: &str, axes: Axes<'_>, all: Vec<Line>) -> Result<Option<Plot>, PipelineError> {
    let Some(chart) = lines(axes, &all)? else { return Ok(None) };
    let mut places: Vec<f64> = all.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let cell = |line: &Line, x: f64| {
        line.points.iter().find(|(at, _)| *at == x).map_or_else(String::new, |(_, value)| four(*value))
    };
    let row = |x: &f64| std::iter::once(short(*x)).chain(all.iter().map(|line| cell(line, *x))).collect();
    let head = std::iter::once(axes.x.to_string()).chain(all.iter().map(|line| line.name.clone())).collect();
    Ok(Some(Plot {
        title: title.to_string(),
        chart,
        figures: Figures { head, rows: places.iter().map(row).collect() },
    }))
}

/// The losses by term, and the validation's metric.
fn training(report: &Report, t: &Words) -> Result<Vec<Plot>, PipelineError> {
    let Some(training) = &report.training else { return Ok(Vec::new()) };
    let mark = Some(training.best_epoch as f64);
    let by_epoch = |name: &str, of: &dyn Fn(&twotower_models::train::EpochReport) -> Option<f64>| Line {
        name: name.to_string(),
        points: training.epochs.iter().filter_map(|epoch| Some((epoch.epoch as f64, of(epoch)?))).collect(),
    };
    let mut terms: Vec<String> = Vec::new();
    for epoch in &training.epochs {
        for term in epoch.terms.0.iter() {
            if !terms.contains(&term.name) {
                terms.push(term.name.clone());
            }
        }
    }
    let mut losses = vec![by_epoch(t.loss, &|epoch| Some(epoch.loss))];
    // One term alone is the loss.
    if terms.len() > 1 {
        losses.extend(terms.iter().take(SERIES - 1).map(|name| {
            by_epoch(name, &|epoch| epoch.terms.0.iter().find(|term| term.name == *name).map(|term| term.value))
        }));
    }
    let validated = training.epochs.iter().find_map(|epoch| epoch.validation.as_ref());
    let mut names: Vec<String> = validated.into_iter().flat_map(|metrics| metrics.values.keys().cloned()).collect();
    names.retain(|name| PLOTTED.iter().any(|measure| name.strip_prefix(measure).is_some_and(|k| k.starts_with('@'))));
    names.sort_by_key(|name| {
        let (measure, k) = name.split_once('@').unwrap_or((name, ""));
        (PLOTTED.iter().position(|plotted| *plotted == measure), k.parse::<usize>().unwrap_or(0))
    });
    let metrics = names
        .iter()
        .take(SERIES)
        .map(|name| by_epoch(name, &|epoch| epoch.validation.as_ref()?.values.get(name).copied()));
    let plots = [
        plot(t.loss, Axes { x: t.epoch, y: t.loss, from_zero: false, mark }, losses)?,
        plot(t.validation, Axes { x: t.epoch, y: t.validation, from_zero: true, mark }, metrics.collect())?,
    ];
    Ok(plots.into_iter().flatten().collect())
}

/// Metrics by the length of lists.
fn quality(report: &Report, lang: Lang) -> Result<Vec<Plot>, PipelineError> {
    let Some(metrics) = &report.metrics else { return Ok(Vec::new()) };
    let (t, ks, rows) = (lang.words(), cut_offs(metrics), rows_of_metrics(report, lang));
    let mut plots = Vec::new();
    for measure in PLOTTED {
        let line = |(name, values): &(String, BTreeMap<String, f64>)| Line {
            name: escape_line(name).into_owned(),
            points: ks.iter().filter_map(|k| Some((*k as f64, *values.get(&format!("{measure}@{k}"))?))).collect(),
        };
        let (title, axes) = (format!("{measure}@k"), Axes { x: t.list_length, y: "", from_zero: true, mark: None });
        plots.extend(plot(&title, axes, rows.iter().map(line).collect())?);
    }
    Ok(plots)
}

/// The similarities of lists and their concentration.
fn lists_plots(report: &Report, t: &Words) -> Result<Vec<Plot>, PipelineError> {
    let Some(found) = &report.lists else { return Ok(Vec::new()) };
    let mut plots = Vec::new();
    if let Some(similar) = &found.similarities {
        let axes = Axes { x: t.similarity, y: t.pairs, from_zero: true, mark: None };
        if let Some(chart) = columns(axes, (similar.low, similar.high), &similar.counts)? {
            let width = (similar.high - similar.low) / similar.counts.len() as f64;
            let edge = |at: usize| format!("{:.3}", similar.low + width * at as f64);
            let row = |(at, count): (usize, &u64)| vec![format!("{} – {}", edge(at), edge(at + 1)), grouped(*count)];
            let figures = Figures {
                head: vec![t.part.to_string(), t.count.to_string()],
                rows: similar.counts.iter().enumerate().map(row).collect(),
            };
            plots.push(Plot { title: t.similarity.to_string(), chart, figures });
        }
    }
    let axes = Axes { x: t.share_of_items, y: t.share_of_places, from_zero: true, mark: None };
    let line = Line { name: t.share_of_places.to_string(), points: found.concentration.clone() };
    plots.extend(plot(t.concentration, axes, vec![line])?);
    Ok(plots)
}

/// The metric and the time of the nights.
fn nights(report: &Report, t: &Words) -> Result<Vec<Plot>, PipelineError> {
    let Some(metric) = report.nights.iter().find_map(|night| night.metric.clone()) else { return Ok(Vec::new()) };
    let by_night = |name: &str, of: &dyn Fn(&super::Night) -> Option<f64>| Line {
        name: name.to_string(),
        points: (1u32..).zip(&report.nights).filter_map(|(at, night)| Some((f64::from(at), of(night)?))).collect(),
    };
    let same = |night: &super::Night| night.metric.as_ref() == Some(&metric);
    let values = vec![
        by_night(&metric, &|night| night.model.filter(|_| same(night))),
        by_night(t.popularity, &|night| night.popularity.filter(|_| same(night))),
    ];
    let times = vec![by_night(t.seconds, &|night| Some(night.seconds))];
    let axes = |y| Axes { x: t.night, y, from_zero: true, mark: None };
    Ok([plot(&metric, axes(""), values)?, plot(t.time_of_night, axes(t.seconds), times)?]
        .into_iter()
        .flatten()
        .collect())
}
