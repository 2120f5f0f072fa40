//! The two passes of `encode-features` over the users: one fits, one encodes.

use crate::config::EncodeSettings;
use crate::error::PipelineError;
use crate::rows::bad_rows::{BadRow, readable_ids, sift};
use crate::rows::columns::{encode_error, read_batches};
use crate::rows::duplicates::DuplicateFinder;
use crate::rows::quarantine::{Quarantine, QuarantineWriter};
use crate::rows::side_files::{SideFiles, read_columns};
use crate::run::files::encoders as files;
use crate::run::names::tables::USERS;
use crate::stages::Context;
use crate::stream::memory::{MIB, Needs, Plan};
use crate::stream::ordered;
use crate::stream::spare::Spare;
use crate::timeline::interactions::{self, Interactions};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use twotower_artifacts::codes::GROUP_ROWS;
use twotower_artifacts::keyed::{Identity, KeyedMap, hash_id, hash_ids};
use twotower_artifacts::{
    CodeBatch, CodesGroups, CodesInfo, CodesWriter, Compression, EncodedGroup, FileEntry, IdKind, Ids, Side,
    TowerSchema,
};
use twotower_encoders::{EncodeCounts, EncoderFit, EncoderState, FeatureSpec, SideSpec, compact};
use twotower_tables::{Place, ReadOptions, Table, TableBatch, TablePart, id_array_as, id_column, id_column_as};

/// Rows a worker takes at a time, where the budget allows: the row groups of many tables, so that a worker reads
/// and maps each dictionary once.
pub(crate) const PART_ROWS: usize = 2 * GROUP_ROWS;

/// Bytes of a row's codes or floats of a feature, twice: as they are made, and as they are written.
fn encoded_bytes(feature: &FeatureSpec) -> u64 {
    match feature {
        FeatureSpec::Vector(vector) => 8 * (u64::from(vector.dim) + 1),
        FeatureSpec::MultiValued(bag) => 8 * (u64::from(bag.max_len) + 1),
        _ => 16,
    }
}

/// What the passes hold beside `joins` bytes of side files. There are two passes where any user is encoded.
pub(crate) fn needs(config: &EncodeSettings, encodes: bool, joins: u64) -> Needs {
    let mut growing = vec!["values being counted"];
    if encodes {
        growing.push("rows kept for the second pass");
    }
    // Codes and floats, and their columns.
    let per_row = config.features.user.iter().map(encoded_bytes).sum();
    let held = vec![("side files", joins), ("hashes of ids", 32 * MIB), ("events on their way", interactions::BYTES)];
    Needs { growing, per_row, ..Needs::held("encode-features", held) }
}

/// The users table between its two passes.
///
/// # Memory
/// Rows read by the first pass are kept for the second as long as they fit into a quarter of the budget.
pub struct UserPasses<'a> {
    context: &'a Context<EncodeSettings>,
    dir: &'a Path,
    joins: &'a SideFiles,
    table: &'a Table,
    spec: SideSpec,
    rows: u64,
    plan: Plan,
    /// Kind of the ids.
    kind: IdKind,
    /// Whether the second pass has anything to do.
    encodes: bool,
    /// All rows by part, if they fit.
    kept: Option<Vec<Vec<TableBatch>>>,
}

/// What encoding the users left.
pub struct EncodedUsers {
    /// Those with positives.
    pub entry: FileEntry,
    /// All of them, where the job asks for it.
    pub all: Option<FileEntry>,
    /// Ids of those with positives, in table order.
    pub ids: Ids,
    /// What the encoders met.
    pub counts: EncodeCounts,
}

impl<'a> UserPasses<'a> {
    /// Passes over `table`, for files in `dir`.
    ///
    /// # Errors
    /// A table without rows, or one that cannot be counted.
    pub fn new(
        context: &'a Context<EncodeSettings>,
        dir: &'a Path,
        joins: &'a SideFiles,
        table: &'a Table,
        kind: IdKind,
        trains: bool,
    ) -> Result<Self, PipelineError> {
        let rows = table.require_rows()?;
        let spec = context.config.side(Side::User);
        let encodes = context.config.all_users || trains;
        let plan = context.plan_of(&needs(&context.config, encodes, joins.bytes()), PART_ROWS)?;
        Ok(Self { context, dir, joins, table, spec, rows, plan, kind, encodes, kept: None })
    }

    /// Number of users.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Fits all users, except rows that cannot be used, which are set `aside`: rows whose id or vectors make no sense,
    /// and of several rows with one id all but the first. Each worker begins with a `fresh` fit of its own. Which ids
    /// stand twice is known only when all rows have been read. Where some do, the users are fitted once more without
    /// these rows. The rows of users who may have `events` are noted there.
    ///
    /// # Errors
    /// Any table or encoder error; more such rows than may be.
    pub fn fit(
        &mut self,
        fresh: impl Fn() -> Result<EncoderFit, PipelineError>,
        aside: &mut QuarantineWriter<'_>,
        events: &mut Interactions<'_>,
    ) -> Result<EncoderFit, PipelineError> {
        match self.fit_and_sift(&fresh, aside, events)? {
            Some(fit) => Ok(fit),
            None => self.fit_without(&fresh, &aside.of(Side::User)),
        }
    }

    /// Fits the users and finds the rows to set `aside`. There is no fit where duplicates are among what was fitted.
    fn fit_and_sift(
        &mut self,
        fresh: impl Fn() -> Result<EncoderFit, PipelineError>,
        aside: &mut QuarantineWriter<'_>,
        events: &mut Interactions<'_>,
    ) -> Result<Option<EncoderFit>, PipelineError> {
        let passes = &*self;
        let id = &passes.spec.id_column;
        let fits = Fits::new(passes.context.execution.workers, fresh)?;
        let mut bar = passes.context.progress.bar("fit users", passes.rows, "rows");
        let mut finder = DuplicateFinder::new(passes.dir);
        let (mut kept, bytes) = (Vec::new(), AtomicU64::new(0));
        let keeps = AtomicBool::new(passes.encodes);
        let (key, filter) = (events.key(), events.take_users());
        let (spare_hashes, spare_users) = (Spare::<Vec<u64>>::default(), Spare::<Vec<(Identity, u64)>>::default());
        passes.stream(
            passes.read(passes.rows)?,
            || {
                let fit = fits.next();
                let (keeps, bytes, filter) = (&keeps, &bytes, &filter);
                let (spare_hashes, spare_users) = (&spare_hashes, &spare_users);
                Ok(move |part: TablePart| {
                    let mut fit = fit.lock().unwrap_or_else(PoisonError::into_inner);
                    let (mut hashes, mut users) = (spare_hashes.take(), spare_users.take());
                    hashes.clear();
                    users.clear();
                    let (mut batches, mut bad) = (Vec::new(), Vec::new());
                    for batch in part {
                        let mut batch = batch?;
                        if keeps.load(Ordering::Relaxed) {
                            batch.batch = compact(&batch.batch, id);
                        }
                        let (good, found) = sift(&batch, id, |rows| passes.check(rows))?;
                        for (rows, ids) in good {
                            passes.fit_rows(&mut fit, &rows)?;
                            hashes.reserve(ids.len());
                            hash_ids(&ids, |row, hash| {
                                hashes.push(hash);
                                if filter.may_hold(hash) {
                                    users.push((key.identity(ids.get(row)), rows.first_row + row as u64));
                                }
                            });
                        }
                        bad.extend(found);
                        let size = batch.batch.get_array_memory_size() as u64;
                        if bytes.fetch_add(size, Ordering::Relaxed) + size > passes.context.memory.quarter() {
                            keeps.store(false, Ordering::Relaxed);
                        }
                        if keeps.load(Ordering::Relaxed) {
                            batches.push(batch);
                        } else {
                            batches.clear();
                        }
                    }
                    Ok((hashes, users, batches, bad))
                })
            },
            |(hashes, users, batches, bad)| {
                finder.add(&hashes)?;
                events.add_users(&users)?;
                bar.advance((hashes.len() + bad.len()) as u64);
                spare_hashes.give([hashes]);
                spare_users.give([users]);
                aside.add(passes.rows, bad)?;
                if keeps.load(Ordering::Relaxed) {
                    kept.push(batches);
                } else {
                    kept.clear();
                }
                Ok(())
            },
        )?;
        let (repeated, merged) = std::thread::scope(|scope| {
            let merging = std::thread::Builder::new()
                .spawn_scoped(scope, || fits.merged())
                .map_err(PipelineError::io("start a thread of", "encode-features"))?;
            let repeated = finder.repeated();
            Ok::<_, PipelineError>((repeated, merging.join()))
        })?;
        let fit = merged.map_err(|_| PipelineError::WorkerPanicked { stage: "encode-features" })??;
        let (repeated, unusable) = (repeated?, aside.count(USERS));
        if !repeated.is_empty() {
            passes.find_duplicates(&repeated, aside)?;
        }
        aside.end(USERS, passes.rows)?;
        self.kept = keeps.into_inner().then_some(kept);
        Ok((aside.count(USERS) == unusable).then_some(fit))
    }

    /// Fits the users, without the rows in `quarantine`.
    fn fit_without(
        &self,
        fresh: impl Fn() -> Result<EncoderFit, PipelineError>,
        quarantine: &Quarantine,
    ) -> Result<EncoderFit, PipelineError> {
        let fits = Fits::new(self.context.execution.workers, fresh)?;
        let mut bar = self.context.progress.bar("fit users without duplicates", self.rows, "rows");
        self.stream(
            self.source(self.kept.clone(), self.rows)?,
            || {
                let fit = fits.next();
                Ok(move |part: TablePart| {
                    let mut fit = fit.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut fitted = 0;
                    for rows in quarantine.filter(part) {
                        let rows = rows?;
                        self.fit_rows(&mut fit, &rows)?;
                        fitted += rows.batch.num_rows();
                    }
                    Ok(fitted)
                })
            },
            |fitted| {
                bar.advance(fitted as u64);
                Ok(())
            },
        )?;
        fits.merged()
    }

    fn fit_rows(&self, fit: &mut EncoderFit, rows: &TableBatch) -> Result<(), PipelineError> {
        let joined = self.joins.join(&self.spec, Side::User, rows)?;
        fit.fit_batch(Side::User, &joined).map_err(|e| encode_error(e, rows))
    }

    /// The ids of rows. Refuses rows whose id or vectors make no sense.
    fn check(&self, batch: &TableBatch) -> Result<Ids, PipelineError> {
        let ids = readable_ids(batch, &self.spec.id_column, self.kind)?;
        let checked = self.spec.check_vectors(Side::User, &batch.batch);
        checked.map(|()| ids).map_err(|e| e.with_first_row(batch.row_in_file).into())
    }

    /// Finds the rows behind repeated hashes. Of the rows with one id, all but the first are set aside. Different ids
    /// with one hash are no duplicates.
    fn find_duplicates(&self, repeated: &[u64], aside: &mut QuarantineWriter<'_>) -> Result<(), PipelineError> {
        let id = &self.context.config.tables.users.id;
        let (wanted, known) = ([id.clone()], aside.of(Side::User));
        let mut firsts: KeyedMap<String, (u64, usize, Place)> = KeyedMap::default();
        let batches = read_batches("encode-features", self.table, &wanted, 0..self.rows, &self.context.cancel)?;
        for batch in known.filter(batches) {
            let batch = batch?;
            let ids = id_column(&batch, id)?;
            let suspects = ids.iter().enumerate().filter(|(_, this)| repeated.binary_search(&hash_id(*this)).is_ok());
            let mut bad = Vec::new();
            for (row, this) in suspects {
                let at = batch.first_row + row as u64;
                let here = (at, batch.file, batch.place(row));
                let (first, file, place) = *firsts.entry(this.to_string()).or_insert(here);
                if first != at {
                    let of = self.table.paths().nth(file).filter(|_| file != batch.file);
                    let of = of.map_or(String::new(), |path| format!(" of {}", path.display()));
                    let reason = format!("column `{id}`: the id stands in {place}{of} already; ids must be unique");
                    bad.push(BadRow::new(&batch, row, id, &reason));
                }
            }
            aside.add(self.rows, bad)?;
        }
        Ok(())
    }

    /// Encodes the users at the rows `positive`, which ascend. With `encode.all_users`, all users are encoded as well,
    /// into a file of their own. Rows in `quarantine` are left out.
    ///
    /// # Errors
    /// Any table, encoder or I/O error.
    pub fn encode(
        mut self,
        state: &EncoderState,
        quarantine: &Quarantine,
        positive: &[u64],
    ) -> Result<EncodedUsers, PipelineError> {
        let id = &self.context.config.tables.users.id;
        let schema = state.schema(Side::User);
        let info = CodesInfo { ids: self.kind, schema: schema.clone() };
        let create = |name: &str| CodesWriter::create(self.dir.join(name), &info, Compression::Lz4);
        let mut writer = create(files::USERS)?;
        let mut all = self.context.config.all_users.then(|| create(files::ALL_USERS)).transpose()?;
        let groups = all.as_ref().map(CodesWriter::groups);
        let (mut chosen_ids, mut counts) = (Ids::new(info.ids), EncodeCounts::default());
        let total = if self.context.config.all_users || !positive.is_empty() { self.rows } else { 0 };
        let mut bar = self.context.progress.bar("encode users", total, "rows");
        let kept = self.kept.take();
        let source = self.source(kept, total)?;
        self.stream(
            source,
            || {
                let mut encoder = state.encoder(Side::User);
                let (passes, schema, groups) = (&self, &schema, &groups);
                Ok(move |part: TablePart| {
                    let mut encoded = EncodedPart::new(info.ids, schema);
                    let mut every = groups.as_ref().map(CodesGroups::part);
                    for batch in quarantine.filter(part) {
                        let batch = batch?;
                        encoded.rows += batch.batch.num_rows();
                        let (first, end) = (batch.first_row, batch.first_row + batch.batch.num_rows() as u64);
                        let chosen = positive[positive.partition_point(|row| *row < first)..].iter();
                        let chosen = chosen.take_while(|row| **row < end).map(|row| (row - first) as usize);
                        let chosen: Vec<usize> = chosen.collect();
                        if !chosen.is_empty() {
                            let ids = id_column_as(&batch, id, info.ids)?;
                            encoded.chosen_ids.extend_from(&ids, chosen.iter().copied());
                        }
                        if every.is_none() && chosen.is_empty() {
                            continue;
                        }
                        let joined = passes.joins.join(&passes.spec, Side::User, &batch)?;
                        let mut codes = CodeBatch::empty(schema);
                        let counts = encoder.encode(&joined, &mut codes).map_err(|e| encode_error(e, &batch))?;
                        encoded.counts.merge(&counts);
                        encoded.chosen_codes.extend_from_rows(&codes, chosen.iter().copied());
                        if let Some(every) = &mut every {
                            every.push(id_array_as(&batch, id, info.ids)?, codes)?;
                        }
                    }
                    if let Some(every) = every {
                        encoded.groups = every.finish()?;
                    }
                    Ok(encoded)
                })
            },
            |part: EncodedPart| {
                if let Some(all) = &mut all {
                    part.groups.into_iter().try_for_each(|group| all.append(group))?;
                }
                if !part.chosen_ids.is_empty() {
                    writer.write(&part.chosen_ids, &part.chosen_codes)?;
                    chosen_ids.extend_from(&part.chosen_ids, 0..part.chosen_ids.len());
                }
                counts.merge(&part.counts);
                bar.advance(part.rows as u64);
                Ok(())
            },
        )?;
        let all = all.map(CodesWriter::finish).transpose()?;
        Ok(EncodedUsers { entry: writer.finish()?, all, ids: chosen_ids, counts })
    }

    /// The rows that the first pass has kept, or the first `rows` rows read again.
    fn source(&self, kept: Option<Vec<Vec<TableBatch>>>, rows: u64) -> Result<Source, PipelineError> {
        match kept {
            Some(parts) => Ok(Box::new(parts.into_iter().map(|batches| Ok(batches.into())))),
            None => self.read(rows),
        }
    }

    /// The first `rows` rows.
    fn read(&self, rows: u64) -> Result<Source, PipelineError> {
        let columns = read_columns(&self.spec);
        let Plan { batch_rows: part_rows, batch_bytes, .. } = self.plan;
        let read = ReadOptions { columns: &columns, rows: 0..rows, batch_rows: part_rows.min(GROUP_ROWS) };
        let parts = self.table.parts(read, part_rows, batch_bytes)?;
        Ok(Box::new(parts.map(|part| part.map_err(PipelineError::from))))
    }

    /// Streams rows through workers to `sink`.
    fn stream<O: Send, W: FnMut(TablePart) -> Result<O, PipelineError>>(
        &self,
        source: Source,
        worker: impl Fn() -> Result<W, PipelineError> + Sync,
        sink: impl FnMut(O) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        ordered("encode-features", self.plan.width, &self.context.cancel, source, worker, sink)
    }
}

/// A fit for each worker.
struct Fits {
    fits: Vec<Mutex<EncoderFit>>,
    taken: AtomicUsize,
}

impl Fits {
    fn new(workers: usize, fresh: impl Fn() -> Result<EncoderFit, PipelineError>) -> Result<Self, PipelineError> {
        let fits = (0..workers.max(1)).map(|_| fresh().map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(Self { fits, taken: AtomicUsize::new(0) })
    }

    /// The next worker's.
    fn next(&self) -> &Mutex<EncoderFit> {
        &self.fits[self.taken.fetch_add(1, Ordering::Relaxed) % self.fits.len()]
    }

    /// One fit of what all of them have seen.
    fn merged(self) -> Result<EncoderFit, PipelineError> {
        let mut fits = self.fits.into_iter().map(|fit| fit.into_inner().unwrap_or_else(PoisonError::into_inner));
        let none = PipelineError::WorkerPanicked { stage: "encode-features" };
        let mut whole = fits.next().ok_or(none)?;
        fits.try_for_each(|fit| whole.merge(fit))?;
        Ok(whole)
    }
}

/// Parts of the raw rows.
type Source = Box<dyn Iterator<Item = Result<TablePart, PipelineError>> + Send>;

/// What encoding a part of the users left.
struct EncodedPart {
    rows: usize,
    counts: EncodeCounts,
    /// All of them, where the job asks for it.
    groups: Vec<EncodedGroup>,
    /// Those with positives.
    chosen_ids: Ids,
    chosen_codes: CodeBatch,
}

impl EncodedPart {
    fn new(ids: IdKind, schema: &TowerSchema) -> Self {
        let (chosen_ids, chosen_codes) = (Ids::new(ids), CodeBatch::empty(schema));
        Self { rows: 0, counts: EncodeCounts::default(), groups: Vec::new(), chosen_ids, chosen_codes }
    }
}
