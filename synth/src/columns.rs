//! The categorical columns of both tables, and how they become Arrow arrays.

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow_schema::DataType;
use std::sync::Arc;

/// The code of null.
pub(crate) const NULL: i32 = -1;

/// A categorical column. Its codes are drawn from a Zipf distribution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Categorical {
    pub name: &'static str,
    pub cardinality: u32,
    /// Share of nulls.
    pub nulls: f64,
    /// Whether values are written as integers from 1000 up instead of strings like `city_0007`.
    pub as_integers: bool,
    /// Weight of the value's vector in the row's latent vector.
    pub weight: f32,
}

const fn categorical(name: &'static str, cardinality: u32, nulls: f64, as_integers: bool, weight: f32) -> Categorical {
    Categorical { name, cardinality, nulls, as_integers, weight }
}

/// Categorical columns of a user.
pub(crate) const USER_COLUMNS: [Categorical; 8] = [
    categorical("gender", 3, 0.05, false, 0.8),
    categorical("age_band", 9, 0.03, false, 1.0),
    categorical("channel", 25, 0.0, true, 0.5),
    categorical("brand", 60, 0.02, false, 0.7),
    categorical("city", 340, 0.01, false, 0.6),
    categorical("plan_id", 800, 0.04, true, 0.9),
    categorical("model", 3000, 0.06, false, 0.5),
    categorical("district", 5000, 0.10, false, 0.3),
];

/// Categorical columns of an item.
pub(crate) const ITEM_COLUMNS: [Categorical; 5] = [
    categorical("category", 12, 0.0, false, 1.2),
    categorical("sub_category", 80, 0.02, false, 0.7),
    categorical("vendor", 40, 0.05, false, 0.5),
    categorical("price_band", 6, 0.0, true, 0.6),
    categorical("sale_channel", 4, 0.1, false, 0.3),
];

/// Zipf exponent of the user columns.
pub(crate) const USER_ZIPF: f64 = 0.9;
/// Zipf exponent of the item columns.
pub(crate) const ITEM_ZIPF: f64 = 0.6;

/// The Arrow type of a column of [`dictionary`].
pub(crate) fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// `[rows]` nullable integers. A negative code is null.
pub(crate) fn integers(codes: &[i32], first: i32) -> ArrayRef {
    Arc::new(Int32Array::from_iter(codes.iter().map(|c| (*c >= 0).then_some(*c + first))))
}

/// `[rows]` dictionary-encoded strings. A negative code is null.
pub(crate) fn dictionary(codes: &[i32], values: &Arc<StringArray>) -> ArrayRef {
    let keys = Int32Array::from_iter(codes.iter().map(|c| (*c >= 0).then_some(*c)));
    Arc::new(DictionaryArray::new(keys, values.clone()))
}

impl Categorical {
    /// Type in which the column is written.
    pub fn data_type(&self) -> DataType {
        if self.as_integers { DataType::Int32 } else { dictionary_type() }
    }

    /// The strings behind codes `0..cardinality + more`.
    pub fn values(&self, more: u32) -> Arc<StringArray> {
        let values = (0..self.cardinality + more).map(|code| format!("{}_{code:04}", self.name));
        Arc::new(StringArray::from_iter_values(values))
    }

    /// The column as an Arrow array. `values` are those of [`Categorical::values`].
    pub fn array(&self, codes: &[i32], values: &Arc<StringArray>) -> ArrayRef {
        if self.as_integers { integers(codes, 1000) } else { dictionary(codes, values) }
    }
}

/// `count` identifiers from `first` on: the prefix and `width` digits, such as `u000000123`.
pub(crate) fn identifiers(prefix: u8, width: usize, first: u64, count: usize) -> StringArray {
    let mut builder = StringBuilder::with_capacity(count, count * (width + 1));
    let mut text = vec![prefix; width + 1];
    let mut rest = first;
    for digit in text[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    for _ in 0..count {
        builder.append_value(std::str::from_utf8(&text).expect("ASCII letters and digits"));
        for digit in text[1..].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_count_on_with_leading_zeros() {
        let ids = identifiers(b'u', 9, 98, 4);
        let ids: Vec<_> = ids.iter().flatten().collect();
        assert_eq!(ids, ["u000000098", "u000000099", "u000000100", "u000000101"]);
    }
}
