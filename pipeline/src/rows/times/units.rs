//! Which numbers make sense as times, by unit.

use std::ops::RangeInclusive;
use twotower_artifacts::TickUnit;

/// The years 1900 to 9999, in seconds since 1970.
const YEARS_1900_TO_9999: RangeInclusive<i64> = -2_208_988_800..=253_402_300_799;

/// The times that make sense where a job does not say: the years 1900 to 9999, or all from 0 on where the unit is not
/// known.
pub(super) fn plausible(unit: Option<TickUnit>) -> RangeInclusive<i64> {
    let Some(unit) = unit else { return 0..=i64::MAX };
    let earliest = YEARS_1900_TO_9999.start().saturating_mul(unit.per_second());
    let end = YEARS_1900_TO_9999.end() + 1;
    // The last tick of the last year, or the last one that 64 bits hold.
    earliest..=end.checked_mul(unit.per_second()).map_or(i64::MAX, |end| end - 1)
}

/// The years 1990 to 2100 in a unit since 1970. No number is in the ranges of two units.
pub(super) fn of_our_years(unit: TickUnit) -> RangeInclusive<i64> {
    631_152_000 * unit.per_second()..=4_102_444_800 * unit.per_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_of_our_years_in_two_units() {
        for pair in TickUnit::ALL.windows(2) {
            assert!(of_our_years(pair[0]).end() < of_our_years(pair[1]).start());
        }
        assert_eq!(of_our_years(TickUnit::Nanosecond), 631_152_000_000_000_000..=4_102_444_800_000_000_000);
    }
}
