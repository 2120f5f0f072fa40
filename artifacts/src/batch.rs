//! Encoded rows: what encoders produce and towers consume, column by column.

use crate::error::ArtifactError;
use crate::schema::{FieldShape, TowerSchema};

/// Rows of varying length, stored flat.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ragged {
    /// `[rows + 1]`; row r holds `values[offsets[r]..offsets[r + 1]]`. Empty means no rows.
    pub offsets: Vec<u32>,
    /// The elements of all rows, one after another.
    pub values: Vec<u32>,
    /// Of sequences with [intervals](crate::Intervals), the time of each element on their scale; else empty.
    pub times: Vec<i32>,
}

impl Ragged {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The elements of row `r`.
    pub fn row(&self, r: usize) -> &[u32] {
        &self.values[self.offsets[r] as usize..self.offsets[r + 1] as usize]
    }

    /// The times of the elements of row `r`; empty where elements have none.
    pub fn row_times(&self, r: usize) -> &[i32] {
        if self.times.is_empty() { &[] } else { &self.times[self.offsets[r] as usize..self.offsets[r + 1] as usize] }
    }

    /// Appends a row, whose times, if elements have any, are appended to `times` by the caller.
    pub fn push_row(&mut self, values: impl IntoIterator<Item = u32>) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.values.extend(values);
        self.offsets.push(self.values.len() as u32);
    }

    /// Removes all rows, keeping the allocation.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.values.clear();
        self.times.clear();
    }
}

/// One field of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// `[rows]` codes.
    Code(Vec<u32>),
    /// Codes of a [`FieldShape::Bag`] or [`FieldShape::Sequence`].
    Ragged(Ragged),
    /// `[rows, width]` floats, row-major.
    Dense {
        /// Floats per row.
        width: usize,
        /// The values.
        values: Vec<f32>,
    },
}

impl Column {
    /// An empty column of the given shape.
    pub fn empty(shape: &FieldShape) -> Self {
        match shape {
            FieldShape::Code { .. } => Column::Code(Vec::new()),
            FieldShape::Bag { .. } | FieldShape::Sequence { .. } => Column::Ragged(Ragged::default()),
            FieldShape::Dense { width } => Column::Dense { width: *width as usize, values: Vec::new() },
        }
    }

    /// Number of rows held.
    pub fn rows(&self) -> usize {
        match self {
            Column::Code(codes) => codes.len(),
            Column::Ragged(ragged) => ragged.rows(),
            Column::Dense { width, values } => values.len() / (*width).max(1),
        }
    }

    /// Removes all rows, keeping the allocation.
    pub fn clear(&mut self) {
        match self {
            Column::Code(codes) => codes.clear(),
            Column::Ragged(ragged) => ragged.clear(),
            Column::Dense { values, .. } => values.clear(),
        }
    }

    /// Appends row `r` of `from`, a column of the same shape.
    ///
    /// # Panics
    /// When the two columns have different shapes: a bug in the caller.
    pub fn push_from(&mut self, from: &Column, r: usize) {
        match (self, from) {
            (Column::Code(to), Column::Code(from)) => to.push(from[r]),
            (Column::Ragged(to), Column::Ragged(from)) => {
                to.push_row(from.row(r).iter().copied());
                to.times.extend_from_slice(from.row_times(r));
            }
            (Column::Dense { width, values }, Column::Dense { width: from_width, values: from })
                if width == from_width =>
            {
                values.extend_from_slice(&from[r * *width..(r + 1) * *width]);
            }
            _ => unreachable!("columns of one field have one shape"),
        }
    }
}

/// Rows of one side, encoded: one column per field of its [`TowerSchema`], in that order.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeBatch {
    /// Columns in schema order.
    pub columns: Vec<Column>,
}

impl CodeBatch {
    /// A batch without rows.
    pub fn empty(schema: &TowerSchema) -> Self {
        Self { columns: schema.fields.iter().map(|f| Column::empty(&f.shape)).collect() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, Column::rows)
    }

    /// Removes all rows, keeping the allocations.
    pub fn clear(&mut self) {
        self.columns.iter_mut().for_each(Column::clear);
    }

    /// Appends the given rows of `from`.
    pub fn extend_from_rows(&mut self, from: &CodeBatch, rows: impl IntoIterator<Item = usize> + Clone) {
        for (to, from) in self.columns.iter_mut().zip(&from.columns) {
            for r in rows.clone() {
                to.push_from(from, r);
            }
        }
    }

    /// Checks the batch against its schema: columns, row counts, widths, times, and that every code
    /// lies below its field's cardinality (ONNX `Gather` would wrap or clamp silently).
    ///
    /// # Errors
    /// [`ArtifactError::BatchShape`] or [`ArtifactError::CodeOutOfRange`], naming field and row.
    pub fn check(&self, schema: &TowerSchema) -> Result<(), ArtifactError> {
        let shape_error = |reason: String| ArtifactError::BatchShape { side: schema.side, reason };
        if self.columns.len() != schema.fields.len() {
            return Err(shape_error(format!("{} columns, expected {}", self.columns.len(), schema.fields.len())));
        }
        let rows = self.rows();
        for (field, column) in schema.fields.iter().zip(&self.columns) {
            if column.rows() != rows {
                return Err(shape_error(format!(
                    "column `{}` has {} rows, expected {rows}",
                    field.name,
                    column.rows()
                )));
            }
            let out_of_range = |row: usize, code: u32, cardinality: u32| ArtifactError::CodeOutOfRange {
                field: field.name.clone(),
                row,
                code,
                cardinality,
            };
            match (&field.shape, column) {
                (FieldShape::Code { cardinality, .. }, Column::Code(codes)) => {
                    if let Some(row) = first_not_below(*cardinality, codes) {
                        return Err(out_of_range(row, codes[row], *cardinality));
                    }
                }
                (
                    FieldShape::Bag { cardinality, .. } | FieldShape::Sequence { cardinality, .. },
                    Column::Ragged(ragged),
                ) => {
                    if let Some(at) = first_not_below(*cardinality, &ragged.values) {
                        let row = ragged.offsets.partition_point(|o| *o as usize <= at) - 1;
                        return Err(out_of_range(row, ragged.values[at], *cardinality));
                    }
                    let (found, elements) = (ragged.times.len(), ragged.values.len());
                    let expected = field.shape.intervals().map_or(0, |_| elements);
                    if found != expected {
                        return Err(shape_error(format!(
                            "column `{}` has {found} times of {elements} elements, expected {expected}",
                            field.name
                        )));
                    }
                }
                (FieldShape::Dense { width }, Column::Dense { width: found, .. }) if *width as usize == *found => {}
                _ => return Err(shape_error(format!("column `{}` is not of shape {:?}", field.name, field.shape))),
            }
        }
        Ok(())
    }
}

/// The position of the first code that is not below `cardinality`.
fn first_not_below(cardinality: u32, codes: &[u32]) -> Option<usize> {
    // The first pass has no early exit, so that it vectorises. It is nearly always the only one.
    let any = codes.iter().fold(false, |any, code| any | (*code >= cardinality));
    any.then(|| codes.iter().position(|code| *code >= cardinality)).flatten()
}
