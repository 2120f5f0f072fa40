//! Inverted dropout (Srivastava et al., JMLR 2014): kept elements are scaled in training, and inference does nothing.

use crate::lanes::dispatched;
use crate::rng::Rng;

/// Drops elements of `x` with probability `rate`, to within 2^-32, and scales the others. Without `noise`, it copies `x`.
/// The backward pass is the same function of dy with the same noise.
pub fn dropout(x: &[f32], rate: f32, noise: Option<Rng>, y: &mut [f32]) {
    let Some(mut noise) = noise else { return y.copy_from_slice(x) };
    let key = noise.bits();
    let dropped = (f64::from(rate) * 2f64.powi(32)) as u32;
    keep(x, y, 1.0 / (1.0 - rate), dropped, (key as u32, (key >> 32) as u32));
}

dispatched! {
    /// Scales the elements whose random number is not below `dropped`. The number of an element is a hash of its index
    /// and the key, with the multipliers of Wellons' `lowbias32`, so that no element waits for the one before.
    fn keep(x: &[f32], y: &mut [f32], scale: f32, dropped: u32, key: (u32, u32)) {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let mut bits = i as u32 ^ key.0;
            bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d) ^ key.1;
            bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
            bits ^= bits >> 16;
            *y = if bits < dropped { 0.0 } else { scale * x };
        }
    }
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

    #[test]
    fn neither_neighbours_nor_neighbouring_keys_are_dropped_together() {
        let ones = vec![1.0; 200_000];
        let draws: Vec<Vec<f32>> = (0..8)
            .map(|key| {
                let mut y = vec![0.0; ones.len()];
                dropout(&ones, 0.2, Some(Rng::at(5, &[key])), &mut y);
                y
            })
            .collect();
        // The share of pairs of which both are dropped is 0.04, within five standard deviations of a binomial.
        let both = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>| {
            let dropped = pairs.filter(|(a, b)| **a == 0.0 && **b == 0.0).count();
            assert!(dropped.abs_diff(8000) < 440, "{dropped}");
        };
        for draw in &draws {
            for distance in [1, 2, 8, 64, 16_384] {
                // Pairs are fewer by the distance, and wrap around.
                both(&mut draw.iter().zip(draw.iter().cycle().skip(distance)));
            }
        }
        for pair in draws.windows(2) {
            both(&mut pair[0].iter().zip(&pair[1]));
        }
    }
}
