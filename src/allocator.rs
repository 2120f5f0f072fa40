//! How the C library's allocator treats the buffers of batches.

/// Lets the allocator keep freed buffers of batches for the next ones.
///
/// By default glibc gives buffers of some megabytes back to the kernel when they are freed and faults
/// every page in again for the next batch, which took 5 to 10% of `infer`'s time. What is kept beyond
/// what is in use is at most 64 MiB a thread's arena. Other allocators are left as they are.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_batches() {
    use std::ffi::c_int;
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_THRESHOLD: c_int = -3;
    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    for (parameter, bytes) in [(M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20)] {
        // SAFETY: `mallopt` takes two integers and changes only when memory goes back to the kernel; a value
        // it does not take is an error code without effect. No other thread runs yet.
        unsafe { mallopt(parameter, bytes) };
    }
}

/// Nothing to do.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_batches() {}
