//! Rows that cannot be used go to the quarantine with reason and place, and are nowhere else: rows in are rows out
//! plus rows quarantined, in every stage. Too many of them stop the run.

mod fixture;

use fixture::results::{recalled, text, vectors};
use fixture::sheet::{Column, Sheet};
use fixture::{Job, USERS, interactions, users};
use serde_json::Value;
use std::path::Path;
use twotower_artifacts::Manifest;

/// Lines of the quarantine file.
fn quarantine(job: &Job) -> Vec<Value> {
    let text = std::fs::read_to_string(job.path("run/encoders/quarantine.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows of a table in the quarantine, with their reasons.
fn aside(job: &Job, table: &str) -> Vec<(u64, String)> {
    let rows = quarantine(job).into_iter().filter(|bad| bad["table"] == table);
    rows.map(|bad| (bad["row"].as_u64().unwrap(), bad["reason"].as_str().unwrap().to_string())).collect()
}

/// A job with text ids and a vector feature on users, run by the native engine, with as many bad rows as may be.
fn job(name: &str, share: f64) -> Job {
    let job = Job::empty(name);
    job.write("pipeline.toml", &format!("{}{}", fixture::TABLES, fixture::SETTINGS));
    fixture::items().write_parquet(&job.path("items.parquet"));
    job.edit(
        "[infer]\n",
        &format!("[encode]\nmax_bad_rows = {share}\nall_users = true\n[infer]\nengine = \"native\"\n"),
    );
    job.edit(
        "{ kind = \"categorical\", name = \"city\" },",
        "{ kind = \"categorical\", name = \"city\" },\n    { kind = \"vector\", name = \"taste\", dim = 2 },",
    );
    job
}

/// The id of a user as text.
fn user(row: usize) -> String {
    format!("u{}", fixture::user_id(row))
}

/// Users with text ids.
fn text_users() -> Sheet {
    users().with("user_id", Column::Text((0..USERS).map(|row| Some(user(row))).collect()))
}

/// Tastes of users, all of one length.
fn tastes() -> Vec<Option<Vec<f32>>> {
    (0..USERS).map(|row| Some(vec![(row % 7) as f32 + 1.0, (row % 5) as f32])).collect()
}

/// Interactions of users with text ids.
fn text_interactions() -> Sheet {
    let mut sheet = interactions();
    let ids = sheet.ints("user_id").iter().map(|id| Some(format!("u{}", id.unwrap()))).collect();
    sheet.with("user_id", Column::Text(ids))
}

/// Rows that are bad, with what the quarantine says of them. Row 700 is the first of its id, row 701 the second.
const BAD: [(usize, &str); 7] = [
    (3, "the id is empty"),
    (399, "the id is null"),
    (400, "an id of 1048576 bytes, expected at most 4096"),
    (640, "vector of 3 elements, expected 2"),
    (999, "element 1 is not a finite number"),
    (1024, "element 0 is not a finite number"),
    (1499, "the id stands in row 700 already"),
];

/// Users and tastes of which the rows above are bad, and one has a value of a mebibyte, which is not.
fn spoilt() -> (Sheet, Vec<Option<Vec<f32>>>) {
    let (mut sheet, mut tastes) = (text_users(), tastes());
    let ids = sheet.texts("user_id");
    ids[3] = Some(String::new());
    ids[399] = None;
    ids[400] = Some("x".repeat(1 << 20));
    ids[1499] = Some(user(700));
    tastes[640] = Some(vec![1.0; 3]);
    tastes[999] = Some(vec![1.0, f32::NAN]);
    tastes[1024] = Some(vec![f32::INFINITY, 1.0]);
    sheet.texts("city")[17] = Some("y".repeat(1 << 20));
    (sheet, tastes)
}

/// Counts of the manifests of an output's parts, added up.
fn sum(run: &Path, output: &str, name: &str) -> u64 {
    fixture::results::manifests_of(run, output).iter().map(|part| part.rows[name]).sum()
}

/// Asserts that of the users of a run all but the `bad` ones are in every output, in order, and that `verify` agrees.
fn assert_accounted(job: &Job, bad: &[usize]) {
    let run = job.path("run");
    let good: Vec<String> = (0..USERS).filter(|row| !bad.contains(row)).map(user).collect();
    let counts = Manifest::read(run.join("encoders/manifest.json")).unwrap().rows;
    assert_eq!((counts["users"], counts["users quarantined"]), (USERS as u64, bad.len() as u64));
    let all: Vec<String> = fixture::results::read_parquet(&run.join("encoders/users-all.parquet"))
        .iter()
        .flat_map(|batch| {
            let ids = batch.column_by_name("__id").unwrap();
            let ids = arrow_array::cast::AsArray::as_string::<i32>(ids);
            ids.iter().map(|id| id.unwrap().to_string()).collect::<Vec<_>>()
        })
        .collect();
    assert!(all == good, "users-all.parquet: {} rows", all.len());
    if run.join("vectors/user").exists() {
        let found: Vec<String> = vectors(&run.join("vectors/user")).iter().map(|(id, _)| text(id)).collect();
        assert!(found == good, "{} vectors", found.len());
        let sums = ["rows", "quarantined"].map(|name| sum(&run, "vectors/user", name));
        assert_eq!(sums, [good.len() as u64, bad.len() as u64]);
    }
    let found: Vec<String> = recalled(&run.join("recall")).iter().map(|(id, _)| text(id)).collect();
    assert!(found == good, "{} recalled", found.len());
    let sums = ["users", "quarantined"].map(|name| sum(&run, "recall", name));
    assert_eq!(sums, [good.len() as u64, bad.len() as u64]);
}

#[test]
fn bad_users_are_set_aside_with_reason_and_place_and_every_stage_accounts_for_them() {
    let job = job("quarantine-users", 0.005);
    let (sheet, tastes) = spoilt();
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &tastes);
    text_interactions().write_parquet(&job.path("interactions.parquet"));
    job.ok("run --quiet");
    let (found, bad) = (aside(&job, "users"), BAD.map(|(row, _)| row));
    assert_eq!(found.iter().map(|(row, _)| *row as usize).collect::<Vec<_>>(), bad);
    for ((_, reason), (row, expected)) in found.iter().zip(BAD) {
        assert!(reason.contains(expected) && reason.len() < 1000, "row {row}: {reason}");
    }
    let last = &quarantine(&job)[6];
    assert_eq!((&last["row_in_file"], &last["id"]), (&Value::from(1499), &Value::from(user(700))));
    assert!(last["file"].as_str().unwrap().ends_with("users.parquet"));
    assert_accounted(&job, &bad);
    job.ok("verify");
    let whole = recalled(&job.path("run/recall"));
    assert_eq!(job.json("run --quiet")["stages"][0]["skipped"], true);

    // As if the bad rows had never been there.
    let clean = self::job("quarantine-clean", 0.005);
    let keep = |row: &usize| !bad.contains(row);
    let kept: Vec<_> = (0..USERS).filter(keep).map(|row| tastes[row].clone()).collect();
    sheet.take((0..USERS).filter(keep)).write_parquet_with(&clean.path("users.parquet"), "taste", &kept);
    text_interactions().write_parquet(&clean.path("interactions.parquet"));
    clean.ok("run --quiet");
    assert!(!clean.path("run/encoders/quarantine.jsonl").exists());
    let results = |job: &Job| (vectors(&job.path("run/vectors/user")), recalled(&job.path("run/recall")));
    assert!(results(&clean) == results(&job));

    // Other numbers of shards cut elsewhere, and find the same users.
    for shard in 0..3 {
        job.ok(&format!("infer --side user --shard {shard}/3 --force --quiet"));
    }
    for shard in 0..4 {
        job.ok(&format!("recall --shard {shard}/4 --force --quiet"));
    }
    assert_accounted(&job, &bad);
    assert!(recalled(&job.path("run/recall")) == whole);
    job.ok("verify");
    std::fs::remove_dir_all(job.path("run/vectors/user")).unwrap();
    std::fs::remove_dir_all(job.path("run/manifests/vectors/user")).unwrap();
    for shard in 0..2 {
        job.ok(&format!("recall --fused --shard {shard}/2 --force --quiet"));
    }
    assert_accounted(&job, &bad);
    assert!(recalled(&job.path("run/recall")) == whole);
    job.ok("verify");

    // A stricter limit holds for what is there already; a run that keeps to it removes the file.
    let says = ["users: 3 bad rows so far", "`encode.max_bad_rows` = 0.001", "row 3 ", "row 399 ", "the id is empty"];
    job.refused("encode-features --set encode.max_bad_rows=0.001", 3, &says);
    text_users().write_parquet_with(&job.path("users.parquet"), "taste", &self::tastes());
    job.ok("run --quiet");
    assert!(!job.path("run/encoders/quarantine.jsonl").exists());
    assert_eq!(sum(&job.path("run"), "recall", "quarantined"), 0);
}

#[test]
fn the_default_limit_is_a_thousandth_and_one_row_more_stops_the_run() {
    let job = job("quarantine-limit", 0.001);
    job.edit("max_bad_rows = 0.001\n", "");
    text_interactions().write_parquet(&job.path("interactions.parquet"));
    let mut sheet = text_users();
    sheet.texts("user_id")[9] = None;
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &tastes());
    let done = job.ok("encode-features");
    assert!(done.stderr.contains("1 of 1500 rows of users cannot be used"), "{}", done.stderr);
    sheet.texts("user_id")[1400] = Some(user(2));
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &tastes());
    job.refused(
        "encode-features",
        3,
        &["users: 2 bad rows", "row 9 ", "is null", "row 1400 ", "stands in row 2 already"],
    );
    let none = ["users: 1 bad rows", "row 9 "];
    sheet.texts("user_id")[1400] = Some(user(1400));
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &tastes());
    job.refused("encode-features --set encode.max_bad_rows=0", 3, &none);
    job.refused("encode-features --set encode.max_bad_rows=1.5", 2, &["encode.max_bad_rows", "0 to 1"]);
    fixture::results::assert_whole(&job.path("run"));
}

#[test]
fn bad_interactions_are_set_aside_with_reason_and_place() {
    let job = job("quarantine-interactions", 0.005);
    job.edit("timestamp = \"ts\"\n", "timestamp = \"ts\"\nweight = \"weight\"\n");
    text_users().write_parquet_with(&job.path("users.parquet"), "taste", &tastes());
    let rows = text_interactions().rows();
    let mut weights: Vec<Option<f64>> = (0..rows).map(|row| Some((row % 3) as f64)).collect();
    (weights[10], weights[20], weights[30]) = (Some(f64::NAN), Some(-1.0), None);
    let mut sheet = text_interactions().with("weight", Column::Real(weights));
    let users = sheet.texts("user_id");
    (users[40], users[50], users[60]) = (Some(String::new()), Some("x".repeat(1 << 20)), None);
    sheet.ints("item_id")[70] = None;
    sheet.ints("ts")[80] = None;
    sheet.write_parquet(&job.path("interactions.parquet"));
    job.ok("run --quiet");
    let expected = [
        (10, "weight NaN"),
        (20, "weight -1"),
        (30, "expected a number, found null"),
        (40, "the id is empty"),
        (50, "an id of 1048576 bytes, expected at most 4096"),
        (60, "the id is null"),
        (70, "the id is null"),
        (80, "expected a whole number, found null"),
    ];
    let found = aside(&job, "interactions");
    assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), expected.map(|(row, _)| row));
    for ((row, reason), (_, says)) in found.iter().zip(expected) {
        assert!(reason.contains(says), "row {row}: {reason}");
    }
    let counts = Manifest::read(job.path("run/encoders/manifest.json")).unwrap().rows;
    let names = ["kept", "of unknown items", "of unknown users", "quarantined"];
    let out: u64 = names.iter().map(|name| counts[&format!("interactions {name}")]).sum();
    assert_eq!((out, counts["interactions"]), (rows as u64, rows as u64));
    job.ok("verify");
}

#[test]
fn vectors_made_without_other_rows_than_the_quarantine_has_are_refused() {
    let job = job("quarantine-changed", 0.005);
    text_interactions().write_parquet(&job.path("interactions.parquet"));
    // Two users without interactions that are alike in all but their ids: without either, encoders are the same.
    let alike = text_users().take((0..USERS).map(|row| if row == 19 { 9 } else { row }));
    let without = |row: usize| {
        let mut sheet = alike.clone();
        sheet.texts("user_id")[19] = Some(user(19));
        sheet.texts("user_id")[row] = None;
        sheet.write_parquet_with(&job.path("users.parquet"), "taste", &vec![Some(vec![1.0, 2.0]); USERS]);
    };
    without(9);
    job.ok("run --quiet");
    without(19);
    job.ok("encode-features --quiet");
    let says = ["quarantine.jsonl", "made without the rows", "infer --side user"];
    job.refused("recall --force --quiet", 4, &says);
    job.refused("verify run", 4, &["verify: "]);
    job.ok("infer --side user --quiet");
    job.ok("recall --quiet");
    assert_accounted(&job, &[19]);
}

/// Items of which row 5 has no id, and the last row that of row 3; and those that are left of them.
fn spoilt_items() -> (Sheet, Sheet) {
    let mut sheet = fixture::items();
    let ids = sheet.ints("item_id");
    ids[5] = None;
    ids[fixture::ITEMS - 1] = ids[3];
    let left = sheet.take((0..fixture::ITEMS - 1).filter(|row| *row != 5));
    (sheet, left)
}

#[test]
fn bad_items_are_set_aside_as_users_are_and_every_stage_accounts_for_them() {
    let share = 0.04;
    let [job, clean] = ["quarantine-items", "quarantine-items-clean"].map(|name| job(name, share));
    let (all, left) = spoilt_items();
    for (job, items) in [(&job, &all), (&clean, &left)] {
        text_users().write_parquet_with(&job.path("users.parquet"), "taste", &tastes());
        text_interactions().write_parquet(&job.path("interactions.parquet"));
        items.write_parquet(&job.path("items.parquet"));
        job.ok("run --quiet --accept metric");
        job.ok("verify");
    }
    let found = aside(&job, "items");
    assert_eq!(found.len(), 2);
    assert!(found[0].0 == 5 && found[0].1.contains("the id is null"), "{found:?}");
    assert!(found[1].0 == 59 && found[1].1.contains("the id stands in row 3 already"), "{found:?}");
    let counts = Manifest::read(job.path("run/encoders/manifest.json")).unwrap().rows;
    assert_eq!((counts["items"], counts["items quarantined"]), (60, 2));
    let sums = ["rows", "quarantined"].map(|name| sum(&job.path("run"), "vectors/item", name));
    assert_eq!(sums, [58, 2]);
    assert_eq!(job.json("run --quiet --accept metric")["stages"][0]["skipped"], true);
    // As if the bad rows had never been there.
    let results = |job: &Job| (vectors(&job.path("run/vectors/item")), recalled(&job.path("run/recall")));
    assert!(results(&job) == results(&clean));

    // Vectors that were made with other rows are found.
    let (part, encoders) = ("run/manifests/vectors/item/part-00000-of-00001.json", "run/encoders/manifest.json");
    for (manifest, pointer, value, code, says) in [
        (part, "/inputs/quarantine", "0".repeat(32).into(), 4, "made without the rows"),
        (encoders, "/rows/items quarantined", Value::from(3), 3, "2 rows of items, its manifest says 3"),
    ] {
        let job = job.copy("quarantine-items-changed");
        job.change(manifest, |m| *m.pointer_mut(pointer).unwrap() = value);
        let verified = job.twotower("verify run");
        assert_eq!(verified.code, code, "{pointer}: {}\n{}", verified.stdout, verified.stderr);
        assert!(verified.stdout.contains(says), "{pointer}: expected `{says}` in\n{}", verified.stdout);
    }

    // A share below 2 of 60 rows stops the run.
    job.edit("max_bad_rows = 0.04", "max_bad_rows = 0.03");
    job.refused("run --quiet", 3, &["items: 2 bad rows", "row 5", "row 59", "`encode.max_bad_rows` = 0.03"]);
    // And a table without any good row is no catalogue.
    let none = fixture::items().with("item_id", Column::Int(vec![None; fixture::ITEMS]));
    none.write_parquet(&job.path("items.parquet"));
    job.edit("max_bad_rows = 0.03", "max_bad_rows = 1.0");
    job.refused("encode-features --quiet", 3, &["items: none of 60 rows can be used"]);
}

#[test]
fn counts_and_fingerprints_of_the_quarantine_that_do_not_fit_are_found() {
    let whole = job("quarantine-counts", 0.005);
    let (sheet, tastes) = spoilt();
    sheet.write_parquet_with(&whole.path("users.parquet"), "taste", &tastes);
    text_interactions().write_parquet(&whole.path("interactions.parquet"));
    whole.ok("run --quiet");
    let (encoders, users) = ("run/encoders/manifest.json", "run/manifests/vectors/user/part-00000-of-00001.json");
    for (manifest, pointer, value, code, says) in [
        (users, "/rows/quarantined", 6.into(), 4, "rows quarantined"),
        (users, "/inputs/quarantine", "0".repeat(32).into(), 4, "made without the rows"),
        (encoders, "/rows/interactions quarantined", 1.into(), 4, "rows quarantined"),
        (encoders, "/rows/users quarantined", 8.into(), 3, "its manifest says 8"),
    ] {
        let job = whole.copy("quarantine-counts-changed");
        job.change(manifest, |m| *m.pointer_mut(pointer).unwrap() = value);
        let verified = job.twotower("verify run");
        assert_eq!(verified.code, code, "{pointer}: {}\n{}", verified.stdout, verified.stderr);
        assert!(verified.stdout.contains(says), "{pointer}: expected `{says}` in\n{}", verified.stdout);
    }
}

#[test]
fn a_night_on_adopted_towers_sets_the_same_rows_aside() {
    let job = job("quarantine-adopted", 0.005);
    job.without_sequences();
    let (sheet, tastes) = spoilt();
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &tastes);
    text_interactions().write_parquet(&job.path("interactions.parquet"));
    job.ok("run --quiet");
    job.ok("run --run tonight --update-from run --no-train --fused --quiet");
    assert!(recalled(&job.path("tonight/recall")) == recalled(&job.path("run/recall")));
    let counts = Manifest::read(job.path("tonight/encoders/manifest.json")).unwrap().rows;
    assert_eq!((counts["users quarantined"], sum(&job.path("tonight"), "recall", "quarantined")), (7, 7));
    job.ok("verify tonight");
}

/// Files of the encoder state by name.
fn state(job: &Job, run: &str) -> Vec<(String, Vec<u8>)> {
    let dir = job.path(&format!("{run}/encoders"));
    let mut files = fixture::results::files(&dir.join("vocab"), "bin");
    files.push(dir.join("encoders.json"));
    files
        .iter()
        .map(|path| (path.file_name().unwrap().to_string_lossy().into(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn rows_set_aside_are_in_no_vocabulary_and_no_bound() {
    let job = job("quarantine-fit", 0.005);
    job.edit(
        "{ kind = \"numeric\", name = \"age\" },",
        "{ kind = \"numeric\", name = \"age\" }, { kind = \"id\", name = \"user\" },
    { kind = \"numeric\", name = \"age_log\", column = \"age\", transform = \"log1p\" },
    { kind = \"numeric\", name = \"age_range\", column = \"age\", transform = \"min_max\" },
    { kind = \"numeric\", name = \"age_bucket\", column = \"age\", transform = \"quantile_buckets\", buckets = 8 },",
    );
    job.without_sequences();
    text_interactions().write_parquet(&job.path("interactions.parquet"));
    let mut ages = (0..USERS).map(|row| Some((row % 61) as f64)).collect::<Vec<_>>();
    let sheet = text_users().with("age", Column::Real(ages.clone()));
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &tastes());
    job.ok("run --quiet");
    job.ok("encode-features --run first --quiet");
    // Two users stand in the table a second time, one of them a third: further down, with values that nobody else has.
    let rows = (0..USERS).chain([3, 3, 700]);
    let mut sheet = sheet.take(rows);
    ages.extend([Some(1e5), Some(-1e5), Some(7e9)]);
    sheet = sheet.with("age", Column::Real(ages));
    for row in USERS..USERS + 3 {
        sheet.texts("city")[row] = Some("Elsewhere".into());
        sheet.texts("tags")[row] = Some("DUP|film".into());
    }
    let mut twice = tastes();
    twice.extend([tastes()[3].clone(), tastes()[3].clone(), tastes()[700].clone()]);
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &twice);
    job.ok("encode-features --run spoilt --quiet");
    assert!(state(&job, "spoilt") == state(&job, "first"));
    assert_eq!(Manifest::read(job.path("spoilt/encoders/manifest.json")).unwrap().rows["users quarantined"], 3);
    // Without positives no rows are kept in memory: the table is read again. An update keeps old codes.
    job.ok("encode-features --run untrained --update first/encoders --quiet");
    job.ok("run --run tonight --update-from run --no-train --quiet");
    assert!(state(&job, "untrained") == state(&job, "tonight"));
    let shown = job.ok("vocab show tonight/encoders user_city").stdout;
    assert!(shown.contains("Bern") && !shown.contains("Elsewhere"), "{shown}");
}

/// A text job without vectors, whose users and interactions are these bytes.
fn text_job(name: &str, extension: &str, users: &[u8], events: &[u8]) -> Job {
    let job = Job::empty(name);
    job.write("pipeline.toml", &format!("{}{}", fixture::TABLES, fixture::SETTINGS));
    job.edit("[infer]\n", "[encode]\nmax_bad_rows = 0.005\nall_users = true\n[infer]\nengine = \"native\"\n");
    job.edit("users.parquet", &format!("users.{extension}"));
    job.edit("interactions.parquet", &format!("interactions.{extension}"));
    fixture::items().write_parquet(&job.path("items.parquet"));
    std::fs::write(job.path(&format!("users.{extension}")), users).unwrap();
    std::fs::write(job.path(&format!("interactions.{extension}")), events).unwrap();
    job
}

/// The lines of a text without its header, each with its break.
fn lines(text: &str, header: usize) -> Vec<Vec<u8>> {
    text.split_inclusive('\n').skip(header).map(|line| line.as_bytes().to_vec()).collect()
}

#[test]
fn bad_rows_of_text_files_are_set_aside_and_a_file_that_was_cut_is_refused() {
    for (extension, header) in [("csv", 1), ("jsonl", 0)] {
        let (users, events) = match extension {
            "csv" => (text_users().text(","), text_interactions().text(",")),
            _ => (text_users().json_lines(), text_interactions().json_lines()),
        };
        let (mut rows, mut positives) = (lines(&users, header), lines(&events, header));
        // Too many fields or not an object, bytes that are not UTF-8, no id, an id that stands in row 5.
        rows[20] = if header == 1 { b"a,b\n".to_vec() } else { b"{\"user_id\": \n".to_vec() };
        let at = rows[300].len() - 3;
        rows[300][at] = 0xFF;
        rows[301] = if header == 1 { b",,,,,\n".to_vec() } else { b"{\"city\": \"Bern\"}\n".to_vec() };
        rows[1498] = rows[5].clone();
        positives[0] = if header == 1 { b"u1\n".to_vec() } else { b"no object\n".to_vec() };
        let bad_time = String::from_utf8(positives[70].clone()).unwrap().replace("170", "x170");
        positives[70] =
            if header == 1 { bad_time.into_bytes() } else { b"{\"user_id\": \"u1\", \"item_id\": 900}\n".to_vec() };
        let whole = |rows: &[Vec<u8>], text: &str| -> Vec<u8> {
            let header = text.split_inclusive('\n').take(header).map(|line| line.as_bytes().to_vec());
            header.chain(rows.iter().cloned()).flatten().collect()
        };
        let (users, events) = (whole(&rows, &users), whole(&positives, &events));
        let job = text_job(&format!("quarantine-{extension}"), extension, &users, &events);
        job.ok("run --quiet");
        let bad = [20, 300, 301, 1498];
        let found = aside(&job, "users");
        assert_eq!(found.iter().map(|(row, _)| *row as usize).collect::<Vec<_>>(), bad, "{found:?}");
        let line = |row: usize| format!("line {}", row + 1 + header);
        let expected =
            [line(20), format!("{} is not UTF-8", line(300)), "the id is".into(), format!("stands in {}", line(5))];
        for ((_, reason), expected) in found.iter().zip(expected) {
            assert!(reason.contains(&expected), "{reason} lacks {expected}");
        }
        assert_eq!(aside(&job, "interactions").iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 70]);
        assert_accounted(&job, &bad);
        job.ok("verify");
        let counts = Manifest::read(job.path("run/encoders/manifest.json")).unwrap().rows;
        let names = ["interactions kept", "interactions of unknown items", "interactions of unknown users"];
        let out: u64 = names.iter().map(|name| counts[*name]).sum();
        assert_eq!(counts["interactions"], positives.len() as u64);
        assert_eq!(out + counts["interactions quarantined"], counts["interactions"]);
        let part = Manifest::read(job.path("run/manifests/recall/part-00000-of-00001.json")).unwrap();
        assert!(part.warnings.iter().any(|w| w.contains("rows of interactions cannot be used")), "{:?}", part.warnings);

        // The last row lost its end: more may be lost than that row.
        let path = job.path(&format!("users.{extension}"));
        std::fs::write(&path, &users[..users.len() - rows[USERS - 1].len() + 3]).unwrap();
        job.refused("encode-features", 3, &[&format!("users.{extension}"), &line(USERS - 1)]);
    }
}

#[test]
fn a_table_that_was_not_encoded_is_read_strictly() {
    let job = job("quarantine-other", 0.005);
    let (sheet, tastes) = spoilt();
    sheet.write_parquet_with(&job.path("users.parquet"), "taste", &tastes);
    text_interactions().write_parquet(&job.path("interactions.parquet"));
    for stage in ["encode-features", "train"] {
        job.ok(&format!("{stage} --quiet"));
    }
    sheet.write_parquet_with(&job.path("later.parquet"), "taste", &tastes);
    job.refused("infer --side user --table later.parquet --output later", 3, &["later.parquet", "the id is"]);
}

#[test]
fn a_part_of_the_table_without_a_usable_row_is_no_row_group_of_the_codes() {
    let job = job("quarantine-whole-part", 0.5);
    job.edit("\"users.parquet\"", "[\"users.csv\", \"one.csv\"]");
    job.edit("    { kind = \"vector\", name = \"taste\", dim = 2 },\n", "");
    let users = text_users().text(",");
    job.write("users.csv", &users);
    text_interactions().write_parquet(&job.path("interactions.parquet"));
    // A file of one row, which has a field too few.
    job.write("one.csv", &format!("{}\nu1\n", users.lines().next().unwrap()));
    job.ok("encode-features --quiet");
    let rows: usize =
        fixture::results::read_parquet(&job.path("run/encoders/users-all.parquet")).iter().map(|b| b.num_rows()).sum();
    assert_eq!((rows, aside(&job, "users").len()), (USERS, 1));
}
