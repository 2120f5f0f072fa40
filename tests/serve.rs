//! The real `twotower serve` on small runs: all routes, errors, the token, limits, a graceful stop, and publishing under
//! load.

mod fixture;

use fixture::results::{histories, recalled};
use fixture::sheet::Column;
use fixture::{ITEMS, Job, interactions, item_id, mixed, user_id, users};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Settings of a night whose model is of no matter.
const NIGHT: &str =
    "--set run.part_users=60 --set gates.off=[\"metric\",\"lists\",\"coverage\",\"overlap\",\"users\"] --quiet";

/// Two runs of the same tables with other models: `runs/a`, whose results are parts of lists, and `runs/b`, whose are
/// one of pairs. `latest` names `a`.
fn job() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::small("serve");
        job.ok(&format!("run --run runs/b {NIGHT} --set train.seed=7 --set recall.format=parquet-long"));
        job.ok(&format!("run --run runs/a {NIGHT}"));
        assert_eq!(job.latest(), "a");
        job
    })
}

/// A service that is at work, and its address.
struct Service {
    child: Child,
    address: String,
    /// What it says on standard error, once it has ended.
    log: Option<std::process::ChildStderr>,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a service answered.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    status: u16,
    /// With small letters.
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The ids and similarities of its items.
    fn items(&self) -> Vec<(Value, f32)> {
        let items = self.json()["items"].as_array().unwrap_or_else(|| panic!("{self:?}")).clone();
        items.iter().map(|i| (i["item"].clone(), i["cosine_similarity"].as_f64().unwrap() as f32)).collect()
    }

    /// That it is an error that says what and where.
    fn is_error(&self, status: u16) -> Value {
        let error = self.json()["error"].clone();
        let said =
            ["code", "at", "message"].iter().all(|key| error[*key].as_str().is_some_and(|text| !text.is_empty()));
        assert!(self.status == status && said, "expected {status}: {self:?}");
        error
    }
}

impl Service {
    /// Starts a service on a free port and waits until it is ready.
    fn start(job: &Job, options: &str) -> Self {
        let service = Self::begin(job, options, &[]);
        service.wait("ready", |service| service.get("/readyz").status == 200);
        service
    }

    fn begin(job: &Job, options: &str, environment: &[(&str, &str)]) -> Self {
        let mut command: Command =
            job.command(&format!("serve --runs runs --listen 127.0.0.1:0 --poll-ms 20 --workers 2 {options}"));
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = child.stderr.take();
        let address = line.trim().rsplit_once("http://").unwrap_or_else(|| panic!("{line}")).1.to_string();
        Self { child, address, log }
    }

    fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is(self) {
            assert!(started.elapsed() < Duration::from_secs(60), "{what}: {:?}", self.get("/readyz"));
            sleep(Duration::from_millis(10));
        }
    }

    /// Sends bytes and reads until the connection is closed; none where it was closed without an answer.
    fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_lowercase(), body: body.to_string() })
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.raw(&[head.as_bytes(), body].concat()).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    fn recall(&self, body: &Value) -> Answer {
        self.ask("POST", "/v1/recall", "", body.to_string().as_bytes())
    }

    /// Asks it to stop, as a scheduler does.
    fn stop(&self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    }
}

/// A user of the tables as a body: his values, and his history, oldest first.
fn newcomer(row: usize) -> Value {
    let mut sheet = users().take([row]);
    let mut features = serde_json::Map::new();
    for name in ["city", "device", "is_5g", "tags"] {
        features.insert(name.into(), json!(sheet.texts(name)[0]));
    }
    let Column::Real(ages) = sheet.column("age") else { panic!("`age` is no column of numbers") };
    features.insert("age".into(), json!(ages[0]));
    let mut ids: Vec<i64> = (0..ITEMS).map(item_id).collect();
    ids.sort_unstable();
    let timeline = histories(&job().path("runs/a"));
    let at = timeline.rows.binary_search(&(row as u64)).ok();
    let events = at.map_or(0..0, |at| timeline.events(at));
    let history: Vec<i64> = events.map(|event| ids[timeline.items[event] as usize]).collect();
    json!({ "features": features, "history": history })
}

#[test]
fn lists_of_the_night_and_of_users_it_did_not_know_are_what_the_night_computed() {
    let (job, service) = (job(), Service::start(job(), ""));
    let lists: BTreeMap<String, _> =
        recalled(&job.path("runs/a/recall")).into_iter().map(|(user, list)| (user.to_string(), list)).collect();
    assert_eq!(lists.len(), 150);
    for row in 0..150 {
        let user = user_id(row).to_string();
        let answer = service.get(&format!("/v1/users/{user}/items"));
        assert_eq!((answer.status, answer.json()["run"].as_str()), (200, Some("a")), "{answer:?}");
        assert_eq!(answer.items(), lists[&user], "user {user}");
        // The same values and history, from a user of no name.
        let answer = service.recall(&newcomer(row));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.items(), lists[&user], "row {row}: {}", newcomer(row));
    }
    let user = user_id(3);
    assert_eq!(service.get(&format!("/v1/users/{user}/items?k=3")).items(), lists[&user.to_string()][..3]);
    let whole = service.recall(&newcomer(3)).items();
    // What is excluded does not come back, and what comes after moves up.
    let mut body = newcomer(3);
    (body["exclude"], body["k"]) = (json!([whole[0].0, whole[2].0, -123_456]), json!(8));
    let rest: Vec<_> = [&whole[1..2], &whole[3..]].concat();
    assert_eq!(service.recall(&body).items()[..8], rest[..8]);
    // What he had is left out as in the night, or not.
    (body["exclude_seen"], body["k"], body["exclude"]) = (json!(false), json!(ITEMS), json!([]));
    assert_eq!(service.recall(&body).items().len(), ITEMS);
    // Items that the run does not know are passed over, and so are values that are not there.
    body["history"] = json!([-123_456, 5_000_000]);
    assert_eq!(service.recall(&body).json()["history_passed_over"], 2);
    assert_eq!(service.recall(&json!({})).items().len(), 10);
    // Similar items are those of `lookup`.
    for row in [0, 7, 59] {
        let item = item_id(row);
        let shown = job.json(&format!("lookup runs/a --item {item} --limit 6"));
        let expected: Vec<Value> =
            shown["nearest"].as_array().unwrap().iter().map(|near| near["item"].clone()).collect();
        let found: Vec<Value> =
            service.get(&format!("/v1/items/{item}/similar?k=6")).items().into_iter().map(|(item, _)| item).collect();
        assert_eq!(found, expected, "item {item}");
    }
}

#[test]
fn every_other_path_is_described_and_counted() {
    let service = Service::start(job(), "");
    assert_eq!(service.get("/healthz").body, "ok\n");
    assert_eq!(service.get("/readyz").json(), json!({ "ready": true, "run": "a" }));
    let described = service.get("/openapi.json");
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/serve/openapi.json")).unwrap();
    assert_eq!(described.body, kept);
    let document = described.json();
    assert_eq!(document["openapi"], "3.1.0");
    references_lead_somewhere(&document, &document);
    // Every answer is one that is described.
    let user = user_id(1);
    service.get(&format!("/v1/users/{user}/items"));
    service.get("/v1/users/1/items").is_error(404);
    service.ask("HEAD", "/healthz", "", b"");
    let text = service.get("/metrics").body;
    for line in [
        "twotower_serve_requests_total{route=\"/v1/users/{id}/items\",code=\"200\"} 1",
        "twotower_serve_requests_total{route=\"/v1/users/{id}/items\",code=\"404\"} 1",
        "twotower_serve_request_seconds_bucket{route=\"/v1/users/{id}/items\",le=\"+Inf\"} 2",
        "twotower_serve_request_seconds_count{route=\"/v1/users/{id}/items\"} 2",
        "twotower_serve_requests_in_flight 1",
        "twotower_serve_run_info{run=\"a\"} 1",
        "twotower_serve_current 1",
        "twotower_serve_run_users 150",
        "twotower_serve_run_items 60",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
    }
    assert!(!text.contains(&user.to_string()), "an id in {text}");
    let age = text.lines().find_map(|line| line.strip_prefix("twotower_serve_run_age_seconds ")).unwrap();
    assert!((0.0..3600.0).contains(&age.parse::<f64>().unwrap()), "{age}");
}

/// That every `$ref` of a document names something in it.
fn references_lead_somewhere(whole: &Value, part: &Value) {
    if let Some(name) = part["$ref"].as_str() {
        assert!(whole.pointer(name.strip_prefix('#').unwrap()).is_some(), "{name}");
    }
    let children: Vec<&Value> = match part {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    children.into_iter().for_each(|child| references_lead_somewhere(whole, child));
}

#[test]
fn what_makes_no_sense_is_refused_with_what_and_where() {
    let service = Service::start(job(), "--max-body 20000 --max-items 100");
    let user = user_id(1);
    for (path, status) in [
        ("/".to_string(), 404),
        ("/v1/users/7/items".into(), 404),
        ("/v1/items/7777777/similar".into(), 404),
        ("/v1/users/seven/items".into(), 400),
        ("/v1/users/99999999999999999999/items".into(), 400),
        ("/v1/users/%ff%fe/items".into(), 400),
        ("/v1/users/%zz/items".into(), 400),
        ("/v1/users//items".into(), 400),
        (format!("/v1/users/{user}/items?k=0"), 400),
        (format!("/v1/users/{user}/items?k=101"), 400),
        (format!("/v1/users/{user}/items?k=1&k=2"), 400),
        (format!("/v1/users/{user}/items?limit=2"), 400),
        ("/v1/recall".into(), 405),
    ] {
        let answer = service.get(&path);
        answer.is_error(status);
        // Nobody learns who else there is.
        let strangers = (0..150).map(user_id).filter(|id| !path.contains(&id.to_string()));
        let said = strangers.filter(|id| answer.body.contains(&id.to_string())).count();
        assert_eq!(said, 0, "{answer:?}");
    }
    let deep = format!("{{\"features\":{{\"city\":{}{}}}}}", "[".repeat(5000), "]".repeat(5000));
    for (body, at) in [
        ("", "body"),
        ("null", "body"),
        ("[]", "body"),
        ("{", "body"),
        ("{} {}", "body"),
        ("{\"featuers\": {}}", "body"),
        ("{\"k\": \"ten\"}", "body"),
        ("{\"k\": 1.5}", "body"),
        ("{\"k\": -1}", "body"),
        ("{\"k\": 0}", "k"),
        ("{\"k\": 101}", "k"),
        ("{\"k\": 18446744073709551615}", "k"),
        ("{\"k\": 1e400}", "body"),
        ("{\"features\": 3}", "body"),
        ("{\"features\": {\"age\": NaN}}", "body"),
        ("{\"features\": {\"age\": 1e999}}", "body"),
        ("{\"features\": {\"agee\": 3}}", "features.agee"),
        ("{\"features\": {\"recent\": [1]}}", "features.recent"),
        ("{\"features\": {\"age\": {\"x\": 1}}}", "features.age"),
        ("{\"features\": {\"age\": [1, 2]}}", "features"),
        ("{\"features\": {\"city\": [\"a\", 1]}}", "features.city"),
        ("{\"history\": 3}", "body"),
        ("{\"history\": [\"seven\"]}", "history[0].item"),
        ("{\"history\": [1.5]}", "history[0].item"),
        ("{\"history\": [1, {\"time\": 3}]}", "history[1].item"),
        ("{\"history\": [{\"item\": 1, \"time\": \"now\"}]}", "history[0].time"),
        ("{\"history\": [{\"item\": 1, \"when\": 3}]}", "history[0]"),
        ("{\"history\": [{\"item\": 1, \"time\": 3}, 1]}", "history"),
        ("{\"exclude\": [null]}", "exclude[0]"),
        ("{\"exclude_seen\": \"yes\"}", "body"),
        ("{\"user\": \"seven\"}", "user"),
        (&*deep, "body"),
    ] {
        let error = service.ask("POST", "/v1/recall", "", body.as_bytes()).is_error(400);
        assert!(error["at"].as_str().unwrap().starts_with(at), "{body}: {error}");
    }
    service.ask("POST", "/v1/recall", "", b"{\"features\": {\"city\": \"\xff\xfe\"}}").is_error(400);
    service.ask("POST", "/v1/recall", "", &[b' '; 20_001]).is_error(413);
    service.ask("POST", "/v1/recall?k=3", "", b"{}").is_error(400);
    service.ask("DELETE", "/v1/recall", "", b"").is_error(405);
    // A body without a length, too long as well, and one that ends early.
    let chunks = format!("2710\r\n{}\r\n", " ".repeat(10_000)).repeat(3);
    let head = "POST /v1/recall HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let answer = service.raw(format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").as_bytes());
    answer.unwrap().is_error(413);
    for nonsense in
        ["\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\u{16}\u{3}\u{1}", "GET / HTTP/1.1\r\na b: c\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(&service.address).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{nonsense:?}: {answer}");
    }
    assert_eq!(service.get("/healthz").status, 200);
}

#[test]
fn bodies_that_chance_has_changed_are_answered_or_refused_and_never_an_error_of_the_server() {
    let service = Service::start(job(), "");
    let mut seen = BTreeSet::new();
    for round in 0..600 {
        let mut body = newcomer(round % 150).to_string().into_bytes();
        for change in 0..1 + mixed(round, 1) % 4 {
            let at = mixed(round, 10 + change) % body.len();
            let end = (at + mixed(round, 20 + change) % 9).min(body.len());
            match mixed(round, 30 + change) % 6 {
                0 => body[at] = mixed(round, 40 + change) as u8,
                1 => drop(body.drain(at..end)),
                2 => {
                    let again = body[at..end].to_vec();
                    body.splice(at..at, again);
                }
                3 => body.truncate(at.max(1)),
                4 => {
                    const WORDS: [&str; 10] = [
                        "1e308",
                        "-1e308",
                        "null",
                        "[]",
                        "{}",
                        "\"\"",
                        "9223372036854775808",
                        "\\ud800",
                        "-0.0",
                        "[1,2]",
                    ];
                    let word = WORDS[mixed(round, 50 + change) % WORDS.len()];
                    // In the place of a value, where there is one.
                    let colon = body.iter().skip(at).position(|b| *b == b':').map_or(at, |found| at + found + 1);
                    let end = body.iter().skip(colon).position(|b| b",}]".contains(b)).map_or(colon, |n| colon + n);
                    body.splice(colon..end, word.bytes());
                }
                _ => body[at] ^= 1 << (mixed(round, 60 + change) % 8),
            }
        }
        let answer = service.ask("POST", "/v1/recall", "", &body);
        assert!(matches!(answer.status, 200 | 400), "{answer:?}\n{}", String::from_utf8_lossy(&body));
        if answer.status != 200 {
            answer.is_error(400);
        }
        seen.insert(answer.status);
    }
    assert_eq!(seen, BTreeSet::from([200, 400]));
}

#[test]
fn a_token_is_asked_for_and_needed_beyond_this_machine() {
    let secret = "0123456789abcdef0123";
    let service = Service::begin(job(), "", &[("TWOTOWER_TOKEN", secret)]);
    service.wait("ready", |service| service.get("/readyz").status == 200);
    let path = format!("/v1/users/{}/items", user_id(0));
    let with = |token: &str| service.ask("GET", &path, &format!("authorization: Bearer {token}\r\n"), b"");
    assert_eq!(with(secret).status, 200);
    for answer in [service.get(&path), with("0123456789abcdef0124"), with(""), service.get("/metrics")] {
        answer.is_error(401);
        assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
    }
    assert_eq!(service.get("/healthz").status, 200);
    let job = job();
    job.refused("serve --listen 0.0.0.0:0", 2, &["--token-file", "--without-token"]);
    job.refused("serve --runs nowhere", 2, &["nowhere"]);
    job.refused(&format!("serve --listen {}", service.address), 1, &["listen on", &service.address]);
    job.write("short", "secret\n");
    job.refused("serve --token-file short", 2, &["short", "16"]);
}

#[test]
fn too_many_requests_are_told_to_come_back_and_slow_ones_end() {
    let service = Service::start(job(), "--concurrency 1 --timeout-ms 3000");
    // It has its place, and its body does not come.
    let mut slow = TcpStream::connect(&service.address).unwrap();
    slow.write_all(b"POST /v1/recall HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\n{").unwrap();
    let busy = || service.recall(&json!({}));
    let started = Instant::now();
    let refused = loop {
        let answer = busy();
        if answer.status == 503 || started.elapsed() > Duration::from_secs(20) {
            break answer;
        }
    };
    assert_eq!(refused.is_error(503)["code"], "busy");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("timeout"), "{answer}");
    service.wait("free again", |service| service.recall(&json!({})).status == 200);
}

#[test]
fn a_stop_lets_requests_at_work_end_and_refuses_new_ones() {
    let mut service = Service::start(job(), "--drain 30");
    let mut open = TcpStream::connect(&service.address).unwrap();
    open.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Half of a request, which ends after the stop.
    open.write_all(b"POST /v1/recall HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n{\"k\"").unwrap();
    service.wait("at work", |service| service.get("/metrics").body.contains("requests_in_flight 2\n"));
    service.stop();
    let started = Instant::now();
    while TcpStream::connect(&service.address).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "new connections are accepted");
        sleep(Duration::from_millis(10));
    }
    assert!(service.child.try_wait().unwrap().is_none(), "it ended with a request at work");
    open.write_all(b": 3}").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"run\":\"a\""), "{answer}");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    // One whose requests do not end has so much time and no more.
    let mut service = Service::start(job(), "--drain 1");
    let mut open = TcpStream::connect(&service.address).unwrap();
    open.write_all(b"POST /v1/recall HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n{\"k\"").unwrap();
    service.wait("at work", |service| service.get("/metrics").body.contains("requests_in_flight 2\n"));
    service.stop();
    let started = Instant::now();
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn publishing_under_load_mixes_and_fails_no_answer() {
    let job = job().copy("serve-publishing");
    let publish = |run: &str| {
        let link = job.path("runs/.next");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(run, &link).unwrap();
        std::fs::rename(&link, job.path("runs/latest")).unwrap();
    };
    let lists = |run| {
        let lists = recalled(&job.path(&format!("runs/{run}/recall"))).into_iter();
        lists.map(|(user, list)| (user.to_string(), list)).collect::<BTreeMap<String, _>>()
    };
    let expected = BTreeMap::from(["a", "b"].map(|run| (run, lists(run))));
    assert_ne!(expected["a"], expected["b"]);
    let service = Service::start(&job, "");
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let seen = std::thread::scope(|scope| {
        let load = |thread: usize| {
            let mut seen: BTreeSet<String> = BTreeSet::new();
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let row = mixed(thread, round) % 40;
                let answer = service.get(&format!("/v1/users/{}/items", user_id(row)));
                assert_eq!(answer.status, 200, "{answer:?}");
                let run = answer.json()["run"].as_str().unwrap().to_string();
                assert_eq!(answer.items(), expected[&*run][&user_id(row).to_string()], "run {run}");
                seen.insert(run);
                asked.fetch_add(1, Ordering::Relaxed);
            }
            seen
        };
        let threads: Vec<_> = (0..3).map(|thread| scope.spawn(move || load(thread))).collect();
        for round in 0..6 {
            let run = ["b", "a"][round % 2];
            publish(run);
            let is_served = |service: &Service| service.get("/readyz").json() == json!({ "ready": true, "run": run });
            service.wait("the new run", is_served);
        }
        // A run that cannot be opened: what is served stays, and it is said.
        std::fs::create_dir_all(job.path("runs/broken/gates")).unwrap();
        std::fs::copy(job.path("runs/a/gates/manifest.json"), job.path("runs/broken/gates/manifest.json")).unwrap();
        publish("broken");
        service.wait("the broken run", |service| {
            let ready = service.get("/readyz").json();
            ready["run"] == "a" && ready["behind"].as_str().is_some_and(|why| why.contains("broken"))
        });
        let text = service.get("/metrics").body;
        assert!(text.contains("twotower_serve_runs_failed_total 1\n") && text.contains("serve_current 0\n"), "{text}");
        // And one that is withdrawn, or removed.
        std::fs::remove_file(job.path("runs/latest")).unwrap();
        service.wait("no run", |service| service.get("/readyz").json()["behind"].is_string());
        std::fs::remove_dir_all(job.path("runs/a")).unwrap();
        sleep(Duration::from_millis(200));
        publish("b");
        service.wait("b again", |service| service.get("/readyz").json() == json!({ "ready": true, "run": "b" }));
        done.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<BTreeSet<String>>()
    });
    assert_eq!(seen, BTreeSet::from(["a".to_string(), "b".to_string()]));
    assert!(asked.load(Ordering::Relaxed) > 100, "{asked:?}");
}

#[test]
fn a_service_begins_without_a_run_and_says_so() {
    let job = Job::empty("serve-empty");
    std::fs::create_dir(job.path("runs")).unwrap();
    let mut service = Service::begin(&job, "", &[]);
    service.wait("it looks", |service| service.get("/readyz").json()["behind"].as_str().unwrap().contains("latest"));
    assert_eq!(service.get("/readyz").status, 503);
    assert_eq!(service.recall(&json!({})).is_error(503)["code"], "no_run");
    assert_eq!(service.get("/healthz").status, 200);
    service.stop();
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    service.log.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("serve: stopped"), "{log}");
}

#[test]
fn lists_of_items_come_from_the_job_that_made_them() {
    let job = Job::small("serve-lists");
    let denied: Vec<i64> = (0..20).map(item_id).collect();
    fixture::items().take(0..20).write_parquet(&job.path("deny.parquet"));
    job.edit("[recall]\n", "[recall]\ndeny = { path = \"deny.parquet\", item = \"item_id\" }\n");
    job.ok(&format!("run --run runs/a {NIGHT}"));
    let service = Service::begin(&job, "", &[]);
    let behind = |service: &Service| service.get("/readyz").json()["behind"].as_str().map(str::to_string);
    service.wait("refused", |service| behind(service).is_some_and(|why| why.contains("cannot be opened")));
    drop(service);
    let service = Service::start(&job, "--config pipeline.toml");
    let items = service.recall(&json!({ "k": 60 })).items();
    assert_eq!(items.len(), ITEMS - 20);
    assert!(items.iter().all(|(item, _)| denied.iter().all(|denied| *item != *denied)), "{items:?}");
    drop(service);
    // Another list than that of the results.
    fixture::items().take(0..3).write_parquet(&job.path("deny.parquet"));
    let service = Service::begin(&job, "--config pipeline.toml", &[]);
    service.wait("refused", |service| behind(service).is_some_and(|why| why.contains("cannot be opened")));
}

#[test]
fn a_night_leaves_its_metrics_also_when_it_fails() {
    let job = Job::small("serve-metrics");
    interactions().take(0..700).write_parquet(&job.path("interactions.parquet"));
    job.ok(&format!("run --run runs/a {NIGHT} --metrics-file night.prom"));
    let read = || std::fs::read_to_string(job.path("night.prom")).unwrap();
    let value = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in\n{text}")).parse().unwrap()
    };
    let text = read();
    assert_eq!(value(&text, "twotower_night_success"), 1.0);
    assert_eq!(value(&text, "twotower_night_stage_rows{stage=\"recall\",rows=\"users\"}"), 150.0);
    let gates: Vec<&str> = text.lines().filter(|line| line.starts_with("twotower_night_gate_failed{")).collect();
    assert!(!gates.is_empty() && gates.iter().all(|line| line.ends_with("} 0")), "{gates:?}");
    assert!(value(&text, "twotower_night_stage_seconds{stage=\"train\"}") >= 0.0);
    for model in ["model", "popularity"] {
        let name = format!("twotower_night_metric{{model=\"{model}\",metric=\"recall@10\"}}");
        assert!((0.0..=1.0).contains(&value(&text, &name)), "{name}");
    }
    let at = value(&text, "twotower_night_last_success_timestamp_seconds");
    // Every sample belongs to a family that has a help and a type.
    let families: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(families.contains(name), "{line}");
    }
    // A gate that refuses, and a table that is gone.
    let failed = job.twotower(&format!(
        "run --run runs/b {NIGHT} --set gates.min_coverage=1.0 --set gates.off=[\"metric\"] --metrics-file night.prom"
    ));
    let text = read();
    assert_eq!(value(&text, "twotower_night_exit_code"), f64::from(failed.code), "{}", failed.stderr);
    std::fs::remove_file(job.path("users.parquet")).unwrap();
    let failed = job.twotower(&format!("run --run runs/c {NIGHT} --metrics-file night.prom"));
    assert_ne!(failed.code, 0);
    let text = read();
    assert_eq!(value(&text, "twotower_night_success"), 0.0);
    assert_eq!(value(&text, "twotower_night_exit_code"), f64::from(failed.code));
    assert!(value(&text, "twotower_night_last_success_timestamp_seconds") >= at);
    assert!(!text.contains("twotower_night_gate_failed"), "{text}");
}
