//! The gates on a run as a whole: `rows`, `items`, `vectors`, `index` and `metric`.

use super::verdict::{Measure, Measures};
use super::{NO_PREVIOUS, Night};
use crate::config::Ranking;
use crate::stages::evaluate::MetricsFile;

/// Users in the results: all of the table's that are not in quarantine, and about as many as the previous run's.
pub fn rows(night: &Night<'_>) -> Measures {
    let (config, now) = (&night.config.gates, night.now);
    let users = now.users.saturating_sub(now.quarantined) as f64;
    let less = match now.quarantined {
        0 => String::new(),
        n => format!(" less {n} in quarantine"),
    };
    let mut measures = Measures::default();
    measures.measured.push(Measure {
        what: format!("users recalled, of {} in the table{less}:", now.users),
        value: now.recalled as f64,
        at_least: Some(users),
        at_most: Some(users),
    });
    match night.before {
        Some(before) => measures.measured.push(Measure {
            what: format!("users over those of run `{}`", before.name()),
            value: now.recalled as f64 / before.recalled as f64,
            at_least: Some(config.min_rows),
            at_most: Some(config.max_rows),
        }),
        None => measures.notes.push(NO_PREVIOUS.into()),
    }
    measures
}

/// Whether there are items that can be recalled, and about as many items as in the previous run.
pub fn items(night: &Night<'_>) -> Measures {
    let (config, now) = (&night.config.gates, night.now);
    let mut measures = Measures::default();
    measures.measured.push(Measure::at_least("items that can be recalled", now.eligible as f64, 1.0));
    match night.before {
        Some(before) => {
            let run = before.name();
            measures.measured.push(Measure {
                what: format!("items over those of run `{run}`"),
                value: now.items() as f64 / before.items() as f64,
                at_least: Some(config.min_items),
                at_most: Some(config.max_items),
            });
            measures.measured.push(Measure::at_least(
                format!("items that can be recalled over those of run `{run}`"),
                now.eligible as f64 / before.eligible as f64,
                config.min_items,
            ));
        }
        None => measures.notes.push(NO_PREVIOUS.into()),
    }
    measures
}

/// Vectors without a direction. `infer` and a fused `recall` look at each when it is made and stop at the first,
/// so none can be left when a run comes this far.
pub fn vectors(night: &Night<'_>) -> Measures {
    let made: Vec<String> = night.now.vectors.iter().map(|(side, n)| format!("{n} of {side}s")).collect();
    Measures {
        measured: vec![Measure::at_most("vectors that are zero or not finite", 0.0, 0.0)],
        notes: vec![format!("each was looked at when it was made: {}", made.join(", "))],
        advice: None,
    }
}

/// Recall of an approximate index.
pub fn index(night: &Night<'_>) -> Measures {
    match night.now.index.recall {
        Some(recall) => {
            let limit = night.config.index.min_index_recall;
            let (what, notes) = match &night.now.index.measured {
                Some(users) => (format!("recall@{} against exact search", users.k), vec![users.to_string()]),
                None => {
                    ("recall@50 against exact search".into(), vec!["of queries made from items, not of users".into()])
                }
            };
            Measures { measured: vec![Measure::at_least(what, recall, limit)], notes, ..Measures::default() }
        }
        None => Measures::none("exact search misses nothing"),
    }
}

/// Recall of held-out items, at the smallest cut-off of the job.
pub fn metric(night: &Night<'_>) -> Measures {
    let config = &night.config.gates;
    let Some(metrics) = &night.now.metrics else {
        return Measures::none("nothing was measured: the run took its towers from an earlier one");
    };
    let k = night.config.evaluate.k.iter().copied().min().unwrap_or(1);
    let name = format!("recall@{k}");
    let of = |metrics: &MetricsFile, model: &str| metrics.models.get(model)?.get(&name).copied();
    let Some(value) = of(metrics, "model") else { return Measures::none(format!("the metrics have no {name}")) };
    let mut measures = Measures::default();
    let ranked = match night.config.evaluate.ranking {
        Ranking::Full => metrics.items,
        Ranking::Sampled | Ranking::SampledPaper => Ranking::NEGATIVES + 1,
    };
    let random = (k as f64 / ranked as f64).min(1.0);
    measures.measured.push(Measure::at_least(format!("{name}, against a random ranking's:"), value, random));
    if let Some(popularity) = of(metrics, "popularity") {
        let limit = config.min_metric_of_popularity * popularity;
        measures.measured.push(Measure::at_least(
            format!("{name}, against popularity's {popularity:.4}:"),
            value,
            limit,
        ));
    }
    match night.before.map(|before| (before.name(), &before.metrics)) {
        Some((run, Some(before))) if before.protocol == metrics.protocol => match of(before, "model") {
            Some(earlier) => measures.measured.push(Measure::at_least(
                format!("{name}, against run `{run}`'s {earlier:.4}:"),
                value,
                config.min_metric_kept * earlier,
            )),
            None => measures.notes.push(format!("run `{run}` has no {name}")),
        },
        Some((run, Some(_))) => measures.notes.push(format!("run `{run}` was measured by another protocol")),
        Some((run, None)) => measures.notes.push(format!("run `{run}` was not measured")),
        None => measures.notes.push(NO_PREVIOUS.into()),
    }
    measures
}
