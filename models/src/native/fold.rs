//! The first layer with embedding tables folded into it. Since `W₁ (e₁ ‖ e₂ ‖ …) = Σ W₁ⱼ eⱼ`, a table `E` becomes
//! `E W₁ⱼᵀ`, whose rows are added instead of being concatenated and multiplied. Small tables are crossed
//! ([`crate::cross`]), so that one row is added for several fields.

use super::Arithmetic;
use super::int16::RoundedRows;
use super::linear::Linear;
use super::rows::{Rows, Tables};
use crate::cross::{Cross, crosses, first_layer};
use crate::encoder::{ChunkPass, NO_OUTPUT, PackedSequences};
use crate::sparse::weighted_rows;
use crate::tower::layout::{InputLayout, Layout};
use crate::tower::{Input, Reduce, Tower};
use std::ops::Range;
use twotower_artifacts::schema::PADDING;
use twotower_artifacts::{CodeBatch, Column};

/// The most bytes of all folded tables of a tower. They must stay in a core's share of the last-level cache, or
/// fetching a row costs more than the product that it saves.
pub const FOLDED_BYTES: usize = 16 << 20;

/// The number of multiply-adds in a matrix product that take as long as adding one float of a row, rounded up. About 2
/// were measured with 9 MiB of tables and Zipf-distributed codes on two cores with 32 MiB of shared cache.
const FETCH: usize = 4;

/// The most floats of all dense fields together with which they are folded too. A product of so few columns spends most
/// of its time on reading and writing the result.
const NARROW: usize = 16;

/// How one field enters the first layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// As part of a cross.
    Crossed,
    /// By adding folded rows. The field's rows begin with this one.
    Rows(usize),
    /// As columns of the concatenation, beginning with this one.
    Columns(usize),
}

/// The first stage of a tower: how all fields enter, and the first layer if it is linear.
///
/// # What is folded
/// If a row of the result has `out` floats, a field of at most `len` elements of `width` floats costs `len * out * 4`
/// multiply-adds when folded, and `len * width * 4 + width * out` otherwise. It is folded if that is cheaper and the
/// folded table, `[cardinality, out]`, still fits into [`FOLDED_BYTES`]. The smallest tables come first. So categorical
/// fields are folded, but large tables and long sequences are not. Dense fields are folded if they have at most 16
/// floats in all. Code fields are crossed in what is left of [`FOLDED_BYTES`].
#[derive(Debug)]
pub(super) struct InputStage {
    entries: Vec<Entry>,
    /// The crosses of the folded code fields, each with its first row in `rows`.
    crosses: Vec<(usize, Cross)>,
    /// Width of the concatenation of the fields that are not folded.
    pub columns: usize,
    /// The most folded rows that are added for one row of a batch.
    uses: usize,
    /// `[_, out]` rows of all folded fields.
    rows: Rows,
    /// The first layer. None if it is not linear, and then nothing is folded.
    linear: Option<Linear>,
}

/// The folded rows that are added for each row of a tile.
#[derive(Debug)]
pub(super) struct Uses {
    /// `[tile, most]` folded rows and weights. Of those for row r, the first `lens[r]` are used.
    uses: Vec<(u32, f32)>,
    lens: Vec<usize>,
    most: usize,
    /// Codes and weights of the elements of one row.
    elements: Vec<(u32, f32)>,
    /// `[tile]` rows of a cross.
    combined: Vec<i32>,
    /// The sequences of an encoder.
    sequences: Sequences,
}

/// Memory for an encoder's sequences of one tile of rows.
#[derive(Debug, Default)]
struct Sequences {
    packed: PackedSequences,
    pass: ChunkPass,
    outputs: Vec<f32>,
}

impl Uses {
    pub fn new(input_stage: &InputStage, tile: usize) -> Self {
        let most = input_stage.uses;
        Self {
            uses: vec![(0, 0.0); tile * most],
            lens: vec![0; tile],
            most,
            elements: Vec::new(),
            combined: vec![0; tile],
            sequences: Sequences::default(),
        }
    }

    fn push(&mut self, r: usize, row: usize, weight: f32) {
        let len = &mut self.lens[r];
        self.uses[r * self.most + *len] = (row as u32, weight);
        *len += 1;
    }

    fn of(&self, r: usize) -> &[(u32, f32)] {
        &self.uses[r * self.most..][..self.lens[r]]
    }
}

impl InputStage {
    /// Chooses which fields are folded, and folds them.
    pub fn new(tower: &Tower, layout: &Layout, arithmetic: Arithmetic) -> Self {
        let (folds, room) = match first_layer(tower) {
            Some((weight, _)) => choose(tower, layout, weight.rows),
            None => (vec![false; tower.inputs.len()], 0),
        };
        Self::folding(tower, layout, &folds, room, arithmetic)
    }

    /// Folds nothing: all fields are concatenated, and the first layer is computed as it is defined.
    pub fn plain(tower: &Tower, layout: &Layout) -> Self {
        Self::folding(tower, layout, &vec![false; tower.inputs.len()], 0, Arithmetic::Float)
    }

    /// Folds the fields for which `folds` is true, and crosses some of them, which adds at most `room` rows.
    fn folding(tower: &Tower, layout: &Layout, folds: &[bool], room: usize, arithmetic: Arithmetic) -> Self {
        let (mut entries, mut kept, mut columns) = (Vec::new(), Vec::new(), 0);
        let (mut tables, mut len, mut uses) = (Vec::new(), 0, 0);
        let mut add = |cross: Cross| {
            let first = len;
            len += cross.rows;
            tables.push((first, cross));
            first
        };
        for (field, (input, place)) in tower.inputs.iter().zip(&layout.inputs).enumerate() {
            entries.push(match input {
                _ if !folds[field] => {
                    columns += place.width;
                    kept.extend(layout.columns(field));
                    Entry::Columns(columns - place.width)
                }
                Input::Embedding { .. } => Entry::Crossed,
                Input::Dense => {
                    uses += place.width;
                    Entry::Rows(add(Cross::alone(field, place.width)))
                }
                Input::Pooled { table, .. } => {
                    uses += place.max_len;
                    Entry::Rows(add(Cross::alone(field, tower.tables[table].rows)))
                }
            });
        }
        let Some((weight, bias)) = first_layer(tower) else {
            let rows = Rows::F32(Vec::new());
            return Self { entries, crosses: Vec::new(), columns, uses, rows, linear: None };
        };
        let crossed = crosses(tower, (0..folds.len()).filter(|field| folds[*field]), weight.rows, room);
        uses += crossed.len();
        let first_crossed = crossed.into_iter().map(&mut add).min();
        let rows = Rows::new(&Tables { tower, layout, weight, crosses: &tables }, arithmetic);
        tables.retain(|(first, _)| first_crossed.is_some_and(|crossed| *first >= crossed));
        let linear = Some(Linear::new(weight, kept, bias, arithmetic));
        Self { entries, crosses: tables, columns, uses, rows, linear }
    }

    /// Whether this stage includes the first layer.
    pub fn is_layer(&self) -> bool {
        self.linear.is_some()
    }

    /// Embeds at most a tile of checked rows. `x`, `[tile, columns]`, receives the concatenation of the fields that are
    /// not folded, and `y`, `[tile, out]`, the result of the first layer if it is linear. Rows after the given ones are
    /// computed as if all fields were zero.
    pub fn forward(
        &self,
        tower: &Tower,
        layout: &Layout,
        batch: &CodeBatch,
        rows: Range<usize>,
        (x, y): (&mut [f32], &mut [f32]),
        (uses, rounded): (&mut Uses, &mut RoundedRows),
    ) {
        x.fill(0.0);
        uses.lens.fill(0);
        let mut combined = std::mem::take(&mut uses.combined);
        for (first, cross) in &self.crosses {
            cross.combine(&batch.columns, rows.clone(), &mut combined);
            combined[..rows.len()].iter().enumerate().for_each(|(r, row)| uses.push(r, first + *row as usize, 1.0));
        }
        uses.combined = combined;
        let fields = tower.inputs.iter().zip(&layout.inputs).zip(&batch.columns).zip(&self.entries);
        for (((input, place), column), entry) in fields {
            match *entry {
                Entry::Crossed => {}
                Entry::Rows(first) => add_uses(input, place, column, rows.clone(), first, uses),
                Entry::Columns(start) => {
                    let columns = start..start + place.width;
                    let cells = x.chunks_exact_mut(self.columns).map(|row| &mut row[columns.clone()]);
                    gather(tower, (input, place, column), rows.clone(), cells, uses);
                }
            }
        }
        let Some(linear) = &self.linear else { return };
        for (r, row) in y.chunks_exact_mut(linear.output()).enumerate() {
            if r + 1 < rows.len() {
                self.rows.prefetch(linear.output(), uses.of(r + 1));
            }
            self.rows.sum(row, &linear.bias, uses.of(r));
        }
        linear.add(x, self.columns, y, rounded);
    }

    /// Width of the result of the first layer, or of the concatenation if that layer is not linear.
    pub fn width(&self) -> usize {
        self.linear.as_ref().map_or(self.columns, Linear::output)
    }
}

/// Whether each field is folded into a first layer of `out` outputs, and for how many more rows there is room.
fn choose(tower: &Tower, layout: &Layout, out: usize) -> (Vec<bool>, usize) {
    let dense = |input: &Input| matches!(input, Input::Dense);
    let fields = || tower.inputs.iter().zip(&layout.inputs);
    let dense_width: usize = fields().filter(|(input, _)| dense(input)).map(|(_, place)| place.width).sum();
    let mut folds: Vec<bool> = fields().map(|(input, _)| dense(input) && dense_width <= NARROW).collect();
    let mut tables: Vec<(usize, usize)> = fields()
        .enumerate()
        .filter_map(|(field, (input, place))| match input {
            // An encoder is not a sum of rows.
            Input::Pooled { reduce: Reduce::Attention(_), .. } => None,
            Input::Embedding { table } | Input::Pooled { table, .. } => {
                let (len, width) = (place.max_len.max(1), place.width);
                let cheaper = len * out * FETCH < len * width * FETCH + width * out;
                cheaper.then(|| (tower.tables[table].rows, field))
            }
            Input::Dense => None,
        })
        .collect();
    tables.sort_unstable();
    let mut left = FOLDED_BYTES / (4 * out);
    for (rows, field) in tables {
        if rows > left {
            break;
        }
        left -= rows;
        folds[field] = true;
    }
    (folds, left)
}

/// Adds the folded rows that a pooled or dense field needs to `uses`. The field's rows begin with `first`.
fn add_uses(input: &Input, place: &InputLayout, column: &Column, rows: Range<usize>, first: usize, uses: &mut Uses) {
    match (input, column) {
        (Input::Pooled { reduce, .. }, Column::Ragged(ragged)) => {
            let mut elements = std::mem::take(&mut uses.elements);
            for (r, row) in rows.enumerate() {
                weigh(reduce, place.max_len, ragged.row(row), &mut elements);
                elements.iter().for_each(|(code, weight)| uses.push(r, first + *code as usize, *weight));
            }
            uses.elements = elements;
        }
        (Input::Dense, Column::Dense { width, values }) => {
            for (r, row) in rows.enumerate() {
                for (i, value) in values[row * width..(row + 1) * width].iter().enumerate() {
                    // Most flags of missing values are 0.
                    if *value != 0.0 {
                        uses.push(r, first + i, *value);
                    }
                }
            }
        }
        _ => unreachable!("tower and batch were checked against one schema"),
    }
}

/// Writes a field's part of the concatenation to `cells`, which are zero before.
fn gather<'a>(
    tower: &Tower,
    (input, place, column): (&Input, &InputLayout, &Column),
    rows: Range<usize>,
    cells: impl Iterator<Item = &'a mut [f32]>,
    uses: &mut Uses,
) {
    match (input, column) {
        (Input::Embedding { table }, Column::Code(codes)) => {
            let table = &tower.tables[table];
            for (cell, code) in cells.zip(&codes[rows]) {
                cell.copy_from_slice(&table.data[*code as usize * table.cols..][..table.cols]);
            }
        }
        (Input::Pooled { table, reduce: Reduce::Attention(encoder) }, Column::Ragged(ragged)) => {
            let Sequences { packed, pass, outputs } = &mut uses.sequences;
            let (table, encoder) = (&tower.tables[table], encoder.map(|weight| &weight.data[..]));
            packed.pack(ragged, rows, place.max_len);
            outputs.resize(packed.wanted.len() * table.cols, 0.0);
            for chunk in packed.chunks() {
                let out = &mut outputs[chunk.outputs.start * table.cols..chunk.outputs.end * table.cols];
                pass.forward(&encoder, &table.data, packed, &chunk, None, out);
            }
            for (cell, output) in cells.zip(&packed.output_of) {
                cell.copy_from_slice(match *output {
                    NO_OUTPUT => encoder.empty,
                    output => &outputs[output as usize * table.cols..][..table.cols],
                });
            }
        }
        (Input::Pooled { table, reduce }, Column::Ragged(ragged)) => {
            let table = &tower.tables[table];
            for (cell, row) in cells.zip(rows) {
                weigh(reduce, place.max_len, ragged.row(row), &mut uses.elements);
                weighted_rows(cell, None, &table.data, &uses.elements);
            }
        }
        (Input::Dense, Column::Dense { width, values }) => {
            for (cell, row) in cells.zip(rows) {
                cell.copy_from_slice(&values[row * width..(row + 1) * width]);
            }
        }
        _ => unreachable!("tower and batch were checked against one schema"),
    }
}

/// The newest `max_len` real elements of a row with their weights, newest first.
fn weigh(reduce: &Reduce, max_len: usize, codes: &[u32], elements: &mut Vec<(u32, f32)>) {
    elements.clear();
    let newest_first = codes.iter().rev().filter(|code| **code != PADDING).take(max_len);
    elements.extend(newest_first.map(|code| (*code, 1.0)));
    if let Reduce::Position(logits) = reduce {
        let logits = &logits.data[..elements.len()];
        let top = logits.iter().copied().fold(f32::MIN, f32::max);
        elements.iter_mut().zip(logits).for_each(|((_, weight), logit)| *weight = (logit - top).exp());
    }
    let sum: f32 = elements.iter().map(|(_, weight)| weight).sum();
    elements.iter_mut().for_each(|(_, weight)| *weight /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::samples::{Draw, batch, naive, tower};
    use crate::native::embed;
    use crate::tower::layout::check_tower;
    use crate::tower::{Layer, Matrix};
    use twotower_artifacts::FieldShape;

    const OUT: usize = 40;

    fn code(table: &str, cardinality: usize) -> FieldShape {
        FieldShape::Code { table: table.into(), cardinality: cardinality as u32 }
    }

    fn sequence(table: &str, cardinality: u32, max_len: u32) -> FieldShape {
        FieldShape::Sequence { table: table.into(), cardinality, max_len, intervals: None }
    }

    fn folded(tower: &Tower) -> Vec<bool> {
        let input_stage = InputStage::new(tower, &check_tower(tower).unwrap(), Arithmetic::Float);
        input_stage.entries.iter().map(|entry| !matches!(entry, Entry::Columns(_))).collect()
    }

    #[test]
    fn what_is_cheaper_is_folded_and_the_result_stays_that_of_the_definition() {
        let draw = &mut Draw::new(21);
        let large = FOLDED_BYTES / (4 * OUT);
        let narrow = || FieldShape::Dense { width: 2 };
        let fields = |dense: u32| {
            vec![
                ("wide", FieldShape::Dense { width: dense }, None),
                ("small", code("small", 30), None),
                ("tiny", code("tiny", 4), None),
                ("large", code("large", large), None),
                ("short", sequence("small", 30, 2), None),
                ("weighted", sequence("items", 50, 2), Some(Reduce::Position(Matrix::vector(vec![0.5, -0.5])))),
                ("long", sequence("items", 50, 20), None),
                ("narrow", narrow(), None),
            ]
        };
        for (dense, expected) in [
            (NARROW as u32 - 2, [true, true, true, false, true, true, false, true]),
            (NARROW as u32, [false, true, true, false, true, true, false, false]),
        ] {
            let tower = tower(draw, fields(dense), 12, &[OUT, 24]);
            assert_eq!(folded(&tower), expected);
            let input_stage = InputStage::new(&tower, &check_tower(&tower).unwrap(), Arithmetic::Float);
            assert_eq!(input_stage.crosses.iter().map(|(_, cross)| cross.rows).collect::<Vec<_>>(), [120]);
            let rows = batch(draw, &tower.schema, 300);
            let found = embed(&tower, &rows).unwrap();
            let worst = found.data.iter().zip(naive(&tower, &rows)).map(|(a, b)| (f64::from(*a) - b).abs());
            // The bound is that without folding: the rounding of sums of 100 products of f32.
            assert!(worst.fold(0.0, f64::max) < 1e-5);
        }
    }

    #[test]
    fn folded_tables_stay_within_their_bound_and_the_smallest_come_first() {
        let draw = &mut Draw::new(22);
        let share = FOLDED_BYTES / (4 * OUT);
        let fields = vec![
            ("a", code("a", share / 2), None),
            ("b", code("b", share / 2 + 1), None),
            ("c", code("c", share / 3), None),
            ("d", code("c", share / 3), None),
        ];
        let tower = tower(draw, fields, 2, &[OUT]);
        // With a width of 2, folding is worth nothing. With a wider table, the fields of `c` come first, one by one.
        assert_eq!(folded(&tower), [false; 4]);
        let fields = vec![
            ("a", code("a", share / 2), None),
            ("c", code("c", share / 3), None),
            ("d", code("c", share / 3), None),
        ];
        let tower = crate::engine::samples::tower(draw, fields, 12, &[OUT]);
        assert_eq!(folded(&tower), [false, true, true]);
        let input_stage = InputStage::new(&tower, &check_tower(&tower).unwrap(), Arithmetic::Float);
        let Rows::F32(rows) = &input_stage.rows else { unreachable!() };
        assert!(rows.len() * 4 <= FOLDED_BYTES && input_stage.columns == 12);
    }

    #[test]
    fn folded_tables_are_halved_for_integers_unless_a_value_is_beyond_the_range_of_16_bits() {
        let mut tower = tower(&mut Draw::new(24), vec![("a", code("a", 30), None)], 12, &[OUT]);
        let rows = |tower: &Tower| InputStage::new(tower, &check_tower(tower).unwrap(), Arithmetic::Int16).rows;
        assert!(matches!(rows(&tower), Rows::F16(halves) if halves.len() == 30 * OUT));
        let Layer::Linear { weight, .. } = &mut tower.layers[0] else { unreachable!() };
        weight.data[0] = 1e7;
        assert!(matches!(rows(&tower), Rows::F32(rows) if rows.len() == 30 * OUT));
    }

    #[test]
    fn towers_that_fold_nothing_are_embedded_by_the_definition() {
        let draw = &mut Draw::new(23);
        let mut relu = tower(draw, vec![("a", code("a", 9), None)], 12, &[]);
        relu.layers.insert(0, Layer::Relu);
        // A tower with a linear first layer also folds nothing if that would cost more.
        let long = tower(draw, vec![("a", sequence("a", 9, 50), None)], 12, &[96, 12]);
        for tower in [relu, long] {
            assert_eq!(folded(&tower), [false]);
            let rows = batch(draw, &tower.schema, 20);
            let found = embed(&tower, &rows).unwrap();
            let expected = naive(&tower, &rows);
            assert!(found.data.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
        }
    }
}
