//! Reading the manifests that stages leave.

use crate::error::PipelineError;
use crate::watch::cancel::Cancel;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use twotower_artifacts::{FileEntry, Fingerprint, Manifest};

/// Reads the manifest that an earlier stage must have left.
///
/// # Errors
/// [`PipelineError::MissingInput`] naming the command that makes it.
pub(crate) fn require(stage: &'static str, path: &Path, command: &str) -> Result<Manifest, PipelineError> {
    if !path.exists() {
        return Err(PipelineError::MissingInput {
            stage,
            path: path.to_path_buf(),
            advice: format!("run `{command}` first"),
        });
    }
    Ok(Manifest::read(path)?)
}

/// What a stage has recorded about its output: the `details` of its manifest, in the form that the stage writes.
/// `reader` is the stage that wants to know.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming the manifest, the key that is missing or wrong, and the command that writes it.
pub(crate) fn details<T: DeserializeOwned>(reader: &str, manifest: &Manifest) -> Result<T, PipelineError> {
    parse(&manifest.details, "details").map_err(|problem| unreadable(reader, manifest, &problem))
}

/// The settings under which an output was made, as far as `T` names them.
///
/// # Errors
/// As [`details`].
pub(crate) fn settings<T: DeserializeOwned>(reader: &str, manifest: &Manifest) -> Result<T, PipelineError> {
    parse(&manifest.config, "config").map_err(|problem| unreadable(reader, manifest, &problem))
}

/// A count of rows that every version writes.
///
/// # Errors
/// As [`details`].
pub(crate) fn row_count(reader: &str, manifest: &Manifest, name: &str) -> Result<u64, PipelineError> {
    let count = manifest.rows.get(name).copied();
    count.ok_or_else(|| unreadable(reader, manifest, &format!("`rows.{name}` is missing")))
}

/// Reads the part of a manifest with a name, or says what is wrong with which key of it.
fn parse<T: DeserializeOwned>(part: &Value, name: &str) -> Result<T, String> {
    let attempt = |part: Value| serde_json::from_value::<T>(part).map_err(|error| error.to_string());
    attempt(part.clone()).map_err(|problem| {
        // An error tells of a value, but not under which key it stands: it is the key without which there is another
        // error, or none.
        let without = |key: &str| {
            let mut rest = part.as_object()?.clone();
            rest.shift_remove(key);
            Some(Value::Object(rest))
        };
        let is_wrong = |key: &&String| without(key).is_some_and(|rest| attempt(rest).err().as_ref() != Some(&problem));
        let keys = part.as_object().into_iter().flat_map(|part| part.keys());
        match keys.filter(|_| !problem.starts_with("missing field")).find(is_wrong) {
            Some(key) => format!("`{name}.{key}`: {problem}"),
            None => format!("`{name}`: {problem}"),
        }
    })
}

fn unreadable(reader: &str, manifest: &Manifest, problem: &str) -> PipelineError {
    let command = command(manifest);
    PipelineError::Mismatch(format!(
        "{reader}: the manifest of `{}`: {problem}; run `twotower {command} --force`",
        manifest.stage
    ))
}

/// The command that writes a manifest again, with the side that `infer` wants.
fn command(manifest: &Manifest) -> String {
    let side = manifest.config.get("side").and_then(Value::as_str);
    match (manifest.stage.as_str(), side) {
        ("index", _) => "recall".to_string(),
        ("check", _) => "publish".to_string(),
        (stage, Some(side)) => format!("{stage} --side {side}"),
        (stage, None) => stage.to_string(),
    }
}

/// Checks that a file is the one its manifest speaks of, byte for byte; a signal ends that.
///
/// # Errors
/// [`ArtifactError::Corrupt`](twotower_artifacts::ArtifactError::Corrupt) when it is not,
/// [`PipelineError::Interrupted`].
pub(crate) fn verify_file(
    stage: &'static str,
    dir: &Path,
    file: &FileEntry,
    cancel: &Cancel,
) -> Result<(), PipelineError> {
    let go_on = || if cancel.is_stopped() { Err(std::io::Error::other("stopped")) } else { Ok(()) };
    let verified = file.verify_while(dir, go_on);
    cancel.check(stage)?;
    Ok(verified?)
}

/// Fingerprint of a set of files by name and content.
pub(crate) fn content_fingerprint<'a>(files: impl IntoIterator<Item = &'a FileEntry>) -> Fingerprint {
    Fingerprint::of_parts(files.into_iter().map(|f| (f.path.as_str(), f.blake3.as_bytes())))
}

/// A value written out and read back, as manifests are: floats may change in the last bit.
pub(crate) fn as_written(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Sample {
        dim: usize,
        #[serde(rename = "eligible items")]
        eligible: u64,
    }

    #[test]
    fn a_detail_that_is_missing_or_wrong_is_named_with_the_command_that_writes_it() {
        let mut manifest = Manifest::new("infer", "1", Fingerprint::of(b""));
        manifest.config = json!({ "side": "user" });
        let refused = |manifest: &Manifest| details::<Sample>("check", manifest).unwrap_err().to_string();
        for (details, named) in [
            (json!({ "dim": 8, "eligible items": "all" }), "`details.eligible items`: invalid type"),
            (json!({ "dim": -1, "eligible items": 3 }), "`details.dim`: invalid value"),
            (json!({ "dim": 8 }), "missing field `eligible items`"),
            (json!(null), "`details`: "),
        ] {
            manifest.details = details;
            let error = refused(&manifest);
            assert!(error.starts_with("check: the manifest of `infer`: ") && error.contains(named), "{error}");
            assert!(error.ends_with("; run `twotower infer --side user --force`"), "{error}");
        }
        manifest.details = json!({ "dim": 8, "eligible items": 3, "more": null });
        assert_eq!(details::<Sample>("check", &manifest).unwrap(), Sample { dim: 8, eligible: 3 });
        manifest.stage = "index".into();
        let error = row_count("verify", &manifest, "items").unwrap_err().to_string();
        assert!(error.contains("`rows.items` is missing; run `twotower recall --force`"), "{error}");
    }
}
