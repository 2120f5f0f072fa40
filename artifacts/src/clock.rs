//! What the times of events count.

use serde::{Deserialize, Serialize};

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickUnit {
    /// 1 s.
    Second,
    /// 1 ms.
    Millisecond,
    /// 1 µs.
    Microsecond,
    /// 1 ns.
    Nanosecond,
}

impl TickUnit {
    /// All units, the longest first.
    pub const ALL: [TickUnit; 4] =
        [TickUnit::Second, TickUnit::Millisecond, TickUnit::Microsecond, TickUnit::Nanosecond];

    /// How many of it make a second.
    pub fn per_second(self) -> i64 {
        match self {
            TickUnit::Second => 1,
            TickUnit::Millisecond => 1_000,
            TickUnit::Microsecond => 1_000_000,
            TickUnit::Nanosecond => 1_000_000_000,
        }
    }

    /// Its name, as settings and files have it.
    pub fn name(self) -> &'static str {
        match self {
            TickUnit::Second => "second",
            TickUnit::Millisecond => "millisecond",
            TickUnit::Microsecond => "microsecond",
            TickUnit::Nanosecond => "nanosecond",
        }
    }

    /// Its plural, for messages.
    pub fn plural(self) -> &'static str {
        match self {
            TickUnit::Second => "seconds",
            TickUnit::Millisecond => "milliseconds",
            TickUnit::Microsecond => "microseconds",
            TickUnit::Nanosecond => "nanoseconds",
        }
    }
}

/// What the times of a table of events count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Clock {
    /// No times were given: the time of an event is its row in the table.
    Order,
    /// Ticks: they say which event was earlier, and how much earlier where their unit is known.
    Ticks {
        /// The unit, which counts since 1970 (UTC); none where integers read as times of our years in no unit, such as
        /// counters or numbers like 20260131.
        unit: Option<TickUnit>,
    },
}

impl Clock {
    /// How many ticks make a second, where that is known.
    pub fn ticks_per_second(self) -> Option<i64> {
        match self {
            Clock::Order => None,
            Clock::Ticks { unit } => unit.map(TickUnit::per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_written_by_name_and_read_back() {
        let clocks = [
            (Clock::Order, r#"{"kind":"order"}"#, None),
            (Clock::Ticks { unit: None }, r#"{"kind":"ticks","unit":null}"#, None),
            (
                Clock::Ticks { unit: Some(TickUnit::Millisecond) },
                r#"{"kind":"ticks","unit":"millisecond"}"#,
                Some(1_000),
            ),
        ];
        for (clock, text, per_second) in clocks {
            assert_eq!(serde_json::to_string(&clock).unwrap(), text);
            assert_eq!(serde_json::from_str::<Clock>(text).unwrap(), clock);
            assert_eq!(clock.ticks_per_second(), per_second);
        }
        assert!(serde_json::from_str::<Clock>(r#"{"kind":"ticks","unit":"minute"}"#).is_err());
    }
}
