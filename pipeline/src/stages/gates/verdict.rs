//! What a gate measured, and what follows from it.

use crate::config::Gate;
use serde::{Deserialize, Serialize};

/// A number and the limits it must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What it is, such as `user.city`.
    pub what: String,
    /// The number.
    pub value: f64,
    /// The least allowed.
    pub at_least: Option<f64>,
    /// The most allowed.
    pub at_most: Option<f64>,
}

impl Measure {
    /// A number with a lower limit.
    pub fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, at_least: Some(limit), at_most: None }
    }

    /// A number with an upper limit.
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, at_least: None, at_most: Some(limit) }
    }

    /// Whether the limits are kept. NaN keeps no limit.
    fn holds(&self) -> bool {
        self.at_least.is_none_or(|least| self.value >= least) && self.at_most.is_none_or(|most| self.value <= most)
    }
}

impl std::fmt::Display for Measure {
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
    pub measured: Vec<Measure>,
    /// What a reader should know, above all what could not be measured and why.
    pub notes: Vec<String>,
    /// What helps to find the cause when a limit is not kept.
    pub advice: Option<String>,
}

impl Measures {
    /// Nothing measured, for this reason.
    pub fn none(reason: impl Into<String>) -> Self {
        Self { notes: vec![reason.into()], ..Self::default() }
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
    pub measured: Vec<Measure>,
    /// What could not be measured and why, and other remarks.
    pub notes: Vec<String>,
    /// What helps to find the cause of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Verdict {
    /// The verdict on what was measured; a failure is `accepted` where the operator says so.
    pub fn new(gate: Gate, measures: Measures, accepted: bool) -> Self {
        let Measures { measured, notes, advice } = measures;
        let ruling = match (measured.is_empty(), measured.iter().all(Measure::holds)) {
            (true, _) => Ruling::NotApplicable,
            (false, true) => Ruling::Passed,
            (false, false) if accepted => Ruling::Accepted,
            (false, false) => Ruling::Failed,
        };
        let advice = advice.filter(|_| matches!(ruling, Ruling::Failed | Ruling::Accepted));
        Self { gate, ruling, measured, notes, advice }
    }

    /// A gate that is turned off.
    pub fn off(gate: Gate) -> Self {
        Self { gate, ruling: Ruling::Off, measured: Vec::new(), notes: Vec::new(), advice: None }
    }

    /// The gate's name and the numbers that do not keep their limits.
    pub fn failures(&self) -> String {
        let failed: Vec<String> = self.measured.iter().filter(|m| !m.holds()).map(Measure::to_string).collect();
        let advice = self.advice.as_ref().map_or(String::new(), |advice| format!(" ({advice})"));
        format!("`{}`: {}{advice}", self.gate, failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_fails_and_nothing_measured_is_not_applicable() {
        let nan = Measures { measured: vec![Measure::at_most("x", f64::NAN, 1.0)], ..Measures::default() };
        assert_eq!(Verdict::new(Gate::Rows, nan.clone(), false).ruling, Ruling::Failed);
        assert_eq!(Verdict::new(Gate::Rows, nan, true).ruling, Ruling::Accepted);
        assert_eq!(Verdict::new(Gate::Rows, Measures::none("no"), true).ruling, Ruling::NotApplicable);
    }

    #[test]
    fn failures_are_told_with_value_and_limit() {
        let measured = vec![
            Measure::at_least("a", 0.25, 0.1),
            Measure { what: "b".into(), value: 0.512345, at_least: Some(0.7), at_most: Some(1.5) },
        ];
        let mut measures = Measures { measured, ..Measures::default() };
        let told = |measures: &Measures| Verdict::new(Gate::Rows, measures.clone(), false).failures();
        assert_eq!(told(&measures), "`rows`: b 0.5123, expected 0.7 to 1.5");
        measures.advice = Some("look at b".into());
        assert_eq!(told(&measures), "`rows`: b 0.5123, expected 0.7 to 1.5 (look at b)");
        measures.measured.truncate(1);
        assert_eq!(Verdict::new(Gate::Rows, measures, false).advice, None);
    }
}
