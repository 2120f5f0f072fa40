//! `similar`: the nearest items of every item, written as `recall` writes the items of users.

use super::nearest::NearestItems;
use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::run::dir::remove_if_there;
use crate::run::names::{inputs, rows};
use crate::run::output_folder::{Holds, OutputFolder};
use crate::stages::output::{Place, Prologue, StageKey, Summary, row_counts};
use crate::stages::towers::verified_towers;
use crate::stages::{Job, Outcome};
use crate::stream::memory::{MIB, Needs};
use crate::stream::parts::VectorParts;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use twotower_artifacts::neighbours::open_sink;
use twotower_artifacts::{ArtifactError, Ids, ListRoom, NeighbourFormat, NeighbourLists, NeighboursInfo, Side};
use twotower_index::Neighbours;

/// The stage's manifest in its folder.
pub const MANIFEST: &str = "manifest.json";
/// Items searched together.
const BATCH: usize = 2048;

/// Name of the file of lists.
pub fn file_name(format: NeighbourFormat) -> String {
    format!("similar.{}", format.extension())
}

/// Writes the `topk` nearest items of each item of the run to a file in the folder `output`, which is made where it is
/// missing. Form and compression are those of the job's results.
///
/// # Errors
/// Missing or damaged vectors, or vectors of other towers than the run's; a folder that is not for this; a budget of
/// memory that is too small; I/O.
pub fn similar(job: &Job, topk: usize, output: &Path) -> Result<Outcome, PipelineError> {
    let started = Instant::now();
    let _step = job.step("similar");
    let RecallSettings { recall, compression, .. } = job.config.recall_settings();
    let parts = VectorParts::find("similar", &job.run.vectors(Side::Item), Side::Item, None)?;
    let towers = verified_towers("similar", job)?.fingerprint;
    if parts.towers != towers {
        return Err(ArtifactError::Mismatch {
            what: "similar: item vectors".into(),
            expected_from: "the run's towers with fingerprint".into(),
            expected: towers.to_string(),
            found_from: "vectors of towers with fingerprint".into(),
            found: parts.towers.to_string(),
            advice: "run `twotower infer --side item` again".into(),
        }
        .into());
    }
    let folder = OutputFolder::claim(output, Holds::SimilarItems, &job.run, job.config.tables())?;
    let dir = folder.path();
    let key = StageKey {
        stage: "similar",
        inputs: BTreeMap::from([(inputs::ITEM_VECTORS.to_string(), parts.fingerprint.clone())]),
        config: serde_json::json!({ "topk": topk, "format": recall.format, "compression": compression }),
    };
    let place = Place::beside_results(dir.to_path_buf(), MANIFEST);
    let made = match job.begin(key, place, started, |_| Ok(true))? {
        Prologue::Current(outcome) => return Ok(outcome),
        Prologue::Due(output) => output,
    };
    let items = NearestItems::load("similar", &parts, &job.cancel)?;
    let ids = items.ids();
    let room = ListRoom::new(topk, ids);
    job.memory.require(&needs(&items, topk, room.writer_bytes(recall.format)))?;
    made.prepare(&[])?;
    made.replace()?;

    let path = dir.join(file_name(recall.format));
    let mut sink = open_sink(recall.format, path, &NeighboursInfo::of_items(ids.kind()), room, compression)?;
    let mut bar = job.progress.bar("similar", ids.len() as u64, "items");
    let (mut found, mut pairs) = (Neighbours::default(), 0);
    let (mut offsets, mut near, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for first in (0..ids.len()).step_by(BATCH) {
        job.cancel.check("similar")?;
        let range = first..ids.len().min(first + BATCH);
        items.of_rows(range.clone(), topk, &mut found)?;
        offsets.clear();
        near.clear();
        scores.clear();
        offsets.push(0);
        for item in 0..range.len() {
            near.extend_from_slice(found.rows(item));
            scores.extend_from_slice(found.scores(item));
            offsets.push(near.len());
        }
        pairs += near.len() as u64;
        let mut own = Ids::new(ids.kind());
        own.extend_from(ids, range.clone());
        sink.write(&own, &NeighbourLists { offsets: &offsets, rows: &near, scores: &scores, item_ids: ids })?;
        bar.advance(range.len() as u64);
    }
    let entry = sink.finish()?;
    for other in NeighbourFormat::ALL.into_iter().filter(|other| other.extension() != recall.format.extension()) {
        remove_if_there(&dir.join(file_name(other)))?;
    }
    let counts = row_counts([(rows::ITEMS, ids.len() as u64), (rows::PAIRS, pairs)]);
    let details = serde_json::json!({ "similarity": "cosine", "search": "exact" });
    made.publish(Summary::new(vec![entry], counts, details))
}

/// What is held in memory: the vectors as read, in order, and in the index; and what searching and writing take.
fn needs(items: &NearestItems, topk: usize, writer: u64) -> Needs {
    let vectors = 3 * items.bytes();
    let lists = (BATCH * topk.min(items.ids().len()) * 16) as u64;
    Needs::held("similar", vec![("the items", vectors), ("the lists", lists + 8 * MIB), ("the writer", writer)])
}
