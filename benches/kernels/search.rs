//! Exact top-50 of 64-d vectors on one thread; queries per second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::ops::ControlFlow;
use twotower_index::{
    Eligibility, Exclusions, IndexConfig, IndexKind, ItemVectors, Neighbours, Request, build, noisy_queries,
};
use twotower_models::rng::Rng;

const DIM: usize = 64;
const QUERIES: usize = 1024;

fn vectors(rows: usize) -> Vec<f32> {
    let mut rng = Rng::at(1, &[rows as u64]);
    let mut values: Vec<f32> = (0..rows * DIM).map(|_| rng.normal() as f32).collect();
    for row in values.chunks_exact_mut(DIM) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    values
}

fn exact_search(c: &mut Criterion) {
    let mut group = c.benchmark_group("exact_top50");
    group.throughput(Throughput::Elements(QUERIES as u64));
    group.sample_size(10);
    for items in [2_000, 20_000] {
        let config = IndexConfig { kind: IndexKind::Exact, ..IndexConfig::default() };
        let rows = ItemVectors::new(DIM, vectors(items)).expect("rows are unit vectors");
        let (index, _) = build(&config, rows, None, &mut |_| ControlFlow::Continue(())).expect("exact needs no build");
        let queries = noisy_queries(index.dim(), index.image().vectors(), QUERIES, 3);
        let eligible = Eligibility::all(items);
        let request = Request { queries: &queries, k: 50, exclude: Exclusions::none(), eligible: &eligible };
        let mut found = Neighbours::default();
        group.bench_function(BenchmarkId::from_parameter(items), |b| {
            b.iter(|| index.search(black_box(&request), &mut found).expect("queries are unit vectors"));
        });
    }
    group.finish();
}

criterion_group!(benches, exact_search);
criterion_main!(benches);
