//! Configuration of features, and the checks on it.

use crate::boolean::{self, BooleanSpec};
use crate::categorical::CategoricalSpec;
use crate::date::DateSpec;
use crate::error::{ColumnError, EncoderError};
use crate::hashed::HashedSpec;
use crate::id::IdSpec;
use crate::multi_valued::MultiValuedSpec;
use crate::numeric::NumericSpec;
use crate::sequence::SequenceSpec;
use crate::vector::VectorSpec;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use twotower_artifacts::schema::FIRST_VALUE;
use twotower_artifacts::{FieldShape, Side};

/// Default of every `min_count`.
pub(crate) fn one() -> u64 {
    1
}

/// Configuration of one feature, by `kind`; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FeatureSpec {
    /// One value of a vocabulary.
    Categorical(CategoricalSpec),
    /// True, false, missing or unknown.
    Boolean(BooleanSpec),
    /// A number.
    Numeric(NumericSpec),
    /// The age of a date, its day of the week, or its month.
    Date(DateSpec),
    /// Several values of a vocabulary.
    MultiValued(MultiValuedSpec),
    /// A value of unbounded vocabulary, by hash.
    Hashed(HashedSpec),
    /// A list of floats of one length.
    Vector(VectorSpec),
    /// The user's most recent items.
    Sequence(SequenceSpec),
    /// The row's own id.
    Id(IdSpec),
}

/// The features of one side and the column of its ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideSpec {
    /// The table's id column.
    pub id_column: String,
    /// Features in the order of the tower's inputs.
    pub features: Vec<FeatureSpec>,
}

/// A vocabulary that a feature uses, and the limits that the feature sets for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VocabularyUse {
    pub(crate) table: String,
    /// `min_count` and `max_size`; sequences set none.
    pub(crate) limits: Option<(u64, Option<u32>)>,
}

impl FeatureSpec {
    /// The feature's name, which is also the tower's input name.
    pub fn name(&self) -> &str {
        match self {
            FeatureSpec::Categorical(s) => &s.name,
            FeatureSpec::Boolean(s) => &s.name,
            FeatureSpec::Numeric(s) => &s.name,
            FeatureSpec::Date(s) => &s.name,
            FeatureSpec::MultiValued(s) => &s.name,
            FeatureSpec::Hashed(s) => &s.name,
            FeatureSpec::Vector(s) => &s.name,
            FeatureSpec::Sequence(s) => &s.name,
            FeatureSpec::Id(s) => &s.name,
        }
    }

    /// The kind as the configuration writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            FeatureSpec::Categorical(_) => "categorical",
            FeatureSpec::Boolean(_) => "boolean",
            FeatureSpec::Numeric(_) => "numeric",
            FeatureSpec::Date(_) => "date",
            FeatureSpec::MultiValued(_) => "multi_valued",
            FeatureSpec::Hashed(_) => "hashed",
            FeatureSpec::Vector(_) => "vector",
            FeatureSpec::Sequence(_) => "sequence",
            FeatureSpec::Id(_) => "id",
        }
    }

    /// The column that a batch must have for this feature: the configured one, the id column for ids, or the
    /// feature's name for vectors from a side file. None for sequences.
    pub fn input<'s>(&'s self, id_column: &'s str) -> Option<&'s str> {
        let column = match self {
            FeatureSpec::Categorical(s) => s.column.as_deref(),
            FeatureSpec::Boolean(s) => s.column.as_deref(),
            FeatureSpec::Numeric(s) => s.column.as_deref(),
            FeatureSpec::Date(s) => s.column.as_deref(),
            FeatureSpec::MultiValued(s) => s.column.as_deref(),
            FeatureSpec::Hashed(s) => s.column.as_deref(),
            FeatureSpec::Vector(s) if s.file.is_some() => None,
            FeatureSpec::Vector(s) => s.column.as_deref(),
            FeatureSpec::Sequence(_) => return None,
            FeatureSpec::Id(_) => Some(id_column),
        };
        Some(column.unwrap_or(self.name()))
    }

    /// The vocabulary the feature uses, for kinds that have one.
    pub fn vocabulary(&self, side: Side) -> Option<String> {
        self.vocabulary_use(side).map(|v| v.table)
    }

    /// The feature's `min_count` and `max_size`, for kinds that have a vocabulary and limits of their own.
    pub fn vocabulary_limits(&self) -> Option<(u64, Option<u32>)> {
        self.vocabulary_use(Side::User)?.limits
    }

    pub(crate) fn vocabulary_use(&self, side: Side) -> Option<VocabularyUse> {
        let named = |table: &Option<String>, default: String| table.clone().unwrap_or(default);
        match self {
            FeatureSpec::Categorical(s) => Some(VocabularyUse {
                table: named(&s.table, own_table(side, &s.name)),
                limits: Some((s.min_count, s.max_size)),
            }),
            FeatureSpec::MultiValued(s) => Some(VocabularyUse {
                table: named(&s.table, own_table(side, &s.name)),
                limits: Some((s.min_count, s.max_size)),
            }),
            FeatureSpec::Id(s) => Some(VocabularyUse {
                table: named(&s.table, own_table(side, "id")),
                limits: Some((s.min_count, s.max_size)),
            }),
            FeatureSpec::Sequence(s) => {
                Some(VocabularyUse { table: named(&s.table, own_table(Side::Item, "id")), limits: None })
            }
            FeatureSpec::Boolean(_)
            | FeatureSpec::Numeric(_)
            | FeatureSpec::Date(_)
            | FeatureSpec::Hashed(_)
            | FeatureSpec::Vector(_) => None,
        }
    }

    /// The shape of the encoded field. `cardinality` gives the number of slots of a vocabulary.
    pub(crate) fn shape(&self, side: Side, cardinality: impl Fn(&str) -> u32) -> FieldShape {
        let table = self.vocabulary(side).unwrap_or_else(|| own_table(side, self.name()));
        match self {
            FeatureSpec::Categorical(_) | FeatureSpec::Id(_) => {
                FieldShape::Code { cardinality: cardinality(&table), table }
            }
            FeatureSpec::Boolean(_) => FieldShape::Code { table, cardinality: boolean::CARDINALITY },
            FeatureSpec::Numeric(s) => match s.quantile_buckets() {
                Some(buckets) => FieldShape::Code { table, cardinality: FIRST_VALUE + buckets },
                None => FieldShape::Dense { width: 2 },
            },
            FeatureSpec::Date(s) => match s.cardinality() {
                Some(cardinality) => FieldShape::Code { table, cardinality },
                None => FieldShape::Dense { width: 2 },
            },
            FeatureSpec::MultiValued(s) => {
                FieldShape::Bag { cardinality: cardinality(&table), table, max_len: s.max_len }
            }
            FeatureSpec::Hashed(s) => FieldShape::Code { table, cardinality: s.cardinality() },
            FeatureSpec::Vector(s) => FieldShape::Dense { width: s.dim + 1 },
            FeatureSpec::Sequence(s) => {
                let intervals = s.intervals();
                FieldShape::Sequence { cardinality: cardinality(&table), table, max_len: s.max_len, intervals }
            }
        }
    }

    /// The smallest shape of the encoded field, with a vocabulary of one value, for use before anything is fitted.
    pub fn least_shape(&self, side: Side) -> FieldShape {
        self.shape(side, |_| FIRST_VALUE + 1)
    }

    /// The types the kind reads, for messages.
    fn expected_types(&self) -> &'static str {
        match self {
            FeatureSpec::Categorical(_) | FeatureSpec::Boolean(_) | FeatureSpec::Hashed(_) | FeatureSpec::Id(_) => {
                "text, integers, floats or booleans"
            }
            FeatureSpec::Numeric(_) => "numbers, booleans or text that reads as numbers",
            FeatureSpec::Date(_) => "dates, timestamps, or text or numbers that read as dates",
            FeatureSpec::MultiValued(_) => "a list of text or integers without `separator`, or text with a `separator`",
            FeatureSpec::Vector(_) => "a list of floats",
            FeatureSpec::Sequence(_) => "no column",
        }
    }

    /// What is wrong with the feature by itself.
    fn problem(&self) -> Option<String> {
        let zero = |what: &str| Some(format!("{what} is 0, expected at least 1"));
        if self.name().is_empty() {
            return Some("its name is empty".to_string());
        }
        if let Some((0, _)) = self.vocabulary_use(Side::User).and_then(|v| v.limits) {
            return zero("`min_count`");
        }
        if let Some((_, Some(0))) = self.vocabulary_use(Side::User).and_then(|v| v.limits) {
            return zero("`max_size`");
        }
        if self.vocabulary(Side::User).is_some_and(|t| t.is_empty()) {
            return Some("`table` is empty".to_string());
        }
        match self {
            FeatureSpec::Categorical(_) | FeatureSpec::Id(_) => None,
            FeatureSpec::Boolean(s) => {
                let text = s.codes().err()?;
                Some(format!("`{text}` is listed under two of true_values, false_values and missing_values"))
            }
            FeatureSpec::Numeric(s) => match (s.quantile_buckets(), s.buckets) {
                (None, Some(_)) => Some("`buckets` needs `transform = \"quantile_buckets\"`".to_string()),
                (Some(n), _) if !(2..=1 << 16).contains(&n) => {
                    Some(format!("`buckets` is {n}, expected 2 to 65536 quantile buckets"))
                }
                _ => None,
            },
            FeatureSpec::Date(s) => s.problem(),
            FeatureSpec::MultiValued(s) if s.max_len == 0 => zero("`max_len`"),
            FeatureSpec::MultiValued(s) if s.separator.as_deref() == Some("") => {
                Some("`separator` is empty; leave it out for a list column".to_string())
            }
            FeatureSpec::MultiValued(_) => None,
            FeatureSpec::Hashed(s) if s.buckets == 0 => zero("`buckets`"),
            FeatureSpec::Hashed(s) if s.buckets > 1 << 31 => {
                Some(format!("`buckets` is {}, expected at most {}", s.buckets, 1u32 << 31))
            }
            FeatureSpec::Hashed(_) => None,
            FeatureSpec::Vector(s) if s.dim == 0 => zero("`dim`"),
            FeatureSpec::Vector(s) if s.dim > 1 << 16 => {
                Some(format!("`dim` is {}, expected at most {}", s.dim, 1u32 << 16))
            }
            FeatureSpec::Vector(s) if s.file.is_none() && s.file_id.is_some() => {
                Some("`file_id` needs `file`".to_string())
            }
            FeatureSpec::Vector(_) => None,
            FeatureSpec::Sequence(s) if s.max_len == 0 => zero("`max_len`"),
            FeatureSpec::Sequence(s) => s.problem(),
        }
    }

    /// The same feature without the limits, which change no existing code, to compare features of two nights.
    pub(crate) fn without_limits(&self) -> Self {
        let mut spec = self.clone();
        match &mut spec {
            FeatureSpec::Categorical(s) => (s.min_count, s.max_size) = (1, None),
            FeatureSpec::MultiValued(s) => (s.min_count, s.max_size) = (1, None),
            FeatureSpec::Id(s) => (s.min_count, s.max_size) = (1, None),
            FeatureSpec::Boolean(_)
            | FeatureSpec::Numeric(_)
            | FeatureSpec::Date(_)
            | FeatureSpec::Hashed(_)
            | FeatureSpec::Vector(_)
            | FeatureSpec::Sequence(_) => {}
        }
        spec
    }
}

/// The table of a feature that names none. The side is part of its name, so features of two sides do not share a table
/// by accident.
pub(crate) fn own_table(side: Side, name: &str) -> String {
    format!("{side}_{name}")
}

impl SideSpec {
    /// The columns that batches of this side must have: the id column and those of the features,
    /// each once, in order. The column of vectors from a side file has the feature's name.
    pub fn required_columns(&self) -> Vec<String> {
        let inputs = self.features.iter().filter_map(|f| f.input(&self.id_column));
        let mut seen = BTreeSet::new();
        std::iter::once(self.id_column.as_str()).chain(inputs).filter(|c| seen.insert(*c)).map(str::to_string).collect()
    }
}

/// Checks the features of both sides, each and together.
///
/// # Errors
/// [`EncoderError::NoFeatures`], or [`EncoderError::Spec`] naming side and feature: duplicate or empty
/// names, numbers out of range, a boolean text with two meanings, sequences on the item side or over
/// two vocabularies, and tables shared by features that cannot share.
pub fn validate(user: &SideSpec, item: &SideSpec) -> Result<(), EncoderError> {
    let wrong = |side, feature: &str, reason| Err(EncoderError::Spec { side, feature: feature.to_string(), reason });
    // For each table its first user: the side, the feature, and its use of a shared vocabulary, if it has one.
    let mut tables: BTreeMap<String, (Side, &FeatureSpec, Option<VocabularyUse>)> = BTreeMap::new();
    let mut sequences: Option<String> = None;
    for (side, spec) in [(Side::User, user), (Side::Item, item)] {
        if spec.features.is_empty() {
            return Err(EncoderError::NoFeatures { side });
        }
        let mut names = BTreeSet::new();
        for feature in &spec.features {
            let name = feature.name();
            if let Some(reason) = feature.problem() {
                return wrong(side, name, reason);
            }
            if !names.insert(name) {
                return wrong(side, name, "another feature of this side has the same name".to_string());
            }
            if let FeatureSpec::Sequence(_) = feature {
                if side == Side::Item {
                    return wrong(side, name, "a sequence is a user's; move it to the user features".to_string());
                }
                let table = feature.vocabulary(side);
                if sequences.is_some() && sequences != table {
                    return wrong(side, name, "sequences must share one `table`, that of the item ids".to_string());
                }
                sequences = table;
            }
            let used = feature.vocabulary_use(side);
            let Some((table, _)) =
                feature.shape(side, |_| FIRST_VALUE).table().map(|(table, slots)| (table.to_string(), slots))
            else {
                continue;
            };
            let Some((other_side, other, other_use)) = tables.get_mut(&table) else {
                tables.insert(table, (side, feature, used));
                continue;
            };
            let reason = match (&used, &*other_use) {
                (Some(a), Some(b)) => match (a.limits, b.limits) {
                    (Some(a), Some(b)) if a != b => "with another min_count or max_size",
                    (Some(_), None) => {
                        *other_use = used;
                        continue;
                    }
                    _ => continue,
                },
                _ => "which needs a table of its own",
            };
            let reason = format!(
                "table `{table}` is also used by {other_side} feature `{}` ({}), {reason}",
                other.name(),
                other.kind()
            );
            return wrong(side, name, reason);
        }
    }
    // A sequence that names no table uses that of the item ids by its default name, so it must have that name.
    let defaulted = user.features.iter().find(|f| matches!(f, FeatureSpec::Sequence(s) if s.table.is_none()));
    let item_id = item.features.iter().find(|f| matches!(f, FeatureSpec::Id(_))).and_then(|f| f.vocabulary(Side::Item));
    match (defaulted, item_id) {
        (Some(sequence), Some(table)) if sequence.vocabulary(Side::User).as_ref() != Some(&table) => {
            let reason =
                format!("the item ids use table `{table}`; write the same `table` here to share it, or another");
            wrong(Side::User, sequence.name(), reason)
        }
        _ => Ok(()),
    }
}

/// A column's error with the names of its feature.
pub(crate) fn name_error(
    error: ColumnError,
    side: Side,
    spec: &FeatureSpec,
    column: &str,
    array: &ArrayRef,
) -> EncoderError {
    let (feature, column) = (spec.name().to_string(), column.to_string());
    // A dictionary is only a way to hold values, so the message names the type of the values.
    let found = match array.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    match error {
        ColumnError::Type => EncoderError::ColumnType {
            side,
            feature,
            kind: spec.kind(),
            column,
            found,
            expected: spec.expected_types(),
        },
        ColumnError::Length { row, expected, found } => {
            EncoderError::VectorLength { side, feature, column, row: row as u64, expected, found }
        }
        ColumnError::Element { row, position } => {
            EncoderError::VectorElement { side, feature, column, row: row as u64, position }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn side(id: &str, features: serde_json::Value) -> SideSpec {
        serde_json::from_value(json!({"id_column": id, "features": features})).unwrap()
    }

    fn check(user: serde_json::Value, item: serde_json::Value) -> Result<(), String> {
        validate(&side("u", user), &side("i", item)).map_err(|e| {
            assert_eq!(e.category(), twotower_artifacts::Category::Usage);
            e.to_string()
        })
    }

    #[test]
    fn every_kind_reads_with_its_defaults_and_survives_a_round_trip() {
        let all = json!([
            {"kind": "categorical", "name": "a"},
            {"kind": "boolean", "name": "b", "column": "is_b"},
            {"kind": "numeric", "name": "c"},
            {"kind": "numeric", "name": "d", "transform": "quantile_buckets", "buckets": 8},
            {"kind": "multi_valued", "name": "e", "separator": "|"},
            {"kind": "hashed", "name": "f", "buckets": 100},
            {"kind": "vector", "name": "g", "dim": 4, "file": "g.parquet"},
            {"kind": "sequence", "name": "h"},
            {"kind": "sequence", "name": "j", "intervals": "personal", "span": 100},
            {"kind": "id", "name": "i"},
        ]);
        let user = side("uid", all);
        validate(&user, &side("iid", json!([{"kind": "id", "name": "id"}]))).unwrap();
        let back: SideSpec = serde_json::from_str(&serde_json::to_string(&user).unwrap()).unwrap();
        assert_eq!(back, user);
        assert_eq!(user.required_columns(), ["uid", "a", "is_b", "c", "d", "e", "f", "g"]);
        let kinds: Vec<_> = user.features.iter().map(FeatureSpec::kind).collect();
        assert_eq!(kinds[4..], ["multi_valued", "hashed", "vector", "sequence", "sequence", "id"]);
    }

    #[test]
    fn unknown_kinds_and_keys_are_refused_with_the_valid_names() {
        let error = |v| serde_json::from_value::<FeatureSpec>(v).unwrap_err().to_string();
        let kind = error(json!({"kind": "categoric", "name": "a"}));
        assert!(kind.contains("categoric") && kind.contains("`multi_valued`"), "{kind}");
        let key = error(json!({"kind": "hashed", "name": "a", "bucket": 3}));
        assert!(key.contains("`bucket`") && key.contains("`buckets`"), "{key}");
    }

    #[test]
    fn senseless_configurations_are_refused_by_name() {
        let good = json!([{"kind": "categorical", "name": "x"}]);
        assert_eq!(check(good.clone(), good.clone()), Ok(()));
        let cases = [
            (json!([]), "there are none"),
            (json!([{"kind": "categorical", "name": ""}]), "empty"),
            (json!([{"kind": "categorical", "name": "a"}, {"kind": "numeric", "name": "a"}]), "same name"),
            (json!([{"kind": "categorical", "name": "a", "min_count": 0}]), "`min_count` is 0"),
            (json!([{"kind": "id", "name": "a", "max_size": 0}]), "`max_size` is 0"),
            (json!([{"kind": "hashed", "name": "a", "buckets": 0}]), "`buckets` is 0"),
            (json!([{"kind": "numeric", "name": "a", "buckets": 4}]), "quantile_buckets"),
            (json!([{"kind": "numeric", "name": "a", "transform": "quantile_buckets", "buckets": 1}]), "2 to"),
            (json!([{"kind": "multi_valued", "name": "a", "max_len": 0}]), "`max_len` is 0"),
            (json!([{"kind": "multi_valued", "name": "a", "separator": ""}]), "`separator`"),
            (json!([{"kind": "vector", "name": "a", "dim": 0}]), "`dim` is 0"),
            (json!([{"kind": "vector", "name": "a", "dim": 2, "file_id": "x"}]), "`file`"),
            (json!([{"kind": "boolean", "name": "a", "true_values": ["No"]}]), "two of"),
            (json!([{"kind": "sequence", "name": "a"}, {"kind": "sequence", "name": "b", "table": "t"}]), "share one"),
            (json!([{"kind": "sequence", "name": "a", "span": 9}]), "`span` needs `intervals`"),
            (
                json!([{"kind": "sequence", "name": "a", "intervals": "day", "span": 0}]),
                "`span` is 0, expected 1 to 16384",
            ),
            (
                json!([{"kind": "boolean", "name": "a"}, {"kind": "categorical", "name": "b", "table": "user_a"}]),
                "table of its own",
            ),
            (
                json!([
                    {"kind": "categorical", "name": "a", "table": "t"},
                    {"kind": "categorical", "name": "b", "table": "t", "min_count": 2},
                ]),
                "another min_count",
            ),
        ];
        for (user, expected) in cases {
            let error = check(user.clone(), good.clone()).unwrap_err();
            assert!(error.contains(expected), "{user}: {error}");
        }
        let apart =
            check(json!([{"kind": "sequence", "name": "s"}]), json!([{"kind": "id", "name": "i", "table": "p"}]));
        assert!(apart.unwrap_err().contains("the item ids use table `p`"));
        let sequence = check(good, json!([{"kind": "sequence", "name": "s"}])).unwrap_err();
        assert!(sequence.contains("user's"), "{sequence}");
    }
}
