//! Raw tables of twotower (Parquet, CSV, JSON Lines) as bounded streams of Arrow batches.

pub mod columns;
mod covers;
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
mod reader;
mod records;
mod sizes;
pub mod spec;
pub mod table;
mod text;
mod text_file;
mod time_text;

pub use columns::{id_array_as, id_column, id_column_as, id_kind};
pub use error::TableError;
pub use identity::SeenFiles;
pub use nearest::nearest;
pub use parts::{TablePart, TableParts};
pub use reader::TableReader;
pub use spec::{Encoding, FingerprintKind, Format, OneOrMany, TableSpec};
pub use table::{ColumnInfo, ReadOptions, Table, TableBatch};
pub use time_text::{Moment, TimeFormat};
