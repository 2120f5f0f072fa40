//! The frame of the terms that are added to the main one. They read the layers of one propagation.
//!
//! A step chooses its batch, propagates, computes the main term over the final vectors, and then asks each auxiliary term
//! for its value and its gradients. A term reads rows of a layer or of the final vectors ([`Vectors`]), and adds gradients
//! to what it read ([`TermGradients`]). The backward propagation, once for all terms, carries all of them to the first
//! layer. A term that propagates by itself, over another graph or with noise of its own, adds the gradient of the first
//! layer.
//!
//! A new term is a file with its settings and an [`AuxiliaryTerm`], and a line in [`auxiliary`]. What it keeps from epoch to
//! epoch is a field of [`State`], made when an epoch begins, and in checkpoints.

use super::LightgcnConfig;
use super::geometry::Geometry;
use super::neighbours::Neighbours;
use super::prototypes::{self, PrototypeContrast, Prototypes};
use super::transport::{SubgraphContrast, Transport};
use super::views::ViewContrast;
use crate::graph::{Graph, Nodes, Sides};
use crate::lanes::add;
use crate::model::{Moment, Terms};
use crate::params::{Gradients, Parameters};
use crate::propagation::{LayerGradients, Place, Plan};
use serde::{Deserialize, Serialize};
use twotower_artifacts::Side;

/// The sides of the graph, in its order.
pub(super) const SIDES: Sides<Side> = [Side::User, Side::Item];

/// What is kept from epoch to epoch beside the parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The clusters of users and of items, if they are in the loss of the epoch.
    pub prototypes: Option<Sides<Prototypes>>,
    /// Figures of item vectors that begin with texts.
    pub geometry: Option<Geometry>,
}

/// Distinct nodes of a batch that have edges, ascending, and how often they occur in its pairs.
#[derive(Debug, Default)]
pub(super) struct BatchNodes {
    pub nodes: Vec<u32>,
    pub uses: Vec<f32>,
}

impl BatchNodes {
    /// From the nodes of one side of the pairs.
    pub fn set(&mut self, graph: &Graph, side: Side, of_pairs: impl Iterator<Item = u32>) {
        let mut all: Vec<u32> = of_pairs.filter(|node| graph.degree(side, *node as usize) > 0).collect();
        all.sort_unstable();
        self.nodes.clear();
        self.uses.clear();
        for same in all.chunk_by(|a, b| a == b) {
            self.nodes.push(same[0]);
            self.uses.push(same.len() as f32);
        }
    }
}

/// The vectors of a propagation. The last layer and the final vectors are those of this step only in rows of the batch,
/// of its drawn items, and of nodes that a term wants ([`AuxiliaryTerm::want`]).
#[derive(Debug, Clone, Copy)]
pub(super) struct Vectors<'a> {
    pub dim: usize,
    /// The first layer.
    pub first: Sides<&'a [f32]>,
    /// Layers 1 to K.
    pub layers: &'a [Sides<Vec<f32>>],
    /// The final vectors.
    pub mean: Sides<&'a [f32]>,
}

impl<'a> Vectors<'a> {
    /// `[nodes, dim]` the vectors of a place.
    pub fn of(&self, place: Place, side: Side) -> &'a [f32] {
        match place {
            Place::Layer(0) => self.first[side as usize],
            Place::Layer(layer) => &self.layers[layer - 1][side as usize],
            Place::Mean => self.mean[side as usize],
        }
    }

    /// Copies some rows of a place, `[rows, dim]`.
    pub fn gather(&self, place: Place, side: Side, rows: &[u32], out: &mut Vec<f32>) {
        let of = self.of(place, side);
        out.clear();
        rows.iter().for_each(|row| out.extend_from_slice(&of[*row as usize * self.dim..][..self.dim]));
    }
}

/// What terms are given of a step.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub graph: &'a Graph,
    pub parameters: &'a Parameters,
    /// All nodes that have edges, ascending.
    pub connected: &'a Sides<Vec<u32>>,
    /// How the main term's propagation is made.
    pub plan: &'a Plan,
    /// What it gave.
    pub vectors: Vectors<'a>,
    /// The nodes of the batch's pairs. Drawn items are none of them.
    pub batch: &'a Sides<BatchNodes>,
    pub state: &'a State,
    pub moment: Moment,
}

/// Where the gradients of terms go.
pub(super) struct TermGradients<'a> {
    /// Those of parameters: the tables are the first layer.
    pub parameters: &'a mut Gradients,
    /// Those of later layers and of the final vectors.
    pub later: &'a mut LayerGradients,
}

impl TermGradients<'_> {
    /// Adds the gradients of rows of a place, `[rows, dim]`.
    pub fn add(&mut self, place: Place, side: Side, rows: &[u32], values: &[f32]) {
        match place {
            Place::Layer(0) => {
                let to = self.parameters.tables[side as usize].all_rows();
                let dim = values.len() / rows.len().max(1);
                for (row, values) in rows.iter().zip(values.chunks_exact(dim.max(1))) {
                    add(&mut to[*row as usize * dim..][..dim], values);
                }
            }
            Place::Layer(_) | Place::Mean => self.later.add(place, side, rows, values),
        }
    }

    /// Adds the gradient of the whole first layer.
    pub fn add_first(&mut self, first: Sides<&[f32]>) {
        for (gradient, first) in self.parameters.tables.iter_mut().zip(first) {
            add(gradient.all_rows(), first);
        }
    }
}

/// A term beside the main one, with its working memory.
pub(super) trait AuxiliaryTerm: Send {
    /// Adds the nodes of which it will read the last layer or the final vectors, beyond those of the batch and its drawn
    /// items. It is called before the propagation of a step.
    fn want(&mut self, graph: &Graph, moment: Moment, wanted: &mut Sides<Nodes>);

    /// Adds its terms, and the gradients of each times its weight.
    fn learn(&mut self, step: &Step<'_>, gradients: &mut TermGradients<'_>, terms: &mut Terms);
}

/// The terms that the settings ask for; `transport` is the one that has parameters.
pub(super) fn auxiliary(config: &LightgcnConfig, transport: Option<&Transport>) -> Vec<Box<dyn AuxiliaryTerm>> {
    let mut all: Vec<Box<dyn AuxiliaryTerm>> = Vec::new();
    if let Some(views) = &config.views {
        all.push(Box::new(ViewContrast::new(views)));
    }
    if let Some(ncl) = &config.ncl {
        if ncl.structure_weight > 0.0 {
            all.push(Box::new(Neighbours::new(ncl)));
        }
        if ncl.prototype_weight > 0.0 {
            all.push(Box::new(PrototypeContrast::new(ncl)));
        }
    }
    if let Some(transport) = transport {
        all.push(Box::new(SubgraphContrast::new(transport)));
    }
    all
}

/// The state of an epoch, made of the first layer with which it begins, of vectors of `dim` numbers.
pub(super) fn state(
    config: &LightgcnConfig,
    connected: &Sides<Vec<u32>>,
    (first, dim): (Sides<&[f32]>, usize),
    moment: Moment,
) -> State {
    let clusters = |ncl| prototypes::cluster(ncl, connected, (first, dim), moment);
    State { prototypes: config.ncl.as_ref().and_then(clusters), geometry: None }
}
