//! Draws the insertion order of builds, and queries for tests and benchmarks, from a seed.

use crate::vectors::scale;
use twotower_artifacts::split_mix::SplitMix64;

/// Draws random numbers from a seed.
pub(crate) struct Draw(SplitMix64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.bits()) * n as u128) >> 64) as usize
    }

    /// A standard normal number (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (u, v) = (unit(self.0.bits()), unit(self.0.bits()));
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
/// They are for tests and benchmarks without users. The vectors of users of a trained model lie apart from those of
/// items, so graphs find fewer of their neighbours than of these queries.
///
/// Returns `[count, dim]` f32, the same for the same items, count and seed.
pub fn noisy_queries(dim: usize, items: &[f32], count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Draw::new(seed);
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
        let mut order = Draw::new(3).permutation(1000);
        assert_eq!(order, Draw::new(3).permutation(1000));
        assert_ne!(order, Draw::new(4).permutation(1000));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut rng = Draw::new(1);
        let draws: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
