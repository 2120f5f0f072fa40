//! What the targets share: the readers take paths, so each input becomes a file.

use std::path::PathBuf;
use std::sync::OnceLock;
use tempfile::TempDir;

/// A file called `name`, in memory where the machine allows it, that holds `content`.
///
/// # Panics
/// When it cannot be written, which ends the fuzzing.
pub fn file(name: &str, content: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("create a temporary folder")
    });
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("write the input");
    path
}
