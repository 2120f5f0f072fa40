//! Numeric features: two floats, the transformed value and a missing flag, or a quantile bucket.
//!
//! Null, NaN, infinities, numbers beyond 1e100 and text that is not a number are missing: value 0,
//! flag 1. Text is trimmed and parsed as a float of Rust, or as people write numbers (`number_text.rs`).

use crate::counts::FeatureCounts;
use crate::encode::Encode;
use crate::error::ColumnError;
use crate::histogram::{Histogram, NUMBERS};
use crate::log1p::signed_ln_1p;
use crate::moments::Moments;
use crate::number_text::DecimalMark;
use crate::numbers::{BLOCK, Block, CLASSES, Reading, class_of, for_each_block};
use crate::quantiles::QuantileCounts;
use crate::values::{ValueMap, by_entries, count_keys};
use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use serde::{Deserialize, Serialize};
use twotower_artifacts::Column;
use twotower_artifacts::raw::{RawFactor, RawScale};
use twotower_artifacts::schema::{FIRST_VALUE, MISSING};

/// The largest magnitude of a standardised value. Larger ones are clipped.
pub(crate) const CLIP: f64 = 10.0;
/// The number of quantile buckets where the configuration gives none.
const DEFAULT_BUCKETS: u32 = 32;

/// How a number becomes a tower's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// (x - mean) / deviation, clipped to ±10.
    #[default]
    Standardise,
    /// sign(x) * ln(1 + |x|), then standardised and clipped: for counts and amounts.
    Log1p,
    /// (x - min) / (max - min), clipped to [0, 1].
    MinMax,
    /// The code of the quantile bucket that holds x.
    QuantileBuckets,
}

/// Configuration of a numeric feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumericSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads; its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The transform, fitted on the table.
    #[serde(default)]
    pub transform: Transform,
    /// Number of buckets, for `quantile_buckets` only; 32 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u32>,
    /// The mark before the fraction of numbers that are text.
    #[serde(default, skip_serializing_if = "DecimalMark::is_point")]
    pub decimal: DecimalMark,
}

impl NumericSpec {
    /// The number of quantile buckets. None for other transforms.
    pub(crate) fn quantile_buckets(&self) -> Option<u32> {
        (self.transform == Transform::QuantileBuckets).then_some(self.buckets.unwrap_or(DEFAULT_BUCKETS))
    }
}

/// What a fit learns of a numeric column, or of the ages of dates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumericBounds {
    /// Mean and deviation of the values, after `log1p` if that is the transform.
    Spread {
        /// Arithmetic mean.
        #[serde(with = "exact")]
        mean: f64,
        /// Population standard deviation, 1 for a constant column.
        #[serde(with = "exact")]
        deviation: f64,
    },
    /// The smallest and the largest value.
    Range {
        /// Smallest.
        #[serde(with = "exact")]
        min: f64,
        /// Largest.
        #[serde(with = "exact")]
        max: f64,
    },
    /// Quantile buckets.
    Edges {
        /// Lower edges of all buckets but the first, strictly increasing.
        #[serde(with = "exact_list")]
        edges: Vec<f64>,
    },
    /// Ages of dates.
    Age {
        /// The newest date, from which ages count: the day since 1970-01-01.
        newest: i32,
        /// Arithmetic mean of the ages' logarithms.
        #[serde(with = "exact")]
        mean: f64,
        /// Their population standard deviation, 1 where all are the same.
        #[serde(with = "exact")]
        deviation: f64,
    },
}

/// Floats as their shortest round-trip text: readable, and exact whatever the JSON parser does.
mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{x:?}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        parse(&String::deserialize(d)?).map_err(D::Error::custom)
    }

    pub(super) fn parse(text: &str) -> Result<f64, String> {
        match text.parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(x),
            _ => Err(format!("`{text}` is not a finite number")),
        }
    }
}

/// A list of [`exact`] floats.
mod exact_list {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(list: &[f64], s: S) -> Result<S::Ok, S::Error> {
        list.iter().map(|x| format!("{x:?}")).collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        let list = Vec::<String>::deserialize(d)?;
        list.iter().map(|text| super::exact::parse(text).map_err(D::Error::custom)).collect()
    }
}

/// What was seen of a numeric column, as its transform needs it.
#[derive(Debug, Clone)]
enum Learnt {
    Spread { log: bool, moments: Box<Moments> },
    Range { min: f64, max: f64 },
    Buckets { buckets: u32, counts: QuantileCounts },
}

/// Learns [`NumericBounds`]. The result does not depend on the order or the split of the data.
#[derive(Debug, Clone)]
pub(crate) struct NumericFit {
    mark: DecimalMark,
    learnt: Learnt,
}

impl NumericFit {
    pub(crate) fn new(spec: &NumericSpec) -> Self {
        let learnt = match spec.transform {
            Transform::Standardise => Learnt::Spread { log: false, moments: Box::default() },
            Transform::Log1p => Learnt::Spread { log: true, moments: Box::default() },
            Transform::MinMax => Learnt::Range { min: f64::INFINITY, max: f64::NEG_INFINITY },
            Transform::QuantileBuckets => {
                let buckets = spec.buckets.unwrap_or(DEFAULT_BUCKETS);
                Learnt::Buckets { buckets, counts: QuantileCounts::default() }
            }
        };
        Self { mark: spec.decimal, learnt }
    }

    pub(crate) fn add(&mut self, column: &ArrayRef) -> Result<(), ColumnError> {
        let column = by_entries(column);
        match column.as_any_dictionary_opt() {
            None => for_each_block(&*column, self.mark, |block| self.add_block(block, |_| 1)),
            Some(dictionary) => {
                let (times, _) = count_keys(dictionary.keys(), dictionary.values().len());
                for_each_block(dictionary.values(), self.mark, |block| self.add_block(block, |entry| times[entry]))
            }
        }
    }

    /// Adds the numbers of a block. `times` says how often that of a row counts.
    fn add_block(&mut self, block: &mut Block, times: impl Fn(usize) -> u64) {
        if let Learnt::Spread { log: true, .. } = self.learnt {
            signed_ln_1p(&mut block.numbers);
        }
        let numbers = block.rows().map(|(row, x)| (x, times(row))).filter(|(_, times)| *times > 0);
        match &mut self.learnt {
            Learnt::Spread { moments, .. } => numbers.for_each(|(x, n)| moments.add(x, n)),
            Learnt::Range { min, max } => {
                // Adding 0.0 turns -0.0 into 0.0, so the result does not depend on which zero comes first.
                numbers.map(|(x, _)| x + 0.0).for_each(|x| (*min, *max) = (min.min(x), max.max(x)));
            }
            Learnt::Buckets { counts, .. } => numbers.for_each(|(x, n)| counts.add(x, n)),
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        match (&mut self.learnt, other.learnt) {
            (Learnt::Spread { moments, .. }, Learnt::Spread { moments: other, .. }) => moments.merge(&other),
            (Learnt::Range { min, max }, Learnt::Range { min: a, max: b }) => {
                (*min, *max) = (min.min(a), max.max(b));
            }
            (Learnt::Buckets { counts, .. }, Learnt::Buckets { counts: other, .. }) => counts.merge(other),
            _ => unreachable!("fits of one feature have one transform"),
        }
    }

    pub(crate) fn finish(self) -> NumericBounds {
        match self.learnt {
            Learnt::Spread { moments, .. } => {
                let (mean, deviation) = moments.mean_and_deviation();
                NumericBounds::Spread { mean, deviation }
            }
            Learnt::Range { min, max } if min <= max => NumericBounds::Range { min, max },
            Learnt::Range { .. } => NumericBounds::Range { min: 0.0, max: 0.0 },
            Learnt::Buckets { buckets, counts } => NumericBounds::Edges { edges: counts.edges(buckets) },
        }
    }
}

impl NumericBounds {
    /// Whether these are valid bounds for the transform of `spec`.
    pub(crate) fn fits(&self, spec: &NumericSpec) -> bool {
        match (self, spec.transform) {
            (NumericBounds::Spread { deviation, .. }, Transform::Standardise | Transform::Log1p) => *deviation > 0.0,
            (NumericBounds::Range { min, max }, Transform::MinMax) => min <= max,
            (NumericBounds::Edges { edges }, Transform::QuantileBuckets) => {
                edges.len() < spec.quantile_buckets().unwrap_or(0) as usize && edges.windows(2).all(|w| w[0] < w[1])
            }
            _ => false,
        }
    }
}

/// Encodes numeric columns: `Dense` of width 2, or `Code` for quantile buckets.
pub(crate) struct NumericEncoder {
    log: bool,
    mark: DecimalMark,
    bounds: NumericBounds,
    floats: Cells<f32>,
    codes: Cells<u32>,
}

/// Whether a class is that of a number.
#[inline(always)]
fn is_number(class: u16) -> bool {
    class < NUMBERS as u16
}

/// Encodes the cells of a column and keeps the class of each.
struct Cells<T> {
    map: ValueMap<(T, u16)>,
    /// For each row of the last column, its encoded value and its class.
    rows: Vec<(T, u16)>,
    /// Counts of the last column's rows by class. Even and odd rows have separate counts, so that successive rows of
    /// one class need not wait for each other.
    tally: Box<[[u32; CLASSES]; 2]>,
}

impl<T> Default for Cells<T> {
    fn default() -> Self {
        Self { map: ValueMap::default(), rows: Vec::new(), tally: Box::new([[0; CLASSES]; 2]) }
    }
}

impl NumericEncoder {
    pub(crate) fn new(spec: &NumericSpec, bounds: NumericBounds) -> Self {
        let log = spec.transform == Transform::Log1p;
        Self { log, mark: spec.decimal, bounds, floats: Cells::default(), codes: Cells::default() }
    }
}

impl<T: Copy> Cells<T> {
    /// Encodes a column. `make` encodes a number, and `missing` is the value of cells without a number. With
    /// `log_first`, numbers go through [`signed_ln_1p`] before `make`.
    fn read(
        &mut self,
        column: &ArrayRef,
        (mark, log_first): (DecimalMark, bool),
        missing: T,
        make: impl Fn(f64) -> T,
        counts: &mut FeatureCounts,
    ) -> Result<(), ColumnError> {
        self.rows.clear();
        let cells = |entries: &ArrayRef, out: &mut Vec<(T, u16)>| {
            for_each_block(entries, mark, |block| {
                let classes = block.classes();
                if log_first {
                    signed_ln_1p(&mut block.numbers);
                }
                // `make` runs for all cells, and the results are chosen afterwards, since a loop without branches
                // vectorises.
                let made: [T; BLOCK] = std::array::from_fn(|cell| make(block.numbers[cell]));
                let rows = made.into_iter().zip(classes).take(block.len());
                out.extend(rows.map(|(made, class)| (if is_number(class) { made } else { missing }, class)));
            })
        };
        let null = (missing, class_of(Reading::Null));
        self.map.map_entries(&by_entries(column), cells, null, &mut self.rows)?;
        self.count(counts);
        Ok(())
    }

    /// Counts the rows of the last column.
    fn count(&mut self, counts: &mut FeatureCounts) {
        let [even, odd] = &mut *self.tally;
        let pairs = self.rows.chunks_exact(2);
        pairs.remainder().iter().for_each(|(_, class)| even[usize::from(*class)] += 1);
        for pair in pairs {
            even[usize::from(pair[0].1)] += 1;
            odd[usize::from(pair[1].1)] += 1;
        }
        let of = |class: usize| u64::from(even[class]) + u64::from(odd[class]);
        let [null, not_finite, junk] =
            [Reading::Null, Reading::NotFinite, Reading::Unreadable].map(|reading| of(usize::from(class_of(reading))));
        counts.values += self.rows.len() as u64;
        counts.missing += null + not_finite + junk;
        counts.not_finite += not_finite;
        counts.junk += junk;
        counts.histogram.merge(&Histogram::new((0..NUMBERS).map(|class| (class as u16, of(class)))));
        [even, odd].into_iter().for_each(|counts| counts.fill(0));
    }
}

impl Encode for NumericEncoder {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError> {
        match (&self.bounds, out) {
            (NumericBounds::Edges { edges }, Column::Code(codes)) => {
                let bucket = |x: f64| FIRST_VALUE + edges.partition_point(|e| *e <= x) as u32;
                self.codes.read(column, (self.mark, false), MISSING, bucket, counts)?;
                codes.extend(self.codes.rows.iter().map(|(code, _)| *code));
            }
            (bounds, Column::Dense { width: 2, values }) => {
                let scale = Scale::of(bounds);
                self.floats.read(column, (self.mark, self.log), 0.0, |x| scale.apply(x), counts)?;
                let flag = |class: u16| f32::from(u8::from(!is_number(class)));
                values.reserve(2 * self.floats.rows.len());
                // Appending from a small array costs less than first filling the column with zeros.
                let mut floats = [[0.0; 2]; BLOCK];
                for rows in self.floats.rows.chunks(BLOCK) {
                    for (to, (x, class)) in floats.iter_mut().zip(rows) {
                        *to = [*x, flag(*class)];
                    }
                    values.extend_from_slice(floats[..rows.len()].as_flattened());
                }
            }
            _ => unreachable!("a numeric feature's column has the shape of its schema"),
        }
        Ok(())
    }
}

/// The function clamp((x - offset) * factor, low, high).
struct Scale {
    offset: f64,
    factor: f64,
    low: f64,
    high: f64,
}

/// How a number is scaled by bounds that are no edges.
pub(crate) fn raw_scale(bounds: &NumericBounds, log: bool) -> RawScale {
    let Scale { offset, factor, low, high } = Scale::of(bounds);
    RawScale { log, offset, factor: RawFactor::Times(factor), low, high }
}

impl Scale {
    fn of(bounds: &NumericBounds) -> Self {
        match bounds {
            NumericBounds::Spread { mean, deviation } => {
                Scale { offset: *mean, factor: 1.0 / deviation, low: -CLIP, high: CLIP }
            }
            NumericBounds::Range { min, max } => {
                let factor = 1.0 / (max - min);
                // The factor is not finite where all values are equal, or nearly so.
                let factor = if factor.is_finite() { factor } else { 0.0 };
                Scale { offset: *min, factor, low: 0.0, high: 1.0 }
            }
            NumericBounds::Edges { .. } | NumericBounds::Age { .. } => {
                unreachable!("quantile buckets are codes, and ages are no numbers")
            }
        }
    }

    #[inline(always)]
    fn apply(&self, x: f64) -> f32 {
        ((x - self.offset) * self.factor).clamp(self.low, self.high) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Int32Type;
    use arrow_array::{Float64Array, Int32Array, StringArray};
    use std::sync::Arc;

    fn spec(transform: Transform, buckets: Option<u32>) -> NumericSpec {
        NumericSpec { name: "x".into(), column: None, transform, buckets, decimal: DecimalMark::Point }
    }

    fn fit(spec: &NumericSpec, column: &ArrayRef) -> NumericEncoder {
        let mut fit = NumericFit::new(spec);
        fit.add(column).unwrap();
        let bounds = fit.finish();
        assert!(bounds.fits(spec), "{bounds:?}");
        let text = serde_json::to_string(&bounds).unwrap();
        NumericEncoder::new(spec, serde_json::from_str(&text).unwrap())
    }

    fn dense(encoder: &mut NumericEncoder, column: &ArrayRef) -> (Vec<f32>, FeatureCounts) {
        let mut out = Column::Dense { width: 2, values: Vec::new() };
        let mut counts = FeatureCounts::default();
        encoder.encode(column, &mut out, &mut counts).unwrap();
        let Column::Dense { values, .. } = out else { unreachable!() };
        (values, counts)
    }

    #[test]
    fn missing_not_finite_and_unreadable_cells_are_zero_with_a_flag_and_counted() {
        let fitted: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0), Some(f64::NAN)]));
        let mut encoder = fit(&spec(Transform::Standardise, None), &fitted);
        let (values, counts) = dense(&mut encoder, &fitted);
        assert_eq!(values, [-1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!((counts.values, counts.missing, counts.not_finite, counts.junk), (4, 2, 1, 0));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["3", " 1.0 ", "1,5", "", "inf", "1e101", "abc"]));
        let (values, counts) = dense(&mut encoder, &text);
        // The histogram is that of this column alone, and of its numbers before any transform.
        assert_eq!((counts.histogram.total(), counts.histogram.median()), (2, Some(1.0)));
        assert_eq!(values[..4], [1.0, 0.0, -1.0, 0.0]);
        assert!(values[4..].chunks(2).all(|v| v == [0.0, 1.0]));
        assert_eq!((counts.missing, counts.not_finite, counts.junk), (5, 2, 2));
    }

    #[test]
    fn text_with_thousands_currencies_and_percents_is_the_number_it_says_by_the_features_decimal_mark() {
        let read = |decimal: DecimalMark, texts: &[&str]| {
            let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
            let spec = NumericSpec { decimal, ..spec(Transform::MinMax, None) };
            let (mut fitted, mut counts) = (NumericFit::new(&spec), FeatureCounts::default());
            fitted.add(&column).unwrap();
            let NumericBounds::Range { min, max } = fitted.finish() else { unreachable!() };
            let mut out = Column::Dense { width: 2, values: Vec::new() };
            NumericEncoder::new(&spec, NumericBounds::Range { min: 0.0, max: 8192.0 })
                .encode(&column, &mut out, &mut counts)
                .unwrap();
            let Column::Dense { values, .. } = out else { unreachable!() };
            (min, max, values.chunks(2).map(|v| v[0] * 8192.0).collect::<Vec<f32>>(), counts.junk)
        };
        let point = read(DecimalMark::Point, &["1,234.50", "¥1,234", "$ 5", "50%", "1,5"]);
        assert_eq!(point, (0.5, 1234.5, vec![1234.5, 1234.0, 5.0, 0.5, 0.0], 1));
        let comma = read(DecimalMark::Comma, &["1.234,50 €", "1.234", "5", "1,5", "1,234.50"]);
        assert_eq!(comma, (1.5, 1234.5, vec![1234.5, 1234.0, 5.0, 1.5, 0.0], 1));
    }

    #[test]
    fn transforms_are_what_their_formulas_say_and_clipped() {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![-3, 0, 1, 10]));
        let far: ArrayRef = Arc::new(Float64Array::from(vec![1e99, -1e99]));
        let logs: Vec<f64> = [-(4f64.ln()), 0.0, 2f64.ln(), 11f64.ln()].to_vec();
        let mean = logs.iter().sum::<f64>() / 4.0;
        let deviation = (logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
        let mut log = fit(&spec(Transform::Log1p, None), &column);
        for (found, log) in dense(&mut log, &column).0.chunks(2).zip(&logs) {
            assert!((f64::from(found[0]) - (log - mean) / deviation).abs() < 1e-6);
        }
        assert_eq!(dense(&mut fit(&spec(Transform::Standardise, None), &column), &far).0, [10.0, 0.0, -10.0, 0.0]);
        let mut range = fit(&spec(Transform::MinMax, None), &column);
        assert_eq!(dense(&mut range, &far).0, [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(dense(&mut range, &(Arc::new(Int32Array::from(vec![10, -3])) as ArrayRef)).0, [1., 0., 0., 0.]);
        let nulls: ArrayRef = Arc::new(Int32Array::from(vec![None, None]));
        for t in [Transform::Standardise, Transform::Log1p, Transform::MinMax] {
            let values = dense(&mut fit(&spec(t, None), &nulls), &column).0;
            assert!(values.iter().all(|v| v.is_finite()), "{t:?} {values:?}");
        }
    }

    #[test]
    fn quantile_buckets_are_codes_below_their_cardinality() {
        let column: ArrayRef = Arc::new(Int32Array::from_iter((0..100).map(Some).chain([None])));
        let mut encoder = fit(&spec(Transform::QuantileBuckets, Some(4)), &column);
        let mut out = Column::Code(Vec::new());
        encoder.encode(&column, &mut out, &mut FeatureCounts::default()).unwrap();
        let Column::Code(codes) = out else { unreachable!() };
        assert_eq!((codes[0], codes[24], codes[25], codes[99], codes[100]), (3, 3, 4, 6, MISSING));
    }

    #[test]
    fn a_dictionary_of_numbers_reads_as_the_plain_column() {
        let texts = ["1.5", "x", "1.5", "7"];
        let plain: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let dictionary: ArrayRef = Arc::new(texts.into_iter().collect::<arrow_array::DictionaryArray<Int32Type>>());
        let spec = spec(Transform::Standardise, None);
        let (mut a, mut b) = (fit(&spec, &plain), fit(&spec, &dictionary));
        assert_eq!(a.bounds, b.bounds);
        assert_eq!(dense(&mut a, &plain), dense(&mut b, &dictionary));
    }
}
