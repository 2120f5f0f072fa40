//! Random numbers whose state is a pure function of what they are for, so that a resumed run draws
//! the same ones as an undisturbed run, whatever the number of threads.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a counter and a hash of it.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator for one purpose: a seed and a path such as `[stream, epoch, step]`.
    pub fn at(seed: u64, path: &[u64]) -> Self {
        let state = path
            .iter()
            .fold(mix(seed.wrapping_add(GAMMA)), |state, part| mix(state.wrapping_mul(GAMMA) ^ mix(*part ^ GAMMA)));
        Self { state }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`; the bias is below n / 2^64.
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

    /// Calls `hit` with each index of `0..len` chosen independently with probability `rate`, in
    /// order. Draws one number per hit, not per index.
    pub fn each_hit(&mut self, rate: f64, len: usize, mut hit: impl FnMut(usize)) {
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
