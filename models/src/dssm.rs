//! DSSM (Huang et al., CIKM 2013) as a two-tower retriever: per side, embeddings, their
//! concatenation, an MLP, an L2 norm; score = cosine / τ.
//!
//! Departures from the paper: learned embeddings instead of letter trigrams, PReLU instead of tanh,
//! and the losses of [`crate::losses`] instead of a softmax over four random documents.

mod training;

pub(crate) use training::Dssm;

use crate::encoder::EncoderSize;
use crate::error::ModelError;
use crate::examples::Known;
use crate::hyper_connections::HyperConnections;
use crate::positions::Positions;
use crate::tower::MAX_BLOCKS;
use crate::tower::encoder::{EncoderShape, NormOrder};
use crate::tower::ligr::{BlockKind, BlockShape, MAX_MULTIPLE};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::range::{self, Range, Ranges};
use twotower_artifacts::{FieldSchema, FieldShape, TowerSchema};

/// Activation between hidden layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Learned slope per channel below zero.
    #[default]
    Prelu,
    /// max(x, 0).
    Relu,
}

/// How the elements of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SequencePooling {
    /// Arithmetic mean.
    #[default]
    Mean,
    /// Softmax of a learned logit per position, counted from the newest element.
    Position,
    /// A transformer ([`crate::tower::encoder`]), of which the newest element's output is taken.
    Attention,
}

/// Settings of the transformer that `pooling = "attention"` reduces sequences with (SASRec; Kang and McAuley, ICDM
/// 2018). Its width is that of the sequence's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionConfig {
    /// Number of blocks.
    pub blocks: usize,
    /// Heads of each block. They divide the width.
    pub heads: usize,
    /// Where layer norms stand.
    pub norm: NormOrder,
    /// Which kind of blocks there is.
    #[serde(skip_serializing_if = "BlockKind::is_transformer")]
    pub block: BlockKind,
    /// The inner width of feed-forward networks, in widths of a vector.
    #[serde(skip_serializing_if = "is_one")]
    pub feed_forward_multiple: usize,
    /// Probability, in training, of dropping an element of the input, an attention weight, or an element of either
    /// layer of a feed-forward network.
    pub dropout: f32,
    /// Streams in the place of residual connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hyper_connections: Option<HyperConnections>,
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self {
            blocks: 2,
            heads: 1,
            norm: NormOrder::Original,
            block: BlockKind::Transformer,
            feed_forward_multiple: 1,
            dropout: 0.2,
            hyper_connections: None,
        }
    }
}

/// Whether a multiple is that of settings without one.
pub(crate) fn is_one(multiple: &usize) -> bool {
    *multiple == 1
}

impl AttentionConfig {
    /// The range of `feed_forward_multiple`.
    pub(crate) const MULTIPLES: Range = Range::Whole(1, MAX_MULTIPLE as i64);

    /// The shape of blocks.
    fn block_shape(&self) -> BlockShape {
        BlockShape { kind: self.block, feed_forward_multiple: self.feed_forward_multiple }
    }

    /// The shape of the encoder, given the span of intervals, if it reads some.
    pub(crate) fn shape(&self, intervals: Option<u32>) -> EncoderShape {
        EncoderShape {
            blocks: self.blocks,
            heads: self.heads,
            norm: self.norm,
            block: self.block_shape(),
            streams: self.hyper_connections.map(|settings| settings.shape()),
            intervals,
        }
    }

    /// Checks that layer norms stand where streams and the kind of blocks allow it. `section` is the one that has these
    /// settings.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub(crate) fn check(&self, section: &str) -> Result<(), ModelError> {
        if self.hyper_connections.is_some() {
            HyperConnections::check(section, self.norm)?;
        }
        if !self.block.allows(self.norm) {
            return Err(ModelError::Setting {
                setting: format!("{section}.norm"),
                expected: "`pre` beside `block = \"ligr\"`, whose layer norms stand before each part and at the end; or no `block`".into(),
                found: format!("`{}`", self.norm.name()),
            });
        }
        Ok(())
    }
}

/// Settings of the DSSM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DssmConfig {
    /// Width of every embedding table without an entry in `embedding_dims`.
    pub embedding_dim: usize,
    /// Width by table or by feature. Features of one vocabulary share one table and one width.
    pub embedding_dims: BTreeMap<String, usize>,
    /// Widths of the layers; the last is the width of a vector.
    pub hidden: Vec<usize>,
    /// Activation between layers.
    pub activation: Activation,
    /// Normalise what each layer but the last gives to its activation (Ba et al., 2016).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub layer_norm: bool,
    /// How sequences are pooled.
    pub pooling: SequencePooling,
    /// The transformer of `pooling = "attention"`. Without settings it has the default ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionConfig>,
    /// Cosines are divided by this. If it is learned, this is its first value.
    pub temperature: f32,
    /// Whether log τ is trained.
    pub learn_temperature: bool,
    /// Probability of dropping a hidden activation in training.
    pub dropout: f32,
}

impl Default for DssmConfig {
    fn default() -> Self {
        Self {
            embedding_dim: 16,
            embedding_dims: BTreeMap::new(),
            hidden: vec![256, 128, 64],
            activation: Activation::Prelu,
            layer_norm: false,
            pooling: SequencePooling::Mean,
            attention: None,
            temperature: 0.05,
            learn_temperature: false,
            dropout: 0.0,
        }
    }
}

impl SequencePooling {
    fn name(self) -> &'static str {
        match self {
            SequencePooling::Mean => "mean",
            SequencePooling::Position => "position",
            SequencePooling::Attention => "attention",
        }
    }
}

impl DssmConfig {
    /// The ranges of all numbers.
    pub const RANGES: Ranges = &[
        ("embedding_dim", Range::Whole(1, 4096)),
        ("embedding_dims.*", Range::Whole(1, 4096)),
        ("hidden", Range::Whole(1, 1 << 16)),
        ("attention.blocks", Range::Whole(1, MAX_BLOCKS as i64)),
        ("attention.heads", Range::Whole(1, 1024)),
        ("attention.feed_forward_multiple", AttentionConfig::MULTIPLES),
        ("attention.dropout", Range::Below(0.0, 1.0)),
        ("attention.hyper_connections.streams", HyperConnections::STREAMS),
        ("attention.hyper_connections.sinkhorn_rounds", HyperConnections::ROUNDS),
        ("attention.hyper_connections.gate", HyperConnections::GATE),
        ("temperature", Range::Real(0.001, 100.0)),
        ("dropout", Range::Below(0.0, 1.0)),
    ];
    /// The most layers.
    const LAYERS: usize = 32;

    /// Checks every number against its range, and the number of layers.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub fn check(&self) -> Result<(), ModelError> {
        range::check(self, Self::RANGES).map_err(ModelError::range)?;
        if self.attention.is_some() && self.pooling != SequencePooling::Attention {
            return Err(ModelError::Setting {
                setting: "attention".into(),
                expected: "`pooling = \"attention\"` beside it, or no such table".into(),
                found: format!("`pooling = \"{}\"`", self.pooling.name()),
            });
        }
        if let Some(attention) = &self.attention {
            attention.check("attention")?;
        }
        let between = [
            ("dropout", self.dropout.to_string(), self.dropout != 0.0),
            ("layer_norm", self.layer_norm.to_string(), self.layer_norm),
        ];
        if let ([_], Some((setting, found, _))) = (&self.hidden[..], between.into_iter().find(|(.., set)| *set)) {
            return Err(ModelError::Setting {
                setting: setting.into(),
                expected: "two or more widths in `hidden`, since it acts between layers; or leave it out".into(),
                found: format!("{found}, and `hidden` has one width"),
            });
        }
        match self.hidden.len() {
            1..=Self::LAYERS => Ok(()),
            found => Err(ModelError::Setting {
                setting: "hidden".into(),
                expected: format!("the widths of 1 to {} layers", Self::LAYERS),
                found: format!("{found} widths"),
            }),
        }
    }

    /// Width of a vector before it is normalised. Without layers, towers have one input of the width of an embedding.
    pub(crate) fn dim(&self) -> usize {
        self.hidden.last().copied().unwrap_or(self.embedding_dim)
    }

    /// The sizes of the encoders of one side's sequences, given the fields of that side and of the other.
    pub fn encoder_sizes(&self, fields: &[FieldSchema], others: &[FieldSchema]) -> Vec<EncoderSize> {
        if self.pooling != SequencePooling::Attention {
            return Vec::new();
        }
        let EncoderShape { blocks, heads, block, streams, .. } = self.attention.clone().unwrap_or_default().shape(None);
        let uses = |field: &FieldSchema, table: &str| field.shape.table().is_some_and(|(name, _)| name == table);
        let width = |table: &str| {
            let users = fields.iter().chain(others).filter(|field| uses(field, table));
            let mut names = std::iter::once(table).chain(users.map(|field| field.name.as_str()));
            names.find_map(|name| self.embedding_dims.get(name)).copied().unwrap_or(self.embedding_dim)
        };
        let sequences = fields.iter().filter_map(|field| match &field.shape {
            FieldShape::Sequence { table, max_len, intervals, .. } => {
                Some((table, *max_len as usize, intervals.map_or(0, |intervals| intervals.span as usize + 1)))
            }
            FieldShape::Code { .. } | FieldShape::Bag { .. } | FieldShape::Dense { .. } => None,
        });
        let size = |(table, len, intervals): (&String, usize, usize)| EncoderSize {
            len,
            dim: width(table),
            blocks,
            block,
            heads,
            streams,
            intervals,
        };
        sequences.map(size).collect()
    }

    /// How events are cut into windows of several targets. None if each training event is an example of its own: without
    /// an encoder, or if what is known of an event is not what came before it.
    pub(crate) fn positions(&self, users: &TowerSchema, known: Known) -> Option<Positions> {
        let by_position = self.pooling == SequencePooling::Attention && known == Known::Earlier;
        by_position.then(|| Positions::of(users)).flatten()
    }
}
