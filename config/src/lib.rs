//! The job file: what is read, what each tower sees, and the settings of every stage.
//!
//! A crate of its own, so that whoever reads a job file need not build what runs it.

pub mod allocation;
mod error;
mod evaluation;
mod gates;
mod job;
mod messages;
mod model_kind;
mod overrides;
mod ranges;
mod settings;
pub mod split;
mod times;

pub use error::ConfigError;
pub use evaluation::{Baseline, EvaluateConfig, Ranking};
pub use gates::{Gate, GatesConfig};
pub use job::*;
pub use overrides::{Override, Value};
pub use settings::*;
pub use times::{TimeLimit, TimeSettings};
