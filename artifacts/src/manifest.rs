//! Stage manifests: what a stage wrote, from what, with which settings. A person can read them.
//!
//! A manifest ends with a checksum of all the text before it. One without a checksum was changed after it was written.

use crate::error::ArtifactError;
use crate::fingerprint::Fingerprint;
use crate::hashing::HashingWriter;
use crate::json::read_text;
use crate::mirror::{self, Content};
use crate::publish::{io_error, publish_file};
use crate::regular::{open_regular, open_unlinked};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path};

/// Newest manifest version this build reads, and the one it writes.
pub const MANIFEST_VERSION: u32 = 1;

/// One published file of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the manifest's folder, with `/`.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Rows it holds, 0 for files without rows.
    pub rows: u64,
    /// Its whole BLAKE3 hash, 64 hex digits.
    pub blake3: String,
}

impl FileEntry {
    /// The entry of a file on disk, which is hashed in one pass.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] when it cannot be read.
    pub fn of_file(folder: &Path, path: &str, rows: u64) -> Result<Self, ArtifactError> {
        let full = folder.join(path);
        let (bytes, blake3) = hash_file(open_regular(&full)?, &full, || Ok(()))?;
        Ok(Self { path: path.to_string(), bytes, rows, blake3 })
    }

    /// Checks that the file is a regular one inside `folder`, of the listed size and checksum. A folder on its path may
    /// be a link to where its owner put it; the file itself may not.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] naming what differs, [`ArtifactError::Io`] when it cannot be read.
    pub fn verify(&self, folder: impl AsRef<Path>) -> Result<(), ArtifactError> {
        self.verify_while(folder, || Ok(()))
    }

    /// As [`FileEntry::verify`], but calls `go_on` between chunks of the file and stops when it fails.
    ///
    /// # Errors
    /// As [`FileEntry::verify`]; the error of `go_on` as [`ArtifactError::Io`].
    pub fn verify_while(
        &self,
        folder: impl AsRef<Path>,
        go_on: impl FnMut() -> io::Result<()>,
    ) -> Result<(), ArtifactError> {
        let folder = folder.as_ref();
        let path = folder.join(&self.path);
        let corrupt = |reason: &str| ArtifactError::Corrupt { path: path.clone(), reason: reason.to_string() };
        let outside = || corrupt("expected a regular file inside the manifest's folder");
        if !stays_inside(&self.path) {
            return Err(outside());
        }
        let differs = |bytes: u64| corrupt(&format!("{bytes} bytes, its manifest says {}", self.bytes));
        let other = |blake3: &str| corrupt(&format!("checksum {blake3}, its manifest says {}", self.blake3));
        let elsewhere = mirror::of(&path).map(|mirror| mirror.content(&path)).transpose();
        if let Some(Content { bytes, blake3 }) = elsewhere.map_err(io_error("look at", &path))?.flatten() {
            return match (bytes == self.bytes, blake3 == self.blake3) {
                (true, true) => Ok(()),
                (true, false) => Err(other(&blake3)),
                (false, _) => Err(differs(bytes)),
            };
        }
        let file = open_unlinked(&path)?;
        let found = file.metadata().map_err(io_error("read", &path))?.len();
        if found != self.bytes {
            return Err(differs(found));
        }
        let (_, blake3) = hash_file(file, &path, go_on)?;
        if blake3 != self.blake3 {
            return Err(other(&blake3));
        }
        Ok(())
    }

    /// The entry of the same file for a folder above, with `sub/` before its path.
    pub fn under(mut self, sub: &str) -> Self {
        self.path = format!("{sub}/{}", self.path);
        self
    }
}

/// The description that a stage writes beside its output. It is written last, so its presence means that all is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format_version: u32,
    /// The stage, such as `infer`.
    pub stage: String,
    /// Version of twotower that wrote it.
    pub tool_version: String,
    /// Fingerprint of this output; timings are not part of it.
    pub fingerprint: Fingerprint,
    /// Fingerprints of the inputs by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, Fingerprint>,
    /// Resolved settings.
    #[serde(default)]
    pub config: serde_json::Value,
    /// Seed, for stages that draw.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Row counts by name.
    #[serde(default)]
    pub rows: BTreeMap<String, u64>,
    /// Wall-clock seconds.
    #[serde(default)]
    pub seconds: f64,
    /// Files of the output.
    #[serde(default)]
    pub files: Vec<FileEntry>,
    /// What a person should know about this output.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whatever else the stage records.
    #[serde(default)]
    pub details: serde_json::Value,
}

impl Manifest {
    /// An empty manifest of this version.
    pub fn new(stage: &str, tool_version: &str, fingerprint: Fingerprint) -> Self {
        Self {
            format_version: MANIFEST_VERSION,
            stage: stage.to_string(),
            tool_version: tool_version.to_string(),
            fingerprint,
            inputs: BTreeMap::new(),
            config: serde_json::Value::Null,
            seed: None,
            rows: BTreeMap::new(),
            seconds: 0.0,
            files: Vec::new(),
            warnings: Vec::new(),
            details: serde_json::Value::Null,
        }
    }

    /// Publishes the manifest as indented JSON.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ArtifactError> {
        publish_file(path, |w| w.write_all(&sealed(self)?))
    }

    /// Reads a manifest; keys it does not know are ignored.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], [`ArtifactError::Version`] when it is newer, [`ArtifactError::Mismatch`] when its
    /// checksum was taken away, and [`ArtifactError::Corrupt`] when it is not a manifest, was changed after it was
    /// written, or lists a path that leaves its folder.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ArtifactError> {
        #[derive(Deserialize)]
        struct Head {
            format_version: u32,
            checksum: Option<String>,
        }
        let path = path.as_ref();
        let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
        let text = read_text(path)?;
        let not_one = |e: serde_json::Error| corrupt(format!("not a manifest: {e}"));
        let Head { format_version, checksum } = serde_json::from_slice(&text).map_err(not_one)?;
        if format_version > MANIFEST_VERSION {
            let path = path.to_path_buf();
            return Err(ArtifactError::Version { path, found: format_version, supported: MANIFEST_VERSION });
        }
        let Some(said) = checksum else {
            return Err(ArtifactError::Mismatch {
                what: format!("manifest {}", path.display()),
                expected_from: "as its last key".into(),
                expected: "`checksum`".into(),
                found_from: "a text with".into(),
                found: "none".into(),
                advice: "it was changed after it was written: run its stage again with --force, and those after it"
                    .into(),
            });
        };
        let content = text.trim_ascii_end().strip_suffix(closing(&said).as_bytes());
        let content =
            content.ok_or_else(|| corrupt("`checksum` is not its last key, as it was when it was written".into()))?;
        let found = blake3::hash(content).to_hex();
        if found.as_str() != said {
            return Err(corrupt(format!("content of checksum {found}, it says {said}: it was changed or damaged")));
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(not_one)?;
        match manifest.files.iter().find(|f| !stays_inside(&f.path)) {
            Some(file) => Err(corrupt(format!("lists `{}`, expected a path inside its own folder", file.path))),
            None => Ok(manifest),
        }
    }

    /// Checks that every file listed is a regular file inside `folder`, of the listed size and checksum.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] or [`ArtifactError::Io`], naming the first file that differs.
    pub fn verify_files(&self, folder: impl AsRef<Path>) -> Result<(), ArtifactError> {
        let folder = folder.as_ref();
        self.files.iter().try_for_each(|entry| entry.verify(folder))
    }

    /// Rows of all files together.
    pub fn file_rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }
}

/// An object as the indented JSON of a manifest, with the checksum of its text as its last key.
///
/// # Errors
/// When it cannot be serialised.
pub fn sealed(object: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(object)?;
    text.truncate(text.len() - "\n}".len());
    let checksum = blake3::hash(&text).to_hex();
    text.extend_from_slice(closing(&checksum).as_bytes());
    text.push(b'\n');
    Ok(text)
}

/// The end of a manifest, from its checksum on.
fn closing(checksum: &str) -> String {
    format!(",\n  \"checksum\": \"{checksum}\"\n}}")
}

/// Whether a path is relative and has only plain components, so that it stays below its folder.
fn stays_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Size and whole BLAKE3 hash of a file. It calls `go_on` between chunks and stops when that fails.
fn hash_file(
    mut file: File,
    path: &Path,
    mut go_on: impl FnMut() -> io::Result<()>,
) -> Result<(u64, String), ArtifactError> {
    let mut hasher = HashingWriter::new(io::sink());
    let mut chunk = vec![0; 1 << 18];
    loop {
        go_on().map_err(io_error("read", path))?;
        match file.read(&mut chunk).and_then(|n| hasher.write_all(&chunk[..n]).map(|()| n)) {
            Ok(0) => return Ok((hasher.bytes(), hasher.digest().to_hex().to_string())),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_error("read", path)(e)),
        }
    }
}

/// The file name of a path, as manifests list it.
pub(crate) fn entry_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Category;
    use crate::publish::publish_bytes;
    use std::fs;

    fn sample(folder: &Path) -> Manifest {
        publish_bytes(folder.join("parts/a.bin"), b"content").unwrap();
        let mut manifest = Manifest::new("infer", "0.1.0", Fingerprint::of(b"out"));
        manifest.inputs.insert("users".to_string(), Fingerprint::of(b"in"));
        manifest.config = serde_json::json!({"zeta": 1, "alpha": 2});
        manifest.rows.insert("users".to_string(), 7);
        manifest.seconds = 1.5;
        manifest.files.push(FileEntry::of_file(&folder.join("parts"), "a.bin", 7).unwrap().under("parts"));
        manifest
    }

    #[test]
    fn a_manifest_reads_back_and_its_files_verify() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = sample(dir.path());
        let path = dir.path().join("manifest.json");
        manifest.write(&path).unwrap();
        let back = Manifest::read(&path).unwrap();
        assert_eq!(back, manifest);
        assert_eq!(back.files[0].blake3, blake3::hash(b"content").to_hex().as_str());
        assert_eq!(back.file_rows(), 7);
        back.verify_files(dir.path()).unwrap();
    }

    #[test]
    fn altered_missing_and_linked_files_are_named_and_linked_folders_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = sample(dir.path());
        let file = dir.path().join("parts/a.bin");
        let refused = || manifest.verify_files(dir.path()).unwrap_err().to_string();
        fs::write(&file, b"c0ntent").unwrap();
        assert!(refused().contains("a.bin") && refused().contains("checksum"));
        fs::write(&file, b"conten").unwrap();
        assert!(refused().contains("6 bytes, its manifest says 7"));
        fs::remove_file(&file).unwrap();
        assert!(refused().contains("a.bin"));
        let outside = tempfile::tempdir().unwrap();
        publish_bytes(outside.path().join("a.bin"), b"content").unwrap();
        std::os::unix::fs::symlink(outside.path().join("a.bin"), &file).unwrap();
        assert!(refused().contains("regular file"));
        fs::remove_file(&file).unwrap();
        fs::remove_dir(dir.path().join("parts")).unwrap();
        // A folder is where its owner put it, and what is there is checked all the same.
        std::os::unix::fs::symlink(outside.path(), dir.path().join("parts")).unwrap();
        manifest.verify_files(dir.path()).unwrap();
        fs::write(outside.path().join("a.bin"), b"c0ntent").unwrap();
        assert!(refused().contains("checksum"));
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        for bad in ["../a", "/etc/passwd", "x/../../a", "", "./a"] {
            let mut manifest = sample(dir.path());
            manifest.files[0].path = bad.to_string();
            manifest.write(&path).unwrap();
            assert!(matches!(Manifest::read(&path), Err(ArtifactError::Corrupt { .. })), "{bad}");
            assert!(manifest.verify_files(dir.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_altered_byte_is_refused_and_so_is_a_manifest_without_its_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = sample(dir.path());
        let path = dir.path().join("manifest.json");
        manifest.write(&path).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = Manifest::read(&path).expect_err(&format!("byte {at}"));
            assert!(error.to_string().contains("manifest.json"), "{error}");
        }
        let mut first = serde_json::to_value(&manifest).unwrap();
        for text in [first.to_string(), serde_json::to_string_pretty(&first).unwrap()] {
            fs::write(&path, text).unwrap();
            let error = Manifest::read(&path).unwrap_err();
            assert_eq!(error.category(), Category::Mismatch, "{error}");
            assert!(error.to_string().contains("expected as its last key `checksum`"), "{error}");
        }
        first["rows"]["users"] = 8.into();
        fs::write(&path, sealed(&first).unwrap()).unwrap();
        assert_eq!(Manifest::read(&path).unwrap().rows["users"], 8);
        // The checksum is right, but another key follows it.
        let text = String::from_utf8(good).unwrap().replace("\n}\n", ",\n  \"later\": 1\n}\n");
        fs::write(&path, text).unwrap();
        assert!(Manifest::read(&path).unwrap_err().to_string().contains("`checksum` is not its last key"));
    }

    #[test]
    fn newer_versions_are_refused_by_number_and_extra_keys_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        let mut value = serde_json::to_value(sample(dir.path())).unwrap();
        value["added_later"] = serde_json::json!([1]);
        publish_bytes(&path, &sealed(&value).unwrap()).unwrap();
        assert!(Manifest::read(&path).is_ok());
        publish_bytes(&path, br#"{"format_version": 9, "shape": "unknown"}"#).unwrap();
        assert!(matches!(Manifest::read(&path), Err(ArtifactError::Version { found: 9, .. })));
        publish_bytes(&path, b"{\"format_version\": 1, \"sta").unwrap();
        assert!(matches!(Manifest::read(&path), Err(ArtifactError::Corrupt { .. })));
    }
}
