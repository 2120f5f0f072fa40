//! What is near an item, by the cosine of the run's item vectors, and by exact search.

use super::titles::Titles;
use super::{ListedItem, id_value, typed_id};
use crate::config::EntityTable;
use crate::error::PipelineError;
use crate::rows::strangers::Meant;
use crate::run::dir::RunDir;
use crate::stages::encoded::EncoderFolder;
use crate::stages::recall::Catalogue;
use crate::stream::parts::VectorParts;
use crate::watch::cancel::Cancel;
use serde::Serialize;
use serde_json::Value;
use std::ops::Range;
use twotower_artifacts::{Ids, Ragged, Side};
use twotower_index::{Eligibility, Exclusions, ItemIndex, Neighbours, Request};

/// An item and those nearest to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownItem {
    /// Its id.
    pub item: Value,
    /// Its title, where the items table has one.
    pub title: Option<String>,
    /// The nearest other items, the nearest first.
    pub nearest: Vec<ListedItem>,
}

/// All items of a run, searched by exact search.
pub struct NearestItems {
    pub(super) catalogue: Catalogue,
    index: Box<dyn ItemIndex>,
    eligible: Eligibility,
}

impl NearestItems {
    /// Reads the vectors in `parts`.
    ///
    /// # Errors
    /// Damaged parts; vectors that are not of unit length.
    pub(crate) fn load(stage: &'static str, parts: &VectorParts, cancel: &Cancel) -> Result<Self, PipelineError> {
        parts.verify(stage, cancel)?;
        let catalogue = Catalogue::load(parts)?;
        let index = catalogue.exact()?;
        let eligible = Eligibility::all(index.count());
        Ok(Self { catalogue, index, eligible })
    }

    /// Ids of the items, ascending.
    pub fn ids(&self) -> &Ids {
        self.catalogue.ids.ids()
    }

    /// Bytes of the vectors.
    pub fn bytes(&self) -> u64 {
        (self.index.count() * self.index.dim() * 4) as u64
    }

    /// The `k` items nearest to each item of a range of rows; never the item itself.
    ///
    /// # Errors
    /// Those of the index.
    pub fn of_rows(&self, rows: Range<usize>, k: usize, found: &mut Neighbours) -> Result<(), PipelineError> {
        let dim = self.index.dim();
        let mut own = Ragged { offsets: vec![0], ..Ragged::default() };
        rows.clone().for_each(|row| own.push_row([row as u32]));
        let request = Request {
            queries: &self.index.image().vectors()[rows.start * dim..rows.end * dim],
            k,
            exclude: Exclusions::new(&own),
            eligible: &self.eligible,
        };
        Ok(self.index.search_parallel(&request, found)?)
    }
}

/// The `k` items of a run that are nearest to one. Titles are looked for in `table`, or else in the items table that the
/// run was made from.
///
/// # Errors
/// [`PipelineError::Usage`] for an item that has no vector; a run without vectors of items; damaged files.
pub fn nearest_to(run: &RunDir, item: &str, k: usize, table: Option<EntityTable>) -> Result<ShownItem, PipelineError> {
    let cancel = Cancel::default();
    let parts = VectorParts::find("lookup", &run.vectors(Side::Item), Side::Item, None)?;
    let id = typed_id("lookup", Side::Item, parts.ids, item)?;
    let items = NearestItems::load("lookup", &parts, &cancel)?;
    let row = items.catalogue.ids.find(id).ok_or_else(|| {
        let mut meant = Meant::by(item);
        items.ids().iter().any(|id| meant.is(id));
        PipelineError::usage(format!(
            "lookup: {} has no vector of an item {}; {}",
            run.root().display(),
            id.quoted(),
            meant.told().unwrap_or_else(|| "ids are as the items table has them".to_string()),
        ))
    })?;
    let mut found = Neighbours::default();
    items.of_rows(row as usize..row as usize + 1, k, &mut found)?;
    let listed = found.rows(0).iter().zip(found.scores(0)).map(|(row, score)| ListedItem {
        item: id_value(items.ids().get(*row as usize)),
        title: None,
        cosine_similarity: *score,
        score: None,
    });
    let mut shown = ShownItem { item: id_value(id), title: None, nearest: listed.collect() };
    let of_run = || {
        let encoded = EncoderFolder::load("lookup", &run.encoders())?;
        Ok::<Option<EntityTable>, PipelineError>(
            serde_json::from_value(encoded.manifest.config["tables"]["items"].clone()).ok(),
        )
    };
    let table = table.map_or_else(of_run, |table| Ok(Some(table)))?;
    let wanted = shown.nearest.iter().map(|listed| &listed.item).chain([&shown.item]);
    let titles = Titles::read("lookup", table.as_ref(), parts.ids, wanted, &cancel)?;
    shown.title = titles.of(&shown.item);
    shown.nearest.iter_mut().for_each(|listed| listed.title = titles.of(&listed.item));
    Ok(shown)
}
