//! Checks whole data sets: their bytes and shapes, and that features predict interactions.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::path::Path;
use twotower_artifacts::Category;
use twotower_synth::{Layout, SynthConfig, SynthError, SynthReport, generate, read_report};

/// A configuration with three files of users, the last one short.
fn config() -> SynthConfig {
    SynthConfig { users: 150_000, items: 300, seed: 7, chunks_per_file: 1, threads: 2, ..SynthConfig::default() }
}

fn make(config: &SynthConfig, dir: &Path) -> SynthReport {
    generate(config, dir, &mut |_| {}).unwrap()
}

/// Content of all files by path below `dir`.
fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in ["", "users", "interactions"] {
        for entry in fs::read_dir(dir.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_string();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn read(path: &Path) -> Vec<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    builder.build().unwrap().map(Result::unwrap).collect()
}

fn table(dir: &Path, name: &str) -> Vec<RecordBatch> {
    let mut paths: Vec<_> = fs::read_dir(dir.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| read(path)).collect()
}

/// All values of a string or integer column, as text.
fn texts(batches: &[RecordBatch], column: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    for batch in batches {
        let array = batch.column_by_name(column).unwrap();
        if let Some(strings) = array.as_string_opt::<i32>() {
            values.extend(strings.iter().map(|v| v.map(str::to_string)));
        } else {
            values.extend(array.as_primitive::<Int32Type>().iter().map(|v| v.map(|v| v.to_string())));
        }
    }
    values
}

#[test]
fn the_same_seed_gives_the_same_bytes_with_any_number_of_threads() {
    let (one, two, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = make(&SynthConfig { threads: 1, ..config() }, one.path());
    assert_eq!(first, make(&SynthConfig { threads: 2, ..config() }, two.path()));
    let (a, b) = (bytes(one.path()), bytes(two.path()));
    assert_eq!(a.len(), 3 + 3 + 2);
    assert!(a == b);
    make(&SynthConfig { seed: 8, ..config() }, other.path());
    for (name, content) in bytes(other.path()) {
        assert!(a[&name] != content, "{name} does not depend on the seed");
    }
}

#[test]
fn users_have_the_stated_columns_cardinalities_and_nulls() {
    let dir = tempfile::tempdir().unwrap();
    make(&config(), dir.path());
    let users = table(dir.path(), "users");
    let ids: Vec<_> = texts(&users, "user_id").into_iter().flatten().collect();
    assert_eq!(ids.len(), 150_000);
    assert!(ids.iter().enumerate().all(|(i, id)| *id == format!("u{i:09}")));
    for (column, cardinality, nulls) in [
        ("gender", 3, 0.05),
        ("age_band", 9, 0.03),
        ("channel", 25, 0.0),
        ("brand", 60, 0.02),
        ("city", 340, 0.01),
        ("plan_id", 800, 0.04),
        ("model", 3000, 0.06),
        ("district", 5000, 0.10),
        ("tenure", 240, 0.01),
        ("is_5g", 13, 0.0),
        ("is_family", 13, 0.0),
    ] {
        let values = texts(&users, column);
        let found = values.iter().filter(|v| v.is_none()).count() as f64 / values.len() as f64;
        assert!((found - nulls).abs() < 0.003, "{column}: {found} null");
        let distinct = values.iter().flatten().collect::<HashSet<_>>().len();
        // A few of the rarest districts may not occur.
        assert!((cardinality - cardinality / 200..=cardinality).contains(&distinct), "{column}: {distinct} values");
    }
    let schema = users[0].schema();
    assert_eq!(schema.fields().len(), 1 + 8 + 2 + 3);
    let junk = texts(&users, "is_5g").into_iter().flatten().filter(|v| ["", "NULL", "\\N", "?", "2"].contains(&&**v));
    assert!((junk.count() as f64 / 150_000.0 - 0.08).abs() < 0.003);

    let items = read(&dir.path().join("items.parquet"));
    assert_eq!(items.iter().map(RecordBatch::num_rows).sum::<usize>(), 300);
    assert_eq!(items[0].schema().fields().len(), 1 + 5 + 2);
    assert_eq!(texts(&items, "product_id")[299].as_deref(), Some("p000299"));
}

#[test]
fn interactions_are_of_a_twentieth_of_the_users_and_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let report = generate(&config(), dir.path(), &mut |rows| seen.push(rows)).unwrap();
    assert!(seen.windows(2).all(|w| w[0] < w[1]) && seen.last() == Some(&150_000));
    let interactions = table(dir.path(), "interactions");
    let users = texts(&interactions, "user_id");
    let items = texts(&interactions, "product_id");
    assert_eq!(users.len() as u64, report.interactions);
    let mut of_user: HashMap<&str, Vec<&str>> = HashMap::new();
    for (user, item) in users.iter().flatten().zip(items.iter().flatten()) {
        of_user.entry(user).or_default().push(item);
    }
    assert!((of_user.len() as f64 / 150_000.0 - 0.05).abs() < 0.002, "{} buyers", of_user.len());
    for items in of_user.values() {
        assert!((1..=20).contains(&items.len()));
        assert_eq!(items.iter().collect::<HashSet<_>>().len(), items.len());
    }
    for batch in &interactions {
        let ts = batch.column_by_name("ts").unwrap().as_primitive::<Int64Type>();
        assert!(ts.values().iter().all(|t| (1_735_689_600..1_735_689_600 + 180 * 86_400).contains(t)));
    }
    let on_disk: usize = bytes(dir.path()).iter().filter(|(n, _)| n.ends_with("parquet")).map(|(_, b)| b.len()).sum();
    assert_eq!(report.bytes, on_disk as u64);
    assert_eq!(read_report(dir.path()).unwrap(), report);
}

#[test]
fn features_predict_far_more_than_popularity() {
    let dir = tempfile::tempdir().unwrap();
    let report = make(&SynthConfig { items: 2000, ..config() }, dir.path());
    let c = &report.ceiling;
    assert!(c.oracle_recall_at_50 > c.popularity_recall_at_50 + 0.25, "{c:?}");
    assert!(c.oracle_leave_last_out > c.popularity_leave_last_out + 0.25, "{c:?}");

    // The features predict even without the oracle. The most chosen items of a user's gender and age band, learnt from
    // the other half of the buyers, match the choices better than the most chosen items of all, by ten standard errors.
    let users = table(dir.path(), "users");
    let groups: Vec<String> = texts(&users, "gender")
        .into_iter()
        .zip(texts(&users, "age_band"))
        .map(|(gender, age)| format!("{gender:?} {age:?}"))
        .collect();
    let interactions = table(dir.path(), "interactions");
    let events: Vec<(usize, String)> = texts(&interactions, "user_id")
        .into_iter()
        .zip(texts(&interactions, "product_id"))
        .filter_map(|(u, i)| Some((u?[1..].parse().ok()?, i?)))
        .collect();
    let mut counts: HashMap<&str, HashMap<&str, usize>> = HashMap::new();
    for (user, item) in events.iter().filter(|(user, _)| user % 2 == 0) {
        for key in ["everyone", &groups[*user]] {
            *counts.entry(key).or_default().entry(item).or_default() += 1;
        }
    }
    let top: HashMap<_, HashSet<&str>> = counts
        .into_iter()
        .map(|(key, counts)| {
            let mut ranked: Vec<_> = counts.into_iter().collect();
            ranked.sort_unstable_by_key(|(item, count)| (std::cmp::Reverse(*count), *item));
            (key, ranked.into_iter().take(50).map(|(item, _)| item).collect())
        })
        .collect();
    let hits = |by_group: bool| {
        let held_out = events.iter().filter(|(user, _)| user % 2 == 1);
        let key = |user: usize| if by_group { groups[user].as_str() } else { "everyone" };
        held_out.filter(|(user, item)| top.get(key(*user)).is_some_and(|t| t.contains(item.as_str()))).count()
    };
    assert!(hits(true) as f64 > 1.05 * hits(false) as f64, "{} {}", hits(true), hits(false));
}

#[test]
fn a_smaller_data_set_is_a_prefix_of_a_larger_one() {
    let (small, large) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(&SynthConfig { users: 70_000, ..config() }, small.path());
    make(&config(), large.path());
    let (a, b) = (table(small.path(), "users"), table(large.path(), "users"));
    for column in ["user_id", "plan_id", "district", "is_family", "tenure"] {
        assert_eq!(texts(&a, column), texts(&b, column)[..70_000], "{column}");
    }
    let (a, b) = (table(small.path(), "interactions"), table(large.path(), "interactions"));
    let a = texts(&a, "product_id");
    assert_eq!(a, texts(&b, "product_id")[..a.len()]);
}

#[test]
fn another_day_has_new_users_new_values_and_more_nulls_but_the_same_history() {
    let (today, tomorrow) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = SynthConfig { users: 50_000, ..config() };
    make(&base, today.path());
    let report = make(&SynthConfig { day: 2, ..base.clone() }, tomorrow.path());
    assert_eq!(report.users, 51_000);
    let (a, b) = (table(today.path(), "users"), table(tomorrow.path(), "users"));
    let (old, new) = (texts(&a, "city"), texts(&b, "city"));
    let same = old.iter().zip(&new).filter(|(a, b)| a == b).count() as f64 / old.len() as f64;
    assert!((0.94..0.98).contains(&same), "{same}");
    let known: HashSet<_> = old.iter().flatten().collect();
    assert!(new.iter().flatten().any(|city| !known.contains(city)));
    let nulls = |v: &[Option<String>]| v.iter().filter(|v| v.is_none()).count() as f64 / v.len() as f64;
    assert!(nulls(&new) > nulls(&old) + 0.01);
    assert_eq!(texts(&a, "is_5g"), texts(&b, "is_5g")[..50_000]);
    let (a, b) = (table(today.path(), "interactions"), table(tomorrow.path(), "interactions"));
    let (a, b) = (texts(&a, "product_id"), texts(&b, "product_id"));
    assert!(a[..] == b[..a.len()] && b.len() > a.len());
}

#[test]
fn a_complete_folder_is_reused_and_a_foreign_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = SynthConfig { users: 3000, items: 20, ..config() };
    let first = make(&base, dir.path());
    assert!(!first.reused);
    let again = make(&SynthConfig { threads: 1, ..base.clone() }, dir.path());
    assert_eq!(again, SynthReport { reused: true, ..first.clone() });

    let other = SynthConfig { seed: 9, ..base.clone() };
    let refused = generate(&other, dir.path(), &mut |_| {}).unwrap_err();
    assert_eq!(refused.category(), Category::Usage);
    assert!(refused.to_string().contains("users 3000, items 20, seed 7"), "{refused}");
    make(&SynthConfig { force: true, ..other.clone() }, dir.path());

    // A lost part is noticed, and `force` generates it again.
    fs::remove_file(dir.path().join("users/part-00000.parquet")).unwrap();
    let damaged = generate(&other, dir.path(), &mut |_| {}).unwrap_err();
    assert!(damaged.to_string().contains("damaged"), "{damaged}");
    make(&SynthConfig { force: true, ..other }, dir.path());

    // An interrupted data set has only the marker instead of meta.json, and is replaced without `force`.
    fs::rename(dir.path().join("meta.json"), dir.path().join("meta.json.partial")).unwrap();
    assert_eq!(make(&base, dir.path()), first);
    assert!(!dir.path().join("meta.json.partial").exists());

    // Tables without either file are left alone.
    fs::remove_file(dir.path().join("meta.json")).unwrap();
    assert!(matches!(generate(&base, dir.path(), &mut |_| {}), Err(SynthError::Occupied { .. })));
    assert!(dir.path().join("users/part-00000.parquet").exists());
}

#[test]
fn exported_tables_are_gbk_with_few_spoilt_rows_and_do_not_depend_on_threads() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = SynthConfig { layout: Layout::Exported, users: 70_000, items: 100, ..config() };
    let report = make(&config, dir.path());
    assert_eq!(report, make(&SynthConfig { threads: 1, ..config.clone() }, other.path()));
    let files = bytes(dir.path());
    assert!(files == bytes(other.path()));
    let lines = |name: &str| -> Vec<String> {
        let (text, _, is_damaged) = encoding_rs::GBK.decode(&files[name]);
        assert!(!is_damaged && !text.contains("&#"), "{name}");
        text.split_terminator("\r\n").map(str::to_string).collect()
    };
    let users = [lines("users/part-00000.csv"), lines("users/part-00001.csv")];
    assert!(users[0][0] == users[1][0] && users[0][0].starts_with("用户编号,"));
    let ids: Vec<&str> = users.iter().flat_map(|part| &part[1..]).map(|line| line.split(',').next().unwrap()).collect();
    let known: HashSet<&str> = ids.iter().copied().filter(|id| !id.is_empty()).collect();
    let missing = ids.iter().filter(|id| id.is_empty()).count();
    let repeated = ids.len() - missing - known.len();
    assert_eq!((ids.len() as u64, missing + known.len()), (report.users, 70_000));
    assert!((70..150).contains(&missing) && (70..150).contains(&repeated), "{missing} {repeated}");
    assert!(known.iter().all(|id| id.len() == 11 && id.starts_with("000000")));

    let orders = lines("interactions/part-00000.csv");
    let slashes = orders.iter().filter(|line| line.contains('/')).count() as f64 / orders.len() as f64;
    assert!((slashes - 0.5).abs() < 0.02, "{slashes} of the times have slashes");
    assert!(orders.iter().any(|line| line.starts_with(',')) && orders.iter().any(|line| line.contains(",,")));
    let items = lines("items.csv");
    assert!(items.len() == 102 && items[1].starts_with("000000,"), "{}", items[1]);
    assert!(items[58].starts_with(',') && items[74] == items[75] && items[75] != items[76], "{}", items[58]);
    // With signal: who knows the users ranks far better than popularity.
    let c = &report.ceiling;
    assert!(c.oracle_recall_at_50 > c.popularity_recall_at_50 + 0.05, "{c:?}");

    // A data set of the other form is another one.
    let refused = generate(&SynthConfig { layout: Layout::Parquet, ..config.clone() }, dir.path(), &mut |_| {});
    assert!(refused.unwrap_err().to_string().contains("another data set (csv files"));
    make(&SynthConfig { layout: Layout::Parquet, force: true, ..config }, dir.path());
    assert!(bytes(dir.path()).keys().all(|name| !name.ends_with("csv")));
}

#[test]
fn sizes_out_of_range_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    for bad in [
        SynthConfig { users: 0, ..config() },
        SynthConfig { items: 0, ..config() },
        SynthConfig { day: 11, ..config() },
        SynthConfig { chunks_per_file: 0, ..config() },
    ] {
        let error = generate(&bad, dir.path(), &mut |_| {}).unwrap_err();
        assert_eq!(error.category(), Category::Usage);
        assert!(error.to_string().contains("expected"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_tiny_data_set_has_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let report = make(&SynthConfig { users: 1, items: 1, ..config() }, dir.path());
    assert_eq!((report.users, report.items), (1, 1));
    assert_eq!(bytes(dir.path()).len(), 4);
    assert!(table(dir.path(), "interactions").iter().all(|b| b.num_columns() == 3));
}
