//! twotower: batch two-tower recall. Parses arguments, runs one subcommand, prints its result or
//! one error, and exits with the documented code.

// What people read goes through `say!` and `terminal`, which escape what came from data and outlive a full disk.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cli;

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
    let (arguments, json) = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return cli::report::usage(&error),
    };
    let json_log = arguments.log_format == cli::LogFormat::Json;
    let done = cli::run(arguments);
    let code = done.as_ref().map_or_else(cli::exit_code, |()| 0);
    if let Err(error) = &done {
        if json {
            cli::report::say_json_error(error, code);
        }
        cli::report::tell_failure(error, code, json_log);
    }
    ExitCode::from(cli::report::finish(code))
}
