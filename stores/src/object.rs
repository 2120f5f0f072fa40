//! What a store says of an object.

use crate::url::StoreUrl;
use chrono::{DateTime, Utc};
use object_store::ObjectMeta;

/// What tells an object from its successors, as a write or a look at it gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The e-tag, as the store writes it; web servers may have none.
    pub e_tag: Option<String>,
}

/// An object as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Where.
    pub url: StoreUrl,
    /// Bytes.
    pub bytes: u64,
    /// When it was written, as the store says: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    /// What tells it from its successors.
    pub version: Version,
}

impl Object {
    pub(crate) fn of(url: StoreUrl, meta: &ObjectMeta) -> Self {
        let modified = |time: DateTime<Utc>| (time.timestamp(), time.timestamp_subsec_nanos());
        let (modified, version) = (modified(meta.last_modified), Version::of(meta.e_tag.as_deref()));
        Self { url, bytes: meta.size, modified, version }
    }
}

impl Version {
    /// Lists of Azure have e-tags without the quotes that belong to them.
    pub(crate) fn of(e_tag: Option<&str>) -> Self {
        let quoted = |tag: &str| if tag.contains('"') { tag.to_string() } else { format!("\"{tag}\"") };
        Self { e_tag: e_tag.filter(|tag| !tag.is_empty()).map(quoted) }
    }
}

/// What lies directly below a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Objects, in order of their keys. Empty ones that only mark a folder are left out.
    pub objects: Vec<Object>,
    /// Names of what has objects below it, in order.
    pub folders: Vec<String>,
}
