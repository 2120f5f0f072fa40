//! Parts: one shard's output each, `part-i-of-n` with a manifest beside it.

use crate::error::PipelineError;
use crate::shard::Shard;
use crate::stage::remove_if_there;
use std::path::{Path, PathBuf};
use twotower_artifacts::{ArtifactError, Fingerprint, IdKind, Manifest, Side, VectorsReader};

/// Name of a shard's file.
pub fn part_name(shard: Shard, extension: &str) -> String {
    format!("part-{}.{extension}", shard.label())
}

/// Name of a shard's manifest.
pub fn manifest_name(shard: Shard) -> String {
    part_name(shard, "json")
}

/// Makes sure that a folder holds no parts of another number of shards: read together with this
/// shard's they would give rows twice. With `force` they are removed, manifests first; other shards
/// may be doing the same.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming one of them.
pub fn exclude_other_counts(stage: &str, dir: &Path, shard: Shard, force: bool) -> Result<(), PipelineError> {
    let own = format!("-of-{:05}.", shard.count);
    let mut others = list_parts(dir)?;
    others.retain(|path| !file_name(path).contains(&own));
    if let (Some(path), false) = (others.first(), force) {
        return Err(PipelineError::Mismatch(format!(
            "{stage}: {} is of another number of shards than shard {shard}; give --force to remove the parts of other numbers, or use another --run folder",
            path.display()
        )));
    }
    others.sort_by_key(|path| path.extension() != Some("json".as_ref()));
    for path in others {
        tracing::warn!("{stage}: removing {}, of another number of shards", path.display());
        remove_if_there(&path)?;
    }
    Ok(())
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// All files of a folder named like a part, in order.
fn list_parts(dir: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(PipelineError::io("list", dir)(e)),
    };
    paths.retain(|path| file_name(path).starts_with("part-"));
    paths.sort();
    Ok(paths)
}

/// A complete set of vector parts of one side: same tower, engine, precision and table, every shard once.
pub struct VectorParts {
    /// Part files in shard order, with the first row of each.
    pub parts: Vec<(PathBuf, u64)>,
    /// Rows in all.
    pub rows: u64,
    /// Kind of the ids.
    pub ids: IdKind,
    /// What ran the tower.
    pub engine: String,
    /// Fingerprint of the towers they come from.
    pub towers: Fingerprint,
    /// Fingerprint of all parts' content.
    pub fingerprint: Fingerprint,
}

impl VectorParts {
    /// Finds the parts that together cover `wanted` rows of the table (`None` = all of it).
    ///
    /// # Errors
    /// No parts; a missing shard; parts of unlike towers, engines, tables or shard counts.
    pub fn find(stage: &'static str, dir: &Path, side: Side, shard: Option<Shard>) -> Result<Self, PipelineError> {
        let manifests = part_manifests(dir)?;
        let advice = format!("run `twotower infer --side {side}` first");
        let Some((_, first)) = manifests.first() else {
            return Err(PipelineError::MissingInput { stage, path: dir.join("part-*.json"), advice });
        };
        let alike = |m: &Manifest| {
            let mut config = m.config.clone();
            if let Some(object) = config.as_object_mut() {
                object.remove("shard");
            }
            (m.inputs.clone(), config.to_string())
        };
        for (path, manifest) in &manifests {
            if alike(manifest) != alike(first) {
                return Err(PipelineError::Mismatch(format!(
                    "{stage}: {} and {} were made from different towers, tables, engines or numbers of shards; run `twotower infer --side {side} --force` for all shards",
                    manifests[0].0.display(),
                    path.display()
                )));
            }
        }
        let incomplete = |path: &Path, what: &str| {
            PipelineError::Mismatch(format!(
                "{stage}: {}: `{what}` is missing or makes no sense; run `twotower infer --side {side} --force`",
                path.display()
            ))
        };
        let path = &manifests[0].0;
        let count = first.config["shards"].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let count = count.ok_or_else(|| incomplete(path, "shards"))?;
        let total = *first.rows.get("table rows").ok_or_else(|| incomplete(path, "table rows"))?;
        let towers = first.inputs.get("towers").cloned().ok_or_else(|| incomplete(path, "towers"))?;
        let engine = first.config["engine"].as_str().ok_or_else(|| incomplete(path, "engine"))?.to_string();
        let ids: IdKind = serde_json::from_value(first.config["ids"].clone()).map_err(|_| incomplete(path, "ids"))?;
        let wanted = shard.map_or(0..total, |s| s.range(total));
        let mut parts = Vec::new();
        let mut fingerprints = Vec::new();
        for index in 0..count {
            let rows = Shard { index, count }.range(total);
            if rows.end <= wanted.start || rows.start >= wanted.end {
                continue;
            }
            let found = manifests.iter().find(|(_, m)| m.config["shard"].as_u64() == Some(index.into()));
            let Some((path, manifest)) = found else {
                return Err(PipelineError::MissingInput {
                    stage,
                    path: dir.join(manifest_name(Shard { index, count })),
                    advice: format!("run `twotower infer --side {side} --shard {index}/{count}`"),
                });
            };
            let file = manifest.files.first().ok_or_else(|| incomplete(path, "files"))?;
            let part = path.with_file_name(&file.path);
            let reader = VectorsReader::open(&part)?;
            let (found, length) = (reader.info(), rows.end - rows.start);
            if (reader.rows(), &found.tower, found.ids) != (length, &towers, ids) {
                return Err(PipelineError::Mismatch(format!(
                    "{stage}: {}: {} rows with {} ids of towers {}, expected {length} rows with {ids} ids of towers {towers}; run `twotower infer --side {side} --shard {index}/{count} --force`",
                    part.display(),
                    reader.rows(),
                    found.ids,
                    found.tower
                )));
            }
            parts.push((part, rows.start));
            fingerprints.push(manifest.fingerprint.to_string());
        }
        let fingerprint = Fingerprint::of(fingerprints.join(" ").as_bytes());
        Ok(Self { parts, rows: total, ids, engine, towers, fingerprint })
    }
}

/// Manifests of a complete set of parts, in shard order: every shard once, all of one number and of like settings.
///
/// # Errors
/// A shard without a manifest, naming the command that makes it; parts of unlike settings.
pub fn complete_set(stage: &'static str, dir: &Path, command: &str) -> Result<Vec<Manifest>, PipelineError> {
    let missing = |name: &str, shard: &str| PipelineError::MissingInput {
        stage,
        path: dir.join(name),
        advice: format!("run `{command}{shard}` first"),
    };
    let found = part_manifests(dir)?;
    let Some((first_path, first)) = found.first() else { return Err(missing("part-*.json", "")) };
    let settings = |manifest: &Manifest| {
        let mut config = manifest.config.clone();
        config.as_object_mut().map(|object| object.remove("shard"));
        config.to_string()
    };
    if let Some((path, _)) = found.iter().find(|(_, manifest)| settings(manifest) != settings(first)) {
        return Err(PipelineError::Mismatch(format!(
            "{stage}: {} and {} were made with different settings or numbers of shards; run `{command} --force` for all shards",
            first_path.display(),
            path.display()
        )));
    }
    let count = first.config["shards"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let of = |index: u32| {
        let shard = Shard { index, count };
        let own = found.iter().find(|(_, manifest)| manifest.config["shard"].as_u64() == Some(index.into()));
        own.map(|(_, m)| m.clone()).ok_or_else(|| missing(&manifest_name(shard), &format!(" --shard {shard}")))
    };
    match count {
        0 => Err(missing("part-*.json", " --force")),
        _ => (0..count).map(of).collect(),
    }
}

/// Manifests of a folder's parts; one that another shard removes meanwhile is passed over.
fn part_manifests(dir: &Path) -> Result<Vec<(PathBuf, Manifest)>, PipelineError> {
    let mut manifests = Vec::new();
    for path in list_parts(dir)?.into_iter().filter(|p| p.extension() == Some("json".as_ref())) {
        match Manifest::read(&path) {
            Err(ArtifactError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            manifest => manifests.push((path, manifest?)),
        }
    }
    Ok(manifests)
}
