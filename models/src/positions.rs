//! Windows of which every position is trained, for models that read a sequence once and predict at each of its elements.
//!
//! From his last training event back, a user's events are cut into windows, so that each training event is a target of
//! exactly one. Of a target is known what came before it in its window, and the one event before the window's first
//! target; so a window reads no more events than the longest sequence holds. A target late in its window has the
//! history that the tower would be given, unless that is longer; an early one has a short one, as if the user had begun
//! with the window. The times of a sequence with intervals are those of the target's own history: where a later event
//! changes the scale of a user, the targets after it have other times, and are computed as a sequence of their own.

use crate::examples::{Role, TrainingSet, Window};
use rayon::prelude::*;
use std::ops::Range;
use twotower_artifacts::{CodeBatch, Column, FieldShape, IntervalScale, Intervals, TowerSchema};

/// How users' events are cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Positions {
    /// The most known events of a target, at least 1.
    longest: usize,
}

impl Positions {
    /// Windows for the longest sequence of a schema. None if it has no sequence.
    pub fn of(schema: &TowerSchema) -> Option<Self> {
        let length = |shape: &FieldShape| match shape {
            FieldShape::Sequence { max_len, .. } => Some(*max_len as usize),
            FieldShape::Code { .. } | FieldShape::Bag { .. } | FieldShape::Dense { .. } => None,
        };
        let longest = schema.fields.iter().filter_map(|field| length(&field.shape)).max()?;
        Some(Self { longest })
    }

    /// The most known events of a target. A window has at most one target more.
    pub fn longest(self) -> usize {
        self.longest
    }

    /// The elements of a sequence of at most `max_len` that are computed for each target. Targets of a window share the
    /// elements of the longest sequence. Those of a shorter one move along. On a personal scale, an event after the
    /// shortest gap so far begins with all elements anew: twice as many, where gaps come in random order, and twice that
    /// is allowed for.
    pub fn elements(self, max_len: usize, intervals: Option<Intervals>) -> usize {
        let is_own = intervals.is_some_and(|intervals| intervals.scale == IntervalScale::Personal);
        match is_own {
            _ if max_len != self.longest => max_len,
            true => max_len.min(4),
            false => 1,
        }
    }

    /// The last targets of all windows, in the order of users and time. Windows without a training event are left out.
    pub fn windows(&self, set: &TrainingSet) -> Vec<u32> {
        let mut windows = Vec::new();
        for user in 0..set.interactions.users() {
            let events = set.interactions.events(user);
            let first_window = windows.len();
            let mut end = events.end;
            while let Some(last) = (events.start..end).rev().find(|event| set.roles[*event] == Role::Train) {
                windows.push(last as u32);
                end = self.first_target(events.start, last);
            }
            windows[first_window..].reverse();
        }
        windows
    }

    /// The first target of the window with this last one, given its user's first event.
    fn first_target(&self, first: usize, last: usize) -> usize {
        if last - first <= self.longest { first } else { last - self.longest + 1 }
    }

    /// The window with this last target.
    pub fn window(&self, set: &TrainingSet, last: usize) -> Window {
        let Window { user, role, .. } = set.window(last);
        let first = self.first_target(set.interactions.events(user as usize).start, last);
        Window { user, targets: first..last + 1, role }
    }

    /// The events that are known of the window's last target.
    fn history(&self, set: &TrainingSet, window: &Window) -> Range<usize> {
        let first = set.interactions.events(window.user as usize).start;
        let (start, last) = (window.targets.start, window.targets.end - 1);
        start.saturating_sub(1).max(first)..last
    }

    /// Writes a row for each window: static columns as encoded, and all known events in each sequence, oldest first,
    /// with the times that the last target's history has.
    pub fn assemble(&self, set: &TrainingSet, windows: &[Window], out: &mut CodeBatch) {
        out.clear();
        let fields = set.user_schema.fields.par_iter().zip(&set.users.columns);
        out.columns.par_iter_mut().zip(fields).for_each(|(to, (field, from))| match (&field.shape, to) {
            (FieldShape::Sequence { .. }, Column::Ragged(to)) => {
                for window in windows {
                    let history = self.history(set, window);
                    let items = set.interactions.items[history.clone()].iter();
                    to.push_row(items.map(|item| set.item_codes[*item as usize]));
                    set.scale(&field.shape, &set.interactions.times[history], &mut to.times);
                }
            }
            (_, to) => windows.iter().for_each(|window| to.push_from(from, window.user as usize)),
        });
    }

    /// Writes a row for each target of the windows whose rows are `from`, with the newest of its known events in each
    /// sequence, and their times where it has intervals.
    pub fn spread(&self, set: &TrainingSet, windows: &[Window], from: &CodeBatch, to: &mut CodeBatch) {
        to.clear();
        let columns = to.columns.par_iter_mut().zip(&from.columns);
        columns.zip(&set.user_schema.fields).for_each(|((to, from), field)| {
            for (row, window) in windows.iter().enumerate() {
                let start = self.history(set, window).start;
                for target in set.targets(window) {
                    match (&field.shape, &mut *to, from) {
                        (FieldShape::Sequence { max_len, .. }, Column::Ragged(to), Column::Ragged(from)) => {
                            let known = target.saturating_sub(start);
                            let kept = known.saturating_sub(*max_len as usize)..known;
                            to.push_row(from.row(row)[kept.clone()].iter().copied());
                            let events = start + kept.start..start + kept.end;
                            set.scale(&field.shape, &set.interactions.times[events], &mut to.times);
                        }
                        (_, to, from) => to.push_from(from, row),
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::assemble;
    use crate::examples::tests::planted;

    /// Sequences of 6 and of 2 events, of users with 1, 2, 6, 7, 8 and 30 events and roles of all kinds.
    fn set() -> TrainingSet {
        let mut set = planted(6, 8, 2, 9);
        set.interactions.offsets = vec![0, 1, 3, 9, 16, 24, 54];
        set.roles.fill(Role::Train);
        for held_out in [2, 8, 14, 15, 30, 31, 53] {
            set.roles[held_out] = Role::Validation;
        }
        set.roles[32..40].fill(Role::Unused);
        let mut short = set.user_schema.fields[1].clone();
        short.name = "last".into();
        for (field, length) in [(&mut set.user_schema.fields[1], 6), (&mut short, 2)] {
            let FieldShape::Sequence { max_len, .. } = &mut field.shape else { panic!("it is a sequence") };
            *max_len = length;
        }
        set.user_schema.fields.push(short);
        set.users.columns.push(set.users.columns[1].clone());
        set.check().unwrap();
        set
    }

    fn all(set: &TrainingSet) -> (Positions, Vec<Window>) {
        let positions = Positions::of(&set.user_schema).unwrap();
        let windows = positions.windows(set);
        let windows = windows.iter().map(|last| positions.window(set, *last as usize)).collect();
        (positions, windows)
    }

    #[test]
    fn every_training_event_is_a_target_of_exactly_one_window_and_no_window_is_too_long() {
        let set = set();
        let (positions, windows) = all(&set);
        let targets: Vec<usize> = windows.iter().flat_map(|window| set.targets(window)).collect();
        assert_eq!(targets, set.events(Role::Train).collect::<Vec<_>>());
        for window in &windows {
            let (user, history) = (window.user as usize, positions.history(&set, window));
            assert!(history.len() <= 6 && set.roles[history.end] == Role::Train);
            assert!(set.interactions.events(user).contains(&history.end));
            assert!(history.start == window.targets.start || history.start + 1 == window.targets.start);
        }
        // The newest windows are full: users with 7 known events or more have one of 6.
        assert_eq!(positions.history(&set, windows.last().unwrap()), 46..52);
        // A schema without a sequence has no such windows.
        let mut flat = set.user_schema.clone();
        flat.fields.truncate(1);
        assert_eq!(Positions::of(&flat), None);
    }

    #[test]
    fn a_targets_row_holds_what_came_before_it_in_its_window_and_nothing_else() {
        let set = set();
        let (positions, windows) = all(&set);
        let [mut whole, mut rows, mut expected] = [(); 3].map(|()| CodeBatch::empty(&set.user_schema));
        positions.assemble(&set, &windows, &mut whole);
        positions.spread(&set, &windows, &whole, &mut rows);
        rows.check(&set.user_schema).unwrap();
        let targets: Vec<Window> = set.events(Role::Train).map(|event| set.window(event)).collect();
        assemble(&set, &targets, &mut expected);
        let mut row = 0;
        for window in &windows {
            let start = positions.history(&set, window).start;
            for target in set.targets(window) {
                for (column, length) in [(1, 6), (3, 2)] {
                    let (Column::Ragged(found), Column::Ragged(known)) =
                        (&rows.columns[column], &expected.columns[column])
                    else {
                        panic!("sequences are ragged")
                    };
                    // What inference would see, without what came before the window.
                    let known = known.row(row);
                    let count = (target - start).min(length);
                    assert_eq!(found.row(row), &known[known.len() - count..], "{window:?}, {target}");
                }
                row += 1;
            }
        }
        assert_eq!(row, rows.rows());
        for column in [0, 2] {
            assert_eq!(rows.columns[column], expected.columns[column]);
        }
    }
}
