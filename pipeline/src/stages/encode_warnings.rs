//! What a person should know about rows that were left out and about features that tell few rows apart.

use crate::rows::quarantine::BAD_ROWS;
use crate::run::files::encoders as files;
use crate::run::names::tables::INTERACTIONS;
use crate::timeline::interactions::{EventCounts, Strangers};
use std::collections::BTreeMap;
use twotower_artifacts::Side;
use twotower_encoders::{EncodeCounts, FeatureSpec, SideSpec, Variety};

/// The share of repeated events above which there is a warning.
const MANY_REPEATED: f64 = 0.01;

/// Logs and returns what a person should know about rows that were left out, by their counts in the manifest.
pub fn of_rows(rows: &BTreeMap<String, u64>, events: &EventCounts) -> Vec<String> {
    let count = |name: &str| rows.get(name).copied().unwrap_or_default();
    let mut warnings = Vec::new();
    for (table, bad) in BAD_ROWS {
        let (bad, all) = (count(bad), count(table));
        if bad > 0 {
            // By its name alone: a manifest is the same wherever its run stands.
            let place = files::QUARANTINE;
            warnings.push(format!("{bad} of {all} rows of {table} cannot be used: left out, see encoders/{place}"));
        }
    }
    let usable = events.rows;
    for (what, Strangers { rows, told }) in [("items", &events.unknown_items), ("users", &events.unknown_users)] {
        if *rows > 0 {
            let told = told.as_ref().map_or(String::new(), |told| format!("; {told}"));
            warnings.push(format!(
                "{rows} of {usable} {INTERACTIONS} name {what} that are not in the {what} table: left out{told}"
            ));
        }
    }
    let known = events.kept + events.repeated;
    if events.repeated as f64 > MANY_REPEATED * known as f64 {
        warnings.push(format!(
            "{} of {known} {INTERACTIONS} repeat the user, item and time of an earlier row: each event counts once; was a log delivered twice?",
            events.repeated
        ));
    }
    warnings.iter().for_each(|warning| tracing::warn!("encode-features: {warning}"));
    warnings
}

/// Logs and returns what a person should know about encoded rows of a side: values that could not be read, and features
/// that tell no two of its rows apart.
pub fn of_features(stage: &str, side: Side, spec: &SideSpec, counts: &EncodeCounts) -> Vec<String> {
    let mut warnings = Vec::new();
    let met = |feature: &FeatureSpec| counts.features.get(feature.name()).cloned().unwrap_or_default();
    for feature in &spec.features {
        let (name, c) = (feature.name(), met(feature));
        let column = feature.input(&spec.id_column).filter(|column| *column != name);
        let column = column.map_or(String::new(), |column| format!(" (column `{column}`)"));
        let kinds = [
            (c.not_finite, "not finite: taken as missing"),
            (c.junk, "unreadable"),
            (c.truncated, "beyond max_len: dropped"),
        ];
        for (n, what) in kinds.into_iter().filter(|(n, _)| *n > 0) {
            warnings.push(format!("{side} feature `{name}`{column}: {n} of {} values {what}", c.values));
        }
        if is_constant(&c.variety, counts) {
            let value = if c.missing == c.values { "no value" } else { "one value" };
            warnings.push(format!(
                "{side} feature `{name}`{column}: {value} in all {} rows: it tells no two {side}s apart",
                counts.rows
            ));
        }
    }
    let all = spec.features.iter().all(|feature| is_constant(&met(feature).variety, counts));
    if all && !spec.features.is_empty() {
        warnings.push(format!(
            "no feature tells {side}s apart: all {} get the same vector; look at the columns of the {side}s table, or add features",
            counts.rows
        ));
    }
    warnings.iter().for_each(|warning| tracing::warn!("{stage}: {warning}"));
    warnings
}

/// Whether rows, more than one, all became the same.
fn is_constant(variety: &Variety, counts: &EncodeCounts) -> bool {
    counts.rows > 1 && matches!(variety, Variety::One(_))
}
