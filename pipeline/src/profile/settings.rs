//! What `profile` is asked for.

use crate::config::Config;
use crate::stream::memory::Memory;
use crate::watch::cancel::Cancel;
use crate::watch::progress::Progress;
use std::path::PathBuf;

/// What is profiled, and how.
pub struct Settings {
    /// The job.
    pub config: Config,
    /// The encoders of a run, whose vocabularies say which values are unknown.
    pub encoders: Option<PathBuf>,
    /// A feature of the users whose values part them into segments.
    pub segment: Option<String>,
    /// An earlier profile to compare with.
    pub against: Option<PathBuf>,
    /// Where temporary files lie: about as large as the columns that are read.
    pub scratch: PathBuf,
    /// The memory that a query may take about a quarter of.
    pub memory: Memory,
    /// Whether progress is shown.
    pub progress: Progress,
    /// A request to stop.
    pub cancel: Cancel,
}
