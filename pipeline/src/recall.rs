//! `recall`: each user's nearest items, with exclusions, as cosine similarities.

use crate::error::PipelineError;
use crate::exclusions::Exclusion;
use crate::id_index::IdIndex;
use crate::infer::{Embedded, Embedding};
use crate::memory::{MIB, Needs, Plan};
use crate::parts::{KeyRange, VectorParts, exclude_other_counts, manifest_name, part_name};
use crate::quarantine::{QUARANTINE, Quarantine};
use crate::run_lock;
use crate::sample::{self, SampleSink};
use crate::shard::Shard;
use crate::source::Source;
use crate::stage::{Context, Outcome, StageKey, as_written, prepare_dir, remove_if_there, rows};
use crate::stream::ordered;
use crate::towers::verified_towers;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::time::Instant;
use twotower_artifacts::neighbours::open_sink;
use twotower_artifacts::publish::create_folder;
use twotower_artifacts::vectors::load_parts;
use twotower_artifacts::{
    ArtifactError, FileEntry, Fingerprint, IdKind, Ids, Manifest, NeighbourFormat, NeighbourLists, NeighboursInfo,
    Ragged, Side, VectorsReader,
};
use twotower_encoders::EncodeCounts;
use twotower_index::store::{IMAGE_NAME, MANIFEST_NAME};
use twotower_index::{Eligibility, Exclusions, IndexError, ItemIndex, ItemVectors, Neighbours, Request};

/// The manifest of building the index, inside its folder.
pub const INDEX_STAGE: &str = "stage.json";

/// The stage, ready for its shards.
pub struct Recall<'a> {
    context: &'a Context,
    items: VectorParts,
    /// Users that are embedded on the way, with `recall.fused`.
    raw: Option<Users>,
    searched: Option<Searched>,
}

/// What every shard is searched in; made by the first that is not complete.
struct Searched {
    catalogue: Catalogue,
    index: Box<dyn ItemIndex>,
    exclusion: Exclusion,
}

impl<'a> Recall<'a> {
    /// The stage on the vectors that `infer` wrote, or, with `recall.fused`, on raw rows that are embedded on the
    /// way and whose vectors never touch the disk.
    ///
    /// # Errors
    /// Missing item vectors, or parts of them that do not belong together; for raw rows as [`Embedding::load`].
    pub fn open(context: &'a Context) -> Result<Self, PipelineError> {
        let open = || {
            let items = VectorParts::find("recall", &context.run.vectors(Side::Item), Side::Item, None)?;
            let raw = if context.config.recall.fused { Some(Users::raw(context)?) } else { None };
            Ok(Self { context, items, raw, searched: None })
        };
        context.during("recall", open).map_err(|e: PipelineError| e.within("recall"))
    }

    /// Number of users.
    ///
    /// # Errors
    /// Missing vector parts.
    pub fn rows(&self) -> Result<u64, PipelineError> {
        match &self.raw {
            Some(users) => Ok(users.rows()),
            None => Ok(Users::stored(self.context, None)?.rows()),
        }
    }

    /// Runs the stage for one shard.
    ///
    /// # Errors
    /// Missing vector parts, parts of unlike towers, an index below its recall gate, I/O.
    pub fn shard(&mut self, shard: Shard) -> Result<Outcome, PipelineError> {
        let name = format!("recall shard {shard}");
        self.context.during(&name, || recall_shard(self, shard)).map_err(|e| e.within(name))
    }
}

impl Searched {
    fn load(context: &Context, items: &VectorParts, users: IdKind) -> Result<Self, PipelineError> {
        items.verify("recall", &context.cancel)?;
        let catalogue = Catalogue::load(items)?;
        let index = context.during("the index", || catalogue.index(context))?;
        let exclude = || Exclusion::load(context, users, &catalogue.ids, &context.run.recall());
        let exclusion = context.during("reading exclusions", exclude)?;
        Ok(Self { catalogue, index, exclusion })
    }
}

fn recall_shard(stage: &mut Recall<'_>, shard: Shard) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let Recall { context, items, raw, searched } = stage;
    let config = &context.config;
    let stored;
    let users = match raw {
        Some(users) => &*users,
        None => {
            stored = Users::stored(context, Some(shard))?;
            &stored
        }
    };
    users.check(context, items)?;
    let mut inputs = users.inputs(context)?;
    inputs.push(("item vectors", items.fingerprint.clone()));
    inputs.extend(Exclusion::inputs(context)?);
    let settings = serde_json::json!({
        "shard": shard.index,
        "shards": shard.count,
        "recall": config.recall,
        "index": config.index,
        "engine": items.engine,
        "compression": config.infer.compression,
        "sampled users": sample::wanted(config.recall.topk),
    });
    let key = StageKey::new("recall", inputs, settings);
    let dir = context.run.recall();
    let manifest_path = dir.join(manifest_name(shard));
    if !context.force
        && let Some(manifest) = key.current(&manifest_path, &context.cancel)?
        && index_fits(context, items, &manifest)?
    {
        return Ok(Outcome { skipped: true, manifest });
    }
    prepare_dir(&dir)?;
    exclude_other_counts("recall", &dir, shard, context.force || context.sole, || context.withdraw())?;

    if let Users::Stored { parts, .. } = users {
        parts.verify("recall", &context.cancel)?;
    }
    let Searched { catalogue, index, exclusion } = match searched {
        Some(searched) => &*searched,
        none => none.insert(Searched::load(context, items, users.ids())?),
    };
    let eligible = exclusion.eligible(&catalogue.ids);
    let k = config.recall.topk;
    let mut warnings = Vec::new();
    if k > eligible.eligible() {
        let note =
            format!("topk = {k}, but only {} items are eligible: users get at most that many", eligible.eligible());
        tracing::warn!("recall: {note}");
        warnings.push(note);
    }
    let plan = context.plan(&users.needs(context, catalogue, index.as_ref(), exclusion))?;

    let range = shard.range(users.rows());
    let name = part_name(shard, config.recall.format.extension());
    let item_ids = catalogue.ids.ids();
    let info = NeighboursInfo { users: users.ids(), items: item_ids.kind() };
    let mut sink = open_sink(config.recall.format, dir.join(name), &info, k, config.infer.compression)?;
    let mut sampled = SampleSink::create(&context.run, shard, users.rows(), &info, k, config.infer.compression)?;
    let mut bar = context.progress.bar("recall", range.end - range.start, "users");
    let (mut totals, mut keys) = (Totals::default(), KeyRange::default());
    let (mut offsets, mut item_rows, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    let search = Search { context, plan, index: index.as_ref(), exclusion, eligible: &eligible };
    users.search(&search, range.clone(), |found| {
        offsets.clear();
        item_rows.clear();
        scores.clear();
        offsets.push(0);
        for q in 0..found.ids.len() {
            item_rows.extend_from_slice(found.neighbours.rows(q));
            scores.extend_from_slice(found.neighbours.scores(q));
            offsets.push(item_rows.len());
        }
        totals.add(&found, k);
        keys.add(&found.ids);
        bar.advance(found.ids.len() as u64);
        let lists = NeighbourLists { offsets: &offsets, rows: &item_rows, scores: &scores, item_ids };
        sampled.write(&found.ids, &lists)?;
        Ok(sink.write(&found.ids, &lists)?)
    })?;
    let quarantined = users.quarantine().account(&range, totals.users)?;
    context.retract(&manifest_path)?;
    for other in NeighbourFormat::ALL.into_iter().filter(|f| f.extension() != config.recall.format.extension()) {
        remove_if_there(&dir.join(part_name(shard, other.extension())))?;
    }
    let entries = vec![sink.finish()?, sampled.finish()?];
    warnings.extend(exclusion.warning().map(str::to_string));
    warnings.extend(crate::encode::warn_of("recall", Side::User, &totals.counts));
    let mut manifest = key.manifest(
        entries,
        rows([
            ("users", totals.users),
            ("quarantined", quarantined),
            ("table rows", users.rows()),
            ("pairs", totals.pairs),
            ("users with fewer than topk", totals.short),
        ]),
        started,
    );
    manifest.warnings = warnings;
    manifest.details = serde_json::json!({
        "first_row": range.start,
        "end_row": range.end,
        "first_id": keys.first_id,
        "last_id": keys.last_id,
        "similarity": "cosine",
        "index": index.manifest(),
        "eligible items": eligible.eligible(),
        "encoded": totals.counts,
    });
    manifest.write(&manifest_path)?;
    Ok(Outcome { skipped: false, manifest })
}

/// Whether the run's index is the one that a result was searched with. A lost or foreign one is built again:
/// the result stays if it comes out as it was.
fn index_fits(context: &Context, items: &VectorParts, manifest: &Manifest) -> Result<bool, PipelineError> {
    let dir = context.run.index();
    let saved = || -> Option<serde_json::Value> {
        Manifest::read(dir.join(INDEX_STAGE)).ok()?.verify_files(&dir).ok()?;
        serde_json::from_slice(&std::fs::read(dir.join(MANIFEST_NAME)).ok()?).ok()
    };
    if saved().is_some_and(|saved| saved == manifest.details["index"]) {
        return Ok(true);
    }
    tracing::warn!("recall: {} is not the index that was searched; building it again", dir.display());
    items.verify("recall", &context.cancel)?;
    let index = Catalogue::load(items)?.index(context)?;
    Ok(as_written(&serde_json::json!(index.manifest())) == manifest.details["index"])
}

/// Where the vectors of users come from.
enum Users {
    /// Parts that `infer` wrote, and the rows of the table that it left out.
    Stored { parts: VectorParts, quarantine: Quarantine },
    /// Raw rows, embedded on the way.
    Raw { embedding: Box<Embedding>, source: Source },
}

impl Users {
    /// Parts that cover a shard, or all users.
    fn stored(context: &Context, shard: Option<Shard>) -> Result<Self, PipelineError> {
        let parts = VectorParts::find("recall", &context.run.vectors(Side::User), Side::User, shard)?;
        let quarantine = match &parts.quarantine {
            Some(expected) => Quarantine::of_vectors("recall", &context.run, expected)?,
            None => Quarantine::default(),
        };
        Ok(Users::Stored { parts, quarantine })
    }

    fn raw(context: &Context) -> Result<Self, PipelineError> {
        let embedding = Box::new(Embedding::load("recall", context, Side::User)?);
        let source = embedding.source(&context.config.tables.users.source)?;
        Ok(Users::Raw { embedding, source })
    }

    fn inputs(&self, context: &Context) -> Result<Vec<(&str, Fingerprint)>, PipelineError> {
        match self {
            Users::Stored { parts, .. } => {
                let quarantine = parts.quarantine.iter().map(|f| (QUARANTINE, f.clone()));
                Ok([("user vectors", parts.fingerprint.clone())].into_iter().chain(quarantine).collect())
            }
            Users::Raw { embedding, source } => embedding.inputs(context, source),
        }
    }

    fn ids(&self) -> IdKind {
        match self {
            Users::Stored { parts, .. } => parts.ids,
            Users::Raw { embedding, .. } => embedding.ids(),
        }
    }

    fn rows(&self) -> u64 {
        match self {
            Users::Stored { parts, .. } => parts.rows,
            Users::Raw { source, .. } => source.rows(),
        }
    }

    /// Rows of the table that have no vectors.
    fn quarantine(&self) -> &Quarantine {
        match self {
            Users::Stored { quarantine, .. } => quarantine,
            Users::Raw { source, .. } => source.quarantine(),
        }
    }

    /// Checks that users and items were, or will be, embedded by the same towers and engine.
    fn check(&self, context: &Context, items: &VectorParts) -> Result<(), PipelineError> {
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
        let own_engine = context.config.infer.engine.to_string();
        let (towers, engine) = match self {
            Users::Stored { parts, .. } => (&parts.towers, &parts.engine),
            Users::Raw { embedding, .. } => (embedding.towers(), &own_engine),
        };
        if items.towers != *towers {
            return Err(differ("user", "item vectors of towers", &items.towers, towers).into());
        }
        if items.engine != *engine {
            return Err(PipelineError::Mismatch(format!(
                "recall: user vectors are made by engine `{engine}`, item vectors by `{}`; run `twotower infer` for one side with the other's engine",
                items.engine
            )));
        }
        Ok(())
    }

    /// What the stage holds in memory.
    fn needs(&self, context: &Context, catalogue: &Catalogue, index: &dyn ItemIndex, exclusion: &Exclusion) -> Needs {
        let (items, dim, k) = (index.count(), index.dim(), context.config.recall.topk);
        let mut needs = match self {
            Users::Stored { .. } => Needs {
                stage: "recall",
                held: Vec::new(),
                quarters: Vec::new(),
                per_worker: 0,
                per_row: 4 * dim as u64,
            },
            Users::Raw { embedding, .. } => embedding.needs("recall", context.config.infer.engine),
        };
        needs.held.extend([
            ("the items", (items * (dim * 4 + 8)) as u64 + index.image().bytes().len() as u64 + catalogue.ids.bytes()),
            ("exclusions", exclusion.bytes()),
            ("the writer", twotower_artifacts::neighbours::writer_bytes(k)),
            ("the sample of results", sample::bytes(k)),
        ]);
        // Scores of a block of queries, and marks of visited items.
        needs.per_worker += 4 * MIB + 8 * items as u64;
        // Neighbours stand in the batch and in the writer's columns.
        needs.per_row += 24 + 24 * k as u64;
        needs
    }

    /// Embeds or reads the rows, searches them, and hands the results to `sink` in order.
    fn search(
        &self,
        search: &Search<'_>,
        rows: Range<u64>,
        sink: impl FnMut(Found) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        match self {
            Users::Stored { parts, quarantine } => {
                let mut batches = Vec::new();
                for (path, part) in &parts.parts {
                    // Rows of the part before a row of the table.
                    let before = |row: u64| {
                        let row = row.clamp(part.start, part.end);
                        row - part.start - quarantine.within(&(part.start..row))
                    };
                    let rows = before(rows.start)..before(rows.end);
                    batches.push(VectorsReader::open(path)?.batches(rows, search.plan.batch_rows)?);
                }
                let source = batches.into_iter().flatten().map(|b| b.map_err(PipelineError::from));
                let stored = |(ids, vectors)| Ok(Embedded { ids, vectors, counts: EncodeCounts::default() });
                search.run(source, || Ok(stored), sink)
            }
            Users::Raw { embedding, source } => {
                let source = embedding.read(source, rows, &search.plan)?;
                let engine = search.context.config.infer.engine;
                let engines = embedding.engines(engine, search.plan.width.workers)?;
                let embed = || {
                    let mut worker = embedding.worker(&engines)?;
                    Ok(move |batch| worker.embed(&batch))
                };
                search.run(source, embed, sink)
            }
        }
    }
}

/// What every worker searches with.
struct Search<'a> {
    context: &'a Context,
    plan: Plan,
    index: &'a dyn ItemIndex,
    exclusion: &'a Exclusion,
    eligible: &'a Eligibility,
}

/// Neighbours of some users.
struct Found {
    ids: Ids,
    neighbours: Neighbours,
    counts: EncodeCounts,
}

impl Search<'_> {
    /// Turns every batch into vectors, by a function of each worker's own, and these into neighbours.
    fn run<B: Send, F: FnMut(B) -> Result<Embedded, PipelineError>>(
        &self,
        source: impl Iterator<Item = Result<B, PipelineError>> + Send,
        vectors: impl Fn() -> Result<F, PipelineError> + Sync,
        sink: impl FnMut(Found) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let worker = || {
            let mut vectors = vectors()?;
            Ok(move |batch| self.neighbours(vectors(batch)?))
        };
        ordered("recall", self.plan.width, &self.context.cancel, source, worker, sink)
    }

    /// Searches one batch of users on the calling thread.
    fn neighbours(&self, users: Embedded) -> Result<Found, PipelineError> {
        let mut excluded = Ragged { offsets: vec![0], codes: Vec::new() };
        for user in users.ids.iter() {
            self.exclusion.extend(user, &mut excluded.codes)?;
            excluded.offsets.push(excluded.codes.len() as u32);
        }
        let request = Request {
            queries: &users.vectors,
            k: self.context.config.recall.topk,
            exclude: Exclusions::new(&excluded),
            eligible: self.eligible,
        };
        let mut neighbours = Neighbours::default();
        self.index.search(&request, &mut neighbours)?;
        Ok(Found { ids: users.ids, neighbours, counts: users.counts })
    }
}

/// What was found over all batches.
#[derive(Default)]
struct Totals {
    users: u64,
    pairs: u64,
    short: u64,
    counts: EncodeCounts,
}

impl Totals {
    fn add(&mut self, found: &Found, k: usize) {
        self.users += found.ids.len() as u64;
        for q in 0..found.ids.len() {
            let n = found.neighbours.rows(q).len();
            self.pairs += n as u64;
            self.short += u64::from(n < k);
        }
        self.counts.merge(&found.counts);
    }
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

    /// Fingerprint of the vectors, as an index names them.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.vectors.fingerprint()
    }

    /// The saved index of these vectors, or a new one, built, checked and saved.
    ///
    /// # Errors
    /// [`PipelineError::Gate`] when its recall is too low; I/O.
    pub fn index(&self, context: &Context) -> Result<Box<dyn ItemIndex>, PipelineError> {
        let started = Instant::now();
        let dir = context.run.index();
        let config = &context.config.index;
        let key = StageKey::new(
            "index",
            [("item vectors", self.vectors.fingerprint().clone())],
            serde_json::json!({ "index": config }),
        );
        let manifest_path = dir.join(INDEX_STAGE);
        create_folder(&dir)?;
        // One shard builds, the others wait for it and open what it built.
        let _built_by_one = run_lock::wait_for(&dir, || context.cancel.check("recall"))?;
        if !context.force && key.current(&manifest_path, &context.cancel)?.is_some() {
            return Ok(twotower_index::open(&dir, self.vectors.fingerprint())?);
        }
        prepare_dir(&dir)?;
        let stop = context.cancel.clone();
        let mut observer = |_| if stop.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let built = twotower_index::build(config, self.vectors.clone(), None, &mut observer);
        context.cancel.check("recall")?;
        let (index, report) = built.map_err(|error| match error {
            below @ IndexError::RecallTooLow { .. } => PipelineError::Gate(format!("gate `index`: {below}")),
            other => other.into(),
        })?;
        tracing::info!("recall: {} index: {}", report.kind, report.reason);
        if let (Some(recall), Some(ef)) = (report.recall, report.ef_search) {
            tracing::info!(
                "recall: index recall@50 {recall:.4} at ef {ef}, {} unreachable items mended, {:.1} s",
                report.unreachable,
                report.seconds
            );
        }
        context.retract(&manifest_path)?;
        twotower_index::save(index.as_ref(), &dir)?;
        let files = [IMAGE_NAME, MANIFEST_NAME].map(|name| FileEntry::of_file(&dir, name, index.count() as u64));
        let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
        let manifest = key.manifest(files, rows([("items", index.count() as u64)]), started);
        manifest.write(&manifest_path)?;
        Ok(index)
    }
}
