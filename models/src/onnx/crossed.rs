//! The graph that ONNX Runtime gets instead of that of a tower's file: the same tower with small code fields crossed
//! ([`crate::cross`]).
//!
//! The rows of the crosses are added to the product of the first layer. So the product has fewer columns, and fewer
//! operators fetch and copy. In the tower of the synthetic users, 6 of 10 code fields are in two crosses, and 70 of 166
//! columns stay.

use super::export::{concatenation, encoded, finish, layers};
use super::graph::{Extent, GraphBuilder, int};
use super::messages::code;
use super::tensor_name;
use crate::cross::{Cross, crosses, first_layer};
use crate::error::ModelError;
use crate::tower::layout::check_tower;
use crate::tower::{Parameter, Place, Tower};
use std::collections::BTreeSet;

/// The most bytes of the tables of all crosses. Every session holds them.
pub const CROSSED_BYTES: usize = 8 << 20;

/// The number of columns of the concatenation whose product takes ONNX Runtime as long as fetching and adding a row of
/// a table. About 16 were measured for a first layer of 256 outputs.
const FETCH_COLUMNS: usize = 16;

/// A tower as a graph with crosses.
pub(crate) struct CrossedGraph {
    /// The model. It has an input int32 `[N]` for each cross, and then the inputs of the other fields as in the tower's
    /// file.
    pub model: Vec<u8>,
    /// The crosses whose rows are the first inputs.
    pub crosses: Vec<Cross>,
    /// The fields of the other inputs.
    pub fields: Vec<usize>,
}

impl CrossedGraph {
    /// Crosses code fields. None if that would save nothing.
    ///
    /// # Errors
    /// [`ModelError::Tower`] for a tower whose parts do not fit together.
    pub fn of(tower: &Tower) -> Result<Option<Self>, ModelError> {
        let layout = check_tower(tower)?;
        let Some((weight, bias)) = first_layer(tower) else { return Ok(None) };
        let width = |cross: &Cross| cross.fields().map(|field| layout.inputs[field].width).sum::<usize>();
        let mut crosses = crosses(tower, 0..tower.inputs.len(), weight.rows, usize::MAX / 2);
        let mut room = CROSSED_BYTES / (4 * weight.rows);
        crosses.retain(|cross| {
            let worth = cross.fields().len() > 1 && width(cross) > FETCH_COLUMNS && cross.rows <= room;
            room -= if worth { cross.rows } else { 0 };
            worth
        });
        if crosses.is_empty() {
            return Ok(None);
        }
        let mut g = GraphBuilder::default();
        let mut sum: Option<String> = None;
        // The table of the first cross includes the bias.
        let mut base = bias.to_vec();
        for (i, cross) in crosses.iter().enumerate() {
            let input = format!("/cross/{i}");
            g.input(&input, code::INT32, &[Extent::Dynamic("N")], &format!("rows below {}", cross.rows));
            let mut table = vec![0.0; cross.rows * weight.rows];
            cross.write(tower, &layout, weight, &base, &mut table, |row, out| out.copy_from_slice(row));
            let table = g.floats(format!("/crossed/{i}"), &[cross.rows, weight.rows], table.into_iter());
            let rows = g.node("Gather", &[&table, &input], vec![int("axis", 0)]);
            sum = Some(match sum {
                None => rows,
                Some(sum) => g.node("Add", &[&sum, &rows], vec![]),
            });
            base.fill(0.0);
        }
        let crossed: BTreeSet<usize> = crosses.iter().flat_map(Cross::fields).collect();
        let fields: Vec<usize> = (0..tower.inputs.len()).filter(|field| !crossed.contains(field)).collect();
        let mut x = sum.unwrap_or_default();
        if !fields.is_empty() {
            let columns = || fields.iter().flat_map(|field| layout.columns(*field));
            let row = |o: usize| columns().map(move |c| weight.data[o * weight.cols + c]);
            let dims = [weight.rows, columns().count()];
            let others = concatenation(&mut g, tower, fields.iter().copied(), None)?;
            let weight =
                g.floats(tensor_name(Place::Layer(0, Parameter::WEIGHT)), &dims, (0..weight.rows).flat_map(row));
            x = g.node("Gemm", &[&others, &weight, &x], vec![int("transB", 1)]);
        }
        let vector = layers(&mut g, tower, 1, x);
        Ok(Some(Self { model: encoded(finish(g, tower, &vector), Vec::new()), crosses, fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::samples::{Draw, tower};
    use twotower_artifacts::FieldShape;

    #[test]
    fn tables_of_all_crosses_stay_within_their_bound() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let code = |name: &str| FieldShape::Code { table: name.into(), cardinality: 50 };
        let tower = tower(&mut Draw::new(41), names.map(|name| (name, code(name), None)).to_vec(), 9, &[200, 8]);
        let crossed = CrossedGraph::of(&tower).unwrap().unwrap();
        // Five pairs of 2,500 rows would take 10,000,000 bytes.
        assert_eq!(crossed.crosses.iter().map(|cross| cross.rows).collect::<Vec<_>>(), [2500; 4]);
        assert_eq!(crossed.fields, [8, 9]);
    }
}
