//! What a gate measured, and what follows from it.

use super::Gate;
use serde::{Deserialize, Serialize};

/// A number and the limits it must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What it is, such as `user.city`.
    pub what: String,
    /// The number.
    pub value: f64,
    /// The least allowed.
    pub at_least: Option<f64>,
    /// The most allowed.
    pub at_most: Option<f64>,
}

impl Measured {
    /// A number with a lower limit.
    pub fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, at_least: Some(limit), at_most: None }
    }

    /// A number with an upper limit.
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, at_least: None, at_most: Some(limit) }
    }

    /// Whether the limits are kept; a number that is none keeps no limit.
    fn holds(&self) -> bool {
        self.at_least.is_none_or(|least| self.value >= least) && self.at_most.is_none_or(|most| self.value <= most)
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}, expected ", self.what, short(self.value))?;
        match (self.at_least, self.at_most) {
            (Some(least), Some(most)) if least == most => write!(f, "{}", short(least)),
            (Some(least), Some(most)) => write!(f, "{} to {}", short(least), short(most)),
            (Some(least), None) => write!(f, "at least {}", short(least)),
            (None, Some(most)) => write!(f, "at most {}", short(most)),
            (None, None) => f.write_str("any"),
        }
    }
}

/// Four decimals at most.
fn short(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// All that a gate measured, and why it measured no more.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measures {
    /// Numbers with their limits.
    pub measured: Vec<Measured>,
    /// What a reader should know, above all what could not be measured and why.
    pub notes: Vec<String>,
}

impl Measures {
    /// Nothing measured, for this reason.
    pub fn none(reason: impl Into<String>) -> Self {
        Self { measured: Vec::new(), notes: vec![reason.into()] }
    }
}

/// What a gate says about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// Every number keeps its limits.
    Passed,
    /// One does not: the run is not published.
    Failed,
    /// One does not, and the operator publishes the run in spite of it.
    Accepted,
    /// There was nothing to measure.
    NotApplicable,
    /// The job does not ask.
    Off,
}

/// A gate's ruling with its reasons, as it stands in the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The gate.
    pub gate: Gate,
    /// What it says.
    pub ruling: Ruling,
    /// Numbers with their limits.
    pub measured: Vec<Measured>,
    /// What could not be measured and why, and other remarks.
    pub notes: Vec<String>,
}

impl Verdict {
    /// The verdict on what was measured; a failure is `accepted` where the operator says so.
    pub fn new(gate: Gate, measures: Measures, accepted: bool) -> Self {
        let Measures { measured, notes } = measures;
        let ruling = match (measured.is_empty(), measured.iter().all(Measured::holds)) {
            (true, _) => Ruling::NotApplicable,
            (false, true) => Ruling::Passed,
            (false, false) if accepted => Ruling::Accepted,
            (false, false) => Ruling::Failed,
        };
        Self { gate, ruling, measured, notes }
    }

    /// A gate that is turned off.
    pub fn off(gate: Gate) -> Self {
        Self { gate, ruling: Ruling::Off, measured: Vec::new(), notes: Vec::new() }
    }

    /// The gate's name and the numbers that do not keep their limits.
    pub fn failures(&self) -> String {
        let failed: Vec<String> = self.measured.iter().filter(|m| !m.holds()).map(Measured::to_string).collect();
        format!("`{}`: {}", self.gate, failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_fails_and_nothing_measured_is_not_applicable() {
        let nan = Measures { measured: vec![Measured::at_most("x", f64::NAN, 1.0)], notes: Vec::new() };
        assert_eq!(Verdict::new(Gate::Rows, nan.clone(), false).ruling, Ruling::Failed);
        assert_eq!(Verdict::new(Gate::Rows, nan, true).ruling, Ruling::Accepted);
        assert_eq!(Verdict::new(Gate::Rows, Measures::none("no"), true).ruling, Ruling::NotApplicable);
    }

    #[test]
    fn failures_are_told_with_value_and_limit() {
        let measured = vec![
            Measured::at_least("a", 0.25, 0.1),
            Measured { what: "b".into(), value: 0.512345, at_least: Some(0.7), at_most: Some(1.5) },
        ];
        let verdict = Verdict::new(Gate::Rows, Measures { measured, notes: Vec::new() }, false);
        assert_eq!(verdict.failures(), "`rows`: b 0.5123, expected 0.7 to 1.5");
    }
}
