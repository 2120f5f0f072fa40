//! The native engine on the tower of `demo`: 13 fields, layers of 256, 128 and 64.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use twotower_artifacts::{CodeBatch, Column, FieldSchema, FieldShape, Fingerprint, Side, TowerSchema};
use twotower_models::engine::Engine;
use twotower_models::matmul::{Operand, matmul};
use twotower_models::native::NativeEngine;
use twotower_models::rng::Rng;
use twotower_models::tower::{Input, Layer, Matrix, Tower};

const EMBEDDING: usize = 16;
const CARDINALITY: u32 = 200;
/// Fields with a code, and numeric ones of two floats.
const CODES: usize = 10;
const NUMBERS: usize = 3;
const WIDTHS: [usize; 3] = [256, 128, 64];

fn floats(rng: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.normal() as f32 * 0.1).collect()
}

fn tower(rng: &mut Rng) -> Tower {
    let code = |f: usize| FieldShape::Code { table: format!("t{f}"), cardinality: CARDINALITY };
    let codes = (0..CODES).map(|f| FieldSchema { name: format!("c{f}"), shape: code(f) });
    let numbers = (0..NUMBERS).map(|f| FieldSchema { name: format!("n{f}"), shape: FieldShape::Dense { width: 2 } });
    let fields: Vec<FieldSchema> = codes.chain(numbers).collect();
    let inputs = (0..CODES).map(|f| Input::Embedding { table: format!("t{f}") });
    let inputs = inputs.chain((0..NUMBERS).map(|_| Input::Dense)).collect();
    let mut matrix = |rows: usize, cols: usize| Matrix { rows, cols, data: floats(rng, rows * cols) };
    let tables = (0..CODES).map(|f| (format!("t{f}"), matrix(CARDINALITY as usize, EMBEDDING))).collect();
    let mut width = CODES * EMBEDDING + NUMBERS * 2;
    let mut layers = Vec::new();
    for (i, out) in WIDTHS.into_iter().enumerate() {
        if i > 0 {
            layers.push(Layer::Prelu { slope: Matrix::vector(vec![0.25; width]) });
        }
        layers.push(Layer::Linear { weight: matrix(out, width), bias: Matrix::vector(vec![0.1; out]) });
        width = out;
    }
    layers.push(Layer::L2Norm { eps: 1e-6 });
    let schema = TowerSchema { side: Side::User, encoder: Fingerprint::of(b"kernels"), fields };
    Tower { schema, inputs, tables, layers, dim: width }
}

fn batch(rng: &mut Rng, rows: usize) -> CodeBatch {
    let codes = (0..CODES).map(|_| (0..rows).map(|_| rng.below(CARDINALITY as usize) as u32).collect());
    let mut columns: Vec<Column> = codes.map(Column::Code).collect();
    columns.extend((0..NUMBERS).map(|_| Column::Dense { width: 2, values: vec![0.5; rows * 2] }));
    CodeBatch { columns }
}

/// One tile, and a batch as `infer` reads it; users per second on one thread.
fn native_engine(c: &mut Criterion) {
    let rng = &mut Rng::at(1, &[]);
    let mut engine = NativeEngine::new(Arc::new(tower(rng))).expect("the tower's parts fit together");
    let mut group = c.benchmark_group("native_engine");
    for rows in [256, 8192] {
        let batch = batch(rng, rows);
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::from_parameter(rows), |b| {
            b.iter(|| {
                out.clear();
                engine.embed(black_box(&batch), &mut out).expect("codes are in range")
            });
        });
    }
    group.finish();
}

/// The product of the first layer for one tile, and a large one; floating point operations per second.
fn product(c: &mut Criterion) {
    let rng = &mut Rng::at(2, &[]);
    let mut group = c.benchmark_group("matmul_flops");
    for (m, n, k) in [(256, 256, 166), (1024, 1024, 1024)] {
        let (a, b, mut out) = (floats(rng, m * k), floats(rng, n * k), vec![0.0; m * n]);
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        group.bench_function(format!("{m}x{n}x{k}"), |bench| {
            let (a, b) = (Operand::rows_of(&a, k), Operand::rows_of(&b, k).transposed());
            bench.iter(|| matmul(black_box(&mut out), false, 1.0, a, b));
        });
    }
    group.finish();
}

criterion_group!(benches, native_engine, product);
criterion_main!(benches);
