//! `evaluate`: the exported towers and two baselines on the held-out test events.

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
use questions::Questions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;
use twotower_artifacts::hashing::HashingWriter;
use twotower_artifacts::{ArtifactError, CodeBatch, FileEntry, Fingerprint, Id, Manifest, Ragged, Side};
use twotower_models::engine;
use twotower_models::examples::{Known, Role, TrainingSet, Window, assemble};
use twotower_models::metrics::{Metrics, RankTask, rank, rank_scores};
use twotower_models::tower::Matrix;

/// Version of [`MetricsFile`].
const METRICS_VERSION: u32 = 1;
/// Rows embedded at a time.
const EMBED_ROWS: usize = 4096;

/// What a metrics file holds. Two files compare only when their protocols are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsFile {
    /// Version of this form.
    pub format_version: u32,
    /// Split, ranking and exclusions, in words. The ranking's name is among them.
    pub protocol: String,
    /// That name alone: `full`, `sampled-1+100` or `sampled-1+100 paper` ([`Ranking::protocol`]). None in files of
    /// earlier versions.
    #[serde(default)]
    pub ranking: Option<String>,
    /// Fingerprint of the encoded tables, so of the data and its filters.
    pub data: Fingerprint,
    /// Fingerprint of the users, their events and what each event is used for, whatever the features: figures of two
    /// models compare where it is the same. None in files of earlier versions.
    #[serde(default)]
    pub events: Option<Fingerprint>,
    /// Fingerprint of the towers measured.
    pub towers: Fingerprint,
    /// Users with at least one test event who were measured.
    pub users: usize,
    /// Users without a test event, left out.
    pub users_without_test_events: usize,
    /// Users whose test events are all of items that they had before, left out.
    #[serde(default)]
    pub users_without_new_items: usize,
    /// Test events of items that their user had before: no task, since such items are not retrieved.
    #[serde(default)]
    pub repeated_test_events: usize,
    /// Users with a test event who were not drawn (`evaluate.max_users`, or the most of the paper's protocol).
    pub users_not_drawn: usize,
    /// Users whose own test item was drawn as a negative, which only the paper's protocol does: it has the test item's
    /// score and so counts as ahead of it.
    #[serde(default)]
    pub users_with_test_item_drawn: usize,
    /// Items ranked.
    pub items: usize,
    /// Metrics by model: `model`, `popularity`, `item_to_item`.
    pub models: BTreeMap<String, BTreeMap<String, f64>>,
}

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
    models.insert("model".to_string(), measured.values);
    context.cancel.check("evaluate")?;
    let measured = context.during("measuring popularity", || measure_popularity(&counts, &task))?;
    models.insert("popularity".to_string(), measured.values);
    let item_to_item = || ItemToItem::new(&data.set, &counts).measure(&questions, &task);
    models.insert("item_to_item".to_string(), context.during("measuring item to item", item_to_item)?.values);

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
    };
    output.replace()?;
    publish_json(&output.dir().join(files::METRICS), &report)?;
    let entry = FileEntry::of_file(output.dir(), files::METRICS, report.models.len() as u64)?;
    let rows = row_counts([(rows::USERS, report.users as u64), (rows::ITEMS, report.items as u64)]);
    let details = EvaluateDetails { protocol: &report.protocol, models: &report.models };
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

/// Reads a metrics file.
///
/// # Errors
/// [`PipelineError::Data`] when it is not one, [`ArtifactError::Version`] when it is newer.
pub fn read_metrics(path: &Path) -> Result<MetricsFile, PipelineError> {
    let text = twotower_artifacts::json::read_text(path)?;
    let metrics: MetricsFile = serde_json::from_slice(&text)
        .map_err(|e| PipelineError::Data(format!("read {}: not a metrics file: {e}", path.display())))?;
    match metrics.format_version {
        METRICS_VERSION => Ok(metrics),
        found => Err(ArtifactError::Version { path: path.to_path_buf(), found, supported: METRICS_VERSION }.into()),
    }
}

/// Checks that two metrics files may be compared.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming both protocols or both data sets.
pub fn comparable(a: (&Path, &MetricsFile), b: (&Path, &MetricsFile)) -> Result<(), PipelineError> {
    let refuse = |what: &str, left: &str, right: &str| {
        Err(PipelineError::Mismatch(format!(
            "compare {} and {}: {what} differ: `{left}` and `{right}`; figures of unlike protocols say nothing about each other",
            a.0.display(),
            b.0.display()
        )))
    };
    if a.1.protocol != b.1.protocol {
        return refuse("protocols", &a.1.protocol, &b.1.protocol);
    }
    if let (Some(left), Some(right)) = (&a.1.events, &b.1.events)
        && left != right
    {
        return refuse("users, events or split", left.as_str(), right.as_str());
    }
    if a.1.items != b.1.items || a.1.users != b.1.users {
        let size = |m: &MetricsFile| format!("{} users, {} items", m.users, m.items);
        return refuse("data sets", &size(a.1), &size(b.1));
    }
    Ok(())
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

fn measure_model(
    context: &Context<EvaluateSettings>,
    data: &Dataset,
    questions: &Questions,
    task: &RankTask,
) -> Result<Metrics, PipelineError> {
    let users = embed(context, data, Side::User, questions.windows.len(), |range, codes| {
        assemble(&data.set, &questions.windows[range], codes);
    })?;
    let items = embed(context, data, Side::Item, data.item_ids.len(), |range, codes| {
        codes.extend_from_rows(&data.set.items, range);
    })?;
    Ok(rank(&users, &items, task)?)
}

fn measure_popularity(counts: &[u64], task: &RankTask) -> Result<Metrics, PipelineError> {
    let scores: Vec<f32> = counts.iter().map(|c| *c as f32).collect();
    Ok(rank_scores(task, |_, out| out.chunks_exact_mut(scores.len()).for_each(|row| row.copy_from_slice(&scores)))?)
}

/// Users of an item that its neighbours are counted over, at most: evenly spaced where there are more.
const NEIGHBOUR_USERS: usize = 10_000;

fn evenly(rows: &[u32], most: usize) -> impl Iterator<Item = &u32> {
    let n = rows.len().min(most);
    (0..n).map(move |i| &rows[i * rows.len() / n])
}

/// Neighbours of the user's last item by cosine of co-occurrence, n_ij / sqrt(n_i n_j), over users'
/// training items; items that never occur with it follow by popularity (Sarwar et al., WWW 2001).
struct ItemToItem<'a> {
    set: &'a TrainingSet,
    counts: &'a [u64],
    /// Training items of each user.
    by_user: Ragged,
    /// Users of each item.
    by_item: Ragged,
}

impl<'a> ItemToItem<'a> {
    fn new(set: &'a TrainingSet, counts: &'a [u64]) -> Self {
        let mut by_user = Ragged::default();
        let mut users_of: Vec<Vec<u32>> = vec![Vec::new(); set.items.rows()];
        for user in 0..set.interactions.users() {
            let mut items: Vec<u32> = set
                .interactions
                .events(user)
                .filter(|e| set.roles[*e] == Role::Train)
                .map(|e| set.interactions.items[e])
                .collect();
            items.sort_unstable();
            items.dedup();
            items.iter().for_each(|item| users_of[*item as usize].push(user as u32));
            by_user.push_row(items);
        }
        let mut by_item = Ragged::default();
        users_of.into_iter().for_each(|users| by_item.push_row(users));
        Self { set, counts, by_user, by_item }
    }

    fn measure(&self, questions: &Questions, task: &RankTask) -> Result<Metrics, PipelineError> {
        let most = self.counts.iter().copied().max().unwrap_or(1).max(1) as f32;
        Ok(rank_scores(task, |rows, out| {
            for (window, row) in questions.windows[rows].iter().zip(out.chunks_exact_mut(task.items)) {
                self.score(window, most, row);
            }
        })?)
    }

    fn score(&self, window: &Window, most: f32, out: &mut [f32]) {
        out.fill(0.0);
        if let Some(last) = self.set.known_items(window).next_back().map(|item| item as usize) {
            for user in evenly(self.by_item.row(last), NEIGHBOUR_USERS) {
                for item in self.by_user.row(*user as usize) {
                    out[*item as usize] += 1.0;
                }
            }
            let users = |item: usize| self.by_item.row(item).len().max(1) as f32;
            let of_last = users(last);
            out.iter_mut().enumerate().for_each(|(item, score)| *score /= (of_last * users(item)).sqrt());
        }
        // Below any co-occurrence: popularity orders what is otherwise equal.
        out.iter_mut().zip(self.counts).for_each(|(score, count)| *score += 1e-6 * *count as f32 / most);
    }
}

#[cfg(test)]
mod tests {
    use super::questions::tests::training_set;
    use super::*;
    use twotower_models::rng::Rng;

    #[test]
    fn baselines_under_the_paper_protocol_have_the_ranks_that_counting_gives() {
        let mut rng = Rng::at(11, &[]);
        let items = 40usize;
        let users: Vec<Vec<u32>> =
            (0..60).map(|_| (0..3 + rng.below(9)).map(|_| rng.below(items) as u32).collect()).collect();
        let users: Vec<&[u32]> = users.iter().map(Vec::as_slice).collect();
        let set = training_set(&users, items, &SplitConfig::default());
        let questions = Questions::new(&set, Ranking::SampledPaper, 0, 1);
        let candidates = questions.candidates(&set, Ranking::SampledPaper, 1).unwrap();
        let counts = set.training_counts();
        let task = RankTask {
            items,
            excluded: &questions.excluded,
            relevant: &questions.relevant,
            candidates: Some(&candidates),
            ks: &[10],
            popularity: &counts,
        };
        let found = measure_popularity(&counts, &task).unwrap().values;
        let (mut hits, mut gains) = (0.0, 0.0);
        for (user, events) in users.iter().enumerate() {
            let (trained, test) = (&events[..events.len() - 2], events[events.len() - 1]);
            let drawn = candidates.row(user);
            assert!(drawn.len() == 100 && drawn.iter().all(|item| !trained.contains(item)));
            let score = |item: u32| {
                users.iter().map(|e| e[..e.len() - 2].iter().filter(|i| **i == item).count()).sum::<usize>()
            };
            let ahead = drawn.iter().filter(|item| score(**item) >= score(test)).count();
            if ahead < 10 {
                hits += 1.0;
                gains += 1.0 / ((ahead + 2) as f64).log2();
            }
        }
        assert!(hits > 3.0 && hits < users.len() as f64, "{hits}");
        for (name, sum) in [("hit@10", hits), ("ndcg@10", gains)] {
            assert!((found[name] - sum / users.len() as f64).abs() < 1e-12, "{name}: {}", found[name]);
        }
    }

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
