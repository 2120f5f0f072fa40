//! Runs of bit-packed values, as Parquet's hybrid of runs and packed bits has them (format, section Encodings), and as
//! pages of dictionary indices hold them.

use crate::chunk::varint;
use arrow_buffer::Buffer;

/// Values that are packed at a time: a run has whole groups of them.
const GROUP: usize = 8;

/// Values on their way to a run. Memory: its packed bytes.
pub(crate) struct PackedRun {
    /// Bits of a value.
    width: usize,
    /// Whole groups.
    packed: Vec<u8>,
    /// Fewer values than a group.
    waiting: Vec<u32>,
    values: usize,
}

impl PackedRun {
    /// A run without values, which are all below `limit`, at most 2^16.
    pub fn new(limit: u32) -> Self {
        let width = (u32::BITS - limit.saturating_sub(1).leading_zeros()).max(1) as usize;
        Self { width, packed: Vec::new(), waiting: Vec::with_capacity(GROUP), values: 0 }
    }

    /// Values so far.
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

    /// Packs the values that wait, with zeros up to a group.
    fn pack_waiting(&mut self) {
        let mut group = [0; GROUP];
        group[..self.waiting.len()].copy_from_slice(&self.waiting);
        pack(&group, self.width, &mut self.packed);
        self.waiting.clear();
    }

    /// The content of a page of indices: the bits of a value, and the run. What follows is another run.
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

/// Appends a group of values of `width` bits, at most 16, the first in the lowest bits.
#[inline]
fn pack(group: &[u32; GROUP], width: usize, out: &mut Vec<u8>) {
    let half = |values: &[u32]| values.iter().rev().fold(0u64, |bits, value| bits << width | u64::from(*value));
    let (low, high) = group.split_at(GROUP / 2);
    let bits = u128::from(half(low)) | u128::from(half(high)) << (GROUP / 2 * width);
    // A copy of known length, cut afterwards, is faster than one of unknown length.
    let end = out.len() + width;
    out.extend_from_slice(&bits.to_le_bytes());
    out.truncate(end);
}
