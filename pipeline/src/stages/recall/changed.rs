//! The lists of users who have not changed since an earlier run.
//!
//! A user's list is a function of his vector, of what he must not get, of the items that anybody may get, and of the index
//! with the number of items asked for. The last two are the earlier run's, or nothing is taken from it. What is left is
//! hashed for each user: his encoded row, or his vector where it is stored, and the rows of the items that he must not get.

use super::users::Users;
use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::run::details::RecallDetails;
use crate::run::manifests::{as_written, details, settings};
use crate::run::names::inputs;
use crate::run::names::tables::{ALLOW, DENY};
use crate::run::records::RecallRecord;
use crate::stages::Context;
use crate::stages::earlier::{EarlierParts, EarlierRun, STRETCH_ROWS, Unfit, reach};
use crate::stream::earlier::{Search, Stretch, Window};
use crate::stream::parts::VectorParts;
use crate::timeline::exclusions::Exclusion;
use serde_json::Value;
use std::ops::Range;
use twotower_artifacts::neighbours_file::{NeighbourTable, read_list_rows};
use twotower_artifacts::{Fingerprint, Ids, ListRoom, Manifest, NeighbourFormat};
use twotower_index::ItemIndex;

/// What of an index's description a search depends on. The rest tells how good it is, for the users of its night.
const SEARCHED_WITH: [&str; 8] = ["format", "kind", "count", "dim", "vectors", "image", "m", "ef_search"];

/// The lists of an earlier run, if this run would make the same for users of the same vectors and exclusions.
///
/// # Errors
/// As [`EarlierParts::find`].
pub fn earlier_lists(
    context: &Context<RecallSettings>,
    users: &Users,
    items: &VectorParts,
    index: &dyn ItemIndex,
    earlier: &EarlierRun,
) -> Result<Option<EarlierParts>, PipelineError> {
    let recall = &context.config.recall;
    let now: Vec<(&str, Fingerprint)> = users.inputs();
    let lists: Vec<(&str, Fingerprint)> = Exclusion::inputs(context)?;
    let index_now = as_written(&serde_json::json!(index.manifest()));
    let unfit = |part: &Manifest| {
        let made: RecallRecord = settings("recall", part)?;
        let named = |found: Option<&Fingerprint>| found.map_or("none".to_string(), Fingerprint::to_string);
        let is_other = |name: &str, expected: Option<&Fingerprint>| {
            let found = part.inputs.get(name);
            let told = format!("its {name} {}, this run's {}", named(found), named(expected));
            (found != expected).then_some(told)
        };
        let foreign = || {
            if !made.row_hashes {
                let told = "made without `infer.row_hashes`, so it is not known what each list was made from";
                return Some(told.to_string());
            }
            if made.recall.fused != recall.fused {
                return Some(format!("its `recall.fused` {}, this run's {}", made.recall.fused, recall.fused));
            }
            if made.recall.topk != recall.topk {
                return Some(format!("its `recall.topk` {}, this run's {}", made.recall.topk, recall.topk));
            }
            if made.recall.format != NeighbourFormat::Parquet {
                let told = "its results are not `recall.format = \"parquet\"`, the one form from which they are taken";
                return Some(told.to_string());
            }
            let engine_of_users = made.embed.as_ref().and_then(|embed| embed.engine);
            let engine = context.config.embed.as_ref().map(|embed| embed.engine);
            if engine_of_users != engine || made.engine != Some(items.engine) {
                return Some(format!("its engine is another one than {}", items.engine));
            }
            // Where users are embedded on the way, their vectors depend on these too.
            let models = [inputs::ENCODERS, inputs::TOWERS].into_iter().filter(|_| recall.fused);
            let mut models = models.map(|name| is_other(name, now.iter().find(|(n, _)| *n == name).map(|(_, f)| f)));
            models.find_map(|told| told)
        };
        if let Some(told) = foreign() {
            return Ok(Some(Unfit::Foreign(told)));
        }
        let list = |name: &str| is_other(name, lists.iter().find(|(n, _)| *n == name).map(|(_, f)| f));
        let items = is_other(inputs::ITEM_VECTORS, Some(&items.fingerprint));
        let searched: RecallDetails = details("recall", part)?;
        let of = |index: &Value, key: &str| index.get(key).cloned().unwrap_or_default();
        let index = SEARCHED_WITH.into_iter().find(|key| of(&searched.index, key) != of(&index_now, key));
        let index = index.map(|key| format!("its index has another `{key}`"));
        Ok(items.or_else(|| list(ALLOW)).or_else(|| list(DENY)).or(index).map(Unfit::Changed))
    };
    EarlierParts::find("recall", earlier, &earlier.dir.recall(), "twotower recall", unfit)
}

/// What a list of at most `k` items takes in memory, as it is read: ids of text have their ends beside them.
pub fn list_bytes(k: usize, room: ListRoom) -> usize {
    room.user_bytes() + 8 * k
}

/// A window over the earlier lists, for the `rows` of a table of `all` rows. A list takes at most `bytes`.
pub fn window<'a>(
    context: &'a Context<RecallSettings>,
    parts: &'a EarlierParts,
    bytes: usize,
    rows: &Range<u64>,
    all: u64,
) -> Window<impl Iterator<Item = Result<Stretch<NeighbourTable>, PipelineError>> + Send + use<'a>, NeighbourTable> {
    let search = Search::new(rows.start, all, parts.rows(), reach(bytes));
    let open = |path, rows: Range<u64>| {
        let tables = read_list_rows(path, rows, STRETCH_ROWS)?;
        Ok(tables.map(|table| {
            table.map(|mut table| {
                let none = Ids::new(table.users.kind());
                (std::mem::replace(&mut table.users, none), table)
            })
        }))
    };
    Window::new(parts.stretches("recall", search.first, &context.cancel, open), &search)
}
