//! `twotower report`.

use super::lookup::items_table;
use super::report::say_json;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::results::report::{Lang, Report};
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::lock::{Access, RunLock};
use twotower_pipeline::watch::terminal::tell;

/// Options of `report`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # one page about the published run
  twotower report runs/latest --output report.html
  # in Chinese, beside another run
  twotower report runs/b --compare runs/a --lang zh --output b.html
  # its figures as JSON, and no page
  twotower report runs/latest --json
The page needs no network and nothing beside it. It is read from manifests,
metrics and samples, so it takes no longer for more users. Nothing of the run
is changed.")]
pub struct Opts {
    /// The run's folder.
    #[arg(default_value = "run", env = "TWOTOWER_RUN", value_name = "RUN")]
    run: PathBuf,
    /// Another run to show beside it; without it the one that the gates compared it with.
    #[arg(long, value_name = "RUN")]
    compare: Option<PathBuf>,
    /// Where the page is written; report.html, unless --json is given.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Language of the page.
    #[arg(long, value_enum, default_value_t = PageLang::En)]
    lang: PageLang,
    /// The job's file, whose items table has the titles; without it a pipeline.toml here, or beside the run or its folder.
    #[arg(long, short, value_name = "FILE", env = "TWOTOWER_CONFIG")]
    config: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// A language of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PageLang {
    /// English.
    En,
    /// Chinese.
    Zh,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let run = RunDir::existing("report", &opts.run)?;
    let other = opts.compare.as_deref().map(|path| RunDir::existing("report", path)).transpose()?;
    let output = match (opts.output, opts.json) {
        (Some(path), _) => Some(path),
        (None, false) => Some(PathBuf::from("report.html")),
        (None, true) => None,
    };
    if let Some(path) = &output {
        let folder = std::path::absolute(path)?.parent().map(PathBuf::from).unwrap_or_default();
        let (folder, root) = (folder.canonicalize().unwrap_or(folder), run.root().canonicalize()?);
        if folder.starts_with(&root) {
            let message = format!("--output {}: it lies in the run, which holds nothing else", path.display());
            return Err(PipelineError::usage(format!("{message}; name a file elsewhere")).into());
        }
    }
    let items = items_table(opts.config.as_deref(), &run)?;
    let _still = RunLock::take(&run, Access::Shared)?;
    let _other = other.as_ref().map(|other| RunLock::take(other, Access::Shared)).transpose()?;
    let report = Report::read(&run, other.as_ref(), items)?;
    if let Some(path) = &output {
        let lang = match opts.lang {
            PageLang::En => Lang::En,
            PageLang::Zh => Lang::Zh,
        };
        let page = report.html(lang)?;
        twotower_artifacts::publish::publish_bytes(path, page.as_bytes()).map_err(PipelineError::from)?;
        if !quiet {
            tell(&format!("wrote {}", path.display()));
        }
    }
    if opts.json {
        say_json(&serde_json::to_value(&report)?);
    }
    Ok(())
}
