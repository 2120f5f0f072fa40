//! The recall of the best possible ranking, and of a constant one, on the generated interactions.

use crate::choice::UserWeights;
use serde::{Deserialize, Serialize};

/// The length of the lists in which recall is measured.
const TOP: usize = 50;
/// Chunks whose buyers are evaluated: about 13,000 users.
pub(crate) const EVALUATED_CHUNKS: u64 = 4;

/// Recall@50 of the generator's own probabilities and of popularity.
///
/// Popularity ranks by the mean probability over the evaluated buyers. Both figures come in two
/// definitions:
/// - the expectation over one more draw, nothing excluded from the ranking:
///   the mean over buyers of the summed probability of the first 50 items;
/// - leave-last-out, as a model is evaluated: the share of buyers with at least two interactions
///   whose last item is among the first 50 when their earlier items are excluded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RecallCeiling {
    /// Buyers evaluated.
    pub users: u64,
    /// Expected recall@50 of the generator's probabilities.
    pub oracle_recall_at_50: f64,
    /// Expected recall@50 of popularity.
    pub popularity_recall_at_50: f64,
    /// Buyers with at least two interactions.
    pub leave_last_out_users: u64,
    /// Leave-last-out recall@50 of the generator's probabilities.
    pub oracle_leave_last_out: f64,
    /// Leave-last-out recall@50 of popularity.
    pub popularity_leave_last_out: f64,
}

/// Sums over the buyers of some chunks, which are merged in the order of chunks.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    users: u64,
    oracle: f64,
    oracle_hits: u64,
    /// `[items]` summed probabilities.
    probabilities: Vec<f64>,
    /// The items of each buyer with at least two, in time order.
    histories: Vec<Vec<u32>>,
}

/// Whether `last` is among the first `TOP` by score when the `earlier` items are excluded.
fn hit<T: PartialOrd + Copy>(scores: &[T], history: &[u32]) -> bool {
    let Some((last, earlier)) = history.split_last() else { return false };
    let score = scores[*last as usize];
    let above = |i: usize, s: T| s > score || (s == score && i < *last as usize);
    let ranked_above = scores.iter().enumerate().filter(|(i, s)| above(*i, **s)).count();
    let excluded = earlier.iter().filter(|i| above(**i as usize, scores[**i as usize])).count();
    ranked_above - excluded < TOP
}

/// Sum of the `TOP` largest.
fn top_sum(mut values: Vec<f64>) -> f64 {
    let k = TOP.min(values.len());
    if k < values.len() {
        values.select_nth_unstable_by(k, |a, b| b.total_cmp(a));
    }
    // The values are sorted, so that the sum does not depend on the order in which the selection leaves them.
    values.truncate(k);
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    values.iter().sum()
}

impl Observations {
    pub fn observe(&mut self, user: UserWeights<'_>, history: &[u32]) {
        let weights = user.as_slice();
        let scale = 1.0 / f64::from(user.total());
        let probabilities: Vec<f64> = weights.iter().map(|w| f64::from(*w) * scale).collect();
        self.probabilities.resize(weights.len(), 0.0);
        for (sum, p) in self.probabilities.iter_mut().zip(&probabilities) {
            *sum += p;
        }
        self.users += 1;
        self.oracle += top_sum(probabilities);
        if history.len() > 1 {
            self.oracle_hits += u64::from(hit(weights, history));
            self.histories.push(history.to_vec());
        }
    }

    pub fn merge(&mut self, next: Observations) {
        self.users += next.users;
        self.oracle += next.oracle;
        self.oracle_hits += next.oracle_hits;
        self.probabilities.resize(self.probabilities.len().max(next.probabilities.len()), 0.0);
        for (sum, p) in self.probabilities.iter_mut().zip(&next.probabilities) {
            *sum += p;
        }
        self.histories.extend(next.histories);
    }

    pub fn finish(self) -> RecallCeiling {
        // Six decimals are read back from JSON exactly.
        let share = |sum: f64, of: u64| if of == 0 { 0.0 } else { (1e6 * sum / of as f64).round() / 1e6 };
        let leavers = self.histories.len() as u64;
        let popularity_hits = self.histories.iter().filter(|history| hit(&self.probabilities, history)).count();
        RecallCeiling {
            users: self.users,
            oracle_recall_at_50: share(self.oracle, self.users),
            popularity_recall_at_50: share(top_sum(self.probabilities), self.users),
            leave_last_out_users: leavers,
            oracle_leave_last_out: share(self.oracle_hits as f64, leavers),
            popularity_leave_last_out: share(popularity_hits as f64, leavers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_items_leave_the_ranking() {
        let scores: Vec<f32> = (0..60).map(|i| 60.0 - i as f32).collect();
        assert!(hit(&scores, &[49]));
        assert!(!hit(&scores, &[50]));
        assert!(hit(&scores, &[3, 50]));
        assert!(!hit(&scores, &[55, 50]));
    }

    #[test]
    fn the_top_sum_takes_all_of_a_small_catalogue() {
        assert_eq!(top_sum(vec![0.25; 4]), 1.0);
        assert_eq!(top_sum((0..100).map(f64::from).collect()), (50..100).map(f64::from).sum::<f64>());
    }
}
