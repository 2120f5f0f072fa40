//! Two-tower models: layers, losses, samplers, optimisers, training, ONNX export and inference engines.

pub mod tower;

pub mod error;

pub use error::ModelError;
