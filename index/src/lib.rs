//! Item indexes of twotower: exact search and HNSW behind one trait.
//!
//! An index knows items by the row of their vector. Rows are in the order of item ids, so "ties by row" means "ties by
//! item id". Every index gives the best `k` items of a query by cosine similarity, computed in f64 from the stored
//! vectors, ties by row. The answer to a query has the same bits whatever the other queries, threads or shards.
//!
//! - [`build`] chooses, builds and measures an index; [`save`] and [`open`] keep it in a folder
//! - [`ItemIndex::search`] answers a batch of queries, with [`Exclusions`] and an [`Eligibility`]

#[cfg(target_endian = "big")]
compile_error!("index files are mapped as they are and hold little-endian numbers");

mod build;
mod config;
mod dot;
mod error;
mod exact;
mod graph;
mod hnsw;
mod image;
mod measure;
mod rank;
mod reach;
mod sample;
mod scan;
mod search;
pub mod store;
mod tile;
mod vectors;

pub use build::{BuildReport, BuildStep, Observer, build, measure_again};
pub use config::{IndexConfig, IndexKind};
pub use error::IndexError;

pub use image::Image;
pub use measure::{UserRecall, recall_against_exact};
pub use sample::noisy_queries;
pub use search::{Eligibility, Exclusions, ItemIndex, Neighbours, Request};
pub use store::{IndexManifest, open, save};
pub use vectors::ItemVectors;
