//! The reader of all JSON files of a run. These files are small, and a large one is refused before it is read.

use crate::error::ArtifactError;
use crate::publish::io_error;
use crate::regular::open_regular;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::Path;

/// The largest file of JSON or of settings that is read, in bytes. This program writes none that comes near.
pub const MAX_BYTES: u64 = 16 << 20;

/// The text of a JSON file.
///
/// # Errors
/// [`ArtifactError::Io`] when it cannot be read; [`ArtifactError::Corrupt`] when it is not a regular file, or has more
/// than [`MAX_BYTES`], of which none are read.
pub fn read_text(path: impl AsRef<Path>) -> Result<Vec<u8>, ArtifactError> {
    let path = path.as_ref();
    let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
    let file = open_regular(path)?;
    let found = file.metadata().map_err(io_error("read", path))?;
    let too_large = |bytes: u64| corrupt(format!("{bytes} bytes, expected at most {MAX_BYTES} of such a file"));
    if found.len() > MAX_BYTES {
        return Err(too_large(found.len()));
    }
    let mut text = Vec::with_capacity(found.len() as usize);
    // The file may grow while it is read.
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(io_error("read", path))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(too_large(text.len() as u64));
    }
    Ok(text)
}

/// Reads a value from a JSON file.
///
/// # Errors
/// As [`read_text`]; [`ArtifactError::Corrupt`] when the text does not describe such a value.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ArtifactError> {
    let path = path.as_ref();
    serde_json::from_slice(&read_text(path)?)
        .map_err(|e| ArtifactError::Corrupt { path: path.to_path_buf(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_larger_than_any_of_ours_is_refused_by_its_size_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        let file = File::create(&path).unwrap();
        for (bytes, is_refused) in [(MAX_BYTES, false), (MAX_BYTES + 1, true), (3 << 30, true)] {
            file.set_len(bytes).unwrap();
            let error = read_json::<serde_json::Value>(&path).unwrap_err().to_string();
            assert_eq!(error.contains(&format!("{bytes} bytes, expected at most")), is_refused, "{error}");
        }
        let error = read_text(dir.path()).unwrap_err().to_string();
        assert!(error.contains("regular file"), "{error}");
    }
}
