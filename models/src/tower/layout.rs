//! Checks of a tower before any engine runs it, and of a batch before it is embedded.

use super::encoder::Encoder;
use super::{Input, Layer, MAX_BLOCKS, Matrix, Parameter, Place, Reduce, Tower};
use crate::error::ModelError;
use std::collections::BTreeSet;
use std::ops::Range;
use twotower_artifacts::{ArtifactError, CodeBatch, Column, FieldShape, Intervals, TowerSchema};

/// Widths of a checked tower.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Floats of the widest row: that of the concatenated inputs or of a layer.
    pub max_width: usize,
    /// The layout of each field.
    pub inputs: Vec<InputLayout>,
}

/// The place of a field in the concatenated inputs.
#[derive(Debug)]
pub(crate) struct InputLayout {
    /// Its first column in the concatenation.
    pub start: usize,
    /// Its number of columns in the concatenation.
    pub width: usize,
    /// The most elements of a row that are used. 0 for fields without elements.
    pub max_len: usize,
}

impl Layout {
    /// The columns of a field in the concatenation.
    pub fn columns(&self, field: usize) -> Range<usize> {
        let input = &self.inputs[field];
        input.start..input.start + input.width
    }
}

/// Smallest divisor that [`Layer::L2Norm`] may have.
const MIN_EPS: f32 = 1e-6;

/// The least that [`Layer::LayerNorm`] may add to a variance.
const MIN_VARIANCE: f32 = 1e-12;

/// The longest bag or sequence, for which engines reserve memory per row and field.
const MAX_LEN: u32 = 1 << 14;
/// The widest dense field.
const MAX_WIDTH: u32 = 1 << 16;

/// The widest row of concatenated inputs or of a layer. Engines hold a tile of such rows.
const MAX_ROW: usize = 1 << 18;

/// Checks the names of a schema, and that its sizes are within what engines reserve memory for.
///
/// # Errors
/// [`ModelError::Tower`] naming the field.
pub(crate) fn check_schema(schema: &TowerSchema) -> Result<(), ModelError> {
    let refuse = |reason| Err(ModelError::Tower { side: schema.side, reason });
    let mut names = BTreeSet::new();
    for field in &schema.fields {
        let name = &field.name;
        if name.is_empty() || name.contains('\0') || !names.insert(name) {
            return refuse(format!("field name `{}` is empty, or not a text, or used twice", name.escape_default()));
        }
        let (what, found, most) = match &field.shape {
            FieldShape::Code { .. } => continue,
            FieldShape::Bag { max_len, .. } | FieldShape::Sequence { max_len, .. } => ("max_len", *max_len, MAX_LEN),
            FieldShape::Dense { width } => ("width", *width, MAX_WIDTH),
        };
        if found == 0 || found > most {
            return refuse(format!("field `{name}`: {what} {found}, expected 1 to {most}"));
        }
        let (span, most) = (field.shape.intervals().map(|intervals| intervals.span), Intervals::MAX_SPAN);
        if let Some(span) = span.filter(|span| *span == 0 || *span > most) {
            return refuse(format!("field `{name}`: span {span}, expected 1 to {most}"));
        }
    }
    Ok(())
}

/// Checks that the parts of a tower fit together.
///
/// # Errors
/// [`ModelError::Tower`] naming the part.
pub(crate) fn check_tower(tower: &Tower) -> Result<Layout, ModelError> {
    let layout = check_shape(tower)?;
    check_values(tower)?;
    Ok(layout)
}

/// As [`check_tower`], for a tower whose matrices may lack their values.
///
/// # Errors
/// As [`check_tower`].
pub(crate) fn check_shape(tower: &Tower) -> Result<Layout, ModelError> {
    check_schema(&tower.schema)?;
    layout(tower).map_err(|reason| ModelError::Tower { side: tower.schema.side, reason })
}

/// Checks that every matrix of a tower has the values that its shape needs.
///
/// # Errors
/// [`ModelError::Tower`] naming the matrix.
pub(crate) fn check_values(tower: &Tower) -> Result<(), ModelError> {
    let mut wrong = None;
    tower.map(|place, matrix| {
        let Err(reason) = check_matrix(matrix) else { return };
        let what = match place {
            Place::Table(name) => format!("table `{name}`"),
            Place::Reduce(field, Parameter { name, block: Some(block), .. }) => {
                format!("field `{field}`, block {block}, {name}")
            }
            Place::Reduce(field, parameter) => format!("field `{field}`, {}", parameter.name),
            Place::Layer(layer, parameter) => format!("layer {layer}, {}", parameter.name),
        };
        wrong.get_or_insert(format!("{what}: {reason}"));
    });
    match wrong {
        None => Ok(()),
        Some(reason) => Err(ModelError::Tower { side: tower.schema.side, reason }),
    }
}

fn layout(tower: &Tower) -> Result<Layout, String> {
    let fields = &tower.schema.fields;
    if fields.is_empty() || tower.inputs.len() != fields.len() {
        return Err(format!(
            "{} fields and {} inputs, expected as many and at least 1",
            fields.len(),
            tower.inputs.len()
        ));
    }
    let mut used = BTreeSet::new();
    let mut input_width = 0usize;
    let mut inputs = Vec::with_capacity(fields.len());
    for (field, input) in fields.iter().zip(&tower.inputs) {
        let name = &field.name;
        let mut max_len = 0;
        let width = match (input, &field.shape) {
            (Input::Dense, FieldShape::Dense { width }) => *width as usize,
            (Input::Embedding { table }, FieldShape::Code { table: expected, cardinality }) => {
                used.insert(table);
                table_width(tower, name, table, expected, *cardinality)?
            }
            (
                Input::Pooled { table, reduce },
                shape @ (FieldShape::Bag { table: expected, cardinality, max_len: len }
                | FieldShape::Sequence { table: expected, cardinality, max_len: len, .. }),
            ) => {
                max_len = *len as usize;
                used.insert(table);
                let width = table_width(tower, name, table, expected, *cardinality)?;
                let checked = check_reduce(reduce, max_len, width).and_then(|()| check_intervals(reduce, shape));
                checked.map_err(|reason| format!("field `{name}`: {reason}"))?;
                width
            }
            (input, shape) => return Err(format!("field `{name}`: input {input:?} cannot take shape {shape:?}")),
        };
        inputs.push(InputLayout { start: input_width, width, max_len });
        input_width = input_width.saturating_add(width);
    }
    if let Some(unused) = tower.tables.keys().find(|t| !used.contains(t)) {
        return Err(format!("table `{unused}` belongs to no field"));
    }
    let (width, max_width) = check_layers(tower, input_width)?;
    if max_width > MAX_ROW {
        return Err(format!("inputs or a layer of {max_width} floats a row, expected at most {MAX_ROW}"));
    }
    if width != tower.dim || width == 0 {
        return Err(format!("the last layer has {width} outputs, the tower's dimension is {}", tower.dim));
    }
    Ok(Layout { max_width, inputs })
}

/// Checks a reduction of at most `len` elements of `width` floats.
fn check_reduce(reduce: &Reduce, len: usize, width: usize) -> Result<(), String> {
    match reduce {
        Reduce::Position(logits) if (logits.rows, logits.cols) != (1, len) => {
            Err(format!("{} position logits for at most {len} elements", logits.rows.saturating_mul(logits.cols)))
        }
        Reduce::Mean | Reduce::Position(_) => Ok(()),
        Reduce::Attention(encoder) => check_encoder(encoder, len, width),
    }
}

/// Checks that a reduction reads the intervals that its field has.
fn check_intervals(reduce: &Reduce, shape: &FieldShape) -> Result<(), String> {
    let read = match reduce {
        Reduce::Attention(encoder) => encoder.shape().intervals,
        Reduce::Mean | Reduce::Position(_) => None,
    };
    let given = shape.intervals().map(|intervals| intervals.span);
    let text = |span: Option<u32>| span.map_or("no intervals".to_string(), |span| format!("intervals up to {span}"));
    if read == given { Ok(()) } else { Err(format!("{} in the field, its encoder reads {}", text(given), text(read))) }
}

/// Checks an encoder of at most `len` elements of `width` floats.
fn check_encoder(encoder: &Encoder, len: usize, width: usize) -> Result<(), String> {
    let (blocks, heads, order) = (encoder.blocks.len(), encoder.heads, encoder.order);
    if !(1..=MAX_BLOCKS).contains(&blocks) {
        return Err(format!("an encoder of {blocks} blocks, expected 1 to {MAX_BLOCKS}"));
    }
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("{heads} heads, which do not divide the width {width} of the table"));
    }
    let has_output = encoder.blocks.iter().all(|block| block.output.is_some() == order.has_output());
    if !has_output || encoder.last.is_some() != order.has_last_norm() {
        return Err(format!("an encoder without the parts that its order of norms, {order:?}, has"));
    }
    encoder.block.check()?;
    if !encoder.block.kind.allows(order) {
        return Err(format!("blocks of the kind {:?} beside the order of norms {order:?}", encoder.block.kind));
    }
    if encoder.blocks.iter().any(|block| block.gates.is_some() != encoder.block.kind.has_gates()) {
        return Err("an encoder of which some parts have gates and others not".into());
    }
    if let Some(streams) = encoder.streams {
        streams.check()?;
        if !order.has_streams() {
            return Err(format!("streams beside the order of norms {order:?}, which has none"));
        }
    }
    if encoder.blocks.iter().any(|block| block.streams.is_some() != encoder.streams.is_some()) {
        return Err("an encoder of which some parts have streams and others not".into());
    }
    let shape = encoder.shape();
    encoder.try_map(&mut |parameter, weight| {
        let (expected, found) = (shape.extents(&parameter, width, len), (weight.rows, weight.cols));
        if found == expected { Ok(()) } else { Err(format!("{} {found:?}, expected {expected:?}", parameter.name)) }
    })?;
    Ok(())
}

/// Final and largest width of the layers.
fn check_layers(tower: &Tower, input_width: usize) -> Result<(usize, usize), String> {
    let mut width = input_width;
    let mut max_width = width;
    for (i, layer) in tower.layers.iter().enumerate() {
        check_layer(layer, width).map_err(|reason| format!("layer {i}: {reason}"))?;
        width = layer.output(width, |weight| (weight.rows, weight.cols));
        max_width = max_width.max(width);
    }
    Ok((width, max_width))
}

/// Checks a layer of `width` inputs.
fn check_layer(layer: &Layer, width: usize) -> Result<(), String> {
    match layer {
        Layer::Linear { weight, bias } if weight.cols != width || (1, weight.rows) != (bias.rows, bias.cols) => {
            let (rows, cols, biases) = (weight.rows, weight.cols, bias.rows.saturating_mul(bias.cols));
            Err(format!("weight [{rows}, {cols}] and {biases} biases for {width} inputs"))
        }
        Layer::Prelu { slope } if (slope.rows, slope.cols) != (1, width) => {
            Err(format!("{} slopes for {width} inputs", slope.rows.saturating_mul(slope.cols)))
        }
        Layer::LayerNorm { gain, bias, .. } if [gain, bias].iter().any(|w| (w.rows, w.cols) != (1, width)) => {
            Err(format!("{} gains and {} biases for {width} inputs", gain.cols, bias.cols))
        }
        Layer::LayerNorm { eps, .. } if !(*eps >= MIN_VARIANCE && eps.is_finite()) => {
            Err(format!("{eps:e} added to the variance, expected at least {MIN_VARIANCE:e}"))
        }
        Layer::Coalesce { default }
            if default.rows != 1 || default.cols == 0 || width == 0 || !width.is_multiple_of(default.cols) =>
        {
            let values = default.rows.saturating_mul(default.cols);
            Err(format!("a default of {values} values for {width} inputs, which are parts of that width"))
        }
        Layer::L2Norm { eps } if !(*eps >= MIN_EPS && eps.is_finite()) => {
            Err(format!("lower bound {eps:e} of the norm, expected at least {MIN_EPS:e}"))
        }
        Layer::Linear { .. }
        | Layer::Prelu { .. }
        | Layer::Relu
        | Layer::LayerNorm { .. }
        | Layer::Coalesce { .. }
        | Layer::L2Norm { .. } => Ok(()),
    }
}

fn check_matrix(matrix: &Matrix) -> Result<(), String> {
    if matrix.rows.checked_mul(matrix.cols) != Some(matrix.data.len()) || matrix.data.is_empty() {
        return Err(format!("{} values for shape [{}, {}]", matrix.data.len(), matrix.rows, matrix.cols));
    }
    Ok(())
}

fn table_width(tower: &Tower, field: &str, table: &str, expected: &str, cardinality: u32) -> Result<usize, String> {
    if table != expected {
        return Err(format!("field `{field}`: table `{table}`, its schema says `{expected}`"));
    }
    let found = tower.tables.get(table).ok_or_else(|| format!("field `{field}`: table `{table}` is missing"))?;
    if found.rows != cardinality as usize || cardinality > i32::MAX as u32 {
        return Err(format!("field `{field}`: table `{table}` has {} rows, cardinality {cardinality}", found.rows));
    }
    Ok(found.cols)
}

/// Checks a batch against its schema: [`CodeBatch::check`], and that the rows of ragged columns follow one another.
///
/// # Errors
/// [`ArtifactError::BatchShape`] or [`ArtifactError::CodeOutOfRange`], naming field and row.
pub(crate) fn check_batch(schema: &TowerSchema, batch: &CodeBatch) -> Result<(), ArtifactError> {
    for (field, column) in schema.fields.iter().zip(&batch.columns) {
        let Column::Ragged(ragged) = column else { continue };
        let ordered = ragged.offsets.first().is_none_or(|first| *first == 0) && ragged.offsets.is_sorted();
        let last = ragged.offsets.last().map_or(0, |last| *last as usize);
        if !ordered || last != ragged.values.len() {
            let reason = format!(
                "column `{}` has rows that do not follow one another up to its {} elements",
                field.name,
                ragged.values.len()
            );
            return Err(ArtifactError::BatchShape { side: schema.side, reason });
        }
    }
    batch.check(schema)
}
