//! `infer`: raw rows in, vectors out, in one pass and bounded memory.

mod changed;
mod needs;
mod parts;

use crate::config::{InferSettings, RowSettings};
use crate::error::PipelineError;
use crate::rows::columns::encode_error;
use crate::rows::side_files::{SideFiles, read_columns};
use crate::rows::source::Source;
use crate::run::details::{IdRange, InferDetails, PartDetails, TakenDetails};
use crate::run::files::towers as files;
use crate::run::names::{inputs, rows};
use crate::run::output_folder::OutputFolder;
use crate::run::shard_progress::{ShardProgress, recorded};
use crate::run::stage::Stage;
use crate::stages::earlier::{EarlierParts, EarlierRun, WINDOW_BYTES};
use crate::stages::encode_warnings;
use crate::stages::encoded::EncoderFolder;
use crate::stages::output::{Place, Prologue, StageKey, Summary, row_counts};
use crate::stages::towers::{check_tower, verified_towers};
use crate::stages::{Context, Outcome};
use crate::stream::earlier::{Matches, Stretch, Window};
use crate::stream::memory::{Needs, Plan};
use crate::stream::ordered;
use crate::stream::part_folder::PartFolder;
use crate::stream::row_hashes;
use crate::stream::shard::Shard;
use crate::stream::spare::Spare;
use crate::timeline::dataset::History;
use crate::timeline::of_run::RunTimeline;
use crate::watch::stall::locked;
use changed::{ChangedBatch, Reuse, earlier_vectors};
pub(crate) use needs::{embedding_needs, row_bytes};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;
use twotower_artifacts::publish::create_folder;
use twotower_artifacts::vectors::{Similarity, WRITER_BYTES};
use twotower_artifacts::{
    CodeBatch, Column, FieldShape, Fingerprint, Histories, IdKind, Ids, RowHash, RowHashesInfo, Side, TowerSchema,
    VectorsInfo, VectorsWriter,
};
use twotower_encoders::{EncodeCounts, SideEncoder, SideSpec};
use twotower_models::engine::{self, EncoderSize, Engine, EngineKind, Norms};
use twotower_models::onnx;
use twotower_tables::{ReadOptions, TableBatch, TableSpec};

/// The stage for one side, ready for its shards.
pub struct Infer<'a> {
    context: &'a Context<InferSettings>,
    embedding: Embedding,
    source: Source,
    /// Where the vectors go.
    folder: PartFolder,
    /// Whether that is the run, or a folder for rows that are not the job's.
    is_of_run: bool,
    /// The vectors of an earlier run, for users who have not changed since.
    earlier: Option<EarlierParts>,
    /// That folder, which is locked until its vectors are there.
    _other: Option<OutputFolder>,
}

/// The encoder state and the tower of one side, which belong together.
pub(crate) struct Embedding {
    encoded: EncoderFolder,
    schema: TowerSchema,
    dim: usize,
    /// What its cosines are multiplied with to be inner products, for a model of these.
    inner_product_scale: Option<f32>,
    /// The tower's encoders of sequences.
    sequences: Vec<EncoderSize>,
    /// Fingerprint of both towers.
    towers: Fingerprint,
    tower: PathBuf,
    engine: EngineKind,
    /// Engines that no worker has, kept for the workers of the next part.
    engines: Mutex<Vec<Box<dyn Engine>>>,
    /// Memory for the vectors of a batch each.
    spare: Spare<Vec<f32>>,
    /// Kind of the ids that the run encoded; raw ids are brought to it.
    ids: IdKind,
    spec: SideSpec,
    joins: SideFiles,
    history: Option<History>,
}

impl Embedding {
    /// Loads what embedding rows of `side` takes.
    ///
    /// # Errors
    /// [`twotower_artifacts::ArtifactError::Mismatch`], naming both fingerprints, when tower and encoders differ.
    pub fn load<S>(
        stage: &'static str,
        context: &Context<S>,
        side: Side,
        rows: &RowSettings,
        engine: EngineKind,
    ) -> Result<Self, PipelineError> {
        let encoders = context.run.encoders();
        let encoded = EncoderFolder::load(stage, &encoders)?;
        let towers = verified_towers(stage, context)?.fingerprint;
        let tower = context.run.towers().join(files::tower(side));
        let onnx::Metadata { schema, dim, encoders: sequences, inner_product_scale, .. } = onnx::inspect(&tower)?;
        check_tower(stage, context, side, &schema.encoder, encoded.state.fingerprint())?;
        let has_history = schema.fields.iter().any(|f| matches!(f.shape, FieldShape::Sequence { .. }));
        let history = if has_history { Some(History::load(stage, &encoded)?) } else { None };
        let ids = encoded.ids(side)?;
        let (spec, fitted) = (rows.spec(), encoded.state.side(side).spec());
        if spec.features != fitted.features {
            return Err(PipelineError::Mismatch(format!(
                "{stage}: the job's {side} features are not those that {} was fitted with; run `twotower encode-features`",
                encoders.display()
            )));
        }
        let joins = SideFiles::open(&[(side, &spec, &rows.source)], &context.cancel)?;
        let (engines, spare) = (Mutex::default(), Spare::default());
        Ok(Self {
            encoded,
            schema,
            dim,
            inner_product_scale,
            sequences,
            towers,
            tower,
            engine,
            engines,
            spare,
            ids,
            spec,
            joins,
            history,
        })
    }

    /// A worker with an engine of its own, out of `workers` that will be asked for. The first of them opens the engines
    /// of all, on its own thread, while rows are being read.
    ///
    /// # Errors
    /// As [`engine::open_workers`].
    pub fn worker(&self, workers: usize) -> Result<Embedder<'_>, PipelineError> {
        let encoder = self.encoded.state.encoder(self.schema.side);
        let mut engines = locked(&self.engines);
        let engine = match engines.pop() {
            Some(engine) => engine,
            None => {
                *engines = engine::open_workers(self.engine, &self.tower, workers)?;
                engines.pop().ok_or(PipelineError::WorkerPanicked { stage: "infer" })?
            }
        };
        Ok(Embedder {
            embedding: self,
            engine: Some(engine),
            encoder,
            codes: CodeBatch::empty(&self.schema),
            chosen: CodeBatch::empty(&self.schema),
            found: Histories::default(),
        })
    }

    /// Gives back the engines that no worker has.
    pub fn close_engines(&self) {
        locked(&self.engines).clear();
    }

    /// The table of raw rows, and which of them to leave out.
    ///
    /// # Errors
    /// Tables that cannot be opened.
    pub fn source(&self, table: &TableSpec) -> Result<Source, PipelineError> {
        Source::open(&self.encoded, self.schema.side, table)
    }

    /// Refuses a table that is not the one that `encode-features` read, unless the context forces it, so that a slip
    /// does not replace a run's vectors by vectors of other rows.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`], naming both fingerprints, or both columns of ids.
    pub fn check_table<S>(&self, context: &Context<S>, source: &Source) -> Result<(), PipelineError> {
        let side = self.schema.side;
        let fitted = &self.encoded.state.side(side).spec().id_column;
        if self.spec.id_column != *fitted {
            return Err(PipelineError::Mismatch(format!(
                "the job's column of {side} ids is `{}`, {} was made with `{fitted}`; run `twotower encode-features`",
                self.spec.id_column,
                self.encoded.dir.display()
            )));
        }
        let table = source.inputs().find(|(name, _)| *name == inputs::TABLE).map(|(_, fingerprint)| fingerprint);
        self.encoded.check_table(side, table.as_ref(), context.force)
    }

    /// A run's timeline with its users at the rows of `source`; where that is not the table that was encoded, they are
    /// brought there in a file without a name in `dir`.
    ///
    /// # Errors
    /// Those of reading ids; I/O; a signal.
    pub fn timeline<S>(
        &self,
        context: &Context<S>,
        timeline: RunTimeline,
        source: &Source,
        dir: &Path,
    ) -> Result<RunTimeline, PipelineError> {
        if source.is_encoded() {
            return Ok(timeline);
        }
        create_folder(dir)?;
        timeline.at_rows(source, (&self.spec.id_column, self.ids), dir, "infer", &context.cancel)
    }

    /// Brings histories to the rows of `source`, which are to be embedded.
    ///
    /// # Errors
    /// As [`Embedding::timeline`].
    pub fn prepare<S>(mut self, context: &Context<S>, source: &Source, dir: &Path) -> Result<Self, PipelineError> {
        if let Some(history) = self.history.take() {
            self.history = Some(history.map(|timeline| self.timeline(context, timeline, source, dir))?);
        }
        Ok(self)
    }

    /// Names and fingerprints of everything vectors of `source` depend on.
    pub fn inputs(&self, source: &Source) -> Vec<(&str, Fingerprint)> {
        let encoders = (inputs::ENCODERS, self.encoded.state.fingerprint().clone());
        let mut inputs = vec![encoders, (inputs::TOWERS, self.towers.clone())];
        source.inputs().for_each(|input| inputs.push(input));
        inputs.extend(self.joins.inputs());
        let timeline = self.history.iter().map(|history| history.timeline().fingerprint().clone());
        inputs.extend(timeline.map(|fingerprint| (inputs::TIMELINE, fingerprint)));
        inputs
    }

    /// What embedding holds in memory.
    pub fn needs(&self, stage: &'static str) -> Needs {
        let data = self.tower.with_extension("onnx.data");
        let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
        let tower = size(&self.tower) + size(&data);
        let codes = self.schema.fields.iter().map(|field| row_bytes(&field.shape)).sum();
        let mut needs = embedding_needs(stage, self.engine, tower, (self.dim, codes), &self.sequences);
        let history = self.history.as_ref().map_or(0, History::bytes);
        needs.held.extend([("histories of users", history), ("side files", self.joins.bytes())]);
        needs
    }

    /// Streams raw rows of a table as a plan allows.
    ///
    /// # Errors
    /// As [`twotower_tables::Table::read_within`].
    pub fn read(
        &self,
        source: &Source,
        rows: Range<u64>,
        plan: &Plan,
    ) -> Result<impl Iterator<Item = Result<TableBatch, PipelineError>> + Send + use<>, PipelineError> {
        let columns = read_columns(&self.spec);
        let read = ReadOptions { columns: &columns, rows, batch_rows: plan.batch_rows };
        source.read(read, plan.batch_bytes)
    }

    /// Where the users of a batch are among earlier rows.
    ///
    /// # Errors
    /// Ids that cannot be read; those of the window.
    pub fn matches<T, I: Iterator<Item = Result<Stretch<T>, PipelineError>>>(
        &self,
        batch: &TableBatch,
        window: &mut Window<I, T>,
    ) -> Result<Matches<T>, PipelineError> {
        window.matches(&self.ids_of(batch)?)
    }
}

/// Turns raw rows into vectors on one thread.
pub(crate) struct Embedder<'a> {
    embedding: &'a Embedding,
    /// Goes back to the embedding in the end.
    engine: Option<Box<dyn Engine>>,
    encoder: SideEncoder,
    codes: CodeBatch,
    /// Those of some of the rows.
    chosen: CodeBatch,
    found: Histories,
}

/// Ids and vectors of some rows.
pub(crate) struct EmbeddedBatch {
    /// One id per row.
    pub ids: Ids,
    /// Row of the table of each.
    pub rows: Vec<u64>,
    /// `[rows, dim]`, unit rows.
    pub vectors: Vec<f32>,
    /// What the encoders met.
    pub counts: EncodeCounts,
}

impl Embedder<'_> {
    /// Encodes and embeds a batch; values unseen in training take the unknown slot.
    ///
    /// # Errors
    /// Encoder and engine errors; [`PipelineError::Gate`] for a vector that is zero or not finite.
    pub fn embed(&mut self, batch: &TableBatch) -> Result<EmbeddedBatch, PipelineError> {
        let (ids, counts) = self.encode(batch)?;
        let mut vectors = self.embedding.spare.take();
        vectors.clear();
        self.embed_encoded(batch, &ids, None, &mut vectors)?;
        let rows = (batch.first_row..).take(ids.len()).collect();
        Ok(EmbeddedBatch { ids, rows, vectors, counts })
    }

    /// Encodes a batch, and gives its ids.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn encode(&mut self, batch: &TableBatch) -> Result<(Ids, EncodeCounts), PipelineError> {
        let known = self.embedding;
        let (ids, rows) = (known.ids_of(batch)?, known.joined(batch)?);
        self.codes.clear();
        let mut counts = self.encoder.encode(&rows, &mut self.codes).map_err(|e| encode_error(e, batch))?;
        if let Some(history) = &known.history {
            history.fill(&known.schema, batch.first_row, &ids, &mut self.codes, &mut self.found)?;
            counts.without_history = Some(without_history(&known.schema, &self.codes));
        }
        Ok((ids, counts))
    }

    /// The hash of each row that was encoded last; `bytes` is memory to use.
    pub fn row_hashes(&self, bytes: &mut Vec<u8>) -> Vec<RowHash> {
        self.codes.row_hashes(bytes)
    }

    /// Embeds the batch that was encoded last, all of it or the given rows, into an empty `out`.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed_encoded(
        &mut self,
        batch: &TableBatch,
        ids: &Ids,
        rows: Option<&[usize]>,
        out: &mut Vec<f32>,
    ) -> Result<(), PipelineError> {
        let engine = self.engine.as_mut().ok_or(PipelineError::WorkerPanicked { stage: "infer" })?;
        let norms = match rows {
            None => engine.embed(&self.codes, out)?,
            Some([]) => return Ok(()),
            Some(rows) => {
                self.chosen.clear();
                self.chosen.extend_from_rows(&self.codes, rows.iter().copied());
                engine.embed(&self.chosen, out)?
            }
        };
        if norms == Norms::Unknown
            && let Some((at, norm)) = without_direction(out, engine.dim())
        {
            let row = rows.map_or(at, |rows| rows[at]);
            return Err(PipelineError::Gate(format!(
                "gate `vectors`: {}: row {}: id `{}`: the tower gave a vector of norm {norm}, expected 1; a vector that is zero or not finite has no nearest items: the model has diverged or its weights are lost, train it again",
                batch.table(),
                batch.first_row + row as u64,
                ids.get(row)
            )));
        }
        Ok(())
    }
}

/// The rows of a batch whose sequences are all empty.
fn without_history(schema: &TowerSchema, codes: &CodeBatch) -> u64 {
    let fields = schema.fields.iter().zip(&codes.columns);
    let sequences: Vec<_> = fields
        .filter_map(|(field, column)| match (&field.shape, column) {
            (FieldShape::Sequence { .. }, Column::Ragged(events)) => Some(events),
            _ => None,
        })
        .collect();
    (0..codes.rows()).filter(|row| sequences.iter().all(|events| events.row(*row).is_empty())).count() as u64
}

impl Drop for Embedder<'_> {
    fn drop(&mut self) {
        locked(&self.embedding.engines).extend(self.engine.take());
    }
}

/// How far the norm of a vector may lie from 1: as far as search takes it.
const NORM_TOLERANCE: f32 = twotower_artifacts::vectors::NORM_TOLERANCE as f32;

/// The first row of `vectors` whose norm is not 1, with its norm.
pub(crate) fn without_direction(vectors: &[f32], dim: usize) -> Option<(usize, f32)> {
    const LANES: usize = 8;
    vectors.chunks_exact(dim).enumerate().find_map(|(row, vector)| {
        // Sums side by side, which the compiler turns into vector instructions.
        let mut sums = [0.0f32; LANES];
        let blocks = vector.chunks_exact(LANES);
        let rest: f32 = blocks.remainder().iter().map(|v| v * v).sum();
        blocks.for_each(|block| sums.iter_mut().zip(block).for_each(|(sum, v)| *sum += v * v));
        let norm = (sums.iter().sum::<f32>() + rest).sqrt();
        // NaN lies in no range.
        let unit = (1.0 - NORM_TOLERANCE..=1.0 + NORM_TOLERANCE).contains(&norm);
        (!unit).then_some((row, norm))
    })
}

impl<'a> Infer<'a> {
    /// The stage for the side of the settings; `other` are rows to embed instead of the job's users or items, and the
    /// folder that gets their vectors.
    ///
    /// # Errors
    /// Missing encoders or towers, or such that do not belong together; a table that cannot be read or has no rows.
    pub fn open(
        context: &'a Context<InferSettings>,
        other: Option<(TableSpec, OutputFolder)>,
    ) -> Result<Self, PipelineError> {
        let InferSettings { side, rows, engine, .. } = &context.config;
        let open = || {
            let embedding = Embedding::load("infer", context, *side, rows, *engine)?;
            let source = embedding.source(other.as_ref().map_or(&rows.source, |(table, _)| table))?;
            if other.is_none() {
                embedding.check_table(context, &source)?;
            }
            let is_of_run = other.is_none();
            let other = other.map(|(_, folder)| folder);
            let folder = other.as_ref().map_or_else(|| context.run.vectors(*side), OutputFolder::parts);
            let embedding = embedding.prepare(context, &source, &folder.data())?;
            Ok(Self { context, embedding, source, folder, is_of_run, earlier: None, _other: other })
        };
        let name = format!("infer {side}");
        context.during(&name, open).map_err(|e: PipelineError| e.within(name))
    }

    /// The same, with the vectors of an earlier run for users who have not changed since. What is written is the same.
    ///
    /// # Errors
    /// A run that was named and of which nothing can be taken: its towers, encoder state, engine, precision or version
    /// is another one, or it has no hashes of rows.
    pub fn changed_since(mut self, earlier: &EarlierRun) -> Result<Self, PipelineError> {
        let InferSettings { precision, .. } = self.context.config;
        self.earlier = earlier_vectors(&self.embedding, precision, earlier)?;
        Ok(self)
    }

    /// Rows of the table.
    pub fn rows(&self) -> u64 {
        self.source.rows()
    }

    /// All that a shard's vectors depend on.
    fn key(&self, shard: Shard) -> Result<StageKey, PipelineError> {
        let inputs = self.embedding.inputs(&self.source);
        let ids = ("ids", serde_json::json!(self.embedding.ids));
        Ok(self.context.key("infer", inputs, shard.settings().into_iter().chain([ids])))
    }

    /// Runs the stage for one shard.
    ///
    /// # Errors
    /// Any table, encoder, engine or I/O error, said to have happened in the shard.
    pub fn shard(&self, shard: Shard) -> Result<Outcome, PipelineError> {
        let name = format!("infer {} shard {shard}", self.context.config.side);
        let work = || self.context.during(&name, || infer_shard(self, shard)).map_err(|e| e.within(&name));
        if self.is_of_run {
            recorded(&self.context.run, stage_of(self.context.config.side), shard, work)
        } else {
            work()
        }
    }
}

fn stage_of(side: Side) -> Stage {
    match side {
        Side::User => Stage::InferUsers,
        Side::Item => Stage::InferItems,
    }
}

fn infer_shard(stage: &Infer<'_>, shard: Shard) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let Infer { context, embedding, source, folder, is_of_run, earlier, .. } = stage;
    let (side, total) = (context.config.side, source.rows());
    let range = shard.range(total);

    let place = Place::of_part(folder, shard, *is_of_run);
    let output = match context.begin(stage.key(shard)?, place, started, |_| Ok(true))? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    let InferSettings { precision, compression, row_hashes: hashed, .. } = context.config;
    let mut needs = embedding.needs("infer");
    needs.held.push(("the writer", WRITER_BYTES));
    if hashed {
        needs.held.push(("the writer of hashes", twotower_artifacts::row_hashes::WRITER_BYTES));
        // Codes and vectors of the rows that have changed, gathered; hashes.
        needs.per_row = 2 * needs.per_row + 16;
    }
    if earlier.is_some() {
        needs.held.push(("the earlier run's vectors", WINDOW_BYTES));
        needs.per_row += 4 * embedding.dim as u64;
    }
    let plan = context.plan(&needs)?;
    output.prepare_part(folder, shard, "parquet")?;

    let info = VectorsInfo {
        ids: embedding.ids,
        dim: embedding.dim,
        precision,
        similarity: Similarity::Cosine,
        encoder: embedding.encoded.state.fingerprint().clone(),
        tower: embedding.towers.clone(),
        inner_product_scale: embedding.inner_product_scale,
    };
    let mut writer = VectorsWriter::create(folder.file(shard, "parquet"), &info, compression)?;
    let root = context.run.root();
    let hashes = || row_hashes::create("infer", root, folder, shard, RowHashesInfo { vectors: false });
    let mut hashes = hashed.then(hashes).transpose()?;
    let batches = plan.width.in_flight + writer.kept(plan.batch_rows);
    embedding.spare.reserve(batches, || Vec::with_capacity(plan.batch_rows * embedding.dim));
    let mut bar = context.progress.bar(&format!("infer {side}"), range.end - range.start, "rows");
    let seen = || ShardProgress::begin(&context.run, stage_of(side), shard, &range, total);
    let mut seen = is_of_run.then(seen);
    let (mut encoded, mut ids, mut written) = (EncodeCounts::default(), IdRange::default(), 0);
    let mut taken = earlier.as_ref().map(|parts| TakenDetails::of(parts.run(), parts.fingerprint()));
    let window = |parts| changed::window(parts, embedding.dim, &range, total, &context.cancel);
    let mut window = earlier.as_ref().map(window);
    // Beside each batch, where its users are in the earlier run.
    let batches = embedding.read(source, range.clone(), &plan)?.map(|batch| {
        let batch = batch?;
        let find = |window: &mut _| embedding.matches(&batch, window);
        let matches = window.as_mut().map(find).transpose()?;
        Ok((batch, matches))
    });
    ordered(
        "infer",
        plan.width,
        &context.cancel,
        batches,
        || {
            let (mut worker, mut reuse) = (embedding.worker(plan.width.workers)?, Reuse::new(precision));
            Ok(move |(batch, matches): (TableBatch, Option<_>)| {
                worker.embed_changed(&batch, (hashed, matches.as_ref()), &mut reuse)
            })
        },
        |ChangedBatch { embedded, hashes: of_rows, found, copied }| {
            if let Some(hashes) = &mut hashes {
                hashes.write(&of_rows, &[])?;
            }
            if let Some(taken) = &mut taken {
                taken.add(embedded.ids.len() as u64, found, copied);
            }
            ids.add(&embedded.ids);
            written += embedded.ids.len() as u64;
            writer.write(&embedded.ids, embedded.vectors)?;
            embedding.spare.give(writer.spare());
            encoded.merge(&embedded.counts);
            bar.advance(embedded.ids.len() as u64);
            if let Some(seen) = &mut seen {
                seen.advance(embedded.ids.len() as u64);
            }
            Ok(())
        },
    )?;
    let quarantined = source.account(&range, written)?;
    output.replace()?;
    let mut files = vec![writer.finish()?.under(folder.name())];
    match hashes {
        Some(hashes) => files.push(hashes.finish()?.under(row_hashes::folder(root, folder).name())),
        None if *is_of_run => row_hashes::remove(root, folder, shard)?,
        None => {}
    }
    let mut rows = row_counts([(rows::ROWS, written), (rows::QUARANTINED, quarantined), (rows::TABLE_ROWS, total)]);
    if let Some(taken) = &taken {
        taken.told("infer", "embedded");
        rows.extend(row_counts([(rows::COPIED, taken.copied), (rows::EMBEDDED, taken.made)]));
    }
    rows.extend(encoded.without_history.map(|without| (rows::WITHOUT_HISTORY.to_string(), without)));
    let warnings = encode_warnings::of_features("infer", side, &context.config.rows.spec(), &encoded);
    let part = PartDetails { first_row: range.start, end_row: range.end, ids };
    let details = InferDetails { part, dim: info.dim, inner_product_scale: info.inner_product_scale, encoded, taken };
    output.publish_part(folder, shard, Summary { warnings, ..Summary::new(files, rows, details) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_zero_or_not_finite_is_found_whatever_its_width() {
        for dim in [1, 7, 8, 19] {
            let mut unit = vec![0.0; dim];
            unit[dim - 1] = -1.0;
            let good = unit.repeat(3);
            assert_eq!(without_direction(&good, dim), None);
            for bad in [0.0, f32::NAN, f32::INFINITY, 0.5] {
                let mut vectors = good.clone();
                vectors[2 * dim - 1] = bad;
                assert_eq!(without_direction(&vectors, dim).map(|(row, _)| row), Some(1), "{dim}: {bad}");
            }
        }
    }
}
