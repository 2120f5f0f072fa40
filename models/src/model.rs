//! What the trainer asks of a model, and the models there are.

use crate::dssm::DssmConfig;
use crate::error::ModelError;
use crate::params::{Gradients, Parameters};
use crate::tower::Tower;
use serde::{Deserialize, Serialize};
use twotower_artifacts::{CodeBatch, Side};

/// Which model to train, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelConfig {
    /// Two feed-forward towers and a cosine.
    Dssm(DssmConfig),
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig::Dssm(DssmConfig::default())
    }
}

/// What an inner product of vectors is multiplied by before a loss sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// 1 / τ.
    pub value: f32,
    /// Dense group that holds log τ, when it is learned.
    pub log_temperature: Option<usize>,
}

/// A model of two towers, trained by gradients of its vectors.
pub trait Model: Sync {
    /// What a forward pass leaves for the backward pass.
    type Pass: Default + Send;

    /// All parameters.
    fn parameters(&self) -> &Parameters;
    /// All parameters, to be updated.
    fn parameters_mut(&mut self) -> &mut Parameters;
    /// Width of a vector.
    fn dim(&self) -> usize;
    /// The scale of scores.
    fn scale(&self) -> Scale;
    /// Embeds rows of one side; `noise` is a key for dropout, absent outside training.
    fn forward(&self, side: Side, batch: &CodeBatch, noise: Option<u64>, pass: &mut Self::Pass);
    /// `[rows, dim]` vectors of a pass.
    fn vectors<'a>(&self, pass: &'a Self::Pass) -> &'a [f32];
    /// Adds the gradients of all parameters, given those of both sides' vectors.
    ///
    /// # Errors
    /// [`ModelError::Setting`] when the batch is too large to be addressed.
    fn backward(
        &self,
        user: (&CodeBatch, &mut Self::Pass, &[f32]),
        item: (&CodeBatch, &mut Self::Pass, &[f32]),
        gradients: &mut Gradients,
    ) -> Result<(), ModelError>;
    /// The trained user tower and item tower.
    fn towers(&self) -> (Tower, Tower);
}
