//! Writes one table as a Parquet file, which appears under its name when it is complete.

use crate::error::{SynthError, io_error};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::ArtifactError;
use twotower_artifacts::publish::Staged;

/// Rows of a row group, with which readers hold a few MiB.
const ROW_GROUP: usize = 131_072;

/// A Parquet file being written under a temporary name.
pub(crate) struct PartWriter {
    staged: Staged,
    schema: Arc<Schema>,
    writer: ArrowWriter<BufWriter<File>>,
}

/// How columns are stored. Ascending identifiers share most of their letters with the one before, so only differences
/// are stored. Numbers that are nearly all distinct gain nothing from a dictionary; all other columns have one. The
/// Arrow schema is not stored, so readers see ordinary string columns and not this writer's Arrow types.
fn options() -> Result<ArrowWriterOptions, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_encoding(ColumnPath::from("user_id"), Encoding::DELTA_BYTE_ARRAY)
        .set_column_encoding(ColumnPath::from("ts"), Encoding::DELTA_BINARY_PACKED);
    for plain in ["user_id", "ts", "arpu", "data_gb", "price"] {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(plain), false);
    }
    Ok(ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true))
}

impl PartWriter {
    pub fn create(path: &Path, schema: Arc<Schema>) -> Result<Self, SynthError> {
        let staged = Staged::create(path)?;
        let file = BufWriter::new(staged.file()?);
        let writer = options()
            .and_then(|options| ArrowWriter::try_new_with_options(file, schema.clone(), options))
            .map_err(|source| ArtifactError::Parquet { action: "create", path: path.into(), source })?;
        Ok(Self { staged, schema, writer })
    }

    pub fn write(&mut self, columns: Vec<ArrayRef>) -> Result<(), SynthError> {
        let path = self.staged.path();
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|source| SynthError::Rows { path: path.into(), source })?;
        self.writer
            .write(&batch)
            .map_err(|source| ArtifactError::Parquet { action: "write", path: path.into(), source }.into())
    }

    /// Publishes the file and returns its size in bytes.
    pub fn finish(self) -> Result<u64, SynthError> {
        let path = self.staged.path().to_path_buf();
        let file = self.writer.into_inner().map_err(|source| ArtifactError::Parquet {
            action: "finish",
            path: path.clone(),
            source,
        })?;
        file.into_inner().map_err(|e| io_error("write", &path)(e.into_error()))?;
        self.staged.commit()?;
        Ok(std::fs::metadata(&path).map_err(io_error("read the size of", &path))?.len())
    }
}
