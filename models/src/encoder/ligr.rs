//! Computes what LiGR blocks ([`crate::tower::ligr`]) have beside other blocks, forward and backward: gates, and the
//! activation of SwiGLU.

use super::backward::{Scratch, affine_backward};
use super::{Tile, affine};
use crate::lanes::{dispatched, logistic};
use crate::tower::encoder::Affine;

/// What the backward pass needs of a sublayer's gate.
#[derive(Debug, Default)]
pub(super) struct GatePass {
    /// `[queries, dim]` the gate, from 0 to 1.
    gate: Vec<f32>,
    /// `[queries, dim]` what the sublayer made.
    made: Vec<f32>,
}

impl GatePass {
    /// Multiplies what a sublayer made by its gate, which depends on what the sublayer reads. All are `[queries, dim]`.
    pub fn forward(&mut self, gate: &Affine<&[f32]>, read: &[f32], made: &mut Vec<f32>, tile: &mut Tile) {
        std::mem::swap(&mut self.made, made);
        self.gate.resize(self.made.len(), 0.0);
        made.resize(self.made.len(), 0.0);
        affine(gate, read, &mut self.gate, tile);
        multiply_by_gate(&mut self.gate, &self.made, made);
    }

    /// Makes the gradient of the product that of what the sublayer made, adds the gradients of the gate's weights to
    /// theirs, and returns the gradient of what it reads as it comes through the gate.
    pub fn backward(
        &self,
        (gate, groups): (&Affine<&[f32]>, &Affine<usize>),
        read: &[f32],
        d: &mut [f32],
        scratch: &mut Scratch,
        dense: &mut [Vec<f32>],
    ) -> Vec<f32> {
        let (mut d_logits, mut d_read) = (scratch.take(d.len()), scratch.take(d.len()));
        multiply_by_gate_backward(&self.gate, &self.made, d, &mut d_logits);
        affine_backward(gate, groups, read, &d_logits, &mut d_read, dense);
        scratch.give([d_logits]);
        d_read
    }
}

dispatched! {
    /// Makes logits of gates the gates, and writes the products of these with what was made.
    fn multiply_by_gate(gate: &mut [f32], made: &[f32], out: &mut [f32]) {
        for ((gate, made), out) in gate.iter_mut().zip(made).zip(out) {
            *gate = logistic::<FMA>(*gate);
            *out = *gate * made;
        }
    }

    /// Makes the gradient of the products that of what was made, and writes that of the logits.
    fn multiply_by_gate_backward(gate: &[f32], made: &[f32], d: &mut [f32], d_logits: &mut [f32]) {
        for (((gate, made), d), d_logit) in gate.iter().zip(made).zip(d).zip(d_logits) {
            *d_logit = *d * made * gate * (1.0 - gate);
            *d *= gate;
        }
    }

    /// Writes silu(a) b of each row, `[rows, width]`, given a and b side by side, `[rows, 2 width]`.
    pub(super) fn swiglu(factors: &[f32], width: usize, out: &mut [f32]) {
        for (row, out) in factors.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (a, b) = row.split_at(width);
            for ((a, b), out) in a.iter().zip(b).zip(out) {
                *out = a * logistic::<FMA>(*a) * b;
            }
        }
    }

    /// Writes the gradients of a and b, side by side, given that of silu(a) b.
    pub(super) fn swiglu_backward(factors: &[f32], width: usize, d: &[f32], d_factors: &mut [f32]) {
        let rows = factors.chunks_exact(2 * width).zip(d_factors.chunks_exact_mut(2 * width));
        for ((row, d_row), d) in rows.zip(d.chunks_exact(width)) {
            let ((a, b), (d_a, d_b)) = (row.split_at(width), d_row.split_at_mut(width));
            for (((a, b), d), (d_a, d_b)) in a.iter().zip(b).zip(d).zip(d_a.iter_mut().zip(d_b)) {
                let share = logistic::<FMA>(*a);
                *d_b = d * a * share;
                *d_a = d * b * share * (1.0 + a * (1.0 - share));
            }
        }
    }
}
