//! Builds a timeline in bounded memory, from events and users in any order.
//!
//! Events and users are partitioned by a hash of the user's id, and one partition at a time is sorted and joined. The
//! joined events are partitioned once more, by the user's place in the timeline, sorted, and written.

use crate::error::PipelineError;
use crate::rows::partitions::{Partitions, Record};
use crate::watch::allocator;
use std::path::{Path, PathBuf};
use twotower_artifacts::keyed::Identity;
use twotower_artifacts::{Clock, Event, FileEntry, Fingerprint, Timeline, TimelineInfo, TimelineWriter};

/// Stands for an item that is not in the items table. A row of such an item makes no event, but its user counts as
/// named.
const UNKNOWN: u32 = u32::MAX;

/// A row of the interactions table, or several rows that are one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EventRecord {
    user: Identity,
    item: u32,
    /// 0 where the table has no times: then all rows of a user and an item are one event.
    time: i64,
    /// The first row.
    position: u64,
    rows: u32,
    /// The bits of the largest weight. For numbers from 0 on, bits have the order of the numbers.
    weight: u32,
}

impl Record for EventRecord {
    const BYTES: usize = 44;

    fn key(&self) -> u64 {
        self.user.upper
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.user.upper.to_le_bytes());
        bytes.extend_from_slice(&self.user.lower.to_le_bytes());
        bytes.extend_from_slice(&self.time.to_le_bytes());
        bytes.extend_from_slice(&self.position.to_le_bytes());
        bytes.extend_from_slice(&self.item.to_le_bytes());
        bytes.extend_from_slice(&self.rows.to_le_bytes());
        bytes.extend_from_slice(&self.weight.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let (long, short) = (|at: usize| u64::read(&bytes[at..at + 8]), |at: usize| u64::read(&bytes[at..at + 4]));
        Self {
            user: Identity { upper: long(0), lower: long(8) },
            time: long(16) as i64,
            position: long(24),
            item: short(32) as u32,
            rows: short(36) as u32,
            weight: short(40) as u32,
        }
    }

    fn absorb(&mut self, next: &Self) -> bool {
        let same = (self.user, self.item, self.time) == (next.user, next.item, next.time);
        if same {
            self.rows = self.rows.saturating_add(next.rows);
            self.weight = self.weight.max(next.weight);
        }
        same
    }
}

/// An event of the user at a place of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PlacedEvent {
    place: u64,
    time: i64,
    position: u64,
    item: u32,
    weight: u32,
}

impl Record for PlacedEvent {
    const BYTES: usize = 32;

    fn key(&self) -> u64 {
        self.place
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.place.to_le_bytes());
        bytes.extend_from_slice(&self.time.to_le_bytes());
        bytes.extend_from_slice(&self.position.to_le_bytes());
        bytes.extend_from_slice(&self.item.to_le_bytes());
        bytes.extend_from_slice(&self.weight.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let (long, short) = (|at: usize| u64::read(&bytes[at..at + 8]), |at: usize| u64::read(&bytes[at..at + 4]));
        Self {
            place: long(0),
            time: long(8) as i64,
            position: long(16),
            item: short(24) as u32,
            weight: short(28) as u32,
        }
    }
}

/// The user at a place of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PlacedUser {
    place: u64,
    identity: Identity,
}

impl Record for PlacedUser {
    const BYTES: usize = 24;

    fn key(&self) -> u64 {
        self.place
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.place.to_le_bytes());
        bytes.extend_from_slice(&self.identity.upper.to_le_bytes());
        bytes.extend_from_slice(&self.identity.lower.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let long = |at: usize| u64::read(&bytes[at..at + 8]);
        Self { place: long(0), identity: Identity { upper: long(8), lower: long(16) } }
    }
}

/// A row of the interactions table as it comes.
#[derive(Debug, Clone, Copy)]
pub struct EventRow {
    /// The user's identity under the timeline's key.
    pub user: Identity,
    /// Row of the encoded items table, if the item stands there.
    pub item: Option<u32>,
    /// Ticks; 0 where the table has no times.
    pub time: i64,
    /// Row of the interactions table.
    pub position: u64,
    /// At least 0.
    pub weight: f32,
}

/// Events and users of a timeline that is being built.
pub struct TimelineBuilder {
    events: Partitions<EventRecord>,
    users: Partitions<(Identity, u64)>,
    /// Rows of the interactions table, at the most.
    rows: u64,
    dir: PathBuf,
}

/// A timeline on disk.
#[derive(Debug)]
pub struct TimelineFile {
    /// The file.
    pub file: FileEntry,
    /// Fingerprint of the timeline.
    pub fingerprint: Fingerprint,
    /// Rows of the users table whose users the interactions name, ascending; empty where they were not asked for.
    pub rows: Vec<u64>,
    /// What became of the rows of the interactions.
    pub counts: TimelineCounts,
}

/// What became of the rows of the interactions.
#[derive(Debug, Default)]
pub struct TimelineCounts {
    /// Events of users of the users table.
    pub events: u64,
    /// Further rows of these events.
    pub repeated: u64,
    /// Distinct pairs of a user, known or not, and an item.
    pub pairs: u64,
    /// Users, known or not, of these pairs.
    pub users: u64,
    /// Rows of users who are not in the users table.
    pub stranger_rows: u64,
    /// The first of these rows.
    pub first_stranger: Option<u64>,
}

impl TimelineBuilder {
    /// A builder without events, for a table of `rows` interactions; temporary files go to `dir`.
    ///
    /// # Memory
    /// 8 MiB; at the end a partition beside it, some 8 MiB, more where there are over 180 million rows.
    pub fn new(dir: &Path, rows: u64) -> Self {
        Self {
            events: Partitions::of(dir, rows, u64::MAX),
            users: Partitions::of(dir, rows, u64::MAX),
            rows,
            dir: dir.into(),
        }
    }

    /// Adds a row of the interactions table.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    pub fn add_event(&mut self, row: &EventRow) -> Result<(), PipelineError> {
        let EventRow { user, item, time, position, weight } = *row;
        // All rows of a user with unknown items count as repeats of one event. A weight of -0 is taken as 0, since its
        // sign would make its bits the largest.
        let (item, time) = item.map_or((UNKNOWN, 0), |item| (item, time));
        self.events.add(EventRecord { user, item, time, position, rows: 1, weight: weight.abs().to_bits() })
    }

    /// Adds a row of the users table. Of several rows with one id the first one counts. Users without events may be
    /// added.
    ///
    /// # Errors
    /// As [`TimelineBuilder::add_event`].
    pub fn add_user(&mut self, identity: Identity, row: u64) -> Result<(), PipelineError> {
        self.users.add((identity, row))
    }

    /// Writes the timeline, under `path`; `keep_rows` asks for [`TimelineFile::rows`]. `stop` is asked between
    /// partitions.
    ///
    /// # Errors
    /// I/O; those of `stop`.
    pub fn finish(
        self,
        path: &Path,
        info: TimelineInfo,
        keep_rows: bool,
        stop: impl Fn() -> Result<(), PipelineError>,
    ) -> Result<TimelineFile, PipelineError> {
        let mut rows = Vec::new();
        let keep = |row| {
            if keep_rows {
                rows.push(row)
            }
        };
        let (writer, counts) = self.write(path, info, keep, stop)?;
        rows.sort_unstable();
        let (file, fingerprint) = writer.finish()?;
        Ok(TimelineFile { file, fingerprint, rows, counts })
    }

    /// As [`TimelineBuilder::finish`], into a file in `dir` that has no name.
    ///
    /// # Errors
    /// As [`TimelineBuilder::finish`].
    pub fn finish_unnamed(
        self,
        dir: &Path,
        info: TimelineInfo,
        stop: impl Fn() -> Result<(), PipelineError>,
    ) -> Result<Timeline, PipelineError> {
        let (writer, _) = self.write(&dir.join("timeline"), info, |_| (), stop)?;
        Ok(writer.finish_unnamed()?)
    }

    fn write(
        mut self,
        path: &Path,
        info: TimelineInfo,
        mut keep: impl FnMut(u64),
        stop: impl Fn() -> Result<(), PipelineError>,
    ) -> Result<(TimelineWriter, TimelineCounts), PipelineError> {
        let (clock, table_rows) = (info.clock, info.table_rows);
        allocator::give_back();
        let mut counts = TimelineCounts::default();
        let last = table_rows + self.rows;
        let mut placed = Partitions::of(&self.dir, self.rows, last);
        let mut placed_users = Partitions::of(&self.dir, self.rows, last);
        let (mut events, mut users) = (Vec::new(), Vec::new());
        for number in 0..self.events.count() {
            stop()?;
            self.events.take_sorted(number, &mut events)?;
            self.users.take_sorted(number, &mut users)?;
            events.dedup_by(|next, kept| kept.absorb(next));
            let mut users = users.iter().copied().peekable();
            for own in events.chunk_by(|a, b| a.user == b.user) {
                let identity = own[0].user;
                while users.next_if(|(user, _)| *user < identity).is_some() {}
                let row = users.next_if(|(user, _)| *user == identity).map(|(_, row)| row);
                let place = counts.place(own, row, table_rows);
                row.into_iter().for_each(&mut keep);
                let known = own.iter().filter(|event| event.item != UNKNOWN);
                if row.is_some() || own.iter().any(|event| event.item != UNKNOWN) {
                    placed_users.add(PlacedUser { place, identity })?;
                }
                for event in known {
                    let EventRecord { item, position, weight, .. } = *event;
                    let time = if clock == Clock::Order { position as i64 } else { event.time };
                    placed.add(PlacedEvent { place, time, position, item, weight })?;
                }
            }
        }
        drop((self.events, self.users, events, users));
        allocator::give_back();
        let mut writer = TimelineWriter::create(path, info)?;
        let (mut events, mut users, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..placed.count() {
            stop()?;
            placed.take_sorted(number, &mut events)?;
            placed_users.take_sorted(number, &mut users)?;
            let mut events = events.iter().copied().peekable();
            for user in &users {
                own.clear();
                while let Some(PlacedEvent { time, item, weight, .. }) =
                    events.next_if(|event| event.place == user.place)
                {
                    own.push(Event { item, time, weight: f32::from_bits(weight) });
                }
                writer.write(user.place, user.identity, &own)?;
            }
        }
        Ok((writer, counts))
    }
}

impl TimelineCounts {
    /// Counts a user's events, sorted by item, and returns his place: that of his row, if he has one.
    fn place(&mut self, own: &[EventRecord], row: Option<u64>, table_rows: u64) -> u64 {
        let rows = |event: &EventRecord| u64::from(event.rows);
        let known = own.iter().filter(|event| event.item != UNKNOWN);
        let pairs = own.chunk_by(|a, b| a.item == b.item).filter(|events| events[0].item != UNKNOWN).count() as u64;
        self.pairs += pairs;
        self.users += u64::from(pairs > 0);
        match row {
            Some(row) => {
                let events = known.clone().count() as u64;
                self.events += events;
                self.repeated += known.map(rows).sum::<u64>() - events;
                row
            }
            None => {
                let first = own.iter().map(|event| event.position).min().unwrap_or_default();
                self.stranger_rows += own.iter().map(rows).sum::<u64>();
                self.first_stranger = Some(self.first_stranger.map_or(first, |known| known.min(first)));
                table_rows + first
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::keyed::IdentityKey;
    use twotower_artifacts::{Detail, Histories, Id};

    fn key() -> IdentityKey {
        IdentityKey::of(&[&Fingerprint::of(b"t")])
    }

    fn user(id: i64) -> Identity {
        key().identity(Id::Int(id))
    }

    fn build(
        dir: &Path,
        clock: Clock,
        events: &[(i64, Option<u32>, i64, f32)],
        users: &[i64],
    ) -> (TimelineFile, Histories) {
        let mut builder = TimelineBuilder::new(dir, events.len() as u64);
        for (position, (id, item, time, weight)) in events.iter().enumerate() {
            let time = if clock == Clock::Order { 0 } else { *time };
            let row = EventRow { user: user(*id), item: *item, time, position: position as u64, weight: *weight };
            builder.add_event(&row).unwrap();
        }
        for (row, id) in users.iter().enumerate().rev() {
            builder.add_user(user(*id), row as u64).unwrap();
        }
        let info = TimelineInfo { table_rows: users.len() as u64, items: 9, clock, key: key() };
        let path = dir.join("timeline.bin");
        let built = builder.finish(&path, info, true, || Ok(())).unwrap();
        let timeline = Timeline::open(&path).unwrap();
        assert_eq!(*timeline.fingerprint(), built.fingerprint);
        let mut found = Histories::default();
        timeline.read(0..u64::MAX, Detail::All, &mut found).unwrap();
        (built, found)
    }

    const TICKS: Clock = Clock::Ticks { unit: Some(twotower_artifacts::TickUnit::Second) };

    #[test]
    fn an_event_counts_once_at_its_first_row_with_its_largest_weight() {
        let dir = tempfile::tempdir().unwrap();
        // User 40 takes item 7 twice at once, and again later; user 42 repeats a whole moment; user 41 has nothing.
        let events = [
            (40, Some(7), 10, 1.0),
            (40, Some(3), 10, 1.0),
            (42, Some(7), 11, 1.0),
            (40, Some(7), 10, 5.0),
            (42, Some(4), 11, 3.0),
            (42, Some(4), 11, 2.0),
            (40, Some(7), 9, 2.0),
            (42, Some(7), 11, -0.0),
        ];
        let (built, found) = build(dir.path(), TICKS, &events, &[40, 41, 42]);
        assert_eq!((found.rows, found.offsets), (vec![0, 2], vec![0, 3, 5]));
        assert_eq!(found.items, [7, 7, 3, 7, 4]);
        assert_eq!(found.times, [9, 10, 10, 11, 11]);
        assert_eq!(found.weights, [2.0, 5.0, 1.0, 1.0, 3.0]);
        assert_eq!((built.counts.events, built.counts.repeated, built.counts.pairs, built.counts.users), (5, 3, 4, 2));
        // Without times a pair is one event, at its first row.
        let (built, found) = build(dir.path(), Clock::Order, &events, &[40, 41, 42]);
        assert_eq!((found.offsets, found.items, found.times), (vec![0, 2, 4], vec![7, 3, 7, 4], vec![0, 1, 2, 4]));
        assert_eq!((found.weights, built.counts.events, built.counts.repeated), (vec![5.0, 1.0, 1.0, 3.0], 4, 4));
    }

    #[test]
    fn strangers_stand_after_the_table_and_users_of_unknown_items_have_no_events() {
        let dir = tempfile::tempdir().unwrap();
        let events = [
            (7, None, 3, 1.0),
            (99, Some(2), 5, 1.0),
            (7, None, 4, 1.0),
            (98, None, 5, 1.0),
            (5, Some(0), 1, 1.0),
            (99, Some(1), 4, 1.0),
        ];
        // User 5 stands in two rows: the first counts.
        let (built, found) = build(dir.path(), TICKS, &events, &[6, 5, 7, 5]);
        assert_eq!((found.rows, found.offsets), (vec![1, 2, 4 + 1], vec![0, 1, 1, 3]));
        assert_eq!(found.items, [0, 1, 2]);
        assert_eq!((built.rows, built.counts.events), (vec![1, 2], 1));
        assert_eq!((built.counts.stranger_rows, built.counts.first_stranger), (3, Some(1)));
        assert_eq!((built.counts.pairs, built.counts.users), (3, 2));
        let (built, found) = build(dir.path(), TICKS, &[], &[1, 2]);
        assert!(found.is_empty() && built.rows.is_empty());
    }

    #[test]
    fn many_events_in_any_order_make_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let events: Vec<(i64, Option<u32>, i64, f32)> =
            (0..400_000i64).map(|i| (i * 7919 % 50_021, Some((i % 9) as u32), i * 31 % 1000, 1.0)).collect();
        let users: Vec<i64> = (0..50_021).rev().collect();
        let (built, found) = build(dir.path(), TICKS, &events, &users);
        assert_eq!(found.len(), built.rows.len());
        let mut expected: std::collections::BTreeMap<i64, Vec<(i64, usize, u32)>> = Default::default();
        for (position, (user, item, time, _)) in events.iter().enumerate() {
            expected.entry(*user).or_default().push((*time, position, item.unwrap()));
        }
        for (at, row) in found.rows.iter().enumerate() {
            let mut own = expected.remove(&users[*row as usize]).unwrap();
            own.sort_unstable();
            own.dedup_by_key(|(time, _, item)| (*time, *item));
            let items: Vec<u32> = own.iter().map(|(_, _, item)| *item).collect();
            assert_eq!(found.items[found.events(at)], items, "row {row}");
        }
        assert!(expected.is_empty());
    }
}
