//! Breadth-first subgraphs around drawn nodes.
//!
//! Users and items are one set of nodes, of which each row of either table is one, whether it has edges or not. Only those
//! of ids are drawn, not the rows of padding, missing and unknown values.

use crate::graph::{Graph, Sides};
use crate::model::Moment;
use crate::rng::Rng;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use twotower_artifacts::Side;
use twotower_artifacts::schema::FIRST_VALUE;

/// The purposes for which random numbers are drawn.
const CENTRES: u64 = 40;
const NEIGHBOURS: u64 = 41;
const PARTNERS: u64 = 42;

/// The graph with vectors of its nodes.
#[derive(Clone, Copy)]
pub(super) struct Nodes<'a> {
    pub graph: &'a Graph,
    pub vectors: Sides<&'a [f32]>,
    pub dim: usize,
}

impl<'a> Nodes<'a> {
    /// The number of users, whose nodes come first.
    pub fn users(&self) -> usize {
        self.graph.nodes()[0]
    }

    pub fn count(&self) -> usize {
        self.graph.nodes().iter().sum()
    }

    /// A node's side and row.
    fn place(&self, node: usize) -> (Side, usize) {
        match node.checked_sub(self.users()) {
            None => (Side::User, node),
            Some(item) => (Side::Item, item),
        }
    }

    /// A node's vector.
    pub fn vector(&self, node: usize) -> &'a [f32] {
        let (side, row) = self.place(node);
        &self.vectors[side as usize][row * self.dim..][..self.dim]
    }

    /// A node's neighbours.
    pub fn neighbours(&self, node: usize) -> impl ExactSizeIterator<Item = usize> + Clone + 'a {
        let (side, row) = self.place(node);
        let first = match side {
            Side::User => self.users(),
            Side::Item => 0,
        };
        self.graph.neighbours(side, row).iter().map(move |other| first + *other as usize)
    }

    /// Whether an edge joins two nodes.
    pub fn are_joined(&self, a: usize, b: usize) -> bool {
        let (user, item) = if a < b { (a, b) } else { (b, a) };
        match (self.place(user), self.place(item)) {
            ((Side::User, user), (Side::Item, item)) => {
                self.graph.neighbours(Side::User, user).binary_search(&(item as u32)).is_ok()
            }
            _ => false,
        }
    }
}

/// Marks a node that no subgraph holds.
pub(super) const NONE: u32 = u32::MAX;

/// The subgraphs of a step. They are reused between steps.
#[derive(Debug, Default)]
pub(super) struct Subgraphs {
    /// The most nodes of a subgraph.
    room: usize,
    /// `[subgraphs, room]` nodes, the centre first. What is beyond a subgraph's size means nothing.
    nodes: Vec<u32>,
    sizes: Vec<usize>,
    /// For each subgraph, another one; itself if there is no other.
    pub partners: Vec<usize>,
    /// For each subgraph, the one whose partner it is.
    pub partner_of: Vec<usize>,
    /// The nodes that subgraphs hold, each once.
    pub distinct: Vec<u32>,
    /// For each node of the graph, its place among the distinct ones, or [`NONE`].
    pub slots: Vec<u32>,
    /// Where the places of each distinct node begin.
    offsets: Vec<usize>,
    /// For each distinct node, all places that it has in subgraphs, as `subgraph * room + place`.
    places: Vec<usize>,
}

/// So many distinct numbers below `of`, each set of them with the same probability (Floyd; Bentley, CACM 30, 1987).
fn choose(count: usize, of: usize, rng: &mut Rng) -> Vec<usize> {
    let mut seen = FxHashSet::default();
    let first = of.saturating_sub(count);
    (first..of)
        .map(|last| {
            let drawn = rng.below(last + 1);
            let chosen = if seen.insert(drawn) { drawn } else { last };
            seen.insert(chosen);
            chosen
        })
        .collect()
}

impl Subgraphs {
    /// Draws up to `count` distinct centres and, for each, the first `room` nodes of a breadth-first search that visits the
    /// neighbours of each node in random order. A smaller component is taken as a whole.
    pub fn draw(&mut self, nodes: &Nodes<'_>, count: usize, room: usize, moment: Moment) {
        self.room = room;
        let ids = nodes.graph.nodes().map(|nodes| nodes.saturating_sub(FIRST_VALUE as usize));
        let mut rng = moment.of_step(CENTRES);
        let centres = choose(count, ids[0] + ids[1], &mut rng);
        let node = |id: usize| match id.checked_sub(ids[0]) {
            None => id + FIRST_VALUE as usize,
            Some(id) => nodes.users() + id + FIRST_VALUE as usize,
        };
        self.nodes.resize(centres.len() * room, 0);
        self.sizes.resize(centres.len(), 0);
        let key = moment.of_step(NEIGHBOURS).bits();
        let subgraphs = self.nodes.par_chunks_mut(room).zip(&mut self.sizes).zip(&centres).enumerate();
        subgraphs.with_min_len(8).for_each_init(Vec::new, |around, (number, ((found, size), centre))| {
            let rng = &mut Rng::at(key, &[number as u64]);
            *size = search(nodes, node(*centre), found, around, rng);
        });

        // A random cycle, so that none is its own partner.
        let mut order: Vec<usize> = (0..centres.len()).collect();
        moment.of_step(PARTNERS).shuffle(&mut order);
        self.partners.resize(order.len(), 0);
        self.partner_of.resize(order.len(), 0);
        for (at, subgraph) in order.iter().enumerate() {
            let partner = order[(at + 1) % order.len()];
            self.partners[*subgraph] = partner;
            self.partner_of[partner] = *subgraph;
        }
        self.index(nodes.count());
    }

    /// Finds the distinct nodes and their places.
    fn index(&mut self, count: usize) {
        let Self { room, nodes, sizes, distinct, slots, offsets, places, .. } = self;
        distinct.iter().for_each(|node| slots[*node as usize] = NONE);
        distinct.clear();
        slots.resize(count, NONE);
        let all = || sizes.iter().enumerate().flat_map(|(subgraph, size)| subgraph * *room..subgraph * *room + *size);
        offsets.clear();
        offsets.push(0);
        for node in all().map(|place| nodes[place]) {
            let slot = &mut slots[node as usize];
            if *slot == NONE {
                *slot = distinct.len() as u32;
                distinct.push(node);
                offsets.push(0);
            }
            offsets[*slot as usize + 1] += 1;
        }
        (1..offsets.len()).for_each(|slot| offsets[slot] += offsets[slot - 1]);
        places.resize(offsets[distinct.len()], 0);
        let mut next = offsets.clone();
        for place in all() {
            let next = &mut next[slots[nodes[place] as usize] as usize];
            places[*next] = place;
            *next += 1;
        }
    }

    /// The number of subgraphs.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// The nodes of a subgraph, the centre first.
    pub fn nodes_of(&self, subgraph: usize) -> &[u32] {
        &self.nodes[subgraph * self.room..][..self.sizes[subgraph]]
    }

    /// The subgraphs that hold a distinct node, and its place in each.
    pub fn places_of(&self, slot: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let places = &self.places[self.offsets[slot]..self.offsets[slot + 1]];
        places.iter().map(|place| (place / self.room, place % self.room))
    }
}

/// A breadth-first search that ends when `found` is full. Returns the number of nodes found.
fn search(nodes: &Nodes<'_>, centre: usize, found: &mut [u32], around: &mut Vec<u32>, rng: &mut Rng) -> usize {
    found[0] = centre as u32;
    let (mut size, mut next) = (1, 0);
    while next < size && size < found.len() {
        around.clear();
        around.extend(nodes.neighbours(found[next] as usize).map(|node| node as u32));
        next += 1;
        for at in 0..around.len() {
            let other = at + rng.below(around.len() - at);
            around.swap(at, other);
            if !found[..size].contains(&around[at]) {
                found[size] = around[at];
                size += 1;
                if size == found.len() {
                    return size;
                }
            }
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Rows 0 to 2 of either side belong to no id. User 3 has all items from 3 to 22; users 4 and 5 and item 23 are a
    /// component; users from 6 on and items from 24 on are alone.
    fn graph() -> Graph {
        let mut edges: Vec<(u32, u32)> = (3..23).map(|item| (3, item)).collect();
        edges.extend([(4, 23), (5, 23)]);
        Graph::new([10, 26], &edges)
    }

    fn nodes(graph: &Graph) -> Nodes<'_> {
        Nodes { graph, vectors: [&[], &[]], dim: 0 }
    }

    fn drawn(graph: &Graph, count: usize, room: usize, moment: Moment) -> Subgraphs {
        let mut subgraphs = Subgraphs::default();
        // What an earlier step drew does not matter.
        subgraphs.draw(&nodes(graph), 11, 7, Moment { seed: 5, epoch: 9, step: 1 });
        subgraphs.draw(&nodes(graph), count, room, moment);
        subgraphs
    }

    const MOMENT: Moment = Moment { seed: 1, epoch: 2, step: 3 };

    #[test]
    fn subgraphs_are_connected_of_distinct_nodes_and_as_large_as_their_component_allows() {
        let graph = graph();
        let subgraphs = drawn(&graph, 1000, 5, MOMENT);
        // All nodes of ids are centres.
        assert_eq!(subgraphs.len(), 7 + 23);
        let mut sizes = BTreeMap::<usize, usize>::new();
        let mut centres = BTreeSet::new();
        for subgraph in 0..subgraphs.len() {
            let found: Vec<usize> = subgraphs.nodes_of(subgraph).iter().map(|node| *node as usize).collect();
            *sizes.entry(found.len()).or_default() += 1;
            assert!(centres.insert(found[0]));
            assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
            for at in 1..found.len() {
                let joined = |before: &usize| nodes(&graph).neighbours(*before).any(|node| node == found[at]);
                assert!(found[..at].iter().any(joined), "{found:?}");
            }
        }
        assert!(centres.iter().all(|node| (3..10).contains(node) || (13..36).contains(node)));
        // User 3 and his items; the small component; and the rest.
        assert_eq!(sizes, [(1, 4 + 2), (3, 3), (5, 21)].into());
    }

    #[test]
    fn places_and_slots_agree_with_the_nodes_of_subgraphs() {
        let graph = graph();
        let subgraphs = drawn(&graph, 12, 6, MOMENT);
        let mut expected = BTreeMap::<u32, Vec<(usize, usize)>>::new();
        for subgraph in 0..subgraphs.len() {
            for (place, node) in subgraphs.nodes_of(subgraph).iter().enumerate() {
                expected.entry(*node).or_default().push((subgraph, place));
            }
        }
        assert_eq!(subgraphs.distinct.len(), expected.len());
        for (slot, node) in subgraphs.distinct.iter().enumerate() {
            assert_eq!(subgraphs.places_of(slot).collect::<Vec<_>>(), expected[node]);
        }
        for (node, slot) in subgraphs.slots.iter().enumerate() {
            match expected.contains_key(&(node as u32)) {
                true => assert_eq!(subgraphs.distinct[*slot as usize], node as u32),
                false => assert_eq!(*slot, NONE),
            }
        }
    }

    #[test]
    fn draws_depend_on_the_step_and_partners_are_a_cycle() {
        let graph = graph();
        let of = |subgraphs: &Subgraphs| -> Vec<Vec<u32>> {
            (0..subgraphs.len()).map(|subgraph| subgraphs.nodes_of(subgraph).to_vec()).collect()
        };
        let first = drawn(&graph, 9, 4, MOMENT);
        assert_eq!(of(&first), of(&drawn(&graph, 9, 4, MOMENT)));
        assert_ne!(of(&first), of(&drawn(&graph, 9, 4, Moment { step: 4, ..MOMENT })));
        let (mut at, mut seen) = (0, BTreeSet::new());
        while seen.insert(at) {
            at = first.partners[at];
        }
        assert_eq!((at, seen.len()), (0, 9));
        assert!((0..9).all(|subgraph| first.partner_of[first.partners[subgraph]] == subgraph));
        assert_eq!(drawn(&graph, 1, 4, MOMENT).partners, [0]);
    }

    #[test]
    fn every_set_of_centres_is_drawn_alike() {
        let mut counts = BTreeMap::<Vec<usize>, usize>::new();
        let mut rng = Rng::at(7, &[]);
        for _ in 0..20_000 {
            let mut chosen = choose(2, 5, &mut rng);
            chosen.sort_unstable();
            *counts.entry(chosen).or_default() += 1;
        }
        // Ten sets of 2000 each, within five standard deviations.
        assert!(counts.len() == 10 && counts.values().all(|count| count.abs_diff(2000) < 225), "{counts:?}");
        assert_eq!(choose(9, 3, &mut rng).into_iter().collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn edges_join_users_with_items_in_either_order() {
        let graph = graph();
        let nodes = nodes(&graph);
        for a in 0..36 {
            for b in 0..36 {
                assert_eq!(nodes.are_joined(a, b), nodes.neighbours(a).any(|node| node == b));
            }
        }
    }
}
