//! H_res of hyper-connections ([`crate::tower::streams`]) from its logits, and the way back, for a tile of elements at a
//! time: each entry of a matrix stands for all elements of the tile, so that loops over elements vectorise.

use super::TILE;
use crate::lanes::{dispatched, exp, multiply_add};
use crate::tower::streams::{FLOOR, Mixing, StreamShape, permutations};

/// Elements of a tile whose matrices are in registers together.
const GROUP: usize = 8;

type Lanes = [f32; GROUP];
type Square<const N: usize> = [[Lanes; N]; N];

/// How the H_res of a tile is made.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mixtures {
    /// By Sinkhorn's iteration.
    Sinkhorn {
        /// Number of streams.
        count: usize,
        /// Number of rounds.
        rounds: usize,
    },
    /// As a mixture of these permutations.
    Permutations(Vec<Vec<usize>>),
}

impl Mixtures {
    pub fn of(shape: StreamShape) -> Self {
        match shape.mixing {
            Mixing::Sinkhorn(rounds) => Self::Sinkhorn { count: shape.count, rounds },
            Mixing::Permutations => Self::Permutations(permutations(shape.count)),
        }
    }

    /// Writes H_res of a tile, `[n n, TILE]`, given its logits, `[_, TILE]`. Returns the largest difference between the
    /// sum of a column and 1, among the first `used` elements.
    pub fn forward(&self, logits: &[f32], out: &mut [f32], used: usize) -> f32 {
        match self {
            Self::Sinkhorn { count, rounds } => {
                balance(logits, *count, *rounds, out);
                column_error(out, *count, used)
            }
            Self::Permutations(all) => {
                let mut weights = logits.to_vec();
                softmax(&mut weights);
                mix(all, &weights, out);
                0.0
            }
        }
    }

    /// Writes the gradient of the logits of a tile, given that of its H_res.
    pub fn backward(&self, logits: &[f32], d: &[f32], d_logits: &mut [f32]) {
        match self {
            Self::Sinkhorn { count, rounds } => balance_backward(logits, *count, *rounds, d, d_logits),
            Self::Permutations(all) => {
                let mut weights = logits.to_vec();
                softmax(&mut weights);
                unmix(all, d, d_logits);
                softmax_backward(&weights, d_logits);
            }
        }
    }
}

/// Calls `$function::<FMA, N>` with N = `$count`, which is at most [`crate::tower::streams::MAX_STREAMS`].
macro_rules! by_count {
    ($count:expr, $function:ident($($arg:expr),*)) => {
        match $count {
            1 => $function::<FMA, 1>($($arg),*),
            2 => $function::<FMA, 2>($($arg),*),
            3 => $function::<FMA, 3>($($arg),*),
            _ => $function::<FMA, 4>($($arg),*),
        }
    };
}
pub(super) use by_count;

dispatched! {
    /// Sinkhorn's iteration on the exponentials of the logits of a tile.
    fn balance(logits: &[f32], count: usize, rounds: usize, out: &mut [f32]) {
        by_count!(count, balance_tile(logits, rounds, out))
    }

    /// The gradient of the logits of a tile, given that of what Sinkhorn's iteration makes of them.
    fn balance_backward(logits: &[f32], count: usize, rounds: usize, d: &[f32], d_logits: &mut [f32]) {
        by_count!(count, balance_tile_backward(logits, rounds, d, d_logits))
    }

    /// The softmax of each element's logits.
    fn softmax(logits: &mut [f32]) {
        let mut top = [f32::NEG_INFINITY; TILE];
        for row in logits.chunks_exact(TILE) {
            top.iter_mut().zip(row).for_each(|(top, x)| *top = if *x > *top { *x } else { *top });
        }
        let mut sum = [0.0; TILE];
        for row in logits.chunks_exact_mut(TILE) {
            for ((x, top), sum) in row.iter_mut().zip(&top).zip(&mut sum) {
                *x = exp::<FMA>(*x - top);
                *sum += *x;
            }
        }
        sum.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        for row in logits.chunks_exact_mut(TILE) {
            row.iter_mut().zip(&sum).for_each(|(x, inverse)| *x *= inverse);
        }
    }

    /// Replaces the gradients of weights by those of the logits of which they are the softmax.
    fn softmax_backward(weights: &[f32], d: &mut [f32]) {
        let mut along = [0.0; TILE];
        for (weights, d) in weights.chunks_exact(TILE).zip(d.chunks_exact(TILE)) {
            for ((along, w), d) in along.iter_mut().zip(weights).zip(d) {
                *along = multiply_add::<FMA>(*w, *d, *along);
            }
        }
        for (weights, d) in weights.chunks_exact(TILE).zip(d.chunks_exact_mut(TILE)) {
            d.iter_mut().zip(weights).zip(&along).for_each(|((d, w), along)| *d = w * (*d - along));
        }
    }
}

/// Writes the sums of permutation matrices by weight.
fn mix(all: &[Vec<usize>], weights: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (permutation, weights) in all.iter().zip(weights.chunks_exact(TILE)) {
        for (to, from) in permutation.iter().enumerate() {
            let entry = (to * permutation.len() + from) * TILE;
            out[entry..entry + TILE].iter_mut().zip(weights).for_each(|(x, weight)| *x += weight);
        }
    }
}

/// Writes the gradients of the weights of permutation matrices.
fn unmix(all: &[Vec<usize>], d: &[f32], d_weights: &mut [f32]) {
    d_weights.fill(0.0);
    for (permutation, d_weights) in all.iter().zip(d_weights.chunks_exact_mut(TILE)) {
        for (to, from) in permutation.iter().enumerate() {
            let entry = (to * permutation.len() + from) * TILE;
            d_weights.iter_mut().zip(&d[entry..entry + TILE]).for_each(|(x, d)| *x += d);
        }
    }
}

/// The largest difference between the sum of a column and 1.
fn column_error(matrices: &[f32], count: usize, used: usize) -> f32 {
    let mut worst = 0.0f32;
    for column in 0..count {
        for element in 0..used {
            let entries = (0..count).map(|row| matrices[(row * count + column) * TILE + element]);
            worst = worst.max((entries.sum::<f32>() - 1.0).abs());
        }
    }
    worst
}

#[inline(always)]
fn load<const N: usize>(from: &[f32], first: usize) -> Square<N> {
    let mut square = [[[0.0; GROUP]; N]; N];
    for i in 0..N {
        for j in 0..N {
            square[i][j].copy_from_slice(&from[(i * N + j) * TILE + first..][..GROUP]);
        }
    }
    square
}

#[inline(always)]
fn store<const N: usize>(square: &Square<N>, to: &mut [f32], first: usize) {
    for i in 0..N {
        for j in 0..N {
            to[(i * N + j) * TILE + first..][..GROUP].copy_from_slice(&square[i][j]);
        }
    }
}

/// exp of each logit less the largest of its column, which the first sums of columns make up for. Also whether each is
/// above the floor.
#[inline(always)]
fn exponentials<const FMA: bool, const N: usize>(m: &mut Square<N>) {
    for j in 0..N {
        let mut top = m[0][j];
        for row in m.iter().skip(1) {
            for l in 0..GROUP {
                top[l] = if row[j][l] > top[l] { row[j][l] } else { top[l] };
            }
        }
        for row in m.iter_mut() {
            for l in 0..GROUP {
                let x = row[j][l] - top[l];
                row[j][l] = exp::<FMA>(if x < FLOOR { FLOOR } else { x });
            }
        }
    }
}

/// Divides the entries of each column by their sum. Returns the sums.
#[inline(always)]
fn divide_columns<const N: usize>(m: &mut Square<N>) -> [Lanes; N] {
    let mut sums = m[0];
    for row in m.iter().skip(1) {
        for j in 0..N {
            for l in 0..GROUP {
                sums[j][l] += row[j][l];
            }
        }
    }
    let mut inverse = sums;
    inverse.iter_mut().flatten().for_each(|x| *x = 1.0 / *x);
    for row in m.iter_mut() {
        for j in 0..N {
            for l in 0..GROUP {
                row[j][l] *= inverse[j][l];
            }
        }
    }
    sums
}

/// Divides the entries of each row by their sum. Returns the sums.
#[inline(always)]
fn divide_rows<const N: usize>(m: &mut Square<N>) -> [Lanes; N] {
    let mut sums = [[0.0; GROUP]; N];
    for (row, sum) in m.iter_mut().zip(&mut sums) {
        for entry in row.iter() {
            for l in 0..GROUP {
                sum[l] += entry[l];
            }
        }
        let mut inverse = *sum;
        inverse.iter_mut().for_each(|x| *x = 1.0 / *x);
        for entry in row.iter_mut() {
            for l in 0..GROUP {
                entry[l] *= inverse[l];
            }
        }
    }
    sums
}

#[inline(always)]
fn balance_tile<const FMA: bool, const N: usize>(logits: &[f32], rounds: usize, out: &mut [f32]) {
    for first in (0..TILE).step_by(GROUP) {
        let mut m = load::<N>(logits, first);
        exponentials::<FMA, N>(&mut m);
        for _ in 0..rounds {
            divide_columns(&mut m);
            divide_rows(&mut m);
        }
        store(&m, out, first);
    }
}

/// Each division y = x / s by a sum s has the gradient dx = (dy - Σ dy y) / s. What it divided is y s again.
#[inline(always)]
fn balance_tile_backward<const FMA: bool, const N: usize>(
    logits: &[f32],
    rounds: usize,
    d_out: &[f32],
    d_logits: &mut [f32],
) {
    let mut sums = vec![[[[0.0; GROUP]; N]; 2]; rounds];
    for first in (0..TILE).step_by(GROUP) {
        let logits = load::<N>(logits, first);
        let mut m = logits;
        exponentials::<FMA, N>(&mut m);
        let start = m;
        for sums in &mut sums {
            sums[0] = divide_columns(&mut m);
            sums[1] = divide_rows(&mut m);
        }
        let mut d = load::<N>(d_out, first);
        for [columns, rows] in sums.iter().rev() {
            for i in 0..N {
                let mut along = [0.0; GROUP];
                for j in 0..N {
                    for l in 0..GROUP {
                        along[l] = multiply_add::<FMA>(d[i][j][l], m[i][j][l], along[l]);
                    }
                }
                let mut inverse = rows[i];
                inverse.iter_mut().for_each(|x| *x = 1.0 / *x);
                for j in 0..N {
                    for l in 0..GROUP {
                        d[i][j][l] = (d[i][j][l] - along[l]) * inverse[l];
                        m[i][j][l] *= rows[i][l];
                    }
                }
            }
            let mut along = [[0.0; GROUP]; N];
            for i in 0..N {
                for j in 0..N {
                    for l in 0..GROUP {
                        along[j][l] = multiply_add::<FMA>(d[i][j][l], m[i][j][l], along[j][l]);
                    }
                }
            }
            let mut inverse = *columns;
            inverse.iter_mut().flatten().for_each(|x| *x = 1.0 / *x);
            for i in 0..N {
                for j in 0..N {
                    for l in 0..GROUP {
                        d[i][j][l] = (d[i][j][l] - along[j][l]) * inverse[j][l];
                        m[i][j][l] *= columns[j][l];
                    }
                }
            }
        }
        // What counts as the floor does not depend on its logit.
        let floor = exp::<FMA>(FLOOR);
        for i in 0..N {
            for j in 0..N {
                for l in 0..GROUP {
                    let x = start[i][j][l];
                    d[i][j][l] *= if x > floor { x } else { 0.0 };
                }
            }
        }
        store(&d, d_logits, first);
    }
}
