//! The lists of a run into a database that others read from.
//!
//! Parts are verified, read and written one after the other, in batches, so memory does not grow with users. A server that
//! goes away is waited for: the export connects again, asks which parts are there, and goes on with the others.

use crate::error::PipelineError;
use crate::run::details::{INNER_PRODUCT_SCALE, RecallDetails};
use crate::run::dir::RunDir;
use crate::run::list::require_passed;
use crate::run::lock::{Access, RunLock};
use crate::run::manifests::{details, settings, verify_file};
use crate::run::names::rows;
use crate::run::records::RecallRecord;
use crate::stream::part_folder::Part;
use crate::stream::parts::{complete_set, parts_fingerprint};
use crate::watch::cancel::Cancel;
use crate::watch::progress::{Bar, Progress};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use twotower_artifacts::neighbours_file::read_lists;
use twotower_artifacts::{Fingerprint, NeighbourFormat};
use twotower_sinks::{Begun, Night, Settings, Sink, SinkError, Target};

/// The command, as errors name it.
const EXPORT: &str = "export-results";
/// Users that are read at once.
const BATCH_USERS: usize = 512;
/// The first wait for a server that went away, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(20));
/// How often a wait looks for signals.
const LOOK: Duration = Duration::from_millis(50);

/// How a run is exported.
#[derive(Debug)]
pub struct ExportOptions {
    /// Where to.
    pub to: Target,
    /// Under which names, and what becomes of earlier exports.
    pub settings: Settings,
    /// Also a run that is not complete but for its lists, or did not pass its gates.
    pub force: bool,
    /// The most users a second.
    pub max_rows_per_second: Option<u64>,
    /// How long a server may be away.
    pub patience: Duration,
}

/// What an export did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exported {
    /// The run's name.
    pub run: String,
    /// The server, without a password.
    pub to: String,
    /// What the names of keys or tables begin with.
    pub name: String,
    /// The generation that readers read now.
    pub generation: u64,
    /// Whether they read it before, so that nothing was written.
    pub skipped: bool,
    /// Parts of the run.
    pub parts: u32,
    /// Parts that this export wrote.
    pub parts_written: u32,
    /// Users of the run.
    pub users: u64,
    /// Pairs of a user and an item.
    pub pairs: u64,
    /// Generations that were removed.
    pub removed: Vec<u64>,
    /// How often the server was away.
    pub retries: u32,
    /// How long it took.
    pub seconds: f64,
}

/// The lists of a run, as its manifests describe them.
struct Lists {
    parts: Vec<Part>,
    night: Night,
}

impl Lists {
    fn of(run: &RunDir, force: bool) -> Result<Self, PipelineError> {
        let parts = complete_set(EXPORT, &run.recall(), "twotower recall");
        let parts = parts.map_err(PipelineError::incomplete_if_missing)?;
        if !force {
            require_passed(EXPORT, run)?;
        }
        let first = &parts[0].manifest;
        let record: RecallRecord = settings(EXPORT, first)?;
        if record.recall.format != NeighbourFormat::Parquet {
            return Err(PipelineError::usage(format!(
                "{EXPORT}: the lists of {} are not `recall.format = \"parquet\"`, the one form that is exported; run `twotower recall --format parquet`, then `twotower publish`",
                run.root().display()
            )));
        }
        let searched: RecallDetails = details(EXPORT, first)?;
        let sum = |name: &str| parts.iter().filter_map(|part| part.manifest.rows.get(name)).sum();
        // A scale changes what is written, but no part.
        let scale = searched.inner_product_scale;
        let told = format!("{} {INNER_PRODUCT_SCALE} {scale:?}", parts_fingerprint(parts.iter().map(|p| &p.manifest)));
        let (users, items) = ids(&parts)?;
        let night = Night {
            run: run.root().canonicalize().ok().map_or_else(|| run.name(), |path| RunDir::new(path).name()),
            fingerprint: Fingerprint::of(told.as_bytes()).to_string(),
            parts: parts.len() as u32,
            users: sum(rows::USERS),
            pairs: sum(rows::PAIRS),
            user_ids: users,
            item_ids: items,
            inner_product_scale: scale,
            made_by: format!("twotower {}", env!("CARGO_PKG_VERSION")),
        };
        Ok(Self { parts, night })
    }

    fn users_of(&self, part: u32) -> u64 {
        self.parts[part as usize].manifest.rows.get(rows::USERS).copied().unwrap_or(0)
    }
}

fn path_of(part: &Part) -> Result<PathBuf, PipelineError> {
    part.files().next().ok_or_else(|| {
        PipelineError::Mismatch(format!(
            "{EXPORT}: {} lists no file; run `twotower recall --force`",
            part.path.display()
        ))
    })
}

/// The kinds of the ids of users and of items.
fn ids(parts: &[Part]) -> Result<(twotower_artifacts::IdKind, twotower_artifacts::IdKind), PipelineError> {
    let info = twotower_artifacts::neighbours_file::lists_info(path_of(&parts[0])?)?;
    Ok((info.users, info.items))
}

/// Writes the lists of a run into a database, and points its readers at them.
///
/// # Errors
/// A run that is not to be exported, is in use, or changes meanwhile; damaged lists; a server that stays away, or refuses
/// what is written. Readers then see what they saw; the same command goes on from the last complete part.
pub fn export(
    run: &RunDir,
    options: &ExportOptions,
    progress: Progress,
    cancel: &Cancel,
) -> Result<Exported, PipelineError> {
    let started = Instant::now();
    let _lock = RunLock::take(run, Access::Shared)?;
    let _step = cancel.watch().step(EXPORT);
    let lists = Lists::of(run, options.force)?;
    let sink = options.to.open(lists.night.clone(), options.settings.clone())?;
    let mut export = Export {
        run,
        options,
        cancel,
        bar: progress.bar("export-results", lists.night.users, "users"),
        lists,
        sink,
        pace: Pace::new(options.max_rows_per_second),
        verified: BTreeSet::new(),
        written: BTreeSet::new(),
    };
    let (mut waiting, mut retries) = (Waiting::default(), 0);
    let ended = loop {
        let begun = Instant::now();
        let error = match export.attempt(&mut waiting) {
            Err(PipelineError::Sink(error)) if error.passes() && waiting.is_worth_it(options.patience, begun) => error,
            Err(PipelineError::Sink(SinkError::Stopped)) => {
                break Err(cancel.check(EXPORT).err().unwrap_or_else(|| SinkError::Stopped.into()));
            }
            ended => break ended,
        };
        retries += 1;
        tracing::warn!("{EXPORT}: {error}; trying again");
        if let Err(stopped) = waiting.wait(cancel) {
            break Err(stopped);
        }
    };
    export.sink.end();
    let (generation, skipped, removed) = ended?;
    let Night { run, parts, users, pairs, .. } = export.lists.night;
    Ok(Exported {
        run,
        to: options.to.server(),
        name: options.settings.name.clone(),
        generation,
        skipped,
        parts,
        parts_written: export.written.len() as u32,
        users,
        pairs,
        removed,
        retries,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// An export under way.
struct Export<'a> {
    run: &'a RunDir,
    options: &'a ExportOptions,
    cancel: &'a Cancel,
    bar: Bar,
    lists: Lists,
    sink: Box<dyn Sink>,
    pace: Pace,
    /// Parts that are what their manifests say.
    verified: BTreeSet<u32>,
    /// Parts that were written.
    written: BTreeSet<u32>,
}

impl Export<'_> {
    /// All that is left to do; returns the generation, whether readers had it before, and what was removed.
    fn attempt(&mut self, waiting: &mut Waiting) -> Result<(u64, bool, Vec<u64>), PipelineError> {
        self.sink.connect()?;
        let (generation, mut done) = match self.sink.begin()? {
            Begun::Current { generation } => {
                let removed = self.remove_old()?;
                return Ok((generation, self.written.is_empty(), removed));
            }
            Begun::Due { generation, done } => (generation, done),
        };
        // What an export that was given up has left takes room that this one may need.
        let mut removed = self.remove_old()?;
        let mut at: u64 = done.iter().map(|part| self.lists.users_of(*part)).sum();
        self.bar.set(at);
        for part in 0..self.lists.night.parts {
            if done.contains(&part) {
                continue;
            }
            at += self.write_part(part, at)?;
            done.insert(part);
            self.written.insert(part);
            waiting.reset();
        }
        // Hours may have passed, in which the run changed.
        let now = Lists::of(self.run, self.options.force)?;
        if now.night != self.lists.night {
            return Err(PipelineError::Mismatch(format!(
                "{EXPORT}: {} has changed meanwhile; readers still have what they had; give the same command again",
                self.run.root().display()
            )));
        }
        let cancel = self.cancel;
        self.sink.switch(&mut || !cancel.is_stopped())?;
        removed.extend(self.remove_old()?);
        Ok((generation, false, removed))
    }

    fn remove_old(&mut self) -> Result<Vec<u64>, PipelineError> {
        let cancel = self.cancel;
        Ok(self.sink.remove_old(&mut || !cancel.is_stopped())?)
    }

    /// Writes a part, of which the first user is the one at `first` of the export; returns its users.
    fn write_part(&mut self, number: u32, first: u64) -> Result<u64, PipelineError> {
        let part = &self.lists.parts[number as usize];
        if !self.verified.contains(&number) {
            part.manifest
                .files
                .iter()
                .take(1)
                .try_for_each(|file| verify_file(EXPORT, &part.base, file, self.cancel))?;
            self.verified.insert(number);
        }
        let path = path_of(part)?;
        let mut users = 0;
        self.sink.begin_part(number)?;
        for batch in read_lists(&path, self.pace.batch())? {
            let batch = batch?;
            self.cancel.check(EXPORT)?;
            self.sink.write(&batch)?;
            users += batch.users.len() as u64;
            self.bar.set(first + users);
            self.pace.keep(batch.users.len() as u64, self.cancel)?;
        }
        let expected = self.lists.users_of(number);
        if users != expected {
            return Err(PipelineError::Mismatch(format!(
                "{EXPORT}: {}: {users} users, its manifest says {expected}; run `twotower recall --force`",
                path.display()
            )));
        }
        self.sink.end_part(number, users)?;
        Ok(users)
    }
}

/// Keeps to a number of users a second.
struct Pace {
    most: Option<u64>,
    begun: Instant,
    written: u64,
}

impl Pace {
    fn new(most: Option<u64>) -> Self {
        Self { most, begun: Instant::now(), written: 0 }
    }

    /// Users of a batch: never more than a second's.
    fn batch(&self) -> usize {
        self.most.map_or(BATCH_USERS, |most| (most as usize).clamp(1, BATCH_USERS))
    }

    /// Waits, after `users` more were written, until that many may have been.
    fn keep(&mut self, users: u64, cancel: &Cancel) -> Result<(), PipelineError> {
        let Some(most) = self.most else { return Ok(()) };
        self.written += users;
        let due = self.begun + Duration::from_secs_f64(self.written as f64 / most as f64);
        // Time in which the server was away is not made up for.
        let now = Instant::now();
        if due + Duration::from_secs(1) < now {
            (self.begun, self.written) = (now, 0);
        }
        pause(due, cancel)
    }
}

/// Waits for a server that is away, longer each time.
#[derive(Default)]
struct Waiting {
    /// Since when it has been away, and the next wait.
    away: Option<(Instant, Duration)>,
}

impl Waiting {
    /// Whether to try again, after a try that began at a moment. One that lasted is a beginning of its own.
    fn is_worth_it(&mut self, patience: Duration, tried: Instant) -> bool {
        if tried.elapsed() > patience {
            self.reset();
        }
        self.away.is_none_or(|(since, _)| since.elapsed() < patience) && !patience.is_zero()
    }

    fn reset(&mut self) {
        self.away = None;
    }

    fn wait(&mut self, cancel: &Cancel) -> Result<(), PipelineError> {
        let (first, longest) = WAITS;
        let (_, wait) = self.away.get_or_insert((Instant::now(), first));
        // Many exports that lost one server do not come back at one moment.
        let share = 0.5 + f64::from(std::process::id() % 1000) / 2000.0;
        let until = Instant::now() + wait.mul_f64(share);
        *wait = (*wait * 2).min(longest);
        pause(until, cancel)
    }
}

/// Sleeps until a moment, or a signal.
fn pause(until: Instant, cancel: &Cancel) -> Result<(), PipelineError> {
    loop {
        cancel.check(EXPORT)?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_and_a_pause_of_the_server_is_not_made_up_for() {
        let cancel = Cancel::default();
        let mut pace = Pace::new(Some(1000));
        assert_eq!((pace.batch(), Pace::new(None).batch(), Pace::new(Some(7)).batch()), (512, 512, 7));
        let begun = Instant::now();
        (0..4).for_each(|_| pace.keep(50, &cancel).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(200));
        pace.begun -= Duration::from_secs(60);
        pace.keep(1, &cancel).unwrap();
        let begun = Instant::now();
        pace.keep(100, &cancel).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(90));
    }

    #[test]
    fn waiting_ends_after_the_patience_that_was_given_since_the_last_progress() {
        let mut waiting = Waiting::default();
        let worth = |waiting: &mut Waiting, millis| waiting.is_worth_it(Duration::from_millis(millis), Instant::now());
        assert!(!worth(&mut waiting, 0));
        waiting.wait(&Cancel::default()).unwrap();
        assert!(worth(&mut waiting, 60_000) && !worth(&mut waiting, 1));
        assert!(waiting.is_worth_it(Duration::from_millis(1), Instant::now() - Duration::from_secs(1)));
        waiting.wait(&Cancel::default()).unwrap();
        waiting.reset();
        assert!(worth(&mut waiting, 1000));
    }
}
