//! Matrix products of 16-bit integers, about twice as fast as those of floats on machines with AVX2 or AVX-512.
//!
//! Weights are rounded once, with a scale for each output. Inputs are rounded row by row, with a scale for each
//! row, so that a row's result does not depend on the rows beside it. Sums are of 32-bit integers and exact, so they
//! are the same on every machine and in any order.

use crate::lanes::dispatched;
use std::ops::Range;

/// Outputs of a panel, whose sums fill one register with AVX-512, or two with AVX2.
const PANEL: usize = 16;
/// Products that an instruction adds at a time. `vpmaddwd` and `vpdpwssd` take pairs.
const PAIR: usize = 2;
/// Inputs and weights below this count as zero, since their scale could not be inverted.
const TINY: f32 = 1e-30;

/// A rounded weight.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    /// `[outputs / 16, inputs / 2, 16, 2]`, filled up with zeros.
    panels: Vec<i16>,
    /// `[outputs]` the value of one unit of a weight.
    scales: Vec<f32>,
    /// Floats of an input row.
    input: usize,
    /// The largest rounded input with which no sum exceeds 32 bits.
    largest: f32,
}

/// The rounded input rows of a tile.
#[derive(Debug, Default)]
pub(super) struct RoundedRows {
    /// `[rows, input filled up to pairs]`.
    values: Vec<i16>,
    /// `[rows]` the value of one unit of an input.
    scales: Vec<f32>,
}

impl Weight {
    /// Rounds a weight `[input, output]`.
    ///
    /// Weights are rounded to `-W ..= W` and inputs to `-A ..= A`. Both bounds are at most 32,767 and about equal, with
    /// `A Σ|w| < 2³¹` for every output. Layers of a few hundred inputs get about 12 bits and a sign.
    pub fn new(weight: &[f32], output: usize) -> Self {
        let input = weight.len() / output.max(1);
        let column = |o: usize| weight.iter().skip(o).step_by(output);
        let most: Vec<f32> =
            (0..output).map(|o| f32::from_bits(column(o).fold(0, |most, w| larger(most, *w)))).collect();
        // The largest sum of an output's absolute weights, each in units of the output's largest weight.
        let spread = (0..output)
            .filter(|o| most[*o] > TINY && most[*o].is_finite())
            .map(|o| column(o).map(|w| f64::from(w.abs() / most[o])).sum::<f64>())
            .fold(1.0, f64::max);
        let units = (f64::from(i32::MAX) / spread).sqrt().min(f64::from(i16::MAX)).floor() as f32;
        let steps: Vec<Step> = most.iter().map(|most| Step::new(*most, units)).collect();
        let (pairs, panels) = (input.div_ceil(PAIR), output.div_ceil(PANEL));
        let mut packed = vec![0i16; panels * pairs * PANEL * PAIR];
        let mut sums = vec![1i64; output];
        for i in 0..input {
            for o in 0..output {
                let value = (weight[i * output + o] * steps[o].per_unit).round_ties_even() as i16;
                sums[o] += i64::from(value.unsigned_abs());
                let pair = (o / PANEL * pairs + i / PAIR) * PANEL + o % PANEL;
                packed[pair * PAIR + i % PAIR] = value;
            }
        }
        let most = sums.into_iter().max().unwrap_or(1);
        let largest = (i64::from(i32::MAX) / most).min(i64::from(i16::MAX)) as f32;
        Self { panels: packed, scales: steps.into_iter().map(|step| step.unit).collect(), input, largest }
    }

    /// `y = x W + b`, or `y += x W` without a bias, for `x` of `[rows, input]` floats. A row with a value that is not
    /// finite gives NaN.
    pub fn product(&self, x: &[f32], bias: Option<&[f32]>, y: &mut [f32], rounded: &mut RoundedRows) {
        let (input, output) = (self.input, self.scales.len());
        let width = input.next_multiple_of(PAIR);
        let rows = y.len() / output.max(1);
        rounded.values.resize(rows * width, 0);
        rounded.scales.resize(rows, 0.0);
        let targets = rounded.values.chunks_exact_mut(width.max(1)).zip(&mut rounded.scales);
        for (row, (target, scale)) in x.chunks_exact(input.max(1)).zip(targets) {
            target[input..].fill(0);
            let step = Step::new(largest(row), self.largest);
            match step.per_unit {
                // The row is zero, or it is not finite, in which case only the scale, NaN, matters.
                0.0 => target.fill(0),
                per_unit => round(row, per_unit, &mut target[..input]),
            }
            *scale = step.unit;
        }
        let x = Rows { values: &rounded.values, width, scales: &rounded.scales };
        multiply(x, Panels { values: &self.panels, scales: &self.scales, bias }, y);
    }
}

/// The rounding of floats to integers.
struct Step {
    /// The integer that a float of 1 becomes, before it is rounded.
    per_unit: f32,
    /// The value of one unit of the integer.
    unit: f32,
}

impl Step {
    /// Rounds values up to `most` to integers up to `units`. If `most` is not finite, a unit has the value NaN.
    fn new(most: f32, units: f32) -> Self {
        match most {
            most if !most.is_finite() => Self { per_unit: 0.0, unit: f32::NAN },
            most if most < TINY => Self { per_unit: 0.0, unit: 0.0 },
            most => Self { per_unit: units / most, unit: most / units },
        }
    }
}

/// The bits of the larger absolute value. If either value is not finite, the result is not finite.
#[inline(always)]
fn larger(most: u32, value: f32) -> u32 {
    // Without the sign, bits have the order of the numbers, and NaN comes last.
    most.max(value.to_bits() & (u32::MAX >> 1))
}

dispatched! {
    /// The largest absolute value. It is not finite if any value is not.
    pub fn largest(values: &[f32]) -> f32 {
        let _ = FMA;
        f32::from_bits(values.iter().fold(0, |most, value| larger(most, *value)))
    }

    /// Rounds `x * per_unit`, below 2¹⁵, to the nearest integer, ties to even.
    pub fn round(x: &[f32], per_unit: f32, out: &mut [i16]) {
        // Adding 1.5 * 2^23 leaves the integer in the low bits of the mantissa.
        const SHIFT: f32 = 12_582_912.0;
        let _ = FMA;
        for (out, x) in out.iter_mut().zip(x) {
            *out = ((x * per_unit + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32) as i16;
        }
    }
}

/// The rows of a product: `[rows, width]` integers, and for each row the value of one unit.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [i16],
    width: usize,
    scales: &'a [f32],
}

/// The weight of a product, as in [`Weight`], and the bias. Without a bias, the product is added to the result.
#[derive(Clone, Copy)]
struct Panels<'a> {
    values: &'a [i16],
    scales: &'a [f32],
    bias: Option<&'a [f32]>,
}

/// `y[r, o] = (Σ x[r, i] panels[o, i]) * row_scales[r] * scales[o] + (bias[o] or y[r, o])`.
fn multiply(x: Rows, panels: Panels, y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw") && has!("avx512vnni") {
            // SAFETY: the processor has the features the function is compiled for.
            return unsafe { avx512::multiply(x, panels, y) };
        }
        if has!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2::multiply(x, panels, y) };
        }
    }
    over_blocks(x, panels, 0..panels.scales.len(), y, |row, panels| [[portable(row, panels)]]);
}

/// Sums of a row and a panel of outputs.
type Sums = [i32; PANEL];

/// Computes the given outputs of `y`, which begin with the first output of a panel, in blocks of `R` rows and `P`
/// panels. `block` sums up the products of `[R, width]` inputs and `[P, width / 2, 16, 2]` weights. Remaining rows and
/// panels are computed one by one.
#[inline(always)]
fn over_blocks<const R: usize, const P: usize>(
    x: Rows,
    panels: Panels,
    outputs: Range<usize>,
    y: &mut [f32],
    block: impl Fn(&[i16], &[i16]) -> [[Sums; P]; R],
) {
    let Rows { values, width, scales: row_scales } = x;
    if width == 0 || values.is_empty() {
        return;
    }
    let output = panels.scales.len();
    // A group of panels stays in the nearest cache while all rows are multiplied with it.
    for start in outputs.clone().step_by(P * PANEL) {
        let outputs = start..outputs.end.min(start + P * PANEL);
        let count = outputs.len().div_ceil(PANEL);
        let weights = &panels.values[start * width..][..count * PANEL * width];
        let (scales, bias) = (&panels.scales[outputs.clone()], panels.bias.map(|bias| &bias[outputs.clone()]));
        let rows = values.chunks(R * width).zip(row_scales.chunks(R)).enumerate();
        for (i, (rows, row_scales)) in rows {
            let sums = match (row_scales.len() == R, count == P) {
                (true, true) => block(rows, weights),
                _ => {
                    let mut sums = [[[0; PANEL]; P]; R];
                    for (row, sums) in rows.chunks_exact(width).zip(&mut sums) {
                        let panels = weights.chunks_exact(PANEL * width);
                        panels.zip(sums).for_each(|(panel, sums)| *sums = portable(row, panel));
                    }
                    sums
                }
            };
            for (r, (sums, row_scale)) in sums.iter().zip(row_scales).enumerate() {
                let out = &mut y[(i * R + r) * output..][outputs.clone()];
                let sums = sums.as_flattened().iter().zip(scales);
                let product = sums.map(|(sum, scale)| *sum as f32 * (row_scale * scale));
                match bias {
                    Some(bias) => out.iter_mut().zip(bias).zip(product).for_each(|((out, b), p)| *out = b + p),
                    None => out.iter_mut().zip(product).for_each(|(out, p)| *out += p),
                }
            }
        }
    }
}

#[inline(always)]
fn portable(row: &[i16], panel: &[i16]) -> Sums {
    let mut sums = [0; PANEL];
    for (x, weights) in row.chunks_exact(PAIR).zip(panel.chunks_exact(PANEL * PAIR)) {
        for (sum, w) in sums.iter_mut().zip(weights.chunks_exact(PAIR)) {
            *sum += i32::from(x[0]) * i32::from(w[0]) + i32::from(x[1]) * i32::from(w[1]);
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{PAIR, PANEL, Panels, Rows, Sums, over_blocks};
    use std::arch::x86_64::*;

    /// Rows of a block. Their sums take two registers per row, and leave enough registers for the operands.
    const BLOCK: usize = 6;

    /// As [`super::multiply`].
    #[target_feature(enable = "avx2")]
    pub fn multiply(x: Rows, panels: Panels, y: &mut [f32]) {
        over_blocks(x, panels, 0..panels.scales.len(), y, |rows, panel| block(rows, x.width, panel));
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn block(rows: &[i16], width: usize, panel: &[i16]) -> [[Sums; 1]; BLOCK] {
        assert!(rows.len() >= BLOCK * width && panel.len() >= width * PANEL && width.is_multiple_of(PAIR));
        let mut sums = [[_mm256_setzero_si256(); 2]; BLOCK];
        for pair in 0..width / PAIR {
            // SAFETY: `pair` counts the pairs of a row, and a panel holds 16 pairs for each; see the assertion.
            let weights = unsafe {
                let at = panel.as_ptr().add(pair * PANEL * PAIR).cast::<__m256i>();
                [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
            };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above, `r` counts the rows.
                let both = unsafe { rows.as_ptr().add(r * width + pair * PAIR).cast::<i32>().read_unaligned() };
                let x = _mm256_set1_epi32(both);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, weights));
                }
            }
        }
        let mut out = [[[0; PANEL]]; BLOCK];
        for ([out], sums) in out.iter_mut().zip(sums) {
            // SAFETY: a row of sums is 16 integers, two registers.
            unsafe {
                let at = out.as_mut_ptr().cast::<__m256i>();
                _mm256_storeu_si256(at, sums[0]);
                _mm256_storeu_si256(at.add(1), sums[1]);
            }
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{PAIR, PANEL, Panels, Rows, Sums, over_blocks};
    use std::arch::x86_64::*;

    /// `sum` plus the products of pairs. The intrinsic for it, `_mm512_dpwssd_epi32`, is compiled to separate
    /// instructions for product and sum, which take longer than this one.
    #[target_feature(enable = "avx512f,avx512vnni")]
    #[inline]
    fn add_products(sum: __m512i, x: __m512i, weights: __m512i) -> __m512i {
        let mut sum = sum;
        // SAFETY: the instruction works on registers only, and the function is compiled for its feature.
        unsafe {
            std::arch::asm!("vpdpwssd {0}, {1}, {2}", inout(zmm_reg) sum, in(zmm_reg) x, in(zmm_reg) weights,
                options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }

    /// Rows of a block. With two panels, their sums leave enough registers for the operands.
    const BLOCK: usize = 12;

    /// As [`super::multiply`].
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni")]
    pub fn multiply(x: Rows, panels: Panels, y: &mut [f32]) {
        let output = panels.scales.len();
        // The last panel is computed alone if the number of panels is odd.
        let pairs = match output.div_ceil(PANEL) % 2 {
            0 => output,
            _ => (output - 1) / PANEL * PANEL,
        };
        over_blocks(x, panels, 0..pairs, y, |rows, panels| block::<2>(rows, x.width, panels));
        over_blocks(x, panels, pairs..output, y, |rows, panel| block::<1>(rows, x.width, panel));
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni")]
    #[inline]
    fn block<const P: usize>(rows: &[i16], width: usize, panels: &[i16]) -> [[Sums; P]; BLOCK] {
        assert!(rows.len() >= BLOCK * width && panels.len() >= P * width * PANEL && width.is_multiple_of(PAIR));
        let mut sums = [[_mm512_setzero_si512(); P]; BLOCK];
        for pair in 0..width / PAIR {
            let weights: [__m512i; P] = std::array::from_fn(|p| {
                // SAFETY: `pair` counts the pairs of a row, and a panel holds 16 pairs for each; see the assertion.
                unsafe { _mm512_loadu_si512(panels.as_ptr().add((p * width + pair * PAIR) * PANEL).cast()) }
            });
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above, `r` counts the rows.
                let both = unsafe { rows.as_ptr().add(r * width + pair * PAIR).cast::<i32>().read_unaligned() };
                let x = _mm512_set1_epi32(both);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = add_products(*sum, x, weights);
                }
            }
        }
        let mut out = [[[0; PANEL]; P]; BLOCK];
        for (out, sum) in out.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            // SAFETY: a row of sums is 16 integers, one register.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), *sum) };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn draw(rng: &mut Rng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn products_are_those_of_floats_to_the_last_of_12_bits_whatever_the_shape() {
        let mut rng = Rng::at(3, &[]);
        for (rows, input, output) in [(1, 1, 1), (6, 256, 128), (13, 128, 64), (7, 33, 17), (256, 21, 16), (5, 2, 40)] {
            let (x, w) = (draw(&mut rng, rows * input), draw(&mut rng, input * output));
            let mut y = vec![1.0; rows * output];
            Weight::new(&w, output).product(&x, None, &mut y, &mut RoundedRows::default());
            for r in 0..rows {
                let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
                for o in 0..output {
                    let sum: f32 = (0..input).map(|i| x[r * input + i] * w[i * output + o]).sum();
                    let room = norm(&mut x[r * input..][..input].iter().copied())
                        * norm(&mut (0..input).map(|i| w[i * output + o]));
                    assert!((y[r * output + o] - 1.0 - sum).abs() < room / 1000.0, "{rows} {input} {output}");
                }
            }
        }
    }

    #[test]
    fn sums_at_the_limit_stay_within_32_bits() {
        // All values have one sign and the largest magnitude, so sums reach the limit.
        for (input, value) in [(1, 1.0), (256, -3.0), (100_000, 1e20)] {
            let weight = Weight::new(&vec![value; input], 1);
            let mut y = [0.0];
            weight.product(&vec![value; input], None, &mut y, &mut RoundedRows::default());
            let expected = input as f32 * value * value;
            assert!(y[0] == expected || (y[0] / expected - 1.0).abs() < 1e-3, "{input}: {} {expected}", y[0]);
        }
    }

    #[test]
    fn what_is_not_finite_gives_nan_in_its_own_row_and_output_alone_and_zeros_nothing() {
        let (mut x, mut w) = (vec![1.0f32; 4 * 3], vec![1.0f32; 3 * 2]);
        (x[0], x[4], x[6]) = (f32::NAN, f32::INFINITY, 1e-42);
        (x[7], x[8]) = (0.0, 0.0);
        let mut y = vec![0.5; 4 * 2];
        Weight::new(&w, 2).product(&x, None, &mut y, &mut RoundedRows::default());
        assert!(y[..4].iter().all(|v| v.is_nan()) && y[4..6] == [0.5; 2]);
        assert!(y[6..].iter().all(|v| (v - 3.5).abs() < 1e-3));
        w[1] = f32::NAN;
        let mut y = vec![0.0; 2];
        Weight::new(&w, 2).product(&x[9..], Some(&[0.0; 2]), &mut y, &mut RoundedRows::default());
        assert!((y[0] - 3.0).abs() < 1e-3 && y[1].is_nan());
    }

    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        let mut rng = Rng::at(4, &[]);
        let width = 34;
        let mut integers = |n: usize| (0..n).map(|_| (rng.below(8191) as i16) - 4095).collect::<Vec<_>>();
        for (rows, output) in (1..26).flat_map(|rows| [12usize, 20, 35].map(|output| (rows, output))) {
            let (values, weights) = (integers(rows * width), integers(output.next_multiple_of(PANEL) * width));
            let (row_scales, scales, biases) = (vec![0.5; rows], vec![0.25f32; output], vec![0.75; output]);
            let x = Rows { values: &values, width, scales: &row_scales };
            let mut expected = None;
            for bias in [None, Some(&biases[..])] {
                let panels = Panels { values: &weights, scales: &scales, bias };
                let products = |multiply: &dyn Fn(Rows, Panels, &mut [f32])| {
                    let mut y = vec![0.75; rows * output];
                    multiply(x, panels, &mut y);
                    y
                };
                let plain = products(&|x, panels, y| {
                    over_blocks(x, panels, 0..output, y, |row, panel| [[portable(row, panel)]]);
                });
                assert_eq!(products(&multiply), plain, "{rows} {output}");
                // The machine may have AVX-512 too, so AVX2 is called by name.
                #[cfg(target_arch = "x86_64")]
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the feature the function is compiled for.
                    assert_eq!(products(&|x, panels, y| unsafe { avx2::multiply(x, panels, y) }), plain);
                }
                assert_eq!(*expected.get_or_insert_with(|| plain.clone()), plain);
            }
        }
    }
}
