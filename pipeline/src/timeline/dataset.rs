//! Encoded tables of a run, read back: what training and evaluation work on.

use crate::config::split::SplitConfig;
use crate::error::PipelineError;
use crate::rows::columns::BATCH_ROWS;
use crate::run::dir::RunDir;
use crate::stages::encode::files;
use crate::stages::encoded::Encoded;
use std::path::Path;
use twotower_artifacts::codes::GROUP_ROWS;
use twotower_artifacts::{Id, Ids, Interactions, Manifest, Side, read_interactions};
use twotower_encoders::EncoderState;
use twotower_models::examples::TrainingSet;

/// A run's encoded tables.
pub struct Dataset {
    /// What trains; user and item rows in the order of the ids below.
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
        let encoded = Encoded::load(stage, &dir)?;
        encoded.verify_files()?;
        let (user_ids, users) = encoded.table(Side::User)?.load()?;
        let (item_ids, items) = encoded.table(Side::Item)?.load()?;
        let interactions = read_events(&dir, &encoded, &user_ids, &item_ids)?;
        let Encoded { manifest, state, .. } = encoded;
        let (user_schema, item_schema) = (state.schema(Side::User), state.schema(Side::Item));
        let item_codes = item_codes(&state, &item_ids)?;
        let roles = split.roles(&interactions);
        let set = TrainingSet { user_schema, item_schema, users, items, item_codes, interactions, roles };
        Ok(Self { set, user_ids, item_ids, state, manifest })
    }
}

/// The code of every item id, a row group's at a time: an array of text holds no more than 2 GiB.
fn item_codes(state: &EncoderState, ids: &Ids) -> Result<Vec<u32>, PipelineError> {
    let mut codes = Vec::with_capacity(ids.len());
    for first in (0..ids.len()).step_by(GROUP_ROWS) {
        codes.extend(state.item_codes(&ids.to_array(first..ids.len().min(first + GROUP_ROWS)))?);
    }
    Ok(codes)
}

/// The ids of a side alone; codes are passed over batch by batch.
fn read_ids(encoded: &Encoded, side: Side) -> Result<Ids, PipelineError> {
    let reader = encoded.table(side)?;
    let mut ids = Ids::new(reader.info().ids);
    for batch in reader.batches(0..u64::MAX, BATCH_ROWS)? {
        let (batch, _) = batch?;
        ids.extend_from(&batch, 0..batch.len());
    }
    Ok(ids)
}

fn read_events(dir: &Path, encoded: &Encoded, users: &Ids, items: &Ids) -> Result<Interactions, PipelineError> {
    let path = dir.join(files::INTERACTIONS);
    let (info, interactions) = read_interactions(&path, users.len(), items.len())?;
    encoded.check(&path, &info.encoder)?;
    Ok(interactions)
}

/// Each user's most recent items at inference time, by user id.
pub struct History {
    users: crate::rows::id_index::IdIndex,
    interactions: Interactions,
    item_codes: Vec<u32>,
}

impl History {
    /// The history of every encoded user of a run.
    ///
    /// # Errors
    /// Missing or damaged files.
    pub fn load(run: &RunDir, encoded: &Encoded) -> Result<Self, PipelineError> {
        encoded.verify_files()?;
        let (user_ids, item_ids) = (read_ids(encoded, Side::User)?, read_ids(encoded, Side::Item)?);
        let interactions = read_events(&run.encoders(), encoded, &user_ids, &item_ids)?;
        let item_codes = item_codes(&encoded.state, &item_ids)?;
        let users = crate::rows::id_index::IdIndex::new(user_ids).map_err(|(a, b)| {
            PipelineError::Data(format!(
                "encoded users: rows {a} and {b} have one id; run `twotower encode-features --force`"
            ))
        })?;
        Ok(Self { users, interactions, item_codes })
    }

    /// Item rows of a user, oldest first; empty for a user without history.
    fn items(&self, user: Id<'_>) -> &[u32] {
        match self.users.find(user) {
            Some(user) => &self.interactions.items[self.interactions.events(user as usize)],
            None => &[],
        }
    }

    /// Item codes of the user's last `max_len` items, oldest first.
    pub fn sequence(&self, user: Id<'_>, max_len: usize) -> impl Iterator<Item = u32> + '_ {
        let items = self.items(user);
        items[items.len().saturating_sub(max_len)..].iter().map(|i| self.item_codes[*i as usize])
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        let events = 16 * self.interactions.len() + 8 * self.interactions.offsets.len();
        self.users.bytes() + (events + 4 * self.item_codes.len()) as u64
    }
}
