//! The times of events: which column has them, and which times make sense.

use crate::error::ConfigError;
use serde::Serialize;

/// Settings of the times of a table of interactions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TimeSettings {
    /// Column of the time, if there is one; else the order of the rows counts as time.
    pub timestamp: Option<String>,
    /// The first time that an event may have, in the unit of the column of times.
    pub earliest: Option<i64>,
    /// The last time that an event may have.
    pub latest: Option<i64>,
}

impl TimeSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] for limits of times that are not read, or limits that no time is within.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |reason: String| Err(ConfigError::usage(format!("`tables.interactions.{reason}")));
        match (self.earliest, self.latest, &self.timestamp) {
            (Some(_), _, None) | (_, Some(_), None) => {
                refuse("earliest` and `.latest` limit the times of `.timestamp`, which is not given".into())
            }
            (Some(earliest), Some(latest), _) if earliest > latest => {
                refuse(format!("earliest` = {earliest} is later than `.latest` = {latest}"))
            }
            _ => Ok(()),
        }
    }
}
