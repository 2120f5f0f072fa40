//! `export`: the towers of a run behind operators that do what its encoders do, so that their inputs are raw values.
//!
//! A tower is written beside its place, run by ONNX Runtime on rows of the run's table, and compared with what the
//! encoders and the run's tower give. Only then it gets its name; `inputs.json` comes last.

use crate::error::PipelineError;
use crate::run::files::towers as files;
use crate::run::output_folder::{Holds, OutputFolder};
use crate::stages::Job;
use crate::stages::infer::Embedding;
use crate::stages::towers::require_runtime;
use crate::timeline::dataset::encoded_ids;
use arrow_array::RecordBatch;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use twotower_artifacts::publish::{self, publish_bytes};
use twotower_artifacts::raw::{RawDay, RawExtent, RawField, RawInput, RawRule, RawTensor, RawValues, encoded_tensors};
use twotower_artifacts::{CodeBatch, Ids, Side};
use twotower_encoders::raw::{RawSource, raw_sequences};
use twotower_encoders::{EncoderState, FeatureSpec};
use twotower_models::engine::{EngineKind, RawEngine};
use twotower_models::onnx;
use twotower_tables::TableBatch;

/// The most rows on which a tower is checked.
const CHECKED_ROWS: u64 = 1000;
/// The largest difference from the run's own vectors.
const TOLERANCE: f32 = 1e-5;
/// Where files are before they are checked.
const CANDIDATES: &str = ".candidates";
/// What the inputs are.
const INPUTS: &str = "inputs.json";
/// The version of [`INPUTS`].
const FORMAT: u32 = 1;
/// By how many items the histories of the check go beyond what towers read.
const OLDER_ITEMS: usize = 5;

/// What to export, and what is left to who serves.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Which towers.
    pub sides: Vec<Side>,
    /// Whether numbers and dates that a table has in a form that ONNX does not read are inputs as numbers and days.
    pub typed: bool,
    /// Features whose inputs stay codes or scaled numbers.
    pub encoded: Vec<String>,
}

/// What was exported; also the content of `inputs.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    format_version: u32,
    run: String,
    encoder_fingerprint: String,
    towers_fingerprint: String,
    /// By side.
    pub towers: BTreeMap<Side, ExportedTower>,
}

/// A tower that takes raw values.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedTower {
    /// Name of the file.
    pub file: String,
    inputs: Vec<InputDescription>,
    output: OutputDescription,
    /// On how many rows it was compared with the run's own tower.
    pub checked_rows: u64,
    /// The largest difference.
    pub largest_difference: f32,
}

#[derive(Debug, Clone, Serialize)]
struct InputDescription {
    name: String,
    #[serde(rename = "type")]
    element: &'static str,
    shape: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    missing: String,
    content: String,
    /// Of a date: how many of its units make a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_day: Option<i64>,
    feature: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    encoded: bool,
}

#[derive(Debug, Clone, Serialize)]
struct OutputDescription {
    name: String,
    #[serde(rename = "type")]
    element: &'static str,
    shape: Vec<serde_json::Value>,
}

impl InputDescription {
    fn of(input: RawInput, field: &RawField, kind: &'static str) -> Self {
        let feature = field.field.name.clone();
        let extent = |extent: &RawExtent| match extent {
            RawExtent::Rows => serde_json::json!("N"),
            RawExtent::Fixed(width) => serde_json::json!(width),
            RawExtent::Length => serde_json::json!(format!("{feature}/L")),
        };
        Self {
            shape: input.extents.iter().map(extent).collect(),
            name: input.name,
            element: input.element.name(),
            missing: input.missing,
            content: input.content,
            per_day: match &field.rule {
                RawRule::Date { day: RawDay::PerDay(units), .. } => Some(*units),
                _ => None,
            },
            kind,
            encoded: field.rule == RawRule::Encoded,
            feature,
        }
    }
}

/// Exports towers of a run into a folder of their own.
///
/// # Errors
/// [`PipelineError::Usage`] that names each feature for which there is no form, with the way out;
/// [`PipelineError::Gate`] for a tower that gives other vectors than the run; those of `infer`; a folder that holds
/// anything else; I/O.
pub fn export(job: &Job, output: &Path, options: &ExportOptions) -> Result<Exported, PipelineError> {
    let _step = job.step("export");
    require_runtime("export", EngineKind::Ort)?;
    let folder = OutputFolder::claim(output, Holds::RawTowers, &job.run, job.config.tables())?;
    let candidates = folder.path().join(CANDIDATES);
    publish::remove_folder(&candidates)?;
    let exported = candidate_towers(job, &candidates, options).and_then(|exported| {
        let place = |name: &str| folder.path().join(name);
        publish::remove(place(INPUTS))?;
        for side in [Side::User, Side::Item] {
            for name in [files::tower_data(side), files::tower(side)] {
                match candidates.join(&name).exists() {
                    true => publish::rename(candidates.join(&name), place(&name))?,
                    false => publish::remove(place(&name))?,
                }
            }
        }
        let mut json = serde_json::to_vec_pretty(&exported)
            .map_err(|e| PipelineError::Data(format!("export: {INPUTS} cannot be written as JSON: {e}")))?;
        json.push(b'\n');
        publish_bytes(place(INPUTS), &json)?;
        Ok(exported)
    });
    publish::remove_folder(&candidates)?;
    exported
}

fn candidate_towers(job: &Job, folder: &Path, options: &ExportOptions) -> Result<Exported, PipelineError> {
    let mut sides = Vec::new();
    for side in options.sides.iter().copied() {
        let context = job.obeying(|config| config.infer_settings(side));
        let embedding = Embedding::load("export", &context, side, &context.config.rows, EngineKind::Ort)?;
        let source = embedding.source(&context.config.rows.source)?;
        embedding.check_table(&context, &source)?;
        let embedding = embedding.prepare(&context, &source, folder)?;
        let plan = context.plan(&embedding.needs("export"))?;
        let rows = 0..source.rows().min(CHECKED_ROWS);
        let batches = embedding.read(&source, rows, &plan)?.collect::<Result<Vec<TableBatch>, _>>()?;
        sides.push((side, embedding, batches));
    }
    let states: Vec<(Side, &EncoderState)> = sides.iter().map(|(side, e, _)| (*side, &e.encoded().state)).collect();
    if let Some(name) = options.encoded.iter().find(|name| !states.iter().any(|(side, state)| has(state, *side, name)))
    {
        return Err(PipelineError::usage(format!(
            "export: --encoded {name}: no exported tower has a feature of this name; name one of the job's features"
        )));
    }
    // All that has no form is told at once, before anything is written.
    let (mut forms, mut refused) = (Vec::new(), Vec::new());
    for (side, embedding, batches) in &sides {
        match fields(embedding, *side, batches, options)? {
            Fields::All(fields) => forms.push(fields),
            Fields::Refused(reasons) => refused.push((*side, reasons)),
        }
    }
    if let Some((side, _)) = refused.first() {
        let told: Vec<String> = refused
            .iter()
            .flat_map(|(side, reasons)| reasons.iter().map(move |reason| format!("\n  {side} feature {reason}")))
            .collect();
        let other = match (refused.len(), side) {
            (1, Side::User) => "; or export the other tower alone: --side item",
            (1, Side::Item) => "; or export the other tower alone: --side user",
            _ => "",
        };
        return Err(PipelineError::usage(format!(
            "export: nothing is exported, for some features have no exact form in ONNX; with --encoded NAME a feature's input stays what the run's own tower takes, which docs/ONNX.md says how to make{other}; they are:{}",
            told.concat()
        )));
    }
    let mut exported = Exported {
        format_version: FORMAT,
        run: job.run.root().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        encoder_fingerprint: String::new(),
        towers_fingerprint: String::new(),
        towers: BTreeMap::new(),
    };
    for ((side, embedding, batches), fields) in sides.iter().zip(forms) {
        exported.encoder_fingerprint = embedding.schema().encoder.to_string();
        exported.towers_fingerprint = embedding.towers().to_string();
        let mut tower = describe(embedding, *side, &fields)?;
        let path = folder.join(&tower.file);
        onnx::export_raw(embedding.tower(), &fields, &path, &metadata(&exported, *side, &tower)?)?;
        (tower.checked_rows, tower.largest_difference) = check(embedding, *side, &fields, batches, &path)?;
        exported.towers.insert(*side, tower);
    }
    Ok(exported)
}

fn has(state: &EncoderState, side: Side, name: &str) -> bool {
    state.side(side).features.iter().any(|feature| feature.spec.name() == name)
}

enum Fields {
    All(Vec<RawField>),
    /// The features without a form, each with the reason.
    Refused(Vec<String>),
}

/// The form of each feature, by the types that the columns of the table have.
fn fields(
    embedding: &Embedding,
    side: Side,
    batches: &[TableBatch],
    options: &ExportOptions,
) -> Result<Fields, PipelineError> {
    let state = &embedding.encoded().state;
    let id_column = &state.side(side).id_column;
    let first = batches.first().ok_or_else(|| PipelineError::Data(format!("export: the {side}s table has no rows")))?;
    let rows = embedding.joined(first)?;
    let item_ids = embedding.encoded().ids(Side::Item)?.data_type();
    let (mut fields, mut refused) = (Vec::new(), Vec::new());
    for (at, feature) in state.side(side).features.iter().enumerate() {
        let spec = &feature.spec;
        if options.encoded.iter().any(|name| name == spec.name()) {
            fields.push(state.encoded_field(side, at));
            continue;
        }
        let data_type = match spec.input(id_column) {
            Some(column) => column_of(&rows, column)?.data_type(),
            None => &item_ids,
        };
        let unit = embedding.history().and_then(|history| history.unit());
        match state.raw_field(side, at, RawSource { data_type, unit, typed: options.typed }) {
            Ok(field) => fields.push(field),
            Err(reason) => refused.push(format!("`{}` ({}): {reason}", spec.name(), spec.kind())),
        }
    }
    Ok(if refused.is_empty() { Fields::All(fields) } else { Fields::Refused(refused) })
}

fn column_of<'b>(rows: &'b RecordBatch, column: &str) -> Result<&'b arrow_array::ArrayRef, PipelineError> {
    rows.column_by_name(column).ok_or_else(|| {
        PipelineError::Data(format!("export: the table has no column `{column}`, which a feature reads"))
    })
}

fn describe(embedding: &Embedding, side: Side, fields: &[RawField]) -> Result<ExportedTower, PipelineError> {
    let kinds = embedding.encoded().state.side(side).features.iter().map(|feature| feature.spec.kind());
    let inputs = fields.iter().zip(kinds).flat_map(|(field, kind)| {
        field.inputs().into_iter().map(move |input| InputDescription::of(input, field, kind))
    });
    let shape = vec![serde_json::json!("N"), serde_json::json!(embedding.dim())];
    Ok(ExportedTower {
        file: files::tower(side),
        inputs: inputs.collect(),
        output: OutputDescription { name: onnx::output_name(embedding.schema()), element: "float", shape },
        checked_rows: 0,
        largest_difference: 0.0,
    })
}

/// The metadata properties of a tower.
fn metadata(exported: &Exported, side: Side, tower: &ExportedTower) -> Result<BTreeMap<String, String>, PipelineError> {
    let inputs = serde_json::to_string(&tower.inputs)
        .map_err(|e| PipelineError::Data(format!("export: inputs cannot be written as JSON: {e}")))?;
    let pairs = [
        ("raw_format_version", exported.format_version.to_string()),
        ("run", exported.run.clone()),
        ("side", side.to_string()),
        ("encoder_fingerprint", exported.encoder_fingerprint.clone()),
        ("towers_fingerprint", exported.towers_fingerprint.clone()),
        ("inputs", inputs),
        ("similarity", "cosine".to_string()),
    ];
    Ok(pairs.into_iter().map(|(key, value)| (format!("twotower.{key}"), value)).collect())
}

/// Compares a raw tower with the encoders and the run's tower. Returns the rows compared and the largest difference.
fn check(
    embedding: &Embedding,
    side: Side,
    fields: &[RawField],
    batches: &[TableBatch],
    path: &Path,
) -> Result<(u64, f32), PipelineError> {
    let mut engine = RawEngine::open(path)?;
    let mut worker = embedding.worker(1)?;
    // Histories name items by their rows, and the tower takes ids.
    let items = embedding.history().map(|_| encoded_ids(embedding.encoded(), Side::Item)).transpose()?;
    let items = items.as_ref();
    let (mut checked, mut largest) = (0, 0f32);
    for batch in batches {
        let rows = batch.batch.num_rows();
        worker.encode(batch)?;
        let all = tensors(embedding, side, fields, (batch, items), worker.codes())?;
        for range in without_nul(&all, rows) {
            let batch = batch.slice(range.clone());
            let (ids, _) = worker.encode(&batch)?;
            let inputs = tensors(embedding, side, fields, (&batch, items), worker.codes())?;
            let mut expected = Vec::new();
            worker.embed_encoded(&batch, &ids, None, &mut expected)?;
            let found = engine.embed(&inputs)?;
            let difference = |(row, (found, expected)): (usize, (&[f32], &[f32]))| {
                let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
                // Not by the largest: `f32::max` passes over NaN.
                let is_close = found.len() == expected.len() && apart.clone().all(|apart| apart <= TOLERANCE);
                let apart = apart.fold(0.0, f32::max);
                match is_close {
                    true => Ok(apart),
                    false => Err(PipelineError::Gate(format!(
                        "export: {side} tower: {}: row {}: id `{}`: the raw tower's vector differs by {apart:e} from the run's, expected at most {TOLERANCE:e}; nothing was exported; please report this as a bug",
                        batch.table(),
                        batch.first_row + row as u64,
                        ids.get(row)
                    ))),
                }
            };
            if found.len() != expected.len() {
                return Err(PipelineError::Gate(format!(
                    "export: {side} tower: {} values for {} rows, expected {}; please report this as a bug",
                    found.len(),
                    ids.len(),
                    expected.len()
                )));
            }
            let dim = embedding.dim();
            for pair in found.chunks(dim).zip(expected.chunks(dim)).enumerate().map(difference) {
                largest = largest.max(pair?);
            }
            checked += ids.len() as u64;
        }
    }
    match checked {
        0 => {
            Err(PipelineError::Data(format!("export: the {side}s table has no row on which the tower can be checked")))
        }
        _ => Ok((checked, largest)),
    }
}

/// What the inputs of a raw tower take for some rows; `items` are the ids of items, for a tower that reads histories, and
/// `codes` the codes of the rows.
fn tensors(
    embedding: &Embedding,
    side: Side,
    fields: &[RawField],
    (batch, items): (&TableBatch, Option<&Ids>),
    codes: &CodeBatch,
) -> Result<Vec<RawTensor>, PipelineError> {
    let state = &embedding.encoded().state;
    let (rows, ids) = (embedding.joined(batch)?, embedding.ids_of(batch)?);
    let mut tensors = Vec::new();
    for (at, (field, feature)) in fields.iter().zip(&state.side(side).features).enumerate() {
        let failed = |reason: String| {
            PipelineError::Data(format!(
                "export: {side} feature `{}`: its rows cannot be raw inputs: {reason}",
                field.field.name
            ))
        };
        let of_field = match (&field.rule, &feature.spec) {
            (RawRule::Encoded, _) => encoded_tensors(&field.field, &codes.columns[at]),
            (RawRule::Sequence { max_len, .. }, FeatureSpec::Sequence(_)) => {
                let (history, items) =
                    embedding.history().zip(items).ok_or_else(|| failed("there are no histories".into()))?;
                let newest = history.newest(batch.first_row, &ids, *max_len as usize + OLDER_ITEMS)?;
                let met = items.take(newest.iter().flat_map(|user| user.items.iter().copied()));
                let mut met_before = 0;
                let histories: Vec<(Vec<usize>, Vec<i64>)> = newest
                    .into_iter()
                    .map(|user| {
                        let first = met_before;
                        met_before += user.items.len();
                        ((first..met_before).collect(), user.times)
                    })
                    .collect();
                raw_sequences(field, &met, &histories).map_err(failed)?
            }
            _ => {
                let column = feature.spec.input(&state.side(side).id_column).unwrap_or_default();
                state.raw_values(side, at, field, column_of(&rows, column)?).map_err(failed)?
            }
        };
        tensors.extend(of_field);
    }
    Ok(tensors)
}

/// The stretches of rows in whose texts no character is NUL, at which the interface to ONNX Runtime ends a text.
fn without_nul(tensors: &[RawTensor], rows: usize) -> Vec<Range<usize>> {
    let mut has_nul = vec![false; rows];
    for tensor in tensors {
        if let RawValues::Text(texts) = &tensor.values {
            let width = tensor.width.unwrap_or(1).max(1);
            for (row, texts) in texts.chunks(width).enumerate() {
                has_nul[row] |= texts.iter().any(|text| text.contains('\0'));
            }
        }
    }
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for row in (0..rows).filter(|row| !has_nul[*row]) {
        match ranges.last_mut() {
            Some(range) if range.end == row => range.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_a_nul_part_the_stretches_that_are_checked() {
        let texts = ["a", "b\0", "c", "d", "\0", "f"].map(String::from).to_vec();
        let tensor = RawTensor { name: "x".into(), width: None, values: RawValues::Text(texts.clone()) };
        assert_eq!(without_nul(std::slice::from_ref(&tensor), 6), [0..1, 2..4, 5..6]);
        let tensor = RawTensor { width: Some(2), ..tensor };
        assert_eq!(without_nul(&[tensor], 3), vec![1..2]);
    }
}
