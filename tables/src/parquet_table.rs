//! Parquet files of a table: row counts and types by the footer, rows by range.
//!
//! Text comes as `Utf8`, or as `Dictionary(Int32, Utf8)` where all of a file's pages are dictionary
//! encoded, so that an encoder maps a dictionary once. Batches of one row group share its dictionary.
//!
//! The reader under it decodes a fixed number of rows at a time. Where batches are bounded by bytes, that
//! number follows from the footer's sizes of each row group; where a footer says too little, it starts
//! small and grows. A batch that came out too large is cut, and smaller ones follow.

use crate::error::TableError;
use crate::footer::{self, bytes_type, is_checked, is_text, plain_type};
use crate::identity::SourceFile;
use crate::sizes::{Leaf, RowBytes, batch_bytes, cut, row_bytes};
use crate::text::{TextMaker, first_bad};
use crate::text_file::new_batch;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use twotower_artifacts::file_chunks::FileChunks;
use twotower_artifacts::guard;
use twotower_artifacts::row_range::RowRange;

/// The type under which a column is read: text as a dictionary where its pages have one, and as bytes where the decoder
/// does not check it.
fn read_type(field: &Field, leaf: Option<usize>, metadata: &ParquetMetaData) -> DataType {
    let plain = plain_type(field.data_type());
    let groups = metadata.row_groups();
    let all_dictionary = |leaf: usize| !groups.is_empty() && groups.iter().all(|g| is_dictionary(g.column(leaf)));
    let read = match leaf {
        Some(leaf) if is_text(&plain) && !is_checked(metadata, leaf) => bytes_type(field.data_type()),
        _ => plain,
    };
    match leaf {
        Some(leaf) if matches!(read, DataType::Utf8 | DataType::Binary) && all_dictionary(leaf) => {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(read))
        }
        _ => read,
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
    /// Name of the table.
    table: String,
    source: Arc<SourceFile>,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    /// How each leaf column is read.
    leaves: Vec<Leaf>,
    /// The columns named, in that order.
    columns: Vec<String>,
    /// Whether some of them are bytes, of which text is made.
    has_bytes: bool,
    learnt: Learnt,
    /// What all readers of an object share: its pages, once they are read.
    pages: OnceLock<Pages>,
}

/// The pages of an object.
struct Pages(FileChunks);

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

/// Bytes of a row in the batch read last, over all readers of a table; 0 before the first.
pub type Learnt = Arc<AtomicUsize>;

impl Layout {
    /// Reads a file's footer.
    pub fn of(table: &str, source: &Arc<SourceFile>, columns: &[String], learnt: Learnt) -> Result<Self, TableError> {
        let metadata = footer::open(source)?;
        let (table, source) = (table.to_string(), source.clone());
        let layout = Self::with_types(table, source, metadata, columns, learnt, read_type)?;
        let is_read = |leaf: usize| layout.leaves[leaf] != Leaf::Unread;
        footer::refuse_codecs(layout.source.path(), layout.metadata.metadata(), is_read)?;
        Ok(layout)
    }

    /// The same columns with all text as bytes, which the decoder lets pass.
    fn as_bytes(&self) -> Result<Self, TableError> {
        let bytes = |field: &Field, _: Option<usize>, _: &ParquetMetaData| bytes_type(field.data_type());
        let (table, source) = (self.table.clone(), self.source.clone());
        let metadata = footer::open(&source)?;
        Self::with_types(table, source, metadata, &self.columns, Learnt::default(), bytes)
    }

    fn with_types(
        table: String,
        source: Arc<SourceFile>,
        metadata: ArrowReaderMetadata,
        columns: &[String],
        learnt: Learnt,
        read_type: impl Fn(&Field, Option<usize>, &ParquetMetaData) -> DataType,
    ) -> Result<Self, TableError> {
        let wanted: HashSet<&str> = columns.iter().map(String::as_str).collect();
        let descriptor = metadata.metadata().file_metadata().schema_descr_ptr();
        let root_of = |leaf: usize| descriptor.get_column_root_idx(leaf);
        let fields: Vec<Field> = (metadata.schema().fields().iter().zip(footer::first_leaves(&metadata)))
            .map(|(field, leaf)| {
                let data_type = read_type(field, leaf, metadata.metadata());
                field.as_ref().clone().with_data_type(footer::int96_in_micros(data_type, leaf, metadata.metadata()))
            })
            .collect();
        let is_wanted = |field: &Field| wanted.contains(field.name().as_str());
        let roots: Vec<usize> = fields.iter().enumerate().filter(|(_, f)| is_wanted(f)).map(|(root, _)| root).collect();
        let leaf_of = |leaf: usize| match fields.get(root_of(leaf)) {
            Some(field) if !is_wanted(field) => Leaf::Unread,
            Some(field) if matches!(field.data_type(), DataType::Dictionary(..)) => Leaf::Keys,
            _ => Leaf::Values,
        };
        let leaves: Vec<Leaf> = (0..descriptor.num_columns()).map(leaf_of).collect();
        let mask = ProjectionMask::roots(&descriptor, roots.iter().copied());
        let is_bytes = |root: usize| holds_bytes(fields[root].data_type());
        let has_bytes = roots.iter().any(|root| is_bytes(*root));
        let footer = match fields.iter().any(|field| holds_bytes(field.data_type())) {
            true => guarded(&source, || footer::as_bytes(metadata.metadata(), is_bytes))?.into(),
            false => metadata.metadata().clone(),
        };
        let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
        let metadata = guarded(&source, || ArrowReaderMetadata::try_new(footer, options))?;
        let (columns, pages) = (columns.to_vec(), OnceLock::new());
        Ok(Self { table, source, metadata, mask, leaves, columns, has_bytes, learnt, pages })
    }

    /// Whether it is of this file.
    pub fn is_of(&self, source: &Arc<SourceFile>) -> bool {
        Arc::ptr_eq(&self.source, source)
    }

    /// The columns named, in that order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Streams a row range.
    pub fn read(self: &Arc<Self>, rows: Range<u64>, size: BatchSize) -> Result<ParquetReader, TableError> {
        let (file, texts) = (self.chunks()?, Vec::new());
        let source = Source { file, layout: self.clone(), texts };
        let (begun, rows) = (rows.start, rows.start..rows.end.max(rows.start));
        Ok(ParquetReader { source, size, rows, begun, run: None, ready: VecDeque::new() })
    }

    /// The file: of this machine opened anew, so that it is still what it was.
    fn chunks(&self) -> Result<FileChunks, TableError> {
        if !self.source.is_object() {
            return self.source.chunks(Vec::new);
        }
        if let Some(pages) = self.pages.get() {
            return Ok(pages.0.another());
        }
        let pages = self.source.chunks(|| self.stretches())?;
        Ok(self.pages.get_or_init(|| Pages(pages)).0.another())
    }

    /// Where the columns that are read lie, of each row group.
    fn stretches(&self) -> Vec<Vec<Range<u64>>> {
        let groups = self.metadata.metadata().row_groups().iter().map(|group| {
            let read = group.columns().iter().zip(&self.leaves).filter(|(_, leaf)| **leaf != Leaf::Unread);
            let ranges = read.map(|(chunk, _)| {
                let (start, length) = chunk.byte_range();
                start..start.saturating_add(length)
            });
            let mut ranges: Vec<Range<u64>> = ranges.collect();
            ranges.sort_by_key(|range| range.start);
            ranges
        });
        groups.collect()
    }

    /// The first of some rows that holds bytes that are no text, as an error.
    fn find_bad_text(&self, rows: Range<u64>) -> Result<Option<TableError>, TableError> {
        let layout = self.as_bytes()?;
        if !layout.has_bytes {
            return Ok(None);
        }
        let size = BatchSize { rows: SEARCHED_ROWS, bytes: None };
        let mut reader = Arc::new(layout).read(rows.clone(), size)?;
        let mut row = rows.start;
        while let Some(batch) = reader.next_bytes()? {
            let columns = self.columns.iter().zip(batch.columns());
            let bad = columns.filter_map(|(name, column)| Some((first_bad(column)?, name)));
            if let Some(((at, bytes), column)) = bad.min_by_key(|((at, _), _)| *at) {
                return Ok(Some(self.no_text(column, Some(row + at as u64), bytes)));
            }
            row += batch.num_rows() as u64;
        }
        Ok(None)
    }

    fn no_text(&self, column: &str, row: Option<u64>, bytes: String) -> TableError {
        let (table, path) = (self.table.clone(), self.source.path().to_path_buf());
        TableError::NotText { table, column: column.to_string(), path, row, bytes }
    }
}

/// Rows read at a time where bytes that are no text are looked for.
const SEARCHED_ROWS: usize = 1024;

fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary => true,
        DataType::Dictionary(_, values) => holds_bytes(values),
        DataType::List(f) | DataType::FixedSizeList(f, _) => holds_bytes(f.data_type()),
        _ => false,
    }
}

/// A file, and what is read of it.
struct Source {
    file: FileChunks,
    layout: Arc<Layout>,
    /// What makes text of each column, in the order asked for; of none yet.
    texts: Vec<TextMaker>,
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
        let Layout { source, metadata, mask, .. } = self.layout.as_ref();
        let file = self.file.another();
        guarded(source, || RowRange::open(file, metadata.clone(), mask.clone(), rows, batch_rows))
    }

    /// The next batch as it is stored, its columns in the order asked for.
    fn next_bytes(&self, batches: &mut RowRange) -> Result<Option<RecordBatch>, TableError> {
        let next = guard::guarded(|| {
            let Some(batch) = batches.next().transpose()? else { return Ok(None) };
            let schema = batch.schema();
            let places: HashMap<&str, usize> =
                schema.fields().iter().enumerate().map(|(at, field)| (field.name().as_str(), at)).collect();
            let place = |name: &String| places.get(name.as_str()).copied();
            let order = self.layout.columns.iter().map(|name| {
                place(name).ok_or_else(|| ParquetError::General(format!("column `{name}` was not decoded")))
            });
            Ok(Some(batch.project(&order.collect::<Result<Vec<_>, _>>()?)?))
        });
        next.map_err(|e| footer::failed(&self.layout.source, batches.troubles().first(), e))
    }

    /// The next batch, its columns in the order asked for; `row` is the first it has.
    fn next(&mut self, batches: &mut RowRange, row: u64) -> Result<Option<RecordBatch>, TableError> {
        let Some(batch) = self.next_bytes(batches)? else { return Ok(None) };
        if !self.layout.has_bytes {
            return Ok(Some(batch));
        }
        self.texts.resize_with(batch.num_columns(), TextMaker::default);
        let mut fields = Vec::with_capacity(batch.num_columns());
        let mut columns = Vec::with_capacity(batch.num_columns());
        for ((column, texts), name) in batch.columns().iter().zip(&mut self.texts).zip(&self.layout.columns) {
            let text = match texts.text(column) {
                Ok(text) => text,
                Err(_) => match first_bad(column) {
                    Some((at, bytes)) => return Err(self.layout.no_text(name, Some(row + at as u64), bytes)),
                    // Entries of a dictionary: of other rows, or of none.
                    None => {
                        let found = self.layout.find_bad_text(row..u64::MAX)?;
                        let unused = || self.layout.no_text(name, None, "in a dictionary".into());
                        return Err(found.unwrap_or_else(unused));
                    }
                },
            };
            fields.push(Field::new(name, text.data_type().clone(), true));
            columns.push(text);
        }
        Ok(Some(new_batch(&Arc::new(Schema::new(fields)), columns, batch.num_rows())))
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
            match self.source.next(&mut run.batches, self.rows.start) {
                Ok(Some(batch)) => self.take(batch, run)?,
                Ok(None) => {
                    let error = ParquetError::General(format!("no rows from row {} on", self.rows.start));
                    return Err(footer::failed(&self.source.layout.source, None, error));
                }
                // A column of more than 2 GiB does not decode; that of fewer rows may.
                Err(TableError::Parquet { .. }) if self.size.bytes.is_some() && run.batch_rows > 1 => {
                    self.run = Some(self.start(Some(run.batch_rows.div_ceil(16)))?);
                }
                // The decoder says neither which row nor which column it was.
                Err(error @ TableError::Parquet { .. }) => {
                    let bad = self.source.layout.find_bad_text(self.rows.clone());
                    return Err(bad.ok().flatten().unwrap_or(error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.ready.pop_front())
    }

    /// The next rows as they are stored.
    fn next_bytes(&mut self) -> Result<Option<RecordBatch>, TableError> {
        let mut run = match self.run.take() {
            Some(run) => run,
            None => self.start(None)?,
        };
        let batch = self.source.next_bytes(&mut run.batches);
        self.run = Some(run);
        batch
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
fn guarded<T>(source: &SourceFile, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, TableError> {
    guard::guarded(read).map_err(|e| footer::failed(source, None, e))
}
