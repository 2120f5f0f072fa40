//! Arrow columns as a sequence of values, and the canonical text a value has in a vocabulary.
//!
//! Canonical text: strings as they are, integers in decimal, booleans `true` and `false`, floats
//! without a fraction as the integer (pandas writes a nullable integer 3 as 3.0), other floats in
//! Rust's shortest round-trip form. Null, NaN and the empty string are missing.

use crate::error::ColumnError;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use arrow_schema::DataType;
use std::sync::Arc;

/// One element of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX` only.
    UInt(u64),
    Single(f32),
    Float(f64),
    Text(&'a str),
}

/// A value as a vocabulary knows it. An integer stands for its decimal text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Canonical<'a> {
    Missing,
    Int(i64),
    Text(&'a str),
}

/// Integers beyond this magnitude are not exact in a float.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

impl Value<'_> {
    /// Calls `f` with the canonical form.
    pub(crate) fn canonical<R>(self, f: impl FnOnce(Canonical<'_>) -> R) -> R {
        match self {
            Value::Null | Value::Text("") => f(Canonical::Missing),
            Value::Bool(b) => f(Canonical::Text(if b { "true" } else { "false" })),
            Value::Int(i) => f(Canonical::Int(i)),
            Value::UInt(u) => f(Canonical::Text(&u.to_string())),
            Value::Single(x) => match integral(x.into()) {
                Some(i) => f(Canonical::Int(i)),
                None if x.is_nan() => f(Canonical::Missing),
                None => f(Canonical::Text(&x.to_string())),
            },
            Value::Float(x) => match integral(x) {
                Some(i) => f(Canonical::Int(i)),
                None if x.is_nan() => f(Canonical::Missing),
                None => f(Canonical::Text(&x.to_string())),
            },
            Value::Text(text) => f(Canonical::Text(text)),
        }
    }

    /// Calls `f` with the canonical text, `None` for a missing value.
    pub(crate) fn text<R>(self, f: impl FnOnce(Option<&str>) -> R) -> R {
        self.canonical(|c| match c {
            Canonical::Missing => f(None),
            Canonical::Int(i) => f(Some(decimal(i, &mut [0; 20]))),
            Canonical::Text(text) => f(Some(text)),
        })
    }
}

fn integral(x: f64) -> Option<i64> {
    (x.fract() == 0.0 && x.abs() <= EXACT_FLOAT).then_some(x as i64)
}

/// Writes `i` in decimal without allocating.
pub(crate) fn decimal(i: i64, buffer: &mut [u8; 20]) -> &str {
    let mut rest = i.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if i < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or_default()
}

/// The integer whose decimal text this is: no sign but `-`, no leading zero, no `-0`.
pub(crate) fn canonical_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    if canonical { text.parse().ok() } else { None }
}

/// Calls `f` with each element of a column that is not a dictionary.
pub(crate) fn for_each_value(array: &dyn Array, mut f: impl FnMut(Value<'_>)) -> Result<(), ColumnError> {
    fn primitive<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, mut f: impl FnMut(Option<T::Native>)) {
        if array.null_count() == 0 {
            array.values().iter().for_each(|v| f(Some(*v)));
        } else {
            array.iter().for_each(f);
        }
    }
    macro_rules! ints {
        ($type:ty) => {
            primitive(array.as_primitive::<$type>(), |v| f(v.map_or(Value::Null, |v| Value::Int(v.into()))))
        };
    }
    match array.data_type() {
        DataType::Null => (0..array.len()).for_each(|_| f(Value::Null)),
        DataType::Boolean => array.as_boolean().iter().for_each(|v| f(v.map_or(Value::Null, Value::Bool))),
        DataType::Int8 => ints!(Int8Type),
        DataType::Int16 => ints!(Int16Type),
        DataType::Int32 => ints!(Int32Type),
        DataType::Int64 => ints!(Int64Type),
        DataType::UInt8 => ints!(UInt8Type),
        DataType::UInt16 => ints!(UInt16Type),
        DataType::UInt32 => ints!(UInt32Type),
        DataType::UInt64 => primitive(array.as_primitive::<UInt64Type>(), |v| {
            f(v.map_or(Value::Null, |v| i64::try_from(v).map_or(Value::UInt(v), Value::Int)))
        }),
        DataType::Float32 => {
            primitive(array.as_primitive::<Float32Type>(), |v| f(v.map_or(Value::Null, Value::Single)))
        }
        DataType::Float64 => primitive(array.as_primitive::<Float64Type>(), |v| f(v.map_or(Value::Null, Value::Float))),
        DataType::Utf8 => array.as_string::<i32>().iter().for_each(|v| f(v.map_or(Value::Null, Value::Text))),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().for_each(|v| f(v.map_or(Value::Null, Value::Text))),
        DataType::Utf8View => array.as_string_view().iter().for_each(|v| f(v.map_or(Value::Null, Value::Text))),
        DataType::Float16 | DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) => {
            let floats = arrow_cast::cast(array, &DataType::Float64).map_err(|_| ColumnError::Type)?;
            return for_each_value(&floats, f);
        }
        _ => return Err(ColumnError::Type),
    }
    Ok(())
}

/// Calls `f` with each dictionary key, `None` for null.
fn for_each_key(keys: &dyn Array, mut f: impl FnMut(Option<usize>)) {
    macro_rules! keys {
        ($type:ty) => {{
            let keys = keys.as_primitive::<$type>();
            match keys.nulls() {
                None => keys.values().iter().for_each(|k| f(Some(*k as usize))),
                Some(nulls) => keys.values().iter().zip(nulls).for_each(|(k, ok)| f(ok.then_some(*k as usize))),
            }
        }};
    }
    match keys.data_type() {
        DataType::Int8 => keys!(Int8Type),
        DataType::Int16 => keys!(Int16Type),
        DataType::Int32 => keys!(Int32Type),
        DataType::Int64 => keys!(Int64Type),
        DataType::UInt8 => keys!(UInt8Type),
        DataType::UInt16 => keys!(UInt16Type),
        DataType::UInt32 => keys!(UInt32Type),
        DataType::UInt64 => keys!(UInt64Type),
        other => unreachable!("arrow dictionaries have integer keys, not {other}"),
    }
}

/// Calls `f` with each value and how often it stands in a row, dictionary entries once each.
/// Entries that no row uses are left out.
pub(crate) fn count_values(array: &ArrayRef, mut f: impl FnMut(Value<'_>, u64)) -> Result<(), ColumnError> {
    let Some(dictionary) = array.as_any_dictionary_opt() else {
        return for_each_value(array, |v| f(v, 1));
    };
    let mut counts = vec![0u64; dictionary.values().len()];
    let mut nulls = 0;
    for_each_key(dictionary.keys(), |key| match key {
        Some(key) => counts[key] += 1,
        None => nulls += 1,
    });
    if nulls > 0 {
        f(Value::Null, nulls);
    }
    let mut counts = counts.into_iter();
    for_each_value(dictionary.values(), |value| match counts.next() {
        Some(count) if count > 0 => f(value, count),
        _ => {}
    })
}

/// Maps columns value by value, and the entries of a dictionary once for all batches that share
/// it (a Parquet row group's batches do).
#[derive(Debug)]
pub(crate) struct ValueMap<T> {
    dictionary: Option<ArrayRef>,
    mapped: Vec<T>,
}

impl<T> Default for ValueMap<T> {
    fn default() -> Self {
        Self { dictionary: None, mapped: Vec::new() }
    }
}

impl<T: Copy> ValueMap<T> {
    /// Whether the column's dictionary is already mapped.
    pub(crate) fn holds(&self, array: &ArrayRef) -> bool {
        array.as_any_dictionary_opt().is_some_and(|d| self.holds_entries(d.values()))
    }

    /// Forgets the dictionary held.
    pub(crate) fn forget(&mut self) {
        self.dictionary = None;
        self.mapped.clear();
    }

    fn holds_entries(&self, entries: &ArrayRef) -> bool {
        self.dictionary.as_ref().is_some_and(|held| {
            std::ptr::addr_eq(Arc::as_ptr(held), Arc::as_ptr(entries)) || held.to_data().ptr_eq(&entries.to_data())
        })
    }

    /// Calls `out` with the mapped value of each row; `map` runs once per row, or once per
    /// dictionary entry.
    pub(crate) fn map_rows(
        &mut self,
        array: &ArrayRef,
        mut map: impl FnMut(Value<'_>) -> T,
        mut out: impl FnMut(T),
    ) -> Result<(), ColumnError> {
        let Some(dictionary) = array.as_any_dictionary_opt() else {
            return for_each_value(array, |v| out(map(v)));
        };
        if !self.holds_entries(dictionary.values()) {
            self.forget();
            let mapped = &mut self.mapped;
            for_each_value(dictionary.values(), |v| mapped.push(map(v)))?;
            self.dictionary = Some(dictionary.values().clone());
        }
        let null = map(Value::Null);
        let mapped = &self.mapped;
        for_each_key(dictionary.keys(), |key| out(key.map_or(null, |key| mapped[key])));
        Ok(())
    }
}

/// Whether a column (or a dictionary's entries) holds text.
pub(crate) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, entries) => is_text(entries),
        _ => false,
    }
}

/// A list column as its elements and the range of them each row holds (`None` for null);
/// `None` when the column is not a list.
pub(crate) fn list_rows(array: &ArrayRef) -> Option<ListRows> {
    let nulls = array.nulls().cloned();
    let (elements, bounds): (&ArrayRef, Vec<(usize, usize)>) = match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            (list.values(), list.offsets().windows(2).map(|w| (w[0] as usize, w[1] as usize)).collect())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (list.values(), list.offsets().windows(2).map(|w| (w[0] as usize, w[1] as usize)).collect())
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let width = list.value_length() as usize;
            (list.values(), (0..list.len()).map(|r| (r * width, (r + 1) * width)).collect())
        }
        _ => return None,
    };
    let first = bounds.first().map_or(0, |b| b.0);
    let last = bounds.last().map_or(first, |b| b.1);
    let rows = bounds
        .into_iter()
        .enumerate()
        .map(|(r, (from, to))| nulls.as_ref().is_none_or(|n| n.is_valid(r)).then_some((from - first, to - first)))
        .collect();
    Some(ListRows { elements: elements.slice(first, last - first), rows })
}

/// See [`list_rows`].
pub(crate) struct ListRows {
    pub(crate) elements: ArrayRef,
    pub(crate) rows: Vec<Option<(usize, usize)>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Int32Type;
    use arrow_array::{DictionaryArray, Float32Array, Float64Array, Int64Array, StringArray, UInt64Array};

    fn texts(array: ArrayRef) -> Vec<Option<String>> {
        let mut out = Vec::new();
        for_each_value(&array, |v| out.push(v.text(|t| t.map(str::to_string)))).unwrap();
        out
    }

    #[test]
    fn one_value_has_one_text_in_every_type() {
        let threes: [ArrayRef; 5] = [
            Arc::new(Int64Array::from(vec![3])),
            Arc::new(Float64Array::from(vec![3.0])),
            Arc::new(Float32Array::from(vec![3.0])),
            Arc::new(UInt64Array::from(vec![3])),
            Arc::new(StringArray::from(vec!["3"])),
        ];
        for three in threes {
            assert_eq!(texts(three), [Some("3".to_string())]);
        }
        assert_eq!(texts(Arc::new(Float32Array::from(vec![0.1]))), texts(Arc::new(Float64Array::from(vec![0.1]))));
        assert_eq!(texts(Arc::new(UInt64Array::from(vec![u64::MAX]))), [Some(u64::MAX.to_string())]);
        assert_eq!(texts(Arc::new(Float64Array::from(vec![f64::NAN]))), [None]);
        assert_eq!(texts(Arc::new(StringArray::from(vec![Some(""), None]))), [None, None]);
    }

    #[test]
    fn decimal_text_is_canonical_at_the_extremes() {
        for i in [0, -1, 7, 10, -10, i64::MAX, i64::MIN] {
            assert_eq!(decimal(i, &mut [0; 20]), i.to_string());
            assert_eq!(canonical_int(&i.to_string()), Some(i));
        }
        for text in ["", "-", "-0", "007", "+1", "1.0", " 1", "9223372036854775808"] {
            assert_eq!(canonical_int(text), None, "{text}");
        }
    }

    #[test]
    fn unused_dictionary_entries_are_not_counted() {
        let keys = arrow_array::Int32Array::from(vec![Some(2), None, Some(2), Some(0)]);
        let entries = Arc::new(StringArray::from(vec!["a", "unused", "b"]));
        let array: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::new(keys, entries));
        let mut seen = Vec::new();
        count_values(&array, |v, n| seen.push((v.text(|t| t.map(str::to_string)), n))).unwrap();
        assert_eq!(seen, [(None, 1), (Some("a".into()), 1), (Some("b".into()), 2)]);
    }

    #[test]
    fn a_shared_dictionary_is_mapped_once() {
        let array: ArrayRef = Arc::new(["x", "y", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let other: ArrayRef = Arc::new(["y", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let mut map = ValueMap::default();
        let mut calls = 0;
        let mut run = |array: &ArrayRef| {
            let mut out = Vec::new();
            map.map_rows(array, |v| (calls += 1, v.text(|t| t == Some("x"))).1, |x: bool| out.push(x)).unwrap();
            (out, calls)
        };
        assert_eq!(run(&array), (vec![true, false, true], 3));
        assert_eq!(run(&array.slice(1, 2)), (vec![false, true], 4), "only the null is mapped again");
        assert_eq!(run(&other), (vec![false, true], 7));
    }
}
