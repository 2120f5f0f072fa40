//! `--changed-since`, an option of `infer`, `recall` and `run`.

use super::job::given;
use clap::Args;
use std::path::{Path, PathBuf};
use twotower_pipeline::config::Override;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::list::predecessor_of;
use twotower_pipeline::stages::Job;
use twotower_pipeline::stages::earlier::EarlierRun;

/// What the options that take an earlier run take for the last one that passed its gates.
pub const PREVIOUS: &str = "previous";

/// The run whose vectors and lists are taken for users who have not changed since.
#[derive(Debug, Args)]
pub struct SinceOpts {
    /// Take the vectors, and the lists of items, of users who have not changed since an earlier run from there, and keep
    /// what the next night needs for that. The results are the same. `previous` is the last run beside this one that
    /// passed its gates; where nothing can be taken from it, all users are done, and a line says why.
    #[arg(long, value_name = "RUN|previous")]
    changed_since: Option<PathBuf>,
}

impl SinceOpts {
    /// Whether a run was given.
    pub fn is_given(&self) -> bool {
        self.changed_since.is_some()
    }

    /// The setting that it implies: a run that is to be taken from needs hashes of its rows.
    pub fn setting(&self) -> Option<Override> {
        given("infer.row_hashes", self.is_given().then_some(true))
    }

    /// The run that was given; none where there is no previous run.
    pub fn resolve(&self, command: &'static str, job: &Job) -> anyhow::Result<Option<EarlierRun>> {
        let Some(typed) = &self.changed_since else { return Ok(None) };
        if typed != Path::new(PREVIOUS) {
            return Ok(Some(EarlierRun::named(RunDir::existing(command, typed)?, &job.run)?));
        }
        let found = predecessor_of(&job.run)?.map(|dir| EarlierRun { dir, is_named: false });
        if found.is_none() {
            let run = job.run.root().display();
            tracing::info!("{command}: no run beside {run} has passed its gates: all users are done");
        }
        Ok(found)
    }
}
