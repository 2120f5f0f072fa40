//! Item-based collaborative filtering over whole histories (Sarwar, Karypis, Konstan and Riedl, WWW 2001).
//!
//! As there, similarities are computed beforehand and each item keeps its nearest neighbours alone (section 3.3, the model
//! size). Departures: events have no ratings, so the similarity is the cosine of two items' columns of zeros and ones,
//! n_ij / sqrt(n_i n_j), and an item's score is the sum of similarities over the history, without a division by their sum
//! (Deshpande and Karypis, TOIS 2004, section 4.1).

use super::Popularity;
use super::pairs::TrainedPairs;
use crate::error::PipelineError;
use crate::watch::cancel::Cancel;
use rayon::prelude::*;

/// Items whose neighbours are computed between two looks at a request to stop.
const CHUNK: usize = 4096;

/// The nearest neighbours of every item.
pub(super) struct ItemCf {
    /// For each item its neighbours with their similarities, the most similar first, and among equals by row.
    neighbours: Vec<Vec<(u32, f32)>>,
}

impl ItemCf {
    /// Finds at most `most` neighbours of each item.
    ///
    /// # Memory
    /// 8 bytes a neighbour; while they are found, 4 bytes an item for each thread.
    ///
    /// # Errors
    /// A request to stop.
    pub fn fit(pairs: &TrainedPairs, most: usize, cancel: &Cancel) -> Result<Self, PipelineError> {
        let items = pairs.items();
        let mut neighbours = Vec::with_capacity(items);
        for first in (0..items).step_by(CHUNK) {
            cancel.check("evaluate")?;
            let rows = first..(first + CHUNK).min(items);
            let scratch = || (vec![0u32; items], Vec::new());
            let found = rows.into_par_iter().map_init(scratch, |(counts, seen), item| {
                let near = nearest(pairs, item, most, counts, seen);
                seen.drain(..).for_each(|other: u32| counts[other as usize] = 0);
                near
            });
            neighbours.par_extend(found);
        }
        Ok(Self { neighbours })
    }

    /// Writes the score of every item for a user who had the items of `history`, each of them once.
    pub fn score(&self, history: &[u32], popularity: &Popularity, out: &mut [f32]) {
        out.fill(0.0);
        for item in history {
            for (other, similarity) in &self.neighbours[*item as usize] {
                out[*other as usize] += similarity;
            }
        }
        popularity.order_equals(out);
    }
}

/// The neighbours of one item. `counts` are zeros; afterwards they are not at the rows `seen`.
fn nearest(pairs: &TrainedPairs, item: usize, most: usize, counts: &mut [u32], seen: &mut Vec<u32>) -> Vec<(u32, f32)> {
    let counted = pairs.taken_with(item, |other| {
        let count = &mut counts[other as usize];
        if *count == 0 {
            seen.push(other);
        }
        *count += 1;
    });
    let users = pairs.users_of(item).len() as f64;
    // Where not all users were looked at, they stand for the others.
    let share = users / counted.max(1) as f64;
    let similarity = |other: &u32| {
        let common = f64::from(counts[*other as usize]) * share;
        (*other, (common / (users * pairs.users_of(*other as usize).len() as f64).sqrt()) as f32)
    };
    let mut near: Vec<(u32, f32)> = seen.iter().filter(|other| **other as usize != item).map(similarity).collect();
    let nearer = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if most < near.len() {
        near.select_nth_unstable_by(most, nearer);
        near.truncate(most);
        near.shrink_to_fit();
    }
    near.sort_unstable_by(nearer);
    near
}
