//! What has changed from an earlier profile to a later one.
//!
//! Every measure is a distance between two distributions from 0 (the same) to 1 (nothing in common), so that features
//! of all kinds stand in one order:
//!
//! - of values, the total variation distance: half the sum of the differences of shares (Levin, Peres and Wilmer,
//!   Markov Chains and Mixing Times, section 4.1). Profiles list the most frequent values alone. Where some are not
//!   listed, it is the largest difference in the share of any set of listed values that is certain: a lower bound.
//! - of numbers, lengths, and events of users and items, the two-sample Kolmogorov-Smirnov statistic: the largest
//!   difference of the two distribution functions (Conover, Practical Nonparametric Statistics, section 6.3), taken at
//!   the percentiles of both, so within 0.02 of that of the rows.

use crate::profile::types::{
    Change, Distance, Distribution, Drift, FeatureDrift, FeatureProfile, Measure, Numbers, Participants, Profile,
    TableProfile, Values, share,
};
use std::collections::BTreeMap;

impl Change<f64> {
    fn size(&self) -> f64 {
        (self.after - self.before).abs()
    }
}

/// The drift from an earlier profile, read from the file `against`, to a later one.
pub(crate) fn drift(against: &str, earlier: &Profile, later: &Profile) -> Drift {
    let rows = [
        ("users", earlier.users.rows, later.users.rows),
        ("items", earlier.items.rows, later.items.rows),
        ("interactions", earlier.interactions.rows, later.interactions.rows),
    ];
    let rows = rows.into_iter().map(|(table, before, after)| (table.to_string(), Change { before, after }));
    let mut drift = Drift {
        against: against.to_string(),
        rows: rows.collect(),
        features: Vec::new(),
        added: Vec::new(),
        removed: Vec::new(),
    };
    drift.compare_tables("users", &earlier.users, &later.users);
    drift.compare_tables("items", &earlier.items, &later.items);
    let (before, after) = (&earlier.interactions, &later.interactions);
    drift.features.push(of_participants("events of each user", &before.users, &after.users));
    drift.features.push(of_participants("events of each item", &before.items, &after.items));
    // A stable sort: equal ones stay in the order of the job.
    drift.features.sort_by(|a, b| b.score.total_cmp(&a.score));
    drift
}

impl Drift {
    fn compare_tables(&mut self, table: &str, earlier: &TableProfile, later: &TableProfile) {
        let same = |a: &FeatureProfile, b: &FeatureProfile| a.name == b.name && a.kind == b.kind;
        for before in &earlier.features {
            match later.features.iter().find(|after| same(before, after)) {
                Some(after) => self.features.push(of_features(table, before, after)),
                None => self.removed.push(format!("{table}.{}", before.name)),
            }
        }
        let new = later.features.iter().filter(|after| !earlier.features.iter().any(|before| same(before, after)));
        self.added.extend(new.map(|after| format!("{table}.{}", after.name)));
    }
}

impl FeatureDrift {
    fn new(
        table: &str,
        feature: &str,
        missing: Change<f64>,
        unknown: Option<Change<f64>>,
        distances: Vec<Distance>,
    ) -> Self {
        let sizes = distances.iter().map(|distance| distance.distance);
        let score = sizes.chain([missing.size()]).chain(unknown.as_ref().map(Change::size)).fold(0.0, f64::max);
        Self { table: table.to_string(), feature: feature.to_string(), score, missing, unknown, distances }
    }
}

fn of_features(table: &str, before: &FeatureProfile, after: &FeatureProfile) -> FeatureDrift {
    let missing = Change { before: before.missing_share(), after: after.missing_share() };
    let unknown = before.unknown_share().zip(after.unknown_share());
    let unknown = unknown.map(|(before, after)| Change { before, after });
    let distances = [
        before.values.as_ref().zip(after.values.as_ref()).and_then(|(a, b)| of_values(a, b)),
        of_numbers(Distribution::Numbers, before.numbers.as_ref(), after.numbers.as_ref()),
        of_numbers(Distribution::Lengths, before.lengths.as_ref(), after.lengths.as_ref()),
    ];
    FeatureDrift::new(table, &before.name, missing, unknown, distances.into_iter().flatten().collect())
}

/// The share of ids of the table that have no event is what is missing.
fn of_participants(what: &str, before: &Participants, after: &Participants) -> FeatureDrift {
    let idle = |of: &Participants| if of.of_table == 0 { 0.0 } else { 1.0 - share(of.known, of.of_table) };
    let missing = Change { before: idle(before), after: idle(after) };
    let distance = of_numbers(Distribution::Events, before.events.as_ref(), after.events.as_ref());
    FeatureDrift::new("interactions", what, missing, None, distance.into_iter().collect())
}

fn of_numbers(of: Distribution, before: Option<&Numbers>, after: Option<&Numbers>) -> Option<Distance> {
    let distance = kolmogorov_smirnov(&before?.percentiles, &after?.percentiles);
    Some(Distance { of, measure: Measure::KolmogorovSmirnov, distance })
}

/// None where a profile has no values, or lists none.
fn of_values(before: &Values, after: &Values) -> Option<Distance> {
    let unlisted = |values: &Values| values.top.is_empty();
    if unlisted(before) || unlisted(after) {
        return None;
    }
    let whole = |values: &Values| values.top.len() as u64 == values.distinct;
    let measure = if whole(before) && whole(after) { Measure::TotalVariation } else { Measure::TotalVariationAtLeast };
    let distance = gain(before, after).max(gain(after, before));
    Some(Distance { of: Distribution::Values, measure, distance })
}

/// How much larger the share of the values that `a` lists and that are more frequent there is than their share in `b`,
/// at the least: the share of a value that `b` does not list is at most that of the last one it lists.
fn gain(a: &Values, b: &Values) -> f64 {
    let listed: BTreeMap<&str, u64> = b.top.iter().map(|top| (top.value.as_str(), top.count)).collect();
    let whole = b.top.len() as u64 == b.distinct;
    let unlisted = if whole { 0 } else { b.top.last().map_or(b.count, |top| top.count) };
    let gains = a.top.iter().map(|top| {
        let other = listed.get(top.value.as_str()).copied().unwrap_or(unlisted);
        (share(top.count, a.count) - share(other, b.count)).max(0.0)
    });
    gains.sum()
}

/// The largest difference of two distribution functions that are known by their percentiles, at these.
fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> f64 {
    let below = |percentiles: &[f64], x: f64| {
        // The share of numbers that are at most x, which the last percentile up to x tells.
        let count = percentiles.partition_point(|at| *at <= x);
        share(count.saturating_sub(1) as u64, percentiles.len().saturating_sub(1) as u64)
    };
    a.iter().chain(b).map(|x| (below(a, *x) - below(b, *x)).abs()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::types::TopValue;
    use twotower_queries::percentiles;

    fn values(distinct: u64, count: u64, top: &[(&str, u64)]) -> Values {
        let top = top.iter().map(|(value, count)| TopValue { value: value.to_string(), count: *count }).collect();
        Values { count, distinct, unknown: None, top }
    }

    #[test]
    fn total_variation_is_half_the_sum_of_differences() {
        // Shares .5 .3 .2 and .2 .3 .1 .4: half of .3 + 0 + .1 + .4.
        let before = values(3, 10, &[("a", 5), ("b", 3), ("c", 2)]);
        let after = values(4, 20, &[("d", 8), ("b", 6), ("a", 4), ("c", 2)]);
        for (x, y) in [(&before, &after), (&after, &before)] {
            let found = of_values(x, y).unwrap();
            assert_eq!(found.measure, Measure::TotalVariation);
            assert!((found.distance - 0.4).abs() < 1e-12, "{found:?}");
        }
        assert_eq!(of_values(&after, &after).unwrap().distance, 0.0);
        let other = values(1, 3, &[("z", 3)]);
        assert!((of_values(&before, &other).unwrap().distance - 1.0).abs() < 1e-12);
    }

    #[test]
    fn of_values_that_are_not_listed_no_more_is_said_than_is_certain() {
        // `a` fell from .5 to at most .02, the share of the last listed; the rest may be anything.
        let before = values(100, 100, &[("a", 50), ("b", 10)]);
        let after = values(100, 100, &[("b", 10), ("c", 2)]);
        let found = of_values(&before, &after).unwrap();
        assert_eq!(found.measure, Measure::TotalVariationAtLeast);
        assert!((found.distance - 0.48).abs() < 1e-12, "{found:?}");
        assert_eq!(of_values(&before, &before).unwrap().distance, 0.0);
        assert_eq!(of_values(&before, &values(100, 100, &[])), None);
    }

    #[test]
    fn kolmogorov_smirnov_is_the_largest_difference_of_distribution_functions() {
        let even = |from: u32, to: u32| percentiles(&(from..=to).map(f64::from).collect::<Vec<_>>());
        let shifted = kolmogorov_smirnov(&even(0, 1000), &even(250, 1250));
        assert!((shifted - 0.25).abs() < 0.011, "{shifted}");
        assert_eq!(kolmogorov_smirnov(&even(0, 10), &even(0, 10)), 0.0);
        assert_eq!(kolmogorov_smirnov(&even(0, 10), &even(20, 30)), 1.0);
        // 40 of 100 are 0 and the others 1; then 70 of 100.
        let zeros = |n: usize| percentiles(&(0..100).map(|i| f64::from(u8::from(i >= n))).collect::<Vec<_>>());
        let changed = kolmogorov_smirnov(&zeros(40), &zeros(70));
        assert!((changed - 0.3).abs() < 0.021, "{changed}");
        let constant = percentiles(&[5.0, 5.0]);
        assert_eq!(kolmogorov_smirnov(&constant, &constant), 0.0);
        assert_eq!(kolmogorov_smirnov(&constant, &percentiles(&[6.0])), 1.0);
    }
}
