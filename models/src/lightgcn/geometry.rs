//! How item vectors lie to each other while they are trained, and how much of it is left of their texts: the cosines of
//! random pairs of items that have a text, the same pairs in every epoch.
//!
//! The mean tells vectors that all point one way (a collapse) from vectors that spread, the deviation how far they spread.
//! The correlation of the pairs' cosines with those of their texts is 1 while the vectors lie to each other as the texts
//! do, and about 0 when nothing of that is left (representational similarity; Kriegeskorte et al., Frontiers in Systems
//! Neuroscience 2008).

use super::text::Text;
use crate::lanes::dot;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// The purpose for which pairs are drawn.
const PAIRS_OF_ITEMS: u64 = 30;
/// Pairs.
const PAIRS: usize = 10_000;

/// Figures of the final vectors with which an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Geometry {
    mean: f64,
    deviation: f64,
    kept: f64,
}

impl Geometry {
    /// The figures of item vectors `[nodes, dim]`; none where fewer than two items have a text.
    pub(super) fn of(text: &Text, items: &[f32], dim: usize, seed: u64) -> Option<Self> {
        let (nodes, texts) = text.texts();
        if nodes.len() < 2 {
            return None;
        }
        let mut rng = Rng::at(seed, &[PAIRS_OF_ITEMS]);
        let (mut found, mut of_texts) = (Moments::default(), Moments::default());
        let mut product = 0.0;
        for _ in 0..PAIRS {
            let one = rng.below(nodes.len());
            let other = (one + 1 + rng.below(nodes.len() - 1)) % nodes.len();
            let pair = [one, other];
            let [a, b] = pair.map(|at| &items[nodes[at] as usize * dim..][..dim]);
            let [s, t] = pair.map(|at| &texts[at * text.width()..][..text.width()]);
            let (cosine, of_text) = (cosine(a, b), cosine(s, t));
            found.add(cosine);
            of_texts.add(of_text);
            product += cosine * of_text;
        }
        let (mean, deviation) = found.mean_and_deviation();
        let (text_mean, text_deviation) = of_texts.mean_and_deviation();
        let covariance = product / PAIRS as f64 - mean * text_mean;
        let scale = deviation * text_deviation;
        Some(Self { mean, deviation, kept: if scale > 0.0 { covariance / scale } else { 0.0 } })
    }

    /// The figures by name.
    pub fn watched(&self) -> [(&'static str, f64); 3] {
        [("item_cosine_mean", self.mean), ("item_cosine_deviation", self.deviation), ("text_correlation", self.kept)]
    }
}

/// The cosine of two vectors; 0 where one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let norms = f64::from(dot(a, a)).sqrt() * f64::from(dot(b, b)).sqrt();
    if norms > 0.0 { f64::from(dot(a, b)) / norms } else { 0.0 }
}

/// Sums over pairs.
#[derive(Default)]
struct Moments {
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.sum += x;
        self.squares += x * x;
    }

    fn mean_and_deviation(&self) -> (f64, f64) {
        let mean = self.sum / PAIRS as f64;
        (mean, (self.squares / PAIRS as f64 - mean * mean).max(0.0).sqrt())
    }
}
