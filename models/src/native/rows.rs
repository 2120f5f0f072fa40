//! Rows of folded tables, in either precision.

use crate::sparse::weighted_rows;
use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;

/// Rows as wide as the first layer.
#[derive(Debug)]
pub(super) enum Rows {
    F32(Vec<f32>),
    /// Half the bytes: fetching rows from a cache that cores share is what adding them waits for.
    F16(Vec<f16>),
}

impl Rows {
    /// The same in 16-bit floats, unless one is beyond their range.
    pub fn rounded(&self) -> Self {
        match self {
            Rows::F32(rows) => {
                let halves = Vec::<f16>::from_f32_slice(rows);
                match halves.iter().all(|v| v.is_finite()) {
                    true => Rows::F16(halves),
                    false => Rows::F32(rows.clone()),
                }
            }
            Rows::F16(rows) => Rows::F16(rows.clone()),
        }
    }

    /// `out = base + Σ weight * rows[row]` over `(row, weight)`, in order.
    pub fn sum(&self, out: &mut [f32], base: &[f32], uses: &[(u32, f32)]) {
        match self {
            _ if uses.is_empty() => out.copy_from_slice(base),
            Rows::F32(rows) => weighted_rows(out, Some(base), rows, uses),
            Rows::F16(rows) => weighted_halves(out, base, rows.reinterpret_cast(), uses),
        }
    }
}

/// [`Rows::sum`] of 16-bit floats, given by their bits.
fn weighted_halves(out: &mut [f32], base: &[f32], rows: &[u16], uses: &[(u32, f32)]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c")
    {
        // SAFETY: the processor has the features the function is compiled for.
        return unsafe { f16c::weighted_halves(out, base, rows, uses) };
    }
    weighted_from(0, out, base, rows, uses);
}

/// [`weighted_halves`] of the values from `start` on.
fn weighted_from(start: usize, out: &mut [f32], base: &[f32], rows: &[u16], uses: &[(u32, f32)]) {
    let width = out.len();
    out[start..].copy_from_slice(&base[start..]);
    for (at, weight) in uses {
        let row = &rows[*at as usize * width..][..width];
        for (out, value) in out[start..].iter_mut().zip(&row[start..]) {
            *out += weight * f16::from_bits(*value).to_f32();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod f16c {
    use std::arch::x86_64::*;

    /// Values of a register.
    const LANES: usize = 8;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn weighted_halves(out: &mut [f32], base: &[f32], rows: &[u16], uses: &[(u32, f32)]) {
        let mut start = 0;
        // Sums of a run stay in registers over all uses.
        while out.len() - start >= 8 * LANES {
            run::<8>(start, out, base, rows, uses);
            start += 8 * LANES;
        }
        while out.len() - start >= LANES {
            run::<1>(start, out, base, rows, uses);
            start += LANES;
        }
        if start < out.len() {
            super::weighted_from(start, out, base, rows, uses);
        }
    }

    /// `R` registers of the sums, from `start` on.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn run<const R: usize>(start: usize, out: &mut [f32], base: &[f32], rows: &[u16], uses: &[(u32, f32)]) {
        let width = out.len();
        let (out, base) = (&mut out[start..][..R * LANES], &base[start..][..R * LANES]);
        let mut sums = [_mm256_setzero_ps(); R];
        for (sum, base) in sums.iter_mut().zip(base.as_chunks::<LANES>().0) {
            // SAFETY: a chunk is a register's values.
            *sum = unsafe { _mm256_loadu_ps(base.as_ptr()) };
        }
        for (at, weight) in uses {
            let weight = _mm256_set1_ps(*weight);
            let row = &rows[*at as usize * width + start..][..R * LANES];
            for (sum, values) in sums.iter_mut().zip(row.as_chunks::<LANES>().0) {
                // SAFETY: as above, of half the size.
                let values = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast())) };
                *sum = _mm256_fmadd_ps(weight, values, *sum);
            }
        }
        for (sum, out) in sums.iter().zip(out.as_chunks_mut::<LANES>().0) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn rows_beyond_the_range_of_16_bits_stay_as_they_are() {
        for value in [70_000.0, f32::NAN] {
            assert!(matches!(Rows::F32(vec![1.0, value]).rounded(), Rows::F32(_)));
        }
        assert!(matches!(Rows::F32(vec![1.0, 65_504.0]).rounded(), Rows::F16(_)));
    }

    #[test]
    fn sums_of_16_bit_rows_are_those_of_the_rounded_rows_whatever_the_width() {
        let mut rng = Rng::at(6, &[]);
        for width in [1, 7, 8, 15, 64, 100, 256] {
            let rows: Vec<f32> = (0..9 * width).map(|_| rng.normal() as f32).collect();
            let uses: Vec<(u32, f32)> = (0..5).map(|_| (rng.below(9) as u32, rng.normal() as f32)).collect();
            let rows = Rows::F32(rows).rounded();
            let Rows::F16(halves) = &rows else { unreachable!() };
            let exact = Rows::F32(halves.to_f32_vec());
            let base: Vec<f32> = (0..width).map(|_| rng.normal() as f32).collect();
            let (mut found, mut plain, mut expected) = (vec![0.5; width], vec![0.5; width], vec![0.5; width]);
            rows.sum(&mut found, &base, &uses);
            weighted_from(0, &mut plain, &base, halves.reinterpret_cast(), &uses);
            exact.sum(&mut expected, &base, &uses);
            for found in [found, plain] {
                assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{width}");
            }
        }
    }
}
