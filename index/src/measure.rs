//! Measures which share of the exact results a graph finds for real users, and chooses the search width by it.

use crate::build::{BuildStep, Observer, tell};
use crate::config::{IndexConfig, IndexKind};
use crate::error::IndexError;
use crate::exact::search_image;
use crate::hnsw::HnswIndex;
use crate::search::{ItemIndex, Neighbours, QUERY_BLOCK, Request};
use serde::{Deserialize, Serialize};

/// The first search width tried.
const FIRST_EF: usize = 64;
/// The largest search width tried. If it does not suffice, exact search is better.
const LARGEST_EF: usize = 4096;
/// About how many neighbours of a sample are held in memory at a time.
const PAIRS: usize = 1 << 20;

/// Recall of a graph against exact search, measured for each user with the user's exclusions.
///
/// A user's recall is the share of the exact best `k` that the graph finds. An item that is as near as the last of them
/// counts as found, since any of several equal items will do. Users who can get no item are not measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserRecall {
    /// Users measured.
    pub users: usize,
    /// Neighbours searched for.
    pub k: usize,
    /// Mean over the users; 1 without users.
    pub mean: f64,
    /// The worst user.
    pub min: f64,
    /// One user in a hundred has at most this.
    pub p1: f64,
    /// One user in twenty has at most this.
    pub p5: f64,
    /// Half of the users have at most this.
    pub median: f64,
    /// Work of a search divided by that of exact search, by the number of items compared.
    pub cost: f64,
}

impl UserRecall {
    /// Summarises the recall of each user.
    fn of(mut recalls: Vec<f64>, k: usize, cost: f64) -> Self {
        // The sum is taken in the order of users, so that it does not depend on the number of threads.
        let mean = if recalls.is_empty() { 1.0 } else { recalls.iter().sum::<f64>() / recalls.len() as f64 };
        recalls.sort_by(f64::total_cmp);
        let at_percent =
            |percent: usize| recalls.get(recalls.len().saturating_sub(1) * percent / 100).map_or(1.0, |r| *r);
        Self {
            users: recalls.len(),
            k,
            mean,
            min: at_percent(0),
            p1: at_percent(1),
            p5: at_percent(5),
            median: at_percent(50),
            cost,
        }
    }
}

impl std::fmt::Display for UserRecall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { users, k, mean, min, p1, p5, median, cost } = self;
        write!(
            f,
            "recall@{k} {mean:.4} over {users} users (worst {min:.2}, p1 {p1:.2}, p5 {p5:.2}, median {median:.2}), {:.0}% of exact search's work",
            cost * 100.0
        )
    }
}

/// What exact search finds for each user of a sample: the number of items, and the score of the last one.
struct ExactResults {
    found: Vec<(usize, f32)>,
}

impl ExactResults {
    fn of(index: &dyn ItemIndex, sample: &Request<'_>) -> Result<Self, IndexError> {
        let mut found = Vec::new();
        in_chunks(index, sample, |request, answer| {
            search_image(index.image(), request, answer)?;
            found.extend((0..answer.queries()).map(|q| {
                let scores = answer.scores(q);
                (scores.len(), scores.last().copied().unwrap_or(f32::INFINITY))
            }));
            Ok(())
        })?;
        Ok(Self { found })
    }

    /// For each user, the share of these items that `index` finds. Users without any item to find are left out.
    fn recalls(&self, index: &dyn ItemIndex, sample: &Request<'_>) -> Result<Vec<f64>, IndexError> {
        let (mut recalls, mut expected) = (Vec::new(), self.found.iter());
        in_chunks(index, sample, |request, answer| {
            index.search_parallel(request, answer)?;
            for (q, (wanted, last)) in (0..answer.queries()).zip(&mut expected) {
                let hits = answer.scores(q).iter().filter(|score| *score >= last).count();
                recalls.extend((*wanted > 0).then(|| hits as f64 / *wanted as f64));
            }
            Ok(())
        })?;
        Ok(recalls)
    }
}

/// Calls `work` with chunks of a sample, so that few neighbours are in memory at a time.
fn in_chunks(
    index: &dyn ItemIndex,
    sample: &Request<'_>,
    mut work: impl FnMut(&Request<'_>, &mut Neighbours) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let queries = sample.queries.len() / index.dim();
    let k = sample.k.clamp(1, index.count());
    let chunk = (PAIRS / k).max(1).next_multiple_of(QUERY_BLOCK);
    let mut answer = Neighbours::default();
    for first in (0..queries).step_by(chunk) {
        let rows = first..queries.min(first + chunk);
        let request = Request {
            queries: &sample.queries[rows.start * index.dim()..rows.end * index.dim()],
            exclude: sample.exclude.slice(rows),
            ..*sample
        };
        work(&request, &mut answer)?;
    }
    Ok(())
}

/// Recall of an index against exact search over the queries of a request; see [`UserRecall`].
///
/// # Errors
/// Those of [`ItemIndex::search`] on the request.
pub fn recall_against_exact(index: &dyn ItemIndex, sample: &Request<'_>) -> Result<UserRecall, IndexError> {
    measure_against(&ExactResults::of(index, sample)?, index, sample)
}

fn measure_against(
    exact: &ExactResults,
    index: &dyn ItemIndex,
    sample: &Request<'_>,
) -> Result<UserRecall, IndexError> {
    index.pool().take_work();
    let recalls = exact.recalls(index, sample)?;
    let whole = (exact.found.len() * index.count()).max(1);
    Ok(UserRecall::of(recalls, sample.k, index.pool().take_work() as f64 / whole as f64))
}

/// The outcome of choosing a search width.
#[derive(Debug)]
pub(crate) enum Choice {
    /// The graph is used, with a note if it has too little recall or costs too much.
    Graph(Option<String>),
    /// Exact search is better, for this reason.
    Exact(String),
}

/// Sets the search width of a graph and the recall measured with it. The width is that of the configuration, or else
/// the least one, within an eighth, with which the users of a sample get `target_recall`.
///
/// # Errors
/// [`IndexError::RecallTooLow`] where the configuration insists on a graph and it stays below `min_index_recall`;
/// [`IndexError::Stopped`]; those of searching the sample.
pub(crate) fn choose_width(
    config: &IndexConfig,
    index: &mut HnswIndex,
    sample: &Request<'_>,
    observer: &mut Observer<'_>,
) -> Result<Choice, IndexError> {
    let exact = ExactResults::of(index, sample)?;
    let insists = config.kind == IndexKind::Hnsw;
    let target = config.target_recall.max(config.min_index_recall);
    let mut measure = |index: &mut HnswIndex, ef_search| {
        index.tune(ef_search, None);
        let measured = measure_against(&exact, index, sample)?;
        index.tune(ef_search, Some(measured.clone()));
        tell(observer, BuildStep::Measured { ef_search, recall: measured.mean })?;
        Ok::<UserRecall, IndexError>(measured)
    };
    let mut ef_search = config.ef_search.unwrap_or(FIRST_EF);
    let mut measured = measure(index, ef_search)?;
    if config.ef_search.is_none() {
        let wider_may_do = |measured: &UserRecall| measured.mean < target && (insists || measured.cost < 1.0);
        while wider_may_do(&measured) && ef_search < LARGEST_EF {
            ef_search *= 2;
            measured = measure(index, ef_search)?;
        }
        // Since the width was doubled, the least one that suffices is between half of it and itself.
        if ef_search > FIRST_EF && measured.mean >= target {
            let mut too_narrow = ef_search / 2;
            let step = ef_search / 16;
            while ef_search - too_narrow > step {
                let middle = (ef_search + too_narrow) / 2;
                match measure(index, middle)? {
                    less if less.mean >= target => (ef_search, measured) = (middle, less),
                    _ => too_narrow = middle,
                }
            }
            index.tune(ef_search, Some(measured.clone()));
        }
    }
    let required = if config.ef_search.is_some() { config.min_index_recall } else { target };
    let found = format!("at ef {ef_search} HNSW has {measured}");
    let note = if measured.users == 0 {
        Some("no user of the sample can get an item".to_string())
    } else if measured.mean < required {
        Some(format!("{found}, wanted are {required}"))
    } else if measured.cost >= 1.0 {
        Some(format!("{found}: no less than to compare all items"))
    } else {
        None
    };
    match note {
        Some(note) if !insists => Ok(Choice::Exact(note)),
        _ if measured.mean < config.min_index_recall => Err(IndexError::RecallTooLow {
            measured: measured.mean,
            required: config.min_index_recall,
            depth: measured.k,
            users: measured.users,
            ef_search,
        }),
        note => Ok(Choice::Graph(note)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_users_is_stated_by_rank() {
        // The recalls are 0.00, 0.01, ... 1.00, shuffled.
        let recalls: Vec<f64> = (0..101).map(|i| f64::from(i * 37 % 101) / 100.0).collect();
        let stated = UserRecall::of(recalls, 10, 0.5);
        assert_eq!((stated.users, stated.min, stated.p1, stated.p5, stated.median), (101, 0.0, 0.01, 0.05, 0.5));
        assert!((stated.mean - 0.5).abs() < 1e-12);
        let nobody = UserRecall::of(Vec::new(), 10, 0.0);
        assert_eq!((nobody.users, nobody.mean, nobody.min), (0, 1.0, 1.0));
    }
}
