//! Chooses, builds and measures an index.

use crate::config::{IndexConfig, IndexKind};
use crate::error::IndexError;
use crate::exact::ExactIndex;
use crate::graph::insert_all;
use crate::hnsw::HnswIndex;
use crate::image::Image;
use crate::measure::{Choice, UserRecall, choose_width};
use crate::search::{ItemIndex, Request};
use crate::store::IndexManifest;
use crate::vectors::ItemVectors;
use std::ops::ControlFlow;
use std::time::Instant;

/// Progress of [`build`], as its observer sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BuildStep {
    /// The kind of index is chosen.
    Chosen {
        /// `Exact` or `Hnsw`.
        kind: IndexKind,
    },
    /// Items were inserted into the graph.
    Inserted {
        /// Number of items so far.
        done: usize,
        /// Number of all items.
        total: usize,
    },
    /// Unreachable items of the graph were found and linked.
    Swept {
        /// How many there were.
        unreachable: usize,
    },
    /// A search width was measured against exact search.
    Measured {
        /// The width.
        ef_search: usize,
        /// Mean recall of the sampled users.
        recall: f64,
    },
}

/// Called with each step of a build. Breaking stops the build.
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
    /// HNSW: recall against exact search.
    pub recall: Option<UserRecall>,
    /// HNSW: the search width chosen.
    pub ef_search: Option<usize>,
    /// HNSW: number of items that were unreachable. All of them were linked.
    pub unreachable: usize,
    /// Set if the graph has too little recall or costs too much, or was replaced by exact search.
    pub warning: Option<String>,
    /// Seconds taken.
    pub seconds: f64,
}

/// Builds the index that the configuration asks for.
///
/// For HNSW, unreachable items are linked. Then the least search width is chosen, within an eighth, with which the
/// queries of `sample` get `target_recall` of what exact search gives them, with the request's `k`, exclusions and
/// eligibility. The queries should be vectors of the users for whom the index is built, since a graph that serves one
/// kind of query well may serve another badly. With `auto`, exact search is taken if the graph does not reach that
/// recall with less work. Work is counted in comparisons, not in time, so the choice depends on the inputs alone.
///
/// # Memory
/// The vectors twice. While `hnsw_rs` builds a graph, about 1 KiB per item more.
///
/// # Errors
/// - [`IndexError::Setting`] for a setting out of range
/// - [`IndexError::NoSample`] for a graph without a sample
/// - [`IndexError::RecallTooLow`] when the kind is `hnsw` and it stays below `min_index_recall`
/// - [`IndexError::Stopped`] when the observer breaks
/// - those of searching `sample`; [`IndexError::Memory`], [`IndexError::TooLarge`]
pub fn build(
    config: &IndexConfig,
    vectors: ItemVectors,
    sample: Option<&Request<'_>>,
    observer: &mut Observer<'_>,
) -> Result<(Box<dyn ItemIndex>, BuildReport), IndexError> {
    config.check()?;
    let start = Instant::now();
    let (kind, reason) = config.choose(vectors.count());
    tell(observer, BuildStep::Chosen { kind })?;
    let mut manifest = IndexManifest::of(&vectors, kind, &reason);
    if kind != IndexKind::Hnsw {
        let image = Image::compose(vectors.dim(), vectors.data(), 0, &[])?;
        manifest.image = image.fingerprint();
        let index = Box::new(ExactIndex::new(image, manifest));
        let report = report_of(&*index, None, start);
        return Ok((index, report));
    }
    let sample = sample.ok_or(IndexError::NoSample)?;
    let mut graph = insert_all(config, &vectors, observer)?;
    manifest.describe_graph(config, graph.mend(&vectors));
    tell(observer, BuildStep::Swept { unreachable: manifest.unreachable })?;
    let image = Image::compose(vectors.dim(), vectors.data(), graph.entry, &graph.layers)?;
    drop((graph, vectors));
    manifest.image = image.fingerprint();
    measured(config, HnswIndex::new(image, manifest), sample, observer, start)
}

/// Chooses the search width of an existing graph anew, for other users or exclusions, as [`build`] does.
///
/// # Errors
/// Those of [`build`]; [`IndexError::NoSample`] for an index without a graph.
pub fn measure_again(
    config: &IndexConfig,
    index: Box<dyn ItemIndex>,
    sample: &Request<'_>,
    observer: &mut Observer<'_>,
) -> Result<(Box<dyn ItemIndex>, BuildReport), IndexError> {
    config.check()?;
    let start = Instant::now();
    let (image, mut manifest) = index.into_parts();
    if image.kind() != IndexKind::Hnsw {
        return Err(IndexError::NoSample);
    }
    manifest.reason = config.choose(image.count()).1;
    measured(config, HnswIndex::new(image, manifest), sample, observer, start)
}

/// Measures a graph, and replaces it by exact search if that is better.
fn measured(
    config: &IndexConfig,
    mut graph: HnswIndex,
    sample: &Request<'_>,
    observer: &mut Observer<'_>,
    start: Instant,
) -> Result<(Box<dyn ItemIndex>, BuildReport), IndexError> {
    let (index, warning): (Box<dyn ItemIndex>, _) = match choose_width(config, &mut graph, sample, observer)? {
        Choice::Graph(None) => (Box::new(graph), None),
        Choice::Graph(Some(note)) => {
            let reason = &mut graph.manifest_mut().reason;
            *reason = format!("{reason}; but {note}");
            (Box::new(graph), Some(format!("{note}; exact search would find all: index.kind = \"exact\"")))
        }
        Choice::Exact(note) => {
            let manifest = graph.manifest();
            let reason = format!("{}; but {note}, so exact search serves", manifest.reason);
            let image = Image::compose(graph.dim(), graph.image().vectors(), 0, &[])?;
            let manifest = manifest.without_graph(&reason, image.fingerprint());
            let advice = "index.kind = \"exact\" saves building a graph, and a larger `m` or `ef_construction` may make a better one";
            (Box::new(ExactIndex::new(image, manifest)), Some(format!("{note}, so exact search serves; {advice}")))
        }
    };
    let report = report_of(&*index, warning, start);
    Ok((index, report))
}

fn report_of(index: &dyn ItemIndex, warning: Option<String>, start: Instant) -> BuildReport {
    let made = index.manifest();
    BuildReport {
        kind: made.kind,
        reason: made.reason.clone(),
        recall: made.measured.clone(),
        ef_search: made.ef_search,
        unreachable: made.unreachable,
        warning,
        seconds: start.elapsed().as_secs_f64(),
    }
}
