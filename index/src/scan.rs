//! Scanning a row of scores against a threshold: the vectorised half of top-k.

use crate::dot::dispatch;
use crate::rank::{Key, key};

/// Scores are scanned in blocks of this many; rows of scores are padded to a multiple of it.
pub(crate) const BLOCK: usize = 64;

/// Appends keys of the scores at or above `threshold`, block by block, until the row ends or
/// more than `limit` keys are held; returns the position after the last block scanned.
///
/// `first` is the item row of `scores[0]`; `scores` is a whole number of blocks.
pub(crate) fn collect_above(
    scores: &[f32],
    from: usize,
    threshold: f32,
    first: u32,
    limit: usize,
    keys: &mut Vec<Key>,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;

        #[target_feature(enable = "avx512f")]
        fn wide(s: &[f32], from: usize, threshold: f32, first: u32, limit: usize, keys: &mut Vec<Key>) -> usize {
            let bar = _mm512_set1_ps(threshold);
            collect(s, from, first, limit, keys, |block| {
                let mut mask = 0u64;
                for part in 0..BLOCK / 16 {
                    // SAFETY: 16 floats from `part * 16` on lie within the block of 64.
                    let values = unsafe { _mm512_loadu_ps(block.as_ptr().add(part * 16)) };
                    mask |= u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, bar)) << (part * 16);
                }
                mask
            })
        }

        #[target_feature(enable = "avx2")]
        fn middle(s: &[f32], from: usize, threshold: f32, first: u32, limit: usize, keys: &mut Vec<Key>) -> usize {
            let bar = _mm256_set1_ps(threshold);
            collect(s, from, first, limit, keys, |block| {
                let mut mask = 0u64;
                for part in 0..BLOCK / 8 {
                    // SAFETY: 8 floats from `part * 8` on lie within the block of 64.
                    let values = unsafe { _mm256_loadu_ps(block.as_ptr().add(part * 8)) };
                    let above = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(values, bar)) as u8;
                    mask |= u64::from(above) << (part * 8);
                }
                mask
            })
        }

        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature the function is compiled for.
            return unsafe { wide(scores, from, threshold, first, limit, keys) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { middle(scores, from, threshold, first, limit, keys) };
        }
    }
    collect_portable(scores, from, threshold, first, limit, keys)
}

fn collect_portable(
    scores: &[f32],
    from: usize,
    threshold: f32,
    first: u32,
    limit: usize,
    keys: &mut Vec<Key>,
) -> usize {
    collect(scores, from, first, limit, keys, |block| {
        block.iter().enumerate().fold(0, |mask, (i, s)| mask | u64::from(*s >= threshold) << i)
    })
}

#[inline(always)]
fn collect(
    scores: &[f32],
    from: usize,
    first: u32,
    limit: usize,
    keys: &mut Vec<Key>,
    mask_of: impl Fn(&[f32; BLOCK]) -> u64,
) -> usize {
    let mut at = from;
    let (blocks, _) = scores[from..].as_chunks::<BLOCK>();
    for block in blocks {
        let mut mask = mask_of(block);
        while mask != 0 {
            let i = mask.trailing_zeros();
            keys.push(key(block[i as usize], first + at as u32 + i));
            mask &= mask - 1;
        }
        at += BLOCK;
        if keys.len() > limit {
            break;
        }
    }
    at
}

/// A score that at least `k` of `scores` reach, or `f32::MIN` where the row is too short to tell.
///
/// The scores are dealt into groups; the k-th largest of the groups' maxima is such a bound, and a
/// close one: at 2,000 scores and k = 50 about 60 scores lie above it.
pub(crate) fn lower_bound(scores: &[f32], k: usize, maxima: &mut Vec<f32>) -> f32 {
    let groups = (k * 5 / 2).next_multiple_of(BLOCK).max(2 * BLOCK);
    if scores.len() < 2 * groups {
        return f32::MIN;
    }
    group_maxima(scores, groups, maxima);
    let (_, kth, _) = maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    kth.max(f32::MIN)
}

dispatch! {
    /// Largest score of each group; score i belongs to group i modulo `groups`.
    fn group_maxima(scores: &[f32], groups: usize, maxima: &mut Vec<f32>) = group_maxima_lanes;

    /// Adds `bias` to `scores`, element by element.
    fn add(scores: &mut [f32], bias: &[f32]) = add_lanes;
}

#[inline(always)]
fn group_maxima_lanes(scores: &[f32], groups: usize, maxima: &mut Vec<f32>) {
    maxima.clear();
    maxima.extend_from_slice(&scores[..groups]);
    for part in scores[groups..].chunks(groups) {
        for (largest, s) in maxima.iter_mut().zip(part) {
            *largest = if *s > *largest { *s } else { *largest };
        }
    }
}

#[inline(always)]
fn add_lanes(scores: &mut [f32], bias: &[f32]) {
    for (s, b) in scores.iter_mut().zip(bias) {
        *s += b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::row;

    fn scores(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 / 1009.0) - 0.5).collect()
    }

    #[test]
    fn scanning_finds_exactly_the_scores_above_on_every_instruction_set() {
        let mut s = scores(640);
        s[13] = f32::NEG_INFINITY;
        for threshold in [f32::MIN, -0.2, 0.3, 0.9] {
            let expected: Vec<u32> = (0..640).filter(|i| s[*i as usize] >= threshold).map(|i| i + 1000).collect();
            let (mut keys, mut portable) = (Vec::new(), Vec::new());
            assert_eq!(collect_above(&s, 0, threshold, 1000, usize::MAX, &mut keys), 640);
            assert_eq!(collect_portable(&s, 0, threshold, 1000, usize::MAX, &mut portable), 640);
            assert_eq!(keys, portable);
            assert_eq!(keys.iter().map(|k| row(*k)).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_full_buffer_interrupts_the_scan_at_a_block() {
        let s = scores(640);
        let mut keys = Vec::new();
        assert_eq!(collect_above(&s, 64, f32::MIN, 0, 100, &mut keys), 192);
        assert_eq!(keys.len(), 128);
        assert_eq!(collect_above(&s, 192, f32::MIN, 0, usize::MAX, &mut keys), 640);
        assert_eq!(keys.iter().map(|k| row(*k)).collect::<Vec<_>>(), (64..640).collect::<Vec<u32>>());
    }

    #[test]
    fn at_least_k_scores_reach_the_lower_bound() {
        for (n, k) in [(2048, 50), (2000 / 64 * 64, 1), (1024, 200), (256, 10), (128, 10)] {
            let s = scores(n);
            let bound = lower_bound(&s, k, &mut Vec::new());
            assert!(s.iter().filter(|v| **v >= bound).count() >= k, "{n} {k}");
            assert_eq!(bound == f32::MIN, n < 2 * (k * 5 / 2).next_multiple_of(64).max(128));
        }
    }
}
