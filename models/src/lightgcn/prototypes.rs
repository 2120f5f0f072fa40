//! Contrast of nodes with the centres of their clusters (NCL; Lin et al., WWW 2022, arXiv 2202.06200, section 3.3). Before
//! each epoch, the first layers of users and those of items are clustered (`kmeans.rs`); in the epoch the centres are
//! constant, and the first layer of a node is told apart with the centre of its cluster as the positive and all centres of
//! its side as candidates.
//!
//! The term is a sum over the users and items of the batch's pairs, as often as each occurs. As in the authors' code
//! (RUCAIBox/NCL), vectors are clustered as they are, without normalising them, and compared by cosine. Departures from it:
//! only nodes with edges are clustered, seeds differ between epochs, and epochs before the first with prototypes have no
//! clustering, which there is made in vain.

use super::ncl::NclConfig;
use super::terms::{AuxiliaryTerm, SIDES, Step, TermGradients};
use crate::graph::{Graph, Nodes, Sides};
use crate::kmeans::kmeans;
use crate::losses::contrast::{Anchored, InfoNce};
use crate::model::{Moment, Terms};
use crate::propagation::Place;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// The purpose for which the first centres are drawn.
const CENTRES: u64 = 25;

/// The clusters of the nodes of a side.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Prototypes {
    /// `[clusters, dim]`
    pub centres: Vec<f32>,
    /// For each node that has edges, ascending, its cluster.
    pub of: Vec<u32>,
}

/// Clusters the nodes that have edges, if prototypes are in the epoch's loss.
pub(super) fn cluster(
    config: &NclConfig,
    connected: &Sides<Vec<u32>>,
    (first, dim): (Sides<&[f32]>, usize),
    moment: Moment,
) -> Option<Sides<Prototypes>> {
    if config.prototype_weight == 0.0 || moment.epoch < config.from_epoch {
        return None;
    }
    let key = moment.of_epoch(CENTRES).bits();
    Some(SIDES.map(|side| {
        let (nodes, first) = (&connected[side as usize], first[side as usize]);
        let points: Vec<f32> = nodes.iter().flat_map(|node| &first[*node as usize * dim..][..dim]).copied().collect();
        let found = kmeans(&points, dim, config.clusters, Rng::at(key, &[side as u64]));
        Prototypes { centres: found.centres, of: found.of }
    }))
}

/// Says when there will be fewer clusters than asked for.
pub(super) fn warn_of_few_nodes(config: &NclConfig, connected: &Sides<Vec<u32>>) {
    if config.prototype_weight == 0.0 {
        return;
    }
    for side in SIDES {
        let nodes = connected[side as usize].len();
        if nodes < config.clusters {
            tracing::warn!(
                "train: `model.ncl.clusters` = {}, but only {nodes} {side}s have training events: there will be {nodes} clusters of one {side} each, which say nothing; lower it",
                config.clusters
            );
        }
    }
}

/// The term. It is reused between steps.
pub(super) struct PrototypeContrast {
    config: NclConfig,
    nce: InfoNce,
    anchors: Vec<f32>,
}

impl PrototypeContrast {
    pub fn new(config: &NclConfig) -> Self {
        Self { config: config.clone(), nce: InfoNce::default(), anchors: Vec::new() }
    }
}

impl AuxiliaryTerm for PrototypeContrast {
    fn want(&mut self, _: &Graph, _: Moment, _: &mut Sides<Nodes>) {}

    fn learn(&mut self, step: &Step<'_>, gradients: &mut TermGradients<'_>, terms: &mut Terms) {
        let Some(prototypes) = &step.state.prototypes else { return };
        let NclConfig { temperature, prototype_weight: weight, .. } = self.config;
        let (own, mut value) = (Place::Layer(0), 0.0);
        for side in SIDES {
            let (batch, all) = (&step.batch[side as usize], &step.connected[side as usize]);
            let Prototypes { centres, of } = &prototypes[side as usize];
            step.vectors.gather(own, side, &batch.nodes, &mut self.anchors);
            let cluster = |node: &u32| of[all.partition_point(|other| other < node)];
            let positives: Vec<u32> = batch.nodes.iter().map(cluster).collect();
            let anchored = Anchored {
                anchors: &self.anchors,
                candidates: centres,
                dim: step.vectors.dim,
                positives: &positives,
                weights: &batch.uses,
            };
            value += self.nce.learn(&anchored, temperature, weight as f32);
            gradients.add(own, side, &batch.nodes, &self.nce.d_anchors);
        }
        terms.add("prototypes", weight, value);
    }
}
