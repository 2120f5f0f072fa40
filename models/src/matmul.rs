//! Single-threaded matrix products of row-major slices; callers parallelise over tiles.

use gemm::Parallelism;
use rayon::prelude::*;

/// A row-major operand, `[rows, cols]` after the optional transposition.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Operand<'a> {
    /// `data` as `[data.len() / cols, cols]`.
    pub fn rows_of(data: &'a [f32], cols: usize) -> Self {
        debug_assert_eq!(data.len() % cols, 0);
        Self { data, rows: data.len() / cols, cols, row_stride: cols, col_stride: 1 }
    }

    /// The first `rows` rows of `cols` columns at the beginning of `data`, whose rows are `stride` values apart.
    ///
    /// # Panics
    /// When `data` is too short: a bug in the caller.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        check_extent(data.len(), rows, cols, stride);
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// When there are no such rows: a bug in the caller.
    pub fn rows(self, rows: std::ops::Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        Self { data: &self.data[rows.start * self.row_stride..], rows: rows.len(), ..self }
    }

    /// Rows and columns swapped.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }
}

/// Checks that rows of `cols` values that are `stride` apart are within `len` values.
fn check_extent(len: usize, rows: usize, cols: usize, stride: usize) {
    let fits = rows == 0 || (rows - 1) * stride + cols <= len;
    assert!(fits && cols <= stride, "{rows} rows of {cols} values, {stride} apart, among {len} values");
}

/// Where a product is written: rows of some columns of a row-major matrix.
pub struct Target<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Target<'a> {
    /// As [`Operand::strided`].
    ///
    /// # Panics
    /// When `data` is too short: a bug in the caller.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        check_extent(data.len(), rows, cols, stride);
        Self { data, rows, cols, stride }
    }
}

/// `out = scale * a b`, or `out += scale * a b`; `out` is row-major `[a.rows, b.cols]`.
///
/// # Panics
/// When the shapes do not agree: a bug in the caller.
pub fn matmul(out: &mut [f32], accumulate: bool, scale: f32, a: Operand, b: Operand) {
    let (m, n) = (a.rows, b.cols);
    assert!(out.len() == m * n, "[{m}, {n}] into {} values", out.len());
    matmul_into(Target { data: out, rows: m, cols: n, stride: n }, accumulate, scale, a, b);
}

/// As [`matmul`], into some columns of a matrix.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_into(out: Target, accumulate: bool, scale: f32, a: Operand, b: Operand) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let (rows, cols) = (out.rows, out.cols);
    assert!((rows, cols) == (m, n) && b.rows == k, "[{m}, {k}] x [{}, {n}] into [{rows}, {cols}]", b.rows);
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the assertion above and the constructors of `Operand` and `Target` keep every index
    // row * row_stride + col * col_stride inside the slices; `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            1,
            out.stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Writes `data`, `[rows, cols]`, as `[cols, rows]`.
pub fn transpose(data: &[f32], cols: usize, out: &mut Vec<f32>) {
    /// Columns that are read together, since they share a line of the cache.
    const TOGETHER: usize = 16;
    let rows = data.len() / cols;
    out.resize(data.len(), 0.0);
    out.par_chunks_mut((TOGETHER * rows).max(1)).enumerate().for_each(|(part, out)| {
        for (row, values) in data.chunks_exact(cols).enumerate() {
            for (col, value) in values[part * TOGETHER..].iter().take(TOGETHER).enumerate() {
                out[col * rows + row] = *value;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn products_equal_the_triple_loop_in_every_orientation() {
        let mut rng = Rng::at(1, &[]);
        let (m, n, k) = (5, 7, 3);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
        let (a, b, start) = (draw(m * k), draw(k * n), draw(m * n));
        let flip = |x: &[f32], cols: usize| {
            let rows = x.len() / cols;
            (0..cols * rows).map(|i| x[(i % rows) * cols + i / rows]).collect::<Vec<f32>>()
        };
        let (a_t, b_t) = (flip(&a, k), flip(&b, n));
        for accumulate in [false, true] {
            let want: Vec<f32> = (0..m * n)
                .map(|i| {
                    let sum: f32 = (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum();
                    2.0 * sum + if accumulate { start[i] } else { 0.0 }
                })
                .collect();
            for lhs in [Operand::rows_of(&a, k), Operand::rows_of(&a_t, m).transposed()] {
                for rhs in [Operand::rows_of(&b, n), Operand::rows_of(&b_t, k).transposed()] {
                    let mut out = start.clone();
                    matmul(&mut out, accumulate, 2.0, lhs, rhs);
                    assert!(out.iter().zip(&want).all(|(x, y)| (x - y).abs() < 1e-5));
                }
            }
        }
    }

    #[test]
    fn columns_of_wider_matrices_are_multiplied_and_written_alone() {
        let mut rng = Rng::at(2, &[]);
        let (m, n, k, wide) = (5, 4, 3, 9);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
        let (a, b, start) = (draw(m * wide), draw(n * wide), draw(m * wide));
        let mut out = start.clone();
        let rows = Operand::strided(&a[2..], m, k, wide);
        let columns = Operand::strided(&b[6..], n, k, wide).transposed();
        matmul_into(Target::strided(&mut out[5..], m, n, wide), false, 0.5, rows, columns);
        for i in 0..m * wide {
            let (row, col) = (i / wide, i % wide);
            let inner = |j: usize| (0..k).map(|c| a[row * wide + 2 + c] * b[j * wide + 6 + c]).sum::<f32>();
            let want = if (5..5 + n).contains(&col) { 0.5 * inner(col - 5) } else { start[i] };
            assert!((out[i] - want).abs() < 1e-5);
        }
    }

    #[test]
    #[should_panic(expected = "among 20 values")]
    fn rows_beyond_the_data_are_refused() {
        Operand::strided(&[0.0; 20], 3, 3, 9);
    }
}
