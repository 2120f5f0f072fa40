//! Runs in object stores: the same bytes as on the disk, whatever is killed, whoever else is there.

mod fixture;
#[path = "../stores/tests/servers/mod.rs"]
mod servers;

use fixture::results::{Outputs, outputs, walk};
use fixture::{Finished, Job, long, mixed};
use servers::servers;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use twotower_stores::{Condition, Store};

/// A folder of a bucket, the job whose runs stand there, and caches of several machines.
struct Place {
    job: Job,
    store: Store,
    /// Key of the folder of runs.
    runs: String,
    caches: tempfile::TempDir,
}

impl Place {
    fn new(job: Job, store: Store, name: &str) -> Self {
        let runs = format!("{}/runs", servers::folder(name));
        Self { job, store, runs, caches: tempfile::tempdir().unwrap() }
    }

    /// The URL of a run, or of the folder of runs.
    fn url(&self, run: &str) -> String {
        self.store.url(&format!("{}/{run}", self.runs)).to_string().trim_end_matches('/').to_string()
    }

    /// A command on a machine, in whose words RUN stands for a run and RUNS for its folder.
    fn command(&self, machine: &str, line: &str, run: &str) -> Command {
        let line = line.replace("RUNS", &self.url("")).replace("RUN", &self.url(run));
        let mut command = self.job.command(&line);
        command.env("TWOTOWER_CACHE", self.caches.path().join(machine));
        command
    }

    fn twotower(&self, machine: &str, line: &str, run: &str) -> Finished {
        self.command(machine, line, run).output().unwrap().into()
    }

    fn ok(&self, machine: &str, line: &str, run: &str) -> Finished {
        let finished = self.twotower(machine, line, run);
        assert_eq!(finished.code, 0, "twotower {line}\n{}", finished.stderr);
        finished
    }

    fn start(&self, machine: &str, line: &str, run: &str) -> Child {
        let mut command = self.command(machine, line, run);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Keys of a run's objects, from the run on.
    fn names(&self, run: &str) -> Vec<String> {
        let folder = format!("{}/{run}/", self.runs);
        let listed = self.store.list(&folder).unwrap();
        listed.iter().map(|object| object.url.key()[folder.len()..].to_string()).collect()
    }

    /// What a run in the store holds, as [`outputs`] has it, without what the store needs for itself.
    fn outputs(&self, run: &str) -> Outputs {
        let copy = self.download(run);
        outputs(copy.path())
    }

    fn download(&self, run: &str) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for name in self.names(run).into_iter().filter(|name| !name.starts_with('.')) {
            let path = copy.path().join(&name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let (_, bytes) = self.store.get(&format!("{}/{run}/{name}", self.runs)).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        copy
    }

    /// What `latest` says.
    fn latest(&self) -> String {
        let (_, bytes) = self.store.get(&format!("{}/latest", self.runs)).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn put(&self, name: &str, bytes: Vec<u8>) {
        self.store.put(&format!("{}/{name}", self.runs), bytes, Condition::Always).unwrap();
    }
}

/// Names of all files of the job's folder.
fn here(job: &Job) -> Vec<PathBuf> {
    walk(&job.dir)
}

/// The stores there are, by names for folders.
fn stores(name: &str) -> Vec<(String, Store)> {
    let Some(servers) = servers() else { return Vec::new() };
    let [s3, azure] = servers.both();
    vec![(format!("{name}-s3"), s3), (format!("{name}-az"), azure)]
}

fn s3(name: &str, job: impl FnOnce(&str) -> Job) -> Option<Place> {
    servers().map(|servers| Place::new(job(name), servers.s3(), name))
}

/// What the same commands leave on the disk.
fn locally(job: &Job, lines: &[&str], run: &str) -> Outputs {
    let dir = format!("runs/{run}");
    for line in lines {
        job.ok(&line.replace("RUN", &dir));
    }
    let left = outputs(&job.path(&dir));
    std::fs::remove_dir_all(job.path("runs")).unwrap();
    left
}

fn assert_same(found: &Outputs, expected: &Outputs) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differ: Vec<&PathBuf> = found.iter().filter(|(path, bytes)| expected[*path] != **bytes).map(|f| f.0).collect();
    assert!(differ.is_empty(), "{differ:?}");
}

#[test]
fn a_night_in_a_bucket_has_the_bytes_of_a_local_one_and_leaves_nothing_here_but_the_cache() {
    for (name, store) in stores("stores-night") {
        let job = Job::small(&name);
        // Azurite speaks without TLS.
        job.write(
            "pipeline.toml",
            &format!("[store]\nallow_http = true\n{}", std::fs::read_to_string(job.path("pipeline.toml")).unwrap()),
        );
        let expected = locally(&job, &["run --run RUN --quiet"], "first");
        let place = Place::new(job, store, &name);
        let before = here(&place.job);
        let said = place.ok("a", "run --run RUN --quiet", "first").stdout;
        assert!(said.contains(&format!("Published: {} names this run.", place.url("latest"))), "{said}");
        assert!(!said.contains("/tree/"), "{said}");
        assert_same(&place.outputs("first"), &expected);
        assert_eq!(place.latest(), "first\n");
        assert_eq!(here(&place.job), before, "something was left beside the job");
        assert!(place.names("first").iter().all(|name| !name.starts_with(".locks/")));

        // Another machine finds all of it current, and looks at it.
        let said = place.ok("b", "run --run RUN --json --quiet", "first").stdout;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(said["stages"].as_array().unwrap().iter().all(|stage| stage["skipped"] == true), "{said}");
        assert_eq!(said["run"], place.url("first"));
        place.ok("b", "verify RUN --require recall", "first");
        let user = fixture::user_id(3);
        for line in [
            &format!("lookup RUNS/latest --user {user}")[..],
            "runs list RUNS",
            "vocab show RUN/encoders",
            "evaluate --compare RUN RUN",
            "compare RUN",
            "doctor --run RUN",
            "similar --run RUN --output RUNS/../similar",
        ] {
            let line = line.replace("RUNS/..", &place.store.url(place.runs.trim_end_matches("/runs")).to_string());
            place.ok("b", &line, "first");
        }
        assert!(
            place
                .store
                .find(&format!("{}/similar/similar.parquet", place.runs.trim_end_matches("/runs")))
                .unwrap()
                .is_some()
        );
        assert_eq!(here(&place.job), before, "something was left beside the job");

        // The next night goes on from it, and back.
        place.ok("c", "run --run RUN --update-from previous --changed-since previous --quiet", "second");
        assert_eq!(place.latest(), "second\n");
        place.ok("b", "rollback --runs RUNS", "");
        assert_eq!(place.latest(), "first\n");
        // What changes the published run withdraws it first.
        place.ok("c", "recall --run RUN --topk 5 --quiet", "first");
        assert_eq!(place.latest(), "\n");
        place.ok("a", "publish --run RUN --set recall.topk=5", "first");
        assert_eq!(place.latest(), "first\n");
    }
}

#[test]
fn a_night_that_is_killed_again_and_again_goes_on_and_has_the_same_bytes() {
    for (form, line) in
        [("whole", "run --run RUN --quiet"), ("parts", "run --run RUN --fused --set run.part_users=40 --quiet")]
    {
        let Some(place) = s3(&format!("stores-kills-{form}"), Job::small) else { return };
        let expected = locally(&place.job, &[line], form);
        let kills = if long() { 60 } else { 6 };
        let mut killed = 0;
        for kill in 0..kills {
            // At times on another machine, which has nothing of it.
            let machine = ["a", "a", "b"][mixed(kill, 1) % 3];
            let mut child = place.start(machine, line, form);
            std::thread::sleep(Duration::from_millis((mixed(kill, 2 + form.len()) % 700) as u64));
            child.kill().unwrap();
            killed += usize::from(!child.wait().unwrap().success());
            complete_or_absent(&place, form);
        }
        place.ok("b", line, form);
        println!("{form}: {killed} of {kills} killed");
        assert_same(&place.outputs(form), &expected);
        place.ok("c", "verify RUN --require recall", form);
    }
}

/// Every manifest in the store names files that are there, of that size and content.
fn complete_or_absent(place: &Place, run: &str) {
    let copy = place.download(run);
    for path in walk(copy.path()) {
        let relative = path.strip_prefix(copy.path()).unwrap();
        let is_manifest = relative.starts_with("manifests") || path.ends_with("manifest.json");
        if !is_manifest {
            continue;
        }
        let base = if relative.starts_with("manifests") { copy.path() } else { path.parent().unwrap() };
        let manifest = twotower_artifacts::Manifest::read(&path).unwrap();
        manifest.verify_files(base).unwrap_or_else(|e| panic!("{}: {e}", relative.display()));
    }
}

#[test]
fn shards_of_several_machines_make_one_run() {
    let Some(place) = s3("stores-shards", Job::small) else { return };
    let head = ["encode-features --run RUN --quiet", "train --run RUN --quiet", "infer --run RUN --side item --quiet"];
    let shards: Vec<String> = [0, 1].map(|i| format!("--run RUN --shard {i}/2 --quiet")).to_vec();
    let stages = ["infer --side user", "recall", "recall --fused --force"];
    let lines: Vec<String> =
        stages.iter().flat_map(|stage| shards.iter().map(move |shard| format!("{stage} {shard}"))).collect();
    let all: Vec<&str> = head.iter().copied().chain(lines.iter().map(String::as_str)).collect();
    let mut locals = all.clone();
    locals.push("publish --run RUN --set recall.fused=true");
    let expected = locally(&place.job, &locals, "one");
    for line in head {
        place.ok("head", line, "one");
    }
    for stage in lines.chunks(2) {
        let mut children: Vec<(&String, Child)> =
            stage.iter().zip(["a", "b"]).map(|(line, machine)| (line, place.start(machine, line, "one"))).collect();
        for (line, child) in children.drain(..) {
            let ended = Finished::from(child.wait_with_output().unwrap());
            assert_eq!(ended.code, 0, "{line}: {}", ended.stderr);
        }
    }
    place.ok("tail", "publish --run RUN --set recall.fused=true", "one");
    assert_same(&place.outputs("one"), &expected);
    assert_eq!(place.latest(), "one\n");
    // Another number of shards is refused, whoever made the others.
    let refused = place.twotower("c", "infer --side user --run RUN --shard 0/3 --quiet", "one");
    assert!(refused.code == 4 && refused.stderr.contains("another number of shards"), "{}", refused.stderr);
}

#[test]
fn of_two_that_publish_at_once_one_wins_and_the_other_says_so() {
    let Some(place) = s3("stores-publishers", Job::small) else { return };
    place.ok("a", "run --run RUN --quiet", "base");
    for run in ["first", "second"] {
        place.ok("a", "run --run RUN --quiet --no-publish", run);
    }
    let (mut conflicts, rounds) = (0, if long() { 200 } else { 6 });
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let torn = threads.spawn(|| {
            let mut torn = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let (_, named) = place.store.get(&format!("{}/latest", place.runs)).unwrap();
                torn.extend(Some(named).filter(|b| ![&b"base\n"[..], b"first\n", b"second\n"].contains(&&b[..])));
            }
            torn
        });
        for round in 0..rounds {
            place.ok("c", "rollback --runs RUNS --to base", "");
            let children = [("a", "first"), ("b", "second")];
            let children = children.map(|(machine, run)| (run, place.start(machine, "publish --run RUN --quiet", run)));
            let ended = children.map(|(run, child)| (run, Finished::from(child.wait_with_output().unwrap())));
            let winners: Vec<&str> = ended.iter().filter(|(_, end)| end.code == 0).map(|(run, _)| *run).collect();
            assert!(!winners.is_empty(), "round {round}: {ended:?}");
            assert!(winners.contains(&place.latest().trim()), "round {round}: {} of {winners:?}", place.latest());
            for (_, end) in ended.iter().filter(|(_, end)| end.code != 0) {
                conflicts += 1;
                // The second may also find the first, which it is to be compared with, at work.
                let says = ["another process has changed it since this one looked at it", "is in use by"];
                assert!(end.code == 1 && says.iter().any(|says| end.stderr.contains(says)), "{}", end.stderr);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(torn.join().unwrap().is_empty());
    });
    println!("{rounds} rounds, {conflicts} of which had a loser");
}

#[test]
fn an_object_that_was_changed_under_the_run_is_noticed_and_made_again() {
    let Some(place) = s3("stores-changed", Job::small) else { return };
    place.ok("a", "run --run RUN --quiet", "one");
    let expected = place.outputs("one");
    for name in
        ["vectors/user/part-00000-of-00001.parquet", "towers/user_tower.onnx", "recall/part-00000-of-00001.parquet"]
    {
        let (_, bytes) = place.store.get(&format!("{}/one/{name}", place.runs)).unwrap();
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        place.put(&format!("one/{name}"), changed);
        for machine in ["a", "b"] {
            let found = place.twotower(machine, "verify RUN", "one");
            assert!(found.code == 3 && format!("{}{}", found.stdout, found.stderr).contains(name), "{name}: {found:?}");
        }
        place.ok("a", "run --run RUN --quiet", "one");
        assert_same(&place.outputs("one"), &expected);
    }
    // One that was deleted, too.
    place.store.delete(&format!("{}/one/recall/part-00000-of-00001.parquet", place.runs)).unwrap();
    assert_eq!(place.twotower("a", "verify RUN", "one").code, 4);
    place.ok("a", "run --run RUN --quiet", "one");
    assert_same(&place.outputs("one"), &expected);
}

#[test]
fn a_run_that_another_machine_works_in_is_refused_and_the_lock_of_a_dead_process_is_none() {
    let Some(place) = s3("stores-locks", Job::small) else { return };
    place.ok("a", "encode-features --run RUN --quiet", "one");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let here = format!("{} {}", boot.trim(), std::fs::read_link("/proc/self/ns/pid").unwrap().display());
    let holder = |host: &str, machine: &str, pid: u32| {
        let holder =
            serde_json::json!({ "pid": pid, "host": host, "since": 1_800_000_000u64, "command": "twotower x" });
        serde_json::json!({ "holder": holder, "machine": machine, "renewals": 3 }).to_string().into_bytes()
    };
    // No process has this number: it is above the largest there can be.
    place.put("one/.locks/sole-1.json", holder("here", &here, 4_194_305));
    place.ok("a", "encode-features --run RUN --quiet", "one");
    assert!(place.names("one").iter().all(|name| !name.starts_with(".locks/")), "the dead process's lock stays");
    for (kind, lines) in [
        ("sole", &["encode-features --run RUN --force", "infer --run RUN --side item", "run --run RUN"][..]),
        ("shared", &["encode-features --run RUN --force", "run --run RUN"]),
    ] {
        let key = format!("one/.locks/{kind}-1.json");
        place.put(&key, holder("elsewhere", "another", 7));
        let before = place.outputs("one");
        for line in lines {
            let refused = place.twotower("a", line, "one");
            assert_eq!(refused.code, 1, "{line}: {}", refused.stderr);
            for says in ["/one is in use by process 7 on elsewhere (`twotower x`", "120 s"] {
                assert!(refused.stderr.contains(says), "{line}: expected `{says}` in {}", refused.stderr);
            }
        }
        assert_same(&place.outputs("one"), &before);
        if kind == "shared" {
            place.ok("a", "verify RUN", "one");
        }
        place.store.delete(&format!("{}/{key}", place.runs)).unwrap();
    }
    if long() {
        // A holder that nobody renews is taken for dead.
        place.put("one/.locks/sole-1.json", holder("elsewhere", "another", 7));
        std::thread::sleep(Duration::from_secs(125));
        place.ok("a", "encode-features --run RUN --quiet", "one");
    }
}

#[test]
fn old_runs_are_pruned_and_a_prune_that_was_killed_is_ended_by_the_next() {
    let Some(place) = s3("stores-prune", Job::small) else { return };
    for run in ["one", "two", "three"] {
        place.ok("a", "run --run RUN --quiet", run);
    }
    let would = place.ok("b", "runs prune RUNS --keep 1 --dry-run", "").stdout;
    assert!(would.contains("would remove one") && would.contains("would remove two"), "{would}");
    // A run that is being removed is none, whatever is left of it.
    place.put(".pruned-one", b"\n".to_vec());
    let listed = place.ok("b", "runs list RUNS", "").stdout;
    assert!(!listed.contains("one") && listed.contains("two"), "{listed}");
    let refused = place.twotower("b", "run --run RUN", "one");
    assert!(refused.code == 4 && refused.stderr.contains("being removed"), "{}", refused.stderr);
    let pruned = place.ok("b", "runs prune RUNS --keep 1", "").stdout;
    assert!(pruned.contains("removed two"), "{pruned}");
    assert_eq!((place.names("one").len(), place.names("two").len()), (0, 0));
    assert!(place.store.find(&format!("{}/.pruned-one", place.runs)).unwrap().is_none());
    place.ok("a", "verify RUNS/latest", "");
    assert_eq!(place.latest(), "three\n");
}

#[test]
fn the_cache_stays_near_its_limit_and_the_results_are_the_same() {
    let Some(place) = s3("stores-limit", |name| {
        let job = Job::empty(name);
        job.ok("demo demo --users 20000 --quiet");
        job
    }) else {
        return;
    };
    let line = "run --config demo/pipeline.toml --run RUN --set run.part_users=4000 --quiet";
    let expected = locally(&place.job, &[line], "one");
    let mut command = place.command("a", &format!("{line} --cache-limit 5MiB"), "one");
    let most = std::sync::atomic::AtomicU64::new(0);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = loop {
        most.fetch_max(taken(&place.caches.path().join("a")), Ordering::Relaxed);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(status.success());
    assert_same(&place.outputs("one"), &expected);
    let after = taken(&place.caches.path().join("a"));
    println!("cache: at most {}, {after} in the end", most.load(Ordering::Relaxed));
    // What is being written and what is in use come on top of it.
    assert!(after < 6 << 20, "{after}");
    let whole: usize = expected.values().map(Vec::len).sum();
    assert!(whole > 15 << 20, "{whole}");
}

/// What the files of a folder take on the disk.
fn taken(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // The link `latest` leads to the same files once more.
    let found = walk(dir).into_iter().filter_map(|path| path.metadata().ok());
    let sizes: BTreeMap<u64, u64> = found.map(|found| (found.ino(), found.blocks() * 512)).collect();
    sizes.values().sum()
}

#[test]
fn a_url_where_none_can_be_is_refused_and_makes_no_folder() {
    let job = Job::small("stores-refused");
    let before = here(&job);
    for (line, code, says) in [
        ("run --run s3://bucket", 2, "whole bucket"),
        ("run --run ftp://host/x", 2, "expected s3://"),
        ("synth s3://bucket/data --users 10", 1, "found a URL"),
        ("demo s3://bucket/demo --users 100", 1, "found a URL"),
    ] {
        job.refused(line, code, &[says]);
    }
    assert_eq!(here(&job), before);
}
