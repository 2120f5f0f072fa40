//! A bad night does not reach the users of `latest`: every gate fires by name, a good night passes all of them.

mod fixture;

use fixture::sheet::{Column, Sheet};
use fixture::{ITEMS, Job, USERS, user_id, users};
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;
use twotower_artifacts::{FileEntry, Manifest, Side};
use twotower_models::onnx;
use twotower_models::tower::Layer;
use twotower_pipeline::run::files::towers as files;
use twotower_pipeline::stages::towers::towers_fingerprint;

/// A job without sequences, whose first night `runs/a` is published.
fn yesterday() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("gates");
        job.without_sequences();
        job.edit("epochs = 2", "epochs = 6\nlearning_rate = 0.01");
        job.ok("run --run runs/a --quiet");
        job
    })
}

/// The gates of a run by name.
fn gate(job: &Job, run: &str, name: &str) -> Value {
    let manifest = Manifest::read(job.path(run).join("gates/manifest.json")).unwrap();
    let gates = manifest.details["gates"].as_array().unwrap().clone();
    gates.into_iter().find(|gate| gate["gate"] == name).unwrap_or_else(|| panic!("no gate {name}"))
}

fn ruling(job: &Job, run: &str, name: &str) -> String {
    gate(job, run, name)["ruling"].as_str().unwrap().to_string()
}

/// Runs tonight's night, which must be refused by exactly these gates, and leave `latest` at yesterday's run.
fn refused_by(job: &Job, flags: &str, gates: &[&str]) {
    let finished = job.twotower(&format!("run --run runs/b --quiet {flags}"));
    assert_eq!(finished.code, 5, "{flags}: {}", finished.stderr);
    assert_eq!(job.latest(), "a");
    for gate in gates {
        assert!(finished.stderr.contains(&format!("gate `{gate}`: ")), "{gate}: {}", finished.stderr);
        assert!(finished.stderr.contains(&format!("--accept {gate}")), "{gate}: {}", finished.stderr);
        assert_eq!(ruling(job, "runs/b", gate), "failed");
    }
    assert_eq!(finished.stderr.matches("gate `").count(), gates.len(), "{}", finished.stderr);
}

fn write_users(job: &Job, sheet: &Sheet) {
    sheet.write_parquet(&job.path("users.parquet"));
}

/// Changes a tower of a run as its trainer might have left it.
fn edit_tower(job: &Job, run: &str, side: Side, edit: impl Fn(&mut Vec<Layer>)) {
    let dir = job.path(run).join("towers");
    let path = dir.join(files::tower(side));
    let (mut tower, _) = onnx::read(&path).unwrap();
    edit(&mut tower.layers);
    onnx::export(&tower, &path, &Default::default()).unwrap();
    let mut manifest = Manifest::read(dir.join(files::MANIFEST)).unwrap();
    let of = |file: &FileEntry| FileEntry::of_file(&dir, &file.path, file.rows).unwrap();
    manifest.files = manifest.files.iter().map(of).collect();
    manifest.fingerprint = towers_fingerprint(&dir).unwrap();
    manifest.write(dir.join(files::MANIFEST)).unwrap();
}

/// Sets a linear layer to zeros: the first one leaves one vector for all rows, the last one none.
fn clear(layers: &mut [Layer], last: bool) {
    let mut linear = layers.iter_mut().filter(|layer| matches!(layer, Layer::Linear { .. }));
    let layer = if last { linear.next_back() } else { linear.next() };
    if let Some(Layer::Linear { weight, bias }) = layer {
        weight.data.fill(0.0);
        if last {
            bias.data.fill(0.0);
        }
    }
}

#[test]
fn a_good_second_night_passes_every_gate_that_applies() {
    let job = yesterday().copy("gates-good");
    for (name, expected) in [
        ("rows", "passed"),
        ("unknown", "passed"),
        ("missing", "not_applicable"),
        ("vectors", "passed"),
        ("index", "not_applicable"),
        ("coverage", "passed"),
        ("users", "not_applicable"),
        ("overlap", "not_applicable"),
        ("metric", "passed"),
    ] {
        let gate = gate(&job, "runs/a", name);
        assert_eq!(gate["ruling"], expected, "first night: {gate}");
        assert!(expected == "passed" || !gate["notes"][0].as_str().unwrap().is_empty(), "no reason: {gate}");
    }
    // Tonight: other draws, and a user fewer.
    write_users(&job, &users().take((0..USERS).rev().skip(1)));
    for (run, flags) in [("runs/b", "--set train.seed=7"), ("runs/c", "--update-from runs/b"), ("runs/d", "--fused")] {
        job.ok(&format!("run --run {run} --quiet {flags}"));
        for name in ["rows", "unknown", "missing", "vectors", "coverage", "users", "overlap", "metric"] {
            assert_eq!(ruling(&job, run, name), "passed", "{run}: {name}");
        }
        assert_eq!(job.latest(), Path::new(run).file_name().unwrap().to_string_lossy());
    }
    // A night without training has no metric, and an approximate index has a recall.
    job.ok("run --run runs/e --update-from runs/d --no-train --fused --set index.kind=hnsw --quiet");
    assert_eq!(ruling(&job, "runs/e", "metric"), "not_applicable");
    assert_eq!(ruling(&job, "runs/e", "index"), "passed");
    assert_eq!(gate(&job, "runs/e", "users")["measured"][0]["value"], 1.0);
}

#[test]
fn half_a_table_is_refused_until_it_is_whole_again() {
    let job = yesterday().copy("gates-half");
    let adopt = "--update-from runs/a --no-train";
    write_users(&job, &users().take(0..USERS / 2));
    refused_by(&job, adopt, &["rows"]);
    let manifest = Manifest::read(job.path("runs/b/gates/manifest.json")).unwrap();
    assert_eq!((manifest.rows["failed"], manifest.details["previous"].as_str()), (1, Some("a")));
    // The same command asks again, and what passes then is published.
    refused_by(&job, adopt, &["rows"]);
    write_users(&job, &users());
    job.ok(&format!("run --run runs/b --quiet {adopt}"));
    assert_eq!(job.latest(), "b");
    // Asked again, it is held against the same earlier run, not against itself.
    let again = job.json(&format!("run --run runs/b --quiet {adopt}"));
    assert!(again["stages"].as_array().unwrap().iter().all(|stage| stage["skipped"] == true), "{again}");
}

#[test]
fn shuffled_ids_and_other_ids_are_refused() {
    let job = yesterday().copy("gates-shuffled");
    let mut shuffled = users();
    shuffled.ints("user_id").rotate_left(USERS / 3);
    write_users(&job, &shuffled);
    refused_by(&job, "--update-from runs/a --no-train", &["overlap"]);

    let job = yesterday().copy("gates-other-ids");
    let mut other = users();
    other.ints("user_id").iter_mut().for_each(|id| *id = id.map(|id| id + 1_000_000));
    write_users(&job, &other);
    refused_by(&job, "--update-from runs/a --no-train", &["users", "history"]);
    assert_eq!(ruling(&job, "runs/b", "overlap"), "not_applicable");
}

#[test]
fn an_untrained_model_is_refused_with_a_run_before_it_and_without() {
    let untrained = "--set train.epochs=1 --set train.learning_rate=1e-12";
    let job = yesterday().copy("gates-untrained");
    refused_by(&job, untrained, &["overlap", "metric"]);
    // Without a run before it, popularity is what it must be worth half of.
    std::fs::remove_dir_all(job.path("runs")).unwrap();
    let line = format!("run --run runs/b --quiet {untrained} --set gates.min_metric_of_popularity=1.0");
    job.refused(&line, 5, &["gate `metric`: recall@5, against ", "--accept metric"]);
    assert!(!job.path("runs/latest").exists());
}

#[test]
fn unknown_and_missing_values_are_refused_by_feature() {
    let job = yesterday().copy("gates-unknown");
    let mut sheet = users();
    (0..USERS).filter(|u| u % 2 == 0).for_each(|u| sheet.texts("is_5g")[u] = Some("maybe".into()));
    write_users(&job, &sheet);
    refused_by(&job, "", &["unknown"]);
    let finished = job.twotower("run --run runs/b --quiet");
    assert!(finished.stderr.contains("user.is_5g 0.5, expected at most 0.1"), "{}", finished.stderr);
    job.ok("run --run runs/c --quiet --set gates.ignore_features=[\"user.is_5g\"]");

    // A vocabulary of tonight knows tonight's values: what counts is what yesterday's lacks.
    let job = yesterday().copy("gates-new-values");
    let mut sheet = users();
    (0..USERS).filter(|u| u % 4 == 0).for_each(|u| sheet.texts("city")[u] = Some(format!("c{}", u % 7)));
    write_users(&job, &sheet);
    refused_by(&job, "--update-from runs/a --no-train", &["unknown"]);
    // They are known to yesterday's run from then on, but adopted towers have no weights for them.
    job.ok("run --run runs/b --update-from runs/a --no-train --accept unknown --quiet");
    let share = |run: &str| {
        let measured = gate(&job, run, "unknown")["measured"].as_array().unwrap().clone();
        measured.iter().find(|m| m["what"] == "user.city").unwrap()["value"].as_f64().unwrap()
    };
    assert!((share("runs/b") - 0.25).abs() < 0.02, "{}", share("runs/b"));
    for run in ["runs/c", "runs/d"] {
        job.twotower(&format!("run --run {run} --update-from runs/b --no-train --accept unknown --quiet"));
        assert_eq!(share(run), share("runs/b"), "{run}");
    }

    let job = yesterday().copy("gates-missing");
    let mut sheet = users();
    (0..USERS).for_each(|u| sheet.texts("tags")[u] = None);
    write_users(&job, &sheet);
    let finished = job.twotower("run --run runs/b --quiet --accept overlap --accept metric");
    assert_eq!(finished.code, 5, "{}", finished.stderr);
    assert!(finished.stderr.contains("gate `missing`: user.tags 1, expected at most "), "{}", finished.stderr);
    assert_eq!(job.latest(), "a");
}

#[test]
fn vectors_without_a_direction_stop_the_stage_that_makes_them() {
    for (side, line, stage) in [
        (Side::User, "infer --side user", "infer user shard 0/1"),
        (Side::User, "recall --fused", "recall shard 0/1"),
        (Side::Item, "infer --side item", "infer item shard 0/1"),
    ] {
        for (engine, value, norm) in [
            ("ort", 0.0, "norm 0"),
            ("native", 0.0, "norm 0"),
            ("ort", f32::NAN, "norm NaN"),
            ("native", f32::NAN, "norm NaN"),
        ] {
            let job = yesterday().copy("gates-vectors");
            edit_tower(&job, "runs/a", side, |layers| {
                clear(layers, true);
                let last = layers.iter_mut().rev().find_map(|layer| match layer {
                    Layer::Linear { bias, .. } => Some(bias),
                    _ => None,
                });
                last.unwrap().data[0] = value;
            });
            let settings = format!("--run runs/a --set infer.engine={engine} --quiet");
            if side == Side::User {
                job.ok(&format!("infer --side item {settings}"));
            }
            let finished = job.twotower(&format!("{line} {settings}"));
            assert_eq!(finished.code, 5, "{side} {engine}: {}", finished.stderr);
            for text in [stage, "gate `vectors`: ", "s: row ", norm] {
                assert!(finished.stderr.contains(text), "{side} {engine}: expected `{text}` in {}", finished.stderr);
            }
        }
    }
}

#[test]
fn one_list_for_everybody_is_refused_for_its_coverage() {
    let job = yesterday().copy("gates-collapsed");
    edit_tower(&job, "runs/a", Side::User, |layers| clear(layers, false));
    let finished = job.twotower("run --run runs/b --update-from runs/a --no-train --quiet");
    assert_eq!(finished.code, 5, "{}", finished.stderr);
    assert!(finished.stderr.contains("gate `coverage`: share of what `a` covered 0."), "{}", finished.stderr);
    assert_eq!(job.latest(), "a");
}

#[test]
fn an_index_that_misses_neighbours_is_refused_by_name() {
    let job = yesterday().copy("gates-index");
    // In a catalogue of sixty none can be missed.
    let n = 3000;
    let many = fixture::items().take((0..n).map(|i| i % ITEMS));
    let other = (0..n as i64).map(|i| Some(900 - 11 * i)).collect();
    many.with("item_id", Column::Int(other)).write_parquet(&job.path("items.parquet"));
    let poor = "--set index.kind=hnsw --set index.m=2 --set index.ef_construction=1 --set index.ef_search=1";
    job.refused(
        &format!("run --run runs/b --quiet {poor} --set index.min_index_recall=1.0"),
        5,
        &["gate `index`: ", "recall@"],
    );
    assert_eq!(job.latest(), "a");
}

#[test]
fn a_feature_whose_own_limits_make_its_values_unknown_is_told_with_the_settings_that_mend_it() {
    let job = yesterday().copy("gates-rare");
    let mut sheet = users();
    // Every value stands in two rows.
    (0..USERS).for_each(|u| sheet.texts("city")[u] = Some(format!("c{}", u / 2)));
    write_users(&job, &sheet);
    let line = "run --run alone/a --quiet --set gates.off=[\"metric\",\"lists\",\"coverage\"]";
    let city = "{ kind = \"categorical\", name = \"city\"";
    job.edit(city, &format!("{city}, min_count = 3"));
    let rare = format!(
        "{USERS} of {USERS} values of user.city are unknown because a value is known only from `min_count` = 3"
    );
    let ignore = "gates.ignore_features = [\"user.city\"]";
    job.refused(line, 5, &["gate `unknown`: user.city 1, expected at most 0.5", &rare, "lower that", ignore]);
    assert!(gate(&job, "alone/a", "unknown")["advice"].as_str().unwrap().contains(&rare));
    job.edit("min_count = 3", "max_size = 10");
    let full = format!(
        "{} of {USERS} values of user.city are unknown because its vocabulary is full at `max_size` = 10",
        USERS - 20
    );
    job.refused(line, 5, &[&full, "raise that", ignore]);
    // Both steps that are named work.
    job.ok(&format!("{line} --set gates.ignore_features=[\"user.city\"]"));
    job.edit("max_size = 10", "max_size = 1000");
    job.ok(line);
}

#[test]
fn an_experiment_shows_what_gates_find_and_speaks_of_nothing_that_it_does_not_do() {
    let job = yesterday().copy("gates-experiment");
    write_users(&job, &users().take(0..USERS / 2));
    let line = "run --run runs/b --update-from runs/a --no-train --no-publish --quiet";
    let finished = job.twotower(line);
    assert_eq!((finished.code, job.latest()), (5, "a".into()), "{}", finished.stderr);
    for says in ["runs/b, an experiment, does not pass its gates: gate `rows`: ", "`twotower lookup runs/b`", "[gates]"]
    {
        assert!(finished.stderr.contains(says), "{says}: {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("publish") && !finished.stderr.contains("--accept"), "{}", finished.stderr);
    assert_eq!(ruling(&job, "runs/b", "rows"), "failed");
    job.ok(&format!("{line} --set gates.min_rows=0.3 --set gates.min_overlap=0"));
    assert_eq!(job.latest(), "a");
}

#[test]
fn the_operator_can_accept_a_gate_or_turn_it_off() {
    let job = yesterday().copy("gates-accept");
    write_users(&job, &users().take(0..USERS / 2));
    let line = "run --run runs/b --update-from runs/a --no-train --quiet";
    job.refused(&format!("{line} --accept overlap"), 5, &["gate `rows`"]);
    let accepted = job.ok(&format!("{line} --accept rows"));
    assert!(accepted.stderr.contains("accepted by the operator"), "{}", accepted.stderr);
    assert_eq!((job.latest(), ruling(&job, "runs/b", "rows")), ("b".into(), "accepted".into()));
    let manifest = Manifest::read(job.path("runs/b/gates/manifest.json")).unwrap();
    assert!(manifest.warnings.iter().any(|w| w.contains("`rows`")), "{:?}", manifest.warnings);
    assert_eq!(manifest.config["accepted"], serde_json::json!(["rows"]));
    job.ok("run --run runs/c --update-from runs/a --no-train --quiet --set gates.off=[\"rows\",\"metric\"]");
    assert_eq!((job.latest(), ruling(&job, "runs/c", "rows")), ("c".into(), "off".into()));

    job.refused("run --accept quality", 2, &["quality", "coverage"]);
    for (setting, says) in [
        ("gates.min_rows=1.5", "`gates.min_rows` = 1.5"),
        ("gates.max_rows=0.5", "`gates.max_rows` = 0.5"),
        ("gates.max_items=0.5", "`gates.max_items` = 0.5"),
        ("gates.drift_margin=1.5", "`gates.drift_margin` = 1.5"),
        ("gates.min_distinct=-1", "min_distinct"),
        ("gates.min_overlap=nan", "`gates.min_overlap`"),
        ("gates.off=[\"vectors\"]", "cannot be turned off"),
        ("gates.off=[\"row\"]", "did you mean `rows`?"),
        ("gates.ignore_features=[\"user.cty\"]", "did you mean `user.city`?"),
    ] {
        job.refused(&format!("run --set {setting}"), 2, &[says]);
    }
}

#[test]
fn a_run_made_in_shards_is_published_once_all_are_there_and_measures_the_same() {
    let job = yesterday().copy("gates-shards");
    job.ok("run --run runs/b --set train.seed=7 --quiet");
    let measured = |run: &str| ["coverage", "users", "overlap"].map(|name| gate(&job, run, name)["measured"].clone());
    let whole = measured("runs/b");
    for shard in 0..3 {
        let publish = job.twotower("publish --run runs/b --set train.seed=7");
        let done = shard == 0;
        // The same command again does not mend it.
        assert_eq!(publish.code, if done { 0 } else { 4 }, "{}", publish.stderr);
        assert!(done || publish.stderr.contains(&format!("recall --shard {shard}/3")), "{}", publish.stderr);
        job.ok(&format!("recall --run runs/b --shard {shard}/3 --set train.seed=7 --force --quiet"));
        // A run that changes is not complete: neither published nor checked.
        assert!(!job.path("runs/latest").exists() && !job.path("runs/b/gates/manifest.json").exists());
    }
    job.ok("publish --run runs/b --set train.seed=7");
    assert_eq!(job.latest(), "b");
    assert_eq!(measured("runs/b"), whole);
    let samples = fixture::results::files(&job.path("runs/b/samples"), "parquet");
    assert_eq!(samples.len(), 3, "samples of other numbers of shards are gone: {samples:?}");
    let users: usize = samples.iter().map(|path| fixture::results::recalled_of(path).len()).sum();
    assert_eq!(users, USERS, "a small table is its own sample");
    let first = fixture::results::recalled_of(&samples[0])[0].clone();
    assert_eq!((first.0, first.1.len()), (Value::from(user_id(0)), 10.min(ITEMS)));
}

#[test]
fn a_previous_run_that_is_damaged_does_not_cost_the_night() {
    let job = yesterday().copy("gates-damaged");
    job.write("runs/a/manifests/recall/part-00000-of-00001.json", "{");
    let finished = job.ok("run --run runs/b --set train.seed=7 --quiet");
    assert!(finished.stderr.contains("the previous run `a` is not compared with"), "{}", finished.stderr);
    assert_eq!((job.latest(), ruling(&job, "runs/b", "overlap")), ("b".into(), "not_applicable".into()));
}

#[test]
fn a_demo_too_small_to_learn_from_is_shown_all_the_same() {
    let job = Job::empty("gates-demo");
    let demo = job.ok("demo small --users 1500 --items 300 --engine native --quiet");
    assert!(demo.stdout.contains("recall@10") && job.path("small/latest").exists(), "{}", demo.stdout);
}

#[test]
fn a_run_of_which_one_stage_was_done_anew_is_not_published() {
    for (line, stage) in [
        (
            "train --run runs/a --force --set train.epochs=2 --quiet",
            "manifests/vectors/item/part-00000-of-00001.json: made from ",
        ),
        (
            "infer --side item --run runs/a --force --set infer.engine=native --quiet",
            "manifests/vectors/user/part-00000-of-00001.json: engine of user and item vectors",
        ),
    ] {
        let job = yesterday().copy("gates-stale");
        job.ok(line);
        let finished = job.twotower("publish --run runs/a --force --quiet");
        assert_eq!(finished.code, 4, "{line}: {}", finished.stderr);
        assert!(finished.stderr.contains(stage), "{}", finished.stderr);
    }
}

#[test]
fn results_that_were_damaged_since_are_not_published() {
    let job = yesterday().copy("gates-damaged");
    let path = job.path("runs/a/recall/part-00000-of-00001.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let finished = job.twotower("publish --run runs/a --quiet");
    assert_eq!(finished.code, 3, "{}", finished.stderr);
    assert!(finished.stderr.contains("part-00000-of-00001.parquet"), "{}", finished.stderr);
}
