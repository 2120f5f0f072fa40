//! What `recall` writes: cosine similarities that a float64 recomputation confirms, best first, ties
//! by item id, without excluded items, and with no trace of a distance.

mod fixture;

use fixture::results::{List, read_parquet, recalled, text, vectors};
use fixture::sheet::{Column, Sheet};
use fixture::{ITEMS, Job, USERS, interactions, item_id, user_id};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use twotower_artifacts::vectors::Similarity;
use twotower_artifacts::{
    Compression, FileEntry, Fingerprint, IdKind, Ids, Manifest, Precision, VectorsInfo, VectorsWriter,
};

/// A job with vectors of users and items.
fn embedded() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("similarity");
        for stage in ["encode-features", "train", "infer --side item", "infer --side user"] {
            job.ok(&format!("{stage} --quiet"));
        }
        job
    })
}

/// Items of each user's interactions.
fn seen() -> BTreeMap<i64, BTreeSet<i64>> {
    let mut table = interactions();
    let mut column = |name: &str| table.ints(name).iter().map(|v| v.unwrap()).collect::<Vec<i64>>();
    let (users, items) = (column("user_id"), column("item_id"));
    let mut seen: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    users.into_iter().zip(items).for_each(|(user, item)| _ = seen.entry(user).or_default().insert(item));
    seen
}

fn number(id: &Value) -> i64 {
    id.as_i64().unwrap_or_else(|| panic!("id {id} is not an integer"))
}

/// Cosine in float64, with norms of its own.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Asserts values, range, order and ties of lists against the vectors of a run.
fn assert_similarities(run: &Path, lists: &[List]) {
    let by_id = |side: &str| -> BTreeMap<i64, Vec<f32>> {
        vectors(&run.join("vectors").join(side)).into_iter().map(|(id, v)| (number(&id), v)).collect()
    };
    let (users, items) = (by_id("user"), by_id("item"));
    for (user, list) in lists {
        for (item, score) in list {
            let expected = cosine(&users[&number(user)], &items[&number(item)]);
            assert!((expected - f64::from(*score)).abs() < 1e-5, "{user} {item}: {score}, recomputed {expected}");
            assert!((-1.0..=1.0).contains(score), "{user} {item}: {score}");
        }
        for pair in list.windows(2) {
            let ((a, first), (b, second)) = (&pair[0], &pair[1]);
            assert!(first > second || (first == second && number(a) < number(b)), "{user}: {pair:?} out of order");
        }
    }
}

/// Names of all columns of a Parquet file, nested ones too, or all keys of JSON Lines.
fn names(path: &Path) -> Vec<String> {
    if path.extension().is_some_and(|e| e == "jsonl") {
        let text = std::fs::read_to_string(path).unwrap();
        let objects = text.lines().map(|line| serde_json::from_str::<serde_json::Map<String, Value>>(line).unwrap());
        return objects.flat_map(|object| object.keys().cloned().collect::<Vec<_>>()).collect();
    }
    let batch = &read_parquet(path)[0];
    vec![format!("{:?}", batch.schema())]
}

#[test]
fn every_output_format_has_the_cosine_that_float64_gives_and_no_distance() {
    let mut outputs: Vec<Vec<List>> = Vec::new();
    for (format, index) in [("parquet", "exact"), ("parquet-long", "exact"), ("jsonl", "exact"), ("parquet", "hnsw")] {
        let job = embedded().copy(&format!("similarity-{format}-{index}"));
        job.ok(&format!("recall --format {format} --index {index} --quiet"));
        let lists = recalled(&job.path("run/recall"));
        assert_eq!(lists.len(), USERS);
        assert!(lists.iter().all(|(_, list)| list.len() == 10));
        assert_similarities(&job.path("run"), &lists);
        for path in fixture::results::walk(&job.path("run/recall")) {
            let said = match path.extension().and_then(|e| e.to_str()) {
                Some("json") => vec![std::fs::read_to_string(&path).unwrap()],
                _ => names(&path),
            };
            assert!(said.iter().all(|name| !name.to_lowercase().contains("distance")), "{}", path.display());
        }
        outputs.push(lists);
    }
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "formats or indexes disagree");
}

#[test]
fn half_precision_vectors_give_the_cosine_of_what_is_stored() {
    let job = embedded().copy("similarity-f16");
    for side in ["user", "item"] {
        job.ok(&format!("infer --side {side} --precision f16 --quiet"));
    }
    job.ok("recall --set infer.precision=\"f16\" --quiet");
    assert_similarities(&job.path("run"), &recalled(&job.path("run/recall")));
}

#[test]
fn seen_items_are_left_out_unless_asked_for() {
    let (job, seen) = (embedded().copy("similarity-seen"), seen());
    let repeats = |lists: &[List]| {
        let of = |(user, list): &List| {
            seen.get(&number(user)).map_or(0, |s| list.iter().filter(|(item, _)| s.contains(&number(item))).count())
        };
        lists.iter().map(of).sum::<usize>()
    };
    job.ok("recall --quiet");
    assert_eq!(repeats(&recalled(&job.path("run/recall"))), 0);
    job.ok("recall --keep-seen --quiet");
    assert!(repeats(&recalled(&job.path("run/recall"))) > USERS / 4);
    // Every eligible item and no other, when k asks for more.
    job.ok(&format!("recall --topk {ITEMS} --quiet"));
    for (user, list) in recalled(&job.path("run/recall")) {
        let known = seen.get(&number(&user)).map_or(0, BTreeSet::len);
        assert_eq!(list.len(), ITEMS - known, "{user}");
    }
}

#[test]
fn allow_and_deny_lists_and_the_exclusion_table_are_honoured() {
    let job = embedded().copy("similarity-lists");
    let allowed: BTreeSet<i64> = (0..ITEMS).filter(|i| i % 2 == 0).map(item_id).collect();
    let denied: BTreeSet<i64> = (0..ITEMS).filter(|i| i % 6 == 0).map(item_id).collect();
    let column = |ids: &mut dyn Iterator<Item = i64>| Column::Int(ids.map(Some).collect());
    // One list as text, one as Parquet, and pairs as text with an unknown user and an unknown item.
    let allow = Sheet::new([("item", column(&mut allowed.iter().copied()))]);
    job.write("allow.csv", &allow.text(","));
    Sheet::new([("product", column(&mut denied.iter().copied()))]).write_parquet(&job.path("deny.parquet"));
    let pairs: Vec<(i64, i64)> =
        (0..USERS).flat_map(|u| [2, 4].map(|i| (user_id(u), item_id(i)))).chain([(-1, 5), (user_id(0), -1)]).collect();
    let table =
        Sheet::new([("who", column(&mut pairs.iter().map(|p| p.0))), ("what", column(&mut pairs.iter().map(|p| p.1)))]);
    job.write("pairs.csv", &table.text(","));
    job.edit(
        "topk = 10",
        "topk = 60
allow = { path = \"allow.csv\", item = \"item\" }
deny = { path = \"deny.parquet\", item = \"product\" }
exclusions = { path = \"pairs.csv\", user = \"who\", item = \"what\" }",
    );
    job.ok("recall --keep-seen --quiet");
    let expected: BTreeSet<i64> =
        allowed.difference(&denied).copied().filter(|i| ![item_id(2), item_id(4)].contains(i)).collect();
    let lists = recalled(&job.path("run/recall"));
    assert_eq!(lists.len(), USERS);
    for (user, list) in lists {
        let found: BTreeSet<i64> = list.iter().map(|(item, _)| number(item)).collect();
        assert_eq!((found.len(), &found), (list.len(), &expected), "{user}");
    }
}

/// Puts vectors of our own into a run, as `infer` would have.
fn plant(job: &Job, side: &str, rows: &[(i64, [f32; 8])]) {
    let dir = job.path(&format!("run/vectors/{side}"));
    let output = format!("vectors/{side}");
    let path = fixture::results::manifest_of(&job.path("run"), &output, "part-00000-of-00001.json");
    let mut manifest = Manifest::read(&path).unwrap();
    let part = dir.join("part-00000-of-00001.parquet");
    let info = VectorsInfo {
        ids: IdKind::Int,
        dim: 8,
        precision: Precision::F32,
        similarity: Similarity::Cosine,
        encoder: manifest.inputs["encoders"].clone(),
        tower: manifest.inputs["towers"].clone(),
        inner_product_scale: None,
    };
    let mut writer = VectorsWriter::create(&part, &info, Compression::None).unwrap();
    let ids = Ids::Int(rows.iter().map(|(id, _)| *id).collect());
    writer.write(&ids, rows.iter().flat_map(|(_, v)| *v).collect::<Vec<f32>>()).unwrap();
    let entry: FileEntry = writer.finish().unwrap();
    manifest.fingerprint = Fingerprint::of(entry.blake3.as_bytes());
    manifest.files = vec![entry.under(&output)];
    manifest.rows = ["rows", "table rows"].map(|name| (name.to_string(), rows.len() as u64)).into();
    manifest.write(&path).unwrap();
}

#[test]
fn planted_identical_orthogonal_and_opposite_vectors_give_one_zero_and_minus_one() {
    let axis = |at: usize, sign: f32| std::array::from_fn(|i| if i == at { sign } else { 0.0 });
    let slanted: [f32; 8] = [0.353_553_4; 8];
    let items = [
        (30, axis(0, 1.0)),
        (7, axis(1, 1.0)),
        (-5, axis(0, -1.0)),
        (4, axis(2, 1.0)),
        (900, slanted),
        (2, slanted.map(|v| -v)),
    ];
    let users = [(user_id(0), axis(0, 1.0)), (user_id(1), slanted)];
    for (format, index) in [("parquet", "exact"), ("parquet-long", "hnsw"), ("jsonl", "exact")] {
        let job = embedded().copy(&format!("similarity-planted-{format}"));
        plant(&job, "item", &items);
        plant(&job, "user", &users);
        job.ok(&format!("recall --keep-seen --format {format} --index {index} --quiet"));
        let lists = recalled(&job.path("run/recall"));
        let of = |user: usize| -> (Vec<i64>, Vec<f32>) {
            lists[user].1.iter().map(|(item, score)| (number(item), *score)).unzip()
        };
        let (ids, scores) = of(0);
        // The ties at zero stand by id.
        assert_eq!(ids, [30, 900, 4, 7, 2, -5], "{format}");
        assert_eq!((scores[0], scores[2], scores[3], scores[5]), (1.0, 0.0, 0.0, -1.0), "{format}");
        let (ids, scores) = of(1);
        assert_eq!((ids[0], ids[5]), (900, 2), "{format}");
        assert!(f64::from(scores[0]) > 1.0 - 1e-6 && f64::from(scores[5]) < -1.0 + 1e-6, "{format}: {scores:?}");
        assert!(scores.iter().all(|s| (-1.0..=1.0).contains(s)), "{format}: {scores:?}");
    }
}

#[test]
fn integer_ids_stay_integers_in_every_output() {
    let job = embedded().copy("similarity-ints");
    for format in ["parquet", "parquet-long", "jsonl"] {
        job.ok(&format!("recall --topk 3 --format {format} --quiet"));
        let lists = fixture::results::recalled_of(&part(&job, format));
        assert!(lists.iter().all(|(user, list)| user.is_i64() && list.iter().all(|(item, _)| item.is_i64())));
        assert_eq!(text(&lists[0].0), user_id(0).to_string());
    }
}

fn part(job: &Job, format: &str) -> PathBuf {
    let extension = if format == "jsonl" { "jsonl" } else { "parquet" };
    job.path(&format!("run/recall/part-00000-of-00001.{extension}"))
}
