//! Hashed features: ids of unbounded vocabularies in a fixed number of buckets.
//!
//! The bucket is `fmix64(fnv1a64(text)) mod buckets` over the canonical text: FNV-1a with its offset
//! basis (Fowler, Noll and Vo; RFC 9923) mixed with the seed, then the finaliser of MurmurHash3
//! (Appleby, public domain), which improves FNV's weak high bits. Both are fixed by definition, so a
//! value keeps its bucket across machines and versions. Missing values have a slot of their own, and no
//! value is unknown.

use crate::counts::FeatureCounts;
use crate::encode::Encode;
use crate::error::ColumnError;
use crate::values::ValueMap;
use arrow_array::ArrayRef;
use serde::{Deserialize, Serialize};
use twotower_artifacts::Column;
use twotower_artifacts::schema::{FIRST_VALUE, MISSING};

/// Configuration of a hashed feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashedSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads; its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Number of buckets, at least 1.
    pub buckets: u32,
    /// Two features of one column with different seeds collide on different values.
    #[serde(default)]
    pub seed: u64,
}

impl HashedSpec {
    /// Slots: the buckets and the three special ones.
    pub fn cardinality(&self) -> u32 {
        FIRST_VALUE + self.buckets
    }

    /// What FNV-1a begins with.
    pub(crate) fn basis(&self) -> u64 {
        basis(self.seed)
    }

    /// The code of a canonical text.
    pub fn code(&self, text: &str) -> u32 {
        FIRST_VALUE + (stable_hash(self.seed, text.as_bytes()) % u64::from(self.buckets)) as u32
    }
}

fn basis(seed: u64) -> u64 {
    0xcbf2_9ce4_8422_2325 ^ mix(seed)
}

fn stable_hash(seed: u64, bytes: &[u8]) -> u64 {
    let basis = basis(seed);
    mix(bytes.iter().fold(basis, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)))
}

/// MurmurHash3's 64-bit finaliser; 0 stays 0.
fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Encodes columns by hashing.
pub(crate) struct HashedEncoder {
    spec: HashedSpec,
    codes: ValueMap<u32>,
}

impl HashedEncoder {
    pub(crate) fn new(spec: HashedSpec) -> Self {
        Self { spec, codes: ValueMap::default() }
    }
}

impl Encode for HashedEncoder {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError> {
        let out = crate::encode::codes(out);
        let before = out.len();
        let Self { spec, codes } = self;
        let code = |value: crate::values::Value<'_>| value.text(|t| t.map_or(MISSING, |t| spec.code(t)));
        codes.map_rows(column, code, out)?;
        counts.tally(&out[before..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn the_hash_is_fnv1a_with_murmurs_finaliser() {
        // FNV-1a 64 of "foobar" is 85944171f73967e8 in the authors' test suite.
        assert_eq!(stable_hash(0, b"foobar"), mix(0x8594_4171_f739_67e8));
        assert_eq!(stable_hash(0, b""), mix(0xcbf2_9ce4_8422_2325));
        assert_ne!(stable_hash(1, b"foobar"), stable_hash(0, b"foobar"));
    }

    #[test]
    fn codes_lie_in_the_buckets_evenly_and_null_is_missing() {
        let spec = HashedSpec { name: "h".into(), column: None, buckets: 16, seed: 7 };
        let mut encoder = HashedEncoder::new(spec.clone());
        let column: ArrayRef = Arc::new(Int64Array::from_iter((0..16_000).map(Some).chain([None])));
        let mut out = Column::Code(Vec::new());
        let mut counts = FeatureCounts::default();
        encoder.encode(&column, &mut out, &mut counts).unwrap();
        let Column::Code(codes) = out else { unreachable!() };
        let mut full = vec![0; spec.cardinality() as usize];
        codes.iter().for_each(|c| full[*c as usize] += 1);
        assert_eq!((full[0], full[1], full[2], counts.missing), (0, 1, 0, 1));
        // 1,000 a bucket, binomial deviation 31.
        assert!(full[3..].iter().all(|n| (850..1150).contains(n)), "{full:?}");
        assert_eq!(codes[42], spec.code("42"));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["42"]));
        let mut out = Column::Code(Vec::new());
        encoder.encode(&text, &mut out, &mut counts).unwrap();
        assert_eq!(out, Column::Code(vec![codes[42]]));
    }
}
