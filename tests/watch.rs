//! `watch`: which parts of a run are done, at work, failed, lost or missing, from its folder alone.

mod faults;
mod fixture;

use faults::{Fault, Runs};
use fixture::Job;
use serde_json::Value;

fn stage<'a>(seen: &'a Value, name: &str) -> &'a Value {
    let stages = seen["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["stage"] == name).unwrap_or_else(|| panic!("{name} in {seen}"))
}

#[test]
fn parts_are_done_running_failed_lost_or_missing() {
    let runs = Runs::new("watch");
    let folder = runs.folder("night", false);
    let watch = || -> Value {
        let output = runs.command("watch RUN --once --json", &folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    runs.complete(&["encode-features --run RUN"], &folder);
    let seen = watch();
    assert_eq!((&stage(&seen, "encode-features")["done"], &stage(&seen, "train")["done"]), (&1.into(), &0.into()));
    assert_eq!((&seen["recalled"], &seen["seconds_left"]), (&false.into(), &Value::Null));
    runs.complete(&["train --run RUN", "infer --run RUN --side item"], &folder);
    // What a shard cannot begin without is not there.
    let failed = runs.command("recall --run RUN --shard 1/4", &folder).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    runs.complete(&["infer --run RUN --side user --shard 0/2", "infer --run RUN --side user --shard 1/2"], &folder);
    runs.complete(&["recall --run RUN --shard 0/4"], &folder);
    let line = "recall --run RUN --shard 2/4";
    // Where it renames its result, all batches are done, and it has said so.
    let copy = runs.folder("copy", false);
    fixture::copy_all(&folder, &copy);
    let calls = faults::run(runs.command(line, &copy), faults::NONE, &copy).calls;
    let at = calls.iter().position(|call| call.path.contains("recall") && call.path.ends_with(".parquet")).unwrap() + 1;
    let said = calls.iter().position(|call| call.path.contains(".progress")).unwrap() + 1;
    assert!(said < at, "it says nothing while it works: {calls:?}");
    {
        let _at_work = runs.halted_at(line, &folder, Fault { action: "stop", at });
        let seen = watch();
        let recall = stage(&seen, "recall");
        let states: Vec<(&Value, &Value)> =
            recall["shards"].as_array().unwrap().iter().map(|shard| (&shard["shard"], &shard["state"])).collect();
        assert_eq!(states, [(&1.into(), &"failed".into()), (&2.into(), &"running".into())], "{seen}");
        assert_eq!(
            (&recall["parts"], &recall["done"], &recall["missing"]),
            (&4.into(), &1.into(), &serde_json::json!([3]))
        );
        assert!(recall["rows"] == 1500 && recall["rows_done"].as_u64().unwrap() > 375, "{seen}");
        assert!(seen["seconds_left"].as_f64().unwrap() > 0.0 && recall["rows_per_second"].as_f64().unwrap() > 0.0);
        assert!(recall["shards"][0]["error"].as_str().unwrap().contains("recall shard 1/4"), "{seen}");
        let shown = runs.command("watch RUN --once", &folder).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        for line in ["recall 1/4: failed ", "recall 2/4: running, 375 of 375 rows", "infer-users"] {
            assert!(shown.contains(line), "{shown}");
        }
        // Others take no notice of what it leaves.
        let verified = runs.command("verify RUN", &folder).output().unwrap();
        assert!(!String::from_utf8_lossy(&verified.stdout).contains(".progress"));
    }
    // It was killed with that.
    let seen = watch();
    let shards = &stage(&seen, "recall")["shards"];
    assert_eq!((&shards[1]["state"], &seen["seconds_left"]), (&"lost".into(), &Value::Null), "{seen}");
    let lines: Vec<String> = (1..4).map(|shard| format!("recall --run RUN --shard {shard}/4")).collect();
    runs.complete(&lines.iter().map(String::as_str).collect::<Vec<_>>(), &folder);
    let seen = watch();
    let recall = stage(&seen, "recall");
    assert!(recall["done"] == 4 && recall["shards"] == serde_json::json!([]) && seen["recalled"] == true, "{seen}");
    assert!(!folder.join("run/.progress").exists(), "something is left");
    // It ends by itself then.
    assert!(runs.command("watch RUN --interval 86400", &folder).output().unwrap().status.success());
}

#[test]
fn a_run_that_is_not_there_is_told() {
    let job = Job::empty("watch-none");
    job.refused("watch runs/none", 1, &["watch: there is no run runs/none"]);
}

#[test]
fn a_run_with_what_a_killed_shard_left_is_pruned() {
    let job = Job::small("watch-prune");
    for run in ["a", "b"] {
        job.ok(&format!("run --run runs/{run} --quiet"));
    }
    std::fs::create_dir(job.path("runs/a/.progress")).unwrap();
    job.write("runs/a/.progress/recall-00000-of-00001.json", "{}");
    job.ok("runs prune --keep 1 runs");
    assert!(!job.path("runs/a").exists());
}
