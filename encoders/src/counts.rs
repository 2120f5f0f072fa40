//! Counts of what each feature's cells held, for the manifest and for the gates on a night's data.

use crate::histogram::Histogram;
use crate::variety::Variety;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::schema::{MISSING, UNKNOWN};

/// Counts of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FeatureCounts {
    /// Cells encoded: one per row. For multi-valued features, one per element and one for a missing list.
    pub values: u64,
    /// Cells encoded as missing, whatever the reason.
    pub missing: u64,
    /// Cells encoded as unknown.
    pub unknown: u64,
    /// Numbers that were NaN, infinite or beyond 1e100; counted as missing too.
    pub not_finite: u64,
    /// Texts that cannot be read as the feature's kind. For numerics they count as missing too, for booleans as
    /// unknown.
    pub junk: u64,
    /// Elements beyond `max_len`, which were dropped.
    pub truncated: u64,
    /// The distribution of the numbers in the table, or of booleans. Empty for other kinds.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub histogram: Histogram,
    /// Whether the encoded rows differ. Earlier versions did not count it.
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

/// How often a code occurs in `codes`.
pub(crate) fn times(code: u32, codes: &[u32]) -> u64 {
    // A counter as wide as a code lets a vector hold twice as many as a 64-bit one.
    let in_some = |codes: &[u32]| codes.iter().map(|c| u32::from(*c == code)).sum::<u32>();
    codes.chunks(1 << 20).map(|codes| u64::from(in_some(codes))).sum()
}

/// Counts of all features of one side.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EncodeCounts {
    /// Rows encoded.
    pub rows: u64,
    /// Counts by feature name. Sequence features have none, since they are filled elsewhere.
    pub features: BTreeMap<String, FeatureCounts>,
    /// Rows whose sequences are all empty: users without any known event. None where there are no sequences. Who fills
    /// the sequences counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_history: Option<u64>,
}

impl EncodeCounts {
    /// Adds the counts of other rows, in any order.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        if let Some(without) = other.without_history {
            *self.without_history.get_or_insert(0) += without;
        }
        for (name, counts) in &other.features {
            self.features.entry(name.clone()).or_default().merge(counts);
        }
    }
}
