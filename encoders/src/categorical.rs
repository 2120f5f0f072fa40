//! Categorical features: one code of a vocabulary.
//!
//! Strings, integers, booleans and floats are looked up by their canonical text. So an integer column has the codes of
//! the same column read as text or as floats without a fraction. Null, NaN and the empty string are missing, and a
//! value outside the vocabulary is unknown. Text is neither trimmed nor changed in case.

use crate::counts::FeatureCounts;
use crate::encode::Encode;
use crate::error::ColumnError;
use crate::values::ValueMap;
use crate::vocabulary::Vocabulary;
use arrow_array::ArrayRef;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use twotower_artifacts::Column;

/// Configuration of a categorical feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoricalSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads; its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Values counted less often are unknown.
    #[serde(default = "crate::spec::one")]
    pub min_count: u64,
    /// The most values kept; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
    /// Vocabulary and embedding table, shared with the features that name the same;
    /// `<side>_<name>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

/// Encodes a column with a vocabulary, for categorical features and ids.
pub(crate) struct VocabularyEncoder {
    vocabulary: Arc<Vocabulary>,
    codes: ValueMap<u32>,
}

impl VocabularyEncoder {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, codes: ValueMap::default() }
    }
}

impl Encode for VocabularyEncoder {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError> {
        let out = crate::encode::codes(out);
        let before = out.len();
        self.codes.map_rows(column, |value| self.vocabulary.code(value), out)?;
        counts.tally(&out[before..]);
        Ok(())
    }
}
