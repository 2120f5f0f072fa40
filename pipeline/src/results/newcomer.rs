//! The vector of a user whom the night did not know, from raw values and a history, by the run's own encoders and tower.

use super::id_value;
use crate::error::PipelineError;
use crate::rows::id_index::IdIndex;
use crate::run::dir::RunDir;
use crate::run::files::towers as files;
use crate::stages::encoded::EncoderFolder;
use crate::stages::infer::without_direction;
use crate::stages::towers::verified_in;
use crate::stream::parts::VectorParts;
use crate::timeline::dataset::{encoded_ids, item_codes, push_sequence};
use crate::timeline::intervals;
use crate::timeline::of_run::RunTimeline;
use crate::watch::stall::locked;
use arrow_array::builder::{Float64Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use twotower_artifacts::{
    ArtifactError, Category, CodeBatch, Column, FieldShape, Id, IdKind, Side, TickUnit, TowerSchema,
};
use twotower_encoders::{EncoderState, FeatureSpec, SideEncoder, SideSpec};
use twotower_models::engine::{self, Engine, Norms};
use twotower_models::onnx;

/// Why a request has no answer.
#[derive(Debug)]
pub enum Refusal {
    /// The request itself.
    Request {
        /// Where in it.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// The run, or a bug.
    Run(PipelineError),
}

impl Refusal {
    pub(super) fn request(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Refusal::Request { at: at.into(), problem: problem.into() }
    }
}

impl<E: Into<PipelineError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Refusal::Run(error.into())
    }
}

/// What is known of a user whom the night did not know.
#[derive(Debug, Default)]
pub struct Newcomer {
    /// His id, which a tower may read; missing is a value of its own.
    pub user: Option<Value>,
    /// Raw values by the name of their column, as the users table would have them. Those that are not there are missing.
    pub features: Map<String, Value>,
    /// What he had: the oldest first where events have no times, else in any order.
    pub history: Vec<PastEvent>,
}

/// An event of a history.
#[derive(Debug)]
pub struct PastEvent {
    /// Id of the item.
    pub item: Value,
    /// When, in the unit of the times of the run's interactions.
    pub time: Option<i64>,
}

/// The user tower of a run with its encoders, for single rows.
pub(super) struct UserTower {
    state: EncoderState,
    schema: TowerSchema,
    spec: SideSpec,
    /// Kind of the users' ids.
    users: IdKind,
    /// The encoded items, whose rows events name.
    items: IdIndex,
    /// The code of each in sequences.
    item_codes: Vec<u32>,
    /// The unit of the times of interactions.
    unit: Option<TickUnit>,
    /// Whether a sequence has intervals, so that every event needs a time.
    timed: bool,
    /// Engines and encoders that nobody uses now.
    idle: Mutex<Vec<Worker>>,
}

/// What one thread embeds with.
struct Worker {
    engine: Box<dyn Engine>,
    encoder: SideEncoder,
    codes: CodeBatch,
}

impl UserTower {
    /// Opens the tower that made the user vectors beside these vectors of items, for so many threads.
    ///
    /// # Errors
    /// Missing or damaged files, or such as do not belong together.
    pub fn open(stage: &'static str, run: &RunDir, items: &VectorParts, workers: usize) -> Result<Self, PipelineError> {
        let encoded = EncoderFolder::load(stage, &run.encoders())?;
        let towers = verified_in(stage, &run.towers())?.fingerprint;
        if towers != items.towers {
            return Err(ArtifactError::Mismatch {
                what: format!("{stage}: item vectors of {}", run.root().display()),
                expected_from: "the run's towers with fingerprint".into(),
                expected: towers.to_string(),
                found_from: "vectors of towers with fingerprint".into(),
                found: items.towers.to_string(),
                advice: "run `twotower infer --side item` and the stages after it".into(),
            }
            .into());
        }
        let tower = run.towers().join(files::tower(Side::User));
        let schema = onnx::inspect(&tower)?.schema;
        encoded.check(&tower, &schema.encoder)?;
        let (ids, items_engine) = (encoded_ids(&encoded, Side::Item)?, items.engine);
        let item_codes = item_codes(&encoded.state, &ids)?;
        let items_of_run = IdIndex::new(ids)
            .map_err(|_| PipelineError::Data(format!("{stage}: {}: an item stands twice", encoded.dir.display())))?;
        let timed = schema.fields.iter().any(|field| field.shape.intervals().is_some());
        let unit = match timed {
            true => {
                let timeline = RunTimeline::open(stage, &encoded.dir)?;
                let clock = timeline.timeline().info().clock;
                intervals::require_unit(&schema.fields, clock, timeline.timeline().events())?;
                clock.unit()
            }
            false => None,
        };
        let opened = Self {
            spec: encoded.state.side(Side::User).spec(),
            users: encoded.ids(Side::User)?,
            state: encoded.state,
            schema,
            items: items_of_run,
            item_codes,
            unit,
            timed,
            idle: Mutex::default(),
        };
        let engines = engine::open_workers(items_engine, &tower, workers)?;
        *locked(&opened.idle) = engines.into_iter().map(|engine| opened.worker(engine)).collect();
        Ok(opened)
    }

    fn worker(&self, engine: Box<dyn Engine>) -> Worker {
        Worker { engine, encoder: self.state.encoder(Side::User), codes: CodeBatch::empty(&self.schema) }
    }

    /// Names of the columns that a user may have, of the features that are no sequences.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let own = |feature: &&FeatureSpec| !matches!(feature, FeatureSpec::Id(_));
        self.spec.features.iter().filter(own).filter_map(|feature| feature.input(&self.spec.id_column))
    }

    /// The vector of a user, of unit length, and the rows of the encoded items that he had.
    ///
    /// # Errors
    /// [`Refusal::Request`] for what no row of the users table could hold.
    pub fn embed(&self, user: &Newcomer) -> Result<(Vec<f32>, Vec<u32>), Refusal> {
        let batch = self.batch(user)?;
        let (items, times) = self.events(&user.history)?;
        let mut lent = Lent { tower: self, worker: locked(&self.idle).pop() };
        // There is one for each thread that asks.
        let worker = lent.worker.as_mut().ok_or(PipelineError::WorkerPanicked { stage: "serve" })?;
        worker.codes.clear();
        worker.encoder.encode(&batch, &mut worker.codes).map_err(|error| match error.category() {
            Category::Data => Refusal::request("features", error.to_string()),
            Category::Usage | Category::Gate | Category::Mismatch | Category::Other => Refusal::Run(error.into()),
        })?;
        for (field, column) in self.schema.fields.iter().zip(&mut worker.codes.columns) {
            if let (FieldShape::Sequence { .. }, Column::Ragged(ragged)) = (&field.shape, column) {
                ragged.clear();
                push_sequence(&field.shape, &items, &times, &self.item_codes, self.unit, ragged);
            }
        }
        let mut vector = Vec::with_capacity(worker.engine.dim());
        let norms = worker.engine.embed(&worker.codes, &mut vector)?;
        let dim = worker.engine.dim();
        if norms == Norms::Unknown && without_direction(&vector, dim).is_some() {
            let problem = "the tower gives no direction for these values; are some of them far out of range?";
            return Err(Refusal::request("features", problem));
        }
        Ok((vector, items))
    }

    /// A row of the users table with these values.
    fn batch(&self, user: &Newcomer) -> Result<RecordBatch, Refusal> {
        let known: BTreeSet<&str> = self.columns().collect();
        if let Some(stranger) = user.features.keys().find(|name| !known.contains(name.as_str())) {
            let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            let problem = format!("no feature reads this column; there are {}", known.join(", "));
            return Err(Refusal::request(format!("features.{}", shortened(stranger)), problem));
        }
        let id = match &user.user {
            None | Some(Value::Null) => Value::Null,
            Some(id) => id_value(json_id(id, self.users, "user")?),
        };
        let mut columns = Vec::new();
        for name in self.spec.required_columns() {
            let is_id = name == self.spec.id_column;
            let value = user.features.get(&name).unwrap_or(if is_id { &id } else { &Value::Null });
            let array = column(value, self.takes_lists(&name))
                .map_err(|problem| Refusal::request(format!("features.{name}"), problem))?;
            columns.push((name, array, true));
        }
        let batch = RecordBatch::try_from_iter_with_nullable(columns);
        batch.map_err(|error| Refusal::request("features", error.to_string()))
    }

    /// Whether a feature reads lists from a column, so that a missing value is a missing list.
    fn takes_lists(&self, name: &str) -> Option<ListOf> {
        let reads = |feature: &&FeatureSpec| feature.input(&self.spec.id_column) == Some(name);
        self.spec.features.iter().filter(reads).find_map(|feature| match feature {
            FeatureSpec::Vector(_) => Some(ListOf::Numbers),
            FeatureSpec::MultiValued(spec) if spec.separator.is_none() => Some(ListOf::Text),
            FeatureSpec::MultiValued(_)
            | FeatureSpec::Categorical(_)
            | FeatureSpec::Boolean(_)
            | FeatureSpec::Numeric(_)
            | FeatureSpec::Date(_)
            | FeatureSpec::Hashed(_)
            | FeatureSpec::Sequence(_)
            | FeatureSpec::Id(_) => None,
        })
    }

    /// Rows of the encoded items in a history, oldest first, with their times where events have them. As in the night,
    /// items that the run does not know are passed over, and an event counts once.
    fn events(&self, history: &[PastEvent]) -> Result<(Vec<u32>, Vec<i64>), Refusal> {
        let timed = history.iter().filter(|event| event.time.is_some()).count();
        if let (true, Some(at)) = (self.timed, history.iter().position(|event| event.time.is_none())) {
            let unit = self.unit.map_or("ticks", TickUnit::plural);
            let problem = format!("the tower reads how far apart events are: expected `time`, in {unit} since 1970");
            return Err(Refusal::request(format!("history[{at}]"), problem));
        }
        if timed != 0 && timed != history.len() {
            return Err(Refusal::request("history", "some events have a `time` and some have none; give all or none"));
        }
        let mut events = Vec::with_capacity(history.len());
        for (at, event) in history.iter().enumerate() {
            let id = json_id(&event.item, self.items.ids().kind(), &format!("history[{at}].item"))?;
            events.extend(self.items.find(id).map(|row| (event.time.unwrap_or(0), row)));
        }
        if timed > 0 {
            events.sort_by_key(|(time, _)| *time);
            let mut seen = BTreeSet::new();
            events.retain(|event| seen.insert(*event));
        }
        Ok(events.into_iter().map(|(time, row)| (row, time)).unzip())
    }

    /// The id of a row of the encoded items.
    pub fn item(&self, row: u32) -> Id<'_> {
        self.items.ids().get(row as usize)
    }
}

/// A worker that goes back to its tower in the end, whatever came of its work.
struct Lent<'t> {
    tower: &'t UserTower,
    worker: Option<Worker>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        locked(&self.tower.idle).extend(self.worker.take());
    }
}

/// What the lists of a column hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListOf {
    Numbers,
    Text,
}

/// A name that somebody else chose, for a message.
fn shortened(name: &str) -> String {
    name.chars().take(60).collect()
}

/// An id of a kind.
///
/// # Errors
/// [`Refusal::Request`] for a value of another kind.
pub(super) fn json_id<'v>(value: &'v Value, kind: IdKind, at: &str) -> Result<Id<'v>, Refusal> {
    match (kind, value.as_i64(), value.as_str()) {
        (IdKind::Int, Some(id), _) => Ok(Id::Int(id)),
        (IdKind::Text, _, Some(id)) if !id.is_empty() => Ok(Id::Text(id)),
        (IdKind::Int, ..) => Err(Refusal::request(at, format!("expected an integer id, found {}", kind_of(value)))),
        (IdKind::Text, ..) => Err(Refusal::request(at, format!("expected an id as text, found {}", kind_of(value)))),
    }
}

/// What a value is, for messages.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A column of one row that holds a value; a missing one is missing in the type that the column has.
fn column(value: &Value, list: Option<ListOf>) -> Result<ArrayRef, String> {
    Ok(match (value, list) {
        (Value::Null, None) => Arc::new(StringArray::from(vec![None::<&str>])),
        (Value::Null, Some(ListOf::Numbers)) => {
            let mut missing = ListBuilder::new(Float64Builder::new());
            missing.append(false);
            Arc::new(missing.finish())
        }
        (Value::Null, Some(ListOf::Text)) => {
            let mut missing = ListBuilder::new(StringBuilder::new());
            missing.append(false);
            Arc::new(missing.finish())
        }
        (Value::Bool(value), _) => Arc::new(BooleanArray::from(vec![*value])),
        (Value::Number(number), _) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Arc::new(Int64Array::from(vec![value])),
            (None, Some(value), _) => Arc::new(UInt64Array::from(vec![value])),
            (None, None, Some(value)) => Arc::new(Float64Array::from(vec![value])),
            (None, None, None) => return Err("expected a number of 64 bits".to_string()),
        },
        (Value::String(text), _) => Arc::new(StringArray::from(vec![text.as_str()])),
        (Value::Array(values), list) => list_column(values, list)?,
        (Value::Object(_), _) => return Err("expected a value, found an object".to_string()),
    })
}

/// A column of one row that holds a list: of text, of integers, or of numbers.
fn list_column(values: &[Value], list: Option<ListOf>) -> Result<ArrayRef, String> {
    let all = |is: fn(&Value) -> bool| values.iter().all(|value| value.is_null() || is(value));
    let numbers = list == Some(ListOf::Numbers);
    if !numbers && all(Value::is_string) {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value(values.iter().map(Value::as_str));
        return Ok(Arc::new(lists.finish()));
    }
    if !numbers && all(Value::is_i64) {
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value(values.iter().map(Value::as_i64));
        return Ok(Arc::new(lists.finish()));
    }
    if all(Value::is_number) {
        let mut lists = ListBuilder::new(Float64Builder::new());
        lists.append_value(values.iter().map(Value::as_f64));
        return Ok(Arc::new(lists.finish()));
    }
    Err("expected a list of text or of numbers alone".to_string())
}
