//! The runs of a folder: which there are, which one comes before another, going back to one, removing old ones.

use crate::cancel::Cancel;
use crate::clock;
use crate::encode;
use crate::error::PipelineError;
use crate::gates::{self, Gate, Ruling};
use crate::parts::complete_set;
use crate::run_dir::{LATEST, RunDir};
use crate::run_lock::{Access, RunLock};
use crate::towers;
use serde::Serialize;
use std::fs;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::{Path, PathBuf};
use twotower_artifacts::publish::{remove_folder, switch_link};
use twotower_artifacts::{ArtifactError, Manifest, Side};

/// What the name of a run that is being removed begins with.
const REMOVED: &str = ".pruned-";
/// Why a run at work is not pruned.
const IN_USE: &str = "it is in use";

/// What the gates said about a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checked {
    /// All that applied passed, but for those that the operator accepted.
    Passed {
        /// Gates that failed and were accepted.
        accepted: Vec<Gate>,
    },
    /// These did not.
    Failed {
        /// The gates.
        gates: Vec<Gate>,
    },
    /// They were not asked since the run last changed.
    No,
}

/// A run of a folder.
#[derive(Debug, Clone, Serialize)]
pub struct RunInfo {
    /// Name of its folder.
    pub name: String,
    /// Whether every stage that results need is there, for every shard.
    pub complete: bool,
    /// What the gates said.
    pub gates: Checked,
    /// Users in the results.
    pub users: Option<u64>,
    /// When the gates were asked, or else when the results were finished: seconds since 1970.
    pub at: Option<u64>,
    /// Whether `latest` names it.
    pub latest: bool,
}

impl RunInfo {
    /// Whether it may be published.
    fn passed(&self) -> bool {
        self.complete && matches!(self.gates, Checked::Passed { .. })
    }
}

/// The runs of `dir`, oldest first. A folder is a run when `encode-features` left its manifest there.
///
/// # Errors
/// A folder that cannot be listed. Damaged manifests make a run incomplete.
pub fn list(dir: &Path) -> Result<Vec<RunInfo>, PipelineError> {
    let latest = latest_of(dir);
    let mut runs = Vec::new();
    for entry in fs::read_dir(dir).map_err(PipelineError::io("list", dir))? {
        let entry = entry.map_err(PipelineError::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let run = RunDir::new(entry.path());
        if name.starts_with('.') || !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !is_run(&run) {
            continue;
        }
        runs.push(look_at(&run, latest.as_deref() == Some(&name)));
    }
    runs.sort_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)));
    Ok(runs)
}

fn is_run(run: &RunDir) -> bool {
    let manifest = Manifest::read(run.encoders().join(encode::files::MANIFEST));
    match manifest {
        Ok(manifest) => manifest.stage == "encode-features",
        Err(ArtifactError::Io { source, .. }) => !matches!(source.kind(), NotFound | NotADirectory),
        Err(_) => true,
    }
}

fn look_at(run: &RunDir, latest: bool) -> RunInfo {
    let encoders = Manifest::read(run.encoders().join(encode::files::MANIFEST));
    let recalled = complete_set("runs", &run.recall(), "twotower recall");
    let items = complete_set("runs", &run.vectors(Side::Item), "twotower infer --side item");
    let towers = Manifest::read(run.towers().join(towers::files::MANIFEST));
    let gates = Manifest::read(run.gates().join(gates::files::MANIFEST)).ok();
    let finished = || {
        let newest = recalled.as_ref().ok()?.iter().flat_map(|part| &part.files);
        let times = newest.filter_map(|file| fs::metadata(run.recall().join(&file.path)).ok()?.modified().ok());
        times.max().map(clock::seconds)
    };
    RunInfo {
        name: run.name(),
        complete: encoders.is_ok() && recalled.is_ok() && items.is_ok() && towers.is_ok(),
        gates: gates.as_ref().map_or(Checked::No, checked),
        users: recalled.as_ref().ok().map(|parts| parts.iter().filter_map(|part| part.rows.get("users")).sum()),
        at: gates.as_ref().and_then(|manifest| manifest.details["checked at"].as_u64()).or_else(finished),
        latest,
    }
}

fn checked(manifest: &Manifest) -> Checked {
    let Some(verdicts) = gates::verdicts(manifest) else { return Checked::No };
    let of = |ruling: Ruling| verdicts.iter().filter(|v| v.ruling == ruling).map(|v| v.gate).collect::<Vec<_>>();
    match of(Ruling::Failed) {
        failed if failed.is_empty() => Checked::Passed { accepted: of(Ruling::Accepted) },
        gates => Checked::Failed { gates },
    }
}

/// Name of the run that `latest` names, if that is a folder beside it.
fn latest_of(dir: &Path) -> Option<String> {
    let target = dir.join(LATEST).canonicalize().ok()?;
    let inside = target.parent() == dir.canonicalize().ok().as_deref();
    inside.then(|| target.file_name().map(|name| name.to_string_lossy().into_owned()))?
}

/// Bytes of all files of a run.
pub fn size(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.len(),
                // It has gone meanwhile.
                Err(_) => {}
            }
        }
    }
    bytes
}

/// The run that `run` is compared with: the one that `latest` names, or, where that is this one or none, the
/// newest other one that passed its gates.
///
/// # Errors
/// As [`list`].
pub fn previous_of(run: &RunDir) -> Result<Option<RunDir>, PipelineError> {
    let Some(dir) = run.latest().and_then(|link| Some(link.parent()?.to_path_buf())) else { return Ok(None) };
    let own = run.name();
    let named = latest_of(&dir).filter(|name| *name != own);
    let newest = || Ok(list(&dir)?.into_iter().rev().find(|r| r.passed() && r.name != own).map(|r| r.name));
    let name = named.map_or_else(newest, |name| Ok::<_, PipelineError>(Some(name)))?;
    Ok(name.map(|name| RunDir::new(dir.join(name))))
}

/// What [`rollback`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolledBack {
    /// The run that `latest` named, if it named one.
    pub from: Option<String>,
    /// The run that it names now.
    pub to: String,
}

/// Points `latest` at the run `to` of `dir`, or else at the newest one before the run that it names.
///
/// # Errors
/// [`PipelineError::Mismatch`] when there is none that is complete and passed its gates, saying why not;
/// [`PipelineError::InUse`] when another process works in it.
pub fn rollback(dir: &Path, to: Option<&str>) -> Result<RolledBack, PipelineError> {
    let _switching = RunLock::of_latest(dir, "rollback", &Cancel::default())?;
    let runs = list(dir)?;
    let now = runs.iter().position(|run| run.latest);
    let to = match to {
        Some(name) => {
            let found = runs.iter().find(|run| run.name == name);
            found.ok_or_else(|| {
                let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
                PipelineError::usage(format!(
                    "rollback: {} has no run `{name}`; there are: {}",
                    dir.display(),
                    names.join(", ")
                ))
            })?
        }
        None => runs[..now.unwrap_or(runs.len())].iter().rev().find(|run| run.passed()).ok_or_else(|| {
            let before = now.map_or(String::new(), |now| format!(" before `{}`", runs[now].name));
            PipelineError::Mismatch(format!(
                "rollback: {} has no run{before} that is complete and passed its gates; `latest` stays as it is; `twotower runs list {}` shows all",
                dir.display(),
                dir.display()
            ))
        })?,
    };
    // Nobody changes it from here on; meanwhile somebody may have.
    let run = RunDir::new(dir.join(&to.name));
    let _still = RunLock::take(&run, Access::Still)?;
    check_publishable(dir, &look_at(&run, false))?;
    switch_link(dir.join(LATEST), &to.name)?;
    Ok(RolledBack { from: now.map(|now| runs[now].name.clone()), to: to.name.clone() })
}

fn check_publishable(dir: &Path, run: &RunInfo) -> Result<(), PipelineError> {
    let why = match (&run.gates, run.complete) {
        (_, false) => "is not complete".to_string(),
        (Checked::Passed { .. }, true) => return Ok(()),
        (Checked::No, true) => "was not checked since it last changed".to_string(),
        (Checked::Failed { gates }, true) => {
            let names: Vec<&str> = gates.iter().map(|gate| gate.name()).collect();
            format!("was refused by the gates {}", names.join(", "))
        }
    };
    let path = dir.join(&run.name);
    Err(PipelineError::Mismatch(format!(
        "rollback: {} {why}; `latest` stays as it is; `twotower publish --run {}` checks it",
        path.display(),
        path.display()
    )))
}

/// What [`prune`] did, or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pruned {
    /// Runs removed, oldest first, with their bytes.
    pub removed: Vec<(String, u64)>,
    /// Runs that are old enough and were left, with the reason.
    pub left: Vec<(String, String)>,
}

/// Removes complete runs that are older than the newest `keep` that passed their gates.
///
/// A run is renamed before it is deleted, so a prune that is killed leaves no half run, and the next one deletes
/// what it left. The run that `latest` names and those at work are left, and so is whatever is not a complete run.
///
/// # Errors
/// A folder that cannot be listed, or a run that cannot be removed.
pub fn prune(dir: &Path, keep: usize, dry_run: bool) -> Result<Pruned, PipelineError> {
    if dry_run {
        let (mut would, mut left) = (Vec::new(), Vec::new());
        for run in old(&list(dir)?, keep) {
            match if RunLock::is_held(&RunDir::new(dir.join(&run.name))) { Some(IN_USE) } else { kept(run) } {
                Some(reason) => left.push((run.name.clone(), reason.to_string())),
                None => would.push((run.name.clone(), size(&dir.join(&run.name)))),
            }
        }
        return Ok(Pruned { removed: would, left });
    }
    sweep(dir)?;
    let (mut hidden, mut left) = (Vec::new(), Vec::new());
    {
        let _no_other_is_published = RunLock::of_latest(dir, "prune", &Cancel::default())?;
        for run in old(&list(dir)?, keep) {
            match hide(dir, &run.name)? {
                Ok(path) => hidden.push((run.name.clone(), path)),
                Err(reason) => left.push((run.name.clone(), reason)),
            }
        }
    }
    // To delete takes long, and keeps nobody from publishing.
    let removed = hidden.into_iter().map(|(name, path)| {
        let bytes = size(&path);
        remove_folder(&path)?;
        Ok((name, bytes))
    });
    Ok(Pruned { removed: removed.collect::<Result<_, PipelineError>>()?, left })
}

/// Complete runs older than the newest `keep` that passed their gates.
fn old(runs: &[RunInfo], keep: usize) -> impl Iterator<Item = &RunInfo> {
    let mut good = runs.iter().enumerate().rev().filter(|(_, run)| run.passed());
    let oldest_kept = good.nth(keep.max(1) - 1).map_or(0, |(at, _)| at);
    runs[..oldest_kept].iter().filter(|run| run.complete)
}

/// Why an old run is not removed, if it is not.
fn kept(run: &RunInfo) -> Option<&'static str> {
    match run {
        RunInfo { latest: true, .. } => Some("`latest` names it"),
        RunInfo { complete: false, .. } => Some("it is not complete any more"),
        _ => None,
    }
}

/// Takes a run out of sight in one step, and returns where it is then; or why it stays.
fn hide(dir: &Path, name: &str) -> Result<Result<PathBuf, String>, PipelineError> {
    let run = RunDir::new(dir.join(name));
    let _alone = match RunLock::take(&run, Access::Sole) {
        Ok(lock) => lock,
        Err(PipelineError::InUse { .. }) => return Ok(Err(IN_USE.to_string())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    // Since it was listed it may have been begun again.
    if let Some(reason) = kept(&look_at(&run, latest_of(dir).as_deref() == Some(name))) {
        return Ok(Err(reason.to_string()));
    }
    let hidden = dir.join(format!("{REMOVED}{name}"));
    fs::rename(run.root(), &hidden).map_err(PipelineError::io("rename", run.root()))?;
    Ok(Ok(hidden))
}

/// Deletes what a prune that was killed left.
fn sweep(dir: &Path) -> Result<(), PipelineError> {
    let entries = fs::read_dir(dir).map_err(PipelineError::io("list", dir))?;
    let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(REMOVED));
    let folders = left.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).try_for_each(|path| Ok(remove_folder(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_hidden_only_if_it_is_still_complete_not_published_and_not_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path().join("a"));
        fs::create_dir(run.root()).unwrap();
        let refused = |why: &str| {
            let reason = hide(dir.path(), "a").unwrap().unwrap_err();
            assert!(reason.contains(why), "{reason}");
            assert!(run.root().is_dir());
        };
        refused("not complete");
        std::os::unix::fs::symlink("a", dir.path().join(LATEST)).unwrap();
        refused("`latest` names it");
        let _worked_on = RunLock::take(&run, Access::Shared).unwrap();
        refused("in use");
    }

    #[test]
    fn only_a_folder_without_a_manifest_is_no_run() {
        let dir = tempfile::tempdir().unwrap();
        for (name, manifest) in [("damaged", Some("{")), ("notes", None)] {
            let run = RunDir::new(dir.path().join(name));
            fs::create_dir_all(run.encoders()).unwrap();
            if let Some(text) = manifest {
                fs::write(run.encoders().join(encode::files::MANIFEST), text).unwrap();
            }
        }
        fs::create_dir(dir.path().join("lost")).unwrap();
        fs::write(dir.path().join("lost/encoders"), "a file").unwrap();
        let runs = list(dir.path()).unwrap();
        assert_eq!(runs.iter().map(|run| (&run.name[..], run.complete)).collect::<Vec<_>>(), [("damaged", false)]);
    }
}
