//! Losses over pairs of vectors. Each gives its value and the gradients of both sides.

pub(crate) mod contrast;
pub(crate) mod pairwise;
pub mod softmax;

use crate::lanes::add;
use rayon::prelude::*;

/// A batch with its vectors: a user vector per example, and the distinct items against which they are scored.
#[derive(Debug, Clone, Copy)]
pub struct ScoredBatch<'a> {
    /// `[batch, dim]` user vectors.
    pub users: &'a [f32],
    /// `[candidates, dim]` item vectors.
    pub items: &'a [f32],
    /// Width of a vector.
    pub dim: usize,
    /// 1 / τ, by which inner products are multiplied.
    pub scale: f32,
    /// `[batch]` the candidate that each example clicked.
    pub positives: &'a [u32],
    /// `[batch]` weights of at least 0. The loss is the weighted mean.
    pub weights: &'a [f32],
}

impl ScoredBatch<'_> {
    /// Number of examples.
    pub fn rows(&self) -> usize {
        self.positives.len()
    }

    fn user(&self, row: usize) -> &[f32] {
        &self.users[row * self.dim..][..self.dim]
    }

    fn item(&self, candidate: u32) -> &[f32] {
        &self.items[candidate as usize * self.dim..][..self.dim]
    }

    /// `[batch]` weights divided by their sum.
    fn shares(&self) -> Vec<f32> {
        let total: f64 = self.weights.iter().map(|w| *w as f64).sum();
        let inverse = if total > 0.0 { 1.0 / total } else { 0.0 };
        self.weights.iter().map(|w| (*w as f64 * inverse) as f32).collect()
    }
}

/// A loss and its gradients. It is reused between steps.
#[derive(Debug, Default)]
pub struct LossGradient {
    /// Weighted mean over the examples.
    pub loss: f64,
    /// `[batch, dim]` gradient of the user vectors.
    pub(crate) d_users: Vec<f32>,
    /// `[candidates, dim]` gradient of the item vectors.
    pub(crate) d_items: Vec<f32>,
    parts: Vec<Part>,
    /// `[dim, candidates]` item vectors, where products read them so.
    transposed: Vec<f32>,
}

/// What one run of tiles adds to the loss and to the item gradients. Runs depend on sizes only, not on threads.
#[derive(Debug, Default)]
struct Part {
    loss: f64,
    d_items: Vec<f32>,
    scores: Vec<f32>,
    scaled_users: Vec<f32>,
}

/// Tiles of a part, at least: its item gradients are cleared and summed, which a tile alone is not worth.
const FEWEST_TILES: usize = 2;
/// The most bytes of all partial item gradients together.
const PARTS_BYTES: usize = 64 << 20;

impl LossGradient {
    /// Runs `tile(part, rows, d_users of these rows)` over tiles of `tile_rows` examples and sums
    /// the parts in order.
    fn over_tiles(
        &mut self,
        scored: &ScoredBatch,
        tile_rows: usize,
        tile: impl Fn(&mut Part, std::ops::Range<usize>, &mut [f32]) + Sync,
    ) {
        let tiles = scored.rows().div_ceil(tile_rows);
        let fitting = (PARTS_BYTES / (scored.items.len() * 4).max(1)).clamp(2, 16);
        let part_rows = tiles.div_ceil(fitting).max(FEWEST_TILES) * tile_rows;
        self.d_users.clear();
        self.d_users.resize(scored.users.len(), 0.0);
        self.parts.resize_with(scored.rows().div_ceil(part_rows), Part::default);
        let d_users = self.d_users.par_chunks_mut(part_rows * scored.dim);
        self.parts.par_iter_mut().zip(d_users).enumerate().for_each(|(p, (part, d_users))| {
            part.loss = 0.0;
            part.d_items.clear();
            part.d_items.resize(scored.items.len(), 0.0);
            for (t, d_users) in d_users.chunks_mut(tile_rows * scored.dim).enumerate() {
                let first = p * part_rows + t * tile_rows;
                tile(part, first..first + d_users.len() / scored.dim, d_users);
            }
        });
        self.loss = self.parts.iter().map(|part| part.loss).sum();
        self.d_items.clear();
        self.d_items.resize(scored.items.len(), 0.0);
        let parts = &self.parts;
        const RUN: usize = 16 << 10;
        self.d_items.par_chunks_mut(RUN).enumerate().for_each(|(c, out)| {
            for part in parts {
                add(out, &part.d_items[c * RUN..][..out.len()]);
            }
        });
    }
}

/// ln(1 + e^x) without overflow.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x).
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Owned inputs of a loss, small and random; vectors have unit norm.
    pub(crate) struct Toy {
        pub users: Vec<f32>,
        pub items: Vec<f32>,
        pub dim: usize,
        pub scale: f32,
        pub positives: Vec<u32>,
        pub weights: Vec<f32>,
    }

    impl Toy {
        pub(crate) fn new(seed: u64, rows: usize, items: usize, dim: usize, scale: f32) -> Self {
            let mut rng = Rng::at(seed, &[]);
            let mut unit = |rows: usize| {
                let mut values: Vec<f32> = (0..rows * dim).map(|_| rng.normal() as f32).collect();
                for row in values.chunks_exact_mut(dim) {
                    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|x| *x /= norm);
                }
                values
            };
            let (users, item_vectors) = (unit(rows), unit(items));
            let positives = (0..rows).map(|_| rng.below(items) as u32).collect();
            let weights = (0..rows).map(|_| 0.5 + rng.uniform() as f32).collect();
            Self { users, items: item_vectors, dim, scale, positives, weights }
        }

        pub(crate) fn scored(&self) -> ScoredBatch<'_> {
            ScoredBatch {
                users: &self.users,
                items: &self.items,
                dim: self.dim,
                scale: self.scale,
                positives: &self.positives,
                weights: &self.weights,
            }
        }

        /// Compares gradients with central differences of `oracle`, an f64 form of the loss.
        /// 1e-5 covers f32 rounding of gradients of order 0.1 to 1.
        pub(crate) fn agrees_with(&mut self, got: &LossGradient, oracle: impl Fn(&Toy, &[f64], &[f64]) -> f64) {
            let wide = |values: &[f32]| values.iter().map(|x| *x as f64).collect::<Vec<f64>>();
            let (mut users, mut items) = (wide(&self.users), wide(&self.items));
            let want = oracle(self, &users, &items);
            assert!((got.loss - want).abs() < 1e-5 * (1.0 + want.abs()), "loss {}, expected {want}", got.loss);
            let step = 1e-5;
            for side in 0..2 {
                let len = if side == 0 { users.len() } else { items.len() };
                for i in 0..len {
                    let mut at = |delta: f64| {
                        if side == 0 {
                            users[i] += delta
                        } else {
                            items[i] += delta
                        };
                        let loss = oracle(self, &users, &items);
                        if side == 0 {
                            users[i] -= delta
                        } else {
                            items[i] -= delta
                        };
                        loss
                    };
                    let want = (at(step) - at(-step)) / (2.0 * step);
                    let found = if side == 0 { got.d_users[i] } else { got.d_items[i] } as f64;
                    assert!((found - want).abs() < 1e-5 * (1.0 + want.abs()), "side {side}, {i}: {found}, {want}");
                }
            }
        }
    }

    #[test]
    fn softplus_and_sigmoid_hold_at_the_extremes() {
        assert_eq!(softplus(-1e4), 0.0);
        assert_eq!(softplus(1e4), 1e4);
        assert!((softplus(0.0) - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((sigmoid(-1e4), sigmoid(1e4)), (0.0, 1.0));
    }
}
