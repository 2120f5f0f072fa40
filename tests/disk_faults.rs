//! Disks that are full, broken or read-only: the message names the file, nothing partial gets a final name,
//! yesterday's `latest` stays, and once the disk is well again the same command finishes with the same bytes.

mod faults;
mod fixture;

use faults::{ADOPTED, ALL, Call, Ended, Fault, NIGHT, Outputs, Runs, SHARDS, Scenario, Trial};
use fixture::{Finished, Job, clean_environment, long, not_tested};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Asserts that a command failed with an error of input or output, or of the input it then could not read, that names
/// the file: that of the call `at` which the fault is in, or of a later one where there is no room from then on.
fn assert_refused(ended: &Ended, fault: Fault, folder: &Path, what: &str) {
    let finished = &ended.finished;
    assert_eq!((finished.code, ended.signal), (1, None), "{what}\n{}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{what}\n{}", finished.stderr);
    let error = finished.stderr.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>();
    assert_eq!(error.len(), 1, "{what}\n{}", finished.stderr);
    let hit = &ended.calls[fault.at - 1];
    let named = match fault.action {
        "full" | "short" => {
            let run = folder.join("run");
            // The folders around the run are in every message.
            let around = [folder, &run].map(|path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
            let specific = |call: &&Call| !around.iter().any(|path| path == Path::new(&call.path));
            let mut later = ended.calls[fault.at - 1..].iter().filter(specific);
            later.any(|call| error[0].contains(&call.subject()))
        }
        _ => error[0].contains(&hit.subject()),
    };
    assert!(named, "{what}: the file is not named\n{}", finished.stderr);
}

/// Puts one fault into one command of a scenario; returns the call it hit if the command could do without it.
fn survives(runs: &Runs, scenario: Scenario, Trial { line, fault }: Trial, expected: &Outputs) -> Option<String> {
    let folder = runs.folder(&format!("{}-{line}-{}-{}", scenario.name, fault.action, fault.at), true);
    let yesterday = faults::outputs(&folder.join("yesterday"));
    runs.complete(&scenario.lines[..line], &folder);
    let latest = || std::fs::read_link(folder.join("latest")).ok();
    let before = latest();
    let ended = faults::run(runs.command(scenario.lines[line], &folder), fault, &folder);
    let hit = &ended.calls[fault.at - 1];
    let what = format!("{}, {} {} {} `{}`", scenario.lines[line], fault.action, fault.at, hit.name, hit.path);
    let failed = ended.finished.code != 0 || ended.signal.is_some();
    if failed {
        assert_refused(&ended, fault, &folder, &what);
        // It may have been switched when its folder could not be synced, or withdrawn from the run that changes.
        let switched = hit.name == "fsync" && Path::new(&hit.path) == folder.canonicalize().unwrap();
        let withdrawn = before == Some("run".into()) && latest().is_none();
        assert!(switched || withdrawn || latest() == before, "{what}: `latest` moved to {:?}", latest());
    }
    faults::assert_same(&folder.join("yesterday"), &yesterday, &what);
    runs.recovers(scenario, line, &folder, expected, &what);
    (!failed).then(|| format!("{} {} {}", fault.action, hit.name, hit.subject()))
}

/// Puts faults into `n` calls of a scenario, or into all in the long form; returns how many there were, and which
/// the commands could do without.
fn faults_at_calls(runs: &Runs, scenario: Scenario, n: usize) -> (usize, BTreeSet<String>) {
    let (expected, calls) = runs.reference(scenario, true);
    let all: usize = calls.iter().map(Vec::len).sum();
    let faults = faults::trials(scenario, &calls, n, &["enospc", "eio", "full", "short"]);
    let spared = faults::in_parallel(&faults, |fault| survives(runs, scenario, *fault, &expected));
    let (put, spared) = (faults.len(), spared.into_iter().flatten().collect::<Vec<_>>());
    let failed = put - spared.len();
    println!("{}: {all} durable calls, {put} faults, {failed} commands failed, nothing lost", scenario.name);
    (put, spared.into_iter().collect())
}

#[test]
fn a_fault_in_any_durable_call_is_named_and_harms_nothing() {
    let runs = Runs::new("faults");
    let scenarios = if long() { &ALL[..] } else { &[NIGHT, ADOPTED, SHARDS] };
    for scenario in scenarios {
        let (put, spared) = faults_at_calls(&runs, *scenario, if scenario.name == NIGHT.name { 24 } else { 8 });
        // Nothing depends on a few calls, such as removing the lock.
        println!("{}: done without: {spared:?}", scenario.name);
        assert!(spared.len() * 2 < put, "{}: of {put} faults, too many were passed over: {spared:?}", scenario.name);
    }
}

/// Runs a script in which it may mount file systems, if this machine lets anybody do that.
fn with_mounts(job: &Job, script: &str) -> Option<Finished> {
    let mut probe = Command::new("unshare");
    let may = probe.args(["-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        not_tested("this machine lets nobody mount a file system in a name space of its own");
        return None;
    }
    let twotower = job.command("");
    let mut command = Command::new("unshare");
    command.args(["-Urm", "bash", "-euc", script, "bash"]).arg(twotower.get_program());
    clean_environment(&mut command);
    Some(command.current_dir(&job.dir).output().unwrap().into())
}

fn native(name: &str) -> Job {
    let job = Job::new(name);
    job.edit("batch_rows = 256", "batch_rows = 500\nengine = \"native\"");
    job
}

#[test]
fn a_disk_that_is_really_full_is_named_and_once_there_is_room_the_run_goes_on() {
    let job = native("faults-tmpfs");
    job.ok("run --run whole/run --quiet");
    std::fs::create_dir(job.path("small")).unwrap();
    // Room for some stages and not for all: less than the run takes, and what is left on failing is looked at.
    let script = r#"
        mount -t tmpfs -o size="$2" none small
        set +e; "$1" run --run small/run --quiet 2> error > /dev/null; echo "code $?"; set -e
        mkdir left; cp -a small/. left
        mount -o remount,size=64m small
        "$1" run --run small/run --quiet > /dev/null
        cp -a small/. after
    "#;
    for size in ["64k", "160k", "240k"] {
        for made in ["left", "after"] {
            let _ = std::fs::remove_dir_all(job.path(made));
        }
        std::fs::create_dir(job.path("after")).unwrap();
        let Some(finished) = with_mounts(&job, &script.replace("$2", size)) else { return };
        assert_eq!((finished.code, finished.stdout.trim()), (0, "code 1"), "{size}\n{}", finished.stderr);
        let error = std::fs::read_to_string(job.path("error")).unwrap();
        assert!(error.contains("small/run/") && error.contains("No space left on device"), "{size}\n{error}");
        assert!(!error.contains("panicked"), "{error}");
        let expected = faults::outputs(&job.path("whole/run"));
        faults::assert_nothing_partial(&job.path("left"), &expected);
        assert!(!job.path("left/latest").exists());
        faults::assert_same(&job.path("after/run"), &expected, size);
        assert_eq!(std::fs::read_link(job.path("after/latest")).unwrap(), Path::new("run"));
    }
}

#[test]
fn a_folder_that_is_read_only_is_named() {
    let job = native("faults-read-only");
    job.ok("run --run runs/yesterday --quiet");
    std::fs::create_dir(job.path("runs/today")).unwrap();
    let before = fixture::results::snapshot(&job.dir, &["error"]);
    let script = r#"
        mount --bind runs runs; mount -o remount,bind,ro runs
        for run in today tomorrow yesterday; do
            set +e; "$1" run --run runs/$run --quiet 2> error-$run > /dev/null; echo "code $?"; set -e
        done
        "$1" infer --run runs/yesterday --side user --table users.parquet --output elsewhere --quiet > /dev/null
    "#;
    let Some(finished) = with_mounts(&job, script) else { return };
    assert_eq!((finished.code, finished.stdout.as_str()), (0, "code 1\ncode 1\ncode 1\n"), "{}", finished.stderr);
    for run in ["today", "tomorrow", "yesterday"] {
        let error = std::fs::read_to_string(job.path(&format!("error-{run}"))).unwrap();
        assert!(error.contains(&format!("runs/{run}")) && error.contains("Read-only file system"), "{error}");
    }
    let mut after = fixture::results::snapshot(&job.dir, &["error"]);
    after.retain(|path, _| !path.starts_with("elsewhere"));
    assert!(after == before, "something changed");
}
