//! What the trainer asks of a model, and the models there are.

use crate::dssm::DssmConfig;
use crate::error::ModelError;
use crate::examples::{TrainingSet, Window};
use crate::params::{Gradients, Parameters};
use crate::rng::Rng;
use crate::tower::Tower;
use serde::de::DeserializeOwned;
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

/// Where an epoch stands: from this, and from the seed, a model draws all that is random.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The run's seed.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step within the epoch, from 0.
    pub step: usize,
}

impl Moment {
    /// Random numbers of the epoch, for one purpose.
    pub fn of_epoch(&self, purpose: u64) -> Rng {
        Rng::at(self.seed, &[purpose, self.epoch as u64])
    }

    /// Random numbers of the step, for one purpose.
    pub fn of_step(&self, purpose: u64) -> Rng {
        Rng::at(self.seed, &[purpose, self.epoch as u64, self.step as u64])
    }
}

/// A term of a loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// What it is called wherever losses are shown.
    pub name: String,
    /// What it is multiplied by before it is added to the others.
    pub weight: f64,
    /// Its value, before that: a mean over windows.
    pub value: f64,
}

/// The loss of a batch: terms of unlike names, each with its weight.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Terms(pub Vec<Term>);

impl Terms {
    /// Adds a term.
    pub fn add(&mut self, name: &str, weight: f64, value: f64) {
        self.0.push(Term { name: name.into(), weight, value });
    }

    /// The loss.
    pub fn total(&self) -> f64 {
        self.0.iter().map(|term| term.weight * term.value).sum()
    }
}

/// How a parameter is trained beside what the settings say for all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// What the learning rate is multiplied by.
    pub rate: f64,
    /// Decoupled weight decay, where it is not that of the settings.
    pub decay: Option<f32>,
    /// The first epoch, from 0, that changes it.
    pub from_epoch: usize,
}

impl Default for Group {
    fn default() -> Self {
        Self { rate: 1.0, decay: None, from_epoch: 0 }
    }
}

/// A model of two towers. An epoch is a list of windows; a step takes some of them, and the model computes from
/// them the terms of its loss and the gradients of its parameters.
pub trait Model: Sync {
    /// What a step needs room for; reused between steps.
    type Work: Send;
    /// What lives from epoch to epoch beside the parameters. Checkpoints hold it.
    type State: Serialize + DeserializeOwned + Send + Sync;

    /// All parameters.
    fn parameters(&self) -> &Parameters;
    /// All parameters, to be updated.
    fn parameters_mut(&mut self) -> &mut Parameters;
    /// How the parameter of that name is trained.
    fn group(&self, _parameter: &str) -> Group {
        Group::default()
    }
    /// Room for the gradients of a step: of each table by rows, unless the model replaces that.
    fn gradients(&self) -> Gradients {
        Gradients::new(self.parameters())
    }

    /// Room for steps.
    fn work(&self) -> Self::Work;
    /// The state.
    fn state(&self) -> &Self::State;
    /// The state of a checkpoint, taken up again.
    fn restore(&mut self, state: Self::State);
    /// Called before the first step of every epoch.
    ///
    /// # Errors
    /// What the model cannot go on with.
    fn begin_epoch(&mut self, _set: &TrainingSet, _moment: Moment) -> Result<(), ModelError> {
        Ok(())
    }

    /// The windows of an epoch, in the order in which they are trained, each by a number that [`Model::window`] knows.
    /// Every epoch has as many.
    fn windows(&self, set: &TrainingSet, moment: Moment) -> Vec<u32>;
    /// The window of a number.
    fn window(&self, set: &TrainingSet, number: u32) -> Window;

    /// Gives the terms of the loss of some windows, and adds the gradients of their sum to `gradients`, which are zero
    /// before.
    ///
    /// # Errors
    /// [`ModelError::Setting`] when the batch is too large to be addressed.
    fn learn(
        &self,
        set: &TrainingSet,
        windows: &[Window],
        moment: Moment,
        work: &mut Self::Work,
        gradients: &mut Gradients,
    ) -> Result<Terms, ModelError>;

    /// Width of a vector.
    fn dim(&self) -> usize;
    /// Embeds rows of one side, as its tower will: `[rows, dim]`.
    fn embed<'a>(&self, side: Side, batch: &CodeBatch, work: &'a mut Self::Work) -> &'a [f32];
    /// What scores are divided by, in models that have such a thing.
    fn temperature(&self) -> Option<f64> {
        None
    }
    /// The trained user tower and item tower.
    fn towers(&self) -> (Tower, Tower);
}
