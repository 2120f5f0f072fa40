//! The vectors artifact: ids and unit vectors, as Parquet parts.

use crate::error::ArtifactError;
use crate::fingerprint::Fingerprint;
use crate::ids::{IdKind, Ids};
use crate::manifest::FileEntry;
use crate::parquet_file::{Artifact, Compression, ParquetBatches, ParquetFile, ParquetSource, Storage};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type};
use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float16Array, Float32Array, RecordBatch};
use arrow_buffer::{Buffer, ScalarBuffer};
use arrow_schema::{DataType, Field, FieldRef, Schema};
use half::vec::HalfFloatVecExt;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VECTORS: Artifact = Artifact { name: "vectors", version: 1 };
/// How far the norm of a unit vector may be from 1. Storing it in 16-bit floats changes it by up to 0.0005.
pub const NORM_TOLERANCE: f64 = 1e-3;

/// Bytes of vectors per row group. A writer holds one row group, and a second one while it writes the first.
const GROUP_BYTES: usize = 8 << 20;

/// About how many bytes of memory a [`VectorsWriter`] takes.
pub const WRITER_BYTES: u64 = 2 * GROUP_BYTES as u64;

/// Rows of a row group.
fn group_rows(dim: usize) -> usize {
    (GROUP_BYTES / (4 * dim.max(1))).max(1024)
}

/// Element type of stored vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats, as computed.
    #[default]
    F32,
    /// 16-bit floats, rounded to nearest even.
    F16,
}

impl Precision {
    /// A value as it is read back.
    pub fn stored(self, value: f32) -> f32 {
        match self {
            Precision::F32 => value,
            Precision::F16 => half::f16::from_f32(value).to_f32(),
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Precision::F32 => DataType::Float32,
            Precision::F16 => DataType::Float16,
        }
    }
}

/// How vectors are compared. There is one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Similarity {
    /// Cosine: the dot product of unit vectors.
    #[default]
    Cosine,
}

/// What a file of vectors states in its Parquet metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VectorsInfo {
    /// Kind of the ids.
    pub ids: IdKind,
    /// Floats per vector.
    pub dim: usize,
    /// Element type stored.
    #[serde(default)]
    pub precision: Precision,
    /// How vectors compare.
    #[serde(default)]
    pub similarity: Similarity,
    /// Encoder state the codes came from.
    pub encoder: Fingerprint,
    /// Tower that made the vectors.
    pub tower: Fingerprint,
    /// Where the cosine stands for an inner product, what it is multiplied with to have the inner product of an item's vector
    /// and the user's direction. None for a model of cosines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_product_scale: Option<f32>,
}

/// Writes one part: columns `id` and `vector`.
pub struct VectorsWriter {
    file: ParquetFile,
    info: VectorsInfo,
    element: FieldRef,
    /// Buffers of vectors that may still wait for their row group to be full.
    waiting: Vec<Buffer>,
    /// Buffers whose vectors are written.
    spare: Vec<Vec<f32>>,
}

impl VectorsWriter {
    /// Starts a part that will be published under `path`. Memory: [`WRITER_BYTES`].
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`].
    pub fn create(path: impl AsRef<Path>, info: &VectorsInfo, compression: Compression) -> Result<Self, ArtifactError> {
        let element = Arc::new(Field::new("element", info.precision.data_type(), false));
        let vector = DataType::FixedSizeList(element.clone(), info.dim as i32);
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", info.ids.data_type(), false),
            Field::new("vector", vector, false),
        ]));
        let stored = |top: &str| match (top, info.ids) {
            ("id", IdKind::Text) => Storage::Prefixed,
            _ => Storage::Plain,
        };
        let file = ParquetFile::create_stored(
            path.as_ref(),
            schema,
            group_rows(info.dim),
            compression,
            stored,
            VECTORS,
            info,
        )?;
        Ok(Self { file, info: info.clone(), element, waiting: Vec::new(), spare: Vec::new() })
    }

    /// Appends rows. `vectors` is `[ids, dim]`, row-major.
    ///
    /// # Errors
    /// [`ArtifactError::Length`], [`ArtifactError::IdKind`], or a failed write.
    pub fn write(&mut self, ids: &Ids, vectors: Vec<f32>) -> Result<(), ArtifactError> {
        let path = || self.file.path().to_path_buf();
        if vectors.len() != ids.len() * self.info.dim {
            let (expected, found) = (ids.len() * self.info.dim, vectors.len());
            return Err(ArtifactError::Length { path: path(), what: "vectors", expected, found });
        }
        if ids.kind() != self.info.ids {
            return Err(ArtifactError::IdKind { path: path(), expected: self.info.ids, found: ids.kind() });
        }
        let values: ArrayRef = match self.info.precision {
            Precision::F32 => {
                let values = Float32Array::from(vectors);
                self.waiting.push(values.values().inner().clone());
                Arc::new(values)
            }
            Precision::F16 => {
                let values = Vec::<half::f16>::from_f32_slice(&vectors);
                self.spare.push(vectors);
                Arc::new(Float16Array::from(values))
            }
        };
        let list = FixedSizeListArray::try_new(self.element.clone(), self.info.dim as i32, values, None)
            .map_err(crate::parquet_file::arrow_error("write", self.file.path()))?;
        self.file.write(vec![ids.to_array(0..ids.len()), Arc::new(list)])
    }

    /// The most batches of `rows` rows that wait here for their row group to be full.
    pub fn kept(&self, rows: usize) -> usize {
        match self.info.precision {
            Precision::F32 => group_rows(self.info.dim).div_ceil(rows.max(1)),
            // The values are copied, so no batch has to wait.
            Precision::F16 => 0,
        }
    }

    /// Takes the buffers of vectors that are written, so that further vectors can be computed in them. New buffers of
    /// several MiB each time would fragment the memory.
    pub fn spare(&mut self) -> impl Iterator<Item = Vec<f32>> {
        let free = self.waiting.extract_if(.., |vectors| vectors.strong_count() == 1);
        self.spare.extend(free.filter_map(|vectors| vectors.into_vec().ok()));
        self.spare.drain(..)
    }

    /// Publishes the part.
    ///
    /// # Errors
    /// A failed write; then there is no file of the final name.
    pub fn finish(self) -> Result<FileEntry, ArtifactError> {
        self.file.finish()
    }
}

/// One file of vectors, open for reading.
#[derive(Debug)]
pub struct VectorsReader {
    source: ParquetSource,
    info: VectorsInfo,
}

impl VectorsReader {
    /// Opens a part and checks its columns.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Corrupt`] or [`ArtifactError::Version`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ArtifactError> {
        let source = ParquetSource::open(path.as_ref())?;
        let info: VectorsInfo = source.details(VECTORS)?;
        let found: Vec<_> = source.schema().fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
        let right = match found[..] {
            [("id", id), ("vector", DataType::FixedSizeList(element, dim))] => {
                *id == info.ids.data_type()
                    && *dim as usize == info.dim
                    && info.dim > 0
                    && *element.data_type() == info.precision.data_type()
            }
            _ => false,
        };
        match right {
            true => Ok(Self { source, info }),
            false => Err(source.corrupt(format!(
                "columns {found:?}, expected `id` of {} and `vector` as a list of {} {:?}",
                info.ids.data_type(),
                info.dim,
                info.precision
            ))),
        }
    }

    /// What the file's metadata states.
    pub fn info(&self) -> &VectorsInfo {
        &self.info
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.source.rows()
    }

    /// Streams `(ids, [rows, dim] floats)` of a row range (cut at the end) in batches of `batch_rows`.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`]; the stream itself also gives
    /// [`ArtifactError::Corrupt`] for nulls.
    pub fn batches(&self, rows: Range<u64>, batch_rows: usize) -> Result<VectorBatches, ArtifactError> {
        Ok(VectorBatches { batches: self.source.batches(rows, batch_rows)?, dim: self.info.dim })
    }

    /// Loads all rows: `dim * 4` bytes each, plus the ids.
    ///
    /// # Errors
    /// As [`VectorsReader::batches`].
    pub fn load(&self) -> Result<(Ids, Vec<f32>), ArtifactError> {
        let mut ids = Ids::new(self.info.ids);
        let mut vectors = Vec::new();
        for batch in self.batches(0..u64::MAX, 8192)? {
            let (batch_ids, batch_vectors) = batch?;
            ids.extend_from(&batch_ids, 0..batch_ids.len());
            vectors.extend_from_slice(&batch_vectors);
        }
        Ok((ids, vectors))
    }
}

/// Stream of a [`VectorsReader`]: ids and `[rows, dim]` floats.
pub struct VectorBatches {
    batches: ParquetBatches,
    dim: usize,
}

impl VectorBatches {
    fn decode(&self, batch: &RecordBatch) -> Result<(Ids, Vec<f32>), ArtifactError> {
        let corrupt = |reason: String| ArtifactError::Corrupt { path: self.batches.path().to_path_buf(), reason };
        let ids = Ids::from_array(batch.column(0).as_ref()).map_err(|e| e.in_file(self.batches.path(), "id"))?;
        let lists = batch.column(1).as_fixed_size_list();
        let values = lists.values();
        if lists.null_count() + values.null_count() > 0 {
            return Err(corrupt("column `vector` holds nulls".to_string()));
        }
        let start = lists.value_offset_at(0);
        let floats: ScalarBuffer<f32> = match values.data_type() {
            DataType::Float16 => values.as_primitive::<Float16Type>().values().iter().map(|v| v.to_f32()).collect(),
            _ => values.as_primitive::<Float32Type>().values().clone(),
        };
        Ok((ids, floats[start..start + batch.num_rows() * self.dim].to_vec()))
    }
}

impl Iterator for VectorBatches {
    type Item = Result<(Ids, Vec<f32>), ArtifactError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.and_then(|b| self.decode(&b)))
    }
}

/// Loads the parts at `paths`, in that order, as one table. All must have equal metadata.
///
/// # Errors
/// As [`VectorsReader::load`], and [`ArtifactError::Mismatch`] when two parts differ.
pub fn load_parts(paths: &[PathBuf]) -> Result<Option<(VectorsInfo, Ids, Vec<f32>)>, ArtifactError> {
    let mut all: Option<(VectorsInfo, Ids, Vec<f32>)> = None;
    for path in paths {
        let reader = VectorsReader::open(path)?;
        let (ids, vectors) = reader.load()?;
        match &mut all {
            None => all = Some((reader.info, ids, vectors)),
            Some((info, _, _)) if *info != reader.info => {
                return Err(ArtifactError::Mismatch {
                    what: format!("vectors part {}", path.display()),
                    expected_from: format!("tower of {}", paths[0].display()),
                    expected: info.tower.to_string(),
                    found_from: "its own tower".to_string(),
                    found: reader.info.tower.to_string(),
                    advice: "run infer again for all shards".to_string(),
                });
            }
            Some((_, all_ids, all_vectors)) => {
                all_ids.extend_from(&ids, 0..ids.len());
                all_vectors.extend_from_slice(&vectors);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Id;

    fn info(ids: IdKind, precision: Precision) -> VectorsInfo {
        let (encoder, tower) = (Fingerprint::of(b"encoder"), Fingerprint::of(b"tower"));
        let (similarity, inner_product_scale) = (Similarity::Cosine, Some(2.5));
        VectorsInfo { ids, dim: 3, precision, similarity, encoder, tower, inner_product_scale }
    }

    fn rows(n: usize) -> (Ids, Vec<f32>) {
        let mut ids = Ids::new(IdKind::Text);
        (0..n).for_each(|i| ids.push(Id::Text(&format!("user-{i}"))));
        (ids, (0..n * 3).map(|i| (i as f32 * 0.37).sin()).collect())
    }

    fn write(path: &Path, precision: Precision, n: usize) -> FileEntry {
        let mut writer = VectorsWriter::create(path, &info(IdKind::Text, precision), Compression::None).unwrap();
        let (ids, vectors) = rows(n);
        writer.write(&ids, vectors.clone()).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn f32_vectors_read_back_bit_for_bit_in_any_range() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        assert_eq!(write(&path, Precision::F32, 2500).rows, 2500);
        let reader = VectorsReader::open(&path).unwrap();
        assert_eq!(reader.info(), &info(IdKind::Text, Precision::F32));
        let (ids, vectors) = rows(2500);
        assert_eq!(reader.load().unwrap(), (ids.clone(), vectors.clone()));
        let mut at = 1000;
        for batch in reader.batches(1000..2100, 300).unwrap() {
            let (batch_ids, batch_vectors) = batch.unwrap();
            for r in 0..batch_ids.len() {
                assert_eq!(batch_ids.get(r), ids.get(at + r));
            }
            assert_eq!(batch_vectors, vectors[at * 3..(at + batch_ids.len()) * 3]);
            at += batch_ids.len();
        }
        assert_eq!(at, 2100);
    }

    #[test]
    fn f16_vectors_round_to_nearest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        write(&path, Precision::F16, 10);
        let (_, found) = VectorsReader::open(&path).unwrap().load().unwrap();
        let expected: Vec<f32> = rows(10).1.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn memory_of_vectors_comes_back_when_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        for (precision, waits) in [(Precision::F32, true), (Precision::F16, false)] {
            let path = dir.path().join(format!("{precision:?}"));
            let mut info = info(IdKind::Text, precision);
            // Vectors of this width make row groups of 1,024 rows.
            info.dim = GROUP_BYTES / 4096;
            let mut writer = VectorsWriter::create(&path, &info, Compression::None).unwrap();
            let (ids, _) = rows(500);
            assert_eq!(writer.kept(500), if waits { 3 } else { 0 });
            let mut counts = Vec::new();
            for value in [1.0, 2.0, 3.0, 4.0, 5.0] {
                writer.write(&ids, vec![value; 500 * info.dim]).unwrap();
                let spare: Vec<Vec<f32>> = writer.spare().collect();
                assert!(spare.iter().all(|vectors| vectors.capacity() == 500 * info.dim));
                counts.push(spare.len());
            }
            // The third batch fills a row group, and its rest stays in the next one until the fifth batch fills that.
            assert_eq!(counts, if waits { [0, 0, 2, 0, 2] } else { [1; 5] }, "{precision:?}");
            writer.finish().unwrap();
            let (_, found) = VectorsReader::open(&path).unwrap().load().unwrap();
            assert!(found.chunks(500 * info.dim).zip(1..).all(|(part, value)| part.iter().all(|v| *v == value as f32)));
        }
    }

    #[test]
    fn wrong_lengths_and_kinds_are_refused_before_writing() {
        let dir = tempfile::tempdir().unwrap();
        let info = info(IdKind::Int, Precision::F32);
        let mut writer = VectorsWriter::create(dir.path().join("p"), &info, Compression::Zstd).unwrap();
        let short = writer.write(&Ids::Int(vec![1, 2]), vec![0.0; 5]);
        assert!(matches!(short, Err(ArtifactError::Length { expected: 6, found: 5, .. })));
        assert!(matches!(writer.write(&rows(1).0, vec![0.0; 3]), Err(ArtifactError::IdKind { .. })));
    }

    #[test]
    fn parts_of_unlike_towers_are_not_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write(&a, Precision::F32, 4);
        let mut other = info(IdKind::Text, Precision::F32);
        other.tower = Fingerprint::of(b"another tower");
        VectorsWriter::create(&b, &other, Compression::None).unwrap().finish().unwrap();
        assert_eq!(load_parts(std::slice::from_ref(&a)).unwrap().unwrap().1.len(), 4);
        assert!(matches!(load_parts(&[a, b]), Err(ArtifactError::Mismatch { .. })));
        assert!(load_parts(&[]).unwrap().is_none());
    }
}
