//! The runs of a folder: listed, gone back to, and pruned without ever touching what is in use.

mod fixture;

use fixture::{Job, USERS, users};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

/// Runs `a`, `b` and `c`, good, and `d`, refused for half a table; `latest` names `c`.
fn nights() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("runs");
        job.without_sequences();
        job.ok("run --run runs/a --quiet");
        for run in ["b", "c"] {
            job.ok(&format!("run --run runs/{run} --update-from runs/a --no-train --fused --quiet"));
        }
        let whole = std::fs::read(job.path("users.parquet")).unwrap();
        users().take(0..USERS / 2).write_parquet(&job.path("users.parquet"));
        job.refused("run --run runs/d --update-from runs/a --no-train --fused --quiet", 5, &["gate `rows`"]);
        std::fs::write(job.path("users.parquet"), whole).unwrap();
        job
    })
}

fn names(job: &Job) -> Vec<String> {
    let entries = std::fs::read_dir(job.path("runs")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pruned(report: &Value, what: &str) -> Vec<String> {
    let runs = report[what].as_array().unwrap().iter();
    runs.map(|run| run["run"].as_str().unwrap().to_string()).collect()
}

#[test]
fn runs_are_listed_oldest_first_with_what_the_gates_said() {
    let job = nights().copy("runs-list");
    std::fs::create_dir(job.path("runs/notes")).unwrap();
    job.ok("encode-features --run runs/e --quiet");
    let runs = job.json("runs list");
    let by_name = |name: &str| runs["runs"].as_array().unwrap().iter().find(|run| run["name"] == name).unwrap();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 5, "{runs}");
    for (name, complete, users, latest) in [("a", true, USERS, false), ("c", true, USERS, true)] {
        let run = by_name(name);
        assert_eq!(
            (&run["complete"], &run["users"], &run["latest"]),
            (&complete.into(), &users.into(), &latest.into())
        );
        assert_eq!(run["gates"]["passed"]["accepted"], Value::Array(Vec::new()), "{run}");
        assert!(run["bytes"].as_u64().unwrap() > 10_000 && run["at"].as_u64().unwrap() > 1_700_000_000, "{run}");
    }
    assert_eq!(by_name("d")["gates"]["failed"]["gates"], serde_json::json!(["rows"]));
    assert_eq!((&by_name("e")["complete"], &by_name("e")["gates"]), (&false.into(), &"no".into()));
    let shown = job.ok("runs list runs").stdout;
    for text in ["failed: rows", "passed", "not checked", "latest", &USERS.to_string()] {
        assert!(shown.contains(text), "expected `{text}` in\n{shown}");
    }
    job.refused("runs list nowhere", 1, &["nowhere"]);
}

#[test]
fn rollback_goes_to_the_run_before_and_refuses_what_may_not_be_published() {
    let job = nights().copy("runs-rollback");
    let back = job.json("rollback");
    assert_eq!((back["from"].as_str(), back["to"].as_str()), (Some("c"), Some("b")));
    assert_eq!(job.latest(), "b");
    let told = job.ok("rollback").stdout;
    assert!(told.contains("names `a` now, before `b`"), "{told}");
    job.refused("rollback", 4, &["no run before `a`", "runs list"]);
    assert_eq!(job.latest(), "a");
    job.ok("rollback --to c --runs runs");
    assert_eq!(job.latest(), "c");
    job.refused("rollback --to d", 4, &["runs/d", "refused by the gates rows"]);
    job.refused("rollback --to z", 2, &["no run `z`", "a, b, c, d"]);
    // A run that changed since its gates were asked is none to go back to.
    job.ok("recall --run runs/b --fused --force --quiet");
    job.refused("rollback --to b", 4, &["was not checked", "twotower publish --run runs/b"]);
    assert_eq!(job.latest(), "c");
    job.ok("rollback");
    assert_eq!(job.latest(), "a");
    // Tonight is held against the run that was gone back to.
    job.ok("run --run runs/f --update-from runs/a --no-train --fused --quiet");
    let manifest = twotower_artifacts::Manifest::read(job.path("runs/f/gates/manifest.json")).unwrap();
    assert_eq!(manifest.details["previous"], "a");
    // A run that withdrew itself from `latest` leaves it to the newest other one.
    job.ok("recall --run runs/f --fused --force --quiet --topk 5");
    assert!(!job.path("runs/latest").exists());
    job.ok("rollback");
    assert_eq!(job.latest(), "c");
}

#[test]
fn prune_removes_old_runs_but_none_that_is_published_in_use_incomplete_or_not_a_run() {
    let job = nights().copy("runs-prune");
    std::fs::create_dir_all(job.path("runs/notes/encoders")).unwrap();
    job.ok("encode-features --run runs/e --quiet");
    job.ok("rollback --to a --quiet");
    let everything = ["a", "b", "c", "d", "e", "latest", "notes"];

    // The newest that passed is c; d is newer but was refused, and keeps no good run out.
    let would = job.json("runs prune --keep 1 --dry-run");
    assert_eq!((pruned(&would, "removed"), pruned(&would, "left")), (vec!["b".into()], vec!["a".into()]));
    assert_eq!(names(&job).iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), everything);
    let none = job.json("runs prune --keep 3");
    assert!(pruned(&none, "removed").is_empty() && pruned(&none, "left").is_empty(), "{none}");

    let lock = File::options().create(true).truncate(false).write(true).open(job.path("runs/b/.lock")).unwrap();
    lock.lock().unwrap();
    let report = job.json("runs prune --keep 1");
    assert_eq!(
        (pruned(&report, "removed"), pruned(&report, "left")),
        (Vec::<String>::new(), vec!["a".into(), "b".into()])
    );
    assert!(report["left"][1]["reason"].as_str().unwrap().contains("in use"), "{report}");
    assert!(job.path("runs/b/recall/part-00000-of-00001.parquet").exists());
    drop(lock);

    // What a prune that was killed left is no run any more, and the next one deletes it.
    std::fs::create_dir_all(job.path("runs/.pruned-z/encoders")).unwrap();
    std::fs::copy(job.path("runs/b/encoders/manifest.json"), job.path("runs/.pruned-z/encoders/manifest.json"))
        .unwrap();
    assert_eq!(job.json("runs list")["runs"].as_array().unwrap().len(), 5);
    let report = job.json("runs prune runs --keep 1");
    assert_eq!(pruned(&report, "removed"), ["b"]);
    assert!(report["removed"][0]["bytes"].as_u64().unwrap() > 10_000);
    assert_eq!(names(&job), ["a", "c", "d", "e", "latest", "notes"]);
    assert_eq!(job.latest(), "a");

    // Once it is no longer published, it goes too, and a refused run that is older than what is kept.
    job.ok("rollback --to c");
    job.ok("run --run runs/f --update-from runs/c --no-train --fused --quiet");
    assert_eq!(pruned(&job.json("runs prune --keep 1"), "removed"), ["a", "c", "d"]);
    assert_eq!(names(&job), ["e", "f", "latest", "notes"]);
    job.refused("runs prune --keep 0", 2, &["--keep"]);
    job.refused("runs prune", 2, &["--keep"]);
}

#[test]
fn a_link_that_names_no_run_beside_it_is_no_latest() {
    let job = nights().copy("runs-strange-link");
    std::fs::remove_file(job.path("runs/latest")).unwrap();
    std::os::unix::fs::symlink("../runs-elsewhere", job.path("runs/latest")).unwrap();
    let back = job.json("rollback");
    assert_eq!((&back["from"], back["to"].as_str()), (&Value::Null, Some("c")));
    assert_eq!(Path::new(&job.latest()), Path::new("c"));
}
