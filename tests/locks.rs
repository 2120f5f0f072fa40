//! Two processes on one run folder: one that changes the run is alone in it, shards work side by side, and what a
//! dead process left keeps nobody out.

mod faults;
mod fixture;

use faults::{Call, Fault, Guarded, NIGHT, Runs, SHARDS};
use fixture::Finished;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Starts a command that stops, as by SIGSTOP, at a durable call, and waits until it has.
fn stopped_at(runs: &Runs, line: &str, folder: &Path, at: usize) -> Guarded {
    let mut command = runs.command(line, folder);
    faults::put_into(&mut command, Fault { action: "stop", at }, folder, &folder.with_extension("calls"));
    let child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let stat = format!("/proc/{}/stat", child.0.id());
    faults::until(line, || std::fs::read_to_string(&stat).unwrap().contains(") T "));
    child
}

fn goes_on(mut child: Guarded) {
    child.send("-CONT");
    assert!(child.end().success());
}

fn run(runs: &Runs, line: &str, folder: &Path) -> Finished {
    runs.command(line, folder).output().unwrap().into()
}

#[test]
fn a_second_run_is_refused_by_name_and_the_first_ones_death_lets_the_third_in() {
    let runs = Runs::new("locks-run");
    let (expected, _) = runs.reference(NIGHT, false);
    let folder = runs.folder("twice", false);
    let mut first = stopped_at(&runs, NIGHT.lines[0], &folder, 60);
    let holder = format!("process {}", first.0.id());
    let lines = [
        "run --run RUN",
        "run --run RUN --force",
        "encode-features --run RUN",
        "train --run RUN",
        "infer --run RUN --side item",
        "infer --run RUN --side user --shard 0/2",
        "recall --run RUN",
        "evaluate --run RUN",
    ];
    let before = fixture::results::snapshot(&folder, &[]);
    for line in lines {
        let started = Instant::now();
        let second = run(&runs, line, &folder);
        assert_eq!(second.code, 1, "{line}\n{}", second.stderr);
        for says in ["twice/run is in use by", &holder, "run --run twice/run --quiet", "It is stopped", "kill"] {
            assert!(second.stderr.contains(says), "{line}: expected `{says}` in\n{}", second.stderr);
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{line}: waited {:?}", started.elapsed());
    }
    assert!(fixture::results::snapshot(&folder, &[]) == before, "a refused command changed the run");
    // Another folder is another run.
    let other = runs.folder("other", false);
    runs.complete(NIGHT.lines, &other);
    first.send("-KILL");
    first.end();
    assert!(folder.join("run/.lock").exists());
    runs.complete(NIGHT.lines, &folder);
    faults::assert_same(&folder.join("run"), &expected, "killed while it held the lock");
}

#[test]
fn shards_work_side_by_side_and_keep_what_changes_the_run_out() {
    let runs = Runs::new("locks-shards");
    let (expected, calls) = runs.reference(SHARDS, false);
    let folder = runs.folder("beside", false);
    let (before, [shards @ .., evaluate]) = SHARDS.lines.split_at(3) else { unreachable!() };
    runs.complete(before, &folder);
    for (pair, of_first) in shards.chunks(2).zip(calls[3..].iter().step_by(2)) {
        // Where its part gets its name: an index, which one shard makes for all, is made by then.
        let part = |call: &Call| call.name == "rename" && [".jsonl", ".parquet"].iter().any(|e| call.path.ends_with(e));
        let first = stopped_at(&runs, pair[0], &folder, 1 + of_first.iter().position(part).unwrap());
        runs.complete(&pair[1..], &folder);
        for line in ["run --run RUN", "train --run RUN", evaluate] {
            let refused = run(&runs, line, &folder);
            assert_eq!(refused.code, 1, "{line}\n{}", refused.stderr);
            assert!(refused.stderr.contains(&format!("process {}", first.0.id())), "{}", refused.stderr);
        }
        goes_on(first);
    }
    runs.complete(&[evaluate], &folder);
    faults::assert_same(&folder.join("run"), &expected, "shards side by side");
}

#[test]
fn the_same_shard_twice_at_once_leaves_one_result_of_the_same_bytes() {
    let runs = Runs::new("locks-twice");
    let (expected, calls) = runs.reference(SHARDS, false);
    for (line, of_line) in calls.iter().enumerate().skip(3).take(4) {
        // The first is stopped at several places, the second does the same work meanwhile, then the first goes on.
        for at in [3, of_line.len() / 2, of_line.len() - 2] {
            let folder = runs.folder(&format!("same-{line}-{at}"), false);
            runs.complete(&SHARDS.lines[..line], &folder);
            let first = stopped_at(&runs, SHARDS.lines[line], &folder, at);
            let mut second = Guarded(runs.command(SHARDS.lines[line], &folder).stdout(Stdio::null()).spawn().unwrap());
            // It is done by then, unless the first one makes the index, for which it waits.
            std::thread::sleep(Duration::from_millis(600));
            goes_on(first);
            assert!(second.end().success());
            faults::assert_nothing_partial(&folder, &expected);
            runs.complete(&SHARDS.lines[line..], &folder);
            faults::assert_same(&folder.join("run"), &expected, &format!("{} twice", SHARDS.lines[line]));
        }
    }
}

#[test]
fn a_file_system_without_locks_is_warned_of_and_worked_on() {
    let runs = Runs::new("locks-none");
    let (expected, _) = runs.reference(NIGHT, false);
    let folder = runs.folder("none", false);
    let mut command = runs.command(NIGHT.lines[0], &folder);
    faults::put_into(&mut command, faults::NONE, &folder, &folder.with_extension("calls"));
    let finished: Finished = command.env("FAULT_NO_LOCKS", "1").output().unwrap().into();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(finished.stderr.contains("run/.lock") && finished.stderr.contains("without locks"), "{}", finished.stderr);
    faults::assert_same(&folder.join("run"), &expected, "without locks");
}
