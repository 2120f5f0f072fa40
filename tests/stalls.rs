//! No hang: a stage that stands still ends with what each thread was doing, and the same command then finishes with
//! the bytes of a run that never stood still. One that was stopped and goes on is left alone.

mod faults;
mod fixture;

use faults::{Call, Fault, Guarded, NIGHT, Runs, Scenario};
use fixture::{Finished, Job};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The timeout of these tests: more than a call that does come back takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What may pass on a busy machine until a stage comes to where it stands still, and is ended.
const GENEROUS: Duration = Duration::from_secs(60);

/// A night whose lists are written on the way: the other formats wait for a row group.
const LINES: Scenario = Scenario { name: "lines", lines: &["run --run RUN --set recall.format=\"jsonl\""] };

/// Runs a command that must end, by the watchdog, with all of `says`; returns what it said.
fn assert_stalls(mut command: Command, says: &[&str], what: &str) -> String {
    let command = command.env("TWOTOWER_STALL_TIMEOUT", format!("{}s", TIMEOUT.as_secs()));
    let started = Instant::now();
    let mut child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < GENEROUS, "{what}: it hangs");
        std::thread::sleep(Duration::from_millis(20));
    };
    let took = started.elapsed();
    let stderr = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(1), "{what}: {status}\n{stderr}");
    assert!(took >= TIMEOUT, "{what}: ended after {took:?}");
    let stalled = format!("no progress for {} s", TIMEOUT.as_secs());
    let always = [&stalled, "the same command goes on from there", "What each thread was doing:"];
    for text in always.iter().chain(says) {
        assert!(stderr.contains(text), "{what}: expected `{text}` in\n{stderr}");
    }
    stderr
}

/// The number of the first call of a log, counted from 1, that is `name` on a path with `part`.
fn call(calls: &[Call], name: &str, part: &str) -> usize {
    1 + calls.iter().position(|c| c.name == name && c.path.contains(part)).unwrap_or_else(|| panic!("{name} {part}"))
}

#[test]
fn a_call_that_never_comes_back_ends_any_stage_with_the_thread_that_made_it() {
    let runs = Runs::new("stalls-calls");
    let (expected, calls) = runs.reference(LINES, false);
    // By the thread that works alone, and by the writers of streams.
    let places = [
        ("rename", "encoders/users.parquet", ["main (", "in encode-features, for "]),
        ("rename", "checkpoints/last.ckpt", ["train: training: no progress", "in training step "]),
        ("write", "vectors/user", ["main (", "in infer user shard 0/1, for "]),
        ("fsync", "index/", ["main (", "in the index, for "]),
        ("write", "recall/.part", ["recall-write (", "writing batch "]),
        ("rename", "evaluation/", ["main (", "in evaluate, for "]),
    ];
    for (trial, (name, part, says)) in places.into_iter().enumerate() {
        let at = call(&calls[0], name, part);
        let what = format!("{name} {part}, call {at}");
        let folder = runs.folder(&format!("hang-{trial}"), false);
        let mut command = runs.command(LINES.lines[0], &folder);
        faults::put_into(&mut command, Fault { action: "hang", at }, &folder, &folder.with_extension("calls"));
        let said = assert_stalls(command, &says, &what);
        println!("{what}:\n{said}");
        runs.recovers(LINES, 0, &folder, &expected, &what);
    }
}

#[test]
fn a_table_that_falls_silent_ends_the_stage_with_the_thread_that_reads_it() {
    let runs = Runs::new("stalls-reads");
    let (expected, _) = runs.reference(NIGHT, false);
    // The first stage reads users in its workers, the later ones in a thread of its own.
    let whole = runs.folder("reads", false);
    let read = |line: &str, at: usize, says: &[&str]| {
        let mut command = runs.command(line, &whole);
        faults::put_into(&mut command, faults::NONE, &whole, &whole.with_extension("calls"));
        command.env("FAULT_SILENT", "/users.parquet").env("FAULT_SILENT_AT", at.to_string());
        let said = assert_stalls(command, says, line);
        println!("{line}:\n{said}");
    };
    let on_pipe = "system call read on pipe:";
    read("encode-features --run RUN", 30, &["encode-features-work-", "working on batch ", on_pipe]);
    read("encode-features --run RUN", 1, &["main (", on_pipe]);
    for line in ["encode-features --run RUN", "train --run RUN"] {
        assert!(runs.command(line, &whole).status().unwrap().success());
    }
    read("infer --run RUN --side user", 80, &["infer-read (", "reading batch ", on_pipe]);
    runs.recovers(NIGHT, 0, &whole, &expected, "silent users");
}

#[test]
fn a_table_that_is_a_pipe_is_refused_before_anything_is_read() {
    let job = Job::new("stalls-pipe");
    assert!(Command::new("mkfifo").arg(job.path("endless.csv")).status().unwrap().success());
    let started = Instant::now();
    job.refused("encode-features --set tables.users.path=\"endless.csv\"", 3, &["endless.csv", "FIFO"]);
    assert!(started.elapsed() < GENEROUS);
}

#[test]
fn a_process_that_was_stopped_for_longer_goes_on() {
    let runs = Runs::new("stalls-stopped");
    let (expected, calls) = runs.reference(NIGHT, false);
    for (trial, (name, part)) in [("write", "vectors/user"), ("rename", "encoders/users")].into_iter().enumerate() {
        let folder = runs.folder(&format!("stopped-{trial}"), false);
        let line = format!("{} --stall-timeout {}s", NIGHT.lines[0], TIMEOUT.as_secs());
        let fault = Fault { action: "stop", at: call(&calls[0], name, part) };
        let mut child = runs.halted_at(&line, &folder, fault);
        std::thread::sleep(2 * TIMEOUT);
        child.send(libc::SIGCONT);
        let status = child.end();
        let mut stderr = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert!(status.success(), "{name} {part}: {status}\n{stderr}");
        faults::assert_same(&folder.join("run"), &expected, "stopped and continued");
    }
}

#[test]
fn a_timeout_of_zero_waits_and_nonsense_is_refused() {
    let job = Job::new("stalls-usage");
    for text in ["soon", "0.2s", "-3"] {
        let refused: Finished = job.command("run").arg(format!("--stall-timeout={text}")).output().unwrap().into();
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains("--stall-timeout") && refused.stderr.contains("10m"), "{}", refused.stderr);
    }
    // No watchdog: a hang stays one, for longer than the shortest timeout.
    std::fs::create_dir(job.path("off")).unwrap();
    let mut command = job.command("encode-features --run off/run --stall-timeout 0 --quiet");
    command.env("TWOTOWER_STALL_TIMEOUT", "1s");
    let log = job.path("off.calls");
    faults::put_into(&mut command, Fault { action: "hang", at: 5 }, &job.path("off"), &log);
    let mut child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    faults::until("a call that hangs", || faults::calls(&log).len() >= 5);
    std::thread::sleep(TIMEOUT);
    assert!(child.0.try_wait().unwrap().is_none(), "it has ended");
}
