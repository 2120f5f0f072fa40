//! Linear layers in 32-bit floats or 16-bit integers.

use super::Arithmetic;
use super::int16::{RoundedRows, Weight};
use crate::cross::transposed;
use crate::matmul::{Operand, matmul};
use crate::tower::Matrix;

/// A linear layer, with its weight in the form that the matrix product reads.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Product,
    /// `[output]` biases, added to each row of the result.
    pub bias: Vec<f32>,
}

/// The weight in its [`Arithmetic`].
#[derive(Debug)]
enum Product {
    /// `[input, output]`.
    F32(Vec<f32>),
    Int16(Weight),
}

impl Linear {
    /// A layer of the given columns of a weight `[output, input]`.
    pub fn new(
        weight: &Matrix,
        columns: impl IntoIterator<Item = usize>,
        bias: &[f32],
        arithmetic: Arithmetic,
    ) -> Self {
        let weight = transposed(weight, columns);
        let weight = match arithmetic {
            Arithmetic::Float => Product::F32(weight),
            Arithmetic::Int16 => Product::Int16(Weight::new(&weight, bias.len())),
        };
        Self { weight, bias: bias.to_vec() }
    }

    /// Width of the result.
    pub fn output(&self) -> usize {
        self.bias.len()
    }

    /// `y += x W`, `x` of `width` columns.
    pub fn add(&self, x: &[f32], width: usize, y: &mut [f32], rounded: &mut RoundedRows) {
        match &self.weight {
            _ if width == 0 => {}
            Product::F32(weight) => {
                matmul(y, true, 1.0, Operand::rows_of(x, width), Operand::rows_of(weight, self.output()));
            }
            Product::Int16(weight) => weight.product(x, None, y, rounded),
        }
    }

    /// `y = x W + b`, `x` of `width` columns.
    pub fn forward(&self, x: &[f32], width: usize, y: &mut [f32], rounded: &mut RoundedRows) {
        match &self.weight {
            Product::Int16(weight) if width > 0 => weight.product(x, Some(&self.bias), y, rounded),
            _ => {
                y.chunks_exact_mut(self.output()).for_each(|row| row.copy_from_slice(&self.bias));
                self.add(x, width, y, rounded);
            }
        }
    }
}
