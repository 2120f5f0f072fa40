//! Interactions as logs deliver them: with times that make no sense, delivered twice, with weights that teach nothing.
//! What is wrong is set aside or refused by name, and never changes in silence what is trained or measured.

mod fixture;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use fixture::results::{histories, read_parquet, recalled};
use fixture::sheet::{Column, Sheet};
use fixture::{Finished, Job, interactions, items, mixed, users};
use parquet::arrow::ArrowWriter;
use parquet::data_type::{Int64Type, Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::Manifest;

/// A job on the fixture's tables that trains for one epoch with our own engine.
fn job(name: &str) -> Job {
    let job = Job::new(name);
    job.native();
    job.one_epoch();
    job
}

/// An event: user, item, time.
type Event = (i64, i64, i64);

/// The fixture's events.
fn events() -> Vec<Event> {
    let mut sheet = interactions();
    let mut column = |name: &str| sheet.ints(name).iter().map(|v| v.unwrap()).collect::<Vec<i64>>();
    let (users, items, times) = (column("user_id"), column("item_id"), column("ts"));
    users.into_iter().zip(items).zip(times).map(|((user, item), time)| (user, item, time)).collect()
}

fn sheet_of(events: &[Event]) -> Sheet {
    let column = |of: &dyn Fn(&Event) -> i64| Column::Int(events.iter().map(|event| Some(of(event))).collect());
    Sheet::new([("user_id", column(&|e| e.0)), ("item_id", column(&|e| e.1)), ("ts", column(&|e| e.2))])
}

/// Ids of an encoded table, in order.
fn ids(job: &Job, run: &str, table: &str) -> Vec<i64> {
    let batches = read_parquet(&job.path(&format!("{run}/encoders/{table}.parquet")));
    let of = |batch: &RecordBatch| {
        let column = batch.column_by_name("__id").unwrap();
        arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Int64Type>(column).values().to_vec()
    };
    batches.iter().flat_map(of).collect()
}

/// The encoded events in order, with ids in place of rows, and their weights.
fn encoded(job: &Job, run: &str) -> Vec<(Event, f32)> {
    let (users, items) = (ids(job, run, "users"), ids(job, run, "items"));
    let found = histories(&job.path(run));
    // The users of the table, who stand first, are encoded in the same order.
    let mut events = Vec::new();
    for (at, user) in users.iter().enumerate() {
        for event in found.events(at) {
            let item = items[found.items[event] as usize];
            events.push(((*user, item, found.times[event]), found.weights[event]));
        }
    }
    events
}

fn manifest(job: &Job, run: &str) -> Manifest {
    Manifest::read(job.path(&format!("{run}/encoders/manifest.json"))).unwrap()
}

fn metrics(job: &Job, run: &str) -> Value {
    serde_json::from_slice(&std::fs::read(job.path(&format!("{run}/evaluation/metrics.json"))).unwrap()).unwrap()
}

/// Events with times in microseconds, as a timestamp column of 64 bits.
fn write_micros(path: &Path, events: &[Event]) {
    let column = |of: &dyn Fn(&Event) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from(events.iter().map(of).collect::<Vec<_>>()))
    };
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(events.iter().map(|e| e.2).collect::<Vec<_>>()));
    let batch =
        RecordBatch::try_from_iter([("user_id", column(&|e| e.0)), ("item_id", column(&|e| e.1)), ("ts", times)])
            .unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// The same as Spark and Hive write it: INT96, of which the last four bytes are the Julian day, the first eight the
/// nanosecond of the day.
fn write_int96(path: &Path, events: &[Event]) {
    let schema = "message m { REQUIRED INT64 user_id; REQUIRED INT64 item_id; REQUIRED INT96 ts; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for of in [|e: &Event| e.0, |e: &Event| e.1] {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<i64> = events.iter().map(of).collect();
        column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    let int96 = |micros: i64| {
        const DAY: i64 = 86_400_000_000;
        let (day, nanos) = (micros.div_euclid(DAY) + 2_440_588, micros.rem_euclid(DAY) as u64 * 1000);
        let mut value = Int96::new();
        value.set_data(nanos as u32, (nanos >> 32) as u32, day as u32);
        value
    };
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<Int96> = events.iter().map(|e| int96(e.2)).collect();
    column.typed::<Int96Type>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn times_in_int96_are_those_in_microseconds_to_the_end_of_the_year_9999() {
    // A user's first event is moved to the last second of the year 9999, another's to 1950, a third's by 7 us.
    let mut events: Vec<Event> = events().into_iter().map(|(u, i, t)| (u, i, t * 1_000_000)).collect();
    let first = |events: &[Event], user: i64| {
        (0..events.len()).filter(|e| events[*e].0 == user).min_by_key(|e| events[*e].2).unwrap()
    };
    let (far, old) = (fixture::user_id(0), fixture::user_id(1));
    let (at_far, at_old) = (first(&events, far), first(&events, old));
    let far_item = events[at_far].1;
    events[at_far].2 = 253_402_300_799_000_000;
    events[at_old].2 = -631_152_000_000_000;
    events[2].2 += 7;
    let mut written = Vec::new();
    for (name, write) in [("micros", write_micros as fn(&Path, &[Event])), ("int96", write_int96)] {
        let job = job(&format!("events-{name}"));
        write(&job.path("interactions.parquet"), &events);
        job.ok("encode-features --quiet");
        let found = encoded(&job, "run");
        let of_far: Vec<_> = found.iter().map(|(event, _)| *event).filter(|event| event.0 == far).collect();
        assert_eq!(of_far.last(), Some(&(far, far_item, 253_402_300_799_000_000)), "{name}: {of_far:?}");
        let times = &manifest(&job, "run").details["times"];
        assert_eq!(
            (&times["first"], &times["last"], &times["unit"]),
            (&(-631_152_000_000_000i64).into(), &253_402_300_799_000_000i64.into(), &"microseconds".into())
        );
        written.push(found);
    }
    assert!(written[0] == written[1]);
}

#[test]
fn times_outside_the_years_1900_to_9999_are_set_aside_and_counted_in_every_form() {
    // Rows of the second after the range, of the second before it, and of the end of what 64 bits hold.
    let bad = [(10, 253_402_300_800_000_000), (20, -2_208_988_801_000_000), (30, i64::MAX), (40, i64::MIN)];
    let mut events: Vec<Event> = events().into_iter().map(|(u, i, t)| (u, i, t * 1_000_000)).collect();
    for (row, time) in bad {
        events[row].2 = time;
    }
    for (name, write) in [("micros", write_micros as fn(&Path, &[Event])), ("int96", write_int96)] {
        let job = job(&format!("events-outside-{name}"));
        write(&job.path("interactions.parquet"), &events);
        let done = job.ok("encode-features");
        assert!(done.stderr.contains("4 of ") && done.stderr.contains("rows of interactions cannot be used"));
        assert_eq!(manifest(&job, "run").rows["interactions quarantined"], 4);
        let lines = std::fs::read_to_string(job.path("run/encoders/quarantine.jsonl")).unwrap();
        for (line, (row, time)) in lines.lines().zip(bad) {
            let line: Value = serde_json::from_str(line).unwrap();
            let reason = line["reason"].as_str().unwrap();
            assert_eq!(line["row"], row);
            assert!(
                reason.contains(&format!("time {time}, expected -2208988800000000 to 253402300799999999")),
                "{reason}"
            );
        }
        let times = encoded(&job, "run").iter().map(|(event, _)| event.2).collect::<Vec<_>>();
        assert!(times.iter().all(|time| (1_700_000_000_000_000..1_701_000_000_000_000).contains(time)), "{name}");
    }
    // Integers have no unit: before 0 is no time, and the job can say what is.
    let job = job("events-outside-integers");
    let mut events = self::events();
    events[10].2 = -1;
    events[20].2 = i64::MAX;
    sheet_of(&events).write_parquet(&job.path("interactions.parquet"));
    job.ok("encode-features --quiet");
    assert_eq!(manifest(&job, "run").rows["interactions quarantined"], 1);
    job.edit("timestamp = \"ts\"", "timestamp = \"ts\"\nlatest = 1_800_000_000");
    job.ok("encode-features --quiet");
    assert_eq!(manifest(&job, "run").rows["interactions quarantined"], 2);
    job.edit("latest = 1_800_000_000", "earliest = 5\nlatest = 4");
    job.refused("encode-features", 2, &["`tables.interactions.earliest` = 5 is later than `.latest` = 4"]);
    job.edit("timestamp = \"ts\"\nearliest = 5\nlatest = 4", "latest = 4");
    job.refused("encode-features", 2, &["limit the times of `.timestamp`, which is not given"]);
}

#[test]
fn seconds_beside_milliseconds_are_refused_until_the_job_says_which_are_right() {
    let job = job("events-units");
    let mut events = events();
    events[50].2 *= 1000;
    sheet_of(&events).write_parquet(&job.path("interactions.parquet"));
    let says = ["column `ts`", "as seconds since 1970", "1 as milliseconds since 1970 (such as 1", "in row 50"];
    job.refused("encode-features", 3, &says);
    assert!(!job.path("run/encoders/manifest.json").exists());
    job.edit("timestamp = \"ts\"", "timestamp = \"ts\"\nlatest = 4_000_000_000");
    job.ok("encode-features --quiet");
    assert_eq!(manifest(&job, "run").rows["interactions quarantined"], 1);
}

/// The rows of a sheet in an order that looks random.
fn shuffled(sheet: &Sheet) -> Sheet {
    let mut order: Vec<usize> = (0..sheet.rows()).collect();
    order.sort_by_key(|row| mixed(*row, 99));
    sheet.take(order)
}

#[test]
fn a_log_delivered_twice_trains_measures_and_recalls_as_the_log_itself() {
    let once = job("events-once");
    once.ok("run --quiet");
    let rows = interactions().rows() as u64;
    assert_eq!(manifest(&once, "run").rows["interactions repeated"], 0);
    let twice = job("events-twice");
    shuffled(&interactions()).write_parquet(&twice.path("later.parquet"));
    twice.edit("\"interactions.parquet\"", "[\"interactions.parquet\", \"later.parquet\"]");
    let done = twice.ok("run");
    let says = format!("{rows} of {} interactions repeat the user, item and time of an earlier row", 2 * rows);
    assert!(done.stderr.contains(&says), "{}", done.stderr);
    let counts = manifest(&twice, "run").rows;
    assert_eq!((counts["interactions"], counts["interactions kept"]), (2 * rows, rows));
    assert_eq!(counts["interactions repeated"], rows);
    assert!(encoded(&twice, "run") == encoded(&once, "run"));
    let models = |job: &Job| metrics(job, "run")["models"].clone();
    assert_eq!(models(&twice), models(&once));
    assert!(recalled(&twice.path("run/recall")) == recalled(&once.path("run/recall")));
    // A few repeats are counted and no cause for a warning.
    let few = job("events-few-repeats");
    let all = interactions();
    all.take((0..all.rows()).chain(0..20)).write_parquet(&few.path("interactions.parquet"));
    let done = few.ok("encode-features");
    assert!(!done.stderr.contains("repeat the user"), "{}", done.stderr);
    assert_eq!(manifest(&few, "run").rows["interactions repeated"], 20);
}

#[test]
fn rows_of_one_event_count_once_with_the_largest_weight_and_without_times_a_pair_is_one_event() {
    let job = job("events-weights");
    let (once, all) = (events(), events().len());
    let rows: Vec<Event> = once.iter().chain(&once).copied().collect();
    let weights = (0..2 * all).map(|row| Some(if row < all { 1.0 } else { (row % 3) as f64 })).collect();
    let sheet = sheet_of(&rows).with("weight", Column::Real(weights));
    sheet.write_parquet(&job.path("interactions.parquet"));
    job.edit("timestamp = \"ts\"", "timestamp = \"ts\"\nweight = \"weight\"");
    job.ok("encode-features --quiet");
    let expected: BTreeMap<Event, f32> =
        once.iter().enumerate().map(|(row, event)| (*event, 1f32.max(((row + all) % 3) as f32))).collect();
    let found: BTreeMap<Event, f32> = encoded(&job, "run").into_iter().collect();
    assert_eq!(found, expected);

    job.edit("timestamp = \"ts\"\n", "");
    job.ok("encode-features --quiet");
    let mut seen = BTreeSet::new();
    let firsts: Vec<(i64, i64)> = once.iter().map(|e| (e.0, e.1)).filter(|pair| seen.insert(*pair)).collect();
    let found: Vec<(i64, i64)> = encoded(&job, "run").into_iter().map(|((user, item, _), _)| (user, item)).collect();
    assert_eq!(found.len(), firsts.len());
    // Each user's pairs in the order of their first rows.
    for user in [fixture::user_id(0), fixture::user_id(17), fixture::user_id(701)] {
        let of = |pairs: &[(i64, i64)]| pairs.iter().filter(|p| p.0 == user).copied().collect::<Vec<_>>();
        assert_eq!(of(&found), of(&firsts));
    }
    let counts = manifest(&job, "run").rows;
    assert_eq!(counts["interactions repeated"], (2 * all - firsts.len()) as u64);
}

#[test]
fn a_held_out_item_that_its_user_had_before_is_no_task() {
    // Every fourth user takes an item it has again, a day after its last event.
    let mut events = events();
    let mut by_user: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
    events.iter().for_each(|event| by_user.entry(event.0).or_default().push(*event));
    let again = by_user.values().step_by(4).map(|own| (own[0].0, own[0].1, own.last().unwrap().2 + 86_400));
    let again: Vec<Event> = again.collect();
    events.extend(&again);
    by_user.clear();
    events.iter().for_each(|event| by_user.entry(event.0).or_default().push(*event));
    let (mut tasks, mut repeats) = (0, 0);
    for own in by_user.values_mut() {
        own.sort_by_key(|event| event.2);
        let (last, before) = own.split_last().unwrap();
        match before.iter().any(|event| event.1 == last.1) {
            true => repeats += 1,
            false => tasks += 1,
        }
    }
    assert!(repeats > 300);
    let job = job("events-repeats");
    sheet_of(&events).write_parquet(&job.path("interactions.parquet"));
    job.ok("run --quiet");
    let found = metrics(&job, "run");
    assert_eq!(found["users"], tasks);
    assert_eq!(found["users_without_new_items"], repeats);
    assert_eq!(found["repeated_test_events"], repeats);
    // One that only knows what a user had finds nothing: no item of the lists measured was had before.
    let all: Vec<Event> = by_user.values().flat_map(|own| [own[0], own[0], own[0]]).collect();
    let only: Vec<Event> = all.iter().enumerate().map(|(at, e)| (e.0, e.1, e.2 + at as i64)).collect();
    sheet_of(&only).write_parquet(&job.path("interactions.parquet"));
    job.ok("encode-features --quiet");
    let done = job.ok("train");
    assert!(done.stderr.contains("validation events is of an item new to its user"), "{}", done.stderr);
    job.refused("evaluate", 3, &["are of items that they had before", "leave-last-out"]);
}

/// A job whose events have these weights, by row and whether the event is one of its user's last two.
fn weighted(name: &str, weight: impl Fn(usize, bool) -> f64) -> Job {
    let job = job(name);
    let events = events();
    let mut by_user: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    events.iter().for_each(|e| by_user.entry(e.0).or_default().push(e.2));
    by_user.values_mut().for_each(|times| times.sort_unstable());
    let held = |e: &Event| by_user[&e.0].iter().rev().take(2).any(|time| *time == e.2);
    let weights = events.iter().enumerate().map(|(row, e)| Some(weight(row, held(e)))).collect();
    sheet_of(&events).with("rating", Column::Real(weights)).write_parquet(&job.path("interactions.parquet"));
    job.edit("timestamp = \"ts\"", "timestamp = \"ts\"\nweight = \"rating\"");
    job
}

#[test]
fn weights_that_leave_nothing_to_learn_are_refused_by_column_and_extreme_ones_train() {
    for (name, weight) in [
        ("events-zero", (|_, _| 0.0) as fn(usize, bool) -> f64),
        ("events-zero-training", |_, held| if held { 1.0 } else { 0.0 }),
    ] {
        let job = weighted(name, weight);
        job.ok("encode-features --quiet");
        job.refused(
            "train",
            3,
            &["training events have the weight 0 in column `rating`", "tables.interactions.weight"],
        );
        assert!(!job.path("run/towers/manifest.json").exists());
    }
    let says = |done: Finished| done.stderr.contains("have the weight 0 in column `rating`: they teach nothing");
    for (name, weight, warns) in [
        ("events-most-zero", (|row, _| f64::from(row % 20 == 0)) as fn(usize, bool) -> f64, true),
        ("events-tiny", |_, _| 1e-42, false),
        ("events-huge", |row, _| if row == 5 { 3e38 } else { 1.0 }, false),
    ] {
        let job = weighted(name, weight);
        job.ok("encode-features --quiet");
        assert_eq!(says(job.ok("train")), warns, "{name}");
        let report: Value =
            serde_json::from_slice(&std::fs::read(job.path("run/towers/training.json")).unwrap()).unwrap();
        let loss = report["epochs"][0]["loss"].as_f64().unwrap();
        assert!(loss.is_finite() && loss > 0.0, "{name}: {loss}");
    }
}

#[test]
fn training_that_tells_no_item_apart_is_refused() {
    let job = job("events-one-item");
    items().take([0]).write_parquet(&job.path("items.parquet"));
    let only: Vec<Event> =
        (0..40).map(|u| (fixture::user_id(u), fixture::item_id(0), 1_700_000_000 + u as i64)).collect();
    sheet_of(&only).write_parquet(&job.path("interactions.parquet"));
    job.ok("encode-features --quiet");
    job.refused("train", 3, &["the loss of all 40 training events is exactly 0", "nothing was learned"]);
    assert!(!job.path("run/towers/manifest.json").exists());
}

#[test]
fn features_that_tell_no_two_rows_apart_are_named_and_so_is_a_side_without_any_other() {
    let job = job("events-constant");
    let rows = users().rows();
    users()
        .with("city", Column::Text(vec![Some("NO".into()); rows]))
        .with("age", Column::Real(vec![None; rows]))
        .write_parquet(&job.path("users.parquet"));
    let done = job.ok("encode-features");
    let city = format!("user feature `city`: one value in all {rows} rows: it tells no two users apart");
    let age = format!("user feature `age`: no value in all {rows} rows: it tells no two users apart");
    for says in [&city, &age] {
        assert!(done.stderr.contains(says.as_str()), "{says}\n{}", done.stderr);
        assert!(manifest(&job, "run").warnings.contains(says));
    }
    assert!(!done.stderr.contains("feature `device`") && !done.stderr.contains("no feature tells"));
    // Nothing but these two.
    let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
    let kept = |line: &&str| !["device", "is_5g", "tags", "recent"].iter().any(|f| line.contains(&format!("\"{f}\"")));
    job.write("pipeline.toml", &text.lines().filter(kept).collect::<Vec<_>>().join("\n"));
    let done = job.ok("encode-features");
    assert!(done.stderr.contains("no feature tells users apart: all"), "{}", done.stderr);
    // And in the lists of a night that trains nothing.
    job.ok("train --quiet");
    for stage in ["infer --side item", "infer --side user"] {
        let done = job.ok(stage);
        assert_eq!(
            done.stderr.contains(&format!("no feature tells users apart: all {rows} get")),
            stage.ends_with("user")
        );
    }
}

#[test]
fn numbers_that_cannot_be_read_are_counted_by_feature_and_column() {
    let job = job("events-numbers");
    let mut sheet = items().text(",").replace("price", "list_price");
    sheet = sheet
        .lines()
        .enumerate()
        .map(|(line, text)| {
            let (rest, price) = text.rsplit_once(',').unwrap();
            if line == 0 { text.to_string() } else { format!("{rest},\"1,{price}\"") }
        })
        .collect::<Vec<_>>()
        .join("\n")
        + "\n";
    job.write("items.csv", &sheet);
    job.edit("items.parquet", "items.csv");
    job.edit("name = \"price\"", "name = \"price\", column = \"list_price\"");
    let done = job.ok("encode-features --set encode.max_unreadable=1");
    let says = "item feature `price` (column `list_price`): 60 of 60 values unreadable";
    assert!(done.stderr.contains(says), "{}", done.stderr);
    assert!(
        done.stderr.contains("item feature `price` (column `list_price`): no value in all 60 rows"),
        "{}",
        done.stderr
    );
}

#[test]
fn interactions_of_nobody_known_are_refused_with_an_example() {
    let job = job("events-strangers");
    let strangers: Vec<Event> = events().into_iter().map(|(u, i, t)| (-u, i, t)).collect();
    sheet_of(&strangers).write_parquet(&job.path("interactions.parquet"));
    let id = format!("{} is not in `users`, which has ", -events()[0].0);
    job.refused("encode-features", 3, &["names both a user of `users` and an item of `items`", &id]);
}
