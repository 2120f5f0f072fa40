//! The items table as `encode-features` holds it: whole, without the rows that cannot be used.

use crate::config::EncodeSettings;
use crate::error::PipelineError;
use crate::rows::bad_rows::{BadRow, readable_ids, sift, split_around};
use crate::rows::columns::read_batches;
use crate::rows::id_index::IdIndex;
use crate::rows::quarantine::QuarantineWriter;
use crate::rows::side_files::read_columns;
use crate::run::names::tables::ITEMS;
use crate::stages::Context;
use twotower_artifacts::{IdKind, Ids, Side};
use twotower_encoders::SideSpec;
use twotower_tables::{Table, TableBatch, id_kind};

/// Items read whole; their encoded rows are in id order.
pub struct ItemTable {
    /// Ascending.
    pub ids: IdIndex,
    /// Of each id, the position of its row among those of `batches`.
    pub order: Vec<usize>,
    /// The rows that can be used, in the order of the table.
    pub batches: Vec<TableBatch>,
}

impl ItemTable {
    /// Reads all items. Rows that cannot be used are set `aside`: those whose id or vectors make no sense, and of several
    /// rows with one id all but the first.
    ///
    /// # Errors
    /// Any table error; more such rows than may be, or no other ones.
    pub fn read(
        context: &Context<EncodeSettings>,
        table: &Table,
        aside: &mut QuarantineWriter<'_>,
    ) -> Result<Self, PipelineError> {
        let total = table.require_rows()?;
        let spec = context.config.side(Side::Item);
        let id = &spec.id_column;
        let kind = id_kind(table, id)?;
        let mut found = Rows { ids: Ids::new(kind), batches: Vec::new() };
        for batch in read_batches("encode-features", table, &read_columns(&spec), 0..total, &context.cancel)? {
            let (good, bad) = sift(&batch?, id, |rows| check(rows, &spec, kind))?;
            aside.add(total, bad)?;
            good.into_iter().for_each(|(rows, ids)| found.add(rows, &ids));
        }
        let mut order = found.ids.sorted_positions();
        let repeated = found.repeated(&order, id, table);
        if !repeated.is_empty() {
            found = found.without(&repeated);
            order = found.ids.sorted_positions();
            aside.add(total, repeated)?;
        }
        aside.end(ITEMS, total)?;
        if order.is_empty() {
            return Err(PipelineError::Data(format!(
                "{ITEMS}: none of {total} rows can be used; name the column of their ids in `tables.items.id`"
            )));
        }
        let mut ids = Ids::new(kind);
        ids.extend_from(&found.ids, order.iter().copied());
        let ids = IdIndex::new(ids).map_err(|_| {
            PipelineError::Data(format!("{ITEMS}: an id stands twice among distinct ones; please report this as a bug"))
        })?;
        Ok(Self { ids, order, batches: found.batches })
    }
}

/// The ids of rows. Refuses rows whose id or vectors make no sense.
fn check(batch: &TableBatch, spec: &SideSpec, kind: IdKind) -> Result<Ids, PipelineError> {
    let ids = readable_ids(batch, &spec.id_column, kind)?;
    let checked = spec.check_vectors(Side::Item, &batch.batch);
    checked.map(|()| ids).map_err(|e| e.with_first_row(batch.row_in_file).into())
}

/// Rows of the table, and their ids.
struct Rows {
    ids: Ids,
    batches: Vec<TableBatch>,
}

impl Rows {
    fn add(&mut self, batch: TableBatch, ids: &Ids) {
        self.ids.extend_from(ids, 0..ids.len());
        self.batches.push(batch);
    }

    /// The batch of the row at a position, and the row's number there.
    fn find(&self, position: usize) -> Option<(&TableBatch, usize)> {
        let mut start = 0;
        self.batches.iter().find_map(|batch| {
            let row = position.checked_sub(start)?;
            start += batch.batch.num_rows();
            (row < batch.batch.num_rows()).then_some((batch, row))
        })
    }

    /// Where the row at a position stands.
    fn place(&self, position: usize, table: &Table) -> String {
        let of = |batch: &TableBatch| match table.paths().len() {
            1 => String::new(),
            _ => format!(" of {}", batch.path().display()),
        };
        self.find(position).map_or(String::new(), |(batch, row)| format!("{}{}", batch.place(row), of(batch)))
    }

    /// The rows whose id stands in an earlier one, in the order of the table; `order` is that of the ids, and of equal
    /// ones that of the table.
    fn repeated(&self, order: &[usize], id: &str, table: &Table) -> Vec<BadRow> {
        let (mut first, mut repeated) = (0, Vec::new());
        for (at, position) in order.iter().enumerate() {
            if self.ids.get(order[first]) != self.ids.get(*position) {
                first = at;
            } else if first < at {
                repeated.push((*position, order[first]));
            }
        }
        repeated.sort_unstable();
        let bad = repeated.into_iter().filter_map(|(position, first)| {
            let (batch, row) = self.find(position)?;
            let place = self.place(first, table);
            let reason = format!("column `{id}`: the id stands in {place} already; ids must be unique");
            Some(BadRow::new(batch, row, id, &reason))
        });
        bad.collect()
    }

    /// The rows without those that are `bad`, in the order of the table.
    fn without(self, bad: &[BadRow]) -> Self {
        let mut left = Self { ids: Ids::new(self.ids.kind()), batches: Vec::new() };
        let (mut bad, mut start) = (bad.iter().map(|bad| bad.row).peekable(), 0);
        for batch in self.batches {
            let end = batch.first_row + batch.batch.num_rows() as u64;
            let within: Vec<u64> = std::iter::from_fn(|| bad.next_if(|row| *row < end)).collect();
            for good in split_around(&batch, within) {
                let from = start + (good.first_row - batch.first_row) as usize;
                left.ids.extend_from(&self.ids, from..from + good.batch.num_rows());
                left.batches.push(good);
            }
            start += batch.batch.num_rows();
        }
        left
    }
}
