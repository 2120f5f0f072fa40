//! Elementwise activations: ReLU and PReLU.

use crate::lanes::dispatched;

dispatched! {
    /// y = max(x, 0).
    pub fn relu(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = if *x > 0.0 { *x } else { 0.0 };
        }
    }

    /// dx = dy where x > 0, else 0.
    pub fn relu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = if *x > 0.0 { *dy } else { 0.0 };
        }
    }

    /// y = max(x, 0) + slope * min(x, 0), row by row.
    pub fn prelu(x: &[f32], slope: &[f32], y: &mut [f32]) {
        let width = slope.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for ((y, x), slope) in y.iter_mut().zip(x).zip(slope) {
                *y = if *x > 0.0 { *x } else { *slope * *x };
            }
        }
    }

    /// Computes dx of [`prelu`], and adds the gradient of the slopes to `d_slope`.
    pub fn prelu_backward(x: &[f32], slope: &[f32], dy: &[f32], dx: &mut [f32], d_slope: &mut [f32]) {
        let width = slope.len();
        for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            for i in 0..width {
                let negative = x[i] <= 0.0;
                dx[i] = if negative { slope[i] * dy[i] } else { dy[i] };
                d_slope[i] += if negative { x[i] * dy[i] } else { 0.0 };
            }
        }
    }
}
