//! Bare loops of matrix products, of the engines on codes, and of exact search on vectors, all in memory.

use super::kernels::{Count, repeat};
use super::stages::Shape;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use twotower_artifacts::vectors::load_parts;
use twotower_artifacts::{CodeBatch, CodesReader, Side, VectorsReader};
use twotower_index::{Eligibility, Exclusions, IndexConfig, IndexKind, ItemVectors, Neighbours, Request, build};
use twotower_models::engine::{EngineKind, open_workers};
use twotower_models::matmul::{Operand, matmul};
use twotower_models::onnx;
use twotower_models::tower::Layer;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::files;
use twotower_pipeline::stream::shard::Shard;

/// Side of the square matrices whose product is the machine's peak.
const SGEMM_SIDE: usize = 1024;
/// Loops, the best of which is the peak: a peak is what the machine reaches undisturbed.
const SGEMM_LOOPS: usize = 3;
/// Rows of a batch, as `infer` has them by default.
const BATCH_ROWS: usize = 8192;
/// Batches in memory: enough that they are not all in the cache.
const BATCHES: usize = 8;
/// Neighbours searched for.
const TOPK: usize = 50;

/// Sizes of the work on a user, with the trained tower and `items` items; none before training.
///
/// # Errors
/// A damaged tower.
pub fn shape(dir: &Path, items: u32) -> Result<Shape, PipelineError> {
    let path = user_tower(dir);
    if !path.exists() {
        return Ok(Shape::default());
    }
    let (tower, _) = onnx::read(&path)?;
    let products = tower.layers.iter().map(|layer| match layer {
        Layer::Linear { weight, .. } => weight.rows * weight.cols,
        _ => 0,
    });
    Ok(Shape { tower: 2.0 * products.sum::<usize>() as f64, search: 2.0 * tower.dim as f64 * f64::from(items) })
}

/// Products of square matrices, one a thread at a time; a row is a row of a product.
pub fn sgemm(threads: usize, long: Duration) -> Result<Count, PipelineError> {
    let side = SGEMM_SIDE;
    let operand = |shift: usize| (0..side * side).map(|i| ((i + shift) % 17) as f32 / 17.0 - 0.5).collect::<Vec<f32>>();
    let mut best: Option<Count> = None;
    for _ in 0..SGEMM_LOOPS {
        let worker = |_| {
            let (a, b, mut product) = (operand(0), operand(5), vec![0.0; side * side]);
            move || {
                matmul(&mut product, false, 1.0, Operand::rows_of(&a, side), Operand::rows_of(&b, side));
                Ok(side)
            }
        };
        let count = repeat((0..threads).map(worker).collect(), long)?;
        let rate = |count: &Count| count.rows as f64 / count.seconds;
        if best.as_ref().is_none_or(|known| rate(&count) > rate(known)) {
            best = Some(count);
        }
    }
    let count = best.unwrap_or_default();
    Ok(Count { flops: Some(2.0 * (side * side) as f64 * count.rows as f64), ..count })
}

/// The user tower on the codes of encoded users, over and over.
pub fn engine(dir: &Path, kind: EngineKind, threads: usize, long: Duration) -> Result<Count, PipelineError> {
    let reader = CodesReader::open(run(dir).encoders().join(files::encoders::USERS))?;
    let (_, codes) = reader.load()?;
    if codes.rows() == 0 {
        return Err(too_few("encoded users"));
    }
    let batches: Vec<CodeBatch> = (0..BATCHES)
        .map(|batch| {
            let mut rows = CodeBatch::empty(&reader.info().schema);
            rows.extend_from_rows(&codes, (batch * BATCH_ROWS..(batch + 1) * BATCH_ROWS).map(|r| r % codes.rows()));
            rows
        })
        .collect();
    let engines = open_workers(kind, &user_tower(dir), threads)?;
    let workers = engines.into_iter().enumerate().map(|(worker, mut engine)| {
        let mut vectors = Vec::new();
        let mut turns = turns(BATCHES, worker);
        let batches = &batches;
        move || {
            let batch = &batches[turns()];
            vectors.clear();
            engine.embed(batch, &mut vectors)?;
            Ok(batch.rows())
        }
    });
    repeat(workers.collect(), long)
}

/// Exact search for the vectors of users, over and over.
pub fn search(dir: &Path, threads: usize, long: Duration) -> Result<Count, PipelineError> {
    let part = |side| run(dir).vectors(side).file(Shard::WHOLE, "parquet");
    let (info, _, items) = load_parts(&[part(Side::Item)])?.ok_or_else(|| too_few("item vectors"))?;
    let items = ItemVectors::new(info.dim, items)?;
    let exact = IndexConfig { kind: IndexKind::Exact, ..IndexConfig::default() };
    let (index, _) = build(&exact, items, None, &mut |_| ControlFlow::Continue(()))?;
    let users = VectorsReader::open(part(Side::User))?;
    let batches = users.batches(0..(BATCHES * BATCH_ROWS) as u64, BATCH_ROWS)?;
    let batches: Vec<Vec<f32>> = batches.map(|batch| Ok(batch?.1)).collect::<Result<_, PipelineError>>()?;
    if batches.is_empty() {
        return Err(too_few("user vectors"));
    }
    let eligible = Eligibility::all(index.count());
    let workers = (0..threads).map(|worker| {
        let (index, eligible) = (&*index, &eligible);
        let mut found = Neighbours::default();
        let batches = &batches;
        let mut turns = turns(batches.len(), worker);
        move || {
            let request = Request { queries: &batches[turns()], k: TOPK, exclude: Exclusions::none(), eligible };
            index.search(&request, &mut found)?;
            Ok(found.queries())
        }
    });
    repeat(workers.collect(), long)
}

/// Numbers below `count` in a circle, from `first` on.
fn turns(count: usize, first: usize) -> impl FnMut() -> usize {
    let mut turn = first;
    move || {
        turn = (turn + 1) % count;
        turn
    }
}

fn too_few(what: &str) -> PipelineError {
    PipelineError::Data(format!("bench: there are no {what}; give more --users or --items"))
}

fn run(dir: &Path) -> RunDir {
    RunDir::new(dir.join("run"))
}

fn user_tower(dir: &Path) -> PathBuf {
    run(dir).towers().join(files::towers::tower(Side::User))
}
