//! Vector features from a side file keyed by id, joined to raw batches before they are encoded.

use crate::error::PipelineError;
use crate::rows::columns::{read_ids, read_whole};
use crate::rows::id_index::IdIndex;
use crate::rows::strangers::{self, SomeIds};
use crate::watch::cancel::Cancel;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{Field, Schema};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use twotower_artifacts::{Fingerprint, Side};
use twotower_encoders::{FeatureSpec, SideSpec, VectorSpec};
use twotower_tables::{Table, TableBatch, TableSpec, id_column_as};

/// The columns a side's raw table must be read with: its id, and the inputs of features without a side file.
pub fn read_columns(spec: &SideSpec) -> Vec<String> {
    let own: Vec<FeatureSpec> = spec.features.iter().filter(|f| side_file(f).is_none()).cloned().collect();
    let mut columns = SideSpec { id_column: spec.id_column.clone(), features: own }.required_columns();
    if !columns.contains(&spec.id_column) {
        columns.push(spec.id_column.clone());
    }
    columns
}

/// The file that a feature has of its own.
pub fn side_file(feature: &FeatureSpec) -> Option<&str> {
    match feature {
        FeatureSpec::Vector(vector) => vector.file.as_deref(),
        _ => None,
    }
}

/// Columns of the ids and of the vectors in the file that a feature has of its own.
pub fn file_columns<'a>(vector: &'a VectorSpec, spec: &'a SideSpec) -> (&'a str, &'a str) {
    let id = vector.file_id.as_ref().unwrap_or(&spec.id_column);
    (id, vector.column.as_ref().unwrap_or(&vector.name))
}

/// Side files held in memory: all vectors by id.
#[derive(Default)]
pub struct SideFiles(Vec<SideFile>);

struct SideFile {
    side: Side,
    feature: String,
    /// Its name among a stage's inputs.
    input: String,
    ids: IdIndex,
    vectors: ArrayRef,
    fingerprint: Fingerprint,
    /// Rows that were joined, and those of them that the file has a vector for.
    joined: AtomicU64,
    found: AtomicU64,
}

impl SideFiles {
    /// Reads the side files of the given sides, in the way that the job's own tables are read.
    ///
    /// # Memory
    /// All vectors of the files: meant for catalogues, not for users by the million.
    ///
    /// # Errors
    /// Any table error; an id that stands twice.
    pub fn open(sides: &[(Side, &SideSpec, &TableSpec)], cancel: &Cancel) -> Result<Self, PipelineError> {
        let mut files = Vec::new();
        for (side, spec, source) in sides.iter().copied() {
            for feature in &spec.features {
                if let (FeatureSpec::Vector(vector), Some(path)) = (feature, side_file(feature)) {
                    let (id, column) = file_columns(vector, spec);
                    let source = source.beside(path);
                    files.push(SideFile::read(cancel, side, &vector.name, &source, id, column)?);
                }
            }
        }
        Ok(Self(files))
    }

    /// Names and fingerprints of the files.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, Fingerprint)> {
        self.0.iter().map(|f| (f.input.as_str(), f.fingerprint.clone()))
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|f| f.ids.bytes() + f.vectors.get_buffer_memory_size() as u64).sum()
    }

    /// Adds the side files' columns to a raw batch, under the features' names; null where an id is not in the file.
    ///
    /// # Errors
    /// An unreadable id.
    pub fn join(&self, spec: &SideSpec, side: Side, batch: &TableBatch) -> Result<RecordBatch, PipelineError> {
        let mut joined = batch.batch.clone();
        for file in self.0.iter().filter(|f| f.side == side) {
            let ids = id_column_as(batch, &spec.id_column, file.ids.ids().kind())?;
            let rows: UInt64Array = ids.iter().map(|id| file.ids.find(id).map(u64::from)).collect();
            file.joined.fetch_add(rows.len() as u64, Ordering::Relaxed);
            file.found.fetch_add((rows.len() - rows.null_count()) as u64, Ordering::Relaxed);
            let failed = |e| PipelineError::Data(format!("join vectors of `{}`: {e}", file.feature));
            let vectors = arrow_select::take::take(&file.vectors, &rows, None).map_err(failed)?;
            let schema = joined.schema();
            let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new(&file.feature, vectors.data_type().clone(), true)));
            let mut arrays = joined.columns().to_vec();
            arrays.push(vectors);
            joined = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(failed)?;
        }
        Ok(joined)
    }

    /// What a person should know about the files of a side, whose table has `ids`: that one has none of them.
    pub fn warnings(&self, side: Side, ids: impl FnOnce() -> SomeIds) -> Vec<String> {
        let is_strange = |file: &&SideFile| {
            let [joined, found] = [&file.joined, &file.found].map(|count| count.load(Ordering::Relaxed));
            file.side == side && joined > 0 && found == 0
        };
        let strange: Vec<&SideFile> = self.0.iter().filter(is_strange).collect();
        if strange.is_empty() {
            return Vec::new();
        }
        let ids = ids();
        let told = |file: &SideFile| {
            let (input, known) = (&file.input, SomeIds::of(file.ids.ids()));
            let told = strangers::told(&ids, input, &known).unwrap_or_default();
            format!("{input}: their file has no id of the {side}s table, so that all vectors are missing: {told}")
        };
        strange.into_iter().map(told).collect()
    }
}

impl SideFile {
    fn read(
        cancel: &Cancel,
        side: Side,
        feature: &str,
        source: &TableSpec,
        id: &str,
        column: &str,
    ) -> Result<Self, PipelineError> {
        let (name, path) = (format!("vectors of `{feature}`"), source.pattern());
        let table = Table::open(&name, source)?;
        let whole = read_whole(&table, &[column.to_string()], u64::MAX, cancel)?;
        let ids = IdIndex::new(read_ids(&table, id, cancel)?).map_err(|(first, second)| {
            PipelineError::Data(format!(
                "{name}: {path}: rows {first} and {second} have the same id; ids must be unique"
            ))
        })?;
        let vectors = whole.column_by_name(column).cloned().ok_or_else(|| {
            PipelineError::Data(format!("{name}: {path}: column `{column}` was not read; please report this as a bug"))
        })?;
        let input = format!("vectors of {side} feature {feature}");
        let (fingerprint, joined, found) = (table.fingerprint(), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { side, feature: feature.to_string(), input, ids, vectors, fingerprint, joined, found })
    }
}
