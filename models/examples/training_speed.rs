//! Examples per second of training steps on synthetic data.
//!
//! `cargo run --release -p twotower-models --example training_speed -- [spike|ml-1m|sasrec|ligr|ligr-4|mhc|mhc-lite] [STEPS] [ROWS] [USERS]`:
//! `spike` has 10 user and 6 item features of width 16, and one table of ROWS slots (default 1M), for USERS users
//! (default 200,000) with 5 examples each, batches of 4,096 and in-batch softmax. 0 STEPS mean a whole epoch with its
//! checkpoints and towers; then peak memory is printed too. `ml-1m` has the shape of MovieLens-1M, with three histories
//! of width 64 and the softmax over the whole catalogue. `sasrec` has that shape too, for SASRec with the layer norms of
//! `pre`, 2 blocks of width 64, histories of 200 and 256 negatives; `ligr` is the same with LiGR blocks,
//! `ligr-4` with such whose feed-forward networks are four times as wide, `mhc` with hyper-connections, and `mhc-lite` with
//! those of all permutations.

use std::ops::ControlFlow;
use std::path::Path;
use twotower_artifacts::schema::FIRST_VALUE;
use twotower_artifacts::{
    CodeBatch, Column, FieldSchema, FieldShape, Fingerprint, Interactions, Ragged, Side, TowerSchema,
};
use twotower_models::dssm::DssmConfig;
use twotower_models::examples::{Known, Role, TrainingSet};
use twotower_models::hyper_connections::HyperConnections;
use twotower_models::model::ModelConfig;
use twotower_models::rng::Rng;
use twotower_models::sasrec::SasrecConfig;
use twotower_models::tower::encoder::NormOrder;
use twotower_models::tower::ligr::BlockKind;
use twotower_models::train::{Loss, Observer, Start, StepReport, TrainConfig, train};

/// Measures the speed of the steps after the first one, prints it, and stops.
struct Timer {
    steps: usize,
    began: Option<std::time::Instant>,
    cpu: f64,
    examples: usize,
}

/// Processor time of all threads so far, user and system. It varies less than the clock while other processes compute.
/// 0 where `/proc` does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // These are fields 14 and 15, in ticks of 10 ms. The name before them may contain spaces, and ends in a
    // parenthesis.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

impl Observer for Timer {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        match self.began {
            None => {
                self.began = Some(std::time::Instant::now());
                self.examples = report.examples;
                self.cpu = cpu_seconds();
            }
            Some(began) if self.steps > 0 && report.step > self.steps || report.step == report.steps => {
                let seconds = began.elapsed().as_secs_f64();
                let examples = report.examples - self.examples;
                println!(
                    "{:.0} examples/s ({:.0} per second of CPU time), {:.1} ms a step, loss {:.4}",
                    examples as f64 / seconds,
                    examples as f64 / (cpu_seconds() - self.cpu),
                    seconds * 1e3 / (report.step - 1) as f64,
                    report.terms.total()
                );
                if self.steps > 0 {
                    return ControlFlow::Break(());
                }
            }
            Some(_) => {}
        }
        ControlFlow::Continue(())
    }
}

fn field(name: &str, shape: FieldShape) -> FieldSchema {
    FieldSchema { name: name.into(), shape }
}

fn code(table: &str, cardinality: usize) -> FieldShape {
    FieldShape::Code { table: table.into(), cardinality: cardinality as u32 + FIRST_VALUE }
}

fn columns(fields: &[FieldSchema], rows: usize, rng: &mut Rng) -> CodeBatch {
    let columns = fields.iter().map(|field| match &field.shape {
        FieldShape::Code { cardinality, .. } => Column::Code(
            (0..rows).map(|_| FIRST_VALUE + rng.below((*cardinality - FIRST_VALUE) as usize) as u32).collect(),
        ),
        FieldShape::Bag { .. } | FieldShape::Sequence { .. } => {
            Column::Ragged(Ragged { offsets: vec![0; rows + 1], ..Ragged::default() })
        }
        FieldShape::Dense { width } => {
            Column::Dense { width: *width as usize, values: vec![0.5; rows * *width as usize] }
        }
    });
    CodeBatch { columns: columns.collect() }
}

fn set(
    user_fields: Vec<FieldSchema>,
    item_fields: Vec<FieldSchema>,
    users: usize,
    items: usize,
    each: usize,
) -> TrainingSet {
    let mut rng = Rng::at(1, &[]);
    let schema = |side, fields| TowerSchema { side, encoder: Fingerprint::of(b"speed"), fields };
    let mut interactions = Interactions { offsets: vec![0], ..Interactions::default() };
    for user in 1..=users {
        // Squared uniforms give a popularity with a head and a tail.
        interactions.items.extend((0..each).map(|_| (rng.uniform().powi(2) * items as f64) as u32));
        interactions.offsets.push((user * each) as u64);
    }
    interactions.times = (0..users * each).map(|event| event as i64).collect();
    interactions.weights = vec![1.0; users * each];
    TrainingSet {
        users: columns(&user_fields, users, &mut rng),
        items: columns(&item_fields, items, &mut rng),
        user_schema: schema(Side::User, user_fields),
        item_schema: schema(Side::Item, item_fields),
        item_codes: (0..items as u32).map(|item| item + FIRST_VALUE).collect(),
        roles: vec![Role::Train; interactions.len()],
        interactions,
        known: Known::Earlier,
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let steps = args.get(1).and_then(|s| s.parse().ok()).unwrap_or(20);
    let rows = args.get(2).and_then(|s| s.parse().ok()).unwrap_or(1_000_000);
    let users = args.get(3).and_then(|s| s.parse().ok()).unwrap_or(200_000);
    let scene = args.first().map_or("spike", String::as_str);
    let (set, model, config) = if let "sasrec" | "ligr" | "ligr-4" | "mhc" | "mhc-lite" = scene {
        let history = FieldShape::Sequence { table: "item".into(), cardinality: 3709, max_len: 200, intervals: None };
        let set = set(vec![field("recent", history)], vec![field("id", code("item", 3706))], 6040, 3706, 165);
        let streams = HyperConnections { lite: scene == "mhc-lite", ..HyperConnections::default() };
        let hyper_connections = scene.starts_with("mhc").then_some(streams);
        let block = if scene.starts_with("ligr") { BlockKind::Ligr } else { BlockKind::Transformer };
        let feed_forward_multiple = if scene == "ligr-4" { 4 } else { 1 };
        let model = SasrecConfig {
            norm: NormOrder::Pre,
            block,
            feed_forward_multiple,
            hyper_connections,
            ..SasrecConfig::default()
        };
        let config = TrainConfig { loss: Loss::SampledSoftmax { negatives: 256 }, ..TrainConfig::default() };
        (set, ModelConfig::from(model), config)
    } else if scene == "ml-1m" {
        let item = code("item", 3706);
        let history =
            |max_len| FieldShape::Sequence { table: "item".into(), cardinality: 3709, max_len, intervals: None };
        let mut user: Vec<FieldSchema> =
            ["gender", "age", "occupation", "zip"].map(|name| field(name, code(name, 50))).to_vec();
        user.push(field("user", code("user", 6040)));
        user.extend([50, 20, 5].map(|len| field(&format!("recent{len}"), history(len))));
        let items = vec![field("id", item), field("year", code("year", 80))];
        let model = DssmConfig { embedding_dims: [("item".to_string(), 64)].into(), ..DssmConfig::default() };
        let config = TrainConfig { loss: Loss::FullSoftmax, ..TrainConfig::default() };
        (set(user, items, 6040, 3706, 165), model.into(), config)
    } else {
        let user = (0..10).map(|f| field(&format!("u{f}"), code(&format!("u{f}"), if f == 0 { rows } else { 100 })));
        let item = (0..6).map(|f| field(&format!("i{f}"), code(&format!("i{f}"), 10_000)));
        let set = set(user.collect(), item.collect(), users, 100_000, 5);
        (set, DssmConfig::default().into(), TrainConfig { epochs: 1, ..TrainConfig::default() })
    };
    let dir = std::env::temp_dir().join(format!("training_speed_{}", std::process::id()));
    if let Err(error) = run(&set, model, &config, &dir, steps) {
        eprintln!("{error:#}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn run(
    set: &TrainingSet,
    model: ModelConfig,
    config: &TrainConfig,
    dir: &Path,
    steps: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir)?;
    let mut timer = Timer { steps, began: None, cpu: 0.0, examples: 0 };
    let (clock, cpu) = (std::time::Instant::now(), cpu_seconds());
    match train(set, &model, config, Start::Fresh, dir, &mut timer) {
        Ok(_) => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" unknown").trim();
            let (clock, cpu) = (clock.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            println!("whole run: {clock:.1} s, {cpu:.1} s of CPU time, peak memory {peak}");
            Ok(())
        }
        Err(twotower_models::ModelError::Stopped { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
