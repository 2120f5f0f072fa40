//! What the job file says of object stores: never a secret.

use crate::ranges::RANGE_BYTES;
use serde::{Deserialize, Serialize};
use twotower_artifacts::range::{Range, Ranges};

/// How a store tells two writers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConditionalPut {
    /// By `If-None-Match` and `If-Match`, which the store obeys.
    #[default]
    Etag,
    /// Not at all: this program looks before it writes and once more after it. Two that write within the same moment may
    /// both believe that they were first.
    Disabled,
}

/// The settings of object stores, beside what the environment says. A setting that is given here goes before its
/// variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// URL of the service, where that is not the provider's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region of S3 buckets; `us-east-1` where the environment names none either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket of S3 stands in the name of the host and not in the path; with an `endpoint`, that names the
    /// bucket too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_hosted_style: Option<bool>,
    /// How S3 tells two writers apart.
    pub conditional_put: ConditionalPut,
    /// Whether connections without TLS are allowed.
    pub allow_http: bool,
    /// Whether requests are sent without credentials, to public buckets.
    pub unsigned: bool,
    /// How often a request is repeated that failed for a reason that may pass.
    pub retries: u32,
    /// Seconds without a byte after which an answer counts as lost.
    pub timeout_seconds: u32,
    /// MiB that are read ahead of their use, over all readers of the process: half of them of what is read from beginning
    /// to end, half of Parquet files.
    pub read_ahead_mib: u32,
    /// MiB that wait to be sent, over all uploads of the process.
    pub upload_mib: u32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            virtual_hosted_style: None,
            conditional_put: ConditionalPut::default(),
            allow_http: false,
            unsigned: false,
            retries: 10,
            timeout_seconds: 30,
            read_ahead_mib: 128,
            upload_mib: 64,
        }
    }
}

impl StoreSettings {
    /// Bytes that reading from stores holds: what is ahead, and the ranges that are being read.
    pub fn reading_bytes(&self) -> u64 {
        (u64::from(self.read_ahead_mib) << 20) + 2 * RANGE_BYTES
    }

    /// The ranges of its numbers.
    pub const RANGES: Ranges = &[
        ("retries", Range::Whole(0, 100)),
        ("timeout_seconds", Range::Whole(1, 3600)),
        ("read_ahead_mib", Range::Whole(16, 65_536)),
        ("upload_mib", Range::Whole(16, 65_536)),
    ];
}
