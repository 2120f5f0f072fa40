//! `[gates]`: what a night must reach before it is published.

use crate::error::ConfigError;
use serde::{Deserialize, Serialize};

/// A gate: a question about a run whose answer may keep it from being published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Users in the results: as many as in the table, and about as many as in the previous run.
    Rows,
    /// Items, against the previous run.
    Items,
    /// Interactions: how many, how new, and how many of them are of the users and items at hand.
    History,
    /// How much of the job's own exclusions and lists is of the users and items at hand.
    Exclusions,
    /// Values that the towers do not know, by feature.
    Unknown,
    /// Missing values by feature, against the previous run.
    Missing,
    /// The distribution of numbers and booleans by feature, against the previous run.
    Drift,
    /// Vectors that are zero or not finite.
    Vectors,
    /// Recall of the item index against exact search.
    Index,
    /// Distinct vectors and lists of users, and the lists' length.
    Lists,
    /// Share of the catalogue that is recalled for anybody.
    Coverage,
    /// Share of users that the previous run has too.
    Users,
    /// How much of their lists users keep from the previous run.
    Overlap,
    /// The evaluation metric, against baselines and the previous run.
    Metric,
}

impl Gate {
    /// All gates.
    pub const ALL: [Gate; 14] = [
        Gate::Rows,
        Gate::Items,
        Gate::History,
        Gate::Exclusions,
        Gate::Unknown,
        Gate::Missing,
        Gate::Drift,
        Gate::Vectors,
        Gate::Index,
        Gate::Lists,
        Gate::Coverage,
        Gate::Users,
        Gate::Overlap,
        Gate::Metric,
    ];

    /// The name as typed and printed.
    pub fn name(self) -> &'static str {
        match self {
            Gate::Rows => "rows",
            Gate::Items => "items",
            Gate::History => "history",
            Gate::Exclusions => "exclusions",
            Gate::Unknown => "unknown",
            Gate::Missing => "missing",
            Gate::Drift => "drift",
            Gate::Vectors => "vectors",
            Gate::Index => "index",
            Gate::Lists => "lists",
            Gate::Coverage => "coverage",
            Gate::Users => "users",
            Gate::Overlap => "overlap",
            Gate::Metric => "metric",
        }
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The limits of the gates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatesConfig {
    /// Gates that are not asked.
    pub off: Vec<Gate>,
    /// `rows`: the least users recalled, as a share of the previous run's.
    pub min_rows: f64,
    /// `rows`: the most.
    pub max_rows: f64,
    /// `items`: the least items, and items that can be recalled, as a share of the previous run's.
    pub min_items: f64,
    /// `items`: the most.
    pub max_items: f64,
    /// `history`: the least share of the interactions that must be of an item of the catalogue, and of the seen
    /// pairs that must be of a user of the table.
    pub min_matched: f64,
    /// `history`: how much these shares may lie below the previous run's, beside what users and items that are gone
    /// account for.
    pub strangers_margin: f64,
    /// `history`: the least rows, share of users with seen items, and seen items a user, as a share of the previous
    /// run's.
    pub min_history: f64,
    /// `history`: the least share of the pairs of a user and an item, of both runs together, that are in both; not of
    /// a log that reaches back over less than half of what the previous run's did.
    pub min_pairs_kept: f64,
    /// `history`: the longest that interactions may stay as they were in the previous run, in days.
    pub max_still_days: f64,
    /// `exclusions`: the least pairs a user, and listed items, that match, as a share of the previous run's.
    pub min_exclusions: f64,
    /// `unknown`: the largest share of a feature's values that may be unknown.
    pub max_unknown: f64,
    /// `unknown`: how much it may exceed the previous run's.
    pub unknown_margin: f64,
    /// `missing`: how much the missing share of a feature may exceed the previous run's.
    pub missing_margin: f64,
    /// `drift`: how far the distribution of a feature may lie from the previous run's, from 0 (the same) to 1
    /// (nothing in common); a little more where there are few values.
    pub drift_margin: f64,
    /// `unknown`, `missing`, `drift`: features that are passed over, such as `item.product`.
    pub ignore_features: Vec<String>,
    /// `lists`: the least distinct vectors of users, and lists of the sample; of fewer than a hundred times as many
    /// users a hundredth, and two at the least.
    pub min_distinct: u64,
    /// `lists`: the least distinct vectors a user, as a share of the previous run's.
    pub min_distinct_kept: f64,
    /// `lists`: the most that lists of different users may have in common, from 0 (as lists drawn at random) to 1
    /// (all the same).
    pub max_alike: f64,
    /// `lists`: the least items a user, as a share of the previous run's.
    pub min_filled: f64,
    /// `coverage`: the least share of the eligible items in the lists of the sample.
    pub min_coverage: f64,
    /// `coverage`: the least, as a share of the previous run's.
    pub min_coverage_kept: f64,
    /// `users`: the least share of the sampled users that the previous run has too.
    pub min_shared_users: f64,
    /// `overlap`: the least overlap@k with the previous run, as a share of the way from what users share with
    /// other users' lists (0) to equal lists (1).
    pub min_overlap: f64,
    /// `metric`: the least, as a share of the previous run's.
    pub min_metric_kept: f64,
    /// `metric`: the least, as a share of what recalling the most popular items reaches.
    pub min_metric_of_popularity: f64,
}

impl Default for GatesConfig {
    fn default() -> Self {
        Self {
            off: Vec::new(),
            min_rows: 0.7,
            max_rows: 1.5,
            min_items: 0.7,
            max_items: 2.0,
            min_matched: 0.01,
            strangers_margin: 0.1,
            min_history: 0.7,
            min_pairs_kept: 0.1,
            max_still_days: 1.0,
            min_exclusions: 0.5,
            max_unknown: 0.5,
            unknown_margin: 0.1,
            missing_margin: 0.2,
            drift_margin: 0.2,
            ignore_features: Vec::new(),
            min_distinct: 10,
            min_distinct_kept: 0.5,
            max_alike: 0.95,
            min_filled: 0.7,
            min_coverage: 0.01,
            min_coverage_kept: 0.5,
            min_shared_users: 0.2,
            min_overlap: 0.1,
            min_metric_kept: 0.7,
            min_metric_of_popularity: 0.5,
        }
    }
}

impl GatesConfig {
    /// Checks which gates are off, and that features passed over are among `features`, those of the job.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] naming the setting, or the nearest feature for an unknown one.
    pub fn check<'f>(&self, features: impl Iterator<Item = &'f str> + Clone) -> Result<(), ConfigError> {
        if self.off.contains(&Gate::Vectors) {
            return Err(ConfigError::usage(
                "`gates.off`: `vectors` cannot be turned off, because a vector that is zero or not finite has no nearest items",
            ));
        }
        for name in &self.ignore_features {
            if !features.clone().any(|feature| feature == name) {
                let near = twotower_tables::nearest(name, features);
                let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                return Err(ConfigError::usage(format!(
                    "`gates.ignore_features`: no feature `{name}`, expected a side and a name such as `user.city`{near}"
                )));
            }
        }
        Ok(())
    }
}
