//! When events were: the times of the interactions table as 64-bit integers, and what these count.

mod column;
pub mod guess;
mod numbers;
mod units;

use crate::config::TimeSettings;
use crate::error::PipelineError;
use crate::run::names::tables::INTERACTIONS;
use arrow_array::Int64Array;
use column::{Form, TimeColumn};
use serde::{Deserialize, Serialize};
use twotower_artifacts::{Clock, TickUnit};
use twotower_tables::{Moment, Table, TableBatch, TimeFormat};
use units::of_our_years;

/// How the times of a table are read, and what those read so far look like.
pub struct EventTimes {
    /// None where a job has no column of times.
    column: Option<TimeColumn>,
    /// Times that were added.
    count: u64,
    first: i64,
    last: i64,
    /// What numbers read as, by unit, in the order of [`TickUnit::ALL`].
    readings: [Reading; TickUnit::ALL.len()],
}

impl EventTimes {
    /// How the times of a table are read.
    ///
    /// # Errors
    /// [`PipelineError::Table`] for a column that is not there or first rows that cannot be read,
    /// [`PipelineError::Data`] for a column of a type that holds no times, [`PipelineError::Usage`] for settings that
    /// do not fit the column.
    pub fn open(table: &Table, times: &TimeSettings) -> Result<Self, PipelineError> {
        let column = times.timestamp.as_ref().map(|name| TimeColumn::open(table, name, times)).transpose()?;
        Ok(Self { column, count: 0, first: i64::MAX, last: i64::MIN, readings: Default::default() })
    }

    /// The times of rows, in the unit of the [`Clock`]. Where the job has no column of times, a row's time is its
    /// number in the table.
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

    /// Takes note of times that were read, of rows from `first_row` of the table on.
    pub fn add(&mut self, first_row: u64, times: &[i64]) {
        self.count += times.len() as u64;
        for time in times {
            self.first = self.first.min(*time);
            self.last = self.last.max(*time);
        }
        if !self.column.as_ref().is_some_and(|column| column.form == Form::Whole) {
            return;
        }
        for (reading, range) in self.readings.iter_mut().zip(TickUnit::ALL.map(of_our_years)) {
            let found = times.iter().filter(|time| range.contains(time)).count() as u64;
            if reading.count == 0
                && let Some(row) = times.iter().position(|time| range.contains(time))
            {
                reading.first = (first_row + row as u64, times[row]);
            }
            reading.count += found;
        }
    }

    /// The unit that the times added so far count, and the first and the last of them; none where the job has no times,
    /// or where none was added.
    /// Says in the log how they were read.
    ///
    /// # Errors
    /// [`PipelineError::Data`] for numbers that read as our years in more than one unit, or in another one than the job
    /// states, showing a row of each: sorted by them, events of one unit would all come after those of the other.
    /// Limits on both sides say that the operator knows better.
    pub fn finish(&self) -> Result<(Clock, Option<TimeSpan>), PipelineError> {
        let Some(column) = &self.column else { return Ok((Clock::Order, None)) };
        let found = || TickUnit::ALL.into_iter().zip(&self.readings).filter(|(_, reading)| reading.count > 0);
        let mixed = match column.unit {
            Some(stated) => found().any(|(unit, _)| unit != stated),
            None => found().count() > 1,
        };
        if mixed && !column.limited {
            return Err(mixed_units(column, found()));
        }
        // Most of them: a few that are damaged may read as anything.
        let most = found().find(|(_, reading)| 2 * reading.count > self.count).map(|(unit, _)| unit);
        let unit = column.unit.or(most);
        let read_as = read_as(column, unit);
        if self.count == 0 {
            return Ok((Clock::Ticks { unit }, None));
        }
        let shown = |time: i64| match unit.and_then(|unit| Moment::at(time, unit)) {
            Some(moment) => format!("{moment}"),
            None => time.to_string(),
        };
        let (first, last) = (shown(self.first), shown(self.last));
        tracing::info!("{INTERACTIONS}: column `{}`: {read_as}, from {first} to {last}", column.name);
        let unit_name = unit.map(|unit| unit.plural().to_string());
        let span = TimeSpan { first: self.first, last: self.last, unit: unit_name, read_as };
        Ok((Clock::Ticks { unit }, Some(span)))
    }
}

/// The error for a column whose numbers read as times in more than one unit, or in another than the job states.
fn mixed_units<'a>(column: &TimeColumn, found: impl Iterator<Item = (TickUnit, &'a Reading)>) -> PipelineError {
    let found = found.map(|(unit, Reading { count, first: (row, time) })| {
        format!("{count} as {} since 1970 (such as {time} in row {row})", unit.plural())
    });
    let found = found.collect::<Vec<_>>().join(" and ");
    let (name, advice) = (
        &column.name,
        "set `tables.interactions.earliest` and `.latest` to the first and the last right time, so that others are set aside as bad rows",
    );
    PipelineError::Data(match column.unit {
        Some(stated) => format!(
            "{INTERACTIONS}: column `{name}`: `tables.interactions.timestamp_unit` is \"{}\", but of its times, within the years 1990 to 2100, read {found}; state the right unit, mend the table, or {advice}",
            stated.name()
        ),
        None => format!(
            "{INTERACTIONS}: column `{name}`: of its times, within the years 1990 to 2100, read {found}; times of one column need one unit: mend the table, or {advice}"
        ),
    })
}

/// How a column was read, for people.
fn read_as(column: &TimeColumn, unit: Option<TickUnit>) -> String {
    let plural = unit.map_or("ticks", TickUnit::plural);
    match (&column.form, column.unit, unit) {
        (Form::Typed, ..) => format!("{plural} by its type"),
        (Form::Whole, Some(_), _) => format!("{plural} as `timestamp_unit` states"),
        (Form::Whole, None, Some(_)) => format!("numbers that read as {plural} since 1970"),
        (Form::Whole, None, None) => {
            "numbers that read as our years in no unit, so that only their order counts".to_string()
        }
        (Form::Fractions(of), ..) => format!("{} with fractions, counted in {plural}", of.plural()),
        (Form::Dates(TimeFormat::Iso), ..) => format!("text in ISO 8601, counted in {plural}"),
        (Form::Dates(TimeFormat::Pattern { pattern, .. }), ..) => {
            format!("dates written as `{pattern}`, counted in {plural}")
        }
    }
}

/// When the events of a table were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeSpan {
    /// The first time.
    pub first: i64,
    /// The last time.
    pub last: i64,
    /// The unit in which both count from 1970; null where it is not known.
    pub unit: Option<String>,
    /// How the column was read, for people.
    pub read_as: String,
}

/// Times that read as times of our years in one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reading {
    count: u64,
    /// Row of the table and time of the first.
    first: (u64, i64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TimeLimit;
    use arrow_array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, RecordBatch,
        StringArray, Time64MicrosecondArray, TimestampMillisecondArray,
    };
    use arrow_schema::{DataType, TimeUnit};
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
        let [earliest, latest] = [earliest, latest].map(|limit| limit.map(TimeLimit::Ticks));
        TimeSettings { timestamp: Some("x".into()), earliest, latest, ..TimeSettings::default() }
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
        let refused: [(ArrayRef, &str); 8] = [
            (Arc::new(Int64Array::from(vec![Some(1), None])), "at row 1: expected a whole number, found null"),
            (decimals(20, 6), "at row 0: expected a whole number, found `0.000005`"),
            (Arc::new(BooleanArray::from(vec![true])), "is Boolean, expected dates, timestamps, integers"),
            (Arc::new(Time64MicrosecondArray::from(vec![1])), "expected dates, timestamps, integers"),
            (Arc::new(Float32Array::from(vec![1.0])), "is Float32, expected dates, timestamps, integers"),
            (texts(&["1", "1.5"]), "at row 1: expected a whole number, found `1.5`"),
            (texts(&["soon", "1"]), "at row 0: expected a whole number, found `soon`"),
            (texts(&["soon", "2026-01-31"]), "at row 0: expected a time in ISO 8601, such as 2026"),
        ];
        for (x, says) in refused {
            let error = read(&x, &any).unwrap_err();
            assert!(error.contains("table `events`: column `x` ") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn without_a_column_of_times_rows_of_the_table_are_times() {
        let dir = tempfile::tempdir().unwrap();
        let (table, batch) = events(dir.path(), integers(&[7, 7, 7]));
        let times = EventTimes::open(&table, &TimeSettings::default()).unwrap();
        assert_eq!(times.read(&batch.slice(1..3)).unwrap().values()[..], [1, 2]);
        assert_eq!(times.finish().unwrap(), (Clock::Order, None));
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
        assert_eq!(
            (span.first, span.last, span.unit.as_deref()),
            (1_700_000_000, 1_700_000_000_000, Some("milliseconds"))
        );
    }

    #[test]
    fn the_form_of_a_column_follows_from_its_first_values_and_the_job() {
        let second = 1_769_903_999;
        let stated = |unit| TimeSettings { unit: Some(unit), ..settings(None, None) };
        let floats = |values: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(values.to_vec())) };
        let of = |x: &ArrayRef, times: &TimeSettings| {
            let dir = tempfile::tempdir().unwrap();
            let (table, batch) = events(dir.path(), x.clone());
            let mut found = EventTimes::open(&table, times).unwrap();
            let times = found.read(&batch).map_err(|e| e.to_string())?;
            found.add(0, times.values());
            found.finish().map(|(clock, _)| (times.values().to_vec(), clock)).map_err(|e| e.to_string())
        };
        let ticks = |times: [i64; 2], unit: TickUnit| Ok((times.to_vec(), Clock::Ticks { unit: Some(unit) }));
        use TickUnit::{Microsecond, Millisecond, Nanosecond, Second};
        let (whole, half) = (floats(&[second as f64, 1.7e9]), floats(&[second as f64, 1.7e9 + 0.5]));
        let (usual, micros) = (settings(None, None), [second * 1_000_000, 1_700_000_000_500_000]);
        assert_eq!(of(&whole, &usual), ticks([second, 1_700_000_000], Second));
        assert_eq!(of(&half, &usual), ticks(micros, Microsecond));
        assert_eq!(of(&half, &stated(Second)), ticks(micros, Microsecond));
        let millis = floats(&[1.7e12, 1.7e12 + 0.25]);
        assert_eq!(of(&millis, &usual), ticks([1_700_000_000_000_000, 1_700_000_000_000_250], Microsecond));
        assert!(of(&floats(&[0.5, 1.0]), &usual).unwrap_err().contains("expected a whole number, found `0.5`"));
        assert_eq!(of(&floats(&[0.5, 1.0]), &stated(Second)), ticks([500_000, 1_000_000], Microsecond));
        let nan = of(&floats(&[1.7e9, f64::NAN]), &stated(Second)).unwrap_err();
        assert!(nan.contains("at row 1: expected a whole number, found `NaN`"), "{nan}");
        assert_eq!(of(&texts(&["1700000000.0", "1.7e9"]), &usual), ticks([1_700_000_000; 2], Second));
        let iso = texts(&["2026-01-31T23:59:59Z", "2026-02-01 07:59:59.5+08:00"]);
        assert_eq!(of(&iso, &usual), ticks([second * 1_000_000, second * 1_000_000 + 500_000], Microsecond));
        assert_eq!(of(&iso, &stated(Nanosecond)).unwrap().0[1], second * 1_000_000_000 + 500_000_000);
        let cut = of(&iso, &stated(Second)).unwrap_err();
        assert!(cut.contains("at row 1: expected a time in ISO 8601") && cut.contains("in whole seconds"), "{cut}");
        // Of numbers in no unit of our years, the unit is not known.
        let unknown = (vec![20_260_131, 20_260_201], Clock::Ticks { unit: None });
        let days = integers(&[20_260_131, 20_260_201]);
        assert_eq!(of(&days, &usual), Ok(unknown));
        let format = TimeSettings { format: Some("%Y%m%d".into()), unit: Some(Second), ..settings(None, None) };
        assert_eq!(of(&days, &format), ticks([second + 1 - 86_400, second + 1], Second));
        // Numbers in another unit than is stated.
        let error = of(&integers(&[1_700_000_000, 1_700_000_001]), &stated(Millisecond)).unwrap_err();
        assert!(error.contains("`tables.interactions.timestamp_unit` is \"millisecond\""), "{error}");
        assert!(error.contains("2 as seconds since 1970 (such as 1700000000 in row 0)"), "{error}");
    }

    #[test]
    fn limits_are_in_the_columns_unit_or_text() {
        let day = |earliest: &str, latest: &str| {
            let [earliest, latest] = [earliest, latest].map(|day| Some(TimeLimit::Text(day.into())));
            TimeSettings { earliest, latest, ..settings(None, None) }
        };
        let january = day("2026-01-01", "2026-01-31");
        for bad in ["2025-12-31T23:59:59.999999Z", "2026-02-01"] {
            let error = read(&texts(&["2026-01-31T23:59:59.999999Z", bad]), &january).unwrap_err();
            assert!(error.contains("at row 1: time 17"), "{error}");
        }
        let refused = |x: ArrayRef, times: TimeSettings, says: &str| {
            let error = read(&x, &times).unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        refused(integers(&[1]), january.clone(), "holds integers whose unit is not stated");
        let stated = |times: TimeSettings, unit| TimeSettings { unit: Some(unit), ..times };
        read(&integers(&[1_769_903_999]), &stated(january.clone(), TickUnit::Second)).unwrap();
        refused(integers(&[1]), stated(day("1000-01-01", "2026-01-31"), TickUnit::Nanosecond), "64 bits do not hold");
        let dates: ArrayRef = Arc::new(Date32Array::from(vec![1]));
        refused(
            dates.clone(),
            stated(january, TickUnit::Millisecond),
            "whose times count seconds; leave the setting out",
        );
        let format = TimeSettings { format: Some("%Y".into()), ..settings(None, None) };
        refused(dates, format, "a format is for text");
        // Of seconds with fractions, in seconds.
        let seconds = stated(settings(Some(10), Some(20)), TickUnit::Second);
        let floats = |value: f64| -> ArrayRef { Arc::new(Float64Array::from(vec![10.5, value])) };
        assert_eq!(read(&floats(20.0), &seconds).unwrap(), [10_500_000, 20_000_000]);
        refused(floats(20.25), seconds, "time 20250000, expected 10000000 to 20000000 in microseconds");
    }
}
