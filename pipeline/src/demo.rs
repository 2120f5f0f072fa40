//! `demo`: synthetic data, a job that describes it, and a whole run on it.

use crate::config::{Config, Override};
use crate::error::PipelineError;
use crate::rows::columns::{read_ids, read_whole};
use crate::run::dir::RunDir;
use crate::run::files;
use crate::run::names::tables::ITEMS;
use crate::run::{RunOptions, Stage, run_all};
use crate::stages::evaluate::{MetricsFile, read_metrics};
use crate::stages::gates::Gate;
use crate::stages::{Job, Outcome};
use crate::stream::memory::Memory;
use crate::stream::parts::part_name;
use crate::stream::shard::Shard;
use crate::watch::cancel::Cancel;
use crate::watch::progress::Progress;
use arrow_array::RecordBatch;
use std::path::PathBuf;
use std::time::Instant;
use twotower_artifacts::NeighbourFormat;
use twotower_artifacts::neighbours_file::read_lists;
use twotower_synth::{SynthConfig, SynthReport, generate};
use twotower_tables::Table;

/// The job that `demo` writes.
pub const PIPELINE_TOML: &str = include_str!("demo_pipeline.toml");

/// Users whose recalled items the report shows.
const SHOWN_USERS: usize = 5;
/// Items shown for each of them.
const SHOWN_ITEMS: usize = 3;

/// What `demo` is to do.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Folder that gets `data`, `pipeline.toml` and `run`.
    pub dir: PathBuf,
    /// The data set.
    pub data: SynthConfig,
    /// Settings that differ from the demo's job.
    pub overrides: Vec<Override>,
    /// Redo every stage.
    pub force: bool,
    /// Whether progress is shown.
    pub progress: Progress,
    /// A request to stop.
    pub cancel: Cancel,
    /// The most memory a stage may use.
    pub memory: Memory,
}

/// What `demo` did.
pub struct DemoReport {
    /// The data set, with what an oracle and a constant ranker reach.
    pub data: SynthReport,
    /// Seconds of generating it.
    pub data_seconds: f64,
    /// Stages in order.
    pub stages: Vec<(Stage, Outcome)>,
    /// Metrics of the model and the baselines.
    pub metrics: MetricsFile,
    /// Some users and their best items.
    pub shown: Vec<ShownUser>,
}

/// A user and the items recalled first.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ShownUser {
    /// The user's id.
    pub user: String,
    /// Best items first.
    pub items: Vec<ShownItem>,
}

/// A recalled item with its attributes.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ShownItem {
    /// The item's id.
    pub item: String,
    /// Cosine similarity to the user.
    pub cosine_similarity: f32,
    /// The row of the items table.
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

/// Generates data, writes the job, runs it, and reads back what a reader wants to see.
///
/// # Errors
/// Whatever a stage refuses.
pub fn demo(options: &DemoOptions, mut done: impl FnMut(Stage, &Outcome)) -> Result<DemoReport, PipelineError> {
    twotower_artifacts::publish::create_folder(&options.dir)?;
    let started = Instant::now();
    let data_dir = options.dir.join("data");
    let mut bar = options.progress.bar("synth", options.data.users, "users");
    let generating = options.cancel.watch().step("synth");
    let data = generate(&options.data, &data_dir, &mut |rows| bar.advance(rows))?;
    drop((bar, generating));
    let data_seconds = started.elapsed().as_secs_f64();
    let config_path = options.dir.join("pipeline.toml");
    if !config_path.exists() {
        twotower_artifacts::publish::publish_bytes(&config_path, PIPELINE_TOML.as_bytes())?;
    }
    let config = Config::load(&config_path, &options.overrides)?;
    let context = Job {
        execution: config.execution(),
        config,
        run: RunDir::new(options.dir.join("run")),
        force: options.force,
        sole: true,
        progress: options.progress,
        cancel: options.cancel.clone(),
        memory: options.memory,
    };
    let mut stages = Vec::new();
    // A model of a few hundred buyers is worth less than popularity, and the report shows it.
    let run = RunOptions { accept: vec![Gate::Metric], ..RunOptions::default() };
    run_all(&context, &run, |stage, outcome| {
        done(stage, outcome);
        stages.push((stage, outcome.clone()));
    })?;
    let metrics = read_metrics(&context.run.evaluation().join(files::evaluation::METRICS))?;
    let shown = shown_users(&context, options.data.users)?;
    Ok(DemoReport { data, data_seconds, stages, metrics, shown })
}

fn shown_users(context: &Job, users: u64) -> Result<Vec<ShownUser>, PipelineError> {
    let entity = &context.config.tables.items;
    let items = Table::open(ITEMS, &entity.source)?;
    let columns: Vec<String> = items.columns().iter().map(|c| c.name.clone()).collect();
    let table = read_whole(&items, &columns, u64::MAX, &context.cancel)?;
    let ids = read_ids(&items, &entity.id, &context.cancel)?;

    let mut shown = Vec::new();
    if context.config.recall.format != NeighbourFormat::Parquet {
        tracing::info!("demo: users are shown from recalls in the format `parquet` only");
        return Ok(shown);
    }
    let first = Shard::all(users, context.config.run.part_users).next().unwrap_or(Shard::WHOLE);
    let part = context.run.recall().join(part_name(first, NeighbourFormat::Parquet.extension()));
    let Some(lists) = read_lists(&part, SHOWN_USERS)?.next().transpose()? else { return Ok(shown) };
    for (user, ends) in lists.users.iter().zip(lists.offsets.windows(2)) {
        let items = (ends[0]..ends[1]).take(SHOWN_ITEMS).map(|at| {
            let item = lists.items.get(at);
            let row = ids.iter().position(|id| id == item);
            let attributes = row.map(|row| attributes(&table, row, &entity.id)).unwrap_or_default();
            ShownItem { item: item.to_string(), cosine_similarity: lists.scores[at], attributes }
        });
        shown.push(ShownUser { user: user.to_string(), items: items.collect() });
    }
    Ok(shown)
}

fn attributes(table: &RecordBatch, row: usize, id: &str) -> serde_json::Map<String, serde_json::Value> {
    let schema = table.schema();
    let shown = schema.fields().iter().zip(table.columns()).filter(|(field, _)| field.name() != id);
    shown
        .map(|(field, column)| {
            let text = arrow_cast::display::array_value_to_string(column, row).unwrap_or_default();
            (field.name().clone(), serde_json::Value::String(text))
        })
        .collect()
}
