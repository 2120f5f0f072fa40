//! Looking into results: a user's history and items, what is near an item, item to item, and items for newcomers.

mod fixture;

use fixture::results::{histories, outputs, read_parquet, recalled, vectors};
use fixture::sheet::{Column, Sheet};
use fixture::{ITEMS, Job, interactions, item_id, items, user_id, users};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use twotower_artifacts::Manifest;

/// A small job whose items have titles, with a complete run in parts of 60 users, and the same results in other forms.
fn job() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::small("lookup");
        let title = |i: usize| Some(format!("title of {i}"));
        items().with("said", Column::Text((0..ITEMS).map(title).collect())).write_parquet(&job.path("items.parquet"));
        job.edit("id = \"item_id\"\n", "id = \"item_id\"\ntitle = \"said\"\n");
        // How good so small a model is, is not the question.
        let parts =
            "--set run.part_users=60 --set gates.off=[\"metric\",\"lists\",\"coverage\",\"overlap\",\"users\"] --quiet";
        job.ok(&format!("run --run runs/lists {parts}"));
        for (run, format) in [("long", "parquet-long"), ("lines", "jsonl")] {
            job.ok(&format!("run --run runs/{run} --set recall.format={format} {parts}"));
        }
        job
    })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The title of an item, by its id.
fn title(item: &Value) -> String {
    format!("title of {}", (0..ITEMS).find(|row| *item == item_id(*row)).unwrap())
}

#[test]
fn a_user_is_shown_with_the_whole_history_and_list_whatever_the_format() {
    let job = job().copy("lookup-users");
    let lists: BTreeMap<String, _> =
        recalled(&job.path("runs/lists/recall")).into_iter().map(|(user, list)| (user.to_string(), list)).collect();
    assert_eq!(lists.len(), 150);
    let timeline = histories(&job.path("runs/lists"));
    let mut ids: Vec<i64> = (0..ITEMS).map(item_id).collect();
    ids.sort_unstable();
    // In the first and in the last part, with and without a history.
    for row in [0, 3, 9, 61, 149] {
        let user = user_id(row).to_string();
        let at = timeline.rows.binary_search(&(row as u64)).ok();
        let events = at.map_or(0..0, |at| timeline.events(at));
        let expected: Vec<Value> = events.clone().rev().map(|e| ids[timeline.items[e] as usize].into()).collect();
        for run in ["lists", "long", "lines"] {
            let shown = job.json(&format!("lookup runs/{run} --user {user}"));
            assert_eq!(
                (shown["user"].to_string(), shown["events"].as_u64()),
                (user.clone(), Some(events.len() as u64))
            );
            let had: Vec<Value> =
                shown["history"].as_array().unwrap().iter().map(|past| past["item"].clone()).collect();
            assert_eq!(had, expected, "{run}: user {user}");
            let newest_first = shown["history"].as_array().unwrap().iter().map(|past| past["time"].as_str().unwrap());
            assert!(newest_first.is_sorted_by(|a, b| a >= b), "{shown}");
            let gets = shown["items"].as_array().unwrap();
            let pairs: Vec<(Value, f32)> = gets
                .iter()
                .map(|item| (item["item"].clone(), item["cosine_similarity"].as_f64().unwrap() as f32))
                .collect();
            assert_eq!(pairs, lists[&user], "{run}: user {user}");
            for item in gets.iter().chain(shown["history"].as_array().unwrap()) {
                assert_eq!(item["title"].as_str(), Some(&*title(&item["item"])), "{item}");
            }
        }
    }
    let told = job.ok(&format!("lookup runs/lists --user {} --limit 2", user_id(0))).stdout;
    assert!(told.starts_with(&format!("user {} (", user_id(0))) && told.contains("  gets  +"), "{told}");
    assert!(told.contains("title of ") && told.contains("--limit"), "{told}");
    job.refused("lookup runs/lists --user 17", 2, &["no results and no history of a user 17"]);
    job.refused("lookup runs/lists --user anna", 2, &["--user anna", "whole numbers"]);
    job.refused("lookup runs/lists", 2, &["--user", "--item"]);
}

#[test]
fn whatever_looks_at_a_run_says_that_there_is_none_and_how_to_make_one() {
    let job = job().copy("lookup-nowhere");
    let latest = "there is no run other/latest; `twotower run --run other/NAME` makes one, and `latest` names it";
    for line in [
        "lookup other/latest --user 17",
        "lookup other/latest --item 17",
        "similar --run other/latest --output near",
        "verify other/latest",
        "profile --run other/latest",
        "publish --run other/latest",
        "vocab show other/latest/encoders",
        "evaluate --compare other/latest runs/lists",
        "run --run runs/x --update-from other/latest",
    ] {
        job.refused(line, 1, &[latest]);
    }
    job.refused(
        "lookup runs/list --user 17",
        1,
        &["no run runs/list; `twotower run --run runs/list` makes it", "runs list runs"],
    );
    for line in ["runs list other", "runs prune --keep 2 other", "rollback --runs other"] {
        job.refused(line, 1, &["other is missing", "`twotower run --run other/NAME` makes one"]);
    }
    assert!(!job.path("other").exists() && !job.path("near").exists() && !job.path("runs/x").exists());
    // The steps that are named are there.
    job.ok("runs list runs");
}

#[test]
fn an_id_that_is_written_otherwise_is_proposed() {
    let job = Job::small("lookup-alike");
    let text = |sheet: Sheet, column: &str| {
        let mut sheet = sheet;
        let ids: Vec<Option<String>> =
            sheet.ints(column).iter().map(|id| Some(format!("{:011}", id.unwrap()))).collect();
        sheet.without(column).with(column, Column::Text(ids))
    };
    text(users().take(0..150), "user_id").write_parquet(&job.path("users.parquet"));
    text(items(), "item_id").write_parquet(&job.path("items.parquet"));
    let events = interactions().take(0..1000);
    text(text(events, "user_id"), "item_id").write_parquet(&job.path("interactions.parquet"));
    for stage in ["encode-features", "train", "infer --side item", "infer --side user"] {
        job.ok(&format!("{stage} --run runs/text --quiet"));
    }
    let (user, item) = (user_id(7), item_id(7));
    for format in ["parquet", "parquet-long", "jsonl"] {
        job.ok(&format!("recall --run runs/text --set recall.format={format} --force --quiet"));
        let meant = format!("did you mean \"{user:011}\"? they differ in leading zeros");
        job.refused(&format!("lookup runs/text --user {user}"), 2, &[&meant]);
    }
    job.ok(&format!("lookup runs/text --user {user:011}"));
    let meant = format!("did you mean \"{item:011}\"? they differ in leading zeros");
    job.refused(&format!("lookup runs/text --item {item}"), 2, &[&meant]);
    job.ok(&format!("lookup runs/text --item {item:011}"));
    job.refused("lookup runs/text --user nobody", 2, &["ids are as the users table has them"]);
}

#[test]
fn a_user_whom_only_interactions_name_has_a_history_and_no_list() {
    let job = job().copy("lookup-stranger");
    // Of user 0 the row of the users table is taken away.
    users().take(1..150).write_parquet(&job.path("users.parquet"));
    for stage in ["encode-features", "train", "infer --side item", "recall --fused"] {
        job.ok(&format!("{stage} --run runs/without --quiet"));
    }
    let shown = job.json(&format!("lookup runs/without --user {}", user_id(0)));
    let before = job.json(&format!("lookup runs/lists --user {}", user_id(0)));
    assert_eq!((&shown["history"], &shown["items"]), (&before["history"], &Value::Array(Vec::new())));
    assert!(shown["events"].as_u64() > Some(3), "{shown}");
}

#[test]
fn the_items_nearest_to_an_item_are_those_of_the_highest_cosine() {
    let job = job().copy("lookup-items");
    let all = vectors(&job.path("runs/lists/vectors/item"));
    let own = &all.iter().find(|(id, _)| *id == item_id(7)).unwrap().1;
    let mut expected: Vec<(i64, f64)> = all
        .iter()
        .filter(|(id, _)| *id != item_id(7))
        .map(|(id, vector)| (id.as_i64().unwrap(), cosine(own, vector)))
        .collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown = job.json(&format!("lookup runs/lists --item {} --limit 5", item_id(7)));
    assert_eq!((&shown["item"], shown["title"].as_str()), (&item_id(7).into(), Some("title of 7")));
    let near = shown["nearest"].as_array().unwrap();
    assert_eq!(near.len(), 5);
    for (found, (id, similarity)) in near.iter().zip(&expected) {
        assert_eq!((&found["item"], found["title"].as_str()), (&(*id).into(), Some(&*title(&found["item"]))));
        assert!((found["cosine_similarity"].as_f64().unwrap() - similarity).abs() < 1e-6, "{found} {similarity}");
    }
    let told = job.ok(&format!("lookup runs/lists --item {} --limit 5", item_id(7))).stdout;
    assert!(told.starts_with(&format!("item {}  title of 7\n  near  +", item_id(7))), "{told}");
    assert_eq!(told.lines().count(), 6);
    job.refused("lookup runs/lists --item 7", 2, &["no vector of an item 7"]);
}

#[test]
fn similar_items_are_written_for_the_whole_catalogue_in_every_format() {
    let job = job().copy("lookup-similar");
    let before = outputs(&job.path("runs/lists"));
    let done = job.json("similar --run runs/lists --topk 4 --output near");
    assert_eq!((&done["rows"]["items"], &done["rows"]["pairs"]), (&ITEMS.into(), &(4 * ITEMS).into()));
    let lines = |dir: &str| std::fs::read_to_string(job.path(dir).join("similar.jsonl")).unwrap();
    job.ok("similar --run runs/lists --topk 4 --output lines --format jsonl --quiet");
    let mut seen = 0;
    for line in lines("lines").lines() {
        let list: Value = serde_json::from_str(line).unwrap();
        let near = job.json(&format!("lookup runs/lists --item {} --limit 4", list["item_id"]));
        for (at, found) in near["nearest"].as_array().unwrap().iter().enumerate() {
            assert_eq!(found["item"], list["similar_item_ids"][at], "{line}");
            assert_eq!(
                found["cosine_similarity"].as_f64().map(|s| s as f32),
                list["cosine_similarity"][at].as_f64().map(|s| s as f32)
            );
        }
        seen += 1;
        if seen == 6 {
            break;
        }
    }
    assert_eq!(lines("lines").lines().count(), ITEMS);
    let columns = |path: &str| -> Vec<String> {
        let batches = read_parquet(&job.path(path));
        assert!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>() > 0);
        batches[0].schema().fields().iter().map(|field| field.name().clone()).collect()
    };
    assert_eq!(columns("near/similar.parquet"), ["item_id", "similar_item_ids", "cosine_similarity"]);
    // The same again is nothing to do; another form replaces what is there.
    assert_eq!(job.json("similar --run runs/lists --topk 4 --output near")["skipped"], true);
    job.ok("similar --run runs/lists --topk 4 --output lines --format parquet-long --quiet");
    assert_eq!(columns("lines/similar.parquet"), ["item_id", "rank", "similar_item_id", "cosine_similarity"]);
    assert!(!job.path("lines/similar.jsonl").exists());
    Manifest::read(job.path("lines/manifest.json")).unwrap().verify_files(job.path("lines")).unwrap();
    assert!(outputs(&job.path("runs/lists")) == before, "the run has changed");
    job.refused("similar --run runs/lists --output runs/lists/near", 2, &["lies in the run"]);
    job.refused("similar --run runs/lists --output runs", 2, &["runs are kept"]);
    std::fs::write(job.path("lines/mine"), "").unwrap();
    std::fs::remove_file(job.path("lines/output.json")).unwrap();
    job.refused("similar --run runs/lists --output lines", 4, &["similar: --output lines", "did not make it"]);
}

#[test]
fn newcomers_get_the_items_of_their_vectors_and_the_run_stays_as_it_is() {
    let job = job().copy("lookup-newcomers");
    // Users of the fixture beyond the 150 of the job, one who is in it, and who has seen items.
    let newcomers = users().take((150..190).chain([3]));
    newcomers.write_parquet(&job.path("new.parquet"));
    std::fs::write(job.path("new.csv"), newcomers.text(",")).unwrap();
    let before = outputs(&job.path("runs/lists"));
    let line = "infer --run runs/lists --side user --table new.parquet --output";
    let done = job.json(&format!("{line} items --recall"));
    assert_eq!((&done["rows"]["users"], &done["stage"]), (&41.into(), &"recall".into()));
    job.ok(&format!("{line} vectors --quiet"));
    let items = vectors(&job.path("runs/lists/vectors/item"));
    let own: BTreeMap<String, Vec<f32>> =
        vectors(&job.path("vectors/vectors")).into_iter().map(|(id, vector)| (id.to_string(), vector)).collect();
    let lists = recalled(&job.path("items/recall"));
    assert_eq!(lists.len(), 41);
    let timeline = histories(&job.path("runs/lists"));
    let at = timeline.rows.binary_search(&3).unwrap();
    let mut ids: Vec<i64> = (0..ITEMS).map(item_id).collect();
    ids.sort_unstable();
    let seen: Vec<i64> = timeline.events(at).map(|e| ids[timeline.items[e] as usize]).collect();
    for (user, list) in &lists {
        let known = *user == user_id(3);
        let left = |id: &Value| !known || !seen.contains(&id.as_i64().unwrap());
        let mut expected: Vec<f64> =
            items.iter().filter(|(id, _)| left(id)).map(|(_, v)| cosine(&own[&user.to_string()], v)).collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(list.len(), 10);
        for ((item, similarity), best) in list.iter().zip(&expected) {
            assert!((f64::from(*similarity) - best).abs() < 1e-6 && left(item), "user {user}: {item}");
        }
    }
    // The last of them is known to the run, and gets what he gets there.
    let in_run = job.json(&format!("lookup runs/lists --user {}", user_id(3)));
    assert_eq!(lists[40].1[0].0, in_run["items"][0]["item"]);
    // As text, whose ids are numbers of the run; and again, for nothing.
    job.ok("infer --run runs/lists --side user --table new.csv --output of-csv --recall --quiet");
    assert_eq!(recalled(&job.path("of-csv/recall")), lists);
    assert_eq!(job.json(&format!("{line} items --recall"))["skipped"], true);
    assert!(outputs(&job.path("runs/lists")) == before, "the run has changed");
    assert!(job.path("runs/latest").exists());
    assert!(!job.path("items/samples").exists());
    job.refused(&format!("{line} items"), 4, &["recalled items", "vectors of users"]);
    job.refused("infer --run runs/lists --side item --table new.parquet --output x --recall", 2, &["--side user"]);
}
