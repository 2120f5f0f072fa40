//! A run that is killed, at each durable call or at any moment: what is complete stays, nothing is partial, and the
//! same command finishes with the bytes of a run that nobody disturbed.

mod faults;
mod fixture;

use faults::{ALL, Call, Ended, FUSED, Fault, NIGHT, Outputs, Runs, SHARDS, Scenario, Trial, UPDATE};
use fixture::results::walk;
use fixture::{long, mixed};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;

/// Kills the command at a durable call; the commands before it are done.
fn killed_at(runs: &Runs, scenario: Scenario, Trial { line, fault }: Trial, expected: &Outputs) {
    let folder = runs.folder(&format!("{}-{line}-{}-{}", scenario.name, fault.action, fault.at), false);
    runs.complete(&scenario.lines[..line], &folder);
    let Ended { signal, calls, finished } = faults::run(runs.command(scenario.lines[line], &folder), fault, &folder);
    let after = format!("{}, {} {} {:?}", scenario.lines[line], fault.action, fault.at, calls.get(fault.at - 1));
    assert!(signal == Some(SIGKILL) && calls.len() >= fault.at, "{after}\n{}", finished.stderr);
    runs.recovers(scenario, line, &folder, expected, &after);
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
        assert_eq!(ended.signal, (at > 0).then_some(SIGKILL), "{at}: {}", ended.finished.stderr);
        faults::assert_nothing_partial(&folder, &expected);
        ended.calls
    };
    let calls = started(0);
    let removed = calls.iter().position(|call| call.name == "unlink" && call.path.ends_with("of-00001.json")).unwrap();
    faults::in_parallel(&(removed - 2..=removed + 6).collect::<Vec<_>>(), |at| _ = started(*at));
}

#[test]
fn a_killed_shard_goes_on_from_its_last_complete_part() {
    const CUT: &str = "--set run.part_users=200";
    let runs = Runs::new("kills-shard");
    let base = runs.folder("base", false);
    let before = ["encode-features --run RUN", "train --run RUN", "infer --run RUN --side item"];
    runs.complete(&before, &base);
    for (stage, name) in [("infer --side user", "vectors/user"), ("recall", "recall"), ("recall --fused", "recall")] {
        let line = |shard: u32| format!("{stage} --run RUN {CUT} --shard {shard}/2");
        let whole = runs.folder("whole", false);
        fixture::copy_all(&base, &whole);
        runs.complete(&[&line(0), &line(1)], &whole);
        let parts = fixture::results::files(&whole.join("run").join(name), "parquet");
        assert_eq!(parts.len(), 8, "{stage}: 1,500 users in two shards of four parts");
        let folder = runs.folder("killed", false);
        fixture::copy_all(&base, &folder);
        let ended = faults::run(runs.command(&line(0), &folder), faults::NONE, &folder);
        let manifests = (1..).zip(&ended.calls).filter(|(_, call)| {
            call.name == "rename" && call.path.contains("manifests") && call.path.ends_with("-of-00008.json")
        });
        // After the manifest of the second part.
        let at = manifests.map(|(at, _)| at).nth(1).unwrap();
        std::fs::remove_dir_all(folder.join("run")).unwrap();
        fixture::copy_all(&base, &folder);
        let killed = Fault { action: "kill-after", at };
        let ended = faults::run(runs.command(&line(0), &folder), killed, &folder);
        assert_eq!(ended.signal, Some(SIGKILL), "{stage}: {}", ended.finished.stderr);
        let complete = faults::finished(&folder.join("run"), &faults::outputs(&whole.join("run")));
        let output = runs.command(&format!("{} --json", line(0)), &folder).output().unwrap();
        assert!(output.status.success(), "{stage}: {}", String::from_utf8_lossy(&output.stderr));
        let answers = String::from_utf8(output.stdout).unwrap();
        let answers = answers.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let answers: Vec<(String, bool)> =
            answers.map(|a| (a["shard"].as_str().unwrap().to_string(), a["skipped"] == true)).collect();
        let expected = (0..4).map(|part| (format!("{part}/8"), part < 2)).collect::<Vec<_>>();
        assert_eq!(answers, expected, "{stage}");
        runs.complete(&[&line(1)], &folder);
        faults::assert_not_redone(&folder.join("run"), &complete, &faults::outputs(&whole.join("run")), stage);
        faults::assert_same(&folder.join("run"), &faults::outputs(&whole.join("run")), stage);
        if name != "recall" {
            runs.complete(&[&line(0), &line(1)], &base);
        }
    }
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

/// What stands in a folder of runs where they are not to change: its runs without locks, and the one that is
/// published.
fn published(folder: &Path) -> (Outputs, Option<Outputs>, String) {
    let outputs = |name: &str| {
        let mut outputs = faults::outputs(&folder.join(name));
        outputs.remove(Path::new(".lock"));
        outputs
    };
    let latest = std::fs::read_link(folder.join("latest")).unwrap().to_string_lossy().into_owned();
    (outputs("run"), folder.join("yesterday").exists().then(|| outputs("yesterday")), latest)
}

#[test]
fn going_back_publishing_and_pruning_are_done_or_not_done() {
    const BACK: &str = "rollback --runs FOLDER --to yesterday";
    let runs = Runs::new("kills-runs");
    let base = runs.folder("base", true);
    // Which run is older is told in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    runs.complete(NIGHT.lines, &base);
    let (complete, yesterday, _) = published(&base);
    for (name, before, line, then) in [
        ("rollback", &[][..], BACK, "yesterday"),
        ("publish", &[BACK], "publish --run RUN", "run"),
        ("prune", &[], "runs prune FOLDER --keep 1", "run"),
    ] {
        let killed = |fault: Fault| {
            let folder = runs.folder(&format!("{name}-{}-{}", fault.action, fault.at), false);
            fixture::copy_all(&base, &folder);
            runs.complete(before, &folder);
            let ended = faults::run(runs.command(line, &folder), fault, &folder);
            let what = format!("{line}, {} {:?}", fault.action, ended.calls.last());
            assert_eq!(ended.signal, (fault.at > 0).then_some(SIGKILL), "{what}: {}", ended.finished.stderr);
            // `latest` names one complete run or the other, and yesterday's is whole or not there.
            faults::assert_nothing_partial(&folder, &complete);
            let (_, there, latest) = published(&folder);
            assert!(there.is_none_or(|there| Some(&there) == yesterday.as_ref()), "{what}: yesterday's run");
            assert!(["run", "yesterday"].contains(&&latest[..]), "{what}: {latest}");
            runs.complete(&[line], &folder);
            let left = (published(&folder), faults::names(&folder));
            std::fs::remove_dir_all(&folder).unwrap();
            assert_eq!(left.0.2, then, "{what}");
            (ended.calls.len(), left, what)
        };
        let (calls, expected, _) = killed(faults::NONE);
        let kills: Vec<Fault> = ["kill-before", "kill-after"]
            .into_iter()
            .flat_map(|action| (1..=calls).map(move |at| Fault { action, at }))
            .collect();
        faults::in_parallel(&kills, |kill| {
            let (_, left, what) = killed(*kill);
            assert!(left == expected, "{what}: other than undisturbed");
        });
        println!("{name}: {calls} durable calls, {} kills, nothing lost", kills.len());
        assert!(calls >= if name == "prune" { 40 } else { 2 }, "{name}: {calls} calls");
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

/// The stage that a run is at: the first one that is not finished.
fn stage(folder: &Path) -> &'static str {
    let places = [
        ("encode-features", "encoders/manifest.json"),
        ("train", "towers/manifest.json"),
        ("infer", "manifests/vectors/item/part-00000-of-00001.json"),
        ("recall", "manifests/recall"),
        ("evaluate", "evaluation/manifest.json"),
    ];
    let run = folder.join("run");
    let done = |place: &str| match place {
        // In whatever number of parts, and with users' vectors or fused with them.
        "manifests/recall" => walk(&run.join(place)).iter().any(|path| path.extension().is_some_and(|e| e == "json")),
        _ => run.join(place).exists(),
    };
    places.iter().find(|(_, place)| !done(place)).map_or("after", |(stage, _)| stage)
}

#[test]
fn nights_killed_at_any_moment_finish_to_the_same_bytes() {
    let runs = Runs::new("kills-moments");
    let scenarios = if long() { &ALL[..] } else { &[FUSED, UPDATE, SHARDS] };
    let (mut hits, mut late) = (BTreeMap::<&str, usize>::new(), 0);
    for (number, scenario) in scenarios.iter().enumerate() {
        let (expected, _) = runs.reference(*scenario, false);
        let trials: Vec<usize> = (0..if long() { 36 } else { 3 }).collect();
        // As long as it takes beside as many others as there will be when it is killed.
        let together = faults::in_parallel(&trials[..trials.len().min(6)], |copy| {
            let (folder, started) = (runs.folder(&format!("whole-{copy}"), false), Instant::now());
            runs.complete(scenario.lines, &folder);
            started.elapsed()
        });
        let whole = together.into_iter().max().unwrap();
        let stages = faults::in_parallel(&trials, |trial| {
            let (mut folder, mut after) = (PathBuf::new(), scenario.name.to_string());
            let (mut stages, mut line, mut left) = (Vec::new(), 0, whole);
            // Up to three kills before the run is let alone: the second and third hit one that resumes.
            for kill in 0..1 + trial % 3 {
                let share = (mixed(trial * 3 + kill, number) % 1000) as u32;
                let mut moment = left * share / 1000;
                let killed = loop {
                    if kill == 0 {
                        folder = runs.folder(&format!("moment-{}-{trial}", scenario.name), false);
                    }
                    let killed = killed_after(&runs, *scenario, line, &folder, moment);
                    // A machine that is less busy than before ends the run earlier; the first kill must hit it.
                    if killed.is_some() || kill > 0 {
                        break killed;
                    }
                    moment /= 2;
                };
                left = left.saturating_sub(moment);
                stages.push(killed.map(|_| stage(&folder)));
                line = killed.unwrap_or(scenario.lines.len() - 1);
                after += &format!(", killed after {moment:?}");
            }
            runs.recovers(*scenario, line, &folder, &expected, &after);
            stages
        });
        for stage in stages.into_iter().flatten() {
            match stage {
                Some(stage) => *hits.entry(stage).or_default() += 1,
                None => late += 1,
            }
        }
    }
    let kills: usize = hits.values().sum();
    println!("{kills} kills at any moment, nothing lost; {late} came after the end; by stage: {hits:?}");
    assert!(kills >= if long() { 36 * ALL.len() } else { 9 }, "{kills} kills, {late} came after the end");
    if long() {
        assert!(hits.len() == 6, "{kills} kills: {hits:?}");
    }
}
