//! A night whose tables lie in object stores gives what it gives with the same tables on this machine.

mod fixture;
#[path = "../stores/tests/servers/mod.rs"]
mod servers;

use fixture::{Job, interactions, items, users};
use servers::proxy::{Proxy, by_chance};
use servers::{Servers, azure_endpoint, folder, servers};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use twotower_stores::Store;

const SIDE_FILES: &str = "
[recall.allow]
path = \"side/allow.csv.gz\"
item = \"item_id\"
[recall.exclusions]
path = \"side/exclusions.jsonl\"
user = \"user_id\"
item = \"item_id\"
";

/// The job with tables in folders, and side files.
fn job(name: &str) -> Job {
    let job = Job::small(name);
    for table in ["users", "items", "interactions"] {
        std::fs::create_dir(job.path(table)).unwrap();
        std::fs::remove_file(job.path(&format!("{table}.parquet"))).unwrap();
        job.edit(&format!("path = \"{table}.parquet\""), &format!("path = \"{table}/\""));
    }
    users().take(0..80).write_parquet(&job.path("users/part-0.parquet"));
    users().take(80..150).write_parquet(&job.path("users/part-1.parquet"));
    std::fs::write(job.path("users/_SUCCESS"), "").unwrap();
    items().write_parquet(&job.path("items/items.parquet"));
    std::fs::write(job.path("interactions/rows.csv"), interactions().take(0..700).text(",")).unwrap();
    std::fs::create_dir(job.path("side")).unwrap();
    let ids = |number: usize| fixture::item_id(number);
    let allowed: String = (0..50).map(|number| format!("{}\n", ids(number))).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write!(gzip, "item_id\n{allowed}").unwrap();
    std::fs::write(job.path("side/allow.csv.gz"), gzip.finish().unwrap()).unwrap();
    let pair = |u: usize| format!("{{\"user_id\":{},\"item_id\":{}}}\n", fixture::user_id(u), ids(u % 50));
    std::fs::write(job.path("side/exclusions.jsonl"), (0..150).map(pair).collect::<String>()).unwrap();
    let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
    job.write("pipeline.toml", &format!("{text}{SIDE_FILES}"));
    job
}

/// Moves the tables and side files of a job into a store, and lets the job read them there.
fn moved(job: &Job, store: &Store, endpoint: &str) {
    let prefix = folder(job.dir.file_name().unwrap().to_str().unwrap());
    for name in ["users", "items", "interactions", "side"] {
        for entry in std::fs::read_dir(job.path(name)).unwrap() {
            let entry = entry.unwrap();
            let key = format!("{prefix}/{name}/{}", entry.file_name().to_str().unwrap());
            let mut upload = store.upload(&key).unwrap();
            upload.write_all(&std::fs::read(entry.path()).unwrap()).unwrap();
            upload.finish().unwrap();
        }
        std::fs::remove_dir_all(job.path(name)).unwrap();
    }
    let root = store.url(&prefix);
    for path in ["users/", "items/", "side/exclusions.jsonl", "side/allow.csv.gz"] {
        job.edit(&format!("path = \"{path}\""), &format!("path = \"{root}/{path}\""));
    }
    job.edit("path = \"interactions/\"", &format!("path = \"{root}/**/rows.*\""));
    let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
    let store = format!("[store]\nendpoint = \"{endpoint}\"\nallow_http = true\ntimeout_seconds = 2\n");
    job.write("pipeline.toml", &format!("{text}{store}"));
}

fn night(job: &Job, servers: &Servers) -> Command {
    let mut command = job.command("run --quiet");
    command.envs(servers.environment());
    command
}

/// The files of a run that hold data and no manifest.
fn data(job: &Job) -> BTreeMap<String, Vec<u8>> {
    fn below(dir: &Path, root: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, root, found);
            } else if ["parquet", "onnx"].iter().any(|end| path.extension().is_some_and(|found| found == *end)) {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    below(&job.path("run"), &job.path("run"), &mut found);
    found
}

fn assert_same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differ: Vec<&String> = expected.keys().filter(|name| found[*name] != expected[*name]).collect();
    assert!(differ.is_empty(), "{differ:?} differ");
}

#[test]
fn a_night_from_stores_is_that_of_the_same_tables_on_this_machine() {
    let Some(servers) = servers() else { return };
    let local = job("stores-local");
    local.ok("run --quiet");
    let expected = data(&local);
    assert!(expected.keys().any(|name| name.starts_with("recall/")), "{:?}", expected.keys());
    for (name, store, endpoint) in [
        ("stores-s3", servers.s3(), servers.s3_endpoint()),
        ("stores-azure", servers.azure(), servers.azure_endpoint()),
    ] {
        let remote = job(name);
        moved(&remote, &store, &endpoint);
        let ended = night(&remote, servers).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_same(&data(&remote), &expected);
    }
    // Through faults.
    let (s3, azure) = (servers.s3.port, servers.azure.port);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    for (name, store, to) in [("stores-s3-faults", servers.s3(), s3), ("stores-azure-faults", servers.azure(), azure)] {
        let proxy = Proxy::new(to, Duration::from_secs(2), by_chance(7, 0.15));
        let remote = job(name);
        moved(&remote, &store, &if to == s3 { url(proxy.port) } else { azure_endpoint(proxy.port) });
        let ended = night(&remote, servers).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert!(proxy.counts().1 > 3, "{:?}", proxy.counts());
        assert_same(&data(&remote), &expected);
    }
}

#[test]
fn what_is_missing_in_a_store_ends_a_night_with_a_clear_error() {
    let Some(servers) = servers() else { return };
    let remote = job("stores-missing");
    moved(&remote, &servers.s3(), &servers.s3_endpoint());
    let key = "test-secret";
    for (change, code, says) in [
        (("/items/\"", "/nothing/\""), 3, "no file matches `s3://test/"),
        (("path = \"s3://test/", "path = \"s3://none/"), 2, "there is no such bucket"),
        (("allow_http = true", "allow_http = true\nunsigned = true"), 1, "403"),
        (("allow_http = true", "allow_http = true\nregoin = \"x\""), 2, "did you mean `region`?"),
        (("timeout_seconds = 2", "timeout_seconds = 0"), 2, "a whole number from 1 to 3600"),
    ] {
        let job = remote.copy("stores-missing-copy");
        job.edit(change.0, change.1);
        let ended = night(&job, servers).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{change:?}: {said}");
        assert!(said.contains(says) && !said.contains(key), "{change:?}: {said}");
    }
}
