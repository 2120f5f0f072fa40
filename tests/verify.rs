//! `twotower verify`: a run that is whole passes, and whatever is changed in it is found, by name.

mod fixture;

use fixture::results::{files, snapshot};
use fixture::{Finished, Job};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Shards of the users.
const SHARDS: usize = 3;

/// A finished run whose users are in three parts.
fn finished() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("verify");
        job.native();
        job.one_epoch();
        job.ok("encode-features --quiet");
        job.ok("train --quiet");
        job.ok("infer --side item --quiet");
        in_shards(&job, SHARDS);
        job.ok("evaluate --quiet");
        job
    })
}

/// Vectors and items of all users in `n` shards.
fn in_shards(job: &Job, n: usize) {
    for stage in ["infer --side user", "recall"] {
        (0..n).for_each(|shard| _ = job.ok(&format!("{stage} --shard {shard}/{n} --quiet")));
    }
}

/// The JSON that `verify` prints, whatever its exit code.
fn report(done: &Finished) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}\n{}\n{}", done.stdout, done.stderr))
}

/// Asserts that `verify` gives `code` and says all of `says` in one problem.
fn found(job: &Job, what: &str, code: i32, says: &[&str]) {
    let done = job.twotower("verify run --json");
    let report = report(&done);
    assert_eq!(done.code, code, "{what}: {report:#}\n{}", done.stderr);
    assert_eq!(report["complete"], false, "{what}");
    let problems: Vec<&str> =
        report["problems"].as_array().unwrap().iter().map(|p| p["message"].as_str().unwrap()).collect();
    let said = problems.iter().any(|problem| says.iter().all(|text| problem.contains(text)));
    assert!(said, "{what}: expected {says:?} in\n{}", problems.join("\n"));
}

fn part(folder: &str, shard: usize, extension: &str) -> String {
    let folder = if extension == "json" { format!("manifests/{folder}") } else { folder.to_string() };
    format!("run/{folder}/part-{shard:05}-of-{SHARDS:05}.{extension}")
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_run_is_complete_without_its_tables_and_stays_as_it_is() {
    let job = finished().copy("verify-whole");
    for name in ["users.parquet", "items.parquet", "interactions.parquet", "pipeline.toml"] {
        std::fs::remove_file(job.path(name)).unwrap();
    }
    let before = snapshot(&job.dir, &[]);
    let text = job.ok("verify run").stdout;
    assert!(text.ends_with("complete\n"), "{text}");
    let all = job.json("verify run --require recall --require evaluate");
    let artifact = |name: &str| all["artifacts"].as_array().unwrap().iter().find(|a| a["name"] == name).cloned();
    for (name, parts, rows) in
        [("user vectors", 3, 1500), ("item vectors", 1, 60), ("recall", 3, 1500), ("index", 1, 60)]
    {
        let found = artifact(name).unwrap();
        assert_eq!((&found["parts"], &found["rows"], &found["whole"]), (&json!(parts), &json!(rows), &json!(true)));
    }
    assert_eq!(all["artifacts"].as_array().unwrap().len(), 7);
    assert_eq!((&all["problems"], &all["notes"]), (&json!([]), &json!([])));
    assert!(snapshot(&job.dir, &[]) == before);
}

#[test]
fn stages_that_never_ran_are_fine_unless_required() {
    let job = Job::new("verify-partial");
    job.native();
    job.one_epoch();
    job.without_sequences();
    job.ok("run --fused --quiet");
    let report = job.json("verify run");
    let names: Vec<&str> =
        report["artifacts"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["encoders", "towers", "item vectors", "index", "recall", "evaluation"]);
    job.refused("verify run --require infer-users", 4, &["1 problem"]);
    job.ok("run --run next --update-from run --no-train --fused --quiet");
    job.ok("verify next --require recall");
    job.refused("verify next --require evaluate", 4, &["1 problem"]);
    // A fused recall names the towers it embedded with.
    job.change("run/manifests/recall/part-00000-of-00001.json", |m| m["inputs"]["towers"] = json!("0".repeat(32)));
    found(&job, "fused recall", 4, &["manifests/recall/part-00000-of-00001.json", "towers"]);
    std::fs::remove_dir_all(job.path("run")).unwrap();
    job.refused("verify run", 1, &["run"]);
    std::fs::create_dir(job.path("run")).unwrap();
    job.ok("verify run");
    job.refused("verify run --require encode-features", 4, &["1 problem"]);
}

#[test]
fn results_of_every_format_are_verified() {
    for (format, extension) in [("jsonl", "jsonl"), ("parquet-long", "parquet")] {
        let job = finished().copy("verify-format");
        std::fs::remove_dir_all(job.path("run/recall")).unwrap();
        (0..SHARDS).for_each(|shard| {
            _ = job.ok(&format!("recall --shard {shard}/{SHARDS} --set recall.format={format} --quiet"))
        });
        job.ok("verify run --require recall");
        let (manifest, file) = (part("recall", 1, "json"), part("recall", 1, extension));
        job.change(&manifest, |m| m["details"]["last_id"] = json!("1"));
        found(&job, format, 4, &[&manifest, "last id"]);
        std::fs::copy(job.path(&part("recall", 2, extension)), job.path(&file)).unwrap();
        found(&job, format, 3, &[&file, "its manifest says"]);
    }
}

/// One change to a part's manifest.
type Change = fn(&mut Value);

/// Fields of a part's manifest that other files contradict, whatever its checksum says.
const CHANGES: &[(&str, Change)] = &[
    ("stage", |m| m["stage"] = json!("train")),
    ("tool_version", |m| m["tool_version"] = json!("9.9.9")),
    ("fingerprint", |m| m["fingerprint"] = json!("0".repeat(32))),
    ("i", |m| m["config"]["shard"] = json!(2)),
    ("i beyond n", |m| m["config"]["shard"] = json!(3)),
    ("i absent", |m| _ = m["config"].as_object_mut().unwrap().remove("shard")),
    ("n", |m| m["config"]["shards"] = json!(4)),
    ("n = 0", |m| m["config"]["shards"] = json!(0)),
    ("engine", |m| m["config"]["engine"] = json!("ort")),
    ("compression", |m| m["config"]["compression"] = json!("zstd")),
    ("own rows", |m| {
        for name in ["rows", "users"].into_iter().filter(|n| m["rows"].get(*n).is_some()).collect::<Vec<_>>() {
            m["rows"][name] = json!(499);
        }
    }),
    ("table rows", |m| m["rows"]["table rows"] = json!(1501)),
    ("first row", |m| m["details"]["first_row"] = json!(499)),
    ("end row", |m| m["details"]["end_row"] = json!(1001)),
    ("first id", |m| m["details"]["first_id"] = json!("1")),
    ("last id", |m| m["details"]["last_id"] = json!("1")),
    ("no first id", |m| _ = m["details"].as_object_mut().unwrap().remove("first_id")),
    ("file path", |m| m["files"][0]["path"] = json!("part-00009-of-00003.parquet")),
    ("file rows", |m| m["files"][0]["rows"] = json!(499)),
    ("no file", |m| m["files"] = json!([])),
    ("two files", |m| {
        let file = m["files"][0].clone();
        m["files"].as_array_mut().unwrap().push(file);
    }),
];

/// A line of indented JSON with another value, if it holds one.
fn altered(line: &str) -> Option<String> {
    let (text, comma) = line.strip_suffix(',').map_or((line, ""), |text| (text, ","));
    let at = text.find("\": ").map_or(text.len() - text.trim_start().len(), |at| at + 3);
    let (key, value) = text.split_at(at);
    let other = match value {
        "{" | "[" | "}" | "]" => return None,
        "null" | "false" => "true".to_string(),
        "true" => "false".to_string(),
        "{}" => "{ \"more\": 1 }".to_string(),
        "[]" => "[1]".to_string(),
        text if text.starts_with('"') => text.replacen('"', "\"x", 1),
        number => format!("1{}", number.trim_start_matches('-')),
    };
    Some(format!("{key}{other}{comma}"))
}

/// Nothing that a manifest says can be changed without being found: its own checksum sees to that.
#[test]
fn every_changed_value_of_every_manifest_is_found() {
    let in_one = Job::new("verify-values-whole");
    in_one.native();
    in_one.edit("[evaluate]\n", "[gates]\noff = [\"metric\"]\n\n[evaluate]\n");
    in_one.ok("run --quiet");
    for (job, stages) in [(in_one, 9), (finished().copy("verify-values"), 12)] {
        let json = fixture::results::walk(&job.path("run")).into_iter().filter(|p| p.extension().unwrap() == "json");
        let (mut manifests, mut changed, mut wrong) = (0, 0, Vec::new());
        for path in json {
            let good = std::fs::read_to_string(&path).unwrap();
            if !good.contains("\"stage\": ") {
                continue;
            }
            manifests += 1;
            let lines: Vec<&str> = good.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let Some(other) = altered(line) else { continue };
                changed += 1;
                let mut lines = lines.clone();
                lines[number] = &other;
                std::fs::write(&path, lines.join("\n") + "\n").unwrap();
                let done = job.twotower("verify run");
                let name = path.strip_prefix(&job.dir).unwrap().display().to_string();
                if !matches!(done.code, 3 | 4) || !done.stdout.contains(&name) {
                    wrong.push(format!("{name}: {other}: exit code {}", done.code));
                }
            }
            std::fs::write(&path, good).unwrap();
        }
        job.ok("verify run");
        println!("{manifests} manifests, {changed} values changed");
        assert!(wrong.is_empty(), "{} of {changed}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(manifests == stages && changed > 40 * manifests, "{manifests} manifests, {changed} values");
    }
}

#[test]
fn fields_of_a_parts_manifest_that_other_files_contradict_are_refused() {
    for folder in ["vectors/user", "recall"] {
        let manifest = part(folder, 1, "json");
        let named = format!("{folder}/part-00001-of-00003");
        for (what, mutate) in CHANGES {
            let job = finished().copy("verify-field");
            job.change(&manifest, mutate);
            found(&job, &format!("{folder}: {what}"), 4, &[&named]);
        }
        // Each input by its name.
        let inputs: Value = serde_json::from_slice(&std::fs::read(finished().path(&manifest)).unwrap()).unwrap();
        for name in inputs["inputs"].as_object().unwrap().keys() {
            let job = finished().copy("verify-field");
            job.change(&manifest, |m| m["inputs"][name] = json!("0".repeat(32)));
            found(&job, &format!("{folder}: input {name}"), 4, &[&named, name]);
        }
        // What a file says of itself is damage, by its size or checksum.
        for (what, value) in [("bytes", json!(7)), ("blake3", json!("0".repeat(64)))] {
            let job = finished().copy("verify-field");
            job.change(&manifest, |m| m["files"][0][what] = value);
            found(&job, &format!("{folder}: {what}"), 3, &[&named, "its manifest says"]);
        }
        let job = finished().copy("verify-field");
        job.change(&manifest, |m| m["format_version"] = json!(99));
        found(&job, "version", 4, &[&named, "format version 99"]);
    }
}

#[test]
fn fields_of_other_manifests_that_other_files_contradict_are_refused() {
    let zeros = || json!("0".repeat(32));
    let cases: &[(&str, &str, Value)] = &[
        ("encoders/manifest.json", "/fingerprint", zeros()),
        ("encoders/manifest.json", "/rows/items", json!(61)),
        ("encoders/manifest.json", "/rows/users with positives", json!(1)),
        ("encoders/manifest.json", "/rows/interactions kept", json!(1)),
        ("encoders/manifest.json", "/details/content", zeros()),
        ("encoders/manifest.json", "/files/0/path", json!("other.parquet")),
        ("towers/manifest.json", "/fingerprint", zeros()),
        ("towers/manifest.json", "/inputs/encoders", zeros()),
        ("towers/manifest.json", "/inputs/encoded tables", zeros()),
        ("manifests/vectors/item/part-00000-of-00001.json", "/inputs/towers", zeros()),
        ("manifests/vectors/item/part-00000-of-00001.json", "/inputs/encoders", zeros()),
        ("manifests/vectors/item/part-00000-of-00001.json", "/config/side", json!("user")),
        ("manifests/vectors/item/part-00000-of-00001.json", "/config/ids", json!("text")),
        ("manifests/vectors/item/part-00000-of-00001.json", "/config/precision", json!("f16")),
        ("manifests/vectors/item/part-00000-of-00001.json", "/details/dim", json!(9)),
        ("index/stage.json", "/inputs/item vectors", zeros()),
        ("index/stage.json", "/fingerprint", zeros()),
        ("index/stage.json", "/rows/items", json!(61)),
        ("evaluation/manifest.json", "/inputs/towers", zeros()),
        ("evaluation/manifest.json", "/inputs/encoded tables", zeros()),
        ("evaluation/manifest.json", "/fingerprint", zeros()),
    ];
    for (manifest, pointer, value) in cases {
        let job = finished().copy("verify-other");
        job.change(&format!("run/{manifest}"), |m| *m.pointer_mut(pointer).unwrap() = value.clone());
        let folder = manifest.trim_start_matches("manifests/").split('/').next().unwrap();
        found(&job, &format!("{manifest} {pointer}"), 4, &["run/", folder]);
    }
}

#[test]
fn gaps_duplicates_and_other_numbers_of_shards_are_found() {
    for folder in ["vectors/user", "recall"] {
        let job = finished().copy("verify-coverage");
        std::fs::remove_file(job.path(&part(folder, 1, "json"))).unwrap();
        found(&job, "gap", 4, &[folder, "shard 1 of 3 missing"]);
        for name in [0, 2] {
            std::fs::remove_file(job.path(&part(folder, name, "json"))).unwrap();
        }
        found(&job, "no manifest", 4, &[folder, "parts without manifests"]);

        let job = finished().copy("verify-coverage");
        std::fs::copy(job.path(&part(folder, 1, "json")), job.path(&format!("run/manifests/{folder}/part-copy.json")))
            .unwrap();
        found(&job, "duplicate", 4, &[folder, "shard 1/3 is there 2 times"]);

        // Parts of two shards among those of three: they overlap, whichever remain.
        let other = finished().copy("verify-coverage-other");
        std::fs::remove_dir_all(other.path("run/recall")).unwrap();
        std::fs::remove_dir_all(other.path("run/vectors/user")).unwrap();
        in_shards(&other, 2);
        let job = finished().copy("verify-coverage");
        for (above, extension) in [("manifests/", "json"), ("", "parquet")] {
            let name = format!("run/{above}{folder}/part-00000-of-00002.{extension}");
            std::fs::copy(other.path(&name), job.path(&name)).unwrap();
        }
        found(&job, "another n", 4, &[folder, "made under other settings", "shards"]);
    }
}

#[test]
fn a_part_of_another_table_or_model_is_found_even_with_its_manifest() {
    let other_table = finished().copy("verify-other-table");
    fixture::users().take((0..fixture::USERS).rev()).write_parquet(&other_table.path("users.parquet"));
    // Another table than was encoded must be forced.
    for stage in ["infer --side user", "recall"] {
        for shard in 0..SHARDS {
            other_table.ok(&format!("{stage} --shard {shard}/{SHARDS} --force --quiet"));
        }
    }
    let other_model = finished().copy("verify-other-model");
    other_model.ok("train --set train.seed=99 --quiet");
    other_model.ok("infer --side item --quiet");
    in_shards(&other_model, SHARDS);
    for (what, other) in [("table", &other_table), ("model", &other_model)] {
        for folder in ["vectors/user", "recall"] {
            for extensions in [&["parquet", "json"][..], &["parquet"], &["json"]] {
                let job = finished().copy("verify-foreign");
                for extension in extensions {
                    let name = part(folder, 2, extension);
                    std::fs::copy(other.path(&name), job.path(&name)).unwrap();
                }
                if folder == "recall" && extensions.len() == 2 {
                    let sample = part("samples", 2, "parquet");
                    std::fs::copy(other.path(&sample), job.path(&sample)).unwrap();
                }
                let done = job.twotower("verify run --json");
                let report = report(&done);
                let code = if extensions.contains(&"json") && extensions.len() == 2 { 4 } else { 3 };
                assert_eq!(done.code, code, "{what}, {folder} {extensions:?}: {report:#}");
                assert!(
                    report["problems"].to_string().contains(&part(folder, 2, "")["run/".len()..]),
                    "{what}, {folder}: {report:#}"
                );
            }
        }
    }
}

#[test]
fn damaged_and_missing_files_are_named_all_of_them() {
    let job = finished().copy("verify-damage");
    let mut listed: Vec<PathBuf> = Vec::new();
    for path in fixture::results::walk(&job.path("run")) {
        let name = path.to_string_lossy().into_owned();
        // Manifests have their own tests; checkpoints but the best are no output.
        if !(name.ends_with("json") || name.ends_with("last.ckpt")) || name.ends_with("metrics.json") {
            flip(&path);
            listed.push(path);
        }
    }
    assert!(listed.len() > 12, "{listed:?}");
    let done = job.twotower("verify run --json");
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    let report = report(&done);
    for path in &listed {
        let name = path.strip_prefix(&job.dir).unwrap().to_string_lossy();
        assert!(report["problems"].to_string().contains(&*name), "{name} is not named: {report:#}");
    }
    assert!(report["artifacts"].as_array().unwrap().iter().all(|a| a["whole"] == false), "{report:#}");
    for path in listed {
        let job = finished().copy("verify-missing");
        let name = path.strip_prefix(finished().dir.with_file_name("verify-damage")).unwrap();
        // A checkpoint may be removed to save room.
        let removable = name.ends_with("best.ckpt");
        std::fs::remove_file(job.dir.join(name)).unwrap();
        match removable {
            true => _ = job.ok("verify run"),
            false => found(&job, &name.to_string_lossy(), 4, &[&name.to_string_lossy()]),
        }
    }
}

#[test]
fn what_does_not_belong_is_noted_and_is_no_problem() {
    let job = finished().copy("verify-strays");
    let strays = ["run/recall/.part-00000-of-00003.parquet.tmp-12-0", "run/vectors/user/notes.txt", "run/README"];
    strays.iter().for_each(|name| job.write(name, "left"));
    std::os::unix::fs::symlink("/etc", job.path("run/towers/link")).unwrap();
    let report = job.json("verify run");
    let notes = report["notes"].to_string();
    assert!(strays.iter().chain(&["run/towers/link"]).all(|name| notes.contains(name)), "{notes}");
    assert_eq!(report["notes"].as_array().unwrap().len(), 4, "{notes}");
    assert!(notes.contains("did not finish") && !notes.contains("passwd"), "{notes}");
    assert_eq!(files(&job.path("run/recall"), "parquet").len(), SHARDS);
}
