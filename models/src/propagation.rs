//! The propagation of vectors over a graph: all layers, their mean, and the way back of the gradients of any of them
//! (LightGCN; He et al., SIGIR 2020, section 3.1).
//!
//! Layer k + 1 is `Â` times layer k, plus noise if there is any (SimGCL; Yu et al., SIGIR 2022, section 3.2). Noise has
//! no gradient, since the sign of a number, on which alone it depends, is constant nearly everywhere. So what the gradient
//! of a layer adds to that of the first one is a power of `Â` times it, and all of them together are summed by Horner's
//! rule.
//!
//! # Memory
//! Each layer beyond the first, and three more vectors of all nodes. What terms of a loss read are few rows, so their
//! gradients are kept by rows.

use crate::graph::{Among, Graph, Nodes, Scratch, Sides};
use crate::lanes::{add, add_scaled, dot, multiply};
use crate::rng::Rng;
use rayon::prelude::*;
use twotower_artifacts::Side;

/// Vectors of a propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A layer. The first one is 0.
    Layer(usize),
    /// The mean of the layers, which is final.
    Mean,
}

/// How a propagation is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    /// The number of layers beyond the first one.
    pub layers: usize,
    /// Whether the first layer counts in the mean. If not, the mean of a node without edges, whose other layers are 0, is
    /// its first layer, divided by the number of layers that count.
    pub first_counts: bool,
    /// What is added to the layers beyond the first one.
    pub noise: Option<Noise>,
}

/// Noise in the orthant of what it is added to: a vector of uniform numbers, scaled to a norm, with the signs of the
/// vector to which it is added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Noise {
    /// The norm.
    pub eps: f32,
    /// The key of the random numbers, of which each row of each layer has its own.
    pub key: u64,
}

impl Noise {
    /// Adds noise to a row of a layer.
    fn perturb(&self, (layer, side, node): (usize, usize, usize), noise: &mut Vec<f32>, row: &mut [f32]) {
        /// 2^-24: of 64 random bits, 24 make a number, and 24 another one.
        const UNIT: f32 = 1.0 / (1 << 24) as f32;
        let mut rng = Rng::at(self.key, &[layer as u64, side as u64, node as u64]);
        noise.clear();
        while noise.len() < row.len() {
            let bits = rng.bits();
            noise.extend([bits >> 40, bits >> 8 & 0xff_ffff].map(|bits| bits as f32 * UNIT));
        }
        noise.truncate(row.len());
        let norm = dot(noise, noise).sqrt();
        let scale = if norm > 0.0 { self.eps / norm } else { 0.0 };
        for (x, noise) in row.iter_mut().zip(noise.iter()) {
            // The sign of 0 is 0.
            *x += if *x == 0.0 { 0.0 } else { (scale * noise).copysign(*x) };
        }
    }
}

impl Plan {
    /// The weight of each layer that counts in the mean, with which the final vector of a node without edges is its first
    /// layer.
    pub fn share(&self) -> f32 {
        1.0 / (self.layers + usize::from(self.counts_first())) as f32
    }

    fn counts_first(&self) -> bool {
        self.first_counts || self.layers == 0
    }
}

/// Gradients of some rows of a place. A row may be there more than once.
#[derive(Debug, Default)]
struct RowGradients {
    rows: Vec<u32>,
    values: Vec<f32>,
}

impl RowGradients {
    /// Adds `scale` times the gradients of those rows that are asked for to those of all rows.
    fn add_to(&self, dim: usize, scale: f32, is_asked: impl Fn(usize) -> bool, to: &mut [f32]) {
        for (row, values) in self.rows.iter().zip(self.values.chunks_exact(dim)) {
            if is_asked(*row as usize) {
                add_scaled(&mut to[*row as usize * dim..][..dim], scale, values);
            }
        }
    }
}

/// The gradients of rows of the layers beyond the first one, and of rows of the mean.
#[derive(Debug, Default)]
pub(crate) struct LayerGradients {
    layers: Vec<Sides<RowGradients>>,
    mean: Sides<RowGradients>,
}

impl LayerGradients {
    /// None, for a propagation of some layers beyond the first one.
    pub fn reset(&mut self, layers: usize) {
        self.layers.resize_with(layers, Default::default);
        for rows in self.layers.iter_mut().chain([&mut self.mean]).flatten() {
            rows.rows.clear();
            rows.values.clear();
        }
    }

    /// Adds the gradients of rows of a layer, counted from 1, or of the mean.
    ///
    /// # Panics
    /// When there is no such layer: a bug in the caller.
    pub fn add(&mut self, place: Place, side: Side, rows: &[u32], values: &[f32]) {
        let of = match place {
            Place::Layer(layer) => &mut self.layers[layer - 1],
            Place::Mean => &mut self.mean,
        };
        of[side as usize].rows.extend_from_slice(rows);
        of[side as usize].values.extend_from_slice(values);
    }
}

/// The layers of a forward pass, and what the backward pass needs. It is reused between steps.
#[derive(Debug, Default)]
pub(crate) struct Propagation {
    /// Layers 1 to K.
    pub layers: Vec<Sides<Vec<f32>>>,
    sums: Sides<Vec<f32>>,
    next: Sides<Vec<f32>>,
    touched: Sides<Nodes>,
    scratch: Scratch,
}

/// Rows that are computed together.
const ROWS: usize = 64;

impl Propagation {
    /// Computes the layers beyond `first`, and writes the mean to `out`.
    ///
    /// The last layer and the mean are computed for `wanted` nodes alone, if they are given. All other rows of them stay
    /// as they are.
    pub fn forward(
        &mut self,
        graph: &Graph,
        (first, dim): (Sides<&[f32]>, usize),
        plan: &Plan,
        wanted: Option<&Sides<Nodes>>,
        out: Sides<&mut [f32]>,
    ) {
        self.layers.resize_with(plan.layers, Default::default);
        for layer in 0..plan.layers {
            let (before, after) = self.layers.split_at_mut(layer);
            let from = before.last().map_or(first, views);
            let wanted = wanted.filter(|_| layer + 1 == plan.layers);
            graph.propagate(dim, from, Among { wanted, nonzero: None }, &mut self.scratch, &mut after[0]);
            let Some(noise) = plan.noise else { continue };
            for (side, after) in after[0].iter_mut().enumerate() {
                let rows = after.par_chunks_mut(dim).enumerate().with_min_len(ROWS);
                rows.for_each_init(Vec::new, |buffer, (node, row)| {
                    if wanted.is_none_or(|wanted| wanted[side].has(node)) {
                        noise.perturb((layer, side, node), buffer, row);
                    }
                });
            }
        }
        let share = plan.share();
        for ((side, out), of) in out.into_iter().enumerate().zip([Side::User, Side::Item]) {
            out.par_chunks_mut(dim).enumerate().with_min_len(ROWS).for_each(|(node, mean)| {
                if wanted.is_some_and(|wanted| !wanted[side].has(node)) {
                    return;
                }
                let row = node * dim..(node + 1) * dim;
                match plan.counts_first() || graph.degree(of, node) == 0 {
                    true => mean.copy_from_slice(&first[side][row.clone()]),
                    false => mean.fill(0.0),
                }
                self.layers.iter().for_each(|layer| add(mean, &layer[side][row.clone()]));
                multiply(mean, share);
            });
        }
    }

    /// The gradient of the first layer, given those of rows of later layers and of the mean.
    ///
    /// `Σ_k Â^k (d / K' + g_k)`, in which d is the gradient of the mean of K' layers and g_k that of what reads layer k by
    /// itself, is summed by Horner's rule, from the last layer to the first.
    pub fn backward(&mut self, graph: &Graph, dim: usize, plan: &Plan, gradients: &LayerGradients) -> Sides<&[f32]> {
        let Self { sums, next, touched, scratch, .. } = self;
        let share = plan.share();
        for (side, nodes) in graph.nodes().into_iter().enumerate() {
            sums[side].clear();
            sums[side].resize(nodes * dim, 0.0);
            // Before the first product, only the rows that have gradients are not zero.
            touched[side].reset(nodes);
            let last = gradients.layers.last().map(|last| &last[side]);
            for rows in last.into_iter().chain([&gradients.mean[side]]) {
                rows.rows.iter().for_each(|row| touched[side].insert(*row));
            }
        }
        for layer in (0..=plan.layers).rev() {
            if layer < plan.layers {
                let nonzero = Some(&*touched).filter(|_| layer + 1 == plan.layers);
                graph.propagate(dim, views(sums), Among { wanted: None, nonzero }, scratch, next);
                std::mem::swap(sums, next);
            }
            for ((side, sum), of) in sums.iter_mut().enumerate().zip([Side::User, Side::Item]) {
                if let Some(read) = layer.checked_sub(1).map(|at| &gradients.layers[at][side]) {
                    read.add_to(dim, 1.0, |_| true, sum);
                }
                let counts = layer > 0 || plan.counts_first();
                gradients.mean[side].add_to(dim, share, |node| counts || graph.degree(of, node) == 0, sum);
            }
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
    use crate::graph::tests::{graph, vectors};

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

    /// The mean of the powers of `Â` times `x` that count, and all powers from the first. Rows of zeros in the matrix keep
    /// their share of `x`.
    fn powers(matrix: &[Vec<f64>], x: &[f64], dim: usize, plan: &Plan) -> (Vec<f64>, Vec<Vec<f64>>) {
        let all: Vec<Vec<f64>> =
            std::iter::successors(Some(x.to_vec()), |x| Some(product(matrix, x, dim))).take(plan.layers + 1).collect();
        let counted = plan.layers + usize::from(plan.first_counts);
        let mean = (0..x.len()).map(|at| {
            let is_alone = matrix[at / dim].iter().all(|weight| *weight == 0.0);
            let skipped = usize::from(!plan.first_counts && !is_alone);
            all[skipped..].iter().map(|layer| layer[at]).sum::<f64>() / counted as f64
        });
        (mean.collect(), all)
    }

    fn wide(sides: &Sides<Vec<f32>>) -> Vec<f64> {
        sides.iter().flatten().map(|x| f64::from(*x)).collect()
    }

    fn plan(layers: usize, first_counts: bool) -> Plan {
        Plan { layers, first_counts, noise: None }
    }

    /// Vectors of which those of the first pass hold nothing.
    fn forward(
        graph: &Graph,
        dim: usize,
        first: &Sides<Vec<f32>>,
        plan: &Plan,
        wanted: Option<&Sides<Nodes>>,
    ) -> (Propagation, Sides<Vec<f32>>) {
        let mut propagation = Propagation::default();
        let mut out = first.each_ref().map(|side| vec![f32::NAN; side.len()]);
        let [users, items] = &mut out;
        propagation.forward(graph, (views(first), dim), plan, wanted, [users, items]);
        (propagation, out)
    }

    fn plans() -> impl Iterator<Item = Plan> {
        [(0, true), (1, true), (1, false), (3, true), (4, false)].into_iter().map(|(layers, first)| plan(layers, first))
    }

    #[test]
    fn propagation_equals_dense_algebra_and_nodes_without_edges_keep_their_share_of_the_first_layer() {
        for (nodes, dim) in [([3, 4], 5), ([40, 23], 8), ([90, 31], 67)] {
            let (graph, edges) = graph(nodes, 3);
            let matrix = dense(nodes, &edges);
            let first = vectors(nodes, dim, 4);
            for plan in plans() {
                let (propagation, found) = forward(&graph, dim, &first, &plan, None);
                let (expected, layers) = powers(&matrix, &wide(&first), dim, &plan);
                let worst = wide(&found).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 2e-6, "{nodes:?}, {plan:?}: {worst}");
                for (layer, expected) in propagation.layers.iter().zip(&layers[1..]) {
                    assert!(wide(layer).iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-6));
                }
                let alone = (0..nodes[0]).filter(|user| graph.degree(Side::User, *user) == 0);
                for user in alone {
                    let of = |sides: &Sides<Vec<f32>>| sides[0][user * dim..][..dim].to_vec();
                    let share = plan.share();
                    assert!(of(&found).iter().zip(of(&first)).all(|(a, b)| (a - share * b).abs() < 1e-7));
                }
            }
        }
    }

    #[test]
    fn the_backward_pass_is_the_transposed_forward_pass_of_every_layer_and_of_the_mean() {
        let (nodes, dim) = ([50, 21], 6);
        let (graph, edges) = graph(nodes, 5);
        let matrix = dense(nodes, &edges);
        let first = vectors(nodes, dim, 6);
        for plan in plans() {
            let (mut propagation, _) = forward(&graph, dim, &first, &plan, None);
            // Gradients of all rows, or of few, some of them twice.
            for few in [false, true] {
                let mut gradients = LayerGradients::default();
                gradients.reset(plan.layers);
                let mut expected = vec![0.0; (nodes[0] + nodes[1]) * dim];
                let places = (1..=plan.layers).map(Place::Layer).chain([Place::Mean]);
                for (at, place) in places.enumerate() {
                    let mut given = vectors(nodes, dim, 7 + at as u64);
                    for side in [Side::User, Side::Item] {
                        let of = &mut given[side as usize];
                        let rows: Vec<u32> =
                            (0..nodes[side as usize] as u32).filter(|row| !few || row % 5 == 3).collect();
                        let kept: Vec<f32> =
                            rows.iter().flat_map(|row| of[*row as usize * dim..][..dim].to_vec()).collect();
                        of.fill(0.0);
                        for _ in 0..2 {
                            gradients.add(place, side, &rows, &kept);
                            for (row, values) in rows.iter().zip(kept.chunks_exact(dim)) {
                                add(&mut of[*row as usize * dim..][..dim], values);
                            }
                        }
                    }
                    // The matrix of each layer is symmetric, and so is that of the mean.
                    let (mean, layers) = powers(&matrix, &wide(&given), dim, &plan);
                    let added = match place {
                        Place::Layer(layer) => &layers[layer],
                        Place::Mean => &mean,
                    };
                    expected.iter_mut().zip(added).for_each(|(sum, x)| *sum += x);
                }
                let found = propagation.backward(&graph, dim, &plan, &gradients).map(<[f32]>::to_vec);
                let worst = wide(&found).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 2e-5, "{plan:?}, few {few}: {worst}");
            }
        }
    }

    /// The bits of the rows of some nodes.
    fn bits(dim: usize, of: &[f32], nodes: impl Iterator<Item = usize>) -> Vec<u32> {
        nodes.flat_map(|node| of[node * dim..][..dim].iter().map(|x| x.to_bits())).collect()
    }

    #[test]
    fn wanted_rows_are_those_of_a_whole_pass_and_others_are_left_alone() {
        let (nodes, dim) = ([300, 70], 10);
        let (graph, _) = graph(nodes, 13);
        let first = vectors(nodes, dim, 14);
        let mut wanted = Sides::<Nodes>::default();
        for side in 0..2 {
            wanted[side].reset(nodes[side]);
            (0..nodes[side] as u32).filter(|node| node % 4 == 1).for_each(|node| wanted[side].insert(node));
        }
        for noise in [None, Some(Noise { eps: 0.2, key: 5 })] {
            let plan = Plan { noise, ..plan(2, true) };
            let ((whole, mean), (some, some_mean)) =
                (forward(&graph, dim, &first, &plan, None), forward(&graph, dim, &first, &plan, Some(&wanted)));
            for side in 0..2 {
                let rows = || (0..nodes[side]).filter(|node| wanted[side].has(*node));
                assert!(bits(dim, &some_mean[side], rows()) == bits(dim, &mean[side], rows()));
                let last = [&some, &whole].map(|pass| bits(dim, &pass.layers[1][side], rows()));
                assert!(last[0] == last[1]);
                let others = (0..nodes[side]).filter(|node| !wanted[side].has(*node));
                assert!(others.into_iter().all(|node| some_mean[side][node * dim..][..dim].iter().all(|x| x.is_nan())));
            }
        }
    }

    #[test]
    fn noise_has_the_norm_and_the_signs_asked_for_and_is_a_function_of_its_key() {
        let (nodes, dim) = ([60, 20], 11);
        let (graph, _) = graph(nodes, 15);
        let first = vectors(nodes, dim, 16);
        let with = |key: Option<u64>| {
            let plan = Plan { noise: key.map(|key| Noise { eps: 0.3, key }), ..plan(1, false) };
            forward(&graph, dim, &first, &plan, None).0.layers.remove(0)
        };
        let (clean, noisy) = (with(None), with(Some(1)));
        assert!(noisy == with(Some(1)) && noisy != with(Some(2)));
        let mut number = 0;
        for (clean, noisy) in clean.concat().chunks_exact(dim).zip(noisy.concat().chunks_exact(dim)) {
            let noise: Vec<f32> = noisy.iter().zip(clean).map(|(a, b)| a - b).collect();
            let norm = dot(&noise, &noise).sqrt();
            if clean.iter().all(|x| *x == 0.0) {
                assert_eq!(norm, 0.0);
                continue;
            }
            assert!((norm - 0.3).abs() < 1e-5, "{norm}");
            assert!(noise.iter().zip(clean).all(|(noise, x)| *noise == 0.0 || noise.signum() == x.signum()));
            number += 1;
        }
        assert!(number > 40, "{number}");
    }

    #[test]
    fn the_bits_do_not_depend_on_threads_nor_on_an_earlier_pass() {
        let (nodes, dim) = ([3000, 400], 16);
        let (graph, _) = graph(nodes, 8);
        let (first, other) = (vectors(nodes, dim, 9), vectors(nodes, dim, 10));
        let plan = Plan { noise: Some(Noise { eps: 0.1, key: 3 }), ..plan(3, true) };
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut propagation, mut out) = forward(&graph, dim, &other, &Plan { layers: 4, ..plan }, None);
                let [users, items] = &mut out;
                propagation.forward(&graph, (views(&first), dim), &plan, None, [users, items]);
                let mut gradients = LayerGradients::default();
                gradients.reset(3);
                let rows: Vec<u32> = (0..400).collect();
                for side in [Side::User, Side::Item] {
                    gradients.add(Place::Mean, side, &rows, &other[side as usize][..400 * dim]);
                    gradients.add(Place::Layer(2), side, &rows, &first[side as usize][..400 * dim]);
                }
                let gradient = propagation.backward(&graph, dim, &plan, &gradients).map(<[f32]>::to_vec);
                [out, gradient].map(|sides| sides.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            })
        };
        let (one, three) = (run(1), run(3));
        assert!(one == three);
        let (_, out) = forward(&graph, dim, &first, &plan, None);
        assert!(out.concat().iter().zip(&one[0]).all(|(x, bits)| x.to_bits() == *bits));
    }
}
