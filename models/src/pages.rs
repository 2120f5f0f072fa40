//! Memory for large tables: zeroed, and on huge pages if the system has them.
//!
//! A step touches rows all over a table. With pages of 4 KiB, nearly every row costs a walk of the page
//! tables, and the first touch of each page a fault. With pages of 2 MiB both are rare. Then an example takes only
//! 1% longer with a table of 10 million rows than with one of 10,000 (`examples/training_speed.rs`, `spike 0
//! 10000000 2000000` against `spike 0 10000 2000000`, two cores).

/// Alignment from which the system can use a huge page.
const HUGE: usize = 2 << 20;

/// `len` zero values.
///
/// # Memory
/// It becomes resident when it is touched, 2 MiB at a time, or 4 KiB without huge pages.
pub(crate) fn zeroed<T: Copy + Default>(len: usize) -> Vec<T> {
    let mut values = vec![T::default(); len];
    if size_of_val(&values[..]) >= 2 * HUGE {
        advise(&mut values);
    }
    values
}

#[cfg(target_os = "linux")]
fn advise<T>(values: &mut [T]) {
    use std::ffi::{c_int, c_void};
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    let bytes = size_of_val(values);
    let start = values.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(HUGE);
    let length = bytes.saturating_sub(skipped) / HUGE * HUGE;
    // SAFETY: the range is within `values`, which are borrowed exclusively, and begins and ends on page boundaries.
    // The advice changes which pages hold the values, but not the values. Refused advice, as from an old kernel, has
    // no effect, so the result does not matter.
    unsafe { madvise(start.wrapping_add(skipped).cast(), length, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise<T>(_values: &mut [T]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_size_are_zero_and_can_be_written() {
        for len in [0, 1, 1000, HUGE / 4, HUGE + 12_345, 3 * HUGE] {
            let mut values = zeroed::<f32>(len);
            assert!(values.len() == len && values.iter().all(|v| *v == 0.0));
            values.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
            assert!(values.iter().enumerate().all(|(i, v)| *v == i as f32));
        }
    }
}
