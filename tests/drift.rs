//! The tables change from one night to the next: new values, missing values, fewer values, new users.

mod fixture;

use fixture::results::vectors;
use fixture::sheet::{Column, Sheet};
use fixture::{Job, USERS, items, user_id, users};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

/// Yesterday's finished run.
fn yesterday() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::new("drift");
        job.ok("run --quiet");
        job
    })
}

/// What happens to the user in row `u` overnight.
fn changes(u: usize) -> bool {
    u.is_multiple_of(3)
}

/// Today's users: every third one with values never seen, missing or not finite, a fifth gone (and with
/// them some values), the others as they were but in reverse order, and two users never seen.
fn today() -> Sheet {
    let mut sheet = users();
    for u in (0..USERS).filter(|u| changes(*u)) {
        sheet.texts("city")[u] = [Some("Atlantis".into()), None][u % 2].clone();
        sheet.texts("device")[u] = Some(format!("never seen {u}"));
        sheet.texts("is_5g")[u] = Some("##junk##".into());
        sheet.texts("tags")[u] = Some("unheard|film|of".into());
        if let Column::Real(ages) = sheet.column("age") {
            ages[u] = [Some(f64::NAN), Some(-1e300), None, Some(f64::INFINITY)][u % 4];
        }
    }
    let stay = (0..USERS).rev().filter(|u| u % 5 != 1);
    let mut sheet = sheet.take(stay.chain([0, 1]));
    let rows = sheet.rows();
    sheet.ints("user_id")[rows - 2..].copy_from_slice(&[Some(-17), Some(i64::MAX)]);
    sheet
}

fn unchanged_ids() -> Vec<i64> {
    (0..USERS).filter(|u| !changes(*u) && u % 5 != 1).map(user_id).collect()
}

fn by_id(dir: &Path) -> BTreeMap<i64, Vec<u32>> {
    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect();
    vectors(dir).into_iter().map(|(id, v)| (id.as_i64().unwrap(), bits(v))).collect()
}

fn assert_unit(dir: &Path) {
    for (id, vector) in vectors(dir) {
        let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!(vector.iter().all(|v| v.is_finite()) && (norm - 1.0).abs() < 1e-5, "{id}: {vector:?}");
    }
}

#[test]
fn a_drifted_table_gives_unit_vectors_and_unchanged_users_keep_theirs_bit_for_bit() {
    for engine in ["ort", "native", "native-int16"] {
        let job = yesterday().copy(&format!("drift-{engine}"));
        job.ok(&format!("infer --side user --engine {engine} --quiet"));
        let before = by_id(&job.path("run/vectors/user"));
        today().write_parquet(&job.path("today.parquet"));
        let done = job.ok(&format!("infer --side user --engine {engine} --table today.parquet --output today"));
        assert!(done.stderr.contains("not finite: taken as missing"), "{}", done.stderr);
        assert_unit(&job.path("today/vectors"));
        let after = by_id(&job.path("today/vectors"));
        assert_eq!(after.len(), today().rows());
        assert!(after.contains_key(&-17) && after.contains_key(&i64::MAX));
        for id in unchanged_ids() {
            assert_eq!(after[&id], before[&id], "{engine}: user {id}");
        }
        let moved =
            (0..USERS).filter(|u| changes(*u) && u % 5 != 1).filter(|u| after[&user_id(*u)] != before[&user_id(*u)]);
        assert!(moved.count() > 300, "changed users must get other vectors");
    }
}

/// Codes of one vocabulary by value.
fn codes(job: &Job, run: &str, table: &str) -> BTreeMap<String, u64> {
    let shown = job.json(&format!("vocab show {run}/encoders {table} --limit 1000000"));
    let values = shown["values"].as_array().unwrap();
    values.iter().map(|v| (v["value"].as_str().unwrap().to_string(), v["code"].as_u64().unwrap())).collect()
}

fn prepare_today(name: &str) -> Job {
    let job = yesterday().copy(name);
    today().write_parquet(&job.path("users.parquet"));
    let mut sheet = items();
    if let Column::Text(categories) = sheet.column("category") {
        categories[0] = Some("category never seen".into());
    }
    sheet.write_parquet(&job.path("items.parquet"));
    job
}

#[test]
fn an_update_moves_no_code_and_appends_new_values() {
    let job = prepare_today("drift-update");
    job.ok("encode-features --run today --update run/encoders --quiet");
    let diff = job.json("vocab diff run/encoders today/encoders");
    for vocabulary in diff["vocabularies"].as_array().unwrap() {
        let empty = |what: &str| vocabulary["diff"][what].as_array().is_some_and(Vec::is_empty);
        assert!(empty("moved") && empty("removed"), "{vocabulary}");
    }
    for table in ["user_city", "user_tags", "item_id", "item_category"] {
        let (before, after) = (codes(&job, "run", table), codes(&job, "today", table));
        assert!(before.iter().all(|(value, code)| after.get(value) == Some(code)), "{table}");
        let highest = before.values().max().unwrap();
        assert!(after.iter().all(|(value, code)| before.contains_key(value) || code > highest), "{table}");
    }
    assert!(codes(&job, "today", "user_city").contains_key("Atlantis"));
    assert!(codes(&job, "today", "item_category").contains_key("category never seen"));
    // Without the update, codes follow today's counts.
    job.ok("encode-features --run afresh --quiet");
    assert_eq!(job.json("vocab show afresh/encoders user_city")["values"][0]["code"], Value::from(3));
}

#[test]
fn towers_of_another_encoder_state_are_refused_with_both_fingerprints() {
    let job = prepare_today("drift-mismatch");
    let fingerprint =
        |run: &str| job.json(&format!("vocab show {run}/encoders"))["fingerprint"].as_str().unwrap().to_string();
    let old = fingerprint("run");
    job.ok("encode-features --quiet");
    let new = fingerprint("run");
    assert_ne!(old, new);
    job.refused("infer --side user", 4, &[&old, &new, "user_tower.onnx", "twotower train"]);
    job.refused("infer --side item", 4, &[&old, &new, "item_tower.onnx"]);
    job.refused("evaluate", 4, &[&old, &new]);
}

#[test]
fn a_run_that_updates_from_yesterday_starts_from_its_weights() {
    let job = prepare_today("drift-warm");
    let first_loss = |run: &str| {
        let text = std::fs::read_to_string(job.path(&format!("{run}/towers/training.json"))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["epochs"][0]["loss"].as_f64().unwrap()
    };
    // A third of the users with values never seen or missing is a night that gates refuse.
    let accept = "--accept unknown --accept missing";
    job.ok(&format!("run --run today --update-from run {accept} --quiet"));
    job.ok(&format!("run --run afresh {accept} --quiet"));
    assert!(first_loss("today") < first_loss("afresh"), "{} and {}", first_loss("today"), first_loss("afresh"));
    assert_unit(&job.path("today/vectors/user"));
    assert_eq!(std::fs::read_link(job.path("latest")).unwrap(), Path::new("afresh"));
    // The same command once more has nothing to do.
    let again = job.json(&format!("run --run today --update-from run {accept} --quiet"));
    let stages = again["stages"].as_array().unwrap();
    // But for the gates: another run has been published since, which it is held against now.
    assert!(stages.iter().all(|s| s["stage"] == "check" || s["skipped"] == Value::Bool(true)), "{again}");
}

#[test]
fn weights_of_unrelated_vocabularies_are_no_start() {
    let job = prepare_today("drift-unrelated");
    job.ok("encode-features --run afresh --quiet");
    job.refused("train --run afresh --from run/towers", 4, &["--update"]);
}
