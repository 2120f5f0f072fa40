//! `infer`: raw rows in, vectors out, in one pass and bounded memory.

use crate::dataset::History;
use crate::encode::encode_error;
use crate::error::PipelineError;
use crate::shard::Shard;
use crate::side_files::{SideFiles, read_columns};
use crate::stage::{Context, Outcome, StageKey, create_dir, require, rows};
use crate::stream::{Width, ordered};
use crate::train;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use twotower_artifacts::vectors::Similarity;
use twotower_artifacts::{
    ArtifactError, CodeBatch, CodesReader, Column, FieldShape, Fingerprint, IdKind, Ids, Manifest, Side, TowerSchema,
    VectorsInfo, VectorsWriter,
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
    /// Rows to embed instead of the job's users or items.
    pub table: Option<TableSpec>,
}

/// Name of a shard's vectors; its manifest has the extension `json`.
pub fn part_name(shard: Shard) -> String {
    format!("part-{}.parquet", shard.label())
}

/// Name of a shard's manifest.
pub fn manifest_name(shard: Shard) -> String {
    format!("part-{}.json", shard.label())
}

/// The encoder state and tower of one side, checked to belong together.
pub struct Embedding {
    state: EncoderState,
    schema: TowerSchema,
    dim: usize,
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
    /// [`ArtifactError::Mismatch`], naming both fingerprints, when tower and encoders differ.
    pub fn load(stage: &'static str, context: &Context, side: Side) -> Result<Self, PipelineError> {
        let encoders = context.run.encoders();
        require(stage, &encoders.join(crate::encode::files::MANIFEST), "twotower encode-features")?;
        let state = EncoderState::load(&encoders)?;
        let tower = context.run.towers().join(train::files::tower(side));
        require(stage, &context.run.towers().join(train::files::MANIFEST), "twotower train")?;
        let (_, metadata) = twotower_models::onnx::read(&tower)?;
        let (schema, dim) = (metadata.schema, metadata.dim);
        if schema.encoder != *state.fingerprint() {
            return Err(ArtifactError::Mismatch {
                what: format!("{stage}: {}", tower.display()),
                expected_from: format!("encoders {} with fingerprint", encoders.display()),
                expected: state.fingerprint().to_string(),
                found_from: "tower trained on encoders with fingerprint".into(),
                found: schema.encoder.to_string(),
                advice: "run `twotower train` on these encoders, or use the encoders the tower was trained on".into(),
            }
            .into());
        }
        let sequences = schema.fields.iter().any(|f| matches!(f.shape, FieldShape::Sequence { .. }));
        let history = if sequences { Some(History::load(&context.run, &state)?) } else { None };
        let encoded = match side {
            Side::User => crate::encode::files::USERS,
            Side::Item => crate::encode::files::ITEMS,
        };
        let ids = CodesReader::open(encoders.join(encoded))?.info().ids;
        let (spec, joins) = (context.config.side(side), SideFiles::open(context)?);
        Ok(Self { state, schema, dim, tower, ids, spec, joins, history })
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
    let table = Table::open(embedding.table(), options.table.as_ref().unwrap_or(&entity.source))?;
    table.require_rows()?;
    let total = table.rows()?;
    let range = options.shard.range(total);

    let towers = train::towers_fingerprint(&context.run.towers())?;
    let settings = serde_json::json!({
        "side": side,
        "shard": options.shard.index,
        "shards": options.shard.count,
        "engine": context.config.infer.engine,
        "precision": context.config.infer.precision,
    });
    let mut inputs = vec![
        ("encoders", embedding.state.fingerprint().clone()),
        ("towers", towers.clone()),
        ("table", table.fingerprint()),
    ];
    if embedding.history.is_some() {
        inputs.push(("history", history_fingerprint(context)?));
    }
    let key = StageKey::new("infer", inputs, settings);
    let dir = context.run.vectors(side);
    let manifest_path = dir.join(manifest_name(options.shard));
    if !context.force
        && let Some(manifest) = key.current(&manifest_path)?
    {
        return Ok(Outcome { skipped: true, manifest });
    }
    create_dir(&dir)?;
    let _ = std::fs::remove_file(&manifest_path);

    let infer = &context.config.infer;
    let info = VectorsInfo {
        ids: embedding.ids,
        dim: embedding.dim,
        precision: infer.precision,
        similarity: Similarity::Cosine,
        encoder: embedding.state.fingerprint().clone(),
        tower: towers.clone(),
    };
    let mut writer = VectorsWriter::create(dir.join(part_name(options.shard)), &info, infer.compression)?;
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
    let entry = writer.finish()?;
    let written = entry.rows;
    let mut manifest = key.manifest(vec![entry], rows([("rows", written), ("table rows", total)]), started);
    manifest.details = serde_json::json!({ "first_row": range.start, "end_row": range.end, "dim": embedding.dim, "ids": embedding.ids, "encoded": counts });
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

/// A complete set of vector parts of one side: same tower, engine, precision and table, every shard once.
pub struct VectorParts {
    /// Part files in shard order, with the first row of each.
    pub parts: Vec<(PathBuf, u64)>,
    /// Rows in all.
    pub rows: u64,
    /// Kind of the ids.
    pub ids: IdKind,
    /// Fingerprint of the towers they come from.
    pub towers: Fingerprint,
    /// Fingerprint of all parts' content.
    pub fingerprint: Fingerprint,
}

impl VectorParts {
    /// Finds the parts that together cover `wanted` rows of the table (`None` = all of it).
    ///
    /// # Errors
    /// No parts; a missing shard; parts of unlike towers, engines, tables or shard counts.
    pub fn find(stage: &'static str, dir: &Path, side: Side, shard: Option<Shard>) -> Result<Self, PipelineError> {
        let manifests = part_manifests(dir)?;
        let advice = format!("run `twotower infer --side {side}` first");
        let Some((_, first)) = manifests.first() else {
            return Err(PipelineError::MissingInput { stage, path: dir.join("part-*.json"), advice });
        };
        let alike = |m: &Manifest| {
            let mut config = m.config.clone();
            if let Some(object) = config.as_object_mut() {
                object.remove("shard");
            }
            (m.inputs.clone(), config.to_string())
        };
        for (path, manifest) in &manifests {
            if alike(manifest) != alike(first) {
                return Err(PipelineError::Mismatch(format!(
                    "{stage}: {} and {} were made from different towers, tables, engines or numbers of shards; delete the older parts or run `twotower infer --side {side} --force` for all shards",
                    manifests[0].0.display(),
                    path.display()
                )));
            }
        }
        let number = |m: &Manifest, name: &str| m.config[name].as_u64().unwrap_or(0);
        let count = number(first, "shards") as u32;
        let total = first.rows.get("table rows").copied().unwrap_or(0);
        let wanted = shard.map_or(0..total, |s| s.range(total));
        let mut parts = Vec::new();
        let mut fingerprints = Vec::new();
        for index in 0..count {
            let rows = Shard { index, count }.range(total);
            if rows.end <= wanted.start || rows.start >= wanted.end {
                continue;
            }
            let found = manifests.iter().find(|(_, m)| number(m, "shard") == index as u64);
            let Some((path, manifest)) = found else {
                return Err(PipelineError::MissingInput {
                    stage,
                    path: dir.join(manifest_name(Shard { index, count })),
                    advice: format!("run `twotower infer --side {side} --shard {index}/{count}`"),
                });
            };
            let file = manifest.files.first().map(|f| f.path.clone()).unwrap_or_default();
            parts.push((path.with_file_name(file), rows.start));
            fingerprints.push(manifest.fingerprint.to_string());
        }
        let towers = first.inputs.get("towers").cloned().unwrap_or_else(|| Fingerprint::of(b""));
        Ok(Self {
            parts,
            rows: total,
            ids: serde_json::from_value(first.details["ids"].clone()).unwrap_or(IdKind::Text),
            towers,
            fingerprint: Fingerprint::of(fingerprints.join(" ").as_bytes()),
        })
    }
}

fn part_manifests(dir: &Path) -> Result<Vec<(PathBuf, Manifest)>, PipelineError> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(PipelineError::io("list", dir)(e)),
    };
    paths.retain(|p| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("part-") && n.ends_with(".json"))
    });
    paths.sort();
    paths.into_iter().map(|p| Ok((p.clone(), Manifest::read(&p)?))).collect()
}
