//! Parts: one shard's output each, `part-i-of-n` with a manifest beside it.

use crate::error::PipelineError;
use crate::shard::Shard;
use std::path::{Path, PathBuf};
use twotower_artifacts::{Fingerprint, IdKind, Manifest, Side};

/// Name of a shard's file.
pub fn part_name(shard: Shard, extension: &str) -> String {
    format!("part-{}.{extension}", shard.label())
}

/// Name of a shard's manifest.
pub fn manifest_name(shard: Shard) -> String {
    part_name(shard, "json")
}

/// Makes sure that a folder holds no parts of another number of shards: read together with this
/// shard's they would give rows twice. With `force` they are removed, manifests first.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming one of them.
pub fn exclude_other_counts(stage: &str, dir: &Path, shard: Shard, force: bool) -> Result<(), PipelineError> {
    for (path, manifest) in part_manifests(dir)? {
        let count = manifest.config["shards"].as_u64().unwrap_or(0);
        if count == u64::from(shard.count) {
            continue;
        }
        if !force {
            return Err(PipelineError::Mismatch(format!(
                "{stage}: {} is one of {count} shards, this is shard {shard}; give --force to remove the parts of {count} shards, or use another --run folder",
                path.display()
            )));
        }
        tracing::warn!("{stage}: removing {}, one of {count} shards", path.display());
        std::fs::remove_file(&path).map_err(PipelineError::io("remove", &path))?;
        for file in &manifest.files {
            let file = dir.join(&file.path);
            std::fs::remove_file(&file).map_err(PipelineError::io("remove", &file))?;
        }
    }
    Ok(())
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
        let number = |m: &Manifest, name: &str| m.config[name].as_u64().unwrap_or(0);
        let count = number(first, "shards") as u32;
        let total = first.rows.get("table rows").copied().unwrap_or(0);
        let wanted = shard.map_or(0..total, |s| s.range(total));
        let mut parts = Vec::new();
        let mut fingerprints = Vec::new();
        for index in 0..count {
            let rows = Shard { index, count }.range(total);
            if rows.end <= wanted.start || rows.start >= wanted.end {
                continue;
            }
            let found = manifests.iter().find(|(_, m)| number(m, "shard") == index as u64);
            let Some((path, manifest)) = found else {
                return Err(PipelineError::MissingInput {
                    stage,
                    path: dir.join(manifest_name(Shard { index, count })),
                    advice: format!("run `twotower infer --side {side} --shard {index}/{count}`"),
                });
            };
            let file = manifest.files.first().map(|f| f.path.clone()).unwrap_or_default();
            parts.push((path.with_file_name(file), rows.start));
            fingerprints.push(manifest.fingerprint.to_string());
        }
        let towers = first.inputs.get("towers").cloned().unwrap_or_else(|| Fingerprint::of(b""));
        Ok(Self {
            parts,
            rows: total,
            ids: serde_json::from_value(first.details["ids"].clone()).unwrap_or(IdKind::Text),
            towers,
            engine: first.config["engine"].as_str().unwrap_or_default().to_string(),
            fingerprint: Fingerprint::of(fingerprints.join(" ").as_bytes()),
        })
    }
}

fn part_manifests(dir: &Path) -> Result<Vec<(PathBuf, Manifest)>, PipelineError> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(PipelineError::io("list", dir)(e)),
    };
    paths.retain(|p| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("part-") && n.ends_with(".json"))
    });
    paths.sort();
    paths.into_iter().map(|p| Ok((p.clone(), Manifest::read(&p)?))).collect()
}
