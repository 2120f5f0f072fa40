//! Files as the first version of every format wrote them: they stay readable, with the values they had, and
//! the same file of a newer version is refused by name.
//!
//! How they were made is in docs/FORMATS.md.

mod fixture;

use fixture::earlier::lay_out_as_earlier;
use fixture::results::{recalled_of, vectors_of, walk};
use fixture::{Job, copy_all, interactions, items, user_id, users};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use twotower_artifacts::hashing::HashingWriter;
use twotower_artifacts::neighbours_file::{load_long, read_lists};
use twotower_artifacts::vectors::load_parts;
use twotower_artifacts::{
    Clock, CodesReader, Column, Detail, Histories, Id, Manifest, NeighbourFormat, Side, Timeline, VectorsReader,
    inspect_neighbours,
};
use twotower_encoders::EncoderState;
use twotower_index::ItemVectors;
use twotower_models::engine::{EngineKind, open};
use twotower_models::train::checkpoint;

/// Users, items and interactions of the golden run.
const SIZES: (usize, usize, usize) = (30, 12, 150);
const PART: &str = "part-00000-of-00001";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The golden run made once more, in a folder of its own: `run/`, and results in the other formats beside it.
fn made_anew() -> PathBuf {
    let job = Job::new("golden");
    users().take(0..SIZES.0).write_parquet(&job.path("users.parquet"));
    items().take(0..SIZES.1).write_parquet(&job.path("items.parquet"));
    let mut events = interactions().take(0..SIZES.2);
    // Each user's last event is of an item that it had not before, so that there is something to measure.
    let had: Vec<_> = events.ints("user_id").clone().into_iter().zip(events.ints("item_id").clone()).collect();
    for user in (0..SIZES.0).map(|row| Some(fixture::user_id(row))) {
        let new = (0..SIZES.1).map(|row| Some(fixture::item_id(row))).find(|item| !had.contains(&(user, *item)));
        events.ints("user_id").push(user);
        events.ints("item_id").push(new.unwrap());
        events.ints("ts").push(Some(1_702_000_000));
    }
    events.write_parquet(&job.path("interactions.parquet"));
    job.native();
    job.ok("run --quiet --set index.kind=hnsw --accept metric");
    let to = job.path("made");
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    for path in walk(&job.path("run")) {
        copy(&path, &to.join("run").join(path.strip_prefix(job.path("run")).unwrap()));
    }
    for (format, extension) in [("parquet-long", "parquet"), ("jsonl", "jsonl")] {
        job.ok(&format!("recall --quiet --set index.kind=hnsw --set recall.format={format}"));
        let part = job.path(&format!("run/recall/{PART}.{extension}"));
        copy(&part, &to.join(format!("recall-{format}.{extension}")));
    }
    to
}

/// Today's program still writes those files, with the same codes, columns, settings and counts in manifests. With
/// `TWOTOWER_WRITE_GOLDEN` set it writes them to `tests/golden/`: only for a new version of a format.
#[test]
fn todays_files_are_those_of_the_golden_run() {
    let made = made_anew();
    if std::env::var_os("TWOTOWER_WRITE_GOLDEN").is_some() {
        copy_all(&made, &golden());
    }
    // The first version wrote manifests and samples among the parts.
    let first_place = |path: PathBuf| -> PathBuf {
        let text =
            path.to_string_lossy().replace("run/manifests/", "run/").replace("run/samples/", "run/recall/sample/");
        text.into()
    };
    let below = |root: &Path| -> Vec<PathBuf> {
        walk(root).iter().map(|path| path.strip_prefix(root).unwrap().to_path_buf()).collect()
    };
    let mut kept = below(&golden());
    // The model with its tables beside it is made by a test of `models`.
    kept.retain(|path| !path.starts_with("user_tower.onnx") && !path.starts_with("user_tower.onnx.data"));
    let places: BTreeMap<PathBuf, PathBuf> =
        below(&made).into_iter().map(|path| (first_place(path.clone()), path)).collect();
    assert_eq!(places.keys().cloned().collect::<Vec<_>>(), kept);
    let (mut manifests, mut same_bytes) = (0, 0);
    for path in &kept {
        let (today, first) = (made.join(&places[path]), golden().join(path));
        let name = path.display();
        let json =
            |path: &Path| -> serde_json::Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        // Codes are the same for ever: they are what a tower takes.
        if path.parent().is_some_and(|dir| dir.ends_with("vocab")) || path.ends_with("encoders.json") {
            same_bytes += 1;
            assert!(std::fs::read(&today).unwrap() == std::fs::read(&first).unwrap(), "{name}");
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => assert_eq!(schema(&today), schema(&first), "{name}"),
            Some("json") => {
                let (today, first) = (json(&today), json(&first));
                manifests += usize::from(today.get("stage").is_some());
                // Keys may be added; what was there stays.
                let (today, first) = (keys(&today), keys(&first));
                let gone: Vec<_> = first.iter().filter(|key| !today.contains(key)).collect();
                assert!(gone.is_empty(), "{name}: {gone:?}");
            }
            _ => {}
        }
    }
    assert_eq!((manifests, same_bytes), (9, 5));
    let done = job_of(&made).twotower("verify run");
    assert_eq!(done.code, 0, "{}", done.stdout);
    // Tests of runs of earlier versions make theirs so.
    lay_out_as_earlier(&made.join("run"));
    assert_eq!(below(&made), kept);
    let done = job_of(&made).twotower("verify run");
    assert_eq!(done.code, 0, "{}", done.stdout);
}

/// A job whose folder that is.
fn job_of(dir: &Path) -> Job {
    Job { dir: dir.to_path_buf() }
}

/// Columns of a Parquet file.
fn schema(path: &Path) -> arrow_schema::Schema {
    let file = std::fs::File::open(path).unwrap();
    let schema = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().schema().clone();
    arrow_schema::Schema::new(schema.fields().clone())
}

/// All keys of a JSON value, by their paths.
fn keys(value: &serde_json::Value) -> Vec<String> {
    let Some(object) = value.as_object() else { return Vec::new() };
    let inner = |(key, value): (&String, &serde_json::Value)| {
        std::iter::once(key.clone())
            .chain(keys(value).into_iter().map(move |k| format!("{key}.{k}")))
            .collect::<Vec<_>>()
    };
    object.iter().flat_map(inner).collect()
}

#[test]
fn a_golden_run_is_complete_and_small() {
    let bytes: u64 = walk(&golden()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < 300 << 10, "{bytes} bytes");
    let done = job_of(&golden()).twotower("verify run");
    assert_eq!(done.code, 0, "{}", done.stdout);
}

#[test]
fn golden_manifests_and_encoders_have_their_values() {
    let encoders = golden().join("run/encoders");
    let manifest = Manifest::read(encoders.join("manifest.json")).unwrap();
    assert_eq!((manifest.stage.as_str(), manifest.rows["users"], manifest.rows["items"]), ("encode-features", 30, 12));
    assert_eq!(manifest.config["tables"]["users"]["id"], "user_id");
    manifest.verify_files(&encoders).unwrap();
    let state = EncoderState::load(&encoders).unwrap();
    assert_eq!(state.fingerprint(), &manifest.fingerprint);
    let cities = state.vocabulary("user_city").unwrap();
    let values: Vec<&str> = cities.iter().map(|(_, value, _)| value).collect();
    assert_eq!(values.len(), 6);
    assert_eq!(cities.lookup("Zürich"), values.iter().position(|v| *v == "Zürich").unwrap() as u32 + 3);
    assert_eq!((cities.lookup(""), cities.lookup("Atlantis")), (1, 2));
    assert_eq!(state.vocabulary("item_id").unwrap().len(), 12);

    let reader = CodesReader::open(encoders.join("items.parquet")).unwrap();
    let (ids, codes) = reader.load().unwrap();
    assert_eq!((ids.len(), ids.get(0), ids.get(11)), (12, Id::Int(779), Id::Int(900)));
    assert!(matches!(&codes.columns[1], Column::Code(category) if category.iter().all(|code| (3..9).contains(code))));
    let positives = CodesReader::open(encoders.join("users.parquet")).unwrap().rows() as usize;
    let timeline = Timeline::open(encoders.join("timeline.bin")).unwrap();
    let mut events = Histories::default();
    timeline.read(0..timeline.info().table_rows, Detail::All, &mut events).unwrap();
    assert_eq!((timeline.info().items, events.len()), (12, positives));
    assert!(matches!(timeline.info().clock, Clock::Ticks { .. }));
    assert_eq!(events.items.len() as u64, manifest.rows["interactions kept"]);
    assert!(events.times.iter().all(|time| (1_700_000_000..=1_702_000_000).contains(time)));
}

#[test]
fn golden_towers_vectors_index_and_results_have_their_values() {
    let run = golden().join("run");
    let part = |folder: &str, extension: &str| run.join(folder).join(format!("{PART}.{extension}"));
    let mut engine = open(EngineKind::Native, &run.join("towers/item_tower.onnx")).unwrap();
    assert_eq!((engine.dim(), engine.schema().side), (8, Side::Item));
    let (ids, codes) = CodesReader::open(run.join("encoders/items.parquet")).unwrap().load().unwrap();
    let mut embedded = Vec::new();
    engine.embed(&codes, &mut embedded).unwrap();

    // Items are stored in the order of their table, encoded in the order of their ids.
    let stored = vectors_of(&part("vectors/item", "parquet"));
    assert_eq!(
        stored.iter().map(|(id, _)| id.as_i64().unwrap()).collect::<Vec<_>>(),
        (0..12).map(|i| 900 - 11 * i).collect::<Vec<_>>()
    );
    for (row, (_, vector)) in stored.iter().rev().enumerate() {
        let same = vector.iter().zip(&embedded[row * 8..]).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(same, "item {}: {vector:?} and {:?}", ids.get(row), &embedded[row * 8..row * 8 + 8]);
    }
    let (info, users, _) = load_parts(&[part("vectors/user", "parquet")]).unwrap().unwrap();
    assert_eq!((info.dim, users.len(), users.get(29)), (8, 30, Id::Int(user_id(29))));

    let ascending: Vec<f32> = stored.iter().rev().flat_map(|(_, vector)| vector.iter().copied()).collect();
    let vectors = ItemVectors::new(8, ascending).unwrap();
    let index = twotower_index::open(&run.join("index"), vectors.fingerprint()).unwrap();
    assert_eq!((index.count(), index.dim(), index.manifest().kind.to_string().as_str()), (12, 8, "hnsw"));

    let lists = recalled_of(&part("recall", "parquet"));
    assert_eq!((lists.len(), &lists[0].0), (30, &user_id(0).into()));
    assert!(lists.iter().all(|(_, list)| list.is_sorted_by(|a, b| a.1 >= b.1)));
    for format in ["parquet-long.parquet", "jsonl.jsonl"] {
        assert_eq!(recalled_of(&golden().join(format!("recall-{format}"))), lists, "{format}");
    }
    let best = checkpoint::read::<()>(&run.join("towers/checkpoints/best.ckpt")).unwrap();
    assert!(best.run.contains(EncoderState::load(run.join("encoders")).unwrap().fingerprint().as_str()));
}

/// Replaces the only occurrence of some bytes.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let found: Vec<usize> = bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from).map(|(i, _)| i).collect();
    let [at] = found[..] else { panic!("{} times {}", found.len(), String::from_utf8_lossy(from)) };
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// A versioned binary file with another version, under a checksum that holds.
fn with_version(bytes: &[u8], magic: &str, version: u32) -> Vec<u8> {
    let mut file = HashingWriter::new(Vec::new());
    file.write_all(magic.as_bytes()).unwrap();
    file.write_all(&version.to_le_bytes()).unwrap();
    file.write_all(&bytes[magic.len() + 4..bytes.len() - 32]).unwrap();
    let digest = file.digest();
    [file.into_inner(), digest.as_bytes().to_vec()].concat()
}

/// A file of the golden folder, how it becomes one of the next version, and the message of its reader.
type Next = (&'static str, fn(&[u8]) -> Vec<u8>, fn(&Path) -> String);

fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.err().map_or_else(|| "read".to_string(), |error| error.to_string())
}

fn in_footer(bytes: &[u8]) -> Vec<u8> {
    replaced(bytes, b"\"format_version\":1,", b"\"format_version\":2,")
}

/// A timeline whose index is of the next version.
fn next_index(bytes: &[u8]) -> Vec<u8> {
    let (rest, length) = bytes.split_at(bytes.len() - 8);
    let index = rest.len() - u64::from_le_bytes(length.try_into().unwrap()) as usize;
    [&rest[..index], &with_version(&rest[index..], "twotower-timeline", 2), length].concat()
}

#[test]
fn the_next_version_of_every_format_is_refused_by_number() {
    let index = |path: &Path| {
        let vectors: Vec<f32> = vectors_of(&golden().join(format!("run/vectors/item/{PART}.parquet")))
            .into_iter()
            .rev()
            .flat_map(|v| v.1)
            .collect();
        let vectors = ItemVectors::new(8, vectors).unwrap();
        said(twotower_index::open(path.parent().unwrap(), vectors.fingerprint()))
    };
    let cases: [Next; 14] = [
        (
            "run/encoders/manifest.json",
            |b| replaced(b, b"\"format_version\": 1,", b"\"format_version\": 2,"),
            |path| said(Manifest::read(path)),
        ),
        (
            "run/encoders/encoders.json",
            |b| replaced(b, b"\"version\": 1,", b"\"version\": 2,"),
            |path| said(EncoderState::load(path.parent().unwrap())),
        ),
        (
            "run/encoders/vocab/user_city.bin",
            |b| with_version(b, "twotower-vocabulary", 2),
            |path| said(twotower_encoders::store::load_vocabulary(path)),
        ),
        (
            "run/towers/checkpoints/best.ckpt",
            |b| with_version(b, "TTCKPT", 3),
            |path| said(checkpoint::read::<()>(path)),
        ),
        ("run/encoders/items.parquet", in_footer, |path| said(CodesReader::open(path))),
        ("run/encoders/users.parquet", in_footer, |path| said(CodesReader::open(path))),
        ("run/encoders/timeline.bin", next_index, |path| said(Timeline::open(path))),
        ("run/vectors/user/part-00000-of-00001.parquet", in_footer, |path| said(VectorsReader::open(path))),
        ("run/recall/part-00000-of-00001.parquet", in_footer, |path| {
            assert_eq!(said(read_lists(path, 1)), said(inspect_neighbours(path, NeighbourFormat::Parquet)));
            said(read_lists(path, 1))
        }),
        ("recall-parquet-long.parquet", in_footer, |path| said(load_long(path))),
        (
            "run/towers/user_tower.onnx",
            // Versions 2 to 6 are read too: a tower is of the oldest that can say what it holds.
            |b| replaced(b, b"twotower.format_version\x12\x011", b"twotower.format_version\x12\x017"),
            |path| said(open(EngineKind::Native, path)),
        ),
        ("run/index/index.bin", |b| [&b[..8], &2u32.to_le_bytes(), &b[12..]].concat(), index),
        ("run/index/index.json", |b| replaced(b, b"\"format\": 1,", b"\"format\": 2,"), index),
        (
            "run/evaluation/metrics.json",
            |b| replaced(b, b"\"format_version\": 1,", b"\"format_version\": 2,"),
            |path| said(twotower_pipeline::stages::evaluate::read_metrics(path)),
        ),
    ];
    for (name, next, read) in cases {
        let job = Job::empty("golden-next");
        copy_all(&golden(), &job.dir);
        let path = job.path(name);
        assert!(!read(&path).contains("version"), "{name}: {}", read(&path));
        std::fs::write(&path, next(&std::fs::read(&path).unwrap())).unwrap();
        let message = read(&path);
        let file = Path::new(name).file_name().unwrap().to_string_lossy();
        let newest = match path.extension().and_then(|e| e.to_str()) {
            Some("onnx") => 6,
            Some("ckpt") => 2,
            _ => 1,
        };
        let refused = format!("format version {}, this build reads up to {newest}", newest + 1);
        assert!(message.contains(&refused), "{name}: {message}");
        assert!(message.contains(&*file), "{name}: {message}");
    }
}
