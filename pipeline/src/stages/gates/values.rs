//! The gates on values of features: `unknown`, `missing` and `drift`.

use super::Night;
use super::facts::Facts;
use super::verdict::{Measure, Measures};
use crate::error::PipelineError;
use std::collections::BTreeMap;
use twotower_artifacts::Side;
use twotower_artifacts::schema::{FIRST_VALUE, UNKNOWN};
use twotower_encoders::{FeatureCounts, FeatureSpec, store};

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
    let mut rare = Vec::new();
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
        if share > limit && counts.unknown as f64 >= new * known {
            rare.extend(rare_values(night, side, name, counts)?);
        }
        measures.measured.push(Measure::at_most(format!("{side}.{name}"), share, limit));
    }
    measures.advice = (!rare.is_empty()).then(|| rare.join("; "));
    note_first_night(night, &mut measures);
    Ok(measures)
}

/// What is said of a feature whose own limits keep values out of its vocabulary, so that these are unknown.
fn rare_values(
    night: &Night<'_>,
    side: Side,
    name: &str,
    counts: &FeatureCounts,
) -> Result<Option<String>, PipelineError> {
    let Some(feature) = feature(night, side, name) else { return Ok(None) };
    let (Some((min_count, max_size)), Some(table)) = (feature.vocabulary_limits(), feature.vocabulary(side)) else {
        return Ok(None);
    };
    let size = store::load_vocabulary(night.now.run.encoders().join(store::vocabulary_file(&table)))?.len();
    let (limit, cure) = match max_size {
        Some(most) if size >= most as usize => (format!("its vocabulary is full at `max_size` = {most}"), "raise that"),
        _ if min_count > 1 => (format!("a value is known only from `min_count` = {min_count} rows on"), "lower that"),
        _ => return Ok(None),
    };
    let FeatureCounts { values, unknown, .. } = counts;
    Ok(Some(format!(
        "{unknown} of {values} values of {side}.{name} are unknown because {limit}; {cure} in `[features]`, leave the feature out, or pass over it with `gates.ignore_features = [\"{side}.{name}\"]`"
    )))
}

/// Share of each feature's values that are missing, against the previous run's.
pub fn missing(night: &Night<'_>) -> Measures {
    let margin = night.config.gates.missing_margin;
    let Some(before) = night.before else { return Measures::none(super::NO_PREVIOUS) };
    let compared = features(night).filter_map(|(side, name, counts)| {
        let before = of(before, side, name)?;
        let share = |c: &FeatureCounts| c.missing as f64 / c.values as f64;
        Some(Measure::at_most(format!("{side}.{name}"), share(counts), share(before) + margin))
    });
    Measures { measured: compared.collect(), ..Measures::default() }
}

/// How far the distribution of each feature's numbers, or truths, lies from the previous run's: the distance of
/// Kolmogorov and Smirnov.
pub fn drift(night: &Night<'_>) -> Measures {
    let margin = night.config.gates.drift_margin;
    let Some(before) = night.before else { return Measures::none(super::NO_PREVIOUS) };
    let compared = features(night).filter_map(|(side, name, counts)| {
        let (now, then) = (&counts.histogram, &of(before, side, name)?.histogram);
        let distance = now.distance(then)?;
        let number = matches!(feature(night, side, name), Some(FeatureSpec::Numeric(_)));
        let medians = match (number, then.median(), now.median()) {
            (true, Some(then), Some(now)) => format!(" (its median was about {}, is {})", short(then), short(now)),
            _ => String::new(),
        };
        // What chance may do to draws from one distribution, all but once in a thousand times.
        let chance = 1.95 * (1.0 / now.total() as f64 + 1.0 / then.total() as f64).sqrt();
        Some(Measure::at_most(format!("{side}.{name}{medians}"), distance, margin + chance))
    });
    let measured: Vec<Measure> = compared.collect();
    if measured.is_empty() {
        return Measures::none(format!("no feature is a number or a boolean that run `{}` counted", before.name()));
    }
    let advice = "0 is the distribution of the previous run, 1 has nothing in common with it";
    Measures { measured, advice: Some(advice.into()), ..Measures::default() }
}

/// Three digits.
fn short(number: f64) -> f64 {
    format!("{number:.2e}").parse().unwrap_or(number)
}

fn note_first_night(night: &Night<'_>, measures: &mut Measures) {
    if night.before.is_none() {
        measures.notes.push(format!("{}: held against `gates.max_unknown` alone", super::NO_PREVIOUS));
    }
}

/// Features that have values and that the job does not ignore.
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
    feature(night, side, name)?.vocabulary(side)
}

/// The job's feature of a name.
fn feature<'n>(night: &'n Night<'_>, side: Side, name: &str) -> Option<&'n FeatureSpec> {
    night.config.features(side).iter().find(|feature| feature.name() == name)
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
