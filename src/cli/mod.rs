//! The command line: a file per subcommand. Doc comments here are the help text.

/// Prints a line on standard output; a reader that has gone away ends the process quietly.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::cli::report::say(format_args!($($argument)*))
    };
}

mod bench;
mod completions;
mod demo;
mod doctor;
mod encode_features;
mod evaluate;
mod infer;
mod init;
mod job;
mod publish;
mod recall;
mod report;
mod rollback;
mod run;
mod runs;
mod synth;
mod train;
mod verify;
mod vocab;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use twotower_pipeline::error::PipelineError;

/// Batch two-tower recall: encode features, train two towers, embed every user, retrieve top-k items.
///
/// Exit codes: 0 done, 2 bad usage or configuration, 3 bad input data, 4 artifacts that do not
/// belong together, 5 a quality gate refused the result, 130/143 stopped by a signal, 1 anything else.
#[derive(Debug, Parser)]
#[command(name = "twotower", version, max_term_width = 110)]
#[command(after_help = "Examples:
  twotower demo /tmp/demo                          everything on synthetic data, in one command
  twotower init --users u.parquet --items i.csv --interactions orders/ > pipeline.toml
  twotower run --config pipeline.toml --run runs/2026-01-31
  twotower infer --config pipeline.toml --run runs/2026-01-31 --side user --shard 3/16")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the log on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "TWOTOWER_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Least severe level logged: error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "info", env = "TWOTOWER_LOG")]
    pub log_level: String,
    /// Show no progress and log warnings only.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fit vocabularies and bounds, encode items, users with positives, and interactions.
    EncodeFeatures(encode_features::Opts),
    /// Train the model and export both towers as ONNX.
    Train(train::Opts),
    /// Embed users or items with their tower, streaming, one shard or all.
    Infer(infer::Opts),
    /// Retrieve each user's top-k items by cosine similarity.
    Recall(recall::Opts),
    /// Measure the model and two baselines on the held-out interactions.
    Evaluate(evaluate::Opts),
    /// All stages in order; what is complete and current is skipped.
    Run(run::Opts),
    /// Check that a run folder is complete, whole, and of one piece.
    Verify(verify::Opts),
    /// Ask the gates about a run whose stages are all done, and point `latest` at it.
    Publish(publish::Opts),
    /// Point `latest` at an earlier run.
    Rollback(rollback::Opts),
    /// List or prune the runs of a folder.
    Runs(runs::Opts),
    /// Write a commented pipeline.toml from the columns of given files.
    Init(init::Opts),
    /// Check this machine before the night, and say what to do.
    Doctor(doctor::Opts),
    /// Look into the vocabularies of a run.
    Vocab(vocab::Opts),
    /// Generate a telecom-like data set of any size.
    Synth(synth::Opts),
    /// Generate data, run everything on it, and report.
    Demo(demo::Opts),
    /// Measure every stage on synthetic data, on this machine.
    Bench(bench::Opts),
    /// Print a shell completion script.
    Completions(completions::Opts),
}

/// Runs the chosen subcommand.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    start_logging(&cli)?;
    let quiet = cli.quiet;
    match cli.command {
        Command::EncodeFeatures(opts) => encode_features::run(opts, quiet),
        Command::Train(opts) => train::run(opts, quiet),
        Command::Infer(opts) => infer::run(opts, quiet),
        Command::Recall(opts) => recall::run(opts, quiet),
        Command::Evaluate(opts) => evaluate::run(opts, quiet),
        Command::Run(opts) => run::run(opts, quiet),
        Command::Verify(opts) => verify::run(opts),
        Command::Publish(opts) => publish::run(opts, quiet),
        Command::Rollback(opts) => rollback::run(opts),
        Command::Runs(opts) => runs::run(opts),
        Command::Init(opts) => init::run(opts),
        Command::Doctor(opts) => doctor::run(opts),
        Command::Vocab(opts) => vocab::run(opts),
        Command::Synth(opts) => synth::run(opts, quiet),
        Command::Demo(opts) => demo::run(opts, quiet),
        Command::Bench(opts) => bench::run(opts, quiet),
        Command::Completions(opts) => completions::run(opts),
    }
}

fn start_logging(cli: &Cli) -> anyhow::Result<()> {
    let level = if cli.quiet { "warn" } else { cli.log_level.as_str() };
    let filter =
        EnvFilter::try_new(format!("{level},ort={}", if cli.quiet { "error" } else { "warn" })).map_err(|e| {
            PipelineError::usage(format!("--log-level {level}: {e}; expected error, warn, info, debug or trace"))
        })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match cli.log_format {
        LogFormat::Text => builder.with_ansi(ansi).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// The documented exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(|e| e.downcast_ref::<PipelineError>()).map_or(1, PipelineError::exit_code)
}
