//! Hashes of what rows were made from, beside a part of vectors or of results, so that a later run can tell whose row is
//! the same.
//!
//! Rows are taken for equal where their hashes are, so the hash is BLAKE3, cut to 128 bits: whoever controls the tables
//! would have to try some 2^64 rows to find two that collide. It has no key, so equal rows have equal hashes in every
//! process, and files of hashes are a function of the rows.

use crate::batch::{CodeBatch, Column};
use crate::error::ArtifactError;
use crate::manifest::FileEntry;
use crate::parquet_file::{Artifact, Compression, ParquetBatches, ParquetFile, ParquetSource};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const ROW_HASHES: Artifact = Artifact { name: "row-hashes", version: 1 };
/// The columns. The last is in the hashes beside results alone.
const COLUMNS: [&str; 3] = ["upper", "lower", "vector"];
/// Rows of a row group: 1.5 MiB.
const GROUP_ROWS: usize = 64 * 1024;

/// About how many bytes of memory a [`RowHashesWriter`] takes.
pub const WRITER_BYTES: u64 = 4 << 20;

/// The hash of a row: of all that its vector, or its list, was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowHash {
    /// The first 64 bits.
    pub upper: u64,
    /// The next 64 bits.
    pub lower: u64,
}

impl RowHash {
    fn of_bytes(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes);
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| hash.as_bytes()[at + byte]));
        Self { upper: word(0), lower: word(8) }
    }

    /// The hash of a vector, by the bits of its elements; `bytes` is memory to use.
    pub fn of_vector(vector: &[f32], bytes: &mut Vec<u8>) -> Self {
        bytes.clear();
        vector.iter().for_each(|value| bytes.extend_from_slice(&value.to_bits().to_le_bytes()));
        Self::of_bytes(bytes)
    }

    /// The hash of a row and of a list of numbers that belongs to it; `bytes` is memory to use.
    pub fn with(self, list: &[u32], bytes: &mut Vec<u8>) -> Self {
        bytes.clear();
        [self.upper, self.lower].iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        list.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        Self::of_bytes(bytes)
    }
}

impl CodeBatch {
    /// The hash of each row, by all its codes and the bits of all its floats. Rows of one schema have the same hash only
    /// where they are equal: each list is preceded by its length. `bytes` is memory to use.
    pub fn row_hashes(&self, bytes: &mut Vec<u8>) -> Vec<RowHash> {
        let mut hash = |row: usize| {
            bytes.clear();
            for column in &self.columns {
                match column {
                    Column::Code(codes) => bytes.extend_from_slice(&codes[row].to_le_bytes()),
                    Column::Ragged(ragged) => {
                        let codes = ragged.row(row);
                        bytes.extend_from_slice(&(codes.len() as u32).to_le_bytes());
                        codes.iter().for_each(|code| bytes.extend_from_slice(&code.to_le_bytes()));
                        // As many as codes, or none in any row of the schema.
                        let times = ragged.row_times(row);
                        times.iter().for_each(|time| bytes.extend_from_slice(&time.to_le_bytes()));
                    }
                    Column::Dense { width, values } => {
                        let values = &values[row * width..(row + 1) * width];
                        values.iter().for_each(|value| bytes.extend_from_slice(&value.to_bits().to_le_bytes()));
                    }
                }
            }
            RowHash::of_bytes(bytes)
        };
        (0..self.rows()).map(&mut hash).collect()
    }
}

/// What a file of hashes states in its Parquet metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowHashesInfo {
    /// Whether each row has a hash of its vector too, by which results count distinct vectors.
    pub vectors: bool,
}

fn columns(info: RowHashesInfo) -> &'static [&'static str] {
    if info.vectors { &COLUMNS } else { &COLUMNS[..2] }
}

/// Writes the hashes of a part, a row for each of its rows.
pub struct RowHashesWriter {
    file: ParquetFile,
    info: RowHashesInfo,
}

impl RowHashesWriter {
    /// Starts a file that will be published under `path`. Memory: [`WRITER_BYTES`].
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`].
    pub fn create(path: impl AsRef<Path>, info: RowHashesInfo) -> Result<Self, ArtifactError> {
        let fields = columns(info).iter().map(|name| Field::new(*name, DataType::UInt64, false));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        // Hashes do not compress.
        let none = Compression::None;
        let file = ParquetFile::create(path.as_ref(), schema, GROUP_ROWS, none, &COLUMNS, ROW_HASHES, &info)?;
        Ok(Self { file, info })
    }

    /// Appends rows; `vectors` are the hashes of their vectors, where the file has them.
    ///
    /// # Errors
    /// [`ArtifactError::Length`], or a failed write.
    pub fn write(&mut self, hashes: &[RowHash], vectors: &[u64]) -> Result<(), ArtifactError> {
        let expected = if self.info.vectors { hashes.len() } else { 0 };
        if vectors.len() != expected {
            let (path, found) = (self.file.path().to_path_buf(), vectors.len());
            return Err(ArtifactError::Length { path, what: "hashes of vectors", expected, found });
        }
        let column = |values: Vec<u64>| Arc::new(UInt64Array::from(values)) as ArrayRef;
        let mut columns = vec![
            column(hashes.iter().map(|hash| hash.upper).collect()),
            column(hashes.iter().map(|hash| hash.lower).collect()),
        ];
        if self.info.vectors {
            columns.push(column(vectors.to_vec()));
        }
        self.file.write(columns)
    }

    /// Publishes the file.
    ///
    /// # Errors
    /// A failed write; then there is no file of the final name.
    pub fn finish(self) -> Result<FileEntry, ArtifactError> {
        self.file.finish()
    }
}

/// A file of hashes, open for reading.
#[derive(Debug)]
pub struct RowHashesReader {
    source: ParquetSource,
    info: RowHashesInfo,
}

impl RowHashesReader {
    /// Opens a file and checks its columns.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Corrupt`] or [`ArtifactError::Version`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ArtifactError> {
        let source = ParquetSource::open(path.as_ref())?;
        let info: RowHashesInfo = source.details(ROW_HASHES)?;
        let found: Vec<_> = source.schema().fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
        match found.iter().copied().eq(columns(info).iter().map(|name| (*name, &DataType::UInt64))) {
            true => Ok(Self { source, info }),
            false => Err(source.corrupt(format!("columns {found:?}, expected {:?} of UInt64", columns(info)))),
        }
    }

    /// What the file's metadata states.
    pub fn info(&self) -> RowHashesInfo {
        self.info
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.source.rows()
    }

    /// Streams the hashes of a row range (cut at the end), and those of vectors where the file has them, in batches of
    /// `batch_rows`.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Parquet`]; the stream itself also gives [`ArtifactError::Corrupt`] for
    /// nulls.
    pub fn batches(&self, rows: Range<u64>, batch_rows: usize) -> Result<RowHashBatches, ArtifactError> {
        Ok(RowHashBatches { batches: self.source.batches(rows, batch_rows)?, info: self.info })
    }
}

/// Stream of a [`RowHashesReader`]: hashes of rows and of their vectors.
pub struct RowHashBatches {
    batches: ParquetBatches,
    info: RowHashesInfo,
}

impl RowHashBatches {
    fn decode(&self, batch: &RecordBatch) -> Result<(Vec<RowHash>, Vec<u64>), ArtifactError> {
        let column = |at: usize| {
            let column = batch.column(at).as_primitive::<UInt64Type>();
            let corrupt = || ArtifactError::Corrupt {
                path: self.batches.path().to_path_buf(),
                reason: format!("column `{}` holds nulls", COLUMNS[at]),
            };
            if column.null_count() == 0 { Ok(column.values()) } else { Err(corrupt()) }
        };
        let (upper, lower) = (column(0)?, column(1)?);
        let hashes = upper.iter().zip(lower.iter()).map(|(upper, lower)| RowHash { upper: *upper, lower: *lower });
        let vectors = if self.info.vectors { column(2)?.to_vec() } else { Vec::new() };
        Ok((hashes.collect(), vectors))
    }
}

impl Iterator for RowHashBatches {
    type Item = Result<(Vec<RowHash>, Vec<u64>), ArtifactError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.and_then(|batch| self.decode(&batch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Ragged;
    use std::collections::BTreeSet;

    fn ragged(rows: &[&[u32]]) -> Column {
        let mut ragged = Ragged::default();
        rows.iter().for_each(|row| ragged.push_row(row.iter().copied()));
        Column::Ragged(ragged)
    }

    #[test]
    fn rows_have_one_hash_only_where_all_codes_lists_and_bits_are_the_same() {
        // Rows 0 and 1 are equal; each other row differs from row 0 in one thing, and in none of the sums of its parts.
        let batch = CodeBatch {
            columns: vec![
                Column::Code(vec![7, 7, 8, 7, 7, 7, 7]),
                ragged(&[&[1, 2], &[1, 2], &[1, 2], &[2, 1], &[1], &[1, 2], &[1, 2]]),
                ragged(&[&[3], &[3], &[3], &[3], &[2, 3], &[3], &[3]]),
                Column::Dense {
                    width: 2,
                    values: vec![0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5, -0.0, 0.0, 0.5],
                },
            ],
        };
        let hashes = batch.row_hashes(&mut Vec::new());
        assert_eq!((hashes.len(), hashes[0]), (7, hashes[1]));
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), 6);
        // A row's hash does not depend on the rows beside it, and stays the same for ever: runs compare them.
        let one = CodeBatch {
            columns: vec![
                Column::Code(vec![7]),
                ragged(&[&[1, 2]]),
                ragged(&[&[3]]),
                Column::Dense { width: 2, values: vec![0.5, 0.0] },
            ],
        };
        assert_eq!(one.row_hashes(&mut vec![1, 2, 3]), hashes[..1]);
        let bytes: Vec<u8> = [7u32, 2, 1, 2, 1, 3, 0x3f00_0000, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected = blake3::hash(&bytes);
        assert_eq!(hashes[0].upper.to_le_bytes(), expected.as_bytes()[..8]);
        assert_eq!(hashes[0].lower.to_le_bytes(), expected.as_bytes()[8..16]);
    }

    #[test]
    fn the_times_of_a_sequence_are_part_of_a_rows_hash() {
        let timed = |times: Vec<i32>| {
            let Column::Ragged(ragged) = ragged(&[&[1, 2], &[1, 2]]) else { panic!("lists are ragged") };
            let columns = vec![Column::Ragged(Ragged { times, ..ragged })];
            CodeBatch { columns }.row_hashes(&mut Vec::new())
        };
        let [same, other, none] = [vec![0, 5, 0, 5], vec![0, 5, 0, 6], Vec::new()].map(timed);
        assert!(same[0] == same[1] && other[0] == same[0] && other[1] != other[0] && none[0] != same[0]);
    }

    #[test]
    fn the_hash_of_a_row_with_a_list_depends_on_both() {
        let bytes = &mut Vec::new();
        let (a, b) = (RowHash::of_vector(&[1.0, 2.0], bytes), RowHash::of_vector(&[1.0, 2.5], bytes));
        let all = [a, b, a.with(&[], bytes), a.with(&[1], bytes), b.with(&[1], bytes), a.with(&[1, 2], bytes)];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(a.with(&[1, 2], &mut vec![9]), all[5]);
    }

    #[test]
    fn hashes_read_back_in_any_range_and_their_number_must_fit() {
        let dir = tempfile::tempdir().unwrap();
        let hash = |row: u64| RowHash { upper: row.wrapping_mul(0x9E37_79B9_7F4A_7C15), lower: !row };
        for info in [RowHashesInfo { vectors: false }, RowHashesInfo { vectors: true }] {
            let path = dir.path().join(format!("{}.parquet", info.vectors));
            let mut writer = RowHashesWriter::create(&path, info).unwrap();
            let of = |rows: Range<u64>| if info.vectors { rows.map(|row| row * 3).collect() } else { Vec::new() };
            for rows in [0..70_000, 70_000..70_001, 70_001..100_000] {
                writer.write(&rows.clone().map(hash).collect::<Vec<_>>(), &of(rows)).unwrap();
            }
            let wrong = writer.write(&[hash(0)], if info.vectors { &[] } else { &[1] });
            assert!(matches!(wrong, Err(ArtifactError::Length { .. })));
            assert_eq!(writer.finish().unwrap().rows, 100_000);
            let reader = RowHashesReader::open(&path).unwrap();
            assert_eq!((reader.rows(), reader.info()), (100_000, info));
            let (mut hashes, mut vectors) = (Vec::new(), Vec::new());
            for batch in reader.batches(65_000..100_500, 777).unwrap() {
                let (some, of_vectors) = batch.unwrap();
                hashes.extend(some);
                vectors.extend(of_vectors);
            }
            assert!(hashes.into_iter().eq((65_000..100_000).map(hash)));
            assert_eq!(vectors, of(65_000..100_000));
        }
        assert!(matches!(RowHashesReader::open(dir.path().join("no")), Err(ArtifactError::Io { .. })));
    }
}
