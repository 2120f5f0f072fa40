//! Chooses the distinct items against which a batch is scored, and computes how each enters the loss.

use crate::examples::{Role, TrainingSet, Window};
use crate::losses::pairwise::{NO_NEGATIVE, Pairwise, gbce_power, pairwise};
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
    /// ln of the probability with which each item is that of an example: of count / total in the training events, unless
    /// the model draws them otherwise.
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
    /// The number of candidates, the first ones, against which every example is scored.
    shared: usize,
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
    /// How often each candidate is the item of an example, and how often it was drawn.
    pub fn occurrences(&self) -> [Vec<u32>; 2] {
        let [clicked, mut drawn] =
            [0, 1].map(|kind| self.multiplicity.iter().map(|number| number[kind]).collect::<Vec<_>>());
        let negatives = self.negatives.iter().filter(|negative| **negative != NO_NEGATIVE);
        negatives.for_each(|negative| drawn[*negative as usize] += 1);
        [clicked, drawn]
    }

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
            Loss::InBatch
            | Loss::Mixed { .. }
            | Loss::SampledSoftmax { .. }
            | Loss::FullSoftmax
            | Loss::Gbce { .. } => SamplerKind::Uniform,
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

    /// Says with which probability each item is that of an example, if not in proportion to its training events.
    pub fn are_drawn_with(&mut self, shares: impl Iterator<Item = f64>) {
        self.log_share = shares.map(f64::ln).collect();
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
        match self.loss {
            Loss::FullSoftmax => (0..self.items as u32).for_each(|item| {
                out.index(item);
            }),
            Loss::SampledSoftmax { negatives } => self.draw_distinct(negatives, &mut rng, out),
            Loss::InBatch | Loss::Mixed { .. } | Loss::Bce { .. } | Loss::Gbce { .. } | Loss::Bpr { .. } => {}
        }
        out.shared = out.items.len();
        for item in clicked {
            let index = out.index(*item);
            out.multiplicity[index][0] += 1;
            out.positives.push(index as u32);
        }
        match self.loss {
            Loss::SampledSoftmax { .. } | Loss::FullSoftmax => {}
            Loss::InBatch => out.shared = out.items.len(),
            Loss::Mixed { uniform } => {
                for _ in 0..uniform {
                    let index = out.index(rng.below(self.items) as u32);
                    out.multiplicity[index][1] += 1;
                }
                out.shared = out.items.len();
            }
            Loss::Bce { negatives, .. } | Loss::Gbce { negatives, .. } | Loss::Bpr { negatives, .. } => {
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

    /// Draws distinct items, every set of that many with the same probability (Floyd; Bentley and Floyd, CACM 1987).
    fn draw_distinct(&self, number: usize, rng: &mut Rng, out: &mut BatchCandidates) {
        for last in self.items.saturating_sub(number)..self.items {
            let index = out.index(rng.below(last + 1) as u32);
            let index = if out.multiplicity[index][1] == 0 { index } else { out.index(last as u32) };
            out.multiplicity[index][1] = 1;
        }
    }

    /// correction = ln(m1 / q1 + m2 / q2), where m1 and m2 are the candidate's multiplicities in the batch and among
    /// the uniform draws, and q1 and q2 its probabilities there, or 1 without the logQ correction. As the positive of a
    /// row, it occurs once in the batch.
    ///
    /// With [`Loss::SampledSoftmax`] the batch is no source of negatives. There, m2 is 1, and q2 is the probability with
    /// which an item is among the distinct ones that are drawn, so that the expected sum over the negatives is the sum over
    /// the catalogue; and the positive, which is always there, has no correction.
    fn correct(&self, out: &mut BatchCandidates) {
        out.correction.clear();
        out.positive_correction.clear();
        for (item, [in_batch, uniform]) in out.items.iter().zip(&out.multiplicity) {
            let (correction, of_positive) = match self.loss {
                Loss::FullSoftmax => (0.0, 0.0),
                Loss::SampledSoftmax { negatives } => {
                    let inverse = if self.logq { self.items as f64 / negatives.min(self.items) as f64 } else { 1.0 };
                    (inverse.ln(), 0.0)
                }
                Loss::InBatch | Loss::Mixed { .. } | Loss::Bce { .. } | Loss::Gbce { .. } | Loss::Bpr { .. } => {
                    let log_q = if self.logq { self.log_share[*item as usize] } else { 0.0 };
                    let inverse_uniform = if self.logq { self.items as f64 } else { 1.0 };
                    // An item that came only from the uniform draws may have no training event: q1 = 0.
                    let from_batch = if *in_batch > 0 { f64::from(*in_batch) * (-log_q).exp() } else { 0.0 };
                    let correction = (from_batch + f64::from(*uniform) * inverse_uniform).ln();
                    (correction, if *in_batch > 0 { -log_q } else { 0.0 })
                }
            };
            out.correction.push(correction as f32);
            out.positive_correction.push(of_positive as f32);
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
            Loss::InBatch | Loss::Mixed { .. } | Loss::SampledSoftmax { .. } | Loss::FullSoftmax => {
                let candidates = Candidates {
                    shared: batch.shared,
                    correction: &batch.correction,
                    positive_correction: &batch.positive_correction,
                    masked: &batch.masked,
                };
                softmax(scored, &candidates, out);
            }
            Loss::Bce { .. } => pairwise(Pairwise::Bce { power: 1.0 }, scored, &batch.negatives, out),
            Loss::Gbce { negatives, t } => {
                let power = gbce_power(t, negatives, self.items);
                pairwise(Pairwise::Bce { power }, scored, &batch.negatives, out);
            }
            Loss::Bpr { .. } => pairwise(Pairwise::Bpr, scored, &batch.negatives, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::tests::planted;
    use crate::losses::tests::Toy;
    use std::collections::BTreeMap;

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
            Loss::SampledSoftmax { negatives: 5 },
            Loss::FullSoftmax,
            Loss::Gbce { negatives: 2, t: 0.5 },
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

    /// Loss and gradients of a batch whose vectors are random, by item.
    fn computed(loss: Loss, mask_accidental_hits: bool, step: u64) -> (f64, Vec<f32>, BTreeMap<u32, Vec<f32>>) {
        let set = planted(20, 12, 3, 6);
        let config = TrainConfig { loss, mask_accidental_hits: Some(mask_accidental_hits), ..TrainConfig::default() };
        let source = CandidateSource::new(&set, &config);
        let windows: Vec<Window> = set.events(Role::Train).take(40).map(|event| set.window(event)).collect();
        let clicked: Vec<u32> = windows.iter().map(|w| set.interactions.items[w.targets.start]).collect();
        let mut batch = BatchCandidates::default();
        source.choose(&windows, &clicked, Rng::at(5, &[step]), &mut batch);
        let toy = Toy::new(17, 40, 12, 6, 4.0);
        let items: Vec<f32> = batch.items.iter().flat_map(|i| toy.items[*i as usize * 6..][..6].to_vec()).collect();
        let scored = ScoredBatch { items: &items, positives: &batch.positives, ..toy.scored() };
        let mut out = LossGradient::default();
        source.loss(&scored, &batch, &mut out);
        let by_item = batch.items.iter().zip(out.d_items.chunks_exact(6)).map(|(item, d)| (*item, d.to_vec()));
        (out.loss, out.d_users.clone(), by_item.collect())
    }

    #[test]
    fn gbce_without_calibration_is_bce() {
        let bce = computed(Loss::Bce { negatives: 3, sampler: SamplerKind::Uniform }, true, 0);
        let gbce = |t| computed(Loss::Gbce { negatives: 3, t }, true, 0);
        assert_eq!(gbce(0.0), bce);
        let calibrated = gbce(0.75);
        assert!(calibrated.0 < bce.0 && calibrated.1 != bce.1);
    }

    #[test]
    fn a_sampled_softmax_over_the_whole_catalogue_is_the_full_softmax() {
        for masked in [false, true] {
            let full = computed(Loss::FullSoftmax, masked, 0);
            for negatives in [12, 500] {
                let sampled = computed(Loss::SampledSoftmax { negatives }, masked, 0);
                assert!((sampled.0 - full.0).abs() < 1e-5, "{} for {}", sampled.0, full.0);
                let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(close(&sampled.1, &full.1));
                assert!(full.2.iter().all(|(item, d)| close(d, &sampled.2[item])));
            }
        }
    }

    #[test]
    fn sampled_items_are_distinct_and_each_is_drawn_as_often() {
        let (set, _, _, source, mut out) = chosen(Loss::SampledSoftmax { negatives: 5 });
        let windows: Vec<Window> = set.events(Role::Train).take(3).map(|event| set.window(event)).collect();
        let clicked: Vec<u32> = windows.iter().map(|w| set.interactions.items[w.targets.start]).collect();
        let mut drawn = [0u32; 12];
        for step in 0..6000 {
            source.choose(&windows, &clicked, Rng::at(3, &[step]), &mut out);
            let mut number = 0;
            for (item, [_, uniform]) in out.items.iter().zip(&out.multiplicity) {
                drawn[*item as usize] += uniform;
                number += uniform;
            }
            assert_eq!(number, 5);
        }
        // 2,500 are expected; a standard deviation is 38.
        assert!(drawn.iter().all(|n| n.abs_diff(2500) < 200), "{drawn:?}");
    }

    #[test]
    fn the_correction_of_a_sampled_softmax_gives_the_sum_over_the_catalogue() {
        // The mean over draws of Σ e^(z + correction) of the negatives is the sum over all of them.
        let (_, _, clicked, source, mut out) = chosen(Loss::SampledSoftmax { negatives: 4 });
        let z = |item: u32| f64::from(item) * 0.2 - 1.0;
        let (positive, draws) = (clicked[0], 4000);
        let expected: f64 = (0..12).filter(|item| *item != positive).map(|item| z(item).exp()).sum();
        let mut mean = 0.0;
        for step in 0..draws {
            source.choose(&[], &[positive], Rng::at(8, &[step]), &mut out);
            assert!(out.shared == 4 && out.positive_correction.iter().all(|c| *c == 0.0));
            let shared = out.items.iter().zip(&out.correction).take(out.shared);
            let others = shared.filter(|(item, _)| **item != positive);
            mean += others.map(|(item, c)| (z(*item) + f64::from(*c)).exp()).sum::<f64>() / draws as f64;
        }
        assert!((mean / expected - 1.0).abs() < 0.03, "{mean} for {expected}");
    }
}
