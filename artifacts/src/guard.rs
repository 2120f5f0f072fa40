//! Turns panics of the Parquet reader into errors, since it panics on some damaged files.

use parquet::errors::ParquetError;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`guarded`], where a panic becomes an error and is not reported.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics inside [`guarded`] from being reported on standard error. All others are reported as before.
fn silence_guarded_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                report(panic);
            }
        }));
    });
}

/// Runs `read`, and returns a panic inside it as an error.
///
/// # Errors
/// Those of `read`, and [`ParquetError::General`] where it panicked.
pub fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    silence_guarded_panics();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(outer);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
        Err(ParquetError::General(format!("the decoder gave up on its content: {text}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_guard_can_be_nested() {
        let inner = || guarded(|| -> Result<(), ParquetError> { panic!("bad page") });
        let error = guarded(|| {
            assert!(inner().is_err());
            assert!(GUARDED.get(), "the outer guard still holds");
            inner()
        });
        assert!(error.unwrap_err().to_string().contains("gave up"));
        assert!(!GUARDED.get());
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }
}
