//! `encode-features`: fits the encoders, then encodes items, users with positives, and interactions.

use crate::config::EncodeSettings;
use crate::error::PipelineError;
use crate::rows::bad_rows::readable_ids;
use crate::rows::columns::read_batches;
use crate::rows::id_index::IdIndex;
use crate::rows::quarantine::{self, INTERACTIONS, QuarantineWriter, USERS};
use crate::rows::side_files::{SideFiles, read_columns};
use crate::run::lock::RunLock;
use crate::stages::encode_warnings;
use crate::stages::user_passes::UserPasses;
use crate::stages::{Context, Outcome, StageKey, prepare_dir, remove_if_there, rows};
use crate::timeline::interactions::StagedInteractions;
use crate::watch::cancel::Cancel;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use twotower_artifacts::codes::GROUP_ROWS;
use twotower_artifacts::{
    CodeBatch, CodesInfo, CodesWriter, Compression, FileEntry, Id, IdKind, Ids, Interactions, Side, write_interactions,
};
use twotower_encoders::{EncodeCounts, EncoderError, EncoderFit, EncoderState, store};
use twotower_queries::EventCounts;
use twotower_tables::{Table, TableBatch, id_kind};

/// Options of the stage beside the job's own.
#[derive(Debug, Clone, Default)]
pub struct EncodeOptions {
    /// An earlier run's encoder folder whose vocabularies are extended: old codes never move.
    pub update: Option<PathBuf>,
    /// Leave the interactions alone, for a run that does not train: no user is encoded as one that does.
    pub without_positives: bool,
}

/// File names inside the encoder folder.
pub mod files {
    /// The stage's manifest.
    pub const MANIFEST: &str = "manifest.json";
    /// Encoded users that have positives.
    pub const USERS: &str = "users.parquet";
    /// Encoded items, sorted by id.
    pub const ITEMS: &str = "items.parquet";
    /// Joined interactions in time order.
    pub const INTERACTIONS: &str = "interactions.parquet";
    /// With `encode.all_users`, every encoded user.
    pub const ALL_USERS: &str = "users-all.parquet";
    /// Rows of users and interactions that cannot be used, where there are some.
    pub const QUARANTINE: &str = "quarantine.jsonl";
}

/// Runs the stage.
///
/// Two passes over the users: one fits vocabularies and bounds, one encodes those that have
/// positives (only they train), or all. Items and interactions are held in memory; users are not. Rows of users and
/// interactions that cannot be used are set aside, as long as they are few.
///
/// # Errors
/// Any table, encoder or I/O error; duplicate ids of items; more bad rows than `encode.max_bad_rows`; a table without
/// rows; an update of a run by itself.
pub fn encode_features(context: &Context<EncodeSettings>, options: &EncodeOptions) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = context.step("encode-features");
    let inputs = Inputs::open(context, options)?;
    let key = inputs.key(context, options);
    let dir = context.run.encoders();
    let manifest_path = dir.join(files::MANIFEST);
    if !context.force
        && let Some(manifest) = key.current(&manifest_path, &context.cancel)?
        && quarantine::within_limit(&manifest, context.execution.max_bad_rows)
    {
        return Ok(Outcome { skipped: true, manifest });
    }
    prepare_dir(&dir)?;
    prepare_dir(&dir.join(store::VOCABULARIES))?;

    let sources = inputs.sources();
    let Inputs { users, items, interactions, joins, previous } = inputs;
    let encode = Encode { context, dir: &dir, joins };
    let item_table = encode.read_items(&items)?;
    let user_kind = id_kind(&users, &context.config.tables.users.id)?;
    let mut aside = QuarantineWriter::new(&dir, context.execution.max_bad_rows);
    let staged = match options.without_positives {
        true => None,
        false => {
            let kinds = (user_kind, item_table.ids.kind());
            Some(StagedInteractions::read(context, &dir, &interactions, kinds, &mut aside)?)
        }
    };
    let times = staged.as_ref().and_then(StagedInteractions::times);
    let positive = encode.users_with_positives(staged.as_ref(), user_kind)?;
    let mut passes = UserPasses::new(context, &dir, &encode.joins, &users, &positive)?;
    let state = encode.fit(&item_table, &mut passes, previous, &mut aside)?;

    context.retract(&manifest_path)?;
    let seen = passes.rows();
    // What is small waits for the disk, file after file, while the users are encoded.
    let (small, encoded) = std::thread::scope(|scope| {
        let small = std::thread::Builder::new()
            .spawn_scoped(scope, || Ok((encode.encode_items(&state, &item_table)?, encode.save(&state)?)))
            .map_err(PipelineError::io("start a thread of", "encode-features"))?;
        let encoded = passes.encode(&state, &aside.users());
        Ok::<_, PipelineError>((
            small.join().unwrap_or(Err(PipelineError::WorkerPanicked { stage: "encode-features" })),
            encoded,
        ))
    })?;
    let (encoded, ((item_entry, item_counts), state_entries)) = (encoded?, small?);
    let first_user = || first_id(&users, &context.config.tables.users.id, user_kind, &context.cancel);
    let (events_entry, events) = encode.write_events(staged, &state, &encoded.ids, &item_table.ids, first_user)?;
    let mut entries = vec![item_entry, encoded.entry, events_entry];
    match encoded.all {
        Some(entry) => entries.push(entry),
        None => remove_if_there(&dir.join(files::ALL_USERS))?,
    }
    let [bad_users, bad_interactions] = [USERS, INTERACTIONS].map(|table| aside.count(table));
    entries.extend(aside.publish()?);
    entries.extend(state_entries);

    let rows = rows([
        ("users", seen),
        ("users with positives", encoded.ids.len() as u64),
        ("items", item_table.ids.len() as u64),
        ("users quarantined", bad_users),
        ("interactions", events.rows + bad_interactions),
        ("interactions quarantined", bad_interactions),
        ("interactions kept", events.kept),
        ("interactions repeated", events.repeated),
        ("interactions of unknown items", events.unknown_items.rows),
        ("interactions of unknown users", events.unknown_users.rows),
    ]);
    let counts = BTreeMap::from([(Side::Item, item_counts), (Side::User, encoded.counts)]);
    let mut manifest = key.manifest(entries, rows, started);
    manifest.fingerprint = state.fingerprint().clone();
    manifest.warnings = encode_warnings::of_rows(&manifest, &events);
    for (side, counts) in &counts {
        let spec = context.config.side(*side);
        manifest.warnings.extend(encode_warnings::of_features("encode-features", *side, &spec, counts));
    }
    manifest.details = serde_json::json!({
        "vocabularies": vocabularies(&state),
        "encoded": counts,
        "times": times,
        "content": crate::stages::encoded::content(&manifest),
        "tables": sources,
    });
    manifest.write(&manifest_path)?;
    Ok(Outcome { skipped: false, manifest })
}

/// What the stage reads.
struct Inputs {
    users: Table,
    items: Table,
    interactions: Table,
    joins: SideFiles,
    /// The state that is extended.
    previous: Option<EncoderState>,
}

impl Inputs {
    fn open(context: &Context<EncodeSettings>, options: &EncodeOptions) -> Result<Self, PipelineError> {
        let tables = &context.config.tables;
        if let Some(earlier) = &options.update
            && earlier.canonicalize().is_ok_and(|e| context.run.encoders().canonicalize().is_ok_and(|own| own == e))
        {
            return Err(PipelineError::usage(format!(
                "--update {} is this run's own folder; give the new state another --run",
                earlier.display()
            )));
        }
        let load = |earlier: &PathBuf| -> Result<EncoderState, PipelineError> {
            let _unchanged = RunLock::take_source(&context.run, earlier)?;
            Ok(EncoderState::load(earlier)?)
        };
        let [user, item] = [Side::User, Side::Item].map(|side| (side, context.config.side(side)));
        Ok(Self {
            users: Table::open(USERS, &tables.users.source)?.leniently(),
            items: Table::open("items", &tables.items.source)?,
            interactions: Table::open(INTERACTIONS, &tables.interactions.source)?.leniently(),
            joins: SideFiles::open(
                &[(user.0, &user.1, &tables.users.source), (item.0, &item.1, &tables.items.source)],
                &context.cancel,
            )?,
            previous: options.update.as_ref().map(load).transpose()?,
        })
    }

    /// Says what was found of each table, for the manifest too.
    fn sources(&self) -> serde_json::Value {
        let tables = [&self.users, &self.items, &self.interactions].map(|table| {
            let (name, files, skipped) = (table.name(), table.paths().len(), table.skipped());
            tracing::info!("encode-features: {name}: {files} files, {skipped} skipped by name");
            let found = serde_json::json!({ "files": files, "skipped": skipped, "bytes": table.bytes() });
            (name.to_string(), found)
        });
        serde_json::Value::Object(tables.into_iter().collect())
    }

    /// All that the stage's outputs depend on.
    fn key(&self, context: &Context<EncodeSettings>, options: &EncodeOptions) -> StageKey {
        let mut inputs = vec![
            ("users", self.users.fingerprint()),
            ("items", self.items.fingerprint()),
            ("interactions", self.interactions.fingerprint()),
        ];
        inputs.extend(self.previous.as_ref().map(|state| ("previous encoders", state.fingerprint().clone())));
        inputs.extend(self.joins.inputs());
        context.key("encode-features", inputs, [("positives", (!options.without_positives).into())])
    }
}

/// Size and fingerprint of every vocabulary.
fn vocabularies(state: &EncoderState) -> serde_json::Value {
    let of = |(table, v): (&str, &Arc<twotower_encoders::Vocabulary>)| {
        (table.to_string(), serde_json::json!({ "values": v.len(), "fingerprint": v.fingerprint() }))
    };
    state.vocabularies().map(of).collect::<serde_json::Map<_, _>>().into()
}

/// The first id of a table as a message shows it, if it can be read.
fn first_id(table: &Table, column: &str, kind: IdKind, cancel: &Cancel) -> Option<String> {
    let wanted = [column.to_string()];
    let batch = read_batches("encode-features", table, &wanted, 0..1, cancel).ok()?.next()?.ok()?;
    readable_ids(&batch, column, kind).ok()?.iter().next().map(|id| id.quoted())
}

/// Items read whole; their encoded rows are in id order.
struct ItemTable {
    /// Ascending.
    ids: Ids,
    /// Row of the raw table of each id.
    order: Vec<usize>,
    /// The raw table.
    batches: Vec<TableBatch>,
}

struct Encode<'a> {
    context: &'a Context<EncodeSettings>,
    dir: &'a Path,
    joins: SideFiles,
}

impl Encode<'_> {
    fn fit_items(&self, fit: &mut EncoderFit, batch: &TableBatch) -> Result<(), PipelineError> {
        let rows = self.joins.join(&self.context.config.side(Side::Item), Side::Item, batch)?;
        fit.fit_batch(Side::Item, &rows).map_err(|e| encode_error(e, batch))
    }

    fn side_columns(&self, side: Side) -> Vec<String> {
        read_columns(&self.context.config.side(side))
    }

    fn read_items(&self, table: &Table) -> Result<ItemTable, PipelineError> {
        table.require_rows()?;
        let columns = self.side_columns(Side::Item);
        let id = &self.context.config.tables.items.id;
        let mut unsorted = Ids::new(id_kind(table, id)?);
        let mut batches = Vec::new();
        for batch in read_batches("encode-features", table, &columns, 0..table.rows()?, &self.context.cancel)? {
            let batch = batch?;
            let ids = readable_ids(&batch, id, unsorted.kind())?;
            unsorted.extend_from(&ids, 0..ids.len());
            batches.push(batch);
        }
        if let Some((first, second)) = unsorted.duplicate() {
            return Err(duplicate_id("items", id, unsorted.get(first), first as u64, second as u64));
        }
        let order = unsorted.sorted_positions();
        let mut ids = Ids::new(unsorted.kind());
        ids.extend_from(&unsorted, order.iter().copied());
        Ok(ItemTable { ids, order, batches })
    }

    /// The users that train.
    fn users_with_positives(
        &self,
        staged: Option<&StagedInteractions>,
        kind: IdKind,
    ) -> Result<IdIndex, PipelineError> {
        let ids = match staged {
            Some(staged) => staged.users(self.context, kind)?,
            None => Ids::new(kind),
        };
        IdIndex::new(ids).map_err(|(a, b)| {
            PipelineError::Data(format!(
                "distinct users of interactions: rows {a} and {b} are equal; please report this as a bug"
            ))
        })
    }

    /// Vocabularies and bounds of both sides; each worker counts values of its own, and in the end they are one fit.
    fn fit(
        &self,
        items: &ItemTable,
        users: &mut UserPasses<'_>,
        previous: Option<EncoderState>,
        aside: &mut QuarantineWriter<'_>,
    ) -> Result<EncoderState, PipelineError> {
        let config = &self.context.config;
        let counted =
            usize::try_from(self.context.memory.quarter()).unwrap_or(usize::MAX) / self.context.execution.workers;
        let fresh = || -> Result<EncoderFit, PipelineError> {
            let (user, item) = (config.side(Side::User), config.side(Side::Item));
            Ok(EncoderFit::new(user, item)?.with_spill(self.dir, counted))
        };
        let mut of_items = fresh()?;
        items.batches.iter().try_for_each(|batch| self.fit_items(&mut of_items, batch))?;
        let mut fit = users.fit(fresh, aside)?;
        fit.merge(of_items)?;
        let state = self.context.during("making vocabularies", || match previous {
            Some(previous) => previous.update(fit),
            None => fit.finish(),
        });
        Ok(state?)
    }

    /// Writes the state.
    fn save(&self, state: &EncoderState) -> Result<Vec<FileEntry>, PipelineError> {
        state.save(self.dir)?;
        let mut entries = vec![FileEntry::of_file(self.dir, store::MANIFEST, 0)?];
        for (table, vocabulary) in state.vocabularies() {
            entries.push(FileEntry::of_file(self.dir, &store::vocabulary_file(table), vocabulary.len() as u64)?);
        }
        Ok(entries)
    }

    /// Writes the interactions of known users and items, by user and in time order; none are staged for a run that
    /// does not train.
    fn write_events(
        &self,
        staged: Option<StagedInteractions>,
        state: &EncoderState,
        users: &Ids,
        items: &Ids,
        first_user: impl FnOnce() -> Option<String>,
    ) -> Result<(FileEntry, EventCounts), PipelineError> {
        let (events, counts) = match staged {
            Some(staged) => staged.join(self.context, users, items, first_user)?,
            None => (Interactions { offsets: vec![0], ..Interactions::default() }, EventCounts::default()),
        };
        let path = self.dir.join(files::INTERACTIONS);
        let entry = write_interactions(path, &events, items.len() as u64, state.fingerprint(), Compression::Lz4)?;
        Ok((entry, counts))
    }

    fn encode_items(
        &self,
        state: &EncoderState,
        items: &ItemTable,
    ) -> Result<(FileEntry, EncodeCounts), PipelineError> {
        let schema = state.schema(Side::Item);
        let mut unsorted = CodeBatch::empty(&schema);
        let info = CodesInfo { ids: items.ids.kind(), schema: schema.clone() };
        let mut writer = CodesWriter::create(self.dir.join(files::ITEMS), &info, Compression::Lz4)?;
        let mut counts = EncodeCounts::default();
        let mut encoder = state.encoder(Side::Item);
        for batch in &items.batches {
            let rows = self.joins.join(&self.context.config.side(Side::Item), Side::Item, batch)?;
            counts.merge(&encoder.encode(&rows, &mut unsorted).map_err(|e| encode_error(e, batch))?);
        }
        // A row group at a time, so that no column of ids exceeds what Arrow counts in 31 bits.
        for (group, order) in items.order.chunks(GROUP_ROWS).enumerate() {
            let (mut ids, mut codes) = (Ids::new(items.ids.kind()), CodeBatch::empty(&schema));
            ids.extend_from(&items.ids, group * GROUP_ROWS..group * GROUP_ROWS + order.len());
            codes.extend_from_rows(&unsorted, order.iter().copied());
            writer.write(&ids, &codes)?;
        }
        Ok((writer.finish()?, counts))
    }
}

/// An encoder's error with the file and row it happened at.
pub(crate) fn encode_error(error: EncoderError, batch: &TableBatch) -> PipelineError {
    PipelineError::from(error.with_first_row(batch.row_in_file)).within(format!(
        "table `{}`: {}",
        batch.table(),
        batch.path().display()
    ))
}

pub(crate) fn duplicate_id(table: &str, column: &str, id: Id<'_>, first: u64, second: u64) -> PipelineError {
    PipelineError::Data(format!(
        "{table}: column `{column}`: id `{id}` stands in rows {first} and {second} (counted from 0); ids must be unique, remove one of the rows"
    ))
}
