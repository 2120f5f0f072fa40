//! The item vectors of an index, which are checked and scaled to unit length.

use crate::dot::square_norm;
use crate::error::IndexError;
use twotower_artifacts::Fingerprint;
use twotower_artifacts::vectors::NORM_TOLERANCE;

/// Item vectors: `[count, dim]` f32, row-major, finite, each of unit L2 norm; rows in item id order.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemVectors {
    dim: usize,
    data: Vec<f32>,
    norms: Vec<f64>,
    fingerprint: Fingerprint,
}

impl ItemVectors {
    /// Checks the vectors and scales each to unit norm (to the last bits of f32).
    ///
    /// # Errors
    /// - [`IndexError::Empty`] without vectors
    /// - [`IndexError::Shape`] when `data` is not whole rows of `dim`
    /// - [`IndexError::NotFinite`], [`IndexError::NotUnit`], naming the row
    /// - [`IndexError::TooLarge`] beyond 2^32 - 2 rows
    pub fn new(dim: usize, mut data: Vec<f32>) -> Result<Self, IndexError> {
        if data.is_empty() {
            return Err(IndexError::Empty);
        }
        if dim == 0 || !data.len().is_multiple_of(dim) {
            return Err(IndexError::Shape { what: "item", values: data.len(), dim });
        }
        let (count, limit) = (data.len() / dim, u32::MAX as usize - 1);
        if count > limit {
            return Err(IndexError::TooLarge { what: "items", count, limit });
        }
        let fingerprint = fingerprint_of(dim, &data);
        for (row, vector) in data.chunks_exact_mut(dim).enumerate() {
            let norm = unit_norm("item", row, vector)?;
            scale(vector, norm);
        }
        let norms = norms_of(dim, &data);
        Ok(Self { dim, data, norms, fingerprint })
    }

    /// Floats per vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of vectors.
    pub fn count(&self) -> usize {
        self.data.len() / self.dim
    }

    /// The unit vectors, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows { dim: self.dim, vectors: &self.data, norms: &self.norms }
    }

    /// Fingerprint of the dimension and of the values as they were given.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

/// Checked item vectors and their norms, borrowed from wherever they are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Floats per vector.
    pub dim: usize,
    /// `[count, dim]` row-major.
    pub vectors: &'a [f32],
    /// `[count]`, each 1 to the last bits of f32.
    pub norms: &'a [f64],
}

impl<'a> Rows<'a> {
    /// Number of vectors.
    pub fn count(&self) -> usize {
        self.norms.len()
    }

    /// The vector of a row.
    #[inline(always)]
    pub fn vector(&self, row: u32) -> &'a [f32] {
        &self.vectors[row as usize * self.dim..][..self.dim]
    }
}

/// Norm of every row.
pub(crate) fn norms_of(dim: usize, data: &[f32]) -> Vec<f64> {
    data.chunks_exact(dim).map(|vector| square_norm(vector).sqrt()).collect()
}

fn fingerprint_of(dim: usize, data: &[f32]) -> Fingerprint {
    // SAFETY: any f32 is four initialised bytes, and the slice covers exactly the values.
    let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
    Fingerprint::of_parts([("dim", (dim as u64).to_le_bytes().as_slice()), ("vectors", bytes)])
}

/// The norm of a vector that is finite and of unit norm within the tolerance.
pub(crate) fn unit_norm(what: &'static str, row: usize, vector: &[f32]) -> Result<f64, IndexError> {
    let norm = square_norm(vector).sqrt();
    if (norm - 1.0).abs() <= NORM_TOLERANCE {
        return Ok(norm);
    }
    // Squares of f32 cannot overflow f64, so if the norm is not finite, one of the values is not.
    Err(match vector.iter().position(|v| !v.is_finite()) {
        Some(position) => IndexError::NotFinite { what, row, position, value: vector[position] },
        None => IndexError::NotUnit { what, row, norm },
    })
}

/// Divides a vector by its norm, rounding once.
pub(crate) fn scale(vector: &mut [f32], norm: f64) {
    vector.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_vectors_are_refused_by_row() {
        let message = |dim, data: &[f32]| ItemVectors::new(dim, data.to_vec()).unwrap_err().to_string();
        assert!(message(2, &[1.0, 0.0, f32::NAN, 0.0]).contains("NaN at row 1, position 0"));
        assert!(message(2, &[1.0, 0.0, 0.0, f32::INFINITY]).contains("inf at row 1, position 1"));
        assert!(message(2, &[1.0, 0.0, 0.0, 0.0]).contains("norm 0 at row 1"));
        assert!(message(2, &[2.0, 0.0]).contains("norm 2 at row 0"));
        assert!(message(2, &[1.0, 0.0, 1.0]).contains("3 values"));
        assert!(message(0, &[1.0]).contains("rows of 0"));
        assert!(message(2, &[]).contains("no item vectors"));
    }

    #[test]
    fn the_fingerprint_is_of_the_given_values_and_the_dimension() {
        let a = ItemVectors::new(2, vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        let b = ItemVectors::new(2, vec![1.0005, 0.0, 0.0, 1.0]).unwrap();
        assert_eq!(a.data(), b.data());
        assert_ne!(a.fingerprint(), b.fingerprint());
        let wide = ItemVectors::new(4, vec![1.0, 0.0, 0.0, 0.0]).unwrap();
        let narrow = ItemVectors::new(1, vec![1.0]).unwrap();
        assert_ne!(wide.fingerprint(), narrow.fingerprint());
    }
}
