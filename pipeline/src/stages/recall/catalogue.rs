//! The items that users are searched in, and their index.

use super::sampled::SampledUsers;
use super::users::Users;
use crate::config::{IndexSettings, RecallSettings};
use crate::error::PipelineError;
use crate::rows::id_index::IdIndex;
use crate::run::details::RecallDetails;
use crate::run::dir::RunDir;
use crate::run::files::index as files;
use crate::run::lock::RunLock;
use crate::run::manifests::{details, require, settings};
use crate::run::names::{inputs, rows};
use crate::run::records::IndexRecord;
use crate::stages::Context;
use crate::stages::output::{Place, Prologue, Summary, made_by_this_version, row_counts};
use crate::stream::parts::VectorParts;
use crate::timeline::exclusions::Exclusion;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;
use twotower_artifacts::json::read_json;
use twotower_artifacts::publish::create_folder;
use twotower_artifacts::vectors::load_parts;
use twotower_artifacts::{FileEntry, Fingerprint, Ids, Manifest};
use twotower_index::store::{IMAGE_NAME, MANIFEST_NAME};
use twotower_index::{Eligibility, IndexConfig, IndexError, IndexKind, ItemIndex, ItemVectors};

/// Item ids and vectors in id order, so that ties by row are ties by id.
pub struct Catalogue {
    /// Ids, ascending.
    pub ids: IdIndex,
    /// What cosines are multiplied with to be inner products, for a model of these.
    pub inner_product_scale: Option<f32>,
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
        let inner_product_scale = info.inner_product_scale;
        Ok(Self { ids, inner_product_scale, vectors: ItemVectors::new(dim, sorted)? })
    }

    /// Fingerprint of the vectors, as an index names them.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.vectors.fingerprint()
    }

    /// Exact search among these items, whatever index the run has.
    ///
    /// # Errors
    /// Memory.
    pub fn exact(&self) -> Result<Box<dyn ItemIndex>, PipelineError> {
        let config = IndexConfig { kind: IndexKind::Exact, ..IndexConfig::default() };
        let mut observer = |_| ControlFlow::Continue(());
        Ok(twotower_index::build(&config, self.vectors.clone(), None, &mut observer)?.0)
    }

    /// The index that the run has of these vectors, as it is.
    ///
    /// # Errors
    /// None, or one of other vectors; a damaged one.
    pub fn saved(&self, run: &RunDir) -> Result<Box<dyn ItemIndex>, PipelineError> {
        let dir = run.index();
        require("recall", &dir.join(files::MANIFEST), "twotower recall")?.verify_files(&dir)?;
        Ok(twotower_index::open(&dir, self.vectors.fingerprint())?)
    }

    /// The saved index of these vectors, or a new one, built, measured on users, checked and saved. Where only the
    /// users have changed, the saved graph is kept and measured again.
    ///
    /// # Errors
    /// [`PipelineError::Gate`] when its recall is too low; I/O; where there is a graph, those of reading and embedding
    /// some users.
    pub fn index(
        &self,
        recall: &Context<RecallSettings>,
        audience: &Audience<'_>,
    ) -> Result<Box<dyn ItemIndex>, PipelineError> {
        let started = Instant::now();
        let dir = recall.run.index();
        let kind = recall.config.index.choose(self.vectors.count()).0;
        let mut opened = None;
        let users = match &recall.config.sampled {
            Some(rows) if kind == IndexKind::Hnsw => Some(
                audience.users.raw(recall, rows, &mut opened).map_err(|e| e.within("users to measure the index on"))?,
            ),
            _ => None,
        };
        let mut inputs = vec![(inputs::ITEM_VECTORS, self.vectors.fingerprint().clone())];
        if let Some(users) = users {
            inputs.extend(users.inputs());
            inputs.extend(Exclusion::inputs(recall)?);
        }
        let context = &recall.with(recall.config.index(users.map(|users| users.embedding.engine())));
        let key = context.key("index", inputs, []);
        create_folder(&dir)?;
        // One shard builds, the others wait for it and open what it built.
        let _built_by_one = RunLock::of_index(&dir, &context.cancel)?;
        let place = Place::of_results(dir, files::MANIFEST);
        let output = match context.begin(key, place, started, |_| Ok(true))? {
            Prologue::Current(_) => return Ok(twotower_index::open(&context.run.index(), self.vectors.fingerprint())?),
            Prologue::Due(output) => output,
        };
        output.prepare(&[])?;
        let dir = output.dir();
        let draw = |users| SampledUsers::draw(recall, users, audience.exclusion);
        let sampled = users.map(draw).transpose().map_err(|e| e.within("users to measure the index on"))?;
        // A tower and histories need not be held beside the graph.
        drop(opened);
        let sample = sampled.as_ref().map(|users| users.request(recall.config.recall.topk, audience.eligible));
        let stop = context.cancel.clone();
        let mut observer = |_| if stop.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let config = &context.config.index;
        let built = match (&sample, self.saved_graph(context)) {
            (Some(sample), Some(graph)) => twotower_index::measure_again(config, graph, sample, &mut observer),
            (sample, _) => twotower_index::build(config, self.vectors.clone(), sample.as_ref(), &mut observer),
        };
        context.cancel.check("recall")?;
        let (index, report) = built.map_err(|error| match error {
            below @ IndexError::RecallTooLow { .. } => PipelineError::Gate(format!("gate `index`: {below}")),
            other => other.into(),
        })?;
        tracing::info!("recall: {} index: {}", report.kind, report.reason);
        if let (Some(recall), Some(ef)) = (&report.recall, report.ef_search) {
            tracing::info!(
                "recall: index {recall}, at ef {ef}, {} unreachable items mended, {:.1} s",
                report.unreachable,
                report.seconds
            );
        }
        if let Some(warning) = &report.warning {
            tracing::warn!("recall: index: {warning}");
        }
        output.replace()?;
        twotower_index::save(index.as_ref(), dir)?;
        let items = index.count() as u64;
        let files = [IMAGE_NAME, MANIFEST_NAME].map(|name| FileEntry::of_file(dir, name, items));
        let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
        let warnings = report.warning.into_iter().collect();
        output.publish(Summary { warnings, ..Summary::new(files, row_counts([(rows::ITEMS, items)]), ()) })?;
        Ok(index)
    }

    /// The run's graph, if a new one of the same vectors and settings would be no other.
    fn saved_graph(&self, context: &Context<IndexSettings>) -> Option<Box<dyn ItemIndex>> {
        let dir = context.run.index();
        let manifest = Manifest::read(dir.join(files::MANIFEST)).ok().filter(|_| !context.force)?;
        let built_under: IndexRecord = settings("recall", &manifest).ok()?;
        if !built_under.index.same_graph(&context.config.index) || !made_by_this_version(&manifest) {
            return None;
        }
        manifest.verify_files(&dir).ok()?;
        let index = twotower_index::open(&dir, self.vectors.fingerprint()).ok()?;
        (index.manifest().kind == IndexKind::Hnsw).then_some(index)
    }
}

/// Who an index is for: users, and what they may get.
pub struct Audience<'a> {
    /// The users.
    pub users: &'a Users,
    /// The items that a user must not get.
    pub exclusion: &'a Exclusion,
    /// The items that any user may get.
    pub eligible: &'a Eligibility,
}

/// Whether the run's index is the one that a result was searched with.
pub fn index_fits(context: &Context<RecallSettings>, manifest: &Manifest) -> bool {
    let dir = context.run.index();
    let saved = || -> Option<serde_json::Value> {
        Manifest::read(dir.join(files::MANIFEST)).ok()?.verify_files(&dir).ok()?;
        read_json(dir.join(MANIFEST_NAME)).ok()
    };
    let searched = details::<RecallDetails>("recall", manifest).ok().map(|details| details.index);
    searched.is_some() && searched == saved()
}
