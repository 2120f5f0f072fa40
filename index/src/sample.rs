//! Seeded randomness: the insertion order of builds, and queries for tests and benchmarks.

use crate::vectors::scale;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// A standard normal number (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (u, v) = (unit(self.next()), unit(self.next()));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// The numbers below `n` in random order (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// `count` unit vectors near random items of `[items, dim]`: an item plus Gaussian noise of half its length.
///
/// For tests and benchmarks that have no users. Graphs find more of their neighbours than of those of users of a
/// trained model, who lie apart from the items.
///
/// Returns `[count, dim]` f32, the same for the same items, count and seed.
pub fn noisy_queries(dim: usize, items: &[f32], count: usize, seed: u64) -> Vec<f32> {
    let mut rng = SplitMix::new(seed);
    let mut queries = Vec::with_capacity(count * dim);
    for _ in 0..count {
        let row = rng.below(items.len() / dim);
        let item = &items[row * dim..][..dim];
        let deviation = 0.5 / (dim as f64).sqrt();
        let start = queries.len();
        queries.extend(item.iter().map(|v| (f64::from(*v) + deviation * rng.normal()) as f32));
        let norm = crate::dot::square_norm(&queries[start..]).sqrt();
        if norm > 1e-3 {
            scale(&mut queries[start..], norm);
        } else {
            queries[start..].copy_from_slice(item);
        }
    }
    queries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_hold_every_number_once_and_follow_the_seed() {
        let mut order = SplitMix::new(3).permutation(1000);
        assert_eq!(order, SplitMix::new(3).permutation(1000));
        assert_ne!(order, SplitMix::new(4).permutation(1000));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut rng = SplitMix::new(1);
        let draws: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
