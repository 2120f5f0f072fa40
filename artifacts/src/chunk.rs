//! The pages of a Parquet column chunk, put together here rather than by the writer of the `parquet` crate.
//!
//! Three kinds of columns use them, each in a file that states what it gains: [`crate::code_chunk`],
//! [`crate::list_chunk`] and [`crate::text_chunk`].

use arrow_buffer::Buffer;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageEncodingStats};
use parquet::file::page_index::offset_index::{OffsetIndexMetaData, PageLocation};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnDescPtr;
use std::io::Read;

/// The most rows of a page: a multiple of 8, and the limit that the `parquet` crate has.
pub(crate) const PAGE_ROWS: usize = 20_000;

/// The pages of a column chunk, one after the other.
pub(crate) struct Pages {
    leaf: ColumnDescPtr,
    codec: Compression,
    encoding: Encoding,
    pieces: Vec<Buffer>,
    locations: Vec<PageLocation>,
    /// Where the first page of data begins, if a dictionary comes before it.
    dictionary: Option<usize>,
    /// Bytes of all pages so far.
    bytes: usize,
    /// Bytes that they would have without compression.
    uncompressed: usize,
    rows: usize,
    values: usize,
}

impl Pages {
    /// A chunk without pages, for values of this encoding.
    pub fn new(leaf: ColumnDescPtr, codec: Compression, encoding: Encoding) -> Self {
        Self {
            leaf,
            codec,
            encoding,
            pieces: Vec::new(),
            locations: Vec::new(),
            dictionary: None,
            bytes: 0,
            uncompressed: 0,
            rows: 0,
            values: 0,
        }
    }

    /// Appends the dictionary, as plain values. It has to be the first page.
    pub fn dictionary(&mut self, values: usize, content: Buffer) -> Result<(), ParquetError> {
        let header = |plain, packed| header(PageType::DICTIONARY_PAGE, plain, packed, values, Encoding::PLAIN);
        self.append(vec![content], header)?;
        self.dictionary = Some(self.bytes);
        Ok(())
    }

    /// Appends a data page (version 1). `content` is its levels, if the column has any, and its values.
    pub fn data(&mut self, rows: usize, values: usize, content: Vec<Buffer>) -> Result<(), ParquetError> {
        let (offset, encoding) = (self.bytes as i64, self.encoding);
        self.append(content, |plain, packed| header(PageType::DATA_PAGE, plain, packed, values, encoding))?;
        let compressed_page_size = size(self.bytes - offset as usize)?;
        self.locations.push(PageLocation { offset, compressed_page_size, first_row_index: self.rows as i64 });
        self.rows += rows;
        self.values += values;
        Ok(())
    }

    fn append(
        &mut self,
        content: Vec<Buffer>,
        header: impl Fn(usize, usize) -> Result<Vec<u8>, ParquetError>,
    ) -> Result<(), ParquetError> {
        let plain = bytes_of(&content);
        let content = compress(self.codec, content)?;
        let packed = bytes_of(&content);
        let header = header(plain, packed)?;
        self.uncompressed += header.len() + plain;
        self.bytes += header.len() + packed;
        self.pieces.push(Buffer::from_vec(header));
        self.pieces.extend(content);
        Ok(())
    }

    /// Finishes the chunk. It has no statistics.
    pub fn close(self) -> Result<EncodedChunk, ParquetError> {
        let stats = |page_type, encoding, count| PageEncodingStats { page_type, encoding, count };
        let mut pages = vec![stats(PageType::DATA_PAGE, self.encoding, size(self.locations.len())?)];
        // The first is the encoding of levels. The list is a set, so repeats do not matter.
        let mut encodings = vec![Encoding::RLE, self.encoding];
        if self.dictionary.is_some() {
            pages.insert(0, stats(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1));
            encodings.push(Encoding::PLAIN);
        }
        let metadata = ColumnChunkMetaData::builder(self.leaf)
            .set_compression(self.codec)
            .set_encodings(encodings)
            .set_page_encoding_stats(pages)
            .set_total_compressed_size(self.bytes as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_num_values(self.values as i64)
            .set_dictionary_page_offset(self.dictionary.map(|_| 0))
            .set_data_page_offset(self.dictionary.unwrap_or(0) as i64)
            .build()?;
        let offsets = OffsetIndexMetaData { page_locations: self.locations, unencoded_byte_array_data_bytes: None };
        let close = ColumnCloseResult {
            bytes_written: self.bytes as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(offsets),
        };
        Ok(EncodedChunk { pieces: self.pieces, close: close.into() })
    }
}

/// A finished column chunk, ready to be written.
pub(crate) struct EncodedChunk {
    pieces: Vec<Buffer>,
    close: Box<ColumnCloseResult>,
}

impl EncodedChunk {
    /// What the footer says of the chunk.
    pub fn close(&self) -> ColumnCloseResult {
        (*self.close).clone()
    }
}

impl Length for EncodedChunk {
    fn len(&self) -> u64 {
        self.close.bytes_written
    }
}

impl ChunkReader for EncodedChunk {
    type T = Pieces;

    fn get_read(&self, start: u64) -> Result<Pieces, ParquetError> {
        let mut values = Cutter::new(self.pieces.clone());
        values.take(start as usize, &mut Vec::new());
        Ok(Pieces(values))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Reads the bytes of several buffers, one after the other.
pub(crate) struct Pieces(Cutter);

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let Some(piece) = self.0.piece(out.len()) else { return Ok(0) };
        out[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

/// Cuts a list of buffers into pieces, from the first byte to the last, without copying them.
pub(crate) struct Cutter {
    parts: std::vec::IntoIter<Buffer>,
    rest: Buffer,
}

impl Cutter {
    /// Starts at the first byte of the first buffer.
    pub fn new(parts: Vec<Buffer>) -> Self {
        Self { parts: parts.into_iter(), rest: Buffer::default() }
    }

    /// The next piece, of at most `most` bytes. None at the end.
    fn piece(&mut self, most: usize) -> Option<Buffer> {
        while self.rest.is_empty() {
            self.rest = self.parts.next()?;
        }
        let len = most.min(self.rest.len());
        let piece = self.rest.slice_with_length(0, len);
        self.rest = self.rest.slice(len);
        Some(piece)
    }

    /// Appends the next `len` bytes to `out`, or all that are left.
    pub fn take(&mut self, mut len: usize, out: &mut Vec<Buffer>) {
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

/// Appends a number as an LEB128, as Parquet and Thrift write it: seven bits a byte, the lowest first.
pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number in zigzag order, in which numbers near zero are short.
pub(crate) fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint(((value << 1) ^ (value >> 63)) as u64, out);
}

/// A page's header: Parquet's `PageHeader` with a `DataPageHeader` or a `DictionaryPageHeader`, in Thrift's compact
/// protocol.
fn header(
    kind: PageType,
    uncompressed: usize,
    compressed: usize,
    values: usize,
    encoding: Encoding,
) -> Result<Vec<u8>, ParquetError> {
    // Each field begins with a byte. Its lower half is the field's type, its upper half the difference between the
    // field's number and that of the field before.
    const INT: u8 = 0x15;
    const STRUCT: u8 = 0x0c;
    const END: u8 = 0;
    let mut out = Vec::with_capacity(32);
    let number = |value: i32, out: &mut Vec<u8>| {
        out.push(INT);
        zigzag(value.into(), out);
    };
    number(kind as i32, &mut out);
    number(size(uncompressed)?, &mut out);
    number(size(compressed)?, &mut out);
    // After field 3 comes field 5 for data, or field 7 for a dictionary.
    let is_data = kind == PageType::DATA_PAGE;
    out.push(if is_data { 2 << 4 | STRUCT } else { 4 << 4 | STRUCT });
    number(size(values)?, &mut out);
    number(encoding as i32, &mut out);
    if is_data {
        number(Encoding::RLE as i32, &mut out);
        number(Encoding::RLE as i32, &mut out);
    }
    out.extend([END, END]);
    Ok(out)
}

/// Compresses a page's content.
fn compress(codec: Compression, page: Vec<Buffer>) -> Result<Vec<Buffer>, ParquetError> {
    let whole = || page.iter().map(Buffer::as_slice).collect::<Vec<_>>().concat();
    let packed = match codec {
        Compression::LZ4_RAW => lz4_flex::block::compress(&whole()),
        Compression::ZSTD(level) => zstd::bulk::compress(&whole(), level.compression_level())?,
        _ => return Ok(page),
    };
    Ok(vec![Buffer::from_vec(packed)])
}
