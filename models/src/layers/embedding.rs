//! Weights of the elements of pooled fields, whose input is the weighted mean of the elements' embeddings.

use crate::lanes::{dispatched, inner};
use crate::params::Table;
use twotower_artifacts::Ragged;
use twotower_artifacts::schema::PADDING;

/// The elements of all rows of a pooled field with their weights. Padding is left out.
#[derive(Debug, Default)]
pub struct WeightedElements {
    offsets: Vec<usize>,
    uses: Vec<(u32, f32)>,
}

impl WeightedElements {
    /// Weighs the n elements of each row: 1/n each, or the weights that `recency` gives n elements by their distance
    /// from the newest (last) one. Only the last `max_len` elements of a row count.
    pub fn weigh(&mut self, ragged: &Ragged, max_len: usize, recency: Option<&Recency>) {
        self.offsets.clear();
        self.uses.clear();
        self.offsets.push(0);
        for r in 0..ragged.rows() {
            let first = self.uses.len();
            let newest_first = ragged.row(r).iter().rev().filter(|code| **code != PADDING);
            self.uses.extend(newest_first.take(max_len).map(|code| (*code, 0.0)));
            let row = &mut self.uses[first..];
            let n = row.len();
            match recency {
                None => row.iter_mut().for_each(|used| used.1 = 1.0 / n as f32),
                Some(recency) => row.iter_mut().zip(recency.weights(n)).for_each(|(used, w)| used.1 = *w),
            }
            self.offsets.push(self.uses.len());
        }
    }

    /// Code and weight of each element of row `r`, newest first.
    pub fn row(&self, r: usize) -> &[(u32, f32)] {
        &self.uses[self.offsets[r]..self.offsets[r + 1]]
    }
}

/// Softmax of learned logits per position counted from the newest element, for every row length.
#[derive(Debug)]
pub struct Recency {
    max_len: usize,
    weights: Vec<f32>,
}

impl Recency {
    /// Computes the weights from one logit per position; index 0 is the newest.
    pub fn new(logits: &[f32]) -> Self {
        let max_len = logits.len();
        let mut weights = vec![0.0; (max_len + 1) * max_len];
        for n in 1..=max_len {
            let row = &mut weights[n * max_len..][..n];
            let top = logits[..n].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().zip(logits).for_each(|(w, logit)| *w = (logit - top).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|w| *w /= sum);
        }
        Self { max_len, weights }
    }

    /// Weights of a row of `n` elements, newest first.
    pub fn weights(&self, n: usize) -> &[f32] {
        &self.weights[n * self.max_len..][..n]
    }

    /// Adds the gradient of the logits to `gradient`. `products`, `[max_len + 1, max_len]`, holds for every row
    /// length and position the summed inner products of [`element_products`].
    pub fn backward(&self, products: &[f32], gradient: &mut [f32]) {
        for n in 1..=self.max_len {
            let (weights, products) = (self.weights(n), &products[n * self.max_len..][..n]);
            let mean: f32 = weights.iter().zip(products).map(|(w, p)| w * p).sum();
            for ((g, w), p) in gradient.iter_mut().zip(weights).zip(products) {
                *g += w * (p - mean);
            }
        }
    }
}

dispatched! {
    /// Adds to `products` the inner product of the output's `gradient` with the table row of each element.
    pub fn element_products(table: &Table, uses: &[(u32, f32)], gradient: &[f32], products: &mut [f32]) {
        for ((code, _), product) in uses.iter().zip(products) {
            *product += inner::<FMA>(table.row(*code), gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn padding_is_left_out_and_weights_sum_to_one() {
        let mut ragged = Ragged::default();
        ragged.push_row([5, PADDING, 6]);
        ragged.push_row([]);
        ragged.push_row([3, 4, 5, 6]);
        let mut pooled = WeightedElements::default();
        pooled.weigh(&ragged, 3, None);
        assert_eq!(pooled.row(0), [(6, 0.5), (5, 0.5)]);
        assert!(pooled.row(1).is_empty());
        assert_eq!(pooled.row(2), [(6, 1.0 / 3.0), (5, 1.0 / 3.0), (4, 1.0 / 3.0)]);
        pooled.weigh(&ragged, 3, Some(&Recency::new(&[2.0f32.ln(), 0.0, 0.0])));
        assert!((pooled.row(0)[0].1 - 2.0 / 3.0).abs() < 1e-6 && (pooled.row(2)[0].1 - 0.5).abs() < 1e-6);
    }

    #[test]
    fn position_logits_agree_with_finite_differences() {
        let mut rng = Rng::at(2, &[]);
        let (dim, max_len) = (5, 4);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
        let table = Table { name: "t".into(), rows: 9, dim, values: draw(9 * dim) };
        let mut logits = draw(max_len);
        let mut ragged = Ragged::default();
        for row in [&[3, 4, 5, 6][..], &[7], &[], &[8, 3, 3], &[4, 5, 6, 7]] {
            ragged.push_row(row.iter().copied());
        }
        let dy = draw(ragged.rows() * dim);
        let loss = |logits: &[f32]| {
            let mut pooled = WeightedElements::default();
            pooled.weigh(&ragged, max_len, Some(&Recency::new(logits)));
            (0..ragged.rows())
                .flat_map(|r| pooled.row(r).iter().map(move |used| (r, *used)))
                .map(|(r, (code, w))| {
                    (0..dim).map(|i| (w * table.row(code)[i]) as f64 * dy[r * dim + i] as f64).sum::<f64>()
                })
                .sum::<f64>()
        };
        let recency = Recency::new(&logits);
        let mut pooled = WeightedElements::default();
        pooled.weigh(&ragged, max_len, Some(&recency));
        let mut products = vec![0.0; (max_len + 1) * max_len];
        for r in 0..ragged.rows() {
            let row = pooled.row(r);
            element_products(&table, row, &dy[r * dim..][..dim], &mut products[row.len() * max_len..]);
        }
        let mut gradient = vec![0.0; max_len];
        recency.backward(&products, &mut gradient);
        for i in 0..max_len {
            let kept = logits[i];
            logits[i] = kept + 1e-2;
            let plus = loss(&logits);
            logits[i] = kept - 1e-2;
            let minus = loss(&logits);
            logits[i] = kept;
            // The tolerance covers the curvature of the softmax and the rounding of f32 over a step of 1e-2.
            assert!((gradient[i] as f64 - (plus - minus) / 2e-2).abs() < 2e-3);
        }
    }
}
