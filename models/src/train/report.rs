//! The reports of a run to its observer.

use crate::metrics::Metrics;
use crate::model::Terms;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Epoch, from 1.
    pub epoch: usize,
    /// The most epochs of the run.
    pub epochs: usize,
    /// Step within the epoch, from 1.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Targets seen in this epoch.
    pub examples: usize,
    /// Targets per second since this process started or resumed the epoch.
    pub examples_per_s: f64,
    /// The terms of the step's loss, and what is watched beside them, with the weight 0.
    pub terms: Terms,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// τ of the step, in models that have one.
    pub temperature: Option<f64>,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Mean loss over the epoch's targets.
    pub loss: f64,
    /// Means of the loss's terms, with the weights of the last step, and of what is watched, with the weight 0.
    pub terms: Terms,
    /// τ after the epoch, in models that have one.
    pub temperature: Option<f64>,
    /// Metrics over the validation events. None if there are none.
    pub validation: Option<Metrics>,
}

/// Follows a run and may stop it. On `Break`, the last checkpoint is written and
/// [`crate::ModelError::Stopped`] is returned.
pub trait Observer {
    /// After each step.
    fn on_step(&mut self, _report: &StepReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// After each epoch and its validation.
    fn on_epoch(&mut self, _report: &EpochReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Ignores all reports and never stops.
impl Observer for () {}
