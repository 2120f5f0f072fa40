//! How results are printed.

use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use twotower_pipeline::stages::Outcome;
use twotower_pipeline::watch::terminal::{escape, escape_json, escape_line, lost, tell, tell_error};

/// Why standard output could not be written, once that has failed.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes a line to standard output, in which what steers a terminal is escaped. Use `say!`.
pub fn say(line: std::fmt::Arguments<'_>) {
    let line = line.to_string();
    write_out(|out| writeln!(out, "{}", escape(&line)));
}

/// Writes lines to standard output.
pub fn say_lines(lines: Vec<String>) {
    lines.iter().for_each(|line| say(format_args!("{line}")));
}

/// Writes a value to standard output, as JSON on a line.
pub fn say_json(value: &Value) {
    let line = value.to_string();
    write_out(|out| writeln!(out, "{}", escape_json(&line)));
}

/// Writes to standard output. A write that fails ends nothing, since the work is worth more than its report: it is
/// remembered for [`finish`], and what comes after it is left out.
pub fn write_out(write: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        let mut out = io::stdout().lock();
        *failed = write(&mut out).and_then(|()| out.flush()).err();
    }
}

/// The exit code of a command that ended with `code`: 1 where that was 0, but standard output could not be written.
/// A reader that has gone away (`| head`) has seen all that it wanted.
pub fn finish(code: u8) -> u8 {
    match FAILED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let done = if code == 0 { "; what the command had to do is done" } else { "" };
            tell_error(&format!("write to standard output: {error}{done}"));
            code.max(1)
        }
        _ => code,
    }
}

/// Prints what clap has to say, and returns the exit code: help on standard output, errors on standard error.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        write_out(|_| error.print());
        return ExitCode::from(finish(0));
    }
    // What was typed stands in it, and may be a path that a shell found.
    let text = error.render().to_string();
    for line in text.lines() {
        tell(line);
    }
    ExitCode::from(2)
}

/// The most memory that this process has held since it began, or since this was asked last, in MiB.
pub fn take_peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    // Where the kernel does not let it be reset, the next stage reports the larger of both.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    Some((kib / 1024.0).round())
}

/// One stage's result as a JSON object, with the most memory it held.
pub fn outcome_json(stage: &str, outcome: &Outcome, peak_rss_mib: Option<f64>) -> Value {
    let mut object = json!({
        "stage": stage,
        "shard": outcome.part().map(|shard| shard.to_string()),
        "skipped": outcome.skipped,
        "rows": outcome.manifest.rows,
        "seconds": outcome.manifest.seconds,
        "peak_rss_mib": peak_rss_mib,
        "fingerprint": outcome.manifest.fingerprint,
        "warnings": outcome.manifest.warnings,
        "details": outcome.manifest.details,
    });
    if lost() > 0 {
        object["log_lines_lost"] = lost().into();
    }
    object
}

/// Prints one stage's result on standard output: JSON, or a line of rows and seconds.
pub fn print_outcome(stage: &str, outcome: &Outcome, as_json: bool) {
    if as_json {
        return say_json(&outcome_json(stage, outcome, take_peak_rss_mib()));
    }
    let rows: Vec<String> = outcome.manifest.rows.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let how =
        if outcome.skipped { "current, skipped".to_string() } else { format!("{:.1} s", outcome.manifest.seconds) };
    let stage = outcome.part().map_or(stage.to_string(), |shard| format!("{stage} {shard}"));
    let peak = take_peak_rss_mib().map_or(String::new(), |mib| format!(", at most {mib} MiB"));
    let log = match lost() {
        0 => String::new(),
        lines => format!(", {lines} lines of the log could not be written"),
    };
    say!("{stage}: {} ({how}{peak}{log})", rows.join(", "));
}

/// The lines of a table with right-aligned numbers.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    // Escaped before they are measured, and each within its line.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escape_line(cell).into_owned()).collect()).collect();
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
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(header.to_vec())).chain(rows).collect()
}

/// A time in seconds since 1970 as `2026-01-31 03:12`, in UTC.
pub fn utc(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Days from civil, reversed (Howard Hinnant): eras of 400 years that begin on 1 March.
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march / 146_097, from_march % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month < 3);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_told_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_709_251_199, "2024-02-29 23:59"),
            (1_767_225_600, "2026-01-01 00:00"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
