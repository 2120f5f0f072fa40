//! Settings of the item index.

use crate::error::IndexError;
use serde::{Deserialize, Serialize};
use twotower_artifacts::range::{self, Range, Ranges};

/// How the nearest items are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// Exact up to `auto_threshold` items, HNSW above.
    #[default]
    Auto,
    /// Every item is compared: blocked matrix products with a fused top-k.
    Exact,
    /// Hierarchical navigable small world graph (Malkov and Yashunin, TPAMI 2020), built by `hnsw_rs`.
    Hnsw,
}

impl std::fmt::Display for IndexKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IndexKind::Auto => "auto",
            IndexKind::Exact => "exact",
            IndexKind::Hnsw => "hnsw",
        })
    }
}

/// The index section of a job's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IndexConfig {
    /// `auto`, `exact` or `hnsw`.
    pub kind: IndexKind,
    /// With `auto`, the most items that are searched exactly. Default 100,000. On two AVX2 cores, at
    /// d = 64 and recall@50 of 0.99, a query costs the same with HNSW and with exact search at 20,000 items, and a
    /// quarter less with HNSW at 50,000. But exact search misses nothing and needs no graph. At 100,000 items a
    /// graph takes minutes to build, the time that it saves in several million queries.
    pub auto_threshold: usize,
    /// HNSW: links per item and layer, twice as many on layer 0. From 2 to 128. Default 16.
    pub m: usize,
    /// HNSW: search width while building, at least 1. Default 200.
    pub ef_construction: usize,
    /// HNSW: search width of queries. When absent, it is chosen when the graph is built, from the measured recall.
    pub ef_search: Option<usize>,
    /// HNSW: mean recall of users against exact search that a chosen `ef_search` must reach. Default 0.99.
    pub target_recall: f64,
    /// HNSW: mean recall below which the build fails, or with `auto` exact search is taken. Default 0.98.
    pub min_index_recall: f64,
    /// HNSW: about how many users recall is measured on, at least 1. Default 4,096, with which a mean of 0.9 or more
    /// is within 0.01 of that of all users.
    pub sample_queries: usize,
    /// HNSW: whether items are inserted on all threads of the pool. It is faster, but the graph then differs from
    /// build to build. Otherwise the same vectors and settings give the same bytes. Default false.
    pub parallel_build: bool,
    /// HNSW: seed of the insertion order and of the sampled users. Default 17.
    pub seed: u64,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            kind: IndexKind::Auto,
            auto_threshold: 100_000,
            m: 16,
            ef_construction: 200,
            ef_search: None,
            target_recall: 0.99,
            min_index_recall: 0.98,
            sample_queries: 4096,
            parallel_build: false,
            seed: 17,
        }
    }
}

impl IndexConfig {
    /// The ranges of all numbers.
    pub const RANGES: Ranges = &[
        ("auto_threshold", Range::Whole(0, u32::MAX as i64)),
        ("m", Range::Whole(2, 128)),
        ("ef_construction", Range::Whole(1, 10_000)),
        ("ef_search", Range::Whole(1, 1_000_000)),
        ("target_recall", Range::SHARE),
        ("min_index_recall", Range::SHARE),
        ("sample_queries", Range::Whole(1, 1_000_000)),
        ("seed", Range::SEED),
    ];

    /// The kind of index for `count` items, and why. With `auto`, measuring a graph may still show that exact search is
    /// better.
    pub fn choose(&self, count: usize) -> (IndexKind, String) {
        let threshold = self.auto_threshold;
        match self.kind {
            IndexKind::Auto if count <= threshold => {
                (IndexKind::Exact, format!("auto: {count} items, exact search serves up to {threshold}"))
            }
            IndexKind::Auto => (IndexKind::Hnsw, format!("auto: {count} items, HNSW serves above {threshold}")),
            kind => (kind, format!("the configuration asks for {kind}")),
        }
    }

    /// Whether the settings of `other` give the same graph for the same items.
    pub fn same_graph(&self, other: &Self) -> bool {
        let settings = |config: &Self| (config.m, config.ef_construction, config.parallel_build, config.seed);
        settings(self) == settings(other)
    }

    /// Checks every number against its range.
    ///
    /// # Errors
    /// [`IndexError::Setting`], naming the first setting out of range.
    pub fn check(&self) -> Result<(), IndexError> {
        range::check(self, Self::RANGES).map_err(IndexError::Setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_and_missing_keys_take_defaults() {
        let config: IndexConfig = serde_json::from_str(r#"{"kind": "hnsw", "m": 8}"#).unwrap();
        assert_eq!(config, IndexConfig { kind: IndexKind::Hnsw, m: 8, ..IndexConfig::default() });
        let error = serde_json::from_str::<IndexConfig>(r#"{"ef": 8}"#).unwrap_err();
        assert!(error.to_string().contains("`ef_search`"), "{error}");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (config, name) in [
            (IndexConfig { m: 1, ..IndexConfig::default() }, "m"),
            (IndexConfig { ef_search: Some(0), ..IndexConfig::default() }, "ef_search"),
            (IndexConfig { min_index_recall: f64::NAN, ..IndexConfig::default() }, "min_index_recall"),
        ] {
            let error = config.check().unwrap_err();
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
        IndexConfig::default().check().unwrap();
    }
}
