//! Items that begin with the vectors of their texts, which a feature of kind `vector` holds: e⁰ = P t, with a projection P
//! from the width of texts to that of the model. [`TextMode`] says what is learned beside it.
//!
//! **An item without training events has nothing that was learned**, so its first layer is P t in every mode, and its final
//! vector is a share of that. It gives no gradient either: what it would teach P, as a drawn negative, is to push such items
//! away.
//!
//! **P learns what to do for such items from others that are treated alike**: in each step, a share of the batch's items is
//! embedded by P t alone, as if nobody had taken them (DropoutNet; Volkovs, Yu and Poutanen, NIPS 2017). Without that, the
//! first layer of items is trained beside the layers of their neighbours alone. What neighbours say grows with their number, so
//! the first layer comes to say what holds for items with few of them, that they are liked less, and items with none are
//! ranked below all others.
//!
//! **P begins** with the principal axes of the catalogue's texts (`principal.rs`), or with the identity where they are no
//! wider than the model, so that inner products of texts are kept as well as `dim` numbers allow. It is scaled so that the
//! vectors of texts are as long, on average, as those with which other nodes begin: the layers of the propagation add up
//! vectors of users and of items, and a rate or a penalty means what it means without texts.
//!
//! With 1 - α the share of what is learned, the gradient d of the first layer goes back as `dP = α Σ d tᵀ` and `(1 - α) d`,
//! and that of a final vector which is `w P t` as `dP = w d tᵀ`.

use crate::error::ModelError;
use crate::graph::Graph;
use crate::lanes::{add_scaled, dot, multiply};
use crate::matmul::{Operand, matmul};
use crate::model::Group;
use crate::optimiser::squares;
use crate::params::{Gradients, Parameters, TableGradient};
use crate::principal::principal_axes;
use crate::rng::Rng;
use crate::tower::Matrix;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::schema::FIRST_VALUE;
use twotower_artifacts::{CodeBatch, Column, Side};

/// What the first layer of an item with a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextMode {
    /// P t: of items, P alone is learned.
    Frozen,
    /// A vector of its own that begins at P t.
    Trainable,
    /// α P t + (1 - α) e, with a vector e of its own that begins as those of other nodes, and an α that falls epoch by
    /// epoch.
    Residual,
}

/// Settings of items that begin with the vectors of their texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// What the first layer of an item with a text is.
    pub mode: TextMode,
    /// α in the first epoch, with `residual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f32>,
    /// By how much α falls from an epoch to the next, down to 0, with `residual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_step: Option<f32>,
    /// The factor of the learning rate for items and for P.
    #[serde(default = "item_rate")]
    pub item_rate: f64,
    /// The first epoch, counted from 0, in which items and P are trained.
    #[serde(default)]
    pub items_from_epoch: usize,
    /// The share of a batch's items that are embedded by their texts alone, as new items are.
    #[serde(default = "new_rate")]
    pub new_rate: f64,
}

fn item_rate() -> f64 {
    0.3
}

fn new_rate() -> f64 {
    0.1
}

impl TextConfig {
    /// The settings of a mode, with its defaults.
    pub fn of(mode: TextMode) -> Self {
        Self { mode, share: None, share_step: None, item_rate: item_rate(), items_from_epoch: 0, new_rate: new_rate() }
    }

    /// α in the first epoch.
    fn first_share(&self) -> f32 {
        self.share.unwrap_or(0.8)
    }

    /// α of an epoch, counted from 0. In the first one it is what the parameters begin with, but no more than the setting: so
    /// it goes on falling where a run begins with an earlier one's parameters.
    fn next_share(&self, before: f32, epoch: usize) -> f32 {
        match epoch {
            0 => before.min(self.first_share()),
            // Rounded, so that steps of hundredths end at 0.
            _ => ((f64::from(before - self.share_step.unwrap_or(0.02)) * 1e6).round() / 1e6).max(0.0) as f32,
        }
    }

    /// Checks that no setting is given in vain.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let given = [("model.text.share", self.share), ("model.text.share_step", self.share_step)];
        match self.mode {
            TextMode::Residual => Ok(()),
            TextMode::Frozen | TextMode::Trainable => given.into_iter().try_for_each(|(setting, value)| match value {
                None => Ok(()),
                Some(value) => Err(ModelError::Setting {
                    setting: setting.into(),
                    expected: "none, except with `mode = \"residual\"`: with other modes nothing falls".into(),
                    found: value.to_string(),
                }),
            }),
        }
    }
}

/// The names of the parameters of a model with texts, beside its tables.
const PROJECTION: &str = "text_projection";
const SHARE: &str = "text_share";

/// Texts that are projected together.
const ROWS: usize = 256;
/// Rows of the gradient of P that are computed together.
const AXES: usize = 8;

/// The texts of items, and what is made of them.
pub(super) struct Text {
    config: TextConfig,
    /// The nodes of items that have a text, those without edges first.
    nodes: Vec<u32>,
    /// How many of them have no edges.
    without_edges: usize,
    /// `[nodes, width]` their texts.
    texts: Vec<f32>,
    /// The places of nodes with edges among the texts.
    places: FxHashMap<u32, usize>,
    width: usize,
    /// The place of P, `[dim, width]`, among the dense groups, and that of α with `residual`.
    projection: usize,
    share: Option<usize>,
}

/// What makes the final vector of an item without edges of its text.
pub(super) struct Projected {
    /// `[dim, width]`
    pub matrix: Matrix,
    /// The mean square of the length of such vectors, over the texts of training.
    pub mean_square: f64,
}

/// The first layer of items, and what its gradients need. It is reused between steps.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// `[nodes, dim]`
    pub first: Vec<f32>,
    rows: Vec<f32>,
}

/// Items of a step that are embedded as new ones are. It is reused between steps.
#[derive(Debug, Default)]
pub(super) struct AsNew {
    /// Their places among the texts, by their nodes.
    places: BTreeMap<u32, usize>,
    /// `[nodes, dim]` their own final vectors.
    kept: Vec<f32>,
}

/// The texts of items by their nodes, ascending: a vector and a flag that says that there is none.
fn by_node(items: &CodeBatch) -> Vec<(u32, &[f32])> {
    let [Column::Code(codes), Column::Dense { width, values }] = &items.columns[..] else { return Vec::new() };
    let rows = codes.iter().zip(values.chunks_exact(*width));
    let texts = rows.filter_map(|(code, row)| {
        let (flag, text) = row.split_last()?;
        let has_text = *code >= FIRST_VALUE && *flag == 0.0 && text.iter().any(|x| *x != 0.0);
        has_text.then_some((*code, text))
    });
    let mut texts: Vec<(u32, &[f32])> = texts.collect();
    texts.sort_by_key(|(node, _)| *node);
    texts
}

/// The mean square of the length of rows.
fn mean_square(rows: &[f32], width: usize) -> f64 {
    let sum: f64 = rows.chunks_exact(width).map(|row| f64::from(dot(row, row))).sum();
    sum / (rows.len() / width).max(1) as f64
}

impl Text {
    /// The texts of `items`, which have an id and a vector. Adds P and α to `parameters`, of which the tables are fresh.
    ///
    /// # Errors
    /// [`ModelError::Data`] when no item has a text.
    pub fn new(
        config: &TextConfig,
        items: &CodeBatch,
        graph: &Graph,
        parameters: &mut Parameters,
    ) -> Result<Self, ModelError> {
        let mut found = by_node(items);
        let Some(width) = found.first().map(|(_, text)| text.len()) else {
            return Err(ModelError::Data {
                reason: "no item has a vector, so there is nothing to begin with (`model.text`); does the column `file_id` of the side file hold the ids of items, in the same form?".into(),
            });
        };
        let has_edges = |node: u32| graph.degree(Side::Item, node as usize) > 0;
        found.sort_by_key(|(node, _)| has_edges(*node));
        let without_edges = found.partition_point(|(node, _)| !has_edges(*node));
        let texts: Vec<f32> = found.iter().flat_map(|(_, text)| text.iter().copied()).collect();
        let nodes: Vec<u32> = found.into_iter().map(|(node, _)| node).collect();
        let table = &parameters.tables[Side::Item as usize];
        let dim = table.dim;
        let length = mean_square(&table.values, dim).sqrt();

        let mut axes = vec![0.0; dim * width];
        match width > dim {
            true => axes = principal_axes(&texts, width, dim)?,
            false => (0..width).for_each(|i| axes[i * width + i] = 1.0),
        }
        let projection = parameters.add_dense(PROJECTION.into(), dim, width, true, axes);
        let add_share = || parameters.add_dense(SHARE.into(), 1, 1, false, vec![config.first_share()]);
        let share = (config.mode == TextMode::Residual).then(add_share);
        let places = nodes.iter().copied().zip(0..).skip(without_edges).collect();
        let text = Self { config: config.clone(), nodes, without_edges, texts, places, width, projection, share };
        let mut rows = Vec::new();
        text.project(parameters, text.nodes.len(), &mut rows);
        let scale = length / mean_square(&rows, dim).sqrt().max(f64::MIN_POSITIVE);
        multiply(&mut parameters.dense[projection].values, scale as f32);
        match config.mode {
            TextMode::Trainable => text.begin(parameters, 0),
            TextMode::Frozen | TextMode::Residual => {}
        }
        Ok(text)
    }

    /// P t of the first `count` texts.
    fn project(&self, parameters: &Parameters, count: usize, out: &mut Vec<f32>) {
        let projection = &parameters.dense[self.projection];
        let (dim, by_axis) = (projection.rows, Operand::rows_of(&projection.values, self.width));
        out.resize(count * dim, 0.0);
        let runs = out.par_chunks_mut(ROWS * dim).zip(self.texts[..count * self.width].par_chunks(ROWS * self.width));
        runs.for_each(|(out, texts)| {
            matmul(out, false, 1.0, Operand::rows_of(texts, self.width), by_axis.transposed());
        });
    }

    /// The vectors of items from node `from` on begin at P t.
    pub fn begin(&self, parameters: &mut Parameters, from: usize) {
        let mut rows = Vec::new();
        self.project(parameters, self.nodes.len(), &mut rows);
        let table = &mut parameters.tables[Side::Item as usize];
        let (dim, new) = (table.dim, self.nodes.iter().enumerate().filter(|(_, node)| **node as usize >= from));
        for (at, node) in new {
            table.values[*node as usize * dim..][..dim].copy_from_slice(&rows[at * dim..][..dim]);
        }
    }

    /// The parameters are those of an earlier run, whose table of items had fewer rows. New items with a text begin as
    /// [`TextConfig`]'s mode says, and where they have a vector of their own, it begins at P t.
    pub fn begin_new_items(&self, parameters: &mut Parameters, earlier_rows: usize) {
        match self.config.mode {
            TextMode::Trainable | TextMode::Residual => self.begin(parameters, earlier_rows),
            TextMode::Frozen => {}
        }
    }

    /// Sets α for an epoch, counted from 0.
    pub fn begin_epoch(&self, parameters: &mut Parameters, epoch: usize) {
        if let Some(share) = self.share {
            let share = &mut parameters.dense[share].values[0];
            *share = self.config.next_share(*share, epoch);
        }
    }

    /// α, which counts for items with edges.
    fn share(&self, parameters: &Parameters) -> f32 {
        match (self.config.mode, self.share) {
            (TextMode::Residual, Some(share)) => parameters.dense[share].values[0],
            (TextMode::Frozen | TextMode::Residual, _) => 1.0,
            (TextMode::Trainable, _) => 0.0,
        }
    }

    /// Makes the first layer of items.
    pub fn forward(&self, parameters: &Parameters, made: &mut Made) {
        let table = &parameters.tables[Side::Item as usize];
        let (dim, share) = (table.dim, self.share(parameters));
        made.first.clear();
        made.first.extend_from_slice(&table.values);
        let count = if share > 0.0 { self.nodes.len() } else { self.without_edges };
        self.project(parameters, count, &mut made.rows);
        for ((at, node), row) in self.nodes.iter().enumerate().zip(made.rows.chunks_exact(dim)) {
            let first = &mut made.first[*node as usize * dim..][..dim];
            match at < self.without_edges {
                true => first.copy_from_slice(row),
                false => first.iter_mut().zip(row).for_each(|(e, text)| *e = share * text + (1.0 - share) * *e),
            }
        }
    }

    /// Makes the gradients of the parameters of that of the first layer of items, which stands where the gradient of their
    /// table is to be.
    pub fn backward(&self, parameters: &Parameters, made: &mut Made, gradients: &mut Gradients) {
        let (dim, share) = (parameters.tables[Side::Item as usize].dim, self.share(parameters));
        let table = gradients.tables[Side::Item as usize].all_rows();
        let (alone, with_edges) = self.nodes.split_at(self.without_edges);
        let row = |node: u32| node as usize * dim..(node as usize + 1) * dim;
        alone.iter().for_each(|node| table[row(*node)].fill(0.0));
        if share == 0.0 {
            return;
        }
        made.rows.clear();
        for node in with_edges {
            made.rows.extend_from_slice(&table[row(*node)]);
            multiply(&mut table[row(*node)], 1.0 - share);
        }
        let (rows, texts) = (&made.rows, &self.texts[self.without_edges * self.width..]);
        let texts = Operand::rows_of(texts, self.width);
        let projection = &mut gradients.dense[self.projection];
        projection.par_chunks_mut(AXES * self.width).enumerate().for_each(|(run, out)| {
            let (first, axes) = (run * AXES, out.len() / self.width);
            let d = Operand::strided(rows.get(first..).unwrap_or_default(), with_edges.len(), axes, dim);
            matmul(out, true, share, d.transposed(), texts);
        });
    }

    /// Embeds a share of the items of a batch as new ones, of whose final vectors the first layer has the given weight.
    pub fn embed_as_new(
        &self,
        parameters: &Parameters,
        (codes, weight): (&[u32], f32),
        mut rng: Rng,
        finals: &mut [f32],
        as_new: &mut AsNew,
    ) {
        let projection = &parameters.dense[self.projection];
        as_new.places.clear();
        rng.each_hit(self.config.new_rate, codes.len(), |at| {
            as_new.places.extend(self.places.get(&codes[at]).map(|place| (codes[at], *place)));
        });
        as_new.kept.clear();
        for (node, place) in &as_new.places {
            let row = &mut finals[*node as usize * projection.rows..][..projection.rows];
            as_new.kept.extend_from_slice(row);
            let text = &self.texts[place * self.width..][..self.width];
            for (x, axis) in row.iter_mut().zip(projection.values.chunks_exact(self.width)) {
                *x = weight * dot(axis, text);
            }
        }
    }

    /// Takes back what [`Self::embed_as_new`] did, and gives P the gradients of these items' final vectors. Returns those of
    /// the others: rows, and their values.
    pub fn learn_from_new(
        &self,
        as_new: &AsNew,
        (gradient, weight): (&TableGradient, f32),
        finals: &mut [f32],
        gradients: &mut Gradients,
    ) -> (Vec<u32>, Vec<f32>) {
        let (rows, values) = gradient.touched_rows();
        let dim = values.len() / rows.len().max(1);
        for (node, kept) in as_new.places.keys().zip(as_new.kept.chunks_exact(dim.max(1))) {
            finals[*node as usize * dim..][..dim].copy_from_slice(kept);
        }
        let (mut other_rows, mut other_values) = (Vec::new(), Vec::new());
        let projection = &mut gradients.dense[self.projection];
        for (row, values) in rows.iter().zip(values.chunks_exact(dim.max(1))) {
            let Some(place) = as_new.places.get(row) else {
                other_rows.push(*row);
                other_values.extend_from_slice(values);
                continue;
            };
            let text = &self.texts[place * self.width..][..self.width];
            for (d_axis, d) in projection.chunks_exact_mut(self.width).zip(values) {
                add_scaled(d_axis, weight * d, text);
            }
        }
        (other_rows, other_values)
    }

    /// How a parameter is trained.
    pub fn group(&self, parameter: &str, table_of_items: &str) -> Group {
        let TextConfig { mode, item_rate: rate, items_from_epoch: from_epoch, .. } = self.config;
        let of_items = Group { rate, from_epoch, ..Group::default() };
        // A rate of 0 moves nothing.
        let constant = Group { rate: 0.0, ..Group::default() };
        if parameter == table_of_items {
            return of_items;
        }
        match (parameter, mode) {
            // Nothing is learned of it.
            (PROJECTION, TextMode::Trainable) if self.config.new_rate == 0.0 => constant,
            (PROJECTION, _) => of_items,
            (SHARE, _) => constant,
            _ => Group::default(),
        }
    }

    /// P, times the weight that the first layer of a node without edges has in its final vector.
    pub fn projected(&self, parameters: &Parameters, weight: f32) -> Projected {
        let mut matrix = parameters.dense[self.projection].matrix();
        multiply(&mut matrix.data, weight);
        let mut rows = Vec::new();
        self.project(parameters, self.nodes.len(), &mut rows);
        Projected { mean_square: mean_square(&rows, matrix.rows) * f64::from(weight) * f64::from(weight), matrix }
    }

    /// Numbers of a text.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The nodes that have a text, and their texts, `[nodes, width]`.
    pub fn texts(&self) -> (&[u32], &[f32]) {
        (&self.nodes, &self.texts)
    }

    /// α, if it is shared with what is learned, and the norms of the gradients of users and of items with P.
    pub fn watched(&self, parameters: &Parameters, gradients: &Gradients) -> Vec<(&'static str, f64)> {
        let share = self.share.map(|_| ("text_share", f64::from(self.share(parameters))));
        let [users, items] = [Side::User, Side::Item].map(|side| squares(gradients.tables[side as usize].values()));
        let items = items + squares(&gradients.dense[self.projection]);
        let norms = [("user_gradient_norm", users.sqrt()), ("item_gradient_norm", items.sqrt())];
        share.into_iter().chain(norms).collect()
    }
}
