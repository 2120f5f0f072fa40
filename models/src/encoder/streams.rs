//! Computes hyper-connections ([`crate::tower::streams`]) of a sublayer, forward and backward.
//!
//! The logits of [`TILE`] elements are computed together, each logit's values side by side. Products of Φ with the streams
//! are divided by their root mean square afterwards (arXiv 2512.24880, section 4.3.1). They are kept for the backward
//! pass; the matrices are made of them again.

use super::mixtures::{Mixtures, by_count};
use super::{TILE, Tile};
use crate::lanes::{add, dispatched, inner, logistic, multiply_add};
use crate::matmul::{Operand, matmul};
use crate::tower::encoder::NORM_EPS;
use crate::tower::streams::{StreamShape, Streams};

/// What the backward pass needs of the streams of a sublayer, beside the streams themselves.
#[derive(Debug, Default)]
pub(super) struct StreamsPass {
    /// For each tile of elements, `[logits, TILE]`: Φ v.
    products: Vec<f32>,
    /// For each tile of elements, `[TILE]`: one by the root mean square of the streams.
    inverse: Vec<f32>,
    /// The largest difference between the sum of a column of H_res and 1.
    pub error: f32,
}

/// The streams of a sublayer.
pub(super) struct Sublayer<'a> {
    count: usize,
    dim: usize,
    mixtures: Mixtures,
    weights: &'a Streams<&'a [f32]>,
}

/// The gradients of a sublayer's logits: for each tile of elements, `[logits, TILE]`.
pub(super) struct LogitGradients(Vec<f32>);

/// Logits of H_pre, of H_post, and of H_res, by their gate.
const PRE: usize = 0;
const POST: usize = 1;
const RES: usize = 2;

impl<'a> Sublayer<'a> {
    pub fn new(shape: StreamShape, dim: usize, weights: &'a Streams<&'a [f32]>) -> Self {
        Self { count: shape.count, dim, mixtures: Mixtures::of(shape), weights }
    }

    fn logits(&self) -> usize {
        self.weights.bias.len()
    }

    /// Floats of an element's streams.
    fn width(&self) -> usize {
        self.count * self.dim
    }

    /// The logits of a gate among all of them.
    fn of_gate(&self, gate: usize) -> std::ops::Range<usize> {
        let n = self.count;
        [0..n, n..2 * n, 2 * n..self.logits()][gate].clone()
    }

    /// Writes logits of some gates, `[_, TILE]`, given the products of a tile.
    fn gated(&self, gates: std::ops::Range<usize>, products: &[f32], out: &mut Vec<f32>) {
        out.clear();
        for gate in gates {
            let (rows, factor) = (self.of_gate(gate), self.weights.gates[gate]);
            let products = products[rows.start * TILE..rows.end * TILE].chunks_exact(TILE);
            for (products, bias) in products.zip(&self.weights.bias[rows]) {
                out.extend(products.iter().map(|z| factor * z + bias));
            }
        }
    }

    /// The products of the elements that ask, `[logits, TILE]`, for at most [`TILE`] of them.
    fn gather(&self, pass: &StreamsPass, elements: &[usize], out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.logits() * TILE, 0.0);
        for (lane, element) in elements.iter().enumerate() {
            let from = &pass.products[element / TILE * self.logits() * TILE + element % TILE..];
            let rows = from.iter().step_by(TILE).zip(out[lane..].iter_mut().step_by(TILE));
            rows.take(self.logits()).for_each(|(from, to)| *to = *from);
        }
    }

    /// H_post and H_res of a tile, `[n + n n, TILE]`, given its products. `logits` is working memory.
    fn writing(&self, products: &[f32], logits: &mut Vec<f32>, out: &mut Vec<f32>, used: usize) -> f32 {
        let n = self.count;
        self.gated(POST..RES + 1, products, logits);
        out.resize((n + n * n) * TILE, 0.0);
        let (post, res) = out.split_at_mut(n * TILE);
        sigmoid(&logits[..n * TILE], 2.0, post);
        self.mixtures.forward(&logits[n * TILE..], res, used)
    }

    /// Writes H_pre X of every element, `[elements, dim]`, given the streams, `[elements, n dim]`.
    pub fn read(&self, streams: &[f32], pass: &mut StreamsPass, out: &mut Vec<f32>, tile: &mut Tile) {
        let (n, dim, width, logits) = (self.count, self.dim, self.width(), self.logits());
        let elements = streams.len() / width;
        let tiles = elements.div_ceil(TILE);
        pass.products.resize(tiles * logits * TILE, 0.0);
        pass.inverse.resize(tiles * TILE, 0.0);
        out.resize(elements * dim, 0.0);
        let (mut gated, mut pre) = (Vec::new(), vec![0.0; n * TILE]);
        let tiles = pass.products.chunks_exact_mut(logits * TILE).zip(pass.inverse.chunks_exact_mut(TILE));
        let rows = streams.chunks(TILE * width).zip(out.chunks_mut(TILE * dim));
        for ((products, inverse), (x, out)) in tiles.zip(rows) {
            let whole = if x.len() == TILE * width {
                x
            } else {
                tile.x.clear();
                tile.x.extend_from_slice(x);
                tile.x.resize(TILE * width, 0.0);
                &tile.x
            };
            let weight = Operand::rows_of(self.weights.weight, width);
            matmul(products, false, 1.0, weight, Operand::rows_of(whole, width).transposed());
            inverse_rms(whole, width, inverse);
            for row in products.chunks_exact_mut(TILE) {
                row.iter_mut().zip(&*inverse).for_each(|(z, inverse)| *z *= inverse);
            }
            self.gated(PRE..PRE + 1, products, &mut gated);
            sigmoid(&gated, 1.0, &mut pre);
            read_rows(x, &pre, n, dim, out);
        }
    }

    /// Writes H_res X + H_postᵀ F, `[queries, n dim]`, of the elements that ask, given all streams and what the sublayer
    /// has made of them, `[queries, dim]`.
    pub fn write(
        &self,
        (streams, elements): (&[f32], &[usize]),
        added: &[f32],
        pass: &mut StreamsPass,
        out: &mut Vec<f32>,
    ) {
        let (n, dim, width) = (self.count, self.dim, self.width());
        out.resize(elements.len() * width, 0.0);
        let (mut products, mut logits, mut matrices) = (Vec::new(), Vec::new(), Vec::new());
        pass.error = 0.0;
        let rows = added.chunks(TILE * dim).zip(out.chunks_mut(TILE * width));
        for (elements, (added, out)) in elements.chunks(TILE).zip(rows) {
            self.gather(pass, elements, &mut products);
            let error = self.writing(&products, &mut logits, &mut matrices, elements.len());
            pass.error = pass.error.max(error);
            write_rows((streams, elements, added), &matrices, n, dim, out);
        }
    }

    /// The gradients of F, `[queries, dim]`, and of the logits of H_post and H_res, given that of the result,
    /// `[queries, n dim]`. Writes the gradient of the streams, `[elements, n dim]`, as far as it has come through H_res.
    pub fn write_backward(
        &self,
        ((streams, elements), added): ((&[f32], &[usize]), &[f32]),
        pass: &StreamsPass,
        d_out: &[f32],
        (d_streams, d_added): (&mut Vec<f32>, &mut Vec<f32>),
    ) -> LogitGradients {
        let (n, dim, width, count) = (self.count, self.dim, self.width(), self.logits());
        let mut all = vec![0.0; pass.products.len()];
        d_streams.clear();
        d_streams.resize(streams.len(), 0.0);
        d_added.resize(added.len(), 0.0);
        let (mut products, mut logits, mut matrices) = (Vec::new(), Vec::new(), Vec::new());
        let (mut d_matrices, mut d_logits) = (vec![0.0; (n + n * n) * TILE], vec![0.0; (count - n) * TILE]);
        let rows = added.chunks(TILE * dim).zip(d_out.chunks(TILE * width)).zip(d_added.chunks_mut(TILE * dim));
        for (elements, ((added, d_out), d_added)) in elements.chunks(TILE).zip(rows) {
            self.gather(pass, elements, &mut products);
            self.writing(&products, &mut logits, &mut matrices, 0);
            d_matrices.fill(0.0);
            let of_rows = (streams, elements, added, d_out);
            write_rows_backward(of_rows, &matrices, (n, dim), (&mut d_streams[..], d_added), &mut d_matrices);
            let (post, (d_post, d_res)) = (&matrices[..n * TILE], d_matrices.split_at(n * TILE));
            let (to_post, to_res) = d_logits.split_at_mut(n * TILE);
            sigmoid_backward(post, 2.0, d_post, to_post);
            self.mixtures.backward(&logits[n * TILE..], d_res, to_res);
            for (lane, element) in elements.iter().enumerate() {
                let to = &mut all[(element / TILE * count + n) * TILE + element % TILE..];
                let rows = to.iter_mut().step_by(TILE).zip(d_logits[lane..].iter().step_by(TILE));
                rows.for_each(|(to, from)| *to = *from);
            }
        }
        LogitGradients(all)
    }

    /// Adds the gradients of the weights, and that of the streams as it comes through what the sublayer reads, given that
    /// of H_pre X, `[elements, dim]`.
    pub fn read_backward(
        &self,
        streams: &[f32],
        pass: &StreamsPass,
        (d_read, LogitGradients(mut d_logits)): (&[f32], LogitGradients),
        d_streams: &mut [f32],
        (groups, dense): (&Streams<usize>, &mut [Vec<f32>]),
    ) {
        let (n, dim, width, count) = (self.count, self.dim, self.width(), self.logits());
        let (mut gated, mut pre, mut d_pre) = (Vec::new(), vec![0.0; n * TILE], vec![0.0; n * TILE]);
        let tiles = pass.products.chunks_exact(count * TILE).zip(pass.inverse.chunks_exact(TILE));
        let tiles = tiles.zip(d_logits.chunks_exact_mut(count * TILE));
        let rows = streams.chunks(TILE * width).zip(d_streams.chunks_mut(TILE * width)).zip(d_read.chunks(TILE * dim));
        for (((products, inverse), d_logits), ((x, d_x), d_read)) in tiles.zip(rows) {
            let used = x.len() / width;
            self.gated(PRE..PRE + 1, products, &mut gated);
            sigmoid(&gated, 1.0, &mut pre);
            d_pre.fill(0.0);
            read_rows_backward((x, d_read), &pre, (n, dim), d_x, &mut d_pre);
            sigmoid_backward(&pre, 1.0, &d_pre, &mut d_logits[..n * TILE]);
            let mut along = [0.0; TILE];
            for gate in [PRE, POST, RES] {
                for logit in self.of_gate(gate) {
                    let row = logit * TILE..(logit + 1) * TILE;
                    let (z, d) = (&products[row.clone()], &mut d_logits[row]);
                    dense[groups.bias][logit] += d.iter().sum::<f32>();
                    dense[groups.gates][gate] += z.iter().zip(&*d).map(|(z, d)| z * d).sum::<f32>();
                    let factor = self.weights.gates[gate];
                    for (((d, z), along), inverse) in d.iter_mut().zip(z).zip(&mut along).zip(inverse) {
                        *d *= factor;
                        *along += *d * z;
                        *d *= inverse;
                    }
                }
            }
            let d_products = Operand::strided(d_logits, count, used, TILE);
            matmul(&mut dense[groups.weight], true, 1.0, d_products, Operand::rows_of(x, width));
            let weight = Operand::rows_of(self.weights.weight, width);
            matmul(d_x, true, 1.0, d_products.transposed(), weight);
            // The root mean square.
            let rows = x.chunks_exact(width).zip(d_x.chunks_exact_mut(width));
            for ((x, d_x), (along, inverse)) in rows.zip(along.iter().zip(inverse)) {
                crate::lanes::add_scaled(d_x, -along * inverse * inverse / width as f32, x);
            }
        }
    }
}

/// Writes `count` copies of each row of `dim` floats side by side.
pub(super) fn expand(rows: &[f32], dim: usize, count: usize, out: &mut Vec<f32>) {
    out.clear();
    for row in rows.chunks_exact(dim) {
        (0..count).for_each(|_| out.extend_from_slice(row));
    }
}

/// The gradient of the rows that were expanded.
pub(super) fn expand_backward(d: &[f32], dim: usize, count: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(d.len() / count);
    for streams in d.chunks_exact(count * dim) {
        let first = out.len();
        out.extend_from_slice(&streams[..dim]);
        streams[dim..].chunks_exact(dim).for_each(|stream| add(&mut out[first..], stream));
    }
    out
}

/// The means of streams.
pub(super) fn collapse(streams: &[f32], dim: usize, count: usize, out: &mut Vec<f32>) {
    *out = expand_backward(streams, dim, count);
    crate::lanes::multiply(out, 1.0 / count as f32);
}

/// The gradient of streams, given that of their means.
pub(super) fn collapse_backward(d: &[f32], dim: usize, count: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(d.len() * count);
    expand(d, dim, count, &mut out);
    crate::lanes::multiply(&mut out, 1.0 / count as f32);
    out
}

/// Floats of a vector that are in registers together.
const STEP: usize = 8;

dispatched! {
    /// One by the root mean square of each row.
    fn inverse_rms(rows: &[f32], width: usize, out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(width).zip(out) {
            *out = 1.0 / (inner::<FMA>(row, row) / width as f32 + NORM_EPS).sqrt();
        }
    }

    /// `most` times the logistic function.
    fn sigmoid(logits: &[f32], most: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(logits) {
            *out = most * logistic::<FMA>(*x);
        }
    }

    /// The gradient of the logits of `most` times the logistic function, given its values and their gradient.
    fn sigmoid_backward(values: &[f32], most: f32, d: &[f32], d_logits: &mut [f32]) {
        for ((d_logit, y), d) in d_logits.iter_mut().zip(values).zip(d) {
            *d_logit = d * y * (1.0 - y / most);
        }
    }

    /// Writes the sums of each row's streams, weighted by `pre`, `[n, TILE]`.
    fn read_rows(x: &[f32], pre: &[f32], n: usize, dim: usize, out: &mut [f32]) {
        by_count!(n, read_of(x, pre, dim, out))
    }

    /// Adds the gradient of the streams, and writes that of `pre`, given that of the weighted sums.
    fn read_rows_backward(
        rows: (&[f32], &[f32]),
        pre: &[f32],
        sizes: (usize, usize),
        d_x: &mut [f32],
        d_pre: &mut [f32],
    ) {
        by_count!(sizes.0, read_of_backward(rows, pre, sizes.1, d_x, d_pre))
    }

    /// Writes the streams of each row, mixed by `matrices`, `[n + n n, TILE]`: H_post and then H_res.
    fn write_rows(rows: (&[f32], &[usize], &[f32]), matrices: &[f32], n: usize, dim: usize, out: &mut [f32]) {
        by_count!(n, write_of(rows, matrices, dim, out))
    }

    /// Writes the gradients of the elements' streams, of what was added to them, and of `matrices`.
    fn write_rows_backward(
        rows: (&[f32], &[usize], &[f32], &[f32]),
        matrices: &[f32],
        sizes: (usize, usize),
        d: (&mut [f32], &mut [f32]),
        d_matrices: &mut [f32],
    ) {
        by_count!(sizes.0, write_of_backward(rows, matrices, sizes.1, d, d_matrices))
    }
}

/// The values of one element among those of a tile.
#[inline(always)]
fn of_lane<const N: usize>(tile: &[f32], first: usize, lane: usize) -> [f32; N] {
    std::array::from_fn(|i| tile[(first + i) * TILE + lane])
}

/// `N` vectors side by side.
#[inline(always)]
fn split<const N: usize>(x: &[f32], dim: usize) -> [&[f32]; N] {
    std::array::from_fn(|i| &x[i * dim..][..dim])
}

/// `[Σ_c a_c b_c for each b]`, all of `a`'s length.
#[inline(always)]
fn products<const FMA: bool, const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f32; N] {
    let mut sums = [[0.0; STEP]; N];
    let whole = a.len() / STEP * STEP;
    for c in (0..whole).step_by(STEP) {
        let a = &a[c..c + STEP];
        for (sums, b) in sums.iter_mut().zip(&b) {
            let b = &b[c..c + STEP];
            for l in 0..STEP {
                sums[l] = multiply_add::<FMA>(a[l], b[l], sums[l]);
            }
        }
    }
    for (sums, b) in sums.iter_mut().zip(&b) {
        for (l, c) in (whole..a.len()).enumerate() {
            sums[l] = multiply_add::<FMA>(a[c], b[c], sums[l]);
        }
    }
    std::array::from_fn(|i| {
        let s = &sums[i];
        ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    })
}

#[inline(always)]
fn read_of<const FMA: bool, const N: usize>(x: &[f32], pre: &[f32], dim: usize, out: &mut [f32]) {
    for (lane, (x, out)) in x.chunks_exact(N * dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let (pre, x) = (of_lane::<N>(pre, 0, lane), split::<N>(x, dim));
        for (c, out) in out.iter_mut().enumerate() {
            let mut sum = pre[0] * x[0][c];
            for j in 1..N {
                sum = multiply_add::<FMA>(pre[j], x[j][c], sum);
            }
            *out = sum;
        }
    }
}

#[inline(always)]
fn read_of_backward<const FMA: bool, const N: usize>(
    (x, d_read): (&[f32], &[f32]),
    pre: &[f32],
    dim: usize,
    d_x: &mut [f32],
    d_pre: &mut [f32],
) {
    let rows = x.chunks_exact(N * dim).zip(d_x.chunks_exact_mut(N * dim)).zip(d_read.chunks_exact(dim));
    for (lane, ((x, d_x), d)) in rows.enumerate() {
        let pre = of_lane::<N>(pre, 0, lane);
        for (j, product) in products::<FMA, N>(d, split(x, dim)).into_iter().enumerate() {
            d_pre[j * TILE + lane] = product;
        }
        for (d_x, pre) in d_x.chunks_exact_mut(dim).zip(pre) {
            d_x.iter_mut().zip(d).for_each(|(d_x, d)| *d_x = multiply_add::<FMA>(pre, *d, *d_x));
        }
    }
}

#[inline(always)]
fn write_of<const FMA: bool, const N: usize>(
    (streams, elements, added): (&[f32], &[usize], &[f32]),
    matrices: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    let rows = elements.iter().zip(added.chunks_exact(dim)).zip(out.chunks_exact_mut(N * dim));
    for (lane, ((element, f), out)) in rows.enumerate() {
        let x = split::<N>(&streams[element * N * dim..][..N * dim], dim);
        let post = of_lane::<N>(matrices, 0, lane);
        for (i, out) in out.chunks_exact_mut(dim).enumerate() {
            let res = of_lane::<N>(matrices, N + i * N, lane);
            for (c, out) in out.iter_mut().enumerate() {
                let mut sum = post[i] * f[c];
                for j in 0..N {
                    sum = multiply_add::<FMA>(res[j], x[j][c], sum);
                }
                *out = sum;
            }
        }
    }
}

#[inline(always)]
fn write_of_backward<const FMA: bool, const N: usize>(
    (streams, elements, added, d_out): (&[f32], &[usize], &[f32], &[f32]),
    matrices: &[f32],
    dim: usize,
    (d_streams, d_added): (&mut [f32], &mut [f32]),
    d_matrices: &mut [f32],
) {
    let rows = elements.iter().zip(added.chunks_exact(dim)).zip(d_out.chunks_exact(N * dim));
    for (lane, (((element, f), d_out), d_f)) in rows.zip(d_added.chunks_exact_mut(dim)).enumerate() {
        let place = element * N * dim..(element + 1) * N * dim;
        let (x, d) = (split::<N>(&streams[place.clone()], dim), split::<N>(d_out, dim));
        for i in 0..N {
            d_matrices[i * TILE + lane] = products::<FMA, 1>(d[i], [f])[0];
            for (j, product) in products::<FMA, N>(d[i], x).into_iter().enumerate() {
                d_matrices[(N + i * N + j) * TILE + lane] = product;
            }
        }
        let post = of_lane::<N>(matrices, 0, lane);
        for (c, d_f) in d_f.iter_mut().enumerate() {
            let mut sum = post[0] * d[0][c];
            for i in 1..N {
                sum = multiply_add::<FMA>(post[i], d[i][c], sum);
            }
            *d_f = sum;
        }
        for (j, d_x) in d_streams[place].chunks_exact_mut(dim).enumerate() {
            let res: [f32; N] = std::array::from_fn(|i| matrices[(N + i * N + j) * TILE + lane]);
            for (c, d_x) in d_x.iter_mut().enumerate() {
                let mut sum = res[0] * d[0][c];
                for i in 1..N {
                    sum = multiply_add::<FMA>(res[i], d[i][c], sum);
                }
                *d_x = sum;
            }
        }
    }
}
