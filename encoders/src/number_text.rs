//! Numbers as people and spreadsheets write them: `1,234.50`, `¥1,234`, `1.234,50 €`, `12.5%`, `(3.00)`.
//!
//! Which of the two marks is the decimal one, the feature's setting says, for one value alone may not: by default it is
//! the point, and a comma groups thousands. So `1,234` is 1234, and `1,5`, which no grouping explains, is no number.

use serde::{Deserialize, Serialize};

/// The mark before the fraction of a number that is written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum DecimalMark {
    /// `1,234.50`
    #[default]
    #[serde(rename = ".")]
    Point,
    /// `1.234,50`
    #[serde(rename = ",")]
    Comma,
}

impl DecimalMark {
    pub(crate) fn is_point(&self) -> bool {
        *self == DecimalMark::Point
    }

    fn characters(self) -> (char, char) {
        match self {
            DecimalMark::Point => ('.', ','),
            DecimalMark::Comma => (',', '.'),
        }
    }
}

/// Signs of currencies, before or behind a number.
const CURRENCIES: [&str; 43] = [
    "US$", "HK$", "NT$", "A$", "C$", "S$", "R$", "$", "€", "£", "¥", "￥", "₩", "₹", "₽", "₫", "฿", "₺", "₴", "₦", "₱",
    "₪", "₡", "₸", "元", "円", "원", "USD", "EUR", "GBP", "CNY", "RMB", "JPY", "KRW", "HKD", "TWD", "INR", "RUB",
    "CHF", "BRL", "AUD", "CAD", "SGD",
];

/// The number that a text says; none for text that says none, or none with this decimal mark.
pub(crate) fn read_number(text: &str, mark: DecimalMark) -> Option<f64> {
    let text = text.trim();
    match mark {
        DecimalMark::Point => text.parse().ok().or_else(|| read_written(text, mark)),
        // The point groups thousands here, and the parser would take it for the decimal one.
        DecimalMark::Comma if text.contains('.') => read_written(text, mark),
        DecimalMark::Comma => text.parse().ok().or_else(|| read_written(text, mark)),
    }
}

fn read_written(text: &str, mark: DecimalMark) -> Option<f64> {
    // Nothing shorter than a digit and a sign is written in such a way, and no number is this long.
    if !text.contains(|c: char| c.is_ascii_digit()) || text.len() > 64 {
        return None;
    }
    let (text, is_in_brackets) = match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(inside) => (inside.trim(), true),
        None => (text, false),
    };
    let (text, sign) = signed(text);
    let text = without_currency(text);
    // The sign may stand on either side of the currency, but not on both.
    let (text, inner_sign) = signed(text);
    if usize::from(sign.is_some()) + usize::from(inner_sign.is_some()) + usize::from(is_in_brackets) > 1 {
        return None;
    }
    let (text, scale) = match text.strip_suffix(['%', '％']) {
        Some(percents) => (percents.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let is_negative = is_in_brackets || sign == Some('-') || inner_sign == Some('-');
    let size = read_grouped(text, mark)? / scale;
    Some(if is_negative { -size } else { size })
}

/// What stands behind a leading sign, and the sign as ASCII.
fn signed(text: &str) -> (&str, Option<char>) {
    match text.chars().next() {
        Some(sign @ ('+' | '-')) => (text[1..].trim_start(), Some(sign)),
        Some(minus @ ('\u{2212}' | '－')) => (text[minus.len_utf8()..].trim_start(), Some('-')),
        _ => (text, None),
    }
}

fn without_currency(text: &str) -> &str {
    let before = CURRENCIES.iter().find_map(|currency| text.strip_prefix(currency));
    let behind = || CURRENCIES.iter().find_map(|currency| text.strip_suffix(currency));
    before.or_else(behind).unwrap_or(text).trim()
}

/// A number without a sign whose digits may be grouped: three to a group from the right, but for the first and, as in
/// India, groups of two further left; all groups parted by the same mark.
fn read_grouped(text: &str, mark: DecimalMark) -> Option<f64> {
    let (decimal, thousands) = mark.characters();
    let (whole, fraction) = text.split_once(decimal).unwrap_or((text, ""));
    let are_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let is_group_mark = |c: char| c == thousands || matches!(c, ' ' | '\u{A0}' | '\u{202F}' | '\u{2009}' | '\'' | '’');
    let mut marks = whole.chars().filter(|c| is_group_mark(*c));
    let first = marks.next();
    if marks.any(|mark| Some(mark) != first) {
        return None;
    }
    let groups: Vec<&str> = whole.split(is_group_mark).collect();
    let are_grouped = match groups.as_slice() {
        [_] => true,
        [front, middle @ .., last] => {
            let is_front = (1..=3).contains(&front.len());
            let same = |size: usize| middle.iter().all(|group| group.len() == size);
            is_front && last.len() == 3 && (same(3) || (same(2) && front.len() <= 2))
        }
        [] => false,
    };
    if !are_grouped || !groups.iter().all(|group| are_digits(group)) {
        return None;
    }
    let digits = groups.concat();
    let digits = if digits.is_empty() { "0" } else { &digits };
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    format!("{digits}.{fraction}").parse().ok()
}

/// What the values of a column say of its decimal mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// Some value is a number with this mark alone, and none with the other alone.
    Certain(DecimalMark),
    /// All are numbers with either mark, and some are not the same number: `1,234`.
    Either,
    /// No value has a mark that could be taken in two ways.
    None,
}

/// The decimal mark that fits the values of a column.
pub(crate) fn marks_of<'v>(values: impl Iterator<Item = &'v str>) -> Marks {
    let (mut point, mut comma, mut either) = (0, 0, 0);
    for value in values {
        match (read_number(value, DecimalMark::Point), read_number(value, DecimalMark::Comma)) {
            (Some(_), None) => point += 1,
            (None, Some(_)) => comma += 1,
            (Some(a), Some(b)) if a != b => either += 1,
            _ => {}
        }
    }
    match () {
        () if comma > point => Marks::Certain(DecimalMark::Comma),
        () if point > 0 => Marks::Certain(DecimalMark::Point),
        () if either > 0 => Marks::Either,
        () => Marks::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DecimalMark::{Comma, Point};

    #[test]
    fn numbers_are_read_as_people_write_them_and_never_as_another() {
        for (text, point, comma) in [
            ("12", Some(12.0), Some(12.0)),
            ("-1.5e3", Some(-1500.0), None),
            ("1,234.50", Some(1234.5), None),
            ("1.234,50 €", None, Some(1234.5)),
            ("1,234", Some(1234.0), Some(1.234)),
            ("1.234", Some(1.234), Some(1234.0)),
            ("1,5", None, Some(1.5)),
            ("1.5", Some(1.5), None),
            ("12,34,567.8", Some(1_234_567.8), None),
            ("1,234,567", Some(1_234_567.0), None),
            ("1 234,50", None, Some(1234.5)),
            ("1\u{a0}234 567", None, None),
            ("1'234.50 CHF", Some(1234.5), None),
            ("¥1,234", Some(1234.0), Some(1.234)),
            ("￥ 88", Some(88.0), Some(88.0)),
            ("-$5.00", Some(-5.0), None),
            ("$-5.00", Some(-5.0), None),
            ("\u{2212}5", Some(-5.0), Some(-5.0)),
            ("(1,234.50)", Some(-1234.5), None),
            ("(-3)", None, None),
            ("--3", None, None),
            ("12.5%", Some(0.125), None),
            ("12,5 %", None, Some(0.125)),
            ("US$ 1,000", Some(1000.0), Some(1.0)),
            ("100元", Some(100.0), Some(100.0)),
            (".5", Some(0.5), None),
            ("1,23", None, Some(1.23)),
            ("1,2345", None, Some(1.2345)),
            ("1,,234", None, None),
            (",234", None, Some(0.234)),
            ("1,234,56", None, None),
            ("12 apples", None, None),
            ("$", None, None),
            ("%", None, None),
            ("", None, None),
            ("1-2", None, None),
            ("2026-01-31", None, None),
            ("1.2.3", None, None),
        ] {
            assert_eq!(read_number(text, Point), point, "{text} with a decimal point");
            assert_eq!(read_number(text, Comma), comma, "{text} with a decimal comma");
        }
    }

    #[test]
    fn a_column_says_which_mark_is_the_decimal_one_or_that_it_does_not_say() {
        for (values, expected) in [
            (&["1,234", "5.25"][..], Marks::Certain(Point)),
            (&["1.234", "5,25", "12"], Marks::Certain(Comma)),
            (&["1.234.567", "2.000"], Marks::Certain(Comma)),
            (&["1,234", "2,000"], Marks::Either),
            (&["12", "13"], Marks::None),
            (&[], Marks::None),
        ] {
            assert_eq!(marks_of(values.iter().copied()), expected, "{values:?}");
        }
    }
}
