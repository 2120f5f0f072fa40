//! Crosses of code fields: a first layer adds `W₁ⱼ eⱼ` for every field, so the fields of a cross add one row of a
//! table that has the sum of their rows for each combination of their codes.

use crate::sparse::weighted_rows;
use crate::tower::layout::Layout;
use crate::tower::{Input, Layer, Matrix, Tower};
use rayon::prelude::*;
use std::ops::Range;
use twotower_artifacts::Column;

/// Bytes that the table of a cross of several fields may take: rows of common combinations must stay in the caches
/// nearest to a core, or fetching one costs more than adding the rows of its fields.
const CROSS_BYTES: usize = 2 << 20;

/// Code fields with one row for each combination of their codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cross {
    /// Fields, and how far apart the rows of a field's codes are.
    members: Vec<(usize, usize)>,
    /// Combinations.
    pub rows: usize,
}

impl Cross {
    /// One field alone, with so many rows: any field whose table or columns a first layer is multiplied by.
    pub fn alone(field: usize, rows: usize) -> Self {
        Self { members: vec![(field, 1)], rows }
    }

    /// Numbers of the fields.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = usize> {
        self.members.iter().map(|(field, _)| *field)
    }

    /// The cross with another field of `cardinality` codes.
    fn join(&mut self, field: usize, cardinality: usize) {
        self.members.push((field, self.rows));
        self.rows *= cardinality;
    }

    /// Writes the row that each of some rows of a checked batch adds.
    pub fn combine(&self, columns: &[Column], rows: Range<usize>, out: &mut [i32]) {
        out[..rows.len()].fill(0);
        for (field, stride) in &self.members {
            let Column::Code(codes) = &columns[*field] else {
                unreachable!("crosses are made of code fields, and the batch was checked against their schema")
            };
            // A cross has as many rows as fit in its bytes, or as one table: the sum is below 2³¹.
            out.iter_mut().zip(&codes[rows.clone()]).for_each(|(out, code)| *out += (code * *stride as u32) as i32);
        }
    }

    /// Writes what each combination adds to the first layer of a checked tower, and `base` to that: `[rows, out]`, on
    /// the threads of the current rayon pool. `keep` writes a row as it is kept.
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
        let folded = |field: usize| Folded::of(tower, layout, weight, field);
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

/// A field's table, and the columns of the first layer that it is multiplied by.
struct Folded<'a> {
    /// None for dense fields: each column is a row.
    table: Option<&'a Matrix>,
    /// `[width of the field, out]`.
    columns: Vec<f32>,
    out: usize,
}

impl<'a> Folded<'a> {
    fn of(tower: &'a Tower, layout: &Layout, weight: &Matrix, field: usize) -> Self {
        let table = tower.inputs[field].table().map(|table| &tower.tables[table]);
        Self { table, columns: transposed(weight, layout.columns(field)), out: weight.rows }
    }

    fn rows(&self) -> usize {
        self.table.map_or(self.columns.len() / self.out, |table| table.rows)
    }

    /// Adds each row to all `bases`, `[_, out]`: those of the first row come first.
    fn add<T: Send>(&self, bases: &[f32], out: &mut [T], keep: impl Fn(&[f32], &mut [T]) + Sync) {
        /// Sums that are worth another thread.
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

/// Columns of a matrix, as the rows of the result.
pub(crate) fn transposed(matrix: &Matrix, columns: impl IntoIterator<Item = usize>) -> Vec<f32> {
    let rows = 0..matrix.rows;
    columns.into_iter().flat_map(|c| rows.clone().map(move |r| matrix.data[r * matrix.cols + c])).collect()
}

/// The first layer, where it is linear.
pub(crate) fn first_layer(tower: &Tower) -> Option<(&Matrix, &[f32])> {
    match tower.layers.first() {
        Some(Layer::Linear { weight, bias }) => Some((weight, &bias.data)),
        _ => None,
    }
}

/// Crosses code fields for a first layer of `out` outputs, those of the smallest tables first, as long as a cross takes
/// at most [`CROSS_BYTES`] and crossing makes the tables at most `room` rows longer in all. Fields that nothing joins
/// are crosses of their own.
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
        // 35 rows for 12, then no room to have 1,050 for 65.
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
