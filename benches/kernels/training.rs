//! The two kernels of a training step beside its matrix products: the softmax, and Adam on touched rows.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use twotower_artifacts::Ragged;
use twotower_models::losses::softmax::{Candidates, softmax};
use twotower_models::losses::{LossGradient, ScoredBatch};
use twotower_models::optimiser::{Adam, AdamSettings, Moves};
use twotower_models::params::{Gradients, Parameters, Table, TableGradient};
use twotower_models::rng::Rng;

const BATCH: usize = 4096;
const DIM: usize = 64;

fn unit_rows(rng: &mut Rng, rows: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..rows * DIM).map(|_| rng.normal() as f32).collect();
    for row in values.chunks_exact_mut(DIM) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    values
}

/// In-batch softmax, forward and backward, at batch 4,096; examples per second on all cores.
fn in_batch_softmax(c: &mut Criterion) {
    let rng = &mut Rng::at(1, &[]);
    let (users, items) = (unit_rows(rng, BATCH), unit_rows(rng, BATCH));
    let (positives, weights): (Vec<u32>, Vec<f32>) = ((0..BATCH as u32).collect(), vec![1.0; BATCH]);
    let (correction, masked) = (vec![0.5; BATCH], Ragged::default());
    let scored =
        ScoredBatch { users: &users, items: &items, dim: DIM, scale: 10.0, positives: &positives, weights: &weights };
    let candidates = Candidates { correction: &correction, positive_correction: &correction, masked: &masked };
    let mut out = LossGradient::default();
    let mut group = c.benchmark_group("softmax");
    group.sample_size(20);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(BenchmarkId::from_parameter(BATCH), |b| {
        b.iter(|| softmax(black_box(&scored), &candidates, &mut out));
    });
    group.finish();
}

/// Gathering the gradients of 4,096 random rows of a table and one step of Adam on them, by table size.
fn sparse_adam(c: &mut Criterion) {
    const WIDTH: usize = 16;
    let settings = AdamSettings {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        embedding_weight_decay: 0.0,
        clip_norm: 0.0,
    };
    let mut group = c.benchmark_group("sparse_adam");
    group.throughput(Throughput::Elements(BATCH as u64));
    for rows in [10_000, 1_000_000] {
        let rng = &mut Rng::at(2, &[]);
        let table = Table { name: "t".into(), rows, dim: WIDTH, values: vec![0.1; rows * WIDTH] };
        let mut parameters = Parameters { dense: Vec::new(), tables: vec![table] };
        let mut adam = Adam::new(&parameters);
        let mut gradients = Gradients::new(&parameters);
        let moves = Moves::all(&parameters);
        let values: Vec<f32> = (0..BATCH * WIDTH).map(|_| rng.normal() as f32).collect();
        group.bench_function(BenchmarkId::from_parameter(rows), |b| {
            b.iter(|| {
                gradients.clear();
                let TableGradient::Rows(sparse) = &mut gradients.tables[0] else { return };
                for at in 0..BATCH {
                    sparse.push(rng.below(rows) as u32, at * WIDTH, 1.0);
                }
                sparse.reduce(&values);
                black_box(adam.step(&mut parameters, &gradients, &moves, 1e-3, &settings));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, in_batch_softmax, sparse_adam);
criterion_main!(benches);
