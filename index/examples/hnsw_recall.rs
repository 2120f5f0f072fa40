//! Builds an HNSW index of N clustered 64-d vectors, and reports time, recall and unreachable items
//! before and after it was saved and reopened. Queries are made from items, since there are no users here.
//!
//! `cargo run --release -p twotower-index --example hnsw_recall -- 100000 [parallel]`

use std::ops::ControlFlow;
use std::time::Instant;
use twotower_index::{
    BuildStep, Eligibility, Exclusions, IndexConfig, IndexKind, ItemIndex, ItemVectors, Neighbours, Request, build,
    noisy_queries, open, recall_against_exact, save,
};

const DIM: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().as_deref().unwrap_or("100000").parse()?;
    let parallel_build = arguments.next().as_deref() == Some("parallel");
    let mut watch = |step: BuildStep| {
        if !matches!(step, BuildStep::Inserted { done, total } if done != total) {
            println!("{step:?}");
        }
        ControlFlow::Continue(())
    };
    let exact = IndexConfig { kind: IndexKind::Exact, ..IndexConfig::default() };
    // Centres are random directions. An item is near one of them, with noise of half its length.
    let axes = ItemVectors::new(DIM, (0..DIM * DIM).map(|i| f32::from(i % (DIM + 1) == 0)).collect())?;
    let (axes, _) = build(&exact, axes, None, &mut |_| ControlFlow::Continue(()))?;
    let centres = ItemVectors::new(DIM, spread(&noisy_queries(axes.dim(), axes.image().vectors(), 1000, 1)))?;
    let (centres, _) = build(&exact, centres, None, &mut |_| ControlFlow::Continue(()))?;
    let items = ItemVectors::new(DIM, noisy_queries(centres.dim(), centres.image().vectors(), count, 2))?;

    let config = IndexConfig { kind: IndexKind::Hnsw, parallel_build, ..IndexConfig::default() };
    let (eligible, queries) = (Eligibility::all(count), noisy_queries(DIM, items.data(), 500, 17));
    let sample = Request { queries: &queries, k: 50, exclude: Exclusions::none(), eligible: &eligible };
    let (index, report) = build(&config, items.clone(), Some(&sample), &mut watch)?;
    println!("{report:#?}");
    let queries = noisy_queries(index.dim(), index.image().vectors(), 2000, 3);
    measure("built", &*index, &queries)?;
    let dir = std::env::temp_dir().join(format!("hnsw_recall-{}", std::process::id()));
    save(&*index, &dir)?;
    let start = Instant::now();
    let reopened = open(&dir, items.fingerprint())?;
    println!("reopened in {:.2} s", start.elapsed().as_secs_f64());
    measure("reopened", &*reopened, &queries)?;
    let (plain, _) = build(&exact, items, None, &mut |_| ControlFlow::Continue(()))?;
    measure("exact", &*plain, &queries)?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// Rotates pairs of coordinates of each row, so that centres are no longer near the axes.
fn spread(rows: &[f32]) -> Vec<f32> {
    let mut state = 88_172_645_463_325_252u64;
    let mut signed = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut spread: Vec<f32> = rows.iter().map(|v| v + signed()).collect();
    for row in spread.chunks_exact_mut(DIM) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    spread
}

fn measure(name: &str, index: &dyn ItemIndex, queries: &[f32]) -> Result<(), Box<dyn std::error::Error>> {
    let eligible = Eligibility::all(index.count());
    let request = Request { queries, k: 50, exclude: Exclusions::none(), eligible: &eligible };
    let mut found = Neighbours::default();
    let start = Instant::now();
    index.search_parallel(&request, &mut found)?;
    let rate = found.queries() as f64 / start.elapsed().as_secs_f64();
    println!(
        "{name}: {}, {} unreachable, {rate:.0} queries/s",
        recall_against_exact(index, &request)?,
        index.image().unreachable().len()
    );
    Ok(())
}
