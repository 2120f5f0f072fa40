//! LightGCN (He et al., SIGIR 2020): a vector for each user and each item, propagated over the graph of who took what
//! (`graph.rs`). A final vector is the mean of all layers, and scores are inner products.
//!
//! The only parameters are the first layer: the tables of users' and of items' ids. What a step computes beside the
//! propagation is what a [DSSM](crate::dssm) does whose tables are the final vectors.
//!
//! Only ids that a vocabulary holds have a node, and an edge is a distinct pair of training events. All other rows of the
//! tables keep their share of the first layer. Among them are the rows of unknown ids, which are trained as those of other
//! models are: a small share of the ids of a batch is dropped to them.
//!
//! The user tower holds the final vectors of users with a node. For all others it takes the mean of the final vectors of
//! the items in their history, and without one the vector of unknown users.
//!
//! Items can begin with the vectors of their texts (`text.rs`), and then those without training events keep them.
//!
//! Other terms can be added to the loss (`terms.rs`): contrasts of views (SGL, SimGCL, XSimGCL; `views.rs`), and those with
//! neighbours and with prototypes (NCL; `neighbours.rs`, `prototypes.rs`).
//!
//! Departures from the authors' code (gusye1234/LightGCN-PyTorch): by default an epoch has each pair once in random order,
//! as RecBole has it, instead of pairs of uniformly drawn users (`sampling`); ids are dropped to the unknown row, unless
//! `train.unknown_rate` is 0; and the losses of other models can take the place of BPR.

mod geometry;
mod ncl;
mod neighbours;
mod prototypes;
mod terms;
mod text;
mod text_tower;
mod training;
pub(crate) mod transport;
mod views;

pub use ncl::NclConfig;
pub use text::{TextConfig, TextMode};
pub use views::{SglConfig, SimgclConfig, ViewsConfig, XsimgclConfig};

#[cfg(test)]
pub(crate) use prototypes::Prototypes;
#[cfg(test)]
pub(crate) use terms::State;
pub(crate) use training::Lightgcn;
pub use transport::{Layer, Logit, TransportConfig};

use crate::dssm::DssmConfig;
use crate::error::ModelError;
use crate::similarity::Similarity;
use crate::train::TrainConfig;
use serde::{Deserialize, Serialize};
use twotower_artifacts::range::{self, Range, Ranges};
use twotower_artifacts::{FieldSchema, FieldShape};

/// How the first layer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialisation {
    /// Uniform in ±√(6 / (rows + dim)) (Glorot and Bengio, AISTATS 2010), as in RecBole.
    #[default]
    XavierUniform,
    /// N(0, 0.1²), as in the authors' code.
    Normal,
}

/// The pairs of an epoch, which has as many as there are edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Each pair once, in random order.
    #[default]
    Pairs,
    /// A user, drawn uniformly from those with a node, and one of his items, drawn uniformly.
    Users,
}

/// What is penalised of the first layer's rows of a batch of B pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyForm {
    /// `1 / 2B · Σ ‖e⁰‖²`, as in LightGCN.
    #[default]
    Squares,
    /// `1 / B · (‖U‖ + ‖I‖ + ‖J‖)`, with the Frobenius norms of all rows of users, of their items, and of drawn items, as in
    /// RecBole's models, of which NCL is one.
    Norms,
}

/// Settings of LightGCN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LightgcnConfig {
    /// Width of the vectors.
    pub dim: usize,
    /// Layers of the propagation. Without any, the model is a matrix factorisation.
    pub layers: usize,
    /// How the first layer begins.
    pub init: Initialisation,
    /// The pairs of an epoch.
    pub sampling: Sampling,
    /// λ, the factor of the penalty on the first layer's rows of a batch: those of users, of their items, and of drawn
    /// items, each as often as it is used.
    pub penalty: f64,
    /// What it is.
    pub penalty_form: PenaltyForm,
    /// What scores items.
    pub similarity: Similarity,
    /// Scores are divided by this in training. If it is learned, this is its first value.
    pub temperature: f32,
    /// Whether log τ is trained.
    pub learn_temperature: bool,
    /// Whether the first layer counts in the mean that final vectors are. If nothing is said, it does, except with views
    /// of XSimGCL or SimGCL. The final vector of a node without edges, which has no other layer, is its first layer,
    /// divided by the number of layers that count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_layer_counts: Option<bool>,
    /// The contrast of views, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewsConfig>,
    /// The contrasts of NCL, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ncl: Option<NclConfig>,
    /// What items begin with, if they have texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    /// The contrast of subgraphs by optimal transport (GSC), if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<TransportConfig>,
}

impl Default for LightgcnConfig {
    fn default() -> Self {
        Self {
            dim: 64,
            layers: 3,
            init: Initialisation::XavierUniform,
            sampling: Sampling::Pairs,
            penalty: 1e-4,
            penalty_form: PenaltyForm::Squares,
            similarity: Similarity::Dot,
            temperature: 1.0,
            learn_temperature: false,
            first_layer_counts: None,
            views: None,
            ncl: None,
            text: None,
            transport: None,
        }
    }
}

/// Whether fields are vectors of at least two numbers; one with a flag may be a number.
fn all_are_vectors(fields: &[FieldSchema]) -> bool {
    fields.iter().all(|field| matches!(field.shape, FieldShape::Dense { width } if width > 2))
}

impl LightgcnConfig {
    /// The ranges of all numbers.
    pub const RANGES: Ranges = &[
        ("dim", Range::Whole(1, 4096)),
        ("layers", Range::Whole(0, 16)),
        ("penalty", Range::Real(0.0, 1000.0)),
        ("temperature", Range::Real(0.001, 100.0)),
        ("views.weight", Range::Above(0.0, 1000.0)),
        ("views.temperature", Range::Real(0.001, 100.0)),
        ("views.eps", Range::Real(0.0, 100.0)),
        ("views.layer", Range::Whole(1, 16)),
        ("views.drop", Range::Below(0.0, 1.0)),
        ("ncl.temperature", Range::Real(0.001, 100.0)),
        ("ncl.structure_weight", Range::Real(0.0, 1000.0)),
        ("ncl.hops", Range::Whole(1, 8)),
        ("ncl.alpha", Range::Real(0.0, 1000.0)),
        ("ncl.prototype_weight", Range::Real(0.0, 1000.0)),
        ("ncl.clusters", Range::Whole(1, 1_000_000)),
        ("ncl.from_epoch", Range::Whole(0, 10_000)),
        ("text.share", Range::SHARE),
        ("text.share_step", Range::SHARE),
        ("text.item_rate", Range::Real(0.0, 1000.0)),
        ("text.items_from_epoch", Range::Whole(0, 10_000)),
        ("text.new_rate", Range::Below(0.0, 1.0)),
        ("transport.weight", TransportConfig::WEIGHT),
        ("transport.gromov_weight", TransportConfig::WEIGHT),
        ("transport.centres", TransportConfig::CENTRES),
        ("transport.nodes", TransportConfig::NODES),
        ("transport.layer", Range::Whole(0, 16)),
        ("transport.temperature", TransportConfig::TEMPERATURE),
    ];

    /// Whether the first layer counts in the mean of layers.
    pub(crate) fn counts_first_layer(&self) -> bool {
        self.first_layer_counts.unwrap_or_else(|| self.views.as_ref().is_none_or(ViewsConfig::first_layer_counts))
    }

    /// Checks that the propagation has the layers that are asked for, and settings that fit each other.
    fn check_layers(&self) -> Result<(), ModelError> {
        let refuse = |setting: &str, expected: &str, found: String| {
            Err(ModelError::Setting { setting: setting.into(), expected: expected.into(), found })
        };
        if let Some(views) = &self.views {
            if self.layers == 0 {
                return refuse("model.layers", "at least 1 with `model.views`, which compares layers", "0".into());
            }
            views.check(self.layers)?;
        }
        if self.layers == 0 && !self.counts_first_layer() {
            return refuse(
                "model.first_layer_counts",
                "true with `model.layers = 0`: no other layer counts",
                "false".into(),
            );
        }
        self.ncl.as_ref().map_or(Ok(()), |ncl| ncl.check(self.layers))?;
        self.text.as_ref().map_or(Ok(()), TextConfig::check)?;
        self.transport.as_ref().map_or(Ok(()), |transport| transport.check(self.layers))
    }

    /// The feed-forward towers that have its tables and widths.
    pub(crate) fn dssm(&self) -> DssmConfig {
        let Self { dim, temperature, learn_temperature, .. } = *self;
        DssmConfig { embedding_dim: dim, hidden: Vec::new(), temperature, learn_temperature, ..DssmConfig::default() }
    }

    /// Checks every number against its range, and that users have an id, perhaps a sequence of items, and nothing else,
    /// and items an id, with texts a vector, and nothing else.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub fn check(&self, users: &[FieldSchema], items: &[FieldSchema]) -> Result<(), ModelError> {
        range::check(self, Self::RANGES).map_err(ModelError::range)?;
        self.check_layers()?;
        let refuse = |setting: &str, expected: String, fields: &[FieldSchema]| {
            let names: Vec<String> = fields.iter().map(|field| format!("`{}`", field.name)).collect();
            let found = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            Err(ModelError::Setting { setting: setting.into(), expected, found })
        };
        let other = "this model reads nothing else; `kind = \"dssm\"` takes other features";
        let (table, vectors) = match items {
            [FieldSchema { shape: FieldShape::Code { table, .. }, .. }, vectors @ ..] if all_are_vectors(vectors) => {
                (table, vectors)
            }
            _ => {
                let expected = "one feature, of kind `id`, and with `[model.text]` one of kind `vector` after it";
                return refuse("features.item", format!("{expected}: {other}"), items);
            }
        };
        match (&self.text, vectors) {
            (None, []) | (Some(_), [_]) => {}
            (Some(_), _) => {
                let expected = "a feature of kind `vector` in `features.item`, after the `id`, with the vectors of texts: add one, or remove the section";
                return refuse("model.text", expected.into(), vectors);
            }
            (None, _) => {
                let expected = "no feature of kind `vector`, of which this model makes nothing by itself: remove it, or say in `[model.text]` how items are to begin with it, as with `mode = \"residual\"`";
                return refuse("features.item", expected.into(), vectors);
            }
        }
        let users_of = |own: &str| own != table;
        let is_theirs = |shape: &FieldShape| matches!(shape, FieldShape::Sequence { table: own, .. } if own == table);
        match users {
            [FieldSchema { shape: FieldShape::Code { table: own, .. }, .. }] if users_of(own) => Ok(()),
            [FieldSchema { shape: FieldShape::Code { table: own, .. }, .. }, FieldSchema { shape, .. }]
                if users_of(own) && is_theirs(shape) =>
            {
                Ok(())
            }
            _ => {
                let expected = format!(
                    "first a feature of kind `id` with a table of its own, and then, if users without training events are to be embedded by their history, one of kind `sequence` with `table = \"{table}\"`, that of the items: {other}"
                );
                refuse("features.user", expected, users)
            }
        }
    }

    /// Checks that the settings of training make sense for this model.
    ///
    /// # Errors
    /// [`ModelError::Setting`] naming the first that does not, and why.
    pub(crate) fn check_training(train: &TrainConfig) -> Result<(), ModelError> {
        if train.embedding_weight_decay > 0.0 {
            return Err(ModelError::Setting {
                setting: "train.embedding_weight_decay".into(),
                expected: "0 with `kind = \"lightgcn\"`: every step moves all rows, so a decay would shrink those of users and items that are not in its batch; `model.penalty` acts on the rows of the batch alone".into(),
                found: train.embedding_weight_decay.to_string(),
            });
        }
        Ok(())
    }
}
