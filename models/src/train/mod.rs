//! The training loop, which is the same for every model: windows, optimiser, validation, checkpoints.

mod batches;
pub mod checkpoint;
mod config;
mod report;
mod size;
mod validation;

pub use config::{Loss, SamplerKind, Schedule, TrainConfig};
pub use report::{EpochReport, Observer, StepReport};
pub use size::{Size, size};

use crate::dssm::Dssm;
use crate::error::ModelError;
use crate::examples::{Role, TrainingSet, Window};
use crate::lightgcn::Lightgcn;
use crate::model::{Group, Model, ModelConfig, Moment, Terms};
use crate::optimiser::{Adam, Move, Moves};
use crate::params::{Gradients, Parameters};
use crate::tower::Tower;
use batches::{Batch, batches};
use checkpoint::{Progress, best_path, last_path};
use std::path::{Path, PathBuf};
use std::time::Instant;
use validation::Validation;

/// Where training begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// From fresh parameters.
    Fresh,
    /// From the folder's last checkpoint, or fresh where there is none.
    Resume,
    /// From the parameters of an earlier model's checkpoint, with a fresh optimiser. New rows start from
    /// the unknown row.
    From(PathBuf),
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingResult {
    /// User tower of the best epoch.
    pub user: Tower,
    /// Item tower of the best epoch.
    pub item: Tower,
    /// All epochs.
    pub epochs: Vec<EpochReport>,
    /// The best epoch, counted from 1. Without validation events it is the last one.
    pub best_epoch: usize,
    /// Its checkpoint, from which a later run can start ([`Start::From`]).
    pub checkpoint: PathBuf,
}

/// Trains a model and leaves `last.ckpt` and `best.ckpt` in `dir`, a folder that exists.
///
/// The result depends only on data, settings and seed. It does not depend on threads, nor on where a run is
/// interrupted and resumed.
///
/// # Memory
/// Parameters three times (values and Adam's moments), 4 bytes per table row, the batch's activations, and
/// one tile of scores per part of the loss. So a table costs `12 * dim + 4` bytes per row. That is 196 at width 16, or
/// 1.96 GB for 10 million rows, all of it resident once the examples have touched most of its 2 MiB pages. Resuming
/// also holds the checkpoint. At the end, the moments are dropped to make room for the towers' tables.
///
/// # Errors
/// Settings, data and shapes that do not fit ([`ModelError::category`] tells them apart);
/// [`ModelError::NonFiniteLoss`] at the first such loss; [`ModelError::Stopped`] when the observer stopped the run.
pub fn train(
    set: &TrainingSet,
    model: &ModelConfig,
    config: &TrainConfig,
    start: Start,
    dir: &Path,
    observer: &mut (dyn Observer + Send),
) -> Result<TrainingResult, ModelError> {
    config.check()?;
    model.check(&set.user_schema.fields, &set.item_schema.fields)?;
    model.check_training(config)?;
    set.check()?;
    let config = &config.resolved(model, set.events(Role::Train).count());
    let run = checkpoint::describe(set, model, config);
    let mut work = || match model {
        ModelConfig::Dssm(dssm) => {
            Trainer::new(set, config, dir, &run, Dssm::new(set, dssm, config)?).run(&start, observer)
        }
        ModelConfig::Sasrec(sasrec) | ModelConfig::Tisasrec(sasrec) => {
            Trainer::new(set, config, dir, &run, Dssm::sasrec(set, sasrec, config)?).run(&start, observer)
        }
        ModelConfig::Lightgcn(lightgcn) => {
            Trainer::new(set, config, dir, &run, Lightgcn::new(set, lightgcn, config)?).run(&start, observer)
        }
    };
    if config.threads == 0 {
        return work();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
    match pool {
        Ok(pool) => pool.install(work),
        Err(error) => Err(ModelError::Setting {
            setting: "threads".into(),
            expected: "a number of threads this machine can start".into(),
            found: format!("{} ({error})", config.threads),
        }),
    }
}

/// One run: the model, its optimiser, and everything reused between steps.
struct Trainer<'a, M: Model> {
    set: &'a TrainingSet,
    config: &'a TrainConfig,
    dir: &'a Path,
    run: &'a str,
    work: M::Work,
    gradients: Gradients,
    optimiser: Adam,
    model: M,
    progress: Progress,
    validation: Option<Validation>,
}

/// What a step contributes to its report.
struct Step {
    terms: Terms,
    gradient_norm: f64,
    learning_rate: f64,
    temperature: Option<f64>,
}

impl<'a, M: Model> Trainer<'a, M> {
    fn new(set: &'a TrainingSet, config: &'a TrainConfig, dir: &'a Path, run: &'a str, model: M) -> Self {
        Self {
            work: model.work(),
            gradients: model.gradients(),
            optimiser: Adam::new(model.parameters()),
            progress: Progress::default(),
            validation: Validation::new(set, config.validation_events, config.metric.k),
            set,
            config,
            dir,
            run,
            model,
        }
    }

    fn run(mut self, start: &Start, observer: &mut (dyn Observer + Send)) -> Result<TrainingResult, ModelError> {
        match start {
            Start::Fresh => {}
            Start::From(path) => {
                self.model.warm_start(&checkpoint::read::<M::State>(path)?.parameters)?;
                // If the run is resumed before the first checkpoint, it must begin here too.
                self.save_last()?;
            }
            Start::Resume => self.resume()?,
        }
        while !self.progress.finished {
            let moment = self.moment();
            // A run that is resumed within an epoch has the state of the epoch's beginning from the checkpoint.
            if moment.step == 0 {
                self.model.begin_epoch(self.set, moment)?;
            }
            let order = self.model.windows(self.set, moment);
            let targets = order.iter().map(|number| self.model.targets(self.set, *number));
            let batches = batches(targets, self.config.batch_size);
            let steps = batches.len();
            let before = batches.get(moment.step).map_or(0, |batch| batch.targets.start);
            let began = Instant::now();
            while let Some(batch) = batches.get(self.progress.step) {
                let numbers = order[batch.windows.clone()].iter();
                let windows: Vec<Window> = numbers.map(|number| self.model.window(self.set, *number)).collect();
                let step = self.step(&windows, batch, steps)?;
                self.count(&step.terms, batch.targets.len());
                self.progress.step += 1;
                let report = StepReport {
                    epoch: self.progress.epoch + 1,
                    epochs: self.config.epochs,
                    step: self.progress.step,
                    steps,
                    examples: batch.targets.end,
                    examples_per_s: (batch.targets.end - before) as f64 / began.elapsed().as_secs_f64().max(1e-9),
                    terms: step.terms,
                    learning_rate: step.learning_rate,
                    gradient_norm: step.gradient_norm,
                    temperature: step.temperature,
                };
                let stop = observer.on_step(&report).is_break();
                let due = self.progress.step.is_multiple_of(self.config.checkpoint_steps);
                if stop || due && self.progress.step < steps {
                    self.save_last()?;
                }
                if stop {
                    return Err(self.stopped());
                }
            }
            let report = self.end_epoch(batches.last().map_or(0, |batch| batch.targets.end))?;
            if observer.on_epoch(&report).is_break() && !self.progress.finished {
                return Err(self.stopped());
            }
        }
        self.finish()
    }

    fn moment(&self) -> Moment {
        Moment { seed: self.config.seed, epoch: self.progress.epoch, step: self.progress.step }
    }

    /// Trains one batch: computes the terms and gradients, and updates the parameters.
    fn step(&mut self, windows: &[Window], batch: &Batch, steps: usize) -> Result<Step, ModelError> {
        let (config, moment, temperature) = (self.config, self.moment(), self.model.temperature());
        self.gradients.clear();
        let terms = self.model.learn(self.set, windows, moment, &mut self.work, &mut self.gradients)?;
        if let Some(term) = terms.0.iter().find(|term| !(term.weight * term.value).is_finite()) {
            return Err(ModelError::NonFiniteLoss {
                term: term.name.clone(),
                value: term.value,
                epoch: moment.epoch + 1,
                step: moment.step + 1,
                first: batch.targets.start,
                end: batch.targets.end,
            });
        }
        let moves = Moves::of(self.model.parameters(), |name| {
            let Group { rate, decay, from_epoch } = self.model.group(name);
            (from_epoch <= moment.epoch).then_some(Move { rate, decay, after: (from_epoch * steps) as u64 })
        });
        let learning_rate = config.learning_rate_at(moment.epoch * steps + moment.step, steps);
        let parameters = self.model.parameters_mut();
        let gradient_norm = self.optimiser.step(parameters, &self.gradients, &moves, learning_rate, &config.adam());
        Ok(Step { terms, gradient_norm, learning_rate, temperature })
    }

    /// Adds the terms of some targets to those of the epoch.
    fn count(&mut self, terms: &Terms, targets: usize) {
        let progress = &mut self.progress;
        progress.loss_sum += terms.total() * targets as f64;
        for term in &terms.0 {
            let value = term.value * targets as f64;
            match progress.terms.0.iter_mut().find(|sum| sum.name == term.name) {
                Some(sum) => (sum.weight, sum.value) = (term.weight, sum.value + value),
                None => progress.terms.add(&term.name, term.weight, value),
            }
        }
    }

    /// Validates, keeps the best, decides whether training ends, and writes the checkpoints.
    fn end_epoch(&mut self, targets: usize) -> Result<EpochReport, ModelError> {
        // The loss of a batch is 0 if all its events have one item, or if they weigh 0.
        if self.progress.epoch == 0 && self.progress.loss_sum == 0.0 {
            return Err(ModelError::Data {
                reason: format!(
                    "the loss of all {} training events is exactly 0, so nothing was learned: the events of every batch are of one item, or weigh 0; look at the items and weights of the interactions, and at `train.batch_size`",
                    self.set.events(Role::Train).count()
                ),
            });
        }
        let metrics = self.validation.as_ref().map(|validation| validation.run(self.set, &self.model)).transpose()?;
        let progress = &mut self.progress;
        progress.epoch += 1;
        let mut terms = std::mem::take(&mut progress.terms);
        terms.0.iter_mut().for_each(|term| term.value /= targets as f64);
        let report = EpochReport {
            epoch: progress.epoch,
            loss: progress.loss_sum / targets as f64,
            terms,
            temperature: self.model.temperature(),
            validation: metrics,
        };
        progress.step = 0;
        progress.loss_sum = 0.0;
        progress.epochs.push(report.clone());
        let metric = report.validation.as_ref().and_then(|metrics| metrics.get(self.config.metric));
        let better = metric.is_none_or(|metric| progress.best_epoch == 0 || metric > progress.best_metric);
        if better {
            progress.best_epoch = progress.epoch;
            progress.best_metric = metric.unwrap_or(0.0);
        }
        let waited = progress.epoch - progress.best_epoch;
        let early =
            self.config.patience > 0 && waited >= self.config.patience && progress.epoch >= self.config.min_epochs;
        progress.finished = progress.epoch >= self.config.epochs || early;
        if better {
            let parameters = self.model.parameters();
            checkpoint::write::<M::State>(&best_path(self.dir), self.run, parameters, None, &self.progress)?;
        }
        self.save_last()?;
        Ok(report)
    }

    fn finish(mut self) -> Result<TrainingResult, ModelError> {
        let path = best_path(self.dir);
        // The towers are copies of the parameters. To make room for them, what only training needs is dropped.
        self.optimiser = Adam::new(&Parameters::default());
        self.gradients = Gradients::new(&Parameters::default());
        if self.progress.best_epoch != self.progress.epoch || self.progress.step > 0 {
            let best = checkpoint::read::<M::State>(&path)?;
            *self.model.parameters_mut() = best.parameters;
        }
        let (user, item) = self.model.towers();
        Ok(TrainingResult {
            user,
            item,
            epochs: self.progress.epochs,
            best_epoch: self.progress.best_epoch,
            checkpoint: path,
        })
    }

    fn resume(&mut self) -> Result<(), ModelError> {
        let path = last_path(self.dir);
        if !path.exists() {
            return Ok(());
        }
        let last = checkpoint::read::<M::State>(&path)?;
        checkpoint::check_run(&path, &last.run, self.run)?;
        let wrong = |reason: &str| ModelError::Checkpoint { path: path.clone(), reason: reason.into() };
        self.model.warm_start(&last.parameters)?;
        match last.resume_state {
            Some(resume_state) if resume_state.optimiser.fits(self.model.parameters()) => {
                self.optimiser = resume_state.optimiser;
                self.model.restore(resume_state.state);
            }
            Some(_) => return Err(wrong("its optimiser state has another shape")),
            None if last.progress.finished => {}
            None => return Err(wrong("it carries no optimiser state")),
        }
        self.progress = last.progress;
        Ok(())
    }

    fn save_last(&self) -> Result<(), ModelError> {
        let parameters = self.model.parameters();
        // A finished run takes no further step, so the moments, two thirds of the file, are left out.
        let resume_state = (!self.progress.finished).then_some((&self.optimiser, self.model.state()));
        checkpoint::write(&last_path(self.dir), self.run, parameters, resume_state, &self.progress)
    }

    fn stopped(&self) -> ModelError {
        ModelError::Stopped { epoch: self.progress.epoch, step: self.progress.step, checkpoint: last_path(self.dir) }
    }
}

#[cfg(test)]
mod contract;
#[cfg(test)]
mod lightgcn_term_tests;
#[cfg(test)]
mod lightgcn_tests;
#[cfg(test)]
mod lightgcn_text_tests;
#[cfg(test)]
mod ligr_tests;
#[cfg(test)]
mod position_tests;
#[cfg(test)]
mod sasrec_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tisasrec_tests;
