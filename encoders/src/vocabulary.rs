//! Vocabularies: the codes of a table's values.
//!
//! Slots 0, 1 and 2 are padding, missing and unknown. Values follow, ordered by count and then by
//! their bytes, so that the same data gives the same codes. New values are only appended, so a code
//! never changes.

use crate::error::EncoderError;
use crate::slots::Slots;
use crate::top_values::TopValues;
use crate::value_counts::ValueCounts;
use crate::values::{Canonical, Value, canonical_int, decimal};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use twotower_artifacts::Fingerprint;
use twotower_artifacts::keyed::{KeyedMap, hash_text};
use twotower_artifacts::schema::{FIRST_VALUE, MISSING, PADDING, UNKNOWN};

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot<'v> {
    /// Slot 0.
    Padding,
    /// Slot 1: null, NaN or the empty string.
    Missing,
    /// Slot 2: a value the vocabulary does not hold.
    Unknown,
    /// A value in canonical text.
    Value(&'v str),
}

/// Codes of values, and how often each value was counted.
///
/// # Memory
/// The bytes of all values, 16 bytes per value for bounds and count, and 8 to 16 for the index. Once
/// an integer column is encoded, at most about 32 more per value that is an integer.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// All values one after another.
    text: String,
    /// `[values]` ends in `text`. Value v starts where v - 1 ends.
    ends: Vec<u64>,
    /// `[values]` occurrences in the latest fit.
    counts: Vec<u64>,
    /// Finds the number of a value.
    index: Slots,
    /// Codes of the values that are integers, built on first use.
    ints: OnceLock<IntCodes>,
    fingerprint: Fingerprint,
}

/// Codes of integers: a table where they are close together, else a map.
#[derive(Debug, Clone)]
struct IntCodes {
    /// The integer of the table's first entry.
    first: i64,
    table: Vec<u32>,
    map: KeyedMap<i64, u32>,
}

impl IntCodes {
    fn new(codes: impl Iterator<Item = (i64, u32)> + Clone) -> Self {
        let (mut first, mut last, mut count) = (i64::MAX, i64::MIN, 0);
        codes.clone().for_each(|(i, _)| (first, last, count) = (first.min(i), last.max(i), count + 1));
        if count == 0 || last.abs_diff(first) >= 1024 + 8 * count {
            return Self { first: 0, table: Vec::new(), map: codes.collect() };
        }
        let mut table = vec![UNKNOWN; last.abs_diff(first) as usize + 1];
        codes.for_each(|(i, code)| table[i.abs_diff(first) as usize] = code);
        Self { first, table, map: KeyedMap::default() }
    }

    #[inline]
    fn get(&self, value: i64) -> Option<u32> {
        match self.table.get(value.wrapping_sub(self.first) as u64 as usize) {
            Some(code) => Some(*code),
            None if self.map.is_empty() => None,
            None => self.map.get(&value).copied(),
        }
    }
}

/// A vocabulary as it is stored. The index is rebuilt when it is read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredVocabulary {
    text: String,
    ends: Vec<u64>,
    counts: Vec<u64>,
}

/// The difference between two vocabularies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct VocabularyDiff {
    /// Values only in the second, in its code order.
    pub added: Vec<String>,
    /// Values only in the first, in its code order.
    pub removed: Vec<String>,
    /// Values in both under different codes: value, first code, second code.
    pub moved: Vec<(String, u32, u32)>,
    /// Number of values in both under the same code.
    pub unchanged: usize,
}

/// The memory that building a vocabulary may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BuildBytes {
    /// Memory for adding up counts that were spilled.
    pub(crate) adding: usize,
    /// Memory for the vocabulary itself.
    pub(crate) vocabulary: usize,
}

impl BuildBytes {
    /// No bound.
    pub(crate) const ANY: Self = Self { adding: usize::MAX, vocabulary: usize::MAX };
}

impl Vocabulary {
    /// A vocabulary of the given distinct values in code order.
    ///
    /// # Errors
    /// [`EncoderError::TooManyValues`], naming `table`.
    pub(crate) fn from_counts<'v>(
        table: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> Result<Self, EncoderError> {
        Self::from_sized(table, (0, 0), values)
    }

    /// As [`Vocabulary::from_counts`]. `size` is the number of values and of bytes of text, for which it makes room.
    fn from_sized<'v>(
        table: &str,
        (count, text): (usize, usize),
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> Result<Self, EncoderError> {
        let mut stored = StoredVocabulary {
            text: String::with_capacity(text),
            ends: Vec::with_capacity(count),
            counts: Vec::with_capacity(count),
        };
        for (value, count) in values {
            stored.text.push_str(value);
            stored.ends.push(stored.text.len() as u64);
            stored.counts.push(count);
        }
        let distinct = stored.ends.len();
        Self::index(stored).map_err(|_| EncoderError::TooManyValues { table: table.to_string(), distinct })
    }

    /// Checks stored values and builds their index.
    ///
    /// # Errors
    /// What is wrong with the values.
    pub(crate) fn index(stored: StoredVocabulary) -> Result<Self, String> {
        let StoredVocabulary { text, ends, counts } = stored;
        if ends.len() > (u32::MAX - FIRST_VALUE - 1) as usize {
            return Err(format!("{} values exceed the 32-bit codes", ends.len()));
        }
        if counts.len() != ends.len() {
            return Err(format!("{} counts for {} values", counts.len(), ends.len()));
        }
        let mut start = 0u64;
        for &end in &ends {
            if end <= start || !usize::try_from(end).is_ok_and(|e| text.is_char_boundary(e)) {
                return Err("a value's bounds lie outside its text, or it is empty".to_string());
            }
            start = end;
        }
        if start != text.len() as u64 {
            return Err(format!("{} bytes of text, values end at {start}", text.len()));
        }
        let mut hasher = blake3::Hasher::new();
        let index = Slots::with_room(ends.len());
        let placeholder = Fingerprint::of(&[]);
        let mut vocabulary = Self { text, ends, counts, index, ints: OnceLock::new(), fingerprint: placeholder };
        for v in 0..vocabulary.len() {
            let value = vocabulary.value(v);
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value.as_bytes());
            match vocabulary.probe(value) {
                Ok(_) => return Err(format!("value `{value}` stands twice")),
                Err(free) => vocabulary.index.fill(free, v),
            }
        }
        vocabulary.fingerprint = Fingerprint::finish(&hasher);
        Ok(vocabulary)
    }

    /// The number of a value, or as an error the free slot of the index where it would go.
    #[inline]
    fn probe(&self, value: &str) -> Result<usize, usize> {
        self.index.find(hash_text(value), |v| self.value(v) == value)
    }

    #[inline]
    fn value(&self, v: usize) -> &str {
        let start = if v == 0 { 0 } else { self.ends[v - 1] as usize };
        &self.text[start..self.ends[v] as usize]
    }

    /// Number of values, the three special slots excluded.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of slots: the values and the three special ones. Every code lies below it.
    pub fn cardinality(&self) -> u32 {
        FIRST_VALUE + self.len() as u32
    }

    /// The code of a value given by its canonical text: missing if it is empty, unknown if the vocabulary lacks it.
    pub fn lookup(&self, value: &str) -> u32 {
        if value.is_empty() { MISSING } else { self.probe(value).map_or(UNKNOWN, |v| FIRST_VALUE + v as u32) }
    }

    /// The code of an integer, which is that of its decimal text.
    #[inline]
    pub(crate) fn lookup_int(&self, value: i64) -> u32 {
        let ints = self.ints.get_or_init(|| {
            IntCodes::new((0..self.len()).filter_map(|v| Some((canonical_int(self.value(v))?, FIRST_VALUE + v as u32))))
        });
        ints.get(value).unwrap_or(UNKNOWN)
    }

    /// The code of an Arrow value.
    pub(crate) fn code(&self, value: Value<'_>) -> u32 {
        value.canonical(|c| match c {
            Canonical::Missing => MISSING,
            Canonical::Int(i) => self.lookup_int(i),
            Canonical::Text(text) => self.lookup(text),
        })
    }

    /// What a code stands for. `None` at or above the cardinality.
    pub fn decode(&self, code: u32) -> Option<Slot<'_>> {
        match code {
            PADDING => Some(Slot::Padding),
            MISSING => Some(Slot::Missing),
            UNKNOWN => Some(Slot::Unknown),
            _ if code < self.cardinality() => Some(Slot::Value(self.value((code - FIRST_VALUE) as usize))),
            _ => None,
        }
    }

    /// Code, value and count in the latest fit, in code order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, &str, u64)> {
        (0..self.len()).map(|v| (FIRST_VALUE + v as u32, self.value(v), self.counts[v]))
    }

    /// BLAKE3 over the values in code order with their lengths. It changes if and only if a code
    /// changes. Counts are left out, so that it stays the same on a night with other counts and equal codes.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// As [`Vocabulary::extend_within`], without bounds on memory.
    #[cfg(test)]
    pub(crate) fn extend(
        &self,
        table: &str,
        counts: ValueCounts,
        min_count: u64,
        max_size: Option<u32>,
    ) -> Result<Self, EncoderError> {
        self.extend_within(table, counts, (min_count, max_size), BuildBytes::ANY)
    }

    /// This vocabulary with new values appended.
    ///
    /// Old values keep their codes, whatever `min_count`, and take the counts of `counts`, or 0. New values with at
    /// least `min_count` follow, by count and then by bytes, as long as there are at most `max_size` values in all.
    ///
    /// # Errors
    /// [`EncoderError::TooManyValues`], naming `table`; [`EncoderError::Spill`] for counts that were spilled;
    /// [`EncoderError::VocabularyTooLarge`], without the columns, when the new vocabulary takes more than `bytes`.
    pub(crate) fn extend_within(
        &self,
        table: &str,
        counts: ValueCounts,
        (min_count, max_size): (u64, Option<u32>),
        bytes: BuildBytes,
    ) -> Result<Self, EncoderError> {
        let mut old_counts = vec![0; self.len()];
        let room = max_size.map_or(usize::MAX, |max| (max as usize).saturating_sub(self.len()));
        let mut fresh = TopValues::new(room, bytes.vocabulary);
        let mut buffer = [0; 20];
        counts.drain(bytes.adding, |value, count| {
            let value = match value {
                Canonical::Int(i) => decimal(i, &mut buffer),
                Canonical::Text(text) => text,
                Canonical::Missing => return,
            };
            match self.probe(value) {
                Ok(v) => old_counts[v] += count,
                Err(_) if count >= min_count => fresh.offer(value, count),
                Err(_) => {}
            }
        })?;
        let fresh = fresh.finish().map_err(|too_large| EncoderError::VocabularyTooLarge {
            table: table.to_string(),
            columns: Vec::new(),
            values: too_large.values,
            bytes: too_large.bytes,
            left: bytes.vocabulary,
        })?;
        let old = (0..self.len()).map(|v| (self.value(v), old_counts[v]));
        let size = (self.len() + fresh.iter().len(), self.text.len() + fresh.text_bytes());
        Self::from_sized(table, size, old.chain(fresh.iter()))
    }

    /// Bytes of memory held, without the codes of integers.
    pub(crate) fn bytes(&self) -> usize {
        self.text.capacity() + (self.ends.capacity() + self.counts.capacity()) * size_of::<u64>() + self.index.bytes()
    }

    /// The difference between this vocabulary and `other`.
    pub fn diff(&self, other: &Vocabulary) -> VocabularyDiff {
        let mut diff = VocabularyDiff::default();
        for (code, value, _) in self.iter() {
            match other.probe(value) {
                Err(_) => diff.removed.push(value.to_string()),
                Ok(v) if FIRST_VALUE + v as u32 == code => diff.unchanged += 1,
                Ok(v) => diff.moved.push((value.to_string(), code, FIRST_VALUE + v as u32)),
            }
        }
        let added = other.iter().filter(|(_, value, _)| self.probe(value).is_err());
        diff.added = added.map(|(_, value, _)| value.to_string()).collect();
        diff
    }

    /// The form in which the vocabulary is stored, as [`StoredVocabulary`].
    pub(crate) fn stored(&self) -> impl Serialize + '_ {
        #[derive(Serialize)]
        struct StoredRef<'v> {
            text: &'v str,
            ends: &'v [u64],
            counts: &'v [u64],
        }
        StoredRef { text: &self.text, ends: &self.ends, counts: &self.counts }
    }
}

impl PartialEq for Vocabulary {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.ends == other.ends && self.counts == other.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(values: &[(&str, u64)]) -> ValueCounts {
        let mut counts = ValueCounts::default();
        values.iter().for_each(|(v, n)| counts.add(v, *n));
        counts
    }

    fn values(v: &Vocabulary) -> Vec<&str> {
        v.iter().map(|(_, value, _)| value).collect()
    }

    #[test]
    fn values_are_ordered_by_count_then_bytes_and_cut_by_min_count_and_max_size() {
        let all = || counted(&[("b", 2), ("a", 2), ("é", 2), ("z", 9), ("rare", 1), ("10", 2), ("9", 2)]);
        let v = all().finish("t", 1, None).unwrap();
        assert_eq!(values(&v), ["z", "10", "9", "a", "b", "é", "rare"]);
        assert_eq!(values(&all().finish("t", 2, Some(3)).unwrap()), ["z", "10", "9"]);
        assert_eq!((v.lookup("z"), v.lookup("nope"), v.lookup("")), (FIRST_VALUE, UNKNOWN, MISSING));
        assert_eq!((v.lookup("9"), v.lookup_int(9), v.lookup_int(11)), (5, 5, UNKNOWN));
        assert_eq!(v.decode(PADDING), Some(Slot::Padding));
        assert_eq!(v.decode(v.cardinality()), None);
    }

    #[test]
    fn extending_appends_and_never_moves_a_code() {
        let old = counted(&[("a", 5), ("b", 3)]).finish("t", 1, None).unwrap();
        let today = || counted(&[("new", 7), ("b", 50), ("rare", 1), ("also", 7)]);
        let new = old.extend("t", today(), 2, None).unwrap();
        assert_eq!(new.iter().collect::<Vec<_>>(), [(3, "a", 0), (4, "b", 50), (5, "also", 7), (6, "new", 7)]);
        assert_eq!(values(&old.extend("t", today(), 2, Some(3)).unwrap()), ["a", "b", "also"]);
        assert_eq!(values(&old.extend("t", today(), 2, Some(1)).unwrap()), ["a", "b"]);
        let diff = old.diff(&new);
        assert_eq!((diff.added.len(), diff.removed.len(), diff.moved.len(), diff.unchanged), (2, 0, 0, 2));
    }

    #[test]
    fn the_fingerprint_follows_codes_and_not_counts() {
        let a = counted(&[("a", 5), ("b", 3)]).finish("t", 1, None).unwrap();
        let same_codes = counted(&[("a", 50), ("b", 4)]).finish("t", 1, None).unwrap();
        let swapped = counted(&[("a", 3), ("b", 5)]).finish("t", 1, None).unwrap();
        let glued = counted(&[("ab", 3)]).finish("t", 1, None).unwrap();
        assert_eq!(a.fingerprint(), same_codes.fingerprint());
        assert_ne!(a.fingerprint(), swapped.fingerprint());
        assert_ne!(a.fingerprint(), glued.fingerprint());
        assert_eq!(a.diff(&swapped).moved, [("a".to_string(), 3, 4), ("b".to_string(), 4, 3)]);
    }

    #[test]
    fn integers_near_and_far_apart_have_the_codes_of_their_text() {
        for ints in [vec![5, 7, -3, 0], vec![i64::MIN, i64::MAX, 0, 1], vec![i64::MAX - 2, i64::MAX], vec![]] {
            let mut counts = ValueCounts::default();
            ints.iter().for_each(|i| counts.add_int(*i, 1));
            let v = counts.finish("t", 1, None).unwrap();
            for i in ints.iter().flat_map(|i| [*i, i.wrapping_add(1), i.wrapping_sub(1)]).chain([9, 1 << 40]) {
                assert_eq!(v.lookup_int(i), v.lookup(&i.to_string()), "{i} of {ints:?}");
            }
        }
    }

    #[test]
    fn damaged_stored_values_are_refused() {
        let stored = |text: &str, ends: &[u64], counts: &[u64]| {
            Vocabulary::index(StoredVocabulary { text: text.into(), ends: ends.into(), counts: counts.into() })
        };
        assert!(stored("ab", &[1, 2], &[1, 1]).is_ok());
        for (text, ends, counts) in [
            ("ab", &[1u64, 2][..], &[1u64][..]),
            ("ab", &[2, 1], &[1, 1]),
            ("ab", &[1], &[1]),
            ("ab", &[1, 9], &[1, 1]),
            ("é", &[1, 2], &[1, 1]),
            ("aa", &[1, 2], &[1, 1]),
        ] {
            assert!(stored(text, ends, counts).is_err(), "{text} {ends:?} {counts:?}");
        }
    }

    proptest! {
        #[test]
        fn decode_of_lookup_is_the_value_or_unknown(
            known in proptest::collection::vec("[a-c0-9-]{0,3}", 0..40),
            asked in proptest::collection::vec("[a-c0-9-]{0,3}", 0..40),
        ) {
            let mut counts = ValueCounts::default();
            known.iter().for_each(|v| counts.add(v, 1));
            let v = counts.finish("t", 1, None).unwrap();
            for text in known.iter().chain(&asked) {
                let expected = match text {
                    t if t.is_empty() => Slot::Missing,
                    t if known.contains(t) => Slot::Value(t),
                    _ => Slot::Unknown,
                };
                prop_assert_eq!(v.decode(v.lookup(text)), Some(expected));
                if let Some(i) = canonical_int(text) {
                    prop_assert_eq!(v.lookup_int(i), v.lookup(text));
                }
            }
        }
    }
}
