//! How results are printed.

use serde_json::{Value, json};
use std::io::Write;
use twotower_pipeline::stage::Outcome;

/// Writes a line to standard output. Use `say!`.
pub fn say(line: std::fmt::Arguments<'_>) {
    write_out(|out| writeln!(out, "{line}"));
}

/// Writes to standard output; a reader that has gone away (`| head`) ends the process quietly.
pub fn write_out(write: impl FnOnce(&mut std::io::StdoutLock<'static>) -> std::io::Result<()>) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            eprintln!("error: write to standard output: {error}");
        }
        std::process::exit(if error.kind() == std::io::ErrorKind::BrokenPipe { 0 } else { 1 });
    }
}

/// One stage's result as a JSON object.
pub fn outcome_json(stage: &str, outcome: &Outcome) -> Value {
    json!({
        "stage": stage,
        "skipped": outcome.skipped,
        "rows": outcome.manifest.rows,
        "seconds": outcome.manifest.seconds,
        "fingerprint": outcome.manifest.fingerprint,
        "warnings": outcome.manifest.warnings,
        "details": outcome.manifest.details,
    })
}

/// Prints one stage's result on standard output: JSON, or a line of rows and seconds.
pub fn print_outcome(stage: &str, outcome: &Outcome, as_json: bool) {
    if as_json {
        say!("{}", outcome_json(stage, outcome));
        return;
    }
    let rows: Vec<String> = outcome.manifest.rows.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let how =
        if outcome.skipped { "current, skipped".to_string() } else { format!("{:.1} s", outcome.manifest.seconds) };
    say!("{stage}: {} ({how})", rows.join(", "));
}

/// A table with right-aligned numbers.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r[c].chars().count()).chain([header[c].chars().count()]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<&str>| -> String {
        let cells: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, width))| if c == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
            .collect();
        cells.join("  ").trim_end().to_string()
    };
    let mut text = line(header.to_vec());
    for row in rows {
        text.push('\n');
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}
