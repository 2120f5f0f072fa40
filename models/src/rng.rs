//! Random numbers that are a pure function of the seed and of what they are drawn for. So a resumed run draws
//! the same numbers as an undisturbed run, whatever the number of threads.

use twotower_artifacts::split_mix::{GAMMA, SplitMix64, mix};

/// Draws random numbers for one purpose.
#[derive(Debug, Clone)]
pub struct Rng(SplitMix64);

impl Rng {
    /// The generator for a purpose, given by a seed and a path such as `[stream, epoch, step]`.
    pub fn at(seed: u64, path: &[u64]) -> Self {
        let state = path
            .iter()
            .fold(mix(seed.wrapping_add(GAMMA)), |state, part| mix(state.wrapping_mul(GAMMA) ^ mix(*part ^ GAMMA)));
        Self(SplitMix64::new(state))
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`, with a bias below n / 2^64.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "an empty range has no elements");
        ((self.bits() as u128 * n as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
    }

    /// Chooses each index of `0..len` independently with probability `rate`, and calls `hit` with the chosen ones in
    /// order. It draws one number per chosen index, not per index.
    pub(crate) fn each_hit(&mut self, rate: f64, len: usize, mut hit: impl FnMut(usize)) {
        if rate <= 0.0 {
            return;
        }
        let log_miss = (1.0 - rate).ln();
        let mut next = 0usize;
        loop {
            let skip = if rate >= 1.0 { 0.0 } else { ((1.0 - self.uniform()).ln() / log_miss).floor() };
            if skip >= (len - next) as f64 {
                return;
            }
            next += skip as usize;
            hit(next);
            next += 1;
            if next >= len {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_have_the_rate_asked_for_and_stay_in_range() {
        for (rate, len) in [(0.01, 200_000), (0.5, 50_000), (1.0, 100), (0.0, 100)] {
            let (mut count, mut last) = (0usize, None);
            Rng::at(7, &[1]).each_hit(rate, len, |i| {
                assert!(i < len && last.is_none_or(|l| l < i));
                last = Some(i);
                count += 1;
            });
            let (mean, deviation) = (rate * len as f64, (len as f64 * rate * (1.0 - rate)).sqrt());
            assert!((count as f64 - mean).abs() <= 5.0 * deviation, "{count} hits at rate {rate}");
        }
        Rng::at(7, &[1]).each_hit(0.5, 0, |_| panic!("no index to hit"));
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut rng = Rng::at(3, &[]);
        let draws: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }

    #[test]
    fn paths_give_unlike_streams() {
        let mut firsts: Vec<u64> = (0..100).flat_map(|a| (0..100).map(move |b| Rng::at(1, &[a, b]).bits())).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 10_000);
    }
}
