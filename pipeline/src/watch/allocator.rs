//! How the C library's allocator treats the buffers of batches. Other allocators are left as they are.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::ffi::c_int;

/// Cores that share an arena, where there are many.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const CORES_AN_ARENA: usize = 4;
/// Up to as many cores have an arena each.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_ARENAS: usize = 4;

/// Lets the allocator keep freed buffers of batches for the next ones; to be called before any thread starts.
///
/// By default glibc gives buffers of some megabytes back to the kernel when they are freed and faults
/// every page in again for the next batch, which took 5 to 10% of `infer`'s time. What is kept beyond
/// what is in use is at most 64 MiB an arena.
///
/// A batch is allocated on one thread and freed on another, so that each arena comes to keep room for all batches:
/// with glibc's eight arenas a core, `infer` held half as much again. Threads allocate some buffers a batch, not
/// some a row, so few arenas serve many of them. Matrix products allocate more often: on two cores, training of a
/// sequence model waited for a lock that both shared.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_batches() {
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_ARENA_MAX: c_int = -8;
    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    let cores = crate::config::allocation::cores();
    let arenas = cores.div_ceil(CORES_AN_ARENA).clamp(cores.min(OWN_ARENAS), 64) as c_int;
    for (parameter, value) in [(M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20), (M_ARENA_MAX, arenas)] {
        // SAFETY: `mallopt` takes two integers and changes only when memory goes back to the kernel and how many
        // arenas there will be; a value it does not take is an error code without effect. No other thread runs yet.
        unsafe { mallopt(parameter, value) };
    }
}

/// Gives what is kept back to the kernel, so that a part starts as the first one did: gaps between
/// buffers of unlike sizes otherwise add up over hours of parts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> c_int;
    }
    // SAFETY: `malloc_trim` may be called at any time from any thread; it touches only memory that is free.
    unsafe { malloc_trim(0) };
}

/// Nothing to do.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_batches() {}

/// Nothing to do.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
