//! `recall`: each user's nearest items, with exclusions, as cosine similarities.

mod catalogue;
mod changed;
mod sampled;
mod search;
mod users;
mod writer;

use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::run::details::{PartDetails, RecallDetails, TakenDetails};
use crate::run::dir::remove_if_there;
use crate::run::manifests::{as_written, details};
use crate::run::names::{inputs, rows};
use crate::run::output_folder::OutputFolder;
use crate::run::shard_progress::{ShardProgress, record_failure, recorded};
use crate::run::stage::Stage;
use crate::stages::earlier::{EarlierParts, EarlierRun};
use crate::stages::encode_warnings;
use crate::stages::encoded::EncoderFolder;
use crate::stages::output::{Place, Prologue, StageKey, Summary, row_counts};
use crate::stages::{Context, Outcome};
use crate::stream::distinct::VectorHash;
use crate::stream::part_folder::PartFolder;
use crate::stream::parts::VectorParts;
use crate::stream::row_hashes;
use crate::stream::sample;
use crate::stream::shard::Shard;
use crate::stream::spare::Spare;
use crate::timeline::exclusions::Exclusion;
pub(crate) use catalogue::Catalogue;
use catalogue::{Audience, index_fits};
use changed::earlier_lists;
use search::{Search, Totals};
use std::time::Instant;
use twotower_artifacts::vectors::Similarity;
use twotower_artifacts::{Id, IdKind, ListRoom, Manifest, NeighbourFormat, NeighboursInfo, Side};
use twotower_index::{Eligibility, ItemIndex, Neighbours};
pub(crate) use users::search_needs;
use users::{RawUsers, Users};
use writer::{ShardFiles, ShardWriter};

/// The stage, ready for its shards.
pub struct Recall<'a> {
    context: &'a Context<RecallSettings>,
    items: VectorParts,
    /// Users that are embedded on the way, with `recall.fused`.
    raw: Option<Users>,
    state: Option<SearchState>,
    spare: Spare<Neighbours>,
    /// The run whose lists are taken for users who have not changed since.
    earlier: Option<EarlierRun>,
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
    inputs.push((inputs::ITEM_VECTORS, items.fingerprint.clone()));
    inputs.extend(Exclusion::inputs(context)?);
    let engine = ("engine", serde_json::json!(items.engine));
    let sampled = ("sampled users", sample::wanted(context.config.recall.topk).into());
    Ok(context.key("recall", inputs, shard.settings().into_iter().chain([engine, sampled])))
}

/// What the users of every shard are searched in; the first shard that has to be done makes it.
struct SearchState {
    catalogue: Catalogue,
    exclusion: Exclusion,
    eligible: Eligibility,
    index: Box<dyn ItemIndex>,
    /// The lists of an earlier run, for users who have not changed since.
    earlier: Option<EarlierParts>,
}

impl<'a> Recall<'a> {
    /// The stage on the vectors that `infer` wrote, or, with `recall.fused`, on raw rows that are embedded on the
    /// way and whose vectors never touch the disk.
    ///
    /// # Errors
    /// Missing item vectors, or parts of them that do not belong together; for raw rows those of
    /// [`Infer::open`](crate::stages::infer::Infer::open).
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
            let folder = other.as_ref().map(|folder| folder.parts().data());
            let open = |embed| RawUsers::open(context, embed, folder.as_deref());
            let raw = context.config.embed.as_ref().map(open).transpose()?;
            let raw = raw.map(Users::Raw);
            Ok(Self { context, items, raw, state: None, spare: Spare::default(), earlier: None, other })
        };
        context.during("recall", open).map_err(|e: PipelineError| e.within("recall"))
    }

    /// The same, with the lists of an earlier run for users who have not changed since. What is written is the same. Where
    /// items, index or lists of items have changed, all users are searched for, and a line says so. A run that was named,
    /// of which nothing can be taken for another reason, is refused by the first shard that has to be done.
    #[must_use]
    pub fn changed_since(self, earlier: EarlierRun) -> Self {
        Self { earlier: Some(earlier), ..self }
    }

    /// Number of users of the whole table, as the vectors of a `shard` tell it, or those of all.
    ///
    /// # Errors
    /// Missing vector parts.
    pub fn rows(&self, shard: Option<Shard>) -> Result<u64, PipelineError> {
        match (&self.raw, shard) {
            (Some(users), _) => Ok(users.rows()),
            (None, None) => Ok(Users::stored(self.context, None)?.rows()),
            (None, Some(shard)) => {
                let stored = Users::stored(self.context, Some(shard));
                let stored = stored.map_err(|error| error.within(format!("recall shard {shard}")));
                stored.as_ref().err().inspect(|error| record_failure(&self.context.run, Stage::Recall, shard, error));
                Ok(stored?.rows())
            }
        }
    }

    /// Runs the stage for one shard.
    ///
    /// # Errors
    /// Missing vector parts, parts of unlike towers, an index below its recall gate, I/O.
    pub fn shard(&mut self, shard: Shard) -> Result<Outcome, PipelineError> {
        let name = format!("recall shard {shard}");
        let (run, is_of_run) = (self.context.run.clone(), self.other.is_none());
        let mut work = || self.context.during(&name, || recall_shard(self, shard)).map_err(|e| e.within(&name));
        if is_of_run { recorded(&run, Stage::Recall, shard, work) } else { work() }
    }
}

impl SearchState {
    fn load(
        context: &Context<RecallSettings>,
        items: &VectorParts,
        users: &Users,
        other: Option<&OutputFolder>,
        earlier: Option<&EarlierRun>,
    ) -> Result<Self, PipelineError> {
        items.verify("recall", &context.cancel)?;
        let catalogue = Catalogue::load(items)?;
        let dir = folder(context, other).data();
        let exclude = || {
            let at_rows = |timeline, encoded: &EncoderFolder| users.timeline(context, timeline, encoded, &dir);
            Exclusion::load(context, users.ids(), at_rows, &catalogue.ids, &dir)
        };
        let exclusion = context.during("reading exclusions", exclude)?;
        let eligible = exclusion.eligible(&catalogue.ids);
        let audience = Audience { users, exclusion: &exclusion, eligible: &eligible };
        let index = context.during("the index", || match other {
            Some(_) => catalogue.saved(&context.run),
            None => catalogue.index(context, &audience),
        })?;
        let lists = |run| earlier_lists(context, users, items, index.as_ref(), run);
        let earlier = earlier.map(lists).transpose()?.flatten();
        Ok(Self { catalogue, exclusion, eligible, index, earlier })
    }
}

/// Where results go.
fn folder(context: &Context<RecallSettings>, other: Option<&OutputFolder>) -> PartFolder {
    other.map_or_else(|| context.run.recall(), OutputFolder::parts)
}

fn recall_shard(stage: &mut Recall<'_>, shard: Shard) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let Recall { context, items, raw, state, spare, earlier, other } = stage;
    let (other, earlier) = (other.as_ref(), earlier.as_ref());
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
    let folder = folder(context, other);
    let place = Place::of_part(&folder, shard, other.is_none());
    let same_index = |made: &Manifest| -> Result<bool, PipelineError> {
        if other.is_some() || index_fits(context, made) {
            return Ok(true);
        }
        // A lost or foreign index is built again: the result stays if it comes out as it was.
        let index = context.run.index();
        tracing::warn!("recall: {} is not the index that was searched; building it again", index.display());
        let built = state.insert(SearchState::load(context, items, users, other, earlier)?).index.manifest();
        let searched = details::<RecallDetails>("recall", made);
        Ok(searched.is_ok_and(|details| details.index == as_written(&serde_json::json!(built))))
    };
    let output = match context.begin(key, place, started, same_index)? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    output.prepare_part(&folder, shard, config.recall.format.extension())?;

    if let Users::Stored { parts, .. } = users {
        parts.verify("recall", &context.cancel)?;
    }
    let SearchState { catalogue, exclusion, eligible, index, earlier } = match state {
        Some(state) => &*state,
        none => none.insert(SearchState::load(context, items, users, other, earlier)?),
    };
    let k = config.recall.topk;
    let mut warnings = Vec::new();
    if k > eligible.eligible() {
        let note =
            format!("topk = {k}, but only {} items are eligible: users get at most that many", eligible.eligible());
        tracing::warn!("recall: {note}");
        warnings.push(note);
    }
    let scale = catalogue.inner_product_scale;
    let room = ListRoom::new(k, catalogue.ids.ids()).with_score(scale.is_some());
    let needs = users.needs(context, &catalogue.ids, index.as_ref(), room, exclusion.bytes(), earlier.is_some());
    let plan = context.plan(&needs)?;

    let range = shard.range(users.rows());
    let info = NeighboursInfo::of_users(users.ids(), catalogue.ids.ids().kind()).scaled(scale);
    let lists = (catalogue.ids.ids(), room);
    let mut writer = ShardWriter::create(context, shard, users.rows(), &info, lists, &folder, other.is_none())?;
    let mut bar = context.progress.bar("recall", range.end - range.start, "users");
    let seen = || ShardProgress::begin(&context.run, Stage::Recall, shard, &range, users.rows());
    let mut seen = other.is_none().then(seen);
    let hash = VectorHash::new(index.dim());
    let (items, hashed) = (&catalogue.ids, config.row_hashes);
    let search = Search { context, plan, index: index.as_ref(), exclusion, eligible, hash, spare, items, hashed };
    let mut taken = earlier.as_ref().map(|parts| TakenDetails::of(parts.run(), parts.fingerprint()));
    let list_bytes = changed::list_bytes(k, room);
    let earlier = earlier.as_ref().map(|parts| (parts, list_bytes));
    users.search(&search, range.clone(), earlier, |batch| {
        bar.advance(batch.ids.len() as u64);
        if let Some(seen) = &mut seen {
            seen.advance(batch.ids.len() as u64);
        }
        if let Some(taken) = &mut taken {
            taken.add(batch.ids.len() as u64, batch.found, batch.copied);
        }
        writer.write(&batch)?;
        spare.give([batch.neighbours]);
        Ok(())
    })?;
    let quarantined = users.account(&range, writer.users())?;
    output.replace()?;
    for format in NeighbourFormat::ALL.into_iter().filter(|f| f.extension() != config.recall.format.extension()) {
        remove_if_there(&folder.file(shard, format.extension()))?;
    }
    if other.is_none() {
        sample::remove_earlier(&context.run, shard)?;
        if !config.row_hashes {
            row_hashes::remove(context.run.root(), &folder, shard)?;
        }
    }
    let ShardFiles { files, totals, ids } = writer.finish()?;
    warnings.extend(exclusion.warnings());
    if totals.short > 0 {
        let Totals { users, short, empty, .. } = &totals;
        let note = format!("{short} of {users} users get fewer than topk = {k} items, {empty} of them none");
        tracing::warn!("recall: {note}");
        warnings.push(note);
    }
    let first_user = ids.first_id.as_deref().map(|id| match (users.ids(), id.parse()) {
        (IdKind::Int, Ok(number)) => Id::Int(number),
        _ => Id::Text(id),
    });
    let excluded = exclusion.counts(&totals.matched, &catalogue.ids, first_user);
    if let Some(embed) = &config.embed {
        let spec = embed.rows.spec();
        warnings.extend(encode_warnings::of_features("recall", Side::User, &spec, &totals.counts));
    }
    let mut rows = row_counts([
        (rows::USERS, totals.users),
        (rows::QUARANTINED, quarantined),
        (rows::TABLE_ROWS, users.rows()),
        (rows::PAIRS, totals.pairs),
        (rows::PAIRS_EXCLUDED, totals.matched.iter().map(|(pairs, _)| pairs).sum()),
        (rows::USERS_WITH_FEWER, totals.short),
    ]);
    if let Some(taken) = &taken {
        taken.told("recall", "searched for");
        rows.extend(row_counts([(rows::COPIED, taken.copied), (rows::SEARCHED, taken.made)]));
    }
    rows.extend(totals.counts.without_history.map(|without| (rows::WITHOUT_HISTORY.to_string(), without)));
    let details = RecallDetails {
        part: PartDetails { first_row: range.start, end_row: range.end, ids },
        similarity: Similarity::Cosine,
        inner_product_scale: scale,
        index: serde_json::json!(index.manifest()),
        eligible: eligible.eligible(),
        encoded: totals.counts,
        exclusions: Some(excluded),
        distinct: Some(totals.vectors),
        taken,
    };
    output.publish_part(&folder, shard, Summary { warnings, ..Summary::new(files, rows, details) })
}
