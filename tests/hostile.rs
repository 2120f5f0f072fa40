//! What stands around the process: logs and results that cannot be written, threads that cannot be started, limits of
//! the system, files planted by others, and text from data that would steer a terminal. Each is an error that says
//! what to do, or does no harm; none is a panic, a hang, or a file of somebody else overwritten.

mod faults;
mod fixture;

use faults::{Fault, Guarded};
use fixture::results::{outputs, snapshot, walk};
use fixture::{Finished, Job, in_shell};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A small job of 150 users without outputs.
fn raw() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| Job::small("hostile-raw"))
}

/// The same, with two runs.
fn finished() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = raw().copy("hostile");
        job.ok("run --run runs/a --quiet");
        job.ok("run --run runs/b --quiet");
        job
    })
}

/// A command under `script`, which runs it as `"$0" "$@"`; ended after a minute.
fn shell(job: &Job, line: &str, script: &str) -> Finished {
    let script = script.replace("RUN", "timeout -s KILL 60 \"$0\" \"$@\"");
    in_shell(&job.command(line), &script).output().unwrap().into()
}

fn assert_no_panic(done: &Finished, what: &str) {
    assert!(!done.stderr.contains("panicked") && ![-1, 101, 134, 137].contains(&done.code), "{what}: {done:?}");
}

#[test]
fn a_log_that_cannot_be_written_does_not_end_the_night_and_is_told() {
    let job = raw().copy("hostile-log");
    job.ok("run --run good/run --quiet");
    let expected = outputs(&job.path("good/run"));
    let cases = [
        ("full", "RUN 2>/dev/full"),
        ("json", "RUN --log-format json 2>/dev/full"),
        // A reader that has gone.
        ("pipe", "{ RUN 2>&1 >out.txt; echo $? >code.txt; } | true; cat out.txt; exit $(cat code.txt)"),
    ];
    for (name, script) in cases {
        let done = shell(&job, &format!("run --run {name}/run"), script);
        assert_eq!(done.code, 0, "{name}: {done:?}");
        assert!(done.stdout.contains("lines of the log could not be written"), "{name}: {}", done.stdout);
        assert!(outputs(&job.path(&format!("{name}/run"))) == expected, "{name}");
        assert!(job.path(&format!("{name}/latest")).is_symlink(), "{name}");
    }
    let done = shell(&job, "run --run wordy/run --json --log-level trace", "RUN 2>/dev/full");
    let stages: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(stages["stages"][0]["log_lines_lost"].as_u64().unwrap() > 0, "{stages}");
    // An error that cannot be said is still an exit code.
    assert_eq!(shell(&job, "train --run nowhere", "RUN 2>/dev/full").code, 1);
}

#[test]
fn results_that_cannot_be_written_end_no_work_and_are_an_error_after_it() {
    let job = raw().copy("hostile-stdout");
    let full = "RUN >/dev/full";
    let done = shell(&job, "run --run a/run --quiet", full);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("write to standard output: No space left on device"), "{}", done.stderr);
    assert!(job.path("a/latest").is_symlink(), "the night ended with its report");
    // Who reads the first line only, and goes.
    let script = "{ RUN; echo $? >code.txt; } | head -n 1; exit $(cat code.txt)";
    let done = shell(&job, "run --run b/run --quiet", script);
    assert!(done.code == 0 && done.stdout.lines().count() == 1 && !done.stderr.contains("error"), "{done:?}");
    assert!(job.path("b/latest").is_symlink(), "the night ended with its reader");
    for line in [
        "runs list a",
        "verify a/run",
        "verify a/run --json",
        "vocab show a/run/encoders",
        "--help",
        "doctor",
        "completions bash",
        "evaluate --compare a/run/evaluation/metrics.json b/run/evaluation/metrics.json",
        "init --users users.parquet --items items.parquet --interactions interactions.parquet",
    ] {
        for script in [full, "RUN >/dev/full 2>/dev/full", "RUN --nonsense >/dev/full 2>&1"] {
            let done = shell(&job, line, script);
            let code = if script.contains("nonsense") && line != "--help" { 2 } else { 1 };
            assert_eq!(done.code, code, "{line}, {script}: {done:?}");
            assert_no_panic(&done, line);
        }
    }
}

#[test]
fn threads_that_cannot_be_started_are_an_error_that_says_what_to_raise() {
    let job = raw().copy("hostile-threads");
    let with_threads = |line: &str, most: usize| {
        let mut command = job.command(line);
        faults::put_into(&mut command, faults::NONE, &job.dir, &job.dir.with_extension("calls"));
        command.env("FAULT_THREADS", most.to_string());
        Finished::from(in_shell(&command, "exec timeout -s KILL 60 \"$0\" \"$@\"").output().unwrap())
    };
    let (mut refused, mut passed) = (0, 0);
    // Those of the start, of queries, of streams, of training, of what syncs files.
    for most in (0..16).chain((16..40).step_by(6)) {
        let done = with_threads("run --quiet --force --set train.threads=2", most);
        assert_no_panic(&done, &format!("{most} threads"));
        match done.code {
            0 => passed += 1,
            code => {
                assert!(matches!(code, 1 | 2), "{most} threads: {done:?}");
                assert!(done.stderr.contains("thread") && done.stderr.contains("(os error 11)"), "{most}: {done:?}");
                assert!(done.stderr.contains("ulimit -u"), "{most} threads: {done:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 6 && passed > 0, "{refused} refused, {passed} passed");
    for variable in ["RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "POLARS_ASYNC_THREAD_COUNT"] {
        for value in ["many", "-1", "100000", "18446744073709551616", "1e3"] {
            let done: Finished = job.command("run --quiet").env(variable, value).output().unwrap().into();
            assert!(done.code == 2 && done.stderr.contains(&format!("{variable}={value}")), "{done:?}");
        }
    }
}

#[test]
fn limits_of_the_system_are_named_with_what_raises_them() {
    let job = raw().copy("hostile-limits");
    // 12 blocks of 512 bytes: not enough for a tower.
    let done = shell(&job, "run --run small/run --quiet", "ulimit -f 12; RUN");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("File too large") && done.stderr.contains("ulimit -f"), "{}", done.stderr);
    assert!(done.stderr.contains("small/run/"), "{}", done.stderr);
    let done = shell(&job, "synth many --users 20000 --quiet", "ulimit -f 32; RUN");
    assert!(done.code == 1 && done.stderr.contains("ulimit -f"), "{done:?}");
    for files in [6, 8, 10, 12, 14, 16] {
        let done = shell(&job, "run --run few/run --quiet --force", &format!("ulimit -n {files}; RUN"));
        assert_no_panic(&done, &format!("{files} files"));
        if done.code != 0 {
            assert!(done.stderr.contains("Too many open files"), "{files}: {done:?}");
            assert!(done.stderr.contains("ulimit -n") && done.stderr.contains(&files.to_string()), "{files}: {done:?}");
        }
    }
}

#[test]
fn a_limit_of_processor_time_ends_a_night_as_a_signal_does() {
    let job = Job::empty("hostile-cpu");
    let done = shell(&job, "demo demo --users 60000 --quiet --engine native", "ulimit -S -t 1; RUN");
    assert_eq!(done.code, 152, "{done:?}");
    assert!(done.stderr.contains("ulimit -t") && done.stderr.contains("goes on from there"), "{}", done.stderr);
}

/// Puts something that is no regular file of ours in the place of a file.
fn plant(kind: &str, path: &Path, outside: &Path) -> Option<UnixListener> {
    let _ = std::fs::remove_file(path);
    match kind {
        "fifo" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "folder" => std::fs::create_dir(path).unwrap(),
        "socket" => {
            // A socket's path is short: bind where it may be long, and move it.
            let listener = UnixListener::bind(outside.join("s")).unwrap();
            std::fs::rename(outside.join("s"), path).unwrap();
            return Some(listener);
        }
        "device" => symlink("/dev/zero", path).unwrap(),
        "link to fifo" => symlink(outside.join("fifo"), path).unwrap(),
        "dangling" => symlink(outside.join("nothing"), path).unwrap(),
        "sparse" => std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        other => panic!("{other}"),
    }
    None
}

#[test]
fn what_is_no_file_in_the_place_of_any_file_of_a_run_hangs_nothing() {
    let base = finished();
    let outside = std::env::temp_dir().join(format!("twotower-hostile-{}", std::process::id()));
    std::fs::create_dir_all(&outside).unwrap();
    assert!(Command::new("mkfifo").arg(outside.join("fifo")).status().unwrap().success());
    let root = base.path("runs/b");
    let files: Vec<PathBuf> = walk(&root).into_iter().map(|f| f.strip_prefix(&root).unwrap().to_path_buf()).collect();
    assert!(files.len() > 20, "{files:?}");
    let commands = [
        "verify runs/b",
        "runs list runs",
        "runs prune runs --keep 1 --dry-run",
        "rollback --runs runs --to b",
        "publish --run runs/b",
        "run --run runs/b",
        "run --run runs/c --update-from runs/b",
        "recall --run runs/b --topk 3",
        "evaluate --run runs/b --force",
        "vocab show runs/b/encoders user_city",
        "evaluate --compare runs/b/evaluation/metrics.json runs/b/evaluation/metrics.json",
        "train --run runs/b --from runs/b/towers",
        "infer --run runs/b --side item --force",
    ];
    let kinds: &[&str] = match fixture::long() {
        true => &["fifo", "folder", "socket", "device", "link to fifo", "dangling", "sparse"],
        false => &["fifo", "sparse", "device"],
    };
    let trials: Vec<(usize, usize)> = (0..files.len()).flat_map(|f| (0..kinds.len()).map(move |k| (f, k))).collect();
    let tried = faults::in_parallel(&trials, |(file, kind)| {
        let number = file * kinds.len() + kind;
        let mut tried = 0;
        for (turn, line) in commands.iter().enumerate() {
            // All commands in the long form, some of them for each file else; `verify` for every one.
            if !fixture::long() && turn != 0 && !(turn + number).is_multiple_of(4) {
                continue;
            }
            let job = base.copy(&format!("hostile-planted-{number}"));
            let path = job.path("runs/b").join(&files[*file]);
            let _open = plant(kinds[*kind], &path, &outside);
            let what = format!("{} is a {}: {line}", files[*file].display(), kinds[*kind]);
            let done = shell(&job, &format!("{line} --quiet"), "RUN");
            assert_no_panic(&done, &what);
            // What only a training that goes on reads is no part of a run that is done.
            let is_spare = files[*file].ends_with("key.json") || files[*file].ends_with("last.ckpt");
            if turn == 0 && !is_spare {
                assert!(matches!(done.code, 3 | 4), "{what}: {done:?}");
            }
            if done.code != 0 && turn != 1 {
                let name = files[*file].file_name().unwrap().to_str().unwrap();
                let said = format!("{}{}", done.stdout, done.stderr);
                let folder = files[*file].parent().unwrap().to_str().unwrap();
                assert!(said.contains(name) || said.contains(folder) || said.contains("runs/b"), "{what}: {done:?}");
            }
            tried += 1;
        }
        let _ = std::fs::remove_dir_all(base.dir.with_file_name(format!("hostile-planted-{number}")));
        tried
    });
    println!("{} commands on planted files", tried.iter().sum::<usize>());
    std::fs::remove_dir_all(outside).unwrap();
}

/// What it makes, as a message names it, and how it is put at a path.
type Plant<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn planted_links_at_locks_and_temporary_names_are_not_written_through() {
    let base = raw().copy("hostile-links");
    base.ok("run --run made/run --quiet");
    let victim = base.path("victim");
    let precious = || std::fs::write(&victim, "precious").unwrap();
    let line = "run --run planted/run --quiet";
    let hard = |path: &Path| std::fs::hard_link(&victim, path).unwrap();
    let soft = |path: &Path| symlink(&victim, path).unwrap();
    let plants: [Plant<'_>; 2] = [("a link", &soft), ("names", &hard)];
    for lock in ["run/.lock", ".latest.lock", "run/index/.lock"] {
        for (found, plant) in plants {
            let _ = std::fs::remove_dir_all(base.path("planted"));
            std::fs::create_dir_all(base.path("planted/run/index")).unwrap();
            precious();
            let at = base.path("planted").join(lock);
            plant(&at);
            base.refused(line, 1, &[lock, found, "rm "]);
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious", "{lock} as {found}");
            // The next step that the message names.
            std::fs::remove_file(&at).unwrap();
            base.ok(line);
        }
    }
    // Links at every name that a run will have, and at the names of its temporary files, as they come.
    std::fs::remove_dir_all(base.path("planted")).unwrap();
    precious();
    // A stranger in the place of a part is refused, and is left alone.
    let is_part = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-"));
    for file in walk(&base.path("made/run")).into_iter().filter(|file| !is_part(file)) {
        let at = base.path("planted/run").join(file.strip_prefix(base.path("made/run")).unwrap());
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(&victim, at).unwrap();
    }
    let mut child = Guarded(base.command(&format!("{line} --force")).stderr(Stdio::piped()).spawn().unwrap());
    let pid = child.0.id();
    let names =
        ["encoders/.interactions", "encoders/.manifest.json", "encoders/.encoders.json", "recall/.manifest.json"];
    while child.0.try_wait().unwrap().is_none() {
        for (name, n) in names.iter().flat_map(|name| (0..4).map(move |n| (name, n))) {
            let _ = symlink(&victim, base.path(&format!("planted/run/{name}.tmp-{pid}-{n}")));
        }
    }
    let stderr = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert!(child.end().success(), "{stderr}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    let found = outputs(&base.path("planted/run"));
    assert!(outputs(&base.path("made/run")).iter().all(|(path, bytes)| found.get(path) == Some(bytes)));
}

#[test]
fn temporary_names_cannot_be_guessed_and_those_of_the_dead_are_removed() {
    let job = raw().copy("hostile-temps");
    std::fs::create_dir_all(job.path("run/encoders")).unwrap();
    let log = job.dir.with_extension("calls");
    let calls = |at: usize| {
        let mut command = job.command("encode-features --quiet --force");
        let fault = Fault { action: "kill-before", at };
        faults::put_into(&mut command, fault, &job.dir, &log);
        let _ = std::fs::remove_file(&log);
        let _ = command.output().unwrap();
        faults::calls(&log)
    };
    let temp = |path: &str| path.rsplit_once(".tmp-").map(|(_, tail)| tail.split_once('-').unwrap().1.to_string());
    let all = calls(0);
    let numbers: Vec<u64> = all.iter().filter_map(|call| temp(&call.path)?.parse().ok()).collect();
    assert!(numbers.len() > 10 && numbers.iter().all(|n| *n > 1_000_000), "{numbers:?}");
    // Killed while files are written: the next one finds and removes what is left.
    let at = all.iter().rposition(|call| call.name.contains("sync") && temp(&call.path).is_some()).unwrap();
    calls(at + 1);
    let left = || walk(&job.path("run")).iter().filter(|f| f.to_string_lossy().contains(".tmp-")).count();
    assert!(left() > 0);
    job.ok("encode-features --quiet");
    assert_eq!(left(), 0);
    // A FIFO of such a name keeps nobody waiting.
    let fifo = job.path("run/encoders/.a.tmp-1-2");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert_eq!(shell(&job, "encode-features --force --quiet", "RUN").code, 0);
}

/// Text that would change colours, move the cursor, set a title, turn the writing around, and begin a line of its own.
const NASTY: &str = "\u{1b}[31mx\u{1b}]0;t\u{7}\u{9b}2J\u{202e}gpj\r\nerror: all fine";

fn assert_harmless(done: &Finished, what: &str) {
    for (stream, text) in [("stdout", &done.stdout), ("stderr", &done.stderr)] {
        let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(bad, None, "{what}, {stream}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: all fine")), "{what}, {stream}: {text}");
    }
}

#[test]
fn text_from_data_reaches_the_terminal_escaped_and_json_exact() {
    let job = Job::empty("hostile-text");
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let csv = |name: &str, header: &[&str], rows: &[Vec<String>]| {
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let mut text = line(header.iter().map(|h| quoted(h)).collect());
        rows.iter().for_each(|row| text.push_str(&line(row.iter().map(|c| quoted(c)).collect())));
        job.write(name, &text);
    };
    let user = |u: usize| if u == 0 { NASTY.to_string() } else { format!("用户{u}") };
    let users: Vec<Vec<String>> = (0..30).map(|u| vec![user(u), format!("{NASTY}{}", u % 3)]).collect();
    csv("users.csv", &["user", NASTY], &users);
    let items: Vec<Vec<String>> =
        (0..12).map(|i| vec![format!("{NASTY}{i}"), ["北京", "上海"][i % 2].into()]).collect();
    csv("items.csv", &["item", "place"], &items);
    let events: Vec<Vec<String>> =
        (0..150).map(|n| vec![user(n % 30), format!("{NASTY}{}", (n * 7 + n / 30) % 12), n.to_string()]).collect();
    csv("events.csv", &["user", "item", "ts"], &events);
    let init = job.twotower("init --users users.csv --items items.csv --interactions events.csv");
    assert_eq!(init.code, 0, "{init:?}");
    assert_harmless(&init, "init");
    job.write("pipeline.toml", &format!("{}\n[infer]\nengine = \"native\"\n", init.stdout));
    // The job that `init` wrote means the column that the table has.
    let gates = "--set gates.off=[\"coverage\",\"metric\",\"overlap\"] --set train.epochs=1 --set recall.topk=2";
    let run = job.twotower(&format!("run --run runs/a {gates}"));
    assert_eq!(run.code, 0, "{run:?}");
    assert_harmless(&run, "run");
    std::fs::rename(job.path("runs/a"), job.path("runs").join(NASTY.replace('/', ""))).unwrap();
    assert_harmless(&job.twotower("runs list runs"), "runs list");
    let name = job.twotower("runs list runs --json");
    let listed: serde_json::Value = serde_json::from_str(&name.stdout).unwrap();
    assert_eq!(listed["runs"][0]["name"], NASTY, "JSON stays exact");
    assert_harmless(&name, "runs list --json");
    job.ok(&format!("run --run runs/b --quiet {gates}"));
    let all = job.twotower("vocab show runs/b/encoders");
    assert_harmless(&all, "vocab show");
    let tables = job.json("vocab show runs/b/encoders");
    for table in tables["vocabularies"].as_array().unwrap() {
        let mut show = job.command("vocab show runs/b/encoders");
        show.arg(table["table"].as_str().unwrap());
        let shown: Finished = show.output().unwrap().into();
        assert_eq!(shown.code, 0, "{shown:?}");
        assert_harmless(&shown, "vocab show TABLE");
        let json: Finished = show.arg("--json").output().unwrap().into();
        let values: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        let text = values.to_string();
        assert!(
            text.contains("北京") || text.contains("gpj") || values["values"].as_array().unwrap().is_empty(),
            "{text}"
        );
    }
    let shown = job.twotower("vocab show runs/b/encoders item_place");
    assert!(shown.stdout.contains("北京"), "ordinary text stays: {}", shown.stdout);
    // Errors and log lines, as text and as JSON.
    let twice: Vec<Vec<String>> = (0..3).map(|_| vec![NASTY.to_string(), "x".into()]).collect();
    csv("items.csv", &["item", "place"], &twice);
    let mut arguments = vec![vec!["--nonsense", NASTY], vec!["verify", NASTY], vec!["run", "--run", "runs/c"]];
    arguments.push(vec!["run", "--run", "runs/c", "--log-format", "json"]);
    arguments.push(vec!["run", "--run", NASTY]);
    arguments.push(vec!["run", "--set", NASTY]);
    arguments.push(vec!["run", "--config", NASTY]);
    arguments.push(vec!["vocab", "show", "runs/b/encoders", NASTY]);
    for line in arguments {
        let done: Finished = job.command("").args(&line).output().unwrap().into();
        assert!(done.code != 0, "{line:?}");
        // What clap repeats of the command line may have lines of its own.
        if line[0] != "--nonsense" {
            assert_harmless(&done, &format!("{line:?}"));
        }
        assert!(!done.stderr.contains('\u{1b}'), "{line:?}: {}", done.stderr);
    }
    job.write("bad.toml", &format!("[train]\nx = \"{NASTY}"));
    let bad = job.twotower("run --config bad.toml");
    assert!(bad.code == 2, "{bad:?}");
    assert_harmless(&bad, "a job's file");
}

#[test]
fn a_model_without_room_is_refused_before_any_of_it_is_made() {
    let job = finished().copy("hostile-size");
    for set in [
        "--set model.hidden=[65536,65536,65536,65536,65536]",
        "--set train.batch_size=1048576 --set model.hidden=[65536,65536,64]",
    ] {
        job.refused(
            &format!("train --run runs/a --quiet {set}"),
            2,
            &["train: a model of", "model.hidden", "there is"],
        );
    }
    // Nothing was withdrawn for it.
    let before = snapshot(&job.path("runs/a"), &[]);
    job.refused(
        "run --run runs/a --quiet --set recall.topk=0",
        2,
        &["`recall.topk` = 0: expected a whole number from 1"],
    );
    assert!(snapshot(&job.path("runs/a"), &[]) == before);
}
