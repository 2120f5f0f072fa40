//! Multi-valued features: the codes of a list or of a delimited string, order without meaning.
//!
//! A null list and an empty string are one missing code; an empty list is an empty row. Nulls and
//! empty texts among the elements are dropped, delimited elements are trimmed, elements outside the
//! vocabulary are unknown. The first `max_len` elements are kept.

use crate::counts::FeatureCounts;
use crate::encode::Encode;
use crate::error::ColumnError;
use crate::value_counts::ValueCounts;
use crate::values::{Value, ValueMap, count_values, is_text, list_rows};
use crate::vocabulary::Vocabulary;
use arrow_array::ArrayRef;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use twotower_artifacts::Column;
use twotower_artifacts::schema::MISSING;

/// Configuration of a multi-valued feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiValuedSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads; its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The text between the elements of a text column. Absent for list columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// The most elements kept per row.
    #[serde(default = "default_max_len")]
    pub max_len: u32,
    /// Values counted less often are unknown.
    #[serde(default = "crate::spec::one")]
    pub min_count: u64,
    /// The most values kept; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
    /// Vocabulary and embedding table, shared with the features that name the same;
    /// `<side>_<name>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

fn default_max_len() -> u32 {
    32
}

impl MultiValuedSpec {
    /// The separator of a text column, or `None` for a list column.
    ///
    /// # Errors
    /// [`ColumnError`] for a text column without a separator, a list column with one, and any other column.
    pub(crate) fn separator_for(&self, column: &ArrayRef) -> Result<Option<&str>, ColumnError> {
        match (&self.separator, is_text(column.data_type())) {
            (Some(separator), true) => Ok(Some(separator)),
            (None, false) => Ok(None),
            _ => Err(ColumnError::Type),
        }
    }

    /// Counts every element.
    pub(crate) fn fit(&self, column: &ArrayRef, counts: &mut ValueCounts) -> Result<(), ColumnError> {
        match self.separator_for(column)? {
            Some(separator) => count_values(column, |value, n| {
                elements(value, separator).for_each(|e| counts.add(e, n));
            }),
            // The buffers may hold elements of null lists, so rows are visited one by one.
            None => {
                let list = list_rows(column).ok_or(ColumnError::Type)?;
                let rows = list.rows.iter().flatten().filter(|(from, to)| to > from);
                if list.rows.iter().all(Option::is_some) {
                    return count_values(&list.elements, |value, n| counts.add_value(value, n));
                }
                let mut rows = rows.map(|(from, to)| list.elements.slice(*from, to - from));
                rows.try_for_each(|row| count_values(&row, |value, n| counts.add_value(value, n)))
            }
        }
    }
}

/// The elements of a delimited text, trimmed, without empty ones.
pub(crate) fn elements<'a>(value: Value<'a>, separator: &'a str) -> impl Iterator<Item = &'a str> {
    let text = if let Value::Text(text) = value { text } else { "" };
    text.split(separator).map(str::trim).filter(|e| !e.is_empty())
}

/// Encodes list and delimited columns.
pub(crate) struct MultiValuedEncoder {
    spec: MultiValuedSpec,
    vocabulary: Arc<Vocabulary>,
    /// Codes of list elements.
    codes: ValueMap<u32>,
    /// For each text, where its codes are in `arena`, and how many elements were dropped.
    spans: ValueMap<Span>,
    arena: Vec<u32>,
    rows: Vec<Span>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    from: usize,
    to: usize,
    dropped: usize,
}

impl MultiValuedEncoder {
    pub(crate) fn new(spec: MultiValuedSpec, vocabulary: Arc<Vocabulary>) -> Self {
        Self {
            spec,
            vocabulary,
            codes: ValueMap::default(),
            spans: ValueMap::default(),
            arena: Vec::new(),
            rows: Vec::new(),
        }
    }
}

impl Encode for MultiValuedEncoder {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError> {
        let Column::Ragged(out) = out else { unreachable!("a multi-valued feature's column is ragged") };
        let before = out.values.len();
        let Self { spec, vocabulary, codes, spans, arena, rows } = self;
        let max_len = spec.max_len as usize;
        match spec.separator_for(column)? {
            Some(separator) => {
                rows.clear();
                if !spans.holds(column) {
                    spans.forget();
                    arena.clear();
                }
                let span = |value: Value<'_>| {
                    let from = arena.len();
                    arena.extend(elements(value, separator).take(max_len).map(|e| vocabulary.lookup(e)));
                    let dropped = elements(value, separator).count() - (arena.len() - from);
                    if arena.len() == from {
                        arena.push(MISSING);
                    }
                    Span { from, to: arena.len(), dropped }
                };
                spans.map_rows(column, span, rows)?;
                for span in rows {
                    out.push_row(arena[span.from..span.to].iter().copied());
                    counts.truncated += span.dropped as u64;
                }
            }
            None => {
                let list = list_rows(column).ok_or(ColumnError::Type)?;
                arena.clear();
                codes.map_rows(&list.elements, |value| vocabulary.code(value), arena)?;
                for row in &list.rows {
                    let Some((from, to)) = *row else {
                        out.push_row([MISSING]);
                        continue;
                    };
                    let real = arena[from..to].iter().copied().filter(|code| *code != MISSING);
                    counts.truncated += real.clone().count().saturating_sub(max_len) as u64;
                    out.push_row(real.take(max_len));
                }
            }
        }
        counts.tally(&out.values[before..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{Int64Builder, ListBuilder, StringBuilder};
    use arrow_array::types::Int32Type;
    use arrow_array::{Array, DictionaryArray, StringArray};
    use twotower_artifacts::Ragged;

    fn encoder(separator: Option<&str>, max_len: u32, fit: &ArrayRef) -> MultiValuedEncoder {
        let spec = MultiValuedSpec {
            name: "m".into(),
            column: None,
            separator: separator.map(str::to_string),
            max_len,
            min_count: 1,
            max_size: None,
            table: None,
        };
        let mut counts = ValueCounts::default();
        spec.fit(fit, &mut counts).unwrap();
        let vocabulary = counts.finish("m", 1, None).unwrap();
        MultiValuedEncoder::new(spec, Arc::new(vocabulary))
    }

    fn encode(encoder: &mut MultiValuedEncoder, column: &ArrayRef) -> (Vec<Vec<u32>>, FeatureCounts) {
        let mut out = Column::Ragged(Ragged::default());
        let mut counts = FeatureCounts::default();
        encoder.encode(column, &mut out, &mut counts).unwrap();
        let Column::Ragged(ragged) = out else { unreachable!() };
        ((0..ragged.rows()).map(|r| ragged.row(r).to_vec()).collect(), counts)
    }

    #[test]
    fn delimited_text_and_its_dictionary_agree() {
        let fitted: ArrayRef = Arc::new(StringArray::from(vec!["a|b", "a|c", "a"]));
        let rows = [Some("a| b |"), None, Some(""), Some("zzz|a"), Some("a|b|c"), Some("a| b |"), Some("|")];
        let expected = [vec![3, 4], vec![1], vec![1], vec![2, 3], vec![3, 4], vec![3, 4], vec![1]];
        let plain: ArrayRef = Arc::new(StringArray::from(rows.to_vec()));
        let dictionary: ArrayRef = Arc::new(rows.into_iter().collect::<DictionaryArray<Int32Type>>());
        let mut encoder = encoder(Some("|"), 2, &fitted);
        let (codes, counts) = encode(&mut encoder, &plain);
        assert_eq!(codes, expected);
        assert_eq!((counts.values, counts.missing, counts.unknown, counts.truncated), (11, 3, 1, 1));
        for _ in 0..2 {
            assert_eq!(encode(&mut encoder, &dictionary), (codes.clone(), counts.clone()));
        }
        assert_eq!(encode(&mut encoder, &plain.slice(3, 2)).0, expected[3..5]);
        assert_eq!(encode(&mut encoder, &dictionary.slice(3, 2)).0, expected[3..5]);
    }

    #[test]
    fn lists_keep_empty_rows_and_drop_null_elements() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("x"), None, Some("y")]);
        lists.append_null();
        lists.append_value([] as [Option<&str>; 0]);
        lists.append_value([Some("x")]);
        let column: ArrayRef = Arc::new(lists.finish());
        let mut encoder = encoder(None, 32, &column);
        assert_eq!(encode(&mut encoder, &column).0, [vec![3, 4], vec![1], vec![], vec![3]]);
        assert_eq!(encode(&mut encoder, &column.slice(2, 2)).0, [vec![], vec![3]]);
        let mut ints = ListBuilder::new(Int64Builder::new());
        ints.append_value([Some(5)]);
        assert_eq!(encode(&mut encoder, &(Arc::new(ints.finish()) as ArrayRef)).0, [vec![2]]);
    }

    #[test]
    fn a_separator_and_a_list_or_text_without_one_are_type_errors() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a|b"]));
        let mut encoder = encoder(Some("|"), 2, &text);
        encoder.spec.separator = None;
        let mut out = Column::Ragged(Ragged::default());
        let result = encoder.encode(&text, &mut out, &mut FeatureCounts::default());
        assert!(matches!(result, Err(ColumnError::Type)));
    }
}
