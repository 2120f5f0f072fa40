//! Raw tables of twotower (Parquet, CSV, JSON Lines) as bounded streams of Arrow batches.

pub mod columns;
pub mod error;
mod files;
mod json_file;
pub mod nearest;
mod parquet_table;
mod parts;
mod records;
mod sizes;
pub mod spec;
pub mod table;
mod text_file;

pub use columns::{id_array_as, id_column, id_column_as, id_kind};
pub use error::TableError;
pub use nearest::nearest;
pub use parts::{TablePart, TableParts};
pub use spec::{Encoding, Format, OneOrMany, TableSpec};
pub use table::{ColumnInfo, ReadOptions, Table, TableBatch, TableReader};
