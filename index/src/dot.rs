//! Dot products whose bits do not depend on the machine. They have fixed lanes and no fused multiply-add.

use crate::rank::{Key, key, row};
use crate::vectors::Rows;

/// Dot product in f32 of two vectors of one length. It takes 16 running sums, adds them pairwise, and then adds the
/// products of the values after the last 16.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature the function is compiled for.
        return unsafe { dot_avx2(a, b) };
    }
    dot_portable(a, b)
}

/// Replaces the content of `out` by the [`dot`] products of `query` with the given rows of `items`.
pub(crate) fn dot_rows(query: &[f32], items: Rows<'_>, rows: &[u32], out: &mut Vec<f32>) {
    out.clear();
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(query: &[f32], items: Rows<'_>, rows: &[u32], out: &mut Vec<f32>) {
            for &row in rows {
                out.push(dot_avx2(query, items.vector(row)));
            }
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { wide(query, items, rows, out) };
        }
    }
    out.extend(rows.iter().map(|row| dot_portable(query, items.vector(*row))));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let len = a.len();
    assert_eq!(len, b.len(), "vectors of a dot product have one length");
    let mut sums = [_mm256_setzero_ps(); 2];
    for block in (0..len / 16 * 16).step_by(16) {
        for (half, sum) in sums.iter_mut().enumerate() {
            let at = block + half * 8;
            // SAFETY: `at + 8` is at most the length of both.
            let (x, y) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(at)), _mm256_loadu_ps(b.as_ptr().add(at))) };
            *sum = _mm256_add_ps(*sum, _mm256_mul_ps(x, y));
        }
    }
    let eight = _mm256_add_ps(sums[0], sums[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let one = _mm_add_ss(two, _mm_movehdup_ps(two));
    let mut sum = _mm_cvtss_f32(one);
    for i in len / 16 * 16..len {
        sum += a[i] * b[i];
    }
    sum
}

fn dot_portable(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_blocks, a_tail) = a.as_chunks::<16>();
    let (b_blocks, b_tail) = b.as_chunks::<16>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..16 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    a_tail.iter().zip(b_tail).fold(sums[0], |sum, (x, y)| sum + x * y)
}

/// Sum of squares in f64.
pub(crate) fn square_norm(a: &[f32]) -> f64 {
    let [norm] = wide_dots(a, [a]);
    norm
}

/// Replaces the score in each key by the exact cosine of its row with `query` of norm `norm`.
pub(crate) fn score_exactly(query: &[f32], norm: f64, items: Rows<'_>, keys: &mut [Key]) {
    let (quads, rest) = keys.as_chunks_mut::<4>();
    for quad in quads {
        score_some_exactly(query, norm, items, quad);
    }
    for one in rest {
        score_some_exactly(query, norm, items, std::array::from_mut(one));
    }
}

fn score_some_exactly<const N: usize>(query: &[f32], norm: f64, items: Rows<'_>, keys: &mut [Key; N]) {
    let rows = keys.map(row);
    let dots = wide_dots(query, rows.map(|row| items.vector(row)));
    for i in 0..N {
        let cosine = dots[i] / (norm * items.norms[rows[i] as usize]);
        keys[i] = key(cosine.clamp(-1.0, 1.0) as f32, rows[i]);
    }
}

/// Dot products of `a` with N vectors in f64. Each takes 8 running sums, adds them pairwise, and then adds the products
/// of the values after the last 8.
fn wide_dots<const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f64; N] {
    assert!(b.iter().all(|b| b.len() == a.len()), "vectors of a dot product have one length");
    let mut dots = wide_dots_of_blocks(a, &b);
    let whole = a.len() / 8 * 8;
    for (dot, b) in dots.iter_mut().zip(&b) {
        for (x, y) in a[whole..].iter().zip(&b[whole..]) {
            *dot += f64::from(*x) * f64::from(*y);
        }
    }
    dots
}

fn wide_dots_of_blocks<const N: usize>(a: &[f32], b: &[&[f32]; N]) -> [f64; N] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;

        // The compiler does not vectorise this loop by itself.
        #[target_feature(enable = "avx2")]
        fn wide<const N: usize>(a: &[f32], b: &[&[f32]; N]) -> [f64; N] {
            let mut sums = [[_mm256_setzero_pd(); 2]; N];
            for block in (0..a.len() / 8 * 8).step_by(8) {
                for half in [0, 1] {
                    let at = block + half * 4;
                    // SAFETY: `at + 4` is at most the length of `a`, which is that of each of `b`.
                    let x = unsafe { _mm256_cvtps_pd(_mm_loadu_ps(a.as_ptr().add(at))) };
                    for (sums, b) in sums.iter_mut().zip(b) {
                        // SAFETY: as above.
                        let y = unsafe { _mm256_cvtps_pd(_mm_loadu_ps(b.as_ptr().add(at))) };
                        sums[half] = _mm256_add_pd(sums[half], _mm256_mul_pd(x, y));
                    }
                }
            }
            let mut dots = [0.0; N];
            for i in 0..N {
                let four = _mm256_add_pd(sums[i][0], sums[i][1]);
                let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
                dots[i] = _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
            }
            dots
        }

        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature, and the caller has compared the lengths.
            return unsafe { wide(a, b) };
        }
    }
    wide_dots_portable(a, b)
}

fn wide_dots_portable<const N: usize>(a: &[f32], b: &[&[f32]; N]) -> [f64; N] {
    b.map(|b| {
        let mut sums = [0.0; 8];
        for (x, y) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
            for lane in 0..8 {
                sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
            }
        }
        for width in [4, 2, 1] {
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
        }
        sums[0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for dim in [1, 7, 16, 33, 64, 100] {
            let a: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.71).cos()).collect();
            assert_eq!(dot(&a, &b).to_bits(), dot_portable(&a, &b).to_bits());
            assert_eq!(wide_dots_of_blocks(&a, &[&b]), wide_dots_portable(&a, &[&b]));
            let [wide] = wide_dots(&a, [&b]);
            assert_eq!(wide_dots(&a, [&b, &a, &b, &b]), [wide, square_norm(&a), wide, wide]);
            let naive: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - naive).abs() < 1e-5);
            assert!((wide - naive).abs() < 1e-12);
        }
    }
}
