//! Chooses the values of a vocabulary: the most frequent, ties by bytes, as many as there is room for.

use std::cmp::Ordering;

/// Collects distinct values and keeps the first of them in vocabulary order.
///
/// # Memory
/// At most twice as many values as there is room for, and about `limit` bytes.
#[derive(Debug)]
pub(crate) struct TopValues {
    /// All values kept, one after another.
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// The most values of the vocabulary.
    room: usize,
    /// The limit for the result of [`needed`].
    limit: usize,
    /// Number of values offered, and the bytes of their text.
    offered: (usize, usize),
    too_large: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    length: usize,
    count: u64,
}

/// The error that the values do not fit the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge {
    /// Values that should have been kept.
    pub(crate) values: usize,
    /// Bytes needed to build a vocabulary of them.
    pub(crate) bytes: usize,
}

/// The most bytes that building a vocabulary takes at a time: text, bounds and counts twice, and the index.
fn needed(values: usize, text: usize) -> usize {
    text.saturating_mul(2).saturating_add(values.saturating_mul(48))
}

fn compare(text: &[u8], a: &Entry, b: &Entry) -> Ordering {
    let of = |e: &Entry| &text[e.start..e.start + e.length];
    b.count.cmp(&a.count).then_with(|| of(a).cmp(of(b)))
}

impl TopValues {
    /// Room for `room` values and `limit` bytes.
    pub(crate) fn new(room: usize, limit: usize) -> Self {
        Self { text: Vec::new(), entries: Vec::new(), room, limit, offered: (0, 0), too_large: false }
    }

    /// Considers a value that was not offered before.
    pub(crate) fn offer(&mut self, value: &str, count: u64) {
        self.offered = (self.offered.0 + 1, self.offered.1 + value.len());
        if self.too_large || self.room == 0 {
            return;
        }
        self.entries.push(Entry { start: self.text.len(), length: value.len(), count });
        self.text.extend_from_slice(value.as_bytes());
        let full = needed(self.entries.len(), self.text.len()) > self.limit;
        if full || self.entries.len() >= self.room.saturating_mul(2).max(1024) {
            self.prune();
            // Pruning pays only if it makes enough room. If it leaves more than three quarters of the limit, the values
            // count as too large.
            if full && needed(self.entries.len(), self.text.len()) > self.limit / 4 * 3 {
                self.too_large = true;
                (self.text, self.entries) = (Vec::new(), Vec::new());
            }
        }
    }

    /// Drops all but the first `room` values.
    fn prune(&mut self) {
        let Self { text, entries, room, .. } = self;
        if entries.len() <= *room {
            return;
        }
        entries.select_nth_unstable_by(*room, |a, b| compare(text, a, b));
        entries.truncate(*room);
        entries.sort_unstable_by_key(|e| e.start);
        let mut end = 0;
        for entry in entries {
            text.copy_within(entry.start..entry.start + entry.length, end);
            entry.start = end;
            end += entry.length;
        }
        text.truncate(end);
    }

    /// The values kept, in vocabulary order.
    ///
    /// # Errors
    /// [`TooLarge`] when they did not fit the limit.
    pub(crate) fn finish(mut self) -> Result<SortedValues, TooLarge> {
        if self.too_large {
            let (offered, text) = self.offered;
            let values = offered.min(self.room);
            let text = (text as u128 * values as u128 / offered.max(1) as u128) as usize;
            return Err(TooLarge { values, bytes: needed(values, text) });
        }
        self.prune();
        self.entries.sort_unstable_by(|a, b| compare(&self.text, a, b));
        Ok(SortedValues { text: self.text, entries: self.entries })
    }
}

/// Values in vocabulary order.
#[derive(Debug)]
pub(crate) struct SortedValues {
    text: Vec<u8>,
    entries: Vec<Entry>,
}

impl SortedValues {
    /// Each value and its count.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        let text = |e: &Entry| std::str::from_utf8(&self.text[e.start..e.start + e.length]).unwrap_or_default();
        self.entries.iter().map(move |e| (text(e), e.count))
    }

    /// Bytes of all values.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_are_the_first_of_the_sorted_values(
            values in proptest::collection::btree_map("[a-z]{1,4}", 1u64..4, 0..3000),
            room in 0usize..1500,
        ) {
            let mut top = TopValues::new(room, usize::MAX);
            values.iter().for_each(|(v, n)| top.offer(v, *n));
            let mut expected: Vec<(&str, u64)> = values.iter().map(|(v, n)| (v.as_str(), *n)).collect();
            expected.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
            expected.truncate(room);
            let sorted = top.finish().unwrap();
            prop_assert_eq!(sorted.iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn more_than_the_limit_is_told_with_its_size() {
        let offer = |room, limit| {
            let mut top = TopValues::new(room, limit);
            (0..10_000u32).for_each(|i| top.offer(&format!("{i:06}"), u64::from(i)));
            top.finish().map(|sorted| sorted.iter().len())
        };
        assert_eq!(offer(usize::MAX, 100_000), Err(TooLarge { values: 10_000, bytes: 600_000 }));
        assert_eq!(offer(5_000, 100_000), Err(TooLarge { values: 5_000, bytes: 300_000 }));
        assert_eq!(offer(1_000, 100_000), Ok(1_000));
        assert_eq!(offer(usize::MAX, 600_000), Ok(10_000));
    }
}
