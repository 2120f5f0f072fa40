//! Footers of Parquet files: rows and columns, what is not read, and what is text.
//!
//! Text is a column of byte arrays without an annotation, or with one of text. Where an annotation says UTF-8 the
//! decoder checks it; elsewhere it does not, so such a column is read as bytes that [`crate::text`] checks.

use crate::error::TableError;
use crate::identity::SourceFile;
use crate::records::{io_error, of_store};
use arrow_schema::{DataType, Field, TimeUnit};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, ConvertedType, Type as Physical};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::file_chunks::{LARGEST_PAGE, Trouble};
use twotower_artifacts::guard;

/// No file has more rows, so that rows of files can be added up.
const MOST_ROWS: u64 = 1 << 48;

/// Reads a file's footer.
///
/// # Errors
/// [`TableError::Parquet`], [`TableError::Unsupported`], [`TableError::Io`], [`TableError::Changed`].
pub fn open(source: &SourceFile) -> Result<ArrowReaderMetadata, TableError> {
    let chunks = source.footer_chunks()?;
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
    let loaded = guard::guarded(|| ArrowReaderMetadata::load(&chunks, options));
    loaded.map_err(|e| failed(source, chunks.troubles().first(), e))
}

/// Rows and columns of a file.
type Inspected = (u64, Vec<(String, DataType)>);

/// Files in stores that are inspected at once: each waits for an answer most of the time.
const AT_ONCE: usize = 16;

/// Rows and columns of the files of a table that lie in a store, in order, some at a time; of none that lie on this
/// machine.
pub fn inspect_all(sources: &[Arc<SourceFile>]) -> Vec<Result<Inspected, TableError>> {
    if !sources.iter().all(|source| source.is_object()) {
        return Vec::new();
    }
    let each = sources.len().div_ceil(AT_ONCE).max(1);
    let inspect_some = |some: &[Arc<SourceFile>]| some.iter().map(|source| inspect(source)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let mut all = Vec::with_capacity(sources.len());
        let threads: Vec<_> = sources
            .chunks(each)
            .map(|some| (some, std::thread::Builder::new().spawn_scoped(scope, move || inspect_some(some))))
            .collect();
        for (some, thread) in threads {
            // Where the system gives no thread, or one ended early, it is done here.
            let inspected = thread.ok().and_then(|thread| thread.join().ok());
            all.extend(inspected.unwrap_or_else(|| inspect_some(some)));
        }
        all
    })
}

/// Rows and columns of a file.
///
/// # Errors
/// As [`open`].
pub fn inspect(source: &SourceFile) -> Result<Inspected, TableError> {
    let metadata = open(source)?;
    let footer = metadata.metadata();
    let rows = footer.file_metadata().num_rows();
    let groups = footer.row_groups().iter().try_fold(0i64, |sum, group| sum.checked_add(group.num_rows()));
    let sensible = u64::try_from(rows).ok().filter(|n| *n <= MOST_ROWS && groups == Some(rows));
    let rows = sensible.ok_or_else(|| {
        let groups = groups.map_or("too many".into(), |sum| sum.to_string());
        let reason = format!("a footer of {rows} rows, its row groups have {groups}");
        failed(source, None, ParquetError::General(reason))
    })?;
    let fields = metadata.schema().fields().iter().zip(first_leaves(&metadata));
    let columns = fields.map(|(f, leaf)| (f.name().clone(), int96_in_micros(plain_type(f.data_type()), leaf, footer)));
    Ok((rows, columns.collect()))
}

/// The first leaf column below each column of the schema.
pub fn first_leaves(metadata: &ArrowReaderMetadata) -> Vec<Option<usize>> {
    let descriptor = metadata.metadata().file_metadata().schema_descr();
    let mut first = vec![None; metadata.schema().fields().len()];
    for leaf in (0..descriptor.num_columns()).rev() {
        if let Some(first) = first.get_mut(descriptor.get_column_root_idx(leaf)) {
            *first = Some(leaf);
        }
    }
    first
}

/// The type under which a column of that type is read: times in INT96, as Spark, Hive and Impala write them, in
/// microseconds. In nanoseconds, times after the year 2262 would wrap around to times long ago.
pub fn int96_in_micros(data_type: DataType, leaf: Option<usize>, metadata: &ParquetMetaData) -> DataType {
    let descriptor = metadata.file_metadata().schema_descr();
    match (data_type, leaf) {
        (DataType::Timestamp(_, zone), Some(leaf)) if descriptor.column(leaf).physical_type() == Physical::INT96 => {
            DataType::Timestamp(TimeUnit::Microsecond, zone)
        }
        (other, _) => other,
    }
}

/// The type under which a column is offered: text is `Utf8`, lists are `List`, whatever their layout on disk.
pub fn plain_type(found: &DataType) -> DataType {
    of_text(found, &DataType::Utf8)
}

/// The type under which a column's bytes are read, to be made text: as [`plain_type`], with `Binary` for text.
pub fn bytes_type(found: &DataType) -> DataType {
    of_text(found, &DataType::Binary)
}

/// A type with `text` in place of every kind of text and bytes.
fn of_text(found: &DataType, text: &DataType) -> DataType {
    let element = |f: &Field| Arc::new(f.clone().with_data_type(of_text(f.data_type(), text)));
    match found {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => text.clone(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => text.clone(),
        DataType::Dictionary(_, values) => of_text(values, text),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => {
            DataType::List(element(f))
        }
        DataType::FixedSizeList(f, width) => DataType::FixedSizeList(element(f), *width),
        other => other.clone(),
    }
}

/// Whether a column is text, or a list of it.
pub fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 => true,
        DataType::List(f) | DataType::FixedSizeList(f, _) => is_text(f.data_type()),
        _ => false,
    }
}

/// Whether the decoder checks that a leaf column's bytes are UTF-8.
pub fn is_checked(metadata: &ParquetMetaData, leaf: usize) -> bool {
    metadata.file_metadata().schema_descr().column(leaf).converted_type() == ConvertedType::UTF8
}

/// A footer that says of the columns `roots` nothing but that they hold bytes.
///
/// # Errors
/// A schema that cannot be built.
pub fn as_bytes(metadata: &ParquetMetaData, roots: impl Fn(usize) -> bool) -> ParquetResult<ParquetMetaData> {
    let about = metadata.file_metadata();
    let schema = about.schema_descr().root_schema();
    let fields = schema.get_fields().iter().enumerate().map(|(root, field)| match roots(root) {
        true => without_text(field),
        false => Ok(field.clone()),
    });
    let fields = fields.collect::<ParquetResult<Vec<_>>>()?;
    let schema = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
    let about = FileMetaData::new(
        about.version(),
        about.num_rows(),
        about.created_by().map(str::to_string),
        about.key_value_metadata().cloned(),
        Arc::new(SchemaDescriptor::new(Arc::new(schema))),
        about.column_orders().cloned(),
    );
    Ok(ParquetMetaData::new(about, metadata.row_groups().to_vec()))
}

/// The same column, its byte arrays without annotations.
fn without_text(field: &TypePtr) -> ParquetResult<TypePtr> {
    let info = field.get_basic_info();
    let id = info.has_id().then(|| info.id());
    let built = match field.as_ref() {
        Type::PrimitiveType { physical_type: Physical::BYTE_ARRAY, .. } => {
            Type::primitive_type_builder(field.name(), Physical::BYTE_ARRAY)
                .with_repetition(info.repetition())
                .with_id(id)
                .build()?
        }
        Type::PrimitiveType { .. } => return Ok(field.clone()),
        Type::GroupType { fields, .. } => Type::group_type_builder(field.name())
            .with_repetition(info.repetition())
            .with_converted_type(info.converted_type())
            .with_logical_type(info.logical_type_ref().cloned())
            .with_fields(fields.iter().map(without_text).collect::<ParquetResult<_>>()?)
            .with_id(id)
            .build()?,
    };
    Ok(Arc::new(built))
}

/// Refuses columns whose compression is not read.
///
/// # Errors
/// [`TableError::Unsupported`].
pub fn refuse_codecs(path: &Path, metadata: &ParquetMetaData, leaf: impl Fn(usize) -> bool) -> Result<(), TableError> {
    for group in metadata.row_groups() {
        for (number, chunk) in group.columns().iter().enumerate().filter(|(number, _)| leaf(*number)) {
            let name = match chunk.compression() {
                Compression::LZO => "LZO",
                Compression::UNCOMPRESSED
                | Compression::SNAPPY
                | Compression::GZIP(_)
                | Compression::BROTLI(_)
                | Compression::LZ4
                | Compression::LZ4_RAW
                | Compression::ZSTD(_) => continue,
            };
            let column = metadata.file_metadata().schema_descr().column(number).path().string();
            let reason = format!(
                "column `{column}` is compressed by {name}, which is not read; write the file with snappy, zstd, lz4, gzip, brotli, or uncompressed"
            );
            return Err(TableError::Unsupported { path: path.to_path_buf(), reason });
        }
    }
    Ok(())
}

/// What a failure of the Parquet reader means.
pub fn failed(source: &SourceFile, trouble: Option<Trouble>, error: ParquetError) -> TableError {
    let path = source.path();
    let unsupported = |reason: String| TableError::Unsupported { path: path.to_path_buf(), reason };
    match trouble {
        Some(Trouble::Read(error)) => match (of_store(&error), error.raw_os_error()) {
            (Some(error), _) => TableError::Store(error),
            (None, Some(code)) => io_error("read", path)(io::Error::from_raw_os_error(code)),
            (None, None) => io_error("read", path)(io::Error::new(error.kind(), error.to_string())),
        },
        Some(Trouble::Page { at, bytes }) => unsupported(format!(
            "the page at byte {at} has {bytes} bytes, expected at most {LARGEST_PAGE}, since a page is held in memory; write the file with smaller pages or values, or leave the column out"
        )),
        None if is_encrypted(source) => {
            unsupported("the file is encrypted, which is not read; decrypt it first".into())
        }
        None => TableError::Parquet { path: path.to_path_buf(), source: error },
    }
}

/// Whether a file that could not be read is encrypted: all of it, or only columns, and then its footer is signed.
fn is_encrypted(source: &SourceFile) -> bool {
    const SIGNATURE: usize = 28;
    const MOST: u64 = 64 << 20;
    let read = || -> io::Result<bool> {
        let failed = |e: TableError| io::Error::other(e);
        let (mut file, bytes) = (source.open().map_err(failed)?, source.bytes());
        let mut tail = [0; 8];
        file.seek(SeekFrom::Start(bytes.saturating_sub(8)))?;
        file.read_exact(&mut tail)?;
        if tail.ends_with(b"PARE") {
            return Ok(true);
        }
        let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        if !tail.ends_with(b"PAR1") || length > MOST || length + 8 > bytes || length <= SIGNATURE as u64 {
            return Ok(false);
        }
        let mut footer = vec![0; length as usize];
        file.seek(SeekFrom::Start(bytes - 8 - length))?;
        file.read_exact(&mut footer)?;
        // A footer that is whole without its last bytes has a signature there.
        footer.truncate(footer.len() - SIGNATURE);
        Ok(guard::guarded(|| ParquetMetaDataReader::decode_metadata(&footer).map(drop)).is_ok())
    };
    read().unwrap_or(false)
}
