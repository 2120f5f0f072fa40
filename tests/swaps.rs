//! Artifacts of one run among those of another: the stage that reads them refuses before its first row, or
//! the work is done again; nothing is ever mixed, and `verify` finds it.

mod fixture;

use fixture::results::Outputs;
use fixture::{Job, USERS, interactions, items, users};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What another run differs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    /// Users, items and interactions: nothing is the same.
    Data,
    /// Interactions only: the same encoder state, other rows encoded, other towers.
    Events,
    /// The seed of training only: the same encoders, other towers.
    Seed,
    /// The order of the users after training: the same towers, as many rows.
    Order,
}

use Other::{Data, Events, Order, Seed};

/// Some files of a run, and what must not work with those of another run in their place.
struct Swap {
    /// Below `run/`: files, or folders with all they hold.
    files: &'static [&'static str],
    from: &'static [Other],
    /// Commands that read them and must refuse.
    refused: &'static [&'static str],
    /// Commands that must refuse, or give what they give without the swap.
    safe: &'static [&'static str],
    /// What every refusal must name.
    named: &'static str,
}

const TRAIN: &str = "train --force";
const USER: &str = "infer --side user --force";
const ITEM: &str = "infer --side item --force";
const RECALL: &str = "recall --force";
const EVALUATE: &str = "evaluate --force";
/// A recall that is not current and takes the index that is there.
const RECALL_NINE: &str = "recall --topk 9";
const NEXT: &str = "train --run next --from run/towers";

const ITEM_PART: &str = "vectors/item/part-00000-of-00001";
const SWAPS: &[Swap] = &[
    // Encoders.
    swap(&["encoders/encoders.json"], &[Data], &[TRAIN, USER, ITEM, EVALUATE], &[], "run/encoders"),
    swap(&["encoders/vocab/user_city.bin"], &[Data], &[TRAIN, USER, ITEM, EVALUATE], &[], "vocab/user_city.bin"),
    swap(&["encoders/vocab/item_category.bin"], &[Data], &[TRAIN, USER, ITEM, EVALUATE], &[], "vocab/item_category"),
    swap(&["encoders/vocab"], &[Data], &[TRAIN, USER, ITEM, EVALUATE], &[], "run/encoders/vocab"),
    swap(&["encoders/manifest.json"], &[Data], &[TRAIN, USER, ITEM, EVALUATE], &[], "run/encoders"),
    swap(&["encoders/manifest.json"], &[Events], &[TRAIN, USER, EVALUATE], &[ITEM], "run/encoders"),
    swap(&["encoders/users.parquet"], &[Data, Events], &[TRAIN, EVALUATE], &[ITEM], "encoders/users.parquet"),
    swap(&["encoders/items.parquet"], &[Data], &[TRAIN, USER, ITEM, EVALUATE], &[], "encoders/items.parquet"),
    swap(&["encoders/timeline.bin"], &[Data, Events], &[TRAIN, USER, RECALL, EVALUATE], &[ITEM], "run/encoders"),
    swap(&["encoders"], &[Data], &[USER, ITEM, RECALL, EVALUATE], &[], "run/encoders"),
    // Towers.
    swap(&["towers/user_tower.onnx"], &[Data, Seed], &[USER, ITEM, RECALL, EVALUATE], &[], "run/towers"),
    swap(&["towers/item_tower.onnx"], &[Data, Seed], &[USER, ITEM, RECALL, EVALUATE], &[], "run/towers"),
    swap(
        &["towers/user_tower.onnx", "towers/item_tower.onnx"],
        &[Data, Events, Seed],
        &[USER, ITEM, RECALL, EVALUATE],
        &[],
        "run/towers",
    ),
    swap(&["towers/manifest.json"], &[Data, Events, Seed], &[USER, ITEM, RECALL, EVALUATE], &[], "run/towers"),
    swap(&["towers"], &[Data], &[USER, ITEM, RECALL, EVALUATE], &[], "towers"),
    swap(&["towers"], &[Seed, Events], &[RECALL], &[], "towers"),
    swap(&["towers/checkpoints/best.ckpt"], &[Data, Events, Seed], &[NEXT], &[USER, EVALUATE], "checkpoints/best.ckpt"),
    // Vectors.
    swap(&["vectors/item/part-00000-of-00001.parquet"], &[Data, Events, Seed], &[RECALL], &[], ITEM_PART),
    swap(&["manifests/vectors/item/part-00000-of-00001.json"], &[Data, Events, Seed], &[RECALL], &[], ITEM_PART),
    swap(&["vectors/item", "manifests/vectors/item"], &[Data, Events, Seed], &[RECALL], &[], "item vectors"),
    swap(
        &["vectors/user/part-00000-of-00001.parquet"],
        &[Data, Events, Seed, Order],
        &[RECALL],
        &[],
        "vectors/user/part-00000-of-00001",
    ),
    swap(
        &["manifests/vectors/user/part-00000-of-00001.json"],
        &[Data, Events, Seed, Order],
        &[RECALL],
        &[],
        "vectors/user/part-00000-of-00001",
    ),
    swap(&["vectors/user", "manifests/vectors/user"], &[Data, Events, Seed], &[RECALL], &[], "user vectors"),
    swap(&["vectors", "manifests/vectors"], &[Data, Events, Seed], &[RECALL], &[], "vectors"),
    // The index, which is built again where it does not fit.
    swap(&["index/index.bin"], &[Data, Events, Seed], &[], &[RECALL, RECALL_NINE], "run/index"),
    swap(&["index/index.json"], &[Data, Events, Seed], &[], &[RECALL, RECALL_NINE], "run/index"),
    swap(&["index/stage.json"], &[Data, Events, Seed], &[], &[RECALL, RECALL_NINE], "run/index"),
    swap(&["index/index.bin", "index/index.json"], &[Data, Seed], &[], &[RECALL, RECALL_NINE], "run/index"),
    swap(&["index"], &[Data, Events, Seed], &[], &[RECALL, RECALL_NINE], "run/index"),
    // Two stages that fit each other, and nothing else.
    swap(&["encoders", "towers"], &[Data], &[RECALL], &[], "item vectors"),
    swap(&["vectors", "manifests/vectors", "index"], &[Data, Events, Seed], &[RECALL], &[], "vectors"),
    swap(&["vectors/item", "manifests/vectors/item", "index"], &[Data, Events, Seed], &[RECALL], &[], "item vectors"),
    // Results, which no stage reads.
    swap(&["recall/part-00000-of-00001.parquet"], &[Data, Events, Seed, Order], &[], &["recall"], "recall"),
    swap(&["manifests/recall/part-00000-of-00001.json"], &[Data, Events, Seed, Order], &[], &["recall"], "recall"),
    swap(&["samples/part-00000-of-00001.parquet"], &[Data, Events, Seed, Order], &[], &["recall"], "recall"),
    swap(&["recall", "samples", "manifests/recall"], &[Data, Events, Seed, Order], &[], &["recall"], "recall"),
    swap(&["evaluation/metrics.json"], &[Data, Events, Seed], &[], &["evaluate"], "evaluation"),
    swap(&["evaluation/manifest.json"], &[Data, Events, Seed], &[], &["evaluate"], "evaluation"),
    swap(&["evaluation"], &[Data, Events, Seed], &[], &["evaluate"], "evaluation"),
];

const fn swap(
    files: &'static [&'static str],
    from: &'static [Other],
    refused: &'static [&'static str],
    safe: &'static [&'static str],
    named: &'static str,
) -> Swap {
    Swap { files, from, refused, safe, named }
}

/// A finished run, with a second one begun that can start from its weights.
fn base() -> Job {
    let job = Job::new("swaps");
    job.native();
    job.one_epoch();
    job.edit("[evaluate]\n", "[gates]\noff = [\"metric\", \"overlap\", \"coverage\"]\n\n[evaluate]\n");
    job.ok("run --quiet");
    job.ok("encode-features --run next --quiet");
    job
}

fn other(base: &Job, kind: Other) -> Job {
    let job = base.copy(&format!("swaps-{kind:?}"));
    match kind {
        Data => {
            let mut sheet = users();
            (0..USERS).step_by(3).for_each(|u| sheet.texts("city")[u] = Some(format!("village {}", u % 5)));
            sheet.write_parquet(&job.path("users.parquet"));
            let mut sheet = items();
            (0..fixture::ITEMS).for_each(|i| sheet.texts("category")[i] = Some(format!("kind {}", i % 7)));
            sheet.write_parquet(&job.path("items.parquet"));
            shifted(&job);
        }
        Events => shifted(&job),
        Seed => job.edit("patience = 0", "patience = 0\nseed = 99"),
        Order => users().take((0..USERS).rev()).write_parquet(&job.path("users.parquet")),
    }
    match kind {
        Order => {
            // Users of another table than was encoded must be forced, and do not belong to the run.
            let lines = ["infer --side user --force", "recall --force", "evaluate"];
            lines.iter().for_each(|line| _ = job.ok(&format!("{line} --quiet")));
            job.refused("verify run", 4, &[]);
        }
        _ => {
            job.ok("run --quiet");
            job.ok("verify run");
        }
    }
    job
}

/// Other interactions of the same users and items: other items, and none of the last users.
fn shifted(job: &Job) {
    let mut sheet = interactions();
    sheet.ints("item_id").rotate_right(5);
    sheet.take(0..sheet.rows() * 4 / 5).write_parquet(&job.path("interactions.parquet"));
}

/// Outputs without checkpoints, which no manifest counts among its files, and without what the gates said, which a
/// stage that does its work again takes back.
fn outputs(job: &Job) -> Outputs {
    let mut outputs = fixture::results::outputs(&job.path("run"));
    outputs.retain(|path, _| !path.starts_with("towers/checkpoints") && !path.starts_with("gates"));
    outputs
}

/// All files below a path, or the file itself.
fn below(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() { fixture::results::walk(path) } else { vec![path.to_path_buf()] }
}

/// Puts files of another run in the place of this one's; false where they are the same bytes.
fn put(job: &Job, other: &Job, names: &[&str]) -> bool {
    let mut changed = false;
    for name in names {
        let (from, to) = (other.path("run").join(name), job.path("run").join(name));
        let content = |path: &Path| -> BTreeSet<Vec<u8>> {
            below(path).iter().filter(|p| !p.ends_with("key.json")).map(|p| std::fs::read(p).unwrap()).collect()
        };
        changed |= content(&from) != content(&to);
        below(&to).iter().for_each(|path| std::fs::remove_file(path).unwrap());
        for path in below(&from) {
            let place = job.path("run").join(path.strip_prefix(other.path("run")).unwrap());
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::copy(&path, place).unwrap();
        }
    }
    changed
}

#[test]
fn an_artifact_of_another_run_is_refused_or_made_again_and_never_mixed() {
    let base = base();
    let others: BTreeMap<Other, Job> = [Data, Events, Seed, Order].map(|kind| (kind, other(&base, kind))).into();
    let complete = outputs(&base);
    let mut expected: BTreeMap<&str, Outputs> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for Swap { files, from, refused, safe, named } in SWAPS {
        for (kind, other) in from.iter().map(|kind| (kind, &others[kind])) {
            let what = format!("{files:?} of {kind:?}");
            let swapped = base.copy("swaps-swapped");
            assert!(put(&swapped, other, files), "{what}: the same bytes");
            let before = outputs(&swapped);
            let mut check = |line: &str, may_pass: Option<&Outputs>| {
                tried += 1;
                let job = swapped.copy("swaps-tried");
                let done = job.twotower(&format!("{line} --quiet"));
                let after = outputs(&job);
                let right = match done.code {
                    3 | 4 if may_pass != Some(&complete) => done.stderr.contains(named) && after == before,
                    // A whole run may have redone stages before the one that refused.
                    3 | 4 => done.stderr.contains("run/"),
                    0 => may_pass.is_some_and(|expected| *expected == after),
                    _ => false,
                };
                if !right {
                    wrong.push(format!("{what}, {line}: exit code {}\n{}", done.code, done.stderr));
                }
            };
            refused.iter().for_each(|line| check(line, None));
            for line in *safe {
                let expected = expected.entry(line).or_insert_with(|| {
                    let clean = base.copy("swaps-clean");
                    clean.ok(&format!("{line} --quiet"));
                    outputs(&clean)
                });
                // What was swapped may remain where the command does not read it.
                let mut allowed = expected.clone();
                for name in files.iter().filter(|f| !after_stage(line).iter().any(|folder| f.starts_with(folder))) {
                    for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with(name)) {
                        allowed.insert(path.clone(), bytes.clone());
                    }
                }
                check(line, Some(&allowed));
            }
            check("run", Some(&complete));
            let verified = swapped.twotower("verify run");
            if !matches!(verified.code, 3 | 4) {
                wrong.push(format!("{what}, verify: exit code {}\n{}", verified.code, verified.stdout));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} commands:\n\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 150, "{tried}");
}

/// Folders that a command writes.
fn after_stage(line: &str) -> &'static [&'static str] {
    match line.split(' ').next() {
        Some("recall") => &["recall", "samples", "manifests/recall", "index"],
        Some("evaluate") => &["evaluation"],
        Some("infer") if line.contains("user") => &["vectors/user", "manifests/vectors/user"],
        Some("infer") => &["vectors/item", "manifests/vectors/item"],
        _ => &[],
    }
}
