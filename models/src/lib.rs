//! Two-tower models: layers, losses, samplers, optimisers, training, ONNX export and inference engines.

pub mod augment;
mod candidates;
mod cross;
pub mod dssm;
mod encoded;
mod encoder;
pub mod engine;
mod error;
pub mod examples;
mod graph;
pub mod hyper_connections;
mod lanes;
mod layers;
pub mod lightgcn;
pub mod losses;
pub mod matmul;
pub mod metrics;
pub mod model;
pub mod native;
mod net;
mod objective;
pub mod onnx;
pub mod optimiser;
mod pages;
pub mod params;
mod positions;
pub mod rng;
mod samplers;
pub mod sasrec;
pub mod similarity;
mod sparse;
mod tables;
pub mod tisasrec;
pub mod tower;
pub mod train;

pub use error::ModelError;
