//! Bounded memory, fused recall, nights without training, and codes of all users.

mod fixture;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use fixture::results::{read_parquet, recalled, walk};
use fixture::{Job, USERS};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A finished run whose towers take no sequences.
fn finished() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("scale");
        job.without_sequences();
        job.ok("run --quiet");
        job
    })
}

#[test]
fn fused_recall_writes_what_infer_and_recall_write_and_keeps_no_vectors() {
    for engine in ["ort", "native", "native-int16"] {
        let job = finished().copy(&format!("scale-fused-{engine}"));
        let flags = format!("--set infer.engine=\"{engine}\" --quiet");
        job.ok(&format!("run {flags}"));
        let apart = recalled(&job.path("run/recall"));
        assert_eq!(apart.len(), USERS);
        std::fs::remove_dir_all(job.path("run/vectors/user")).unwrap();
        std::fs::remove_dir_all(job.path("run/recall")).unwrap();
        job.ok(&format!("recall --fused {flags}"));
        assert!(recalled(&job.path("run/recall")) == apart, "{engine}");
        let report = job.json(&format!("infer --side user --recall {flags}"));
        assert_eq!((&report["stage"], &report["skipped"]), (&"recall".into(), &true.into()));
        for shard in 0..3 {
            job.ok(&format!("recall --fused --shard {shard}/3 --force --memory 200MiB {flags}"));
        }
        assert!(recalled(&job.path("run/recall")) == apart, "{engine}, three shards");
        job.ok(&format!("run --fused --from recall {flags}"));
        assert!(!job.path("run/vectors/user").exists());
    }
}

#[test]
fn sequences_are_filled_in_a_fused_recall_too() {
    let job = Job::new("scale-fused-sequences");
    job.ok("run --quiet");
    let apart = recalled(&job.path("run/recall"));
    job.ok("recall --fused --quiet");
    assert!(recalled(&job.path("run/recall")) == apart);
}

#[test]
fn fused_recall_refuses_items_embedded_by_another_engine() {
    let job = finished().copy("scale-fused-engines");
    job.refused("recall --fused --set infer.engine=\"native\"", 4, &["engine `native`", "`ort`"]);
    job.refused("infer --side item --recall", 2, &["--side user"]);
}

#[test]
fn a_budget_too_small_is_refused_with_the_one_that_does_and_that_one_does() {
    let job = finished().copy("scale-memory");
    for line in ["infer --side user --force", "recall --force", "recall --fused --force"] {
        let refused = job.twotower(&format!("{line} --memory 8MiB --quiet"));
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        let words: Vec<&str> = refused.stderr.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "least").unwrap_or_else(|| panic!("{}", refused.stderr));
        let enough: u64 = words[at + 1].parse().unwrap();
        job.ok(&format!("{line} --memory {enough}MiB --quiet"));
    }
    job.refused("recall --memory plenty", 2, &["--memory plenty", "512MiB"]);
}

#[test]
fn the_budget_changes_no_byte_and_redoes_nothing() {
    let job = finished().copy("scale-memory-bytes");
    let vectors = || std::fs::read(job.path("run/vectors/user/part-00000-of-00001.parquet")).unwrap();
    let before = vectors();
    let report = job.json("run --memory 200MiB --quiet");
    assert!(report["stages"].as_array().unwrap().iter().all(|s| s["skipped"] == true));
    job.ok("infer --side user --force --memory 200MiB --quiet");
    assert!(vectors() == before);
}

#[test]
fn a_night_without_training_takes_the_earlier_towers_and_counts_new_values_as_unknown() {
    let job = finished().copy("scale-night");
    // Half the users move to a city that no tower has seen.
    let mut users = fixture::users();
    for (u, city) in users.texts("city").iter_mut().enumerate() {
        if u % 2 == 0 {
            *city = Some("Sion".to_string());
        }
    }
    users.write_parquet(&job.path("users.parquet"));
    let line = "run --run tonight --update-from run --no-train --fused --quiet";
    job.refused(line, 5, &["gate `unknown`", "user.city 0.5, expected at most 0.1", "--accept unknown"]);
    let report = job.json(&format!("{line} --accept unknown"));
    let stages: Vec<&str> = report["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["encode-features", "train", "infer-items", "recall", "check"]);
    let tonight: BTreeMap<String, _> =
        recalled(&job.path("tonight/recall")).into_iter().map(|(u, l)| (u.to_string(), l)).collect();
    assert_eq!(tonight.len(), USERS);
    // The same users under yesterday's encoders, for which the new city is unknown: the same lists.
    job.ok("infer --side user --force --quiet");
    job.ok("recall --force --quiet");
    for (user, list) in recalled(&job.path("run/recall")) {
        assert_eq!(tonight[&user.to_string()], list, "user {user}");
    }
    // Tomorrow may train from tonight's run.
    job.ok("run --run tomorrow --update-from tonight --quiet");
    assert!(job.path("tomorrow/evaluation/metrics.json").exists());
}

#[test]
fn a_night_without_training_needs_an_earlier_run() {
    let job = Job::empty("scale-night-alone");
    job.write("pipeline.toml", &format!("{}{}", fixture::TABLES, fixture::SETTINGS));
    job.refused("run --run tonight --no-train", 2, &["--update-from"]);
}

#[test]
fn codes_of_all_users_hold_every_user_and_agree_with_those_that_train() {
    let job = finished().copy("scale-codes");
    job.ok("encode-features --all-users --quiet");
    // The flag's earlier name.
    assert!(job.ok("encode-features --all-codes").stdout.contains("current, skipped"));
    let read = |name: &str| {
        let mut rows = BTreeMap::new();
        for batch in read_parquet(&job.path(&format!("run/encoders/{name}"))) {
            for row in 0..batch.num_rows() {
                let cells: Vec<ArrayRef> = batch.columns().iter().map(|column| column.slice(row, 1)).collect();
                rows.insert(cells[0].as_primitive::<Int64Type>().value(0), cells);
            }
        }
        rows
    };
    let (all, trained) = (read("users-all.parquet"), read("users.parquet"));
    assert_eq!(all.len(), USERS);
    assert!(!trained.is_empty() && trained.len() < USERS);
    assert!(trained.iter().all(|(id, cells)| all[id] == *cells));
    job.ok("encode-features --quiet");
    assert!(!walk(&job.path("run/encoders")).iter().any(|p| p.ends_with("users-all.parquet")));
}

#[test]
fn towers_whose_manifest_is_damaged_are_refused_without_a_panic() {
    let job = finished().copy("scale-night-damaged");
    job.change("run/towers/manifest.json", |manifest| manifest["config"] = "no object".into());
    job.refused("run --run tonight --update-from run --no-train --quiet", 3, &["manifest.json", "`config`"]);
}
