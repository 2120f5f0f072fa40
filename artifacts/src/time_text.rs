//! Times that are written as text.

use crate::clock::TickUnit;
use arrow_cast::parse::string_to_datetime;
use chrono::format::{Fixed, Item, Parsed, StrftimeItems, parse};
use chrono::{DateTime, NaiveTime, SecondsFormat, Utc};
use std::fmt::Write as _;

/// A point in time, to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(DateTime<Utc>);

impl Moment {
    /// The moment so many ticks after 1970; none beyond the years that a calendar here has.
    pub fn at(ticks: i64, unit: TickUnit) -> Option<Self> {
        let (per_second, nanos_per_tick) = (unit.per_second(), nanos_per_tick(unit));
        let (seconds, rest) = (ticks.div_euclid(per_second), ticks.rem_euclid(per_second));
        DateTime::from_timestamp(seconds, (rest * nanos_per_tick) as u32).map(Self)
    }

    /// Ticks since 1970 (UTC); none where it lies between two ticks, or where 64 bits do not hold them.
    pub fn ticks(self, unit: TickUnit) -> Option<i64> {
        // A leap second has more than a second's nanoseconds, and so counts as the second after it.
        let (nanos, per_tick) = (i64::from(self.0.timestamp_subsec_nanos()), nanos_per_tick(unit));
        let ticks = self.0.timestamp().checked_mul(unit.per_second())?.checked_add(nanos / per_tick)?;
        (nanos % per_tick == 0).then_some(ticks)
    }

    /// The day that the moment lies in (UTC), counted from 1970-01-01, day 0.
    pub fn day(self) -> i32 {
        // A calendar's years, 262,000 either way, have fewer days than 32 bits count.
        self.0.timestamp().div_euclid(86_400) as i32
    }

    /// The last tick of the day that begins at this moment.
    pub fn last_tick_of_day(self, unit: TickUnit) -> Option<i64> {
        self.ticks(unit)?.checked_add(86_400 * unit.per_second() - 1)
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

fn nanos_per_tick(unit: TickUnit) -> i64 {
    1_000_000_000 / unit.per_second()
}

/// Patterns that are tried on text of which nothing is known, in this order: where all texts fit two of them, the
/// first.
const PATTERNS: [&str; 19] = [
    "%Y%m%d%H%M%S",
    "%Y%m%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y年%m月%d日",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%d-%b-%Y",
    "%a %b %e %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
];

/// How text says a time. What says no zone is in UTC.
#[derive(Debug, Clone, PartialEq)]
pub enum TimeFormat {
    /// ISO 8601: a date, or a date, `T` or a space, and a time of day to the minute, the second or a fraction of it, with
    /// `Z`, `UTC`, an offset such as `+08:00`, or nothing after it. Also the same as spreadsheets write it: with slashes
    /// or dots in the date, and without leading zeros, as in `2026/1/31 9:05`.
    Iso,
    /// A pattern in the form of strftime.
    Pattern {
        /// As it was given.
        pattern: String,
        /// Its parts.
        items: Vec<Item<'static>>,
    },
}

impl TimeFormat {
    /// The format of a strftime pattern, such as `%d/%m/%Y %H:%M:%S`.
    ///
    /// # Errors
    /// What is wrong with the pattern: a part that is unknown, or no date of a year, a month and a day.
    pub fn of_pattern(pattern: &str) -> Result<Self, String> {
        let items = StrftimeItems::new(pattern).parse_to_owned();
        let items = items.map_err(|_| "a `%` in it is followed by no letter that strftime knows".to_string())?;
        if items.contains(&Item::Fixed(Fixed::TimezoneName)) {
            return Err("names of zones, `%Z`, are not read; offsets such as +08:00 are, by `%z`".to_string());
        }
        let format = Self::Pattern { pattern: pattern.to_string(), items };
        let Self::Pattern { items, .. } = &format else { return Ok(format) };
        // What it writes of a time, it must read back as one of that day.
        let (mut written, some) = (String::new(), DateTime::<Utc>::from_timestamp(981_173_106, 0).unwrap_or_default());
        let read =
            write!(written, "{}", some.format_with_items(items.iter())).ok().and_then(|()| format.read(&written));
        match read {
            Some(Moment(read)) if read.date_naive() == some.date_naive() => Ok(format),
            _ => Err(format!("it says no whole date: {some} is written as `{written}`")),
        }
    }

    /// The first of the usual patterns that all texts fit, as times of the years 1900 to 2100 (for digits alone, 1990 to
    /// 2100); none without texts.
    pub fn pattern_of<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> Option<&'static str> {
        let [first, first_of_digits, last] = ["1900-01-01", "1990-01-01", "2101-01-01"].map(|day| Self::Iso.read(day));
        texts.clone().next()?;
        PATTERNS.into_iter().find(|pattern| {
            // Of our years: 19000101 is a number too.
            let first = if pattern.starts_with("%Y%m") { first_of_digits } else { first };
            Self::of_pattern(pattern).is_ok_and(|format| {
                texts.clone().all(|text| format.read(text).is_some_and(|at| Some(at) >= first && Some(at) < last))
            })
        })
    }

    /// The moment that a text says; none where it does not have this format.
    pub fn read(&self, text: &str) -> Option<Moment> {
        match self {
            Self::Iso => read_iso(text.trim()).or_else(|| read_iso(&padded(text.trim())?)),
            Self::Pattern { items, .. } => read_pattern(text.trim(), items),
        }
    }

    /// Whether a text is a date without a time of day.
    pub fn is_date(text: &str) -> bool {
        let text = text.trim();
        text.len() <= 10 && Self::Iso.read(text).is_some()
    }
}

/// Arrow reads ISO 8601, but only with seconds, and it drops digits beyond nanoseconds.
fn read_iso(text: &str) -> Option<Moment> {
    let mut text = std::borrow::Cow::Borrowed(text);
    if let Some(before) = text.strip_suffix("UTC") {
        text = format!("{}Z", before.trim_end()).into();
    }
    let bytes = text.as_bytes();
    if bytes.get(13) == Some(&b':') && bytes.len() >= 16 && bytes.get(16) != Some(&b':') {
        text = format!("{}:00{}", text.get(..16)?, text.get(16..)?).into();
    }
    let fraction = text.as_bytes().get(20..).unwrap_or_default();
    if text.as_bytes().get(19) == Some(&b'.') && fraction.iter().take_while(|b| b.is_ascii_digit()).count() > 9 {
        return None;
    }
    string_to_datetime(&Utc, &text).ok().map(Moment)
}

/// Year, month, day and hour as a spreadsheet writes them, `2026/1/31 9:05`, in the form of ISO 8601; none where the
/// text has another form, or has that of ISO 8601 already.
fn padded(text: &str) -> Option<String> {
    let digits = |text: &str, most: usize| {
        let length = text.bytes().take_while(u8::is_ascii_digit).count();
        (1..=most).contains(&length).then_some(length)
    };
    let (year, rest) = text.split_at_checked(4)?;
    let mark = rest.chars().next().filter(|mark| matches!(mark, '/' | '.' | '-'))?;
    let (month, rest) = rest[1..].split_at(digits(&rest[1..], 2)?);
    let rest = rest.strip_prefix(mark)?;
    let (day, rest) = rest.split_at(digits(rest, 2)?);
    let date = format!("{year}-{month:0>2}-{day:0>2}");
    let iso = match rest.trim_start_matches([' ', 'T']) {
        "" if rest.is_empty() => date,
        time if time.len() + 1 == rest.len() => match digits(time, 2)? {
            1 => format!("{date}T0{time}"),
            _ => format!("{date}T{time}"),
        },
        _ => return None,
    };
    (iso != text).then_some(iso)
}

fn read_pattern(text: &str, items: &[Item<'static>]) -> Option<Moment> {
    let mut parsed = Parsed::new();
    parse(&mut parsed, text, items.iter()).ok()?;
    let has_hour = parsed.hour_mod_12().is_some() || parsed.hour_div_12().is_some();
    if has_hour && parsed.minute().is_none() {
        parsed.set_minute(0).ok()?;
    }
    let moment = if !has_hour && parsed.timestamp().is_none() {
        parsed.to_naive_date().ok()?.and_time(NaiveTime::MIN).and_utc()
    } else if parsed.offset().is_some() {
        parsed.to_datetime().ok()?.to_utc()
    } else {
        parsed.to_naive_datetime_with_offset(0).ok()?.and_utc()
    };
    Some(Moment(moment))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-31T23:59:59Z in seconds.
    const SECOND: i64 = 1_769_903_999;

    fn micros(format: &TimeFormat, text: &str) -> Option<i64> {
        format.read(text)?.ticks(TickUnit::Microsecond)
    }

    #[test]
    fn iso_text_in_every_spelling_is_the_moment_it_says() {
        let micro = 1_000_000 * SECOND;
        for (text, expected) in [
            ("2026-01-31", 1_000_000 * (SECOND + 1 - 86_400)),
            ("2026-01-31T23:59:59", micro),
            ("2026-01-31 23:59:59", micro),
            (" 2026-01-31T23:59:59Z ", micro),
            ("2026-01-31 23:59:59 UTC", micro),
            ("2026-01-31T23:59:59.250001", micro + 250_001),
            ("2026-02-01T07:59:59.5+08:00", micro + 500_000),
            ("2026-01-31 15:59:59-0800", micro),
            ("2026-01-31T23:59", micro - 59_000_000),
            ("2026-02-01T07:59+08:00", micro - 59_000_000),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2026/1/31", 1_000_000 * (SECOND + 1 - 86_400)),
            ("2026.1.31", 1_000_000 * (SECOND + 1 - 86_400)),
            ("2026-1-31", 1_000_000 * (SECOND + 1 - 86_400)),
            ("2026/01/31 23:59:59", micro),
            ("2026/1/31 23:59:59.5", micro + 500_000),
            ("2026/2/1 7:59:59+08:00", micro),
            ("2026/2/1 7:59+08:00", micro - 59_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ] {
            assert_eq!(micros(&TimeFormat::Iso, text), Some(expected), "{text}");
        }
        for text in [
            "",
            "2026",
            "2026-02-30",
            "2026-01-31T24:00:00",
            "2026-01-31T23:59:59 CET",
            "2026-01-31T23:59:59+8",
            "2026-01-31T23:59:59.1234567891Z",
            "2026-01-31x23:59:59",
            "31.01.2026 23:59:59",
            "2026-01-31T23:5é",
            "2026/1-31",
            "2026/13/1",
            "2026/1/31 9",
            "2026/1/31  9:05",
            "2026/1/31 9:05 Uhr",
            "26/1/31",
            "2026/é/1",
            "éé/1/31",
            "2026/1/31/",
            "2026-01-31T23:59é:59",
            "1769903999",
        ] {
            assert_eq!(TimeFormat::Iso.read(text), None, "{text}");
        }
        assert!(TimeFormat::is_date("2026-01-31") && !TimeFormat::is_date("2026-01-31T00:00:00"));
    }

    #[test]
    fn text_is_read_by_its_pattern_and_a_pattern_without_a_date_is_refused() {
        for (pattern, text, expected) in [
            ("%d/%m/%Y %H:%M:%S", "31/01/2026 23:59:59", SECOND),
            ("%d/%m/%Y", "31/01/2026", SECOND + 1 - 86_400),
            ("%Y%m%d%H%M%S", "20260131235959", SECOND),
            ("%a %b %e %H:%M:%S %z %Y", "Sun Feb  1 07:59:59 +0800 2026", SECOND),
            ("%m/%d/%y %I:%M:%S %p", "01/31/26 11:59:59 PM", SECOND),
            ("%Y-%m-%d %H", "2026-01-31 23", SECOND - 3599),
            ("%s", "1769903999", SECOND),
        ] {
            let format = TimeFormat::of_pattern(pattern).unwrap();
            assert_eq!(micros(&format, text), Some(expected * 1_000_000), "{pattern}");
            assert_eq!(format.read("soon"), None);
        }
        assert_eq!(TimeFormat::of_pattern("%d/%m/%Y").unwrap().read("01/31/2026"), None);
        for (pattern, says) in [
            ("%H:%M:%S", "no whole date"),
            ("%d/%m", "no whole date"),
            ("today", "no whole date"),
            ("%Y-%m-%d %Q", "followed by no letter"),
            ("%Y-%m-%d %H:%M:%S %Z", "`%Z`"),
        ] {
            let error = TimeFormat::of_pattern(pattern).unwrap_err();
            assert!(error.contains(says), "{pattern}: {error}");
        }
    }

    #[test]
    fn the_pattern_of_texts_is_one_that_all_of_them_fit_in_our_years() {
        for (texts, expected) in [
            (&["20260131", "20251224"][..], Some("%Y%m%d")),
            (&["2026/1/31", "2025/12/24"], Some("%Y/%m/%d")),
            (&["2026年1月31日"], Some("%Y年%m月%d日")),
            (&["31.01.2026", "24.12.2025"], Some("%d.%m.%Y")),
            (&["01/02/2026", "24/12/2025"], Some("%d/%m/%Y")),
            (&["01/02/2026", "12/24/2025"], Some("%m/%d/%Y")),
            (&["31-Jan-2026"], Some("%d-%b-%Y")),
            (&["31/12/1957"], Some("%d/%m/%Y")),
            (&["19000101"], None),
            (&["20260131", "soon"], None),
            (&[], None),
        ] {
            assert_eq!(TimeFormat::pattern_of(texts.iter().copied()), expected, "{texts:?}");
        }
        let day = |text: &str| TimeFormat::Iso.read(text).unwrap().day();
        assert_eq!(["1970-01-01", "1969-12-31T23:59:59", "2026-01-31T23:59:59Z"].map(day), [0, -1, 20_484]);
    }

    #[test]
    fn a_moment_has_ticks_only_where_no_digit_is_cut_and_none_that_wrap_around() {
        let at = |text: &str| TimeFormat::Iso.read(text).unwrap();
        let fine = at("2026-01-31T23:59:59.000000001Z");
        assert_eq!(fine.ticks(TickUnit::Nanosecond), Some(SECOND * 1_000_000_000 + 1));
        assert_eq!(fine.ticks(TickUnit::Microsecond), None);
        assert_eq!(at("9999-12-31T23:59:59Z").ticks(TickUnit::Nanosecond), None);
        for unit in TickUnit::ALL {
            let ticks = at("2026-01-31T23:59:59Z").ticks(unit).unwrap();
            assert_eq!(ticks, SECOND * unit.per_second());
            assert_eq!(Moment::at(ticks, unit).unwrap().to_string(), "2026-01-31T23:59:59Z");
        }
        assert_eq!(Moment::at(-1, TickUnit::Millisecond).unwrap().to_string(), "1969-12-31T23:59:59.999Z");
        assert_eq!(Moment::at(i64::MAX, TickUnit::Second), None);
        assert_eq!(at("2026-01-31").last_tick_of_day(TickUnit::Second), Some(SECOND));
    }
}
