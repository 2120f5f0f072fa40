//! The runs of a folder: which there are, which one comes before another, going back to one, removing old ones.

use crate::config::Gate;
use crate::error::PipelineError;
use crate::run::contents;
use crate::run::details::CheckDetails;
use crate::run::dir::{LATEST, RunDir};
use crate::run::files;
use crate::run::lock::{Access, RunLock};
use crate::run::manifests::details;
use crate::run::mirror::{self, refresh};
use crate::run::names::rows;
use crate::stages::gates::verdict::{Ruling, Verdict};
use crate::stream::part_folder::Part;
use crate::stream::parts::complete_set;
use crate::watch::cancel::Cancel;
use crate::watch::clock;
use serde::Serialize;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::{Path, PathBuf};
use twotower_artifacts::publish::switch_link;
use twotower_artifacts::{ArtifactError, Manifest, Side};

/// What the name of a run that is being removed begins with.
const REMOVED: &str = ".pruned-";
/// How far the time of a run may lie ahead of the clock, in seconds: machines' clocks differ.
const AHEAD: u64 = 3600;
/// Why a run at work is not pruned.
const IN_USE: &str = "it is in use";

/// What the gates said about a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checked {
    /// All gates that applied passed, or their failure was accepted by the operator.
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
    /// Its folder.
    #[serde(skip)]
    path: PathBuf,
    /// Whether every stage that results need is there, for every shard.
    pub complete: bool,
    /// What the gates said.
    pub gates: Checked,
    /// Whether it was made with `--no-publish`: nothing goes back to it, or on from it, unless it is named.
    pub experiment: bool,
    /// Users in the results.
    pub users: Option<u64>,
    /// Its place among the runs of the folder, in the order in which their gates were asked, whatever the clock said.
    /// Earlier versions did not write it.
    pub sequence: Option<u64>,
    /// When the gates were asked, or else when the results were finished: seconds since 1970.
    pub at: Option<u64>,
    /// Whether `latest` names it.
    pub latest: bool,
}

impl RunInfo {
    /// Whether it is complete, passed its gates, and is no experiment.
    fn passed(&self) -> bool {
        self.complete && !self.experiment && matches!(self.gates, Checked::Passed { .. })
    }

    /// When it was made, unless by a clock that was ahead of the one there is `now`.
    fn time(&self, now: u64) -> Option<u64> {
        self.at.filter(|at| *at <= now.saturating_add(AHEAD))
    }
}

/// Refuses a folder of runs that is not there.
fn require_runs(dir: &Path) -> Result<(), PipelineError> {
    if dir.exists() {
        return Ok(());
    }
    Err(PipelineError::MissingInput {
        stage: "runs",
        path: dir.to_path_buf(),
        advice: format!(
            "name the folder that holds the runs; `twotower run --run {}` makes one there",
            dir.join("NAME").display()
        ),
    })
}

/// The runs of `dir`, oldest first. A folder is a run when `encode-features` left its manifest there.
///
/// # Errors
/// A folder that cannot be listed. Damaged manifests make a run incomplete.
pub fn list(dir: &Path) -> Result<Vec<RunInfo>, PipelineError> {
    require_runs(dir)?;
    refresh(dir)?;
    let latest = latest_of(dir);
    let mut runs = Vec::new();
    for entry in fs::read_dir(dir).map_err(PipelineError::io("list", dir))? {
        let entry = entry.map_err(PipelineError::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let run = RunDir::new(entry.path());
        if name.starts_with('.') || !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !is_run(&run) {
            continue;
        }
        runs.push(look_at(&run, latest.as_deref() == Some(&*entry.file_name())));
    }
    sort(&mut runs, clock::now());
    Ok(runs)
}

/// Sorts runs, oldest first, by their sequence. A run without a sequence is placed by its time; one whose time lies
/// ahead of `now` comes first.
fn sort(runs: &mut [RunInfo], now: u64) {
    let timed: Vec<(u64, u64)> = runs.iter().filter_map(|run| Some((run.time(now)?, run.sequence?))).collect();
    let key = |run: &RunInfo| {
        let before = |at: u64| timed.iter().filter(|(time, _)| *time <= at).map(|(_, sequence)| *sequence).max();
        let time = run.time(now);
        (run.sequence.or_else(|| before(time?)), run.sequence.is_none(), time, run.name.clone())
    };
    runs.sort_by_key(key);
}

/// The sequence of a run whose gates are asked now: one more than the largest sequence of the other runs beside it.
pub(crate) fn next_sequence(run: &RunDir) -> u64 {
    let beside = run.latest().and_then(|link| {
        let dir = link.parent()?;
        // Where that fails, those that are known count.
        refresh(dir).inspect_err(|error| tracing::warn!("check: {error}")).ok();
        fs::read_dir(dir).ok()
    });
    let is_own = |name: OsString| name.to_string_lossy() == run.name();
    let others = beside.into_iter().flatten().flatten().filter(|entry| !is_own(entry.file_name()));
    let sequences = others.filter_map(|entry| gates_of(&RunDir::new(entry.path()))?.sequence);
    sequences.max().unwrap_or(0).saturating_add(1)
}

/// What the gates of a run have recorded; none where they were not asked since the run last changed.
fn gates_of(run: &RunDir) -> Option<CheckDetails> {
    let manifest = Manifest::read(run.gates().join(files::gates::MANIFEST)).ok()?;
    Some(details("runs", &manifest).unwrap_or_default())
}

fn is_run(run: &RunDir) -> bool {
    let manifest = Manifest::read(run.encoders().join(files::encoders::MANIFEST));
    match manifest {
        Ok(manifest) => manifest.stage == "encode-features",
        Err(ArtifactError::Io { source, .. }) => !matches!(source.kind(), NotFound | NotADirectory),
        Err(_) => true,
    }
}

fn look_at(run: &RunDir, latest: bool) -> RunInfo {
    let encoders = Manifest::read(run.encoders().join(files::encoders::MANIFEST));
    let recalled = complete_set("runs", &run.recall(), "twotower recall");
    let items = complete_set("runs", &run.vectors(Side::Item), "twotower infer --side item");
    let towers = Manifest::read(run.towers().join(files::towers::MANIFEST));
    let gates = gates_of(run);
    let finished = || {
        let files = recalled.as_ref().ok()?.iter().flat_map(Part::files);
        let times = files.filter_map(|path| fs::metadata(path).ok()?.modified().ok());
        times.max().map(clock::seconds)
    };
    RunInfo {
        name: run.name(),
        path: run.root().to_path_buf(),
        sequence: gates.as_ref().and_then(|gates| gates.sequence),
        complete: encoders.is_ok() && recalled.is_ok() && items.is_ok() && towers.is_ok(),
        gates: gates.as_ref().and_then(|gates| gates.gates.as_deref()).map_or(Checked::No, checked),
        experiment: gates.as_ref().is_some_and(|gates| gates.experiment),
        users: recalled
            .as_ref()
            .ok()
            .map(|parts| parts.iter().filter_map(|part| part.manifest.rows.get(rows::USERS)).sum()),
        at: gates.as_ref().and_then(|gates| gates.checked_at).or_else(finished),
        latest,
    }
}

fn checked(verdicts: &[Verdict]) -> Checked {
    if verdicts.is_empty() {
        return Checked::No;
    }
    let of = |ruling: Ruling| verdicts.iter().filter(|v| v.ruling == ruling).map(|v| v.gate).collect::<Vec<_>>();
    match of(Ruling::Failed) {
        failed if failed.is_empty() => Checked::Passed { accepted: of(Ruling::Accepted) },
        gates => Checked::Failed { gates },
    }
}

/// Name of the run that `latest` names, if that is a folder beside it.
fn latest_of(dir: &Path) -> Option<OsString> {
    let target = dir.join(LATEST).canonicalize().ok()?;
    let inside = target.parent() == dir.canonicalize().ok().as_deref();
    inside.then(|| target.file_name().map(OsString::from))?
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
pub(crate) fn previous_of(run: &RunDir) -> Result<Option<RunDir>, PipelineError> {
    let Some(dir) = run.latest().and_then(|link| Some(link.parent()?.to_path_buf())) else { return Ok(None) };
    refresh(&dir)?;
    let own = |path: &Path| RunDir::new(path).name() == run.name();
    let named = latest_of(&dir).map(|name| dir.join(name)).filter(|path| !own(path));
    let newest = || Ok(list(&dir)?.into_iter().rev().find(|r| r.passed() && !own(&r.path)).map(|r| r.path));
    Ok(named.map_or_else(newest, |path| Ok::<_, PipelineError>(Some(path)))?.map(RunDir::new))
}

/// The run that `run` is to go on from: the newest other one that passed its gates, of those before `run` where its own
/// gates were asked already, so that the same date done again starts where it started.
///
/// # Errors
/// As [`list`]; none where the folder of the runs is not there yet.
pub fn predecessor_of(run: &RunDir) -> Result<Option<RunDir>, PipelineError> {
    let Some(dir) = run.latest().and_then(|link| Some(link.parent()?.to_path_buf())) else { return Ok(None) };
    if !dir.is_dir() {
        return Ok(None);
    }
    let own = |path: &Path| RunDir::new(path).name() == run.name();
    let runs = list(&dir)?;
    match runs.iter().position(|r| own(&r.path) && r.sequence.is_some()) {
        Some(at) => Ok(runs[..at].iter().rev().find(|r| r.passed()).map(|r| RunDir::new(&r.path))),
        None => {
            let previous = previous_of(run)?;
            let name = previous.as_ref().map(RunDir::name);
            let passed = runs.iter().any(|r| Some(&r.name) == name.as_ref() && r.passed());
            Ok(previous.filter(|_| passed))
        }
    }
}

/// What [`rollback`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rollback {
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
pub fn rollback(dir: &Path, to: Option<&str>) -> Result<Rollback, PipelineError> {
    require_runs(dir)?;
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
    let run = RunDir::new(&to.path);
    let _still = RunLock::take(&run, Access::Still)?;
    check_publishable(dir, &look_at(&run, false))?;
    switch_link(dir.join(LATEST), to.path.file_name().unwrap_or_default())?;
    Ok(Rollback { from: now.map(|now| runs[now].name.clone()), to: to.name.clone() })
}

/// Why a run is not one that passed its gates; nothing where it is.
fn refusal(run: &RunInfo) -> Option<String> {
    match (&run.gates, run.complete) {
        (_, false) => Some("is not complete".to_string()),
        (Checked::Passed { .. }, true) => None,
        (Checked::No, true) => Some("was not checked since it last changed".to_string()),
        (Checked::Failed { gates }, true) => {
            let names: Vec<&str> = gates.iter().map(|gate| gate.name()).collect();
            Some(format!("was refused by the gates {}", names.join(", ")))
        }
    }
}

fn check_publishable(dir: &Path, run: &RunInfo) -> Result<(), PipelineError> {
    let Some(why) = refusal(run) else { return Ok(()) };
    let path = dir.join(&run.name);
    Err(PipelineError::Mismatch(format!(
        "rollback: {} {why}; `latest` stays as it is; `twotower publish --run {}` checks it",
        path.display(),
        path.display()
    )))
}

/// Refuses a run that is not to leave its folder: one that is not complete or did not pass its gates, or that was made with
/// `--no-publish`.
///
/// # Errors
/// [`PipelineError::Mismatch`] with the reason and the next step.
pub(crate) fn require_passed(command: &str, run: &RunDir) -> Result<(), PipelineError> {
    let info = look_at(run, false);
    let experiment = info.experiment.then(|| "was made with --no-publish".to_string());
    let Some(why) = refusal(&info).or(experiment) else { return Ok(()) };
    let path = run.root().display();
    Err(PipelineError::Mismatch(format!(
        "{command}: {path} {why}; `twotower publish --run {path}` asks its gates, or give --force to take its lists as they are"
    )))
}

/// What [`prune`] did, or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PruneReport {
    /// Runs removed, oldest first, with their bytes.
    pub removed: Vec<(String, u64)>,
    /// Runs that are old enough and were left, with the reason.
    pub left: Vec<(String, String)>,
}

/// Removes complete runs that are older than the newest `keep` that passed their gates.
///
/// A run is renamed before it is deleted, so a prune that is killed leaves no half run, and the next one deletes what
/// it left. The run that `latest` names and those at work are left, and so is whatever is not a complete run, holds a
/// file that no stage made, or is not surely older than those kept.
///
/// # Errors
/// A folder that cannot be listed, or a run that cannot be removed.
pub fn prune(dir: &Path, keep: usize, dry_run: bool) -> Result<PruneReport, PipelineError> {
    require_runs(dir)?;
    if dry_run {
        let (mut would, mut left) = (Vec::new(), Vec::new());
        for old in old(&list(dir)?, keep, clock::now()) {
            let (run, doubt) = old;
            let held = RunLock::is_held(&RunDir::new(&run.path)).then(|| IN_USE.to_string());
            match doubt.or(held).map_or_else(|| kept(run), |reason| Ok(Some(reason)))? {
                Some(reason) => left.push((run.name.clone(), reason)),
                None => would.push((run.name.clone(), size(&run.path))),
            }
        }
        return Ok(PruneReport { removed: would, left });
    }
    let store = mirror::of(dir);
    if let Some(store) = &store {
        refresh(dir)?;
        // What a prune that was killed left there.
        store.hidden().iter().try_for_each(|run| store.delete(run))?;
        let aborted = store.abort_leftovers()?;
        if aborted > 0 {
            tracing::info!("prune: {aborted} uploads aborted that were begun more than a day ago and never ended");
        }
    }
    let mut left = sweep(dir)?;
    let mut hidden = Vec::new();
    {
        let _no_other_is_published = RunLock::of_latest(dir, "prune", &Cancel::default())?;
        for (run, doubt) in old(&list(dir)?, keep, clock::now()) {
            match doubt.map_or_else(|| hide(dir, &run.path), |reason| Ok(Err(reason)))? {
                Ok(path) => hidden.push((run.name.clone(), path)),
                Err(reason) => left.push((run.name.clone(), reason)),
            }
        }
    }
    // To delete takes long, and keeps nobody from publishing.
    let removed = hidden.into_iter().map(|(name, path)| {
        let bytes = size(&path);
        contents::remove(&RunDir::new(&path))?;
        store.as_ref().map_or(Ok(()), |store| store.delete(&name))?;
        Ok((name, bytes))
    });
    Ok(PruneReport { removed: removed.collect::<Result<_, PipelineError>>()?, left })
}

/// Complete runs before the newest `keep` that passed their gates, each with the reason why it may not be older than
/// all of these, if there is one.
fn old(runs: &[RunInfo], keep: usize, now: u64) -> Vec<(&RunInfo, Option<String>)> {
    let mut good = runs.iter().enumerate().rev().filter(|(_, run)| run.passed());
    let oldest_kept = good.nth(keep.max(1) - 1).map_or(0, |(at, _)| at);
    let (before, kept) = runs.split_at(oldest_kept);
    let newest_kept = kept.iter().filter_map(|run| run.time(now)).max();
    let doubt = |run: &RunInfo| match (run.time(now), run.sequence) {
        (None, None) => Some(
            "it says no sequence, and no time or one that lies ahead of the clock; `twotower publish` gives it both"
                .to_string(),
        ),
        // The sequence is what counts; the clock was wrong.
        (None, Some(_)) => None,
        (Some(time), _) if newest_kept.is_some_and(|newest| time > newest) => {
            Some("its time is later than that of all runs that are kept, though its sequence is not".to_string())
        }
        _ => None,
    };
    before.iter().filter(|run| run.complete).map(|run| (run, doubt(run))).collect()
}

/// Why an old run is not removed, if it is not.
fn kept(run: &RunInfo) -> Result<Option<String>, PipelineError> {
    let stranger = || -> Result<Option<String>, PipelineError> {
        let found = contents::stranger(&RunDir::new(&run.path))?;
        Ok(found.map(|path| format!("no stage made {}; move it away", path.display())))
    };
    match run {
        RunInfo { latest: true, .. } => Ok(Some("`latest` names it".into())),
        RunInfo { complete: false, .. } => Ok(Some("it is not complete any more".into())),
        _ => stranger(),
    }
}

/// Takes a run out of sight in one step, and returns where it is then; or why it stays.
fn hide(dir: &Path, path: &Path) -> Result<Result<PathBuf, String>, PipelineError> {
    let run = RunDir::new(path);
    let _alone = match RunLock::take(&run, Access::Sole) {
        Ok(lock) => lock,
        Err(PipelineError::InUse { .. }) => return Ok(Err(IN_USE.to_string())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let name = path.file_name().unwrap_or_default();
    // Since it was listed it may have been begun again.
    if let Some(reason) = kept(&look_at(&run, latest_of(dir).as_deref() == Some(name)))? {
        return Ok(Err(reason));
    }
    let mut hidden = OsString::from(REMOVED);
    hidden.push(name);
    let hidden = dir.join(hidden);
    if hidden.symlink_metadata().is_ok() {
        return Ok(Err(format!("{} is in the way, where it would be put to be deleted", hidden.display())));
    }
    mirror::of(dir).map_or(Ok(()), |store| store.hide(&name.to_string_lossy()))?;
    fs::rename(run.root(), &hidden).map_err(PipelineError::io("rename", run.root()))?;
    Ok(Ok(hidden))
}

/// Deletes what a prune that was killed left, and returns what only has such a name.
fn sweep(dir: &Path) -> Result<Vec<(String, String)>, PipelineError> {
    let mut left = Vec::new();
    for entry in fs::read_dir(dir).map_err(PipelineError::io("list", dir))?.flatten() {
        let (name, run) = (entry.file_name().to_string_lossy().into_owned(), RunDir::new(entry.path()));
        if !name.starts_with(REMOVED) || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match contents::stranger(&run)? {
            // Its last files went with the manifest that said that it is a run.
            None => contents::remove(&run)?,
            Some(path) => left.push((name, format!("no stage made {}; move it away", path.display()))),
        }
    }
    Ok(left)
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
            let reason = hide(dir.path(), run.root()).unwrap().unwrap_err();
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
                fs::write(run.encoders().join(files::encoders::MANIFEST), text).unwrap();
            }
        }
        fs::create_dir(dir.path().join("lost")).unwrap();
        fs::write(dir.path().join("lost/encoders"), "a file").unwrap();
        let runs = list(dir.path()).unwrap();
        assert_eq!(runs.iter().map(|run| (&run.name[..], run.complete)).collect::<Vec<_>>(), [("damaged", false)]);
    }
}
