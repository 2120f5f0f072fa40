//! Ranking of the validation events after an epoch.

use crate::error::ModelError;
use crate::examples::{Query, Role, TrainingSet, assemble};
use crate::metrics::{Metrics, RankTask, rank};
use crate::model::Model;
use crate::tower::Matrix;
use twotower_artifacts::{CodeBatch, Ragged, Side};

/// Rows embedded at a time.
const ROWS: usize = 8192;

/// The validation queries of a run, fixed before it starts.
pub struct Validation {
    queries: Vec<Query>,
    excluded: Ragged,
    relevant: Ragged,
    popularity: Vec<u64>,
    ks: Vec<usize>,
}

impl Validation {
    /// Takes at most `limit` validation events (0 = all), evenly spaced, of items that are new to their user; the
    /// user's earlier events are excluded from each ranking. `None` when there are no such events.
    pub fn new(set: &TrainingSet, limit: usize, k: usize) -> Option<Self> {
        let novel = set.novel();
        let all: Vec<Query> = set.events(Role::Validation).filter(|query| novel[query.history_end]).collect();
        let count = if limit == 0 { all.len() } else { all.len().min(limit) };
        if count == 0 {
            return None;
        }
        let queries: Vec<Query> = (0..count).map(|i| all[i * all.len() / count]).collect();
        let (mut excluded, mut relevant) = (Ragged::default(), Ragged::default());
        let items = &set.interactions.items;
        for query in &queries {
            let first = set.interactions.events(query.user_row as usize).start;
            excluded.push_row(items[first..query.history_end].iter().copied());
            relevant.push_row([items[query.history_end]]);
        }
        let mut ks = vec![10, 50, 100, k];
        ks.sort_unstable();
        ks.dedup();
        Some(Self { queries, excluded, relevant, popularity: set.training_counts(), ks })
    }

    /// Embeds all items and the queries' users and ranks.
    ///
    /// # Errors
    /// [`ModelError::NonFiniteScore`] when the model has diverged.
    pub fn run<M: Model>(&self, set: &TrainingSet, model: &M) -> Result<Metrics, ModelError> {
        let items = set.items.rows();
        let mut batch = CodeBatch::empty(&set.item_schema);
        let item_vectors = embed(
            model,
            Side::Item,
            items,
            |rows, out: &mut CodeBatch| {
                out.clear();
                out.extend_from_rows(&set.items, rows);
            },
            &mut batch,
        );
        let mut batch = CodeBatch::empty(&set.user_schema);
        let user_vectors = embed(
            model,
            Side::User,
            self.queries.len(),
            |rows, out: &mut CodeBatch| {
                assemble(set, &self.queries[rows], out);
            },
            &mut batch,
        );
        let task = RankTask {
            items,
            excluded: &self.excluded,
            relevant: &self.relevant,
            candidates: None,
            ks: &self.ks,
            popularity: &self.popularity,
        };
        rank(&user_vectors, &item_vectors, &task)
    }
}

fn embed<M: Model>(
    model: &M,
    side: Side,
    rows: usize,
    fill: impl Fn(std::ops::Range<usize>, &mut CodeBatch),
    batch: &mut CodeBatch,
) -> Matrix {
    let mut pass = M::Pass::default();
    let mut vectors = Matrix { rows, cols: model.dim(), data: Vec::with_capacity(rows * model.dim()) };
    for first in (0..rows).step_by(ROWS) {
        fill(first..(first + ROWS).min(rows), batch);
        model.forward(side, batch, None, &mut pass);
        vectors.data.extend_from_slice(model.vectors(&pass));
    }
    vectors
}
