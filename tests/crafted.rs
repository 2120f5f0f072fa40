//! Ids, towers and files that somebody made on purpose: they change nobody else's results, take no more time or memory
//! than others, and are refused by name.

mod fixture;

use fixture::results::recalled;
use fixture::sheet::{Column, Sheet};
use fixture::{Job, interactions, item_id, user_id, users};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use twotower_artifacts::{FileEntry, Fingerprint};

/// Ids of one hash by `rustc_hash` 2, which has no key.
fn colliding(user: usize) -> String {
    format!("JyZYDautJq5jL4m10123456789abcdef|e4#)+~z{user:08}@mail.example.com")
}

/// The job's tables with another id for each user.
fn with_users(job: &Job, id: impl Fn(usize) -> String) {
    let rows: BTreeMap<i64, usize> = (0..fixture::USERS).map(|row| (user_id(row), row)).collect();
    let ids = |sheet: &mut Sheet| {
        let ids = sheet.ints("user_id").iter().map(|user| Some(id(rows[&user.unwrap()]))).collect();
        Column::Text(ids)
    };
    for (mut sheet, name) in [(users(), "users.parquet"), (interactions(), "interactions.parquet")] {
        let ids = ids(&mut sheet);
        sheet.with("user_id", ids).write_parquet(&job.path(name));
    }
}

#[test]
fn users_whose_ids_were_made_to_collide_keep_what_they_have_seen_apart() {
    let job = Job::new("crafted-seen");
    job.native();
    job.one_epoch();
    job.edit("topk = 10", "topk = 60");
    let id = |user: usize| if user < 30 { colliding(user) } else { format!("user-{user}") };
    with_users(&job, id);
    job.ok("run --quiet --accept metric --accept coverage");
    let rows: BTreeMap<i64, usize> = (0..fixture::USERS).map(|row| (user_id(row), row)).collect();
    let mut seen: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    let mut events = interactions();
    let users = events.ints("user_id").clone();
    for (user, item) in users.iter().zip(events.ints("item_id").iter()) {
        seen.entry(id(rows[&user.unwrap()])).or_default().insert(item.unwrap());
    }
    let catalogue: BTreeSet<i64> = (0..fixture::ITEMS).map(item_id).collect();
    let lists = recalled(&job.path("run/recall"));
    assert_eq!(lists.len(), fixture::USERS);
    for (user, list) in lists {
        let user = user.as_str().unwrap();
        let found: BTreeSet<i64> = list.iter().map(|(item, _)| item.as_i64().unwrap()).collect();
        let due: BTreeSet<i64> = match seen.get(user) {
            Some(seen) => catalogue.difference(seen).copied().collect(),
            None => catalogue.clone(),
        };
        assert_eq!(found, due, "{user}");
    }
}

#[test]
fn values_and_ids_made_to_collide_take_no_more_time_than_others() {
    const ROWS: usize = 30_000;
    let job = Job::new("crafted-time");
    let time = |id: &dyn Fn(usize) -> String| -> Duration {
        let column = |f: &dyn Fn(usize) -> String| Column::Text((0..ROWS).map(|row| Some(f(row))).collect());
        Sheet::new([("user_id", column(id)), ("city", column(id))]).write_parquet(&job.path("users.parquet"));
        let column = |f: &dyn Fn(usize) -> i64| Column::Int((0..ROWS).map(|row| Some(f(row))).collect());
        Sheet::new([
            ("user_id", Column::Text((0..ROWS).map(|row| Some(id(row))).collect())),
            ("item_id", column(&|row| item_id(row % fixture::ITEMS))),
            ("ts", column(&|row| row as i64)),
        ])
        .write_parquet(&job.path("interactions.parquet"));
        let started = Instant::now();
        job.ok("encode-features --force --quiet");
        started.elapsed()
    };
    let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
    let features = text.find("    { kind = \"hashed\"").unwrap()..text.find("]\nitem = [").unwrap();
    job.write("pipeline.toml", &[&text[..features.start], &text[features.end..]].concat());
    let others = time(&|row| format!("JyZYDautJq5jL4m1{row:08}0123456789abcdef|e4#)+~z@mail.example.com"));
    let made = time(&colliding);
    // Quadratic work took 9 s of this table, beside .5 s.
    assert!(made < 6 * others + Duration::from_secs(1), "{made:?} beside {others:?}");
}

/// Gives a file of the towers' folder another content, and the manifest what it then has to say.
fn replace_tower(job: &Job, name: &str, content: &[u8]) {
    let dir = job.path("run/towers");
    std::fs::write(dir.join(name), content).unwrap();
    let entries = ["user_tower.onnx", "item_tower.onnx"].map(|name| FileEntry::of_file(&dir, name, 0).unwrap());
    let parts = entries.iter().map(|entry| (entry.path.as_str(), entry.blake3.as_bytes()));
    let fingerprint = Fingerprint::of_parts(parts);
    job.change("run/towers/manifest.json", |manifest| {
        manifest["fingerprint"] = json!(fingerprint);
        for file in manifest["files"].as_array_mut().unwrap() {
            if let Some(entry) = entries.iter().find(|entry| file["path"] == entry.path) {
                *file = json!(entry);
            }
        }
    });
}

#[test]
fn a_tower_with_another_graph_is_refused_though_its_manifest_says_that_it_belongs_here() {
    let job = Job::new("crafted-tower");
    job.one_epoch();
    job.ok("encode-features --quiet");
    job.ok("train --quiet");
    let good = std::fs::read(job.path("run/towers/user_tower.onnx")).unwrap();
    // `ModelProto.graph`, which counts as more of the graph that is there: a node without inputs or outputs, an
    // initialiser, an input.
    let more: [&[u8]; 3] = [&[0x3a, 0x02, 0x0a, 0x00], &[0x3a, 0x02, 0x2a, 0x00], &[0x3a, 0x02, 0x5a, 0x00]];
    for part in more {
        replace_tower(&job, "user_tower.onnx", &[&good, part].concat());
        let refused =
            |line: &str| job.refused(line, 4, &["the graph of tower", "user_tower.onnx", "twotower train --force"]);
        for engine in ["ort", "native", "native-int16"] {
            refused(&format!("infer --side user --quiet --set infer.engine={engine}"));
        }
        refused("run --from infer-items --quiet");
        assert!(!job.path("run/vectors/user").join("part-00000-of-00001.parquet").exists());
    }
    replace_tower(&job, "user_tower.onnx", &good);
    job.ok("infer --side user --quiet");
    // The next step works.
    replace_tower(&job, "user_tower.onnx", &[&good, more[0]].concat());
    job.ok("train --force --quiet");
    job.ok("infer --side user --quiet");
}

#[test]
fn a_manifest_without_its_checksum_is_refused_and_its_stage_can_be_run_again() {
    let job = Job::new("crafted-checksum");
    job.native();
    job.one_epoch();
    job.ok("run --quiet --accept metric --accept coverage");
    let manifests = [
        ("run/encoders/manifest.json", "encode-features"),
        ("run/towers/manifest.json", "train"),
        ("run/manifests/vectors/item/part-00000-of-00001.json", "infer --side item"),
        ("run/manifests/recall/part-00000-of-00001.json", "recall"),
    ];
    for (path, stage) in manifests {
        let whole = std::fs::read_to_string(job.path(path)).unwrap();
        let start = whole.rfind(",\n  \"checksum\"").unwrap();
        std::fs::write(job.path(path), format!("{}\n}}\n", &whole[..start])).unwrap();
        let found = job.twotower("verify run");
        assert_eq!(found.code, 4, "{path}: {}", found.stdout);
        assert!(found.stdout.contains("`checksum`"), "{path}: {}", found.stdout);
        job.refused(&format!("{stage} --quiet"), 4, &[path.rsplit('/').next().unwrap(), "`checksum`", "--force"]);
        job.ok(&format!("{stage} --force --quiet"));
    }
}

#[test]
fn a_file_of_json_that_is_larger_than_any_is_refused_by_its_size() {
    let job = Job::new("crafted-sparse");
    job.native();
    job.one_epoch();
    job.ok("run --quiet --accept metric --accept coverage");
    let sparse = |path: &Path| std::fs::File::create(path).unwrap().set_len(3 << 30).unwrap();
    for path in ["encoders/manifest.json", "encoders/encoders.json", "manifests/recall/part-00000-of-00001.json"] {
        let path = job.path("run").join(path);
        let whole = std::fs::read(&path).unwrap();
        sparse(&path);
        let started = Instant::now();
        let found = job.twotower("verify run");
        assert!(matches!(found.code, 3 | 4), "{}: {}", path.display(), found.stdout);
        assert!(found.stdout.contains("bytes, expected at most"), "{}: {}", path.display(), found.stdout);
        assert!(started.elapsed() < Duration::from_secs(20), "it was read: {:?}", started.elapsed());
        std::fs::write(&path, whole).unwrap();
    }
    sparse(&job.path("pipeline.toml"));
    job.refused("run", 2, &["pipeline.toml", "bytes, expected at most"]);
}

#[test]
fn a_budget_that_some_stage_would_refuse_is_refused_before_the_first() {
    let job = Job::new("crafted-budget");
    for format in ["parquet", "parquet-long", "jsonl"] {
        let line = format!("run --set recall.topk=60 --set recall.format={format} --quiet");
        let refused = job.twotower(&format!("{line} --memory 100MiB"));
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        for stage in ["encode-features ", "infer-items ", "infer-users ", "recall ", "check "] {
            assert!(refused.stderr.contains(stage), "{stage}: {}", refused.stderr);
        }
        assert!(!job.path("run/encoders/manifest.json").exists(), "a stage was run");
        let least = refused.stderr.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let least: u64 = least.parse().unwrap();
        let found = job.twotower(&format!("doctor --memory {}MiB --set recall.format={format}", least - 2));
        assert!(found.stdout.contains("memory of stages"), "{}", found.stdout);
    }
}
