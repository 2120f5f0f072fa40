//! What a user must not get: items seen, the catalogue's allow and deny lists, and pairs by table.

use crate::columns::BATCH_ROWS;
use crate::config::ListTable;
use crate::dataset::History;
use crate::error::PipelineError;
use crate::id_index::IdIndex;
use crate::stage::Context;
use twotower_artifacts::{Fingerprint, Id, IdKind, Ids};
use twotower_index::Eligibility;
use twotower_tables::{ReadOptions, Table, TableBatch, id_column_as};

/// Everything that narrows what a user gets, in terms of catalogue rows.
pub struct Exclusion {
    /// Seen items by user, and the catalogue row of each item row of the history.
    seen: Option<(History, Vec<Option<u32>>)>,
    /// Distinct users of the exclusion table, and their catalogue rows.
    pairs: Option<(IdIndex, Vec<Vec<u32>>)>,
    allow: Option<Vec<bool>>,
    deny: Option<Vec<bool>>,
}

impl Exclusion {
    /// Fingerprints of all that narrows the results of a job.
    ///
    /// # Errors
    /// A table that cannot be opened.
    pub fn inputs(context: &Context) -> Result<Vec<(&'static str, Fingerprint)>, PipelineError> {
        let recall = &context.config.recall;
        let mut inputs = Vec::new();
        if recall.exclude_seen {
            inputs.push(("history", crate::infer::history_fingerprint(context)?));
        }
        for (name, source) in [
            ("allow", recall.allow.as_ref().map(|t| &t.source)),
            ("deny", recall.deny.as_ref().map(|t| &t.source)),
            ("exclusions", recall.exclusions.as_ref().map(|t| &t.source)),
        ] {
            if let Some(source) = source {
                inputs.push((name, Table::open(name, source)?.fingerprint()));
            }
        }
        Ok(inputs)
    }

    /// Reads the job's lists and tables against a catalogue.
    ///
    /// # Errors
    /// Any table error.
    pub fn load(
        context: &Context,
        history: Option<History>,
        users_kind: IdKind,
        catalogue: &IdIndex,
    ) -> Result<Self, PipelineError> {
        let recall = &context.config.recall;
        let seen = history.map(|history| {
            let rows = history.item_ids().iter().map(|id| catalogue.find(id)).collect();
            (history, rows)
        });
        let list = |name: &str, table: &Option<ListTable>| -> Result<Option<Vec<bool>>, PipelineError> {
            table.as_ref().map(|table| read_list(name, table, catalogue)).transpose()
        };
        let pairs = match &recall.exclusions {
            None => None,
            Some(spec) => {
                let table = Table::open("exclusions", &spec.source)?;
                let mut users = Ids::new(users_kind);
                let mut items = Ids::new(catalogue.ids().kind());
                read_batches(&table, &[&spec.user, &spec.item], |batch| {
                    let pairs = [(&mut users, &spec.user), (&mut items, &spec.item)];
                    for (ids, column) in pairs {
                        let batch = id_column_as(batch, column, ids.kind())?;
                        ids.extend_from(&batch, 0..batch.len());
                    }
                    Ok(())
                })?;
                let order = users.sorted_positions();
                let by_user = || order.chunk_by(|a, b| users.get(*a) == users.get(*b));
                let lists =
                    by_user().map(|same| same.iter().filter_map(|r| catalogue.find(items.get(*r))).collect()).collect();
                let mut distinct = Ids::new(users_kind);
                distinct.extend_from(&users, by_user().map(|same| same[0]));
                let distinct = IdIndex::new(distinct).map_err(|_| {
                    PipelineError::Data(
                        "exclusions: a user stands twice after grouping; please report this as a bug".into(),
                    )
                })?;
                Some((distinct, lists))
            }
        };
        Ok(Self { seen, pairs, allow: list("allow", &recall.allow)?, deny: list("deny", &recall.deny)? })
    }

    /// The catalogue rows that may be returned to anybody.
    pub fn eligible(&self, catalogue: &IdIndex) -> Eligibility {
        let listed =
            |list: &Option<Vec<bool>>, row: u32, absent: bool| list.as_ref().map_or(absent, |l| l[row as usize]);
        Eligibility::filter(catalogue.ids().len(), |row| {
            listed(&self.allow, row, true) && !listed(&self.deny, row, false)
        })
    }

    /// Catalogue rows excluded for a user, ascending.
    pub fn rows(&self, user: Id<'_>) -> Vec<u32> {
        let mut rows: Vec<u32> = Vec::new();
        if let Some((history, catalogue_rows)) = &self.seen {
            rows.extend(history.items(user).iter().filter_map(|item| catalogue_rows[*item as usize]));
        }
        if let Some((users, lists)) = &self.pairs
            && let Some(user) = users.find(user)
        {
            rows.extend_from_slice(&lists[user as usize]);
        }
        rows.sort_unstable();
        rows.dedup();
        rows
    }
}

fn read_list(name: &str, spec: &ListTable, catalogue: &IdIndex) -> Result<Vec<bool>, PipelineError> {
    let table = Table::open(name, &spec.source)?;
    let (mut listed, mut strangers) = (vec![false; catalogue.ids().len()], 0u64);
    read_batches(&table, &[&spec.item], |batch| {
        for id in id_column_as(batch, &spec.item, catalogue.ids().kind())?.iter() {
            match catalogue.find(id) {
                Some(at) => listed[at as usize] = true,
                None => strangers += 1,
            }
        }
        Ok(())
    })?;
    if strangers > 0 {
        tracing::warn!("recall: {name}: {strangers} ids are not in the catalogue");
    }
    Ok(listed)
}

fn read_batches(
    table: &Table,
    wanted: &[&String],
    mut take: impl FnMut(&TableBatch) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let wanted: Vec<String> = wanted.iter().map(|c| c.to_string()).collect();
    let options = ReadOptions { columns: &wanted, rows: 0..table.rows()?, batch_rows: BATCH_ROWS };
    for batch in table.read(options)? {
        take(&batch?)?;
    }
    Ok(())
}
