//! Activations that overwrite their input, and the L2 norm.

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

    /// Appends x / max(‖x‖₂, eps), per row of `width`, and returns whether all these rows have norm 1.
    pub fn normalise(x: &[f32], width: usize, eps: f32, out: &mut Vec<f32>) -> bool {
        let mut unit = true;
        for row in x.chunks_exact(width) {
            let norm = inner::<FMA>(row, row).sqrt();
            // Both comparisons are false for NaN.
            unit &= norm > eps && norm < f32::INFINITY;
            let divisor = if norm > eps { norm } else { eps };
            out.extend(row.iter().map(|x| x / divisor));
        }
        unit
    }
}
