//! Ranges of numeric settings, and a check that reaches every number of a configuration.
//!
//! The check serialises the configuration, whether a struct of settings or the raw table of a job file, and looks at
//! each number. A number without a known range is an error, so none can be forgotten.

mod walk;

use serde::Serialize;
pub use walk::{Number, numbers};

/// The range of a numeric setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// A whole number, from the first bound to the second.
    Whole(i64, i64),
    /// A number from the first bound to the second.
    Real(f64, f64),
    /// A number from the first bound to below the second.
    Below(f64, f64),
    /// A number above the first bound and at most the second.
    Above(f64, f64),
}

impl Range {
    /// The range of a seed: any number that a TOML file can hold and that is not negative.
    pub const SEED: Self = Self::Whole(0, i64::MAX);
    /// The range of a share.
    pub const SHARE: Self = Self::Real(0.0, 1.0);

    /// Whether the range contains a number.
    pub fn holds(&self, number: Number) -> bool {
        match (self, number) {
            (Self::Whole(least, most), Number::Whole(n)) => (i128::from(*least)..=i128::from(*most)).contains(&n),
            (Self::Whole(..), Number::Real(_)) => false,
            // All comparisons are false for NaN, so no range contains it.
            (Self::Real(least, most), n) => (*least..=*most).contains(&n.as_f64()),
            (Self::Below(least, end), n) => (*least..*end).contains(&n.as_f64()),
            (Self::Above(end, most), n) => n.as_f64() > *end && n.as_f64() <= *most,
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(least, most) => write!(f, "a whole number from {least} to {most}"),
            Self::Real(least, most) => write!(f, "a number from {least} to {most}"),
            Self::Below(least, end) => write!(f, "a number from {least} to below {end}"),
            Self::Above(end, most) => write!(f, "a number above {end}, at most {most}"),
        }
    }
}

/// Ranges by the names of settings. A name may have several parts, separated by dots; the part `*` stands for any name.
pub type Ranges = &'static [(&'static str, Range)];

/// A number outside its range, or without a known range.
#[derive(Debug, Clone, PartialEq)]
pub struct OutOfRange {
    /// The setting, such as `train.epochs`.
    pub setting: String,
    /// The number.
    pub found: Number,
    /// Its range, if one is known.
    pub expected: Option<Range>,
}

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { setting, found, expected } = self;
        match expected {
            Some(range) => write!(f, "`{setting}` = {found}: expected {range}"),
            None => write!(f, "`{setting}` = {found}: no range is known for it; please report this as a bug"),
        }
    }
}

/// Checks every number of `settings` against its range.
///
/// # Errors
/// The first number that is outside its range, or has no known range.
pub fn check(settings: &impl Serialize, ranges: Ranges) -> Result<(), OutOfRange> {
    check_by(settings, |path| range_of(path, ranges))
}

/// As [`check`], with a function that gives the range of a path: the names of the settings around a number, the
/// outermost first.
///
/// # Errors
/// As [`check`].
pub fn check_by(settings: &impl Serialize, range_of: impl Fn(&[String]) -> Option<Range>) -> Result<(), OutOfRange> {
    let fault = |(path, found): (Vec<String>, Number)| {
        let expected = range_of(&path);
        let holds = expected.is_some_and(|range| range.holds(found));
        (!holds).then(|| OutOfRange { setting: path.join("."), found, expected })
    };
    numbers(settings).into_iter().find_map(fault).map_or(Ok(()), Err)
}

/// The range of the setting at `path`.
pub fn range_of(path: &[String], ranges: Ranges) -> Option<Range> {
    let is_named = |name: &str| {
        let mut parts = name.split('.');
        path.iter().all(|found| parts.next().is_some_and(|part| part == "*" || part == found)) && parts.next().is_none()
    };
    ranges.iter().find(|(name, _)| is_named(name)).map(|(_, range)| *range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Clone)]
    struct Settings {
        epochs: usize,
        rate: f32,
        widths: Vec<u32>,
        dims: std::collections::BTreeMap<String, u64>,
        loss: Loss,
        limit: Option<i64>,
        name: String,
    }

    #[derive(Serialize, Clone)]
    enum Loss {
        Plain,
        Mixed { uniform: usize },
    }

    const RANGES: Ranges = &[
        ("epochs", Range::Whole(1, 100)),
        ("rate", Range::Above(0.0, 1.0)),
        ("widths", Range::Whole(1, 8)),
        ("dims.*", Range::Whole(1, 8)),
        ("loss.Mixed.uniform", Range::Whole(1, 8)),
        ("limit", Range::Whole(-5, 5)),
    ];

    fn good() -> Settings {
        let dims = [("a.b".to_string(), 3)].into();
        let (loss, name) = (Loss::Mixed { uniform: 3 }, "17".to_string());
        Settings { epochs: 3, rate: 0.5, widths: vec![1, 2], dims, loss, limit: None, name }
    }

    fn fault(settings: &Settings) -> String {
        check(settings, RANGES).unwrap_err().to_string()
    }

    #[test]
    fn every_number_is_reached_wherever_it_stands() {
        check(&good(), RANGES).unwrap();
        check(&Settings { loss: Loss::Plain, limit: Some(-5), ..good() }, RANGES).unwrap();
        assert_eq!(fault(&Settings { epochs: 0, ..good() }), "`epochs` = 0: expected a whole number from 1 to 100");
        assert!(fault(&Settings { epochs: usize::MAX, ..good() }).contains("18446744073709551615"));
        for rate in [f32::NAN, f32::INFINITY, 0.0, -1.0, 1.5] {
            assert!(fault(&Settings { rate, ..good() }).starts_with("`rate` = "), "{rate}");
        }
        assert!(fault(&Settings { widths: vec![1, 2, 9], ..good() }).starts_with("`widths` = 9"));
        let dims = [("a.b".to_string(), 0)].into();
        assert!(fault(&Settings { dims, ..good() }).starts_with("`dims.a.b` = 0"));
        assert!(
            fault(&Settings { loss: Loss::Mixed { uniform: 0 }, ..good() }).starts_with("`loss.Mixed.uniform` = 0")
        );
        assert!(fault(&Settings { limit: Some(6), ..good() }).starts_with("`limit` = 6"));
    }

    #[test]
    fn a_number_without_a_range_is_a_fault() {
        let error = check(&good(), &RANGES[1..]).unwrap_err();
        assert_eq!((error.setting.as_str(), error.expected), ("epochs", None));
        assert!(error.to_string().contains("no range is known"));
    }

    #[test]
    fn ends_belong_to_a_range_or_not_as_it_says() {
        let real = Number::Real;
        assert!(Range::SHARE.holds(real(0.0)) && Range::SHARE.holds(real(1.0)) && Range::SHARE.holds(Number::Whole(1)));
        assert!(Range::Below(0.0, 1.0).holds(real(0.0)) && !Range::Below(0.0, 1.0).holds(real(1.0)));
        assert!(!Range::Above(0.0, 1.0).holds(real(0.0)) && Range::Above(0.0, 1.0).holds(real(1.0)));
        assert!(!Range::Whole(0, 9).holds(real(3.0)));
        assert!(Range::SEED.holds(Number::Whole(0)) && !Range::SEED.holds(Number::Whole(1 << 63)));
    }
}
