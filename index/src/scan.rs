//! Compares the scores of a group of queries with their thresholds, the vectorised half of selecting the top k.

use crate::rank::{Key, key};
use crate::tile::{LANES, Lanes};

/// Items that are scanned at a time. A tile is padded to a multiple of it.
pub(crate) const BLOCK: usize = 4;

/// Appends to each query's keys its scores at or above its threshold, block by block, until the tile
/// ends or a query has more than `limit` keys. Returns the position after the last block scanned.
///
/// `first` is the item row of `scores[0]`, and `scores` is a whole number of blocks.
pub(crate) fn collect_above(
    scores: &[Lanes],
    from: usize,
    thresholds: &Lanes,
    first: u32,
    limit: usize,
    keys: &mut [Vec<Key>; LANES],
) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;

        #[target_feature(enable = "avx512f")]
        fn wide(
            s: &[Lanes],
            from: usize,
            bar: &Lanes,
            first: u32,
            limit: usize,
            keys: &mut [Vec<Key>; LANES],
        ) -> usize {
            // SAFETY: `Lanes` has 16 floats, here and below.
            let bar = unsafe { _mm512_loadu_ps(bar.0.as_ptr()) };
            collect(s, from, first, limit, keys, |item| {
                // SAFETY: as above.
                let values = unsafe { _mm512_loadu_ps(item.0.as_ptr()) };
                u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, bar))
            })
        }

        #[target_feature(enable = "avx2")]
        fn middle(
            s: &[Lanes],
            from: usize,
            bar: &Lanes,
            first: u32,
            limit: usize,
            keys: &mut [Vec<Key>; LANES],
        ) -> usize {
            // SAFETY: each half of `Lanes` has 8 floats, here and below.
            let bars = [0, 8].map(|half| unsafe { _mm256_loadu_ps(bar.0.as_ptr().add(half)) });
            collect(s, from, first, limit, keys, |item| {
                let above = |half: usize| {
                    // SAFETY: as above.
                    let values = unsafe { _mm256_loadu_ps(item.0.as_ptr().add(half * 8)) };
                    u64::from(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(values, bars[half])) as u8)
                };
                above(0) | above(1) << 8
            })
        }

        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature the function is compiled for.
            return unsafe { wide(scores, from, thresholds, first, limit, keys) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { middle(scores, from, thresholds, first, limit, keys) };
        }
    }
    collect_portable(scores, from, thresholds, first, limit, keys)
}

fn collect_portable(
    scores: &[Lanes],
    from: usize,
    thresholds: &Lanes,
    first: u32,
    limit: usize,
    keys: &mut [Vec<Key>; LANES],
) -> usize {
    collect(scores, from, first, limit, keys, |item| {
        let above = item.0.iter().zip(&thresholds.0).map(|(s, bar)| u64::from(s >= bar));
        above.enumerate().fold(0, |mask, (lane, above)| mask | above << lane)
    })
}

#[inline(always)]
fn collect(
    scores: &[Lanes],
    from: usize,
    first: u32,
    limit: usize,
    keys: &mut [Vec<Key>; LANES],
    mask_of: impl Fn(&Lanes) -> u64,
) -> usize {
    let mut at = from;
    let (blocks, _) = scores[from..].as_chunks::<BLOCK>();
    for block in blocks {
        let mut mask = 0;
        for (i, item) in block.iter().enumerate() {
            mask |= mask_of(item) << (i * LANES);
        }
        let mut is_full = false;
        while mask != 0 {
            let hit = mask.trailing_zeros() as usize;
            let (item, lane) = (hit / LANES, hit % LANES);
            keys[lane].push(key(block[item].0[lane], first + (at + item) as u32));
            is_full |= keys[lane].len() > limit;
            mask &= mask - 1;
        }
        at += BLOCK;
        if is_full {
            break;
        }
    }
    at
}

/// For each query, a lower bound of its k-th largest score: at least `k` of its scores, or all that are not minus
/// infinity, reach it. It is `f32::MIN` if the tile is too short for a bound.
///
/// The scores are divided into groups. About the k-th largest of the groups' maxima is such a bound, and a
/// close one: with 2,000 scores and k = 50, about 60 scores are above it.
pub(crate) fn lower_bounds(scores: &[Lanes], k: usize, maxima: &mut Vec<Lanes>) -> Lanes {
    let groups = (k * 5 / 2).next_multiple_of(64).max(128);
    let mut bounds = Lanes::all(f32::MIN);
    if scores.len() >= 2 * groups {
        group_maxima(scores, groups, maxima);
        bounds = near_kth(maxima, k as u32);
    }
    bounds
}

/// For each query, a number close to the k-th largest of its values but not above it, or -2 if fewer
/// than k values reach that.
fn near_kth(values: &[Lanes], k: u32) -> Lanes {
    /// So many halvings narrow the range of cosines to 0.0003, in which there is about one of 2,000 scores.
    const STEPS: usize = 14;
    let (mut low, mut high) = (Lanes::all(-2.0), Lanes::all(2.0));
    for _ in 0..STEPS {
        let middle = Lanes(std::array::from_fn(|lane| 0.5 * (low.0[lane] + high.0[lane])));
        for (lane, above) in count_above(values, &middle).into_iter().enumerate() {
            let side = if above >= k { &mut low } else { &mut high };
            side.0[lane] = middle.0[lane];
        }
    }
    low
}

/// How many values of each query are at or above its threshold.
fn count_above(values: &[Lanes], thresholds: &Lanes) -> [u32; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;

        #[target_feature(enable = "avx2")]
        fn wide(values: &[Lanes], bar: &Lanes) -> [u32; LANES] {
            let mut counts = [0u32; LANES];
            for half in [0, 8] {
                // SAFETY: each half of `Lanes` has 8 floats, here and below.
                let bar = unsafe { _mm256_loadu_ps(bar.0.as_ptr().add(half)) };
                let mut sums = _mm256_setzero_si256();
                for value in values {
                    // SAFETY: as above.
                    let value = unsafe { _mm256_loadu_ps(value.0.as_ptr().add(half)) };
                    // A comparison that holds gives -1.
                    sums = _mm256_sub_epi32(sums, _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GE_OQ>(value, bar)));
                }
                // SAFETY: each half of `counts` has 8 integers.
                unsafe { _mm256_storeu_si256(counts.as_mut_ptr().add(half).cast(), sums) };
            }
            counts
        }

        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature the function is compiled for.
            return unsafe { wide(values, thresholds) };
        }
    }
    count_above_portable(values, thresholds)
}

fn count_above_portable(values: &[Lanes], thresholds: &Lanes) -> [u32; LANES] {
    let mut counts = [0u32; LANES];
    for value in values {
        for (count, (value, bar)) in counts.iter_mut().zip(value.0.iter().zip(&thresholds.0)) {
            *count += u32::from(value >= bar);
        }
    }
    counts
}

/// The largest score of each group and query. Item i belongs to group i modulo `groups`.
fn group_maxima(scores: &[Lanes], groups: usize, maxima: &mut Vec<Lanes>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(scores: &[Lanes], groups: usize, maxima: &mut Vec<Lanes>) {
            group_maxima_lanes(scores, groups, maxima);
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature the function is compiled for.
            return unsafe { wide(scores, groups, maxima) };
        }
    }
    group_maxima_lanes(scores, groups, maxima);
}

#[inline(always)]
fn group_maxima_lanes(scores: &[Lanes], groups: usize, maxima: &mut Vec<Lanes>) {
    maxima.clear();
    maxima.extend_from_slice(&scores[..groups]);
    for part in scores[groups..].chunks(groups) {
        for (largest, s) in maxima.iter_mut().zip(part) {
            for (largest, s) in largest.0.iter_mut().zip(&s.0) {
                *largest = largest.max(*s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::row;

    fn scores(n: usize) -> Vec<Lanes> {
        let score = |i: usize, lane: usize| (((i * LANES + lane) * 7919 % 1009) as f32 / 1009.0) - 0.5;
        (0..n).map(|i| Lanes(std::array::from_fn(|lane| score(i, lane)))).collect()
    }

    #[test]
    fn scanning_finds_exactly_the_scores_above_on_every_instruction_set() {
        let mut s = scores(640);
        s[13] = Lanes::all(f32::NEG_INFINITY);
        for threshold in [f32::MIN, -0.2, 0.3, 0.9] {
            let bars = Lanes(std::array::from_fn(|lane| threshold + lane as f32 / 100.0));
            let (mut keys, mut portable) = Default::default();
            assert_eq!(collect_above(&s, 0, &bars, 1000, usize::MAX, &mut keys), 640);
            assert_eq!(collect_portable(&s, 0, &bars, 1000, usize::MAX, &mut portable), 640);
            assert_eq!(keys, portable);
            for (lane, keys) in keys.iter().enumerate() {
                let expected = (0..640).filter(|i| s[*i as usize].0[lane] >= bars.0[lane]).map(|i| i + 1000);
                assert!(keys.iter().map(|k| row(*k)).eq(expected));
            }
        }
    }

    #[test]
    fn counting_gives_the_same_on_every_instruction_set() {
        let s = scores(77);
        let bars = Lanes(std::array::from_fn(|lane| lane as f32 / 20.0 - 0.4));
        assert_eq!(count_above(&s, &bars), count_above_portable(&s, &bars));
    }

    #[test]
    fn one_full_query_interrupts_the_scan_at_a_block() {
        let s = scores(640);
        let mut bars = Lanes::all(f32::INFINITY);
        bars.0[5] = f32::MIN;
        let mut keys = Default::default();
        assert_eq!(collect_above(&s, 64, &bars, 0, 100, &mut keys), 168);
        assert_eq!(keys[5].len(), 104);
        assert_eq!(collect_above(&s, 168, &bars, 0, usize::MAX, &mut keys), 640);
        assert!(keys[5].iter().map(|k| row(*k)).eq(64..640));
        assert!(keys.iter().enumerate().all(|(lane, keys)| lane == 5 || keys.is_empty()));
    }

    #[test]
    fn at_least_k_scores_reach_the_lower_bound_and_few_more() {
        for (n, k) in [(2048, 50), (2000, 1), (1024, 200), (256, 10), (255, 10)] {
            let s = scores(n);
            let bounds = lower_bounds(&s, k, &mut Vec::new());
            for lane in 0..LANES {
                let reached = s.iter().filter(|v| v.0[lane] >= bounds.0[lane]).count();
                let is_short = n < 2 * (k * 5 / 2).next_multiple_of(64).max(128);
                assert!(reached >= k && (reached <= 2 * k + 4 || is_short), "{n} {k} {reached}");
                assert_eq!(bounds.0[lane] == f32::MIN, is_short);
            }
        }
    }

    #[test]
    fn hidden_scores_leave_a_bound_that_all_others_reach() {
        let mut s = vec![Lanes::all(f32::NEG_INFINITY); 512];
        s[7] = Lanes::all(-1.0);
        let bounds = lower_bounds(&s, 50, &mut Vec::new());
        assert!(bounds.0.iter().all(|b| (f32::MIN..-1.0).contains(b)));
    }
}
