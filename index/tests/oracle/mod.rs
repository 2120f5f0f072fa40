//! Vectors for tests, and a search in its simplest form.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::ops::ControlFlow;
use twotower_index::{
    BuildReport, BuildStep, Eligibility, Exclusions, IndexConfig, IndexError, IndexKind, ItemIndex, ItemVectors,
    Neighbours, Observer, Request, noisy_queries, recall_against_exact,
};

/// A small linear congruential generator.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15))
    }

    /// Uniform in [-1, 1).
    pub fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((f64::from(self.uniform()) + 1.0) / 2.0 * n as f64) as usize
    }
}

pub fn normalised(mut data: Vec<f32>, dim: usize) -> Vec<f32> {
    for row in data.chunks_exact_mut(dim) {
        let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
    data
}

pub fn random(count: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    normalised((0..count * dim).map(|_| rng.uniform()).collect(), dim)
}

/// Points around `clusters` random centres.
pub fn clustered(count: usize, dim: usize, clusters: usize, seed: u64) -> Vec<f32> {
    let centres = random(clusters, dim, seed);
    let mut rng = Rng::new(seed + 1);
    let mut data = Vec::with_capacity(count * dim);
    for _ in 0..count {
        let centre = &centres[rng.below(clusters) * dim..][..dim];
        data.extend(centre.iter().map(|v| v + 0.12 * rng.uniform()));
    }
    normalised(data, dim)
}

pub fn build(kind: IndexKind, dim: usize, data: &[f32]) -> (Box<dyn ItemIndex>, BuildReport) {
    let config = IndexConfig { kind, ..IndexConfig::default() };
    let mut observer = |_: BuildStep| ControlFlow::Continue(());
    build_with(&config, ItemVectors::new(dim, data.to_vec()).unwrap(), &mut observer).unwrap()
}

/// Builds an index measured on queries near the items.
pub fn build_with(
    config: &IndexConfig,
    items: ItemVectors,
    observer: &mut Observer<'_>,
) -> Result<(Box<dyn ItemIndex>, BuildReport), IndexError> {
    let queries = noisy_queries(items.dim(), items.data(), 500, 17);
    let eligible = Eligibility::all(items.count());
    let sample = Request { queries: &queries, k: 50, exclude: Exclusions::none(), eligible: &eligible };
    twotower_index::build(config, items, Some(&sample), observer)
}

/// Mean recall of queries for whom nothing is excluded.
pub fn recall_at(index: &dyn ItemIndex, queries: &[f32], k: usize) -> f64 {
    let eligible = Eligibility::all(index.count());
    let request = Request { queries, k, exclude: Exclusions::none(), eligible: &eligible };
    recall_against_exact(index, &request).unwrap().mean
}

/// The best k rows of `allowed` with their f64 cosines.
pub fn naive(items: &[f32], query: &[f32], k: usize, allowed: impl Fn(u32) -> bool) -> Vec<(u32, f64)> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let mut all: Vec<(u32, f64)> = items
        .chunks_exact(query.len())
        .enumerate()
        .filter(|(row, _)| allowed(*row as u32))
        .map(|(row, item)| (row as u32, dot(item, query) / (dot(item, item) * dot(query, query)).sqrt()))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

/// Asserts that an answer equals the naive one: equal lengths, scores within 1e-6 at each rank (f32
/// storage of unit items changes a cosine by 1e-7), correct order, and rows that have the stated scores.
pub fn assert_answer(found: &Neighbours, q: usize, expected: &[(u32, f64)], context: &str) {
    let (rows, scores) = (found.rows(q), found.scores(q));
    assert_eq!(rows.len(), expected.len(), "{context}, query {q}");
    for (i, (row, cosine)) in expected.iter().enumerate() {
        assert!((f64::from(scores[i]) - cosine).abs() < 1e-6, "{context}, query {q}, rank {i}");
        // If the scores at neighbouring ranks are clearly different, the row must be the same too.
        let apart = |j: usize| expected.get(j).is_none_or(|other| (other.1 - cosine).abs() > 1e-6);
        if apart(i + 1) && (i == 0 || apart(i - 1)) && i + 1 < expected.len() {
            assert_eq!(rows[i], *row, "{context}, query {q}, rank {i}");
        }
    }
    for i in 1..rows.len() {
        let in_order = scores[i - 1] > scores[i] || (scores[i - 1] == scores[i] && rows[i - 1] < rows[i]);
        assert!(in_order, "{context}, query {q}: ranks {} and {i}", i - 1);
    }
}
