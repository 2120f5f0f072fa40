//! The definition of manifold-constrained hyper-connections (mHC; Xie et al., arXiv 2512.24880, section 4), which take
//! the place of an encoder's residual connections.
//!
//! Between sublayers, an element has n vectors instead of one, its streams X, `[n, dim]`. They begin as copies of the
//! element's input and end as their mean, once for the whole encoder. A sublayer F, attention or the feed-forward
//! network with its layer norm, reads one mixture of them and writes to each (section 4.2):
//!
//! ```text
//! v      = vec(X) / √(mean of squares)                          [n dim]
//! H_pre  = σ(α_pre · Φ_pre v + b_pre)                           [n]
//! H_post = 2 σ(α_post · Φ_post v + b_post)                      [n]
//! H_res  = Sinkhorn(α_res · Φ_res v + b_res)                    [n, n]
//! X     ← H_res X + H_postᵀ F(H_pre X)
//! ```
//!
//! Sinkhorn(M) divides exp(M) by the sums of its columns, then by those of its rows, and so on for some rounds, so that
//! it is nearly doubly stochastic: products of many such matrices neither grow nor vanish. With [`Mixing::Permutations`]
//! (mHC-lite, arXiv 2601.05732, section 3), H_res is a mixture of all n! permutation matrices, weighted by the softmax of
//! as many logits, and exactly doubly stochastic. All matrices are those of one element, so nothing reads a later one.
//!
//! Of the orders of norms, those have streams whose sublayers read a layer norm of what is passed on unchanged beside
//! them, `paper` and `pre`. In `original`, what is passed on is the layer norm itself, and in `post`, a layer norm follows
//! the sum; either would undo what H_res conserves, so both are refused.
//!
//! Departures from the papers: logits of H_res that are more than `FLOOR` below the largest of their column count as
//! `FLOOR` below, so that no sum is 0; v has no gains, which Φ has already (section 4.3.1 of the first paper); Φ of
//! H_pre, H_post and H_res stand in one matrix, in this order, H_res by rows. The start is near the identity, as the
//! code of mHC-lite has it: Φ is 0; b_res 0 on the diagonal, or for the identity, and −8 elsewhere; b_pre and b_post are
//! 1 for one stream, another for each sublayer, and −1 for the others.

use super::Parameter;
use super::encoder::MapWeight;
use serde::{Deserialize, Serialize};

/// The most streams, which have 24 permutations.
pub(crate) const MAX_STREAMS: usize = 4;
/// The most rounds of Sinkhorn's iteration.
pub(crate) const MAX_ROUNDS: usize = 100;
/// How far a logit of H_res can be below the largest of its column.
pub(crate) const FLOOR: f32 = -60.0;

/// How H_res becomes doubly stochastic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Mixing {
    /// Nearly, by as many rounds of Sinkhorn's iteration.
    Sinkhorn(usize),
    /// Exactly, as a mixture of all permutation matrices.
    Permutations,
}

/// The shape of an encoder's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamShape {
    /// Number of streams, n.
    pub count: usize,
    /// How they are mixed.
    pub mixing: Mixing,
}

/// The weights of the streams of one sublayer.
#[derive(Debug, Clone, PartialEq)]
pub struct Streams<W = super::Matrix> {
    /// Φ, `[logits, n dim]`.
    pub weight: W,
    /// b, `[logits]`.
    pub bias: W,
    /// α of H_pre, H_post and H_res, `[3]`.
    pub gates: W,
}

/// The weights of the streams of a block's two sublayers.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockStreams<W = super::Matrix> {
    /// Those of attention.
    pub attention: Streams<W>,
    /// Those of the feed-forward network.
    pub feed_forward: Streams<W>,
}

/// Names of weight, bias and gates, of each sublayer.
const NAMES: [[&str; 3]; 2] = [
    ["attention_streams_weight", "attention_streams_bias", "attention_streams_gates"],
    ["feed_forward_streams_weight", "feed_forward_streams_bias", "feed_forward_streams_gates"],
];

/// Which of the weights of a sublayer's streams a parameter is.
enum Part {
    Weight,
    Bias,
    Gates,
}

/// The sublayer, 0 or 1, and the part that a parameter is, if it belongs to streams.
fn part(parameter: &Parameter) -> Option<(usize, Part)> {
    NAMES.iter().enumerate().find_map(|(sublayer, names)| {
        let part = names.iter().position(|name| *name == parameter.name)?;
        Some((sublayer, [Part::Weight, Part::Bias, Part::Gates].into_iter().nth(part)?))
    })
}

impl<W> Streams<W> {
    fn try_map<'a, V, E>(
        &'a self,
        block: usize,
        [weight, bias, gates]: [&'static str; 3],
        map: MapWeight<'_, 'a, W, V, E>,
    ) -> Result<Streams<V>, E> {
        let parameter = |name, rank| Parameter { name, rank, block: Some(block) };
        Ok(Streams {
            weight: map(parameter(weight, 2), &self.weight)?,
            bias: map(parameter(bias, 1), &self.bias)?,
            gates: map(parameter(gates, 1), &self.gates)?,
        })
    }
}

impl<W> BlockStreams<W> {
    pub(super) fn try_map<'a, V, E>(
        &'a self,
        block: usize,
        map: MapWeight<'_, 'a, W, V, E>,
    ) -> Result<BlockStreams<V>, E> {
        Ok(BlockStreams {
            attention: self.attention.try_map(block, NAMES[0], map)?,
            feed_forward: self.feed_forward.try_map(block, NAMES[1], map)?,
        })
    }
}

impl StreamShape {
    /// Streams without weights.
    pub(super) fn of_block() -> BlockStreams<()> {
        let streams = || Streams { weight: (), bias: (), gates: () };
        BlockStreams { attention: streams(), feed_forward: streams() }
    }

    /// Logits of a sublayer: those of H_pre, of H_post, and of what H_res is made of.
    pub(crate) fn logits(self) -> usize {
        2 * self.count + self.mixed()
    }

    /// Logits of which H_res is made.
    pub(crate) fn mixed(self) -> usize {
        match self.mixing {
            Mixing::Sinkhorn(_) => self.count * self.count,
            Mixing::Permutations => (1..=self.count).product(),
        }
    }

    /// Checks the number of streams and of rounds.
    ///
    /// # Errors
    /// What was found and what is expected.
    pub(crate) fn check(self) -> Result<(), String> {
        if let Mixing::Sinkhorn(rounds) = self.mixing
            && !(1..=MAX_ROUNDS).contains(&rounds)
        {
            return Err(format!("{rounds} rounds of Sinkhorn's iteration, expected 1 to {MAX_ROUNDS}"));
        }
        if (1..=MAX_STREAMS).contains(&self.count) {
            return Ok(());
        }
        Err(format!("{} streams, expected 1 to {MAX_STREAMS}", self.count))
    }

    /// The number of rows and columns of a parameter, if it belongs to streams of vectors of `dim` floats.
    pub(super) fn extents(self, parameter: &Parameter, dim: usize) -> Option<(usize, usize)> {
        Some(match part(parameter)?.1 {
            Part::Weight => (self.logits(), self.count * dim),
            Part::Bias => (1, self.logits()),
            Part::Gates => (1, 3),
        })
    }

    /// The first values of a parameter, if it belongs to streams of vectors of `dim` floats. Gates begin with `gate`.
    pub(crate) fn start(self, parameter: &Parameter, dim: usize, gate: f32) -> Option<Vec<f32>> {
        let (sublayer, part) = part(parameter)?;
        Some(match part {
            Part::Weight => vec![0.0; self.logits() * self.count * dim],
            Part::Bias => {
                let chosen = (2 * parameter.block.unwrap_or(0) + sublayer) % self.count;
                let one = |stream| if stream == chosen { 1.0 } else { -1.0 };
                let is_kept = |logit| match self.mixing {
                    Mixing::Sinkhorn(_) => logit / self.count == logit % self.count,
                    Mixing::Permutations => logit == 0,
                };
                let mixed = (0..self.mixed()).map(|logit| if is_kept(logit) { 0.0 } else { -8.0 });
                (0..2).flat_map(|_| (0..self.count).map(one)).chain(mixed).collect()
            }
            Part::Gates => vec![gate; 3],
        })
    }
}

/// All permutations of `count` streams, the identity first: for each stream, the one whose vector it gets.
pub(crate) fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        let longer = |begun: &Vec<usize>| -> Vec<Vec<usize>> {
            let left = (0..count).filter(|stream| !begun.contains(stream));
            left.map(|stream| [&begun[..], &[stream]].concat()).collect()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_all_there_are_and_the_identity_is_the_first() {
        for (count, expected) in [(1, 1), (2, 2), (3, 6), (4, 24)] {
            let all = permutations(count);
            assert_eq!(all.len(), expected);
            assert_eq!(all[0], (0..count).collect::<Vec<_>>());
            let distinct: std::collections::BTreeSet<_> = all.iter().collect();
            assert_eq!(distinct.len(), expected);
            for permutation in &all {
                let mut sorted = permutation.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, all[0]);
            }
            assert_eq!(StreamShape { count, mixing: Mixing::Permutations }.mixed(), expected);
        }
    }
}
