//! Measures the speed of batch search and of the machine's matrix product, and prints one line of JSON.
//!
//! `cargo run --release -p twotower-index --example search_speed -- --items ITEMS.f32
//! --queries QUERIES.f32 --dim 64 --k 50 --kind exact|hnsw --threads 2 [--repeats 3] [--m 16]
//! [--ef-construction 200] [--ef-search 100] [--target-recall 0.99] [--parallel-build] [--index DIR]`
//!
//! The files hold unit rows of little-endian f32. With `--index`, the index in the folder is used if it is of these
//! items and this kind. Otherwise one is built and kept there.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;
use twotower_index::{
    Eligibility, Exclusions, IndexConfig, IndexKind, ItemIndex, ItemVectors, Neighbours, Request, build, open,
    recall_against_exact, save,
};

/// Rows and columns of the matrix product with which the peak is measured.
const SQUARE: usize = 1024;
/// The number of first queries on which recall is measured.
const RECALL_QUERIES: usize = 2000;
/// The number of last queries with which the width of HNSW search is chosen.
const SAMPLE_QUERIES: usize = 1000;

/// The command line, as pairs of a name and its value.
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let (mut pairs, mut arguments) = (Vec::new(), arguments.peekable());
        while let Some(name) = arguments.next() {
            let name = name.strip_prefix("--").ok_or(format!("expected an option, found {name:?}"))?.to_string();
            pairs.push((name, arguments.next_if(|next| !next.starts_with("--")).unwrap_or_default()));
        }
        Ok(Self(pairs))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, Box<dyn Error>> {
        let parse = |text: &str| text.parse().map_err(|_| format!("--{name} is {text:?}, expected a number"));
        Ok(self.text(name).map(parse).transpose()?.unwrap_or(default))
    }

    fn vectors(&self, name: &str) -> Result<Vec<f32>, Box<dyn Error>> {
        let path = self.text(name).ok_or(format!("--{name} is missing"))?;
        let bytes = std::fs::read(path).map_err(|e| format!("read {path}: {e}"))?;
        Ok(bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let (dim, k) = (options.number("dim", 64)?, options.number("k", 50)?);
    let (threads, repeats) = (options.number("threads", 2)?, options.number("repeats", 3usize)?);
    let kind = match options.text("kind") {
        Some("hnsw") => IndexKind::Hnsw,
        Some("exact") | None => IndexKind::Exact,
        Some(other) => return Err(format!("--kind is {other:?}, expected exact or hnsw").into()),
    };
    let defaults = IndexConfig::default();
    let config = IndexConfig {
        kind,
        m: options.number("m", defaults.m)?,
        ef_construction: options.number("ef-construction", defaults.ef_construction)?,
        ef_search: options.text("ef-search").map(|_| options.number("ef-search", 0)).transpose()?,
        target_recall: options.number("target-recall", defaults.target_recall)?,
        min_index_recall: 0.0,
        parallel_build: options.text("parallel-build").is_some(),
        ..defaults
    };
    let items = ItemVectors::new(dim, options.vectors("items")?)?;
    let queries = options.vectors("queries")?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let start = Instant::now();
    let sample = &queries[queries.len().saturating_sub(SAMPLE_QUERIES * dim)..];
    let index = index(&config, items, sample, k, options.text("index").map(PathBuf::from).as_deref())?;
    let build_seconds = start.elapsed().as_secs_f64();
    let eligible = Eligibility::all(index.count());
    let request = Request { queries: &queries, k, exclude: Exclusions::none(), eligible: &eligible };
    let mut found = Neighbours::default();
    index.search_parallel(&request, &mut found)?;
    // Both run in turns, so that changes of the machine's speed affect both.
    let (mut searches, mut products) = (Vec::new(), Vec::new());
    for _ in 0..repeats.max(1) {
        products.push(sgemm_gflops(threads));
        let start = Instant::now();
        index.search_parallel(&request, &mut found)?;
        searches.push(start.elapsed().as_secs_f64());
    }
    let (seconds, peak) = (median(&mut searches), median(&mut products));
    let (count, asked) = (index.count(), found.queries());
    let qps = asked as f64 / seconds;
    let gflops = qps * (2 * dim * count) as f64 / 1e9;
    let recall = match kind {
        IndexKind::Hnsw => {
            let queries = &queries[..asked.min(RECALL_QUERIES) * dim];
            Some(recall_against_exact(&*index, &Request { queries, ..request })?)
        }
        _ => None,
    };
    let line = serde_json::json!({
        "kind": kind, "items": count, "queries": asked, "k": k, "threads": threads, "seconds": seconds, "qps": qps,
        "gflops": gflops, "sgemm_gflops": peak, "peak_fraction": gflops / peak, "recall": recall.as_ref().map(|recall| recall.mean), "users": recall,
        "ef": index.manifest().ef_search, "build_seconds": build_seconds,
    });
    println!("{line}");
    Ok(())
}

/// Opens the index kept in `dir`, or builds one and keeps it there.
fn index(
    config: &IndexConfig,
    items: ItemVectors,
    sample: &[f32],
    k: usize,
    dir: Option<&Path>,
) -> Result<Box<dyn ItemIndex>, Box<dyn Error>> {
    if let Some(dir) = dir
        && let Ok(index) = open(dir, items.fingerprint())
        && index.manifest().kind == config.kind
    {
        return Ok(index);
    }
    let (eligible, k) = (Eligibility::all(items.count()), k.min(items.count()));
    let sample = Request { queries: sample, k, exclude: Exclusions::none(), eligible: &eligible };
    let (index, _) = build(config, items, Some(&sample), &mut |_| ControlFlow::Continue(()))?;
    if let Some(dir) = dir {
        std::fs::create_dir_all(dir)?;
        save(&*index, dir)?;
    }
    Ok(index)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// GFLOP/s of f32 matrix products on the given number of threads.
fn sgemm_gflops(threads: usize) -> f64 {
    const REPEATS: usize = 8;
    let product = || {
        let (a, b) = (vec![0.5f32; SQUARE * SQUARE], vec![0.25f32; SQUARE * SQUARE]);
        let mut c = vec![0.0f32; SQUARE * SQUARE];
        let stride = SQUARE as isize;
        let start = Instant::now();
        for _ in 0..REPEATS {
            // SAFETY: the three matrices have SQUARE rows and columns, and are column-major.
            unsafe {
                gemm::gemm(
                    SQUARE,
                    SQUARE,
                    SQUARE,
                    c.as_mut_ptr(),
                    stride,
                    1,
                    false,
                    a.as_ptr(),
                    stride,
                    1,
                    b.as_ptr(),
                    stride,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
        (2 * REPEATS * SQUARE.pow(3)) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(product)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
    })
}
