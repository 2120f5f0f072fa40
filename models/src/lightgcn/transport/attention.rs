//! Vectors that a graph attention layer makes of each node's neighbours (Veličković et al., ICLR 2018, section 2.1): one
//! head, without self-loops, and then a ReLU.
//!
//! `z_g(v) = relu(Σ_u α_vu W z_u + b)`, in which u are the neighbours of v and
//! `α_vu = softmax_u(leaky(⟨a_s, W z_u⟩ + ⟨a_t, W z_v⟩))`. A node without neighbours gets zeros.
//!
//! # Cost
//! `⟨a, W z⟩` is `⟨Wᵀ a, z⟩`, and W is multiplied with the mean of the neighbours, so an edge costs one multiplication of
//! its weight with a vector. Only wanted nodes are computed. In the backward pass every node gathers from the wanted ones
//! among its neighbours, whose weights it computes anew, so nothing is kept for an edge and no two threads write to one
//! vector.

use super::subgraphs::{NONE, Nodes, Subgraphs};
use crate::graph::Sides;
use crate::lanes::{add, add_scaled, dot, exp_and_sum, largest};
use crate::matmul::{Operand, matmul};
use crate::params::Parameters;
use crate::rng::Rng;
use crate::tower::Layer;
use rayon::prelude::*;

/// The slope of the leaky ReLU below 0.
const SLOPE: f32 = 0.2;

/// Rows of a tile of a product.
const TILE: usize = 64;

/// Rows that are summed up together.
const RUN: usize = 1024;

/// The layer, as the groups of its parameters.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    weight: usize,
    bias: usize,
    /// `a_s` and `a_t`.
    of_neighbours: usize,
    of_itself: usize,
}

/// What is known of the weights of a wanted node's neighbours.
#[derive(Debug, Clone, Copy, Default)]
struct Weights {
    /// The node's own part of all logits.
    own: f32,
    /// The largest logit.
    top: f32,
    /// The sum of exponentials.
    sum: f32,
    /// The sum of the weights whose logits are above 0.
    positive: f32,
    /// `Σ_u α_vu ∂L/∂α_vu`.
    mean: f32,
    /// The gradient of `own`.
    d_own: f32,
}

/// What the layer keeps between its passes. It is reused between steps.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// `Wᵀ a_s` and `Wᵀ a_t`.
    keys: [Vec<f32>; 2],
    /// For each node of the graph, its part of the logits as a neighbour.
    logits: Vec<f32>,
    weights: Vec<Weights>,
    /// `[wanted, dim]` means of neighbours, and what those with logits above 0 are of them.
    means: Vec<f32>,
    positive: Vec<f32>,
    /// `[wanted, dim]` the vectors that are made.
    pub made: Vec<f32>,
    /// Their gradients, which are to be filled in.
    pub d_made: Vec<f32>,
    d_means: Vec<f32>,
    d_logits: Vec<f32>,
    parts: Vec<f32>,
    d_key: Vec<f32>,
}

fn leaky(x: f32) -> f32 {
    if x > 0.0 { x } else { SLOPE * x }
}

impl Attention {
    /// Adds the parameters of a layer for vectors of `dim` numbers: weights uniform in ±√(6 / (input + output)) (Glorot and
    /// Bengio, AISTATS 2010), bias 0.
    pub fn new(dim: usize, parameters: &mut Parameters, draw: impl Fn(u64) -> Rng) -> Self {
        let layer = parameters.add_linear("transport", dim, dim, draw(0));
        let Layer::Linear { weight, bias } = layer else { unreachable!("it was just added") };
        let bound = (6.0 / (1 + dim) as f64).sqrt();
        let [of_neighbours, of_itself] = [(1, "of_neighbours"), (2, "of_itself")].map(|(number, name)| {
            let mut rng = draw(number);
            let values = (0..dim).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect();
            parameters.add_dense(format!("transport/{name}"), 1, dim, true, values)
        });
        Self { weight, bias, of_neighbours, of_itself }
    }

    /// Makes the vectors of the distinct nodes of subgraphs.
    pub fn forward(&self, parameters: &Parameters, nodes: &Nodes<'_>, wanted: &Subgraphs, work: &mut Work) {
        let Work { keys, logits, weights, means, positive, made, .. } = work;
        let (dim, group) = (nodes.dim, |group: usize| &parameters.dense[group].values[..]);
        let weight = group(self.weight);
        for (key, of) in keys.iter_mut().zip([self.of_neighbours, self.of_itself]) {
            key.clear();
            key.resize(dim, 0.0);
            group(of).iter().zip(weight.chunks_exact(dim)).for_each(|(a, row)| add_scaled(key, *a, row));
        }
        logits.resize(nodes.count(), 0.0);
        let all = logits.par_iter_mut().enumerate().with_min_len(RUN);
        all.for_each(|(node, logit)| *logit = dot(nodes.vector(node), &keys[0]));

        let count = wanted.distinct.len();
        weights.resize(count, Weights::default());
        for rows in [&mut *means, positive, made] {
            rows.clear();
            rows.resize(count * dim, 0.0);
        }
        let rows = means.par_chunks_mut(dim).zip(positive.par_chunks_mut(dim)).zip(&mut *weights);
        rows.zip(&wanted.distinct).with_min_len(8).for_each_init(
            Vec::new,
            |row, (((mean, positive), weights), node)| {
                let node = *node as usize;
                *weights = Weights { own: dot(nodes.vector(node), &keys[1]), ..Weights::default() };
                row.clear();
                row.extend(nodes.neighbours(node).map(|other| leaky(logits[other] + weights.own)));
                if row.is_empty() {
                    return;
                }
                weights.top = largest(row);
                weights.sum = exp_and_sum(row, weights.top);
                for (share, other) in row.iter().zip(nodes.neighbours(node)) {
                    let share = share / weights.sum;
                    if logits[other] + weights.own > 0.0 {
                        weights.positive += share;
                        add_scaled(positive, share, nodes.vector(other));
                    } else {
                        add_scaled(mean, share, nodes.vector(other));
                    }
                }
                add(mean, positive);
            },
        );
        let (weight, bias) = (Operand::rows_of(weight, dim), group(self.bias));
        let tiles = made.par_chunks_mut(TILE * dim).zip(means.par_chunks(TILE * dim)).zip(weights.par_chunks(TILE));
        tiles.for_each(|((made, means), weights)| {
            matmul(made, false, 1.0, Operand::rows_of(means, dim), weight.transposed());
            for (row, weights) in made.chunks_exact_mut(dim).zip(weights) {
                let is_alone = weights.sum == 0.0;
                row.iter_mut().zip(bias).for_each(|(x, b)| *x = if is_alone { 0.0 } else { (*x + b).max(0.0) });
            }
        });
    }

    /// Adds the gradients of all nodes' vectors to `d_vectors`, and those of the parameters to `dense`, given `d_made`.
    /// `d_wanted`, `[wanted, dim]`, are further gradients of the vectors of the wanted nodes.
    pub fn backward(
        &self,
        parameters: &Parameters,
        nodes: &Nodes<'_>,
        wanted: &Subgraphs,
        work: &mut Work,
        d_wanted: &[f32],
        (d_vectors, dense): (Sides<&mut [f32]>, &mut [Vec<f32>]),
    ) {
        let Work { keys, logits, weights, means, positive, made, d_made, d_means, d_logits, parts, d_key } = work;
        let (dim, group) = (nodes.dim, |group: usize| &parameters.dense[group].values[..]);
        let weight = group(self.weight);
        d_made.iter_mut().zip(&*made).for_each(|(d, x)| *d = if *x > 0.0 { *d } else { 0.0 });
        let d_rows = Operand::rows_of(d_made, dim);
        matmul(&mut dense[self.weight], true, 1.0, d_rows.transposed(), Operand::rows_of(means, dim));
        d_made.chunks_exact(dim).for_each(|row| add(&mut dense[self.bias], row));
        d_means.resize(d_made.len(), 0.0);
        let tiles = d_means.par_chunks_mut(TILE * dim).zip(d_made.par_chunks(TILE * dim));
        tiles.for_each(|(d, d_made)| {
            matmul(d, false, 1.0, Operand::rows_of(d_made, dim), Operand::rows_of(weight, dim))
        });
        let rows = means.par_chunks(dim).zip(positive.par_chunks(dim)).zip(d_means.par_chunks(dim));
        rows.zip(&mut *weights).with_min_len(64).for_each(|(((mean, positive), d), weights)| {
            weights.mean = dot(d, mean);
            // The gradients of all logits of a softmax add up to 0, so those above 0 tell what the others are.
            weights.d_own = (1.0 - SLOPE) * (dot(d, positive) - weights.mean * weights.positive);
        });

        d_logits.resize(nodes.count(), 0.0);
        let (of_users, of_items) = d_logits.split_at_mut(nodes.users());
        let sides = d_vectors.into_iter().zip([of_users, of_items]).zip([0, nodes.users()]);
        for ((d_vectors, d_logits), first) in sides {
            let rows = d_vectors.par_chunks_mut(dim).zip(d_logits).enumerate().with_min_len(16);
            rows.for_each_init(<(Vec<u32>, Vec<f32>)>::default, |(slots, shares), (row, (d_vector, d_logit))| {
                let node = first + row;
                *d_logit = 0.0;
                slots.clear();
                let slots_of = nodes.neighbours(node).map(|other| wanted.slots[other]);
                slots.extend(slots_of.filter(|slot| *slot != NONE));
                if !slots.is_empty() {
                    let logit = |slot: u32| logits[node] + weights[slot as usize].own;
                    shares.clear();
                    shares.extend(slots.iter().map(|slot| leaky(logit(*slot)) - weights[*slot as usize].top));
                    exp_and_sum(shares, 0.0);
                    let vector = nodes.vector(node);
                    for (slot, share) in slots.iter().zip(&*shares) {
                        let weights = weights[*slot as usize];
                        let (share, d_mean) = (share / weights.sum, &d_means[*slot as usize * dim..][..dim]);
                        let slope = if logit(*slot) > 0.0 { 1.0 } else { SLOPE };
                        *d_logit += slope * share * (dot(d_mean, vector) - weights.mean);
                        add_scaled(d_vector, share, d_mean);
                    }
                    add_scaled(d_vector, *d_logit, &keys[0]);
                }
                let slot = wanted.slots[node];
                if slot != NONE {
                    add_scaled(d_vector, weights[slot as usize].d_own, &keys[1]);
                    add(d_vector, &d_wanted[slot as usize * dim..][..dim]);
                }
            });
        }

        // The keys are `Wᵀ a`.
        let mut of_key = |of: usize, d_key: &[f32]| {
            let rows = dense[self.weight].chunks_exact_mut(dim).zip(group(of));
            rows.for_each(|(row, a)| add_scaled(row, *a, d_key));
            let values = dense[of].iter_mut().zip(weight.chunks_exact(dim));
            values.for_each(|(d, row)| *d += dot(row, d_key));
        };
        weighted_sum((d_logits.len(), dim), |node| (d_logits[node], nodes.vector(node)), parts, d_key);
        of_key(self.of_neighbours, d_key);
        let own = |slot: usize| (weights[slot].d_own, nodes.vector(wanted.distinct[slot] as usize));
        weighted_sum((weights.len(), dim), own, parts, d_key);
        of_key(self.of_itself, d_key);
    }
}

/// `out = Σ weight * row` over some rows of `dim` numbers, in runs of a fixed length.
fn weighted_sum<'a>(
    (rows, dim): (usize, usize),
    row: impl Fn(usize) -> (f32, &'a [f32]) + Sync,
    parts: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    parts.clear();
    parts.resize(rows.div_ceil(RUN) * dim, 0.0);
    parts.par_chunks_mut(dim).enumerate().for_each(|(part, sum)| {
        for number in part * RUN..rows.min((part + 1) * RUN) {
            let (weight, values) = row(number);
            if weight != 0.0 {
                add_scaled(sum, weight, values);
            }
        }
    });
    out.clear();
    out.resize(dim, 0.0);
    parts.chunks_exact(dim).for_each(|part| add(out, part));
}
