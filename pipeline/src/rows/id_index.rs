//! Ids to row numbers: an open-addressing table over the ids themselves, without a copy per key.

use twotower_artifacts::ids::{Id, Ids};
use twotower_artifacts::keyed::hash_id;

/// Row numbers of distinct ids; 5 bytes a slot beside the ids.
#[derive(Debug)]
pub struct IdIndex {
    ids: Ids,
    /// Some bits of the hash of the id in each slot, or [`EMPTY`]. Most ids that are not here are told apart by them,
    /// in the cache, before rows and ids are looked at. The number of slots is a power of two, at least twice the ids.
    tags: Vec<u8>,
    /// The row of the id in each slot that is not empty.
    rows: Vec<u32>,
}

/// The tag of a slot without an id.
const EMPTY: u8 = 0;

/// The tag of an id: bits of its hash that do not choose its slot.
#[inline(always)]
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(EMPTY + 1)
}

impl IdIndex {
    /// Indexes `ids` by position.
    ///
    /// # Errors
    /// The two positions of the first id that stands twice.
    pub fn new(ids: Ids) -> Result<Self, (usize, usize)> {
        let slots = (ids.len() * 2).next_power_of_two().max(2);
        let mut index = Self { ids, tags: vec![EMPTY; slots], rows: vec![0; slots] };
        for row in 0..index.ids.len() {
            let (id, hash) = (index.ids.get(row), hash_id(index.ids.get(row)));
            match index.probe(hash, |other| other == id) {
                Ok(first) => return Err((first as usize, row)),
                Err(free) => (index.tags[free], index.rows[free]) = (tag(hash), row as u32),
            }
        }
        Ok(index)
    }

    /// The row of an id; none when it is not here or of another kind.
    pub fn find(&self, id: Id<'_>) -> Option<u32> {
        if self.ids.is_empty() {
            return None;
        }
        self.probe(hash_id(id), |other| other == id).ok()
    }

    /// The ids in row order.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.ids.bytes() + 5 * self.tags.len() as u64
    }

    /// The row of the id with that hash for which `is` holds, or the empty slot where it would go.
    #[inline(always)]
    fn probe(&self, hash: u64, is: impl Fn(Id<'_>) -> bool) -> Result<u32, usize> {
        let (mask, tag) = (self.tags.len() - 1, tag(hash));
        let mut slot = hash as usize & mask;
        loop {
            match self.tags[slot] {
                EMPTY => return Err(slot),
                its if its == tag && is(self.ids.get(self.rows[slot] as usize)) => return Ok(self.rows[slot]),
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::ids::IdKind;

    #[test]
    fn every_id_is_found_at_its_row_and_no_other_id_is_found() {
        let mut ids = Ids::new(IdKind::Text);
        (0..5000).for_each(|i| ids.push(Id::Text(&format!("u{i}"))));
        let index = IdIndex::new(ids.clone()).unwrap();
        assert!((0..5000).all(|r| index.find(ids.get(r)) == Some(r as u32)));
        assert!((5000..6000).all(|r| index.find(Id::Text(&format!("u{r}"))).is_none()));
        assert_eq!(index.find(Id::Int(1)), None);
    }

    #[test]
    fn a_duplicate_is_reported_with_both_rows() {
        assert_eq!(IdIndex::new(Ids::Int(vec![4, 7, 9, 7])).unwrap_err(), (1, 3));
    }
}
