//! The recall that an approximate index states is that of the job's own users.

mod fixture;

use fixture::results::{recalled, text, vectors};
use fixture::sheet::Column;
use fixture::{ITEMS, Job, USERS, interactions, items, user_id, users};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Items of the job: enough that a graph misses some.
const MANY: usize = 6000;
/// A graph poor enough to miss neighbours of some users, whatever it finds for items.
const POOR: &str =
    "--set index.kind=hnsw --set index.m=4 --set index.ef_construction=24 --set index.min_index_recall=0";

/// A job of many items with vectors of users and items, trained for an epoch by our own engine.
fn embedded(name: &str) -> Job {
    let job = Job::new(name);
    let other = (0..MANY as i64).map(|i| Some(900 - 11 * i)).collect();
    let prices = (0..MANY).map(|i| Some((fixture::mixed(i, 7) % 90_000) as f64 / 100.0)).collect();
    items()
        .take((0..MANY).map(|i| i % ITEMS))
        .with("item_id", Column::Int(other))
        .with("price", Column::Real(prices))
        .write_parquet(&job.path("items.parquet"));
    job.native();
    job.one_epoch();
    for stage in ["encode-features", "train", "infer --side item", "infer --side user"] {
        job.ok(&format!("{stage} --quiet"));
    }
    job
}

fn index(job: &Job, run: &str) -> Value {
    serde_json::from_slice(&std::fs::read(job.path(&format!("{run}/index/index.json"))).unwrap()).unwrap()
}

/// Items and their similarities.
type List = Vec<(Value, f32)>;

/// Recall of every user of a run by a search in 64-bit floats, without what they have `seen`.
fn recalls(job: &Job, run: &str, k: usize, seen: &HashMap<String, HashSet<String>>) -> Vec<f64> {
    let unit = |vector: &[f32]| -> Vec<f64> {
        let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        vector.iter().map(|v| f64::from(*v) / norm).collect()
    };
    let items = vectors(&job.path(&format!("{run}/vectors/item")));
    let items: Vec<(String, Vec<f64>)> = items.iter().map(|(id, vector)| (text(id), unit(vector))).collect();
    let users = vectors(&job.path(&format!("{run}/vectors/user")));
    let found = recalled(&job.path(&format!("{run}/recall")));
    assert_eq!(users.len(), found.len());
    let nothing = HashSet::new();
    let of_user = |(with_vector, with_list): (&(Value, Vec<f32>), &(Value, List))| {
        let ((user, vector), (other, list)) = (with_vector, with_list);
        assert_eq!(user, other);
        let (vector, seen) = (unit(vector), seen.get(&text(user)).unwrap_or(&nothing));
        let mut scores: Vec<(f64, &String)> = items
            .iter()
            .filter(|(id, _)| !seen.contains(id))
            .map(|(id, item)| (item.iter().zip(&vector).map(|(a, b)| a * b).sum::<f64>(), id))
            .collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        let least = scores[k - 1].0 - 1e-7;
        let near: HashSet<&String> = scores.iter().take_while(|score| score.0 >= least).map(|score| score.1).collect();
        let hits = list.iter().filter(|(item, _)| near.contains(&text(item))).count();
        hits as f64 / k as f64
    };
    users.iter().zip(&found).map(of_user).collect()
}

/// What users have seen, by id.
fn seen() -> HashMap<String, HashSet<String>> {
    let mut sheet = interactions();
    let mut ids = |name: &str| sheet.ints(name).iter().map(|id| id.unwrap().to_string()).collect::<Vec<_>>();
    let mut seen: HashMap<String, HashSet<String>> = HashMap::new();
    for (user, item) in ids("user_id").into_iter().zip(ids("item_id")) {
        seen.entry(user).or_default().insert(item);
    }
    seen
}

#[test]
fn the_recall_that_an_index_states_is_that_of_users_with_what_they_have_seen_left_out() {
    let job = embedded("graph-recall");
    for (k, settings, excluded) in
        [(10, "", true), (10, "--set index.ef_search=30", true), (40, "--set index.ef_search=24 --keep-seen", false)]
    {
        job.ok(&format!("recall --quiet {POOR} {settings} --topk {k}"));
        let seen = if excluded { seen() } else { HashMap::new() };
        let mut measured = recalls(&job, "run", k, &seen);
        let mean = measured.iter().sum::<f64>() / measured.len() as f64;
        measured.sort_by(f64::total_cmp);
        let index = index(&job, "run");
        let stated = index["recall"].as_f64().unwrap();
        assert!((stated - mean).abs() < 0.002, "k {k} {settings}: states {stated}, users have {mean}");
        let users = &index["measured"];
        // All users of so small a table are measured.
        assert_eq!((users["users"].as_u64(), users["k"].as_u64()), (Some(USERS as u64), Some(k as u64)));
        for (name, rank) in [("min", 0), ("p1", 14), ("p5", 74), ("median", 749)] {
            let stated = users[name].as_f64().unwrap();
            assert!(
                (stated - measured[rank]).abs() < 1.5 / k as f64,
                "k {k} {settings}: {name} {stated}, {}",
                measured[rank]
            );
        }
        // The manifest of the results says the same.
        let part = std::fs::read(job.path("run/manifests/recall/part-00000-of-00001.json")).unwrap();
        let part: Value = serde_json::from_slice(&part).unwrap();
        assert_eq!(part["details"]["index"], index);
        if settings.is_empty() {
            assert!(mean >= 0.99, "the width chosen gives users {mean}");
        } else {
            assert!(mean < 0.985, "too easy to tell anything: {mean}");
        }
    }
}

#[test]
fn every_shard_measures_the_same_users_whichever_is_first_and_wherever_their_vectors_come_from() {
    let job = embedded("graph-recall-shards");
    // Some of the users, so that it matters which.
    let line = format!("recall --quiet {POOR} --set index.ef_search=30 --set index.sample_queries=200");
    job.ok(&line);
    let whole = index(&job, "run");
    let users = whole["measured"]["users"].as_u64().unwrap();
    assert!((180..=224).contains(&users), "{whole}");
    for (run, shards) in [("backwards", "2 0 1"), ("forwards", "0 1 2")] {
        let other = job.copy(&format!("graph-recall-{run}"));
        for folder in ["index", "recall"] {
            std::fs::remove_dir_all(other.path(&format!("run/{folder}"))).unwrap();
        }
        for shard in shards.split(' ') {
            other.ok(&format!("{line} --shard {shard}/3"));
            // Each as if on a machine of its own.
            assert_eq!(index(&other, "run"), whole, "shard {shard}");
            std::fs::remove_dir_all(other.path("run/index")).unwrap();
        }
    }
    // Without vectors of users.
    let fused = job.copy("graph-recall-fused");
    for folder in ["index", "recall", "vectors/user"] {
        std::fs::remove_dir_all(fused.path(&format!("run/{folder}"))).unwrap();
    }
    fused.ok(&format!("{line} --fused"));
    assert_eq!(index(&fused, "run"), whole);
    // Other users are measured where the seed says so.
    job.ok(&format!("{line} --set index.seed=3"));
    assert_ne!(index(&job, "run")["measured"], whole["measured"]);
}

#[test]
fn whom_a_graph_is_for_changes_what_is_measured_and_not_the_graph() {
    let job = embedded("graph-recall-again");
    let line = format!("recall {POOR} --set index.ef_search=30");
    job.ok(&line);
    let first = index(&job, "run");
    let searched = |finished: fixture::Finished| finished.stderr.contains("index recall@");
    assert!(!searched(job.ok(&line)), "nothing has changed");
    // A list that leaves few items, other users, another k: each is measured anew.
    let few: String = (0..40).map(|i| format!("{}\n", 900 - 11 * (i * 140))).collect();
    job.write("allow.csv", &format!("item_id\n{few}"));
    let mut all = vec![first.clone()];
    for settings in ["--topk 20", "--keep-seen", "--set recall.allow={path=\"allow.csv\",item=\"item_id\"}"] {
        assert!(searched(job.ok(&format!("{line} {settings}"))), "{settings}");
        let now = index(&job, "run");
        assert_ne!(now["measured"], all[0]["measured"], "{settings}");
        assert_eq!(now["image"], first["image"], "{settings}");
        all.push(now);
    }
    assert_eq!(all[3]["measured"]["mean"].as_f64(), Some(1.0), "of forty items none is missed");
    users().take((0..USERS).filter(|u| u % 2 == 0)).write_parquet(&job.path("users.parquet"));
    for stage in ["encode-features", "train", "infer --side item", "infer --side user"] {
        job.ok(&format!("{stage} --quiet"));
    }
    assert!(searched(job.ok(&line)));
    assert_eq!(index(&job, "run")["measured"]["users"].as_u64(), Some(USERS as u64 / 2));
    job.ok("verify run --quiet");
}

#[test]
fn a_graph_that_serves_users_badly_gives_way_to_exact_search_or_is_refused() {
    let job = embedded("graph-recall-auto");
    let auto = "--set index.auto_threshold=1000 --set index.m=4 --set index.ef_construction=24";
    let finished = job.ok(&format!("recall {auto}"));
    let made = index(&job, "run");
    let reason = made["reason"].as_str().unwrap();
    assert_eq!((made["kind"].as_str(), made["recall"].is_null()), (Some("exact"), true), "{made}");
    assert!(
        reason.contains("HNSW serves above 1000; but at ef ") && reason.contains("exact search serves"),
        "{reason}"
    );
    assert!(
        finished.stderr.contains("WARN") && finished.stderr.contains("so exact search serves"),
        "{}",
        finished.stderr
    );
    let measured = recalls(&job, "run", 10, &seen());
    assert!(measured.iter().all(|recall| *recall == 1.0));
    // The same graph, insisted on.
    job.refused(
        &format!("recall {auto} --index hnsw --set index.ef_search=1"),
        5,
        &["gate `index`", "recall@10", &format!("over {USERS} users"), "required 0.98"],
    );
    job.ok("verify run --quiet");
}

#[test]
fn users_who_have_seen_everything_are_not_measured_and_rows_in_quarantine_are_left_out() {
    let job = Job::new("graph-recall-odd");
    job.native();
    job.one_epoch();
    // The first user has seen all sixty items.
    let mut log = String::from("user_id,item_id\n");
    (0..ITEMS).for_each(|i| log.push_str(&format!("{},{}\n", user_id(0), fixture::item_id(i))));
    job.write("seen.csv", &log);
    // A user twice: the second row is set aside.
    users().take((0..USERS).chain([5])).write_parquet(&job.path("users.parquet"));
    let exclusions = "--set recall.exclusions={path=\"seen.csv\",user=\"user_id\",item=\"item_id\"}";
    job.ok(&format!("run --quiet --set index.kind=hnsw --set encode.max_bad_rows=0.01 {exclusions} --accept metric"));
    let measured = index(&job, "run")["measured"].clone();
    assert_eq!(measured["users"].as_u64(), Some(USERS as u64 - 1), "{measured}");
}
