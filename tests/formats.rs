//! The format of the tables does not matter: the same rows as Parquet, as text of any delimiter and
//! encoding, and as JSON Lines give the same recalled items.

mod fixture;

use fixture::sheet::{Sheet, latin1};
use fixture::{Job, SETTINGS, TABLES, interactions, items, results, users};

/// Writes the three tables with `write` under `extension`, and a job that reads them with `settings`.
fn job(name: &str, extension: &str, settings: &str, write: impl Fn(&Sheet) -> Vec<u8>) -> Job {
    let job = Job::empty(name);
    for (table, sheet) in [("users", users()), ("items", items()), ("interactions", interactions())] {
        std::fs::write(job.path(&format!("{table}.{extension}")), write(&sheet)).unwrap();
    }
    let tables = TABLES.replace(".parquet\"", &format!(".{extension}\"\n{settings}"));
    job.write("pipeline.toml", &format!("{tables}{SETTINGS}"));
    job
}

/// Users and their items as text, in the order of the output; the similarities.
fn results_of(job: &Job) -> (Vec<(String, Vec<String>)>, Vec<f32>) {
    job.ok("run --quiet");
    let lists = results::recalled(&job.path("run/recall"));
    let scores = lists.iter().flat_map(|(_, list)| list.iter().map(|(_, score)| *score)).collect();
    let texts = lists.iter().map(|(u, l)| (results::text(u), l.iter().map(|(i, _)| results::text(i)).collect()));
    (texts.collect(), scores)
}

#[test]
fn every_table_format_gives_the_same_recalled_items() {
    let delimited = |delimiter: &'static str| move |sheet: &Sheet| sheet.text(delimiter).into_bytes();
    let jobs = [
        job("formats-csv", "csv", "", delimited(",")),
        job("formats-colons", "csv", "delimiter = \"::\"", delimited("::")),
        job("formats-latin1", "tsv", "encoding = \"latin-1\"", |sheet| latin1(&sheet.text("\t"))),
        job("formats-jsonl", "jsonl", "", |sheet| sheet.json_lines().into_bytes()),
    ];
    let (expected, scores) = results_of(&Job::new("formats-parquet"));
    assert_eq!(expected.len(), fixture::USERS);
    for job in jobs {
        let (found, found_scores) = results_of(&job);
        assert_eq!(found, expected, "{}", job.dir.display());
        assert_eq!(found_scores, scores, "{}", job.dir.display());
    }
}
