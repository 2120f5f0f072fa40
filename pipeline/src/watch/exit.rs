//! Ending the process where it is, while other threads still work.

use crate::error::PipelineError;
use crate::watch::terminal::tell_error;
use std::time::Duration;

/// Ends the process with an error, whatever its other threads do.
pub(crate) fn end_with(error: &PipelineError) -> ! {
    let text = error.to_string();
    let (said, is_said) = std::sync::mpsc::channel();
    let tell = {
        let text = text.clone();
        move || {
            tell_error(&text);
            let _ = said.send(());
        }
    };
    // A reader of standard error that has stopped must not keep the process.
    match std::thread::Builder::new().name("tell".into()).spawn(tell) {
        Ok(_) => _ = is_said.recv_timeout(Duration::from_millis(500)),
        Err(_) => tell_error(&text),
    }
    end_process(error.exit_code())
}

/// Ends the process without destructors, which other threads could run into while they still work.
pub(crate) fn end_process(code: u8) -> ! {
    unsafe extern "C" {
        fn _exit(code: std::ffi::c_int) -> !;
    }
    // SAFETY: `_exit` takes any integer, and nothing of this process runs after it.
    unsafe { _exit(code.into()) }
}
