//! `recall`: each user's nearest items, with exclusions, as cosine similarities.

use crate::dataset::History;
use crate::error::PipelineError;
use crate::exclusions::Exclusion;
use crate::id_index::IdIndex;
use crate::parts::{VectorParts, exclude_other_counts, manifest_name, part_name};
use crate::shard::Shard;
use crate::stage::{Context, Outcome, StageKey, create_dir, prepare_dir, remove_if_there, rows};
use crate::stream::{Width, ordered};
use crate::towers::verified_towers;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;
use twotower_artifacts::neighbours::open_sink;
use twotower_artifacts::vectors::load_parts;
use twotower_artifacts::{
    ArtifactError, FileEntry, Ids, NeighbourFormat, NeighbourLists, NeighboursInfo, Ragged, Side, VectorsReader,
};
use twotower_encoders::EncoderState;
use twotower_index::store::{IMAGE_NAME, MANIFEST_NAME};
use twotower_index::{Eligibility, Exclusions, ItemIndex, ItemVectors, Neighbours, Request};

/// Users searched at a time.
const BATCH_ROWS: usize = 2048;

/// Options of the stage beside the job's own.
#[derive(Debug, Clone)]
pub struct RecallOptions {
    /// Which part of the users.
    pub shard: Shard,
}

/// Runs the stage for one shard.
///
/// # Errors
/// Missing vector parts, parts of unlike towers, an index below its recall gate, I/O.
pub fn recall(context: &Context, options: &RecallOptions) -> Result<Outcome, PipelineError> {
    recall_shard(context, options).map_err(|e| e.within(format!("recall shard {}", options.shard)))
}

fn recall_shard(context: &Context, options: &RecallOptions) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let config = &context.config;
    let items = VectorParts::find("recall", &context.run.vectors(Side::Item), Side::Item, None)?;
    let users = VectorParts::find("recall", &context.run.vectors(Side::User), Side::User, Some(options.shard))?;
    let towers = verified_towers("recall", context)?.fingerprint;
    if items.towers != towers {
        return Err(ArtifactError::Mismatch {
            what: "recall: item vectors".into(),
            expected_from: "the run's towers with fingerprint".into(),
            expected: towers.to_string(),
            found_from: "vectors of towers with fingerprint".into(),
            found: items.towers.to_string(),
            advice: "run `twotower infer --side item` and `--side user` again".into(),
        }
        .into());
    }
    if items.towers != users.towers {
        return Err(ArtifactError::Mismatch {
            what: "recall: user vectors".into(),
            expected_from: "item vectors of towers with fingerprint".into(),
            expected: items.towers.to_string(),
            found_from: "user vectors of towers with fingerprint".into(),
            found: users.towers.to_string(),
            advice: "run `twotower infer --side user` and `--side item` with the same towers".into(),
        }
        .into());
    }
    if items.engine != users.engine {
        return Err(PipelineError::Mismatch(format!(
            "recall: user vectors were made by engine `{}`, item vectors by `{}`; run `twotower infer` for one side with the other's engine",
            users.engine, items.engine
        )));
    }
    let exclusion_inputs = Exclusion::inputs(context)?;
    let mut inputs = vec![("user vectors", users.fingerprint.clone()), ("item vectors", items.fingerprint.clone())];
    inputs.extend(exclusion_inputs.iter().map(|(name, f)| (*name, f.clone())));
    let settings = serde_json::json!({
        "shard": options.shard.index,
        "shards": options.shard.count,
        "recall": config.recall,
        "index": config.index,
        "compression": config.infer.compression,
    });
    let key = StageKey::new("recall", inputs, settings);
    let dir = context.run.recall();
    let manifest_path = dir.join(manifest_name(options.shard));
    if !context.force
        && let Some(manifest) = key.current(&manifest_path)?
    {
        return Ok(Outcome { skipped: true, manifest });
    }
    prepare_dir(&dir)?;
    exclude_other_counts("recall", &dir, options.shard, context.force)?;

    let catalogue = Catalogue::load(&items)?;
    let index = catalogue.index(context)?;
    let state = EncoderState::load(context.run.encoders())?;
    let history = if config.recall.exclude_seen { Some(History::load(&context.run, &state)?) } else { None };
    let exclusion = Exclusion::load(context, history, users.ids, &catalogue.ids)?;
    let eligible = exclusion.eligible(&catalogue.ids);
    let k = config.recall.topk;
    let mut warnings = Vec::new();
    if k > eligible.eligible() {
        let note =
            format!("topk = {k}, but only {} items are eligible: users get at most that many", eligible.eligible());
        tracing::warn!("recall: {note}");
        warnings.push(note);
    }

    let range = options.shard.range(users.rows);
    let mut bar = context.progress.bar("recall", range.end - range.start, "users");
    let name = part_name(options.shard, config.recall.format.extension());
    let item_ids = catalogue.ids.ids();
    let info = NeighboursInfo { users: users.ids, items: item_ids.kind() };
    let mut sink = open_sink(config.recall.format, dir.join(name), &info, config.infer.compression)?;
    let mut batches = Vec::new();
    for (path, first) in &users.parts {
        let rows = range.start.saturating_sub(*first)..range.end.saturating_sub(*first);
        batches.push(VectorsReader::open(path)?.batches(rows, BATCH_ROWS)?);
    }
    let source = batches.into_iter().flatten().map(|b| b.map_err(PipelineError::from));
    let (mut users_written, mut pairs, mut short) = (0u64, 0u64, 0u64);
    let (mut offsets, mut item_rows, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    ordered(
        "recall",
        Width { workers: config.workers(), in_flight: config.workers() * 2 + 1 },
        &context.cancel,
        source,
        || Ok(|(ids, vectors): (Ids, Vec<f32>)| search(index.as_ref(), &exclusion, &eligible, k, ids, &vectors)),
        |(ids, found): (Ids, Neighbours)| {
            offsets.clear();
            item_rows.clear();
            scores.clear();
            offsets.push(0);
            for q in 0..ids.len() {
                item_rows.extend_from_slice(found.rows(q));
                scores.extend_from_slice(found.scores(q));
                offsets.push(item_rows.len());
                short += u64::from(found.rows(q).len() < k);
            }
            pairs += item_rows.len() as u64;
            users_written += ids.len() as u64;
            bar.advance(ids.len() as u64);
            let lists = NeighbourLists { offsets: &offsets, rows: &item_rows, scores: &scores, item_ids };
            Ok(sink.write(&ids, &lists)?)
        },
    )?;
    context.retract(&manifest_path)?;
    for other in NeighbourFormat::ALL.into_iter().filter(|f| f.extension() != config.recall.format.extension()) {
        remove_if_there(&dir.join(part_name(options.shard, other.extension())))?;
    }
    let entry = sink.finish()?;
    let mut manifest = key.manifest(
        vec![entry],
        rows([("users", users_written), ("pairs", pairs), ("users with fewer than topk", short)]),
        started,
    );
    manifest.warnings = warnings;
    manifest.details = serde_json::json!({
        "first_row": range.start,
        "end_row": range.end,
        "similarity": "cosine",
        "index": index.manifest(),
        "eligible items": eligible.eligible(),
    });
    manifest.write(&manifest_path)?;
    Ok(Outcome { skipped: false, manifest })
}

/// Searches one batch of users on the calling thread.
fn search(
    index: &dyn ItemIndex,
    exclusion: &Exclusion,
    eligible: &Eligibility,
    k: usize,
    ids: Ids,
    vectors: &[f32],
) -> Result<(Ids, Neighbours), PipelineError> {
    let mut excluded = Ragged::default();
    ids.iter().for_each(|user| excluded.push_row(exclusion.rows(user)));
    let request = Request { queries: vectors, k, exclude: Exclusions::new(&excluded), eligible };
    let mut found = Neighbours::default();
    index.search(&request, &mut found)?;
    Ok((ids, found))
}

/// Item ids and vectors in id order, so that ties by row are ties by id.
pub struct Catalogue {
    /// Ids, ascending.
    pub ids: IdIndex,
    vectors: ItemVectors,
}

impl Catalogue {
    /// Reads all item vectors.
    ///
    /// # Errors
    /// Damaged parts, duplicate ids, vectors that are not unit vectors.
    pub fn load(parts: &VectorParts) -> Result<Self, PipelineError> {
        let paths: Vec<PathBuf> = parts.parts.iter().map(|(path, _)| path.clone()).collect();
        let loaded = load_parts(&paths)?;
        let (info, ids, vectors) =
            loaded.ok_or_else(|| PipelineError::Data("recall: the items table has no rows".into()))?;
        let order = ids.sorted_positions();
        let dim = info.dim;
        let sorted: Vec<f32> = order.iter().flat_map(|r| vectors[r * dim..][..dim].iter().copied()).collect();
        let mut ascending = Ids::new(ids.kind());
        ascending.extend_from(&ids, order.iter().copied());
        let ids = IdIndex::new(ascending).map_err(|(first, _)| {
            let id = ids.get(order[first]);
            PipelineError::Data(format!(
                "recall: item id `{id}` has two vectors; remove the duplicate from the items table"
            ))
        })?;
        Ok(Self { ids, vectors: ItemVectors::new(dim, sorted)? })
    }

    /// The saved index of these vectors, or a new one, built, checked and saved.
    ///
    /// # Errors
    /// [`twotower_index::IndexError::RecallTooLow`] when it misses its gate; I/O.
    pub fn index(&self, context: &Context) -> Result<Box<dyn ItemIndex>, PipelineError> {
        let started = Instant::now();
        let dir = context.run.index();
        let config = &context.config.index;
        let key = StageKey::new(
            "index",
            [("item vectors", self.vectors.fingerprint().clone())],
            serde_json::json!({ "index": config }),
        );
        let manifest_path = dir.join("stage.json");
        create_dir(&dir)?;
        // One shard builds, the others wait for it and open what it built.
        let folder = File::open(&dir).map_err(PipelineError::io("open", &dir))?;
        folder.lock().map_err(PipelineError::io("lock", &dir))?;
        if !context.force && key.current(&manifest_path)?.is_some() {
            return Ok(twotower_index::open(&dir, self.vectors.fingerprint())?);
        }
        prepare_dir(&dir)?;
        let stop = context.cancel.clone();
        let mut observer = |_| if stop.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let (index, report) = twotower_index::build(config, self.vectors.clone(), None, &mut observer)?;
        tracing::info!("recall: {} index: {}", report.kind, report.reason);
        if let (Some(recall), Some(ef)) = (report.recall, report.ef_search) {
            tracing::info!(
                "recall: index recall@50 {recall:.4} at ef {ef}, {} unreachable items mended, {:.1} s",
                report.unreachable,
                report.seconds
            );
        }
        remove_if_there(&manifest_path)?;
        twotower_index::save(index.as_ref(), &dir)?;
        let files = [IMAGE_NAME, MANIFEST_NAME].map(|name| FileEntry::of_file(&dir, name, index.count() as u64));
        let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
        let manifest = key.manifest(files, rows([("items", index.count() as u64)]), started);
        manifest.write(&manifest_path)?;
        Ok(index)
    }
}
