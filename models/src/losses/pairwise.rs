//! Losses over sampled negatives: binary cross-entropy, its generalisation gBCE, and BPR.

use super::{LossGradient, ScoredBatch, sigmoid, softplus};
use crate::lanes::{add_scaled, dot};

/// Examples of a tile.
const TILE: usize = 256;
/// Marks a negative that could not be drawn: the user has every item.
pub const NO_NEGATIVE: u32 = u32::MAX;

/// A loss over pairs of a positive and a negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pairwise {
    /// β softplus(-z₊) + Σ softplus(z₋): -log σ(z₊)^β - Σ log σ(-z₋), z = s / τ. With β = 1 it is binary
    /// cross-entropy, with less gBCE (Petrov and Macdonald, RecSys 2023, section 5).
    Bce {
        /// β.
        power: f64,
    },
    /// Mean over the negatives of softplus(z₋ - z₊) (Rendle et al., UAI 2009).
    Bpr,
}

/// β of gBCE (Petrov and Macdonald, RecSys 2023, section 5), for the given number of negatives of a positive out of a
/// catalogue of `items`. At `t` 0 it is 1; at 1 it is the share of all negatives that are drawn, at which the model's
/// probabilities are as they would be if all were.
pub fn gbce_power(t: f64, negatives: usize, items: usize) -> f64 {
    let share = (negatives as f64 / (items.max(2) - 1) as f64).min(1.0);
    // The paper's α (t (1 - 1/α) + 1/α), with α the share.
    1.0 - t * (1.0 - share)
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
                Pairwise::Bce { power } => {
                    part.loss += share * power * softplus(-z);
                    pull(positive, -power * sigmoid(-z));
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
        for kind in [Pairwise::Bce { power: 1.0 }, Pairwise::Bce { power: 0.3 }, Pairwise::Bpr] {
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
                            Pairwise::Bce { power } => {
                                let positive = 1.0 / (1.0 + (-positive).exp());
                                let negatives = mine.iter().map(|z| (1.0 - 1.0 / (1.0 + (-z).exp())).ln());
                                -positive.powf(power).ln() - negatives.sum::<f64>()
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

    #[test]
    fn the_power_of_gbce_goes_from_one_to_the_share_of_negatives_that_are_drawn() {
        let power = |t| gbce_power(t, 256, 3417);
        let share = 256.0 / 3416.0;
        assert!((power(0.0) - 1.0).abs() < 1e-12 && (power(1.0) - share).abs() < 1e-12);
        assert!((power(0.75) - (0.25 + 0.75 * share)).abs() < 1e-12);
        // Where all are drawn, or more, no positive weighs less or more.
        assert!([0.0, 0.75, 1.0].iter().all(|t| (gbce_power(*t, 900, 11) - 1.0).abs() < 1e-12));
    }

    #[test]
    fn full_calibration_has_its_optimum_at_the_probabilities_of_all_negatives() {
        // One user, whose positive is item a with probability p. At the optimum of BCE with all other items as negatives
        // σ(z_a) = p; with few of them and t = 1 likewise (the paper's theorem with β = α), but with t = 0 it is larger.
        let (items, negatives, p) = (101, 4, 0.2f64);
        let slope = |t: f64, sigma: f64| {
            // Expected slope by z_a, drawn as a negative with probability `negatives / (items - 1)` of a positive.
            let drawn = negatives as f64 / (items - 1) as f64;
            -p * gbce_power(t, negatives, items) * (1.0 - sigma) + (1.0 - p) * drawn * sigma
        };
        assert!(slope(1.0, p).abs() < 1e-12);
        assert!(slope(0.0, p) < -0.1 && slope(0.0, 0.86).abs() < 1e-2);
    }
}
