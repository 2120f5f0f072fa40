//! What a run ends with, as people read it.

use super::report::{COLUMNS, clipped, command_lines, for_shell, left, say_lines, table, wrapped};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use twotower_pipeline::results::advice::{MEASURES, cut_offs};
use twotower_pipeline::results::summary::Summary;
use twotower_pipeline::results::{ListedItem, ShownUser};
use twotower_pipeline::stages::evaluate::MetricsFile;
use unicode_width::UnicodeWidthStr;

/// Models in the order in which they are shown, with what they are called.
pub const MODELS: [(&str, &str); 5] = [
    ("model", "model"),
    ("popularity", "popularity"),
    ("item_to_item", "item to item"),
    ("item_cf", "item CF"),
    ("ease", "EASE"),
];

/// What a model of the metrics is called.
pub fn said(model: &str) -> &str {
    MODELS.iter().find(|(name, _)| *name == model).map_or(model, |(_, said)| said)
}

/// What a row of metrics is called, and its metrics by their names.
pub type Named<'a> = (String, &'a BTreeMap<String, f64>);

/// Prints the summary of the run in a folder.
pub fn print(summary: &Summary, run: &Path) {
    say!("");
    let shown = summary.metrics.as_ref().map(shown_metrics).unwrap_or_default();
    match &summary.metrics {
        Some(metrics) => {
            say_lines(wrapped("", &format!("Held-out interactions of {} users: {}", metrics.users, metrics.protocol)));
            say_lines(table_of(&rows(metrics), &shown));
            say_lines(left_out(metrics));
            say_lines(overlap(metrics));
        }
        None => say!("Nothing was measured: the towers are those of an earlier run."),
    }
    for winner in &summary.winners {
        let (name, at) = (said(&winner.baseline), of_table(&winner.at, &shown).join(", "));
        say_lines(wrapped("", &format!("Warning: {name} is better than the model at {at}.")));
    }
    if !summary.advice.is_empty() {
        say!("What to try, with --no-publish until one is better:");
        for advice in &summary.advice {
            say_lines(wrapped("  - ", &format!("{}:", advice.what)));
            advice.copy.iter().for_each(|words| say_lines(command_lines(words)));
        }
    }
    if !summary.users.is_empty() {
        say!("");
        let scored = summary.users.iter().flat_map(|user| &user.items).any(|item| item.score.is_some());
        let what = if scored { "inner product" } else { "cosine similarity" };
        say!("Some users, their newest items, and the best they get ({what}):");
        summary.users.iter().for_each(|user| say_lines(user_lines(user)));
    }
    say!("");
    let files = if summary.files == 1 { "1 file".to_string() } else { format!("{} files", summary.files) };
    say!("Results: {} ({files})", summary.results.display());
    if let Some(open) = &summary.open {
        say!("  {open}");
    }
    if let Some(user) = summary.users.first() {
        let [run, user] = [run.display().to_string(), id_text(&user.user)].map(|word| for_shell(&word));
        say!("  twotower lookup {run} --user {user}");
    }
}

/// The model and the baselines of a metrics file.
fn rows(metrics: &MetricsFile) -> Vec<Named<'_>> {
    let row = |(model, said): &(&str, &str)| Some((said.to_string(), metrics.models.get(*model)?));
    MODELS.iter().filter_map(row).collect()
}

/// The metrics that fit the screen.
fn shown_metrics(metrics: &MetricsFile) -> Vec<String> {
    fitting(&rows(metrics), &cut_offs(metrics))
}

/// Baselines that the job asked for and that were left out, with the reason.
pub fn left_out(metrics: &MetricsFile) -> Vec<String> {
    let told = |(model, reason): (&String, &String)| wrapped("", &format!("{} is left out: {reason}", said(model)));
    metrics.left_out.iter().flat_map(told).collect()
}

/// Of a model of inner products, how much of its lists is as by cosine.
pub fn overlap(metrics: &MetricsFile) -> Vec<String> {
    let at = |k| Some(format!("{:.4} at {k}", metrics.overlap_with_cosine.get(&format!("overlap@{k}"))?));
    let shares: Vec<String> = cut_offs(metrics).into_iter().filter_map(at).collect();
    match shares.is_empty() {
        true => Vec::new(),
        false => wrapped(
            "",
            &format!("The model ranks by inner product; share of the same items by cosine: {}", shares.join(", ")),
        ),
    }
}

/// The metrics of a table that fits the screen: those of the smallest cut-off, and of as many others as there is room for.
pub fn fitting(rows: &[Named], cut_offs: &[usize]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for k in cut_offs {
        let wider: Vec<String> = names.iter().cloned().chain(MEASURES.map(|m| format!("{m}@{k}"))).collect();
        if !names.is_empty() && table_of(rows, &wider).iter().any(|line| line.width() > COLUMNS) {
            break;
        }
        names = wider;
    }
    names
}

/// Of some metrics those that a table shows; all of them where it shows none.
fn of_table<'a>(metrics: &'a [String], shown: &[String]) -> Vec<&'a str> {
    let there: Vec<&str> = metrics.iter().filter(|name| shown.contains(name)).map(String::as_str).collect();
    if there.is_empty() { metrics.iter().map(String::as_str).collect() } else { there }
}

/// Rows of metrics under their names.
pub fn table_of(rows: &[Named], names: &[String]) -> Vec<String> {
    let header: Vec<&str> = std::iter::once("").chain(names.iter().map(String::as_str)).collect();
    let row = |(label, values): &Named| {
        let value = |name: &String| values.get(name).map_or("-".to_string(), |value| format!("{value:.4}"));
        std::iter::once(label.clone()).chain(names.iter().map(value)).collect::<Vec<String>>()
    };
    table(&header, &rows.iter().map(row).collect::<Vec<_>>())
}

/// An id as people write it.
pub fn id_text(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_string)
}

/// A user with what he had and what he gets.
pub fn user_lines(user: &ShownUser) -> Vec<String> {
    let had = user.history.iter().map(|past| {
        // The day is enough.
        let when = past.time.as_str().map_or_else(
            || if past.time.is_null() { String::new() } else { past.time.to_string() },
            |time| time.split('T').next().unwrap_or_default().to_string(),
        );
        ["had".to_string(), when, id_text(&past.item), past.title.clone().unwrap_or_default()]
    });
    let rows: Vec<[String; 4]> = had.chain(user.items.iter().map(|item| listed("gets", item))).collect();
    let events = match user.events {
        1 => "1 event".to_string(),
        events => format!("{events} events"),
    };
    let head = clipped(&format!("user {} ({events})", id_text(&user.user)), COLUMNS);
    std::iter::once(head).chain(aligned(&rows)).collect()
}

/// The cells of an item of a list. What it is ranked by stands there: the inner product for a model of these.
pub fn listed(what: &str, item: &ListedItem) -> [String; 4] {
    let similarity = format!("{:+.4}", item.score.unwrap_or(item.cosine_similarity));
    [what.to_string(), similarity, id_text(&item.item), item.title.clone().unwrap_or_default()]
}

/// Rows of cells below each other; the last is cut where the screen ends.
pub fn aligned(rows: &[[String; 4]]) -> Vec<String> {
    let width = |c: usize| rows.iter().map(|row| clipped(&row[c], COLUMNS / 2).width()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |row: &[String; 4]| {
        let cells = widths.iter().enumerate().map(|(c, width)| left(&clipped(&row[c], COLUMNS / 2), *width));
        let begin = format!("  {}", cells.collect::<Vec<_>>().join("  "));
        let rest = COLUMNS.saturating_sub(begin.width() + 2);
        format!("{begin}  {}", clipped(&row[3], rest)).trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_that_is_better_is_told_by_the_metrics_of_the_table() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let shown = names(&["recall@10", "ndcg@10", "recall@50"]);
        assert_eq!(of_table(&names(&["recall@10", "recall@100", "ndcg@100"]), &shown), ["recall@10"]);
        // What wins nowhere else is told all the same.
        assert_eq!(of_table(&names(&["recall@100"]), &shown), ["recall@100"]);
    }

    #[test]
    fn lists_align_whatever_the_script_and_fit_the_screen() {
        let long = "a title that goes on and on ".repeat(4);
        let rows = [["had", "2023-11-15", "北京", "套餐"], ["gets", "+0.8123", "A-1", &long]];
        let lines = aligned(&rows.map(|row| row.map(String::from)));
        assert_eq!(lines[0], "  had   2023-11-15  北京  套餐");
        assert!(lines[1].starts_with("  gets  +0.8123     A-1   a title that") && lines[1].ends_with('…'), "{lines:?}");
        assert!(lines.iter().all(|line| line.width() <= COLUMNS), "{lines:?}");
    }
}
