//! Memory of large tables: zeroed, and on huge pages where the system has them.
//!
//! A step touches table rows all over a table. On pages of 4 KiB nearly every row costs a walk of the page
//! tables, and the first touch of each page a fault; pages of 2 MiB make both rare. An example then takes 1%
//! longer with a table of 10 million rows than with one of 10,000 (`examples/training_speed.rs`, `spike 0
//! 10000000 2000000` against `spike 0 10000 2000000`, two cores).

/// Alignment from which the system can use a huge page.
const HUGE: usize = 2 << 20;

/// `len` zero values.
///
/// # Memory
/// Becomes resident when touched, 2 MiB at a time (4 KiB where there are no huge pages).
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
    // SAFETY: the range lies within `values`, borrowed exclusively, and begins and ends on page boundaries.
    // The advice changes which pages hold the values, not the values; refused advice (an old kernel) is
    // an error code without effect, so the result does not matter.
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
