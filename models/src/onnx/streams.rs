//! The nodes of hyper-connections ([`crate::tower::streams`]). Streams of elements are rows of `[rows, n dim]`.

use super::graph::{GraphBuilder, int, ints};
use super::messages::code;
use crate::tower::encoder::NORM_EPS;
use crate::tower::streams::{FLOOR, Mixing, StreamShape, Streams, permutations};

/// The most parts of a graph that a block's streams have.
pub(super) fn parts(shape: StreamShape) -> usize {
    let rounds = match shape.mixing {
        Mixing::Sinkhorn(rounds) => rounds,
        Mixing::Permutations => 0,
    };
    2 * (100 + 4 * rounds)
}

/// The streams of a sublayer.
pub(super) struct Sublayer<'a> {
    pub shape: StreamShape,
    pub dim: usize,
    pub weights: &'a Streams<String>,
}

/// Logits of H_pre, of H_post, and of H_res, by their gate.
const PRE: usize = 0;
const POST: usize = 1;
const RES: usize = 2;

fn shape(g: &mut GraphBuilder, extents: &[i64]) -> String {
    let extents: Vec<String> = extents.iter().map(|extent| g.integer(*extent, code::INT64)).collect();
    let extents: Vec<&str> = extents.iter().map(String::as_str).collect();
    g.node("Concat", &extents, vec![int("axis", 0)])
}

fn reshaped(g: &mut GraphBuilder, x: &str, extents: &[i64]) -> String {
    let shape = shape(g, extents);
    g.node("Reshape", &[x, &shape], vec![])
}

/// Copies of each row side by side.
pub(super) fn expand(g: &mut GraphBuilder, x: &str, shape: StreamShape) -> String {
    g.node("Concat", &vec![x; shape.count], vec![int("axis", 1)])
}

/// The means of streams, `[rows, dim]`.
pub(super) fn collapse(g: &mut GraphBuilder, x: &str, shape: StreamShape, dim: usize) -> String {
    let streams = reshaped(g, x, &[-1, shape.count as i64, dim as i64]);
    g.node("ReduceMean", &[&streams], vec![ints("axes", &[1]), int("keepdims", 0)])
}

impl Sublayer<'_> {
    fn extents(&self) -> [i64; 2] {
        [self.shape.count as i64, self.dim as i64]
    }

    /// Streams divided by their root mean square.
    pub fn normal(g: &mut GraphBuilder, x: &str) -> String {
        let squares = g.node("Mul", &[x, x], vec![]);
        let mean = g.node("ReduceMean", &[&squares], vec![ints("axes", &[1]), int("keepdims", 1)]);
        let eps = g.float(NORM_EPS);
        let mean = g.node("Add", &[&mean, &eps], vec![]);
        let rms = g.node("Sqrt", &[&mean], vec![]);
        g.node("Div", &[x, &rms], vec![])
    }

    /// The logits of a gate, given normal streams.
    fn logits(&self, g: &mut GraphBuilder, normal: &str, gate: usize) -> String {
        let n = self.shape.count;
        let (first, end) = [(0, n), (n, 2 * n), (2 * n, self.shape.logits())][gate];
        let [first, end, axis] = [first, end, 0].map(|at| g.integer(at as i64, code::INT64));
        let weight = g.node("Slice", &[&self.weights.weight, &first, &end, &axis], vec![]);
        let bias = g.node("Slice", &[&self.weights.bias, &first, &end, &axis], vec![]);
        let gate = g.integer(gate as i64, code::INT64);
        let gate = g.node("Gather", &[&self.weights.gates, &gate], vec![int("axis", 0)]);
        let products = g.node("Gemm", &[normal, &weight], vec![int("transB", 1)]);
        let products = g.node("Mul", &[&products, &gate], vec![]);
        g.node("Add", &[&products, &bias], vec![])
    }

    /// What the sublayer reads, `[rows, dim]`.
    pub fn read(&self, g: &mut GraphBuilder, x: &str, normal: &str) -> String {
        let [n, dim] = self.extents();
        let logits = self.logits(g, normal, PRE);
        let pre = g.node("Sigmoid", &[&logits], vec![]);
        let pre = reshaped(g, &pre, &[-1, 1, n]);
        let streams = reshaped(g, x, &[-1, n, dim]);
        let mixed = g.node("MatMul", &[&pre, &streams], vec![]);
        reshaped(g, &mixed, &[-1, dim])
    }

    /// The streams after the sublayer has added something, `[rows, dim]`, to them.
    pub fn write(&self, g: &mut GraphBuilder, x: &str, normal: &str, added: &str) -> String {
        let [n, dim] = self.extents();
        let logits = self.logits(g, normal, POST);
        let post = g.node("Sigmoid", &[&logits], vec![]);
        let two = g.float(2.0);
        let post = g.node("Mul", &[&post, &two], vec![]);
        let post = reshaped(g, &post, &[-1, n, 1]);
        let added = reshaped(g, added, &[-1, 1, dim]);
        let added = g.node("Mul", &[&post, &added], vec![]);
        let logits = self.logits(g, normal, RES);
        let res = self.res(g, &logits);
        let streams = reshaped(g, x, &[-1, n, dim]);
        let mixed = g.node("MatMul", &[&res, &streams], vec![]);
        let sum = g.node("Add", &[&mixed, &added], vec![]);
        reshaped(g, &sum, &[-1, n * dim])
    }

    /// H_res, `[rows, n, n]`.
    fn res(&self, g: &mut GraphBuilder, logits: &str) -> String {
        let n = self.shape.count;
        let square = [-1, n as i64, n as i64];
        match self.shape.mixing {
            Mixing::Sinkhorn(rounds) => {
                let logits = reshaped(g, logits, &square);
                let top = g.node("ReduceMax", &[&logits], vec![ints("axes", &[1]), int("keepdims", 1)]);
                let below = g.node("Sub", &[&logits, &top], vec![]);
                let floor = g.float(FLOOR);
                let below = g.node("Max", &[&below, &floor], vec![]);
                let mut m = g.node("Exp", &[&below], vec![]);
                let axes = [1, 2].map(|axis| g.integer(axis, code::INT64));
                for axis in (0..rounds).flat_map(|_| &axes) {
                    let sums = g.node("ReduceSum", &[&m, axis], vec![int("keepdims", 1)]);
                    m = g.node("Div", &[&m, &sums], vec![]);
                }
                m
            }
            Mixing::Permutations => {
                let weights = g.node("Softmax", &[logits], vec![int("axis", 1)]);
                let all = permutations(n);
                let entry = |at: usize| {
                    let (permutation, to, from) = (&all[at / (n * n)], at / n % n, at % n);
                    f32::from(permutation[to] == from)
                };
                let values = (0..all.len() * n * n).map(entry);
                let matrices = g.constants(format!("/constant/permutations/{n}"), &[all.len(), n * n], values);
                let res = g.node("MatMul", &[&weights, &matrices], vec![]);
                reshaped(g, &res, &square)
            }
        }
    }
}
