//! The definition of a transformer over a sequence (SASRec; Kang and McAuley, ICDM 2018), a reduction of a sequence to
//! one vector.
//!
//! An element of the sequence enters as `√dim e + p`, with its row e of the embedding table and the row p of its
//! position. Positions are counted from the oldest element that is not padding, so that padding on either side changes
//! nothing, and that an element's vector is the same whatever follows it. Each block has two sublayers, attention to the
//! elements up to one's own and a point-wise feed-forward network, and the vector of the newest element is the result. A
//! sequence without elements has a vector of its own, which the first events of users train. Attention may read the time
//! between elements as well ([`super::intervals`]), and then has its own positions. Blocks may be of another kind
//! ([`super::ligr`]), and their feed-forward networks wider.
//!
//! Departures from the paper: positions are counted from the oldest element there is, not from the oldest of `max_len`
//! places that shorter sequences do not fill, so that training at every position of a sequence teaches what the tower
//! makes of a history that ends there; an empty sequence has a result; linear maps have biases, as in the authors' code.

use super::Parameter;
use super::intervals::{self, IntervalTables};
use super::ligr::{BlockShape, Gates};
use super::streams::{BlockStreams, StreamShape};
use serde::{Deserialize, Serialize};

/// Added to the variance by every layer norm of an encoder, as in the authors' code.
pub(crate) const NORM_EPS: f32 = 1e-8;

/// Where the layer norms (LN) of a block stand. SA is attention, with queries from its first input and keys and values
/// from its second; FF is the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormOrder {
    /// The authors' code (`kang205/SASRec`): `q = LN(x)`, `y = LN(q + SA(q, x))`, result `y + FF(y)`; LN at the end.
    #[default]
    Original,
    /// The paper's text (section III.C): `y = x + SA(LN(x), LN(x))`, result `y + FF(LN(y))`; none at the end.
    Paper,
    /// As the paper's text, with a matrix after attention and LN at the end (`pmixer/SASRec.pytorch`, `norm_first`).
    Pre,
    /// `y = LN(x + SA(x, x))`, result `LN(y + FF(y))`, with a matrix after attention and LN at the end
    /// (`pmixer/SASRec.pytorch`).
    Post,
}

impl NormOrder {
    /// Whether a matrix follows attention. With one head it would change nothing that the values' matrix cannot.
    pub(crate) fn has_output(self) -> bool {
        matches!(self, NormOrder::Pre | NormOrder::Post)
    }

    /// Whether a layer norm follows the last block.
    pub(crate) fn has_last_norm(self) -> bool {
        self != NormOrder::Paper
    }

    /// Whether residual connections can be hyper-connections ([`super::streams`] says why).
    pub(crate) fn has_streams(self) -> bool {
        matches!(self, NormOrder::Paper | NormOrder::Pre)
    }

    /// Its name in settings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            NormOrder::Original => "original",
            NormOrder::Paper => "paper",
            NormOrder::Pre => "pre",
            NormOrder::Post => "post",
        }
    }
}

/// The gain and the bias of a layer norm.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm<W = super::Matrix> {
    /// `[dim]`.
    pub gain: W,
    /// `[dim]`.
    pub bias: W,
}

/// `y = x Wᵀ + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine<W = super::Matrix> {
    /// `[out, in]`.
    pub weight: W,
    /// `[out]`.
    pub bias: W,
}

/// A block: attention, and a feed-forward network.
#[derive(Debug, Clone, PartialEq)]
pub struct Block<W = super::Matrix> {
    /// The layer norm of the attention's sublayer.
    pub attention_norm: Norm<W>,
    /// Queries, `[dim, dim]`.
    pub query: Affine<W>,
    /// Keys and then values, `[2 dim, dim]`.
    pub key_value: Affine<W>,
    /// What follows attention, `[dim, dim]`, if the order of norms has it.
    pub output: Option<Affine<W>>,
    /// The layer norm of the feed-forward network's sublayer.
    pub feed_forward_norm: Norm<W>,
    /// What the feed-forward network's input is multiplied with, `[inner width, dim]`. In LiGR blocks it has twice as many
    /// rows: those of the activated factor, and then those of the other.
    pub inner: Affine<W>,
    /// The last matrix of the feed-forward network, `[dim, inner width]`.
    pub outer: Affine<W>,
    /// The gates of both sublayers, if the kind of block has some.
    pub gates: Option<Gates<W>>,
    /// The streams of both sublayers, if the encoder has some.
    pub streams: Option<BlockStreams<W>>,
}

/// A transformer over a sequence of at most as many elements as it has positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoder<W = super::Matrix> {
    /// Where layer norms stand.
    pub order: NormOrder,
    /// The shape of blocks.
    pub block: BlockShape,
    /// Heads of attention. They divide the width.
    pub heads: usize,
    /// The shape of the streams that stand in the place of residual connections, if some do.
    pub streams: Option<StreamShape>,
    /// `[max_len, dim]`, the oldest element's first. They are added to the input, or, with intervals, to keys.
    pub positions: W,
    /// What attention adds for the time between elements, if it reads that.
    pub intervals: Option<IntervalTables<W>>,
    /// `[dim]`, the result of a sequence without elements.
    pub empty: W,
    /// Blocks in order.
    pub blocks: Vec<Block<W>>,
    /// The layer norm after the last block, if the order of norms has it.
    pub last: Option<Norm<W>>,
}

/// What an encoder's parameters do not say: its shape apart from widths and lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderShape {
    /// Number of blocks.
    pub blocks: usize,
    /// Number of heads.
    pub heads: usize,
    /// Where layer norms stand.
    pub norm: NormOrder,
    /// The shape of blocks.
    #[serde(default, skip_serializing_if = "BlockShape::is_default")]
    pub block: BlockShape,
    /// The streams in the place of residual connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<StreamShape>,
    /// The longest interval between elements, if it reads intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<u32>,
}

/// Names of the parameters that each sublayer's part has.
pub(super) struct Names {
    pub weight: &'static str,
    pub bias: &'static str,
}

const QUERY: Names = Names { weight: "query_weight", bias: "query_bias" };
const KEY_VALUE: Names = Names { weight: "key_value_weight", bias: "key_value_bias" };
const OUTPUT: Names = Names { weight: "output_weight", bias: "output_bias" };
const INNER: Names = Names { weight: "inner_weight", bias: "inner_bias" };
const OUTER: Names = Names { weight: "outer_weight", bias: "outer_bias" };
const ATTENTION_NORM: Names = Names { weight: "attention_gain", bias: "attention_bias" };
const FEED_FORWARD_NORM: Names = Names { weight: "feed_forward_gain", bias: "feed_forward_bias" };
const LAST: Names = Names { weight: "last_gain", bias: "last_bias" };

/// Maps a weight, given the parameter it is.
pub(super) type MapWeight<'m, 'a, W, V, E> = &'m mut dyn FnMut(Parameter, &'a W) -> Result<V, E>;

impl<W> Norm<W> {
    fn try_map<'a, V, E>(
        &'a self,
        block: Option<usize>,
        names: &Names,
        map: MapWeight<'_, 'a, W, V, E>,
    ) -> Result<Norm<V>, E> {
        let gain = map(Parameter { name: names.weight, rank: 1, block }, &self.gain)?;
        Ok(Norm { gain, bias: map(Parameter { name: names.bias, rank: 1, block }, &self.bias)? })
    }
}

impl<W> Affine<W> {
    pub(super) fn try_map<'a, V, E>(
        &'a self,
        block: usize,
        names: &Names,
        map: MapWeight<'_, 'a, W, V, E>,
    ) -> Result<Affine<V>, E> {
        let block = Some(block);
        let weight = map(Parameter { name: names.weight, rank: 2, block }, &self.weight)?;
        Ok(Affine { weight, bias: map(Parameter { name: names.bias, rank: 1, block }, &self.bias)? })
    }
}

impl<W> Block<W> {
    fn try_map<'a, V, E>(&'a self, b: usize, map: MapWeight<'_, 'a, W, V, E>) -> Result<Block<V>, E> {
        Ok(Block {
            attention_norm: self.attention_norm.try_map(Some(b), &ATTENTION_NORM, map)?,
            query: self.query.try_map(b, &QUERY, map)?,
            key_value: self.key_value.try_map(b, &KEY_VALUE, map)?,
            output: self.output.as_ref().map(|output| output.try_map(b, &OUTPUT, map)).transpose()?,
            feed_forward_norm: self.feed_forward_norm.try_map(Some(b), &FEED_FORWARD_NORM, map)?,
            inner: self.inner.try_map(b, &INNER, map)?,
            outer: self.outer.try_map(b, &OUTER, map)?,
            gates: self.gates.as_ref().map(|gates| gates.try_map(b, map)).transpose()?,
            streams: self.streams.as_ref().map(|streams| streams.try_map(b, map)).transpose()?,
        })
    }
}

impl<W> Encoder<W> {
    /// Its shape.
    pub fn shape(&self) -> EncoderShape {
        let intervals = self.intervals.as_ref().map(|tables| tables.span as u32);
        let (blocks, heads, norm, block) = (self.blocks.len(), self.heads, self.order, self.block);
        EncoderShape { blocks, heads, norm, block, streams: self.streams, intervals }
    }

    /// The positions that are added to the input, unless attention has them.
    pub(crate) fn input_positions(&self) -> Option<&W> {
        self.intervals.is_none().then_some(&self.positions)
    }

    /// The same encoder with its weights mapped: positions, the result of an empty sequence, tables of intervals, blocks
    /// in order, and the last layer norm.
    ///
    /// # Errors
    /// The first error of `map`.
    pub(crate) fn try_map<'a, V, E>(&'a self, map: MapWeight<'_, 'a, W, V, E>) -> Result<Encoder<V>, E> {
        let positions = map(Parameter { name: "positions", rank: 2, block: None }, &self.positions)?;
        let empty = map(Parameter { name: "empty", rank: 1, block: None }, &self.empty)?;
        let intervals = self.intervals.as_ref().map(|tables| tables.try_map(map)).transpose()?;
        let blocks = self.blocks.iter().enumerate().map(|(b, block)| block.try_map(b, map));
        let blocks = blocks.collect::<Result<_, E>>()?;
        let last = self.last.as_ref().map(|last| last.try_map(None, &LAST, map)).transpose()?;
        let (order, block, heads, streams) = (self.order, self.block, self.heads, self.streams);
        Ok(Encoder { order, block, heads, streams, positions, intervals, empty, blocks, last })
    }

    /// The same encoder with its weights mapped.
    pub(crate) fn map<'a, V>(&'a self, mut map: impl FnMut(&'a W) -> V) -> Encoder<V> {
        super::infallible(self.try_map(&mut |_, weight| Ok(map(weight))))
    }
}

impl Encoder<()> {
    /// This encoder with the weight that `weight` gives for each parameter, in order.
    pub(crate) fn map_parameters<V>(&self, mut weight: impl FnMut(Parameter) -> V) -> Encoder<V> {
        super::infallible(self.try_map(&mut |parameter, ()| Ok(weight(parameter))))
    }
}

impl EncoderShape {
    /// An encoder of this shape without weights.
    pub(crate) fn encoder(self) -> Encoder<()> {
        let affine = || Affine { weight: (), bias: () };
        let norm = || Norm { gain: (), bias: () };
        let block = || Block {
            attention_norm: norm(),
            query: affine(),
            key_value: affine(),
            output: self.norm.has_output().then(affine),
            feed_forward_norm: norm(),
            inner: affine(),
            outer: affine(),
            gates: self.block.gates(),
            streams: self.streams.map(|_| StreamShape::of_block()),
        };
        Encoder {
            order: self.norm,
            block: self.block,
            heads: self.heads,
            streams: self.streams,
            positions: (),
            intervals: self.intervals.map(|span| IntervalTables {
                span: span as usize,
                value_positions: (),
                keys: (),
                values: (),
            }),
            empty: (),
            blocks: (0..self.blocks).map(|_| block()).collect(),
            last: self.norm.has_last_norm().then(norm),
        }
    }

    /// The number of rows and columns that a parameter of an encoder of this shape has.
    pub(crate) fn extents(self, parameter: &Parameter, dim: usize, max_len: usize) -> (usize, usize) {
        let of_streams = self.streams.and_then(|streams| streams.extents(parameter, dim));
        of_streams.unwrap_or_else(|| parameter.encoder_extents(self, dim, max_len))
    }
}

impl Parameter {
    /// The number of rows and columns that this parameter of an encoder of a shape has, unless it belongs to streams.
    fn encoder_extents(&self, shape: EncoderShape, dim: usize, max_len: usize) -> (usize, usize) {
        if let Some(rows) = intervals::rows(self.name, max_len, shape.intervals) {
            return (rows, dim);
        }
        match self.name {
            "positions" => (max_len, dim),
            name if name == KEY_VALUE.weight => (2 * dim, dim),
            name if name == KEY_VALUE.bias => (1, 2 * dim),
            name if name == INNER.weight => (shape.block.inner_outputs(dim), dim),
            name if name == INNER.bias => (1, shape.block.inner_outputs(dim)),
            name if name == OUTER.weight => (dim, shape.block.inner_width(dim)),
            _ if self.rank == 2 => (dim, dim),
            _ => (1, dim),
        }
    }

    /// Whether this parameter of an encoder holds vectors of elements or of whole sequences, as a table does.
    pub(crate) fn is_embedding(&self) -> bool {
        self.block.is_none() && (self.rank == 2 || self.name == "empty")
    }

    /// Whether this parameter of an encoder is the gain of a layer norm.
    pub(crate) fn is_gain(&self) -> bool {
        [ATTENTION_NORM.weight, FEED_FORWARD_NORM.weight, LAST.weight].contains(&self.name)
    }
}
