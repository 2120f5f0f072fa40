//! Memory stays under the budget whatever the number of rows: under a limit of the kernel at that budget nothing is
//! killed, and a budget that is too small is refused with one that does.

mod fixture;

use fixture::{Finished, Job, in_shell, not_tested};
use std::fs::{create_dir, read_to_string, remove_dir, write};
use std::path::{Path, PathBuf};
use std::process::Command;
use twotower_models::engine::{EncoderSize, EngineKind, encoder_bytes};
use twotower_models::tower::ligr::BlockShape;

/// Users of the smallest table; the others have ten and a hundred times as many.
const USERS: u64 = 5000;
/// The budget that every size works in, in MiB.
const BUDGET: u64 = 160;
/// Address space beside the budget where only that can be limited: libraries, stacks, arenas not yet used.
const ADDRESSES: u64 = 2048;
const TOWERS: &str = "--set infer.engine=\"native\" --set model.embedding_dim=8 --set model.hidden=[16,8]";

/// One epoch on few buyers makes no good model; what gates measure is measured all the same.
const ACCEPTED: &str = "--accept metric --accept coverage --accept unknown";

/// What the kernel holds a process to.
enum Limit {
    /// A control group of its own: resident memory, and the page cache that it cannot give back.
    Group { dir: PathBuf, file: &'static str },
    /// The address space, in which only a part is ever used: a much weaker limit.
    Addresses,
}

impl Limit {
    /// A control group if one can be made here, version 1 or 2.
    fn new(name: &str) -> Self {
        let name = format!("twotower-test-{name}-{}", std::process::id());
        let roots = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, file) in roots {
            let dir = Path::new(root).join(&name);
            if Path::new(root).join("cgroup.procs").exists() && create_dir(&dir).is_ok() {
                let limit = Limit::Group { dir, file };
                if limit.set(BUDGET) {
                    return limit;
                }
            }
        }
        not_tested("no control group can be made here: the address space is limited instead");
        Limit::Addresses
    }

    fn set(&self, mib: u64) -> bool {
        match self {
            Limit::Group { dir, file } => write(dir.join(file), (mib << 20).to_string()).is_ok(),
            Limit::Addresses => true,
        }
    }

    /// Runs a command within so many MiB.
    fn run(&self, command: Command, mib: u64) -> Finished {
        assert!(self.set(mib));
        let enter = match self {
            Limit::Group { dir, .. } => format!("echo $$ > {}/cgroup.procs", dir.display()),
            Limit::Addresses => format!("ulimit -v {}", (mib + ADDRESSES) << 10),
        };
        in_shell(&command, &format!("{enter} && exec \"$0\" \"$@\"")).output().unwrap().into()
    }

    /// A process that holds more than the limit is killed.
    fn assert_kept(&self) {
        if matches!(self, Limit::Group { .. }) {
            let mut greedy = Command::new("sh");
            greedy.args(["-c", "head -c 200M /dev/zero | tail -n 1 | wc -c"]).current_dir("/");
            let finished = self.run(greedy, 100);
            assert_ne!(finished.stdout.trim(), "209715200", "200 MiB fit into a group of 100");
        }
    }

    /// How often the kernel had to take pages back, or killed, to keep to the limit.
    fn hits(&self) -> Option<String> {
        let Limit::Group { dir, .. } = self else { return None };
        ["memory.failcnt", "memory.events"].iter().find_map(|file| read_to_string(dir.join(file)).ok())
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Limit::Group { dir, .. } = self {
            let _ = remove_dir(dir);
        }
    }
}

/// A job on synthetic tables of [`USERS`], trained once, in `trained/run`.
fn trained(name: &str) -> Job {
    let job = Job::empty(name);
    data(&job, 1);
    job.ok("init --users data-1/users --items data-1/items.parquet --interactions data-1/interactions --output pipeline.toml");
    job.ok(&format!("run --run trained/run --set train.epochs=1 {TOWERS} {ACCEPTED} --quiet"));
    job
}

/// Tables of `times` as many users.
fn data(job: &Job, times: u64) {
    job.ok(&format!("synth data-{times} --users {} --items 500 --quiet", USERS * times));
}

/// Runs a command with a budget and within it, which must succeed; returns the most it held in any stage, in MiB.
fn held(job: &Job, limit: &Limit, line: &str, mib: u64) -> f64 {
    let finished = limit.run(job.command(&format!("{line} --memory {mib}MiB --json --quiet")), mib);
    assert_eq!(finished.code, 0, "{line} in {mib} MiB\n{}", finished.stderr);
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let one = [report.clone()];
    let stages = report["stages"].as_array().map_or(&one[..], Vec::as_slice);
    stages.iter().map(|stage| stage["peak_rss_mib"].as_f64().unwrap()).fold(0.0, f64::max)
}

#[test]
fn one_ten_and_a_hundred_times_the_rows_stay_within_one_budget() {
    let job = trained("memory-rows");
    let limit = Limit::new("rows");
    limit.assert_kept();
    for times in [1, 10, 100] {
        if times > 1 {
            data(&job, times);
        }
        let tables = format!(
            "--set tables.users.path=\"data-{times}/users\" --set tables.interactions.path=\"data-{times}/interactions\" {TOWERS} {ACCEPTED}"
        );
        let lines = [
            format!("run --run night-{times}/fused --update-from trained/run --no-train --fused {tables}"),
            format!("run --run night-{times}/apart --update-from trained/run --no-train {tables}"),
        ];
        for line in lines {
            let mib = held(&job, &limit, &line, BUDGET);
            println!("{} users: {mib} of {BUDGET} MiB; {:?}: {line}", USERS * times, limit.hits());
            assert!(mib <= BUDGET as f64, "{mib} MiB: {line}");
        }
        let rows = fixture::results::recalled(&job.path(&format!("night-{times}/fused/recall"))).len();
        assert_eq!(rows as u64, USERS * times);
        std::fs::remove_dir_all(job.path(&format!("night-{times}"))).unwrap();
    }
}

#[test]
fn a_budget_too_small_is_refused_with_the_least_and_the_least_does_within_it() {
    let job = trained("memory-least");
    let limit = Limit::new("least");
    let lines = [
        "encode-features --force",
        "encode-features --all-users --force",
        "infer --side item --force",
        "infer --side user --force",
        "recall --topk 7",
        "recall --topk 6 --fused",
    ];
    for line in lines {
        assert_least(&job, &limit, &format!("{line} --run trained/run {TOWERS}"));
    }
}

/// Asserts that a command on `trained/run` refuses a small budget, changes nothing then, and keeps to the least that it
/// names.
fn assert_least(job: &Job, limit: &Limit, line: &str) {
    let before = fixture::results::snapshot(&job.path("trained/run"), &[]);
    let refused = job.twotower(&format!("{line} --memory 8MiB --quiet"));
    assert_eq!(refused.code, 2, "{line}\n{}", refused.stderr);
    assert!(fixture::results::snapshot(&job.path("trained/run"), &[]) == before, "{line}: it changed the run");
    let least = mib_after(&refused, "at least ");
    let short = job.twotower(&format!("{line} --memory {}MiB --quiet", least - 1));
    assert_eq!(short.code, 2, "{line}: {} MiB, one less than the least, do too", least - 1);
    let mib = held(job, limit, line, least);
    println!("{mib} of {least} MiB; {:?}: {line}", limit.hits());
    assert!(mib <= least as f64, "{mib} of {least} MiB: {line}");
}

/// The number of MiB that stands after some words of an error.
fn mib_after(refused: &Finished, words: &str) -> u64 {
    let number = refused.stderr.split(words).nth(1).and_then(|rest| rest.split(' ').next());
    number.unwrap_or_else(|| panic!("no `{words}` in {}", refused.stderr)).parse().unwrap()
}

#[test]
fn encoders_of_long_sequences_are_counted_before_and_in_the_stages_and_kept_to() {
    const LEN: usize = 500;
    let job = Job::empty("memory-encoders");
    data(&job, 1);
    job.ok("init --users data-1/users --items data-1/items.parquet --interactions data-1/interactions --output pipeline.toml");
    job.edit("max_len = 50\n", &format!("max_len = {LEN}\n"));
    let attention = "--set model.pooling=\"attention\" --set model.embedding_dim=8 --set model.hidden=[16,8]";
    job.ok(&format!("run --run trained/run --set train.epochs=1 {attention} --engine native {ACCEPTED} --quiet"));
    let limit = Limit::new("encoders");
    for engine in [EngineKind::Native, EngineKind::Ort] {
        // What `run` says before its first stage.
        let forecast = |pooling: &str| {
            let line = format!("run --run new/run {attention} --set model.pooling=\"{pooling}\" --engine {engine}");
            let refused = job.twotower(&format!("{line} --memory 8MiB --quiet"));
            assert_eq!(refused.code, 2, "{line}\n{}", refused.stderr);
            mib_after(&refused, "infer-users ")
        };
        let block = BlockShape::default();
        let sizes =
            [1, 5, LEN].map(|len| EncoderSize { len, dim: 8, blocks: 2, block, heads: 1, streams: None, intervals: 0 });
        let (expected, found) = (encoder_bytes(engine, &sizes), forecast("attention") - forecast("mean"));
        assert!(found.abs_diff(expected >> 20) <= 1, "{engine}: {found} MiB, expected {expected} bytes");
        // An index that had to be built would change the run before the budget is refused.
        job.ok(&format!("infer --side item --force --run trained/run {attention} --engine {engine} --quiet"));
        job.ok(&format!("recall --fused --topk 7 --run trained/run {attention} --engine {engine} --quiet"));
        for line in ["infer --side user --force", "recall --fused --topk 6"] {
            assert_least(&job, &limit, &format!("{line} --run trained/run {attention} --engine {engine}"));
        }
    }
}

#[test]
fn ids_of_a_thousand_bytes_stay_within_the_budget_in_every_stage_and_format() {
    let job = Job::empty("memory-ids");
    const ROWS: usize = 1200;
    let id = |kind: char, row: usize| Some(format!("{kind}{row:07}{}", "x".repeat(1000)));
    let column = |kind: char, of: &dyn Fn(usize) -> usize, rows| {
        fixture::sheet::Column::Text((0..rows).map(|row| id(kind, of(row))).collect())
    };
    let ints = |rows: usize| fixture::sheet::Column::Int((0..rows).map(|row| Some(row as i64 % 7)).collect());
    let sheet = |columns| fixture::sheet::Sheet::new::<2>(columns);
    sheet([("user_id", column('u', &|row| row, ROWS)), ("city", ints(ROWS))]).write_parquet(&job.path("users.parquet"));
    sheet([("item_id", column('i', &|row| row, ROWS)), ("kind", ints(ROWS))]).write_parquet(&job.path("items.parquet"));
    let users = column('u', &|row| row % ROWS, 3 * ROWS);
    let items = column('i', &|row| (row * 7 + row / ROWS * 13) % ROWS, 3 * ROWS);
    let events = fixture::sheet::Sheet::new([("user_id", users), ("item_id", items), ("ts", ints(3 * ROWS))]);
    events.write_parquet(&job.path("interactions.parquet"));
    let settings = "[features]\nuser = [{ kind = \"categorical\", name = \"city\" }]\nitem = [{ kind = \"categorical\", name = \"kind\" }]\n[model]\nkind = \"dssm\"\nembedding_dim = 4\nhidden = [8, 8]\n[train]\nepochs = 1\n[gates]\noff = [\"metric\", \"coverage\", \"overlap\", \"lists\"]\n";
    job.write("pipeline.toml", &format!("{}{settings}", fixture::TABLES));
    job.ok("run --quiet --run trained/run --set infer.engine=\"native\"");
    let limit = Limit::new("ids");
    let budget = 260;
    for format in ["parquet", "parquet-long", "jsonl"] {
        let settings = format!("--set infer.engine=\"native\" --set recall.topk=300 --set recall.format={format}");
        for stage in ["infer --side user --force", "recall --force", "recall --fused --force", "publish", "run"] {
            // The last ends with some users and their lists.
            let accept = if ["publish", "run"].contains(&stage) { "--accept users" } else { "" };
            let line = format!("{stage} --run trained/run {settings} {accept}");
            let mib = held(&job, &limit, &line, budget);
            println!("{mib} of {budget} MiB; {:?}: {line}", limit.hits());
            assert!(mib <= budget as f64, "{mib} MiB: {line}");
        }
    }
}
