//! Raw tables of twotower (Parquet, CSV, JSON Lines) as bounded streams of Arrow batches.

pub mod columns;
mod content;
mod covers;
mod encoding;
pub mod error;
mod files;
mod footer;
mod identity;
mod json_file;
pub mod nearest;
mod parquet_table;
mod partitions;
mod parts;
mod paths;
mod place;
mod reader;
mod records;
mod sizes;
pub mod spec;
pub mod table;
mod text;
mod text_file;

pub use columns::{id_array_as, id_column, id_column_as, id_kind};
pub use encoding::Encoding;
pub use error::TableError;
pub use identity::SeenFiles;
pub use nearest::nearest;
pub use parts::{TablePart, TableParts};
pub use place::Place;
pub use reader::TableReader;
pub use spec::{FingerprintKind, Format, NULL_VALUES, OneOrMany, TableSpec};
pub use table::{ColumnInfo, ReadOptions, Table, TableBatch};
pub use twotower_artifacts::{Moment, TimeFormat};
