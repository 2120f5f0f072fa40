//! Fits, encodes, updates, saves and loads the whole encoder state, on tables with features of every kind.

use arrow_array::builder::{Int64Builder, ListBuilder};
use arrow_array::types::{Float32Type, Int16Type, Int32Type};
use arrow_array::{
    Array, ArrayRef, DictionaryArray, FixedSizeListArray, Float64Array, Int64Array, RecordBatch, StringArray,
    StringViewArray,
};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use twotower_artifacts::schema::{FIRST_VALUE, MISSING, UNKNOWN};
use twotower_artifacts::{Category, CodeBatch, Column, FieldShape, Side};
use twotower_encoders::{EncoderError, EncoderFit, EncoderState, SideSpec, Slot};

/// A reproducible stream of small numbers.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn maybe<T>(&mut self, value: T) -> Option<T> {
        (self.below(10) > 0).then_some(value)
    }
}

fn user_spec() -> SideSpec {
    serde_json::from_value(json!({"id_column": "uid", "features": [
        {"kind": "categorical", "name": "city", "max_size": 8},
        {"kind": "categorical", "name": "code", "min_count": 2},
        {"kind": "boolean", "name": "vip"},
        {"kind": "numeric", "name": "spend", "transform": "log1p"},
        {"kind": "numeric", "name": "age", "transform": "quantile_buckets", "buckets": 4},
        {"kind": "numeric", "name": "score", "column": "age", "transform": "min_max"},
        {"kind": "multi_valued", "name": "tags", "separator": "|", "max_len": 2},
        {"kind": "hashed", "name": "device", "column": "uid", "buckets": 7},
        {"kind": "vector", "name": "text", "dim": 2},
        {"kind": "sequence", "name": "recent", "max_len": 5},
        {"kind": "categorical", "name": "favourite", "table": "item_id"},
    ]}))
    .unwrap()
}

fn item_spec() -> SideSpec {
    serde_json::from_value(json!({"id_column": "iid", "features": [
        {"kind": "id", "name": "id"},
        {"kind": "multi_valued", "name": "bundle"},
    ]}))
    .unwrap()
}

fn users(seed: u64, rows: usize, values: u64) -> RecordBatch {
    let mut draw = Draw(seed);
    let mut rows_of = |f: &mut dyn FnMut(&mut Draw) -> Option<String>| -> Vec<Option<String>> {
        (0..rows).map(|_| f(&mut draw)).collect()
    };
    let uid = rows_of(&mut |d| Some(format!("u{}", d.below(1000))));
    let city = rows_of(&mut |d| {
        let v = format!("city{}", d.below(values));
        d.maybe(v)
    });
    let code = rows_of(&mut |d| d.below(values).checked_sub(1).map(|v| v.to_string()));
    let vip = rows_of(&mut |d| Some(["Y", "no", "1", "?!", "", "null"][d.below(6) as usize].to_string()));
    let spend = rows_of(&mut |d| Some(["12.5", " 1e3 ", "-4", "nan", "n.a.", "0"][d.below(6) as usize].to_string()));
    let tags = rows_of(&mut |d| Some(["a|b|c", "b", "", "a | z", "|"][d.below(5) as usize].to_string()));
    let favourite = rows_of(&mut |d| Some(d.below(40).to_string()));
    let age = (0..rows).map(|i| (i % 7 > 0).then_some((i * 37 % 90) as f64));
    let vectors = (0..rows).map(|i| (i % 5 > 0).then(|| vec![Some(i as f32), Some(1.0)]));
    let ints = code.iter().map(|c| c.as_ref().map(|c| c.parse::<i64>().unwrap()));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("uid", Arc::new(StringArray::from(uid))),
        ("city", Arc::new(city.iter().map(|c| c.as_deref()).collect::<DictionaryArray<Int32Type>>())),
        ("code", Arc::new(ints.collect::<Int64Array>())),
        ("vip", Arc::new(StringViewArray::from_iter(vip))),
        ("spend", Arc::new(StringArray::from(spend))),
        ("age", Arc::new(age.collect::<Float64Array>())),
        ("tags", Arc::new(tags.iter().map(|c| c.as_deref()).collect::<DictionaryArray<Int16Type>>())),
        ("text", Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 2))),
        ("favourite", Arc::new(StringArray::from(favourite))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

fn items(ids: std::ops::Range<i64>) -> RecordBatch {
    let mut bundle = ListBuilder::new(Int64Builder::new());
    ids.clone().for_each(|i| bundle.append_option((i % 4 > 0).then(|| (0..i % 3).map(move |j| Some(i + j)))));
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter(vec![("iid", id), ("bundle", Arc::new(bundle.finish()) as ArrayRef)]).unwrap()
}

fn fit(users: &[RecordBatch], items: &[RecordBatch]) -> EncoderFit {
    let mut fit = EncoderFit::new(user_spec(), item_spec()).unwrap();
    users.iter().for_each(|b| fit.fit_batch(Side::User, b).unwrap());
    items.iter().for_each(|b| fit.fit_batch(Side::Item, b).unwrap());
    fit
}

fn encode(state: &EncoderState, side: Side, batch: &RecordBatch) -> CodeBatch {
    let schema = state.schema(side);
    let mut out = CodeBatch::empty(&schema);
    let counts = state.encode(side, batch, &mut out).unwrap();
    out.check(&schema).unwrap();
    assert_eq!((counts.rows, out.rows()), (batch.num_rows() as u64, batch.num_rows()));
    out
}

/// Every file of a saved state, by name.
fn files(state: &EncoderState) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    state.save(dir.path()).unwrap();
    let mut names: Vec<_> = [dir.path().to_path_buf(), dir.path().join("vocab")]
        .iter()
        .flat_map(|d| std::fs::read_dir(d).unwrap())
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file())
        .collect();
    names.sort();
    names.iter().map(|p| (p.file_name().unwrap().to_string_lossy().into(), std::fs::read(p).unwrap())).collect()
}

#[test]
fn any_order_chunking_and_merging_gives_the_same_bytes() {
    let (u, i) = (users(1, 500, 20), items(0..60));
    let whole = fit(std::slice::from_ref(&u), std::slice::from_ref(&i)).finish().unwrap();
    let chunks: Vec<_> = [(400, 100), (0, 150), (150, 250)].iter().map(|(at, n)| u.slice(*at, *n)).collect();
    let mut merged = fit(&chunks[..1], &[i.slice(30, 30)]);
    merged.merge(fit(&chunks[1..], &[i.slice(0, 30)])).unwrap();
    let merged = merged.finish().unwrap();
    assert_eq!(merged.fingerprint(), whole.fingerprint());
    assert_eq!(files(&merged), files(&whole));
}

#[test]
fn an_update_moves_no_code_and_leaves_unchanged_rows_bit_for_bit() {
    let (old_users, old_items) = (users(1, 300, 6), items(0..40));
    let old = fit(std::slice::from_ref(&old_users), std::slice::from_ref(&old_items)).finish().unwrap();
    let today = fit(&[users(2, 400, 30)], &[items(20..80)]);
    let new = old.update(today.clone()).unwrap();
    for (table, vocabulary) in old.vocabularies() {
        let extended = new.vocabulary(table).unwrap();
        let diff = vocabulary.diff(extended);
        assert!(diff.removed.is_empty() && diff.moved.is_empty(), "{table}");
        assert_eq!(diff.unchanged, vocabulary.len());
    }
    assert!(new.vocabulary("item_id").unwrap().len() > old.vocabulary("item_id").unwrap().len());
    assert_eq!(new.vocabulary("user_city").unwrap().len(), 8, "max_size holds for the whole");
    assert_ne!(old.fingerprint(), new.fingerprint());
    // Values that were known are encoded as before.
    for (side, batch) in [(Side::User, &old_users), (Side::Item, &old_items)] {
        for (before, after) in encode(&old, side, batch).columns.iter().zip(&encode(&new, side, batch).columns) {
            match (before, after) {
                (Column::Code(before), Column::Code(after)) => {
                    assert!(before.iter().zip(after).all(|(b, a)| b == a || *b == UNKNOWN));
                }
                (Column::Ragged(before), Column::Ragged(after)) => {
                    assert_eq!(before.offsets, after.offsets);
                    assert!(before.values.iter().zip(&after.values).all(|(b, a)| b == a || *b == UNKNOWN));
                }
                (before, after) => assert_eq!(before, after),
            }
        }
    }
    let mut other = item_spec();
    other.features.truncate(1);
    let changed = old.update(EncoderFit::new(user_spec(), other).unwrap()).unwrap_err();
    assert_eq!(changed.category(), Category::Mismatch);
    assert!(changed.to_string().contains("`bundle` was there yesterday"), "{changed}");
    // Extending by the same data again changes nothing but counts.
    assert_eq!(new.update(today).unwrap().fingerprint(), new.fingerprint());
}

#[test]
fn sequences_share_the_item_ids_vocabulary_and_table() {
    let state = fit(&[users(1, 50, 5)], &[items(0..40)]).finish().unwrap();
    let (user, item) = (state.schema(Side::User), state.schema(Side::Item));
    let field = |name: &str| user.fields.iter().find(|f| f.name == name).unwrap().shape.table().unwrap();
    let id = item.fields[0].shape.table().unwrap();
    assert_eq!(field("recent"), ("item_id", 43));
    assert_eq!(field("recent"), id);
    assert_eq!(field("favourite"), id);
    assert_eq!(field("city").0, "user_city");
    assert!(matches!(user.fields[9].shape, FieldShape::Sequence { max_len: 5, .. }));
    let codes: BTreeSet<_> = (0..40).map(|i: i64| state.item_code(&i.to_string())).collect();
    assert_eq!(codes, (FIRST_VALUE..43).collect());
    let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("7"), Some("99"), None]));
    assert_eq!(state.item_codes(&ids).unwrap(), [state.item_code("7"), UNKNOWN, MISSING]);
    let dictionary: ArrayRef = Arc::new(["99", "7"].into_iter().collect::<DictionaryArray<Int32Type>>());
    assert_eq!(state.item_codes(&dictionary).unwrap(), [UNKNOWN, state.item_code("7")]);
    assert_eq!(state.required_columns(Side::Item), ["iid", "bundle"]);

    // Without an id feature the item ids still feed the sequence's vocabulary.
    let mut spec = item_spec();
    spec.features.remove(0);
    let mut plain = EncoderFit::new(user_spec(), spec).unwrap();
    plain.fit_batch(Side::Item, &items(0..40)).unwrap();
    assert_eq!(plain.finish().unwrap().sequence_vocabulary().unwrap().len(), 40);
}

#[test]
fn a_saved_state_loads_equal_and_any_change_is_refused() {
    let state = fit(&[users(1, 300, 20)], &[items(0..40)]).finish().unwrap();
    let dir = tempfile::tempdir().unwrap();
    state.save(dir.path()).unwrap();
    assert_eq!(EncoderState::load(dir.path()).unwrap(), state);
    let manifest = dir.path().join("encoders.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let load_changed = |from: &str, to: &str| -> EncoderError {
        assert!(text.contains(from), "{from}");
        std::fs::write(&manifest, text.replacen(from, to, 1)).unwrap();
        EncoderState::load(dir.path()).unwrap_err()
    };
    let edited = load_changed("\"max_len\": 2", "\"max_len\": 3");
    assert_eq!(edited.category(), Category::Mismatch, "{edited}");
    let fingerprint = state.fingerprint().as_str();
    let edited = load_changed(fingerprint, &"0".repeat(32));
    assert!(edited.to_string().contains(fingerprint) && edited.to_string().contains(&"0".repeat(32)), "{edited}");
    let outside = load_changed("vocab/user_city.bin", "../user_city.bin");
    assert_eq!(outside.category(), Category::Data, "{outside}");
    let newer = load_changed("\"version\": 1", "\"version\": 2");
    assert!(newer.to_string().contains("version 2"), "{newer}");
    assert_eq!(load_changed("\"version\": 1", "\"versoin\": 1").category(), Category::Data);

    // A valid vocabulary of another run is refused.
    std::fs::write(&manifest, &text).unwrap();
    let other = fit(&[users(9, 300, 21)], &[items(0..41)]).finish().unwrap();
    let table = "user_code";
    twotower_encoders::store::save_vocabulary(dir.path().join("vocab/user_code.bin"), other.vocabulary(table).unwrap())
        .unwrap();
    let swapped = EncoderState::load(dir.path()).unwrap_err();
    assert!(matches!(swapped, EncoderError::FingerprintMismatch { .. }), "{swapped}");
    std::fs::remove_file(dir.path().join("vocab/user_code.bin")).unwrap();
    assert!(EncoderState::load(dir.path()).unwrap_err().to_string().contains("user_code.bin"));
}

#[test]
fn what_was_met_is_counted_per_feature_and_adds_up_over_batches() {
    let batch = users(3, 200, 12);
    let state = fit(&[users(1, 200, 6)], &[items(0..40)]).finish().unwrap();
    let schema = state.schema(Side::User);
    let mut encoder = state.encoder(Side::User);
    let mut out = CodeBatch::empty(&schema);
    let whole = encoder.encode(&batch, &mut out).unwrap();
    let mut parts = encoder.encode(&batch.slice(0, 77), &mut CodeBatch::empty(&schema)).unwrap();
    parts.merge(&encoder.encode(&batch.slice(77, 123), &mut CodeBatch::empty(&schema)).unwrap());
    assert_eq!(parts, whole);
    let of = |name: &str| whole.features[name].clone();
    assert_eq!(of("city").missing, batch.column(1).null_count() as u64);
    assert!(of("city").unknown > 0 && of("vip").junk > 0 && of("vip").junk == of("vip").unknown);
    assert!(of("spend").junk > 0 && of("spend").not_finite > 0);
    assert_eq!(of("spend").missing, of("spend").junk + of("spend").not_finite);
    assert_eq!((of("text").values, of("text").missing, of("device").unknown), (200, 40, 0));
    assert!(!whole.features.contains_key("recent"));
}

#[test]
fn missing_columns_and_wrong_types_name_side_feature_and_column() {
    let state = fit(&[users(1, 50, 5)], &[items(0..40)]).finish().unwrap();
    let mut out = CodeBatch::empty(&state.schema(Side::Item));
    let missing = state.encode(Side::Item, &items(0..3).project(&[0]).unwrap(), &mut out).unwrap_err();
    assert_eq!(missing.category(), Category::Data);
    assert_eq!(missing.to_string(), "read item feature `bundle`: no column `bundle`; the table has `iid`");
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1|2"]));
    let batch = RecordBatch::try_from_iter([("iid", ids), ("bundle", text)]).unwrap();
    out.clear();
    let wrong = state.encode(Side::Item, &batch, &mut out).unwrap_err().to_string();
    assert!(wrong.contains("column `bundle` is Utf8") && wrong.contains("`separator`"), "{wrong}");
    let unfit = EncoderFit::new(user_spec(), item_spec()).unwrap().fit_batch(Side::Item, &batch);
    assert!(matches!(unfit, Err(EncoderError::ColumnType { .. })));

    let long = vec![Some(vec![Some(1.0f32); 3])];
    let vectors: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(long, 3));
    let mut columns: Vec<_> = users(1, 1, 5).columns().to_vec();
    columns[7] = vectors;
    let names = users(1, 1, 5).schema();
    let named = names.fields().iter().map(|f| f.name().clone()).zip(columns);
    let batch = RecordBatch::try_from_iter(named).unwrap();
    let length = state.encode(Side::User, &batch, &mut CodeBatch::empty(&state.schema(Side::User))).unwrap_err();
    let expected = "encode user feature `text`: column `text`, row 41: vector of 3 elements, expected 2";
    assert_eq!(length.with_first_row(41).to_string(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Codes of random tables lie below their cardinality, and decode to the value, missing or unknown.
    #[test]
    fn decode_of_encode_is_the_value_missing_or_unknown(seed: u64, known in 1u64..30, met in 1u64..60) {
        let state = fit(&[users(seed, 80, known)], &[items(0..30)]).finish().unwrap();
        let batch = users(seed ^ 1, 80, met);
        let codes = encode(&state, Side::User, &batch);
        let plain = |name: &str| -> Vec<Option<String>> {
            let text = arrow_cast::cast(batch.column_by_name(name).unwrap(), &arrow_schema::DataType::Utf8).unwrap();
            let text = text.as_any().downcast_ref::<StringArray>().unwrap();
            text.iter().map(|v| v.map(str::to_string)).collect()
        };
        let schema = state.schema(Side::User);
        for (field, column) in schema.fields.iter().zip(&codes.columns) {
            let vocabulary = field.shape.table().and_then(|(table, _)| state.vocabulary(table));
            let Some(vocabulary) = vocabulary else { continue };
            match column {
                Column::Code(codes) => for (code, text) in codes.iter().zip(plain(&field.name)) {
                    match (vocabulary.decode(*code), text) {
                        (Some(Slot::Value(value)), Some(text)) => prop_assert_eq!(value, text),
                        (Some(Slot::Unknown), Some(text)) => prop_assert_eq!(vocabulary.lookup(&text), UNKNOWN),
                        (Some(Slot::Missing), None) => {}
                        other => prop_assert!(false, "{other:?}"),
                    }
                },
                Column::Ragged(rows) if field.name == "tags" => for (r, text) in plain("tags").iter().enumerate() {
                    let text = text.as_deref().unwrap_or_default();
                    let elements: Vec<_> = text.split('|').map(str::trim).filter(|e| !e.is_empty()).take(2).collect();
                    let expected: Vec<_> = elements.iter().map(|e| vocabulary.lookup(e)).collect();
                    prop_assert_eq!(rows.row(r), if expected.is_empty() { vec![MISSING] } else { expected });
                },
                _ => prop_assert!((0..80).all(|r| matches!(column, Column::Ragged(rows) if rows.row(r).is_empty()))),
            }
        }
    }

    /// A dictionary column and its plain copy encode alike.
    #[test]
    fn dictionaries_and_plain_columns_encode_alike(seed: u64) {
        let batch = users(seed, 60, 9);
        let state = fit(std::slice::from_ref(&batch), &[items(0..30)]).finish().unwrap();
        let columns = batch.schema().fields().iter().zip(batch.columns()).map(|(field, column)| {
            let plain = match field.data_type() {
                arrow_schema::DataType::Dictionary(_, values) => arrow_cast::cast(column, values).unwrap(),
                _ => column.clone(),
            };
            (field.name().clone(), plain, true)
        }).collect::<Vec<_>>();
        let plain = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        prop_assert_eq!(encode(&state, Side::User, &plain), encode(&state, Side::User, &batch));
        let refit = fit(std::slice::from_ref(&plain), &[items(0..30)]).finish().unwrap();
        prop_assert_eq!(refit.fingerprint(), state.fingerprint());
    }
}
