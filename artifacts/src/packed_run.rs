//! Runs of bit-packed values, as pages of dictionary indices hold them: Parquet's RLE/bit-packing hybrid (format,
//! section Encodings).

use crate::chunk::varint;
use arrow_buffer::Buffer;

/// Values that are packed at a time. A run consists of whole groups.
const GROUP: usize = 8;

/// Packs values into a run. Memory: the packed bytes.
pub(crate) struct PackedRun {
    /// Bits of a value.
    width: usize,
    /// The whole groups so far.
    packed: Vec<u8>,
    /// The values after the last whole group.
    waiting: Vec<u32>,
    values: usize,
}

impl PackedRun {
    /// A run without values, for values below `limit`, which is at most 2^16.
    pub fn new(limit: u32) -> Self {
        let width = (u32::BITS - limit.saturating_sub(1).leading_zeros()).max(1) as usize;
        Self { width, packed: Vec::new(), waiting: Vec::with_capacity(GROUP), values: 0 }
    }

    /// Number of values in the run.
    pub fn values(&self) -> usize {
        self.values
    }

    /// Appends values.
    pub fn push<T: Copy + Into<u32>>(&mut self, values: &[T]) {
        self.values += values.len();
        let waiting = self.waiting.len();
        let (first, rest) = values.split_at(if waiting == 0 { 0 } else { (GROUP - waiting).min(values.len()) });
        self.waiting.extend(first.iter().map(|value| (*value).into()));
        if self.waiting.len() == GROUP {
            self.pack_waiting();
        }
        let (groups, rest) = rest.as_chunks();
        self.packed.reserve(groups.len() * self.width + size_of::<u128>());
        groups.iter().for_each(|group| pack(&group.map(T::into), self.width, &mut self.packed));
        self.waiting.extend(rest.iter().map(|value| (*value).into()));
    }

    /// Packs the waiting values, filled up with zeros to a whole group.
    fn pack_waiting(&mut self) {
        let mut group = [0; GROUP];
        group[..self.waiting.len()].copy_from_slice(&self.waiting);
        pack(&group, self.width, &mut self.packed);
        self.waiting.clear();
    }

    /// Ends the run and returns the content of a page of indices: the number of bits of a value, and the run.
    pub fn page(&mut self) -> [Buffer; 2] {
        if !self.waiting.is_empty() {
            self.pack_waiting();
        }
        let mut start = vec![self.width as u8];
        varint((self.values.div_ceil(GROUP) << 1 | 1) as u64, &mut start);
        self.values = 0;
        [start, std::mem::take(&mut self.packed)].map(Buffer::from_vec)
    }
}

/// Appends a group of values of `width` bits each, at most 16. The first value takes the lowest bits.
#[inline]
fn pack(group: &[u32; GROUP], width: usize, out: &mut Vec<u8>) {
    let half = |values: &[u32]| values.iter().rev().fold(0u64, |bits, value| bits << width | u64::from(*value));
    let (low, high) = group.split_at(GROUP / 2);
    let bits = u128::from(half(low)) | u128::from(half(high)) << (GROUP / 2 * width);
    // To copy a constant number of bytes and then truncate is faster than to copy a variable number.
    let end = out.len() + width;
    out.extend_from_slice(&bits.to_le_bytes());
    out.truncate(end);
}
