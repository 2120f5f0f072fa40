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

    /// How many units make a second.
    pub fn per_second(self) -> i64 {
        match self {
            TickUnit::Second => 1,
            TickUnit::Millisecond => 1_000,
            TickUnit::Microsecond => 1_000_000,
            TickUnit::Nanosecond => 1_000_000_000,
        }
    }

    /// The name that settings and files use.
    pub fn name(self) -> &'static str {
        match self {
            TickUnit::Second => "second",
            TickUnit::Millisecond => "millisecond",
            TickUnit::Microsecond => "microsecond",
            TickUnit::Nanosecond => "nanosecond",
        }
    }

    /// The plural, for messages.
    pub fn plural(self) -> &'static str {
        match self {
            TickUnit::Second => "seconds",
            TickUnit::Millisecond => "milliseconds",
            TickUnit::Microsecond => "microseconds",
            TickUnit::Nanosecond => "nanoseconds",
        }
    }
}

/// What the times of a table's events count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Clock {
    /// No times were given: the time of an event is its row in the table.
    Order,
    /// Ticks tell which event was earlier. Where their unit is known, they also tell by how much.
    Ticks {
        /// The unit of ticks since 1970 (UTC). None for integers that are no plausible time in any unit, such as
        /// counters or numbers like 20260131.
        unit: Option<TickUnit>,
    },
}

impl Clock {
    /// The unit of times; none where they only tell which event was earlier.
    pub fn unit(self) -> Option<TickUnit> {
        match self {
            Clock::Order => None,
            Clock::Ticks { unit } => unit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_written_by_name_and_read_back() {
        let clocks = [
            (Clock::Order, r#"{"kind":"order"}"#),
            (Clock::Ticks { unit: None }, r#"{"kind":"ticks","unit":null}"#),
            (Clock::Ticks { unit: Some(TickUnit::Millisecond) }, r#"{"kind":"ticks","unit":"millisecond"}"#),
        ];
        for (clock, text) in clocks {
            assert_eq!(serde_json::to_string(&clock).unwrap(), text);
            assert_eq!(serde_json::from_str::<Clock>(text).unwrap(), clock);
        }
        assert!(serde_json::from_str::<Clock>(r#"{"kind":"ticks","unit":"minute"}"#).is_err());
    }
}
