//! Encoders on disk: a file per vocabulary and a manifest that a person can read.
//!
//! `encoders.json` is written last and names the rest, so a folder without it holds no state.

use crate::error::EncoderError;
use crate::spec::validate;
use crate::state::{EncoderState, SideState};
use crate::vocabulary::{StoredVocabulary, Vocabulary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::codec::{read_versioned, write_versioned};
use twotower_artifacts::json::read_text;
use twotower_artifacts::publish::publish_bytes;
use twotower_artifacts::{ArtifactError, Fingerprint, Side};

/// The manifest's file name.
pub const MANIFEST: &str = "encoders.json";
/// The folder of the vocabularies, beside the manifest.
pub const VOCABULARIES: &str = "vocab";
const MAGIC: &str = "twotower-vocabulary";
const VOCABULARY_VERSION: u32 = 1;
const MANIFEST_VERSION: u32 = 1;
/// Values shown per vocabulary in the manifest.
const TOP: usize = 10;
/// The most characters of a value that the manifest shows.
const SHOWN_VALUE: usize = 200;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    fingerprint: Fingerprint,
    user: SideState,
    item: SideState,
    vocabularies: BTreeMap<String, VocabularyEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VocabularyEntry {
    /// Relative to the manifest's folder.
    file: String,
    /// Values, the special slots excluded.
    size: usize,
    fingerprint: Fingerprint,
    /// The most frequent values of the latest fit, for people to read. Nothing else uses them.
    top: Vec<TopValue>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopValue {
    value: String,
    count: u64,
}

/// The path of a table's vocabulary below the manifest's folder.
///
/// A name of up to 64 letters, digits, `_` and `-` is also the name of the file. In any other, all other
/// characters become `_`, and the start of the name's hash is appended.
pub fn vocabulary_file(table: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !table.is_empty() && table.len() <= 64 && table.chars().all(plain) {
        return format!("{VOCABULARIES}/{table}.bin");
    }
    let kept: String = table.chars().take(48).map(|c| if plain(c) { c } else { '_' }).collect();
    format!("{VOCABULARIES}/_{kept}-{}.bin", &Fingerprint::of(table.as_bytes()).as_str()[..12])
}

/// Writes one vocabulary.
///
/// # Errors
/// [`EncoderError::Artifact`].
pub fn save_vocabulary(path: impl AsRef<Path>, vocabulary: &Vocabulary) -> Result<(), EncoderError> {
    Ok(write_versioned(path, MAGIC, VOCABULARY_VERSION, &vocabulary.stored())?)
}

/// Reads one vocabulary.
///
/// # Errors
/// [`EncoderError::Artifact`]: missing, damaged or newer than this build.
pub fn load_vocabulary(path: impl AsRef<Path>) -> Result<Vocabulary, EncoderError> {
    let path = path.as_ref();
    let (_, stored): (u32, StoredVocabulary) = read_versioned(path, MAGIC, VOCABULARY_VERSION)?;
    Ok(Vocabulary::index(stored).map_err(|reason| ArtifactError::Corrupt { path: path.to_path_buf(), reason })?)
}

impl EncoderState {
    /// Writes the state into a folder, the manifest last. Equal states give equal bytes.
    ///
    /// # Errors
    /// [`EncoderError::Artifact`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), EncoderError> {
        let dir = dir.as_ref();
        let mut vocabularies = BTreeMap::new();
        for (table, vocabulary) in self.vocabularies() {
            let file = vocabulary_file(table);
            save_vocabulary(dir.join(&file), vocabulary)?;
            let entry = VocabularyEntry {
                file,
                size: vocabulary.len(),
                fingerprint: vocabulary.fingerprint().clone(),
                top: top_values(vocabulary),
            };
            vocabularies.insert(table.to_string(), entry);
        }
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            fingerprint: self.fingerprint().clone(),
            user: self.side(Side::User).clone(),
            item: self.side(Side::Item).clone(),
            vocabularies,
        };
        let path = dir.join(MANIFEST);
        let mut text = serde_json::to_string_pretty(&manifest)
            .map_err(|e| EncoderError::Manifest { path: path.clone(), reason: e.to_string() })?;
        text.push('\n');
        Ok(publish_bytes(path, text.as_bytes())?)
    }

    /// Reads a state that [`EncoderState::save`] wrote, checking every fingerprint.
    ///
    /// # Errors
    /// [`EncoderError::Artifact`] for a file that is missing, damaged or newer than this build,
    /// [`EncoderError::Manifest`] for a manifest that makes no sense, and
    /// [`EncoderError::FingerprintMismatch`] where content and manifest differ.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, EncoderError> {
        let dir = dir.as_ref();
        let path = dir.join(MANIFEST);
        let damaged = |reason: String| EncoderError::Manifest { path: path.clone(), reason };
        let text = read_text(&path)?;
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        match json.get("version").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(MANIFEST_VERSION) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                return Err(ArtifactError::Version { path, found, supported: MANIFEST_VERSION }.into());
            }
            Some(_) => {}
            None => return Err(damaged("no `version`; expected an encoder manifest".to_string())),
        }
        let manifest: Manifest = serde_json::from_value(json).map_err(|e| damaged(e.to_string()))?;
        validate(&manifest.user.spec(), &manifest.item.spec()).map_err(|e| damaged(e.to_string()))?;
        for (side, state) in [(Side::User, &manifest.user), (Side::Item, &manifest.item)] {
            for feature in &state.features {
                let name = feature.spec.name();
                let fits = match (&feature.spec, &feature.bounds) {
                    (crate::FeatureSpec::Numeric(spec), Some(bounds)) => bounds.fits(spec),
                    (crate::FeatureSpec::Numeric(_), None) => false,
                    (crate::FeatureSpec::Date(spec), bounds) => spec.fits(bounds.as_ref()),
                    (_, bounds) => bounds.is_none(),
                };
                if !fits {
                    return Err(damaged(format!("{side} feature `{name}`: its bounds are not those of its kind")));
                }
                if let Some(table) = feature.spec.vocabulary(side)
                    && !manifest.vocabularies.contains_key(&table)
                {
                    return Err(damaged(format!("{side} feature `{name}`: no vocabulary `{table}`")));
                }
            }
        }
        let mut vocabularies = BTreeMap::new();
        for (table, entry) in manifest.vocabularies {
            // The place of a vocabulary follows from its name. A path from the manifest is compared, but never opened.
            let file = vocabulary_file(&table);
            if entry.file != file {
                return Err(damaged(format!("vocabulary `{table}` lies in `{}`, expected `{file}`", entry.file)));
            }
            let file = dir.join(file);
            let vocabulary = load_vocabulary(&file)?;
            expect_fingerprint(&file, format!("vocabulary `{table}`"), &entry.fingerprint, vocabulary.fingerprint())?;
            vocabularies.insert(table, Arc::new(vocabulary));
        }
        let state = Self::assemble(manifest.user, manifest.item, vocabularies);
        expect_fingerprint(&path, "the encoder state".to_string(), &manifest.fingerprint, state.fingerprint())?;
        Ok(state)
    }
}

fn expect_fingerprint(
    path: &Path,
    what: String,
    expected: &Fingerprint,
    found: &Fingerprint,
) -> Result<(), EncoderError> {
    if expected == found {
        return Ok(());
    }
    let (path, expected, found) = (path.to_path_buf(), expected.clone(), found.clone());
    Err(EncoderError::FingerprintMismatch { path, what, expected, found })
}

/// The most frequent values, ties in code order.
fn top_values(vocabulary: &Vocabulary) -> Vec<TopValue> {
    let mut top: Vec<(u64, u32, &str)> = Vec::with_capacity(TOP + 1);
    for (code, value, count) in vocabulary.iter() {
        let at = top.partition_point(|t| t.0 >= count);
        if at < TOP {
            top.insert(at, (count, code, value));
            top.truncate(TOP);
        }
    }
    top.into_iter().map(|(count, _, value)| TopValue { value: shown(value), count }).collect()
}

/// A value as the manifest shows it. Long values are cut.
fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN_VALUE) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_plain_and_distinct() {
        assert_eq!(vocabulary_file("user_city"), "vocab/user_city.bin");
        let odd = ["../up", "a/b", "a_b/", "", ".", "城市", "市城", "a b"];
        let names: std::collections::BTreeSet<_> = odd.iter().map(|t| vocabulary_file(t)).collect();
        assert_eq!(names.len(), odd.len());
        for name in names {
            let file = name.strip_prefix("vocab/").unwrap();
            assert!(!file.contains('/') && !file.contains("..") && file.is_ascii(), "{name}");
        }
        assert!(vocabulary_file(&"x".repeat(300)).len() < 100);
    }
}
