//! The stages of twotower as functions: each reads tables and earlier artifacts, writes its own
//! artifact with a manifest, and says what it did.
//!
//! ```text
//! encode-features -> train -> infer (items, users) -> recall -> evaluate -> check
//! ```

// What people read goes through `terminal`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod demo;
pub mod doctor;
pub mod error;
pub mod init;
pub mod profile;
pub mod results;
mod rows;
pub mod run;
pub mod stages;
pub mod stream;
mod timeline;
pub mod watch;

pub use twotower_config as config;
pub use twotower_synth as synth;
