//! L2 normalisation of rows.

use crate::lanes::{dispatched, inner};

dispatched! {
    /// y = x / max(‖x‖₂, eps), per row of `width`.
    pub fn forward(x: &[f32], width: usize, eps: f32, y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let norm = inner::<FMA>(x, x).sqrt();
            let divisor = if norm < eps { eps } else { norm };
            for (y, x) in y.iter_mut().zip(x) {
                *y = *x / divisor;
            }
        }
    }

    /// dx = (dy - y ⟨y, dy⟩) / ‖x‖ above the floor, dy / eps below it.
    pub fn backward(x: &[f32], y: &[f32], dy: &[f32], width: usize, eps: f32, dx: &mut [f32]) {
        let rows = x.chunks_exact(width).zip(y.chunks_exact(width)).zip(dy.chunks_exact(width));
        for (dx, ((x, y), dy)) in dx.chunks_exact_mut(width).zip(rows) {
            let norm = inner::<FMA>(x, x).sqrt();
            let (divisor, along) = if norm < eps { (eps, 0.0) } else { (norm, inner::<FMA>(y, dy)) };
            for i in 0..width {
                dx[i] = (dy[i] - y[i] * along) / divisor;
            }
        }
    }
}
