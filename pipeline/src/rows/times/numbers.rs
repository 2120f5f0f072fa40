//! Numbers as text, exactly.

/// A decimal number: `digits` times ten to the power of `exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    digits: i128,
    exponent: i32,
}

impl Number {
    /// A number such as `1700000000`, `-1.5` or `1.7e9`; none for other text, or for more digits than 128 bits hold.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (text, exponent) = match text.split_once(['e', 'E']) {
            Some((text, exponent)) => (text, exponent.parse().ok()?),
            None => (text, 0i32),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let unsigned = whole.strip_prefix(['-', '+']).unwrap_or(whole);
        let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if !is_digits(unsigned) || !is_digits(fraction) || unsigned.is_empty() && fraction.is_empty() {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let digits: i128 = format!("0{unsigned}{fraction}").parse().ok()?;
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(Self { digits: if whole.starts_with('-') { -digits } else { digits }, exponent })
    }

    /// The number as an integer, if it is a whole one of 64 bits.
    pub fn whole(self) -> Option<i64> {
        let whole = match self.exponent {
            0.. => self.digits.checked_mul(power(self.exponent)?)?,
            _ => {
                let divisor = power(self.exponent.checked_neg()?)?;
                (self.digits % divisor == 0).then_some(self.digits / divisor)?
            }
        };
        whole.try_into().ok()
    }

    /// The integer nearest to the number times `factor`, if it has 64 bits; of two that are as near, the one further
    /// from 0.
    pub fn rounded(self, factor: i64) -> Option<i64> {
        let scaled = self.digits.checked_mul(i128::from(factor))?;
        let rounded = match self.exponent {
            0.. => scaled.checked_mul(power(self.exponent)?)?,
            _ => {
                let divisor = power(self.exponent.checked_neg()?)?;
                let (quotient, rest) = (scaled / divisor, scaled % divisor);
                quotient + if rest.abs() >= divisor - rest.abs() { scaled.signum() } else { 0 }
            }
        };
        rounded.try_into().ok()
    }
}

fn power(exponent: i32) -> Option<i128> {
    10i128.checked_pow(exponent.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_where_no_digit_is_cut_and_rounded_where_asked() {
        for (text, whole, micros) in [
            ("1700000000", Some(1_700_000_000), Some(1_700_000_000_000_000)),
            ("1700000000.0", Some(1_700_000_000), Some(1_700_000_000_000_000)),
            (" 1.7e9 ", Some(1_700_000_000), Some(1_700_000_000_000_000)),
            ("1700000000.25", None, Some(1_700_000_000_250_000)),
            ("-0.0000005", None, Some(-1)),
            ("0.0000004", None, Some(0)),
            ("9223372036854775807", Some(i64::MAX), None),
            ("9223372036854775808", None, None),
            ("120e-1", Some(12), Some(12_000_000)),
            ("+5.", Some(5), Some(5_000_000)),
            ("1e400", None, None),
            ("1e-400", None, None),
        ] {
            let number = Number::parse(text).unwrap();
            assert_eq!((number.whole(), number.rounded(1_000_000)), (whole, micros), "{text}");
        }
        let long = "9".repeat(60);
        for text in ["", ".", "-", "e5", "1e", "1.2.3", "1,5", "0x1f", "NaN", "inf", "١", "--1", long.as_str()] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }
}
