//! The gradient of an embedding table. It has only the rows that a step touched, summed in a fixed order.

use crate::lanes::{dispatched, multiply_add};
use crate::pages::zeroed;
use rayon::prelude::*;

/// One use of a table row: its slot, the offset of its gradient, and the weight with which it was pooled.
#[derive(Debug, Clone, Copy)]
struct Use {
    slot: u32,
    at: u32,
    weight: f32,
}

/// Collects the uses of a table's rows in a step and sums their gradients per row.
///
/// # Memory
/// 4 bytes per table row, which become resident once touched, 12 bytes per use, and one row of
/// the gradient per touched row.
#[derive(Debug)]
pub struct SparseGradient {
    dim: usize,
    /// For each table row, its slot in this step plus 1, or 0 if it is untouched.
    slot_of: Vec<u32>,
    rows: Vec<u32>,
    counts: Vec<u32>,
    uses: Vec<Use>,
    ordered: Vec<(u32, f32)>,
    values: Vec<f32>,
}

impl SparseGradient {
    /// The gradient of a table of `rows` rows of width `dim`, without touched rows.
    pub fn new(rows: usize, dim: usize) -> Self {
        Self {
            dim,
            slot_of: zeroed(rows),
            rows: Vec::new(),
            counts: Vec::new(),
            uses: Vec::new(),
            ordered: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Forgets the step.
    pub fn clear(&mut self) {
        for row in self.rows.drain(..) {
            self.slot_of[row as usize] = 0;
        }
        self.counts.clear();
        self.uses.clear();
        self.values.clear();
    }

    /// Notes that `row` was used with `weight`. `at` is the offset of the gradient of its sum in the buffer that
    /// [`SparseGradient::reduce`] will be given.
    #[inline]
    pub fn push(&mut self, row: u32, at: usize, weight: f32) {
        let slot = match self.slot_of[row as usize] {
            0 => {
                self.rows.push(row);
                self.counts.push(0);
                self.slot_of[row as usize] = self.rows.len() as u32;
                self.rows.len() as u32 - 1
            }
            known => known - 1,
        };
        self.counts[slot as usize] += 1;
        self.uses.push(Use { slot, at: at as u32, weight });
    }

    /// Sums `weight * gradients[at..at + dim]` over the uses of each touched row, in the order of
    /// the pushes, whatever the number of threads.
    pub fn reduce(&mut self, gradients: &[f32]) {
        let mut next = 0;
        let mut starts: Vec<u32> = self
            .counts
            .iter()
            .map(|count| {
                next += count;
                next - count
            })
            .collect();
        self.ordered.resize(self.uses.len(), (0, 0.0));
        for used in &self.uses {
            let start = &mut starts[used.slot as usize];
            self.ordered[*start as usize] = (used.at, used.weight);
            *start += 1;
        }
        self.values.clear();
        self.values.resize(self.rows.len() * self.dim, 0.0);
        // The loop has moved each start to the end of its slot's uses.
        let (ordered, counts, dim) = (&self.ordered, &self.counts, self.dim);
        self.values.par_chunks_mut(dim).with_min_len(16).zip(starts).enumerate().for_each(|(slot, (out, end))| {
            let first = (end - counts[slot]) as usize;
            weighted_sum(out, None, gradients, 1, &ordered[first..end as usize]);
        });
    }

    /// Touched rows, in order of first touch.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// `[rows().len(), dim]` gradients of the touched rows, after [`SparseGradient::reduce`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// `out = base + sum of weight * table[row]` over `(row, weight)`, in order, or `out += ...` without a base. The rows
/// of `table` are as wide as `out`.
pub fn weighted_rows(out: &mut [f32], base: Option<&[f32]>, table: &[f32], uses: &[(u32, f32)]) {
    weighted_sum(out, base, table, out.len(), uses);
}

dispatched! {
    /// `out = base + sum of weight * source[at * stride..][..out.len()]` over `(at, weight)`, in order, or `out += ...`
    /// without a base.
    pub fn weighted_sum(out: &mut [f32], base: Option<&[f32]>, source: &[f32], stride: usize, uses: &[(u32, f32)]) {
        let width = out.len();
        let mut offset = 0;
        while offset < width {
            // Runs of 64 and 16 floats stay in registers over all uses.
            let base = base.map(|base| &base[offset..]);
            let run = match width - offset {
                64.. => sum_run::<FMA, 64>(&mut out[offset..], base, &source[offset..], stride, uses),
                16.. => sum_run::<FMA, 16>(&mut out[offset..], base, &source[offset..], stride, uses),
                8.. => sum_run::<FMA, 8>(&mut out[offset..], base, &source[offset..], stride, uses),
                _ => sum_run::<FMA, 1>(&mut out[offset..], base, &source[offset..], stride, uses),
            };
            offset += run;
        }
    }
}

#[inline(always)]
fn sum_run<const FMA: bool, const RUN: usize>(
    out: &mut [f32],
    base: Option<&[f32]>,
    source: &[f32],
    stride: usize,
    uses: &[(u32, f32)],
) -> usize {
    let mut sum = [0.0f32; RUN];
    sum.copy_from_slice(&base.unwrap_or(out)[..RUN]);
    for (at, weight) in uses {
        let from = &source[*at as usize * stride..][..RUN];
        for i in 0..RUN {
            sum[i] = multiply_add::<FMA>(*weight, from[i], sum[i]);
        }
    }
    out[..RUN].copy_from_slice(&sum);
    RUN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn reduced_rows_equal_a_dense_scatter() {
        let mut rng = Rng::at(5, &[]);
        for dim in [1, 3, 8, 19, 64, 90] {
            let mut sparse = SparseGradient::new(40, dim);
            for _ in 0..2 {
                sparse.clear();
                let gradients: Vec<f32> = (0..50 * dim).map(|_| rng.normal() as f32).collect();
                let mut dense = vec![0.0f64; 40 * dim];
                for _ in 0..300 {
                    let (row, at, weight) = (rng.below(40), rng.below(50) * dim, rng.uniform() as f32);
                    sparse.push(row as u32, at, weight);
                    for i in 0..dim {
                        dense[row * dim + i] += weight as f64 * gradients[at + i] as f64;
                    }
                }
                sparse.reduce(&gradients);
                for (slot, row) in sparse.rows().iter().enumerate() {
                    for i in 0..dim {
                        let want = dense[*row as usize * dim + i];
                        dense[*row as usize * dim + i] = 0.0;
                        assert!((sparse.values()[slot * dim + i] as f64 - want).abs() < 1e-4);
                    }
                }
                assert!(dense.iter().all(|x| *x == 0.0), "a row with a gradient was not reported");
            }
        }
    }
}
