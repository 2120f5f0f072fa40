//! Crosses of code fields. A linear first layer adds `W₁ⱼ eⱼ` for every field j. The table of a cross has, for each
//! combination of its fields' codes, the sum of these terms. So one row is added for several fields.

use crate::sparse::weighted_rows;
use crate::tower::layout::Layout;
use crate::tower::{Input, Layer, Matrix, Tower};
use rayon::prelude::*;
use std::ops::Range;
use twotower_artifacts::Column;

/// The most bytes of the table of a cross of several fields. The rows of common combinations must stay in the caches
/// nearest to a core, or fetching one costs more than adding the rows of its fields.
const CROSS_BYTES: usize = 2 << 20;

/// Code fields that are added together, with one row for each combination of their codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cross {
    /// The fields, each with its stride: by how much the row grows with each code.
    members: Vec<(usize, usize)>,
    /// Number of combinations.
    pub rows: usize,
}

impl Cross {
    /// A cross of one field, of any kind: a table of `rows` rows, or a dense field of `rows` floats.
    pub fn alone(field: usize, rows: usize) -> Self {
        Self { members: vec![(field, 1)], rows }
    }

    /// Numbers of the fields.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = usize> {
        self.members.iter().map(|(field, _)| *field)
    }

    /// Adds a field of `cardinality` codes.
    fn join(&mut self, field: usize, cardinality: usize) {
        self.members.push((field, self.rows));
        self.rows *= cardinality;
    }

    /// Writes to `out`, for each of the given rows of a checked batch, the row of the cross that its codes select.
    pub fn combine(&self, columns: &[Column], rows: Range<usize>, out: &mut [i32]) {
        out[..rows.len()].fill(0);
        for (field, stride) in &self.members {
            let Column::Code(codes) = &columns[*field] else {
                unreachable!("crosses are made of code fields, and the batch was checked against their schema")
            };
            // A cross has at most as many rows as fit into its bytes or as one table has, so the sum is below 2³¹.
            out.iter_mut().zip(&codes[rows.clone()]).for_each(|(out, code)| *out += (code * *stride as u32) as i32);
        }
    }

    /// Computes for each combination what it adds to the first layer of a checked tower, plus `base`, and writes it to
    /// `out`, `[rows, out]`. `keep` converts a row to the form of `out`. Runs on the threads of the current rayon pool.
    pub fn write<T: Send>(
        &self,
        tower: &Tower,
        layout: &Layout,
        weight: &Matrix,
        base: &[f32],
        out: &mut [T],
        keep: impl Fn(&[f32], &mut [T]) + Sync,
    ) {
        let Some(((last, _), others)) = self.members.split_last() else { return };
        let folded = |field: usize| FieldProduct::of(tower, layout, weight, field);
        let mut bases = base.to_vec();
        for (field, _) in others {
            let folded = folded(*field);
            let mut sums = vec![0.0; folded.rows() * bases.len()];
            folded.add(&bases, &mut sums, |row, out| out.copy_from_slice(row));
            bases = sums;
        }
        folded(*last).add(&bases, out, keep);
    }
}

/// The product of a field's table with the columns of the first layer that belong to the field.
struct FieldProduct<'a> {
    /// None for dense fields, for which each column is a row of the product.
    table: Option<&'a Matrix>,
    /// `[width of the field, out]`.
    columns: Vec<f32>,
    out: usize,
}

impl<'a> FieldProduct<'a> {
    fn of(tower: &'a Tower, layout: &Layout, weight: &Matrix, field: usize) -> Self {
        let table = tower.inputs[field].table().map(|table| &tower.tables[table]);
        Self { table, columns: transposed(weight, layout.columns(field)), out: weight.rows }
    }

    fn rows(&self) -> usize {
        self.table.map_or(self.columns.len() / self.out, |table| table.rows)
    }

    /// Writes to `out` the sums of each row with each of `bases`, `[_, out]`. The sums with the first row come first.
    fn add<T: Send>(&self, bases: &[f32], out: &mut [T], keep: impl Fn(&[f32], &mut [T]) + Sync) {
        /// The number of sums from which on another thread pays.
        const SHARE: usize = 256;
        let sums = out.par_chunks_exact_mut(bases.len()).enumerate();
        sums.with_min_len((SHARE * self.out).div_ceil(bases.len())).for_each_init(
            || (vec![0.0; self.out], Vec::new()),
            |(sum, uses), (row, out)| {
                uses.clear();
                match self.table {
                    Some(table) => uses.extend((0..).zip(table.data[row * table.cols..][..table.cols].iter().copied())),
                    None => uses.push((row as u32, 1.0)),
                }
                for (base, out) in bases.chunks_exact(self.out).zip(out.chunks_exact_mut(self.out)) {
                    weighted_rows(sum, Some(base), &self.columns, uses);
                    keep(sum, out);
                }
            },
        );
    }
}

/// The given columns of a matrix as rows, one after the other.
pub(crate) fn transposed(matrix: &Matrix, columns: impl IntoIterator<Item = usize>) -> Vec<f32> {
    let rows = 0..matrix.rows;
    columns.into_iter().flat_map(|c| rows.clone().map(move |r| matrix.data[r * matrix.cols + c])).collect()
}

/// Weight and bias of the first layer. None if it is not linear.
pub(crate) fn first_layer(tower: &Tower) -> Option<(&Matrix, &[f32])> {
    match tower.layers.first() {
        Some(Layer::Linear { weight, bias }) => Some((weight, &bias.data)),
        _ => None,
    }
}

/// Crosses code fields for a first layer of `out` outputs, those with the smallest tables first. A cross takes at most
/// [`CROSS_BYTES`], and crossing adds at most `room` rows to the tables in all. A field that is not crossed with any
/// other is a cross by itself.
pub(crate) fn crosses(tower: &Tower, fields: impl IntoIterator<Item = usize>, out: usize, room: usize) -> Vec<Cross> {
    let mut tables: Vec<(usize, usize)> = fields
        .into_iter()
        .filter_map(|field| match &tower.inputs[field] {
            Input::Embedding { table } => Some((tower.tables[table].rows, field)),
            _ => None,
        })
        .collect();
    tables.sort_unstable();
    let (mut crosses, mut room) = (Vec::<Cross>::new(), room);
    for (rows, field) in tables {
        let last = crosses.last_mut().filter(|cross| {
            let crossed = cross.rows.saturating_mul(rows);
            crossed <= CROSS_BYTES / (4 * out.max(1)) && crossed <= room + cross.rows + rows
        });
        match last {
            Some(cross) => {
                room = room + cross.rows + rows - cross.rows * rows;
                cross.join(field, rows);
            }
            None => crosses.push(Cross::alone(field, rows)),
        }
    }
    crosses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::samples::{Draw, batch, tower};
    use crate::tower::layout::check_tower;
    use twotower_artifacts::FieldShape;

    fn code(name: &str, cardinality: u32) -> (&str, FieldShape, Option<crate::tower::Reduce>) {
        (name, FieldShape::Code { table: name.into(), cardinality }, None)
    }

    fn sample() -> Tower {
        let fields = vec![
            code("large", 9000),
            code("b", 7),
            ("dense", FieldShape::Dense { width: 3 }, None),
            code("a", 5),
            code("c", 30),
        ];
        tower(&mut Draw::new(31), fields, 6, &[64, 8])
    }

    #[test]
    fn small_tables_are_crossed_first_within_both_bounds() {
        let tower = sample();
        let members = |crosses: Vec<Cross>| crosses.iter().map(|c| c.fields().collect()).collect::<Vec<Vec<_>>>();
        assert_eq!(members(crosses(&tower, 0..5, 64, usize::MAX / 2)), [vec![3, 1, 4], vec![0]]);
        // Crossing replaces 12 rows by 35. There is no room to replace 65 rows by 1,050.
        assert_eq!(members(crosses(&tower, 0..5, 64, 23)), [vec![3, 1], vec![4], vec![0]]);
        assert_eq!(members(crosses(&tower, 0..5, 64, 22)), [vec![3], vec![1], vec![4], vec![0]]);
        assert_eq!(members(crosses(&tower, [1, 4], CROSS_BYTES / 4 / 209, usize::MAX / 2)), [vec![1], vec![4]]);
        assert_eq!(members(crosses(&tower, [1, 4], CROSS_BYTES / 4 / 210, usize::MAX / 2)), [vec![1, 4]]);
    }

    #[test]
    fn a_row_of_a_cross_is_the_sum_of_its_fields() {
        let tower = sample();
        let layout = check_tower(&tower).unwrap();
        let (weight, _) = first_layer(&tower).unwrap();
        let rows = batch(&mut Draw::new(32), &tower.schema, 40);
        let crosses = crosses(&tower, 0..5, 64, usize::MAX / 2);
        let cross = &crosses[0];
        let mut table = vec![0.0; cross.rows * 64];
        cross.write(&tower, &layout, weight, &[0.5; 64], &mut table, |row, out| out.copy_from_slice(row));
        let mut found = [7; 12];
        cross.combine(&rows.columns, 20..31, &mut found);
        assert_eq!(found[11], 7);
        for (row, at) in (20..31).zip(found) {
            let expected = (0..64).map(|o| {
                let of = |field: usize| {
                    let Column::Code(codes) = &rows.columns[field] else { unreachable!() };
                    let table = &tower.tables[tower.inputs[field].table().unwrap()];
                    let embedded = &table.data[codes[row] as usize * table.cols..][..table.cols];
                    let columns = layout.columns(field).map(|c| weight.data[o * weight.cols + c]);
                    columns.zip(embedded).map(|(w, e)| w * e).sum::<f32>()
                };
                0.5 + cross.fields().map(of).sum::<f32>()
            });
            let sums = &table[at as usize * 64..][..64];
            assert!(sums.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
