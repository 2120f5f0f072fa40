//! Two-tower models: layers, losses, samplers, optimisers, training, ONNX export and inference engines.

pub(crate) mod candidates;
mod cross;
pub mod dssm;
pub mod engine;
pub mod error;
pub mod examples;
pub mod lanes;
pub mod layers;
pub mod losses;
pub mod matmul;
pub mod metrics;
pub mod model;
pub mod native;
pub mod net;
pub mod onnx;
pub mod optimiser;
mod pages;
pub mod params;
pub mod rng;
pub mod samplers;
pub mod sparse;
pub mod tower;
pub mod train;

pub use error::ModelError;
