//! What the path of a table means: the one rule for files, folders, patterns and lists of these.
//!
//! A file is itself. A folder is all files in it and in its subfolders. A pattern is whatever its parts match, which
//! may be folders. Names that begin with `.` or `_` are skipped, but where the path itself names them: these are
//! markers, checksums and unfinished work of the programs that write folders. Anything else that is found is read, and
//! what cannot be read is an error. Only the configured text can be a pattern, never the folder that it counts from.
//!
//! A path may be the URL of a place in a store: then its key is read by the same rule, from the bucket on.

use crate::bucket::Bucket;
use crate::error::TableError;
use crate::tree::{Local, Tree, Under, refused};
use glob::Pattern;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use twotower_stores::{StoreUrl, Stores};

/// Characters that make a name a pattern, of which brackets may as well be part of a name that exists.
const WILD: [char; 2] = ['*', '?'];
const BRACKET: char = '[';

/// What a path names.
#[derive(Debug, Default)]
pub struct Named {
    /// Files, each once, in order of their paths.
    pub files: BTreeSet<PathBuf>,
    /// Files and folders that were skipped for their names.
    pub skipped: BTreeSet<PathBuf>,
}

/// A part of a path.
enum Part {
    /// A name, or `..`, or `/`.
    Literal(OsString),
    /// A pattern of names, and whether it begins like a name that is skipped.
    Names(Pattern, bool),
    /// `**`: any number of folders.
    Folders,
}

/// Where a path lies that counts from the folder `base`: a URL counts from nothing.
pub fn located(base: &Path, path: &str) -> PathBuf {
    if StoreUrl::is_url(path) { PathBuf::from(path) } else { base.join(path) }
}

/// Finds the files that `path` names from the folder `base` on; if it is a URL, with the bucket that holds them.
///
/// # Errors
/// [`TableError::Spec`] for a pattern that makes no sense; [`TableError::Source`] for a link to nothing or to a folder
/// around it, or what is neither file nor folder; [`TableError::Io`] for a folder that cannot be listed;
/// [`TableError::Store`] for a URL that makes no sense, or a store that does not answer.
pub fn find(table: &str, base: &Path, path: &str, stores: &Stores) -> Result<(Named, Option<Bucket>), TableError> {
    if path.is_empty() {
        return Err(wrong(table, "expected a path, found an empty text".into()));
    }
    let mut named = Named::default();
    let Some(url) = StoreUrl::parse(path)? else {
        named.follow(&mut Local, base.to_path_buf(), &parts(table, path)?, &mut Vec::new())?;
        return Ok((named, None));
    };
    let mut bucket = Bucket::new(stores.open(&url)?);
    let root = bucket.root().to_path_buf();
    named.follow(&mut bucket, root, &parts(table, url.key())?, &mut Vec::new())?;
    Ok((named, Some(bucket)))
}

fn wrong(table: &str, reason: String) -> TableError {
    TableError::Spec { table: table.to_string(), key: "path", reason }
}

fn parts(table: &str, path: &str) -> Result<Vec<Part>, TableError> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        let name = component.as_os_str().to_string_lossy();
        parts.push(match component {
            Component::CurDir => continue,
            Component::Normal(_) if name == "**" => Part::Folders,
            Component::Normal(_) if name.contains(WILD) || name.contains(BRACKET) => {
                let pattern = Pattern::new(&name).map_err(|e| wrong(table, format!("`{name}`: {e}")))?;
                Part::Names(pattern, is_skipped(component.as_os_str()))
            }
            _ => Part::Literal(component.as_os_str().to_os_string()),
        });
    }
    Ok(parts)
}

/// Whether files and folders of that name are skipped.
fn is_skipped(name: &OsStr) -> bool {
    matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_'))
}

impl Named {
    /// Takes what `parts` name from `at` on. `above` are the folders that `**` has gone through.
    fn follow(
        &mut self,
        tree: &mut impl Tree,
        at: PathBuf,
        parts: &[Part],
        above: &mut Vec<(u64, u64)>,
    ) -> Result<(), TableError> {
        let Some((part, rest)) = parts.split_first() else { return self.take(tree, at, above) };
        match part {
            Part::Literal(name) => {
                let next = at.join(name);
                if tree.leads_on(&next)? { self.follow(tree, next, rest, above) } else { Ok(()) }
            }
            Part::Names(pattern, skipped) => {
                // A name with brackets that exists as it is written is meant as it is written.
                let text = pattern.as_str();
                let written = at.join(text);
                if !text.contains(WILD) && tree.exists(&written)? {
                    return self.follow(tree, written, rest, above);
                }
                for name in tree.names(&at)?.unwrap_or_default() {
                    if !pattern.matches(&name.to_string_lossy()) {
                        continue;
                    }
                    let next = at.join(&name);
                    if is_skipped(&name) && !skipped {
                        self.skipped.insert(next);
                    } else if rest.is_empty() || tree.is_folder(&next)? {
                        self.follow(tree, next, rest, above)?;
                    }
                }
                Ok(())
            }
            Part::Folders if rest.is_empty() => match tree.is_folder(&at)? {
                true => self.take(tree, at, above),
                false => Ok(()),
            },
            Part::Folders => {
                if !tree.is_folder(&at)? {
                    return Ok(());
                }
                tree.all_below(&at)?;
                let Some(names) = tree.names(&at)? else { return Ok(()) };
                self.follow(tree, at.clone(), rest, above)?;
                let here = enter(tree, &at, above)?;
                for name in names {
                    let next = at.join(&name);
                    if !tree.is_folder(&next)? {
                        continue;
                    }
                    if is_skipped(&name) {
                        self.skipped.insert(next);
                    } else {
                        self.follow(tree, next, parts, above)?;
                    }
                }
                above.truncate(here);
                Ok(())
            }
        }
    }

    /// Takes a file, or all files of a folder.
    fn take(&mut self, tree: &mut impl Tree, path: PathBuf, above: &mut Vec<(u64, u64)>) -> Result<(), TableError> {
        let Under { file, folder } = tree.under(&path)?;
        if folder {
            tree.all_below(&path)?;
            let here = enter(tree, &path, above)?;
            for name in tree.names(&path)?.unwrap_or_default() {
                match is_skipped(&name) {
                    true => _ = self.skipped.insert(path.join(&name)),
                    false => self.take(tree, path.join(&name), above)?,
                }
            }
            above.truncate(here);
        }
        if file {
            self.files.insert(path);
        }
        Ok(())
    }
}

/// Notes a folder that is gone into, and returns how many there were above it.
///
/// # Errors
/// [`TableError::Source`] when a link has led back into it.
fn enter(tree: &mut impl Tree, folder: &Path, above: &mut Vec<(u64, u64)>) -> Result<usize, TableError> {
    let here = above.len();
    if let Some(place) = tree.place(folder)? {
        if above.contains(&place) {
            return Err(refused(folder, "is a link to a folder that it lies in; remove the link".into()));
        }
        above.push(place);
    }
    Ok(here)
}
