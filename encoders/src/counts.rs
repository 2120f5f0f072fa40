//! What encoding met, per feature: for the manifest and for gates on a night's data.

use crate::histogram::Histogram;
use crate::variety::Variety;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::schema::{MISSING, UNKNOWN};

/// Counts of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FeatureCounts {
    /// Cells encoded: one a row, or one an element for multi-valued features (and one for a missing list).
    pub values: u64,
    /// Cells encoded as missing, whatever the reason.
    pub missing: u64,
    /// Cells encoded as unknown.
    pub unknown: u64,
    /// Numbers that were NaN, infinite or beyond 1e100; counted as missing too.
    pub not_finite: u64,
    /// Text that does not read as the feature's kind: missing for numerics, unknown for booleans.
    pub junk: u64,
    /// Elements beyond `max_len` that were dropped, not encoded.
    pub truncated: u64,
    /// The distribution of numbers as they stand in the table, or of booleans; other kinds have none.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub histogram: Histogram,
    /// Whether what the rows became differs. Counts of earlier versions do not say.
    #[serde(default)]
    pub variety: Variety,
}

impl FeatureCounts {
    /// Adds the counts of other rows.
    pub fn merge(&mut self, other: &Self) {
        self.values += other.values;
        self.missing += other.missing;
        self.unknown += other.unknown;
        self.not_finite += other.not_finite;
        self.junk += other.junk;
        self.truncated += other.truncated;
        self.histogram.merge(&other.histogram);
        self.variety.merge(other.variety);
    }

    /// Counts freshly encoded codes.
    pub(crate) fn tally(&mut self, codes: &[u32]) {
        self.values += codes.len() as u64;
        self.missing += times(MISSING, codes);
        self.unknown += times(UNKNOWN, codes);
    }
}

/// How often a code stands among others.
pub(crate) fn times(code: u32, codes: &[u32]) -> u64 {
    // Counted in as many bits as a code has, a loop looks at twice as many at a time.
    let in_some = |codes: &[u32]| codes.iter().map(|c| u32::from(*c == code)).sum::<u32>();
    codes.chunks(1 << 20).map(|codes| u64::from(in_some(codes))).sum()
}

/// Counts of all features of one side.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EncodeCounts {
    /// Rows encoded.
    pub rows: u64,
    /// By feature name; sequence features, which are filled elsewhere, have none.
    pub features: BTreeMap<String, FeatureCounts>,
}

impl EncodeCounts {
    /// Adds the counts of other rows; order does not matter.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        for (name, counts) in &other.features {
            self.features.entry(name.clone()).or_default().merge(counts);
        }
    }
}
