//! The raw values of columns, as the inputs of a graph take them.

use super::element_type;
use crate::date::{DateCell, DateReader, cells};
use crate::plain::numbers;
use crate::spec::FeatureSpec;
use crate::state::EncoderState;
use crate::values::list_rows;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use twotower_artifacts::Side;
use twotower_artifacts::raw::{
    LENGTH_INPUT, MISSING_INPUT, RawDay, RawField, RawRule, RawTensor, RawType, RawValues, TIMES_INPUT,
};

/// Values of one type, and which of them are null.
fn flat(element: RawType, array: &ArrayRef) -> Result<(RawValues, Vec<bool>), String> {
    let to = match element {
        RawType::Text => DataType::LargeUtf8,
        RawType::Integer => DataType::Int64,
        RawType::Single => DataType::Float32,
        RawType::Double => DataType::Float64,
        RawType::Boolean => DataType::Boolean,
        RawType::Code => return Err("codes are not read from columns".into()),
    };
    let array = arrow_cast::cast(array, &to).map_err(|e| format!("{e}"))?;
    let nulls = (0..array.len()).map(|row| array.is_null(row)).collect();
    let values = match element {
        RawType::Text => {
            RawValues::Text(array.as_string::<i64>().iter().map(|text| text.unwrap_or_default().to_string()).collect())
        }
        RawType::Integer => {
            RawValues::Integer(array.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect())
        }
        RawType::Single => {
            RawValues::Single(array.as_primitive::<Float32Type>().iter().map(|x| x.unwrap_or(f32::NAN)).collect())
        }
        RawType::Double => {
            RawValues::Double(array.as_primitive::<Float64Type>().iter().map(|x| x.unwrap_or(f64::NAN)).collect())
        }
        RawType::Boolean => RawValues::Boolean(array.as_boolean().iter().map(Option::unwrap_or_default).collect()),
        RawType::Code => RawValues::Code(Vec::new()),
    };
    Ok((values, nulls))
}

/// Rows of lists as a table as wide as the longest, and of one column at least. `pad` says with what shorter ones end.
fn padded<T: Clone>(rows: &[Vec<T>], pad: T) -> (usize, Vec<T>) {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let row = |row: &Vec<T>| {
        row.iter().cloned().chain(std::iter::repeat_n(pad.clone(), width - row.len())).collect::<Vec<T>>()
    };
    (width, rows.iter().flat_map(row).collect())
}

/// Lists of values by number among `values`.
fn listed(values: &RawValues, rows: &[Vec<usize>]) -> (usize, RawValues) {
    fn of<T: Clone>(values: &[T], rows: &[Vec<usize>], pad: T) -> (usize, Vec<T>) {
        let rows: Vec<Vec<T>> = rows.iter().map(|row| row.iter().map(|at| values[*at].clone()).collect()).collect();
        padded(&rows, pad)
    }
    macro_rules! lists {
        ($variant:ident, $values:expr, $pad:expr) => {{
            let (width, values) = of($values, rows, $pad);
            (width, RawValues::$variant(values))
        }};
    }
    match values {
        RawValues::Text(values) => lists!(Text, values, String::new()),
        RawValues::Integer(values) => lists!(Integer, values, 0),
        RawValues::Single(values) => lists!(Single, values, 0.0),
        RawValues::Double(values) => lists!(Double, values, 0.0),
        RawValues::Boolean(values) => lists!(Boolean, values, false),
        RawValues::Code(values) => lists!(Code, values, 0),
    }
}

impl EncoderState {
    /// What the inputs of a feature, given by its number, take for the rows of its column.
    ///
    /// # Errors
    /// A column of another type than the rule was made for; a feature that reads no column.
    ///
    /// # Panics
    /// If there is no such feature.
    pub fn raw_values(
        &self,
        side: Side,
        feature: usize,
        field: &RawField,
        column: &ArrayRef,
    ) -> Result<Vec<RawTensor>, String> {
        let spec = &self.side(side).features[feature].spec;
        let name = field.field.name.as_str();
        let tensor = |ending: &str, width, values| RawTensor { name: format!("{name}{ending}"), width, values };
        let one = |element: RawType| {
            let (values, nulls) = flat(element, column)?;
            let flag = matches!(element, RawType::Integer | RawType::Boolean)
                .then(|| tensor(MISSING_INPUT, None, RawValues::Boolean(nulls)));
            Ok(std::iter::once(tensor("", None, values)).chain(flag).collect())
        };
        let is_of = |element: RawType| element_type(column.data_type()) == Some(element);
        match (&field.rule, spec) {
            (RawRule::Lookup(keys), _) => one(keys.element()),
            (RawRule::Patterns(_) | RawRule::Split { .. }, _) => one(RawType::Text),
            (RawRule::Hash { .. }, _) => one(RawType::Integer),
            (RawRule::Buckets { of, .. } | RawRule::Scaled { of, .. }, _) if is_of(*of) => one(*of),
            (RawRule::Buckets { .. } | RawRule::Scaled { .. }, FeatureSpec::Numeric(spec)) => {
                let numbers = numbers(column, spec.decimal).map_err(|_| "it holds no numbers".to_string())?;
                let values = numbers.iter().map(|x| x.unwrap_or(f64::NAN)).collect();
                Ok(vec![tensor("", None, RawValues::Double(values))])
            }
            (RawRule::Date { of, day, .. }, FeatureSpec::Date(spec)) => {
                // Nothing but dates counts days by itself.
                if *day == RawDay::PerDay(1) && *column.data_type() != DataType::Date32 {
                    let cells = cells(&DateReader::new(spec), column).map_err(|_| "it holds no dates".to_string())?;
                    let days = cells.into_iter().map(|cell| match cell {
                        DateCell::Day(day) => i64::from(day),
                        DateCell::Null | DateCell::OutOfRange | DateCell::Unreadable => i64::MIN,
                    });
                    return Ok(vec![tensor("", None, RawValues::Integer(days.collect()))]);
                }
                let (values, nulls) = match column.data_type() {
                    DataType::Date32 => {
                        let days = arrow_cast::cast(column, &DataType::Int32).map_err(|e| e.to_string())?;
                        flat(RawType::Integer, &days)?
                    }
                    _ => flat(*of, column)?,
                };
                let values = match values {
                    RawValues::Integer(values) => RawValues::Integer(
                        values.into_iter().zip(nulls).map(|(x, null)| if null { i64::MIN } else { x }).collect(),
                    ),
                    other => other,
                };
                Ok(vec![tensor("", None, values)])
            }
            (RawRule::List { keys, .. }, _) => {
                let list = list_rows(column).ok_or("it holds no lists")?;
                let (values, nulls) = flat(keys.element(), &list.elements)?;
                let of_row = |row: &Option<(usize, usize)>| match row {
                    None => (Vec::new(), -1),
                    Some((from, to)) => {
                        let there: Vec<usize> = (*from..*to).filter(|at| !nulls[*at]).collect();
                        let length = there.len() as i64;
                        (there, length)
                    }
                };
                let (rows, lengths): (Vec<Vec<usize>>, Vec<i64>) = list.rows.iter().map(of_row).unzip();
                let (width, values) = listed(&values, &rows);
                Ok(vec![tensor("", Some(width), values), tensor(LENGTH_INPUT, None, RawValues::Integer(lengths))])
            }
            (RawRule::Vector { of, dim, .. }, _) => {
                let list = list_rows(column).ok_or("it holds no lists")?;
                let (values, _) = flat(*of, &list.elements)?;
                let dim = *dim as usize;
                let values = match values {
                    RawValues::Single(values) => RawValues::Single(vectors(&values, &list.rows, dim, f32::NAN)),
                    RawValues::Double(values) => RawValues::Double(vectors(&values, &list.rows, dim, f64::NAN)),
                    other => return Err(format!("its elements are {other:?}, expected floats")),
                };
                Ok(vec![tensor("", Some(dim), values)])
            }
            (RawRule::Sequence { .. } | RawRule::Encoded, _) => Err("it reads no column".into()),
            (RawRule::Buckets { .. } | RawRule::Scaled { .. } | RawRule::Date { .. }, _) => {
                Err("its rule is that of another kind".into())
            }
        }
    }
}

/// Vectors row after row, of a missing one `nan` in all elements.
fn vectors<T: Copy>(values: &[T], rows: &[Option<(usize, usize)>], dim: usize, nan: T) -> Vec<T> {
    rows.iter()
        .flat_map(|row| match row {
            Some((from, to)) => values[*from..*to].to_vec(),
            None => vec![nan; dim],
        })
        .collect()
}

/// What the inputs of a sequence take for the histories of some users, each oldest first: numbers of items among `items`,
/// and their times.
///
/// # Errors
/// Item ids of another type than the rule was made for.
pub fn raw_sequences(
    field: &RawField,
    items: &ArrayRef,
    histories: &[(Vec<usize>, Vec<i64>)],
) -> Result<Vec<RawTensor>, String> {
    let RawRule::Sequence { keys, intervals, .. } = &field.rule else { return Err("it is no sequence".into()) };
    let element = keys.element();
    let (values, _) = flat(element, items)?;
    let name = &field.field.name;
    let rows: Vec<Vec<usize>> = histories.iter().map(|(items, _)| items.clone()).collect();
    let (width, values) = listed(&values, &rows);
    let lengths = rows.iter().map(|row| row.len() as i64).collect();
    let mut tensors = vec![
        RawTensor { name: name.clone(), width: Some(width), values },
        RawTensor { name: format!("{name}{LENGTH_INPUT}"), width: None, values: RawValues::Integer(lengths) },
    ];
    if intervals.is_some() {
        let times: Vec<Vec<i64>> = histories.iter().map(|(_, times)| times.clone()).collect();
        let (width, times) = padded(&times, 0);
        let values = RawValues::Integer(times);
        tensors.push(RawTensor { name: format!("{name}{TIMES_INPUT}"), width: Some(width), values });
    }
    Ok(tensors)
}
