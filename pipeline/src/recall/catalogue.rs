//! The items that users are searched in, and their index.

use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::id_index::IdIndex;
use crate::parts::VectorParts;
use crate::run_lock::RunLock;
use crate::stage::{Context, as_written, prepare_dir, rows};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;
use twotower_artifacts::publish::create_folder;
use twotower_artifacts::vectors::load_parts;
use twotower_artifacts::{FileEntry, Fingerprint, Ids, Manifest};
use twotower_index::store::{IMAGE_NAME, MANIFEST_NAME};
use twotower_index::{IndexError, ItemIndex, ItemVectors};

/// The manifest of building the index, inside its folder.
pub const INDEX_STAGE: &str = "stage.json";

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
    pub fn index(&self, context: &Context<RecallSettings>) -> Result<Box<dyn ItemIndex>, PipelineError> {
        let started = Instant::now();
        let context = &context.with(context.config.index());
        let dir = context.run.index();
        let key = context.key("index", [("item vectors", self.vectors.fingerprint().clone())], []);
        let manifest_path = dir.join(INDEX_STAGE);
        create_folder(&dir)?;
        // One shard builds, the others wait for it and open what it built.
        let _built_by_one = RunLock::of_index(&dir, &context.cancel)?;
        if !context.force && key.current(&manifest_path, &context.cancel)?.is_some() {
            return Ok(twotower_index::open(&dir, self.vectors.fingerprint())?);
        }
        prepare_dir(&dir)?;
        let stop = context.cancel.clone();
        let mut observer = |_| if stop.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let built = twotower_index::build(&context.config.index, self.vectors.clone(), None, &mut observer);
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

/// Whether the run's index is the one that a result was searched with. A lost or foreign one is built again:
/// the result stays if it comes out as it was.
///
/// # Errors
/// As [`Catalogue::load`] and [`Catalogue::index`], where it is built again.
pub fn index_fits(
    context: &Context<RecallSettings>,
    items: &VectorParts,
    manifest: &Manifest,
) -> Result<bool, PipelineError> {
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
