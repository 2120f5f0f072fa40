//! Streams rows of a table, file after file.

use crate::error::TableError;
use crate::json_file::{self, JsonReader};
use crate::parquet_table::BatchSize;
use crate::table::{Inner, Layout, TableBatch, TableFile, place_of};
use crate::text_file::{self, FileBatch, TextReader, new_batch, skip_rows};
use arrow_array::ArrayRef;
use arrow_schema::{Field, Schema, SchemaRef};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The most text of a batch: Arrow counts its bytes in 31 bits.
const LARGEST_TEXT: usize = 1 << 30;

type FileBatches = Box<dyn Iterator<Item = Result<FileBatch, TableError>> + Send>;

/// Stream of a [`Table::read`](crate::Table::read).
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
    /// A reader of rows of a table that has read nothing yet.
    pub(crate) fn new(
        table: Arc<Inner>,
        lenient: bool,
        schema: SchemaRef,
        columns: Vec<String>,
        rows: Range<u64>,
        size: BatchSize,
    ) -> Self {
        let (next_file, at, file_start, current, failed) = (0, 0, 0, None, false);
        Self { table, lenient, schema, columns, rows, size, next_file, at, file_start, current, failed }
    }

    /// Types of the columns; text of Parquet files may come as a dictionary instead.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A reader of other rows of the table, which has read nothing yet.
    pub(crate) fn of_rows(&self, rows: Range<u64>) -> Self {
        let (table, schema, columns) = (self.table.clone(), self.schema.clone(), self.columns.clone());
        Self::new(table, self.lenient, schema, columns, rows, self.size)
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
        let (table, rows, size, lenient) = (self.table.clone(), self.rows.clone(), self.size, self.lenient);
        let file = &table.files[self.next_file];
        let (path, source, encoding) = (file.source.path().to_path_buf(), &file.source, table.spec.encoding);
        let (batch_rows, batch_bytes) = (size.rows, size.bytes.unwrap_or(LARGEST_TEXT));
        let skip = rows.start.saturating_sub(self.at);
        let end = rows.end - self.at;
        let (columns, schema) = self.own_columns(file);
        let (skipped, batches): (u64, FileBatches) = match &table.format {
            Layout::Parquet => {
                let count = file.footer_rows.unwrap_or(0);
                let skip = skip.min(count);
                let rows = table.opened(file, &columns)?.read(skip..end.min(count), size)?;
                (skip, Box::new(rows.map(|batch| batch.map(FileBatch::from))))
            }
            Layout::Text(dialect) => {
                let (names, mut records) = text_file::open(source, encoding, dialect)?;
                let skipped = skip_rows(&mut records, skip, file.counted.get())?;
                let places: HashMap<&str, usize> = columns.iter().enumerate().map(|(at, c)| (c.as_str(), at)).collect();
                let slots = names.iter().map(|name| places.get(name.as_str()).copied()).collect();
                let (schema, dialect, left) = (schema.into_owned(), dialect.clone(), end - skipped);
                let reader =
                    TextReader { records, path, dialect, schema, slots, batch_rows, batch_bytes, left, lenient };
                (skipped, Box::new(reader))
            }
            Layout::Json => {
                let mut records = json_file::open(source, encoding)?;
                let skipped = skip_rows(&mut records, skip, file.counted.get())?;
                let (schema, left) = (schema.into_owned(), end - skipped);
                (skipped, Box::new(JsonReader { records, path, schema, batch_rows, batch_bytes, left, lenient }))
            }
        };
        self.file_start = self.at;
        self.at += skipped;
        self.next_file += 1;
        Ok(batches)
    }

    /// The columns wanted that stand in the file itself.
    fn own_columns(&self, file: &TableFile) -> (Cow<'_, [String]>, Cow<'_, SchemaRef>) {
        if file.partitions.is_empty() || self.columns.iter().all(|name| file.owns(name)) {
            return (Cow::Borrowed(&self.columns), Cow::Borrowed(&self.schema));
        }
        let fields = self.schema.fields().iter().filter(|field| file.owns(field.name()));
        let schema = Schema::new(fields.cloned().collect::<Vec<_>>());
        let columns = self.columns.iter().filter(|name| file.owns(name)).cloned().collect();
        (Cow::Owned(columns), Cow::Owned(Arc::new(schema)))
    }

    /// A batch of the columns wanted, from one of those that stand in the file itself. A column that stands in both
    /// must be the same in both.
    fn with_folders(&self, file: &TableFile, read: FileBatch, row_in_file: u64) -> Result<FileBatch, TableError> {
        if file.partitions.is_empty() {
            return Ok(read);
        }
        let FileBatch { batch, rejected, lines } = read;
        let mut fields = Vec::with_capacity(self.columns.len());
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for name in &self.columns {
            let array = match (batch.column_by_name(name), file.partition(name)) {
                (Some(own), None) => own.clone(),
                (Some(own), Some(partition)) => {
                    let is_read = |row: usize| rejected.binary_search_by_key(&row, |(at, _)| *at).is_err();
                    if let Some((row, found)) = partition.differs(own, is_read) {
                        return Err(TableError::PartitionValue {
                            table: self.table.name.clone(),
                            column: name.clone(),
                            path: file.source.path().to_path_buf(),
                            place: place_of(lines.as_ref(), row, row_in_file),
                            found,
                            folder: partition.to_string(),
                        });
                    }
                    own.clone()
                }
                (None, Some(partition)) => partition.rows(batch.num_rows()),
                (None, None) => return Err(self.table.missing_column(file, name)),
            };
            fields.push(Field::new(name, array.data_type().clone(), true));
            arrays.push(array);
        }
        let batch = new_batch(&Arc::new(Schema::new(fields)), arrays, batch.num_rows());
        Ok(FileBatch { batch, rejected, lines })
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
                None => self.close()?,
                Some(read) => {
                    let (first_row, file) = (self.at, self.next_file - 1);
                    let row_in_file = first_row - self.file_start;
                    let read = self.with_folders(&self.table.files[file], read, row_in_file)?;
                    let FileBatch { batch, rejected, lines } = read;
                    let (lines, first_of_lines) = (lines.map(Arc::new), 0);
                    self.at += batch.num_rows() as u64;
                    let table = self.table.clone();
                    return Ok(Some(TableBatch {
                        batch,
                        first_row,
                        file,
                        row_in_file,
                        rejected,
                        lines,
                        first_of_lines,
                        table,
                    }));
                }
            }
        }
        self.close()?;
        Ok(None)
    }

    /// Leaves the current file, of which nothing more is read: all that was, was of the file that the table opened.
    fn close(&mut self) -> Result<(), TableError> {
        match self.current.take() {
            Some(_) => self.table.files[self.next_file - 1].source.check(),
            None => Ok(()),
        }
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
