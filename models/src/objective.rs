//! The loss of a batch of vectors, whichever model they come from: the candidates, the temperature, and the term.

use crate::candidates::{BatchCandidates, CandidateSource};
use crate::examples::{TrainingSet, Window};
use crate::losses::{LossGradient, ScoredBatch};
use crate::model::Terms;
use crate::params::Parameters;
use crate::rng::Rng;
use crate::train::TrainConfig;

/// What is minimised over pairs of a user's vector and an item's.
pub(crate) struct Objective {
    source: CandidateSource,
    loss: &'static str,
    temperature: f32,
    log_temperature: Option<usize>,
}

impl Objective {
    /// The loss of the settings, with a temperature. If that is learned, its logarithm becomes a parameter, which begins
    /// with the temperature that is given.
    pub fn new(
        set: &TrainingSet,
        train: &TrainConfig,
        (temperature, learned): (f32, bool),
        parameters: &mut Parameters,
    ) -> Self {
        let add = || parameters.add_dense("log_temperature".into(), 1, 1, false, vec![temperature.ln()]);
        let log_temperature = learned.then(add);
        Self { source: CandidateSource::new(set, train), loss: train.loss.name(), temperature, log_temperature }
    }

    /// Says with which probability each item is that of an example, if not in proportion to its training events.
    pub fn are_drawn_with(&mut self, shares: impl Iterator<Item = f64>) {
        self.source.are_drawn_with(shares);
    }

    /// 1 / τ, by which inner products of vectors are multiplied before they enter the loss.
    pub fn scale(&self, parameters: &Parameters) -> f32 {
        match self.log_temperature {
            Some(group) => (-parameters.dense[group].values[0]).exp(),
            None => 1.0 / self.temperature,
        }
    }

    /// Chooses the candidates of a batch. `clicked` are the item rows of its examples.
    pub fn choose(&self, windows: &[Window], clicked: &[u32], rng: Rng, out: &mut BatchCandidates) {
        self.source.choose(windows, clicked, rng, out);
    }

    /// The term of the loss of a batch, given the users' vectors, a row for each example, and the candidates' vectors, all
    /// of `dim` numbers. The gradients of vectors go to `loss`, that of the temperature to `dense`.
    pub fn learn(
        &self,
        parameters: &Parameters,
        ([users, items], dim): ([&[f32]; 2], usize),
        (candidates, weights): (&BatchCandidates, &[f32]),
        loss: &mut LossGradient,
        dense: &mut [Vec<f32>],
    ) -> Terms {
        let (scale, positives) = (self.scale(parameters), &candidates.positives[..]);
        let scored = ScoredBatch { users, items, dim, scale, positives, weights };
        self.source.loss(&scored, candidates, loss);
        if let Some(group) = self.log_temperature {
            // z = s / τ, so dL/d(log τ) = -Σ_a ⟨u_a, dL/du_a⟩.
            let products = users.iter().zip(&loss.d_users).map(|(u, d)| *u as f64 * *d as f64);
            dense[group][0] = -products.sum::<f64>() as f32;
        }
        let mut terms = Terms::default();
        terms.add(self.loss, 1.0, loss.loss);
        terms
    }
}
