//! Boolean features: flags, which are full of junk in real tables, as one of five codes.
//!
//! Text is trimmed and compared without case. A text that is listed neither as true, false nor missing is
//! unknown, and counts as junk. The vocabulary is fixed: false, then true.

use crate::counts::{FeatureCounts, times};
use crate::encode::Encode;
use crate::error::ColumnError;
use crate::histogram::Histogram;
use crate::values::{Value, ValueMap};
use arrow_array::ArrayRef;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use twotower_artifacts::Column;
use twotower_artifacts::keyed::KeyedMap;
use twotower_artifacts::schema::{FIRST_VALUE, MISSING, UNKNOWN};

/// Code of false.
pub(crate) const FALSE: u32 = FIRST_VALUE;
/// Code of true.
pub(crate) const TRUE: u32 = FIRST_VALUE + 1;
/// Slots of every boolean feature.
pub(crate) const CARDINALITY: u32 = FIRST_VALUE + 2;

/// Configuration of a boolean feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BooleanSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads; its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Texts that mean true; numbers are compared by their decimal text.
    #[serde(default = "default_true")]
    pub true_values: Vec<String>,
    /// Texts that mean false.
    #[serde(default = "default_false")]
    pub false_values: Vec<String>,
    /// Texts that mean missing, beside null and NaN.
    #[serde(default = "default_missing")]
    pub missing_values: Vec<String>,
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| v.to_string()).collect()
}

fn default_true() -> Vec<String> {
    strings(&["true", "t", "yes", "y", "1", "是"])
}

fn default_false() -> Vec<String> {
    strings(&["false", "f", "no", "n", "0", "否"])
}

fn default_missing() -> Vec<String> {
    strings(&["", "null", "none", "nan", "na", "n/a", "\\N"])
}

impl BooleanSpec {
    /// A boolean feature with the default texts.
    pub fn new(name: impl Into<String>, column: Option<String>) -> Self {
        Self {
            name: name.into(),
            column,
            true_values: default_true(),
            false_values: default_false(),
            missing_values: default_missing(),
        }
    }

    /// The code of each listed text, trimmed and in lower case.
    ///
    /// # Errors
    /// The first text that is listed under two meanings.
    pub(crate) fn codes(&self) -> Result<FxHashMap<String, u32>, String> {
        let lists = [(&self.missing_values, MISSING), (&self.false_values, FALSE), (&self.true_values, TRUE)];
        let mut codes = FxHashMap::default();
        for (texts, code) in lists {
            for text in texts {
                if codes.insert(text.trim().to_lowercase(), code).is_some_and(|before| before != code) {
                    return Err(text.clone());
                }
            }
        }
        Ok(codes)
    }
}

/// Reads values by the texts that a configuration lists.
pub(crate) struct BooleanReader {
    texts: FxHashMap<String, u32>,
    folded: String,
}

impl BooleanReader {
    pub(crate) fn new(spec: &BooleanSpec) -> Self {
        Self { texts: spec.codes().unwrap_or_default(), folded: String::new() }
    }

    /// The code of a value. The empty string is missing only if the configuration lists it.
    fn code(&mut self, value: Value<'_>) -> u32 {
        match value {
            Value::Bool(b) => FALSE + u32::from(b),
            Value::Text(text) => self.lookup(text),
            value => value.text(|text| text.map_or(MISSING, |text| self.lookup(text))),
        }
    }

    /// Calls `f` with `true`, `false`, `None` for a missing value, or the text of an unknown value, trimmed and in
    /// lower case.
    pub(crate) fn read(&mut self, value: Value<'_>, f: impl FnOnce(Option<&str>)) {
        match self.code(value) {
            TRUE => f(Some("true")),
            FALSE => f(Some("false")),
            MISSING => f(None),
            _ => f(Some(&self.folded)),
        }
    }

    fn lookup(&mut self, text: &str) -> u32 {
        self.folded.clear();
        let text = text.trim();
        if text.is_ascii() {
            self.folded.push_str(text);
            self.folded.make_ascii_lowercase();
        } else {
            self.folded.extend(text.chars().flat_map(char::to_lowercase));
        }
        self.texts.get(self.folded.as_str()).copied().unwrap_or(UNKNOWN)
    }
}

/// Encodes boolean columns.
pub(crate) struct BooleanEncoder {
    reader: BooleanReader,
    /// Codes of the first [`MOST_MET`] texts met, as they are in the data.
    met: KeyedMap<Box<str>, u32>,
    codes: ValueMap<u32>,
}

/// The most texts that are remembered. Columns of booleans have few.
const MOST_MET: usize = 256;

impl BooleanEncoder {
    pub(crate) fn new(spec: &BooleanSpec) -> Self {
        Self { reader: BooleanReader::new(spec), met: KeyedMap::default(), codes: ValueMap::default() }
    }
}

impl Encode for BooleanEncoder {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError> {
        let out = crate::encode::codes(out);
        let before = out.len();
        let Self { reader, met, codes } = self;
        let code = |value: Value<'_>| match value {
            Value::Text(text) => met.get(text).copied().unwrap_or_else(|| {
                let code = reader.code(value);
                if met.len() < MOST_MET {
                    met.insert(text.into(), code);
                }
                code
            }),
            value => reader.code(value),
        };
        codes.map_rows(column, code, out)?;
        let unknown = counts.unknown;
        counts.tally(&out[before..]);
        counts.junk += counts.unknown - unknown;
        let of = |code: u32| (code as u16, times(code, &out[before..]));
        counts.histogram.merge(&Histogram::new([of(FALSE), of(TRUE)]));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Int8Type;
    use arrow_array::{BooleanArray, DictionaryArray, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn encode(column: ArrayRef) -> (Vec<u32>, FeatureCounts) {
        let mut out = Column::Code(Vec::new());
        let mut counts = FeatureCounts::default();
        BooleanEncoder::new(&BooleanSpec::new("b", None)).encode(&column, &mut out, &mut counts).unwrap();
        let Column::Code(codes) = out else { unreachable!() };
        (codes, counts)
    }

    #[test]
    fn junk_filled_booleans_become_true_false_missing_or_unknown() {
        let rows = [
            (Some("TRUE"), TRUE),
            (Some(" y "), TRUE),
            (Some("是"), TRUE),
            (Some("1"), TRUE),
            (Some("No"), FALSE),
            (Some("否"), FALSE),
            (Some("0"), FALSE),
            (Some(""), MISSING),
            (Some("N/A"), MISSING),
            (Some("\\N"), MISSING),
            (Some("NaN"), MISSING),
            (None, MISSING),
            (Some("maybe"), UNKNOWN),
            (Some("-1"), UNKNOWN),
            (Some("ÉTÉ"), UNKNOWN),
        ];
        let expected: Vec<u32> = rows.iter().map(|r| r.1).collect();
        let (codes, counts) = encode(Arc::new(rows.iter().map(|r| r.0).collect::<StringArray>()));
        assert_eq!(codes, expected);
        assert_eq!((counts.values, counts.missing, counts.unknown, counts.junk), (15, 5, 3, 3));
        assert_eq!(String::from(counts.histogram.clone()), "3:3 4:4");
        let dictionary = rows.iter().map(|r| r.0).collect::<DictionaryArray<Int8Type>>();
        assert_eq!(encode(Arc::new(dictionary)), (codes, counts));
    }

    #[test]
    fn numbers_and_booleans_are_read_as_flags() {
        assert_eq!(encode(Arc::new(Int64Array::from(vec![1, 0, 2]))).0, [TRUE, FALSE, UNKNOWN]);
        assert_eq!(encode(Arc::new(Float64Array::from(vec![1.0, 0.0, f64::NAN]))).0, [TRUE, FALSE, MISSING]);
        assert_eq!(encode(Arc::new(BooleanArray::from(vec![Some(true), None]))).0, [TRUE, MISSING]);
    }
}
