//! Date features: how long ago a date was, its day of the week, or its month.
//!
//! The age is counted in days before a reference, the newest date that the fit met. The reference is part of the fitted
//! state, so a date has the same codes in training, at inference, and on later nights that extend the state; a date
//! after the reference has a negative age. Ages are long-tailed, so it is sign(age) * ln(1 + |age|) that is
//! standardised, as of `log1p` numbers.
//!
//! Days are those of UTC. Null is missing; so are dates outside the years 1900 to 2100, such as 9999-12-31 where it
//! stands for "no end", which are counted as not finite, and text that is no date, counted as unreadable.

use crate::counts::FeatureCounts;
use crate::encode::Encode;
use crate::error::ColumnError;
use crate::log1p::signed_ln_1p;
use crate::moments::Moments;
use crate::numeric::{CLIP, NumericBounds};
use crate::values::{Value, ValueMap, for_each_value};
use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use twotower_artifacts::schema::{FIRST_VALUE, MISSING};
use twotower_artifacts::{Column, Moment, TickUnit, TimeFormat};

/// The first and the last day of the years 1900 to 2100.
pub(crate) const FIRST_DAY: i32 = -25_567;
pub(crate) const LAST_DAY: i32 = 47_846;
/// Spellings that begin with the year, which no day can be taken for.
const YEAR_FIRST: [&str; 6] = ["%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y%m%d", "%Y.%m.%d", "%Y年%m月%d日"];

/// What of a date a feature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatePart {
    /// Days before the newest date of the fit, by their logarithm.
    #[default]
    Age,
    /// The day of the week, Monday first.
    Weekday,
    /// The month.
    Month,
}

/// Configuration of a date feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DateSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads; its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What of the date it is.
    #[serde(default)]
    pub part: DatePart,
    /// How text, or the digits of integers, say a date, in the form of strftime; where it is absent, in ISO 8601 or
    /// another spelling that begins with the year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// What numbers count since 1970, also those in text where no `format` is given; where it is absent, the digits of
    /// integers are a date such as 20260131.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TickUnit>,
}

impl DateSpec {
    /// Slots of a part that is a code.
    pub(crate) fn cardinality(&self) -> Option<u32> {
        match self.part {
            DatePart::Age => None,
            DatePart::Weekday => Some(FIRST_VALUE + 7),
            DatePart::Month => Some(FIRST_VALUE + 12),
        }
    }

    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<String> {
        let pattern = self.format.as_ref()?;
        TimeFormat::of_pattern(pattern)
            .err()
            .map(|reason| format!("`format` = \"{pattern}\": {reason}; expected a pattern such as \"%d/%m/%Y\""))
    }

    /// Whether these are the bounds that the part needs.
    pub(crate) fn fits(&self, bounds: Option<&NumericBounds>) -> bool {
        match (self.part, bounds) {
            (DatePart::Age, Some(NumericBounds::Age { newest, deviation, .. })) => {
                (FIRST_DAY..=LAST_DAY).contains(newest) && *deviation > 0.0
            }
            (DatePart::Weekday | DatePart::Month, None) => true,
            _ => false,
        }
    }
}

/// What a cell of a column of dates holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DateCell {
    /// Day since 1970-01-01.
    Day(i32),
    Null,
    OutOfRange,
    Unreadable,
}

impl DateCell {
    fn of_day(day: i64) -> Self {
        match i32::try_from(day).ok().filter(|day| (FIRST_DAY..=LAST_DAY).contains(day)) {
            Some(day) => DateCell::Day(day),
            None => DateCell::OutOfRange,
        }
    }

    /// The day as ISO 8601 writes it.
    pub(crate) fn iso(self) -> Option<String> {
        let DateCell::Day(day) = self else { return None };
        let (year, month, of_month) = civil(day);
        Some(format!("{year:04}-{month:02}-{of_month:02}"))
    }
}

/// Reads columns as dates.
pub(crate) struct DateReader {
    formats: Vec<TimeFormat>,
    unit: Option<TickUnit>,
    /// Whether text holds numbers of the unit.
    counts_in_text: bool,
}

impl DateReader {
    pub(crate) fn new(spec: &DateSpec) -> Self {
        let of_patterns = |patterns: &[&str]| -> Vec<TimeFormat> {
            patterns.iter().filter_map(|pattern| TimeFormat::of_pattern(pattern).ok()).collect()
        };
        let formats = match &spec.format {
            Some(pattern) => of_patterns(&[pattern.as_str()]),
            None => [vec![TimeFormat::Iso], of_patterns(&YEAR_FIRST)].concat(),
        };
        Self { formats, unit: spec.unit, counts_in_text: spec.unit.is_some() && spec.format.is_none() }
    }

    /// Appends what each cell holds of a column that is not a dictionary.
    ///
    /// # Errors
    /// [`ColumnError::Type`] for a type that holds no dates.
    pub(crate) fn read(&self, column: &dyn Array, out: &mut Vec<DateCell>) -> Result<(), ColumnError> {
        match column.data_type() {
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>().iter();
                out.extend(days.map(|day| day.map_or(DateCell::Null, |day| DateCell::of_day(day.into()))));
                Ok(())
            }
            DataType::Date64 => ticks(column, 1_000, out),
            DataType::Timestamp(TimeUnit::Second, _) => ticks(column, 1, out),
            DataType::Timestamp(TimeUnit::Millisecond, _) => ticks(column, 1_000, out),
            DataType::Timestamp(TimeUnit::Microsecond, _) => ticks(column, 1_000_000, out),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => ticks(column, 1_000_000_000, out),
            DataType::Boolean => Err(ColumnError::Type),
            _ => for_each_value(column, |value| out.push(self.cell(value))),
        }
    }

    /// What text holds.
    pub(crate) fn read_text(&self, text: &str) -> DateCell {
        self.text(text.trim())
    }

    fn cell(&self, value: Value<'_>) -> DateCell {
        match value {
            Value::Null | Value::Text("") => DateCell::Null,
            Value::Int(number) => self.number(number),
            Value::Single(number) => self.float(number.into()),
            Value::Float(number) => self.float(number),
            Value::Text(text) => self.read_text(text),
            Value::Bool(_) | Value::UInt(_) => DateCell::Unreadable,
        }
    }

    fn float(&self, number: f64) -> DateCell {
        match () {
            () if number.is_nan() => DateCell::Null,
            () if number.abs() < 9e18 => self.number(number.floor() as i64),
            () => DateCell::OutOfRange,
        }
    }

    fn number(&self, number: i64) -> DateCell {
        match self.unit {
            Some(unit) => DateCell::of_day(number.div_euclid(86_400 * unit.per_second())),
            None => self.text(&number.to_string()),
        }
    }

    fn text(&self, text: &str) -> DateCell {
        if text.is_empty() {
            return DateCell::Null;
        }
        if self.counts_in_text {
            return text.parse::<f64>().map_or(DateCell::Unreadable, |number| self.float(number));
        }
        let read: Option<Moment> = self.formats.iter().find_map(|format| format.read(text));
        read.map_or(DateCell::Unreadable, |moment| DateCell::of_day(moment.day().into()))
    }
}

/// Days of a column that counts since 1970, so many to the second.
fn ticks(column: &dyn Array, per_second: i64, out: &mut Vec<DateCell>) -> Result<(), ColumnError> {
    let ticks = arrow_cast::cast(column, &DataType::Int64).map_err(|_| ColumnError::Type)?;
    let day = |ticks: i64| DateCell::of_day(ticks.div_euclid(86_400 * per_second));
    out.extend(ticks.as_primitive::<Int64Type>().iter().map(|ticks| ticks.map_or(DateCell::Null, day)));
    Ok(())
}

/// Year, month and day of the month of a day, by Hinnant's `civil_from_days`, in years that begin with March.
fn civil(day: i32) -> (i32, u32, u32) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i32::from(month <= 2), month as u32, of_month as u32)
}

/// sign(age) * ln(1 + |age|) of an age in days.
fn logarithm(newest: i32, day: i32) -> f64 {
    let mut age = [f64::from(newest - day)];
    signed_ln_1p(&mut age);
    age[0]
}

/// Learns the reference of ages, and their spread; independent of the order and the split of the data.
///
/// # Memory
/// A count for each day of two centuries at most: some 2 MiB.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgeFit {
    days: BTreeMap<i32, u64>,
}

impl AgeFit {
    pub(crate) fn add(&mut self, spec: &DateSpec, column: &ArrayRef) -> Result<(), ColumnError> {
        for cell in cells(&DateReader::new(spec), column)? {
            if let DateCell::Day(day) = cell {
                *self.days.entry(day).or_default() += 1;
            }
        }
        Ok(())
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (day, times) in other.days {
            *self.days.entry(day).or_default() += times;
        }
    }

    pub(crate) fn finish(self) -> NumericBounds {
        // Of no dates at all, any reference is as good.
        let newest = self.days.last_key_value().map_or(0, |(day, _)| *day);
        let mut moments = Moments::default();
        self.days.iter().for_each(|(day, times)| moments.add(logarithm(newest, *day), *times));
        let (mean, deviation) = moments.mean_and_deviation();
        NumericBounds::Age { newest, mean, deviation }
    }
}

/// What each row of a column holds.
pub(crate) fn cells(reader: &DateReader, column: &ArrayRef) -> Result<Vec<DateCell>, ColumnError> {
    let mut rows = Vec::new();
    ValueMap::default().map_entries(column, |entries, out| reader.read(entries, out), DateCell::Null, &mut rows)?;
    Ok(rows)
}

/// All numbers whose digits say a day, where nothing else says how dates are written, with their days.
pub(crate) fn date_digits(reader: &DateReader) -> Vec<(i64, i64)> {
    let mut digits = Vec::new();
    for day in FIRST_DAY..=LAST_DAY {
        let (year, month, of_month) = civil(day);
        let front = i64::from(year) * 100 + i64::from(month);
        // A day of one digit may stand without a zero before it.
        let short = (of_month < 10).then_some(front * 10 + i64::from(of_month));
        for number in std::iter::once(front * 100 + i64::from(of_month)).chain(short) {
            if reader.number(number) == DateCell::Day(day) {
                digits.push((number, i64::from(day)));
            }
        }
    }
    digits
}

/// Encodes columns of dates: `Dense` of width 2 for ages, as of numeric features, `Code` for the other parts.
pub(crate) struct DateEncoder {
    reader: DateReader,
    part: DatePart,
    bounds: Option<NumericBounds>,
    map: ValueMap<DateCell>,
    rows: Vec<DateCell>,
}

impl DateEncoder {
    pub(crate) fn new(spec: &DateSpec, bounds: Option<NumericBounds>) -> Self {
        let (reader, map) = (DateReader::new(spec), ValueMap::default());
        Self { reader, part: spec.part, bounds, map, rows: Vec::new() }
    }
}

impl Encode for DateEncoder {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError> {
        let Self { reader, part, bounds, map, rows } = self;
        rows.clear();
        map.map_entries(column, |entries, out| reader.read(entries, out), DateCell::Null, rows)?;
        let times = |which: DateCell| rows.iter().filter(|cell| **cell == which).count() as u64;
        let [null, out_of_range, junk] = [DateCell::Null, DateCell::OutOfRange, DateCell::Unreadable].map(times);
        counts.values += rows.len() as u64;
        counts.missing += null + out_of_range + junk;
        counts.not_finite += out_of_range;
        counts.junk += junk;
        match (bounds, out) {
            (Some(NumericBounds::Age { newest, mean, deviation }), Column::Dense { width: 2, values }) => {
                values.extend(rows.iter().flat_map(|cell| match cell {
                    DateCell::Day(day) => {
                        let scaled = (logarithm(*newest, *day) - *mean) / *deviation;
                        [scaled.clamp(-CLIP, CLIP) as f32, 0.0]
                    }
                    _ => [0.0, 1.0],
                }));
            }
            (None, Column::Code(codes)) => {
                let code = |day: i32| match part {
                    // The first day of 1970 was a Thursday.
                    DatePart::Age | DatePart::Weekday => (day + 3).rem_euclid(7) as u32,
                    DatePart::Month => civil(day).1 - 1,
                };
                codes.extend(rows.iter().map(|cell| match cell {
                    DateCell::Day(day) => FIRST_VALUE + code(*day),
                    _ => MISSING,
                }));
            }
            _ => unreachable!("a date feature's column has the shape of its schema, and bounds if it is an age"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Int32Type;
    use arrow_array::{
        BooleanArray, Date32Array, DictionaryArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use std::sync::Arc;

    fn spec(json: serde_json::Value) -> DateSpec {
        serde_json::from_value(json).unwrap()
    }

    fn days(spec: &DateSpec, column: ArrayRef) -> Vec<Option<String>> {
        cells(&DateReader::new(spec), &column).unwrap().into_iter().map(DateCell::iso).collect()
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    const DAY: &str = "2026-01-31";
    /// Of that day.
    const SECOND: i64 = 1_769_903_999;

    #[test]
    fn dates_of_every_type_and_spelling_are_the_day_they_say() {
        let plain = spec(serde_json::json!({ "name": "d" }));
        let spelt = ["2026-01-31", "2026-01-31 23:59:59", "2026/1/31", "2026.01.31", "20260131", "2026年1月31日"];
        assert!(days(&plain, texts(&spelt)).iter().all(|day| day.as_deref() == Some(DAY)));
        let with = |key: &str, value: &str| spec(serde_json::json!({ "name": "d", key: value }));
        let both = spec(serde_json::json!({ "name": "d", "format": "%d/%m/%Y", "unit": "second" }));
        for (spec, column) in [
            (&plain, Arc::new(Date32Array::from(vec![20_484])) as ArrayRef),
            (&plain, Arc::new(TimestampMicrosecondArray::from(vec![SECOND * 1_000_000 + 7]))),
            (&plain, Arc::new(Int64Array::from(vec![20_260_131]))),
            (&plain, Arc::new(["2026-01-31"].into_iter().collect::<DictionaryArray<Int32Type>>())),
            (&with("unit", "second"), Arc::new(Int64Array::from(vec![SECOND]))),
            (&with("unit", "millisecond"), Arc::new(Float64Array::from(vec![SECOND as f64 * 1e3]))),
            (&with("unit", "second"), texts(&["1769903999"])),
            (&with("format", "%d/%m/%Y"), texts(&["31/01/2026"])),
            (&both, texts(&["31/01/2026"])),
            (&both, Arc::new(Int64Array::from(vec![SECOND]))),
        ] {
            assert_eq!(days(spec, column.clone()), [Some(DAY.to_string())], "{:?}", column.data_type());
        }
        // Before 1970, days begin at midnight as well.
        assert_eq!(days(&with("unit", "second"), Arc::new(Int64Array::from(vec![-1]))), [Some("1969-12-31".into())]);
        let none = ["", "soon", "9999-12-31", "0001-01-01", "31/01/2026"];
        let read = cells(&DateReader::new(&plain), &texts(&none)).unwrap();
        use DateCell::{Null, OutOfRange, Unreadable};
        assert_eq!(read, [Null, Unreadable, OutOfRange, OutOfRange, Unreadable]);
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true]));
        assert!(matches!(cells(&DateReader::new(&plain), &flags), Err(ColumnError::Type)));
        assert_eq!([FIRST_DAY, LAST_DAY].map(civil), [(1900, 1, 1), (2100, 12, 31)]);
    }

    #[test]
    fn ages_count_from_the_newest_date_of_the_fit_and_stay_what_they_were_for_later_dates() {
        let age = spec(serde_json::json!({ "name": "d" }));
        let fitted = texts(&["2026-01-31", "2026-01-30", "2025-01-31", "", "9999-12-31"]);
        let mut fit = AgeFit::default();
        fit.add(&age, &fitted.slice(0, 2)).unwrap();
        let mut other = AgeFit::default();
        other.add(&age, &fitted.slice(2, 3)).unwrap();
        fit.merge(other);
        let bounds = fit.finish();
        let NumericBounds::Age { newest, mean, deviation } = bounds else { panic!("{bounds:?}") };
        assert_eq!(newest, 20_484);
        let logs = [0.0, 2f64.ln(), 366f64.ln()];
        let expected = logs.iter().sum::<f64>() / 3.0;
        let spread = (logs.iter().map(|log| (log - expected).powi(2)).sum::<f64>() / 3.0).sqrt();
        assert!((mean - expected).abs() < 1e-12 && (deviation - spread).abs() < 1e-12);
        assert!(age.fits(Some(&bounds)) && !age.fits(None));
        let read: NumericBounds = serde_json::from_str(&serde_json::to_string(&bounds).unwrap()).unwrap();
        assert_eq!(read, bounds);
        let (mut out, mut counts) = (Column::Dense { width: 2, values: Vec::new() }, FeatureCounts::default());
        let later = texts(&["2026-01-30", "2026-02-03", "", "soon", "9999-12-31"]);
        DateEncoder::new(&age, Some(bounds)).encode(&later, &mut out, &mut counts).unwrap();
        let Column::Dense { values, .. } = out else { unreachable!() };
        let scaled = |log: f64| ((log - mean) / deviation) as f32;
        assert_eq!(values[..4], [scaled(2f64.ln()), 0.0, scaled(-(4f64.ln())), 0.0]);
        assert_eq!(values[4..], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!((counts.values, counts.missing, counts.not_finite, counts.junk), (5, 3, 1, 1));
    }

    #[test]
    fn weekdays_and_months_are_codes_from_monday_and_january_on() {
        let codes = |part: &str, values: &[&str]| {
            let spec = spec(serde_json::json!({ "name": "d", "part": part }));
            assert!(spec.fits(None));
            let mut out = Column::Code(Vec::new());
            DateEncoder::new(&spec, None).encode(&texts(values), &mut out, &mut FeatureCounts::default()).unwrap();
            let Column::Code(codes) = out else { unreachable!() };
            assert!(codes.iter().all(|code| *code < spec.cardinality().unwrap()));
            codes
        };
        let week = ["2026-01-26", "2026-01-27", "2026-02-01", "1969-12-31", "soon"];
        assert_eq!(codes("weekday", &week), [3, 4, 9, 5, MISSING]);
        assert_eq!(codes("month", &["2026-01-01", "2024-02-29", "1999-12-31", ""]), [3, 4, 14, MISSING]);
    }

    #[test]
    fn digits_of_dates_are_all_numbers_that_read_as_days() {
        let reader = DateReader::new(&spec(serde_json::json!({ "name": "d" })));
        let digits: BTreeMap<i64, i64> = date_digits(&reader).into_iter().collect();
        assert!(digits.len() > 73_414 && digits[&20_260_131] == 20_484);
        let (mut number, mut days) = (1i64, 0);
        for step in 0..400_000i64 {
            // Numbers of all lengths, and all those around dates.
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let near = 19_000_101 + step * 5;
            for number in [number >> (step % 63), near, near / 10, 20_260_131_000_000 + step * 7_919, -near] {
                let day = if let DateCell::Day(day) = reader.number(number) { Some(i64::from(day)) } else { None };
                assert_eq!(day, digits.get(&number).copied(), "{number}");
                days += u32::from(day.is_some());
            }
        }
        assert!(days > 1000);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let problem = |json: serde_json::Value| spec(json).problem().unwrap_or_default();
        assert!(problem(serde_json::json!({ "name": "d", "format": "%H:%M" })).contains("no whole date"));
        assert_eq!(problem(serde_json::json!({ "name": "d", "format": "%Y%m%d" })), "");
    }
}
