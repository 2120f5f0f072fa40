//! A profile as it is written: what a job's tables hold.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::Fingerprint;

/// The form of the file; another one is refused.
pub(crate) const VERSION: u32 = 1;

/// What the tables of a job hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Version of this form.
    pub version: u32,
    /// The encoder state whose vocabularies say which values are unknown.
    pub encoder: Option<Fingerprint>,
    /// The users.
    pub users: TableProfile,
    /// The items.
    pub items: TableProfile,
    /// The interactions.
    pub interactions: InteractionsProfile,
    /// Users by their value of one feature.
    pub segments: Option<Segments>,
    /// What has changed since an earlier profile.
    pub drift: Option<Drift>,
}

/// A table of users or items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableProfile {
    /// All rows.
    pub rows: u64,
    /// Rows that cannot be read; the features count the others.
    pub unusable: Unusable,
    /// Distinct ids.
    pub ids: u64,
    /// The features that read a column of the table, in the order of the job.
    pub features: Vec<FeatureProfile>,
}

/// Rows that cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// How many.
    pub rows: u64,
    /// The first of them, and why.
    pub first: Option<String>,
}

/// A feature's column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureProfile {
    /// Name of the feature.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The column it reads.
    pub column: String,
    /// Rows that were read.
    pub rows: u64,
    /// Rows without a value, as the encoders understand it.
    pub missing: u64,
    /// Texts: of a multi-valued feature all that its rows hold, of the others one a row.
    pub values: Option<Values>,
    /// Numbers, where there are any.
    pub numbers: Option<Numbers>,
    /// Values a row, of multi-valued and vector features, where a row has any.
    pub lengths: Option<Numbers>,
}

/// Texts and how often they stand there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// All values.
    pub count: u64,
    /// Distinct ones.
    pub distinct: u64,
    /// Those that the run's vocabulary, or a boolean's lists, do not know; none where nothing says what is known.
    pub unknown: Option<u64>,
    /// The most frequent values, at most [`TOP`](crate::profile::TOP); of ids, none.
    pub top: Vec<TopValue>,
}

/// A value and how often it stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopValue {
    /// The value.
    pub value: String,
    /// How often.
    pub count: u64,
}

/// Numbers and where they lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// How many.
    pub count: u64,
    /// Distinct ones.
    pub distinct: u64,
    /// The smallest.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// The largest.
    pub max: f64,
    /// The 0th to 100th percentile, by linear interpolation between neighbours.
    pub percentiles: Vec<f64>,
    /// Percentiles are taken from every row of the table (1), every second one (2), and so on.
    pub every: u64,
}

/// The interactions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InteractionsProfile {
    /// All rows.
    pub rows: u64,
    /// Rows that cannot be read; the rest counts the others.
    pub unusable: Unusable,
    /// When they were, where the table has times.
    pub times: Option<Times>,
    /// The users that they name.
    pub users: Participants,
    /// The items that they name.
    pub items: Participants,
}

/// The first and the last time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
    /// What they count since 1970, where their type says so.
    pub unit: Option<String>,
}

/// Users or items in the interactions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Participants {
    /// How many are named.
    pub named: u64,
    /// Those that stand in their own table too.
    pub known: u64,
    /// Ids in that table.
    pub of_table: u64,
    /// Events that name a user or an item that the table does not have.
    pub stray_events: u64,
    /// Events of each that is named, where there are any.
    pub events: Option<Numbers>,
}

/// Users by their value of a feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    /// The feature.
    pub feature: String,
    /// A segment for each value, the largest first.
    pub segments: Vec<Segment>,
}

/// The users with one value of the feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The value; none where it is missing.
    pub value: Option<String>,
    /// Users: rows of the users table.
    pub users: u64,
    /// How many of them have events.
    pub active: u64,
    /// Their events.
    pub events: u64,
    /// Events of each user, also of users without any.
    pub events_each: Numbers,
}

/// What has changed since an earlier profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The earlier profile's file.
    pub against: String,
    /// Rows of users, items and interactions, before and after.
    pub rows: BTreeMap<String, Change<u64>>,
    /// What both profiles have, the worst first.
    pub features: Vec<FeatureDrift>,
    /// Features that the later profile alone has, as `users.city`, and features that are of another kind than before.
    pub added: Vec<String>,
    /// Features that the earlier profile alone has, as `users.city`.
    pub removed: Vec<String>,
}

/// A figure in both profiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change<T> {
    /// In the earlier one.
    pub before: T,
    /// In the later one.
    pub after: T,
}

/// How far the distributions of one feature lie apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureDrift {
    /// `users`, `items` or `interactions`.
    pub table: String,
    /// The feature; of interactions, what is counted.
    pub feature: String,
    /// The largest of the distances below, and of the changes of both shares.
    pub score: f64,
    /// The share of rows without a value.
    pub missing: Change<f64>,
    /// The share of values that are unknown, where both profiles have it.
    pub unknown: Option<Change<f64>>,
    /// Distances of what both profiles have of the feature.
    pub distances: Vec<Distance>,
}

/// A distance of two distributions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// What is distributed.
    pub of: Distribution,
    /// How it is measured.
    pub measure: Measure,
    /// From 0 to 1.
    pub distance: f64,
}

/// What of a feature is distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Texts.
    Values,
    /// Numbers.
    Numbers,
    /// Values a row.
    Lengths,
    /// Events of a user or an item.
    Events,
}

/// How a distance is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The total variation distance, of profiles that list all values.
    TotalVariation,
    /// A lower bound of it, of profiles that list the most frequent values alone.
    TotalVariationAtLeast,
    /// The Kolmogorov-Smirnov statistic.
    KolmogorovSmirnov,
}

impl Measure {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Measure::TotalVariation => "TV",
            Measure::TotalVariationAtLeast => "TV, at least",
            Measure::KolmogorovSmirnov => "KS",
        }
    }
}

/// A part of a whole, 0 where there is nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl TableProfile {
    /// The feature of that name.
    pub fn feature(&self, name: &str) -> Option<&FeatureProfile> {
        self.features.iter().find(|feature| feature.name == name)
    }
}

impl FeatureProfile {
    /// The share of rows without a value.
    pub fn missing_share(&self) -> f64 {
        share(self.missing, self.rows)
    }

    /// The share of values that are unknown, where it is said what is known.
    pub fn unknown_share(&self) -> Option<f64> {
        let values = self.values.as_ref()?;
        Some(share(values.unknown?, values.count))
    }
}
