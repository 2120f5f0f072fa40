//! ln(1 + x) without branches, so that loops over it vectorise, and from sums, products and quotients alone, so that it
//! has the same bits on every machine.
//!
//! Method and coefficients are those of `log` and `log1p` in FDLIBM 5.3 (`e_log.c`, `s_log1p.c`), which states:
//! "Copyright (C) 1993 by Sun Microsystems, Inc. All rights reserved. Developed at SunSoft, a Sun Microsystems, Inc.
//! business. Permission to use, copy, modify, and distribute this software is freely granted, provided that this
//! notice is preserved."

/// The upper 32 bits of 1 / sqrt(2).
const ROOT: u64 = 0x3fe6_a09e << 32;
const ONE: u64 = 0x3ff0_0000 << 32;
const MANTISSA: u64 = (1 << 52) - 1;
/// 2^52. An integer below 2^52 that is put into its mantissa bits is added to it.
const MAGIC: u64 = 0x4330_0000 << 32;
/// ln 2 in two parts. The first ends with so many zero bits that its products with exponents are exact.
const LN2: (f64, f64) = (f64::from_bits(0x3fe6_2e42_fee0_0000), f64::from_bits(0x3dea_39ef_3579_3c76));
/// Remez polynomial of ln((1 + s) / (1 - s)) in s² on [0, 0.1716²], without its first term.
const R: [f64; 7] = [
    f64::from_bits(0x3fe5_5555_5555_5593),
    f64::from_bits(0x3fd9_9999_9997_fa04),
    f64::from_bits(0x3fd2_4924_9422_9359),
    f64::from_bits(0x3fcc_71c5_1d8e_78af),
    f64::from_bits(0x3fc7_4664_96cb_03de),
    f64::from_bits(0x3fc3_9a09_d078_c69f),
    f64::from_bits(0x3fc2_f112_df3e_5244),
];

/// ln(1 + x) of a finite x of at least 0, to about one unit in the last place.
#[inline(always)]
fn ln_1p(x: f64) -> f64 {
    // The sum and its rounding error `lost` (Knuth's two-sum). The error changes the logarithm by lost / sum.
    let sum = 1.0 + x;
    let added = sum - 1.0;
    let lost = (1.0 - (sum - added)) + (x - added);
    // sum = 2^k * (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
    let bits = sum.to_bits().wrapping_add(ONE - ROOT);
    let k = f64::from_bits((bits >> 52) | MAGIC) - (f64::from_bits(MAGIC) + 1023.0);
    let f = f64::from_bits((bits & MANTISSA) + ROOT) - 1.0;
    let half = 0.5 * f * f;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let even = w * (R[1] + w * (R[3] + w * R[5]));
    let odd = z * (R[0] + w * (R[2] + w * (R[4] + w * R[6])));
    s * (half + (even + odd)) + (k * LN2.1 + lost / sum) - half + f + k * LN2.0
}

/// Replaces each x by sign(x) * ln(1 + |x|). The result for NaN and infinities is unspecified.
pub(crate) fn signed_ln_1p(numbers: &mut [f64]) {
    #[inline(always)]
    fn body(numbers: &mut [f64]) {
        numbers.iter_mut().for_each(|x| *x = ln_1p(x.abs()).copysign(*x));
    }
    /// The same operations, compiled for registers of twice the width.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(numbers: &mut [f64]) {
        body(numbers);
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was detected just above.
        return unsafe { avx2(numbers) };
    }
    body(numbers);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_logarithm_to_the_last_places_from_the_smallest_to_the_largest() {
        let mut x = f64::MIN_POSITIVE;
        let mut worst = 0.0f64;
        while x <= 1e100 {
            let expected = x.ln_1p();
            let ulp = f64::from_bits(expected.to_bits() + 1) - expected;
            worst = worst.max((ln_1p(x) - expected).abs() / ulp);
            x *= 1.000_7;
        }
        assert!(worst <= 2.0, "{worst} units in the last place");
    }

    #[test]
    fn known_values() {
        assert_eq!(ln_1p(0.0), 0.0);
        assert_eq!(ln_1p(1.0), std::f64::consts::LN_2);
        assert_eq!(ln_1p(1e-300), 1e-300);
        assert_eq!(ln_1p(9.0), std::f64::consts::LN_10);
    }
    #[test]
    fn the_sign_stays_and_the_number_of_lanes_does_not_matter() {
        let numbers: Vec<f64> = (0..67).map(|i| f64::from(i - 33) * 1.7f64.powi(i)).chain([-0.0]).collect();
        let mut logs = numbers.clone();
        signed_ln_1p(&mut logs);
        for (x, log) in numbers.iter().zip(&logs) {
            assert_eq!(log.to_bits(), ln_1p(x.abs()).copysign(*x).to_bits());
        }
        // The results for NaN and infinities may be anything, but there is no panic.
        signed_ln_1p(&mut [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX]);
    }
}
