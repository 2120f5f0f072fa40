//! The runs of a folder: which there are, which one comes before another, going back to one, removing old ones.

use crate::encode;
use crate::error::PipelineError;
use crate::gates::{self, Gate, Ruling};
use crate::parts::complete_set;
use crate::run_dir::RunDir;
use crate::towers;
use serde::Serialize;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use twotower_artifacts::{Manifest, Side};

/// Name of the link to the published run.
pub const LATEST: &str = "latest";
/// The file that a run at work holds a lock on.
const LOCK: &str = ".lock";
/// What the name of a run that is being removed begins with.
const REMOVED: &str = ".pruned-";

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
    manifest.is_ok_and(|manifest| manifest.stage == "encode-features")
}

fn look_at(run: &RunDir, latest: bool) -> RunInfo {
    let recalled = complete_set("runs", &run.recall(), "twotower recall");
    let items = complete_set("runs", &run.vectors(Side::Item), "twotower infer --side item");
    let towers = Manifest::read(run.towers().join(towers::files::MANIFEST));
    let gates = Manifest::read(run.gates().join(gates::files::MANIFEST)).ok();
    let finished = || {
        let newest = recalled.as_ref().ok()?.iter().flat_map(|part| &part.files);
        let times = newest.filter_map(|file| fs::metadata(run.recall().join(&file.path)).ok()?.modified().ok());
        Some(times.max()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    RunInfo {
        name: run.name(),
        complete: recalled.is_ok() && items.is_ok() && towers.is_ok(),
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
/// [`PipelineError::Mismatch`] when there is none that is complete and passed its gates, saying why not.
pub fn rollback(dir: &Path, to: Option<&str>) -> Result<RolledBack, PipelineError> {
    let _alone = lock(dir)?;
    let runs = list(dir)?;
    let now = runs.iter().position(|run| run.latest);
    let to = match to {
        Some(name) => {
            let found = runs.iter().find(|run| run.name == name);
            let found = found.ok_or_else(|| {
                let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
                PipelineError::usage(format!(
                    "rollback: {} has no run `{name}`; there are: {}",
                    dir.display(),
                    names.join(", ")
                ))
            })?;
            check_publishable(dir, found)?;
            found
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
    twotower_artifacts::publish::switch_link(dir.join(LATEST), &to.name)?;
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
    let _alone = lock(dir)?;
    if !dry_run {
        sweep(dir)?;
    }
    let runs = list(dir)?;
    let mut good = runs.iter().enumerate().rev().filter(|(_, run)| run.passed());
    let oldest_kept = good.nth(keep.max(1) - 1).map_or(0, |(at, _)| at);
    let mut pruned = Pruned::default();
    for run in runs[..oldest_kept].iter().filter(|run| run.complete) {
        if run.latest {
            pruned.left.push((run.name.clone(), "`latest` names it".into()));
            continue;
        }
        let path = dir.join(&run.name);
        let bytes = size(&path);
        match in_use(&path, dry_run) {
            Err(reason) => pruned.left.push((run.name.clone(), reason)),
            Ok(lock) => {
                if !dry_run {
                    remove(dir, &run.name)?;
                }
                pruned.removed.push((run.name.clone(), bytes));
                drop(lock);
            }
        }
    }
    Ok(pruned)
}

/// The lock of a run that nobody works on, or why it cannot be had. A dry run writes nothing, and a run without
/// a lock is not worked on.
fn in_use(run: &Path, dry_run: bool) -> Result<Option<File>, String> {
    let path = run.join(LOCK);
    let file = match OpenOptions::new().create(!dry_run).truncate(false).write(true).open(&path) {
        Err(e) if dry_run && e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|e| format!("open {}: {e}", path.display()))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err("it is in use".to_string()),
        Err(TryLockError::Error(e)) => Err(format!("lock {}: {e}", path.display())),
    }
}

/// Takes a run out of sight in one step, then deletes it.
fn remove(dir: &Path, name: &str) -> Result<(), PipelineError> {
    let path = dir.join(name);
    let hidden = dir.join(format!("{REMOVED}{name}"));
    fs::rename(&path, &hidden).map_err(PipelineError::io("rename", path))?;
    delete(&hidden)
}

/// Deletes what a prune that was killed left.
fn sweep(dir: &Path) -> Result<(), PipelineError> {
    let entries = fs::read_dir(dir).map_err(PipelineError::io("list", dir))?;
    let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(REMOVED));
    left.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).try_for_each(|entry| delete(&entry.path()))
}

fn delete(path: &Path) -> Result<(), PipelineError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(PipelineError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Keeps others from going back or pruning in `dir` meanwhile.
fn lock(dir: &Path) -> Result<File, PipelineError> {
    let folder = File::open(dir).map_err(PipelineError::io("open", dir))?;
    folder.lock().map_err(PipelineError::io("lock", PathBuf::from(dir)))?;
    Ok(folder)
}
