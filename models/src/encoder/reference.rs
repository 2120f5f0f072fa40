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

/// Row i is the mean of the values of rows 0 to i, weighted by the softmax of `q k / √(dim / heads)`, for each head.
fn attention(query: &Rows, key_value: &Rows, heads: usize) -> Rows {
    let dim = query[0].len();
    let width = dim / heads;
    let mut out = vec![vec![0.0; dim]; query.len()];
    for head in (0..dim).step_by(width) {
        for i in 0..query.len() {
            let inner = |j: usize| (head..head + width).map(|c| query[i][c] * key_value[j][c]).sum::<f64>();
            let weights: Vec<f64> = (0..=i).map(|j| (inner(j) / (width as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (j, weight) in weights.iter().enumerate() {
                (head..head + width).for_each(|c| out[i][c] += weight / total * key_value[j][dim + c]);
            }
        }
    }
    out
}

/// The outputs of all elements of a sequence whose rows of the table are given, oldest first.
pub(crate) fn outputs(encoder: &Encoder<Vec<f64>>, rows: &[Vec<f64>]) -> Rows {
    let (dim, count) = (rows[0].len(), rows.len());
    let position = |i: usize| &encoder.positions[i * dim..][..dim];
    let scale = (dim as f64).sqrt();
    let element = |i: usize| rows[i].iter().zip(position(i)).map(|(x, p)| scale * x + p).collect();
    let mut x: Rows = (0..count).map(element).collect();
    for block in &encoder.blocks {
        let (first, second) = (&block.attention_norm, &block.feed_forward_norm);
        let attend = |query: &Rows, source: &Rows| {
            let attended = attention(&product(&block.query, query), &product(&block.key_value, source), encoder.heads);
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
