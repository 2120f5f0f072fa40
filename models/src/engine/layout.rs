//! What a tower must satisfy before any engine runs it, and a batch before it is embedded.

use crate::error::ModelError;
use crate::tower::{Layer, Matrix, Pooling, Tower, TowerInput};
use std::collections::BTreeSet;
use twotower_artifacts::{ArtifactError, CodeBatch, Column, FieldShape, TowerSchema};

/// Widths of a checked tower.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Floats per row of the concatenated inputs.
    pub input_width: usize,
    /// Floats per row of the widest of inputs and layers.
    pub max_width: usize,
    /// The most elements a row of any field can have.
    pub max_len: usize,
}

/// Smallest divisor that [`Layer::L2Norm`] may have.
const MIN_EPS: f32 = 1e-6;

/// Checks that the parts of a tower fit together.
///
/// # Errors
/// [`ModelError::Tower`] naming the part.
pub(crate) fn check_tower(tower: &Tower) -> Result<Layout, ModelError> {
    layout(tower).map_err(|reason| ModelError::Tower { side: tower.schema.side, reason })
}

fn layout(tower: &Tower) -> Result<Layout, String> {
    for (name, table) in &tower.tables {
        check_matrix(table).map_err(|reason| format!("table `{name}`: {reason}"))?;
    }
    let fields = &tower.schema.fields;
    if fields.is_empty() || tower.inputs.len() != fields.len() {
        return Err(format!(
            "{} fields and {} inputs, expected as many and at least 1",
            fields.len(),
            tower.inputs.len()
        ));
    }
    let mut names = BTreeSet::new();
    let mut used = BTreeSet::new();
    let mut input_width = 0usize;
    let mut max_len = 0;
    for (field, input) in fields.iter().zip(&tower.inputs) {
        let name = &field.name;
        if name.is_empty() || name.contains('\0') || !names.insert(name) {
            return Err(format!("field name `{}` is empty, or not a text, or used twice", name.escape_default()));
        }
        let width = match (input, &field.shape) {
            (TowerInput::Dense, FieldShape::Dense { width }) => *width as usize,
            (TowerInput::Embedding { table }, FieldShape::Code { table: expected, cardinality }) => {
                used.insert(table);
                table_width(tower, name, table, expected, *cardinality)?
            }
            (
                TowerInput::Pooled { table, pooling },
                FieldShape::Bag { table: expected, cardinality, max_len: len }
                | FieldShape::Sequence { table: expected, cardinality, max_len: len },
            ) => {
                let len = *len as usize;
                let logits = if let Pooling::Position(logits) = pooling { logits.len() } else { len };
                if len == 0 || logits != len {
                    return Err(format!("field `{name}`: {logits} position logits for at most {len} elements"));
                }
                max_len = max_len.max(len);
                used.insert(table);
                table_width(tower, name, table, expected, *cardinality)?
            }
            (input, shape) => return Err(format!("field `{name}`: input {input:?} cannot take shape {shape:?}")),
        };
        input_width = input_width.checked_add(width).filter(|w| *w <= i32::MAX as usize).ok_or("inputs too wide")?;
    }
    if let Some(unused) = tower.tables.keys().find(|t| !used.contains(t)) {
        return Err(format!("table `{unused}` belongs to no field"));
    }
    let (width, max_width) = check_layers(tower, input_width)?;
    if width != tower.dim || width == 0 {
        return Err(format!("the last layer has {width} outputs, the tower's dimension is {}", tower.dim));
    }
    Ok(Layout { input_width, max_width, max_len })
}

/// Final and largest width of the layers.
fn check_layers(tower: &Tower, input_width: usize) -> Result<(usize, usize), String> {
    let mut width = input_width;
    let mut max_width = width;
    for (i, layer) in tower.layers.iter().enumerate() {
        let refuse = |reason: String| format!("layer {i}: {reason}");
        match layer {
            Layer::Linear { weight, bias } => {
                check_matrix(weight).map_err(refuse)?;
                if weight.cols != width || weight.rows != bias.len() {
                    let (rows, cols, biases) = (weight.rows, weight.cols, bias.len());
                    return Err(refuse(format!("weight [{rows}, {cols}] and {biases} biases for {width} inputs")));
                }
                width = weight.rows;
                max_width = max_width.max(width);
            }
            Layer::Prelu { slope } if slope.len() != width => {
                return Err(refuse(format!("{} slopes for {width} inputs", slope.len())));
            }
            Layer::L2Norm { eps } if !(*eps >= MIN_EPS && eps.is_finite()) => {
                return Err(refuse(format!("lower bound {eps:e} of the norm, expected at least {MIN_EPS:e}")));
            }
            Layer::Prelu { .. } | Layer::Relu | Layer::L2Norm { .. } => {}
        }
    }
    Ok((width, max_width))
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

/// Checks a batch against its schema: [`CodeBatch::check`], and that no row is longer than its field allows.
///
/// # Errors
/// [`ArtifactError::BatchShape`] or [`ArtifactError::CodeOutOfRange`], naming field and row.
pub(crate) fn check_batch(schema: &TowerSchema, batch: &CodeBatch) -> Result<(), ArtifactError> {
    batch.check(schema)?;
    for (field, column) in schema.fields.iter().zip(&batch.columns) {
        let (FieldShape::Bag { max_len, .. } | FieldShape::Sequence { max_len, .. }, Column::Ragged(ragged)) =
            (&field.shape, column)
        else {
            continue;
        };
        let too_long = |row: &[u32]| row[1].checked_sub(row[0]).is_none_or(|len| len > *max_len);
        if let Some(row) = ragged.offsets.windows(2).position(too_long) {
            let reason = format!(
                "column `{}` runs from {} to {} at row {row}, expected at most {max_len} elements",
                field.name,
                ragged.offsets[row],
                ragged.offsets[row + 1]
            );
            return Err(ArtifactError::BatchShape { side: schema.side, reason });
        }
        if ragged.offsets.last().is_some_and(|end| *end as usize > ragged.codes.len()) {
            let reason = format!("column `{}` holds fewer elements than its rows", field.name);
            return Err(ArtifactError::BatchShape { side: schema.side, reason });
        }
    }
    Ok(())
}

/// Checks that `out` has room for exactly one vector per row.
///
/// # Errors
/// [`ModelError::OutputLength`].
pub(crate) fn check_output(rows: usize, dim: usize, out: &[f32]) -> Result<(), ModelError> {
    if out.len() != rows * dim {
        return Err(ModelError::OutputLength { expected: rows * dim, found: out.len() });
    }
    Ok(())
}
