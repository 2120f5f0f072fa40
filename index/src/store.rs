//! Keeps an index in a folder: `index.bin` with its content, and `index.json` with its description.

use crate::config::{IndexConfig, IndexKind};
use crate::error::IndexError;
use crate::exact::ExactIndex;
use crate::hnsw::HnswIndex;
use crate::image::Image;
use crate::measure::UserRecall;
use crate::search::ItemIndex;
use crate::vectors::ItemVectors;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::path::Path;
use twotower_artifacts::json::read_text;
use twotower_artifacts::publish::publish_bytes;
use twotower_artifacts::{ArtifactError, Fingerprint, open_regular};

/// Name of the file with vectors and graph, which is mapped.
pub const IMAGE_NAME: &str = "index.bin";
/// Name of the file with the manifest, as JSON.
pub const MANIFEST_NAME: &str = "index.json";
const FORMAT: u32 = 1;

/// The description of a stored index. Equal builds have equal manifests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexManifest {
    /// Version of the folder's format.
    pub format: u32,
    /// `exact` or `hnsw`.
    pub kind: IndexKind,
    /// Why that kind.
    pub reason: String,
    /// Number of items.
    pub count: usize,
    /// Floats per vector.
    pub dim: usize,
    /// Fingerprint of the item vectors, as [`ItemVectors::fingerprint`].
    pub vectors: Fingerprint,
    /// Fingerprint of `index.bin`.
    pub image: Fingerprint,
    /// HNSW: links per item and layer.
    pub m: Option<usize>,
    /// HNSW: search width while building.
    pub ef_construction: Option<usize>,
    /// HNSW: search width for 50 neighbours.
    pub ef_search: Option<usize>,
    /// HNSW: mean recall against exact search, measured at build.
    pub recall: Option<f64>,
    /// HNSW: how recall is distributed over users. Absent in indexes of earlier versions, whose `recall` was measured
    /// with queries made from items, not with users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<UserRecall>,
    /// HNSW: items that were unreachable after insertion, and are linked now.
    pub unreachable: usize,
}

impl IndexManifest {
    pub(crate) fn of(vectors: &ItemVectors, kind: IndexKind, reason: &str) -> Self {
        Self {
            format: FORMAT,
            kind,
            reason: reason.to_string(),
            count: vectors.count(),
            dim: vectors.dim(),
            vectors: vectors.fingerprint().clone(),
            image: Fingerprint::of(&[]),
            m: None,
            ef_construction: None,
            ef_search: None,
            recall: None,
            measured: None,
            unreachable: 0,
        }
    }

    /// The manifest of an exact index of the same items.
    pub(crate) fn without_graph(&self, reason: &str, image: Fingerprint) -> Self {
        Self {
            kind: IndexKind::Exact,
            reason: reason.to_string(),
            image,
            vectors: self.vectors.clone(),
            m: None,
            ef_construction: None,
            ef_search: None,
            recall: None,
            measured: None,
            unreachable: 0,
            ..*self
        }
    }

    pub(crate) fn describe_graph(&mut self, config: &IndexConfig, unreachable: usize) {
        self.m = Some(config.m);
        self.ef_construction = Some(config.ef_construction);
        self.unreachable = unreachable;
    }
}

/// Publishes an index in `dir`. Each file is complete or absent, and the manifest is last.
///
/// # Errors
/// [`ArtifactError::Io`], naming the file.
pub fn save(index: &dyn ItemIndex, dir: &Path) -> Result<(), IndexError> {
    let path = dir.join(MANIFEST_NAME);
    let mut manifest = serde_json::to_vec_pretty(index.manifest()).map_err(|e| ArtifactError::Io {
        action: "write",
        path: path.clone(),
        source: e.into(),
    })?;
    manifest.push(b'\n');
    publish_bytes(dir.join(IMAGE_NAME), index.image().bytes())?;
    publish_bytes(path, &manifest)?;
    Ok(())
}

/// Opens the index in `dir`. Its file is mapped, not loaded, and read once to verify it.
///
/// # Errors
/// - [`ArtifactError::Mismatch`] when it was built from vectors other than `expected`
/// - [`ArtifactError::Corrupt`] when a file is damaged, [`ArtifactError::Version`] when it is newer
/// - [`IndexError::Kind`] when manifest and content disagree; [`ArtifactError::Io`]
pub fn open(dir: &Path, expected: &Fingerprint) -> Result<Box<dyn ItemIndex>, IndexError> {
    let manifest = read_manifest(&dir.join(MANIFEST_NAME))?;
    if manifest.vectors != *expected {
        let mismatch = ArtifactError::Mismatch {
            what: format!("item index {}", dir.display()),
            expected_from: "item vectors".to_string(),
            expected: expected.to_string(),
            found_from: "the index's manifest".to_string(),
            found: manifest.vectors.to_string(),
            advice: "build the index again from these vectors".to_string(),
        };
        return Err(mismatch.into());
    }
    let path = dir.join(IMAGE_NAME);
    let io = |action: &'static str| {
        let path = path.clone();
        move |source| ArtifactError::Io { action, path, source }
    };
    let file = open_regular(&path)?;
    // SAFETY: published files are replaced by renaming and never written in place, so the mapped
    // bytes do not change while the mapping exists.
    let bytes = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
    let image = Image::parse(bytes, &path)?;
    let found = image.fingerprint();
    if found != manifest.image {
        let reason = format!("fingerprint {found}, its manifest says {}; build the index again", manifest.image);
        return Err(ArtifactError::Corrupt { path, reason }.into());
    }
    if (image.count(), image.dim()) != (manifest.count, manifest.dim) {
        let found = format!("{} items of dim {}", image.count(), image.dim());
        let reason = format!("{found}, its manifest says {} of dim {}", manifest.count, manifest.dim);
        return Err(ArtifactError::Corrupt { path, reason }.into());
    }
    match (manifest.kind, image.kind()) {
        (IndexKind::Exact, IndexKind::Exact) => Ok(Box::new(ExactIndex::new(image, manifest))),
        (IndexKind::Hnsw, IndexKind::Hnsw) => Ok(Box::new(HnswIndex::new(image, manifest))),
        (expected, found) => Err(IndexError::Kind { path, expected, found }),
    }
}

fn read_manifest(path: &Path) -> Result<IndexManifest, IndexError> {
    /// The one field that every version has.
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let corrupt = |e: serde_json::Error| ArtifactError::Corrupt { path: path.to_path_buf(), reason: e.to_string() };
    let text = read_text(path)?;
    let Versioned { format } = serde_json::from_slice(&text).map_err(corrupt)?;
    if format > FORMAT {
        return Err(ArtifactError::Version { path: path.to_path_buf(), found: format, supported: FORMAT }.into());
    }
    let manifest: IndexManifest = serde_json::from_slice(&text).map_err(corrupt)?;
    if manifest.ef_search == Some(0) || manifest.ef_search.is_some_and(|ef| ef > u32::MAX as usize) {
        let reason = format!("ef_search is {:?}", manifest.ef_search);
        return Err(ArtifactError::Corrupt { path: path.to_path_buf(), reason }.into());
    }
    Ok(manifest)
}
