//! SASRec (Kang and McAuley, ICDM 2018): a transformer reads the items that a user took, oldest first, and its output at
//! the newest one is the user's vector. The vector of an item is its row of the table that the transformer reads.
//!
//! It is a [DSSM](crate::dssm) whose user tower has one input, a sequence reduced by attention
//! ([`crate::tower::encoder`], which says where the encoder departs from the paper), whose item tower has one input, the
//! row of the item's id, and which has no layers after them. Items are scored by the inner product, as in the paper.
//! Exported towers give vectors of one more coordinate, whose cosine ranks items in the same order
//! ([`crate::similarity`]).
//!
//! Departures from the paper: training windows begin with a user's oldest event, and users with more events than the
//! sequence holds have several windows, where the authors train on the newest one only (`positions.rs`); a small
//! share of codes is dropped to the unknown row, so that new items have a trained vector.

use crate::augment::ContrastConfig;
use crate::dssm::{AttentionConfig, DssmConfig, SequencePooling, is_one};
use crate::error::ModelError;
use crate::hyper_connections::HyperConnections;
use crate::similarity::Similarity;
use crate::tower::MAX_BLOCKS;
use crate::tower::encoder::NormOrder;
use crate::tower::ligr::BlockKind;
use serde::{Deserialize, Serialize};
use twotower_artifacts::range::{self, Range, Ranges};
use twotower_artifacts::{FieldSchema, FieldShape};

/// Settings of SASRec and of [TiSASRec](crate::tisasrec). The length of the history is that of the sequence feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SasrecConfig {
    /// Width of items' vectors and of the transformer.
    pub dim: usize,
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
    /// What scores items.
    pub similarity: Similarity,
    /// Scores are divided by this in training. If it is learned, this is its first value.
    pub temperature: f32,
    /// Whether log τ is trained.
    pub learn_temperature: bool,
    /// The contrast of augmented sequences (CL4SRec), if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<ContrastConfig>,
}

impl Default for SasrecConfig {
    fn default() -> Self {
        Self {
            dim: 64,
            blocks: 2,
            heads: 1,
            norm: NormOrder::Original,
            block: BlockKind::Transformer,
            feed_forward_multiple: 1,
            dropout: 0.2,
            hyper_connections: None,
            similarity: Similarity::Dot,
            temperature: 1.0,
            learn_temperature: false,
            contrast: None,
        }
    }
}

impl SasrecConfig {
    /// The ranges of all numbers.
    pub const RANGES: Ranges = &[
        ("dim", Range::Whole(1, 4096)),
        ("blocks", Range::Whole(1, MAX_BLOCKS as i64)),
        ("heads", Range::Whole(1, 1024)),
        ("feed_forward_multiple", AttentionConfig::MULTIPLES),
        ("dropout", Range::Below(0.0, 1.0)),
        ("hyper_connections.streams", HyperConnections::STREAMS),
        ("hyper_connections.sinkhorn_rounds", HyperConnections::ROUNDS),
        ("hyper_connections.gate", HyperConnections::GATE),
        ("temperature", Range::Real(0.001, 100.0)),
        ("contrast.weight", Range::Above(0.0, 1000.0)),
        ("contrast.temperature", Range::Real(0.001, 100.0)),
        ("contrast.crop", Range::Above(0.0, 1.0)),
        ("contrast.mask", Range::Above(0.0, 1.0)),
        ("contrast.reorder", Range::Above(0.0, 1.0)),
        ("contrast.replace", Range::Above(0.0, 1.0)),
    ];

    /// The settings of its transformer.
    fn attention(&self) -> AttentionConfig {
        let Self { blocks, heads, norm, block, feed_forward_multiple, dropout, hyper_connections, .. } = *self;
        AttentionConfig { blocks, heads, norm, block, feed_forward_multiple, dropout, hyper_connections }
    }

    /// The DSSM that it is.
    pub(crate) fn dssm(&self) -> DssmConfig {
        DssmConfig {
            embedding_dim: self.dim,
            hidden: Vec::new(),
            pooling: SequencePooling::Attention,
            attention: Some(self.attention()),
            temperature: self.temperature,
            learn_temperature: self.learn_temperature,
            ..DssmConfig::default()
        }
    }

    /// Checks every number against its range, and that users have one sequence and nothing else, and items their id in
    /// its table and nothing else.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub fn check(&self, users: &[FieldSchema], items: &[FieldSchema]) -> Result<(), ModelError> {
        range::check(self, Self::RANGES).map_err(ModelError::range)?;
        if let Some(contrast) = &self.contrast {
            contrast.check()?;
        }
        if !self.dim.is_multiple_of(self.heads) {
            return Err(ModelError::Setting {
                setting: "model.heads".into(),
                expected: format!("a divisor of {}, the width `model.dim`", self.dim),
                found: self.heads.to_string(),
            });
        }
        self.attention().check("model")?;
        let refuse = |setting: &str, expected: String, fields: &[FieldSchema]| {
            let names: Vec<String> = fields.iter().map(|field| format!("`{}`", field.name)).collect();
            let found = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            Err(ModelError::Setting { setting: setting.into(), expected, found })
        };
        let other = "this model reads nothing else; `kind = \"dssm\"` with `pooling = \"attention\"` takes other features beside the sequence";
        let [FieldSchema { shape: FieldShape::Sequence { table, .. }, .. }] = users else {
            return refuse("features.user", format!("one feature, of kind `sequence`: {other}"), users);
        };
        match items {
            [FieldSchema { shape: FieldShape::Code { table: own, .. }, .. }] if own == table => Ok(()),
            _ => {
                let expected =
                    format!("one feature, of kind `id` and with `table = \"{table}\"`, that of the sequence: {other}");
                refuse("features.item", expected, items)
            }
        }
    }
}
