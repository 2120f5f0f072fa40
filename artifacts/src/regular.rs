//! Opens files of a run. What is not a regular file is an error that names its kind.
//!
//! Opening a FIFO could wait for ever, and a device may give bytes without end. So files are opened without waiting,
//! and their kind is checked before a byte is read.

use crate::error::ArtifactError;
use crate::mirror;
use crate::publish::io_error;
use std::fs::{File, FileType, OpenOptions};

use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading; a link to one is followed.
///
/// # Errors
/// [`ArtifactError::Io`] when it cannot be opened, [`ArtifactError::Corrupt`] when it is no regular file.
pub fn open_regular(path: impl AsRef<Path>) -> Result<File, ArtifactError> {
    open_with(path.as_ref(), 0)
}

/// As [`open_regular`], but refuses a link, since it may lead out of the run.
///
/// # Errors
/// As [`open_regular`]; [`ArtifactError::Corrupt`] for a link.
pub(crate) fn open_unlinked(path: impl AsRef<Path>) -> Result<File, ArtifactError> {
    let path = path.as_ref();
    open_with(path, libc::O_NOFOLLOW).map_err(|error| match error {
        ArtifactError::Io { source, .. } if source.raw_os_error() == Some(libc::ELOOP) => not_regular(path, "a link"),
        other => other,
    })
}

/// How often a file is fetched that another process takes out of the cache before it is opened.
const FETCHES: usize = 5;

fn open_with(path: &Path, flags: libc::c_int) -> Result<File, ArtifactError> {
    let Some(mirror) = mirror::of(path) else { return open_here(path, flags) };
    for _ in 0..FETCHES {
        let file = open_here(path, flags)?;
        if mirror.is_here(path, &file).map_err(io_error("fetch", path))? {
            return Ok(file);
        }
    }
    let gone = "other processes drop it from the cache as soon as it is there; raise --cache-limit";
    Err(io_error("fetch", path)(std::io::Error::other(gone)))
}

fn open_here(path: &Path, flags: libc::c_int) -> Result<File, ArtifactError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | flags);
    let file = options.open(path).map_err(|source| match source.raw_os_error() {
        // A socket cannot be opened at all.
        Some(libc::ENXIO) => not_regular(path, "a socket or a device without a driver"),
        _ => io_error("open", path)(source),
    })?;
    let kind = file.metadata().map_err(io_error("read", path))?.file_type();
    match kind.is_file() {
        // For regular files the flag has no meaning, and reads wait for the disk as usual.
        true => Ok(file),
        false => Err(not_regular(path, name_of(kind))),
    }
}

fn not_regular(path: &Path, found: &str) -> ArtifactError {
    let reason = format!("expected a regular file, found {found}; remove it");
    ArtifactError::Corrupt { path: path.to_path_buf(), reason }
}

/// The name of a kind of file other than a regular one.
fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_is_no_regular_file_is_refused_by_its_kind_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "content").unwrap();
        symlink(at("file"), at("link")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());
        symlink(at("fifo"), at("link to fifo")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(std::io::read_to_string(open_regular(at("link")).unwrap()).unwrap(), "content");
        assert!(open_unlinked(at("file")).is_ok());
        for (path, found) in [
            (at("fifo"), "a FIFO"),
            (at("link to fifo"), "a FIFO"),
            (at("folder"), "a folder"),
            (at("socket"), "a socket"),
            ("/dev/null".into(), "a device"),
            ("/dev/zero".into(), "a device"),
        ] {
            let error = open_regular(&path).unwrap_err();
            assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains(found) && said.contains(&path.display().to_string()), "{said}");
        }
        for path in [at("link"), at("link to fifo")] {
            assert!(open_unlinked(path).unwrap_err().to_string().contains("found a link"));
        }
        assert!(matches!(open_regular(at("gone")), Err(ArtifactError::Io { .. })));
    }
}
