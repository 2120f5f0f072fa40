//! User and item ids: integers stay integers, text stays text, across every output.

use crate::error::ArtifactError;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, Int64Array, PrimitiveArray, StringArray, UInt64Array};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The type of an id column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdKind {
    /// 64-bit signed integers.
    Int,
    /// UTF-8 text.
    Text,
}

impl IdKind {
    /// The Arrow type of an id column of this kind.
    pub fn data_type(self) -> DataType {
        match self {
            IdKind::Int => DataType::Int64,
            IdKind::Text => DataType::Utf8,
        }
    }

    /// The kind of a column of this Arrow type; dictionaries count as their values, decimals without a fraction as
    /// integers.
    pub fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(IdKind::Text),
            DataType::Dictionary(_, values) => IdKind::of(values),
            t if t.is_integer() || is_whole_decimal(t) => Some(IdKind::Int),
            _ => None,
        }
    }
}

/// Whether values of a type are decimals without a fraction, as databases write integers.
fn is_whole_decimal(data_type: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    matches!(data_type, Decimal32(_, 0) | Decimal64(_, 0) | Decimal128(_, 0) | Decimal256(_, 0))
}

impl std::fmt::Display for IdKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IdKind::Int => "integer",
            IdKind::Text => "text",
        })
    }
}

/// One id; integers order by value and before text, text by bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Id<'a> {
    /// An integer id.
    Int(i64),
    /// A text id.
    Text(&'a str),
}

impl Id<'_> {
    /// Its kind.
    pub fn kind(&self) -> IdKind {
        match self {
            Id::Int(_) => IdKind::Int,
            Id::Text(_) => IdKind::Text,
        }
    }

    /// The id for a message that also shows an id which may look like it. Text stands in quotes, and invisible
    /// characters are escaped. Text beyond ASCII is repeated with all of it escaped, since two letters may look alike.
    /// Only the first 100 characters of a long id are shown.
    pub fn quoted(&self) -> String {
        let text = match self {
            Id::Int(id) => return id.to_string(),
            Id::Text(text) => text,
        };
        let (text, cut) = text.char_indices().nth(100).map_or((*text, ""), |(end, _)| (&text[..end], "…"));
        let (shown, escaped) = (format!("{text:?}"), format!("\"{}\"", text.escape_default()));
        match shown == escaped || text.is_ascii() {
            true => format!("{shown}{cut}"),
            false => format!("{shown}{cut} (in escapes {escaped})"),
        }
    }
}

impl std::fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Id::Int(id) => id.fmt(f),
            Id::Text(id) => f.write_str(id),
        }
    }
}

/// Why a value is not an id. Rows count from 0 within the array at hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdProblem {
    /// The id is null.
    #[error("the id is null")]
    Null {
        /// Row.
        row: usize,
    },
    /// The id is empty text.
    #[error("the id is empty")]
    Empty {
        /// Row.
        row: usize,
    },
    /// Text where the ids are integers, or an integer beyond 64 bits signed.
    #[error("`{value}` is not a 64-bit integer id")]
    NotAnInteger {
        /// Row.
        row: usize,
        /// The value.
        value: String,
    },
    /// The column is neither integers nor text.
    #[error("ids of type {found}; use integers or text")]
    Type {
        /// The column's type.
        found: DataType,
    },
}

impl IdProblem {
    /// The row it concerns, if it concerns one.
    pub fn row(&self) -> Option<usize> {
        match self {
            IdProblem::Null { row } | IdProblem::Empty { row } | IdProblem::NotAnInteger { row, .. } => Some(*row),
            IdProblem::Type { .. } => None,
        }
    }

    /// The problem as an error about a column of the file at `path`.
    pub(crate) fn in_file(self, path: &Path, column: &str) -> ArtifactError {
        ArtifactError::Corrupt { path: path.to_path_buf(), reason: format!("column `{column}`: {self}") }
    }
}

/// Text ids, stored flat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextIds {
    ends: Vec<usize>,
    text: String,
}

impl TextIds {
    /// Id `i`.
    pub fn get(&self, i: usize) -> &str {
        &self.text[self.start(i)..self.ends[i]]
    }

    /// The bytes of the ids, in order.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        let (text, mut start) = (self.text.as_bytes(), 0);
        self.ends.iter().map(move |end| &text[std::mem::replace(&mut start, *end)..*end])
    }

    /// Where id `i` starts. For the number of ids, it is the end of the last one.
    fn start(&self, i: usize) -> usize {
        i.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// Appends the ids of an array without nulls.
    fn extend_from_strings(&mut self, array: &StringArray) -> Result<(), IdProblem> {
        let offsets = array.offsets();
        if let Some(row) = offsets.windows(2).position(|w| w[0] == w[1]) {
            return Err(IdProblem::Empty { row });
        }
        let (first, length) = (offsets[0] as usize, self.text.len());
        let text = std::str::from_utf8(&array.value_data()[first..offsets[array.len()] as usize]);
        self.text.push_str(text.expect("an array of strings holds UTF-8"));
        self.ends.extend(offsets[1..].iter().map(|end| length + (*end as usize - first)));
        Ok(())
    }

    /// The ids of `rows` as an array.
    fn to_strings(&self, rows: Range<usize>) -> StringArray {
        let (first, last) = (self.start(rows.start), self.start(rows.end));
        let offset = |end: usize| i32::try_from(end - first).expect("writers hand over bounded batches");
        let offsets: ScalarBuffer<i32> =
            std::iter::once(0).chain(self.ends[rows].iter().map(|end| offset(*end))).collect();
        let text = Buffer::from(&self.text.as_bytes()[first..last]);
        StringArray::new(OffsetBuffer::new(offsets), text, None)
    }

    /// Appends an id.
    pub fn push(&mut self, id: &str) {
        self.text.push_str(id);
        self.ends.push(self.text.len());
    }
}

/// A column of ids of one kind, none of them null or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// Integer ids.
    Int(Vec<i64>),
    /// Text ids.
    Text(TextIds),
}

impl Ids {
    /// No ids, of the given kind.
    pub fn new(kind: IdKind) -> Self {
        match kind {
            IdKind::Int => Ids::Int(Vec::new()),
            IdKind::Text => Ids::Text(TextIds::default()),
        }
    }

    /// Their kind.
    pub fn kind(&self) -> IdKind {
        match self {
            Ids::Int(_) => IdKind::Int,
            Ids::Text(_) => IdKind::Text,
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Ids::Int(ids) => ids.len(),
            Ids::Text(ids) => ids.ends.len(),
        }
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        match self {
            Ids::Int(ids) => 8 * ids.len() as u64,
            Ids::Text(ids) => (8 * ids.ends.len() + ids.text.len()) as u64,
        }
    }

    /// Bytes of the longest id.
    pub fn longest(&self) -> usize {
        match self {
            Ids::Int(_) => size_of::<i64>(),
            Ids::Text(ids) => ids.bytes().map(<[u8]>::len).max().unwrap_or(0),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all ids, keeping the allocation.
    pub fn clear(&mut self) {
        match self {
            Ids::Int(ids) => ids.clear(),
            Ids::Text(ids) => {
                ids.ends.clear();
                ids.text.clear();
            }
        }
    }

    /// Id `i`.
    ///
    /// # Panics
    /// When `i` is not below [`Ids::len`].
    pub fn get(&self, i: usize) -> Id<'_> {
        match self {
            Ids::Int(ids) => Id::Int(ids[i]),
            Ids::Text(ids) => Id::Text(ids.get(i)),
        }
    }

    /// The ids in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Id<'_>> + Clone {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Appends an id.
    ///
    /// # Panics
    /// When it is of the other kind: a bug in the caller, which fixes the kind before it reads ids.
    pub fn push(&mut self, id: Id<'_>) {
        match (self, id) {
            (Ids::Int(ids), Id::Int(id)) => ids.push(id),
            (Ids::Text(ids), Id::Text(id)) => ids.push(id),
            (ids, id) => unreachable!("a {} id pushed to {} ids", id.kind(), ids.kind()),
        }
    }

    /// Appends an id given as text, parsed where the ids are integers. Problems name `row`.
    ///
    /// # Errors
    /// [`IdProblem::Empty`] or [`IdProblem::NotAnInteger`]; then nothing is appended.
    fn push_text(&mut self, text: &str, row: usize) -> Result<(), IdProblem> {
        if text.is_empty() {
            return Err(IdProblem::Empty { row });
        }
        match self {
            Ids::Text(ids) => ids.push(text),
            Ids::Int(ids) => ids.push(
                text.trim()
                    .parse()
                    .map_err(|_| IdProblem::NotAnInteger { row, value: text.chars().take(80).collect() })?,
            ),
        }
        Ok(())
    }

    /// Appends the ids `rows` of `from`.
    ///
    /// # Panics
    /// When they are of the other kind, as [`Ids::push`].
    pub fn extend_from(&mut self, from: &Ids, rows: impl IntoIterator<Item = usize>) {
        for row in rows {
            self.push(from.get(row));
        }
    }

    /// Appends an Arrow column: integers of any width, decimals without a fraction, text of any layout, or dictionaries
    /// of these.
    /// Where the kinds differ, integers are written out and text is parsed.
    ///
    /// # Errors
    /// [`IdProblem`] at the first null, empty, or unparsable id.
    pub fn extend_from_array(&mut self, array: &dyn Array) -> Result<(), IdProblem> {
        match array.data_type() {
            DataType::Int8 => self.extend_from_integers::<Int8Type>(array.as_primitive()),
            DataType::Int16 => self.extend_from_integers::<Int16Type>(array.as_primitive()),
            DataType::Int32 => self.extend_from_integers::<Int32Type>(array.as_primitive()),
            DataType::Int64 => self.extend_from_integers::<Int64Type>(array.as_primitive()),
            DataType::UInt8 => self.extend_from_integers::<UInt8Type>(array.as_primitive()),
            DataType::UInt16 => self.extend_from_integers::<UInt16Type>(array.as_primitive()),
            DataType::UInt32 => self.extend_from_integers::<UInt32Type>(array.as_primitive()),
            DataType::UInt64 => self.extend_from_integers::<UInt64Type>(array.as_primitive()),
            DataType::Utf8 => match self {
                // There is nothing to convert and nothing is null, so the text is copied as a whole.
                Ids::Text(ids) if array.null_count() == 0 => ids.extend_from_strings(array.as_string()),
                _ => self.extend_from_text(array.as_string::<i32>().iter()),
            },
            DataType::LargeUtf8 => self.extend_from_text(array.as_string::<i64>().iter()),
            DataType::Utf8View => self.extend_from_text(array.as_string_view().iter()),
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let keys = dictionary.normalized_keys();
                if let Some(row) = (0..array.len()).find(|&row| array.is_null(row)) {
                    return Err(IdProblem::Null { row });
                }
                let rows = UInt64Array::from_iter_values(keys.into_iter().map(|key| key as u64));
                let plain = arrow_select::take::take(dictionary.values().as_ref(), &rows, None)
                    .map_err(|_| IdProblem::Type { found: array.data_type().clone() })?;
                self.extend_from_array(plain.as_ref())
            }
            found if is_whole_decimal(found) => {
                let wrong = |_| IdProblem::Type { found: found.clone() };
                let integers = arrow_cast::cast(array, &DataType::Int64).map_err(wrong)?;
                // What 64 bits do not hold became null.
                if let Some(row) = (0..array.len()).find(|row| integers.is_null(*row) && !array.is_null(*row)) {
                    let value = arrow_cast::display::array_value_to_string(array, row).unwrap_or_default();
                    return Err(IdProblem::NotAnInteger { row, value });
                }
                self.extend_from_integers::<Int64Type>(integers.as_primitive())
            }
            found => Err(IdProblem::Type { found: found.clone() }),
        }
    }

    /// The ids of an Arrow column, integers or text as the column is.
    ///
    /// # Errors
    /// As [`Ids::extend_from_array`].
    pub fn from_array(array: &dyn Array) -> Result<Self, IdProblem> {
        let kind = IdKind::of(array.data_type()).ok_or_else(|| IdProblem::Type { found: array.data_type().clone() })?;
        let mut ids = Ids::new(kind);
        ids.extend_from_array(array)?;
        Ok(ids)
    }

    /// The ids `rows` as an Arrow column: Int64 or Utf8, without nulls.
    ///
    /// # Panics
    /// When the text of `rows` exceeds 2 GiB; writers hand over bounded batches.
    pub fn to_array(&self, rows: Range<usize>) -> ArrayRef {
        match self {
            Ids::Int(ids) => Arc::new(Int64Array::from(ids[rows].to_vec())),
            Ids::Text(ids) => Arc::new(ids.to_strings(rows)),
        }
    }

    /// The ids of `rows`, in that order, as [`Ids::to_array`].
    ///
    /// # Panics
    /// As [`Ids::to_array`].
    pub fn take(&self, rows: impl Iterator<Item = usize>) -> ArrayRef {
        match self {
            Ids::Int(ids) => Arc::new(Int64Array::from_iter_values(rows.map(|i| ids[i]))),
            Ids::Text(ids) => Arc::new(StringArray::from_iter_values(rows.map(|i| ids.get(i)))),
        }
    }

    /// Positions of the ids in ascending order: integers by value, text by bytes, equal ids by position.
    pub fn sorted_positions(&self) -> Vec<usize> {
        let mut positions: Vec<usize> = (0..self.len()).collect();
        positions.sort_by_key(|&i| self.get(i));
        positions
    }

    /// Two positions that hold the same id, if any: the pair that is first in ascending order of id.
    pub fn duplicate(&self) -> Option<(usize, usize)> {
        let positions = self.sorted_positions();
        positions.windows(2).find(|pair| self.get(pair[0]) == self.get(pair[1])).map(|pair| (pair[0], pair[1]))
    }

    fn extend_from_integers<T: ArrowPrimitiveType>(&mut self, array: &PrimitiveArray<T>) -> Result<(), IdProblem>
    where
        T::Native: TryInto<i64> + std::fmt::Display,
    {
        for (row, value) in array.iter().enumerate() {
            let value = value.ok_or(IdProblem::Null { row })?;
            let id = value.try_into().map_err(|_| IdProblem::NotAnInteger { row, value: value.to_string() })?;
            self.push_converted(Id::Int(id), row)?;
        }
        Ok(())
    }

    fn extend_from_text<'a>(&mut self, values: impl Iterator<Item = Option<&'a str>>) -> Result<(), IdProblem> {
        for (row, value) in values.enumerate() {
            self.push_text(value.ok_or(IdProblem::Null { row })?, row)?;
        }
        Ok(())
    }

    fn push_converted(&mut self, id: Id<'_>, row: usize) -> Result<(), IdProblem> {
        match id {
            Id::Text(text) => self.push_text(text, row),
            Id::Int(id) if self.kind() == IdKind::Int => {
                self.push(Id::Int(id));
                Ok(())
            }
            Id::Int(id) => self.push_text(&id.to_string(), row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_ids_that_look_alike_are_told_apart() {
        let quoted = |id: &str| Id::Text(id).quoted();
        assert_eq!((Id::Int(7).quoted(), quoted("7"), quoted("7 ")), ("7".into(), "\"7\"".into(), "\"7 \"".into()));
        assert_eq!(quoted("a\u{1b}[31m\n"), "\"a\\u{1b}[31m\\n\"");
        assert_ne!(quoted("caf\u{e9}"), quoted("cafe\u{301}"));
        assert_eq!(quoted(&"x".repeat(5000)), format!("\"{}\"…", "x".repeat(100)));
        assert_eq!(quoted("caf\u{e9}"), "\"caf\u{e9}\" (in escapes \"caf\\u{e9}\")");
        assert_eq!(quoted("U1\u{a0}"), "\"U1\\u{a0}\"");
    }
    use arrow_array::{Decimal128Array, DictionaryArray, Float64Array, Int32Array, LargeStringArray};

    fn text(values: &[&str]) -> Ids {
        let mut ids = Ids::new(IdKind::Text);
        values.iter().for_each(|v| ids.push(Id::Text(v)));
        ids
    }

    #[test]
    fn decimals_without_a_fraction_are_integers_to_the_last_digit() {
        let decimals = |values: Vec<Option<i128>>, scale: i8| {
            Decimal128Array::from(values).with_precision_and_scale(38, scale).unwrap()
        };
        let large = i64::MAX - 1;
        let ids = Ids::from_array(&decimals(vec![Some(large.into()), Some(-3)], 0)).unwrap();
        assert_eq!(ids, Ids::Int(vec![large, -3]));
        let mut as_text = Ids::new(IdKind::Text);
        as_text.extend_from_array(&decimals(vec![Some(7)], 0)).unwrap();
        assert_eq!(as_text, text(&["7"]));
        let beyond = Ids::from_array(&decimals(vec![Some(1), Some(i128::from(i64::MAX) + 1)], 0)).unwrap_err();
        assert!(matches!(beyond, IdProblem::NotAnInteger { row: 1, .. }), "{beyond}");
        assert_eq!(Ids::from_array(&decimals(vec![None], 0)).unwrap_err(), IdProblem::Null { row: 0 });
        assert!(matches!(Ids::from_array(&decimals(vec![Some(1)], 2)), Err(IdProblem::Type { .. })));
    }

    #[test]
    fn integers_sort_by_value_and_text_by_bytes() {
        assert_eq!(Ids::Int(vec![10, -3, 9]).sorted_positions(), [1, 2, 0]);
        assert_eq!(text(&["b", "\u{e9}", "10", "9"]).sorted_positions(), [2, 3, 0, 1]);
    }

    #[test]
    fn arrow_columns_of_any_layout_read_the_same() {
        let ints = Ids::Int(vec![7, -1]);
        assert_eq!(Ids::from_array(&Int32Array::from(vec![7, -1])).unwrap(), ints);
        assert_eq!(Ids::from_array(&ints.to_array(0..2)).unwrap(), ints);
        let words = text(&["x", "yy", "x"]);
        let dictionary: DictionaryArray<Int32Type> = vec!["x", "yy", "x"].into_iter().collect();
        assert_eq!(Ids::from_array(&dictionary).unwrap(), words);
        assert_eq!(Ids::from_array(&LargeStringArray::from(vec!["x", "yy", "x"])).unwrap(), words);
        assert_eq!(Ids::from_array(&words.to_array(0..3)).unwrap(), words);
        assert_eq!(words.to_array(1..2).as_string::<i32>().value(0), "yy");
    }

    #[test]
    fn kinds_convert_towards_the_column_that_exists() {
        let mut ids = Ids::new(IdKind::Int);
        ids.extend_from_array(&StringArray::from(vec!["12", " 13"])).unwrap();
        assert_eq!(ids, Ids::Int(vec![12, 13]));
        let problem = ids.extend_from_array(&StringArray::from(vec!["14", "u15"])).unwrap_err();
        assert_eq!(problem, IdProblem::NotAnInteger { row: 1, value: "u15".to_string() });
        let mut ids = Ids::new(IdKind::Text);
        ids.extend_from_array(&Int64Array::from(vec![5])).unwrap();
        assert_eq!(ids, text(&["5"]));
    }

    #[test]
    fn null_empty_and_float_ids_are_refused_with_their_row() {
        let problem = |array: &dyn Array| Ids::from_array(array).unwrap_err();
        assert_eq!(problem(&Int64Array::from(vec![Some(1), None])), IdProblem::Null { row: 1 });
        assert_eq!(problem(&StringArray::from(vec!["a", ""])), IdProblem::Empty { row: 1 });
        assert_eq!(problem(&Float64Array::from(vec![1.0])), IdProblem::Type { found: DataType::Float64 });
        let big = UInt64Array::from(vec![0, u64::MAX]);
        assert!(matches!(problem(&big), IdProblem::NotAnInteger { row: 1, .. }));
        let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None].into_iter().collect();
        assert_eq!(problem(&dictionary), IdProblem::Null { row: 1 });
    }

    #[test]
    fn duplicates_are_found_with_both_positions() {
        assert_eq!(text(&["a", "b", "a"]).duplicate(), Some((0, 2)));
        assert_eq!(Ids::Int(vec![3, 1, 2]).duplicate(), None);
    }
}
