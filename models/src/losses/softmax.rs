//! Softmax cross-entropy over candidate items: in-batch with the logQ correction (Yi et al., RecSys
//! 2019), mixed with uniform negatives (Yang et al., WWW 2020), over uniform negatives alone (Klenitskiy and Vasilev,
//! RecSys 2023), and exact over the catalogue. One kernel serves all four, because they differ only in the candidates and
//! their corrections.
//!
//! For example a with clicked candidate i, and candidate c: z_ac = s_ac / τ + correction_c, where
//! a candidate that occurs m times in the textbook's B columns occurs here once with log m in its
//! correction, and i itself enters with multiplicity 1 (its other columns are accidental hits):
//! L = -Σ_a w_a (z_ai - logsumexp_c z_ac) / Σ_a w_a.

use super::{LossGradient, ScoredBatch};
use crate::lanes::{add_scaled, add_scaled_apart, dot, exp_and_sum, shift_and_max};
use crate::matmul::{Operand, Target, matmul, matmul_into, transpose};
use twotower_artifacts::Ragged;

/// Examples of a tile.
const TILE: usize = 64;
/// Candidates of a tile. 64 x 8,192 scores are 2 MiB, and the usual batch of 4,096 takes one pass.
const BLOCK: usize = 8192;

/// How candidates enter the loss.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// The number of candidates, the first ones, that enter the loss of every example. The others enter that of the
    /// examples whose positive they are.
    pub shared: usize,
    /// `[candidates]` what is added to the scaled score of a candidate that is not the row's positive.
    pub correction: &'a [f32],
    /// `[candidates]` what is added to the scaled score of a candidate that is the row's positive.
    pub positive_correction: &'a [f32],
    /// `[batch]` lists of candidates that are left out for an example, which are its other positives, but never
    /// its own positive. Without lists, nothing is left out.
    pub masked: &'a Ragged,
}

/// Computes the loss and its gradients.
///
/// # Memory
/// One tile of scores per part, `64 * min(candidates, 8192)` floats, and a partial item gradient per part;
/// never the whole `[batch, candidates]` matrix.
pub fn softmax(scored: &ScoredBatch, candidates: &Candidates, out: &mut LossGradient) {
    let shares = scored.shares();
    let (dim, count) = (scored.dim, candidates.shared);
    // Products are faster where operands and results have long rows, those of all candidates. So vectors and gradients of
    // the shared ones are `[dim, count]`; gradients of the others follow, a row each.
    let mut transposed = std::mem::take(&mut out.transposed);
    transpose(&scored.items[..count * dim], dim, &mut transposed);
    let by_channel = Operand::rows_of(&transposed, count.max(1));
    let blocks: Vec<_> = (0..count).step_by(BLOCK).map(|first| first..(first + BLOCK).min(count)).collect();
    out.over_tiles(scored, TILE, |part, rows, d_users| {
        let users = &scored.users[rows.start * dim..rows.end * dim];
        let mut maxima = vec![f32::NEG_INFINITY; rows.len()];
        let mut sums = vec![0.0f64; rows.len()];
        let mut positives = vec![0.0f32; rows.len()];
        let scores = |block: &std::ops::Range<usize>, out: &mut Vec<f32>| {
            out.resize(rows.len() * block.len(), 0.0);
            let items = by_channel.transposed().rows(block.clone()).transposed();
            matmul(out, false, scored.scale, Operand::rows_of(users, dim), items);
            for (row, out) in rows.clone().zip(out.chunks_exact_mut(block.len())) {
                let positive = scored.positives[row] as usize;
                if block.contains(&positive) {
                    out[positive - block.start] +=
                        candidates.positive_correction[positive] - candidates.correction[positive];
                }
                if candidates.masked.rows() > 0 {
                    for masked in candidates.masked.row(row).iter().map(|c| *c as usize) {
                        if block.contains(&masked) {
                            out[masked - block.start] = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        };
        for (r, row) in rows.clone().enumerate() {
            let positive = scored.positives[row] as usize;
            if positive >= count {
                let score = scored.scale * dot(scored.user(row), scored.item(positive as u32));
                positives[r] = score + candidates.positive_correction[positive];
                (maxima[r], sums[r]) = (positives[r], 1.0);
            }
        }
        // First pass: running maximum and sum of each row, block by block.
        for block in &blocks {
            scores(block, &mut part.scores);
            for (r, row) in part.scores.chunks_exact_mut(block.len()).enumerate() {
                let top = shift_and_max(row, &candidates.correction[block.clone()]);
                let positive = scored.positives[rows.start + r] as usize;
                if block.contains(&positive) {
                    positives[r] = row[positive - block.start];
                }
                let maximum = if top > maxima[r] { top } else { maxima[r] };
                if maximum > f32::NEG_INFINITY {
                    sums[r] = sums[r] * ((maxima[r] - maximum) as f64).exp() + exp_and_sum(row, maximum) as f64;
                } else {
                    row.fill(0.0);
                }
                maxima[r] = maximum;
            }
        }
        // Gradient of z_ac: share (p_ac - [c = i]), p = e^(z - maximum) / sum.
        part.scaled_users.clear();
        part.scaled_users.extend_from_slice(users);
        let factors: Vec<f32> =
            (0..rows.len()).map(|r| (shares[rows.start + r] as f64 * scored.scale as f64 / sums[r]) as f32).collect();
        for (user, factor) in part.scaled_users.chunks_exact_mut(dim).zip(&factors) {
            user.iter_mut().for_each(|x| *x *= factor);
        }
        for block in &blocks {
            if blocks.len() > 1 {
                scores(block, &mut part.scores);
                for (row, maximum) in part.scores.chunks_exact_mut(block.len()).zip(&maxima) {
                    shift_and_max(row, &candidates.correction[block.clone()]);
                    exp_and_sum(row, *maximum);
                }
            }
            let probabilities = Operand::rows_of(&part.scores, block.len());
            let items = Operand::rows_of(&scored.items[block.start * dim..block.end * dim], dim);
            matmul(d_users, block.start > 0, 1.0, probabilities, items);
            let users = Operand::rows_of(&part.scaled_users, dim).transposed();
            let d_items = &mut part.d_items[block.start..count * dim];
            matmul_into(Target::strided(d_items, dim, block.len(), count), true, 1.0, users, probabilities);
        }
        for (r, d_user) in d_users.chunks_exact_mut(dim).enumerate() {
            let row = rows.start + r;
            // A positive in no block has a probability too, p, so that the gradient of its score is p - 1.
            let probability = match scored.positives[row] as usize >= count {
                true => (((positives[r] - maxima[r]) as f64).exp() / sums[r]) as f32,
                false => 0.0,
            };
            let pull = shares[row] * scored.scale * (probability - 1.0);
            d_user.iter_mut().for_each(|x| *x *= factors[r]);
            add_scaled(d_user, pull, scored.item(scored.positives[row]));
            let (positive, user) = (scored.positives[row] as usize, scored.user(row));
            match positive < count {
                true => add_scaled_apart(&mut part.d_items[positive..count * dim], count, pull, user),
                false => add_scaled(&mut part.d_items[positive * dim..][..dim], pull, user),
            }
            part.loss += shares[row] as f64 * (sums[r].ln() + maxima[r] as f64 - positives[r] as f64);
        }
    });
    transpose(&out.d_items[..count * dim], count.max(1), &mut transposed);
    out.d_items[..count * dim].copy_from_slice(&transposed);
    out.transposed = transposed;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::tests::Toy;
    use crate::rng::Rng;

    const NONE: Ragged = Ragged { offsets: Vec::new(), values: Vec::new(), times: Vec::new() };

    fn run(toy: &Toy, correction: &[f32], positive_correction: &[f32], masked: &Ragged) -> LossGradient {
        let mut out = LossGradient::default();
        let shared = correction.len();
        softmax(&toy.scored(), &Candidates { shared, correction, positive_correction, masked }, &mut out);
        out
    }

    /// The textbook's B x B form in f64: a column per batch row, accidental hits masked.
    fn textbook(toy: &Toy, users: &[f64], items: &[f64], q: &[f64], masked: &Ragged) -> f64 {
        let dot = |a: usize, item: usize| {
            (0..toy.dim).map(|i| users[a * toy.dim + i] * items[item * toy.dim + i]).sum::<f64>() * toy.scale as f64
        };
        let total: f64 = toy.weights.iter().map(|w| *w as f64).sum();
        let mut loss = 0.0;
        for a in 0..toy.positives.len() {
            let z = |b: usize| dot(a, toy.positives[b] as usize) - q[toy.positives[b] as usize].ln();
            let columns = (0..toy.positives.len()).filter(|b| {
                let item = toy.positives[*b];
                *b == a || (item != toy.positives[a] && (masked.rows() == 0 || !masked.row(a).contains(&item)))
            });
            let sum: f64 = columns.map(|b| z(b).exp()).sum();
            loss -= toy.weights[a] as f64 / total * (z(a) - sum.ln());
        }
        loss
    }

    /// Distinct items of a batch, as the trainer prepares them.
    fn deduplicated(toy: &mut Toy, q: &[f64]) -> (Vec<f32>, Vec<f32>) {
        let mut multiplicity = vec![0usize; q.len()];
        toy.positives.iter().for_each(|p| multiplicity[*p as usize] += 1);
        let own = q.iter().map(|q| -q.ln() as f32).collect();
        let shared = multiplicity.iter().zip(q).map(|(m, q)| ((*m as f64).ln() - q.ln()) as f32).collect();
        (shared, own)
    }

    #[test]
    fn in_batch_with_duplicates_and_masks_equals_the_textbook() {
        let mut toy = Toy::new(4, 70, 12, 6, 5.0);
        // Item 11 is in no row: its multiplicity is 0, its correction minus infinity.
        toy.positives.iter_mut().for_each(|p| *p = (*p).min(10));
        let q: Vec<f64> = (1..=12).map(|i| i as f64 / 78.0).collect();
        let (shared, own) = deduplicated(&mut toy, &q);
        let mut masked = Ragged::default();
        let mut rng = Rng::at(9, &[]);
        for positive in &toy.positives {
            masked.push_row((0..3).map(|_| rng.below(11) as u32).filter(|c| c != positive));
        }
        for masked in [&NONE, &masked] {
            let got = run(&toy, &shared, &own, masked);
            toy.agrees_with(&got, |toy, users, items| textbook(toy, users, items, &q, masked));
        }
    }

    #[test]
    fn candidates_that_are_not_shared_count_for_the_rows_whose_positive_they_are() {
        // Of 12 items, the first 7 are shared; rows have positives of both kinds.
        let (shared, mut toy) = (7, Toy::new(14, 70, 12, 6, 5.0));
        let correction = [0.7f32; 12];
        let positive_correction: Vec<f32> = (0..12).map(|c| 0.1 * c as f32).collect();
        let mut masked = Ragged::default();
        toy.positives.iter().for_each(|p| masked.push_row([2, 5, 9].into_iter().filter(|c| c != p)));
        let mut got = LossGradient::default();
        let candidates =
            Candidates { shared, correction: &correction, positive_correction: &positive_correction, masked: &masked };
        softmax(&toy.scored(), &candidates, &mut got);
        assert!(toy.positives.iter().any(|p| (*p as usize) < shared));
        assert!(toy.positives.iter().any(|p| (*p as usize) >= shared));
        toy.agrees_with(&got, |toy, users, items| {
            let total: f64 = toy.weights.iter().map(|w| *w as f64).sum();
            let loss = |a: usize| {
                let positive = toy.positives[a] as usize;
                let dot = |c: usize| (0..6).map(|i| users[a * 6 + i] * items[c * 6 + i]).sum::<f64>() * 5.0;
                let z = dot(positive) + f64::from(positive_correction[positive]);
                let others = (0..shared).filter(|c| *c != positive && ![2, 5].contains(c));
                let sum: f64 = others.map(|c| (dot(c) + f64::from(correction[c])).exp()).sum();
                (z.exp() + sum).ln() - z
            };
            (0..70).map(|a| f64::from(toy.weights[a]) / total * loss(a)).sum()
        });
    }

    #[test]
    fn several_blocks_of_candidates_equal_one_pass_in_f64() {
        let count = BLOCK + 300;
        let mut toy = Toy::new(8, 3, count, 4, 20.0);
        toy.positives = vec![1, BLOCK as u32 + 7, BLOCK as u32 - 1];
        let zeros = vec![0.0; count];
        let got = run(&toy, &zeros, &zeros, &NONE);
        let dot = |a: usize, c: usize| {
            (0..4).map(|i| toy.users[a * 4 + i] as f64 * toy.items[c * 4 + i] as f64).sum::<f64>() * 20.0
        };
        let total: f64 = toy.weights.iter().map(|w| *w as f64).sum();
        let (mut loss, mut d_users) = (0.0, vec![0.0; 12]);
        for a in 0..3 {
            let sum: f64 = (0..count).map(|c| dot(a, c).exp()).sum();
            let share = toy.weights[a] as f64 / total;
            loss += share * (sum.ln() - dot(a, toy.positives[a] as usize));
            for c in 0..count {
                let p = dot(a, c).exp() / sum - if toy.positives[a] as usize == c { 1.0 } else { 0.0 };
                (0..4).for_each(|i| d_users[a * 4 + i] += share * 20.0 * p * toy.items[c * 4 + i] as f64);
            }
        }
        assert!((got.loss - loss).abs() < 1e-5 * loss);
        assert!(got.d_users.iter().zip(&d_users).all(|(x, y)| (*x as f64 - y).abs() < 1e-4), "gradients differ");
    }

    #[test]
    fn the_right_logq_sign_approaches_full_softmax_and_the_wrong_one_does_not() {
        let (items, dim, scale) = (40, 6, 4.0);
        let mut rng = Rng::at(21, &[]);
        let skew: Vec<f64> = (0..items).map(|i| 1.0 / (1.0 + i as f64)).collect();
        let total: f64 = skew.iter().sum();
        let q: Vec<f64> = skew.iter().map(|s| s / total).collect();
        let mut toy = Toy::new(22, 256, items, dim, scale);
        let zeros = vec![0.0; items];
        let (mut right, mut wrong, mut none) = (0.0, 0.0, 0.0);
        for _ in 0..20 {
            for positive in &mut toy.positives {
                let mut u = rng.uniform();
                *positive = q
                    .iter()
                    .position(|q| {
                        u -= q;
                        u < 0.0
                    })
                    .unwrap_or(items - 1) as u32;
            }
            let full = run(&toy, &zeros, &zeros, &NONE);
            let distance = |sign: f64| {
                let mut multiplicity = vec![0.0f64; items];
                toy.positives.iter().for_each(|p| multiplicity[*p as usize] += 1.0);
                let own: Vec<f32> = q.iter().map(|q| (-sign * q.ln()) as f32).collect();
                let shared: Vec<f32> =
                    multiplicity.iter().zip(&q).map(|(m, q)| (m.ln() - sign * q.ln()) as f32).collect();
                let got = run(&toy, &shared, &own, &NONE);
                full.d_items.iter().zip(&got.d_items).map(|(a, b)| ((a - b) as f64).powi(2)).sum::<f64>().sqrt()
            };
            right += distance(1.0);
            none += distance(0.0);
            wrong += distance(-1.0);
        }
        assert!(right < 0.6 * none && none < wrong, "distances: right {right}, none {none}, wrong {wrong}");
    }
}
