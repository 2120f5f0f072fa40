//! Operators on one value a row. Codes are int64 until they are handed to the tower.

use super::super::graph::{GraphBuilder, int, ints, tensor, text, texts};
use super::super::messages::code;
use super::{ML, element};
use twotower_artifacts::raw::{LARGEST_NUMBER, RawDatePart, RawDay, RawFactor, RawKeys, RawScale, RawType};
use twotower_artifacts::schema::{FIRST_VALUE, MISSING, UNKNOWN};

/// An int64 constant, `[1]`.
pub(super) fn whole(g: &mut GraphBuilder, value: i64) -> String {
    g.integer(value, code::INT64)
}

/// A constant of 64-bit floats, `[1]`.
fn double(g: &mut GraphBuilder, value: f64) -> String {
    g.constant(code::DOUBLE, &[1], value.to_le_bytes().to_vec())
}

/// A value as another type.
pub(super) fn to(g: &mut GraphBuilder, x: &str, element: i32) -> String {
    g.node("Cast", &[x], vec![int("to", i64::from(element))])
}

/// One of two values by a condition.
pub(super) fn select(g: &mut GraphBuilder, condition: &str, then: &str, otherwise: &str) -> String {
    g.node("Where", &[condition, then, otherwise], vec![])
}

fn bytes<T, const N: usize>(values: impl Iterator<Item = T>, le: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.flat_map(le).collect()
}

/// Codes of values of any shape. Those of the empty text and of NaN are missing.
pub(super) fn lookup(g: &mut GraphBuilder, keys: &RawKeys, x: &str) -> String {
    let unknown = i64::from(UNKNOWN);
    let codes = |codes: &mut dyn Iterator<Item = u32>| codes.map(i64::from).collect::<Vec<i64>>();
    match keys {
        RawKeys::Text(entries) => {
            let empty = (String::new(), MISSING);
            let all = || std::iter::once(&empty).chain(entries);
            let attributes = vec![
                texts("keys_strings", all().map(|(key, _)| key.clone()).collect()),
                ints("values_int64s", &codes(&mut all().map(|(_, code)| *code))),
                int("default_int64", unknown),
            ];
            g.node_of(Some(ML), "LabelEncoder", &[x], attributes)
        }
        RawKeys::Integer(entries) => {
            // A table has one entry at least.
            let none = [(0, UNKNOWN)];
            let entries = if entries.is_empty() { &none[..] } else { entries };
            let attributes = vec![
                ints("keys_int64s", &entries.iter().map(|(key, _)| *key).collect::<Vec<i64>>()),
                ints("values_int64s", &codes(&mut entries.iter().map(|(_, code)| *code))),
                int("default_int64", unknown),
            ];
            g.node_of(Some(ML), "LabelEncoder", &[x], attributes)
        }
        RawKeys::Single(entries) => {
            let none = [(0.0, UNKNOWN)];
            let entries = if entries.is_empty() { &none[..] } else { entries };
            let keys = bytes(entries.iter(), |(key, _)| key.to_le_bytes());
            of_floats(g, x, RawType::Single, keys, &codes(&mut entries.iter().map(|(_, code)| *code)))
        }
        RawKeys::Double(entries) => {
            let none = [(0.0, UNKNOWN)];
            let entries = if entries.is_empty() { &none[..] } else { entries };
            let keys = bytes(entries.iter(), |(key, _)| key.to_le_bytes());
            of_floats(g, x, RawType::Double, keys, &codes(&mut entries.iter().map(|(_, code)| *code)))
        }
        RawKeys::Boolean([no, yes]) => {
            let [no, yes] = [no, yes].map(|code| whole(g, i64::from(*code)));
            select(g, x, &yes, &no)
        }
    }
}

fn of_floats(g: &mut GraphBuilder, x: &str, of: RawType, keys: Vec<u8>, codes: &[i64]) -> String {
    let values = bytes(codes.iter(), |code| code.to_le_bytes());
    let attributes = vec![
        tensor("keys_tensor", element(of), codes.len(), keys),
        tensor("values_tensor", code::INT64, codes.len(), values),
        tensor("default_tensor", code::INT64, 1, i64::from(UNKNOWN).to_le_bytes().to_vec()),
    ];
    let codes = g.node_of(Some(ML), "LabelEncoder", &[x], attributes);
    let is_nan = g.node("IsNaN", &[x], vec![]);
    let missing = whole(g, i64::from(MISSING));
    select(g, &is_nan, &missing, &codes)
}

/// Codes of texts of any shape, by patterns for bits. Where none fits, unknown.
pub(super) fn bits(g: &mut GraphBuilder, patterns: &[(u32, String)], x: &str) -> String {
    let mut sum: Option<String> = None;
    for (bit, pattern) in patterns {
        let fits = g.node("RegexFullMatch", &[x], vec![text("pattern", pattern)]);
        let fits = to(g, &fits, code::INT64);
        let value = whole(g, 1 << bit);
        let value = g.node("Mul", &[&fits, &value], vec![]);
        sum = Some(match sum {
            None => value,
            Some(sum) => g.node("Add", &[&sum, &value], vec![]),
        });
    }
    let codes = sum.unwrap_or_else(|| whole(g, 0));
    let (zero, unknown) = (whole(g, 0), whole(g, i64::from(UNKNOWN)));
    let is_unknown = g.node("Equal", &[&codes, &zero], vec![]);
    select(g, &is_unknown, &unknown, &codes)
}

/// Codes by the hash of the decimal text of integers.
pub(super) fn hash(g: &mut GraphBuilder, x: &str, basis: u64, buckets: u32) -> String {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let prime = whole(g, PRIME as i64);
    let zero = whole(g, 0);
    // The sign comes first.
    let signed = (basis ^ u64::from(b'-')).wrapping_mul(PRIME);
    let [signed, unsigned] = [signed, basis].map(|state| whole(g, state as i64));
    let is_negative = g.node("Less", &[x, &zero], vec![]);
    let mut state = select(g, &is_negative, &signed, &unsigned);
    let (ten, ascii) = (whole(g, 10), whole(g, i64::from(b'0')));
    for place in (0..=18u32).rev() {
        let power = whole(g, 10i64.pow(place));
        let front = g.node("Div", &[x, &power], vec![]);
        let tens = g.node("Div", &[&front, &ten], vec![]);
        let tens = g.node("Mul", &[&tens, &ten], vec![]);
        let digit = g.node("Sub", &[&front, &tens], vec![]);
        let digit = g.node("Abs", &[&digit], vec![]);
        let byte = g.node("Add", &[&digit, &ascii], vec![]);
        let mixed = g.node("BitwiseXor", &[&state, &byte], vec![]);
        let next = g.node("Mul", &[&mixed, &prime], vec![]);
        state = match place {
            0 => next,
            _ => {
                let is_before = g.node("Equal", &[&front, &zero], vec![]);
                select(g, &is_before, &state, &next)
            }
        };
    }
    let unsigned = |g: &mut GraphBuilder, value: u64| g.constant(code::UINT64, &[1], value.to_le_bytes().to_vec());
    let shift = unsigned(g, 33);
    let mut h = to(g, &state, code::UINT64);
    let fold = |g: &mut GraphBuilder, h: &str| {
        let high = g.node("BitShift", &[h, &shift], vec![text("direction", "RIGHT")]);
        g.node("BitwiseXor", &[h, &high], vec![])
    };
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        let folded = fold(g, &h);
        let factor = unsigned(g, factor);
        h = g.node("Mul", &[&folded, &factor], vec![]);
    }
    let h = fold(g, &h);
    let buckets = unsigned(g, u64::from(buckets));
    let bucket = g.node("Mod", &[&h, &buckets], vec![]);
    let bucket = to(g, &bucket, code::INT64);
    let first = whole(g, i64::from(FIRST_VALUE));
    g.node("Add", &[&bucket, &first], vec![])
}

/// Numbers in 64 bits, and which of them are numbers.
pub(super) struct Numbers {
    x: String,
    is_number: String,
}

/// The numbers of an input. Those that a flag marks, NaN and what is too large are none.
pub(super) fn number(g: &mut GraphBuilder, x: &str, of: RawType, flag: &str) -> Numbers {
    let x = to(g, x, code::DOUBLE);
    let size = g.node("Abs", &[&x], vec![]);
    let largest = double(g, LARGEST_NUMBER);
    let mut is_number = g.node("LessOrEqual", &[&size, &largest], vec![]);
    if matches!(of, RawType::Integer | RawType::Boolean) {
        let is_there = g.node("Not", &[flag], vec![]);
        is_number = g.node("And", &[&is_number, &is_there], vec![]);
    }
    Numbers { x, is_number }
}

/// Codes of buckets.
pub(super) fn bucket(g: &mut GraphBuilder, numbers: &Numbers, edges: &[f64]) -> String {
    let first = whole(g, i64::from(FIRST_VALUE));
    let code = match edges.is_empty() {
        true => first,
        false => {
            let axis = whole(g, 1);
            let x = g.node("Unsqueeze", &[&numbers.x, &axis], vec![]);
            let edges = g.constant(code::DOUBLE, &[edges.len()], bytes(edges.iter(), |edge| edge.to_le_bytes()));
            let is_above = g.node("LessOrEqual", &[&edges, &x], vec![]);
            let is_above = to(g, &is_above, code::INT64);
            let count = g.node("ReduceSum", &[&is_above, &axis], vec![int("keepdims", 0)]);
            g.node("Add", &[&count, &first], vec![])
        }
    };
    let missing = whole(g, i64::from(MISSING));
    select(g, &numbers.is_number, &code, &missing)
}

/// The scaled number and the flag, `[N, 2]`.
pub(super) fn scaled(g: &mut GraphBuilder, numbers: &Numbers, scale: &RawScale) -> String {
    let Numbers { x, is_number } = numbers;
    let mut x = x.clone();
    if scale.log {
        x = signed_ln_1p(g, &x);
    }
    let offset = double(g, scale.offset);
    let x = g.node("Sub", &[&x, &offset], vec![]);
    let x = match scale.factor {
        RawFactor::Times(factor) => {
            let factor = double(g, factor);
            g.node("Mul", &[&x, &factor], vec![])
        }
        RawFactor::Over(divisor) => {
            let divisor = double(g, divisor);
            g.node("Div", &[&x, &divisor], vec![])
        }
    };
    let (low, high) = (double(g, scale.low), double(g, scale.high));
    let x = g.node("Max", &[&x, &low], vec![]);
    let x = g.node("Min", &[&x, &high], vec![]);
    let x = to(g, &x, code::FLOAT);
    let none = g.float(0.0);
    let x = select(g, is_number, &x, &none);
    let is_missing = g.node("Not", &[is_number], vec![]);
    let flag = to(g, &is_missing, code::FLOAT);
    let axis = whole(g, 1);
    let [x, flag] = [&x, &flag].map(|column| g.node("Unsqueeze", &[column, &axis], vec![]));
    g.node("Concat", &[&x, &flag], vec![int("axis", 1)])
}

/// sign(x) ln(1 + |x|). The rounding error of the sum is made up for, so that small numbers keep their digits.
fn signed_ln_1p(g: &mut GraphBuilder, x: &str) -> String {
    let sign = g.node("Sign", &[x], vec![]);
    let size = g.node("Abs", &[x], vec![]);
    let one = double(g, 1.0);
    let sum = g.node("Add", &[&size, &one], vec![]);
    let added = g.node("Sub", &[&sum, &one], vec![]);
    let back = g.node("Sub", &[&sum, &added], vec![]);
    let lost = g.node("Sub", &[&one, &back], vec![]);
    let short = g.node("Sub", &[&size, &added], vec![]);
    let lost = g.node("Add", &[&lost, &short], vec![]);
    let lost = g.node("Div", &[&lost, &sum], vec![]);
    let log = g.node("Log", &[&sum], vec![]);
    let log = g.node("Add", &[&log, &lost], vec![]);
    g.node("Mul", &[&sign, &log], vec![])
}

/// The quotient of whole numbers, rounded down.
pub(super) fn floor_div(g: &mut GraphBuilder, x: &str, by: i64) -> String {
    if by == 1 {
        return x.to_string();
    }
    let divisor = whole(g, by);
    // Division cuts off; what is left tells whether that was up.
    let quotient = g.node("Div", &[x, &divisor], vec![]);
    let back = g.node("Mul", &[&quotient, &divisor], vec![]);
    let is_above = g.node("Less", &[x, &back], vec![]);
    let is_above = to(g, &is_above, code::INT64);
    g.node("Sub", &[&quotient, &is_above], vec![])
}

/// A part of a date as its tower takes it.
pub(super) fn date(
    g: &mut GraphBuilder,
    x: &str,
    of: RawType,
    day: &RawDay,
    (first, last): (i64, i64),
    part: &RawDatePart,
) -> String {
    /// Below this, floats are whole numbers of 64 bits.
    const WHOLE: f64 = 9e18;
    let nowhere = last + 1;
    let ticks = match of {
        RawType::Single | RawType::Double => {
            let x = to(g, x, code::DOUBLE);
            let size = g.node("Abs", &[&x], vec![]);
            let limit = double(g, WHOLE);
            let is_whole = g.node("Less", &[&size, &limit], vec![]);
            let down = g.node("Floor", &[&x], vec![]);
            let none = double(g, -WHOLE);
            let down = select(g, &is_whole, &down, &none);
            to(g, &down, code::INT64)
        }
        RawType::Text | RawType::Integer | RawType::Boolean | RawType::Code => x.to_string(),
    };
    let day = match day {
        RawDay::PerDay(ticks_per_day) => floor_div(g, &ticks, *ticks_per_day),
        RawDay::Digits(days) => {
            let attributes = vec![
                ints("keys_int64s", &days.iter().map(|(number, _)| *number).collect::<Vec<i64>>()),
                ints("values_int64s", &days.iter().map(|(_, day)| *day).collect::<Vec<i64>>()),
                int("default_int64", nowhere),
            ];
            g.node_of(Some(ML), "LabelEncoder", &[&ticks], attributes)
        }
    };
    let (first, last) = (whole(g, first), whole(g, last));
    let from = g.node("GreaterOrEqual", &[&day, &first], vec![]);
    let until = g.node("LessOrEqual", &[&day, &last], vec![]);
    let is_day = g.node("And", &[&from, &until], vec![]);
    let zero = whole(g, 0);
    let day = select(g, &is_day, &day, &zero);
    let code = match part {
        RawDatePart::Age { newest, scale } => {
            let newest = whole(g, *newest);
            let age = g.node("Sub", &[&newest, &day], vec![]);
            let x = to(g, &age, code::DOUBLE);
            return scaled(g, &Numbers { x, is_number: is_day }, scale);
        }
        RawDatePart::Weekday => {
            let (three, seven) = (whole(g, 3), whole(g, 7));
            let since = g.node("Add", &[&day, &three], vec![]);
            g.node("Mod", &[&since, &seven], vec![])
        }
        RawDatePart::Month => month(g, &day),
    };
    let (first, missing) = (whole(g, i64::from(FIRST_VALUE)), whole(g, i64::from(MISSING)));
    let code = g.node("Add", &[&code, &first], vec![]);
    let code = select(g, &is_day, &code, &missing);
    to(g, &code, code::INT32)
}

/// Months of days, from 0 on, by Hinnant's `civil_from_days`. All that is divided is positive.
fn month(g: &mut GraphBuilder, day: &str) -> String {
    let add = |g: &mut GraphBuilder, x: &str, value: i64| {
        let value = whole(g, value);
        g.node("Add", &[x, &value], vec![])
    };
    let times = |g: &mut GraphBuilder, x: &str, value: i64| {
        let value = whole(g, value);
        g.node("Mul", &[x, &value], vec![])
    };
    let over = |g: &mut GraphBuilder, x: &str, value: i64| {
        let value = whole(g, value);
        g.node("Div", &[x, &value], vec![])
    };
    let rest = |g: &mut GraphBuilder, x: &str, value: i64| {
        let value = whole(g, value);
        g.node("Mod", &[x, &value], vec![])
    };
    let shifted = add(g, day, 719_468);
    let of_era = rest(g, &shifted, 146_097);
    let years =
        [(1_460, "Sub"), (36_524, "Add"), (146_096, "Sub")].into_iter().fold(of_era.clone(), |sum, (by, op)| {
            let part = over(g, &of_era, by);
            g.node(op, &[&sum, &part], vec![])
        });
    let year = over(g, &years, 365);
    let days = times(g, &year, 365);
    let leaps = over(g, &year, 4);
    let centuries = over(g, &year, 100);
    let days = g.node("Add", &[&days, &leaps], vec![]);
    let days = g.node("Sub", &[&days, &centuries], vec![]);
    let of_year = g.node("Sub", &[&of_era, &days], vec![]);
    let fives = times(g, &of_year, 5);
    let fives = add(g, &fives, 2);
    let from_march = over(g, &fives, 153);
    let from_january = add(g, &from_march, 2);
    rest(g, &from_january, 12)
}
