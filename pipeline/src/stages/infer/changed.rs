//! Vectors of the users who have changed since an earlier run, and that run's vectors of the others.
//!
//! A user's vector is a function of his encoded row, the tower, the engine and the precision. The last three are the
//! earlier run's, or nothing is taken from it. So where the hash of the encoded row is the earlier one, the vector is.

use super::{EmbeddedBatch, Embedder, Embedding};
use crate::error::PipelineError;
use crate::run::manifests::settings;
use crate::run::names::inputs;
use crate::run::records::InferRecord;
use crate::stages::earlier::{EarlierParts, EarlierRun, STRETCH_ROWS, Unfit, reach};
use crate::stream::earlier::{Matches, Search, Stretch, Window};
use crate::watch::cancel::Cancel;
use std::ops::Range;
use twotower_artifacts::{Ids, Manifest, Precision, RowHash, Side, VectorsReader};
use twotower_tables::TableBatch;

/// What was made of earlier rows: `[rows, dim]`, as they are stored.
pub type Vectors = Vec<f32>;

/// The part's rows, embedded or taken from an earlier run.
pub struct ChangedBatch {
    /// All rows.
    pub embedded: EmbeddedBatch,
    /// What each was made from; empty where nobody wants to know.
    pub hashes: Vec<RowHash>,
    /// Rows that the earlier run has.
    pub found: u64,
    /// Those of them that are the same.
    pub copied: u64,
}

/// The vectors of users in an earlier run, if this run would make the same of the same rows.
///
/// # Errors
/// As [`EarlierParts::find`].
pub fn earlier_vectors(
    embedding: &Embedding,
    precision: Precision,
    earlier: &EarlierRun,
) -> Result<Option<EarlierParts>, PipelineError> {
    let unfit = |part: &Manifest| {
        let made: InferRecord = settings("infer", part)?;
        let differ = |what: &str, found: String, now: String| format!("its {what} {found}, this run's {now}");
        let named = |name: &str| part.inputs.get(name).map_or("unknown".to_string(), |found| found.to_string());
        let state = embedding.encoded.state.fingerprint();
        let told = if part.inputs.get(inputs::ENCODERS) != Some(state) {
            Some(differ("encoder state is", named(inputs::ENCODERS), state.to_string()))
        } else if part.inputs.get(inputs::TOWERS) != Some(&embedding.towers) {
            Some(differ("towers are", named(inputs::TOWERS), embedding.towers.to_string()))
        } else if made.engine != embedding.engine {
            Some(differ("engine is", made.engine.to_string(), embedding.engine.to_string()))
        } else if made.precision != precision {
            Some(differ("precision is", format!("{:?}", made.precision), format!("{precision:?}")))
        } else if made.ids != embedding.ids {
            Some(differ("ids are", made.ids.to_string(), embedding.ids.to_string()))
        } else if !made.row_hashes {
            Some("made without `infer.row_hashes`, so it is not known what each vector was made from".to_string())
        } else {
            None
        };
        Ok(told.map(Unfit::Foreign))
    };
    let folder = earlier.dir.vectors(Side::User);
    EarlierParts::find("infer", earlier, &folder, "twotower infer --side user", unfit)
}

/// A window over the earlier vectors, for the `rows` of a table of `all` rows.
pub fn window(
    parts: &EarlierParts,
    dim: usize,
    rows: &Range<u64>,
    all: u64,
    cancel: &Cancel,
) -> Window<impl Iterator<Item = Result<Stretch<Vectors>, PipelineError>> + Send, Vectors> {
    let search = Search::new(rows.start, all, parts.rows(), reach(4 * dim));
    let open = |path, rows: Range<u64>| VectorsReader::open(path)?.batches(rows, STRETCH_ROWS);
    Window::new(parts.stretches("infer", search.first, cancel, open), &search)
}

/// What a worker knows of earlier vectors.
pub struct Reuse {
    precision: Precision,
    /// Whether some of the earlier vectors were held against what this machine computes.
    checked: bool,
    /// Rows of the batch that have changed.
    changed: Vec<usize>,
    /// Memory for their vectors, and for the bytes of a row.
    vectors: Vectors,
    bytes: Vec<u8>,
}

impl Reuse {
    /// Earlier vectors are stored with this precision.
    pub fn new(precision: Precision) -> Self {
        Self { precision, checked: false, changed: Vec::new(), vectors: Vec::new(), bytes: Vec::new() }
    }
}

impl Embedder<'_> {
    /// As [`Embedder::embed`], with the hash of each row if they are `hashed`. Rows that an earlier run has and that have
    /// not changed are not embedded. The first of them are, and must come out the same.
    ///
    /// # Errors
    /// Those of [`Embedder::embed`]; [`PipelineError::Mismatch`] for an earlier vector that this machine does not compute.
    pub fn embed_changed(
        &mut self,
        batch: &TableBatch,
        (hashed, earlier): (bool, Option<&Matches<Vectors>>),
        reuse: &mut Reuse,
    ) -> Result<ChangedBatch, PipelineError> {
        if !hashed {
            return Ok(ChangedBatch { embedded: self.embed(batch)?, hashes: Vec::new(), found: 0, copied: 0 });
        }
        let (ids, counts) = self.encode(batch)?;
        let hashes = self.row_hashes(&mut reuse.bytes);
        let same = |row: usize| {
            let (stretch, at) = earlier?.same(row, hashes[row])?;
            let dim = self.embedding.dim;
            Some(&stretch.made[at * dim..(at + 1) * dim])
        };
        let found = earlier.map_or(0, Matches::found);
        let copies: Vec<Option<&[f32]>> = (0..ids.len()).map(same).collect();
        let copied = copies.iter().flatten().count();
        let dim = self.embedding.dim;
        let mut vectors = self.embedding.spare.take();
        vectors.clear();
        if copied == 0 || !reuse.checked {
            self.embed_encoded(batch, &ids, None, &mut vectors)?;
            for (row, (vector, copy)) in vectors.chunks_exact(dim).zip(&copies).enumerate() {
                let stored = vector.iter().map(|value| reuse.precision.stored(*value).to_bits());
                if copy.is_some_and(|copy| !stored.eq(copy.iter().map(|value| value.to_bits()))) {
                    return Err(not_computed_here(batch, &ids, row));
                }
            }
            reuse.checked |= copied > 0;
        } else {
            let Reuse { changed, vectors: computed, .. } = reuse;
            changed.clear();
            changed.extend((0..ids.len()).filter(|row| copies[*row].is_none()));
            computed.clear();
            self.embed_encoded(batch, &ids, Some(changed), computed)?;
            let mut computed = computed.chunks_exact(dim);
            for copy in copies {
                vectors.extend_from_slice(copy.or_else(|| computed.next()).unwrap_or_default());
            }
        }
        let rows = (batch.first_row..).take(ids.len()).collect();
        let embedded = EmbeddedBatch { ids, rows, vectors, counts };
        Ok(ChangedBatch { embedded, hashes, found, copied: copied as u64 })
    }
}

/// The error for an earlier vector of a row that has not changed, where this machine computes another one.
fn not_computed_here(batch: &TableBatch, ids: &Ids, row: usize) -> PipelineError {
    PipelineError::Mismatch(format!(
        "--changed-since: {}: id `{}`: this machine computes another vector from the same row than the earlier run did, so its processor or its ONNX Runtime is another one; leave --changed-since out to embed all users",
        batch.table(),
        ids.get(row)
    ))
}
