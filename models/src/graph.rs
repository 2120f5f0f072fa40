//! The bipartite graph of users and items, and the propagation of vectors along its edges (LightGCN; He et al., SIGIR
//! 2020, section 3.1).
//!
//! A node is a row of an embedding table, so there are two sides of nodes, and every edge joins a user's row with an
//! item's row. With `Â = D^-½ A D^-½`, in which `A` has no self-loops, layer k + 1 is `Â` times layer k. A row without
//! edges is 0 in every layer but the first. `Â` is symmetric, so the backward pass is the same product.
//!
//! # Memory
//! Each edge is held twice, in 4 bytes. A weight is the product of a factor of either node, so it is not held. No matrix of
//! nodes by nodes is made.

use crate::lanes::{add, dispatched, multiply, prefetch};
use rayon::prelude::*;
use std::ops::Range;
use twotower_artifacts::Side;

/// A value for the users, and one for the items, in the order of [`Side`].
pub(crate) type Sides<T> = [T; 2];

/// The number of rows by which fetching is ahead of adding.
const AHEAD: usize = 8;

/// Rows of a block from which all nodes take before the next one.
const BLOCK: usize = 1 << 15;

/// The edges of the nodes of one side.
#[derive(Debug, Clone, PartialEq, Default)]
struct Adjacency {
    /// `[nodes + 1]` where the neighbours of each node begin.
    offsets: Vec<u32>,
    /// Nodes of the other side, ascending for each node.
    neighbours: Vec<u32>,
    /// `[nodes]` 1 / √degree, or 0 without edges.
    factors: Vec<f32>,
}

impl Adjacency {
    /// From the number of edges of each node and the other ends of all edges, by node.
    fn new(degrees: &[u32], neighbours: Vec<u32>) -> Self {
        let mut end = 0;
        let ends = degrees.iter().map(|degree| {
            end += degree;
            end
        });
        let offsets = std::iter::once(0).chain(ends).collect();
        let factor = |degree: &u32| if *degree == 0 { 0.0 } else { 1.0 / f64::from(*degree).sqrt() as f32 };
        Self { offsets, neighbours, factors: degrees.iter().map(factor).collect() }
    }

    fn edges(&self, node: usize) -> Range<usize> {
        self.offsets[node] as usize..self.offsets[node + 1] as usize
    }

    /// For each node, its factor times the sum of its neighbours' rows of `from`. The sum is made in blocks of `block`
    /// rows of `from`, of which each stays in the cache while all nodes take from it.
    fn gather(&self, from: &[f32], dim: usize, block: usize, next: &mut Vec<u32>, to: &mut [f32]) {
        let sources = from.len() / dim;
        next.clear();
        next.extend_from_slice(&self.offsets[..self.factors.len()]);
        for first in (0..sources.max(1)).step_by(block) {
            let (end, is_last) = (first + block, first + block >= sources);
            let rows = to.par_chunks_mut(dim).zip(next.par_iter_mut()).with_min_len(16).enumerate();
            rows.for_each(|(node, (sum, next))| {
                if first == 0 {
                    sum.fill(0.0);
                }
                let left = &self.neighbours[*next as usize..self.offsets[node + 1] as usize];
                let count = if is_last { left.len() } else { left.partition_point(|row| (*row as usize) < end) };
                add_rows(sum, from, left, count);
                *next += count as u32;
                if is_last {
                    multiply(sum, self.factors[node]);
                }
            });
        }
    }
}

dispatched! {
    /// Adds the first `count` of some rows of `source` to `sum`, in order. Rows are as wide as the sum.
    fn add_rows(sum: &mut [f32], source: &[f32], rows: &[u32], count: usize) {
        let width = sum.len();
        let mut offset = 0;
        while offset < width {
            // Runs of 64 and 16 floats stay in registers over all rows.
            let (sum, source) = (&mut sum[offset..], &source[offset..]);
            offset += match width - offset {
                64.. => add_run::<64>(sum, source, width, rows, count),
                16.. => add_run::<16>(sum, source, width, rows, count),
                _ => add_run::<1>(sum, source, width, rows, count),
            };
        }
    }
}

/// Adds a run of the rows' values, and asks for those of later rows meanwhile.
#[inline(always)]
fn add_run<const RUN: usize>(sum: &mut [f32], source: &[f32], width: usize, rows: &[u32], count: usize) -> usize {
    let mut total = [0.0f32; RUN];
    total.copy_from_slice(&sum[..RUN]);
    for (place, row) in rows[..count].iter().enumerate() {
        if let Some(later) = rows.get(place + AHEAD) {
            prefetch(&source[*later as usize * width..][..RUN]);
        }
        let from = &source[*row as usize * width..][..RUN];
        for i in 0..RUN {
            total[i] += from[i];
        }
    }
    sum[..RUN].copy_from_slice(&total);
    RUN
}

/// Who took what.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Graph {
    sides: Sides<Adjacency>,
}

impl Graph {
    /// The graph with these edges, each a user and an item, ascending and distinct. `nodes` is the number of users and
    /// of items. There are fewer than 2^32 edges.
    pub fn new(nodes: Sides<usize>, edges: &[(u32, u32)]) -> Self {
        let mut degrees = nodes.map(|nodes| vec![0; nodes]);
        for (user, item) in edges {
            degrees[0][*user as usize] += 1;
            degrees[1][*item as usize] += 1;
        }
        let [of_users, of_items] = degrees;
        let users = Adjacency::new(&of_users, edges.iter().map(|(_, item)| *item).collect());
        let mut items = Adjacency::new(&of_items, vec![0; edges.len()]);
        let mut next = items.offsets.clone();
        for (user, item) in edges {
            let place = &mut next[*item as usize];
            items.neighbours[*place as usize] = *user;
            *place += 1;
        }
        Self { sides: [users, items] }
    }

    /// The edges of a user's node, by their places among all edges.
    pub fn edges_of(&self, user: u32) -> Range<usize> {
        self.sides[0].edges(user as usize)
    }

    /// The number of edges of a node.
    pub fn degree(&self, side: Side, node: usize) -> usize {
        self.sides[side as usize].edges(node).len()
    }

    /// The number of nodes of each side.
    pub fn nodes(&self) -> Sides<usize> {
        self.sides.each_ref().map(|side| side.factors.len())
    }

    /// The neighbours of a node, which are nodes of the other side, ascending.
    pub fn neighbours(&self, side: Side, node: usize) -> &[u32] {
        let own = &self.sides[side as usize];
        &own.neighbours[own.edges(node)]
    }

    /// `to = Â from`, for vectors of `dim` numbers. The sum for a node is made in the order of its neighbours, whatever the
    /// threads.
    pub fn propagate(&self, dim: usize, from: Sides<&[f32]>, scratch: &mut Scratch, to: &mut Sides<Vec<f32>>) {
        let Scratch { scaled, next } = scratch;
        for (side, to) in to.iter_mut().enumerate() {
            let (mine, other, from) = (&self.sides[side], &self.sides[1 - side], from[1 - side]);
            // Neighbours are scaled once, and not once for each edge.
            scaled.resize(from.len(), 0.0);
            let rows = scaled.par_chunks_mut(dim).zip(from.par_chunks(dim)).zip(&other.factors).with_min_len(256);
            rows.for_each(|((scaled, from), factor)| {
                scaled.copy_from_slice(from);
                multiply(scaled, *factor);
            });
            to.resize(mine.factors.len() * dim, 0.0);
            mine.gather(scaled, dim, BLOCK, next, to);
        }
    }
}

/// What a propagation needs in between.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Vectors of one side, times their nodes' factors.
    scaled: Vec<f32>,
    /// The next neighbour of each node that is to be added.
    next: Vec<u32>,
}

/// The layers of a forward pass, and what the backward pass needs. It is reused between steps.
#[derive(Debug, Default)]
pub(crate) struct Propagation {
    /// Layers 1 to K.
    pub layers: Vec<Sides<Vec<f32>>>,
    sums: Sides<Vec<f32>>,
    next: Sides<Vec<f32>>,
    scratch: Scratch,
}

/// Numbers that are added up together.
const RUN: usize = 1 << 14;

/// `to = (to + Σ from) / count`.
fn mean(to: &mut [f32], from: &[&[f32]], count: usize) {
    to.par_chunks_mut(RUN).enumerate().for_each(|(run, to)| {
        from.iter().for_each(|from| add(to, &from[run * RUN..][..to.len()]));
        multiply(to, 1.0 / count as f32);
    });
}

impl Propagation {
    /// Computes `count` layers beyond `first`, and writes the mean of all layers, with the first one, to `out`.
    pub fn forward(&mut self, graph: &Graph, dim: usize, first: Sides<&[f32]>, count: usize, out: Sides<&mut [f32]>) {
        self.layers.resize_with(count, Default::default);
        for layer in 0..count {
            let (before, after) = self.layers.split_at_mut(layer);
            let from = before.last().map_or(first, views);
            graph.propagate(dim, from, &mut self.scratch, &mut after[0]);
        }
        for (side, out) in out.into_iter().enumerate() {
            out.copy_from_slice(first[side]);
            let layers: Vec<&[f32]> = self.layers.iter().map(|layer| &layer[side][..]).collect();
            mean(out, &layers, count + 1);
        }
    }

    /// The gradient of the first layer, given that of the mean of all layers.
    ///
    /// `Σ_k Â^k d / (K + 1)` is summed by Horner's rule, from the last layer to the first. The gradient of a term that
    /// reads a single layer is to be added to the sum when that layer's turn comes.
    pub fn backward(&mut self, graph: &Graph, dim: usize, d_mean: Sides<&[f32]>) -> Sides<&[f32]> {
        let Self { layers, sums, next, scratch } = self;
        for (sum, d) in sums.iter_mut().zip(d_mean) {
            sum.clear();
            sum.extend_from_slice(d);
        }
        let count = layers.len() + 1;
        for layer in (0..layers.len()).rev() {
            graph.propagate(dim, views(sums), scratch, next);
            std::mem::swap(sums, next);
            let divisor = if layer == 0 { count } else { 1 };
            sums.iter_mut().zip(d_mean).for_each(|(sum, d)| mean(sum, &[d], divisor));
        }
        views(sums)
    }
}

fn views(sides: &Sides<Vec<f32>>) -> Sides<&[f32]> {
    sides.each_ref().map(|side| &side[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A graph of which some users and items have no edges, and one item has most users.
    fn graph(nodes: Sides<usize>, seed: u64) -> (Graph, Vec<(u32, u32)>) {
        let mut rng = Rng::at(seed, &[]);
        let mut edges: Vec<(u32, u32)> = (0..nodes[0] * 3)
            .map(|_| (rng.below(nodes[0]), rng.below(nodes[1])))
            .filter(|(user, item)| user % 7 != 3 && item % 5 != 2)
            .map(|(user, item)| (user as u32, item as u32))
            .collect();
        edges.extend((0..nodes[0] as u32).filter(|user| user % 7 != 3).map(|user| (user, 1)));
        edges.sort_unstable();
        edges.dedup();
        (Graph::new(nodes, &edges), edges)
    }

    fn vectors(nodes: Sides<usize>, dim: usize, seed: u64) -> Sides<Vec<f32>> {
        let mut rng = Rng::at(seed, &[1]);
        nodes.map(|nodes| (0..nodes * dim).map(|_| rng.normal() as f32).collect())
    }

    /// `Â` as a dense matrix of all nodes, users first, by its definition.
    fn dense(nodes: Sides<usize>, edges: &[(u32, u32)]) -> Vec<Vec<f64>> {
        let all = nodes[0] + nodes[1];
        let mut matrix = vec![vec![0.0f64; all]; all];
        for (user, item) in edges {
            let (user, item) = (*user as usize, nodes[0] + *item as usize);
            matrix[user][item] = 1.0;
            matrix[item][user] = 1.0;
        }
        let degrees: Vec<f64> = matrix.iter().map(|row| row.iter().sum()).collect();
        for (a, row) in matrix.iter_mut().enumerate() {
            for (b, value) in row.iter_mut().enumerate().filter(|(_, value)| **value > 0.0) {
                *value /= (degrees[a] * degrees[b]).sqrt();
            }
        }
        matrix
    }

    fn product(matrix: &[Vec<f64>], x: &[f64], dim: usize) -> Vec<f64> {
        let row = |a: usize, i: usize| matrix[a].iter().enumerate().map(|(b, w)| w * x[b * dim + i]).sum();
        (0..matrix.len()).flat_map(|a| (0..dim).map(move |i| (a, i))).map(|(a, i)| row(a, i)).collect()
    }

    /// The mean of the powers of `Â` times `x`.
    fn mean_of_powers(matrix: &[Vec<f64>], x: &[f64], dim: usize, layers: usize) -> Vec<f64> {
        let (mut power, mut sum) = (x.to_vec(), x.to_vec());
        for _ in 0..layers {
            power = product(matrix, &power, dim);
            sum.iter_mut().zip(&power).for_each(|(sum, x)| *sum += x);
        }
        sum.iter().map(|sum| sum / (layers + 1) as f64).collect()
    }

    fn wide(sides: &Sides<Vec<f32>>) -> Vec<f64> {
        sides.iter().flatten().map(|x| f64::from(*x)).collect()
    }

    fn forward(graph: &Graph, dim: usize, first: &Sides<Vec<f32>>, layers: usize) -> (Propagation, Sides<Vec<f32>>) {
        let (mut propagation, mut out) = (Propagation::default(), first.each_ref().map(|side| vec![0.0; side.len()]));
        let [users, items] = &mut out;
        propagation.forward(graph, dim, views(first), layers, [users, items]);
        (propagation, out)
    }

    #[test]
    fn propagation_equals_dense_algebra_and_nodes_without_edges_keep_their_share_of_the_first_layer() {
        for (nodes, dim) in [([3, 4], 5), ([40, 23], 8), ([90, 31], 67)] {
            let (graph, edges) = graph(nodes, 3);
            let degrees = |side: Side| (0..nodes[side as usize]).map(|node| graph.degree(side, node)).sum::<usize>();
            assert_eq!([degrees(Side::User), degrees(Side::Item)], [edges.len(); 2]);
            let matrix = dense(nodes, &edges);
            let first = vectors(nodes, dim, 4);
            for layers in [0, 1, 3] {
                let (propagation, found) = forward(&graph, dim, &first, layers);
                let expected = mean_of_powers(&matrix, &wide(&first), dim, layers);
                let worst = wide(&found).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 2e-6, "{nodes:?}, {layers} layers: {worst}");
                let mut power = wide(&first);
                for layer in &propagation.layers {
                    power = product(&matrix, &power, dim);
                    assert!(wide(layer).iter().zip(&power).all(|(a, b)| (a - b).abs() < 2e-6));
                }
                let alone = (0..nodes[0]).filter(|user| graph.degree(Side::User, *user) == 0);
                for user in alone {
                    let of = |sides: &Sides<Vec<f32>>| sides[0][user * dim..][..dim].to_vec();
                    let share = 1.0 / (layers + 1) as f32;
                    assert!(of(&found).iter().zip(of(&first)).all(|(a, b)| (a - share * b).abs() < 1e-7));
                }
            }
        }
    }

    #[test]
    fn the_backward_pass_is_the_transposed_forward_pass() {
        let (nodes, dim) = ([50, 21], 6);
        let (graph, edges) = graph(nodes, 5);
        let (first, d_mean) = (vectors(nodes, dim, 6), vectors(nodes, dim, 7));
        for layers in [0, 1, 2, 4] {
            let (mut propagation, _) = forward(&graph, dim, &first, layers);
            let found = propagation.backward(&graph, dim, views(&d_mean)).map(<[f32]>::to_vec);
            // The matrix of the forward pass is symmetric.
            let expected = mean_of_powers(&dense(nodes, &edges), &wide(&d_mean), dim, layers);
            assert!(wide(&found).iter().zip(&expected).all(|(a, b)| (a - b).abs() < 2e-6), "{layers}");
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_blocks() {
        let (nodes, dim) = ([700, 90], 83);
        let (graph, _) = graph(nodes, 11);
        let from = vectors(nodes, dim, 12);
        let gathered = |block: usize| {
            let mut to = vec![f32::NAN; nodes[1] * dim];
            graph.sides[1].gather(&from[0], dim, block, &mut Vec::new(), &mut to);
            to.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let whole = gathered(BLOCK);
        assert!([1, 7, 64, 350, 699, 700, 701].iter().all(|block| gathered(*block) == whole));
    }

    #[test]
    fn the_bits_do_not_depend_on_threads_nor_on_an_earlier_pass() {
        let (nodes, dim) = ([3000, 400], 16);
        let (graph, _) = graph(nodes, 8);
        let (first, other) = (vectors(nodes, dim, 9), vectors(nodes, dim, 10));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut propagation, mut out) = forward(&graph, dim, &other, 4);
                let [users, items] = &mut out;
                propagation.forward(&graph, dim, views(&first), 3, [users, items]);
                let gradient = propagation.backward(&graph, dim, views(&other)).map(<[f32]>::to_vec);
                [out, gradient].map(|sides| sides.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            })
        };
        let (one, three) = (run(1), run(3));
        assert!(one == three);
        let (_, out) = forward(&graph, dim, &first, 3);
        assert!(out.concat().iter().zip(&one[0]).all(|(x, bits)| x.to_bits() == *bits));
    }
}
