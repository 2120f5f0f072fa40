//! Speed of the engines on codes in memory, against the machine's own matrix product.
//!
//! `cargo run --release -p twotower-models --example engine_speed -- [--rows N] [--repeats N] [--hashed N]`
//! embeds N random rows (default 262,144; codes Zipf-distributed) with the user tower of the synthetic
//! data: 10 categorical fields of 6 to 5,003 slots, 3 numeric ones, embedding width 16, layers [256, 128,
//! 64] with PReLU and an L2 norm. `--hashed` adds an 11th field of that many slots, too large to fold.
//! Engines run in turn on 1 and 2 threads, with an engine per thread, `--repeats` times (default 5). It prints a
//! line of JSON per run, and medians last. `gflops` counts two operations for each multiply-add of the tower as
//! trained, so an engine that folds tables into the first layer can exceed the peak. `peak_fraction` is by the clock,
//! and `cpu_fraction` by the processor time of the threads, which stands still while other processes compute.

use std::collections::BTreeMap;
use std::time::Instant;
use twotower_artifacts::schema::FIRST_VALUE;
use twotower_artifacts::{CodeBatch, Column, FieldSchema, FieldShape, Fingerprint, Side, TowerSchema};
use twotower_models::engine::{Engine, EngineKind, open_workers};
use twotower_models::matmul::{Operand, matmul};
use twotower_models::onnx;
use twotower_models::rng::Rng;
use twotower_models::tower::{Input, Layer, Matrix, Tower};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CARDINALITIES: [u32; 10] = [3, 9, 25, 60, 340, 800, 3000, 5000, 2, 2];
const NUMERIC: usize = 3;
const EMBEDDING: usize = 16;
const HIDDEN: [usize; 3] = [256, 128, 64];
/// Rows handed to an engine at a time.
const BATCH: usize = 4096;

struct Arguments {
    rows: usize,
    repeats: usize,
    hashed: u32,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut found = Arguments { rows: 1 << 18, repeats: 5, hashed: 0 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a number"))?;
        match word.as_str() {
            "--rows" => found.rows = value.parse()?,
            "--repeats" => found.repeats = value.parse()?,
            "--hashed" => found.hashed = value.parse()?,
            _ => return Err(format!("unknown option {word}; expected --rows, --repeats or --hashed").into()),
        }
    }
    if found.rows == 0 || found.repeats == 0 {
        return Err("--rows and --repeats must be at least 1".into());
    }
    Ok(found)
}

fn floats(rng: &mut Rng, n: usize, scale: f64) -> Vec<f32> {
    (0..n).map(|_| (rng.normal() * scale) as f32).collect()
}

fn tower(hashed: u32) -> Tower {
    let rng = &mut Rng::at(1, &[]);
    let (mut fields, mut inputs, mut tables) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (i, values) in CARDINALITIES.into_iter().chain((hashed > 0).then_some(hashed)).enumerate() {
        let (name, cardinality) = (format!("c{i}"), values + FIRST_VALUE);
        let rows = cardinality as usize;
        tables.insert(name.clone(), Matrix { rows, cols: EMBEDDING, data: floats(rng, rows * EMBEDDING, 0.3) });
        inputs.push(Input::Embedding { table: name.clone() });
        fields.push(FieldSchema { shape: FieldShape::Code { table: name.clone(), cardinality }, name });
    }
    let mut width = inputs.len() * EMBEDDING;
    for i in 0..NUMERIC {
        inputs.push(Input::Dense);
        fields.push(FieldSchema { name: format!("n{i}"), shape: FieldShape::Dense { width: 2 } });
        width += 2;
    }
    let mut layers = Vec::new();
    for (l, out) in HIDDEN.into_iter().enumerate() {
        let weight = Matrix { rows: out, cols: width, data: floats(rng, out * width, (width as f64).powf(-0.5)) };
        layers.push(Layer::Linear { weight, bias: Matrix::vector(floats(rng, out, 0.1)) });
        if l + 1 < HIDDEN.len() {
            layers.push(Layer::Prelu { slope: Matrix::vector(vec![0.25; out]) });
        }
        width = out;
    }
    layers.push(Layer::L2Norm { eps: 1e-6 });
    let schema = TowerSchema { side: Side::User, encoder: Fingerprint::of(b"speed"), fields };
    Tower { schema, inputs, tables, layers, dim: width, inner_product_scale: None }
}

/// Batches of rows. Codes follow a Zipf-like law, like those of cities or devices.
fn batches(schema: &TowerSchema, rows: usize) -> Vec<CodeBatch> {
    let rng = &mut Rng::at(2, &[]);
    let mut column = |field: &FieldSchema, rows: usize| match &field.shape {
        FieldShape::Dense { width } => {
            Column::Dense { width: *width as usize, values: floats(rng, rows * *width as usize, 1.0) }
        }
        shape => {
            let values = f64::from(shape.table().map_or(0, |(_, cardinality)| cardinality) - FIRST_VALUE);
            // The share of values below v is about ln(1 + v) / ln(1 + n).
            let mut code = || FIRST_VALUE + ((values + 1.0).powf(rng.uniform()) - 1.0) as u32;
            Column::Code((0..rows).map(|_| code()).collect())
        }
    };
    let batch = |first: usize| {
        let rows = BATCH.min(rows - first);
        CodeBatch { columns: schema.fields.iter().map(|field| column(field, rows)).collect() }
    };
    (0..rows).step_by(BATCH).map(batch).collect()
}

/// Seconds by the clock, and seconds of processor time per thread.
#[derive(Debug, Clone, Copy)]
struct Seconds {
    clock: f64,
    cpu: f64,
}

/// Processor time of the calling thread so far, or NaN where the system does not tell.
fn thread_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e9)
}

/// Runs `work(engine, i)` for every i below `count`, thread t taking each i that is t modulo the threads.
fn timed<E: Send>(
    engines: &mut [E],
    count: usize,
    work: impl Fn(&mut E, usize) -> Result<(), Failure> + Sync,
) -> Result<Seconds, Failure> {
    let threads = engines.len();
    let began = Instant::now();
    let share = |t: usize, engine: &mut E| -> Result<f64, Failure> {
        let began = thread_seconds();
        (t..count).step_by(threads).try_for_each(|i| work(&mut *engine, i))?;
        Ok(thread_seconds() - began)
    };
    let share = &share;
    let cpu = std::thread::scope(|scope| {
        let spawn = |(t, engine)| scope.spawn(move || share(t, engine));
        let shares: Vec<_> = engines.iter_mut().enumerate().map(spawn).collect();
        let seconds = shares.into_iter().map(|share| share.join().map_err(|_| Failure::from("a worker panicked"))?);
        seconds.sum::<Result<f64, Failure>>()
    })?;
    Ok(Seconds { clock: began.elapsed().as_secs_f64(), cpu: cpu / threads as f64 })
}

/// GFLOP/s of products of `[512, 512]` matrices, each thread its own.
fn sgemm_peak(threads: usize) -> Result<Rates, Failure> {
    const N: usize = 512;
    const COUNT: usize = 64;
    let mut buffers: Vec<_> = (0..threads).map(|_| (vec![0.0f32; N * N], vec![1.0f32; N * N])).collect();
    let seconds = timed(&mut buffers, COUNT, |(out, a), _| {
        matmul(out, false, 1.0, Operand::rows_of(a, N), Operand::rows_of(a, N));
        Ok(())
    })?;
    Ok(Rates::of((2 * N * N * N * COUNT) as f64 / 1e9, seconds))
}

/// A rate per second of the clock, and per second of processor time.
#[derive(Debug, Clone, Copy)]
struct Rates {
    clock: f64,
    cpu: f64,
}

impl Rates {
    fn of(count: f64, seconds: Seconds) -> Self {
        Self { clock: count / seconds.clock, cpu: count / seconds.cpu }
    }

    fn median(rates: &[Rates]) -> Self {
        let of = |rate: fn(&Rates) -> f64| median(&mut rates.iter().map(rate).collect::<Vec<f64>>());
        Self { clock: of(|rates| rates.clock), cpu: of(|rates| rates.cpu) }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Failure> {
    let Arguments { rows, repeats, hashed } = arguments()?;
    let tower = tower(hashed);
    let folder = std::env::temp_dir().join(format!("engine_speed_{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("user_tower.onnx");
    let outcome = onnx::export(&tower, &path, &BTreeMap::new())
        .map_err(Failure::from)
        .and_then(|()| measure(&tower, &path, rows, repeats));
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn measure(tower: &Tower, path: &std::path::Path, rows: usize, repeats: usize) -> Result<(), Failure> {
    let linear = |layer: &Layer| if let Layer::Linear { weight, .. } = layer { weight.data.len() } else { 0 };
    let flops = 2.0 * tower.layers.iter().map(linear).sum::<usize>() as f64;
    let batches = batches(&tower.schema, rows);
    let mut runs: BTreeMap<(String, usize), (Vec<Rates>, Vec<Rates>)> = BTreeMap::new();
    for repeat in 0..=repeats {
        for threads in [1, 2] {
            let peak = sgemm_peak(threads)?;
            for kind in [EngineKind::Ort, EngineKind::Native, EngineKind::NativeInt16] {
                let mut engines: Vec<(Box<dyn Engine>, Vec<f32>)> =
                    open_workers(kind, path, threads)?.into_iter().map(|e| (e, Vec::new())).collect();
                let seconds = timed(&mut engines, batches.len(), |(engine, out), b| {
                    out.clear();
                    engine.embed(&batches[b], out)?;
                    Ok(())
                })?;
                // The first repeat warms up.
                if repeat > 0 {
                    let rates = Rates::of(rows as f64, seconds);
                    report(&kind.to_string(), threads, rates, peak, flops, "run");
                    let (engine, sgemm) = runs.entry((kind.to_string(), threads)).or_default();
                    engine.push(rates);
                    sgemm.push(peak);
                }
            }
        }
    }
    for ((engine, threads), (rates, peaks)) in runs {
        report(&engine, threads, Rates::median(&rates), Rates::median(&peaks), flops, "median");
    }
    Ok(())
}

fn report(engine: &str, threads: usize, rows: Rates, peak: Rates, flops: f64, figure: &str) {
    let rounded = |value: f64, digits: f64| (value * digits).round() / digits;
    let gflops = rows.clock * flops / 1e9;
    println!(
        "{}",
        serde_json::json!({
            "figure": figure,
            "engine": engine,
            "threads": threads,
            "rows_per_s": rows.clock.round(),
            "gflops": rounded(gflops, 10.0),
            "sgemm_gflops": rounded(peak.clock, 10.0),
            "peak_fraction": rounded(gflops / peak.clock, 1000.0),
            "rows_per_cpu_s": rounded(rows.cpu, 1.0),
            "cpu_fraction": rounded(rows.cpu * flops / 1e9 / peak.cpu, 1000.0),
        })
    );
}
