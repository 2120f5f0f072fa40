//! `profile`: what tables hold is counted right, in every format, and changes are found where there are some.

mod fixture;

use fixture::sheet::Column;
use fixture::{Job, USERS, interactions, items, users};
use serde_json::{Value, json};

/// Five users, three items and seven interactions, of which one cannot be read.
fn small(name: &str) -> Job {
    let job = Job::empty(name);
    let user = |id: u32, city: Value, age: Value, flag: &str, langs: Value| {
        json!({ "id": id, "city": city, "age": age, "plan": "basic", "flag": flag, "langs": langs }).to_string()
    };
    let users = [
        user(1, json!("Zürich"), json!(30), "yes", json!(["de", "fr"])),
        user(2, json!("Zürich"), json!(40), "no", json!(["de", null])),
        user(3, Value::Null, Value::Null, "##", json!([])),
        user(4, json!("東京"), json!(50), "", Value::Null),
        user(5, json!(""), json!(60), "1", json!(["de", "it", "fr"])),
    ];
    job.write("users.jsonl", &(users.join("\n") + "\n"));
    job.write("items.csv", "id,price\n10,1.5\n11,\n13,x\n");
    let events = "1,10,1700000000\n1,11,1700000005\n,10,1700000006\n1,10,1700000009\n2,10,1700000001\n4,12,1700000002\n99,10,1700000003\n";
    job.write("events.csv", &format!("user,item,ts\n{events}"));
    job.write(
        "pipeline.toml",
        r#"
[tables.users]
path = "users.jsonl"
id = "id"
[tables.items]
path = "items.csv"
id = "id"
[tables.interactions]
path = "events.csv"
user = "user"
item = "item"
timestamp = "ts"
[features]
user = [
    { kind = "categorical", name = "city" },
    { kind = "numeric", name = "age" },
    { kind = "categorical", name = "plan" },
    { kind = "boolean", name = "flag" },
    { kind = "multi_valued", name = "langs" },
]
item = [
    { kind = "id", name = "item" },
    { kind = "numeric", name = "price" },
]
"#,
    );
    job
}

/// The feature of that name in a table of a profile.
fn feature<'p>(profile: &'p Value, table: &str, name: &str) -> &'p Value {
    let features = profile[table]["features"].as_array().unwrap();
    features.iter().find(|feature| feature["name"] == name).unwrap()
}

#[test]
fn a_small_table_is_counted_value_by_value() {
    let job = small("profile-small");
    let profile = job.json("profile --segment city --output found --quiet");
    let file: Value = serde_json::from_slice(&std::fs::read(job.path("found/profile.json")).unwrap()).unwrap();
    assert_eq!(file, profile);
    assert_eq!(std::fs::read_dir(job.path("found")).unwrap().count(), 1, "no temporary file is left");
    assert_eq!((&profile["version"], &profile["encoder"]), (&json!(1), &Value::Null));

    let users = &profile["users"];
    assert_eq!((&users["rows"], &users["ids"], &users["unusable"]["rows"]), (&json!(5), &json!(5), &json!(0)));
    let city = feature(&profile, "users", "city");
    assert_eq!((&city["kind"], &city["missing"]), (&json!("categorical"), &json!(2)));
    let top = |values: &[(&str, u64)]| -> Vec<Value> {
        values.iter().map(|(value, count)| json!({ "value": value, "count": count })).collect()
    };
    let expected = json!({ "count": 3, "distinct": 2, "unknown": null, "top": top(&[("Zürich", 2), ("東京", 1)]) });
    assert_eq!(city["values"], expected);
    let plan = json!({ "count": 5, "distinct": 1, "unknown": null, "top": top(&[("basic", 5)]) });
    assert_eq!(feature(&profile, "users", "plan")["values"], plan);
    let flag = feature(&profile, "users", "flag");
    let expected = top(&[("true", 2), ("##", 1), ("false", 1)]);
    assert_eq!(flag["missing"], 1);
    assert_eq!(flag["values"], json!({ "count": 4, "distinct": 3, "unknown": 1, "top": expected }));

    let age = feature(&profile, "users", "age");
    let numbers = &age["numbers"];
    assert_eq!((&age["missing"], &numbers["count"], &numbers["distinct"]), (&json!(1), &json!(4), &json!(4)));
    let figures = ["min", "mean", "max"].map(|name| numbers[name].as_f64().unwrap());
    assert_eq!(figures, [30.0, 45.0, 60.0]);
    let percentiles = numbers["percentiles"].as_array().unwrap();
    let at = |percent: usize| percentiles[percent].as_f64().unwrap();
    assert_eq!((percentiles.len(), at(0), at(25), at(50), at(75), at(100)), (101, 30.0, 37.5, 45.0, 52.5, 60.0));
    assert!((at(1) - 30.3).abs() < 1e-9, "{}", at(1));

    let langs = feature(&profile, "users", "langs");
    let expected = top(&[("de", 3), ("fr", 2), ("it", 1)]);
    assert_eq!(langs["missing"], 1);
    assert_eq!(langs["values"], json!({ "count": 6, "distinct": 3, "unknown": null, "top": expected }));
    let lengths = ["count", "min", "mean", "max"].map(|name| langs["lengths"][name].as_f64().unwrap());
    assert_eq!(lengths, [4.0, 0.0, 1.5, 3.0]);

    assert_eq!(feature(&profile, "items", "item")["values"]["distinct"], 3);
    let price = feature(&profile, "items", "price");
    assert_eq!((&price["missing"], &price["numbers"]["count"]), (&json!(2), &json!(1)));

    let events = &profile["interactions"];
    assert_eq!((&events["rows"], &events["unusable"]["rows"]), (&json!(7), &json!(1)));
    assert!(events["unusable"]["first"].as_str().unwrap().starts_with("row 2 "), "{}", events["unusable"]);
    assert_eq!((&events["times"]["first"], &events["times"]["last"]), (&json!(1_700_000_000), &json!(1_700_000_009)));
    let participants =
        |side: &str| ["named", "known", "of_table", "stray_events"].map(|name| events[side][name].as_u64().unwrap());
    assert_eq!(participants("users"), [4, 3, 5, 1]);
    assert_eq!(participants("items"), [3, 2, 3, 1]);
    assert_eq!((&events["users"]["events"]["mean"], &events["items"]["events"]["max"]), (&json!(1.5), &json!(4.0)));

    let segments = profile["segments"]["segments"].as_array().unwrap();
    let figures = |segment: &Value| ["users", "active", "events"].map(|name| segment[name].as_u64().unwrap());
    let found: Vec<_> = segments.iter().map(|segment| (segment["value"].as_str(), figures(segment))).collect();
    assert_eq!(found, [(None, [2, 0, 0]), (Some("Zürich"), [2, 2, 4]), (Some("東京"), [1, 1, 1])]);
    assert_eq!(segments[1]["events_each"]["mean"], 2.0);
}

#[test]
fn the_report_is_read_by_people() {
    let job = small("profile-report");
    let report = job.ok("profile --segment city --quiet").stdout;
    for line in [
        "users: 5 rows, 5 distinct ids",
        "city      categorical   40.00%         2        -",
        "city: Zürich 66.67%, 東京 33.33%",
        "langs (values a row)   1.5",
        "interactions: 7 rows, from 2023-11-14 22:13 UTC to 2023-11-14 22:13 UTC",
        "rows that cannot be used: 1; the first is row 2 ",
        "users by city",
        "(missing)",
    ] {
        assert!(report.contains(line), "expected `{line}` in\n{report}");
    }
}

#[test]
fn formats_and_memory_change_nothing() {
    let job = Job::new("profile-formats");
    let profile = job.json("profile --segment city --quiet");
    assert_eq!(feature(&profile, "users", "city")["rows"], USERS);
    // Many passes: what a query may hold is next to nothing.
    assert_eq!(job.json("profile --segment city --memory 1MiB --quiet"), profile);
    for (table, sheet) in [("users", users()), ("items", items()), ("interactions", interactions())] {
        job.write(&format!("{table}.csv"), &sheet.text(","));
        job.edit(&format!("\"{table}.parquet\""), &format!("\"{table}.csv\""));
    }
    assert_eq!(job.json("profile --segment city --quiet"), profile);
}

#[test]
fn the_same_tables_have_no_drift_and_what_has_changed_comes_first() {
    let job = Job::new("profile-drift");
    job.ok("profile --output monday --quiet");
    let same = job.json("profile --against monday/profile.json --quiet");
    let features = same["drift"]["features"].as_array().unwrap();
    assert_eq!(features.len(), 5 + 3 + 2, "five of the users, three of the items, events of both");
    for feature in features {
        assert_eq!(feature["score"], 0.0, "{feature}");
    }
    // Everybody is twenty years older, a quarter has no device, and Bern has another name.
    let mut sheet = users();
    if let Column::Real(ages) = sheet.column("age") {
        ages.iter_mut().flatten().for_each(|age| *age += 20.0);
    }
    let before = sheet.texts("city").clone();
    let bern = before.iter().flatten().filter(|city| *city == "Bern").count();
    let all = before.iter().flatten().count();
    sheet.texts("city").iter_mut().flatten().filter(|city| *city == "Bern").for_each(|city| *city = "Atlantis".into());
    sheet.texts("device").iter_mut().step_by(4).for_each(|device| *device = None);
    sheet.write_parquet(&job.path("users.parquet"));
    job.edit("{ kind = \"numeric\", name = \"price\", transform = \"log1p\" },", "");
    let changed = job.json("profile --against monday/profile.json --quiet");
    let drift = &changed["drift"];
    assert_eq!(drift["removed"], json!(["items.price"]));
    let features = drift["features"].as_array().unwrap();
    let names: Vec<&str> = features.iter().map(|f| f["feature"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["age", "device", "city"], "{features:?}");
    let score = |at: usize| features[at]["score"].as_f64().unwrap();
    assert!((score(0) - 1.0 / 3.0).abs() < 0.05, "{}", features[0]);
    assert_eq!(features[0]["distances"][0]["measure"], "kolmogorov_smirnov");
    assert!((score(1) - 0.25).abs() < 1e-9, "{}", features[1]);
    assert_eq!(features[2]["distances"][0]["measure"], "total_variation");
    assert!((score(2) - bern as f64 / all as f64).abs() < 1e-9, "{}", features[2]);
    assert!((3..features.len()).all(|at| score(at) == 0.0), "{features:?}");
    let report = job.ok("profile --against monday/profile.json --quiet").stdout;
    assert!(report.contains("changes since monday/profile.json") && report.contains("gone: items.price"), "{report}");
}

#[test]
fn values_that_a_run_does_not_know_are_counted() {
    let job = Job::new("profile-unknown");
    job.ok("encode-features --run run --quiet");
    let unknown = |table: &str, name: &str| {
        let profile = job.json("profile --run run --quiet");
        assert!(profile["encoder"].is_string());
        feature(&profile, table, name)["values"]["unknown"].clone()
    };
    assert_eq!((unknown("users", "city"), unknown("items", "item")), (json!(0), json!(0)));
    assert_eq!(unknown("users", "device"), Value::Null, "a hash knows every value");
    let mut sheet = users();
    let cities = sheet.texts("city");
    let strangers = cities.iter_mut().flatten().step_by(3).map(|city| city.push('?')).count();
    let tags = sheet.texts("tags");
    tags[0] = Some("film|unheard|of".into());
    sheet.write_parquet(&job.path("users.parquet"));
    assert_eq!((unknown("users", "city"), unknown("users", "tags")), (json!(strangers), json!(2)));
    job.refused(
        "profile --run nowhere --quiet",
        1,
        &["profile: there is no run nowhere", "twotower run --run nowhere"],
    );
}

#[test]
fn what_cannot_be_profiled_is_refused_and_leaves_nothing() {
    let job = small("profile-refused");
    let scratch = job.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let refused = |line: &str, code: i32, says: &[&str]| {
        let done: fixture::Finished = job.command(line).env("TMPDIR", &scratch).output().unwrap().into();
        assert_eq!(done.code, code, "{line}: {}", done.stderr);
        assert!(says.iter().all(|text| done.stderr.contains(text)), "{line}: {}", done.stderr);
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "{line}: a temporary file is left");
    };
    refused("profile --segment citty", 2, &["--segment citty: no user feature", "did you mean `city`?"]);
    refused("profile --segment age", 2, &["a user feature of kind numeric", "city, plan, flag"]);
    refused("profile --against nothing.json", 1, &["nothing.json"]);
    job.write("other.json", "{\"version\": 1, \"users\": 3}");
    refused("profile --against other.json", 3, &["other.json", "`twotower profile`"]);
    job.write("later.json", "{\"version\": 2}");
    refused("profile --against later.json", 4, &["later.json", "format version 2"]);
    job.edit("name = \"price\"", "name = \"prise\"");
    refused("profile", 3, &["column `prise`", "did you mean `price`?"]);
    job.edit("name = \"prise\"", "name = \"price\"");
    job.write("events.csv", "user,item,ts\n1,10,soon\n");
    refused("profile", 3, &["none of 1 rows can be used", "soon"]);
    job.write("events.csv", "user,item,ts\n1,10,1700000000\n");
    refused("profile --output .", 0, &[]);
}
