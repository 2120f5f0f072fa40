//! A column of times: in which form it holds them, and how these are read.

use super::numbers::Number;
use super::units::{of_our_years, plausible};
use crate::config::{TimeLimit, TimeSettings};
use crate::error::PipelineError;
use crate::rows::columns::{BATCH_BYTES, BATCH_ROWS, cast, column, place, whole};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int64Array};
use arrow_schema::{DataType, TimeUnit};
use std::ops::RangeInclusive;
use std::sync::Arc;
use twotower_artifacts::TickUnit;
use twotower_tables::{ReadOptions, Table, TableBatch, TimeFormat};

/// A column of times.
pub(super) struct TimeColumn {
    pub name: String,
    /// What its values are.
    values: Values,
    pub form: Form,
    /// The unit that its times count, where its type or the job says so, or where it holds dates or fractions.
    pub unit: Option<TickUnit>,
    /// The times that make sense.
    plausible: RangeInclusive<i64>,
    /// Whether the job gives both ends of these.
    pub limited: bool,
}

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// Dates or timestamps, in a unit.
    Times(TickUnit),
    /// Whole numbers by their type.
    Integers,
    /// 64-bit floats.
    Floats,
    /// Decimals with digits after the point.
    Decimals,
    /// Text.
    Text,
}

/// The form in which a column holds times.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    /// By its type.
    Typed,
    /// Whole numbers, of any type.
    Whole,
    /// Numbers of a unit with fractions. Their times count microseconds.
    Fractions(TickUnit),
    /// Dates and times, as text or in the digits of a number.
    Dates(TimeFormat),
}

impl Form {
    /// What a value of this form is, for messages.
    fn expected(&self, unit: Option<TickUnit>) -> String {
        let unit = unit.map_or("ticks", TickUnit::plural);
        match self {
            Form::Typed => "a time".into(),
            Form::Whole => "a whole number".into(),
            Form::Fractions(unit) => format!("a number of {}", unit.plural()),
            Form::Dates(TimeFormat::Iso) => format!(
                "a time in ISO 8601, such as 2026-01-31T23:59:59+08:00, in whole {unit}; `tables.interactions.timestamp_format` and `.timestamp_unit` read others"
            ),
            Form::Dates(TimeFormat::Pattern { pattern, .. }) => {
                format!("a time as `{pattern}`, in whole {unit} (`tables.interactions.timestamp_format`)")
            }
        }
    }
}

impl Values {
    /// What the values of a type are; none for a type that holds no times. 32-bit floats hold none: of our years, they
    /// tell times apart by minutes at best.
    pub fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Date32 => Some(Values::Times(TickUnit::Second)),
            DataType::Date64 => Some(Values::Times(TickUnit::Millisecond)),
            DataType::Timestamp(unit, _) => Some(Values::Times(match unit {
                TimeUnit::Second => TickUnit::Second,
                TimeUnit::Millisecond => TickUnit::Millisecond,
                TimeUnit::Microsecond => TickUnit::Microsecond,
                TimeUnit::Nanosecond => TickUnit::Nanosecond,
            })),
            DataType::Dictionary(_, values) => Self::of(values),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Values::Text),
            DataType::Float64 => Some(Values::Floats),
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale) => Some(if *scale > 0 { Values::Decimals } else { Values::Integers }),
            other => other.is_integer().then_some(Values::Integers),
        }
    }
}

/// What columns of times are, for messages.
const EXPECTED: &str = "dates, timestamps, integers, decimals, 64-bit floats or text";

/// The first values of a column.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Values that are not null.
    pub present: u64,
    /// Values that are dates or times in ISO 8601.
    pub iso: u64,
    /// Values that are numbers.
    pub numbers: u64,
    /// Values that are numbers with fractions.
    pub fractions: u64,
    /// By unit, how many values read as times of our years, and how many of these have fractions.
    pub ours: [(u64, u64); TickUnit::ALL.len()],
    /// The values as text, for other formats.
    pub texts: Vec<ArrayRef>,
}

impl Sample {
    /// The first values of a table's column.
    pub fn of(table: &Table, name: &str, values: Values) -> Result<Self, PipelineError> {
        let read = ReadOptions { columns: &[name.to_string()], rows: 0..BATCH_ROWS as u64, batch_rows: BATCH_ROWS };
        let mut sample = Self::default();
        for batch in table.leniently().read_within(read, BATCH_BYTES)? {
            sample.add(&batch?, name, values)?;
        }
        Ok(sample)
    }

    fn add(&mut self, batch: &TableBatch, name: &str, values: Values) -> Result<(), PipelineError> {
        let raw = column(batch, name)?;
        if values == Values::Floats {
            let floats = cast(batch, name, raw, &DataType::Float64)?;
            for value in floats.as_primitive::<Float64Type>().iter().flatten() {
                self.number(integer(value.trunc()), value.is_finite() && value.fract() != 0.0);
            }
            return Ok(());
        }
        let texts = cast(batch, name, raw, &DataType::Utf8)?;
        for text in texts.as_string::<i32>().iter().flatten() {
            match Number::parse(text) {
                // A rounded time is of the same years.
                Some(number) => self.number(number.rounded(1), number.whole().is_none()),
                None => {
                    self.present += 1;
                    self.iso += u64::from(TimeFormat::Iso.read(text).is_some());
                }
            }
        }
        self.texts.push(texts);
        Ok(())
    }

    fn number(&mut self, whole: Option<i64>, has_fraction: bool) {
        self.present += 1;
        self.numbers += 1;
        self.fractions += u64::from(has_fraction);
        let ours = whole.and_then(|whole| TickUnit::ALL.iter().position(|unit| of_our_years(*unit).contains(&whole)));
        if let Some(unit) = ours {
            self.ours[unit].0 += 1;
            self.ours[unit].1 += u64::from(has_fraction);
        }
    }

    /// The unit in which most of the numbers read as times of our years.
    pub fn unit(&self) -> Option<TickUnit> {
        let most = TickUnit::ALL.iter().zip(self.ours).find(|(_, (count, _))| 2 * count > self.numbers);
        most.map(|(unit, _)| *unit)
    }

    /// The form of a column with these values; numbers are in the unit that the job states, if it does.
    fn form(&self, values: Values, stated: Option<TickUnit>) -> Form {
        if values == Values::Text && self.iso >= self.numbers {
            return Form::Dates(TimeFormat::Iso);
        }
        let fractions = |unit: TickUnit| {
            let of_unit = TickUnit::ALL.iter().zip(self.ours).find(|(other, _)| **other == unit);
            if stated.is_some() { self.fractions } else { of_unit.map_or(0, |(_, (_, fractions))| fractions) }
        };
        match stated.or_else(|| self.unit()) {
            Some(unit @ (TickUnit::Second | TickUnit::Millisecond)) if fractions(unit) > 0 => Form::Fractions(unit),
            _ => Form::Whole,
        }
    }
}

impl TimeColumn {
    /// The column of a table that the job's settings name.
    ///
    /// # Errors
    /// As [`super::EventTimes::open`].
    pub fn open(table: &Table, name: &str, times: &TimeSettings) -> Result<Self, PipelineError> {
        let data_type = &table.column(name)?.data_type;
        let values = Values::of(data_type).ok_or_else(|| {
            PipelineError::Data(format!(
                "table `{}`: column `{name}` is {data_type}, expected {EXPECTED}{}",
                table.name(),
                if data_type.is_floating() { "; 32-bit floats cannot tell the seconds of a day apart" } else { "" }
            ))
        })?;
        let refuse = |setting: &str, value: &str, why: &str| {
            Err(PipelineError::usage(format!(
                "`tables.interactions.{setting}` = \"{value}\": column `{name}` of table `{}` is {data_type}, {why}",
                table.name()
            )))
        };
        let form = match (values, &times.format) {
            (Values::Text | Values::Integers, Some(pattern)) => {
                let format = TimeFormat::of_pattern(pattern).map_err(|reason| {
                    PipelineError::usage(format!("`tables.interactions.timestamp_format` = \"{pattern}\": {reason}"))
                })?;
                Form::Dates(format)
            }
            (_, Some(pattern)) => {
                return refuse("timestamp_format", pattern, "and a format is for text or for the digits of integers");
            }
            (Values::Times(unit), None) => match times.unit.filter(|stated| *stated != unit) {
                None => Form::Typed,
                Some(stated) => {
                    let why = format!("whose times count {}; leave the setting out", unit.plural());
                    return refuse("timestamp_unit", stated.name(), &why);
                }
            },
            (Values::Integers, None) => Form::Whole,
            _ => Sample::of(table, name, values)?.form(values, times.unit),
        };
        let unit = match (values, &form) {
            (Values::Times(unit), _) => Some(unit),
            (_, Form::Dates(_)) => Some(times.unit.unwrap_or(TickUnit::Microsecond)),
            (_, Form::Fractions(_)) => Some(TickUnit::Microsecond),
            _ => times.unit,
        };
        let usual = plausible(unit);
        let limits = Limits { name, form: &form, unit };
        let earliest =
            times.earliest.as_ref().map(|limit| limits.ticks("earliest", limit, TimeLimit::first)).transpose()?;
        let latest = times.latest.as_ref().map(|limit| limits.ticks("latest", limit, TimeLimit::last)).transpose()?;
        let limited = earliest.is_some() && latest.is_some();
        let plausible = earliest.unwrap_or(*usual.start())..=latest.unwrap_or(*usual.end());
        if let (Some(earliest), Some(latest)) = (&times.earliest, &times.latest)
            && plausible.is_empty()
        {
            return Err(PipelineError::usage(format!(
                "`tables.interactions.earliest` = {earliest} is later than `.latest` = {latest}"
            )));
        }
        Ok(Self { name: name.to_string(), values, form, unit, plausible, limited })
    }

    /// The times of rows.
    ///
    /// # Errors
    /// As [`super::EventTimes::read`].
    pub fn read(&self, batch: &TableBatch) -> Result<Int64Array, PipelineError> {
        let Self { name, unit, plausible, .. } = self;
        let raw = column(batch, name)?;
        if Values::of(raw.data_type()) != Some(self.values) {
            let (place, found) = (place(batch, name), raw.data_type());
            return Err(PipelineError::Data(format!("{place} is {found}, expected {EXPECTED}")));
        }
        let times = self.ticks(batch, raw)?;
        whole(batch, name, raw, &times, &self.form.expected(*unit))?;
        let times = times.as_primitive::<Int64Type>().clone();
        let Some(row) = times.values().iter().position(|time| !plausible.contains(time)) else { return Ok(times) };
        Err(PipelineError::Data(format!(
            "{} at {}: time {}, expected {} to {}{}; `tables.interactions.earliest` and `.latest` set other limits",
            place(batch, name),
            batch.place(row),
            times.value(row),
            plausible.start(),
            plausible.end(),
            unit.map_or(String::new(), |unit| format!(" in {} since 1970", unit.plural())),
        )))
    }

    /// The times of values; null where one is not in the column's form.
    fn ticks(&self, batch: &TableBatch, raw: &ArrayRef) -> Result<ArrayRef, PipelineError> {
        let Self { name, values, form, unit, .. } = self;
        let to = |array: &ArrayRef, data_type: &DataType| cast(batch, name, array, data_type);
        let of_texts = |read: &dyn Fn(&str) -> Option<i64>| -> Result<ArrayRef, PipelineError> {
            let texts = to(raw, &DataType::Utf8)?;
            let times = texts.as_string::<i32>().iter().map(|text| text.and_then(read));
            Ok(Arc::new(Int64Array::from_iter(times)))
        };
        let of_floats = |read: &dyn Fn(f64) -> Option<i64>| -> Result<ArrayRef, PipelineError> {
            let floats = to(raw, &DataType::Float64)?;
            let times = floats.as_primitive::<Float64Type>().iter().map(|value| value.and_then(read));
            Ok(Arc::new(Int64Array::from_iter(times)))
        };
        match (form, values) {
            (Form::Typed, _) if matches!(raw.data_type(), DataType::Date32) => {
                to(&to(raw, &DataType::Timestamp(TimeUnit::Second, None))?, &DataType::Int64)
            }
            (Form::Typed, _) | (Form::Whole, Values::Integers | Values::Times(_)) => to(raw, &DataType::Int64),
            (Form::Whole, Values::Floats) => of_floats(&|value| integer(value).filter(|_| value.fract() == 0.0)),
            (Form::Whole, Values::Text) => {
                let times = to(raw, &DataType::Int64)?;
                // Other spellings of whole numbers, such as 1700000000.0, are rare, and slower to read.
                match times.null_count() == raw.logical_null_count() {
                    true => Ok(times),
                    false => of_texts(&|text| Number::parse(text)?.whole()),
                }
            }
            (Form::Whole, Values::Decimals) => of_texts(&|text| Number::parse(text)?.whole()),
            (Form::Fractions(of), Values::Floats) => {
                let factor = micros(*of);
                of_floats(&|value| integer((value * factor as f64).round()))
            }
            (Form::Fractions(of), _) => {
                let factor = micros(*of);
                of_texts(&|text| Number::parse(text)?.rounded(factor))
            }
            (Form::Dates(format), _) => {
                let unit = unit.unwrap_or(TickUnit::Microsecond);
                of_texts(&|text| format.read(text)?.ticks(unit))
            }
        }
    }
}

/// The limits of a column's times.
struct Limits<'a> {
    name: &'a str,
    form: &'a Form,
    unit: Option<TickUnit>,
}

impl Limits<'_> {
    /// A limit in the unit that the column's times count.
    fn ticks(
        &self,
        setting: &str,
        limit: &TimeLimit,
        of: impl Fn(&TimeLimit, TickUnit) -> Option<i64>,
    ) -> Result<i64, PipelineError> {
        let Self { name, form, unit } = self;
        let refuse = |why: String| {
            Err(PipelineError::usage(format!("`tables.interactions.{setting}` = {limit}: column `{name}` {why}")))
        };
        match (limit, form, unit) {
            // In the unit of the column's numbers.
            (TimeLimit::Ticks(ticks), Form::Fractions(of), _) => Ok(ticks.saturating_mul(micros(*of))),
            (TimeLimit::Ticks(ticks), ..) => Ok(*ticks),
            (TimeLimit::Text(_), _, None) => refuse(
                "holds integers whose unit is not stated; state `.timestamp_unit`, or give the limit as such an integer".into(),
            ),
            (TimeLimit::Text(_), _, Some(unit)) => match of(limit, *unit) {
                Some(ticks) => Ok(ticks),
                None => refuse(format!("counts whole {}, of which 64 bits do not hold this limit", unit.plural())),
            },
        }
    }
}

/// Microseconds in a unit that is not shorter than one.
fn micros(unit: TickUnit) -> i64 {
    TickUnit::Microsecond.per_second() / unit.per_second()
}

/// A whole float as an integer of 64 bits.
fn integer(value: f64) -> Option<i64> {
    // -2^63 can be a float, 2^63 - 1 cannot.
    (value >= i64::MIN as f64 && value < -(i64::MIN as f64)).then_some(value as i64)
}
