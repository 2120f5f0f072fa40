//! Times of interactions in every form that tables have: each is the instant that it says, through a job as it is
//! written by hand and through one that `init` writes, or an error that names what is wrong.

mod fixture;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type as Arrow64;
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Date64Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, LargeStringArray, RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use fixture::results::{histories, read_parquet, recalled};
use fixture::sheet::Column;
use fixture::{Job, TABLES, interactions, item_id, items, user_id, users};
use parquet::arrow::ArrowWriter;
use parquet::data_type::{Int64Type, Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::Manifest;

/// The rows' times in seconds: not in order, so that a sort shows whether they were understood.
const SECONDS: [i64; 4] = [1_700_000_003, 1_700_000_001, 1_700_000_002, 1_700_000_000];

/// A job of one user's events with a few items, whose times are a column `ts` that is yet to be written.
fn job(name: &str, settings: &str) -> Job {
    let job = Job::empty(&format!("clock-{name}"));
    users().take(0..40).write_parquet(&job.path("users.parquet"));
    items().take(0..20).write_parquet(&job.path("items.parquet"));
    let features = "[features]\nuser = [{ kind = \"categorical\", name = \"city\" }]\nitem = [{ kind = \"id\", name = \"item\" }]\n";
    job.write("pipeline.toml", &format!("{TABLES}{settings}\n{features}"));
    job
}

/// Events of the first user, with an item and a time each.
fn write(job: &Job, times: ArrayRef) {
    let rows = times.len();
    let user: ArrayRef = Arc::new(Int64Array::from(vec![user_id(0); rows]));
    let item: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(item_id)));
    let columns = [("user_id", user, false), ("item_id", item, false), ("ts", times, true)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = File::create(job.path("interactions.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// The same with times as Spark, Hive and Impala write them: the Julian day, and the nanosecond of the day.
fn write_int96(path: &Path, seconds: &[i64]) {
    let schema = "message m { REQUIRED INT64 user_id; REQUIRED INT64 item_id; REQUIRED INT96 ts; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let rows = seconds.len();
    for values in [vec![user_id(0); rows], (0..rows).map(item_id).collect()] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    let int96 = |seconds: &i64| {
        let (day, nanos) = (seconds.div_euclid(86_400) + 2_440_588, seconds.rem_euclid(86_400) as u64 * 1_000_000_000);
        let mut value = Int96::new();
        value.set_data(nanos as u32, (nanos >> 32) as u32, day as u32);
        value
    };
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<Int96> = seconds.iter().map(int96).collect();
    column.typed::<Int96Type>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// What a run made of the events: the row of each in the table, and its time, in the order of the run; and the unit.
fn encoded(job: &Job, run: &str) -> (Vec<(usize, i64)>, Option<String>) {
    let ids: Vec<i64> = read_parquet(&job.path(&format!("{run}/encoders/items.parquet")))
        .iter()
        .flat_map(|batch| batch.column_by_name("__id").unwrap().as_primitive::<Arrow64>().values().to_vec())
        .collect();
    let row_of = |id: i64| (0..ids.len()).find(|row| item_id(*row) == id).unwrap();
    let found = histories(&job.path(run));
    let events = found.items.iter().zip(&found.times);
    let events: Vec<(usize, i64)> = events.map(|(item, time)| (row_of(ids[*item as usize]), *time)).collect();
    let times = &Manifest::read(job.path(&format!("{run}/encoders/manifest.json"))).unwrap().details["times"];
    // The manifest must agree with the events.
    let sorted = |events: &[(usize, i64)], at: usize| events.get(at).map(|(_, time)| Value::from(*time)).unwrap();
    assert_eq!((&times["first"], &times["last"]), (&sorted(&events, 0), &sorted(&events, events.len() - 1)));
    (events, times["unit"].as_str().map(String::from))
}

/// The rows in the order of their times, with these.
fn ordered(times: &[i64]) -> Vec<(usize, i64)> {
    let mut events: Vec<(usize, i64)> = times.iter().copied().enumerate().collect();
    events.sort_by_key(|(_, time)| *time);
    events
}

/// What a case must give: the times, and the unit that the manifest names.
type Expected = (Vec<i64>, Option<&'static str>);

fn per_second(unit: &str) -> i64 {
    match unit {
        "seconds" => 1,
        "milliseconds" => 1_000,
        "microseconds" => 1_000_000,
        _ => 1_000_000_000,
    }
}

/// Encodes a job whose interactions are written: by its own settings, and by those of `init`, which writes a line that
/// begins like this after the column.
fn check(name: &str, job: &Job, (times, unit): &Expected, init: &str) {
    let done = job.ok("encode-features");
    assert_eq!(encoded(job, "run"), (ordered(times), unit.map(String::from)), "{name}");
    if let Some(unit) = unit {
        assert!(done.stderr.contains(unit), "{name}: the unit is not said\n{}", done.stderr);
    }
    job.ok(
        "init --users users.parquet --items items.parquet --interactions interactions.parquet --output guessed.toml",
    );
    let text = std::fs::read_to_string(job.path("guessed.toml")).unwrap();
    assert!(text.contains(&format!("\ntimestamp = \"ts\"\n{init}")), "{name}: expected `{init}` in\n{text}");
    job.ok("encode-features --config guessed.toml --run guessed --quiet");
    let (events, guessed) = encoded(job, "guessed");
    // The job may state another unit for text than `init`, which leaves it out.
    let (from, to) = (unit.map_or(1, per_second), guessed.as_deref().map_or(1, per_second));
    let seconds = |time: i64, per: i64| i128::from(time) * 1_000_000_000 / i128::from(per);
    let at = |events: &[(usize, i64)], per: i64| {
        events.iter().map(|(row, time)| (*row, seconds(*time, per))).collect::<Vec<_>>()
    };
    assert_eq!(at(&events, to), at(&ordered(times), from), "{name}: by the job that init wrote");
}

fn integers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn texts<T: AsRef<str>>(values: &[T]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values.iter().map(AsRef::as_ref)))
}

fn times(per_second: i64) -> Vec<i64> {
    SECONDS.iter().map(|time| time * per_second).collect()
}

#[test]
fn integers_count_what_the_job_states_or_what_their_magnitude_tells() {
    for (unit, name) in [
        ("seconds", "second"),
        ("milliseconds", "millisecond"),
        ("microseconds", "microsecond"),
        ("nanoseconds", "nanosecond"),
    ] {
        let given = times(per_second(unit));
        let writes = [
            "timestamp_unit = \"second\"",
            "timestamp_unit = \"millisecond\"",
            "timestamp_unit = \"microsecond\"",
            "timestamp_unit = \"nanosecond\"",
        ];
        let writes = writes.into_iter().find(|text| text.contains(&format!("\"{name}\""))).unwrap();
        for (form, settings) in [("magnitude", String::new()), ("stated", format!("timestamp_unit = \"{name}\""))] {
            for (kind, column) in
                [("integers", integers(&given)), ("text", texts(&given.iter().map(i64::to_string).collect::<Vec<_>>()))]
            {
                let case = format!("{kind}-{unit}-{form}");
                let job = job(&case, &settings);
                write(&job, column);
                check(&case, &job, &(given.clone(), Some(unit)), writes);
            }
        }
    }
    // A counter reads as our years in no unit; the job may state one all the same.
    let counter: ArrayRef = Arc::new(Int32Array::from(vec![3, 1, 2, 0]));
    let of = |name: &str, settings: &str, column: &ArrayRef, expected: Expected, init: &'static str| {
        let job = job(name, settings);
        write(&job, column.clone());
        check(name, &job, &expected, init);
    };
    of("counter", "", &counter, (vec![3, 1, 2, 0], None), "#");
    let relative = job("counter-stated", "timestamp_unit = \"second\"");
    write(&relative, counter);
    relative.ok("encode-features --quiet");
    assert_eq!(encoded(&relative, "run"), (ordered(&[3, 1, 2, 0]), Some("seconds".into())));
    // As pandas writes integers after a missing value, and decimals.
    of(
        "floats",
        "",
        &floats(&SECONDS.map(|time| time as f64)),
        (times(1), Some("seconds")),
        "timestamp_unit = \"second\"",
    );
    let written = SECONDS.map(|time| format!("{time}.0"));
    of("floats-text", "", &texts(&written), (times(1), Some("seconds")), "timestamp_unit = \"second\"");
    let decimals = |scale: i8, values: &[i64]| -> ArrayRef {
        let values = Decimal128Array::from_iter_values(values.iter().map(|value| i128::from(*value)));
        Arc::new(values.with_precision_and_scale(30, scale).unwrap())
    };
    of("decimals", "", &decimals(0, &times(1)), (times(1), Some("seconds")), "timestamp_unit = \"second\"");
    of("decimals-2", "", &decimals(2, &times(100)), (times(1), Some("seconds")), "timestamp_unit = \"second\"");
    // Fractions of a second are times too, in microseconds.
    let halves: Vec<i64> = SECONDS.iter().map(|time| time * 1_000_000 + 500_000).collect();
    let fractions = floats(&SECONDS.map(|time| time as f64 + 0.5));
    of("fractions", "", &fractions, (halves.clone(), Some("microseconds")), "timestamp_unit = \"second\"");
    of(
        "fractions-stated",
        "timestamp_unit = \"second\"",
        &fractions,
        (halves.clone(), Some("microseconds")),
        "timestamp_unit = \"second\"",
    );
    let written = SECONDS.map(|time| format!("{time}.5"));
    of("fractions-text", "", &texts(&written), (halves, Some("microseconds")), "timestamp_unit = \"second\"");
    let eighths: Vec<i64> = SECONDS.iter().map(|time| time * 1_000_000 + 125).collect();
    let fractions = floats(&SECONDS.map(|time| time as f64 * 1e3 + 0.125));
    of(
        "fractions-of-milliseconds",
        "",
        &fractions,
        (eighths, Some("microseconds")),
        "timestamp_unit = \"millisecond\"",
    );
}

#[test]
fn dates_and_timestamps_are_in_the_unit_and_the_zone_of_their_type() {
    let days = [3, 1, 2, 0].map(|day| 20_000 + day);
    let date64 = days.map(|day| i64::from(day) * 86_400_000);
    let stamps = |unit: &str, zone: Option<&str>| -> ArrayRef {
        let (times, zone) = (times(per_second(unit)), zone.map(Arc::<str>::from));
        match unit {
            "seconds" => Arc::new(TimestampSecondArray::from(times).with_timezone_opt(zone)),
            "milliseconds" => Arc::new(TimestampMillisecondArray::from(times).with_timezone_opt(zone)),
            "microseconds" => Arc::new(TimestampMicrosecondArray::from(times).with_timezone_opt(zone)),
            _ => Arc::new(TimestampNanosecondArray::from(times).with_timezone_opt(zone)),
        }
    };
    let mut cases: Vec<(String, ArrayRef, Expected)> = vec![
        (
            "date32".into(),
            Arc::new(Date32Array::from(days.to_vec())),
            (days.map(|day| i64::from(day) * 86_400).to_vec(), Some("seconds")),
        ),
        ("date64".into(), Arc::new(Date64Array::from(date64.to_vec())), (date64.to_vec(), Some("milliseconds"))),
    ];
    for unit in ["seconds", "milliseconds", "microseconds", "nanoseconds"] {
        for (name, zone) in [("no-zone", None), ("utc", Some("UTC")), ("zone", Some("+08:00"))] {
            cases.push((format!("{unit}-{name}"), stamps(unit, zone), (times(per_second(unit)), Some(unit))));
        }
    }
    for (name, column, expected) in cases {
        let job = job(&name, "");
        write(&job, column);
        check(&name, &job, &expected, "#");
    }
    // The first second of 1970, one of 2026, the last of 9999; and one before 1970.
    let seconds = [253_402_300_799, 0, 1_769_903_999, -1];
    let int96 = job("int96", "");
    write_int96(&int96.path("interactions.parquet"), &seconds);
    let micros = seconds.map(|time| time * 1_000_000).to_vec();
    check("int96", &int96, &(micros, Some("microseconds")), "#");
    let beyond = job("int96-beyond", "");
    write_int96(&beyond.path("interactions.parquet"), &[253_402_300_800, 0, 1, 2]);
    beyond.refused("encode-features", 3, &["row 0", "time 253402300800000000, expected -2208988800000000 to 253402"]);
}

#[test]
fn text_is_iso_8601_in_any_spelling_or_what_the_job_says() {
    // 2023-11-14T22:13:20Z is second 1,700,000,000.
    let spelled = |of: &dyn Fn(i64) -> String| SECONDS.map(|time| of(time - 1_700_000_000 + 20)).to_vec();
    let micros = || times(1_000_000);
    let halves = || micros().iter().map(|time| time + 500_000).collect::<Vec<_>>();
    let spellings: [(&str, Vec<String>, Vec<i64>); 8] = [
        ("t", spelled(&|s| format!("2023-11-14T22:13:{s}")), micros()),
        ("space", spelled(&|s| format!("2023-11-14 22:13:{s}")), micros()),
        ("fraction", spelled(&|s| format!("2023-11-14 22:13:{s}.500")), halves()),
        ("z", spelled(&|s| format!("2023-11-14T22:13:{s}Z")), micros()),
        ("offset", spelled(&|s| format!("2023-11-15T06:13:{s}.5+08:00")), halves()),
        ("utc", spelled(&|s| format!("2023-11-14 22:13:{s} UTC")), micros()),
        (
            "date",
            ["2023-11-14", "2023-11-12", "2023-11-13", "2023-11-11"].map(String::from).to_vec(),
            [3, 1, 2, 0].map(|day| (1_699_660_800 + day * 86_400) * 1_000_000).to_vec(),
        ),
        (
            "mixed",
            ["2023-11-15T06:13:23+08:00", "2023-11-14T22:13:21Z", "2023-11-14 22:13:22", "2023-11-14T14:13:20-08:00"]
                .map(String::from)
                .to_vec(),
            micros(),
        ),
    ];
    for (name, written, expected) in &spellings {
        let (case, expected) = (format!("iso-{name}"), (expected.clone(), Some("microseconds")));
        let job = job(&case, "");
        write(&job, texts(written));
        check(&case, &job, &expected, "#");
        // As delimited text and as JSON Lines.
        let lines = |line: &dyn Fn(usize) -> String| (0..4).map(line).collect::<String>();
        let csv = |row: usize| format!("{},{},{}\n", user_id(0), item_id(row), written[row]);
        let json = |row: usize| {
            format!("{{\"user_id\": {}, \"item_id\": {}, \"ts\": \"{}\"}}\n", user_id(0), item_id(row), written[row])
        };
        job.write("interactions.csv", &format!("user_id,item_id,ts\n{}", lines(&csv)));
        job.write("interactions.jsonl", &lines(&json));
        for (from, to) in [("parquet", "csv"), ("csv", "jsonl")] {
            job.edit(&format!("\"interactions.{from}\""), &format!("\"interactions.{to}\""));
            job.ok(&format!("encode-features --run {to} --quiet"));
            assert_eq!(encoded(&job, to), (ordered(&expected.0), Some("microseconds".into())), "{case} in {to}");
        }
    }
    let large = job("iso-large", "");
    write(&large, Arc::new(LargeStringArray::from_iter_values(&spellings[0].1)));
    check("iso-large", &large, &(micros(), Some("microseconds")), "#");
    // More digits than microseconds have are cut off nowhere.
    let fine = spelled(&|s| format!("2023-11-14T22:13:{s}.000000001"));
    let job = self::job("iso-fine", "");
    write(&job, texts(&fine));
    job.refused("encode-features", 3, &["row 0", "in whole microseconds", "`.timestamp_unit`"]);
    job.edit("timestamp = \"ts\"", "timestamp = \"ts\"\ntimestamp_unit = \"nanosecond\"");
    job.ok("encode-features --quiet");
    let nanos: Vec<i64> = times(1_000_000_000).iter().map(|time| time + 1).collect();
    assert_eq!(encoded(&job, "run"), (ordered(&nanos), Some("nanoseconds".into())));
    // Other formats, in a unit of the job's choice, and in the digits of integers.
    let custom = spelled(&|s| format!("14/11/2023 22:13:{s}"));
    let job = self::job("format", "timestamp_format = \"%d/%m/%Y %H:%M:%S\"\ntimestamp_unit = \"second\"");
    write(&job, texts(&custom));
    check("format", &job, &(times(1), Some("seconds")), "timestamp_format = \"%d/%m/%Y %H:%M:%S\"");
    let days = [20_231_114, 20_231_112, 20_231_113, 20_231_111];
    let job = self::job("format-digits", "timestamp_format = \"%Y%m%d\"");
    write(&job, integers(&days));
    check("format-digits", &job, &(spellings[6].2.clone(), Some("microseconds")), "timestamp_format = \"%Y%m%d\"");
}

#[test]
fn what_is_no_time_is_named_with_its_row_and_set_aside_where_the_job_allows_it() {
    let [a, b, c, d] = SECONDS;
    let optional: ArrayRef = Arc::new(Float64Array::from(vec![Some(a as f64), None, Some(c as f64), Some(d as f64)]));
    let cases: [(&str, &str, ArrayRef, &[&str]); 6] = [
        (
            "bad-text",
            "",
            texts(&["2023-11-14T22:13:23", "soon", "2023-11-14T22:13:22", "2023-11-14T22:13:20"]),
            &["`soon`", "ISO 8601"],
        ),
        (
            "bad-number",
            "",
            texts(&["1700000003", "2023-11-14", "1700000002", "1700000000"]),
            &["a whole number, found `2023-11-14`"],
        ),
        (
            "bad-format",
            "timestamp_format = \"%Y/%m/%d\"",
            texts(&["2023/11/14", "2023/14/11", "2023/11/13", "2023/11/11"]),
            &["as `%Y/%m/%d`", "`2023/14/11`"],
        ),
        ("bad-null", "", optional, &["a whole number, found null"]),
        ("bad-float", "", floats(&[a as f64, f64::NAN, c as f64, d as f64]), &["found `NaN`"]),
        (
            "bad-limit",
            "earliest = \"2023-11-14T22:13:20Z\"\nlatest = \"2023-11-14\"\ntimestamp_unit = \"second\"",
            integers(&[a, b - 1_000, c, d]),
            &["time 1699999001, expected 1700000000 to 1700006399"],
        ),
    ];
    for (name, settings, column, says) in cases {
        let job = job(name, settings);
        write(&job, column);
        job.refused("encode-features", 3, &[&["row 1", "column `ts`"][..], says].concat());
        job.edit("[features]", "[encode]\nmax_bad_rows = 0.5\n[features]");
        job.ok("encode-features --quiet");
        let rows: Vec<usize> = encoded(&job, "run").0.iter().map(|(row, _)| *row).collect();
        assert_eq!(rows, [3, 2, 0], "{name}");
        let line = std::fs::read_to_string(job.path("run/encoders/quarantine.jsonl")).unwrap();
        let line: Value = serde_json::from_str(line.trim()).unwrap();
        let reason = line["reason"].as_str().unwrap();
        assert!(line["row"] == 1 && says.iter().all(|text| reason.contains(text)), "{name}: {reason}");
    }
}

#[test]
fn a_column_of_two_magnitudes_and_settings_that_do_not_fit_are_refused() {
    let [a, b, c, d] = SECONDS;
    let two_rows = ["such as 1700000003 in row 0", "such as 1700000001000 in row 1"];
    let mixed = integers(&[a, b * 1000, c, d]);
    let written = texts(&[a, b * 1000, c, d].map(|time| time.to_string()));
    let stamps: ArrayRef = Arc::new(TimestampMillisecondArray::from(times(1000)));
    let cases: [(&str, &str, ArrayRef, i32, &[&str]); 13] = [
        ("mixed", "", mixed.clone(), 3, &two_rows),
        ("mixed-text", "", written, 3, &two_rows),
        ("mixed-stated", "timestamp_unit = \"millisecond\"", mixed, 3, &two_rows),
        ("mixed-floats", "", floats(&[a as f64, b as f64 * 1000.0, c as f64, d as f64]), 3, &two_rows),
        (
            "wrong-unit",
            "timestamp_unit = \"microsecond\"",
            integers(&SECONDS),
            3,
            &[
                "4 as seconds since 1970 (such as 1700000003 in row 0)",
                "`tables.interactions.timestamp_unit` is \"microsecond\"",
            ],
        ),
        ("no-unit", "timestamp_unit = \"minute\"", integers(&SECONDS), 2, &["timestamp_unit", "found \"minute\""]),
        ("no-date", "timestamp_format = \"%H:%M\"", texts(&["22:13"; 4]), 2, &["timestamp_format", "no whole date"]),
        ("typed-unit", "timestamp_unit = \"second\"", stamps.clone(), 2, &["count milliseconds"]),
        ("typed-format", "timestamp_format = \"%Y-%m-%d\"", stamps, 2, &["column `ts`", "a format is for text"]),
        ("text-limit", "latest = \"2026-01-31\"", integers(&SECONDS), 2, &["whose unit is not stated"]),
        ("boolean", "", Arc::new(BooleanArray::from(vec![true; 4])), 3, &["column `ts` is Boolean"]),
        (
            "floats-32",
            "",
            Arc::new(Float32Array::from(vec![1.7e9; 4])),
            3,
            &["column `ts` is Float32", "32-bit floats"],
        ),
        ("time-of-day", "", Arc::new(Time64MicrosecondArray::from(vec![1; 4])), 3, &["column `ts` is Time64"]),
    ];
    for (name, settings, column, code, says) in cases {
        let job = job(name, settings);
        write(&job, column);
        job.refused("encode-features", code, says);
        assert!(!job.path("run/encoders/manifest.json").exists(), "{name}");
    }
    // A job that knows better; and a column that `init` takes for no time.
    let job = job("mixed-limited", "earliest = 0\nlatest = 2_000_000_000\n[encode]\nmax_bad_rows = 0.5");
    write(&job, integers(&[a, b * 1000, c, d]));
    job.ok("encode-features --quiet");
    let (events, unit) = encoded(&job, "run");
    assert_eq!((events.len(), unit.as_deref()), (3, Some("seconds")));
    let of_day = self::job("init-none", "");
    of_day.edit("timestamp = \"ts\"\n", "");
    write(&of_day, Arc::new(Time64MicrosecondArray::from(vec![3, 1, 2, 0])));
    of_day.ok("encode-features --quiet");
    let found = of_day.ok("init --users users.parquet --items items.parquet --interactions interactions.parquet");
    assert!(found.stderr.contains("no timestamp found"), "{}", found.stderr);
    let times = &Manifest::read(of_day.path("run/encoders/manifest.json")).unwrap().details["times"];
    assert!(times.is_null(), "{times}");
}

#[test]
fn a_run_on_dates_as_text_is_that_on_the_seconds_they_say() {
    let of = |name: &str, change: &dyn Fn(&Job)| {
        let job = Job::small(&format!("clock-run-{name}"));
        change(&job);
        job.ok("run --quiet");
        let metrics = std::fs::read(job.path("run/evaluation/metrics.json")).unwrap();
        let metrics: Value = serde_json::from_slice(&metrics).unwrap();
        (metrics["models"].clone(), recalled(&job.path("run/recall")))
    };
    let seconds = of("seconds", &|_| ());
    let text = of("text", &|job| {
        let mut sheet = interactions().take(0..700);
        let dates = sheet.ints("ts").iter().map(|time| {
            // November 2023 began at this second.
            let time = time.unwrap() - 1_698_796_800;
            let (day, rest) = (time / 86_400 + 1, time % 86_400);
            assert!(day <= 30);
            Some(format!("2023-11-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60))
        });
        let dates = Column::Text(dates.collect());
        sheet.with("ts", dates).write_parquet(&job.path("interactions.parquet"));
    });
    assert_eq!(text.0, seconds.0);
    assert!(text.1 == seconds.1);
}
