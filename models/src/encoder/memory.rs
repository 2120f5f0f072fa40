//! What a worker of an engine holds to compute the encoders of a tower.

use super::TILE as PRODUCT_ROWS;
use super::attention::BLOCK;
use super::packed::CHUNK;
use crate::engine::{EngineKind, tile_for};
use crate::native::TILE;
use crate::tower::ligr::BlockShape;
use crate::tower::streams::StreamShape;

/// The size of an encoder, by which the memory to compute it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSize {
    /// The most elements of a sequence.
    pub len: usize,
    /// Width of an element's vector.
    pub dim: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// The shape of blocks.
    pub block: BlockShape,
    /// Number of heads.
    pub heads: usize,
    /// The streams in the place of residual connections.
    pub streams: Option<StreamShape>,
    /// Rows of a table of intervals; 0 without intervals.
    pub intervals: usize,
}

/// Values of `dim` floats of each element that ONNX Runtime holds at a time: those of a block, of which some are held in
/// two orders. It finds their places itself; `models/tests/encoder_memory.rs` measures them. One of them is the inner layer
/// of a feed-forward network of the same width; what other blocks keep instead is added.
const RUNTIME_VALUES: u64 = 12;
/// Values of all streams of each element that ONNX Runtime holds at a time, beside those of a block.
const RUNTIME_STREAMS: u64 = 6;
/// Values of a float for each logit of the streams.
const RUNTIME_LOGITS: u64 = 4;
/// Values of a float for each pair of elements and each head. Three are needed at a time: scores, the same masked, and
/// weights. Twice as many were measured for long sequences: for its second run, ONNX Runtime takes what the first one
/// needed in one piece, which may not fit into what it has.
const RUNTIME_SCORES: u64 = 6;
/// Bytes of the masks of each pair of elements, likewise twice.
const RUNTIME_MASKS: u64 = 4;

/// Values of a float for each element, each head and each interval: products, the same for a second run, and weights
/// summed by interval, likewise twice; and one more, which was measured with long spans.
const RUNTIME_INTERVALS: u64 = 5;
/// Values of 4 bytes for each pair of elements, and as many for each head: the places of intervals in tables, and logits
/// gathered from products, likewise twice.
const RUNTIME_PLACES: u64 = 4;

/// The most bytes that one worker of an engine holds to compute the encoders of its tower, beside what it holds for any
/// tower. `encoders` are all that the tower has.
pub fn encoder_bytes(kind: EngineKind, encoders: &[EncoderSize]) -> u64 {
    let rows = tile_for(encoders) as u64;
    let of = |encoder: &EncoderSize| match kind {
        EngineKind::Native => encoder.native(),
        // The first rows are computed in 32-bit floats as well.
        EngineKind::NativeInt16 => 2 * encoder.native(),
        EngineKind::Ort => encoder.runtime(rows),
    };
    encoders.iter().map(of).sum()
}

impl EncoderSize {
    fn sizes(&self) -> [u64; 5] {
        [self.len, self.dim, self.blocks, self.heads, self.intervals].map(|size| size as u64)
    }

    /// Bytes of a native worker: the values of every block for each element of a chunk, of the last block only those of
    /// elements' keys and values, and for each row those of its newest element; a tile of a product, with its widest
    /// operand and result; the scores of a
    /// block of queries; and the codes of a tile of rows with their places. With intervals, also the times of a tile of
    /// rows and of a chunk, and for a block of queries the interval of each pair, products with all intervals, and the
    /// rows of these.
    fn native(&self) -> u64 {
        let [len, dim, blocks, heads, intervals] = self.sizes();
        let [rows, tile] = [TILE as u64, PRODUCT_ROWS as u64];
        let elements = len.max(CHUNK as u64);
        let inner = self.block.kept() as u64;
        let earlier = blocks.saturating_sub(1) * elements * ((11 + inner) * dim + heads);
        let last = elements * 4 * dim + rows * ((7 + inner) * dim + heads);
        let widest = (self.block.inner_width(self.dim) + self.block.inner_outputs(self.dim).max(2 * self.dim)) as u64;
        let streams = self.streams.map_or(0, |streams| {
            let (count, logits) = (streams.count as u64, streams.logits() as u64 + 1);
            // Streams before and after attention, what is read and added, and logits of both sublayers.
            let earlier = blocks.saturating_sub(1) * elements * ((2 * count + 1) * dim + 2 * logits);
            let last = elements * (count * dim + logits) + rows * ((2 * count + 1) * dim + logits);
            // Streams while the first ones are made, and a tile of them.
            earlier + last + (elements + tile) * count * dim
        });
        let floats = earlier + last + streams + tile * widest + 2 * rows * dim + BLOCK as u64 * len;
        let timed = match intervals {
            0 => 0,
            _ => {
                4 * (rows * len
                    + 2 * elements
                    + BLOCK as u64 * (len + intervals)
                    + intervals * (2 + dim / heads.max(1)))
            }
        };
        4 * (floats + rows * len) + 8 * elements + timed
    }

    /// Bytes of a worker of ONNX Runtime that runs `rows` rows at a time, all as long as can be. In the last block, only
    /// the newest element has scores.
    fn runtime(&self, rows: u64) -> u64 {
        let [len, dim, blocks, heads, intervals] = self.sizes();
        let elements = rows * len;
        let asking = if blocks > 1 { elements } else { rows };
        let pairs = asking * len;
        let timed = match intervals {
            0 => 0,
            _ => 4 * (RUNTIME_INTERVALS * asking * heads * intervals + RUNTIME_PLACES * elements * len * (1 + heads)),
        };
        let streams = self.streams.map_or(0, |streams| {
            RUNTIME_STREAMS * streams.count as u64 * dim + RUNTIME_LOGITS * streams.logits() as u64
        });
        let values = RUNTIME_VALUES + self.block.kept() as u64 - 1;
        4 * (values * elements * dim + streams * elements + RUNTIME_SCORES * pairs * heads)
            + RUNTIME_MASKS * pairs
            + timed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tower::ligr::BlockKind;
    use crate::tower::streams::Mixing;

    #[test]
    fn encoders_take_what_their_sizes_say() {
        const MIB: u64 = 1 << 20;
        let size = EncoderSize {
            len: 50,
            dim: 64,
            blocks: 2,
            block: BlockShape::default(),
            heads: 1,
            streams: None,
            intervals: 0,
        };
        let streams = StreamShape { count: 4, mixing: Mixing::Sinkhorn(20) };
        let wide = BlockShape { feed_forward_multiple: 4, ..BlockShape::default() };
        let mib = |kind, size| encoder_bytes(kind, &[size]) as f64 / MIB as f64;
        // 12 · 64 floats for each of 512 elements of the first block are 1.5 MiB; and a third of it for the last block.
        assert!((2.0..2.5).contains(&mib(EngineKind::Native, size)));
        // 12 values of 64 floats for each of 81 · 50 elements, and six scores for each pair of them.
        assert!((16.0..18.0).contains(&mib(EngineKind::Ort, size)));
        for kind in [EngineKind::Native, EngineKind::NativeInt16, EngineKind::Ort] {
            let bytes = |size| encoder_bytes(kind, &[size]);
            assert_eq!(encoder_bytes(kind, &[]), 0);
            assert!(encoder_bytes(kind, &[size, size]) == 2 * bytes(size));
            let EncoderSize { len, dim, blocks, .. } = size;
            for larger in [
                EncoderSize { len: 30 * len, ..size },
                EncoderSize { dim: 2 * dim, ..size },
                EncoderSize { blocks: 8 * blocks, ..size },
                EncoderSize { heads: 4, ..size },
                EncoderSize { block: wide, ..size },
                EncoderSize { block: BlockShape { kind: BlockKind::Ligr, ..wide }, ..size },
                EncoderSize { streams: Some(streams), ..size },
                EncoderSize { intervals: 257, ..size },
            ] {
                assert!(bytes(larger) >= bytes(size), "{kind}: {larger:?}");
            }
        }
    }
}
