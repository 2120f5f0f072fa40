//! Contrast of nodes with their neighbours (NCL; Lin et al., WWW 2022, arXiv 2202.06200, section 3.2): layer 2h of a node,
//! in which are its neighbours of the same side up to 2h edges away, is told apart with the node's own first layer as the
//! positive and the first layers of all nodes of its side as candidates.
//!
//! The term is a sum over the users of the batch's pairs, as often as each occurs, plus `alpha` times the same over items,
//! as in the authors' code (RUCAIBox/NCL). All nodes are those that have edges; there, users and items without any are
//! candidates too.

use super::ncl::NclConfig;
use super::terms::{AuxiliaryTerm, SIDES, Step, TermGradients};
use crate::graph::{Graph, Nodes, Sides};
use crate::losses::contrast::{Anchored, InfoNce};
use crate::model::{Moment, Terms};
use crate::propagation::Place;

/// The term. It is reused between steps.
pub(super) struct Neighbours {
    config: NclConfig,
    nce: InfoNce,
    anchors: Vec<f32>,
    candidates: Vec<f32>,
}

impl Neighbours {
    pub fn new(config: &NclConfig) -> Self {
        Self { config: config.clone(), nce: InfoNce::default(), anchors: Vec::new(), candidates: Vec::new() }
    }
}

impl AuxiliaryTerm for Neighbours {
    fn want(&mut self, _: &Graph, _: Moment, _: &mut Sides<Nodes>) {}

    fn learn(&mut self, step: &Step<'_>, gradients: &mut TermGradients<'_>, terms: &mut Terms) {
        let NclConfig { temperature, structure_weight: weight, hops, alpha, .. } = self.config;
        let (own, around) = (Place::Layer(0), Place::Layer(2 * hops));
        let mut value = 0.0;
        for (side, factor) in SIDES.into_iter().zip([1.0, alpha]) {
            let (batch, all) = (&step.batch[side as usize], &step.connected[side as usize]);
            step.vectors.gather(around, side, &batch.nodes, &mut self.anchors);
            step.vectors.gather(own, side, all, &mut self.candidates);
            let place = |node: &u32| all.partition_point(|other| other < node) as u32;
            let positives: Vec<u32> = batch.nodes.iter().map(place).collect();
            let anchored = Anchored {
                anchors: &self.anchors,
                candidates: &self.candidates,
                dim: step.vectors.dim,
                positives: &positives,
                weights: &batch.uses,
            };
            value += factor * self.nce.learn(&anchored, temperature, (weight * factor) as f32);
            gradients.add(around, side, &batch.nodes, &self.nce.d_anchors);
            gradients.add(own, side, all, &self.nce.d_candidates);
        }
        terms.add("structure", weight, value);
    }
}
