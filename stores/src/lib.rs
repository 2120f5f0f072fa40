//! Object stores of twotower (S3 and what speaks it, Azure Blob, Google Cloud Storage, HTTP) as a blocking API.
//!
//! The only crate that knows `object_store` and tokio's runtime for it: one thread waits for all requests of the process
//! (`runtime.rs`), everybody else calls functions that block. A [`StoreUrl`] says where something lies, [`Stores`] opens
//! the [`Store`] that holds it, and a store lists, reads by ranges, writes whole objects under a [`Condition`], and
//! uploads large ones in parts.
//!
//! # Memory
//! What is read ahead of its use is bounded for the whole process, see [`StoreSettings::read_ahead_mib`]; so is what
//! waits to be sent, see [`StoreSettings::upload_mib`]. Beyond that every open reader and every open upload has one range
//! or part of its own, so that each of them makes progress.

mod blocks;
mod budget;
mod client;
mod condition;
pub mod error;
mod leftovers;
mod object;
mod profile;
mod ranges;
mod redact;
mod retry;
mod runtime;
mod settings;
mod store;
mod stores;
mod upload;
mod url;

pub use blocks::Blocks;
pub use condition::Condition;
pub use error::{ErrorKind, StoreError};
pub use object::{Listed, Object, Version};
pub use ranges::{RANGE_BYTES, RangeReader};
pub use settings::{ConditionalPut, StoreSettings};
pub use store::Store;
pub use stores::Stores;
pub use upload::{PART_BYTES, Upload};
pub use url::{Scheme, StoreUrl};
