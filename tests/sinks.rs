//! Lists exported to a real Redis and a real PostgreSQL: right, in order, and one night or the other, whole, whatever is
//! killed.

mod fixture;

use fixture::results::{List, files, recalled, recalled_with, text};
use fixture::servers::{Found, PASSWORD, PASSWORD_IN_URL, Postgres, Redis, found, free_port, is_listening};
use fixture::sheet::Column;
use fixture::{Job, TABLES, interactions, items, long, mixed, users};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The nights of the job; their lists differ.
const NIGHTS: [&str; 2] = ["runs/2026-01-01", "runs/2026-01-02"];
/// How many users a second make an export of 150 take some time.
const SLOWLY: &str = "--max-rows-per-second 150";

/// A model of inner products.
const INNER_PRODUCTS: &str = r#"
[features]
user = [{ kind = "id", name = "user" }, { kind = "sequence", name = "recent", max_len = 20 }]
item = [{ kind = "id", name = "item" }]
[model]
kind = "lightgcn"
dim = 8
layers = 2
[train]
epochs = 1
batch_size = 512
patience = 0
[infer]
engine = "native"
[recall]
topk = 10
"#;

/// A job with two nights, in parts of 19 users.
fn job() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::small("sinks");
        job.ok(&format!("run --run {} --set run.part_users=20 --set recall.topk=10 --quiet", NIGHTS[0]));
        job.ok(&format!(
            "run --run {} --update-from previous --no-train --set run.part_users=20 --set recall.topk=7 --quiet",
            NIGHTS[1]
        ));
        job
    })
}

/// Lists by user.
type Lists = BTreeMap<String, Found>;

fn expected(night: &str) -> Lists {
    let list = |(user, items): List| (text(&user), items.into_iter().unzip());
    recalled(&job().path(night).join("recall")).into_iter().map(list).collect()
}

/// What readers of a database see.
trait Read {
    fn url(&self) -> String;
    /// The lists of all users of the job that have one.
    fn lists(&self) -> Lists;
    fn restart(&mut self, after: Duration);
}

impl Read for Redis {
    fn url(&self) -> String {
        self.url()
    }

    fn lists(&self) -> Lists {
        let users: Vec<String> = expected(NIGHTS[0]).into_keys().collect();
        let current = self.ask("GET recall:current").remove(0);
        if current.is_empty() {
            return Lists::new();
        }
        let keys: Vec<String> = users.iter().map(|user| format!("\"recall:{current}:user:{user}\"")).collect();
        let values = self.ask(&format!("MGET {}", keys.join(" ")));
        assert_eq!(values.len(), users.len());
        let list = |value: &str| {
            let value: Value = serde_json::from_str(value).unwrap();
            found(&value["item_ids"], &value["cosine_similarity"])
        };
        let there = users.into_iter().zip(&values).filter(|(_, value)| !value.is_empty());
        there.map(|(user, value)| (user, list(value))).collect()
    }

    fn restart(&mut self, after: Duration) {
        self.restart(after);
    }
}

impl Read for Postgres {
    fn url(&self) -> String {
        self.url()
    }

    fn lists(&self) -> Lists {
        if self.ask("SELECT count(*) FROM pg_class WHERE relname = 'recall'") == ["0"] {
            return Lists::new();
        }
        let rows = self.ask("SELECT json_build_array(user_id, item_ids, cosine_similarity, score) FROM recall");
        let list = |row: &String| {
            let row: Value = serde_json::from_str(row).unwrap();
            assert_eq!(row[3], Value::Null);
            (text(&row[0]), found(&row[1], &row[2]))
        };
        let lists: Lists = rows.iter().map(list).collect();
        assert_eq!(lists.len(), rows.len(), "a user stands twice");
        lists
    }

    fn restart(&mut self, after: Duration) {
        self.restart(after);
    }
}

fn command(server: &impl Read, night: &str, more: &str) -> Command {
    let mut command = job().command(&format!("export-results --run {night} --quiet {more}"));
    command.env("TWOTOWER_EXPORT_TO", server.url());
    command
}

fn export(server: &impl Read, night: &str, more: &str) -> Value {
    let output = command(server, night, &format!("--json {more}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{night} {more}: {said}");
    assert!(!said.contains(PASSWORD) && !said.contains(PASSWORD_IN_URL), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn exports_of_nights_are_right_and_in_order(server: &impl Read) {
    assert_eq!(server.lists(), Lists::new());
    for (number, night) in (1..).zip(NIGHTS) {
        let done = export(server, night, "");
        assert_eq!(
            (&done["generation"], &done["parts_written"], &done["users"]),
            (&number.into(), &8.into(), &150.into())
        );
        assert!(server.lists() == expected(night), "{night}");
        // Again, there is nothing to do, unless that is wanted.
        assert_eq!(export(server, night, "")["skipped"], true);
    }
    let again = export(server, NIGHTS[1], "--again --keep 1");
    assert_eq!((&again["generation"], &again["removed"]), (&3.into(), &serde_json::json!([1, 2])));
    assert!(server.lists() == expected(NIGHTS[1]));
    // Back to the earlier night.
    assert_eq!(export(server, NIGHTS[0], "--keep 1")["generation"], 4);
    assert!(server.lists() == expected(NIGHTS[0]));
}

/// Starts an export, reads meanwhile, and kills it after some time; returns whether it was still at work.
fn killed(mut export: Command, after: Duration, mut read: impl FnMut()) -> bool {
    let begun = Instant::now();
    let mut child: Child = export.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while begun.elapsed() + Duration::from_millis(50) < after {
        read();
    }
    std::thread::sleep(after.saturating_sub(begun.elapsed()));
    let at_work = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    at_work
}

fn killed_at_random_readers_see_one_night_or_the_other(server: &impl Read) {
    let (nights, kills) = (NIGHTS.map(expected), if long() { 50 } else { 12 });
    export(server, NIGHTS[0], "");
    let is_whole = || {
        let lists = server.lists();
        assert!(nights.contains(&lists), "neither night, but {} lists", lists.len());
    };
    let (mut killed_at_work, mut shown, mut tries) = (0, 0, 0);
    while killed_at_work < kills {
        // The night that readers do not see yet.
        let next = 1 - shown;
        let after = Duration::from_millis(mixed(tries, 1) as u64 % 1300);
        tries += 1;
        killed_at_work += usize::from(killed(command(server, NIGHTS[next], SLOWLY), after, is_whole));
        let lists = server.lists();
        let seen = nights.iter().position(|night| *night == lists);
        let seen = seen.unwrap_or_else(|| panic!("{tries}: neither night, but {} lists", lists.len()));
        assert!(seen == shown || seen == next);
        shown = seen;
        if tries % 4 == 0 && shown != next {
            // What is complete of it is not written again.
            let done = export(server, NIGHTS[next], "");
            assert!(done["parts_written"].as_u64().unwrap() <= 8 && server.lists() == nights[next], "{done}");
            shown = next;
        }
    }
    let next = 1 - shown;
    killed(command(server, NIGHTS[next], SLOWLY), Duration::from_millis(900), is_whole);
    let done = export(server, NIGHTS[next], "");
    assert!(server.lists() == nights[next], "{done}");
}

fn a_server_that_is_restarted_meanwhile_is_waited_for(server: &mut impl Read) {
    export(server, NIGHTS[0], "");
    let child = command(server, NIGHTS[1], &format!("{SLOWLY} --json")).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    server.restart(Duration::from_millis(700));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(done["retries"].as_u64().unwrap() >= 1, "{done}");
    assert!(server.lists() == expected(NIGHTS[1]));
}

/// Runs an export to a URL, which must fail with `code`, say all of `says` and never the password.
fn refused(url: &str, more: &str, code: i32, says: &[&str]) {
    let patience = if more.contains("--retry-seconds") { "" } else { "--retry-seconds 0" };
    let mut export = job().command(&format!("export-results --run {} --quiet {patience} {more}", NIGHTS[0]));
    let output = export.env("TWOTOWER_EXPORT_TO", url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    says.iter().for_each(|text| assert!(said.contains(text), "expected `{text}` in {said}"));
    assert!(!said.contains("wrong-password") && !said.contains(PASSWORD), "{said}");
}

fn two_exports_do_not_write_at_once(server: &impl Read) {
    let mut first = command(server, NIGHTS[0], &format!("{SLOWLY} --again")).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    refused(&server.url(), "--again", 1, &["`recall` in ", "is being written by "]);
    assert!(first.wait().unwrap().success());
}

#[test]
fn lists_in_redis_are_right_and_in_order() {
    let Some(server) = Redis::start() else { return };
    exports_of_nights_are_right_and_in_order(&server);
    let run = server.ask("HMGET recall:4:run run users pairs state");
    assert_eq!(run, ["2026-01-01", "150", "1500", "complete"]);
    // All that is kept is of the one generation, and ends at one time.
    let keys = server.ask("KEYS *");
    let mut rest: Vec<&str> =
        keys.iter().map(String::as_str).filter(|key| !key.starts_with("recall:4:user:")).collect();
    rest.sort_unstable();
    assert_eq!(
        (keys.len() - rest.len(), rest),
        (150, vec!["recall:4:run", "recall:current", "recall:generations", "recall:sequence"])
    );
    let user = keys.iter().find(|key| key.starts_with("recall:4:user:")).unwrap();
    let ends = server.ask(&format!("EXPIRETIME {user}\nEXPIRETIME recall:4:run\nEXPIRETIME recall:current"));
    assert!(ends[0] == ends[1] && ends[2] == "-1", "{ends:?}");
    let left: u64 = server.ask(&format!("TTL {user}"))[0].parse().unwrap();
    assert!((168 * 3600 - 600..=168 * 3600).contains(&left), "{left}");
    export(&server, NIGHTS[0], "--again --expire-hours 0 --name other_1");
    assert_eq!(server.ask("TTL other_1:1:run\nGET other_1:current"), ["-1", "1"]);
    two_exports_do_not_write_at_once(&server);
}

#[test]
fn lists_in_postgres_are_right_and_in_order() {
    let Some(server) = Postgres::start() else { return };
    exports_of_nights_are_right_and_in_order(&server);
    let run = server.ask("SELECT run, users, pairs, is_current, table_name FROM recall_runs");
    assert_eq!(run, ["2026-01-01|150|1500|t|recall_4"]);
    let tables =
        server.ask("SELECT relname FROM pg_class WHERE relname LIKE 'recall%' AND relkind IN ('r', 'v') ORDER BY 1");
    assert_eq!(tables, ["recall", "recall_4", "recall_parts", "recall_runs"]);
    let plan = server.ask("SET enable_seqscan = off; EXPLAIN SELECT item_ids FROM recall WHERE user_id = 7").join("\n");
    assert!(plan.contains("recall_4_pkey"), "{plan}");
    // A reader's table of that name is left alone, and so is a view of other columns.
    server.ask("CREATE TABLE mine (user_id bigint)");
    refused(&server.url(), "--name mine", 4, &["there is a table `mine` of user_id bigint"]);
    two_exports_do_not_write_at_once(&server);
}

#[test]
fn exports_to_redis_killed_at_random_leave_one_night_or_the_other() {
    let Some(server) = Redis::start() else { return };
    killed_at_random_readers_see_one_night_or_the_other(&server);
}

#[test]
fn exports_to_postgres_killed_at_random_leave_one_night_or_the_other() {
    let Some(server) = Postgres::start() else { return };
    killed_at_random_readers_see_one_night_or_the_other(&server);
}

#[test]
fn a_redis_that_is_restarted_meanwhile_is_waited_for() {
    let Some(mut server) = Redis::start() else { return };
    a_server_that_is_restarted_meanwhile_is_waited_for(&mut server);
}

#[test]
fn a_postgres_that_is_restarted_meanwhile_is_waited_for() {
    let Some(mut server) = Postgres::start() else { return };
    a_server_that_is_restarted_meanwhile_is_waited_for(&mut server);
}

#[test]
fn wrong_passwords_missing_and_full_servers_are_told() {
    let port = free_port();
    for scheme in ["redis", "postgres"] {
        let url = format!("{scheme}://app:wrong-password@127.0.0.1:{port}/0");
        refused(&url, "", 1, &[&format!("connect to {scheme}://127.0.0.1:{port}/0: "), "refused"]);
    }
    let begun = Instant::now();
    refused(&format!("redis://127.0.0.1:{port}"), "--retry-seconds 1", 1, &["trying again", "refused"]);
    assert!(begun.elapsed() >= Duration::from_secs(1) && !is_listening(port));
    refused("rediss://127.0.0.1", "", 2, &["TLS", "stunnel"]);
    refused("postgres://127.0.0.1/a?sslmode=require", "", 2, &["TLS", "stunnel"]);
    if let Some(server) = Redis::start() {
        refused(&format!("redis://:wrong-password@127.0.0.1:{}", server.port), "", 2, &["REDISCLI_AUTH"]);
        refused(&format!("redis://127.0.0.1:{}", server.port), "", 2, &["REDISCLI_AUTH"]);
        export(&server, NIGHTS[0], "");
        let used =
            server.ask("INFO memory").iter().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
        let used: u64 = used.unwrap();
        server.ask(&format!("CONFIG SET maxmemory {}", used + 20_000));
        refused(&server.url(), "--again", 1, &["OOM", "the server is full", "readers still have what they had"]);
        assert!(server.lists() == expected(NIGHTS[0]));
        server.ask("CONFIG SET maxmemory 0");
        // What was complete of it is taken.
        assert!(export(&server, NIGHTS[0], "--again")["parts_written"].as_u64().unwrap() <= 8);
    }
    if let Some(server) = Postgres::start() {
        let url = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", server.port);
        refused(&url("app:wrong-password", "postgres"), "", 2, &["password", "PGPASSWORD"]);
        refused(&url("app", "postgres"), "", 2, &["PGPASSWORD"]);
        refused(&url(&format!("app:{PASSWORD_IN_URL}"), "nobody"), "", 2, &["nobody", "create the database"]);
        let disk = server.small_disk();
        if let Some(disk) = &disk {
            refused(&server.url(), "", 1, &["No space left on device", "short of disk", "readers still have"]);
            assert!(server.lists().is_empty());
            disk.grow();
        }
        assert!(export(&server, NIGHTS[0], "")["parts_written"].as_u64().unwrap() <= 8);
        assert!(server.lists() == expected(NIGHTS[0]));
        server.ask("CREATE ROLE guest LOGIN PASSWORD 'guest'; REVOKE CREATE ON SCHEMA public FROM public");
        refused(&url("guest:guest", "postgres"), "", 2, &["permission denied", "grant the user"]);
    }
}

#[test]
fn only_runs_that_passed_their_gates_are_exported_unless_forced() {
    let Some(server) = Redis::start() else { return };
    let copy = job().copy("sinks-refused");
    let export = |night: &str, more: &str| {
        let mut command = copy.command(&format!("export-results --run {night} --quiet {more}"));
        let output = command.env("TWOTOWER_EXPORT_TO", server.url()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    copy.ok(&format!("recall --run {} --set run.part_users=20 --topk 5 --quiet", NIGHTS[0]));
    let (code, said) = export(NIGHTS[0], "");
    assert!(
        code == 4 && said.contains("was not checked since it last changed") && said.contains("publish --run"),
        "{said}"
    );
    assert_eq!(export(NIGHTS[0], "--force").0, 0);
    std::fs::remove_file(copy.path(NIGHTS[1]).join("manifests/recall/part-00003-of-00008.json")).unwrap();
    for more in ["", "--force"] {
        let (code, said) = export(NIGHTS[1], more);
        assert!(code == 4 && said.contains("--shard 3/8"), "{said}");
    }
    copy.ok(&format!("recall --run {} --format jsonl --force --quiet", NIGHTS[0]));
    let (code, said) = export(NIGHTS[0], "--force");
    assert!(code == 2 && said.contains("recall.format"), "{said}");
    // A part that is damaged is found before it is written.
    let part = copy.path(NIGHTS[1]).join("recall/part-00002-of-00008.parquet");
    copy.ok(&format!("recall --run {} --set run.part_users=20 --topk 7 --quiet", NIGHTS[1]));
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let (code, said) = export(NIGHTS[1], "--force");
    assert!(code == 3 && said.contains("part-00002-of-00008.parquet"), "{said}");
    assert_eq!(server.ask("GET recall:current"), ["1"]);
}

#[test]
fn ids_of_text_and_inner_products_arrive_as_they_are() {
    let job = Job::small("sinks-text");
    let user = |id: i64| format!("u {id} é, {{1}}");
    let item = |id: i64| format!("it'em \"{id}\" \\ {{,}} NULL 猫");
    for (file, mut sheet) in [
        ("users.parquet", users().take(0..150)),
        ("items.parquet", items()),
        ("interactions.parquet", interactions().take(0..700)),
    ] {
        type Renamed<'a> = (&'a str, &'a dyn Fn(i64) -> String, bool);
        let sides: [Renamed; 2] =
            [("user_id", &user, file != "items.parquet"), ("item_id", &item, file != "users.parquet")];
        for (column, name, _) in sides.iter().filter(|(.., has)| *has) {
            let names = sheet.ints(column).iter().map(|id| id.map(name)).collect();
            *sheet.column(column) = Column::Text(names);
        }
        sheet.write_parquet(&job.path(file));
    }
    job.write("pipeline.toml", &format!("{TABLES}{INNER_PRODUCTS}"));
    job.ok("run --run runs/a --accept metric --quiet");
    let parts = files(&job.path("runs/a/recall"), "parquet");
    let of = |column| -> Lists {
        let lists = parts.iter().flat_map(|part| recalled_with(part, column));
        lists.map(|(user, items)| (text(&user), items.into_iter().unzip())).collect()
    };
    let (cosines, scores) = (of("cosine_similarity"), of("score"));
    let export = |url: String| {
        let output =
            job.command("export-results --run runs/a --quiet").env("TWOTOWER_EXPORT_TO", url).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    if let Some(server) = Postgres::start() {
        export(server.url());
        let rows = server.ask("SELECT json_build_array(user_id, item_ids, cosine_similarity, score) FROM recall");
        let rows = rows.iter().map(|row| serde_json::from_str::<Value>(row).unwrap());
        let rows: Vec<(String, Found, Found)> =
            rows.map(|row| (text(&row[0]), found(&row[1], &row[2]), found(&row[1], &row[3]))).collect();
        assert_eq!(rows.len(), 150);
        assert!(rows.iter().all(|(user, cosine, score)| *cosine == cosines[user] && *score == scores[user]));
    }
    if let Some(server) = Redis::start() {
        export(server.url());
        let keys: Vec<String> = cosines.keys().map(|user| format!("\"recall:1:user:{user}\"")).collect();
        let values = server.ask(&format!("MGET {}", keys.join(" ")));
        assert_eq!(values.len(), 150);
        for (user, value) in cosines.keys().zip(&values) {
            let value: Value = serde_json::from_str(value).unwrap();
            assert!(found(&value["item_ids"], &value["cosine_similarity"]) == cosines[user], "{user}");
            assert!(found(&value["item_ids"], &value["score"]) == scores[user], "{user}");
        }
    }
}
