//! Counting the distinct values of a column.
//!
//! Today every distinct value is held in memory. The interface leaves room for a bounded counter:
//! counts are only added to and merged, never read back, until they are drained once; and
//! [`ValueCounts::end_batch`] and [`ValueCounts::finish`] may fail, which is where a counter that
//! spills sorted runs to disk would write and merge them.

use crate::error::EncoderError;
use crate::values::{Canonical, Value, canonical_int};
use crate::vocabulary::Vocabulary;
use rustc_hash::FxHashMap;

/// How often each value occurs. Adding and merging in any order gives the same counts.
#[derive(Debug, Clone, Default)]
pub struct ValueCounts {
    /// Values whose text is a decimal integer.
    ints: FxHashMap<i64, u64>,
    texts: FxHashMap<Box<str>, u64>,
}

impl ValueCounts {
    /// Counts a value given in canonical text; the empty string is missing and has no count.
    pub fn add(&mut self, value: &str, count: u64) {
        match canonical_int(value) {
            Some(i) => self.add_int(i, count),
            None if value.is_empty() => {}
            None => match self.texts.get_mut(value) {
                Some(n) => *n += count,
                None => {
                    self.texts.insert(value.into(), count);
                }
            },
        }
    }

    /// Counts an integer, which is the same value as its decimal text.
    pub fn add_int(&mut self, value: i64, count: u64) {
        *self.ints.entry(value).or_default() += count;
    }

    /// Counts an Arrow value.
    pub(crate) fn add_value(&mut self, value: Value<'_>, count: u64) {
        value.canonical(|c| match c {
            Canonical::Missing => {}
            Canonical::Int(i) => self.add_int(i, count),
            Canonical::Text(text) => self.add(text, count),
        });
    }

    /// Called after each batch; a counter at its memory limit would spill here.
    ///
    /// # Errors
    /// None while counts are held in memory.
    pub fn end_batch(&mut self) -> Result<(), EncoderError> {
        Ok(())
    }

    /// Adds the counts of another part of the data.
    ///
    /// # Errors
    /// None while counts are held in memory.
    pub fn merge(&mut self, other: ValueCounts) -> Result<(), EncoderError> {
        other.ints.into_iter().for_each(|(i, n)| self.add_int(i, n));
        for (value, n) in other.texts {
            *self.texts.entry(value).or_default() += n;
        }
        Ok(())
    }

    /// Number of distinct values counted.
    pub fn distinct(&self) -> usize {
        self.ints.len() + self.texts.len()
    }

    /// Calls `f` with each distinct value and its count, in no particular order.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Canonical<'_>, u64)) {
        self.ints.iter().for_each(|(i, n)| f(Canonical::Int(*i), *n));
        self.texts.iter().for_each(|(text, n)| f(Canonical::Text(text), *n));
    }

    /// The vocabulary of the values counted at least `min_count` times, the most frequent first and
    /// ties by bytes, cut to `max_size`.
    ///
    /// # Errors
    /// [`EncoderError::TooManyValues`], naming `table`.
    pub fn finish(self, table: &str, min_count: u64, max_size: Option<u32>) -> Result<Vocabulary, EncoderError> {
        Vocabulary::from_counts(table, [])?.extend(table, self, min_count, max_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_order_and_any_split_give_the_same_vocabulary(
            values in proptest::collection::vec("[a-c1-3]{0,2}", 0..60),
            split in 0usize..60,
            min_count in 1u64..4,
        ) {
            let mut whole = ValueCounts::default();
            values.iter().for_each(|v| whole.add(v, 1));
            let (front, back) = values.split_at(split.min(values.len()));
            let mut parts = [ValueCounts::default(), ValueCounts::default()];
            back.iter().rev().for_each(|v| parts[0].add(v, 1));
            front.iter().for_each(|v| parts[1].add(v, 1));
            let [mut merged, other] = parts;
            merged.merge(other).unwrap();
            let expected = whole.finish("t", min_count, Some(5)).unwrap();
            prop_assert_eq!(merged.finish("t", min_count, Some(5)).unwrap(), expected);
        }
    }
}
