//! twotower: batch two-tower recall. Parses arguments, runs one subcommand, prints its result or
//! one error, and exits with the documented code.

// What people read goes through `say!` and `terminal`, which escape what came from data and outlive a full disk.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cli;

use clap::Parser;
use std::process::ExitCode;
use twotower_pipeline::watch::{cancel, terminal};

fn main() -> ExitCode {
    twotower_pipeline::watch::allocator::keep_batches();
    terminal::escape_panics();
    // Before anything is written: a file that may not grow any more is an error, and not the end.
    if let Err(error) = cancel::outlive_file_limits() {
        terminal::tell_error(&error);
        return ExitCode::from(error.exit_code());
    }
    let arguments = match cli::Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return cli::report::usage(&error),
    };
    let done = cli::run(arguments);
    if let Err(error) = &done {
        // Every error's text holds those below it, so the chain is not printed again.
        terminal::tell_error(error);
    }
    let code = done.map_or_else(|error| cli::exit_code(&error), |()| 0);
    ExitCode::from(cli::report::finish(code))
}
