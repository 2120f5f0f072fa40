//! What a user must not get: items seen, the catalogue's allow and deny lists, and pairs by table; and how much of
//! these tables the users and items at hand are in, for ids that match nothing exclude nothing.

use crate::config::{ListTable, PairTable, RecallSettings};
use crate::error::PipelineError;
use crate::rows::bad_rows::readable_ids;
use crate::rows::columns::read_batches;
use crate::rows::id_index::IdIndex;
use crate::rows::quarantine::INTERACTIONS;
use crate::rows::strangers::{self, COMPARED, SomeIds};
use crate::stages::encoded::Encoded;
use crate::stages::recall::Users;
use crate::stages::towers::verified_towers;
use crate::stages::{Context, as_written};
use crate::stream::distinct::{Distinct, pair_hash};
use crate::timeline::dataset::encoded_ids;
use crate::timeline::of_run::{self, RunTimeline, TIMELINE};
use crate::timeline::pair_store::{PairStore, PairStoreBuilder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{ArtifactError, Detail, Fingerprint, Histories, Id, IdKind, Ids, Ragged, Side};
use twotower_index::Eligibility;
use twotower_tables::{Table, TableSpec, id_column_as};

/// Everything that narrows what a user gets, in terms of catalogue rows.
pub struct Exclusion {
    seen: Option<Seen>,
    /// The pairs of the exclusion table.
    pairs: Option<Pairs>,
    allow: Option<List>,
    deny: Option<List>,
}

/// Items that users have seen.
struct Seen {
    timeline: RunTimeline,
    /// Catalogue row by row of the encoded items table; none for an item without a vector.
    rows: Vec<Option<u32>>,
}

/// The table of pairs.
struct Pairs {
    store: PairStore,
    counts: PairCounts,
    /// Some of the users, to tell how they differ from those of the users table where none is in it.
    some_users: SomeIds,
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
    /// Ids that the tables of users or items do not have, and how they are likely to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers: Option<String>,
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
    /// An id that the catalogue does not have, and how it is likely to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers: Option<String>,
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

/// Name of the table of pairs that a job excludes.
const EXCLUSIONS: &str = "exclusions";

/// What one thread looks up exclusions with.
#[derive(Default)]
pub struct Lookup {
    found: Histories,
    own: Vec<u32>,
}

impl Exclusion {
    /// Names and tables of all that narrows the results of a job.
    pub fn sources(config: &RecallSettings) -> impl Iterator<Item = (&'static str, &TableSpec)> {
        let lists = [("allow", &config.recall.allow), ("deny", &config.recall.deny)];
        let lists = lists.into_iter().filter_map(|(name, table)| Some((name, &table.as_ref()?.source)));
        lists.chain(config.recall.exclusions.iter().map(|table| (EXCLUSIONS, &table.source)))
    }

    /// Fingerprints of all that narrows the results of a job.
    ///
    /// # Errors
    /// A table that cannot be opened; a run without a timeline.
    pub fn inputs(context: &Context<RecallSettings>) -> Result<Vec<(&'static str, Fingerprint)>, PipelineError> {
        let sources = Self::sources(&context.config);
        let mut inputs = sources.map(|(name, source)| Ok((name, Table::open(name, source)?.fingerprint())));
        let mut inputs = inputs.by_ref().collect::<Result<Vec<_>, PipelineError>>()?;
        if context.config.recall.exclude_seen {
            inputs.push((TIMELINE, of_run::manifest("recall", &context.run.encoders())?.fingerprint));
        }
        Ok(inputs)
    }

    /// Reads the job's lists and tables against a catalogue; users of the run's timeline, of whom items seen are left
    /// out, are brought to the rows of `users`.
    ///
    /// # Memory
    /// 20 MiB and a bit an item, whatever the number of pairs; these go to files in `dir` that have no name.
    ///
    /// # Errors
    /// Any table error; I/O.
    pub fn load(
        context: &Context<RecallSettings>,
        users: &Users,
        catalogue: &IdIndex,
        dir: &Path,
    ) -> Result<Self, PipelineError> {
        let recall = &context.config.recall;
        let list = |name, table: &Option<ListTable>| -> Result<Option<List>, PipelineError> {
            table.as_ref().map(|table| read_list(context, name, table, catalogue)).transpose()
        };
        let seen = recall.exclude_seen.then(|| Seen::open(context, users, catalogue, dir)).transpose()?;
        let pairs = recall.exclusions.as_ref().map(|table| read_pairs(context, table, users.ids(), catalogue, dir));
        let pairs = pairs.transpose()?;
        let exclusion = Self { seen, pairs, allow: list("allow", &recall.allow)?, deny: list("deny", &recall.deny)? };
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
        let pairs = self.counted().flat_map(|(name, counts)| {
            let unknown = (counts.unknown_items > 0).then(|| {
                format!(
                    "{} of {} rows of {name} are of items that are not in the catalogue{}",
                    counts.unknown_items,
                    counts.rows,
                    behind(&counts.strangers)
                )
            });
            let unreadable = (counts.unreadable > 0)
                .then(|| format!("{} rows of {name} cannot be used: passed over", counts.unreadable));
            unreadable.into_iter().chain(unknown)
        });
        let lists = [&self.allow, &self.deny].into_iter().flatten().filter(|list| list.counts.unknown > 0);
        let lists = lists.map(|List { name, counts, .. }| {
            let told = behind(&counts.strangers);
            format!("{name}: {} of {} ids are not in the catalogue{told}", counts.unknown, counts.rows)
        });
        pairs.chain(lists).collect()
    }

    /// What the tables of pairs hold, by name.
    fn counted(&self) -> impl Iterator<Item = (&'static str, &PairCounts)> {
        let seen = self.seen.iter().map(|seen| (INTERACTIONS, &seen.timeline.details().pairs));
        seen.chain(self.pairs.iter().map(|pairs| (EXCLUSIONS, &pairs.counts)))
    }

    /// Appends for each user, who stands at one of the `rows` of the table, which ascend, the catalogue rows excluded for
    /// him, ascending, and adds to what was matched.
    ///
    /// # Errors
    /// A timeline that is damaged or of other users; as [`PairStore::extend`].
    pub fn extend(
        &self,
        ids: &Ids,
        rows: &[u64],
        excluded: &mut Ragged,
        matched: &mut Matched,
        lookup: &mut Lookup,
    ) -> Result<(), PipelineError> {
        matched.resize(self.counted().count(), (0, 0));
        let Lookup { found, own } = lookup;
        if let (Some(seen), Some(first), Some(last)) = (&self.seen, rows.first(), rows.last()) {
            seen.timeline.timeline().read(*first..last + 1, Detail::Items, found)?;
        }
        for (user, row) in ids.iter().zip(rows) {
            let mut sums = matched.iter_mut();
            let mut count = |before: usize, after: usize| {
                if let (Some((pairs, users)), true) = (sums.next(), after >= before) {
                    *pairs += (after - before) as u64;
                    *users += u64::from(after > before);
                }
            };
            own.clear();
            if let Some(seen) = &self.seen {
                if let Some(at) = seen.timeline.find(found, *row, user)? {
                    let items = found.items[found.events(at)].iter();
                    own.extend(items.filter_map(|item| seen.rows[*item as usize]));
                    own.sort_unstable();
                    own.dedup();
                }
                count(0, own.len());
            }
            if let Some(pairs) = &self.pairs {
                let before = own.len();
                pairs.store.extend(user, own)?;
                count(before, own.len());
                own.sort_unstable();
                own.dedup();
            }
            excluded.push_row(own.iter().copied());
        }
        Ok(())
    }

    /// Counts of all tables, of a shard for whose users so much was matched and whose first id is this; logs how
    /// much of each table was matched.
    pub fn counts(&self, matched: &Matched, catalogue: &IdIndex, first_user: Option<Id<'_>>) -> ExclusionCounts {
        let of = |at: usize| matched.get(at).copied().unwrap_or_default();
        let pairs = self.counted().enumerate().map(|(at, (name, counts))| {
            let ((matched_pairs, matched_users), counts) = (of(at), counts.clone());
            tracing::info!(
                "recall: {name}: {matched_pairs} of {} pairs are excluded, for {matched_users} users here of {} in the table ({} rows)",
                counts.pairs,
                counts.users,
                counts.rows
            );
            let own = self.pairs.as_ref().filter(|_| name == EXCLUSIONS && matched_users == 0);
            let users = own.zip(first_user).and_then(|(pairs, user)| {
                let mut known = SomeIds::default();
                known.add(user, COMPARED);
                strangers::told(&pairs.some_users, "users", &known)
            });
            let told: Vec<String> = users.into_iter().chain(counts.strangers.clone()).collect();
            let strangers = (!told.is_empty()).then(|| told.join("; "));
            (name.to_string(), PairCounts { matched_pairs, matched_users, strangers, ..counts })
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
        let seen = self.seen.as_ref().map_or(0, |seen| seen.timeline.bytes() + 8 * seen.rows.len() as u64);
        self.pairs.as_ref().map_or(0, |pairs| pairs.store.bytes()) + seen + lists
    }
}

/// What is told of strangers, behind what is said of them.
fn behind(told: &Option<String>) -> String {
    told.as_ref().map_or(String::new(), |told| format!(": {told}"))
}

/// Refuses an encoder folder that is not the one of the run's towers, or that was made from other columns of the
/// interactions than the job names now: its timeline would say of other users, or items, what was seen.
fn seen_as_encoded(context: &Context<RecallSettings>, encoded: &Encoded) -> Result<(), PipelineError> {
    let (state, towers) = (encoded.state.fingerprint(), verified_towers("recall", context)?);
    if towers.inputs.get("encoders") != Some(state) {
        return Err(ArtifactError::Mismatch {
            what: format!("recall: {}", context.run.towers().display()),
            expected_from: format!("{} with fingerprint", encoded.dir.display()),
            expected: state.to_string(),
            found_from: "towers of encoders with fingerprint".into(),
            found: towers.inputs.get("encoders").map_or("none".into(), Fingerprint::to_string),
            advice: "run `twotower train` and the stages after it".into(),
        }
        .into());
    }
    // Where the table lies does not matter, but by what lies there.
    let reading = |mut table: serde_json::Value| {
        table.as_object_mut().map(|table| table.remove("path"));
        table
    };
    let now = reading(as_written(&serde_json::json!(context.config.seen)));
    let then = reading(encoded.manifest.config["tables"]["interactions"].clone());
    if now != then {
        return Err(PipelineError::Mismatch(format!(
            "recall: the job reads the interactions as {now}, {} was made from them as {then}; run `twotower encode-features` and the stages after it, or `twotower run`",
            encoded.dir.display()
        )));
    }
    Ok(())
}

impl Seen {
    fn open(
        context: &Context<RecallSettings>,
        users: &Users,
        catalogue: &IdIndex,
        dir: &Path,
    ) -> Result<Self, PipelineError> {
        let encoded = Encoded::load("recall", &context.run.encoders())?;
        seen_as_encoded(context, &encoded)?;
        let timeline = users.timeline(context, RunTimeline::open("recall", &encoded.dir)?, &encoded, dir)?;
        let items = encoded_ids(&encoded, Side::Item)?;
        let rows: Vec<Option<u32>> = items.iter().map(|id| catalogue.find(id)).collect();
        let known = rows.iter().flatten().count();
        if known < catalogue.ids().len() && !context.force {
            return Err(PipelineError::Mismatch(format!(
                "recall: {} of {} items with vectors are not in the items table that encode-features read, so it is not known who has seen them; run `twotower encode-features` and the stages after it, or `twotower run`",
                catalogue.ids().len() - known,
                catalogue.ids().len()
            )));
        }
        Ok(Self { timeline, rows })
    }
}

fn read_pairs<S>(
    context: &Context<S>,
    spec: &PairTable,
    users_kind: IdKind,
    catalogue: &IdIndex,
    dir: &Path,
) -> Result<Pairs, PipelineError> {
    let table = Table::open(EXCLUSIONS, &spec.source)?;
    let (mut builder, mut counts) = (PairStoreBuilder::new(dir), PairCounts::default());
    let (mut some_users, mut unknown) = (SomeIds::default(), SomeIds::default());
    let wanted = [spec.user.clone(), spec.item.clone()];
    for batch in read_batches("recall", &table, &wanted, 0..table.rows()?, &context.cancel)? {
        let batch = batch?;
        let users = readable_ids(&batch, &spec.user, users_kind)?;
        let items = readable_ids(&batch, &spec.item, catalogue.ids().kind())?;
        counts.rows += users.len() as u64;
        if counts.example.is_none() && !users.is_empty() {
            counts.example = Some((users.get(0).quoted(), items.get(0).quoted()));
        }
        for (user, item) in users.iter().zip(items.iter()) {
            some_users.add(user, COMPARED);
            match catalogue.find(item) {
                Some(row) => {
                    builder.add(user, row)?;
                    counts.some_pairs.add(pair_hash(user, item));
                }
                None => {
                    counts.unknown_items += 1;
                    unknown.add(item, COMPARED);
                }
            }
        }
    }
    counts.strangers = strangers::told(&unknown, "items", &SomeIds::of(catalogue.ids()));
    let store = builder.finish()?;
    (counts.pairs, counts.users) = (store.pairs(), store.users());
    Ok(Pairs { store, counts, some_users })
}

fn read_list<S>(
    context: &Context<S>,
    name: &'static str,
    spec: &ListTable,
    catalogue: &IdIndex,
) -> Result<List, PipelineError> {
    let table = Table::open(name, &spec.source)?;
    let (mut listed, mut counts) = (vec![false; catalogue.ids().len()], ListCounts::default());
    let mut unknown = SomeIds::default();
    for batch in read_batches("recall", &table, std::slice::from_ref(&spec.item), 0..table.rows()?, &context.cancel)? {
        for id in id_column_as(&batch?, &spec.item, catalogue.ids().kind())?.iter() {
            counts.rows += 1;
            counts.example.get_or_insert_with(|| id.quoted());
            match catalogue.find(id) {
                Some(at) => listed[at as usize] = true,
                None => {
                    counts.unknown += 1;
                    unknown.add(id, COMPARED);
                }
            }
        }
    }
    counts.strangers = strangers::told(&unknown, "items", &SomeIds::of(catalogue.ids()));
    counts.known = listed.iter().filter(|listed| **listed).count() as u64;
    Ok(List { name, listed, counts })
}
