//! Ids to row numbers: an open-addressing table over the ids themselves, without a copy per key.

use std::hash::Hasher;
use twotower_artifacts::ids::{Id, Ids};

/// Row numbers of distinct ids; 4 bytes a slot beside the ids.
#[derive(Debug)]
pub struct IdIndex {
    ids: Ids,
    /// Row + 1, or 0 for an empty slot; a power of two, at most half full.
    slots: Vec<u32>,
}

impl IdIndex {
    /// Indexes `ids` by position.
    ///
    /// # Errors
    /// The two positions of the first id that stands twice.
    pub fn new(ids: Ids) -> Result<Self, (usize, usize)> {
        let slots = vec![0; (ids.len() * 2).next_power_of_two().max(2)];
        let mut index = Self { ids, slots };
        for row in 0..index.ids.len() {
            let slot = index.slot(index.ids.get(row));
            match index.slots[slot] {
                0 => index.slots[slot] = row as u32 + 1,
                first => return Err((first as usize - 1, row)),
            }
        }
        Ok(index)
    }

    /// The row of an id; none when it is not here or of another kind.
    pub fn find(&self, id: Id<'_>) -> Option<u32> {
        self.slots[self.slot(id)].checked_sub(1)
    }

    /// The ids in row order.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.ids.bytes() + 4 * self.slots.len() as u64
    }

    /// The slot that holds the id, or the empty slot where it would go.
    fn slot(&self, id: Id<'_>) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(id) as usize & mask;
        loop {
            match self.slots[slot] {
                0 => return slot,
                at if self.ids.get(at as usize - 1) == id => return slot,
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

/// A hash of an id that is the same in every process.
pub fn hash(id: Id<'_>) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    match id {
        Id::Int(value) => hasher.write_i64(value),
        Id::Text(value) => hasher.write(value.as_bytes()),
    }
    // Fx leaves low bits weak for integers; the table is indexed by low bits.
    let h = hasher.finish();
    (h ^ (h >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (h >> 29)
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
