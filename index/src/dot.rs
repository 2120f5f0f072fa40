//! Dot products whose bits do not depend on the machine: fixed lanes, no fused multiply-add.

use crate::rank::{Key, key, row};
use crate::vectors::Rows;

/// Defines functions that run an `#[inline(always)]` body compiled for the widest vectors the
/// processor has. Rust never contracts or reorders float arithmetic, so all give the same bits.
macro_rules! dispatch {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn middle($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has the features the function is compiled for.
                    return unsafe { wide($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { middle($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    )*};
}
pub(crate) use dispatch;

dispatch! {
    /// Dot product of two vectors of one length, in f32: 16 running sums, added pairwise at the end.
    fn dot(a: &[f32], b: &[f32]) -> f32 = dot_lanes;

    /// Dot products of `query` with the given rows of `vectors`, as [`dot`]; replaces `out`.
    fn dot_rows(query: &[f32], vectors: &[f32], rows: &[u32], out: &mut Vec<f32>) = dot_rows_lanes;

    /// Sum of squares in f64.
    fn square_norm(a: &[f32]) -> f64 = square_norm_lanes;

    /// Replaces the score in each key by the exact cosine of its row with `query` of norm `norm`.
    fn score_exactly(query: &[f32], norm: f64, items: Rows<'_>, keys: &mut [Key]) = score_exactly_lanes;
}

#[inline(always)]
fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_blocks, a_tail) = a.as_chunks::<16>();
    let (b_blocks, b_tail) = b.as_chunks::<16>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..16 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    for (sum, (x, y)) in sums.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *sum += x * y;
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

#[inline(always)]
fn dot_rows_lanes(query: &[f32], vectors: &[f32], rows: &[u32], out: &mut Vec<f32>) {
    let dim = query.len();
    out.clear();
    out.extend(rows.iter().map(|&row| dot_lanes(query, &vectors[row as usize * dim..][..dim])));
}

#[inline(always)]
fn square_norm_lanes(a: &[f32]) -> f64 {
    wide_dot(a, a)
}

#[inline(always)]
fn score_exactly_lanes(query: &[f32], norm: f64, items: Rows<'_>, keys: &mut [Key]) {
    for item in keys {
        let row = row(*item);
        let dot = wide_dot(query, items.vector(row));
        *item = key((dot / (norm * items.norms[row as usize])).clamp(-1.0, 1.0) as f32, row);
    }
}

/// Dot product in f64: 8 running sums, added pairwise at the end.
#[inline(always)]
fn wide_dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a_blocks, a_tail) = a.as_chunks::<8>();
    let (b_blocks, b_tail) = b.as_chunks::<8>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..8 {
            sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    for (sum, (x, y)) in sums.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *sum += f64::from(*x) * f64::from(*y);
    }
    for width in [4, 2, 1] {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for dim in [1, 7, 16, 33, 64, 100] {
            let a: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.71).cos()).collect();
            assert_eq!(dot(&a, &b).to_bits(), dot_lanes(&a, &b).to_bits());
            assert_eq!(square_norm(&a).to_bits(), square_norm_lanes(&a).to_bits());
            let norms = [square_norm(&b).sqrt()];
            let items = Rows { dim, vectors: &b, norms: &norms };
            let (mut keys, mut plain) = ([key(0.0, 0)], [key(0.0, 0)]);
            score_exactly(&a, 2.0, items, &mut keys);
            score_exactly_lanes(&a, 2.0, items, &mut plain);
            assert_eq!(keys, plain);
            let naive: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - naive).abs() < 1e-5);
            assert!((wide_dot(&a, &b) - naive).abs() < 1e-12);
        }
    }
}
