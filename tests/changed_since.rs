//! A night that takes what has not changed since an earlier run writes the bytes of one that makes everything anew.

mod fixture;

use fixture::results::{files, outputs};
use fixture::sheet::{Column, Sheet};
use fixture::{Finished, ITEMS, Job, USERS, interactions, item_id, mixed, user_id, users};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Users who are gone on the second day.
const GONE: usize = 30;
/// Users who are new on the second day.
const NEW: usize = 20;

fn grew_older(u: usize) -> bool {
    mixed(u, 901).is_multiple_of(40)
}

fn took_something(u: usize) -> bool {
    mixed(u, 902).is_multiple_of(40)
}

fn is_gone(u: usize) -> bool {
    u % (USERS / GONE) == 7
}

/// The rows of the second day's users: each user of the first day, and `NEW` new ones, moved by up to ten rows.
fn second_day_rows() -> Vec<usize> {
    let mut rows: Vec<(usize, usize)> =
        (0..USERS).filter(|u| !is_gone(*u)).map(|u| (u + mixed(u, 903) % 10, u)).collect();
    rows.extend((USERS..USERS + NEW).map(|u| (mixed(u, 904) % USERS, u)));
    rows.sort_unstable();
    rows.into_iter().map(|(_, u)| u).collect()
}

/// The users table of the second day. New users are like some of the first day, so that no value is new.
fn second_users() -> Sheet {
    let rows = second_day_rows();
    let mut sheet = users().take(rows.iter().map(|u| u % USERS));
    for (id, u) in sheet.ints("user_id").iter_mut().zip(&rows) {
        *id = Some(if *u < USERS { user_id(*u) } else { 5_000_000 + *u as i64 });
    }
    let Column::Real(ages) = sheet.column("age") else { panic!("ages are numbers") };
    for (age, u) in ages.iter_mut().zip(&rows) {
        if grew_older(*u) {
            *age = Some(age.unwrap_or(30.0) + 1.5);
        }
    }
    sheet
}

/// The interactions of the second day: those of the first, and a new one of some users, with an item that they have not.
fn second_interactions() -> Sheet {
    let mut sheet = interactions();
    let mut had: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    let (users, items) = (sheet.ints("user_id").clone(), sheet.ints("item_id").clone());
    for (user, item) in users.iter().zip(&items) {
        had.entry(user.unwrap()).or_default().insert(item.unwrap());
    }
    for u in (0..USERS).filter(|u| took_something(*u)) {
        let own = had.entry(user_id(u)).or_default();
        let item = (0..ITEMS).map(item_id).find(|item| !own.contains(item)).unwrap();
        sheet.ints("user_id").push(Some(user_id(u)));
        sheet.ints("item_id").push(Some(item));
        sheet.ints("ts").push(Some(1_800_000_000));
    }
    sheet
}

/// Users of the second day who are as they were.
fn unchanged() -> u64 {
    let rows = second_day_rows().into_iter();
    rows.filter(|u| *u < USERS && !grew_older(*u) && !took_something(*u)).count() as u64
}

const SETTINGS: &str = "--set gates.off=[\"metric\",\"overlap\"] --quiet";

/// A job on its second day, with runs of its first day: `runs/1`, whose vectors are stored, and `runs/f`, whose are not.
fn second_day() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("since");
        job.native();
        job.one_epoch();
        job.ok(&format!("run --run runs/1 --set infer.row_hashes=true {SETTINGS}"));
        let adopt = "--update-from runs/1 --no-train --fused --no-publish";
        job.ok(&format!("run --run runs/f {adopt} --set infer.row_hashes=true {SETTINGS}"));
        second_users().write_parquet(&job.path("users.parquet"));
        second_interactions().write_parquet(&job.path("interactions.parquet"));
        job
    })
}

/// A run's files without those of the gates, which tell what they compared it with, and manifests without what tells how
/// vectors and lists were made.
fn made(job: &Job, run: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = outputs(&job.path(run));
    files.retain(|path, _| !path.starts_with("gates"));
    for (path, bytes) in &mut files {
        if path.starts_with("manifests") {
            let mut manifest: Value = serde_json::from_slice(bytes).unwrap();
            manifest["details"].as_object_mut().unwrap().shift_remove("changed since");
            let rows = manifest["rows"].as_object_mut().unwrap();
            ["copied", "embedded", "searched"].iter().for_each(|name| _ = rows.shift_remove(*name));
            *bytes = manifest.to_string().into_bytes();
        }
    }
    files
}

/// Asserts that two runs made the same, and that something was made.
fn assert_same(job: &Job, run: &str, all: &str) {
    let (found, expected) = (made(job, run), made(job, all));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{run} and {all}");
    assert!(found.keys().any(|path| path.starts_with("recall")) && found.len() > 10, "{run}: {:?}", names(&found));
    for (path, bytes) in &found {
        assert!(*bytes == expected[path], "{run}: {} differs from {all}'s", path.display());
    }
}

/// What the parts of an output say was taken, added up: found, copied, made.
fn taken(job: &Job, run: &str, output: &str) -> (u64, u64, u64) {
    let parts = fixture::results::manifests_of(&job.path(run), output);
    parts.iter().fold((0, 0, 0), |sums, part| {
        let taken = &part.details["changed since"];
        let of = |name: &str| taken[name].as_u64().unwrap_or_else(|| panic!("{output}: {taken}"));
        let made = part.rows.get("embedded").or(part.rows.get("searched")).copied();
        assert_eq!((part.rows.get("copied").copied(), made), (Some(of("copied")), Some(of("made"))));
        (sums.0 + of("found"), sums.1 + of("copied"), sums.2 + of("made"))
    })
}

#[test]
fn a_second_night_takes_who_has_not_changed_and_writes_the_same_bytes() {
    let adopt = "--update-from runs/1 --no-train --no-publish";
    let users = second_day_rows().len() as u64;
    let known = users - NEW as u64;
    for (form, flags) in [
        ("stored", ""),
        ("parts", "--set run.part_users=400"),
        ("no-history", "--set recall.exclude_seen=false"),
        ("jsonl", "--set recall.format=jsonl"),
    ] {
        let job = second_day().copy(&format!("since-{form}"));
        let (line, hashes) = (format!("{adopt} {flags} {SETTINGS}"), "--set infer.row_hashes=true");
        job.ok(&format!("run --run runs/all {line} {hashes}"));
        job.ok(&format!("run --run runs/2 {line} --changed-since runs/1"));
        assert_same(&job, "runs/2", "runs/all");
        assert!(unchanged() < known && unchanged() > known * 9 / 10, "{} of {known}", unchanged());
        let expected = (known, unchanged(), users - unchanged());
        assert_eq!(taken(&job, "runs/2", "vectors/user"), expected, "{form}: vectors");
        let lists = taken(&job, "runs/2", "recall");
        if form == "no-history" {
            // Only who has seen nothing gets what he got when everybody's items were excluded.
            assert!(lists.0 == known && lists.1 > 0 && lists.1 < unchanged() / 2, "{lists:?}");
        } else {
            assert_eq!(lists, expected, "{form}: lists");
        }
        job.ok("verify runs/2");
        // From the second night on to a third, without a setting: the table is the same, so everything is taken.
        let third = format!("--update-from runs/2 --no-train --no-publish {flags} {SETTINGS} --changed-since runs/2");
        if form != "jsonl" {
            job.ok(&format!("run --run runs/3 {third}"));
            assert_eq!(taken(&job, "runs/3", "vectors/user"), (users, users, 0));
            assert_eq!(taken(&job, "runs/3", "recall"), (users, users, 0));
            for folder in ["vectors/user", "recall", "row-hashes/recall"] {
                let bytes = |run: &str| files(&job.path(run).join(folder), "parquet").into_iter().map(std::fs::read);
                assert!(bytes("runs/3").map(Result::unwrap).eq(bytes("runs/2").map(Result::unwrap)), "{folder}");
            }
        } else {
            job.refused(&format!("run --run runs/3 {third}"), 4, &["--changed-since runs/2", "recall.format"]);
        }
    }
}

#[test]
fn a_fused_night_takes_lists_alone_and_shards_do_as_well() {
    let users = second_day_rows().len() as u64;
    let expected = (users - NEW as u64, unchanged(), users - unchanged());
    let job = second_day().copy("since-fused");
    let line = format!("--update-from runs/1 --no-train --no-publish --fused {SETTINGS}");
    job.ok(&format!("run --run runs/all {line} --set infer.row_hashes=true"));
    job.ok(&format!("run --run runs/2 {line} --changed-since runs/f"));
    assert_same(&job, "runs/2", "runs/all");
    assert_eq!(taken(&job, "runs/2", "recall"), expected);
    // Shards of vectors and of lists, one after the other, in another number than the earlier run's.
    let line = format!("--update-from runs/1 --no-train --no-publish {SETTINGS} --set infer.row_hashes=true");
    for run in ["runs/s", "runs/t"] {
        job.ok(&format!("run --run {run} {line}"));
        std::fs::remove_dir_all(job.path(run).join("recall")).unwrap();
        let since = if run == "runs/s" { "--changed-since runs/1" } else { "--set infer.row_hashes=true" };
        for (stage, shards) in [("infer --side user", 3), ("recall", 2)] {
            for shard in 0..shards {
                let force = if shard == 0 { "--force" } else { "" };
                job.ok(&format!("{stage} --run {run} --shard {shard}/{shards} {since} {force} --quiet"));
            }
        }
    }
    assert_same(&job, "runs/s", "runs/t");
    assert_eq!(taken(&job, "runs/s", "vectors/user"), expected);
    assert_eq!(taken(&job, "runs/s", "recall"), expected);
    job.ok("verify runs/s");
}

#[test]
fn every_engine_and_precision_gives_the_bytes_of_doing_all() {
    for engine in ["ort", "native", "native-int16"] {
        for precision in ["f32", "f16"] {
            if (engine, precision) == ("native", "f32") {
                continue;
            }
            let job = second_day().copy(&format!("since-{engine}-{precision}"));
            let line = format!("--engine {engine} --set infer.precision=\"{precision}\" --no-publish {SETTINGS}");
            users().write_parquet(&job.path("users.parquet"));
            interactions().write_parquet(&job.path("interactions.parquet"));
            let adopt = "--update-from runs/1 --no-train";
            job.ok(&format!("run --run runs/e {adopt} {line} --set infer.row_hashes=true"));
            second_users().write_parquet(&job.path("users.parquet"));
            second_interactions().write_parquet(&job.path("interactions.parquet"));
            job.ok(&format!("run --run runs/all {adopt} {line} --set infer.row_hashes=true"));
            job.ok(&format!("run --run runs/2 {adopt} {line} --changed-since runs/e"));
            assert_same(&job, "runs/2", "runs/all");
            assert_eq!(taken(&job, "runs/2", "vectors/user").1, unchanged(), "{engine} {precision}");
        }
    }
}

/// The second day of a job up to its item vectors, in `runs/2`.
fn begun(name: &str) -> Job {
    let job = second_day().copy(name);
    job.ok(&format!("run --run runs/2 --update-from runs/1 --no-train --no-publish {SETTINGS}"));
    job
}

const INFER: &str = "infer --run runs/2 --side user --quiet";

#[test]
fn an_earlier_run_of_another_model_or_way_is_refused_by_name_and_the_previous_one_is_passed_over_with_a_line() {
    let job = begun("since-refused");
    // Another model.
    let hashes = "--set infer.row_hashes=true --no-publish";
    job.ok(&format!("run --run runs/x --update-from runs/1 --set train.seed=5 {hashes} {SETTINGS}"));
    let since = |run: &str| format!("{INFER} --changed-since {run}");
    job.refused(
        &since("runs/x"),
        4,
        &["infer", "--changed-since runs/x", "its towers are", "leave --changed-since out"],
    );
    // Encoders that were fitted anew have other bounds.
    job.ok(&format!("run --run runs/y {hashes} {SETTINGS}"));
    job.refused(&since("runs/y"), 4, &["--changed-since runs/y", "its encoder state is"]);
    // What it was made with.
    for (flags, says) in [
        ("--engine native-int16", "engine is native, this run's native-int16"),
        ("--precision f16", "precision is F32, this run's F16"),
    ] {
        job.refused(&format!("{} {flags}", since("runs/1")), 4, &["--changed-since runs/1", says]);
    }
    let without = job.copy("since-without");
    without.ok("infer --run runs/2 --side user --force --quiet");
    without.ok(&format!("run --run runs/3 --update-from runs/1 --no-train --no-publish {SETTINGS}"));
    let line = "infer --run runs/3 --side user --quiet --changed-since runs/2";
    without.refused(line, 4, &["--changed-since runs/2", "infer.row_hashes"]);
    std::fs::remove_dir_all(without.path("runs/2/manifests/vectors/user")).unwrap();
    without.refused(line, 4, &["--changed-since runs/2", "twotower infer --side user"]);
    job.change("runs/1/manifests/vectors/user/part-00000-of-00001.json", |manifest| {
        manifest["tool_version"] = "0.0.1".into();
    });
    job.refused(&since("runs/1"), 4, &["--changed-since runs/1", "made by twotower 0.0.1"]);
    // What makes no sense.
    job.refused(&since("runs/2"), 2, &["the folder of this run"]);
    job.refused(&since("runs/none"), 1, &["runs/none"]);
    job.refused("infer --run runs/2 --side item --changed-since runs/1", 2, &["--changed-since", "users"]);
    let table = "--table users.parquet --output other";
    job.refused(&format!("{} {table}", since("runs/1")), 2, &["--changed-since", "--table"]);
    // The previous run, whatever it is.
    let Finished { stderr, code, .. } = job.twotower("infer --run runs/2 --side user --changed-since previous");
    assert!(code == 0 && stderr.contains("nothing is taken from") && stderr.contains("0.0.1"), "{stderr}");
    let first = Job::small("since-first");
    let night = format!("run --changed-since previous {SETTINGS}");
    let Finished { stderr, code, .. } = first.twotower(&format!("{night} --run runs/1").replace("--quiet", ""));
    assert!(code == 0 && stderr.contains("no run beside runs/1 has passed its gates"), "{stderr}");
    first.ok(&format!("{night} --run runs/2 --update-from previous --no-train"));
    assert_eq!(taken(&first, "runs/2", "recall"), (150, 150, 0));
}

#[test]
fn a_damaged_earlier_run_is_refused_and_nothing_is_published() {
    let day = begun("since-damaged");
    let last = |dir: &Path| files(dir, "parquet").pop().unwrap();
    for (at, (folder, line)) in [
        ("vectors/user", INFER.to_string()),
        ("row-hashes/vectors/user", INFER.to_string()),
        ("recall", "recall --run runs/2 --quiet".to_string()),
        ("row-hashes/recall", "recall --run runs/2 --quiet".to_string()),
    ]
    .into_iter()
    .enumerate()
    {
        let job = day.copy(&format!("since-damaged-{at}"));
        let path = last(&job.path("runs/1").join(folder));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let name = format!("runs/1/{folder}/part-00000-of-00001.parquet");
        let before = outputs(&job.path("runs/2"));
        job.refused(&format!("{line} --changed-since runs/1"), 3, &["--changed-since runs/1", &name]);
        let after = outputs(&job.path("runs/2"));
        assert!(before == after, "{folder}: a refused command has changed the run");
    }
}

#[test]
fn lists_are_searched_for_anew_where_items_index_or_lists_of_items_have_changed() {
    let job = begun("since-lists");
    let denied = Sheet::new([("item_id", Column::Int(vec![Some(item_id(3))]))]);
    denied.write_parquet(&job.path("denied.parquet"));
    let deny = "--set recall.deny={path=\"denied.parquet\",item=\"item_id\"}";
    for (flags, says) in [(deny, "deny"), ("--index hnsw", "its index has another `kind`")] {
        let line = |since: &str| format!("recall --run runs/2 {flags} --set index.min_index_recall=0.1 {since}");
        job.ok(&format!("{} --quiet", line("--set infer.row_hashes=true")));
        let all = made(&job, "runs/2");
        let Finished { stderr, code, .. } = job.twotower(&line("--changed-since runs/1 --force"));
        assert!(code == 0 && stderr.contains("nothing is taken from runs/1") && stderr.contains(says), "{stderr}");
        assert!(made(&job, "runs/2") == all, "{flags}");
    }
    let line = "recall --run runs/2 --quiet --changed-since runs/1";
    job.refused(&format!("{line} --topk 7"), 4, &["recall.topk", "leave --changed-since out"]);
    job.refused(&format!("{line} --fused"), 4, &["recall.fused"]);
    job.ok(line);
}
