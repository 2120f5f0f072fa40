//! Which ids may have been seen before, by their hashes. Most ids that were not are told apart here, without a look at
//! the disk.

/// A bit per range of hashes, set where one was added.
#[derive(Debug)]
pub struct IdFilter {
    bits: Vec<u64>,
    shift: u32,
}

/// Bits for each id; their number is a power of two.
const BITS: u64 = 8;

impl IdFilter {
    /// The most memory that a filter takes. Where more ids are added, more others pass in vain.
    pub const MOST_BYTES: u64 = 4 << 20;

    /// An empty filter of up to `count` ids.
    pub fn new(count: u64) -> Self {
        let bits = (count.saturating_mul(BITS)).clamp(64, Self::MOST_BYTES * 8).next_power_of_two();
        Self { bits: vec![0; (bits / 64) as usize], shift: 64 - bits.trailing_zeros() }
    }

    /// Adds an id by its hash, whose upper bits are evenly spread.
    #[inline]
    pub fn add(&mut self, hash: u64) {
        let bit = hash >> self.shift;
        self.bits[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    /// Whether an id with this hash may have been added.
    #[inline]
    pub fn may_hold(&self, hash: u64) -> bool {
        let bit = hash >> self.shift;
        self.bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.bits.len() as u64 * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_held_and_most_else_is_not() {
        for count in [0, 1, 1000, 100_000] {
            let hash = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut filter = IdFilter::new(count);
            (0..count).for_each(|i| filter.add(hash(i)));
            assert!((0..count).all(|i| filter.may_hold(hash(i))));
            let others = (count..2 * count).filter(|i| filter.may_hold(hash(*i))).count() as u64;
            assert!(others * 5 <= count, "{others} of {count}");
        }
        assert_eq!(IdFilter::new(u64::MAX).bytes(), IdFilter::MOST_BYTES);
    }
}
