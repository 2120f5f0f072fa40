//! The results of a run as people look at them: what a user had and gets, what is near an item, and what a run ends
//! with. Everything is read in bounded memory but the ids of the catalogue.

pub mod advice;
pub mod compare;
pub mod export;
pub mod metrics_text;
pub mod nearest;
pub mod newcomer;
pub mod plot;
pub mod report;
pub mod served;
pub mod similar;
pub mod summary;
mod titles;

use crate::config::EntityTable;
use crate::error::PipelineError;
use crate::rows::quarantine::Quarantine;
use crate::rows::strangers::Meant;
use crate::run::details::INNER_PRODUCT_SCALE;
use crate::run::dir::RunDir;
use crate::stages::encoded::EncoderFolder;
use crate::stream::part_folder::Part;
use crate::stream::parts::complete_set;
use crate::timeline::dataset::encoded_ids;
use crate::timeline::of_run::RunTimeline;
use crate::watch::cancel::Cancel;
use serde::Serialize;
use serde_json::Value;
use std::ops::Range;
use std::path::PathBuf;
use titles::Titles;
use twotower_artifacts::neighbour_lookup::{any_user, find_list, first_lists};
use twotower_artifacts::neighbours_file::NeighbourTable;
use twotower_artifacts::{Clock, Detail, Histories, Id, IdKind, Ids, NeighbourFormat, Side};
use twotower_tables::Moment;

/// An item that a user had.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastItem {
    /// Its id.
    pub item: Value,
    /// Its title, where the items table has one.
    pub title: Option<String>,
    /// When: a moment in UTC, or a number where nobody knows its unit; null where the job has no timestamp.
    pub time: Value,
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListedItem {
    /// Its id.
    pub item: Value,
    /// Its title, where the items table has one.
    pub title: Option<String>,
    /// Cosine similarity: large is good.
    pub cosine_similarity: f32,
    /// Of a model of inner products, that of the item's vector and the user's direction, by which items are in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

/// A user with what he had and what he gets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownUser {
    /// The id.
    pub user: Value,
    /// How many events he has; `history` may hold fewer.
    pub events: usize,
    /// What he had, the newest first.
    pub history: Vec<PastItem>,
    /// What he gets, the best first.
    pub items: Vec<ListedItem>,
}

/// An id as JSON has it: a number or a text.
pub(crate) fn id_value(id: Id<'_>) -> Value {
    match id {
        Id::Int(number) => number.into(),
        Id::Text(text) => text.into(),
    }
}

/// An id as it was typed, of the kind that the run has.
///
/// # Errors
/// [`PipelineError::Usage`] for text where ids are integers.
pub(crate) fn typed_id<'a>(stage: &str, side: Side, kind: IdKind, typed: &'a str) -> Result<Id<'a>, PipelineError> {
    match kind {
        IdKind::Text => Ok(Id::Text(typed)),
        IdKind::Int => typed.trim().parse().map(Id::Int).map_err(|_| {
            PipelineError::usage(format!("{stage}: --{side} {typed}: the ids of {side}s are whole numbers in this run"))
        }),
    }
}

/// The results of a complete run, open to be looked at.
pub struct RunResults {
    stage: &'static str,
    run: RunDir,
    encoded: EncoderFolder,
    /// Ids of the encoded items table, whose rows events name.
    items: Ids,
    /// None in runs of versions that wrote none.
    timeline: Option<RunTimeline>,
    /// Rows of the users table without results.
    left_out: Quarantine,
    format: NeighbourFormat,
    parts: Vec<ResultPart>,
    /// Where titles may be.
    table: Option<EntityTable>,
}

/// A part of the results, and the rows of the users table that it is of.
struct ResultPart {
    path: PathBuf,
    rows: Range<u64>,
    inner_product_scale: Option<f32>,
}

impl RunResults {
    /// Opens what `recall` and `encode-features` left in a run. Titles are looked for in `items`, or else in the items
    /// table that the run was made from.
    ///
    /// # Errors
    /// A run without results, or with results of some shards; damaged files.
    pub fn open(stage: &'static str, run: &RunDir, items: Option<EntityTable>) -> Result<Self, PipelineError> {
        let manifests = complete_set(stage, &run.recall(), "twotower recall")?;
        let format = manifests.first().map(|part| part.manifest.config["recall"]["format"].clone()).unwrap_or_default();
        let encoded = EncoderFolder::load(stage, &run.encoders())?;
        let timeline = match RunTimeline::open(stage, &run.encoders()) {
            Err(PipelineError::MissingInput { .. }) => None,
            opened => Some(opened?),
        };
        let table = items.or_else(|| serde_json::from_value(encoded.manifest.config["tables"]["items"].clone()).ok());
        Ok(Self {
            stage,
            items: encoded_ids(&encoded, Side::Item)?,
            left_out: Quarantine::load(&encoded.dir, &encoded.manifest, Side::User)?,
            encoded,
            timeline,
            format: serde_json::from_value(format).unwrap_or_default(),
            parts: manifests.iter().map(ResultPart::new).collect::<Result<_, _>>()?,
            table,
            run: run.clone(),
        })
    }

    /// Files of the results, in the order of shards, and their format.
    pub fn files(&self) -> (Vec<PathBuf>, NeighbourFormat) {
        (self.parts.iter().map(|part| part.path.clone()).collect(), self.format)
    }

    /// What a user had, and what he gets.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] for an id that neither results nor histories name; damaged files.
    pub fn user(&self, typed: &str) -> Result<ShownUser, PipelineError> {
        let user = typed_id(self.stage, Side::User, self.encoded.ids(Side::User)?, typed)?;
        let mut found = None;
        for part in &self.parts {
            if let Some((place, list)) = find_list(&part.path, self.format, user)? {
                found =
                    Some((place.and_then(|place| self.row_of(part, place)), pairs(&list, 0, part.inner_product_scale)));
                break;
            }
        }
        let row = found.as_ref().and_then(|(row, _)| *row);
        let history = self.history(user, row)?;
        if found.is_none() && history.is_empty() {
            let mut meant = Meant::by(typed);
            for part in &self.parts {
                if any_user(&part.path, self.format, |id| meant.is(id))? {
                    break;
                }
            }
            return Err(PipelineError::usage(format!(
                "{}: {}: no results and no history of a user {}; {}; a user of whom a row cannot be used is named in {}",
                self.stage,
                self.run.root().display(),
                user.quoted(),
                meant.told().unwrap_or_else(|| "ids are as the users table has them".to_string()),
                self.encoded.dir.join(crate::run::files::encoders::QUARANTINE).display(),
            )));
        }
        let gets = found.map_or_else(Vec::new, |(_, gets)| gets);
        let mut shown = vec![ShownUser { user: id_value(user), events: history.len(), history, items: gets }];
        self.add_titles(&mut shown)?;
        shown.pop().ok_or(PipelineError::WorkerPanicked { stage: self.stage })
    }

    /// Some of the first users, those with a history before others: `users` of them, with so many of their newest
    /// items and of their best.
    ///
    /// # Errors
    /// Damaged files.
    pub fn some_users(&self, users: usize, newest: usize, best: usize) -> Result<Vec<ShownUser>, PipelineError> {
        // Of many users only some have a history.
        const LOOKED_AT: usize = 1024;
        let Some(part) = self.parts.first() else { return Ok(Vec::new()) };
        let lists = first_lists(&part.path, self.format, LOOKED_AT.max(users), best)?;
        let rows: Vec<u64> = match self.format {
            // It does not tell the rows, and all histories would have to be gone through.
            NeighbourFormat::ParquetLong => Vec::new(),
            _ => self.left_out.rows_left(part.rows.clone()).take(lists.users.len()).collect(),
        };
        let mut known = Histories::default();
        if let (Some(timeline), Some(first), Some(last)) = (&self.timeline, rows.first(), rows.last()) {
            timeline.timeline().read(*first..last + 1, Detail::Items, &mut known)?;
        }
        let has_history = |at: usize| rows.get(at).is_some_and(|row| known.rows.binary_search(row).is_ok());
        let mut chosen: Vec<usize> = (0..lists.users.len()).collect();
        chosen.sort_by_key(|at| !has_history(*at) || lists.offsets[*at] == lists.offsets[at + 1]);
        chosen.truncate(users);
        let mut shown = Vec::new();
        for at in chosen {
            let user = lists.users.get(at);
            let row = rows.get(at).copied();
            let mut history = row.map_or(Ok(None), |row| self.history_at(user, row))?.unwrap_or_default();
            let (events, items) = (history.len(), pairs(&lists, at, part.inner_product_scale));
            history.truncate(newest);
            shown.push(ShownUser { user: id_value(user), events, history, items });
        }
        self.add_titles(&mut shown)?;
        Ok(shown)
    }

    /// The row of the users table of a user's place in a part.
    fn row_of(&self, part: &ResultPart, place: u64) -> Option<u64> {
        self.left_out.rows_left(part.rows.clone()).nth(usize::try_from(place).ok()?)
    }

    /// What a user had, the newest first; he may stand at `row` of the table.
    fn history(&self, user: Id<'_>, row: Option<u64>) -> Result<Vec<PastItem>, PipelineError> {
        let Some(timeline) = &self.timeline else { return Ok(Vec::new()) };
        if let Some(row) = row
            && let Some(found) = self.history_at(user, row)?
        {
            return Ok(found);
        }
        // He stands elsewhere: only the interactions name him, or the results are of another table.
        let (timeline, mut found) = (timeline.timeline(), Histories::default());
        let identity = timeline.info().key.identity(user);
        for block in timeline.blocks() {
            timeline.read(block, Detail::Items, &mut found)?;
            if let Some(at) = found.identities.iter().position(|other| *other == identity) {
                let row = found.rows[at];
                return Ok(self.history_at(user, row)?.unwrap_or_default());
            }
        }
        Ok(Vec::new())
    }

    /// What the user at a row of the table had, the newest first; none where another user stands there, or nobody.
    fn history_at(&self, user: Id<'_>, row: u64) -> Result<Option<Vec<PastItem>>, PipelineError> {
        let Some(timeline) = self.timeline.as_ref().map(RunTimeline::timeline) else { return Ok(None) };
        let mut found = Histories::default();
        timeline.read(row..row + 1, Detail::All, &mut found)?;
        let info = timeline.info();
        let Ok(Some(at)) = found.find(row, user, &info.key) else { return Ok(None) };
        let time = |ticks: i64| match info.clock {
            Clock::Order => Value::Null,
            Clock::Ticks { unit } => match unit.and_then(|unit| Moment::at(ticks, unit)) {
                Some(moment) => moment.to_string().into(),
                None => ticks.into(),
            },
        };
        let past = |event: usize| {
            let row = found.items[event] as usize;
            let item = (row < self.items.len()).then(|| id_value(self.items.get(row)));
            PastItem { item: item.unwrap_or_default(), title: None, time: time(found.times[event]) }
        };
        Ok(Some(found.events(at).rev().map(past).collect()))
    }

    /// Adds the titles of all items.
    fn add_titles(&self, users: &mut [ShownUser]) -> Result<(), PipelineError> {
        let had = users.iter().flat_map(|user| user.history.iter().map(|past| &past.item));
        let gets = users.iter().flat_map(|user| user.items.iter().map(|listed| &listed.item));
        let titles = self.titles(had.chain(gets))?;
        for user in users {
            user.history.iter_mut().for_each(|past| past.title = titles.of(&past.item));
            user.items.iter_mut().for_each(|listed| listed.title = titles.of(&listed.item));
        }
        Ok(())
    }

    fn titles<'v>(&self, items: impl Iterator<Item = &'v Value>) -> Result<Titles, PipelineError> {
        Titles::read(self.stage, self.table.as_ref(), self.items.kind(), items, &Cancel::default())
    }
}

impl ResultPart {
    fn new(part: &Part) -> Result<Self, PipelineError> {
        let row = |key: &str| part.manifest.details[key].as_u64();
        let (Some(path), Some(first), Some(end)) = (part.files().next(), row("first_row"), row("end_row")) else {
            return Err(PipelineError::Mismatch(format!(
                "lookup: {} does not say which rows and file it is of; run `twotower recall --force`",
                part.path.display()
            )));
        };
        let inner_product_scale = part.manifest.details[INNER_PRODUCT_SCALE].as_f64().map(|scale| scale as f32);
        Ok(Self { path, rows: first..end, inner_product_scale })
    }
}

/// The items of the user at a place of some lists, with inner products where cosines are scaled to these.
fn pairs(lists: &NeighbourTable, at: usize, inner_product_scale: Option<f32>) -> Vec<ListedItem> {
    let pair = |pair: usize| {
        let (item, cosine_similarity) = (id_value(lists.items.get(pair)), lists.scores[pair]);
        let score = inner_product_scale.map(|scale| scale * cosine_similarity);
        ListedItem { item, title: None, cosine_similarity, score }
    };
    (lists.offsets[at]..lists.offsets[at + 1]).map(pair).collect()
}
