//! The parts of an [`Embedding`], as the stages that embed rows look at them.

use super::{Embedder, Embedding};
use crate::error::PipelineError;
use crate::stages::encoded::EncoderFolder;
use crate::timeline::dataset::History;
use arrow_array::RecordBatch;
use std::path::Path;
use twotower_artifacts::{CodeBatch, Fingerprint, IdKind, Ids, TowerSchema};
use twotower_models::engine::EngineKind;
use twotower_tables::{TableBatch, id_column_as};

impl Embedding {
    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The encoder state and the folder that it is in.
    pub fn encoded(&self) -> &EncoderFolder {
        &self.encoded
    }

    /// The inputs of the tower.
    pub fn schema(&self) -> &TowerSchema {
        &self.schema
    }

    /// The file of the tower.
    pub fn tower(&self) -> &Path {
        &self.tower
    }

    /// The histories of users, if the tower reads any.
    pub fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// The columns that features read, of a batch of raw rows.
    ///
    /// # Errors
    /// An id that cannot be read.
    pub fn joined(&self, batch: &TableBatch) -> Result<RecordBatch, PipelineError> {
        self.joins.join(&self.spec, self.schema.side, batch)
    }

    /// The ids of a batch of raw rows.
    ///
    /// # Errors
    /// An id that cannot be read.
    pub fn ids_of(&self, batch: &TableBatch) -> Result<Ids, PipelineError> {
        Ok(id_column_as(batch, &self.spec.id_column, self.ids)?)
    }

    /// Kind of the ids that the run encoded.
    pub fn ids(&self) -> IdKind {
        self.ids
    }

    /// What runs the tower.
    pub fn engine(&self) -> EngineKind {
        self.engine
    }

    /// Fingerprint of both towers.
    pub fn towers(&self) -> &Fingerprint {
        &self.towers
    }
}

impl Embedder<'_> {
    /// The codes of the batch that was encoded last.
    pub fn codes(&self) -> &CodeBatch {
        &self.codes
    }
}
