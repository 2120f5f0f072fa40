//! Encoded rows as Parquet: ids, and one column per field of the tower's schema.
//!
//! Sequences are not stored, since they are filled from interactions later. They are read back as empty rows.

use crate::batch::{CodeBatch, Column, Ragged};
use crate::error::ArtifactError;
use crate::ids::{IdKind, Ids};
use crate::manifest::FileEntry;
use crate::parquet_file::{
    Artifact, Compression, GroupEncoder, GroupPart, ParquetBatches, ParquetFile, ParquetSource, Storage, arrow_error,
};
use crate::row_group::EncodedGroup;
use crate::schema::{FieldShape, TowerSchema};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, RecordBatch, UInt32Array};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, FieldRef, Schema};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const CODES: Artifact = Artifact { name: "codes", version: 1 };
/// Rows per row group. A writer holds one row group in memory.
pub const GROUP_ROWS: usize = 64 * 1024;
/// Name of the id column; a field may be called `id`.
const ID_COLUMN: &str = "__id";

/// What a file of codes states in its Parquet metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodesInfo {
    /// Kind of the ids.
    pub ids: IdKind,
    /// Schema of the rows, with the fingerprint of the encoder state they come from.
    pub schema: TowerSchema,
}

/// The element field of a list column.
fn element(data_type: DataType) -> FieldRef {
    Arc::new(Field::new("element", data_type, false))
}

/// The Arrow type a field is stored as; `None` for sequences.
fn stored_type(shape: &FieldShape) -> Option<DataType> {
    match shape {
        FieldShape::Code { .. } => Some(DataType::UInt32),
        FieldShape::Bag { .. } => Some(DataType::List(element(DataType::UInt32))),
        FieldShape::Sequence { .. } => None,
        FieldShape::Dense { width } => Some(DataType::FixedSizeList(element(DataType::Float32), *width as i32)),
    }
}

fn arrow_schema(info: &CodesInfo) -> Schema {
    let mut fields = vec![Field::new(ID_COLUMN, info.ids.data_type(), false)];
    for field in &info.schema.fields {
        fields.extend(stored_type(&field.shape).map(|data_type| Field::new(&field.name, data_type, false)));
    }
    Schema::new(fields)
}

/// Writes encoded rows.
pub struct CodesWriter {
    file: ParquetFile,
    info: CodesInfo,
}

impl CodesWriter {
    /// Starts a file that will be published under `path`. Memory: one row group of [`GROUP_ROWS`] rows.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`].
    pub fn create(path: impl AsRef<Path>, info: &CodesInfo, compression: Compression) -> Result<Self, ArtifactError> {
        let stored = |top: &str| match info.schema.fields.iter().find(|f| f.name == top).map(|f| &f.shape) {
            Some(FieldShape::Dense { .. }) => Storage::Repeating,
            Some(FieldShape::Code { cardinality, .. }) => Storage::Codes(*cardinality),
            None if info.ids == IdKind::Text => Storage::Prefixed,
            _ => Storage::Packed,
        };
        let schema = Arc::new(arrow_schema(info));
        let file = ParquetFile::create_stored(path.as_ref(), schema, GROUP_ROWS, compression, stored, CODES, info)?;
        Ok(Self { file, info: info.clone() })
    }

    /// Appends rows; the batch is checked against the schema first.
    ///
    /// # Errors
    /// As [`CodeBatch::check`], [`ArtifactError::Length`], [`ArtifactError::IdKind`], or a failed write.
    pub fn write(&mut self, ids: &Ids, batch: &CodeBatch) -> Result<(), ArtifactError> {
        let columns = self.info.columns(ids.to_array(0..ids.len()), batch.clone(), self.file.path())?;
        self.file.write(columns)
    }

    /// Encodes whole row groups of this file for [`CodesWriter::append`].
    pub fn groups(&self) -> CodesGroups {
        CodesGroups { encoder: self.file.groups(), info: self.info.clone() }
    }

    /// Appends a row group that [`CodesWriter::groups`] encoded.
    ///
    /// # Errors
    /// A failed write.
    pub fn append(&mut self, group: EncodedGroup) -> Result<(), ArtifactError> {
        self.file.append(group)
    }

    /// Publishes the file.
    ///
    /// # Errors
    /// A failed write; then there is no file of the final name.
    pub fn finish(self) -> Result<FileEntry, ArtifactError> {
        self.file.finish()
    }
}

impl CodesInfo {
    /// The Arrow columns of a batch of rows. Errors name `path`.
    fn columns(&self, ids: ArrayRef, batch: CodeBatch, path: &Path) -> Result<Vec<ArrayRef>, ArtifactError> {
        batch.check(&self.schema)?;
        if !batch.columns.is_empty() && batch.rows() != ids.len() {
            let (path, expected, found) = (path.to_path_buf(), ids.len(), batch.rows());
            return Err(ArtifactError::Length { path, what: "batch", expected, found });
        }
        if let Some(found) = IdKind::of(ids.data_type()).filter(|found| *found != self.ids) {
            let (path, expected) = (path.to_path_buf(), self.ids);
            return Err(ArtifactError::IdKind { path, expected, found });
        }
        let mut columns = vec![ids];
        for (field, column) in self.schema.fields.iter().zip(batch.columns) {
            if let Some(data_type) = stored_type(&field.shape) {
                columns.push(to_arrow(column, &data_type).map_err(arrow_error("write", path))?);
            }
        }
        Ok(columns)
    }
}

/// Encodes row groups for the file of a [`CodesWriter`], on any thread.
#[derive(Clone)]
pub struct CodesGroups {
    encoder: GroupEncoder,
    info: CodesInfo,
}

/// Encodes consecutive rows of a file as row groups. Memory: one row group, and those that are already encoded.
pub struct CodesPart {
    groups: GroupPart,
    info: CodesInfo,
}

impl CodesGroups {
    /// A part without rows.
    pub fn part(&self) -> CodesPart {
        CodesPart { groups: self.encoder.part(), info: self.info.clone() }
    }
}

impl CodesPart {
    /// Encodes rows on the calling thread. `ids` is an array of [`Ids::to_array`].
    ///
    /// # Errors
    /// As [`CodesWriter::write`].
    pub fn push(&mut self, ids: ArrayRef, batch: CodeBatch) -> Result<(), ArtifactError> {
        let columns = self.info.columns(ids, batch, self.groups.path())?;
        self.groups.push(columns)
    }

    /// The row groups, for [`CodesWriter::append`]. All but the last have [`GROUP_ROWS`] rows, or fewer where ids are
    /// long.
    ///
    /// # Errors
    /// As [`CodesPart::push`].
    pub fn finish(self) -> Result<Vec<EncodedGroup>, ArtifactError> {
        self.groups.finish()
    }
}

fn to_arrow(column: Column, data_type: &DataType) -> Result<ArrayRef, arrow_schema::ArrowError> {
    Ok(match (column, data_type) {
        (Column::Ragged(ragged), DataType::List(element)) => {
            let offsets = OffsetBuffer::from_lengths(ragged.offsets.windows(2).map(|w| (w[1] - w[0]) as usize));
            let values = Arc::new(UInt32Array::from(ragged.values));
            Arc::new(ListArray::try_new(element.clone(), offsets, values, None)?)
        }
        (Column::Dense { values, .. }, DataType::FixedSizeList(element, width)) => {
            let values = Arc::new(Float32Array::from(values));
            Arc::new(FixedSizeListArray::try_new(element.clone(), *width, values, None)?)
        }
        (Column::Code(codes), _) => Arc::new(UInt32Array::from(codes)),
        _ => unreachable!("the batch was checked against its schema"),
    })
}

/// A file of encoded rows, open for reading.
#[derive(Debug)]
pub struct CodesReader {
    source: ParquetSource,
    info: CodesInfo,
}

impl CodesReader {
    /// Opens a file and checks its columns.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Corrupt`] or [`ArtifactError::Version`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ArtifactError> {
        let source = ParquetSource::open(path.as_ref())?;
        let info: CodesInfo = source.details(CODES)?;
        let columns = |schema: &Schema| -> Vec<(String, DataType)> {
            schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
        };
        let (found, expected) = (columns(source.schema()), columns(&arrow_schema(&info)));
        if found != expected {
            return Err(source.corrupt(format!("columns {found:?}, expected {expected:?}")));
        }
        Ok(Self { source, info })
    }

    /// What the file's metadata states.
    pub fn info(&self) -> &CodesInfo {
        &self.info
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.source.rows()
    }

    /// Streams a row range (cut at the end) in batches of `batch_rows`, each checked against the schema.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`]; the stream also gives [`ArtifactError::Corrupt`] and
    /// the errors of [`CodeBatch::check`].
    pub fn batches(&self, rows: Range<u64>, batch_rows: usize) -> Result<CodeBatches, ArtifactError> {
        Ok(CodeBatches { batches: self.source.batches(rows, batch_rows)?, info: self.info.clone() })
    }

    /// Loads all rows.
    ///
    /// # Errors
    /// As [`CodesReader::batches`].
    pub fn load(&self) -> Result<(Ids, CodeBatch), ArtifactError> {
        let mut ids = Ids::new(self.info.ids);
        let mut all = CodeBatch::empty(&self.info.schema);
        for batch in self.batches(0..u64::MAX, 8192)? {
            let (batch_ids, batch) = batch?;
            ids.extend_from(&batch_ids, 0..batch_ids.len());
            all.extend_from_rows(&batch, 0..batch.rows());
        }
        Ok((ids, all))
    }
}

/// Stream of a [`CodesReader`].
pub struct CodeBatches {
    batches: ParquetBatches,
    info: CodesInfo,
}

impl CodeBatches {
    fn decode(&self, batch: &RecordBatch) -> Result<(Ids, CodeBatch), ArtifactError> {
        let path = self.batches.path();
        let ids = Ids::from_array(batch.column(0).as_ref()).map_err(|e| e.in_file(path, ID_COLUMN))?;
        let mut stored = batch.columns()[1..].iter();
        let mut columns = Vec::with_capacity(self.info.schema.fields.len());
        for field in &self.info.schema.fields {
            let column = match &field.shape {
                FieldShape::Sequence { .. } => {
                    Some(Column::Ragged(Ragged { offsets: vec![0; ids.len() + 1], ..Ragged::default() }))
                }
                shape => stored.next().and_then(|array| from_arrow(shape, array)),
            };
            columns.push(column.ok_or_else(|| ArtifactError::Corrupt {
                path: path.to_path_buf(),
                reason: format!("column `{}` holds nulls or is not of shape {:?}", field.name, field.shape),
            })?);
        }
        let batch = CodeBatch { columns };
        batch.check(&self.info.schema)?;
        Ok((ids, batch))
    }
}

impl Iterator for CodeBatches {
    type Item = Result<(Ids, CodeBatch), ArtifactError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.and_then(|b| self.decode(&b)))
    }
}

fn from_arrow(shape: &FieldShape, array: &ArrayRef) -> Option<Column> {
    let codes = |array: &dyn Array| {
        let codes = array.as_primitive_opt::<UInt32Type>()?;
        (codes.null_count() == 0).then(|| codes.values().clone())
    };
    if array.null_count() > 0 {
        return None;
    }
    Some(match shape {
        FieldShape::Code { .. } => Column::Code(codes(array)?.to_vec()),
        FieldShape::Bag { .. } | FieldShape::Sequence { .. } => {
            let list = array.as_list_opt::<i32>()?;
            let (first, last) = (list.offsets().first(), list.offsets().last());
            let offsets = list.offsets().iter().map(|o| (o - first) as u32).collect();
            let values = codes(list.values())?[first as usize..last as usize].to_vec();
            Column::Ragged(Ragged { offsets, values, times: Vec::new() })
        }
        FieldShape::Dense { width } => {
            let list = array.as_fixed_size_list_opt()?;
            let floats = list.values().as_primitive_opt::<Float32Type>().filter(|f| f.null_count() == 0)?;
            let start = list.value_offset_at(0);
            let width = *width as usize;
            let values: ScalarBuffer<f32> = floats.values().slice(start, list.len() * width);
            Column::Dense { width, values: values.to_vec() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::schema::{FieldSchema, Side};

    fn info() -> CodesInfo {
        let table = || "t".to_string();
        let field = |name: &str, shape| FieldSchema { name: name.to_string(), shape };
        let fields = vec![
            field("id", FieldShape::Code { table: table(), cardinality: 10 }),
            field("recent", FieldShape::Sequence { table: table(), cardinality: 10, max_len: 5, intervals: None }),
            field("genres", FieldShape::Bag { table: table(), cardinality: 10, max_len: 5 }),
            field("text", FieldShape::Dense { width: 2 }),
        ];
        let schema = TowerSchema { side: Side::User, encoder: Fingerprint::of(b"state"), fields };
        CodesInfo { ids: IdKind::Int, schema }
    }

    fn rows(n: u32) -> (Ids, CodeBatch) {
        let mut batch = CodeBatch::empty(&info().schema);
        let mut genres = Ragged::default();
        let mut recent = Ragged::default();
        for r in 0..n {
            genres.push_row((0..r % 4).map(|g| g + 3));
            recent.push_row([]);
        }
        batch.columns = vec![
            Column::Code((0..n).map(|r| r % 10).collect()),
            Column::Ragged(recent),
            Column::Ragged(genres),
            Column::Dense { width: 2, values: (0..n * 2).map(|v| v as f32 / 7.0).collect() },
        ];
        (Ids::Int((0..n as i64).collect()), batch)
    }

    #[test]
    fn codes_read_back_whole_and_by_range() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codes.parquet");
        let mut writer = CodesWriter::create(&path, &info(), Compression::Zstd).unwrap();
        let (ids, batch) = rows(1000);
        writer.write(&ids, &batch).unwrap();
        writer.finish().unwrap();
        let reader = CodesReader::open(&path).unwrap();
        assert_eq!(reader.info(), &info());
        assert_eq!(reader.load().unwrap(), (ids, batch.clone()));
        let mut range = CodeBatch::empty(&info().schema);
        range.extend_from_rows(&batch, 501..507);
        let found: Vec<_> = reader.batches(501..507, 100).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, [(Ids::Int((501..507).collect()), range)]);
    }

    #[test]
    fn bytes_of_a_part_do_not_depend_on_the_batches_that_its_rows_come_in() {
        let dir = tempfile::tempdir().unwrap();
        let (ids, batch) = rows(140_000);
        let written = |batch_rows: usize| {
            let path = dir.path().join(format!("{batch_rows}.parquet"));
            let mut writer = CodesWriter::create(&path, &info(), Compression::Lz4).unwrap();
            let mut part = writer.groups().part();
            for first in (0..ids.len()).step_by(batch_rows) {
                let rows = first..ids.len().min(first + batch_rows);
                let mut codes = CodeBatch::empty(&info().schema);
                codes.extend_from_rows(&batch, rows.clone());
                part.push(ids.to_array(rows), codes).unwrap();
            }
            let groups = part.finish().unwrap();
            assert_eq!(groups.iter().map(|group| group.rows).collect::<Vec<_>>(), [65_536, 65_536, 8928]);
            groups.into_iter().for_each(|group| writer.append(group).unwrap());
            writer.finish().unwrap();
            assert_eq!(CodesReader::open(&path).unwrap().load().unwrap(), (ids.clone(), batch.clone()));
            std::fs::read(path).unwrap()
        };
        let whole = written(140_000);
        assert!(written(999) == whole);
        assert!(written(65_536) == whole);
    }

    #[test]
    fn groups_encoded_elsewhere_hold_the_same_rows_as_written_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codes.parquet");
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let mut writer = CodesWriter::create(&path, &info(), compression).unwrap();
            let groups = writer.groups();
            let parts: Vec<_> = [100, 1, 2500].into_iter().map(rows).collect();
            let (first, rest) = parts.split_first().unwrap();
            writer.write(&first.0, &first.1).unwrap();
            let encoded = std::thread::scope(|scope| {
                let encode = || {
                    let mut part = groups.part();
                    rest.iter().cloned().for_each(|(ids, codes)| part.push(ids.to_array(0..ids.len()), codes).unwrap());
                    part.finish().unwrap()
                };
                scope.spawn(encode).join().unwrap()
            });
            encoded.into_iter().for_each(|group| writer.append(group).unwrap());
            writer.write(&first.0, &first.1).unwrap();
            assert_eq!(writer.finish().unwrap().rows, 2701);
            let (mut ids, mut codes) = (Ids::new(IdKind::Int), CodeBatch::empty(&info().schema));
            for (more, batch) in [first, &rest[0], &rest[1], first] {
                ids.extend_from(more, 0..more.len());
                codes.extend_from_rows(batch, 0..batch.rows());
            }
            assert_eq!(CodesReader::open(&path).unwrap().load().unwrap(), (ids, codes));
        }
        let writer = CodesWriter::create(&path, &info(), Compression::None).unwrap();
        let (ids, mut batch) = rows(3);
        batch.columns[0] = Column::Code(vec![1, 10, 2]);
        let refused = writer.groups().part().push(ids.to_array(0..ids.len()), batch).unwrap_err();
        assert!(matches!(refused, ArtifactError::CodeOutOfRange { row: 1, code: 10, .. }));
    }

    #[test]
    fn text_ids_and_codes_of_any_size_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut schema = info().schema;
        schema.fields.truncate(1);
        schema.fields[0].shape = FieldShape::Code { table: "t".to_string(), cardinality: u32::MAX };
        let info = CodesInfo { ids: IdKind::Text, schema };
        let mut ids = Ids::new(IdKind::Text);
        (0..3000).for_each(|r| ids.push(crate::ids::Id::Text(&"é".repeat(r % 7 + 1))));
        let codes = (0..3000u32).map(|r| r.wrapping_mul(2_654_435_761).min(u32::MAX - 1)).collect();
        let batch = CodeBatch { columns: vec![Column::Code(codes)] };
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let path = dir.path().join("codes.parquet");
            let mut writer = CodesWriter::create(&path, &info, compression).unwrap();
            writer.write(&ids, &batch).unwrap();
            writer.finish().unwrap();
            assert_eq!(CodesReader::open(&path).unwrap().load().unwrap(), (ids.clone(), batch.clone()));
        }
    }

    #[test]
    fn codes_beyond_the_cardinality_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = CodesWriter::create(dir.path().join("c"), &info(), Compression::None).unwrap();
        let (ids, mut batch) = rows(3);
        batch.columns[0] = Column::Code(vec![1, 10, 2]);
        assert!(matches!(writer.write(&ids, &batch), Err(ArtifactError::CodeOutOfRange { row: 1, code: 10, .. })));
        let (_, batch) = rows(2);
        assert!(matches!(writer.write(&ids, &batch), Err(ArtifactError::Length { .. })));
    }
}
