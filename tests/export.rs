//! Towers of `twotower export` take raw rows, and give the vectors of `twotower infer`: in Python's onnxruntime, for every
//! kind of feature, on hostile values.

mod fixture;

use fixture::Job;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// An interpreter with numpy, pyarrow and onnxruntime; none where its packages cannot be had.
fn python() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python_env.sh");
        let output = Command::new("bash").arg(script).output().ok()?;
        let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        (output.status.success() && path.is_file()).then_some(path)
    });
    if found.is_none() {
        fixture::not_tested("scripts/python_env.sh gives no interpreter");
    }
    found.as_ref()
}

/// Runs the script beside the tests.
fn script(python: &Path, arguments: &[&Path]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raw_towers/raw_towers.py");
    let output = Command::new(python).arg(file).args(arguments).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    eprintln!("{told}");
}

/// Every kind of user feature that has a form, on columns of the types that have one.
const USER_FEATURES: &str = r#"
    { kind = "categorical", name = "text", min_count = 2, max_size = 30 },
    { kind = "categorical", name = "words" },
    { kind = "categorical", name = "whole", min_count = 3 },
    { kind = "categorical", name = "double", min_count = 2 },
    { kind = "categorical", name = "single" },
    { kind = "categorical", name = "truth" },
    { kind = "categorical", name = "short", table = "numbers" },
    { kind = "categorical", name = "float_among_integers", column = "double", table = "numbers" },
    { kind = "id", name = "id", max_size = 5000 },
    { kind = "boolean", name = "flag" },
    { kind = "boolean", name = "own_flag", column = "flag", true_values = ["STRASSE", "Straße", "İs"], false_values = ["KELVIN", "ΣΑΣ", "no"], missing_values = ["", " 2 "] },
    { kind = "boolean", name = "flag_number", missing_values = ["", "-1"] },
    { kind = "boolean", name = "flag_float" },
    { kind = "boolean", name = "flag_truth", column = "truth" },
    { kind = "hashed", name = "hashed", column = "whole", buckets = 1000, seed = 7 },
    { kind = "hashed", name = "hashed_short", column = "short", buckets = 3 },
    { kind = "hashed", name = "hashed_truth", column = "truth", buckets = 50 },
    { kind = "numeric", name = "n_double", column = "double" },
    { kind = "numeric", name = "n_log", column = "double", transform = "log1p" },
    { kind = "numeric", name = "n_range", column = "short", transform = "min_max" },
    { kind = "numeric", name = "n_whole", column = "whole", transform = "log1p" },
    { kind = "numeric", name = "n_single", column = "single" },
    { kind = "numeric", name = "n_truth", column = "truth" },
    { kind = "numeric", name = "n_buckets", column = "double", transform = "quantile_buckets", buckets = 300 },
    { kind = "numeric", name = "n_few", column = "short", transform = "quantile_buckets", buckets = 4 },
    { kind = "date", name = "date" },
    { kind = "date", name = "weekday", column = "date", part = "weekday" },
    { kind = "date", name = "month", column = "date", part = "month" },
    { kind = "date", name = "date_ms", part = "month" },
    { kind = "date", name = "moment" },
    { kind = "date", name = "moment_ms", part = "weekday" },
    { kind = "date", name = "seconds", unit = "second" },
    { kind = "date", name = "milliseconds", unit = "millisecond", part = "month" },
    { kind = "date", name = "digits" },
    { kind = "multi_valued", name = "list", max_len = 3, min_count = 2 },
    { kind = "multi_valued", name = "list_whole", max_len = 4 },
    { kind = "multi_valued", name = "list_double" },
    { kind = "multi_valued", name = "list_truth" },
    { kind = "multi_valued", name = "joined", separator = "|", max_len = 3 },
    { kind = "multi_valued", name = "colons", separator = "::", min_count = 3 },
    { kind = "multi_valued", name = "spaced", separator = " " },
    { kind = "vector", name = "vector", dim = 4 },
    { kind = "vector", name = "vector_wide", dim = 3, normalise = true },
"#;

const ITEM_FEATURES: &str = r#"
    { kind = "id", name = "item" },
    { kind = "categorical", name = "brand" },
    { kind = "numeric", name = "price", transform = "log1p" },
    { kind = "multi_valued", name = "genres", separator = "|" },
    { kind = "vector", name = "picture", dim = 5, file = "PICTURES" },
"#;

/// A job on tables whose item ids are `ids`: text or whole.
fn job(name: &str, tables: &Path, ids: &str, features: (&str, &str), settings: &str) -> Job {
    let job = Job::empty(name);
    for file in std::fs::read_dir(tables).unwrap() {
        let file = file.unwrap();
        std::fs::hard_link(file.path(), job.path(&file.file_name().to_string_lossy())).unwrap();
    }
    let items = features.1.replace("PICTURES", &format!("pictures_{ids}.parquet"));
    job.write(
        "pipeline.toml",
        &format!(
            r#"[tables.users]
path = "users.parquet"
id = "user"
[tables.items]
path = "items_{ids}.parquet"
id = "item"
[tables.interactions]
path = "events_{ids}.parquet"
user = "user"
item = "item"
timestamp = "time"
[features]
user = [{}]
item = [{items}]
[encode]
max_unreadable = 1
[train]
epochs = 1
{settings}
"#,
            features.0
        ),
    );
    for stage in ["encode-features", "train", "infer --side user", "infer --side item"] {
        job.ok(&format!("{stage} --run run --quiet"));
    }
    job
}

fn tables(python: &Path, name: &str) -> PathBuf {
    let folder = Job::empty(name).dir;
    script(python, &[Path::new("make"), &folder]);
    folder
}

/// Exports the towers of a job, and compares what they give for its raw rows with the vectors of its run.
fn agrees(python: &Path, job: &Job, options: &str) {
    job.ok(&format!("export --run run --output raw --quiet {options}"));
    script(python, &[Path::new("check"), &job.dir, &job.path("run"), &job.path("raw")]);
}

#[test]
fn raw_rows_of_every_kind_of_feature_have_the_vectors_of_infer_in_python() {
    let Some(python) = python() else { return };
    let tables = tables(python, "export-tables");
    let users = format!("{USER_FEATURES} {{ kind = \"sequence\", name = \"recent\", max_len = 4 }},");
    let mean = job("export-all", &tables, "text", (&users, ITEM_FEATURES), "[model]\nkind = \"dssm\"");
    agrees(python, &mean, "");
    // Where a form is missing, the feature is named, and nothing is written or taken away.
    let before = std::fs::read(mean.path("raw/inputs.json")).unwrap();
    let more = r#"{ kind = "hashed", name = "code", column = "text", buckets = 9 },
        { kind = "numeric", name = "amount", column = "number_text" },
        { kind = "date", name = "since", column = "date_text" },
        { kind = "date", name = "since_month", column = "date_text", part = "month" },
        { kind = "date", name = "written", column = "digits", format = "%Y%m%d" },
        { kind = "boolean", name = "strict", column = "flag", missing_values = ["none"] },
        { kind = "categorical", name = "city", column = "text" },"#;
    let odd = job("export-odd", &tables, "text", (more, ITEM_FEATURES), "[model]\nkind = \"dssm\"");
    let named = [
        "user feature `code` (hashed)",
        "`amount` (numeric)",
        "`since` (date)",
        "`written` (date)",
        "`strict` (boolean)",
        "--encoded NAME",
        "--side item",
    ];
    odd.refused("export --run run --output raw", 2, &named);
    assert!(!odd.path("raw/user_tower.onnx").exists() && !odd.path("raw/inputs.json").exists());
    odd.refused("export --run run --output raw --typed", 2, &["`code` (hashed)", "`strict` (boolean)"]);
    odd.refused("export --run run --output raw --encoded nobody", 2, &["--encoded nobody"]);
    odd.refused("export --run run --output run/raw", 2, &["it lies in the run"]);
    odd.ok("export --run run --output raw --typed --encoded code --encoded strict --quiet");
    let described: serde_json::Value =
        serde_json::from_slice(&std::fs::read(odd.path("raw/inputs.json")).unwrap()).unwrap();
    let inputs = described["towers"]["user"]["inputs"].as_array().unwrap();
    let encoded: Vec<&str> =
        inputs.iter().filter(|input| input["encoded"] == true).filter_map(|input| input["name"].as_str()).collect();
    assert_eq!(encoded, ["code", "strict"]);
    odd.ok("export --run run --output raw --side item --quiet");
    assert!(odd.path("raw/item_tower.onnx").exists() && !odd.path("raw/user_tower.onnx").exists());
    assert_eq!(std::fs::read(mean.path("raw/inputs.json")).unwrap(), before);
    // Typed inputs are numbers and days.
    let unread = ["hashed", "strict", "written"];
    let typed: String = more.lines().filter(|line| !unread.iter().any(|name| line.contains(name))).collect();
    let typed = job("export-typed", &tables, "text", (&typed, ITEM_FEATURES), "[model]\nkind = \"dssm\"");
    agrees(python, &typed, "--typed");
}

#[test]
fn every_model_that_reads_histories_has_a_raw_form() {
    let Some(python) = python() else { return };
    let tables = tables(python, "export-model-tables");
    let user = |sequence: &str| format!("{{ kind = \"sequence\", name = \"recent\", {sequence} }},");
    let item = "{ kind = \"id\", name = \"item\" },";
    let city = "{ kind = \"categorical\", name = \"words\" },";
    let attention = "[model]\nkind = \"dssm\"\npooling = \"attention\"\nembedding_dim = 8\nhidden = [16, 8]";
    let hourly = city.to_string() + &user("max_len = 5, intervals = \"hour\", span = 40");
    agrees(python, &job("export-attention", &tables, "whole", (&hourly, item), attention), "");
    let position = attention.replace("attention", "position");
    agrees(python, &job("export-position", &tables, "whole", (&user("max_len = 6"), item), &position), "");
    let sasrec = "[model]\nkind = \"sasrec\"\ndim = 8\nblocks = 1";
    agrees(python, &job("export-sasrec", &tables, "text", (&user("max_len = 4"), item), sasrec), "");
    let graph = "loss = { bpr = { negatives = 1 } }\n[model]\nkind = \"lightgcn\"\ndim = 8\nlayers = 2";
    let known = "{ kind = \"id\", name = \"user\" },".to_string() + &user("max_len = 7");
    agrees(python, &job("export-lightgcn", &tables, "text", (&known, item), graph), "");
    let tisasrec = "[model]\nkind = \"tisasrec\"\ndim = 8\nblocks = 2";
    let personal = user("max_len = 5, intervals = \"personal\", span = 30");
    agrees(python, &job("export-tisasrec", &tables, "whole", (&personal, item), tisasrec), "");
}
