//! Ranking metrics over the whole catalogue or given candidates (`Recall`, `Hit`, `NDCG`, `MRR`,
//! `precision`, coverage, mean popularity), with ties against the model.

mod overlap;

pub use overlap::overlap;

use crate::error::ModelError;
use crate::matmul::{Operand, matmul};
use crate::tower::Matrix;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use twotower_artifacts::Ragged;

/// Queries whose scores are held at a time, per task.
const TILE: usize = 32;

/// A metric by name, such as `recall@10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MetricName {
    /// Which measure.
    pub measure: Measure,
    /// Length of the list.
    pub k: usize,
}

/// A measure of one ranked list L of at most k items against the relevant set R.
///
/// Where several items are relevant to a query, these are the measures that RecBole computes (`recbole/evaluator/metrics.py`,
/// 1.2): recall is divided by |R| whatever k, and the best list of NDCG has min(|R|, k) relevant items. An item counts once
/// in R, however often it is listed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// |L ∩ R| / |R|.
    Recall,
    /// 1 if L ∩ R is not empty.
    Hit,
    /// Discounted gain, `Σ 1 / log2(rank + 1)` over the ranks of relevant items from 1, over that of the best list.
    Ndcg,
    /// 1 / first relevant rank, 0 beyond k.
    Mrr,
    /// |L ∩ R| / k.
    Precision,
}

const MEASURES: [(Measure, &str); 5] = [
    (Measure::Recall, "recall"),
    (Measure::Hit, "hit"),
    (Measure::Ndcg, "ndcg"),
    (Measure::Mrr, "mrr"),
    (Measure::Precision, "precision"),
];

impl Measure {
    /// The lower-case name.
    pub fn name(self) -> &'static str {
        MEASURES[self as usize].1
    }

    /// The value of a list, given the 0-based ranks of its relevant items in order.
    fn of(self, ranks: &[usize], relevant: usize, k: usize) -> f64 {
        let ranks = &ranks[..ranks.partition_point(|rank| *rank < k)];
        let gain = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
        match self {
            Measure::Recall => ranks.len() as f64 / relevant as f64,
            Measure::Hit => !ranks.is_empty() as u8 as f64,
            Measure::Ndcg => {
                ranks.iter().map(|rank| gain(*rank)).sum::<f64>() / (0..relevant.min(k)).map(gain).sum::<f64>()
            }
            Measure::Mrr => ranks.first().map_or(0.0, |rank| 1.0 / (rank + 1) as f64),
            Measure::Precision => ranks.len() as f64 / k as f64,
        }
    }
}

impl std::fmt::Display for MetricName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.measure.name(), self.k)
    }
}

impl From<MetricName> for String {
    fn from(name: MetricName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for MetricName {
    type Error = ModelError;

    fn try_from(text: String) -> Result<Self, ModelError> {
        let parsed = text.split_once('@').and_then(|(name, k)| {
            let (measure, _) = MEASURES.iter().find(|(_, known)| *known == name)?;
            let k = k.parse().ok().filter(|k| (1..=1_000_000).contains(k))?;
            Some(MetricName { measure: *measure, k })
        });
        parsed.ok_or_else(|| ModelError::Setting {
            setting: "metric".into(),
            expected: "recall, hit, ndcg, mrr or precision at a length of 1 to 1000000, such as `recall@10`".into(),
            found: format!("`{text}`"),
        })
    }
}

/// A ranking task: the items to rank and the relevant ones. The lists have a row per query.
#[derive(Debug, Clone, Copy)]
pub struct RankTask<'a> {
    /// Number of items of the catalogue.
    pub items: usize,
    /// Items that are not ranked for a query, such as those already clicked. Without rows, all are ranked.
    /// A relevant item is always ranked. With candidates it is not looked at.
    pub excluded: &'a Ragged,
    /// The relevant items of each query. Queries without any are left out and counted.
    pub relevant: &'a Ragged,
    /// Sampled mode: only these items and the relevant ones are ranked. An item that stands here twice counts twice, and
    /// a relevant one that stands here counts as an irrelevant item of the same score, which is ahead of it. `None` means
    /// full ranking.
    pub candidates: Option<&'a Ragged>,
    /// List lengths, at least 1 each.
    pub ks: &'a [usize],
    /// `[items]` counts for mean popularity, or empty.
    pub popularity: &'a [u64],
}

/// Means over the queries with a relevant item.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Queries that count.
    pub queries: usize,
    /// Queries left out because nothing is relevant to them.
    pub skipped: usize,
    /// `recall@10` and so on; `coverage@k`: share of the catalogue in any list;
    /// `popularity@k`: mean count of the listed items.
    pub values: BTreeMap<String, f64>,
}

impl Metrics {
    /// One value by name.
    pub fn get(&self, name: MetricName) -> Option<f64> {
        self.values.get(&name.to_string()).copied()
    }
}

/// Sums over some queries.
struct Sums {
    queries: usize,
    /// For each length, the sum of each measure.
    measures: Vec<[f64; MEASURES.len()]>,
    /// For each length, the sum of popularity counts, the number of listed items, and the distinct items.
    listed: Vec<(f64, u64, FxHashSet<u32>)>,
}

/// Ranks items for vectors of users, `[queries, dim]`, by inner product with `[items, dim]`.
///
/// # Errors
/// [`ModelError::NonFiniteScore`] when a vector or a score is NaN or infinite.
pub fn rank(users: &Matrix, items: &Matrix, task: &RankTask) -> Result<Metrics, ModelError> {
    rank_scores(task, products(users, items)?)
}

/// What writes the inner products of some users' vectors with all items' vectors, `[queries, items]`.
fn products<'a>(
    users: &'a Matrix,
    items: &'a Matrix,
) -> Result<impl Fn(Range<usize>, &mut [f32]) + Sync + 'a, ModelError> {
    for (what, matrix) in [("query", users), ("item", items)] {
        if let Some(at) = matrix.data.iter().position(|x| !x.is_finite()) {
            return Err(ModelError::NonFiniteScore { what, row: at / matrix.cols });
        }
    }
    Ok(|queries: Range<usize>, out: &mut [f32]| {
        let users = Operand::rows_of(&users.data[queries.start * users.cols..queries.end * users.cols], users.cols);
        matmul(out, false, 1.0, users, Operand::rows_of(&items.data, items.cols).transposed());
    })
}

/// Ranks items by any scores: `fill(queries, out)` writes `[queries.len(), items]`.
///
/// Rank of a relevant item = items with a higher score, plus irrelevant items with the same one.
///
/// # Memory
/// 32 rows of scores and keys per thread.
///
/// # Errors
/// [`ModelError::NonFiniteScore`] when the score of a ranked item is NaN or infinite.
pub fn rank_scores(task: &RankTask, fill: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Result<Metrics, ModelError> {
    let queries = task.relevant.rows();
    // Tiles and the order of sums are fixed, so that results do not depend on the number of threads.
    let tiles: Vec<Sums> = (0..queries.div_ceil(TILE))
        .into_par_iter()
        .map_init(
            || (Vec::new(), Vec::new()),
            |(scores, keys), t| {
                let range = t * TILE..((t + 1) * TILE).min(queries);
                scores.resize(range.len() * task.items, 0.0);
                fill(range.clone(), scores);
                let mut sums = Sums {
                    queries: 0,
                    measures: vec![Default::default(); task.ks.len()],
                    listed: vec![Default::default(); task.ks.len()],
                };
                for (query, scores) in range.zip(scores.chunks_exact(task.items.max(1))) {
                    judge(task, query, scores, keys, &mut sums)?;
                }
                Ok(sums)
            },
        )
        .collect::<Result<_, ModelError>>()?;
    let counted: usize = tiles.iter().map(|tile| tile.queries).sum();
    let mut values = BTreeMap::new();
    for (i, k) in task.ks.iter().enumerate() {
        for (m, (_, name)) in MEASURES.iter().enumerate() {
            let sum: f64 = tiles.iter().map(|tile| tile.measures[i][m]).sum();
            values.insert(format!("{name}@{k}"), sum / counted.max(1) as f64);
        }
        let distinct: FxHashSet<u32> = tiles.iter().flat_map(|tile| tile.listed[i].2.iter().copied()).collect();
        values.insert(format!("coverage@{k}"), distinct.len() as f64 / task.items.max(1) as f64);
        if !task.popularity.is_empty() {
            let sum: f64 = tiles.iter().map(|tile| tile.listed[i].0).sum();
            let listed: u64 = tiles.iter().map(|tile| tile.listed[i].1).sum();
            values.insert(format!("popularity@{k}"), sum / listed.max(1) as f64);
        }
    }
    Ok(Metrics { queries: counted, skipped: queries - counted, values })
}

/// Marks a relevant item in a key. It is the last among equal scores.
const RELEVANT: u64 = 1 << 31;
/// The key of an item that is not ranked.
const LEFT_OUT: u64 = u64::MAX;

/// The sort key of an item. In ascending order of keys, scores descend. Among equal scores irrelevant items come first,
/// and then item rows ascend.
fn key(score: f32, item: usize) -> u64 {
    // + 0.0 makes -0 and 0 one score.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (!ascending as u64) << 32 | item as u64
}

/// Writes the keys of the first items that are ranked for a query, as many as the longest list has, the best first.
fn list(task: &RankTask, query: usize, scores: &[f32], keys: &mut Vec<u64>) -> Result<(), ModelError> {
    let relevant = task.relevant.row(query);
    keys.clear();
    match task.candidates {
        None => {
            if !scores.iter().all(|score| score.is_finite()) {
                return Err(ModelError::NonFiniteScore { what: "query", row: query });
            }
            keys.extend(scores.iter().enumerate().map(|(item, score)| key(*score, item)));
            if task.excluded.rows() > 0 {
                for item in task.excluded.row(query) {
                    keys[*item as usize] = LEFT_OUT;
                }
            }
            for item in relevant.iter().map(|item| *item as usize) {
                keys[item] = key(scores[item], item) | RELEVANT;
            }
        }
        Some(candidates) => {
            let mut ranked = candidates.row(query).iter().chain(relevant);
            if !ranked.all(|item| scores[*item as usize].is_finite()) {
                return Err(ModelError::NonFiniteScore { what: "query", row: query });
            }
            let key_of = |item: &u32| key(scores[*item as usize], *item as usize);
            keys.extend(candidates.row(query).iter().map(key_of));
            // One key for each relevant item, however often it is listed.
            let distinct: FxHashSet<&u32> = relevant.iter().collect();
            keys.extend(distinct.into_iter().map(|item| key_of(item) | RELEVANT));
        }
    }
    let longest = task.ks.iter().copied().max().unwrap_or(0);
    if longest < keys.len() {
        keys.select_nth_unstable(longest);
        keys.truncate(longest);
    }
    keys.sort_unstable();
    keys.truncate(keys.partition_point(|key| *key != LEFT_OUT));
    Ok(())
}

/// The row of the item that a key is of.
fn item_of(key: u64) -> u32 {
    (key & (RELEVANT - 1)) as u32
}

fn judge(
    task: &RankTask,
    query: usize,
    scores: &[f32],
    keys: &mut Vec<u64>,
    sums: &mut Sums,
) -> Result<(), ModelError> {
    let relevant = task.relevant.row(query);
    if relevant.is_empty() {
        return Ok(());
    }
    list(task, query, scores, keys)?;
    let distinct = relevant.iter().collect::<FxHashSet<_>>().len();
    let ranks: Vec<usize> =
        keys.iter().enumerate().filter(|(_, key)| **key & RELEVANT != 0).map(|(rank, _)| rank).collect();
    sums.queries += 1;
    for ((k, measures), (count, listed, seen)) in task.ks.iter().zip(&mut sums.measures).zip(&mut sums.listed) {
        for (m, (measure, _)) in MEASURES.iter().enumerate() {
            measures[m] += measure.of(&ranks, distinct, *k);
        }
        for key in &keys[..keys.len().min(*k)] {
            let item = item_of(*key);
            seen.insert(item);
            *listed += 1;
            *count += task.popularity.get(item as usize).map_or(0.0, |count| *count as f64);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn ragged(rows: &[&[u32]]) -> Ragged {
        let mut ragged = Ragged::default();
        rows.iter().for_each(|row| ragged.push_row(row.iter().copied()));
        ragged
    }

    fn rank_rows(scores: &[&[f32]], task: &RankTask) -> Result<Metrics, ModelError> {
        rank_scores(task, |queries, out| {
            for (q, out) in queries.zip(out.chunks_exact_mut(task.items)) {
                out.copy_from_slice(scores[q]);
            }
        })
    }

    #[test]
    fn values_equal_a_hand_computed_example() {
        let scores: [&[f32]; 3] = [&[0.9, 0.8, 0.7, 0.6, 0.5], &[0.1, 0.2, 0.3, 0.4, 0.5], &[0.0; 5]];
        // Query 0: item 1 is excluded, so the list is 0 2 3 4; relevant 2 (rank 2) and 4 (rank 4).
        // Query 1: the list is 4 3 2 1 0, relevant 4. Query 2: nothing is relevant.
        let task = RankTask {
            items: 5,
            excluded: &ragged(&[&[1], &[], &[]]),
            relevant: &ragged(&[&[2, 4], &[4], &[]]),
            candidates: None,
            ks: &[1, 2, 50],
            popularity: &[10, 20, 30, 40, 50],
        };
        let metrics = rank_rows(&scores, &task).unwrap();
        assert_eq!((metrics.queries, metrics.skipped), (2, 1));
        let ndcg_2 = (1.0 / 3f64.log2()) / (1.0 + 1.0 / 3f64.log2());
        let ndcg_50 = (1.0 / 3f64.log2() + 1.0 / 5f64.log2()) / (1.0 + 1.0 / 3f64.log2());
        for (name, want) in [
            ("recall@1", 0.5),
            ("recall@2", (0.5 + 1.0) / 2.0),
            ("recall@50", 1.0),
            ("hit@1", 0.5),
            ("hit@2", 1.0),
            ("mrr@2", (0.5 + 1.0) / 2.0),
            ("ndcg@2", (ndcg_2 + 1.0) / 2.0),
            ("ndcg@50", (ndcg_50 + 1.0) / 2.0),
            ("precision@2", 0.5),
            ("coverage@1", 0.4),
            ("coverage@50", 1.0),
            ("popularity@1", 30.0),
        ] {
            assert!((metrics.values[name] - want).abs() < 1e-12, "{name}: {}, expected {want}", metrics.values[name]);
        }
    }

    #[test]
    fn ties_count_against_the_model() {
        let task = RankTask {
            items: 4,
            excluded: &Ragged::default(),
            relevant: &ragged(&[&[0]]),
            candidates: None,
            ks: &[3, 4],
            popularity: &[],
        };
        for scores in [[0.5f32; 4], [0.0, -0.0, 0.0, -0.0]] {
            let metrics = rank_rows(&[&scores], &task).unwrap();
            assert_eq!(metrics.values["hit@3"], 0.0);
            assert_eq!(metrics.values["mrr@4"], 0.25);
        }
    }

    #[test]
    fn ranks_equal_counting_on_random_scores_with_ties() {
        let mut rng = Rng::at(6, &[]);
        let items = 60;
        for _ in 0..200 {
            let scores: Vec<f32> = (0..items).map(|_| rng.below(12) as f32 - 6.0).collect();
            let target = rng.below(items);
            let excluded: Vec<u32> = (0..rng.below(20)).map(|_| rng.below(items) as u32).collect();
            let ahead = (0..items)
                .filter(|i| *i != target && !excluded.contains(&(*i as u32)) && scores[*i] >= scores[target])
                .count();
            let task = RankTask {
                items,
                excluded: &ragged(&[&excluded]),
                relevant: &ragged(&[&[target as u32]]),
                candidates: None,
                ks: &[items],
                popularity: &[],
            };
            let metrics = rank_rows(&[&scores], &task).unwrap();
            assert_eq!(metrics.values[&format!("mrr@{items}")], 1.0 / (ahead + 1) as f64);
        }
    }

    #[test]
    fn sampled_mode_ranks_only_candidates_and_relevant_items() {
        let task = RankTask {
            items: 5,
            excluded: &Ragged::default(),
            relevant: &ragged(&[&[4]]),
            candidates: Some(&ragged(&[&[1, 2]])),
            ks: &[1, 10],
            popularity: &[],
        };
        let metrics = rank_rows(&[&[f32::NAN, 0.3, 0.1, 9.0, 0.2]], &task).unwrap();
        assert_eq!((metrics.values["hit@1"], metrics.values["mrr@10"]), (0.0, 0.5));
        assert_eq!(metrics.values["coverage@10"], 0.6);
    }

    #[test]
    fn a_candidate_that_is_drawn_twice_counts_twice_and_a_drawn_relevant_item_stands_ahead_of_itself() {
        // Scores of items 0 to 4; item 2 is relevant.
        let scores = [0.9f32, 0.5, 0.4, 0.3, 0.4];
        let rank_among = |candidates: &[u32]| {
            let task = RankTask {
                items: 5,
                excluded: &Ragged::default(),
                relevant: &ragged(&[&[2]]),
                candidates: Some(&ragged(&[candidates])),
                ks: &[10],
                popularity: &[],
            };
            (1.0 / rank_rows(&[&scores], &task).unwrap().values["mrr@10"]).round() as usize
        };
        for (candidates, rank) in [
            (&[3][..], 1),
            (&[3, 3, 3], 1),
            (&[0, 3], 2),
            (&[0, 0, 0], 4),
            // Item 4 has the relevant item's score.
            (&[4, 3], 2),
            (&[4, 4, 1], 4),
            // The relevant item itself was drawn.
            (&[2], 2),
            (&[2, 2, 0, 3], 4),
        ] {
            assert_eq!(rank_among(candidates), rank, "{candidates:?}");
        }
    }

    #[test]
    fn non_finite_vectors_and_scores_are_refused() {
        let task = RankTask {
            items: 2,
            excluded: &Ragged::default(),
            relevant: &ragged(&[&[0]]),
            candidates: None,
            ks: &[1],
            popularity: &[],
        };
        assert!(rank_rows(&[&[0.0, f32::INFINITY]], &task).is_err());
        let good = Matrix { rows: 1, cols: 1, data: vec![1.0] };
        let items = Matrix { rows: 2, cols: 1, data: vec![1.0, f32::NAN] };
        let error = rank(&good, &items, &task).unwrap_err();
        assert!(matches!(error, ModelError::NonFiniteScore { what: "item", row: 1 }));
    }

    #[test]
    fn metric_names_parse_and_print() {
        for text in ["recall@10", "ndcg@100", "hit@1", "mrr@5", "precision@20"] {
            assert_eq!(MetricName::try_from(text.to_string()).unwrap().to_string(), text);
        }
        for text in ["recall", "recall@0", "auc@10", "recall@x"] {
            assert!(MetricName::try_from(text.to_string()).is_err());
        }
    }
}
