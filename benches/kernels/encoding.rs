//! Encoding a batch of 8,192 rows, a feature kind at a time, and hashing bytes; rows or bytes per second.

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Float64Array, RecordBatch, StringArray};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use twotower_artifacts::{CodeBatch, Fingerprint, Side};
use twotower_encoders::{EncoderFit, SideSpec};

const ROWS: usize = 8192;
/// Distinct values of the text columns.
const VALUES: usize = 1000;

/// Text of a row: values recur irregularly, and one row in 16 is null.
fn text(row: usize) -> Option<String> {
    (!row.is_multiple_of(16)).then(|| format!("district {}", row.wrapping_mul(2_654_435_761) % VALUES))
}

fn spec(id: &str, features: Vec<Value>) -> SideSpec {
    serde_json::from_value(json!({ "id_column": id, "features": features })).expect("a valid spec")
}

/// Fits one feature on a column and encodes the column again and again.
fn encode(c: &mut Criterion) {
    let strings: Vec<Option<String>> = (0..ROWS).map(text).collect();
    let plain: ArrayRef = Arc::new(StringArray::from(strings.clone()));
    let dictionary: ArrayRef = Arc::new(strings.iter().map(|v| v.as_deref()).collect::<DictionaryArray<Int32Type>>());
    let numbers: ArrayRef =
        Arc::new((0..ROWS).map(|r| (r % 16 > 0).then_some((r * 37 % 9000) as f64 / 10.0)).collect::<Float64Array>());
    let feature = |kind: &str, more: Value| {
        let mut feature = json!({ "kind": kind, "name": "x" });
        if let (Some(feature), Value::Object(more)) = (feature.as_object_mut(), more) {
            feature.extend(more);
        }
        feature
    };
    let cases = [
        ("categorical_dictionary", feature("categorical", json!({})), &dictionary),
        ("categorical_plain", feature("categorical", json!({})), &plain),
        ("hashed_dictionary", feature("hashed", json!({ "buckets": 100_000 })), &dictionary),
        ("hashed_plain", feature("hashed", json!({ "buckets": 100_000 })), &plain),
        ("numeric_log1p", feature("numeric", json!({ "transform": "log1p" })), &numbers),
        ("numeric_quantiles", feature("numeric", json!({ "transform": "quantile_buckets", "buckets": 50 })), &numbers),
    ];
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, feature, column) in cases {
        let rows = RecordBatch::try_from_iter_with_nullable([("x", column.clone(), true)]).expect("one column");
        let mut fit = EncoderFit::new(spec("x", vec![feature]), spec("i", vec![json!({ "kind": "id", "name": "id" })]))
            .expect("a valid spec");
        fit.fit_batch(Side::User, &rows).expect("the column is of a readable type");
        let state = fit.finish().expect("something was seen");
        let mut encoder = state.encoder(Side::User);
        let mut codes = CodeBatch::empty(&state.schema(Side::User));
        group.bench_function(name, |b| {
            b.iter(|| {
                codes.clear();
                encoder.encode(black_box(&rows), &mut codes).expect("the column was fitted")
            });
        });
    }
    group.finish();
}

/// The hash that every artifact is written through.
fn fingerprint(c: &mut Criterion) {
    let bytes: Vec<u8> = (0..1usize << 20).map(|i| (i * 31 % 251) as u8).collect();
    let mut group = c.benchmark_group("fingerprint");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("1MiB", |b| b.iter(|| Fingerprint::of(black_box(&bytes))));
    group.finish();
}

criterion_group!(benches, encode, fingerprint);
criterion_main!(benches);
