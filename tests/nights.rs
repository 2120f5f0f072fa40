//! Ten nights in a row with a twentieth of everything changed pass all gates; nights that would harm users are refused
//! by a gate of that name, whatever form the night has.

mod fixture;

use fixture::sheet::{Column, Sheet};
use fixture::{Job, item_id, mixed};
use std::ops::Range;
use std::sync::OnceLock;
use twotower_artifacts::Manifest;

const USERS: usize = 1200;
const ITEMS: usize = 200;
const NIGHTS: usize = 10;
/// Tastes, of users and of items.
const KINDS: usize = 6;

/// The users of a night: a twentieth is new each night, and as many are gone.
fn present(night: usize) -> Range<usize> {
    night * USERS / 20..night * USERS / 20 + USERS
}

/// The items of a night, likewise.
fn on_sale(night: usize) -> Range<usize> {
    night * ITEMS / 20..night * ITEMS / 20 + ITEMS
}

fn user(u: usize) -> String {
    format!("U{u:05}")
}

/// A number from 0 to 1 that looks random.
fn drawn(a: usize, b: usize) -> f64 {
    (mixed(a, b) % 10_000) as f64 / 1e4
}

fn text(values: impl Iterator<Item = String>) -> Column {
    Column::Text(values.map(Some).collect())
}

fn real(values: impl Iterator<Item = f64>) -> Column {
    Column::Real(values.map(Some).collect())
}

/// Users, whose numbers grow by a hundredth each night.
fn users(night: usize) -> Sheet {
    let (all, grown) = (|| present(night), 1.01f64.powi(night as i32));
    Sheet::new([
        ("user_id", text(all().map(user))),
        ("city", text(all().map(|u| format!("city {}", mixed(u, 1) % KINDS)))),
        ("age", real(all().map(|u| grown * (18.0 + 50.0 * drawn(u, 2))))),
        ("spent", real(all().map(|u| grown * 40.0 / (0.05 + drawn(u, 3))))),
        ("is_5g", text(all().map(|u| if drawn(u, 4) < 0.8 { "yes" } else { "no" }.to_string()))),
    ])
}

fn items(night: usize) -> Sheet {
    let all = || on_sale(night);
    Sheet::new([
        ("item_id", Column::Int(all().map(|i| Some(item_id(i))).collect())),
        ("category", text(all().map(|i| format!("category {}", i % KINDS)))),
        ("price", real(all().map(|i| 5.0 + 90.0 * drawn(i, 5)))),
    ])
}

/// What users took up to a night: some items when they came, and one of a night in four since.
fn interactions(night: usize) -> Sheet {
    let (mut user_ids, mut item_ids, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for u in 0..present(night).end {
        let came = (0..=night).find(|n| present(*n).contains(&u)).unwrap_or(0);
        for day in came..=night {
            let taken = if day == came { 3 + mixed(u, 6) % 4 } else { usize::from((u + day).is_multiple_of(4)) };
            for n in 0..taken {
                let sold = on_sale(day);
                let any = sold.start + mixed(u, 20 * day + n) % ITEMS;
                let liked = any - any % KINDS + mixed(u, 1) % KINDS;
                let item = if drawn(u, 900 + 20 * day + n) < 0.8 && sold.contains(&liked) { liked } else { any };
                user_ids.push(Some(user(u)));
                item_ids.push(Some(item_id(item)));
                times.push(Some(1_700_000_000 + 86_400 * day as i64 + (mixed(u, 40 * day + n) % 80_000) as i64));
            }
        }
    }
    Sheet::new([("user_id", Column::Text(user_ids)), ("item_id", Column::Int(item_ids)), ("ts", Column::Int(times))])
}

/// Pairs that are not to be recalled, and items.
fn not_wanted(night: usize) -> (Sheet, Sheet) {
    let blocked: Vec<usize> = present(night).filter(|u| u % 5 == 0).collect();
    let pairs = Sheet::new([
        ("user_id", text(blocked.iter().map(|u| user(*u)))),
        ("item_id", Column::Int(blocked.iter().map(|u| Some(item_id(on_sale(night).start + u % ITEMS))).collect())),
    ]);
    let denied = on_sale(night).filter(|i| i % 40 == 7).map(|i| Some(item_id(i)));
    (pairs, Sheet::new([("item_id", Column::Int(denied.collect()))]))
}

/// Tables of a night, to be spoilt and written.
struct Tables {
    users: Sheet,
    items: Sheet,
    interactions: Sheet,
    pairs: Sheet,
    denied: Sheet,
}

impl Tables {
    fn of(night: usize) -> Self {
        let (pairs, denied) = not_wanted(night);
        Self { users: users(night), items: items(night), interactions: interactions(night), pairs, denied }
    }

    fn write(&self, job: &Job) {
        for (name, sheet) in [
            ("users", &self.users),
            ("items", &self.items),
            ("interactions", &self.interactions),
            ("pairs", &self.pairs),
            ("denied", &self.denied),
        ] {
            sheet.write_parquet(&job.path(&format!("{name}.parquet")));
        }
    }
}

const SETTINGS: &str = r#"
[features]
user = [
    { kind = "categorical", name = "city" },
    { kind = "numeric", name = "age" },
    { kind = "numeric", name = "spent", transform = "log1p" },
    { kind = "boolean", name = "is_5g" },
]
item = [
    { kind = "id", name = "item" },
    { kind = "categorical", name = "category" },
    { kind = "numeric", name = "price", transform = "quantile_buckets", buckets = 8 },
]
[model]
kind = "dssm"
embedding_dim = 8
hidden = [16, 8]
[train]
epochs = 6
batch_size = 256
learning_rate = 0.01
patience = 0
[infer]
engine = "native"
[recall]
topk = 10
exclusions = { path = "pairs.parquet", user = "user_id", item = "item_id" }
deny = { path = "denied.parquet", item = "item_id" }
[evaluate]
k = [10]
"#;

/// A job whose first night `runs/n0` is published.
fn first_night() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::empty("nights");
        job.write("pipeline.toml", &format!("{}{SETTINGS}", fixture::TABLES));
        Tables::of(0).write(&job);
        job.ok("run --run runs/n0 --quiet");
        job
    })
}

/// The forms of a night after the first: trained anew, from yesterday's weights, with yesterday's towers, and with
/// these straight from rows to results.
const FORMS: [&str; 4] =
    ["", "--update-from runs/n0", "--update-from runs/n0 --no-train", "--update-from runs/n0 --no-train --fused"];

/// Runs the night `runs/bad` in a form, as one command or in shards that are published.
fn run(job: &Job, form: &str) -> fixture::Finished {
    job.twotower(&format!("run --run runs/bad --quiet {form}"))
}

/// Asserts that a night after the first whose tables are spoilt is refused by a gate, in these forms, and that the
/// message says so.
fn refused(name: &str, forms: &[&str], gate: &str, says: &[&str], spoil: impl Fn(&mut Tables)) {
    let job = first_night().copy(&format!("nights-{name}"));
    let mut tables = Tables::of(1);
    spoil(&mut tables);
    tables.write(&job);
    for form in forms {
        let _ = std::fs::remove_dir_all(job.path("runs/bad"));
        let finished = run(&job, form);
        assert_eq!(finished.code, 5, "{name} `{form}`: {}", finished.stderr);
        assert_eq!(job.latest(), "n0", "{name} `{form}`");
        let named = [format!("gate `{gate}`: "), format!("--accept {gate}")];
        for text in named.iter().map(String::as_str).chain(says.iter().copied()) {
            assert!(finished.stderr.contains(text), "{name} `{form}`: expected `{text}` in {}", finished.stderr);
        }
    }
}

#[test]
fn ten_nights_with_a_twentieth_of_everything_changed_pass_every_gate() {
    let job = first_night().copy("nights-ten");
    for night in 1..NIGHTS {
        Tables::of(night).write(&job);
        let form = FORMS[night % FORMS.len()].replace("n0", &format!("n{}", night - 1));
        job.ok(&format!("run --run runs/n{night} --quiet {form}"));
        assert_eq!(job.latest(), format!("n{night}"));
        let manifest = Manifest::read(job.path(&format!("runs/n{night}/gates/manifest.json"))).unwrap();
        assert_eq!((manifest.rows["failed"], manifest.rows["accepted"]), (0, 0));
        for gate in manifest.details["gates"].as_array().unwrap() {
            // Without training no metric, and exact search misses nothing.
            let expected = match gate["gate"].as_str().unwrap() {
                "metric" if form.contains("--no-train") => "not_applicable",
                "index" => "not_applicable",
                _ => "passed",
            };
            assert_eq!(gate["ruling"], expected, "night {night}: {gate}");
        }
    }
}

#[test]
fn seen_items_whose_ids_match_nothing_are_refused() {
    let [adopted, fused] = [FORMS[2], FORMS[3]];
    let lower =
        |ids: &mut Vec<Option<String>>| ids.iter_mut().for_each(|id| *id = id.take().map(|id| id.to_lowercase()));
    refused("lower-cased", &[adopted, fused], "history", &["\"u00000\"", "\"U00060\""], |tables| {
        lower(tables.interactions.texts("user_id"));
    });
    // Half of them, too.
    refused("half-padded", &FORMS, "history", &["seen items a user over run `n0`'s"], |tables| {
        let ids = tables.interactions.texts("user_id");
        (0..ids.len())
            .filter(|row| row % 20 < 11)
            .for_each(|row| ids[row] = ids[row].take().map(|id| format!("{id} ")));
    });
    // A fifth, as where one of several systems writes its ids otherwise.
    refused("some-padded", &[fused], "history", &["whose user is in the users table 0."], |tables| {
        let ids = tables.interactions.texts("user_id");
        (0..ids.len()).filter(|row| row % 5 == 0).for_each(|row| ids[row] = ids[row].take().map(|id| format!("{id} ")));
    });
    refused("other-items", &[fused], "history", &["whose item is in the catalogue"], |tables| {
        tables.interactions.ints("item_id").iter_mut().for_each(|id| *id = id.map(|id| id + 1_000_000));
    });
    let says = [
        "rows of interactions that can be read 0",
        "interactions with a time that can be read, in which run `n0`'s newest was",
    ];
    refused("no-rows", &[adopted, fused], "history", &says, |tables| {
        tables.interactions = tables.interactions.take([]);
    });
    refused(
        "strange-pairs",
        &[adopted, fused],
        "exclusions",
        &["\"u00060\"", "\"U00060\"", "pairs that match, of"],
        |tables| {
            lower(tables.pairs.texts("user_id"));
        },
    );
    refused(
        "strange-denied",
        &[adopted, fused],
        "exclusions",
        &["of 5 rows of deny: 0, expected at least 1", "1000383", "the items table such as -"],
        |tables| {
            tables.denied.ints("item_id").iter_mut().for_each(|id| *id = id.map(|id| id + 1_000_000));
        },
    );
}

#[test]
fn a_first_night_is_held_to_what_needs_no_night_before() {
    let job = first_night().copy("nights-first");
    std::fs::rename(job.path("runs"), job.path("earlier")).unwrap();
    let mut tables = Tables::of(1);
    tables.interactions = tables.interactions.take([]);
    tables.write(&job);
    let line = "run --run runs/first --update-from earlier/n0 --no-train --quiet";
    job.refused(line, 5, &["gate `history`: rows of interactions that can be read 0, expected at least 1"]);
    let mut tables = Tables::of(1);
    tables.interactions.texts("user_id").iter_mut().for_each(|id| *id = id.take().map(|id| id + " "));
    tables.write(&job);
    job.refused(
        line,
        5,
        &["gate `history`: share of the seen pairs whose user is in the users table 0", "\"U00000 \"", "\"U00060\""],
    );
    assert!(!job.path("runs/latest").exists());
    job.ok(&format!("{line} --accept history"));
}

#[test]
fn fewer_or_older_interactions_are_refused() {
    refused(
        "a-tenth",
        &FORMS,
        "history",
        &["rows of interactions over run `n0`'s 0.1", "users with seen items, as a share of all, over run `n0`'s 0.1"],
        |tables| {
            let of_some = |id: &Option<String>| id.as_ref().is_some_and(|id| id.ends_with('0'));
            let ids = tables.interactions.texts("user_id").clone();
            tables.interactions = tables.interactions.take((0..ids.len()).filter(|row| of_some(&ids[*row])));
        },
    );
    // The newest day is missing, and a day before it.
    refused("a-day-missing", &FORMS[2..], "history", &["newest time of an interaction, less run `n0`'s"], |tables| {
        let old: Vec<usize> = match tables.interactions.column("ts") {
            Column::Int(ts) => (0..ts.len()).filter(|row| ts[*row] < Some(1_700_050_000)).collect(),
            _ => unreachable!(),
        };
        tables.interactions = tables.interactions.take(old);
    });
}

#[test]
fn interactions_that_stand_still_for_days_are_refused() {
    let job = first_night().copy("nights-still");
    let line = "run --run runs/still --update-from runs/n0 --no-train --quiet";
    // The same day again.
    job.ok(line);
    for (days, code) in [(1, 0), (2, 5)] {
        let job = first_night().copy("nights-still");
        job.change("runs/n0/gates/manifest.json", |manifest| {
            let since = &mut manifest["details"]["interactions"]["since"];
            *since = (since.as_u64().unwrap() - days * 86_400).into();
        });
        let finished = job.twotower(line);
        assert_eq!(finished.code, code, "{days} days: {}", finished.stderr);
        let says = "gate `history`: whole days for which interactions have been the same 2, expected at most 1";
        assert_eq!(finished.stderr.contains(says), code == 5, "{}", finished.stderr);
        // A new event is enough.
        Tables::of(1).write(&job);
        job.ok(&line.replace("still", "new"));
    }
}

#[test]
fn numbers_and_truths_that_drift_are_refused_by_feature() {
    let scaled = |sheet: &mut Sheet, name: &str, by: f64| match sheet.column(name) {
        Column::Real(values) => values.iter_mut().for_each(|x| *x = x.map(|x| x * by)),
        _ => unreachable!(),
    };
    refused("hundredfold", &FORMS, "drift", &["user.spent (its median was about ", " is "], |tables| {
        scaled(&mut tables.users, "spent", 100.0);
    });
    refused("negative", &FORMS[2..], "drift", &["user.age "], |tables| scaled(&mut tables.users, "age", -1.0));
    refused("inches", &FORMS[2..], "drift", &["item.price "], |tables| scaled(&mut tables.items, "price", 2.54));
    refused("negated", &FORMS[2..], "drift", &["user.is_5g 0.5"], |tables| {
        let other = |text: String| if text == "yes" { "no".into() } else { "yes".into() };
        tables.users.texts("is_5g").iter_mut().for_each(|text| *text = text.take().map(other));
    });
}

#[test]
fn half_of_the_items_are_refused() {
    refused("half-the-items", &FORMS, "items", &["items over those of run `n0` 0.5"], |tables| {
        tables.items = tables.items.take(0..ITEMS / 2);
    });
    refused("all-denied", &[FORMS[3]], "items", &["items that can be recalled 0, expected at least 1"], |tables| {
        tables.denied = Sheet::new([("item_id", Column::Int(on_sale(1).map(|i| Some(item_id(i))).collect()))]);
    });
}

#[test]
fn users_whom_no_feature_tells_apart_are_refused_on_the_first_night_too() {
    let job = Job::empty("nights-one-vector");
    job.write("pipeline.toml", &format!("{}{SETTINGS}", fixture::TABLES));
    let mut tables = Tables::of(0);
    let n = tables.users.rows();
    let (city, is_5g) = (text((0..n).map(|_| "NO".into())), text((0..n).map(|_| "yes".into())));
    let missing = || Column::Real(vec![None; n]);
    tables.users = tables.users.with("city", city).with("is_5g", is_5g).with("age", missing()).with("spent", missing());
    tables.write(&job);
    for form in ["", "--fused", "--set recall.topk=50"] {
        let _ = std::fs::remove_dir_all(job.path("runs"));
        let says = ["gate `lists`: distinct vectors of 1200 users 1, expected at least 10", "gates.off = [\"lists\"]"];
        job.refused(&format!("run --run runs/a --quiet --accept metric --accept coverage {form}"), 5, &says);
        assert!(!job.path("runs/latest").exists());
    }
    job.ok("run --run runs/a --quiet --accept metric --accept coverage --set gates.off=[\"lists\"]");
}

#[test]
fn a_bad_night_in_shards_is_refused_when_it_is_published() {
    let job = first_night().copy("nights-shards");
    let mut tables = Tables::of(1);
    tables.interactions.texts("user_id").iter_mut().for_each(|id| *id = id.take().map(|id| id.to_lowercase()));
    tables.write(&job);
    // The stages before are of one command, which the gates refuse.
    job.refused("run --run runs/b --update-from runs/n0 --no-train --quiet", 5, &["gate `history`"]);
    for shard in 0..3 {
        job.ok(&format!("recall --run runs/b --shard {shard}/3 --force --quiet"));
    }
    job.refused("publish --run runs/b", 5, &["gate `history`: ", "\"u00000\""]);
    assert_eq!(job.latest(), "n0");
    // Of whole interactions the counts of the shards add up to those of one command.
    Tables::of(1).write(&job);
    let matched = |run: &str| {
        let parts = fixture::results::manifests_of(&job.path(run), "recall");
        let of = |part: &Manifest| {
            let pairs = &part.details["exclusions"]["pairs"];
            ["interactions", "exclusions"].map(|name| pairs[name]["matched_pairs"].as_u64().unwrap())
        };
        parts.iter().map(of).fold([0, 0], |sum, n| [sum[0] + n[0], sum[1] + n[1]])
    };
    job.ok("run --run runs/b --update-from runs/n0 --no-train --quiet");
    let whole = matched("runs/b");
    for shard in 0..3 {
        job.ok(&format!("recall --run runs/b --shard {shard}/3 --force --quiet"));
    }
    assert_eq!(matched("runs/b"), whole);
    assert!(whole[0] > 3000 && whole[1] > 200, "{whole:?}");
    job.ok("publish --run runs/b");
    assert_eq!(job.latest(), "b");
}
