//! EASE, a linear model from items to items with a closed form (Steck, "Embarrassingly Shallow Autoencoders for Sparse
//! Data", WWW 2019, arXiv 1905.03375, algorithm 1).

use super::pairs::TrainedPairs;
use crate::error::PipelineError;
use crate::watch::cancel::Cancel;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows of a matrix that are filled between two looks at a request to stop.
const CHUNK: usize = 256;

/// The weights of a fitted model.
pub(super) struct Ease {
    items: usize,
    /// `[items, items]`: what having the item of the row says for the item of the column. The diagonal is zero.
    weights: Vec<f32>,
}

impl Ease {
    /// Fits `B = I - P diag(P)⁻¹`, `P = (XᵀX + λI)⁻¹`, where X says which user took which item.
    ///
    /// # Memory
    /// 16 bytes for each pair of items while P is computed, on one thread and in 64-bit floats; afterwards 4.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] for a λ so small that rounding leaves the matrix without an inverse; a request to stop.
    pub fn fit(pairs: &TrainedPairs, lambda: f64, cancel: &Cancel) -> Result<Self, PipelineError> {
        let items = pairs.items();
        let gram = gram(pairs, lambda, cancel)?;
        let inverse = inverse(gram, items, cancel)?.ok_or_else(|| {
            PipelineError::usage(format!(
                "`evaluate.ease_lambda` = {lambda} is too small for this data: rounding leaves the matrix of EASE without an inverse, expected 1 to 1000"
            ))
        })?;
        let mut weights = vec![0f32; items * items];
        let diagonal: Vec<f64> = (0..items).map(|item| inverse[item * items + item]).collect();
        for (chunk, rows) in weights.chunks_mut((CHUNK * items).max(1)).enumerate() {
            cancel.check("evaluate")?;
            rows.par_chunks_mut(items).enumerate().for_each(|(at, row)| {
                let item = chunk * CHUNK + at;
                for (other, weight) in row.iter_mut().enumerate().filter(|(other, _)| *other != item) {
                    // The inverse is symmetric, and its lower triangle alone is computed: columns one after another.
                    let (low, high) = (item.min(other), item.max(other));
                    *weight = (-inverse[low * items + high] / diagonal[other]) as f32;
                }
            });
        }
        Ok(Self { items, weights })
    }

    /// Writes the score of every item for a user who had the items of `history`, each of them once.
    pub fn score(&self, history: &[u32], out: &mut [f32]) {
        out.fill(0.0);
        for item in history {
            let weights = &self.weights[*item as usize * self.items..][..self.items];
            out.iter_mut().zip(weights).for_each(|(score, weight)| *score += weight);
        }
    }
}

/// `XᵀX + λI`, `[items, items]`.
fn gram(pairs: &TrainedPairs, lambda: f64, cancel: &Cancel) -> Result<Vec<f64>, PipelineError> {
    let items = pairs.items();
    let mut gram = vec![0f64; items * items];
    for (chunk, rows) in gram.chunks_mut((CHUNK * items).max(1)).enumerate() {
        cancel.check("evaluate")?;
        rows.par_chunks_mut(items).enumerate().for_each(|(at, row)| {
            let item = chunk * CHUNK + at;
            for user in pairs.users_of(item) {
                pairs.items_of(*user).iter().for_each(|other| row[*other as usize] += 1.0);
            }
            row[item] += lambda;
        });
    }
    Ok(gram)
}

/// The lower triangle, columns one after another, of the inverse of a symmetric matrix `[n, n]`; none for one that is not
/// positive definite. What is above the triangle is of no meaning.
///
/// With `A = L Lᵀ`, it is `L⁻ᵀ L⁻¹`. On one thread, so that sums do not depend on how many there are.
pub(super) fn inverse(mut matrix: Vec<f64>, n: usize, cancel: &Cancel) -> Result<Option<Vec<f64>>, PipelineError> {
    let mut factor = MatMut::from_column_major_slice_mut(&mut matrix, n, n);
    let mut buffer = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default()));
    let stack = MemStack::new(&mut buffer);
    if cholesky_in_place(factor.as_mut(), LltRegularization::default(), Par::Seq, stack, Default::default()).is_err() {
        return Ok(None);
    }
    cancel.check("evaluate")?;
    let mut inverted = vec![0f64; n * n];
    invert_lower_triangular(MatMut::from_column_major_slice_mut(&mut inverted, n, n), factor.as_ref(), Par::Seq);
    cancel.check("evaluate")?;
    let inverted = MatRef::from_column_major_slice(&inverted, n, n);
    matmul(
        factor,
        BlockStructure::TriangularLower,
        Accum::Replace,
        inverted.transpose(),
        BlockStructure::TriangularUpper,
        inverted,
        BlockStructure::TriangularLower,
        1.0,
        Par::Seq,
    );
    Ok(matrix.iter().step_by(n + 1).all(|x| x.is_finite() && *x > 0.0).then_some(matrix))
}
