//! Random numbers whose sequence depends on (seed, stream, chunk) only, so that a chunk needs nothing from the chunks
//! before it.

use crate::elementary::{exp, ln};
use twotower_artifacts::split_mix::{GAMMA, SplitMix64, mix};

/// What a sequence is drawn for. Different streams are independent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    UserTable(u8),
    ItemTable(u8),
    ItemColumn(u8),
    ItemLatent,
    Popularity,
    UserColumn(u8),
    UserNull(u8),
    Buyers,
    BuyerLatent,
    Choices,
    Drift(u32),
    Exported(u8),
}

impl Stream {
    fn key(self) -> u64 {
        let (name, part) = match self {
            Stream::UserTable(i) => (1, u32::from(i)),
            Stream::ItemTable(i) => (2, u32::from(i)),
            Stream::ItemColumn(i) => (3, u32::from(i)),
            Stream::ItemLatent => (4, 0),
            Stream::Popularity => (5, 0),
            Stream::UserColumn(i) => (6, u32::from(i)),
            Stream::UserNull(i) => (7, u32::from(i)),
            Stream::Buyers => (8, 0),
            Stream::BuyerLatent => (9, 0),
            Stream::Choices => (10, 0),
            Stream::Drift(day) => (11, day),
            Stream::Exported(table) => (12, u32::from(table)),
        };
        name << 32 | u64::from(part)
    }
}

/// One sequence of random numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    generator: SplitMix64,
    /// The second of a pair of normal numbers, which is returned next.
    spare: Option<f64>,
}

impl Random {
    pub fn new(seed: u64, stream: Stream, chunk: u64) -> Self {
        let mut state = mix(seed.wrapping_add(GAMMA));
        for part in [stream.key(), chunk] {
            state = mix(state ^ mix(part.wrapping_add(GAMMA)));
        }
        Self { generator: SplitMix64::new(state), spare: None }
    }

    #[inline]
    pub fn next(&mut self) -> u64 {
        self.generator.bits()
    }

    /// Uniform in `0..n`.
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// Uniform in the open interval (0, 1).
    #[inline]
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// True with probability `p`.
    #[inline]
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Standard normal, by Marsaglia's polar method.
    #[inline]
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let r = x * x + y * y;
            if r > 0.0 && r < 1.0 {
                let scale = (-2.0 * ln(r) / r).sqrt();
                self.spare = Some(y * scale);
                return x * scale;
            }
        }
    }
}

/// Zipf probabilities of `0..cardinality`: `P(i) ~ (i + 1)^-exponent`.
pub(crate) fn zipf_shares(cardinality: u32, exponent: f64) -> Vec<f64> {
    let weight = |rank: u32| f64::from(exp((-exponent * ln(f64::from(rank))) as f32));
    let weights: Vec<f64> = (1..=cardinality).map(weight).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Draws from [`zipf_shares`] in constant time (Vose's alias method).
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    /// `(threshold, alias)` of each slot. A draw below the threshold keeps the slot, any other takes its alias.
    slots: Vec<(u32, u32)>,
}

impl Zipf {
    pub fn new(cardinality: u32, exponent: f64) -> Self {
        let mut share: Vec<f64> =
            zipf_shares(cardinality, exponent).iter().map(|share| share * f64::from(cardinality)).collect();
        let mut slots: Vec<(u32, u32)> = (0..cardinality).map(|i| (u32::MAX, i)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) = (0..cardinality).partition(|i| share[*i as usize] < 1.0);
        while let (Some(s), Some(&l)) = (small.pop(), large.last()) {
            let kept = share[s as usize];
            slots[s as usize] = ((kept * 4_294_967_296.0) as u32, l);
            share[l as usize] -= 1.0 - kept;
            if share[l as usize] < 1.0 {
                large.pop();
                small.push(l);
            }
        }
        Self { slots }
    }

    #[inline]
    pub fn draw(&self, random: &mut Random) -> u32 {
        let r = random.next();
        let slot = ((r >> 32) * self.slots.len() as u64) >> 32;
        let (threshold, alias) = self.slots[slot as usize];
        if (r as u32) < threshold { slot as u32 } else { alias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_differ_by_seed_stream_and_chunk() {
        let first = |seed, stream, chunk| Random::new(seed, stream, chunk).next();
        let all = [
            first(1, Stream::Buyers, 0),
            first(2, Stream::Buyers, 0),
            first(1, Stream::Buyers, 1),
            first(1, Stream::Choices, 0),
            first(1, Stream::UserColumn(0), 0),
            first(1, Stream::UserColumn(1), 0),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
        assert_eq!(first(1, Stream::Buyers, 0), all[0]);
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut random = Random::new(1, Stream::BuyerLatent, 0);
        let n = 200_000;
        let (mut sum, mut squares, mut beyond) = (0.0, 0.0, 0);
        for _ in 0..n {
            let x = random.normal();
            sum += x;
            squares += x * x;
            beyond += usize::from(x.abs() > 1.959_964);
        }
        let n = f64::from(n);
        assert!((sum / n).abs() < 0.01 && (squares / n - 1.0).abs() < 0.02, "{} {}", sum / n, squares / n);
        assert!((beyond as f64 / n - 0.05).abs() < 0.003);
    }

    #[test]
    fn zipf_draws_follow_its_weights() {
        let (zipf, mut random, n) = (Zipf::new(10, 0.9), Random::new(3, Stream::UserColumn(0), 0), 200_000);
        let mut counts = [0u32; 10];
        for _ in 0..n {
            counts[zipf.draw(&mut random) as usize] += 1;
        }
        let weights: Vec<f64> = (1..=10).map(|k| f64::from(k).powf(-0.9)).collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let (found, expected) = (f64::from(*count) / f64::from(n), weight / total);
            assert!((found - expected).abs() < 0.004, "{found} {expected}");
        }
        assert_eq!(Zipf::new(1, 0.9).draw(&mut random), 0);
    }
}
