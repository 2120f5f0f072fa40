//! `twotower init`.

use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::init::{InitOptions, init};
use twotower_pipeline::watch::terminal::tell;

/// Options of `init`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower init --users users.parquet --items items.csv --interactions orders/ > pipeline.toml
  twotower init --users u.csv --items i.csv --interactions r.csv --output pipeline.toml
The guesses and their reasons go to standard error; check them.")]
pub struct Opts {
    /// File, folder or glob of users.
    #[arg(long, value_name = "PATH")]
    users: String,
    /// File, folder or glob of items.
    #[arg(long, value_name = "PATH")]
    items: String,
    /// File, folder or glob of interactions.
    #[arg(long, value_name = "PATH")]
    interactions: String,
    /// Write the job to this file, which must not exist yet, instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    // The job resolves paths against its own folder, so one written elsewhere needs whole paths.
    let elsewhere = opts.output.as_ref().and_then(|o| o.parent()).is_some_and(|p| !p.as_os_str().is_empty());
    let path = |typed: String| match std::path::absolute(&typed) {
        Ok(whole) if elsewhere => whole.to_string_lossy().into_owned(),
        _ => typed,
    };
    let options =
        InitOptions { users: path(opts.users), items: path(opts.items), interactions: path(opts.interactions) };
    let (text, guesses) = init(&options)?;
    for guess in &guesses {
        tell(&format!("{}: {}", guess.about, guess.reason));
    }
    match opts.output {
        // A job, not words: whoever wrote it has escaped what must be.
        None => super::report::write_out(|out| std::io::Write::write_all(out, text.as_bytes())),
        Some(path) if path.exists() => {
            return Err(twotower_pipeline::error::PipelineError::usage(format!(
                "{} exists already; remove it or write to another file",
                path.display()
            ))
            .into());
        }
        Some(path) => {
            twotower_artifacts::publish::publish_bytes(&path, text.as_bytes())
                .map_err(twotower_pipeline::error::PipelineError::from)?;
            tell(&format!("wrote {}", path.display()));
        }
    }
    Ok(())
}
