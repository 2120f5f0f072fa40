//! Fitting within a memory budget gives the same encoders as without, or an error that says what to change.

use arrow_array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray, types::Int32Type};
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;
use twotower_artifacts::{Category, Side};
use twotower_encoders::{EncoderError, EncoderFit, EncoderState, SideSpec};

fn fresh() -> EncoderFit {
    let user: SideSpec = serde_json::from_value(json!({"id_column": "uid", "features": [
        {"kind": "categorical", "name": "device", "max_size": 20},
        {"kind": "categorical", "name": "number", "min_count": 2},
        {"kind": "multi_valued", "name": "tags", "separator": "|"},
        {"kind": "categorical", "name": "last", "table": "item_id"},
        {"kind": "id", "name": "user", "max_size": 50},
        {"kind": "numeric", "name": "spend", "column": "number"},
    ]}))
    .unwrap();
    let item: SideSpec = serde_json::from_value(json!({"id_column": "iid", "features": [
        {"kind": "id", "name": "item"},
    ]}))
    .unwrap();
    EncoderFit::new(user, item).unwrap()
}

fn users(rows: &[(u16, i16, u8)]) -> RecordBatch {
    let text = |f: &dyn Fn(&(u16, i16, u8)) -> String| rows.iter().map(f).collect::<Vec<_>>();
    let tags = text(&|r| format!("t{}|x{}", r.2 % 16, r.0 % 100));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("uid", Arc::new(StringArray::from(text(&|r| format!("u{}", r.0))))),
        ("device", Arc::new(StringArray::from(text(&|r| format!("{:x}", u32::from(r.0) * u32::from(r.2)))))),
        ("number", Arc::new(Int64Array::from_iter(rows.iter().map(|r| (r.1 % 9 != 0).then_some(i64::from(r.1)))))),
        ("tags", Arc::new(tags.iter().map(|t| Some(t.as_str())).collect::<DictionaryArray<Int32Type>>())),
        ("last", Arc::new(StringArray::from(text(&|r| r.2.to_string())))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

fn items() -> RecordBatch {
    RecordBatch::try_from_iter([("iid", Arc::new(Int64Array::from_iter_values(0..40)) as ArrayRef)]).unwrap()
}

fn fit(mut fit: EncoderFit, batches: &[RecordBatch]) -> EncoderFit {
    fit.fit_batch(Side::Item, &items()).unwrap();
    batches.iter().for_each(|b| fit.fit_batch(Side::User, b).unwrap());
    fit
}

/// Every vocabulary with codes, values and counts.
fn vocabularies(state: &EncoderState) -> Vec<(String, u32, String, u64)> {
    let of = |(table, v): (&str, &Arc<twotower_encoders::Vocabulary>)| {
        v.iter().map(|(code, value, n)| (table.to_string(), code, value.to_string(), n)).collect::<Vec<_>>()
    };
    state.vocabularies().flat_map(of).collect()
}

fn assert_same(a: &EncoderState, b: &EncoderState) {
    assert_eq!(vocabularies(a), vocabularies(b));
    assert_eq!(a.fingerprint(), b.fingerprint());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_budget_gives_the_encoders_of_none(
        rows in proptest::collection::vec(any::<(u16, i16, u8)>(), 1..1500),
        batch in 20usize..700,
        budget in prop_oneof![60_000usize..600_000, Just(usize::MAX)],
        today in 0usize..800,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let batches: Vec<RecordBatch> = rows.chunks(batch).map(users).collect();
        let expected = fit(fresh(), &batches).finish().unwrap();
        let bounded = fresh().with_spill(dir.path(), budget);
        assert_same(&fit(bounded.clone(), &batches).finish().unwrap(), &expected);

        let (front, back) = batches.split_at(batches.len() / 2);
        let mut merged = fit(bounded.clone(), front);
        let mut other = bounded.clone();
        back.iter().for_each(|b| other.fit_batch(Side::User, b).unwrap());
        merged.merge(other).unwrap();
        assert_same(&merged.finish().unwrap(), &expected);

        let today = &batches[..today.min(batches.len())];
        let updated = expected.update(fit(bounded, today)).unwrap();
        assert_same(&updated, &expected.update(fit(fresh(), today)).unwrap());
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// 200 batches of 500 new users each.
fn many_users(mut fit: EncoderFit) -> Result<EncoderFit, EncoderError> {
    fit.fit_batch(Side::Item, &items())?;
    for batch in 0..200u32 {
        let rows: Vec<(u16, i16, u8)> =
            (0..500).map(|r| ((batch * 300 + r) as u16, (r * 7) as i16, batch as u8)).collect();
        fit.fit_batch(Side::User, &users(&rows))?;
    }
    Ok(fit)
}

#[test]
fn counts_far_beyond_the_budget_give_the_same_encoders() {
    let dir = tempfile::tempdir().unwrap();
    let bounded = many_users(fresh().with_spill(dir.path(), 400_000)).unwrap();
    assert_same(&bounded.finish().unwrap(), &many_users(fresh()).unwrap().finish().unwrap());
}

#[test]
fn a_vocabulary_beyond_the_budget_names_its_column_and_what_to_change() {
    let spec = |feature: serde_json::Value| -> SideSpec {
        serde_json::from_value(json!({"id_column": "uid", "features": [feature]})).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let run = |feature: serde_json::Value| {
        let item = serde_json::from_value(json!({"id_column": "iid", "features": [{"kind": "id", "name": "i"}]}));
        let mut fit = EncoderFit::new(spec(feature), item.unwrap()).unwrap().with_spill(dir.path(), 100_000);
        for batch in 0..20 {
            let ids = (0..1000).map(|r| format!("user-{:06}", batch * 1000 + r));
            let column: ArrayRef = Arc::new(StringArray::from_iter_values(ids));
            fit.fit_batch(Side::User, &RecordBatch::try_from_iter([("imei", column)]).unwrap()).unwrap();
        }
        fit.finish()
    };
    let error = run(json!({"kind": "categorical", "name": "phone", "column": "imei"})).unwrap_err();
    assert_eq!(error.category(), Category::Usage);
    assert!(matches!(&error, EncoderError::VocabularyTooLarge { values: 20_000, bytes: 1_400_000, .. }), "{error:?}");
    let text = error.to_string();
    for part in ["`user_phone`", "`imei`", "20000 values", "max_size", "min_count", "hashed"] {
        assert!(text.contains(part), "{text}");
    }
    let top = run(json!({"kind": "categorical", "name": "phone", "column": "imei", "max_size": 300})).unwrap();
    assert_eq!(top.vocabulary("user_phone").unwrap().len(), 300);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let missing = tempfile::tempdir().unwrap().path().join("gone");
    let error = many_users(fresh().with_spill(&missing, 1000)).unwrap_err();
    assert!(matches!(&error, EncoderError::Spill { dir, .. } if *dir == missing), "{error}");
    assert!(error.to_string().contains("create a temporary file"), "{error}");
}
