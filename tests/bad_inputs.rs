//! Every bad input gives its own clear error, the documented exit code, and no partial output.

mod fixture;

use fixture::results::{assert_whole, recalled, walk};
use fixture::sheet::Column;
use fixture::{ITEMS, Job, interactions, items, user_id, users};
use std::path::Path;
use twotower_artifacts::Manifest;

/// How far the run has come before the input turns bad.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// Nothing has run.
    Nothing,
    /// Everything has run.
    Finished,
}

/// One bad input.
struct Case {
    name: &'static str,
    start: Start,
    /// Makes the input bad.
    spoil: fn(&Job),
    command: &'static str,
    code: i32,
    /// What standard error must say: file, column, row, value, next step.
    says: &'static [&'static str],
    /// The manifest that must not be there afterwards; none where an earlier complete output stays.
    absent: &'static str,
}

const ENCODE: &str = "encode-features";
const ENCODED: &str = "run/encoders/manifest.json";
const RECALLED: &str = "run/manifests/recall/part-00000-of-00001.json";

/// A column of text in place of the one under the name.
fn text_column(sheet: fixture::sheet::Sheet, name: &str, value: &str) -> fixture::sheet::Sheet {
    let rows = sheet.rows();
    sheet.with(name, Column::Text(vec![Some(value.to_string()); rows]))
}

/// Users as CSV, their bytes changed by `change`.
fn users_as_csv(job: &Job, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = users().text(",").into_bytes();
    change(&mut bytes);
    std::fs::write(job.path("users.csv"), bytes).unwrap();
    job.edit("users.parquet", "users.csv");
}

/// Lets no bad row be set aside.
fn without_quarantine(job: &Job) {
    job.edit("[infer]\n", "[encode]\nmax_bad_rows = 0\n[infer]\n");
}

/// Where line `line` (from 1) of a text begins.
fn line_start(bytes: &[u8], line: usize) -> usize {
    bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(line - 2).unwrap().0 + 1
}

/// Cuts a file in two and keeps its beginning.
fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Adds a vector feature whose column holds vectors of `width` elements.
fn add_vectors(job: &Job, width: usize) {
    let vectors = Column::Vector((0..ITEMS).map(|i| (0..width).map(|j| (i * j) as f32 + 1.0).collect()).collect());
    items().with("embedding", vectors).write_parquet(&job.path("items.parquet"));
    job.edit(
        "{ kind = \"id\", name = \"item\" },",
        "{ kind = \"id\", name = \"item\" },\n    { kind = \"vector\", name = \"embedding\", dim = 4 },",
    );
}

const CASES: &[Case] = &[
    Case {
        name: "wrong-column-name",
        start: Start::Nothing,
        spoil: |job| users().renamed("city", "citty").write_parquet(&job.path("users.parquet")),
        command: ENCODE,
        code: 3,
        says: &["users.parquet", "`city`", "did you mean `citty`?"],
        absent: ENCODED,
    },
    Case {
        name: "wrong-id-column",
        start: Start::Nothing,
        spoil: |job| job.edit("id = \"item_id\"", "id = \"product\""),
        command: ENCODE,
        code: 3,
        says: &["items.parquet", "`product`", "item_id, category, price"],
        absent: ENCODED,
    },
    Case {
        name: "text-for-a-timestamp",
        start: Start::Nothing,
        spoil: |job| text_column(interactions(), "ts", "yesterday").write_parquet(&job.path("interactions.parquet")),
        command: ENCODE,
        code: 3,
        says: &["interactions.parquet", "`ts`", "row 0", "`yesterday`"],
        absent: ENCODED,
    },
    Case {
        name: "text-for-an-integer-id",
        start: Start::Nothing,
        spoil: |job| text_column(interactions(), "item_id", "P-1").write_parquet(&job.path("interactions.parquet")),
        command: ENCODE,
        code: 3,
        says: &["interactions.parquet", "`item_id`", "row 0", "P-1"],
        absent: ENCODED,
    },
    Case {
        name: "text-for-a-vector",
        start: Start::Nothing,
        spoil: |job| {
            add_vectors(job, 4);
            text_column(items(), "embedding", "0.1 0.2").write_parquet(&job.path("items.parquet"));
        },
        command: ENCODE,
        code: 3,
        says: &["`embedding`", "Utf8", "a list of floats"],
        absent: ENCODED,
    },
    Case {
        name: "vector-for-a-category",
        start: Start::Nothing,
        spoil: |job| {
            let lists = Column::Vector(vec![vec![1.0, 2.0]; ITEMS]);
            items().with("category", lists).write_parquet(&job.path("items.parquet"));
        },
        command: ENCODE,
        code: 3,
        says: &["`category`", "text, integers, floats or booleans"],
        absent: ENCODED,
    },
    Case {
        name: "missing-file",
        start: Start::Nothing,
        spoil: |job| std::fs::remove_file(job.path("items.parquet")).unwrap(),
        command: ENCODE,
        code: 3,
        says: &["`items`", "items.parquet", "no file"],
        absent: ENCODED,
    },
    Case {
        name: "missing-file-after-a-run",
        start: Start::Finished,
        spoil: |job| std::fs::remove_file(job.path("users.parquet")).unwrap(),
        command: "infer --side user --force",
        code: 3,
        says: &["infer user", "users.parquet", "no file"],
        absent: "",
    },
    Case {
        name: "empty-table",
        start: Start::Nothing,
        spoil: |job| users().take([]).write_parquet(&job.path("users.parquet")),
        command: ENCODE,
        code: 3,
        says: &["`users`", "no rows", "users.parquet"],
        absent: ENCODED,
    },
    Case {
        name: "empty-file",
        start: Start::Nothing,
        spoil: |job| users_as_csv(job, Vec::clear),
        command: ENCODE,
        code: 3,
        says: &["users.csv", "header"],
        absent: ENCODED,
    },
    Case {
        name: "no-interaction-of-a-known-user",
        start: Start::Nothing,
        spoil: |job| {
            let rows = interactions().rows();
            let strangers = Column::Int((0..rows).map(|r| Some(-1 - r as i64)).collect());
            interactions().with("user_id", strangers).write_parquet(&job.path("interactions.parquet"));
        },
        command: ENCODE,
        code: 3,
        says: &["interactions", "`tables.interactions.user`"],
        absent: ENCODED,
    },
    Case {
        name: "duplicate-user-ids",
        start: Start::Nothing,
        spoil: |job| {
            without_quarantine(job);
            users().take((0..1000).chain([7])).write_parquet(&job.path("users.parquet"));
        },
        command: ENCODE,
        code: 3,
        says: &["users", "`user_id`", "155433", "row 1000", "in row 7 already", "must be unique"],
        absent: ENCODED,
    },
    Case {
        name: "duplicate-item-ids",
        start: Start::Nothing,
        spoil: |job| items().take((0..ITEMS).chain([3])).write_parquet(&job.path("items.parquet")),
        command: ENCODE,
        code: 3,
        says: &["items", "`item_id`", "867", "row 60 of", "in row 3 already", "must be unique"],
        absent: ENCODED,
    },
    Case {
        name: "item-id-of-a-mebibyte",
        start: Start::Nothing,
        spoil: |job| {
            let names = (0..ITEMS).map(|i| Some(if i == 7 { "x".repeat(1 << 20) } else { format!("item {i}") }));
            let mut sheet = items();
            *sheet.column("item_id") = Column::Text(names.collect());
            sheet.write_parquet(&job.path("items.parquet"));
        },
        command: ENCODE,
        code: 3,
        says: &["items", "`item_id`", "row 7", "an id of 1048576 bytes, expected at most 4096"],
        absent: ENCODED,
    },
    Case {
        name: "ragged-csv",
        start: Start::Nothing,
        spoil: |job| {
            without_quarantine(job);
            users_as_csv(job, |bytes| {
                let at = line_start(bytes, 500);
                bytes.splice(at..at, *b"spare,");
            });
        },
        command: ENCODE,
        code: 3,
        says: &["users.csv", "line 500", "7 fields, expected 6", "delimiter"],
        absent: ENCODED,
    },
    Case {
        name: "invalid-utf8",
        start: Start::Nothing,
        spoil: |job| {
            without_quarantine(job);
            users_as_csv(job, |bytes| {
                let at = line_start(bytes, 700) + 8;
                bytes[at] = 0xFF;
            });
        },
        command: ENCODE,
        code: 3,
        says: &["users.csv", "line 700", "not UTF-8", "the rest of the file is UTF-8: mend the line"],
        absent: ENCODED,
    },
    Case {
        name: "truncated-parquet",
        start: Start::Nothing,
        spoil: |job| truncate(&job.path("users.parquet")),
        command: ENCODE,
        code: 3,
        says: &["users.parquet", "truncated, damaged or not Parquet"],
        absent: ENCODED,
    },
    Case {
        name: "damaged-parquet",
        start: Start::Nothing,
        spoil: |job| {
            let path = job.path("users.parquet");
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[4..middle].fill(0xA5);
            std::fs::write(&path, bytes).unwrap();
        },
        command: ENCODE,
        code: 3,
        says: &["users.parquet", "truncated, damaged or not Parquet"],
        absent: ENCODED,
    },
    Case {
        name: "truncated-vectors-of-our-own",
        start: Start::Finished,
        spoil: |job| truncate(&job.path("run/vectors/user/part-00000-of-00001.parquet")),
        command: "recall --force",
        code: 3,
        says: &["run/vectors/user/part-00000-of-00001.parquet"],
        absent: "",
    },
    Case {
        name: "vector-of-the-wrong-length",
        start: Start::Nothing,
        spoil: |job| add_vectors(job, 5),
        command: ENCODE,
        code: 3,
        says: &["`embedding`", "row 0", "vector of 5 elements, expected 4"],
        absent: ENCODED,
    },
    Case {
        name: "shard-beyond-the-last",
        start: Start::Finished,
        spoil: |_| {},
        command: "infer --side user --shard 8/8",
        code: 2,
        says: &["8/8", "count from 0", "7/8"],
        absent: "run/manifests/vectors/user/part-00008-of-00008.json",
    },
    Case {
        name: "recall-shard-beyond-the-last",
        start: Start::Finished,
        spoil: |_| {},
        command: "recall --shard 8/8",
        code: 2,
        says: &["8/8", "count from 0", "7/8"],
        absent: "run/manifests/recall/part-00008-of-00008.json",
    },
    Case {
        name: "unreadable-shard",
        start: Start::Finished,
        spoil: |_| {},
        command: "infer --side user --shard three",
        code: 2,
        says: &["`three`", "i/n such as 0/8"],
        absent: "",
    },
    Case {
        name: "topk-zero",
        start: Start::Finished,
        spoil: |_| {},
        command: "recall --topk 0",
        code: 2,
        says: &["`recall.topk` = 0", "a whole number from 1"],
        absent: "",
    },
    Case {
        name: "unknown-config-key",
        start: Start::Nothing,
        spoil: |job| job.edit("batch_size = 512", "batchsize = 512"),
        command: ENCODE,
        code: 2,
        says: &["pipeline.toml", "`batchsize`", "did you mean `batch_size`?"],
        absent: ENCODED,
    },
    Case {
        name: "config-that-is-no-toml",
        start: Start::Nothing,
        spoil: |job| job.write("pipeline.toml", "[tables\n"),
        command: ENCODE,
        code: 2,
        says: &["pipeline.toml", "line 1"],
        absent: ENCODED,
    },
    Case {
        name: "missing-config",
        start: Start::Nothing,
        spoil: |job| std::fs::remove_file(job.path("pipeline.toml")).unwrap(),
        command: ENCODE,
        code: 2,
        says: &["pipeline.toml", "not found", "twotower init"],
        absent: ENCODED,
    },
    Case {
        name: "config-that-is-a-folder",
        start: Start::Nothing,
        spoil: |job| {
            std::fs::remove_file(job.path("pipeline.toml")).unwrap();
            std::fs::create_dir(job.path("pipeline.toml")).unwrap();
        },
        command: ENCODE,
        code: 2,
        says: &["pipeline.toml", "directory"],
        absent: ENCODED,
    },
    Case {
        name: "unknown-flag",
        start: Start::Finished,
        spoil: |_| {},
        command: "recall --top 5",
        code: 2,
        says: &["--top", "--topk"],
        absent: "",
    },
    Case {
        name: "unknown-override",
        start: Start::Finished,
        spoil: |_| {},
        command: "train --set train.epoch=3",
        code: 2,
        says: &["`epoch`", "did you mean `epochs`?"],
        absent: "",
    },
    Case {
        name: "shards-of-unlike-counts",
        start: Start::Finished,
        spoil: |_| {},
        command: "infer --side user --shard 0/3",
        code: 4,
        says: &["part-00000-of-00001.json", "shard 0/3", "--force"],
        absent: "run/manifests/vectors/user/part-00000-of-00003.json",
    },
    Case {
        name: "shards-of-unlike-engines",
        start: Start::Finished,
        spoil: |job| {
            job.ok("infer --side user --engine native --shard 0/2 --force --quiet");
            job.ok("infer --side user --engine ort --shard 1/2 --quiet");
        },
        command: "recall --force",
        code: 4,
        says: &["part-00000-of-00002.json", "part-00001-of-00002.json", "`engine`"],
        absent: "",
    },
    Case {
        name: "sides-of-unlike-engines",
        start: Start::Finished,
        spoil: |job| _ = job.ok("infer --side user --engine native --quiet"),
        command: "recall --force",
        code: 4,
        says: &["`native`", "`ort`", "run `twotower infer`"],
        absent: "",
    },
    Case {
        name: "a-shard-that-is-not-there",
        start: Start::Finished,
        spoil: |job| _ = job.ok("infer --side user --shard 0/2 --force --quiet"),
        command: "recall --force",
        code: 1,
        says: &["part-00001-of-00002.json", "is missing", "twotower infer --side user --shard 1/2"],
        absent: "",
    },
    Case {
        name: "no-encoders",
        start: Start::Nothing,
        spoil: |_| {},
        command: "train",
        code: 1,
        says: &["run/encoders/manifest.json", "is missing", "run `twotower encode-features` first"],
        absent: "run/towers/manifest.json",
    },
    Case {
        name: "no-towers",
        start: Start::Nothing,
        spoil: |job| _ = job.ok("encode-features --quiet"),
        command: "infer --side item",
        code: 1,
        says: &["run/towers/manifest.json", "is missing", "run `twotower train` first"],
        absent: "run/manifests/vectors/item/part-00000-of-00001.json",
    },
    Case {
        name: "no-vectors",
        start: Start::Nothing,
        spoil: |job| _ = (job.ok("encode-features --quiet"), job.ok("train --quiet")),
        command: "recall",
        code: 1,
        says: &["run/manifests/vectors/item", "is missing", "twotower infer --side item"],
        absent: RECALLED,
    },
    Case {
        name: "training-that-diverges",
        start: Start::Finished,
        spoil: |_| {},
        command: "train --force --learning-rate 10 --epochs 60 --set train.weight_decay=0.99",
        code: 5,
        says: &["in_batch is NaN in epoch ", "lower `learning_rate`"],
        absent: "",
    },
    Case {
        name: "index-below-its-gate",
        start: Start::Nothing,
        spoil: |job| {
            job.ok("synth data --users 3000 --items 3000 --quiet");
            std::fs::remove_file(job.path("pipeline.toml")).unwrap();
            let tables = "--users data/users --items data/items.parquet --interactions data/interactions";
            job.ok(&format!("init {tables} --output pipeline.toml"));
            for stage in ["encode-features", "train --epochs 1", "infer --side item", "infer --side user"] {
                job.ok(&format!("{stage} --quiet"));
            }
        },
        command: "recall --index hnsw --set index.m=2 --set index.ef_construction=1 --set index.ef_search=1",
        code: 5,
        says: &["recall@50", "users at ef_search 1", "required 0.98", "raise `m` or `ef_construction`"],
        absent: "run/index/stage.json",
    },
];

#[test]
fn every_bad_input_gives_its_own_error_and_leaves_no_partial_output() {
    let fresh = Job::new("bad-fresh");
    let finished = fresh.copy("bad-finished");
    finished.ok("run --quiet");
    let mut failures = Vec::new();
    for case in CASES {
        let base = if case.start == Start::Finished { &finished } else { &fresh };
        let job = base.copy(&format!("bad-{}", case.name));
        (case.spoil)(&job);
        let done = job.twotower(case.command);
        let missing: Vec<_> = case.says.iter().filter(|text| !done.stderr.contains(**text)).collect();
        let present = !case.absent.is_empty() && job.path(case.absent).exists();
        if done.code != case.code || !missing.is_empty() || done.stderr.contains("panicked") || present {
            let Case { name, code, absent, .. } = case;
            failures.push(format!(
                "{name}: exit code {} (expected {code}), not said: {missing:?}, {absent} present: {present}\n{}",
                done.code, done.stderr
            ));
        }
        if !case.name.starts_with("truncated-vectors") {
            assert_whole(&job.path("run"));
        }
        let _ = std::fs::remove_dir_all(&job.dir);
    }
    assert!(failures.is_empty(), "{} bad inputs:\n\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn numbers_that_are_not_finite_are_counted_and_taken_as_missing() {
    let job = Job::new("bad-not-finite");
    let mut sheet = users();
    if let Column::Real(ages) = sheet.column("age") {
        ages[0] = Some(f64::NAN);
        ages[1] = Some(f64::INFINITY);
        ages[2] = Some(f64::NEG_INFINITY);
    }
    sheet.write_parquet(&job.path("users.parquet"));
    let done = job.ok("run");
    assert!(
        done.stderr.contains("user feature `age`: 3 of 1500 values not finite: taken as missing"),
        "{}",
        done.stderr
    );
    let manifest = Manifest::read(job.path("run/manifests/vectors/user/part-00000-of-00001.json")).unwrap();
    assert!(manifest.warnings.iter().any(|w| w.contains("`age`: 3 of 1500 values not finite")), "{manifest:?}");
    assert_eq!(manifest.details["encoded"]["features"]["age"]["not_finite"], 3);
    // As if the value had been missing.
    let missing = Job::new("bad-missing");
    if let Column::Real(ages) = sheet.column("age") {
        ages[..3].fill(None);
    }
    sheet.write_parquet(&missing.path("users.parquet"));
    missing.ok("run --quiet");
    let vectors = |job: &Job| fixture::results::vectors(&job.path("run/vectors/user"));
    assert!(vectors(&job) == vectors(&missing));
}

#[test]
fn topk_above_the_catalogue_gives_all_eligible_items_and_a_warning() {
    let job = Job::new("bad-topk");
    job.ok("run --quiet");
    for index in ["exact", "hnsw"] {
        let done = job.ok(&format!("recall --topk 1000 --index {index} --keep-seen"));
        assert!(done.stderr.contains("topk = 1000, but only 60 items are eligible"), "{}", done.stderr);
        let lists = recalled(&job.path("run/recall"));
        assert!(lists.iter().all(|(_, list)| list.len() == ITEMS));
        assert_eq!(lists[0].0, serde_json::Value::from(user_id(0)));
        let manifest = Manifest::read(job.path(RECALLED)).unwrap();
        assert!(manifest.warnings.iter().any(|w| w.contains("topk = 1000")), "{:?}", manifest.warnings);
    }
    assert_whole(&job.path("run"));
    assert!(!walk(&job.path("run")).is_empty());
}
