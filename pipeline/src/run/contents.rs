//! What stands in a run's folder: which files are the run's own, and how all of them are removed.

use crate::error::PipelineError;
use crate::run::dir::RunDir;
use crate::run::files;
use crate::run::lock;
use crate::run::shard_progress;
use crate::stream::part_folder::{MANIFESTS, PartFolder};
use crate::stream::parts::is_artifact;
use crate::stream::row_hashes;
use crate::stream::sample;
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use twotower_artifacts::publish::is_temp_name;
use twotower_artifacts::{Manifest, Side, open_regular};
use twotower_encoders::store;

/// The first bytes of a vocabulary and of a timeline.
const MAGICS: [&[u8]; 2] = [b"twotower-vocabulary", twotower_artifacts::timeline::MAGIC.as_bytes()];

/// The outputs of a run that are in parts.
fn part_folders(run: &RunDir) -> [PartFolder; 3] {
    [run.vectors(Side::User), run.vectors(Side::Item), run.recall()]
}

/// Manifests of a run, there or not, each with the folder from which the paths in it count.
fn manifests(run: &RunDir) -> Vec<(PathBuf, PathBuf)> {
    let in_folder = |folder: PathBuf, name: &str| (folder.join(name), folder);
    let mut paths = vec![
        in_folder(run.towers(), files::towers::MANIFEST),
        in_folder(run.index(), files::index::MANIFEST),
        in_folder(run.evaluation(), files::evaluation::MANIFEST),
        in_folder(run.gates(), files::gates::MANIFEST),
        in_folder(run.encoders(), files::encoders::TIMELINE_MANIFEST),
    ];
    for folder in part_folders(run) {
        let parts = folder.manifest_paths().unwrap_or_default().into_iter();
        paths.extend(parts.map(|(path, layout)| (path, folder.base(layout))));
    }
    // It says that this is a run, so it comes last.
    paths.push(in_folder(run.encoders(), files::encoders::MANIFEST));
    paths
}

/// The folders of a run.
fn folders(run: &RunDir) -> Vec<PathBuf> {
    vec![
        run.encoders().join(store::VOCABULARIES),
        run.encoders(),
        run.towers().join(files::towers::CHECKPOINTS),
        run.towers().join(files::towers::CANDIDATE),
        run.towers(),
        run.vectors(Side::User).data(),
        run.vectors(Side::Item).data(),
        run.root().join("vectors"),
        run.index(),
        sample::earlier_folder(run).data(),
        run.recall().data(),
        sample::folder(run).data(),
        row_hashes::folder(run.root(), &run.vectors(Side::User)).data(),
        run.root().join(row_hashes::FOLDER).join("vectors"),
        row_hashes::folder(run.root(), &run.recall()).data(),
        run.root().join(row_hashes::FOLDER),
        run.vectors(Side::User).manifests(),
        run.vectors(Side::Item).manifests(),
        run.root().join(MANIFESTS).join("vectors"),
        run.recall().manifests(),
        run.root().join(MANIFESTS),
        run.evaluation(),
        run.gates(),
        run.root().join(shard_progress::FOLDER),
        run.root().to_path_buf(),
    ]
}

/// The first file or folder in a run's folder that no stage made: no manifest names it, and it is nothing that a
/// stage leaves beside its output.
///
/// # Errors
/// A folder that cannot be listed.
pub fn stranger(run: &RunDir) -> Result<Option<PathBuf>, PipelineError> {
    let mut known: BTreeSet<PathBuf> = BTreeSet::new();
    for (path, base) in manifests(run) {
        if let Ok(manifest) = Manifest::read(&path) {
            known.extend(manifest.files.iter().map(|file| base.join(&file.path)));
            known.insert(path);
        }
    }
    let checkpoints = run.towers().join(files::towers::CHECKPOINTS);
    known.extend(["best.ckpt", "last.ckpt", "key.json"].map(|name| checkpoints.join(name)));
    let (folders, candidate) = (folders(run), run.towers().join(files::towers::CANDIDATE));
    let progress = run.root().join(shard_progress::FOLDER);
    for folder in &folders {
        for (path, is_folder) in entries(folder)? {
            let name = path.file_name().unwrap_or_default();
            let ours = match is_folder {
                true => folders.contains(&path),
                false => {
                    known.contains(&path)
                        || name == lock::NAME
                        || is_temp_name(name)
                        || [&candidate, &progress].contains(&folder)
                        || is_left_over(&path)
                }
            };
            if !ours {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// Whether a file that no manifest names is nevertheless a stage's: an earlier output of it.
fn is_left_over(path: &Path) -> bool {
    if path.is_symlink() || !path.is_file() {
        return false;
    }
    let begins = |magic: &[u8]| {
        let mut start = Vec::new();
        let file = open_regular(path).map(|file| file.take(magic.len() as u64).read_to_end(&mut start));
        file.is_ok_and(|read| read.is_ok()) && start == magic
    };
    is_artifact(path) || MAGICS.into_iter().any(begins)
}

/// What a folder holds, and whether it is a folder; nothing where it is not there, or is a link.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, bool)>, PipelineError> {
    if folder.is_symlink() {
        return Ok(Vec::new());
    }
    let listed = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(PipelineError::io("list", folder))?,
    };
    let one = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.map_err(PipelineError::io("list", folder))?;
        let kind = entry.file_type().map_err(PipelineError::io("list", folder))?;
        Ok((entry.path(), kind.is_dir()))
    };
    listed.map(one).collect()
}

/// Removes a run that holds no stranger: what its manifests name before them, and last the one that says that it is a
/// run. So whatever a removal that was killed leaves is still a run, and holds no stranger.
///
/// # Errors
/// What cannot be listed or removed.
pub fn remove(run: &RunDir) -> Result<(), PipelineError> {
    let manifests: Vec<PathBuf> = manifests(run).into_iter().map(|(path, _)| path).collect();
    let folders = folders(run);
    for folder in &folders {
        for (path, is_folder) in entries(folder)? {
            if !is_folder && !manifests.contains(&path) {
                delete(&path, |path| fs::remove_file(path))?;
            }
        }
    }
    manifests.iter().try_for_each(|path| delete(path, |path| fs::remove_file(path)))?;
    folders.iter().try_for_each(|path| delete(path, |path| fs::remove_dir(path)))
}

fn delete(path: &Path, delete: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), PipelineError> {
    match delete(path) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(PipelineError::io("remove", path)(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_run_is_removed_whole_and_any_other_file_in_it_is_a_stranger() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path().join("run"));
        let manifest = Manifest::new("encode-features", "1", twotower_artifacts::Fingerprint::of(b""));
        let path = run.encoders().join(files::encoders::MANIFEST);
        manifest.write(&path).unwrap();
        fs::write(run.encoders().join(".a.tmp-1-2"), "").unwrap();
        fs::create_dir(run.encoders().join(store::VOCABULARIES)).unwrap();
        fs::write(run.encoders().join(store::VOCABULARIES).join("old.bin"), "twotower-vocabulary…").unwrap();
        assert_eq!(stranger(&run).unwrap(), None);
        for name in ["notes.txt", "recall/part-of-me.txt", "recall/part-00000-of-00001.parquet", "towers/deep/file"] {
            let path = run.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "mine").unwrap();
            let found = stranger(&run).unwrap().unwrap();
            assert!(path.starts_with(&found), "{name}: {}", found.display());
            fs::remove_file(&path).unwrap();
            let _ = fs::remove_dir(run.root().join("towers/deep"));
        }
        std::os::unix::fs::symlink("/", run.root().join("evaluation")).unwrap();
        assert_eq!(stranger(&run).unwrap(), Some(run.evaluation()));
        fs::remove_file(run.evaluation()).unwrap();
        remove(&run).unwrap();
        assert!(!run.root().exists());
    }
}
