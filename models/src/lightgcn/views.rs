//! Contrast of two views of the same nodes: a node's vector in one view is told from those of other nodes of the batch in
//! the other view (InfoNCE, `losses/contrast.rs`). Users are compared with the distinct users of the batch, and items with
//! the distinct items of its pairs. The term is the mean over users plus the mean over items.
//!
//! - **XSimGCL** (Yu et al., TKDE 2023, arXiv 2209.02544): one propagation with noise serves the main term too, and what is
//!   compared are its final vectors and its layer l*.
//! - **SimGCL** (Yu et al., SIGIR 2022, arXiv 2112.08679): the final vectors of two further propagations, each with noise.
//! - **SGL-ED** (Wu et al., SIGIR 2021, arXiv 2010.10783): the final vectors of two propagations over graphs that lack some
//!   edges, drawn once an epoch; degrees are those that are left.
//!
//! Noise is in training alone (`propagation.rs`). With the first two, the first layer does not count in the mean, neither in
//! training nor in exported vectors, as in the authors' code (Coder-Yu/SELFRec): `first_layer_counts` says otherwise.
//!
//! Departures from the authors' code: ids that are dropped to the unknown row, which has no edges, are not compared; the
//! penalty is on the first layer's rows, as with LightGCN, where SELFRec's is on final vectors; SGL drops each edge by
//! itself with the given probability, as in the paper, where SELFRec drops an exact number; and its users and items are
//! compared apart, as in the paper, where SELFRec compares both together. RecBole-GNN sums over the batch, where the
//! authors and this code take means: its weights are to be multiplied by the number of distinct nodes in a batch.

use super::terms::{AuxiliaryTerm, SIDES, Step, TermGradients};
use crate::error::ModelError;
use crate::graph::{Graph, Nodes, Sides};
use crate::losses::contrast::{Anchored, InfoNce};
use crate::model::{Moment, Terms};
use crate::propagation::{LayerGradients, Noise, Place, Plan, Propagation};
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// The purpose for which the noise of XSimGCL is drawn.
const NOISE: u64 = 23;
/// The purpose for which the noise of SimGCL and the edges of SGL are drawn.
const VIEWS: u64 = 24;

/// Settings of XSimGCL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XsimgclConfig {
    /// λ, the factor of the term in the loss.
    pub weight: f64,
    /// τ, by which cosines are divided.
    pub temperature: f32,
    /// The norm of the noise.
    pub eps: f32,
    /// l*, the layer that is compared with the final vectors.
    pub layer: usize,
}

impl Default for XsimgclConfig {
    fn default() -> Self {
        Self { weight: 0.2, temperature: 0.15, eps: 0.2, layer: 1 }
    }
}

/// Settings of SimGCL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimgclConfig {
    /// λ, the factor of the term in the loss.
    pub weight: f64,
    /// τ, by which cosines are divided.
    pub temperature: f32,
    /// The norm of the noise.
    pub eps: f32,
}

impl Default for SimgclConfig {
    fn default() -> Self {
        Self { weight: 0.5, temperature: 0.2, eps: 0.1 }
    }
}

/// Settings of SGL with dropped edges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SglConfig {
    /// λ, the factor of the term in the loss.
    pub weight: f64,
    /// τ, by which cosines are divided.
    pub temperature: f32,
    /// The probability with which each edge is dropped.
    pub drop: f64,
}

impl Default for SglConfig {
    fn default() -> Self {
        Self { weight: 0.1, temperature: 0.2, drop: 0.1 }
    }
}

/// Which views are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ViewsConfig {
    /// A layer and the final vectors of one propagation with noise.
    Xsimgcl(XsimgclConfig),
    /// Two further propagations with noise.
    Simgcl(SimgclConfig),
    /// Two further propagations over graphs that lack some edges.
    Sgl(SglConfig),
}

impl ViewsConfig {
    /// Checks that the propagation has the layer that is compared.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub(super) fn check(&self, layers: usize) -> Result<(), ModelError> {
        match self {
            ViewsConfig::Xsimgcl(XsimgclConfig { layer, .. }) if *layer > layers => Err(ModelError::Setting {
                setting: "model.views.layer".into(),
                expected: format!("at most {layers}, the number of layers (`model.layers`)"),
                found: layer.to_string(),
            }),
            ViewsConfig::Xsimgcl(_) | ViewsConfig::Simgcl(_) | ViewsConfig::Sgl(_) => Ok(()),
        }
    }

    /// Whether the authors count the first layer in the mean.
    pub(super) fn first_layer_counts(&self) -> bool {
        match self {
            ViewsConfig::Xsimgcl(_) | ViewsConfig::Simgcl(_) => false,
            ViewsConfig::Sgl(_) => true,
        }
    }

    /// The noise of the main term's propagation in a step.
    pub(super) fn noise(&self, moment: Moment) -> Option<Noise> {
        match self {
            ViewsConfig::Xsimgcl(XsimgclConfig { eps, .. }) => {
                Some(Noise { eps: *eps, key: moment.of_step(NOISE).bits() })
            }
            ViewsConfig::Simgcl(_) | ViewsConfig::Sgl(_) => None,
        }
    }

    /// The propagations of a step beside that of the main term, and the graphs that are held for them.
    pub(crate) fn further(&self) -> (usize, usize) {
        match self {
            ViewsConfig::Xsimgcl(_) => (0, 0),
            ViewsConfig::Simgcl(_) => (2, 0),
            ViewsConfig::Sgl(_) => (2, 2),
        }
    }

    fn weight_and_temperature(&self) -> (f64, f32) {
        match self {
            ViewsConfig::Xsimgcl(XsimgclConfig { weight, temperature, .. })
            | ViewsConfig::Simgcl(SimgclConfig { weight, temperature, .. })
            | ViewsConfig::Sgl(SglConfig { weight, temperature, .. }) => (*weight, *temperature),
        }
    }
}

/// The term. It is reused between steps.
pub(super) struct ViewContrast {
    config: ViewsConfig,
    further: [Further; 2],
    /// The epoch of the graphs that lack edges.
    epoch: Option<usize>,
    wanted: Sides<Nodes>,
    nce: InfoNce,
    compared: [Vec<f32>; 2],
    weights: Vec<f32>,
}

/// A further propagation.
#[derive(Default)]
struct Further {
    /// Its graph, if it has one of its own.
    graph: Option<Graph>,
    propagation: Propagation,
    mean: Sides<Vec<f32>>,
    gradients: LayerGradients,
}

impl Further {
    fn forward(&mut self, step: &Step<'_>, plan: &Plan, wanted: &Sides<Nodes>) {
        let (first, dim) = (step.vectors.first, step.vectors.dim);
        self.mean.iter_mut().zip(first).for_each(|(mean, first)| mean.resize(first.len(), 0.0));
        let [users, items] = &mut self.mean;
        let graph = self.graph.as_ref().unwrap_or(step.graph);
        self.propagation.forward(graph, (first, dim), plan, Some(wanted), [users, items]);
        self.gradients.reset(plan.layers);
    }

    fn backward(&mut self, step: &Step<'_>, plan: &Plan, gradients: &mut TermGradients<'_>) {
        let graph = self.graph.as_ref().unwrap_or(step.graph);
        gradients.add_first(self.propagation.backward(graph, step.vectors.dim, plan, &self.gradients));
    }
}

impl ViewContrast {
    pub fn new(config: &ViewsConfig) -> Self {
        Self {
            config: config.clone(),
            further: Default::default(),
            epoch: None,
            wanted: Default::default(),
            nce: InfoNce::default(),
            compared: Default::default(),
            weights: Vec::new(),
        }
    }

    /// Compares the two views of the rows of a side, `[rows, dim]` each, and gives the mean. The gradients are in `nce`.
    fn compare(&mut self, dim: usize) -> f64 {
        let (weight, temperature) = self.config.weight_and_temperature();
        let rows = self.compared[0].len() / dim;
        let positives: Vec<u32> = (0..rows as u32).collect();
        self.weights.clear();
        self.weights.resize(rows, 1.0 / rows.max(1) as f32);
        let [anchors, candidates] = &self.compared;
        let pairs = Anchored { anchors, candidates, dim, positives: &positives, weights: &self.weights };
        self.nce.learn(&pairs, temperature, weight as f32)
    }

    /// Compares a layer of the main propagation with its mean.
    fn of_layer(&mut self, layer: usize, step: &Step<'_>, gradients: &mut TermGradients<'_>) -> f64 {
        let mut value = 0.0;
        for side in SIDES {
            let rows = &step.batch[side as usize].nodes;
            step.vectors.gather(Place::Mean, side, rows, &mut self.compared[0]);
            step.vectors.gather(Place::Layer(layer), side, rows, &mut self.compared[1]);
            value += self.compare(step.vectors.dim);
            gradients.add(Place::Mean, side, rows, &self.nce.d_anchors);
            gradients.add(Place::Layer(layer), side, rows, &self.nce.d_candidates);
        }
        value
    }

    /// Compares the means of two further propagations.
    fn of_further(&mut self, plans: [Plan; 2], step: &Step<'_>, gradients: &mut TermGradients<'_>) -> f64 {
        for (side, nodes) in step.graph.nodes().into_iter().enumerate() {
            self.wanted[side].reset(nodes);
            step.batch[side].nodes.iter().for_each(|node| self.wanted[side].insert(*node));
        }
        let further = self.further.iter_mut().zip(&plans);
        further.for_each(|(further, plan)| further.forward(step, plan, &self.wanted));
        let (mut value, dim) = (0.0, step.vectors.dim);
        for side in SIDES {
            let rows = &step.batch[side as usize].nodes;
            for (further, compared) in self.further.iter().zip(&mut self.compared) {
                compared.clear();
                let of = &further.mean[side as usize];
                rows.iter().for_each(|row| compared.extend_from_slice(&of[*row as usize * dim..][..dim]));
            }
            value += self.compare(dim);
            let [one, two] = &mut self.further;
            one.gradients.add(Place::Mean, side, rows, &self.nce.d_anchors);
            two.gradients.add(Place::Mean, side, rows, &self.nce.d_candidates);
        }
        self.further.iter_mut().zip(&plans).for_each(|(further, plan)| further.backward(step, plan, gradients));
        value
    }

    /// Draws the edges of an epoch's graphs.
    fn draw(&mut self, graph: &Graph, drop: f64, moment: Moment) {
        if self.epoch == Some(moment.epoch) {
            return;
        }
        let key = moment.of_epoch(VIEWS).bits();
        for (view, further) in self.further.iter_mut().enumerate() {
            let mut dropped = Vec::new();
            Rng::at(key, &[view as u64]).each_hit(drop, graph.edges(), |edge| dropped.push(edge));
            further.graph = Some(graph.without(dropped));
        }
        self.epoch = Some(moment.epoch);
    }
}

impl AuxiliaryTerm for ViewContrast {
    fn want(&mut self, _: &Graph, _: Moment, _: &mut Sides<Nodes>) {}

    fn learn(&mut self, step: &Step<'_>, gradients: &mut TermGradients<'_>, terms: &mut Terms) {
        let value = match self.config {
            ViewsConfig::Xsimgcl(XsimgclConfig { layer, .. }) => self.of_layer(layer, step, gradients),
            ViewsConfig::Simgcl(SimgclConfig { eps, .. }) => {
                let key = step.moment.of_step(VIEWS).bits();
                let noise = |view: u64| Some(Noise { eps, key: Rng::at(key, &[view]).bits() });
                self.of_further([0, 1].map(|view| Plan { noise: noise(view), ..*step.plan }), step, gradients)
            }
            ViewsConfig::Sgl(SglConfig { drop, .. }) => {
                self.draw(step.graph, drop, step.moment);
                self.of_further([*step.plan; 2], step, gradients)
            }
        };
        terms.add("views", self.config.weight_and_temperature().0, value);
    }
}
