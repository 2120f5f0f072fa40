//! Results are of what their run says, and of nothing else: a setting that matters makes them anew, shards of other
//! tables are not published with them, and no command writes over what is not its own.

mod fixture;

use fixture::results::{Outputs, outputs, recalled, vectors, without_times};
use fixture::sheet::Column;
use fixture::{Finished, Job, USERS, interactions, items, users};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

const PART: &str = "part-00000-of-00001";

/// A job without sequences and with the native engine, whose run `runs/a` is published. Its users have a second
/// column of ids, its interactions a second one of items.
fn base() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("own");
        job.without_sequences();
        job.native();
        job.one_epoch();
        let mut sheet = users();
        let mut ids = sheet.ints("user_id").clone();
        ids.rotate_left(7);
        sheet.with("alt_id", Column::Int(ids)).write_parquet(&job.path("users.parquet"));
        let mut sheet = interactions();
        let mut other = sheet.ints("item_id").clone();
        other.rotate_left(11);
        sheet.with("item2", Column::Int(other)).write_parquet(&job.path("interactions.parquet"));
        job.write("deny.csv", "item_id\n900\n");
        job.edit("topk = 10", "topk = 10\ndeny = { path = \"deny.csv\", item = \"item_id\" }");
        job.edit(
            "[evaluate]",
            "[gates]\noff = [\"overlap\", \"metric\", \"coverage\", \"unknown\", \"missing\", \"users\"]\n\n[evaluate]",
        );
        job.ok("run --run runs/a --quiet");
        job
    })
}

/// The stages of a run that were done, and not skipped.
fn done(job: &Job, line: &str) -> Vec<String> {
    let report = job.json(line);
    let stages = report["stages"].as_array().unwrap().iter().filter(|stage| stage["skipped"] == false);
    stages.map(|stage| stage["stage"].as_str().unwrap().to_string()).collect()
}

#[test]
fn results_under_other_columns_are_made_anew_and_are_those_of_a_fresh_run() {
    for (name, before, change) in [
        ("seen-items", "", "--set tables.interactions.item=item2"),
        ("seen-users", "--fused", "--fused --set tables.interactions.user=item2"),
        ("user-ids", "--fused", "--fused --set tables.users.id=alt_id"),
        ("user-ids-stored", "", "--set tables.users.id=alt_id"),
        ("deny", "", "--set recall.deny.item=other"),
    ] {
        let job = base().copy(&format!("own-columns-{name}"));
        job.write("deny.csv", "item_id,other\n900,889\n");
        let night = "--update-from runs/a --no-train --quiet --accept rows --accept history";
        job.ok(&format!("run --run runs/b {night} {before}"));
        let old = recalled(&job.path("runs/b/recall"));
        let stages = done(&job, &format!("run --run runs/b {night} {change}"));
        assert!(stages.contains(&"recall".to_string()), "{name}: {stages:?}");
        job.ok(&format!("run --run runs/c {night} {change}"));
        let [b, c] = ["b", "c"].map(|run| recalled(&job.path(&format!("runs/{run}/recall"))));
        assert!(b == c, "{name}: not what a fresh run gives");
        assert!(b != old, "{name}: nothing changed, so the test shows nothing");
        job.ok("verify runs/b");
        // And back again.
        job.ok(&format!("run --run runs/b {night} {before}"));
        assert!(recalled(&job.path("runs/b/recall")) == old, "{name}: back again");
    }
}

/// What a run holds but for what the gates said.
fn results(job: &Job) -> Outputs {
    let mut found = outputs(&job.path("runs/a"));
    found.retain(|path, _| !path.starts_with("gates"));
    found
}

#[test]
fn what_changes_no_result_keeps_every_stage_current_and_gives_the_same_bytes_when_forced() {
    let job = base().copy("own-execution");
    let before = results(&job);
    for change in [
        "--set infer.workers=1",
        "--set infer.workers=3 --set train.threads=1",
        "--set infer.batch_rows=97",
        "--set encode.max_bad_rows=0.5",
        "--set run.part_users=5000000",
        "--memory 300MiB",
    ] {
        assert_eq!(done(&job, &format!("run --run runs/a {change}")), Vec::<String>::new(), "{change}");
        let stages = done(&job, &format!("run --run runs/a --force {change}"));
        assert_eq!(stages.len(), 7, "{change}: {stages:?}");
        let after = results(&job);
        let differ: Vec<&std::path::PathBuf> =
            before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(differ.is_empty(), "{change}: {differ:?}");
    }
}

/// `publish` refuses a run, naming what `verify` names, and `latest` stays.
fn not_published(job: &Job, run: &str, says: &str) {
    let latest = std::fs::read_link(job.path("runs/latest")).ok();
    // It may say first that a list has changed since one of the shards was made.
    job.refused(&format!("publish --run {run}"), 4, &[says.trim_matches('"')]);
    assert_eq!(std::fs::read_link(job.path("runs/latest")).ok(), latest, "{says}");
    let verified = job.twotower(&format!("verify {run}"));
    assert_eq!(verified.code, 4, "{}", verified.stdout);
    assert!(verified.stdout.contains(says), "expected `{says}` in\n{}", verified.stdout);
}

#[test]
fn shards_of_other_tables_lists_or_settings_are_not_published_and_verify_says_the_same() {
    let stored = ["infer --side user --shard 0/2", "infer --side user --shard 1/2", "recall --shard 0/2"];
    let shuffled = |job: &Job| users().take((0..USERS).rev()).write_parquet(&job.path("users.parquet"));
    let denies = |job: &Job| job.write("deny.csv", "item_id\n889\n");
    type Change = fn(&Job);
    let nothing: Change = |_| {};
    let cases: [(&str, &[&str], Change, &str, &str); 7] = [
        // The users table is another one for the second shard, which only --force embeds.
        ("users", &["recall --fused --shard 0/2"], shuffled, "recall --fused --shard 1/2 --force", "\"table\""),
        ("deny", &stored, denies, "recall --shard 1/2", "\"deny\""),
        ("topk", &stored, nothing, "recall --shard 1/2 --topk 9", "settings"),
        ("seen", &stored, nothing, "recall --shard 1/2 --keep-seen", "settings"),
        ("index", &stored, nothing, "recall --shard 1/2 --index hnsw", "index"),
        ("compression", &stored, nothing, "recall --shard 1/2 --set infer.compression=zstd", "settings"),
        ("fused", &stored, nothing, "recall --fused --shard 1/2", "settings"),
    ];
    for (name, first, change, second, says) in cases {
        let job = base().copy(&format!("own-shards-{name}"));
        let line = |line: &str| job.ok(&format!("{line} --run runs/b --quiet"));
        fixture::copy_all(&job.path("runs/a/encoders"), &job.path("runs/b/encoders"));
        fixture::copy_all(&job.path("runs/a/towers"), &job.path("runs/b/towers"));
        line("infer --side item");
        first.iter().for_each(|command| _ = line(command));
        change(&job);
        let finished = job.twotower(&format!("{second} --run runs/b --quiet"));
        assert_eq!(finished.code, 0, "{name}: {}", finished.stderr);
        not_published(&job, "runs/b", says);
    }
    // What users have seen was read from another column.
    let job = base().copy("own-shards-columns");
    let other = "recall --set tables.interactions.item=item2 --run runs/a --quiet";
    job.refused(other, 4, &["item2", "run `twotower encode-features`"]);
}

#[test]
fn shards_of_one_table_and_one_list_are_published() {
    let job = base().copy("own-shards-good");
    for folder in ["encoders", "towers"] {
        fixture::copy_all(&job.path(&format!("runs/a/{folder}")), &job.path(&format!("runs/b/{folder}")));
    }
    job.ok("infer --side item --run runs/b --quiet");
    for shard in ["0/3", "1/3", "2/3"] {
        job.ok(&format!("infer --side user --shard {shard} --run runs/b --quiet"));
    }
    for shard in ["0/2", "1/2"] {
        job.ok(&format!("recall --shard {shard} --run runs/b --quiet"));
    }
    job.ok("publish --run runs/b --quiet");
    assert_eq!(job.latest(), "b");
    job.ok("verify runs/b");
    assert!(recalled(&job.path("runs/b/recall")) == recalled(&job.path("runs/a/recall")));
}

#[test]
fn results_made_from_an_earlier_list_or_items_table_are_published_by_force_alone() {
    let earlier = |job: &Job, what: &str| match what {
        "items" => items().take(0..fixture::ITEMS / 2).write_parquet(&job.path("items.parquet")),
        "deny" => job.write("deny.csv", "item_id\n889\n"),
        _ => {}
    };
    for (what, set) in [("items", ""), ("deny", ""), ("recall.deny", "--set recall={topk=10}")] {
        let job = base().copy(&format!("own-earlier-{}", what.replace('.', "-")));
        earlier(&job, what);
        let line = format!("publish --run runs/a --quiet {set}");
        job.refused(&line, 4, &[what, "--force"]);
        job.ok(&format!("{line} --force"));
    }
}

#[test]
fn a_table_of_other_rows_does_not_take_the_place_of_a_runs_results_by_a_slip() {
    let job = base().copy("own-few");
    users().take(0..10).write_parquet(&job.path("few.parquet"));
    items().take(0..10).write_parquet(&job.path("few-items.parquet"));
    let before = outputs(&job.path("runs/a"));
    for line in [
        "recall --fused --set tables.users.path=few.parquet",
        "infer --side user --set tables.users.path=few.parquet",
        "infer --side user --recall --set tables.users.path=few.parquet",
        "infer --side item --set tables.items.path=few-items.parquet",
        "infer --side user --shard 0/2 --set tables.users.path=few.parquet",
    ] {
        let says = ["runs/a/encoders", "encode-features", "--output", "--force"];
        job.refused(&format!("{line} --run runs/a --quiet"), 4, &says);
        assert!(outputs(&job.path("runs/a")) == before, "{line}");
        assert_eq!(job.latest(), "a", "{line}");
    }
    job.refused("infer --side user --set tables.users.id=alt_id --run runs/a", 4, &["`alt_id`", "`user_id`"]);
    job.refused("recall --fused --set tables.users.id=alt_id --run runs/a", 4, &["`alt_id`", "`user_id`"]);
    for change in ["tables.users.id=alt_id", "tables.interactions.item=item2"] {
        let says = change.split_once('=').unwrap().0;
        job.refused(&format!("publish --run runs/a --set {change}"), 4, &[says, "encode-features"]);
    }
    assert!(outputs(&job.path("runs/a")) == before);
    // Who forces it gets it, and no more than that.
    job.ok("infer --side user --set tables.users.path=few.parquet --run runs/a --force --quiet");
    assert!(!job.path("runs/latest").exists());
    job.refused("recall --run runs/a", 4, &["users table", "--force"]);
    assert_eq!(recalled(&job.path("runs/a/recall")).len(), USERS);
    job.ok("recall --run runs/a --force --quiet");
    assert_eq!(recalled(&job.path("runs/a/recall")).len(), 10);
    job.refused("publish --run runs/a --accept rows", 4, &["users table", "encode-features"]);
    // The same command as ever makes it right again.
    job.ok("run --run runs/a --quiet");
    assert_eq!((recalled(&job.path("runs/a/recall")).len(), job.latest()), (USERS, "a".to_string()));
}

/// All files of the job, without what tells the time.
fn everything(job: &Job) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    fixture::results::walk(&job.dir)
        .into_iter()
        .filter(|path| path.exists())
        .map(|path| (path.clone(), without_times(&path)))
        .collect()
}

#[test]
fn vectors_of_other_rows_go_only_into_a_folder_of_their_own() {
    let job = base().copy("own-output");
    std::fs::create_dir_all(job.path("tables/users")).unwrap();
    users().write_parquet(&job.path("tables/users/part-00000-of-00001.parquet"));
    users().take(0..50).write_parquet(&job.path("sub.parquet"));
    std::fs::create_dir_all(job.path("keep")).unwrap();
    for k in 0..3 {
        job.write(&format!("keep/part-{k:05}-of-00009.parquet"), "mine");
    }
    job.write("keep/part-of-me.txt", "mine");
    std::fs::create_dir(job.path("elsewhere")).unwrap();
    for (link, to) in [("to-recall", "runs/a/recall"), ("to-run", "runs/a"), ("dangling", "nowhere")] {
        std::os::unix::fs::symlink(to, job.path(link)).unwrap();
    }
    let before = everything(&job);
    let line = "infer --side user --table sub.parquet --run runs/a --quiet --output";
    for (folder, code, says) in [
        ("runs/a/recall", 2, "lies in the run"),
        ("runs/a/vectors/user", 2, "lies in the run"),
        ("runs/a/vectors/item", 2, "lies in the run"),
        ("runs/a", 2, "lies in the run"),
        ("runs/a/", 2, "lies in the run"),
        ("runs/a/new", 2, "lies in the run"),
        ("runs/b/../a/recall", 1, "resolve"),
        ("./runs/../runs/a/samples", 2, "lies in the run"),
        ("runs/latest", 2, "lies in the run"),
        ("runs/latest/recall", 2, "lies in the run"),
        ("to-recall", 2, "lies in the run"),
        ("to-run/deep/new", 2, "lies in the run"),
        ("dangling", 1, "dangling"),
        ("runs", 2, "where runs are kept"),
        (".", 2, "where runs are kept"),
        ("tables/users", 2, "is read from there"),
        ("tables/users/new", 2, "is read from there"),
        ("keep", 4, "part-"),
        ("elsewhere/../keep", 4, "part-"),
        ("interactions.parquet", 2, "is read from there"),
    ] {
        for force in ["", " --force"] {
            let all = format!("{line} {folder}{force} --set tables.interactions.path=tables/users/*.parquet");
            let all = if says == "is read from there" {
                all.replace("interactions.path=tables/users/*.parquet", "users.path=tables/users")
            } else {
                all.replace(" --set tables.interactions.path=tables/users/*.parquet", "")
            };
            job.refused(&all, code, &[says]);
            let after = everything(&job);
            let differ: Vec<_> =
                before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
            assert!(differ.is_empty(), "{folder}{force}: {differ:?}");
        }
    }
    assert_eq!(job.latest(), "a");
    // Beside another run that this one knows nothing of.
    job.ok("encode-features --run other/run --quiet");
    job.refused(&format!("{line} other/run/vectors/user"), 2, &["lies in the run"]);

    // A folder that is new, or empty, or made by this very command.
    std::fs::create_dir(job.path("empty")).unwrap();
    for folder in ["newcomers", "empty", "runs/newcomers", "elsewhere/deep/new"] {
        for force in ["", " --force"] {
            job.ok(&format!("{line} {folder}{force}"));
            assert_eq!(vectors(&job.path(folder).join("vectors")).len(), 50, "{folder}");
        }
    }
    job.write("newcomers/vectors/part-of-me.txt", "mine");
    job.write("newcomers/notes.txt", "mine");
    job.refused(&format!("{line} newcomers --shard 0/2"), 4, &["of another number of shards", "--force"]);
    for shard in ["0/2", "1/2"] {
        job.ok(&format!("{line} newcomers --shard {shard} --force"));
    }
    assert_eq!(vectors(&job.path("newcomers/vectors")).len(), 50);
    assert!(["vectors/part-of-me.txt", "notes.txt"].iter().all(|name| job.path("newcomers").join(name).exists()));
    // A file under a part's name that no manifest names and no stage wrote is nobody's to delete.
    job.write("newcomers/vectors/part-00000-of-00007.parquet", "mine");
    job.refused(&format!("{line} newcomers --shard 0/2 --force"), 4, &["part-00000-of-00007.parquet", "move it away"]);
    assert_eq!(std::fs::read_to_string(job.path("newcomers/vectors/part-00000-of-00007.parquet")).unwrap(), "mine");
    std::fs::remove_file(job.path("newcomers/vectors/part-00000-of-00007.parquet")).unwrap();
    job.refused(
        &line
            .replace("--side user", "--side item --set tables.items.id=user_id")
            .replace("--output", "--output newcomers"),
        4,
        &["vectors of users, not for vectors of items"],
    );
    // While somebody has it alone, nobody else writes there.
    let lock = std::fs::File::options().create(true).append(true).open(job.path("newcomers/.lock")).unwrap();
    lock.lock().unwrap();
    job.refused(&format!("{line} newcomers --shard 0/2 --force"), 1, &["newcomers is in use"]);
}

#[test]
fn a_file_that_no_stage_wrote_is_not_written_over_in_a_runs_folder() {
    let job = base().copy("own-strangers");
    fixture::copy_all(&job.path("runs/a/encoders"), &job.path("runs/b/encoders"));
    fixture::copy_all(&job.path("runs/a/towers"), &job.path("runs/b/towers"));
    let path = |name: &str| job.path("runs/b").join(name);
    for (folder, line) in [("vectors/user", "infer --side user"), ("recall", "recall --fused")] {
        job.ok("infer --side item --run runs/b --quiet");
        std::fs::create_dir_all(path(folder)).unwrap();
        for (name, force) in [(format!("{PART}.parquet"), ""), ("part-00000-of-00002.parquet".into(), " --force")] {
            let stranger = path(folder).join(name);
            std::fs::write(&stranger, "mine").unwrap();
            job.refused(&format!("{line} --run runs/b --quiet{force}"), 4, &["move it away", "part-"]);
            assert_eq!(std::fs::read_to_string(&stranger).unwrap(), "mine");
            std::fs::remove_file(&stranger).unwrap();
        }
        std::fs::write(path(folder).join("part-of-me.txt"), "mine").unwrap();
        job.ok(&format!("{line} --run runs/b --quiet"));
        job.ok(&format!("{line} --run runs/b --quiet --force --shard 0/2"));
        assert!(
            path(folder).join("part-of-me.txt").exists()
                && !path("manifests").join(folder).join(format!("{PART}.json")).exists()
        );
    }
}

fn finished(finished: &Finished) -> (i32, &str) {
    (finished.code, &finished.stderr)
}

#[test]
fn a_part_of_another_run_or_under_another_name_is_refused_everywhere() {
    let job = base().copy("own-copied");
    job.ok("run --run runs/b --set train.seed=9 --quiet");
    let put = |output: &str| {
        let mut files = vec![format!("{output}/{PART}.parquet"), format!("manifests/{output}/{PART}.json")];
        files.extend((output == "recall").then(|| format!("samples/{PART}.parquet")));
        for file in files {
            let [from, to] = ["a", "b"].map(|run| job.path(&format!("runs/{run}/{file}")));
            std::fs::copy(from, to).unwrap();
        }
    };
    for folder in ["recall", "vectors/user", "vectors/item"] {
        let tried = job.copy("own-copied-tried");
        put(folder);
        for line in ["publish --run runs/b --force", "verify runs/b"] {
            let done = job.twotower(line);
            assert_eq!(finished(&done).0, 4, "{folder}: {line}: {}", finished(&done).1);
        }
        fixture::copy_all(&tried.path("runs/b"), &job.path("runs/b"));
        job.ok("verify runs/b");
    }
    assert!(Path::new(&job.latest()).ends_with("b"));
}
