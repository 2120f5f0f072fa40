//! Column chunks of codes: integers below a small number that is known beforehand.
//!
//! Such codes are already what the indices of a dictionary are. So the dictionary is all codes in order, and each
//! index takes the bits of the largest code. Nothing has to search for distinct values, and readers unpack whole runs.
//!
//! For ten such columns, the writer of the `parquet` crate takes 4.0 times as long with DELTA_BINARY_PACKED and 9.1
//! times as long with a dictionary; with Zstandard 2.8 and 4.0 times (processor time, medians of 21 pairs, two cores:
//! `cargo run --release -p twotower-artifacts --example writing_speed`).

use crate::chunk::{EncodedChunk, PAGE_ROWS, Pages};
use crate::packed_run::PackedRun;
use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_buffer::Buffer;
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::schema::types::ColumnDescPtr;

/// The largest cardinality. Beyond it, the dictionary takes as many bytes as it saves in a row group of 65,536 rows.
pub(crate) const MOST_CODES: u32 = 4096;

/// A column chunk that takes rows. Memory: its packed bytes.
pub(crate) struct CodeChunk {
    pages: Pages,
    /// The rows of the current page.
    page: PackedRun,
}

impl CodeChunk {
    /// A chunk without rows, for codes below `cardinality`, at most [`MOST_CODES`].
    pub fn new(cardinality: u32, leaf: &ColumnDescPtr, codec: Compression) -> Result<Self, ParquetError> {
        let mut pages = Pages::new(leaf.clone(), codec, Encoding::RLE_DICTIONARY);
        let dictionary: Vec<u32> = (0..cardinality).map(u32::to_le).collect();
        pages.dictionary(dictionary.len(), Buffer::from_vec(dictionary))?;
        Ok(Self { pages, page: PackedRun::new(cardinality) })
    }

    /// Appends codes: an array of 32-bit integers without nulls.
    pub fn push(&mut self, codes: &ArrayRef) -> Result<(), ParquetError> {
        let mut codes: &[u32] = codes.as_primitive::<UInt32Type>().values();
        while !codes.is_empty() {
            let (page, later) = codes.split_at(codes.len().min(PAGE_ROWS - self.page.values()));
            self.page.push(page);
            if self.page.values() == PAGE_ROWS {
                self.end_page()?;
            }
            codes = later;
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), ParquetError> {
        let rows = self.page.values();
        self.pages.data(rows, rows, self.page.page().into())
    }

    /// Finishes the chunk.
    pub fn encode(mut self) -> Result<EncodedChunk, ParquetError> {
        if self.page.values() > 0 {
            self.end_page()?;
        }
        self.pages.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{RecordBatch, UInt32Array};
    use arrow_schema::{DataType, Field, Schema};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::writer::SerializedFileWriter;
    use std::sync::Arc;

    /// A file with one column of these codes, which were pushed `part` rows at a time.
    fn written(codes: &[u32], cardinality: u32, part: usize, codec: Compression) -> Bytes {
        let schema = Schema::new(vec![Field::new("code", DataType::UInt32, false)]);
        let schema = parquet::arrow::ArrowSchemaConverter::new().convert(&schema).unwrap();
        let mut file = SerializedFileWriter::new(Vec::new(), schema.root_schema_ptr(), Default::default()).unwrap();
        let mut chunk = CodeChunk::new(cardinality, &schema.column(0), codec).unwrap();
        for part in codes.chunks(part) {
            chunk.push(&(Arc::new(UInt32Array::from(part.to_vec())) as ArrayRef)).unwrap();
        }
        let chunk = chunk.encode().unwrap();
        let mut group = file.next_row_group().unwrap();
        group.append_column(&chunk, chunk.close()).unwrap();
        group.close().unwrap();
        file.into_inner().unwrap().into()
    }

    #[test]
    fn codes_are_read_back_whatever_the_cardinality_the_parts_and_the_codec() {
        let codecs = [Compression::UNCOMPRESSED, Compression::LZ4_RAW, Compression::ZSTD(Default::default())];
        for (n, cardinality) in (0..).zip([1, 2, 3, 5, 8, 9, 200, 256, 257, 1025, MOST_CODES]) {
            let rows = [0, 1, 7, 8, 20_000, 45_001][n % 6];
            let codec = codecs[n % 3];
            let codes: Vec<u32> = (0..rows).map(|i: u32| i.wrapping_mul(2_654_435_761) % cardinality).collect();
            let file = written(&codes, cardinality, 1000, codec);
            let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
            let stated = reader.metadata().row_group(0).column(0).clone();
            assert_eq!((stated.num_values(), stated.dictionary_page_offset()), (codes.len() as i64, Some(4)));
            let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
            let found = batches.iter().flat_map(|b| b.column(0).as_primitive::<UInt32Type>().values().to_vec());
            assert_eq!(found.collect::<Vec<_>>(), codes, "{cardinality}");
            // The same rows give the same bytes, however they were pushed.
            assert!(file == written(&codes, cardinality, 13, codec));
        }
    }

    #[test]
    fn a_code_takes_the_bits_of_the_largest() {
        let codes: Vec<u32> = (0..16_000).map(|i| i % 5).collect();
        let file = written(&codes, 5, 16_000, Compression::UNCOMPRESSED);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let bytes = reader.metadata().row_group(0).column(0).compressed_size();
        assert!((6000..6100).contains(&bytes), "{bytes}");
    }
}
