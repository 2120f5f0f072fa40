//! When events were: the times of the interactions table as 64-bit integers, and what these count.

use crate::config::TimeSettings;
use crate::error::PipelineError;
use crate::rows::columns::{cast, column, place, whole};
use crate::rows::quarantine::INTERACTIONS;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array};
use arrow_schema::{DataType, TimeUnit};
use serde::Serialize;
use std::ops::RangeInclusive;
use twotower_artifacts::{Clock, TickUnit};
use twotower_tables::{Table, TableBatch};

/// How the times of a table are read, and what those read so far look like.
pub struct EventTimes {
    /// None where a job has no column of times.
    column: Option<TimeColumn>,
    first: i64,
    last: i64,
    /// Of integers whose unit is not said, by unit.
    readings: [Reading; UNITS.len()],
}

/// A column of times.
struct TimeColumn {
    name: String,
    /// What it counts, where its type says so.
    unit: Option<TickUnit>,
    /// The times that make sense.
    plausible: RangeInclusive<i64>,
    /// Whether the job gives both ends of these.
    limited: bool,
}

impl EventTimes {
    /// How the times of a table are read.
    ///
    /// # Errors
    /// [`PipelineError::Table`] for a column that is not there, [`PipelineError::Data`] for one of a type that holds no
    /// times.
    pub fn open(table: &Table, times: &TimeSettings) -> Result<Self, PipelineError> {
        let column = times.timestamp.as_ref().map(|name| TimeColumn::open(table, name, times)).transpose()?;
        Ok(Self { column, first: i64::MAX, last: i64::MIN, readings: Default::default() })
    }

    /// The times of rows, in the unit of the [`Clock`]: rows of the whole table where the job has no column of times.
    ///
    /// # Errors
    /// [`PipelineError::Data`] for a column of another type than the table's, and at the first time that is null,
    /// unreadable or does not make sense, naming file and row.
    pub fn read(&self, batch: &TableBatch) -> Result<Int64Array, PipelineError> {
        match &self.column {
            Some(column) => column.read(batch),
            None => {
                let first = batch.first_row as i64;
                Ok(Int64Array::from_iter_values(first..first + batch.batch.num_rows() as i64))
            }
        }
    }

    /// The oldest and the newest of the times of rows that [`EventTimes::read`] reads; none where it reads none, or where
    /// the job has no column of times.
    pub fn range(&self, batch: &TableBatch) -> Option<(i64, i64)> {
        let column = self.column.as_ref()?;
        let range = |times: Int64Array| {
            let (first, last) = (times.values().iter().min(), times.values().iter().max());
            first.copied().zip(last.copied())
        };
        if let Ok(times) = column.read(batch) {
            return range(times);
        }
        // Where it is not the whole column that cannot be read, it is some of its rows.
        column.read(&batch.slice(0..0)).ok()?;
        let rows = (0..batch.batch.num_rows()).filter_map(|row| range(column.read(&batch.slice(row..row + 1)).ok()?));
        rows.reduce(|(first, last), (oldest, newest)| (first.min(oldest), last.max(newest)))
    }

    /// Takes note of times that were read, of rows from `first_row` of the table on.
    pub fn add(&mut self, first_row: u64, times: &[i64]) {
        for time in times {
            self.first = self.first.min(*time);
            self.last = self.last.max(*time);
        }
        if self.column.as_ref().is_none_or(|column| column.unit.is_some()) {
            return;
        }
        for (reading, (_, range)) in self.readings.iter_mut().zip(UNITS) {
            let found = times.iter().filter(|time| range.contains(time)).count() as u64;
            if reading.count == 0
                && let Some(row) = times.iter().position(|time| range.contains(time))
            {
                reading.first = (first_row + row as u64, times[row]);
            }
            reading.count += found;
        }
    }

    /// What the times that were added count, and the first and the last of them; no times where the job has none.
    ///
    /// # Errors
    /// [`PipelineError::Data`] for integers that read as our years in more than one unit, showing a row of each: sorted
    /// by them, events of one unit would all come after those of the other. Limits on both sides say that the operator
    /// knows better.
    pub fn finish(&self) -> Result<(Clock, Option<TimeSpan>), PipelineError> {
        let Some(column) = &self.column else { return Ok((Clock::Order, None)) };
        let span = |unit: Option<TickUnit>| {
            let span = TimeSpan { first: self.first, last: self.last, unit: unit.map(TickUnit::plural) };
            Ok((Clock::Ticks { unit }, Some(span)))
        };
        let found = || self.readings.iter().zip(UNITS).filter(|(reading, _)| reading.count > 0);
        if found().count() < 2 || column.limited {
            return span(column.unit);
        }
        let found = found().map(|(Reading { count, first: (row, time) }, (unit, _))| {
            format!("{count} as {} since 1970 (such as {time} in row {row})", unit.plural())
        });
        Err(PipelineError::Data(format!(
            "{INTERACTIONS}: column `{}`: of its times, within the years 1990 to 2100, read {}; times of one column need one unit: mend the table, or set `tables.interactions.earliest` and `.latest` to the first and the last right time, so that others are set aside as bad rows",
            column.name,
            found.collect::<Vec<_>>().join(" and ")
        )))
    }
}

/// When the events of a table were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimeSpan {
    /// The first time.
    pub first: i64,
    /// The last time.
    pub last: i64,
    /// What both count since 1970; null where that is not known.
    pub unit: Option<&'static str>,
}

impl TimeColumn {
    fn open(table: &Table, name: &str, times: &TimeSettings) -> Result<Self, PipelineError> {
        let data_type = &table.column(name)?.data_type;
        let no_times = || {
            PipelineError::Data(format!(
                "table `{}`: column `{name}` is {data_type}, expected {EXPECTED}",
                table.name()
            ))
        };
        let unit = unit_of(data_type).ok_or_else(no_times)?;
        let usual = plausible(unit);
        Ok(Self {
            name: name.to_string(),
            unit,
            plausible: times.earliest.unwrap_or(*usual.start())..=times.latest.unwrap_or(*usual.end()),
            limited: times.earliest.is_some() && times.latest.is_some(),
        })
    }

    fn read(&self, batch: &TableBatch) -> Result<Int64Array, PipelineError> {
        let Self { name, unit, plausible, .. } = self;
        let raw = column(batch, name)?;
        if unit_of(raw.data_type()) != Some(*unit) {
            let (place, found) = (place(batch, name), raw.data_type());
            return Err(PipelineError::Data(format!("{place} is {found}, expected {EXPECTED}")));
        }
        let dates = matches!(raw.data_type(), DataType::Date32);
        let array =
            if dates { cast(batch, name, raw, &DataType::Timestamp(TimeUnit::Second, None))? } else { raw.clone() };
        let times = cast(batch, name, &array, &DataType::Int64)?;
        whole(batch, name, raw, &times, "a whole number")?;
        let times = times.as_primitive::<Int64Type>().clone();
        let Some(row) = times.values().iter().position(|time| !plausible.contains(time)) else { return Ok(times) };
        Err(PipelineError::Data(format!(
            "{} at row {}: time {}, expected {} to {}{}; `tables.interactions.earliest` and `.latest` set other limits",
            place(batch, name),
            batch.row_in_file + row as u64,
            times.value(row),
            plausible.start(),
            plausible.end(),
            unit.map_or(String::new(), |unit| format!(" in {} since 1970", unit.plural())),
        )))
    }
}

/// What columns of times are, for messages.
const EXPECTED: &str = "integers, dates, timestamps, or integers as text";

/// What a column of that type counts, if it says so; none where it holds no times.
fn unit_of(data_type: &DataType) -> Option<Option<TickUnit>> {
    match data_type {
        DataType::Date32 => Some(Some(TickUnit::Second)),
        DataType::Date64 => Some(Some(TickUnit::Millisecond)),
        DataType::Timestamp(unit, _) => Some(Some(match unit {
            TimeUnit::Second => TickUnit::Second,
            TimeUnit::Millisecond => TickUnit::Millisecond,
            TimeUnit::Microsecond => TickUnit::Microsecond,
            TimeUnit::Nanosecond => TickUnit::Nanosecond,
        })),
        DataType::Dictionary(_, values) => unit_of(values),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(None),
        // Fractions would be cut off.
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => (*scale <= 0).then_some(None),
        other => other.is_integer().then_some(None),
    }
}

/// The years 1900 to 9999, in seconds since 1970.
const YEARS_1900_TO_9999: RangeInclusive<i64> = -2_208_988_800..=253_402_300_799;

/// The times that make sense where a job does not say: the years 1900 to 9999, or all from 0 on where the unit is not
/// known.
fn plausible(unit: Option<TickUnit>) -> RangeInclusive<i64> {
    let Some(unit) = unit else { return 0..=i64::MAX };
    let earliest = YEARS_1900_TO_9999.start().saturating_mul(unit.per_second());
    let end = YEARS_1900_TO_9999.end() + 1;
    // The last tick of the year; beyond what nanoseconds hold there is nothing.
    earliest..=end.checked_mul(unit.per_second()).map_or(i64::MAX, |end| end - 1)
}

/// The years 1990 to 2100 by the unit in which they stand. No time is within two of these ranges.
const UNITS: [(TickUnit, RangeInclusive<i64>); 4] = [
    (TickUnit::Second, 631_152_000..=4_102_444_800),
    (TickUnit::Millisecond, 631_152_000_000..=4_102_444_800_000),
    (TickUnit::Microsecond, 631_152_000_000_000..=4_102_444_800_000_000),
    (TickUnit::Nanosecond, 631_152_000_000_000_000..=4_102_444_800_000_000_000),
];

/// Times that read as those of our years in one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reading {
    count: u64,
    /// Row of the table and time of the first.
    first: (u64, i64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, RecordBatch, StringArray,
        Time64MicrosecondArray, TimestampMillisecondArray,
    };
    use std::path::Path;
    use std::sync::Arc;
    use twotower_tables::{ReadOptions, TableSpec};

    /// A table `events` of these values in a column `x`, read as one batch.
    fn events(dir: &Path, x: ArrayRef) -> (Table, TableBatch) {
        let path = dir.join("events.parquet");
        let batch = RecordBatch::try_from_iter_with_nullable([("x", x, true)]).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let table = Table::open("events", &TableSpec::new(path.to_str().unwrap())).unwrap();
        let read = ReadOptions { columns: &["x".into()], rows: 0..u64::MAX, batch_rows: 100 };
        let batch = table.read(read).unwrap().next().unwrap().unwrap();
        (table, batch)
    }

    /// The settings of a column `x`, with limits.
    fn settings(earliest: Option<i64>, latest: Option<i64>) -> TimeSettings {
        TimeSettings { timestamp: Some("x".into()), earliest, latest }
    }

    /// The times of a column.
    fn read(x: &ArrayRef, times: &TimeSettings) -> Result<Vec<i64>, String> {
        let dir = tempfile::tempdir().unwrap();
        let (table, batch) = events(dir.path(), x.clone());
        let times = EventTimes::open(&table, times).map_err(|e| e.to_string())?;
        times.read(&batch).map(|times| times.values().to_vec()).map_err(|e| e.to_string())
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn integers(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn decimals(precision: u8, scale: i8) -> ArrayRef {
        let values = Decimal128Array::from(vec![5, 1_700_000_000]);
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
    }

    #[test]
    fn a_time_outside_the_range_is_refused_with_its_row_and_the_limits() {
        let (usual, end) = (settings(None, None), 253_402_300_800i64);
        // The first and the last moment of the years 1900 to 9999 are times; a moment further is none.
        let start = -2_208_988_800i64;
        for (unit, per_second) in
            [(TimeUnit::Second, 1), (TimeUnit::Millisecond, 1_000), (TimeUnit::Microsecond, 1_000_000)]
        {
            let of = |times: [i64; 2]| arrow_cast::cast(&integers(&times), &DataType::Timestamp(unit, None)).unwrap();
            read(&of([start * per_second, end * per_second - 1]), &usual).unwrap();
            for bad in [start * per_second - 1, end * per_second, i64::MIN, i64::MAX] {
                let error = read(&of([0, bad]), &usual).unwrap_err();
                assert!(error.contains(&format!("at row 1: time {bad}, expected ")), "{error}");
                assert!(error.contains("seconds since 1970; `tables.interactions.earliest`"), "{error}");
            }
        }
        read(&integers(&[0, i64::MAX]), &usual).unwrap();
        let error = read(&integers(&[7, -1]), &usual).unwrap_err();
        assert!(error.contains("at row 1: time -1, expected 0 to 9223372036854775807; "), "{error}");
        let narrow = settings(Some(-5), Some(9));
        read(&integers(&[-5, 9]), &narrow).unwrap();
        for bad in [-6, 10] {
            assert!(read(&integers(&[bad, 1]), &narrow).unwrap_err().contains("expected -5 to 9; "));
        }
    }

    #[test]
    fn times_are_whole_numbers_in_their_own_unit() {
        let any = settings(Some(i64::MIN), None);
        let given: [(ArrayRef, [i64; 2]); 6] = [
            (integers(&[i64::MIN, 7]), [i64::MIN, 7]),
            (Arc::new(Int32Array::from(vec![-1, 7])), [-1, 7]),
            (decimals(38, 0), [5, 1_700_000_000]),
            (texts(&["0", "1700000000"]), [0, 1_700_000_000]),
            (Arc::new(Date32Array::from(vec![0, 2])), [0, 2 * 86_400]),
            (Arc::new(TimestampMillisecondArray::from(vec![5, 1001])), [5, 1001]),
        ];
        for (x, expected) in given {
            assert_eq!(read(&x, &any).unwrap()[..], expected, "{}", x.data_type());
        }
        let no_time = "expected integers, dates, timestamps, or integers as text";
        let reals: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        let refused: [(ArrayRef, &str); 7] = [
            (Arc::new(Int64Array::from(vec![Some(1), None])), "at row 1: expected a whole number, found null"),
            (decimals(20, 6), no_time),
            (Arc::new(BooleanArray::from(vec![true])), no_time),
            (Arc::new(Time64MicrosecondArray::from(vec![1])), no_time),
            (texts(&["1", "1.5"]), "at row 1: expected a whole number, found `1.5`"),
            (texts(&["soon", "1"]), "at row 0: expected a whole number, found `soon`"),
            (reals, "is Float64, expected integers, dates, timestamps, or integers as text"),
        ];
        for (x, says) in refused {
            let error = read(&x, &any).unwrap_err();
            assert!(error.contains("table `events`: column `x` ") && error.contains(says), "{error}");
        }
        let range = |x: ArrayRef| {
            let dir = tempfile::tempdir().unwrap();
            let (table, batch) = events(dir.path(), x);
            EventTimes::open(&table, &settings(None, None)).unwrap().range(&batch)
        };
        let stamp = 1_700_000_000;
        let some = [Some(stamp + 4), None, Some(stamp + 9), Some(stamp)];
        assert_eq!(range(Arc::new(Int64Array::from(some.to_vec()))), Some((stamp, stamp + 9)));
        assert_eq!(range(texts(&["soon", "1700000000"])), Some((stamp, stamp)));
        assert_eq!(range(texts(&["-1", "1700000000"])), Some((stamp, stamp)));
        assert_eq!(range(texts(&["soon"])), None);
    }

    #[test]
    fn without_a_column_of_times_rows_of_the_table_are_times() {
        let dir = tempfile::tempdir().unwrap();
        let (table, batch) = events(dir.path(), integers(&[7, 7, 7]));
        let times = EventTimes::open(&table, &TimeSettings::default()).unwrap();
        assert_eq!(times.read(&batch.slice(1..3)).unwrap().values()[..], [1, 2]);
        assert_eq!(times.finish().unwrap(), (Clock::Order, None));
        assert_eq!(times.range(&batch), None);
    }

    #[test]
    fn times_in_one_unit_pass_and_those_in_two_are_refused_with_a_row_of_each() {
        let dir = tempfile::tempdir().unwrap();
        let of = |x: ArrayRef, times: &TimeSettings, added: &[i64]| {
            let (table, _) = events(dir.path(), x);
            let mut found = EventTimes::open(&table, times).unwrap();
            found.add(100, added);
            found.finish()
        };
        let (usual, any) = (settings(None, None), || integers(&[1]));
        for good in [
            &[1_700_000_000, 0, 1, 1_700_000_001][..],
            &[1_700_000_000_000, 5],
            &[20_260_101_120_000, 20_251_231_235_959],
            &[20_454, 20_455],
        ] {
            of(any(), &usual, good).unwrap();
        }
        let mixed = [7, 1_700_000_000, 1_700_000_000_000, 1_700_000_000_001];
        let error = of(any(), &usual, &mixed).unwrap_err().to_string();
        for says in [
            "column `x`",
            "1 as seconds since 1970 (such as 1700000000 in row 101)",
            "2 as milliseconds since 1970 (such as 1700000000000 in row 102)",
        ] {
            assert!(error.contains(says), "{error}");
        }
        of(any(), &settings(Some(0), Some(i64::MAX)), &mixed).unwrap();
        // A column that says its unit has no other.
        let dates: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1]));
        let (clock, span) = of(dates, &usual, &mixed[1..3]).unwrap();
        assert_eq!(clock, Clock::Ticks { unit: Some(TickUnit::Millisecond) });
        let span = span.unwrap();
        assert_eq!((span.first, span.last, span.unit), (1_700_000_000, 1_700_000_000_000, Some("milliseconds")));
    }

    #[test]
    fn no_time_is_of_our_years_in_two_units() {
        for pair in UNITS.windows(2) {
            assert!(pair[0].1.end() < pair[1].1.start());
        }
    }
}
