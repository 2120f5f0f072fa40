//! A timeline: the events of every user in time order, found by row of the users table.
//!
//! One file holds blocks of users and an index of the blocks. A user's row is that of the users table. Users who are
//! only in the interactions come after all of these; their row is the table's number of rows plus the row of their
//! first interaction. So a range of the table's rows is a range of the file. Whoever streams the table reads the
//! timeline from start to end, even if it is much larger than memory.

mod file;

pub use file::{MAGIC, Timeline, TimelineWriter};

use crate::clock::Clock;
use crate::ids::Id;
use crate::keyed::{Identity, IdentityKey};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What the file of a timeline states about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineInfo {
    /// Rows of the users table.
    pub table_rows: u64,
    /// Rows of the encoded items table. The items of events are rows of it.
    pub items: u64,
    /// The meaning of times.
    pub clock: Clock,
    /// The key under which identities of users are computed.
    pub key: IdentityKey,
}

/// An event of a user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Row of the encoded items table.
    pub item: u32,
    /// Ticks of the timeline's clock.
    pub time: i64,
    /// At least 0; 1 where the table has no weights.
    pub weight: f32,
}

/// Which parts of events a reader of a timeline loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Only items.
    Items,
    /// Items and times.
    Times,
    /// Items, times and weights.
    All,
}

/// The users in a range of rows who have events, and their events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histories {
    /// `[users]` rows, ascending.
    pub rows: Vec<u64>,
    /// `[users]` identities.
    pub identities: Vec<Identity>,
    /// `[users + 1]`; the events of user `u` are `offsets[u]..offsets[u + 1]`.
    pub offsets: Vec<u64>,
    /// `[events]` rows of the encoded items table, oldest first within a user.
    pub items: Vec<u32>,
    /// `[events]` times, or empty with [`Detail::Items`].
    pub times: Vec<i64>,
    /// `[events]` weights, or empty unless with [`Detail::All`].
    pub weights: Vec<f32>,
    /// Room to read blocks into.
    room: BlockRoom,
}

/// Memory of the last block that was read, to be used again for the next.
#[derive(Debug, Clone, Default)]
struct BlockRoom {
    /// Its sections as they are in the file.
    packed: Vec<u8>,
    /// One section at a time, decompressed.
    values: Vec<u8>,
}

/// Histories are equal whatever their room held last.
impl PartialEq for BlockRoom {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Histories {
    /// Removes all users.
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

    /// The position of the user at a row of the table, if the user has events.
    ///
    /// # Errors
    /// The row, if the user at it does not have this id.
    pub fn find(&self, row: u64, id: Id<'_>, key: &IdentityKey) -> Result<Option<usize>, u64> {
        let Ok(user) = self.rows.binary_search(&row) else { return Ok(None) };
        if self.identities[user] == key.identity(id) { Ok(Some(user)) } else { Err(row) }
    }
}
