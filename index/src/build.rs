//! Choosing, building and measuring an index.

use crate::config::{IndexConfig, IndexKind};
use crate::error::IndexError;
use crate::exact::ExactIndex;
use crate::graph::insert_all;
use crate::hnsw::{EF_DEPTH, HnswIndex};
use crate::image::Image;
use crate::sample::noisy_queries;
use crate::search::{Eligibility, Exclusions, ItemIndex, Neighbours, Request};
use crate::store::IndexManifest;
use crate::vectors::ItemVectors;
use std::ops::ControlFlow;
use std::time::Instant;

/// Neighbours per query at which the recall of an index is measured.
pub const RECALL_DEPTH: usize = EF_DEPTH;
/// The first search width tried.
const FIRST_EF: usize = 64;
/// The largest search width tried; beyond it exact search is the better index.
const LARGEST_EF: usize = 4096;

/// Progress of [`build`], as its observer sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BuildStep {
    /// The kind of index is settled.
    Chosen {
        /// `Exact` or `Hnsw`.
        kind: IndexKind,
    },
    /// Items were inserted into the graph.
    Inserted {
        /// So far.
        done: usize,
        /// In the end.
        total: usize,
    },
    /// The graph was swept for unreachable items, and they were linked.
    Swept {
        /// How many there were.
        unreachable: usize,
    },
    /// A search width was measured against exact search.
    Measured {
        /// The width.
        ef_search: usize,
        /// Recall at [`RECALL_DEPTH`].
        recall: f64,
    },
}

/// Watches a build; breaking stops it at the next step.
pub type Observer<'a> = dyn FnMut(BuildStep) -> ControlFlow<()> + 'a;

/// Reports a step.
///
/// # Errors
/// [`IndexError::Stopped`] when the observer breaks.
pub(crate) fn tell(observer: &mut Observer<'_>, step: BuildStep) -> Result<(), IndexError> {
    if observer(step).is_break() { Err(IndexError::Stopped) } else { Ok(()) }
}

/// What [`build`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildReport {
    /// Kind built: `Exact` or `Hnsw`.
    pub kind: IndexKind,
    /// Why that kind, as a sentence for the log.
    pub reason: String,
    /// HNSW: recall at [`RECALL_DEPTH`] against exact search.
    pub recall: Option<f64>,
    /// HNSW: the search width chosen.
    pub ef_search: Option<usize>,
    /// HNSW: items found unreachable, all of which were linked.
    pub unreachable: usize,
    /// Seconds taken.
    pub seconds: f64,
}

/// Builds the index that the configuration asks for.
///
/// For HNSW, unreachable items are linked, and the least search width is chosen, within an eighth,
/// with which recall@50 against exact search reaches `target_recall`. It is measured on `sample`
/// (`[queries, dim]` f32, unit rows) or, without one, on noisy item vectors.
///
/// # Memory
/// The vectors twice; HNSW about 1 KiB per item more while `hnsw_rs` builds.
///
/// # Errors
/// - [`IndexError::Setting`] for a setting out of range
/// - [`IndexError::RecallTooLow`] when the largest width stays below `min_index_recall`
/// - [`IndexError::Stopped`] when the observer breaks
/// - those of searching `sample`; [`IndexError::Memory`], [`IndexError::TooLarge`]
pub fn build(
    config: &IndexConfig,
    vectors: ItemVectors,
    sample: Option<&[f32]>,
    observer: &mut Observer<'_>,
) -> Result<(Box<dyn ItemIndex>, BuildReport), IndexError> {
    config.check()?;
    let start = Instant::now();
    let (kind, reason) = choose(config, vectors.count());
    tell(observer, BuildStep::Chosen { kind })?;
    let mut manifest = IndexManifest::of(&vectors, kind, &reason);
    let index: Box<dyn ItemIndex> = if kind == IndexKind::Hnsw {
        let mut graph = insert_all(config, &vectors, observer)?;
        manifest.describe_graph(config, graph.mend(&vectors));
        tell(observer, BuildStep::Swept { unreachable: manifest.unreachable })?;
        let image = Image::compose(vectors.dim(), vectors.data(), graph.entry, &graph.layers)?;
        drop((graph, vectors));
        manifest.image = image.fingerprint();
        let mut index = HnswIndex::new(image, manifest);
        choose_width(config, &mut index, sample, observer)?;
        Box::new(index)
    } else {
        let image = Image::compose(vectors.dim(), vectors.data(), 0, &[])?;
        manifest.image = image.fingerprint();
        Box::new(ExactIndex::new(image, manifest))
    };
    let made = index.manifest();
    let report = BuildReport {
        kind,
        reason,
        recall: made.recall,
        ef_search: made.ef_search,
        unreachable: made.unreachable,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((index, report))
}

fn choose(config: &IndexConfig, count: usize) -> (IndexKind, String) {
    let threshold = config.auto_threshold;
    match config.kind {
        IndexKind::Auto if count <= threshold => {
            (IndexKind::Exact, format!("auto: {count} items, exact search serves up to {threshold}"))
        }
        IndexKind::Auto => (IndexKind::Hnsw, format!("auto: {count} items, HNSW serves above {threshold}")),
        kind => (kind, format!("the configuration asks for {kind}")),
    }
}

fn choose_width(
    config: &IndexConfig,
    index: &mut HnswIndex,
    sample: Option<&[f32]>,
    observer: &mut Observer<'_>,
) -> Result<(), IndexError> {
    let sampled = match sample {
        Some(queries) => queries.to_vec(),
        None => noisy_queries(index.image(), config.sample_queries, config.seed),
    };
    let (mut ef_search, last) = match config.ef_search {
        Some(ef_search) => (ef_search, ef_search),
        None => (FIRST_EF, LARGEST_EF),
    };
    let mut measure = |ef_search| {
        index.tune(ef_search, None);
        let recall = recall_at(index, &sampled, RECALL_DEPTH)?;
        index.tune(ef_search, Some(recall));
        tell(observer, BuildStep::Measured { ef_search, recall })?;
        Ok::<f64, IndexError>(recall)
    };
    let mut measured = measure(ef_search)?;
    while measured < config.target_recall && ef_search < last {
        ef_search *= 2;
        measured = measure(ef_search)?;
    }
    // Doubling may have gone too far: the least width that suffices lies above half of it.
    if config.ef_search.is_none() && ef_search > FIRST_EF && measured >= config.target_recall {
        let mut too_narrow = ef_search / 2;
        let step = ef_search / 16;
        while ef_search - too_narrow > step {
            let middle = (ef_search + too_narrow) / 2;
            match measure(middle)? {
                recall if recall >= config.target_recall => (ef_search, measured) = (middle, recall),
                _ => too_narrow = middle,
            }
        }
        index.tune(ef_search, Some(measured));
    }
    if measured < config.min_index_recall {
        let (required, depth) = (config.min_index_recall, RECALL_DEPTH);
        return Err(IndexError::RecallTooLow { measured, required, depth, ef_search });
    }
    Ok(())
}

/// Share of the exact `depth` nearest items that an index returns, over `[queries, dim]` f32.
///
/// An item as near as the last of the exact ones counts as found: among equal items any will do.
/// Without queries the share is 1.
///
/// # Errors
/// Those of [`ItemIndex::search`] on the queries.
pub fn recall_at(index: &dyn ItemIndex, queries: &[f32], depth: usize) -> Result<f64, IndexError> {
    let eligible = Eligibility::all(index.count());
    let request = Request { queries, k: depth, exclude: Exclusions::none(), eligible: &eligible };
    let (mut exact, mut found) = (Neighbours::default(), Neighbours::default());
    index.search_parallel(&request, &mut found)?;
    crate::exact::search_image(index.image(), &request, &mut exact)?;
    let (mut hits, mut wanted) = (0usize, 0usize);
    for q in 0..exact.queries() {
        let last = exact.scores(q).last().copied().unwrap_or(f32::INFINITY);
        hits += found.scores(q).iter().filter(|score| **score >= last).count();
        wanted += exact.scores(q).len();
    }
    Ok(if wanted == 0 { 1.0 } else { hits as f64 / wanted as f64 })
}
