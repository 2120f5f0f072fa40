//! Faults between the program and the store: what comes out is right, or a clear error.

mod servers;

use servers::proxy::{Fault, Proxy, by_chance};
use servers::{azure_endpoint, folder, servers, settings, store};
use std::io::{Read, Write};
use std::time::Duration;
use twotower_stores::{Blocks, Condition, ErrorKind, PART_BYTES, Store, StoreSettings};

/// How long the client waits for an answer here.
const PATIENCE: Duration = Duration::from_secs(1);

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// A store behind a proxy.
fn behind(scheme: &str, proxy: &Proxy, retries: u32) -> Store {
    let endpoint = if scheme == "s3" { format!("http://127.0.0.1:{}", proxy.port) } else { azure_endpoint(proxy.port) };
    let timeout_seconds = PATIENCE.as_secs() as u32;
    store(scheme, &StoreSettings { endpoint: Some(endpoint), retries, timeout_seconds, ..settings() })
}

#[test]
fn every_fault_alone_is_mended() {
    let Some(servers) = servers() else { return };
    let bytes = content(300_000);
    for (scheme, port) in [("s3", servers.s3.port), ("az", servers.azure.port)] {
        for fault in servers::proxy::FAULTS {
            // Every second request meets it.
            let proxy = Proxy::new(port, PATIENCE, move |n| if n % 2 == 0 { fault } else { Fault::None });
            let store = behind(scheme, &proxy, 6);
            let dir = folder(&format!("alone-{fault:?}"));
            store.put(&format!("{dir}/a"), bytes.clone(), Condition::Always).unwrap();
            store.put(&format!("{dir}/b"), "once", Condition::IfAbsent).unwrap();
            let version = store.head(&format!("{dir}/b")).unwrap().version;
            store.put(&format!("{dir}/b"), "twice", Condition::IfMatch(version)).unwrap();
            let mut found = Vec::new();
            store.reader(&format!("{dir}/a")).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == bytes, "{scheme} {fault:?}");
            assert_eq!(store.get(&format!("{dir}/b")).unwrap().1, "twice", "{scheme} {fault:?}");
            assert_eq!(store.list(&dir).unwrap().len(), 2, "{scheme} {fault:?}");
            store.delete(&format!("{dir}/b")).unwrap();
            assert!(store.find(&format!("{dir}/b")).unwrap().is_none(), "{scheme} {fault:?}");
            assert!(proxy.counts().1 > 0);
        }
    }
}

#[test]
fn a_reader_goes_on_behind_an_error_where_it_was() {
    let Some(servers) = servers() else { return };
    let bytes = content(12_000_000);
    let key = format!("{}/object", folder("behind"));
    write(&servers.s3(), &key, &bytes).unwrap();
    let proxy = Proxy::new(servers.s3.port, PATIENCE, |n| if n % 3 == 2 { Fault::Error } else { Fault::None });
    let mut reader = behind("s3", &proxy, 0).reader(&key).unwrap();
    let (mut found, mut errors, mut piece) = (Vec::new(), 0, vec![0; 1 << 20]);
    loop {
        match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => found.extend_from_slice(&piece[..n]),
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 0 && found == bytes, "{errors} errors, {} bytes", found.len());
}

#[test]
fn reads_and_writes_through_faults_end_with_the_right_bytes_or_a_clear_error() {
    let Some(servers) = servers() else { return };
    let bytes = content(PART_BYTES + 2_000_000);
    let (mut faults, mut mended, mut failed) = (0, 0, 0);
    for (scheme, port, direct) in [("s3", servers.s3.port, servers.s3()), ("az", servers.azure.port, servers.azure())] {
        // With `TWOTOWER_LONG=1`, more than a thousand faults.
        let long = std::env::var("TWOTOWER_LONG").is_ok_and(|value| value == "1");
        for round in 0..if long { 66u64 } else { 6 } {
            let proxy = Proxy::new(port, PATIENCE, by_chance(round, 0.3));
            let store = behind(scheme, &proxy, if round % 3 == 2 { 1 } else { 8 });
            let dir = folder(&format!("faults-{round}"));
            let mut note = |result: Result<bool, twotower_stores::StoreError>| match result {
                Ok(right) => {
                    assert!(right, "{scheme}, round {round}: other bytes than were written");
                    mended += 1;
                }
                Err(error) => {
                    let kinds =
                        [ErrorKind::Interrupted, ErrorKind::Throttled, ErrorKind::Unreachable, ErrorKind::Refused];
                    assert!(kinds.contains(&error.kind()), "{error}");
                    assert!(error.to_string().contains(&format!("{scheme}://test/{dir}")), "{error}");
                    failed += 1;
                }
            };
            for number in 0..3 {
                let key = format!("{dir}/small-{number}");
                note(store.put(&key, format!("{round}"), Condition::IfAbsent).and_then(|version| {
                    store.put(&key, "more", Condition::IfMatch(version))?;
                    Ok(direct.get(&key)?.1 == "more")
                }));
            }
            let key = format!("{dir}/large");
            note(write(&store, &key, &bytes).and_then(|()| {
                let mut found = Vec::new();
                direct.reader(&key)?.read_to_end(&mut found).unwrap();
                Ok(found == bytes)
            }));
            // What failed is not there, or whole.
            if let Some(object) = direct.find(&key).unwrap() {
                assert_eq!(object.bytes, bytes.len() as u64);
            }
            write(&direct, &key, &bytes).unwrap();
            let read = store.reader(&key).and_then(|mut reader| {
                let mut found = Vec::new();
                match reader.read_to_end(&mut found) {
                    Ok(_) => Ok(found == bytes),
                    Err(error) => Err(error.downcast().unwrap()),
                }
            });
            note(read);
            let blocks = store.head(&key).map(|object| Blocks::new(store.clone(), object, Vec::new()));
            note(blocks.and_then(|blocks| {
                let mut piece = vec![0; 100_000];
                for place in (0..10).map(|n| n * 1_800_000) {
                    blocks.read_at(&mut piece, place as u64)?;
                    if piece != bytes[place..place + piece.len()] {
                        return Ok(false);
                    }
                }
                Ok(true)
            }));
            faults += proxy.counts().1;
            drop(store);
            if scheme == "s3" {
                std::thread::sleep(Duration::from_millis(1100));
                direct.abort_uploads_older_than(&dir, Duration::ZERO).unwrap();
                assert_eq!(direct.unfinished_uploads(&dir).unwrap().unwrap(), [""; 0]);
            }
        }
    }
    println!("{faults} faults: {mended} mended, {failed} clear errors");
    assert!(faults > 50 && mended > 40);
}

fn write(store: &Store, key: &str, bytes: &[u8]) -> Result<(), twotower_stores::StoreError> {
    let mut upload = store.upload(key)?;
    if let Err(error) = upload.write_all(bytes) {
        return Err(error.downcast().unwrap());
    }
    upload.finish().map(drop)
}
