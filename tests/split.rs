//! A random split: what trains is never ranked, and figures compare where users, events and split are the same.

mod fixture;

use fixture::Job;
use serde_json::Value;

fn metrics(job: &Job, run: &str) -> Value {
    serde_json::from_slice(&std::fs::read(job.path(&format!("{run}/evaluation/metrics.json"))).unwrap()).unwrap()
}

#[test]
fn models_with_other_features_compare_and_splits_by_another_seed_do_not() {
    let job = Job::new("split-random");
    job.native();
    job.one_epoch();
    let measured = |run: &str, seed: u64| {
        let split = format!("--set split.kind=random --set split.test=0.2 --set split.seed={seed}");
        for stage in ["encode-features", "train", "evaluate"] {
            job.ok(&format!("{stage} --run {run} --quiet {split}"));
        }
        metrics(&job, run)
    };
    let first = measured("runs/a", 7);
    assert!(first["protocol"].as_str().unwrap().starts_with("random, seed 7 (0.2 of a user's events test"), "{first}");
    assert!(
        first["protocol"].as_str().unwrap().contains("whose training and validation items are excluded"),
        "{first}"
    );
    let other_seed = measured("runs/b", 8);
    assert_ne!(first["events"], other_seed["events"]);
    // Other features of the same users, and their table in another order.
    job.without_sequences();
    let fewer = measured("runs/c", 7);
    assert_ne!(first["data"], fewer["data"]);
    assert_eq!(first["events"], fewer["events"]);
    assert_eq!(first["models"]["popularity"], fewer["models"]["popularity"]);
    let file = |run: &str| format!("{run}/evaluation/metrics.json");
    job.ok(&format!("evaluate --compare {} {}", file("runs/a"), file("runs/c")));
    job.refused(&format!("evaluate --compare {} {}", file("runs/a"), file("runs/b")), 4, &["seed 7", "seed 8"]);
    let mut same_words = other_seed.clone();
    same_words["protocol"] = first["protocol"].clone();
    job.write("same.json", &same_words.to_string());
    job.refused(&format!("evaluate --compare {} same.json", file("runs/a")), 4, &["users, events or split differ"]);
}
