//! `twotower bench`: every stage measured on synthetic data, on the machine at hand.
//!
//! Each stage is a process of its own: the command a user would type, or, for a bare loop, this
//! command with `--kernel`. So the measured thing is the real one, and peak memory is the stage's.
//! Stages are run in rounds, so that a machine that slows down for a while slows all of them.

mod child;
mod engines;
mod figures;
mod folder;
mod kernels;
mod stages;

use super::report::{say_json, say_lines, table};
use clap::{Args, ValueEnum};
use figures::{COLUMNS, Figures, Runs};
use folder::Folder;
use kernels::Kernel;
use stages::{Bench, STAGES, Stage, Task};
use std::path::PathBuf;
use std::time::Duration;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::watch::cancel::Cancel;
use twotower_pipeline::watch::progress::Progress;
use twotower_pipeline::watch::terminal::tell;

/// A stage that has taken this long in all is not repeated again.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

/// Options of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # a million users, both engines
  twotower bench
  # no shared library, a JSON object a line
  twotower bench --users 100000 --engine native --json
  # what infer reaches of its bare engine
  twotower bench --stages engine,infer --repeats 5
  # keeps data and run in the folder `big`
  twotower bench big --users 50000000 --repeats 1
Peak is what the machine's sgemm and its reads of cached files reach in the same
minutes.")]
pub struct Opts {
    /// Folder for data and run: an empty one, or one of an earlier bench. Without it a folder is made
    /// in the current one and removed in the end.
    dir: Option<PathBuf>,
    /// Users of the synthetic data.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=900_000_000))]
    users: u64,
    /// Items of the synthetic data.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    items: u32,
    /// Rounds; figures are medians. A stage that took a minute in all is not repeated again.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// What runs the towers: ort (ONNX Runtime), native, native-int16, or the first two in turn.
    #[arg(long, value_enum, default_value_t = EngineArg::Both)]
    engine: EngineArg,
    /// Stages to measure, separated by commas; those before them are run, if need be, unmeasured.
    #[arg(long, value_delimiter = ',', value_name = "STAGES")]
    stages: Vec<String>,
    /// How long a bare loop runs.
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    loop_seconds: Duration,
    /// Keep the folder that was made.
    #[arg(long)]
    keep: bool,
    /// Print a JSON object a line for every stage.
    #[arg(long)]
    json: bool,
    /// Run one bare loop in this process and print what it counted.
    #[arg(long, hide = true, value_enum, requires = "dir")]
    kernel: Option<Kernel>,
}

/// A time, as typed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| format!("expected a number of seconds, found `{text}`"))?;
    let range = 0.01..=3600.0;
    match range.contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("{text} is not in {range:?}")),
    }
}

/// Engines, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineArg {
    Ort,
    Native,
    NativeInt16,
    Both,
}

impl EngineArg {
    /// The engines in order; the last one also runs what is measured once.
    fn names(self) -> &'static [&'static str] {
        match self {
            EngineArg::Ort => &["ort"],
            EngineArg::Native => &["native"],
            EngineArg::NativeInt16 => &["native-int16"],
            EngineArg::Both => &["ort", "native"],
        }
    }
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let engines = opts.engine.names();
    if let (Some(kernel), Some(dir)) = (opts.kernel, &opts.dir) {
        let count = kernels::run(kernel, dir, opts.users, engines[engines.len() - 1], opts.loop_seconds)?;
        say_json(&count.to_json());
        return Ok(());
    }
    let measured = selected(&opts.stages)?;
    let cancel = Cancel::on_signals()?;
    let folder = Folder::prepare(opts.dir, opts.keep)?;
    let bench = Bench {
        dir: folder.path(),
        users: opts.users,
        items: opts.items,
        loop_time: opts.loop_seconds,
        engines,
        cancel: &cancel,
    };
    let tasks: Vec<Task> = STAGES.iter().flat_map(|stage| bench.tasks(stage)).collect();
    let wanted = |task: &Task| measured.contains(&task.stage.name);
    let end = tasks.iter().rposition(wanted).map_or(0, |last| last + 1);

    let progress = if quiet { Progress::Quiet } else { Progress::Shown };
    let mut bar = progress.bar("bench", u64::from(opts.repeats) * end as u64, "stages");
    let mut runs: Vec<Runs> = tasks[..end].iter().map(|_| Runs::default()).collect();
    for round in 0..opts.repeats {
        for (task, runs) in tasks[..end].iter().zip(&mut runs) {
            bar.message(task.to_string());
            if wanted(task) {
                if runs.total() < LONG_ENOUGH {
                    runs.push(bench.measure(task)?);
                }
            } else if round == 0 && task.stage.prepares {
                bench.prepare(task)?;
            }
            bar.advance(1);
        }
    }
    drop(bar);

    let shape = engines::shape(folder.path(), opts.items)?;
    let figures = Figures::of(tasks.iter().zip(&runs), &shape);
    if opts.json {
        figures.iter().for_each(|f| say_json(&f.json()));
    } else {
        let rows: Vec<Vec<String>> = figures.iter().map(Figures::cells).collect();
        say_lines(table(&COLUMNS, &rows));
    }
    if let Some(path) = folder.kept() {
        tell(&format!("bench: data and run are in {}", path.display()));
    }
    Ok(())
}

/// Names of the stages to measure: all of them, or the given ones and the two that others are compared with.
fn selected(names: &[String]) -> Result<Vec<&'static str>, PipelineError> {
    if names.is_empty() {
        return Ok(STAGES.iter().map(|stage| stage.name).collect());
    }
    if let Some(unknown) = names.iter().find(|name| !STAGES.iter().any(|stage| stage.name == *name)) {
        let known: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        return Err(PipelineError::usage(format!("--stages: no stage `{unknown}`; expected {}", known.join(", "))));
    }
    let is_wanted = |stage: &&Stage| stage.yardstick || names.iter().any(|name| name == stage.name);
    Ok(STAGES.iter().filter(is_wanted).map(|stage| stage.name).collect())
}
