//! What the tables of a job hold: values, numbers and events, and how these differ from an earlier day's.
//!
//! Tables are read once, as `encode-features` reads them, and staged as Parquet files that queries count
//! ([`twotower_queries`]). What a profile says depends on the rows alone: not on their format, nor on memory or
//! threads.

mod drift;
mod settings;
mod staged_table;
mod staging;
pub mod types;

pub use settings::Settings;

use crate::error::PipelineError;
use crate::profile::staging::{Feature, StagedColumn, StagedEvents, StagedFeature, StagedSide, partition};
use crate::profile::types::{
    FeatureProfile, InteractionsProfile, Numbers, Participants, Profile, Segment, Segments, TableProfile, TopValue,
    VERSION, Values,
};
use crate::run::dir::publish_json;
use crate::stages::encoded::EncoderFolder;
use crate::watch::limits::check_query_room;
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::json::read_json;
use twotower_artifacts::{ArtifactError, Side};
use twotower_encoders::{EncoderState, FeatureSpec};
use twotower_queries::{Histogram, PERCENTILES, Pass, RowsEach, TextCounts, segments};

/// Name of the file that a profile is written to in a folder.
pub const FILE: &str = "profile.json";
/// The most frequent values that a profile lists.
pub const TOP: usize = 100;
/// The most rows whose numbers are sorted for percentiles. Of more rows, every second, third, ... is taken.
const SORTED_ROWS: u64 = 1 << 24;
/// The most values of a feature whose users are told apart by it.
const MOST_SEGMENTS: u64 = 1000;
/// Bytes that a distinct value takes in a query, with all that groups and joins make of it.
const VALUE_BYTES: u64 = 256;
/// The same of an id's hash.
const ID_BYTES: u64 = 96;
/// The most passes in which a table is read. Where that is too few, each of them holds more.
const MOST_PASSES: u64 = 256;

/// Profiles the tables of a job.
///
/// # Errors
/// [`PipelineError::Usage`] for a segment that is no feature with one value a user; a damaged earlier profile or state;
/// tables that cannot be read; those of queries.
pub fn profile(settings: &Settings) -> Result<Profile, PipelineError> {
    let encode = settings.config.encode_settings();
    let user_features = &settings.config.features.user;
    let segment = settings.segment.as_deref().map(|name| segment_feature(user_features, name));
    let segment = segment.transpose()?;
    let earlier = settings.against.as_deref().map(read_profile).transpose()?;
    let state =
        settings.encoders.as_deref().map(|dir| EncoderFolder::load("profile", dir)).transpose()?.map(|e| e.state);
    check_query_room()?;
    let folder = tempfile::Builder::new().prefix("twotower-profile-").tempdir_in(&settings.scratch);
    let folder = folder.map_err(PipelineError::io("create a temporary folder in", &settings.scratch))?;
    let read = |side| StagedSide::read(settings, folder.path(), side, &encode.side(side));
    let (users, items) = (read(Side::User)?, read(Side::Item)?);
    let events = StagedEvents::read(settings, folder.path(), users.ids, items.ids)?;
    let counting = Counting { settings, state: state.as_ref() };
    let mut found = Profile {
        version: VERSION,
        encoder: state.as_ref().map(|state| state.fingerprint().clone()),
        users: counting.table(Side::User, &users)?,
        items: counting.table(Side::Item, &items)?,
        interactions: counting.interactions(&events, &users, &items)?,
        segments: None,
        drift: None,
    };
    if let Some(name) = segment {
        found.segments = Some(counting.segments(name, &found.users, &users, &events)?);
    }
    if let (Some(earlier), Some(path)) = (earlier, &settings.against) {
        // As the earlier one was: numbers that were written and read may differ in the last digit.
        let parsed = serde_json::to_vec(&found).and_then(|text| serde_json::from_slice(&text));
        let later: Profile = parsed.map_err(|e| PipelineError::Data(format!("profile: write it as JSON: {e}")))?;
        found.drift = Some(drift::drift(&path.display().to_string(), &earlier, &later));
    }
    Ok(found)
}

/// Reads a profile's file.
///
/// # Errors
/// [`PipelineError::Artifact`] for a file that is not there, that is no profile, or one of another version.
pub(crate) fn read_profile(path: &Path) -> Result<Profile, PipelineError> {
    let value: serde_json::Value = read_json(path)?;
    let version = value.get("version").and_then(serde_json::Value::as_u64).and_then(|found| u32::try_from(found).ok());
    if let Some(found) = version.filter(|found| *found != VERSION) {
        return Err(ArtifactError::Version { path: path.to_path_buf(), found, supported: VERSION }.into());
    }
    let profile: Profile = serde_json::from_value(value).map_err(|e| {
        let reason = format!("expected a profile as `twotower profile` writes it: {e}");
        ArtifactError::Corrupt { path: path.to_path_buf(), reason }
    })?;
    let numbers = [&profile.users, &profile.items].into_iter().flat_map(|table| &table.features);
    let numbers = numbers.flat_map(|feature| [&feature.numbers, &feature.lengths]);
    let events = [&profile.interactions.users.events, &profile.interactions.items.events];
    if numbers.chain(events).flatten().any(|numbers| numbers.percentiles.len() != PERCENTILES) {
        let reason = format!("expected {PERCENTILES} percentiles of all numbers");
        return Err(ArtifactError::Corrupt { path: path.to_path_buf(), reason }.into());
    }
    Ok(profile)
}

/// Writes a profile's file, whole or not at all.
///
/// # Errors
/// [`PipelineError::Artifact`] when it cannot be written.
pub fn write_profile(path: &Path, profile: &Profile) -> Result<(), PipelineError> {
    publish_json(path, profile)
}

/// The feature that parts users into segments.
fn segment_feature<'f>(features: &'f [FeatureSpec], name: &str) -> Result<&'f str, PipelineError> {
    let one_value =
        |f: &&FeatureSpec| matches!(f, FeatureSpec::Categorical(_) | FeatureSpec::Boolean(_) | FeatureSpec::Hashed(_));
    let names: Vec<&str> = features.iter().filter(one_value).map(FeatureSpec::name).collect();
    if let Some(name) = names.iter().find(|known| **known == name) {
        return Ok(name);
    }
    let of = match features.iter().find(|feature| feature.name() == name) {
        Some(feature) => format!("a user feature of kind {}", feature.kind()),
        None => "no user feature".to_string(),
    };
    let near = twotower_tables::nearest(name, names.iter().copied());
    let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Err(PipelineError::Usage(format!(
        "--segment {name}: {of}; expected one with one value a user (categorical, boolean or hashed): {}{near}",
        if names.is_empty() { "this job has none".to_string() } else { names.join(", ") }
    )))
}

/// What counts.
struct Counting<'a> {
    settings: &'a Settings,
    state: Option<&'a EncoderState>,
}

impl Counting<'_> {
    /// The passes in which `distinct` keys of `bytes` bytes each fit into memory.
    fn passes(&self, distinct: u64, bytes: u64) -> impl ExactSizeIterator<Item = Pass> + use<> {
        let most = (self.settings.memory.quarter() / bytes).max(1);
        Pass::all(distinct.div_ceil(most).clamp(1, MOST_PASSES) as u32)
    }

    /// Runs a query, unless a stop was asked for.
    fn query<T>(
        &self,
        what: &str,
        query: impl FnOnce() -> Result<T, twotower_queries::QueryError>,
    ) -> Result<T, PipelineError> {
        self.settings.cancel.check("profile")?;
        let _step = self.settings.cancel.watch().step(format!("a query of {what}"));
        Ok(query()?)
    }

    fn table(&self, side: Side, staged: &StagedSide) -> Result<TableProfile, PipelineError> {
        let mut bar =
            self.settings.progress.bar(&format!("count {side}s"), staged.features.len() as u64 + 1, "columns");
        let mut ids = 0;
        for pass in self.passes(staged.usable(), ID_BYTES) {
            ids += self.query(&format!("the ids of {side}s"), || staged.keys().distinct(pass))?;
        }
        let mut features = Vec::new();
        for feature in &staged.features {
            bar.advance(1);
            features.push(self.feature(side, staged, feature)?);
        }
        Ok(TableProfile { rows: staged.rows, unusable: staged.unusable.clone(), ids, features })
    }

    fn feature(&self, side: Side, staged: &StagedSide, feature: &Feature) -> Result<FeatureProfile, PipelineError> {
        let (spec, rows, path) = (&feature.spec, staged.usable(), staged.file.path());
        let (mut values, mut numbers, mut lengths) = (None, None, None);
        match &feature.staged {
            StagedFeature::Values(column) => values = Some(self.values(side, spec, column, path)?),
            StagedFeature::Numbers(column) => numbers = self.numbers(spec, column, path, rows)?,
            StagedFeature::Vectors(column) => lengths = self.numbers(spec, column, path, rows)?,
            StagedFeature::Lists { lengths: each, values: all, file } => {
                values = Some(self.values(side, spec, all, file.path())?);
                lengths = self.numbers(spec, each, path, rows)?;
            }
        }
        Ok(FeatureProfile {
            name: spec.name().to_string(),
            kind: spec.kind().to_string(),
            column: spec
                .input(&self.settings.config.encode_settings().side(side).id_column)
                .unwrap_or_default()
                .to_string(),
            rows,
            missing: feature.missing,
            values,
            numbers,
            lengths,
        })
    }

    fn values(
        &self,
        side: Side,
        spec: &FeatureSpec,
        column: &StagedColumn,
        path: &Path,
    ) -> Result<Values, PipelineError> {
        // Every id stands once.
        let top = if matches!(spec, FeatureSpec::Id(_)) { 0 } else { TOP };
        let vocabulary = spec.vocabulary(side).and_then(|table| self.state?.vocabulary(&table));
        let mut counts = TextCounts::default();
        for pass in self.passes(column.distinct(), VALUE_BYTES) {
            let known: Option<Box<dyn Iterator<Item = &str>>> = match (spec.fixed_values(), vocabulary) {
                (Some(fixed), _) => Some(Box::new(fixed.iter().copied())),
                (None, Some(vocabulary)) => Some(Box::new(vocabulary.iter().map(|(_, value, _)| value))),
                (None, None) => None,
            };
            let known = known.map(|known| known.filter(|value| pass.holds(partition(value))));
            let what = format!("the values of `{}`", spec.name());
            counts.merge(self.query(&what, || column.keys(path).texts(pass, top, known))?, top);
        }
        let TextCounts { distinct, rows: count, unknown, top } = counts;
        let top = top.into_iter().map(|(value, count)| TopValue { value, count }).collect();
        Ok(Values { count, distinct, unknown, top })
    }

    /// The numbers of a column of a file with `rows` rows.
    fn numbers(
        &self,
        spec: &FeatureSpec,
        column: &StagedColumn,
        path: &Path,
        rows: u64,
    ) -> Result<Option<Numbers>, PipelineError> {
        let every = rows.div_ceil(SORTED_ROWS).max(1);
        let what = format!("the numbers of `{}`", spec.name());
        let Some(spread) = self.query(&what, || column.keys(path).spread(every))? else { return Ok(None) };
        let mut distinct = 0;
        for pass in self.passes(column.distinct(), ID_BYTES) {
            distinct += self.query(&what, || column.keys(path).distinct(pass))?;
        }
        Ok(Some(Numbers {
            count: spread.count,
            distinct,
            min: spread.min,
            mean: column.mean(),
            max: spread.max,
            percentiles: spread.percentiles,
            every,
        }))
    }

    fn interactions(
        &self,
        events: &StagedEvents,
        users: &StagedSide,
        items: &StagedSide,
    ) -> Result<InteractionsProfile, PipelineError> {
        let mut bar = self.settings.progress.bar("count events", 2, "sides");
        let mut of = |side: Side, table: &StagedSide| {
            bar.advance(1);
            self.participants(events, side, table)
        };
        Ok(InteractionsProfile {
            rows: events.rows,
            unusable: events.unusable.clone(),
            times: events.times.clone(),
            users: of(Side::User, users)?,
            items: of(Side::Item, items)?,
        })
    }

    fn participants(
        &self,
        events: &StagedEvents,
        side: Side,
        table: &StagedSide,
    ) -> Result<Participants, PipelineError> {
        let (mut each, mut of_table) = (RowsEach::default(), 0);
        for pass in self.passes(events.usable().max(table.usable()), ID_BYTES) {
            let what = format!("the events of {side}s");
            let found = self.query(&what, || events.keys(side).rows_each(pass, table.keys()))?;
            add(&mut each.all, found.all);
            add(&mut each.known, found.known);
            of_table += self.query(&what, || table.keys().distinct(pass))?;
        }
        let named_events = |histogram: &Histogram| histogram.iter().map(|(events, keys)| events * keys).sum::<u64>();
        Ok(Participants {
            named: each.all.values().sum(),
            known: each.known.values().sum(),
            of_table,
            stray_events: named_events(&each.all) - named_events(&each.known),
            events: of_histogram(&each.all),
        })
    }

    fn segments(
        &self,
        name: &str,
        profile: &TableProfile,
        users: &StagedSide,
        events: &StagedEvents,
    ) -> Result<Segments, PipelineError> {
        let distinct = profile.feature(name).and_then(|f| f.values.as_ref()).map_or(0, |values| values.distinct);
        let feature = users.features.iter().find(|feature| feature.spec.name() == name);
        let column = match feature.map(|feature| &feature.staged) {
            Some(StagedFeature::Values(column)) if distinct <= MOST_SEGMENTS => column,
            _ => {
                return Err(PipelineError::Data(format!(
                    "--segment {name}: the feature has {distinct} distinct values, expected at most {MOST_SEGMENTS}; name another"
                )));
            }
        };
        let value = column.keys(users.file.path());
        let mut found = BTreeMap::<Option<String>, Histogram>::new();
        for pass in self.passes(events.usable().max(users.usable()), VALUE_BYTES) {
            let query = || segments(users.keys(), value.column, events.keys(Side::User), pass);
            for (value, histogram) in self.query("segments", query)? {
                add(found.entry(value).or_default(), histogram);
            }
        }
        let segments = found.into_iter().filter_map(|(value, histogram)| {
            let users = histogram.values().sum();
            Some(Segment {
                value,
                users,
                active: users - histogram.get(&0).copied().unwrap_or(0),
                events: histogram.iter().map(|(events, users)| events * users).sum(),
                events_each: of_histogram(&histogram)?,
            })
        });
        let mut segments: Vec<Segment> = segments.collect();
        // Segments come in the order of their values, which a stable sort keeps among equals.
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.users));
        Ok(Segments { feature: name.to_string(), segments })
    }
}

fn add(to: &mut Histogram, other: Histogram) {
    other.into_iter().for_each(|(n, keys)| *to.entry(n).or_default() += keys);
}

/// The numbers of a histogram, which says how often each of them occurs; none where it is empty.
fn of_histogram(histogram: &Histogram) -> Option<Numbers> {
    let (min, max) = (*histogram.keys().next()?, *histogram.keys().next_back()?);
    let count: u64 = histogram.values().sum();
    let sum: u128 = histogram.iter().map(|(n, keys)| u128::from(*n) * u128::from(*keys)).sum();
    // Each number, with how many are up to it.
    let mut ends = Vec::with_capacity(histogram.len());
    let mut below = 0;
    for (n, keys) in histogram {
        below += keys;
        ends.push((below, *n as f64));
    }
    let at = |index: u64| ends[ends.partition_point(|(end, _)| *end <= index).min(ends.len() - 1)].1;
    let last = u128::from(count.saturating_sub(1));
    let percentile = |percent: usize| {
        let place = percent as u128 * last;
        let (whole, rest) = ((place / 100) as u64, (place % 100) as f64 / 100.0);
        let low = at(whole);
        low + (at(whole + 1) - low) * rest
    };
    Some(Numbers {
        count,
        distinct: histogram.len() as u64,
        min: min as f64,
        mean: sum as f64 / count.max(1) as f64,
        max: max as f64,
        percentiles: (0..PERCENTILES).map(percentile).collect(),
        every: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_queries::percentiles;

    #[test]
    fn a_histogram_has_the_percentiles_of_its_numbers() {
        let histogram = Histogram::from([(1, 3), (2, 1), (7, 2)]);
        let numbers = of_histogram(&histogram).unwrap();
        assert_eq!((numbers.count, numbers.distinct, numbers.min, numbers.max), (6, 3, 1.0, 7.0));
        assert_eq!(numbers.mean, 19.0 / 6.0);
        for (ours, theirs) in numbers.percentiles.iter().zip(percentiles(&[1.0, 1.0, 1.0, 2.0, 7.0, 7.0])) {
            assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
        }
        assert_eq!(of_histogram(&Histogram::new()), None);
        assert_eq!(of_histogram(&Histogram::from([(4, 1)])).unwrap().percentiles, [4.0; PERCENTILES]);
    }

    #[test]
    fn a_segment_is_a_feature_with_one_value_a_user() {
        let features: Vec<FeatureSpec> = serde_json::from_value(serde_json::json!([
            {"kind": "categorical", "name": "city"},
            {"kind": "numeric", "name": "age"},
            {"kind": "boolean", "name": "is_5g"},
        ]))
        .unwrap();
        assert_eq!(segment_feature(&features, "city").unwrap(), "city");
        let error = |name: &str| segment_feature(&features, name).unwrap_err().to_string();
        assert!(error("citty").ends_with("city, is_5g; did you mean `city`?"), "{}", error("citty"));
        assert!(error("age").contains("a user feature of kind numeric"), "{}", error("age"));
    }
}
