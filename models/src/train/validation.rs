//! Ranks the validation events after an epoch.

use crate::error::ModelError;
use crate::examples::{Role, TrainingSet, Window, assemble};
use crate::metrics::{Metrics, RankTask, rank};
use crate::model::Model;
use crate::tower::Matrix;
use twotower_artifacts::{CodeBatch, Ragged, Side};

/// Rows embedded at a time.
const ROWS: usize = 8192;

/// The windows of the validation events of a run, fixed before it starts.
pub struct Validation {
    windows: Vec<Window>,
    excluded: Ragged,
    relevant: Ragged,
    popularity: Vec<u64>,
    ks: Vec<usize>,
}

impl Validation {
    /// Takes at most `limit` validation events, evenly spaced, or all for 0. Their items must be new to the user, and
    /// the user's known items are excluded from the ranking. `None` if there are no such events.
    pub fn new(set: &TrainingSet, limit: usize, k: usize) -> Option<Self> {
        let novel = set.novel();
        let all: Vec<usize> = set.events(Role::Validation).filter(|event| novel[*event]).collect();
        let count = if limit == 0 { all.len() } else { all.len().min(limit) };
        if count == 0 {
            return None;
        }
        let windows: Vec<Window> = (0..count).map(|i| set.window(all[i * all.len() / count])).collect();
        let (mut excluded, mut relevant) = (Ragged::default(), Ragged::default());
        for window in &windows {
            excluded.push_row(set.known_items(window));
            relevant.push_row(set.targets(window).map(|event| set.interactions.items[event]));
        }
        let mut ks = vec![10, 50, 100, k];
        ks.sort_unstable();
        ks.dedup();
        Some(Self { windows, excluded, relevant, popularity: set.training_counts(), ks })
    }

    /// Embeds all items and the users of all windows, and ranks the items.
    ///
    /// # Errors
    /// [`ModelError::NonFiniteScore`] when the model has diverged.
    pub fn run<M: Model>(&self, set: &TrainingSet, model: &M) -> Result<Metrics, ModelError> {
        let items = set.items.rows();
        let work = &mut model.work();
        let mut batch = CodeBatch::empty(&set.item_schema);
        let item_vectors = embed(
            model,
            Side::Item,
            items,
            |rows, out: &mut CodeBatch| {
                out.clear();
                out.extend_from_rows(&set.items, rows);
            },
            (&mut batch, work),
        )?;
        let mut batch = CodeBatch::empty(&set.user_schema);
        let user_vectors = embed(
            model,
            Side::User,
            self.windows.len(),
            |rows, out: &mut CodeBatch| {
                assemble(set, &self.windows[rows], out);
            },
            (&mut batch, work),
        )?;
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
    (batch, work): (&mut CodeBatch, &mut M::Work),
) -> Result<Matrix, ModelError> {
    let mut vectors = Matrix { rows, cols: model.dim(), data: Vec::with_capacity(rows * model.dim()) };
    for first in (0..rows).step_by(ROWS) {
        fill(first..(first + ROWS).min(rows), batch);
        vectors.data.extend_from_slice(model.embed(side, batch, work)?);
    }
    Ok(vectors)
}
