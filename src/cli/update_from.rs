//! `--update-from`, an option of `run`, `encode-features` and `train`.

use super::changed_since::PREVIOUS;
use clap::Args;
use std::path::{Path, PathBuf};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::list::predecessor_of;
use twotower_pipeline::stages::Job;

/// The run that is to be extended.
#[derive(Debug, Args)]
pub struct UpdateFromOpts {
    /// Extend an earlier run: its vocabularies keep their codes, its weights are the start. `previous` is the last run
    /// beside this one that passed its gates; where there is none yet, this one starts afresh.
    #[arg(long, value_name = "RUN|previous")]
    update_from: Option<PathBuf>,
}

impl UpdateFromOpts {
    /// The run that is to be extended, if there is one; what is said of it begins with the command.
    pub fn resolve(&self, command: &'static str, job: &Job) -> anyhow::Result<Option<PathBuf>> {
        let Some(typed) = self.update_from.as_deref() else { return Ok(None) };
        if typed == Path::new(PREVIOUS) {
            let found = predecessor_of(&job.run)?.map(|run| run.root().to_path_buf());
            match &found {
                Some(run) => {
                    tracing::info!("{command}: starts from {}, the last run that passed its gates", run.display());
                }
                None => {
                    let run = job.run.root().display();
                    tracing::info!("{command}: no run beside {run} has passed its gates: starts afresh");
                }
            }
            return Ok(found);
        }
        let named = RunDir::existing(command, typed)?;
        if named.root().canonicalize().is_ok_and(|e| job.run.root().canonicalize().is_ok_and(|run| run == e)) {
            return Err(PipelineError::usage(format!(
                "--update-from {} is the folder of this run; name an earlier run, or `{PREVIOUS}`",
                typed.display()
            ))
            .into());
        }
        Ok(Some(named.root().to_path_buf()))
    }
}
