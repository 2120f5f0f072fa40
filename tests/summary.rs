//! What a run ends with, and how commands answer: in tables that fit the screen, in JSON, and in errors.

mod fixture;

use fixture::sheet::{Column, Sheet};
use fixture::{ITEMS, Job, item_id, items};
use serde_json::Value;
use std::sync::OnceLock;

/// Titles, of which some are Chinese and one is long.
fn titled_items() -> Sheet {
    let title = |i: usize| match i % 3 {
        0 => format!("套餐 {i}"),
        1 => format!("Plan {i}"),
        _ => format!("Plan {i} with a title that is longer than what is left of a line of a terminal by far"),
    };
    items().with("name", Column::Text((0..ITEMS).map(|i| Some(title(i))).collect()))
}

/// A small job with titles and two complete runs, `a` and `b`, of which `b` is of other seeds; `latest` names `a`.
fn job() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = small("summary");
        titled_items().write_parquet(&job.path("items.parquet"));
        job.ok("run --run runs/a --accept metric --quiet");
        job.ok("run --run runs/b --accept metric --no-publish --set train.seed=7 --quiet");
        job
    })
}

/// A small job of which only the gate of the metric is asked: how like each other such models are is chance.
fn small(name: &str) -> Job {
    let job = Job::small(name);
    let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
    let off = "[\"lists\", \"coverage\", \"overlap\", \"users\", \"drift\"]";
    job.write("pipeline.toml", &format!("{text}\n[gates]\noff = {off}\n"));
    job
}

/// Columns that a line takes on the screen.
fn width(line: &str) -> usize {
    let wide = |c: char| ('\u{2e80}'..='\u{9fff}').contains(&c) || ('\u{ff00}'..='\u{ff60}').contains(&c);
    line.chars().map(|c| if wide(c) { 2 } else { 1 }).sum()
}

#[test]
fn a_run_ends_with_metrics_beside_baselines_users_with_titles_and_where_the_results_are() {
    let job = job().copy("summary-told");
    let told = job.ok("run --run runs/a --accept metric --quiet").stdout;
    let lines: Vec<&str> = told.lines().collect();
    // Commands and paths are as long as they are.
    let folder = job.path("runs").display().to_string();
    let may_wrap =
        |line: &&&str| !line.starts_with("  python3") && !line.starts_with("  twotower") && !line.contains(&folder);
    for line in lines.iter().filter(may_wrap) {
        assert!(width(line) <= 80, "{} columns: {line}", width(line));
    }
    // One line of each stage, none of which counts what is not there.
    assert!(told.contains("encode-features: ") && !told.contains(" 0 ") && !told.contains("table rows"), "{told}");
    let header = lines.iter().position(|line| line.trim_start().starts_with("recall@5 ")).unwrap();
    let names: Vec<&str> = lines[header].split_whitespace().collect();
    assert_eq!(names, ["recall@5", "ndcg@5", "hit@5", "recall@10", "ndcg@10", "hit@10"]);
    let metrics: Value =
        serde_json::from_slice(&std::fs::read(job.path("runs/a/evaluation/metrics.json")).unwrap()).unwrap();
    for (row, (said, model)) in
        [("model", "model"), ("popularity", "popularity"), ("item to item", "item_to_item")].into_iter().enumerate()
    {
        let line = lines[header + 1 + row];
        let values: Vec<String> =
            names.iter().map(|name| format!("{:.4}", metrics["models"][model][*name].as_f64().unwrap())).collect();
        assert!(line.starts_with(said), "{line}");
        assert_eq!(line[said.len()..].split_whitespace().collect::<Vec<_>>(), values, "{line}");
    }
    assert!(told.contains("Results: ") && told.contains("recall (1 file)"), "{told}");
    assert!(told.contains("pandas.read_parquet('") && told.contains("part-00000-of-00001.parquet')"), "{told}");
    assert!(told.contains("Published: ") && told.contains("  twotower lookup runs/a --user "), "{told}");

    let summary = &job.json("run --run runs/a --accept metric")["summary"];
    let users = summary["users"].as_array().unwrap();
    assert_eq!((users.len(), summary["files"].as_u64()), (5, Some(1)));
    for user in users {
        assert!(user["events"].as_u64() > Some(0) && told.contains(&format!("user {} (", user["user"])), "{user}");
        for item in user["items"].as_array().unwrap().iter().chain(user["history"].as_array().unwrap()) {
            let row = (0..ITEMS).find(|row| item["item"] == item_id(*row)).unwrap();
            let title = item["title"].as_str().unwrap();
            assert!(title.split(' ').nth(1) == Some(&*row.to_string()), "{item}: row {row}");
            let shown: String = title.chars().take(12).collect();
            assert!(told.contains(&shown), "`{shown}` in {told}");
        }
    }
    assert!(told.contains("…"), "long titles are cut: {told}");
}

#[test]
fn a_baseline_that_is_better_is_told_with_settings_to_try() {
    let job = job().copy("summary-baselines");
    // By hand, since which one wins on so little data is chance.
    let spoil = |better: bool| {
        job.change("runs/a/evaluation/metrics.json", |metrics| {
            for (model, values) in metrics["models"].as_object_mut().unwrap() {
                let value = if model == "model" {
                    0.5
                } else if better && model == "item_to_item" {
                    0.75
                } else {
                    0.25
                };
                for (name, v) in values.as_object_mut().unwrap() {
                    *v = if name.ends_with("@10") { value.into() } else { 0.5.into() };
                }
            }
        });
        // The stage's manifest must name the changed file.
        let bytes = std::fs::read(job.path("runs/a/evaluation/metrics.json")).unwrap();
        let entry = twotower_artifacts::FileEntry::of_file(&job.path("runs/a/evaluation"), "metrics.json", 3).unwrap();
        job.change("runs/a/evaluation/manifest.json", |manifest| {
            manifest["files"][0]["blake3"] = entry.blake3.clone().into();
            manifest["files"][0]["bytes"] = (bytes.len() as u64).into();
        });
        job.twotower("run --run runs/a --quiet --accept metric")
    };
    let told = spoil(true).stdout;
    assert!(told.contains("Warning: item to item is better than the model at recall@10, ndcg@10, hit@10."), "{told}");
    for setting in ["--set 'model.hidden=[64]'", "--set train.learning_rate=", "--no-publish"] {
        assert!(told.contains(setting), "{setting}: {told}");
    }
    // What is to be copied has lines of its own, of which no one ends within a setting.
    for line in told.lines().filter(|line| line.contains("--set")) {
        assert!(
            line.trim_start().starts_with("--set ") && !line.trim_end_matches('\\').trim_end().ends_with("--set"),
            "{line}"
        );
    }
    // The job has a sequence and an id already.
    assert!(!told.contains("kind = \"sequence\"") && !told.contains("kind = \"id\""), "{told}");
    let told = spoil(false).stdout;
    assert!(told.contains("recall@10") && !told.contains("Warning") && !told.contains("model.hidden"), "{told}");
}

#[test]
fn what_a_gate_refuses_is_shown_and_told_in_json_with_the_error() {
    let job = job().copy("summary-refused");
    let line = "run --run runs/c --set gates.min_metric_of_popularity=1000000";
    let done = job.twotower(&format!("{line} --json --quiet"));
    assert_eq!(done.code, 5, "{}", done.stderr);
    let object: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&object["exit_code"], &object["published"]), (&5.into(), &false.into()));
    assert!(object["error"].as_str().unwrap().contains("gate `metric`"), "{object}");
    assert!(object["summary"]["metrics"]["models"]["model"]["recall@5"].is_f64(), "{object}");
    assert_eq!(object["stages"].as_array().unwrap().len(), 6, "{object}");
    assert_eq!(job.latest(), "a");
    let done = job.twotower(&format!("{line} --quiet"));
    assert!(done.code == 5 && done.stdout.contains("popularity") && !done.stdout.contains("Published"), "{done:?}");
    // Any command that fails says so in JSON, and its last line of the log is JSON where the others are.
    let done = job.twotower("train --run nowhere --json --log-format json");
    let object: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((done.code, &object["exit_code"]), (1, &1.into()));
    assert!(object["error"].as_str().unwrap().contains("encode-features"), "{object}");
    let last: Value = serde_json::from_str(done.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["fields"]["exit_code"]), (&"ERROR".into(), &1.into()), "{last}");
    assert_eq!(last["fields"]["message"], object["error"]);
}

#[test]
fn an_experiment_leaves_latest_as_it_is_and_a_stage_by_hand_says_first_that_it_is_withdrawn() {
    let job = job().copy("summary-experiment");
    assert_eq!(job.latest(), "a");
    let again = job.ok("run --run runs/b --accept metric --no-publish --set train.seed=7 --quiet").stdout;
    assert!(again.contains("Not published") && !again.contains("Published: "), "{again}");
    assert_eq!(job.latest(), "a");
    let refused = ["--no-publish", "runs/latest", "another folder"];
    job.refused("run --run runs/a --accept metric --no-publish --force --quiet", 2, &refused);
    assert_eq!(job.latest(), "a");

    // Nothing goes back to it, or on from it, unless it is named; and once it is published it is no experiment.
    let experiment = |run: &str| {
        let runs = job.json("runs list runs");
        runs["runs"].as_array().unwrap().iter().find(|r| r["name"] == run).unwrap()["experiment"] == true
    };
    assert!(experiment("b") && !experiment("a") && job.ok("runs list runs").stdout.contains("experiment"));
    job.ok("run --run runs/c --accept metric --set train.seed=8 --quiet");
    job.ok("rollback --quiet");
    assert_eq!(job.latest(), "a");
    let from = job.json("run --run runs/d --update-from previous --accept metric --no-publish")["updated_from"].clone();
    assert!(from.as_str().unwrap().ends_with("runs/a"), "{from}");
    job.ok("publish --run runs/b --accept metric --set train.seed=7 --quiet");
    assert!(!experiment("b") && job.latest() == "b");
    job.ok("rollback --to a --quiet");

    for stage in ["encode-features", "train", "infer --side item", "recall"] {
        let done = job.ok(&format!("{stage} --run runs/a"));
        let first = done.stderr.lines().next().unwrap();
        assert!(
            first.contains("runs/latest names this run") && first.contains("withdrawn"),
            "{stage}: {}",
            done.stderr
        );
        // Nothing was to do.
        assert_eq!(job.latest(), "a", "{stage}");
        assert!(!job.ok(&format!("{stage} --run runs/b --set train.seed=7")).stderr.contains("withdrawn"), "{stage}");
    }
    job.ok("recall --run runs/a --topk 3 --quiet");
    assert!(!job.path("runs/latest").exists());
}

#[test]
fn the_previous_run_is_the_last_that_passed_and_the_first_night_starts_afresh() {
    let job = small("summary-previous");
    let night = |run: &str, more: &str| {
        let done = job.ok(&format!("run --run nights/{run} --update-from previous --accept metric {more}"));
        let said = done.stderr.lines().find(|line| line.contains("starts")).unwrap_or_default().to_string();
        (said, done.stdout)
    };
    let trained_from = |run: &str| {
        let manifest =
            twotower_artifacts::Manifest::read(job.path(&format!("nights/{run}/towers/manifest.json"))).unwrap();
        manifest.inputs.contains_key("previous towers")
    };
    let (said, _) = night("1", "--no-train");
    assert!(said.contains("starts afresh"), "{said}");
    let (said, _) = night("2", "");
    assert!(said.contains("nights/1, the last run that passed"), "{said}");
    assert_ne!(trained_from("1"), trained_from("2"));
    // The same date again starts where it started, and there is nothing to do.
    for run in ["2", "1"] {
        let (said, told) = night(run, "");
        assert!(said.contains(if run == "1" { "afresh" } else { "nights/1," }), "{run}: {said}");
        // Gates compare with the run that `latest` names by now.
        let done = told.lines().filter(|line| !line.starts_with("check: ")).collect::<Vec<_>>().join(" ");
        assert_eq!(done.matches("current, skipped").count(), 6, "{run}: {told}");
    }
    // One that was refused is none to go on from.
    job.refused(
        "run --run nights/3 --update-from previous --set gates.min_metric_of_popularity=1000000 --quiet",
        5,
        &["metric"],
    );
    let (said, _) = night("4", "");
    assert!(said.contains(&format!("nights/{},", 1)) || said.contains("nights/2,"), "{said}");
}

#[test]
fn a_run_of_other_features_or_another_shape_says_how_each_command_starts_afresh() {
    let job = job().copy("summary-switched");
    let night = "run --run runs/c --accept metric --no-publish --quiet";
    // The same features with another shape, then other features.
    let shape = "--set model.hidden=[12,12]";
    job.refused(
        &format!("{night} {shape} --update-from previous"),
        4,
        &["another shape", "`run` without --update-from", "`train` without --from"],
    );
    job.ok(&format!("{night} {shape}"));
    job.edit("{ kind = \"boolean\", name = \"is_5g\" },", "");
    job.refused(
        &format!("{night} --update-from previous"),
        4,
        &["user feature `age` stands where", "`run` without --update-from", "`encode-features` without --update"],
    );
    job.ok(night);
}

#[test]
fn a_run_folder_that_cannot_be_is_told_with_the_next_step() {
    let job = Job::small("summary-folder");
    job.write("file", "mine");
    for command in ["run", "encode-features", "train"] {
        job.refused(&format!("{command} --run file"), 2, &["--run file: it is a file", "name another one"]);
    }
    job.refused(
        "run --run file/a",
        1,
        &["create folder file: ", "give --run a folder that this user can make and write to"],
    );
    job.refused("run --run /proc/a", 1, &["/proc/a", "give --run a folder that this user can make and write to"]);
}

#[test]
fn training_ends_with_the_epoch_that_was_kept_and_why_it_stopped() {
    let job = small("summary-kept");
    let stopping = "--set train.epochs=40 --set train.patience=2 --set train.learning_rate=0.05";
    let done = job.ok(&format!("run --run runs/a --accept metric {stopping}"));
    let report: Value =
        serde_json::from_slice(&std::fs::read(job.path("runs/a/towers/training.json")).unwrap()).unwrap();
    let (best, epochs) = (report["best_epoch"].as_u64().unwrap(), report["epochs"].as_array().unwrap());
    assert!(epochs.len() < 40 && epochs.len() as u64 == best + 2, "{report}");
    let value = epochs[best as usize - 1]["validation"]["values"]["recall@10"].as_f64().unwrap();
    let told = format!("train: kept epoch {best} of {} (validation recall@10 {value:.4}); stopped", epochs.len());
    assert!(done.stderr.contains(&told) && done.stderr.contains("2 epochs brought nothing better"), "{}", done.stderr);
    // In one line of the stage, wherever that breaks.
    let words = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&format!("epoch {best} of {} kept", epochs.len())), "{}", done.stdout);
}

#[test]
fn runs_are_compared_by_their_folders_the_model_first_and_cut_offs_in_order() {
    let job = job().copy("summary-compare");
    let rows = |line: &str| -> Vec<String> {
        let told = job.ok(line).stdout;
        told.lines().filter(|line| line.contains('@')).map(|line| line.to_string()).collect()
    };
    let told = rows("evaluate --compare runs/a runs/b");
    assert_eq!(told, rows("evaluate --compare runs/a/evaluation/metrics.json runs/latest/../b"));
    assert!(told[0].starts_with("model recall@5 ") && told[7].starts_with("model recall@10 "), "{told:?}");
    assert!(told[14].starts_with("popularity recall@5 ") && told[28].starts_with("item to item recall@5 "), "{told:?}");
    let compared = job.json("evaluate --compare runs/a runs/b");
    let first = &compared["metrics"][0];
    assert_eq!((&first["model"], &first["metric"]), (&"model".into(), &"recall@5".into()));
}

#[test]
fn several_runs_stand_side_by_side_in_every_form_and_in_a_picture() {
    let job = job().copy("summary-side-by-side");
    let told = job.ok("compare runs/a runs/b").stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines.iter().all(|line| width(line) <= 80), "{told}");
    let header = lines.iter().position(|line| line.trim_start().starts_with("recall@5 ")).unwrap();
    let metrics = |run: &str| -> Value {
        serde_json::from_slice(&std::fs::read(job.path(&format!("runs/{run}/evaluation/metrics.json"))).unwrap())
            .unwrap()
    };
    let (a, b) = (metrics("a"), metrics("b"));
    let value = |metrics: &Value, model: &str| metrics["models"][model]["recall@5"].as_f64().unwrap();
    // A run each, and the baselines, which are the same, once.
    let expected = [
        ("a", value(&a, "model")),
        ("b", value(&b, "model")),
        ("popularity", value(&a, "popularity")),
        ("item to item", value(&a, "item_to_item")),
        ("item CF", value(&a, "item_cf")),
        ("EASE", value(&a, "ease")),
    ];
    for (line, (name, value)) in lines[header + 1..].iter().zip(expected) {
        let rest = line.strip_prefix(name).unwrap_or_else(|| panic!("{line}: expected {name}"));
        assert_eq!(rest.split_whitespace().next().unwrap(), format!("{value:.4}"), "{line}");
    }
    let difference = format!("{:+.4}", value(&b, "model") - value(&a, "model"));
    let last = lines.last().unwrap();
    assert!(last.starts_with("b ") && last.split_whitespace().nth(1) == Some(&difference), "{told}");

    let only = job.ok("compare runs/a runs/b --metric ndcg@10 --markdown").stdout;
    assert!(only.starts_with("|  | ndcg@10 |\n| --- | ---: |\n| a | 0."), "{only}");
    assert_eq!(only.lines().count(), 8);
    let csv = job.ok("compare runs/a runs/latest/../b --csv --metric recall@5").stdout;
    let expected = format!("run,model,metric,value\na,model,recall@5,{}\n", value(&a, "model"));
    assert!(csv.starts_with(&expected) && csv.contains("\n,ease,recall@5,"), "{csv}");
    let object = job.json("compare runs/a runs/b --metric recall@5 --svg plots/recall.svg");
    assert_eq!(object["runs"][1]["models"]["model"].as_object().unwrap().len(), 1);
    assert_eq!(object["runs"][1]["models"]["model"]["recall@5"], b["models"]["model"]["recall@5"]);
    let picture = std::fs::read_to_string(job.path("plots/recall.svg")).unwrap();
    assert!(picture.trim_start().starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{picture}");
    assert!(picture.contains("recall@k") && picture.contains("EASE"), "{picture}");

    job.refused("compare runs/a runs/b --metric auc@5", 2, &["--metric auc@5", "recall@5"]);
    job.refused("compare runs/a runs/gone", 1, &["runs/gone", "twotower run"]);
    job.change("runs/b/evaluation/metrics.json", |metrics| metrics["protocol"] = "another".into());
    job.refused("compare runs/a runs/b --svg none.svg", 4, &["protocols differ", "another"]);
    assert!(!job.path("none.svg").exists());
}

#[test]
fn baselines_are_those_that_the_job_asks_for_and_what_is_left_out_is_told() {
    let job = job().copy("summary-left-out");
    let set = "--set evaluate.ease_max_items=3 --set evaluate.baselines=[\"item_cf\",\"ease\"]";
    let told = job.ok(&format!("evaluate --run runs/a {set}")).stdout;
    let metrics: Value =
        serde_json::from_slice(&std::fs::read(job.path("runs/a/evaluation/metrics.json")).unwrap()).unwrap();
    let models: Vec<&String> = metrics["models"].as_object().unwrap().keys().collect();
    assert_eq!(models, ["item_cf", "model"]);
    let reason = metrics["left_out"]["ease"].as_str().unwrap();
    assert!(reason.contains("`evaluate.ease_max_items` = 3"), "{reason}");
    let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&format!("EASE is left out: {reason}")) && !words.contains("popularity "), "{told}");
}

#[test]
fn errors_of_settings_name_the_flag_or_the_line() {
    let job = job().copy("summary-settings");
    job.refused(
        "train --set train.epochs=many",
        2,
        &["error: --set train.epochs=many: expected a whole number, found the text"],
    );
    job.refused("train --epochs 0", 2, &["error: --epochs 0: `train.epochs` = 0: expected"]);
    job.refused("run --engine quick", 2, &["--engine", "quick"]);
    job.edit("epochs = 1", "epochs = \"one\"");
    let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
    let line = text.lines().position(|line| line.starts_with("epochs")).unwrap() + 1;
    job.refused("train --set recall.topk=3", 2, &["pipeline.toml", &format!("line {line}"), "expected a whole number"]);
}

#[test]
fn the_manual_has_a_page_for_the_program_and_for_each_command() {
    let job = Job::empty("summary-man");
    let page = job.ok("man").stdout;
    assert!(
        page.contains(".TH twotower 1") && page.contains("lookup") && page.contains("EXIT") | page.contains("Exit"),
        "{page}"
    );
    std::fs::create_dir(job.path("man1")).unwrap();
    job.ok("man --output man1");
    for command in ["twotower.1", "twotower-run.1", "twotower-lookup.1"] {
        assert!(std::fs::read_to_string(job.path("man1").join(command)).unwrap().contains(".SH OPTIONS"), "{command}");
    }
    assert!(!job.ok("--help").stdout.contains("manual page"), "hidden");
}
