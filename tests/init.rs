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
    let reading = TableReading { format: Some(Format::Csv), columns: None };
    raw.options.reading = KnownReading {
        users: reading.clone(),
        items: raw.options.reading.items.clone(),
        interactions: raw.options.reading.interactions.clone(),
        header: true,
    };
    raw.options.columns.user_id = Some("1".into());
    assert!(init(&raw.options).unwrap().0.contains("id = \"1\""));
}
