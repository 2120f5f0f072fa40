//! Reads columns of any type as numbers, a block at a time, so that loops over the numbers vectorise.

use crate::error::ColumnError;
use crate::histogram::{NUMBERS, class, upper};
use crate::number_text::{DecimalMark, read_number};
use crate::values::{Value, for_each_value, null_rows};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, PrimitiveArray};
use arrow_schema::DataType;

/// Numbers of a larger magnitude count as not finite.
pub(crate) const LARGEST: f64 = twotower_artifacts::raw::LARGEST_NUMBER;

/// The class of cells that hold no number. These classes come after those of numbers.
pub(crate) const fn class_of(reading: Reading) -> u16 {
    NUMBERS as u16 + reading as u16
}

/// The number of classes of cells.
pub(crate) const CLASSES: usize = class_of(Reading::Unreadable) as usize + 1;

/// The most cells of a [`Block`].
pub(crate) const BLOCK: usize = 256;

/// What a cell of a numeric column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reading {
    Number,
    Null,
    NotFinite,
    Unreadable,
}

/// Tells whether a number is finite.
#[inline]
fn reading(number: f64) -> Reading {
    if number.abs() <= LARGEST { Reading::Number } else { Reading::NotFinite }
}

/// Consecutive cells of a column. All blocks but the last have [`BLOCK`] cells.
pub(crate) struct Block {
    /// The numbers of the cells. The entry of a cell without a number, or after the last cell, has no meaning.
    pub(crate) numbers: [f64; BLOCK],
    readings: [Reading; BLOCK],
    filled: usize,
    /// How text writes fractions.
    mark: DecimalMark,
    /// The row of the first cell in the column.
    pub(crate) first_row: usize,
}

impl Block {
    /// The class of each cell: that of its number, or that of [`class_of`] where it holds no number.
    pub(crate) fn classes(&self) -> [u16; BLOCK] {
        let uppers: [u16; BLOCK] = std::array::from_fn(|cell| upper(self.numbers[cell]));
        std::array::from_fn(|cell| {
            let reading = self.readings[cell];
            let (number, none) = (class(uppers[cell]), class_of(reading));
            if reading == Reading::Number { number } else { none }
        })
    }

    /// Number of cells.
    pub(crate) fn len(&self) -> usize {
        self.filled
    }

    /// The rows that hold text which is no number.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = usize> {
        let cells = self.readings[..self.filled].iter().enumerate();
        cells.filter(|(_, reading)| **reading == Reading::Unreadable).map(|(i, _)| self.first_row + i)
    }

    /// The rows that hold a number, each with its number.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (usize, f64)> {
        let cells = self.readings[..self.filled].iter().zip(&self.numbers).enumerate();
        cells.filter(|(_, (reading, _))| **reading == Reading::Number).map(|(i, (_, x))| (self.first_row + i, *x))
    }

    fn set_value(&mut self, at: usize, value: Value<'_>) {
        let number = match value {
            Value::Null => None,
            Value::Bool(b) => Some(f64::from(u8::from(b))),
            Value::Int(i) => Some(i as f64),
            Value::UInt(u) => Some(u as f64),
            Value::Single(x) => Some(x.into()),
            Value::Float(x) => Some(x),
            Value::Text(text) => match text.trim() {
                "" => None,
                text => match read_number(text, self.mark) {
                    Some(x) => Some(x),
                    None => {
                        self.readings[at] = Reading::Unreadable;
                        return;
                    }
                },
            },
        };
        (self.numbers[at], self.readings[at]) = number.map_or((0.0, Reading::Null), |x| (x, reading(x)));
    }
}

/// Calls `f` with the cells of a column that is not a dictionary, in order; text writes fractions behind `mark`.
pub(crate) fn for_each_block(
    column: &dyn Array,
    mark: DecimalMark,
    mut f: impl FnMut(&mut Block),
) -> Result<(), ColumnError> {
    let mut block = Block { numbers: [0.0; BLOCK], readings: [Reading::Null; BLOCK], filled: 0, mark, first_row: 0 };
    macro_rules! primitive {
        ($type:ty) => {
            for_each_primitive_block(column.as_primitive::<$type>(), |x| x as f64, &mut block, f)
        };
    }
    match column.data_type() {
        DataType::Int8 => primitive!(Int8Type),
        DataType::Int16 => primitive!(Int16Type),
        DataType::Int32 => primitive!(Int32Type),
        DataType::Int64 => primitive!(Int64Type),
        DataType::UInt8 => primitive!(UInt8Type),
        DataType::UInt16 => primitive!(UInt16Type),
        DataType::UInt32 => primitive!(UInt32Type),
        DataType::UInt64 => primitive!(UInt64Type),
        DataType::Float32 => primitive!(Float32Type),
        DataType::Float64 => primitive!(Float64Type),
        _ => {
            for_each_value(column, |value| {
                block.set_value(block.filled, value);
                block.filled += 1;
                if block.filled == BLOCK {
                    f(&mut block);
                    (block.filled, block.first_row) = (0, block.first_row + BLOCK);
                }
            })?;
            if block.filled > 0 {
                f(&mut block);
            }
        }
    }
    Ok(())
}

fn for_each_primitive_block<T: ArrowPrimitiveType>(
    column: &PrimitiveArray<T>,
    number: impl Fn(T::Native) -> f64,
    block: &mut Block,
    mut f: impl FnMut(&mut Block),
) {
    let nulls = null_rows(column);
    let mut nulls = nulls.iter().peekable();
    for (values, first_row) in column.values().chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        (block.filled, block.first_row) = (values.len(), first_row);
        for ((to, found), value) in block.numbers.iter_mut().zip(&mut block.readings).zip(values) {
            *to = number(*value);
            *found = reading(*to);
        }
        while let Some(row) = nulls.next_if(|row| **row < first_row + BLOCK) {
            block.readings[row - first_row] = Reading::Null;
        }
        f(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Float64Array, Int32Array, StringArray};
    use std::sync::Arc;

    /// All numbers with their rows, and the reading of each cell.
    fn read(column: &ArrayRef) -> (Vec<(usize, f64)>, Vec<Reading>) {
        let (mut numbers, mut readings) = (Vec::new(), Vec::new());
        for_each_block(column, DecimalMark::default(), |block| {
            assert_eq!(block.first_row, readings.len());
            numbers.extend(block.rows());
            readings.extend(&block.readings[..block.len()]);
        })
        .unwrap();
        (numbers, readings)
    }

    #[test]
    fn a_column_of_any_type_and_length_reads_the_same() {
        for rows in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7] {
            let values = || (0..rows).map(|i| (i % 3 != 1).then_some(i as i32 - 50));
            let integers: ArrayRef = Arc::new(Int32Array::from_iter(values()));
            let floats: ArrayRef = Arc::new(Float64Array::from_iter(values().map(|v| v.map(f64::from))));
            let texts: ArrayRef = Arc::new(StringArray::from_iter(values().map(|v| v.map(|v| v.to_string()))));
            let expected: Vec<(usize, f64)> =
                values().enumerate().filter_map(|(i, v)| Some((i, f64::from(v?)))).collect();
            for column in [integers, floats, texts] {
                let (numbers, readings) = read(&column);
                assert_eq!(numbers, expected);
                let nulls = readings.iter().filter(|r| **r == Reading::Null).count();
                assert_eq!((readings.len(), nulls), (rows, column.null_count()));
            }
        }
    }
}
