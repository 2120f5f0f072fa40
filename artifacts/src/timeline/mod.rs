//! A timeline: what every user did, in time order, looked up by row of the users table.
//!
//! One file holds blocks of users and an index of them. A user of the users table stands at his row there; users that
//! only the interactions name stand after all of them, at the table's number of rows plus the row of their first
//! interaction. So a range of the table's rows is a range of the file, and whoever streams the table reads the
//! timeline from its start to its end, however much larger than memory it is.

mod file;

pub use file::{MAGIC, Timeline, TimelineWriter};

use crate::clock::Clock;
use crate::ids::Id;
use crate::keyed::{Identity, IdentityKey};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a timeline says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineInfo {
    /// Rows of the users table.
    pub table_rows: u64,
    /// Rows of the encoded items table, which events name.
    pub items: u64,
    /// What times count.
    pub clock: Clock,
    /// The key of the identities of users.
    pub key: IdentityKey,
}

/// One thing that a user did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Row of the encoded items table.
    pub item: u32,
    /// Ticks of the timeline's clock.
    pub time: i64,
    /// At least 0; 1 where the table has no weights.
    pub weight: f32,
}

/// What a reader of a timeline takes from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Items alone.
    Items,
    /// Items, times and weights.
    All,
}

/// The users of a range of rows that have events, and these events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histories {
    /// `[users]` rows, ascending.
    pub rows: Vec<u64>,
    /// `[users]`.
    pub identities: Vec<Identity>,
    /// `[users + 1]`; the events of user `u` are `offsets[u]..offsets[u + 1]`.
    pub offsets: Vec<u64>,
    /// `[events]` rows of the encoded items table, oldest first within a user.
    pub items: Vec<u32>,
    /// `[events]`, or nothing where only items were asked for.
    pub times: Vec<i64>,
    /// `[events]`, or nothing where only items were asked for.
    pub weights: Vec<f32>,
}

impl Histories {
    /// Forgets all users.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.identities.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.items.clear();
        self.times.clear();
        self.weights.clear();
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The events of the user at position `user`.
    pub fn events(&self, user: usize) -> Range<usize> {
        self.offsets[user] as usize..self.offsets[user + 1] as usize
    }

    /// The position of the user at a row of the table, if he has events.
    ///
    /// # Errors
    /// The row, where another user stands there than the one with this id.
    pub fn find(&self, row: u64, id: Id<'_>, key: &IdentityKey) -> Result<Option<usize>, u64> {
        let Ok(user) = self.rows.binary_search(&row) else { return Ok(None) };
        if self.identities[user] == key.identity(id) { Ok(Some(user)) } else { Err(row) }
    }
}
