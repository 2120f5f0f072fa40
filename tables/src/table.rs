//! A table: its files, columns and rows, and streams of row ranges.

use crate::error::TableError;
use crate::files;
use crate::json_file::{self, JsonReader};
use crate::nearest::nearest;
use crate::parquet_table::{self, BatchSize};
use crate::parts::TableParts;
use crate::spec::{Dialect, Format, TableSpec};
use crate::text_file::{self, Counted, FileBatch, TextReader, skip_rows};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use twotower_artifacts::Fingerprint;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Name.
    pub name: String,
    /// Type. Text is `Utf8` here; Parquet batches may carry it as `Dictionary(Int32, Utf8)`.
    pub data_type: DataType,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct ReadOptions<'a> {
    /// Columns, in the order wanted.
    pub columns: &'a [String],
    /// Rows of the whole table; cut at its end.
    pub rows: Range<u64>,
    /// Rows per batch.
    pub batch_rows: usize,
}

/// Some rows of a table.
#[derive(Debug, Clone)]
pub struct TableBatch {
    /// The columns asked for, in that order.
    pub batch: RecordBatch,
    /// Row of the whole table, from 0, of the first row here.
    pub first_row: u64,
    /// Which of the table's files.
    pub file: usize,
    /// Row of that file, from 0, of the first row here.
    pub row_in_file: u64,
    /// Rows that could not be read and are null, by their number in `batch`, ascending, with the reason: of tables
    /// read [leniently](Table::leniently) alone.
    pub rejected: Vec<(usize, String)>,
    pub(crate) table: Arc<Inner>,
}

impl TableBatch {
    /// The file the rows come from.
    pub fn path(&self) -> &Path {
        &self.table.files[self.file].path
    }

    /// Name of the table.
    pub fn table(&self) -> &str {
        &self.table.name
    }

    /// Some of the rows, without copying them.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let inside = self.rejected.iter().filter(|(row, _)| rows.contains(row));
        Self {
            batch: self.batch.slice(rows.start, rows.len()),
            first_row: self.first_row + rows.start as u64,
            row_in_file: self.row_in_file + rows.start as u64,
            rejected: inside.map(|(row, reason)| (row - rows.start, reason.clone())).collect(),
            file: self.file,
            table: self.table.clone(),
        }
    }
}

/// A table opened for reading; clones share what is known of its files.
#[derive(Debug, Clone)]
pub struct Table {
    inner: Arc<Inner>,
    lenient: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    name: String,
    spec: TableSpec,
    format: Layout,
    files: Vec<TableFile>,
    columns: Vec<ColumnInfo>,
    fingerprint: Fingerprint,
    /// The Parquet file that was opened last: readers of neighbouring rows share its footer.
    opened: Mutex<Option<Arc<parquet_table::Layout>>>,
    learnt: parquet_table::Learnt,
}

/// How the files are read.
#[derive(Debug)]
pub(crate) enum Layout {
    Parquet,
    Text(Dialect),
    Json,
}

#[derive(Debug)]
struct TableFile {
    path: PathBuf,
    bytes: u64,
    /// Columns of this file.
    columns: Vec<ColumnInfo>,
    /// Rows, by the footer.
    footer_rows: Option<u64>,
    /// Rows, for formats that must be counted.
    counted: OnceLock<Counted>,
}

impl Table {
    /// Finds the files of a table and its columns: Parquet footers, text headers, or the first 1,000 JSON lines of
    /// each file. `name` is named in messages.
    ///
    /// # Errors
    /// [`TableError`]: settings that make no sense, no files, unreadable or damaged files.
    pub fn open(name: &str, spec: &TableSpec) -> Result<Self, TableError> {
        let (paths, format) = files::find(name, spec)?;
        let layout = match format {
            Format::Parquet => Layout::Parquet,
            Format::Csv | Format::Tsv => Layout::Text(spec.dialect(name, format)?),
            Format::Jsonl => Layout::Json,
        };
        if !matches!(layout, Layout::Text(_)) {
            spec.refuse_text_settings(name, format)?;
        }
        let mut files = Vec::with_capacity(paths.len());
        let mut prints = Vec::with_capacity(paths.len());
        let mut json_columns = Vec::new();
        for path in paths {
            let (bytes, fingerprint) = files::fingerprint(&path)?;
            prints.push(fingerprint);
            let (footer_rows, columns) = match &layout {
                Layout::Parquet => {
                    let (rows, columns) = parquet_table::inspect(&path)?;
                    (Some(rows), columns)
                }
                Layout::Text(dialect) => {
                    let (names, _) = text_file::open(&path, spec.encoding, dialect)?;
                    (None, names.into_iter().map(|name| (name, DataType::Utf8)).collect())
                }
                Layout::Json => {
                    json_file::learn_columns(&path, spec.encoding, &mut json_columns)?;
                    (None, Vec::new())
                }
            };
            refuse_duplicates(&path, &columns)?;
            files.push(TableFile { path, bytes, columns: infos(columns), footer_rows, counted: OnceLock::new() });
        }
        // A key that a JSON file does not mention is null in it: all files have all columns.
        if matches!(layout, Layout::Json) {
            for file in &mut files {
                file.columns = infos(json_columns.clone());
            }
        }
        let settings = format!("{:?}", TableSpec { path: crate::spec::OneOrMany::Many(Vec::new()), ..spec.clone() });
        let parts = prints.iter().map(|p| ("file", p.as_str().as_bytes()));
        let fingerprint = Fingerprint::of_parts(parts.chain([("settings", settings.as_bytes())]));
        let columns = files[0].columns.clone();
        let (name, spec, opened, learnt) = (name.to_string(), spec.clone(), Mutex::default(), Default::default());
        let inner = Inner { name, spec, format: layout, files, columns, fingerprint, opened, learnt };
        Ok(Self { inner: Arc::new(inner), lenient: false })
    }

    /// The same table, read without stopping at a row of a text file that has too few or too many fields, is not
    /// UTF-8, or is not a JSON object: the row is null and named in [`TableBatch::rejected`]. Numbers of rows stay
    /// what they are. What may stand for more than a row is an error all the same: a file cut within its last row, a
    /// quote that is not closed, fields that do not add up over several lines, and damaged Parquet.
    pub fn leniently(&self) -> Self {
        Self { inner: self.inner.clone(), lenient: true }
    }

    /// The name it was opened under.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Columns of the first file (of all files, for JSON Lines).
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.inner.columns
    }

    /// The files, in row order.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.inner.files.iter().map(|f| f.path.as_path())
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.inner.files.iter().map(|f| f.bytes).sum()
    }

    /// Changes when a file is added, removed, renamed, rewritten or touched, or when a setting changes: names, sizes,
    /// times of change, and 64 KiB from both ends of each file; taken when the table was opened.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprint.clone()
    }

    /// Rows: by Parquet's footers, or by reading text files through, once.
    ///
    /// # Errors
    /// [`TableError::Io`], or [`TableError::Record`] for a row that never ends.
    pub fn rows(&self) -> Result<u64, TableError> {
        (0..self.inner.files.len()).map(|file| self.inner.rows_of(file)).sum()
    }

    /// Rows of each file, in order.
    ///
    /// # Errors
    /// As [`Table::rows`].
    pub fn file_rows(&self) -> Result<Vec<u64>, TableError> {
        (0..self.inner.files.len()).map(|file| self.inner.rows_of(file)).collect()
    }

    /// The number of rows, at least one.
    ///
    /// # Errors
    /// [`TableError::Empty`] when there is none; otherwise as [`Table::rows`].
    pub fn require_rows(&self) -> Result<u64, TableError> {
        let Inner { name, spec, files, .. } = self.inner.as_ref();
        match self.rows()? {
            0 => Err(TableError::Empty { table: name.clone(), pattern: spec.pattern(), files: files.len() }),
            rows => Ok(rows),
        }
    }

    /// The column of that name.
    ///
    /// # Errors
    /// [`TableError::MissingColumn`], with the columns there are.
    pub fn column(&self, name: &str) -> Result<&ColumnInfo, TableError> {
        self.inner.column_of(&self.inner.files[0], name)
    }

    /// Streams the rows of a range in order. Batches have `batch_rows` rows, but for the last of the range and the
    /// last of each file: no batch spans files. Memory: one batch, and for Parquet a page of each column.
    ///
    /// # Errors
    /// [`TableError::MissingColumn`] or [`TableError::ColumnType`] when a file lacks a column or has it in another
    /// type; the stream gives the errors of reading, and ends after the first.
    pub fn read(&self, options: ReadOptions<'_>) -> Result<TableReader, TableError> {
        self.read_sized(options, None)
    }

    /// As [`Table::read`], with batches of at most about `batch_bytes` too, whatever the length of text and the
    /// size of row groups: batches are then shorter where rows are large, and a row beyond the bound comes alone.
    /// Where batches end may change with the version; their rows and order do not.
    ///
    /// # Memory
    /// Lines count for text files, Arrow data for Parquet. Not counted are a Parquet row group's dictionaries and
    /// pages. Where a footer tells sizes, a batch larger than the bound comes only of rows much larger than their
    /// row group's average, and where it does not (dictionaries given up half-way, by writers without size
    /// statistics), also when rows grow manifold from one batch to the next; then smaller ones follow.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn read_within(&self, options: ReadOptions<'_>, batch_bytes: usize) -> Result<TableReader, TableError> {
        self.read_sized(options, Some(batch_bytes.max(1)))
    }

    /// Streams a range cut into parts of `part_rows` rows, for threads that work on a part each: a part of
    /// Parquet files is read and decoded by whoever iterates over it, in batches; one of text files, which must be
    /// read in order, is read here, and is one batch. A part has fewer rows at the end of the range.
    ///
    /// # Errors
    /// As [`Table::read_within`].
    pub fn parts(
        &self,
        options: ReadOptions<'_>,
        part_rows: usize,
        batch_bytes: usize,
    ) -> Result<TableParts, TableError> {
        let part_rows = part_rows.max(1);
        let in_order = !matches!(self.inner.format, Layout::Parquet);
        let end = if in_order { options.rows.end } else { options.rows.end.min(self.rows()?) };
        let mut reader = self.read_within(options, batch_bytes)?;
        reader.rows.end = end;
        Ok(TableParts::new(reader, part_rows as u64, in_order))
    }

    fn read_sized(&self, options: ReadOptions<'_>, batch_bytes: Option<usize>) -> Result<TableReader, TableError> {
        let mut columns: Vec<String> = Vec::new();
        let mut fields = Vec::new();
        for name in options.columns.iter() {
            if columns.contains(name) {
                continue;
            }
            let expected = self.column(name)?;
            for file in &self.inner.files {
                let found = self.inner.column_of(file, name)?;
                if found.data_type != expected.data_type {
                    return Err(TableError::ColumnType {
                        table: self.inner.name.clone(),
                        column: name.clone(),
                        path: file.path.clone(),
                        found: found.data_type.clone(),
                        expected: format!("{} as in {}", expected.data_type, self.inner.files[0].path.display()),
                    });
                }
            }
            columns.push(name.clone());
            fields.push(Field::new(name, expected.data_type.clone(), true));
        }
        Ok(TableReader {
            table: self.inner.clone(),
            lenient: self.lenient,
            schema: Arc::new(Schema::new(fields)),
            columns,
            rows: options.rows.start.min(options.rows.end)..options.rows.end,
            size: BatchSize { rows: options.batch_rows.max(1), bytes: batch_bytes },
            next_file: 0,
            at: 0,
            file_start: 0,
            current: None,
            failed: false,
        })
    }
}

impl Inner {
    fn rows_of(&self, file: usize) -> Result<u64, TableError> {
        let file = &self.files[file];
        if let Some(rows) = file.footer_rows {
            return Ok(rows);
        }
        if let Some(counted) = file.counted.get() {
            return Ok(counted.rows);
        }
        let mut records = match &self.format {
            Layout::Text(dialect) => text_file::open(&file.path, self.spec.encoding, dialect)?.1,
            Layout::Json | Layout::Parquet => json_file::open(&file.path, self.spec.encoding)?,
        };
        let counted = Counted::count(&mut records)?;
        Ok(file.counted.get_or_init(|| counted).rows)
    }

    /// The footer of a Parquet file, for reading some columns.
    fn opened(&self, file: &TableFile, columns: &[String]) -> Result<Arc<parquet_table::Layout>, TableError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match opened.as_ref().filter(|layout| layout.path() == file.path && layout.columns() == columns) {
            Some(layout) => Ok(layout.clone()),
            None => Ok(opened
                .insert(Arc::new(parquet_table::Layout::of(&file.path, columns, self.learnt.clone())?))
                .clone()),
        }
    }

    fn column_of<'a>(&self, file: &'a TableFile, name: &str) -> Result<&'a ColumnInfo, TableError> {
        file.columns.iter().find(|c| c.name == name).ok_or_else(|| TableError::MissingColumn {
            table: self.name.clone(),
            column: name.to_string(),
            path: file.path.clone(),
            columns: file.columns.iter().map(|c| c.name.clone()).collect(),
            nearest: nearest(name, file.columns.iter().map(|c| c.name.as_str())).map(str::to_string),
        })
    }
}

fn infos(columns: Vec<(String, DataType)>) -> Vec<ColumnInfo> {
    columns.into_iter().map(|(name, data_type)| ColumnInfo { name, data_type }).collect()
}

fn refuse_duplicates(path: &Path, columns: &[(String, DataType)]) -> Result<(), TableError> {
    for (at, (name, _)) in columns.iter().enumerate() {
        if columns[..at].iter().any(|(other, _)| other == name) {
            let reason = format!("two columns are called `{name}`");
            return Err(TableError::Header { path: path.to_path_buf(), reason });
        }
    }
    Ok(())
}

/// The most text of a batch: Arrow counts its bytes in 31 bits.
const LARGEST_TEXT: usize = 1 << 30;

type FileBatches = Box<dyn Iterator<Item = Result<FileBatch, TableError>> + Send>;

/// Stream of a [`Table::read`].
pub struct TableReader {
    table: Arc<Inner>,
    lenient: bool,
    schema: SchemaRef,
    columns: Vec<String>,
    pub(crate) rows: Range<u64>,
    size: BatchSize,
    next_file: usize,
    /// Row of the table that comes next.
    at: u64,
    /// Row of the table at which the current file begins.
    file_start: u64,
    current: Option<FileBatches>,
    failed: bool,
}

impl TableReader {
    /// Types of the columns; text of Parquet files may come as a dictionary instead.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A reader of other rows of the table, which has read nothing yet.
    pub(crate) fn of_rows(&self, rows: Range<u64>) -> Self {
        let (table, schema, columns) = (self.table.clone(), self.schema.clone(), self.columns.clone());
        let (size, lenient) = (self.size, self.lenient);
        let (next_file, at, file_start, current, failed) = (0, 0, 0, None, false);
        Self { table, lenient, schema, columns, rows, size, next_file, at, file_start, current, failed }
    }

    /// Passes over files that end before the first row wanted, where their rows are known.
    fn skip_files(&mut self) {
        while let Some(file) = self.table.files.get(self.next_file)
            && let Some(rows) = file.footer_rows.or_else(|| file.counted.get().map(|c| c.rows))
            && self.at + rows <= self.rows.start
        {
            self.at += rows;
            self.next_file += 1;
        }
    }

    /// Opens the next file at the first row wanted; `self.at` becomes that row, or the file's end.
    fn open_next(&mut self) -> Result<FileBatches, TableError> {
        let Self { table, lenient, schema, columns, rows, size, .. } = self;
        let file = &table.files[self.next_file];
        let (path, encoding, size, lenient) = (file.path.clone(), table.spec.encoding, *size, *lenient);
        let (batch_rows, batch_bytes) = (size.rows, size.bytes.unwrap_or(LARGEST_TEXT));
        let skip = rows.start.saturating_sub(self.at);
        let end = rows.end - self.at;
        let (skipped, batches): (u64, FileBatches) = match &table.format {
            Layout::Parquet => {
                let count = file.footer_rows.unwrap_or(0);
                let skip = skip.min(count);
                let rows = table.opened(file, columns)?.read(skip..end.min(count), size)?;
                (skip, Box::new(rows.map(|batch| batch.map(FileBatch::from))))
            }
            Layout::Text(dialect) => {
                let (names, mut records) = text_file::open(&path, encoding, dialect)?;
                let skipped = skip_rows(&mut records, skip, file.counted.get())?;
                let slots = names.iter().map(|name| columns.iter().position(|c| c == name)).collect();
                let (schema, dialect, left) = (schema.clone(), dialect.clone(), end - skipped);
                let reader =
                    TextReader { records, path, dialect, schema, slots, batch_rows, batch_bytes, left, lenient };
                (skipped, Box::new(reader))
            }
            Layout::Json => {
                let mut records = json_file::open(&path, encoding)?;
                let skipped = skip_rows(&mut records, skip, file.counted.get())?;
                let (schema, left) = (schema.clone(), end - skipped);
                (skipped, Box::new(JsonReader { records, path, schema, batch_rows, batch_bytes, left, lenient }))
            }
        };
        self.file_start = self.at;
        self.at += skipped;
        self.next_file += 1;
        Ok(batches)
    }

    fn advance(&mut self) -> Result<Option<TableBatch>, TableError> {
        while self.at < self.rows.end {
            let Some(batches) = &mut self.current else {
                self.skip_files();
                if self.next_file == self.table.files.len() {
                    return Ok(None);
                }
                self.current = Some(self.open_next()?);
                continue;
            };
            match batches.next().transpose()? {
                None => self.current = None,
                Some(FileBatch { batch, rejected }) => {
                    let first_row = self.at;
                    self.at += batch.num_rows() as u64;
                    return Ok(Some(TableBatch {
                        batch,
                        first_row,
                        file: self.next_file - 1,
                        row_in_file: first_row - self.file_start,
                        rejected,
                        table: self.table.clone(),
                    }));
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for TableReader {
    type Item = Result<TableBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = self.advance();
        self.failed = batch.is_err();
        batch.transpose()
    }
}
