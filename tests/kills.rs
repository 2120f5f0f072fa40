//! A run that is killed, at each durable call or at any moment: what is complete stays, nothing is partial, and the
//! same command finishes with the bytes of a run that nobody disturbed.

mod faults;
mod fixture;

use faults::{ALL, Call, Ended, FUSED, Fault, NIGHT, Outputs, Runs, SHARDS, Scenario, Trial, UPDATE};
use fixture::mixed;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;

/// Checks what a killed command left, gives it and those after it again, and checks what they made of it.
fn recovers(runs: &Runs, scenario: Scenario, line: usize, folder: &Path, expected: &Outputs, after: &str) {
    faults::assert_nothing_partial(folder, expected);
    let run = folder.join("run");
    let finished = faults::finished(&run, expected);
    runs.complete(&scenario.lines[line..], folder);
    faults::assert_not_redone(&run, &finished, expected, after);
    faults::assert_same(&run, expected, after);
    faults::assert_nothing_partial(folder, expected);
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    let names = if scenario.name == SHARDS.name { vec!["run"] } else { vec!["latest", "run"] };
    let mut left: Vec<_> = left.iter().map(|name| name.to_str().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, names, "{after}: left beside the run");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Kills the command at a durable call; the commands before it are done.
fn killed_at(runs: &Runs, scenario: Scenario, Trial { line, fault }: Trial, expected: &Outputs) {
    let folder = runs.folder(&format!("{}-{line}-{}-{}", scenario.name, fault.action, fault.at), false);
    runs.complete(&scenario.lines[..line], &folder);
    let Ended { signal, calls, finished } = faults::run(runs.command(scenario.lines[line], &folder), fault, &folder);
    let after = format!("{}, {} {} {:?}", scenario.lines[line], fault.action, fault.at, calls.get(fault.at - 1));
    assert!(signal == Some(SIGKILL) && calls.len() >= fault.at, "{after}\n{}", finished.stderr);
    recovers(runs, scenario, line, &folder, expected, &after);
}

/// Kills a scenario at `n` durable calls of it, or at all of them in the long form; returns how often.
fn killed_at_calls(runs: &Runs, scenario: Scenario, n: usize) -> usize {
    let (expected, calls) = runs.reference(scenario, false);
    let all: usize = calls.iter().map(Vec::len).sum();
    // After a call is not the same as before the next one where threads work side by side.
    let mut kills = faults::trials(scenario, &calls, n, &["kill-before", "kill-after"]);
    // Nobody looks for leftovers in a stage whose manifest has its name.
    for (line, of_line) in calls.iter().enumerate() {
        let named = |call: &Call| call.name == "rename" && call.path.ends_with(".json");
        for (_, at) in of_line.iter().zip(1..).filter(|(call, _)| named(call)) {
            let kill = Trial { line, fault: Fault { action: "kill-after", at } };
            if !kills.contains(&kill) {
                kills.push(kill);
            }
        }
    }
    faults::in_parallel(&kills, |kill| killed_at(runs, scenario, *kill, &expected));
    println!("{}: {all} durable calls, {} kills, nothing lost", scenario.name, kills.len());
    kills.len()
}

#[test]
fn parts_of_another_number_are_removed_only_once_latest_is_withdrawn() {
    let runs = Runs::new("kills-parts");
    let (expected, _) = runs.reference(NIGHT, false);
    let started = |at: usize| {
        let folder = runs.folder(&format!("parts-{at}"), false);
        runs.complete(NIGHT.lines, &folder);
        let line = "infer --run RUN --side user --shard 0/2 --force";
        let ended = faults::run(runs.command(line, &folder), Fault { action: "kill-before", at }, &folder);
        faults::assert_nothing_partial(&folder, &expected);
        ended.calls
    };
    let calls = started(0);
    let removed = calls.iter().position(|call| call.name == "unlink" && call.path.ends_with("of-00001.json")).unwrap();
    faults::in_parallel(&(removed - 2..=removed + 6).collect::<Vec<_>>(), |at| _ = started(*at));
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

/// Goes on with a scenario from one of its commands and kills it after `moment`, wherever it then is; returns the
/// command, or none if all were done by then.
fn killed_after(runs: &Runs, scenario: Scenario, from: usize, folder: &Path, moment: Duration) -> Option<usize> {
    let started = Instant::now();
    for (number, line) in scenario.lines.iter().enumerate().skip(from) {
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
                return Some(number);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    None
}

#[test]
fn nights_killed_at_any_moment_finish_to_the_same_bytes() {
    let runs = Runs::new("kills-moments");
    let (mut kills, mut late) = (0, 0);
    for scenario in if faults::long() { &ALL[..] } else { &[FUSED, UPDATE, SHARDS] } {
        let (expected, _) = runs.reference(*scenario, false);
        let whole = {
            let (folder, started) = (runs.folder("whole", false), Instant::now());
            runs.complete(scenario.lines, &folder);
            started.elapsed()
        };
        let trials: Vec<usize> = (0..if faults::long() { 25 } else { 3 }).collect();
        let counts = faults::in_parallel(&trials, |trial| {
            let folder = runs.folder(&format!("moment-{}-{trial}", scenario.name), false);
            let mut after = scenario.name.to_string();
            let (mut hit, mut line) = (0, 0);
            // Up to three kills before the run is let alone: the second and third hit one that resumes.
            for kill in 0..1 + trial % 3 {
                let share = (mixed(trial * 3 + kill, scenario.name.len()) % 1000) as u32;
                let moment = whole * share / 1000;
                let killed = killed_after(&runs, *scenario, line, &folder, moment);
                hit += usize::from(killed.is_some());
                line = killed.unwrap_or(scenario.lines.len() - 1);
                after += &format!(", killed after {moment:?}");
            }
            recovers(&runs, *scenario, line, &folder, &expected, &after);
            (hit, 1 + trial % 3 - hit)
        });
        kills += counts.iter().map(|c| c.0).sum::<usize>();
        late += counts.iter().map(|c| c.1).sum::<usize>();
    }
    println!("{kills} kills at any moment, nothing lost; {late} came after the end");
    assert!(kills > 0);
}
