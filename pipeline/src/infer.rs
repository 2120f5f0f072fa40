//! `infer`: raw rows in, vectors out, in one pass and bounded memory.

use crate::dataset::History;
use crate::encode::encode_error;
use crate::error::PipelineError;
use crate::parts::{exclude_other_counts, manifest_name, part_name};
use crate::shard::Shard;
use crate::side_files::{SideFiles, read_columns};
use crate::stage::{Context, Outcome, StageKey, prepare_dir, remove_if_there, require, rows};
use crate::stream::{Width, ordered};
use crate::towers::{check_tower, files, verified_towers};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use twotower_artifacts::vectors::Similarity;
use twotower_artifacts::{
    CodeBatch, CodesReader, Column, FieldShape, Fingerprint, IdKind, Ids, Side, TowerSchema, VectorsInfo, VectorsWriter,
};
use twotower_encoders::{EncodeCounts, EncoderState, SideEncoder, SideSpec};
use twotower_models::engine::{self, Engine};
use twotower_tables::{ReadOptions, Table, TableBatch, TableSpec, id_column_as};

/// Options of the stage beside the job's own.
#[derive(Debug, Clone)]
pub struct InferOptions {
    /// Which tower, and so which table.
    pub side: Side,
    /// Which part of the table.
    pub shard: Shard,
    /// Rows to embed instead of the job's users or items, and the folder that gets their vectors.
    pub other: Option<(TableSpec, PathBuf)>,
}

/// The encoder state and tower of one side, checked to belong together.
pub struct Embedding {
    state: EncoderState,
    schema: TowerSchema,
    dim: usize,
    /// Fingerprint of both towers.
    towers: Fingerprint,
    tower: PathBuf,
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
    pub fn load(stage: &'static str, context: &Context, side: Side) -> Result<Self, PipelineError> {
        let encoders = context.run.encoders();
        require(stage, &encoders.join(crate::encode::files::MANIFEST), "twotower encode-features")?;
        let state = EncoderState::load(&encoders)?;
        let towers = verified_towers(stage, context)?.fingerprint;
        let tower = context.run.towers().join(files::tower(side));
        let (_, metadata) = twotower_models::onnx::read(&tower)?;
        let (schema, dim) = (metadata.schema, metadata.dim);
        check_tower(stage, context, side, &schema.encoder, state.fingerprint())?;
        let sequences = schema.fields.iter().any(|f| matches!(f.shape, FieldShape::Sequence { .. }));
        let history = if sequences { Some(History::load(&context.run, &state)?) } else { None };
        let encoded = match side {
            Side::User => crate::encode::files::USERS,
            Side::Item => crate::encode::files::ITEMS,
        };
        let ids = CodesReader::open(encoders.join(encoded))?.info().ids;
        let (spec, fitted) = (context.config.side(side), state.side(side).spec());
        if spec.features != fitted.features {
            return Err(PipelineError::Mismatch(format!(
                "{stage}: the job's {side} features are not those that {} was fitted with; run `twotower encode-features`",
                encoders.display()
            )));
        }
        let joins = SideFiles::open(context, &[side])?;
        Ok(Self { state, schema, dim, towers, tower, ids, spec, joins, history })
    }

    /// A worker with an engine of its own.
    pub fn worker(&self, engine: Box<dyn Engine>) -> Embedder<'_> {
        let encoder = self.state.encoder(self.schema.side);
        Embedder { embedding: self, engine, encoder, codes: CodeBatch::empty(&self.schema) }
    }

    /// Name of the table of raw rows.
    fn table(&self) -> &'static str {
        match self.schema.side {
            Side::User => "users",
            Side::Item => "items",
        }
    }
}

/// Turns raw rows into vectors on one thread.
pub struct Embedder<'a> {
    embedding: &'a Embedding,
    engine: Box<dyn Engine>,
    encoder: SideEncoder,
    codes: CodeBatch,
}

/// Ids and vectors of some rows.
pub struct Embedded {
    /// One id per row.
    pub ids: Ids,
    /// `[rows, dim]`, unit rows.
    pub vectors: Vec<f32>,
    /// What the encoders met.
    pub counts: EncodeCounts,
}

impl Embedder<'_> {
    /// Encodes and embeds a batch; values unseen in training take the unknown slot.
    ///
    /// # Errors
    /// Encoder and engine errors; a vector that is not finite.
    pub fn embed(&mut self, batch: &TableBatch) -> Result<Embedded, PipelineError> {
        let known = self.embedding;
        let ids = id_column_as(batch, &known.spec.id_column, known.ids)?;
        let rows = known.joins.join(&known.spec, known.schema.side, batch)?;
        self.codes.clear();
        let counts = self.encoder.encode(&rows, &mut self.codes).map_err(|e| encode_error(e, batch))?;
        if let Some(history) = &known.history {
            fill_sequences(&known.schema, history, &ids, &mut self.codes);
        }
        let mut vectors = vec![0.0; ids.len() * self.engine.dim()];
        self.engine.embed(&self.codes, &mut vectors)?;
        if let Some(at) = vectors.iter().position(|v| !v.is_finite()) {
            let row = at / self.engine.dim();
            return Err(PipelineError::Gate(format!(
                "{}: row {}: id `{}`: the tower gave a vector that is not finite; the model has diverged, train it again",
                known.table(),
                batch.first_row + row as u64,
                ids.get(row)
            )));
        }
        Ok(Embedded { ids, vectors, counts })
    }
}

/// Fills the sequence columns of a batch whose rows belong to `ids`.
fn fill_sequences(schema: &TowerSchema, history: &History, ids: &Ids, codes: &mut CodeBatch) {
    for (field, column) in schema.fields.iter().zip(&mut codes.columns) {
        if let (FieldShape::Sequence { max_len, .. }, Column::Ragged(ragged)) = (&field.shape, column) {
            ragged.clear();
            ids.iter().for_each(|id| ragged.push_row(history.sequence(id, *max_len as usize)));
        }
    }
}

/// Runs the stage for one shard.
///
/// # Errors
/// Any table, encoder, engine or I/O error, said to have happened in the shard.
pub fn infer(context: &Context, options: &InferOptions) -> Result<Outcome, PipelineError> {
    infer_shard(context, options).map_err(|e| e.within(format!("infer {} shard {}", options.side, options.shard)))
}

fn infer_shard(context: &Context, options: &InferOptions) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let side = options.side;
    let embedding = Embedding::load("infer", context, side)?;
    let entity = context.config.table(side);
    let table = Table::open(embedding.table(), options.other.as_ref().map_or(&entity.source, |(table, _)| table))?;
    table.require_rows()?;
    let total = table.rows()?;
    let range = options.shard.range(total);

    let settings = serde_json::json!({
        "side": side,
        "shard": options.shard.index,
        "shards": options.shard.count,
        "id": embedding.spec.id_column,
        "ids": embedding.ids,
        "engine": context.config.infer.engine,
        "precision": context.config.infer.precision,
        "compression": context.config.infer.compression,
    });
    let mut inputs = vec![
        ("encoders", embedding.state.fingerprint().clone()),
        ("towers", embedding.towers.clone()),
        ("table", table.fingerprint()),
    ];
    inputs.extend(embedding.joins.inputs());
    if embedding.history.is_some() {
        inputs.push(("history", history_fingerprint(context)?));
    }
    let key = StageKey::new("infer", inputs, settings);
    let dir = options.other.as_ref().map_or_else(|| context.run.vectors(side), |(_, dir)| dir.clone());
    let manifest_path = dir.join(manifest_name(options.shard));
    if !context.force
        && let Some(manifest) = key.current(&manifest_path)?
    {
        return Ok(Outcome { skipped: true, manifest });
    }
    prepare_dir(&dir)?;
    exclude_other_counts("infer", &dir, options.shard, context.force)?;

    let infer = &context.config.infer;
    let info = VectorsInfo {
        ids: embedding.ids,
        dim: embedding.dim,
        precision: infer.precision,
        similarity: Similarity::Cosine,
        encoder: embedding.state.fingerprint().clone(),
        tower: embedding.towers.clone(),
    };
    let mut writer = VectorsWriter::create(dir.join(part_name(options.shard, "parquet")), &info, infer.compression)?;
    let mut bar = context.progress.bar(&format!("infer {side}"), range.end - range.start, "rows");
    let mut counts = EncodeCounts::default();
    let columns = read_columns(&embedding.spec);
    let read = ReadOptions { columns: &columns, rows: range.clone(), batch_rows: infer.batch_rows };
    let source = table.read(read)?.map(|b| b.map_err(PipelineError::from));
    let workers = context.config.workers();
    let engines = Mutex::new(engine::open_workers(infer.engine, &embedding.tower, workers)?);
    ordered(
        "infer",
        Width { workers, in_flight: workers * 2 + 1 },
        &context.cancel,
        source,
        || {
            let engine = engines.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let engine = engine.ok_or(PipelineError::WorkerPanicked { stage: "infer" })?;
            let mut worker = embedding.worker(engine);
            Ok(move |batch: TableBatch| worker.embed(&batch))
        },
        |embedded: Embedded| {
            writer.write(&embedded.ids, &embedded.vectors)?;
            counts.merge(&embedded.counts);
            bar.advance(embedded.ids.len() as u64);
            Ok(())
        },
    )?;
    match options.other {
        Some(_) => remove_if_there(&manifest_path)?,
        None => context.retract(&manifest_path)?,
    }
    let entry = writer.finish()?;
    let written = entry.rows;
    if written != range.end - range.start {
        return Err(PipelineError::Data(format!(
            "{}: {written} rows were read, {} were counted; the table changed meanwhile, run the command again",
            embedding.table(),
            range.end - range.start
        )));
    }
    let mut manifest = key.manifest(vec![entry], rows([("rows", written), ("table rows", total)]), started);
    manifest.details =
        serde_json::json!({ "first_row": range.start, "end_row": range.end, "dim": embedding.dim, "encoded": counts });
    manifest.warnings = crate::encode::warn_of("infer", side, &counts);
    manifest.write(&manifest_path)?;
    Ok(Outcome { skipped: false, manifest })
}

/// Fingerprint of the encoded tables that histories come from.
///
/// # Errors
/// When `encode-features` left no manifest.
pub fn history_fingerprint(context: &Context) -> Result<Fingerprint, PipelineError> {
    let path = context.run.encoders().join(crate::encode::files::MANIFEST);
    let manifest = require("infer", &path, "twotower encode-features")?;
    Ok(crate::stage::content_fingerprint(&manifest.files))
}
