//! The error of every stage, and its exit-code category.

use std::path::PathBuf;
use twotower_artifacts::{ArtifactError, Category};
use twotower_config::ConfigError;
use twotower_encoders::EncoderError;
use twotower_index::IndexError;
use twotower_models::ModelError;
use twotower_queries::QueryError;
use twotower_sinks::SinkError;
use twotower_stores::StoreError;
use twotower_synth::SynthError;
use twotower_tables::TableError;

/// Why a stage stopped.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Bad usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// Input data that cannot be worked with.
    #[error("{0}")]
    Data(String),
    /// A quality gate refused the result.
    #[error("{0}")]
    Gate(String),
    /// Artifacts of one run that do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// A stage's input is missing.
    #[error("{stage}: {path} is missing; {advice}", path = path.display())]
    MissingInput {
        /// The stage that needs it.
        stage: &'static str,
        /// What is missing.
        path: PathBuf,
        /// The next step.
        advice: String,
    },
    /// A command that looks at a run was given none.
    #[error("{command}: there is no run {run}; {advice}", run = run.display())]
    NoRun {
        /// The command that needs it.
        command: &'static str,
        /// The folder that was named.
        run: PathBuf,
        /// How to make a run, or to find those that there are.
        advice: String,
    },
    /// Reading the job file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An operation on a file failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Another process works in the run's folder.
    #[error("run {run} is in use by {holder}", run = run.display())]
    InUse {
        /// The run's folder.
        run: PathBuf,
        /// Who holds it, doing what since when, and the next step.
        holder: String,
    },
    /// A signal asked the stage to stop.
    #[error("{stage}: stopped by {signal}; what is complete is kept, the same command goes on from there")]
    Interrupted {
        /// The stage.
        stage: &'static str,
        /// Name of the signal.
        signal: &'static str,
        /// 128 + the signal's number.
        exit_code: u8,
    },
    /// Nothing has progressed for too long.
    #[error(
        "{stage}: no progress for {seconds} s (--stall-timeout); what is complete is kept, the same command goes on from there; if it stands still there again, see to the disk or the network folder in question. What each thread was doing:{threads}"
    )]
    Stalled {
        /// What was being done.
        stage: String,
        /// For how long.
        seconds: u64,
        /// What each thread was doing, a line each.
        threads: String,
    },
    /// A worker thread panicked: a bug.
    #[error("{stage}: a worker thread panicked (its message is above); please report this as a bug")]
    WorkerPanicked {
        /// The stage.
        stage: &'static str,
    },
    /// Something failed while a stage worked on a part of its input.
    #[error("{}", within(context, source))]
    Within {
        /// Stage and shard.
        context: String,
        /// What failed.
        source: Box<PipelineError>,
    },
    /// Reading or writing artifacts.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Reading raw tables.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Fitting or applying encoders.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// Training or running a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Building or searching an index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Querying interactions.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Reaching an object store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing to a database.
    #[error("export-results: {0}")]
    Sink(#[from] SinkError),
    /// Generating synthetic data.
    #[error(transparent)]
    Synth(#[from] SynthError),
}

/// An error with where it happened; a stage that both name is named once.
fn within(context: &str, source: &PipelineError) -> String {
    const STAGES: [&str; 6] = ["encode-features", "train", "infer", "recall", "evaluate", "check"];
    let text = source.to_string();
    let stage = STAGES.into_iter().find(|stage| context.split(' ').next() == Some(stage));
    let rest = stage.and_then(|stage| text.strip_prefix(stage)?.strip_prefix(": "));
    format!("{context}: {}", rest.unwrap_or(&text))
}

impl PipelineError {
    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// An I/O error with what was attempted.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// The same error, said to have happened in `context`.
    pub(crate) fn within(self, context: impl Into<String>) -> Self {
        match self {
            stopped @ Self::Interrupted { .. } => stopped,
            source => Self::Within { context: context.into(), source: Box::new(source) },
        }
    }

    /// The same error, for a command that takes a run as it is: what is missing there makes the run incomplete, and is not
    /// made by giving the command again.
    pub(crate) fn incomplete_if_missing(self) -> Self {
        match self {
            missing @ Self::MissingInput { .. } => Self::Mismatch(missing.to_string()),
            other => other,
        }
    }

    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            Self::Usage(_) => Category::Usage,
            Self::Config(e) => e.category(),
            Self::Data(_) => Category::Data,
            Self::Gate(_) => Category::Gate,
            Self::Mismatch(_) => Category::Mismatch,
            Self::MissingInput { .. }
            | Self::NoRun { .. }
            | Self::Io { .. }
            | Self::InUse { .. }
            | Self::Interrupted { .. }
            | Self::Stalled { .. }
            | Self::WorkerPanicked { .. } => Category::Other,
            Self::Within { source, .. } => source.category(),
            Self::Artifact(e) => e.category(),
            Self::Table(e) => e.category(),
            Self::Encoder(e) => e.category(),
            Self::Model(e) => e.category(),
            Self::Index(e) => e.category(),
            Self::Query(e) => e.category(),
            Self::Store(e) => e.category(),
            Self::Sink(e) => e.category(),
            Self::Synth(e) => e.category(),
        }
    }

    /// The process exit code: the category's, or 128 + signal number.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted { exit_code, .. } => *exit_code,
            other => other.category().exit_code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_named_once() {
        let said = |context: &str, text: &str| PipelineError::Data(text.into()).within(context).to_string();
        assert_eq!(said("recall", "recall: no rows"), "recall: no rows");
        assert_eq!(said("recall shard 0/2", "recall: no rows"), "recall shard 0/2: no rows");
        assert_eq!(said("users", "users: no rows"), "users: users: no rows");
        assert_eq!(said("infer user shard 0/2", "recalled: x"), "infer user shard 0/2: recalled: x");
    }
}
