//! How many bytes rows take: what a footer tells before, and what a batch says after.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use parquet::basic::{Encoding, Type};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

/// What rows of a row group take in Arrow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowBytes {
    /// On average, dictionaries aside.
    pub average: f64,
    /// Whether that is more than a lower bound: false where a dictionary is unpacked whose size unpacked the
    /// footer does not tell.
    pub known: bool,
}

/// How a leaf column is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// Not at all.
    Unread,
    /// As keys of its dictionary.
    Keys,
    /// Value by value.
    Values,
}

/// What a row of the group takes on average; `leaf` says how each leaf is read.
pub fn row_bytes(group: &RowGroupMetaData, leaf: impl Fn(usize) -> Leaf) -> RowBytes {
    let (mut bytes, mut known) = (0.0, true);
    for (number, chunk) in group.columns().iter().enumerate() {
        let values = chunk.num_values().max(0) as f64;
        let width = match (leaf(number), chunk.column_type()) {
            (Leaf::Unread, _) => continue,
            (Leaf::Keys, _) | (_, Type::INT32 | Type::FLOAT) => 4.0,
            (_, Type::BOOLEAN) => 0.25,
            (_, Type::INT64 | Type::DOUBLE) => 8.0,
            (_, Type::INT96) => 12.0,
            (_, Type::BYTE_ARRAY) => {
                known &= chunk.unencoded_byte_array_data_bytes().is_some() || !expands(chunk);
                bytes += text_bytes(chunk);
                4.0
            }
            (_, Type::FIXED_LEN_BYTE_ARRAY) => f64::from(chunk.column_descr().type_length().max(1)),
        };
        // A bit for validity, and offsets where the column nests.
        let nesting = if chunk.column_descr().max_rep_level() > 0 { 4.0 * group.num_rows().max(0) as f64 } else { 0.0 };
        bytes += values * (width + 0.125) + nesting;
    }
    RowBytes { average: bytes / (group.num_rows().max(1) as f64), known }
}

/// Whether text may be larger than its pages: values or prefixes stored once and used often.
fn expands(chunk: &ColumnChunkMetaData) -> bool {
    let shares = |e| matches!(e, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY | Encoding::DELTA_BYTE_ARRAY);
    chunk.encodings().any(shares)
}

fn text_bytes(chunk: &ColumnChunkMetaData) -> f64 {
    chunk.unencoded_byte_array_data_bytes().unwrap_or(chunk.uncompressed_size()).max(0) as f64
}

/// Bytes of the batch's rows, dictionaries aside.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(array_bytes).sum()
}

fn array_bytes(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::Dictionary(key, _) => array.len() * key.primitive_width().unwrap_or(8),
        // A slice of a list keeps all elements behind it.
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (from, to) = (list.offsets()[0] as usize, list.offsets()[list.len()] as usize);
            list.len() * size_of::<i32>() + array_bytes(&list.values().slice(from, to - from))
        }
        DataType::FixedSizeList(..) => array_bytes(array.as_fixed_size_list().values()),
        // Without a size of its own, a column counts with all its buffers.
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_buffer_memory_size()),
    }
}

/// Cuts a batch into slices of at most `bytes`, or of one row.
pub fn cut(batch: RecordBatch, bytes: usize, out: &mut impl Extend<RecordBatch>) {
    if batch.num_rows() <= 1 || batch_bytes(&batch) <= bytes {
        out.extend([batch]);
        return;
    }
    let half = batch.num_rows() / 2;
    cut(batch.slice(0, half), bytes, out);
    cut(batch.slice(half, batch.num_rows() - half), bytes, out);
}
