//! Chooses the distinct items against which a batch is scored, and computes how each enters the loss.

use crate::examples::{Role, TrainingSet, Window};
use crate::losses::pairwise::{NO_NEGATIVE, Pairwise, pairwise};
use crate::losses::softmax::{Candidates, softmax};
use crate::losses::{LossGradient, ScoredBatch};
use crate::rng::Rng;
use crate::samplers::Sampler;
use crate::train::{Loss, SamplerKind, TrainConfig};
use rayon::prelude::*;
use twotower_artifacts::Ragged;

/// Chooses the candidates of batches. It holds what does not change between them: counts, the sampler, and the
/// positives of every user.
pub struct CandidateSource {
    loss: Loss,
    logq: bool,
    masks: bool,
    items: usize,
    /// ln(count / total) of each item in the training events.
    log_share: Vec<f64>,
    sampler: Sampler,
    /// Sorted distinct training items of each user row.
    positives: Positives,
}

#[derive(Default)]
struct Positives {
    offsets: Vec<usize>,
    items: Vec<u32>,
}

impl Positives {
    fn new(set: &TrainingSet) -> Self {
        let mut positives = Self { offsets: vec![0], items: Vec::new() };
        for user in 0..set.interactions.users() {
            let first = positives.items.len();
            let events = set.interactions.events(user).filter(|event| set.roles[*event] == Role::Train);
            positives.items.extend(events.map(|event| set.interactions.items[event]));
            positives.items[first..].sort_unstable();
            let mut kept = first;
            for i in first..positives.items.len() {
                if i == first || positives.items[i] != positives.items[kept - 1] {
                    positives.items[kept] = positives.items[i];
                    kept += 1;
                }
            }
            positives.items.truncate(kept);
            positives.offsets.push(kept);
        }
        positives
    }

    fn of(&self, user: u32) -> &[u32] {
        &self.items[self.offsets[user as usize]..self.offsets[user as usize + 1]]
    }
}

/// The candidates of one batch. It is reused between steps.
#[derive(Default)]
pub struct BatchCandidates {
    /// Distinct item rows.
    pub items: Vec<u32>,
    /// `[batch]` the candidate that each example clicked.
    pub positives: Vec<u32>,
    correction: Vec<f32>,
    positive_correction: Vec<f32>,
    masked: Ragged,
    negatives: Vec<u32>,
    /// For each item of the catalogue, its candidate plus 1, or 0 if it is no candidate.
    index_of: Vec<u32>,
    /// How often each candidate occurs in the batch, and how often among the uniform draws.
    multiplicity: Vec<[u32; 2]>,
}

impl BatchCandidates {
    fn index(&mut self, item: u32) -> usize {
        let index = &mut self.index_of[item as usize];
        if *index == 0 {
            self.items.push(item);
            self.multiplicity.push([0; 2]);
            *index = self.items.len() as u32;
        }
        *index as usize - 1
    }
}

impl CandidateSource {
    /// Counts the training events.
    pub fn new(set: &TrainingSet, config: &TrainConfig) -> Self {
        let counts = set.training_counts();
        let total: u64 = counts.iter().sum();
        let kind = match config.loss {
            Loss::Bce { sampler, .. } | Loss::Bpr { sampler, .. } => sampler,
            Loss::InBatch | Loss::Mixed { .. } | Loss::FullSoftmax => SamplerKind::Uniform,
        };
        Self {
            loss: config.loss,
            logq: config.logq_correction,
            masks: config.masks(),
            items: counts.len(),
            log_share: counts.iter().map(|count| (*count as f64 / total as f64).ln()).collect(),
            sampler: Sampler::new(kind, &counts),
            positives: Positives::new(set),
        }
    }

    /// Chooses the candidates of a batch. `clicked` are the item rows of its examples.
    pub fn choose(&self, windows: &[Window], clicked: &[u32], mut rng: Rng, out: &mut BatchCandidates) {
        out.index_of.resize(self.items, 0);
        for item in out.items.drain(..) {
            out.index_of[item as usize] = 0;
        }
        out.multiplicity.clear();
        out.negatives.clear();
        out.positives.clear();
        if self.loss == Loss::FullSoftmax {
            (0..self.items as u32).for_each(|item| {
                out.index(item);
            });
        }
        for item in clicked {
            let index = out.index(*item);
            out.multiplicity[index][0] += 1;
            out.positives.push(index as u32);
        }
        match self.loss {
            Loss::InBatch | Loss::FullSoftmax => {}
            Loss::Mixed { uniform } => {
                for _ in 0..uniform {
                    let index = out.index(rng.below(self.items) as u32);
                    out.multiplicity[index][1] += 1;
                }
            }
            Loss::Bce { negatives, .. } | Loss::Bpr { negatives, .. } => {
                for (window, clicked) in windows.iter().zip(clicked) {
                    let known = self.positives.of(window.user);
                    for _ in 0..negatives {
                        let refused = |item| item == *clicked || self.masks && known.binary_search(&item).is_ok();
                        let negative = self.sampler.draw_outside(&mut rng, refused);
                        let index = negative.map_or(NO_NEGATIVE, |item| out.index(item) as u32);
                        out.negatives.push(index);
                    }
                }
                return;
            }
        }
        self.correct(out);
        self.mask(windows, out);
    }

    /// correction = ln(m1 / q1 + m2 / q2), where m1 and m2 are the candidate's multiplicities in the batch and among
    /// the uniform draws, and q1 and q2 its probabilities there, or 1 without the logQ correction. As the positive of a
    /// row, it occurs once in the batch.
    fn correct(&self, out: &mut BatchCandidates) {
        out.correction.clear();
        out.positive_correction.clear();
        let sampled = self.logq && self.loss != Loss::FullSoftmax;
        for (item, [in_batch, uniform]) in out.items.iter().zip(&out.multiplicity) {
            if self.loss == Loss::FullSoftmax {
                out.correction.push(0.0);
                out.positive_correction.push(0.0);
                continue;
            }
            let log_q = if sampled { self.log_share[*item as usize] } else { 0.0 };
            let inverse_uniform = if sampled { self.items as f64 } else { 1.0 };
            // An item that came only from the uniform draws may have no training event: q1 = 0.
            let from_batch = if *in_batch > 0 { *in_batch as f64 * (-log_q).exp() } else { 0.0 };
            out.correction.push((from_batch + *uniform as f64 * inverse_uniform).ln() as f32);
            out.positive_correction.push(if *in_batch > 0 { -log_q as f32 } else { 0.0 });
        }
    }

    /// Lists for each example the candidates that are other positives of its user.
    fn mask(&self, windows: &[Window], out: &mut BatchCandidates) {
        out.masked.clear();
        if !self.masks {
            return;
        }
        const RUN: usize = 256;
        let (index_of, positives) = (&out.index_of, &out.positives);
        let runs: Vec<Ragged> = windows
            .par_chunks(RUN)
            .zip(positives.par_chunks(RUN))
            .map(|(windows, positives)| {
                let mut masked = Ragged::default();
                for (window, positive) in windows.iter().zip(positives) {
                    let known = self.positives.of(window.user).iter();
                    let candidates = known.map(|item| index_of[*item as usize]).filter(|index| *index > 0);
                    masked.push_row(candidates.map(|index| index - 1).filter(|index| index != positive));
                }
                masked
            })
            .collect();
        for run in runs {
            (0..run.rows()).for_each(|r| out.masked.push_row(run.row(r).iter().copied()));
        }
    }

    /// Computes the configured loss of a batch over its candidates.
    pub fn loss(&self, scored: &ScoredBatch, batch: &BatchCandidates, out: &mut LossGradient) {
        match self.loss {
            Loss::InBatch | Loss::Mixed { .. } | Loss::FullSoftmax => {
                let candidates = Candidates {
                    correction: &batch.correction,
                    positive_correction: &batch.positive_correction,
                    masked: &batch.masked,
                };
                softmax(scored, &candidates, out);
            }
            Loss::Bce { .. } => pairwise(Pairwise::Bce, scored, &batch.negatives, out),
            Loss::Bpr { .. } => pairwise(Pairwise::Bpr, scored, &batch.negatives, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::tests::planted;

    fn chosen(loss: Loss) -> (TrainingSet, Vec<Window>, Vec<u32>, CandidateSource, BatchCandidates) {
        let set = planted(20, 12, 3, 6);
        let config = TrainConfig { loss, ..TrainConfig::default() };
        let source = CandidateSource::new(&set, &config);
        let windows: Vec<Window> = set.events(Role::Train).take(40).map(|event| set.window(event)).collect();
        let clicked: Vec<u32> = windows.iter().map(|w| set.interactions.items[w.targets.start]).collect();
        let mut out = BatchCandidates::default();
        for step in 0..3 {
            source.choose(&windows, &clicked, Rng::at(1, &[step]), &mut out);
        }
        (set, windows, clicked, source, out)
    }

    #[test]
    fn candidates_are_distinct_and_positives_point_at_the_clicked_items() {
        for loss in [
            Loss::InBatch,
            Loss::Mixed { uniform: 9 },
            Loss::FullSoftmax,
            Loss::Bce { negatives: 2, sampler: SamplerKind::Uniform },
        ] {
            let (_, _, clicked, _, out) = chosen(loss);
            let mut distinct = out.items.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), out.items.len());
            assert!(out.positives.iter().zip(&clicked).all(|(p, item)| out.items[*p as usize] == *item));
            if loss == Loss::FullSoftmax {
                assert_eq!(distinct.len(), 12);
                assert!(out.correction.iter().all(|c| *c == 0.0) && out.masked.rows() == 0);
            }
        }
    }

    #[test]
    fn masks_hold_the_users_other_positives_and_negatives_hold_none() {
        let (set, windows, clicked, source, out) = chosen(Loss::Mixed { uniform: 9 });
        for (row, (window, clicked)) in windows.iter().zip(&clicked).enumerate() {
            let known = source.positives.of(window.user);
            let masked: Vec<u32> = out.masked.row(row).iter().map(|c| out.items[*c as usize]).collect();
            for item in &out.items {
                assert_eq!(masked.contains(item), known.contains(item) && item != clicked);
            }
        }
        assert_eq!(set.items.rows(), 12);
        let (_, windows, _, source, out) = chosen(Loss::Bpr { negatives: 3, sampler: SamplerKind::Popularity });
        assert_eq!(out.negatives.len(), windows.len() * 3);
        for (i, negative) in out.negatives.iter().filter(|n| **n != NO_NEGATIVE).enumerate() {
            let known = source.positives.of(windows[i / 3].user);
            assert!(!known.contains(&out.items[*negative as usize]));
        }
    }

    #[test]
    fn corrections_are_log_multiplicity_over_probability() {
        let (set, _, clicked, _, out) = chosen(Loss::Mixed { uniform: 30 });
        let counts = set.training_counts();
        let total: u64 = counts.iter().sum();
        for (c, item) in out.items.iter().enumerate() {
            let in_batch = clicked.iter().filter(|i| *i == item).count() as f64;
            let [_, uniform] = out.multiplicity[c];
            let q = counts[*item as usize] as f64 / total as f64;
            let batch_part = if in_batch > 0.0 { in_batch / q } else { 0.0 };
            let want = (batch_part + uniform as f64 * 12.0).ln();
            assert!((out.correction[c] as f64 - want).abs() < 1e-5);
            if in_batch > 0.0 {
                assert!((out.positive_correction[c] as f64 + q.ln()).abs() < 1e-5);
            }
        }
    }
}
