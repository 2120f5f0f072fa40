//! Ways to rank without a model, measured beside it under the same protocol.

mod ease;
mod item_cf;
mod item_to_item;
mod pairs;
#[cfg(test)]
mod tests;

use super::questions::Questions;
use crate::config::{Baseline, EvaluateConfig, EvaluateSettings};
use crate::error::PipelineError;
use crate::stages::Context;
use crate::watch::cancel::Cancel;
use ease::Ease;
use item_cf::ItemCf;
use pairs::TrainedPairs;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use twotower_models::examples::{TrainingSet, Window};
use twotower_models::metrics::{Metrics, RankTask, rank_scores};

/// What was measured.
#[derive(Default)]
pub(super) struct Measured {
    /// Metrics of each baseline by its name.
    pub models: BTreeMap<String, BTreeMap<String, f64>>,
    /// Baselines that were asked for and not computed, with the reason.
    pub left_out: BTreeMap<String, String>,
}

/// Measures the baselines that the job asks for.
///
/// # Errors
/// A request to stop; a penalty of EASE that is too small.
pub(super) fn measure(
    context: &Context<EvaluateSettings>,
    set: &TrainingSet,
    questions: &Questions,
    task: &RankTask,
) -> Result<Measured, PipelineError> {
    let config = &context.config.evaluate;
    let baselines = Baselines::new(set, questions, task, config, &context.cancel);
    let mut measured = Measured::default();
    for baseline in Baseline::ALL.into_iter().filter(|baseline| config.baselines.contains(baseline)) {
        context.cancel.check("evaluate")?;
        let name = baseline.name();
        let _step = context.step(format!("measuring the baseline `{name}`"));
        match baselines.measure(baseline)? {
            Ok(metrics) => drop(measured.models.insert(name.to_string(), metrics.values)),
            Err(reason) => {
                tracing::info!("evaluate: the baseline `{name}` is left out: {reason}");
                measured.left_out.insert(name.to_string(), reason);
            }
        }
    }
    Ok(measured)
}

/// The baselines of one data set, and what they have in common.
struct Baselines<'a> {
    set: &'a TrainingSet,
    questions: &'a Questions,
    task: &'a RankTask<'a>,
    config: &'a EvaluateConfig,
    cancel: &'a Cancel,
    popularity: Popularity,
    pairs: OnceCell<TrainedPairs>,
}

impl<'a> Baselines<'a> {
    fn new(
        set: &'a TrainingSet,
        questions: &'a Questions,
        task: &'a RankTask<'a>,
        config: &'a EvaluateConfig,
        cancel: &'a Cancel,
    ) -> Self {
        let popularity = Popularity::of(task.popularity);
        Self { set, questions, task, config, cancel, popularity, pairs: OnceCell::new() }
    }

    /// The metrics of a baseline, or why it is left out.
    fn measure(&self, baseline: Baseline) -> Result<Result<Metrics, String>, PipelineError> {
        let Self { set, config, popularity, .. } = self;
        let pairs = || self.pairs.get_or_init(|| TrainedPairs::of(set));
        match baseline {
            Baseline::Popularity => self.rank(|_, out| popularity.score(out)),
            Baseline::ItemToItem => {
                let pairs = pairs();
                self.rank(|window, out| {
                    item_to_item::score(pairs, popularity, set.known_items(window).next_back(), out);
                })
            }
            Baseline::ItemCf => {
                let neighbours = ItemCf::fit(pairs(), config.item_cf_neighbours, self.cancel)?;
                self.rank(|window, out| neighbours.score(&history(set, window), popularity, out))
            }
            Baseline::Ease => {
                let (items, most) = (self.task.items, config.ease_max_items);
                if items > most {
                    return Ok(Err(format!(
                        "{items} items are more than `evaluate.ease_max_items` = {most}; its memory grows with their square"
                    )));
                }
                let ease = Ease::fit(pairs(), config.ease_lambda, self.cancel)?;
                self.rank(|window, out| match history(set, window)[..] {
                    [] => popularity.score(out),
                    ref history => ease.score(history, out),
                })
            }
        }
        .map(Ok)
    }

    /// Ranks by a score: `score(window, out)` writes that of every item for the user of a window.
    fn rank(&self, score: impl Fn(&Window, &mut [f32]) + Sync) -> Result<Metrics, PipelineError> {
        let ranked = rank_scores(self.task, |rows, out| {
            for (window, row) in self.questions.windows[rows].iter().zip(out.chunks_exact_mut(self.task.items)) {
                if self.cancel.is_stopped() {
                    return;
                }
                score(window, row);
            }
        });
        // What was scored after a request to stop is worth nothing.
        self.cancel.check("evaluate")?;
        Ok(ranked?)
    }
}

/// The known items of a window's user, ascending, each once.
fn history(set: &TrainingSet, window: &Window) -> Vec<u32> {
    let mut items: Vec<u32> = set.known_items(window).collect();
    items.sort_unstable();
    items.dedup();
    items
}

/// How often items were taken, as shares of the most.
struct Popularity {
    counts: Vec<f32>,
    /// Less than what any co-occurrence makes, but where items have a million users.
    epsilons: Vec<f32>,
}

impl Popularity {
    fn of(counts: &[u64]) -> Self {
        let most = counts.iter().copied().max().unwrap_or(1).max(1) as f32;
        let epsilons = counts.iter().map(|count| 1e-6 * *count as f32 / most).collect();
        Self { counts: counts.iter().map(|count| *count as f32).collect(), epsilons }
    }

    /// Writes the popularity of every item.
    fn score(&self, out: &mut [f32]) {
        out.copy_from_slice(&self.counts);
    }

    /// Lets popularity order what is otherwise equal.
    fn order_equals(&self, out: &mut [f32]) {
        out.iter_mut().zip(&self.epsilons).for_each(|(score, epsilon)| *score += epsilon);
    }
}
