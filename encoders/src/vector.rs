//! Vector features: a list of floats of one length, such as a text embedding, and a missing flag.
//!
//! A null row becomes zeros with flag 1. A wrong length or an element that is not a finite float is an
//! error, since such a row was made by another model, or is damaged.

use crate::counts::FeatureCounts;
use crate::encode::Encode;
use crate::error::ColumnError;
use crate::values::{Value, for_each_value, list_rows};
use arrow_array::ArrayRef;
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};
use twotower_artifacts::Column;

/// Configuration of a vector feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorSpec {
    /// The feature's name.
    pub name: String,
    /// The column that holds the vectors, in the side file where there is one; the feature's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Elements per vector.
    pub dim: u32,
    /// Whether vectors are scaled to unit L2 norm; a zero vector stays zero.
    #[serde(default = "default_normalise")]
    pub normalise: bool,
    /// A table of vectors keyed by id. It is joined before encoding, as a column with the feature's name. The
    /// vector of an id that the table lacks is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The id column of `file`; that of the feature's own table when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
}

fn default_normalise() -> bool {
    true
}

/// Encodes list columns of floats as `Dense` of width `dim + 1`.
pub(crate) struct VectorEncoder {
    dim: u32,
    normalise: bool,
    elements: Vec<f32>,
}

impl VectorEncoder {
    pub(crate) fn new(spec: &VectorSpec) -> Self {
        Self { dim: spec.dim, normalise: spec.normalise, elements: Vec::new() }
    }
}

impl Encode for VectorEncoder {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError> {
        let Column::Dense { values: out, .. } = out else { unreachable!("a vector feature's column is dense") };
        let list = list_rows(column).ok_or(ColumnError::Type)?;
        // Booleans are an error of the column, even if it has no rows.
        if matches!(list.elements.data_type(), DataType::Boolean) {
            return Err(ColumnError::Type);
        }
        let elements = &mut self.elements;
        elements.clear();
        for_each_value(&list.elements, |value| {
            elements.push(match value {
                Value::Single(x) => x,
                Value::Float(x) => x as f32,
                Value::Int(i) => i as f32,
                Value::UInt(u) => u as f32,
                Value::Null | Value::Bool(_) => f32::NAN,
                // JSON Lines give numbers as text. A text that is not a number becomes NaN, which is refused below.
                Value::Text(text) => text.trim().parse().unwrap_or(f32::NAN),
            });
        })?;
        let dim = self.dim as usize;
        out.reserve(list.rows.len() * (dim + 1));
        for (row, bounds) in list.rows.iter().enumerate() {
            let Some((from, to)) = *bounds else {
                counts.missing += 1;
                out.extend(std::iter::repeat_n(0.0, dim).chain([1.0]));
                continue;
            };
            if to - from != dim {
                return Err(ColumnError::Length { row, expected: self.dim, found: to - from });
            }
            let vector = &elements[from..to];
            if let Some(position) = vector.iter().position(|x| !x.is_finite()) {
                return Err(ColumnError::Element { row, position });
            }
            let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            let scale = if self.normalise && norm > 0.0 { 1.0 / norm } else { 1.0 };
            out.extend(vector.iter().map(|x| (f64::from(*x) * scale) as f32).chain([0.0]));
        }
        counts.values += list.rows.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::{Float32Type, Float64Type};
    use arrow_array::{Array, FixedSizeListArray, ListArray, StringArray};
    use std::sync::Arc;

    fn encode(normalise: bool, column: &ArrayRef) -> Result<(Vec<f32>, FeatureCounts), ColumnError> {
        let mut out = Column::Dense { width: 3, values: Vec::new() };
        let mut counts = FeatureCounts::default();
        let mut encoder = VectorEncoder { dim: 2, normalise, elements: Vec::new() };
        encoder.encode(column, &mut out, &mut counts)?;
        let Column::Dense { values, .. } = out else { unreachable!() };
        Ok((values, counts))
    }

    #[test]
    fn lists_of_any_float_and_layout_give_unit_vectors_and_a_flag() {
        let rows = || vec![Some(vec![Some(3.0), Some(4.0)]), None, Some(vec![Some(0.0), Some(0.0)])];
        let fixed: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(rows(), 2));
        let single = rows().into_iter().map(|r| r.map(|r| r.into_iter().map(|x| x.map(|x: f64| x as f32))));
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(single));
        for column in [fixed, list] {
            let (values, counts) = encode(true, &column).unwrap();
            assert_eq!(values, [0.6, 0.8, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
            assert_eq!((counts.values, counts.missing), (3, 1));
            assert_eq!(encode(false, &column.slice(1, 2)).unwrap().0, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
            assert_eq!(encode(false, &column).unwrap().0[..2], [3.0, 4.0]);
        }
    }

    #[test]
    fn wrong_lengths_elements_and_types_are_errors_with_their_row() {
        let list = |row: Vec<Option<f64>>| -> ArrayRef {
            let rows = vec![Some(vec![Some(1.0), Some(0.0)]), Some(row)];
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(rows))
        };
        let short = encode(true, &list(vec![Some(1.0)]));
        assert!(matches!(short, Err(ColumnError::Length { row: 1, expected: 2, found: 1 })));
        for x in [None, Some(f64::NAN), Some(f64::INFINITY), Some(1e300)] {
            let bad = encode(true, &list(vec![Some(1.0), x]));
            assert!(matches!(bad, Err(ColumnError::Element { row: 1, position: 1 })), "{x:?}");
        }
        let text: ArrayRef = Arc::new(StringArray::from(vec!["1 2"]));
        assert!(matches!(encode(true, &text), Err(ColumnError::Type)));
    }
}
