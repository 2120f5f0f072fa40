//! The contract between the trainer and a model, and the list of models.

use crate::dssm::{DssmConfig, SequencePooling};
use crate::error::ModelError;
use crate::examples::{TrainingSet, Window};
use crate::lightgcn::LightgcnConfig;
use crate::params::{Gradients, Parameters};
use crate::rng::Rng;
use crate::sasrec::SasrecConfig;
use crate::similarity::Similarity;
use crate::tisasrec::{refuse_intervals, require_intervals};
use crate::tower::Tower;
use crate::train::TrainConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use twotower_artifacts::{CodeBatch, FieldSchema, Side};

/// Which model to train, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelConfig {
    /// Two feed-forward towers and a cosine.
    Dssm(DssmConfig),
    /// A transformer over the items that a user took, and a vector for each item.
    Sasrec(SasrecConfig),
    /// The same, which reads the time between items as well.
    Tisasrec(SasrecConfig),
    /// A vector for each user and each item, propagated over the graph of who took what.
    Lightgcn(LightgcnConfig),
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig::Dssm(DssmConfig::default())
    }
}

impl From<DssmConfig> for ModelConfig {
    fn from(config: DssmConfig) -> Self {
        ModelConfig::Dssm(config)
    }
}

impl From<SasrecConfig> for ModelConfig {
    fn from(config: SasrecConfig) -> Self {
        ModelConfig::Sasrec(config)
    }
}

impl From<LightgcnConfig> for ModelConfig {
    fn from(config: LightgcnConfig) -> Self {
        ModelConfig::Lightgcn(config)
    }
}

impl ModelConfig {
    /// Checks the settings, and that the model can read these fields of users and of items.
    ///
    /// # Errors
    /// [`ModelError::Setting`] naming the first setting that does not fit.
    pub fn check(&self, users: &[FieldSchema], items: &[FieldSchema]) -> Result<(), ModelError> {
        match self {
            ModelConfig::Dssm(dssm) => {
                dssm.check()?;
                match dssm.pooling {
                    SequencePooling::Attention => Ok(()),
                    SequencePooling::Mean | SequencePooling::Position => refuse_intervals(users),
                }
            }
            ModelConfig::Sasrec(sasrec) => {
                sasrec.check(users, items)?;
                refuse_intervals(users)
            }
            ModelConfig::Tisasrec(sasrec) => {
                sasrec.check(users, items)?;
                require_intervals(users)
            }
            ModelConfig::Lightgcn(lightgcn) => {
                lightgcn.check(users, items)?;
                refuse_intervals(users)
            }
        }
    }

    /// Checks that the settings of training make sense for the model.
    ///
    /// # Errors
    /// [`ModelError::Setting`] naming the first that does not, and why.
    pub fn check_training(&self, train: &TrainConfig) -> Result<(), ModelError> {
        match self {
            ModelConfig::Dssm(_) | ModelConfig::Sasrec(_) | ModelConfig::Tisasrec(_) => Ok(()),
            ModelConfig::Lightgcn(_) => LightgcnConfig::check_training(train),
        }
    }

    /// The two feed-forward towers with their inputs, which every model has so far.
    pub fn dssm(&self) -> Cow<'_, DssmConfig> {
        match self {
            ModelConfig::Dssm(dssm) => Cow::Borrowed(dssm),
            ModelConfig::Sasrec(sasrec) | ModelConfig::Tisasrec(sasrec) => Cow::Owned(sasrec.dssm()),
            ModelConfig::Lightgcn(lightgcn) => Cow::Owned(lightgcn.dssm()),
        }
    }

    /// What scores an item for a user.
    pub fn similarity(&self) -> Similarity {
        match self {
            ModelConfig::Dssm(_) => Similarity::Cosine,
            ModelConfig::Sasrec(sasrec) | ModelConfig::Tisasrec(sasrec) => sasrec.similarity,
            ModelConfig::Lightgcn(lightgcn) => lightgcn.similarity,
        }
    }

    /// Width of the exported towers' vectors.
    pub fn dim(&self) -> usize {
        match self {
            ModelConfig::Dssm(dssm) => dssm.dim(),
            ModelConfig::Sasrec(sasrec) | ModelConfig::Tisasrec(sasrec) => sasrec.similarity.width(sasrec.dim),
            ModelConfig::Lightgcn(lightgcn) => lightgcn.similarity.width(lightgcn.dim),
        }
    }
}

/// A step of a run. All random numbers of a model are functions of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
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
    /// The name under which the term is shown.
    pub name: String,
    /// The factor with which the value enters the loss. It is 0 for what is only watched (`Terms::watch`).
    pub weight: f64,
    /// The mean over targets, before it is multiplied by the weight.
    pub value: f64,
}

/// The loss of a batch: terms with different names, each with its weight.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Terms(pub Vec<Term>);

impl Terms {
    /// Adds a term.
    pub(crate) fn add(&mut self, name: &str, weight: f64, value: f64) {
        self.0.push(Term { name: name.into(), weight, value });
    }

    /// Adds a value that is no part of the loss, but shown, averaged and checked as its terms are.
    pub(crate) fn watch(&mut self, name: &str, value: f64) {
        self.add(name, 0.0, value);
    }

    /// The loss, the weighted sum of the terms.
    pub fn total(&self) -> f64 {
        self.0.iter().map(|term| term.weight * term.value).sum()
    }
}

/// How the training of a parameter departs from the settings for all parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Group {
    /// The factor of the learning rate.
    pub rate: f64,
    /// Decoupled weight decay, if it is not that of the settings.
    pub decay: Option<f32>,
    /// The first epoch, counted from 0, in which the parameter is trained.
    pub from_epoch: usize,
}

impl Default for Group {
    fn default() -> Self {
        Self { rate: 1.0, decay: None, from_epoch: 0 }
    }
}

/// A model of two towers. An epoch is a list of windows. A step takes some of them, and the model computes the
/// terms of its loss and the gradients of its parameters.
pub(crate) trait Model: Sync {
    /// The working memory of a step, which is reused between steps.
    type Work: Send;
    /// What is kept from epoch to epoch beside the parameters. Checkpoints hold it.
    type State: Serialize + DeserializeOwned + Send + Sync;

    /// All parameters.
    fn parameters(&self) -> &Parameters;
    /// All parameters, to be updated.
    fn parameters_mut(&mut self) -> &mut Parameters;
    /// How the parameter of that name is trained.
    fn group(&self, _parameter: &str) -> Group {
        Group::default()
    }
    /// Takes the parameters of an earlier model. By default, new rows of tables become copies of the unknown row.
    ///
    /// # Errors
    /// [`ModelError::Shape`] when groups, widths or row counts do not fit.
    fn warm_start(&mut self, earlier: &Parameters) -> Result<(), ModelError> {
        self.parameters_mut().warm_start(earlier)
    }
    /// Memory for the gradients of a step. By default, tables have gradients of touched rows only.
    fn gradients(&self) -> Gradients {
        Gradients::new(self.parameters())
    }

    /// Working memory for steps.
    fn work(&self) -> Self::Work;
    /// The state, to be saved in a checkpoint.
    fn state(&self) -> &Self::State;
    /// Restores the state from a checkpoint.
    fn restore(&mut self, state: Self::State);
    /// Called before the first step of every epoch.
    ///
    /// # Errors
    /// An error of the model, which ends the training.
    fn begin_epoch(&mut self, _set: &TrainingSet, _moment: Moment) -> Result<(), ModelError> {
        Ok(())
    }

    /// The numbers of an epoch's windows, in the order of training. [`Model::window`] gives the window of a number.
    /// All epochs have the same number of windows.
    fn windows(&self, set: &TrainingSet, moment: Moment) -> Vec<u32>;
    /// The window with this number.
    fn window(&self, set: &TrainingSet, number: u32) -> Window;
    /// The number of targets of the window with this number, of which batches have a number that is set.
    fn targets(&self, set: &TrainingSet, number: u32) -> usize {
        set.targets(&self.window(set, number)).count()
    }

    /// Returns the terms of the loss of these windows, and adds the gradients of their weighted sum to `gradients`,
    /// which are zero before.
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
    /// Embeds rows of one side as its tower would. Returns `[rows, dim]`.
    ///
    /// # Errors
    /// An error of the model.
    fn embed<'a>(&self, side: Side, batch: &CodeBatch, work: &'a mut Self::Work) -> Result<&'a [f32], ModelError>;
    /// The temperature by which scores are divided, if the model has one.
    fn temperature(&self) -> Option<f64> {
        None
    }
    /// The trained user tower and item tower.
    fn towers(&self) -> (Tower, Tower);
}
