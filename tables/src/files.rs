//! The files of a table: found, ordered, of one format, each once.

use crate::error::TableError;
use crate::identity::SourceFile;
use crate::partitions::{Folders, folders};
use crate::paths;
use crate::spec::{Format, TableSpec};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// The files of a table, in row order.
pub struct Found {
    /// Files, and the partition folders that each lies in.
    pub files: Vec<(SourceFile, Folders)>,
    /// Their common format.
    pub format: Format,
    /// Files and folders that were skipped for their names.
    pub skipped: usize,
}

/// The files `spec` names: each path's in the order of their paths, paths in the order given.
///
/// # Errors
/// As [`paths::find`]; no file; a file that two paths lead to; files of one path in folders of unlike keys; files of
/// unlike or unknown formats.
pub fn find(table: &str, spec: &TableSpec) -> Result<Found, TableError> {
    let mut files = Vec::new();
    let mut skipped = 0;
    let none = |pattern: String, skipped| TableError::NoFiles { table: table.to_string(), pattern, skipped };
    for path in spec.path.as_slice() {
        let (named, mut bucket) = paths::find(table, &spec.base, path, &spec.stores)?;
        if named.files.is_empty() {
            return Err(none(paths::located(&spec.base, path).display().to_string(), named.skipped.len()));
        }
        skipped += named.skipped.len();
        let found = named.files.into_iter().map(|path| match &mut bucket {
            None => Ok((SourceFile::find(path.clone())?, folders(&spec.base, &path)?)),
            Some(bucket) => {
                let (folders, object) = (folders(bucket.root(), &path)?, bucket.object(&path)?);
                Ok((SourceFile::of_object(path, bucket.store().clone(), object), folders))
            }
        });
        let found = found.collect::<Result<Vec<_>, TableError>>()?;
        refuse_unlike_folders(table, &found)?;
        files.extend(found);
    }
    if files.is_empty() {
        return Err(none(spec.pattern(), skipped));
    }
    let format = format_of(table, spec, &files)?;
    refuse_twice(table, &files)?;
    Ok(Found { files, format, skipped })
}

fn format_of(table: &str, spec: &TableSpec, files: &[(SourceFile, Folders)]) -> Result<Format, TableError> {
    let wrong = |reason: String| TableError::Spec { table: table.to_string(), key: "format", reason };
    let format_of = |path: &Path| {
        if let Some(compression) = Format::compression_of_path(path) {
            let shown = path.display();
            return Err(wrong(format!(
                "{shown} is compressed by {compression} as a whole; uncompress it first, or compress it by gzip, zstd or bzip2"
            )));
        }
        if Format::of_path(path) == Some(Format::Parquet) && Format::is_compressed(path) {
            let shown = path.display();
            return Err(wrong(format!(
                "{shown} is Parquet that is compressed once more, as a whole; uncompress it first"
            )));
        }
        spec.format.or_else(|| Format::of_path(path)).ok_or_else(|| {
            wrong(format!(
                "cannot tell the format of {}; expected parquet, csv, tsv or jsonl, by extension or by this setting",
                path.display()
            ))
        })
    };
    let mut formats = files.iter().map(|(file, _)| Ok::<_, TableError>((file.path(), format_of(file.path())?)));
    let Some((first, format)) = formats.next().transpose()? else {
        return Err(wrong("no file has one".into()));
    };
    for other in formats {
        let (path, other) = other?;
        if other != format {
            return Err(wrong(format!("{} and {} are of unlike formats", first.display(), path.display())));
        }
    }
    Ok(format)
}

/// Refuses files of one path that lie in folders of unlike keys: some of them are likely to be left over.
fn refuse_unlike_folders(table: &str, files: &[(SourceFile, Folders)]) -> Result<(), TableError> {
    let keys = |folders: &Folders| folders.iter().map(|(key, _)| key.clone()).collect::<BTreeSet<_>>();
    let Some((first, expected)) = files.first().map(|(file, folders)| (file, keys(folders))) else { return Ok(()) };
    match files.iter().find(|(_, folders)| keys(folders) != expected) {
        None => Ok(()),
        Some((second, others)) => Err(TableError::Partitions {
            table: table.to_string(),
            first: first.path().to_path_buf(),
            keys: expected.into_iter().collect(),
            second: second.path().to_path_buf(),
            others: keys(others).into_iter().collect(),
        }),
    }
}

fn refuse_twice(table: &str, files: &[(SourceFile, Folders)]) -> Result<(), TableError> {
    let mut seen = HashMap::new();
    for (file, _) in files {
        if let Some(stands) = file.stands()
            && let Some(first) = seen.insert(stands, file.path())
        {
            let (table, second) = (table.to_string(), file.path().to_path_buf());
            return Err(TableError::Twice { table, first: first.to_path_buf(), second });
        }
    }
    Ok(())
}
