//! The operators of each rule of [`twotower_artifacts::raw`].

use super::super::graph::{GraphBuilder, int};
use super::super::messages::code;
use super::lists::{history, kept};
use super::scalars::{bits, bucket, date, hash, lookup, number, scaled, select, to, whole};
use std::collections::BTreeMap;
use twotower_artifacts::raw::{LENGTH_INPUT, MISSING_INPUT, RawField, RawRule, RawType, TIMES_INPUT};
use twotower_artifacts::schema::MISSING;

/// Adds the operators of a field. Returns the names of the values that take the place of its tower's inputs, by these.
pub(super) fn field(g: &mut GraphBuilder, field: &RawField) -> BTreeMap<String, String> {
    let name = field.field.name.as_str();
    let flag = format!("{name}{MISSING_INPUT}");
    let length = format!("{name}{LENGTH_INPUT}");
    let times = format!("{name}{TIMES_INPUT}");
    let mut renamed = BTreeMap::new();
    let result = match &field.rule {
        RawRule::Encoded => return renamed,
        RawRule::Lookup(keys) => {
            let codes = lookup(g, keys, name);
            let codes = or_missing(g, keys.element(), &flag, codes);
            to(g, &codes, code::INT32)
        }
        RawRule::Patterns(patterns) => {
            let codes = bits(g, &patterns.bits, name);
            to(g, &codes, code::INT32)
        }
        RawRule::Hash { basis, buckets } => {
            let codes = hash(g, name, *basis, *buckets);
            let codes = or_missing(g, RawType::Integer, &flag, codes);
            to(g, &codes, code::INT32)
        }
        RawRule::Buckets { of, edges } => {
            let x = number(g, name, *of, &flag);
            let codes = bucket(g, &x, edges);
            to(g, &codes, code::INT32)
        }
        RawRule::Scaled { of, scale } => {
            let x = number(g, name, *of, &flag);
            scaled(g, &x, scale)
        }
        RawRule::Date { of, day, days, part } => date(g, name, *of, day, *days, part),
        RawRule::List { keys, max_len } => {
            let codes = lookup(g, keys, name);
            // Elements behind the length pad.
            let one = whole(g, 1);
            let lengths = g.node("Unsqueeze", &[&length, &one], vec![]);
            let places = places(g, &codes);
            let is_there = g.node("Less", &[&places, &lengths], vec![]);
            let zero = whole(g, 0);
            let is_null = g.node("Less", &[&lengths, &zero], vec![]);
            kept(g, &codes, Some(&is_there), &is_null, *max_len)
        }
        RawRule::Split { separator, patterns, max_len } => {
            let parts = g.node("StringSplit", &[name], vec![super::super::graph::text("delimiter", separator)]);
            g.second_result();
            let codes = bits(g, &patterns.bits, &parts);
            let missing = whole(g, i64::from(MISSING));
            let is_missing = g.node("Equal", &[&codes, &missing], vec![]);
            let is_real = g.node("Not", &[&is_missing], vec![]);
            let counted = to(g, &is_real, code::INT64);
            let one = whole(g, 1);
            let count = g.node("ReduceSum", &[&counted, &one], vec![int("keepdims", 1)]);
            let zero = whole(g, 0);
            let is_null = g.node("Equal", &[&count, &zero], vec![]);
            kept(g, &codes, None, &is_null, *max_len)
        }
        RawRule::Vector { of: _, dim: _, normalise } => vector(g, name, *normalise),
        RawRule::Sequence { keys, max_len, intervals } => {
            let codes = lookup(g, keys, name);
            let history = history(g, &codes, &length, *max_len);
            if let Some((intervals, unit)) = intervals {
                let scaled = history.times(g, &times, *intervals, *unit);
                renamed.insert(times, scaled);
            }
            to(g, &history.codes, code::INT32)
        }
    };
    renamed.insert(name.to_string(), result);
    renamed
}

/// Codes, or that of a missing value where a flag says so, for types that have a flag.
fn or_missing(g: &mut GraphBuilder, of: RawType, flag: &str, codes: String) -> String {
    match of {
        RawType::Integer | RawType::Boolean => {
            let missing = whole(g, i64::from(MISSING));
            select(g, flag, &missing, &codes)
        }
        RawType::Text | RawType::Single | RawType::Double | RawType::Code => codes,
    }
}

/// The number of each column, int64 `[L]`, of `[N, L]`.
fn places(g: &mut GraphBuilder, rows: &str) -> String {
    let length = g.node("Shape", &[rows], vec![int("start", 1)]);
    let length = g.node("Squeeze", &[&length], vec![]);
    let [zero, one] = [0i64, 1].map(|value| g.constant(code::INT64, &[], value.to_le_bytes().to_vec()));
    g.node("Range", &[&zero, &length, &one], vec![])
}

/// The elements of vectors and a flag, `[N, dim + 1]`.
fn vector(g: &mut GraphBuilder, x: &str, normalise: bool) -> String {
    // Elements are 32-bit floats before they are scaled.
    let x = to(g, x, code::FLOAT);
    let zero = whole(g, 0);
    let axis = whole(g, 1);
    let first = g.node("Gather", &[&x, &zero], vec![int("axis", 1)]);
    let is_null = g.node("IsNaN", &[&first], vec![]);
    let flag = to(g, &is_null, code::FLOAT);
    let none = g.float(0.0);
    let mut x = select(g, &is_null, &none, &x);
    if normalise {
        let wide = to(g, &x, code::DOUBLE);
        let squares = g.node("Mul", &[&wide, &wide], vec![]);
        let sum = g.node("ReduceSum", &[&squares, &axis], vec![int("keepdims", 1)]);
        let norm = g.node("Sqrt", &[&sum], vec![]);
        let [nothing, one] = [0.0f64, 1.0].map(|value| g.constant(code::DOUBLE, &[1], value.to_le_bytes().to_vec()));
        let is_long = g.node("Greater", &[&norm, &nothing], vec![]);
        let norm = select(g, &is_long, &norm, &one);
        let scale = g.node("Div", &[&one, &norm], vec![]);
        let unit = g.node("Mul", &[&wide, &scale], vec![]);
        x = to(g, &unit, code::FLOAT);
    }
    g.node("Concat", &[&x, &flag], vec![int("axis", 1)])
}
