//! Ids to row numbers: an open-addressing table over the ids themselves, without a copy per key.

use twotower_artifacts::ids::{Id, Ids};
use twotower_artifacts::keyed::hash_id;

/// Row numbers of distinct ids; 8 bytes a slot beside the ids.
#[derive(Debug)]
pub struct IdIndex {
    ids: Ids,
    /// Row + 1, or 0 for an empty slot, beside the upper half of the id's hash: most strangers end there,
    /// before the ids are looked at. A power of two, at most half full.
    slots: Vec<(u32, u32)>,
}

impl IdIndex {
    /// Indexes `ids` by position.
    ///
    /// # Errors
    /// The two positions of the first id that stands twice.
    pub fn new(ids: Ids) -> Result<Self, (usize, usize)> {
        let slots = vec![(0, 0); (ids.len() * 2).next_power_of_two().max(2)];
        let mut index = Self { ids, slots };
        for row in 0..index.ids.len() {
            let (slot, tag) = index.slot(index.ids.get(row));
            match index.slots[slot].0 {
                0 => index.slots[slot] = (row as u32 + 1, tag),
                first => return Err((first as usize - 1, row)),
            }
        }
        Ok(index)
    }

    /// The row of an id; none when it is not here or of another kind.
    pub fn find(&self, id: Id<'_>) -> Option<u32> {
        if self.ids.is_empty() {
            return None;
        }
        self.slots[self.slot(id).0].0.checked_sub(1)
    }

    /// The ids in row order.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.ids.bytes() + 8 * self.slots.len() as u64
    }

    /// The slot that holds the id, or the empty slot where it would go, and the id's tag.
    fn slot(&self, id: Id<'_>) -> (usize, u32) {
        let mask = self.slots.len() - 1;
        let hash = hash_id(id);
        let (mut slot, tag) = (hash as usize & mask, (hash >> 32) as u32);
        loop {
            match self.slots[slot] {
                (0, _) => return (slot, tag),
                (at, its) if its == tag && self.ids.get(at as usize - 1) == id => return (slot, tag),
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
