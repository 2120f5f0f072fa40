//! `bench` on a small data set: what it reports, what it leaves, and what it refuses.

mod fixture;

use fixture::Job;
use serde_json::Value;

/// The objects that `bench` with these words prints.
fn bench(job: &Job, words: &str) -> Vec<Value> {
    let small = "--users 2000 --items 200 --repeats 1 --loop-seconds 0.1 --engine native --json";
    let printed = job.ok(&format!("bench {words} {small}")).stdout;
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(figures: &[Value]) -> Vec<&str> {
    figures.iter().map(|stage| stage["stage"].as_str().unwrap()).collect()
}

#[test]
fn every_stage_is_measured_against_the_machines_peaks() {
    let job = Job::empty("bench_every_stage");
    let figures = bench(&job, "");
    assert_eq!(
        names(&figures),
        [
            "sgemm-1-thread",
            "sgemm",
            "synth",
            "read",
            "encode-features",
            "encode-all-users",
            "train",
            "infer-items",
            "engine",
            "infer",
            "search",
            "recall",
            "infer-recall",
            "evaluate"
        ]
    );
    for stage in &figures {
        let name = stage["stage"].as_str().unwrap();
        for key in ["rows", "seconds", "rows_per_s"] {
            assert!(stage[key].as_f64().is_some_and(|v| v > 0.0), "{name}: {key}: {stage}");
        }
        let per_engine = ["engine", "infer"].contains(&name);
        assert_eq!(stage["engine"], if per_engine { "native".into() } else { Value::Null }, "{stage}");
        let computes =
            ["sgemm-1-thread", "sgemm", "engine", "infer", "search", "recall", "infer-recall"].contains(&name);
        let reads = ["read", "encode-features", "encode-all-users", "infer-items", "infer", "recall", "infer-recall"];
        let reads = reads.contains(&name);
        let pairs = [("gflops", "peak_fraction", computes), ("bytes_per_s", "bandwidth_fraction", reads)];
        for (value, fraction, counted) in pairs {
            for key in [value, fraction] {
                let holds = if counted { stage[key].as_f64().is_some_and(|v| v > 0.0) } else { stage[key].is_null() };
                assert!(holds && stage.get(key).is_some(), "{name}: {key}: {stage}");
            }
        }
        if cfg!(target_os = "linux") {
            assert!(stage["peak_rss_mib"].as_f64().is_some_and(|v| v > 1.0), "{name}: {stage}");
        }
    }
    let of = |name: &str| figures.iter().find(|stage| stage["stage"] == name).unwrap();
    for (name, rows) in [("synth", 2000), ("encode-features", 2000), ("infer", 2000), ("recall", 2000)] {
        assert_eq!(of(name)["rows"], rows, "{name}");
    }
    assert_eq!(of("infer-items")["rows"], 200);
    // 13 fields of width 16, as the job has them, through 256, 128 and 64; items of width 64.
    let per_row = |name: &str| of(name)["gflops"].as_f64().unwrap() * 1e9 / of(name)["rows_per_s"].as_f64().unwrap();
    assert!((per_row("recall") - 2.0 * 64.0 * 200.0).abs() < 1.0);
    assert!((per_row("infer") - per_row("engine")).abs() < 1.0);
    assert!(std::fs::read_dir(&job.dir).unwrap().next().is_none(), "the folder it made is removed");
}

#[test]
fn named_stages_are_measured_after_the_others_were_prepared_and_a_folder_given_is_kept() {
    let job = Job::empty("bench_named_stages");
    let figures = bench(&job, "kept --stages recall");
    assert_eq!(names(&figures), ["sgemm-1-thread", "sgemm", "read", "recall"]);
    assert!(job.path("kept/run/recall").is_dir());
    // A folder of an earlier bench is used again.
    assert_eq!(names(&bench(&job, "kept --stages infer")), ["sgemm-1-thread", "sgemm", "read", "infer"]);
}

#[test]
fn folders_of_others_and_unknown_stages_are_refused() {
    let job = Job::empty("bench_refused");
    job.write("notes.txt", "mine");
    job.refused("bench .", 2, &["holds files that no bench made"]);
    job.refused("bench --stages infer,infr", 2, &["no stage `infr`", "encode-features"]);
    job.refused("bench new --loop-seconds=-1", 2, &["--loop-seconds"]);
    job.refused("bench new --kernel engine --engine native", 1, &["users.parquet"]);
}
