//! `train` without training: an earlier run's towers on encoders that extend that run's.

use crate::config::AdoptSettings;
use crate::error::PipelineError;
use crate::rows::columns::{BATCH_BYTES, BATCH_ROWS, encode_error};
use crate::rows::side_files::{SideFiles, read_columns};
use crate::rows::source::Source;
use crate::run::details::{AdoptDetails, Differences, TowerDetails};
use crate::run::dir::remove_if_there;
use crate::run::files::towers as files;
use crate::run::lock::RunLock;
use crate::run::manifests::details;
use crate::run::mirror;
use crate::run::names::inputs;
use crate::stages::encoded::EncoderFolder;
use crate::stages::output::{Place, Prologue, Summary};
use crate::stages::towers::{publish_tower, towers_fingerprint, verified_in};
use crate::stages::train::{VERIFY_ROWS, check_lineage};
use crate::stages::{Context, Outcome};
use crate::timeline::dataset::History;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use twotower_artifacts::schema::UNKNOWN;
use twotower_artifacts::{ArtifactError, CodeBatch, FieldShape, Histories, Side, TowerSchema};
use twotower_models::onnx;
use twotower_models::tower::Tower;
use twotower_models::train::checkpoint::best_path;
use twotower_tables::{ReadOptions, id_column_as};

/// Publishes the towers of the tower folder `earlier` for the run's encoders, as they are: old codes
/// keep their rows, values that are new since get a copy of the unknown row, and so the vectors that
/// unknown values have.
///
/// # Errors
/// Towers of unrelated encoders or other features; those of [`publish_tower`].
pub fn adopt_towers(context: &Context<AdoptSettings>, earlier: &Path) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = context.step("train");
    let _unchanged = RunLock::take_source(&context.run, earlier)?;
    let encoders = context.run.encoders();
    let encoded = EncoderFolder::load("train", &encoders)?;
    let state = &encoded.state;
    let previous = verified_in("train", earlier)?;
    check_lineage(earlier, &previous, state, &encoded.manifest)?;
    let inputs =
        [(inputs::ENCODERS, state.fingerprint().clone()), (inputs::ADOPTED_TOWERS, previous.fingerprint.clone())];
    let trained_under = previous.config.as_object().ok_or_else(|| ArtifactError::Corrupt {
        path: earlier.join(files::MANIFEST),
        reason: "its `config` is not an object".into(),
    })?;
    let trained_under = trained_under.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let key = context.key("train", inputs, trained_under);
    let place = Place::of_results(context.run.towers(), files::MANIFEST);
    let output = match context.begin(key, place, started, |_| Ok(true))? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    output.prepare(&[files::CHECKPOINTS])?;
    let dir = output.dir();
    let checkpoints = dir.join(files::CHECKPOINTS);

    output.replace()?;
    let mut entries = Vec::new();
    let mut differences = Differences::default();
    let mut grown: BTreeMap<String, u64> = BTreeMap::new();
    let of_previous = details::<TowerDetails>("train", &previous).unwrap_or_default();
    let mut untrained = of_previous.untrained.unwrap_or_default();
    let mut inner_product_scale = None;
    for side in [Side::User, Side::Item] {
        let (tower, _) = onnx::read(&earlier.join(files::tower(side)))?;
        let trained: BTreeMap<String, usize> = tower.tables.iter().map(|(name, t)| (name.clone(), t.rows)).collect();
        let tower = extended(tower, state.schema(side)).map_err(|reason| {
            PipelineError::Mismatch(format!("train: {side} tower of {}: {reason}", earlier.display()))
        })?;
        for (name, table) in &tower.tables {
            let added = (table.rows - trained[name]) as u64;
            // A table that both towers have grows by the same rows in both.
            grown.entry(name.clone()).or_insert(added);
        }
        inner_product_scale = tower.inner_product_scale;
        let sample = sample(context, &encoded, side)?;
        let (difference, files) = publish_tower(&tower, &sample, dir, context.config.engine)?;
        *differences.of(side) = difference;
        entries.extend(files);
    }
    for (name, added) in grown {
        *untrained.entry(name).or_default() += added;
    }
    // For a later run that starts from this one's weights.
    let (from, to) = (best_path(&earlier.join(files::CHECKPOINTS)), best_path(&checkpoints));
    remove_if_there(&to)?;
    if from.exists() {
        twotower_artifacts::publish::link_or_copy(&from, &to)?;
    }
    let details = AdoptDetails {
        adopted_from: &mirror::written(earlier),
        checkpoint: of_previous.checkpoint.filter(|_| to.exists()),
        untrained,
        inner_product_scale,
        differences,
    };
    let (fingerprint, seed) = (Some(towers_fingerprint(dir)?), previous.seed);
    output.publish(Summary { fingerprint, seed, ..Summary::new(entries, previous.rows, details) })
}

/// The tower on a schema whose vocabularies are longer, or as long.
fn extended(mut tower: Tower, schema: TowerSchema) -> Result<Tower, String> {
    if schema.fields.len() != tower.schema.fields.len() {
        return Err(format!("{} fields, the encoders have {}", tower.schema.fields.len(), schema.fields.len()));
    }
    for (old, new) in tower.schema.fields.iter().zip(&schema.fields) {
        let grown = |shape: &FieldShape| match shape {
            FieldShape::Code { table, cardinality }
            | FieldShape::Bag { table, cardinality, .. }
            | FieldShape::Sequence { table, cardinality, .. } => Some((table.clone(), *cardinality as usize)),
            FieldShape::Dense { .. } => None,
        };
        let alike = match (&old.shape, &new.shape) {
            (FieldShape::Bag { max_len: a, .. }, FieldShape::Bag { max_len: b, .. }) => a == b,
            (
                FieldShape::Sequence { max_len: a, intervals: of_a, .. },
                FieldShape::Sequence { max_len: b, intervals: of_b, .. },
            ) => (a, of_a) == (b, of_b),
            (FieldShape::Dense { width: a }, FieldShape::Dense { width: b }) => a == b,
            (FieldShape::Code { .. }, FieldShape::Code { .. }) => true,
            _ => false,
        };
        let (before, after) = (grown(&old.shape), grown(&new.shape));
        let names = before.as_ref().map(|(name, _)| name) == after.as_ref().map(|(name, _)| name);
        if !alike || !names || old.name != new.name {
            return Err(format!(
                "field `{}` of shape {:?}, the encoders have `{}` of {:?}",
                old.name, old.shape, new.name, new.shape
            ));
        }
        let Some((name, rows)) = after else { continue };
        let Some(table) = tower.tables.get_mut(&name) else { return Err(format!("no table `{name}`")) };
        if table.rows > rows || table.rows <= UNKNOWN as usize {
            return Err(format!("table `{name}` has {} rows, the vocabulary {rows}", table.rows));
        }
        let unknown = table.data[UNKNOWN as usize * table.cols..][..table.cols].to_vec();
        (table.rows..rows).for_each(|_| table.data.extend_from_slice(&unknown));
        table.rows = rows;
    }
    tower.schema = schema;
    Ok(tower)
}

/// The first rows of a side's table, encoded.
fn sample(context: &Context<AdoptSettings>, encoded: &EncoderFolder, side: Side) -> Result<CodeBatch, PipelineError> {
    let rows = match side {
        Side::User => &context.config.users,
        Side::Item => &context.config.items,
    };
    let (state, source) = (&encoded.state, Source::open(encoded, side, &rows.source)?);
    let spec = rows.spec();
    let joins = SideFiles::open(&[(side, &spec, &rows.source)], &context.cancel)?;
    let schema = state.schema(side);
    let (mut codes, mut encoded_rows) = (CodeBatch::empty(&schema), CodeBatch::empty(&schema));
    let sequences = schema.fields.iter().any(|field| matches!(field.shape, FieldShape::Sequence { .. }));
    let history = (sequences && source.is_encoded()).then(|| History::load("train", encoded)).transpose()?;
    let mut found = Histories::default();
    let columns = read_columns(&spec);
    let read = ReadOptions { columns: &columns, rows: 0..VERIFY_ROWS as u64, batch_rows: BATCH_ROWS };
    for batch in source.read(read, BATCH_BYTES)? {
        let batch = batch?;
        let rows = joins.join(&spec, side, &batch)?;
        encoded_rows.clear();
        state.encode(side, &rows, &mut encoded_rows).map_err(|e| encode_error(e, &batch))?;
        if let Some(history) = &history {
            let ids = id_column_as(&batch, &spec.id_column, encoded.ids(side)?)?;
            history.fill(&schema, batch.first_row, &ids, &mut encoded_rows, &mut found)?;
        }
        codes.extend_from_rows(&encoded_rows, 0..batch.batch.num_rows());
    }
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::{FieldSchema, Fingerprint};
    use twotower_models::tower::{Input, Matrix};

    fn schema(cardinality: u32, encoder: &str) -> TowerSchema {
        let field = FieldSchema { name: "city".into(), shape: FieldShape::Code { table: "city".into(), cardinality } };
        TowerSchema { side: Side::User, encoder: Fingerprint::of(encoder.as_bytes()), fields: vec![field] }
    }

    fn tower() -> Tower {
        let table = Matrix { rows: 4, cols: 2, data: (0..8).map(|v| v as f32).collect() };
        Tower {
            schema: schema(4, "old"),
            inputs: vec![Input::Embedding { table: "city".into() }],
            tables: BTreeMap::from([("city".to_string(), table)]),
            layers: Vec::new(),
            dim: 2,
            inner_product_scale: None,
        }
    }

    #[test]
    fn old_codes_keep_their_rows_and_new_ones_get_the_unknown_row() {
        let grown = extended(tower(), schema(6, "new")).unwrap();
        let table = &grown.tables["city"];
        assert_eq!((table.rows, &table.data[..8]), (6, &tower().tables["city"].data[..]));
        assert_eq!(table.data[8..], [4.0, 5.0, 4.0, 5.0]);
        assert_eq!(grown.schema, schema(6, "new"));
    }

    #[test]
    fn a_vocabulary_that_shrank_or_another_feature_is_refused() {
        assert!(extended(tower(), schema(3, "new")).unwrap_err().contains("city"));
        let mut other = schema(6, "new");
        other.fields[0].name = "town".into();
        assert!(extended(tower(), other).unwrap_err().contains("town"));
    }
}
