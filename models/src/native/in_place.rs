//! Activations and the norm, written over their input.

use crate::lanes::{dispatched, inner};

dispatched! {
    /// x = max(x, 0) + slope * min(x, 0), row by row.
    pub fn prelu(x: &mut [f32], slope: &[f32]) {
        for row in x.chunks_exact_mut(slope.len()) {
            for (x, slope) in row.iter_mut().zip(slope) {
                *x = if *x > 0.0 { *x } else { *slope * *x };
            }
        }
    }

    /// x = max(x, 0).
    pub fn relu(x: &mut [f32]) {
        for x in x {
            *x = if *x > 0.0 { *x } else { 0.0 };
        }
    }

    /// x = x / max(‖x‖₂, eps), per row of `width`.
    pub fn normalise(x: &mut [f32], width: usize, eps: f32) {
        for row in x.chunks_exact_mut(width) {
            let norm = inner::<FMA>(row, row).sqrt();
            let divisor = if norm > eps { norm } else { eps };
            row.iter_mut().for_each(|x| *x /= divisor);
        }
    }
}
