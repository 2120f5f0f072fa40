//! A hash index over numbered entries, with 4 bytes per slot. The owner keeps the entries and hashes them with
//! [`twotower_artifacts::keyed`].

const FREE: u32 = u32::MAX;

/// A table with open addressing and linear probing. The number of slots is a power of two, and at most half are taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    slots: Vec<u32>,
    taken: usize,
}

impl Slots {
    /// A table with room for `entries` entries.
    pub(crate) fn with_room(entries: usize) -> Self {
        Self { slots: vec![FREE; ((entries + 1) * 2).next_power_of_two()], taken: 0 }
    }

    /// The entry with this hash for which `is` holds, or as an error the free slot where it would go.
    ///
    /// # Panics
    /// When the table has no slots.
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
    /// Beyond 2^32 - 1 entries, which would take their owner 100 GiB.
    pub(crate) fn fill(&mut self, slot: usize, entry: usize) {
        self.slots[slot] = u32::try_from(entry).ok().filter(|e| *e != FREE).expect("entries are numbered in 32 bits");
        self.taken += 1;
    }

    /// Whether the table has to grow before another entry is added.
    pub(crate) fn is_full(&self) -> bool {
        self.taken * 2 >= self.slots.len()
    }

    /// Makes room for twice the entries. `hash` gives the hash of each. The old slots are freed first.
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
