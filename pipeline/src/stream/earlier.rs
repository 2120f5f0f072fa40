//! Rows of an earlier run beside the rows of this one with the same ids, in bounded memory.
//!
//! Both are read from start to end, and a window of earlier rows goes along. Nothing depends on whom the window holds: a
//! row that is not found in it is made anew.

use crate::error::PipelineError;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use twotower_artifacts::keyed::{KeyedMap, hash_id, hash_ids};
use twotower_artifacts::{Ids, RowHash};

/// Successive rows of an earlier run.
#[derive(Debug)]
pub struct Stretch<T> {
    /// One id per row.
    pub ids: Ids,
    /// What each row was made from.
    pub hashes: Vec<RowHash>,
    /// The hash of each row's vector, beside lists alone.
    pub vectors: Vec<u64>,
    /// What was made of the rows.
    pub made: T,
}

/// For each row of a batch, where the earlier one with its id is.
#[derive(Debug)]
pub struct Matches<T> {
    stretches: Vec<Arc<Stretch<T>>>,
    /// Number of the stretch, and row within it.
    places: Vec<Option<(u32, u32)>>,
}

impl<T> Matches<T> {
    /// The earlier row with the id of the given one, if it was found and was made from the same: its stretch, and its
    /// place there.
    pub fn same(&self, row: usize, hash: RowHash) -> Option<(&Stretch<T>, usize)> {
        let (stretch, at) = self.places[row]?;
        let (stretch, at) = (&self.stretches[stretch as usize], at as usize);
        (stretch.hashes[at] == hash).then_some((&**stretch, at))
    }

    /// How many rows were found.
    pub fn found(&self) -> u64 {
        self.places.iter().flatten().count() as u64
    }
}

/// A window of earlier rows that goes along with the rows of a table.
pub struct Window<I, T> {
    /// The earlier rows, from the window's first on.
    source: I,
    /// Each with the number of its first row.
    stretches: VecDeque<(u64, Arc<Stretch<T>>)>,
    /// Number of a row by the hash of its id.
    by_id: KeyedMap<u64, u64>,
    /// Number of the row behind the window's last.
    end: u64,
    /// About where the next rows are expected.
    expected: u64,
    /// Rows before and behind the expected ones that are kept.
    reach: u64,
    /// As far as the window goes to find the first rows that it is asked for; none after that.
    search_until: Option<u64>,
}

/// Where a window begins and how far it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The first earlier row to read.
    pub first: u64,
    /// As far as it goes to find the first rows.
    pub until: u64,
    /// Rows kept before and behind the ones that are expected.
    pub reach: u64,
}

impl Search {
    /// The search for rows that begin at row `first` of `rows`, among `earlier` earlier rows. In a table that grew at its
    /// end the users stand where they stood, and in one that grew everywhere in proportion.
    pub fn new(first: u64, rows: u64, earlier: u64, reach: u64) -> Self {
        let scaled = (u128::from(first) * u128::from(earlier) / u128::from(rows.max(1))) as u64;
        let (least, most) = (first.min(scaled), first.max(scaled));
        Self { first: least.saturating_sub(reach).min(earlier), until: most.saturating_add(reach), reach }
    }
}

impl<T, I: Iterator<Item = Result<Stretch<T>, PipelineError>>> Window<I, T> {
    /// A window over earlier rows, of which `source` gives those from `search.first` on.
    pub fn new(source: I, search: &Search) -> Self {
        Self {
            source,
            stretches: VecDeque::new(),
            by_id: KeyedMap::default(),
            end: search.first,
            expected: search.first,
            reach: search.reach,
            search_until: Some(search.until),
        }
    }

    /// The earlier rows with the next ids of the table.
    ///
    /// # Errors
    /// Those of the source.
    pub fn matches(&mut self, ids: &Ids) -> Result<Matches<T>, PipelineError> {
        let mut hashes = Vec::with_capacity(ids.len());
        hash_ids(ids, |_, hash| hashes.push(hash));
        self.read_to(self.expected + ids.len() as u64 + self.reach)?;
        let mut found = self.find(ids, &hashes);
        if let Some(until) = self.search_until.take() {
            while found.iter().all(Option::is_none) && !ids.is_empty() && self.end < until {
                let before = self.end;
                self.expected = self.end;
                self.read_to((self.end + self.reach.max(1)).min(until))?;
                if self.end == before {
                    break;
                }
                found = self.find(ids, &hashes);
            }
        }
        // Users who moved far do not lead the window away, so not the mean or the last.
        let mut rows: Vec<u64> = found.iter().flatten().copied().collect();
        let half = ids.len() as u64 / 2;
        self.expected = match rows.len() {
            0 => self.expected + ids.len() as u64,
            count => *rows.select_nth_unstable(count / 2).1 + half + 1,
        };
        Ok(self.placed(&found))
    }

    /// Reads on to a row, and drops what is too far behind.
    fn read_to(&mut self, end: u64) -> Result<(), PipelineError> {
        while self.end < end {
            let Some(stretch) = self.source.next() else { break };
            let stretch = Arc::new(stretch?);
            let first = self.end;
            hash_ids(&stretch.ids, |row, hash| _ = self.by_id.insert(hash, first + row as u64));
            self.end += stretch.ids.len() as u64;
            self.stretches.push_back((first, stretch));
        }
        let least = self.expected.saturating_sub(self.reach);
        while let Some((first, stretch)) = self.stretches.front() {
            let rows = *first..first + stretch.ids.len() as u64;
            if rows.end > least {
                break;
            }
            for id in stretch.ids.iter() {
                if let std::collections::hash_map::Entry::Occupied(entry) = self.by_id.entry(hash_id(id))
                    && rows.contains(entry.get())
                {
                    entry.remove();
                }
            }
            self.stretches.pop_front();
        }
        Ok(())
    }

    /// The numbers of the rows with these ids, whose hashes are given.
    fn find(&self, ids: &Ids, hashes: &[u64]) -> Vec<Option<u64>> {
        let of = |(row, hash): (usize, &u64)| {
            let found = *self.by_id.get(hash)?;
            let (first, stretch) = &self.stretches[self.stretch_of(found)];
            (stretch.ids.get((found - first) as usize) == ids.get(row)).then_some(found)
        };
        hashes.iter().enumerate().map(of).collect()
    }

    /// The place of the stretch that has a row of the window.
    fn stretch_of(&self, row: u64) -> usize {
        self.stretches.partition_point(|(first, _)| *first <= row).saturating_sub(1)
    }

    fn placed(&self, found: &[Option<u64>]) -> Matches<T> {
        let mut matches = Matches { stretches: Vec::new(), places: Vec::with_capacity(found.len()) };
        // Of each stretch of the window, its number among those of the matches.
        let mut numbers: Vec<Option<u32>> = vec![None; self.stretches.len()];
        for row in found {
            let place = row.map(|row| {
                let at = self.stretch_of(row);
                let (first, stretch) = &self.stretches[at];
                let number = *numbers[at].get_or_insert_with(|| {
                    matches.stretches.push(stretch.clone());
                    matches.stretches.len() as u32 - 1
                });
                (number, (row - first) as u32)
            });
            matches.places.push(place);
        }
        matches
    }
}

/// Joins two streams of the same rows that are cut at different rows: takes `count` values of one.
#[derive(Debug)]
pub struct Cut<I, V> {
    source: I,
    waiting: VecDeque<V>,
}

impl<V, E, I: Iterator<Item = Result<Vec<V>, E>>> Cut<I, V> {
    /// A stream of values that come in batches.
    pub fn new(source: I) -> Self {
        Self { source, waiting: VecDeque::new() }
    }

    /// The next `count` values; fewer at the end.
    ///
    /// # Errors
    /// Those of the source.
    pub fn take(&mut self, count: usize) -> Result<Vec<V>, E> {
        while self.waiting.len() < count {
            let Some(batch) = self.source.next() else { break };
            self.waiting.extend(batch?);
        }
        let count = count.min(self.waiting.len());
        Ok(self.waiting.drain(..count).collect())
    }
}

/// Ranges of `rows` cut at the ends of parts with the given numbers of rows: the part, and rows within it.
pub fn within_parts(parts: &[u64], from: u64) -> Vec<(usize, Range<u64>)> {
    let mut before = 0;
    let mut ranges = Vec::new();
    for (part, rows) in parts.iter().enumerate() {
        let first = from.clamp(before, before + rows) - before;
        if first < *rows {
            ranges.push((part, first..*rows));
        }
        before += rows;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_models::rng::Rng;

    fn hash(id: i64) -> RowHash {
        RowHash { upper: id as u64, lower: 7 }
    }

    /// Stretches of earlier rows from a row on; each made of its ids. Counts those that are alive.
    fn stretches(ids: &[i64], from: u64) -> impl Iterator<Item = Result<Stretch<Vec<i64>>, PipelineError>> {
        ids[from as usize..].chunks(50).map(|ids| {
            let hashes = ids.iter().copied().map(hash).collect();
            Ok(Stretch { ids: Ids::Int(ids.to_vec()), hashes, vectors: Vec::new(), made: ids.to_vec() })
        })
    }

    /// How many of the ids, which are asked for in batches of 100, are found; what is found is right.
    fn found(now: &[i64], earlier: &[i64], search: &Search) -> usize {
        let mut window = Window::new(stretches(earlier, search.first), search);
        let mut count = 0;
        for batch in now.chunks(100) {
            let matches = window.matches(&Ids::Int(batch.to_vec())).unwrap();
            for (row, id) in batch.iter().enumerate() {
                if let Some((stretch, at)) = matches.same(row, hash(*id)) {
                    assert_eq!(stretch.made[at], *id);
                    count += 1;
                }
                assert!(matches.same(row, hash(id + 1)).is_none(), "a row that was made from something else");
            }
            let held: u64 = window.stretches.iter().map(|(_, stretch)| stretch.ids.len() as u64).sum();
            assert!(held <= 2 * search.reach + 100 + 2 * 50, "{held} rows are held, with a reach of {}", search.reach);
            assert!(window.by_id.len() as u64 <= held);
        }
        count
    }

    fn all(now: usize, earlier: usize, reach: u64) -> Search {
        Search::new(0, now as u64, earlier as u64, reach)
    }

    #[test]
    fn users_are_found_near_the_place_where_they_stood() {
        let earlier: Vec<i64> = (0..10_000).map(|i| i * 3).collect();
        assert_eq!(found(&earlier, &earlier, &all(10_000, 10_000, 200)), 10_000);
        // Some are new and some are gone, all over the table: far more than the reach.
        let mut rng = Rng::at(1, &[]);
        let mut now: Vec<i64> = earlier.iter().copied().filter(|_| rng.below(10) > 0).collect();
        let stayed = now.len();
        now.extend((0..1400).map(|i| i * 21 + 1));
        now.sort_unstable();
        assert_eq!(found(&now, &earlier, &all(now.len(), 10_000, 300)), stayed);
        // Each moved by up to 100 rows.
        let mut moved: Vec<(i64, i64)> = earlier.iter().map(|id| (id + 3 * rng.below(100) as i64, *id)).collect();
        moved.sort_unstable();
        let moved: Vec<i64> = moved.into_iter().map(|(_, id)| id).collect();
        assert_eq!(found(&moved, &earlier, &all(10_000, 10_000, 300)), 10_000);
        // In any order: some are found, and nothing is wrong.
        let mut shuffled = earlier.clone();
        rng.shuffle(&mut shuffled);
        let some = found(&shuffled, &earlier, &all(10_000, 10_000, 300));
        assert!(some > 0 && some < 2000, "{some}");
        assert_eq!(found(&(90_000..91_000).collect::<Vec<_>>(), &earlier, &all(1000, 10_000, 300)), 0);
        assert_eq!(found(&now, &[], &all(now.len(), 0, 300)), 0);
    }

    #[test]
    fn a_later_shard_finds_its_users_where_the_table_grew_at_its_end_or_everywhere() {
        let earlier: Vec<i64> = (0..10_000).collect();
        let at_its_end: Vec<i64> = (0..12_000).collect();
        let search = Search::new(9000, 12_000, 10_000, 200);
        assert_eq!((search.first, search.until), (7300, 9200));
        assert_eq!(found(&at_its_end[9000..], &earlier, &search), 1000);
        let everywhere: Vec<i64> = (0..20_000).map(|i| if i % 2 == 0 { i / 2 } else { 100_000 + i }).collect();
        let search = Search::new(15_000, 20_000, 10_000, 200);
        assert_eq!(found(&everywhere[15_000..], &earlier, &search), 2500);
        // Shrunk by a quarter at its start.
        let shrunk: Vec<i64> = (2500..10_000).collect();
        let search = Search::new(3750, 7500, 10_000, 200);
        assert_eq!((search.first, search.until), (3550, 5200));
        // They stand further on than any search goes.
        assert_eq!(found(&shrunk[3750..], &earlier, &search), 0);
        let search = Search::new(3750, 7500, 10_000, 1200);
        // All but the first hundred.
        assert_eq!(found(&shrunk[3750..], &earlier, &search), 3650);
    }

    #[test]
    fn an_error_of_the_source_ends_it() {
        let failing = std::iter::once(Err::<Stretch<()>, _>(PipelineError::Data("planted".into())));
        let mut window = Window::new(failing, &all(10, 10, 5));
        assert_eq!(window.matches(&Ids::Int(vec![1])).unwrap_err().to_string(), "planted");
    }

    #[test]
    fn values_are_cut_where_they_are_asked_for_and_rows_at_the_ends_of_parts() {
        let batches = [vec![1, 2, 3], vec![], vec![4], vec![5, 6]].into_iter().map(Ok::<_, ()>);
        let mut cut = Cut::new(batches);
        assert_eq!(
            [2, 0, 3, 5, 1].map(|count| cut.take(count).unwrap()),
            [vec![1, 2], vec![], vec![3, 4, 5], vec![6], vec![]]
        );
        assert_eq!(within_parts(&[10, 0, 5], 0), [(0, 0..10), (2, 0..5)]);
        assert_eq!(within_parts(&[10, 0, 5], 12), [(2, 2..5)]);
        assert_eq!(within_parts(&[10, 0, 5], 15), []);
    }
}
