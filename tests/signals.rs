//! SIGTERM, SIGINT, SIGHUP and SIGQUIT at any moment: the process ends within five seconds with 128 and the signal's
//! number, and says how to go on,
//! and the same command then finishes with the bytes of a run that nobody stopped.

mod faults;
mod fixture;

use faults::{ALL, Fault, Guarded, NIGHT, Runs, SHARDS, Scenario};
use fixture::{Finished, long, mixed};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

const GOES_ON: &str = "the same command goes on from there";
/// From signal to end, as promised.
const WITHIN: Duration = Duration::from_secs(5);
/// Signals, and the exit code of each.
const SIGNALS: [(libc::c_int, i32); 4] =
    [(libc::SIGTERM, 143), (libc::SIGINT, 130), (libc::SIGHUP, 129), (libc::SIGQUIT, 131)];

/// Checks how a command that got a signal ended; one that was done before it looked ends well.
fn assert_stopped(finished: &Finished, code: i32, what: &str) -> bool {
    if finished.code == 0 {
        return false;
    }
    assert_eq!(finished.code, code, "{what}\n{}", finished.stderr);
    assert!(finished.stderr.contains(GOES_ON), "{what}\n{}", finished.stderr);
    true
}

/// Signals a scenario at `n` of its durable calls, which lie in all its stages; returns how many there were and how
/// many commands were stopped.
fn signalled_at_calls(runs: &Runs, scenario: Scenario, n: usize) -> (usize, usize) {
    let (expected, calls) = runs.reference(scenario, false);
    let numbered = calls.iter().enumerate();
    let signals: Vec<(usize, usize, usize)> = numbered
        .flat_map(|(line, of_line)| faults::spread(of_line.len(), n).into_iter().map(move |at| (line, at)))
        .enumerate()
        .map(|(number, (line, at))| (number, line, at))
        .collect();
    let stopped = faults::in_parallel(&signals, |(number, line, at)| {
        let (action, code) = [("term", 143), ("int", 130)][number % 2];
        let folder = runs.folder(&format!("{}-{line}-{action}-{at}", scenario.name), false);
        runs.complete(&scenario.lines[..*line], &folder);
        let ended = faults::run(runs.command(scenario.lines[*line], &folder), Fault { action, at: *at }, &folder);
        let what = format!("{}, {action} {at} {:?}", scenario.lines[*line], calls[*line][*at - 1]);
        let stopped = assert_stopped(&ended.finished, code, &what);
        runs.recovers(scenario, *line, &folder, &expected, &what);
        stopped
    });
    let (sent, stopped) = (signals.len(), stopped.into_iter().filter(|s| *s).count());
    println!("{}: {sent} signals, {stopped} commands stopped by them, nothing lost", scenario.name);
    (sent, stopped)
}

#[test]
fn a_signal_in_any_stage_stops_it_and_the_same_command_finishes_to_the_same_bytes() {
    let runs = Runs::new("signals");
    let (sent, stopped) = signalled_at_calls(&runs, NIGHT, 12);
    // All that come before the last stage does its last work.
    assert!(stopped * 10 > sent * 8, "{stopped} of {sent}");
    let others = ALL.into_iter().filter(|s| s.name != NIGHT.name && (long() || s.name == SHARDS.name));
    for scenario in others {
        let (sent, stopped) = signalled_at_calls(&runs, scenario, 4);
        // Not only those that come before any work; one that comes in a command's last batch lets it end.
        assert!(stopped > scenario.lines.len(), "{}: {stopped} of {sent}", scenario.name);
    }
}

#[test]
fn a_step_that_does_not_come_to_an_end_is_ended_within_five_seconds() {
    let runs = Runs::new("signals-hang");
    let (expected, calls) = runs.reference(NIGHT, false);
    // The thread that works hangs in the middle of each stage: on a dead network disk, say.
    let stages = ["encoders/", "towers/", "vectors/", "index/", "recall/", "evaluation/"];
    for (trial, stage) in stages.into_iter().enumerate() {
        let at = 1 + calls[0].iter().position(|c| c.name == "rename" && c.path.contains(stage)).unwrap();
        let folder = runs.folder(&format!("hang-{trial}"), false);
        let mut child = runs.halted_at(NIGHT.lines[0], &folder, Fault { action: "hang", at });
        let (signal, code) = SIGNALS[trial % SIGNALS.len()];
        let sent = Instant::now();
        child.send(signal);
        let status = child.end();
        let took = sent.elapsed();
        let stderr = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
        assert!(status.code() == Some(code) && stderr.contains(GOES_ON), "{stage}: {status}\n{stderr}");
        assert!(took < WITHIN, "{stage}: {took:?} from signal to end");
        runs.recovers(NIGHT, 0, &folder, &expected, stage);
    }
}

#[test]
fn a_second_signal_ends_a_step_at_once() {
    let runs = Runs::new("signals-twice");
    let mut child = runs.halted_at(NIGHT.lines[0], &runs.folder("twice", false), Fault { action: "hang", at: 30 });
    child.send(libc::SIGTERM);
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(stderr.any(|line| line.contains("stopping at ")), "it never noticed the first signal");
    let second = Instant::now();
    child.send(libc::SIGINT);
    let status = child.end();
    assert_eq!((status.code(), status.signal()), (Some(143), None));
    assert!(second.elapsed() < Duration::from_secs(2), "{:?}", second.elapsed());
}

#[test]
fn a_night_whose_starter_ignores_hangups_goes_on_after_one() {
    let runs = Runs::new("signals-nohup");
    let folder = runs.folder("nohup", false);
    let command = runs.command(NIGHT.lines[0], &folder);
    // As `nohup` does, and a shell with what it starts in the background.
    let mut nohup = fixture::in_shell(&command, "trap '' HUP QUIT; exec \"$0\" \"$@\"");
    let log = folder.with_extension("calls");
    faults::put_into(&mut nohup, Fault { action: "stop", at: 30 }, &folder, &log);
    let mut child = Guarded(nohup.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.0.id())).unwrap_or_default();
    faults::until("it stops", || state().contains(") T "));
    for signal in [libc::SIGHUP, libc::SIGQUIT, libc::SIGCONT] {
        child.send(signal);
    }
    let status = child.end();
    let stderr = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{stderr}");
}

/// Stages long enough to be hit anywhere: long reads, joins, training, search.
#[test]
fn a_signal_at_any_moment_of_a_longer_night_ends_it_within_five_seconds() {
    if !long() {
        return;
    }
    let job = fixture::Job::empty("signals-moments");
    job.ok("synth data --users 400000 --items 3000 --quiet");
    job.ok(
        "init --users data/users --items data/items.parquet --interactions data/interactions --output pipeline.toml",
    );
    let line = "run --run RUN/run --set infer.engine=\"native\" --set train.epochs=1 --quiet";
    let started = Instant::now();
    job.ok(&line.replace("RUN", "whole"));
    let whole = started.elapsed();
    let expected = faults::outputs(&job.path("whole/run"));
    let (mut stopped, mut longest) = (0, Duration::ZERO);
    for trial in 0..30 {
        let line = line.replace("RUN", "trial");
        let _ = std::fs::remove_dir_all(job.path("trial"));
        std::fs::create_dir(job.path("trial")).unwrap();
        let mut child = Guarded(job.command(&line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        std::thread::sleep(whole * (mixed(trial, 5) % 950) as u32 / 1000 + Duration::from_millis(100));
        let (signal, code) = SIGNALS[trial % SIGNALS.len()];
        let sent = Instant::now();
        child.send(signal);
        let status = child.end();
        longest = longest.max(sent.elapsed());
        let stderr = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
        assert!(longest < WITHIN, "{longest:?} from signal to end\n{stderr}");
        let finished = Finished { code: status.code().unwrap_or(-1), stdout: String::new(), stderr };
        stopped += usize::from(assert_stopped(&finished, code, &line));
        faults::assert_nothing_partial(&job.path("trial"), &expected);
        if trial % 5 == 0 {
            job.ok(&line);
            faults::assert_same(&job.path("trial/run"), &expected, &line);
        }
    }
    println!("{stopped} of 30 signals stopped a night of {whole:?}; the longest took {longest:?}");
    assert!(stopped > 20);
}
