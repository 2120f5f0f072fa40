//! Layer normalisation (Ba et al., 2016): rows of mean 0 and variance 1, then a gain and a bias per channel.

use crate::lanes::{dispatched, inner, total};

/// Writes the row minus its mean to `centred`, and returns the inverse of its deviation.
#[inline(always)]
fn moments<const FMA: bool>(row: &[f32], eps: f32, centred: &mut [f32]) -> f32 {
    let mean = total(row) / row.len() as f32;
    centred.iter_mut().zip(row).for_each(|(c, x)| *c = x - mean);
    let variance = inner::<FMA>(centred, centred) / row.len() as f32;
    1.0 / (variance + eps).sqrt()
}

dispatched! {
    /// y = (x - mean) / sqrt(variance + eps) * gain + bias, per row.
    pub fn forward(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let width = gain.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let inverse = moments::<FMA>(x, eps, y);
            for ((y, gain), bias) in y.iter_mut().zip(gain).zip(bias) {
                *y = *y * inverse * gain + bias;
            }
        }
    }

    /// Computes dx, and adds the gradients of gain and bias to theirs.
    pub fn backward(
        x: &[f32],
        gain: &[f32],
        eps: f32,
        dy: &[f32],
        dx: &mut [f32],
        gradients: (&mut [f32], &mut [f32]),
    ) {
        let width = gain.len();
        let (d_gain, d_bias) = gradients;
        let (mut normal, mut d_normal) = (vec![0.0; width], vec![0.0; width]);
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        for (dx, (x, dy)) in dx.chunks_exact_mut(width).zip(rows) {
            let inverse = moments::<FMA>(x, eps, &mut normal);
            let channels = normal.iter_mut().zip(&mut d_normal).zip(dy.iter().zip(gain));
            for (((normal, d_normal), (dy, gain)), (d_gain, d_bias)) in channels.zip(d_gain.iter_mut().zip(&mut *d_bias)) {
                *normal *= inverse;
                *d_normal = dy * gain;
                *d_gain += dy * *normal;
                *d_bias += dy;
            }
            let mean = total(&d_normal) / width as f32;
            let along = inner::<FMA>(&d_normal, &normal) / width as f32;
            for (dx, (d_normal, normal)) in dx.iter_mut().zip(d_normal.iter().zip(&normal)) {
                *dx = (d_normal - mean - normal * along) * inverse;
            }
        }
    }
}
