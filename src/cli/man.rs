//! `twotower man`.

use clap::{Args, CommandFactory};
use std::path::PathBuf;
use twotower_pipeline::error::PipelineError;

/// Options of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower man | man -l -
  # a page for each command too, for `man twotower-run`
  twotower man --output ~/.local/share/man/man1")]
pub struct Opts {
    /// Write the pages of the program and of its commands to this folder, which must exist.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    let command = super::Cli::command();
    let Some(folder) = opts.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        super::report::write_out(|out| std::io::Write::write_all(out, &page));
        return Ok(());
    };
    clap_mangen::generate_to(command, &folder).map_err(PipelineError::io("write manual pages to", folder))?;
    Ok(())
}
