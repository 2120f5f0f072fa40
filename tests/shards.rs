//! Shards, workers and threads change nothing: the same rows, bit for bit.

mod fixture;

use fixture::results::{files, recalled, recalled_of, snapshot, vectors, vectors_of};
use fixture::{Job, USERS, copy_all};
use std::collections::HashSet;
use std::path::Path;
use std::sync::OnceLock;

/// A trained job with vectors of all items.
fn trained() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("shards");
        job.ok("encode-features --quiet");
        job.ok("train --quiet");
        job.ok("infer --side item --quiet");
        job
    })
}

/// Rows of each part in shard order.
fn part_rows(dir: &Path) -> Vec<usize> {
    files(dir, "parquet").iter().map(|part| vectors_of(part).len()).collect()
}

fn infer_in_shards(name: &str, engine: &str, n: usize) -> Job {
    let job = trained().copy(name);
    for shard in 0..n {
        job.ok(&format!("infer --side user --engine {engine} --shard {shard}/{n} --quiet"));
    }
    job
}

#[test]
fn shards_of_infer_are_disjoint_cover_all_users_and_give_the_same_vectors() {
    for engine in ["ort", "native", "native-int16"] {
        let whole = vectors(&infer_in_shards(&format!("shards-{engine}-1"), engine, 1).path("run/vectors/user"));
        assert_eq!(whole.len(), USERS);
        for n in [3, 8] {
            let dir = infer_in_shards(&format!("shards-{engine}-{n}"), engine, n).path("run/vectors/user");
            assert!(vectors(&dir) == whole, "{engine}: {n} shards give other rows than one");
            let rows = part_rows(&dir);
            assert_eq!(rows.len(), n);
            assert!(rows.iter().all(|r| (USERS / n..=USERS / n + 1).contains(r)), "{rows:?}");
        }
    }
}

#[test]
fn without_a_shard_the_whole_table_is_done_in_parts_of_which_complete_ones_stay() {
    let whole = infer_in_shards("shards-whole", "ort", 1);
    whole.ok("recall --quiet");
    let job = trained().copy("shards-parts");
    for (line, stage) in
        [("infer --side user", "infer"), ("recall", "recall"), ("infer --side user --recall", "recall")]
    {
        if line.ends_with("--recall") {
            std::fs::remove_dir_all(job.path("run/recall")).unwrap();
        }
        let lines = || -> Vec<(String, bool)> {
            let finished = job.twotower(&format!("{line} --set run.part_users=400 --json --quiet"));
            assert_eq!(finished.code, 0, "{line}: {}", finished.stderr);
            let answers = finished.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            answers.map(|a| (a["shard"].as_str().unwrap().to_string(), a["skipped"] == true)).collect()
        };
        let all = |skipped: [bool; 4]| (0..4).map(|i| (format!("{i}/4"), skipped[i])).collect::<Vec<_>>();
        assert_eq!(lines(), all([false; 4]), "{line}");
        let folder = if stage == "infer" { "vectors/user" } else { "recall" };
        std::fs::remove_file(job.path(&format!("run/manifests/{folder}/part-00001-of-00004.json"))).unwrap();
        assert_eq!(lines(), all([true, false, true, true]), "{line}");
    }
    assert!(vectors(&job.path("run/vectors/user")) == vectors(&whole.path("run/vectors/user")));
    assert!(recalled(&job.path("run/recall")) == recalled(&whole.path("run/recall")));
}

#[test]
fn engines_give_vectors_that_agree() {
    let [ort, native, int16] = ["ort", "native", "native-int16"]
        .map(|engine| vectors(&infer_in_shards(&format!("shards-agree-{engine}"), engine, 1).path("run/vectors/user")));
    for (found, room) in [(native, 1e-5), (int16, 1e-3)] {
        for ((id, a), (other, b)) in ort.iter().zip(&found) {
            assert_eq!(id, other);
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < room), "{id}: {a:?} and {b:?}");
        }
    }
}

#[test]
fn sixteen_bit_integers_recall_the_items_that_floats_do() {
    let job = Job::empty("shards-int16");
    job.ok("demo demo --users 5000 --items 2000 --engine native --quiet");
    let [exact, rounded] = ["native", "native-int16"].map(|engine| {
        let set = format!("--config demo/pipeline.toml --run {engine} --set infer.engine=\"{engine}\" --quiet");
        for part in ["encoders", "towers"] {
            copy_all(&job.path(&format!("demo/run/{part}")), &job.path(&format!("{engine}/{part}")));
        }
        job.ok(&format!("infer --side item {set}"));
        job.ok(&format!("recall --fused --topk 50 {set}"));
        recalled(&job.path(&format!("{engine}/recall")))
    });
    assert_eq!(exact.len(), 5000);
    let (mut same, mut all) = (0, 0);
    for ((user, items), (other, found)) in exact.iter().zip(&rounded) {
        assert_eq!(user, other);
        let found: HashSet<_> = found.iter().map(|(item, _)| item).collect();
        same += items.iter().filter(|(item, _)| found.contains(item)).count();
        all += items.len();
    }
    assert!(same as f64 / all as f64 > 0.99, "{same} of {all} items are the same");
}

#[test]
fn shards_of_recall_give_the_same_items_and_similarities() {
    for index in ["exact", "hnsw"] {
        let job = trained().copy(&format!("shards-recall-{index}"));
        // Vectors in three parts, so that shards of recall begin inside and between them.
        (0..3).for_each(|shard| _ = job.ok(&format!("infer --side user --shard {shard}/3 --quiet")));
        job.ok(&format!("recall --index {index} --quiet"));
        let whole = recalled(&job.path("run/recall"));
        assert_eq!(whole.len(), USERS);
        for n in [3, 8] {
            std::fs::remove_dir_all(job.path("run/recall")).unwrap();
            (0..n).for_each(|shard| _ = job.ok(&format!("recall --index {index} --shard {shard}/{n} --quiet")));
            assert!(recalled(&job.path("run/recall")) == whole, "{index}: {n} shards give other rows than one");
            let rows: Vec<usize> =
                files(&job.path("run/recall"), "parquet").iter().map(|part| recalled_of(part).len()).collect();
            assert!(rows.len() == n && rows.iter().all(|r| (USERS / n..=USERS / n + 1).contains(r)), "{rows:?}");
        }
    }
}

#[test]
fn the_number_of_workers_does_not_change_a_byte() {
    for engine in ["ort", "native", "native-int16"] {
        let [one, two] = [1, 2].map(|workers| {
            let job = trained().copy(&format!("shards-{engine}-workers-{workers}"));
            for side in ["user", "item"] {
                job.ok(&format!("infer --side {side} --engine {engine} --workers {workers} --quiet"));
            }
            job.ok(&format!("recall --set infer.workers={workers} --quiet"));
            snapshot(&job.path("run"), &[".json"])
        });
        assert!(one == two, "{engine}: bytes differ with the number of workers");
    }
}

#[test]
fn the_number_of_training_threads_does_not_change_a_byte() {
    let base = Job::new("shards-threads");
    base.ok("encode-features --quiet");
    for loss in ["\"in_batch\"", "\"full_softmax\""] {
        let [one, two] = [1, 2].map(|threads| {
            let job = base.copy(&format!("shards-threads-{threads}"));
            let loss = loss.to_string();
            job.ok(&format!("train --set train.threads={threads} --set train.loss={loss} --quiet"));
            ["user", "item"].map(|side| std::fs::read(job.path(&format!("run/towers/{side}_tower.onnx"))).unwrap())
        });
        assert!(one == two, "{loss}: towers differ with the number of threads");
    }
}

#[test]
fn the_scheduler_names_the_shard_when_the_number_of_shards_is_given() {
    for (shard, (variable, value)) in
        [("TWOTOWER_SHARD", "0"), ("JOB_COMPLETION_INDEX", "1"), ("SLURM_ARRAY_TASK_ID", "2")].into_iter().enumerate()
    {
        let job = trained().copy(&format!("shards-scheduler-{shard}"));
        for stage in ["infer --side user", "recall"] {
            if stage == "recall" {
                job.ok("infer --side user --shard 0/3 --quiet");
                job.ok("infer --side user --shard 1/3 --quiet");
                job.ok("infer --side user --shard 2/3 --quiet");
            }
            let output = job.command(&format!("{stage} --shards 3 --quiet")).env(variable, value).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let dir = if stage == "recall" { "recall" } else { "vectors/user" };
            assert!(job.path(&format!("run/{dir}/part-{shard:05}-of-00003.parquet")).exists(), "{variable}");
        }
    }
}

#[test]
fn a_schedulers_variable_alone_shards_nothing_but_our_own_asks_for_the_number() {
    let job = trained().copy("shards-no-number");
    let output =
        job.command("infer --side user --quiet").env("JOB_COMPLETION_INDEX", "1").output().map(fixture::Finished::from);
    let output = output.unwrap();
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("JOB_COMPLETION_INDEX=1 ignored"), "{}", output.stderr);
    assert!(job.path("run/vectors/user/part-00000-of-00001.parquet").exists());
    let output = job.command("infer --side user --quiet").env("TWOTOWER_SHARD", "1").output().unwrap();
    assert_eq!(fixture::Finished::from(output).code, 2);
}

#[test]
fn a_shard_of_recall_needs_no_vectors_but_its_own() {
    let job = trained().copy("shards-own");
    job.ok("infer --side user --shard 0/2 --quiet");
    job.ok("recall --shard 0/2 --quiet");
    assert_eq!(recalled(&job.path("run/recall")).len(), USERS / 2);
    let finished = job.twotower("recall --quiet");
    assert_eq!(finished.code, 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("part-00001-of-00002.json"), "{}", finished.stderr);
}
