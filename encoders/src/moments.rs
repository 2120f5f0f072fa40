//! Mean and standard deviation from exact sums.
//!
//! Σx and Σx² are kept as integers, one for each exponent that a number can have. So addition is exact and
//! independent of order, and any split of the data over batches, threads or shards gives the same bits. At the end
//! these integers are added to one fixed-point number that is wide enough for all exponents, a long accumulator
//! (Kulisch, "Computer Arithmetic and Validity", 2nd ed., 2013, chapter 8).

/// Bits of a digit of a [`LongSum`].
const DIGIT_BITS: usize = 32;

/// A fixed-point number: the sum of digit i * 2^(32 i + base).
struct LongSum {
    digits: Vec<i128>,
    /// Exponent of two of the lowest bit.
    base: i32,
}

impl LongSum {
    fn new(positions: usize, base: i32) -> Self {
        // A term reaches 128 bits above its position, and there is room for carries.
        Self { digits: vec![0; positions / DIGIT_BITS + 8], base }
    }

    /// Adds `term * 2^position`.
    fn add(&mut self, term: i128, position: usize) {
        let (first, shift) = (position / DIGIT_BITS, position % DIGIT_BITS);
        let digit = (1 << DIGIT_BITS) - 1;
        let mut rest = term;
        for (i, to) in self.digits[first..].iter_mut().take(4).enumerate() {
            // The highest part keeps the sign.
            let part = if i < 3 { rest & digit } else { rest };
            *to += part << shift;
            rest >>= DIGIT_BITS;
        }
    }

    /// The sum as two floats whose exact sum is correct to about 106 bits.
    fn value(&self) -> (f64, f64) {
        let mut digits = self.digits.clone();
        let negative = propagate(&mut digits);
        if negative {
            digits.iter_mut().for_each(|d| *d = -*d);
            propagate(&mut digits);
        }
        let (mut high, mut low) = (0.0f64, 0.0f64);
        for (i, digit) in digits.iter().enumerate().rev().filter(|(_, d)| **d != 0).take(8) {
            let term = *digit as f64 * 2f64.powi(self.base + (i * DIGIT_BITS) as i32);
            let sum = high + term;
            low += term - (sum - high);
            high = sum;
        }
        if negative { (-high, -low) } else { (high, low) }
    }
}

/// Carries upwards, so that every digit but the last is within `[0, 2^32)`. Returns whether the sum is negative.
fn propagate(digits: &mut [i128]) -> bool {
    let mut carry = 0i128;
    let last = digits.len() - 1;
    for digit in &mut digits[..last] {
        let sum = *digit + carry;
        *digit = sum & ((1 << DIGIT_BITS) - 1);
        carry = sum >> DIGIT_BITS;
    }
    digits[last] += carry;
    digits[last] < 0
}

/// Count, sum and sum of squares of finite numbers.
///
/// # Memory
/// 96 KiB.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    count: u64,
    /// Sums by the exponent bits of the numbers.
    sums: Vec<Sums>,
}

/// Sums over the numbers of one exponent. Each number adds at most 64 bits, which leaves room for 2^63 numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sums {
    mantissas: i128,
    /// Sums of the lower 64 bits of the squared mantissas, and of the bits above.
    squares: [u128; 2],
}

/// The number of values of the exponent bits.
const EXPONENTS: usize = 1 << 11;
/// The last mantissa bit of a number with exponent bits `e` stands for 2^(e + BASE), and that of its square for
/// 2^(2 e + 2 BASE).
const BASE: i32 = -1075;

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, sums: vec![Sums::default(); EXPONENTS] }
    }
}

impl Moments {
    /// Adds a finite number `times` times; at most 2^63 in all.
    #[inline]
    pub(crate) fn add(&mut self, x: f64, times: u64) {
        let bits = x.to_bits();
        let exponent = (bits >> 52) as usize % EXPONENTS;
        // A subnormal number has exponent bits 0. It has no implicit leading one, and the scale of exponent 1.
        let mantissa = bits & ((1 << 52) - 1) | u64::from(exponent != 0) << 52;
        let sign = bits as i64 >> 63;
        let square = u128::from(mantissa) * u128::from(mantissa);
        let n = u128::from(times);
        self.count += times;
        let sums = &mut self.sums[exponent];
        sums.mantissas += i128::from((mantissa as i64 ^ sign) - sign) * i128::from(times);
        sums.squares[0] += u128::from(square as u64) * n;
        sums.squares[1] += (square >> 64) * n;
    }

    /// Adds the moments of another part of the data.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for (mine, theirs) in self.sums.iter_mut().zip(&other.sums) {
            mine.mantissas += theirs.mantissas;
            mine.squares[0] += theirs.squares[0];
            mine.squares[1] += theirs.squares[1];
        }
    }

    /// Σx and Σx².
    fn totals(&self) -> [LongSum; 2] {
        let mut sum = LongSum::new(EXPONENTS, BASE);
        let mut squares = LongSum::new(2 * EXPONENTS + 64, 2 * BASE);
        for (exponent, sums) in self.sums.iter().enumerate().filter(|(_, s)| **s != Sums::default()) {
            let position = exponent.max(1);
            sum.add(sums.mantissas, position);
            squares.add(sums.squares[0] as i128, 2 * position);
            squares.add(sums.squares[1] as i128, 2 * position + 64);
        }
        [sum, squares]
    }

    /// Mean and population standard deviation. They are (0, 1) without values; the deviation is 1 where all are equal.
    pub(crate) fn mean_and_deviation(&self) -> (f64, f64) {
        if self.count == 0 {
            return (0.0, 1.0);
        }
        let n = self.count as f64;
        let [mean, mean_square] = self.totals().map(|sum| divide(sum.value(), n));
        // mean² is high + low, in the precision of the sums.
        let high = mean.0 * mean.0;
        let low = mean.0.mul_add(mean.0, -high) + 2.0 * mean.0 * mean.1;
        let variance = (mean_square.0 - high) + (mean_square.1 - low);
        // A smaller difference comes from rounding in the last step, not from spread.
        let noise = mean_square.0 * 1e-31;
        let deviation = if variance > noise { variance.sqrt() } else { 1.0 };
        (mean.0 + mean.1, deviation)
    }
}

/// Divides a number by another. The first and the result are sums of two floats.
fn divide((high, low): (f64, f64), by: f64) -> (f64, f64) {
    let quotient = high / by;
    let rest = quotient.mul_add(-by, high) + low;
    (quotient, rest / by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Moments {
        let mut m = Moments::default();
        values.iter().for_each(|x| m.add(*x, 1));
        m
    }

    /// Numbers of very different magnitudes, reproducibly.
    fn wild(n: u64) -> Vec<f64> {
        (0..n)
            .map(|i| {
                let h = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
                let sign = if h & 1 == 0 { 1.0 } else { -1.0 };
                sign * (h as f64) * 2f64.powi((h % 80) as i32 - 60)
            })
            .collect()
    }

    #[test]
    fn mean_and_deviation_of_known_numbers() {
        assert_eq!(of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).mean_and_deviation(), (5.0, 2.0));
        assert_eq!(of(&[-1.0, 1.0]).mean_and_deviation(), (0.0, 1.0));
        assert_eq!(of(&[]).mean_and_deviation(), (0.0, 1.0));
        assert_eq!(of(&[0.1; 7]).mean_and_deviation(), (0.1, 1.0));
        assert_eq!(of(&[1e100, -1e100, 3.0]).mean_and_deviation().0, 1.0);
        assert_eq!(of(&[f64::MIN_POSITIVE / 4.0, 0.0, -0.0]).mean_and_deviation().1, 1.0);
    }

    #[test]
    fn a_large_offset_does_not_eat_the_deviation() {
        let values: Vec<f64> = (0..1000).map(|i| 1e12 + f64::from(i % 2)).collect();
        let (mean, deviation) = of(&values).mean_and_deviation();
        assert_eq!(mean, 1e12 + 0.5);
        assert!((deviation - 0.5).abs() < 1e-9, "{deviation}");
    }

    #[test]
    fn order_and_splits_do_not_change_a_bit() {
        let values = wild(3000);
        let whole = of(&values);
        let mut reversed = values.clone();
        reversed.reverse();
        let mut merged = of(&reversed[..17]);
        merged.merge(&of(&reversed[17..]));
        assert_eq!(merged, whole);
        assert_eq!(merged.mean_and_deviation(), whole.mean_and_deviation());
        let mut weighted = Moments::default();
        weighted.add(-2.5, 3);
        assert_eq!(weighted, of(&[-2.5; 3]));
    }

    #[test]
    fn sums_agree_with_integer_arithmetic() {
        let values: Vec<i64> = (0..500).map(|i: i64| (i * 7919 - 1_000_003) * (1 << (i % 20))).collect();
        let n = values.len() as f64;
        let sum: i128 = values.iter().map(|v| i128::from(*v)).sum();
        let squares: i128 = values.iter().map(|v| i128::from(*v) * i128::from(*v)).sum();
        let variance = (squares * n as i128 - sum * sum) as f64 / (n * n);
        let (mean, deviation) = of(&values.iter().map(|v| *v as f64).collect::<Vec<_>>()).mean_and_deviation();
        assert_eq!(mean, sum as f64 / n);
        assert!((deviation / variance.sqrt() - 1.0).abs() < 1e-14);
    }
}
