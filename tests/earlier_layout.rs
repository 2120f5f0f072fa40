//! Runs of earlier versions, whose manifests stand beside the parts: every command reads them, and what is made again
//! is laid out as today.

mod fixture;

use fixture::earlier::lay_out_as_earlier;
use fixture::results::{files, outputs, recalled, walk};
use fixture::{Job, user_id, users};
use std::path::Path;
use std::sync::OnceLock;

/// A night in parts, and one of a single part; an earlier version made both.
fn nights() -> &'static Job {
    static NIGHTS: OnceLock<Job> = OnceLock::new();
    NIGHTS.get_or_init(|| {
        let job = Job::small("earlier-nights");
        job.edit("[evaluate]\n", "[gates]\noff = [\"metric\", \"coverage\"]\n\n[evaluate]\n");
        job.ok("run --run runs/a --set run.part_users=50 --quiet");
        job.ok("run --run runs/b --quiet");
        for run in ["a", "b"] {
            lay_out_as_earlier(&job.path("runs").join(run));
        }
        job
    })
}

/// Files of a run as paths in it.
fn names(run: &Path) -> Vec<String> {
    walk(run).iter().map(|path| path.strip_prefix(run).unwrap().display().to_string()).collect()
}

/// Asserts that a run is complete and holds nothing that no manifest speaks of.
fn assert_verified(job: &Job, run: &str) {
    let report = job.json(&format!("verify {run}"));
    assert_eq!((&report["complete"], report["notes"].as_array().map(Vec::len)), (&true.into(), Some(0)), "{report:#}");
}

#[test]
fn a_run_of_an_earlier_version_is_read_by_every_command_and_stays_as_it_is() {
    let job = nights().copy("earlier-read");
    let found = names(&job.path("runs/b"));
    assert!(found.iter().any(|name| name == "recall/part-00000-of-00001.json"), "{found:?}");
    assert!(!found.iter().any(|name| name.starts_with("manifests") || name.starts_with("samples")), "{found:?}");
    let before = [outputs(&job.path("runs/a")), outputs(&job.path("runs/b"))];

    assert_verified(&job, "runs/a");
    assert_verified(&job, "runs/b");
    let listed = job.json("runs list runs");
    let complete = listed["runs"].as_array().unwrap().iter().filter(|run| run["complete"] == true);
    assert_eq!(complete.map(|run| run["users"].as_u64().unwrap()).collect::<Vec<_>>(), [150, 150], "{listed}");
    let shown = job.json(&format!("lookup runs/a --user {}", user_id(70)));
    assert_eq!(shown["items"].as_array().unwrap().len(), 10, "{shown}");
    assert_eq!(job.json("lookup runs/a --item 900")["nearest"].as_array().map(Vec::is_empty), Some(false));
    job.ok("evaluate --compare runs/a runs/b");
    job.ok("rollback --runs runs");
    assert_eq!(job.latest(), "a");
    users().take(150..160).write_parquet(&job.path("new.parquet"));
    job.ok("infer --run runs/a --side user --table new.parquet --output new --recall --quiet");
    job.ok("similar --run runs/a --output near --quiet");
    assert!([outputs(&job.path("runs/a")), outputs(&job.path("runs/b"))] == before);

    // The same command goes on from there: all is current. Only the gates are asked again, of another previous run.
    let report = job.json("run --run runs/b");
    let stages = report["stages"].as_array().unwrap().iter().filter(|stage| stage["skipped"] == false);
    let done: Vec<&str> = stages.map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!((done, job.latest()), (vec!["check"], "b".to_string()));
    job.ok("publish --run runs/a --set run.part_users=50");
    assert_eq!(job.latest(), "a");
}

#[test]
fn a_night_starts_from_a_run_of_an_earlier_version_and_its_gates_compare_with_it() {
    let job = nights().copy("earlier-previous");
    job.ok("run --run runs/c --update-from previous --quiet");
    let manifest = twotower_artifacts::Manifest::read(job.path("runs/c/gates/manifest.json")).unwrap();
    assert_eq!(manifest.details["previous"], "b");
    let gates = manifest.details["gates"].as_array().unwrap();
    let overlap = gates.iter().find(|gate| gate["gate"] == "overlap").unwrap();
    assert_eq!(overlap["ruling"], "passed", "the lists of both were compared: {overlap}");
    // The old ones are removed whole.
    let pruned = job.json("runs prune --keep 1");
    assert_eq!(pruned["left"].as_array().map(Vec::len), Some(0), "{pruned}");
    assert!(!job.path("runs/a").exists() && !job.path("runs/b").exists() && job.path("runs/c").exists());
}

#[test]
fn what_is_made_again_leaves_nothing_of_the_earlier_layout() {
    let job = nights().copy("earlier-again");
    let expected = recalled(&job.path("runs/a/recall"));
    // One part of three: the others stay where they are.
    job.ok("recall --run runs/a --shard 1/3 --force --quiet");
    assert!(!job.path("runs/a/recall/part-00001-of-00003.json").exists());
    assert!(job.path("runs/a/manifests/recall/part-00001-of-00003.json").exists());
    assert_eq!(files(&job.path("runs/a/recall/sample"), "parquet").len(), 2);
    assert_verified(&job, "runs/a");
    assert!(recalled(&job.path("runs/a/recall")) == expected);
    job.ok("publish --run runs/a --set run.part_users=50 --quiet");
    // All of them; and all in one part.
    for (line, parts) in [("--set run.part_users=50 --force", 3), ("--force", 1)] {
        job.ok(&format!("recall --run runs/a {line} --quiet"));
        let in_recall: Vec<String> =
            names(&job.path("runs/a")).into_iter().filter(|name| name.starts_with("recall/")).collect();
        assert_eq!(in_recall.len(), parts, "{in_recall:?}");
        assert!(in_recall.iter().all(|name| name.ends_with(".parquet")) && !job.path("runs/a/recall/sample").exists());
        assert!(recalled(&job.path("runs/a/recall")) == expected);
        assert_verified(&job, "runs/a");
    }
    // Vectors as well, and then what was made of them.
    job.ok("run --run runs/b --from infer-items --quiet");
    let beside = |name: &String| name.contains("part-") && name.ends_with(".json") && !name.starts_with("manifests/");
    assert!(!names(&job.path("runs/b")).iter().any(beside));
    assert_verified(&job, "runs/b");
}

#[test]
fn an_output_folder_with_parts_of_an_earlier_version_is_left_alone() {
    let job = nights().copy("earlier-output");
    users().take(0..10).write_parquet(&job.path("some.parquet"));
    let line = "infer --run runs/b --side user --table some.parquet --output some --quiet";
    job.ok(line);
    let part = "part-00000-of-00001.parquet";
    std::fs::rename(job.path("some/vectors").join(part), job.path("some").join(part)).unwrap();
    for force in ["", " --force"] {
        job.refused(&format!("{line}{force}"), 4, &["an earlier version wrote", part, "name another folder"]);
    }
    assert!(job.path("some").join(part).exists() && names(&job.path("some/vectors")).is_empty());
}
