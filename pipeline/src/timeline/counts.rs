//! How many rows of the tables that narrow results match the users and items at hand. Ids that match nothing exclude
//! nothing, and only these counts tell.

use crate::stream::distinct::DistinctSketch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::{Moment, TickUnit};

/// What a table of pairs holds, and how much of it matches the users and items at hand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PairCounts {
    /// Rows of the table.
    pub rows: u64,
    /// Rows whose ids cannot be read.
    pub unreadable: u64,
    /// Rows of items that are not in the catalogue.
    pub unknown_items: u64,
    /// Distinct pairs with an item of the catalogue.
    pub pairs: u64,
    /// Users in these pairs.
    pub users: u64,
    /// Those of these pairs whose user was searched for.
    pub matched_pairs: u64,
    /// Users that were searched for and have pairs.
    pub matched_users: u64,
    /// The oldest and the newest time, where the table has times.
    pub times: Option<(i64, i64)>,
    /// The unit of these times, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TickUnit>,
    /// Hashes of some of the pairs with an item of the catalogue, to tell how many two runs share.
    pub some_pairs: DistinctSketch,
    /// The first row's ids, the user's first, as messages show them.
    pub example: Option<(String, String)>,
    /// Ids that the tables of users or items do not have, and how they are likely to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers: Option<String>,
    /// Those of items alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strange_items: Option<String>,
}

impl PairCounts {
    /// A time as a message shows it: a date where its unit is known.
    pub fn shown(&self, time: i64) -> String {
        let moment = self.unit.and_then(|unit| Moment::at(time, unit));
        moment.map_or_else(|| time.to_string(), |moment| moment.to_string())
    }
}

/// What a list of items holds, and how much of it is in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListCounts {
    /// Rows of the table.
    pub rows: u64,
    /// Items of the catalogue that are listed.
    pub known: u64,
    /// Rows of items that are not in the catalogue.
    pub unknown: u64,
    /// The first row's id, as messages show it.
    pub example: Option<String>,
    /// An id that the catalogue does not have, and how it is likely to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers: Option<String>,
}

/// Counts of all tables that narrow results, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExclusionCounts {
    /// Tables of pairs.
    pub pairs: BTreeMap<String, PairCounts>,
    /// Lists of items.
    pub lists: BTreeMap<String, ListCounts>,
    /// The catalogue's first id, as messages show it.
    pub item: String,
    /// The first user's id, as messages show it.
    pub user: Option<String>,
}

impl ExclusionCounts {
    /// Adds what was matched in another shard of the same users.
    pub fn merge(&mut self, other: &Self) {
        for (name, counts) in &mut self.pairs {
            let Some(more) = other.pairs.get(name) else { continue };
            counts.matched_pairs = counts.matched_pairs.saturating_add(more.matched_pairs);
            counts.matched_users = counts.matched_users.saturating_add(more.matched_users);
        }
        self.user = self.user.take().or_else(|| other.user.clone());
    }
}
