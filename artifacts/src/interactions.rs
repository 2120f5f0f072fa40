//! Encoded interactions: each user's positives in time order.

use crate::clock::TickUnit;

/// Positives of encoded users, grouped by user row and sorted by time within a user.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Interactions {
    /// `[users + 1]`; events of user row u are `offsets[u]..offsets[u + 1]`.
    pub offsets: Vec<u64>,
    /// Item row (position in the encoded item table) of each event, oldest first per user.
    pub items: Vec<u32>,
    /// Time of each event in the table's own unit, or the event's position where the table has no times.
    pub times: Vec<i64>,
    /// What times count; none where they only tell which event was earlier.
    pub unit: Option<TickUnit>,
    /// Weight of each event, 1.0 where the table has none.
    pub weights: Vec<f32>,
}

impl Interactions {
    /// Number of users.
    pub fn users(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Event indices of user row `u`.
    pub fn events(&self, u: usize) -> std::ops::Range<usize> {
        self.offsets[u] as usize..self.offsets[u + 1] as usize
    }
}
