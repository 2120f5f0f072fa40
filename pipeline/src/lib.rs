//! The stages of twotower as functions: each reads tables and earlier artifacts, writes its own
//! artifact with a manifest, and says what it did.
//!
//! ```text
//! encode-features -> train -> infer (items, users) -> recall -> evaluate -> check
//! ```

// What people read goes through `terminal`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod adopt;
pub mod allocator;
mod bad_rows;
pub mod cancel;
mod chain;
mod clock;
mod columns;
mod contents;
pub mod dataset;
pub mod demo;
mod distinct;
pub mod doctor;
mod duplicates;
pub mod encode;
mod encode_warnings;
mod encoded;
pub mod error;
pub mod evaluate;
mod exclusions;
mod forecast;
pub mod gates;
mod id_index;
pub mod infer;
pub mod init;
mod interactions;
pub mod limits;
pub mod memory;
pub mod output_folder;
mod pair_store;
mod partitions;
pub mod parts;
pub mod progress;
mod quarantine;
pub mod recall;
pub mod run;
pub mod run_dir;
pub mod run_lock;
pub mod runs;
mod sample;
pub mod shard;
mod side_files;
mod source;
mod spare;
pub mod stage;
pub mod stall;
mod stream;
pub mod terminal;
pub mod towers;
pub mod train;
mod user_passes;
pub mod verify;

pub use twotower_config as config;
pub use twotower_synth as synth;
