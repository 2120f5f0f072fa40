//! What a user must not get: items seen, the catalogue's allow and deny lists, and pairs by table.

use crate::bad_rows::{readable_ids, sift};
use crate::columns::read_batches;
use crate::config::{ListTable, RecallSettings};
use crate::error::PipelineError;
use crate::id_index::IdIndex;
use crate::pair_store::{PairStore, PairStoreBuilder};
use crate::quarantine::INTERACTIONS;
use crate::stage::Context;
use std::path::Path;
use twotower_artifacts::{Fingerprint, Id, IdKind, Ids};
use twotower_index::Eligibility;
use twotower_tables::{Table, TableBatch, TableSpec, id_column_as};

/// Everything that narrows what a user gets, in terms of catalogue rows.
pub struct Exclusion {
    /// Items seen, and the pairs of the exclusion table.
    pairs: Option<PairStore>,
    allow: Option<Vec<bool>>,
    deny: Option<Vec<bool>>,
    warning: Option<String>,
}

/// A table of pairs not to retrieve: its name, source, and columns of users and items.
type Pairs<'a> = (&'static str, &'a TableSpec, &'a String, &'a String);

/// The tables of pairs that a job excludes.
fn pair_tables(config: &RecallSettings) -> Vec<Pairs<'_>> {
    let RecallSettings { seen, recall, .. } = config;
    let seen = seen.as_ref().map(|t| (INTERACTIONS, &t.source, &t.user, &t.item));
    let listed = recall.exclusions.as_ref().map(|t| ("exclusions", &t.source, &t.user, &t.item));
    seen.into_iter().chain(listed).collect()
}

impl Exclusion {
    /// Fingerprints of all that narrows the results of a job.
    ///
    /// # Errors
    /// A table that cannot be opened.
    pub fn inputs(context: &Context<RecallSettings>) -> Result<Vec<(&'static str, Fingerprint)>, PipelineError> {
        let recall = &context.config.recall;
        let lists = [("allow", &recall.allow), ("deny", &recall.deny)];
        let lists = lists.into_iter().filter_map(|(name, table)| Some((name, &table.as_ref()?.source)));
        let pairs = pair_tables(&context.config).into_iter().map(|(name, source, ..)| (name, source));
        lists.chain(pairs).map(|(name, source)| Ok((name, Table::open(name, source)?.fingerprint()))).collect()
    }

    /// Reads the job's lists and tables against a catalogue. Interactions whose ids make no sense are passed over and
    /// counted, as `encode-features` does; in the lists and pairs of the job's own they are an error.
    ///
    /// # Memory
    /// 20 MiB and a bit an item, whatever the number of pairs; these go to a file in `dir` that has no name.
    ///
    /// # Errors
    /// Any table error; I/O.
    pub fn load(
        context: &Context<RecallSettings>,
        users_kind: IdKind,
        catalogue: &IdIndex,
        dir: &Path,
    ) -> Result<Self, PipelineError> {
        let recall = &context.config.recall;
        let list = |name: &str, table: &Option<ListTable>| -> Result<Option<Vec<bool>>, PipelineError> {
            table.as_ref().map(|table| read_list(context, name, table, catalogue)).transpose()
        };
        let tables = pair_tables(&context.config);
        let mut builder = (!tables.is_empty()).then(|| PairStoreBuilder::new(dir));
        let mut passed_over = 0;
        for (name, source, user, item) in tables {
            let lenient = name == INTERACTIONS;
            let table = Table::open(name, source)?;
            let table = if lenient { table.leniently() } else { table };
            let ids = |batch: &TableBatch| -> Result<(Ids, Ids), PipelineError> {
                let users = readable_ids(batch, user, users_kind)?;
                Ok((users, readable_ids(batch, item, catalogue.ids().kind())?))
            };
            let wanted = [user.clone(), item.clone()];
            for batch in read_batches("recall", &table, &wanted, 0..table.rows()?, &context.cancel)? {
                let batch = batch?;
                let pairs = if lenient {
                    let (good, bad) = sift(&batch, user, ids)?;
                    passed_over += bad.len();
                    good.into_iter().map(|(_, pairs)| pairs).collect()
                } else {
                    vec![ids(&batch)?]
                };
                for (users, items) in pairs {
                    let known = users.iter().zip(items.iter()).filter_map(|(u, i)| Some((u, catalogue.find(i)?)));
                    builder
                        .iter_mut()
                        .try_for_each(|pairs| known.clone().try_for_each(|(user, row)| pairs.add(user, row)))?;
                }
            }
        }
        let warning =
            (passed_over > 0).then(|| format!("{passed_over} rows of {INTERACTIONS} cannot be used: passed over"));
        warning.iter().for_each(|warning| tracing::warn!("recall: {warning}"));
        let pairs = builder.map(PairStoreBuilder::finish).transpose()?;
        let (allow, deny) = (list("allow", &recall.allow)?, list("deny", &recall.deny)?);
        Ok(Self { pairs, allow, deny, warning })
    }

    /// The catalogue rows that may be returned to anybody.
    pub fn eligible(&self, catalogue: &IdIndex) -> Eligibility {
        let listed =
            |list: &Option<Vec<bool>>, row: u32, absent: bool| list.as_ref().map_or(absent, |l| l[row as usize]);
        Eligibility::filter(catalogue.ids().len(), |row| {
            listed(&self.allow, row, true) && !listed(&self.deny, row, false)
        })
    }

    /// What a person should know about the tables.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Appends the catalogue rows excluded for a user, ascending.
    ///
    /// # Errors
    /// As [`PairStore::extend`].
    pub fn extend(&self, user: Id<'_>, rows: &mut Vec<u32>) -> Result<(), PipelineError> {
        self.pairs.as_ref().map_or(Ok(()), |pairs| pairs.extend(user, rows))
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        let lists = [&self.allow, &self.deny].into_iter().flatten().map(|l| l.len() as u64).sum::<u64>();
        self.pairs.as_ref().map_or(0, PairStore::bytes) + lists
    }
}

fn read_list<S>(
    context: &Context<S>,
    name: &str,
    spec: &ListTable,
    catalogue: &IdIndex,
) -> Result<Vec<bool>, PipelineError> {
    let table = Table::open(name, &spec.source)?;
    let (mut listed, mut strangers) = (vec![false; catalogue.ids().len()], 0u64);
    for batch in read_batches("recall", &table, std::slice::from_ref(&spec.item), 0..table.rows()?, &context.cancel)? {
        for id in id_column_as(&batch?, &spec.item, catalogue.ids().kind())?.iter() {
            match catalogue.find(id) {
                Some(at) => listed[at as usize] = true,
                None => strangers += 1,
            }
        }
    }
    if strangers > 0 {
        tracing::warn!("recall: {name}: {strangers} ids are not in the catalogue");
    }
    Ok(listed)
}
