//! How much two rankings of the same items have in common.

use super::{RankTask, TILE, item_of, list, products};
use crate::error::ModelError;
use crate::tower::Matrix;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

/// Overlap of two rankings of a task, for each of its lengths: the share of the first k items of a query's list that stand
/// among the first k of its other list too, where fewer are ranked of these, as a mean over the queries with a relevant
/// item. By name: `overlap@10`.
///
/// Both rank by the inner product of users' vectors, `[queries, dim]`, with items' vectors, `[items, dim]`.
///
/// # Errors
/// [`ModelError::NonFiniteScore`] when a vector or a score is NaN or infinite.
pub fn overlap(users: &Matrix, items: [&Matrix; 2], task: &RankTask) -> Result<BTreeMap<String, f64>, ModelError> {
    let fill = [products(users, items[0])?, products(users, items[1])?];
    let queries = task.relevant.rows();
    // As in `rank_scores`: tiles and the order of sums are fixed.
    let tiles: Vec<(usize, Vec<f64>)> = (0..queries.div_ceil(TILE))
        .into_par_iter()
        .map_init(
            || (Vec::new(), [Vec::new(), Vec::new()]),
            |(scores, keys), t| {
                let range = t * TILE..((t + 1) * TILE).min(queries);
                let size = range.len() * task.items;
                scores.resize(2 * size, 0.0);
                let (first, second) = scores.split_at_mut(size);
                fill[0](range.clone(), first);
                fill[1](range.clone(), second);
                let (mut counted, mut sums) = (0, vec![0.0; task.ks.len()]);
                let rows = first.chunks_exact(task.items.max(1)).zip(second.chunks_exact(task.items.max(1)));
                for (query, (first, second)) in range.zip(rows) {
                    if task.relevant.row(query).is_empty() {
                        continue;
                    }
                    list(task, query, first, &mut keys[0])?;
                    list(task, query, second, &mut keys[1])?;
                    counted += 1;
                    for (k, sum) in task.ks.iter().zip(&mut sums) {
                        let k = keys[0].len().min(*k);
                        let items = |at: usize| keys[at][..k].iter().map(|key| item_of(*key)).collect::<FxHashSet<_>>();
                        let (first, second) = (items(0), items(1));
                        *sum += first.intersection(&second).count() as f64 / first.len().max(1) as f64;
                    }
                }
                Ok((counted, sums))
            },
        )
        .collect::<Result<_, ModelError>>()?;
    let counted: usize = tiles.iter().map(|(counted, _)| counted).sum();
    let mean = |at: usize| tiles.iter().map(|(_, sums)| sums[at]).sum::<f64>() / counted.max(1) as f64;
    Ok(task.ks.iter().enumerate().map(|(at, k)| (format!("overlap@{k}"), mean(at))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use twotower_artifacts::Ragged;

    #[test]
    fn overlaps_equal_counting_in_sorted_lists() {
        let (queries, items, dim) = (70, 40, 5);
        let mut rng = Rng::at(8, &[]);
        let mut random =
            |rows: usize| Matrix { rows, cols: dim, data: (0..rows * dim).map(|_| rng.normal() as f32).collect() };
        let (users, first, second) = (random(queries), random(items), random(items));
        let (mut excluded, mut relevant) = (Ragged::default(), Ragged::default());
        for query in 0..queries as u32 {
            excluded.push_row([query % 7, 20 + query % 3]);
            // Nothing is relevant to the last query.
            relevant.push_row((query + 1 < queries as u32).then_some(10 + query % 9));
        }
        let task = RankTask {
            items,
            excluded: &excluded,
            relevant: &relevant,
            candidates: None,
            ks: &[1, 10, 100],
            popularity: &[],
        };
        let found = overlap(&users, [&first, &second], &task).unwrap();
        let listed = |query: usize, table: &Matrix, k: usize| -> Vec<u32> {
            let score = |item: &u32| -> f32 {
                let pairs = users.data[query * dim..][..dim].iter().zip(&table.data[*item as usize * dim..][..dim]);
                pairs.map(|(a, b)| a * b).sum()
            };
            let mut ranked: Vec<u32> = (0..items as u32).filter(|item| !excluded.row(query).contains(item)).collect();
            ranked.sort_by(|a, b| score(b).total_cmp(&score(a)));
            ranked.truncate(k);
            ranked
        };
        for k in [1, 10, 100] {
            let share = |query: usize| {
                let (a, b) = (listed(query, &first, k), listed(query, &second, k));
                a.iter().filter(|item| b.contains(item)).count() as f64 / a.len() as f64
            };
            let expected = (0..queries - 1).map(share).sum::<f64>() / (queries - 1) as f64;
            let found = found[&format!("overlap@{k}")];
            assert!((found - expected).abs() < 1e-12, "{k}: {found}, expected {expected}");
        }
        assert_eq!(found["overlap@100"], 1.0);
        assert_eq!(overlap(&users, [&first, &first], &task).unwrap()["overlap@1"], 1.0);
    }
}
