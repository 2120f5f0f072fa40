//! The fitted encoders of both sides: the state on which training, inference and recall must agree.

use crate::counts::EncodeCounts;
use crate::encode::{FeatureEncoder, SideEncoder};
use crate::error::EncoderError;
use crate::fit::EncoderFit;
use crate::numeric::NumericBounds;
use crate::spec::{FeatureSpec, SideSpec};
use crate::values::{ValueMap, canonical_int};
use crate::vocabulary::Vocabulary;
use arrow_array::{Array, ArrayRef, RecordBatch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use twotower_artifacts::schema::{FIRST_VALUE, UNKNOWN};
use twotower_artifacts::{CodeBatch, FieldSchema, Fingerprint, Side, TowerSchema};

/// A feature and what was learned for it, except its vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureState {
    /// The configuration.
    pub spec: FeatureSpec,
    /// Bounds of a numeric feature, or of the age of a date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<NumericBounds>,
}

/// The fitted features of one side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideState {
    /// The table's id column.
    pub id_column: String,
    /// Features in schema order.
    pub features: Vec<FeatureState>,
}

impl SideState {
    /// The configuration this was fitted for.
    pub fn spec(&self) -> SideSpec {
        let features = self.features.iter().map(|f| f.spec.clone()).collect();
        SideSpec { id_column: self.id_column.clone(), features }
    }
}

/// Fitted encoders of both sides and their vocabularies. Cheap to clone: vocabularies are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderState {
    user: SideState,
    item: SideState,
    vocabularies: BTreeMap<String, Arc<Vocabulary>>,
    fingerprint: Fingerprint,
}

impl EncoderState {
    /// Puts the parts together. They must have every vocabulary that a feature uses.
    pub(crate) fn assemble(user: SideState, item: SideState, vocabularies: BTreeMap<String, Arc<Vocabulary>>) -> Self {
        let features = serde_json::to_vec(&(&user.features, &item.features))
            .unwrap_or_else(|e| unreachable!("features are plain data: {e}"));
        let parts = vocabularies.iter().map(|(table, v)| (table.as_str(), v.fingerprint().as_str().as_bytes()));
        let fingerprint = Fingerprint::of_parts(std::iter::once(("features", features.as_slice())).chain(parts));
        Self { user, item, vocabularies, fingerprint }
    }

    /// Yesterday's encoders extended by today's fit.
    ///
    /// Vocabularies keep every code, and new values are appended. Numeric bounds stay as they were, so that
    /// unchanged rows are encoded to the same bits. The features must be the same, except for `min_count` and
    /// `max_size`; today's apply to new values.
    ///
    /// # Errors
    /// [`EncoderError::SpecChanged`] or [`EncoderError::TooManyValues`].
    pub fn update(&self, fit: EncoderFit) -> Result<Self, EncoderError> {
        fit.extend(self)
    }

    /// The fitted features of a side.
    pub fn side(&self, side: Side) -> &SideState {
        match side {
            Side::User => &self.user,
            Side::Item => &self.item,
        }
    }

    /// All vocabularies by table name.
    pub fn vocabularies(&self) -> impl ExactSizeIterator<Item = (&str, &Arc<Vocabulary>)> {
        self.vocabularies.iter().map(|(table, v)| (table.as_str(), v))
    }

    /// The vocabulary of a table.
    pub fn vocabulary(&self, table: &str) -> Option<&Arc<Vocabulary>> {
        self.vocabularies.get(table)
    }

    /// The fingerprint of everything that codes depend on: features in order with their
    /// configuration and bounds, and every vocabulary. The id columns' names are not part of it.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The columns that batches of a side must have.
    pub fn required_columns(&self, side: Side) -> Vec<String> {
        self.side(side).spec().required_columns()
    }

    /// The inputs of a side's tower, one field per feature.
    pub fn schema(&self, side: Side) -> TowerSchema {
        let cardinality = |table: &str| self.vocabulary(table).map_or(FIRST_VALUE, |v| v.cardinality());
        let fields = self
            .side(side)
            .features
            .iter()
            .map(|f| FieldSchema { name: f.spec.name().to_string(), shape: f.spec.shape(side, cardinality) });
        TowerSchema { side, encoder: self.fingerprint.clone(), fields: fields.collect() }
    }

    /// An encoder of one side's rows. Make one per worker thread.
    pub fn encoder(&self, side: Side) -> SideEncoder {
        let state = self.side(side);
        let features = state.features.iter().map(|f| {
            let vocabulary = f.spec.vocabulary(side).and_then(|table| self.vocabulary(&table).cloned());
            FeatureEncoder::new(&f.spec, f.spec.input(&state.id_column), vocabulary, f.bounds.clone())
        });
        SideEncoder { side, features: features.collect() }
    }

    /// Appends a batch's rows to `out`. For many batches, keep an [`EncoderState::encoder`].
    ///
    /// # Errors
    /// As [`SideEncoder::encode`].
    pub fn encode(&self, side: Side, batch: &RecordBatch, out: &mut CodeBatch) -> Result<EncodeCounts, EncoderError> {
        self.encoder(side).encode(batch, out)
    }

    /// The vocabulary of item ids that sequence features use, if there are any.
    pub fn sequence_vocabulary(&self) -> Option<&Arc<Vocabulary>> {
        let sequence = self.user.features.iter().find(|f| matches!(f.spec, FeatureSpec::Sequence(_)))?;
        self.vocabulary(&sequence.spec.vocabulary(Side::User)?)
    }

    /// The code in sequences of an item id given by its canonical text. It is unknown if there are no sequence
    /// features.
    pub fn item_code(&self, id: &str) -> u32 {
        self.sequence_vocabulary().map_or(UNKNOWN, |v| match canonical_int(id) {
            Some(i) => v.lookup_int(i),
            None => v.lookup(id),
        })
    }

    /// The codes in sequences of a column of item ids.
    ///
    /// # Errors
    /// [`EncoderError::ColumnType`].
    pub fn item_codes(&self, ids: &ArrayRef) -> Result<Vec<u32>, EncoderError> {
        let Some(vocabulary) = self.sequence_vocabulary() else { return Ok(vec![UNKNOWN; ids.len()]) };
        let mut codes = Vec::new();
        let mapped = ValueMap::default().map_rows(ids, |value| vocabulary.code(value), &mut codes);
        mapped.map_err(|_| EncoderError::ColumnType {
            side: Side::Item,
            feature: "id".to_string(),
            kind: "id",
            column: self.item.id_column.clone(),
            found: ids.data_type().clone(),
            expected: "text, integers, floats or booleans",
        })?;
        Ok(codes)
    }
}
