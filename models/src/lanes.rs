//! The elementwise loops in which most time is spent. They run over 16 lanes so that they vectorise, and are
//! compiled for AVX-512, AVX2 and the baseline instruction set, from which one is chosen at run time.
//!
//! Every reduction runs in a fixed lane order, so a result depends on the instruction set (through
//! fused multiply-add) but never on threads or on alignment.

/// Lanes of every loop: one AVX-512 register of f32.
pub const LANES: usize = 16;

/// Compiles one body for several instruction sets and picks the widest the machine has.
macro_rules! dispatched {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                {
                    // SAFETY: the features were detected just above; AVX-512 implies AVX2 and FMA.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were detected just above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<false>($($arg),*)
        }
    )*};
}
pub(crate) use dispatched;

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks the processor to load values into the cache. It has no other effect.
#[inline]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is that of one of the values.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// `a * b + c`, fused where the instruction set has it.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x to about 2 units in the last place, for x of at most 88. 0 below -87.
///
/// Range reduction by ln 2 in two parts and a degree-6 polynomial (Cephes `expf`).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x < -87.0 { -87.0 } else { x };
    let shifted = multiply_add::<FMA>(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FMA>(n, -0.693_359_4, bounded);
    let r = multiply_add::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = multiply_add::<FMA>(p, r, 1.398_199_9e-3);
    p = multiply_add::<FMA>(p, r, 8.333_452e-3);
    p = multiply_add::<FMA>(p, r, 4.166_579_6e-2);
    p = multiply_add::<FMA>(p, r, 1.666_666_5e-1);
    p = multiply_add::<FMA>(p, r, 0.5);
    p = multiply_add::<FMA>(p, r * r, r + 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { p * power }
}

/// e^x in 64 bits, to about 2 units in the last place, for x of at most 708. 0 below -708.
///
/// Range reduction by ln 2 in two parts and the Taylor polynomial of degree 13.
#[inline(always)]
pub(crate) fn exp_f64<const FMA: bool>(x: f64) -> f64 {
    // Adding 1.5 * 2^52 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// 1 / k!, from 13 down to 2.
    const TAYLOR: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
    ];
    let fused = |a: f64, b: f64, c: f64| if FMA { a.mul_add(b, c) } else { a * b + c };
    let bounded = if x < -708.0 { -708.0 } else { x };
    let shifted = fused(bounded, std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused(n, -6.931_457_519_531_25e-1, bounded);
    let r = fused(n, -1.428_606_820_309_417_2e-6, r);
    let mut p = 0.0;
    for factor in TAYLOR {
        p = fused(p, r, factor);
    }
    p = fused(p, r * r, r + 1.0);
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x < -708.0 { 0.0 } else { p * power }
}

/// The logistic function, 1 / (1 + e^-x), without an overflow for any x.
#[inline(always)]
pub(crate) fn logistic<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// Folds lanes by halves, in a fixed order.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

dispatched! {
    /// Adds `shift`, which is as long as `row`, to `row`, and returns the maximum of the result.
    pub fn shift_and_max(row: &mut [f32], shift: &[f32]) -> f32 {
        let mut best = [f32::NEG_INFINITY; LANES];
        let (head, tail) = row.split_at_mut(row.len() / LANES * LANES);
        let (shift_head, shift_tail) = shift.split_at(head.len());
        for (x, s) in head.chunks_exact_mut(LANES).zip(shift_head.chunks_exact(LANES)) {
            for i in 0..LANES {
                x[i] += s[i];
                best[i] = max(x[i], best[i]);
            }
        }
        for ((x, s), best) in tail.iter_mut().zip(shift_tail).zip(&mut best) {
            *x += s;
            *best = max(*x, *best);
        }
        fold(best, max)
    }

    /// The largest value, or minus infinity.
    pub fn largest(row: &[f32]) -> f32 {
        let mut best = [f32::NEG_INFINITY; LANES];
        let (head, tail) = row.split_at(row.len() / LANES * LANES);
        for x in head.chunks_exact(LANES) {
            for i in 0..LANES {
                best[i] = max(x[i], best[i]);
            }
        }
        best.iter_mut().zip(tail).for_each(|(best, x)| *best = max(*x, *best));
        fold(best, max)
    }

    /// Multiplies all values by `scale`.
    pub fn multiply(row: &mut [f32], scale: f32) {
        row.iter_mut().for_each(|x| *x *= scale);
    }

    /// Replaces each x by e^(x - `origin`) and returns their sum.
    pub fn exp_and_sum(row: &mut [f32], origin: f32) -> f32 {
        let mut sum = [0.0; LANES];
        let (head, tail) = row.split_at_mut(row.len() / LANES * LANES);
        for x in head.chunks_exact_mut(LANES) {
            for i in 0..LANES {
                x[i] = exp::<FMA>(x[i] - origin);
                sum[i] += x[i];
            }
        }
        for (x, sum) in tail.iter_mut().zip(&mut sum) {
            *x = exp::<FMA>(*x - origin);
            *sum += *x;
        }
        fold(sum, |a, b| a + b)
    }

    /// Inner product.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        inner::<FMA>(a, b)
    }

    /// `y += scale * x`.
    pub fn add_scaled(y: &mut [f32], scale: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = multiply_add::<FMA>(scale, *x, *y);
        }
    }

    /// `y += scale * x`, where values of `y` are `stride` apart.
    pub fn add_scaled_apart(y: &mut [f32], stride: usize, scale: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().step_by(stride).zip(x) {
            *y = multiply_add::<FMA>(scale, *x, *y);
        }
    }

    /// `y += x`.
    pub fn add(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// Inner product with 16 partial sums, for use inside dispatched bodies.
#[inline(always)]
pub(crate) fn inner<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = [0.0; LANES];
    let split = a.len().min(b.len()) / LANES * LANES;
    for (x, y) in a[..split].chunks_exact(LANES).zip(b[..split].chunks_exact(LANES)) {
        for i in 0..LANES {
            sum[i] = multiply_add::<FMA>(x[i], y[i], sum[i]);
        }
    }
    for ((x, y), sum) in a[split..].iter().zip(&b[split..]).zip(&mut sum) {
        *sum = multiply_add::<FMA>(*x, *y, *sum);
    }
    fold(sum, |a, b| a + b)
}

/// Sum with 16 partial sums, for use inside dispatched bodies.
#[inline(always)]
pub(crate) fn total(values: &[f32]) -> f32 {
    let mut sum = [0.0; LANES];
    let (head, tail) = values.split_at(values.len() / LANES * LANES);
    for x in head.chunks_exact(LANES) {
        for i in 0..LANES {
            sum[i] += x[i];
        }
    }
    sum.iter_mut().zip(tail).for_each(|(sum, x)| *sum += x);
    fold(sum, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_f64_over_the_whole_range() {
        for fma in [true, false] {
            for i in 0..=200_000 {
                let x = -87.0 + 175.0 * i as f32 / 200_000.0;
                let got = if fma { exp::<true>(x) } else { exp::<false>(x) } as f64;
                let want = (x as f64).exp();
                assert!((got / want - 1.0).abs() < 4e-7, "exp({x}) = {got}, expected {want}");
            }
        }
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn exp_f64_agrees_with_the_library_over_the_whole_range() {
        for fma in [true, false] {
            for i in 0..=200_000 {
                let x = -708.0 + 1416.0 * f64::from(i) / 200_000.0;
                let found = if fma { exp_f64::<true>(x) } else { exp_f64::<false>(x) };
                assert!((found / x.exp() - 1.0).abs() < 1e-15, "exp({x}) = {found}, expected {}", x.exp());
            }
        }
        assert_eq!((exp_f64::<true>(f64::NEG_INFINITY), exp_f64::<false>(-1e9)), (0.0, 0.0));
        assert!(exp_f64::<true>(f64::NAN).is_nan());
    }

    #[test]
    fn the_logistic_function_agrees_with_f64_and_keeps_its_limits() {
        for i in -2000..=2000 {
            let x = i as f32 / 20.0;
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            for got in [logistic::<true>(x), logistic::<false>(x)] {
                assert!((f64::from(got) - want).abs() < 1e-6 * want + 1e-37, "logistic({x}) = {got}, expected {want}");
            }
        }
        assert_eq!([logistic::<true>(f32::NEG_INFINITY), logistic::<true>(f32::INFINITY)], [0.0, 1.0]);
        assert!(logistic::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn row_kernels_agree_with_plain_loops_at_every_length() {
        for len in 1..70 {
            let row: Vec<f32> = (0..len).map(|i| ((i * 37 % 11) as f32 - 5.0) * 0.3).collect();
            let shift: Vec<f32> = (0..len).map(|i| (i % 3) as f32).collect();
            let shifted: Vec<f32> = row.iter().zip(&shift).map(|(x, s)| x + s).collect();
            let mut out = row.clone();
            let top = shift_and_max(&mut out, &shift);
            assert_eq!(out, shifted);
            assert_eq!(top, shifted.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum = exp_and_sum(&mut out, top);
            let want: f32 = shifted.iter().map(|x| (x - top).exp()).sum();
            assert!((sum - want).abs() < 1e-5 * want);
            let want: f32 = row.iter().zip(&shift).map(|(a, b)| a * b).sum();
            assert!((dot(&row, &shift) - want).abs() < 1e-5);
        }
    }
}
