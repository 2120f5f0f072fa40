//! TiSASRec (Li, Wang and McAuley, WSDM 2020): [SASRec](crate::sasrec) whose attention reads the time between items, which
//! the sequence of users has by its setting `intervals`.
//!
//! Its settings and their defaults are those of SASRec, and the feature's defaults are those of the authors' code: 50 items
//! and a span of 256. [`crate::tower::intervals`] has the formulas, and says where they depart from the paper; so does
//! `sasrec.rs`. A further departure: the authors' penalty on embeddings is `train.embedding_weight_decay`, which leaves
//! the tables of positions and of intervals alone.

use crate::error::ModelError;
use twotower_artifacts::FieldSchema;

/// Checks that a sequence has intervals.
///
/// # Errors
/// [`ModelError::Setting`] where none has.
pub(crate) fn require_intervals(users: &[FieldSchema]) -> Result<(), ModelError> {
    match users.iter().find(|field| field.shape.intervals().is_none()) {
        None => Ok(()),
        Some(field) => Err(ModelError::Setting {
            setting: "features.user".into(),
            expected: "a sequence with `intervals`, such as `intervals = \"hour\"`, which TiSASRec reads; for the order of items alone take `kind = \"sasrec\"`".into(),
            found: format!("`{}` without them", field.name),
        }),
    }
}

/// Checks that no sequence has intervals, for a model that would not read them.
///
/// # Errors
/// [`ModelError::Setting`] naming the first that has.
pub(crate) fn refuse_intervals(users: &[FieldSchema]) -> Result<(), ModelError> {
    match users.iter().find(|field| field.shape.intervals().is_some()) {
        None => Ok(()),
        Some(field) => Err(ModelError::Setting {
            setting: "features.user".into(),
            expected: "no sequence with `intervals`, which only `kind = \"tisasrec\"` and `pooling = \"attention\"` read; take one of these, or remove `intervals`".into(),
            found: format!("`intervals` of `{}`", field.name),
        }),
    }
}
