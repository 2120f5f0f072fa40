//! How far a run is, from its folder alone: manifests, and what shards at work leave there.

use crate::run::chain::is_fused;
use crate::run::dir::RunDir;
use crate::run::files;
use crate::run::names::rows;
use crate::run::shard_progress::{ShardRecord, ShardState, records};
use crate::run::stage::Stage;
use crate::stream::part_folder::{Part, PartFolder};
use crate::watch::clock;
use serde::Serialize;
use std::collections::BTreeMap;
use twotower_artifacts::{Manifest, Side};

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WatchedRun {
    /// Its name.
    pub run: String,
    /// When it was looked at, in seconds since 1970.
    pub at: u64,
    /// Its stages in order; `infer-users` is not one where users are embedded on the way to their items.
    pub stages: Vec<WatchedStage>,
    /// Whether all parts of the results are there.
    pub recalled: bool,
    /// Seconds until the stages that are at work are done, at their rates; none where nothing tells.
    pub seconds_left: Option<f64>,
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WatchedStage {
    /// The stage.
    pub stage: Stage,
    /// Number of its parts; 0 where none is known.
    pub parts: u32,
    /// Parts that are complete.
    pub done: u32,
    /// Parts at work, failed or lost.
    pub shards: Vec<ShardRecord>,
    /// Parts of which there is no sign: not begun, or waiting in a shard at work.
    pub missing: Vec<u32>,
    /// Rows of all parts; 0 where it is not known.
    pub rows: u64,
    /// Rows that are done, in parts that are complete or at work.
    pub rows_done: u64,
    /// Rows a second of all parts at work.
    pub rows_per_second: f64,
    /// Seconds until its rows are done at this rate; none where nothing is at work.
    pub seconds_left: Option<f64>,
}

impl WatchedStage {
    fn new(stage: Stage) -> Self {
        let (shards, missing) = (Vec::new(), Vec::new());
        let (rows, rows_done, rows_per_second) = (0, 0, 0.0);
        Self { stage, parts: 0, done: 0, shards, missing, rows, rows_done, rows_per_second, seconds_left: None }
    }

    /// A stage whose output is one.
    fn whole(stage: Stage, is_done: bool) -> Self {
        Self { parts: 1, done: u32::from(is_done), missing: if is_done { vec![] } else { vec![0] }, ..Self::new(stage) }
    }

    /// A stage in parts.
    fn in_parts(stage: Stage, complete: &[Part], records: &[ShardRecord]) -> Self {
        let mut found = Self::new(stage);
        let at_work = || records.iter().filter(|record| record.work == stage);
        let alive = at_work().find(|record| record.state == ShardState::Running);
        // Of several numbers of parts, the one that is being made.
        let counts = alive
            .map(|record| record.shards)
            .or_else(|| complete.iter().find_map(|part| part.shard()).map(|s| s.count));
        let Some(count) = counts.or_else(|| at_work().next().map(|record| record.shards)) else { return found };
        let done: BTreeMap<u32, &Part> = complete
            .iter()
            .filter_map(|part| part.shard().filter(|shard| shard.count == count).map(|shard| (shard.index, part)))
            .collect();
        found.parts = count;
        found.done = done.len() as u32;
        found.shards = at_work().filter(|r| r.shards == count && !done.contains_key(&r.shard)).cloned().collect();
        found.shards.sort_by_key(|record| record.shard);
        let known: BTreeMap<u32, ()> = found.shards.iter().map(|record| (record.shard, ())).collect();
        found.missing = (0..count).filter(|part| !done.contains_key(part) && !known.contains_key(part)).collect();
        let counted = |part: &Part, name: &str| part.manifest.rows.get(name).copied().unwrap_or(0);
        let of_parts = done.values().map(|part| counted(part, rows::TABLE_ROWS)).max().unwrap_or(0);
        found.rows = found.shards.iter().map(|record| record.table_rows).max().unwrap_or(0).max(of_parts);
        let rows_of = |part: &Part| {
            let name = if stage == Stage::Recall { rows::USERS } else { rows::ROWS };
            counted(part, name) + counted(part, rows::QUARANTINED)
        };
        let running = || found.shards.iter().filter(|record| record.state == ShardState::Running);
        found.rows_done =
            done.values().map(|part| rows_of(part)).sum::<u64>() + running().map(|r| r.rows_done).sum::<u64>();
        found.rows_per_second = running().fold(0.0, |sum, record| sum + record.rows_per_second);
        if found.rows_per_second > 0.0 {
            found.seconds_left = Some(found.rows.saturating_sub(found.rows_done) as f64 / found.rows_per_second);
        }
        found
    }

    /// Whether all of it is there.
    pub fn is_done(&self) -> bool {
        self.parts > 0 && self.done == self.parts
    }
}

/// Looks at a run. What cannot be read counts as not there.
pub fn look_at(run: &RunDir) -> WatchedRun {
    let now = clock::now();
    let records = records(run, now);
    let parts = |folder: PartFolder| -> Vec<Part> {
        let paths = folder.manifest_paths().unwrap_or_default().into_iter();
        let read =
            paths.filter_map(|(path, layout)| Some(folder.part(path.clone(), layout, Manifest::read(&path).ok()?)));
        read.filter(|part| !part.is_gone()).collect()
    };
    let recalled = parts(run.recall());
    let fused = recalled.iter().any(|part| is_fused(&part.manifest));
    let users = parts(run.vectors(Side::User));
    let is_there = |path: std::path::PathBuf| Manifest::read(path).is_ok();
    let stages =
        Stage::ALL.into_iter().filter(|stage| *stage != Stage::InferUsers || !fused).map(|stage| match stage {
            Stage::EncodeFeatures => {
                WatchedStage::whole(stage, is_there(run.encoders().join(files::encoders::MANIFEST)))
            }
            Stage::Train => WatchedStage::whole(stage, is_there(run.towers().join(files::towers::MANIFEST))),
            Stage::InferItems => WatchedStage::in_parts(stage, &parts(run.vectors(Side::Item)), &records),
            Stage::InferUsers => WatchedStage::in_parts(stage, &users, &records),
            Stage::Recall => WatchedStage::in_parts(stage, &recalled, &records),
            Stage::Evaluate => WatchedStage::whole(stage, is_there(run.evaluation().join(files::evaluation::MANIFEST))),
            Stage::Check => WatchedStage::whole(stage, is_there(run.gates().join(files::gates::MANIFEST))),
        });
    let stages: Vec<WatchedStage> = stages.collect();
    let recalled = stages.iter().any(|stage| stage.stage == Stage::Recall && stage.is_done());
    let seconds_left = stages.iter().filter_map(|stage| stage.seconds_left).max_by(f64::total_cmp);
    WatchedRun { run: run.name(), at: now, stages, recalled, seconds_left }
}
