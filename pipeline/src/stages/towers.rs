//! The exported towers of a run: published once they agree with the trained ones, checked before use.

use crate::error::PipelineError;
use crate::run::files::towers as files;
use crate::run::manifests::{content_fingerprint, require};
use crate::stages::Context;
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{ArtifactError, CodeBatch, FileEntry, Fingerprint, Manifest, Side, publish};
use twotower_models::engine::{EngineKind, library};
use twotower_models::tower::Tower;
use twotower_models::{engine, native, onnx};

/// The largest difference between a tower as trained and as an engine computes it from its file.
const EXPORT_TOLERANCE: f32 = 1e-4;

/// Fingerprint of both towers of a folder: what vectors are named after.
///
/// # Errors
/// [`PipelineError::Artifact`] when a tower cannot be read.
pub fn towers_fingerprint(dir: &Path) -> Result<Fingerprint, PipelineError> {
    let entries = [Side::User, Side::Item]
        .into_iter()
        .map(|side| FileEntry::of_file(dir, &files::tower(side), 0))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(content_fingerprint(&entries))
}

/// The manifest of a run's training, after checking that the tower files are the ones it speaks of.
///
/// # Errors
/// No training yet; [`ArtifactError::Mismatch`], naming both fingerprints, for towers of another run.
pub(crate) fn verified_towers<S>(stage: &'static str, context: &Context<S>) -> Result<Manifest, PipelineError> {
    verified_in(stage, &context.run.towers())
}

/// [`verified_towers`] of any run's tower folder.
///
/// # Errors
/// As [`verified_towers`].
pub(crate) fn verified_in(stage: &'static str, dir: &Path) -> Result<Manifest, PipelineError> {
    let manifest = require(stage, &dir.join(files::MANIFEST), "twotower train")?;
    check_sizes(dir, &manifest)?;
    let found = towers_fingerprint(dir)?;
    if found == manifest.fingerprint {
        return Ok(manifest);
    }
    Err(ArtifactError::Mismatch {
        what: format!("{stage}: towers {}", dir.display()),
        expected_from: "their manifest with fingerprint".into(),
        expected: manifest.fingerprint.to_string(),
        found_from: "files with fingerprint".into(),
        found: found.to_string(),
        advice: "run `twotower train --force`, or put back the files that belong here".into(),
    }
    .into())
}

/// Refuses files that are much longer than their manifest says. Sparse ones, for example, would take hours to hash.
fn check_sizes(dir: &Path, manifest: &Manifest) -> Result<(), PipelineError> {
    for file in &manifest.files {
        let path = dir.join(&file.path);
        let found = std::fs::metadata(&path).map_or(0, |found| found.len());
        if found > file.bytes.max(i32::MAX as u64) {
            let reason = format!("{found} bytes, its manifest says {}", file.bytes);
            return Err(ArtifactError::Corrupt { path, reason }.into());
        }
    }
    Ok(())
}

/// Checks that a tower was trained on the encoder state at hand.
///
/// # Errors
/// [`ArtifactError::Mismatch`], naming both fingerprints.
pub(crate) fn check_tower<S>(
    stage: &str,
    context: &Context<S>,
    side: Side,
    trained_on: &Fingerprint,
    state: &Fingerprint,
) -> Result<(), PipelineError> {
    if trained_on == state {
        return Ok(());
    }
    Err(ArtifactError::Mismatch {
        what: format!("{stage}: {}", context.run.towers().join(files::tower(side)).display()),
        expected_from: format!("encoders {} with fingerprint", context.run.encoders().display()),
        expected: state.to_string(),
        found_from: "tower trained on encoders with fingerprint".into(),
        found: trained_on.to_string(),
        advice: "run `twotower train` on these encoders, or use the encoders the tower was trained on".into(),
    }
    .into())
}

/// Refuses an engine that lacks its shared library, before the work whose result it is to open.
///
/// # Errors
/// [`ModelError::RuntimeMissing`](twotower_models::ModelError::RuntimeMissing), said to be of `stage`.
pub(crate) fn require_runtime(stage: &'static str, engine: EngineKind) -> Result<(), PipelineError> {
    match engine {
        EngineKind::Ort => library::locate().map(|_| ()).map_err(|e| PipelineError::from(e).within(stage)),
        EngineKind::Native | EngineKind::NativeInt16 => Ok(()),
    }
}

/// Writes a tower into a temporary folder, compares what an engine computes from the file with the
/// trained tower, then moves it to `dir`.
///
/// ONNX Runtime is the engine, unless the job uses the native one and so needs no shared library.
/// Returns the largest absolute difference of the vectors of `sample`, and the files.
///
/// # Errors
/// A difference above [`EXPORT_TOLERANCE`], or one that is not a number; I/O.
pub(crate) fn publish_tower(
    tower: &Tower,
    sample: &CodeBatch,
    dir: &Path,
    kind: EngineKind,
) -> Result<(f32, Vec<FileEntry>), PipelineError> {
    publish_with(tower, sample, dir, kind, onnx::INLINE_LIMIT)
}

/// [`publish_tower`] with the size of tables above which they get a file of their own.
fn publish_with(
    tower: &Tower,
    sample: &CodeBatch,
    dir: &Path,
    kind: EngineKind,
    inline_limit: u64,
) -> Result<(f32, Vec<FileEntry>), PipelineError> {
    let side = tower.schema.side;
    // Under the name it will have, for the model names the file of its tables.
    let folder = dir.join(files::CANDIDATE);
    publish::remove_folder(&folder)?;
    let candidate = folder.join(files::tower(side));
    onnx::export_with_limit(tower, &candidate, &BTreeMap::new(), inline_limit)?;
    let verified = match kind {
        EngineKind::Ort => engine::verify(&candidate, tower, sample, EXPORT_TOLERANCE).map_err(PipelineError::from),
        EngineKind::Native | EngineKind::NativeInt16 => {
            tracing::warn!("train: {side} tower not compared with ONNX Runtime, because the engine is `{kind}`");
            verify_native(&candidate, tower, sample)
        }
    };
    let moved = verified.and_then(|difference| {
        let data = files::tower_data(side);
        let mut names = vec![files::tower(side)];
        match folder.join(&data).exists() {
            true => names.insert(0, data),
            false => publish::remove(dir.join(&data))?,
        }
        let moved = |name: String| {
            publish::rename(folder.join(&name), dir.join(&name))?;
            FileEntry::of_file(dir, &name, 0)
        };
        Ok((difference, names.into_iter().map(moved).collect::<Result<_, _>>()?))
    });
    publish::remove_folder(&folder)?;
    moved
}

fn verify_native(path: &Path, tower: &Tower, sample: &CodeBatch) -> Result<f32, PipelineError> {
    let (read, _) = onnx::read(path)?;
    let (found, expected) = (native::embed(&read, sample)?, native::embed(tower, sample)?);
    let differences = || found.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs());
    let largest = differences().fold(0.0, f32::max);
    // Not by the largest: `f32::max` passes over NaN.
    match differences().all(|d| d <= EXPORT_TOLERANCE) {
        true => Ok(largest),
        false => Err(PipelineError::Gate(format!(
            "train: {}: vectors of the exported tower differ by {largest} from the trained one's, expected at most {EXPORT_TOLERANCE}; please report this as a bug",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::{Column, FieldSchema, FieldShape, TowerSchema};
    use twotower_models::tower::{Input, Matrix};

    #[test]
    fn a_tower_with_large_tables_is_readable_where_it_is_published_and_a_small_one_leaves_no_table_file() {
        let shape = FieldShape::Code { table: "city".into(), cardinality: 4 };
        let fields = vec![FieldSchema { name: "city".into(), shape }];
        let schema = TowerSchema { side: Side::User, encoder: Fingerprint::of(b"encoder"), fields };
        let table = Matrix { rows: 4, cols: 2, data: (1..9).map(|v| v as f32).collect() };
        let tower = Tower {
            schema: schema.clone(),
            inputs: vec![Input::Embedding { table: "city".into() }],
            tables: BTreeMap::from([("city".to_string(), table)]),
            layers: Vec::new(),
            dim: 2,
            inner_product_scale: Some(1.5),
        };
        let mut sample = CodeBatch::empty(&schema);
        sample.columns[0] = Column::Code(vec![0, 3]);
        let dir = tempfile::tempdir().unwrap();
        for (limit, expected) in
            [(0, &["user_tower.onnx.data", "user_tower.onnx"][..]), (1 << 20, &["user_tower.onnx"])]
        {
            let (_, files) = publish_with(&tower, &sample, dir.path(), EngineKind::Native, limit).unwrap();
            assert_eq!(files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), expected);
            assert_eq!(onnx::read(&dir.path().join(files::tower(Side::User))).unwrap().0, tower);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), expected.len());
        }
    }
}
