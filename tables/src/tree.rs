//! What paths are asked for: the folders of this machine, or of a bucket.

use crate::error::TableError;
use crate::identity::what;
use crate::records::io_error;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is under a path. In a bucket, there may be an object and others below it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Under {
    /// Whether there is a file.
    pub file: bool,
    /// Whether there is a folder.
    pub folder: bool,
}

/// Files in folders.
pub trait Tree {
    /// Whether a path, a link not followed, may lead on: a wrong yes shows at its end.
    ///
    /// # Errors
    /// [`TableError::Io`], [`TableError::Store`].
    fn leads_on(&mut self, path: &Path) -> Result<bool, TableError>;

    /// Whether there is something under a path, a link not followed.
    ///
    /// # Errors
    /// As [`Tree::leads_on`].
    fn exists(&mut self, path: &Path) -> Result<bool, TableError>;

    /// Whether there is a folder, or a link to one.
    ///
    /// # Errors
    /// As [`Tree::leads_on`].
    fn is_folder(&mut self, path: &Path) -> Result<bool, TableError>;

    /// What is under a path that is read; nothing where there is none.
    ///
    /// # Errors
    /// As [`Tree::leads_on`]; [`TableError::Source`] for what is neither file nor folder, or a link to nothing.
    fn under(&mut self, path: &Path) -> Result<Under, TableError>;

    /// The names in a folder, in order; none for what is no folder.
    ///
    /// # Errors
    /// As [`Tree::leads_on`].
    fn names(&mut self, folder: &Path) -> Result<Option<Vec<OsString>>, TableError>;

    /// Notes that all that lies below a folder is wanted.
    ///
    /// # Errors
    /// As [`Tree::leads_on`].
    fn all_below(&mut self, folder: &Path) -> Result<(), TableError>;

    /// What tells a folder from others, if anything does that a link could lead back to.
    ///
    /// # Errors
    /// As [`Tree::leads_on`].
    fn place(&mut self, folder: &Path) -> Result<Option<(u64, u64)>, TableError>;
}

/// The files of this machine.
pub struct Local;

/// An error about a path that is not read.
pub fn refused(path: &Path, reason: String) -> TableError {
    TableError::Source { path: path.to_path_buf(), reason }
}

/// A path as the system takes it: the empty one is the folder that one is in.
fn shown(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

impl Tree for Local {
    fn leads_on(&mut self, path: &Path) -> Result<bool, TableError> {
        self.exists(path)
    }

    fn exists(&mut self, path: &Path) -> Result<bool, TableError> {
        match fs::symlink_metadata(shown(path)) {
            Ok(_) => Ok(true),
            Err(e) if is_absent(&e) => Ok(false),
            Err(e) => Err(io_error("read", path)(e)),
        }
    }

    fn is_folder(&mut self, path: &Path) -> Result<bool, TableError> {
        match fs::metadata(shown(path)) {
            Ok(about) => Ok(Metadata::is_dir(&about)),
            Err(e) if is_absent(&e) => Ok(false),
            Err(e) => Err(io_error("read", path)(e)),
        }
    }

    fn under(&mut self, path: &Path) -> Result<Under, TableError> {
        let about = match fs::metadata(shown(path)) {
            Ok(about) => about,
            Err(e) if is_absent(&e) => return Err(refused(path, "is a link to nothing, or was removed".into())),
            Err(e) => return Err(io_error("read", path)(e)),
        };
        match what(&about) {
            None => Ok(Under { file: true, folder: false }),
            Some(_) if about.is_dir() => Ok(Under { file: false, folder: true }),
            Some(found) => {
                let expected = "expected a file or a folder, since tables are read more than once";
                Err(refused(path, format!("is {found}, {expected}")))
            }
        }
    }

    fn names(&mut self, folder: &Path) -> Result<Option<Vec<OsString>>, TableError> {
        if !self.is_folder(folder)? {
            return Ok(None);
        }
        let listed = fs::read_dir(shown(folder)).and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect());
        let mut names: Vec<OsString> = listed.map_err(io_error("list", folder))?;
        names.sort();
        Ok(Some(names))
    }

    fn all_below(&mut self, _: &Path) -> Result<(), TableError> {
        Ok(())
    }

    fn place(&mut self, folder: &Path) -> Result<Option<(u64, u64)>, TableError> {
        let about = fs::metadata(shown(folder)).map_err(io_error("read", folder))?;
        Ok(Some((about.dev(), about.ino())).filter(|(_, inode)| *inode != 0))
    }
}
