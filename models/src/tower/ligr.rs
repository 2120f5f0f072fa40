//! The definition of LiGR blocks (Borisyuk et al., arXiv 2502.03417), with the feed-forward network that eSASRec has in
//! them (Tikhonovich et al., RecSys 2025, arXiv 2508.06450; `LiGRLayer` of RecTools).
//!
//! What a sublayer makes is multiplied by a gate before it is added, and the feed-forward network is SwiGLU (Shazeer,
//! arXiv 2002.05202, equation 6). SA is attention with its output matrix, and σ the logistic function:
//!
//! ```text
//! y     = x + σ(x W_a + b_a) ⊙ SA(LN(x))
//! z     = y + σ(y W_f + b_f) ⊙ FF(LN(y))
//! FF(h) = (silu(h W_1 + b_1) ⊙ (h W_2 + b_2)) W_3 + b_3         silu(a) = a σ(a)
//! ```
//!
//! A gate depends on what its sublayer reads, before the layer norm: x or y, or with streams ([`super::streams`]) the
//! mixture of them. So layer norms stand as the order `pre` has them, and a setting of its own says which kind of block
//! there is: orders of norms say where norms stand and nothing else.
//!
//! Departures from RecTools: a layer norm follows the last block, as in the order `pre`; maps of the feed-forward network
//! have biases; attention has dropout of its weights but not of its result, as in all encoders here; W_1 and W_2 stand in
//! one matrix, and start as one does.

use super::encoder::{Affine, MapWeight, Names, NormOrder};
use serde::{Deserialize, Serialize};

/// The most that [`BlockShape::feed_forward_multiple`] can be.
pub(crate) const MAX_MULTIPLE: usize = 8;

/// Which kind of blocks an encoder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockKind {
    /// Sublayers are added as they are, and the feed-forward network is `outer(max(inner(x), 0))`.
    #[default]
    Transformer,
    /// Sublayers have gates, and the feed-forward network is SwiGLU.
    Ligr,
}

/// The shape of a block, apart from heads and from where layer norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockShape {
    /// Its kind.
    pub kind: BlockKind,
    /// The inner width of the feed-forward network, in widths of a vector.
    pub feed_forward_multiple: usize,
}

impl Default for BlockShape {
    fn default() -> Self {
        Self { kind: BlockKind::Transformer, feed_forward_multiple: 1 }
    }
}

/// The gates of a block's sublayers, each `[dim, dim]` with a bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Gates<W = super::Matrix> {
    /// That of attention.
    pub attention: Affine<W>,
    /// That of the feed-forward network.
    pub feed_forward: Affine<W>,
}

const ATTENTION_GATE: Names = Names { weight: "attention_gate_weight", bias: "attention_gate_bias" };
const FEED_FORWARD_GATE: Names = Names { weight: "feed_forward_gate_weight", bias: "feed_forward_gate_bias" };

impl<W> Gates<W> {
    pub(super) fn try_map<'a, V, E>(&'a self, block: usize, map: MapWeight<'_, 'a, W, V, E>) -> Result<Gates<V>, E> {
        Ok(Gates {
            attention: self.attention.try_map(block, &ATTENTION_GATE, map)?,
            feed_forward: self.feed_forward.try_map(block, &FEED_FORWARD_GATE, map)?,
        })
    }
}

impl BlockKind {
    /// Whether sublayers have gates.
    pub(crate) fn has_gates(self) -> bool {
        self == BlockKind::Ligr
    }

    /// Whether layer norms can stand so.
    pub(crate) fn allows(self, order: NormOrder) -> bool {
        match self {
            BlockKind::Transformer => true,
            BlockKind::Ligr => order == NormOrder::Pre,
        }
    }

    /// Whether it is the default.
    pub(crate) fn is_transformer(&self) -> bool {
        *self == BlockKind::Transformer
    }

    /// Matrices that are multiplied with the input of the feed-forward network.
    fn inner_matrices(self) -> usize {
        match self {
            BlockKind::Transformer => 1,
            BlockKind::Ligr => 2,
        }
    }
}

impl BlockShape {
    /// Whether it is the shape that blocks had before there was a choice.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Inner width of the feed-forward network.
    pub(crate) fn inner_width(self, dim: usize) -> usize {
        self.feed_forward_multiple * dim
    }

    /// Outputs of the matrices that are multiplied with the input of the feed-forward network.
    pub(crate) fn inner_outputs(self, dim: usize) -> usize {
        self.kind.inner_matrices() * self.inner_width(dim)
    }

    /// Matrices `[dim, dim]` that a block's feed-forward network and gates are as large as.
    pub(crate) fn matrices(self) -> usize {
        let gates = if self.kind.has_gates() { 2 } else { 0 };
        (self.kind.inner_matrices() + 1) * self.feed_forward_multiple + gates
    }

    /// Values of `dim` floats that the inner layer of a feed-forward network and gates keep for each element: the inner
    /// layer, and with gates its two factors, and what each sublayer made beside its gate.
    pub(crate) fn kept(self) -> usize {
        match self.kind {
            BlockKind::Transformer => self.feed_forward_multiple,
            BlockKind::Ligr => 3 * self.feed_forward_multiple + 4,
        }
    }

    /// Checks the inner width.
    ///
    /// # Errors
    /// What was found and what is expected.
    pub(crate) fn check(self) -> Result<(), String> {
        if (1..=MAX_MULTIPLE).contains(&self.feed_forward_multiple) {
            return Ok(());
        }
        let found = self.feed_forward_multiple;
        Err(format!("feed-forward networks of {found} times the width, expected 1 to {MAX_MULTIPLE} times"))
    }

    /// The gates of a block without weights, if it has some.
    pub(super) fn gates(self) -> Option<Gates<()>> {
        let affine = || Affine { weight: (), bias: () };
        self.kind.has_gates().then(|| Gates { attention: affine(), feed_forward: affine() })
    }
}
