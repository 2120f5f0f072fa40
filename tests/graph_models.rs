//! `kind = "lightgcn"` from raw tables to lists: all stages, both engines, a kill and a resume, a second day with new users
//! and items that trains and one that does not.

mod faults;
mod fixture;

use faults::training::resumes_to_the_same_bytes;
use fixture::engines::{distance, goes_to_lists_in_both_engines};
use fixture::results::{assert_whole, by_user, files, recalled, recalled_of, recalled_with, text, vectors};
use fixture::sheet::{Column, Sheet};
use fixture::{ITEMS, Job, USERS, had, interactions, item_id, items, user_id, users};
use std::collections::{BTreeMap, BTreeSet};
use twotower_artifacts::VectorsReader;
use twotower_encoders::store::load_vocabulary;
use twotower_models::onnx;

/// Width of the model's vectors. Those of the towers have a coordinate more.
const DIM: usize = 8;
/// Users and items of the first day.
const OLD_USERS: usize = 1400;
const OLD_ITEMS: usize = 50;

/// The small job with a graph of its users and items.
fn job(name: &str) -> Job {
    let job = Job::new(&format!("lightgcn-{name}"));
    let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
    let of_others = |line: &&str| line.starts_with("    { kind") && !line.contains("recent") && !line.contains("id\"");
    let lines: Vec<&str> = text.lines().filter(|line| !of_others(line)).collect();
    job.write("pipeline.toml", &lines.join("\n"));
    job.edit("user = [", "user = [\n    { kind = \"id\", name = \"user\" },");
    job.edit("max_len = 3", "max_len = 20");
    let settings = format!("kind = \"lightgcn\"\ndim = {DIM}\nlayers = 2");
    job.edit("kind = \"dssm\"\nembedding_dim = 8\nhidden = [16, 8]", &settings);
    job.edit("epochs = 2", "epochs = 4\nlearning_rate = 0.02\nloss = { bpr = { negatives = 1 } }");
    job
}

/// The interactions of the first users and items.
fn events(users: usize, items: usize) -> Sheet {
    let mut all = interactions();
    let known_users: BTreeSet<i64> = (0..users).map(user_id).collect();
    let known_items: BTreeSet<i64> = (0..items).map(item_id).collect();
    let (of_user, of_item) = (all.ints("user_id").clone(), all.ints("item_id").clone());
    let is_known =
        |row: &usize| known_users.contains(&of_user[*row].unwrap()) && known_items.contains(&of_item[*row].unwrap());
    all.take((0..of_user.len()).filter(is_known))
}

/// Gives a job the tables of the first users and items.
fn tables(job: &Job, of_users: usize, of_items: usize) {
    users().take(0..of_users).write_parquet(&job.path("users.parquet"));
    items().take(0..of_items).write_parquet(&job.path("items.parquet"));
    events(of_users, of_items).write_parquet(&job.path("interactions.parquet"));
}

/// The loss of a run's first epoch.
fn first_loss(job: &Job, run: &str) -> f64 {
    let report = std::fs::read(job.path(&format!("{run}/towers/training.json"))).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    report["epochs"][0]["loss"].as_f64().unwrap()
}

/// A vector's direction.
fn direction(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

#[test]
fn a_run_goes_from_raw_tables_to_lists_and_both_engines_agree() {
    let job = job("engines");
    let (native, had) = (goes_to_lists_in_both_engines(&job), had());
    assert!(native.values().all(|vector| vector.len() == DIM + 1));
    // Users with a node have vectors of their own, and all others that of unknown users.
    let of_strangers: BTreeSet<Vec<u32>> = native
        .iter()
        .filter(|(user, _)| !had.contains_key(*user))
        .map(|(_, vector)| vector.iter().map(|x| x.to_bits()).collect())
        .collect();
    assert_eq!(of_strangers.len(), 1);
    let all: BTreeSet<Vec<u32>> = native.values().map(|vector| vector.iter().map(|x| x.to_bits()).collect()).collect();
    assert_eq!(all.len(), had.len() + 1);
}

#[test]
fn a_training_that_was_killed_resumes_to_the_same_bytes() {
    resumes_to_the_same_bytes(&job("kill"));
}

#[test]
fn a_second_day_trains_new_users_and_items_from_the_first_day_s_vectors() {
    let job = job("days");
    job.native();
    tables(&job, OLD_USERS, OLD_ITEMS);
    job.ok("run --run runs/day1 --quiet");
    tables(&job, USERS, ITEMS);
    job.ok("run --run runs/day2 --update-from runs/day1 --quiet --accept overlap --accept unknown --accept history --accept rows --accept items");
    assert_whole(&job.path("runs/day2"));
    assert!(first_loss(&job, "runs/day2") < 0.9 * first_loss(&job, "runs/day1"), "the second day began afresh");
    let lists = recalled(&job.path("runs/day2/recall"));
    assert_eq!(lists.len(), USERS);
    let new_items: BTreeSet<String> = (OLD_ITEMS..ITEMS).map(|item| item_id(item).to_string()).collect();
    let gets_new = |(_, list): &&(_, Vec<(serde_json::Value, f32)>)| {
        list.iter().any(|(item, _)| new_items.contains(&item.to_string()))
    };
    assert!(lists.iter().filter(gets_new).count() > USERS / 10);
    let (had, vectors) = (had(), by_user(&job.path("runs/day2")));
    let stranger = &vectors[&user_id(9).to_string()];
    let new = (OLD_USERS..USERS).map(|user| user_id(user).to_string());
    for user in new {
        assert_eq!(vectors[&user] == *stranger, !had.contains_key(&user), "user {user}");
    }
}

#[test]
fn without_training_new_users_get_the_mean_of_their_items_apart_and_fused() {
    let job = job("fold-in");
    job.native();
    tables(&job, OLD_USERS, OLD_ITEMS);
    job.ok("run --run runs/day1 --quiet");
    tables(&job, USERS, ITEMS);
    let night = "--update-from runs/day1 --no-train --quiet --accept overlap --accept unknown --accept history --accept rows --accept items";
    job.ok(&format!("run --run runs/apart {night}"));
    job.ok(&format!("run --run runs/fused --fused {night}"));
    let [apart, fused] = ["apart", "fused"].map(|run| recalled(&job.path(&format!("runs/{run}/recall"))));
    assert!(fused == apart && fused.len() == USERS, "the lists of a fused run differ");
    let (before, after) = (by_user(&job.path("runs/day1")), by_user(&job.path("runs/apart")));
    let of_items: BTreeMap<i64, Vec<f32>> = vectors(&job.path("runs/apart/vectors/item"))
        .into_iter()
        .map(|(id, vector)| (id.as_i64().unwrap(), vector))
        .collect();
    let mut history: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut all = interactions();
    for (user, item) in all.ints("user_id").clone().iter().zip(all.ints("item_id")) {
        history.entry(user.unwrap().to_string()).or_default().push(item.unwrap());
    }
    let stranger = &before[&user_id(9).to_string()];
    let mut folded = 0;
    for user in 0..USERS {
        let user = user_id(user).to_string();
        let found = &after[&user];
        match (before.get(&user), history.get(&user)) {
            // Those who had a node keep their vector, whatever they did since.
            (Some(before), _) if before != stranger => assert_eq!(found, before, "user {user}"),
            (_, None) => assert_eq!(found, stranger, "user {user}"),
            (_, Some(items)) => {
                // Items' vectors are lengthened to one length, so their first coordinates add up as what was trained does.
                let mut sum = [0.0; DIM];
                for item in items {
                    sum.iter_mut().zip(&of_items[item]).for_each(|(sum, x)| *sum += x);
                }
                let worst = distance(&direction(&sum), &found[..DIM]);
                assert!(worst <= 1e-4 && found[DIM] == 0.0, "user {user}: {worst}");
                folded += 1;
            }
        }
    }
    assert!(folded > (USERS - OLD_USERS) / 2, "{folded}");
}

#[test]
fn other_features_and_a_decay_are_refused_before_anything_is_read() {
    let job = job("features");
    let user = "    { kind = \"id\", name = \"user\" },";
    job.edit(user, &format!("{user}\n    {{ kind = \"categorical\", name = \"city\" }},"));
    job.refused("run --quiet", 2, &["`features.user`", "`city`", "of kind `id`"]);
    job.edit("    { kind = \"categorical\", name = \"city\" },\n", "");
    job.refused(
        "run --quiet --set train.embedding_weight_decay=0.1",
        2,
        &["`train.embedding_weight_decay`", "`model.penalty`"],
    );
    assert!(!job.path("run").exists());
}

/// Numbers of a text.
const TEXT: usize = 12;

/// A text of an item: its category's direction, and a little of its own.
fn text_of_item(item: usize) -> Vec<f32> {
    (0..TEXT).map(|i| f32::from(i == item % 5) + 0.2 * ((item * 7 + i * 3) % 11) as f32 / 11.0).collect()
}

/// Writes the texts of some items, in this order.
fn write_texts(job: &Job, of: impl Iterator<Item = (usize, Vec<f32>)>) {
    let (ids, texts): (Vec<_>, Vec<_>) = of.map(|(item, text)| (Some(item_id(item)), Some(text))).unzip();
    Sheet::new([("item", Column::Int(ids))]).write_parquet_with(&job.path("texts.parquet"), "text", &texts);
}

/// Vectors of a run's items, by their place in the table.
fn of_items(job: &Job, run: &str) -> Vec<Vec<f32>> {
    vectors(&job.path(&format!("{run}/vectors/item"))).into_iter().map(|(_, vector)| vector).collect()
}

#[test]
fn texts_are_found_by_id_and_new_items_of_a_night_without_training_are_what_their_texts_say() {
    let job = job("texts");
    job.native();
    let id = "{ kind = \"id\", name = \"item\" },";
    let file = format!(
        "{{ kind = \"vector\", name = \"text\", dim = {TEXT}, file = \"texts.parquet\", file_id = \"item\" }},"
    );
    job.edit(id, &format!("{id}\n    {file}"));
    job.refused("run --quiet", 2, &["`features.item`", "`text`", "[model.text]"]);
    job.edit("layers = 2", "layers = 2\ntext = { mode = \"residual\" }");
    tables(&job, OLD_USERS, OLD_ITEMS);
    // Of the new items, the last three have the texts of the first three, and the fourth has none.
    let with_text = || (0..ITEMS).filter(|item| *item != OLD_ITEMS + 3);
    let of = |item: usize| (item, text_of_item(if item >= ITEMS - 3 { item + OLD_ITEMS + 3 - ITEMS } else { item }));
    write_texts(&job, with_text().map(of));
    job.ok("run --run runs/day1 --quiet");
    write_texts(&job, with_text().rev().map(of));
    job.ok("run --run runs/turned --quiet");
    assert!(of_items(&job, "runs/day1") == of_items(&job, "runs/turned"), "rows of the side file matter");

    tables(&job, USERS, ITEMS);
    let night = "--update-from runs/day1 --no-train --quiet --accept overlap --accept unknown --accept history --accept rows --accept items";
    job.ok(&format!("run --run runs/day2 {night}"));
    job.ok(&format!("run --run runs/ort --engine ort {night}"));
    let (found, ort) = (of_items(&job, "runs/day2"), of_items(&job, "runs/ort"));
    assert!(found.iter().zip(&ort).all(|(a, b)| distance(a, b) <= 1e-4), "the engines differ");
    assert_eq!(found[..OLD_ITEMS], of_items(&job, "runs/day1"));
    for new in 0..3 {
        assert_eq!(found[OLD_ITEMS + new], found[ITEMS - 3 + new]);
        assert!(distance(&found[OLD_ITEMS + new], &found[OLD_ITEMS + 3]) > 1e-3, "it is as if it had no text");
        assert!(distance(&found[OLD_ITEMS + new], &found[OLD_ITEMS + new + 1]) > 1e-3);
    }
}

#[test]
fn a_split_of_cold_items_is_evaluated_and_named() {
    let job = job("cold");
    job.native();
    let split = "--set split={kind=\"cold_items\",items=0.1} --quiet";
    for stage in ["encode-features", "train", "evaluate"] {
        job.ok(&format!("{stage} {split}"));
    }
    let metrics = std::fs::read(job.path("run/evaluation/metrics.json")).unwrap();
    let metrics: serde_json::Value = serde_json::from_slice(&metrics).unwrap();
    let protocol = metrics["protocol"].as_str().unwrap();
    assert!(protocol.contains("cold items, seed 1 (all events of 0.1 of the items test"), "{protocol}");
    // Nobody has taken them in training, so they are the last ones by popularity.
    assert_eq!(metrics["models"]["popularity"]["recall@5"], 0.0);
    assert!(metrics["users"].as_u64().unwrap() > 100, "{metrics}");
}

#[test]
fn lists_of_inner_products_have_scores_by_which_they_are_the_exact_maximum() {
    let job = job("scores");
    job.native();
    let had = had();
    job.ok("run --run run --quiet --accept metric");
    // The model's own item vectors are in the tower, before a coordinate is added to each, and so is the longest length.
    let (tower, metadata) = onnx::read(&job.path("run/towers/item_tower.onnx")).unwrap();
    let table = &tower.tables["item_id"];
    let codes = load_vocabulary(job.path("run/encoders/vocab/item_id.bin")).unwrap();
    let own: BTreeMap<String, &[f32]> = (0..ITEMS)
        .map(|item| item_id(item).to_string())
        .map(|id| (id.clone(), &table.data[codes.lookup(&id) as usize * (DIM + 1)..][..DIM]))
        .collect();
    let inner = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let longest =
        table.data.chunks_exact(DIM + 1).map(|row| inner(&row[..DIM], &row[..DIM]).sqrt()).fold(0.0, f64::max);
    let scale = metadata.inner_product_scale.unwrap();
    assert!((f64::from(scale) / longest - 1.0).abs() < 1e-6, "{scale}, longest {longest}");
    let of_vectors = VectorsReader::open(job.path("run/vectors/item/part-00000-of-00001.parquet")).unwrap();
    assert_eq!(of_vectors.info().inner_product_scale, Some(scale));
    let manifest = std::fs::read(job.path("run/towers/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["details"]["inner product scale"].as_f64().unwrap() as f32, scale);
    // A user's direction; his length is lost, and scales his scores alike.
    let users = by_user(&job.path("run"));
    let (mut unlike, mut first) = (0, None);
    for format in ["parquet", "parquet-long", "jsonl"] {
        job.ok(&format!("recall --run run --format {format} --quiet"));
        let part = files(&job.path("run/recall"), if format == "jsonl" { "jsonl" } else { "parquet" }).remove(0);
        let (scored, cosines) = (recalled_with(&part, "score"), recalled_of(&part));
        assert_eq!(scored.len(), USERS);
        for ((user, list), (_, cosines)) in scored.iter().zip(&cosines) {
            let (user, nothing) = (user.to_string(), BTreeSet::new());
            let (direction, had) = (&users[&user][..DIM], had.get(&user).unwrap_or(&nothing));
            let mut exact: Vec<(f64, &String)> = own
                .iter()
                .filter(|(item, _)| !had.contains(*item))
                .map(|(item, vector)| (inner(direction, vector), item))
                .collect();
            exact.sort_by(|a, b| b.0.total_cmp(&a.0));
            for (((item, score), (_, cosine)), (expected, _)) in list.iter().zip(cosines).zip(&exact) {
                // Equal up to rounding, so neighbours in the order may change places.
                let exactly = inner(direction, own[&text(item)]);
                let close = |a: f64| (f64::from(*score) - a).abs() < 2e-6 * longest;
                assert!(close(exactly) && close(*expected), "user {user}: {score}, {exactly}, {expected}");
                assert_eq!(*score, scale * cosine);
            }
            let by_cosine = |item: &String| inner(direction, own[item]) / inner(own[item], own[item]).sqrt();
            exact.sort_by(|a, b| by_cosine(b.1).total_cmp(&by_cosine(a.1)));
            unlike += usize::from(exact[0].1 != &text(&list[0].0));
        }
        assert!(first.get_or_insert_with(|| scored.clone()) == &scored, "{format} has other lists");
    }
    assert!(unlike > 0, "lengths of vectors change nothing");

    // What a person sees, and what is measured.
    let (user, list) = &first.unwrap()[0];
    let shown = &job.json(&format!("lookup run --user {user}"))["items"][0];
    assert_eq!((&shown["item"], shown["score"].as_f64().map(|s| s as f32)), (&list[0].0, Some(list[0].1)));
    let told = job.ok("evaluate --run run").stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let metrics = std::fs::read(job.path("run/evaluation/metrics.json")).unwrap();
    let metrics: serde_json::Value = serde_json::from_slice(&metrics).unwrap();
    let overlap = metrics["overlap_with_cosine"]["overlap@10"].as_f64().unwrap();
    assert!(overlap > 0.2 && overlap < 1.0, "{overlap}");
    assert!(told.contains("share of the same items by cosine: "), "{told}");
    assert!(told.contains(&format!("{overlap:.4} at 10")), "{told}");
}
