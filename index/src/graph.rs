//! Builds a graph with `hnsw_rs`, and makes every item reachable in it.

use crate::build::{BuildStep, Observer, tell};
use crate::config::IndexConfig;
use crate::dot::dot;
use crate::error::IndexError;
use crate::exact::{ExactScratch, search_exactly};
use crate::reach::Reach;
use crate::sample::Draw;
use crate::search::{Block, Exclusions, Neighbours, QUERY_BLOCK, Request};
use crate::vectors::ItemVectors;
use anndists::dist::Distance;
use hnsw_rs::hnsw::Hnsw;
use rayon::prelude::*;

/// Points inserted between two reports to the observer.
const INSERT_CHUNK: usize = 1024;
/// The number of nearest reachable items of an unreachable one. The one with the fewest links is linked to it.
const MEND_CANDIDATES: usize = 32;

/// The distance `1 - a . b` of unit vectors, but at least 0.
///
/// `hnsw_rs` asserts that distances are not negative. For equal vectors, rounding could make them so.
struct UnitDistance;

impl Distance<f32> for UnitDistance {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        (1.0 - dot(a, b)).max(0.0)
    }
}

/// The links of each layer and row, and the item where a search begins.
#[derive(Debug)]
pub(crate) struct Graph {
    pub entry: u32,
    /// `layers[l][row]`, layer 0 holding all items.
    pub layers: Vec<Vec<Vec<u32>>>,
}

/// Inserts all vectors and takes the graph out of `hnsw_rs`.
///
/// `hnsw_rs` draws levels in insertion order from a fixed seed of its own. The order is drawn from the
/// configuration's seed. With one thread, the graph is always the same; with more, it depends on timing.
pub(crate) fn insert_all(
    config: &IndexConfig,
    vectors: &ItemVectors,
    observer: &mut Observer<'_>,
) -> Result<Graph, IndexError> {
    let (items, count) = (vectors.rows(), vectors.count());
    let hnsw: Hnsw<f32, UnitDistance> = Hnsw::new(config.m, count, 16, config.ef_construction, UnitDistance);
    let order = Draw::new(config.seed).permutation(count);
    let insert = |row: &u32| hnsw.insert_slice((items.vector(*row), *row as usize));
    for (chunk, rows) in order.chunks(INSERT_CHUNK).enumerate() {
        if config.parallel_build {
            rows.par_iter().for_each(insert);
        } else {
            rows.iter().for_each(insert);
        }
        let done = chunk * INSERT_CHUNK + rows.len();
        tell(observer, BuildStep::Inserted { done, total: count })?;
    }
    Ok(extract(&hnsw, count))
}

fn extract(hnsw: &Hnsw<f32, UnitDistance>, count: usize) -> Graph {
    let points = hnsw.get_point_indexation();
    let top = usize::from(points.get_max_level_observed());
    let mut layers = vec![vec![Vec::new(); count]; top + 1];
    for point in points {
        let row = point.get_origin_id();
        for (layer, links) in layers.iter_mut().zip(point.get_neighborhood_id()) {
            layer[row] = links.iter().map(|n| n.d_id as u32).filter(|to| *to as usize != row).collect();
        }
    }
    // The entry point is the first item that was inserted at the highest level.
    let entry = points.get_layer_iterator(top).next().map_or(0, |point| point.get_origin_id() as u32);
    let mut graph = Graph { entry, layers };
    graph.drop_unused_lists();
    graph
}

impl Graph {
    /// Empties lists of layers above 0 that no search can visit. For each item, `hnsw_rs` also notes a
    /// nearest item on layers above the item's own.
    fn drop_unused_lists(&mut self) {
        let mut seen = Reach::from(self.entry, self.layers[0].len());
        for layer in self.layers[1..].iter_mut().rev() {
            seen.reopen();
            seen.spread(|row| &layer[row as usize]);
            for (row, links) in layer.iter_mut().enumerate() {
                if !seen.rows.holds(row as u32) {
                    *links = Vec::new();
                }
            }
        }
    }

    /// Links every unreachable item from a near reachable one, and also to its nearest one if it has no
    /// links of its own. Returns how many were unreachable.
    pub fn mend(&mut self, vectors: &ItemVectors) -> usize {
        let (items, count) = (vectors.rows(), vectors.count());
        let layer = &mut self.layers[0];
        let mut seen = Reach::from(self.entry, count);
        seen.spread(|row| &layer[row as usize]);
        let orphans = seen.missed();
        let (mut scratch, mut found) = (ExactScratch::default(), Neighbours::default());
        for orphans in orphans.chunks(QUERY_BLOCK) {
            let queries: Vec<f32> = orphans.iter().flat_map(|row| items.vector(*row)).copied().collect();
            let eligible = seen.rows.clone();
            let request =
                Request { queries: &queries, k: MEND_CANDIDATES, exclude: Exclusions::none(), eligible: &eligible };
            found.reset(orphans.len(), MEND_CANDIDATES.min(count));
            let block = Block {
                request: &request,
                first: 0,
                k: MEND_CANDIDATES.min(count),
                items,
                norms: &orphans.iter().map(|row| items.norms[*row as usize]).collect::<Vec<_>>(),
            };
            let all: Vec<usize> = (0..orphans.len()).collect();
            for slots in &mut found.blocks() {
                search_exactly(&block, &all, &mut scratch, slots);
            }
            for (q, &orphan) in orphans.iter().enumerate() {
                let near = found.rows(q);
                if layer[orphan as usize].is_empty() {
                    layer[orphan as usize] = near.to_vec();
                }
                // Links that were added before may have made this item reachable.
                let host = near.iter().copied().min_by_key(|row| layer[*row as usize].len());
                if let Some(host) = host.filter(|_| !seen.rows.holds(orphan)) {
                    layer[host as usize].push(orphan);
                    seen.visit(orphan);
                    seen.spread(|row| &layer[row as usize]);
                }
            }
        }
        orphans.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    fn circle(count: usize) -> ItemVectors {
        let angles = (0..count).map(|i| i as f32 / count as f32 * std::f32::consts::TAU);
        ItemVectors::new(2, angles.flat_map(|a| [a.cos(), a.sin()]).collect()).unwrap()
    }

    fn graph_of(vectors: &ItemVectors) -> Graph {
        insert_all(&IndexConfig::default(), vectors, &mut |_| std::ops::ControlFlow::Continue(())).unwrap()
    }

    fn unreachable(graph: &Graph, vectors: &ItemVectors) -> Vec<u32> {
        Image::compose(vectors.dim(), vectors.data(), graph.entry, &graph.layers).unwrap().unreachable()
    }

    #[test]
    fn planted_orphans_are_found_and_linked() {
        let vectors = circle(500);
        let mut graph = graph_of(&vectors);
        assert_eq!(graph.mend(&vectors), 0);
        // One item without any links, one without links of its own, and a pair with links only to each other.
        let orphans = [(0..500).find(|r| *r != graph.entry).unwrap(), 200, 340, 341].map(|r| r % 500);
        assert!(!orphans.contains(&graph.entry));
        for links in &mut graph.layers[0] {
            links.retain(|to| !orphans.contains(to));
        }
        graph.layers[0][200].clear();
        graph.layers[0][340] = vec![341];
        graph.layers[0][341] = vec![340];
        let mut planted = orphans.to_vec();
        planted.sort_unstable();
        assert_eq!(unreachable(&graph, &vectors), planted);
        assert_eq!(graph.mend(&vectors), 4);
        assert!(unreachable(&graph, &vectors).is_empty());
        assert!(!graph.layers[0][200].is_empty());
        let host = (0..500).find(|r| graph.layers[0][*r].contains(&200)).unwrap();
        assert!(host.abs_diff(200) <= MEND_CANDIDATES, "200 is linked from far away {host}");
    }

    #[test]
    fn a_graph_without_any_link_becomes_reachable() {
        let vectors = circle(700);
        let mut graph = Graph { entry: 650, layers: vec![vec![Vec::new(); 700]] };
        assert_eq!(graph.mend(&vectors), 699);
        assert!(unreachable(&graph, &vectors).is_empty());
        assert_eq!(graph.mend(&vectors), 0);
    }

    #[test]
    fn small_and_degenerate_sets_leave_no_item_unreachable() {
        for count in 1..=10 {
            let spread = circle(count);
            let identical = ItemVectors::new(2, [0.6, 0.8].repeat(count)).unwrap();
            for vectors in [spread, identical] {
                let mut graph = graph_of(&vectors);
                graph.mend(&vectors);
                assert!(unreachable(&graph, &vectors).is_empty(), "{count} items");
            }
        }
        let identical = ItemVectors::new(2, [0.6, 0.8].repeat(1500)).unwrap();
        let mut graph = graph_of(&identical);
        graph.mend(&identical);
        assert!(unreachable(&graph, &identical).is_empty());
    }

    #[test]
    fn one_thread_inserts_to_the_same_graph_every_time() {
        let vectors = circle(800);
        let (a, b) = (graph_of(&vectors), graph_of(&vectors));
        assert_eq!((a.entry, a.layers), (b.entry, b.layers));
    }
}
