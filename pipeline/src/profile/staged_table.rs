//! Rows in a Parquet file of this process, for queries.

use crate::error::PipelineError;
use arrow_array::RecordBatch;
use std::fs::File;
use std::path::{Path, PathBuf};
use twotower_artifacts::publish::create_temp;

/// A Parquet file for this process alone, written batch by batch; an error on the way removes it with the value.
pub struct StagedTable {
    path: PathBuf,
    /// The file until the first batch says which columns there are, and then its writer.
    file: Option<File>,
    writer: Option<parquet::arrow::ArrowWriter<File>>,
}

impl StagedTable {
    /// A staged table without rows, in a temporary file beside `path`.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] when the file cannot be created.
    pub fn beside(path: &Path) -> Result<Self, PipelineError> {
        let (file, path) = create_temp(path)?;
        Ok(Self { path, file: Some(file), writer: None })
    }

    /// Appends a batch; the first one fixes the columns.
    ///
    /// # Errors
    /// [`PipelineError::Data`] or [`PipelineError::Io`] naming the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), PipelineError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let done = || PipelineError::Data(format!("{}: written after its end", self.path.display()));
                let file = self.file.take().ok_or_else(done)?;
                let writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None);
                none.insert(writer.map_err(|e| Self::failed(&self.path, &e))?)
            }
        };
        writer.write(batch).map_err(|e| Self::failed(&self.path, &e))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// As [`StagedTable::write`].
    pub fn finish(&mut self) -> Result<(), PipelineError> {
        match self.writer.take() {
            Some(writer) => writer.close().map(|_| ()).map_err(|e| Self::failed(&self.path, &e)),
            None => Ok(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(path: &Path, error: &parquet::errors::ParquetError) -> PipelineError {
        PipelineError::Io {
            action: "write",
            path: path.to_path_buf(),
            source: std::io::Error::other(error.to_string()),
        }
    }
}

impl Drop for StagedTable {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
