//! Where the vectors of users come from: parts that `infer` wrote, or raw rows that are embedded on the way.

use super::changed::{list_bytes, window};
use super::search::{BegunBatch, Search, SearchedBatch, VectorSource};
use crate::config::{EmbedSettings, RecallConfig, RecallSettings, RowSettings};
use crate::error::PipelineError;
use crate::rows::columns::BATCH_ROWS;
use crate::rows::id_index::IdIndex;
use crate::rows::quarantine::Quarantine;
use crate::rows::source::Source;
use crate::run::files::encoders as files;
use crate::run::manifests::require;
use crate::run::names::{inputs, tables};
use crate::stages::Context;
use crate::stages::earlier::{EarlierParts, WINDOW_BYTES};
use crate::stages::encoded::{self, EncoderFolder};
use crate::stages::infer::{Embedder, Embedding};
use crate::stages::towers::verified_towers;
use crate::stream::memory::{MIB, Needs};
use crate::stream::parts::VectorParts;
use crate::stream::sample;
use crate::stream::shard::Shard;
use crate::timeline::of_run::RunTimeline;
use std::ops::Range;
use std::path::Path;
use twotower_artifacts::{ArtifactError, Fingerprint, IdKind, Ids, ListRoom, RowHash, Side, VectorsReader, row_hashes};
use twotower_encoders::EncodeCounts;
use twotower_index::ItemIndex;
use twotower_tables::TableBatch;

/// Adds what searching holds: `items` vectors of `dim` floats, lists that take `room`, and `index` bytes of the index
/// and the ids.
pub(crate) fn search_needs(
    needs: &mut Needs,
    recall: &RecallConfig,
    (items, dim): (usize, usize),
    room: ListRoom,
    index: u64,
) {
    let (k, format) = (recall.topk, recall.format);
    needs.held.extend([
        ("the items", (items * (dim * 4 + 8)) as u64 + index),
        ("the writer", room.writer_bytes(format)),
        ("the sample of results", sample::bytes(k, room)),
    ]);
    // Scores of a block of queries, and marks of visited items.
    needs.per_worker += 4 * MIB + 8 * items as u64;
    // Neighbours stand in the batch and in the writer's columns.
    needs.per_row += 24 + 24 * k as u64;
}

/// Where the vectors of users come from.
pub enum Users {
    /// Parts that `infer` wrote, and the rows of the table that it left out.
    Stored { parts: VectorParts, quarantine: Quarantine },
    /// Raw rows, embedded on the way.
    Raw(RawUsers),
}

/// The users table, with the tower that embeds it.
pub struct RawUsers {
    /// Turns rows into vectors.
    pub embedding: Box<Embedding>,
    /// The rows.
    pub source: Source,
}

impl RawUsers {
    /// A table of users: the one that was encoded, or any where `other` is the folder that gets what is made of it.
    ///
    /// # Errors
    /// As [`Embedding::load`], [`Embedding::source`] and [`Embedding::check_table`].
    pub fn open<S>(context: &Context<S>, embed: &EmbedSettings, other: Option<&Path>) -> Result<Self, PipelineError> {
        let EmbedSettings { rows, engine } = embed;
        let embedding = Embedding::load("recall", context, Side::User, rows, *engine)?;
        let source = embedding.source(&rows.source)?;
        if other.is_none() {
            embedding.check_table(context, &source)?;
        }
        let dir = other.map_or_else(|| context.run.recall().data(), Path::to_path_buf);
        let embedding = Box::new(embedding.prepare(context, &source, &dir)?);
        Ok(Self { embedding, source })
    }

    /// Names and fingerprints of what is read.
    pub fn inputs(&self) -> Vec<(&str, Fingerprint)> {
        self.embedding.inputs(&self.source)
    }
}

impl Users {
    /// Parts that cover a shard, or all users.
    ///
    /// # Errors
    /// As [`VectorParts::find`] and [`Quarantine::of_vectors`].
    pub fn stored<S>(context: &Context<S>, shard: Option<Shard>) -> Result<Self, PipelineError> {
        let parts = VectorParts::find("recall", &context.run.vectors(Side::User), Side::User, shard)?;
        let encoders = context.run.encoders();
        let encoded = require("recall", &encoders.join(files::MANIFEST), "twotower encode-features")?;
        encoded::check_table(&encoders, &encoded, Side::User, parts.table.as_ref(), context.force)?;
        let quarantine = match &parts.quarantine {
            Some(expected) => Quarantine::of_vectors("recall", &context.run, expected)?,
            None => Quarantine::default(),
        };
        Ok(Users::Stored { parts, quarantine })
    }

    /// Users whose rows can be embedded: these, or, where vectors are stored, the users of the job's table, embedded by
    /// the engine that the stored vectors came from. `of_table` keeps what is opened for that.
    ///
    /// # Errors
    /// As [`RawUsers::open`].
    pub fn raw<'a>(
        &'a self,
        context: &Context<RecallSettings>,
        rows: &RowSettings,
        of_table: &'a mut Option<RawUsers>,
    ) -> Result<&'a RawUsers, PipelineError> {
        match self {
            Users::Raw(raw) => Ok(raw),
            Users::Stored { parts, .. } => {
                let embed = EmbedSettings { rows: rows.clone(), engine: parts.engine };
                Ok(of_table.insert(RawUsers::open(context, &embed, None)?))
            }
        }
    }

    /// Names and fingerprints of what is read.
    pub fn inputs(&self) -> Vec<(&str, Fingerprint)> {
        match self {
            Users::Stored { parts, .. } => {
                let quarantine = parts.quarantine.iter().map(|f| (inputs::QUARANTINE, f.clone()));
                [(inputs::USER_VECTORS, parts.fingerprint.clone())].into_iter().chain(quarantine).collect()
            }
            Users::Raw(raw) => raw.inputs(),
        }
    }

    /// Type of the ids.
    pub fn ids(&self) -> IdKind {
        match self {
            Users::Stored { parts, .. } => parts.ids,
            Users::Raw(raw) => raw.embedding.ids(),
        }
    }

    /// Rows of the table, those left out counted.
    pub fn rows(&self) -> u64 {
        match self {
            Users::Stored { parts, .. } => parts.rows,
            Users::Raw(raw) => raw.source.rows(),
        }
    }

    /// As [`Quarantine::account`], for a range of the users table's rows.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`] for vectors of other rows than all that are not left out, [`PipelineError::Data`]
    /// for a table that has changed.
    pub fn account(&self, range: &Range<u64>, written: u64) -> Result<u64, PipelineError> {
        match self {
            Users::Stored { quarantine, .. } => quarantine.account(range, written).map_err(|_| {
                PipelineError::Mismatch(format!(
                    "recall: {written} user vectors of rows {} to {} of the table, of which {} are left out; run `twotower infer --side user --force`",
                    range.start,
                    range.end,
                    quarantine.within(range)
                ))
            }),
            Users::Raw(raw) => raw.source.account(range, written),
        }
    }

    /// Checks that users and items were, or will be, embedded by the same towers and engine.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`], [`PipelineError::Mismatch`] when they were not; the run's towers are damaged.
    pub fn check<S>(&self, context: &Context<S>, items: &VectorParts) -> Result<(), PipelineError> {
        let towers = verified_towers("recall", context)?.fingerprint;
        let differ = |what: &str, from: &str, expected: &Fingerprint, found: &Fingerprint| ArtifactError::Mismatch {
            what: format!("recall: {what} vectors"),
            expected_from: format!("{from} with fingerprint"),
            expected: expected.to_string(),
            found_from: "vectors of towers with fingerprint".into(),
            found: found.to_string(),
            advice: "run `twotower infer --side item` and `--side user` again".into(),
        };
        if items.towers != towers {
            return Err(differ("item", "the run's towers", &towers, &items.towers).into());
        }
        let (towers, engine) = match self {
            Users::Stored { parts, .. } => (&parts.towers, parts.engine),
            Users::Raw(raw) => (raw.embedding.towers(), raw.embedding.engine()),
        };
        if items.towers != *towers {
            return Err(differ("user", "item vectors of towers", &items.towers, towers).into());
        }
        if items.engine != engine {
            return Err(PipelineError::Mismatch(format!(
                "recall: user vectors are made by engine `{engine}`, item vectors by `{}`; run `twotower infer` for one side with the other's engine",
                items.engine
            )));
        }
        Ok(())
    }

    /// What the stage holds in memory: the ids of the `items`, their index, bytes of `exclusions`, and what a stream
    /// takes.
    pub fn needs(
        &self,
        context: &Context<RecallSettings>,
        items: &IdIndex,
        index: &dyn ItemIndex,
        room: ListRoom,
        exclusions: u64,
        earlier: bool,
    ) -> Needs {
        let (count, dim, k) = (index.count(), index.dim(), context.config.recall.topk);
        let mut needs = match self {
            Users::Stored { .. } => Needs { per_row: 4 * dim as u64, ..Needs::held("recall", Vec::new()) },
            Users::Raw(raw) => raw.embedding.needs("recall"),
        };
        let index = index.image().bytes().len() as u64 + items.bytes();
        search_needs(&mut needs, &context.config.recall, (count, dim), room, index);
        needs.held.push(("exclusions", exclusions));
        if context.config.row_hashes {
            needs.held.push(("the writer of hashes", row_hashes::WRITER_BYTES));
            // Codes, vectors and lists of users who have changed, gathered; hashes.
            needs.per_row = 2 * needs.per_row + 24;
        }
        if earlier {
            needs.held.push(("the earlier run's lists", WINDOW_BYTES));
            needs.per_row += list_bytes(k, room) as u64;
        }
        needs
    }

    /// A run's timeline with its users at the rows of these.
    ///
    /// # Errors
    /// Those of reading their ids, where they are not those that were encoded; I/O.
    pub fn timeline<S>(
        &self,
        context: &Context<S>,
        timeline: RunTimeline,
        encoded: &EncoderFolder,
        dir: &Path,
    ) -> Result<RunTimeline, PipelineError> {
        match self {
            Users::Raw(raw) => raw.embedding.timeline(context, timeline, &raw.source, dir),
            Users::Stored { parts, .. } if parts.table.as_ref() == encoded.manifest.inputs.get(tables::USERS) => {
                Ok(timeline)
            }
            Users::Stored { parts, quarantine } => {
                let batches = stored_batches(parts, quarantine, &(0..parts.rows), BATCH_ROWS)?;
                // Rows of a batch follow each other: a table that is not the encoded one has no quarantine.
                let ids = batches.map(|batch| batch.map(|(rows, ids, _)| (rows.first().copied().unwrap_or(0), ids)));
                timeline.at_rows_of(ids, parts.rows, dir, "recall", &context.cancel)
            }
        }
    }

    /// Embeds or reads the rows, searches them, and hands the results to `sink` in order. Lists of users who have not
    /// changed are taken from an `earlier` run, where a list takes at most so many bytes.
    ///
    /// # Errors
    /// Damaged vectors, rows or ids; those of `sink`; a stop.
    pub fn search(
        &self,
        search: &Search<'_>,
        rows: Range<u64>,
        earlier: Option<(&EarlierParts, usize)>,
        sink: impl FnMut(SearchedBatch) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let mut window = earlier.map(|(parts, bytes)| window(search.context, parts, bytes, &rows, self.rows()));
        match self {
            Users::Stored { parts, quarantine } => {
                let batches = stored_batches(parts, quarantine, &rows, search.plan.batch_rows)?.map(|batch| {
                    let batch = batch?;
                    let matches = window.as_mut().map(|window| window.matches(&batch.1)).transpose()?;
                    Ok((batch, matches))
                });
                let source = || Ok(StoredVectors { dim: search.index.dim(), vectors: Vec::new(), bytes: Vec::new() });
                search.run(batches, source, sink)
            }
            Users::Raw(RawUsers { embedding, source }) => {
                let batches = embedding.read(source, rows, &search.plan)?.map(|batch| {
                    let batch = batch?;
                    let matches = window.as_mut().map(|window| embedding.matches(&batch, window)).transpose()?;
                    Ok((batch, matches))
                });
                let source = || {
                    let embedder = embedding.worker(search.plan.width.workers)?;
                    Ok(RawVectors { embedder, batch: None, bytes: Vec::new() })
                };
                search.run(batches, source, sink)
            }
        }
    }
}

/// Vectors that were stored.
struct StoredVectors {
    dim: usize,
    /// Those of the batch.
    vectors: Vec<f32>,
    bytes: Vec<u8>,
}

impl VectorSource<StoredBatch> for StoredVectors {
    fn begin(&mut self, (rows, ids, vectors): StoredBatch, hashed: bool) -> Result<BegunBatch, PipelineError> {
        let Self { dim, bytes, .. } = self;
        let hashes = match hashed {
            true => vectors.chunks_exact(*dim).map(|vector| RowHash::of_vector(vector, bytes)).collect(),
            false => Vec::new(),
        };
        self.vectors = vectors;
        Ok(BegunBatch { ids, rows, counts: EncodeCounts::default(), hashes })
    }

    fn vectors(&mut self, users: Option<&[usize]>) -> Result<Vec<f32>, PipelineError> {
        let of = |user: &usize| &self.vectors[user * self.dim..(user + 1) * self.dim];
        Ok(match users {
            None => std::mem::take(&mut self.vectors),
            Some(users) => users.iter().flat_map(of).copied().collect(),
        })
    }
}

/// Vectors that are made of raw rows.
struct RawVectors<'a> {
    embedder: Embedder<'a>,
    /// The rows, and the ids of their users.
    batch: Option<(TableBatch, Ids)>,
    bytes: Vec<u8>,
}

impl VectorSource<TableBatch> for RawVectors<'_> {
    fn begin(&mut self, batch: TableBatch, hashed: bool) -> Result<BegunBatch, PipelineError> {
        let (ids, counts) = self.embedder.encode(&batch)?;
        let hashes = if hashed { self.embedder.row_hashes(&mut self.bytes) } else { Vec::new() };
        let rows = (batch.first_row..).take(ids.len()).collect();
        self.batch = Some((batch, ids.clone()));
        Ok(BegunBatch { ids, rows, counts, hashes })
    }

    fn vectors(&mut self, users: Option<&[usize]>) -> Result<Vec<f32>, PipelineError> {
        let mut vectors = Vec::new();
        if let Some((batch, ids)) = &self.batch {
            self.embedder.embed_encoded(batch, ids, users, &mut vectors)?;
        }
        Ok(vectors)
    }
}

/// Rows of the table, ids and vectors.
type StoredBatch = (Vec<u64>, Ids, Vec<f32>);

/// Vectors of a range of the table's rows, without rows in quarantine.
fn stored_batches(
    parts: &VectorParts,
    quarantine: &Quarantine,
    rows: &Range<u64>,
    batch_rows: usize,
) -> Result<impl Iterator<Item = Result<StoredBatch, PipelineError>> + Send + use<>, PipelineError> {
    let mut batches = Vec::new();
    for (path, part) in &parts.parts {
        // Rows of the part before a row of the table.
        let before = |row: u64| {
            let row = row.clamp(part.start, part.end);
            row - part.start - quarantine.within(&(part.start..row))
        };
        let within = rows.start.clamp(part.start, part.end)..rows.end.clamp(part.start, part.end);
        let mut at = quarantine.rows_left(within);
        let batches_of_part = VectorsReader::open(path)?.batches(before(rows.start)..before(rows.end), batch_rows)?;
        batches.push(batches_of_part.map(move |batch| {
            let (ids, vectors) = batch?;
            Ok((at.by_ref().take(ids.len()).collect(), ids, vectors))
        }));
    }
    Ok(batches.into_iter().flatten())
}
