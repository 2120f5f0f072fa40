//! `recall`: each user's nearest items, with exclusions, as cosine similarities.

mod catalogue;
mod sampled;
mod search;
mod users;
mod writer;

use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::run::output_folder::OutputFolder;
use crate::stages::{Context, Outcome, StageKey, as_written, prepare_dir, remove_if_there, rows};
use crate::stream::distinct::VectorHash;
use crate::stream::parts::{VectorParts, exclude_other_counts, manifest_name, part_name, refuse_stranger};
use crate::stream::sample;
use crate::stream::shard::Shard;
use crate::stream::spare::Spare;
use crate::timeline::exclusions::Exclusion;
use catalogue::{Audience, index_fits};
pub use catalogue::{Catalogue, INDEX_STAGE};
use search::{Search, Totals};
use std::path::PathBuf;
use std::time::Instant;
use twotower_artifacts::{Id, IdKind, NeighbourFormat, Side};
use twotower_index::{Eligibility, ItemIndex, Neighbours};
use users::RawUsers;
pub(crate) use users::Users;
pub(crate) use users::search_needs;
use writer::{ShardWriter, Written};

/// The stage, ready for its shards.
pub struct Recall<'a> {
    context: &'a Context<RecallSettings>,
    items: VectorParts,
    /// Users that are embedded on the way, with `recall.fused`.
    raw: Option<Users>,
    searched: Option<Searched>,
    spare: Spare<Neighbours>,
    /// The folder for the items of users that are not the job's: nothing of the run changes.
    other: Option<OutputFolder>,
}

/// All that a shard's results depend on.
fn shard_key(
    context: &Context<RecallSettings>,
    items: &VectorParts,
    users: &Users,
    shard: Shard,
) -> Result<StageKey, PipelineError> {
    let mut inputs = users.inputs();
    inputs.push(("item vectors", items.fingerprint.clone()));
    inputs.extend(Exclusion::inputs(context)?);
    let engine = ("engine", items.engine.as_str().into());
    let sampled = ("sampled users", sample::wanted(context.config.recall.topk).into());
    Ok(context.key("recall", inputs, shard.settings().into_iter().chain([engine, sampled])))
}

/// What every shard is searched in; made by the first that is not complete.
struct Searched {
    catalogue: Catalogue,
    exclusion: Exclusion,
    eligible: Eligibility,
    index: Box<dyn ItemIndex>,
}

impl<'a> Recall<'a> {
    /// The stage on the vectors that `infer` wrote, or, with `recall.fused`, on raw rows that are embedded on the
    /// way and whose vectors never touch the disk.
    ///
    /// # Errors
    /// Missing item vectors, or parts of them that do not belong together; for raw rows as
    /// [`Embedding::load`](crate::stages::infer::Embedding::load).
    pub fn open(context: &'a Context<RecallSettings>) -> Result<Self, PipelineError> {
        Self::open_for(context, None)
    }

    /// As [`Recall::open`], where `other` is given for other users than the job's: those of the table of
    /// `recall.embed`, who are searched for in the run's index as it is.
    ///
    /// # Errors
    /// As [`Recall::open`].
    pub fn open_for(context: &'a Context<RecallSettings>, other: Option<OutputFolder>) -> Result<Self, PipelineError> {
        let open = || {
            let items = VectorParts::find("recall", &context.run.vectors(Side::Item), Side::Item, None)?;
            let folder = other.as_ref().map(OutputFolder::path);
            let raw = context.config.embed.as_ref().map(|embed| RawUsers::open(context, embed, folder)).transpose()?;
            let raw = raw.map(Users::Raw);
            Ok(Self { context, items, raw, searched: None, spare: Spare::default(), other })
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
    fn load(
        context: &Context<RecallSettings>,
        items: &VectorParts,
        users: &Users,
        other: Option<&OutputFolder>,
    ) -> Result<Self, PipelineError> {
        items.verify("recall", &context.cancel)?;
        let catalogue = Catalogue::load(items)?;
        let dir = folder(context, other);
        let exclude = || Exclusion::load(context, users, &catalogue.ids, &dir);
        let exclusion = context.during("reading exclusions", exclude)?;
        let eligible = exclusion.eligible(&catalogue.ids);
        let audience = Audience { users, exclusion: &exclusion, eligible: &eligible };
        let index = context.during("the index", || match other {
            Some(_) => catalogue.saved(&context.run),
            None => catalogue.index(context, &audience),
        })?;
        Ok(Self { catalogue, exclusion, eligible, index })
    }
}

/// Where results go.
fn folder(context: &Context<RecallSettings>, other: Option<&OutputFolder>) -> PathBuf {
    other.map_or_else(|| context.run.recall(), |folder| folder.path().to_path_buf())
}

fn recall_shard(stage: &mut Recall<'_>, shard: Shard) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let Recall { context, items, raw, searched, spare, other } = stage;
    let other = other.as_ref();
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
    let key = shard_key(context, items, users, shard)?;
    let dir = folder(context, other);
    let manifest_path = dir.join(manifest_name(shard));
    if !context.force
        && let Some(manifest) = key.current(&manifest_path, &context.cancel)?
    {
        if other.is_some() || index_fits(context, &manifest) {
            return Ok(Outcome { skipped: true, manifest });
        }
        // A lost or foreign index is built again: the result stays if it comes out as it was.
        tracing::warn!(
            "recall: {} is not the index that was searched; building it again",
            context.run.index().display()
        );
        let Searched { index, .. } = searched.insert(Searched::load(context, items, users, other)?);
        if as_written(&serde_json::json!(index.manifest())) == manifest.details["index"] {
            return Ok(Outcome { skipped: true, manifest });
        }
    }
    prepare_dir(&dir)?;
    let withdraw = || if other.is_none() { context.withdraw() } else { Ok(()) };
    exclude_other_counts("recall", &dir, shard, context.force || context.sole, withdraw)?;
    refuse_stranger("recall", &dir, shard, config.recall.format.extension())?;

    if let Users::Stored { parts, .. } = users {
        parts.verify("recall", &context.cancel)?;
    }
    let Searched { catalogue, exclusion, eligible, index } = match searched {
        Some(searched) => &*searched,
        none => none.insert(Searched::load(context, items, users, other)?),
    };
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
    let mut writer = ShardWriter::create(context, shard, users, catalogue.ids.ids(), &dir, other.is_none())?;
    let mut bar = context.progress.bar("recall", range.end - range.start, "users");
    let hash = VectorHash::new(index.dim());
    let search = Search { context, plan, index: index.as_ref(), exclusion, eligible, hash, spare };
    users.search(&search, range.clone(), |found| {
        bar.advance(found.ids.len() as u64);
        writer.write(&found)?;
        spare.give([found.neighbours]);
        Ok(())
    })?;
    let quarantined = users.account(&range, writer.users())?;
    match other {
        Some(_) => remove_if_there(&manifest_path)?,
        None => context.retract(&manifest_path)?,
    }
    for format in NeighbourFormat::ALL.into_iter().filter(|f| f.extension() != config.recall.format.extension()) {
        remove_if_there(&dir.join(part_name(shard, format.extension())))?;
    }
    let Written { files, totals, keys } = writer.finish()?;
    warnings.extend(exclusion.warnings());
    if totals.short > 0 {
        let Totals { users, short, empty, .. } = &totals;
        let note = format!("{short} of {users} users get fewer than topk = {k} items, {empty} of them none");
        tracing::warn!("recall: {note}");
        warnings.push(note);
    }
    let first_user = keys.first_id.as_deref().map(|id| match (users.ids(), id.parse()) {
        (IdKind::Int, Ok(number)) => Id::Int(number),
        _ => Id::Text(id),
    });
    let excluded = exclusion.counts(&totals.matched, &catalogue.ids, first_user);
    if let Some(embed) = &config.embed {
        let spec = embed.rows.spec();
        warnings.extend(crate::stages::encode_warnings::of_features("recall", Side::User, &spec, &totals.counts));
    }
    let mut manifest = key.manifest(
        files,
        rows([
            ("users", totals.users),
            ("quarantined", quarantined),
            ("table rows", users.rows()),
            ("pairs", totals.pairs),
            ("pairs excluded", totals.matched.iter().map(|(pairs, _)| pairs).sum()),
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
        "exclusions": excluded,
        "distinct vectors": totals.vectors,
    });
    manifest.write(&manifest_path)?;
    // Somebody may have begun with another number of shards meanwhile; who writes later finds the other's parts.
    exclude_other_counts("recall", &dir, shard, false, || Ok(()))?;
    Ok(Outcome { skipped: false, manifest })
}
