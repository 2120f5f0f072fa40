//! A table: its files, columns and rows, and streams of row ranges.

use crate::error::TableError;
use crate::files;
use crate::footer;
use crate::identity::SourceFile;
use crate::json_file;
use crate::nearest::nearest;
use crate::parquet_table::{self, BatchSize};
use crate::partitions::{Folders, Partition, typed};
use crate::parts::TableParts;
use crate::place::{Lines, Place};
use crate::reader::TableReader;
use crate::spec::{Dialect, Format, OneOrMany, TableSpec};
use crate::text_file::{self, Counted};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use std::collections::{HashMap, HashSet};
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
    /// The lines of rows of a text file, of which this batch begins with the row `first_of_lines`.
    pub(crate) lines: Option<Arc<Lines>>,
    pub(crate) first_of_lines: usize,
    pub(crate) table: Arc<Inner>,
}

/// Where a row stands, of a batch that begins at `row_in_file` and, if it is of text, has `lines`.
pub(crate) fn place_of(lines: Option<&Lines>, row: usize, row_in_file: u64) -> Place {
    let line = lines.and_then(|lines| lines.of(row));
    line.map_or(Place::Row(row_in_file + row as u64), Place::Line)
}

impl TableBatch {
    /// The file the rows come from.
    pub fn path(&self) -> &Path {
        self.table.files[self.file].source.path()
    }

    /// Name of the table.
    pub fn table(&self) -> &str {
        &self.table.name
    }

    /// Where in its file a row of this batch stands.
    pub fn place(&self, row: usize) -> Place {
        let line = self.lines.as_ref().and_then(|lines| lines.of(self.first_of_lines + row));
        line.map_or(Place::Row(self.row_in_file + row as u64), Place::Line)
    }

    /// Some of the rows, without copying them.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let inside = self.rejected.iter().filter(|(row, _)| rows.contains(row));
        Self {
            batch: self.batch.slice(rows.start, rows.len()),
            first_row: self.first_row + rows.start as u64,
            row_in_file: self.row_in_file + rows.start as u64,
            rejected: inside.map(|(row, reason)| (row - rows.start, reason.clone())).collect(),
            lines: self.lines.clone(),
            first_of_lines: self.first_of_lines + rows.start,
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
    pub(crate) name: String,
    pub(crate) spec: TableSpec,
    pub(crate) format: Layout,
    pub(crate) files: Vec<TableFile>,
    /// Files and folders that were skipped for their names.
    skipped: usize,
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
pub(crate) struct TableFile {
    pub(crate) source: Arc<SourceFile>,
    /// Columns of this file, and behind them those of its folders that it has not itself.
    columns: Columns,
    /// How many of them are its own.
    own: usize,
    /// Columns of its folders.
    pub(crate) partitions: Vec<Partition>,
    /// Rows, by the footer.
    pub(crate) footer_rows: Option<u64>,
    /// Rows, for formats that must be counted.
    pub(crate) counted: OnceLock<Counted>,
}

/// Columns in order, and by name.
#[derive(Debug, Default)]
struct Columns {
    all: Vec<ColumnInfo>,
    by_name: HashMap<String, usize>,
}

impl Columns {
    /// # Errors
    /// [`TableError::Header`] for a name that stands twice.
    fn new(path: &Path, columns: impl IntoIterator<Item = (String, DataType)>) -> Result<Self, TableError> {
        let mut found = Self::default();
        for (name, data_type) in columns {
            if found.by_name.insert(name.clone(), found.all.len()).is_some() {
                let reason = format!("two columns are called `{name}`");
                return Err(TableError::Header { path: path.to_path_buf(), reason });
            }
            found.all.push(ColumnInfo { name, data_type });
        }
        Ok(found)
    }

    fn get(&self, name: &str) -> Option<&ColumnInfo> {
        self.by_name.get(name).map(|at| &self.all[*at])
    }

    /// Adds those of folders that are not there.
    fn extend(&mut self, partitions: &[Partition]) {
        for Partition { column, .. } in partitions {
            if self.get(&column.name).is_none() {
                self.by_name.insert(column.name.clone(), self.all.len());
                self.all.push(column.clone());
            }
        }
    }
}

impl TableFile {
    /// Whether a column stands in the file itself.
    pub(crate) fn owns(&self, name: &str) -> bool {
        self.columns.by_name.get(name).is_some_and(|at| *at < self.own)
    }

    /// The folder that holds a column.
    pub(crate) fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.column.name == name)
    }
}

impl Table {
    /// Finds the files of a table and its columns: Parquet footers, text headers, or the first 1,000 JSON lines of
    /// each file. `name` is named in messages.
    ///
    /// # Errors
    /// [`TableError`]: settings that make no sense, no files, unreadable or damaged files.
    pub fn open(name: &str, spec: &TableSpec) -> Result<Self, TableError> {
        let files::Found { files: found, format, skipped } = files::find(name, spec)?;
        let layout = match format {
            Format::Parquet => Layout::Parquet,
            Format::Csv | Format::Tsv => Layout::Text(spec.dialect(name, format)?),
            Format::Jsonl => Layout::Json,
        };
        if !matches!(layout, Layout::Text(_)) {
            spec.refuse_text_settings(name, format)?;
        }
        let (sources, folders): (Vec<SourceFile>, Vec<_>) = found.into_iter().unzip();
        let sources = sources_of(spec, sources, &folders)?;
        let mut files = Vec::with_capacity(sources.len());
        let mut json_columns = Vec::new();
        let mut footers = match &layout {
            Layout::Parquet => footer::inspect_all(&sources).into_iter(),
            Layout::Text(_) | Layout::Json => Vec::new().into_iter(),
        };
        for (source, partitions) in sources.iter().zip(typed(folders)) {
            let source = source.clone();
            let (footer_rows, columns) = match &layout {
                Layout::Parquet => {
                    let (rows, columns) = footers.next().unwrap_or_else(|| footer::inspect(&source))?;
                    (Some(rows), columns)
                }
                Layout::Text(dialect) => {
                    let (names, _) = text_file::open(&source, spec.encoding, dialect)?;
                    (None, names.into_iter().map(|name| (name, DataType::Utf8)).collect())
                }
                Layout::Json => {
                    json_file::learn_columns(&source, spec.encoding, &mut json_columns)?;
                    (None, Vec::new())
                }
            };
            source.check()?;
            let columns = Columns::new(source.path(), columns)?;
            files.push(TableFile { source, columns, own: 0, partitions, footer_rows, counted: OnceLock::new() });
        }
        for file in &mut files {
            // A key that a JSON file does not mention is null in it: all files have all columns.
            if matches!(layout, Layout::Json) {
                file.columns = Columns::new(file.source.path(), json_columns.iter().cloned())?;
            }
            file.own = file.columns.all.len();
            file.columns.extend(&file.partitions);
        }
        let shown = TableSpec { path: OneOrMany::Many(Vec::new()), base: PathBuf::new(), seen: None, ..spec.clone() };
        let settings = format!("{shown:?}");
        let parts = sources.iter().filter_map(|source| Some(("file", source.print()?.as_str().as_bytes())));
        let fingerprint = Fingerprint::of_parts(parts.chain([("settings", settings.as_bytes())]));
        if let Some(seen) = &spec.seen {
            seen.note(spec.pattern(), sources);
        }
        let (name, spec, opened, learnt) = (name.to_string(), spec.clone(), Mutex::default(), Default::default());
        let inner = Inner { name, spec, format: layout, files, skipped, fingerprint, opened, learnt };
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

    /// Columns of the first file (of all files, for JSON Lines), and those of its folders.
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.inner.files[0].columns.all
    }

    /// The files, in row order.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.inner.files.iter().map(|f| f.source.path())
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.inner.files.iter().map(|f| f.source.bytes()).sum()
    }

    /// Files and folders below the table's paths that were skipped because their names begin with `.` or `_`.
    pub fn skipped(&self) -> usize {
        self.inner.skipped
    }

    /// Changes when a file is added, removed, renamed or changed, or when a setting changes; taken when the table was
    /// opened. How sure that is, is a setting: [`FingerprintKind`](crate::FingerprintKind).
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
        let (mut columns, mut fields, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for name in options.columns.iter() {
            if !seen.insert(name) {
                continue;
            }
            let expected = self.column(name)?;
            for file in &self.inner.files {
                let found = self.inner.column_of(file, name)?;
                if found.data_type != expected.data_type {
                    return Err(TableError::ColumnType {
                        table: self.inner.name.clone(),
                        column: name.clone(),
                        path: file.source.path().to_path_buf(),
                        found: found.data_type.clone(),
                        expected: format!(
                            "{} as in {}",
                            expected.data_type,
                            self.inner.files[0].source.path().display()
                        ),
                    });
                }
            }
            columns.push(name.clone());
            fields.push(Field::new(name, expected.data_type.clone(), true));
        }
        let rows = options.rows.start.min(options.rows.end)..options.rows.end;
        let size = BatchSize { rows: options.batch_rows.max(1), bytes: batch_bytes };
        let schema = Arc::new(Schema::new(fields));
        Ok(TableReader::new(self.inner.clone(), self.lenient, schema, columns, rows, size))
    }
}

/// The files of a table with their fingerprints: those it was first read from, if the job has read it before.
fn sources_of(
    spec: &TableSpec,
    mut found: Vec<SourceFile>,
    folders: &[Folders],
) -> Result<Vec<Arc<SourceFile>>, TableError> {
    if let Some(seen) = &spec.seen
        && let Some(first) = seen.first(&spec.pattern(), found.iter())?
    {
        return Ok(first);
    }
    let table_bytes = found.iter().map(SourceFile::bytes).sum();
    for (source, folders) in found.iter_mut().zip(folders) {
        source.fingerprint(spec.fingerprint, table_bytes, format!("{folders:?}").as_bytes())?;
    }
    Ok(found.into_iter().map(Arc::new).collect())
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
            Layout::Text(dialect) => text_file::open(&file.source, self.spec.encoding, dialect)?.1,
            Layout::Json | Layout::Parquet => json_file::open(&file.source, self.spec.encoding)?,
        };
        let counted = Counted::count(&mut records)?;
        file.source.check()?;
        Ok(file.counted.get_or_init(|| counted).rows)
    }

    /// The footer of a Parquet file, for reading some columns.
    pub(crate) fn opened(
        &self,
        file: &TableFile,
        columns: &[String],
    ) -> Result<Arc<parquet_table::Layout>, TableError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match opened.as_ref().filter(|layout| layout.is_of(&file.source) && layout.columns() == columns) {
            Some(layout) => Ok(layout.clone()),
            None => Ok(opened
                .insert(Arc::new(parquet_table::Layout::of(&self.name, &file.source, columns, self.learnt.clone())?))
                .clone()),
        }
    }

    fn column_of<'a>(&self, file: &'a TableFile, name: &str) -> Result<&'a ColumnInfo, TableError> {
        file.columns.get(name).ok_or_else(|| self.missing_column(file, name))
    }

    pub(crate) fn missing_column(&self, file: &TableFile, name: &str) -> TableError {
        let names = || file.columns.all.iter().map(|c| c.name.as_str());
        TableError::MissingColumn {
            table: self.name.clone(),
            column: name.to_string(),
            path: file.source.path().to_path_buf(),
            columns: names().map(str::to_string).collect(),
            nearest: nearest(name, names()).map(str::to_string),
        }
    }
}
