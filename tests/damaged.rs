//! Damaged and hostile files, given to the real binary under a limit of memory and time: an error that names
//! the file, or rows that are plainly those of another file; never a panic, a hang or an enormous allocation.

mod fixture;

use fixture::results::{outputs, snapshot, walk};
use fixture::{Finished, Job, in_shell, long, users};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use twotower_artifacts::{FileEntry, Manifest};

/// Address space of a child, in KiB. A sound job of this size takes a third of it.
const MEMORY_KIB: u32 = 1_200_000;
/// Seconds until a child hangs.
const SECONDS: u32 = 60;

/// Tries per file: so many with TWOTOWER_LONG, else the few.
fn tries(few: usize, many: usize) -> usize {
    if long() { many } else { few }
}

/// Runs the binary under limits.
fn limited(job: &Job, line: &str) -> Finished {
    let script = format!("ulimit -v {MEMORY_KIB}; exec timeout -s KILL {SECONDS} \"$0\" \"$@\"");
    in_shell(&job.command(line), &script).output().unwrap().into()
}

/// A small job of 150 users without outputs.
fn raw() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| Job::small("damaged-raw"))
}

/// The same, finished.
fn finished() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = raw().copy("damaged");
        job.ok("run --quiet");
        job
    })
}

/// What a command did on a damaged file, if that is wrong.
fn complaint(done: &Finished, codes: &[i32], named: &[&str]) -> Option<String> {
    let named = named.iter().any(|name| done.stderr.contains(name));
    let right = codes.contains(&done.code) && named && !done.stderr.contains("panicked");
    (!right).then(|| format!("exit code {}\n{}", done.code, done.stderr))
}

/// Positions spread over `length`, never the same remainder twice in a row.
fn spread(length: usize, n: usize) -> impl Iterator<Item = usize> {
    (0..n).map(move |i| (i * length / n + fixture::mixed(i, length) % (length / n).max(1)).min(length - 1))
}

#[test]
fn raw_parquet_cut_at_each_64th_is_named() {
    let job = raw().copy("damaged-cut");
    let mut wrong = Vec::new();
    for (table, name) in
        [("users", "users.parquet"), ("items", "items.parquet"), ("interactions", "interactions.parquet")]
    {
        let good = std::fs::read(job.path(name)).unwrap();
        let parts = if table == "users" { 64 } else { tries(16, 64) };
        for part in 0..parts {
            std::fs::write(job.path(name), &good[..good.len() * part / parts]).unwrap();
            let done = limited(&job, "encode-features --quiet");
            wrong.extend(complaint(&done, &[3], &[name]).map(|what| format!("{table} cut at {part}/{parts}: {what}")));
        }
        std::fs::write(job.path(name), good).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!job.path("run/encoders/manifest.json").exists());
    job.ok("encode-features --quiet");
}

#[test]
fn raw_parquet_with_flipped_bytes_is_named_or_plainly_another_table() {
    let job = raw().copy("damaged-flip");
    let (mut wrong, mut refused, mut tried) = (Vec::new(), 0, 0);
    for (table, name, rows) in
        [("users", "users.parquet", 150), ("items", "items.parquet", 60), ("interactions", "interactions.parquet", 700)]
    {
        let good = std::fs::read(job.path(name)).unwrap();
        // The last part of a file is its footer, where most of the structure is.
        let footer = good.len() - good.len() / 4;
        let n = tries(14, 600);
        for at in spread(good.len(), n).chain(spread(good.len() / 4, n).map(|at| footer + at)) {
            let mut bytes = good.clone();
            bytes[at] ^= [0x01, 0x80, 0xFF, 0x10][at % 4];
            std::fs::write(job.path(name), bytes).unwrap();
            let done = limited(&job, "encode-features --quiet");
            tried += 1;
            if done.code == 0 {
                // Values may differ; rows may not.
                let manifest = Manifest::read(job.path("run/encoders/manifest.json")).unwrap();
                if manifest.rows[table] != rows || job.twotower("verify run").code != 0 {
                    wrong.push(format!("{name}, byte {at}: {} rows", manifest.rows[table]));
                }
            } else {
                refused += 1;
                // A column that lost its name is named with its table, an id that changed with its value.
                let complaint = complaint(&done, &[3], &[name, &format!("{table}:"), "interactions:"]);
                wrong.extend(complaint.map(|what| format!("{name}, byte {at}: {what}")));
            }
        }
        std::fs::write(job.path(name), good).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused > tried / 10, "{refused} of {tried} were noticed");
}

#[test]
fn delimited_text_cut_anywhere_is_named_with_its_line() {
    let job = raw().copy("damaged-text");
    job.edit("users.parquet", "users.csv");
    let mut text = users().take(0..150).text(",").into_bytes();
    let header = text.iter().position(|b| *b == b'\n').unwrap() + 1;
    // A row whose city stands in quotes, over two lines, and holds a letter of two bytes.
    let row = "7,\"Zürich,\n\"\"old\"\" town\",model 7,yes,30.5,film|news\n";
    text.extend_from_slice(row.as_bytes());
    let start = text.len() - row.len();
    let lines = text[..start].iter().filter(|b| **b == b'\n').count() + 1;
    let line = format!("line {lines}");
    let mut refused = 0;
    for length in 1..row.len() - 1 {
        std::fs::write(job.path("users.csv"), &text[..start + length]).unwrap();
        let done = limited(&job, "encode-features --quiet");
        // The last field may end early; everything before it is noticed.
        if length > row.rfind(',').unwrap() {
            assert_eq!(done.code, 0, "{length}: {}", done.stderr);
            continue;
        }
        refused += 1;
        if let Some(what) = complaint(&done, &[3], &["users.csv"]) {
            panic!("cut after {:?}: {what}", String::from_utf8_lossy(&row.as_bytes()[..length]));
        }
        assert!(done.stderr.contains(&line), "{length}: expected {line}: {}", done.stderr);
    }
    assert!(refused > 30);
    // Inside a letter, and inside the header.
    let within = text[..start].windows(2).rposition(|w| w == "ü".as_bytes()).unwrap() + 1;
    for length in [within, header / 2, 0] {
        std::fs::write(job.path("users.csv"), &text[..length]).unwrap();
        let done = limited(&job, "encode-features --quiet");
        assert_eq!(complaint(&done, &[3], &["users.csv"]), None, "{length} bytes");
    }
}

/// Files of a run, and a command that reads each.
const READERS: &[(&str, &str)] = &[
    ("encoders/manifest.json", "train --force"),
    ("encoders/encoders.json", "train --force"),
    ("encoders/vocab/user_city.bin", "infer --side user --force"),
    ("encoders/users.parquet", "train --force"),
    ("encoders/items.parquet", "train --force"),
    ("encoders/timeline.bin", "train --force"),
    ("encoders/timeline.json", "infer --side user --force"),
    ("towers/manifest.json", "infer --side item --force"),
    ("towers/user_tower.onnx", "infer --side user --force"),
    ("towers/checkpoints/best.ckpt", "train --run next --from run/towers"),
    ("vectors/item/part-00000-of-00001.parquet", "recall --force"),
    ("manifests/vectors/item/part-00000-of-00001.json", "recall --force"),
    ("vectors/user/part-00000-of-00001.parquet", "recall --force"),
    ("manifests/vectors/user/part-00000-of-00001.json", "recall --force"),
    ("index/index.bin", "recall --topk 9"),
    ("index/index.json", "recall --topk 9"),
    ("index/stage.json", "recall --topk 9"),
    ("recall/part-00000-of-00001.parquet", "verify run"),
    ("manifests/recall/part-00000-of-00001.json", "verify run"),
    ("evaluation/metrics.json", "verify run"),
];

#[test]
fn our_own_files_cut_or_altered_are_named_or_made_again() {
    let base = finished().copy("damaged-own");
    base.ok("encode-features --run next --quiet");
    let mut wrong = Vec::new();
    for (name, line) in READERS {
        let good = std::fs::read(base.path("run").join(name)).unwrap();
        let clean = {
            let clean = base.copy("damaged-own-clean");
            clean.ok(&format!("{line} --quiet"));
            outputs(&clean.path("run"))
        };
        let cuts = tries(4, 64);
        let cut = (0..cuts).map(|part| good[..good.len() * part / cuts].to_vec());
        let flipped = spread(good.len(), tries(4, 128)).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= [0x01, 0x80, 0xFF][at % 3];
            bytes
        });
        for (i, bytes) in cut.chain(flipped).enumerate() {
            // One that a try before did not mend.
            let job = base.copy("damaged-own-file");
            std::fs::write(job.path("run").join(name), bytes).unwrap();
            let done = limited(&job, &format!("{line} --quiet"));
            // Made again, or harmless: the same output. Else named.
            let harmless = done.code == 0 && {
                let mut found = outputs(&job.path("run"));
                // What was damaged may still be there.
                found.entry(PathBuf::from(name)).and_modify(|bytes| bytes.clone_from(&clean[Path::new(name)]));
                found == clean
            };
            // `verify` lists its problems on standard output.
            let done = Finished { stderr: format!("{}{}", done.stdout, done.stderr), ..done };
            if !harmless {
                let folder = format!("run/{}", Path::new(name).parent().unwrap().display());
                let complaint = complaint(&done, &[3, 4], &[&folder, "`user_city`"]);
                wrong.extend(complaint.map(|what| format!("{name}, try {i}, {line}: {what}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_manifest_leads_out_of_the_run() {
    let base = finished();
    let outside = Job::empty("damaged-outside");
    outside.write("part-00000-of-00001.parquet", "of somebody else");
    let canary = snapshot(&outside.dir, &[]);
    let encoders: &[&str] = &["train", "infer --side user --force", "run"];
    let manifests: [(&str, usize, &[&str]); 8] = [
        ("run/encoders/manifest.json", 0, encoders),
        ("run/towers/manifest.json", 0, &["infer --side user --force", "run"]),
        ("run/manifests/vectors/item/part-00000-of-00001.json", 0, &["recall --force", "infer --side item", "run"]),
        ("run/manifests/vectors/user/part-00000-of-00001.json", 0, &["recall --force", "infer --side user", "run"]),
        ("run/index/stage.json", 0, &["recall --topk 9"]),
        ("run/manifests/recall/part-00000-of-00001.json", 0, &["recall", "run"]),
        ("run/manifests/recall/part-00000-of-00001.json", 1, &["recall", "run"]),
        ("run/evaluation/manifest.json", 0, &["evaluate", "run"]),
    ];
    let absolute = outside.path("part-00000-of-00001.parquet").to_string_lossy().into_owned();
    let upward = "../../../damaged-outside/part-00000-of-00001.parquet";
    for (manifest, at, readers) in manifests {
        for bad in [upward, &absolute, "", "/", "..", "a/../../b"] {
            let job = base.copy("damaged-paths");
            job.change(manifest, |m| m["files"][at]["path"] = json!(bad));
            for line in ["verify run"].iter().chain(readers) {
                let done = limited(&job, &format!("{line} --quiet"));
                assert_eq!(complaint(&done, &[3, 4], &[manifest, "verify: "]), None, "{manifest}: `{bad}`, {line}");
            }
        }
    }
    // Other places where a path stands.
    for (file, pointer) in [
        ("run/encoders/encoders.json", "/vocabularies/user_city/file"),
        ("run/towers/manifest.json", "/details/checkpoint/path"),
    ] {
        for bad in [upward, &absolute] {
            let job = base.copy("damaged-paths");
            job.change(file, |m| *m.pointer_mut(pointer).unwrap() = json!(bad));
            let done = limited(&job, "verify run");
            assert!(matches!(done.code, 3 | 4), "{file}: {}", done.stdout);
            assert!(!done.stdout.contains("checksum "), "hashed: {file}: {}", done.stdout);
        }
    }
    assert!(snapshot(&outside.dir, &[]) == canary);
}

#[test]
fn links_out_of_the_run_are_neither_read_nor_written_through() {
    let base = finished();
    let outside = Job::empty("damaged-linked");
    for (name, line) in READERS {
        let job = base.copy("damaged-links");
        let path = job.path("run").join(name);
        let target = outside.path("target");
        std::fs::copy(&path, &target).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let canary = snapshot(&outside.dir, &[]);
        let done = limited(&job, "verify run");
        if is_manifest(&target) {
            // Read through its link: its checksum and all it names hold. The next one takes the link's place.
            assert_eq!(done.code, 0, "{name}: {}", done.stdout);
            let done = limited(&job, "run --force --quiet");
            assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        } else {
            assert_eq!(done.code, 3, "{name}: {}", done.stdout);
            assert!(done.stdout.contains("regular file"), "{name}: {}", done.stdout);
            // A tower is read by its content's fingerprint, wherever it lies; all else is refused.
            if name.ends_with(".parquet") {
                let done = limited(&job, &format!("{line} --quiet"));
                assert_eq!(complaint(&done, &[3], &["regular file", "verify: "]), None, "{name}, {line}");
            }
            // A checkpoint is no output that would be made again for its own sake.
            let again = if name.ends_with(".ckpt") { "run --force --quiet" } else { "run --quiet" };
            let done = limited(&job, again);
            assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        }
        // The link is replaced, its target is not.
        assert!(snapshot(&outside.dir, &[]) == canary, "{name}: written through a link");
        assert!(path.symlink_metadata().unwrap().is_file(), "{name} is still a link");
    }
}

/// Whether a file is the manifest of a stage.
fn is_manifest(path: &Path) -> bool {
    serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).is_ok_and(|v| v.get("stage").is_some())
}

#[test]
fn a_folder_of_a_run_that_is_a_link_is_the_place_where_its_owner_put_it() {
    let job = finished().copy("damaged-linked-folder");
    let elsewhere = Job::empty("damaged-linked-elsewhere");
    std::fs::rename(job.path("run/recall"), elsewhere.path("recall")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path("recall"), job.path("run/recall")).unwrap();
    let report = job.json("verify run --require recall");
    assert_eq!(report["notes"].as_array().unwrap().len(), 1, "{report:#}");
    assert!(report["notes"][0].as_str().unwrap().contains("run/recall: "), "{report:#}");
    job.ok("recall --topk 3 --quiet");
    assert!(job.path("run/recall").is_symlink());
    let lists = fixture::results::recalled(&elsewhere.path("recall"));
    assert!(lists.len() == 150 && lists.iter().all(|(_, list)| list.len() == 3));
    job.ok("verify run --require recall");
}

#[test]
fn absurd_numbers_are_refused_before_anything_is_allocated() {
    let base = finished();
    let cases: &[(&str, &str, Value, &[&str])] = &[
        ("manifests/vectors/user/part-00000-of-00001.json", "/rows/table rows", json!(u64::MAX), &["recall --force"]),
        ("manifests/vectors/user/part-00000-of-00001.json", "/rows/rows", json!(u64::MAX), &[]),
        ("manifests/vectors/user/part-00000-of-00001.json", "/config/shards", json!(u32::MAX), &["recall --force"]),
        ("manifests/vectors/user/part-00000-of-00001.json", "/config/shards", json!(u64::MAX), &["recall --force"]),
        ("manifests/vectors/user/part-00000-of-00001.json", "/files/0/bytes", json!(u64::MAX), &["recall --force"]),
        ("manifests/vectors/user/part-00000-of-00001.json", "/files/0/rows", json!(u64::MAX), &[]),
        ("manifests/vectors/item/part-00000-of-00001.json", "/details/dim", json!(u64::MAX), &[]),
        ("manifests/recall/part-00000-of-00001.json", "/config/shards", json!(u32::MAX), &[]),
        ("manifests/recall/part-00000-of-00001.json", "/rows/table rows", json!(u64::MAX), &[]),
        ("encoders/manifest.json", "/rows/items", json!(u64::MAX), &[]),
        ("encoders/encoders.json", "/vocabularies/user_city/size", json!(u64::MAX), &["train --force"]),
        ("index/index.json", "/count", json!(u64::MAX), &[]),
        ("index/index.json", "/ef_search", json!(u64::MAX), &[]),
        ("index/stage.json", "/rows/items", json!(u64::MAX), &[]),
    ];
    for (file, pointer, value, readers) in cases {
        let job = base.copy("damaged-absurd");
        job.change(&format!("run/{file}"), |m| *m.pointer_mut(pointer).unwrap() = value.clone());
        for line in readers.iter().chain(&["verify run"]) {
            let done = limited(&job, &format!("{line} --quiet"));
            // A shard that is missing is a missing input (1), as ever.
            let codes: &[i32] = if *line == "recall --force" { &[1, 3, 4] } else { &[3, 4] };
            assert_eq!(complaint(&done, codes, &["run/", "verify: "]), None, "{file} {pointer}, {line}");
        }
    }
    // Nested beyond any reader's depth.
    for file in walk(&base.path("run")).iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let name = file.strip_prefix(&base.dir).unwrap();
        if name.ends_with("key.json") || name.ends_with("training.json") {
            continue;
        }
        let job = base.copy("damaged-nested");
        let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        job.change(&name.to_string_lossy(), |m| *m = json!({ "format_version": 1, "version": 1, "format": 1 }));
        let text = std::fs::read_to_string(job.dir.join(name)).unwrap();
        std::fs::write(job.dir.join(name), text.replacen('{', &format!("{{\"deep\":{nested},"), 1)).unwrap();
        let done = limited(&job, "verify run");
        assert!(matches!(done.code, 3 | 4), "{}: {} {}", name.display(), done.code, done.stderr);
        assert!(done.stdout.contains(&*name.to_string_lossy()), "{}: {}", name.display(), done.stdout);
    }
}

#[test]
fn an_index_whose_header_lies_is_refused() {
    let base = finished();
    let good = std::fs::read(base.path("run/index/index.bin")).unwrap();
    // Offsets of docs/FORMATS.md: version, dim, layers, entry row, count.
    for (at, width, value, code) in [
        (8, 4, u64::from(u32::MAX), 4),
        (12, 4, 0, 3),
        (12, 4, u64::from(u32::MAX), 3),
        (16, 4, 64, 3),
        (16, 4, u64::from(u32::MAX), 3),
        (20, 4, u64::from(u32::MAX), 3),
        (24, 8, 0, 3),
        (24, 8, u64::MAX, 3),
        (24, 8, 1 << 33, 3),
        (24, 8, u64::from(u32::MAX) - 1, 3),
    ] {
        let job = base.copy("damaged-header");
        let mut bytes = good.clone();
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        std::fs::write(job.path("run/index/index.bin"), bytes).unwrap();
        // With checksums that hold, so that the header itself is what is read.
        let dir = job.path("run/index");
        let image = FileEntry::of_file(&dir, "index.bin", 0).unwrap();
        job.change("run/index/index.json", |m| m["image"] = json!(image.blake3[..32]));
        let manifest = FileEntry::of_file(&dir, "index.json", 0).unwrap();
        job.change("run/index/stage.json", |m| {
            m["files"] = json!([image, manifest]);
        });
        for line in ["recall --topk 9", "verify run"] {
            let done = limited(&job, &format!("{line} --quiet"));
            let text = format!("{}{}", done.stdout, done.stderr);
            assert!(matches!(done.code, 3 | 4), "{at}: {value}, {line}: {text}");
            assert!(line == "verify run" || done.code == code, "{at}: {value}: {} {text}", done.code);
            assert!(text.contains("index.bin") && !text.contains("panicked"), "{at}: {value}: {text}");
        }
    }
}
