//! Interactions on their way to training: read into one form, with times that make sense, then joined to encoded users
//! and items.

use crate::config::{EncodeSettings, InteractionTable};
use crate::error::PipelineError;
use crate::rows::bad_rows::{readable_ids, sift};
use crate::rows::columns::{Clock, StagedTable, TimeRange, read_batches, timestamp_column, weight_column};
use crate::rows::quarantine::{INTERACTIONS, QuarantineWriter};
use crate::stages::Context;
use crate::watch::limits::check_query_room;
use arrow_array::{ArrayRef, Float32Array, Int64Array, RecordBatch};
use serde::Serialize;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::{IdKind, Ids, Interactions};
use twotower_queries::{EventCounts, Identity, STAGED, Strangers, distinct_users, join_events};
use twotower_tables::{Table, TableBatch};

/// The usable rows of the interactions table, in the one form that the queries read.
pub struct StagedInteractions {
    staged: StagedTable,
    identity: Identity,
    times: Times,
}

impl StagedInteractions {
    /// Reads the table, for users and items with ids of these kinds; rows that cannot be used are set `aside`.
    ///
    /// # Errors
    /// Any table error; more bad rows than may be, or nothing else; times that count in unlike units.
    pub fn read(
        context: &Context<EncodeSettings>,
        dir: &Path,
        table: &Table,
        (users, items): (IdKind, IdKind),
        aside: &mut QuarantineWriter<'_>,
    ) -> Result<Self, PipelineError> {
        let total = table.require_rows()?;
        let spec = &context.config.tables.interactions;
        let wanted: Vec<String> = [Some(&spec.user), Some(&spec.item), spec.timestamp.as_ref(), spec.weight.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let mut bar = context.progress.bar("read positives", total, "rows");
        let mut staged = StagedTable::beside(&dir.join("interactions"))?;
        let clock = spec.timestamp.as_ref().map(|column| table.column(column)).transpose()?;
        let mut times = Times::new(clock.and_then(|column| Clock::of(&column.data_type)));
        for batch in read_batches("encode-features", table, &wanted, 0..total, &context.cancel)? {
            let batch = batch?;
            bar.advance(batch.batch.num_rows() as u64);
            let (good, bad) = sift(&batch, &spec.user, |rows| Rows::of(spec, rows, users, items))?;
            for (batch, rows) in good {
                times.add(batch.first_row, rows.times.values());
                staged.write(&rows.into_batch()?)?;
            }
            aside.add(total, bad)?;
        }
        aside.end(INTERACTIONS, total)?;
        if aside.count(INTERACTIONS) == total {
            return Err(PipelineError::Data(format!(
                "{INTERACTIONS}: none of {total} rows can be used; set `encode.max_bad_rows` below 1 to see why the first cannot"
            )));
        }
        times.check(spec)?;
        staged.finish()?;
        let identity = if spec.timestamp.is_some() { Identity::SameTime } else { Identity::SamePair };
        Ok(Self { staged, identity, times })
    }

    /// The distinct users, of ids of this kind, in no particular order.
    ///
    /// # Errors
    /// Those of the query.
    pub fn users(&self, context: &Context<EncodeSettings>, kind: IdKind) -> Result<Ids, PipelineError> {
        check_query_room()?;
        context.during("a query of the interactions", || distinct_users(self.staged.path(), kind)).map_err(Into::into)
    }

    /// The first and the last time, and their unit; none where the table has no times.
    pub fn times(&self) -> Option<TimeSpan> {
        let Times { clock, first, last, .. } = &self.times;
        clock.map(|clock| TimeSpan { first: *first, last: *last, unit: clock.unit() })
    }

    /// The events of known users and items, by user and in time order; removes what was staged. Where there are none,
    /// the message shows an id that the interactions name beside one of the table's, `first_user` of the users'.
    ///
    /// # Errors
    /// Those of the query; [`PipelineError::Data`] when no row names both a user and an item that are known.
    pub fn join(
        self,
        context: &Context<EncodeSettings>,
        users: &Ids,
        items: &Ids,
        first_user: impl FnOnce() -> Option<String>,
    ) -> Result<(Interactions, EventCounts), PipelineError> {
        let join = || join_events(self.staged.path(), users, items, self.identity);
        let (events, counts) = context.during("a join of the interactions", join)?;
        // Before the manifest: beside an output that is complete, nobody looks for leftovers.
        self.staged.remove()?;
        if events.is_empty() {
            let example = |table: &str, found: &Strangers, known: Option<String>| {
                let known = known.map_or(String::new(), |id| format!(", which has {id}"));
                found.example.as_ref().map(|id| format!("{id} is not in `{table}`{known}"))
            };
            let examples = [
                example("users", &counts.unknown_users, first_user()),
                example("items", &counts.unknown_items, items.iter().next().map(|id| id.quoted())),
            ];
            let examples: Vec<String> = examples.into_iter().flatten().collect();
            return Err(PipelineError::Data(format!(
                "{INTERACTIONS}: none of {} rows names both a user of `users` and an item of `items` ({}; ids are compared byte by byte); check `tables.interactions.user` and `.item`",
                counts.rows,
                examples.join("; ")
            )));
        }
        Ok((events, counts))
    }
}

/// When the events of a table were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimeSpan {
    /// The first time.
    pub first: i64,
    /// The last time.
    pub last: i64,
    /// What both count since 1970; null for integers, of which it is not known.
    pub unit: Option<&'static str>,
}

/// Columns of rows of the interactions table.
struct Rows {
    users: ArrayRef,
    items: ArrayRef,
    times: Int64Array,
    weights: Float32Array,
    positions: Int64Array,
}

impl Rows {
    fn of(spec: &InteractionTable, batch: &TableBatch, users: IdKind, items: IdKind) -> Result<Self, PipelineError> {
        let id = |column: &str, kind: IdKind| -> Result<ArrayRef, PipelineError> {
            let ids = readable_ids(batch, column, kind)?;
            Ok(ids.to_array(0..ids.len()))
        };
        let n = batch.batch.num_rows();
        let positions = Int64Array::from_iter_values((0..n as i64).map(|r| batch.first_row as i64 + r));
        let range = TimeRange { earliest: spec.earliest, latest: spec.latest };
        Ok(Self {
            users: id(&spec.user, users)?,
            items: id(&spec.item, items)?,
            times: match &spec.timestamp {
                Some(column) => timestamp_column(batch, column, &range)?,
                None => positions.clone(),
            },
            weights: match &spec.weight {
                Some(column) => weight_column(batch, column)?,
                None => Float32Array::from(vec![1.0; n]),
            },
            positions,
        })
    }

    /// The staged form.
    fn into_batch(self) -> Result<RecordBatch, PipelineError> {
        let arrays: [ArrayRef; 5] =
            [self.users, self.items, Arc::new(self.times), Arc::new(self.weights), Arc::new(self.positions)];
        RecordBatch::try_from_iter(STAGED.into_iter().zip(arrays))
            .map_err(|e| PipelineError::Data(format!("stage interactions: {e}")))
    }
}

/// A unit of times, in words, and the years 1990 to 2100 in it since 1970. No time is within two of these ranges.
type Unit = (&'static str, RangeInclusive<i64>);

const UNITS: [Unit; 4] = [
    ("seconds", 631_152_000..=4_102_444_800),
    ("milliseconds", 631_152_000_000..=4_102_444_800_000),
    ("microseconds", 631_152_000_000_000..=4_102_444_800_000_000),
    ("nanoseconds", 631_152_000_000_000_000..=4_102_444_800_000_000_000),
];

/// Times that read as those of our years in one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reading {
    count: u64,
    /// Row of the table and time of the first.
    first: (u64, i64),
}

/// What the times of a table look like.
struct Times {
    /// None where the table has none.
    clock: Option<Clock>,
    first: i64,
    last: i64,
    /// By unit.
    readings: [Reading; UNITS.len()],
}

impl Times {
    fn new(clock: Option<Clock>) -> Self {
        Self { clock, first: i64::MAX, last: i64::MIN, readings: Default::default() }
    }

    /// Adds the times of rows from `first_row` on.
    fn add(&mut self, first_row: u64, times: &[i64]) {
        for time in times {
            self.first = self.first.min(*time);
            self.last = self.last.max(*time);
        }
        if self.clock != Some(Clock::Unknown) {
            return;
        }
        for (reading, (_, range)) in self.readings.iter_mut().zip(UNITS) {
            let found = times.iter().filter(|time| range.contains(time)).count() as u64;
            if reading.count == 0
                && let Some(row) = times.iter().position(|time| range.contains(time))
            {
                reading.first = (first_row + row as u64, times[row]);
            }
            reading.count += found;
        }
    }

    /// Refuses integers that read as our years in more than one unit: sorted by them, events of one unit would all come
    /// after those of the other. Limits on both sides say that the operator knows better.
    fn check(&self, spec: &InteractionTable) -> Result<(), PipelineError> {
        let found: Vec<String> = self
            .readings
            .iter()
            .zip(UNITS)
            .filter(|(reading, _)| reading.count > 0)
            .map(|(Reading { count, first: (row, time) }, (unit, _))| {
                format!("{count} as {unit} since 1970 (such as {time} in row {row})")
            })
            .collect();
        if found.len() < 2 || spec.earliest.is_some() && spec.latest.is_some() {
            return Ok(());
        }
        let column = spec.timestamp.as_deref().unwrap_or_default();
        Err(PipelineError::Data(format!(
            "{INTERACTIONS}: column `{column}`: of its times, within the years 1990 to 2100, read {}; times of one column need one unit: mend the table, or set `tables.interactions.earliest` and `.latest` to the first and the last right time, so that others are set aside as bad rows",
            found.join(" and ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_one_unit_pass_and_those_in_two_are_refused_with_a_row_of_each() {
        let spec: InteractionTable =
            serde_json::from_value(serde_json::json!({ "path": "x.csv", "user": "u", "item": "i", "timestamp": "ts" }))
                .unwrap();
        let of = |times: &[i64]| {
            let mut found = Times::new(Some(Clock::Unknown));
            found.add(100, times);
            found
        };
        for good in [
            &[1_700_000_000, 0, 1, 1_700_000_001][..],
            &[1_700_000_000_000, 5],
            &[20_260_101_120_000, 20_251_231_235_959],
            &[20_454, 20_455],
        ] {
            of(good).check(&spec).unwrap();
        }
        let mixed = of(&[7, 1_700_000_000, 1_700_000_000_000, 1_700_000_000_001]);
        let error = mixed.check(&spec).unwrap_err().to_string();
        for says in [
            "column `ts`",
            "1 as seconds since 1970 (such as 1700000000 in row 101)",
            "2 as milliseconds since 1970 (such as 1700000000000 in row 102)",
        ] {
            assert!(error.contains(says), "{error}");
        }
        let limited = InteractionTable { earliest: Some(0), latest: Some(i64::MAX), ..spec.clone() };
        mixed.check(&limited).unwrap();
        // A column that says its unit has no other.
        let mut known = Times::new(Clock::of(&arrow_schema::DataType::Date64));
        known.add(0, &[1_700_000_000, 1_700_000_000_000]);
        known.check(&spec).unwrap();
        assert_eq!((known.first, known.last), (1_700_000_000, 1_700_000_000_000));
    }

    #[test]
    fn no_time_is_of_our_years_in_two_units() {
        for pair in UNITS.windows(2) {
            assert!(pair[0].1.end() < pair[1].1.start());
        }
    }
}
