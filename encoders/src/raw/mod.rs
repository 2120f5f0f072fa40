//! Rules by which a graph gives raw values the codes that the encoders here give them ([`twotower_artifacts::raw`]).
//!
//! A rule is exact for every value that its inputs can hold. A feature, or one of its settings, for which ONNX has no such
//! rule is refused with the way out.

mod patterns;
mod values;

use crate::boolean::{BooleanSpec, FALSE, TRUE};
use crate::date::{DateReader, DateSpec, FIRST_DAY, LAST_DAY, date_digits};
use crate::hashed::HashedSpec;
use crate::multi_valued::MultiValuedSpec;
use crate::numeric::{CLIP, NumericBounds, Transform, raw_scale};
use crate::spec::FeatureSpec;
use crate::state::EncoderState;
use crate::values::{Value, canonical_int};
use crate::vocabulary::Vocabulary;
use crate::{DatePart, SequenceSpec, VectorSpec};
use arrow_schema::{DataType, TimeUnit};
use patterns::{Folds, trimmed};
use twotower_artifacts::raw::{
    RawDatePart, RawDay, RawFactor, RawField, RawKeys, RawPatterns, RawRule, RawScale, RawType,
};
use twotower_artifacts::schema::{MISSING, UNKNOWN};
use twotower_artifacts::{FieldSchema, Side, TickUnit};
pub use values::raw_sequences;

/// The most bytes of a vocabulary whose values stand in patterns: every element is compared with all of them.
const PATTERN_BYTES: usize = 128 << 10;

/// What a rule is made for.
#[derive(Debug, Clone, Copy)]
pub struct RawSource<'a> {
    /// Type of the column; for a sequence, that of item ids.
    pub data_type: &'a DataType,
    /// What the times of events count, if it is known.
    pub unit: Option<TickUnit>,
    /// Whether numbers and dates that the column holds in another form are inputs as numbers and days.
    pub typed: bool,
}

/// The type of the raw values of a column without lists; none for one that no input holds.
fn element_type(data_type: &DataType) -> Option<RawType> {
    match data_type {
        DataType::Dictionary(_, entries) => element_type(entries),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(RawType::Text),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Some(RawType::Integer),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => Some(RawType::Integer),
        DataType::Decimal32(_, 0) | DataType::Decimal64(_, 0) | DataType::Decimal128(_, 0) => Some(RawType::Integer),
        DataType::Float32 => Some(RawType::Single),
        DataType::Float16 | DataType::Float64 => Some(RawType::Double),
        DataType::Boolean => Some(RawType::Boolean),
        _ => None,
    }
}

/// The type of the elements of a list.
fn list_element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

fn no_type(data_type: &DataType, instead: &str) -> String {
    format!("no input holds values of type {data_type}; write the column as {instead}")
}

/// The keys of one type among texts with their codes: those that are the canonical text of a value of the type.
fn keys<'t>(element: RawType, entries: impl Iterator<Item = (&'t str, u32)>) -> Result<RawKeys, String> {
    let is = |value: Value<'_>, text: &str| value.text(|found| found == Some(text));
    Ok(match element {
        RawType::Text => {
            RawKeys::Text(entries.filter(|(text, _)| !text.is_empty()).map(|(t, code)| (t.to_string(), code)).collect())
        }
        RawType::Integer => RawKeys::Integer(entries.filter_map(|(t, code)| Some((canonical_int(t)?, code))).collect()),
        RawType::Single => {
            let number = |text: &str| text.parse().ok().filter(|x| is(Value::Single(*x), text));
            RawKeys::Single(entries.filter_map(|(t, code)| Some((number(t)?, code))).collect())
        }
        RawType::Double => {
            let number = |text: &str| text.parse().ok().filter(|x| is(Value::Float(*x), text));
            RawKeys::Double(entries.filter_map(|(t, code)| Some((number(t)?, code))).collect())
        }
        RawType::Boolean => {
            let mut codes = [UNKNOWN; 2];
            entries.for_each(|(text, code)| match text {
                "false" => codes[0] = code,
                "true" => codes[1] = code,
                _ => {}
            });
            RawKeys::Boolean(codes)
        }
        RawType::Code => return Err("codes are no raw values".into()),
    })
}

fn vocabulary_keys(vocabulary: &Vocabulary, data_type: &DataType) -> Result<RawKeys, String> {
    let element = element_type(data_type)
        .ok_or_else(|| no_type(data_type, "text, integers of up to 64 bits, floats or booleans"))?;
    keys(element, vocabulary.iter().map(|(code, value, _)| (value, code)))
}

impl EncoderState {
    /// How the raw values of a feature, given by its number, become what its tower reads.
    ///
    /// # Errors
    /// Why there is no such rule, and the way out.
    ///
    /// # Panics
    /// If there is no such feature.
    pub fn raw_field(&self, side: Side, feature: usize, source: RawSource<'_>) -> Result<RawField, String> {
        let state = &self.side(side).features[feature];
        let vocabulary = || {
            let table = state.spec.vocabulary(side).unwrap_or_default();
            self.vocabulary(&table).ok_or_else(|| format!("its vocabulary `{table}` is missing"))
        };
        let rule = match &state.spec {
            FeatureSpec::Categorical(_) | FeatureSpec::Id(_) => {
                RawRule::Lookup(vocabulary_keys(vocabulary()?, source.data_type)?)
            }
            FeatureSpec::Boolean(spec) => boolean(spec, source)?,
            FeatureSpec::Hashed(spec) => hashed(spec, source)?,
            FeatureSpec::Numeric(spec) => {
                let bounds = state.bounds.as_ref().ok_or("it has no bounds")?;
                numeric(spec.transform, bounds, source)?
            }
            FeatureSpec::Date(spec) => date(spec, state.bounds.as_ref(), source)?,
            FeatureSpec::MultiValued(spec) => multi_valued(spec, vocabulary()?, source)?,
            FeatureSpec::Vector(spec) => vector(spec, source)?,
            FeatureSpec::Sequence(spec) => sequence(spec, vocabulary()?, source)?,
        };
        Ok(RawField { field: self.field(side, feature), rule })
    }

    /// A field that the caller of the graph encodes.
    ///
    /// # Panics
    /// If there is no such feature.
    pub fn encoded_field(&self, side: Side, feature: usize) -> RawField {
        RawField { field: self.field(side, feature), rule: RawRule::Encoded }
    }

    fn field(&self, side: Side, feature: usize) -> FieldSchema {
        self.schema(side).fields.swap_remove(feature)
    }
}

fn boolean(spec: &BooleanSpec, source: RawSource<'_>) -> Result<RawRule, String> {
    let codes = spec.codes().map_err(|text| format!("`{text}` has two meanings"))?;
    let mut codes: Vec<(String, u32)> = codes.into_iter().collect();
    codes.sort();
    match element_type(source.data_type) {
        Some(RawType::Boolean) => Ok(RawRule::Lookup(RawKeys::Boolean([FALSE, TRUE]))),
        Some(RawType::Text) => {
            if !codes.contains(&(String::new(), MISSING)) {
                return Err(
                    "its `missing_values` lack the empty text, which stands for null in ONNX; add \"\" to them".into(),
                );
            }
            let folds = Folds::new();
            let entries = codes.iter().filter_map(|(text, code)| Some((folds.pattern(text)?, *code)));
            Ok(RawRule::Patterns(RawPatterns { bits: trimmed(entries) }))
        }
        Some(element) => Ok(RawRule::Lookup(keys(element, codes.iter().map(|(text, code)| (text.as_str(), *code)))?)),
        None => Err(no_type(source.data_type, "text, integers of up to 64 bits, floats or booleans")),
    }
}

fn hashed(spec: &HashedSpec, source: RawSource<'_>) -> Result<RawRule, String> {
    match element_type(source.data_type) {
        Some(RawType::Integer) => Ok(RawRule::Hash { basis: spec.basis(), buckets: spec.buckets }),
        Some(RawType::Boolean) => Ok(RawRule::Lookup(RawKeys::Boolean(["false", "true"].map(|text| spec.code(text))))),
        _ => Err(format!(
            "ONNX has no hash of {}, only integers and booleans are hashed; make it `categorical`",
            if element_type(source.data_type) == Some(RawType::Text) { "text" } else { "such values" }
        )),
    }
}

fn numeric(transform: Transform, bounds: &NumericBounds, source: RawSource<'_>) -> Result<RawRule, String> {
    let of = match element_type(source.data_type) {
        Some(of @ (RawType::Integer | RawType::Single | RawType::Double | RawType::Boolean)) => of,
        _ if source.typed => RawType::Double,
        Some(RawType::Text) => {
            return Err("ONNX does not read numbers in text; write the column as numbers (in Parquet), or give --typed, with which the tower takes the number".into());
        }
        Some(RawType::Code) | None => {
            let instead = "floats of 64 bits, or give --typed, with which the tower takes the number";
            return Err(no_type(source.data_type, instead));
        }
    };
    Ok(match bounds {
        NumericBounds::Edges { edges } => RawRule::Buckets { of, edges: edges.clone() },
        bounds => RawRule::Scaled { of, scale: raw_scale(bounds, transform == Transform::Log1p) },
    })
}

fn date(spec: &DateSpec, bounds: Option<&NumericBounds>, source: RawSource<'_>) -> Result<RawRule, String> {
    const DAY: i64 = 86_400;
    let whole = |ticks: i64| (RawType::Integer, RawDay::PerDay(ticks));
    let form = match source.data_type {
        DataType::Date32 => Some(whole(1)),
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => Some(whole(DAY * 1_000)),
        DataType::Timestamp(TimeUnit::Second, _) => Some(whole(DAY)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Some(whole(DAY * 1_000_000)),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(whole(DAY * 1_000_000_000)),
        other => match (element_type(other), spec.unit) {
            (Some(of @ (RawType::Integer | RawType::Single | RawType::Double)), Some(unit)) => {
                Some((of, RawDay::PerDay(DAY * unit.per_second())))
            }
            (Some(of @ (RawType::Integer | RawType::Single | RawType::Double)), None) if spec.format.is_none() => {
                Some((of, RawDay::Digits(date_digits(&DateReader::new(spec)))))
            }
            _ if source.typed => Some(whole(1)),
            _ => None,
        },
    };
    let is_text = element_type(source.data_type) == Some(RawType::Text);
    let (of, day) = form.ok_or_else(|| {
        format!(
            "ONNX does not read dates in {}; write the column as dates or timestamps (in Parquet), or give --typed, with which the tower takes the day since 1970-01-01",
            if is_text { "text" } else { "this form" }
        )
    })?;
    let part = match (spec.part, bounds) {
        (DatePart::Age, Some(NumericBounds::Age { newest, mean, deviation })) => RawDatePart::Age {
            newest: i64::from(*newest),
            scale: RawScale { log: true, offset: *mean, factor: RawFactor::Over(*deviation), low: -CLIP, high: CLIP },
        },
        (DatePart::Age, _) => return Err("it has no bounds".into()),
        (DatePart::Weekday, _) => RawDatePart::Weekday,
        (DatePart::Month, _) => RawDatePart::Month,
    };
    Ok(RawRule::Date { of, day, days: (i64::from(FIRST_DAY), i64::from(LAST_DAY)), part })
}

fn multi_valued(spec: &MultiValuedSpec, vocabulary: &Vocabulary, source: RawSource<'_>) -> Result<RawRule, String> {
    let Some(separator) = &spec.separator else {
        let element = list_element(source.data_type).ok_or_else(|| no_type(source.data_type, "lists"))?;
        return Ok(RawRule::List { keys: vocabulary_keys(vocabulary, element)?, max_len: spec.max_len });
    };
    // Elements are trimmed, so a value with a margin is never met.
    let entries = || vocabulary.iter().filter(|(_, value, _)| value.trim() == *value);
    let bytes: usize = entries().map(|(_, value, _)| value.len() + 2).sum();
    if bytes > PATTERN_BYTES {
        return Err(format!(
            "its vocabulary has {bytes} bytes, and elements of text are found by patterns of at most {PATTERN_BYTES}; write the column as lists without `separator`, or set `max_size`"
        ));
    }
    let values = entries().map(|(code, value, _)| (patterns::quoted(value), code));
    let patterns = RawPatterns { bits: trimmed(values.chain([(String::new(), MISSING)])) };
    Ok(RawRule::Split { separator: separator.clone(), patterns, max_len: spec.max_len })
}

fn vector(spec: &VectorSpec, source: RawSource<'_>) -> Result<RawRule, String> {
    let of = match list_element(source.data_type).and_then(element_type) {
        Some(of @ (RawType::Single | RawType::Double)) => of,
        _ => return Err(no_type(source.data_type, "lists of floats")),
    };
    Ok(RawRule::Vector { of, dim: spec.dim, normalise: spec.normalise })
}

fn sequence(spec: &SequenceSpec, vocabulary: &Vocabulary, source: RawSource<'_>) -> Result<RawRule, String> {
    let keys = vocabulary_keys(vocabulary, source.data_type)?;
    let intervals = match (spec.intervals(), source.unit) {
        (None, _) => None,
        (Some(intervals), Some(unit)) => Some((intervals, unit)),
        (Some(_), None) => return Err("what the times of events count is not known; set `timestamp_unit`".into()),
    };
    Ok(RawRule::Sequence { keys, max_len: spec.max_len, intervals })
}
