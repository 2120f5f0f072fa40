//! What a run ends with: how good the model is beside the baselines, what some users get, and where the results are.

use super::advice::{Advice, Winner, to_try, winners};
use super::{RunResults, ShownUser};
use crate::error::PipelineError;
use crate::run::details::EpochsDetails;
use crate::run::files::towers::MANIFEST;
use crate::run::manifests::{details, require};
use crate::stages::Job;
use crate::stages::evaluate::MetricsFile;
use crate::stages::gates::metrics_of;
use serde::Serialize;
use std::path::{Path, PathBuf};
use twotower_artifacts::NeighbourFormat;

/// Users shown.
const USERS: usize = 5;
/// Of each of them, the newest and the best items shown.
const ITEMS: usize = 3;

/// What a person wants to know of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Metrics of the model and the baselines; none for a run that took its towers from an earlier one.
    pub metrics: Option<MetricsFile>,
    /// Baselines that are better than the model somewhere.
    pub winners: Vec<Winner>,
    /// What to try where there are some.
    pub advice: Vec<Advice>,
    /// Some users with what they had and get.
    pub users: Vec<ShownUser>,
    /// Folder of the results.
    pub results: PathBuf,
    /// Files there.
    pub files: usize,
    /// A command that shows some of them; none where their path needs more quoting than a line bears.
    pub open: Option<String>,
}

impl Summary {
    /// Of a run whose stages are done; its gates may have refused it.
    ///
    /// # Errors
    /// Outputs that are missing or damaged.
    pub fn of(job: &Job) -> Result<Self, PipelineError> {
        let trained = require("run", &job.run.towers().join(MANIFEST), "twotower train")?;
        let metrics = metrics_of(&job.run, &trained)?;
        let winners = metrics.as_ref().map(winners).unwrap_or_default();
        let EpochsDetails { best_epoch, last_epoch } = details("run", &trained)?;
        let best_is_last = best_epoch.is_some() && best_epoch == last_epoch.map(|last| last.epoch);
        let items = metrics.as_ref().map_or(0, |metrics| metrics.items);
        let advice = match winners.is_empty() {
            true => Vec::new(),
            false => to_try(&job.config, items, best_is_last),
        };
        let results = RunResults::open("run", &job.run, Some(job.config.tables.items.clone()))?;
        let (files, format) = results.files();
        let users = results.some_users(USERS, ITEMS, ITEMS)?;
        let open = files.first().and_then(|first| opening(first, files.len(), format));
        Ok(Self { metrics, winners, advice, users, results: job.run.recall().data(), files: files.len(), open })
    }
}

/// A line for a shell that shows the first rows of the first of some files, or of all of them.
fn opening(first: &Path, files: usize, format: NeighbourFormat) -> Option<String> {
    let plain = |path: &Path| {
        let text = path.to_str()?;
        let quoting = |c: char| c.is_control() || "'\"\\$`!*?[]{}".contains(c);
        (!text.contains(quoting)).then(|| text.to_string())
    };
    let (path, parts) = (plain(first)?, plain(first.parent()?)?);
    Some(match (format, files) {
        (NeighbourFormat::Jsonl, _) => format!("head -n 3 '{path}'"),
        (_, 1) => format!("python3 -c \"import pandas; print(pandas.read_parquet('{path}'))\""),
        _ => format!("duckdb -c \"FROM '{parts}/part-*.parquet' LIMIT 10\""),
    })
}
