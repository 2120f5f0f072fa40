//! Encoding the rows of one side.

use crate::categorical::VocabularyEncoder;
use crate::counts::{EncodeCounts, FeatureCounts};
use crate::error::{ColumnError, EncoderError};
use crate::spec::{FeatureSpec, SideSpec, name_error};
use crate::variety::Variety;
use crate::vector::VectorEncoder;
use arrow_array::{ArrayRef, RecordBatch};
use twotower_artifacts::{CodeBatch, Column, Side};

/// The encoder of one feature. It reads a column and appends one row to the field's column for each of its rows.
pub(crate) trait Encode: Send {
    fn encode(&mut self, column: &ArrayRef, out: &mut Column, counts: &mut FeatureCounts) -> Result<(), ColumnError>;
}

/// The codes of a column that holds one code per row, according to its schema.
pub(crate) fn codes(column: &mut Column) -> &mut Vec<u32> {
    match column {
        Column::Code(codes) => codes,
        _ => unreachable!("the feature's column holds one code a row"),
    }
}

/// Encodes batches of one side; made by [`crate::EncoderState::encoder`].
///
/// It remembers the last dictionary of each column, so that the batches of one Parquet row group map it once. So keep
/// one encoder per worker thread.
pub struct SideEncoder {
    pub(crate) side: Side,
    pub(crate) features: Vec<FeatureEncoder>,
}

/// One feature of a [`SideEncoder`].
pub(crate) struct FeatureEncoder {
    pub(crate) spec: FeatureSpec,
    /// The column read and its encoder. None for sequences, which are filled elsewhere.
    pub(crate) source: Option<(String, Box<dyn Encode>)>,
}

impl SideEncoder {
    /// Appends the batch's rows to `out`, a batch of this side's schema, in schema order.
    ///
    /// Sequence columns get empty rows. Returns counts of the cells per feature.
    ///
    /// # Errors
    /// [`EncoderError::MissingColumn`], [`EncoderError::ColumnType`], [`EncoderError::VectorLength`] or
    /// [`EncoderError::VectorElement`], with rows counted from 0 in `batch`. After an error, `out` may
    /// hold some columns of some rows: clear it.
    ///
    /// # Panics
    /// When `out` was made from another schema.
    pub fn encode(&mut self, batch: &RecordBatch, out: &mut CodeBatch) -> Result<EncodeCounts, EncoderError> {
        assert_eq!(out.columns.len(), self.features.len(), "the batch has the columns of the encoder's schema");
        let mut counts = EncodeCounts { rows: batch.num_rows() as u64, ..EncodeCounts::default() };
        for (feature, out) in self.features.iter_mut().zip(&mut out.columns) {
            let Some((column, encoder)) = &mut feature.source else {
                let Column::Ragged(rows) = out else { unreachable!("a sequence feature's column is ragged") };
                (0..batch.num_rows()).for_each(|_| rows.push_row([]));
                continue;
            };
            let array = find_column(batch, self.side, feature.spec.name(), column)?;
            let (first, mut met) = (out.rows(), FeatureCounts::default());
            encoder.encode(array, out, &mut met).map_err(|e| name_error(e, self.side, &feature.spec, column, array))?;
            met.variety = Variety::of(out, first);
            counts.features.insert(feature.spec.name().to_string(), met);
        }
        Ok(counts)
    }
}

impl SideSpec {
    /// Checks whether the vector features in the columns of a batch can be encoded. Vectors in side files are not
    /// checked.
    ///
    /// # Errors
    /// Those of [`SideEncoder::encode`] on these features.
    pub fn check_vectors(&self, side: Side, batch: &RecordBatch) -> Result<(), EncoderError> {
        for feature in &self.features {
            let (FeatureSpec::Vector(spec), Some(column)) = (feature, feature.input(&self.id_column)) else { continue };
            if spec.file.is_some() {
                continue;
            }
            let array = find_column(batch, side, feature.name(), column)?;
            let mut scratch = Column::Dense { width: spec.dim as usize + 1, values: Vec::new() };
            let encoded = VectorEncoder::new(spec).encode(array, &mut scratch, &mut FeatureCounts::default());
            encoded.map_err(|e| name_error(e, side, feature, column, array))?;
        }
        Ok(())
    }
}

/// The column of a batch that a feature reads.
pub(crate) fn find_column<'b>(
    batch: &'b RecordBatch,
    side: Side,
    feature: &str,
    column: &str,
) -> Result<&'b ArrayRef, EncoderError> {
    batch.column_by_name(column).ok_or_else(|| EncoderError::MissingColumn {
        side,
        feature: feature.to_string(),
        column: column.to_string(),
        found: batch.schema_ref().fields().iter().map(|f| f.name().clone()).collect(),
    })
}

impl FeatureEncoder {
    /// The encoder of a feature that reads `column` with its `vocabulary` or fitted `bounds`.
    pub(crate) fn new(
        spec: &FeatureSpec,
        column: Option<&str>,
        vocabulary: Option<std::sync::Arc<crate::Vocabulary>>,
        bounds: Option<crate::NumericBounds>,
    ) -> Self {
        let fitted = bounds.clone();
        let vocabulary = || vocabulary.clone().unwrap_or_else(|| unreachable!("the state holds every vocabulary"));
        let bounds = || bounds.clone().unwrap_or_else(|| unreachable!("the state holds bounds of every numeric"));
        let encoder: Option<Box<dyn Encode>> = match spec {
            FeatureSpec::Categorical(_) | FeatureSpec::Id(_) => Some(Box::new(VocabularyEncoder::new(vocabulary()))),
            FeatureSpec::Boolean(s) => Some(Box::new(crate::boolean::BooleanEncoder::new(s))),
            FeatureSpec::Numeric(s) => Some(Box::new(crate::numeric::NumericEncoder::new(s, bounds()))),
            FeatureSpec::Date(s) => Some(Box::new(crate::date::DateEncoder::new(s, fitted))),
            FeatureSpec::MultiValued(s) => {
                Some(Box::new(crate::multi_valued::MultiValuedEncoder::new(s.clone(), vocabulary())))
            }
            FeatureSpec::Hashed(s) => Some(Box::new(crate::hashed::HashedEncoder::new(s.clone()))),
            FeatureSpec::Vector(s) => Some(Box::new(VectorEncoder::new(s))),
            FeatureSpec::Sequence(_) => None,
        };
        Self { spec: spec.clone(), source: column.map(str::to_string).zip(encoder) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{BooleanBuilder, ListBuilder};
    use arrow_array::types::Float32Type;
    use arrow_array::{Array, ListArray, StringArray};
    use std::sync::Arc;

    /// Checks a batch in which `column` has the name `name`. The vectors are expected in `taste`, with two elements.
    fn checked(column: ArrayRef, name: &str) -> Result<(), EncoderError> {
        let json = serde_json::json!({
            "id_column": "id",
            "features": [
                { "kind": "vector", "name": "taste", "dim": 2 },
                { "kind": "vector", "name": "elsewhere", "dim": 9, "file": "vectors.parquet" },
            ],
        });
        let spec: SideSpec = serde_json::from_value(json).unwrap();
        spec.check_vectors(Side::User, &RecordBatch::try_from_iter_with_nullable([(name, column, true)]).unwrap())
    }

    fn lists(rows: &[Option<&[f32]>]) -> ArrayRef {
        let rows = rows.iter().map(|row| row.map(|row| row.iter().copied().map(Some)));
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
    }

    #[test]
    fn vectors_of_a_batch_are_checked_and_what_is_wrong_is_told_with_its_row() {
        checked(lists(&[Some(&[1.0, 2.0]), None]), "taste").unwrap();
        let long = checked(lists(&[Some(&[1.0, 2.0]), Some(&[1.0, 2.0, 3.0])]), "taste");
        assert!(matches!(long, Err(EncoderError::VectorLength { row: 1, expected: 2, found: 3, .. })), "{long:?}");
        let nan = checked(lists(&[Some(&[1.0, f32::NAN])]), "taste");
        assert!(matches!(nan, Err(EncoderError::VectorElement { row: 0, position: 1, .. })), "{nan:?}");
        let other = checked(lists(&[]), "color");
        assert!(matches!(other, Err(EncoderError::MissingColumn { .. })), "{other:?}");
    }

    #[test]
    fn a_type_that_no_vector_has_is_an_error_without_rows_too() {
        let mut truths = ListBuilder::new(BooleanBuilder::new());
        truths.append_value([Some(true), Some(false)]);
        let text: ArrayRef = Arc::new(StringArray::from(vec!["1 2"]));
        for column in [Arc::new(truths.finish()), text] {
            for rows in [1, 0] {
                let found = checked(column.slice(0, rows), "taste");
                assert!(matches!(found, Err(EncoderError::ColumnType { .. })), "{rows} rows: {found:?}");
            }
        }
        checked(lists(&[]), "taste").unwrap();
    }
}
