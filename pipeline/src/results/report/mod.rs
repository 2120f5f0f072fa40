//! What a run did, for one page: read from manifests, metrics and the sample that `recall` keeps, and of the results
//! themselves only the first lists. Memory and time do not grow with the users.

mod charts;
mod page;
mod words;

use super::{RunResults, ShownUser};
use crate::config::EntityTable;
use crate::error::PipelineError;
use crate::run::details::{CheckDetails, EpochsDetails};
use crate::run::dir::RunDir;
use crate::run::files;
use crate::run::list::{Checked, RunInfo};
use crate::run::manifests::details;
use crate::run::names::rows;
use crate::stages::evaluate::{MetricsFile, comparable, read_metrics};
use crate::stages::gates::facts::{Facts, metrics_of};
use crate::stages::gates::verdict::{Ruling, Verdict};
use crate::stream::part_folder::PartFolder;
use crate::stream::parts::complete_set;
use crate::stream::sample::SampledLists;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::json::read_json;
use twotower_artifacts::keyed::{Identity, KeyedMap, KeyedSet};
use twotower_artifacts::neighbour_lookup::first_lists;
use twotower_artifacts::{Manifest, Side};
use twotower_index::store::IndexManifest;
use twotower_models::train::EpochReport;
pub use words::Lang;

/// The command, in errors.
const REPORT: &str = "report";
/// Users shown, with so many of their newest items and of their best.
const USERS: usize = 20;
const NEWEST: usize = 8;
const BEST: usize = 10;
/// Nights shown at the most: the newest.
const NIGHTS: usize = 60;
/// Lists whose similarities are counted: the first of so many parts.
const LISTS: usize = 2048;
const PARTS: usize = 8;
/// Columns of a distribution.
const COLUMNS: usize = 24;

/// What `report` shows.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the run's folder.
    pub run: String,
    /// Version of the program that wrote it.
    tool_version: String,
    stages: Vec<StageRow>,
    served: Option<Served>,
    data: Option<Data>,
    training: Option<Training>,
    metrics: Option<MetricsFile>,
    /// Metrics of the run that this one is compared with, where figures of both compare.
    compared: Option<Compared>,
    lists: Option<Lists>,
    index: Option<IndexManifest>,
    gates: Option<Gates>,
    users: Vec<ShownUser>,
    nights: Vec<Night>,
}

/// A stage, over all its shards.
#[derive(Debug, Serialize)]
struct StageRow {
    stage: String,
    shards: usize,
    seconds: f64,
    /// Rows that went through it, by which its rate counts.
    through: Option<u64>,
    rows: BTreeMap<String, u64>,
    warnings: Vec<String>,
}

/// Who gets something.
#[derive(Debug, Serialize)]
struct Served {
    users: u64,
    of: u64,
    eligible_items: u64,
    topk: u64,
}

/// What the encoders met.
#[derive(Debug, Serialize)]
struct Data {
    compared_with: Option<String>,
    features: Vec<Feature>,
}

/// A feature of a side.
#[derive(Debug, Serialize)]
struct Feature {
    side: Side,
    name: String,
    values: u64,
    missing: f64,
    unknown: f64,
    missing_before: Option<f64>,
    unknown_before: Option<f64>,
    /// From the distribution of the run it is compared with: 0 to 1.
    drift: Option<f64>,
    /// Of numbers.
    median: Option<f64>,
    kind: Option<String>,
    /// Numbers, or truths in their order, and how many there are of each class.
    distribution: Vec<(f64, u64)>,
}

/// The training's own record.
#[derive(Debug, Serialize, Deserialize)]
struct Training {
    best_epoch: usize,
    epochs: Vec<EpochReport>,
}

/// Another run's metrics.
#[derive(Debug, Serialize)]
struct Compared {
    run: String,
    metrics: MetricsFile,
}

/// What lists look like.
#[derive(Debug, Serialize)]
struct Lists {
    sampled: usize,
    distinct: usize,
    distinct_items: usize,
    /// Share of all places of the sampled lists that the most listed hundredth of the eligible items takes.
    top_percent: f64,
    /// The share of places that the most listed items take, by their share of the eligible ones.
    concentration: Vec<(f64, f64)>,
    similarities: Option<Similarities>,
}

/// Similarities of listed items, counted in equal ranges.
#[derive(Debug, Serialize)]
struct Similarities {
    lists: usize,
    low: f64,
    high: f64,
    counts: Vec<u64>,
    mean_first: f64,
    mean_last: f64,
}

/// What the gates said.
#[derive(Debug, Serialize)]
struct Gates {
    verdicts: Vec<Verdict>,
    previous: Option<String>,
    experiment: bool,
}

/// A run of the folder.
#[derive(Debug, Serialize)]
struct Night {
    #[serde(flatten)]
    info: RunInfo,
    seconds: f64,
    /// The model's and popularity's value of the metric that all nights are shown by.
    metric: Option<String>,
    model: Option<f64>,
    popularity: Option<f64>,
}

impl Report {
    /// Reads what a run holds; it is compared with `other`, or else with the run that its gates compared it with.
    /// Titles are looked for as [`RunResults::open`] does.
    ///
    /// # Errors
    /// Damaged manifests or metrics; a run without any. What a run does not have is left out.
    pub fn read(run: &RunDir, other: Option<&RunDir>, items: Option<EntityTable>) -> Result<Self, PipelineError> {
        let stages = stages(run)?;
        if stages.is_empty() {
            return Err(PipelineError::MissingInput {
                stage: REPORT,
                path: run.root().to_path_buf(),
                advice: format!("no stage has left anything there; `twotower run --run {}`", run.root().display()),
            });
        }
        let gates = gates(run)?;
        let previous =
            gates.as_ref().and_then(|gates| Some(RunDir::new(run.root().parent()?.join(gates.previous.as_ref()?))));
        // The run that the gates knew may be gone.
        let before = match (other, previous.filter(|run| run.root().is_dir())) {
            (Some(other), _) => Some((other.name(), Facts::read(other)?)),
            (None, Some(previous)) => if_complete(Facts::read(&previous))?.map(|facts| (previous.name(), facts)),
            (None, None) => None,
        };
        let facts = if_complete(Facts::read(run))?;
        let metrics = metrics(run)?;
        let compared = match (&metrics, &before) {
            (Some(ours), Some((name, Facts { metrics: Some(theirs), .. })))
                if comparable((Path::new(&run.name()), ours), (Path::new(name), theirs)).is_ok() =>
            {
                Some(Compared { run: name.clone(), metrics: theirs.clone() })
            }
            _ => None,
        };
        Ok(Self {
            run: run.name(),
            tool_version: env!("CARGO_PKG_VERSION").to_string(),
            stages,
            served: facts.as_ref().map(|facts| Served {
                users: facts.recalled,
                of: facts.users,
                eligible_items: facts.eligible,
                topk: facts.topk,
            }),
            data: facts.as_ref().map(|facts| data(run, facts, before.as_ref())).transpose()?,
            training: training(run)?,
            metrics,
            compared,
            lists: facts.as_ref().map(|facts| lists(run, facts)).transpose()?.flatten(),
            index: facts.map(|facts| facts.index),
            gates,
            users: users(run, items)?,
            nights: nights(run)?,
        })
    }

    /// The page, which needs nothing else.
    ///
    /// # Errors
    /// [`PipelineError::Data`] for a plot that cannot be drawn.
    pub fn html(&self, lang: Lang) -> Result<String, PipelineError> {
        page::html(self, lang)
    }
}

/// A run's facts, or none where a stage is not there or is of another version: the rest can be shown.
fn if_complete<T>(read: Result<T, PipelineError>) -> Result<Option<T>, PipelineError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error @ (PipelineError::MissingInput { .. } | PipelineError::Mismatch(_))) => {
            tracing::info!("report: some sections are left out: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The stages that have left a manifest, in their order.
fn stages(run: &RunDir) -> Result<Vec<StageRow>, PipelineError> {
    let mut stages = Vec::new();
    let mut add = |name: &str, manifests: Vec<Manifest>, through: &[&str]| {
        let Some(first) = manifests.first() else { return };
        let mut row = StageRow {
            stage: name.to_string(),
            shards: manifests.len(),
            seconds: manifests.iter().map(|manifest| manifest.seconds).sum(),
            through: None,
            rows: BTreeMap::new(),
            warnings: first.warnings.clone(),
        };
        for (name, count) in manifests.iter().flat_map(|manifest| &manifest.rows) {
            // What every shard says of the whole table is said once.
            match name.as_str() {
                rows::TABLE_ROWS => row.rows.insert(name.clone(), *count),
                _ => row.rows.insert(name.clone(), row.rows.get(name).unwrap_or(&0).saturating_add(*count)),
            };
        }
        row.rows.retain(|_, count| *count > 0);
        row.through = through.iter().find_map(|name| row.rows.get(*name).copied());
        stages.push(row);
    };
    let one = |path: std::path::PathBuf| -> Result<Vec<Manifest>, PipelineError> {
        Ok(if path.exists() { vec![Manifest::read(&path)?] } else { Vec::new() })
    };
    let parts = |folder: PartFolder, command: &str| -> Result<Vec<Manifest>, PipelineError> {
        let set = if_complete(complete_set(REPORT, &folder, command))?.unwrap_or_default();
        Ok(set.into_iter().map(|part| part.manifest).collect())
    };
    let infer = |side: Side| parts(run.vectors(side), &format!("twotower infer --side {side}"));
    add("encode-features", one(run.encoders().join(files::encoders::MANIFEST))?, &[rows::USERS]);
    add("train", one(run.towers().join(files::towers::MANIFEST))?, &[rows::TRAINING_EVENTS]);
    add("infer items", infer(Side::Item)?, &[rows::ROWS]);
    add("infer users", infer(Side::User)?, &[rows::ROWS]);
    add("recall", parts(run.recall(), "twotower recall")?, &[rows::USERS]);
    add("evaluate", one(run.evaluation().join(files::evaluation::MANIFEST))?, &[rows::USERS]);
    add("check", one(run.gates().join(files::gates::MANIFEST))?, &[]);
    Ok(stages)
}

fn gates(run: &RunDir) -> Result<Option<Gates>, PipelineError> {
    let path = run.gates().join(files::gates::MANIFEST);
    if !path.exists() {
        return Ok(None);
    }
    let CheckDetails { gates, previous, experiment, .. } = details(REPORT, &Manifest::read(&path)?)?;
    Ok(gates.map(|verdicts| Gates { verdicts, previous, experiment }))
}

/// The metrics, where they are of the run's own towers.
fn metrics(run: &RunDir) -> Result<Option<MetricsFile>, PipelineError> {
    let towers = run.towers().join(files::towers::MANIFEST);
    if towers.exists() { metrics_of(run, &Manifest::read(&towers)?) } else { Ok(None) }
}

/// The record of the training that made the towers; adopted ones have none.
fn training(run: &RunDir) -> Result<Option<Training>, PipelineError> {
    let (manifest, report) = (run.towers().join(files::towers::MANIFEST), run.towers().join(files::towers::REPORT));
    if !manifest.exists() || !report.exists() {
        return Ok(None);
    }
    let trained = details::<EpochsDetails>(REPORT, &Manifest::read(&manifest)?)?.best_epoch.is_some();
    Ok(if trained { Some(read_json(&report)?) } else { None })
}

/// Features of both sides, those of users first.
fn data(run: &RunDir, facts: &Facts, before: Option<&(String, Facts)>) -> Result<Data, PipelineError> {
    let settings = Manifest::read(run.encoders().join(files::encoders::MANIFEST))?.config;
    let kind = |side: Side, name: &str| {
        let specs = settings["features"][side.to_string()].as_array()?;
        let spec = specs.iter().find(|spec| spec["name"] == name)?;
        spec["kind"].as_str().map(str::to_string)
    };
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let mut features = Vec::new();
    for side in [Side::User, Side::Item] {
        for (name, counts) in facts.encoded.get(&side).into_iter().flatten() {
            let earlier = before.and_then(|(_, facts)| facts.encoded.get(&side)?.get(name));
            features.push(Feature {
                side,
                name: name.clone(),
                values: counts.values,
                missing: share(counts.missing, counts.values),
                unknown: share(counts.unknown, counts.values),
                missing_before: earlier.map(|earlier| share(earlier.missing, earlier.values)),
                unknown_before: earlier.map(|earlier| share(earlier.unknown, earlier.values)),
                drift: earlier.and_then(|earlier| counts.histogram.distance(&earlier.histogram)),
                median: counts.histogram.median().filter(|_| kind(side, name).as_deref() == Some("numeric")),
                kind: kind(side, name),
                distribution: counts.histogram.classes().collect(),
            });
        }
    }
    Ok(Data { compared_with: before.map(|(name, _)| name.clone()), features })
}

/// What the sample and the first lists look like; none in a run whose version kept no sample.
fn lists(run: &RunDir, facts: &Facts) -> Result<Option<Lists>, PipelineError> {
    let Some(sample) = &facts.sample else { return Ok(None) };
    let mut listed: KeyedMap<Identity, u64> = KeyedMap::default();
    sample.items.iter().for_each(|item| *listed.entry(*item).or_default() += 1);
    let mut counts: Vec<u64> = listed.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let (eligible, places) = (facts.eligible.max(1) as f64, sample.items.len().max(1) as f64);
    let share_of = |items: usize| counts.iter().take(items).sum::<u64>() as f64 / places;
    let percent = ((eligible / 100.0).ceil() as usize).max(1);
    let steps = (0..=COLUMNS).map(|step| (counts.len() * step).div_ceil(COLUMNS));
    Ok(Some(Lists {
        sampled: sample.users.len(),
        distinct: distinct(sample),
        distinct_items: counts.len(),
        top_percent: share_of(percent),
        concentration: steps.map(|items| (items as f64 / eligible, share_of(items))).collect(),
        similarities: similarities(run, facts)?,
    }))
}

/// Lists that differ in an item or in the order.
fn distinct(sample: &SampledLists) -> usize {
    let seen: KeyedSet<&[Identity]> = (0..sample.users.len()).map(|row| sample.list(row)).collect();
    seen.len()
}

/// Similarities of the first lists of the first parts.
fn similarities(run: &RunDir, facts: &Facts) -> Result<Option<Similarities>, PipelineError> {
    let parts = complete_set(REPORT, &run.recall(), "twotower recall")?;
    let (mut scores, mut ends) = (Vec::new(), Vec::new());
    let each = LISTS / parts.len().clamp(1, PARTS);
    for part in parts.iter().take(PARTS) {
        let format = &part.manifest.config["recall"]["format"];
        let format = serde_json::from_value(format.clone()).unwrap_or_default();
        for path in part.files().take(1) {
            let table = first_lists(&path, format, each, facts.topk as usize)?;
            for list in table.offsets.windows(2).filter(|list| list[0] < list[1]) {
                ends.push((f64::from(table.scores[list[0]]), f64::from(table.scores[list[1] - 1])));
            }
            scores.extend(table.scores.iter().map(|score| f64::from(*score)).filter(|score| score.is_finite()));
        }
    }
    if ends.is_empty() || scores.is_empty() {
        return Ok(None);
    }
    let low = (scores.iter().copied().fold(f64::INFINITY, f64::min) * 20.0).floor() / 20.0;
    let high = (scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) * 20.0).ceil() / 20.0;
    let high = if high > low { high } else { low + 0.05 };
    let mut counts = vec![0u64; COLUMNS];
    for score in &scores {
        let at = ((score - low) / (high - low) * COLUMNS as f64) as usize;
        counts[at.min(COLUMNS - 1)] += 1;
    }
    let n = ends.len() as f64;
    Ok(Some(Similarities {
        lists: ends.len(),
        low,
        high,
        counts,
        mean_first: ends.iter().map(|(first, _)| first).sum::<f64>() / n,
        mean_last: ends.iter().map(|(_, last)| last).sum::<f64>() / n,
    }))
}

/// Some users with what they had and get; nobody where results are not complete.
fn users(run: &RunDir, items: Option<EntityTable>) -> Result<Vec<ShownUser>, PipelineError> {
    let Some(results) = if_complete(RunResults::open(REPORT, run, items))? else { return Ok(Vec::new()) };
    results.some_users(USERS, NEWEST, BEST)
}

/// The newest runs of the folder, the oldest first; none where the run is alone.
fn nights(run: &RunDir) -> Result<Vec<Night>, PipelineError> {
    let Some(folder) = std::path::absolute(run.root()).ok().and_then(|path| Some(path.parent()?.to_path_buf())) else {
        return Ok(Vec::new());
    };
    let mut runs = crate::run::list::list(&folder)?;
    if runs.len() < 2 {
        return Ok(Vec::new());
    }
    runs.drain(..runs.len().saturating_sub(NIGHTS));
    let mut nights = Vec::new();
    for info in runs {
        let dir = RunDir::new(folder.join(&info.name));
        // A run that is at work, or damaged, has a row without figures.
        let metrics = read_metrics(&dir.evaluation().join(files::evaluation::METRICS)).ok();
        let metric = metrics.as_ref().and_then(main_metric);
        let of = |model: &str| metrics.as_ref()?.models.get(model)?.get(metric.as_ref()?).copied();
        let seconds = stages(&dir).unwrap_or_default().iter().map(|stage| stage.seconds).sum();
        nights.push(Night { model: of("model"), popularity: of("popularity"), metric, seconds, info });
    }
    Ok(nights)
}

/// The metric that stands for a run: recall at the smallest cut-off.
fn main_metric(metrics: &MetricsFile) -> Option<String> {
    let name = format!("recall@{}", super::advice::cut_offs(metrics).first()?);
    metrics.models.get("model")?.contains_key(&name).then_some(name)
}

/// Whether a run's gates let it pass, as its first line says.
fn ruling(gates: Option<&Gates>) -> Option<Ruling> {
    let gates = gates?;
    let any = |ruling: Ruling| gates.verdicts.iter().any(|verdict| verdict.ruling == ruling);
    Some(match (any(Ruling::Failed), any(Ruling::Accepted)) {
        (true, _) => Ruling::Failed,
        (false, true) => Ruling::Accepted,
        (false, false) => Ruling::Passed,
    })
}

/// What a list of runs says of one.
fn said(info: &RunInfo) -> Option<Ruling> {
    match &info.gates {
        Checked::Passed { accepted } if accepted.is_empty() => Some(Ruling::Passed),
        Checked::Passed { .. } => Some(Ruling::Accepted),
        Checked::Failed { .. } => Some(Ruling::Failed),
        Checked::No => None,
    }
}
