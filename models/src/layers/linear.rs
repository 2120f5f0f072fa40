//! The affine layer.

use crate::lanes::add;
use crate::matmul::{Operand, matmul};
use crate::params::Parameters;
use crate::rng::Rng;
use crate::tower::{self, Matrix};

/// y = x Wᵀ + b; parameters named by their dense group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    /// Group of the weight, `[output, input]`.
    pub weight: usize,
    /// Group of the bias, `[output]`.
    pub bias: usize,
    /// Output width.
    pub output: usize,
}

impl Linear {
    /// Adds the two groups: weights uniform in ±sqrt(6 / (input + output)) (Glorot and Bengio,
    /// AISTATS 2010), bias zero.
    pub fn new(parameters: &mut Parameters, name: &str, input: usize, output: usize, mut rng: Rng) -> Self {
        let bound = (6.0 / (input + output) as f64).sqrt();
        let values = (0..input * output).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect();
        let weight = parameters.add_dense(format!("{name}/weight"), output, input, true, values);
        let bias = parameters.add_dense(format!("{name}/bias"), 1, output, false, vec![0.0; output]);
        Self { weight, bias, output }
    }

    pub(super) fn forward(&self, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        let (weight, bias) = (&parameters.dense[self.weight], &parameters.dense[self.bias].values);
        for row in y.chunks_exact_mut(self.output) {
            row.copy_from_slice(bias);
        }
        matmul(
            y,
            true,
            1.0,
            Operand::rows_of(x, weight.cols),
            Operand::rows_of(&weight.values, weight.cols).transposed(),
        );
    }

    pub(super) fn backward(
        &self,
        parameters: &Parameters,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut [Vec<f32>],
    ) {
        let weight = &parameters.dense[self.weight];
        let dy_rows = Operand::rows_of(dy, self.output);
        matmul(&mut gradients[self.weight], true, 1.0, dy_rows.transposed(), Operand::rows_of(x, weight.cols));
        for row in dy.chunks_exact(self.output) {
            add(&mut gradients[self.bias], row);
        }
        matmul(dx, false, 1.0, dy_rows, Operand::rows_of(&weight.values, weight.cols));
    }

    pub(super) fn export(&self, parameters: &Parameters) -> tower::Layer {
        let weight = &parameters.dense[self.weight];
        tower::Layer::Linear {
            weight: Matrix { rows: weight.rows, cols: weight.cols, data: weight.values.clone() },
            bias: parameters.dense[self.bias].values.clone(),
        }
    }
}
