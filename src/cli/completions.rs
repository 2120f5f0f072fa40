//! `twotower completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Options of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  twotower completions bash \\
      > ~/.local/share/bash-completion/completions/twotower")]
pub struct Opts {
    /// The shell.
    shell: Shell,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(opts.shell, &mut super::Cli::command(), "twotower", &mut script);
    super::report::write_out(|out| std::io::Write::write_all(out, &script));
    Ok(())
}
