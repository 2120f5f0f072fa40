//! What a user must not get: items seen, the catalogue's allow and deny lists, and pairs by table; and how much of
//! these tables the users and items at hand are in, for ids that match nothing exclude nothing.

use crate::config::{ListTable, RecallSettings, TimeSettings};
use crate::error::PipelineError;
use crate::rows::bad_rows::{readable_ids, sift};
use crate::rows::columns::read_batches;
use crate::rows::id_index::IdIndex;
use crate::rows::quarantine::INTERACTIONS;
use crate::rows::times::EventTimes;
use crate::stages::Context;
use crate::stream::distinct::{Distinct, pair_hash};
use crate::timeline::pair_store::{PairStore, PairStoreBuilder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{Fingerprint, Id, IdKind, Ids};
use twotower_index::Eligibility;
use twotower_tables::{Table, TableBatch, TableSpec, id_column_as};

/// Everything that narrows what a user gets, in terms of catalogue rows.
pub struct Exclusion {
    /// Items seen, and the pairs of the exclusion table.
    pairs: Vec<Pairs>,
    allow: Option<List>,
    deny: Option<List>,
}

/// A table of pairs.
struct Pairs {
    name: &'static str,
    store: PairStore,
    counts: PairCounts,
}

/// A list of items.
struct List {
    name: &'static str,
    /// By catalogue row.
    listed: Vec<bool>,
    counts: ListCounts,
}

/// What a table of pairs holds, and how much of it is of the users and items at hand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PairCounts {
    /// Rows of the table.
    pub rows: u64,
    /// Rows whose ids cannot be read.
    pub unreadable: u64,
    /// Rows of items that are not in the catalogue.
    pub unknown_items: u64,
    /// Distinct pairs with an item of the catalogue.
    pub pairs: u64,
    /// Users of these pairs.
    pub users: u64,
    /// Pairs of users that were searched for.
    pub matched_pairs: u64,
    /// Users that were searched for and have pairs.
    pub matched_users: u64,
    /// The oldest and the newest time, where the table has times.
    pub times: Option<(i64, i64)>,
    /// Hashes of some of the pairs with an item of the catalogue, to tell how many two runs share.
    pub some_pairs: Distinct,
    /// The first row's ids, the user's first, as messages show them.
    pub example: Option<(String, String)>,
}

/// What a list of items holds, and how much of it is in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListCounts {
    /// Rows of the table.
    pub rows: u64,
    /// Items of the catalogue that are listed.
    pub known: u64,
    /// Rows of items that are not in the catalogue.
    pub unknown: u64,
    /// The first row's id, as messages show it.
    pub example: Option<String>,
}

/// Counts of all tables that narrow results, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExclusionCounts {
    /// Tables of pairs.
    pub pairs: BTreeMap<String, PairCounts>,
    /// Lists of items.
    pub lists: BTreeMap<String, ListCounts>,
    /// The catalogue's first id, as messages show it.
    pub item: String,
    /// The first user's id, as messages show it.
    pub user: Option<String>,
}

impl ExclusionCounts {
    /// Adds what was matched in another shard of the same users.
    pub fn merge(&mut self, other: &Self) {
        for (name, counts) in &mut self.pairs {
            let Some(more) = other.pairs.get(name) else { continue };
            counts.matched_pairs = counts.matched_pairs.saturating_add(more.matched_pairs);
            counts.matched_users = counts.matched_users.saturating_add(more.matched_users);
        }
        self.user = self.user.take().or_else(|| other.user.clone());
    }
}

/// Pairs and users with pairs that were found, by table of pairs.
pub type Matched = Vec<(u64, u64)>;

/// Adds what was found for other users.
pub fn add_matched(sums: &mut Matched, more: &Matched) {
    sums.resize(sums.len().max(more.len()), (0, 0));
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = (sum.0 + more.0, sum.1 + more.1);
    }
}

/// The tables of pairs that a job excludes: name, source, columns of user and item, and where times are.
type PairTable<'a> = (&'static str, &'a TableSpec, &'a String, &'a String, Option<&'a TimeSettings>);

fn pair_tables(config: &RecallSettings) -> Vec<PairTable<'_>> {
    let RecallSettings { seen, recall, .. } = config;
    let seen = seen.as_ref().map(|t| (INTERACTIONS, &t.source, &t.user, &t.item, Some(&t.times)));
    let listed = recall.exclusions.as_ref().map(|t| ("exclusions", &t.source, &t.user, &t.item, None));
    seen.into_iter().chain(listed).collect()
}

impl Exclusion {
    /// Names and tables of all that narrows the results of a job.
    pub fn sources(config: &RecallSettings) -> impl Iterator<Item = (&'static str, &TableSpec)> {
        let lists = [("allow", &config.recall.allow), ("deny", &config.recall.deny)];
        let lists = lists.into_iter().filter_map(|(name, table)| Some((name, &table.as_ref()?.source)));
        lists.chain(pair_tables(config).into_iter().map(|(name, source, ..)| (name, source)))
    }

    /// Fingerprints of all that narrows the results of a job.
    ///
    /// # Errors
    /// A table that cannot be opened.
    pub fn inputs(context: &Context<RecallSettings>) -> Result<Vec<(&'static str, Fingerprint)>, PipelineError> {
        let sources = Self::sources(&context.config);
        sources.map(|(name, source)| Ok((name, Table::open(name, source)?.fingerprint()))).collect()
    }

    /// Reads the job's lists and tables against a catalogue. Interactions whose ids make no sense are passed over and
    /// counted, as `encode-features` does; in the lists and pairs of the job's own they are an error.
    ///
    /// # Memory
    /// 20 MiB and a bit an item, whatever the number of pairs; these go to files in `dir` that have no name.
    ///
    /// # Errors
    /// Any table error; I/O.
    pub fn load(
        context: &Context<RecallSettings>,
        users: IdKind,
        catalogue: &IdIndex,
        dir: &Path,
    ) -> Result<Self, PipelineError> {
        let recall = &context.config.recall;
        let list = |name, table: &Option<ListTable>| -> Result<Option<List>, PipelineError> {
            table.as_ref().map(|table| read_list(context, name, table, catalogue)).transpose()
        };
        let pairs =
            pair_tables(&context.config).into_iter().map(|table| read_pairs(context, table, users, catalogue, dir));
        let pairs = pairs.collect::<Result<_, _>>()?;
        let exclusion = Self { pairs, allow: list("allow", &recall.allow)?, deny: list("deny", &recall.deny)? };
        exclusion.warnings().iter().for_each(|warning| tracing::warn!("recall: {warning}"));
        Ok(exclusion)
    }

    /// The catalogue rows that may be returned to anybody.
    pub fn eligible(&self, catalogue: &IdIndex) -> Eligibility {
        let listed = |list: &Option<List>, row: u32, absent: bool| {
            list.as_ref().map_or(absent, |list| list.listed[row as usize])
        };
        Eligibility::filter(catalogue.ids().len(), |row| {
            listed(&self.allow, row, true) && !listed(&self.deny, row, false)
        })
    }

    /// What a person should know about the tables.
    pub fn warnings(&self) -> Vec<String> {
        let pairs = self.pairs.iter().flat_map(|Pairs { name, counts, .. }| {
            let unreadable = (counts.unreadable > 0)
                .then(|| format!("{} rows of {name} cannot be used: passed over", counts.unreadable));
            let unknown = (counts.unknown_items > 0).then(|| {
                format!(
                    "{} of {} rows of {name} are of items that are not in the catalogue",
                    counts.unknown_items, counts.rows
                )
            });
            unreadable.into_iter().chain(unknown)
        });
        let lists = [&self.allow, &self.deny].into_iter().flatten().filter(|list| list.counts.unknown > 0);
        let lists = lists.map(|List { name, counts, .. }| {
            format!("{name}: {} of {} ids are not in the catalogue", counts.unknown, counts.rows)
        });
        pairs.chain(lists).collect()
    }

    /// Appends the catalogue rows excluded for a user, ascending, and adds to what was matched.
    ///
    /// # Errors
    /// As [`PairStore::extend`].
    pub fn extend(&self, user: Id<'_>, rows: &mut Vec<u32>, matched: &mut Matched) -> Result<(), PipelineError> {
        matched.resize(self.pairs.len(), (0, 0));
        let first = rows.len();
        for (Pairs { store, .. }, (pairs, users)) in self.pairs.iter().zip(matched) {
            let before = rows.len();
            store.extend(user, rows)?;
            let found = (rows.len() - before) as u64;
            *pairs += found;
            *users += u64::from(found > 0);
            // Beside those of another table.
            if found > 0 && before > first {
                let mut own = rows.split_off(first);
                own.sort_unstable();
                own.dedup();
                rows.append(&mut own);
            }
        }
        Ok(())
    }

    /// Counts of all tables, of a shard for whose users so much was matched and whose first id is this; logs how
    /// much of each table was matched.
    pub fn counts(&self, matched: &Matched, catalogue: &IdIndex, first_user: Option<Id<'_>>) -> ExclusionCounts {
        let of = |at: usize| matched.get(at).copied().unwrap_or_default();
        let pairs = self.pairs.iter().enumerate().map(|(at, Pairs { name, counts, .. })| {
            let ((matched_pairs, matched_users), counts) = (of(at), counts.clone());
            tracing::info!(
                "recall: {name}: {matched_pairs} of {} pairs are excluded, for {matched_users} users here of {} in the table ({} rows)",
                counts.pairs,
                counts.users,
                counts.rows
            );
            (name.to_string(), PairCounts { matched_pairs, matched_users, ..counts })
        });
        let lists = [&self.allow, &self.deny].into_iter().flatten();
        ExclusionCounts {
            pairs: pairs.collect(),
            lists: lists.map(|list| (list.name.to_string(), list.counts.clone())).collect(),
            item: catalogue.ids().iter().next().map(|id| id.quoted()).unwrap_or_default(),
            user: first_user.map(|id| id.quoted()),
        }
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        let lists = [&self.allow, &self.deny].into_iter().flatten().map(|list| list.listed.len() as u64).sum::<u64>();
        self.pairs.iter().map(|pairs| pairs.store.bytes()).sum::<u64>() + lists
    }
}

fn read_pairs<S>(
    context: &Context<S>,
    (name, source, user, item, times): PairTable<'_>,
    users_kind: IdKind,
    catalogue: &IdIndex,
    dir: &Path,
) -> Result<Pairs, PipelineError> {
    let lenient = name == INTERACTIONS;
    let table = Table::open(name, source)?;
    let table = if lenient { table.leniently() } else { table };
    let (mut builder, mut counts) = (PairStoreBuilder::new(dir), PairCounts::default());
    let ids = |batch: &TableBatch| -> Result<(Ids, Ids), PipelineError> {
        let users = readable_ids(batch, user, users_kind)?;
        Ok((users, readable_ids(batch, item, catalogue.ids().kind())?))
    };
    let timestamp = times.and_then(|times| times.timestamp.as_ref());
    let times = times.map(|times| EventTimes::open(&table, times)).transpose()?;
    let wanted: Vec<String> = [user, item].into_iter().chain(timestamp).cloned().collect();
    for batch in read_batches("recall", &table, &wanted, 0..table.rows()?, &context.cancel)? {
        let batch = batch?;
        let pairs = if lenient {
            let (good, bad) = sift(&batch, user, ids)?;
            counts.unreadable += bad.len() as u64;
            counts.rows += bad.len() as u64;
            good.into_iter().map(|(_, pairs)| pairs).collect()
        } else {
            vec![ids(&batch)?]
        };
        let times = times.as_ref().and_then(|times| times.range(&batch));
        let widest = |(a, b): (i64, i64), (first, last): (i64, i64)| (a.min(first), b.max(last));
        counts.times = counts.times.into_iter().chain(times).reduce(widest);
        for (users, items) in pairs {
            counts.rows += users.len() as u64;
            if counts.example.is_none() && !users.is_empty() {
                counts.example = Some((users.get(0).quoted(), items.get(0).quoted()));
            }
            for (user, item) in users.iter().zip(items.iter()) {
                match catalogue.find(item) {
                    Some(row) => {
                        builder.add(user, row)?;
                        counts.some_pairs.add(pair_hash(user, item));
                    }
                    None => counts.unknown_items += 1,
                }
            }
        }
    }
    let store = builder.finish()?;
    (counts.pairs, counts.users) = (store.pairs(), store.users());
    Ok(Pairs { name, store, counts })
}

fn read_list<S>(
    context: &Context<S>,
    name: &'static str,
    spec: &ListTable,
    catalogue: &IdIndex,
) -> Result<List, PipelineError> {
    let table = Table::open(name, &spec.source)?;
    let (mut listed, mut counts) = (vec![false; catalogue.ids().len()], ListCounts::default());
    for batch in read_batches("recall", &table, std::slice::from_ref(&spec.item), 0..table.rows()?, &context.cancel)? {
        for id in id_column_as(&batch?, &spec.item, catalogue.ids().kind())?.iter() {
            counts.rows += 1;
            counts.example.get_or_insert_with(|| id.quoted());
            match catalogue.find(id) {
                Some(at) => listed[at as usize] = true,
                None => counts.unknown += 1,
            }
        }
    }
    counts.known = listed.iter().filter(|listed| **listed).count() as u64;
    Ok(List { name, listed, counts })
}
