//! The interactions table, read once a night: its usable rows become the events of the timeline.

use crate::config::{EncodeSettings, InteractionTable};
use crate::error::PipelineError;
use crate::rows::bad_rows::{BadRow, readable_ids, sift};
use crate::rows::columns::{read_batches, weight_column};
use crate::rows::id_filter::IdFilter;
use crate::rows::id_index::IdIndex;
use crate::rows::partitions::BUFFERED_EACH;
use crate::rows::quarantine::QuarantineWriter;
use crate::rows::strangers::{self, COMPARED, SomeIds, ids_of};
use crate::rows::times::{EventTimes, TimeSpan};
use crate::run::names::tables::INTERACTIONS;
use crate::stages::Context;
use crate::stream::distinct::{DistinctSketch, pair_hash};
use crate::stream::{Width, ordered};
use crate::timeline::builder::{EventRow, TimelineBuilder, TimelineCounts, TimelineFile};
use crate::timeline::counts::PairCounts;
use crate::watch::cancel::Cancel;
use arrow_array::{Float32Array, Int64Array};
use std::ops::Range;
use std::path::Path;
use twotower_artifacts::keyed::{Identity, IdentityKey, hash_id};
use twotower_artifacts::{Clock, Id, IdKind, Ids, TimelineInfo};
use twotower_tables::{Table, TableBatch};

/// Bytes held from when the interactions are read until they are sorted, at the most: records that wait to be written,
/// and the filter of users.
pub(crate) const BYTES: u64 = 2 * BUFFERED_EACH as u64 + IdFilter::MOST_BYTES;

/// Ids of unknown items that are kept, to tell how they differ from those known.
const STRANGERS: usize = 1000;

/// Rows with an id that the other table does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strangers {
    /// How many.
    pub rows: u64,
    /// The id of the first of them, one of the other table, and how they are likely to differ.
    pub told: Option<String>,
}

/// How many interactions became events and why the others did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Rows that can be used.
    pub rows: u64,
    /// Events of known users and items, each once.
    pub kept: u64,
    /// Further rows of an event that is kept.
    pub repeated: u64,
    /// Rows whose item is not in the items table.
    pub unknown_items: Strangers,
    /// Rows whose user is not in the users table; their item may be unknown as well.
    pub unknown_users: Strangers,
}

/// The usable rows of the interactions table, on their way into a timeline.
pub struct Interactions<'a> {
    table: &'a Table,
    spec: &'a InteractionTable,
    /// Kind of the users' ids.
    kind: IdKind,
    key: IdentityKey,
    clock: Clock,
    span: Option<TimeSpan>,
    builder: TimelineBuilder,
    /// The users that the table names, and some others.
    users: IdFilter,
    counts: PairCounts,
    /// Some ids of items that are not known.
    unknown_items: SomeIds,
}

/// The events of a night.
pub struct Events {
    /// The timeline of all users.
    pub timeline: TimelineFile,
    /// What became of the rows.
    pub counts: EventCounts,
    /// Pairs of users and items, for those who exclude what was seen.
    pub pairs: PairCounts,
    /// What times count.
    pub clock: Clock,
    /// The first and the last time; none where the table has no times.
    pub span: Option<TimeSpan>,
}

/// What a worker makes of a batch.
struct ReadRows {
    rows: usize,
    /// First row and times of each stretch of rows that can be used.
    times: Vec<(u64, Int64Array)>,
    events: Vec<EventRow>,
    /// Hashes of the users' ids.
    users: Vec<u64>,
    /// Hashes of pairs with a known item.
    pairs: DistinctSketch,
    unknown_items: u64,
    some_unknown: SomeIds,
    example: Option<(String, String)>,
    bad: Vec<BadRow>,
}

/// How many of the first `rows` rows of a table there are, and those that cannot be used, where users and items have ids
/// of these kinds.
///
/// # Errors
/// Any table error that no row alone is to blame for.
pub(crate) fn bad_rows(
    table: &Table,
    spec: &InteractionTable,
    (users, items): (IdKind, IdKind),
    rows: u64,
) -> Result<(u64, Vec<BadRow>), PipelineError> {
    let times = EventTimes::open(table, &spec.times)?;
    let (mut all, mut found) = (0, Vec::new());
    for batch in read_batches("init", table, &columns(spec), 0..rows, &Cancel::default())? {
        let batch = batch?;
        let (_, bad) = sift(&batch, &spec.user, |rows| Columns::of(rows, spec, &times, users, items))?;
        all += batch.batch.num_rows() as u64;
        found.extend(bad);
    }
    Ok((all, found))
}

/// The columns that are read.
fn columns(spec: &InteractionTable) -> Vec<String> {
    let columns = [Some(&spec.user), Some(&spec.item), spec.times.timestamp.as_ref(), spec.weight.as_ref()];
    columns.into_iter().flatten().cloned().collect()
}

impl<'a> Interactions<'a> {
    /// Reads the table; rows that cannot be used are set `aside`. Temporary files go to `dir`.
    ///
    /// # Memory
    /// [`BYTES`] and some batches, whatever the number of rows.
    ///
    /// # Errors
    /// Any table error; more bad rows than may be, or nothing else; times that count in unlike units; I/O.
    pub fn read(
        context: &'a Context<EncodeSettings>,
        dir: &Path,
        table: &'a Table,
        (kind, items): (IdKind, &IdIndex),
        key: IdentityKey,
        aside: &mut QuarantineWriter<'_>,
    ) -> Result<Self, PipelineError> {
        let total = table.rows()?;
        let spec = &context.config.tables.interactions;
        let columns = columns(spec);
        let mut bar = context.progress.bar("read interactions", total, "rows");
        let (times, mut seen_times) = (EventTimes::open(table, &spec.times)?, EventTimes::open(table, &spec.times)?);
        let mut builder = TimelineBuilder::new(dir, total);
        let (mut users, mut counts, mut unknown_items) =
            (IdFilter::new(total), PairCounts::default(), SomeIds::default());
        let workers = context.execution.workers;
        ordered(
            "encode-features",
            Width { workers, in_flight: workers + 1 },
            &context.cancel,
            read_batches("encode-features", table, &columns, 0..total, &context.cancel)?,
            || Ok(|batch: TableBatch| ReadRows::of(&batch, spec, &times, (kind, items), key)),
            |read: ReadRows| {
                bar.advance(read.rows as u64);
                read.times.iter().for_each(|(first, times)| seen_times.add(*first, times.values()));
                read.events.iter().try_for_each(|event| builder.add_event(event))?;
                read.users.iter().for_each(|hash| users.add(*hash));
                counts.rows += read.rows as u64;
                counts.unreadable += read.bad.len() as u64;
                counts.unknown_items += read.unknown_items;
                counts.some_pairs.merge(&read.pairs);
                counts.example = counts.example.take().or(read.example);
                unknown_items.merge(read.some_unknown, STRANGERS);
                aside.add(total, read.bad)
            },
        )?;
        aside.end(INTERACTIONS, total)?;
        if total > 0 && aside.count(INTERACTIONS) == total {
            return Err(PipelineError::Data(format!(
                "{INTERACTIONS}: none of {total} rows can be used; set `encode.max_bad_rows` below 1 to see why the first cannot"
            )));
        }
        let (clock, span) = seen_times.finish()?;
        counts.times = span.as_ref().map(|span| (span.first, span.last));
        counts.unit = clock.unit();
        Ok(Self { table, spec, kind, key, clock, span, builder, users, counts, unknown_items })
    }

    /// The key of the users' identities.
    pub fn key(&self) -> IdentityKey {
        self.key
    }

    /// What times count.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Rows that can be used.
    pub fn usable_rows(&self) -> u64 {
        self.counts.rows - self.counts.unreadable
    }

    /// The users that may have events, by the hash of their id; handed out once.
    pub fn take_users(&mut self) -> IdFilter {
        std::mem::replace(&mut self.users, IdFilter::new(0))
    }

    /// Adds rows of the users table, those of users who may have events.
    ///
    /// # Errors
    /// [`PipelineError::Io`] when a temporary file cannot be written.
    pub fn add_users(&mut self, users: &[(Identity, u64)]) -> Result<(), PipelineError> {
        users.iter().try_for_each(|(identity, row)| self.builder.add_user(*identity, *row))
    }

    /// Writes the timeline of a table of `users` with so many rows, under `path`. For a run that trains, the rows of the users
    /// who have events are kept.
    ///
    /// # Errors
    /// I/O; a signal.
    pub fn finish(
        self,
        context: &Context<EncodeSettings>,
        path: &Path,
        (users_table, rows): (&Table, u64),
        items: &Ids,
        trains: bool,
    ) -> Result<Events, PipelineError> {
        let Self { table, spec, kind, key, clock, span, builder, mut counts, unknown_items, .. } = self;
        let info = TimelineInfo { table_rows: rows, items: items.len() as u64, clock, key };
        let stop = || context.cancel.check("encode-features");
        let timeline = context.during("writing the timeline", || builder.finish(path, info, trains, stop))?;
        let TimelineCounts { events, repeated, pairs, users, stranger_rows, first_stranger } = timeline.counts;
        (counts.pairs, counts.users) = (pairs, users);
        let of_interactions = |rows: Range<u64>| ids_of(table, &spec.user, kind, rows, &context.cancel);
        let told_users = first_stranger.and_then(|row| {
            let (column, rows) = (&context.config.tables.users.id, 0..COMPARED as u64);
            let known = ids_of(users_table, column, kind, rows, &context.cancel);
            let mut strangers = of_interactions(row..row + 1);
            if events == 0 {
                strangers.merge(of_interactions(0..COMPARED as u64), COMPARED);
            }
            strangers::told(&strangers, "users", &known)
        });
        let told_items = strangers::told(&unknown_items, "items", &SomeIds::of(items));
        let told: Vec<&str> = told_users.iter().chain(&told_items).map(String::as_str).collect();
        counts.strangers = (!told.is_empty()).then(|| told.join("; "));
        counts.strange_items = told_items.clone();
        let counted = EventCounts {
            rows: counts.rows - counts.unreadable,
            kept: events,
            repeated,
            unknown_items: Strangers { rows: counts.unknown_items, told: told_items },
            unknown_users: Strangers { rows: stranger_rows, told: told_users },
        };
        Ok(Events { timeline, counts: counted, pairs: counts, clock, span })
    }
}

impl Events {
    /// Refuses interactions if none of them names both a known user and a known item. The message shows an id from them
    /// beside one from the table where it should stand, and how they are likely to differ.
    ///
    /// # Errors
    /// [`PipelineError::Data`].
    pub fn require_some(&self) -> Result<(), PipelineError> {
        if self.counts.kept > 0 {
            return Ok(());
        }
        let told = [&self.counts.unknown_users, &self.counts.unknown_items].into_iter().flat_map(|found| &found.told);
        Err(PipelineError::Data(format!(
            "{INTERACTIONS}: none of {} rows names both a user of `users` and an item of `items`: {}; check `tables.interactions.user` and `.item`",
            self.counts.rows,
            told.map(String::as_str).collect::<Vec<_>>().join("; ")
        )))
    }
}

/// Columns of rows that can be used.
struct Columns {
    users: Ids,
    items: Ids,
    times: Int64Array,
    weights: Float32Array,
}

impl Columns {
    fn of(
        batch: &TableBatch,
        spec: &InteractionTable,
        times: &EventTimes,
        users: IdKind,
        items: IdKind,
    ) -> Result<Self, PipelineError> {
        Ok(Self {
            users: readable_ids(batch, &spec.user, users)?,
            items: readable_ids(batch, &spec.item, items)?,
            times: times.read(batch)?,
            weights: match &spec.weight {
                Some(column) => weight_column(batch, column)?,
                None => Float32Array::from(vec![1.0; batch.batch.num_rows()]),
            },
        })
    }
}

impl ReadRows {
    fn of(
        batch: &TableBatch,
        spec: &InteractionTable,
        times: &EventTimes,
        (kind, items): (IdKind, &IdIndex),
        key: IdentityKey,
    ) -> Result<Self, PipelineError> {
        let rows = batch.batch.num_rows();
        let (good, bad) = sift(batch, &spec.user, |rows| Columns::of(rows, spec, times, kind, items.ids().kind()))?;
        let mut read = Self {
            rows,
            times: Vec::new(),
            events: Vec::with_capacity(rows),
            users: Vec::with_capacity(rows),
            pairs: DistinctSketch::default(),
            unknown_items: 0,
            some_unknown: SomeIds::default(),
            example: None,
            bad,
        };
        let timed = spec.times.timestamp.is_some();
        for (stretch, columns) in good {
            for (row, (user, item)) in columns.users.iter().zip(columns.items.iter()).enumerate() {
                let at = items.find(item);
                read.events.push(EventRow {
                    user: key.identity(user),
                    item: at,
                    time: if timed { columns.times.value(row) } else { 0 },
                    position: stretch.first_row + row as u64,
                    weight: columns.weights.value(row),
                });
                read.users.push(hash_id(user));
                match at {
                    Some(_) => read.pairs.add(pair_hash(user, item)),
                    None => {
                        read.unknown_items += 1;
                        read.some_unknown.add(item, STRANGERS);
                    }
                }
            }
            if read.example.is_none() && !columns.users.is_empty() {
                let quoted = |ids: &Ids| -> String { Id::quoted(&ids.get(0)) };
                read.example = Some((quoted(&columns.users), quoted(&columns.items)));
            }
            read.times.push((stretch.first_row, columns.times));
        }
        Ok(read)
    }
}
