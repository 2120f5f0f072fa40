//! Parquet files of a table: row counts and types by the footer, rows by range.
//!
//! Text comes as `Utf8`, or as `Dictionary(Int32, Utf8)` where all of a file's pages are dictionary
//! encoded, so that an encoder maps a dictionary once. Batches of one row group share its dictionary.
//!
//! The reader under it decodes a fixed number of rows at a time. Where batches are bounded by bytes, that
//! number follows from the footer's sizes of each row group; where a footer says too little, it starts
//! small and grows. A batch that came out too large is cut, and smaller ones follow.

use crate::error::TableError;
use crate::records::io_error;
use crate::sizes::{Leaf, RowBytes, batch_bytes, cut, row_bytes};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy};
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use twotower_artifacts::guard;
use twotower_artifacts::row_range::RowRange;

/// Opens a file and reads its footer.
pub fn open(path: &Path) -> Result<(File, ArrowReaderMetadata), TableError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
    let metadata = guarded(path, || ArrowReaderMetadata::load(&file, options))?;
    Ok((file, metadata))
}

/// No file has more rows, so that rows of files can be added up.
const MOST_ROWS: u64 = 1 << 48;

/// Rows and columns of a file.
pub fn inspect(path: &Path) -> Result<(u64, Vec<(String, DataType)>), TableError> {
    let (_, metadata) = open(path)?;
    let footer = metadata.metadata();
    let rows = footer.file_metadata().num_rows();
    let groups = footer.row_groups().iter().try_fold(0i64, |sum, group| sum.checked_add(group.num_rows()));
    let sensible = u64::try_from(rows).ok().filter(|n| *n <= MOST_ROWS && groups == Some(rows));
    let rows = sensible.ok_or_else(|| {
        let groups = groups.map_or("too many".into(), |sum| sum.to_string());
        damaged(path, ParquetError::General(format!("a footer of {rows} rows, its row groups have {groups}")))
    })?;
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

/// How large batches are.
#[derive(Debug, Clone, Copy)]
pub struct BatchSize {
    /// Rows at most: exactly so many, but for the last batch, unless there is a bound of bytes.
    pub rows: usize,
    /// Bytes at most, dictionaries aside; a larger row comes alone.
    pub bytes: Option<usize>,
}

/// Rows of the first batch where the footer does not tell how large rows are.
const FIRST_ROWS: usize = 16;

/// Rows to read next where the last ones took so many bytes each: rows are much alike, so a bound on those eight times
/// as large is safe.
fn safe_rows(bytes: usize, row_bytes: usize) -> usize {
    bytes / (8 * row_bytes.max(1))
}

/// What every reader of some columns of a file shares: its footer, and how each column is read.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    /// How each leaf column is read.
    leaves: Vec<Leaf>,
    /// The columns named, in that order.
    columns: Vec<String>,
    learnt: Learnt,
}

/// Bytes of a row in the batch read last, over all readers of a table; 0 before the first.
pub type Learnt = Arc<AtomicUsize>;

impl Layout {
    /// Reads a file's footer.
    pub fn of(path: &Path, columns: &[String], learnt: Learnt) -> Result<Self, TableError> {
        let (_, metadata) = open(path)?;
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
        let leaf_of = |leaf: usize| match fields.get(root_of(leaf)) {
            Some(field) if !columns.contains(field.name()) => Leaf::Unread,
            Some(field) if matches!(field.data_type(), DataType::Dictionary(..)) => Leaf::Keys,
            _ => Leaf::Values,
        };
        let leaves: Vec<Leaf> = (0..descriptor.num_columns()).map(leaf_of).collect();
        let mask = ProjectionMask::roots(&descriptor, roots);
        let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
        let metadata = guarded(path, || ArrowReaderMetadata::try_new(metadata.metadata().clone(), options))?;
        Ok(Self { path: path.to_path_buf(), metadata, mask, leaves, columns: columns.to_vec(), learnt })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The columns named, in that order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Streams a row range.
    pub fn read(self: &Arc<Self>, rows: Range<u64>, size: BatchSize) -> Result<ParquetReader, TableError> {
        let file = File::open(&self.path).map_err(io_error("open", &self.path))?;
        let source = Source { file, layout: self.clone() };
        let (begun, rows) = (rows.start, rows.start..rows.end.max(rows.start));
        Ok(ParquetReader { source, size, rows, begun, run: None, ready: VecDeque::new() })
    }
}

/// A file, and what is read of it.
struct Source {
    file: File,
    layout: Arc<Layout>,
}

/// Rows read in batches of one size: of one row group, or all where bytes have no bound.
struct Run {
    batches: RowRange,
    rows: Range<u64>,
    batch_rows: usize,
    /// The most rows that the footer lets expect within the bound.
    most_rows: usize,
    /// Whether the footer says too little, so that sizes are found by trying.
    careful: bool,
}

impl Source {
    /// The row group that holds a row: its number and rows.
    fn group_at(&self, row: u64) -> Option<(usize, Range<u64>)> {
        let mut start = 0u64;
        for (number, group) in self.layout.metadata.metadata().row_groups().iter().enumerate() {
            let end = start.saturating_add(u64::try_from(group.num_rows()).unwrap_or(0));
            if row < end {
                return Some((number, start..end));
            }
            start = end;
        }
        None
    }

    fn batches(&self, rows: Range<u64>, batch_rows: usize) -> Result<RowRange, TableError> {
        let Layout { path, metadata, mask, .. } = self.layout.as_ref();
        let file = self.file.try_clone().map_err(io_error("open", path))?;
        guarded(path, || RowRange::open(file, metadata.clone(), mask.clone(), rows, batch_rows))
    }

    /// The next batch, its columns in the order asked for.
    fn next(&self, batches: &mut RowRange) -> Result<Option<RecordBatch>, TableError> {
        guarded(&self.layout.path, || {
            let Some(batch) = batches.next().transpose()? else { return Ok(None) };
            let order = self.layout.columns.iter().map(|name| batch.schema_ref().index_of(name));
            Ok(Some(batch.project(&order.collect::<Result<Vec<_>, _>>()?)?))
        })
    }
}

/// Streams batches of a Parquet file.
pub struct ParquetReader {
    source: Source,
    size: BatchSize,
    /// Rows still to be read.
    rows: Range<u64>,
    /// The row read first.
    begun: u64,
    run: Option<Run>,
    /// Read and cut.
    ready: VecDeque<RecordBatch>,
}

impl ParquetReader {
    /// A run from the next row on; `batch_rows` when another was interrupted for that size.
    fn start(&self, batch_rows: Option<usize>) -> Result<Run, TableError> {
        let Self { source, size, rows: left, .. } = self;
        let (rows, most_rows, careful) = match (size.bytes, source.group_at(left.start)) {
            (Some(bytes), Some((group, rows))) => {
                let group = source.layout.metadata.metadata().row_group(group);
                let RowBytes { average, known } = row_bytes(group, |leaf| source.layout.leaves[leaf]);
                let most_rows = ((bytes as f64 / average.max(1.0)) as usize).clamp(1, size.rows);
                (rows.start..rows.end.min(left.end), most_rows, !known)
            }
            _ => (left.clone(), size.rows, false),
        };
        let first_rows = match (size.bytes, source.layout.learnt.load(Ordering::Relaxed)) {
            (Some(bytes), row) if careful && row > 0 => {
                safe_rows(bytes, row).clamp(FIRST_ROWS.min(most_rows), most_rows)
            }
            _ if careful => FIRST_ROWS.min(most_rows),
            _ => most_rows,
        };
        let batch_rows = batch_rows.unwrap_or(first_rows);
        let batches = source.batches(left.start..rows.end, batch_rows)?;
        Ok(Run { batches, rows, batch_rows, most_rows, careful })
    }

    fn read_batch(&mut self) -> Result<Option<RecordBatch>, TableError> {
        while self.ready.is_empty() && self.rows.start < self.rows.end {
            let mut run = match self.run.take() {
                Some(run) => run,
                None => self.start(None)?,
            };
            match self.source.next(&mut run.batches) {
                Ok(Some(batch)) => self.take(batch, run)?,
                Ok(None) => {
                    let error = ParquetError::General(format!("no rows from row {} on", self.rows.start));
                    return Err(damaged(&self.source.layout.path, error));
                }
                // A column of more than 2 GiB does not decode; that of fewer rows may.
                Err(_) if self.size.bytes.is_some() && run.batch_rows > 1 => {
                    self.run = Some(self.start(Some(run.batch_rows.div_ceil(16)))?);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Hands on a batch of a run and decides how the next is read.
    fn take(&mut self, batch: RecordBatch, run: Run) -> Result<(), TableError> {
        let rows = batch.num_rows();
        self.rows.start += rows as u64;
        let Some(bytes) = self.size.bytes else {
            self.ready.push_back(batch);
            self.run = Some(run);
            return Ok(());
        };
        let found = batch_bytes(&batch);
        let batch_rows = if found > bytes {
            cut(batch, bytes, &mut self.ready);
            (rows as u128 * bytes as u128 * 3 / (found as u128 * 4)).max(1) as usize
        } else {
            self.ready.push_back(batch);
            // A new run passes over the rows before it again, so sizes grow near the start only.
            let near = self.rows.start - run.rows.start.max(self.begun) <= 4 * run.batch_rows as u64;
            let grows = run.careful && near && rows == run.batch_rows && found <= bytes / 2;
            let safe = safe_rows(bytes, found.div_ceil(rows.max(1))).max(run.batch_rows * 2);
            if grows { safe.min(run.most_rows) } else { run.batch_rows }
        };
        self.source.layout.learnt.store(found.div_ceil(rows.max(1)).max(1), Ordering::Relaxed);
        if self.rows.start < run.rows.end {
            self.run = Some(if batch_rows == run.batch_rows { run } else { self.start(Some(batch_rows))? });
        }
        Ok(())
    }
}

impl Iterator for ParquetReader {
    type Item = Result<RecordBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.read_batch();
        if batch.is_err() {
            self.rows.start = self.rows.end;
        }
        batch.transpose()
    }
}

/// Runs the Parquet reader: whatever it says is about the file.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, TableError> {
    guard::guarded(read).map_err(|e| damaged(path, e))
}

fn damaged(path: &Path, source: ParquetError) -> TableError {
    TableError::Parquet { path: path.to_path_buf(), source }
}
