//! What `init` refuses to guess, and the flags that it asks for: a first line of data, ids that do not tell user from item,
//! tables without an extension.

use twotower_artifacts::Category;
use twotower_pipeline::config::Config;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::init::{InitOptions, KnownColumns, KnownReading, TableReading, init};
use twotower_tables::Format;

/// Three tables in a folder, and what the job is written from.
struct Tables {
    dir: tempfile::TempDir,
    options: InitOptions,
}

impl Tables {
    fn new(tables: [(&str, String); 3]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [users, items, interactions] = tables.map(|(name, text)| {
            let path = dir.path().join(name);
            // As Latin-1, which is UTF-8 where there are no accents.
            std::fs::write(&path, text.chars().map(|c| c as u8).collect::<Vec<u8>>()).unwrap();
            path.display().to_string()
        });
        let (columns, reading) = (KnownColumns::default(), KnownReading::default());
        Self {
            dir,
            options: InitOptions { users, items, interactions, delimiter: None, encoding: None, columns, reading },
        }
    }

    /// The job that is written, and what is said.
    fn written(&self) -> (Config, Vec<String>) {
        let (job, guesses) = init(&self.options).unwrap();
        let path = self.dir.path().join("pipeline.toml");
        std::fs::write(&path, &job).unwrap();
        let said = guesses.into_iter().map(|g| format!("{}: {}", g.about, g.reason)).collect();
        (Config::load(&path, &[]).unwrap(), said)
    }

    fn refused(&self, says: &[&str]) {
        let error: PipelineError = init(&self.options).unwrap_err();
        assert_eq!(error.category(), Category::Usage, "{error}");
        let told = error.to_string();
        assert!(says.iter().all(|says| told.contains(says)), "{says:?}: {told}");
    }
}

fn lines(head: &str, rows: impl Iterator<Item = String>) -> String {
    std::iter::once(head.to_string()).filter(|h| !h.is_empty()).chain(rows).map(|row| row + "\n").collect()
}

/// Users 1 to `users` and items 1 to `items`, all of which have events, by columns of these names.
fn small_integers(users: usize, items: usize, ids: [&str; 2], columns: [&str; 2]) -> Tables {
    let [user, item] = columns;
    let rows =
        (0..4000).map(|e| format!("{},{},{},{}", 1 + e % 5, 1 + e * 7 % items, 1 + e % users, 1_600_000_000 + e));
    Tables::new([
        ("users.csv", lines(&format!("{},age", ids[0]), (1..=users).map(|u| format!("{u},{}", 18 + u % 60)))),
        ("items.csv", lines(&format!("{},price", ids[1]), (1..=items).map(|i| format!("{i},{i}.5")))),
        ("events.csv", lines(&format!("stars,{item},{user},at"), rows)),
    ])
}

#[test]
fn user_and_item_are_told_apart_by_names_or_ids_and_never_by_a_tie() {
    // As many users as items: each column holds the ids of both.
    let mut tied = small_integers(300, 300, ["uid", "iid"], ["x", "y"]);
    tied.refused(&["300 of the 300 values of `", "--event-user and --event-item", "ids do not tell"]);
    // The step that is named works, with one of the flags or with both.
    tied.options.columns.event_user = Some("x".into());
    tied.options.columns.event_item = Some("y".into());
    let pair = |tables: &Tables| {
        let (config, said) = tables.written();
        let events = config.tables.interactions;
        (events.user, events.item, said)
    };
    let (user, item, _) = pair(&tied);
    assert_eq!((&*user, &*item), ("x", "y"));
    tied.options.columns.event_user = None;
    assert_eq!(pair(&tied).0, "x");
    // Half of the users have no event: still a tie.
    let mut quiet = small_integers(150, 300, ["uid", "iid"], ["x", "y"]);
    let all = lines("uid,age", (1..=300).map(|u| format!("{u},{}", 18 + u % 60)));
    std::fs::write(&quiet.options.users, all).unwrap();
    quiet.refused(&["ids do not tell"]);
    quiet.options.columns.event_user = Some("x".into());
    assert_eq!(pair(&quiet).1, "y");
    // Many items, of which most are no users: the ids tell, whichever column stands first, and it is said how.
    let (user, item, said) = pair(&small_integers(300, 1000, ["uid", "iid"], ["x", "y"]));
    assert_eq!((&*user, &*item), ("x", "y"));
    assert!(
        said.contains(&"interactions.x: shares values with `uid` of users: 300 of the 300 values of `x`".into()),
        "{said:#?}"
    );
    // Names tell where ids do not, also where both tables call their id the same.
    for (ids, columns) in [
        (["user_id", "movie_id"], ["userId", "movieId"]),
        (["id", "id"], ["user_id", "item_id"]),
        (["u", "i"], ["user", "item"]),
    ] {
        let (user, item, _) = pair(&small_integers(300, 300, ids, columns));
        assert_eq!([&*user, &*item], columns);
    }
}

/// MovieLens 100K as it is published: no header, no extension that tells, `|` and tabs, Latin-1.
fn raw() -> Tables {
    let user = |u: usize| {
        format!("{u}|{}|{}|writer|{:05}", 18 + u % 60, if u.is_multiple_of(2) { "M" } else { "F" }, 10_000 + u / 2 * 7)
    };
    let item = |i: usize| format!("{i}|Café {i} (1995)|01-Jan-1995||http://x/{i}|0|1|0");
    let event =
        |e: usize| format!("{}\t{}\t{}\t{}", 1 + e % 200, 1 + (7 * e + 241) % 500, 1 + (e + 2) % 5, 881_250_949 + e);
    Tables::new([
        ("u.user", lines("", (1..=200).map(user))),
        ("u.item", lines("", (1..=500).map(item))),
        ("u.data", lines("", (0..4000).map(event))),
    ])
}

#[test]
fn tables_without_header_or_extension_are_written_by_flags_alone() {
    let mut raw = raw();
    raw.refused(&["u.user", "format", "--users-format"]);
    raw.options.reading.users.format = Some(Format::Csv);
    raw.refused(&[
        "users: the first line of",
        "`1` is a number as below",
        "5 columns by --users-columns A,B,…",
        "--header",
    ]);
    let names = |names: &str| Some(names.split(',').map(str::to_string).collect::<Vec<_>>());
    raw.options.reading.users.columns = names("user,age,sex,job");
    raw.refused(&["--users-columns: 4 names are given", "has 5 fields"]);
    raw.options.reading.users.columns = names("user,age,sex,job,zip");
    raw.options.reading.items.format = Some(Format::Csv);
    // The first line has 1 in two columns.
    raw.refused(&["two columns are called `1`", "--items-columns A,B,…"]);
    raw.options.reading.items.columns = names("item,title,day,video,link,a,b,c");
    raw.options.reading.interactions.format = Some(Format::Tsv);
    raw.refused(&["interactions: the first line of", "4 columns by --interactions-columns"]);
    raw.options.reading.interactions.columns = names("user,item,stars,time");
    let (config, said) = raw.written();
    let events = &config.tables.interactions;
    assert_eq!((&*events.user, &*events.item, events.times.timestamp.as_deref()), ("user", "item", Some("time")));
    assert!(!events.source.header);
    assert!(said.iter().any(|line| line.starts_with("items: encoding ")), "{said:#?}");
    // Each postal code stands in two rows, which is fewer than three.
    let zip = said.iter().find(|line| line.starts_with("users.zip: ")).unwrap();
    assert!(zip.contains("skipped: postal codes") && zip.contains("stands fewer than 3 times"), "{zip}");
    // All rows are read, the first too.
    let rows = config.tables().map(|spec| twotower_tables::Table::open("t", spec).unwrap().rows().unwrap());
    assert_eq!(rows.collect::<Vec<_>>(), [200, 500, 4000]);
    // Whoever says that such a line names the columns is believed.
    let reading = TableReading { format: Some(Format::Csv), ..TableReading::default() };
    raw.options.reading = KnownReading {
        users: reading.clone(),
        items: raw.options.reading.items.clone(),
        interactions: raw.options.reading.interactions.clone(),
        header: true,
    };
    raw.options.columns.user_id = Some("1".into());
    assert!(init(&raw.options).unwrap().0.contains("id = \"1\""));
}

/// Interactions of users 1 to 150 and items 1 to 300, by columns of these names.
fn integers_by(columns: [&str; 2]) -> Tables {
    small_integers(150, 300, ["user_id", "item_id"], columns)
}

#[test]
fn columns_that_fit_better_the_other_way_round_are_told_loudly() {
    let warned = |tables: &Tables| {
        let (config, said) = tables.written();
        let warnings: Vec<String> = said.into_iter().filter(|line| line.starts_with("warning: ")).collect();
        (config.tables.interactions.user, warnings)
    };
    // By names that are right, there is nothing to say.
    let mut tables = integers_by(["user_id", "item_id"]);
    assert_eq!(warned(&tables), ("user_id".to_string(), Vec::new()));
    // By flags that are swapped: all users are ids of items, but not the other way round.
    tables.options.columns.event_user = Some("item_id".into());
    tables.options.columns.event_item = Some("user_id".into());
    let (user, warnings) = warned(&tables);
    assert_eq!((&*user, warnings.len()), ("item_id", 1), "{warnings:?}");
    for says in [
        "150 of the 150 values of `user_id`",
        "150 of the 300 values of `item_id`",
        "--event-user user_id --event-item item_id",
    ] {
        assert!(warnings[0].contains(says), "{says}: {warnings:?}");
    }
    // The step that is named is without a warning.
    tables.options.columns.event_user = Some("user_id".into());
    tables.options.columns.event_item = Some("item_id".into());
    assert_eq!(warned(&tables), ("user_id".to_string(), Vec::new()));
    // Names that are swapped in the table itself.
    assert_eq!(warned(&integers_by(["item_id", "user_id"])).1.len(), 1);
    // Where no id fits as given, and all do the other way round, that is no guess.
    let rows = (0..900).map(|e| format!("u{},i{}", e % 90, e * 7 % 60));
    let mut apart = Tables::new([
        ("users.csv", lines("uid,age", (0..90).map(|u| format!("u{u},{}", 18 + u % 60)))),
        ("items.csv", lines("iid,price", (0..60).map(|i| format!("i{i},{i}.5")))),
        ("events.csv", lines("who,what", rows)),
    ]);
    assert_eq!(warned(&apart), ("who".to_string(), Vec::new()));
    apart.options.columns.event_user = Some("what".into());
    apart.options.columns.event_item = Some("who".into());
    apart.refused(&["the other way round fits better", "give --event-user who --event-item what"]);
}

/// Runs the program in a folder; returns its exit code and what it said.
fn twotower(dir: &std::path::Path, words: &[&str]) -> (Option<i32>, String) {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_twotower")).args(words).current_dir(dir).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn interactions_alone_are_told_how_to_make_tables_of_ids_and_those_make_a_good_job() {
    let event = |e: usize, between: &str| format!("u{}{between}i{}", e % 90, e * 7 % 60);
    for (name, head, between, more) in [
        ("plays.txt", "", " ", &["--interactions-columns", "user,item"][..]),
        ("plays.csv", "item_count,userId,itemId", ",", &[]),
        ("plays.tsv", "user\titem", "\t", &[]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let row = |e: usize| {
            if head.starts_with("item_count") { format!("{e},{}", event(e, between)) } else { event(e, between) }
        };
        std::fs::write(dir.path().join(name), lines(head, (0..900).map(row))).unwrap();
        let given = [&["init", "--interactions", name], more].concat();
        let (code, told) = twotower(dir.path(), &given);
        assert_eq!(code, Some(2), "{told}");
        for says in [
            "--users and --items are missing",
            "docs/FAQ.md#tables",
            "each night's run",
            "--users users.csv --items items.csv",
        ] {
            assert!(told.contains(says), "{says}: {told}");
        }
        let commands: Vec<&str> = told.lines().filter(|line| line.starts_with("  awk ")).collect();
        assert_eq!(commands.len(), 2, "{told}");
        for command in commands {
            let done = std::process::Command::new("sh").args(["-c", command]).current_dir(dir.path()).status().unwrap();
            assert!(done.success(), "{command}");
        }
        let ids = |file: &str| -> Vec<String> {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            text.lines().map(str::to_string).collect()
        };
        let (users, items) = (ids("users.csv"), ids("items.csv"));
        assert_eq!(
            (users.len(), items.len(), &*users[1], &*items[2]),
            (91, 61, "u0", "i7"),
            "{name}: {users:?} {items:?}"
        );
        let tables = ["--users", "users.csv", "--items", "items.csv", "--output", "pipeline.toml"];
        let (code, told) = twotower(dir.path(), &[&given[..], &tables].concat());
        assert_eq!(code, Some(0), "{told}");
        let job = Config::load(&dir.path().join("pipeline.toml"), &[]).unwrap();
        let kinds = |features: &[twotower_encoders::FeatureSpec]| features.iter().map(|f| f.kind()).collect::<Vec<_>>();
        assert_eq!((kinds(&job.features.user), kinds(&job.features.item)), (vec!["sequence"; 3], vec!["id"]));
        let events = &job.tables.interactions;
        let table = twotower_tables::Table::open("events", &events.source).unwrap();
        assert_eq!((table.rows().unwrap(), table.column(&events.user).is_ok()), (900, true));
    }
    // One of both, where the other is there.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plays.csv"), lines("user,item", (0..9).map(|e| event(e, ",")))).unwrap();
    let (code, told) = twotower(dir.path(), &["init", "--users", "u.csv", "--interactions", "plays.csv"]);
    assert!(code == Some(2) && told.contains("init: --items is missing"), "{told}");
    assert!(
        told.contains("'BEGIN {print \"item\"} FNR > 1 && $2 != \"\" && !seen[$2]++ {print $2}' plays.csv > items.csv"),
        "{told}"
    );
}

#[test]
fn a_delimiter_is_for_the_tables_that_have_it_and_errors_name_the_likely_one() {
    let columns = |names: &str| Some(names.split(',').map(str::to_string).collect::<Vec<_>>());
    let user = |u: usize| format!("{u}|{}", 18 + u % 60);
    let item = |i: usize| format!("{i};{i}.5;A title | of {i}");
    let tables = |between: &str| {
        let event = |e: usize| format!("{}{between}{}{between}{}", 1 + e % 200, 1 + (7 * e + 241) % 500, 1 + e % 5);
        Tables::new([
            ("users.csv", lines("uid|age", (1..=200).map(user))),
            ("items.csv", lines("iid;price;title", (1..=500).map(item))),
            ("events.tsv", lines(&["user", "item", "stars"].join(between), (0..4000).map(event))),
        ])
    };
    let read = |tables: &Tables| {
        let (config, _) = tables.written();
        config
            .tables()
            .map(|spec| (spec.delimiter.clone(), twotower_tables::Table::open("t", spec).unwrap().columns().len()))
            .collect::<Vec<_>>()
    };
    let of = |delimiter: &str| Some(delimiter.to_string());
    let mut given = tables("\t");
    given.options.delimiter = of("|");
    assert_eq!(read(&given), [(of("|"), 2), (of(";"), 3), (None, 3)]);
    given.options.delimiter = None;
    assert_eq!(read(&given), [(of("|"), 2), (of(";"), 3), (None, 3)]);
    given.options.reading.items.delimiter = of(";");
    assert_eq!(read(&given), [(of("|"), 2), (of(";"), 3), (None, 3)]);
    given.options.delimiter = of("#");
    given.refused(&["--delimiter \"#\": it stands in the first line of none of the tables", "--users-delimiter"]);
    // A space is found in interactions, since they cannot have one column.
    let spaced = tables(" ");
    assert_eq!(read(&spaced)[2], (of(" "), 3));
    // One that not all lines have is not taken; the error names it, and the flag.
    let mut uneven = tables(" ");
    let text = std::fs::read_to_string(&uneven.options.interactions).unwrap();
    std::fs::write(&uneven.options.interactions, text.replacen('\n', "\n1 2\n", 1)).unwrap();
    uneven.options.reading.interactions.columns = columns("user,item,stars");
    uneven.refused(&[
        "3 names are given",
        "has 1 fields",
        "by the delimiter \"\\t\"",
        "\" \" parts it",
        "--interactions-delimiter ' '",
    ]);
    // Of users, whose table may have one column, only where the names say how many there are.
    let mut users = tables("\t");
    std::fs::write(&users.options.users, lines("", (1..=200).map(|u| format!("{u} {}", 18 + u % 60)))).unwrap();
    users.refused(&["users: the first line of", "looks like data", "--users-delimiter ' '"]);
    users.options.reading.users.columns = columns("uid,age");
    assert_eq!(read(&users)[0], (of(" "), 2));
}

#[test]
fn an_output_that_cannot_be_is_told_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |output: &str, says: &[&str]| {
        // None of the tables is there.
        let words = ["init", "--users", "u.csv", "--items", "i.csv", "--interactions", "r.csv", "--output", output];
        let (code, told) = twotower(dir.path(), &words);
        assert!(code == Some(2) && says.iter().all(|says| told.contains(says)), "{says:?}: {told}");
        assert!(told.contains(&format!("--output {output}: ")) && !told.contains("tmp"), "{told}");
    };
    std::fs::write(dir.path().join("old.toml"), "mine").unwrap();
    refused("old.toml", &["exists already", "name another file"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("old.toml")).unwrap(), "mine");
    refused("nowhere/new.toml", &["there is no folder nowhere", "make it first"]);
    refused("/proc/new.toml", &["cannot be made", "you may write to"]);
    // One that could be made is left to whoever reads the tables.
    let words = ["init", "--users", "u.csv", "--items", "i.csv", "--interactions", "r.csv", "--output", "new.toml"];
    let (_, told) = twotower(dir.path(), &words);
    assert!(told.contains("u.csv") && !dir.path().join("new.toml").exists(), "{told}");
}

#[test]
fn comments_tell_the_defaults_and_a_catalogue_is_counted_by_its_ids() {
    let mut tables = small_integers(300, 1000, ["user_id", "item_id"], ["user_id", "item_id"]);
    // Every item in three rows.
    let rows = (0..3000).map(|row| format!("{},{}.5", 1 + row % 1000, row));
    std::fs::write(&tables.options.items, lines("item_id,price", rows)).unwrap();
    tables.options.columns.item_id = Some("item_id".into());
    let (config, said) = tables.written();
    let loss = said.iter().find(|line| line.starts_with("train.loss: ")).unwrap();
    assert!(loss.contains("the 1000 of the catalogue"), "{loss}");
    // What stands behind `#` is what holds without it.
    let job = init(&tables.options).unwrap().0;
    let plain = job.replace("# epochs = ", "epochs = ").replace("# batch_size = ", "batch_size = ");
    let plain = plain.replace("# min_rows = ", "min_rows = ").replace("# format = ", "format = ");
    assert_eq!(plain.matches("\nepochs = ").count() + plain.matches("\nbatch_size = ").count(), 2, "{job}");
    let path = tables.dir.path().join("plain.toml");
    std::fs::write(&path, plain).unwrap();
    let shown = |config: &Config| serde_json::to_value(config).unwrap();
    assert_eq!(shown(&Config::load(&path, &[]).unwrap()), shown(&config));
}
