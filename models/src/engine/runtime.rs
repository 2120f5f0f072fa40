//! A tower on ONNX Runtime: one session with one thread per worker, and a fixed number of rows per run.

use super::{Engine, Norms, library};
use crate::cross::Cross;
use crate::encoder::EncoderSize;
use crate::error::ModelError;
use crate::onnx::{self, CrossedGraph, Metadata};
use crate::tower::layout::check_batch;
use ort::session::builder::SessionBuilder;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;
use std::ops::Range;
use std::path::{Path, PathBuf};
use twotower_artifacts::schema::PADDING;
use twotower_artifacts::{ArtifactError, CodeBatch, Column, FieldShape, TowerSchema};

/// Rows of every run. Runs of 256 to 512 rows stay in cache. ONNX Runtime chooses its kernels by shape, so a
/// fixed number keeps the bits of a row independent of the number of rows in its batch.
pub const TILE: usize = 512;

/// The most elements of sequences with an encoder in a run, so that a value of 64 floats for each takes 1 MiB.
const ENCODED: usize = 4096;
/// The least rows of a run.
const MIN_TILE: usize = 8;

/// Intervals for which an element counts once more, as it has a value for each of them.
const COUNTED_INTERVALS: usize = 256;

/// The rows of every run of a tower. Encoders have many values for each element of the longest possible sequence.
pub(crate) fn tile_for(encoders: &[EncoderSize]) -> usize {
    match encoders.iter().map(|encoder| encoder.len * (1 + encoder.intervals / COUNTED_INTERVALS)).max() {
        None => TILE,
        Some(len) => (ENCODED / len.max(1)).clamp(MIN_TILE, TILE),
    }
}

/// The size in bytes up to which a tower's small code fields are crossed for ONNX Runtime. While the crossed graph is
/// made, it takes about three times the size of the file.
pub const CROSS_LIMIT: u64 = 32 << 20;

/// An exported tower from which sessions are opened. Its file was found to be exactly what the export writes.
pub struct OrtTower {
    path: PathBuf,
    /// The file's metadata.
    metadata: Metadata,
    /// The graph that sessions get instead of the file, if there is one.
    crossed: Option<CrossedGraph>,
}

/// A session of a tower on ONNX Runtime.
#[derive(Debug)]
pub struct OrtEngine {
    path: PathBuf,
    session: Session,
    metadata: Metadata,
    inputs: Vec<(Source, Input)>,
    /// Rows of every run.
    tile: usize,
}

/// Where the values of an input come from.
#[derive(Debug)]
enum Source {
    Field(usize),
    /// The times of the elements of a field.
    Times(usize),
    Cross(Cross),
}

/// One input of a run, `[rows, ...]`.
#[derive(Debug)]
enum Input {
    Codes(Vec<i32>),
    /// Always as wide as the field allows, so that sums are always taken in the same order.
    Padded {
        values: Vec<i32>,
        len: usize,
    },
    Dense {
        values: Vec<f32>,
        width: usize,
    },
}

impl OrtTower {
    /// Opens an exported tower. If its file has at most [`CROSS_LIMIT`] bytes and crossing small code fields saves
    /// work, ONNX Runtime gets a graph with crossed fields, otherwise the file.
    ///
    /// # Errors
    /// [`ModelError::RuntimeMissing`] without a usable library, and those of [`onnx::read`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let published = Self::published(path)?;
        let io = |source| ArtifactError::Io { action: "read", path: path.to_path_buf(), source };
        if published.metadata.data.is_some() || std::fs::metadata(path).map_err(io)?.len() > CROSS_LIMIT {
            return Ok(published);
        }
        let (tower, metadata) = onnx::read(path)?;
        Ok(Self { crossed: CrossedGraph::of(&tower)?, metadata, ..published })
    }

    /// Opens an exported tower, of which ONNX Runtime always gets the file.
    ///
    /// # Errors
    /// As [`OrtTower::open`].
    pub(super) fn published(path: &Path) -> Result<Self, ModelError> {
        // This comes first, since without a library there is no use in reading the file.
        library::environment()?;
        Ok(Self { path: path.to_path_buf(), metadata: onnx::inspect(path)?, crossed: None })
    }

    /// Whether ONNX Runtime gets a graph with crossed fields instead of the file.
    pub(super) fn is_crossed(&self) -> bool {
        self.crossed.is_some()
    }

    /// Opens a session.
    ///
    /// # Errors
    /// As [`OrtTower::open`]; [`ModelError::Runtime`] when ONNX Runtime refuses the tower.
    pub fn engine(&self) -> Result<OrtEngine, ModelError> {
        let Self { path, metadata, crossed } = self;
        match crossed {
            Some(crossed) => OrtEngine::crossed(path, crossed, metadata.clone()),
            None => OrtEngine::published(path, metadata.clone()),
        }
    }
}

impl OrtEngine {
    fn crossed(path: &Path, crossed: &CrossedGraph, metadata: Metadata) -> Result<Self, ModelError> {
        let session = builder(library::environment()?)
            .and_then(|mut builder| builder.commit_from_memory(&crossed.model))
            .map_err(|e| ModelError::runtime("load, with fields crossed,", path, e))?;
        let tile = tile_for(&metadata.encoders);
        let crosses = crossed.crosses.iter().map(|c| (Source::Cross(c.clone()), Input::Codes(vec![0; tile])));
        let fields = crossed.fields.iter().flat_map(|field| of_field(&metadata, *field, tile));
        let inputs = crosses.chain(fields).collect();
        Ok(Self { path: path.to_path_buf(), session, metadata, inputs, tile })
    }

    fn published(path: &Path, metadata: Metadata) -> Result<Self, ModelError> {
        let session = builder(library::environment()?)
            .and_then(|mut builder| builder.commit_from_file(path))
            .map_err(|e| ModelError::runtime("load", path, e))?;
        let tile = tile_for(&metadata.encoders);
        let inputs = (0..metadata.schema.fields.len()).flat_map(|field| of_field(&metadata, field, tile)).collect();
        Ok(Self { path: path.to_path_buf(), session, metadata, inputs, tile })
    }
}

/// The inputs of a field, in the order of the graph.
fn of_field(metadata: &Metadata, field: usize, tile: usize) -> impl Iterator<Item = (Source, Input)> + use<> {
    let shape = &metadata.schema.fields[field].shape;
    let times = shape.intervals().map(|_| (Source::Times(field), Input::new(shape, tile)));
    std::iter::once((Source::Field(field), Input::new(shape, tile))).chain(times)
}

pub(super) fn builder(environment: &ort::environment::Environment) -> Result<SessionBuilder, ort::Error> {
    Ok(Session::builder(environment)?.with_intra_threads(1)?.with_inter_threads(1)?.with_parallel_execution(false)?)
}

impl Engine for OrtEngine {
    fn embed(&mut self, batch: &CodeBatch, out: &mut Vec<f32>) -> Result<Norms, ModelError> {
        let Self { path, session, metadata, inputs, tile } = self;
        check_batch(&metadata.schema, batch)?;
        let (rows, dim) = (batch.rows(), metadata.dim);
        out.reserve(rows * dim);
        for first in (0..rows).step_by(*tile) {
            let range = first..rows.min(first + *tile);
            for (source, input) in inputs.iter_mut() {
                match source {
                    Source::Field(field) => input.fill(&batch.columns[*field], range.clone()),
                    Source::Times(field) => input.fill_times(&batch.columns[*field], range.clone()),
                    Source::Cross(cross) => input.combine(cross, &batch.columns, range.clone()),
                }
            }
            run(session, inputs, (range.len(), *tile), dim, out).map_err(|e| ModelError::runtime("run", path, e))?;
        }
        Ok(Norms::Unknown)
    }

    fn dim(&self) -> usize {
        self.metadata.dim
    }

    fn schema(&self) -> &TowerSchema {
        &self.metadata.schema
    }
}

fn run(
    session: &mut Session,
    inputs: &[(Source, Input)],
    (rows, tile): (usize, usize),
    dim: usize,
    out: &mut Vec<f32>,
) -> Result<(), ort::Error> {
    let values: Vec<SessionInputValue> = inputs.iter().map(|(_, input)| input.value()).collect::<Result<_, _>>()?;
    let outputs = session.run(&values[..])?;
    let (shape, vectors) = outputs[0].try_extract_tensor::<f32>()?;
    if **shape != [tile as i64, dim as i64] {
        return Err(ort::Error::new(format!("output of shape {shape}, expected [{tile}, {dim}]")));
    }
    out.extend_from_slice(&vectors[..rows * dim]);
    Ok(())
}

impl Input {
    fn new(shape: &FieldShape, tile: usize) -> Self {
        match shape {
            FieldShape::Code { .. } => Input::Codes(vec![0; tile]),
            FieldShape::Bag { max_len, .. } | FieldShape::Sequence { max_len, .. } => {
                let len = *max_len as usize;
                Input::Padded { values: vec![0; tile * len], len }
            }
            FieldShape::Dense { width } => {
                let width = *width as usize;
                Input::Dense { values: vec![0.0; tile * width], width }
            }
        }
    }

    /// Copies at most as many checked rows of a column as a run has. The remaining rows become padding or zeros.
    fn fill(&mut self, column: &Column, rows: Range<usize>) {
        match (self, column) {
            (Input::Codes(to), Column::Code(from)) => {
                to.fill(0);
                to.iter_mut().zip(&from[rows]).for_each(|(to, from)| *to = *from as i32);
            }
            (Input::Padded { values, len }, Column::Ragged(from)) => {
                values.fill(0);
                for (to, row) in values.chunks_exact_mut(*len).zip(rows) {
                    let newest_first = from.row(row).iter().rev().filter(|code| **code != PADDING);
                    to.iter_mut().rev().zip(newest_first).for_each(|(to, from)| *to = *from as i32);
                }
            }
            (Input::Dense { values, width }, Column::Dense { values: from, .. }) => {
                values.fill(0.0);
                let from = &from[rows.start * *width..rows.end * *width];
                values[..from.len()].copy_from_slice(from);
            }
            _ => unreachable!("the batch was checked against the schema that made the inputs"),
        }
    }

    /// Copies the times of at most as many checked rows of a column as a run has, to where their elements are.
    fn fill_times(&mut self, column: &Column, rows: Range<usize>) {
        let (Input::Padded { values, len }, Column::Ragged(from)) = (self, column) else {
            unreachable!("the batch was checked against the schema that made the inputs")
        };
        values.fill(0);
        for (to, row) in values.chunks_exact_mut(*len).zip(rows) {
            let newest_first =
                from.row(row).iter().zip(from.row_times(row)).rev().filter(|(code, _)| **code != PADDING);
            to.iter_mut().rev().zip(newest_first).for_each(|(to, (_, time))| *to = *time);
        }
    }

    /// Writes the row of a cross for each of the given rows. The remaining rows get row 0.
    fn combine(&mut self, cross: &Cross, columns: &[Column], rows: Range<usize>) {
        let Input::Codes(to) = self else { unreachable!("a cross's input is made to take codes") };
        let (to, rest) = to.split_at_mut(rows.len());
        cross.combine(columns, rows, to);
        rest.fill(0);
    }

    fn value(&self) -> Result<SessionInputValue<'_>, ort::Error> {
        Ok(match self {
            Input::Codes(codes) => TensorRef::from_array_view(([codes.len()], &codes[..]))?.into(),
            Input::Padded { values, len } => {
                TensorRef::from_array_view(([values.len() / len, *len], &values[..]))?.into()
            }
            Input::Dense { values, width } => {
                TensorRef::from_array_view(([values.len() / width, *width], &values[..]))?.into()
            }
        })
    }
}
