//! Matrix products of exact search: sixteen queries at a time with items in their stored form.
//!
//! Queries are packed once per block, each into a lane, and item values are broadcast. So item vectors need
//! neither packing nor a copy, and the scores of an item are one row of [`Lanes`].

use crate::vectors::scale;

/// Queries multiplied at once.
pub(crate) const LANES: usize = 16;

/// One value per query of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// The same value for every query.
    pub fn all(value: f32) -> Self {
        Self([value; LANES])
    }
}

/// Appends a group of at most [`LANES`] queries, scaled by their norms, as `[dim]` lanes.
pub(crate) fn pack<'a>(queries: impl Iterator<Item = (&'a [f32], f64)>, dim: usize, packed: &mut Vec<Lanes>) {
    let start = packed.len();
    packed.resize(start + dim, Lanes::all(0.0));
    let mut unit = Vec::with_capacity(dim);
    for (lane, (query, norm)) in queries.enumerate() {
        unit.clear();
        unit.extend_from_slice(query);
        scale(&mut unit, norm);
        packed[start..].iter_mut().zip(&unit).for_each(|(to, v)| to.0[lane] = *v);
    }
}

/// Scores of a group of packed queries, `[dim]`, with the items of a tile, `[scores.len(), dim]`.
pub(crate) fn multiply(items: &[f32], queries: &[Lanes], scores: &mut [Lanes]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn wide(items: &[f32], queries: &[Lanes], scores: &mut [Lanes]) {
            multiply_rows::<8, true>(items, queries, scores);
        }
        #[target_feature(enable = "avx2,fma")]
        fn middle(items: &[f32], queries: &[Lanes], scores: &mut [Lanes]) {
            multiply_rows::<4, true>(items, queries, scores);
        }
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has the features the function is compiled for.
            return unsafe { wide(items, queries, scores) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { middle(items, queries, scores) };
        }
    }
    multiply_rows::<4, { cfg!(target_arch = "aarch64") }>(items, queries, scores);
}

/// Multiplies `ITEMS` items at a time, whose sums stay in registers. `FUSED` says that multiply-add is one instruction.
#[inline(always)]
fn multiply_rows<const ITEMS: usize, const FUSED: bool>(items: &[f32], queries: &[Lanes], scores: &mut [Lanes]) {
    let dim = queries.len();
    let (blocks, tail) = scores.as_chunks_mut::<ITEMS>();
    let (whole, last) = items.split_at(blocks.len() * ITEMS * dim);
    for (items, scores) in whole.chunks_exact(ITEMS * dim).zip(blocks) {
        *scores = multiply_block::<ITEMS, FUSED>(items, queries);
    }
    for (item, scores) in last.chunks_exact(dim).zip(tail) {
        [*scores] = multiply_block::<1, FUSED>(item, queries);
    }
}

#[inline(always)]
fn multiply_block<const ITEMS: usize, const FUSED: bool>(items: &[f32], queries: &[Lanes]) -> [Lanes; ITEMS] {
    let dim = queries.len();
    let rows: [&[f32]; ITEMS] = std::array::from_fn(|i| &items[i * dim..][..dim]);
    let mut sums = [[0.0f32; LANES]; ITEMS];
    for (d, query) in queries.iter().enumerate() {
        for (row, sums) in rows.iter().zip(&mut sums) {
            let value = row[d];
            for (sum, q) in sums.iter_mut().zip(&query.0) {
                *sum = if FUSED { value.mul_add(*q, *sum) } else { value * q + *sum };
            }
        }
    }
    sums.map(Lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_f64_for_any_number_of_items_and_dimension() {
        for (count, dim) in [(1, 1), (3, 7), (9, 64), (21, 33)] {
            let items: Vec<f32> = (0..count * dim).map(|i| (i as f32 * 0.37).sin()).collect();
            let queries: Vec<Vec<f32>> =
                (0..5).map(|q| (0..dim).map(|d| ((q * dim + d) as f32).cos()).collect()).collect();
            let mut packed = vec![Lanes::all(9.0)];
            pack(queries.iter().map(|q| (q.as_slice(), 2.0)), dim, &mut packed);
            assert_eq!(packed.len(), 1 + dim);
            let mut all = [(); 3].map(|()| vec![Lanes::all(9.0); count]);
            multiply(&items, &packed[1..], &mut all[0]);
            multiply_rows::<4, false>(&items, &packed[1..], &mut all[1]);
            multiply_rows::<8, true>(&items, &packed[1..], &mut all[2]);
            for scores in &all {
                for (i, item) in items.chunks_exact(dim).enumerate() {
                    for (lane, query) in queries.iter().enumerate() {
                        let naive: f64 = item.iter().zip(query).map(|(x, y)| f64::from(*x) * f64::from(*y) / 2.0).sum();
                        assert!((f64::from(scores[i].0[lane]) - naive).abs() < 1e-5, "{count} {dim}");
                    }
                    assert!(scores[i].0[queries.len()..].iter().all(|s| *s == 0.0));
                }
            }
        }
    }
}
