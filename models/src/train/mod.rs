//! The training loop: batches, losses, optimiser, validation, checkpoints; the same for every model.

pub mod candidates;
pub mod checkpoint;
pub mod config;
pub mod report;
mod size;
mod validation;

pub use config::{Loss, Schedule, TrainConfig};
pub use report::{EpochReport, Observer, StepReport};
pub use size::{Size, size};

use crate::dssm::Dssm;
use crate::error::ModelError;
use crate::examples::{Query, Role, TrainingSet, assemble, drop_codes};
use crate::losses::{LossGradient, Scored};
use crate::model::{Model, ModelConfig};
use crate::optimiser::Adam;
use crate::params::{Gradients, Parameters};
use crate::rng::Rng;
use crate::tower::Tower;
use candidates::{BatchCandidates, CandidateSource};
use checkpoint::{Progress, best_path, last_path};
use std::path::{Path, PathBuf};
use std::time::Instant;
use twotower_artifacts::{CodeBatch, Side};
use validation::Validation;

/// Where training begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// From fresh parameters.
    Fresh,
    /// From the folder's last checkpoint, or fresh where there is none.
    Resume,
    /// From the parameters of an earlier model's checkpoint: old rows by value, new rows from the
    /// unknown row, a fresh optimiser.
    From(PathBuf),
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// User tower of the best epoch.
    pub user: Tower,
    /// Item tower of the best epoch.
    pub item: Tower,
    /// All epochs.
    pub epochs: Vec<EpochReport>,
    /// The best epoch, from 1; the last one without validation events.
    pub best_epoch: usize,
    /// Its checkpoint, from which a later run can start ([`Start::From`]).
    pub checkpoint: PathBuf,
}

/// Streams of random numbers.
const ORDER: u64 = 10;
const CANDIDATES: u64 = 11;
const NOISE: u64 = 12;

/// Trains a model and leaves `last.ckpt` and `best.ckpt` in `dir`, a folder that exists.
///
/// The result depends on data, settings and seed only: not on threads, nor on interruptions and
/// resumptions, at epoch boundaries or at any checkpoint within an epoch.
///
/// # Memory
/// Parameters three times (values and Adam's moments) and 4 bytes a table row, the batch's activations, and
/// one tile of scores per part of the loss. So a table costs `12 * dim + 4` bytes a row, 196 at width 16: 1.96 GB
/// for 10 million rows, all of it resident once the examples have touched most of its 2 MiB pages. Resuming
/// holds the checkpoint beside it; at the end the moments make room for the towers' tables.
///
/// # Errors
/// Settings, data and shapes that do not fit ([`ModelError::category`] tells them apart);
/// [`ModelError::NonFiniteLoss`] at the first one; [`ModelError::Stopped`] when the observer asked
/// for it.
pub fn train(
    set: &TrainingSet,
    model: &ModelConfig,
    config: &TrainConfig,
    start: Start,
    dir: &Path,
    observer: &mut (dyn Observer + Send),
) -> Result<Trained, ModelError> {
    config.check()?;
    set.check()?;
    let config = &config.resolved(set.events(Role::Train).count());
    let run = checkpoint::describe(set, model, config);
    let mut work = || match model {
        ModelConfig::Dssm(dssm) => {
            let model = Dssm::new(&set.user_schema, &set.item_schema, dssm, config.seed)?;
            Trainer::new(set, config, dir, &run, model)?.run(&start, observer)
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
    model: M,
    optimiser: Adam,
    progress: Progress,
    source: CandidateSource,
    validation: Option<Validation>,
    examples: Vec<Query>,
    batch: Batch<M::Pass>,
    gradients: Gradients,
}

/// Buffers of a step.
struct Batch<P> {
    users: CodeBatch,
    items: CodeBatch,
    candidates: BatchCandidates,
    clicked: Vec<u32>,
    weights: Vec<f32>,
    user_pass: P,
    item_pass: P,
    loss: LossGradient,
}

/// What a step leaves for its report.
struct Step {
    loss: f64,
    gradient_norm: f64,
    learning_rate: f64,
    temperature: f64,
}

impl<'a, M: Model> Trainer<'a, M> {
    fn new(
        set: &'a TrainingSet,
        config: &'a TrainConfig,
        dir: &'a Path,
        run: &'a str,
        model: M,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            optimiser: Adam::new(model.parameters()),
            gradients: Gradients::new(model.parameters()),
            progress: Progress::default(),
            source: CandidateSource::new(set, config),
            validation: Validation::new(set, config.validation_events, config.metric.k),
            examples: set.events(Role::Train).collect(),
            batch: Batch {
                users: CodeBatch::empty(&set.user_schema),
                items: CodeBatch::empty(&set.item_schema),
                candidates: BatchCandidates::default(),
                clicked: Vec::new(),
                weights: Vec::new(),
                user_pass: M::Pass::default(),
                item_pass: M::Pass::default(),
                loss: LossGradient::default(),
            },
            set,
            config,
            dir,
            run,
            model,
        })
    }

    fn run(mut self, start: &Start, observer: &mut (dyn Observer + Send)) -> Result<Trained, ModelError> {
        match start {
            Start::Fresh => {}
            Start::From(path) => {
                self.model.parameters_mut().warm_start(&checkpoint::read(path)?.parameters)?;
                // A resumption before the first checkpoint must begin here too.
                self.save_last()?;
            }
            Start::Resume => self.resume()?,
        }
        let steps = self.examples.len().div_ceil(self.config.batch_size);
        while !self.progress.finished {
            let mut order: Vec<u32> = (0..self.examples.len() as u32).collect();
            Rng::at(self.config.seed, &[ORDER, self.progress.epoch as u64]).shuffle(&mut order);
            let (began, first_step) = (Instant::now(), self.progress.step);
            while self.progress.step < steps {
                let first = self.progress.step * self.config.batch_size;
                let rows = &order[first..(first + self.config.batch_size).min(order.len())];
                let step = self.step(rows, first, steps)?;
                self.progress.loss_sum += step.loss * rows.len() as f64;
                self.progress.step += 1;
                let seen = first + rows.len();
                let report = StepReport {
                    epoch: self.progress.epoch + 1,
                    epochs: self.config.epochs,
                    step: self.progress.step,
                    steps,
                    examples: seen,
                    examples_per_s: (seen - first_step * self.config.batch_size) as f64
                        / began.elapsed().as_secs_f64().max(1e-9),
                    terms: vec![(self.config.loss.name(), step.loss)],
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
            let report = self.end_epoch()?;
            if observer.on_epoch(&report).is_break() && !self.progress.finished {
                return Err(self.stopped());
            }
        }
        self.finish()
    }

    /// One batch: forward, loss, backward, update.
    fn step(&mut self, rows: &[u32], first: usize, steps: usize) -> Result<Step, ModelError> {
        let (set, config, batch) = (self.set, self.config, &mut self.batch);
        let (epoch, step) = (self.progress.epoch, self.progress.step);
        let at = |stream: u64| Rng::at(config.seed, &[stream, epoch as u64, step as u64]);
        let queries: Vec<Query> = rows.iter().map(|row| self.examples[*row as usize]).collect();
        batch.clicked.clear();
        batch.clicked.extend(queries.iter().map(|query| set.interactions.items[query.history_end]));
        batch.weights.clear();
        batch.weights.extend(queries.iter().map(|query| set.interactions.weights[query.history_end]));
        self.source.choose(&queries, &batch.clicked, at(CANDIDATES), &mut batch.candidates);
        assemble(set, &queries, &mut batch.users);
        batch.items.clear();
        batch.items.extend_from_rows(&set.items, batch.candidates.items.iter().map(|item| *item as usize));
        let mut noise = at(NOISE);
        drop_codes(&mut batch.users, config.unknown_rate, config.missing_rate, noise.bits());
        drop_codes(&mut batch.items, config.unknown_rate, config.missing_rate, noise.bits());

        self.model.forward(Side::User, &batch.users, Some(noise.bits()), &mut batch.user_pass);
        self.model.forward(Side::Item, &batch.items, Some(noise.bits()), &mut batch.item_pass);
        let scale = self.model.scale();
        let scored = Scored {
            users: self.model.vectors(&batch.user_pass),
            items: self.model.vectors(&batch.item_pass),
            dim: self.model.dim(),
            scale: scale.value,
            positives: &batch.candidates.positives,
            weights: &batch.weights,
        };
        self.source.loss(&scored, &batch.candidates, &mut batch.loss);
        if !batch.loss.loss.is_finite() {
            return Err(ModelError::NonFiniteLoss {
                term: config.loss.name().into(),
                value: batch.loss.loss,
                epoch: epoch + 1,
                step: step + 1,
                first,
                end: first + rows.len(),
            });
        }
        self.gradients.clear();
        if let Some(group) = scale.log_temperature {
            // z = s / τ, so dL/d(log τ) = -Σ_a ⟨u_a, dL/du_a⟩.
            let products = scored.users.iter().zip(&batch.loss.d_users).map(|(u, d)| *u as f64 * *d as f64);
            self.gradients.dense[group][0] = -products.sum::<f64>() as f32;
        }
        self.model.backward(
            (&batch.users, &mut batch.user_pass, &batch.loss.d_users),
            (&batch.items, &mut batch.item_pass, &batch.loss.d_items),
            &mut self.gradients,
        )?;
        let learning_rate = config.learning_rate_at(epoch * steps + step, config.epochs * steps);
        let parameters = self.model.parameters_mut();
        let gradient_norm = self.optimiser.step(parameters, &self.gradients, learning_rate, &config.adam());
        Ok(Step { loss: batch.loss.loss, gradient_norm, learning_rate, temperature: 1.0 / scale.value as f64 })
    }

    /// Validates, keeps the best, decides whether training ends, and writes the checkpoints.
    fn end_epoch(&mut self) -> Result<EpochReport, ModelError> {
        // A loss is 0 where there is nothing to tell apart: one item in a batch, or weights of 0.
        if self.progress.epoch == 0 && self.progress.loss_sum == 0.0 {
            return Err(ModelError::Data {
                reason: format!(
                    "the loss of all {} training events is exactly 0, so nothing was learned: the events of every batch are of one item, or weigh 0; look at the items and weights of the interactions, and at `train.batch_size`",
                    self.examples.len()
                ),
            });
        }
        let metrics = self.validation.as_ref().map(|validation| validation.run(self.set, &self.model)).transpose()?;
        let progress = &mut self.progress;
        progress.epoch += 1;
        let report = EpochReport {
            epoch: progress.epoch,
            loss: progress.loss_sum / self.examples.len() as f64,
            temperature: 1.0 / self.model.scale().value as f64,
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
            checkpoint::write(&best_path(self.dir), self.run, self.model.parameters(), None, &self.progress)?;
        }
        self.save_last()?;
        Ok(report)
    }

    fn finish(mut self) -> Result<Trained, ModelError> {
        let path = best_path(self.dir);
        // The towers are copies of the parameters: what only training needs makes room for them.
        self.optimiser = Adam::new(&Parameters::default());
        self.gradients = Gradients::new(&Parameters::default());
        if self.progress.best_epoch != self.progress.epoch || self.progress.step > 0 {
            let best = checkpoint::read(&path)?;
            *self.model.parameters_mut() = best.parameters;
        }
        let (user, item) = self.model.towers();
        Ok(Trained { user, item, epochs: self.progress.epochs, best_epoch: self.progress.best_epoch, checkpoint: path })
    }

    fn resume(&mut self) -> Result<(), ModelError> {
        let path = last_path(self.dir);
        if !path.exists() {
            return Ok(());
        }
        let last = checkpoint::read(&path)?;
        checkpoint::check_run(&path, &last.run, self.run)?;
        let wrong = |reason: &str| ModelError::Checkpoint { path: path.clone(), reason: reason.into() };
        self.model.parameters_mut().warm_start(&last.parameters)?;
        match last.optimiser {
            Some(optimiser) if optimiser.fits(self.model.parameters()) => self.optimiser = optimiser,
            Some(_) => return Err(wrong("its optimiser state has another shape")),
            None if last.progress.finished => {}
            None => return Err(wrong("it carries no optimiser state")),
        }
        self.progress = last.progress;
        Ok(())
    }

    fn save_last(&self) -> Result<(), ModelError> {
        let parameters = self.model.parameters();
        // A finished run takes no further step: the moments, two thirds of the file, have no use.
        let optimiser = (!self.progress.finished).then_some(&self.optimiser);
        checkpoint::write(&last_path(self.dir), self.run, parameters, optimiser, &self.progress)
    }

    fn stopped(&self) -> ModelError {
        ModelError::Stopped { epoch: self.progress.epoch, step: self.progress.step, checkpoint: last_path(self.dir) }
    }
}

#[cfg(test)]
mod tests;
