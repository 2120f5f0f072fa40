//! Mean and standard deviation from exact sums.
//!
//! Σx and Σx² are kept as fixed-point integers wide enough for every value, so addition is exact
//! and therefore independent of order: any split of the data over batches, threads or shards gives
//! the same bits. The idea is Kulisch's long accumulator ("Computer Arithmetic and Validity",
//! 2nd ed., 2013, chapter 8), here with overlapping 128-bit limbs so that carries wait until the end.

/// Limbs start 32 bits apart; a mantissa of 53 bits shifted by up to 31 leaves room for 2^42 additions.
const LIMB_BITS: usize = 32;

/// An exact sum of `mantissa * 2^position` terms.
#[derive(Debug, Clone, PartialEq)]
struct ExactSum {
    limbs: Vec<i128>,
    /// Exponent of two of position 0.
    base: i32,
}

impl ExactSum {
    fn new(positions: usize, base: i32) -> Self {
        Self { limbs: vec![0; positions / LIMB_BITS + 1], base }
    }

    fn add(&mut self, mantissa: i64, position: usize, times: u64) {
        self.limbs[position / LIMB_BITS] += (i128::from(mantissa) * i128::from(times)) << (position % LIMB_BITS);
    }

    fn merge(&mut self, other: &Self) {
        self.limbs.iter_mut().zip(&other.limbs).for_each(|(a, b)| *a += b);
    }

    /// The sum as an unevaluated pair of floats, correct to about 106 bits.
    fn value(&self) -> (f64, f64) {
        let mut limbs = self.limbs.clone();
        // Four more limbs take the carries of a 128-bit one.
        limbs.resize(limbs.len() + 4, 0);
        let negative = propagate(&mut limbs);
        if negative {
            limbs.iter_mut().for_each(|l| *l = -*l);
            propagate(&mut limbs);
        }
        let (mut high, mut low) = (0.0f64, 0.0f64);
        for (i, limb) in limbs.iter().enumerate().rev().filter(|(_, l)| **l != 0).take(8) {
            let term = *limb as f64 * 2f64.powi(self.base + (i * LIMB_BITS) as i32);
            let sum = high + term;
            low += term - (sum - high);
            high = sum;
        }
        if negative { (-high, -low) } else { (high, low) }
    }
}

/// Carries upwards until every limb but the last is within `[0, 2^32)`; whether the sum is negative.
fn propagate(limbs: &mut [i128]) -> bool {
    let mut carry = 0i128;
    let last = limbs.len() - 1;
    for limb in &mut limbs[..last] {
        let sum = *limb + carry;
        *limb = sum & ((1 << LIMB_BITS) - 1);
        carry = sum >> LIMB_BITS;
    }
    limbs[last] += carry;
    limbs[last] < 0
}

/// Count, sum and sum of squares of finite numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    count: u64,
    sum: ExactSum,
    squares: ExactSum,
}

impl Default for Moments {
    fn default() -> Self {
        // A finite f64 is mantissa * 2^(e - 1075), e in 1..=2046; a square needs twice the range.
        Self { count: 0, sum: ExactSum::new(2046, -1075), squares: ExactSum::new(2 * 2046 + 53, -2150) }
    }
}

impl Moments {
    /// Adds a finite number `times` times; at most 2^42 in all.
    pub(crate) fn add(&mut self, x: f64, times: u64) {
        let bits = x.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = bits & ((1 << 52) - 1);
        let (mantissa, position) = if exponent == 0 { (fraction, 1) } else { (fraction | 1 << 52, exponent) };
        let signed = if x < 0.0 { -(mantissa as i64) } else { mantissa as i64 };
        self.count += times;
        self.sum.add(signed, position, times);
        let square = u128::from(mantissa) * u128::from(mantissa);
        self.squares.add((square & ((1 << 53) - 1)) as i64, 2 * position, times);
        self.squares.add((square >> 53) as i64, 2 * position + 53, times);
    }

    /// Adds the moments of another part of the data.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// Mean and population standard deviation; (0, 1) without values, deviation 1 where all are equal.
    pub(crate) fn mean_and_deviation(&self) -> (f64, f64) {
        if self.count == 0 {
            return (0.0, 1.0);
        }
        let n = self.count as f64;
        let mean = divide(self.sum.value(), n);
        let mean_square = divide(self.squares.value(), n);
        // mean² as high + low, to the precision of the sums.
        let high = mean.0 * mean.0;
        let low = mean.0.mul_add(mean.0, -high) + 2.0 * mean.0 * mean.1;
        let variance = (mean_square.0 - high) + (mean_square.1 - low);
        // Below this the difference is rounding of the last step, not spread.
        let noise = mean_square.0 * 1e-31;
        let deviation = if variance > noise { variance.sqrt() } else { 1.0 };
        (mean.0 + mean.1, deviation)
    }
}

/// A pair divided by a number, as a pair.
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
