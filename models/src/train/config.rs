//! Settings of training.

use crate::dssm::SequencePooling;
use crate::error::ModelError;
use crate::metrics::{Measure, MetricName};
use crate::model::ModelConfig;
use crate::optimiser::AdamSettings;
use serde::{Deserialize, Serialize};
use twotower_artifacts::range::{self, Range, Ranges};

/// What is minimised. Written `"in_batch"` or `{ mixed = { uniform = 1024 } }`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Softmax over the items of the batch.
    #[default]
    InBatch,
    /// Softmax over the items of the batch and items drawn uniformly from the catalogue.
    Mixed {
        /// Uniform draws per batch.
        uniform: usize,
    },
    /// Softmax over the positive and items drawn uniformly from the catalogue, the same for the whole batch.
    SampledSoftmax {
        /// Distinct items drawn per batch; the whole catalogue where it has fewer.
        negatives: usize,
    },
    /// Exact softmax over the whole catalogue.
    FullSoftmax,
    /// Binary cross-entropy with sampled negatives.
    Bce {
        /// Negatives per positive.
        negatives: usize,
        /// Their distribution.
        #[serde(default)]
        sampler: SamplerKind,
    },
    /// Binary cross-entropy with uniformly sampled negatives, in which the positive's probability is raised to a power
    /// against overconfidence (gBCE; Petrov and Macdonald, RecSys 2023).
    Gbce {
        /// Negatives per positive.
        negatives: usize,
        /// Calibration: 0 is `bce`; 1 gives probabilities as if all items were negatives.
        #[serde(default = "calibration")]
        t: f64,
    },
    /// Bayesian personalised ranking with sampled negatives.
    Bpr {
        /// Negatives per positive.
        negatives: usize,
        /// Their distribution.
        #[serde(default)]
        sampler: SamplerKind,
    },
}

impl Loss {
    /// The name of the loss's term in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Loss::InBatch => "in_batch",
            Loss::Mixed { .. } => "mixed",
            Loss::SampledSoftmax { .. } => "sampled_softmax",
            Loss::FullSoftmax => "full_softmax",
            Loss::Bce { .. } => "bce",
            Loss::Gbce { .. } => "gbce",
            Loss::Bpr { .. } => "bpr",
        }
    }
}

/// The calibration that the authors of gBCE recommend.
fn calibration() -> f64 {
    0.75
}

/// How sampled negatives are distributed over the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// Every item with the same probability.
    #[default]
    Uniform,
    /// In proportion to count^0.75 in the training events (Mikolov et al., NeurIPS 2013); items
    /// without training events are never drawn.
    Popularity,
}

/// Course of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// Half a cosine down to `min_learning_rate` at the last step.
    #[default]
    Cosine,
    /// No change.
    Constant,
    /// Steps down by a factor.
    Step {
        /// Epochs after each of which the rate falls.
        every: usize,
        /// What it is multiplied by.
        factor: f64,
    },
}

/// Settings of training; the model's own are in [`crate::model::ModelConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training events.
    pub epochs: usize,
    /// Targets per step. With windows of several targets, a step has as many, more or less those of one window. 0 chooses a power of two from 256 to 4,096 by the number of events, so that
    /// an epoch has about 50 steps or more.
    pub batch_size: usize,
    /// Seed of initialisation, order and every draw.
    pub seed: u64,
    /// What is minimised.
    pub loss: Loss,
    /// Whether log q is subtracted from the logit of a candidate that was sampled with probability q. It
    /// applies to `in_batch`, `mixed` and `sampled_softmax`, since the other losses have no such term.
    pub logq_correction: bool,
    /// Whether a user's other training positives are never scored as negatives. The default is yes, except for
    /// `full_softmax`, which is exact without it.
    pub mask_accidental_hits: Option<bool>,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay of weight matrices.
    pub weight_decay: f32,
    /// Decoupled weight decay of embedding rows in the steps that touch them.
    pub embedding_weight_decay: f32,
    /// Decay of Adam's first moment.
    pub beta1: f32,
    /// Decay of Adam's second moment.
    pub beta2: f32,
    /// Adam's epsilon.
    pub eps: f32,
    /// Steps over which the learning rate rises linearly. At most a tenth of all steps is used.
    pub warmup_steps: usize,
    /// Course of the learning rate afterwards.
    pub schedule: Schedule,
    /// Where a cosine schedule ends, as a share of `learning_rate`.
    pub min_learning_rate: f64,
    /// Largest global gradient norm. 0 means no clipping.
    pub clip_norm: f32,
    /// Share of codes dropped to unknown, so that the unknown rows are trained.
    pub unknown_rate: f64,
    /// Share of single codes dropped to missing, so that the missing rows are trained.
    pub missing_rate: f64,
    /// Validation metric that chooses the best epoch.
    pub metric: MetricName,
    /// Epochs without a better metric after which training stops. 0 means never.
    pub patience: usize,
    /// Epochs before which training does not stop early.
    pub min_epochs: usize,
    /// The most validation events ranked after an epoch, evenly spaced. 0 means all.
    pub validation_events: usize,
    /// Steps between checkpoints within an epoch. 0 means only after epochs.
    pub checkpoint_steps: usize,
    /// Number of threads. 0 means those of the process. Results do not depend on it.
    pub threads: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 0,
            seed: 42,
            loss: Loss::InBatch,
            logq_correction: true,
            mask_accidental_hits: None,
            learning_rate: 1e-3,
            weight_decay: 1e-6,
            embedding_weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            warmup_steps: 100,
            schedule: Schedule::Cosine,
            min_learning_rate: 0.01,
            clip_norm: 5.0,
            unknown_rate: 0.01,
            missing_rate: 0.001,
            metric: MetricName { measure: Measure::Recall, k: 10 },
            patience: 5,
            min_epochs: 0,
            validation_events: 50_000,
            checkpoint_steps: 0,
            threads: 0,
        }
    }
}

impl TrainConfig {
    /// The ranges of all numbers.
    pub const RANGES: Ranges = &[
        ("epochs", Range::Whole(1, 10_000)),
        ("batch_size", Range::Whole(0, 1 << 20)),
        ("seed", Range::SEED),
        ("loss.mixed.uniform", Range::Whole(1, 1_000_000)),
        ("loss.sampled_softmax.negatives", Range::Whole(1, 1_000_000)),
        ("loss.bce.negatives", Range::Whole(1, 10_000)),
        ("loss.gbce.negatives", Range::Whole(1, 10_000)),
        ("loss.gbce.t", Range::SHARE),
        ("loss.bpr.negatives", Range::Whole(1, 10_000)),
        ("learning_rate", Range::Above(0.0, 10.0)),
        ("weight_decay", Range::Below(0.0, 1.0)),
        ("embedding_weight_decay", Range::Below(0.0, 1.0)),
        ("beta1", Range::Below(0.0, 1.0)),
        ("beta2", Range::Below(0.0, 1.0)),
        ("eps", Range::Above(0.0, 1.0)),
        ("warmup_steps", Range::Whole(0, 1_000_000_000)),
        ("min_learning_rate", Range::SHARE),
        ("schedule.step.every", Range::Whole(1, 10_000)),
        ("schedule.step.factor", Range::Above(0.0, 1.0)),
        ("clip_norm", Range::Real(0.0, 1e6)),
        ("unknown_rate", Range::Below(0.0, 1.0)),
        ("missing_rate", Range::Below(0.0, 1.0)),
        ("patience", Range::Whole(0, 10_000)),
        ("min_epochs", Range::Whole(0, 10_000)),
        ("validation_events", Range::Whole(0, 1_000_000_000)),
        ("checkpoint_steps", Range::Whole(0, 1_000_000_000)),
        ("threads", Range::Whole(0, 1024)),
    ];

    /// Checks every number against its range.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub fn check(&self) -> Result<(), ModelError> {
        range::check(self, Self::RANGES).map_err(ModelError::range)
    }

    /// These settings with `batch_size` chosen for a model and a number of training events, if it is 0. Models that learn
    /// at every position of a window see few users in a batch, and need many steps.
    pub fn resolved(&self, model: &ModelConfig, events: usize) -> Self {
        let most = if model.dssm().pooling == SequencePooling::Attention { 512 } else { 4096 };
        let batch_size = match self.batch_size {
            0 => (events / 50 / 2 + 1).next_power_of_two().clamp(256, most),
            given => given,
        };
        Self { batch_size, ..self.clone() }
    }

    /// Whether a user's known positives are never scored as negatives.
    pub(crate) fn masks(&self) -> bool {
        self.mask_accidental_hits.unwrap_or(self.loss != Loss::FullSoftmax)
    }

    /// The learning rate of step `step` of all, counted from 0, in epochs of `steps`.
    pub(crate) fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let total = self.epochs * steps;
        let warmup = self.warmup_steps.min(total / 10);
        if step < warmup {
            return self.learning_rate * (step + 1) as f64 / warmup as f64;
        }
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Step { every, factor } => self.learning_rate * factor.powf((step / steps / every) as f64),
            Schedule::Cosine => {
                let last = total.saturating_sub(warmup + 1).max(1);
                let progress = ((step - warmup) as f64 / last as f64).min(1.0);
                let share = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                self.learning_rate * (self.min_learning_rate + (1.0 - self.min_learning_rate) * share)
            }
        }
    }

    /// The settings of the optimiser.
    pub(crate) fn adam(&self) -> AdamSettings {
        AdamSettings {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            embedding_weight_decay: self.embedding_weight_decay,
            clip_norm: self.clip_norm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasrec::SasrecConfig;

    #[test]
    fn a_batch_size_of_zero_follows_the_number_of_events() {
        let (dssm, sasrec) = (ModelConfig::default(), ModelConfig::Sasrec(SasrecConfig::default()));
        let size = |model, events| TrainConfig::default().resolved(model, events).batch_size;
        assert_eq!([10, 14_000, 60_000, 10_000_000].map(|events| size(&dssm, events)), [256, 256, 1024, 4096]);
        assert_eq!([10, 60_000, 10_000_000].map(|events| size(&sasrec, events)), [256, 512, 512]);
        assert_eq!(TrainConfig { batch_size: 7, ..Default::default() }.resolved(&dssm, 1000).batch_size, 7);
    }

    #[test]
    fn the_learning_rate_rises_then_falls_to_its_floor() {
        let config = TrainConfig {
            learning_rate: 1.0,
            warmup_steps: 10,
            min_learning_rate: 0.1,
            epochs: 5,
            ..Default::default()
        };
        assert!((config.learning_rate_at(0, 20) - 0.1).abs() < 1e-12);
        assert!((config.learning_rate_at(9, 20) - 1.0).abs() < 1e-12);
        assert!((config.learning_rate_at(10, 20) - 1.0).abs() < 1e-12);
        assert!((config.learning_rate_at(99, 20) - 0.1).abs() < 1e-12);
        let step = Schedule::Step { every: 2, factor: 0.5 };
        for (schedule, expected) in [(Schedule::Constant, [1.0, 1.0, 1.0]), (step, [1.0, 0.5, 0.25])] {
            let config = TrainConfig { schedule, ..config.clone() };
            assert_eq!([39, 40, 99].map(|step| config.learning_rate_at(step, 20)), expected);
            assert!((config.learning_rate_at(4, 20) - 0.5).abs() < 1e-12);
        }
    }

    #[test]
    fn configurations_read_back_and_unknown_keys_are_refused() {
        let text = r#"{"loss": {"bce": {"negatives": 3, "sampler": "popularity"}}, "metric": "ndcg@20"}"#;
        let config: TrainConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.loss, Loss::Bce { negatives: 3, sampler: SamplerKind::Popularity });
        assert_eq!(config.metric.to_string(), "ndcg@20");
        assert_eq!(serde_json::from_str::<TrainConfig>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
        let model: ModelConfig = serde_json::from_str(r#"{"kind": "dssm", "hidden": [32, 16]}"#).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&serde_json::to_string(&model).unwrap()).unwrap(), model);
        assert!(serde_json::from_str::<TrainConfig>(r#"{"epoch": 3}"#).is_err());
        assert!(serde_json::from_str::<TrainConfig>(r#"{"loss": {"mixed": {"uniform": 1, "x": 2}}}"#).is_err());
        assert!(serde_json::from_str::<ModelConfig>(r#"{"kind": "dssm", "layers": 3}"#).is_err());
    }

    #[test]
    fn settings_outside_their_range_are_named() {
        for (config, name) in [
            (TrainConfig { epochs: 0, ..Default::default() }, "epochs"),
            (TrainConfig { learning_rate: f64::NAN, ..Default::default() }, "learning_rate"),
            (TrainConfig { loss: Loss::Mixed { uniform: 0 }, ..Default::default() }, "loss"),
            (TrainConfig { unknown_rate: 1.5, ..Default::default() }, "unknown_rate"),
        ] {
            assert!(config.check().unwrap_err().to_string().contains(name));
        }
    }
}
