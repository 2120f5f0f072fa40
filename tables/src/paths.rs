//! What the path of a table means: the one rule for files, folders, patterns and lists of these.
//!
//! A file is itself. A folder is all files in it and in its subfolders. A pattern is whatever its parts match, which
//! may be folders. Names that begin with `.` or `_` are skipped, but where the path itself names them: these are
//! markers, checksums and unfinished work of the programs that write folders. Anything else that is found is read, and
//! what cannot be read is an error. Only the configured text can be a pattern, never the folder that it counts from.

use crate::error::TableError;
use crate::identity::what;
use crate::records::io_error;
use glob::Pattern;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

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

/// Finds the files that `path` names from the folder `base` on.
///
/// # Errors
/// [`TableError::Spec`] for a pattern that makes no sense; [`TableError::Source`] for a link to nothing or to a folder
/// around it, or what is neither file nor folder; [`TableError::Io`] for a folder that cannot be listed.
pub fn find(table: &str, base: &Path, path: &str) -> Result<Named, TableError> {
    let wrong = |reason: String| TableError::Spec { table: table.to_string(), key: "path", reason };
    if path.is_empty() {
        return Err(wrong("expected a path, found an empty text".into()));
    }
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        let name = component.as_os_str().to_string_lossy();
        parts.push(match component {
            Component::CurDir => continue,
            Component::Normal(_) if name == "**" => Part::Folders,
            Component::Normal(_) if name.contains(WILD) || name.contains(BRACKET) => {
                let pattern = Pattern::new(&name).map_err(|e| wrong(format!("`{name}`: {e}")))?;
                Part::Names(pattern, is_skipped(component.as_os_str()))
            }
            _ => Part::Literal(component.as_os_str().to_os_string()),
        });
    }
    let mut named = Named::default();
    named.follow(base.to_path_buf(), &parts, &mut Vec::new())?;
    Ok(named)
}

/// Whether files and folders of that name are skipped.
fn is_skipped(name: &OsStr) -> bool {
    matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_'))
}

impl Named {
    /// Takes what `parts` name from `at` on. `above` are the folders that `**` has gone through.
    fn follow(&mut self, at: PathBuf, parts: &[Part], above: &mut Vec<(u64, u64)>) -> Result<(), TableError> {
        let Some((part, rest)) = parts.split_first() else { return self.take(at, above) };
        match part {
            Part::Literal(name) => {
                let next = at.join(name);
                if exists(&next)? { self.follow(next, rest, above) } else { Ok(()) }
            }
            Part::Names(pattern, skipped) => {
                // A name with brackets that exists as it is written is meant as it is written.
                let text = pattern.as_str();
                let written = at.join(text);
                if !text.contains(WILD) && exists(&written)? {
                    return self.follow(written, rest, above);
                }
                for name in names(&at)?.unwrap_or_default() {
                    if !pattern.matches(&name.to_string_lossy()) {
                        continue;
                    }
                    let next = at.join(&name);
                    if is_skipped(&name) && !skipped {
                        self.skipped.insert(next);
                    } else if rest.is_empty() || is_folder(&next)? {
                        self.follow(next, rest, above)?;
                    }
                }
                Ok(())
            }
            Part::Folders if rest.is_empty() => match is_folder(&at)? {
                true => self.take(at, above),
                false => Ok(()),
            },
            Part::Folders => {
                let Some(names) = names(&at)? else { return Ok(()) };
                self.follow(at.clone(), rest, above)?;
                let here = enter(&at, above)?;
                for name in names {
                    let next = at.join(&name);
                    if !is_folder(&next)? {
                        continue;
                    }
                    if is_skipped(&name) {
                        self.skipped.insert(next);
                    } else {
                        self.follow(next, parts, above)?;
                    }
                }
                above.truncate(here);
                Ok(())
            }
        }
    }

    /// Takes a file, or all files of a folder.
    fn take(&mut self, path: PathBuf, above: &mut Vec<(u64, u64)>) -> Result<(), TableError> {
        let about = match fs::metadata(shown(&path)) {
            Ok(about) => about,
            Err(e) if is_absent(&e) => return Err(refused(&path, "is a link to nothing, or was removed".into())),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        match what(&about) {
            None => _ = self.files.insert(path),
            Some(_) if about.is_dir() => {
                let here = enter(&path, above)?;
                for name in names(&path)?.unwrap_or_default() {
                    match is_skipped(&name) {
                        true => _ = self.skipped.insert(path.join(&name)),
                        false => self.take(path.join(&name), above)?,
                    }
                }
                above.truncate(here);
            }
            Some(found) => {
                let expected = "expected a file or a folder, since tables are read more than once";
                return Err(refused(&path, format!("is {found}, {expected}")));
            }
        }
        Ok(())
    }
}

/// Notes a folder that is gone into, and returns how many there were above it.
///
/// # Errors
/// [`TableError::Source`] when a link has led back into it.
fn enter(folder: &Path, above: &mut Vec<(u64, u64)>) -> Result<usize, TableError> {
    let about = fs::metadata(shown(folder)).map_err(io_error("read", folder))?;
    let place = (about.dev(), about.ino());
    if about.ino() != 0 && above.contains(&place) {
        return Err(refused(folder, "is a link to a folder that it lies in; remove the link".into()));
    }
    above.push(place);
    Ok(above.len() - 1)
}

fn refused(path: &Path, reason: String) -> TableError {
    TableError::Source { path: path.to_path_buf(), reason }
}

/// A path as the system takes it: the empty one is the folder that one is in.
fn shown(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What is there under a path, a link not followed.
fn exists(path: &Path) -> Result<bool, TableError> {
    match fs::symlink_metadata(shown(path)) {
        Ok(_) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

/// Whether there is a folder, or a link to one.
fn is_folder(path: &Path) -> Result<bool, TableError> {
    match fs::metadata(shown(path)) {
        Ok(about) => Ok(Metadata::is_dir(&about)),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

/// The names in a folder, in order; none for what is no folder.
fn names(folder: &Path) -> Result<Option<Vec<OsString>>, TableError> {
    if !is_folder(folder)? {
        return Ok(None);
    }
    let listed = fs::read_dir(shown(folder)).and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect());
    let mut names: Vec<OsString> = listed.map_err(io_error("list", folder))?;
    names.sort();
    Ok(Some(names))
}
