//! `doctor`: what is wrong with a machine is found before the night, with what to do.

mod fixture;

use fixture::{Finished, ITEMS, Job, USERS, in_shell};
use serde_json::Value;

/// Runs the checks with the environment given.
fn checked(job: &Job, line: &str, environment: &[(&str, &str)]) -> (Finished, Value) {
    let mut command = job.command(&format!("doctor --json {line}"));
    command.envs(environment.iter().copied());
    let finished = Finished::from(command.output().unwrap());
    let report = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    (finished, report)
}

/// The findings of one check.
fn of(report: &Value, check: &str) -> Vec<Value> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.filter(|finding| finding["check"] == check).cloned().collect()
}

/// Asserts that a check came out so, says all of `says`, and advises something unless all is well.
fn assert_found(report: &Value, check: &str, status: &str, says: &[&str]) {
    let findings = of(report, check);
    let told = |f: &Value| says.iter().all(|text| f["found"].as_str().unwrap().contains(text));
    let found = findings.iter().find(|finding| finding["status"] == status && told(finding));
    let found = found.unwrap_or_else(|| panic!("{check}: expected {status} with {says:?} in {findings:?}"));
    assert_eq!(found["advice"].as_str().unwrap().is_empty(), status == "ok", "{found}");
}

#[test]
fn a_fit_machine_has_no_problems_and_nothing_is_left_behind() {
    let job = Job::new("doctor-fit");
    let before = fixture::results::walk(&job.dir);
    let (finished, report) = checked(&job, "--run runs/a --memory 512MiB", &[("TZ", "UTC")]);
    assert_eq!((finished.code, &report["problems"]), (0, &0.into()), "{report}");
    for check in ["job", "onnx runtime", "disk", "folder", "memory", "threads", "open files", "time zone", "clock"] {
        assert_eq!(of(&report, check).len(), 1, "{check}: {report}");
    }
    assert_found(&report, "onnx runtime", "ok", &["version 1.", "needs 1.", "libonnxruntime.so"]);
    assert_found(&report, "table", "ok", &[&format!("users: {USERS} rows in 1 files")]);
    assert_found(&report, "table", "ok", &[&format!("items: {ITEMS} rows")]);
    assert_found(&report, "memory", "ok", &["512 MiB (given)"]);
    assert_found(&report, "disk", "ok", &["free on the file system", "a night takes about"]);
    assert_eq!(fixture::results::walk(&job.dir), before);
    // For people: a line each.
    let shown = job.ok("doctor --run runs/a").stdout;
    assert!(shown.contains("ok       job: pipeline.toml"), "{shown}");
}

#[test]
fn each_fault_is_found_by_its_own_check() {
    let job = Job::new("doctor-faults");
    let unfit = |line: &str, environment: &[(&str, &str)], check: &str, says: &[&str]| {
        let (finished, report) = checked(&job, line, environment);
        assert_eq!(finished.code, 1, "{check}: {report}");
        let problems = report["findings"].as_array().unwrap().iter().filter(|f| f["status"] == "problem");
        // A folder that is not on a disk has no room on it either.
        assert!(problems.clone().all(|f| f["check"] == check || f["check"] == "disk"), "{check}: {report}");
        assert_eq!(report["problems"], problems.count());
        assert!(finished.stderr.contains("found a problem"), "{}", finished.stderr);
        assert_found(&report, check, "problem", says);
    };
    unfit("", &[("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")], "onnx runtime", &["/nowhere/libonnxruntime.so"]);
    unfit("--run /proc/doctor/run", &[], "folder", &["create a folder in /proc"]);
    unfit("--memory 4096GiB", &[], "memory", &["4194304 MiB (given)"]);
    unfit("--set recall.deny.path=gone.csv --set recall.deny.item=i", &[], "table", &["recall.deny", "gone.csv"]);
    unfit("--set tables.users.path=gone.parquet", &[], "table", &["users", "gone.parquet"]);
    unfit("--config gone.toml", &[], "job", &["gone.toml", "not found"]);
    unfit("--set recall.topkk=3", &[], "job", &["did you mean `topk`?"]);
    std::fs::copy(job.path("items.parquet"), job.path("cut.parquet")).unwrap();
    std::fs::File::options().write(true).open(job.path("cut.parquet")).unwrap().set_len(100).unwrap();
    unfit("--set tables.items.path=cut.parquet", &[], "table", &["items", "cut.parquet"]);
    job.refused("doctor --set topk", 2, &["--set topk", "expected key=value"]);
    // Without the runtime, the other engine needs none.
    let (finished, report) =
        checked(&job, "--set infer.engine=native", &[("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")]);
    assert_eq!(finished.code, 0, "{report}");
    assert_found(&report, "onnx runtime", "ok", &["not needed"]);
}

#[test]
fn columns_that_are_not_there_or_cannot_be_read_are_found_before_the_night() {
    let job = Job::new("doctor-columns");
    let wrong = |job: &Job, line: &str, says: &[&str]| {
        let (finished, report) = checked(job, line, &[]);
        assert_eq!(
            (finished.code, of(&report, "columns").len()),
            (1, 3 + usize::from(line.contains("recall.deny"))),
            "{report}"
        );
        assert_found(&report, "columns", "problem", says);
        let problems = report["findings"].as_array().unwrap().iter().filter(|f| f["status"] == "problem");
        assert!(problems.clone().all(|f| f["check"] == "columns"), "{report}");
        // The night fails with the same words.
        let done = job.twotower(&format!("run --run runs/a --quiet {line}"));
        assert!(done.code > 0 && says.iter().all(|says| done.stderr.contains(says)), "{says:?}: {}", done.stderr);
    };
    for (line, says) in [
        ("--set tables.users.id=userid", &["`userid`", "did you mean `user_id`?"][..]),
        ("--set tables.items.id=itemid", &["`itemid`", "did you mean `item_id`?"]),
        ("--set tables.interactions.user=userid", &["`userid`", "did you mean `user_id`?"]),
        ("--set tables.interactions.item=itemid", &["`itemid`", "did you mean `item_id`?"]),
        ("--set tables.interactions.timestamp=tss", &["`tss`", "did you mean `ts`?"]),
        ("--set tables.interactions.weight=weigth", &["`weigth`", "it has user_id, item_id, ts"]),
        ("--set tables.items.id=price", &["`price`", "since it holds ids"]),
    ] {
        wrong(&job, line, says);
    }
    let (_, report) = checked(&job, "--set recall.deny.path=items.parquet --set recall.deny.item=itemid", &[]);
    assert_found(&report, "columns", "problem", &["recall.deny", "did you mean `item_id`?"]);
    // What features read, by name and by type.
    job.edit("name = \"city\"", "name = \"citty\"");
    wrong(&job, "", &["`citty`", "did you mean `city`?"]);
    job.edit("{ kind = \"categorical\", name = \"citty\" }", "{ kind = \"vector\", name = \"city\", dim = 4 }");
    wrong(&job, "", &["feature `city`", "a vector feature takes"]);
    // All is well again.
    job.edit("{ kind = \"vector\", name = \"city\", dim = 4 }", "{ kind = \"categorical\", name = \"city\" }");
    let (finished, report) = checked(&job, "", &[]);
    assert_eq!(finished.code, 0, "{report}");
    assert_found(&report, "columns", "ok", &["users: 6 columns"]);
    assert_found(&report, "columns", "ok", &["interactions: 3 columns"]);
}

#[test]
fn a_missing_runtime_is_told_before_the_first_stage_that_leads_to_it() {
    let job = Job::small("doctor-runtime");
    let without = |line: &str| {
        let output = job.command(line).env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let refused = |line: &str, stage: &str| {
        let (code, told) = without(line);
        assert_eq!(code, Some(1), "{told}");
        let says = [&format!("{stage}: find ONNX Runtime"), "/nowhere/libonnxruntime.so", "--engine native"];
        assert!(says.iter().all(|says| told.contains(*says)), "{told}");
    };
    refused("run --run runs/a --quiet --engine ort", "run");
    assert!(!job.path("runs/a/encoders/manifest.json").exists());
    job.ok("encode-features --run runs/a --quiet");
    refused("train --run runs/a --quiet --engine ort", "train");
    assert!(!job.path("runs/a/towers/checkpoints").exists());
    // The step that is named works, and what is complete needs no runtime.
    let off = "--set gates.off=[\"metric\",\"lists\",\"coverage\"]";
    for _ in 0..2 {
        let (code, told) = without(&format!("run --run runs/a --quiet --engine native {off}"));
        assert_eq!(code, Some(0), "{told}");
    }
}

#[test]
fn what_may_go_wrong_is_a_warning_and_no_problem() {
    let job = Job::new("doctor-warnings");
    let line = "--memory 250MiB --set infer.workers=1000 --set infer.engine=native";
    let (finished, report) = checked(&job, line, &[("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")]);
    assert_eq!((finished.code, report["warnings"].as_u64()), (0, Some(3)), "{report}");
    assert_found(&report, "memory", "warning", &["250 MiB (given)"]);
    assert_found(&report, "time zone", "warning", &["CET-1CEST", "summer time"]);
    assert_found(&report, "threads", "warning", &["the job asks for 1000"]);
    assert_found(&report, "memory of stages", "ok", &["encode-features ", "recall "]);
    let (finished, report) = checked(&job, "--memory 64MiB --set infer.engine=native", &[("TZ", "UTC")]);
    assert_eq!(finished.code, 1, "{report}");
    assert_found(&report, "memory of stages", "problem", &["encode-features ", "recall "]);
    // A table of next year: the clock is slow.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(400 * 86_400);
    std::fs::File::options().write(true).open(job.path("items.parquet")).unwrap().set_modified(later).unwrap();
    let (_, report) = checked(&job, "", &[("TZ", "UTC")]);
    assert_found(&report, "clock", "warning", &["items.parquet", " hours from now"]);
}

#[test]
fn a_low_limit_on_open_files_is_a_problem() {
    let job = Job::new("doctor-files");
    let command = job.command("doctor --json --set infer.engine=native");
    let output = in_shell(&command, "ulimit -n 100; exec \"$0\" \"$@\"").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_found(&report, "open files", "problem", &["at most 100"]);
}

#[test]
fn a_disk_too_small_for_the_night_is_a_problem() {
    let job = Job::new("doctor-disk");
    // 800,000 items times as many places in a list do not fit on any disk of today, whatever the users.
    let items: String = (0..800_000).map(|i| format!("{i},x,1\n")).collect();
    job.write("items.csv", &format!("item_id,category,price\n{items}"));
    let users: String = (0..800_000).map(|u| format!("{u}\n")).collect();
    job.write("users.csv", &format!("user_id\n{users}"));
    let line = "--set tables.items.path=items.csv --set tables.users.path=users.csv --set recall.topk=800000 \
                --set infer.engine=native";
    let (finished, report) = checked(&job, line, &[]);
    assert_eq!(finished.code, 1, "{report}");
    assert_found(&report, "disk", "problem", &["a night takes about"]);
}
