//! Parameters in named groups, and their gradients: dense groups whole, tables by touched rows.

use crate::error::ModelError;
use crate::pages::zeroed;
use crate::rng::Rng;
use crate::sparse::SparseGradient;
use crate::tables::EMBEDDING_DEVIATION;
use crate::tower::encoder::{Encoder, EncoderShape};
use crate::tower::{Layer, Matrix};
use serde::{Deserialize, Serialize};

/// A small parameter that every step updates as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dense {
    /// Unique name, such as `user/linear0/weight`.
    pub name: String,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values.
    pub values: Vec<f32>,
    /// Whether weight decay applies. It does for weights, but not for biases, slopes and scalars.
    pub decay: bool,
}

/// An embedding table. A step updates only the rows it touched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Unique name: the vocabulary's.
    pub name: String,
    /// Number of slots.
    pub rows: usize,
    /// Floats per row.
    pub dim: usize,
    /// `rows * dim` values.
    pub values: Vec<f32>,
}

impl Dense {
    /// Number of rows and of columns.
    pub(crate) fn extents(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The values as a matrix.
    pub(crate) fn matrix(&self) -> Matrix {
        Matrix { rows: self.rows, cols: self.cols, data: self.values.clone() }
    }
}

impl Table {
    /// The values as a matrix.
    pub(crate) fn matrix(&self) -> Matrix {
        Matrix { rows: self.rows, cols: self.dim, data: self.values.clone() }
    }

    /// One row.
    pub(crate) fn row(&self, code: u32) -> &[f32] {
        &self.values[code as usize * self.dim..][..self.dim]
    }
}

/// All parameters of a model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Parameters {
    /// Dense groups.
    pub dense: Vec<Dense>,
    /// Embedding tables.
    pub tables: Vec<Table>,
}

impl Parameters {
    /// Adds a dense group and returns its index.
    pub(crate) fn add_dense(&mut self, name: String, rows: usize, cols: usize, decay: bool, values: Vec<f32>) -> usize {
        debug_assert_eq!(values.len(), rows * cols);
        self.dense.push(Dense { name, rows, cols, values, decay });
        self.dense.len() - 1
    }

    /// Adds the groups of a linear layer: weights uniform in ±sqrt(6 / (input + output)) (Glorot and Bengio,
    /// AISTATS 2010), bias zero.
    pub(crate) fn add_linear(&mut self, name: &str, input: usize, output: usize, mut rng: Rng) -> Layer<usize> {
        let bound = (6.0 / (input + output) as f64).sqrt();
        let values = (0..input * output).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect();
        let weight = self.add_dense(format!("{name}/weight"), output, input, true, values);
        let bias = self.add_dense(format!("{name}/bias"), 1, output, false, vec![0.0; output]);
        Layer::Linear { weight, bias }
    }

    /// Adds the groups of a layer norm: gain 1, bias 0.
    pub(crate) fn add_layer_norm(&mut self, name: &str, width: usize) -> Layer<usize> {
        let gain = self.add_dense(format!("{name}/gain"), 1, width, false, vec![1.0; width]);
        let bias = self.add_dense(format!("{name}/bias"), 1, width, false, vec![0.0; width]);
        Layer::LayerNorm { gain, bias, eps: 1e-5 }
    }

    /// Adds the groups of an encoder of a sequence: weights as those of [`Parameters::add_linear`], positions, intervals
    /// and the result of an empty sequence like embeddings, gains 1, biases 0, and streams as they are defined, with gates
    /// of `gate`. `draw` gives the random numbers of each.
    pub(crate) fn add_encoder(
        &mut self,
        name: &str,
        (shape, gate): (EncoderShape, f32),
        dim: usize,
        max_len: usize,
        draw: impl Fn(u64) -> Rng,
    ) -> Encoder<usize> {
        shape.encoder().map_parameters(|parameter| {
            let (rows, cols) = shape.extents(&parameter, dim, max_len);
            let mut rng = draw(self.dense.len() as u64);
            let is_table = parameter.is_embedding();
            let bound = (6.0 / (rows + cols) as f64).sqrt();
            let value = |_| match parameter.rank {
                _ if is_table => (rng.normal() * EMBEDDING_DEVIATION) as f32,
                2 => ((rng.uniform() * 2.0 - 1.0) * bound) as f32,
                _ => f32::from(parameter.is_gain()),
            };
            let start = shape.streams.and_then(|streams| streams.start(&parameter, dim, gate));
            let values = start.unwrap_or_else(|| (0..rows * cols).map(value).collect());
            let block = parameter.block.map_or(String::new(), |block| format!("block{block}/"));
            let decays = parameter.rank == 2 && !is_table;
            self.add_dense(format!("{name}/{block}{}", parameter.name), rows, cols, decays, values)
        })
    }

    /// Takes the values of an earlier model of the same shape: all dense groups, and the rows that the earlier
    /// tables had. New rows become copies of the earlier unknown row.
    ///
    /// # Errors
    /// [`ModelError::Shape`] when groups, widths or row counts do not fit.
    pub(crate) fn warm_start(&mut self, earlier: &Parameters) -> Result<(), ModelError> {
        let advice = "yesterday's model has another shape: train from scratch, or restore its settings";
        let differs = |parameter: &str, expected: String, found: String| ModelError::Shape {
            parameter: parameter.to_string(),
            expected,
            found,
            advice,
        };
        let absent = |name: &str| differs(name, "a parameter of this name".into(), "none".into());
        for old in &earlier.dense {
            if !self.dense.iter().any(|new| new.name == old.name) {
                return Err(differs(&old.name, "no such parameter".into(), format!("[{}, {}]", old.rows, old.cols)));
            }
        }
        for new in &mut self.dense {
            let old = earlier.dense.iter().find(|old| old.name == new.name).ok_or_else(|| absent(&new.name))?;
            if (old.rows, old.cols) != (new.rows, new.cols) {
                return Err(differs(
                    &new.name,
                    format!("[{}, {}]", new.rows, new.cols),
                    format!("[{}, {}]", old.rows, old.cols),
                ));
            }
            new.values.copy_from_slice(&old.values);
        }
        for new in &mut self.tables {
            let old = earlier.tables.iter().find(|old| old.name == new.name).ok_or_else(|| absent(&new.name))?;
            if old.dim != new.dim || old.rows > new.rows {
                return Err(differs(
                    &new.name,
                    format!("at most {} rows of width {}", new.rows, new.dim),
                    format!("{} rows of width {}", old.rows, old.dim),
                ));
            }
            let (kept, added) = new.values.split_at_mut(old.values.len());
            kept.copy_from_slice(&old.values);
            for row in added.chunks_exact_mut(old.dim) {
                row.copy_from_slice(old.row(twotower_artifacts::schema::UNKNOWN));
            }
        }
        Ok(())
    }
}

/// The gradient of a table.
#[derive(Debug)]
pub enum TableGradient {
    /// The gradients of the rows that a step touched. The others do not move.
    Rows(SparseGradient),
    /// The gradients of all rows, `[rows, dim]`, for tables of which every step touches most rows.
    Whole(Vec<f32>),
}

impl TableGradient {
    /// A gradient of touched rows, without any.
    pub(crate) fn rows(table: &Table) -> Self {
        TableGradient::Rows(SparseGradient::new(table.rows, table.dim))
    }

    /// A gradient of all rows, which is zero.
    pub fn whole(table: &Table) -> Self {
        TableGradient::Whole(zeroed(table.values.len()))
    }

    /// The gradients of all rows, of a table that has them.
    ///
    /// # Panics
    /// When the table has gradients of touched rows only: a bug in the model that asks.
    pub(crate) fn all_rows(&mut self) -> &mut [f32] {
        match self {
            TableGradient::Whole(values) => values,
            TableGradient::Rows(_) => unreachable!("the model asked for the gradients of all rows"),
        }
    }

    /// The touched rows, and their gradients, of a table that has no others.
    ///
    /// # Panics
    /// When the table has gradients of all rows: a bug in the model that asks.
    pub(crate) fn touched_rows(&self) -> (&[u32], &[f32]) {
        match self {
            TableGradient::Rows(sparse) => (sparse.rows(), sparse.values()),
            TableGradient::Whole(_) => unreachable!("the model asked for the gradients of touched rows"),
        }
    }

    fn clear(&mut self) {
        match self {
            TableGradient::Rows(sparse) => sparse.clear(),
            TableGradient::Whole(values) => values.fill(0.0),
        }
    }

    /// All values that may differ from zero.
    pub(crate) fn values(&self) -> &[f32] {
        match self {
            TableGradient::Rows(sparse) => sparse.values(),
            TableGradient::Whole(values) => values,
        }
    }
}

/// Gradients of one step, parallel to [`Parameters`].
#[derive(Debug)]
pub struct Gradients {
    /// `[dense groups]` gradients.
    pub dense: Vec<Vec<f32>>,
    /// `[tables]` gradients.
    pub tables: Vec<TableGradient>,
    /// Working memory: the gradients of the towers' concatenated inputs, which are summed up for each row.
    pub(crate) inputs: Vec<f32>,
}

impl Gradients {
    /// Zero gradients for the given parameters.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            dense: zeros(parameters),
            tables: parameters.tables.iter().map(TableGradient::rows).collect(),
            inputs: Vec::new(),
        }
    }

    /// Sets all gradients to zero, keeping the allocations.
    pub fn clear(&mut self) {
        self.dense.iter_mut().for_each(|g| g.fill(0.0));
        self.tables.iter_mut().for_each(TableGradient::clear);
    }
}

/// One zero vector per dense group.
pub(crate) fn zeros(parameters: &Parameters) -> Vec<Vec<f32>> {
    parameters.dense.iter().map(|p| vec![0.0; p.values.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::Category;

    fn parameters(rows: usize, fill: f32) -> Parameters {
        let values = (0..rows * 2).map(|i| fill + i as f32).collect();
        Parameters {
            dense: vec![Dense { name: "w".into(), rows: 1, cols: 2, values: vec![fill; 2], decay: true }],
            tables: vec![Table { name: "city".into(), rows, dim: 2, values }],
        }
    }

    #[test]
    fn warm_start_copies_old_rows_and_fills_new_ones_from_the_unknown_row() {
        let old = parameters(5, 10.0);
        let mut new = parameters(7, 500.0);
        new.warm_start(&old).unwrap();
        assert_eq!(new.dense, old.dense);
        assert_eq!(new.tables[0].values[..10], old.tables[0].values[..]);
        assert_eq!(new.tables[0].row(5), old.tables[0].row(2));
        assert_eq!(new.tables[0].row(6), old.tables[0].row(2));
    }

    #[test]
    fn warm_start_refuses_another_shape() {
        let mut other_width = parameters(5, 0.0);
        other_width.dense[0] = Dense { cols: 3, values: vec![0.0; 3], ..other_width.dense[0].clone() };
        let mut extra = parameters(5, 0.0);
        extra.dense.push(Dense { name: "more".into(), ..extra.dense[0].clone() });
        for old in [parameters(9, 0.0), other_width, extra, Parameters::default()] {
            let error = parameters(7, 0.0).warm_start(&old).unwrap_err();
            assert_eq!(error.category(), Category::Mismatch, "{error}");
        }
    }
}
