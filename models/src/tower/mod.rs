//! The one definition of a tower: its inputs, reductions and layers. The type of a weight is a parameter. While a tower
//! is trained, a weight is the index of a group of parameters; in memory, a matrix; in an ONNX graph, the name of a
//! tensor.

pub mod encoder;
pub mod intervals;
pub(crate) mod layout;
pub mod ligr;
pub mod streams;

use crate::encoder::EncoderSize;
use encoder::{Encoder, EncoderShape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use streams::StreamShape;
use twotower_artifacts::{FieldSchema, FieldShape, TowerSchema};

/// A dense row-major matrix of f32.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A vector as a matrix of one row.
    pub fn vector(data: Vec<f32>) -> Self {
        Self { rows: 1, cols: data.len(), data }
    }
}

/// A parameter of a layer or of a reduction: its name, and whether it is a vector or a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// 1 for a vector, 2 for a matrix.
    pub rank: usize,
    /// The block of an encoder that it belongs to, if it does.
    pub block: Option<usize>,
}

impl Parameter {
    const fn of(name: &'static str, rank: usize) -> Self {
        Self { name, rank, block: None }
    }

    /// Logits of [`Reduce::Position`].
    pub(crate) const POSITION: Self = Self::of("position", 1);
    /// The matrix of a linear layer.
    pub(crate) const WEIGHT: Self = Self::of("weight", 2);
    const BIAS: Self = Self::of("bias", 1);
    const SLOPE: Self = Self::of("slope", 1);
    const GAIN: Self = Self::of("gain", 1);
    const DEFAULT: Self = Self::of("default", 1);
    /// A lower bound of a divisor. It is a constant, but files hold it like a weight.
    pub(crate) const EPS: Self = Self::of("eps", 1);
}

/// The place of a weight in a tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// The embedding table with this name, `[cardinality, dim]`.
    Table(&'a str),
    /// A parameter of the reduction of the field with this name.
    Reduce(&'a str, Parameter),
    /// A parameter of the layer with this index.
    Layer(usize, Parameter),
}

/// How the elements of a multi-valued or sequence field become one vector.
/// Padding does not count, and an empty row gives the zero vector.
#[derive(Debug, Clone, PartialEq)]
pub enum Reduce<W = Matrix> {
    /// Arithmetic mean.
    Mean,
    /// Weighted mean. The weights are the softmax, over the real elements, of a learned logit per
    /// position, counted from the newest element (index 0). `[max_len]`.
    Position(W),
    /// What a transformer makes of the newest element.
    Attention(Encoder<W>),
}

impl<W> Reduce<W> {
    /// The same reduction with its weights mapped.
    ///
    /// # Errors
    /// The first error of `weight`.
    pub(crate) fn try_map<'a, V, E>(
        &'a self,
        weight: &mut dyn FnMut(Parameter, &'a W) -> Result<V, E>,
    ) -> Result<Reduce<V>, E> {
        Ok(match self {
            Reduce::Mean => Reduce::Mean,
            Reduce::Position(logits) => Reduce::Position(weight(Parameter::POSITION, logits)?),
            Reduce::Attention(encoder) => Reduce::Attention(encoder.try_map(weight)?),
        })
    }
}

/// A reduction without its weights, as tower files hold it: `"mean"`, `"position"`, or
/// `{"attention": {"blocks": 2, "heads": 1, "norm": "original"}}`, the last one with `"intervals": 256` where it reads
/// intervals, with `"streams": {"count": 4, "mixing": {"sinkhorn": 20}}` or `"mixing": "permutations"` where it has some,
/// and with `"block": {"kind": "ligr", "feed_forward_multiple": 4}` where its blocks are of another shape than at first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum ReduceShape {
    Mean,
    Position,
    Attention(EncoderShape),
}

impl<W> From<&Reduce<W>> for ReduceShape {
    fn from(reduce: &Reduce<W>) -> Self {
        match reduce {
            Reduce::Mean => ReduceShape::Mean,
            Reduce::Position(_) => ReduceShape::Position,
            Reduce::Attention(encoder) => ReduceShape::Attention(encoder.shape()),
        }
    }
}

/// A reduction is serialised without its weights.
impl<W> Serialize for Reduce<W> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ReduceShape::from(self).serialize(serializer)
    }
}

/// The most blocks of an encoder, and the most heads.
pub(crate) const MAX_BLOCKS: usize = 64;

impl<'de> Deserialize<'de> for Reduce<()> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match ReduceShape::deserialize(deserializer)? {
            ReduceShape::Mean => Reduce::Mean,
            ReduceShape::Position => Reduce::Position(()),
            ReduceShape::Attention(shape) if shape.blocks > MAX_BLOCKS => {
                let reason = format!("an encoder of {} blocks, expected at most {MAX_BLOCKS}", shape.blocks);
                return Err(serde::de::Error::custom(reason));
            }
            ReduceShape::Attention(shape) => {
                let checked = shape.block.check().and_then(|()| shape.streams.map_or(Ok(()), StreamShape::check));
                checked.map_err(serde::de::Error::custom)?;
                Reduce::Attention(shape.encoder())
            }
        })
    }
}

/// How a field enters the first layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[serde(bound(serialize = "", deserialize = "Reduce<W>: Deserialize<'de>"))]
pub enum Input<W = Matrix> {
    /// Row of an embedding table.
    Embedding {
        /// Name in [`Tower::tables`].
        table: String,
    },
    /// Rows of an embedding table, reduced to one vector.
    Pooled {
        /// Name in [`Tower::tables`].
        table: String,
        /// How rows are combined.
        #[serde(rename = "pooling")]
        reduce: Reduce<W>,
    },
    /// Floats taken as they are.
    Dense,
}

impl<W> Input<W> {
    /// Name of the table whose rows it takes, if any.
    pub fn table(&self) -> Option<&String> {
        match self {
            Input::Embedding { table } | Input::Pooled { table, .. } => Some(table),
            Input::Dense => None,
        }
    }

    /// The same input with its weights mapped.
    ///
    /// # Errors
    /// The first error of `weight`.
    pub(crate) fn try_map<'a, V, E>(
        &'a self,
        weight: &mut dyn FnMut(Parameter, &'a W) -> Result<V, E>,
    ) -> Result<Input<V>, E> {
        Ok(match self {
            Input::Embedding { table } => Input::Embedding { table: table.clone() },
            Input::Pooled { table, reduce } => Input::Pooled { table: table.clone(), reduce: reduce.try_map(weight)? },
            Input::Dense => Input::Dense,
        })
    }
}

/// One layer after the concatenated inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer<W = Matrix> {
    /// y = x Wᵀ + b.
    Linear {
        /// `[out, in]`.
        weight: W,
        /// `[out]`.
        bias: W,
    },
    /// y = max(x, 0) + slope * min(x, 0), slope per channel (He et al., ICCV 2015).
    Prelu {
        /// `[out]`.
        slope: W,
    },
    /// y = max(x, 0).
    Relu,
    /// y = (x - mean) / sqrt(variance + eps) * gain + bias, with the mean and the variance of each row (Ba et al.,
    /// 2016).
    LayerNorm {
        /// `[out]`.
        gain: W,
        /// `[out]`.
        bias: W,
        /// Added to the variance, at least 1e-12.
        eps: f32,
    },
    /// y = the first of the parts of x that is not zero, or a default if all are zero. So a row of a table, which is zero
    /// for those who have none, goes before what else is known of them.
    Coalesce {
        /// `[out]`, which is as wide as a part.
        default: W,
    },
    /// y = x / max(‖x‖₂, eps), per row.
    L2Norm {
        /// Lower bound of the divisor, at least 1e-6.
        eps: f32,
    },
}

impl<W> Layer<W> {
    /// Its name in tower files.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Layer::Linear { .. } => "linear",
            Layer::Prelu { .. } => "prelu",
            Layer::Relu => "relu",
            Layer::LayerNorm { .. } => "layernorm",
            Layer::Coalesce { .. } => "coalesce",
            Layer::L2Norm { .. } => "l2norm",
        }
    }

    /// The layer with this name. `weight` gives its weights, and `constant` the value of those that are constants. None
    /// if there is no such layer.
    ///
    /// # Errors
    /// The first error of `weight` or `constant`.
    pub(crate) fn of_kind<E>(
        kind: &str,
        mut weight: impl FnMut(Parameter) -> Result<W, E>,
        constant: impl Fn(W) -> Result<f32, E>,
    ) -> Result<Option<Self>, E> {
        Ok(Some(match kind {
            "linear" => Layer::Linear { weight: weight(Parameter::WEIGHT)?, bias: weight(Parameter::BIAS)? },
            "prelu" => Layer::Prelu { slope: weight(Parameter::SLOPE)? },
            "relu" => Layer::Relu,
            "layernorm" => Layer::LayerNorm {
                gain: weight(Parameter::GAIN)?,
                bias: weight(Parameter::BIAS)?,
                eps: constant(weight(Parameter::EPS)?)?,
            },
            "coalesce" => Layer::Coalesce { default: weight(Parameter::DEFAULT)? },
            "l2norm" => Layer::L2Norm { eps: constant(weight(Parameter::EPS)?)? },
            _ => return Ok(None),
        }))
    }

    /// Width of its output, given that of its input and a function for the number of rows and of columns of a weight.
    pub(crate) fn output(&self, input: usize, extents: impl Fn(&W) -> (usize, usize)) -> usize {
        match self {
            Layer::Linear { weight, .. } => extents(weight).0,
            Layer::Coalesce { default } => extents(default).1,
            Layer::Prelu { .. } | Layer::Relu | Layer::LayerNorm { .. } | Layer::L2Norm { .. } => input,
        }
    }

    /// The same layer with its weights mapped.
    ///
    /// # Errors
    /// The first error of `map`.
    pub(crate) fn try_map<'a, V, E>(
        &'a self,
        map: &mut dyn FnMut(Parameter, &'a W) -> Result<V, E>,
    ) -> Result<Layer<V>, E> {
        Ok(match self {
            Layer::Linear { weight, bias } => {
                Layer::Linear { weight: map(Parameter::WEIGHT, weight)?, bias: map(Parameter::BIAS, bias)? }
            }
            Layer::Prelu { slope } => Layer::Prelu { slope: map(Parameter::SLOPE, slope)? },
            Layer::Relu => Layer::Relu,
            Layer::LayerNorm { gain, bias, eps } => {
                Layer::LayerNorm { gain: map(Parameter::GAIN, gain)?, bias: map(Parameter::BIAS, bias)?, eps: *eps }
            }
            Layer::Coalesce { default } => Layer::Coalesce { default: map(Parameter::DEFAULT, default)? },
            Layer::L2Norm { eps } => Layer::L2Norm { eps: *eps },
        })
    }

    /// The same layer with its weights mapped.
    pub(crate) fn map<'a, V>(&'a self, mut map: impl FnMut(Parameter, &'a W) -> V) -> Layer<V> {
        infallible(self.try_map(&mut |parameter, weight| Ok(map(parameter, weight))))
    }
}

/// A trained tower: embedding tables, how fields enter, and the layers after their concatenation.
#[derive(Debug, Clone, PartialEq)]
pub struct Tower<W = Matrix> {
    /// Inputs in order and the encoder state they come from.
    pub schema: TowerSchema,
    /// How each field of the schema enters, in the same order.
    pub inputs: Vec<Input<W>>,
    /// Embedding tables by name, `[cardinality, dim]`.
    pub tables: BTreeMap<String, W>,
    /// Layers in order. The last one is [`Layer::L2Norm`] for a cosine model.
    pub layers: Vec<Layer<W>>,
    /// Width of the output.
    pub dim: usize,
    /// Of towers whose cosine stands for an inner product, what the cosine is multiplied with to have the inner product of
    /// an item's vector and the user's direction: the length of the longest item vector ([`crate::similarity`]). None for
    /// models of cosines.
    pub inner_product_scale: Option<f32>,
}

impl<W> Tower<W> {
    /// The same tower with its weights mapped: tables by name, then reductions by field, then layers in order.
    pub(crate) fn map<'a, V>(&'a self, mut weight: impl FnMut(Place<'a>, &'a W) -> V) -> Tower<V> {
        let tables = self.tables.iter().map(|(name, table)| (name.clone(), weight(Place::Table(name), table)));
        let tables = tables.collect();
        let fields = self.schema.fields.iter().zip(&self.inputs);
        let inputs = fields.map(|(field, input)| {
            infallible(input.try_map(&mut |parameter, w| Ok(weight(Place::Reduce(&field.name, parameter), w))))
        });
        let inputs = inputs.collect();
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| layer.map(|parameter, w| weight(Place::Layer(i, parameter), w)));
        let (schema, layers) = (self.schema.clone(), layers.collect());
        Tower { schema, inputs, tables, layers, dim: self.dim, inner_product_scale: self.inner_product_scale }
    }
}

impl Tower {
    /// Width of the concatenated inputs.
    pub(crate) fn input_width(&self) -> usize {
        let fields = self.schema.fields.iter().zip(&self.inputs);
        let width = |(field, input): (&FieldSchema, &Input)| match (input.table(), &field.shape) {
            (Some(table), _) => self.tables.get(table).map_or(0, |table| table.cols),
            (None, FieldShape::Dense { width }) => *width as usize,
            (None, FieldShape::Code { .. } | FieldShape::Bag { .. } | FieldShape::Sequence { .. }) => 0,
        };
        fields.map(width).sum()
    }

    /// The sizes of the encoders of sequences, by field.
    pub(crate) fn encoder_sizes(&self) -> Vec<EncoderSize> {
        let encoders = self.inputs.iter().filter_map(|input| match input {
            Input::Pooled { reduce: Reduce::Attention(encoder), .. } => Some(encoder),
            Input::Pooled { .. } | Input::Embedding { .. } | Input::Dense => None,
        });
        let size = |encoder: &Encoder| {
            let Matrix { rows: len, cols: dim, .. } = encoder.positions;
            let (blocks, block, heads, streams) = (encoder.blocks.len(), encoder.block, encoder.heads, encoder.streams);
            let intervals = encoder.intervals.as_ref().map_or(0, |tables| tables.span + 1);
            EncoderSize { len, dim, blocks, block, heads, streams, intervals }
        };
        encoders.map(size).collect()
    }
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}
