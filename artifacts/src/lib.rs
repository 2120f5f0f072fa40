//! What crosses a stage of twotower: schemas, batches, manifests, vector parts and neighbour sinks.
//!
//! Every other crate depends on this one and on nothing else of the workspace, so a type that two
//! stages must agree on is defined here once.

mod batch;
mod blocks;
mod chunk;
mod clock;
mod code_chunk;
pub mod codec;
pub mod codes;
mod error;
pub mod file_chunks;
mod fingerprint;
pub mod guard;
pub mod hashing;
pub mod ids;
mod interactions;
mod intervals;
pub mod json;
pub mod keyed;
mod list_chunk;
mod list_index;
mod list_room;
pub mod manifest;
pub mod mirror;
pub mod neighbour_lookup;
pub mod neighbours;
pub mod neighbours_file;
mod packed_run;
pub mod parquet_file;
pub mod publish;
pub mod range;
pub mod raw;
mod regular;
mod row_group;
pub mod row_hashes;
pub mod row_range;
pub mod schema;
pub mod split_mix;
mod steps;
mod text_chunk;
mod time_text;
pub mod timeline;
pub mod vectors;

pub use batch::{CodeBatch, Column, Ragged};
pub use clock::{Clock, TickUnit};
pub use codes::{CodesGroups, CodesInfo, CodesPart, CodesReader, CodesWriter};
pub use error::{ArtifactError, Category};
pub use fingerprint::Fingerprint;
pub use ids::{Id, IdKind, IdProblem, Ids};
pub use interactions::Interactions;
pub use intervals::{IntervalScale, Intervals};
pub use list_index::{FoundList, ListIndex};
pub use list_room::ListRoom;
pub use manifest::{FileEntry, Manifest};
pub use neighbours::{NeighbourFormat, NeighbourLists, NeighbourSink, NeighboursInfo, NeighboursOf};
pub use neighbours_file::{NeighbourEdges, inspect_neighbours};
pub use parquet_file::Compression;
pub use range::{Range, Ranges};
pub use regular::open_regular;
pub use row_group::EncodedGroup;
pub use row_hashes::{RowHash, RowHashesInfo, RowHashesReader, RowHashesWriter};
pub use schema::{FieldSchema, FieldShape, Side, TowerSchema};
pub use time_text::{Moment, TimeFormat};
pub use timeline::{Detail, Event, Histories, Timeline, TimelineInfo, TimelineWriter};
pub use vectors::{Precision, VectorsInfo, VectorsReader, VectorsWriter};
