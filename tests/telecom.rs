//! Tables as a telecom company's systems export them (GBK, Chinese column names, dates in two spellings, ids with leading
//! zeros, of which some are missing or stand twice) go from `init` through `run` as they are, with the job as `init` writes it.

mod fixture;

use fixture::{Job, results};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Users of the set, before some of their rows are written twice.
const USERS: usize = 8000;

/// The lines of a table below its header, in cells. None of the cells looked at has a comma.
fn rows(path: &Path) -> Vec<Vec<String>> {
    let bytes = std::fs::read(path).unwrap();
    let (text, _, is_damaged) = encoding_rs::GBK.decode(&bytes);
    assert!(!is_damaged && std::str::from_utf8(&bytes).is_err(), "{} is no GBK", path.display());
    text.split_terminator("\r\n").skip(1).map(|line| line.split(',').map(str::to_string).collect()).collect()
}

#[test]
fn tables_as_systems_export_them_go_from_init_through_run_without_an_edit() {
    let job = Job::empty("telecom");
    job.ok(&format!("synth data --exported --users {USERS} --items 200 --quiet"));
    let users = rows(&job.path("data/users/part-00000.csv"));
    let missing = users.iter().filter(|row| row[0].is_empty()).count();
    let ids: BTreeSet<&str> = users.iter().map(|row| &*row[0]).filter(|id| !id.is_empty()).collect();
    let repeated = users.len() - missing - ids.len();
    assert!(missing > 0 && repeated > 0 && ids.len() + missing == USERS, "{missing} missing, {repeated} repeated");

    // Of 200 items one lacks its id, and one stands twice.
    let items = rows(&job.path("data/items.csv"));
    let titles: BTreeMap<&str, &str> =
        items.iter().filter(|row| !row[0].is_empty()).map(|row| (&*row[0], &*row[1])).collect();
    assert_eq!((items.len(), titles.len()), (201, 199));

    let tables = "--users data/users --items data/items.csv --interactions data/interactions";
    let guesses = job.ok(&format!("init {tables} --output pipeline.toml")).stderr;
    for guess in [
        "users: encoding \"gbk\"",
        "users.用户编号: id",
        "items.产品编号: id: 201 rows, of which 1 lacks an id and 1 repeats one",
        "items.产品名称: skipped: text",
        "rows cannot be used, such as row",
        "interactions.订购时间: timestamp",
        "users.是否5G: guessed boolean",
        "users.入网日期: guessed date",
        "users.年消费: guessed numeric",
        "users.套餐编码: guessed categorical",
        "items.月费: guessed numeric",
        "items.上架日期: guessed date",
    ] {
        assert!(guesses.to_lowercase().contains(&guess.to_lowercase()), "`{guess}` in\n{guesses}");
    }

    let object = job.json("run --run runs/day");
    assert_eq!(object["published"], true, "{object}");

    // Every user with an id of his own, and no other, by the id as it is written.
    let lists = results::recalled(&job.path("runs/day/recall"));
    let found: BTreeSet<&str> = lists.iter().map(|(user, _)| user.as_str().unwrap()).collect();
    assert_eq!(found.len(), lists.len());
    assert!(found == ids && ids.iter().all(|id| id.len() == 11 && id.starts_with('0')));
    for (user, list) in &lists {
        assert_eq!(list.len(), 50, "{user}");
        assert!(list.iter().all(|(item, _)| titles.contains_key(item.as_str().unwrap())), "{user}");
    }

    // Rows without an id of their own are set aside, each with its line.
    let set_aside = std::fs::read_to_string(job.path("runs/day/encoders/quarantine.jsonl")).unwrap();
    let set_aside: Vec<Value> = set_aside.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |table: &str| set_aside.iter().filter(|row| row["table"] == table).collect::<Vec<_>>();
    assert_eq!((of("users").len(), of("items").len()), (missing + repeated, 2));
    for row in of("items") {
        let line = &items[row["line"].as_u64().unwrap() as usize - 2];
        assert!(line[0].is_empty() || items.iter().filter(|other| other[0] == line[0]).count() == 2, "{row}: {line:?}");
    }

    // The model has learnt: it is well above popularity, and what is shown has the titles of the table.
    let models = &object["summary"]["metrics"]["models"];
    let hit = |model: &str| models[model]["hit@10"].as_f64().unwrap();
    println!("hit@10: model {}, popularity {}, item to item {}", hit("model"), hit("popularity"), hit("item_to_item"));
    assert!(hit("model") > 1.2 * hit("popularity"), "{models}");
    assert!(hit("model") > hit("item_to_item"), "{models}");
    let shown = object["summary"]["users"].as_array().unwrap();
    assert_eq!(shown.len(), 5);
    for item in shown.iter().flat_map(|user| user["items"].as_array().unwrap()) {
        assert_eq!(item["title"], titles[item["item"].as_str().unwrap()], "{item}");
    }
    let told = job.ok("lookup runs/day --user 00000000007").stdout;
    assert!(told.starts_with("user 00000000007 (") && told.contains("元"), "{told}");
}
