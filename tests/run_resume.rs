//! `run`: what is current is skipped, what depends on a change is redone, what was stopped goes on.

mod faults;
mod fixture;

use faults::{Guarded, until};
use fixture::results::{assert_whole, outputs, recalled, snapshot};
use fixture::sheet::{Column, Sheet};
use fixture::{Job, interactions, items, users};
use serde_json::Value;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Instant;

const STAGES: [&str; 7] = ["encode-features", "train", "infer-items", "infer-users", "recall", "evaluate", "check"];

/// A finished run.
fn finished() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("resume");
        job.ok("run --quiet");
        job
    })
}

/// The stages that a run did not skip.
fn redone(job: &Job, line: &str) -> Vec<String> {
    let report = job.json(&format!("{line} --quiet"));
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.iter().map(|s| s["stage"].as_str().unwrap()).collect::<Vec<_>>(), STAGES);
    let done = stages.iter().filter(|s| s["skipped"] == Value::Bool(false));
    done.map(|s| s["stage"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_second_run_skips_every_stage_and_touches_no_file() {
    let job = finished().copy("resume-twice");
    let before = snapshot(&job.dir, &[]);
    let times = |job: &Job| -> Vec<_> {
        let files = fixture::results::walk(&job.path("run"));
        files.iter().map(|p| (p.clone(), p.metadata().unwrap().modified().unwrap())).collect()
    };
    let changed = times(&job);
    assert_eq!(redone(&job, "run"), [""; 0]);
    assert!(snapshot(&job.dir, &[]) == before && times(&job) == changed);
}

#[test]
fn a_changed_setting_redoes_only_what_depends_on_it() {
    for (setting, expected) in [
        ("recall.topk=7", &["recall", "check"][..]),
        ("recall.format=jsonl", &["recall", "check"]),
        ("evaluate.k=[3]", &STAGES[5..]),
        ("infer.batch_rows=100", &[]),
        ("infer.workers=1", &[]),
        ("train.epochs=1", &STAGES[1..]),
    ] {
        let job = finished().copy("resume-setting");
        assert_eq!(redone(&job, &format!("run --set {setting}")), expected, "{setting}");
    }
}

#[test]
fn a_run_in_parts_gives_the_same_lists_and_keeps_the_parts_that_are_complete() {
    for fused in ["", " --fused"] {
        let job = finished().copy("resume-parts");
        let done = |line: &str| -> Vec<String> {
            let report = job.json(&format!("run{fused} --quiet {line}"));
            let stages = report["stages"].as_array().unwrap().iter().filter(|s| s["skipped"] == Value::Bool(false));
            stages.map(|s| format!("{} {}", s["stage"], s["shard"]).replace('"', "")).collect()
        };
        let parts = |stage: &str| (0..4).map(|i| format!("{stage} {i}/4")).collect::<Vec<_>>();
        let stages: &[&str] = if fused.is_empty() { &["infer-users", "recall"] } else { &["recall"] };
        let mut expected: Vec<String> = stages.iter().flat_map(|stage| parts(stage)).collect();
        expected.push("check null".to_string());
        // The part of all users gives way without --force.
        assert_eq!(done("--set run.part_users=400"), expected);
        assert_whole(&job.path("run"));
        let (found, whole) = (recalled(&job.path("run/recall")), recalled(&finished().path("run/recall")));
        assert_eq!(found.len(), fixture::USERS);
        assert!(found == whole);
        assert_eq!(done("--set run.part_users=400"), [""; 0]);
        std::fs::remove_file(job.path("run/manifests/recall/part-00002-of-00004.json")).unwrap();
        assert_eq!(done("--set run.part_users=400")[0], "recall 2/4");
        assert_eq!(done("--set run.part_users=0").len(), stages.len() + 1);
        assert!(!job.path("run/recall/part-00002-of-00004.parquet").exists());
        assert!(recalled(&job.path("run/recall")) == whole);
    }
}

#[test]
fn a_changed_table_redoes_what_reads_it() {
    let job = finished().copy("resume-table");
    job.edit("topk = 10", "topk = 10\ndeny = { path = \"deny.csv\", item = \"item\" }");
    let list = |item: i64| Sheet::new([("item", Column::Int(vec![Some(item)]))]).text(",");
    job.write("deny.csv", &list(900));
    assert_eq!(redone(&job, "run"), ["recall", "check"]);
    job.write("deny.csv", &list(889));
    assert_eq!(redone(&job, "run"), ["recall", "check"]);
    users().take((0..1400).rev()).write_parquet(&job.path("users.parquet"));
    assert_eq!(redone(&job, "run"), STAGES);
}

#[test]
fn from_and_force_redo_stages_and_give_the_same_bytes() {
    let job = finished().copy("resume-from");
    let before = outputs(&job.path("run"));
    assert_eq!(redone(&job, "run --from recall"), STAGES[4..]);
    assert_eq!(redone(&job, "run --from train"), STAGES[1..]);
    assert!(outputs(&job.path("run")) == before, "bytes differ after --from train");
    assert_eq!(redone(&job, "run --force"), STAGES);
    assert!(outputs(&job.path("run")) == before, "bytes differ after --force");
    // A lost file is made again.
    std::fs::remove_file(job.path("run/vectors/user/part-00000-of-00001.parquet")).unwrap();
    assert_eq!(redone(&job, "run"), ["infer-users", "check"]);
    assert!(outputs(&job.path("run")) == before, "bytes differ after a lost file");
}

#[test]
fn latest_names_complete_runs_only() {
    let job = Job::new("resume-latest");
    let latest = || std::fs::read_link(job.path("runs/latest")).ok();
    let broken =
        job.twotower("run --run runs/a --set recall.topk=5 --set recall.deny.path=gone.csv --set recall.deny.item=i");
    assert_eq!(broken.code, 3, "{}", broken.stderr);
    assert!(job.path("runs/a/manifests/vectors/user/part-00000-of-00001.json").exists());
    assert_eq!(latest(), None);
    job.ok("run --run runs/a --quiet");
    assert_eq!(latest(), Some("a".into()));
    let broken =
        job.twotower("run --run runs/b --set train.epochs=1 --set recall.deny.path=gone.csv --set recall.deny.item=i");
    assert_eq!(broken.code, 3, "{}", broken.stderr);
    assert_eq!(latest(), Some("a".into()));
}

/// Starts the command, sends SIGTERM once `ready`, and returns exit code and seconds from signal to end.
fn terminate(job: &Job, line: &str, ready: impl Fn() -> bool) -> (Option<i32>, f64) {
    let mut child = Guarded(job.command(line).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    until("the moment to stop it", || {
        assert!(child.0.try_wait().unwrap().is_none(), "ended before it was stopped");
        ready()
    });
    let signalled = Instant::now();
    child.send(libc::SIGTERM);
    (child.end().code(), signalled.elapsed().as_secs_f64())
}

#[test]
fn a_training_stopped_by_sigterm_resumes_to_the_same_bytes() {
    for (name, update) in [("resume-stopped", ""), ("resume-stopped-warm", "--update-from ../resume-warm/run")] {
        // Long enough to be stopped in the middle, with checkpoints within epochs.
        let settings = "--set train.epochs=30 --set train.batch_size=64 --set train.checkpoint_steps=20";
        if !update.is_empty() {
            Job::new("resume-warm").ok("run --set train.epochs=1 --quiet");
        }
        let line = format!("run {update} {settings} --quiet");
        let [stopped, undisturbed] = ["a", "b"].map(|which| Job::new(&format!("{name}-{which}")));
        undisturbed.ok(&line);
        let best = stopped.path("run/towers/checkpoints/best.ckpt");
        let (code, seconds) = terminate(&stopped, &line, || best.exists());
        assert_eq!(code, Some(143), "{name}");
        assert!(seconds < 5.0, "{name}: {seconds} s from signal to end");
        assert!(!stopped.path("run/towers/manifest.json").exists() && !stopped.path("latest").exists());
        let resumed = stopped.ok(&format!("run {update} {settings}"));
        assert!(!resumed.stderr.contains("epoch 1:"), "{name}: began again\n{}", resumed.stderr);
        for side in ["user", "item"] {
            let tower = |job: &Job| std::fs::read(job.path(&format!("run/towers/{side}_tower.onnx"))).unwrap();
            assert!(tower(&stopped) == tower(&undisturbed), "{name}: {side} tower differs");
        }
    }
}

#[test]
fn metrics_of_unlike_protocols_are_not_compared() {
    let job = finished().copy("resume-compare");
    std::fs::copy(job.path("run/evaluation/metrics.json"), job.path("full.json")).unwrap();
    let same = job.json("evaluate --compare full.json run/evaluation/metrics.json");
    assert!(same["metrics"].as_array().unwrap().iter().all(|m| m["difference"] == 0.0));
    job.ok("evaluate --set evaluate.ranking=sampled --quiet");
    let protocols = ["full ranking", "sampled-1+100 ranking", "full.json", "run/evaluation/metrics.json"];
    job.refused("evaluate --compare full.json run/evaluation/metrics.json", 4, &protocols);
    std::fs::copy(job.path("run/evaluation/metrics.json"), job.path("sampled.json")).unwrap();
    let shown = job.ok("evaluate --set evaluate.ranking=sampled_paper").stdout;
    assert!(shown.contains("sampled-1+100 paper ranking"), "{shown}");
    let paper = std::fs::read(job.path("run/evaluation/metrics.json")).unwrap();
    let paper: serde_json::Value = serde_json::from_slice(&paper).unwrap();
    assert_eq!(paper["ranking"], "sampled-1+100 paper");
    for model in ["model", "popularity", "item_to_item"] {
        let value = |name: &str| paper["models"][model][name].as_f64().unwrap();
        assert!(value("hit@10") >= value("hit@5") && value("hit@10") <= 1.0, "{model}: {paper}");
        // One item is held out, so whoever is hit has it recalled.
        assert_eq!(value("hit@10"), value("recall@10"), "{model}");
    }
    let protocols = ["sampled-1+100 ranking", "sampled-1+100 paper ranking", "sampled.json"];
    job.refused("evaluate --compare sampled.json run/evaluation/metrics.json", 4, &protocols);
    let settings = "--set evaluate.ranking=sampled_paper --set split.kind=ratio";
    job.refused(&format!("evaluate {settings}"), 2, &["sampled_paper", "leave_last_out"]);
    job.refused("evaluate --compare full.json gone.json", 1, &["gone.json"]);
    job.write("other.json", "{}");
    job.refused("evaluate --compare full.json other.json", 3, &["other.json", "not a metrics file"]);
}

#[test]
fn init_writes_a_job_that_runs_from_any_table_format() {
    let job = Job::empty("resume-init");
    job.ok("synth data --users 3000 --items 300 --quiet");
    for (name, sheet) in [("users", users()), ("items", items()), ("interactions", interactions())] {
        job.write(&format!("{name}.csv"), &sheet.text(","));
        job.write(&format!("{name}.jsonl"), &sheet.json_lines());
    }
    for (name, users, items, interactions) in [
        ("synth", "data/users", "data/items.parquet", "data/interactions"),
        ("csv", "users.csv", "items.csv", "interactions.csv"),
        ("jsonl", "users.jsonl", "items.jsonl", "interactions.jsonl"),
    ] {
        let guessed =
            job.ok(&format!("init --users {users} --items {items} --interactions {interactions} --output {name}.toml"));
        assert!(guessed.stderr.contains("user_id") && guessed.stderr.contains("interactions.ts"), "{}", guessed.stderr);
        let written = std::fs::read_to_string(job.path(&format!("{name}.toml"))).unwrap();
        for length in [1, 5, 50] {
            let recent =
                format!("kind = \"sequence\"\nname = \"last_{length}\"\nmax_len = {length}\ntable = \"item\"\n");
            assert!(written.contains(&recent), "{written}");
        }
        assert!(!written.contains("name = \"user\""), "{written}");
        job.ok(&format!("encode-features --config {name}.toml --run {name} --quiet"));
        job.refused(
            &format!("init --users {users} --items {items} --interactions {interactions} --output {name}.toml"),
            2,
            &["exists already"],
        );
    }
    job.ok("train --config csv.toml --run csv --epochs 1 --quiet");
    job.ok("infer --config csv.toml --run csv --side user --quiet");
}
