//! The times of events: which column has them, how they are read, and which of them make sense.

use crate::error::ConfigError;
use serde::{Deserialize, Serialize};
use twotower_artifacts::TickUnit;
use twotower_tables::TimeFormat;

/// Settings of the times of a table of interactions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TimeSettings {
    /// Column of the time, if there is one; else the order of the rows counts as time.
    pub timestamp: Option<String>,
    /// How text in that column says a time, in the form of strftime; where it is not given, text is in ISO 8601 or holds
    /// numbers.
    #[serde(rename = "timestamp_format", skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// What numbers in that column count since 1970, or what dates and times in text are counted in.
    #[serde(rename = "timestamp_unit", skip_serializing_if = "Option::is_none")]
    pub unit: Option<TickUnit>,
    /// The first time that an event may have.
    pub earliest: Option<TimeLimit>,
    /// The last time that an event may have.
    pub latest: Option<TimeLimit>,
}

/// The first or the last time that an event may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TimeLimit {
    /// In the unit of the column of times.
    Ticks(i64),
    /// In ISO 8601; a date alone is its first moment as the first time, its last as the last.
    Text(String),
}

impl TimeLimit {
    /// A limit as it stands in a job: an integer, text, or a date of TOML's own.
    pub(crate) fn of_toml(value: &toml::Value) -> Option<Self> {
        let text = match value {
            toml::Value::Integer(ticks) => return Some(Self::Ticks(*ticks)),
            toml::Value::String(text) => text.clone(),
            toml::Value::Datetime(date) => date.to_string(),
            _ => return None,
        };
        TimeFormat::Iso.read(&text).map(|_| Self::Text(text))
    }

    /// The first time, in ticks of a unit; none where text says one between two ticks, or beyond 64 bits.
    pub fn first(&self, unit: TickUnit) -> Option<i64> {
        match self {
            Self::Ticks(ticks) => Some(*ticks),
            Self::Text(text) => TimeFormat::Iso.read(text)?.ticks(unit),
        }
    }

    /// The last time, as [`TimeLimit::first`].
    pub fn last(&self, unit: TickUnit) -> Option<i64> {
        match self {
            Self::Text(text) if TimeFormat::is_date(text) => TimeFormat::Iso.read(text)?.last_tick_of_day(unit),
            _ => self.first(unit),
        }
    }
}

impl std::fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ticks(ticks) => write!(f, "{ticks}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl TimeSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] for settings of times that are not read, a format that says no date, or limits that no time
    /// is within.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |reason: String| Err(ConfigError::usage(format!("`tables.interactions.{reason}")));
        if self.timestamp.is_none() {
            return match self {
                Self { earliest: None, latest: None, format: None, unit: None, .. } => Ok(()),
                Self { format: Some(_), .. } => {
                    refuse("timestamp_format` is that of `.timestamp`, which is not given".into())
                }
                Self { unit: Some(_), .. } => {
                    refuse("timestamp_unit` is that of `.timestamp`, which is not given".into())
                }
                _ => refuse("earliest` and `.latest` limit the times of `.timestamp`, which is not given".into()),
            };
        }
        if let Some(pattern) = &self.format
            && let Err(reason) = TimeFormat::of_pattern(pattern)
        {
            return refuse(format!(
                "timestamp_format` = \"{pattern}\": {reason}; expected a pattern such as \"%d/%m/%Y %H:%M:%S\""
            ));
        }
        let Some((earliest, latest)) = self.earliest.as_ref().zip(self.latest.as_ref()) else { return Ok(()) };
        let crossed = match (earliest, latest) {
            (TimeLimit::Ticks(earliest), TimeLimit::Ticks(latest)) => earliest > latest,
            (TimeLimit::Text(_), TimeLimit::Text(_)) => {
                let unit = TickUnit::Microsecond;
                earliest.first(unit).zip(latest.last(unit)).is_some_and(|(first, last)| first > last)
            }
            // What the integer counts, the column says.
            _ => false,
        };
        match crossed {
            true => refuse(format!("earliest` = {earliest} is later than `.latest` = {latest}")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(toml: &str) -> Option<TimeLimit> {
        let table: toml::Table = toml::from_str(&format!("limit = {toml}")).unwrap();
        TimeLimit::of_toml(&table["limit"])
    }

    #[test]
    fn a_limit_is_an_integer_or_a_time_as_text_or_as_tomls_own() {
        let day = 1_767_225_600;
        for (toml, first, last) in [
            ("-5", -5, -5),
            ("\"2026-01-01\"", day, day + 86_399),
            ("2026-01-01", day, day + 86_399),
            ("2026-01-01T00:00:00Z", day, day),
            ("\"2026-01-01 08:00:00+08:00\"", day, day),
        ] {
            let limit = limit(toml).unwrap();
            assert_eq!(limit.first(TickUnit::Second), Some(first), "{toml}");
            assert_eq!(limit.last(TickUnit::Second), Some(last), "{toml}");
        }
        for toml in ["\"soon\"", "12:00:00", "1.5", "true", "[1]"] {
            assert_eq!(limit(toml), None, "{toml}");
        }
        assert_eq!(limit("2026-01-01T00:00:00.5Z").unwrap().first(TickUnit::Second), None);
    }

    #[test]
    fn settings_of_times_that_no_time_can_meet_are_refused_by_name() {
        let of = |timestamp: Option<&str>, format: Option<&str>, limits: [&str; 2]| {
            let timestamp = timestamp.map(String::from);
            let [earliest, latest] = limits.map(|toml| (!toml.is_empty()).then(|| limit(toml).unwrap()));
            TimeSettings { timestamp, format: format.map(String::from), unit: None, earliest, latest }.validate()
        };
        of(None, None, ["", ""]).unwrap();
        of(Some("ts"), Some("%d/%m/%Y"), ["2026-01-01", "2026-01-01"]).unwrap();
        of(Some("ts"), None, ["2026-01-01", "5"]).unwrap();
        for (refused, says) in [
            (of(None, Some("%d/%m/%Y"), ["", ""]), "timestamp_format` is that of `.timestamp`, which is not given"),
            (of(None, None, ["1", ""]), "limit the times of `.timestamp`, which is not given"),
            (of(Some("ts"), Some("%H:%M"), ["", ""]), "timestamp_format` = \"%H:%M\": it says no whole date"),
            (of(Some("ts"), None, ["5", "4"]), "`tables.interactions.earliest` = 5 is later than `.latest` = 4"),
            (of(Some("ts"), None, ["2026-01-02", "2026-01-01"]), "earliest` = 2026-01-02 is later than"),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let unit = TimeSettings { unit: Some(TickUnit::Second), ..TimeSettings::default() }.validate();
        assert!(unit.unwrap_err().to_string().contains("timestamp_unit` is that of `.timestamp`"));
    }
}
