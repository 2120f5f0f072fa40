//! Column chunks of lists that are all of one length, without nulls: vectors and dense codes.
//!
//! Parquet's own writer works out two levels for each element, which costs more than all else that is done with it;
//! in such lists all levels are known beforehand. Elements stand in the file as they stand in memory, so pages are
//! put together from pieces of the batches they came in, which are not copied.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::Buffer;
use arrow_schema::DataType;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageEncodingStats};
use parquet::file::page_index::offset_index::{OffsetIndexMetaData, PageLocation};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnDescPtr;
use std::io::Read;

/// Bytes of values a page has, in whole rows, unless it has [`PAGE_ROWS`].
const PAGE_BYTES: usize = 1 << 20;
/// The most rows of a page, as Parquet's own writer has it.
const PAGE_ROWS: usize = 20_000;

/// Wider lists have a run of levels each, which takes 4 bytes; of others all levels are packed into bits.
const RUN_WIDTH: usize = 32;

/// A column chunk that takes rows.
pub(crate) struct ListChunk {
    leaf: ColumnDescPtr,
    codec: Compression,
    /// Elements of a list.
    width: usize,
    /// Bytes of a list.
    row_bytes: usize,
    /// Whole lists.
    parts: Vec<Buffer>,
}

/// A column chunk as it stands in the file.
pub(crate) struct EncodedLists {
    pieces: Vec<Buffer>,
    close: Box<ColumnCloseResult>,
}

impl ListChunk {
    /// A chunk without rows, where a column of this type is one of such lists.
    pub fn new(data_type: &DataType, leaf: &ColumnDescPtr, codec: Compression) -> Option<Self> {
        let DataType::FixedSizeList(element, width) = data_type else { return None };
        let bytes = match element.data_type() {
            DataType::Float32 => 4,
            DataType::Float16 => 2,
            _ => return None,
        };
        // One level of each kind: neither lists nor elements can be null.
        let plain = (leaf.max_def_level(), leaf.max_rep_level()) == (1, 1) && *width > 0;
        let known = matches!(codec, Compression::UNCOMPRESSED | Compression::LZ4_RAW | Compression::ZSTD(_));
        let width = *width as usize;
        let chunk = || Self { leaf: leaf.clone(), codec, width, row_bytes: width * bytes, parts: Vec::new() };
        (plain && known).then(chunk)
    }

    /// Appends the lists of an array of the chunk's type.
    pub fn push(&mut self, lists: &ArrayRef) {
        let values = lists.as_fixed_size_list().values();
        let part = match values.data_type() {
            DataType::Float16 => values.as_primitive::<Float16Type>().values().inner().clone(),
            _ => values.as_primitive::<Float32Type>().values().inner().clone(),
        };
        self.parts.push(part);
    }

    /// The chunk as it stands in the file: pages of version 1, values without dictionary, no statistics.
    pub fn encode(self) -> Result<EncodedLists, ParquetError> {
        let Self { leaf, codec, width, row_bytes, parts } = self;
        let rows = parts.iter().map(Buffer::len).sum::<usize>() / row_bytes;
        let page_rows = PAGE_BYTES.div_ceil(row_bytes).min(PAGE_ROWS);
        let (mut pieces, mut locations) = (Vec::new(), Vec::new());
        let (mut uncompressed, mut offset) = (0, 0);
        let mut values = Cut { parts: parts.into_iter(), rest: Buffer::default() };
        let mut levels = (0, Buffer::default());
        for first in (0..rows).step_by(page_rows) {
            let rows = page_rows.min(rows - first);
            if levels.0 != rows {
                levels = (rows, Buffer::from_vec(levels_of(rows, width)));
            }
            let mut page = vec![levels.1.clone()];
            values.take(rows * row_bytes, &mut page);
            let plain = bytes_of(&page);
            let page = compress(codec, page)?;
            let packed = bytes_of(&page);
            let header = header(plain, packed, rows * width)?;
            locations.push(PageLocation {
                offset: offset as i64,
                compressed_page_size: size(header.len() + packed)?,
                first_row_index: first as i64,
            });
            uncompressed += header.len() + plain;
            offset += header.len() + packed;
            pieces.push(Buffer::from_vec(header));
            pieces.extend(page);
        }
        let pages = PageEncodingStats {
            page_type: PageType::DATA_PAGE,
            encoding: Encoding::PLAIN,
            count: size(locations.len())?,
        };
        let metadata = ColumnChunkMetaData::builder(leaf)
            .set_compression(codec)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_page_encoding_stats(vec![pages])
            .set_total_compressed_size(offset as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_num_values((rows * width) as i64)
            .set_data_page_offset(0)
            .build()?;
        let offsets = OffsetIndexMetaData { page_locations: locations, unencoded_byte_array_data_bytes: None };
        let close = ColumnCloseResult {
            bytes_written: offset as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(offsets),
        };
        Ok(EncodedLists { pieces, close: close.into() })
    }
}

impl EncodedLists {
    /// What the footer says of the chunk.
    pub fn close(&self) -> ColumnCloseResult {
        (*self.close).clone()
    }
}

impl Length for EncodedLists {
    fn len(&self) -> u64 {
        self.close.bytes_written
    }
}

impl ChunkReader for EncodedLists {
    type T = Pieces;

    fn get_read(&self, start: u64) -> Result<Pieces, ParquetError> {
        let mut values = Cut { parts: self.pieces.clone().into_iter(), rest: Buffer::default() };
        values.take(start as usize, &mut Vec::new());
        Ok(Pieces(values))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Bytes of pieces, one after the other.
pub(crate) struct Pieces(Cut);

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let Some(piece) = self.0.piece(out.len()) else { return Ok(0) };
        out[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

/// Buffers that are cut into pieces, from the first byte to the last.
struct Cut {
    parts: std::vec::IntoIter<Buffer>,
    rest: Buffer,
}

impl Cut {
    /// The next bytes, at most so many.
    fn piece(&mut self, most: usize) -> Option<Buffer> {
        while self.rest.is_empty() {
            self.rest = self.parts.next()?;
        }
        let len = most.min(self.rest.len());
        let piece = self.rest.slice_with_length(0, len);
        self.rest = self.rest.slice(len);
        Some(piece)
    }

    /// Appends the next `len` bytes, or what is left, to `out`.
    fn take(&mut self, mut len: usize, out: &mut Vec<Buffer>) {
        while len > 0
            && let Some(piece) = self.piece(len)
        {
            len -= piece.len();
            out.push(piece);
        }
    }
}

fn bytes_of(pieces: &[Buffer]) -> usize {
    pieces.iter().map(Buffer::len).sum()
}

fn size(n: usize) -> Result<i32, ParquetError> {
    i32::try_from(n).map_err(|_| ParquetError::General(format!("a page of {n} bytes or values is too large")))
}

/// Levels of a page of `rows` lists, in Parquet's hybrid of runs and packed bits (format, section Encodings), each
/// kind after its length.
///
/// The first element of each list has repetition level 0, the others 1 (the Dremel encoding, section Nested
/// Encoding); all elements have definition level 1.
fn levels_of(rows: usize, width: usize) -> Vec<u8> {
    let values = rows * width;
    let mut repetition = Vec::new();
    if width.is_multiple_of(8) && width > RUN_WIDTH {
        // Eight levels packed, of which the first is 0, and a run of 1.
        let mut row = vec![1 << 1 | 1, !1];
        varint(((width - 8) << 1) as u64, &mut row);
        row.push(1);
        repetition = row.repeat(rows);
    } else {
        varint((values.div_ceil(8) << 1 | 1) as u64, &mut repetition);
        let start = repetition.len();
        repetition.resize(start + values.div_ceil(8), u8::MAX);
        (0..rows).map(|row| row * width).for_each(|i| repetition[start + i / 8] &= !(1 << (i % 8)));
    }
    let mut definition = Vec::new();
    varint((values << 1) as u64, &mut definition);
    definition.push(1);
    let mut levels = Vec::with_capacity(repetition.len() + definition.len() + 8);
    for kind in [repetition, definition] {
        levels.extend((kind.len() as u32).to_le_bytes());
        levels.extend(kind);
    }
    levels
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A page's header, in Thrift's compact protocol: `PageHeader` of Parquet's format with a `DataPageHeader`.
fn header(uncompressed: usize, compressed: usize, values: usize) -> Result<Vec<u8>, ParquetError> {
    // How far the field's number is from the last one's, and its type.
    const INT: u8 = 0x15;
    const STRUCT_AFTER_NEXT: u8 = 0x2c;
    const END: u8 = 0;
    let mut out = Vec::with_capacity(32);
    let number = |value: i32, out: &mut Vec<u8>| {
        out.push(INT);
        varint(((value << 1) ^ (value >> 31)) as u32 as u64, out);
    };
    number(PageType::DATA_PAGE as i32, &mut out);
    number(size(uncompressed)?, &mut out);
    number(size(compressed)?, &mut out);
    out.push(STRUCT_AFTER_NEXT);
    number(size(values)?, &mut out);
    number(Encoding::PLAIN as i32, &mut out);
    number(Encoding::RLE as i32, &mut out);
    number(Encoding::RLE as i32, &mut out);
    out.extend([END, END]);
    Ok(out)
}

/// A page's content as it stands in the file.
fn compress(codec: Compression, page: Vec<Buffer>) -> Result<Vec<Buffer>, ParquetError> {
    let whole = || page.iter().map(Buffer::as_slice).collect::<Vec<_>>().concat();
    let packed = match codec {
        Compression::LZ4_RAW => lz4_flex::block::compress(&whole()),
        Compression::ZSTD(level) => zstd::bulk::compress(&whole(), level.compression_level())?,
        _ => return Ok(page),
    };
    Ok(vec![Buffer::from_vec(packed)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{FixedSizeListArray, Float16Array, Float32Array, RecordBatch};
    use arrow_schema::{Field, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::properties::{EnabledStatistics, WriterProperties};
    use parquet::file::writer::SerializedFileWriter;
    use std::sync::Arc;

    /// Rows of lists of the type and width, cut into the given parts.
    fn lists(half: bool, width: usize, rows: usize) -> ArrayRef {
        let values = (0..rows * width).map(|i| (i as f32 * 0.37).sin());
        let values: ArrayRef = match half {
            true => Arc::new(Float16Array::from_iter_values(values.map(half::f16::from_f32))),
            false => Arc::new(Float32Array::from_iter_values(values)),
        };
        let element = Arc::new(Field::new("element", values.data_type().clone(), false));
        Arc::new(FixedSizeListArray::try_new(element, width as i32, values, None).unwrap())
    }

    fn written(column: &ArrayRef, cuts: &[usize], codec: Compression) -> Bytes {
        let schema = Schema::new(vec![Field::new("vector", column.data_type().clone(), false)]);
        let parquet_schema = parquet::arrow::ArrowSchemaConverter::new().convert(&schema).unwrap();
        let mut file =
            SerializedFileWriter::new(Vec::new(), parquet_schema.root_schema_ptr(), Default::default()).unwrap();
        let mut chunk = ListChunk::new(column.data_type(), &parquet_schema.column(0), codec).unwrap();
        let mut from = 0;
        for to in cuts.iter().copied().chain([column.len()]) {
            chunk.push(&column.slice(from, to - from));
            from = to;
        }
        let chunk = chunk.encode().unwrap();
        let mut group = file.next_row_group().unwrap();
        group.append_column(&chunk, chunk.close()).unwrap();
        group.close().unwrap();
        file.into_inner().unwrap().into()
    }

    fn chunk_bytes(file: &Bytes) -> (Bytes, ParquetRecordBatchReaderBuilder<Bytes>) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
        let (start, len) = reader.metadata().row_group(0).column(0).byte_range();
        (file.slice(start as usize..(start + len) as usize), reader)
    }

    #[test]
    fn what_is_written_is_read_back_whatever_the_cuts_the_codec_and_the_width() {
        for codec in [Compression::UNCOMPRESSED, Compression::LZ4_RAW, Compression::ZSTD(Default::default())] {
            for (half, width, rows) in
                [(false, 2, 45_000), (false, 64, 9000), (true, 64, 9000), (true, 3, 1), (false, 1, 0)]
            {
                let column = lists(half, width, rows);
                let file = written(&column, &[rows / 3, rows / 2], codec);
                let (_, reader) = chunk_bytes(&file);
                let stated = reader.metadata().row_group(0).column(0).clone();
                assert_eq!(stated.num_values(), (rows * width) as i64);
                let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
                let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
                assert_eq!(found, rows);
                let mut at = 0;
                for batch in batches {
                    let lists = batch.column(0).as_list::<i32>();
                    assert!(lists.offsets().lengths().all(|len| len == width));
                    let expected = column.slice(at, batch.num_rows());
                    assert_eq!(lists.values(), expected.as_fixed_size_list().values());
                    at += batch.num_rows();
                }
                // Bytes follow from rows alone.
                assert!(file == written(&column, &[], codec));
            }
        }
    }

    #[test]
    fn a_page_is_that_of_parquets_own_writer_to_the_byte() {
        for half in [false, true] {
            let column = lists(half, 64, 1000);
            let properties = WriterProperties::builder()
                .set_dictionary_enabled(false)
                .set_statistics_enabled(EnabledStatistics::None)
                .build();
            let schema = Arc::new(Schema::new(vec![Field::new("vector", column.data_type().clone(), false)]));
            let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).unwrap();
            writer.write(&RecordBatch::try_new(schema, vec![column.clone()]).unwrap()).unwrap();
            let (expected, _) = chunk_bytes(&writer.into_inner().unwrap().into());
            let (found, _) = chunk_bytes(&written(&column, &[100], Compression::UNCOMPRESSED));
            assert_eq!(found.len(), expected.len());
            assert!(found == expected);
        }
    }

    #[test]
    fn other_columns_are_left_to_parquets_own_writer() {
        let element = |data_type, nullable| Arc::new(Field::new("element", data_type, nullable));
        for data_type in [
            DataType::Float32,
            DataType::FixedSizeList(element(DataType::Float32, true), 3),
            DataType::FixedSizeList(element(DataType::Int32, false), 3),
            DataType::List(element(DataType::Float32, false)),
        ] {
            let schema = Schema::new(vec![Field::new("x", data_type.clone(), false)]);
            let leaf = parquet::arrow::ArrowSchemaConverter::new().convert(&schema).unwrap().column(0);
            assert!(ListChunk::new(&data_type, &leaf, Compression::UNCOMPRESSED).is_none());
        }
        let column = lists(false, 2, 1);
        let schema = Schema::new(vec![Field::new("x", column.data_type().clone(), true)]);
        let leaf = parquet::arrow::ArrowSchemaConverter::new().convert(&schema).unwrap().column(0);
        assert!(ListChunk::new(column.data_type(), &leaf, Compression::UNCOMPRESSED).is_none());
    }
}
