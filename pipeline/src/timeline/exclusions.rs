//! What a user must not get: items seen, the catalogue's allow and deny lists, and pairs by table.

use crate::config::{ListTable, PairTable, RecallConfig, RecallSettings};
use crate::error::PipelineError;
use crate::rows::bad_rows::readable_ids;
use crate::rows::columns::read_batches;
use crate::rows::id_index::IdIndex;
use crate::rows::strangers::{self, COMPARED, SomeIds};
use crate::run::manifests::{as_written, settings};
use crate::run::names::inputs;
use crate::run::names::tables::{ALLOW, DENY, EXCLUSIONS, INTERACTIONS};
use crate::run::records::{EncodeRecord, InteractionsRecord};
use crate::stages::Context;
use crate::stages::encoded::EncoderFolder;
use crate::stages::towers::verified_towers;
use crate::stream::distinct::pair_hash;
use crate::timeline::counts::{ExclusionCounts, ListCounts, PairCounts};
use crate::timeline::dataset::encoded_ids;
use crate::timeline::of_run::{self, RunTimeline};
use crate::timeline::pair_store::{PairStore, PairStoreBuilder};
use crate::watch::cancel::Cancel;
use std::path::Path;
use twotower_artifacts::{ArtifactError, Detail, Fingerprint, Histories, Id, IdKind, Ids, Manifest, Ragged, Side};
use twotower_index::Eligibility;
use twotower_tables::{Table, TableSpec, id_column_as};

/// Everything that narrows what a user gets, in terms of catalogue rows.
pub struct Exclusion {
    seen: Option<SeenItems>,
    /// The pairs of the exclusion table.
    pairs: Option<Pairs>,
    allow: Option<List>,
    deny: Option<List>,
}

/// Items that users have seen.
struct SeenItems {
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

/// For each table of pairs, how many pairs were found, and for how many users.
pub type MatchCounts = Vec<(u64, u64)>;

/// Adds what was found for other users.
pub fn add_matches(sums: &mut MatchCounts, more: &MatchCounts) {
    sums.resize(sums.len().max(more.len()), (0, 0));
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = (sum.0 + more.0, sum.1 + more.1);
    }
}

/// What one thread looks up exclusions with.
#[derive(Default)]
pub struct Lookup {
    found: Histories,
    own: Vec<u32>,
}

impl Exclusion {
    /// Names and tables of all that narrows the results of a job.
    pub fn sources(config: &RecallSettings) -> impl Iterator<Item = (&'static str, &TableSpec)> {
        let lists = [(ALLOW, &config.recall.allow), (DENY, &config.recall.deny)];
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
            inputs.push((inputs::TIMELINE, of_run::manifest("recall", &context.run.encoders())?.fingerprint));
        }
        Ok(inputs)
    }

    /// Reads the job's lists and tables against a catalogue. Ids of users are of the kind `users`; `at_rows` brings the
    /// users of the run's timeline to the rows that they are searched for at.
    ///
    /// # Memory
    /// 20 MiB and a bit for each item, whatever the number of pairs. Pairs go to files in `dir` that have no name.
    ///
    /// # Errors
    /// Any table error; I/O.
    pub fn load(
        context: &Context<RecallSettings>,
        users: IdKind,
        at_rows: impl FnOnce(RunTimeline, &EncoderFolder) -> Result<RunTimeline, PipelineError>,
        catalogue: &IdIndex,
        dir: &Path,
    ) -> Result<Self, PipelineError> {
        let recall = &context.config.recall;
        let list = |name, table: &Option<ListTable>| -> Result<Option<List>, PipelineError> {
            table.as_ref().map(|table| read_list(&context.cancel, name, table, catalogue)).transpose()
        };
        let seen = recall.exclude_seen.then(|| SeenItems::open(context, at_rows, catalogue)).transpose()?;
        let pairs = recall.exclusions.as_ref().map(|table| read_pairs(context, table, users, catalogue, dir));
        let pairs = pairs.transpose()?;
        let exclusion = Self { seen, pairs, allow: list(ALLOW, &recall.allow)?, deny: list(DENY, &recall.deny)? };
        exclusion.warnings().iter().for_each(|warning| tracing::warn!("recall: {warning}"));
        Ok(exclusion)
    }

    /// The job's lists of items alone, as they are read for results that were made of `made`.
    ///
    /// # Errors
    /// Any table error; [`PipelineError::Mismatch`] for other lists than those of the results.
    pub fn lists(recall: &RecallConfig, made: &Manifest, catalogue: &IdIndex) -> Result<Self, PipelineError> {
        let cancel = Cancel::default();
        let list = |name, table: &Option<ListTable>| -> Result<Option<List>, PipelineError> {
            let now = table.as_ref().map(|table| Table::open(name, &table.source)).transpose()?;
            let now = now.map(|table| table.fingerprint());
            if now.as_ref() != made.inputs.get(name) {
                return Err(PipelineError::Mismatch(format!(
                    "the table of `recall.{name}` is not the one that the results were made with, so that other items would be left out; give the job as it was, or run `twotower run`"
                )));
            }
            table.as_ref().map(|table| read_list(&cancel, name, table, catalogue)).transpose()
        };
        Ok(Self { seen: None, pairs: None, allow: list(ALLOW, &recall.allow)?, deny: list(DENY, &recall.deny)? })
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
                    behind(&counts.strange_items)
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

    /// Appends for each user the catalogue rows that are excluded for that user, ascending, and adds to what was
    /// matched. `rows` are the users' rows of the table, ascending.
    ///
    /// # Errors
    /// A timeline that is damaged or of other users; as [`PairStore::extend`].
    pub fn extend(
        &self,
        ids: &Ids,
        rows: &[u64],
        excluded: &mut Ragged,
        matched: &mut MatchCounts,
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

    /// Counts of all tables for a shard, given what was `matched` for its users and the id of the first of them; logs
    /// how much of each table was matched.
    pub fn counts(&self, matched: &MatchCounts, catalogue: &IdIndex, first_user: Option<Id<'_>>) -> ExclusionCounts {
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

/// Refuses an encoder folder that the run's towers were not trained on, or that was made from other columns of the
/// interactions than the job names now: its timeline would hold what other users have seen, or other items.
fn seen_as_encoded(context: &Context<RecallSettings>, encoded: &EncoderFolder) -> Result<(), PipelineError> {
    let (state, towers) = (encoded.state.fingerprint(), verified_towers("recall", context)?);
    if towers.inputs.get(inputs::ENCODERS) != Some(state) {
        return Err(ArtifactError::Mismatch {
            what: format!("recall: {}", context.run.towers().display()),
            expected_from: format!("{} with fingerprint", encoded.dir.display()),
            expected: state.to_string(),
            found_from: "towers of encoders with fingerprint".into(),
            found: towers.inputs.get(inputs::ENCODERS).map_or("none".into(), Fingerprint::to_string),
            advice: "run `twotower train` and the stages after it".into(),
        }
        .into());
    }
    let read_now: InteractionsRecord = serde_json::from_value(as_written(&serde_json::json!(context.config.seen)))
        .map_err(|e| PipelineError::Data(format!("recall: `tables.interactions` as JSON: {e}")))?;
    let made_with: EncodeRecord = settings("recall", &encoded.manifest)?;
    let (now, then) = (read_now.without_path(), made_with.tables.interactions.without_path());
    if now != then {
        let shown = |record: &InteractionsRecord| serde_json::json!(record).to_string();
        return Err(PipelineError::Mismatch(format!(
            "recall: the job reads the interactions as {}, {} was made from them as {}; run `twotower encode-features` and the stages after it, or `twotower run`",
            shown(&now),
            encoded.dir.display(),
            shown(&then)
        )));
    }
    Ok(())
}

impl SeenItems {
    fn open(
        context: &Context<RecallSettings>,
        at_rows: impl FnOnce(RunTimeline, &EncoderFolder) -> Result<RunTimeline, PipelineError>,
        catalogue: &IdIndex,
    ) -> Result<Self, PipelineError> {
        let encoded = EncoderFolder::load("recall", &context.run.encoders())?;
        seen_as_encoded(context, &encoded)?;
        let timeline = at_rows(RunTimeline::open("recall", &encoded.dir)?, &encoded)?;
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
    counts.strange_items = counts.strangers.clone();
    let store = builder.finish()?;
    (counts.pairs, counts.users) = (store.pairs(), store.users());
    Ok(Pairs { store, counts, some_users })
}

fn read_list(
    cancel: &Cancel,
    name: &'static str,
    spec: &ListTable,
    catalogue: &IdIndex,
) -> Result<List, PipelineError> {
    let table = Table::open(name, &spec.source)?;
    let (mut listed, mut counts) = (vec![false; catalogue.ids().len()], ListCounts::default());
    let mut unknown = SomeIds::default();
    for batch in read_batches("recall", &table, std::slice::from_ref(&spec.item), 0..table.rows()?, cancel)? {
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
