//! Contrasts of vectors. InfoNCE (van den Oord et al., arXiv 1807.03748) tells the positive of an anchor from other
//! candidates. NT-Xent (Chen et al., ICML 2020; CL4SRec, Xie et al., ICDE 2022, arXiv 2010.14395, section III.C) is InfoNCE
//! where views are anchors and candidates at once, and no view is a candidate of itself. Both are a softmax over cosines
//! (`softmax.rs`).

use super::softmax::{Candidates, softmax};
use super::{LossGradient, ScoredBatch};
use crate::lanes::{add, multiply};
use crate::layers::norm;
use crate::similarity::{NORM_FLOOR, Similarity};
use rayon::prelude::*;
use twotower_artifacts::Ragged;

/// Floats that are normalised together, at least.
const TOGETHER: usize = 1 << 14;

/// Rows that are normalised together.
fn rows_together(width: usize) -> usize {
    TOGETHER.div_ceil(width)
}

/// Vectors as they are compared: as they are, or divided by their norms.
#[derive(Debug, Default)]
struct Compared(Vec<f32>);

impl Compared {
    fn forward(&mut self, vectors: &[f32], width: usize, similarity: Similarity) {
        let chunk = rows_together(width) * width;
        self.0.resize(vectors.len(), 0.0);
        let chunks = self.0.par_chunks_mut(chunk).zip(vectors.par_chunks(chunk));
        chunks.for_each(|(compared, vectors)| match similarity {
            Similarity::Dot => compared.copy_from_slice(vectors),
            Similarity::Cosine => norm::forward(vectors, width, NORM_FLOOR, compared),
        });
    }

    /// The gradient of the vectors, `factor` times what that of the compared ones gives, which is `d` and, if there is
    /// a second one, `more` besides.
    fn backward(
        &self,
        (vectors, width, similarity): (&[f32], usize, Similarity),
        (d, more): (&mut [f32], Option<&[f32]>),
        factor: f32,
        d_vectors: &mut Vec<f32>,
    ) {
        let chunk = rows_together(width) * width;
        d_vectors.resize(vectors.len(), 0.0);
        let given = vectors.par_chunks(chunk).zip(self.0.par_chunks(chunk)).zip(d.par_chunks_mut(chunk));
        d_vectors.par_chunks_mut(chunk).zip(given).enumerate().for_each(|(at, (out, ((vectors, compared), d)))| {
            if let Some(more) = more {
                add(d, &more[at * chunk..][..d.len()]);
            }
            multiply(d, factor);
            match similarity {
                Similarity::Dot => out.copy_from_slice(d),
                Similarity::Cosine => norm::backward(vectors, compared, d, width, NORM_FLOOR, out),
            }
        });
    }
}

/// A softmax over candidates that enter as they are.
#[derive(Debug, Default)]
struct Plain {
    loss: LossGradient,
    none: Vec<f32>,
}

impl Plain {
    fn learn(&mut self, scored: &ScoredBatch, masked: &Ragged) -> f64 {
        let shared = scored.items.len() / scored.dim;
        self.none.resize(shared, 0.0);
        let candidates = Candidates { shared, correction: &self.none, positive_correction: &self.none, masked };
        softmax(scored, &candidates, &mut self.loss);
        self.loss.loss
    }
}

/// Anchors, candidates, and which belongs to which.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anchored<'a> {
    /// `[anchors, dim]`
    pub anchors: &'a [f32],
    /// `[candidates, dim]`
    pub candidates: &'a [f32],
    /// Width of a vector.
    pub dim: usize,
    /// `[anchors]` the candidate that belongs to each anchor.
    pub positives: &'a [u32],
    /// `[anchors]` weights of at least 0: 1 for a sum over the anchors, and 1 / anchors for a mean.
    pub weights: &'a [f32],
}

/// InfoNCE. It is reused between steps.
#[derive(Debug, Default)]
pub(crate) struct InfoNce {
    anchors: Compared,
    candidates: Compared,
    softmax: Plain,
    /// `[anchors, dim]` the gradient of the anchors.
    pub d_anchors: Vec<f32>,
    /// `[candidates, dim]` the gradient of the candidates.
    pub d_candidates: Vec<f32>,
}

impl InfoNce {
    /// `Σ_a w_a · -log( exp(cos(a, c_a) / τ) / Σ_c exp(cos(a, c) / τ) )`, and the gradients of `factor` times it.
    ///
    /// # Memory
    /// A copy and a gradient of all vectors, and what [`softmax`] takes: never all scores.
    pub fn learn(&mut self, given: &Anchored<'_>, temperature: f32, factor: f32) -> f64 {
        let Anchored { anchors, candidates, dim, positives, weights } = *given;
        self.anchors.forward(anchors, dim, Similarity::Cosine);
        self.candidates.forward(candidates, dim, Similarity::Cosine);
        let (users, items) = (&self.anchors.0, &self.candidates.0);
        let scored = ScoredBatch { users, items, dim, scale: 1.0 / temperature, positives, weights };
        let mean = self.softmax.learn(&scored, &Ragged::default());
        // The softmax gives the weighted mean.
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let factor = (f64::from(factor) * total) as f32;
        let LossGradient { d_users, d_items, .. } = &mut self.softmax.loss;
        self.anchors.backward((anchors, dim, Similarity::Cosine), (d_users, None), factor, &mut self.d_anchors);
        let of_candidates = (candidates, dim, Similarity::Cosine);
        self.candidates.backward(of_candidates, (d_items, None), factor, &mut self.d_candidates);
        mean * total
    }
}

/// NT-Xent. It is reused between steps.
#[derive(Debug, Default)]
pub(crate) struct Contrast {
    compared: Compared,
    softmax: Plain,
    masked: Ragged,
    /// `[views, width]` the gradient of the views.
    pub d_views: Vec<f32>,
}

impl Contrast {
    /// The mean over 2B views of `-log exp(s(a, a⁺) / τ) / Σ_{b ≠ a} exp(s(a, b) / τ)`, and the gradient of `weight` times
    /// it. `views` is `[2B, width]`, and the two views of a sequence follow one another.
    pub fn nt_xent(
        &mut self,
        views: &[f32],
        width: usize,
        similarity: Similarity,
        temperature: f32,
        weight: f32,
    ) -> f64 {
        let count = (views.len() / width) as u32;
        self.compared.forward(views, width, similarity);
        self.masked = Ragged::default();
        (0..count).for_each(|view| self.masked.push_row([view]));
        let positives: Vec<u32> = (0..count).map(|view| view ^ 1).collect();
        let (compared, weights) = (&self.compared.0, vec![1.0; count as usize]);
        let scale = 1.0 / temperature;
        let (positives, weights) = (&positives[..], &weights[..]);
        let scored = ScoredBatch { users: compared, items: compared, dim: width, scale, positives, weights };
        let value = self.softmax.learn(&scored, &self.masked);
        let LossGradient { d_users, d_items, .. } = &mut self.softmax.loss;
        self.compared.backward((views, width, similarity), (d_users, Some(d_items)), weight, &mut self.d_views);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::dot;
    use crate::rng::Rng;

    fn random(views: usize, width: usize) -> Vec<f32> {
        let mut rng = Rng::at(5, &[views as u64]);
        (0..views * width).map(|_| rng.normal() as f32).collect()
    }

    /// The loss in f64, by its definition.
    fn oracle(views: &[f64], width: usize, similarity: Similarity, temperature: f64) -> f64 {
        let rows: Vec<Vec<f64>> = views
            .chunks_exact(width)
            .map(|row| match similarity {
                Similarity::Dot => row.to_vec(),
                Similarity::Cosine => {
                    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                    row.iter().map(|x| x / norm).collect()
                }
            })
            .collect();
        let score = |a: usize, b: usize| rows[a].iter().zip(&rows[b]).map(|(x, y)| x * y).sum::<f64>() / temperature;
        let of = |a: usize| {
            let sum: f64 = (0..rows.len()).filter(|b| *b != a).map(|b| score(a, b).exp()).sum();
            sum.ln() - score(a, a ^ 1)
        };
        (0..rows.len()).map(of).sum::<f64>() / rows.len() as f64
    }

    #[test]
    fn the_loss_and_its_gradient_agree_with_the_definition_and_with_finite_differences() {
        // More views than a tile, and few.
        for (views, width) in [(2, 3), (6, 5), (134, 4)] {
            for similarity in [Similarity::Cosine, Similarity::Dot] {
                let (given, temperature, weight) = (random(views, width), 0.7, 0.3);
                let mut loss = Contrast::default();
                // Buffers of an earlier, larger step do not matter.
                loss.nt_xent(&random(200, width), width, similarity, temperature, weight);
                let found = loss.nt_xent(&given, width, similarity, temperature, weight);
                let mut wide: Vec<f64> = given.iter().map(|x| f64::from(*x)).collect();
                let t = f64::from(temperature);
                let want = oracle(&wide, width, similarity, t);
                assert!((found - want).abs() < 1e-5 * (1.0 + want), "{found}, expected {want}");
                assert_eq!(loss.d_views.len(), given.len());
                for i in 0..wide.len().min(60) {
                    let kept = wide[i];
                    let mut at = |delta: f64| {
                        wide[i] = kept + delta;
                        let value = oracle(&wide, width, similarity, t);
                        wide[i] = kept;
                        value
                    };
                    let want = f64::from(weight) * (at(1e-5) - at(-1e-5)) / 2e-5;
                    let found = f64::from(loss.d_views[i]);
                    assert!((found - want).abs() < 1e-5 * (1.0 + want.abs()), "{i}: {found}, expected {want}");
                }
            }
        }
    }

    /// InfoNCE in f64, by its definition.
    fn info_nce(anchors: &[f64], candidates: &[f64], positives: &[u32], weights: &[f32], temperature: f64) -> f64 {
        let dim = anchors.len() / positives.len();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let rows = anchors.chunks_exact(dim).zip(positives).zip(weights);
        let losses = rows.map(|((anchor, positive), weight)| {
            let scores: Vec<f64> =
                candidates.chunks_exact(dim).map(|candidate| cosine(anchor, candidate) / temperature).collect();
            let sum: f64 = scores.iter().map(|score| score.exp()).sum();
            f64::from(*weight) * (sum.ln() - scores[*positive as usize])
        });
        losses.sum()
    }

    #[test]
    fn info_nce_and_both_gradients_agree_with_the_definition_and_with_finite_differences() {
        let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let mut loss = InfoNce::default();
        // More anchors than a tile, more candidates than a block of the softmax, and few.
        for (anchors, candidates, dim) in [(3, 2, 5), (150, 40, 6), (5, 9000, 4)] {
            let (given, others) = (random(anchors, dim), random(candidates, dim));
            let mut rng = Rng::at(6, &[]);
            let positives: Vec<u32> = (0..anchors).map(|_| rng.below(candidates) as u32).collect();
            let sum: Vec<f32> = (0..anchors).map(|_| rng.below(3) as f32).collect();
            let mean = vec![1.0 / anchors as f32; anchors];
            for weights in [sum, mean] {
                let (temperature, factor) = (0.3, 0.7f32);
                let batch =
                    Anchored { anchors: &given, candidates: &others, dim, positives: &positives, weights: &weights };
                let found = loss.learn(&batch, temperature, factor);
                let t = f64::from(temperature);
                let (mut a, mut c) = (wide(&given), wide(&others));
                let want = info_nce(&a, &c, &positives, &weights, t);
                assert!((found - want).abs() < 1e-5 * (1.0 + want.abs()), "{found}, expected {want}");
                assert_eq!((loss.d_anchors.len(), loss.d_candidates.len()), (given.len(), others.len()));
                for i in 0..12 {
                    let places = [(a.len() - 1 - i * (a.len() / 13), true), (i * (c.len() / 13), false)];
                    for (at, is_anchor) in places {
                        let mut value = |delta: f64| {
                            let moved = if is_anchor { &mut a[at] } else { &mut c[at] };
                            *moved += delta;
                            let value = info_nce(&a, &c, &positives, &weights, t);
                            let moved = if is_anchor { &mut a[at] } else { &mut c[at] };
                            *moved -= delta;
                            value
                        };
                        let want = f64::from(factor) * (value(1e-5) - value(-1e-5)) / 2e-5;
                        let found = f64::from(if is_anchor { loss.d_anchors[at] } else { loss.d_candidates[at] });
                        assert!((found - want).abs() < 1e-5 * (1.0 + want.abs()), "{at}: {found}, expected {want}");
                    }
                }
            }
        }
        // No anchor has no loss.
        let empty = Anchored { anchors: &[], candidates: &random(3, 4), dim: 4, positives: &[], weights: &[] };
        assert_eq!(loss.learn(&empty, 0.2, 1.0), 0.0);
        assert!(loss.d_anchors.is_empty() && loss.d_candidates == [0.0; 12]);
    }

    #[test]
    fn swapping_the_views_of_all_sequences_changes_neither_the_loss_nor_a_views_gradient() {
        let (views, width) = (10, 4);
        let given = random(views, width);
        let swap = |values: &[f32]| -> Vec<f32> {
            let rows: Vec<&[f32]> = values.chunks_exact(width).collect();
            (0..views).flat_map(|view| rows[view ^ 1].to_vec()).collect()
        };
        let (mut one, mut two) = (Contrast::default(), Contrast::default());
        let loss = one.nt_xent(&given, width, Similarity::Cosine, 0.5, 1.0);
        let swapped = two.nt_xent(&swap(&given), width, Similarity::Cosine, 0.5, 1.0);
        assert!((loss - swapped).abs() < 1e-6);
        let back = swap(&two.d_views);
        assert!(one.d_views.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(dot(&one.d_views, &one.d_views) > 0.0);
    }
}
