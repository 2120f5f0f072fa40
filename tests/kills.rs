//! A run that is killed, at each durable call or at any moment: what is complete stays, nothing is partial, and the
//! same command finishes with the bytes of a run that nobody disturbed.

mod faults;
mod fixture;

use faults::{ALL, Ended, FUSED, Fault, NIGHT, Outputs, Runs, SHARDS, Scenario, UPDATE};
use fixture::mixed;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;

/// Checks what a killed run left, gives the same commands again, and checks what they made of it.
fn recovers(runs: &Runs, scenario: Scenario, folder: &Path, expected: &Outputs, after: &str) {
    faults::assert_nothing_partial(folder, expected);
    let run = folder.join("run");
    let finished = faults::finished(&run);
    runs.complete(scenario, folder);
    faults::assert_not_redone(&run, &finished, after);
    faults::assert_same(&run, expected, after);
    faults::assert_nothing_partial(folder, expected);
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    let names = if scenario.lines.len() == 1 { vec!["latest", "run"] } else { vec!["run"] };
    let mut left: Vec<_> = left.iter().map(|name| name.to_str().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, names, "{after}: left beside the run");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Kills the command at a durable call; the commands before it are done.
fn killed_at(runs: &Runs, scenario: Scenario, line: usize, fault: Fault, expected: &Outputs) {
    let folder = runs.folder(&format!("{}-{line}-{}-{}", scenario.name, fault.action, fault.at), false);
    for done in &scenario.lines[..line] {
        assert!(runs.command(done, &folder).status().unwrap().success());
    }
    let Ended { signal, calls, finished } = faults::run(runs.command(scenario.lines[line], &folder), fault, &folder);
    let last = calls.last().unwrap();
    let after = format!("{}, {} {} {} `{}`", scenario.lines[line], fault.action, fault.at, last.name, last.path);
    assert_eq!((signal, calls.len()), (Some(SIGKILL), fault.at), "{after}\n{}", finished.stderr);
    recovers(runs, scenario, &folder, expected, &after);
}

/// Kills a scenario at `n` durable calls of it, or at all of them in the long form; returns how often.
fn killed_at_calls(runs: &Runs, scenario: Scenario, n: usize) -> usize {
    let (expected, calls) = runs.reference(scenario);
    let all: usize = calls.iter().map(Vec::len).sum();
    let mut kills = 0;
    for number in faults::spread(all, n) {
        let (mut line, mut at) = (0, number);
        while at > calls[line].len() {
            at -= calls[line].len();
            line += 1;
        }
        // In the short form, every other kill comes after the call, which is not the same as before the next one
        // where threads work side by side.
        let actions: &[&str] = if faults::long() { &["kill-before", "kill-after"] } else { &["kill-before"] };
        for action in actions {
            let action = if !faults::long() && kills % 2 == 1 { "kill-after" } else { action };
            killed_at(runs, scenario, line, Fault { action, at }, &expected);
            kills += 1;
        }
    }
    println!("{}: {all} durable calls, {kills} kills, nothing lost", scenario.name);
    kills
}

#[test]
fn a_night_killed_at_its_durable_calls_finishes_to_the_same_bytes() {
    assert!(killed_at_calls(&Runs::new("kills-night"), NIGHT, 24) >= 24);
}

#[test]
fn other_forms_of_a_night_killed_at_durable_calls_finish_to_the_same_bytes() {
    let runs = Runs::new("kills-forms");
    for scenario in ALL.into_iter().filter(|s| s.name != NIGHT.name) {
        assert!(killed_at_calls(&runs, scenario, 8) >= 8);
    }
}

/// Starts a scenario and kills it after `moment`, wherever it then is; returns whether it was still running.
fn killed_after(runs: &Runs, scenario: Scenario, folder: &Path, moment: Duration) -> bool {
    let started = Instant::now();
    for line in scenario.lines {
        let mut command: Command = runs.command(line, folder);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{line}: {status}");
                break;
            }
            if started.elapsed() >= moment {
                child.kill().unwrap();
                child.wait().unwrap();
                return true;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    false
}

#[test]
fn nights_killed_at_any_moment_finish_to_the_same_bytes() {
    let runs = Runs::new("kills-moments");
    let (mut kills, mut late) = (0, 0);
    for scenario in if faults::long() { &ALL[..] } else { &[FUSED, UPDATE, SHARDS] } {
        let (expected, _) = runs.reference(*scenario);
        let whole = {
            let (folder, started) = (runs.folder("whole", false), Instant::now());
            runs.complete(*scenario, &folder);
            started.elapsed()
        };
        for trial in 0..if faults::long() { 50 } else { 2 } {
            let folder = runs.folder(&format!("moment-{}-{trial}", scenario.name), false);
            let mut after = scenario.name.to_string();
            // Up to three kills before the run is let alone: the second and third hit one that resumes.
            for kill in 0..1 + trial % 3 {
                let share = (mixed(trial * 3 + kill, scenario.name.len()) % 1000) as u32;
                let moment = whole * share / 1000;
                match killed_after(&runs, *scenario, &folder, moment) {
                    true => kills += 1,
                    false => late += 1,
                }
                after += &format!(", killed after {moment:?}");
            }
            recovers(&runs, *scenario, &folder, &expected, &after);
        }
    }
    println!("{kills} kills at any moment, nothing lost; {late} came after the end");
    assert!(kills > late, "{kills} kills, {late} after the end");
}
