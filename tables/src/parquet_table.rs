//! Parquet files of a table: row counts and types by the footer, rows by range.
//!
//! Text comes as `Utf8`, or as `Dictionary(Int32, Utf8)` where all of a file's pages are dictionary
//! encoded, so that an encoder maps a dictionary once. Batches of one row group share its dictionary.

use crate::error::TableError;
use crate::records::io_error;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader};
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy};
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use twotower_artifacts::parquet_file::row_range_reader;

/// Opens a file and reads its footer.
pub fn open(path: &Path) -> Result<(File, ArrowReaderMetadata), TableError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
    let metadata = guarded(path, || ArrowReaderMetadata::load(&file, options))?;
    Ok((file, metadata))
}

/// Rows and columns of a file.
pub fn inspect(path: &Path) -> Result<(u64, Vec<(String, DataType)>), TableError> {
    let (_, metadata) = open(path)?;
    let rows = metadata.metadata().file_metadata().num_rows();
    let rows = u64::try_from(rows).map_err(|_| damaged(path, ParquetError::General(format!("{rows} rows"))))?;
    let columns = metadata.schema().fields().iter().map(|f| (f.name().clone(), plain_type(f.data_type())));
    Ok((rows, columns.collect()))
}

/// The type under which a column is offered: text is `Utf8`, lists are `List`, whatever their layout on disk.
fn plain_type(found: &DataType) -> DataType {
    let element = |f: &Field| Arc::new(f.clone().with_data_type(plain_type(f.data_type())));
    match found {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Utf8,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => {
            DataType::List(element(f))
        }
        DataType::FixedSizeList(f, width) => DataType::FixedSizeList(element(f), *width),
        other => other.clone(),
    }
}

/// The type under which a column is read.
fn read_type(field: &Field, leaf: Option<usize>, metadata: &ArrowReaderMetadata) -> DataType {
    let plain = plain_type(field.data_type());
    let groups = metadata.metadata().row_groups();
    let all_dictionary = |leaf: usize| !groups.is_empty() && groups.iter().all(|g| is_dictionary(g.column(leaf)));
    match (&plain, leaf) {
        (DataType::Utf8, Some(leaf)) if all_dictionary(leaf) => {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        }
        _ => plain,
    }
}

fn is_dictionary(chunk: &ColumnChunkMetaData) -> bool {
    let only = |encoding| chunk.page_encoding_stats_mask().is_some_and(|mask| mask.is_only(encoding));
    chunk.dictionary_page_offset().is_some() && (only(Encoding::RLE_DICTIONARY) || only(Encoding::PLAIN_DICTIONARY))
}

/// Streams a row range of a file in batches of exactly `batch_rows`, the last one shorter, with the columns named,
/// in that order.
pub fn read(path: &Path, columns: &[String], rows: Range<u64>, batch_rows: usize) -> Result<ParquetReader, TableError> {
    let (file, metadata) = open(path)?;
    let descriptor = metadata.metadata().file_metadata().schema_descr_ptr();
    let root_of = |leaf: usize| descriptor.get_column_root_idx(leaf);
    let fields: Vec<Field> = (metadata.schema().fields().iter().enumerate())
        .map(|(root, field)| {
            let leaf = (0..descriptor.num_columns()).find(|&leaf| root_of(leaf) == root);
            field.as_ref().clone().with_data_type(read_type(field, leaf, &metadata))
        })
        .collect();
    let roots: Vec<usize> =
        fields.iter().enumerate().filter(|(_, f)| columns.contains(f.name())).map(|(root, _)| root).collect();
    let wanted = Arc::new(Schema::new(fields));
    let options = ArrowReaderOptions::new().with_schema(wanted);
    let mask = ProjectionMask::roots(&descriptor, roots);
    let reader = guarded(path, || {
        let metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options)?;
        row_range_reader(file, metadata, mask, rows, batch_rows)
    })?;
    Ok(ParquetReader { reader: Some(reader), path: path.to_path_buf(), columns: columns.to_vec() })
}

/// Streams batches of a Parquet file.
pub struct ParquetReader {
    /// `None` after an error.
    reader: Option<ParquetRecordBatchReader>,
    path: PathBuf,
    columns: Vec<String>,
}

impl Iterator for ParquetReader {
    type Item = Result<RecordBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.reader.take()?;
        let batch = guarded(&self.path, || {
            let Some(batch) = reader.next().transpose()? else { return Ok(None) };
            let order = self.columns.iter().map(|name| batch.schema_ref().index_of(name));
            Ok(Some(batch.project(&order.collect::<Result<Vec<_>, _>>()?)?))
        });
        if batch.is_ok() {
            self.reader = Some(reader);
        }
        batch.transpose()
    }
}

thread_local! {
    /// Whether this thread is inside [`guarded`], whose panics are errors about a file and not worth a report.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the report of a panic inside [`guarded`] off standard error; all others are reported as before.
fn silence_guarded_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                report(panic);
            }
        }));
    });
}

/// Runs the Parquet reader, which panics on some damaged files: those panics are errors about the file.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, TableError> {
    silence_guarded_panics();
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    match result {
        Ok(result) => result.map_err(|e| damaged(path, e)),
        Err(_) => Err(damaged(path, ParquetError::General("the decoder gave up on its content".to_string()))),
    }
}

fn damaged(path: &Path, source: ParquetError) -> TableError {
    TableError::Parquet { path: path.to_path_buf(), source }
}
