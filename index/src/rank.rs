//! The order of results, and how it is found from approximate scores.
//!
//! The scores of a first pass are approximate. Their last bits depend on the machine and on the kind
//! of index. So results are chosen in two steps. First, candidates whose approximate score is within
//! [`margin`] of the k-th best are kept. Then these are scored again exactly. A dropped candidate cannot
//! belong to the best k, so the result is that of exact scores alone.

use crate::dot::score_exactly;
use crate::vectors::Rows;

/// A scored item as one number. A larger key means a higher score, or the same score and a lower row.
pub(crate) type Key = u64;

/// Key of an item, whose score must not be NaN.
#[inline(always)]
pub(crate) fn key(score: f32, row: u32) -> Key {
    // Adding 0.0 turns -0.0 into 0.0. Then the bits are mapped so that integers have the order of the floats.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    u64::from(ordered) << 32 | u64::from(!row)
}

/// Row of a key.
#[inline(always)]
pub(crate) fn row(key: Key) -> u32 {
    !(key as u32)
}

/// Score of a key.
#[inline(always)]
pub(crate) fn score(key: Key) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & 0x7fff_ffff } else { !ordered })
}

/// By how much the approximate score of one of the exact best k can be below the k-th best approximate score.
///
/// An f32 dot product of unit vectors errs by at most `dim * 2^-24` in any order of summation
/// (Higham, Accuracy and Stability, section 3.1, with Cauchy-Schwarz); rounding the unit vectors
/// and the exact score adds less than four units more. Two scores are compared, hence the 2.
pub(crate) fn margin(dim: usize) -> f32 {
    2.0 * (dim as f32 + 4.0) * f32::EPSILON / 2.0 * 1.01
}

/// A query and the item vectors it is ranked against.
#[derive(Clone, Copy)]
pub(crate) struct Ranking<'a> {
    /// The query as given.
    pub query: &'a [f32],
    /// Its norm.
    pub norm: f64,
    /// All items.
    pub items: Rows<'a>,
    /// Neighbours wanted.
    pub k: usize,
}

impl Ranking<'_> {
    /// Replaces approximate scores by exact ones, and leaves the best k, best first.
    pub fn settle(&self, keys: &mut Vec<Key>) {
        score_exactly(self.query, self.norm, self.items, keys);
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys.truncate(self.k);
    }
}

/// Drops keys that cannot belong to the best k, and returns the score below which no key can.
pub(crate) fn tighten(keys: &mut Vec<Key>, k: usize, margin: f32) -> f32 {
    if keys.len() < k {
        return f32::MIN;
    }
    let (_, kth, _) = keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    let bound = score(*kth) - margin;
    keys.retain(|key| score(*key) >= bound);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_score_then_row_and_keep_both() {
        let scores = [-1.0, -0.5, -0.0, 0.0, 1e-30, 0.5, 1.0];
        for pair in scores.windows(2) {
            assert!(key(pair[0], 3) < key(pair[1], 3) || pair[0] == pair[1]);
        }
        assert_eq!(key(-0.0, 1), key(0.0, 1));
        assert!(key(0.25, 3) > key(0.25, 4));
        for s in scores {
            assert_eq!(score(key(s, 77)), s);
            assert_eq!(row(key(s, 77)), 77);
        }
    }

    #[test]
    fn tightening_keeps_everything_within_the_margin() {
        let mut keys: Vec<Key> = (0..100u32).map(|i| key(i as f32 / 100.0, i)).collect();
        let bound = tighten(&mut keys, 10, 0.05);
        assert!((bound - 0.85).abs() < 1e-6);
        let mut rows: Vec<u32> = keys.iter().map(|k| row(*k)).collect();
        rows.sort_unstable();
        assert!(rows.iter().copied().eq(85..100) || rows.iter().copied().eq(86..100));
        assert_eq!(tighten(&mut vec![1], 2, 0.0), f32::MIN);
    }
}
