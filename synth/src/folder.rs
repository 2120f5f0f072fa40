//! Decides whether the folder of a data set can be reused, and clears it for a new one.
//!
//! `meta.json` is there only if the data set is complete. `meta.json.partial` is there while one is being
//! generated, and tells an interrupted data set from a folder with other data.

use crate::error::{SynthError, io_error};
use crate::{Layout, SynthConfig, SynthReport};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use twotower_artifacts::ArtifactError;
use twotower_artifacts::json::{read_json, read_text};
use twotower_artifacts::publish::{publish_bytes, remove_stale_temps};

/// Raised when the same settings give other bytes.
const VERSION: u32 = 1;
const META: &str = "meta.json";
const PARTIAL: &str = "meta.json.partial";
const LAYOUTS: [Layout; 2] = [Layout::Parquet, Layout::Exported];
pub(crate) const TABLES: [&str; 2] = ["users", "interactions"];

/// The content of `meta.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Meta {
    generator: String,
    version: u32,
    config: SynthConfig,
    #[serde(default)]
    report: SynthReport,
}

fn meta(config: &SynthConfig, report: SynthReport) -> Meta {
    // Settings that do not change the data are not stored, so they have the values that reading gives them.
    let config = SynthConfig { threads: 0, force: false, ..config.clone() };
    Meta { generator: "twotower synth".into(), version: VERSION, config, report }
}

fn publish(path: PathBuf, meta: &Meta) -> Result<(), SynthError> {
    let io = |e: serde_json::Error| io_error("write", &path)(e.into());
    let mut text = serde_json::to_vec_pretty(meta).map_err(io)?;
    text.push(b'\n');
    Ok(publish_bytes(&path, &text)?)
}

/// The name of the table of items.
pub(crate) fn items(layout: Layout) -> String {
    format!("items.{}", layout.ending())
}

/// The path of one part of a table.
pub(crate) fn part(dir: &Path, table: &str, number: u64, layout: Layout) -> PathBuf {
    dir.join(table).join(format!("part-{number:05}.{}", layout.ending()))
}

/// The parts of one table in the folder, of any layout, each with its size in bytes.
fn parts(dir: &Path, table: &str) -> Result<Vec<(PathBuf, u64)>, SynthError> {
    let folder = dir.join(table);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", &folder))?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", &folder))?;
        let name = entry.file_name();
        let ends = |name: &str| LAYOUTS.iter().any(|layout| name.ends_with(&format!(".{}", layout.ending())));
        if name.to_str().is_some_and(|n| n.starts_with("part-") && ends(n)) {
            let path = entry.path();
            let bytes = entry.metadata().map_err(io_error("read the size of", &path))?.len();
            parts.push((path, bytes));
        }
    }
    Ok(parts)
}

fn remove(path: &Path) -> Result<(), SynthError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

/// The report of the complete data set in `dir`, if it was made by these settings.
///
/// # Errors
/// [`SynthError::Occupied`] when the folder holds another data set, or tables that `synth` did not make;
/// [`SynthError::Artifact`] when it cannot be read.
pub(crate) fn find_complete(dir: &Path, config: &SynthConfig) -> Result<Option<SynthReport>, SynthError> {
    let occupied = |holds: String| SynthError::Occupied { dir: dir.to_path_buf(), holds };
    let path = dir.join(META);
    let size = |layout| fs::metadata(dir.join(items(layout))).map_or(0, |m| m.len());
    let mut bytes: u64 = LAYOUTS.into_iter().map(size).sum();
    let mut files = 0;
    for table in TABLES {
        for (_, size) in parts(dir, table)? {
            bytes += size;
            files += 1;
        }
    }
    match read_text(&path) {
        Ok(text) => {
            let found: Meta = serde_json::from_slice(&text)
                .map_err(|e| occupied(format!("a {META} that synth did not write ({e})")))?;
            let same = meta(config, found.report.clone()) == found;
            if same && found.report.bytes == bytes {
                return Ok(Some(found.report));
            }
            let c = &found.config;
            let damage = if same { "a damaged" } else { "another" };
            Err(occupied(format!(
                "{damage} data set ({} files, users {}, items {}, seed {}, day {}, version {})",
                c.layout.ending(),
                c.users,
                c.items,
                c.seed,
                c.day,
                found.version
            )))
        }
        Err(ArtifactError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            if (files > 0 || bytes > 0) && !dir.join(PARTIAL).exists() {
                return Err(occupied("tables that synth did not write".into()));
            }
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// Marks the folder as being generated and removes an earlier data set.
pub(crate) fn begin(dir: &Path, config: &SynthConfig) -> Result<(), SynthError> {
    publish(dir.join(PARTIAL), &meta(config, SynthReport::default()))?;
    remove(&dir.join(META))?;
    for layout in LAYOUTS {
        remove(&dir.join(items(layout)))?;
    }
    remove_stale_temps(dir)?;
    for table in TABLES {
        remove_stale_temps(dir.join(table))?;
        for (path, _) in parts(dir, table)? {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Marks the folder as complete.
pub(crate) fn finish(dir: &Path, config: &SynthConfig, report: &SynthReport) -> Result<(), SynthError> {
    publish(dir.join(META), &meta(config, report.clone()))?;
    remove(&dir.join(PARTIAL))
}

/// The report of the data set in `dir`.
///
/// # Errors
/// [`ArtifactError::Io`] or [`ArtifactError::Corrupt`] when there is no readable `meta.json`.
pub fn read_report(dir: &Path) -> Result<SynthReport, SynthError> {
    let path = dir.join(META);
    let meta: Meta = read_json(path)?;
    Ok(meta.report)
}
