//! Encoders in f64, one sequence at a time, as they are defined: the oracle of the tests.

use crate::tower::encoder::{Affine, Encoder, NORM_EPS, Norm, NormOrder};
use crate::tower::ligr::BlockKind;
use crate::tower::streams::{self, Mixing, StreamShape, Streams};

type Rows = Vec<Vec<f64>>;

fn normalised(norm: &Norm<Vec<f64>>, rows: &Rows) -> Rows {
    let row = |x: &Vec<f64>| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let deviation = (variance + f64::from(NORM_EPS)).sqrt();
        (0..x.len()).map(|i| (x[i] - mean) / deviation * norm.gain[i] + norm.bias[i]).collect()
    };
    rows.iter().map(row).collect()
}

fn product(affine: &Affine<Vec<f64>>, rows: &Rows) -> Rows {
    let out = affine.bias.len();
    let width = affine.weight.len() / out;
    let row = |x: &Vec<f64>| {
        let inner = |o: usize| (0..width).map(|i| affine.weight[o * width + i] * x[i]).sum::<f64>();
        (0..out).map(|o| inner(o) + affine.bias[o]).collect()
    };
    rows.iter().map(row).collect()
}

fn sum(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

/// Row i is the mean of the values of rows 0 to i, weighted by the softmax of `q k / √(dim / heads)`, for each head. With
/// intervals, keys and values are those of a pair, with the rows of its positions and of its interval.
fn attention(encoder: &Encoder<Vec<f64>>, query: &Rows, key_value: &Rows, times: &[i32]) -> Rows {
    let heads = encoder.heads;
    let dim = query[0].len();
    let width = dim / heads;
    let mut out = vec![vec![0.0; dim]; query.len()];
    for head in (0..dim).step_by(width) {
        for i in 0..query.len() {
            let added = |j: usize, c: usize| match &encoder.intervals {
                None => [0.0; 2],
                Some(tables) => {
                    let interval = times[i].abs_diff(times[j]).min(tables.span as u32) as usize;
                    let of =
                        |positions: &[f64], intervals: &[f64]| positions[j * dim + c] + intervals[interval * dim + c];
                    [of(&encoder.positions, &tables.keys), of(&tables.value_positions, &tables.values)]
                }
            };
            let key = |j: usize, c: usize| key_value[j][c] + added(j, c)[0];
            let value = |j: usize, c: usize| key_value[j][dim + c] + added(j, c)[1];
            let inner = |j: usize| (head..head + width).map(|c| query[i][c] * key(j, c)).sum::<f64>();
            let weights: Vec<f64> = (0..=i).map(|j| (inner(j) / (width as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (j, weight) in weights.iter().enumerate() {
                (head..head + width).for_each(|c| out[i][c] += weight / total * value(j, c));
            }
        }
    }
    out
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Sinkhorn's iteration on the exponentials of `n n` logits.
pub(super) fn sinkhorn(logits: &[f64], n: usize, rounds: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| logits[i * n + j];
    let top = |j: usize| (0..n).map(|i| at(i, j)).fold(f64::NEG_INFINITY, f64::max);
    let mut m: Vec<f64> =
        (0..n * n).map(|k| (at(k / n, k % n) - top(k % n)).max(f64::from(streams::FLOOR)).exp()).collect();
    for _ in 0..rounds {
        let columns: Vec<f64> = (0..n).map(|j| (0..n).map(|i| m[i * n + j]).sum()).collect();
        m.iter_mut().enumerate().for_each(|(k, x)| *x /= columns[k % n]);
        let rows: Vec<f64> = m.chunks(n).map(|row| row.iter().sum()).collect();
        m.iter_mut().enumerate().for_each(|(k, x)| *x /= rows[k / n]);
    }
    m
}

/// H_pre, H_post and H_res of an element's streams.
fn matrices(weights: &Streams<Vec<f64>>, shape: StreamShape, x: &Rows) -> [Vec<f64>; 3] {
    let n = shape.count;
    let v: Vec<f64> = x.concat();
    let squares = v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64;
    let rms = (squares + f64::from(NORM_EPS)).sqrt();
    let logit = |l: usize| {
        let gate = weights.gates[(l / n).min(2)];
        let product: f64 = weights.weight[l * v.len()..][..v.len()].iter().zip(&v).map(|(w, v)| w * v / rms).sum();
        gate * product + weights.bias[l]
    };
    let pre = (0..n).map(|l| logistic(logit(l))).collect();
    let post = (n..2 * n).map(|l| 2.0 * logistic(logit(l))).collect();
    let logits: Vec<f64> = (2 * n..shape.logits()).map(logit).collect();
    let res = match shape.mixing {
        Mixing::Sinkhorn(rounds) => sinkhorn(&logits, n, rounds),
        Mixing::Permutations => {
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            let mut res = vec![0.0; n * n];
            for (permutation, x) in streams::permutations(n).iter().zip(&logits) {
                permutation.iter().enumerate().for_each(|(i, j)| res[i * n + j] += x.exp() / total);
            }
            res
        }
    };
    [pre, post, res]
}

/// The streams of all elements after a sublayer, `[elements][n][dim]`.
fn sublayer(weights: &Streams<Vec<f64>>, shape: StreamShape, all: &[Rows], f: impl Fn(&Rows) -> Rows) -> Vec<Rows> {
    let n = shape.count;
    let matrices: Vec<_> = all.iter().map(|x| matrices(weights, shape, x)).collect();
    let mixed = |weights: &[f64], x: &Rows| -> Vec<f64> {
        (0..x[0].len()).map(|c| (0..n).map(|j| weights[j] * x[j][c]).sum()).collect()
    };
    let added = f(&all.iter().zip(&matrices).map(|(x, [pre, ..])| mixed(pre, x)).collect());
    let streams = all.iter().zip(&matrices).zip(&added);
    let element = |((x, [_, post, res]), f): ((&Rows, &[Vec<f64>; 3]), &Vec<f64>)| -> Rows {
        let stream = |i: usize| {
            let kept = mixed(&res[i * n..(i + 1) * n], x);
            kept.iter().zip(f).map(|(kept, f)| kept + post[i] * f).collect()
        };
        (0..n).map(stream).collect()
    };
    streams.map(element).collect()
}

/// The outputs of all elements of a sequence whose rows of the table are given, oldest first, and whose times on the
/// scale of intervals, if the encoder reads them.
pub(crate) fn outputs(encoder: &Encoder<Vec<f64>>, rows: &[Vec<f64>], times: &[i32]) -> Rows {
    let (dim, count) = (rows[0].len(), rows.len());
    let position = |i: usize, c: usize| encoder.input_positions().map_or(0.0, |positions| positions[i * dim + c]);
    let scale = (dim as f64).sqrt();
    let element = |i: usize| (0..dim).map(|c| scale * rows[i][c] + position(i, c)).collect();
    let mut x: Rows = (0..count).map(element).collect();
    let mut all: Vec<Rows> = x.iter().map(|x| vec![x.clone(); encoder.streams.map_or(0, |s| s.count)]).collect();
    for block in &encoder.blocks {
        let (first, second) = (&block.attention_norm, &block.feed_forward_norm);
        let attend = |query: &Rows, source: &Rows| {
            let (query, key_value) = (product(&block.query, query), product(&block.key_value, source));
            let attended = attention(encoder, &query, &key_value, times);
            block.output.as_ref().map_or(attended.clone(), |output| product(output, &attended))
        };
        let feed_forward = |x: &Rows| {
            let mut inner = product(&block.inner, x);
            match encoder.block.kind {
                BlockKind::Transformer => inner.iter_mut().flatten().for_each(|x| *x = x.max(0.0)),
                BlockKind::Ligr => inner.iter_mut().for_each(|row| {
                    let (a, b) = row.split_at(row.len() / 2);
                    *row = a.iter().zip(b).map(|(a, b)| a * logistic(*a) * b).collect();
                }),
            }
            product(&block.outer, &inner)
        };
        let gated = |gate: Option<&Affine<Vec<f64>>>, read: &Rows, made: Rows| match gate {
            None => made,
            Some(gate) => {
                let logits = product(gate, read);
                let rows = made.iter().zip(&logits);
                rows.map(|(made, z)| made.iter().zip(z).map(|(x, z)| x * logistic(*z)).collect()).collect()
            }
        };
        let [first_gate, second_gate] =
            [block.gates.as_ref().map(|gates| &gates.attention), block.gates.as_ref().map(|gates| &gates.feed_forward)];
        // Both sublayers, of the orders in which a layer norm stands before each.
        let attention = |x: &Rows| {
            let source = normalised(first, x);
            gated(first_gate, x, attend(&source, &source))
        };
        let network = |x: &Rows| gated(second_gate, x, feed_forward(&normalised(second, x)));
        if let (Some(shape), Some(weights)) = (encoder.streams, &block.streams) {
            all = sublayer(&weights.attention, shape, &all, attention);
            all = sublayer(&weights.feed_forward, shape, &all, network);
            let mean = |x: &Rows| (0..dim).map(|c| x.iter().map(|x| x[c]).sum::<f64>() / x.len() as f64).collect();
            x = all.iter().map(mean).collect();
            continue;
        }
        x = match encoder.order {
            NormOrder::Original => {
                let query = normalised(first, &x);
                let y = normalised(second, &sum(&query, &attend(&query, &x)));
                sum(&y, &feed_forward(&y))
            }
            NormOrder::Paper | NormOrder::Pre => {
                let y = sum(&x, &attention(&x));
                sum(&y, &network(&y))
            }
            NormOrder::Post => {
                let y = normalised(first, &sum(&x, &attend(&x, &x)));
                normalised(second, &sum(&y, &feed_forward(&y)))
            }
        };
    }
    encoder.last.as_ref().map_or(x.clone(), |last| normalised(last, &x))
}
