//! What crosses a stage of twotower: schemas, batches, manifests, vector parts and neighbour sinks.
//!
//! Every other crate depends on this one and on nothing else of the workspace, so a type that two
//! stages must agree on is defined here once.

pub mod batch;
pub mod codec;
pub mod error;
pub mod fingerprint;
pub mod hashing;
pub mod interactions;
pub mod publish;
pub mod schema;

pub use batch::{CodeBatch, Column, Ragged};
pub use error::{ArtifactError, Category};
pub use fingerprint::Fingerprint;
pub use interactions::Interactions;
pub use schema::{FieldSchema, FieldShape, Side, TowerSchema};
