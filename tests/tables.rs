//! Tables as programs and people leave them: encodings, compression, spellings of numbers and dates, spoilt and unlike
//! ids; and what is said where they cannot be used.

mod fixture;

use fixture::sheet::{Column, Sheet};
use fixture::{Job, interactions, items, results, user_id, users};
use serde_json::Value;
use std::io::Write as _;

/// Bytes of text in an encoding, which has all its characters.
fn encoded(encoding: &'static encoding_rs::Encoding, text: &str) -> Vec<u8> {
    let (bytes, _, lost) = encoding.encode(text);
    assert!(!lost, "{} has not all characters", encoding.name());
    bytes.into_owned()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn manifest(job: &Job, path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(job.path(path)).unwrap()).unwrap()
}

/// Customers as the export of a telecom writes them: GBK, Chinese names of columns, ids with leading zeros, dates in two
/// spellings, amounts with separators and currency, flags as 是 and 否; one id missing, one standing twice.
fn customers(count: usize) -> String {
    let mut text = "客户编号;城市;开户日期;月消费;是否5G\n".to_string();
    for u in 0..count {
        let id = match u {
            7 => String::new(),
            9 => format!("{:08}", 8),
            _ => format!("{u:08}"),
        };
        let (year, month, day) = (2015 + u % 10, 1 + u % 12, 1 + u % 28);
        let opened = match u % 2 {
            0 => format!("{year}-{month:02}-{day:02}"),
            _ => format!("{year}/{month}/{day}"),
        };
        let city = ["广州", "深圳", "珠海", "佛山"][u % 4];
        let spent = format!("￥{},{:03}.{:02}", 1 + u % 9, (u * 37) % 1000, u % 100);
        text += &format!("{id};{city};{opened};{spent};{}\n", if u % 3 == 0 { "是" } else { "否" });
    }
    text
}

#[test]
fn what_a_telecom_exports_goes_from_init_through_run_without_an_edit() {
    let job = Job::empty("tables-telecom");
    let write = |name: &str, bytes: &[u8]| std::fs::write(job.path(name), bytes).unwrap();
    write("customers.csv", &encoded(encoding_rs::GBK, &customers(400)));
    let mut offers = "套餐编号,名称,类别\n".to_string();
    let mut calls = "客户编号,套餐编号,时间\n".to_string();
    for i in 0..120 {
        offers += &format!("P{i:03},全球通套餐{i},类别{}\n", i % 4);
    }
    offers += "P004,全球通套餐4,类别0\n,未命名套餐,类别1\n";
    for u in (0..400).filter(|u| *u != 7 && *u != 9) {
        for n in 0..5 {
            calls +=
                &format!("{u:08},P{:03},2026-01-{:02} 10:00:00\n", (u % 4 + 4 * ((u / 4 + 3 * n) % 7)) % 30, 1 + n);
        }
    }
    write("offers.csv", &gzip(&encoded(encoding_rs::GBK, &offers)));
    write("calls.csv.gz", &gzip(&encoded(encoding_rs::GBK, &calls)));
    let init =
        job.ok("init --users customers.csv --items offers.csv --interactions calls.csv.gz --output pipeline.toml");
    for says in [
        "encoding \"gbk\"",
        "delimiter \";\"",
        "users.客户编号: of 400 rows 1 has no id and 1 repeats the id of an earlier row",
        "items.套餐编号: of 122 rows 1 has no id and 1 repeats the id of an earlier row",
        "users.开户日期: guessed date",
        "users.月消费: guessed numeric",
        "users.是否5G: guessed boolean",
    ] {
        assert!(init.stderr.contains(says), "expected `{says}` in\n{}", init.stderr);
    }
    job.ok("run --config pipeline.toml --run runs/1 --quiet --set infer.engine=native --set train.epochs=1 --set gates.off=[\"metric\",\"coverage\",\"lists\"]");
    let encoders = manifest(&job, "runs/1/encoders/manifest.json");
    assert_eq!(
        (&encoders["rows"]["users quarantined"], &encoders["rows"]["items quarantined"]),
        (&2.into(), &2.into())
    );
    let counts = &encoders["details"]["encoded"]["user"]["features"];
    for feature in ["开户日期", "月消费", "是否5G"] {
        let met = &counts[feature];
        assert!(met["values"].as_u64() > Some(300) && met["missing"] == 0 && met["junk"] == 0, "{feature}: {met}");
    }
    let recalled = results::recalled(&job.path("runs/1/recall"));
    assert_eq!(recalled.len(), 398);
    assert_eq!(results::text(&recalled[3].0), "00000003");
}

#[test]
fn a_table_that_is_not_utf_8_is_refused_with_the_encoding_that_fits_it() {
    let job = Job::small("tables-encodings");
    let text =
        users().take(0..150).text(",").replace("Zürich", "苏黎世").replace("Genève", "日内瓦").replace("été", "夏天");
    std::fs::write(job.path("users.csv"), encoded(encoding_rs::GBK, &text)).unwrap();
    job.edit("path = \"users.parquet\"", "path = \"users.csv\"");
    job.refused("encode-features --run run", 3, &["users.csv", "is not UTF-8", "it fits GBK: set encoding = \"gbk\""]);
    job.edit("path = \"users.csv\"", "path = \"users.csv\"\nencoding = \"gkb\"");
    job.refused("encode-features --run run", 2, &["no encoding is called \"gkb\"", "gb18030"]);
    job.edit("encoding = \"gkb\"", "encoding = \"gbk\"");
    job.ok("encode-features --run run --quiet");
}

/// A name, how the users table writes an id, how the interactions do, and the difference.
type Case<'a> = (&'a str, &'a dyn Fn(i64) -> String, &'a dyn Fn(i64) -> String, &'a str);

#[test]
fn interactions_of_ids_written_otherwise_are_refused_with_both_and_the_difference() {
    let with_text = |sheet: Sheet, column: &str, write: &dyn Fn(i64) -> String| {
        let mut sheet = sheet;
        let texts = sheet.ints(column).iter().map(|id| id.map(write)).collect();
        sheet.with(column, Column::Text(texts))
    };
    let zeros = |id: i64| format!("{id:09}");
    let plain = |id: i64| id.to_string();
    let cases: [Case<'_>; 5] = [
        ("zeros", &zeros, &plain, "they differ in leading zeros"),
        ("case", &|id| format!("U{id}"), &|id| format!("u{id}"), "they differ in letter case"),
        ("spaces", &|id| format!("U{id}"), &|id| format!("U{id}\u{a0}"), "they differ in spaces around them"),
        ("float", &plain, &|id| format!("{id}.0"), "the fraction of a float"),
        ("form", &|id| format!("caf\u{e9}{id}"), &|id| format!("cafe\u{301}{id}"), "their Unicode form"),
    ];
    for (name, known, named, says) in cases {
        let job = Job::small(&format!("tables-strangers-{name}"));
        with_text(users().take(0..150), "user_id", known).write_parquet(&job.path("users.parquet"));
        with_text(interactions().take(0..700), "user_id", named).write_parquet(&job.path("interactions.parquet"));
        let first = named(user_id(0));
        let shown = if first.is_ascii() { format!("{first:?} is not in `users`, which has ") } else { String::new() };
        job.refused("encode-features --run run", 3, &["none of 700 rows names both a user of `users`", &shown, says]);
    }
    // A tenth of the items alone is a warning, which says the same.
    let job = Job::small("tables-strangers-some");
    with_text(items(), "item_id", &|id| format!("Caf\u{e9} {id}")).write_parquet(&job.path("items.parquet"));
    let mixed = |id: i64| if id % 10 == 1 { format!("Cafe\u{301} {id}") } else { format!("Caf\u{e9} {id}") };
    with_text(interactions().take(0..700), "item_id", &mixed).write_parquet(&job.path("interactions.parquet"));
    let told = job.ok("encode-features --run run").stderr;
    assert!(
        told.contains("name items that are not in the items table: left out") && told.contains("their Unicode form"),
        "{told}"
    );
}

#[test]
fn a_feature_most_of_whose_values_are_unreadable_is_refused_with_three_of_them_and_their_lines() {
    let job = Job::small("tables-unreadable");
    std::fs::write(job.path("users.csv"), users().take(0..150).text(",")).unwrap();
    job.edit("path = \"users.parquet\"", "path = \"users.csv\"");
    job.edit("{ kind = \"categorical\", name = \"city\" }", "{ kind = \"numeric\", name = \"city\" }");
    let says = [
        "user feature `city`: 100% of the values of column `city` that are there do not read as numbers",
        "at line 2 of ",
        "at line 3 of ",
        "encode.max_unreadable",
    ];
    job.refused("encode-features --run run", 3, &says);
    assert!(!job.path("run/encoders/manifest.json").exists());
    let told = job.ok("encode-features --run run --set encode.max_unreadable=1").stderr;
    assert!(told.contains("user feature `city`") && told.contains("unreadable"), "{told}");
    // What is complete is held to the limit as well.
    job.refused("encode-features --run run", 3, &says[..1]);
}

#[test]
fn dates_are_features_whose_reference_stays_that_of_the_first_night() {
    let job = Job::small("tables-dates");
    let write = |year: usize| {
        let date = |u: usize| (u % 9 != 4).then(|| format!("{}-{:02}-{:02}", year - u % 5, 1 + u % 12, 1 + u % 28));
        let dates = Column::Text((0..150).map(date).collect());
        users().take(0..150).with("opened", dates).write_parquet(&job.path("users.parquet"));
    };
    write(2025);
    job.edit(
        "    { kind = \"numeric\", name = \"age\" },\n",
        "    { kind = \"date\", name = \"opened\" },
    { kind = \"date\", name = \"opened_weekday\", column = \"opened\", part = \"weekday\" },
    { kind = \"date\", name = \"opened_month\", column = \"opened\", part = \"month\" },\n",
    );
    let off = "--set gates.off=[\"metric\",\"coverage\",\"lists\",\"overlap\"]";
    job.ok(&format!("run --run runs/1 --quiet {off}"));
    let bounds = |run: &str| {
        let state = manifest(&job, &format!("runs/{run}/encoders/encoders.json"));
        let features = state["user"]["features"].as_array().unwrap().clone();
        features.iter().find(|feature| feature["spec"]["name"] == "opened").unwrap()["bounds"].clone()
    };
    // The newest date is 2025-12-28 or before, of 2025 alone.
    let newest = bounds("1")["age"]["newest"].as_i64().unwrap();
    assert!((20_089..20_454).contains(&newest), "{newest}");
    write(2026);
    job.ok(&format!("run --run runs/2 --quiet --update-from runs/1 {off}"));
    assert_eq!(bounds("2"), bounds("1"), "a night that extends the encoders keeps the reference");
    job.ok(&format!("run --run runs/3 --quiet {off}"));
    assert!(bounds("3")["age"]["newest"].as_i64().unwrap() > newest);
    let rows = manifest(&job, "runs/1/encoders/manifest.json");
    let met = &rows["details"]["encoded"]["user"]["features"]["opened_month"];
    assert!(met["missing"].as_u64() > Some(0) && met["junk"] == 0, "{met}");
}
