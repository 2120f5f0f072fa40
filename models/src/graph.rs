//! The bipartite graph of users and items, and a step of vectors along its edges (LightGCN; He et al., SIGIR 2020, section
//! 3.1).
//!
//! A node is a row of an embedding table, so there are two sides of nodes, and every edge joins a user's row with an
//! item's row. With `Â = D^-½ A D^-½`, in which `A` has no self-loops, layer k + 1 is `Â` times layer k. A row without
//! edges is 0 in every layer but the first. `Â` is symmetric, so the backward pass is the same product.
//!
//! # Memory
//! Each edge is held twice, in 4 bytes. A weight is the product of a factor of either node, so it is not held. No matrix of
//! nodes by nodes is made.

use crate::lanes::{dispatched, multiply, prefetch};
use rayon::prelude::*;
use std::ops::Range;
use twotower_artifacts::Side;

/// A value for the users, and one for the items, in the order of [`Side`].
pub(crate) type Sides<T> = [T; 2];

/// The number of rows by which fetching is ahead of adding.
const AHEAD: usize = 8;

/// Rows of a block from which all nodes take before the next one.
const BLOCK: usize = 1 << 15;

/// To add a neighbour's row takes about as long as to ask this many neighbours whether theirs are zero.
const QUESTIONS: usize = 3;

/// Some nodes of a side.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    /// Whether it is among them, for each node of the side.
    has: Vec<bool>,
    list: Vec<u32>,
}

impl Nodes {
    /// None of `nodes` nodes.
    pub fn reset(&mut self, nodes: usize) {
        self.list.drain(..).for_each(|node| self.has[node as usize] = false);
        self.has.resize(nodes, false);
    }

    /// Adds a node, which may be there already.
    pub fn insert(&mut self, node: u32) {
        if !std::mem::replace(&mut self.has[node as usize], true) {
            self.list.push(node);
        }
    }

    /// Whether a node is among them.
    pub fn has(&self, node: usize) -> bool {
        self.has[node]
    }
}

/// The nodes to which a propagation is restricted. Without any, it is not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Among<'a> {
    /// Those that are computed. The vectors of all others stay as they are.
    pub wanted: Option<&'a Sides<Nodes>>,
    /// Those whose vectors are not zero. The vectors of all others are.
    pub nonzero: Option<&'a Sides<Nodes>>,
}

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

    /// Whether so few edges end in these nodes that it pays to look for those that do.
    fn is_few(&self, nodes: &Nodes) -> bool {
        let ends: usize = nodes.list.iter().map(|node| self.edges(*node as usize).len()).sum();
        ends.saturating_mul(QUESTIONS) < self.neighbours.len() * (QUESTIONS - 1)
    }

    /// For each wanted node, its factor times the sum of its neighbours' rows of `from`, or of those of them that are
    /// nonzero. The sum is made in blocks of `block` rows of `from`, of which each stays in the cache
    /// while all nodes take from it.
    fn gather(
        &self,
        (from, dim): (&[f32], usize),
        block: usize,
        (wanted, nonzero): (Option<&Nodes>, Option<&Nodes>),
        next: &mut Vec<u32>,
        to: &mut [f32],
    ) {
        let sources = from.len() / dim;
        next.clear();
        next.extend_from_slice(&self.offsets[..self.factors.len()]);
        for first in (0..sources.max(1)).step_by(block) {
            let (end, is_last) = (first + block, first + block >= sources);
            let rows = to.par_chunks_mut(dim).zip(next.par_iter_mut()).with_min_len(16).enumerate();
            rows.for_each(|(node, (sum, next))| {
                if wanted.is_some_and(|wanted| !wanted.has(node)) {
                    return;
                }
                if first == 0 {
                    sum.fill(0.0);
                }
                let left = &self.neighbours[*next as usize..self.offsets[node + 1] as usize];
                let count = if is_last { left.len() } else { left.partition_point(|row| (*row as usize) < end) };
                match nonzero {
                    None => add_rows(sum, from, left, count),
                    Some(nonzero) => add_rows_among(sum, from, &left[..count], nonzero),
                }
                *next += count as u32;
                if is_last {
                    multiply(sum, self.factors[node]);
                }
            });
        }
    }
}

/// Adds those of some rows of `source` that are nonzero to `sum`, in order.
fn add_rows_among(sum: &mut [f32], source: &[f32], rows: &[u32], nonzero: &Nodes) {
    const ROOM: usize = 256;
    let mut kept = [0; ROOM];
    for rows in rows.chunks(ROOM) {
        let mut count = 0;
        for row in rows {
            // There are no more than the array holds.
            kept[count % ROOM] = *row;
            count += usize::from(nonzero.has(*row as usize));
        }
        add_rows(sum, source, &kept, count);
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

    /// The graph without the edges that `drops` says, by their places among all edges, ascending. Degrees are those that
    /// are left.
    pub fn without(&self, drops: impl IntoIterator<Item = usize>) -> Self {
        let users = &self.sides[0];
        let mut drops = drops.into_iter().peekable();
        let edges = (0..users.factors.len()).flat_map(|user| users.edges(user).map(move |edge| (user as u32, edge)));
        let left = edges.filter(|(_, edge)| drops.next_if_eq(edge).is_none());
        Self::new(self.nodes(), &left.map(|(user, edge)| (user, users.neighbours[edge])).collect::<Vec<_>>())
    }

    /// The number of edges.
    pub fn edges(&self) -> usize {
        self.sides[0].neighbours.len()
    }

    /// The neighbours of a node, which are nodes of the other side, ascending.
    pub fn neighbours(&self, side: Side, node: usize) -> &[u32] {
        let own = &self.sides[side as usize];
        &own.neighbours[own.edges(node)]
    }

    /// `to = Â from`, for vectors of `dim` numbers. The sum for a node is made in the order of its neighbours, whatever the
    /// threads.
    pub fn propagate(
        &self,
        dim: usize,
        from: Sides<&[f32]>,
        among: Among<'_>,
        scratch: &mut Scratch,
        to: &mut Sides<Vec<f32>>,
    ) {
        let Scratch { scaled, next } = scratch;
        for (side, to) in to.iter_mut().enumerate() {
            let wanted = among.wanted.map(|nodes| &nodes[side]);
            let (mine, other, from) = (&self.sides[side], &self.sides[1 - side], from[1 - side]);
            let nonzero = among.nonzero.map(|nodes| &nodes[1 - side]).filter(|nodes| other.is_few(nodes));
            // Neighbours are scaled once, and not once for each edge.
            scaled.resize(from.len(), 0.0);
            let rows = scaled.par_chunks_mut(dim).zip(from.par_chunks(dim)).zip(&other.factors).with_min_len(256);
            rows.enumerate().for_each(|(node, ((scaled, from), factor))| {
                if nonzero.is_none_or(|nonzero| nonzero.has(node)) {
                    scaled.copy_from_slice(from);
                    multiply(scaled, *factor);
                }
            });
            to.resize(mine.factors.len() * dim, 0.0);
            mine.gather((scaled, dim), BLOCK, (wanted, nonzero), next, to);
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A graph of which some users and items have no edges, and one item has most users.
    pub(crate) fn graph(nodes: Sides<usize>, seed: u64) -> (Graph, Vec<(u32, u32)>) {
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

    pub(crate) fn vectors(nodes: Sides<usize>, dim: usize, seed: u64) -> Sides<Vec<f32>> {
        let mut rng = Rng::at(seed, &[1]);
        nodes.map(|nodes| (0..nodes * dim).map(|_| rng.normal() as f32).collect())
    }

    #[test]
    fn edges_and_degrees_are_those_that_were_given_or_are_left() {
        let nodes = [50, 21];
        let (graph, edges) = graph(nodes, 2);
        let degrees = |graph: &Graph, side: Side| -> usize {
            (0..nodes[side as usize]).map(|node| graph.degree(side, node)).sum()
        };
        assert_eq!([Side::User, Side::Item].map(|side| degrees(&graph, side)), [edges.len(); 2]);
        assert_eq!((graph.edges(), graph.nodes()), (edges.len(), nodes));
        let dropped = [0, 3, 4, edges.len() - 1];
        let left: Vec<(u32, u32)> =
            edges.iter().enumerate().filter(|(at, _)| !dropped.contains(at)).map(|(_, edge)| *edge).collect();
        assert_eq!(graph.without(dropped), Graph::new(nodes, &left));
        assert_eq!(graph.without([]), graph);
    }

    #[test]
    fn the_bits_do_not_depend_on_blocks_nor_on_what_is_known_to_be_zero() {
        let (nodes, dim) = ([700, 90], 83);
        let (graph, _) = graph(nodes, 11);
        let mut from = vectors(nodes, dim, 12);
        let mut nonzero = Nodes::default();
        nonzero.reset(nodes[0]);
        for node in 0..nodes[0] {
            match node % 3 {
                0 => from[0][node * dim..][..dim].fill(0.0),
                _ => nonzero.insert(node as u32),
            }
        }
        let gathered = |block: usize, nonzero: Option<&Nodes>| {
            let mut to = vec![f32::NAN; nodes[1] * dim];
            graph.sides[1].gather((&from[0], dim), block, (None, nonzero), &mut Vec::new(), &mut to);
            to.iter().map(|x| (x + 0.0).to_bits()).collect::<Vec<_>>()
        };
        let whole = gathered(BLOCK, None);
        for block in [1, 7, 64, 350, 699, 700, 701] {
            assert!(gathered(block, None) == whole && gathered(block, Some(&nonzero)) == whole, "{block}");
        }
    }
}
