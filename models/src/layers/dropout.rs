//! Dropout (Srivastava et al., JMLR 2014), inverted: training scales, inference does nothing.

use crate::rng::Rng;

/// Drops elements of `x`; without `noise` copies. The backward pass is the same function of dy with
/// the same noise.
pub fn forward(x: &[f32], rate: f32, noise: Option<Rng>, y: &mut [f32]) {
    let Some(mut noise) = noise else { return y.copy_from_slice(x) };
    let scale = 1.0 / (1.0 - rate);
    for (y, x) in y.iter_mut().zip(x) {
        *y = scale * x;
    }
    noise.each_hit(rate as f64, x.len(), |i| y[i] = 0.0);
}
