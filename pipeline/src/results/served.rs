//! A complete run as it is served: the lists of the night by user, users whom it did not know, and similar items.

use super::id_value;
use super::nearest::NearestItems;
use super::newcomer::{Newcomer, Refusal, UserTower, json_id};
use crate::config::RecallConfig;
use crate::error::PipelineError;
use crate::run::details::INNER_PRODUCT_SCALE;
use crate::run::dir::{LATEST, RunDir};
use crate::run::files;
use crate::run::lock::{Access, RunLock};
use crate::run::manifests::settings;
use crate::run::names::tables::{ALLOW, DENY};
use crate::run::records::RecallRecord;
use crate::stream::parts::{VectorParts, complete_set};
use crate::timeline::exclusions::Exclusion;
use crate::watch::cancel::Cancel;
use serde::Serialize;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use twotower_artifacts::{Id, IdKind, ListIndex, Manifest, Ragged, Side};
use twotower_index::{Eligibility, Exclusions, ItemIndex, Neighbours, Request};

/// Name of the command, for errors.
const STAGE: &str = "serve";

/// An item of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServedItem {
    /// Its id.
    pub item: Value,
    /// Cosine similarity: large is good.
    pub cosine_similarity: f32,
    /// Of a model of inner products, that of the item's vector and the user's direction, by which items are in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

/// The items of a user whom the night did not know.
#[derive(Debug)]
pub struct Recalled {
    /// The best first.
    pub items: Vec<ServedItem>,
    /// Events of the history whose item the run does not know, or that stood there twice.
    pub passed_over: usize,
}

/// What he wants to get, and not to get.
#[derive(Debug)]
pub struct Wanted {
    /// Items at the most.
    pub k: usize,
    /// Ids of items that he must not get; those that the run does not know do not matter.
    pub exclude: Vec<Value>,
    /// Whether he must not get what he had; none for what the night did.
    pub exclude_seen: Option<bool>,
}

/// Which run `latest` names, and in which state. Two are equal if they are the same run, published once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The run's folder, through all links.
    pub path: PathBuf,
    /// Device, inode and time of change of what the gates said last.
    checked: (u64, u64, i64, i64),
}

impl Published {
    /// What `latest` in a folder of runs names now; none where there is no such link, or nothing behind it.
    pub fn now(runs: &Path) -> Option<Self> {
        let path = runs.join(LATEST).canonicalize().ok()?;
        let found = std::fs::metadata(RunDir::new(&path).gates().join(files::gates::MANIFEST)).ok()?;
        Some(Self { path, checked: (found.dev(), found.ino(), found.mtime(), found.mtime_nsec()) })
    }
}

/// A run that is served. Everything it reads later is open by now, so it stays what it is whatever becomes of its folder.
pub struct ServedRun {
    name: String,
    published: SystemTime,
    lists: ListIndex,
    /// What cosines of each part are multiplied with to be scores.
    scales: Vec<Option<f32>>,
    users: IdKind,
    items: NearestItems,
    index: Box<dyn ItemIndex>,
    eligible: Eligibility,
    tower: UserTower,
    topk: usize,
    exclude_seen: bool,
}

impl ServedRun {
    /// Opens the run that is published, with engines for so many threads. `recall` are the settings of a job whose lists
    /// of items say what nobody gets; a run that was made with such lists needs them.
    ///
    /// # Memory
    /// The vectors and ids of all items, the index, the tower, and eight bytes for each user.
    ///
    /// # Errors
    /// A run that is incomplete or damaged, or whose results are JSON Lines; lists of items that have changed.
    pub fn open(published: &Published, recall: Option<&RecallConfig>, workers: usize) -> Result<Self, PipelineError> {
        let run = RunDir::existing(STAGE, &published.path)?;
        // Until all is open, nobody changes it.
        let _still = RunLock::take(&run, Access::Shared)?;
        let parts = complete_set(STAGE, &run.recall(), "twotower recall")?;
        let first = parts.first().map(|part| &part.manifest).ok_or(PipelineError::WorkerPanicked { stage: STAGE })?;
        let made: RecallRecord = settings(STAGE, first)?;
        let vectors = VectorParts::find(STAGE, &run.vectors(Side::Item), Side::Item, None)?;
        let items = NearestItems::load(STAGE, &vectors, &Cancel::default())?;
        let index = items.catalogue.saved(&run)?;
        let eligible = eligible(recall, first, &items)?;
        let tower = UserTower::open(STAGE, &run, &vectors, workers)?;
        let paths: Vec<PathBuf> = parts.iter().flat_map(|part| part.files().take(1)).collect();
        let format = made.recall.format;
        let lists = ListIndex::open(&paths, format, made.recall.topk)?.ok_or_else(|| {
            PipelineError::usage(format!(
                "serve: the results of {} are JSON Lines, in which no user can be gone to; set `recall.format` to `parquet` and run `twotower recall`",
                run.root().display()
            ))
        })?;
        let scale = |manifest: &Manifest| manifest.details[INNER_PRODUCT_SCALE].as_f64().map(|scale| scale as f32);
        let gates = run.gates().join(files::gates::MANIFEST);
        let changed = std::fs::metadata(&gates).and_then(|found| found.modified());
        Ok(Self {
            name: run.name(),
            published: changed.map_err(PipelineError::io("look at", &gates))?,
            lists,
            scales: parts.iter().map(|part| scale(&part.manifest)).collect(),
            users: crate::stages::encoded::EncoderFolder::load(STAGE, &run.encoders())?.ids(Side::User)?,
            items,
            index,
            eligible,
            tower,
            topk: made.recall.topk,
            exclude_seen: made.recall.exclude_seen,
        })
    }

    /// Name of the run's folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When its gates were asked.
    pub fn published(&self) -> SystemTime {
        self.published
    }

    /// Users with a list.
    pub fn users(&self) -> usize {
        self.lists.users()
    }

    /// Items.
    pub fn items(&self) -> usize {
        self.index.count()
    }

    /// The most items of a list of the night.
    pub fn topk(&self) -> usize {
        self.topk
    }

    /// The list of the night of a user, whose id is given as text, or its first `k` items; none for one who is not in it.
    ///
    /// # Errors
    /// [`Refusal::Request`] for text where ids are integers; damaged files.
    pub fn list(&self, user: &str, k: usize) -> Result<Option<Vec<ServedItem>>, Refusal> {
        let Some(found) = self.lists.find(path_id(user, self.users)?)? else { return Ok(None) };
        let (list, scale) = (&found.list, self.scales[found.part]);
        let pairs = list.offsets[0]..list.offsets[1].min(list.offsets[0].saturating_add(k));
        Ok(Some(pairs.map(|pair| served(list.items.get(pair), list.scores[pair], scale)).collect()))
    }

    /// The items nearest to one, whose id is given as text; none for one that has no vector.
    ///
    /// # Errors
    /// As [`ServedRun::list`]; those of the index.
    pub fn similar(&self, item: &str, k: usize) -> Result<Option<Vec<ServedItem>>, Refusal> {
        let ids = self.items.ids();
        let Some(row) = self.items.catalogue.ids.find(path_id(item, ids.kind())?) else { return Ok(None) };
        let mut found = Neighbours::default();
        self.items.of_rows(row as usize..row as usize + 1, k, &mut found)?;
        let pairs = found.rows(0).iter().zip(found.scores(0));
        Ok(Some(pairs.map(|(row, cosine)| served(ids.get(*row as usize), *cosine, None)).collect()))
    }

    /// What a user would have got whom the night did not know.
    ///
    /// # Errors
    /// [`Refusal::Request`] for what no row of the users table could hold; those of engine and index.
    pub fn recall(&self, user: &Newcomer, wanted: &Wanted) -> Result<Recalled, Refusal> {
        let catalogue = &self.items.catalogue;
        let kind = catalogue.ids.ids().kind();
        let mut excluded = Vec::new();
        for (at, id) in wanted.exclude.iter().enumerate() {
            excluded.extend(catalogue.ids.find(json_id(id, kind, &format!("exclude[{at}]"))?));
        }
        let (vector, had) = self.tower.embed(user)?;
        if wanted.exclude_seen.unwrap_or(self.exclude_seen) {
            excluded.extend(had.iter().filter_map(|row| catalogue.ids.find(self.tower.item(*row))));
        }
        excluded.sort_unstable();
        excluded.dedup();
        let mut own = Ragged { offsets: vec![0], ..Ragged::default() };
        own.push_row(excluded);
        let (exclude, eligible) = (Exclusions::new(&own), &self.eligible);
        let mut found = Neighbours::default();
        self.index.search(&Request { queries: &vector, k: wanted.k, exclude, eligible }, &mut found)?;
        let (ids, scale) = (catalogue.ids.ids(), catalogue.inner_product_scale);
        let pairs = found.rows(0).iter().zip(found.scores(0));
        let items = pairs.map(|(row, cosine)| served(ids.get(*row as usize), *cosine, scale)).collect();
        Ok(Recalled { items, passed_over: user.history.len() - had.len() })
    }
}

fn served(id: Id<'_>, cosine_similarity: f32, scale: Option<f32>) -> ServedItem {
    let score = scale.map(|scale| scale * cosine_similarity);
    ServedItem { item: id_value(id), cosine_similarity, score }
}

/// An id that stands in a path.
fn path_id(text: &str, kind: IdKind) -> Result<Id<'_>, Refusal> {
    match kind {
        IdKind::Text => Ok(Id::Text(text)),
        IdKind::Int => text.parse().map(Id::Int).map_err(|_| {
            Refusal::request("id", "the ids are whole numbers in this run, in digits and of 64 bits at most")
        }),
    }
}

/// The items that anybody may get, by the lists of the job.
fn eligible(
    recall: Option<&RecallConfig>,
    made: &Manifest,
    items: &NearestItems,
) -> Result<Eligibility, PipelineError> {
    let ids = &items.catalogue.ids;
    let list = [ALLOW, DENY].into_iter().find(|name| made.inputs.contains_key(*name));
    match (recall, list) {
        (Some(recall), _) => Ok(Exclusion::lists(recall, made, ids)?.eligible(ids)),
        (None, None) => Ok(Eligibility::all(ids.ids().len())),
        (None, Some(name)) => Err(PipelineError::usage(format!(
            "serve: the results were made with `recall.{name}`, a list that the run does not hold; give --config with the job that made them"
        ))),
    }
}
