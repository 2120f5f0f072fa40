//! Distributions from which negative items are drawn.

use crate::rng::Rng;
use crate::train::SamplerKind;

/// Draws items from a distribution over the catalogue.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Cumulative sums of the items' weights.
    cumulative: Vec<f64>,
}

impl Sampler {
    /// A sampler for a catalogue with the given training counts.
    pub fn new(kind: SamplerKind, counts: &[u64]) -> Self {
        let mut total = 0.0;
        let cumulative = counts
            .iter()
            .map(|count| {
                total += match kind {
                    SamplerKind::Uniform => 1.0,
                    SamplerKind::Popularity => (*count as f64).powf(0.75),
                };
                total
            })
            .collect();
        Self { cumulative }
    }

    /// Draws an item row.
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        let at = rng.uniform() * self.cumulative.last().copied().unwrap_or(0.0);
        self.cumulative.partition_point(|sum| *sum <= at).min(self.cumulative.len().saturating_sub(1)) as u32
    }

    /// Draws an item row for which `refused` is false, or gives `None` after 100 refused ones.
    pub fn draw_outside(&self, rng: &mut Rng, refused: impl Fn(u32) -> bool) -> Option<u32> {
        (0..100).map(|_| self.draw(rng)).find(|item| !refused(*item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_distribution() {
        let counts = [0u64, 1, 16, 81];
        let expected =
            [(SamplerKind::Uniform, [0.25; 4]), (SamplerKind::Popularity, [0.0, 1.0, 8.0, 27.0].map(|w| w / 36.0))];
        for (kind, shares) in expected {
            let sampler = Sampler::new(kind, &counts);
            let mut rng = Rng::at(1, &[]);
            let mut seen = [0usize; 4];
            (0..40_000).for_each(|_| seen[sampler.draw(&mut rng) as usize] += 1);
            for (seen, share) in seen.iter().zip(shares) {
                // The tolerance is five standard deviations of a binomial.
                assert!((*seen as f64 - 40_000.0 * share).abs() <= 5.0 * (40_000.0f64 * share * (1.0 - share)).sqrt());
            }
        }
    }

    #[test]
    fn refused_items_are_never_drawn() {
        let sampler = Sampler::new(SamplerKind::Uniform, &[1; 3]);
        let mut rng = Rng::at(2, &[]);
        assert!((0..100).all(|_| sampler.draw_outside(&mut rng, |item| item != 1) == Some(1)));
        assert_eq!(sampler.draw_outside(&mut rng, |_| true), None);
    }
}
