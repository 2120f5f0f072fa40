//! The first part of a row that is not zero.

use crate::lanes::add;

/// The first of the parts of a row that is not zero, by its place. NaN is not zero.
fn first_part(row: &[f32], part: usize) -> Option<usize> {
    row.chunks_exact(part).position(|part| part.iter().any(|x| *x != 0.0))
}

/// y = the first part that is not zero, or the default, per row of `width`. A part is as wide as the default.
pub fn forward(x: &[f32], default: &[f32], width: usize, y: &mut [f32]) {
    let part = default.len();
    for (y, x) in y.chunks_exact_mut(part).zip(x.chunks_exact(width)) {
        y.copy_from_slice(first_part(x, part).map_or(default, |first| &x[first * part..][..part]));
    }
}

/// Gives dy to the part that was taken, or adds it to the gradient of the default.
pub fn backward(x: &[f32], dy: &[f32], dx: &mut [f32], width: usize, d_default: &mut [f32]) {
    let part = d_default.len();
    for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(part)) {
        dx.fill(0.0);
        match first_part(x, part) {
            Some(first) => dx[first * part..][..part].copy_from_slice(dy),
            None => add(d_default, dy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_that_is_not_zero_is_taken_and_gets_the_gradient() {
        let x = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0, -0.0, 0.0, 0.0, 7.0, 8.0, 9.0];
        let (mut y, default) = ([0.0; 8], [10.0, 11.0]);
        forward(&x, &default, 4, &mut y);
        assert_eq!(y, [1.0, 2.0, 5.0, 6.0, 10.0, 11.0, 0.0, 7.0]);
        let dy = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let (mut dx, mut d_default) = ([9.0; 16], [0.5, 0.0]);
        backward(&x, &dy, &mut dx, 4, &mut d_default);
        assert_eq!(dx, [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0, 0.0, 0.0]);
        assert_eq!(d_default, [5.5, 6.0]);
    }

    #[test]
    fn a_value_that_is_no_number_is_not_taken_for_none() {
        let mut y = [0.0; 2];
        forward(&[f32::NAN, 0.0, 1.0, 1.0], &[3.0, 3.0], 4, &mut y);
        assert!(y[0].is_nan());
    }
}
