//! Models with a transformer, `pooling = "attention"`, `kind = "sasrec"` and `kind = "tisasrec"`, from raw tables to lists: all stages, both
//! engines, a kill and a resume, a second day.

mod faults;
mod fixture;

use faults::training::resumes_to_the_same_bytes;
use fixture::engines::goes_to_lists_in_both_engines;
use fixture::results::{by_user, recalled, without_history};
use fixture::{ITEMS, Job, USERS, interactions, item_id, user_id};
use std::collections::BTreeSet;
use twotower_models::engine::EncoderSize;
use twotower_models::onnx::inspect;
use twotower_models::tower::ligr::{BlockKind, BlockShape};

/// The longest sequence that enters a tower.
const LEN: usize = 6;

/// The models, by name.
const MODELS: [&str; 3] = ["attention", "sasrec", "tisasrec"];

/// The longest interval of `tisasrec`.
const SPAN: usize = 40;

/// The small job with a model over the newest items of a user.
fn job(model: &str, name: &str) -> Job {
    let job = Job::new(&format!("{model}-{name}"));
    job.edit("max_len = 3", &format!("max_len = {LEN}"));
    match model {
        "attention" => {
            let ligr = "norm = \"pre\", block = \"ligr\", feed_forward_multiple = 2";
            let attention = format!("attention = {{ blocks = 2, heads = 2, dropout = 0.1, {ligr} }}");
            job.edit("hidden = [16, 8]\n", &format!("hidden = [16, 8]\npooling = \"attention\"\n{attention}\n"));
        }
        _ => {
            let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
            let of_others =
                |line: &&str| line.starts_with("    { kind") && !line.contains("recent") && !line.contains("id\"");
            let lines: Vec<&str> = text.lines().filter(|line| !of_others(line)).collect();
            job.write("pipeline.toml", &lines.join("\n"));
            let settings = format!("kind = \"{model}\"\ndim = 8\nheads = 2\ndropout = 0.1");
            job.edit("kind = \"dssm\"\nembedding_dim = 8\nhidden = [16, 8]", &settings);
            if model == "tisasrec" {
                // It has more to learn in two epochs.
                job.edit("epochs = 2", "epochs = 2\nlearning_rate = 0.01");
                let intervals = format!("max_len = {LEN}, intervals = \"personal\", span = {SPAN}");
                job.edit(&format!("max_len = {LEN}"), &intervals);
            }
        }
    }
    job
}

#[test]
fn a_run_goes_from_raw_tables_to_lists_and_both_engines_agree() {
    for model in MODELS {
        let job = job(model, "engines");
        goes_to_lists_in_both_engines(&job);
        let encoders = inspect(&job.path("ort/towers/user_tower.onnx")).unwrap().encoders;
        let intervals = if model == "tisasrec" { SPAN + 1 } else { 0 };
        let block = match model {
            "attention" => BlockShape { kind: BlockKind::Ligr, feed_forward_multiple: 2 },
            _ => BlockShape::default(),
        };
        assert_eq!(encoders, [EncoderSize { len: LEN, dim: 8, blocks: 2, block, heads: 2, streams: None, intervals }]);
    }
}

#[test]
fn a_training_that_was_killed_resumes_to_the_same_bytes() {
    MODELS.into_iter().for_each(|model| resumes_to_the_same_bytes(&job(model, "kill")));
}

#[test]
fn a_second_day_without_training_has_new_vectors_for_those_who_did_something() {
    MODELS.into_iter().for_each(has_new_vectors_on_a_second_day);
}

fn has_new_vectors_on_a_second_day(model: &str) {
    let job = job(model, "days");
    job.native();
    job.ok("run --run runs/day1 --quiet");
    // One user does more; two change the order of what they did last.
    let mut events = interactions();
    const BUSY: usize = 40;
    for (at, item) in [11, 12, 13].into_iter().enumerate() {
        events.ints("user_id").push(Some(user_id(BUSY)));
        events.ints("item_id").push(Some(item_id(item)));
        events.ints("ts").push(Some(1_703_000_000 + at as i64));
    }
    let mut active = BTreeSet::from([user_id(BUSY).to_string()]);
    let users = events.ints("user_id").clone();
    for user in 41..USERS {
        let mine: Vec<usize> = (0..users.len()).filter(|row| users[*row] == Some(user_id(user))).collect();
        let items = events.ints("item_id");
        if let [.., second, first] = mine[..]
            && items[first] != items[second]
            && active.len() < 3
        {
            items.swap(first, second);
            active.insert(user_id(user).to_string());
        }
    }
    assert_eq!(active.len(), 3);
    events.write_parquet(&job.path("interactions.parquet"));
    let night = "--update-from runs/day1 --no-train --quiet --accept history";
    job.ok(&format!("run --run runs/apart {night}"));
    job.ok(&format!("run --run runs/fused --fused {night}"));
    let (before, after) = (by_user(&job.path("runs/day1")), by_user(&job.path("runs/apart")));
    let changed: BTreeSet<String> = before.keys().filter(|user| before[*user] != after[*user]).cloned().collect();
    assert_eq!(changed, active);
    let [apart, fused] = ["apart", "fused"].map(|run| recalled(&job.path(&format!("runs/{run}/recall"))));
    assert!(fused == apart, "the lists of a fused run differ");
    assert_eq!(
        without_history(&job.path("runs/fused"), "recall"),
        without_history(&job.path("runs/apart"), "vectors/user")
    );
    assert_eq!(fused.len(), USERS);
    assert!(fused.iter().all(|(_, list)| list.len() == 10 && list.len() < ITEMS));
}

#[test]
fn sasrec_refuses_other_features_before_anything_is_read() {
    let job = job("sasrec", "features");
    job.edit(
        "    { kind = \"id\", name = \"item\" },",
        "    { kind = \"id\", name = \"item\" },\n    { kind = \"categorical\", name = \"category\" },",
    );
    job.refused("run --quiet", 2, &["`features.item`", "`category`", "`pooling = \"attention\"`"]);
    assert!(!job.path("run").exists());
}

#[test]
fn intervals_need_times_that_count_something_before_anything_is_trained() {
    let job = job("tisasrec", "clock");
    job.native();
    job.one_epoch();
    let timestamp = "timestamp = \"ts\"\n";
    job.edit(timestamp, "");
    job.refused("run --quiet", 2, &["`recent` has `intervals`", "`tables.interactions.timestamp`"]);
    assert!(!job.path("run").exists());
    // Numbers of events are in order, but no clock.
    let mut events = interactions();
    let count = events.ints("ts").len() as i64;
    *events.ints("ts") = (0..count).map(Some).collect();
    events.write_parquet(&job.path("interactions.parquet"));
    job.edit("item = \"item_id\"\n", &format!("item = \"item_id\"\n{timestamp}"));
    job.refused("run --quiet", 3, &["`recent` has `intervals`", "`tables.interactions.timestamp_unit`"]);
    assert!(!job.path("run/encoders/manifest.json").exists());
    // The other models take them as they are.
    let span = format!(", intervals = \"personal\", span = {SPAN}");
    job.edit(timestamp, &format!("{timestamp}timestamp_unit = \"second\"\n"));
    job.ok("encode-features --run stated --quiet");
    job.edit(&span, "");
    job.refused("run --quiet", 2, &["`features.user`", "`intervals = \"hour\"`", "`recent` without them"]);
    job.edit("kind = \"tisasrec\"", "kind = \"sasrec\"");
    job.edit("timestamp_unit = \"second\"\n", "");
    job.ok("encode-features --run order --quiet");
}

#[test]
fn the_same_times_in_another_unit_give_the_same_vectors() {
    let vectors_of = |name: &str, factor: i64| {
        let job = job("tisasrec", name);
        job.native();
        job.one_epoch();
        job.edit("\"personal\"", "\"day\"");
        let mut events = interactions();
        events.ints("ts").iter_mut().flatten().for_each(|time| *time *= factor);
        events.write_parquet(&job.path("interactions.parquet"));
        job.ok("run --quiet --accept metric");
        by_user(&job.path("run"))
    };
    let seconds = vectors_of("seconds", 1);
    assert_eq!(seconds.len(), USERS);
    assert!(vectors_of("milliseconds", 1000) == seconds);
}
