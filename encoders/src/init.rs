//! Guesses the kind of a feature from a sample of its column, for `twotower init`.
//!
//! Every guess comes with a line that says why, since a guess is for a person to correct.

use crate::boolean::{BooleanSpec, FALSE, TRUE};
use crate::categorical::CategoricalSpec;
use crate::date::{DateCell, DatePart, DateReader, DateSpec};
use crate::hashed::HashedSpec;
use crate::multi_valued::MultiValuedSpec;
use crate::number_text::{DecimalMark, Marks, marks_of, read_number};
use crate::numeric::{NumericSpec, Transform};
use crate::spec::FeatureSpec;
use crate::values::{count_values, is_text, list_rows};
use crate::vector::VectorSpec;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use std::collections::{BTreeMap, BTreeSet};
use twotower_artifacts::TimeFormat;

/// A column as its sampled rows show it.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSample {
    /// The column's name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: DataType,
    /// Rows sampled.
    pub rows: u64,
    /// Sampled rows that are null, NaN or empty.
    pub missing: u64,
    /// Distinct values with their counts, by canonical text. Empty for list columns.
    pub values: BTreeMap<String, u64>,
    /// Lengths of the shortest and the longest list, for list columns.
    list_lengths: Option<(usize, usize)>,
}

/// What a column seems to be good for.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// The table's id.
    Id,
    /// A feature.
    Feature(FeatureSpec),
    /// Nothing.
    Skip,
}

/// A guess and its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// What the column seems to be good for.
    pub role: Role,
    /// One line, lower case: `guessed boolean: 12 distinct values, 92% true/false-like`.
    pub reason: String,
}

/// The most distinct integers that are taken for categories, however many rows there are.
const FEW: usize = 16;
/// The same where very many rows share them: then each is learned by itself, and what they say need not follow their
/// order. Ages and other quantities mostly have more values.
const SHARED: usize = 50;
/// Rows of the sample that share an integer on average, from which that is so.
const SHARING: u64 = 100;
/// The share of rows that may lack an id, or repeat that of another row, in a column that looks like the table's id.
const SPOILT: f64 = 0.02;
/// The share of distinct values above which a text column is near-unique.
const NEAR_UNIQUE: f64 = 0.5;
/// The share of values that are numbers above which a column is one of numbers.
const NUMBERS: f64 = 0.95;
/// Rows from which a share of distinct values says something of the table. Ten rows of a column that has no more values
/// than these, each as frequent as the others, are all distinct once in 2,700 times (10! / 10^10).
const TELLING: u64 = 10;
/// The first day of 1990 and the last of 2100: the dates of most tables.
const FIRST_OF_OURS: i32 = 7_305;
const LAST_OF_OURS: i32 = 47_846;
/// The share of distinct values above which a column says nothing but which row it is.
const OWN: f64 = 0.9;
/// The share of codes with letters, or of digits that begin with 0, in a column of codes.
const SOME_CODES: f64 = 0.01;
/// How often a postal code must stand in the table to be a category of its own.
const POSTAL_COUNT: u64 = 3;
/// The share of rows whose value would be too rare to be known, above which a column is no feature: half is what the
/// gate `unknown` allows where a job sets nothing else.
const RARE: f64 = 0.5;
/// Words of names of postal codes, and parts of Chinese ones.
const POSTAL: [&str; 7] = ["zip", "zipcode", "postcode", "postal", "postalcode", "pincode", "plz"];
const POSTAL_PARTS: [&str; 3] = ["邮编", "邮政编码", "郵遞區號"];
/// Words of names of other digits that are no quantity.
const CODES: [&str; 4] = ["phone", "tel", "mobile", "code"];
/// Buckets proposed for near-unique text.
const BUCKETS: u32 = 100_000;

impl ColumnSample {
    /// The sample of a column's rows.
    pub fn of(name: impl Into<String>, rows: &ArrayRef) -> Self {
        let mut sample = Self {
            name: name.into(),
            data_type: rows.data_type().clone(),
            rows: rows.len() as u64,
            missing: rows.null_count() as u64,
            values: BTreeMap::new(),
            list_lengths: None,
        };
        if let Some(list) = list_rows(rows) {
            let lengths = list.rows.iter().flatten().map(|(from, to)| to - from);
            sample.list_lengths = lengths.clone().min().zip(lengths.max());
        } else {
            let mut missing = 0;
            let counted = count_values(rows, |value, n| {
                value.text(|text| match text {
                    Some(text) => *sample.values.entry(text.to_string()).or_default() += n,
                    None => missing += n,
                });
            });
            if counted.is_ok() {
                sample.missing = missing;
            }
        }
        sample
    }

    fn present(&self) -> u64 {
        self.rows - self.missing.min(self.rows)
    }

    /// The share of present rows whose value satisfies `test`.
    fn share(&self, test: impl Fn(&str) -> bool) -> f64 {
        let met: u64 = self.values.iter().filter(|(v, _)| test(v)).map(|(_, n)| n).sum();
        met as f64 / self.present().max(1) as f64
    }

    /// Rows of the sample without a value, and rows whose value stands in an earlier one.
    pub fn missing_and_repeated(&self) -> (u64, u64) {
        (self.missing, self.present().saturating_sub(self.values.len() as u64))
    }

    /// How far its rows tell ids: `50 rows, all distinct`, or `50 rows, of which 1 lacks an id and 2 repeat one`.
    pub fn ids(&self) -> String {
        let (missing, repeated) = self.missing_and_repeated();
        let parts = [counted(missing, "lacks an id", "lack an id"), counted(repeated, "repeats one", "repeat one")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match &parts[..] {
            [] => format!("{} rows, all distinct", self.rows),
            parts => format!("{} rows, of which {}", self.rows, parts.join(" and ")),
        }
    }

    /// Whether nearly every row has a value of its own.
    pub fn is_nearly_unique(&self) -> bool {
        let (missing, repeated) = self.missing_and_repeated();
        !self.values.is_empty() && (missing + repeated) as f64 <= SPOILT * self.rows as f64
    }

    /// Whether it holds the row numbers that pandas writes beside the data unless it is told not to.
    pub fn is_index_of_pandas(&self) -> bool {
        self.name.is_empty() || self.name.starts_with("__index_level_") || self.name.starts_with("Unnamed: ")
    }

    fn distinct_share(&self) -> f64 {
        self.values.len() as f64 / self.present().max(1) as f64
    }

    /// Whether one of the name's words is among `words`. Words are separated by `_`, other marks or capitals.
    fn named(&self, words: &[&str]) -> bool {
        let mut split = String::new();
        let mut previous_lower = false;
        for c in self.name.chars() {
            if c.is_uppercase() && previous_lower {
                split.push(' ');
            }
            previous_lower = c.is_lowercase() || c.is_numeric();
            split.extend(if c.is_alphanumeric() { c } else { ' ' }.to_lowercase());
        }
        split.split(' ').any(|word| words.contains(&word))
    }
}

/// `1 lacks`, `2 lack`; none where there are none.
pub fn counted(n: u64, one: &str, several: &str) -> Option<String> {
    match n {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {several}")),
    }
}

/// Guesses what a column is good for, and says why.
pub fn propose(sample: &ColumnSample) -> Proposal {
    let distinct = sample.values.len();
    let skip = |reason: String| Proposal { role: Role::Skip, reason };
    if sample.is_index_of_pandas() {
        return skip("skipped: row numbers that pandas wrote".to_string());
    }
    if matches!(sample.data_type, DataType::Time32(_) | DataType::Time64(_)) {
        return skip("skipped: a time of day".to_string());
    }
    if sample.present() == 0 {
        return skip("skipped: no values in the sample".to_string());
    }
    if matches!(sample.data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) {
        return age(sample, None, format!("its type is {}", sample.data_type));
    }
    if let Some(lengths) = sample.list_lengths {
        return propose_list(sample, lengths);
    }
    if distinct == 0 {
        return skip(format!("skipped: no feature kind reads {}", sample.data_type));
    }
    let id_like = sample.named(&["id", "uid", "uuid", "guid", "key", "msisdn", "imsi", "sku", "asin"])
        || ["编号", "編號", "标识", "番号", "번호"].iter().any(|word| sample.name.contains(word));
    if id_like && sample.is_nearly_unique() {
        return Proposal { role: Role::Id, reason: format!("guessed id: {}", sample.ids()) };
    }
    if distinct == 1 {
        return skip("skipped: one value only".to_string());
    }
    if is_postal(sample) {
        return categories(sample, format!("postal codes, {distinct} distinct"), POSTAL_COUNT);
    }
    if let Some(proposal) = propose_boolean(sample) {
        return proposal;
    }
    if let Some(proposal) = propose_date(sample) {
        return proposal;
    }
    // What is no text has its decimal point where it belongs.
    let marks =
        if is_text(&sample.data_type) { marks_of(sample.values.keys().map(String::as_str)) } else { Marks::None };
    let mark = if let Marks::Certain(mark) = marks { mark } else { DecimalMark::Point };
    let is_number = |v: &str| read_number(v, mark).is_some();
    if sample.share(is_number) > NUMBERS {
        if are_codes(sample, is_number) {
            return categories(sample, format!("digits that are no quantity, {distinct} distinct"), 1);
        }
        return propose_number(sample, id_like, (mark, marks == Marks::Either));
    }
    propose_text(sample)
}

/// Whether the column is named as postal codes are, and nearly all of its values are short.
fn is_postal(sample: &ColumnSample) -> bool {
    let named = sample.named(&POSTAL) || POSTAL_PARTS.iter().any(|part| sample.name.contains(part));
    named && sample.share(|v| v.chars().count() <= 12) > NUMBERS
}

/// Whether the values are codes: some digits begin with 0, or what is no number is as long as the numbers are, which
/// are all of one length, such as 12345 and K1A0B.
fn are_codes(sample: &ColumnSample, is_number: impl Fn(&str) -> bool) -> bool {
    let is_digits = |v: &str| v.bytes().all(|b| b.is_ascii_digit());
    if sample.share(|v| v.len() > 1 && v.starts_with('0') && is_digits(v)) > SOME_CODES {
        return true;
    }
    let (numbers, others): (Vec<&String>, Vec<&String>) = sample.values.keys().partition(|v| is_number(v));
    let Some(length) = numbers.first().map(|v| v.len()).filter(|length| *length >= 4) else { return false };
    let is_code = |v: &&String| v.len() == length && v.bytes().all(|b| b.is_ascii_alphanumeric());
    let have_both = |v: &&String| v.bytes().any(|b| b.is_ascii_digit());
    let some = sample.share(|v| !is_number(v)) > SOME_CODES / 10.0;
    some && numbers.iter().all(|v| is_digits(v) && v.len() == length)
        && others.iter().all(|v| is_code(v) && have_both(v))
}

fn propose_list(sample: &ColumnSample, (shortest, longest): (usize, usize)) -> Proposal {
    let element = match &sample.data_type {
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => f.data_type(),
        other => other,
    };
    if element.is_floating() {
        return if shortest == longest && longest > 0 {
            let spec = VectorSpec {
                name: sample.name.clone(),
                column: None,
                dim: longest as u32,
                normalise: true,
                file: None,
                file_id: None,
            };
            feature(FeatureSpec::Vector(spec), format!("lists of {longest} floats"))
        } else {
            let reason = format!("skipped: lists of {shortest} to {longest} floats, a vector has one length");
            Proposal { role: Role::Skip, reason }
        };
    }
    multi_valued(sample, None, longest, format!("lists of {shortest} to {longest} elements"))
}

fn propose_boolean(sample: &ColumnSample) -> Option<Proposal> {
    let spec = BooleanSpec::new(&sample.name, None);
    let codes = spec.codes().ok()?;
    let code = |v: &str| codes.get(v.trim().to_lowercase().as_str()).copied();
    let is_flag = |v: &str| matches!(code(v), Some(FALSE | TRUE));
    let share = sample.share(is_flag);
    let flags: BTreeSet<_> = sample.values.keys().filter_map(|v| code(v)).collect();
    let both = flags.contains(&FALSE) && flags.contains(&TRUE);
    // Numbers other than 0 and 1 are categories or counts, not junk.
    let numbers = sample.share(|v| !is_flag(v) && v.trim().parse::<f64>().is_ok());
    (both && share >= 0.8 && numbers < 0.02).then(|| {
        let distinct = sample.values.len();
        feature(
            FeatureSpec::Boolean(spec),
            format!("{distinct} distinct values, {:.0}% true/false-like", share * 100.0),
        )
    })
}

/// The age of a date.
fn age(sample: &ColumnSample, format: Option<&str>, reason: String) -> Proposal {
    let (name, format) = (sample.name.clone(), format.map(str::to_string));
    let spec = DateSpec { name, column: None, part: DatePart::Age, format, unit: None };
    let reason = format!("{reason}: its age in days; `part = \"weekday\"` and `\"month\"` are the others");
    feature(FeatureSpec::Date(spec), reason)
}

/// Text, or digits, that say dates.
fn propose_date(sample: &ColumnSample) -> Option<Proposal> {
    let is_number = |v: &str| v.trim().parse::<f64>().is_ok();
    let are_numbers = sample.share(is_number) > 0.95;
    let default = DateSpec { name: String::new(), column: None, part: DatePart::Age, format: None, unit: None };
    let reader = DateReader::new(&default);
    let is_date = |v: &str| match reader.read_text(v) {
        // Of our years: 19000101 is a number too.
        DateCell::Day(day) => !are_numbers || (FIRST_OF_OURS..=LAST_OF_OURS).contains(&day),
        DateCell::OutOfRange => !are_numbers,
        DateCell::Null | DateCell::Unreadable => false,
    };
    let share = sample.share(is_date);
    // One number in a hundred thousand is such a date: a column of them is no accident.
    if share > 0.95 && (!are_numbers || (share == 1.0 && sample.values.len() > 2)) {
        return Some(age(sample, None, "dates that begin with the year".to_string()));
    }
    let texts = sample.values.keys().map(String::as_str);
    let pattern = if are_numbers { None } else { TimeFormat::pattern_of(texts) }?;
    let reason = format!("dates written as `{pattern}` (check which number is the day)");
    Some(age(sample, Some(pattern), reason))
}

fn propose_number(sample: &ColumnSample, id_like: bool, (mark, is_ambiguous): (DecimalMark, bool)) -> Proposal {
    let distinct = sample.values.len();
    let whole = sample.share(|v| v.trim().parse::<i64>().is_ok()) > 0.99;
    let digits = whole && sample.named(&CODES);
    if digits || (whole && id_like) {
        let what = if digits { "digits that are no quantity" } else { "ids of something else" };
        return categories(sample, format!("{what}, {distinct} distinct"), 1);
    }
    if whole && distinct <= FEW {
        return categories(sample, format!("{distinct} distinct integers"), 1);
    }
    let sharing = sample.present() / distinct.max(1) as u64;
    if whole && distinct <= SHARED && sharing >= SHARING {
        let reason = format!(
            "{distinct} distinct integers, each of {sharing} rows on average: enough to learn each by itself, in whatever order they are"
        );
        return categories(sample, reason, 1);
    }
    let mut numbers: Vec<(f64, u64)> =
        sample.values.iter().filter_map(|(v, n)| Some((read_number(v, mark).filter(|x| x.is_finite())?, *n))).collect();
    numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: u64 = numbers.iter().map(|(_, n)| n).sum();
    let mut below = 0;
    let median = numbers.iter().find(|(_, n)| (below += n, below * 2 >= total).1).map_or(0.0, |(x, _)| *x);
    let (min, max) = (numbers.first().map_or(0.0, |x| x.0), numbers.last().map_or(0.0, |x| x.0));
    let skewed = min >= 0.0 && max > 20.0 * median.max(1.0);
    let (transform, shape) =
        if skewed { (Transform::Log1p, "long-tailed") } else { (Transform::Standardise, "not long-tailed") };
    let written = match (mark, is_ambiguous) {
        (DecimalMark::Comma, _) => ", written with a decimal comma".to_string(),
        (DecimalMark::Point, false) => String::new(),
        (DecimalMark::Point, true) => {
            let two_ways = |v: &&String| read_number(v, DecimalMark::Comma) != read_number(v, mark);
            let example = sample.values.keys().find(two_ways).map_or("1,234", String::as_str);
            let read = read_number(example, mark).unwrap_or_default();
            format!(", `{example}` read as {read} (where the comma stands before the fraction, set decimal = \",\")")
        }
    };
    let other = sample.values.keys().find(|v| read_number(v, mark).is_none()).map_or(String::new(), |other| {
        let share = 100.0 * sample.share(|v| read_number(v, mark).is_none());
        format!("; {share:.1}% of the values are no numbers, such as `{other}`, and count as missing")
    });
    let spec = NumericSpec { name: sample.name.clone(), column: None, transform, buckets: None, decimal: mark };
    let reason = format!("numbers from {min} to {max}, median {median}, {shape}{written}{other}");
    feature(FeatureSpec::Numeric(spec), reason)
}

fn propose_text(sample: &ColumnSample) -> Proposal {
    let distinct = sample.values.len();
    for separator in ["|", ";", ","] {
        let share = sample.share(|v| v.contains(separator));
        // A separator joins the same elements in many combinations, unlike the commas of prose.
        let elements: Vec<&str> = sample.values.keys().flat_map(|v| v.split(separator)).map(str::trim).collect();
        let different: BTreeSet<_> = elements.iter().collect();
        let words = elements.iter().map(|e| e.split_whitespace().count()).max().unwrap_or(0);
        if share >= 0.2 && different.len() * 2 <= elements.len() && (separator == "|" || words <= 4) {
            let longest = sample.values.keys().map(|v| v.split(separator).count()).max().unwrap_or(1);
            let reason = format!("{:.0}% of values have `{separator}`, {} elements", share * 100.0, different.len());
            return multi_valued(sample, Some(separator), longest, reason);
        }
    }
    let prose = sample.share(|v| v.split_whitespace().count() >= 4);
    if sample.rows >= 20 && sample.distinct_share() > NEAR_UNIQUE && prose > 0.5 {
        let reason = "skipped: free text; give an embedding of it as a vector feature".to_string();
        return Proposal { role: Role::Skip, reason };
    }
    categories(sample, format!("text, {distinct} distinct"), 1)
}

/// Categorical with values that stand `min_count` times at the least, or hashed where most rows have their own value, or
/// none where nearly all have.
fn categories(sample: &ColumnSample, reason: String, min_count: u64) -> Proposal {
    let (name, column) = (sample.name.clone(), None);
    if sample.present() >= TELLING && sample.distinct_share() > OWN {
        let reason = format!("skipped: {reason}: nearly every row has its own, so it says nothing of other rows");
        return Proposal { role: Role::Skip, reason };
    }
    if sample.present() >= 1000 && sample.distinct_share() > NEAR_UNIQUE && min_count == 1 {
        let spec = HashedSpec { name, column, buckets: BUCKETS, seed: 0 };
        return feature(FeatureSpec::Hashed(spec), format!("{reason}, near-unique"));
    }
    let rare: u64 = sample.values.values().filter(|n| **n < min_count).sum();
    let share = rare as f64 / sample.present().max(1) as f64;
    if share > RARE {
        let reason = format!(
            "skipped: {reason}: {:.0}% of the rows have one that stands fewer than {min_count} times, so it says little of other rows",
            share * 100.0
        );
        return Proposal { role: Role::Skip, reason };
    }
    let reason = match min_count {
        1 => reason,
        least => format!("{reason}; those that stand fewer than {least} times count as unknown"),
    };
    let spec = CategoricalSpec { name, column, min_count, max_size: None, table: None };
    feature(FeatureSpec::Categorical(spec), reason)
}

fn multi_valued(sample: &ColumnSample, separator: Option<&str>, longest: usize, reason: String) -> Proposal {
    let spec = MultiValuedSpec {
        name: sample.name.clone(),
        column: None,
        separator: separator.map(str::to_string),
        max_len: longest.next_power_of_two().clamp(8, 256) as u32,
        min_count: 1,
        max_size: None,
        table: None,
    };
    feature(FeatureSpec::MultiValued(spec), reason)
}

fn feature(spec: FeatureSpec, reason: String) -> Proposal {
    let reason = format!("guessed {}: {reason}", spec.kind());
    Proposal { role: Role::Feature(spec), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Float32Type;
    use arrow_array::{FixedSizeListArray, Float64Array, Int64Array, ListArray, StringArray, TimestampSecondArray};
    use std::sync::Arc;

    fn text(rows: impl IntoIterator<Item = String>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows))
    }

    fn kind(name: &str, rows: ArrayRef) -> (String, String) {
        let proposal = propose(&ColumnSample::of(name, &rows));
        let kind = match proposal.role {
            Role::Feature(spec) => spec.kind().to_string(),
            other => format!("{other:?}"),
        };
        (kind, proposal.reason)
    }

    #[test]
    fn columns_of_real_tables_are_guessed_with_a_reason() {
        let cycle = |values: &'static [&str], n: usize| text((0..n).map(|i| values[i % values.len()].to_string()));
        let vectors = (0..4).map(|i| Some((0..3).map(move |j| Some((i + j) as f32))));
        let ragged = [1, 2].map(|n| Some(vec![Some(0.5f32); n]));
        let cases: Vec<(&str, ArrayRef, &str, &str)> = vec![
            ("user_id", text((0..50).map(|i| format!("U{i}"))), "Id", "all distinct"),
            ("userId", Arc::new(Int64Array::from_iter_values(0..50)), "Id", "all distinct"),
            ("artist_id", Arc::new(Int64Array::from_iter_values((0..50).map(|i| i % 40))), "categorical", "ids of"),
            ("is_vip", cycle(&["yes", "No", "1", "0", "Y", "n", "?", "F", "T", "true"], 100), "boolean", "90% true"),
            ("flag", Arc::new(Int64Array::from_iter_values((0..50).map(|i| i % 2))), "boolean", "100% true"),
            ("stars", Arc::new(Int64Array::from_iter_values((0..50).map(|i| i % 5))), "categorical", "5 distinct"),
            ("zip", text((0..60).map(|i| format!("0{}", 1000 + i % 20))), "categorical", "postal codes, 20 distinct"),
            (
                "zip",
                text((0..60).map(|i| format!("0{}", 1000 + i % 30))),
                "Skip",
                "100% of the rows have one that stands fewer",
            ),
            (
                "ZipCode",
                Arc::new(Int64Array::from_iter_values((0..120).map(|i| 10_000 + i % 40))),
                "categorical",
                "postal",
            ),
            (
                "postal_code",
                cycle(&["10115", "K1A0B", "98107-2117", "80331"], 100),
                "categorical",
                "fewer than 3 times",
            ),
            ("邮政编码", cycle(&["100000", "200000", "510000"], 99), "categorical", "postal codes"),
            ("area", text((0..60).map(|i| format!("0{}", 1000 + i % 30))), "categorical", "no quantity"),
            (
                "district",
                text((0..100).map(|i| if i % 50 == 7 { "K1A0B".to_string() } else { format!("{}", 10_000 + i % 40) })),
                "categorical",
                "no quantity",
            ),
            (
                "weight",
                text((0..100).map(|i| if i == 7 { "heavy".to_string() } else { format!("{}.5", i * 13) })),
                "numeric",
                "1.0% of the values are no numbers, such as `heavy`, and count as missing",
            ),
            ("phone", text((0..60).map(|i| format!("1380000{:04}", i % 30))), "categorical", "no quantity"),
            ("mobile", text((0..60).map(|i| format!("1380000{i:04}"))), "Skip", "nearly every row has its own"),
            ("title", text((0..10).map(|i| format!("套餐{i}"))), "Skip", "10 distinct: nearly every row has its own"),
            ("plan", text((0..9).map(|i| format!("套餐{i}"))), "categorical", "9 distinct"),
            ("brand", text((0..40).map(|i| format!("brand {}", i % 30))), "categorical", "30 distinct"),
            (
                "channel",
                Arc::new(Int64Array::from_iter_values((0..2500).map(|i| 1000 + i % 25))),
                "categorical",
                "25 distinct integers, each of 100 rows on average",
            ),
            ("floor", Arc::new(Int64Array::from_iter_values((0..2475).map(|i| i % 25))), "numeric", "from 0 to 24"),
            ("years", Arc::new(Int64Array::from_iter_values((0..9000).map(|i| 18 + i % 60))), "numeric", "from 18 to"),
            ("age", Arc::new(Int64Array::from_iter_values((0..500).map(|i| 18 + i % 60))), "numeric", "not long"),
            ("spend", Arc::new(Float64Array::from_iter_values((0..50).map(|i| 1.5f64.powi(i)))), "numeric", "long-t"),
            ("price", cycle(&["1.5", "2.25", "x", "9"], 100), "categorical", "text"),
            ("genres", cycle(&["Action|Drama", "Drama", "Comedy|Action", "Comedy"], 100), "multi_valued", "`|`"),
            ("city", cycle(&["Oslo", "Rome", "Lima"], 100), "categorical", "3 distinct"),
            ("device", text((0..2000).map(|i| format!("dev-{}", i * 2 / 3))), "hashed", "near-unique"),
            ("serial", text((0..2000).map(|i| format!("dev-{i}"))), "Skip", "says nothing of other rows"),
            ("about", text((0..50).map(|i| format!("this is the text number {i}"))), "Skip", "free text"),
            ("day", text((1..29).map(|i| format!("2024-02-{i:02}"))), "date", "begin with the year"),
            (
                "joined",
                cycle(&["2024/2/1", "2024-02-02", "20240203", "9999-12-31"], 100),
                "date",
                "begin with the year",
            ),
            ("born", text((1..29).map(|i| format!("{i:02}/02/1954"))), "date", "`%d/%m/%Y`"),
            ("seen", text((1..29).map(|i| format!("{i:02}/02/2024"))), "date", "`%d/%m/%Y`"),
            ("since", Arc::new(Int64Array::from_iter_values((1..29).map(|i| 20_240_200 + i))), "date", "the year"),
            ("at", Arc::new(TimestampSecondArray::from(vec![1, 2])), "date", "Timestamp"),
            ("amount", cycle(&["1,234.50", "¥99", "5"], 100), "numeric", "to 1234.5, median 99"),
            ("betrag", cycle(&["1.234,50 €", "99", "5,5"], 100), "numeric", "decimal comma"),
            ("sum", cycle(&["1,234", "2,000", "99"], 100), "numeric", "`1,234` read as 1234"),
            ("rate", cycle(&["12.5%", "50%", "3%"], 100), "numeric", "numbers from 0.03 to 0.5"),
            ("Unnamed: 0", Arc::new(Int64Array::from_iter_values(0..50)), "Skip", "pandas"),
            ("__index_level_0__", Arc::new(Int64Array::from_iter_values(0..50)), "Skip", "pandas"),
            ("客户编号", text((0..50).map(|i| format!("{i:05}"))), "Id", "all distinct"),
            ("uid", text((0..99).chain([7]).map(|i| format!("U{i}"))), "Id", "100 rows, of which 1 repeats one"),
            ("const", cycle(&["x"], 10), "Skip", "one value"),
            ("nothing", Arc::new(Int64Array::from(vec![None, None])), "Skip", "no values"),
            (
                "emb",
                Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 3)),
                "vector",
                "3 floats",
            ),
            ("odd", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(ragged)), "Skip", "1 to 2"),
        ];
        for (name, rows, expected, because) in cases {
            let (kind, reason) = kind(name, rows);
            assert!(kind == expected && reason.contains(because), "{name}: {kind}, {reason}");
        }
    }
}
