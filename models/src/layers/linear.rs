//! The affine layer.

use crate::lanes::add;
use crate::matmul::{Operand, matmul};
use crate::params::Dense;

/// y = x Wᵀ + b, with a weight `[output, input]` and a bias `[output]`.
pub fn forward(weight: &Dense, bias: &[f32], x: &[f32], y: &mut [f32]) {
    for row in y.chunks_exact_mut(bias.len()) {
        row.copy_from_slice(bias);
    }
    let weights = Operand::rows_of(&weight.values, weight.cols);
    matmul(y, true, 1.0, Operand::rows_of(x, weight.cols), weights.transposed());
}

/// Computes dx, and adds the gradients of weight and bias to theirs.
pub fn backward(weight: &Dense, x: &[f32], dy: &[f32], dx: &mut [f32], d_weight: &mut [f32], d_bias: &mut [f32]) {
    let dy_rows = Operand::rows_of(dy, weight.rows);
    matmul(d_weight, true, 1.0, dy_rows.transposed(), Operand::rows_of(x, weight.cols));
    for row in dy.chunks_exact(weight.rows) {
        add(d_bias, row);
    }
    matmul(dx, false, 1.0, dy_rows, Operand::rows_of(&weight.values, weight.cols));
}
