//! What a worker holds to compute an encoder stays below what is said, which is not much more. A process of its own, so
//! that nothing else is measured.

use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{CodeBatch, Column, FieldSchema, FieldShape, Fingerprint, Side, TowerSchema};
use twotower_models::engine::{self, EncoderSize, EngineKind};
use twotower_models::onnx;
use twotower_models::tower::encoder::{Affine, Block, Encoder, Norm, NormOrder};
use twotower_models::tower::{Input, Layer, Matrix, Reduce, Tower};

/// Rows of the batch: more than native engines take at a time, and for long sequences more than ONNX Runtime does.
const ROWS: usize = 60;
/// Rows of the table of items.
const ITEMS: usize = 100;

fn matrix(rows: usize, cols: usize) -> Matrix {
    let data = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
    Matrix { rows, cols, data }
}

/// A tower of one sequence with an encoder.
fn tower(size: EncoderSize, order: NormOrder) -> Tower {
    let EncoderSize { len, dim, blocks, heads } = size;
    let norm = || Norm { gain: matrix(1, dim), bias: matrix(1, dim) };
    let affine = |out: usize| Affine { weight: matrix(out, dim), bias: matrix(1, out) };
    let block = || Block {
        attention_norm: norm(),
        query: affine(dim),
        key_value: affine(2 * dim),
        output: matches!(order, NormOrder::Pre | NormOrder::Post).then(|| affine(dim)),
        feed_forward_norm: norm(),
        inner: affine(dim),
        outer: affine(dim),
    };
    let last = (order != NormOrder::Paper).then(norm);
    let blocks = (0..blocks).map(|_| block()).collect();
    let encoder = Encoder { order, heads, positions: matrix(len, dim), empty: matrix(1, dim), blocks, last };
    let shape = FieldShape::Sequence { table: "item".into(), cardinality: ITEMS as u32, max_len: len as u32 };
    let fields = vec![FieldSchema { name: "recent".into(), shape }];
    Tower {
        schema: TowerSchema { side: Side::User, encoder: Fingerprint::of(b"memory"), fields },
        inputs: vec![Input::Pooled { table: "item".into(), reduce: Reduce::Attention(encoder) }],
        tables: BTreeMap::from([("item".to_string(), matrix(ITEMS, dim))]),
        layers: vec![Layer::Linear { weight: matrix(8, dim), bias: matrix(1, 8) }, Layer::L2Norm { eps: 1e-6 }],
        dim: 8,
    }
}

/// Sequences that are as long as they can be, and some that are shorter.
fn rows(tower: &Tower, len: usize) -> CodeBatch {
    let mut batch = CodeBatch::empty(&tower.schema);
    let Column::Ragged(ragged) = &mut batch.columns[0] else { unreachable!() };
    for row in 0..ROWS {
        let len = if row % 7 == 3 { 1 + row % len } else { len };
        ragged.push_row((0..len).map(|i| 3 + ((row + i) % (ITEMS - 3)) as u32));
    }
    batch
}

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The most that a worker held beside what it held before it embedded anything, in bytes.
fn held(kind: EngineKind, path: &Path, batch: &CodeBatch) -> u64 {
    let mut engine = engine::open(kind, path).unwrap();
    // Memory that was freed must not be there to be taken without being counted.
    // SAFETY: it has no arguments that could be wrong.
    unsafe { libc::malloc_trim(0) };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let mut vectors = Vec::new();
    for _ in 0..2 {
        engine.embed(batch, &mut vectors).unwrap();
    }
    status("VmHWM:") - before
}

/// What every worker may hold beside its encoders, in MiB, of which less is used here.
const SLACK: f64 = 12.0;

#[test]
fn workers_hold_less_than_is_said_and_at_least_a_third_of_it() {
    const MIB: f64 = (1 << 20) as f64;
    // The largest first: what was freed and not given back is not counted later.
    let sizes = [(700, 32, 2, 2), (512, 128, 2, 1), (200, 64, 4, 2), (200, 50, 2, 1), (50, 64, 3, 4), (20, 64, 1, 1)];
    let dir = tempfile::tempdir().unwrap();
    for kind in [EngineKind::Native, EngineKind::NativeInt16, EngineKind::Ort] {
        for (len, dim, blocks, heads) in sizes {
            for order in [NormOrder::Original, NormOrder::Pre] {
                let size = EncoderSize { len, dim, blocks, heads };
                let tower = tower(size, order);
                let path = dir.path().join("tower.onnx");
                onnx::export(&tower, &path, &BTreeMap::new()).unwrap();
                assert_eq!(onnx::inspect(&path).unwrap().encoders, [size]);
                let said = engine::encoder_bytes(kind, &[size]) as f64 / MIB;
                let found = held(kind, &path, &rows(&tower, len)) as f64 / MIB;
                println!("{kind} {order:?} {size:?}: {found:.1} of {said:.1} MiB");
                assert!(found <= said + SLACK, "{kind} {order:?} {size:?}: {found} of {said} MiB");
                let is_first = (len, order) == (sizes[0].0, NormOrder::Original);
                assert!(!is_first || found > said / 3.0, "{kind}: {found} of {said} MiB, which is less than a third");
            }
        }
    }
}
