//! The contrast of subgraphs as a term beside the main one.

use super::{Layer, Transport, Work};
use crate::graph::{Graph, Nodes, Sides};
use crate::lightgcn::terms::{AuxiliaryTerm, SIDES, Step, TermGradients};
use crate::model::{Moment, Terms};
use crate::propagation::Place;

/// The terms `transport` and `gromov`, with their working memory.
pub(in crate::lightgcn) struct SubgraphContrast {
    transport: Transport,
    work: Work,
    /// All nodes of a side, and the gradients of their vectors.
    nodes: Sides<Vec<u32>>,
    d_vectors: Sides<Vec<f32>>,
}

impl SubgraphContrast {
    pub fn new(transport: &Transport) -> Self {
        Self {
            transport: transport.clone(),
            work: Work::default(),
            nodes: Sides::default(),
            d_vectors: Sides::default(),
        }
    }
}

impl AuxiliaryTerm for SubgraphContrast {
    /// Attention reads all nodes, of which only those beside a drawn one count.
    fn want(&mut self, graph: &Graph, _: Moment, wanted: &mut Sides<Nodes>) {
        for ((wanted, nodes), count) in wanted.iter_mut().zip(&mut self.nodes).zip(graph.nodes()) {
            nodes.clear();
            nodes.extend(0..count as u32);
            nodes.iter().for_each(|node| wanted.insert(*node));
        }
    }

    fn learn(&mut self, step: &Step<'_>, gradients: &mut TermGradients<'_>, terms: &mut Terms) {
        let Self { transport, work, nodes, d_vectors } = self;
        let place = match transport.layer() {
            Layer::Final => Place::Mean,
            Layer::Number(number) => Place::Layer(number),
        };
        let dim = step.vectors.dim;
        for (d, nodes) in d_vectors.iter_mut().zip(&*nodes) {
            d.clear();
            d.resize(nodes.len() * dim, 0.0);
        }
        let read = (step.graph, SIDES.map(|side| step.vectors.of(place, side)), dim);
        let to = (d_vectors.each_mut().map(|d| &mut d[..]), &mut gradients.parameters.dense[..]);
        transport.learn(step.parameters, read, step.moment, work, terms, to);
        for side in SIDES {
            gradients.add(place, side, &nodes[side as usize], &d_vectors[side as usize]);
        }
    }
}
