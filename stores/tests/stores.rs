//! Stores against real servers: what is listed, read and written, and what errors say.

mod servers;

use servers::{BUCKET, folder, servers, settings, store};
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Barrier;
use std::time::Duration;
use twotower_stores::{
    Blocks, Condition, ConditionalPut, ErrorKind, PART_BYTES, Store, StoreSettings, StoreUrl, Stores, Version,
};

/// Bytes that differ everywhere.
fn content(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    });
    words.flat_map(u32::to_le_bytes).take(bytes).collect()
}

fn keys(store: &Store, prefix: &str) -> Vec<String> {
    let below = format!("{}/", prefix.trim_end_matches('/'));
    let found = store.list(prefix).unwrap();
    found.iter().map(|object| object.url.key().strip_prefix(&below).unwrap().to_string()).collect()
}

#[test]
fn what_is_written_is_listed_and_read() {
    let Some(servers) = servers() else { return };
    for store in servers.both() {
        let dir = folder("listed");
        let names = ["a.csv", "dt=2026-01-31/a b+c/电信%20.parquet", "dt=2026-01-31/x", "z/_SUCCESS", "z/y/1", "z/y/2"];
        for name in names {
            store.put(&format!("{dir}/{name}"), name.as_bytes().to_vec(), Condition::Always).unwrap();
        }
        let mut sorted = names;
        sorted.sort();
        assert_eq!(keys(&store, &dir), sorted, "{store:?}");
        assert_eq!(keys(&store, &format!("{dir}/z/")), ["_SUCCESS", "y/1", "y/2"]);
        assert_eq!(keys(&store, &format!("{dir}/none")), [""; 0]);
        // A prefix is a folder, not the beginning of a name.
        assert_eq!(keys(&store, &format!("{dir}/z/y")).len(), 2);
        let listed = store.list_folder(&dir).unwrap();
        assert_eq!(listed.folders, ["dt=2026-01-31", "z"]);
        assert_eq!(listed.objects.len(), 1);
        let object = store.head(&format!("{dir}/a.csv")).unwrap();
        assert_eq!((object.bytes, object.url.file_name()), (5, "a.csv"));
        assert_eq!(store.get_range(&object, 1..3).unwrap(), &b".c"[..]);
        assert_eq!(store.get_range(&object, 3..99).unwrap(), &b"sv"[..]);
        assert_eq!(store.get_range(&object, 5..9).unwrap(), &b""[..]);
        assert_eq!(store.get_ranges(&object, &[0..1, 4..5, 1..2]).unwrap(), ["a", "v", "."]);
        let heads = store.heads(&names.map(|name| format!("{dir}/{name}"))).unwrap();
        assert_eq!(heads.iter().map(|object| object.bytes as usize).collect::<Vec<_>>(), names.map(str::len));
        assert_eq!(heads[0], object);
        // A list tells of an object what a look at it does, but for parts of a second.
        let versions = |objects: &[twotower_stores::Object]| {
            objects.iter().map(|object| (object.url.clone(), object.version.clone())).collect::<BTreeSet<_>>()
        };
        assert_eq!(versions(&store.list(&dir).unwrap()), versions(&heads));
        assert!(store.find(&format!("{dir}/none")).unwrap().is_none());
        // An empty object that marks a folder is none, another empty one is.
        store.put(&format!("{dir}/z/y_$folder$"), vec![], Condition::Always).unwrap();
        store.put(&format!("{dir}/empty"), vec![], Condition::Always).unwrap();
        assert_eq!(keys(&store, &dir).len(), names.len() + 1);
        let all: Vec<String> = store.list(&dir).unwrap().iter().map(|object| object.url.key().to_string()).collect();
        store.delete_many(&all).unwrap();
        store.delete(&format!("{dir}/z/y_$folder$")).unwrap();
        store.delete(&format!("{dir}/was never there")).unwrap();
        assert_eq!(keys(&store, &dir), [""; 0]);
    }
}

#[test]
fn a_condition_lets_one_writer_through() {
    let Some(servers) = servers() else { return };
    let careful = StoreSettings { conditional_put: ConditionalPut::Disabled, ..settings() };
    let careful = StoreSettings { endpoint: Some(servers.s3_endpoint()), ..careful };
    for (number, store) in [servers.s3(), servers.azure(), store("s3", &careful)].into_iter().enumerate() {
        let key = format!("{}/{number}", folder("condition"));
        let first = store.put(&key, "1", Condition::IfAbsent).unwrap();
        let error = store.put(&key, "2", Condition::IfAbsent).unwrap_err();
        assert!(error.is_conflict() && error.to_string().contains(&key), "{error}");
        // The same bytes again are what a lost answer leads to.
        store.put(&key, "1", Condition::IfAbsent).unwrap();
        let second = store.put(&key, "3", Condition::IfMatch(store.head(&key).unwrap().version)).unwrap();
        assert_ne!(first, second);
        let error = store.put(&key, "4", Condition::IfMatch(first)).unwrap_err();
        assert!(error.is_conflict(), "{error}");
        assert_eq!(store.get(&key).unwrap().1, "3");
        let stale = Version { e_tag: Some("\"0123456789abcdef0123456789abcdef\"".into()) };
        assert!(store.put(&format!("{key}-none"), "5", Condition::IfMatch(stale)).unwrap_err().is_conflict());
        assert_eq!(store.put(&key, "6", Condition::IfMatch(second)).unwrap(), store.head(&key).unwrap().version);
    }
}

#[test]
fn of_writers_at_once_one_wins() {
    const WRITERS: usize = 8;
    let Some(servers) = servers() else { return };
    for store in servers.both() {
        for round in 0..5 {
            let key = format!("{}/{round}", folder("race"));
            let gate = Barrier::new(WRITERS);
            let write = |number: usize| {
                gate.wait();
                store.put(&key, format!("writer {number}"), Condition::IfAbsent)
            };
            let results: Vec<_> = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(move || write(number))).collect();
                writers.into_iter().map(|writer| writer.join().unwrap()).collect()
            });
            let won: Vec<usize> = (0..WRITERS).filter(|number| results[*number].is_ok()).collect();
            assert_eq!(won.len(), 1, "{results:?}");
            assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|error| error.is_conflict()));
            assert_eq!(store.get(&key).unwrap().1, format!("writer {}", won[0]));
        }
    }
}

fn write(store: &Store, key: &str, bytes: &[u8]) -> Version {
    let mut upload = store.upload(key).unwrap();
    for piece in bytes.chunks(777_777) {
        upload.write_all(piece).unwrap();
    }
    upload.finish().unwrap()
}

#[test]
fn an_upload_appears_whole_and_the_same_bytes_have_the_same_e_tag() {
    let Some(servers) = servers() else { return };
    let all = content(2 * PART_BYTES + 12_345);
    for store in servers.both() {
        let dir = folder("upload");
        for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, all.len()] {
            let key = format!("{dir}/{bytes}");
            let version = write(&store, &key, &all[..bytes]);
            let object = store.head(&key).unwrap();
            assert_eq!((object.bytes, &object.version), (bytes as u64, &version), "{store:?}");
            let mut found = Vec::new();
            store.reader_of(object).read_to_end(&mut found).unwrap();
            assert!(found == all[..bytes], "{store:?}, {bytes} bytes");
        }
        let again = write(&store, &format!("{dir}/again"), &all);
        // Azure numbers versions instead.
        if store.root().to_string().starts_with("s3") {
            assert_eq!(again, store.head(&format!("{dir}/{}", all.len())).unwrap().version);
        }
    }
}

#[test]
fn an_upload_that_is_not_finished_leaves_nothing() {
    let Some(servers) = servers() else { return };
    for store in servers.both() {
        let dir = folder("dropped");
        let is_s3 = store.root().to_string().starts_with("s3");
        let mut upload = store.upload(&format!("{dir}/a&b")).unwrap();
        upload.write_all(&content(PART_BYTES + 1)).unwrap();
        let unfinished = store.unfinished_uploads(&dir).unwrap();
        assert_eq!(unfinished, is_s3.then(|| vec![format!("{dir}/a&b")]));
        drop(upload);
        assert_eq!(store.unfinished_uploads(&dir).unwrap(), is_s3.then(Vec::new));
        assert!(store.find(&format!("{dir}/a&b")).unwrap().is_none());
        // As of a program that was killed.
        for number in 0..3 {
            let mut upload = store.upload(&format!("{dir}/{number}")).unwrap();
            upload.write_all(&content(PART_BYTES + 1)).unwrap();
            std::mem::forget(upload);
        }
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(store.abort_uploads_older_than(&dir, day).unwrap(), is_s3.then_some(0));
        assert_eq!(store.abort_uploads_older_than("elsewhere", Duration::ZERO).unwrap(), is_s3.then_some(0));
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(store.abort_uploads_older_than(&dir, Duration::ZERO).unwrap(), is_s3.then_some(3));
        assert_eq!(store.unfinished_uploads(&dir).unwrap(), is_s3.then(Vec::new));
        assert!(store.list(&dir).unwrap().is_empty());
    }
}

#[test]
fn readers_give_the_bytes_of_any_place() {
    let Some(servers) = servers() else { return };
    let all = content(20_000_000);
    for store in servers.both() {
        let key = format!("{}/object", folder("places"));
        write(&store, &key, &all);
        let mut reader = store.reader(&key).unwrap();
        let mut piece = vec![0; 100_000];
        for place in [0, 19_950_000, 5, 250_000, 300_000, 9_000_000, 9_050_000, 1] {
            assert_eq!(reader.seek(SeekFrom::Start(place as u64)).unwrap(), place as u64);
            let wanted = piece.len().min(all.len() - place);
            reader.read_exact(&mut piece[..wanted]).unwrap();
            assert!(piece[..wanted] == all[place..place + wanted], "{place}");
            assert_eq!(reader.stream_position().unwrap(), (place + wanted) as u64);
        }
        assert_eq!(reader.read_at(&mut piece, 19_999_990).unwrap(), 10);
        assert_eq!(piece[..10], all[19_999_990..]);
        // Eight threads read the columns of three groups through one cache of little memory.
        let groups =
            (0..3).map(|group| (0..4).map(move |c| group * 6_000_000 + c * 1_500_000).map(|at| at..at + 1_500_000));
        let groups = groups.map(|group| group.collect::<Vec<_>>()).collect::<Vec<_>>();
        let small = StoreSettings { read_ahead_mib: 16, ..store_settings(&store, servers) };
        let store = servers::store(if store.root().to_string().starts_with("s3") { "s3" } else { "az" }, &small);
        let blocks = Blocks::new(store.clone(), store.head(&key).unwrap(), groups.clone());
        std::thread::scope(|scope| {
            for thread in 0..8usize {
                let (blocks, groups, all) = (blocks.clone(), &groups, &all);
                scope.spawn(move || {
                    for group in groups {
                        for step in 0..15 {
                            for stretch in group {
                                let place = stretch.start as usize + step * 100_000 + thread * 12_500;
                                let mut bytes = vec![0; if thread % 2 == 0 { 12_500 } else { 200 }];
                                assert_eq!(blocks.read_at(&mut bytes, place as u64).unwrap(), bytes.len());
                                assert!(bytes == all[place..place + bytes.len()]);
                            }
                        }
                    }
                });
            }
        });
        let mut end = vec![0; 100];
        assert_eq!(blocks.read_at(&mut end, 19_999_999).unwrap(), 1);
        assert_eq!(blocks.read_at(&mut end, 20_000_000).unwrap(), 0);
    }
}

fn store_settings(store: &Store, servers: &servers::Servers) -> StoreSettings {
    let is_s3 = store.root().to_string().starts_with("s3");
    let endpoint = if is_s3 { servers.s3_endpoint() } else { servers.azure_endpoint() };
    StoreSettings { endpoint: Some(endpoint), ..settings() }
}

#[test]
fn an_object_that_changes_while_it_is_read_is_an_error() {
    let Some(servers) = servers() else { return };
    let (before, mut after) = (content(20_000_000), content(20_000_000));
    after.reverse();
    for store in servers.both() {
        let key = format!("{}/object", folder("changed"));
        write(&store, &key, &before);
        let mut reader = store.reader(&key).unwrap();
        reader.read_exact(&mut [0; 1000]).unwrap();
        write(&store, &key, &after);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        let error = error.downcast::<twotower_stores::StoreError>().unwrap();
        assert_eq!((error.kind(), error.category().exit_code()), (ErrorKind::Changed, 3), "{error}");
        store.delete(&key).unwrap();
        let error = reader.read_at(&mut [0; 10], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    }
}

#[test]
fn errors_say_what_was_attempted_and_what_to_do() {
    let Some(servers) = servers() else { return };
    let open = |url: &str, settings: StoreSettings| Stores::new(settings).open(&StoreUrl::parse(url).unwrap().unwrap());
    let s3 = StoreSettings { endpoint: Some(servers.s3_endpoint()), retries: 2, ..settings() };
    let azure = StoreSettings { endpoint: Some(servers.azure_endpoint()), retries: 2, ..settings() };
    let closed = StoreSettings { endpoint: Some("http://127.0.0.1:9".into()), ..s3.clone() };
    let unsigned = StoreSettings { unsigned: true, ..s3.clone() };
    for (url, settings, kind, code, parts) in [
        ("s3://no-such-bucket/x", s3.clone(), ErrorKind::NoBucket, 2, ["no-such-bucket", "NoSuchBucket"]),
        ("az://no-such-container/x", azure, ErrorKind::NoBucket, 2, ["no-such-container", "ContainerNotFound"]),
        ("s3://test/x", closed, ErrorKind::Unreachable, 1, ["s3://test/x", "store.endpoint"]),
        ("s3://test/x", unsigned, ErrorKind::Denied, 1, ["s3://test/x", "403 AccessDenied"]),
        ("https://127.0.0.1:9/x", s3.clone(), ErrorKind::Unsupported, 2, ["https://127.0.0.1:9/x", "name each file"]),
    ] {
        let error = open(url, settings).unwrap().list("x").unwrap_err();
        assert_eq!((error.kind(), error.category().exit_code()), (kind, code), "{error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    let error = servers.s3().head("not-there").unwrap_err();
    assert_eq!((error.kind(), error.category().exit_code()), (ErrorKind::NotFound, 3), "{error}");
    let error = open("s3://test", StoreSettings { allow_http: false, ..s3.clone() });
    // The tests' environment allows it.
    assert!(error.is_ok());
    let error = open("az://test", StoreSettings { endpoint: Some("http://x".into()), ..StoreSettings::default() });
    let error = error.unwrap_err();
    assert!(error.to_string().contains("allow_http = true") && error.category().exit_code() == 2, "{error}");
    let store = open(&format!("https://127.0.0.1:9/{BUCKET}"), s3).unwrap();
    assert_eq!(store.put("x", "1", Condition::Always).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(store.upload("x").err().unwrap().kind(), ErrorKind::Unsupported);
}
