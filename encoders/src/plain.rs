//! Columns as features read them before anything is fitted. A profile of a table counts these.
//!
//! A value is missing where the encoders take it as missing, and has the text that it has in a vocabulary. So counts of
//! these columns are counts of what a model sees.

use crate::boolean::BooleanReader;
use crate::counts::FeatureCounts;
use crate::date::{DateCell, DateReader, cells};
use crate::encode::find_column;
use crate::error::{ColumnError, EncoderError};
use crate::multi_valued::elements;
use crate::number_text::DecimalMark;
use crate::numbers::for_each_block;
use crate::spec::{FeatureSpec, name_error};
use crate::values::{Value, for_each_value, list_rows};
use arrow_array::builder::LargeStringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, LargeStringArray, RecordBatch};
use twotower_artifacts::Side;

/// A feature's column before it is encoded. Null means missing.
#[derive(Debug, Clone)]
pub enum PlainColumn {
    /// One value per row. For categorical, hashed and id features it is the canonical text. For dates it is the day, such as
    /// `2026-01-31`. For booleans it is `true`, `false`, or any other text, trimmed and in lower case.
    Values(LargeStringArray),
    /// One finite number per row.
    Numbers(Float64Array),
    /// Several values per row.
    Lists {
        /// The number of values of each row. Empty values do not count; values beyond the feature's limit do.
        lengths: Int64Array,
        /// The values of all rows, in order. None is null.
        values: LargeStringArray,
    },
    /// The length of the vector of each row.
    Vectors(Int64Array),
}

impl PlainColumn {
    /// Number of rows without a value.
    pub fn missing(&self) -> u64 {
        let column: &dyn Array = match self {
            PlainColumn::Values(values) => values,
            PlainColumn::Numbers(numbers) => numbers,
            PlainColumn::Lists { lengths, .. } | PlainColumn::Vectors(lengths) => lengths,
        };
        column.null_count() as u64
    }
}

impl FeatureSpec {
    /// The column of a batch that this feature reads, in the plain form. None for a feature that reads no column of its
    /// table.
    ///
    /// # Errors
    /// [`EncoderError::MissingColumn`] or [`EncoderError::ColumnType`].
    pub fn plain(&self, side: Side, id_column: &str, batch: &RecordBatch) -> Result<Option<PlainColumn>, EncoderError> {
        let Some(column) = self.input(id_column) else { return Ok(None) };
        if matches!(self, FeatureSpec::Vector(spec) if spec.file.is_some()) {
            return Ok(None);
        }
        let array = find_column(batch, side, self.name(), column)?;
        self.plain_of(array).map(Some).map_err(|e| name_error(e, side, self, column, array))
    }

    /// Rows of a column, the first `most`, that hold what the feature cannot read: of kinds that read text as something
    /// else, which are numbers, booleans and dates.
    pub fn unreadable(&self, array: &ArrayRef, most: usize) -> Vec<usize> {
        let is_unreadable = |array: &dyn Array| -> Option<Vec<bool>> {
            let mut rows = Vec::with_capacity(array.len());
            let read = match self {
                FeatureSpec::Numeric(spec) => {
                    rows.resize(array.len(), false);
                    for_each_block(array, spec.decimal, |block| block.unreadable().for_each(|row| rows[row] = true))
                }
                FeatureSpec::Boolean(spec) => {
                    let mut reader = BooleanReader::new(spec);
                    for_each_value(array, |value| {
                        reader.read(value, |read| rows.push(!matches!(read, None | Some("true" | "false"))));
                    })
                }
                FeatureSpec::Date(spec) => {
                    let mut cells = Vec::new();
                    let read = DateReader::new(spec).read(array, &mut cells);
                    rows.extend(cells.into_iter().map(|cell| cell == DateCell::Unreadable));
                    read
                }
                _ => Ok(()),
            };
            read.ok().map(|()| rows)
        };
        let found = match array.as_any_dictionary_opt() {
            None => is_unreadable(array).unwrap_or_default(),
            Some(dictionary) => {
                let entries = is_unreadable(dictionary.values()).unwrap_or_default();
                let of = |entry: Option<usize>| entry.and_then(|entry| entries.get(entry).copied()).unwrap_or(false);
                entries_of(array).into_iter().map(of).collect()
            }
        };
        found.into_iter().enumerate().filter(|(_, bad)| *bad).map(|(row, _)| row).take(most).collect()
    }

    /// The share of the values that are there, of those encoded, that the feature could not read.
    pub fn unreadable_share(&self, counts: &FeatureCounts) -> f64 {
        // An unreadable boolean is unknown, an unreadable number or date is missing.
        let (missing, junk) = match self {
            FeatureSpec::Numeric(_) | FeatureSpec::Date(_) => (counts.missing.saturating_sub(counts.junk), counts.junk),
            FeatureSpec::Boolean(_) => (counts.missing, counts.junk),
            _ => return 0.0,
        };
        junk as f64 / counts.values.saturating_sub(missing).max(1) as f64
    }

    /// The values that the feature knows whatever is fitted: of a boolean, `false` and `true`.
    pub fn fixed_values(&self) -> Option<&'static [&'static str]> {
        matches!(self, FeatureSpec::Boolean(_)).then_some(&["false", "true"])
    }

    fn plain_of(&self, array: &ArrayRef) -> Result<PlainColumn, ColumnError> {
        match self {
            FeatureSpec::Categorical(_) | FeatureSpec::Hashed(_) | FeatureSpec::Id(_) => {
                let canonical = |value: Value<'_>, out: &mut LargeStringBuilder| {
                    value.text(|text| out.append_option(text));
                };
                Ok(PlainColumn::Values(texts(array, canonical)?))
            }
            FeatureSpec::Boolean(spec) => {
                let mut reader = BooleanReader::new(spec);
                let meaning =
                    |value: Value<'_>, out: &mut LargeStringBuilder| reader.read(value, |t| out.append_option(t));
                Ok(PlainColumn::Values(texts(array, meaning)?))
            }
            FeatureSpec::Numeric(spec) => Ok(PlainColumn::Numbers(numbers(array, spec.decimal)?)),
            FeatureSpec::Date(spec) => {
                let cells = cells(&DateReader::new(spec), array)?;
                Ok(PlainColumn::Values(cells.into_iter().map(DateCell::iso).collect()))
            }
            FeatureSpec::MultiValued(spec) => match spec.separator_for(array)? {
                Some(separator) => delimited(array, separator),
                None => lists(array),
            },
            FeatureSpec::Vector(_) => {
                let list = list_rows(array).ok_or(ColumnError::Type)?;
                let lengths = list.rows.iter().map(|row| row.map(|(from, to)| (to - from) as i64));
                Ok(PlainColumn::Vectors(lengths.collect()))
            }
            FeatureSpec::Sequence(_) => Err(ColumnError::Type),
        }
    }
}

/// The text that `write` appends for each value. For a dictionary column, `write` runs once for each entry.
fn texts(
    array: &ArrayRef,
    mut write: impl FnMut(Value<'_>, &mut LargeStringBuilder),
) -> Result<LargeStringArray, ColumnError> {
    let mut out = LargeStringBuilder::new();
    let Some(dictionary) = array.as_any_dictionary_opt() else {
        for_each_value(array, |value| write(value, &mut out))?;
        return Ok(out.finish());
    };
    // The first text is that of a null row, and the others are those of the dictionary's entries.
    let mut entries = LargeStringBuilder::new();
    write(Value::Null, &mut entries);
    for_each_value(dictionary.values(), |value| write(value, &mut entries))?;
    let entries = entries.finish();
    for entry in entries_of(array) {
        let at = entry.map_or(0, |entry| entry + 1);
        out.append_option(entries.is_valid(at).then(|| entries.value(at)));
    }
    Ok(out.finish())
}

/// The number of the dictionary entry of each row. None for null.
fn entries_of(array: &ArrayRef) -> Vec<Option<usize>> {
    let Some(dictionary) = array.as_any_dictionary_opt() else { return Vec::new() };
    match dictionary.values().is_empty() {
        true => vec![None; array.len()],
        false => {
            let keys = dictionary.normalized_keys();
            keys.into_iter().enumerate().map(|(row, key)| dictionary.keys().is_valid(row).then_some(key)).collect()
        }
    }
}

/// Numbers as numeric features read them, of the two zeros the positive one.
pub(crate) fn numbers(array: &ArrayRef, mark: DecimalMark) -> Result<Float64Array, ColumnError> {
    let read = |array: &dyn Array| {
        let mut numbers: Vec<Option<f64>> = vec![None; array.len()];
        for_each_block(array, mark, |block| block.rows().for_each(|(row, x)| numbers[row] = Some(x + 0.0)))?;
        Ok(numbers)
    };
    match array.as_any_dictionary_opt() {
        None => read(array).map(Float64Array::from),
        Some(dictionary) => {
            let entries = read(dictionary.values())?;
            Ok(entries_of(array).into_iter().map(|entry| entry.and_then(|entry| entries[entry])).collect())
        }
    }
}

/// The elements of delimited text. Text without any element is missing.
fn delimited(array: &ArrayRef, separator: &str) -> Result<PlainColumn, ColumnError> {
    let rows = texts(array, |value, out| match value {
        Value::Text(text) => out.append_value(text),
        _ => out.append_null(),
    })?;
    let mut values = LargeStringBuilder::new();
    let lengths = rows.iter().map(|text| {
        let mut length = 0;
        for element in text.into_iter().flat_map(|text| elements(Value::Text(text), separator)) {
            values.append_value(element);
            length += 1;
        }
        (length > 0).then_some(length)
    });
    let lengths = lengths.collect();
    Ok(PlainColumn::Lists { lengths, values: values.finish() })
}

/// The elements of lists, without null and empty ones.
fn lists(array: &ArrayRef) -> Result<PlainColumn, ColumnError> {
    let list = list_rows(array).ok_or(ColumnError::Type)?;
    let canonical = |value: Value<'_>, out: &mut LargeStringBuilder| value.text(|text| out.append_option(text));
    let elements = texts(&list.elements, canonical)?;
    let mut values = LargeStringBuilder::new();
    let lengths = list.rows.iter().map(|row| {
        let (from, to) = (*row)?;
        let mut length = 0;
        for at in (from..to).filter(|at| elements.is_valid(*at)) {
            values.append_value(elements.value(at));
            length += 1;
        }
        Some(length)
    });
    let lengths = lengths.collect();
    Ok(PlainColumn::Lists { lengths, values: values.finish() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::types::Int32Type;
    use arrow_array::{BooleanArray, DictionaryArray, Int32Array, StringArray};
    use serde_json::json;
    use std::sync::Arc;

    fn plain(spec: serde_json::Value, array: ArrayRef) -> Result<PlainColumn, ColumnError> {
        serde_json::from_value::<FeatureSpec>(spec).unwrap().plain_of(&array)
    }

    fn values(spec: serde_json::Value, array: ArrayRef) -> Vec<Option<String>> {
        let PlainColumn::Values(values) = plain(spec, array).unwrap() else { panic!("not values") };
        values.iter().map(|value| value.map(str::to_string)).collect()
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| (*text != "-").then(|| text.to_string())).collect()
    }

    #[test]
    fn values_have_their_canonical_text_in_every_form_of_a_column() {
        let spec = json!({"kind": "categorical", "name": "x"});
        let rows = [Some("Zürich"), None, Some(""), Some(" b ")];
        let expected = some(&["Zürich", "-", "-", " b "]);
        assert_eq!(values(spec.clone(), Arc::new(StringArray::from(rows.to_vec()))), expected);
        let dictionary = rows.into_iter().collect::<DictionaryArray<Int32Type>>();
        assert_eq!(values(spec.clone(), Arc::new(dictionary.slice(0, 4))), expected);
        let none = [None::<&str>, None].into_iter().collect::<DictionaryArray<Int32Type>>();
        assert_eq!(values(spec.clone(), Arc::new(none)), some(&["-", "-"]));
        let floats = Float64Array::from(vec![Some(3.0), Some(f64::NAN), Some(0.5), None]);
        assert_eq!(values(spec, Arc::new(floats)), some(&["3", "-", "0.5", "-"]));
    }

    #[test]
    fn booleans_are_what_they_mean_and_junk_is_shown() {
        let spec = json!({"kind": "boolean", "name": "x", "false_values": ["nein"]});
        let texts = StringArray::from(vec![Some(" YES "), Some("Nein"), Some("n/a"), Some("##Junk##"), None, Some("")]);
        let expected = some(&["true", "false", "-", "##junk##", "-", "-"]);
        assert_eq!(values(spec.clone(), Arc::new(texts)), expected);
        let dictionary = [Some("1"), None, Some("2")].into_iter().collect::<DictionaryArray<Int32Type>>();
        assert_eq!(values(spec.clone(), Arc::new(dictionary)), some(&["true", "-", "2"]));
        assert_eq!(
            values(spec, Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
            some(&["true", "false", "-"])
        );
    }

    #[test]
    fn numbers_are_those_that_numeric_features_read() {
        let read = |array: ArrayRef| match plain(json!({"kind": "numeric", "name": "x"}), array).unwrap() {
            PlainColumn::Numbers(numbers) => numbers.iter().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let floats = Float64Array::from(vec![Some(1.5), None, Some(f64::INFINITY), Some(-2e100), Some(f64::NAN)]);
        assert_eq!(read(Arc::new(floats)), [Some(1.5), None, None, None, None]);
        let texts = [Some(" 2 "), Some("two"), None, Some("-0"), Some("2")];
        let expected = [Some(2.0), None, None, Some(0.0), Some(2.0)];
        assert_eq!(read(Arc::new(StringArray::from(texts.to_vec()))), expected);
        let dictionary = read(Arc::new(texts.into_iter().collect::<DictionaryArray<Int32Type>>()));
        assert_eq!(dictionary, expected);
        assert!(dictionary[3].is_some_and(f64::is_sign_positive));
        assert_eq!(read(Arc::new(Int32Array::from(vec![7]))), [Some(7.0)]);
    }

    #[test]
    fn what_a_feature_cannot_read_is_found_and_its_share_is_of_the_values_that_are_there() {
        let spec = |kind: &str| serde_json::from_value::<FeatureSpec>(json!({"kind": kind, "name": "x"})).unwrap();
        let rows = [Some("1"), None, Some("maybe"), Some("2026-01-31"), Some("perhaps"), Some("")];
        for (kind, expected) in
            [("numeric", &[2, 3, 4][..]), ("boolean", &[2, 3, 4]), ("date", &[0, 2, 4]), ("categorical", &[])]
        {
            let plain: ArrayRef = Arc::new(StringArray::from(rows.to_vec()));
            assert_eq!(spec(kind).unreadable(&plain, 9), expected, "{kind}");
            assert!(spec(kind).unreadable(&plain, 1).len() <= 1);
            let dictionary: ArrayRef = Arc::new(rows.into_iter().collect::<DictionaryArray<Int32Type>>());
            assert_eq!(spec(kind).unreadable(&dictionary, 9), expected, "{kind} in a dictionary");
        }
        let met = |missing, junk| FeatureCounts { values: 10, missing, junk, ..FeatureCounts::default() };
        // Of ten numbers three are unreadable and two null; so also of ten booleans.
        assert_eq!(spec("numeric").unreadable_share(&met(5, 3)), 3.0 / 8.0);
        assert_eq!(spec("boolean").unreadable_share(&met(2, 3)), 3.0 / 8.0);
        assert_eq!(spec("categorical").unreadable_share(&met(2, 3)), 0.0);
        assert_eq!(spec("date").unreadable_share(&met(10, 0)), 0.0);
    }

    #[test]
    fn lists_and_delimited_text_are_lengths_and_values() {
        let check = |spec: serde_json::Value, array: ArrayRef, expected: [Option<i64>; 4]| {
            let PlainColumn::Lists { lengths, values } = plain(spec, array).unwrap() else { panic!("no lists") };
            assert_eq!(lengths.iter().collect::<Vec<_>>(), expected);
            assert_eq!(values.iter().flatten().collect::<Vec<_>>(), ["a", "é", "a"]);
        };
        let text = StringArray::from(vec![Some("a| é |"), None, Some("|"), Some("a")]);
        check(
            json!({"kind": "multi_valued", "name": "x", "separator": "|", "max_len": 1}),
            Arc::new(text),
            [Some(2), None, None, Some(1)],
        );
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a"), None, Some("é"), Some("")]);
        lists.append_null();
        lists.append_value([] as [Option<&str>; 0]);
        lists.append_value([Some("a")]);
        let lists: ArrayRef = Arc::new(lists.finish());
        check(json!({"kind": "multi_valued", "name": "x"}), lists.clone(), [Some(2), None, Some(0), Some(1)]);
        let vectors = plain(json!({"kind": "vector", "name": "x", "dim": 2}), lists.clone()).unwrap();
        let PlainColumn::Vectors(lengths) = vectors else { panic!("no vectors") };
        assert_eq!(lengths.iter().collect::<Vec<_>>(), [Some(4), None, Some(0), Some(1)]);
        assert!(matches!(plain(json!({"kind": "numeric", "name": "x"}), lists), Err(ColumnError::Type)));
    }
}
