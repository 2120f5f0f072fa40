//! What a worker holds to compute an encoder stays below what is said, which is not much more. A process of its own, so
//! that nothing else is measured.

use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{
    CodeBatch, Column, FieldSchema, FieldShape, Fingerprint, IntervalScale, Intervals, Side, TowerSchema,
};
use twotower_models::engine::{self, EncoderSize, EngineKind};
use twotower_models::onnx;
use twotower_models::tower::encoder::{Affine, Block, Encoder, Norm, NormOrder};
use twotower_models::tower::intervals::IntervalTables;
use twotower_models::tower::ligr::{BlockKind, BlockShape, Gates};
use twotower_models::tower::streams::{BlockStreams, Mixing, StreamShape, Streams};
use twotower_models::tower::{Input, Layer, Matrix, Reduce, Tower};

/// Rows of the batch: more than native engines take at a time, and for long sequences more than ONNX Runtime does.
const ROWS: usize = 60;
/// Rows of the table of items.
const ITEMS: usize = 100;

fn matrix(rows: usize, cols: usize) -> Matrix {
    let data = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
    Matrix { rows, cols, data }
}

/// Streams of a sublayer.
fn streams_of(StreamShape { count, .. }: StreamShape, dim: usize) -> Streams {
    let logits = 2 * count + count * count;
    Streams { weight: matrix(logits, count * dim), bias: matrix(1, logits), gates: matrix(1, 3) }
}

/// A tower of one sequence with an encoder.
fn tower(size: EncoderSize, order: NormOrder) -> Tower {
    let EncoderSize { len, dim, blocks, block: shape, heads, streams, intervals } = size;
    let width = shape.feed_forward_multiple * dim;
    let is_ligr = shape.kind == BlockKind::Ligr;
    let norm = || Norm { gain: matrix(1, dim), bias: matrix(1, dim) };
    let affine = |out: usize| Affine { weight: matrix(out, dim), bias: matrix(1, out) };
    let block = || Block {
        attention_norm: norm(),
        query: affine(dim),
        key_value: affine(2 * dim),
        output: matches!(order, NormOrder::Pre | NormOrder::Post).then(|| affine(dim)),
        feed_forward_norm: norm(),
        inner: affine(if is_ligr { 2 * width } else { width }),
        outer: Affine { weight: matrix(dim, width), bias: matrix(1, dim) },
        gates: is_ligr.then(|| Gates { attention: affine(dim), feed_forward: affine(dim) }),
        streams: streams.map(|streams| BlockStreams {
            attention: streams_of(streams, dim),
            feed_forward: streams_of(streams, dim),
        }),
    };
    let last = (order != NormOrder::Paper).then(norm);
    let blocks = (0..blocks).map(|_| block()).collect();
    let tables = (intervals > 0).then(|| IntervalTables {
        span: intervals - 1,
        value_positions: matrix(len, dim),
        keys: matrix(intervals, dim),
        values: matrix(intervals, dim),
    });
    let (positions, empty) = (matrix(len, dim), matrix(1, dim));
    let encoder = Encoder { order, block: shape, heads, streams, positions, intervals: tables, empty, blocks, last };
    let intervals = (intervals > 0).then(|| Intervals { scale: IntervalScale::Hour, span: intervals as u32 - 1 });
    let shape =
        FieldShape::Sequence { table: "item".into(), cardinality: ITEMS as u32, max_len: len as u32, intervals };
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
    let timed = tower.schema.fields[0].shape.intervals().is_some();
    let Column::Ragged(ragged) = &mut batch.columns[0] else { unreachable!() };
    for row in 0..ROWS {
        let len = if row % 7 == 3 { 1 + row % len } else { len };
        ragged.push_row((0..len).map(|i| 3 + ((row + i) % (ITEMS - 3)) as u32));
        if timed {
            ragged.times.extend((0..len).map(|i| (i + i * i * row % 7) as i32));
        }
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
    let sizes = [
        (700, 32, 2, 2, 0),
        (512, 128, 2, 1, 0),
        (200, 64, 4, 2, 1001),
        (200, 64, 4, 2, 0),
        (200, 50, 2, 1, 257),
        (200, 50, 2, 1, 0),
        (50, 64, 2, 1, 2049),
        (50, 64, 3, 4, 0),
        (20, 64, 1, 1, 0),
    ];
    let dir = tempfile::tempdir().unwrap();
    for kind in [EngineKind::Native, EngineKind::NativeInt16, EngineKind::Ort] {
        for (len, dim, blocks, heads, intervals) in sizes {
            let four = StreamShape { count: 4, mixing: Mixing::Sinkhorn(20) };
            let plain = BlockShape::default();
            let ligr = |feed_forward_multiple| BlockShape { kind: BlockKind::Ligr, feed_forward_multiple };
            for (order, block, streams) in [
                (NormOrder::Original, plain, None),
                (NormOrder::Pre, plain, None),
                (NormOrder::Pre, BlockShape { feed_forward_multiple: 4, ..plain }, None),
                (NormOrder::Pre, ligr(1), None),
                (NormOrder::Pre, ligr(4), None),
                (NormOrder::Pre, plain, Some(four)),
            ] {
                let size = EncoderSize { len, dim, blocks, block, heads, streams, intervals };
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
