//! Reads Arrow columns as sequences of values, and gives values their canonical text.
//!
//! Canonical text: strings as they are, integers and whole decimals in digits, booleans `true` and `false`, floats
//! without a fraction as the integer (pandas writes a nullable integer 3 as 3.0), other floats in
//! Rust's shortest round-trip form. Null, NaN and the empty string are missing.

use crate::error::ColumnError;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, DictionaryArray, PrimitiveArray, RecordBatch};
use arrow_buffer::{NullBuffer, ScalarBuffer};
use arrow_schema::{DataType, FieldRef, Schema};
use std::borrow::Cow;
use std::sync::Arc;

/// One element of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    Single(f32),
    Float(f64),
    Text(&'a str),
}

/// A value in its canonical form. An integer stands for its decimal text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Canonical<'a> {
    Missing,
    Int(i64),
    Text(&'a str),
}

/// The magnitude up to which every integer is exact in a float.
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

/// The integer of a decimal text. None if the text has a `+`, leading zeros, or is `-0`, since it is then not
/// canonical.
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
        DataType::Decimal32(_, 0) | DataType::Decimal64(_, 0) | DataType::Decimal128(_, 0) if fits_64_bits(array) => {
            let integers = arrow_cast::cast(array, &DataType::Int64).map_err(|_| ColumnError::Type)?;
            return for_each_value(&integers, f);
        }
        DataType::Float16 | DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) => {
            let floats = arrow_cast::cast(array, &DataType::Float64).map_err(|_| ColumnError::Type)?;
            return for_each_value(&floats, f);
        }
        _ => return Err(ColumnError::Type),
    }
    Ok(())
}

/// Whether decimals without a fraction are 64-bit integers, all of whose digits count: in floats the last are lost.
fn fits_64_bits(array: &dyn Array) -> bool {
    arrow_cast::cast(array, &DataType::Int64).is_ok_and(|integers| integers.null_count() == array.null_count())
}

/// Runs `$body` with `$keys`, the keys of a dictionary column as a slice of their integer type.
macro_rules! with_keys {
    ($array:expr, $keys:ident => $body:expr) => {{
        let array: &dyn Array = $array;
        macro_rules! of {
            ($type:ty) => {{
                let $keys = array.as_primitive::<$type>().values();
                $body
            }};
        }
        match array.data_type() {
            DataType::Int8 => of!(Int8Type),
            DataType::Int16 => of!(Int16Type),
            DataType::Int32 => of!(Int32Type),
            DataType::Int64 => of!(Int64Type),
            DataType::UInt8 => of!(UInt8Type),
            DataType::UInt16 => of!(UInt16Type),
            DataType::UInt32 => of!(UInt32Type),
            DataType::UInt64 => of!(UInt64Type),
            other => unreachable!("arrow dictionaries have integer keys, not {other}"),
        }
    }};
}

/// The null rows of an array, ascending.
pub(crate) fn null_rows(array: &dyn Array) -> Vec<usize> {
    array.nulls().filter(|n| n.null_count() > 0).map_or(Vec::new(), |nulls| (!nulls.inner()).set_indices().collect())
}

/// How many rows hold each of `entries` dictionary entries, and how many are null. The key of a null row may be
/// invalid.
pub(crate) fn count_keys(keys: &dyn Array, entries: usize) -> (Vec<u64>, u64) {
    // Even and odd rows have separate counts, so that successive rows of one entry need not wait for each other.
    let mut counts = vec![[0u64; 2]; entries];
    let nulls = null_rows(keys);
    with_keys!(keys, keys => {
        for (row, key) in keys.iter().enumerate() {
            if let Some(count) = counts.get_mut(*key as usize) {
                count[row % 2] += 1;
            }
        }
        for row in &nulls {
            if let Some(count) = counts.get_mut(keys[*row] as usize) {
                count[row % 2] -= 1;
            }
        }
    });
    (counts.into_iter().map(|[even, odd]| even + odd).collect(), nulls.len() as u64)
}

/// A dictionary with the narrowest keys that its number of entries allows.
///
/// # Safety
/// For every row that is not null, `key` must give a number below the number of entries.
unsafe fn keyed<N: Copy>(keys: &[N], key: impl Fn(N) -> u32, nulls: Option<NullBuffer>, entries: ArrayRef) -> ArrayRef {
    macro_rules! of {
        ($type:ty, $native:ty) => {{
            let keys: ScalarBuffer<$native> = keys.iter().map(|k| key(*k) as $native).collect();
            let keys = PrimitiveArray::<$type>::new(keys, nulls);
            // SAFETY: by the contract of this function, keys are below the number of entries, which their type can
            // hold. To check them again would take longer than making them.
            Arc::new(unsafe { DictionaryArray::new_unchecked(keys, entries) })
        }};
    }
    match entries.len() {
        0..=0x100 => of!(UInt8Type, u8),
        0x101..=0x1_0000 => of!(UInt16Type, u16),
        _ => of!(UInt32Type, u32),
    }
}

/// Turns a column of integers that are close together into a dictionary of all integers from the smallest to the
/// largest, so that each is processed once. Any other column stays as it is.
pub(crate) fn by_entries(array: &ArrayRef) -> Cow<'_, ArrayRef> {
    fn integers<T: ArrowPrimitiveType>(
        array: &PrimitiveArray<T>,
        wide: impl Fn(T::Native) -> i64,
        narrow: impl Fn(i64) -> T::Native,
    ) -> Option<ArrayRef> {
        let ranges = match array.nulls() {
            Some(nulls) => nulls.valid_slices().collect(),
            None => vec![(0, array.len())],
        };
        let values = array.values();
        let bounds = |(low, high): (i64, i64), value: &T::Native| (low.min(wide(*value)), high.max(wide(*value)));
        let valid = ranges.into_iter().flat_map(|(from, to)| &values[from..to]);
        let (low, high) = valid.fold((i64::MAX, i64::MIN), bounds);
        // Making the keys pays only if there are far fewer entries than rows.
        let entries = usize::try_from(high.checked_sub(low)?).ok()?.checked_add(1)?;
        if entries > array.len() / 4 {
            return None;
        }
        let entries = Arc::new(PrimitiveArray::<T>::from_iter_values((low..=high).map(narrow)));
        // A null row may hold any number, so its key may be invalid.
        let key = |value| wide(value).wrapping_sub(low) as u32;
        // SAFETY: all rows but null ones are from `low` to `high`, and each of these numbers has an entry.
        Some(unsafe { keyed(values, key, array.nulls().cloned(), entries) })
    }
    macro_rules! integers {
        ($type:ty, $native:ty) => {
            integers(array.as_primitive::<$type>(), i64::from, |value| value as $native)
        };
    }
    let by_entries = match array.data_type() {
        DataType::Int8 => integers!(Int8Type, i8),
        DataType::Int16 => integers!(Int16Type, i16),
        DataType::Int32 => integers!(Int32Type, i32),
        DataType::Int64 => integers!(Int64Type, i64),
        DataType::UInt8 => integers!(UInt8Type, u8),
        DataType::UInt16 => integers!(UInt16Type, u16),
        DataType::UInt32 => integers!(UInt32Type, u32),
        _ => None,
    };
    by_entries.map_or(Cow::Borrowed(array), Cow::Owned)
}

/// Bytes of a key of a dictionary column. None for other columns.
fn key_bytes(array: &ArrayRef) -> Option<usize> {
    array.as_any_dictionary_opt().and_then(|dictionary| dictionary.keys().data_type().primitive_width())
}

/// A batch of the same values in less memory. Integers that are close together become dictionaries, and dictionaries
/// get narrower keys, where that saves memory. The column `except` stays as it is.
pub fn compact(batch: &RecordBatch, except: &str) -> RecordBatch {
    let schema = batch.schema();
    let narrow = |array: &ArrayRef| match array.data_type() {
        DataType::Dictionary(keys, _) if **keys == DataType::Int32 => {
            let dictionary = array.as_dictionary::<Int32Type>();
            let (keys, entries) = (dictionary.keys(), dictionary.values());
            // SAFETY: the keys are those of the dictionary with these entries.
            let narrow = || unsafe { keyed(keys.values(), |key| key as u32, keys.nulls().cloned(), entries.clone()) };
            (entries.len() <= 1 << 16).then(narrow)
        }
        DataType::Dictionary(..) => None,
        data_type => match by_entries(array) {
            Cow::Owned(array) if key_bytes(&array) < data_type.primitive_width() => Some(array),
            _ => None,
        },
    };
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, array)| {
        let narrowed = if field.name() == except { None } else { narrow(array) };
        let array = narrowed.unwrap_or_else(|| array.clone());
        (Arc::new(field.as_ref().clone().with_data_type(array.data_type().clone())), array)
    });
    let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) = columns.unzip();
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).unwrap_or_else(|_| batch.clone())
}

/// Calls `f` with each value and its number of rows. For a dictionary, `f` is called once for each entry that any row
/// uses.
pub(crate) fn count_values(array: &ArrayRef, mut f: impl FnMut(Value<'_>, u64)) -> Result<(), ColumnError> {
    let array = &*by_entries(array);
    let Some(dictionary) = array.as_any_dictionary_opt() else {
        return for_each_value(array, |v| f(v, 1));
    };
    let (counts, nulls) = count_keys(dictionary.keys(), dictionary.values().len());
    if nulls > 0 {
        f(Value::Null, nulls);
    }
    let mut counts = counts.into_iter();
    for_each_value(dictionary.values(), |value| match counts.next() {
        Some(count) if count > 0 => f(value, count),
        _ => {}
    })
}

/// Maps the values of columns. The entries of a dictionary are mapped once for all batches that share the dictionary,
/// as the batches of a Parquet row group do.
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
    /// Whether the dictionary of a column is already mapped.
    pub(crate) fn holds(&self, array: &ArrayRef) -> bool {
        array.as_any_dictionary_opt().is_some_and(|d| self.holds_entries(d.values()))
    }

    /// Forgets the dictionary that is mapped.
    pub(crate) fn forget(&mut self) {
        self.dictionary = None;
        self.mapped.clear();
    }

    fn holds_entries(&self, entries: &ArrayRef) -> bool {
        self.dictionary.as_ref().is_some_and(|held| {
            std::ptr::addr_eq(Arc::as_ptr(held), Arc::as_ptr(entries)) || held.to_data().ptr_eq(&entries.to_data())
        })
    }

    /// Appends the mapped value of each row to `out`. `map` runs once per row, or once per
    /// dictionary entry.
    pub(crate) fn map_rows(
        &mut self,
        array: &ArrayRef,
        mut map: impl FnMut(Value<'_>) -> T,
        out: &mut Vec<T>,
    ) -> Result<(), ColumnError> {
        let null = map(Value::Null);
        let each = |entries: &ArrayRef, out: &mut Vec<T>| for_each_value(entries, |value| out.push(map(value)));
        self.map_entries(&by_entries(array), each, null, out)
    }

    /// Appends the mapped value of each row to `out`. `map` is given a column and appends the mapped values of its
    /// rows. For a dictionary, that column holds the entries.
    pub(crate) fn map_entries(
        &mut self,
        array: &ArrayRef,
        mut map: impl FnMut(&ArrayRef, &mut Vec<T>) -> Result<(), ColumnError>,
        null: T,
        out: &mut Vec<T>,
    ) -> Result<(), ColumnError> {
        out.reserve(array.len());
        let Some(dictionary) = array.as_any_dictionary_opt() else { return map(array, out) };
        if !self.holds_entries(dictionary.values()) {
            self.forget();
            map(dictionary.values(), &mut self.mapped)?;
            self.dictionary = Some(dictionary.values().clone());
        }
        let (mapped, keys, before) = (&self.mapped, dictionary.keys(), out.len());
        // The key of a null row may be invalid.
        with_keys!(keys, keys => {
            out.extend(keys.iter().map(|key| mapped.get(*key as usize).copied().unwrap_or(null)));
        });
        null_rows(keys).into_iter().for_each(|row| out[before + row] = null);
        Ok(())
    }
}

/// Whether a column, or the entries of a dictionary column, hold text.
pub(crate) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, entries) => is_text(entries),
        _ => false,
    }
}

/// The elements of a list column, and for each row the range of its elements, or `None` if it is null.
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

/// The result of [`list_rows`].
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

    /// Each value of a column with its number of rows, ascending.
    type Counts = Vec<(Option<String>, u64)>;

    /// The rows of a column as numbers, mapped by a [`ValueMap`], and its counted values.
    fn met(array: &ArrayRef) -> (Vec<Option<i64>>, Counts) {
        let (mut rows, mut counts) = (Vec::new(), Vec::new());
        let number = |v: Value<'_>| v.text(|t| t.map(|t| t.parse().unwrap()));
        ValueMap::default().map_rows(array, number, &mut rows).unwrap();
        count_values(array, |v, n| counts.push((v.text(|t| t.map(str::to_string)), n))).unwrap();
        counts.sort();
        (rows, counts)
    }

    #[test]
    fn integers_that_lie_close_together_are_met_as_others_are() {
        // The numbers in null rows are far from the others.
        let nulls = NullBuffer::from_iter((0..4000).map(|i| i % 7 != 0));
        for (low, entries) in [(-3, 5), (0, 256), (1000, 257), (i32::MAX - 999, 1000)] {
            let values = |i: i32| if i % 7 == 0 { i32::MIN } else { low + i % entries };
            let close: ArrayRef =
                Arc::new(PrimitiveArray::<Int32Type>::new((0..4000).map(values).collect(), Some(nulls.clone())));
            assert!(matches!(by_entries(&close), Cow::Owned(_)));
            let texts = (0..4000).map(|i| (i % 7 != 0).then(|| (low + i % entries).to_string()));
            let plain: ArrayRef = Arc::new(StringArray::from_iter(texts));
            let expected = (texts_as_numbers(&plain), counted_one_by_one(&plain));
            assert_eq!(met(&close), expected, "{low} {entries}");
            let batch = RecordBatch::try_from_iter([("x", close.clone()), ("id", close.clone())]).unwrap();
            let compact = compact(&batch, "id");
            assert_eq!(met(compact.column(0)), expected);
            assert_eq!(compact.column(1), &close);
            assert!(compact.get_array_memory_size() < batch.get_array_memory_size());
        }
    }

    #[test]
    fn integers_far_apart_or_all_null_stay_as_they_are() {
        let columns: [ArrayRef; 4] = [
            Arc::new(Int64Array::from_iter_values([i64::MIN, i64::MAX, 0, 1, 2, 3, 4, 5])),
            Arc::new(Int64Array::from_iter_values(0..1000)),
            Arc::new(Int64Array::from(vec![None; 1000])),
            Arc::new(Int64Array::from_iter_values([])),
        ];
        for column in columns {
            assert!(matches!(by_entries(&column), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn a_dictionary_with_narrow_keys_is_the_same_column() {
        let keys = arrow_array::Int32Array::from_iter((0..3000).map(|i| (i % 5 != 0).then_some(i % 300)));
        let entries = Arc::new(StringArray::from_iter_values((0..300).map(|i| (i * 7).to_string())));
        let wide: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::new(keys, entries));
        let batch = RecordBatch::try_from_iter([("x", wide.clone())]).unwrap();
        let compact = compact(&batch, "id");
        assert_eq!(compact.column(0).data_type().to_string(), "Dictionary(UInt16, Utf8)");
        assert_eq!(met(compact.column(0)), met(&wide));
    }

    fn texts_as_numbers(array: &ArrayRef) -> Vec<Option<i64>> {
        texts(array.clone()).into_iter().map(|t| t.map(|t| t.parse().unwrap())).collect()
    }

    fn counted_one_by_one(array: &ArrayRef) -> Counts {
        let mut counts = std::collections::BTreeMap::<_, u64>::new();
        texts(array.clone()).into_iter().for_each(|t| *counts.entry(t).or_default() += 1);
        counts.into_iter().collect()
    }

    #[test]
    fn a_shared_dictionary_is_mapped_once() {
        let array: ArrayRef = Arc::new(["x", "y", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let other: ArrayRef = Arc::new(["y", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let mut map = ValueMap::default();
        let mut calls = 0;
        let mut run = |array: &ArrayRef| {
            let mut out = Vec::new();
            map.map_rows(array, |v| (calls += 1, v.text(|t| t == Some("x"))).1, &mut out).unwrap();
            (out, calls)
        };
        assert_eq!(run(&array), (vec![true, false, true], 3));
        assert_eq!(run(&array.slice(1, 2)), (vec![false, true], 4), "only the null is mapped again");
        assert_eq!(run(&other), (vec![false, true], 7));
    }
}
