//! The distances of pairs of subgraphs, their losses, and the gradients of the nodes' vectors.

use super::plan::{Matrix, Solver};
use super::subgraphs::{Nodes, Subgraphs};
use super::{Logit, TransportConfig};
use crate::lanes::{add, add_scaled, dot};
use crate::losses::{sigmoid, softplus};
use rayon::prelude::*;

/// The share of the range of exponentials, counted from the lowest, that costs nothing.
const FREE: f64 = 0.1;

/// What distances are divided by before they become logits: Wasserstein's, and Gromov-Wasserstein's.
const SCALES: [f64; 2] = [0.01, 0.1];

/// Vectors of a pair whose gradients are kept apart: those of a subgraph, those made for it, and both of its partner.
const PARTS: usize = 4;

/// A cost `relu(E - θ)` with `E = exp(-s / τ)` of similarities s, in which `θ = min E + FREE (max E - min E)`.
#[derive(Debug, Default)]
struct Cost {
    exponentials: Matrix,
    cost: Matrix,
    lowest: (usize, usize),
    highest: (usize, usize),
}

impl Cost {
    fn fill(&mut self, (rows, cols): (usize, usize), temperature: f64, similarity: impl Fn(usize, usize) -> f64) {
        let Self { exponentials, cost, lowest, highest } = self;
        exponentials.fill(rows, cols, |a, b| (-similarity(a, b) / temperature).exp());
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for a in 0..rows {
            for (b, e) in exponentials.row(a).iter().enumerate() {
                if *e < low {
                    (low, *lowest) = (*e, (a, b));
                }
                if *e > high {
                    (high, *highest) = (*e, (a, b));
                }
            }
        }
        let threshold = low + FREE * (high - low);
        cost.fill(rows, cols, |a, b| (exponentials.row(a)[b] - threshold).max(0.0));
    }

    /// Turns the gradient of the cost into that of the similarities.
    fn backward(&self, temperature: f64, gradient: &mut Matrix) {
        let Self { exponentials, cost, lowest, highest } = self;
        let mut d_threshold = 0.0;
        for a in 0..cost.rows {
            for (d, cost) in gradient.row_mut(a).iter_mut().zip(cost.row(a)) {
                *d = if *cost > 0.0 { *d } else { 0.0 };
                d_threshold -= *d;
            }
        }
        gradient.row_mut(lowest.0)[lowest.1] += (1.0 - FREE) * d_threshold;
        gradient.row_mut(highest.0)[highest.1] += FREE * d_threshold;
        for a in 0..cost.rows {
            let row = gradient.row_mut(a).iter_mut().zip(exponentials.row(a));
            row.for_each(|(d, e)| *d *= -e / temperature);
        }
    }
}

/// The binary cross-entropy of a pair at a distance, and its derivative by the distance.
fn loss(logit: Logit, distance: f64, scale: f64, is_own: bool) -> (f64, f64) {
    let (z, slope) = match logit {
        Logit::Exponential => {
            let z = (-distance / scale).exp();
            (z, -z / scale)
        }
        Logit::Log => (-distance / scale, -1.0 / scale),
    };
    if is_own { (softplus(-z), -sigmoid(-z) * slope) } else { (softplus(z), sigmoid(z) * slope) }
}

/// What a pair needs. It is reused between pairs, and then allocates nothing.
#[derive(Debug, Default)]
struct Scratch {
    solver: Solver,
    between: Cost,
    edges: Cost,
    within: Cost,
    gradient: Matrix,
}

/// The gradients of all pairs. They are reused between steps.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// `[subgraphs, PARTS, room, dim]`.
    gradients: Vec<f32>,
    /// The sums of the losses of each subgraph's pairs, by Wasserstein's and by Gromov-Wasserstein's distance.
    losses: Vec<[f64; 2]>,
}

/// Rows of vectors by the nodes of a subgraph.
#[derive(Clone, Copy)]
struct Rows<'a> {
    vectors: &'a [f32],
    slots: &'a [u32],
    nodes: &'a [u32],
    dim: usize,
}

impl<'a> Rows<'a> {
    fn len(&self) -> usize {
        self.nodes.len()
    }

    fn row(&self, place: usize) -> &'a [f32] {
        let slot = self.slots[self.nodes[place] as usize] as usize;
        &self.vectors[slot * self.dim..][..self.dim]
    }

    fn similarity(&self, other: &Self) -> impl Fn(usize, usize) -> f64 {
        |a, b| f64::from(dot(self.row(a), other.row(b)))
    }
}

/// `to += G from`, or `to += Gᵀ from`: the gradients of rows, given those of their inner products with other rows.
fn spread(gradient: &Matrix, turned: bool, from: Rows<'_>, to: &mut [f32]) {
    for a in 0..gradient.rows {
        for (b, d) in gradient.row(a).iter().enumerate().filter(|(_, d)| **d != 0.0) {
            let (into, of) = if turned { (b, a) } else { (a, b) };
            add_scaled(&mut to[into * from.dim..][..from.dim], *d as f32, from.row(of));
        }
    }
}

impl Scratch {
    /// The losses of a pair of a subgraph with other vectors. Adds the gradients of their weighted sum to those of both,
    /// times `share`. The edges of the subgraph have been filled in.
    fn pair(
        &mut self,
        config: &TransportConfig,
        [x, y]: [Rows<'_>; 2],
        (is_own, share): (bool, f64),
        [d_x, d_y]: [&mut [f32]; 2],
    ) -> [f64; 2] {
        let Self { solver, between, edges, within, gradient } = self;
        let temperature = config.temperature;
        let mut losses = [0.0; 2];
        if config.weight > 0.0 {
            between.fill((x.len(), y.len()), temperature, x.similarity(&y));
            let distance = solver.wasserstein(&between.cost);
            let (value, slope) = loss(config.logit, distance, SCALES[0], is_own);
            losses[0] = value;
            let slope = slope * config.weight * share;
            gradient.fill(x.len(), y.len(), |a, b| slope * solver.plan.row(a)[b]);
            between.backward(temperature, gradient);
            spread(gradient, false, y, d_x);
            spread(gradient, true, x, d_y);
        }
        if config.gromov_weight > 0.0 {
            within.fill((y.len(), y.len()), temperature, y.similarity(&y));
            let distance = solver.gromov_wasserstein(&edges.cost, &within.cost);
            let (value, slope) = loss(config.logit, distance, SCALES[1], is_own);
            losses[1] = value;
            let slope = slope * config.gromov_weight * share;
            solver.gromov_gradient(&within.cost, slope, gradient);
            within.backward(temperature, gradient);
            spread(gradient, false, y, d_y);
            spread(gradient, true, y, d_y);
        }
        losses
    }
}

impl Pairs {
    /// The means of the losses of all pairs, by Wasserstein's and by Gromov-Wasserstein's distance. `vectors` are of length
    /// 1, `[distinct nodes, dim]`: those of the nodes, and those made for them.
    pub fn learn(
        &mut self,
        config: &TransportConfig,
        nodes: &Nodes<'_>,
        subgraphs: &Subgraphs,
        vectors: [&[f32]; 2],
    ) -> [f64; 2] {
        let (dim, part) = (nodes.dim, config.nodes * nodes.dim);
        let pairs = if subgraphs.len() > 1 { 3 } else { 1 } * subgraphs.len();
        let share = 1.0 / pairs.max(1) as f64;
        self.gradients.clear();
        self.gradients.resize(subgraphs.len() * PARTS * part, 0.0);
        self.losses.resize(subgraphs.len(), [0.0; 2]);
        let all = self.gradients.par_chunks_mut(PARTS * part).zip(&mut self.losses).enumerate().with_min_len(4);
        all.for_each_init(Scratch::default, |scratch, (subgraph, (gradients, losses))| {
            let partner = subgraphs.partners[subgraph];
            let rows = |of: usize| {
                vectors.map(|vectors| Rows { vectors, slots: &subgraphs.slots, nodes: subgraphs.nodes_of(of), dim })
            };
            let ([own, own_made], [other, other_made]) = (rows(subgraph), rows(partner));
            let node = |place: usize| own.nodes[place] as usize;
            let is_near = |a: usize, b: usize| a == b || nodes.are_joined(node(a), node(b));
            let near = |a: usize, b: usize| f64::from(u8::from(is_near(a, b)));
            scratch.edges.fill((own.len(), own.len()), config.temperature, near);
            let (d_own, rest) = gradients.split_at_mut(part);
            let with = [(own_made, true), (other, false), (other_made, false)];
            *losses = [0.0; 2];
            for ((y, is_own), d_y) in with.into_iter().zip(rest.chunks_exact_mut(part)) {
                if is_own || partner != subgraph {
                    let found = scratch.pair(config, [own, y], (is_own, share), [&mut *d_own, d_y]);
                    losses.iter_mut().zip(found).for_each(|(sum, loss)| *sum += loss);
                }
            }
        });
        let sum = |distance: usize| self.losses.iter().map(|losses| losses[distance]).sum::<f64>();
        [share * sum(0), share * sum(1)]
    }

    /// Fills the gradients of the vectors of length 1.
    pub fn gather(&self, config: &TransportConfig, subgraphs: &Subgraphs, dim: usize, out: [&mut [f32]; 2]) {
        let part = config.nodes * dim;
        let row = |subgraph: usize, number: usize, place: usize| {
            &self.gradients[(subgraph * PARTS + number) * part + place * dim..][..dim]
        };
        let [of_nodes, of_made] = out.map(|out| out.par_chunks_mut(dim));
        of_nodes.zip(of_made).enumerate().with_min_len(16).for_each(|(slot, (of_node, of_made))| {
            of_node.fill(0.0);
            of_made.fill(0.0);
            for (subgraph, place) in subgraphs.places_of(slot) {
                let other = subgraphs.partner_of[subgraph];
                add(of_node, row(subgraph, 0, place));
                add(of_made, row(subgraph, 1, place));
                add(of_node, row(other, 2, place));
                add(of_made, row(other, 3, place));
            }
        });
    }
}
