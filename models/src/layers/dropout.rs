//! Inverted dropout (Srivastava et al., JMLR 2014): kept elements are scaled in training, and inference does nothing.

use crate::rng::Rng;

/// Drops elements of `x` with probability `rate` and scales the others. Without `noise`, it copies `x`. The
/// backward pass is the same function of dy with the same noise.
pub fn dropout(x: &[f32], rate: f32, noise: Option<Rng>, y: &mut [f32]) {
    let Some(mut noise) = noise else { return y.copy_from_slice(x) };
    let scale = 1.0 / (1.0 - rate);
    for (y, x) in y.iter_mut().zip(x) {
        *y = scale * x;
    }
    noise.each_hit(rate as f64, x.len(), |i| y[i] = 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_dropped_the_rest_is_scaled_and_both_passes_drop_the_same() {
        let draw = |seed| {
            let mut rng = Rng::at(seed, &[]);
            (0..5000).map(|_| rng.normal() as f32).collect::<Vec<f32>>()
        };
        let (x, dy) = (draw(1), draw(2));
        let (mut y, mut dx) = (vec![0.0; 5000], vec![0.0; 5000]);
        dropout(&x, 0.4, Some(Rng::at(3, &[])), &mut y);
        dropout(&dy, 0.4, Some(Rng::at(3, &[])), &mut dx);
        let dropped = y.iter().filter(|y| **y == 0.0).count();
        // Five standard deviations of a binomial.
        assert!(dropped.abs_diff(2000) < 175, "{dropped}");
        for i in 0..5000 {
            let factor = if y[i] == 0.0 { 0.0 } else { 1.0 / 0.6 };
            assert!((y[i] - factor * x[i]).abs() < 1e-5 && (dx[i] - factor * dy[i]).abs() < 1e-5);
        }
        dropout(&x, 0.4, None, &mut y);
        assert_eq!(x, y);
    }
}
