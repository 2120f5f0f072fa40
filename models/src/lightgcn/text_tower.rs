//! The exported tower of items that have texts: the vector of a known item, or what a text alone says of a new one.
//!
//! Its input is `[row | text | flag]`, where the row is that of the item's id, and zero for an unknown one. A linear layer
//! makes `[row | P t]` of it, and the layer `Coalesce` takes the first of the two that is not zero, or the vector of
//! unknown items.

use super::text::Projected;
use crate::similarity::Similarity;
use crate::tower::{Input, Layer, Matrix, Tower};
use twotower_artifacts::TowerSchema;
use twotower_artifacts::schema::{FIRST_VALUE, UNKNOWN};

/// Makes a tower of item vectors, whose one input is a row of a table, read texts for items that the table does not know.
/// `schema` has the id and the text.
///
/// With `similarity = "dot"`, the rows v of the table are `[v, √(R² - ‖v‖²)]`, of the length R of the longest one. A tower
/// cannot take roots, so new items get the root of `R² - m`, where m is the mean of `‖P t‖²` over the texts of training. What
/// scores them is then off by a factor of `√(1 + (‖P t‖² - m) / R²)` at most, which is close to 1: P t, divided by the number
/// of layers, is short beside the longest vector. An item without a text must be zero there too, so the coordinate is made as
/// `max(k - 2 k · flag, 0)`.
pub(super) fn reading_text(
    mut tower: Tower,
    schema: TowerSchema,
    similarity: Similarity,
    Projected { matrix, mean_square }: Projected,
) -> Tower {
    let (dim, width, given) = (tower.dim, matrix.cols, matrix.cols + 1);
    let input = dim + given;
    let mut default = vec![0.0; dim];
    for table in tower.tables.values_mut() {
        default.copy_from_slice(&table.data[UNKNOWN as usize * dim..][..dim]);
        // No value has these rows.
        table.data[..FIRST_VALUE as usize * dim].fill(0.0);
    }
    let mut weight = Matrix { rows: 2 * dim, cols: input, data: vec![0.0; 2 * dim * input] };
    (0..dim).for_each(|i| weight.data[i * input + i] = 1.0);
    for (i, axis) in matrix.data.chunks_exact(width).enumerate() {
        weight.data[(dim + i) * input + dim..][..width].copy_from_slice(axis);
    }
    let mut bias = vec![0.0; 2 * dim];
    let mut slope = vec![1.0; 2 * dim];
    let mut layers = Vec::new();
    match similarity {
        Similarity::Cosine => layers.push(Layer::Linear { weight, bias: Matrix::vector(bias) }),
        Similarity::Dot => {
            let square: f64 = default.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let added = (square - mean_square).max(0.0).sqrt() as f32;
            let last = 2 * dim - 1;
            weight.data[last * input + dim + width] = -2.0 * added;
            (bias[last], slope[last]) = (added, 0.0);
            layers.push(Layer::Linear { weight, bias: Matrix::vector(bias) });
            layers.push(Layer::Prelu { slope: Matrix::vector(slope) });
        }
    }
    layers.push(Layer::Coalesce { default: Matrix::vector(default) });
    layers.append(&mut tower.layers);
    tower.inputs.push(Input::Dense);
    Tower { schema, layers, ..tower }
}
