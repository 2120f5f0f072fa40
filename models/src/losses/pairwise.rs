//! Losses over sampled negatives: binary cross-entropy and BPR.

use super::{LossGradient, ScoredBatch, sigmoid, softplus};
use crate::lanes::{add_scaled, dot};

/// Examples of a tile.
const TILE: usize = 256;
/// Marks a negative that could not be drawn: the user has every item.
pub const NO_NEGATIVE: u32 = u32::MAX;

/// A loss over pairs of a positive and a negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairwise {
    /// softplus(-z₊) + Σ softplus(z₋): -log σ(z₊) - Σ log σ(-z₋), z = s / τ.
    Bce,
    /// Mean over the negatives of softplus(z₋ - z₊) (Rendle et al., UAI 2009).
    Bpr,
}

/// Computes the loss and its gradients. `negatives` is `[batch, n]` candidates or [`NO_NEGATIVE`].
pub fn pairwise(kind: Pairwise, scored: &ScoredBatch, negatives: &[u32], out: &mut LossGradient) {
    let shares = scored.shares();
    let (dim, scale) = (scored.dim, scored.scale as f64);
    let per_row = negatives.len() / scored.rows().max(1);
    out.over_tiles(scored, TILE, |part, rows, d_users| {
        for (row, d_user) in rows.zip(d_users.chunks_exact_mut(dim)) {
            let (user, positive) = (scored.user(row), scored.positives[row]);
            let share = shares[row] as f64;
            let score = |item: u32| scale * dot(user, scored.item(item)) as f64;
            let mut pull = |item: u32, slope: f64| {
                let slope = (share * scale * slope) as f32;
                add_scaled(d_user, slope, scored.item(item));
                add_scaled(&mut part.d_items[item as usize * dim..][..dim], slope, user);
            };
            let mine = || negatives[row * per_row..][..per_row].iter().filter(|n| **n != NO_NEGATIVE);
            let z = score(positive);
            match kind {
                Pairwise::Bce => {
                    part.loss += share * softplus(-z);
                    pull(positive, -sigmoid(-z));
                    for negative in mine() {
                        let z = score(*negative);
                        part.loss += share * softplus(z);
                        pull(*negative, sigmoid(z));
                    }
                }
                Pairwise::Bpr => {
                    let each = 1.0 / mine().count().max(1) as f64;
                    for negative in mine() {
                        let gap = score(*negative) - z;
                        part.loss += share * each * softplus(gap);
                        pull(*negative, each * sigmoid(gap));
                        pull(positive, -each * sigmoid(gap));
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::tests::Toy;

    #[test]
    fn gradients_agree_with_finite_differences() {
        for kind in [Pairwise::Bce, Pairwise::Bpr] {
            let mut toy = Toy::new(31, 9, 7, 5, 3.0);
            let negatives: Vec<u32> =
                (0..27).map(|i| if i % 10 == 3 { NO_NEGATIVE } else { (i * 5 % 7) as u32 }).collect();
            let mut got = LossGradient::default();
            pairwise(kind, &toy.scored(), &negatives, &mut got);
            toy.agrees_with(&got, |toy, users, items| {
                let total: f64 = toy.weights.iter().map(|w| *w as f64).sum();
                (0..9)
                    .map(|a| {
                        let z = |item: u32| {
                            let dot: f64 = (0..5).map(|i| users[a * 5 + i] * items[item as usize * 5 + i]).sum::<f64>();
                            3.0 * dot
                        };
                        let positive = z(toy.positives[a]);
                        let mine: Vec<f64> =
                            negatives[a * 3..a * 3 + 3].iter().filter(|n| **n != NO_NEGATIVE).map(|n| z(*n)).collect();
                        let loss = match kind {
                            Pairwise::Bce => {
                                (1.0 + (-positive).exp()).ln() + mine.iter().map(|z| (1.0 + z.exp()).ln()).sum::<f64>()
                            }
                            Pairwise::Bpr => {
                                mine.iter().map(|z| (1.0 + (z - positive).exp()).ln()).sum::<f64>() / mine.len() as f64
                            }
                        };
                        toy.weights[a] as f64 / total * loss
                    })
                    .sum()
            });
        }
    }
}
