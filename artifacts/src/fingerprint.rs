//! Content fingerprints: BLAKE3, written as 32 lower-case hex digits.

use serde::{Deserialize, Serialize};

/// The first 16 bytes of a BLAKE3 hash, in hex. Equal content, equal fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Fingerprint of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(blake3::Hasher::new().update(bytes))
    }

    /// Fingerprint of named parts; names and lengths are hashed, so parts cannot run together.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in parts {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        Self::finish(&hasher)
    }

    /// The digest of an incremental hasher.
    pub fn finish(hasher: &blake3::Hasher) -> Self {
        Self(hasher.finalize().to_hex()[..32].to_string())
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
