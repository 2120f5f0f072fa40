//! `evaluate`: the exported towers and simple baselines on the held-out test events.

mod baselines;
mod metrics_file;
mod negatives;
mod questions;

use crate::config::split::SplitConfig;
use crate::config::{EvaluateSettings, Ranking};
use crate::error::PipelineError;
use crate::run::details::EvaluateDetails;
use crate::run::dir::publish_json;
use crate::run::files::evaluation as files;
use crate::run::files::towers::tower;
use crate::run::manifests::{as_written, settings};
use crate::run::names::{inputs, rows};
use crate::run::records::TrainRecord;
use crate::stages::encoded;
use crate::stages::output::{Place, Prologue, Summary, row_counts};
use crate::stages::towers::{self, verified_towers};
use crate::stages::{Context, Outcome};
use crate::timeline::dataset::Dataset;
use baselines::Measured;
use metrics_file::METRICS_VERSION;
pub use metrics_file::{MetricsFile, comparable, read_metrics};
use questions::Questions;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::time::Instant;
use twotower_artifacts::hashing::HashingWriter;
use twotower_artifacts::{CodeBatch, FileEntry, Fingerprint, Id, Manifest, Side};
use twotower_models::examples::{Known, assemble};
use twotower_models::metrics::{Metrics, RankTask, overlap, rank};
use twotower_models::similarity::own_directions;
use twotower_models::tower::Matrix;
use twotower_models::{engine, onnx};

/// Rows embedded at a time.
const EMBED_ROWS: usize = 4096;

/// Runs the stage.
///
/// # Errors
/// Missing towers, a split without test events, scores that are not finite.
pub fn evaluate(context: &Context<EvaluateSettings>) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = context.step("evaluate");
    let config = &context.config;
    let data = Dataset::load("evaluate", &context.run, &config.split)?;
    let trained = verified_towers("evaluate", context)?;
    check_split(&config.split, &trained)?;
    let towers = trained.fingerprint;
    let encoded = encoded::content(&data.manifest);
    let inputs = [(inputs::ENCODED_TABLES, encoded.clone()), (inputs::TOWERS, towers.clone())];
    let place = Place::beside_results(context.run.evaluation(), files::MANIFEST);
    let output = match context.begin(context.key("evaluate", inputs, []), place, started, |_| Ok(true))? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    output.prepare(&[])?;

    let ranking = config.evaluate.ranking;
    let questions = Questions::new(&data.set, ranking, config.evaluate.max_users, config.evaluate.seed);
    questions.require_some(&config.split)?;
    let warnings = questions.warnings();
    let candidates = questions.candidates(&data.set, ranking, config.evaluate.seed);
    let counts = data.set.training_counts();
    let task = RankTask {
        items: data.item_ids.len(),
        excluded: &questions.excluded,
        relevant: &questions.relevant,
        candidates: candidates.as_ref(),
        ks: &config.evaluate.k,
        popularity: &counts,
    };
    let mut models = BTreeMap::new();
    context.cancel.check("evaluate")?;
    let measured = context.during("measuring the model", || measure_model(context, &data, &questions, &task))?;
    let (measured, overlap_with_cosine) = measured;
    models.insert("model".to_string(), measured.values);
    let Measured { models: baselines, left_out } = baselines::measure(context, &data.set, &questions, &task)?;
    models.extend(baselines);

    let report = MetricsFile {
        format_version: METRICS_VERSION,
        protocol: protocol(&config.split, ranking),
        ranking: Some(ranking.protocol().to_string()),
        data: encoded,
        events: Some(events_fingerprint(&data)),
        towers,
        users: questions.windows.len(),
        users_without_test_events: questions.without_test,
        users_without_new_items: questions.without_new,
        repeated_test_events: questions.repeated,
        users_not_drawn: questions.not_drawn,
        users_with_test_item_drawn: candidates.as_ref().map_or(0, |drawn| questions.own_drawn(drawn)),
        items: data.item_ids.len(),
        models,
        left_out,
        overlap_with_cosine,
    };
    output.replace()?;
    publish_json(&output.dir().join(files::METRICS), &report)?;
    let entry = FileEntry::of_file(output.dir(), files::METRICS, report.models.len() as u64)?;
    let rows = row_counts([(rows::USERS, report.users as u64), (rows::ITEMS, report.items as u64)]);
    let MetricsFile { protocol, models, left_out, overlap_with_cosine, .. } = &report;
    let details = EvaluateDetails { protocol, models, left_out, overlap_with_cosine };
    let seed = Some(config.evaluate.seed);
    output.publish(Summary { seed, warnings, ..Summary::new(vec![entry], rows, details) })
}

/// A protocol in words: the split, the ranking by its name, what is held out and what is excluded.
fn protocol(split: &SplitConfig, ranking: Ranking) -> String {
    let known = match split.known() {
        Known::Earlier => "earlier",
        Known::Training => "training and validation",
    };
    let held_out = match ranking {
        Ranking::Full | Ranking::Sampled => {
            format!("items new to the user, whose {known} items are excluded")
        }
        Ranking::SampledPaper => "every held-out item, against draws from all but the user's training items".into(),
    };
    format!("{}, {} ranking, {held_out}", split.protocol(), ranking.protocol())
}

/// Fingerprint of the users, in the order of their ids, the items of their events, and the roles of these.
fn events_fingerprint(data: &Dataset) -> Fingerprint {
    let (set, mut hasher) = (&data.set, HashingWriter::new(std::io::sink()));
    let mut add = |id: Id<'_>| {
        // Nothing is written anywhere, so nothing can fail; no text holds the byte at the end.
        let _ = match id {
            Id::Int(number) => hasher.write_all(&number.to_le_bytes()),
            Id::Text(text) => hasher.write_all(text.as_bytes()),
        };
        let _ = hasher.write_all(&[0xff]);
    };
    for user in data.user_ids.sorted_positions() {
        add(data.user_ids.get(user));
        for event in set.interactions.events(user) {
            add(data.item_ids.get(set.interactions.items[event] as usize));
            add(Id::Int(set.roles[event] as i64));
        }
    }
    hasher.fingerprint()
}

/// Refuses towers trained under another split: they may have learned from the events that test.
fn check_split(split: &SplitConfig, trained: &Manifest) -> Result<(), PipelineError> {
    // As it would be read back: fractions may change in the last digit.
    let now: SplitConfig =
        serde_json::from_value(as_written(&serde_json::json!(split))).unwrap_or_else(|_| split.clone());
    let trained_on = settings::<TrainRecord>("evaluate", trained).ok().map(|trained| trained.split);
    if trained_on.as_ref() == Some(&now) {
        return Ok(());
    }
    Err(PipelineError::Mismatch(format!(
        "evaluate: the towers were trained under the split `{}`, the job now says `{}`; test events of one may have trained the other, so run `twotower train` first",
        trained_on.map_or("unknown".into(), |s| s.protocol()),
        split.protocol()
    )))
}

/// Vectors of a batch through an exported tower, by the job's engine.
fn embed(
    context: &Context<EvaluateSettings>,
    data: &Dataset,
    side: Side,
    rows: usize,
    fill: impl Fn(Range<usize>, &mut CodeBatch),
) -> Result<Matrix, PipelineError> {
    let path = context.run.towers().join(tower(side));
    let mut engine = engine::open(context.config.engine, &path)?;
    towers::check_tower("evaluate", context, side, &engine.schema().encoder, data.state.fingerprint())?;
    let dim = engine.dim();
    let mut vectors = Matrix { rows, cols: dim, data: Vec::with_capacity(rows * dim) };
    let mut codes = CodeBatch::empty(engine.schema());
    for first in (0..rows).step_by(EMBED_ROWS) {
        context.cancel.check("evaluate")?;
        let range = first..(first + EMBED_ROWS).min(rows);
        codes.clear();
        fill(range.clone(), &mut codes);
        engine.embed(&codes, &mut vectors.data)?;
    }
    Ok(vectors)
}

/// The metrics of the towers, and, where their cosine stands for an inner product, how much of the ranking is that of the
/// plain cosine of the model's own vectors.
fn measure_model(
    context: &Context<EvaluateSettings>,
    data: &Dataset,
    questions: &Questions,
    task: &RankTask,
) -> Result<(Metrics, BTreeMap<String, f64>), PipelineError> {
    let users = embed(context, data, Side::User, questions.windows.len(), |range, codes| {
        assemble(&data.set, &questions.windows[range], codes);
    })?;
    let items = embed(context, data, Side::Item, data.item_ids.len(), |range, codes| {
        codes.extend_from_rows(&data.set.items, range);
    })?;
    let measured = rank(&users, &items, task)?;
    context.cancel.check("evaluate")?;
    let overlap = match onnx::inspect(&context.run.towers().join(tower(Side::Item)))?.inner_product_scale {
        Some(_) => overlap(&users, [&items, &own_directions(&items)], task)?,
        None => BTreeMap::new(),
    };
    Ok((measured, overlap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ranking_has_a_protocol_of_its_own_that_names_it() {
        let of = |ranking| protocol(&SplitConfig::default(), ranking);
        assert_eq!(
            of(Ranking::Full),
            "leave-last-out, full ranking, items new to the user, whose earlier items are excluded"
        );
        assert_eq!(
            of(Ranking::Sampled),
            "leave-last-out, sampled-1+100 ranking, items new to the user, whose earlier items are excluded"
        );
        assert!(
            of(Ranking::SampledPaper).starts_with("leave-last-out, sampled-1+100 paper ranking, every held-out item")
        );
    }
}
