//! Encoded tables of a run, read back: what training and evaluation work on.

use crate::config::split::SplitConfig;
use crate::error::PipelineError;
use crate::rows::columns::BATCH_ROWS;
use crate::run::dir::RunDir;
use crate::stages::encoded::EncoderFolder;
use crate::timeline::intervals;
use crate::timeline::of_run::RunTimeline;
use twotower_artifacts::codes::GROUP_ROWS;
use twotower_artifacts::{
    CodeBatch, Column, Detail, FieldShape, Histories, Ids, Interactions, Manifest, Ragged, Side, TickUnit, TowerSchema,
};
use twotower_encoders::EncoderState;
use twotower_models::examples::TrainingSet;

/// A run's encoded tables.
pub struct Dataset {
    /// What a model trains on; its users and items are in the order of the ids below.
    pub set: TrainingSet,
    /// Ids of the encoded users.
    pub user_ids: Ids,
    /// Ids of the encoded items, ascending.
    pub item_ids: Ids,
    /// The encoder state.
    pub state: EncoderState,
    /// The manifest of `encode-features`.
    pub manifest: Manifest,
}

impl Dataset {
    /// Reads everything `encode-features` wrote, with roles by `split`.
    ///
    /// # Errors
    /// Missing or damaged files; files of another encoder state.
    pub fn load(stage: &'static str, run: &RunDir, split: &SplitConfig) -> Result<Self, PipelineError> {
        let dir = run.encoders();
        let encoded = EncoderFolder::load(stage, &dir)?;
        encoded.verify_files()?;
        let (user_ids, users) = encoded.table(Side::User)?.load()?;
        let (item_ids, items) = encoded.table(Side::Item)?.load()?;
        let timeline = RunTimeline::open(stage, &dir)?;
        let interactions = read_events(&timeline, &user_ids, &item_ids)?;
        let EncoderFolder { manifest, state, .. } = encoded;
        let (user_schema, item_schema) = (state.schema(Side::User), state.schema(Side::Item));
        intervals::require_unit(&user_schema.fields, timeline.timeline().info().clock, timeline.timeline().events())?;
        let item_codes = item_codes(&state, &item_ids)?;
        let roles = split.roles(&interactions);
        let known = split.known();
        let set = TrainingSet { user_schema, item_schema, users, items, item_codes, interactions, roles, known };
        Ok(Self { set, user_ids, item_ids, state, manifest })
    }
}

/// The code of every item id. They are looked up a row group at a time, for an array of text holds no more than 2 GiB.
pub(crate) fn item_codes(state: &EncoderState, ids: &Ids) -> Result<Vec<u32>, PipelineError> {
    let mut codes = Vec::with_capacity(ids.len());
    for first in (0..ids.len()).step_by(GROUP_ROWS) {
        codes.extend(state.item_codes(&ids.to_array(first..ids.len().min(first + GROUP_ROWS)))?);
    }
    Ok(codes)
}

/// The ids of a side, without the codes, which are read and dropped batch by batch.
///
/// # Errors
/// As [`EncoderFolder::table`].
pub fn encoded_ids(encoded: &EncoderFolder, side: Side) -> Result<Ids, PipelineError> {
    let reader = encoded.table(side)?;
    let mut ids = Ids::new(reader.info().ids);
    for batch in reader.batches(0..u64::MAX, BATCH_ROWS)? {
        let (batch, _) = batch?;
        ids.extend_from(&batch, 0..batch.len());
    }
    Ok(ids)
}

/// The events of the encoded users. These are in the order of the users table, and so is the timeline.
fn read_events(run: &RunTimeline, users: &Ids, items: &Ids) -> Result<Interactions, PipelineError> {
    let timeline = run.timeline();
    let info = timeline.info();
    let differs = |what: &str, expected: u64, found: u64| {
        PipelineError::Mismatch(format!(
            "{}: {found} {what}, encoded are {expected}; run `twotower encode-features --force`",
            timeline.path().display()
        ))
    };
    if info.items != items.len() as u64 {
        return Err(differs("items", items.len() as u64, info.items));
    }
    let mut all = Interactions { offsets: vec![0], unit: info.clock.unit(), ..Interactions::default() };
    let mut found = Histories::default();
    for block in timeline.blocks().take_while(|block| block.start < info.table_rows) {
        timeline.read(block.start..block.end.min(info.table_rows), Detail::All, &mut found)?;
        for user in 0..found.len() {
            let known =
                all.users() < users.len() && found.identities[user] == info.key.identity(users.get(all.users()));
            if !known {
                return Err(PipelineError::Mismatch(format!(
                    "{}: the user at row {} is not the encoded one; run `twotower encode-features --force`",
                    timeline.path().display(),
                    found.rows[user]
                )));
            }
            all.offsets.push((all.items.len() + found.events(user).end) as u64);
        }
        all.items.extend_from_slice(&found.items);
        all.times.extend_from_slice(&found.times);
        all.weights.extend_from_slice(&found.weights);
    }
    match all.users() == users.len() {
        true => Ok(all),
        false => Err(differs("users", users.len() as u64, all.users() as u64)),
    }
}

/// The newest items of a user, oldest first.
pub struct NewestItems {
    /// Rows of the encoded items table.
    pub items: Vec<usize>,
    /// When they were taken, in ticks of the timeline.
    pub times: Vec<i64>,
}

/// Appends the end of a history to the column of a sequence. `items` are rows of `item_codes`, oldest first; `times`, one
/// for each item in ticks of `unit`, are looked at where the sequence has intervals.
pub(crate) fn push_sequence(
    shape: &FieldShape,
    items: &[u32],
    times: &[i64],
    item_codes: &[u32],
    unit: Option<TickUnit>,
    ragged: &mut Ragged,
) {
    let FieldShape::Sequence { max_len, intervals, .. } = shape else { return };
    let first = items.len() - items.len().min(*max_len as usize);
    ragged.push_row(items[first..].iter().map(|item| item_codes[*item as usize]));
    // Where there are intervals, there is a unit: who loads the times has seen to it.
    if let (Some(intervals), Some(unit)) = (intervals, unit) {
        intervals.scale(&times[first..], unit, &mut ragged.times);
    }
}

/// The most recent items of users, as codes, with their times where a sequence has intervals.
pub struct History {
    timeline: RunTimeline,
    /// The unit of the timeline's clock, if it has one.
    unit: Option<TickUnit>,
    /// By row of the encoded items table.
    item_codes: Vec<u32>,
}

impl History {
    /// The histories of a run, at the rows of the job's users table.
    ///
    /// # Errors
    /// Missing or damaged files.
    pub fn load(stage: &'static str, encoded: &EncoderFolder) -> Result<Self, PipelineError> {
        let timeline = RunTimeline::open(stage, &encoded.dir)?;
        let item_codes = item_codes(&encoded.state, &encoded_ids(encoded, Side::Item)?)?;
        let clock = timeline.timeline().info().clock;
        intervals::require_unit(&encoded.state.schema(Side::User).fields, clock, timeline.timeline().events())?;
        Ok(Self { timeline, unit: clock.unit(), item_codes })
    }

    /// The timeline.
    pub fn timeline(&self) -> &RunTimeline {
        &self.timeline
    }

    /// The same, with another timeline.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn map(self, f: impl FnOnce(RunTimeline) -> Result<RunTimeline, PipelineError>) -> Result<Self, PipelineError> {
        Ok(Self { timeline: f(self.timeline)?, ..self })
    }

    /// Fills the sequence columns of a batch of users, which begins at row `first` of the table; `found` is memory to
    /// use.
    ///
    /// # Errors
    /// A damaged timeline, or one of other users.
    pub fn fill(
        &self,
        schema: &TowerSchema,
        first: u64,
        ids: &Ids,
        codes: &mut CodeBatch,
        found: &mut Histories,
    ) -> Result<(), PipelineError> {
        let timed = schema.fields.iter().any(|field| field.shape.intervals().is_some());
        let users = self.find(first, ids, if timed { Detail::Times } else { Detail::Items }, found)?;
        for (field, column) in schema.fields.iter().zip(&mut codes.columns) {
            if let (FieldShape::Sequence { .. }, Column::Ragged(ragged)) = (&field.shape, column) {
                ragged.clear();
                for user in &users {
                    let events = user.map_or(0..0, |user| found.events(user));
                    let times = found.times.get(events.clone()).unwrap_or_default();
                    push_sequence(&field.shape, &found.items[events], times, &self.item_codes, self.unit, ragged);
                }
            }
        }
        Ok(())
    }

    /// Reads the histories of a batch of users, and says which of those found is whose.
    fn find(
        &self,
        first: u64,
        ids: &Ids,
        detail: Detail,
        found: &mut Histories,
    ) -> Result<Vec<Option<usize>>, PipelineError> {
        self.timeline.timeline().read(first..first + ids.len() as u64, detail, found)?;
        ids.iter().zip(first..).map(|(id, row)| self.timeline.find(found, row, id)).collect()
    }

    /// The newest `most` items of a batch of users, which begins at row `first` of the table, oldest first: their rows in
    /// the encoded items table, and when they were taken.
    ///
    /// # Errors
    /// As [`History::fill`].
    pub fn newest(&self, first: u64, ids: &Ids, most: usize) -> Result<Vec<NewestItems>, PipelineError> {
        let mut found = Histories::default();
        let users = self.find(first, ids, Detail::Times, &mut found)?;
        let newest = users.iter().map(|user| {
            let events = user.map_or(0..0, |user| found.events(user));
            let last = events.end - events.len().min(most)..events.end;
            let items = found.items[last.clone()].iter().map(|item| *item as usize);
            NewestItems { items: items.collect(), times: found.times[last].to_vec() }
        });
        Ok(newest.collect())
    }

    /// What the times of events count, if that is known.
    pub fn unit(&self) -> Option<TickUnit> {
        self.unit
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.timeline.bytes() + 4 * self.item_codes.len() as u64
    }
}
