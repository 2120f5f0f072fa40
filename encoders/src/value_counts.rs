//! Counts the distinct values of a column, in memory or in a file.
//!
//! Counts are only added and merged, and are not read until the end, when they are drained once. So a counter can
//! move its content to a spill file at any time and go on empty. Draining adds up the counts of each value over all
//! that was spilled.

use crate::error::EncoderError;
use crate::slots::Slots;
use crate::spill::SpilledCounts;
use crate::values::{Canonical, Value, canonical_int};
use std::path::Path;
use twotower_artifacts::keyed::{hash_int, hash_text};

/// How often each value occurs. Adding and merging in any order gives the same counts.
///
/// # Memory
/// The bytes of the distinct texts and 24 to 56 more for each distinct value.
#[derive(Debug, Clone, Default)]
pub(crate) struct ValueCounts {
    /// Values whose text is a decimal integer.
    ints: IntCounts,
    texts: TextCounts,
    spilled: Option<SpilledCounts>,
}

#[derive(Debug, Clone, Default)]
struct IntCounts {
    entries: Vec<(i64, u64)>,
    slots: Slots,
}

impl IntCounts {
    #[inline]
    fn add(&mut self, value: i64, count: u64) {
        let Self { entries, slots } = self;
        if slots.is_full() {
            slots.grow(entries.len(), |e| hash_int(entries[e].0));
        }
        match slots.find(hash_int(value), |e| entries[e].0 == value) {
            Ok(entry) => entries[entry].1 += count,
            Err(slot) => {
                slots.fill(slot, entries.len());
                entries.push((value, count));
            }
        }
    }

    fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<(i64, u64)>() + self.slots.bytes()
    }
}

#[derive(Debug, Clone, Default)]
struct TextCounts {
    /// All texts one after another.
    text: String,
    /// Where each text ends, and its count.
    entries: Vec<(usize, u64)>,
    slots: Slots,
}

impl TextCounts {
    #[inline]
    fn get(&self, entry: usize) -> &str {
        let start = entry.checked_sub(1).map_or(0, |before| self.entries[before].0);
        &self.text[start..self.entries[entry].0]
    }

    #[inline]
    fn add(&mut self, value: &str, count: u64) {
        if self.slots.is_full() {
            let mut slots = std::mem::take(&mut self.slots);
            slots.grow(self.entries.len(), |e| hash_text(self.get(e)));
            self.slots = slots;
        }
        match self.slots.find(hash_text(value), |e| self.get(e) == value) {
            Ok(entry) => self.entries[entry].1 += count,
            Err(slot) => {
                self.slots.fill(slot, self.entries.len());
                self.text.push_str(value);
                self.entries.push((self.text.len(), count));
            }
        }
    }

    fn bytes(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<(usize, u64)>() + self.slots.bytes()
    }
}

impl ValueCounts {
    /// Counts a value given by its canonical text. The empty string is missing and is not counted.
    pub(crate) fn add(&mut self, value: &str, count: u64) {
        match canonical_int(value) {
            Some(i) => self.add_int(i, count),
            None if value.is_empty() => {}
            None => self.texts.add(value, count),
        }
    }

    /// Counts an integer, which is the same value as its decimal text.
    pub(crate) fn add_int(&mut self, value: i64, count: u64) {
        self.ints.add(value, count);
    }

    /// Counts an Arrow value.
    pub(crate) fn add_value(&mut self, value: Value<'_>, count: u64) {
        value.canonical(|c| match c {
            Canonical::Missing => {}
            Canonical::Int(i) => self.add_int(i, count),
            Canonical::Text(text) => self.add(text, count),
        });
    }

    /// Counts a value that another counter held.
    pub(crate) fn add_canonical(&mut self, value: Canonical<'_>, count: u64) {
        match value {
            Canonical::Missing => {}
            Canonical::Int(i) => self.ints.add(i, count),
            Canonical::Text(text) => self.texts.add(text, count),
        }
    }

    /// Adds the counts of another part of the data.
    pub(crate) fn merge(&mut self, mut other: ValueCounts) {
        match (&mut self.spilled, other.spilled.take()) {
            (Some(mine), Some(theirs)) => mine.append(theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
        other.for_each_held(|value, count| self.add_canonical(value, count));
    }

    /// Number of distinct values held in memory: all of them, unless some were spilled.
    pub(crate) fn distinct(&self) -> usize {
        self.ints.entries.len() + self.texts.entries.len()
    }

    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.ints.bytes() + self.texts.bytes()
    }

    /// The distinct value with this number and its count. Integers come first.
    pub(crate) fn held(&self, number: usize) -> (Canonical<'_>, u64) {
        match self.ints.entries.get(number) {
            Some((i, count)) => (Canonical::Int(*i), *count),
            None => {
                let entry = number - self.ints.entries.len();
                (Canonical::Text(self.texts.get(entry)), self.texts.entries[entry].1)
            }
        }
    }

    /// Calls `f` with each distinct value held in memory and its count, in no particular order.
    pub(crate) fn for_each_held(&self, mut f: impl FnMut(Canonical<'_>, u64)) {
        for number in 0..self.distinct() {
            let (value, count) = self.held(number);
            f(value, count);
        }
    }

    /// Moves the counts held in memory to a file in `dir`, which has no name and is removed with the counter.
    ///
    /// # Errors
    /// [`EncoderError::Spill`].
    pub(crate) fn spill(&mut self, dir: &Path) -> Result<(), EncoderError> {
        let mut spilled = match self.spilled.take() {
            Some(spilled) => spilled,
            None => SpilledCounts::create(dir)?,
        };
        let held = std::mem::take(self);
        spilled.write(&held)?;
        self.spilled = Some(spilled);
        Ok(())
    }

    /// Calls `f` once with each distinct value and its count over all the data, in no particular order.
    /// Adding up spilled counts takes about `bytes` of memory.
    ///
    /// # Errors
    /// [`EncoderError::Spill`].
    pub(crate) fn drain(mut self, bytes: usize, mut f: impl FnMut(Canonical<'_>, u64)) -> Result<(), EncoderError> {
        match self.spilled.take() {
            None => self.for_each_held(f),
            Some(mut spilled) => {
                spilled.write(&std::mem::take(&mut self))?;
                spilled.add_up(bytes, |part| part.for_each_held(&mut f))?;
            }
        }
        Ok(())
    }

    /// Whether some counts are in a file.
    pub(crate) fn is_spilled(&self) -> bool {
        self.spilled.is_some()
    }

    /// The vocabulary of these counts, as [`Vocabulary::extend`] makes it of an empty one.
    #[cfg(test)]
    pub(crate) fn finish(
        self,
        table: &str,
        min_count: u64,
        max_size: Option<u32>,
    ) -> Result<crate::Vocabulary, EncoderError> {
        crate::Vocabulary::from_counts(table, [])?.extend(table, self, min_count, max_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_order_any_split_and_any_spill_give_the_same_vocabulary(
            values in proptest::collection::vec("[a-c1-3]{0,2}", 0..60),
            split in 0usize..60,
            min_count in 1u64..4,
            spill_every in 1usize..30,
            bytes in 1usize..2000,
        ) {
            let mut whole = ValueCounts::default();
            values.iter().for_each(|v| whole.add(v, 1));
            let (front, back) = values.split_at(split.min(values.len()));
            let dir = tempfile::tempdir().unwrap();
            let mut parts = [ValueCounts::default(), ValueCounts::default()];
            back.iter().rev().for_each(|v| parts[0].add(v, 1));
            for (at, v) in front.iter().enumerate() {
                parts[1].add(v, 1);
                if at % spill_every == 0 {
                    parts[1].spill(dir.path()).unwrap();
                }
            }
            if split % 2 == 0 {
                parts[0].spill(dir.path()).unwrap();
            }
            let [mut merged, other] = parts;
            merged.merge(other);
            let mut summed = std::collections::BTreeMap::new();
            merged.clone().drain(bytes, |value, n| {
                let old = summed.insert(format!("{value:?}"), n);
                assert_eq!(old, None, "a value came twice");
            }).unwrap();
            let mut held = std::collections::BTreeMap::new();
            whole.for_each_held(|value, n| {
                held.insert(format!("{value:?}"), n);
            });
            prop_assert_eq!(summed, held);
            let expected = whole.finish("t", min_count, Some(5)).unwrap();
            prop_assert_eq!(merged.finish("t", min_count, Some(5)).unwrap(), expected);
        }
    }

    #[test]
    fn a_spilled_counter_holds_nothing_and_its_clone_goes_its_own_way() {
        let dir = tempfile::tempdir().unwrap();
        let mut counts = ValueCounts::default();
        (0..1000).for_each(|i| counts.add(&format!("v{i}"), 1));
        counts.spill(dir.path()).unwrap();
        assert_eq!((counts.distinct(), counts.bytes()), (0, 0));
        let mut clone = counts.clone();
        clone.add("v1", 5);
        clone.spill(dir.path()).unwrap();
        counts.add("v2", 7);
        counts.spill(dir.path()).unwrap();
        let top = |counts: ValueCounts| {
            let vocabulary = counts.finish("t", 1, Some(1)).unwrap();
            vocabulary.iter().map(|(_, value, n)| (value.to_string(), n)).collect::<Vec<_>>()
        };
        assert_eq!(top(clone), [("v1".to_string(), 6)]);
        assert_eq!(top(counts), [("v2".to_string(), 8)]);
    }
}
