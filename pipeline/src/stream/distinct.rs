//! How many distinct vectors, or pairs, there are among all, and how many two nights share, in a few bytes whatever
//! their number.

use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use twotower_artifacts::Id;

/// Hashes kept: below that the count is exact, above it within about a tenth.
const KEPT: usize = 128;

/// The smallest distinct hashes of a set, which tell its size (k minimum values; Bar-Yossef et al., "Counting
/// DistinctSketch Elements in a Data Stream", 2002; the estimate is that of Beyer et al., "On Synopses for
/// Distinct-Value Estimation", 2007). The smallest hashes of two sets give those of their union, so order and shards do
/// not matter.
///
/// In JSON it is one text of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DistinctSketch {
    least: BTreeSet<u64>,
}

impl DistinctSketch {
    /// Adds a hash, which must be spread evenly over 64 bits.
    pub fn add(&mut self, hash: u64) {
        let full = self.least.len() == KEPT;
        if full && self.least.last().is_some_and(|most| hash >= *most) {
            return;
        }
        if self.least.insert(hash) && full {
            self.least.pop_last();
        }
    }

    /// Adds another set.
    pub fn merge(&mut self, other: &Self) {
        other.least.iter().for_each(|hash| self.add(*hash));
    }

    /// About what share of all distinct hashes of two sets is in both; none where both are empty.
    pub fn shared(&self, other: &Self) -> Option<f64> {
        let mut union = self.clone();
        union.merge(other);
        let both = union.least.iter().filter(|hash| self.least.contains(hash) && other.least.contains(hash)).count();
        (!union.least.is_empty()).then(|| both as f64 / union.least.len() as f64)
    }

    /// About how many distinct hashes were added.
    pub fn count(&self) -> u64 {
        match (self.least.len() == KEPT, self.least.last()) {
            (true, Some(most)) => ((KEPT - 1) as f64 * (u64::MAX as f64 / *most as f64)) as u64,
            _ => self.least.len() as u64,
        }
    }
}

impl From<DistinctSketch> for String {
    fn from(distinct: DistinctSketch) -> Self {
        distinct.least.iter().map(|hash| format!("{hash:016x}")).collect()
    }
}

impl TryFrom<String> for DistinctSketch {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = || "expected 16 hexadecimal digits a hash, at most 128 of them".to_string();
        let hash = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let least: Option<BTreeSet<u64>> = text.as_bytes().chunks(16).map(hash).collect();
        let least = least.filter(|least| 16 * least.len() == text.len() && least.len() <= KEPT).ok_or_else(wrong)?;
        Ok(Self { least })
    }
}

/// Hashes vectors of one width.
pub struct VectorHash {
    /// One for each two elements; odd.
    multipliers: Vec<u64>,
}

impl VectorHash {
    /// A hash of vectors of `dim` elements, the same in every process.
    pub fn new(dim: usize) -> Self {
        let odd = |i: u64| mix(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
        Self { multipliers: (1..=dim.div_ceil(2) as u64).map(odd).collect() }
    }

    /// The hash of a vector by the bits of its elements, two to a product.
    pub fn of(&self, vector: &[f32]) -> u64 {
        let two = |pair: &[f32]| pair.iter().fold(0, |bits, x| bits << 32 | u64::from(x.to_bits()));
        let (pairs, last) = vector.as_chunks::<2>();
        let whole = pairs.iter().zip(&self.multipliers).map(|(pair, m)| two(pair).wrapping_mul(*m));
        let rest = self.multipliers.last().map_or(0, |m| two(last).wrapping_mul(*m));
        mix(whole.fold(rest, u64::wrapping_add))
    }
}

/// A hash of a pair of ids, the same in every process.
pub fn pair_hash(user: Id<'_>, item: Id<'_>) -> u64 {
    let mut hasher = FxHasher::default();
    (user, item).hash(&mut hasher);
    mix(hasher.finish())
}

/// MurmurHash3's 64-bit finaliser.
fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set of the hashes of vectors that `of` makes of numbers.
    fn set(numbers: impl Iterator<Item = u32>, of: impl Fn(u32) -> [f32; 3]) -> DistinctSketch {
        let (hash, mut set) = (VectorHash::new(3), DistinctSketch::default());
        numbers.for_each(|i| set.add(hash.of(&of(i))));
        set
    }

    #[test]
    fn few_are_counted_exactly_and_many_within_a_quarter() {
        let of = |i: u32| [i as f32, 0.5, -(i as f32).sqrt()];
        assert_eq!(set(0..0, of).count(), 0);
        assert_eq!(set((0..5000).map(|_| 7), of).count(), 1);
        assert_eq!(set((0..5000).map(|i| i % 100), of).count(), 100);
        for n in [1000, 30_000, 400_000] {
            let found = set(0..n, of).count() as f64;
            assert!((found / f64::from(n) - 1.0).abs() < 0.25, "{n}: {found}");
        }
    }

    #[test]
    fn order_and_shards_do_not_matter_and_text_reads_back() {
        let of = |i: u32| [1.0 / (i + 1) as f32, 1.0, 0.0];
        let whole = set(0..10_000, of);
        let mut parts = set((3000..10_000).rev(), of);
        parts.merge(&set(0..3500, of));
        assert_eq!(parts, whole);
        let share = |a: std::ops::Range<u32>, b: std::ops::Range<u32>| set(a, of).shared(&set(b, of));
        assert_eq!((share(0..50, 25..75), share(0..0, 0..0), share(0..9, 0..0)), (Some(25.0 / 75.0), None, Some(0.0)));
        assert!((share(0..60_000, 20_000..80_000).unwrap() - 0.5).abs() < 0.15);
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<DistinctSketch>(&text).unwrap(), whole);
        let pairs: BTreeSet<u64> =
            (0..100).map(|i| pair_hash(Id::Int(i % 10), Id::Text(&(i / 10).to_string()))).collect();
        assert_eq!(pairs.len(), 100);
        for wrong in ["1", &"0".repeat(32), &"g".repeat(16), &"é".repeat(8)] {
            assert!(DistinctSketch::try_from(wrong.to_string()).is_err(), "{wrong}");
        }
    }
}
