//! `[gates]`: what a night must reach before it is published.

use crate::error::ConfigError;
use serde::{Deserialize, Serialize};

/// A gate: a question about a run whose answer may keep it from being published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Users in the results: as many as in the table, and about as many as in the previous run.
    Rows,
    /// Values that the towers do not know, by feature.
    Unknown,
    /// Missing values by feature, against the previous run.
    Missing,
    /// Vectors that are zero or not finite.
    Vectors,
    /// Recall of the item index against exact search.
    Index,
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
    pub const ALL: [Gate; 9] = [
        Gate::Rows,
        Gate::Unknown,
        Gate::Missing,
        Gate::Vectors,
        Gate::Index,
        Gate::Coverage,
        Gate::Users,
        Gate::Overlap,
        Gate::Metric,
    ];

    /// The name as typed and printed.
    pub fn name(self) -> &'static str {
        match self {
            Gate::Rows => "rows",
            Gate::Unknown => "unknown",
            Gate::Missing => "missing",
            Gate::Vectors => "vectors",
            Gate::Index => "index",
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
    /// `unknown`: the largest share of a feature's values that may be unknown.
    pub max_unknown: f64,
    /// `unknown`: how much it may exceed the previous run's.
    pub unknown_margin: f64,
    /// `missing`: how much the missing share of a feature may exceed the previous run's.
    pub missing_margin: f64,
    /// `unknown`, `missing`: features that are passed over, such as `item.product`.
    pub ignore_features: Vec<String>,
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
            max_unknown: 0.5,
            unknown_margin: 0.1,
            missing_margin: 0.2,
            ignore_features: Vec::new(),
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
    /// Checks that every limit is one that a run can be held against; `features` are those of the job.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] naming the setting, or the nearest feature for an unknown one.
    pub fn check<'f>(&self, features: impl Iterator<Item = &'f str> + Clone) -> Result<(), ConfigError> {
        let limits = [
            ("min_rows", self.min_rows, 1.0),
            ("max_rows", self.max_rows, f64::INFINITY),
            ("max_unknown", self.max_unknown, 1.0),
            ("unknown_margin", self.unknown_margin, 1.0),
            ("missing_margin", self.missing_margin, 1.0),
            ("min_coverage", self.min_coverage, 1.0),
            ("min_coverage_kept", self.min_coverage_kept, 1.0),
            ("min_shared_users", self.min_shared_users, 1.0),
            ("min_overlap", self.min_overlap, 1.0),
            ("min_metric_kept", self.min_metric_kept, 1.0),
            ("min_metric_of_popularity", self.min_metric_of_popularity, f64::INFINITY),
        ];
        for (name, value, most) in limits {
            // Written so that NaN is refused.
            if !(0.0..=most).contains(&value) {
                let expected = if most == 1.0 { "a share from 0 to 1" } else { "a number of at least 0" };
                return Err(ConfigError::usage(format!("`gates.{name}` = {value}: expected {expected}")));
            }
        }
        if self.max_rows < 1.0 {
            return Err(ConfigError::usage(format!(
                "`gates.max_rows` = {}: expected at least 1, or a night like the one before would fail",
                self.max_rows
            )));
        }
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
