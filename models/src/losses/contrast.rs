//! NT-Xent, the contrast of two views of each sequence of a batch (Chen et al., ICML 2020; CL4SRec, Xie et al., ICDE
//! 2022, arXiv 2010.14395, section III.C).

use crate::lanes::{exp_and_sum, largest};
use crate::layers::norm;
use crate::matmul::{Operand, matmul};
use crate::similarity::{NORM_FLOOR, Similarity};
use rayon::prelude::*;

/// Rows of a tile.
const TILE: usize = 64;

/// What the loss needs in between. It is reused between steps.
#[derive(Debug, Default)]
pub(crate) struct Contrast {
    /// `[views, width]` what is compared.
    compared: Vec<f32>,
    d_compared: Vec<f32>,
    /// `[views, views]` scores, and then their gradients.
    scores: Vec<f32>,
    losses: Vec<f64>,
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
        let Self { compared, d_compared, scores, losses, d_views } = self;
        let count = views.len() / width;
        compared.resize(views.len(), 0.0);
        match similarity {
            Similarity::Dot => compared.copy_from_slice(views),
            Similarity::Cosine => norm::forward(views, width, NORM_FLOOR, compared),
        }
        scores.resize(count * count, 0.0);
        losses.resize(count, 0.0);
        let (all, inverse) = (Operand::rows_of(compared, width), 1.0 / temperature);
        let share = weight / count.max(1) as f32;
        let tiles = scores.par_chunks_mut(TILE * count.max(1)).zip(losses.par_chunks_mut(TILE)).enumerate();
        tiles.for_each(|(tile, (scores, losses))| {
            let first = tile * TILE;
            let mine = Operand::rows_of(&compared[first * width..(first + losses.len()) * width], width);
            matmul(scores, false, inverse, mine, all.transposed());
            for (r, (row, loss)) in scores.chunks_exact_mut(count).zip(losses).enumerate() {
                let (view, other) = (first + r, (first + r) ^ 1);
                let positive = row[other];
                row[view] = f32::NEG_INFINITY;
                let top = largest(row);
                let sum = exp_and_sum(row, top);
                *loss = f64::from(top) + f64::from(sum).ln() - f64::from(positive);
                row.iter_mut().for_each(|p| *p *= share / sum);
                row[view] = 0.0;
                row[other] -= share;
            }
        });
        // A score stands at (a, b) and at (b, a).
        d_compared.resize(views.len(), 0.0);
        let gradients = Operand::rows_of(scores, count.max(1));
        d_compared.par_chunks_mut((TILE * width).max(1)).enumerate().for_each(|(tile, d)| {
            let (first, rows) = (tile * TILE, d.len() / width);
            let mine = Operand::strided(&scores[first * count..], rows, count, count);
            matmul(d, false, inverse, mine, all);
            let columns = gradients.transposed().rows(first..first + rows);
            matmul(d, true, inverse, columns, all);
        });
        d_views.resize(views.len(), 0.0);
        match similarity {
            Similarity::Dot => d_views.copy_from_slice(d_compared),
            Similarity::Cosine => norm::backward(views, compared, d_compared, width, NORM_FLOOR, d_views),
        }
        losses.iter().sum::<f64>() / count.max(1) as f64
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
