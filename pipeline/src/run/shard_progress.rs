//! What a shard at work leaves in the run's folder for others to see: `RUN/.progress/STAGE-i-of-n.json`.
//!
//! It is written with the first batch, every few seconds after that, and removed at the end. A shard that failed at work, or
//! for a reason outside of its inputs, leaves why; one that was refused before its first row leaves nothing, as a refused
//! command changes no run. No result and no key depends on it, and that it cannot be written is no error.

use crate::error::PipelineError;
use crate::run::dir::RunDir;
use crate::run::lock::host;
use crate::run::stage::Stage;
use crate::stream::part_folder::file_name;
use crate::stream::shard::Shard;
use crate::watch::clock;
use crate::watch::stall::kernel;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use twotower_artifacts::Category;
use twotower_artifacts::json::read_json;

/// The folder, in the run's.
pub(crate) const FOLDER: &str = ".progress";
/// How often it is written.
const EVERY: Duration = Duration::from_secs(3);
/// After how long without a word a shard on another machine counts as lost, in seconds.
const SILENT: u64 = 120;
/// The longest error that is kept, in characters.
const ERROR_CHARS: usize = 2000;

/// How a shard that is not complete is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// At work.
    Running,
    /// Ended by an error.
    Failed,
    /// It was at work, and its process is gone or has long been silent.
    Lost,
}

/// What a shard has last said of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Its stage.
    pub work: Stage,
    /// Its number, from 0.
    pub shard: u32,
    /// How many there are.
    pub shards: u32,
    /// How it is.
    pub state: ShardState,
    /// Rows of its range of the table that are done.
    pub rows_done: u64,
    /// Rows of its range; 0 where it failed before it knew.
    pub rows: u64,
    /// Rows of the whole table; 0 where it failed before it knew.
    pub table_rows: u64,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When it last said something, in seconds since 1970.
    pub updated: u64,
    /// Rows a second since it began.
    pub rows_per_second: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ShardRecord {
    fn new(stage: Stage, shard: Shard) -> Self {
        Self {
            work: stage,
            shard: shard.index,
            shards: shard.count,
            state: ShardState::Running,
            rows_done: 0,
            rows: 0,
            table_rows: 0,
            host: host(),
            pid: std::process::id(),
            started: clock::now(),
            updated: clock::now(),
            rows_per_second: 0.0,
            error: None,
        }
    }

    /// The same, lost where there is no sign of life.
    fn seen(mut self, now: u64) -> Self {
        let is_gone = match self.host == host() {
            true => kernel::state(self.pid).is_none(),
            false => self.updated + SILENT < now,
        };
        if self.state == ShardState::Running && is_gone {
            self.state = ShardState::Lost;
        }
        self
    }

    /// Writes it, if that is possible.
    fn write(&self, path: &Path) {
        let Some(folder) = path.parent() else { return };
        // A link in its place is nothing of ours.
        if folder.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            return;
        }
        let written = std::fs::create_dir(folder).or_else(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(e),
        });
        let Ok(text) = serde_json::to_vec(self) else { return };
        if written.is_err() {
            return;
        }
        // One process at a time does a shard. What a killed one has left is replaced, and a link is not followed.
        let temp = temp_of(path);
        let _ = std::fs::remove_file(&temp);
        let create = || std::fs::OpenOptions::new().write(true).create_new(true).open(&temp);
        // Not synced: after a crash of the machine nobody is at work.
        if create().and_then(|mut file| file.write_all(&text)).and_then(|()| std::fs::rename(&temp, path)).is_err() {
            let _ = std::fs::remove_file(&temp);
        }
    }
}

/// Where a record is written before it has its name.
fn temp_of(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

fn path_of(run: &RunDir, stage: Stage, shard: Shard) -> PathBuf {
    run.root().join(FOLDER).join(format!("{}-{}.json", stage.name(), shard.label()))
}

/// Removes a record, what a killed process has left of one, and the folder after the last one.
fn remove(path: &Path) {
    let files = [path.to_path_buf(), temp_of(path)];
    let removed = files.iter().filter(|file| file.exists() && std::fs::remove_file(file).is_ok()).count();
    if removed > 0 {
        let _ = path.parent().map(std::fs::remove_dir);
    }
}

/// A shard at work.
pub(crate) struct ShardProgress {
    path: PathBuf,
    record: ShardRecord,
    begun: Instant,
    written: Option<Instant>,
}

impl ShardProgress {
    /// Begins with the rows of a table of `table_rows` rows that are the shard's.
    pub(crate) fn begin(run: &RunDir, stage: Stage, shard: Shard, rows: &Range<u64>, table_rows: u64) -> Self {
        let record = ShardRecord { rows: rows.end - rows.start, table_rows, ..ShardRecord::new(stage, shard) };
        Self { path: path_of(run, stage, shard), record, begun: Instant::now(), written: None }
    }

    /// Advances by `rows` rows.
    pub(crate) fn advance(&mut self, rows: u64) {
        self.record.rows_done += rows;
        if self.written.is_none_or(|written| written.elapsed() >= EVERY) {
            self.written = Some(Instant::now());
            self.record.updated = clock::now();
            self.record.rows_per_second = self.record.rows_done as f64 / self.begun.elapsed().as_secs_f64().max(1e-3);
            self.record.write(&self.path);
        }
    }
}

/// Does the work of a shard: if it fails, it leaves why ([`record_failure`]), and otherwise nothing. A signal is no failure.
pub(crate) fn recorded<T>(
    run: &RunDir,
    stage: Stage,
    shard: Shard,
    work: impl FnOnce() -> Result<T, PipelineError>,
) -> Result<T, PipelineError> {
    let done = work();
    match &done {
        Ok(_) | Err(PipelineError::Interrupted { .. }) => {
            remove(&path_of(run, stage, shard));
            // Of another number of shards.
            for (path, record) in files(run) {
                if record.work == stage && record.shards != shard.count {
                    remove(&path);
                }
            }
        }
        Err(error) => record_failure(run, stage, shard, error),
    }
    done
}

/// Leaves why a shard failed, unless it was refused before its first row.
pub(crate) fn record_failure(run: &RunDir, stage: Stage, shard: Shard, error: &PipelineError) {
    let path = path_of(run, stage, shard);
    let was_at_work = || read_json::<ShardRecord>(&path).is_ok_and(|record| record.pid == std::process::id());
    if run.root().is_dir() && (error.category() == Category::Other || was_at_work()) {
        let text: String = error.to_string().chars().take(ERROR_CHARS).collect();
        let failed = ShardRecord { state: ShardState::Failed, error: Some(text), ..ShardRecord::new(stage, shard) };
        failed.write(&path);
    }
}

fn files(run: &RunDir) -> Vec<(PathBuf, ShardRecord)> {
    let entries = std::fs::read_dir(run.root().join(FOLDER)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| file_name(path).ends_with(".json") && !file_name(path).starts_with('.'));
    paths.sort();
    // One that is replaced or removed meanwhile, or is nothing of ours, is passed over.
    paths.into_iter().filter_map(|path| read_json(&path).ok().map(|record| (path, record))).collect()
}

/// What the shards of a run that are not complete have last said, at the time `now`.
pub(crate) fn records(run: &RunDir, now: u64) -> Vec<ShardRecord> {
    files(run).into_iter().map(|(_, record)| record.seen(now)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_seen_while_it_works_and_leaves_nothing_but_why_it_failed() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path());
        let shard = Shard { index: 3, count: 8 };
        let states = || records(&run, clock::now()).into_iter().map(|r| (r.shard, r.state)).collect::<Vec<_>>();
        let work = |fails: bool| {
            let mut progress = ShardProgress::begin(&run, Stage::Recall, shard, &(300..400), 800);
            progress.advance(40);
            assert_eq!(states(), [(3, ShardState::Running)]);
            let record = records(&run, clock::now()).remove(0);
            assert_eq!((record.rows_done, record.rows, record.table_rows), (40, 100, 800));
            if fails { Err(PipelineError::Data("no such row".into())) } else { Ok(()) }
        };
        let refused = || Err::<(), _>(PipelineError::Data("no such row".into()));
        recorded(&run, Stage::Recall, shard, refused).unwrap_err();
        assert_eq!(std::fs::read_dir(run.root()).unwrap().count(), 0, "a refused shard leaves something");
        recorded(&run, Stage::Recall, shard, || work(true)).unwrap_err();
        assert_eq!(states(), [(3, ShardState::Failed)]);
        assert_eq!(records(&run, 0)[0].error.as_deref(), Some("no such row"));
        // Another stage's is left alone; what another number of shards has left is not.
        let other = ShardRecord { state: ShardState::Failed, ..ShardRecord::new(Stage::InferUsers, shard) };
        other.write(&path_of(&run, Stage::InferUsers, shard));
        recorded(&run, Stage::Recall, Shard::WHOLE, || Ok(())).unwrap();
        assert_eq!(records(&run, 0).len(), 1);
        recorded(&run, Stage::InferUsers, shard, || Ok(())).unwrap();
        assert_eq!(std::fs::read_dir(run.root()).unwrap().count(), 0, "the folder stays");
    }

    #[test]
    fn a_process_that_is_gone_or_silent_for_long_is_lost() {
        let record = ShardRecord { updated: 1000, ..ShardRecord::new(Stage::Recall, Shard::WHOLE) };
        let state = |record: &ShardRecord, now| record.clone().seen(now).state;
        assert_eq!(state(&record, 1_000_000), ShardState::Running, "it is here, and its process is this one");
        // No process has this number: it is above the largest there can be.
        assert_eq!(state(&ShardRecord { pid: 4_194_305, ..record.clone() }, 1000), ShardState::Lost);
        let elsewhere = ShardRecord { host: "elsewhere".into(), ..record };
        assert_eq!(state(&elsewhere, 1100), ShardState::Running);
        assert_eq!(state(&elsewhere, 1200), ShardState::Lost);
    }

    #[test]
    fn a_link_in_the_place_of_the_folder_is_not_followed() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(other.path(), dir.path().join(FOLDER)).unwrap();
        let run = RunDir::new(dir.path());
        ShardRecord::new(Stage::Recall, Shard::WHOLE).write(&path_of(&run, Stage::Recall, Shard::WHOLE));
        assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
    }
}
