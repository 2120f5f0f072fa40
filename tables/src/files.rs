//! The files of a table: found, ordered, fingerprinted.

use crate::error::TableError;
use crate::records::io_error;
use crate::spec::{Format, TableSpec};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use twotower_artifacts::Fingerprint;

/// How much of either end of a file goes into a fingerprint.
const END_BYTES: u64 = 64 << 10;

/// The files `spec` names: each path's in name order, paths in the order given; and their common format. Hidden and
/// temporary files (`.` or `_` in front) of folders and globs are passed over.
pub fn find(table: &str, spec: &TableSpec) -> Result<(Vec<PathBuf>, Format), TableError> {
    let mut files = Vec::new();
    for pattern in spec.path.as_slice() {
        let found = expand(table, pattern)?;
        if found.is_empty() {
            return Err(TableError::NoFiles { table: table.to_string(), pattern: pattern.clone() });
        }
        files.extend(found);
    }
    let wrong = |reason: String| TableError::Spec { table: table.to_string(), key: "format", reason };
    let format_of = |path: &PathBuf| {
        spec.format.or_else(|| Format::of_path(path)).ok_or_else(|| {
            wrong(format!("cannot tell the format of {}; expected parquet, csv, tsv or jsonl", path.display()))
        })
    };
    let Some(first) = files.first() else {
        return Err(TableError::NoFiles { table: table.to_string(), pattern: spec.pattern() });
    };
    let format = format_of(first)?;
    for path in &files {
        if format_of(path)? != format {
            return Err(wrong(format!("{} and {} are of unlike formats", first.display(), path.display())));
        }
    }
    Ok((files, format))
}

fn expand(table: &str, pattern: &str) -> Result<Vec<PathBuf>, TableError> {
    let path = Path::new(pattern);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(io_error("list", path))? {
            found.push(entry.map_err(io_error("list", path))?.path());
        }
    } else {
        let wrong =
            |e: glob::PatternError| TableError::Spec { table: table.to_string(), key: "path", reason: e.to_string() };
        for entry in glob::glob(pattern).map_err(wrong)? {
            found.push(entry.map_err(|e| {
                let path = e.path().to_path_buf();
                TableError::Io { action: "list", path, source: e.into() }
            })?);
        }
    }
    let is_hidden = |p: &PathBuf| p.file_name().is_none_or(|n| matches!(n.as_encoded_bytes()[0], b'.' | b'_'));
    found.retain(|p| p.is_file() && !is_hidden(p));
    found.sort();
    Ok(found)
}

/// Size and fingerprint of a file: its name, size, time of change, and both ends.
pub fn fingerprint(path: &Path) -> Result<(u64, Fingerprint), TableError> {
    let failed = || io_error("read", path);
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let about = file.metadata().map_err(failed())?;
    let changed = about.modified().map_err(failed())?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut ends = Vec::new();
    (&mut file).take(END_BYTES).read_to_end(&mut ends).map_err(failed())?;
    let tail = about.len().saturating_sub(END_BYTES).max(END_BYTES.min(about.len()));
    file.seek(SeekFrom::Start(tail)).map_err(failed())?;
    file.take(END_BYTES).read_to_end(&mut ends).map_err(failed())?;
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let fingerprint = Fingerprint::of_parts([
        ("name", name),
        ("size", &about.len().to_le_bytes()),
        ("changed", &changed.to_le_bytes()),
        ("ends", &ends),
    ]);
    Ok((about.len(), fingerprint))
}
