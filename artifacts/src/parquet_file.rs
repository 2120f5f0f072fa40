//! The Parquet files of a run: published atomically, hashed while they are written, read back by row range.
//!
//! Each has one key-value entry `twotower`: a JSON object with the artifact's name, its format
//! version and its details, so that a reader can refuse a file before its first row.

use crate::blocks::BlockWriter;
use crate::error::ArtifactError;
use crate::file_chunks::FileChunks;
use crate::guard::guarded;
use crate::manifest::{FileEntry, entry_name};
use crate::publish::{Staged, io_error};
use crate::regular::open_regular;
use crate::row_group::{EncodedGroup, GroupFormat, RowGroup};
use crate::row_range::RowRange;
use crate::steps::Steps;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::{ProjectionMask, add_encoded_arrow_schema_to_metadata};
use parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HEADER_KEY: &str = "twotower";

/// Rows that go to the encoder at a time. The encoder decides after each call whether a page is full. With calls of a
/// fixed size, a file's bytes do not depend on the batches in which rows arrive.
const STEP: usize = 1024;

/// The most bytes of text per row group, unless a file sets another limit. So long ids do not make a writer hold more
/// memory. It allows 256 bytes for each of 65,536 ids.
const GROUP_TEXT: usize = 16 << 20;

/// Compression of a Parquet file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// None: fastest.
    #[default]
    None,
    /// LZ4 (raw blocks): nearly as fast.
    Lz4,
    /// Zstandard level 1: smaller.
    Zstd,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Lz4 => Codec::LZ4_RAW,
            Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header<T> {
    artifact: String,
    format_version: u32,
    #[serde(flatten)]
    details: T,
}

/// The kind of a Parquet file of a run, which its `twotower` entry states.
#[derive(Debug, Clone, Copy)]
pub struct Artifact {
    /// Name, such as `vectors`.
    pub name: &'static str,
    /// Format version written, and newest one read.
    pub version: u32,
}

/// How a column is stored. Statistics are kept of dictionary columns only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// With a dictionary, the default of Parquet writers.
    Dictionary,
    /// Value by value, for vectors and scores.
    Plain,
    /// Lists of 32-bit floats with a dictionary where few values are distinct, else as [`Storage::Plain`], for dense
    /// codes.
    Repeating,
    /// Each text without the prefix that it shares with the text before, for ids that are mostly distinct.
    Prefixed,
    /// Bit-packed differences of integers, for integer ids and elements of lists.
    Packed,
    /// Bit-packed 32-bit codes below the given number, without nulls. Where that number is large, as
    /// [`Storage::Packed`].
    Codes(u32),
}

/// A Parquet file being written. Memory: one row group. If it is dropped before [`ParquetFile::finish`], no file
/// remains.
pub struct ParquetFile {
    file: SerializedFileWriter<BlockWriter<Staged>>,
    format: Arc<GroupFormat>,
    group: RowGroup,
    steps: Steps,
    /// Rows of a whole row group, a multiple of the rows of a step.
    group_rows: usize,
    /// Bytes of text after which a row group ends.
    group_text: usize,
    path: PathBuf,
    rows: u64,
}

impl ParquetFile {
    /// Creates the temp file. Row groups hold `group_rows` rows; a number above 1,024 is rounded up to a multiple of
    /// 1,024. `plain_columns` are names of top-level columns to be written without dictionary and statistics.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`].
    pub fn create(
        path: &Path,
        schema: SchemaRef,
        group_rows: usize,
        compression: Compression,
        plain_columns: &[&str],
        artifact: Artifact,
        details: &impl Serialize,
    ) -> Result<Self, ArtifactError> {
        let stored = |top: &str| if plain_columns.contains(&top) { Storage::Plain } else { Storage::Dictionary };
        Self::create_stored(path, schema, group_rows, compression, stored, artifact, details)
    }

    /// As [`ParquetFile::create`], with a function that says how each top-level column is stored.
    ///
    /// # Errors
    /// As [`ParquetFile::create`].
    pub(crate) fn create_stored(
        path: &Path,
        schema: SchemaRef,
        group_rows: usize,
        compression: Compression,
        stored: impl Fn(&str) -> Storage,
        artifact: Artifact,
        details: &impl Serialize,
    ) -> Result<Self, ArtifactError> {
        // Row groups with few rows have large rows, so a step is an eighth of the row group.
        let step = if group_rows < STEP { (group_rows / 8).max(1) } else { STEP };
        let group_rows = group_rows.next_multiple_of(step);
        let header = Header { artifact: artifact.name.to_string(), format_version: artifact.version, details };
        let header = serde_json::to_string(&header).map_err(|e| io_error("encode header of", path)(e.into()))?;
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("twotower ", env!("CARGO_PKG_VERSION")).to_string())
            .set_compression(compression.into())
            .set_max_row_group_row_count(Some(group_rows))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_key_value_metadata(Some(vec![KeyValue::new(HEADER_KEY.to_string(), header)]));
        let leaves =
            parquet::arrow::ArrowSchemaConverter::new().convert(&schema).map_err(parquet_error("plan", path))?;
        let stored: Vec<Storage> = schema.fields().iter().map(|field| stored(field.name())).collect();
        for (leaf, stored) in leaves.columns().iter().map(|c| c.path()).zip(&stored) {
            if *stored != Storage::Dictionary {
                properties = properties
                    .set_column_dictionary_enabled(leaf.clone(), false)
                    .set_column_statistics_enabled(leaf.clone(), EnabledStatistics::None);
            }
            properties = match stored {
                Storage::Dictionary | Storage::Plain | Storage::Repeating | Storage::Prefixed => properties,
                Storage::Packed | Storage::Codes(_) => {
                    // LZ4 finds nothing to compress in bit-packed values.
                    if compression == Compression::Lz4 {
                        properties = properties.set_column_compression(leaf.clone(), Codec::UNCOMPRESSED);
                    }
                    properties.set_column_encoding(leaf.clone(), Encoding::DELTA_BINARY_PACKED)
                }
            };
        }
        let mut properties = properties.build();
        add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        let output = BlockWriter::new(Staged::create(path)?);
        let file = SerializedFileWriter::new(output, leaves.root_schema_ptr(), Arc::new(properties))
            .map_err(parquet_error("create", path))?;
        let format = Arc::new(GroupFormat::of(&file, schema, stored));
        Ok(Self {
            file,
            group: RowGroup::new(format.clone()),
            format,
            steps: Steps::of(step),
            group_rows,
            group_text: GROUP_TEXT,
            path: path.to_path_buf(),
            rows: 0,
        })
    }

    /// The same file, with another limit for the bytes of text per row group.
    pub(crate) fn with_text(self, group_text: usize) -> Self {
        Self { group_text, ..self }
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends rows, given as columns in schema order.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`]; the file can then only be dropped.
    pub fn write(&mut self, columns: Vec<ArrayRef>) -> Result<(), ArtifactError> {
        let batch =
            RecordBatch::try_new(self.format.schema().clone(), columns).map_err(arrow_error("write", &self.path))?;
        self.rows += batch.num_rows() as u64;
        self.encode(batch).map_err(parquet_error("write", &self.path))
    }

    fn encode(&mut self, batch: RecordBatch) -> Result<(), ParquetError> {
        let Self { steps, group, file, group_rows, group_text, .. } = self;
        steps.push(batch, |step| {
            group.push(step)?;
            if group.is_full(*group_rows, *group_text) { group.finish()?.write_to(file) } else { Ok(()) }
        })
    }

    /// An encoder of whole row groups for [`ParquetFile::append`], which works on any thread.
    pub(crate) fn groups(&self) -> GroupEncoder {
        let (format, path) = (self.format.clone(), self.path.clone());
        let (group_rows, group_text) = (self.group_rows, self.group_text);
        GroupEncoder { format, step: self.steps.rows(), group_rows, group_text, path }
    }

    /// Appends a row group that [`ParquetFile::groups`] encoded, after the rows written so far.
    ///
    /// # Errors
    /// As [`ParquetFile::write`].
    pub(crate) fn append(&mut self, group: EncodedGroup) -> Result<(), ArtifactError> {
        if group.rows == 0 {
            return Ok(());
        }
        self.rows += group.rows as u64;
        self.end_group().and_then(|()| group.write_to(&mut self.file)).map_err(parquet_error("write", &self.path))
    }

    /// Writes all rows that are still held, as a row group.
    fn end_group(&mut self) -> Result<(), ParquetError> {
        if let Some(rest) = self.steps.rest()? {
            self.group.push(&rest)?;
        }
        match self.group.rows() {
            0 => Ok(()),
            _ => self.group.finish()?.write_to(&mut self.file),
        }
    }

    /// Writes the footer and publishes the file.
    ///
    /// # Errors
    /// As [`ParquetFile::write`]; then there is no file of the final name.
    pub fn finish(mut self) -> Result<FileEntry, ArtifactError> {
        self.end_group().map_err(parquet_error("write", &self.path))?;
        // `into_inner` would turn a full disk into a text, which callers would take for bad data.
        self.file.finish().map_err(parquet_error("write", &self.path))?;
        let output = self.file.inner_mut();
        let (bytes, blake3) = output.finish().map_err(io_error("write", &self.path))?;
        output.inner_mut().publish()?;
        Ok(FileEntry { path: entry_name(&self.path), bytes, rows: self.rows, blake3 })
    }
}

/// Encodes row groups of a [`ParquetFile`].
#[derive(Clone)]
pub(crate) struct GroupEncoder {
    format: Arc<GroupFormat>,
    step: usize,
    group_rows: usize,
    group_text: usize,
    path: PathBuf,
}

impl GroupEncoder {
    /// A part without rows.
    pub fn part(&self) -> GroupPart {
        let (steps, group) = (Steps::of(self.step), RowGroup::new(self.format.clone()));
        GroupPart { encoder: self.clone(), steps, group, done: Vec::new() }
    }
}

/// Encodes consecutive rows as row groups.
pub(crate) struct GroupPart {
    encoder: GroupEncoder,
    steps: Steps,
    group: RowGroup,
    done: Vec<EncodedGroup>,
}

impl GroupPart {
    /// The file's final name.
    pub fn path(&self) -> &Path {
        &self.encoder.path
    }

    /// Encodes rows, given as columns in schema order, on the calling thread.
    ///
    /// # Errors
    /// [`ArtifactError::Parquet`].
    pub fn push(&mut self, columns: Vec<ArrayRef>) -> Result<(), ArtifactError> {
        let Self { encoder, steps, group, done } = self;
        let batch = RecordBatch::try_new(encoder.format.schema().clone(), columns)
            .map_err(arrow_error("write", &encoder.path))?;
        let encode = |step: &RecordBatch| {
            group.push_here(step)?;
            if group.is_full(encoder.group_rows, encoder.group_text) {
                done.push(group.finish_here()?);
            }
            Ok(())
        };
        steps.push(batch, encode).map_err(parquet_error("write", &encoder.path))
    }

    /// The row groups.
    ///
    /// # Errors
    /// As [`GroupPart::push`].
    pub fn finish(self) -> Result<Vec<EncodedGroup>, ArtifactError> {
        let Self { encoder, mut steps, mut group, mut done } = self;
        let mut end = || {
            if let Some(rest) = steps.rest()? {
                group.push_here(&rest)?;
            }
            if group.rows() > 0 {
                done.push(group.finish_here()?);
            }
            Ok(())
        };
        end().map_err(parquet_error("write", &encoder.path))?;
        Ok(done)
    }
}

/// A Parquet file of a run, open for reading.
#[derive(Debug)]
pub struct ParquetSource {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
}

impl ParquetSource {
    /// Opens the file and reads its footer.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`].
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        let file = open_regular(path)?;
        let metadata = guarded(|| ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()))
            .map_err(parquet_error("read", path))?;
        Ok(Self { path: path.to_path_buf(), file, metadata })
    }

    /// The same file with a place of its own to read at, so that two threads can read at the same time. It is the file
    /// that was opened, whatever lies at its path by now.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub(crate) fn apart(&self) -> Result<Self, ArtifactError> {
        let opened = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file));
        let file = File::open(opened).map_err(io_error("open again", &self.path))?;
        Ok(Self { path: self.path.clone(), file, metadata: self.metadata.clone() })
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows, according to the footer.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// Rows of the largest row group, according to the footer.
    pub(crate) fn largest_group(&self) -> usize {
        let rows = self.metadata.metadata().row_groups().iter().map(|group| group.num_rows());
        rows.max().and_then(|rows| usize::try_from(rows).ok()).unwrap_or(0)
    }

    /// Its Arrow schema.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// The details the file was created with.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] when it is not such an artifact, [`ArtifactError::Version`] when it is newer.
    pub fn details<T: DeserializeOwned>(&self, artifact: Artifact) -> Result<T, ArtifactError> {
        let corrupt = |reason: String| ArtifactError::Corrupt { path: self.path.clone(), reason };
        let entries = self.metadata.metadata().file_metadata().key_value_metadata();
        let text = entries
            .and_then(|all| all.iter().find(|kv| kv.key == HEADER_KEY))
            .and_then(|kv| kv.value.as_deref())
            .ok_or_else(|| corrupt(format!("not a {} file: no `{HEADER_KEY}` metadata", artifact.name)))?;
        let header: Header<serde_json::Value> = serde_json::from_str(text).map_err(|e| corrupt(e.to_string()))?;
        if header.artifact != artifact.name {
            return Err(corrupt(format!("a {} file, expected {}", header.artifact, artifact.name)));
        }
        if header.format_version > artifact.version {
            let (found, supported) = (header.format_version, artifact.version);
            return Err(ArtifactError::Version { path: self.path.clone(), found, supported });
        }
        serde_json::from_value(header.details).map_err(|e| corrupt(format!("its metadata: {e}")))
    }

    /// Streams a range of rows, cut at the end of the file, in batches as of [`RowRange`].
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`].
    pub fn batches(&self, rows: Range<u64>, batch_rows: usize) -> Result<ParquetBatches, ArtifactError> {
        self.batches_of(ProjectionMask::all(), rows, batch_rows)
    }

    /// As [`ParquetSource::batches`], of the first column alone.
    ///
    /// # Errors
    /// As [`ParquetSource::batches`].
    pub(crate) fn first_column(&self, rows: Range<u64>, batch_rows: usize) -> Result<ParquetBatches, ArtifactError> {
        let first = ProjectionMask::roots(self.metadata.parquet_schema(), [0]);
        self.batches_of(first, rows, batch_rows)
    }

    fn batches_of(
        &self,
        columns: ProjectionMask,
        rows: Range<u64>,
        batch_rows: usize,
    ) -> Result<ParquetBatches, ArtifactError> {
        let file = self.file.try_clone().map_err(io_error("open", &self.path))?;
        let open = || RowRange::open(FileChunks::new(file)?, self.metadata.clone(), columns, rows, batch_rows);
        let reader = guarded(open).map_err(parquet_error("read", &self.path))?;
        Ok(ParquetBatches { reader, path: self.path.clone() })
    }

    /// An error about this file's content.
    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> ArtifactError {
        ArtifactError::Corrupt { path: self.path.clone(), reason: reason.into() }
    }
}

/// Batches of a [`ParquetSource`].
pub struct ParquetBatches {
    reader: RowRange,
    path: PathBuf,
}

impl ParquetBatches {
    /// The file being read.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Iterator for ParquetBatches {
    type Item = Result<RecordBatch, ArtifactError>;

    fn next(&mut self) -> Option<Self::Item> {
        guarded(|| Ok(self.reader.next().transpose()?)).map_err(parquet_error("read", &self.path)).transpose()
    }
}

/// Wraps a Parquet error with what was attempted and where. An I/O error inside it stays an I/O error.
pub(crate) fn parquet_error(action: &'static str, path: &Path) -> impl FnOnce(ParquetError) -> ArtifactError {
    move |source| match source {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            // The file is shorter than it states, or states something impossible. That is damage, not a fault of the
            // disk.
            Ok(io)
                if matches!(io.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput) =>
            {
                ArtifactError::Parquet { action, path: path.to_path_buf(), source: ParquetError::External(io) }
            }
            Ok(io) => io_error(action, path)(*io),
            Err(inner) => {
                ArtifactError::Parquet { action, path: path.to_path_buf(), source: ParquetError::External(inner) }
            }
        },
        source => ArtifactError::Parquet { action, path: path.to_path_buf(), source },
    }
}

pub(crate) fn arrow_error(action: &'static str, path: &Path) -> impl FnOnce(ArrowError) -> ArtifactError {
    move |e| parquet_error(action, path)(ParquetError::from(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Array, Int64Array, ListArray};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::{DataType, Field, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    const SAMPLE: Artifact = Artifact { name: "sample", version: 2 };

    fn create(path: &Path, group_rows: usize) -> ParquetFile {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let details = serde_json::json!({"note": "made by a test"});
        ParquetFile::create(path, schema, group_rows, Compression::Lz4, &[], SAMPLE, &details).unwrap()
    }

    fn numbers(range: Range<i64>) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from_iter_values(range))]
    }

    #[test]
    fn the_entry_matches_the_file_and_an_unfinished_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.parquet");
        let mut file = create(&path, 4);
        file.write(numbers(0..10)).unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut file = create(&path, 4);
        file.write(numbers(0..10)).unwrap();
        let entry = file.finish().unwrap();
        assert_eq!(entry, FileEntry::of_file(dir.path(), "n.parquet", 10).unwrap());
    }

    #[test]
    fn bytes_do_not_depend_on_the_batches_that_rows_come_in() {
        let dir = tempfile::tempdir().unwrap();
        let element = Arc::new(Field::new("element", DataType::Int64, false));
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("list", DataType::List(element.clone()), false),
        ]));
        // Lists of 0 to 6 elements, with enough distinct values for several pages per row group.
        let rows = |range: Range<i64>| -> Vec<ArrayRef> {
            let lists = range.clone().map(|n| (0..n % 7).map(|k| n * 31 + k).collect::<Vec<_>>());
            let lists: Vec<Vec<i64>> = lists.collect();
            let offsets = OffsetBuffer::from_lengths(lists.iter().map(Vec::len));
            let values = Arc::new(Int64Array::from_iter_values(lists.into_iter().flatten()));
            let lists = ListArray::new(element.clone(), offsets, values, None);
            vec![Arc::new(Int64Array::from_iter_values(range)), Arc::new(lists)]
        };
        let total = 150_000i64;
        let written = |name: &str, mut size: Box<dyn FnMut() -> i64>| {
            let path = dir.path().join(name);
            let details = serde_json::json!({});
            let (group, none) = (100_000, Compression::None);
            let mut file = ParquetFile::create(&path, schema.clone(), group, none, &[], SAMPLE, &details).unwrap();
            let mut at = 0;
            while at < total {
                let end = (at + size()).min(total);
                file.write(rows(at..end)).unwrap();
                at = end;
            }
            file.finish().unwrap();
            std::fs::read(path).unwrap()
        };
        let whole = written("whole", Box::new(move || total));
        let mut n = 0;
        let uneven = move || {
            n = (n * 7 + 5) % 3001;
            n
        };
        assert!(written("uneven", Box::new(uneven)) == whole);
        assert!(written("steps", Box::new(|| 1024)) == whole);
        assert!(written("odd", Box::new(|| 1023)) == whole);
    }

    #[test]
    fn another_artifact_and_a_newer_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.parquet");
        create(&path, 4).finish().unwrap();
        let source = ParquetSource::open(&path).unwrap();
        let details: serde_json::Value = source.details(SAMPLE).unwrap();
        assert_eq!(details["note"], "made by a test");
        let older = source.details::<serde_json::Value>(Artifact { name: "sample", version: 1 });
        assert!(matches!(older, Err(ArtifactError::Version { found: 2, supported: 1, .. })));
        let other = source.details::<serde_json::Value>(Artifact { name: "vectors", version: 2 });
        assert!(other.unwrap_err().to_string().contains("a sample file, expected vectors"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_row_range_comes_in_full_batches(
            total in 0i64..60, group_rows in 1usize..20, a in 0u64..70, b in 0u64..70, batch_rows in 1usize..20,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("n.parquet");
            let mut file = create(&path, group_rows);
            file.write(numbers(0..total)).unwrap();
            file.finish().unwrap();
            let range = a.min(b)..a.max(b);
            let source = ParquetSource::open(&path).unwrap();
            let mut found = Vec::new();
            let mut sizes = Vec::new();
            for batch in source.batches(range.clone(), batch_rows).unwrap() {
                let batch = batch.unwrap();
                sizes.push(batch.num_rows());
                found.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
                prop_assert_eq!(batch.column(0).null_count(), 0);
            }
            let expected: Vec<i64> = (0..total).filter(|n| range.contains(&(*n as u64))).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(sizes.iter().rev().skip(1).all(|s| *s == batch_rows));
        }
    }
}
