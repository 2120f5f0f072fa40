//! `encode-features`: fits the encoders, writes the timeline of all users, then encodes items and users with positives.

use crate::config::EncodeSettings;
use crate::error::PipelineError;
use crate::rows::columns::encode_error;
use crate::rows::quarantine::{self, QuarantineWriter};
use crate::rows::side_files::SideFiles;
use crate::rows::strangers::{COMPARED, SomeIds, ids_of};
use crate::rows::unreadable;
use crate::run::details::{EncodeDetails, TableDetails, TableFiles, TimelineDetails, VocabularyDetails};
use crate::run::dir::remove_if_there;
use crate::run::files::encoders as files;
use crate::run::lock::RunLock;
use crate::run::names::tables::{INTERACTIONS, ITEMS, USERS};
use crate::run::names::{inputs, rows};
use crate::stages::encode_warnings;
use crate::stages::encoded;
use crate::stages::item_table::ItemTable;
use crate::stages::output::{Output, Place, Prologue, StageKey, Summary, as_json, row_counts};
use crate::stages::user_passes::UserPasses;
use crate::stages::{Context, Outcome};
use crate::timeline::builder::TimelineFile;
use crate::timeline::interactions::{Events, Interactions};
use crate::timeline::intervals;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use twotower_artifacts::codes::GROUP_ROWS;
use twotower_artifacts::keyed::IdentityKey;
use twotower_artifacts::{CodeBatch, CodesInfo, CodesWriter, Compression, FileEntry, Ids, Manifest, Side};
use twotower_encoders::{EncodeCounts, EncoderFit, EncoderState, store};
use twotower_tables::{Table, TableBatch, id_kind};

/// Options of the stage beside the job's own.
#[derive(Debug, Clone, Default)]
pub struct EncodeOptions {
    /// An earlier run's encoder folder whose vocabularies are extended: old codes never move.
    pub update: Option<PathBuf>,
    /// Encode no users for training, for a run that does not train.
    pub without_positives: bool,
}

/// Runs the stage.
///
/// The interactions are read once and the users twice: one pass fits vocabularies and bounds, one encodes those that
/// have positives (only they train), or all. Between both, the events of all users are sorted into the timeline. Items
/// are held in memory; of users and interactions only the row numbers of users that train. Rows that cannot be used are
/// set aside, as long as they are few.
///
/// # Errors
/// Any table, encoder or I/O error; more bad rows than `encode.max_bad_rows`; a feature with more
/// unreadable values than `encode.max_unreadable`; a table without rows; an update of a run by itself.
pub fn encode_features(context: &Context<EncodeSettings>, options: &EncodeOptions) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = context.step("encode-features");
    let inputs = Inputs::open(context, options)?;
    let place = Place::of_results(context.run.encoders(), files::MANIFEST);
    let within_limits = |made: &Manifest| -> Result<bool, PipelineError> {
        Ok(quarantine::within_limit(made, context.execution.max_bad_rows) && within_unreadable(context, made))
    };
    let output = match context.begin(inputs.key(context, options), place, started, within_limits)? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    output.prepare(&[store::VOCABULARIES])?;
    let dir = output.dir();

    let sources = inputs.sources();
    let Inputs { users, items, interactions, joins, previous } = inputs;
    let encode = Encode { context, dir, joins };
    let mut aside = QuarantineWriter::new(dir, context.execution.max_bad_rows);
    let item_table = ItemTable::read(context, &items, &mut aside)?;
    let user_kind = id_kind(&users, &context.config.tables.users.id)?;
    let trains = !options.without_positives;
    if trains {
        interactions.require_rows()?;
    }
    let identities = IdentityKey::of(&[&users.fingerprint(), &interactions.fingerprint()]);
    let kinds = (user_kind, &item_table.ids);
    let mut events = Interactions::read(context, dir, &interactions, kinds, identities, &mut aside)?;
    intervals::require_unit(&context.config.fields(Side::User), events.clock(), events.usable_rows())?;
    let mut passes = UserPasses::new(context, dir, &encode.joins, &users, user_kind, trains)?;
    let state = encode.fit(&item_table, &mut passes, previous, &mut aside, &mut events)?;

    output.replace()?;
    remove_if_there(&dir.join(files::TIMELINE_MANIFEST))?;
    let known_users = (&users, passes.rows());
    let events = events.finish(context, &dir.join(files::TIMELINE), known_users, item_table.ids.ids(), trains)?;
    if trains {
        events.require_some()?;
    }
    let timeline = write_timeline_manifest(&output, &events)?;
    let seen = passes.rows();
    // What is small waits for the disk, file after file, while the users are encoded.
    let (small, encoded) = std::thread::scope(|scope| {
        let small = std::thread::Builder::new()
            .spawn_scoped(scope, || Ok((encode.encode_items(&state, &item_table)?, encode.save(&state)?)))
            .map_err(PipelineError::io("start a thread of", "encode-features"))?;
        let encoded = passes.encode(&state, &aside.of(Side::User), &events.timeline.rows);
        Ok::<_, PipelineError>((
            small.join().unwrap_or(Err(PipelineError::WorkerPanicked { stage: "encode-features" })),
            encoded,
        ))
    })?;
    let (encoded, ((item_entry, item_counts), state_entries)) = (encoded?, small?);
    let mut entries = vec![item_entry, encoded.entry, timeline];
    match encoded.all {
        Some(entry) => entries.push(entry),
        None => remove_if_there(&dir.join(files::ALL_USERS))?,
    }
    let [bad_users, bad_items, bad_interactions] = [USERS, ITEMS, INTERACTIONS].map(|table| aside.count(table));
    entries.extend(aside.publish()?);
    entries.extend(state_entries);

    let counted = &events.counts;
    let rows = row_counts([
        (rows::USERS, seen),
        (rows::USERS_WITH_POSITIVES, encoded.ids.len() as u64),
        (rows::ITEMS, item_table.ids.ids().len() as u64 + bad_items),
        (rows::USERS_QUARANTINED, bad_users),
        (rows::ITEMS_QUARANTINED, bad_items),
        (rows::INTERACTIONS, counted.rows + bad_interactions),
        (rows::INTERACTIONS_QUARANTINED, bad_interactions),
        (rows::INTERACTIONS_KEPT, counted.kept),
        (rows::INTERACTIONS_REPEATED, counted.repeated),
        (rows::INTERACTIONS_OF_UNKNOWN_ITEMS, counted.unknown_items.rows),
        (rows::INTERACTIONS_OF_UNKNOWN_USERS, counted.unknown_users.rows),
    ]);
    let counts = BTreeMap::from([(Side::Item, item_counts), (Side::User, encoded.counts)]);
    for (side, table) in [(Side::User, &users), (Side::Item, &items)] {
        let (spec, most) = (context.config.side(side), context.execution.max_unreadable);
        unreadable::refuse(side, &spec, &counts[&side], most, table, &context.cancel)?;
    }
    let mut warnings = encode_warnings::of_rows(&rows, counted);
    let user_ids = || {
        let (column, rows) = (&context.config.tables.users.id, 0..COMPARED as u64);
        ids_of(&users, column, user_kind, rows, &context.cancel)
    };
    let mut strange = encode.joins.warnings(Side::User, user_ids);
    strange.extend(encode.joins.warnings(Side::Item, || SomeIds::of(item_table.ids.ids())));
    strange.iter().for_each(|warning| tracing::warn!("encode-features: {warning}"));
    warnings.extend(strange);
    for (side, counts) in &counts {
        let spec = context.config.side(*side);
        warnings.extend(encode_warnings::of_features("encode-features", *side, &spec, counts));
    }
    let details = EncodeDetails {
        vocabularies: vocabularies(&state),
        encoded: Some(counts),
        times: events.span,
        content: Some(encoded::content_of(&entries)),
        tables: Some(sources),
    };
    let fingerprint = Some(state.fingerprint().clone());
    output.publish(Summary { fingerprint, warnings, ..Summary::new(entries, rows, details) })
}

/// Whether a manifest of the stage has no feature with more unreadable values than may be.
fn within_unreadable(context: &Context<EncodeSettings>, manifest: &Manifest) -> bool {
    let counts = serde_json::from_value(manifest.details["encoded"].clone()).unwrap_or_default();
    let specs = [Side::User, Side::Item].map(|side| (side, context.config.side(side)));
    unreadable::within_limit(&specs, &counts, context.execution.max_unreadable)
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
            items: Table::open(ITEMS, &tables.items.source)?.leniently(),
            interactions: Table::open(INTERACTIONS, &tables.interactions.source)?.leniently(),
            joins: SideFiles::open(
                &[(user.0, &user.1, &tables.users.source), (item.0, &item.1, &tables.items.source)],
                &context.cancel,
            )?,
            previous: options.update.as_ref().map(load).transpose()?,
        })
    }

    /// The files of each table, for the manifest; says so in the log, too.
    fn sources(&self) -> TableDetails {
        let files_of = |table: &Table| {
            let (name, files, skipped) = (table.name(), table.paths().len(), table.skipped());
            tracing::info!("encode-features: {name}: {files} files, {skipped} skipped by name");
            TableFiles { files, skipped, bytes: table.bytes() }
        };
        let [users, items, interactions] = [&self.users, &self.items, &self.interactions].map(files_of);
        TableDetails { users, items, interactions }
    }

    /// All that the stage's outputs depend on.
    fn key(&self, context: &Context<EncodeSettings>, options: &EncodeOptions) -> StageKey {
        let mut inputs = vec![
            (USERS, self.users.fingerprint()),
            (ITEMS, self.items.fingerprint()),
            (INTERACTIONS, self.interactions.fingerprint()),
        ];
        inputs.extend(self.previous.as_ref().map(|state| (inputs::PREVIOUS_ENCODERS, state.fingerprint().clone())));
        inputs.extend(self.joins.inputs());
        // Runs of versions that wrote no timeline are encoded again.
        let beside = [("positives", (!options.without_positives).into()), ("timeline", 1.into())];
        context.key("encode-features", inputs, beside)
    }
}

/// Writes the manifest of the timeline, and gives the entry of its file.
fn write_timeline_manifest(output: &Output<'_, EncodeSettings>, events: &Events) -> Result<FileEntry, PipelineError> {
    let TimelineFile { file, fingerprint, counts, .. } = &events.timeline;
    let counted = row_counts([(rows::USERS, counts.users), (rows::EVENTS, events.counts.kept)]);
    let made = output.key().manifest(vec![file.clone()], counted, output.started());
    let path = output.dir().join(files::TIMELINE_MANIFEST);
    let details = as_json(&path, &TimelineDetails { clock: events.clock, pairs: events.pairs.clone() })?;
    let manifest = Manifest { stage: inputs::TIMELINE.into(), fingerprint: fingerprint.clone(), details, ..made };
    manifest.write(path)?;
    Ok(file.clone())
}

/// Size and fingerprint of every vocabulary.
fn vocabularies(state: &EncoderState) -> BTreeMap<String, VocabularyDetails> {
    let all = state.vocabularies().map(|(table, vocabulary)| {
        let (values, fingerprint) = (vocabulary.len(), vocabulary.fingerprint());
        (table.to_string(), VocabularyDetails { values, fingerprint: fingerprint.clone() })
    });
    all.collect()
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

    /// Fits vocabularies and bounds of both sides. Each worker fits its own rows, and in the end all fits are merged.
    fn fit(
        &self,
        items: &ItemTable,
        users: &mut UserPasses<'_>,
        previous: Option<EncoderState>,
        aside: &mut QuarantineWriter<'_>,
        events: &mut Interactions<'_>,
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
        let mut fit = users.fit(fresh, aside, events)?;
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

    fn encode_items(
        &self,
        state: &EncoderState,
        items: &ItemTable,
    ) -> Result<(FileEntry, EncodeCounts), PipelineError> {
        let schema = state.schema(Side::Item);
        let mut unsorted = CodeBatch::empty(&schema);
        let info = CodesInfo { ids: items.ids.ids().kind(), schema: schema.clone() };
        let mut writer = CodesWriter::create(self.dir.join(files::ITEMS), &info, Compression::Lz4)?;
        let mut counts = EncodeCounts::default();
        let mut encoder = state.encoder(Side::Item);
        for batch in &items.batches {
            let rows = self.joins.join(&self.context.config.side(Side::Item), Side::Item, batch)?;
            counts.merge(&encoder.encode(&rows, &mut unsorted).map_err(|e| encode_error(e, batch))?);
        }
        // A row group at a time, so that no column of ids exceeds what Arrow counts in 31 bits.
        for (group, order) in items.order.chunks(GROUP_ROWS).enumerate() {
            let (mut ids, mut codes) = (Ids::new(info.ids), CodeBatch::empty(&schema));
            ids.extend_from(items.ids.ids(), group * GROUP_ROWS..group * GROUP_ROWS + order.len());
            codes.extend_from_rows(&unsorted, order.iter().copied());
            writer.write(&ids, &codes)?;
        }
        Ok((writer.finish()?, counts))
    }
}
