//! A hash index over numbered entries: 4 bytes a slot, the entries themselves stay with their owner, who hashes them
//! under the key of the process ([`twotower_artifacts::keyed`]).

const FREE: u32 = u32::MAX;

/// Open addressing with linear probing over a power of two of slots, at most half of them taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    slots: Vec<u32>,
    taken: usize,
}

impl Slots {
    /// Room for `entries` more without a rebuild.
    pub(crate) fn with_room(entries: usize) -> Self {
        Self { slots: vec![FREE; ((entries + 1) * 2).next_power_of_two()], taken: 0 }
    }

    /// The entry of that hash for which `is` holds, or the free slot where it would go.
    ///
    /// # Panics
    /// Without any slots.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(usize) -> bool) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                FREE => return Err(at),
                entry if is(entry as usize) => return Ok(entry as usize),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Puts an entry into the free slot that [`Slots::find`] gave.
    ///
    /// # Panics
    /// Beyond 2^32 - 1 entries, whose owner would hold 100 GiB by then.
    pub(crate) fn fill(&mut self, slot: usize, entry: usize) {
        self.slots[slot] = u32::try_from(entry).ok().filter(|e| *e != FREE).expect("entries are numbered in 32 bits");
        self.taken += 1;
    }

    /// Whether another entry needs a rebuild first.
    pub(crate) fn is_full(&self) -> bool {
        self.taken * 2 >= self.slots.len()
    }

    /// Makes room for twice the entries; `hash` gives the hash of each. The old slots are freed first.
    pub(crate) fn grow(&mut self, entries: usize, hash: impl Fn(usize) -> u64) {
        self.slots = Vec::new();
        *self = Self::with_room((entries * 2).max(15));
        for entry in 0..entries {
            if let Err(slot) = self.find(hash(entry), |_| false) {
                self.fill(slot, entry);
            }
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }
}
