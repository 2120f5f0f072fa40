//! The data on which a model is trained, its windows, and which events of a user are known in each.

use crate::error::ModelError;
use crate::rng::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use twotower_artifacts::schema::UNKNOWN;
use twotower_artifacts::{CodeBatch, Column, FieldShape, Interactions, TowerSchema};

/// What an event is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A positive to learn from.
    Train,
    /// A positive that chooses the epoch.
    Validation,
    /// A positive that only the final evaluation sees.
    Test,
    /// Part of histories only.
    Unused,
}

/// Encoded tables and interactions with the role of every event.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSet {
    /// Inputs of the user tower.
    pub user_schema: TowerSchema,
    /// Inputs of the item tower; of the same encoder state.
    pub item_schema: TowerSchema,
    /// One row per user; sequence columns are present with empty rows.
    pub users: CodeBatch,
    /// One row per catalogue item.
    pub items: CodeBatch,
    /// `[items]` codes in the vocabulary of item ids, with which sequences are filled.
    pub item_codes: Vec<u32>,
    /// Positives per user in time order.
    pub interactions: Interactions,
    /// `[events]` roles.
    pub roles: Vec<Role>,
    /// Which events of a user are known when others are predicted.
    pub known: Known,
}

/// Which of a user's events are known when others are predicted. It follows from the split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Known {
    /// The events before the first predicted one, with splits by time.
    Earlier,
    /// All training events except those that are predicted, with splits that draw events at random. When test events are
    /// predicted, those that validate are known as well.
    Training,
}

impl Role {
    /// Whether events of this role are known when those of another are predicted, where all were drawn at random.
    fn is_known_to(self, predicted: Role) -> bool {
        match self {
            Role::Train => true,
            Role::Validation => predicted == Role::Test,
            Role::Test | Role::Unused => false,
        }
    }
}

/// Successive events of a user that are to be predicted from the known ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Row of the user.
    pub user: u32,
    /// Indices of the events. An empty range at the end of the user's events is the moment after all of them.
    pub targets: Range<usize>,
    /// Only events of this role are to be predicted.
    pub role: Role,
}

impl TrainingSet {
    /// Indices of the events of one role, in user and time order.
    pub fn events(&self, role: Role) -> impl Iterator<Item = usize> + '_ {
        (0..self.roles.len()).filter(move |event| self.roles[*event] == role)
    }

    /// The window of one event.
    pub(crate) fn window(&self, event: usize) -> Window {
        let user = self.interactions.offsets.partition_point(|offset| *offset as usize <= event) - 1;
        Window { user: user as u32, targets: event..event + 1, role: self.roles[event] }
    }

    /// The window after all events of a user, which predicts none of them.
    pub fn after_all(&self, user: usize) -> Window {
        let end = self.interactions.events(user).end;
        Window { user: user as u32, targets: end..end, role: Role::Unused }
    }

    /// Indices of the events of a window that are to be predicted.
    pub fn targets<'a>(&'a self, window: &'a Window) -> impl Iterator<Item = usize> + 'a {
        window.targets.clone().filter(|event| self.roles[*event] == window.role)
    }

    /// Indices of the known events of a window's user, oldest first.
    pub(crate) fn known<'a>(&'a self, window: &'a Window) -> impl DoubleEndedIterator<Item = usize> + 'a {
        let events = self.interactions.events(window.user as usize);
        let range = match self.known {
            Known::Earlier => events.start..window.targets.start,
            Known::Training => events,
        };
        range.filter(|event| match self.known {
            Known::Earlier => true,
            Known::Training => {
                let is_predicted = window.role == self.roles[*event] && window.targets.contains(event);
                self.roles[*event].is_known_to(window.role) && !is_predicted
            }
        })
    }

    /// Items of the known events of a window's user, oldest first.
    pub fn known_items<'a>(&'a self, window: &'a Window) -> impl DoubleEndedIterator<Item = u32> + 'a {
        self.known(window).map(|event| self.interactions.items[event])
    }

    /// How often each item occurs in the training events.
    pub fn training_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.items.rows()];
        for (item, role) in self.interactions.items.iter().zip(&self.roles) {
            counts[*item as usize] += (*role == Role::Train) as u64;
        }
        counts
    }

    /// `[events]` whether the event can be held out as a retrieval task. It cannot if its item is known, since known
    /// items are not retrieved, or if an earlier held-out event of the user has the same item.
    pub fn novel(&self) -> Vec<bool> {
        let mut novel = vec![true; self.interactions.len()];
        let mut by_item: Vec<usize> = Vec::new();
        let items = &self.interactions.items;
        for user in 0..self.interactions.users() {
            by_item.clear();
            by_item.extend(self.interactions.events(user));
            by_item.sort_unstable_by_key(|event| (items[*event], *event));
            for same in by_item.chunk_by(|a, b| items[*a] == items[*b]) {
                let is_repeated = |i: usize| match self.known {
                    Known::Earlier => i > 0,
                    Known::Training => {
                        let role = self.roles[same[i]];
                        let again = same[..i].iter().any(|event| self.roles[*event] == role);
                        let is_known = |event: &usize| self.roles[*event].is_known_to(role);
                        again || role != Role::Train && same.iter().any(is_known)
                    }
                };
                (0..same.len()).filter(|i| is_repeated(*i)).for_each(|i| novel[same[i]] = false);
            }
        }
        novel
    }

    /// Appends the times of a history on the scale of a sequence's intervals, if it has any. That times have a unit was
    /// checked where the set was made.
    pub(crate) fn scale(&self, shape: &FieldShape, times: &[i64], scaled: &mut Vec<i32>) {
        if let (Some(intervals), Some(unit)) = (shape.intervals(), self.interactions.unit) {
            intervals.scale(times, unit, scaled);
        }
    }

    /// Checks that all parts fit together before a long run.
    ///
    /// # Errors
    /// [`ModelError::Artifact`] for codes and columns, [`ModelError::Data`] for everything else.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        self.users.check(&self.user_schema)?;
        self.items.check(&self.item_schema)?;
        let wrong = |reason: String| Err(ModelError::Data { reason });
        let (users, items, events) = (self.users.rows(), self.items.rows(), self.interactions.len());
        if self.interactions.users() != users {
            return wrong(format!("interactions of {} users, {users} encoded users", self.interactions.users()));
        }
        let end = self.interactions.offsets.last().copied().unwrap_or(0);
        if self.interactions.offsets.windows(2).any(|w| w[0] > w[1]) || end != events as u64 {
            return wrong(format!("interaction offsets do not ascend to the {events} events"));
        }
        if let Some(event) = self.interactions.items.iter().position(|item| *item as usize >= items) {
            return wrong(format!(
                "event {event} is of item row {}, {items} items are encoded",
                self.interactions.items[event]
            ));
        }
        if self.roles.len() != events || self.interactions.weights.len() != events || self.item_codes.len() != items {
            return wrong(format!(
                "{} roles and {} weights for {events} events, {} item codes for {items} items",
                self.roles.len(),
                self.interactions.weights.len(),
                self.item_codes.len()
            ));
        }
        if u32::try_from(events).is_err() {
            return wrong(format!("{events} events, expected fewer than 2^32; give fewer interactions"));
        }
        if let Some(event) = self.interactions.weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
            return wrong(format!(
                "event {event} has weight {}, expected a finite one of at least 0",
                self.interactions.weights[event]
            ));
        }
        for field in &self.user_schema.fields {
            if field.shape.intervals().is_some() && self.interactions.unit.is_none() {
                return wrong(format!(
                    "sequence `{}` has intervals, but the times of events only tell which was earlier",
                    field.name
                ));
            }
            if let FieldShape::Sequence { cardinality, .. } = field.shape
                && let Some(row) = self.item_codes.iter().position(|code| *code >= cardinality)
            {
                return wrong(format!(
                    "item row {row} has code {}, sequence `{}` has {cardinality} slots",
                    self.item_codes[row], field.name
                ));
            }
        }
        if !self.roles.contains(&Role::Train) {
            return wrong("no event has the role of training; the split leaves nothing to learn from".into());
        }
        Ok(())
    }
}

/// Writes the user rows of `windows` to `out`: static columns as encoded, sequences filled with the
/// last `max_len` known items of each window's user, oldest first, with their times where the sequence has intervals.
///
/// `out` is cleared first and keeps its allocations.
pub fn assemble(set: &TrainingSet, windows: &[Window], out: &mut CodeBatch) {
    out.clear();
    let fields = set.user_schema.fields.par_iter().zip(&set.users.columns);
    out.columns.par_iter_mut().zip(fields).for_each(|(to, (field, from))| match (&field.shape, to) {
        (FieldShape::Sequence { max_len, .. }, Column::Ragged(to)) => {
            let mut events = Vec::with_capacity(*max_len as usize);
            let mut times = Vec::new();
            for window in windows {
                events.clear();
                events.extend(set.known(window).rev().take(*max_len as usize));
                events.reverse();
                to.push_row(events.iter().map(|event| set.item_codes[set.interactions.items[*event] as usize]));
                if field.shape.intervals().is_some() {
                    times.clear();
                    times.extend(events.iter().map(|event| set.interactions.times[*event]));
                    set.scale(&field.shape, &times, &mut to.times);
                }
            }
        }
        (_, to) => windows.iter().for_each(|window| to.push_from(from, window.user as usize)),
    });
}

/// Replaces a share `unknown` of all codes by [`UNKNOWN`], and a share `missing` of the single codes by missing, so
/// that these rows are trained.
pub(crate) fn drop_codes(batch: &mut CodeBatch, unknown: f64, missing: f64, key: u64) {
    batch.columns.par_iter_mut().enumerate().for_each(|(c, column)| {
        let rng = |stream: u64| Rng::at(key, &[c as u64, stream]);
        match column {
            Column::Code(codes) => {
                rng(0).each_hit(missing, codes.len(), |i| codes[i] = twotower_artifacts::schema::MISSING);
                rng(1).each_hit(unknown, codes.len(), |i| codes[i] = UNKNOWN);
            }
            Column::Ragged(ragged) => rng(1).each_hit(unknown, ragged.values.len(), |i| ragged.values[i] = UNKNOWN),
            Column::Dense { .. } => {}
        }
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use twotower_artifacts::schema::FIRST_VALUE;
    use twotower_artifacts::{FieldSchema, Fingerprint, Ragged, Side};

    fn schema(side: Side, fields: Vec<(&str, FieldShape)>) -> TowerSchema {
        TowerSchema {
            side,
            encoder: Fingerprint::of(b"toy"),
            fields: fields.into_iter().map(|(name, shape)| FieldSchema { name: name.into(), shape }).collect(),
        }
    }

    /// Users of `groups` tastes click items of their own taste. Every user has `events` events, the last for
    /// test and the one before for validation. Popularity is of no use.
    pub(crate) fn planted(users: usize, items: usize, groups: usize, events: usize) -> TrainingSet {
        let mut rng = Rng::at(77, &[]);
        let code = |table: &str, cardinality: usize| FieldShape::Code {
            table: table.into(),
            cardinality: cardinality as u32 + FIRST_VALUE,
        };
        let sequence = FieldShape::Sequence {
            table: "item".into(),
            cardinality: items as u32 + FIRST_VALUE,
            max_len: 4,
            intervals: None,
        };
        let bag = FieldShape::Bag { table: "genre".into(), cardinality: groups as u32 + FIRST_VALUE, max_len: 2 };
        let mut interactions = Interactions { offsets: vec![0], ..Interactions::default() };
        let mut roles = Vec::new();
        let (mut history, mut genres) = (Ragged::default(), Ragged::default());
        for user in 0..users {
            for event in 0..events {
                let item = rng.below(items / groups) * groups + user % groups;
                interactions.items.push(item as u32);
                interactions.times.push(event as i64);
                interactions.weights.push(1.0);
                roles.push(match events - event {
                    1 => Role::Test,
                    2 => Role::Validation,
                    _ => Role::Train,
                });
            }
            interactions.offsets.push(interactions.items.len() as u64);
            history.push_row([]);
        }
        let codes =
            |n: usize, of: &dyn Fn(usize) -> usize| Column::Code((0..n).map(|i| of(i) as u32 + FIRST_VALUE).collect());
        for item in 0..items {
            genres.push_row([(item % groups) as u32 + FIRST_VALUE]);
        }
        TrainingSet {
            user_schema: schema(
                Side::User,
                vec![
                    ("city", code("city", users.div_ceil(groups))),
                    ("recent", sequence),
                    ("age", FieldShape::Dense { width: 2 }),
                ],
            ),
            item_schema: schema(Side::Item, vec![("id", code("item", items)), ("genres", bag)]),
            users: CodeBatch {
                columns: vec![
                    codes(users, &|u| u / groups),
                    Column::Ragged(history),
                    Column::Dense { width: 2, values: (0..users * 2).map(|_| rng.normal() as f32).collect() },
                ],
            },
            items: CodeBatch { columns: vec![codes(items, &|i| i), Column::Ragged(genres)] },
            item_codes: (0..items).map(|i| i as u32 + FIRST_VALUE).collect(),
            interactions,
            roles,
            known: Known::Earlier,
        }
    }

    #[test]
    fn assembled_rows_hold_the_last_items_before_the_moment_and_nothing_later() {
        let set = planted(6, 8, 2, 7);
        set.check().unwrap();
        let mut out = CodeBatch::empty(&set.user_schema);
        let windows = [set.window(0), set.window(14 + 2), set.after_all(5)];
        for _ in 0..2 {
            assemble(&set, &windows, &mut out);
            out.check(&set.user_schema).unwrap();
            let Column::Ragged(recent) = &out.columns[1] else { panic!("sequence columns are ragged") };
            let codes = |range: std::ops::Range<usize>| {
                set.interactions.items[range].iter().map(|i| i + FIRST_VALUE).collect::<Vec<u32>>()
            };
            assert!(recent.row(0).is_empty());
            assert_eq!(recent.row(1), codes(14..16));
            assert_eq!(recent.row(2), codes(38..42));
            let Column::Code(city) = &out.columns[0] else { panic!("cities are codes") };
            assert_eq!(*city, [FIRST_VALUE, FIRST_VALUE + 1, FIRST_VALUE + 2]);
        }
    }

    #[test]
    fn what_trains_is_known_where_events_were_drawn_from_its_midst() {
        let mut set = planted(2, 8, 2, 6);
        set.known = Known::Training;
        set.roles[6..].copy_from_slice(&[
            Role::Train,
            Role::Test,
            Role::Train,
            Role::Validation,
            Role::Train,
            Role::Unused,
        ]);
        let known = |window: Window| set.known(&window).collect::<Vec<_>>();
        assert_eq!(known(set.window(7)), [6, 8, 9, 10]);
        assert_eq!(known(set.window(8)), [6, 10]);
        assert_eq!(known(set.after_all(1)), [6, 8, 10]);
        assert_eq!(known(Window { user: 1, targets: 6..9, role: Role::Train }), [10]);
        let tests = Window { user: 1, targets: 7..12, role: Role::Test };
        assert_eq!((set.targets(&tests).collect::<Vec<_>>(), known(tests)), (vec![7], vec![6, 8, 9, 10]));
        assert_eq!(known(set.window(9)), [6, 8, 10]);
        let mut out = CodeBatch::empty(&set.user_schema);
        assemble(&set, &[set.window(7)], &mut out);
        let Column::Ragged(recent) = &out.columns[1] else { panic!("sequence columns are ragged") };
        assert_eq!(recent.row(0), [6, 8, 9, 10].map(|event| set.interactions.items[event] + FIRST_VALUE));
        // An item with a training event is not tested, and an item with two test events is tested once.
        set.interactions.items[6..].copy_from_slice(&[1, 3, 3, 5, 7, 5]);
        set.roles[11] = Role::Validation;
        assert_eq!(set.novel()[6..], [true, false, true, true, true, false]);
        // Nor is an item that validates.
        set.roles[11] = Role::Test;
        assert_eq!(set.novel()[6..], [true, false, true, true, true, false]);
    }

    #[test]
    fn an_event_is_novel_when_its_user_has_not_had_its_item_before() {
        let mut set = planted(2, 8, 2, 4);
        set.interactions.items = vec![3, 5, 3, 3, 5, 3, 1, 5];
        assert_eq!(set.novel(), [true, true, false, false, true, true, true, false]);
    }

    #[test]
    fn damaged_sets_are_refused() {
        let good = planted(6, 8, 2, 4);
        let damage: [fn(&mut TrainingSet); 6] = [
            |set| set.interactions.items[3] = 8,
            |set| set.interactions.weights[3] = f32::NAN,
            |set| set.interactions.offsets[2] = 1_000,
            |set| set.item_codes[1] = 1_000,
            |set| set.roles.fill(Role::Test),
            |set| set.interactions.offsets.truncate(3),
        ];
        for damage in damage {
            let mut set = good.clone();
            damage(&mut set);
            assert!(matches!(set.check(), Err(ModelError::Data { .. })));
        }
    }
}
