//! Encoders in f64, one sequence at a time, as they are defined: the oracle of the tests.

use crate::tower::encoder::{Affine, Encoder, NORM_EPS, Norm, NormOrder};

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

/// The outputs of all elements of a sequence whose rows of the table are given, oldest first, and whose times on the
/// scale of intervals, if the encoder reads them.
pub(crate) fn outputs(encoder: &Encoder<Vec<f64>>, rows: &[Vec<f64>], times: &[i32]) -> Rows {
    let (dim, count) = (rows[0].len(), rows.len());
    let position = |i: usize, c: usize| encoder.input_positions().map_or(0.0, |positions| positions[i * dim + c]);
    let scale = (dim as f64).sqrt();
    let element = |i: usize| (0..dim).map(|c| scale * rows[i][c] + position(i, c)).collect();
    let mut x: Rows = (0..count).map(element).collect();
    for block in &encoder.blocks {
        let (first, second) = (&block.attention_norm, &block.feed_forward_norm);
        let attend = |query: &Rows, source: &Rows| {
            let (query, key_value) = (product(&block.query, query), product(&block.key_value, source));
            let attended = attention(encoder, &query, &key_value, times);
            block.output.as_ref().map_or(attended.clone(), |output| product(output, &attended))
        };
        let feed_forward = |x: &Rows| {
            let mut inner = product(&block.inner, x);
            inner.iter_mut().flatten().for_each(|x| *x = x.max(0.0));
            product(&block.outer, &inner)
        };
        x = match encoder.order {
            NormOrder::Original => {
                let query = normalised(first, &x);
                let y = normalised(second, &sum(&query, &attend(&query, &x)));
                sum(&y, &feed_forward(&y))
            }
            NormOrder::Paper | NormOrder::Pre => {
                let source = normalised(first, &x);
                let y = sum(&x, &attend(&source, &source));
                sum(&y, &feed_forward(&normalised(second, &y)))
            }
            NormOrder::Post => {
                let y = normalised(first, &sum(&x, &attend(&x, &x)));
                normalised(second, &sum(&y, &feed_forward(&y)))
            }
        };
    }
    encoder.last.as_ref().map_or(x.clone(), |last| normalised(last, &x))
}
