//! The least memory that the stages of a run need, told before the first of them works.
//!
//! Vocabularies and towers that an earlier stage has yet to make count as nothing. So a stage may need more, and then
//! refuses the budget itself; a budget that is refused here is too small in any case.

use crate::config::Config;
use crate::error::PipelineError;
use crate::run::files::towers as files;
use crate::run::names::tables::ITEMS;
use crate::run::stage::Stage;
use crate::stages::gates;
use crate::stages::infer::{embedding_needs, row_bytes};
use crate::stages::recall::search_needs;
use crate::stages::user_passes;
use crate::stream::memory::{Memory, Needs};
use std::path::Path;
use twotower_artifacts::vectors::WRITER_BYTES;
use twotower_artifacts::{Ids, ListRoom, Side};
use twotower_models::engine::EncoderSize;
use twotower_models::onnx::inspect;
use twotower_models::similarity::Similarity;
use twotower_tables::{ReadOptions, Table, id_column};

/// Items that are looked at to see how long ids are.
const LOOKED_AT: usize = 1024;

/// The least memory that a stage needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastMemory {
    /// The stage.
    pub stage: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// The least memory of each of the stages that keep to the budget. `towers` is the folder of the towers that the job
/// takes, where it does not train.
///
/// # Errors
/// The items table cannot be read.
pub fn forecast(
    config: &Config,
    towers: Option<&Path>,
    stages: impl IntoIterator<Item = Stage>,
) -> Result<Vec<LeastMemory>, PipelineError> {
    let mut all = Vec::new();
    for stage in stages {
        let (needs, rows) = match stage {
            Stage::EncodeFeatures => {
                // A night that trains encodes some users.
                let encodes = config.encode.all_users || towers.is_none();
                (user_passes::needs(&config.encode_settings(), encodes, 0), user_passes::PART_ROWS)
            }
            Stage::InferItems => (infer(config, towers, Side::Item), config.infer.batch_rows),
            Stage::InferUsers => (infer(config, towers, Side::User), config.infer.batch_rows),
            Stage::Recall => (recall(config, towers)?, config.infer.batch_rows),
            Stage::Check => (gates::needs(config.recall.topk), 1),
            // They keep to no budget: docs/MEMORY.md.
            Stage::Train | Stage::Evaluate => continue,
        };
        let needs = match stage {
            Stage::EncodeFeatures | Stage::InferItems | Stage::InferUsers | Stage::Recall => {
                needs.with_stores(config.store_bytes())
            }
            Stage::Check | Stage::Train | Stage::Evaluate => needs,
        };
        all.push(LeastMemory { stage: stage.name(), bytes: needs.least(rows) });
    }
    Ok(all)
}

/// What all stages need: the budget that is enough for each of them, and a list by stage.
pub fn total(least: &[LeastMemory]) -> (Memory, String) {
    let most = least.iter().map(|stage| stage.bytes).max().unwrap_or(0);
    let all = least.iter().map(|stage| format!("{} {}", stage.stage, Memory::new(stage.bytes)));
    (Memory::new(most), all.collect::<Vec<_>>().join(", "))
}

/// Says what the stages need, and refuses a budget that one of them would refuse.
///
/// # Errors
/// [`PipelineError::Usage`] naming every stage, what it needs, and the budget that is enough for all.
pub fn check(memory: Memory, least: &[LeastMemory]) -> Result<(), PipelineError> {
    if least.is_empty() {
        return Ok(());
    }
    let (enough, all) = total(least);
    if enough.bytes() > memory.bytes() {
        return Err(PipelineError::Usage(format!(
            "run: a budget of {memory} is too small; it needs at least {enough} (by stage: {all}; more where vocabularies or towers that are yet to be made are large); give --memory that much"
        )));
    }
    tracing::info!("run: of a budget of {memory} its stages need at least: {all}");
    Ok(())
}

fn embedding(config: &Config, stage: &'static str, towers: Option<&Path>, side: Side) -> Needs {
    let size = |name: String| towers.and_then(|dir| std::fs::metadata(dir.join(name)).ok()).map_or(0, |m| m.len());
    let tower = size(files::tower(side)) + size(files::tower_data(side));
    let codes = config.fields(side).iter().map(|field| row_bytes(&field.shape)).sum();
    let encoders = encoders(config, towers, side);
    embedding_needs(stage, config.infer.engine, tower, (config.model.dim(), codes), &encoders)
}

/// The encoders of a side's sequences: those of the towers that the job takes, or those that it is going to train.
fn encoders(config: &Config, towers: Option<&Path>, side: Side) -> Vec<EncoderSize> {
    match towers {
        // A tower that cannot be read is the stage's to name.
        Some(dir) => inspect(&dir.join(files::tower(side))).map_or(Vec::new(), |metadata| metadata.encoders),
        None => {
            let other = if side == Side::User { Side::Item } else { Side::User };
            config.model.dssm().encoder_sizes(&config.fields(side), &config.fields(other))
        }
    }
}

fn infer(config: &Config, towers: Option<&Path>, side: Side) -> Needs {
    let mut needs = embedding(config, "infer", towers, side);
    needs.held.push(("the writer", WRITER_BYTES));
    needs
}

fn recall(config: &Config, towers: Option<&Path>) -> Result<Needs, PipelineError> {
    let mut needs = match config.recall.fused {
        true => embedding(config, "recall", towers, Side::User),
        false => Needs { per_row: 4 * config.model.dim() as u64, ..Needs::held("recall", Vec::new()) },
    };
    let items = Table::open(ITEMS, &config.tables.items.source)?.leniently();
    let count = items.rows()? as usize;
    let vectors = count * config.model.dim() * size_of::<f32>();
    let room = ListRoom::new(config.recall.topk.min(count), &first_ids(&items, &config.tables.items.id)?);
    let room = room.with_score(config.model.similarity() == Similarity::Dot);
    search_needs(&mut needs, &config.recall, (count, config.model.dim()), room, (vectors + 16 * count) as u64);
    Ok(needs)
}

/// The ids of the first items.
fn first_ids(items: &Table, id: &str) -> Result<Ids, PipelineError> {
    let options = ReadOptions { columns: &[id.to_string()], rows: 0..LOOKED_AT as u64, batch_rows: LOOKED_AT };
    match items.read(options)?.next() {
        // A row that cannot be used is the first stage's to name.
        Some(batch) => Ok(id_column(&batch?, id).unwrap_or(Ids::Int(vec![0]))),
        None => Ok(Ids::Int(vec![0])),
    }
}
