//! Settings of manifold-constrained hyper-connections ([`crate::tower::streams`], which cites the papers).

use crate::error::ModelError;
use crate::tower::encoder::NormOrder;
use crate::tower::streams::{MAX_ROUNDS, MAX_STREAMS, Mixing, StreamShape};
use serde::{Deserialize, Serialize};
use twotower_artifacts::range::Range;

/// Several streams of vectors, mixed by each sublayer of a transformer, in the place of its residual connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HyperConnections {
    /// Number of streams.
    pub streams: usize,
    /// Rounds of Sinkhorn's iteration, by which the mixtures become nearly doubly stochastic.
    pub sinkhorn_rounds: usize,
    /// The first value of the factors with which mixtures depend on the streams.
    pub gate: f32,
    /// Mix by all permutations of the streams instead, which needs no iteration (mHC-lite).
    pub lite: bool,
}

impl Default for HyperConnections {
    fn default() -> Self {
        Self { streams: 4, sinkhorn_rounds: 20, gate: 0.01, lite: false }
    }
}

impl HyperConnections {
    /// The range of `streams`.
    pub(crate) const STREAMS: Range = Range::Whole(1, MAX_STREAMS as i64);
    /// The range of `sinkhorn_rounds`.
    pub(crate) const ROUNDS: Range = Range::Whole(1, MAX_ROUNDS as i64);
    /// The range of `gate`.
    pub(crate) const GATE: Range = Range::Real(0.0, 1.0);

    /// The shape of the streams.
    pub(crate) fn shape(&self) -> StreamShape {
        let mixing = if self.lite { Mixing::Permutations } else { Mixing::Sinkhorn(self.sinkhorn_rounds) };
        StreamShape { count: self.streams, mixing }
    }

    /// Checks that the order of layer norms can have streams. `section` is the one that has the settings of both.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub(crate) fn check(section: &str, norm: NormOrder) -> Result<(), ModelError> {
        if !norm.has_streams() {
            return Err(ModelError::Setting {
                setting: format!("{section}.norm"),
                expected: "`paper` or `pre` beside `hyper_connections`, whose sublayers read a layer norm of what is passed on unchanged; or no `hyper_connections`".into(),
                found: format!("`{}`", norm.name()),
            });
        }
        Ok(())
    }
}
