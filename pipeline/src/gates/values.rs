//! The gates on values of features: `unknown` and `missing`.

use super::Night;
use super::facts::Facts;
use super::verdict::{Measured, Measures};
use crate::error::PipelineError;
use std::collections::BTreeMap;
use twotower_artifacts::Side;
use twotower_artifacts::schema::{FIRST_VALUE, UNKNOWN};
use twotower_encoders::{FeatureCounts, store};

/// Share of each feature's values that the towers do not know.
///
/// Beside the values that the encoders called unknown, these are values that the previous run's vocabulary does
/// not have, and those without trained weights in adopted towers: they are in tonight's vocabulary, so the
/// encoders know them, and still they are new.
///
/// # Errors
/// A vocabulary of this run that cannot be read.
pub fn unknown(night: &Night<'_>) -> Result<Measures, PipelineError> {
    let config = &night.config.gates;
    let mut measures = Measures::default();
    let mut tables: BTreeMap<String, f64> = BTreeMap::new();
    for (side, name, counts) in features(night) {
        let new = match table(night, side, name) {
            None => 0.0,
            Some(table) => match tables.get(&table) {
                Some(share) => *share,
                None => {
                    let share = new_values(night, &table)?;
                    tables.insert(table, share);
                    share
                }
            },
        };
        let known = counts.values.saturating_sub(counts.missing + counts.unknown) as f64;
        let share = (counts.unknown as f64 + new * known) / counts.values as f64;
        let before = night.before.and_then(|before| of(before, side, name));
        let limit = before.map_or(config.max_unknown, |before| {
            config.max_unknown.min(before.unknown as f64 / before.values as f64 + config.unknown_margin)
        });
        measures.measured.push(Measured::at_most(format!("{side}.{name}"), share, limit));
    }
    note_first_night(night, &mut measures);
    Ok(measures)
}

/// Share of each feature's values that are missing, against the previous run's.
pub fn missing(night: &Night<'_>) -> Measures {
    let margin = night.config.gates.missing_margin;
    let Some(before) = night.before else { return Measures::none(super::NO_PREVIOUS) };
    let compared = features(night).filter_map(|(side, name, counts)| {
        let before = of(before, side, name)?;
        let share = |c: &FeatureCounts| c.missing as f64 / c.values as f64;
        Some(Measured::at_most(format!("{side}.{name}"), share(counts), share(before) + margin))
    });
    Measures { measured: compared.collect(), notes: Vec::new() }
}

fn note_first_night(night: &Night<'_>, measures: &mut Measures) {
    if night.before.is_none() {
        measures.notes.push(format!("{}: held against `gates.max_unknown` alone", super::NO_PREVIOUS));
    }
}

/// Features with values, but those that the job passes over.
fn features<'n>(night: &'n Night<'_>) -> impl Iterator<Item = (Side, &'n str, &'n FeatureCounts)> {
    let ignored = &night.config.gates.ignore_features;
    let all = night.now.encoded.iter().flat_map(|(side, counts)| counts.iter().map(|(name, c)| (*side, &name[..], c)));
    all.filter(move |(side, name, c)| c.values > 0 && !ignored.contains(&format!("{side}.{name}")))
}

/// Counts of a feature of another run, if it has any.
fn of<'f>(facts: &'f Facts, side: Side, name: &str) -> Option<&'f FeatureCounts> {
    facts.encoded.get(&side)?.get(name).filter(|counts| counts.values > 0)
}

/// The vocabulary of a feature, for kinds that have one.
fn table(night: &Night<'_>, side: Side, name: &str) -> Option<String> {
    night.config.features(side).iter().find(|feature| feature.name() == name)?.vocabulary(side)
}

/// Share of the values counted in a vocabulary that are new: to the previous run, or to the weights.
fn new_values(night: &Night<'_>, table: &str) -> Result<f64, PipelineError> {
    let file = store::vocabulary_file(table);
    let now = store::load_vocabulary(night.now.run.encoders().join(&file))?;
    let before = night.before.map(|before| before.run.encoders().join(&file)).filter(|path| path.exists());
    let before = before.map(store::load_vocabulary).transpose()?;
    let untrained = night.now.untrained.get(table).copied().unwrap_or(0);
    let trained = u64::from(now.cardinality()).saturating_sub(untrained).max(u64::from(FIRST_VALUE));
    let (mut new, mut all) = (0, 0);
    for (code, value, count) in now.iter() {
        let is_new = u64::from(code) >= trained || before.as_ref().is_some_and(|b| b.lookup(value) == UNKNOWN);
        new += if is_new { count } else { 0 };
        all += count;
    }
    Ok(if all == 0 { 0.0 } else { new as f64 / all as f64 })
}
