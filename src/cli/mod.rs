//! The command line: a file per subcommand. Doc comments here are the help text.

/// Prints a line on standard output.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::cli::report::say(format_args!($($argument)*))
    };
}

mod bench;
mod changed_since;
mod compare;
mod completions;
mod demo;
mod doctor;
mod encode_features;
mod evaluate;
mod export;
mod export_results;
mod infer;
mod init;
mod job;
mod lookup;
mod man;
mod profile;
mod publish;
mod recall;
pub mod report;
mod report_page;
mod rollback;
mod run;
mod runs;
mod serve;
mod similar;
mod summary;
mod synth;
mod train;
mod update_from;
mod verify;
mod vocab;
mod watch;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::debug_fn;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::mirror;
use twotower_pipeline::stream::memory::parse_size;
use twotower_pipeline::watch::limits::start_threads;
use twotower_pipeline::watch::terminal::{JsonLog, Log, escape, escape_line};

/// Batch two-tower recall: encode features, train two towers, embed every user, retrieve top-k items.
///
/// Exit codes: 0 done, 2 bad usage or configuration, 3 bad input data, 4 artifacts that do not
/// belong together or are not all there, 5 a quality gate refused the result, 128 + its number stopped by a signal, 1 anything else.
#[derive(Debug, Parser)]
#[command(name = "twotower", version, max_term_width = 110)]
#[command(after_help = "Examples:
  twotower demo /tmp/demo  # everything on synthetic data, in one command
  twotower init --users u.parquet --items i.csv --interactions orders/ \\
      > pipeline.toml
  twotower run --config pipeline.toml --run runs/2026-01-31
  twotower infer --config pipeline.toml --run runs/2026-01-31 --side user \\
      --shard 3/16")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the log on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "TWOTOWER_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Least severe level logged: off, error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "info", env = "TWOTOWER_LOG")]
    pub log_level: String,
    /// Show no progress, and log nothing below warnings: these still go to standard error. With `--log-level error`, errors
    /// alone; with `--log-level off`, nothing.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Folder for the working copies of runs in object stores; without it, one in the user's folder of caches.
    #[arg(long, global = true, value_name = "DIR", env = "TWOTOWER_CACHE")]
    pub cache: Option<PathBuf>,
    /// The most that these may take, such as 50GiB: what is not in use is dropped above it, and fetched again when it is
    /// needed.
    #[arg(long, global = true, value_name = "SIZE", env = "TWOTOWER_CACHE_LIMIT", default_value = "100GiB")]
    pub cache_limit: String,
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
    /// Measure the model and simple baselines on the held-out interactions.
    Evaluate(evaluate::Opts),
    /// Write towers whose inputs are raw values, for programs that serve them without this one.
    Export(export::Opts),
    /// Show the metrics of several runs side by side, as a table and as a picture.
    Compare(compare::Opts),
    /// Show what a user had and gets, or what is near an item.
    Lookup(lookup::Opts),
    /// Write one page about a run, to look at in a browser.
    Report(report_page::Opts),
    /// Write the nearest items of every item.
    Similar(similar::Opts),
    /// All stages in order; what is complete and current is skipped.
    Run(run::Opts),
    /// Serve the published run over HTTP: lists of the night, unknown users, similar items.
    Serve(serve::Opts),
    /// Check that a run folder is complete, whole, and of one piece.
    Verify(verify::Opts),
    /// Show which parts of a run are done, at work, failed, lost or missing, and when they will be done.
    Watch(watch::Opts),
    /// Ask the gates about a run whose stages are all done, and point `latest` at it.
    Publish(publish::Opts),
    /// Point `latest` at an earlier run.
    Rollback(rollback::Opts),
    /// Write the lists of a run into Redis or PostgreSQL, and point its readers at them.
    ExportResults(export_results::Opts),
    /// List or prune the runs of a folder.
    Runs(runs::Opts),
    /// Write a commented pipeline.toml from the columns of given files.
    Init(init::Opts),
    /// Check this machine before the night, and say what to do.
    Doctor(doctor::Opts),
    /// Count what the tables hold, feature by feature, and what has changed since an earlier day.
    Profile(profile::Opts),
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
    /// Print the manual page.
    #[command(hide = true)]
    Man(man::Opts),
}

/// Runs the chosen subcommand.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    start_logging(&cli)?;
    start_threads()?;
    let limit = parse_size("--cache-limit", &cli.cache_limit)?;
    mirror::configure(|options| (options.cache, options.limit) = (cli.cache.clone(), limit));
    let quiet = cli.quiet;
    match cli.command {
        Command::EncodeFeatures(opts) => encode_features::run(opts, quiet),
        Command::Train(opts) => train::run(opts, quiet),
        Command::Infer(opts) => infer::run(opts, quiet),
        Command::Recall(opts) => recall::run(opts, quiet),
        Command::Evaluate(opts) => evaluate::run(opts, quiet),
        Command::Export(opts) => export::run(opts, quiet),
        Command::Compare(opts) => compare::run(opts),
        Command::Lookup(opts) => lookup::run(opts),
        Command::Report(opts) => report_page::run(opts, quiet),
        Command::Similar(opts) => similar::run(opts, quiet),
        Command::Run(opts) => run::run(opts, quiet),
        Command::Serve(opts) => serve::run(opts),
        Command::Verify(opts) => verify::run(opts),
        Command::Watch(opts) => watch::run(opts),
        Command::Publish(opts) => publish::run(opts, quiet),
        Command::Rollback(opts) => rollback::run(opts),
        Command::ExportResults(opts) => export_results::run(opts, quiet),
        Command::Runs(opts) => runs::run(opts),
        Command::Init(opts) => init::run(opts),
        Command::Doctor(opts) => doctor::run(opts),
        Command::Profile(opts) => profile::run(opts, quiet),
        Command::Vocab(opts) => vocab::run(opts),
        Command::Synth(opts) => synth::run(opts, quiet),
        Command::Demo(opts) => demo::run(opts, quiet),
        Command::Bench(opts) => bench::run(opts, quiet),
        Command::Completions(opts) => completions::run(opts),
        Command::Man(opts) => man::run(opts),
    }
}

fn start_logging(cli: &Cli) -> anyhow::Result<()> {
    let level = level(cli);
    let filter =
        EnvFilter::try_new(format!("{level},ort={}", if cli.quiet { "error" } else { "warn" })).map_err(|e| {
            PipelineError::usage(format!("--log-level {level}: {e}; expected off, error, warn, info, debug or trace"))
        })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let ansi = has_colours(std::io::IsTerminal::is_terminal(&std::io::stderr()), std::env::var_os("NO_COLOR"));
    match cli.log_format {
        LogFormat::Text => {
            let fields = debug_fn(|out, field, value| {
                let value = format!("{value:?}");
                match field.name() {
                    "message" => write!(out, "{}", escape(&value)),
                    name => write!(out, "{name}={}", escape_line(&value)),
                }
            });
            builder.with_ansi(ansi).fmt_fields(fields.delimited(" ")).with_writer(|| Log).init();
        }
        LogFormat::Json => builder.json().with_writer(|| JsonLog).init(),
    }
    Ok(())
}

/// The least severe level logged, or what else `--log-level` says: with `--quiet` no more than warnings.
fn level(cli: &Cli) -> &str {
    let less = ["error", "off"].iter().any(|level| cli.log_level.eq_ignore_ascii_case(level));
    if cli.quiet && !less { "warn" } else { &cli.log_level }
}

/// Whether the log has colours: on a terminal, unless `NO_COLOR` is set to anything (<https://no-color.org>).
fn has_colours(terminal: bool, no_color: Option<OsString>) -> bool {
    terminal && no_color.is_none_or(|value| value.is_empty())
}

/// What was typed, and whether the command is to answer in JSON.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Cli, bool), clap::Error> {
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let mut json = false;
    let mut at = Some(&matches);
    while let Some(of) = at {
        json |= matches!(of.try_get_one::<bool>("json"), Ok(Some(true)));
        at = of.subcommand().map(|(_, below)| below);
    }
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut Cli::command()))?;
    Ok((cli, json))
}

/// The documented exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(|e| e.downcast_ref::<PipelineError>()).map_or(1, PipelineError::exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use std::any::TypeId;

    /// Names of the subcommands on the way to a command, and the command.
    fn commands(of: &clap::Command, path: Vec<String>) -> Vec<(Vec<String>, clap::Command)> {
        let below = of.get_subcommands().flat_map(|sub| {
            let path = path.iter().cloned().chain([sub.get_name().to_string()]).collect();
            commands(sub, path)
        });
        below.chain([(path.clone(), of.clone())]).collect()
    }

    #[test]
    fn colours_are_for_terminals_whose_owner_wants_them() {
        let set = |value: &str| Some(OsString::from(value));
        assert!(has_colours(true, None) && has_colours(true, set("")));
        assert!(!has_colours(true, set("1")) && !has_colours(true, set("0")) && !has_colours(false, None));
    }

    #[test]
    fn quiet_logs_warnings_unless_less_is_wanted() {
        let told = |line: &str| {
            let (cli, _) = parse(line.split(' ').map(OsString::from)).unwrap();
            level(&cli).to_string()
        };
        for (flags, expected) in [
            ("--quiet", "warn"),
            ("--quiet --log-level debug", "warn"),
            ("--quiet --log-level error", "error"),
            ("--log-level off -q", "off"),
            ("--log-level debug", "debug"),
        ] {
            assert_eq!(told(&format!("twotower run {flags}")), expected, "{flags}");
        }
    }

    #[test]
    fn examples_of_help_fit_the_screen_so_that_no_command_is_broken_in_two() {
        let mut commands_shown = 0;
        for (path, command) in commands(&Cli::command(), Vec::new()) {
            let text = command.get_after_help().map_or(String::new(), ToString::to_string);
            let lines: Vec<&str> = text.lines().collect();
            for (at, line) in lines.iter().enumerate() {
                assert!(unicode_width::UnicodeWidthStr::width(*line) <= report::COLUMNS, "{path:?}: {line}");
                commands_shown += usize::from(line.trim_start().starts_with("twotower "));
                if line.ends_with('\\') {
                    assert!(lines[at + 1].starts_with("      "), "{path:?}: {line}");
                }
            }
        }
        assert!(commands_shown >= 50, "{commands_shown}");
    }

    #[test]
    fn every_command_says_whether_it_answers_in_json() {
        let json = |line: &str| parse(line.split(' ').map(OsString::from)).unwrap().1;
        assert!(
            json("twotower run --json") && json("twotower runs list --json") && json("twotower vocab --json show e")
        );
        assert!(!json("twotower run") && !json("twotower completions bash"));
    }

    #[test]
    fn every_number_on_the_command_line_has_a_range_that_is_named() {
        let unsigned =
            [TypeId::of::<u8>(), TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
        // Any seed is as good as another, and a code that does not exist is looked up and told.
        let whole = ["seed", "code"];
        let mut seen = 0;
        for (path, command) in commands(&Cli::command(), Vec::new()) {
            for argument in command.get_arguments().filter(|a| a.get_action().takes_values()) {
                let kind = argument.get_value_parser().type_id();
                let Some(name) = argument.get_long() else {
                    assert!(unsigned.iter().all(|number| kind != *number), "{path:?}: a number by its place");
                    continue;
                };
                // Signed numbers and floats override settings of the job, whose ranges are checked there.
                if unsigned.iter().all(|number| kind != *number) || whole.contains(&name) {
                    continue;
                }
                seen += 1;
                let line =
                    [vec!["twotower".to_string()], path.clone(), vec![format!("--{name}"), u32::MAX.to_string()]];
                let error = Cli::try_parse_from(line.concat()).unwrap_err();
                let text = error.to_string();
                assert_eq!(error.kind(), ErrorKind::ValueValidation, "{path:?} {text}");
                assert!(text.contains(&format!("--{name}")) && text.contains("is not in "), "{text}");
            }
        }
        assert!(seen >= 12, "{seen}");
    }
}
