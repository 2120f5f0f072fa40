//! Files of a run, cut and altered at every byte, give rows or an error that names the file. They never cause a panic,
//! nor an allocation out of proportion to the file.

use arrow_schema::{DataType, Field, Schema};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::keyed::IdentityKey;
use twotower_artifacts::neighbours::open_sink;
use twotower_artifacts::neighbours_file::{load_long, read_lists};
use twotower_artifacts::parquet_file::{Artifact, ParquetFile};
use twotower_artifacts::vectors::Similarity;
use twotower_artifacts::{
    ArtifactError, Category, Clock, CodeBatch, CodesInfo, CodesReader, CodesWriter, Column, Compression, Detail, Event,
    FieldSchema, FieldShape, Fingerprint, Histories, Id, IdKind, Ids, ListRoom, Manifest, NeighbourFormat,
    NeighbourLists, NeighboursInfo, Precision, Ragged, Side, Timeline, TimelineInfo, TimelineWriter, TowerSchema,
    VectorsInfo, VectorsReader, VectorsWriter, inspect_neighbours,
};

/// The system's allocator, which notes the largest request of each thread, since tests run in parallel.
struct NotingAllocator;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Notes a request, unless its thread is ending.
fn note(bytes: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

/// Runs `read`, and checks that it allocated at most [`MOST_BYTES`] at once.
fn sparing<T>(what: &str, read: impl FnOnce() -> T) -> T {
    LARGEST.set(0);
    let result = read();
    let largest = LARGEST.get();
    assert!(largest <= MOST_BYTES, "{what}: allocated {largest} bytes at once");
    result
}

// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for NotingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: NotingAllocator = NotingAllocator;

/// More than any of the small files here needs.
const MOST_BYTES: usize = 64 << 20;

/// Reads a whole file and returns the number of its rows.
type Read = fn(&Path) -> Result<usize, ArtifactError>;

/// Tries every truncation of a file, and several alterations of every `step`-th byte.
fn torture(name: &str, write: impl Fn(&Path), read: Read) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    write(&path);
    let good = std::fs::read(&path).unwrap();
    let rows = read(&path).unwrap();
    let long = std::env::var("TWOTOWER_LONG").is_ok_and(|v| v == "1");
    let step = if long { 1 } else { good.len().div_ceil(250) };
    let mut refused = 0;
    let mut attempt = |what: String, bytes: &[u8]| -> bool {
        std::fs::write(&path, bytes).unwrap();
        match sparing(&format!("{name}, {what}"), || read(&path)) {
            Ok(found) => assert!(found <= rows, "{name}, {what}: {found} rows of {rows}"),
            Err(error) => {
                refused += 1;
                assert!(matches!(error.category(), Category::Data | Category::Mismatch), "{name}, {what}: {error}");
                assert!(error.to_string().contains(name), "{name}, {what}: {error}");
                return false;
            }
        }
        true
    };
    // Without its last newline, a manifest is still complete.
    let end = good.len() - usize::from(good.ends_with(b"\n"));
    for length in (0..end).step_by(step) {
        assert!(!attempt(format!("cut to {length} bytes"), &good[..length]), "{name}: {length} bytes were read");
    }
    for at in (0..good.len()).step_by(step) {
        for value in [good[at] ^ 1, good[at] ^ 0x80, 0xFF, 0, good[at].wrapping_add(1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            attempt(format!("byte {at} = {value}"), &bytes);
        }
    }
    assert!(refused > good.len() / step, "{name}: only {refused} refused");
}

fn text_ids(rows: usize) -> Ids {
    let mut ids = Ids::new(IdKind::Text);
    (0..rows).for_each(|i| ids.push(Id::Text(&format!("user-{i}"))));
    ids
}

#[test]
fn vectors() {
    let kinds = [(IdKind::Int, Precision::F32, Compression::None), (IdKind::Text, Precision::F16, Compression::Lz4)];
    for (kind, precision, compression) in kinds {
        torture(
            "part.parquet",
            |path| {
                let encoder = Fingerprint::of(b"e");
                let info = VectorsInfo {
                    ids: kind,
                    dim: 4,
                    precision,
                    similarity: Similarity::Cosine,
                    tower: encoder.clone(),
                    encoder,
                    inner_product_scale: None,
                };
                let ids = if kind == IdKind::Int { Ids::Int((0..40).collect()) } else { text_ids(40) };
                let mut writer = VectorsWriter::create(path, &info, compression).unwrap();
                writer.write(&ids, (0..160).map(|v| v as f32 / 160.0).collect()).unwrap();
                writer.finish().unwrap();
            },
            |path| Ok(VectorsReader::open(path)?.load()?.0.len()),
        );
    }
}

#[test]
fn codes() {
    torture(
        "codes.parquet",
        |path| {
            let table = || "t".to_string();
            let field = |name: &str, shape| FieldSchema { name: name.to_string(), shape };
            let fields = vec![
                field("city", FieldShape::Code { table: table(), cardinality: 50 }),
                field("tags", FieldShape::Bag { table: table(), cardinality: 50, max_len: 4 }),
                field("text", FieldShape::Dense { width: 2 }),
            ];
            let schema = TowerSchema { side: Side::User, encoder: Fingerprint::of(b"e"), fields };
            let mut tags = Ragged::default();
            (0..40u32).for_each(|r| tags.push_row((0..r % 4).map(|t| t + 3)));
            let columns = vec![
                Column::Code((0..40).collect()),
                Column::Ragged(tags),
                Column::Dense { width: 2, values: (0..80).map(|v| v as f32).collect() },
            ];
            let mut writer =
                CodesWriter::create(path, &CodesInfo { ids: IdKind::Text, schema }, Compression::Lz4).unwrap();
            writer.write(&text_ids(40), &CodeBatch { columns }).unwrap();
            writer.finish().unwrap();
        },
        |path| {
            // Codes out of range are named by column and row; the caller knows the file.
            let loaded = CodesReader::open(path)?.load();
            Ok(loaded.map_err(|e| ArtifactError::Corrupt { path: path.to_path_buf(), reason: e.to_string() })?.0.len())
        },
    );
}

#[test]
fn timelines() {
    let key = IdentityKey::of(&[&Fingerprint::of(b"t")]);
    torture(
        "timeline.bin",
        |path| {
            let info = TimelineInfo { table_rows: 20, items: 7, clock: Clock::Order, key };
            let mut writer = TimelineWriter::create(path, info).unwrap();
            for row in 0..20 {
                let event = |time: u32| Event { item: (row as u32 + time) % 7, time: time.into(), weight: 1.0 };
                writer.write(row, key.identity(Id::Int(row as i64)), &[0, 1, 2].map(event)).unwrap();
            }
            writer.finish().unwrap();
        },
        |path| {
            let mut found = Histories::default();
            Timeline::open(path)?.read(0..u64::MAX, Detail::All, &mut found)?;
            Ok(found.items.len())
        },
    );
}

fn write_neighbours(path: &Path, format: NeighbourFormat) {
    let info = NeighboursInfo::of_users(IdKind::Text, IdKind::Int);
    let items = Ids::Int((0..9).collect());
    let mut sink = open_sink(format, path, &info, ListRoom::new(3, &items), Compression::None).unwrap();
    let offsets: Vec<usize> = (0..=20).map(|u| u * 3).collect();
    let rows: Vec<u32> = (0..60).map(|r| r % 9).collect();
    let scores: Vec<f32> = (0..60).map(|r| 1.0 - r as f32 / 60.0).collect();
    let lists = NeighbourLists { offsets: &offsets, rows: &rows, scores: &scores, item_ids: &items };
    sink.write(&text_ids(20), &lists).unwrap();
    sink.finish().unwrap();
}

#[test]
fn neighbours() {
    torture(
        "lists.parquet",
        |path| write_neighbours(path, NeighbourFormat::Parquet),
        |path| {
            inspect_neighbours(path, NeighbourFormat::Parquet)?;
            read_lists(path, 7)?.try_fold(0, |rows, table| Ok(rows + table?.users.len()))
        },
    );
    torture(
        "pairs.parquet",
        |path| write_neighbours(path, NeighbourFormat::ParquetLong),
        |path| {
            inspect_neighbours(path, NeighbourFormat::ParquetLong)?;
            Ok(load_long(path)?.scores.len())
        },
    );
}

#[test]
fn manifests() {
    torture(
        "manifest.json",
        |path| {
            let mut manifest = Manifest::new("infer", "0.1.0", Fingerprint::of(b"m"));
            manifest.config = serde_json::json!({ "shard": 3, "nested": [[[1, 2.5, null, true]]] });
            manifest.rows.insert("users".to_string(), u64::MAX);
            manifest.write(path).unwrap();
        },
        |path| Manifest::read(path).map(|_| 1),
    );
}

#[test]
fn a_manifest_of_deep_nesting_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest.json");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 200_000;
        let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let text = format!("{{\"format_version\": 1, \"details\": {nested}");
        // The checksum is right, so what is refused is the nesting.
        let checksum = blake3::hash(text.as_bytes()).to_hex();
        std::fs::write(&path, format!("{text},\n  \"checksum\": \"{checksum}\"\n}}")).unwrap();
        let error = Manifest::read(&path).unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("recursion limit"), "{error}");
    }
}

/// The error of reading an empty Parquet file of such an artifact, schema and details.
fn crafted(name: &'static str, columns: Vec<Field>, details: &serde_json::Value, read: Read) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crafted.parquet");
    let artifact = Artifact { name, version: 1 };
    let schema = Arc::new(Schema::new(columns));
    ParquetFile::create(&path, schema, 100, Compression::None, &[], artifact, details).unwrap().finish().unwrap();
    sparing(name, || read(&path)).map_or_else(|e| e.to_string(), |rows| format!("{rows} rows"))
}

#[test]
fn absurd_counts_allocate_nothing() {
    let encoder = "0".repeat(32);
    for dim in [0u64, 1 << 20, i32::MAX as u64, u64::MAX] {
        let element = Arc::new(Field::new("item", DataType::Float32, false));
        let width = i32::try_from(dim).unwrap_or(i32::MAX);
        let columns = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("vector", DataType::FixedSizeList(element, width), false),
        ];
        let details = serde_json::json!({
            "ids": "int", "dim": dim, "precision": "f32", "similarity": "cosine", "encoder": encoder, "tower": encoder,
        });
        let said = crafted("vectors", columns, &details, |path| Ok(VectorsReader::open(path)?.load()?.0.len()));
        assert!(said == "0 rows" || said.contains("crafted.parquet"), "{dim}: {said}");
    }
}
