//! Contrast of subgraphs by optimal transport (GSC; Han et al., arXiv 2207.11996; code in yh-han/GSC), for the nodes of
//! LightGCN.
//!
//! A step draws subgraphs (`subgraphs.rs`). Their nodes have vectors z, which are those of one layer or the final ones, and
//! vectors z_g that an attention layer makes of each node's neighbours (`attention.rs`). Two subgraphs are as far apart as it
//! costs to move the vectors of one to those of the other: by Wasserstein's distance, which compares vectors, and by
//! Gromov-Wasserstein's, which compares the edges of the first with how alike the vectors of the second are among
//! themselves (`plan.rs`). The z of a subgraph shall be near its own z_g, and far from z and z_g of another one, and each
//! distance is a term of the loss by itself (`pairs.rs`): `transport` and `gromov`.
//!
//! # Why it stays finite
//! In the authors' code, plans are multiplied by `exp(-C / β)` in 32 bits, and divided by the sums of rows that may have
//! become 0 on the way; Wasserstein's plan is a part of the gradient with all these divisions; vectors that the ReLU has made
//! 0 are divided by 1e-12; and thresholds are of all pairs at once, so that a single entry gets the gradients of all. Added
//! to LightGCN with Xavier initialisation, that ended as NaN, Gromov-Wasserstein's term first. Which of these it was is not
//! known. Of plans of random vectors, in 32 bits and the plain domain, Gromov-Wasserstein's divide by 0 where τ is 0.3 or
//! less, and none do where it is 0.5 or more. Here,
//!
//! - potentials are kept instead of plans, in 64 bits, so no entry becomes 0 before it is used;
//! - plans count as constants in the backward pass (the envelope theorem), so nothing goes back through their iteration;
//! - norms are at least 1e-6;
//! - thresholds are of one pair. So its cost does not depend on which others were drawn with it either.
//!
//! # Departures from the authors' code
//! - Plans are rounded until rows and columns have exactly the sums of uniform distributions.
//! - Gromov-Wasserstein's cost is added up with its own plan. The authors take Wasserstein's, which does not make it small.
//! - A node is at no distance from itself in the costs of edges, as in those of vectors. The authors have it as far as nodes
//!   without an edge.
//! - Neighbours are visited in random order, by the seed and the step. A component that is smaller than a subgraph makes
//!   a smaller one, without padding, and a node without edges is a subgraph by itself, with zeros for z_g. The
//!   authors leave such nodes out.
//! - Centres are distinct, and the other subgraph is the next one on a random cycle through all.
//! - The logit of a pair is `exp(-d / s)`, as in their code, which lies between 0 and 1, so that even equal subgraphs are
//!   alike with a probability of .73 at most, and of distances far above s nothing is learned. `logit = "log"` takes
//!   `-d / s` instead.

mod attention;
mod pairs;
mod plan;
mod subgraphs;
mod term;
#[cfg(test)]
mod tests;

use crate::error::ModelError;
use crate::graph::{Graph, Sides};
use crate::layers::norm;
use crate::model::{Moment, Terms};
use crate::params::Parameters;
use crate::rng::Rng;
use crate::similarity::NORM_FLOOR;
use attention::Attention;
use pairs::Pairs;
use rayon::prelude::*;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subgraphs::{Nodes, Subgraphs};
pub(super) use term::SubgraphContrast;
use twotower_artifacts::range::Range;

/// How a distance becomes the logit of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Logit {
    /// `exp(-d / s)`, as in the authors' code.
    #[default]
    Exponential,
    /// `-d / s`.
    Log,
}

/// Vectors of the nodes, from a propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layer {
    /// The mean of all layers, which scores items.
    #[default]
    Final,
    /// A layer by its number. 0 is what is trained.
    Number(usize),
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Layer::Final => serializer.serialize_str("final"),
            Layer::Number(number) => serializer.serialize_u64(*number as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Layer;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the number of a layer, or \"final\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Layer, E> {
                let number = usize::try_from(number);
                number
                    .map(Layer::Number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Other("a negative number"), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Layer, E> {
                Ok(Layer::Number(number as usize))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Layer, E> {
                match name {
                    "final" => Ok(Layer::Final),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Settings of the contrast of subgraphs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportConfig {
    /// The factor of the term of Wasserstein's distance in the loss. With 0 there is none.
    pub weight: f64,
    /// The factor of the term of Gromov-Wasserstein's distance. With 0 there is none.
    pub gromov_weight: f64,
    /// Subgraphs of a step.
    pub centres: usize,
    /// The most nodes of a subgraph.
    pub nodes: usize,
    /// The vectors that are compared.
    pub layer: Layer,
    /// τ of the cost `exp(-cos / τ)`.
    pub temperature: f64,
    /// How a distance becomes the logit of a pair.
    pub logit: Logit,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            weight: 0.5,
            gromov_weight: 0.5,
            centres: 300,
            nodes: 15,
            layer: Layer::Final,
            temperature: 5.0,
            logit: Logit::Exponential,
        }
    }
}

impl TransportConfig {
    /// The range of either weight.
    pub(crate) const WEIGHT: Range = Range::Real(0.0, 1000.0);
    /// The range of `centres`.
    pub(crate) const CENTRES: Range = Range::Whole(2, 4096);
    /// The range of `nodes`.
    pub(crate) const NODES: Range = Range::Whole(2, 64);
    /// The range of `temperature`. Costs are up to e^(1 / τ).
    pub(crate) const TEMPERATURE: Range = Range::Real(0.1, 100.0);

    /// Checks that there is such a layer, and a term.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub(crate) fn check(&self, layers: usize) -> Result<(), ModelError> {
        if let Layer::Number(number) = self.layer
            && number > layers
        {
            return Err(ModelError::Setting {
                setting: "model.transport.layer".into(),
                expected: format!("\"final\", or a layer from 0 to {layers}, which is `model.layers`"),
                found: number.to_string(),
            });
        }
        if self.weight == 0.0 && self.gromov_weight == 0.0 {
            return Err(ModelError::Setting {
                setting: "model.transport.weight".into(),
                expected: "a number above 0 for it or for `gromov_weight`; or no `transport`".into(),
                found: "0 for both".into(),
            });
        }
        Ok(())
    }

    /// The number of the attention layer's parameters.
    pub(crate) fn parameters(dim: u128) -> u128 {
        dim * (dim + 3)
    }

    /// Numbers of 4 bytes that a step keeps for a graph with so many nodes, at most.
    pub(crate) fn room(&self, nodes: u128, dim: u128) -> u128 {
        let members = (self.centres * self.nodes) as u128;
        let distinct = members.min(nodes);
        // Of all nodes' vectors, and once more where they are kept for the way back.
        let gradients = 2 * nodes * dim;
        // Gradients of members in 4 parts; of distinct nodes, what attention keeps and unit vectors with gradients.
        members * (4 * dim + 4) + distinct * (10 * dim + 10) + nodes * 3 + gradients
    }
}

/// The contrast in training.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    config: TransportConfig,
    attention: Attention,
}

/// The working memory of a step.
#[derive(Debug, Default)]
pub(crate) struct Work {
    subgraphs: Subgraphs,
    attention: attention::Work,
    pairs: Pairs,
    /// `[distinct nodes, dim]` vectors of length 1: of the nodes, and made for them.
    unit: [Vec<f32>; 2],
    d_unit: [Vec<f32>; 2],
    d_nodes: Vec<f32>,
}

impl Transport {
    /// Adds the parameters of the attention layer. `draw` gives the random numbers of each of its groups.
    pub fn new(config: &TransportConfig, dim: usize, parameters: &mut Parameters, draw: impl Fn(u64) -> Rng) -> Self {
        Self { config: config.clone(), attention: Attention::new(dim, parameters, draw) }
    }

    /// The vectors that are compared.
    pub fn layer(&self) -> Layer {
        self.config.layer
    }

    /// Adds the terms of a step, `transport` and `gromov`, and the gradients of their weighted sum: those of the vectors of
    /// the layer to `d_vectors`, and those of parameters to `dense`.
    pub fn learn(
        &self,
        parameters: &Parameters,
        (graph, vectors, dim): (&Graph, Sides<&[f32]>, usize),
        moment: Moment,
        work: &mut Work,
        terms: &mut Terms,
        (d_vectors, dense): (Sides<&mut [f32]>, &mut [Vec<f32>]),
    ) {
        let Self { config, attention } = self;
        let Work { subgraphs, attention: made, pairs, unit, d_unit, d_nodes } = work;
        let nodes = Nodes { graph, vectors, dim };
        subgraphs.draw(&nodes, config.centres, config.nodes, moment);
        attention.forward(parameters, &nodes, subgraphs, made);
        let len = subgraphs.distinct.len() * dim;
        for rows in unit.iter_mut().chain(&mut *d_unit).chain([&mut *d_nodes, &mut made.d_made]) {
            rows.resize(len, 0.0);
        }
        let of = |slot: usize| nodes.vector(subgraphs.distinct[slot] as usize);
        let [of_nodes, of_made] = unit.each_mut().map(|unit| unit.par_chunks_mut(dim));
        of_nodes.zip(of_made).enumerate().with_min_len(64).for_each(|(slot, (of_node, of_made))| {
            norm::forward(of(slot), dim, NORM_FLOOR, of_node);
            norm::forward(&made.made[slot * dim..][..dim], dim, NORM_FLOOR, of_made);
        });

        let values = pairs.learn(config, &nodes, subgraphs, unit.each_ref().map(|unit| &unit[..]));
        let named = [("transport", config.weight), ("gromov", config.gromov_weight)];
        for ((name, weight), value) in named.into_iter().zip(values).filter(|((_, weight), _)| *weight > 0.0) {
            terms.add(name, weight, value);
        }

        pairs.gather(config, subgraphs, dim, d_unit.each_mut().map(|d| &mut d[..]));
        let [of_nodes, of_made] = [0, 1].map(|kind| unit[kind].par_chunks(dim).zip(d_unit[kind].par_chunks(dim)));
        let gradients = d_nodes.par_chunks_mut(dim).zip(made.d_made.par_chunks_mut(dim));
        let rows = gradients.zip(of_nodes.zip(of_made)).enumerate().with_min_len(64);
        let from = &made.made;
        rows.for_each(|(slot, ((d_node, d_made), ((unit, d_unit), (unit_made, d_unit_made))))| {
            norm::backward(of(slot), unit, d_unit, dim, NORM_FLOOR, d_node);
            norm::backward(&from[slot * dim..][..dim], unit_made, d_unit_made, dim, NORM_FLOOR, d_made);
        });
        attention.backward(parameters, &nodes, subgraphs, made, d_nodes, (d_vectors, dense));
    }
}
