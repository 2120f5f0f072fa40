//! Interactions on their way to training: read into one form, with times that make sense, then joined to encoded users
//! and items.

use crate::config::{EncodeSettings, InteractionTable};
use crate::error::PipelineError;
use crate::rows::bad_rows::{readable_ids, sift};
use crate::rows::columns::{StagedTable, read_batches, weight_column};
use crate::rows::quarantine::{INTERACTIONS, QuarantineWriter};
use crate::rows::times::{EventTimes, TimeSpan};
use crate::stages::Context;
use crate::watch::limits::check_query_room;
use arrow_array::{ArrayRef, Float32Array, Int64Array, RecordBatch};
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::{IdKind, Ids, Interactions};
use twotower_queries::{EventCounts, Identity, STAGED, Strangers, distinct_users, join_events};
use twotower_tables::{Table, TableBatch};

/// The usable rows of the interactions table, in the one form that the queries read.
pub struct StagedInteractions {
    staged: StagedTable,
    identity: Identity,
    times: Option<TimeSpan>,
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
        let wanted: Vec<String> =
            [Some(&spec.user), Some(&spec.item), spec.times.timestamp.as_ref(), spec.weight.as_ref()]
                .into_iter()
                .flatten()
                .cloned()
                .collect();
        let mut bar = context.progress.bar("read positives", total, "rows");
        let mut staged = StagedTable::beside(&dir.join("interactions"))?;
        let mut times = EventTimes::open(table, &spec.times)?;
        for batch in read_batches("encode-features", table, &wanted, 0..total, &context.cancel)? {
            let batch = batch?;
            bar.advance(batch.batch.num_rows() as u64);
            let (good, bad) = sift(&batch, &spec.user, |rows| Rows::of(spec, &times, rows, users, items))?;
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
        let (_, times) = times.finish()?;
        staged.finish()?;
        let identity = if spec.times.timestamp.is_some() { Identity::SameTime } else { Identity::SamePair };
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
        self.times.clone()
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

/// Columns of rows of the interactions table.
struct Rows {
    users: ArrayRef,
    items: ArrayRef,
    times: Int64Array,
    weights: Float32Array,
    positions: Int64Array,
}

impl Rows {
    fn of(
        spec: &InteractionTable,
        times: &EventTimes,
        batch: &TableBatch,
        users: IdKind,
        items: IdKind,
    ) -> Result<Self, PipelineError> {
        let id = |column: &str, kind: IdKind| -> Result<ArrayRef, PipelineError> {
            let ids = readable_ids(batch, column, kind)?;
            Ok(ids.to_array(0..ids.len()))
        };
        let n = batch.batch.num_rows();
        let positions = Int64Array::from_iter_values((0..n as i64).map(|r| batch.first_row as i64 + r));
        Ok(Self {
            users: id(&spec.user, users)?,
            items: id(&spec.item, items)?,
            times: times.read(batch)?,
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
