//! Exponential and logarithm in plain arithmetic.
//!
//! Those of the system differ in the last bit between library versions, but a data set should have the
//! same bytes everywhere. Also, loops over this `exp` vectorise.

/// `e^x` in f32 for `x` clamped to `[-80, 80]`, with a relative error below 1e-5.
///
/// `x = (n + f) ln 2` with a whole number n and |f| <= 1/2. 2^n goes to the exponent bits, and 2^f is a
/// Taylor polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > 80.0 { 80.0 } else { x };
    let x = if x < -80.0 { -80.0 } else { x };
    let t = x * std::f32::consts::LOG2_E;
    let shifted = t + ROUND;
    let f = (t - (shifted - ROUND)) * std::f32::consts::LN_2;
    let p = 1.0 / 120.0 + f * (1.0 / 720.0);
    let p = 1.0 / 24.0 + f * p;
    let p = 1.0 / 6.0 + f * p;
    let p = 0.5 + f * p;
    let p = 1.0 + f * p;
    let p = 1.0 + f * p;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// Natural logarithm of a positive, normal, finite `x`, with a relative error below 1e-9.
///
/// `x = 2^n m` with m in `[sqrt(1/2), sqrt(2))`, and `ln m = 2 artanh((m - 1) / (m + 1))`.
#[inline(always)]
pub(crate) fn ln(x: f64) -> f64 {
    let mut n = (x.to_bits() >> 52) as i64 - 1023;
    let mut m = f64::from_bits(x.to_bits() & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        n += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let series =
        1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0)))));
    n as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library_and_is_clamped() {
        for i in -8_000..=8_000 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x).exp();
            // 80 / ln 2 is about 115, and f32 knows that to 4e-6.
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 1e-5, "exp({x}) = {}", exp(x));
        }
        assert_eq!(exp(1e30), exp(80.0));
        assert_eq!(exp(f32::NEG_INFINITY), exp(-80.0));
    }

    #[test]
    fn ln_agrees_with_the_standard_library() {
        for i in 1..100_000 {
            for x in [f64::from(i) * 1e-3, 1.0 / f64::from(i), f64::from(i) * 1e6] {
                assert!((ln(x) - x.ln()).abs() <= 1e-9 * x.ln().abs().max(1e-3), "ln({x}) = {}", ln(x));
            }
        }
    }
}
