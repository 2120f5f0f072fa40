//! Reads a range of rows of any Parquet file.

use crate::file_chunks::{FileChunks, Troubles};
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use std::ops::Range;

/// Reads a range of rows in batches of one size, from the row groups that contain them. The last batch may be shorter,
/// and so may the first if any column holds lists.
pub struct RowRange {
    reader: ParquetRecordBatchReader,
    /// Rows before the range that are still to be read and dropped.
    drop: usize,
    troubles: Troubles,
}

impl RowRange {
    /// Reads `columns` of the rows in batches of `batch_rows`. A range beyond the end is cut.
    ///
    /// # Errors
    /// An error of the `parquet` crate, and [`ParquetError::General`] when the footer states a negative number of rows.
    pub fn open(
        chunks: FileChunks,
        metadata: ArrowReaderMetadata,
        columns: ProjectionMask,
        rows: Range<u64>,
        batch_rows: usize,
    ) -> Result<Self, ParquetError> {
        let mut groups = Vec::new();
        let mut first_selected = 0;
        let mut start = 0u64;
        for (group, counted) in metadata.metadata().row_groups().iter().enumerate() {
            let count = u64::try_from(counted.num_rows())
                .map_err(|_| ParquetError::General(format!("row group {group} has {} rows", counted.num_rows())))?;
            let end = start.saturating_add(count);
            if end > rows.start && start < rows.end {
                if groups.is_empty() {
                    first_selected = start;
                }
                groups.push(group);
            }
            start = end;
        }
        let end = rows.end.min(start);
        let begin = rows.start.min(end);
        let before = begin.saturating_sub(first_selected) as usize;
        // When `parquet` 60.1 skips rows of lists in a damaged page that has fewer levels than it states, it never
        // ends. When it reads them, it notices. So rows of lists are read and dropped.
        let leaves = metadata.metadata().file_metadata().schema_descr().columns();
        let lists = leaves.iter().enumerate().any(|(i, leaf)| columns.leaf_included(i) && leaf.max_rep_level() > 0);
        let (offset, drop) = if lists { (0, before) } else { (before, 0) };
        let troubles = chunks.troubles();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, metadata)
            .with_projection(columns)
            .with_row_groups(groups)
            .with_offset(offset)
            .with_limit((end - begin) as usize + drop)
            .with_batch_size(batch_rows.max(1))
            .build()?;
        Ok(Self { reader, drop, troubles })
    }

    /// The troubles that reading the file has met.
    pub fn troubles(&self) -> Troubles {
        self.troubles.clone()
    }
}

impl Iterator for RowRange {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let batch = match self.reader.next()? {
                Ok(batch) => batch,
                error => return Some(error),
            };
            let dropped = self.drop.min(batch.num_rows());
            self.drop -= dropped;
            if dropped < batch.num_rows() {
                return Some(Ok(batch.slice(dropped, batch.num_rows() - dropped)));
            }
        }
    }
}
