//! twotower: batch two-tower recall. Parses arguments, runs one subcommand, prints its result or
//! one error, and exits with the documented code.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    twotower_pipeline::allocator::keep_batches();
    let arguments = match cli::Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Every error's text holds those below it, so the chain is not printed again.
            eprintln!("error: {error}");
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
