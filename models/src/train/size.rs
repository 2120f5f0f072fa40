//! Computes the memory of a training before it starts.

use super::config::{Loss, TrainConfig};
use crate::dssm::{DssmConfig, SequencePooling};
use crate::examples::Known;
use crate::lightgcn::{LightgcnConfig, TransportConfig, ViewsConfig};
use crate::model::ModelConfig;
use crate::positions::Positions;
use std::collections::BTreeMap;
use twotower_artifacts::{FieldShape, TowerSchema};

/// Bytes of a parameter: its value and the two moments of Adam.
const PARAMETER: u128 = 12;
/// Bytes of an activation: its value and its gradient.
const ACTIVATION: u128 = 8;

/// Bytes of an edge of a graph: both ends twice, the pair, its event, and its place in the order of an epoch.
const EDGE: u128 = 36;

/// Matrices `[dim, dim]` of attention in a block of an encoder, at most.
const ATTENTION_MATRICES: u128 = 4;
/// Vectors that a block of an encoder keeps for each element, beside the inner layer of its feed-forward network and gates.
const ENCODER_ACTIVATIONS: u128 = 12;

/// The size of a training, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Number of trained parameters.
    pub parameters: u128,
    /// Bytes of the parameters, of the optimiser, and of a batch with its candidates.
    pub bytes: u128,
}

/// Activations of a row's sequence in an encoder, if it has one. Its weights are added to `weights`.
fn encoder(dssm: &DssmConfig, positions: Option<Positions>, shape: &FieldShape, dim: u128, weights: &mut u128) -> u128 {
    let (SequencePooling::Attention, FieldShape::Sequence { max_len, intervals, .. }) = (dssm.pooling, shape) else {
        return 0;
    };
    let attention = dssm.attention.clone().unwrap_or_default();
    let (blocks, len) = (attention.blocks as u128, u128::from(*max_len));
    let block = attention.shape(None).block;
    *weights += (len + 1) * dim + blocks * (ATTENTION_MATRICES + block.matrices() as u128) * dim * (dim + 1);
    if let Some(intervals) = intervals {
        *weights += (2 * u128::from(intervals.span) + 2 + len) * dim;
    }
    let elements = positions.map_or(len, |positions| positions.elements(*max_len as usize, *intervals) as u128);
    let streams = attention.hyper_connections.map_or(0, |settings| {
        let (count, logits) = (u128::from(settings.streams as u64), settings.shape().logits() as u128);
        *weights += blocks * 2 * (logits * count * dim + logits + 3);
        // Streams before each sublayer, what is read and added, and logits.
        blocks * (2 * (count + 1) * dim + 2 * (logits + 1)) + 2 * count * dim
    });
    ((blocks * (ENCODER_ACTIVATIONS + block.kept() as u128) + 1) * dim + streams) * elements
}

/// Numbers of a vector of an item's text; its flag is none of them.
fn text_width(items: &TowerSchema) -> u128 {
    let width = |shape: &FieldShape| if let FieldShape::Dense { width } = shape { u128::from(*width) - 1 } else { 0 };
    items.fields.iter().map(|field| width(&field.shape)).sum()
}

/// The size of training `model` on towers of these schemas. `config` must have its batch size. `items` is the size of
/// the catalogue and `events` the number of training events, and `known` says which events of a user are known when others
/// are predicted.
pub fn size(
    model: &ModelConfig,
    config: &TrainConfig,
    towers: [&TowerSchema; 2],
    (items, events): (usize, usize),
    known: Known,
) -> Size {
    let dssm = model.dssm();
    let positions = dssm.positions(towers[0], known);
    let mut tables: BTreeMap<&str, u128> = BTreeMap::new();
    let mut dense = 0;
    let hidden: u128 = dssm.hidden.iter().map(|width| *width as u128).sum();
    let widths = towers.map(|tower| {
        let fields = tower.fields.iter().map(|field| match (&field.shape, field.shape.table()) {
            (shape, Some((table, rows))) => {
                let own = dssm.embedding_dims.get(table).or_else(|| dssm.embedding_dims.get(&field.name));
                let dim = *own.unwrap_or(&dssm.embedding_dim) as u128;
                tables.insert(table, u128::from(rows) * dim);
                dim + encoder(&dssm, positions, shape, dim, &mut dense)
            }
            (FieldShape::Dense { width }, _) => u128::from(*width),
            _ => 0,
        });
        let input: u128 = fields.sum();
        let mut width = input;
        for output in &dssm.hidden {
            dense += (width + 2 + 2 * u128::from(dssm.layer_norm)) * *output as u128;
            width = *output as u128;
        }
        input + hidden
    });
    let beyond = positions.map_or(0, Positions::longest);
    let (batch, items) = ((config.batch_size + beyond) as u128, items as u128);
    let (candidates, drawn) = match config.loss {
        Loss::InBatch => (batch, 0),
        Loss::Mixed { uniform: drawn } | Loss::SampledSoftmax { negatives: drawn } => (batch + drawn as u128, 0),
        Loss::FullSoftmax => (items, 0),
        Loss::Bce { negatives, .. } | Loss::Gbce { negatives, .. } | Loss::Bpr { negatives, .. } => {
            let drawn = batch * negatives as u128;
            (batch + drawn, drawn)
        }
    };
    if let ModelConfig::Lightgcn(LightgcnConfig { text: Some(_), dim, .. }) = model {
        dense += text_width(towers[1]) * *dim as u128;
    }
    let rows = tables.values().sum::<u128>();
    let contrast = match model {
        ModelConfig::Dssm(_) | ModelConfig::Sasrec(_) | ModelConfig::Tisasrec(_) => 0,
        ModelConfig::Lightgcn(lightgcn) => lightgcn.transport.as_ref().map_or(0, |transport| {
            let dim = lightgcn.dim as u128;
            dense += TransportConfig::parameters(dim);
            transport.room(rows / dim, dim) * 4
        }),
    };
    let parameters = rows + dense;
    let propagation = match model {
        ModelConfig::Dssm(_) | ModelConfig::Sasrec(_) | ModelConfig::Tisasrec(_) => 0,
        ModelConfig::Lightgcn(lightgcn) => {
            // The layers, the final vectors and their gradients, those of the parameters, two sums of the backward pass, and scaled vectors.
            let (layers, edges) = (lightgcn.layers as u128, events as u128);
            let (further, graphs) = lightgcn.views.as_ref().map_or((0, 0), ViewsConfig::further);
            // Layers, means, two sums and scaled vectors; and each end of each edge.
            let further = further as u128 * (layers + 4) * parameters * 4 + graphs as u128 * edges * 8;
            // Copies of the candidates, their gradients, and parts of those.
            let ncl = if lightgcn.ncl.is_some() { 8 * parameters * 4 } else { 0 };
            // Texts, and their vectors twice; and, as an epoch begins, the layers and final vectors once more.
            let text = lightgcn.text.as_ref().map_or(0, |_| {
                let width = text_width(towers[1]);
                items * (width + 2 * lightgcn.dim as u128) * 4 + (layers + 2) * parameters * 4
            });
            (layers + 6) * parameters * 4 + edges * EDGE + further + ncl + text
        }
    };
    let activations = batch * widths[0] + candidates.min(items) * widths[1];
    Size { parameters, bytes: parameters * PARAMETER + propagation + contrast + activations * ACTIVATION + drawn * 4 }
}
