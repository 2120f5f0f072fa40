//! The format of the tables does not matter: the same rows as Parquet, as text of any delimiter and
//! encoding, and as JSON Lines give the same recalled items.

mod fixture;

use fixture::sheet::{Column, Sheet, latin1};
use fixture::{Job, SETTINGS, TABLES, interactions, item_id, items, results, system, users};
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

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
        job("formats-gb18030", "csv", "encoding = \"gb18030\"", |sheet| {
            encoding_rs::GB18030.encode(&sheet.text(",")).0.into_owned()
        }),
        job("formats-utf16-gzip", "tsv.gz", "encoding = \"utf-16\"", |sheet| {
            let text = format!("\u{feff}{}", sheet.text("\t"));
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            text.encode_utf16().for_each(|unit| gzip.write_all(&unit.to_le_bytes()).unwrap());
            gzip.finish().unwrap()
        }),
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

/// Writes rows of a sheet as one of the files of a folder.
fn part(job: &Job, file: &str, sheet: &Sheet, rows: std::ops::Range<usize>) {
    let path = job.path(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    sheet.take(rows).write_parquet(&path);
}

#[test]
fn folders_as_spark_writes_them_and_text_as_impala_does_give_the_same_recalled_items() {
    let expected = results_of(&Job::new("formats-plain"));
    let job = Job::new("formats-folders");
    users().write_parquet_bytes(&job.path("users.parquet"));
    items().write_parquet_bytes(&job.path("items.parquet"));
    let (events, rows) = (interactions(), interactions().rows());
    for (at, day) in ["2026-01-01", "2026-01-02", "__HIVE_DEFAULT_PARTITION__"].into_iter().enumerate() {
        part(&job, &format!("orders/dt={day}/part-0.snappy.parquet"), &events, rows * at / 3..rows * (at + 1) / 3);
        part(&job, &format!("orders/dt={day}/part-1.parquet"), &events, 0..0);
        job.write(&format!("orders/dt={day}/_SUCCESS"), "");
        job.write(&format!("orders/dt={day}/.part-0.snappy.parquet.crc"), "crc");
    }
    part(&job, "orders/_temporary/0/task/part-0.parquet", &events, 0..50);
    part(&job, "orders/.hive-staging_1/dt=2026-01-01/part-0.parquet", &events, 0..50);
    let mut path = "interactions.parquet".to_string();
    for next in ["orders", "orders/dt=*", "orders/*/*.parquet", "orders/**/*.parquet", "orders/**"] {
        job.edit(&format!("path = \"{path}\""), &format!("path = \"{next}\""));
        path = next.to_string();
        assert!(results_of(&job) == expected, "{path}");
    }
}

#[test]
fn columns_of_folders_are_ids_times_and_features_like_any_other() {
    let day = |ts: i64| 1 + (ts - 1_700_000_000) / 86_400;
    let mut events = interactions();
    let days: Vec<i64> = events.ints("ts").iter().map(|ts| day(ts.unwrap())).collect();
    let mut order: Vec<usize> = (0..days.len()).collect();
    order.sort_by_key(|row| days[*row]);
    let events = events.take(order.iter().copied()).without("ts");
    let days: Vec<i64> = order.iter().map(|row| days[*row]).collect();

    let plain = Job::new("formats-day");
    plain.edit("timestamp = \"ts\"", "timestamp = \"day\"");
    let column = Column::Int(days.iter().map(|day| Some(*day)).collect());
    events.clone().with("day", column).write_parquet(&plain.path("interactions.parquet"));

    let job = Job::new("formats-day-folders");
    job.edit("timestamp = \"ts\"", "timestamp = \"day\"");
    job.edit("path = \"interactions.parquet\"", "path = \"orders\"");
    job.edit("path = \"items.parquet\"", "path = \"goods/*\"");
    for day in 1..=*days.last().unwrap() {
        let rows = days.partition_point(|d| *d < day)..days.partition_point(|d| *d <= day);
        part(&job, &format!("orders/day={day}/a.parquet"), &events, rows);
    }
    let goods = items().without("item_id").without("category");
    for row in 0..goods.rows() {
        let (category, id) = (format!("category%20{}", row % 6), item_id(row));
        part(&job, &format!("goods/category={category}/item_id={id}/a.parquet"), &goods, row..row + 1);
    }
    assert!(results_of(&job) == results_of(&plain));
}

/// Waits until a file is there, and stops the process while it still has work to do.
fn stop_at(child: &Child, file: &Path) {
    for _ in 0..60_000 {
        if file.exists() {
            system::send(child, libc::SIGSTOP);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} did not appear", file.display());
}

#[test]
fn a_table_that_is_replaced_during_a_run_ends_it_and_no_user_is_lost_or_twice() {
    let line = "run --set run.part_users=15 --set infer.workers=1";
    for (name, fused, part) in
        [("formats-replaced", false, "vectors/user/part-00003"), ("formats-replaced-fused", true, "recall/part-00003")]
    {
        let job = Job::new(name);
        job.native();
        job.one_epoch();
        job.edit("[recall]\n", &format!("[recall]\nfused = {fused}\n"));
        let reversed = users().take((0..fixture::USERS).rev());
        reversed.write_parquet(&job.path("new.parquet"));
        let mut command = job.command(line);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        stop_at(&child, &job.path(&format!("run/manifests/{part}-of-00100.json")));
        std::fs::rename(job.path("new.parquet"), job.path("users.parquet")).unwrap();
        system::send(&child, libc::SIGCONT);
        let finished = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(3), "{name}: {said}");
        assert!(said.contains("users.parquet: the file changed while it was being read"), "{said}");
        assert!(!job.path("run/gates/manifest.json").exists());

        job.ok(line);
        job.ok("verify run");
        let order = |job: &Job| results::recalled(&job.path("run/recall")).into_iter().map(|(user, _)| user);
        let ids: Vec<_> = order(&job).collect();
        let expected: Vec<_> =
            (0..fixture::USERS).rev().map(|u| fixture::user_id(u).into()).collect::<Vec<serde_json::Value>>();
        assert_eq!(ids, expected, "{name}");
    }
}

#[test]
fn an_edit_that_keeps_size_and_time_is_noticed_by_the_next_run() {
    let job = Job::new("formats-edited");
    std::fs::write(job.path("users.csv"), users().text(",")).unwrap();
    job.edit("path = \"users.parquet\"", "path = \"users.csv\"");
    job.native();
    job.one_epoch();
    job.ok("run");
    let path = job.path("users.csv");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("Bern", "Chur", 1)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let before = std::fs::read(job.path("run/encoders/manifest.json")).unwrap();
    job.ok("encode-features");
    assert_ne!(std::fs::read(job.path("run/encoders/manifest.json")).unwrap(), before);
    let after = std::fs::read(job.path("run/encoders/manifest.json")).unwrap();
    job.ok("encode-features");
    assert_eq!(std::fs::read(job.path("run/encoders/manifest.json")).unwrap(), after);
}

#[test]
fn a_side_file_that_is_replaced_between_two_stages_ends_the_run() {
    let job = Job::new("formats-side-file");
    job.native();
    job.edit(
        "{ kind = \"id\", name = \"item\" },",
        "{ kind = \"id\", name = \"item\" },\n    { kind = \"vector\", name = \"embedding\", dim = 4, file = \"side.parquet\" },",
    );
    let vectors = |seed: usize| {
        let of = |row: usize| (0..4).map(|at| (fixture::mixed(row, seed + at) % 100) as f32 + 1.0).collect();
        let ids = Column::Int((0..fixture::ITEMS).map(|row| Some(item_id(row))).collect());
        Sheet::new([("item_id", ids), ("embedding", Column::Vector((0..fixture::ITEMS).map(of).collect()))])
    };
    vectors(1).write_parquet(&job.path("side.parquet"));
    vectors(9).write_parquet(&job.path("new.parquet"));
    let mut command = job.command("run");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    stop_at(&child, &job.path("run/encoders/manifest.json"));
    std::fs::rename(job.path("new.parquet"), job.path("side.parquet")).unwrap();
    system::send(&child, libc::SIGCONT);
    let finished = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(3), "{said}");
    assert!(said.contains("side.parquet: the file changed while it was being read"), "{said}");
    job.ok("run");
}
