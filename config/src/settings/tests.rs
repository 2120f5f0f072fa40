//! Every setting of a job is changed in turn, and the stages whose keys then differ are those that it may matter to.

use super::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A job in which every setting is given.
const JOB: &str = r#"
[tables]
fingerprint = "content"
[tables.users]
id = "user_id"
path = "users.csv"
format = "csv"
delimiter = ";"
encoding = "utf-8"
header = false
columns = ["user_id", "city"]
quote = "'"
null_values = ["-"]
[tables.items]
id = "item_id"
title = "title"
path = "items.csv"
format = "csv"
delimiter = ";"
encoding = "utf-8"
header = false
columns = ["item_id"]
quote = "'"
null_values = ["-"]
[tables.interactions]
user = "user_id"
item = "item_id"
timestamp = "ts"
timestamp_format = "%d/%m/%Y"
timestamp_unit = "second"
earliest = 1
latest = 9
weight = "weight"
path = "interactions.csv"
format = "csv"
delimiter = ";"
encoding = "utf-8"
header = false
columns = ["user_id"]
quote = "'"
null_values = ["-"]
[features]
user = [
    { kind = "categorical", name = "a", column = "a", min_count = 2, max_size = 9, table = "a" },
    { kind = "boolean", name = "b", column = "b", true_values = ["1"], false_values = ["0"], missing_values = [""] },
    { kind = "numeric", name = "c", column = "c", transform = "quantile_buckets", buckets = 7, decimal = "," },
    { kind = "date", name = "i", column = "i", part = "weekday", format = "%d/%m/%Y", unit = "second" },
    { kind = "multi_valued", name = "d", column = "d", separator = "|", max_len = 3, min_count = 2, max_size = 9, table = "d" },
    { kind = "hashed", name = "e", column = "e", buckets = 32, seed = 4 },
    { kind = "vector", name = "f", column = "f", dim = 4, normalise = true, file = "f.parquet", file_id = "id" },
    { kind = "sequence", name = "g", max_len = 3, table = "item_id", intervals = "hour", span = 100 },
]
item = [{ kind = "id", name = "h", min_count = 1, max_size = 9, table = "item_id" }]
[model]
kind = "dssm"
layer_norm = true
embedding_dims = { a = 4 }
pooling = "attention"
[model.attention]
blocks = 2
heads = 1
norm = "pre"
block = "ligr"
feed_forward_multiple = 4
dropout = 0.2
hyper_connections = { streams = 4, sinkhorn_rounds = 20, gate = 0.01, lite = false }
[train]
mask_accidental_hits = true
[split]
kind = "time"
validation_from = 5
test_from = 6
[index]
ef_search = 64
[store]
endpoint = "https://store"
region = "eu"
virtual_hosted_style = true
[recall.allow]
item = "item_id"
path = "allow.csv"
format = "csv"
delimiter = ";"
columns = ["item_id"]
quote = "'"
null_values = ["-"]
[recall.deny]
item = "item_id"
path = "deny.csv"
format = "csv"
delimiter = ";"
columns = ["item_id"]
quote = "'"
null_values = ["-"]
[recall.exclusions]
user = "user_id"
item = "item_id"
path = "exclusions.csv"
format = "csv"
delimiter = ";"
columns = ["item_id"]
quote = "'"
null_values = ["-"]
"#;

/// Settings, and the stages that obey them: E encode-features, T train, A train with adopted towers, I infer of items,
/// U infer of users, X an exact index, G a graph, R recall, F recall with users embedded on the way, V evaluate, C check.
///
/// A setting that no stage obeys changes no complete output; [`Execution`] says why. The path of a table matters only
/// by what lies there, whose fingerprint is among the inputs of every stage that reads it.
const OBEYED: &[(&str, &str, &str)] = &[
    // By way of fingerprints, it matters to all that read a table.
    ("tables", "E", "fingerprint"),
    ("tables.users", "EAUGRF", "id format delimiter encoding header columns quote null_values"),
    ("tables.items", "EAI", "id format delimiter encoding header columns quote null_values"),
    // Its manifest names it, so that a run can be looked into without the job.
    ("tables.items", "E", "title"),
    ("tables.interactions", "EGRF", "user item timestamp timestamp_format timestamp_unit earliest latest"),
    ("tables.interactions", "EGRF", "format delimiter encoding header columns quote null_values"),
    ("tables.interactions", "EGRF", "weight"),
    ("tables.users", "E", "path"),
    ("tables.items", "E", "path"),
    ("tables.interactions", "E", "path"),
    ("features.user.categorical", "EAUGRFC", "name column min_count max_size table"),
    ("features.user.boolean", "EAUGRFC", "name column true_values false_values missing_values"),
    ("features.user.numeric", "EAUGRFC", "name column transform buckets decimal"),
    ("features.user.date", "EAUGRFC", "name column part format unit"),
    ("features.user.multi_valued", "EAUGRFC", "name column separator max_len min_count max_size table"),
    ("features.user.hashed", "EAUGRFC", "name column buckets seed"),
    ("features.user.vector", "EAUGRFC", "name column dim normalise file file_id"),
    ("features.user.sequence", "EAUGRFC", "name max_len table intervals span"),
    ("features.item.id", "EAIC", "name min_count max_size table"),
    ("encode", "E", "all_users"),
    ("encode", "", "max_bad_rows max_unreadable"),
    ("split", "TV", "validation_from test_from validation test train_on_validation"),
    ("model", "T", "embedding_dim hidden activation layer_norm pooling temperature learn_temperature dropout"),
    ("model.embedding_dims", "T", "a"),
    ("model.attention", "T", "blocks heads norm block feed_forward_multiple dropout"),
    ("model.attention.hyper_connections", "T", "streams sinkhorn_rounds gate lite"),
    ("train", "T", "epochs batch_size seed loss logq_correction mask_accidental_hits learning_rate weight_decay"),
    ("train", "T", "embedding_weight_decay beta1 beta2 eps warmup_steps schedule min_learning_rate clip_norm"),
    ("train", "T", "unknown_rate missing_rate metric patience min_epochs validation_events checkpoint_steps"),
    ("train", "", "threads"),
    ("infer", "TAIUGFV", "engine"),
    ("infer", "IU", "precision"),
    ("infer", "IURF", "compression"),
    ("infer", "URF", "row_hashes"),
    ("infer", "", "batch_rows workers"),
    ("index", "XGRFC", "kind auto_threshold m ef_construction ef_search target_recall min_index_recall"),
    ("index", "XGRFC", "sample_queries parallel_build seed"),
    ("recall", "GRF", "topk exclude_seen"),
    ("recall", "RF", "format"),
    // The other one is fused already.
    ("recall", "R", "fused"),
    ("recall.allow", "GRF", "item path format delimiter encoding header columns quote null_values"),
    ("recall.deny", "GRF", "item path format delimiter encoding header columns quote null_values"),
    ("recall.exclusions", "GRF", "user item path format delimiter encoding header columns quote null_values"),
    ("run", "", "part_users"),
    ("store", "", "endpoint region virtual_hosted_style conditional_put allow_http unsigned"),
    ("store", "", "retries timeout_seconds read_ahead_mib upload_mib"),
    ("evaluate", "VC", "k ranking max_users seed baselines item_cf_neighbours ease_lambda ease_max_items"),
    ("gates", "C", "off min_rows max_rows max_unknown unknown_margin missing_margin ignore_features min_coverage"),
    ("gates", "C", "min_items max_items min_matched strangers_margin min_history min_pairs_kept max_still_days"),
    ("gates", "C", "min_exclusions drift_margin min_distinct min_distinct_kept max_alike min_filled"),
    ("gates", "C", "min_coverage_kept min_shared_users min_overlap min_metric_kept min_metric_of_popularity"),
];

/// What a setting is changed to, where its value is one of a few.
fn other(name: &str) -> Option<Value> {
    Some(match name.rsplit('.').next()? {
        "format" if name == "recall.format" => json!("jsonl"),
        "format" if name.starts_with("features.") => json!("%m/%d/%Y"),
        "format" => json!("tsv"),
        "fingerprint" => json!("quick"),
        "encoding" => json!("gbk"),
        "decimal" => json!("."),
        "part" => json!("month"),
        "unit" => json!("millisecond"),
        "transform" => json!("standardise"),
        "engine" => json!("native-int16"),
        "precision" => json!("f16"),
        "compression" => json!("zstd"),
        "activation" => json!("relu"),
        "pooling" => json!("position"),
        "norm" => json!("paper"),
        "block" => json!("transformer"),
        "intervals" => json!("personal"),
        "similarity" if name.starts_with("model.contrast.") => json!("dot"),
        "similarity" => json!("cosine"),
        "representation" => json!("mean"),
        "init" => json!("normal"),
        "penalty_form" => json!("norms"),
        "sampling" => json!("users"),
        "mode" => json!("frozen"),
        "logit" => json!("log"),
        "loss" => json!("full_softmax"),
        "schedule" => json!("constant"),
        "metric" => json!("ndcg@10"),
        "ranking" => json!("sampled"),
        "baselines" => json!(["ease"]),
        "kind" if name == "index.kind" => json!("exact"),
        "timestamp_unit" => json!("millisecond"),
        "conditional_put" => json!("disabled"),
        "off" => json!(["rows"]),
        "ignore_features" => json!(["user.a"]),
        _ => return None,
    })
}

/// The job with its defaults.
fn load() -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipeline.toml");
    std::fs::write(&path, JOB).unwrap();
    serde_json::to_value(Config::load(&path, &[]).unwrap()).unwrap()
}

/// A value of the same type.
fn changed(name: &str, value: &Value) -> Value {
    match (other(name), value) {
        (Some(other), _) => other,
        (None, Value::Bool(value)) => json!(!value),
        (None, Value::String(text)) => json!(format!("{text}x")),
        (None, Value::Number(n)) if n.is_f64() => json!(n.as_f64().unwrap() / 2.0 + 0.125),
        (None, Value::Number(n)) => json!(n.as_i64().unwrap() + 1),
        (None, Value::Array(values)) => json!([&values[..], &values[..1]].concat()),
        (None, other) => panic!("`{name}` is {other}: give it in JOB"),
    }
}

/// What each stage obeys of a job.
fn views(job: &Value) -> BTreeMap<char, Value> {
    let config = read(job).unwrap();
    let mut fused = config.clone();
    fused.recall.fused = true;
    BTreeMap::from([
        ('E', json!(config.encode_settings())),
        ('T', json!(config.train_settings())),
        ('A', json!(config.adopt_settings())),
        ('I', json!(config.infer_settings(Side::Item))),
        ('U', json!(config.infer_settings(Side::User))),
        ('X', json!(config.recall_settings().index(None))),
        ('G', json!(config.recall_settings().index(Some(config.infer.engine)))),
        ('R', json!(config.recall_settings())),
        ('F', json!(fused.recall_settings())),
        ('V', json!(config.evaluate_settings())),
        ('C', json!(config.check_settings())),
    ])
}

fn read(job: &Value) -> Result<Config, serde_json::Error> {
    serde_json::from_value(job.clone())
}

/// The names and JSON pointers of all settings below a place.
fn settings(job: &Value, name: &str, pointer: &str, found: &mut Vec<(String, String)>) {
    match job.pointer(pointer).unwrap() {
        Value::Object(section) => {
            for key in all_keys(job, pointer) {
                assert!(section.contains_key(&key), "JOB does not give `{name}.{key}`");
            }
            for key in section.keys() {
                let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                settings(job, &inner, &format!("{pointer}/{key}"), found);
            }
        }
        Value::Array(values) if values.iter().any(Value::is_object) => {
            for (at, value) in values.iter().enumerate() {
                let kind = value["kind"].as_str().unwrap();
                settings(job, &format!("{name}.{kind}"), &format!("{pointer}/{at}"), found);
            }
        }
        _ => found.push((name.to_string(), pointer.to_string())),
    }
}

/// The keys that a section may have, by the message of its reader about another one.
fn all_keys(job: &Value, pointer: &str) -> Vec<String> {
    let mut with = job.clone();
    with.pointer_mut(pointer).unwrap()["no such setting"] = json!(1);
    let Err(message) = read(&with) else { return Vec::new() };
    let message = message.to_string();
    match message.split_once("unknown field `no such setting`, expected ") {
        Some((_, names)) => names.split('`').skip(1).step_by(2).map(String::from).collect(),
        // A map takes any name of the right type.
        None => Vec::new(),
    }
}

#[test]
fn every_setting_is_in_the_key_of_every_stage_that_obeys_it() {
    let job = load();
    let mut found = Vec::new();
    settings(&job, "", "", &mut found);
    // The kind of a feature, a model or a split says which settings there are.
    found.retain(|(name, _)| !name.ends_with(".kind") || name == "index.kind");
    let mut expected: BTreeMap<String, &str> = BTreeMap::new();
    for (section, stages, names) in OBEYED {
        for name in names.split(' ') {
            assert!(expected.insert(format!("{section}.{name}"), stages).is_none(), "{section}.{name} twice");
        }
    }
    expected.insert("index.kind".into(), "XGRFC");
    let base = views(&job);
    let mut wrong = Vec::new();
    for (name, pointer) in &found {
        let Some(stages) = expected.remove(name) else {
            wrong.push(format!("`{name}` is not in OBEYED: which stages obey it?"));
            continue;
        };
        let mut tried = job.clone();
        let value = tried.pointer_mut(pointer).unwrap();
        *value = changed(name, value);
        let now = views(&tried);
        let differ: BTreeMap<char, ()> = base.keys().filter(|s| base[s] != now[s]).map(|s| (*s, ())).collect();
        if !differ.keys().eq(stages.chars().map(|s| (s, ())).collect::<BTreeMap<_, _>>().keys()) {
            let differ: String = differ.keys().collect();
            wrong.push(format!("`{name}`: in the keys of {differ}, expected {stages}"));
        }
    }
    wrong.extend(expected.keys().map(|name| format!("`{name}` is no setting any more")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found.len() > 130, "{}", found.len());
}

#[test]
fn every_setting_of_every_model_is_obeyed_by_training_alone() {
    let job = load();
    for kind in ["dssm", "sasrec", "tisasrec", "lightgcn"] {
        let mut model = json!({ "kind": kind });
        if kind.ends_with("sasrec") {
            model["block"] = json!("ligr");
            model["feed_forward_multiple"] = json!(2);
            model["contrast"] = json!({ "crop": 0.5, "mask": 0.5, "reorder": 0.5, "replace": 0.5 });
        }
        if kind == "lightgcn" {
            model["views"] = json!({ "kind": "xsimgcl" });
            model["ncl"] = json!({ "hops": 1 });
            model["first_layer_counts"] = json!(true);
            model["text"] = json!({ "mode": "residual", "share": 0.5 });
            model["transport"] = json!({ "layer": 1 });
        }
        let model: ModelConfig = serde_json::from_value(model).unwrap();
        let mut job = job.clone();
        job["model"] = json!(model);
        let base = views(&job);
        for name in job["model"].as_object().unwrap().keys().filter(|name| *name != "kind") {
            let others: Vec<Value> = match &job["model"][name] {
                // An empty map would stay one.
                Value::Object(map) if map.is_empty() => vec![json!({ "a": 1 })],
                Value::Object(map) => map
                    .iter()
                    .filter(|(inner, _)| *inner != "kind")
                    .map(|(inner, value)| {
                        let mut other = map.clone();
                        other[inner] = changed(&format!("model.{name}.{inner}"), value);
                        json!(other)
                    })
                    .collect(),
                value => vec![changed(&format!("model.{name}"), value)],
            };
            for other in others {
                let mut tried = job.clone();
                tried["model"][name] = other;
                let now = views(&tried);
                let differ: String = base.keys().filter(|s| base[s] != now[s]).collect();
                assert_eq!(differ, "T", "{kind}, {name}: {}", tried["model"][name]);
            }
        }
    }
}

#[test]
fn another_kind_of_split_is_another_key_and_another_place_of_a_table_alone_is_none() {
    let job = load();
    let mut split = job.clone();
    split["split"] = json!({ "kind": "leave_last_out" });
    let (base, now) = (views(&job), views(&split));
    assert_eq!(base.keys().filter(|s| base[s] != now[s]).collect::<String>(), "TV");
    assert!(!base[&'U'].to_string().contains("users.csv") && base[&'E'].to_string().contains("users.csv"));
}
