//! The runs of a folder: listed, gone back to, and pruned without ever touching what is in use.

mod fixture;

use fixture::{Finished, Job, USERS, users};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
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
        // Moved away and back, so that it stays the table that the runs were made from.
        std::fs::rename(job.path("users.parquet"), job.path("whole.parquet")).unwrap();
        users().take(0..USERS / 2).write_parquet(&job.path("users.parquet"));
        job.refused("run --run runs/d --update-from runs/a --no-train --fused --quiet", 5, &["gate `rows`"]);
        std::fs::rename(job.path("whole.parquet"), job.path("users.parquet")).unwrap();
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

/// Sets what a run's gates say about when they were asked.
fn checked(job: &Job, run: &str, at: u64, sequence: Option<u64>) {
    job.change(&format!("runs/{run}/gates/manifest.json"), |manifest| {
        manifest["details"]["checked at"] = at.into();
        let details = manifest["details"].as_object_mut().unwrap();
        match sequence {
            Some(sequence) => details.insert("sequence".into(), sequence.into()),
            None => details.remove("sequence"),
        };
    });
}

#[test]
fn prune_goes_by_what_runs_say_and_not_by_a_clock_that_was_ahead() {
    const FUTURE: u64 = 1_900_000_000;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let order = |job: &Job| -> Vec<String> {
        let runs = job.json("runs list")["runs"].as_array().unwrap().clone();
        runs.iter().map(|run| run["name"].as_str().unwrap().to_string()).collect()
    };
    // `b` was made while the clock stood in 2030; `c`, after it, is the newest all the same.
    let job = nights().copy("runs-future");
    assert_eq!(order(&job), ["a", "b", "c", "d"]);
    checked(&job, "b", FUTURE, Some(2));
    assert_eq!(order(&job), ["a", "b", "c", "d"]);
    let gone = job.json("runs prune --keep 1");
    assert_eq!((pruned(&gone, "removed"), pruned(&gone, "left")), (vec!["a".into(), "b".into()], Vec::<String>::new()));
    assert_eq!(names(&job), ["c", "d", "latest"]);

    // Runs of earlier versions say no sequence: one that says a time ahead of now is no measure, and is left.
    let job = nights().copy("runs-future-first");
    for (run, at) in [("a", now - 300), ("b", FUTURE), ("c", now - 100), ("d", now - 50)] {
        checked(&job, run, at, None);
    }
    assert_eq!(order(&job), ["b", "a", "c", "d"]);
    let gone = job.json("runs prune --keep 1");
    assert_eq!((pruned(&gone, "removed"), pruned(&gone, "left")), (vec!["a".into()], vec!["b".into()]));
    assert!(gone["left"][0]["reason"].as_str().unwrap().contains("ahead of the clock"), "{gone}");
    // Asked again, it has its place: it is the newest now.
    job.ok("publish --run runs/b --force --quiet");
    assert_eq!(order(&job), ["c", "d", "b"]);

    // A run that was brought here with a sequence of its own is not taken for newer than later nights.
    let job = nights().copy("runs-brought");
    checked(&job, "a", now - 100_000, Some(500));
    let gone = job.json("runs prune --keep 1");
    assert_eq!(pruned(&gone, "removed"), Vec::<String>::new());
    assert_eq!(pruned(&gone, "left"), ["b", "c", "d"]);
    assert_eq!(job.latest(), "c");
    // A complete run that was not checked yet is no older than its results.
    let job = nights().copy("runs-unchecked");
    std::fs::remove_file(job.path("runs/b/gates/manifest.json")).unwrap();
    let newest = File::open(job.path("runs/b/recall/part-00000-of-00001.parquet")).unwrap();
    newest.set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(pruned(&job.json("runs prune --keep 1"), "removed"), ["a"]);
}

#[test]
fn prune_deletes_nothing_but_what_stages_made() {
    let job = nights().copy("runs-strangers");
    for name in [".pruned-photos", ".pruned-old/encoders", ".pruned-link-target"] {
        std::fs::create_dir_all(job.path("runs").join(name)).unwrap();
    }
    job.write("runs/.pruned-photos/summer.jpg", "mine");
    job.write("runs/.pruned-old/encoders/manifest.json", "{}");
    job.write("runs/a/recall/part-of-me.txt", "mine");
    job.write("runs/.pruned-file", "mine");
    std::os::unix::fs::symlink("../users.parquet", job.path("runs/b/evaluation")).unwrap();
    std::os::unix::fs::symlink("a", job.path("runs/.pruned-link")).unwrap();
    let report = job.json("runs prune --keep 1");
    assert!(pruned(&report, "removed").is_empty(), "{report}");
    let mut left = pruned(&report, "left");
    left.sort();
    assert_eq!(left, [".pruned-old", ".pruned-photos", "a", "b"]);
    for name in
        [".pruned-photos/summer.jpg", ".pruned-old/encoders/manifest.json", "a/recall/part-of-me.txt", ".pruned-file"]
    {
        assert!(job.path("runs").join(name).exists(), "{name}");
    }
    assert!(job.path("runs/b/evaluation").is_symlink() && job.path("runs/.pruned-link").is_symlink());
    // What is in the way of a removal is left as well.
    std::fs::remove_file(job.path("runs/b/evaluation")).unwrap();
    std::fs::create_dir(job.path("runs/.pruned-b")).unwrap();
    job.write("runs/.pruned-b/mine", "mine");
    let report = job.json("runs prune --keep 1");
    assert!(pruned(&report, "removed").is_empty() && job.path("runs/b/recall").exists(), "{report}");
    std::fs::remove_file(job.path("runs/.pruned-b/mine")).unwrap();
    std::fs::remove_file(job.path("runs/a/recall/part-of-me.txt")).unwrap();
    assert_eq!(pruned(&job.json("runs prune --keep 1"), "removed"), ["a", "b"]);
    assert_eq!(job.latest(), "c");
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

/// Opens a lock file as the binary does; the caller locks it.
fn lock_file(job: &Job, name: &str) -> File {
    File::options().create(true).append(true).open(job.path(name)).unwrap()
}

/// Runs a command that must wait until nobody else switches `latest`, and does something `meanwhile`.
fn after_waiting(job: &Job, line: &str, meanwhile: impl FnOnce()) -> Finished {
    let held = lock_file(job, "runs/.latest.lock");
    held.lock().unwrap();
    let mut child = job.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !(said.contains("waiting for the link ") && said.contains("runs/latest, held by ")) {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{line} did not wait:\n{said}");
    }
    meanwhile();
    drop(held);
    stderr.read_to_string(&mut said).unwrap();
    Finished { stderr: said, ..child.wait_with_output().unwrap().into() }
}

#[test]
fn whatever_switches_latest_waits_for_the_others_and_then_looks_where_it_points() {
    let job = nights().copy("runs-latest");
    let point_at = |run: &str| twotower_artifacts::publish::switch_link(job.path("runs/latest"), run).unwrap();

    let published = after_waiting(&job, "publish --run runs/b", || assert_eq!(job.latest(), "c"));
    assert_eq!((published.code, job.latest()), (0, "b".to_string()), "{}", published.stderr);
    // A run that changes takes back what names it, and nothing else.
    let changed = after_waiting(&job, "recall --run runs/b --fused --force", || point_at("c"));
    assert_eq!((changed.code, job.latest()), (0, "c".to_string()), "{}", changed.stderr);
    assert!(!job.path("runs/b/gates/manifest.json").exists());
    // What is gone back to is looked at when it is its turn.
    let gates = job.path("runs/a/gates/manifest.json");
    let manifest = std::fs::read(&gates).unwrap();
    let back = after_waiting(&job, "rollback --to a", || std::fs::remove_file(&gates).unwrap());
    assert_eq!((back.code, job.latest()), (4, "c".to_string()), "{}", back.stderr);
    assert!(back.stderr.contains("was not checked"), "{}", back.stderr);
    std::fs::write(&gates, manifest).unwrap();
    // A run that was published meanwhile is not pruned.
    let pruned = after_waiting(&job, "runs prune --keep 1", || point_at("a"));
    assert_eq!((pruned.code, job.latest()), (0, "a".to_string()), "{}", pruned.stderr);
    assert!(pruned.stdout.contains("left a: `latest` names it"), "{}", pruned.stdout);
    assert_eq!(names(&job), ["a", "b", "c", "d", "latest"]);
}

#[test]
fn a_run_at_work_is_none_to_go_back_to() {
    let job = nights().copy("runs-at-work");
    let shard = lock_file(&job, "runs/b/.lock");
    shard.lock_shared().unwrap();
    for line in ["rollback", "rollback --to b"] {
        job.refused(line, 1, &["runs/b is in use by "]);
        assert_eq!(job.latest(), "c");
    }
    drop(shard);
    job.ok("rollback");
    assert_eq!(job.latest(), "b");
}

#[test]
fn a_run_named_by_a_link_is_worked_on_and_the_link_is_none() {
    let job = nights().copy("runs-by-link");
    job.ok("recall --run runs/latest --fused --force --quiet");
    assert!(!job.path("runs/latest").exists() && !job.path("runs/c/gates/manifest.json").exists());
    job.ok("publish --run runs/c --quiet");
    job.ok("publish --run runs/latest/ --force --quiet");
    assert_eq!(job.latest(), "c");
    let manifest = twotower_artifacts::Manifest::read(job.path("runs/c/gates/manifest.json")).unwrap();
    assert_eq!(manifest.details["previous"], "b", "a run is compared with itself");
    let before = std::fs::read(job.path("runs/c/encoders/manifest.json")).unwrap();
    job.ok("encode-features --run runs/latest --quiet");
    assert!(std::fs::read(job.path("runs/c/encoders/manifest.json")).unwrap() != before);
    assert_eq!(names(&job), ["a", "b", "c", "d"]);
    std::os::unix::fs::symlink("gone", job.path("runs/broken")).unwrap();
    job.refused("encode-features --run runs/broken", 1, &["resolve the link runs/broken"]);
}

#[test]
fn what_cannot_be_published_is_an_error() {
    let job = nights().copy("runs-folder-latest");
    std::fs::remove_file(job.path("runs/latest")).unwrap();
    std::fs::create_dir(job.path("runs/latest")).unwrap();
    for line in ["run --run runs/c --update-from runs/a --no-train --fused", "publish --run runs/c"] {
        job.refused(line, 1, &["runs/latest", "not a link", "move it away"]);
    }
    std::fs::remove_dir(job.path("runs/latest")).unwrap();
    job.ok("publish --run runs/c --quiet");
    assert_eq!(job.latest(), "c");
    // A run whose folder has that name is complete without a link.
    std::fs::create_dir(job.path("alone")).unwrap();
    std::fs::rename(job.path("runs/c"), job.path("alone/latest")).unwrap();
    assert!(job.ok("publish --run alone/latest").stderr.contains("is the run itself"));
}

#[test]
fn an_earlier_run_is_not_read_while_another_process_changes_it() {
    let job = nights().copy("runs-read");
    job.ok("encode-features --run runs/h --update runs/a/encoders --quiet");
    let lock = lock_file(&job, "runs/a/.lock");
    lock.lock().unwrap();
    for line in [
        "run --run runs/g --update-from runs/a --no-train --fused",
        "encode-features --run runs/g --update runs/a/encoders",
        "train --run runs/h --from runs/a/towers",
    ] {
        job.refused(line, 1, &["runs/a is in use by "]);
    }
    let previous = lock_file(&job, "runs/c/.lock");
    previous.lock().unwrap();
    job.refused("publish --run runs/b --force", 1, &["runs/c is in use by "]);
    assert_eq!(job.latest(), "c");
    previous.unlock().unwrap();
    lock.unlock().unwrap();
    // Others may read it, or add shards to it; and it is free again once its weights have been read.
    lock.lock_shared().unwrap();
    let line = "train --run runs/h --from runs/a/towers --epochs 10000 --quiet";
    let mut child = job.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (started, best) = (std::time::Instant::now(), job.path("runs/h/towers/checkpoints/best.ckpt"));
    while !best.exists() && started.elapsed().as_secs() < 60 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(lock);
    let back = job.twotower("rollback --to a");
    let trains = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(trains && best.exists());
    assert_eq!((back.code, job.latest()), (0, "a".to_string()), "{}", back.stderr);
}

#[test]
fn a_run_with_a_damaged_manifest_is_listed_as_incomplete() {
    let job = nights().copy("runs-damaged");
    job.write("runs/b/encoders/manifest.json", "{");
    let runs = job.json("runs list");
    let b = runs["runs"].as_array().unwrap().iter().find(|run| run["name"] == "b").unwrap();
    assert_eq!(b["complete"], false);
    job.refused("rollback --to z", 2, &["a, b, c, d"]);
    job.refused("rollback --to b", 4, &["runs/b is not complete"]);
    job.ok("rollback");
    assert_eq!(job.latest(), "a");
}

#[test]
fn single_stages_extend_the_previous_run_as_a_whole_run_does() {
    let job = Job::small("runs-stages");
    let log = job.ok("encode-features --run runs/none --update-from previous").stderr;
    assert!(log.contains("encode-features: no run beside runs/none has passed its gates"), "{log}");
    job.ok("run --run runs/a --quiet");
    // An experiment is no previous run.
    job.ok("run --run runs/b --update-from previous --no-publish --quiet");
    for stage in ["encode-features", "train"] {
        let log = job.ok(&format!("{stage} --run runs/c --update-from previous")).stderr;
        assert!(log.contains(&format!("{stage}: starts from ")) && log.contains("runs/a"), "{log}");
    }
    for file in ["user_tower.onnx", "item_tower.onnx"] {
        let bytes = |run: &str| std::fs::read(job.path(&format!("runs/{run}/towers/{file}"))).unwrap();
        assert!(bytes("b") == bytes("c") && bytes("a") != bytes("c"), "{file}");
    }
    job.refused("train --run runs/c --update-from runs/a --from runs/a/towers", 2, &["cannot be used with"]);
    job.refused("train --run runs/c --update-from runs/c", 2, &["is the folder of this run"]);
}
