//! What scores an item for a user, and towers whose cosine ranks as an inner product does.

use crate::tower::{Layer, Matrix, Tower};
use serde::{Deserialize, Serialize};

/// What scores an item for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Similarity {
    /// The cosine of their vectors.
    #[default]
    Cosine,
    /// The inner product of their vectors: the length of an item's vector counts, and popular items get long ones.
    Dot,
}

impl Similarity {
    /// Width of the vectors of exported towers, of a model whose own vectors have `dim` numbers.
    pub(crate) fn width(self, dim: usize) -> usize {
        match self {
            Similarity::Cosine => dim,
            Similarity::Dot => dim + 1,
        }
    }
}

/// Lower bound of the norm by which vectors are divided.
pub(crate) const NORM_FLOOR: f32 = 1e-6;

/// Towers of one more coordinate whose cosine ranks items as the inner product of the given towers' vectors does.
///
/// Let R be the length of the longest item vector v. Items become `[v, √(R² - ‖v‖²)] / R` and users `[u, 0] / ‖u‖`, so the
/// cosine is `⟨u, v⟩ / (‖u‖ R)`, and R is the same for all items (Bachrach et al., RecSys 2014, section 3.1).
///
/// Both towers say R ([`Tower::inner_product_scale`]), so that R times a cosine is the inner product `⟨u, v⟩ / ‖u‖` with the
/// user's direction. Where no item vector has a length, there is none.
///
/// Every table of the item tower is taken to hold item vectors: it has one input, which is a row of a table, and no layers.
pub(crate) fn cosine_of_inner_product(mut user: Tower, mut item: Tower) -> (Tower, Tower) {
    let dim = user.dim;
    let mut identity = Matrix { rows: dim + 1, cols: dim, data: vec![0.0; (dim + 1) * dim] };
    (0..dim).for_each(|i| identity.data[i * dim + i] = 1.0);
    user.layers.push(Layer::Linear { weight: identity, bias: Matrix::vector(vec![0.0; dim + 1]) });
    let longest = item.tables.values_mut().map(lengthen).fold(0.0, f32::max);
    for tower in [&mut user, &mut item] {
        tower.inner_product_scale = (longest > 0.0 && longest.is_finite()).then_some(longest);
        tower.layers.push(Layer::L2Norm { eps: NORM_FLOOR });
        tower.dim += 1;
    }
    (user, item)
}

/// Gives each row a coordinate that makes all rows as long as the longest one, and returns that length.
fn lengthen(table: &mut Matrix) -> f32 {
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    let rows = || table.data.chunks_exact(table.cols);
    let longest = rows().map(square).fold(0.0, f64::max);
    let data = rows().flat_map(|row| {
        let missing = (longest - square(row)).max(0.0).sqrt() as f32;
        row.iter().copied().chain(std::iter::once(missing))
    });
    *table = Matrix { rows: table.rows, cols: table.cols + 1, data: data.collect() };
    longest.sqrt() as f32
}

/// Item vectors whose inner product with users' vectors is the plain cosine of a model's own vectors, made from those of
/// its towers, `[items, dim + 1]`: without the coordinate that made them as long as the longest one, and of length one.
///
/// An item without a length has the cosine 0 with everybody.
pub fn own_directions(items: &Matrix) -> Matrix {
    let mut own = items.clone();
    for row in own.data.chunks_exact_mut(items.cols) {
        if let Some((added, own)) = row.split_last_mut() {
            *added = 0.0;
            let norm = own.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            if norm > 0.0 {
                own.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn the_cosine_of_lengthened_rows_is_the_inner_product_over_the_longest_length() {
        let mut rng = Rng::at(3, &[]);
        let (rows, cols) = (40, 6);
        let data: Vec<f32> = (0..rows * cols).map(|i| (rng.normal() * (1.0 + (i / cols) as f64)) as f32).collect();
        let table = Matrix { rows, cols, data };
        let mut long = table.clone();
        let scale = f64::from(lengthen(&mut long));
        let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let longest = table.data.chunks_exact(cols).map(norm).fold(0.0, f64::max);
        assert!((scale / longest - 1.0).abs() < 1e-6, "{scale}");
        let user: Vec<f32> = (0..cols).map(|_| rng.normal() as f32).collect();
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        for (row, long) in table.data.chunks_exact(cols).zip(long.data.chunks_exact(cols + 1)) {
            assert!((norm(long) / longest - 1.0).abs() < 1e-6);
            let cosine = product(&user, &long[..cols]) / norm(&user) / norm(long);
            let expected = product(&user, row) / norm(&user) / longest;
            assert!((cosine - expected).abs() < 1e-7, "{cosine}, expected {expected}");
        }
        let own = own_directions(&long);
        let unit = user.iter().map(|x| x / norm(&user) as f32).chain([0.0]).collect::<Vec<f32>>();
        for (row, own) in table.data.chunks_exact(cols).zip(own.data.chunks_exact(cols + 1)) {
            let cosine = product(&user, row) / norm(&user) / norm(row);
            assert!((product(&unit, own) - cosine).abs() < 1e-6, "{own:?}, expected {cosine}");
        }
        assert_eq!(own_directions(&Matrix { rows: 1, cols: 3, data: vec![0.0, 0.0, 2.0] }).data, [0.0; 3]);
        // A table without any length stays without a direction.
        let mut empty = Matrix { rows: 2, cols: 1, data: vec![0.0; 2] };
        assert_eq!(lengthen(&mut empty), 0.0);
        assert_eq!(empty, Matrix { rows: 2, cols: 2, data: vec![0.0; 4] });
    }
}
