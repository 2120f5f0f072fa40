//! Principal axes of vectors.

use crate::error::ModelError;
use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// The most vectors that are looked at, evenly spaced: more would change little.
const VECTORS: usize = 1 << 14;
/// Vectors that are added up together.
const RUN: usize = 1024;

/// The first `count` principal axes of vectors `[vectors, dim]`, as `[count, dim]`: directions of length 1 at right angles
/// to each other, along which the vectors have the largest sums of squares.
///
/// They are about the origin, not about the mean, so inner products of coordinates along them are as close to those of the
/// vectors as `count` numbers allow (Eckart and Young, Psychometrika 1936). Of an axis and its opposite, the one is taken
/// whose largest number is positive.
///
/// # Memory
/// 24 bytes for each pair of `dim` numbers. On one thread, so that sums do not depend on how many there are.
///
/// # Errors
/// [`ModelError::Data`] when the eigenvalues cannot be computed.
pub(crate) fn principal_axes(vectors: &[f32], dim: usize, count: usize) -> Result<Vec<f32>, ModelError> {
    let all = vectors.len() / dim;
    let taken = all.min(VECTORS);
    let mut moments = vec![0f64; dim * dim];
    let mut run: Vec<f64> = Vec::with_capacity(RUN * dim);
    for first in (0..taken).step_by(RUN) {
        run.clear();
        for vector in first..taken.min(first + RUN) {
            let at = vector * all / taken;
            run.extend(vectors[at * dim..][..dim].iter().map(|x| f64::from(*x)));
        }
        let rows = MatRef::from_row_major_slice(&run, run.len() / dim, dim);
        let sum = MatMut::from_column_major_slice_mut(&mut moments, dim, dim);
        matmul(sum, Accum::Add, rows.transpose(), rows, 1.0, Par::Seq);
    }
    let (mut values, mut axes) = (vec![0f64; dim], vec![0f64; dim * dim]);
    let scratch = self_adjoint_evd_scratch::<f64>(dim, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let mut buffer = MemBuffer::new(scratch);
    let done = self_adjoint_evd(
        MatRef::from_column_major_slice(&moments, dim, dim),
        DiagMut::from_slice_mut(&mut values),
        Some(MatMut::from_column_major_slice_mut(&mut axes, dim, dim)),
        Par::Seq,
        MemStack::new(&mut buffer),
        Default::default(),
    );
    if done.is_err() || !values.iter().chain(&axes).all(|x| x.is_finite()) {
        return Err(ModelError::Data {
            reason: format!(
                "the principal axes of {all} vectors of {dim} numbers cannot be computed; are some of them enormous?"
            ),
        });
    }
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let mut first = Vec::with_capacity(count * dim);
    for axis in order.into_iter().take(count).map(|axis| &axes[axis * dim..][..dim]) {
        let largest = axis.iter().fold(0f64, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
        first.extend(axis.iter().map(|x| (x * largest.signum()) as f32));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::dot;
    use crate::rng::Rng;

    /// `[vectors, dim]` vectors that have their parts along known axes with known deviations.
    fn planted(vectors: usize, dim: usize, deviations: &[f64]) -> (Vec<f32>, Vec<f32>) {
        let mut rng = Rng::at(5, &[]);
        let mut axes: Vec<Vec<f64>> = Vec::new();
        for _ in deviations {
            let mut axis: Vec<f64> = (0..dim).map(|_| rng.normal()).collect();
            for other in &axes {
                let along: f64 = axis.iter().zip(other).map(|(a, b)| a * b).sum();
                axis.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
            let norm = axis.iter().map(|x| x * x).sum::<f64>().sqrt();
            axes.push(axis.iter().map(|x| x / norm).collect());
        }
        let mut made = Vec::new();
        for _ in 0..vectors {
            let parts: Vec<f64> = deviations.iter().map(|deviation| deviation * rng.normal()).collect();
            made.extend((0..dim).map(|i| axes.iter().zip(&parts).map(|(a, p)| a[i] * p).sum::<f64>() as f32));
        }
        (made, axes.concat().iter().map(|x| *x as f32).collect())
    }

    #[test]
    fn the_axes_are_those_along_which_vectors_are_longest_in_order_and_their_signs_are_fixed() {
        for (vectors, dim) in [(3000, 7), (VECTORS + 900, 20)] {
            let (made, planted) = planted(vectors, dim, &[4.0, 2.0, 1.0]);
            let axes = principal_axes(&made, dim, 3).unwrap();
            assert_eq!(axes.len(), 3 * dim);
            for (found, expected) in axes.chunks_exact(dim).zip(planted.chunks_exact(dim)) {
                assert!(dot(found, expected).abs() > 0.99, "{found:?}, planted {expected:?}");
                assert!((dot(found, found) - 1.0).abs() < 1e-5);
                let largest = found.iter().fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a });
                assert!(largest > 0.0);
            }
            // Vectors turned round have the same axes.
            let turned: Vec<f32> = made.iter().map(|x| -x).collect();
            assert_eq!(principal_axes(&turned, dim, 3).unwrap(), axes);
        }
    }

    #[test]
    fn inner_products_along_all_axes_are_those_of_the_vectors_and_no_numbers_are_refused() {
        let (made, _) = planted(40, 6, &[3.0, 1.0, 0.5, 0.2, 0.1, 0.01]);
        let axes = principal_axes(&made, 6, 6).unwrap();
        let along = |row: &[f32]| axes.chunks_exact(6).map(|axis| dot(axis, row)).collect::<Vec<f32>>();
        for (a, b) in made.chunks_exact(6).zip(made.chunks_exact(6).rev()) {
            assert!((dot(a, b) - dot(&along(a), &along(b))).abs() < 1e-4);
        }
        let error = principal_axes(&[f32::NAN; 12], 6, 2).unwrap_err();
        assert!(error.to_string().contains("2 vectors of 6 numbers"), "{error}");
    }
}
