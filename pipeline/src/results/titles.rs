//! Titles of items: read from the items table, by the column that the job names or one that looks like it.

use super::id_value;
use crate::config::EntityTable;
use crate::error::PipelineError;
use crate::rows::bad_rows::sift;
use crate::rows::columns::read_batches;
use crate::watch::cancel::Cancel;
use arrow_array::Array;
use arrow_cast::display::array_value_to_string;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use twotower_artifacts::IdKind;
use twotower_tables::{Table, id_column_as};

/// Names of columns that hold titles, where the job names none; the first that there is counts.
const TITLES: [&str; 16] = [
    "title",
    "item_title",
    "product_title",
    "name",
    "item_name",
    "product_name",
    "movie_title",
    "goods_name",
    "display_name",
    "标题",
    "名称",
    "商品名称",
    "商品名",
    "物品名称",
    "产品名称",
    "套餐名称",
];

/// Titles of some items.
#[derive(Debug, Default)]
pub struct Titles(BTreeMap<String, String>);

/// The column of titles of a table.
fn column(table: &Table, spec: &EntityTable) -> Option<String> {
    let named = |name: &str| table.columns().iter().map(|c| &c.name).find(|c| c.to_lowercase() == name);
    spec.title.clone().or_else(|| TITLES.iter().find_map(|name| named(name)).filter(|c| **c != spec.id).cloned())
}

impl Titles {
    /// The titles of `items`, as far as the table has any. The table is read until all are found.
    ///
    /// # Errors
    /// A column that the job names and that the table lacks; damaged tables. A table that is not there any more has
    /// no titles, and there is a warning.
    pub fn read<'v>(
        stage: &'static str,
        spec: Option<&EntityTable>,
        kind: IdKind,
        items: impl Iterator<Item = &'v Value>,
        cancel: &Cancel,
    ) -> Result<Self, PipelineError> {
        let mut wanted: BTreeSet<String> = items.map(Value::to_string).collect();
        let Some(spec) = spec.filter(|_| !wanted.is_empty()) else { return Ok(Self::default()) };
        let table = match Table::open("items", &spec.source) {
            Ok(table) => table.leniently(),
            Err(error) => {
                tracing::warn!("{stage}: no titles are shown: {error}");
                return Ok(Self::default());
            }
        };
        let Some(title) = column(&table, spec) else { return Ok(Self::default()) };
        let (mut titles, columns) = (BTreeMap::new(), [spec.id.clone(), title]);
        for batch in read_batches(stage, &table, &columns, 0..u64::MAX, cancel)? {
            // Of rows with one id the first counts; rows that cannot be used were set aside.
            let (good, _) = sift(&batch?, &spec.id, |rows| Ok(id_column_as(rows, &spec.id, kind)?))?;
            for (rows, ids) in good {
                let values = rows.batch.column(1);
                for (row, id) in ids.iter().enumerate() {
                    let id = id_value(id).to_string();
                    if wanted.remove(&id) && values.is_valid(row) {
                        titles.insert(id, array_value_to_string(values, row).unwrap_or_default());
                    }
                }
            }
            if wanted.is_empty() {
                break;
            }
        }
        Ok(Self(titles))
    }

    /// The title of an item.
    pub fn of(&self, item: &Value) -> Option<String> {
        self.0.get(&item.to_string()).cloned()
    }
}
