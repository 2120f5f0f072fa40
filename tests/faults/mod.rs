//! Faults put into the real binary from outside: a small library, loaded before it, that kills it or fails one of
//! its durable calls (see `shim.rs`). And small jobs to do it to, with checks of what is left.
#![allow(dead_code, reason = "every test file uses its own part of this module")]

pub mod training;

pub use crate::fixture::results::{Outputs, outputs};
use crate::fixture::results::{assert_intact, base_of, walk, without_times};
use crate::fixture::{Finished, Job, copy_all, long, users};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use twotower_artifacts::Manifest;

/// The library, compiled once for all test binaries.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.rs");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fault-shim");
        std::fs::create_dir_all(&folder).unwrap();
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let library = folder.join("libfaults.so");
        let changed = |path: &Path| path.metadata().and_then(|m| m.modified()).unwrap();
        if !library.exists() || changed(&library) < changed(&source) {
            let temp = folder.join("libfaults.so.new");
            let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
            let mut command = Command::new(&rustc);
            command.args(["--edition", "2021", "--crate-type", "cdylib", "-O", "-C", "panic=abort", "-o"]);
            let output = command.arg(&temp).arg(&source).output().unwrap_or_else(|e| panic!("run {rustc:?}: {e}"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            std::fs::rename(&temp, &library).unwrap();
        }
        library
    })
}

/// A durable call that the binary made: the C function, and the path below the job's folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Such as `rename`.
    pub name: String,
    /// Absolute.
    pub path: String,
}

impl Call {
    /// The name that an error about it must hold: of the final file where the call is on a temporary one, and of
    /// the folder where the file has no name.
    pub fn subject(&self) -> String {
        let path = Path::new(&self.path);
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let own = name(path);
        if own.starts_with('#') {
            return name(path.parent().unwrap());
        }
        match own.strip_prefix('.').and_then(|rest| rest.split_once(".tmp-")) {
            Some((last, _)) => last.to_string(),
            None => own,
        }
    }
}

/// Where something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What happens, as `shim.rs` names it.
    pub action: &'static str,
    /// At which call below the folder, counted from 1; 0 = none.
    pub at: usize,
}

/// No fault: calls are only counted.
pub const NONE: Fault = Fault { action: "kill-before", at: 0 };

/// How a command with a fault ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code and output.
    pub finished: Finished,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its durable calls.
    pub calls: Vec<Call>,
}

/// Loads the library before a command: a fault in calls below `dir`, which are logged to `log`.
pub fn put_into(command: &mut Command, fault: Fault, dir: &Path, log: &Path) {
    command.env("LD_PRELOAD", shim()).env("FAULT_DIR", dir.canonicalize().unwrap()).env("FAULT_LOG", log);
    command.env("FAULT_ACTION", fault.action).env("FAULT_AT", fault.at.to_string());
}

/// The calls of a log.
pub fn calls(log: &Path) -> Vec<Call> {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let parsed = text.lines().map(|line| line.split_once('\t').unwrap());
    parsed.map(|(name, path)| Call { name: name.into(), path: path.into() }).collect()
}

/// A process that is killed when a test ends before it.
pub struct Guarded(pub Child);

impl Guarded {
    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn send(&self, signal: libc::c_int) {
        crate::fixture::system::send(&self.0, signal);
    }

    /// Waits for the end.
    pub fn end(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for what must happen within a minute.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(60), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command with a fault below `dir`.
pub fn run(mut command: Command, fault: Fault, dir: &Path) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    let log = dir.with_extension("calls");
    let _ = std::fs::remove_file(&log);
    put_into(&mut command, fault, dir, &log);
    let output: Output = command.output().unwrap();
    Ended { signal: output.status.signal(), finished: output.into(), calls: calls(&log) }
}

/// Commands that together make a complete run; `RUN` stands for its folder.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// The commands.
    pub lines: &'static [&'static str],
}

/// One night, in one command.
pub const NIGHT: Scenario = Scenario { name: "night", lines: &["run --run RUN"] };

/// Users embedded on the way to their items; an index of the other kind; codes of all users.
pub const FUSED: Scenario =
    Scenario { name: "fused", lines: &["run --run RUN --fused --set index.kind=\"hnsw\" --set encode.all_users=true"] };

/// Yesterday's codes and weights, extended; users in four parts.
pub const UPDATE: Scenario =
    Scenario { name: "update", lines: &["run --run RUN --update-from earlier/run --set run.part_users=400"] };

/// Yesterday's towers as they are; without sequences, which only training makes.
pub const ADOPTED: Scenario = Scenario {
    name: "adopted",
    lines: &["run --config plain.toml --run RUN --update-from plain/run --no-train --fused"],
};

/// The night after `plain`, whose vectors and lists are taken for all users: none has changed. In four parts.
pub const CHANGED: Scenario = Scenario {
    name: "changed",
    lines: &[
        "run --config plain.toml --run RUN --update-from plain/run --no-train --changed-since plain/run --set run.part_users=400",
    ],
};

/// Every stage by itself, users in two shards, one of whose stages cuts each in two parts.
pub const SHARDS: Scenario = Scenario {
    name: "shards",
    lines: &[
        "encode-features --run RUN",
        "train --run RUN",
        "infer --run RUN --side item",
        "infer --run RUN --side user --shard 0/2",
        "infer --run RUN --side user --shard 1/2",
        "recall --run RUN --shard 0/2 --format jsonl --set run.part_users=400",
        "recall --run RUN --shard 1/2 --format jsonl --set run.part_users=400",
        "evaluate --run RUN",
    ],
};

/// A complete run that other settings change, and whose four parts give way to one.
pub const REDONE: Scenario = Scenario {
    name: "redone",
    lines: &["run --run RUN --set train.epochs=1 --set recall.topk=3 --set run.part_users=400", "run --run RUN"],
};

/// All of them.
pub const ALL: [Scenario; 7] = [NIGHT, FUSED, UPDATE, ADOPTED, CHANGED, REDONE, SHARDS];

/// A small job whose runs stand in folders of their own, `NAME/run`, each with its `latest`.
pub struct Runs {
    job: Job,
}

impl Runs {
    /// The job: the native engine, few epochs, checkpoints within them, a user for the quarantine; earlier runs in
    /// `earlier` and `plain`, and in `yesterday` one that nobody touches.
    pub fn new(name: &str) -> Self {
        let job = Job::new(name);
        let mut sheet = users();
        sheet.ints("user_id")[9] = None;
        sheet.write_parquet(&job.path("users.parquet"));
        job.edit("batch_rows = 256", "batch_rows = 500\nengine = \"native\"");
        job.edit("batch_size = 512", "batch_size = 1024\ncheckpoint_steps = 3");
        // Models of an epoch or two, one of them without its sequences, are no two nights of one job.
        let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
        job.write("pipeline.toml", &format!("{text}\n[gates]\noff = [\"overlap\", \"metric\"]\n"));
        job.ok("run --run earlier/run --set train.epochs=1 --quiet");
        // Commands lock the run that they read: what is copied meanwhile is another.
        copy_all(&job.path("earlier/run"), &job.path("yesterday"));
        let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
        let plain: Vec<&str> = text.lines().filter(|line| !line.contains("kind = \"sequence\"")).collect();
        job.write("plain.toml", &plain.join("\n"));
        job.ok("run --config plain.toml --run plain/run --set train.epochs=1 --set infer.row_hashes=true --quiet");
        Self { job }
    }

    /// The folder around a run, empty; with `yesterday`, a complete run beside it that `latest` names.
    pub fn folder(&self, name: &str, yesterday: bool) -> PathBuf {
        let dir = self.job.path(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        if yesterday {
            copy_all(&self.job.path("yesterday"), &dir.join("yesterday"));
            std::os::unix::fs::symlink("yesterday", dir.join("latest")).unwrap();
        }
        dir
    }

    /// A command of the job on the run in `folder`; `FOLDER` stands for the latter.
    pub fn command(&self, line: &str, folder: &Path) -> Command {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let line = line.replace("RUN", &format!("{name}/run")).replace("FOLDER", name);
        self.job.command(&format!("{line} --quiet"))
    }

    /// Runs commands, which must succeed.
    pub fn complete(&self, lines: &[&str], folder: &Path) {
        for line in lines {
            let finished: Finished = self.command(line, folder).output().unwrap().into();
            assert_eq!(finished.code, 0, "{line} in {}\n{}", folder.display(), finished.stderr);
        }
    }

    /// What an undisturbed run leaves, and the durable calls of each command; `yesterday` as for [`Runs::folder`].
    pub fn reference(&self, scenario: Scenario, yesterday: bool) -> (Outputs, Vec<Vec<Call>>) {
        let folder = self.folder(&format!("reference-{}", scenario.name), yesterday);
        let calls = scenario.lines.iter().map(|line| {
            let ended = run(self.command(line, &folder), NONE, &folder);
            assert_eq!(ended.finished.code, 0, "{line}\n{}", ended.finished.stderr);
            assert!(ended.calls.len() >= 10, "{line}: the library saw {} calls", ended.calls.len());
            ended.calls
        });
        let calls = calls.collect();
        (outputs(&folder.join("run")), calls)
    }

    /// Checks what a command that ended early left in `folder`, gives it (the `line`-th) and those after it again,
    /// and checks what they made of it: what was finished is not made again, the rest is as in an undisturbed run,
    /// and nothing is left beside the run. Removes the folder.
    pub fn recovers(&self, scenario: Scenario, line: usize, folder: &Path, expected: &Outputs, after: &str) {
        assert_nothing_partial(folder, expected);
        let run = folder.join("run");
        let mut names: BTreeSet<String> = names(folder).into_iter().filter(|name| name == "yesterday").collect();
        let finished = finished(&run, expected);
        self.complete(&scenario.lines[line..], folder);
        assert_not_redone(&run, &finished, expected, after);
        assert_same(&run, expected, after);
        assert_nothing_partial(folder, expected);
        names.insert("run".into());
        // Only a whole run names itself the latest.
        if scenario.lines.iter().any(|line| line.starts_with("run ")) || names.contains("yesterday") {
            names.insert("latest".into());
        }
        assert_eq!(self::names(folder), names, "{after}: left beside the run");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Starts a command with a fault that does not end it, `hang` or `stop`, at a durable call, and waits for that.
    pub fn halted_at(&self, line: &str, folder: &Path, fault: Fault) -> Guarded {
        let log = folder.with_extension("calls");
        let _ = std::fs::remove_file(&log);
        let mut command = self.command(line, folder);
        put_into(&mut command, fault, folder, &log);
        let child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let stat = format!("/proc/{}/stat", child.0.id());
        until(line, || match fault.action {
            "stop" => std::fs::read_to_string(&stat).unwrap().contains(") T "),
            _ => calls(&log).len() >= fault.at,
        });
        child
    }
}

/// Names of what a folder holds.
pub fn names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Asserts that a run is what the undisturbed one is, byte by byte.
pub fn assert_same(run: &Path, expected: &Outputs, after: &str) {
    let found = outputs(run);
    let names = |outputs: &Outputs| outputs.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected), "{after}: other files than an undisturbed run");
    for (path, bytes) in expected {
        assert!(found[path] == *bytes, "{after}: {} differs from an undisturbed run", path.display());
    }
}

/// Asserts that everything under a final name is complete, and that `latest` names nothing or a complete run.
pub fn assert_nothing_partial(folder: &Path, complete: &Outputs) {
    assert_intact(folder);
    if let Ok(target) = std::fs::read_link(folder.join("latest")) {
        let named = folder.join(&target);
        let found: Vec<PathBuf> =
            manifests(&named).into_iter().map(|(path, _)| path.strip_prefix(&named).unwrap().to_path_buf()).collect();
        if target != Path::new("run") {
            assert!(found.len() > 3, "{} is no run", named.display());
            return;
        }
        let expected: Vec<PathBuf> = complete.keys().filter(|path| is_manifest(&complete[*path])).cloned().collect();
        assert_eq!(places(&found), places(&expected), "`latest` names an incomplete run");
    }
}

/// Places of manifests: of parts that are all there, whatever their number, the folder.
fn places(manifests: &[PathBuf]) -> BTreeSet<PathBuf> {
    let count = |path: &Path| path.file_stem()?.to_str()?.rsplit_once("-of-")?.1.parse::<usize>().ok();
    let of = |path: &PathBuf| {
        let alike = manifests.iter().filter(|other| other.parent() == path.parent() && count(other) == count(path));
        let whole = count(path).is_some_and(|count| alike.count() == count);
        if whole { path.parent().unwrap().to_path_buf() } else { path.clone() }
    };
    manifests.iter().map(of).collect()
}

fn is_manifest(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|v| v.get("stage").is_some())
}

/// All manifests of stages below a folder.
fn manifests(run: &Path) -> Vec<(PathBuf, Manifest)> {
    let json = walk(run).into_iter().filter(|p| p.extension().is_some_and(|e| e == "json"));
    json.filter(|p| is_manifest(&std::fs::read(p).unwrap())).map(|p| (p.clone(), Manifest::read(&p).unwrap())).collect()
}

/// What is finished in a run, as an undisturbed one has it: every file that a manifest speaks for, and when it was
/// made.
pub fn finished(run: &Path, expected: &Outputs) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let made = |m: Metadata| (m.ino(), m.mtime(), m.mtime_nsec());
    let current = |path: &Path| expected.get(path.strip_prefix(run).unwrap()) == Some(&without_times(path));
    // The timeline is a part of the encoder folder, whose own manifest comes last and lists it too.
    let manifests = manifests(run).into_iter().filter(|(path, _)| current(path) && !path.ends_with("timeline.json"));
    let files = manifests.flat_map(|(path, manifest)| {
        let folder = base_of(&path);
        manifest.files.into_iter().map(move |file| folder.join(file.path)).chain([path])
    });
    files.map(|path| (path.clone(), made(path.metadata().unwrap()))).collect()
}

/// Asserts that what was finished is still the same files.
pub fn assert_not_redone(run: &Path, before: &BTreeMap<PathBuf, (u64, i64, i64)>, expected: &Outputs, after: &str) {
    let now = finished(run, expected);
    for (path, made) in before {
        assert_eq!(now.get(path), Some(made), "{after}: {} was finished and is made again", path.display());
    }
}

/// `n` numbers of `1..=last`, evenly spread, both ends among them; all of them in the long form.
pub fn spread(last: usize, n: usize) -> Vec<usize> {
    if long() || last <= n {
        return (1..=last).collect();
    }
    (0..n).map(|i| 1 + i * (last - 1) / (n - 1).max(1)).collect()
}

/// The results of `work` on all items, by several threads: most of a trial is waiting for the disk.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let result = work(item);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// A fault in one command of a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Which command.
    pub line: usize,
    /// What happens, and at which of its calls.
    pub fault: Fault,
}

/// Faults at `n` calls of a scenario, or at all in the long form: of several actions one in turn, or for a whole
/// night in the long form each.
pub fn trials(scenario: Scenario, calls: &[Vec<Call>], n: usize, actions: &[&'static str]) -> Vec<Trial> {
    let all: Vec<(usize, usize)> =
        calls.iter().enumerate().flat_map(|(line, of_line)| (1..=of_line.len()).map(move |at| (line, at))).collect();
    let every = long() && scenario.name == NIGHT.name;
    let mut trials = Vec::new();
    for (turn, number) in spread(all.len(), n).into_iter().enumerate() {
        let (line, at) = all[number - 1];
        let chosen = if every { actions } else { &actions[turn % actions.len()..][..1] };
        trials.extend(chosen.iter().map(|action| Trial { line, fault: Fault { action, at } }));
    }
    trials
}
