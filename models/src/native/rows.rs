//! Rows of folded tables in 32-bit or 16-bit floats.

use super::Arithmetic;
use crate::cross::Cross;
use crate::lanes::prefetch;
use crate::pages::zeroed;
use crate::sparse::weighted_rows;
use crate::tower::layout::Layout;
use crate::tower::{Matrix, Tower};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows as wide as the output of the first layer.
#[derive(Debug)]
pub(super) enum Rows {
    F32(Vec<f32>),
    /// Bits of 16-bit floats. Adding rows mostly waits for fetching them from a cache that cores share, and these have
    /// half the bytes.
    F16(Vec<u16>),
}

/// The crosses whose rows a first layer adds, each with its first row.
pub(super) struct Tables<'a> {
    pub tower: &'a Tower,
    pub layout: &'a Layout,
    pub weight: &'a Matrix,
    pub crosses: &'a [(usize, Cross)],
}

impl Tables<'_> {
    /// All rows, in the form to which `keep` converts them.
    fn rows<T: Copy + Default + Send>(&self, keep: impl Fn(&[f32], &mut [T]) + Sync) -> Vec<T> {
        let out = self.weight.rows;
        let len = self.crosses.iter().map(|(first, cross)| (first + cross.rows) * out).max();
        let (mut rows, zeros) = (zeroed(len.unwrap_or(0)), vec![0.0; out]);
        for (first, cross) in self.crosses {
            let rows = &mut rows[first * out..][..cross.rows * out];
            cross.write(self.tower, self.layout, self.weight, &zeros, rows, &keep);
        }
        rows
    }
}

impl Rows {
    /// The rows of all tables. With [`Arithmetic::Int16`] they are in 16-bit floats, unless a value exceeds their
    /// range.
    pub fn new(tables: &Tables, arithmetic: Arithmetic) -> Self {
        if arithmetic == Arithmetic::Int16 {
            let within_range = AtomicBool::new(true);
            let rows = tables.rows(|row, out| {
                if !halve(row, out) {
                    within_range.store(false, Ordering::Relaxed);
                }
            });
            if within_range.into_inner() {
                return Rows::F16(rows);
            }
        }
        Rows::F32(tables.rows(|row, out| out.copy_from_slice(row)))
    }

    /// `out = base + Σ weight * rows[row]` over `(row, weight)`, in order.
    pub fn sum(&self, out: &mut [f32], base: &[f32], uses: &[(u32, f32)]) {
        match self {
            _ if uses.is_empty() => out.copy_from_slice(base),
            Rows::F32(rows) => weighted_rows(out, Some(base), rows, uses),
            Rows::F16(rows) => weighted_halves(out, base, rows, uses),
        }
    }

    /// Prefetches rows of `width` values into the nearest cache, for a sum that follows soon.
    pub fn prefetch(&self, width: usize, uses: &[(u32, f32)]) {
        for (row, _) in uses {
            let at = *row as usize * width..(*row as usize + 1) * width;
            match self {
                Rows::F32(rows) => prefetch(&rows[at]),
                Rows::F16(rows) => prefetch(&rows[at]),
            }
        }
    }
}

/// Rounds a row to the bits of 16-bit floats, and returns whether all values are within their range.
fn halve(row: &[f32], out: &mut [u16]) -> bool {
    out.reinterpret_cast_mut::<f16>().convert_from_f32_slice(row);
    // Without their signs, bits have the order of the numbers, and infinity and NaN come last.
    out.iter().fold(0, |most, bits| most.max(bits & (u16::MAX >> 1))) < f16::INFINITY.to_bits()
}

/// [`Rows::sum`] for rows of 16-bit floats, given by their bits.
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

/// [`weighted_halves`] for the values from `start` on.
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
        // The sums of a run stay in registers over all uses.
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

    /// Computes `R` registers of sums, from `start` on.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn run<const R: usize>(start: usize, out: &mut [f32], base: &[f32], rows: &[u16], uses: &[(u32, f32)]) {
        let width = out.len();
        let (out, base) = (&mut out[start..][..R * LANES], &base[start..][..R * LANES]);
        let mut sums = [_mm256_setzero_ps(); R];
        for (sum, base) in sums.iter_mut().zip(base.as_chunks::<LANES>().0) {
            // SAFETY: a chunk has the values of one register.
            *sum = unsafe { _mm256_loadu_ps(base.as_ptr()) };
        }
        for (at, weight) in uses {
            let weight = _mm256_set1_ps(*weight);
            let row = &rows[*at as usize * width + start..][..R * LANES];
            for (sum, values) in sums.iter_mut().zip(row.as_chunks::<LANES>().0) {
                // SAFETY: as above, with values of half the size.
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
    fn rows_beyond_the_range_of_16_bits_are_found() {
        for (value, within) in [(65_504.0, true), (-65_504.0, true), (70_000.0, false), (f32::NAN, false)] {
            let row: Vec<f32> = (0..21).map(|i| if i == 20 { value } else { i as f32 }).collect();
            assert_eq!(halve(&row, &mut [0; 21]), within);
        }
    }

    #[test]
    fn sums_of_16_bit_rows_are_those_of_the_rounded_rows_whatever_the_width() {
        let mut rng = Rng::at(6, &[]);
        for width in [1, 7, 8, 15, 64, 100, 256] {
            let rows: Vec<f32> = (0..9 * width).map(|_| rng.normal() as f32).collect();
            let uses: Vec<(u32, f32)> = (0..5).map(|_| (rng.below(9) as u32, rng.normal() as f32)).collect();
            let mut halves = vec![0; rows.len()];
            assert!(halve(&rows, &mut halves));
            let exact = Rows::F32(halves.iter().map(|bits| f16::from_bits(*bits).to_f32()).collect());
            let rows = Rows::F16(halves.clone());
            let base: Vec<f32> = (0..width).map(|_| rng.normal() as f32).collect();
            let (mut found, mut plain, mut expected) = (vec![0.5; width], vec![0.5; width], vec![0.5; width]);
            rows.prefetch(width, &uses);
            rows.sum(&mut found, &base, &uses);
            weighted_from(0, &mut plain, &base, &halves, &uses);
            exact.sum(&mut expected, &base, &uses);
            for found in [found, plain] {
                assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{width}");
            }
        }
    }
}
