//! The ranges of all numbers of a job: one that has none here is refused, so that none can be forgotten.

use crate::error::ConfigError;
use serde::Serialize;
use twotower_artifacts::Intervals;
use twotower_artifacts::range::{self, Range, Ranges, range_of};
use twotower_index::IndexConfig;
use twotower_models::dssm::DssmConfig;
use twotower_models::lightgcn::LightgcnConfig;
use twotower_models::sasrec::SasrecConfig;
use twotower_models::train::TrainConfig;
use twotower_tables::StoreSettings;

/// The most rows, users or items that a setting may name: counts of a table are exact up to here in JSON too.
const ROWS: i64 = 1 << 53;

/// A limit of a gate that is a share of something that may grow.
const FACTOR: Range = Range::Real(0.0, 1e6);

/// The ranges of each section. Settings of features are those of all kinds, for both sides.
const SECTIONS: [(&str, Ranges); 14] = [
    (
        "tables.interactions",
        &[("earliest", Range::Whole(i64::MIN, i64::MAX)), ("latest", Range::Whole(i64::MIN, i64::MAX))],
    ),
    (
        "features.*",
        &[
            ("min_count", Range::Whole(1, ROWS)),
            ("max_size", Range::Whole(1, 1 << 31)),
            // As many as a tower can pool.
            ("max_len", Range::Whole(1, 1 << 14)),
            ("span", Range::Whole(1, Intervals::MAX_SPAN as i64)),
            ("buckets", Range::Whole(1, 1 << 31)),
            ("dim", Range::Whole(1, 1 << 16)),
            ("seed", Range::SEED),
        ],
    ),
    ("encode", &[("max_bad_rows", Range::SHARE), ("max_unreadable", Range::SHARE)]),
    (
        "split",
        &[
            ("validation_from", Range::Whole(i64::MIN, i64::MAX)),
            ("test_from", Range::Whole(i64::MIN, i64::MAX)),
            ("validation", Range::Below(0.0, 1.0)),
            ("test", Range::Below(0.0, 1.0)),
            ("items", Range::Below(0.0, 1.0)),
            ("seed", Range::SEED),
        ],
    ),
    ("model", DssmConfig::RANGES),
    ("model", SasrecConfig::RANGES),
    ("model", LightgcnConfig::RANGES),
    ("train", TrainConfig::RANGES),
    ("infer", &[("batch_rows", Range::Whole(1, 1 << 20)), ("workers", Range::Whole(0, 1024))]),
    ("index", IndexConfig::RANGES),
    ("recall", &[("topk", Range::Whole(1, 1_000_000))]),
    ("run", &[("part_users", Range::Whole(0, ROWS))]),
    ("store", StoreSettings::RANGES),
    (
        "evaluate",
        &[
            ("k", Range::Whole(1, 1_000_000)),
            ("max_users", Range::Whole(0, ROWS)),
            ("seed", Range::SEED),
            ("item_cf_neighbours", Range::Whole(1, 1_000_000)),
            ("ease_lambda", Range::Above(0.0, 1e9)),
            // As many take 64 GiB.
            ("ease_max_items", Range::Whole(0, 1 << 16)),
        ],
    ),
];

/// The ranges of the gates' limits.
const GATES: Ranges = &[
    ("min_rows", Range::SHARE),
    // Below 1, a night like the one before would fail; so with `max_items`.
    ("max_rows", Range::Real(1.0, 1e6)),
    ("min_items", Range::SHARE),
    ("max_items", Range::Real(1.0, 1e6)),
    ("min_matched", Range::SHARE),
    ("strangers_margin", Range::SHARE),
    ("min_history", Range::SHARE),
    ("min_pairs_kept", Range::SHARE),
    ("max_still_days", Range::Real(0.0, 36_500.0)),
    ("min_exclusions", Range::SHARE),
    ("max_unknown", Range::SHARE),
    ("unknown_margin", Range::SHARE),
    ("missing_margin", Range::SHARE),
    ("drift_margin", Range::SHARE),
    ("min_distinct", Range::Whole(0, ROWS)),
    ("min_distinct_kept", Range::SHARE),
    ("max_alike", Range::SHARE),
    ("min_filled", Range::SHARE),
    ("min_coverage", Range::SHARE),
    ("min_coverage_kept", Range::SHARE),
    ("min_shared_users", Range::SHARE),
    ("min_overlap", Range::SHARE),
    ("min_metric_kept", Range::SHARE),
    ("min_metric_of_popularity", FACTOR),
];

/// The range of the setting at `path`, such as `train`, `epochs`; none for one that is no known number.
pub fn of_setting(path: &[String]) -> Option<Range> {
    let sections = SECTIONS.iter().chain([&("gates", GATES)]);
    sections.copied().find_map(|(section, ranges)| {
        let depth = section.split('.').count();
        let inside = path.len() > depth && section.split('.').zip(path).all(|(part, name)| part == "*" || part == name);
        inside.then(|| range_of(&path[depth..], ranges)).flatten()
    })
}

/// Checks the numbers of a job's file before it is read as one: those that are out of range by type, such as -1, are
/// named as well. What is no setting is left to who reads the file.
///
/// # Errors
/// [`ConfigError::Usage`] naming the setting, its value and its range.
pub fn check_typed(table: &toml::Table) -> Result<(), ConfigError> {
    let everything = Range::Real(f64::NEG_INFINITY, f64::INFINITY);
    check(table, |path| of_setting(path).or(Some(everything)))
}

/// Checks all numbers of a job as it will be obeyed.
///
/// # Errors
/// As [`check_typed`]; also for a number without a range, which is a fault of this program.
pub fn check_all(job: &impl Serialize) -> Result<(), ConfigError> {
    check(job, of_setting)
}

fn check(settings: &impl Serialize, of: impl Fn(&[String]) -> Option<Range>) -> Result<(), ConfigError> {
    range::check_by(settings, of).map_err(|error| ConfigError::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use std::collections::BTreeSet;
    use twotower_artifacts::range::numbers;

    /// The tables of all jobs; the rest of a job begins with further keys of the last one.
    const TABLES: &str = r#"
[tables.users]
path = "users"
id = "user_id"
[tables.items]
path = "items"
id = "item_id"
[tables.interactions]
path = "orders"
user = "user_id"
item = "item_id"
"#;

    /// A job that writes settings which have no number by default; `LOSS` and `SPLIT` have several forms.
    const JOB: &str = r#"
timestamp = "ts"
earliest = 0
latest = 2000000000
[[features.user]]
kind = "categorical"
name = "city"
min_count = 2
max_size = 100
[[features.user]]
kind = "multi_valued"
name = "tags"
max_len = 8
[[features.user]]
kind = "hashed"
name = "device"
buckets = 100
seed = 3
[[features.user]]
kind = "vector"
name = "taste"
dim = 8
[[features.user]]
kind = "numeric"
name = "age"
transform = "quantile_buckets"
buckets = 10
[[features.item]]
kind = "id"
name = "item"
[model]
kind = "dssm"
embedding_dims = { city = 4 }
pooling = "attention"
attention = { blocks = 1, norm = "pre", block = "ligr", feed_forward_multiple = 2, hyper_connections = { streams = 2 } }
[index]
ef_search = 100
[split]
SPLIT
[train]
loss = LOSS
"#;

    const TISASREC: &str = r#"
timestamp = "ts"
[[features.user]]
kind = "sequence"
name = "recent"
intervals = "hour"
span = 100
[[features.item]]
kind = "id"
name = "item"
[model]
kind = "tisasrec"
norm = "pre"
block = "ligr"
feed_forward_multiple = 2
hyper_connections = { streams = 2 }
contrast = { crop = 0.6, mask = 0.5, reorder = 0.2, replace = 0.2 }
[train]
schedule = { step = { every = 5, factor = 0.5 } }
"#;

    const LIGHTGCN: &str = r#"
[[features.user]]
kind = "id"
name = "user"
[[features.item]]
kind = "id"
name = "item"
[[features.item]]
kind = "vector"
name = "text"
dim = 16
[model]
kind = "lightgcn"
views = VIEWS
ncl = { hops = 1 }
text = { mode = "residual", share = 0.8, share_step = 0.02 }
transport = { layer = 2 }
"#;

    fn jobs() -> Vec<toml::Value> {
        let parsed = |job: &str| toml::from_str(&format!("{TABLES}{job}")).unwrap();
        let losses = [
            "{ mixed = { uniform = 5 } }",
            "{ bce = { negatives = 5 } }",
            "{ bpr = { negatives = 5 } }",
            "{ gbce = { negatives = 5 } }",
            "{ sampled_softmax = { negatives = 5 } }",
        ];
        let splits = [
            "kind = \"time\"\nvalidation_from = 1\ntest_from = 2",
            "kind = \"ratio\"",
            "kind = \"random\"",
            "kind = \"cold_items\"",
        ];
        let splits = splits.into_iter().cycle();
        let views = ["{ kind = \"xsimgcl\" }", "{ kind = \"sgl\" }"];
        let graphs = views.map(|views| parsed(&LIGHTGCN.replace("VIEWS", views)));
        let job = |(loss, split)| parsed(&JOB.replace("LOSS", loss).replace("SPLIT", split));
        losses.into_iter().zip(splits).map(job).chain([parsed(TISASREC)]).chain(graphs).collect()
    }

    /// A job's file with defaults written out, as it is read.
    fn load(job: &toml::Value) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.toml");
        std::fs::write(&path, toml::to_string(job).unwrap()).unwrap();
        Config::load(&path, &[])
    }

    /// Puts a value at a path; in a list of tables, into the first that has the name, or else into the first.
    fn put(at: &mut toml::Value, path: &[String], value: &toml::Value) {
        match (at, path) {
            (toml::Value::Array(rows), _) => {
                let at = rows.iter().position(|row| row.get(&path[0]).is_some()).unwrap_or(0);
                put(&mut rows[at], path, value);
            }
            (toml::Value::Table(table), [name]) => {
                let is_list = matches!(table.get(name), Some(toml::Value::Array(_)));
                let value = if is_list { toml::Value::Array(vec![value.clone()]) } else { value.clone() };
                table.insert(name.clone(), value);
            }
            (toml::Value::Table(table), _) => {
                let next = table.entry(path[0].clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                put(next, &path[1..], value);
            }
            (other, _) => panic!("{other} has no {path:?}"),
        }
    }

    /// Values that a range does not hold: beyond its ends, and of no size at all.
    fn beyond(range: Range) -> Vec<toml::Value> {
        let reals = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(toml::Value::Float);
        let whole = |n: Option<i64>| n.map(toml::Value::Integer);
        let ends = match range {
            Range::Whole(least, most) => vec![
                whole(least.checked_sub(1)),
                whole(most.checked_add(1)),
                whole(least.checked_add(1)).map(|n| toml::Value::Float(n.as_integer().unwrap() as f64 + 0.5)),
            ],
            Range::Real(least, most) => {
                [least - 1e-3, most * 1.001 + 1e-3].map(|x| Some(toml::Value::Float(x))).to_vec()
            }
            Range::Below(least, end) => [least - 1e-3, end].map(|x| Some(toml::Value::Float(x))).to_vec(),
            Range::Above(end, most) => [end, most * 1.001].map(|x| Some(toml::Value::Float(x))).to_vec(),
        };
        ends.into_iter().flatten().chain(reals).collect()
    }

    #[test]
    fn every_number_of_a_job_has_a_range_and_is_refused_outside_of_it_by_name_value_and_range() {
        let mut seen = BTreeSet::new();
        for job in jobs() {
            let config = load(&job).unwrap();
            // As it is obeyed, with all defaults.
            for (path, _) in numbers(&config) {
                let range = of_setting(&path).unwrap_or_else(|| panic!("`{}` has no range", path.join(".")));
                if !seen.insert(path.clone()) {
                    continue;
                }
                for value in beyond(range) {
                    let mut absurd = job.clone();
                    put(&mut absurd, &path, &value);
                    let error = load(&absurd).expect_err(&format!("{} = {value}", path.join(".")));
                    let (said, name) = (error.to_string(), path.join("."));
                    assert!(
                        said.contains(&format!("`{name}` = ")) && said.contains(&range.to_string()),
                        "{value}: {said}"
                    );
                    assert_eq!(error.category().exit_code(), 2);
                }
            }
        }
        // And every range is one of a setting that there is.
        let sections = SECTIONS.iter().chain([&("gates", GATES)]);
        for (section, ranges) in sections.copied() {
            for (name, _) in ranges {
                let named = format!("{section}.{name}").replace(".*", ".");
                let found = seen.iter().any(|path| {
                    path.join(".").starts_with(&named) || {
                        let feature = path.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, part)| part.as_str());
                        section == "features.*" && feature.collect::<Vec<_>>() == ["features", name]
                    }
                });
                assert!(found, "no setting has the range of `{named}`");
            }
        }
    }

    #[test]
    fn the_documentation_states_every_range() {
        let stated = include_str!("../../docs/CONFIG.md");
        let sections = SECTIONS.iter().chain([&("gates", GATES)]).copied();
        let lines = sections.flat_map(|(section, ranges)| {
            ranges.iter().map(move |(name, range)| format!("| `{section}.{name}` | {range} |"))
        });
        let missing: Vec<String> = lines.filter(|line| !stated.contains(line)).collect();
        assert!(missing.is_empty(), "docs/CONFIG.md lacks\n{}", missing.join("\n"));
    }

    #[test]
    fn numbers_that_no_setting_can_hold_are_named_too() {
        for (text, says) in [
            ("epochs = -1", "`train.epochs` = -1: expected a whole number from 1"),
            ("epochs = 1.5", "`train.epochs` = 1.5: expected a whole number"),
            ("learning_rate = nan", "`train.learning_rate` = NaN: expected a number above 0"),
            ("clip_norm = -inf", "`train.clip_norm` = -inf: expected"),
            ("seed = -3", "`train.seed` = -3: expected"),
            ("epochs = 99999999999999999999", "99999999999999999999"),
        ] {
            let text = JOB.replace("SPLIT", "").replace("loss = LOSS", text);
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("p.toml"), text).unwrap();
            let error = Config::load(&dir.path().join("p.toml"), &[]).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
