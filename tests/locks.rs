//! Two processes on one run folder: one that changes the run is alone in it, shards work side by side, and what a
//! dead process left keeps nobody out.

mod faults;
mod fixture;

use faults::{Call, Fault, Guarded, NIGHT, Runs, SHARDS};
use fixture::Finished;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Starts a command that stops, as by SIGSTOP, at a durable call, and waits until it has.
fn stopped_at(runs: &Runs, line: &str, folder: &Path, at: usize) -> Guarded {
    runs.halted_at(line, folder, Fault { action: "stop", at })
}

fn goes_on(mut child: Guarded) {
    child.send(libc::SIGCONT);
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
    first.send(libc::SIGKILL);
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
fn of_two_starts_at_once_one_works_and_the_other_is_refused_or_finds_it_done() {
    let runs = Runs::new("locks-race");
    let (expected, _) = runs.reference(NIGHT, false);
    for race in 0..5 {
        let folder = runs.folder(&format!("race-{race}"), false);
        let start = || {
            let mut command = runs.command(NIGHT.lines[0], &folder);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let ended = [start(), start()].map(|child| Finished::from(child.wait_with_output().unwrap()));
        assert!(ended.iter().any(|finished| finished.code == 0), "{ended:?}");
        for loser in ended.iter().filter(|finished| finished.code != 0) {
            assert_eq!(loser.code, 1, "{}", loser.stderr);
            assert!(loser.stderr.contains("run is in use by process "), "{}", loser.stderr);
        }
        faults::assert_same(&folder.join("run"), &expected, "two starts");
    }
}

/// All but the last two lines of [`SHARDS`] done, and the calls of the first of those, which builds the index.
fn before_the_index(runs: &Runs, name: &str) -> (std::path::PathBuf, faults::Outputs, Vec<Call>) {
    let (expected, calls) = runs.reference(SHARDS, false);
    let folder = runs.folder(name, false);
    runs.complete(&SHARDS.lines[..5], &folder);
    (folder, expected, calls[5].clone())
}

#[test]
fn who_waits_for_an_index_whose_builder_is_stopped_says_so_and_ends() {
    let runs = Runs::new("locks-index");
    let (folder, expected, calls) = before_the_index(&runs, "stopped");
    let at = 1 + calls.iter().position(|call| call.path.contains("index/index")).unwrap();
    let first = stopped_at(&runs, SHARDS.lines[5], &folder, at);
    let mut second = runs.command(SHARDS.lines[6], &folder);
    let second: Finished = second.env("TWOTOWER_STALL_TIMEOUT", "3s").output().unwrap().into();
    assert_eq!(second.code, 1, "{}", second.stderr);
    let pid = first.0.id();
    for says in [
        "waiting for the index in stopped/run/index, held by process ",
        &format!("It is stopped: `kill -CONT {pid}` lets it go on."),
        // The first of the two parts of shard 1/2.
        "recall shard 2/4: the index: no progress for 3 s",
        &format!("waiting for process {pid}, for "),
    ] {
        assert!(second.stderr.contains(says), "expected `{says}` in\n{}", second.stderr);
    }
    goes_on(first);
    runs.complete(&SHARDS.lines[6..], &folder);
    faults::assert_same(&folder.join("run"), &expected, "a builder that was stopped");
}

#[test]
fn who_waits_for_an_index_that_takes_long_waits_for_as_long_as_its_builder_works() {
    let runs = Runs::new("locks-slow-index");
    let (folder, expected, _) = before_the_index(&runs, "slow");
    let path = folder.join("run/index/.lock");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut lock = File::options().create(true).append(true).open(&path).unwrap();
    lock.lock().unwrap();
    // This process is the builder.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let holder = serde_json::json!({ "pid": std::process::id(), "host": host.trim(), "since": 1, "command": "slow" });
    writeln!(lock, "{holder}").unwrap();
    let mut waits = runs.command(SHARDS.lines[5], &folder);
    waits.env("TWOTOWER_STALL_TIMEOUT", "3s").stdout(Stdio::null());
    let mut waits = Guarded(waits.spawn().unwrap());
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(8) {
        assert!(waits.0.try_wait().unwrap().is_none(), "it did not wait");
        for n in 0..1_000_000 {
            std::hint::black_box(n);
        }
    }
    drop(lock);
    assert!(waits.end().success());
    runs.complete(&SHARDS.lines[6..], &folder);
    faults::assert_same(&folder.join("run"), &expected, "an index that took long");
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
